/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Webhooks in the state: endpoints made and removed, notices that wait for them, and how far they are.
 *
 * An endpoint is in both files, and each command about it decides by the names file alone: after a crash the
 * private file may be ahead of it (state_apply), and what is applied again must come to the same.
 */
#include "state_policy.h"

#include <stdlib.h>

enum {
    NOTICE_KEY_LEN = 13,
    NOTICE_ROW_MAX = 4096,
    SWEEP_MAX = 512, /* notices that are removed while endpoints are told of more */
    SWEEP_WRITE = 2, /* and for each one that is written: faster than they come */
};

static struct state_key key_endpoint(struct state_text name)
{
    struct state_key key = {.len = name.len + 1};
    CHECK(name.len <= ENDPOINT_NAME_MAX);
    key.data[0] = 'E';
    memcpy(key.data + 1, name.data, name.len);
    return key;
}

static struct state_key key_private(struct state_text name)
{
    static const char prefix[] = "notify:";
    struct state_key key = {.len = sizeof(prefix) - 1 + name.len};
    memcpy(key.data, prefix, sizeof(prefix) - 1);
    memcpy(key.data + sizeof(prefix) - 1, name.data, name.len);
    return key;
}

static struct state_key key_notice(struct notice_at at)
{
    struct state_key key = {.len = NOTICE_KEY_LEN};
    key.data[0] = 'N';
    for (int i = 0; i < 8; i++)
        key.data[1 + i] = (uint8_t)(at.index >> (56 - 8 * i));
    for (int i = 0; i < 4; i++)
        key.data[9 + i] = (uint8_t)(at.number >> (24 - 8 * i));
    return key;
}

static int key_position(struct kv_bytes key, struct notice_at *at)
{
    const uint8_t *p = key.data;
    if (key.len != NOTICE_KEY_LEN || p[0] != 'N')
        return -ENOENT;
    *at = (struct notice_at){0};
    for (int i = 0; i < 8; i++)
        at->index = at->index << 8 | p[1 + i];
    for (int i = 0; i < 4; i++)
        at->number = at->number << 8 | p[9 + i];
    return 0;
}

static const struct state_key queue_key = {.data = "Q", .len = 1};

static int queue_get(struct kv *kv, struct names_notices *q)
{
    memset(q, 0, sizeof(*q));
    int rc = state_row_get(kv, NAMES_NOTICES, &queue_key, q, sizeof(*q));
    return rc == -ENOENT ? 0 : rc;
}

/* The endpoint behind a name (empty: the first one). -ENOENT behind the last. */
static int endpoint_next(struct kv *kv, struct state_text after, struct endpoint *e)
{
    struct state_key key = key_endpoint(after);
    struct kv_bytes found, value;
    int rc = kv_seek(kv, NAMES_NOTICES, state_key_bytes(&key), true, &found, &value);
    if (rc)
        return rc;
    const char *name = found.data;
    if (name[0] != 'E')
        return -ENOENT;
    if (found.len - 1 > ENDPOINT_NAME_MAX || value.len < sizeof(e->row))
        return -EUCLEAN;
    memcpy(e->name, name + 1, found.len - 1);
    e->name[found.len - 1] = '\0';
    memcpy(&e->row, value.data, sizeof(e->row));
    return 0;
}

static struct state_text text_of(const char *text)
{
    return (struct state_text){text, strlen(text)};
}

static struct notice_at cursor_of(const struct endpoint *e)
{
    return (struct notice_at){e->row.cursor_index, e->row.cursor_number};
}

/* --- notices --- */

int state_notice_next(struct kv *kv, struct notice_at after, struct notice *out)
{
    struct state_key key = key_notice(after);
    struct kv_bytes found, value;
    int rc = kv_seek(kv, NAMES_NOTICES, state_key_bytes(&key), true, &found, &value);
    if (rc == 0)
        rc = key_position(found, &out->at);
    return rc ? rc : notice_get(value.data, value.len, out);
}

/* --- what everybody was told of goes --- */

