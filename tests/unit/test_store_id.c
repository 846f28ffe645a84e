/* SPDX-License-Identifier: Apache-2.0 */
/* Which store a node has, who else has it, and whose uploads are where. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <sys/stat.h>

#include "control/store_clean.h"
#include "control/store_id.h"
#include "temp_dir.h"

enum { ERR_MAX = 512 };

/* A store, and the states of two nodes. */
struct fixture {
    struct temp_dir dir;
    struct folders folders[2];
    char err[ERR_MAX];
};

static int folder(int at, const char *name)
{
    assert_true(mkdirat(at, name, 0750) == 0 || errno == EEXIST);
    int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    temp_dir_make(&f->dir);
    for (unsigned i = 0; i < 2; i++) {
        char name[2] = {(char)('1' + i), '\0'};
        f->folders[i] = (struct folders){.state_fd = folder(f->dir.fd, name),
                                         .lock_fd = -1,
                                         .blobs_fd = folder(f->dir.fd, "blobs"),
                                         .uploads_fd = folder(f->dir.fd, "uploads"),
                                         .damaged_fd = -1,
                                         .all_uploads_fd = -1};
    }
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    for (unsigned i = 0; i < 2; i++)
        folders_close(&f->folders[i]);
    temp_dir_remove(&f->dir);
    free(f);
    return 0;
}

static int open_as(struct fixture *f, unsigned node, bool shared, struct store_id *s)
{
    f->err[0] = '\0';
    return store_id_open(&f->folders[node], shared, s, f->err, sizeof(f->err));
}

static void test_text(void **state)
{
    uint8_t id[NODE_STORE_BYTES], again[NODE_STORE_BYTES];
    char text[STORE_ID_TEXT + 1];
    (void)state;
    for (unsigned i = 0; i < sizeof(id); i++)
        id[i] = (uint8_t)(17 * i);
    store_id_text(id, text);
    assert_string_equal(text, "00112233445566778899aabbccddeeff");
    assert_true(store_id_parse(text, strlen(text), again));
    assert_memory_equal(id, again, sizeof(id));
    assert_false(store_id_parse(text, strlen(text) - 1, again));
    assert_false(store_id_parse("00112233445566778899aabbccddeefg", STORE_ID_TEXT, again));
    assert_false(store_id_parse("00000000000000000000000000000000", STORE_ID_TEXT, again));
}

static void test_the_same_for_all(void **state)
{
    struct fixture *f = *state;
    struct store_id a, b;
    assert_int_equal(open_as(f, 0, true, &a), 0);
    assert_int_equal(open_as(f, 1, true, &b), 0);
    assert_true(a.known && b.known && a.turned);
    assert_memory_equal(a.id, b.id, sizeof(a.id));
    store_id_remember(&f->folders[0], &a);
    store_id_close(&a);
    store_id_close(&b);
    for (unsigned i = 0; i < 2; i++) { /* also after a start that has failed */
        assert_int_equal(open_as(f, 0, false, &a), 0);
        assert_memory_equal(a.id, b.id, sizeof(a.id));
        assert_true(a.turned); /* it shared the store when it ran last */
        store_id_close(&a);
    }
    store_id_remember(&f->folders[0], &a);
    assert_int_equal(open_as(f, 0, false, &a), 0);
    assert_false(a.turned);
    store_id_close(&a);
}

static void test_who_does_not_share(void **state)
{
    struct fixture *f = *state;
    struct store_id a, b;
    for (unsigned shared = 0; shared < 2; shared++) {
        assert_int_equal(open_as(f, 0, shared, &a), 0);
        assert_int_equal(open_as(f, 1, !shared, &b), -EBUSY);
        assert_non_null(strstr(f->err, "store: {shared: true}"));
        assert_int_equal(b.lock_fd, -1);
        store_id_close(&a);
    }
    assert_int_equal(open_as(f, 0, false, &a), 0);
    assert_int_equal(open_as(f, 1, false, &b), -EBUSY);
    store_id_close(&a);
}

