/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A ring's open blobs, by digest. An entry's life:
 *
 *   OPENING -> [READING: a small one into memory, and its descriptor closed] -> READY -> (evicted) CLOSING ->
 * free
 *
 * An entry has a descriptor or bytes; those that nobody refers to stay, in the order of their last use, until
 * others need the descriptor or the memory. Whoever asks for a blob that is on its way waits in its entry. A
 * detached entry is in the table no more (forgotten, or found to be wrong); it goes with its last reference.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "dataplane/store/store_private.h"

enum {
    EVICT_FILES = 4, /* at most for one that comes, so that a lowered limit is met in the end */
    EVICT_PAGES = 4, /* of the cache, looked at for one block */
};

static void step(struct task *t);

static struct entry *entry_of(struct blob *b)
{
    return container_of(b, struct entry, blob);
}

/* ------------------------------------------------------------------ the table */

static struct entry **bucket_of(const struct store_ring *r, const struct digest *d)
{
    uint64_t h;
    memcpy(&h, d->bytes, sizeof(h));
    h = (h ^ r->seed) * 0x9e3779b97f4a7c15ull;
    return &r->bucket[(h >> 32) & (r->buckets - 1)];
}

struct entry *entry_find(const struct store_ring *r, const struct digest *d)
{
    struct entry *e = *bucket_of(r, d);
    while (e && !digest_equal(&e->blob.digest, d))
        e = e->chain;
    return e;
}

static void detach(struct store_ring *r, struct entry *e)
{
    if (e->detached)
        return;
    struct entry **at = bucket_of(r, &e->blob.digest);
    while (*at != e)
        at = &(*at)->chain;
    *at = e->chain;
    e->detached = true;
}

/* ------------------------------------------------------------------ unreferenced ones */

static struct entry_list *list_of(struct store_ring *r, const struct entry *e)
{
    return e->blob.bytes ? &r->idle_bytes : &r->idle_files;
}

static void list_append(struct store_ring *r, struct entry *e)
{
    struct entry_list *l = list_of(r, e);
    e->prev = l->last;
    e->next = NULL;
    *(l->last ? &l->last->next : &l->first) = e;
    l->last = e;
    e->listed = true;
}

static void list_remove(struct store_ring *r, struct entry *e)
{
    struct entry_list *l = list_of(r, e);
    *(e->prev ? &e->prev->next : &l->first) = e->next;
    *(e->next ? &e->next->prev : &l->last) = e->prev;
    e->listed = false;
}

static void memory_free(struct store_ring *r, struct entry *e)
{
    if (e->block != CACHE_NONE)
        cache_free(&r->cache, e->block);
    e->block = CACHE_NONE;
    e->blob.bytes = NULL;
}

static void file_close(struct store_ring *r, struct entry *e)
{
    task_order_close(&e->task, e->blob.fd);
    e->blob.fd = -1;
    r->files--;
}

/* Detached, out of its list, without references or waits: gives back what it has. */
static void destroy(struct store_ring *r, struct entry *e)
{
    CHECK(e->detached && !e->listed && !e->blob.refs && !e->waits);
    memory_free(r, e);
    e->state = ENTRY_CLOSING;
    if (e->blob.fd >= 0)
        file_close(r, e);
    else if (!e->task.op.inflight)
        pool_give(&r->entries, e);
}

static void evict(struct store_ring *r, struct entry *e)
{
    list_remove(r, e);
    detach(r, e);
    destroy(r, e);
}

/* Nobody refers to it: kept for the next one, if it can be found. */
static void settle(struct store_ring *r, struct entry *e)
{
    if (e->detached)
        destroy(r, e);
    else
        list_append(r, e);
}

/* ------------------------------------------------------------------ memory */

/* Gives the page of this entry's block back, as far as nobody refers to what is in it. */
static void evict_page(struct store_ring *r, uint32_t block)
{
    uint32_t owners[CACHE_PAGE_BLOCKS];
    uint32_t count = cache_page_owners(&r->cache, block, owners);
    for (uint32_t i = 0; i < count; i++) {
        struct entry *e = pool_at(&r->entries, owners[i]);
        if (e->listed)
            evict(r, e);
    }
}

