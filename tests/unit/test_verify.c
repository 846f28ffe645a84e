/* SPDX-License-Identifier: Apache-2.0 */
/* Blobs are read and hashed in the background; damaged ones leave their places, and everybody lets go of
 * them. */
#include "store_fixture.h"

static struct fixture fx;
static uint8_t content[300 << 10];
static uint64_t seed;

/* How it ended. */
static struct {
    unsigned done;
    int res;
    uint64_t bytes;
} end;

static void on_done(void *arg, int res, uint64_t bytes)
{
    (void)arg;
    end.done++;
    end.res = res;
    end.bytes = bytes;
}

static int setup(void **state)
{
    (void)state;
    memset(&end, 0, sizeof(end));
    fixture_new(&fx, ++seed);
    fill(content, sizeof(content), seed);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    fixture_free(&fx);
    return 0;
}

/* Time passes until nothing is under way. */
static void settle(void)
{
    do {
        fake_run(fx.loop);
        fx.loop->now_ms += TIMER_TICK_MS;
        (void)timer_wheel_run(&fx.wheel, fx.loop->now_ms);
        fake_run(fx.loop);
        store_ring_turn(fx.ring);
    } while (!store_ring_idle(fx.ring));
}

static int verify(const struct digest *d, uint64_t size)
{
    struct verify *v;
    unsigned before = end.done;
    assert_int_equal(blob_verify(fx.ring, d, size, on_done, NULL, &v), 0);
    assert_int_equal(end.done, before);
    settle();
    assert_int_equal(end.done, before + 1);
    return end.res;
}

static void flip(const struct digest *d, off_t at)
{
    char path[BLOB_PATH_MAX + 1];
    uint8_t byte;
    blob_path(d, path);
    int fd = openat(fx.blobs, path, O_RDWR);
    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte ^= 1;
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    close(fd);
}

static bool is_quarantined(const struct digest *d)
{
    char name[DIGEST_TEXT_MAX + 1];
    struct stat st;
    digest_format(d, name);
    *strchr(name, ':') = '-';
    return !blob_there(&fx, d) && fstatat(fx.damaged, name, &st, 0) == 0;
}

static void test_good_ones(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 1, 4095, 4096, 65535, 65536, 65537, sizeof(content)};
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        struct digest d = digest_of(i % 2 ? DIGEST_SHA256 : DIGEST_SHA512, content, sizes[i]);
        plant(&fx, &d, content, sizes[i]);
        assert_int_equal(verify(&d, i % 3 ? sizes[i] : BLOB_SIZE_UNKNOWN), 0);
        assert_int_equal(end.bytes, sizes[i]);
        assert_true(blob_there(&fx, &d));
    }
    assert_int_equal(counted(&fx, CTR_BLOBS_VERIFIED), ARRAY_SIZE(sizes));
    assert_int_equal(counted(&fx, CTR_BLOBS_DAMAGED), 0);
}

static void test_damaged_ones(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 4096, 70000, sizeof(content) - 1};
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        struct digest d = plant_blob(&fx, content, sizes[i]);
        flip(&d, (off_t)sizes[i] / 2);
        assert_int_equal(verify(&d, sizes[i]), -EBADMSG);
        assert_true(is_quarantined(&d));
        assert_int_equal(verify(&d, sizes[i]), -ENOENT);
        plant(&fx, &d, content, sizes[i] - 1); /* too short, and too long */
        assert_int_equal(verify(&d, sizes[i]), -EBADMSG);
        plant(&fx, &d, content, sizes[i] + 1);
        assert_int_equal(verify(&d, BLOB_SIZE_UNKNOWN), -EBADMSG);
        assert_true(is_quarantined(&d));
        assert_int_equal(fx.loop->renamed_unsynced, 0);
    }
    assert_int_equal(counted(&fx, CTR_BLOBS_DAMAGED), 3 * ARRAY_SIZE(sizes));
    assert_int_equal(files_in(fx.damaged), ARRAY_SIZE(sizes));
    assert_int_equal(fx.told_count, 0); /* whoever asked knows */
}

