/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "check.h"
#include "temp_dir.h"
#include "control/scrub.h"

enum { BLOBS = 200, DAY_MS = 86400000 };

/* A store of BLOBS blobs, and a data plane that verifies when it is told to. */
static struct {
    struct temp_dir dir;
    int state_fd;
    struct jobs *jobs;
    struct scrub *scrub;
    struct {
        uint64_t id;
        uint8_t which;
    } sent[4096];
    size_t sent_count, answered;
    unsigned verified[BLOBS];
    unsigned found, ended;
    bool full; /* no more can be found now */
    enum job_result result[BLOBS], last;
    int walk_error;
} t;

static struct digest digest_at(unsigned i)
{
    struct digest d = {.alg = DIGEST_SHA256};
    d.bytes[0] = (uint8_t)i;
    return d;
}

static int on_send(void *arg, uint32_t ring, uint64_t id, const struct frame_job *job)
{
    (void)arg;
    (void)ring;
    CHECK(t.sent_count < ARRAY_SIZE(t.sent) && job->kind == JOB_VERIFY);
    t.sent[t.sent_count].id = id;
    t.sent[t.sent_count++].which = job->digest[1];
    return 0;
}

static int on_walk(void *arg, const struct digest *after, size_t limit, scrub_row row, void *row_arg)
{
    (void)arg;
    int n = 0;
    if (t.walk_error)
        return t.walk_error;
    for (unsigned i = after ? after->bytes[0] + 1 : 0; i < BLOBS && (size_t)n < limit; i++, n++) {
        struct digest d = digest_at(i);
        row(row_arg, &d, i);
    }
    return n;
}

static bool on_found(void *arg, const struct digest *d, uint64_t size, enum job_result result)
{
    (void)arg;
    assert_int_equal(size, d->bytes[0]);
    if (t.full)
        return false;
    t.found++;
    t.last = result;
    return true;
}

static void on_ended(void *arg)
{
    (void)arg;
    t.ended++;
}

static void open_scrub(void)
{
    t.sent_count = t.answered = 0;
    t.jobs = jobs_new(&(struct jobs_config){.send = on_send, .rings = 1});
    t.scrub = scrub_new(&(struct scrub_config){
        .state_fd = t.state_fd, .jobs = t.jobs, .walk = on_walk, .found = on_found, .ended = on_ended});
}

static void close_scrub(void)
{
    scrub_free(t.scrub);
    jobs_free(t.jobs);
}

static int setup(void **state)
{
    (void)state;
    memset(&t, 0, sizeof(t));
    temp_dir_make(&t.dir);
    t.state_fd = open(t.dir.path, O_RDONLY | O_DIRECTORY);
    open_scrub();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    close_scrub();
    close(t.state_fd);
    temp_dir_remove(&t.dir);
    return 0;
}

static bool answer_one(void)
{
    if (t.answered == t.sent_count)
        return false;
    unsigned which = t.sent[t.answered].which;
    uint64_t id = t.sent[t.answered++].id;
    t.verified[which]++;
    jobs_answer(t.jobs, id, t.result[which], 10);
    return true;
}

