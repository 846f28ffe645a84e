/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An ordered key-value transaction, as the state machine sees it: it reads and writes through this table and
 * knows neither files nor libraries. The databases of the names file (names.h) and of the private file have
 * one numbering.
 *
 * Every operation returns 0 or -errno. Any error but -ENOENT means that the transaction must be given up as a
 * whole: what the operations before it wrote must not become visible.
 */
#ifndef FL_STATE_KV_H
#define FL_STATE_KV_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>

#include "names.h"

/* The private file's databases, numbered after those of the names file. */
enum private_db {
    PRIVATE_META = NAMES_DB_COUNT, /* key "state" -> struct names_meta */
    PRIVATE_DATA,                  /* "setting:KEY" -> the value's text; services: state_service.h */
    STATE_DB_COUNT
};
#define PRIVATE_DB_NAMES                                                                                     \
    {                                                                                                        \
        "meta", "data"                                                                                       \
    }

struct kv_bytes {
    const void *data;
    size_t len;
};

struct kv;

struct kv_ops {
    /* -ENOENT if the key is not there. *value is valid until the next put or del. */
    int (*get)(struct kv *kv, unsigned db, struct kv_bytes key, struct kv_bytes *value);
    /* Makes or replaces the row. Copies key and value. */
    int (*put)(struct kv *kv, unsigned db, struct kv_bytes key, struct kv_bytes value);
    /* -ENOENT if the key is not there. */
    int (*del)(struct kv *kv, unsigned db, struct kv_bytes key);
    /* The first row whose key is at or after `from` in byte order (`after`: strictly after it); -ENOENT if
     * there is none. *key and *value are valid until the next put or del. */
    int (*seek)(struct kv *kv, unsigned db, struct kv_bytes from, bool after, struct kv_bytes *key,
                struct kv_bytes *value);
};

/* Embedded in the implementation. */
struct kv {
    const struct kv_ops *ops;
};

static inline int kv_get(struct kv *kv, unsigned db, struct kv_bytes key, struct kv_bytes *value)
{
    return kv->ops->get(kv, db, key, value);
}

static inline int kv_put(struct kv *kv, unsigned db, struct kv_bytes key, struct kv_bytes value)
{
    return kv->ops->put(kv, db, key, value);
}

static inline int kv_del(struct kv *kv, unsigned db, struct kv_bytes key)
{
    return kv->ops->del(kv, db, key);
}

static inline int kv_seek(struct kv *kv, unsigned db, struct kv_bytes from, bool after, struct kv_bytes *key,
                          struct kv_bytes *value)
{
    return kv->ops->seek(kv, db, from, after, key, value);
}

#endif
