/* SPDX-License-Identifier: Apache-2.0 */
/* A blob's file is removed, or not: pins, ages, names, and whole blobs that come into its place meanwhile. */
#include "store_fixture.h"

static struct fixture fx;
static uint8_t content[100 << 10];
static uint64_t seed;
enum { HOUR_MS = 3600000 };

static int names_say;
static unsigned asked;

static int is_free(void *arg, const struct digest *d)
{
    (void)arg;
    (void)d;
    asked++;
    return names_say;
}

static int setup(void **state)
{
    (void)state;
    fixture_new(&fx, ++seed);
    fill(content, sizeof(content), seed);
    names_say = 0;
    asked = 0;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    fixture_free(&fx);
    return 0;
}

/* A removal before may have found the file system's clock, which is coarse, to be behind by milliseconds: a
 * file that came to its place since then would be from the future, and young. */
static void clock_forget(void)
{
    atomic_store(&fx.store->clock_ahead_ms, 0);
}

static struct blob_removal removal_of(const struct digest *d, uint64_t age_ms)
{
    clock_forget();
    return (struct blob_removal){.digest = *d, .age_ms = age_ms, .is_free = is_free};
}

static int remove_blob(struct blob_removal *removal)
{
    struct wait_test w = waiting();
    return taken(fx.loop, blob_remove(fx.ring, removal, &w.waiter), &w);
}

static void test_removed_and_closed(void **state)
{
    (void)state;
    struct digest d = plant_blob(&fx, content, sizeof(content));
    struct blob_removal removal = removal_of(&d, 0);
    struct wait_test w = waiting();
    struct blob *blob, *again;
    assert_int_equal(settled(fx.loop, blob_open(fx.ring, &d, sizeof(content), false, &blob, &w.waiter), &w),
                     0);
    assert_int_equal(remove_blob(&removal), 0);
    assert_int_equal(removal.bytes, sizeof(content));
    assert_false(blob_there(&fx, &d));
    store_ring_turn(fx.ring);
    /* Who reads from it goes on; the next one does not find it. */
    assert_true(blob->fd >= 0);
    w = waiting();
    assert_int_equal(settled(fx.loop, blob_open(fx.ring, &d, sizeof(content), false, &again, &w.waiter), &w),
                     -ENOENT);
    assert_int_equal(fx.loop->removed_closed, 0);
    blob_put(fx.ring, blob);
    fake_run(fx.loop);
    assert_int_equal(fx.ring->files, 0);
    assert_int_equal(fx.loop->removed_closed, 1); /* by another thread: it frees the space */
    assert_int_equal(remove_blob(&removal), 0);
    assert_int_equal(removal.bytes, 0);
}

static void open_and_put(const struct digest *d)
{
    struct wait_test w = waiting();
    struct blob *blob;
    assert_int_equal(settled(fx.loop, blob_open(fx.ring, d, sizeof(content), false, &blob, &w.waiter), &w),
                     0);
    blob_put(fx.ring, blob);
}

/* A ring that has not heard of it yet, or never will (another file has come into its place), sees by the file
 * itself whether its close may take long. */
static void test_closed_by_whom(void **state)
{
    (void)state;
    struct digest d = plant_blob(&fx, content, sizeof(content));
    char path[BLOB_PATH_MAX + 1];
    blob_path(&d, path);
    open_and_put(&d);
    blob_forget(fx.ring, &d);
    fake_run(fx.loop);
    assert_int_equal(fx.loop->count[FAKE_CLOSE], 1);
    assert_int_equal(fx.loop->removed_closed, 0);
    open_and_put(&d);
    assert_int_equal(renameat(fx.blobs, path, fx.uploads, "away"), 0);
    assert_int_equal(unlinkat(fx.uploads, "away", 0), 0);
    blob_forget(fx.ring, &d);
    fake_run(fx.loop);
    assert_int_equal(fx.loop->count[FAKE_CLOSE], 2);
    assert_int_equal(fx.loop->removed_closed, 1);
}

