/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <cmocka.h>

#include "temp_dir.h"
#include "control/damage.h"

static struct {
    struct temp_dir dir;
    int blobs_fd, damaged_fd;
    struct jobs *jobs;
    struct damage *damage;
    bool others;
    struct frame_job job;
    uint64_t id;
    unsigned sent, told;
    bool deleted;
    bool mute, holds; /* nothing can be said now; what was said last */
    unsigned said;
    char kind[32];
} t;

static int on_send(void *arg, uint32_t ring, uint64_t id, const struct frame_job *job)
{
    (void)arg;
    (void)ring;
    t.job = *job;
    t.id = id;
    t.sent++;
    return 0;
}

static bool on_has_others(void *arg)
{
    (void)arg;
    return t.others;
}

static bool on_holds(void *arg, const struct digest *digest, bool holds)
{
    (void)arg;
    (void)digest;
    t.said += !t.mute;
    t.holds = holds;
    return !t.mute;
}

static bool on_is_wanted(void *arg, const struct digest *digest)
{
    (void)arg;
    (void)digest;
    return !t.deleted;
}

static void on_tell(void *arg, const char *kind, const struct digest *digest, const char *text)
{
    (void)arg;
    (void)digest;
    assert_true(strlen(text) > 0);
    snprintf(t.kind, sizeof(t.kind), "%s", kind);
    t.told++;
}

static void open_damage(void)
{
    t.jobs = jobs_new(&(struct jobs_config){.send = on_send, .rings = 1});
    t.damage =
        damage_new(&(struct damage_config){t.blobs_fd, t.damaged_fd, t.jobs, .has_others = on_has_others,
                                           .holds = on_holds, .is_wanted = on_is_wanted, .tell = on_tell});
}

static void close_damage(void)
{
    damage_free(t.damage);
    jobs_free(t.jobs);
}

static int setup(void **state)
{
    (void)state;
    memset(&t, 0, sizeof(t));
    temp_dir_make(&t.dir);
    assert_int_equal(mkdirat(t.dir.fd, "sha256", 0700), 0);
    assert_int_equal(mkdirat(t.dir.fd, "sha256/01", 0700), 0);
    assert_int_equal(mkdirat(t.dir.fd, "damaged", 0700), 0);
    t.blobs_fd = t.dir.fd;
    t.damaged_fd = openat(t.dir.fd, "damaged", O_RDONLY | O_DIRECTORY);
    open_damage();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    close_damage();
    close(t.damaged_fd);
    temp_dir_remove(&t.dir);
    return 0;
}

static const struct digest one = {.alg = DIGEST_SHA256, .bytes = {1}};
#define ONE_HEX "0100000000000000000000000000000000000000000000000000000000000000"

static void put(const char *path)
{
    int fd = openat(t.dir.fd, path, O_WRONLY | O_CREAT, 0600);
    assert_true(fd >= 0);
    close(fd);
}

static bool is_there(const char *path)
{
    struct stat st;
    return fstatat(t.dir.fd, path, &st, 0) == 0;
}

/* Alone nobody can be asked: a push of the same bytes heals it. */
static void test_healed_by_a_push(void **state)
{
    (void)state;
    put("damaged/sha256-" ONE_HEX);
    damage_found(t.damage, &one, 5, false);
    damage_found(t.damage, &one, 5, false); /* by another reader */
    assert_string_equal(t.kind, "blob.damaged");
    assert_int_equal(damage_count(t.damage), 1);
    damage_tick(t.damage, 1000);
    assert_int_equal(t.sent, 0);
    assert_int_equal(damage_count(t.damage), 1);
    put("sha256/01/" ONE_HEX);
    damage_tick(t.damage, 2000);
    assert_string_equal(t.kind, "blob.healed");
    assert_int_equal(damage_count(t.damage), 0);
    assert_false(is_there("damaged/sha256-" ONE_HEX));
}

