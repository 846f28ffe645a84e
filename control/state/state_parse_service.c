/* SPDX-License-Identifier: Apache-2.0 */
/* Commands about services and backends taken apart. */
#include <stdio.h>

#include "state_internal.h"

static int fail(char *err, size_t err_len, const char *text)
{
    snprintf(err, err_len, "%s", text);
    return -EINVAL;
}

static int parse_set(struct wire_reader *r, struct state_cmd *out, char *err, size_t err_len)
{
    out->revision = wire_get_u64(r);
    struct wire_reader at = *r;
    svc_get(r, &out->svc);
    wire_get_u8(&at); /* the version stands before the name */
    out->service.data = (const char *)wire_get_bytes(&at, &out->service.len);
    if (r->failed || !svc_name_valid(out->svc.name, strlen(out->svc.name)))
        return fail(err, err_len, "the service's fields are not valid");
    out->origin = out->svc.origin;
    return 0;
}

/* Reads one element of the list and says what its name is. */
static struct state_text item_name(struct wire_reader *r, bool fields)
{
    struct state_text name;
    struct wire_reader start = *r;
    name.data = (const char *)wire_get_bytes(r, &name.len);
    if (fields) {
        struct svc_backend b;
        *r = start;
        svc_backend_get(r, &b);
        wire_get_u8(&start); /* the version stands before the name */
        name.data = (const char *)wire_get_bytes(&start, &name.len);
    }
    return name;
}

static int compare(struct state_text a, struct state_text b)
{
    size_t len = a.len < b.len ? a.len : b.len;
    int order = len ? memcmp(a.data, b.data, len) : 0;
    return order ? order : (a.len > b.len) - (a.len < b.len);
}

static int parse_items(struct wire_reader *r, struct state_cmd *out, char *err, size_t err_len)
{
    struct state_text before = {"", 0};
    out->backends_count = wire_get_u32(r);
    out->backends = *r;
    if (out->backends_count == 0 || out->backends_count > SVC_BACKENDS_MAX)
        return fail(err, err_len, "a command is about 1 to 4096 backends");
    for (uint32_t i = 0; i < out->backends_count; i++) {
        struct state_text name = item_name(r, out->head.type == CMD_BACKEND_SET);
        if (r->failed || !svc_name_valid(name.data, name.len))
            return fail(err, err_len, "a backend's fields are not valid");
        if (compare(before, name) >= 0)
            return fail(err, err_len, "the backends are not in order, or one is named twice");
        before = name;
    }
    return 0;
}

int state_parse_service(struct wire_reader *r, struct state_cmd *out, char *err, size_t err_len)
{
    uint16_t type = out->head.type;
    if (type == CMD_SERVICE_SET)
        return parse_set(r, out, err, err_len);
    out->service.data = (const char *)wire_get_bytes(r, &out->service.len);
    if (r->failed || !svc_name_valid(out->service.data, out->service.len))
        return fail(err, err_len, "the service's name is not valid");
    if (type == CMD_BACKEND_SET)
        out->revision = wire_get_u64(r);
    if (type == CMD_BACKEND_ADMIN)
        out->admin = wire_get_u8(r);
    if (type == CMD_SERVICE_RM || type == CMD_BACKEND_RM)
        out->origin = wire_get_u8(r);
    if (out->origin > SVC_FROM_FILE ||
        (type == CMD_BACKEND_ADMIN && out->admin != SVC_ACTIVE && out->admin != SVC_DRAIN))
        return fail(err, err_len, "a number is out of its range");
    return type == CMD_SERVICE_RM ? 0 : parse_items(r, out, err, err_len);
}