/*
 * A block for the whole object. First objects of the longest unused go, one by one; if their places do not
 * join to a block that is large enough, whole pages. CACHE_NONE: all is referenced, more or less.
 */
static uint32_t memory_take(struct store_ring *r, struct entry *e)
{
    size_t size = e->blob.size ? (size_t)e->blob.size : 1;
    uint32_t owner = (uint32_t)((size_t)((uint8_t *)e - r->entries.base) / r->entries.size);
    uint32_t block = cache_alloc(&r->cache, size, owner);
    if (block == CACHE_NONE && r->idle_bytes.first) {
        evict(r, r->idle_bytes.first);
        block = cache_alloc(&r->cache, size, owner);
    }
    for (int i = 0; i < EVICT_PAGES && block == CACHE_NONE && r->idle_bytes.first; i++) {
        evict_page(r, r->idle_bytes.first->block);
        block = cache_alloc(&r->cache, size, owner);
    }
    return block;
}

/* ------------------------------------------------------------------ opening */

static bool is_small(uint64_t size)
{
    return size <= SMALL_OBJECT_MAX;
}

/* A descriptor's worth of room, by evicting if need be. */
static int file_take(struct store_ring *r)
{
    uint32_t max = atomic_load_explicit(&r->store->open_files, memory_order_relaxed);
    for (int i = 0; i < EVICT_FILES && r->files >= max && r->idle_files.first; i++)
        evict(r, r->idle_files.first);
    if (r->files >= max)
        return -EMFILE;
    r->files++;
    return 0;
}

static int entry_take(struct store_ring *r, const struct digest *d, struct entry **out)
{
    if (store_is_condemned(r->store, d))
        return -EBADMSG;
    struct entry *e = pool_take(&r->entries);
    char *path = pool_take(&r->paths);
    int err = e && path ? file_take(r) : -ENOMEM;
    if (err) {
        if (path)
            pool_give(&r->paths, path);
        if (e)
            pool_give(&r->entries, e);
        return err;
    }
    *e = (struct entry){.blob = {.digest = *d, .fd = -1}, .path = path, .block = CACHE_NONE};
    e->waits_last = &e->waits;
    e->state = ENTRY_OPENING;
    task_init(&e->task, r, step);
    *out = e;
    return 0;
}

static void order_open(struct store_ring *r, struct entry *e, int dirfd)
{
    loop_openat(r->loop, task_order(&e->task), dirfd, e->path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC, 0);
}

/*
 * In a store that other nodes have, too: a file that one of them has replaced between our look-up and our
 * open (ESTALE) is there under the same name; one that is not there may just be looked at by whoever removes
 * (remove.c), and be back a moment later. True: it is being opened again.
 */
static bool entry_open_again(struct store_ring *r, struct entry *e, int err)
{
    enum { TRIES_MAX = 2 };
    if (!r->store->shared || e->growing || e->tries == TRIES_MAX || (err != -ENOENT && err != -ESTALE))
        return false;
    e->tries++;
    bool gone = err == -ENOENT && e->tries == 1;
    if (gone)
        gone_name(&e->blob.digest, e->path);
    else
        blob_path(&e->blob.digest, e->path);
    order_open(r, e, gone ? r->store->damaged_dirfd : r->store->blobs_dirfd);
    return true;
}

static int entry_open(struct store_ring *r, const struct digest *d, struct entry **out)
{
    struct entry *e;
    int err = entry_take(r, d, &e);
    if (err)
        return err;
    struct entry **bucket = bucket_of(r, d);
    e->chain = *bucket;
    *bucket = e;
    blob_path(d, e->path);
    order_open(r, e, r->store->blobs_dirfd);
    *out = e;
    return 0;
}

static void order_read(struct store_ring *r, struct entry *e)
{
    e->state = ENTRY_READING;
    loop_read(r->loop, task_order(&e->task), e->blob.fd, cache_bytes(&r->cache, e->block) + e->read,
              (size_t)e->blob.size - e->read, e->read);
}

