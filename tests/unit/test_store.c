/* SPDX-License-Identifier: Apache-2.0 */
/* Reading blobs, and writing whole small ones. */
#include "store_fixture.h"

enum { BIG = 100000 };

static struct fixture fx;

static int setup(void **state)
{
    (void)state;
    fixture_new(&fx, 1);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    fixture_free(&fx);
    return 0;
}

static int open_blob(const struct digest *d, uint64_t size, bool want_bytes, struct blob **out)
{
    struct wait_test w = waiting();
    *out = NULL;
    return settled(fx.loop, blob_open(fx.ring, d, size, want_bytes, out, &w.waiter), &w);
}

static int write_blob(const struct digest *d, const void *bytes, size_t len)
{
    struct wait_test w = waiting();
    return taken(fx.loop, blob_write(fx.ring, d, bytes, len, &w.waiter), &w);
}

/* ------------------------------------------------------------------ reading */

static void test_open_large(void **state)
{
    (void)state;
    static uint8_t bytes[BIG], back[BIG];
    struct blob *b, *again;
    fill(bytes, BIG, 1);
    struct digest d = plant_blob(&fx, bytes, BIG);
    assert_int_equal(open_blob(&d, BIG, true, &b), 0);
    assert_true(b->fd >= 0 && !b->bytes && b->size == BIG && b->refs == 1 && digest_equal(&b->digest, &d));
    assert_int_equal(pread(b->fd, back, BIG, 0), BIG);
    assert_memory_equal(bytes, back, BIG);
    uint64_t before = fx.loop->executed;
    assert_int_equal(open_blob(&d, BIG, false, &again), 0);
    assert_ptr_equal(b, again);
    assert_int_equal(b->refs, 2);
    assert_int_equal(fx.loop->executed, before);
    blob_get(b);
    for (int i = 0; i < 3; i++)
        blob_put(fx.ring, b);
}

static void test_open_small(void **state)
{
    (void)state;
    struct blob *b;
    struct digest d = plant_blob(&fx, "manifest", 8);
    assert_int_equal(open_blob(&d, 8, true, &b), 0);
    assert_int_equal(b->fd, -1);
    assert_memory_equal(b->bytes, "manifest", 8);
    blob_put(fx.ring, b);
    assert_int_equal(counted(&fx, CTR_CACHE_MISSES), 1);
    fake_run(fx.loop); /* the descriptor is closed behind */
    assert_int_equal(fx.loop->fds_open, 0);
    uint64_t before = fx.loop->executed;
    assert_int_equal(open_blob(&d, 8, true, &b), 0);
    assert_int_equal(counted(&fx, CTR_CACHE_HITS), 1);
    blob_put(fx.ring, b);
    assert_int_equal(open_blob(&d, 8, false, &b), 0); /* what is in memory serves those too who did not ask */
    assert_non_null(b->bytes);
    blob_put(fx.ring, b);
    assert_int_equal(fx.loop->executed, before);
}

static void test_open_borders(void **state)
{
    (void)state;
    static uint8_t bytes[SMALL_OBJECT_MAX + 1];
    struct blob *b;
    fill(bytes, sizeof(bytes), 3);
    struct digest empty = plant_blob(&fx, "", 0), most = plant_blob(&fx, bytes, SMALL_OBJECT_MAX),
                  over = plant_blob(&fx, bytes, SMALL_OBJECT_MAX + 1);
    assert_int_equal(open_blob(&empty, 0, true, &b), 0);
    assert_non_null(b->bytes);
    blob_put(fx.ring, b);
    assert_int_equal(open_blob(&most, SMALL_OBJECT_MAX, true, &b), 0);
    assert_memory_equal(b->bytes, bytes, SMALL_OBJECT_MAX);
    blob_put(fx.ring, b);
    assert_int_equal(open_blob(&over, SMALL_OBJECT_MAX + 1, true, &b), 0);
    assert_null(b->bytes);
    blob_put(fx.ring, b);
}

static void test_open_sha512(void **state)
{
    (void)state;
    struct blob *b;
    struct digest d = digest_of(DIGEST_SHA512, "abc", 3);
    plant(&fx, &d, "abc", 3);
    assert_int_equal(open_blob(&d, 3, true, &b), 0);
    assert_memory_equal(b->bytes, "abc", 3);
    blob_put(fx.ring, b);
}

