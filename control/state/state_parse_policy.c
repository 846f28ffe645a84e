/* SPDX-License-Identifier: Apache-2.0 */
/* Commands about policies and webhooks taken apart. */
#include <stdio.h>

#include "control/state/codec.h"
#include "state_policy.h"

static int fail(char *err, size_t err_len, const char *text)
{
    snprintf(err, err_len, "%s", text);
    return -EINVAL;
}

static struct state_text get_text(struct wire_reader *r)
{
    struct state_text text;
    text.data = (const char *)wire_get_bytes(r, &text.len);
    return text;
}

static bool prefix_valid(struct state_text text)
{
    return text.len == 0 || state_repo_name_valid(text.data, text.len);
}

static int parse_policy_set(struct wire_reader *r, struct state_cmd *out, char *err, size_t err_len)
{
    struct policy p;
    out->revision = wire_get_u64(r);
    out->prefixes_count = wire_get_u32(r);
    out->prefixes = *r;
    if (out->prefixes_count > POLICIES_MAX)
        return fail(err, err_len, "too many policies at once");
    for (uint32_t i = 0; i < out->prefixes_count && !r->failed; i++)
        if (!prefix_valid(get_text(r)))
            return fail(err, err_len, "prefix of a policy is not valid");
    out->policies_count = wire_get_u32(r);
    out->policies = *r;
    if (out->policies_count > POLICIES_MAX)
        return fail(err, err_len, "too many policies at once");
    for (uint32_t i = 0; i < out->policies_count && !r->failed; i++)
        policy_get(r, &p);
    out->origin = POLICY_FROM_API;
    if (!r->failed && !wire_at_end(r))
        out->origin = (uint8_t)codec_get_range(r, 1, POLICY_FROM_FILE, POLICY_FROM_FILE);
    return r->failed ? fail(err, err_len, "policy is not valid") : 0;
}

static int parse_tags_expire(struct wire_reader *r, struct state_cmd *out, char *err, size_t err_len)
{
    struct digest d;
    out->repo = get_text(r);
    out->keep_last = wire_get_u64(r);
    out->keep_for_s = wire_get_u64(r);
    out->expired_count = wire_get_u32(r);
    out->expired = *r;
    if (r->failed || !state_repo_name_valid(out->repo.data, out->repo.len))
        return fail(err, err_len, "repository name is not valid");
    if (out->expired_count > MANIFEST_TAGS_MAX)
        return fail(err, err_len, "too many tags at a time");
    for (uint32_t i = 0; i < out->expired_count && !r->failed; i++) {
        struct state_text tag = get_text(r);
        cmd_get_digest(r, &d);
        wire_get_u64(r);
        if (!r->failed && !state_tag_valid(tag.data, tag.len))
            return fail(err, err_len, "tag is not valid");
    }
    return 0;
}

static int parse_endpoint_name(struct wire_reader *r, struct state_cmd *out, char *err, size_t err_len)
{
    out->service = get_text(r);
    if (!r->failed && !endpoint_name_valid(out->service.data, out->service.len))
        return fail(err, err_len, "name of the endpoint is not valid");
    return 0;
}

/* The endpoint's bytes stay where they are: it has secrets, which are copied only where they are kept. */
static int parse_notify_set(struct wire_reader *r, struct state_cmd *out, char *err, size_t err_len)
{
    struct endpoint e;
    out->endpoint = *r;
    endpoint_get(r, &e);
    struct wire_reader again = out->endpoint;
    wire_get_u8(&again);
    out->service = get_text(&again);
    int rc = r->failed ? fail(err, err_len, "endpoint is not valid") : endpoint_check(&e, err, err_len);
    out->endpoint_is_new = endpoint_is_new(&e);
    endpoint_fini(&e);
    return rc;
}

int state_parse_policy(struct wire_reader *r, struct state_cmd *out, char *err, size_t err_len)
{
    int rc;
    switch (out->head.type) {
    case CMD_POLICY_SET:
        return parse_policy_set(r, out, err, err_len);
    case CMD_POLICY_RM:
        out->repo = get_text(r);
        return prefix_valid(out->repo) ? 0 : fail(err, err_len, "prefix of a policy is not valid");
    case CMD_TAGS_EXPIRE:
        return parse_tags_expire(r, out, err, err_len);
    case CMD_NOTIFY_CURSOR:
        rc = parse_endpoint_name(r, out, err, err_len);
        out->notice_index = wire_get_u64(r);
        out->notice_number = wire_get_u32(r);
        return rc;
    case CMD_NOTIFY_SET:
        return parse_notify_set(r, out, err, err_len);
    case CMD_NOTIFY_RM:
        return parse_endpoint_name(r, out, err, err_len);
    default:
        IMPOSSIBLE("type of a command about policies");
    }
}