/* True if it is being read now; without memory for it the descriptor has to do. */
static bool read_begin(struct store_ring *r, struct entry *e)
{
    e->block = memory_take(r, e);
    if (e->block == CACHE_NONE)
        return false;
    e->read = 0;
    order_read(r, e);
    return true;
}

static int refer(struct store_ring *r, struct entry *e, uint64_t size, struct blob **out)
{
    if (e->blob.size != size) {
        store_suspect(r, &e->blob.digest);
        return -EBADMSG;
    }
    if (e->listed)
        list_remove(r, e);
    e->blob.refs++;
    *out = &e->blob;
    return 0;
}

static int wait_for(struct store_ring *r, struct entry *e, const struct wait *want)
{
    struct wait *wait = pool_take(&r->waits);
    if (!wait)
        return -ENOMEM;
    *wait = *want;
    *e->waits_last = wait;
    e->waits_last = &wait->next;
    return -EINPROGRESS;
}

int blob_open(struct store_ring *r, const struct digest *d, uint64_t size, bool want_bytes, struct blob **out,
              struct waiter *w)
{
    struct entry *e = entry_find(r, d);
    want_bytes = want_bytes && is_small(size);
    if (want_bytes)
        store_count(r, e && e->blob.bytes ? CTR_CACHE_HITS : CTR_CACHE_MISSES);
    if (e && e->state == ENTRY_READY && (e->blob.bytes || !want_bytes))
        return refer(r, e, size, out);
    if (r->waits.used == r->waits.count)
        return -ENOMEM;
    if (e && e->state == ENTRY_READY) {
        if (e->blob.size != size || e->blob.refs || e->listed == false)
            return refer(r, e, size, out);
        list_remove(r, e);
        if (!read_begin(r, e)) {
            list_append(r, e);
            return refer(r, e, size, out);
        }
    }
    int err = e ? 0 : entry_open(r, d, &e);
    if (err)
        return err;
    return wait_for(r, e, &(struct wait){.waiter = w, .out = out, .size = size, .want_bytes = want_bytes});
}

int blob_open_growing(struct store_ring *r, const char *name, size_t name_len, uint64_t size,
                      struct blob **out, struct waiter *w)
{
    static const struct digest none;
    struct entry *e;
    if (!session_name_valid(name, name_len))
        return -ENOENT;
    if (r->waits.used == r->waits.count)
        return -ENOMEM;
    int err = entry_take(r, &none, &e);
    if (err)
        return err;
    e->detached = e->growing = true; /* it never was in the table */
    memcpy(e->path, name, name_len);
    e->path[name_len] = '\0';
    loop_openat(r->loop, task_order(&e->task), r->store->uploads_dirfd, e->path,
                O_RDONLY | O_NOFOLLOW | O_CLOEXEC, 0);
    return wait_for(r, e, &(struct wait){.waiter = w, .out = out, .size = size});
}

/* ------------------------------------------------------------------ completions */

static void waits_wake(struct store_ring *r, struct wait *wait)
{
    while (wait) {
        struct wait done = *wait;
        pool_give(&r->waits, wait);
        wait = done.next;
        done.waiter->wake(done.waiter, done.res);
    }
}

static struct wait *waits_take(struct entry *e)
{
    struct wait *first = e->waits;
    e->waits = NULL;
    e->waits_last = &e->waits;
    return first;
}

/* All references are made before the first is woken: what they do then cannot take the entry from the others.
 */
static void ready(struct store_ring *r, struct entry *e)
{
    struct wait *waits = waits_take(e);
    bool wrong = false;
    e->state = ENTRY_READY;
    for (struct wait *w = waits; w; w = w->next) {
        w->res = refer(r, e, w->size, w->out);
        wrong |= w->res != 0;
    }
    if (wrong)
        detach(r, e); /* the next one looks at the file again: it may have been repaired */
    if (!e->blob.refs)
        settle(r, e);
    waits_wake(r, waits);
}

static void fail(struct store_ring *r, struct entry *e, int err)
{
    struct wait *waits = waits_take(e);
    for (struct wait *w = waits; w; w = w->next)
        w->res = err;
    detach(r, e);
    destroy(r, e);
    waits_wake(r, waits);
}

