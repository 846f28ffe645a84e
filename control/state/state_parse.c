/* SPDX-License-Identifier: Apache-2.0 */
/* Commands taken apart: what can be said of one without looking at the state. */
#include <stdarg.h>
#include <stdio.h>

#include "state_internal.h"

enum { HEAD_FIXED_BYTES = 8 /* magic, version, type */ };

struct parse {
    struct wire_reader r;
    struct state_cmd *out;
    char *err;
    size_t err_len;
};

static bool is_alnum_lower(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

/* Length of the separator at p: ".", "_", "__" or any number of "-"; 0 if there is none. */
static size_t separator_len(const char *p, size_t len)
{
    size_t n = 0;
    if (len && p[0] == '.')
        return 1;
    if (len && p[0] == '_')
        return len > 1 && p[1] == '_' ? 2 : 1;
    while (n < len && p[n] == '-')
        n++;
    return n;
}

/* Every separator and every slash stands between two runs of [a-z0-9]: one loop reads both kinds. */
bool state_repo_name_valid(const char *name, size_t len)
{
    size_t pos = 0;
    if (len == 0 || len > REPO_NAME_MAX)
        return false;
    for (;;) {
        size_t start = pos;
        while (pos < len && is_alnum_lower(name[pos]))
            pos++;
        if (pos == start)
            return false;
        if (pos == len)
            return true;
        size_t gap = name[pos] == '/' ? 1 : separator_len(name + pos, len - pos);
        if (gap == 0)
            return false;
        pos += gap;
    }
}

static bool is_word(char c)
{
    return is_alnum_lower(c) || (c >= 'A' && c <= 'Z') || c == '_';
}

bool state_tag_valid(const char *tag, size_t len)
{
    if (len == 0 || len > TAG_NAME_MAX || !is_word(tag[0]))
        return false;
    for (size_t i = 1; i < len; i++)
        if (!is_word(tag[i]) && tag[i] != '.' && tag[i] != '-')
            return false;
    return true;
}

static bool setting_key_valid(const char *key, size_t len)
{
    if (len == 0 || len > STATE_SETTING_KEY_MAX)
        return false;
    for (size_t i = 0; i < len; i++)
        if (!is_alnum_lower(key[i]) && key[i] != '.' && key[i] != '_' && key[i] != '-')
            return false;
    return true;
}

__attribute__((format(printf, 3, 4))) static int fail(struct parse *p, int error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(p->err, p->err_len, format, args);
    va_end(args);
    return error;
}

static struct state_text get_text(struct parse *p)
{
    struct state_text text;
    text.data = (const char *)wire_get_bytes(&p->r, &text.len);
    return text;
}

static int get_repo(struct parse *p)
{
    p->out->repo = get_text(p);
    if (!p->r.failed && !state_repo_name_valid(p->out->repo.data, p->out->repo.len))
        return fail(p, -EINVAL, "repository name is not valid");
    return 0;
}

static int get_digest(struct parse *p, struct digest *d)
{
    cmd_get_digest(&p->r, d);
    return p->r.failed ? fail(p, -EINVAL, "digest is not valid") : 0;
}

static int get_tag(struct parse *p, uint32_t at)
{
    p->out->tags[at] = get_text(p);
    p->out->tags_count = at + 1;
    if (!p->r.failed && !state_tag_valid(p->out->tags[at].data, p->out->tags[at].len))
        return fail(p, -EINVAL, "tag is not valid");
    return 0;
}

static int parse_repo_digest(struct parse *p)
{
    int rc = get_repo(p);
    return rc ? rc : get_digest(p, &p->out->digest);
}

static int get_holders(struct parse *p, struct cmd_holders *h)
{
    bool before = p->r.failed;
    cmd_get_holders(&p->r, h);
    return !before && p->r.failed ? fail(p, -EINVAL, "list of holders is not valid") : 0;
}

/* They stand at the end of commands that older versions make without them. */
static int get_holders_at_end(struct parse *p)
{
    if (wire_at_end(&p->r))
        return 0;
    int rc = get_holders(p, &p->out->holders);
    return rc || p->out->holders.count ? rc : fail(p, -EINVAL, "list of holders is empty");
}

static int parse_blob_link(struct parse *p)
{
    int rc = parse_repo_digest(p);
    p->out->size = wire_get_u64(&p->r);
    return rc || p->r.failed ? rc : get_holders_at_end(p);
}

static int parse_blob_copies(struct parse *p)
{
    int rc = get_digest(p, &p->out->digest);
    if (rc == 0)
        rc = get_holders(p, &p->out->holders);
    if (rc == 0)
        rc = get_holders(p, &p->out->lost);
    if (rc || p->r.failed || wire_at_end(&p->r))
        return rc;
    return get_holders(p, &p->out->needed);
}

static int parse_blob_mount(struct parse *p)
{
    int rc = parse_repo_digest(p);
    p->out->from = get_text(p);
    if (rc == 0 && p->out->from.len && !state_repo_name_valid(p->out->from.data, p->out->from.len))
        return fail(p, -EINVAL, "name of the repository to mount from is not valid");
    return rc;
}

struct state_ref state_ref_next(struct wire_reader *refs)
{
    struct state_ref ref;
    ref.kind = wire_get_u8(refs);
    cmd_get_digest(refs, &ref.digest);
    ref.size = wire_get_u64(refs);
    return ref;
}

static int parse_refs(struct parse *p)
{
    struct state_manifest *m = &p->out->manifest;
    m->refs_count = wire_get_u32(&p->r);
    m->refs = p->r;
    if (m->refs_count > MANIFEST_REFS_MAX)
        return fail(p, -E2BIG, "a manifest may name at most %d others", MANIFEST_REFS_MAX);
    for (uint32_t i = 0; i < m->refs_count && !p->r.failed; i++) {
        struct state_ref ref = state_ref_next(&p->r);
        if (ref.kind != CMD_REF_BLOB && ref.kind != CMD_REF_MANIFEST)
            return fail(p, -EINVAL, "reference %u is of an unknown kind", i);
    }
    return 0;
}

static int parse_tags(struct parse *p)
{
    uint32_t count = wire_get_u32(&p->r);
    int rc = 0;
    if (count > MANIFEST_TAGS_MAX)
        return fail(p, -E2BIG, "at most %d tags at a time", MANIFEST_TAGS_MAX);
    for (uint32_t i = 0; i < count && !p->r.failed && rc == 0; i++)
        rc = get_tag(p, i);
    return rc;
}

/* The size and the types of a manifest, and the two fields that go with a subject. */
static int parse_manifest_fields(struct parse *p)
{
    struct state_manifest *m = &p->out->manifest;
    p->out->size = wire_get_u64(&p->r);
    m->media_type = get_text(p);
    m->artifact_type = get_text(p);
    uint8_t has_subject = wire_get_u8(&p->r);
    m->has_subject = has_subject == 1;
    if (m->has_subject)
        cmd_get_digest(&p->r, &m->subject);
    m->descriptor = get_text(p);
    m->refs_wanted = wire_get_u8(&p->r);
    if (p->r.failed)
        return fail(p, -EINVAL, "command is cut short");
    if (p->out->size > MANIFEST_BYTES_CEILING)
        return fail(p, -E2BIG, "manifest is larger than %d bytes", MANIFEST_BYTES_CEILING);
    if (m->media_type.len > MEDIA_TYPE_MAX || m->artifact_type.len > MEDIA_TYPE_MAX)
        return fail(p, -E2BIG, "media type is longer than %d bytes", MEDIA_TYPE_MAX);
    if (has_subject > 1 || m->refs_wanted >= CMD_REFS_COUNT)
        return fail(p, -EINVAL, "flag is neither 0 nor 1");
    if (m->has_subject != (m->descriptor.len > 0))
        return fail(p, -EINVAL, "a subject needs a descriptor, and only it has one");
    return 0;
}

static int parse_manifest_put(struct parse *p)
{
    int rc = parse_repo_digest(p);
    if (rc == 0)
        rc = parse_manifest_fields(p);
    if (rc == 0)
        rc = parse_refs(p);
    if (rc == 0)
        rc = parse_tags(p);
    return rc || p->r.failed ? rc : get_holders_at_end(p);
}

static int parse_tag_delete(struct parse *p)
{
    int rc = get_repo(p);
    return rc ? rc : get_tag(p, 0);
}

static int parse_setting(struct parse *p)
{
    p->out->key = get_text(p);
    if (!p->r.failed && !setting_key_valid(p->out->key.data, p->out->key.len))
        return fail(p, -EINVAL, "name of the setting is not valid");
    return 0;
}

static int parse_setting_set(struct parse *p)
{
    int rc = parse_setting(p);
    p->out->value = get_text(p);
    if (rc == 0 && p->out->value.len > STATE_SETTING_VALUE_MAX)
        return fail(p, -E2BIG, "value is longer than %d bytes", STATE_SETTING_VALUE_MAX);
    return rc;
}

static int parse_service(struct parse *p)
{
    return state_parse_service(&p->r, p->out, p->err, p->err_len);
}

static int parse_node(struct parse *p)
{
    return state_parse_node(&p->r, p->out, p->err, p->err_len);
}

static int parse_policy(struct parse *p)
{
    return state_parse_policy(&p->r, p->out, p->err, p->err_len);
}

static int parse_gc(struct parse *p)
{
    return state_parse_gc(&p->r, p->out, p->err, p->err_len);
}

static int parse_mirror(struct parse *p)
{
    return state_parse_mirror(&p->r, p->out, p->err, p->err_len);
}

static int parse_source(struct parse *p)
{
    return state_parse_source(&p->r, p->out, p->err, p->err_len);
}

static int parse_transaction(struct parse *p)
{
    if (p->r.len > STATE_TRANSACTION_BYTES_MAX)
        return fail(p, -E2BIG, "a transaction has at most %d bytes", STATE_TRANSACTION_BYTES_MAX);
    return state_parse_transaction(&p->r, p->out, p->err, p->err_len);
}

static int (*const parse_body[CMD_TYPE_COUNT])(struct parse *p) = {
    [CMD_BLOB_LINK] = parse_blob_link,
    [CMD_BLOB_MOUNT] = parse_blob_mount,
    [CMD_BLOB_UNLINK] = parse_repo_digest,
    [CMD_MANIFEST_PUT] = parse_manifest_put,
    [CMD_MANIFEST_DELETE] = parse_repo_digest,
    [CMD_TAG_DELETE] = parse_tag_delete,
    [CMD_REPO_DELETE] = get_repo,
    [CMD_SETTING_SET] = parse_setting_set,
    [CMD_SETTING_UNSET] = parse_setting,
    [CMD_SERVICE_SET] = parse_service,
    [CMD_SERVICE_RM] = parse_service,
    [CMD_BACKEND_SET] = parse_service,
    [CMD_BACKEND_RM] = parse_service,
    [CMD_BACKEND_ADMIN] = parse_service,
    [CMD_CLUSTER_INIT] = parse_node,
    [CMD_NODE_ADD] = parse_node,
    [CMD_NODE_SET] = parse_node,
    [CMD_NODE_RM] = parse_node,
    [CMD_TOKEN_SET] = parse_node,
    [CMD_TOKEN_RM] = parse_node,
    [CMD_CLUSTER_SET] = parse_node,
    [CMD_CA_ROTATE] = parse_node,
    [CMD_CA_STEP] = parse_node,
    [CMD_CA_NODE] = parse_node,
    [CMD_TRANSACTION] = parse_transaction,
    [CMD_BLOB_COPIES] = parse_blob_copies,
    [CMD_POLICY_SET] = parse_policy,
    [CMD_POLICY_RM] = parse_policy,
    [CMD_REPO_CREATE] = get_repo,
    [CMD_TAGS_EXPIRE] = parse_policy,
    [CMD_NOTIFY_CURSOR] = parse_policy,
    [CMD_NOTIFY_SET] = parse_policy,
    [CMD_NOTIFY_RM] = parse_policy,
    [CMD_MIRROR_SET] = parse_mirror,
    [CMD_MIRROR_RM] = parse_mirror,
    [CMD_SOURCE_SET] = parse_source,
    [CMD_SOURCE_RM] = parse_source,
    [CMD_GC_REPO] = parse_gc,
    [CMD_GC_BLOBS] = parse_gc,
    [CMD_GC_KEEP] = parse_gc,
    [CMD_GC_TOTALS] = parse_gc,
};

/* An entry too short for its magic is as foreign as one with a wrong magic. */
static int parse_kind(struct parse *p)
{
    struct wire_reader r = p->r;
    uint32_t magic = wire_get_u32(&r);
    uint16_t version = wire_get_u16(&r), type = wire_get_u16(&r);
    if (r.failed || magic != CMD_MAGIC)
        return fail(p, -EPROTO, "not a command");
    if (version != CMD_VERSION)
        return fail(p, -EPROTO, "command of version %u, this node knows %d", version, CMD_VERSION);
    if (type >= CMD_TYPE_COUNT || !parse_body[type])
        return fail(p, -EPROTO, "command of the unknown type %u", type);
    return 0;
}

/* Of what a transaction may be made. */
static bool is_part(uint16_t type)
{
    return (type >= CMD_SETTING_SET && type <= CMD_BACKEND_ADMIN) ||
           (type >= CMD_MIRROR_SET && type <= CMD_SOURCE_RM);
}

int state_part_next(struct wire_reader *parts, const struct cmd_head *head, struct state_cmd *out, char *err,
                    size_t err_len)
{
    size_t len;
    uint16_t type = wire_get_u16(parts);
    const uint8_t *fields = wire_get_bytes(parts, &len);
    struct parse p = {.r = {.buf = fields, .len = len}, .out = out, .err = err, .err_len = err_len};
    memset(out, 0, sizeof(*out));
    if (parts->failed)
        return fail(&p, -EINVAL, "it is cut short");
    if (!is_part(type))
        return fail(&p, -EINVAL, "a transaction cannot have a command of the type %u", type);
    out->head = *head;
    out->head.type = type;
    int rc = parse_body[type](&p);
    if (rc)
        return rc == -E2BIG ? -EINVAL : rc;
    if (!wire_at_end(&p.r))
        return fail(&p, -EINVAL, p.r.failed ? "its fields are cut short" : "it has bytes after its end");
    return 0;
}

int state_parse(const void *cmd, size_t len, struct state_cmd *out, char *err, size_t err_len)
{
    struct parse p = {.r = {.buf = cmd, .len = len}, .out = out, .err = err, .err_len = err_len};
    memset(out, 0, sizeof(*out));
    int rc = parse_kind(&p);
    if (rc)
        return rc;
    if (len > COMMAND_BYTES_MAX)
        return fail(&p, -E2BIG, "command is larger than %d bytes", COMMAND_BYTES_MAX);
    cmd_get_head(&p.r, &out->head);
    if (p.r.failed)
        return fail(&p, -EINVAL, "command is cut short");
    if (out->head.actor_len > ACTOR_TEXT_MAX || out->head.source_len > SOURCE_TEXT_MAX ||
        out->head.request_id_len > STATE_REQUEST_ID_MAX)
        return fail(&p, -EINVAL, "actor, source or request id is too long");
    rc = parse_body[out->head.type](&p);
    if (rc)
        return rc;
    if (!wire_at_end(&p.r))
        return fail(&p, -EINVAL, p.r.failed ? "command is cut short" : "command has bytes after its end");
    return 0;
}