/* What was found to be wrong is moved away. */
static void open_wrong(const struct digest *d, uint64_t size, bool bytes)
{
    struct blob *b;
    assert_int_equal(open_blob(d, size, bytes, &b), -EBADMSG);
    fake_run(fx.loop);
    store_ring_turn(fx.ring);
    assert_false(blob_there(&fx, d));
}

/* A file that turns up, or is repaired, is found at the next try: failures are not remembered. */
static void test_open_missing_and_damaged(void **state)
{
    (void)state;
    struct blob *b;
    struct digest d = digest_of(DIGEST_SHA256, "right", 5);
    assert_int_equal(open_blob(&d, 5, true, &b), -ENOENT);
    plant(&fx, &d, "wrong", 5);
    open_wrong(&d, 5, true);
    assert_int_equal(counted(&fx, CTR_BLOBS_DAMAGED), 1);
    plant(&fx, &d, "longer", 6);
    open_wrong(&d, 5, false);
    plant(&fx, &d, "cut", 3);
    open_wrong(&d, 5, true);
    plant(&fx, &d, "right", 5);
    assert_int_equal(open_blob(&d, 5, true, &b), 0);
    blob_put(fx.ring, b);
    assert_int_equal(open_blob(&d, 6, true, &b), -EBADMSG);
    fake_run(fx.loop);
    assert_true(blob_there(&fx, &d));
    assert_int_equal(counted(&fx, CTR_STORE_ERRORS), 0);
}

static void test_open_is_not_fooled(void **state)
{
    (void)state;
    struct blob *b;
    char path[BLOB_PATH_MAX + 1];
    struct digest link = digest_of(DIGEST_SHA256, "link", 4), folder = digest_of(DIGEST_SHA256, "folder", 6);
    blob_path(&link, path);
    assert_int_equal(symlinkat("/etc/passwd", fx.blobs, path), 0);
    assert_int_equal(open_blob(&link, 4, false, &b), -EIO);
    blob_path(&folder, path);
    assert_int_equal(mkdirat(fx.blobs, path, 0750), 0);
    assert_int_equal(open_blob(&folder, 4096, false, &b), -EIO);
}

/* Many want it while it is on its way: one open, and each is woken once. One of them believes in another
 * size. */
static void test_open_coalesced(void **state)
{
    (void)state;
    enum { N = 20 };
    struct wait_test w[N];
    struct blob *b[N];
    struct digest d = plant_blob(&fx, "shared", 6);
    for (int i = 0; i < N; i++) {
        w[i] = waiting();
        b[i] = NULL;
        assert_int_equal(blob_open(fx.ring, &d, i == 7 ? 5 : 6, i % 2, &b[i], &w[i].waiter), -EINPROGRESS);
    }
    fake_run(fx.loop);
    assert_int_equal(fx.loop->count[FAKE_OPENAT], 2); /* one of them to verify it */
    for (int i = 0; i < N; i++) {
        assert_int_equal(w[i].woken, 1);
        assert_int_equal(w[i].res, i == 7 ? -EBADMSG : 0);
        if (i == 7)
            continue;
        assert_ptr_equal(b[i], b[0]);
        assert_memory_equal(b[i]->bytes, "shared", 6);
        blob_put(fx.ring, b[i]);
    }
}

/* Open as a file because nobody wanted bytes then; the next one gets them if nobody uses the descriptor. */
static void test_bytes_later(void **state)
{
    (void)state;
    struct blob *file, *bytes;
    struct digest d = plant_blob(&fx, "later", 5);
    assert_int_equal(open_blob(&d, 5, false, &file), 0);
    assert_true(file->fd >= 0);
    assert_int_equal(open_blob(&d, 5, true, &bytes), 0);
    assert_ptr_equal(file, bytes);
    assert_null(bytes->bytes);
    blob_put(fx.ring, file);
    blob_put(fx.ring, bytes);
    assert_int_equal(open_blob(&d, 5, true, &bytes), 0);
    assert_memory_equal(bytes->bytes, "later", 5);
    blob_put(fx.ring, bytes);
    assert_int_equal(fx.loop->count[FAKE_OPENAT], 1);
}

