/* SPDX-License-Identifier: Apache-2.0 */
/* The log on the disk: what comes back after a clean end, a torn end, damage and failing calls. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "control/raft/log.h"
#include "control/raft/log_segment.h"
#include "control/raft/vote.h"
#include "file_fault.h"
#include "temp_dir.h"

enum { SEGMENT = 4096, DATA_MAX = 20000 };

struct fixture {
    struct temp_dir dir;
    struct file_fault fault;
    struct log_config config;
    struct log *log;
    char err[256];
    uint8_t data[DATA_MAX];
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    temp_dir_make(&f->dir);
    file_fault_init(&f->fault);
    f->config = (struct log_config){.dir_fd = f->dir.fd,
                                    .cluster_id = "cluster",
                                    .node_id = 1,
                                    .segment_bytes = SEGMENT,
                                    .ops = &f->fault.ops};
    for (size_t i = 0; i < sizeof(f->data); i++)
        f->data[i] = (uint8_t)(i * 7 + i / 251);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    if (f->log)
        log_close(f->log);
    temp_dir_remove(&f->dir);
    free(f);
    return 0;
}

static int reopen(struct fixture *f)
{
    if (f->log)
        log_close(f->log);
    f->log = NULL;
    return log_open(&f->config, &f->log, f->err, sizeof(f->err));
}

static size_t len_of(uint64_t index)
{
    return index % 97 + (index % 13 == 0 ? 700 : 0);
}

static struct log_entry entry_of(struct fixture *f, uint64_t index, uint64_t term)
{
    return (struct log_entry){
        .index = index, .term = term, .type = 1, .data = f->data + index % 1000, .len = len_of(index)};
}

static int append(struct fixture *f, uint64_t from, size_t count, uint64_t term)
{
    struct log_entry entries[64];
    assert_true(count <= 64);
    for (size_t i = 0; i < count; i++)
        entries[i] = entry_of(f, from + i, term);
    return log_append(f->log, entries, count);
}

static void verify(struct fixture *f, uint64_t first, uint64_t last)
{
    assert_int_equal(log_last(f->log), last);
    for (uint64_t i = first; i <= last;) {
        struct log_entries got;
        assert_int_equal(log_read(f->log, i, 1000, &got), 0);
        assert_true(got.count >= 1);
        for (size_t k = 0; k < got.count; k++, i++) {
            assert_int_equal(got.entry[k].index, i);
            assert_int_equal(got.entry[k].len, len_of(i));
            assert_memory_equal(got.entry[k].data, f->data + i % 1000, len_of(i));
        }
        log_entries_free(&got);
    }
    struct log_entries none;
    assert_int_equal(log_read(f->log, last + 1, 1000, &none), -ENOENT);
}

static void test_append_read_reopen(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(reopen(f), 0);
    assert_int_equal(log_first(f->log), 0);
    for (uint64_t i = 1; i <= 300; i += 3)
        assert_int_equal(append(f, i, 3, i / 100 + 1), 0);
    verify(f, 1, 300);
    assert_int_equal(reopen(f), 0);
    assert_int_equal(log_first(f->log), 1);
    verify(f, 1, 300);
    assert_int_equal(append(f, 301, 10, 9), 0);
    assert_int_equal(reopen(f), 0);
    verify(f, 1, 310);
    struct stat st;
    assert_int_equal(fstatat(f->dir.fd, "log-0000000000000001", &st, 0), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_int_equal(st.st_size, SEGMENT);
}

static void test_entry_larger_than_a_segment(void **state)
{
    struct fixture *f = *state;
    struct log_entry big = {.index = 2, .term = 1, .type = 1, .data = f->data, .len = DATA_MAX};
    struct log_entries got;
    assert_int_equal(reopen(f), 0);
    assert_int_equal(append(f, 1, 1, 1), 0);
    assert_int_equal(log_append(f->log, &big, 1), 0);
    assert_int_equal(append(f, 3, 5, 1), 0);
    assert_int_equal(reopen(f), 0);
    assert_int_equal(log_read(f->log, 2, 10, &got), 0);
    assert_int_equal(got.entry[0].len, DATA_MAX);
    assert_memory_equal(got.entry[0].data, f->data, DATA_MAX);
    log_entries_free(&got);
    assert_int_equal(log_last(f->log), 7);
}

static void test_truncate(void **state)
{
    struct fixture *f = *state;
    const uint64_t at[] = {200, 60, 59, 2, 1};
    assert_int_equal(reopen(f), 0);
    for (size_t k = 0; k < ARRAY_SIZE(at); k++) {
        for (uint64_t i = log_last(f->log) + 1; i <= 240; i++)
            assert_int_equal(append(f, i, 1, k + 1), 0);
        assert_int_equal(log_truncate(f->log, at[k]), 0);
        if (at[k] > 1)
            verify(f, 1, at[k] - 1);
        assert_int_equal(append(f, at[k], 2, k + 1), 0);
        assert_int_equal(reopen(f), 0);
        verify(f, 1, at[k] + 1);
    }
}

static void test_drop_and_reset(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(reopen(f), 0);
    for (uint64_t i = 1; i <= 400; i++)
        assert_int_equal(append(f, i, 1, 1), 0);
    uint64_t bytes = log_bytes(f->log);
    assert_int_equal(log_drop(f->log, 200), 0);
    assert_true(log_bytes(f->log) < bytes);
    uint64_t first = log_first(f->log);
    assert_true(first > 100 && first <= 201);
    assert_int_equal(reopen(f), 0);
    assert_int_equal(log_first(f->log), first);
    verify(f, first, 400);
    assert_int_equal(log_drop(f->log, 1000), 0);
    assert_int_equal(log_last(f->log), 400);
    assert_int_equal(log_reset(f->log, 900), 0);
    assert_int_equal(log_first(f->log), 900);
    assert_int_equal(append(f, 900, 3, 5), 0);
    assert_int_equal(reopen(f), 0);
    verify(f, 900, 902);
}

/* The last record cut at every byte, and each of its bytes damaged: it is gone, all before it is there. */
static void test_torn_tail_at_every_byte(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(reopen(f), 0);
    assert_int_equal(append(f, 1, 5, 1), 0);
    size_t start = SEGMENT_HEAD_BYTES, bytes = log_entry_bytes(len_of(6));
    for (uint64_t i = 1; i <= 5; i++)
        start += log_entry_bytes(len_of(i));
    for (int how = 0; how < 2; how++) {
        for (size_t cut = 0; cut < RECORD_HEAD_BYTES + len_of(6); cut++) {
            uint8_t zeros[SEGMENT] = {0}, byte;
            assert_int_equal(append(f, 6, 1, 1), 0);
            int fd = openat(f->dir.fd, "log-0000000000000001", O_RDWR);
            assert_int_equal(pread(fd, &byte, 1, (off_t)(start + cut)), 1);
            byte ^= 0x41;
            if (how == 0)
                assert_int_equal(pwrite(fd, zeros, bytes - cut, (off_t)(start + cut)), bytes - cut);
            else
                assert_int_equal(pwrite(fd, &byte, 1, (off_t)(start + cut)), 1);
            close(fd);
            assert_int_equal(reopen(f), 0);
            /* A cut that leaves zeros where the data had zeros has cut nothing. */
            if (log_last(f->log) == 6)
                assert_int_equal(log_truncate(f->log, 6), 0);
            verify(f, 1, 5);
        }
    }
    assert_int_equal(append(f, 6, 3, 2), 0);
    assert_int_equal(reopen(f), 0);
    verify(f, 1, 8);
}