static void test_pinned_young_and_named_stay(void **state)
{
    (void)state;
    struct digest d = plant_blob(&fx, content, 10), other = digest_of(DIGEST_SHA256, content, 11);
    struct blob_removal removal = removal_of(&d, 0), young = removal_of(&d, HOUR_MS);
    struct blob_pin *one = blob_pin(fx.ring, &d), *two = blob_pin(fx.ring, &d),
                    *third = blob_pin(fx.ring, &other);
    assert_int_equal(remove_blob(&removal), -EBUSY);
    blob_unpin(fx.ring, one);
    assert_int_equal(remove_blob(&removal), -EBUSY);
    blob_unpin(fx.ring, two);
    assert_int_equal(asked, 0);
    names_say = -EEXIST;
    assert_int_equal(remove_blob(&removal), -EEXIST);
    names_say = -EBUSY;
    assert_int_equal(remove_blob(&removal), -EBUSY);
    names_say = 0;
    assert_int_equal(remove_blob(&young), -EBUSY);
    assert_true(blob_there(&fx, &d));
    assert_int_equal(remove_blob(&removal), 0);
    assert_false(blob_there(&fx, &d));
    blob_unpin(fx.ring, third);
}

/* Whoever publishes while the old file is being removed waits, and brings its own. */
static void test_published_meanwhile(void **state)
{
    (void)state;
    for (unsigned turns = 0; turns < 12; turns++) {
        struct digest d = plant_blob(&fx, content, 1000);
        struct blob_removal removal = removal_of(&d, 0);
        struct wait_test gone = waiting(), written = waiting();
        int res = blob_remove(fx.ring, &removal, &gone.waiter);
        assert_int_equal(res, 0);
        struct blob_pin *pin = blob_pin(fx.ring, &d);
        assert_int_equal(blob_write(fx.ring, &d, content, 1000, &written.waiter), 0);
        for (unsigned i = 0; i < turns; i++)
            (void)fake_turn(fx.loop);
        struct wait_test late = waiting();
        res = blob_remove(fx.ring, &removal, &late.waiter); /* it is under way, or pinned */
        assert_int_equal(res, -EBUSY);
        fake_run(fx.loop);
        assert_int_equal(gone.res, 0);
        assert_int_equal(written.woken, 1);
        assert_int_equal(written.res, 0);
        assert_true(blob_there(&fx, &d));
        blob_unpin(fx.ring, pin);
        assert_int_equal(remove_blob(&removal), 0);
        store_ring_turn(fx.ring);
    }
}

/* A ring that was told of too many lets go of all that nobody refers to. */
static void test_many_are_forgotten(void **state)
{
    (void)state;
    struct digest kept = plant_blob(&fx, content, sizeof(content));
    struct wait_test w = waiting();
    struct blob *blob;
    assert_int_equal(
        settled(fx.loop, blob_open(fx.ring, &kept, sizeof(content), false, &blob, &w.waiter), &w), 0);
    blob_put(fx.ring, blob);
    assert_int_equal(fx.ring->files, 1);
    for (size_t i = 0; i < FORGOTTEN + 1; i++) {
        struct digest d = plant_blob(&fx, content, i + 1);
        struct blob_removal removal = removal_of(&d, 0);
        assert_int_equal(remove_blob(&removal), 0);
    }
    store_ring_turn(fx.ring);
    fake_run(fx.loop);
    assert_int_equal(fx.ring->files, 0);
}

/* What another node was told that it is here stays for a while. A file that is young is not even looked at
 * then: the names are not asked. */
static void test_held(void **state)
{
    (void)state;
    struct digest d = plant_blob(&fx, content, 10), other = plant_blob(&fx, content, 11);
    struct blob_removal removal = removal_of(&d, HOUR_MS), another = removal_of(&other, HOUR_MS),
                        now = removal_of(&d, 0);
    /* The store has just begun: who held what before is not known. */
    assert_int_equal(remove_blob(&another), -EBUSY);
    assert_int_equal(asked, 0);
    fx.store->pins.all_held_ms = 0;
    assert_int_equal(blob_hold(fx.ring, &d), 0);
    assert_int_equal(blob_hold(fx.ring, &d), 0);
    assert_int_equal(remove_blob(&removal), -EBUSY);
    assert_int_equal(asked, 0);
    assert_int_equal(remove_blob(&another), -EBUSY);
    assert_int_equal(asked, 1);
    assert_int_equal(remove_blob(&now), 0);
    assert_false(blob_there(&fx, &d));
}