static void test_forget(void **state)
{
    (void)state;
    struct wait_test w = waiting();
    struct blob *b, *other;
    char path[BLOB_PATH_MAX + 1];
    struct digest d = plant_blob(&fx, "deleted", 7);
    blob_path(&d, path);
    blob_forget(fx.ring, &d); /* not there: no matter */
    assert_int_equal(open_blob(&d, 7, true, &b), 0);
    blob_forget(fx.ring, &d);
    assert_int_equal(unlinkat(fx.blobs, path, 0), 0);
    assert_memory_equal(b->bytes, "deleted", 7); /* a pull that runs goes on */
    assert_int_equal(open_blob(&d, 7, true, &other), -ENOENT);
    blob_put(fx.ring, b);
    plant(&fx, &d, "deleted", 7);
    assert_int_equal(open_blob(&d, 7, false, &b), 0);
    blob_put(fx.ring, b);
    blob_forget(fx.ring, &d);
    /* While it is being opened. */
    assert_int_equal(blob_open(fx.ring, &d, 7, true, &b, &w.waiter), -EINPROGRESS);
    blob_forget(fx.ring, &d);
    fake_run(fx.loop);
    assert_int_equal(w.res, 0);
    blob_put(fx.ring, b);
    fixture_check_idle(&fx);
    assert_int_equal(fx.ring->entries.used, 0);
}

static void test_open_files_limit(void **state)
{
    (void)state;
    enum { LIMIT = 16, N = 40 };
    static uint8_t bytes[BIG];
    struct digest d[N];
    struct blob *b[LIMIT], *one;
    fx.tuning.open_files = LIMIT;
    fixture_tune(&fx);
    for (int i = 0; i < N; i++) {
        fill(bytes, BIG, (uint64_t)i);
        d[i] = plant_blob(&fx, bytes, BIG);
        assert_int_equal(open_blob(&d[i], BIG, false, &one), 0);
        blob_put(fx.ring, one);
        fixture_check_idle(&fx);
        assert_true(fx.loop->fds_open <= LIMIT);
    }
    uint64_t opens = fx.loop->count[FAKE_OPENAT];
    for (int i = 0; i < LIMIT; i++) /* the last ones are still there, the others are not */
        assert_int_equal(open_blob(&d[N - LIMIT + i], BIG, false, &b[i]), 0);
    assert_int_equal(fx.loop->count[FAKE_OPENAT], opens);
    assert_int_equal(open_blob(&d[0], BIG, false, &one), -EMFILE);
    blob_put(fx.ring, b[3]);
    assert_int_equal(open_blob(&d[0], BIG, false, &one), 0);
    b[3] = one;
    for (int i = 0; i < LIMIT; i++)
        blob_put(fx.ring, b[i]);
}

/* 1 MiB of cache: 16 objects of 64 KiB. The least lately used go; what is referenced stays; then files serve.
 */
static void test_cache_limit(void **state)
{
    (void)state;
    enum { ROOM = 16, N = 24 };
    static uint8_t bytes[N][SMALL_OBJECT_MAX];
    struct digest d[N];
    struct blob *b[ROOM], *one;
    for (int i = 0; i < N; i++) {
        fill(bytes[i], SMALL_OBJECT_MAX, (uint64_t)i + 1);
        d[i] = plant_blob(&fx, bytes[i], SMALL_OBJECT_MAX);
        assert_int_equal(open_blob(&d[i], SMALL_OBJECT_MAX, true, &one), 0);
        assert_memory_equal(one->bytes, bytes[i], SMALL_OBJECT_MAX);
        blob_put(fx.ring, one);
    }
    fixture_check_idle(&fx);
    uint64_t hits = counted(&fx, CTR_CACHE_HITS);
    for (int i = 0; i < ROOM; i++)
        assert_int_equal(open_blob(&d[N - ROOM + i], SMALL_OBJECT_MAX, true, &b[i]), 0);
    assert_int_equal(counted(&fx, CTR_CACHE_HITS), hits + ROOM);
    assert_int_equal(open_blob(&d[0], SMALL_OBJECT_MAX, true, &one), 0);
    assert_true(!one->bytes && one->fd >= 0);
    blob_put(fx.ring, one);
    for (int i = 0; i < ROOM; i++) {
        assert_memory_equal(b[i]->bytes, bytes[N - ROOM + i], SMALL_OBJECT_MAX);
        blob_put(fx.ring, b[i]);
    }
    assert_int_equal(open_blob(&d[0], SMALL_OBJECT_MAX, true, &one), 0);
    assert_memory_equal(one->bytes, bytes[0], SMALL_OBJECT_MAX);
    blob_put(fx.ring, one);
}

/* The cache is full of small ones, some referenced all over it: there is room for a large one all the same.
 */
