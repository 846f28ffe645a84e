/* SPDX-License-Identifier: Apache-2.0 */
/* Upload sessions: contract, restarts, faults, expiry; and a model under random commands. */
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>

#include "store_fixture.h"

#define REPO     "library/alpine"
#define REPO_LEN (sizeof(REPO) - 1)

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

static int create_in(struct fixture *f, uint8_t alg, struct upload **u)
{
    struct wait_test w = waiting();
    *u = NULL;
    return settled(f->loop, upload_create(f->ring, REPO, REPO_LEN, alg, u, &w.waiter), &w);
}

static struct upload *create(void)
{
    struct upload *u;
    assert_int_equal(create_in(&fx, DIGEST_SHA256, &u), 0);
    return u;
}

static int checkout_in(struct fixture *f, const char *id, struct upload **u)
{
    struct wait_test w = waiting();
    *u = NULL;
    return settled(f->loop, upload_checkout(f->ring, id, strlen(id), REPO, REPO_LEN, u, &w.waiter), &w);
}

static int append_in(struct fixture *f, struct upload *u, const void *bytes, size_t len)
{
    struct wait_test w = waiting();
    return taken(f->loop, upload_append(u, bytes, len, &w.waiter), &w);
}

static int append(struct upload *u, const void *bytes, size_t len)
{
    return append_in(&fx, u, bytes, len);
}

static int commit_in(struct fixture *f, struct upload *u, const struct digest *d)
{
    struct wait_test w = waiting();
    return taken(f->loop, upload_commit(u, d, &w.waiter), &w);
}

static int commit(struct upload *u, const struct digest *d)
{
    return commit_in(&fx, u, d);
}

static int cancel_in(struct fixture *f, struct upload *u)
{
    struct wait_test w = waiting();
    return taken(f->loop, upload_cancel(u, &w.waiter), &w);
}

/* Nothing is left of any session. */
static void check_no_sessions(void)
{
    fake_run(fx.loop);
    assert_int_equal(store_uploads_open(fx.store), 0);
    assert_int_equal(files_in(fx.uploads), 0);
}

/* ------------------------------------------------------------------ ids */

static void test_id_names_its_node(void **state)
{
    (void)state;
    static const char id[] = "0123456789abcdef0123456789abcdeffedcba9876543210";
    uint64_t node;
    assert_true(upload_id_node(id, sizeof(id) - 1, &node));
    assert_true(node == 0xfedcba9876543210);
    assert_false(upload_id_node(id, UPLOAD_RANDOM_LEN, &node));
    assert_false(upload_id_node("", 0, &node));
    assert_false(upload_id_node("0123456789abcdef0123456789abcdeffedcba987654321G", UPLOAD_ID_LEN, &node));
}

/* ------------------------------------------------------------------ the way of an upload */

static void test_whole_way(void **state)
{
    (void)state;
    static uint8_t bytes[300000];
    char id[UPLOAD_ID_LEN + 1];
    struct blob *b;
    struct wait_test w = waiting();
    fill(bytes, sizeof(bytes), 1);
    struct digest d = digest_of(DIGEST_SHA256, bytes, sizeof(bytes));
    struct upload *u = create();
    assert_int_equal(upload_offset(u), 0);
    assert_int_equal(strlen(upload_id(u)), UPLOAD_ID_LEN);
    uint64_t node;
    assert_true(upload_id_node(upload_id(u), UPLOAD_ID_LEN, &node));
    assert_int_equal(node, fx.tuning.node);
    memcpy(id, upload_id(u), sizeof(id));
    assert_int_equal(append(u, bytes, 100000), 0);
    upload_checkin(u);
    assert_int_equal(checkout_in(&fx, id, &u), 0);
    assert_int_equal(upload_offset(u), 100000);
    assert_int_equal(append(u, bytes + 100000, 1), 0);
    assert_int_equal(append(u, bytes + 100001, 199999), 0);
    assert_int_equal(store_uploads_open(fx.store), 1);
    assert_int_equal(commit(u, &d), 0);
    assert_true(blob_durable(&fx, &d));
    assert_int_equal(fx.loop->count[FAKE_READ], 0); /* hashed on the way */
    assert_int_equal(checkout_in(&fx, id, &u), -ENOENT);
    assert_int_equal(settled(fx.loop, blob_open(fx.ring, &d, sizeof(bytes), false, &b, &w.waiter), &w), 0);
    blob_put(fx.ring, b);
    assert_int_equal(check_blobs(&fx), 1);
    check_no_sessions();
}

static void test_empty(void **state)
{
    (void)state;
    struct digest d256 = digest_of(DIGEST_SHA256, "", 0), d512 = digest_of(DIGEST_SHA512, "", 0);
    assert_int_equal(commit(create(), &d256), 0);
    assert_int_equal(commit(create(), &d512), 0);
    assert_int_equal(check_blobs(&fx), 2);
    check_no_sessions();
}