/* Whoever holds it while it is being removed is told so, and finds nothing afterwards. */
static void test_held_too_late(void **state)
{
    (void)state;
    struct digest d = plant_blob(&fx, content, sizeof(content));
    struct blob_removal removal = removal_of(&d, 0);
    struct wait_test w = waiting(), gone = waiting();
    struct blob *blob;
    assert_int_equal(settled(fx.loop, blob_open(fx.ring, &d, sizeof(content), false, &blob, &w.waiter), &w),
                     0);
    blob_put(fx.ring, blob);
    assert_int_equal(blob_remove(fx.ring, &removal, &gone.waiter), 0);
    assert_int_equal(blob_hold(fx.ring, &d), -EBUSY);
    fake_run(fx.loop);
    assert_int_equal(gone.res, 0);
    assert_int_equal(blob_hold(fx.ring, &d), 0);
    w = waiting();
    assert_int_equal(settled(fx.loop, blob_open(fx.ring, &d, sizeof(content), false, &blob, &w.waiter), &w),
                     -ENOENT);
}

static void test_too_many_pins(void **state)
{
    (void)state;
    struct digest d = plant_blob(&fx, content, 10), other = plant_blob(&fx, content, 11);
    struct blob_removal removal = removal_of(&other, HOUR_MS);
    struct blob_pin **pin = calloc(PINS_MAX, sizeof(struct blob_pin *));
    assert_non_null(pin);
    fx.store->pins.all_held_ms = 0;
    for (unsigned i = 0; i < PINS_MAX; i++)
        assert_non_null(pin[i] = blob_pin(fx.ring, &d));
    assert_null(blob_pin(fx.ring, &other));
    assert_int_equal(remove_blob(&removal), -EBUSY);
    assert_int_equal(asked, 1); /* it is young */
    assert_int_equal(blob_hold(fx.ring, &d), 0);
    assert_int_equal(remove_blob(&removal), -EBUSY);
    assert_int_equal(asked, 1);
    for (unsigned i = 0; i < PINS_MAX; i++)
        blob_unpin(fx.ring, pin[i]);
    free(pin);
}

/* ------------------------------------------------------------------ a store that other nodes have, too */

static int setup_shared(void **state)
{
    setup(state);
    fixture_close(&fx);
    fx.tuning.shared = true;
    fixture_open(&fx, seed);
    return 0;
}

/* What another node's push does: a file of its own, in the place by a rename. */
static void publish_elsewhere(const struct digest *d)
{
    char path[BLOB_PATH_MAX + 1];
    int fd = openat(fx.uploads, "elsewhere", O_CREAT | O_EXCL | O_WRONLY, 0640);
    assert_int_equal(write(fd, content, sizeof(content)), sizeof(content));
    close(fd);
    blob_path(d, path);
    assert_int_equal(renameat(fx.uploads, "elsewhere", fx.blobs, path), 0);
}

static ino_t inode_of(const struct digest *d)
{
    char path[BLOB_PATH_MAX + 1];
    struct stat st;
    blob_path(d, path);
    return fstatat(fx.blobs, path, &st, 0) ? 0 : st.st_ino;
}

/* A removal with a push of another node behind its first `orders` orders (there are six in all). */
static int race(const struct digest *d, unsigned orders)
{
    struct blob_removal removal = removal_of(d, 0);
    struct wait_test w = waiting();
    assert_int_equal(blob_remove(fx.ring, &removal, &w.waiter), 0);
    for (unsigned i = 0; i < orders; i++)
        fake_complete(fx.loop, 0);
    publish_elsewhere(d);
    ino_t theirs = inode_of(d);
    fake_run(fx.loop);
    assert_int_equal(w.woken, 1);
    assert_int_equal(inode_of(d), theirs);
    assert_int_equal(files_in(fx.damaged), 0);
    return w.res;
}