static void test_cache_defragments(void **state)
{
    (void)state;
    enum { N = 2048 };
    static uint8_t bytes[SMALL_OBJECT_MAX];
    static struct blob *held[N];
    struct blob *large;
    for (uint32_t i = 0; i < N; i++) {
        struct digest d = plant_blob(&fx, &i, sizeof(i));
        assert_int_equal(open_blob(&d, sizeof(i), true, &held[i]), 0);
        assert_non_null(held[i]->bytes);
    }
    fake_run(fx.loop);
    for (uint32_t i = 0; i < N; i++) /* one in each page but one stays */
        if (i % CACHE_PAGE_BLOCKS || i / CACHE_PAGE_BLOCKS == 3)
            blob_put(fx.ring, held[i]);
    fill(bytes, sizeof(bytes), 5);
    struct digest d = plant_blob(&fx, bytes, sizeof(bytes));
    assert_int_equal(open_blob(&d, sizeof(bytes), true, &large), 0);
    assert_non_null(large->bytes);
    blob_put(fx.ring, large);
    for (uint32_t i = 0; i < N; i += CACHE_PAGE_BLOCKS) {
        if (i / CACHE_PAGE_BLOCKS == 3)
            continue;
        assert_memory_equal(held[i]->bytes, &i, sizeof(i));
        blob_put(fx.ring, held[i]);
    }
}

static void test_waits_exhausted(void **state)
{
    (void)state;
    static struct wait_test w[OPEN_WAITS + 1];
    static struct blob *b[OPEN_WAITS + 1];
    struct digest d = plant_blob(&fx, "popular", 7);
    for (int i = 0; i <= OPEN_WAITS; i++) {
        w[i] = waiting();
        assert_int_equal(blob_open(fx.ring, &d, 7, true, &b[i], &w[i].waiter),
                         i < OPEN_WAITS ? -EINPROGRESS : -ENOMEM);
    }
    fake_run(fx.loop);
    for (int i = 0; i < OPEN_WAITS; i++) {
        assert_int_equal(w[i].res, 0);
        blob_put(fx.ring, b[i]);
    }
    assert_int_equal(w[OPEN_WAITS].woken, 0);
}

static void test_paths_exhausted(void **state)
{
    (void)state;
    static struct wait_test w[OPEN_PATHS + 1];
    static struct blob *b[OPEN_PATHS + 1];
    fx.tuning.open_files = OPEN_FILES_CEILING;
    fixture_tune(&fx);
    for (uint32_t i = 0; i <= OPEN_PATHS; i++) {
        struct digest d = digest_of(DIGEST_SHA256, &i, sizeof(i));
        w[i] = waiting();
        assert_int_equal(blob_open(fx.ring, &d, 7, true, &b[i], &w[i].waiter),
                         i < OPEN_PATHS ? -EINPROGRESS : -ENOMEM);
    }
    store_ring_check(fx.ring, false);
    fake_run(fx.loop);
    for (int i = 0; i < OPEN_PATHS; i++)
        assert_int_equal(w[i].res, -ENOENT);
}

/* A waiter may use the store from within its wake. */
struct chain_test {
    struct waiter waiter; /* first */
    struct digest d;
    struct blob *b;
    unsigned left;
};

static void chain_wake(struct waiter *w, int res)
{
    struct chain_test *c = (struct chain_test *)w;
    if (res == 0) {
        blob_put(fx.ring, c->b);
        blob_forget(fx.ring, &c->d);
    }
    if (--c->left)
        assert_int_equal(blob_open(fx.ring, &c->d, 5, c->left % 2, &c->b, w), -EINPROGRESS);
}

static void test_wake_reenters(void **state)
{
    (void)state;
    struct digest d = plant_blob(&fx, "again", 5);
    struct chain_test c[4];
    for (int i = 0; i < 4; i++) {
        c[i] = (struct chain_test){.waiter.wake = chain_wake, .d = d, .left = 50};
        assert_int_equal(blob_open(fx.ring, &d, 5, true, &c[i].b, &c[i].waiter), -EINPROGRESS);
    }
    fake_run(fx.loop);
    for (int i = 0; i < 4; i++)
        assert_int_equal(c[i].left, 0);
}

/* ------------------------------------------------------------------ writing */