/* A node that has had a store does not make another one where there is none. */
static void test_not_there(void **state)
{
    struct fixture *f = *state;
    struct store_id first, s;
    assert_int_equal(open_as(f, 0, true, &first), 0);
    int fd = openat(f->folders[0].state_fd, STORE_KNOWN_FILE, O_WRONLY | O_CREAT | O_CLOEXEC, 0640);
    close(fd);
    assert_int_equal(unlinkat(f->folders[0].blobs_fd, STORE_FILE, 0), 0);
    for (unsigned shared = 0; shared < 2; shared++) {
        assert_int_equal(open_as(f, 0, shared, &s), 0);
        assert_false(s.known);
        assert_int_equal(s.lock_fd, -1);
        store_id_close(&s);
    }
    assert_true(faccessat(f->folders[0].blobs_fd, STORE_FILE, F_OK, 0) != 0);
    assert_int_equal(open_as(f, 1, true, &s), 0); /* another node's first start makes one */
    store_id_close(&s);
    assert_int_equal(store_id_renew(&f->folders[0], &first, f->err, sizeof(f->err)), 0);
    assert_true(first.known && first.shared && first.lock_fd >= 0);
    assert_memory_equal(first.id, s.id, sizeof(s.id));
    store_id_close(&first);
}

static void test_no_id(void **state)
{
    struct fixture *f = *state;
    struct store_id s;
    int fd = openat(f->folders[0].blobs_fd, STORE_FILE, O_WRONLY | O_CREAT | O_CLOEXEC, 0640);
    assert_int_equal(write(fd, "something\n", 10), 10);
    close(fd);
    assert_int_equal(open_as(f, 0, true, &s), -EUCLEAN);
    assert_non_null(strstr(f->err, STORE_FILE));
    assert_int_equal(open_as(f, 0, false, &s), 0);
    assert_false(s.known);
    store_id_close(&s);
}

/* ------------------------------------------------------------------ uploads */

#define RANDOM "0123456789abcdef0123456789abcdef"
#define MINE   RANDOM "0000000000000002.0011223344556677"
#define COPY   RANDOM "0000000000000002-" RANDOM ".0011223344556677"
#define OTHERS RANDOM "0000000000000003.0011223344556677"

static const uint8_t cluster[16] = {0xca, 0xfe, 0x00, 0x01}, another[16] = {0xca, 0xfe, 0x00, 0x02};
static const struct dataplane_user user = {.change = false};

static void put(int at, const char *name)
{
    int fd = openat(at, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0640);
    assert_true(fd >= 0);
    close(fd);
}

static bool has(int at, const char *name)
{
    return faccessat(at, name, F_OK, 0) == 0;
}

static int own(struct fixture *f, unsigned node, bool shared)
{
    const struct folders_node n = {node + 2, cluster, shared};
    return folders_own_uploads(&f->folders[node], &n, &user, f->err, sizeof(f->err));
}

static void test_own_uploads(void **state)
{
    struct fixture *f = *state;
    struct folders *one = &f->folders[0];
    int all = one->uploads_fd;
    put(all, MINE);
    put(all, COPY);
    put(all, OTHERS);
    put(all, "w.0123456789abcdef0123456789abcdef");
    assert_int_equal(own(f, 0, false), 0); /* nothing changes */
    assert_int_equal(one->uploads_fd, all);
    assert_int_equal(own(f, 0, true), 0);
    assert_int_equal(one->all_uploads_fd, all);
    assert_true(one->shared);
    assert_true(has(one->uploads_fd, MINE) && has(one->uploads_fd, COPY));
    assert_true(has(all, "2.cafe0001/" MINE) && has(all, OTHERS) && !has(all, MINE));
    assert_false(has(one->uploads_fd, OTHERS));
    assert_int_equal(own(f, 1, true), 0); /* the other node's */
    assert_true(has(f->folders[1].uploads_fd, OTHERS));
    /* And back. */
    close(one->uploads_fd);
    one->uploads_fd = all;
    one->all_uploads_fd = -1;
    one->shared = false;
    assert_int_equal(own(f, 0, false), 0);
    assert_true(has(all, MINE) && has(all, COPY) && !has(all, OTHERS));
}

