/* SPDX-License-Identifier: Apache-2.0 */
/* The state machine's entrance: which command, which file, and the helpers that all commands use. */
#include <stdio.h>

#include "state_policy.h"

typedef int (*apply_fn)(struct kv *kv, struct state_event *out);

static const apply_fn apply_type[CMD_TYPE_COUNT] = {
    [CMD_BLOB_LINK] = state_blob_link,
    [CMD_BLOB_MOUNT] = state_blob_mount,
    [CMD_BLOB_UNLINK] = state_blob_unlink,
    [CMD_MANIFEST_PUT] = state_manifest_put,
    [CMD_MANIFEST_DELETE] = state_manifest_delete,
    [CMD_TAG_DELETE] = state_tag_delete,
    [CMD_REPO_DELETE] = state_repo_delete,
    [CMD_SETTING_SET] = state_setting_set,
    [CMD_SETTING_UNSET] = state_setting_unset,
    [CMD_SERVICE_SET] = state_service_set,
    [CMD_SERVICE_RM] = state_service_rm,
    [CMD_BACKEND_SET] = state_backend_set,
    [CMD_BACKEND_RM] = state_backend_rm,
    [CMD_BACKEND_ADMIN] = state_backend_admin,
    [CMD_CLUSTER_INIT] = state_cluster_init,
    [CMD_NODE_ADD] = state_node_add,
    [CMD_NODE_SET] = state_node_set,
    [CMD_NODE_RM] = state_node_rm,
    [CMD_TOKEN_SET] = state_token_set,
    [CMD_TOKEN_RM] = state_token_rm,
    [CMD_CLUSTER_SET] = state_cluster_set,
    [CMD_CA_ROTATE] = state_ca_rotate,
    [CMD_CA_STEP] = state_ca_step,
    [CMD_CA_NODE] = state_ca_node,
    [CMD_TRANSACTION] = state_transaction,
    [CMD_BLOB_COPIES] = state_blob_copies,
    [CMD_POLICY_SET] = state_policy_set,
    [CMD_POLICY_RM] = state_policy_rm,
    [CMD_REPO_CREATE] = state_repo_create,
    [CMD_TAGS_EXPIRE] = state_tags_expire,
    [CMD_NOTIFY_CURSOR] = state_notify_cursor,
    [CMD_NOTIFY_SET] = state_notify_set,
    [CMD_NOTIFY_RM] = state_notify_rm,
    [CMD_MIRROR_SET] = state_mirror_set,
    [CMD_MIRROR_RM] = state_mirror_rm,
    [CMD_SOURCE_SET] = state_source_set,
    [CMD_SOURCE_RM] = state_source_rm,
    [CMD_GC_REPO] = state_gc_repo,
    [CMD_GC_BLOBS] = state_gc_blobs,
    [CMD_GC_KEEP] = state_gc_keep,
    [CMD_GC_TOTALS] = state_gc_totals,
};

bool state_type_is_names(uint16_t type)
{
    return type < CMD_SETTING_SET || type == CMD_BLOB_COPIES ||
           (type >= CMD_GC_REPO && type <= CMD_GC_TOTALS) ||
           (type >= CMD_POLICY_SET && type <= CMD_NOTIFY_RM);
}

static bool type_is_both(uint16_t type)
{
    return type == CMD_NOTIFY_SET || type == CMD_NOTIFY_RM;
}

bool state_is_names_only(const void *cmd, size_t len)
{
    struct wire_reader r = {.buf = cmd, .len = len};
    struct cmd_head head;
    cmd_get_head(&r, &head);
    return !r.failed && head.type < CMD_TYPE_COUNT && apply_type[head.type] &&
           state_type_is_names(head.type) && !type_is_both(head.type);
}

static enum cmd_status status_of(int parse_error)
{
    return parse_error == 0 ? CMD_OK : parse_error == -E2BIG ? CMD_TOO_LARGE : CMD_INVALID;
}