static void test_write(void **state)
{
    (void)state;
    struct blob *b;
    struct digest d = digest_of(DIGEST_SHA256, "{}", 2), d512 = digest_of(DIGEST_SHA512, "", 0);
    assert_int_equal(write_blob(&d, "{}", 2), 0);
    assert_true(blob_durable(&fx, &d));
    assert_int_equal(write_blob(&d512, "", 0), 0);
    assert_int_equal(write_blob(&d, "{}", 2), 0);
    assert_true(blob_durable(&fx, &d));
    assert_int_equal(check_blobs(&fx), 2);
    assert_int_equal(files_in(fx.uploads), 0);
    assert_int_equal(open_blob(&d, 2, true, &b), 0);
    blob_put(fx.ring, b);
}

static void test_write_without_sync(void **state)
{
    (void)state;
    struct digest d = digest_of(DIGEST_SHA256, "{}", 2);
    fx.tuning.sync = false;
    fixture_tune(&fx);
    assert_int_equal(write_blob(&d, "{}", 2), 0);
    assert_int_equal(fx.loop->count[FAKE_FSYNC], 0);
    assert_int_equal(check_blobs(&fx), 1);
}

static void test_write_repairs(void **state)
{
    (void)state;
    struct blob *b;
    struct digest d = digest_of(DIGEST_SHA256, "good", 4);
    plant(&fx, &d, "evil", 4);
    assert_int_equal(open_blob(&d, 4, true, &b), -EBADMSG);
    assert_int_equal(write_blob(&d, "good", 4), 0);
    assert_int_equal(open_blob(&d, 4, true, &b), 0);
    blob_put(fx.ring, b);
}

static void test_write_exhausted(void **state)
{
    (void)state;
    static struct wait_test w[WRITE_JOBS + 1];
    static uint32_t bytes[WRITE_JOBS + 1];
    for (uint32_t i = 0; i <= WRITE_JOBS; i++) {
        bytes[i] = i / 2; /* each digest twice at a time */
        struct digest d = digest_of(DIGEST_SHA256, &bytes[i], sizeof(bytes[i]));
        w[i] = waiting();
        assert_int_equal(blob_write(fx.ring, &d, &bytes[i], sizeof(bytes[i]), &w[i].waiter),
                         i < WRITE_JOBS ? 0 : -EAGAIN);
    }
    fake_run(fx.loop);
    for (int i = 0; i < WRITE_JOBS; i++) {
        assert_int_equal(w[i].woken, 1);
        assert_int_equal(w[i].res, 0);
    }
    assert_int_equal(check_blobs(&fx), WRITE_JOBS / 2);
}

static void test_write_reserve(void **state)
{
    (void)state;
    struct blob *b;
    struct digest d = digest_of(DIGEST_SHA256, "full", 4), old = plant_blob(&fx, "old", 3);
    fx.tuning.reserve = INT64_MAX;
    fixture_tune(&fx);
    assert_int_equal(write_blob(&d, "full", 4), -ENOSPC);
    assert_int_equal(counted(&fx, CTR_STORE_FULL), 1);
    assert_int_equal(open_blob(&old, 3, true, &b), 0); /* pulls go on */
    blob_put(fx.ring, b);
    fx.tuning.reserve = 0;
    fixture_tune(&fx);
    assert_int_equal(write_blob(&d, "full", 4), 0);
}

static int settle(const struct digest *d)
{
    struct wait_test w = waiting();
    return settled(fx.loop, blob_settle(fx.ring, d, &w.waiter), &w);
}

/* A file that is there need not be on the disk yet: whoever says that it is kept has its folder synced. */
static void test_settle(void **state)
{
    (void)state;
    struct blob *b;
    struct wait_test w = waiting();
    struct digest d = digest_of(DIGEST_SHA256, "on its way", 10);
    assert_int_equal(blob_write(fx.ring, &d, "on its way", 10, &w.waiter), 0);
    while (!blob_there(&fx, &d))
        assert_true(fake_turn(fx.loop) > 0);
    assert_int_equal(open_blob(&d, 10, false, &b), 0);
    blob_put(fx.ring, b);
    assert_int_equal(settle(&d), 0);
    assert_true(blob_durable(&fx, &d));
    fake_run(fx.loop);
    fx.tuning.sync = false;
    fixture_tune(&fx);
    w = waiting();
    assert_int_equal(blob_settle(fx.ring, &d, &w.waiter), 0);
    fx.tuning.sync = true;
    fixture_tune(&fx);
}

