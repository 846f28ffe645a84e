/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Commands that write to both files. After a crash one file may hold the command and the other not: it is
 * applied again, and what is written to the file that has it goes nowhere.
 */
#include "state_internal.h"

static bool is_done(const struct state_half *half, unsigned db)
{
    return db < NAMES_DB_COUNT ? half->names_done : half->private_done;
}

static int half_get(struct kv *kv, unsigned db, struct kv_bytes key, struct kv_bytes *value)
{
    return kv_get(((struct state_half *)kv)->base, db, key, value);
}

static int half_put(struct kv *kv, unsigned db, struct kv_bytes key, struct kv_bytes value)
{
    struct state_half *half = (struct state_half *)kv;
    return is_done(half, db) ? 0 : kv_put(half->base, db, key, value);
}

static int half_del(struct kv *kv, unsigned db, struct kv_bytes key)
{
    struct state_half *half = (struct state_half *)kv;
    return is_done(half, db) ? 0 : kv_del(half->base, db, key);
}

static int half_seek(struct kv *kv, unsigned db, struct kv_bytes from, bool after, struct kv_bytes *key,
                     struct kv_bytes *value)
{
    return kv_seek(((struct state_half *)kv)->base, db, from, after, key, value);
}

void state_half_init(struct state_half *half, const struct state_tx *tx)
{
    static const struct kv_ops ops = {half_get, half_put, half_del, half_seek};
    *half = (struct state_half){
        .kv.ops = &ops, .base = tx->kv, .names_done = tx->names_done, .private_done = tx->private_done};
}
