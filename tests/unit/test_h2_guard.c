/* SPDX-License-Identifier: Apache-2.0 */
/* Floods of frames, seen whatever their pieces; what an honest peer does is none. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

#include "dataplane/http2/guard.h"

enum { DATA = 0, HEADERS = 1, PRIORITY = 2, RST_STREAM = 3, SETTINGS = 4, PING = 6, UNKNOWN = 0x77 };

/* Frames of that type until it is too much; how many, at most `most`. */
static unsigned flood(uint8_t type, uint8_t flags, uint32_t len, size_t piece, uint64_t every_ms,
                      unsigned most)
{
    static uint8_t frame[9 + 64];
    struct h2_guard g;
    h2_guard_init(&g, false, 1000);
    g.skip = 0; /* the preface has come */
    frame[2] = (uint8_t)len;
    frame[3] = type;
    frame[4] = flags;
    uint64_t now_ms = 1000;
    for (unsigned n = 1; n <= most; n++) {
        for (size_t at = 0; at < 9 + len; at += piece)
            h2_guard_look(&g, frame + at, 9 + len - at < piece ? 9 + len - at : piece, now_ms);
        if (g.reason)
            return n;
        now_ms += every_ms;
    }
    return 0;
}

static void floods(void **state)
{
    (void)state;
    for (size_t piece = 1; piece < 30; piece += 7) {
        assert_int_equal(flood(RST_STREAM, 0, 4, piece, 0, 2000), 301);
        assert_int_equal(flood(PING, 0, 8, piece, 0, 2000), 1001);
        assert_int_equal(flood(SETTINGS, 0, 0, piece, 0, 2000), 1001);
        assert_int_equal(flood(PRIORITY, 0, 5, piece, 0, 2000), 1001);
        assert_int_equal(flood(UNKNOWN, 0, 64, piece, 0, 2000), 1001);
        assert_int_equal(flood(DATA, 0, 0, piece, 0, 2000), 101);
        assert_int_equal(flood(HEADERS, 0, 0, piece, 0, 2000), 101);
        assert_int_equal(flood(9, 0, 0, piece, 0, 2000), 101);
    }
}

static void honest(void **state)
{
    (void)state;
    assert_int_equal(flood(PING, 0, 8, 17, 1000, 100000), 0);
    assert_int_equal(flood(RST_STREAM, 0, 4, 13, 40, 100000), 0);
    assert_int_equal(flood(DATA, 0, 20, 29, 0, 100000), 0);
    assert_int_equal(flood(DATA, 1, 0, 9, 0, 100000), 0);
    assert_int_equal(flood(HEADERS, 4, 20, 29, 0, 100000), 0);
}

/* Content that moves is worth a few other frames. */
static void worked_for(void **state)
{
    (void)state;
    static const uint8_t window_update[13] = {0, 0, 4, 8};
    struct h2_guard g;
    h2_guard_init(&g, false, 1000);
    h2_guard_look(&g, (const uint8_t *)"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24, 1000);
    assert_false(g.begun);
    for (int i = 0; i < 100000; i++) {
        h2_guard_look(&g, window_update, 13, 1000);
        h2_guard_look(&g, window_update, 13, 1000);
        h2_guard_work(&g);
        assert_int_equal(g.reason, CLOSE_NONE);
    }
    assert_true(g.begun);
}

/* A backend that resets every request, or answers it with frames that have nothing in them, harms nobody but
 * those who asked; what nobody asked for is a flood. */
static void backend(void **state)
{
    (void)state;
    static const uint8_t reset[13] = {0, 0, 4, RST_STREAM}, empty[9] = {0};
    struct h2_guard g;
    h2_guard_init(&g, true, 1000);
    for (int i = 0; i < 100000; i++) {
        h2_guard_work(&g); /* the request */
        h2_guard_look(&g, reset, sizeof(reset), 1000);
        h2_guard_look(&g, empty, sizeof(empty), 1000);
        assert_int_equal(g.reason, CLOSE_NONE);
    }
    for (int i = 0; i < 1000; i++)
        h2_guard_look(&g, reset, sizeof(reset), 1000);
    assert_int_equal(g.reason, CLOSE_H2_CONTROL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(floods), cmocka_unit_test(honest),
                                       cmocka_unit_test(worked_for), cmocka_unit_test(backend)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
