/* SPDX-License-Identifier: Apache-2.0 */
/* Copies of other nodes' upload sessions, and what becomes of them when their node is away. */
#include <fcntl.h>

#include "store_fixture.h"

#define REPO     "library/alpine"
#define REPO_LEN (sizeof(REPO) - 1)
#define RANDOM   "0123456789abcdef0123456789abcdef"
#define THEIRS   RANDOM "0000000000000007"
#define OURS     RANDOM "000000000000002a"

static struct fixture fx;
static char name[UPLOAD_NAME_LEN + 1]; /* of their session */

static int setup(void **state)
{
    (void)state;
    fixture_new(&fx, 1);
    upload_name_write(THEIRS, REPO, REPO_LEN, name);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    fixture_free(&fx);
    return 0;
}

static int append(struct upload *u, const char *bytes)
{
    struct wait_test w = waiting();
    return taken(fx.loop, upload_append(u, bytes, strlen(bytes), &w.waiter), &w);
}

static int commit(struct upload *u, const char *bytes)
{
    struct wait_test w = waiting();
    struct digest d = digest_of(DIGEST_SHA256, bytes, strlen(bytes));
    return taken(fx.loop, upload_commit(u, &d, &w.waiter), &w);
}

static int checkout(const char *id, const char *repo, struct upload **u)
{
    struct wait_test w = waiting();
    *u = NULL;
    return settled(fx.loop, upload_checkout(fx.ring, id, strlen(id), repo, strlen(repo), u, &w.waiter), &w);
}

static int copy_checkout(const char *id, struct upload **u)
{
    struct wait_test w = waiting();
    return settled(fx.loop, upload_copy_checkout(fx.ring, id, strlen(id), u, &w.waiter), &w);
}

/* A copy with these bytes, checked out; its id. */
static struct upload *copy(const char *bytes, char id[UPLOAD_ID_LEN + 1])
{
    struct upload *u;
    struct wait_test w = waiting();
    int res = upload_copy_create(fx.ring, name, UPLOAD_NAME_LEN, DIGEST_SHA256, &u, &w.waiter);
    assert_int_equal(settled(fx.loop, res, &w), 0);
    memcpy(id, upload_id(u), UPLOAD_ID_LEN + 1);
    if (bytes[0])
        assert_int_equal(append(u, bytes), 0);
    return u;
}

static int look(uint64_t *size)
{
    struct upload_found found;
    int err = upload_look(fx.ring, name, UPLOAD_NAME_LEN, &found);
    *size = found.size;
    return err;
}

static bool is_session(void)
{
    struct upload_found found;
    return upload_look(fx.ring, name, UPLOAD_NAME_LEN, &found) == 0 && found.session;
}

static void check_no_sessions(void)
{
    fake_run(fx.loop);
    assert_int_equal(store_uploads_open(fx.store), 0);
    assert_int_equal(files_in(fx.uploads), 0);
}

/* As long as nobody adopts it, it is for its node alone. */
static void test_gone_on_with(void **state)
{
    (void)state;
    char id[UPLOAD_ID_LEN + 1];
    struct upload *u = copy("12345", id);
    uint64_t node, size;
    assert_true(upload_id_node(id, UPLOAD_ID_LEN, &node));
    assert_int_equal(node, fx.tuning.node);
    assert_int_not_equal(memcmp(id, OURS, UPLOAD_RANDOM_LEN),
                         0); /* whoever knows the session does not know it */
    assert_int_equal(look(&size), -EBUSY);
    upload_checkin(u);
    assert_int_equal(look(&size), 0);
    assert_int_equal(size, 5);
    assert_false(is_session());
    assert_int_equal(checkout(id, REPO, &u), -ENOENT);
    assert_int_equal(copy_checkout(id, &u), 0);
    assert_int_equal(append(u, "678"), 0);
    assert_int_equal(commit(u, "12345678"), 0);
    assert_int_equal(look(&size), -ENOENT);
    assert_int_equal(fx.loop->count[FAKE_READ], 0);
    check_no_sessions();
}