/* A crash between any two steps: a restart removes the temporary file, and blobs/ has whole files only. */
static void test_write_killed(void **state)
{
    (void)state;
    static const char bytes[] = "written or not there";
    struct digest d = digest_of(DIGEST_SHA256, bytes, sizeof(bytes));
    bool more = true;
    for (int turns = 0; more; turns++) {
        struct wait_test w = waiting();
        assert_int_equal(blob_write(fx.ring, &d, bytes, sizeof(bytes), &w.waiter), 0);
        for (int i = 0; i < turns; i++)
            more = fx.loop->pending_count && fake_turn(fx.loop) > 0;
        if (w.woken)
            assert_true(blob_there(&fx, &d));
        fixture_kill(&fx);
        fixture_open(&fx, (uint64_t)turns + 2);
        assert_int_equal(files_in(fx.uploads), 0);
        check_blobs(&fx);
        char path[BLOB_PATH_MAX + 1];
        blob_path(&d, path);
        more |= turns == 0;
        (void)unlinkat(fx.blobs, path, 0);
    }
}

/* ------------------------------------------------------------------ faults */

/* The same story with a fault at the first execution, at the second, ... until none is hit. */
static void story_read(struct fixture *f)
{
    static uint8_t large[BIG];
    struct blob *b;
    fill(large, BIG, 9);
    struct digest dl = plant_blob(f, large, BIG), ds = plant_blob(f, "small", 5);
    int err = open_blob(&ds, 5, true, &b);
    assert_true(err == 0 || err == -EIO || err == -EMFILE);
    if (err == 0) {
        assert_memory_equal(b->bytes, "small", 5);
        blob_put(f->ring, b);
    }
    err = open_blob(&dl, BIG, false, &b);
    assert_true(err == 0 || err == -EIO || err == -EMFILE);
    if (err == 0)
        blob_put(f->ring, b);
    fake_run(f->loop);
    fake_fault_end(f->loop);
    assert_int_equal(open_blob(&ds, 5, true, &b), 0); /* nothing of it sticks */
    blob_put(f->ring, b);
    assert_int_equal(open_blob(&dl, BIG, true, &b), 0);
    blob_put(f->ring, b);
}

static void story_write(struct fixture *f)
{
    struct digest d = digest_of(DIGEST_SHA256, "manifest", 8);
    int err = write_blob(&d, "manifest", 8);
    assert_true(err == 0 || err == -EIO || err == -EMFILE || err == -ENOSPC);
    if (err == 0) {
        assert_true(blob_durable(f, &d));
        assert_int_equal(check_blobs(f), 1);
    }
    fake_run(f->loop);
    bool lied = f->loop->fault == FAULT_LIE || f->loop->fault == FAULT_EIO; /* perhaps of the removal */
    if (!lied)
        assert_int_equal(files_in(f->uploads), 0);
    assert_true(err == 0 || counted(f, CTR_STORE_ERRORS) + counted(f, CTR_STORE_FULL) > 0);
    fake_fault_end(f->loop);
    assert_int_equal(write_blob(&d, "manifest", 8), 0);
}

static void story_settle(struct fixture *f)
{
    struct digest d = plant_blob(f, "settled", 7);
    int err = settle(&d);
    assert_true(err == 0 || err == -EIO || err == -EMFILE || err == -ENOSPC);
    assert_true(err == 0 || counted(f, CTR_STORE_ERRORS) + counted(f, CTR_STORE_FULL) > 0);
    fake_fault_end(f->loop);
    assert_int_equal(settle(&d), 0);
}

static void each_fault(void (*story)(struct fixture *f))
{
    for (int fault = FAULT_NONE + 1; fault < FAULTS; fault++) {
        bool hit = true;
        unsigned at;
        for (at = 1; hit; at++) {
            assert_true(at < 100);
            fake_fault(fx.loop, (enum fake_fault)fault, at);
            story(&fx);
            hit = fx.loop->fault_hit;
            fixture_check_idle(&fx);
            check_blobs(&fx);
            fixture_restart(&fx, at + 100 * (unsigned)fault);
            assert_int_equal(files_in(fx.uploads), 0);
        }
        assert_true(at > 2 || story == story_settle || (fault == FAULT_ENOSPC && story == story_read));
    }
}

static void test_read_faults(void **state)
{
    (void)state;
    each_fault(story_read);
}

static void test_write_faults(void **state)
{
    (void)state;
    each_fault(story_write);
    each_fault(story_settle);
}

/* ------------------------------------------------------------------ a model under random commands */

enum { MODEL_BLOBS = 120, MODEL_OPENS = 48, MODEL_STEPS = 3000, MODEL_BYTES_MAX = 80000 };