static void test_folder_names(void **state)
{
    char name[FOLDERS_UPLOADS_NAME];
    uint64_t node;
    (void)state;
    folders_uploads_name(UINT64_MAX, cluster, name);
    assert_string_equal(name, "18446744073709551615.cafe0001");
    assert_true(folders_uploads_parse(name, cluster, &node));
    assert_true(node == UINT64_MAX);
    assert_false(folders_uploads_parse(name, another, &node));
    assert_false(folders_uploads_parse("0.cafe0001", cluster, &node));
    assert_false(folders_uploads_parse("02.cafe0001", cluster, &node));
    assert_false(folders_uploads_parse("2.cafe0001x", cluster, &node));
    assert_false(folders_uploads_parse(MINE, cluster, &node));
}

/* ------------------------------------------------------------------ what is cleaned */

static void test_uploads_of_who_is_gone(void **state)
{
    struct fixture *f = *state;
    static const uint64_t there[] = {1, 3};
    int all = f->folders[0].uploads_fd, live = folder(all, "3.cafe0001"), gone = folder(all, "2.cafe0001");
    int other = folder(all, "2.cafe0002");
    struct store_clean clean = {
        .all_uploads_fd = all, .cluster_id = cluster, .id = there, .count = 2, .grace_ms = 3600000};
    put(gone, OTHERS);
    put(live, OTHERS);
    put(other, OTHERS);
    assert_int_equal(store_clean_uploads(&clean), 0); /* not yet */
    clean.grace_ms = 0;
    assert_int_equal(store_clean_uploads(&clean), 1);
    assert_false(has(all, "2.cafe0001"));
    assert_true(has(live, OTHERS) && has(other, OTHERS));
    close(live);
    close(gone);
    close(other);
}

#define HEX "ab11111111111111111111111111111111111111111111111111111111111111"

static void test_removals_that_were_cut_off(void **state)
{
    struct fixture *f = *state;
    int blobs = f->folders[0].blobs_fd, damaged = folder(f->dir.fd, "damaged");
    close(folder(blobs, "sha256"));
    close(folder(blobs, "sha256/ab"));
    put(damaged, "sha256-" HEX ".gone");
    put(damaged, "sha256-" HEX);
    put(damaged, "something.gone");
    assert_int_equal(store_clean_gone(blobs, damaged), 1);
    assert_true(has(blobs, "sha256/ab/" HEX) && has(damaged, "sha256-" HEX) &&
                has(damaged, "something.gone"));
    put(damaged, "sha256-" HEX ".gone"); /* it was pushed again meanwhile */
    assert_int_equal(store_clean_gone(blobs, damaged), 1);
    assert_false(has(damaged, "sha256-" HEX ".gone"));
    assert_int_equal(unlinkat(blobs, "sha256/ab/" HEX, 0), 0); /* under a remover's own name */
    put(damaged, "sha256-" HEX ".gone.0123456789abcdef");
    put(damaged, "sha256-" HEX ".gone.0123456789abcdeg");
    put(damaged, "sha256-" HEX ".0123456789abcdef");
    assert_int_equal(store_clean_gone(blobs, damaged), 1);
    assert_true(has(blobs, "sha256/ab/" HEX) && !has(damaged, "sha256-" HEX ".gone.0123456789abcdef"));
    assert_true(has(damaged, "sha256-" HEX ".gone.0123456789abcdeg") &&
                has(damaged, "sha256-" HEX ".0123456789abcdef"));
    close(damaged);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text),
        cmocka_unit_test_setup_teardown(test_the_same_for_all, setup, teardown),
        cmocka_unit_test_setup_teardown(test_who_does_not_share, setup, teardown),
        cmocka_unit_test_setup_teardown(test_not_there, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_id, setup, teardown),
        cmocka_unit_test_setup_teardown(test_own_uploads, setup, teardown),
        cmocka_unit_test(test_folder_names),
        cmocka_unit_test_setup_teardown(test_uploads_of_who_is_gone, setup, teardown),
        cmocka_unit_test_setup_teardown(test_removals_that_were_cut_off, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