static int cursors_least(struct kv *kv, struct notice_at *least)
{
    struct endpoint e = {.name = ""};
    int rc;
    *least = (struct notice_at){UINT64_MAX, UINT32_MAX};
    while ((rc = endpoint_next(kv, text_of(e.name), &e)) == 0)
        if (notice_compare(cursor_of(&e), *least) < 0)
            *least = cursor_of(&e);
    return rc == -ENOENT ? 0 : rc;
}

/* Of what everybody was told of, the oldest go. */
static int told_drop(struct kv *kv, struct names_notices *q, unsigned most)
{
    struct state_key key = key_notice((struct notice_at){0});
    struct notice_at least;
    int rc = cursors_least(kv, &least);
    for (unsigned i = 0; i < most && rc == 0 && q->count; i++) {
        struct kv_bytes found, value;
        struct notice_at at;
        rc = kv_seek(kv, NAMES_NOTICES, state_key_bytes(&key), false, &found, &value);
        if (rc == 0)
            rc = key_position(found, &at);
        if (rc || notice_compare(at, least) > 0)
            break;
        key = key_notice(at);
        rc = kv_del(kv, NAMES_NOTICES, state_key_bytes(&key));
        q->count--;
    }
    return rc == -ENOENT ? -EUCLEAN : rc;
}

/* A bounded number of them; the next command goes on. */
static int sweep(struct kv *kv, unsigned most)
{
    struct names_notices q;
    int rc = queue_get(kv, &q);
    if (rc == 0)
        rc = told_drop(kv, &q, most);
    return rc ? rc : state_row_put(kv, NAMES_NOTICES, &queue_key, &q, sizeof(q));
}

/* --- what is written --- */

/* The oldest notice goes, and who was not told of it misses one. */
static int oldest_drop(struct kv *kv, struct names_notices *q)
{
    struct endpoint e = {.name = ""};
    struct notice_at at;
    struct state_key key = key_notice((struct notice_at){0});
    struct kv_bytes found, value;
    bool missed = false;
    int rc = kv_seek(kv, NAMES_NOTICES, state_key_bytes(&key), false, &found, &value);
    if (rc == 0)
        rc = key_position(found, &at);
    if (rc)
        return rc == -ENOENT ? -EUCLEAN : rc;
    key = key_notice(at);
    rc = kv_del(kv, NAMES_NOTICES, state_key_bytes(&key));
    while (rc == 0 && (rc = endpoint_next(kv, text_of(e.name), &e)) == 0) {
        struct state_key mine = key_endpoint(text_of(e.name));
        if (notice_compare(cursor_of(&e), at) >= 0)
            continue;
        missed = true;
        e.row.dropped++;
        e.row.cursor_index = at.index;
        e.row.cursor_number = at.number;
        rc = state_row_put(kv, NAMES_NOTICES, &mine, &e.row, sizeof(e.row));
    }
    q->count--;
    q->dropped += missed;
    return rc == -ENOENT ? 0 : rc;
}

static int notice_write(struct kv *kv, const struct notice *n)
{
    uint8_t row[NOTICE_ROW_MAX];
    struct wire_writer w = {.buf = row, .cap = sizeof(row)};
    struct state_key key = key_notice(n->at);
    struct names_notices q;
    notice_put(&w, n);
    CHECK(!w.failed);
    int rc = queue_get(kv, &q);
    if (rc == 0)
        rc = told_drop(kv, &q, SWEEP_WRITE);
    if (rc == 0 && q.count >= NOTICES_MAX)
        rc = oldest_drop(kv, &q);
    if (rc == 0)
        rc = state_row_put(kv, NAMES_NOTICES, &key, row, w.len);
    q.count++;
    return rc ? rc : state_row_put(kv, NAMES_NOTICES, &queue_key, &q, sizeof(q));
}

/* Written if anybody wants it. */
static int notice_add(struct kv *kv, const struct notice *n)
{
    struct endpoint e = {.name = ""};
    int rc;
    while ((rc = endpoint_next(kv, text_of(e.name), &e)) == 0)
        if (notice_wanted(&e.row, n))
            return notice_write(kv, n);
    return rc == -ENOENT ? 0 : rc;
}