static void test_sha512(void **state)
{
    (void)state;
    struct upload *u;
    struct digest d = digest_of(DIGEST_SHA512, "five hundred", 12),
                  d256 = digest_of(DIGEST_SHA256, "five hundred", 12);
    assert_int_equal(create_in(&fx, DIGEST_SHA512, &u), 0);
    assert_int_equal(append(u, "five ", 5), 0);
    assert_int_equal(append(u, "hundred", 7), 0);
    assert_int_equal(commit(u, &d), 0);
    assert_int_equal(fx.loop->count[FAKE_READ], 0);
    /* The hint was wrong, or there was none: the file is read. */
    assert_int_equal(create_in(&fx, DIGEST_SHA512, &u), 0);
    assert_int_equal(append(u, "five hundred", 12), 0);
    assert_int_equal(commit(u, &d256), 0);
    assert_int_equal(create_in(&fx, DIGEST_NONE, &u), 0);
    assert_int_equal(append(u, "five hundred", 12), 0);
    assert_int_equal(commit(u, &d), 0);
    assert_int_equal(fx.loop->count[FAKE_READ], 2);
    assert_int_equal(check_blobs(&fx), 2);
    check_no_sessions();
}

static void test_mismatch(void **state)
{
    (void)state;
    char id[UPLOAD_ID_LEN + 1];
    struct digest d = digest_of(DIGEST_SHA256, "other", 5);
    struct upload *u = create();
    memcpy(id, upload_id(u), sizeof(id));
    assert_int_equal(append(u, "bytes", 5), 0);
    assert_int_equal(commit(u, &d), -EBADMSG);
    assert_int_equal(checkout_in(&fx, id, &u), -ENOENT);
    assert_int_equal(check_blobs(&fx), 0);
    check_no_sessions();
}

/* Large ones go to the disk while they come; it matters to nobody whether that works. */
static void test_write_back(void **state)
{
    (void)state;
    enum { PIECE = 3 << 20, N = 7 };
    static uint8_t bytes[N * PIECE];
    struct digest d = digest_of(DIGEST_SHA256, bytes, sizeof(bytes));
    for (int round = 0; round < 2; round++) {
        struct upload *u = create();
        uint64_t before = fx.loop->count[FAKE_SYNC_RANGE];
        for (int i = 0; i < N; i++) {
            assert_int_equal(append(u, bytes + i * PIECE, PIECE), 0);
            if (round == 1 && fx.loop->pending_count) /* the write-back is the only order there */
                fake_fault(fx.loop, FAULT_EIO, 1);
            fake_run(fx.loop);
        }
        assert_int_equal(fx.loop->count[FAKE_SYNC_RANGE] - before, sizeof(bytes) / WRITE_BACK_BYTES);
        assert_int_equal(commit(u, &d), 0);
        assert_true(blob_durable(&fx, &d));
    }
    fx.tuning.sync = false;
    fixture_tune(&fx);
    struct upload *u = create();
    uint64_t before = fx.loop->count[FAKE_SYNC_RANGE];
    assert_int_equal(append(u, bytes, sizeof(bytes)), 0);
    assert_int_equal(fx.loop->count[FAKE_SYNC_RANGE], before);
    assert_int_equal(upload_cancel(u, NULL), 0);
    check_no_sessions();
}

/* Twice the same blob, one after the other and at the same time. */
static void test_commit_twice(void **state)
{
    (void)state;
    struct digest d = digest_of(DIGEST_SHA256, "twice", 5);
    struct upload *u[3];
    struct wait_test w[3] = {waiting(), waiting(), waiting()};
    for (int i = 0; i < 3; i++) {
        u[i] = create();
        assert_int_equal(append(u[i], "twice", 5), 0);
    }
    assert_int_equal(upload_commit(u[0], &d, &w[0].waiter), 0);
    assert_int_equal(upload_commit(u[1], &d, &w[1].waiter), 0);
    fake_run(fx.loop);
    assert_true(w[0].woken == 1 && w[0].res == 0 && w[1].woken == 1 && w[1].res == 0);
    assert_int_equal(commit(u[2], &d), 0);
    assert_true(blob_durable(&fx, &d));
    assert_int_equal(check_blobs(&fx), 1);
    check_no_sessions();
}

static void test_without_sync(void **state)
{
    (void)state;
    struct digest d = digest_of(DIGEST_SHA256, "x", 1);
    fx.tuning.sync = false;
    fixture_tune(&fx);
    struct upload *u = create();
    assert_int_equal(append(u, "x", 1), 0);
    assert_int_equal(commit(u, &d), 0);
    assert_int_equal(fx.loop->count[FAKE_FSYNC], 0);
    assert_int_equal(check_blobs(&fx), 1);
}

static void test_cancel(void **state)
{
    (void)state;
    char id[UPLOAD_ID_LEN + 1];
    struct upload *u = create();
    memcpy(id, upload_id(u), sizeof(id));
    assert_int_equal(append(u, "x", 1), 0);
    assert_int_equal(cancel_in(&fx, u), 0);
    assert_int_equal(checkout_in(&fx, id, &u), -ENOENT);
    assert_int_equal(upload_cancel(create(), NULL), 0);
    check_no_sessions();
}

/* ------------------------------------------------------------------ who may */

