/* SPDX-License-Identifier: Apache-2.0 */
/* Pulls that wait on the disk: nothing that was added is lost, whatever is cut off or damaged. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "control/pull_queue.h"
#include "control/pulls_disk.h"
#include "temp_dir.h"

enum { BODY = 1000, PLENTY = 64 << 20 };

struct fixture {
    struct temp_dir dir;
    int fd;
    struct pull_queue *q;
    uint8_t *records, out[128 << 10];
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    temp_dir_make(&f->dir);
    f->fd = f->dir.fd;
    f->records = malloc(PULL_APPEND_MAX);
    assert_int_equal(pull_queue_open(f->fd, "hook", &f->q), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    if (f->q)
        pull_queue_close(f->q);
    temp_dir_remove(&f->dir);
    free(f->records);
    free(f);
    return 0;
}

/* Records first .. first + count - 1; each begins with its number. */
static void append(struct fixture *f, uint32_t first, uint32_t count, uint64_t bytes_max)
{
    uint8_t body[BODY] = {0};
    size_t len = 0;
    for (uint32_t i = first; i < first + count; i++) {
        memcpy(body, &i, sizeof(i));
        len += pull_record_put(f->records + len, body, sizeof(body));
    }
    assert_int_equal(pull_queue_append(f->q, f->records, len, bytes_max), 0);
}

static void reopen(struct fixture *f)
{
    pull_queue_close(f->q);
    f->q = NULL;
    assert_int_equal(pull_queue_open(f->fd, "hook", &f->q), 0);
}

/* Takes what waits, in pieces, and advances. Returns how many there were; *next: the number after the last
 * one. */
static uint32_t take(struct fixture *f, uint32_t *next, uint32_t most)
{
    struct pull_place after;
    uint32_t count = 0, number;
    int64_t len;
    while (count < most && (len = pull_queue_read(f->q, f->out, sizeof(f->out), 7, &after)) > 0) {
        size_t at = 0, body_len;
        const uint8_t *body;
        while ((body = pull_record_next(f->out, (size_t)len, &at, &body_len))) {
            memcpy(&number, body, sizeof(number));
            assert_int_equal(body_len, BODY);
            assert_true(count == 0 || number == *next);
            *next = number + 1;
            count++;
        }
        assert_int_equal(at, len);
        pull_queue_advance(f->q, &after);
    }
    return count;
}

static uint64_t waiting(struct fixture *f)
{
    return pull_queue_figures(f->q).waiting;
}

static void test_in_order_across_segments_and_starts(void **state)
{
    struct fixture *f = *state;
    struct pull_place after;
    uint32_t next = 0;
    for (uint32_t i = 0; i < 30; i++)
        append(f, i * 100, 100, PLENTY);
    assert_int_equal(waiting(f), 3000);
    assert_int_equal(take(f, &next, 700), 700);
    assert_int_equal(next, 700);
    /* Read and not told: it comes again. */
    assert_true(pull_queue_read(f->q, f->out, sizeof(f->out), 7, &after) > 0);
    reopen(f);
    assert_int_equal(waiting(f), 2300);
    append(f, 3000, 10, PLENTY);
    assert_int_equal(take(f, &next, UINT32_MAX), 2310);
    assert_int_equal(next, 3010);
    assert_int_equal(waiting(f), 0);
    reopen(f);
    assert_int_equal(waiting(f), 0);
    append(f, 3010, 1, PLENTY);
    assert_int_equal(take(f, &next, UINT32_MAX), 1);
    assert_true(pull_queue_figures(f->q).bytes < 2 * PULL_SEGMENT_BYTES); /* what was told is gone */
    assert_int_equal(pull_queue_figures(f->q).dropped, 0);
}

