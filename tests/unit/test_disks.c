/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <cmocka.h>

#include "check.h"
#include "temp_dir.h"
#include "control/disks.h"
#include "control/store_place.h"

static struct {
    struct temp_dir dir;
    int state_fd, store_fd;
    char path[DISK_PATH_MAX];
    struct disk_look look;
} t;

static int folder(const char *name)
{
    (void)mkdirat(t.dir.fd, name, 0700);
    int fd = openat(t.dir.fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

static int setup(void **state)
{
    (void)state;
    memset(&t, 0, sizeof(t));
    temp_dir_make(&t.dir);
    t.state_fd = folder("state");
    t.store_fd = folder("store");
    assert_int_equal(mkdirat(t.store_fd, "blobs", 0700), 0);
    snprintf(t.path, sizeof(t.path), "%s/store", t.dir.path);
    t.look = (struct disk_look){.doing = "", .free_bytes = 1000};
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    close(t.state_fd);
    close(t.store_fd);
    temp_dir_remove(&t.dir);
    return 0;
}

/* ------------------------------------------------------------------ what it means */

static void judged(enum disk disk, const struct disk_facts *f, enum disk_state state, int error)
{
    struct disk_verdict v;
    disk_judge(disk, f, &v);
    assert_int_equal(v.state, state);
    assert_int_equal(v.error, error);
    assert_int_equal(v.text[0] == '\0', state == DISK_OK);
    assert_true(strlen(v.text) < DISK_TEXT_MAX - 1);
}

static void test_states(void **state)
{
    (void)state;
    struct disk_facts f = {.look = &t.look, .reserve = 1000};
    judged(DISK_OF_STORE, &f, DISK_OK, 0);
    f.reserve = 1001;
    judged(DISK_OF_STORE, &f, DISK_FULL, -ENOSPC);
    f.error = -EIO;
    judged(DISK_OF_STORE, &f, DISK_FAILING, -EIO);
    f.error = -EDQUOT;
    judged(DISK_OF_STATE, &f, DISK_FULL, -EDQUOT);
    t.look.read_only = true;
    judged(DISK_OF_STATE, &f, DISK_READ_ONLY, -EROFS);
    t.look.error = -EROFS;
    judged(DISK_OF_STATE, &f, DISK_READ_ONLY, -EROFS);
    t.look.error = -EIO;
    judged(DISK_OF_STORE, &f, DISK_FAILING, -EIO);
    f.hung_ms = DISK_HUNG_MS;
    judged(DISK_OF_STORE, &f, DISK_FAILING, 0);
    t.look.moved = true;
    judged(DISK_OF_STATE, &f, DISK_MISSING, 0);
    f.identity = STORE_OTHER;
    judged(DISK_OF_STATE, &f, DISK_MISSING, 0);
    judged(DISK_OF_STORE, &f, DISK_OTHER, 0);
    f.identity = STORE_EMPTY;
    judged(DISK_OF_STORE, &f, DISK_MISSING, 0);
}

/* What others are told: at once of a store that is none, and not of one that comes and goes. */
static void test_said(void **state)
{
    static const struct {
        enum node_store_state said;
        bool gone;
        enum disk_state disk;
        uint64_t for_ms;
        enum node_store_state then;
    } rows[] = {
        {NODE_STORE_WELL, true, DISK_OK, 0, NODE_STORE_LOST},
        {NODE_STORE_FAILING, true, DISK_OTHER, 0, NODE_STORE_LOST},
        {NODE_STORE_LOST, false, DISK_OK, 0, NODE_STORE_WELL},
        {NODE_STORE_LOST, false, DISK_FAILING, 0, NODE_STORE_WELL},
        {NODE_STORE_WELL, false, DISK_FAILING, DISK_SAID_MS - 1, NODE_STORE_WELL},
        {NODE_STORE_WELL, false, DISK_FAILING, DISK_SAID_MS, NODE_STORE_FAILING},
        {NODE_STORE_FAILING, false, DISK_OK, DISK_SAID_MS - 1, NODE_STORE_FAILING},
        {NODE_STORE_FAILING, false, DISK_OK, DISK_SAID_MS, NODE_STORE_WELL},
        {NODE_STORE_FAILING, false, DISK_READ_ONLY, DISK_SAID_MS, NODE_STORE_READ_ONLY},
        {NODE_STORE_WELL, false, DISK_FULL, DISK_SAID_MS, NODE_STORE_WELL},
        {NODE_STORE_WELL, false, DISK_MISSING, DISK_SAID_MS, NODE_STORE_WELL}, /* the open one is there */
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        assert_int_equal(store_say(rows[i].said, rows[i].gone, rows[i].disk, rows[i].for_ms), rows[i].then);
}

/* ------------------------------------------------------------------ looks */

static void test_look(void **state)
{
    (void)state;
    struct stat st;
    char id[STORE_ID_LEN + 1];
    assert_int_equal(store_place_take(t.state_fd, t.store_fd, id), 0);
    disk_look(t.store_fd, t.path, id, true, &t.look);
    assert_true(!t.look.error && !t.look.read_only && !t.look.moved && !t.look.here);
    assert_true(t.look.total_bytes >= t.look.free_bytes && t.look.total_bytes > 0);
    assert_int_equal(fstatat(t.store_fd, ".probe", &st, 0), -1);

    /* Gone, another folder, and the right one but not the open one. */
    assert_int_equal(renameat(t.dir.fd, "store", t.dir.fd, "away"), 0);
    disk_look(t.store_fd, t.path, id, true, &t.look);
    assert_true(!t.look.error && t.look.moved && !t.look.here);
    int other = folder("store");
    disk_look(t.store_fd, t.path, id, true, &t.look);
    assert_true(!t.look.error && t.look.moved && !t.look.here);
    disk_look(other, t.path, id, true, &t.look);
    assert_true(!t.look.error && !t.look.moved);
    assert_int_equal(unlinkat(t.dir.fd, "store", AT_REMOVEDIR), 0);
    assert_int_equal(renameat(t.dir.fd, "away", t.dir.fd, "store"), 0);
    disk_look(other, t.path, id, false, &t.look);
    assert_true(!t.look.error && t.look.moved && t.look.here);
    disk_look(other, t.path, "", false, &t.look);
    assert_true(t.look.moved && !t.look.here);
    close(other);

    /* What stands in the way of a write is told. */
    assert_int_equal(mkdirat(t.store_fd, ".probe", 0700), 0);
    disk_look(t.store_fd, t.path, id, true, &t.look);
    assert_int_equal(t.look.error, -EISDIR);
    assert_true(*t.look.doing);
    disk_look(t.store_fd, t.path, id, false, &t.look);
    assert_int_equal(t.look.error, 0);
    disk_look(-1, t.path, id, false, &t.look);
    assert_int_equal(t.look.error, -EBADF);
}

/* ------------------------------------------------------------------ whose it is */

static void put(int at, const char *name, const char *text)
{
    int fd = openat(at, name, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
}

static void checked(int state_fd, int store_fd, enum store_identity identity, const char *expected)
{
    char id[STORE_ID_LEN + 1];
    assert_int_equal(store_place_check(state_fd, store_fd, false, id), identity);
    assert_string_equal(id, expected);
}

static void test_whose(void **state)
{
    (void)state;
    char id[STORE_ID_LEN + 1], again[STORE_ID_LEN + 1];
    int other = folder("other"), other_state = folder("other_state");
    assert_int_equal(mkdirat(other, "blobs", 0700), 0);
    assert_int_equal(store_place_read(t.store_fd, id), -ENOENT);
    checked(t.state_fd, t.store_fd, STORE_OURS, "");
    assert_int_equal(store_place_check(t.state_fd, t.store_fd, true, id), STORE_EMPTY);
    assert_string_equal(id, ""); /* any store with blobs will do */
    assert_int_equal(store_place_take(t.state_fd, t.store_fd, id), 0);
    assert_int_equal(strlen(id), STORE_ID_LEN);
    checked(t.state_fd, t.store_fd, STORE_OURS, id);
    assert_int_equal(store_place_take(t.state_fd, t.store_fd, again), 0);
    assert_string_equal(id, again);
    checked(t.state_fd, other, STORE_EMPTY, id);      /* it is waited for */
    checked(other_state, t.store_fd, STORE_OURS, id); /* the state came from a backup */
    assert_int_equal(store_place_take(other_state, other, again), 0);
    assert_string_not_equal(id, again);
    checked(t.state_fd, other, STORE_EMPTY, id);
    assert_int_equal(mkdirat(other, "blobs/sha512", 0700), 0);
    assert_int_equal(mkdirat(other, "blobs/sha512/fe", 0700), 0);
    put(other, "blobs/sha512/fe/blob", "x");
    checked(t.state_fd, other, STORE_OTHER, id);
    assert_int_equal(unlinkat(other_state, "store.known", 0), 0);
    assert_int_equal(store_place_check(other_state, other, true, again), STORE_OURS);
    assert_int_equal(store_place_take(t.state_fd, other, id), 0);
    checked(t.state_fd, other, STORE_OURS, again);
    close(other);
    close(other_state);
}

/* Files that are none of ours, or torn. */
static void test_torn_ids(void **state)
{
    (void)state;
    char id[STORE_ID_LEN + 1], known[STORE_ID_LEN + 1];
    assert_int_equal(store_place_take(t.state_fd, t.store_fd, known), 0);
    put(t.state_fd, "store.known", "0123");
    checked(t.state_fd, t.store_fd, STORE_OURS, known);
    assert_int_equal(store_place_take(t.state_fd, t.store_fd, id), 0);
    put(t.store_fd, "blobs/.store", "ABCDEFGHIJKLMNOPQRSTUVWXYZ789012\n");
    assert_int_equal(store_place_read(t.store_fd, id), -EINVAL);
    assert_string_equal(id, "");
    checked(t.state_fd, t.store_fd, STORE_OURS, known);
    assert_int_equal(store_place_take(t.state_fd, t.store_fd, id), 0);
    assert_string_not_equal(id, known);
}

/* ------------------------------------------------------------------ both, over time */

static struct {
    uv_loop_t loop;
    struct disks *disks;
    enum disk_state state;
    unsigned changes, backs;
    bool few; /* descriptors: the state's disk cannot be looked at either */
} life;

static void on_changed(void *arg, enum disk disk)
{
    struct disk_status s;
    (void)arg;
    if (life.few && disk == DISK_OF_STATE)
        return;
    assert_int_equal(disk, DISK_OF_STORE);
    disks_status(life.disks, disk, &s);
    assert_string_equal(s.path, t.path);
    assert_true(s.since_ms > 0);
    life.state = s.verdict.state;
    life.changes++;
}

static void on_back(void *arg)
{
    (void)arg;
    life.backs++;
}

static void life_open(enum store_identity identity, const char *id, const char *state_path)
{
    memset(&life, 0, sizeof(life));
    assert_int_equal(uv_loop_init(&life.loop), 0);
    life.disks = disks_new(&(struct disks_config){.loop = &life.loop,
                                                  .fd = {t.state_fd, t.store_fd},
                                                  .path = {state_path, t.path},
                                                  .store_id = id,
                                                  .identity = identity,
                                                  .changed = on_changed,
                                                  .back = on_back});
}

static void life_close(void)
{
    disks_close(life.disks);
    uv_run(&life.loop, UV_RUN_DEFAULT);
    disks_free(life.disks);
    assert_int_equal(uv_loop_close(&life.loop), 0);
}

static struct disk_status now(void)
{
    struct disk_status s;
    disks_status(life.disks, DISK_OF_STORE, &s);
    return s;
}

/* A second, with its looks. */
static void second(uint64_t now_ms, int error)
{
    disks_tick(life.disks, now_ms, &(struct disks_met){.error = {0, error}});
    uv_run(&life.loop, UV_RUN_DEFAULT);
}

static void test_life(void **state)
{
    (void)state;
    char id[STORE_ID_LEN + 1], state_path[DISK_PATH_MAX];
    snprintf(state_path, sizeof(state_path), "%s/state", t.dir.path);
    assert_int_equal(store_place_take(t.state_fd, t.store_fd, id), 0);
    life_open(STORE_OURS, id, state_path);
    second(1000, 0);
    assert_int_equal(life.changes, 0);
    second(2000, -EIO);
    assert_true(life.changes == 1 && life.state == DISK_FAILING);
    second(2000 + DISK_ERROR_MS - 1, 0);
    assert_int_equal(life.changes, 1);
    second(2000 + DISK_ERROR_MS, 0);
    assert_true(life.changes == 2 && life.state == DISK_OK);
    /* A write that fails is noticed without anybody's error, if it may take longer. */
    assert_int_equal(mkdirat(t.store_fd, ".probe", 0700), 0);
    second(2001 + DISK_ERROR_MS, 0);
    assert_int_equal(life.state, DISK_OK);
    second(10000 + DISK_PROBE_MS, 0);
    assert_int_equal(life.state, DISK_FAILING);
    assert_int_equal(unlinkat(t.store_fd, ".probe", AT_REMOVEDIR), 0);
    second(11000 + DISK_PROBE_MS, 0);
    assert_true(life.changes == 4 && life.state == DISK_OK && life.backs == 0);
    life_close();
}

/* What others are told comes from looks: neither from what a request met, nor from what the host lacks. */
static void test_found(void **state)
{
    (void)state;
    char id[STORE_ID_LEN + 1], state_path[DISK_PATH_MAX];
    struct rlimit all, few;
    snprintf(state_path, sizeof(state_path), "%s/state", t.dir.path);
    assert_int_equal(store_place_take(t.state_fd, t.store_fd, id), 0);
    life_open(STORE_OURS, id, state_path);
    assert_int_equal(now().found_for_ms, 0);
    for (uint64_t ms = 1000; ms <= 3 * DISK_SAID_MS; ms += 1000)
        second(ms, -EIO);
    assert_true(life.changes == 1 && life.state == DISK_FAILING);
    assert_true(now().found == DISK_OK && now().found_for_ms == 3 * DISK_SAID_MS - 1000);
    assert_int_equal(mkdirat(t.store_fd, ".probe", 0700), 0);
    second(100000, -EIO);
    assert_true(now().found == DISK_FAILING && now().found_for_ms == 0);
    second(101000, 0);
    assert_true(now().found == DISK_FAILING && now().found_for_ms == 1000);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &all), 0);
    few = all;
    few.rlim_cur = 0;
    life.few = true;
    assert_int_equal(unlinkat(t.store_fd, ".probe", AT_REMOVEDIR), 0);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    second(102000, 0); /* it is well, and that cannot be seen */
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &all), 0);
    assert_true(now().verdict.error == -EMFILE && now().found == DISK_FAILING);
    second(103000, 0);
    assert_true(now().found == DISK_OK && now().found_for_ms == 0 && life.state == DISK_OK);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    second(140000, 0);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &all), 0);
    assert_true(now().verdict.state == DISK_FAILING && now().found == DISK_OK);
    life_close();
}