static void test_adopted(void **state)
{
    (void)state;
    char id[UPLOAD_ID_LEN + 1];
    struct upload *u;
    uint64_t size;
    upload_checkin(copy("12345", id));
    assert_int_equal(checkout(THEIRS, "library/alpin", &u), -ENOENT);
    assert_int_equal(checkout("1123456789abcdef0123456789abcdef0000000000000007", REPO, &u), -ENOENT);
    assert_int_equal(checkout(THEIRS, REPO, &u), 0);
    assert_string_equal(upload_id(u), OURS);
    assert_int_equal(upload_offset(u), 5);
    assert_int_equal(counted(&fx, CTR_UPLOADS_ADOPTED), 1);
    assert_int_equal(upload_origin(u)->node, 7);
    assert_true(upload_origin(u)->news);
    assert_int_equal(append(u, "67"), 0);
    assert_int_equal(look(&size), -EBUSY);
    upload_checkin(u);
    /* Its node may be there still: it is no copy of that one's any more. */
    assert_int_equal(copy_checkout(id, &u), -ENOENT);
    assert_int_equal(copy_checkout(OURS, &u), -ENOENT);
    assert_int_equal(look(&size), 0);
    assert_int_equal(size, 7);
    assert_true(is_session());
    /* By either name, and not adopted again. */
    assert_int_equal(checkout(OURS, REPO, &u), 0);
    upload_checkin(u);
    assert_int_equal(checkout(THEIRS, REPO, &u), 0);
    assert_string_equal(upload_id(u), OURS);
    assert_int_equal(commit(u, "1234567"), 0);
    assert_int_equal(fx.loop->count[FAKE_READ], 0); /* hashed on the way all the same */
    assert_int_equal(counted(&fx, CTR_UPLOADS_ADOPTED), 1);
    check_no_sessions();
}

/* A session that has gone on elsewhere is ended by its id alone, if no request is at work on it. */
static void test_dropped(void **state)
{
    (void)state;
    char id[UPLOAD_ID_LEN + 1];
    struct upload *u;
    struct wait_test w = waiting();
    upload_checkin(copy("12345", id));
    assert_int_equal(checkout(THEIRS, REPO, &u), 0);
    assert_int_equal(upload_any_checkout(fx.ring, OURS, UPLOAD_ID_LEN, &u, &w.waiter), -EBUSY);
    upload_checkin(u);
    assert_int_equal(upload_any_checkout(fx.ring, id, UPLOAD_ID_LEN, &u, &w.waiter), -ENOENT);
    fx.loop->now_ms += 700;
    assert_int_equal(upload_any_checkout(fx.ring, OURS, UPLOAD_ID_LEN, &u, &w.waiter), 0);
    assert_int_equal(upload_idle_ms(u), 700);
    fx.loop->now_ms += 5;
    upload_checkin(u); /* to be looked at is no use of it */
    assert_int_equal(upload_any_checkout(fx.ring, OURS, UPLOAD_ID_LEN, &u, &w.waiter), 0);
    assert_int_equal(upload_idle_ms(u), 705);
    assert_int_equal(append(u, "6"), 0);
    assert_int_equal(upload_idle_ms(u), 0);
    assert_int_equal(taken(fx.loop, upload_cancel(u, &w.waiter), &w), 0);
    check_no_sessions();
}

/* A client may be told of the session before it is one. */
static void test_adopted_by_its_next_name(void **state)
{
    (void)state;
    char id[UPLOAD_ID_LEN + 1];
    struct upload *u;
    upload_checkin(copy("12345", id));
    assert_int_equal(checkout(OURS, REPO, &u), 0);
    assert_string_equal(upload_id(u), OURS);
    assert_int_equal(commit(u, "12345"), 0);
    check_no_sessions();
}