static void test_a_pass(void **state)
{
    (void)state;
    struct scrub_status s;
    t.result[3] = JOB_DAMAGED;
    t.result[150] = JOB_ERROR;
    t.result[151] = JOB_MISSING;
    scrub_tick(t.scrub, 1000, 0);
    scrub_tick(t.scrub, 1000 + DAY_MS, 0); /* never */
    scrub_tick(t.scrub, 999 + DAY_MS, DAY_MS);
    assert_int_equal(t.sent_count, 0);
    scrub_tick(t.scrub, 1000 + DAY_MS, DAY_MS);
    assert_false(scrub_begin(t.scrub, 1000));
    while (answer_one())
        ;
    scrub_status(t.scrub, &s);
    assert_false(s.running);
    assert_int_equal(t.ended, 1);
    assert_int_equal(t.found, 3);
    assert_int_equal(s.blobs, BLOBS - 3);
    assert_int_equal(s.bytes, 10 * (BLOBS - 3));
    assert_int_equal(s.damaged, 1);
    assert_int_equal(s.unreadable, 1);
    for (int i = 0; i < BLOBS; i++)
        assert_int_equal(t.verified[i], 1);
    scrub_tick(t.scrub, 1000 + 2 * DAY_MS - 1, DAY_MS);
    assert_int_equal(t.answered, t.sent_count);
    scrub_tick(t.scrub, 500, DAY_MS); /* a clock that was set back */
    assert_int_equal(t.answered, t.sent_count);
    scrub_tick(t.scrub, 1000 + 2 * (uint64_t)DAY_MS, DAY_MS);
    assert_true(t.sent_count > t.answered);
}

/* It goes on where it was, but for what is not saved yet. */
static void test_restart(void **state)
{
    (void)state;
    struct scrub_status s;
    scrub_begin(t.scrub, 1000);
    for (int i = 0; i < 130; i++)
        assert_true(answer_one());
    close_scrub();
    open_scrub();
    scrub_status(t.scrub, &s);
    assert_true(s.running);
    assert_int_equal(s.begun_ms, 1000);
    assert_true(s.done > 0.2 && s.done < 1);
    scrub_tick(t.scrub, 2000, 0);
    while (answer_one())
        ;
    assert_int_equal(t.ended, 1);
    for (int i = 0; i < BLOBS; i++)
        assert_int_equal(t.verified[i], i >= 128 && i < 130 ? 2 : 1);
    close_scrub();
    int fd = openat(t.state_fd, "scrub", O_WRONLY | O_TRUNC); /* a file that makes no sense */
    assert_int_equal(write(fd, "what", 4), 4);
    close(fd);
    open_scrub();
    scrub_status(t.scrub, &s);
    assert_int_equal(s.begun_ms, 0);
}

/* Names that cannot be read, a data plane that is away: it waits. */
static void test_trouble(void **state)
{
    (void)state;
    struct scrub_status s;
    t.walk_error = -EIO;
    scrub_begin(t.scrub, 1000);
    scrub_tick(t.scrub, 2000, 0);
    assert_int_equal(t.sent_count, 0);
    t.walk_error = 0;
    scrub_tick(t.scrub, 3000, 0);
    assert_true(t.sent_count > 0);
    t.answered = t.sent_count = 0; /* of a data plane that has ended */
    jobs_ready(t.jobs);
    t.result[0] = JOB_BUSY;
    while (answer_one())
        ;
    scrub_status(t.scrub, &s);
    assert_false(s.running);
    assert_int_equal(s.blobs, BLOBS - 1);
    assert_int_equal(t.found, 0);
}

/* What cannot be remembered now is told later, once, and nothing is read twice for it. */
static void test_too_much_is_found(void **state)
{
    (void)state;
    t.result[3] = JOB_DAMAGED;
    t.result[7] = t.result[150] = JOB_MISSING;
    t.full = true;
    scrub_tick(t.scrub, 1000, 0);
    assert_true(scrub_begin(t.scrub, 1000));
    for (unsigned i = 0; i < 10; i++) {
        while (answer_one())
            ;
        scrub_tick(t.scrub, 2000, 0);
    }
    assert_true(t.found == 0 && t.ended == 0 && t.answered < 150);
    t.full = false;
    scrub_tick(t.scrub, 3000, 0);
    assert_int_equal(t.found, 2);
    while (answer_one())
        ;
    assert_true(t.found == 3 && t.ended == 1);
    for (int i = 0; i < BLOBS; i++)
        assert_int_equal(t.verified[i], 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        TEST(test_a_pass),
        TEST(test_restart),
        TEST(test_trouble),
        TEST(test_too_much_is_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