static void test_the_oldest_make_room(void **state)
{
    struct fixture *f = *state;
    const uint64_t most = 3 * PULL_SEGMENT_BYTES;
    struct pull_place old;
    uint32_t next = 0;
    append(f, 0, 100, most);
    assert_true(pull_queue_read(f->q, f->out, sizeof(f->out), 7, &old) > 0);
    for (uint32_t i = 1; i < 100; i++)
        append(f, i * 100, 100, most);
    struct pull_figures figures = pull_queue_figures(f->q);
    assert_true(figures.bytes <= most);
    assert_true(figures.dropped > 0);
    assert_int_equal(figures.waiting + figures.dropped, 10000);
    pull_queue_advance(f->q, &old); /* told meanwhile: of what is gone */
    reopen(f);
    assert_int_equal(pull_queue_figures(f->q).dropped, figures.dropped);
    assert_int_equal(take(f, &next, UINT32_MAX), figures.waiting);
    assert_int_equal(next, 10000);
}

static int file_open(struct fixture *f, const char *name)
{
    char path[64];
    snprintf(path, sizeof(path), "hook/%s", name);
    int fd = openat(f->fd, path, O_RDWR);
    assert_true(fd >= 0);
    return fd;
}

static void test_a_torn_record_is_forgotten(void **state)
{
    struct fixture *f = *state;
    struct stat st;
    uint32_t next = 0;
    append(f, 0, 10, PLENTY);
    int fd = file_open(f, "0000000000000001");
    assert_int_equal(fstat(fd, &st), 0);
    for (off_t cut = 1; cut <= BODY + PULL_RECORD_HEAD; cut += 97) {
        assert_int_equal(ftruncate(fd, st.st_size - cut), 0);
        reopen(f);
        assert_int_equal(waiting(f), 9);
    }
    append(f, 9, 3, PLENTY);
    reopen(f);
    assert_int_equal(take(f, &next, UINT32_MAX), 12);
    close(fd);
}

static void test_damage_ends_with_its_segment(void **state)
{
    struct fixture *f = *state;
    uint32_t next = 0;
    for (uint32_t i = 0; i < 15; i++)
        append(f, i * 100, 100, PLENTY);
    int fd = file_open(f, "0000000000000001");
    uint8_t byte = 0xff;
    assert_int_equal(pwrite(fd, &byte, 1, 5 * (BODY + PULL_RECORD_HEAD) + 500), 1);
    close(fd);
    assert_int_equal(take(f, &next, 5), 5);
    uint32_t second = 0;
    assert_true(take(f, &second, UINT32_MAX) > 0);
    assert_int_equal(second, 1500);
    assert_int_equal(waiting(f), 0);
    assert_true(pull_queue_figures(f->q).dropped > 0);
}

/* A segment that is gone is passed over, and what waited in it counts as dropped. */
static void test_a_segment_that_is_gone(void **state)
{
    struct fixture *f = *state;
    uint32_t next = 0;
    for (uint32_t i = 0; i < 15; i++)
        append(f, i * 100, 100, PLENTY);
    assert_int_equal(take(f, &next, 7), 7);
    assert_int_equal(unlinkat(f->fd, "hook/0000000000000001", 0), 0);
    uint32_t count = take(f, &next, UINT32_MAX);
    assert_true(count > 0 && count < 1493);
    assert_int_equal(next, 1500);
    assert_int_equal(pull_queue_figures(f->q).dropped, 1493 - count);
}

/* One that cannot be opened now, which a socket plays, may be later: it stays. */
static void test_a_segment_that_cannot_be_opened(void **state)
{
    struct fixture *f = *state;
    static const char name[] = "hook/0000000000000001", kept[] = "kept";
    uint32_t next = 0;
    append(f, 0, 10, PLENTY);
    pull_queue_close(f->q);
    assert_int_equal(renameat(f->fd, name, f->fd, kept), 0);
    assert_int_equal(mknodat(f->fd, name, S_IFSOCK | 0600, 0), 0);
    assert_int_equal(pull_queue_open(f->fd, "hook", &f->q), -ENXIO);
    assert_int_equal(faccessat(f->fd, name, F_OK, 0), 0);
    assert_int_equal(renameat(f->fd, kept, f->fd, name), 0);
    assert_int_equal(pull_queue_open(f->fd, "hook", &f->q), 0);
    assert_int_equal(take(f, &next, UINT32_MAX), 10);
}