static void test_other_repository(void **state)
{
    (void)state;
    struct upload *u = create(), *other = NULL;
    struct wait_test w = waiting();
    char id[UPLOAD_ID_LEN + 1];
    memcpy(id, upload_id(u), sizeof(id));
    assert_int_equal(upload_checkout(fx.ring, id, UPLOAD_ID_LEN, "library/alpin", 13, &other, &w.waiter),
                     -ENOENT);
    upload_checkin(u);
    assert_int_equal(upload_checkout(fx.ring, id, UPLOAD_ID_LEN, "other", 5, &other, &w.waiter), -ENOENT);
    fixture_restart(&fx, 2);
    assert_int_equal(upload_checkout(fx.ring, id, UPLOAD_ID_LEN, "other", 5, &other, &w.waiter), -ENOENT);
    assert_int_equal(checkout_in(&fx, id, &u), 0);
    assert_int_equal(cancel_in(&fx, u), 0);
}

static void test_busy(void **state)
{
    (void)state;
    struct upload *u = create(), *other;
    char id[UPLOAD_ID_LEN + 1];
    memcpy(id, upload_id(u), sizeof(id));
    assert_int_equal(checkout_in(&fx, id, &other), -EBUSY);
    upload_checkin(u);
    assert_int_equal(checkout_in(&fx, id, &u), 0);
    assert_int_equal(checkout_in(&fx, id, &other), -EBUSY);
    assert_int_equal(cancel_in(&fx, u), 0);
}

static void test_bad_ids(void **state)
{
    (void)state;
    static const char *const ids[] = {
        "",
        "0",
        "../../../../../../../../../etc/pa",
        "0123456789abcdef0123456789abcdeF",
        "0123456789abcdef0123456789abcde/",
        "0123456789abcdef0123456789abcdef0",
        "0123456789abcdef0123456789abcdef",
    };
    struct upload *u;
    for (size_t i = 0; i < ARRAY_SIZE(ids); i++)
        assert_int_equal(checkout_in(&fx, ids[i], &u), -ENOENT);
    assert_int_equal(fx.loop->executed, 0);
}

/* ------------------------------------------------------------------ limits */

static void test_uploads_max(void **state)
{
    (void)state;
    struct upload *u[4];
    fx.tuning.uploads_max = 3;
    fixture_tune(&fx);
    for (int i = 0; i < 3; i++)
        u[i] = create();
    assert_int_equal(create_in(&fx, DIGEST_SHA256, &u[3]), -EMFILE);
    for (int i = 0; i < 3; i++)
        upload_checkin(u[i]);
    fixture_restart(&fx, 2);
    assert_int_equal(store_uploads_open(fx.store), 3);
    assert_int_equal(create_in(&fx, DIGEST_SHA256, &u[3]), -EMFILE);
    fx.tuning.uploads_max = 4;
    fixture_tune(&fx);
    assert_int_equal(cancel_in(&fx, create()), 0);
}

static void test_blob_bytes_max(void **state)
{
    (void)state;
    static uint8_t bytes[1001];
    fx.tuning.blob_bytes_max = 1000;
    fixture_tune(&fx);
    struct upload *u = create();
    assert_int_equal(append(u, bytes, 1001), -EFBIG);
    assert_int_equal(append(u, bytes, 999), 0);
    assert_int_equal(append(u, bytes, 2), -EFBIG);
    assert_int_equal(upload_offset(u), 999);
    assert_int_equal(append(u, bytes, 1), 0);
    fx.tuning.blob_bytes_max = 10; /* lowered meanwhile */
    fixture_tune(&fx);
    assert_int_equal(append(u, bytes, 1), -EFBIG);
    struct digest d = digest_of(DIGEST_SHA256, bytes, 1000);
    assert_int_equal(commit(u, &d), 0);
}

static void test_reserve(void **state)
{
    (void)state;
    struct upload *u = create(), *other;
    fx.tuning.reserve = INT64_MAX;
    fixture_tune(&fx);
    assert_int_equal(create_in(&fx, DIGEST_SHA256, &other), -ENOSPC);
    assert_int_equal(append(u, "x", 1), -ENOSPC);
    assert_int_equal(counted(&fx, CTR_STORE_FULL), 2);
    fx.tuning.reserve = 0;
    fixture_tune(&fx);
    assert_int_equal(append(u, "x", 1), 0);
    /* What is written counts at once, and the next look corrects it. */
    uint64_t room = (uint64_t)atomic_load(&fx.store->free_bytes);
    fx.tuning.reserve = room - 5;
    fixture_tune(&fx);
    assert_int_equal(append(u, "123456", 6), 0);
    assert_int_equal(append(u, "x", 1), -ENOSPC);
    fx.tuning.reserve = 0;
    fixture_tune(&fx);
    store_ring_tick(fx.ring, fx.loop->now_ms);
    assert_true(atomic_load(&fx.store->free_bytes) > 0);
    assert_int_equal(upload_cancel(u, NULL), 0);
}