static void test_healed_by_a_replica(void **state)
{
    (void)state;
    t.others = true;
    damage_found(t.damage, &one, 5, false);
    damage_tick(t.damage, 1000);
    assert_int_equal(t.sent, 1);
    assert_int_equal(t.job.kind, JOB_KEEP);
    assert_int_equal(t.job.flags, 0);
    assert_int_equal(t.job.arg, 5);
    damage_tick(t.damage, 2000);
    assert_int_equal(t.sent, 1);
    jobs_answer(t.jobs, t.id, JOB_NO_SOURCE, 0);
    damage_tick(t.damage, 2000);
    assert_int_equal(t.sent, 1); /* not at once */
    damage_tick(t.damage, 2000 + DAMAGE_AGAIN_MS);
    assert_int_equal(t.sent, 2);
    jobs_answer(t.jobs, t.id, JOB_OK, 5);
    assert_string_equal(t.kind, "blob.healed");
    assert_int_equal(damage_count(t.damage), 0);
}

/* What cannot be read is fetched over what is there. */
static void test_unreadable(void **state)
{
    (void)state;
    t.others = true;
    put("sha256/01/" ONE_HEX);
    damage_found(t.damage, &one, 5, true);
    assert_string_equal(t.kind, "blob.unreadable");
    damage_tick(t.damage, 1000);
    assert_int_equal(t.job.flags, JOB_REPLACE);
    jobs_answer(t.jobs, t.id, JOB_OK, 5);
    assert_int_equal(damage_count(t.damage), 0);
}

/* A file that is missing is looked for twice, then asked for; nobody counts on it while it does not come. */
static void test_missing(void **state)
{
    (void)state;
    t.others = true;
    damage_tick(t.damage, 1000);
    damage_missing(t.damage, &one, 5);
    put("sha256/01/" ONE_HEX);
    damage_tick(t.damage, 1000 + DAMAGE_AGAIN_MS);
    assert_int_equal(damage_count(t.damage) + t.told + t.sent, 0); /* it was on its way */
    assert_int_equal(unlinkat(t.dir.fd, "sha256/01/" ONE_HEX, 0), 0);
    damage_missing(t.damage, &one, 5);
    damage_missing(t.damage, &one, 5);
    damage_tick(t.damage, 2000 + DAMAGE_AGAIN_MS);
    assert_int_equal(t.told, 0);
    uint64_t now = 10 * DAMAGE_AGAIN_MS;
    for (unsigned i = 1; i <= 3; i++, now += DAMAGE_AGAIN_MAX_MS) {
        t.mute = i == 2; /* nobody leads */
        damage_tick(t.damage, now);
        assert_string_equal(t.kind, "blob.missing");
        assert_int_equal(t.sent, i);
        assert_int_equal(t.job.flags, JOB_REPLACE);
        jobs_answer(t.jobs, t.id, JOB_NO_SOURCE, 0);
        assert_int_equal(t.said, i == 3);
    }
    assert_false(t.holds);
    damage_tick(t.damage, now);
    jobs_answer(t.jobs, t.id, JOB_OK, 5);
    assert_string_equal(t.kind, "blob.healed");
    assert_true(t.said == 2 && t.holds);
    assert_int_equal(damage_count(t.damage), 0);
}

/* Alone there is nobody to ask. */
static void test_missing_alone(void **state)
{
    (void)state;
    damage_missing(t.damage, &one, 5);
    damage_tick(t.damage, DAMAGE_AGAIN_MS);
    assert_true(t.said == 1 && !t.holds && t.sent == 0);
    damage_tick(t.damage, 2 * DAMAGE_AGAIN_MS);
    assert_int_equal(t.said, 1);
    assert_int_equal(damage_count(t.damage), 1);
    put("sha256/01/" ONE_HEX);
    damage_tick(t.damage, 3 * DAMAGE_AGAIN_MS);
    assert_true(t.said == 2 && t.holds);
    assert_int_equal(damage_count(t.damage), 0);
}

/* Nor is a blob healed that was deleted. */
static void test_deleted(void **state)
{
    (void)state;
    put("damaged/sha256-" ONE_HEX);
    damage_found(t.damage, &one, 5, false);
    damage_tick(t.damage, 1000);
    t.deleted = true;
    damage_tick(t.damage, 2000);
    assert_int_equal(damage_count(t.damage), 0);
    assert_false(is_there("damaged/sha256-" ONE_HEX));
}