static int check_service(const struct svc *s, char *err, size_t err_len)
{
    char text[SVC_ERROR_MAX];
    int rc = svc_check(s, text);
    if (rc)
        snprintf(err, err_len, "%s", text);
    return rc;
}

static enum cmd_status check_one(const struct state_cmd *c, const struct state_setting_check *settings,
                                 char *err, size_t err_len)
{
    int rc = c->head.type == CMD_SERVICE_SET ? check_service(&c->svc, err, err_len) : 0;
    bool set = c->head.type == CMD_SETTING_SET, unset = c->head.type == CMD_SETTING_UNSET;
    if (rc || (!set && !unset) || !settings || !settings->check)
        return status_of(rc);
    rc = settings->check(c->key.data, c->key.len, set ? c->value.data : NULL, c->value.len, err, err_len);
    return rc == -ENOENT ? CMD_SETTING_UNKNOWN : status_of(rc);
}

static enum cmd_status check_parts(const struct state_cmd *whole, const struct state_setting_check *settings,
                                   char *err, size_t err_len)
{
    struct wire_reader r = whole->parts;
    struct state_cmd part;
    enum cmd_status status = CMD_OK;
    for (uint32_t i = 0; i < whole->parts_count && status == CMD_OK; i++) {
        CHECK(state_part_next(&r, &whole->head, &part, err, err_len) == 0);
        status = check_one(&part, settings, err, err_len);
    }
    return status;
}

enum cmd_status state_check(const void *cmd, size_t len, const struct state_setting_check *settings,
                            char *err, size_t err_len)
{
    struct state_cmd c;
    int rc = state_parse(cmd, len, &c, err, err_len);
    if (rc)
        return status_of(rc);
    if (c.head.type == CMD_TRANSACTION)
        return check_parts(&c, settings, err, err_len);
    return check_one(&c, settings, err, err_len);
}

/* node_put writes a node with a store as older programs cannot read it. */
static bool node_has_store(const struct node_change *c)
{
    return c->has & (NODE_HAS_STORE | NODE_HAS_STORE_STATE) || node_store_said(&c->node) ||
           c->node.store_state != NODE_STORE_WELL;
}

static uint32_t version_of(const struct state_cmd *c)
{
    uint32_t needed = node_version_of_command(c->head.type);
    if (c->head.type == CMD_NOTIFY_SET && c->endpoint_is_new)
        return CLUSTER_VERSION_SOURCES;
    if ((c->head.type == CMD_MIRROR_SET || c->head.type == CMD_MIRROR_RM) && c->declared)
        return CLUSTER_VERSION_SOURCES;
    if (c->head.type == CMD_NODE_SET && node_has_store(&c->of_node.change))
        return CLUSTER_VERSION_STORES;
    bool fields = c->head.type == CMD_SERVICE_SET && c->svc.proxy.half_closed_ms;
    return fields && needed < CLUSTER_VERSION_HOLDERS ? CLUSTER_VERSION_HOLDERS : needed;
}

uint32_t state_version_needed(const void *cmd, size_t len)
{
    struct state_cmd c, part;
    char err[8];
    if (state_parse(cmd, len, &c, err, sizeof(err)))
        return CLUSTER_VERSION_FIRST; /* it is refused for that */
    uint32_t needed = version_of(&c);
    struct wire_reader r = c.parts;
    for (uint32_t i = 0; c.head.type == CMD_TRANSACTION && i < c.parts_count; i++) {
        if (state_part_next(&r, &c.head, &part, err, sizeof(err)))
            break;
        needed = version_of(&part) > needed ? version_of(&part) : needed;
    }
    return needed;
}

int state_apply_type(struct kv *kv, struct state_event *out)
{
    return apply_type[out->cmd.head.type](kv, out);
}