/* Descriptors of sessions at rest are few, and closed after a while; the sessions do not notice. */
static void test_idle_files(void **state)
{
    (void)state;
    enum { N = IDLE_FILES + 20 };
    static char id[N][UPLOAD_ID_LEN + 1];
    struct digest d = digest_of(DIGEST_SHA256, "ab", 2);
    struct upload *u;
    fx.tuning.uploads_max = N;
    fixture_tune(&fx);
    for (int i = 0; i < N; i++) {
        u = create();
        memcpy(id[i], upload_id(u), sizeof(id[i]));
        assert_int_equal(append(u, "a", 1), 0);
        upload_checkin(u);
    }
    fixture_check_idle(&fx);
    assert_int_equal(fx.loop->fds_open, IDLE_FILES);
    for (int i = 0; i < 2 * N / SWEEP_MAX + 2; i++)
        store_ring_tick(fx.ring, fx.loop->now_ms + IDLE_FILE_MS);
    fixture_check_idle(&fx);
    assert_int_equal(fx.loop->fds_open, 0);
    for (int i = 0; i < N; i += 50) {
        assert_int_equal(checkout_in(&fx, id[i], &u), 0);
        assert_int_equal(append(u, "b", 1), 0);
        assert_int_equal(commit(u, &d), 0);
    }
    assert_int_equal(fx.loop->count[FAKE_READ], 0); /* the running hash stayed */
}