/* Open descriptors and bytes in memory are let go of, referenced ones are marked. */
static void test_everybody_lets_go(void **state)
{
    (void)state;
    struct digest d = plant_blob(&fx, content, sizeof(content));
    struct wait_test w = waiting(), again = waiting();
    struct blob *b;
    int res = blob_open(fx.ring, &d, sizeof(content), false, &b, &w.waiter);
    assert_int_equal(settled(fx.loop, res, &w), 0);
    flip(&d, 5);
    assert_int_equal(verify(&d, sizeof(content)), -EBADMSG);
    assert_true(b->damaged);
    blob_put(fx.ring, b);
    res = blob_open(fx.ring, &d, sizeof(content), false, &b, &again.waiter);
    assert_int_equal(settled(fx.loop, res, &again), -ENOENT);
}

/* A reader that finds a small one to be wrong has it verified, and control is told, once. */
static void test_reader_finds_it(void **state)
{
    (void)state;
    struct digest d = plant_blob(&fx, content, 1000);
    flip(&d, 999);
    struct wait_test w[2] = {waiting(), waiting()};
    struct blob *b;
    for (int i = 0; i < 2; i++) {
        int res = blob_open(fx.ring, &d, 1000, true, &b, &w[i].waiter);
        while (res == -EINPROGRESS && !w[i].woken)
            assert_true(fake_turn(fx.loop) > 0);
        assert_true(w[i].res == -EBADMSG || w[i].res == -ENOENT || res == -EBADMSG);
    }
    settle();
    assert_int_equal(fx.told_count, 1);
    assert_true(digest_equal(&fx.told, &d));
    assert_true(is_quarantined(&d));
    struct wait_test large = waiting(); /* of another size than the names say */
    d = plant_blob(&fx, content, 100000);
    flip(&d, 0);
    int res = blob_open(fx.ring, &d, 99999, false, &b, &large.waiter);
    assert_int_equal(settled(fx.loop, res, &large), -EBADMSG);
    settle();
    assert_int_equal(fx.told_count, 2);
    assert_true(is_quarantined(&d));
}

/* A push in the middle of it repairs the blob: what it has put in place stays. */
static void test_replaced_meanwhile(void **state)
{
    (void)state;
    for (unsigned turns = 0; turns < 40; turns++) {
        struct digest d = plant_blob(&fx, content, 3000);
        struct verify *v;
        struct wait_test w = waiting();
        flip(&d, 7);
        assert_int_equal(blob_verify(fx.ring, &d, 3000, on_done, NULL, &v), 0);
        for (unsigned i = 0; i < turns; i++)
            (void)fake_turn(fx.loop);
        assert_int_equal(blob_write(fx.ring, &d, content, 3000, &w.waiter), 0);
        settle();
        assert_int_equal(w.woken, 1);
        assert_int_equal(w.res, 0);
        assert_true(end.res == 0 || end.res == -EBADMSG);
        assert_true(blob_there(&fx, &d));
        assert_int_equal(verify(&d, 3000), 0);
        assert_int_equal(atomic_load(&fx.store->condemned.count), 0);
        struct blob *b;
        struct wait_test open = waiting();
        int res = blob_open(fx.ring, &d, 3000, true, &b, &open.waiter);
        assert_int_equal(settled(fx.loop, res, &open), 0);
        blob_put(fx.ring, b);
        blob_forget(fx.ring, &d);
        fake_run(fx.loop);
    }
}

/* A disk that takes no renames: the file stays where it is, and nobody is served from it. */
static void test_cannot_be_moved(void **state)
{
    (void)state;
    struct digest d = plant_blob(&fx, content, 3000);
    struct wait_test w = waiting(), write = waiting();
    struct blob *b;
    flip(&d, 7);
    assert_int_equal(fchmodat(fx.damaged, ".", 0500, 0), 0);
    bool root = geteuid() == 0;
    if (root) { /* whom modes do not stop */
        fx.loop->hold[FAKE_RENAMEAT] = true;
        struct verify *v;
        assert_int_equal(blob_verify(fx.ring, &d, 3000, on_done, NULL, &v), 0);
        fake_run(fx.loop);
        fx.loop->hold[FAKE_RENAMEAT] = false;
        fake_fault(fx.loop, FAULT_EIO, 1);
        settle();
        assert_int_equal(end.res, -EBADMSG);
    } else {
        assert_int_equal(verify(&d, 3000), -EBADMSG);
    }
    assert_true(blob_there(&fx, &d));
    assert_int_equal(blob_open(fx.ring, &d, 3000, true, &b, &w.waiter), -EBADMSG);
    assert_int_equal(fchmodat(fx.damaged, ".", 0750, 0), 0);
    assert_int_equal(taken(fx.loop, blob_write(fx.ring, &d, content, 3000, &write.waiter), &write), 0);
    int res = blob_open(fx.ring, &d, 3000, true, &b, &w.waiter);
    assert_int_equal(settled(fx.loop, res, &w), 0);
    blob_put(fx.ring, b);
}