static void test_pushed_elsewhere(void **state)
{
    (void)state;
    for (unsigned orders = 1; orders <= 6; orders++) {
        struct digest d = plant_blob(&fx, content, sizeof(content));
        /* Before our rename it is theirs that was moved; after it we never touch it. */
        assert_int_equal(race(&d, orders), orders == 1 ? -EBUSY : 0);
    }
}

static void test_alone_in_a_shared_store(void **state)
{
    (void)state;
    struct digest d = plant_blob(&fx, content, sizeof(content));
    struct blob_removal removal = removal_of(&d, HOUR_MS);
    assert_int_equal(remove_blob(&removal), -EBUSY);
    /* A clock that goes an hour before the file system's: seen once, and put right. */
    atomic_store(&fx.store->clock_ahead_ms, 2 * HOUR_MS);
    fx.store->pins.all_held_ms = 0;
    ino_t before = inode_of(&d);
    assert_int_equal(remove_blob(&removal), -EBUSY);
    assert_int_equal(inode_of(&d), before);
    assert_true(atomic_load(&fx.store->clock_ahead_ms) < HOUR_MS);
    clock_forget();
    removal.age_ms = 0;
    assert_int_equal(remove_blob(&removal), 0);
    assert_int_equal(removal.bytes, sizeof(content));
    assert_false(blob_there(&fx, &d));
    assert_int_equal(remove_blob(&removal), 0); /* another node was there before */
    assert_int_equal(removal.bytes, 0);
    assert_int_equal(files_in(fx.damaged), 0);
}

/* One that was imported by a link goes like any other; one that gets a name meanwhile does not. */
static void test_linked_elsewhere(void **state)
{
    (void)state;
    char path[BLOB_PATH_MAX + 1];
    struct digest d = plant_blob(&fx, content, sizeof(content));
    struct blob_removal removal = removal_of(&d, 0);
    struct wait_test w = waiting();
    blob_path(&d, path);
    assert_int_equal(blob_remove(fx.ring, &removal, &w.waiter), 0);
    fake_complete(fx.loop, 0);
    assert_int_equal(linkat(fx.blobs, path, fx.uploads, "hold", 0), 0);
    fake_run(fx.loop);
    assert_int_equal(w.res, -EBUSY);
    assert_true(blob_there(&fx, &d));
    clock_forget();
    assert_int_equal(remove_blob(&removal), 0);
    assert_false(blob_there(&fx, &d));
}

/* The first look hung, and has found what was pushed and linked meanwhile. */
static void test_named_meanwhile(void **state)
{
    (void)state;
    struct digest d = plant_blob(&fx, content, sizeof(content));
    struct blob_removal removal = removal_of(&d, 0);
    struct wait_test w = waiting();
    assert_int_equal(blob_remove(fx.ring, &removal, &w.waiter), 0);
    publish_elsewhere(&d);
    names_say = -EEXIST;
    ino_t theirs = inode_of(&d);
    fake_run(fx.loop);
    assert_int_equal(w.res, -EBUSY);
    assert_int_equal(asked, 2);
    assert_int_equal(inode_of(&d), theirs);
    assert_int_equal(files_in(fx.damaged), 0);
}

/* Another node that removes it, too, has moved what was pushed meanwhile over what this one has moved. */
static void test_moved_over(void **state)
{
    (void)state;
    char path[BLOB_PATH_MAX + 1], gone[GONE_NAME_MAX + 1];
    for (unsigned orders = 2; orders <= 5; orders++) {
        struct digest d = plant_blob(&fx, content, sizeof(content));
        struct blob_removal removal = removal_of(&d, 0);
        struct wait_test w = waiting();
        blob_path(&d, path);
        gone_name(&d, gone);
        assert_int_equal(blob_remove(fx.ring, &removal, &w.waiter), 0);
        for (unsigned i = 0; i < orders; i++)
            fake_complete(fx.loop, 0);
        publish_elsewhere(&d);
        ino_t theirs = inode_of(&d);
        assert_int_equal(renameat(fx.blobs, path, fx.damaged, gone), 0);
        fake_run(fx.loop);
        (void)renameat(fx.damaged, gone, fx.blobs, path); /* the other one's second look */
        assert_int_equal(w.res, orders < 4 ? -EBUSY : 0);
        assert_int_equal(inode_of(&d), theirs);
        assert_int_equal(files_in(fx.damaged), 0);
    }
}