/* The one that has most; while nobody knows which that is, none. A later copy is another node's affair. */
static void test_several(void **state)
{
    (void)state;
    char id[3][UPLOAD_ID_LEN + 1];
    struct upload *u;
    uint64_t size;
    upload_checkin(copy("123", id[0]));
    upload_checkin(copy("123456", id[1]));
    struct upload *busy = copy("", id[2]);
    assert_int_equal(look(&size), -EBUSY);
    assert_int_equal(checkout(THEIRS, REPO, &u), -EBUSY);
    upload_checkin(busy);
    assert_int_equal(look(&size), 0);
    assert_int_equal(size, 6);
    assert_int_equal(checkout(THEIRS, REPO, &u), 0);
    assert_int_equal(upload_offset(u), 6);
    upload_checkin(u);
    assert_int_equal(copy_checkout(id[1], &u), -ENOENT);
    assert_int_equal(copy_checkout(id[0], &u), 0);
    assert_int_equal(append(u, "456789"), 0); /* its node goes on, too */
    upload_checkin(u);
    assert_int_equal(look(&size), 0);
    assert_int_equal(size, 6);
    fx.loop->now_ms += fx.tuning.upload_expiry_ms + 1;
    store_ring_tick(fx.ring, fx.loop->now_ms);
    check_no_sessions();
}

/* Two requests at the same moment: one of them adopts. */
static void test_raced(void **state)
{
    (void)state;
    char id[2][UPLOAD_ID_LEN + 1];
    struct upload *u, *other = NULL;
    struct wait_test w = waiting();
    upload_checkin(copy("12", id[0]));
    upload_checkin(copy("123", id[1]));
    assert_int_equal(upload_checkout(fx.ring, THEIRS, UPLOAD_ID_LEN, REPO, REPO_LEN, &u, &w.waiter),
                     -EINPROGRESS);
    assert_int_equal(upload_checkout(fx.ring, OURS, UPLOAD_ID_LEN, REPO, REPO_LEN, &other, &w.waiter),
                     -EBUSY);
    assert_int_equal(copy_checkout(id[1], &other), -EBUSY);
    assert_int_equal(settled(fx.loop, -EINPROGRESS, &w), 0);
    assert_int_equal(upload_offset(u), 3);
    upload_checkin(u);
}

static void test_restarted(void **state)
{
    (void)state;
    char id[UPLOAD_ID_LEN + 1];
    struct upload *u;
    uint64_t size;
    upload_checkin(copy("12345", id));
    fixture_restart(&fx, 2);
    assert_int_equal(look(&size), 0);
    assert_int_equal(size, 5);
    assert_int_equal(checkout(id, REPO, &u), -ENOENT);
    assert_int_equal(copy_checkout(id, &u), 0); /* its node goes on as if nothing had happened */
    assert_int_equal(append(u, "6"), 0);
    upload_checkin(u);
    fixture_restart(&fx, 3);
    assert_int_equal(checkout(THEIRS, REPO, &u), 0);
    assert_int_equal(append(u, "78"), 0);
    fixture_kill(&fx);
    fixture_open(&fx, 4);
    assert_int_equal(copy_checkout(id, &u), -ENOENT);
    assert_int_equal(checkout(OURS, REPO, &u), 0);
    assert_int_equal(upload_offset(u), 8);
    assert_int_equal(append(u, "9"), 0);
    assert_int_equal(commit(u, "123456789"), 0);
    assert_true(fx.loop->count[FAKE_READ] > 0); /* the hash is made again from the file */
    check_no_sessions();
}

/* What is fetched from elsewhere is no copy, and gone with a start. */
static void test_fetched(void **state)
{
    (void)state;
    char id[UPLOAD_ID_LEN + 1];
    struct upload *u;
    struct wait_test w = waiting();
    int res = upload_create(fx.ring, UPLOAD_FETCH_REPO, sizeof(UPLOAD_FETCH_REPO) - 1, DIGEST_SHA256, &u,
                            &w.waiter);
    assert_int_equal(settled(fx.loop, res, &w), 0);
    memcpy(id, upload_id(u), sizeof(id));
    upload_checkin(u);
    assert_int_equal(copy_checkout(id, &u), 0);
    upload_checkin(u);
    fixture_restart(&fx, 2);
    check_no_sessions();
}

