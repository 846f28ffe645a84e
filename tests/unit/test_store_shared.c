/* SPDX-License-Identifier: Apache-2.0 */
/* Which file systems can hold a store that several nodes share. */
#include "store_fixture.h"

static const struct {
    const char *type, *options, *fault; /* part of it; NULL: none */
} rows[] = {
    {"ext4", "rw,relatime", NULL},
    {"ceph", "rw,relatime,name=x", NULL},
    {"nfs4", "rw,vers=4.2,hard,lookupcache=pos,proto=tcp", NULL},
    {"nfs4", "rw,vers=4.1,hard,lookupcache=none", NULL},
    {"nfs", "rw,vers=3,hard,lookupcache=none", "before version 4.1"},
    {"nfs4", "rw,vers=4.0,hard,lookupcache=none", "before version 4.1"},
    {"nfs4", "rw,vers=4.2,soft,lookupcache=none", "'hard'"},
    {"nfs4", "rw,vers=4.2,hard", "lookupcache=pos"},
    {"nfs4", "rw,vers=4.2,softhard,lookupcache=posx,hard", "lookupcache=pos"},
};

static void test_mounts(void **state)
{
    (void)state;
    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const char *fault = store_mount_fault(rows[i].type, rows[i].options);
        assert_int_equal(fault != NULL, rows[i].fault != NULL);
        if (fault)
            assert_non_null(strstr(fault, rows[i].fault));
    }
}

static void test_files(void **state)
{
    struct fixture f;
    const char *why = NULL;
    (void)state;
    fixture_new(&f, 1);
    const struct store_folders folders = {f.blobs, f.uploads, f.damaged};
    assert_int_equal(store_shared_check(&folders, &why), 0);
    assert_int_equal(files_in(f.uploads), 0);
    int shard = openat(f.blobs, "sha256", O_RDONLY | O_DIRECTORY);
    assert_int_equal(files_in(shard), 256);
    close(shard);
    int other = open("/proc", O_RDONLY | O_DIRECTORY);
    assert_true(store_shared_check(&(struct store_folders){f.blobs, other, f.damaged}, &why) < 0);
    assert_non_null(strstr(why, "does not write a file"));
    assert_true(store_shared_check(&(struct store_folders){other, f.uploads, f.damaged}, &why) < 0);
    assert_non_null(strstr(why, "does not rename"));
    assert_int_equal(files_in(f.uploads), 0);
    close(other);
    fixture_free(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_mounts), cmocka_unit_test(test_files)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
