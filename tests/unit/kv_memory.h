/* SPDX-License-Identifier: Apache-2.0 */
/* A key-value transaction in memory: one sorted array of rows a database. Slow and obviously right. */
#ifndef FL_KV_MEMORY_H
#define FL_KV_MEMORY_H

#include <stdlib.h>

#include "check.h"
#include "control/state/kv.h"

struct kv_memory_row {
    uint8_t *key, *value;
    size_t key_len, value_len;
};

struct kv_memory {
    struct kv kv;
    struct {
        struct kv_memory_row *row;
        size_t count;
    } db[STATE_DB_COUNT];
    uint64_t writes;
};

static inline int kv_memory_compare(const struct kv_memory_row *row, struct kv_bytes key)
{
    size_t len = row->key_len < key.len ? row->key_len : key.len;
    int c = len ? memcmp(row->key, key.data, len) : 0;
    return c ? c : (row->key_len > key.len) - (row->key_len < key.len);
}

/* Position of the first row at or after key. */
static inline size_t kv_memory_find(struct kv_memory *m, unsigned db, struct kv_bytes key, bool *equal)
{
    size_t i = 0;
    while (i < m->db[db].count && kv_memory_compare(&m->db[db].row[i], key) < 0)
        i++;
    *equal = i < m->db[db].count && kv_memory_compare(&m->db[db].row[i], key) == 0;
    return i;
}

static inline uint8_t *kv_memory_copy(struct kv_bytes b)
{
    uint8_t *copy = malloc(b.len ? b.len : 1);
    CHECK(copy);
    if (b.len)
        memcpy(copy, b.data, b.len);
    return copy;
}

static inline int kv_memory_get(struct kv *kv, unsigned db, struct kv_bytes key, struct kv_bytes *value)
{
    struct kv_memory *m = (struct kv_memory *)kv;
    bool equal;
    size_t i = kv_memory_find(m, db, key, &equal);
    if (!equal)
        return -ENOENT;
    *value = (struct kv_bytes){m->db[db].row[i].value, m->db[db].row[i].value_len};
    return 0;
}

static inline int kv_memory_del(struct kv *kv, unsigned db, struct kv_bytes key)
{
    struct kv_memory *m = (struct kv_memory *)kv;
    bool equal;
    size_t i = kv_memory_find(m, db, key, &equal);
    if (!equal)
        return -ENOENT;
    m->writes++;
    free(m->db[db].row[i].key);
    free(m->db[db].row[i].value);
    m->db[db].count--;
    memmove(&m->db[db].row[i], &m->db[db].row[i + 1], (m->db[db].count - i) * sizeof(struct kv_memory_row));
    return 0;
}

/* The new value may lie in the row that it replaces: it is copied first. */
static inline int kv_memory_put(struct kv *kv, unsigned db, struct kv_bytes key, struct kv_bytes value)
{
    struct kv_memory *m = (struct kv_memory *)kv;
    struct kv_memory_row row = {kv_memory_copy(key), kv_memory_copy(value), key.len, value.len};
    bool equal;
    CHECK(key.len > 0 && key.len <= NAMES_KEY_MAX);
    size_t i = kv_memory_find(m, db, key, &equal);
    if (equal) {
        free(m->db[db].row[i].key);
        free(m->db[db].row[i].value);
    } else {
        m->db[db].row = realloc(m->db[db].row, (m->db[db].count + 1) * sizeof(row));
        CHECK(m->db[db].row);
        memmove(&m->db[db].row[i + 1], &m->db[db].row[i], (m->db[db].count - i) * sizeof(row));
        m->db[db].count++;
    }
    m->writes++;
    m->db[db].row[i] = row;
    return 0;
}

static inline int kv_memory_seek(struct kv *kv, unsigned db, struct kv_bytes from, bool after,
                                 struct kv_bytes *key, struct kv_bytes *value)
{
    struct kv_memory *m = (struct kv_memory *)kv;
    bool equal;
    size_t i = kv_memory_find(m, db, from, &equal);
    i += equal && after;
    if (i == m->db[db].count)
        return -ENOENT;
    const struct kv_memory_row *row = &m->db[db].row[i];
    *key = (struct kv_bytes){row->key, row->key_len};
    *value = (struct kv_bytes){row->value, row->value_len};
    return 0;
}

static const struct kv_ops kv_memory_ops = {kv_memory_get, kv_memory_put, kv_memory_del, kv_memory_seek};

static inline void kv_memory_init(struct kv_memory *m)
{
    memset(m, 0, sizeof(*m));
    m->kv.ops = &kv_memory_ops;
}

static inline void kv_memory_fini(struct kv_memory *m)
{
    for (unsigned db = 0; db < STATE_DB_COUNT; db++) {
        for (size_t i = 0; i < m->db[db].count; i++) {
            free(m->db[db].row[i].key);
            free(m->db[db].row[i].value);
        }
        free(m->db[db].row);
    }
}

#endif
