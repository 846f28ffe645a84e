/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of services and backends, their ids, and the table of all. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "state_service.h"

enum { ADDRESS_BYTES = 18, COUNTS_VERSION = 1 };

static const char service_free[] = "service-free:", backend_free[] = "backend-free:";

static void key_add(struct state_key *key, const void *data, size_t len)
{
    CHECK(len <= sizeof(key->data) - key->len);
    memcpy(key->data + key->len, data, len);
    key->len += len;
}

static struct state_key key_begin(const char *prefix)
{
    struct state_key key = {.len = 0};
    key_add(&key, prefix, strlen(prefix));
    return key;
}

static void key_add_address(struct state_key *key, const struct svc_address *a)
{
    const uint8_t port[2] = {(uint8_t)(a->port >> 8), (uint8_t)a->port};
    key_add(key, a->ip, sizeof(a->ip));
    key_add(key, port, sizeof(port));
}

static struct state_key key_id(const char *prefix, uint32_t id)
{
    const uint8_t bytes[4] = {(uint8_t)(id >> 24), (uint8_t)(id >> 16), (uint8_t)(id >> 8), (uint8_t)id};
    struct state_key key = key_begin(prefix);
    key_add(&key, bytes, sizeof(bytes));
    return key;
}

struct state_key state_key_service(const char *name)
{
    struct state_key key = key_begin("service:");
    key_add(&key, name, strlen(name));
    return key;
}

struct state_key state_key_service_at(const struct svc_address *a)
{
    struct state_key key = key_begin("service-at:");
    key_add_address(&key, a);
    return key;
}

struct state_key state_key_service_name(const struct svc_address *a, const char *name)
{
    struct state_key key = key_begin("service-name:");
    key_add_address(&key, a);
    key_add(&key, name, strlen(name));
    return key;
}

struct state_key state_key_backend(const char *service, const char *name)
{
    struct state_key key = key_begin("backend:");
    key_add(&key, service, strlen(service) + 1);
    key_add(&key, name, strlen(name));
    return key;
}

struct state_key state_key_backend_at(const char *service, const struct svc_address *a)
{
    struct state_key key = key_begin("backend-at:");
    key_add(&key, service, strlen(service) + 1);
    key_add_address(&key, a);
    return key;
}