static struct notice_text notice_text(struct state_text t)
{
    return (struct notice_text){t.data, t.len};
}

static struct notice notice_begin(const struct state_event *out, enum notice_action action)
{
    const struct state_cmd *cmd = &out->cmd;
    return (struct notice){.at = {.index = out->index},
                           .time_ms = cmd->head.time_ms,
                           .action = (uint8_t)action,
                           .repo = notice_text(cmd->repo),
                           .from = notice_text(cmd->from),
                           .media_type = notice_text(cmd->manifest.media_type),
                           .actor = {cmd->head.actor, cmd->head.actor_len},
                           .source = {cmd->head.source, cmd->head.source_len},
                           .request_id = {cmd->head.request_id, cmd->head.request_id_len},
                           .digest = cmd->digest,
                           .size = cmd->size};
}

/* One for each tag, or one without. */
static int tags_add(struct kv *kv, const struct state_cmd *cmd, struct notice *n)
{
    int rc = 0;
    if (cmd->tags_count == 0)
        return notice_add(kv, n);
    for (uint32_t i = 0; i < cmd->tags_count && rc == 0; i++) {
        n->at.number = i;
        n->tag = notice_text(cmd->tags[i]);
        rc = notice_add(kv, n);
    }
    return rc;
}

/* The size of a blob that was mounted. */
static int mount_size(struct kv *kv, const struct state_cmd *cmd, uint64_t *size)
{
    struct state_key key = state_key_digest(cmd->repo, &cmd->digest);
    struct names_link link;
    int rc = state_row_get(kv, NAMES_LINKS, &key, &link, sizeof(link));
    *size = rc == 0 ? link.size : 0;
    return rc;
}

int state_notices_add(struct kv *kv, const struct state_event *out)
{
    static const struct notice_text blob_type = {"application/octet-stream", 24};
    const struct state_cmd *cmd = &out->cmd;
    struct notice n;
    int rc;
    switch (cmd->head.type) {
    case CMD_BLOB_LINK:
    case CMD_BLOB_MOUNT:
        n = notice_begin(out, cmd->head.type == CMD_BLOB_LINK ? NOTICE_PUSH : NOTICE_MOUNT);
        n.media_type = blob_type;
        rc = cmd->head.type == CMD_BLOB_MOUNT ? mount_size(kv, cmd, &n.size) : 0;
        return rc ? rc : notice_add(kv, &n);
    case CMD_MANIFEST_PUT:
        n = notice_begin(out, NOTICE_PUSH);
        return cmd->manifest.refs_wanted == CMD_REFS_NONE ? 0 : tags_add(kv, cmd, &n);
    case CMD_TAGS_EXPIRE:
        if (cmd->tags_count == 0)
            return 0;
        /* fall through */
    case CMD_BLOB_UNLINK:
    case CMD_MANIFEST_DELETE:
    case CMD_TAG_DELETE:
    case CMD_REPO_DELETE:
        n = notice_begin(out, NOTICE_DELETE);
        return tags_add(kv, cmd, &n);
    default:
        return 0;
    }
}

int state_notify_cursor(struct kv *kv, struct state_event *out)
{
    const struct state_cmd *cmd = &out->cmd;
    struct state_key key = key_endpoint(cmd->service);
    struct notice_at at = {cmd->notice_index, cmd->notice_number};
    struct endpoint e;
    int rc = state_row_get(kv, NAMES_NOTICES, &key, &e.row, sizeof(e.row));
    if (rc == -ENOENT)
        return state_refuse_text(out, CMD_ENDPOINT_UNKNOWN, "there is no such endpoint any more");
    if (rc)
        return rc;
    if (notice_compare(at, cursor_of(&e)) > 0) {
        e.row.cursor_index = at.index;
        e.row.cursor_number = at.number;
        rc = state_row_put(kv, NAMES_NOTICES, &key, &e.row, sizeof(e.row));
        out->changed = true;
    }
    return rc ? rc : sweep(kv, SWEEP_MAX);
}