static void damage(struct fixture *f, const char *name, off_t at)
{
    uint8_t byte;
    int fd = openat(f->dir.fd, name, O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte ^= 0x10;
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    close(fd);
}

/* Inside the last append a disk may have written in any order; before it, nothing may be missing. */
static void test_damage_inside_and_before_the_last_append(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(reopen(f), 0);
    assert_int_equal(append(f, 1, 3, 1), 0);
    assert_int_equal(append(f, 4, 3, 1), 0);
    off_t fifth = SEGMENT_HEAD_BYTES;
    for (uint64_t i = 1; i <= 4; i++)
        fifth += (off_t)log_entry_bytes(len_of(i));
    damage(f, "log-0000000000000001", fifth + 20);
    assert_int_equal(reopen(f), 0);
    verify(f, 1, 4);
    assert_int_equal(append(f, 5, 1, 1), 0);
    assert_int_equal(append(f, 6, 1, 1), 0);
    assert_int_equal(reopen(f), 0);
    verify(f, 1, 6);
    damage(f, "log-0000000000000001", fifth + 20);
    assert_int_equal(reopen(f), -EUCLEAN);
    assert_non_null(strstr(f->err, "entry 5 is damaged"));
    damage(f, "log-0000000000000001", fifth + 20);
    damage(f, "log-0000000000000001", SEGMENT_HEAD_BYTES + 3);
    assert_int_equal(reopen(f), -EUCLEAN);
    damage(f, "log-0000000000000001", SEGMENT_HEAD_BYTES + 3);
    assert_int_equal(reopen(f), 0);
    verify(f, 1, 6);
}

static void test_damage_in_an_earlier_segment(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(reopen(f), 0);
    assert_int_equal(append(f, 1, 20, 1), 0);
    for (uint64_t i = 21; i <= 150; i++)
        assert_int_equal(append(f, i, 1, 1), 0);
    off_t at = SEGMENT_HEAD_BYTES + (off_t)log_entry_bytes(len_of(1)) + 12;
    damage(f, "log-0000000000000001", at);
    assert_int_equal(reopen(f), -EUCLEAN);
    damage(f, "log-0000000000000001", at);
    assert_int_equal(reopen(f), 0);
    log_close(f->log);
    f->log = NULL;
    assert_int_equal(unlinkat(f->dir.fd, "log-0000000000000002", 0), 0);
    assert_int_equal(reopen(f), -EUCLEAN);
}

static void test_foreign_segments(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(reopen(f), 0);
    assert_int_equal(append(f, 1, 1, 1), 0);
    f->config.node_id = 2;
    assert_int_equal(reopen(f), -EPROTO);
    f->config.node_id = 1;
    f->config.cluster_id[0] = 'x';
    assert_int_equal(reopen(f), -EPROTO);
    f->config.cluster_id[0] = 'c';
    damage(f, "log-0000000000000001", 4);
    assert_int_equal(reopen(f), -EPROTO);
    damage(f, "log-0000000000000001", 4);
    damage(f, "log-0000000000000001", 9);
    assert_int_equal(reopen(f), -EUCLEAN);
}

static void test_full_disk_comes_and_goes(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(reopen(f), 0);
    assert_int_equal(append(f, 1, 30, 1), 0);
    file_fault_arm(&f->fault, FAULT_ALLOCATE, 0, -ENOSPC, true);
    uint64_t last = 30;
    while (append(f, last + 1, 5, 1) == 0)
        last += 5;
    assert_int_equal(append(f, last + 1, 5, 1), -ENOSPC);
    assert_int_equal(log_reserve(f->log, SEGMENT / 2), -ENOSPC);
    verify(f, 1, last);
    file_fault_arm(&f->fault, FAULT_WRITE, 0, -ENOSPC, true);
    assert_int_equal(log_reserve(f->log, SEGMENT / 2), -ENOSPC);
    f->fault.kinds = 0;
    assert_int_equal(log_reserve(f->log, SEGMENT / 2), 0);
    assert_true(log_capacity(f->log) >= SEGMENT / 2);
    /* A reserved append must not need any more space. */
    file_fault_arm(&f->fault, FAULT_ALLOCATE, 0, -ENOSPC, true);
    assert_int_equal(append(f, last + 1, 5, 1), 0);
    /* A write that fails halfway leaves nothing that counts, even when another entry follows it. */
    file_fault_arm(&f->fault, FAULT_WRITE, 0, -ENOSPC, false);
    assert_int_equal(append(f, last + 6, 8, 1), -ENOSPC);
    f->fault.kinds = 0;
    assert_int_equal(append(f, last + 6, 1, 2), 0);
    assert_int_equal(reopen(f), 0);
    verify(f, 1, last + 6);
}

static void test_short_writes_are_continued(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(reopen(f), 0);
    for (uint64_t i = 1; i <= 60; i += 3) {
        file_fault_arm(&f->fault, FAULT_WRITE, 0, 0, false);
        assert_int_equal(append(f, i, 3, 1), 0);
    }
    assert_int_equal(reopen(f), 0);
    verify(f, 1, 60);
}

static void test_failed_sync_is_final(void **state)
{
    struct fixture *f = *state;
    const int errors[] = {-EIO, -ENOSPC};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(reopen(f), 0);
        uint64_t last = log_last(f->log);
        assert_int_equal(append(f, last + 1, 1, 1), 0);
        file_fault_arm(&f->fault, FAULT_DATASYNC, 0, errors[i], false);
        assert_int_equal(append(f, last + 2, 1, 1), -EIO);
        assert_int_equal(append(f, last + 2, 1, 1), -EIO);
        assert_int_equal(log_reserve(f->log, 10), -EIO);
        assert_int_equal(log_truncate(f->log, 1), -EIO);
        assert_int_equal(log_last(f->log), last + 1);
    }
}