int state_refuse_format(struct state_event *out, enum cmd_status status, const char *format, ...)
{
    char text[SVC_ERROR_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    return state_refuse_text(out, status, text);
}

int state_counts_get(struct kv *kv, struct state_counts *out)
{
    struct state_key key = key_begin("service-counts");
    struct kv_bytes value;
    int rc = kv_get(kv, PRIVATE_DATA, state_key_bytes(&key), &value);
    *out = (struct state_counts){.next_service = 1};
    if (rc)
        return rc == -ENOENT ? 0 : rc;
    struct wire_reader r = {.buf = value.data, .len = value.len};
    uint8_t version = wire_get_u8(&r);
    out->next_service = wire_get_u32(&r);
    out->next_backend = wire_get_u32(&r);
    out->services = wire_get_u32(&r);
    out->backends = wire_get_u32(&r);
    return version == COUNTS_VERSION && wire_at_end(&r) ? 0 : -EUCLEAN;
}

int state_counts_put(struct kv *kv, const struct state_counts *counts)
{
    struct state_key key = key_begin("service-counts");
    uint8_t row[32];
    struct wire_writer w = {.buf = row, .cap = sizeof(row)};
    wire_put_u8(&w, COUNTS_VERSION);
    wire_put_u32(&w, counts->next_service);
    wire_put_u32(&w, counts->next_backend);
    wire_put_u32(&w, counts->services);
    wire_put_u32(&w, counts->backends);
    return state_row_put(kv, PRIVATE_DATA, &key, row, w.len);
}

static int decode_service(struct kv_bytes value, struct svc *out)
{
    struct wire_reader r = {.buf = value.data, .len = value.len};
    svc_row_get(&r, out);
    return wire_at_end(&r) ? 0 : -EUCLEAN;
}

static int decode_backend(struct kv_bytes value, struct svc_backend *out)
{
    struct wire_reader r = {.buf = value.data, .len = value.len};
    svc_backend_row_get(&r, out);
    return wire_at_end(&r) ? 0 : -EUCLEAN;
}

int state_service_get(struct kv *kv, const char *name, struct svc *out)
{
    struct state_key key = state_key_service(name);
    struct kv_bytes value;
    int rc = kv_get(kv, PRIVATE_DATA, state_key_bytes(&key), &value);
    return rc ? rc : decode_service(value, out);
}

int state_service_put(struct kv *kv, const struct svc *s)
{
    struct state_key key = state_key_service(s->name);
    uint8_t row[SVC_ROW_BYTES_MAX];
    struct wire_writer w = {.buf = row, .cap = sizeof(row)};
    svc_row_put(&w, s);
    CHECK(!w.failed);
    return state_row_put(kv, PRIVATE_DATA, &key, row, w.len);
}

int state_backend_get(struct kv *kv, const char *service, const char *name, struct svc_backend *out)
{
    struct state_key key = state_key_backend(service, name);
    struct kv_bytes value;
    int rc = kv_get(kv, PRIVATE_DATA, state_key_bytes(&key), &value);
    return rc ? rc : decode_backend(value, out);
}

int state_backend_put(struct kv *kv, const char *service, const struct svc_backend *b)
{
    struct state_key key = state_key_backend(service, b->name);
    uint8_t row[SVC_ROW_BYTES_MAX];
    struct wire_writer w = {.buf = row, .cap = sizeof(row)};
    svc_backend_row_put(&w, b);
    CHECK(!w.failed);
    return state_row_put(kv, PRIVATE_DATA, &key, row, w.len);
}

int state_backend_next(struct kv *kv, const char *service, const char *name, struct svc_backend *out)
{
    struct state_key key = state_key_backend(service, name), first = state_key_backend(service, "");
    struct kv_bytes found, value;
    int rc = kv_seek(kv, PRIVATE_DATA, state_key_bytes(&key), true, &found, &value);
    if (rc)
        return rc;
    if (found.len <= first.len || memcmp(found.data, first.data, first.len) != 0)
        return -ENOENT;
    return decode_backend(value, out);
}

/* Takes the lowest row of those with the prefix, and its value's 16 bits if it has them. -ENOENT: none. */
static int free_take(struct kv *kv, const char *prefix, uint32_t *id, uint16_t *generation)
{
    struct state_key from = key_begin(prefix), key;
    struct kv_bytes found, value;
    int rc = kv_seek(kv, PRIVATE_DATA, state_key_bytes(&from), true, &found, &value);
    if (rc)
        return rc;
    if (found.len <= from.len || memcmp(found.data, from.data, from.len) != 0)
        return -ENOENT;
    if (found.len != from.len + 4)
        return -EUCLEAN;
    const uint8_t *b = (const uint8_t *)found.data + from.len, *v = value.data;
    *id = (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
    *generation = value.len == 2 ? (uint16_t)(v[0] | v[1] << 8) : 0;
    memcpy(key.data, found.data, found.len);
    key.len = found.len;
    return kv_del(kv, PRIVATE_DATA, state_key_bytes(&key));
}

int state_service_id_take(struct kv *kv, struct state_counts *counts, uint32_t *id)
{
    uint16_t generation;
    int rc = free_take(kv, service_free, id, &generation);
    if (rc == -ENOENT && counts->next_service > SVC_SERVICES_MAX)
        return -ENOSPC;
    if (rc == -ENOENT)
        *id = counts->next_service++;
    else if (rc)
        return rc;
    counts->services++;
    return 0;
}

int state_service_id_give(struct kv *kv, struct state_counts *counts, uint32_t id)
{
    struct state_key key = key_id(service_free, id);
    if (counts->services == 0)
        return -EUCLEAN;
    counts->services--;
    return state_row_put(kv, PRIVATE_DATA, &key, "", 0);
}

uint16_t state_generation_next(uint16_t generation)
{
    return generation == UINT16_MAX ? 1 : (uint16_t)(generation + 1);
}

int state_backend_id_take(struct kv *kv, struct state_counts *counts, uint32_t *id, uint16_t *generation)
{
    uint16_t last = 0;
    int rc = free_take(kv, backend_free, id, &last);
    if (rc == -ENOENT && counts->next_backend >= SVC_BACKENDS_ALL_MAX)
        return -ENOSPC;
    if (rc == -ENOENT)
        *id = counts->next_backend++;
    else if (rc)
        return rc;
    *generation = state_generation_next(last);
    counts->backends++;
    return 0;
}

int state_backend_id_give(struct kv *kv, struct state_counts *counts, uint32_t id, uint16_t generation)
{
    const uint8_t value[2] = {(uint8_t)generation, (uint8_t)(generation >> 8)};
    struct state_key key = key_id(backend_free, id);
    if (counts->backends == 0)
        return -EUCLEAN;
    counts->backends--;
    return state_row_put(kv, PRIVATE_DATA, &key, value, sizeof(value));
}

int state_backend_drop(struct kv *kv, const char *service, const struct svc_backend *b,
                       struct state_counts *counts)
{
    struct state_key key = state_key_backend(service, b->name),
                     at = state_key_backend_at(service, &b->address);
    int rc = kv_del(kv, PRIVATE_DATA, state_key_bytes(&key));
    if (rc == 0)
        rc = kv_del(kv, PRIVATE_DATA, state_key_bytes(&at));
    return rc ? rc : state_backend_id_give(kv, counts, b->id, b->generation);
}

/* The walk of the table. */

static int read_backends(struct kv *kv, struct svc *s, struct svc_table *out)
{
    char name[SVC_NAME_MAX + 1] = "";
    int rc;
    s->first_backend = out->backend_count;
    for (uint32_t i = 0; i < s->backends; i++) {
        struct svc_backend *b = &out->backend[out->backend_count];
        rc = state_backend_next(kv, s->name, name, b);
        if (rc)
            return rc == -ENOENT ? -EUCLEAN : rc;
        memcpy(name, b->name, sizeof(name));
        out->backend_count++;
    }
    return 0;
}

static int read_services(struct kv *kv, const struct state_counts *counts, struct svc_table *out)
{
    struct state_key at = key_begin("service:");
    const size_t prefix = at.len;
    while (out->count < counts->services) {
        struct kv_bytes key, value;
        struct svc *s = &out->service[out->count];
        int rc = kv_seek(kv, PRIVATE_DATA, state_key_bytes(&at), true, &key, &value);
        if (rc)
            return rc == -ENOENT ? -EUCLEAN : rc;
        if (key.len <= prefix || key.len > sizeof(at.data) || memcmp(key.data, at.data, prefix) != 0)
            return -EUCLEAN;
        memcpy(at.data, key.data, key.len);
        at.len = key.len;
        rc = decode_service(value, s);
        if (rc == 0 && s->backends > counts->backends - out->backend_count)
            rc = -EUCLEAN;
        if (rc == 0)
            rc = read_backends(kv, s, out);
        if (rc)
            return rc;
        out->count++;
    }
    return 0;
}

int state_services_read(struct kv *kv, struct svc_table *out)
{
    struct state_counts counts;
    memset(out, 0, sizeof(*out));
    int rc = state_counts_get(kv, &counts);
    if (rc)
        return rc;
    if (counts.services > SVC_SERVICES_MAX || counts.backends > SVC_BACKENDS_ALL_MAX)
        return -EUCLEAN;
    out->service = calloc(counts.services + 1, sizeof(*out->service));
    out->backend = calloc(counts.backends + 1, sizeof(*out->backend));
    CHECK(out->service && out->backend);
    rc = read_services(kv, &counts, out);
    if (rc)
        svc_table_fini(out);
    return rc;
}