static struct digest digest_at(unsigned i)
{
    return (struct digest){.alg = DIGEST_SHA256, .bytes = {2, (uint8_t)(i >> 8), (uint8_t)i}};
}

/* As many as are remembered; there is room for more when this node does not count as a holder of some, and no
 * other kind of job has to wait for all of them. */
static void test_too_many(void **state)
{
    (void)state;
    struct digest more = digest_at(DAMAGE_MAX);
    for (unsigned i = 0; i < DAMAGE_MAX; i++) {
        struct digest d = digest_at(i);
        assert_true(damage_has_room(t.damage));
        damage_missing(t.damage, &d, 5);
    }
    assert_false(damage_has_room(t.damage));
    damage_missing(t.damage, &more, 5);
    assert_int_equal(damage_count(t.damage), DAMAGE_MAX);
    t.others = true;
    damage_tick(t.damage, 2 * DAMAGE_AGAIN_MS);
    assert_true(jobs_waiting(t.jobs, JOB_KEEP) + t.sent < JOBS_MAX);
    assert_false(damage_has_room(t.damage));
    t.others = false; /* those that were not asked for are given up */
    damage_tick(t.damage, 3 * DAMAGE_AGAIN_MS);
    assert_true(t.said > 0 && !t.holds && damage_has_room(t.damage));
    damage_missing(t.damage, &more, 5);
    assert_int_equal(damage_count(t.damage), DAMAGE_MAX);
    damage_found(t.damage, &more, 5, true); /* it is the one that is known */
    assert_int_equal(damage_count(t.damage), DAMAGE_MAX);
}

/* A disk that does not read thousands of files: those that nobody counts on make room for the next ones, so
 * that a scrub goes on; which files are good for nothing is known all the same, until scrubs find otherwise.
 */
static void test_too_many_unreadable(void **state)
{
    (void)state;
    enum { ALL = 3 * DAMAGE_MAX };
    for (unsigned i = 0; i < ALL; i++) {
        struct digest d = digest_at(i);
        if (!damage_has_room(t.damage))
            damage_tick(t.damage, i); /* alone: nobody is asked, and nobody is to count on them */
        assert_true(damage_has_room(t.damage));
        damage_found(t.damage, &d, 5, true);
    }
    assert_int_equal(damage_count(t.damage), DAMAGE_MAX);
    assert_true(t.said >= ALL - DAMAGE_MAX && !t.holds);
    for (unsigned scrub = 0; scrub < 3; scrub++) {
        for (unsigned i = 0; i < ALL; i++) {
            struct digest d = digest_at(i);
            assert_int_equal(damage_is_unreadable(t.damage, &d), scrub < 2);
        }
        assert_false(damage_is_unreadable(t.damage, &one));
        damage_scrub_ended(t.damage);
    }
}

static void count_row(void *arg, const struct digest *digest, bool unreadable, const char *how)
{
    unsigned *n = arg;
    assert_int_equal(digest->alg, DIGEST_SHA256);
    assert_false(unreadable);
    assert_true(strlen(how) > 0);
    (*n)++;
}

/* A start finds what is still to be healed, forgets what was healed meanwhile, and takes no other file for
 * one. */
static void test_restart(void **state)
{
    (void)state;
    unsigned rows = 0;
    put("damaged/sha256-" ONE_HEX);
    put("damaged/sha256-02" ONE_HEX);
    put("damaged/README");
    close_damage();
    open_damage();
    damage_each(t.damage, 10, count_row, &rows);
    assert_int_equal(rows, 1);
    put("sha256/01/" ONE_HEX);
    close_damage();
    open_damage();
    assert_int_equal(damage_count(t.damage), 0);
    assert_false(is_there("damaged/sha256-" ONE_HEX));
    assert_true(is_there("damaged/README"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        TEST(test_healed_by_a_push),
        TEST(test_healed_by_a_replica),
        TEST(test_unreadable),
        TEST(test_missing),
        TEST(test_missing_alone),
        TEST(test_deleted),
        TEST(test_restart),
        TEST(test_too_many),
        TEST(test_too_many_unreadable),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