/* Appends, truncates once in the middle, appends on. Returns the last entry that is durable for sure. */
static uint64_t run_until_failure(struct fixture *f)
{
    uint64_t acknowledged = 0;
    bool truncated = false;
    while (acknowledged < 120) {
        int rc = append(f, acknowledged + 1, 6, 1);
        if (rc && rc != -ENOSPC)
            break;
        acknowledged += rc ? 0 : 6;
        if (acknowledged == 60 && !truncated) {
            truncated = true;
            acknowledged = 54;
            if (log_truncate(f->log, 55))
                break;
        }
    }
    return acknowledged;
}

/* Every call of a run fails once, in every way: what was acknowledged is there after a reopen. */
static void test_nth_call_fails(void **state)
{
    struct fixture *f = *state;
    const int errors[] = {-ENOSPC, -EIO, -EDQUOT};
    for (size_t e = 0; e < ARRAY_SIZE(errors); e++) {
        bool fired = true;
        for (int nth = 0; fired; nth++) {
            assert_int_equal(reopen(f), 0);
            if (log_last(f->log))
                assert_int_equal(log_truncate(f->log, 1), 0);
            file_fault_arm(&f->fault, FAULT_ANY, nth, errors[e], false);
            uint64_t acknowledged = run_until_failure(f);
            fired = f->fault.countdown < 0;
            f->fault.kinds = 0;
            assert_int_equal(reopen(f), 0);
            assert_true(log_last(f->log) >= acknowledged);
            verify(f, 1, log_last(f->log));
            assert_true(nth < 500);
        }
    }
}