struct model_open {
    struct wait_test wait; /* first */
    bool asked;            /* and not yet woken */
    unsigned which;
    struct blob *blob;
};

struct model {
    struct digest d[MODEL_BLOBS];
    size_t size[MODEL_BLOBS];
    struct model_open open[MODEL_OPENS];
    struct loop random;
    unsigned served;
};

static const uint8_t *model_bytes(const struct model *m, unsigned which)
{
    static uint8_t bytes[MODEL_BYTES_MAX];
    fill(bytes, m->size[which], which + 1);
    return bytes;
}

static void model_init(struct model *m, uint64_t seed)
{
    *m = (struct model){.random.seed = seed * 2 + 1};
    for (unsigned i = 0; i < MODEL_BLOBS; i++) {
        uint32_t r = fake_random(&m->random);
        m->size[i] = r % 4 == 0 ? r / 4 % MODEL_BYTES_MAX : r % 4 == 1 ? r / 4 % 600 : r / 4 % 9000;
        m->d[i] = digest_of(i % 2 ? DIGEST_SHA256 : DIGEST_SHA512, model_bytes(m, i), m->size[i]);
    }
}

/* What came is the blob asked for, and nothing damaged is passed off as it. */
static void model_check_open(struct model *m, struct model_open *o)
{
    static uint8_t back[MODEL_BYTES_MAX + 1];
    const struct blob *b = o->blob;
    assert_true(digest_equal(&b->digest, &m->d[o->which]));
    assert_int_equal(b->size, m->size[o->which]);
    assert_true((b->fd < 0) == (b->bytes != NULL));
    if (b->bytes)
        assert_memory_equal(b->bytes, model_bytes(m, o->which), b->size);
    else
        assert_int_equal(pread(b->fd, back, sizeof(back), 0), b->size);
    m->served++;
}

static void model_open(struct model *m, struct model_open *o, uint32_t r)
{
    o->wait = waiting();
    o->blob = NULL;
    o->which = r % MODEL_BLOBS;
    int err = blob_open(fx.ring, &m->d[o->which], m->size[o->which], r / 128 % 3, &o->blob, &o->wait.waiter);
    o->asked = err == -EINPROGRESS;
    if (err == 0)
        model_check_open(m, o);
    else
        assert_true(o->asked || err == -EMFILE || err == -EBADMSG);
}

static void model_settle(struct model *m)
{
    for (int i = 0; i < MODEL_OPENS; i++) {
        struct model_open *o = &m->open[i];
        if (!o->asked || !o->wait.woken)
            continue;
        o->asked = false;
        if (o->wait.res == 0)
            model_check_open(m, o);
        else
            o->blob = NULL;
        assert_true(o->wait.res == 0 || o->wait.res == -EIO || o->wait.res == -ENOENT ||
                    o->wait.res == -EMFILE || o->wait.res == -EBADMSG);
    }
}

/* Replaces a blob's file as a push would: by a rename. The damaged one has the right size. */
static void model_change_file(struct model *m, unsigned which, uint32_t r)
{
    char path[BLOB_PATH_MAX + 1];
    blob_path(&m->d[which], path);
    (void)unlinkat(fx.blobs, path, 0);
    blob_forget(fx.ring, &m->d[which]);
    if (r % 4 == 0)
        return;
    uint8_t *bytes = (uint8_t *)(uintptr_t)model_bytes(m, which);
    if (r % 4 == 1 && m->size[which])
        bytes[r / 4 % m->size[which]] ^= 1;
    plant(&fx, &m->d[which], bytes, m->size[which]);
}

static void model_step(struct model *m)
{
    uint32_t r = fake_random(&m->random);
    struct model_open *o = &m->open[r % MODEL_OPENS];
    fake_fault(fx.loop, (enum fake_fault)(r / 4096 % FAULT_LIE), r / 64 % 16);
    if (r / 64 % 8 == 0)
        model_change_file(m, r / 512 % MODEL_BLOBS, r / 65536);
    else if (!o->asked && !o->blob)
        model_open(m, o, fake_random(&m->random));
    else if (!o->asked) {
        blob_put(fx.ring, o->blob);
        o->blob = NULL;
    }
    if (r / 1024 % 2)
        fake_turn(fx.loop);
    fake_fault_end(fx.loop);
    store_ring_turn(fx.ring);
    model_settle(m);
}

