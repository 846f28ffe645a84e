/* SPDX-License-Identifier: Apache-2.0 */
#include "control/state/kv_overlay.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"

struct kv_overlay_row {
    unsigned db;
    bool gone; /* the base's row does not show through */
    uint8_t *value;
    size_t key_len, value_len;
    unsigned levels;
    struct kv_overlay_row **next; /* of each of its levels */
    uint8_t key[NAMES_KEY_MAX];
};

/* Where a row of a key is, or would be: the pointer to change on each level. */
struct place {
    struct kv_overlay_row **at[KV_OVERLAY_LEVELS];
};

static int compare(unsigned db, struct kv_bytes key, unsigned other_db, const void *other, size_t other_len)
{
    if (db != other_db)
        return db < other_db ? -1 : 1;
    size_t len = key.len < other_len ? key.len : other_len;
    int order = len ? memcmp(key.data, other, len) : 0;
    return order ? order : (key.len > other_len) - (key.len < other_len);
}

static int compare_row(unsigned db, struct kv_bytes key, const struct kv_overlay_row *row)
{
    return compare(db, key, row->db, row->key, row->key_len);
}

/* The first row at or after the key (after: behind it), of whatever database. */
static struct kv_overlay_row *find(struct kv_overlay *o, unsigned db, struct kv_bytes key, bool after,
                                   struct place *place)
{
    struct kv_overlay_row **next = o->head;
    for (int level = KV_OVERLAY_LEVELS - 1; level >= 0; level--) {
        while (next[level]) {
            int order = compare_row(db, key, next[level]);
            if (order < 0 || (order == 0 && !after))
                break;
            next = next[level]->next;
        }
        if (place)
            place->at[level] = &next[level];
    }
    return next[0];
}

static struct kv_overlay_row *find_equal(struct kv_overlay *o, unsigned db, struct kv_bytes key,
                                         struct place *place)
{
    struct kv_overlay_row *row = find(o, db, key, false, place);
    return row && compare_row(db, key, row) == 0 ? row : NULL;
}

/* Each level has half of the rows of the one below it. */
static unsigned pick_levels(struct kv_overlay *o)
{
    unsigned levels = 1;
    o->random ^= o->random << 13;
    o->random ^= o->random >> 7;
    o->random ^= o->random << 17;
    for (uint64_t bits = o->random; bits & 1 && levels < KV_OVERLAY_LEVELS; bits >>= 1)
        levels++;
    return levels;
}

static struct kv_overlay_row *row_make(struct kv_overlay *o, unsigned db, struct kv_bytes key)
{
    struct place place;
    struct kv_overlay_row *row = find_equal(o, db, key, &place);
    CHECK(key.len > 0 && key.len <= NAMES_KEY_MAX);
    if (row)
        return row;
    row = calloc(1, sizeof(*row));
    CHECK(row);
    row->db = db;
    row->levels = pick_levels(o);
    row->next = calloc(row->levels, sizeof(*row->next));
    CHECK(row->next);
    memcpy(row->key, key.data, key.len);
    row->key_len = key.len;
    for (unsigned level = 0; level < row->levels; level++) {
        row->next[level] = *place.at[level];
        *place.at[level] = row;
    }
    return row;
}

/* The value may lie in the row that is replaced. */
static void row_set(struct kv_overlay_row *row, struct kv_bytes value, bool gone)
{
    uint8_t *copy = malloc(value.len + 1);
    CHECK(copy);
    if (value.len)
        memcpy(copy, value.data, value.len);
    free(row->value);
    row->value = copy;
    row->value_len = value.len;
    row->gone = gone;
}

static int overlay_get(struct kv *kv, unsigned db, struct kv_bytes key, struct kv_bytes *value)
{
    struct kv_overlay *o = (struct kv_overlay *)kv;
    const struct kv_overlay_row *row = find_equal(o, db, key, NULL);
    if (!row)
        return kv_get(o->base, db, key, value);
    *value = (struct kv_bytes){row->value, row->value_len};
    return row->gone ? -ENOENT : 0;
}

static int overlay_put(struct kv *kv, unsigned db, struct kv_bytes key, struct kv_bytes value)
{
    row_set(row_make((struct kv_overlay *)kv, db, key), value, false);
    return 0;
}

static int overlay_del(struct kv *kv, unsigned db, struct kv_bytes key)
{
    struct kv_bytes value;
    int rc = overlay_get(kv, db, key, &value);
    if (rc)
        return rc;
    row_set(row_make((struct kv_overlay *)kv, db, key), (struct kv_bytes){"", 0}, true);
    return 0;
}

/* The base's first row that shows through. */
static int seek_base(struct kv_overlay *o, unsigned db, struct kv_bytes from, bool after,
                     struct kv_bytes *key, struct kv_bytes *value)
{
    int rc = kv_seek(o->base, db, from, after, key, value);
    while (rc == 0 && find_equal(o, db, *key, NULL))
        rc = kv_seek(o->base, db, *key, true, key, value);
    return rc;
}

static int overlay_seek(struct kv *kv, unsigned db, struct kv_bytes from, bool after, struct kv_bytes *key,
                        struct kv_bytes *value)
{
    struct kv_overlay *o = (struct kv_overlay *)kv;
    struct kv_overlay_row *row = find(o, db, from, after, NULL);
    while (row && row->db == db && row->gone)
        row = row->next[0];
    int rc = seek_base(o, db, from, after, key, value);
    if (rc && rc != -ENOENT)
        return rc;
    if (!row || row->db != db || (rc == 0 && compare_row(db, *key, row) < 0))
        return rc;
    *key = (struct kv_bytes){row->key, row->key_len};
    *value = (struct kv_bytes){row->value, row->value_len};
    return 0;
}

void kv_overlay_init(struct kv_overlay *o, struct kv *base)
{
    static const struct kv_ops ops = {overlay_get, overlay_put, overlay_del, overlay_seek};
    memset(o, 0, sizeof(*o));
    o->kv.ops = &ops;
    o->base = base;
    o->random = 0x9e3779b97f4a7c15;
}

int kv_overlay_flush(struct kv_overlay *o)
{
    for (const struct kv_overlay_row *row = o->head[0]; row; row = row->next[0]) {
        struct kv_bytes key = {row->key, row->key_len}, value = {row->value, row->value_len};
        int rc = row->gone ? kv_del(o->base, row->db, key) : kv_put(o->base, row->db, key, value);
        /* It was made and taken away by the overlay's own writes. */
        if (rc && !(row->gone && rc == -ENOENT))
            return rc;
    }
    return 0;
}

void kv_overlay_fini(struct kv_overlay *o)
{
    struct kv_overlay_row *row = o->head[0];
    while (row) {
        struct kv_overlay_row *next = row->next[0];
        free(row->next);
        free(row->value);
        free(row);
        row = next;
    }
    memset(o->head, 0, sizeof(o->head));
}