/* Nothing is written to what is not this node's, and the right one is noticed when it comes. */
static void test_gone_and_back(void **state)
{
    (void)state;
    char id[STORE_ID_LEN + 1], state_path[DISK_PATH_MAX];
    struct stat st;
    snprintf(state_path, sizeof(state_path), "%s/state", t.dir.path);
    int right = folder("right");
    assert_int_equal(mkdirat(right, "blobs", 0700), 0);
    assert_int_equal(store_place_take(t.state_fd, right, id), 0);
    char waited[STORE_ID_LEN + 1];
    assert_int_equal(store_place_check(t.state_fd, t.store_fd, false, waited), STORE_EMPTY);
    assert_int_equal(mkdirat(t.store_fd, ".probe", 0700), 0); /* would be an error */
    life_open(STORE_EMPTY, waited, state_path);
    second(1000, 0);
    assert_true(disks_store_is_gone(life.disks) && life.changes == 1 && life.state == DISK_MISSING);
    assert_int_equal(unlinkat(t.store_fd, ".probe", AT_REMOVEDIR), 0);
    second(2000, 0);
    assert_true(life.backs == 0 && fstatat(t.store_fd, "blobs/.store", &st, 0) != 0);
    assert_int_equal(renameat(t.dir.fd, "store", t.dir.fd, "mount_point"), 0);
    assert_int_equal(renameat(t.dir.fd, "right", t.dir.fd, "store"), 0);
    second(3000, 0);
    assert_int_equal(life.backs, 1);
    assert_true(dup3(right, t.store_fd, O_CLOEXEC) >= 0);
    disks_identify(life.disks, STORE_OURS, id);
    second(4000, 0);
    second(5000, 0);
    assert_true(!disks_store_is_gone(life.disks) && life.state == DISK_OK && life.backs == 1);
    life_close();
    close(right);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        TEST(test_states),   TEST(test_said), TEST(test_look),          TEST(test_whose),
        TEST(test_torn_ids), TEST(test_life), TEST(test_gone_and_back), TEST(test_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