/* No errand is free to close a descriptor by the loop: it is closed all the same. */
static void test_errands_exhausted(void **state)
{
    (void)state;
    enum { N = IDLE_FILES + ERRANDS + 40 };
    static struct upload *u[N];
    fx.tuning.uploads_max = N;
    fixture_tune(&fx);
    for (int i = 0; i < N; i++)
        u[i] = create();
    fx.loop->hold[FAKE_CLOSE] = true;
    for (int i = 0; i < N; i++)
        upload_checkin(u[i]);
    assert_int_equal(fx.ring->errands.used, ERRANDS);
    fx.loop->fds_open -= N - IDLE_FILES - ERRANDS; /* closed without the loop's knowledge */
    fx.loop->hold[FAKE_CLOSE] = false;
    fixture_check_idle(&fx);
    unsigned count = 0;
    for (int fd = 0; fd < 4096; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    assert_in_range(count, IDLE_FILES, IDLE_FILES + 16);
}

/* ------------------------------------------------------------------ restarts */

static void test_restart(void **state)
{
    (void)state;
    static uint8_t bytes[3 * PIECE_BYTES + 17];
    char id[UPLOAD_ID_LEN + 1];
    fill(bytes, sizeof(bytes), 4);
    struct digest d = digest_of(DIGEST_SHA256, bytes, sizeof(bytes));
    struct upload *u = create();
    memcpy(id, upload_id(u), sizeof(id));
    assert_int_equal(append(u, bytes, sizeof(bytes) - 100), 0);
    upload_checkin(u);
    fixture_restart(&fx, 2);
    assert_int_equal(store_uploads_open(fx.store), 1);
    assert_int_equal(checkout_in(&fx, id, &u), 0);
    assert_int_equal(upload_offset(u), sizeof(bytes) - 100);
    assert_int_equal(append(u, bytes + sizeof(bytes) - 100, 100), 0);
    assert_int_equal(commit(u, &d), 0);
    assert_int_equal(fx.loop->count[FAKE_READ], 4);
    assert_int_equal(check_blobs(&fx), 1);
    check_no_sessions();
}

/* Killed with a write under way: the session has a prefix, and says how long it is. */
static void test_killed(void **state)
{
    (void)state;
    static uint8_t bytes[1000];
    char id[UPLOAD_ID_LEN + 1];
    fill(bytes, sizeof(bytes), 4);
    struct digest d = digest_of(DIGEST_SHA256, bytes, sizeof(bytes));
    struct wait_test w = waiting();
    struct upload *u = create();
    memcpy(id, upload_id(u), sizeof(id));
    assert_int_equal(append(u, bytes, 600), 0);
    assert_int_equal(upload_append(u, bytes + 600, 400, &w.waiter), 0);
    fixture_kill(&fx);
    fixture_open(&fx, 2);
    assert_int_equal(checkout_in(&fx, id, &u), 0);
    uint64_t offset = upload_offset(u);
    assert_int_equal(offset, 600);
    assert_int_equal(append(u, bytes + offset, 1000 - offset), 0);
    assert_int_equal(commit(u, &d), 0);
    check_no_sessions();
}

/* What is not ours in the folder is left alone; leftovers go; a second link must not be written to. */
static void test_recover_folder(void **state)
{
    (void)state;
    char id[UPLOAD_ID_LEN + 1], name[UPLOAD_NAME_MAX + 1];
    struct upload *u = create();
    memcpy(id, upload_id(u), sizeof(id));
    memcpy(name, u->name, sizeof(name));
    upload_checkin(u);
    assert_int_equal(linkat(fx.uploads, name, fx.blobs, "second", 0), 0);
    close(openat(fx.uploads, "README", O_CREAT | O_WRONLY, 0640));
    close(openat(fx.uploads, "w.0123456789abcdef0123456789abcdef", O_CREAT | O_WRONLY, 0640));
    /* Of a version whose sessions did not name their node. */
    close(openat(fx.uploads, "0123456789abcdef0123456789abcdef.0123456789abcdef", O_CREAT | O_WRONLY, 0640));
    assert_int_equal(symlinkat("/etc/passwd", fx.uploads,
                               "0123456789abcdef0123456789abcdef0000000000000001.0123456789abcdef"),
                     0);
    fixture_restart(&fx, 2);
    assert_int_equal(store_uploads_open(fx.store), 0);
    assert_int_equal(checkout_in(&fx, id, &u), -ENOENT);
    assert_int_equal(files_in(fx.uploads), 2);
}

/* The file was removed, or cut, behind our back. */
static void test_file_meddled_with(void **state)
{
    (void)state;
    char id[2][UPLOAD_ID_LEN + 1], name[2][UPLOAD_NAME_MAX + 1];
    struct upload *u;
    struct digest d = digest_of(DIGEST_SHA256, "123456", 6);
    for (int i = 0; i < 2; i++) {
        u = create();
        assert_int_equal(append(u, "123456", 6), 0);
        memcpy(id[i], upload_id(u), sizeof(id[i]));
        memcpy(name[i], u->name, sizeof(name[i]));
        upload_checkin(u);
    }
    for (int i = 0; i < 3; i++)
        store_ring_tick(fx.ring, fx.loop->now_ms + IDLE_FILE_MS);
    fake_run(fx.loop);
    assert_int_equal(unlinkat(fx.uploads, name[0], 0), 0);
    assert_int_equal(checkout_in(&fx, id[0], &u), -ENOENT);
    assert_int_equal(store_uploads_open(fx.store), 1);
    int fd = openat(fx.uploads, name[1], O_RDWR);
    assert_int_equal(ftruncate(fd, 3), 0);
    assert_int_equal(checkout_in(&fx, id[1], &u), 0);
    assert_int_equal(upload_offset(u), 3);
    assert_int_equal(append(u, "456", 3), 0);
    assert_int_equal(ftruncate(fd, 7), 0); /* longer than we wrote: not the bytes that we know */
    assert_int_equal(commit(u, &d), -EIO);
    assert_int_equal(ftruncate(fd, 6), 0);
    assert_int_equal(commit(u, &d), 0);
    close(fd);
    check_no_sessions();
}

/* ------------------------------------------------------------------ expiry */

static void test_expiry(void **state)
{
    (void)state;
    enum { N = SWEEP_MAX + 30 };
    struct upload *held, *u;
    char id[UPLOAD_ID_LEN + 1];
    fx.tuning.uploads_max = N + 1;
    fx.tuning.upload_expiry_ms = 5000;
    fixture_tune(&fx);
    held = create();
    for (int i = 0; i < N; i++) {
        u = create();
        memcpy(id, upload_id(u), sizeof(id));
        upload_checkin(u);
    }
    store_ring_tick(fx.ring, fx.loop->now_ms + 4999);
    fake_run(fx.loop);
    assert_int_equal(store_uploads_open(fx.store), N + 1);
    fx.loop->now_ms += 3000;
    assert_int_equal(checkout_in(&fx, id, &u), 0); /* touched */
    upload_checkin(u);
    fx.loop->now_ms += 2000;
    store_ring_tick(fx.ring, fx.loop->now_ms);
    fake_run(fx.loop);
    store_ring_tick(fx.ring, fx.loop->now_ms);
    fake_run(fx.loop);
    assert_int_equal(store_uploads_open(fx.store), 2);
    assert_int_equal(files_in(fx.uploads), 2);
    assert_int_equal(counted(&fx, CTR_UPLOADS_EXPIRED), N - 1);
    assert_int_equal(checkout_in(&fx, id, &u), 0);
    assert_int_equal(cancel_in(&fx, u), 0);
    assert_int_equal(cancel_in(&fx, held), 0);
    check_no_sessions();
}

/* After a restart the age is the file's. */
static void test_expiry_restarted(void **state)
{
    (void)state;
    struct upload *u;
    for (int i = 0; i < 2; i++) {
        struct timespec old[2] = {{.tv_sec = time(NULL) - 100 * i}, {.tv_sec = time(NULL) - 100 * i}};
        u = create();
        assert_int_equal(utimensat(fx.uploads, u->name, old, 0), 0);
        upload_checkin(u);
    }
    fx.tuning.upload_expiry_ms = 50000;
    fixture_restart(&fx, 2);
    assert_int_equal(store_uploads_open(fx.store), 2);
    store_ring_tick(fx.ring, fx.loop->now_ms);
    fake_run(fx.loop);
    assert_int_equal(store_uploads_open(fx.store), 1);
    assert_int_equal(files_in(fx.uploads), 1);
}

/* ------------------------------------------------------------------ faults */

/* A failed sync is final: nobody knows what the disk has, so no second try is believed. */
static void test_failed_sync(void **state)
{
    (void)state;
    char id[UPLOAD_ID_LEN + 1];
    struct digest d = digest_of(DIGEST_SHA256, "lost?", 5);
    struct upload *u = create();
    memcpy(id, upload_id(u), sizeof(id));
    assert_int_equal(append(u, "lost?", 5), 0);
    fx.loop->broken_fsync = -EIO;
    assert_int_equal(commit(u, &d), -EIO);
    fx.loop->broken_fsync = 0;
    assert_int_equal(commit(u, &d), -EIO);
    assert_int_equal(append(u, "x", 1), -EIO);
    upload_checkin(u);
    assert_int_equal(checkout_in(&fx, id, &u), -ENOENT);
    assert_int_equal(check_blobs(&fx), 0);
    check_no_sessions();
}

static void test_write_fails_behind_hash(void **state)
{
    (void)state;
    struct digest d = digest_of(DIGEST_SHA256, "abcdef", 6);
    struct upload *u = create();
    assert_int_equal(append(u, "abc", 3), 0);
    fake_fault(fx.loop, FAULT_ENOSPC, 1);
    assert_int_equal(append(u, "def", 3), -ENOSPC);
    assert_int_equal(upload_offset(u), 3);
    assert_int_equal(append(u, "def", 3), 0);
    assert_int_equal(commit(u, &d), 0);
    assert_int_equal(fx.loop->count[FAKE_READ], 1);
}

/*
 * A stubborn client under one fault: it asks for the offset, goes on from there, commits; what fails it tries
 * again, and begins anew when its session is gone.
 */
static int go_on(struct fixture *f, const char *id, const uint8_t *bytes, size_t len, const struct digest *d)
{
    struct upload *u;
    int err = checkout_in(f, id, &u);
    if (err)
        return err;
    uint64_t offset = upload_offset(u);
    assert_true(offset <= len);
    for (; offset < len && !err; offset = upload_offset(u)) {
        err = append_in(f, u, bytes + offset, len - offset < 700 ? len - offset : 700);
        assert_true(err || upload_offset(u) > offset);
    }
    if (!err)
        err = commit_in(f, u, d);
    assert_true(err != -EBADMSG);
    if (err)
        upload_checkin(u);
    fake_run(f->loop);
    return err;
}

static void story_push(struct fixture *f, bool restart)
{
    static uint8_t bytes[1500];
    struct upload *u;
    char id[UPLOAD_ID_LEN + 1];
    int err = -ENOENT;
    fill(bytes, sizeof(bytes), 8);
    struct digest d = digest_of(DIGEST_SHA256, bytes, sizeof(bytes));
    for (int tries = 0; err; tries++) {
        assert_true(tries < 6);
        if (err == -ENOENT) {
            err = create_in(f, DIGEST_SHA256, &u);
            assert_true(err == 0 || err == -EIO || err == -ENOSPC || err == -EMFILE);
            if (err) {
                err = -ENOENT;
                continue;
            }
            memcpy(id, upload_id(u), sizeof(id));
            upload_checkin(u);
        }
        if (restart && tries == 0) {
            enum fake_fault fault = f->loop->fault;
            uint64_t at = f->loop->fault_at;
            bool hit = f->loop->fault_hit;
            fixture_restart(f, 77 + at);
            fake_fault(f->loop, fault, at);
            f->loop->fault_hit = hit;
        }
        err = go_on(f, id, bytes, sizeof(bytes), &d);
        if (err == -EIO && f->loop->fault == FAULT_LIE) {
            /* The file may have more than we know: such a session never commits; the client gives up on it.
             */
            int again = checkout_in(f, id, &u);
            if (again == 0)
                assert_int_equal(cancel_in(f, u), 0);
            err = -ENOENT;
        }
    }
    assert_true(blob_durable(f, &d));
}

static void each_fault(bool restart)
{
    for (int fault = FAULT_NONE + 1; fault < FAULTS; fault++) {
        bool hit = true;
        unsigned at;
        for (at = 1; hit; at++) {
            assert_true(at < 100);
            fake_fault(fx.loop, (enum fake_fault)fault, at);
            story_push(&fx, restart);
            hit = fx.loop->fault_hit;
            fixture_check_idle(&fx);
            assert_int_equal(check_blobs(&fx), 1);
            assert_int_equal(fx.loop->renamed_unsynced, 0);
            fixture_restart(&fx, at + 100 * (unsigned)fault);
            assert_true(store_uploads_open(fx.store) <= 1); /* one whose removal failed */
            fx.tuning.upload_expiry_ms = 0;
            fixture_tune(&fx);
            store_ring_tick(fx.ring, fx.loop->now_ms + 1);
            check_no_sessions();
        }
        assert_true(at > 2);
    }
}

static void test_faults(void **state)
{
    (void)state;
    each_fault(false);
}

static void test_faults_restarted(void **state)
{
    (void)state;
    each_fault(true);
}

static void test_faults_of_cancel(void **state)
{
    (void)state;
    bool hit = true;
    for (unsigned at = 1; hit; at++) {
        fake_fault(fx.loop, FAULT_NONE, 0);
        struct upload *u = create();
        fake_fault(fx.loop, FAULT_EIO, at);
        int err = cancel_in(&fx, u);
        hit = fx.loop->fault_hit;
        assert_true(err == 0 || (err == -EIO && hit));
        assert_int_equal(store_uploads_open(fx.store), 0);
        fixture_check_idle(&fx);
    }
}

/* ------------------------------------------------------------------ hashing again, many at a time */

static void test_pieces_exhausted(void **state)
{
    (void)state;
    enum { N = 3 * PIECES, LEN = 2 * PIECE_BYTES + 5 };
    static uint8_t bytes[LEN];
    struct upload *u[N];
    struct wait_test w[N];
    fill(bytes, LEN, 3);
    struct digest d = digest_of(DIGEST_SHA512, bytes, LEN), wrong = digest_of(DIGEST_SHA512, bytes, 1);
    for (int i = 0; i < N; i++) {
        u[i] = create();
        assert_int_equal(append(u[i], bytes, LEN), 0);
        w[i] = waiting();
    }
    for (int i = 0; i < N; i++)
        assert_int_equal(upload_commit(u[i], i % 3 ? &d : &wrong, &w[i].waiter), 0);
    assert_int_equal(fx.ring->pieces.used, PIECES);
    fake_fault(fx.loop, FAULT_EIO, 5); /* one of them gets nowhere, and does not keep its buffer */
    unsigned ok = 0, mismatch = 0, failed = 0;
    fake_run(fx.loop);
    for (int i = 0; i < N; i++) {
        assert_int_equal(w[i].woken, 1);
        ok += w[i].res == 0;
        mismatch += w[i].res == -EBADMSG;
        if (w[i].res == -EIO) {
            failed++;
            assert_int_equal(commit(u[i], &d), 0);
        }
    }
    assert_true(failed == 1 && ok + mismatch == N - 1 && mismatch >= N / 3 - 1);
    assert_int_equal(check_blobs(&fx), 1);
    check_no_sessions();
}

/* ------------------------------------------------------------------ a model under random commands */

enum { MODEL_SESSIONS = 6, MODEL_BYTES = 4000, MODEL_STEPS = 600 };

struct model_session {
    bool exists;
    char id[UPLOAD_ID_LEN + 1];
    uint8_t bytes[MODEL_BYTES];
    size_t size;
    struct upload *u; /* checked out */
};

static void model_append(struct model_session *m, uint32_t random)
{
    uint8_t buf[900];
    size_t len = 1 + random % sizeof(buf);
    if (m->size + len > MODEL_BYTES)
        return;
    fill(buf, len, random);
    int err = append(m->u, buf, len);
    size_t kept = (size_t)upload_offset(m->u) - m->size;
    assert_true(err ? kept < len : kept == len);
    memcpy(m->bytes + m->size, buf, kept);
    m->size += kept;
}

static void model_commit(struct model_session *m, uint32_t random)
{
    struct digest d = digest_of(random % 2 ? DIGEST_SHA256 : DIGEST_SHA512, m->bytes, m->size);
    if (random % 5 == 0)
        d.bytes[3] ^= 1;
    int err = commit(m->u, &d);
    if (err == 0)
        assert_true(blob_there(&fx, &d) && random % 5);
    if (err == -EBADMSG)
        assert_int_equal(random % 5, 0);
    if (err == 0 || err == -EBADMSG)
        m->exists = false;
    else if (m->u->broken) /* given back, it ends */
        m->exists = false, upload_checkin(m->u);
    else
        return;
    m->u = NULL;
}

static void model_restart(struct model_session *m, uint64_t seed, bool kill)
{
    for (int i = 0; i < MODEL_SESSIONS; i++) {
        if (m[i].u && !kill)
            upload_checkin(m[i].u);
        m[i].u = NULL;
    }
    if (kill) {
        fake_run(fx.loop); /* closes; no request is under way */
        for (uint32_t i = 0; i < fx.store->sessions.slots.fresh; i++) {
            struct upload *u = pool_at(&fx.store->sessions.slots, i);
            u->owner = NULL;
        }
        fixture_kill(&fx);
        fixture_open(&fx, seed);
    } else {
        fixture_restart(&fx, seed);
    }
}

static void model_step(struct model_session *sessions, uint32_t random, unsigned step)
{
    struct model_session *m = &sessions[random % MODEL_SESSIONS];
    unsigned what = random / 16 % 16;
    fake_fault(fx.loop, (enum fake_fault)(random / 256 % FAULT_LIE), random / 4096 % 8); /* often none */
    if (!m->exists && create_in(&fx, random % 3 ? DIGEST_SHA256 : DIGEST_SHA512, &m->u) == 0) {
        m->exists = true;
        m->size = 0;
        memcpy(m->id, upload_id(m->u), sizeof(m->id));
    } else if (m->exists && !m->u) {
        struct upload *u;
        int err = checkout_in(&fx, m->id, &u);
        assert_true(err == 0 || err == -EIO || err == -EMFILE);
        if (err == 0) {
            assert_int_equal(upload_offset(u), m->size);
            m->u = u;
        }
    } else if (m->u && what < 8) {
        model_append(m, random);
    } else if (m->u && what < 11) {
        model_commit(m, random / 3);
    } else if (m->u && what < 13) {
        upload_checkin(m->u);
        m->u = NULL;
    } else if (m->u && what == 13) {
        (void)cancel_in(&fx, m->u);
        *m = (struct model_session){0};
    } else if (what == 14) {
        store_ring_tick(fx.ring, fx.loop->now_ms + (random % 2 ? 0 : IDLE_FILE_MS));
    } else if (random / 65536 % 8 == 0) {
        fake_fault(fx.loop, FAULT_NONE, 0);
        model_restart(sessions, step, random % 2);
    }
    fake_fault(fx.loop, FAULT_NONE, 0);
    store_ring_check(fx.ring, false);
    sessions_check(&fx.store->sessions);
}

static void test_model(void **state)
{
    (void)state;
    static struct model_session m[MODEL_SESSIONS];
    for (uint64_t seed = 1; seed <= 12; seed++) {
        struct loop random = {.seed = seed * 7919 * 2 + 1};
        memset(m, 0, sizeof(m));
        for (unsigned step = 0; step < MODEL_STEPS; step++)
            model_step(m, fake_random(&random), step);
        for (int i = 0; i < MODEL_SESSIONS; i++)
            if (m[i].u)
                upload_checkin(m[i].u);
        fake_run(fx.loop);
        check_blobs(&fx);
        assert_int_equal(fx.loop->renamed_unsynced, 0);
        teardown(NULL);
        setup(NULL);
    }
}

/* ------------------------------------------------------------------ two rings */

enum { RACE_IDS = 8, RACE_ROUNDS = 400 };

struct race {
    struct fixture f; /* its ring and loop */
    const char (*id)[UPLOAD_ID_LEN + 1];
    uint32_t seed;
    unsigned taken, busy, made;
};

/* Takes sessions that the other ring wants too, appends to them, and makes some blobs of its own. */
static void *race_run(void *arg)
{
    struct race *r = arg;
    for (int i = 0; i < RACE_ROUNDS; i++) {
        struct upload *u;
        int err = checkout_in(&r->f, r->id[fake_random(r->f.loop) % RACE_IDS], &u);
        r->busy += err == -EBUSY;
        if (err == 0) {
            r->taken++;
            CHECK(append_in(&r->f, u, "x", 1) == 0);
            if (i % 16 == 0)
                sched_yield();
            upload_checkin(u);
        }
        if (i % 8 == 0 && create_in(&r->f, DIGEST_SHA256, &u) == 0) {
            struct digest d = digest_of(DIGEST_SHA256, &i, sizeof(i));
            CHECK(append_in(&r->f, u, &i, sizeof(i)) == 0);
            CHECK(commit_in(&r->f, u, &d) == 0);
            r->made++;
        }
        store_ring_tick(r->f.ring, r->f.loop->now_ms + (i % 32 ? 0 : IDLE_FILE_MS));
    }
    fake_run(r->f.loop);
    return NULL;
}

static void test_two_rings(void **state)
{
    (void)state;
    static char id[RACE_IDS][UPLOAD_ID_LEN + 1];
    static struct race race[2];
    pthread_t thread[2];
    struct upload *u;
    for (int i = 0; i < RACE_IDS; i++) {
        u = create();
        memcpy(id[i], upload_id(u), sizeof(id[i]));
        upload_checkin(u);
    }
    for (int i = 0; i < 2; i++) {
        race[i] = (struct race){.f = fx, .id = (const char(*)[UPLOAD_ID_LEN + 1]) id};
        if (i == 0)
            continue;
        race[i].f.loop = fake_new(99);
        assert_int_equal(store_ring_new(fx.store, race[i].f.loop, fx.counters + 0, 1 << 20, &race[i].f.ring),
                         0);
    }
    race[1].f.counters = aligned_alloc(64, sizeof(*fx.counters));
    memset(race[1].f.counters, 0, sizeof(*fx.counters));
    race[1].f.ring->counters = race[1].f.counters;
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, race_run, &race[i]), 0);
    for (int i = 0; i < 2; i++)
        pthread_join(thread[i], NULL);
    uint64_t size = 0;
    for (int i = 0; i < RACE_IDS; i++) {
        assert_int_equal(checkout_in(&fx, id[i], &u), 0);
        size += upload_offset(u);
        assert_int_equal(cancel_in(&fx, u), 0);
    }
    assert_int_equal(size, race[0].taken + race[1].taken);
    assert_true(race[0].made == RACE_ROUNDS / 8 && race[1].made == RACE_ROUNDS / 8);
    assert_int_equal(check_blobs(&fx), RACE_ROUNDS / 8);
    store_ring_check(race[1].f.ring, true);
    fake_run(fx.loop);
    assert_int_equal(fx.loop->fds_open + race[1].f.loop->fds_open, 0);
    fx.loop->fds_open = 0; /* a descriptor may be opened by one ring and closed by the other */
    store_ring_free(race[1].f.ring);
    free(race[1].f.loop);
    free(race[1].f.counters);
    check_no_sessions();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        TEST(test_id_names_its_node),
        TEST(test_whole_way),
        TEST(test_empty),
        TEST(test_sha512),
        TEST(test_mismatch),
        TEST(test_write_back),
        TEST(test_commit_twice),
        TEST(test_without_sync),
        TEST(test_cancel),
        TEST(test_other_repository),
        TEST(test_busy),
        TEST(test_bad_ids),
        TEST(test_uploads_max),
        TEST(test_blob_bytes_max),
        TEST(test_reserve),
        TEST(test_idle_files),
        TEST(test_errands_exhausted),
        TEST(test_restart),
        TEST(test_killed),
        TEST(test_recover_folder),
        TEST(test_file_meddled_with),
        TEST(test_expiry),
        TEST(test_expiry_restarted),
        TEST(test_failed_sync),
        TEST(test_write_fails_behind_hash),
        TEST(test_faults),
        TEST(test_faults_restarted),
        TEST(test_faults_of_cancel),
        TEST(test_pieces_exhausted),
        TEST(test_model),
        TEST(test_two_rings),
#undef TEST
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
