/* SPDX-License-Identifier: Apache-2.0 */
/* Sources in the state: "source:PREFIX" in the private file -> u64 revision, created, updated, u8 origin,
 * then the command's fields. */
#include <stdio.h>

#include "control/state/codec.h"
#include "control/state/source.h"
#include "state_internal.h"
#include "state_service.h"

static const char prefix[] = "source:";
enum { PREFIX_LEN = sizeof(prefix) - 1, ROW_MAX = 12288 };

static struct state_key key_of(const char *name, size_t len)
{
    struct state_key key = {.len = PREFIX_LEN + len};
    CHECK(len <= REPO_NAME_MAX);
    memcpy(key.data, prefix, PREFIX_LEN);
    if (len)
        memcpy(key.data + PREFIX_LEN, name, len);
    return key;
}

static int parse_set(struct wire_reader *r, struct state_cmd *out, char *err, size_t err_len)
{
    struct source s;
    out->revision = wire_get_u64(r);
    out->origin = (uint8_t)codec_get_range(r, 1, SOURCE_FROM_API, SOURCE_FROM_FILE);
    out->endpoint = *r;
    source_get(r, &s);
    struct wire_reader again = out->endpoint;
    (void)wire_get_u8(&again);
    out->repo.data = (const char *)wire_get_bytes(&again, &out->repo.len);
    if (!r->failed)
        return source_check(&s, err, err_len);
    snprintf(err, err_len, "the source is not valid");
    return -EINVAL;
}

int state_parse_source(struct wire_reader *r, struct state_cmd *out, char *err, size_t err_len)
{
    if (out->head.type == CMD_SOURCE_SET)
        return parse_set(r, out, err, err_len);
    out->origin = (uint8_t)codec_get_range(r, 1, SOURCE_FROM_API, SOURCE_FROM_FILE);
    out->repo.data = (const char *)wire_get_bytes(r, &out->repo.len);
    bool named = !r->failed && out->repo.len && out->repo.len < REPO_NAME_MAX;
    if (r->failed || (named && out->repo.data[out->repo.len - 1] == '/'))
        return 0;
    snprintf(err, err_len, "that is not the beginning of repositories' names; write it as hub/");
    return -EINVAL;
}

/* -EUCLEAN for what is no row. */
static int row_read(struct kv_bytes value, struct source *s)
{
    struct wire_reader r = {.buf = value.data, .len = value.len};
    uint64_t revision = wire_get_u64(&r), created_ms = wire_get_u64(&r), updated_ms = wire_get_u64(&r);
    uint8_t origin = wire_get_u8(&r);
    source_get(&r, s);
    s->revision = revision;
    s->created_ms = created_ms;
    s->updated_ms = updated_ms;
    s->origin = origin;
    return r.failed ? -EUCLEAN : 0;
}

/* The first row behind a key. -ENOENT behind the last one. */
static int row_next(struct kv *kv, struct state_key *key, struct source *s)
{
    struct kv_bytes found, value;
    int rc = kv_seek(kv, PRIVATE_DATA, state_key_bytes(key), true, &found, &value);
    if (rc)
        return rc;
    if (found.len <= PREFIX_LEN || memcmp(found.data, prefix, PREFIX_LEN) != 0)
        return -ENOENT;
    if (found.len - PREFIX_LEN > REPO_NAME_MAX)
        return -EUCLEAN;
    *key = key_of((const char *)found.data + PREFIX_LEN, found.len - PREFIX_LEN);
    return row_read(value, s);
}

int state_sources_read(struct kv *kv, struct source_table *out)
{
    struct state_key key = key_of("", 0);
    struct source s;
    int rc;
    *out = (struct source_table){.count = 0};
    while ((rc = row_next(kv, &key, &s)) == 0)
        source_table_add(out, &s);
    return rc == -ENOENT ? 0 : rc;
}

/* How many there are beside the one that is to be set, and how many of them have backends of their own. */
static int others_count(struct kv *kv, const struct source *but, unsigned *all, unsigned *own)
{
    struct state_key key = key_of("", 0);
    struct source s;
    int rc;
    for (*all = *own = 0; (rc = row_next(kv, &key, &s)) == 0;) {
        bool other = strcmp(s.prefix, but->prefix) != 0;
        *all += other;
        *own += other && s.backends[0];
    }
    return rc == -ENOENT ? 0 : rc;
}

