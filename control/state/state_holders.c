/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who holds a blob: in its row, and counted by sets of holders, so that nobody has to walk all blobs to know
 * how much is endangered. What is said here of nodes is said without looking at their rows, which are in the
 * other file: whether an id is still a node's is for whoever reads.
 */
#include "state_internal.h"

static struct state_key blob_key(const struct digest *d)
{
    struct state_key key;
    key.len = digest_pack(d, key.data);
    return key;
}

int state_blob_get(struct kv *kv, const struct digest *d, struct names_blob *blob)
{
    struct state_key key = blob_key(d);
    struct kv_bytes value;
    int rc = kv_get(kv, NAMES_BLOBS, state_key_bytes(&key), &value);
    memset(blob, 0, sizeof(*blob));
    if (rc)
        return rc;
    return names_blob_read(value.data, value.len, blob) ? 0 : -EUCLEAN;
}

static bool is_counted(const struct names_blob *b)
{
    return b->version && b->links;
}

/* Adds the blob to what its holders are counted with, or takes it away (sign -1). */
static int held_move(struct kv *kv, const struct names_blob *b, int sign)
{
    struct names_held row = {0};
    struct state_key key;
    key.len = names_held_key(key.data, b);
    int rc = state_row_get(kv, NAMES_HELD, &key, &row, sizeof(row));
    if (rc && rc != -ENOENT)
        return rc;
    if (sign < 0 && (row.blobs == 0 || row.bytes < b->size))
        return -EUCLEAN;
    row.blobs += (uint64_t)(int64_t)sign;
    row.bytes += sign < 0 ? 0 - b->size : b->size;
    return row.blobs ? state_row_put(kv, NAMES_HELD, &key, &row, sizeof(row))
                     : kv_del(kv, NAMES_HELD, state_key_bytes(&key));
}

static bool same_holders(const struct names_blob *a, const struct names_blob *b)
{
    return a->holder_count == b->holder_count &&
           memcmp(a->holder, b->holder, a->holder_count * sizeof(a->holder[0])) == 0;
}

int state_blob_move(struct kv *kv, const struct digest *d, const struct names_blob *before,
                    const struct names_blob *now)
{
    struct state_key key = blob_key(d);
    int rc = 0;
    if (is_counted(before) != is_counted(now) || !same_holders(before, now)) {
        if (is_counted(before))
            rc = held_move(kv, before, -1);
        if (rc == 0 && is_counted(now))
            rc = held_move(kv, now, 1);
    }
    return rc ? rc : state_row_put(kv, NAMES_BLOBS, &key, now, names_blob_bytes(now));
}

/*
 * Who is new displaces the oldest nodes where there is no room for all: those are the likeliest to be gone.
 */
static struct cmd_holders holders_after(const struct names_blob *b, const struct cmd_holders *gained,
                                        const struct cmd_holders *lost)
{
    struct cmd_holders now = *gained;
    for (unsigned i = b->holder_count; i > 0; i--)
        if (!cmd_holders_has(lost, b->holder[i - 1]) && !cmd_holders_add(&now, b->holder[i - 1]))
            break;
    return now;
}

int state_holders_change(struct kv *kv, struct state_event *out)
{
    const struct state_cmd *cmd = &out->cmd;
    struct names_blob before, now;
    if (cmd->holders.count == 0 && cmd->lost.count == 0)
        return 0;
    int rc = state_blob_get(kv, &cmd->digest, &before);
    if (rc)
        return rc;
    struct cmd_holders after = holders_after(&before, &cmd->holders, &cmd->lost);
    now = before;
    now.version = NAMES_BLOB_VERSION;
    now.holder_count = after.count;
    memset(now.holder, 0, sizeof(now.holder));
    memcpy(now.holder, after.id, after.count * sizeof(now.holder[0]));
    if (now.version == before.version && same_holders(&before, &now))
        return 0;
    out->changed = true;
    return state_blob_move(kv, &cmd->digest, &before, &now);
}

static bool has_all(const struct names_blob *b, const struct cmd_holders *needed)
{
    struct cmd_holders have = {.count = b->holder_count};
    memcpy(have.id, b->holder, b->holder_count * sizeof(have.id[0]));
    for (unsigned i = 0; i < needed->count; i++)
        if (!cmd_holders_has(&have, needed->id[i]))
            return false;
    return true;
}

int state_blob_copies(struct kv *kv, struct state_event *out)
{
    struct names_blob blob;
    int rc = state_blob_get(kv, &out->cmd.digest, &blob);
    if (rc == -ENOENT) {
        state_missing_add(out, &out->cmd.digest);
        return 0;
    }
    if (rc == 0 && !has_all(&blob, &out->cmd.needed))
        return state_refuse_text(out, CMD_CONFLICT, "it is not held any more where it has to be");
    return rc ? rc : state_holders_change(kv, out);
}

static void held_count(struct state_held *out, const struct names_held *row, uint32_t living, uint32_t wanted)
{
    out->rows++;
    out->living[living] += row->blobs;
    out->endangered += living < wanted ? row->blobs : 0;
    out->endangered_bytes += living < wanted ? row->bytes : 0;
    out->surplus += living > wanted ? row->blobs : 0;
    out->lost += living ? 0 : row->blobs;
}

static uint32_t living_of(const struct state_key *at, state_living *living, void *arg)
{
    struct cmd_holders there = {.count = 0};
    uint64_t id;
    for (size_t i = 1; i + sizeof(id) <= at->len; i += sizeof(id)) {
        memcpy(&id, at->data + i, sizeof(id));
        id = living(arg, id);
        if (id)
            (void)cmd_holders_add(&there, id);
    }
    return there.count;
}

int state_held_read(struct kv *kv, uint32_t wanted, state_living *living, void *arg, struct state_held *out)
{
    struct kv_bytes key, value;
    struct state_key at = {.len = 1}; /* that of no holder is the first one */
    bool after = false;
    int rc;
    memset(out, 0, sizeof(*out));
    while ((rc = kv_seek(kv, NAMES_HELD, state_key_bytes(&at), after, &key, &value)) == 0) {
        struct names_held row;
        if (value.len != sizeof(row) || key.len < 1 || key.len > NAMES_HELD_KEY_MAX)
            return -EUCLEAN;
        memcpy(&row, value.data, sizeof(row));
        memcpy(at.data, key.data, at.len = key.len);
        out->blobs += row.blobs;
        out->bytes += row.bytes;
        held_count(out, &row, living_of(&at, living, arg), wanted);
        after = true;
    }
    return rc == -ENOENT ? 0 : rc;
}
