/* SPDX-License-Identifier: Apache-2.0 */
/* What is on the disk while a host becomes a node of another cluster, cut off after each step. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "control/joining.h"
#include "temp_dir.h"

static struct temp_dir dir;

static void put(const char *name)
{
    int fd = openat(dir.fd, name, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0 && write(fd, "x", 1) == 1);
    close(fd);
}

static bool is_there(const char *name)
{
    return faccessat(dir.fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

/* The state of a cluster of one. */
static void state_make(void)
{
    assert_int_equal(mkdirat(dir.fd, "raft", 0700), 0);
    assert_int_equal(mkdirat(dir.fd, "raft/snapshot-1", 0700), 0);
    put("raft/vote");
    put("raft/snapshot-1/meta");
    put("names.mdb");
    put("names.mdb-lock");
    put("private.mdb");
    put("events.log");
}

static void given_make(struct pki_files *files, uint64_t node)
{
    char err[PKI_ERR_MAX];
    struct pki_subject subject = {.name = {.cluster_id = {7}, .node_id = node}};
    assert_int_equal(pki_files_first(&subject, files, err), 0);
}

static void test_key_is_kept(void **state)
{
    (void)state;
    struct pki_text first, second;
    char err[PKI_ERR_MAX];
    assert_int_equal(joining_key(dir.fd, &first, err), 0);
    assert_int_equal(joining_key(dir.fd, &second, err), 0);
    assert_string_equal(first.data, second.data);
    pki_text_free(&first);
    pki_text_free(&second);
}

static void test_nothing_to_join(void **state)
{
    (void)state;
    struct pki_name name;
    char err[PKI_ERR_MAX];
    state_make();
    assert_int_equal(joining_begin(dir.fd, &name, err), 0);
    assert_true(is_there("raft/vote") && is_there("names.mdb"));
}

/* Decided once, and never half: the state of before goes whenever a start gets as far, and then the folder
 * becomes pki. */
static void test_joined(void **state)
{
    (void)state;
    struct pki_files given, read;
    struct pki_name name;
    char err[PKI_ERR_MAX];
    given_make(&given, 5);
    assert_int_equal(joining_decide(dir.fd, &given, err), 0);
    assert_int_equal(joining_decide(dir.fd, &given, err), -EEXIST);
    assert_true(is_there("raft/vote"));
    for (int i = 0; i < 3; i++) { /* the first two starts are cut off */
        assert_int_equal(joining_begin(dir.fd, &name, err), 1);
        assert_int_equal(name.node_id, 5);
        assert_int_equal(name.cluster_id[0], 7);
        assert_false(is_there("raft") || is_there("names.mdb") || is_there("names.mdb-lock") ||
                     is_there("private.mdb"));
        assert_true(is_there("events.log"));
        if (i == 0)
            state_make();
    }
    struct pki_files old;
    given_make(&old, 1);
    assert_int_equal(pki_files_make(dir.fd, PKI_FOLDER, &old), 0); /* of the cluster of one */
    assert_int_equal(joining_finish(dir.fd, err), 0);
    assert_false(is_there(JOINING_FOLDER) || is_there(JOINING_KEY_FOLDER));
    assert_int_equal(pki_files_read(dir.fd, PKI_FOLDER, &read, err), 0);
    assert_string_equal(read.cert.data, given.cert.data);
    assert_int_equal(joining_begin(dir.fd, &name, err), 0);
    pki_files_fini(&read);
    pki_files_fini(&old);
    pki_files_fini(&given);
}

/* A folder that cannot be used stops the start before anything is removed. */
static void test_damaged(void **state)
{
    (void)state;
    struct pki_files given;
    struct pki_name name;
    char err[PKI_ERR_MAX];
    given_make(&given, 5);
    given.cert.data[40] ^= 1;
    put("names.mdb");
    assert_int_equal(joining_decide(dir.fd, &given, err), 0);
    assert_int_equal(joining_begin(dir.fd, &name, err), -EINVAL);
    assert_true(err[0] && is_there("names.mdb"));
    assert_int_equal(pki_files_remove(dir.fd, JOINING_FOLDER), 0);
    pki_files_fini(&given);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_key_is_kept),
                                       cmocka_unit_test(test_nothing_to_join), cmocka_unit_test(test_joined),
                                       cmocka_unit_test(test_damaged)};
    temp_dir_make(&dir);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    temp_dir_remove(&dir);
    return failed;
}