/* Somebody is about to remove it, or was: who reads it finds it; what is nowhere is not there. */
static void test_read_on_its_way_out(void **state)
{
    (void)state;
    char path[BLOB_PATH_MAX + 1], gone[GONE_NAME_MAX + 1];
    struct digest d = plant_blob(&fx, content, sizeof(content));
    struct wait_test w = waiting();
    struct blob *blob;
    blob_path(&d, path);
    gone_name(&d, gone);
    assert_int_equal(renameat(fx.blobs, path, fx.damaged, gone), 0);
    assert_int_equal(settled(fx.loop, blob_open(fx.ring, &d, sizeof(content), false, &blob, &w.waiter), &w),
                     0);
    blob_put(fx.ring, blob);
    blob_forget(fx.ring, &d);
    assert_int_equal(unlinkat(fx.damaged, gone, 0), 0);
    w = waiting();
    assert_int_equal(settled(fx.loop, blob_open(fx.ring, &d, sizeof(content), false, &blob, &w.waiter), &w),
                     -ENOENT);
    /* Back in its place between the two looks. */
    w = waiting();
    assert_int_equal(blob_open(fx.ring, &d, sizeof(content), false, &blob, &w.waiter), -EINPROGRESS);
    assert_true(fake_turn(fx.loop) > 0);
    plant_blob(&fx, content, sizeof(content));
    fake_run(fx.loop);
    assert_int_equal(w.res, 0);
    blob_put(fx.ring, blob);
}

/* Descriptors that nobody uses are let go, so that what others remove has its space back. */
static void test_descriptors_are_let_go(void **state)
{
    (void)state;
    struct digest d = plant_blob(&fx, content, sizeof(content));
    struct wait_test w = waiting();
    struct blob *blob;
    assert_int_equal(settled(fx.loop, blob_open(fx.ring, &d, sizeof(content), false, &blob, &w.waiter), &w),
                     0);
    store_ring_tick(fx.ring, 1000000);
    fake_run(fx.loop);
    assert_int_equal(fx.ring->files, 1);
    blob_put(fx.ring, blob);
    store_ring_tick(fx.ring, 1000001);
    assert_int_equal(fx.ring->files, 1);
    store_ring_tick(fx.ring, 1000000 + FORGET_MS);
    fake_run(fx.loop);
    assert_int_equal(fx.ring->files, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_removed_and_closed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_closed_by_whom, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pinned_young_and_named_stay, setup, teardown),
        cmocka_unit_test_setup_teardown(test_published_meanwhile, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many_are_forgotten, setup, teardown),
        cmocka_unit_test_setup_teardown(test_held, setup, teardown),
        cmocka_unit_test_setup_teardown(test_held_too_late, setup, teardown),
        cmocka_unit_test_setup_teardown(test_too_many_pins, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pushed_elsewhere, setup_shared, teardown),
        cmocka_unit_test_setup_teardown(test_alone_in_a_shared_store, setup_shared, teardown),
        cmocka_unit_test_setup_teardown(test_linked_elsewhere, setup_shared, teardown),
        cmocka_unit_test_setup_teardown(test_named_meanwhile, setup_shared, teardown),
        cmocka_unit_test_setup_teardown(test_moved_over, setup_shared, teardown),
        cmocka_unit_test_setup_teardown(test_read_on_its_way_out, setup_shared, teardown),
        cmocka_unit_test_setup_teardown(test_descriptors_are_let_go, setup_shared, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