/* --- endpoints --- */

static int endpoints_count(struct kv *kv, uint32_t *count)
{
    struct endpoint e = {.name = ""};
    int rc;
    for (*count = 0; (rc = endpoint_next(kv, text_of(e.name), &e)) == 0; (*count)++)
        ;
    return rc == -ENOENT ? 0 : rc;
}

/* What is private: the endpoint's bytes as they are in the command. */
static int private_put(struct kv *kv, const struct state_cmd *cmd)
{
    struct state_key key = key_private(cmd->service);
    const struct wire_reader *r = &cmd->endpoint;
    return state_row_put(kv, PRIVATE_DATA, &key, r->buf + r->pos, r->len - r->pos);
}

int state_notify_set(struct kv *kv, struct state_event *out)
{
    struct state_key key = key_endpoint(out->cmd.service);
    struct wire_reader r = out->cmd.endpoint;
    struct names_endpoint old;
    struct endpoint e;
    uint32_t count;
    int there = state_row_get(kv, NAMES_NOTICES, &key, &old, sizeof(old));
    if (there && there != -ENOENT)
        return there;
    int rc = endpoints_count(kv, &count);
    if (rc)
        return rc;
    if (there && count >= ENDPOINTS_MAX)
        return state_refuse_format(out, CMD_LIMIT, "there are %d endpoints already", ENDPOINTS_MAX);
    endpoint_get(&r, &e);
    CHECK(!r.failed);
    e.row.cursor_index = there ? out->index : old.cursor_index;
    e.row.cursor_number = there ? 0 : old.cursor_number;
    e.row.dropped = there ? 0 : old.dropped;
    e.row.created_ms = there ? out->cmd.head.time_ms : old.created_ms;
    e.row.updated_ms = out->cmd.head.time_ms;
    e.row.revision = out->index;
    out->changed = true;
    rc = state_row_put(kv, NAMES_NOTICES, &key, &e.row, sizeof(e.row));
    endpoint_fini(&e);
    return rc ? rc : private_put(kv, &out->cmd);
}

int state_notify_rm(struct kv *kv, struct state_event *out)
{
    struct state_key key = key_endpoint(out->cmd.service), secret = key_private(out->cmd.service);
    int rc = kv_del(kv, NAMES_NOTICES, state_key_bytes(&key));
    if (rc == -ENOENT)
        return state_refuse_format(out, CMD_ENDPOINT_UNKNOWN, "there is no endpoint '%.*s'",
                                   (int)out->cmd.service.len, out->cmd.service.data);
    out->changed = rc == 0;
    if (rc == 0)
        rc = kv_del(kv, PRIVATE_DATA, state_key_bytes(&secret));
    return rc && rc != -ENOENT ? rc : sweep(kv, NOTICES_MAX);
}

/* --- all of them --- */

static int private_get(struct kv *kv, struct endpoint *e)
{
    struct state_key key = key_private(text_of(e->name));
    struct names_endpoint row = e->row;
    struct kv_bytes value;
    int rc = kv_get(kv, PRIVATE_DATA, state_key_bytes(&key), &value);
    if (rc)
        return rc;
    struct wire_reader r = {.buf = value.data, .len = value.len};
    endpoint_get(&r, e);
    e->row = row;
    return r.failed ? -EUCLEAN : 0;
}

int state_endpoints_read(struct kv *kv, struct endpoint_table *out)
{
    struct endpoint e = {.name = ""};
    *out = (struct endpoint_table){.count = 0};
    int rc = queue_get(kv, &out->queue);
    while (rc == 0 && (rc = endpoint_next(kv, text_of(e.name), &e)) == 0) {
        out->list = reallocarray(out->list, out->count + 1, sizeof(*out->list));
        CHECK(out->list);
        out->list[out->count] = e;
        rc = private_get(kv, &out->list[out->count++]);
        /* Between the commits of the two files there is none for a moment. */
        if (rc == -ENOENT)
            rc = 0;
    }
    if (rc && rc != -ENOENT) {
        endpoint_table_fini(out);
        return rc;
    }
    return 0;
}