/* 0, -EPERM (refused), -errno. */
static int room_check(struct kv *kv, const struct source *s, struct state_event *out)
{
    unsigned all, own;
    int rc = others_count(kv, s, &all, &own);
    if (rc)
        return rc;
    if (all >= SOURCES_MAX)
        state_refuse_format(out, CMD_LIMIT, "there are %d sources already", SOURCES_MAX);
    else if (s->backends[0] && own >= SOURCES_OWN_MAX)
        state_refuse_format(
            out, CMD_LIMIT,
            "there are %d sources with backends of their own already; others can have a service",
            SOURCES_OWN_MAX);
    else
        return 0;
    return -EPERM;
}

/* The row that is there, and whether the command may change it. 0, -ENOENT: there is none; -EPERM (refused),
 * -errno. */
static int row_open(struct kv *kv, const struct state_key *key, struct source *now, struct state_event *out)
{
    const struct state_text *name = &out->cmd.repo;
    struct kv_bytes value;
    int rc = kv_get(kv, PRIVATE_DATA, state_key_bytes(key), &value);
    if (rc == 0)
        rc = row_read(value, now);
    if (rc)
        return rc;
    if (now->origin != SOURCE_FROM_FILE || out->cmd.origin == SOURCE_FROM_FILE)
        return 0;
    state_refuse_format(out, CMD_DECLARED, "the source of '%.*s' is set in the configuration file",
                        (int)name->len, name->data);
    return -EPERM;
}

static int row_write(struct kv *kv, const struct state_key *key, const struct source *now,
                     struct state_event *out)
{
    const struct state_cmd *cmd = &out->cmd;
    uint8_t row[ROW_MAX];
    struct wire_writer w = {.buf = row, .cap = sizeof(row)};
    wire_put_u64(&w, out->index);
    wire_put_u64(&w, now ? now->created_ms : cmd->head.time_ms);
    wire_put_u64(&w, cmd->head.time_ms);
    wire_put_u8(&w, cmd->origin);
    wire_put(&w, cmd->endpoint.buf + cmd->endpoint.pos, cmd->endpoint.len - cmd->endpoint.pos);
    CHECK(!w.failed);
    out->changed = true;
    return state_row_put(kv, PRIVATE_DATA, key, row, w.len);
}

int state_source_set(struct kv *kv, struct state_event *out)
{
    const struct state_cmd *cmd = &out->cmd;
    struct state_key key = key_of(cmd->repo.data, cmd->repo.len);
    struct wire_reader r = cmd->endpoint;
    struct source wanted, now;
    source_get(&r, &wanted);
    int rc = row_open(kv, &key, &now, out);
    bool there = rc == 0;
    if (rc == -EPERM)
        return 0;
    if (rc && rc != -ENOENT)
        return rc;
    if (cmd->revision != CMD_REVISION_ANY && cmd->revision != (there ? now.revision : 0))
        return state_refuse_format(
            out, CMD_CONFLICT, "the source of '%s' was changed meanwhile; look and try again", wanted.prefix);
    if (there && source_same(&now, &wanted) && now.origin == cmd->origin)
        return 0;
    rc = room_check(kv, &wanted, out);
    if (rc)
        return rc == -EPERM ? 0 : rc;
    return row_write(kv, &key, there ? &now : NULL, out);
}

/* Where the file speaks, one that is not there, or is not the file's, stays as it is. */
int state_source_rm(struct kv *kv, struct state_event *out)
{
    const struct state_cmd *cmd = &out->cmd;
    struct state_key key = key_of(cmd->repo.data, cmd->repo.len);
    struct source now;
    bool file = cmd->origin == SOURCE_FROM_FILE;
    int rc = row_open(kv, &key, &now, out);
    if (rc == -EPERM || (file && (rc == -ENOENT || (rc == 0 && now.origin != SOURCE_FROM_FILE))))
        return 0;
    if (rc == -ENOENT)
        return state_refuse_format(out, CMD_SOURCE_UNKNOWN, "there is no source of '%.*s'",
                                   (int)cmd->repo.len, cmd->repo.data);
    if (rc == 0)
        rc = kv_del(kv, PRIVATE_DATA, state_key_bytes(&key));
    out->changed = rc == 0;
    return rc;
}