/* Names of other forms are files of somebody else's. */
static void test_bad_names(void **state)
{
    (void)state;
    struct upload *u;
    struct wait_test w = waiting();
    char bad[UPLOAD_NAME_LEN + 1];
    struct upload_found size;
    static const unsigned at[] = {0, UPLOAD_RANDOM_LEN, UPLOAD_ID_LEN, UPLOAD_NAME_LEN - 1};
    for (unsigned i = 0; i < 4; i++) {
        memcpy(bad, name, sizeof(bad));
        bad[at[i]] = '/';
        assert_int_equal(upload_look(fx.ring, bad, UPLOAD_NAME_LEN, &size), -ENOENT);
        assert_int_equal(upload_copy_create(fx.ring, bad, UPLOAD_NAME_LEN, DIGEST_SHA256, &u, &w.waiter),
                         -EINVAL);
    }
    assert_int_equal(upload_look(fx.ring, name, UPLOAD_NAME_LEN - 1, &size), -ENOENT);
    assert_int_equal(upload_look(fx.ring, name, 0, &size), -ENOENT);
    assert_int_equal(upload_copy_create(fx.ring, name, UPLOAD_ID_LEN, DIGEST_SHA256, &u, &w.waiter), -EINVAL);
    assert_int_equal(upload_copy_checkout(fx.ring, name, UPLOAD_NAME_LEN, &u, &w.waiter), -ENOENT);
    close(openat(fx.uploads, THEIRS "-" RANDOM "x0123456789abcdef", O_CREAT | O_WRONLY, 0640));
    close(openat(fx.uploads, THEIRS "-" RANDOM ".0123456789abcde", O_CREAT | O_WRONLY, 0640));
    fixture_restart(&fx, 2);
    assert_int_equal(store_uploads_open(fx.store), 0);
    assert_int_equal(files_in(fx.uploads), 2);
}

/* Each order of an adoption fails in each way: it is refused, and succeeds the next time, or is unknown; no
 * descriptor and no session is left. */
static void test_faults(void **state)
{
    (void)state;
    static const enum fake_fault faults[] = {FAULT_EIO, FAULT_ENOSPC, FAULT_EMFILE};
    for (unsigned f = 0; f < 3; f++) {
        for (unsigned restarted = 0; restarted < 2; restarted++) {
            for (unsigned at = 1; at <= 2; at++) {
                char id[UPLOAD_ID_LEN + 1];
                struct upload *u;
                upload_checkin(copy("12345", id));
                if (restarted)
                    fixture_restart(&fx, at);
                fake_fault(fx.loop, faults[f], at);
                int err = checkout(THEIRS, REPO, &u);
                fake_fault(fx.loop, FAULT_NONE, 0);
                if (err)
                    assert_int_equal(checkout(THEIRS, REPO, &u), 0);
                assert_int_equal(upload_offset(u), 5);
                assert_int_equal(commit(u, "12345"), 0);
                check_no_sessions();
            }
        }
    }
}

static void test_removed(void **state)
{
    (void)state;
    for (unsigned restarted = 0; restarted < 2; restarted++) {
        char id[UPLOAD_ID_LEN + 1];
        struct upload *u = copy("12345", id);
        char file[COPY_NAME_MAX + 1];
        memcpy(file, u->name, sizeof(file));
        upload_checkin(u);
        if (restarted)
            fixture_restart(&fx, 2);
        assert_int_equal(unlinkat(fx.uploads, file, 0), 0);
        assert_int_equal(checkout(THEIRS, REPO, &u), -ENOENT);
        check_no_sessions();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)
        TEST(test_gone_on_with), TEST(test_adopted),
        TEST(test_dropped),      TEST(test_adopted_by_its_next_name),
        TEST(test_several),      TEST(test_raced),
        TEST(test_restarted),    TEST(test_fetched),
        TEST(test_bad_names),    TEST(test_faults),
        TEST(test_removed),
#undef TEST
    };
    return cmocka_run_group_tests_name("upload_copy", tests, NULL, NULL);
}