static bool bytes_wanted(const struct entry *e)
{
    for (const struct wait *w = e->waits; w; w = w->next)
        if (w->want_bytes)
            return true;
    return false;
}

static void opened(struct store_ring *r, struct entry *e)
{
    struct stat st;
    int res = e->task.res;
    if (entry_open_again(r, e, res))
        return;
    pool_give(&r->paths, e->path);
    e->path = NULL;
    if (res < 0) {
        r->files--;
        fail(r, e, res == -ENOENT ? res : store_error(r, res));
        return;
    }
    e->blob.fd = res;
    if (e->blob.damaged) {
        fail(r, e, -EBADMSG);
        return;
    }
    if (fstat(res, &st) || !S_ISREG(st.st_mode)) {
        fail(r, e, store_error(r, -EIO));
        return;
    }
    e->blob.size = (uint64_t)st.st_size;
    if (e->growing && e->blob.size > e->waits->size)
        e->blob.size = e->waits->size;
    if (!bytes_wanted(e) || !is_small(e->blob.size) || !read_begin(r, e))
        ready(r, e);
}

/* What goes into memory is served many times: it is compared with its digest once. */
static bool bytes_are_right(struct store_ring *r, const struct entry *e)
{
    struct digest d;
    store_digest(e->blob.digest.alg, cache_bytes(&r->cache, e->block), (size_t)e->blob.size, &d);
    return digest_equal(&d, &e->blob.digest);
}

static void read_some(struct store_ring *r, struct entry *e)
{
    int res = e->task.res;
    if (res < 0 || e->blob.damaged) {
        fail(r, e, res < 0 ? store_error(r, res) : -EBADMSG);
        return;
    }
    if (res == 0 && e->read < e->blob.size) { /* it has become shorter */
        store_suspect(r, &e->blob.digest);
        fail(r, e, -EBADMSG);
        return;
    }
    e->read += (uint32_t)res;
    if (e->read < e->blob.size) {
        order_read(r, e);
        return;
    }
    if (!bytes_are_right(r, e)) {
        store_suspect(r, &e->blob.digest);
        fail(r, e, -EBADMSG);
        return;
    }
    e->blob.bytes = cache_bytes(&r->cache, e->block);
    file_close(r, e);
    ready(r, e);
}

static void step(struct task *t)
{
    struct entry *e = container_of(t, struct entry, task);
    struct store_ring *r = t->ring;
    switch ((enum entry_state)e->state) {
    case ENTRY_OPENING:
        opened(r, e);
        break;
    case ENTRY_READING:
        read_some(r, e);
        break;
    case ENTRY_READY: /* its descriptor is closed: the bytes are in memory */
        break;
    case ENTRY_CLOSING:
        pool_give(&r->entries, e);
        break;
    }
}

/* ------------------------------------------------------------------ references */

void blob_get(struct blob *b)
{
    b->refs++;
}

void blob_put(struct store_ring *r, struct blob *b)
{
    CHECK(b->refs > 0);
    if (--b->refs == 0)
        settle(r, entry_of(b));
}

void blob_forget(struct store_ring *r, const struct digest *d)
{
    struct entry *e = entry_find(r, d);
    if (!e)
        return;
    if (e->listed)
        evict(r, e);
    else
        detach(r, e);
}

static void condemn(struct store_ring *r, struct entry *e)
{
    if (e->listed) {
        evict(r, e);
        return;
    }
    detach(r, e);
    e->blob.damaged = true;
}

void blob_condemn(struct store_ring *r, const struct digest *d)
{
    struct entry *e = entry_find(r, d);
    if (e)
        condemn(r, e);
}

void blobs_condemn_all(struct store_ring *r)
{
    for (uint32_t i = 0; i < r->buckets; i++)
        while (r->bucket[i])
            condemn(r, r->bucket[i]);
}

void blobs_forget_files(struct store_ring *r)
{
    while (r->idle_files.first)
        evict(r, r->idle_files.first);
}

void blobs_forget_all(struct store_ring *r)
{
    blobs_forget_files(r);
    while (r->idle_bytes.first)
        evict(r, r->idle_bytes.first);
}
