/* SPDX-License-Identifier: Apache-2.0 */
/* The file of a backup: what was written is read, and every cut, every flipped bit and every exchanged piece
 * is noticed. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "control/backup_file.h"

enum { SEALED_PIECE = BACKUP_PIECE_BYTES + 16 };

static const struct backup_head head = {.cluster_id = "0123456789abcde",
                                        .node_id = 3,
                                        .index = 77,
                                        .term = 5,
                                        .created_ms = 1234,
                                        .log_n = BACKUP_LOG_N_MIN};

static void fill(uint8_t *data, size_t len)
{
    for (size_t i = 0; i < len; i++)
        data[i] = (uint8_t)(i * 31 + i / 251);
}

static int make(const uint8_t *data, size_t len, size_t step)
{
    struct backup_writer *w;
    int fd = memfd_create("backup", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(backup_writer_new(fd, &head, "secret", 6, &w), 0);
    for (size_t at = 0; at < len; at += step)
        assert_int_equal(backup_write(w, data + at, step < len - at ? step : len - at), 0);
    assert_int_equal(backup_writer_end(w), 0);
    backup_writer_free(w);
    return fd;
}

/* Reads len bytes and the end. */
static int take(int fd, const char *passphrase, uint8_t *out, size_t len)
{
    struct backup_head got;
    struct backup_reader *r;
    assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
    int rc = backup_reader_new(fd, passphrase, strlen(passphrase), &got, &r);
    if (rc)
        return rc;
    assert_int_equal(got.node_id, 3);
    assert_int_equal(got.index, 77);
    assert_int_equal(got.created_ms, 1234);
    assert_memory_equal(got.cluster_id, head.cluster_id, 16);
    rc = backup_read(r, out, len);
    if (rc == 0)
        rc = backup_reader_end(r);
    backup_reader_free(r);
    return rc;
}

static void test_what_was_written_is_read(void **state)
{
    static const size_t sizes[] = {0,
                                   1,
                                   100,
                                   BACKUP_PIECE_BYTES - 1,
                                   BACKUP_PIECE_BYTES,
                                   BACKUP_PIECE_BYTES + 1,
                                   2 * BACKUP_PIECE_BYTES,
                                   3 * BACKUP_PIECE_BYTES + 7};
    (void)state;
    uint8_t *data = malloc(4 * BACKUP_PIECE_BYTES), *out = malloc(4 * BACKUP_PIECE_BYTES);
    assert_true(data && out);
    fill(data, 4 * BACKUP_PIECE_BYTES);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        int fd = make(data, sizes[i], 10007);
        memset(out, 0, sizes[i]);
        assert_int_equal(take(fd, "secret", out, sizes[i]), 0);
        assert_memory_equal(out, data, sizes[i]);
        /* Less than all, or more, is noticed. */
        if (sizes[i])
            assert_int_equal(take(fd, "secret", out, sizes[i] - 1), -EBADMSG);
        assert_int_equal(take(fd, "secret", out, sizes[i] + 1), -EBADMSG);
        assert_int_equal(take(fd, "Secret", out, sizes[i]), -EKEYREJECTED);
        close(fd);
    }
    free(data);
    free(out);
}

static void test_every_cut_is_noticed(void **state)
{
    uint8_t data[300], out[300];
    (void)state;
    fill(data, sizeof(data));
    int fd = make(data, sizeof(data), 300);
    off_t size = lseek(fd, 0, SEEK_END);
    assert_int_equal(size, BACKUP_HEAD_BYTES + sizeof(data) + 16);
    for (off_t cut = size - 1; cut >= 0; cut--) {
        assert_int_equal(ftruncate(fd, cut), 0);
        int rc = take(fd, "secret", out, sizeof(data));
        assert_int_equal(rc, cut < 8 ? -ENOMSG : -EBADMSG);
    }
    close(fd);
}

static void test_every_flipped_bit_is_noticed(void **state)
{
    uint8_t data[40], out[40];
    (void)state;
    fill(data, sizeof(data));
    int fd = make(data, sizeof(data), 40);
    off_t size = lseek(fd, 0, SEEK_END);
    for (off_t at = 0; at < size; at++) {
        uint8_t byte, other;
        assert_int_equal(pread(fd, &byte, 1, at), 1);
        for (int bit = 0; bit < 8; bit += 7) {
            other = byte ^ (uint8_t)(1 << bit);
            assert_int_equal(pwrite(fd, &other, 1, at), 1);
            assert_true(take(fd, "secret", out, sizeof(data)) < 0);
        }
        assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    }
    assert_int_equal(take(fd, "secret", out, sizeof(data)), 0);
    close(fd);
}

/* Pieces in another order, left out, or put behind the end. */
static void test_pieces_have_their_places(void **state)
{
    enum { LEN = 3 * BACKUP_PIECE_BYTES };
    (void)state;
    uint8_t *data = malloc(LEN), *out = malloc(LEN), *file = malloc(2 * LEN);
    assert_true(data && out && file);
    fill(data, LEN);
    int fd = make(data, LEN, LEN);
    ssize_t size = pread(fd, file, 2 * LEN, 0);
    assert_int_equal(size, BACKUP_HEAD_BYTES + 3 * SEALED_PIECE);
    /* The first two exchanged. */
    assert_int_equal(pwrite(fd, file + BACKUP_HEAD_BYTES + SEALED_PIECE, SEALED_PIECE, BACKUP_HEAD_BYTES),
                     SEALED_PIECE);
    assert_int_equal(pwrite(fd, file + BACKUP_HEAD_BYTES, SEALED_PIECE, BACKUP_HEAD_BYTES + SEALED_PIECE),
                     SEALED_PIECE);
    assert_int_equal(take(fd, "secret", out, LEN), -EBADMSG);
    assert_int_equal(pwrite(fd, file, (size_t)size, 0), size);
    /* Cut at the edge of a piece: the one before is not the last one. */
    assert_int_equal(ftruncate(fd, BACKUP_HEAD_BYTES + 2 * SEALED_PIECE), 0);
    assert_int_equal(take(fd, "secret", out, LEN - BACKUP_PIECE_BYTES), -EBADMSG);
    /* The last one twice. */
    assert_int_equal(pwrite(fd, file, (size_t)size, 0), size);
    assert_int_equal(pwrite(fd, file + size - SEALED_PIECE, SEALED_PIECE, size), SEALED_PIECE);
    assert_int_equal(take(fd, "secret", out, LEN), -EBADMSG);
    free(data);
    free(out);
    free(file);
    close(fd);
}

static void test_errors_have_words(void **state)
{
    static const int errors[] = {-ENOMSG, -EPROTO, -EKEYREJECTED, -EBADMSG, -ENOSPC};
    (void)state;
    for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++)
        assert_true(strlen(backup_error_text(errors[i])) > 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_was_written_is_read),
        cmocka_unit_test(test_every_cut_is_noticed),
        cmocka_unit_test(test_every_flipped_bit_is_noticed),
        cmocka_unit_test(test_pieces_have_their_places),
        cmocka_unit_test(test_errors_have_words),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