static void test_model(void **state)
{
    (void)state;
    static struct model m;
    for (uint64_t seed = 1; seed <= 6; seed++) {
        fx.tuning.open_files = 24;
        fixture_tune(&fx);
        model_init(&m, seed);
        for (unsigned step = 0; step < MODEL_STEPS; step++) {
            model_step(&m);
            if (step % 64 == 0)
                store_ring_check(fx.ring, false);
        }
        fake_run(fx.loop);
        model_settle(&m);
        for (int i = 0; i < MODEL_OPENS; i++)
            if (m.open[i].blob)
                blob_put(fx.ring, m.open[i].blob);
        assert_true(m.served > MODEL_STEPS / 10 && counted(&fx, CTR_CACHE_HITS) > 0);
        teardown(NULL);
        setup(NULL);
    }
}

/* The cache alone: blocks never overlap, and all memory comes back in one piece. */
static void test_cache_random(void **state)
{
    (void)state;
    enum { PAGES = 6, N = 300 };
    struct cache c;
    struct loop random = {.seed = 4711};
    uint32_t block[N], seen[CACHE_PAGE_BLOCKS];
    size_t size[N];
    for (int i = 0; i < N; i++)
        block[i] = CACHE_NONE;
    assert_int_equal(cache_init(&c, PAGES * CACHE_PAGE_BYTES), 0);
    for (int step = 0; step < 20000; step++) {
        uint32_t r = fake_random(&random), i = r % N;
        if (block[i] != CACHE_NONE) {
            for (size_t at = 0; at < size[i]; at++)
                assert_int_equal(cache_bytes(&c, block[i])[at], (uint8_t)i);
            cache_free(&c, block[i]);
            block[i] = CACHE_NONE;
        } else {
            size[i] = 1 + r / 512 % (r % 7 ? 2000 : CACHE_PAGE_BYTES);
            block[i] = cache_alloc(&c, size[i], i);
            if (block[i] != CACHE_NONE)
                memset(cache_bytes(&c, block[i]), (int)i, size[i]);
        }
        if (step % 100 == 0)
            cache_check(&c);
        if (block[i] != CACHE_NONE) {
            uint32_t owners = cache_page_owners(&c, block[i], seen), found = 0;
            for (uint32_t k = 0; k < owners; k++)
                found += seen[k] == i;
            assert_int_equal(found, 1);
        }
    }
    for (int i = 0; i < N; i++)
        if (block[i] != CACHE_NONE)
            cache_free(&c, block[i]);
    cache_check(&c);
    for (int i = 0; i < PAGES; i++)
        assert_true(cache_alloc(&c, CACHE_PAGE_BYTES, 0) != CACHE_NONE);
    assert_int_equal(cache_alloc(&c, 1, 0), CACHE_NONE);
    cache_fini(&c);
}

/* ------------------------------------------------------------------ start */

static void test_start_refusals(void **state)
{
    (void)state;
    struct store *s;
    const char *why = NULL;
    int other = open("/proc", O_DIRECTORY | O_RDONLY);
    assert_int_equal(store_new(&(struct store_folders){fx.blobs, other, fx.damaged}, &fx.tuning, &s, &why),
                     -EXDEV);
    assert_non_null(strstr(why, "one file system"));
    assert_true(store_new(&(struct store_folders){other, other, other}, &fx.tuning, &s, &why) < 0);
    close(other);
    assert_true(store_new(&(struct store_folders){-1, fx.uploads, fx.damaged}, &fx.tuning, &s, &why) < 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        TEST(test_open_large),
        TEST(test_open_small),
        TEST(test_open_borders),
        TEST(test_open_sha512),
        TEST(test_open_missing_and_damaged),
        TEST(test_open_is_not_fooled),
        TEST(test_open_coalesced),
        TEST(test_bytes_later),
        TEST(test_forget),
        TEST(test_open_files_limit),
        TEST(test_cache_limit),
        TEST(test_cache_defragments),
        TEST(test_waits_exhausted),
        TEST(test_paths_exhausted),
        TEST(test_wake_reenters),
        TEST(test_write),
        TEST(test_write_without_sync),
        TEST(test_write_repairs),
        TEST(test_write_exhausted),
        TEST(test_write_reserve),
        TEST(test_settle),
        TEST(test_write_killed),
        TEST(test_read_faults),
        TEST(test_write_faults),
        TEST(test_model),
        TEST(test_cache_random),
        TEST(test_start_refusals),
#undef TEST
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