static void test_vote(void **state)
{
    struct fixture *f = *state;
    struct vote vote = {.cluster_id = "abc", .node_id = 1, .term = 7, .voted_for = 1}, got;
    assert_int_equal(vote_read(f->dir.fd, &got), -ENOENT);
    assert_int_equal(vote_write(&f->fault.ops, f->dir.fd, &vote), 0);
    assert_int_equal(vote_read(f->dir.fd, &got), 0);
    assert_int_equal(got.term, 7);
    assert_memory_equal(got.cluster_id, vote.cluster_id, 16);
    for (int nth = 0; nth < 4; nth++) {
        vote.term = 8;
        file_fault_arm(&f->fault, FAULT_ANY, nth, -EIO, false);
        assert_int_equal(vote_write(&f->fault.ops, f->dir.fd, &vote), -EIO);
        assert_int_equal(vote_read(f->dir.fd, &got), 0);
        assert_int_equal(got.term, 7);
    }
    for (off_t at = 0; at < 52; at++) {
        damage(f, "vote", at);
        assert_true(vote_read(f->dir.fd, &got) < 0);
        damage(f, "vote", at);
    }
    assert_int_equal(vote_read(f->dir.fd, &got), 0);
}

static ino_t inode_of(struct fixture *f, const char *name)
{
    struct stat st;
    assert_int_equal(fstatat(f->dir.fd, name, &st, 0), 0);
    assert_true(st.st_size > 0 && st.st_blocks > 0);
    return st.st_ino;
}

/* A full disk does not end a voter: two files change places, and nothing is allocated. */
static void test_vote_needs_no_room(void **state)
{
    struct fixture *f = *state;
    struct vote vote = {.cluster_id = "abc", .node_id = 1, .term = 1, .voted_for = 1}, got;
    assert_int_equal(vote_write(&f->fault.ops, f->dir.fd, &vote), 0);
    ino_t used = inode_of(f, "vote"), spare = inode_of(f, "vote.new");
    for (vote.term = 2; vote.term < 6; vote.term++) {
        assert_int_equal(vote_write(&f->fault.ops, f->dir.fd, &vote), 0);
        assert_int_equal(vote_read(f->dir.fd, &got), 0);
        assert_int_equal(got.term, vote.term);
        assert_true(inode_of(f, "vote") == spare && inode_of(f, "vote.new") == used);
        ino_t was = used;
        used = spare;
        spare = was;
    }
    file_fault_arm(&f->fault, FAULT_EXCHANGE, 0, -EINVAL, false); /* a file system that cannot */
    assert_int_equal(vote_write(&f->fault.ops, f->dir.fd, &vote), 0);
    assert_int_equal(vote_read(f->dir.fd, &got), 0);
    assert_int_equal(got.term, 6);
    assert_true(inode_of(f, "vote.new") != inode_of(f, "vote"));
}

static void test_checksum(void **state)
{
    struct crc32c c;
    (void)state;
    crc32c_init(&c);
    assert_int_equal(crc32c(&c, 0, "123456789", 9), 0xe3069283); /* RFC 3720's check value */
    assert_int_equal(crc32c(&c, crc32c(&c, 0, "12345", 5), "6789", 4), 0xe3069283);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_append_read_reopen),
        T(test_entry_larger_than_a_segment),
        T(test_truncate),
        T(test_drop_and_reset),
        T(test_torn_tail_at_every_byte),
        T(test_damage_inside_and_before_the_last_append),
        T(test_damage_in_an_earlier_segment),
        T(test_foreign_segments),
        T(test_full_disk_comes_and_goes),
        T(test_short_writes_are_continued),
        T(test_failed_sync_is_final),
        T(test_nth_call_fails),
        T(test_vote),
        T(test_vote_needs_no_room),
        T(test_checksum),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