static void test_a_cursor_that_is_lost_repeats(void **state)
{
    struct fixture *f = *state;
    uint32_t next = 0;
    uint8_t byte = 0xff;
    append(f, 0, 50, PLENTY);
    assert_int_equal(take(f, &next, 50), 50);
    int fd = file_open(f, "cursor");
    assert_int_equal(pwrite(fd, &byte, 1, 9), 1);
    close(fd);
    reopen(f);
    assert_int_equal(waiting(f), 50);
    next = 0;
    assert_int_equal(take(f, &next, UINT32_MAX), 50);
}

/* A step of the thread: adds, tells, removes what nobody has any more. */
static void test_steps(void **state)
{
    struct fixture *f = *state;
    struct disk_folder folder = {.state_fd = f->fd, .fd = -1};
    struct disk mine = {.what = DISK_SERVE, .read = true, .bytes_max = PLENTY}, *row = &mine;
    struct pull_queue *stray;
    assert_int_equal(mkdirat(f->fd, "notify", 0700), 0);
    int fd = openat(f->fd, "notify", O_RDONLY | O_DIRECTORY);
    assert_int_equal(pull_queue_open(fd, "gone.1", &stray), 0);
    pull_queue_close(stray);
    disk_name(mine.name, "hook", 0x12);
    assert_string_equal(mine.name, "hook.12");
    mine.in = (struct disk_buffer){.data = malloc(4096), .cap = 4096};
    mine.in.len = pull_record_put(mine.in.data, "hello", 5);
    disk_step(&folder, &row, 1);
    assert_int_equal(mine.error, 0);
    assert_int_equal(mine.in.len, 0);
    assert_int_equal(mine.out.len, PULL_RECORD_HEAD + 5);
    assert_int_equal(mine.figures.waiting, 1);
    assert_int_equal(faccessat(fd, "gone.1", F_OK, 0), -1);
    mine.advance = true;
    mine.to = mine.after;
    disk_step(&folder, &row, 1);
    assert_int_equal(mine.out.len, 0);
    assert_int_equal(mine.figures.waiting, 0);
    mine.what = DISK_REMOVE;
    disk_step(&folder, &row, 1);
    assert_int_equal(faccessat(fd, "hook.12", F_OK, 0), -1);
    disk_fini(&mine);
    disk_folder_close(&folder);
    close(fd);
    assert_int_equal(unlinkat(f->fd, "notify", AT_REMOVEDIR), 0);
}

/* A disk that takes nothing: all of it is counted as lost. */
static void test_a_disk_that_refuses(void **state)
{
    struct fixture *f = *state;
    struct disk_folder folder = {.state_fd = f->fd, .fd = -1};
    struct disk mine = {.what = DISK_SERVE, .bytes_max = PLENTY}, *row = &mine;
    int fd = openat(f->fd, "notify", O_CREAT | O_WRONLY, 0600); /* no folder can be made there */
    disk_name(mine.name, "hook", 1);
    mine.in = (struct disk_buffer){.data = malloc(4096), .cap = 4096};
    mine.in.len = pull_record_put(mine.in.data, "a", 1);
    mine.in.len += pull_record_put(mine.in.data + mine.in.len, "b", 1);
    disk_step(&folder, &row, 1);
    assert_true(mine.error < 0);
    assert_int_equal(mine.lost, 2);
    assert_int_equal(mine.in.len, 0);
    disk_fini(&mine);
    disk_folder_close(&folder);
    close(fd);
    assert_int_equal(unlinkat(f->fd, "notify", 0), 0);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_in_order_across_segments_and_starts),
        T(test_the_oldest_make_room),
        T(test_a_torn_record_is_forgotten),
        T(test_damage_ends_with_its_segment),
        T(test_a_segment_that_is_gone),
        T(test_a_segment_that_cannot_be_opened),
        T(test_a_cursor_that_is_lost_repeats),
        T(test_steps),
        T(test_a_disk_that_refuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