static int apply_halves(const struct state_tx *tx, struct state_event *out)
{
    struct state_half half;
    uint16_t type = out->cmd.head.type;
    if (type_is_both(type) ? tx->names_done && tx->private_done
                           : (state_type_is_names(type) ? tx->names_done : tx->private_done))
        return 0;
    if (type_is_both(type)) {
        state_half_init(&half, tx);
        return state_apply_type(&half.kv, out);
    }
    int rc = state_apply_type(tx->kv, out);
    return rc || out->status != CMD_OK ? rc : state_notices_add(tx->kv, out);
}

int state_apply(const struct state_tx *tx, uint64_t index, const void *cmd, size_t len,
                struct state_event *out)
{
    char err[128] = "";
    out->index = index;
    out->status = CMD_OK;
    out->changed = false;
    out->detail_len = 0;
    int rc = state_parse(cmd, len, &out->cmd, err, sizeof(err));
    if (rc == -EPROTO)
        return rc;
    if (rc)
        return state_refuse_text(out, status_of(rc), err);
    rc = apply_halves(tx, out);
    /* A handler passes -ENOENT up only from a row that must exist. */
    return rc == -ENOENT ? -EUCLEAN : rc;
}

int state_refuse(struct state_event *out, enum cmd_status status)
{
    out->status = status;
    return 0;
}

int state_refuse_text(struct state_event *out, enum cmd_status status, const char *text)
{
    size_t len = strlen(text);
    out->detail_len = len < sizeof(out->detail) ? len : sizeof(out->detail);
    memcpy(out->detail, text, out->detail_len);
    return state_refuse(out, status);
}

void state_missing_add(struct state_event *out, const struct digest *d)
{
    out->status = CMD_BLOB_UNKNOWN;
    if (sizeof(out->detail) - out->detail_len >= DIGEST_PACKED_MAX)
        out->detail_len += digest_pack(d, out->detail + out->detail_len);
}

/* Names and tags were bounded by state_parse(), so that every key fits. */
static struct state_key key_make(struct state_text repo, const void *rest, size_t rest_len)
{
    struct state_key key;
    key.len = names_key(key.data, repo.data, repo.len, rest, rest_len);
    CHECK(key.len > 0);
    return key;
}

struct state_key state_key_repo(struct state_text repo)
{
    struct state_key key;
    memcpy(key.data, repo.data, repo.len);
    key.len = repo.len;
    return key;
}

struct state_key state_key_tag(struct state_text repo, struct state_text tag)
{
    return key_make(repo, tag.data, tag.len);
}

struct state_key state_key_digest(struct state_text repo, const struct digest *d)
{
    uint8_t packed[DIGEST_PACKED_MAX];
    return key_make(repo, packed, digest_pack(d, packed));
}

int state_row_get(struct kv *kv, unsigned db, const struct state_key *key, void *row, size_t len)
{
    struct kv_bytes value;
    int rc = kv_get(kv, db, state_key_bytes(key), &value);
    if (rc)
        return rc;
    if (value.len < len)
        return -EUCLEAN;
    memcpy(row, value.data, len);
    return 0;
}

int state_row_put(struct kv *kv, unsigned db, const struct state_key *key, const void *row, size_t len)
{
    return kv_put(kv, db, state_key_bytes(key), (struct kv_bytes){row, len});
}

int state_row_exists(struct kv *kv, unsigned db, const struct state_key *key)
{
    struct kv_bytes value;
    return kv_get(kv, db, state_key_bytes(key), &value);
}

int state_row_next(struct kv *kv, unsigned db, struct state_text repo, struct state_key *key, bool after,
                   struct kv_bytes *value)
{
    struct kv_bytes found;
    int rc = kv_seek(kv, db, state_key_bytes(key), after, &found, value);
    if (rc)
        return rc;
    const uint8_t *bytes = found.data;
    if (found.len > NAMES_KEY_MAX)
        return -EUCLEAN;
    if (found.len <= repo.len || memcmp(bytes, repo.data, repo.len) != 0 || bytes[repo.len] != 0)
        return -ENOENT;
    memcpy(key->data, bytes, found.len);
    key->len = found.len;
    return 0;
}
