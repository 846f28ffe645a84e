/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "control/mesh/pki_files.h"
#include "temp_dir.h"

static int dir_fd;

static void make(struct pki_files *files)
{
    char err[PKI_ERR_MAX];
    struct pki_subject subject = {.name = {.cluster_id = {1}, .node_id = 1}};
    assert_int_equal(pki_files_first(&subject, files, err), 0);
}

static void test_made_and_read(void **state)
{
    (void)state;
    struct pki_files in, out;
    struct pki_identity *identity;
    struct stat st;
    char err[PKI_ERR_MAX];
    assert_int_equal(pki_files_read(dir_fd, "a", &out, err), -ENOENT);
    make(&in);
    assert_int_equal(pki_files_make(dir_fd, "a", &in), 0);
    assert_int_equal(pki_files_make(dir_fd, "a", &in), -EEXIST);
    assert_int_equal(pki_files_read(dir_fd, "a", &out, err), 0);
    assert_string_equal(in.ca.data, out.ca.data);
    assert_string_equal(in.ca_key.data, out.ca_key.data);
    assert_null(out.peers.data);
    assert_int_equal(fstatat(dir_fd, "a/node.key", &st, 0), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_int_equal(fstatat(dir_fd, "a", &st, 0), 0);
    assert_int_equal(st.st_mode & 07777, 0700);
    assert_int_equal(pki_identity_new(out.ca.data, out.ca.len, out.cert.data, out.cert.len, out.key.data,
                                      out.key.len, &identity, err),
                     0);
    pki_identity_free(identity);
    struct pki_text peers = {(char *)(uintptr_t) "here", 4};
    assert_int_equal(pki_files_put(dir_fd, "a", PKI_FILE_PEERS, &peers), 0);
    assert_int_equal(pki_files_put(dir_fd, "a", "other", &peers), -EINVAL);
    pki_files_fini(&out);
    assert_int_equal(pki_files_read(dir_fd, "a", &out, err), 0);
    assert_string_equal(out.peers.data, "here");
    assert_int_equal(pki_files_remove(dir_fd, "a"), 0);
    assert_int_equal(pki_files_remove(dir_fd, "a"), 0);
    pki_files_fini(&in);
    assert_int_equal(pki_files_read(dir_fd, "a", &in, err), -ENOENT);
    pki_files_fini(&out);
}

/* Keys that others can read are not used; what is wrong is said. */
static void test_modes(void **state)
{
    (void)state;
    struct pki_files in, out;
    char err[PKI_ERR_MAX];
    make(&in);
    assert_int_equal(pki_files_make(dir_fd, "b", &in), 0);
    assert_int_equal(fchmodat(dir_fd, "b/ca.key", 0640, 0), 0);
    assert_int_equal(pki_files_read(dir_fd, "b", &out, err), -EPERM);
    assert_non_null(strstr(err, "b/ca.key"));
    assert_non_null(strstr(err, "0600"));
    assert_int_equal(fchmodat(dir_fd, "b/ca.key", 0400, 0), 0);
    assert_int_equal(fchmodat(dir_fd, "b", 0755, 0), 0);
    assert_int_equal(pki_files_read(dir_fd, "b", &out, err), -EPERM);
    assert_int_equal(fchmodat(dir_fd, "b", 0700, 0), 0);
    assert_int_equal(unlinkat(dir_fd, "b/node.pem", 0), 0);
    assert_int_equal(pki_files_read(dir_fd, "b", &out, err), -EINVAL);
    assert_non_null(strstr(err, "b/node.pem"));
    assert_int_equal(pki_files_remove(dir_fd, "b"), 0);
    pki_files_fini(&in);
}

/* What a start that was cut off left behind is in nobody's way. */
static void test_left_behind(void **state)
{
    (void)state;
    struct pki_files in;
    make(&in);
    assert_int_equal(mkdirat(dir_fd, "c.new", 0700), 0);
    int fd = openat(dir_fd, "c.new/node.key", O_WRONLY | O_CREAT, 0644);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(pki_files_make(dir_fd, "c", &in), 0);
    assert_int_equal(faccessat(dir_fd, "c.new", F_OK, 0), -1);
    assert_int_equal(pki_files_remove(dir_fd, "c"), 0);
    pki_files_fini(&in);
}

int main(void)
{
    static struct temp_dir dir;
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_made_and_read), cmocka_unit_test(test_modes),
                                       cmocka_unit_test(test_left_behind)};
    temp_dir_make(&dir);
    dir_fd = dir.fd;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    temp_dir_remove(&dir);
    return failed;
}
