/* SPDX-License-Identifier: Apache-2.0 */
/* The bytes of a blob between two registries: in order, bounded, and the last one only if it is that blob. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "check.h"
#include "control/mirror/pipe.h"

enum { BLOB = 3 * PIPE_BYTES + 12345 };

static void digest_of(const char *name, const EVP_MD *md, const void *bytes, size_t len, char out[160])
{
    uint8_t sum[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    assert_int_equal(EVP_Digest(bytes, len, sum, &n, md, NULL), 1);
    int at = snprintf(out, 160, "%s:", name);
    for (unsigned i = 0; i < n; i++)
        at += snprintf(out + at, 160 - (size_t)at, "%02x", sum[i]);
}

static uint8_t *blob_new(void)
{
    uint8_t *blob = malloc(BLOB);
    assert_non_null(blob);
    for (size_t i = 0; i < BLOB; i++)
        blob[i] = (uint8_t)(i * 2654435761u >> 13);
    return blob;
}

/* Pieces of any size, in any order of coming and going. */
static void test_all_of_it_passes(void **state)
{
    uint8_t *blob = blob_new(), *copy = malloc(BLOB);
    char digest[160];
    struct pipe p;
    (void)state;
    assert_non_null(copy);
    assert_true(pipe_init(&p));
    for (unsigned seed = 1; seed <= 8; seed++) {
        size_t in = 0, out = 0;
        unsigned lots = seed;
        if (seed & 1)
            digest_of("sha256", EVP_sha256(), blob, BLOB, digest);
        else
            digest_of("sha512", EVP_sha512(), blob, BLOB, digest);
        assert_int_equal(pipe_begin(&p, digest, BLOB), 0);
        while (out < BLOB) {
            size_t most = 1u << (4 + rand_r(&lots) % 16), n = (size_t)rand_r(&lots) % most;
            if (rand_r(&lots) % 2) {
                n = n < BLOB - in ? n : BLOB - in;
                int rc = pipe_put(&p, blob + in, n);
                assert_int_equal(rc, n > PIPE_BYTES - (in - out) ? -EAGAIN : 0);
                in += rc ? 0 : n;
            } else {
                size_t ready = in == BLOB || in == out ? in - out : in - out - 1;
                assert_int_equal(pipe_ready(&p), ready);
                size_t got = pipe_take(&p, copy + out, n);
                assert_int_equal(got, n < ready ? n : ready);
                out += got;
            }
        }
        assert_true(p.right);
        assert_int_equal(pipe_room(&p), PIPE_BYTES);
        assert_memory_equal(copy, blob, BLOB);
        memset(copy, 0, BLOB);
    }
    pipe_fini(&p);
    free(copy);
    free(blob);
}

static void test_the_last_byte_stays_of_something_else(void **state)
{
    uint8_t out[16];
    char digest[160];
    struct pipe p;
    (void)state;
    assert_true(pipe_init(&p));
    digest_of("sha256", EVP_sha256(), "right", 5, digest);
    assert_int_equal(pipe_begin(&p, digest, 5), 0);
    assert_int_equal(pipe_put(&p, "wron", 4), 0);
    assert_int_equal(pipe_take(&p, out, sizeof(out)), 3);
    assert_int_equal(pipe_put(&p, "g", 1), -EBADMSG);
    assert_int_equal(pipe_take(&p, out, sizeof(out)), 1);
    assert_int_equal(pipe_take(&p, out, sizeof(out)), 0);
    assert_false(p.right);
    /* More than there is of it: nothing of that. */
    assert_int_equal(pipe_begin(&p, digest, 5), 0);
    assert_int_equal(pipe_put(&p, "right!", 6), -EBADMSG);
    assert_int_equal(pipe_ready(&p), 0);
    /* And the right one after all that. */
    assert_int_equal(pipe_begin(&p, digest, 5), 0);
    assert_int_equal(pipe_put(&p, "right", 5), 0);
    assert_int_equal(pipe_take(&p, out, sizeof(out)), 5);
    assert_memory_equal(out, "right", 5);
    assert_int_equal(pipe_put(&p, "!", 1), -EBADMSG);
    pipe_fini(&p);
}

static void test_nothing_at_all(void **state)
{
    char digest[160];
    struct pipe p;
    (void)state;
    assert_true(pipe_init(&p));
    digest_of("sha256", EVP_sha256(), "", 0, digest);
    assert_int_equal(pipe_begin(&p, digest, 0), 0);
    assert_true(p.right);
    digest_of("sha256", EVP_sha256(), "x", 1, digest);
    assert_int_equal(pipe_begin(&p, digest, 0), -EBADMSG);
    assert_false(p.right);
    pipe_fini(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_of_it_passes),
        cmocka_unit_test(test_the_last_byte_stays_of_something_else),
        cmocka_unit_test(test_nothing_at_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
