/* SPDX-License-Identifier: Apache-2.0 */
/* A ring's open blobs: their memory, and whether it holds together. */
#include <unistd.h>

#include "dataplane/store/store_private.h"

enum { ENTRIES_MIN = 1 << 12 };

int blobs_init(struct store_ring *r, size_t cache_bytes_max)
{
    size_t count = OPEN_FILES_CEILING + cache_bytes_max / CACHED_OBJECT_MEAN;
    r->buckets = ENTRIES_MIN;
    while (r->buckets < count / 2 && r->buckets < 1u << 24)
        r->buckets *= 2;
    int err = pool_init(&r->entries, sizeof(struct entry), (uint32_t)count);
    if (!err)
        err = pool_init(&r->waits, sizeof(struct wait), OPEN_WAITS);
    if (!err)
        err = pool_init(&r->paths, (BLOB_PATH_MAX > GONE_NAME_MAX ? BLOB_PATH_MAX : GONE_NAME_MAX) + 1,
                        OPEN_PATHS);
    if (!err)
        err = pool_init(&r->table, r->buckets * sizeof(*r->bucket), 1);
    if (!err)
        err = cache_init(&r->cache, cache_bytes_max);
    if (err) {
        blobs_fini(r);
        return err;
    }
    r->bucket = pool_take(&r->table);
    return 0;
}

static void lists_close(const struct entry_list *l)
{
    for (const struct entry *e = l->first; e; e = e->next)
        if (e->blob.fd >= 0)
            close(e->blob.fd);
}

void blobs_fini(struct store_ring *r)
{
    lists_close(&r->idle_files);
    cache_fini(&r->cache);
    pool_fini(&r->table);
    pool_fini(&r->paths);
    pool_fini(&r->waits);
    pool_fini(&r->entries);
}

static uint32_t list_check(const struct entry_list *l, bool bytes)
{
    uint32_t files = 0;
    const struct entry *prev = NULL;
    for (const struct entry *e = l->first; e; prev = e, e = e->next) {
        CHECK(e->prev == prev && e->listed && !e->detached && e->blob.refs == 0);
        CHECK(e->state == ENTRY_READY && (e->blob.bytes != NULL) == bytes && (e->blob.fd < 0) == bytes);
        files += e->blob.fd >= 0;
    }
    CHECK(l->last == prev);
    return files;
}

void blobs_check(const struct store_ring *r, bool idle)
{
    uint32_t idle_files = list_check(&r->idle_files, false), found = 0;
    list_check(&r->idle_bytes, true);
    for (uint32_t i = 0; i < r->buckets; i++) {
        for (const struct entry *e = r->bucket[i]; e; e = e->chain) {
            CHECK(entry_find(r, &e->blob.digest) == e && !e->detached);
            CHECK((e->state == ENTRY_READY) == !e->waits);
            CHECK(e->listed == (e->state == ENTRY_READY && e->blob.refs == 0));
            found++;
        }
    }
    CHECK(idle_files <= r->files && found <= r->entries.used);
    cache_check(&r->cache);
    if (idle) {
        CHECK(r->files == idle_files && r->entries.used == found);
        CHECK(r->waits.used == 0 && r->paths.used == 0);
    }
}
