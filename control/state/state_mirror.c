/* SPDX-License-Identifier: Apache-2.0 */
/* Rules of mirroring in the state: "mirror:NAME" in the private file -> u64 revision, created, updated, then
 * the command's fields. */
#include <stdio.h>

#include "control/state/codec.h"
#include "control/state/mirror.h"
#include "control/state/service.h"
#include "state_internal.h"
#include "state_service.h"

static const char prefix[] = "mirror:";
enum { PREFIX_LEN = sizeof(prefix) - 1, ROW_MAX = 4096 };

static struct state_key key_of(const char *name, size_t len)
{
    struct state_key key = {.len = PREFIX_LEN + len};
    CHECK(len <= MIRROR_NAME_MAX);
    memcpy(key.data, prefix, PREFIX_LEN);
    memcpy(key.data + PREFIX_LEN, name, len);
    return key;
}

static int parse_set(struct wire_reader *r, struct state_cmd *out, char *err, size_t err_len)
{
    struct mirror_rule m;
    out->endpoint = *r;
    mirror_get(r, &m);
    struct wire_reader again = out->endpoint;
    (void)wire_get_u8(&again);
    out->service.data = (const char *)wire_get_bytes(&again, &out->service.len);
    out->declared = m.declared;
    if (!r->failed)
        return mirror_check(&m, err, err_len);
    snprintf(err, err_len, "the rule is not valid");
    return -EINVAL;
}

int state_parse_mirror(struct wire_reader *r, struct state_cmd *out, char *err, size_t err_len)
{
    if (out->head.type == CMD_MIRROR_SET)
        return parse_set(r, out, err, err_len);
    out->service.data = (const char *)wire_get_bytes(r, &out->service.len);
    out->declared = !r->failed && !wire_at_end(r) && codec_get_range(r, 1, 1, 1) == 1;
    if (r->failed || (out->service.len && out->service.len <= MIRROR_NAME_MAX &&
                      svc_name_valid(out->service.data, out->service.len)))
        return 0;
    snprintf(err, err_len, "name of the rule is not valid");
    return -EINVAL;
}

/* The first row behind a key. -ENOENT behind the last one. */
static int row_next(struct kv *kv, struct state_key *key, struct mirror_rule *m)
{
    struct kv_bytes found, value;
    int rc = kv_seek(kv, PRIVATE_DATA, state_key_bytes(key), true, &found, &value);
    if (rc)
        return rc;
    if (found.len <= PREFIX_LEN || memcmp(found.data, prefix, PREFIX_LEN) != 0)
        return -ENOENT;
    struct wire_reader r = {.buf = value.data, .len = value.len};
    uint64_t revision = wire_get_u64(&r), created_ms = wire_get_u64(&r), updated_ms = wire_get_u64(&r);
    mirror_get(&r, m);
    if (r.failed || found.len - PREFIX_LEN > MIRROR_NAME_MAX)
        return -EUCLEAN;
    m->revision = revision;
    m->created_ms = created_ms;
    m->updated_ms = updated_ms;
    *key = key_of((const char *)found.data + PREFIX_LEN, found.len - PREFIX_LEN);
    return 0;
}

int state_mirrors_read(struct kv *kv, struct mirror_table *out)
{
    struct state_key key = key_of("", 0);
    struct mirror_rule m;
    int rc;
    *out = (struct mirror_table){.count = 0};
    while ((rc = row_next(kv, &key, &m)) == 0)
        mirror_table_add(out, &m);
    return rc == -ENOENT ? 0 : rc;
}

static int rules_count(struct kv *kv, unsigned *count)
{
    struct state_key key = key_of("", 0);
    struct mirror_rule m;
    int rc;
    for (*count = 0; (rc = row_next(kv, &key, &m)) == 0; (*count)++)
        ;
    return rc == -ENOENT ? 0 : rc;
}

static int refuse_declared(struct state_event *out)
{
    return state_refuse_format(out, CMD_DECLARED,
                               "the rule of mirroring '%.*s' is set in the configuration file",
                               (int)out->cmd.service.len, out->cmd.service.data);
}

/* Of a rule that is there: when it was made, whether the configuration file says it. */
static int old_read(struct kv *kv, const struct state_key *key, uint64_t *created_ms, bool *declared)
{
    struct mirror_rule m;
    struct kv_bytes value;
    int rc = kv_get(kv, PRIVATE_DATA, state_key_bytes(key), &value);
    if (rc)
        return rc;
    struct wire_reader r = {.buf = value.data, .len = value.len};
    (void)wire_get_u64(&r);
    *created_ms = wire_get_u64(&r);
    (void)wire_get_u64(&r);
    mirror_get(&r, &m);
    *declared = m.declared;
    return r.failed ? -EUCLEAN : 0;
}

int state_mirror_set(struct kv *kv, struct state_event *out)
{
    const struct state_cmd *cmd = &out->cmd;
    struct state_key key = key_of(cmd->service.data, cmd->service.len);
    uint64_t created_ms = cmd->head.time_ms;
    uint8_t row[ROW_MAX];
    struct wire_writer w = {.buf = row, .cap = sizeof(row)};
    unsigned count;
    bool declared = false;
    int there = old_read(kv, &key, &created_ms, &declared), rc = rules_count(kv, &count);
    if (there && there != -ENOENT)
        return there;
    if (declared && !cmd->declared)
        return refuse_declared(out);
    if (rc)
        return rc;
    if (there && count >= MIRRORS_MAX)
        return state_refuse_format(out, CMD_LIMIT, "there are %d rules of mirroring already", MIRRORS_MAX);
    wire_put_u64(&w, out->index);
    wire_put_u64(&w, created_ms);
    wire_put_u64(&w, cmd->head.time_ms);
    wire_put(&w, cmd->endpoint.buf + cmd->endpoint.pos, cmd->endpoint.len - cmd->endpoint.pos);
    CHECK(!w.failed);
    out->changed = true;
    return state_row_put(kv, PRIVATE_DATA, &key, row, w.len);
}

int state_mirror_rm(struct kv *kv, struct state_event *out)
{
    const struct state_cmd *cmd = &out->cmd;
    struct state_key key = key_of(cmd->service.data, cmd->service.len);
    uint64_t created_ms;
    bool declared = false;
    int rc = old_read(kv, &key, &created_ms, &declared);
    if (rc && rc != -ENOENT)
        return rc;
    if (declared && !cmd->declared)
        return refuse_declared(out);
    rc = kv_del(kv, PRIVATE_DATA, state_key_bytes(&key));
    if (rc == -ENOENT)
        return state_refuse_format(out, CMD_MIRROR_UNKNOWN, "there is no rule of mirroring '%.*s'",
                                   (int)cmd->service.len, cmd->service.data);
    out->changed = rc == 0;
    return rc;
}