/* A disk that cannot read it says nothing about its bytes: the file stays. Every step fails once. */
static void test_disk_errors(void **state)
{
    (void)state;
    for (uint64_t at = 1;; at++) {
        struct digest d = plant_blob(&fx, content, 100000);
        fake_fault(fx.loop, FAULT_EIO, at);
        int res = verify(&d, 100000);
        bool hit = fx.loop->fault_hit;
        fake_fault_end(fx.loop);
        assert_true(blob_there(&fx, &d));
        assert_true(res == 0 || res == -EIO);
        if (!hit)
            break;
    }
    for (uint64_t at = 1;; at++) {
        struct digest d = plant_blob(&fx, content, 100000);
        flip(&d, 99999);
        fake_fault(fx.loop, FAULT_EIO, at);
        int res = verify(&d, 100000);
        bool hit = fx.loop->fault_hit;
        fake_fault_end(fx.loop);
        assert_true(res == -EBADMSG || res == -EIO);
        assert_true(res == -EIO || is_quarantined(&d) || store_is_condemned(fx.store, &d));
        store_pardon(fx.store, &d);
        if (!hit)
            break;
    }
}

static void test_stop_and_line(void **state)
{
    (void)state;
    struct verify *v[4];
    struct digest d = plant_blob(&fx, content, sizeof(content));
    fx.tuning.scrub_rate = 65536; /* one piece a second */
    fixture_tune(&fx);
    for (int i = 0; i < 4; i++)
        assert_int_equal(blob_verify(fx.ring, &d, sizeof(content), on_done, NULL, &v[i]), 0);
    fake_run(fx.loop);
    fx.loop->now_ms += 1500;
    (void)timer_wheel_run(&fx.wheel, fx.loop->now_ms);
    fake_run(fx.loop);
    assert_int_equal(end.done, 0);
    assert_in_range(counted(&fx, CTR_VERIFIED_BYTES), 65536, 3 * 65536);
    verify_stop(v[2]);
    assert_int_equal(end.done, 1);
    assert_int_equal(end.res, -ECANCELED);
    store_ring_stop(fx.ring);
    settle();
    assert_int_equal(end.done, 4);
    assert_int_equal(end.res, -ECANCELED);
    for (int i = 0; i < VERIFIES; i++)
        assert_int_equal(blob_verify(fx.ring, &d, sizeof(content), on_done, NULL, &v[0]), 0);
    assert_int_equal(blob_verify(fx.ring, &d, sizeof(content), on_done, NULL, &v[0]), -EAGAIN);
    store_ring_stop(fx.ring);
    settle();
}

/* The pace holds over many: bytes of 10 seconds, whatever the pieces. */
static void test_pace(void **state)
{
    (void)state;
    uint64_t now = 1000000, bytes = 0;
    fx.tuning.scrub_rate = 1 << 20;
    fixture_tune(&fx);
    while (now < 1010000) {
        uint64_t piece = 1 + (bytes * 7919) % 65536, at = store_pace(fx.store, piece, now);
        bytes += piece;
        if (at > now)
            now = at;
    }
    assert_in_range(bytes, 10 << 20, (10 << 20) + 3 * 65536);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        TEST(test_good_ones),       TEST(test_damaged_ones),       TEST(test_everybody_lets_go),
        TEST(test_reader_finds_it), TEST(test_replaced_meanwhile), TEST(test_cannot_be_moved),
        TEST(test_disk_errors),     TEST(test_stop_and_line),      TEST(test_pace),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
