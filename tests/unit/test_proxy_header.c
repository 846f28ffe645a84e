/* SPDX-License-Identifier: Apache-2.0 */
/* PROXY headers: the two versions, in any pieces, and everything that only looks like one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "dataplane/http/proxy_header.h"
#include "guarded.h"

#define BYTES(s) s, sizeof(s) - 1
#define V2       "\r\n\r\n\0\r\nQUIT\n"

static struct guarded memory;

static ssize_t read_header(const void *bytes, size_t len, struct proxy_header *out)
{
    return proxy_header_read((const uint8_t *)guarded_copy(&memory, bytes, len), len, out);
}

static const struct {
    const char *in;
    size_t len;
    ssize_t ret;
    uint8_t family;
} headers[] = {
    {BYTES("PROXY TCP4 192.0.2.1 192.0.2.2 1234 443\r\nGET"), 41, PROXY_HEADER_IPV4},
    {BYTES("PROXY TCP6 2001:db8::1 ::1 65535 0\r\n"), 36, PROXY_HEADER_IPV6},
    {BYTES("PROXY UNKNOWN\r\n"), 15, PROXY_HEADER_NONE},
    {BYTES("PROXY UNKNOWN a b c d\r\n"), 23, PROXY_HEADER_NONE},
    {BYTES("PROXY UNKNOWNS\r\n"), -EBADMSG, 0},
    {BYTES("PROXY TCP5 192.0.2.1 192.0.2.2 1 2\r\n"), -EBADMSG, 0},
    {BYTES("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n"), -EBADMSG, 0},
    {BYTES("PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n"), -EBADMSG, 0},
    {BYTES("PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n"), -EBADMSG, 0},
    {BYTES("PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n"), -EBADMSG, 0},
    {BYTES("PROXY TCP4 192.0.2.1 192.0.2.2 65536 2\r\n"), -EBADMSG, 0},
    {BYTES("PROXY TCP4 192.0.2.1 192.0.2.2 -1 2\r\n"), -EBADMSG, 0},
    {BYTES("PROXY TCP4 192.0.2.256 192.0.2.2 1 2\r\n"), -EBADMSG, 0},
    {BYTES("PROXY TCP4 ::1 ::1 1 2\r\n"), -EBADMSG, 0},
    {BYTES("PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n"), -EBADMSG, 0},
    {BYTES("PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n"), -EBADMSG, 0},
    {BYTES("proxy TCP4 192.0.2.1 192.0.2.2 1 2\r\n"), -EBADMSG, 0},
    {BYTES("GET / HTTP/1.1\r\n"), -EBADMSG, 0},
    {BYTES("PROXY UNKNOWN ________________________________________________________________________________"
           "_________________________\r\n"),
     -EBADMSG, 0},
    {BYTES(""), -EAGAIN, 0},
    {BYTES("PRO"), -EAGAIN, 0},
    {BYTES("\r\n\r\n"), -EAGAIN, 0},
    {BYTES("\r\n\r\nX"), -EBADMSG, 0},
    {BYTES(V2 "\x20\0\0\0"), 16, PROXY_HEADER_NONE},
    {BYTES(V2 "\x21\0\0\3abc"), 19, PROXY_HEADER_NONE},
    {BYTES(V2 "\x21\x11\0\x0c\1\2\3\4\5\6\7\x08\1\2\3\4"), 28, PROXY_HEADER_IPV4},
    {BYTES(V2 "\x21\x11\0\x10\1\2\3\4\5\6\7\x08\1\2\3\4\4\0\1z"), 32, PROXY_HEADER_IPV4},
    {BYTES(V2 "\x21\x11\0\x0b\1\2\3\4\5\6\7\x08\1\2\3"), -EBADMSG, 0},
    {BYTES(V2 "\x21\x12\0\x0c\1\2\3\4\5\6\7\x08\1\2\3\4"), -EBADMSG, 0},
    {BYTES(V2 "\x21\x21\0\x24"
              "0123456789abcdef0123456789abcdef\1\2\3\4"),
     52, PROXY_HEADER_IPV6},
    {BYTES(V2 "\x22\x11\0\x0c\1\2\3\4\5\6\7\x08\1\2\3\4"), -EBADMSG, 0},
    {BYTES(V2 "\x11\x11\0\x0c\1\2\3\4\5\6\7\x08\1\2\3\4"), -EBADMSG, 0},
    {BYTES(V2 "\x20\0\xff\xff"), -EBADMSG, 0},
};

static void test_headers(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(headers); i++) {
        struct proxy_header h;
        ssize_t ret = read_header(headers[i].in, headers[i].len, &h);
        if (ret != headers[i].ret)
            print_error("header %zu\n", i);
        assert_int_equal(ret, headers[i].ret);
        if (ret > 0)
            assert_int_equal(h.family, headers[i].family);
        for (size_t n = 0; ret > 0 && n < (size_t)ret; n++)
            assert_int_equal(read_header(headers[i].in, n, &h), -EAGAIN);
    }
}

static void test_values(void **state)
{
    (void)state;
    struct proxy_header h;
    assert_int_equal(read_header(BYTES("PROXY TCP4 192.0.2.1 192.0.2.2 1234 443\r\n"), &h), 41);
    assert_memory_equal(h.source, "\xc0\0\2\1", 4);
    assert_memory_equal(h.destination, "\xc0\0\2\2", 4);
    assert_int_equal(h.source_port, 1234);
    assert_int_equal(h.destination_port, 443);
}

/* What is written is read as the same. */
static void test_round_trip(void **state)
{
    (void)state;
    const uint8_t families[] = {PROXY_HEADER_NONE, PROXY_HEADER_IPV4, PROXY_HEADER_IPV6};
    for (size_t i = 0; i < ARRAY_SIZE(families); i++)
        for (unsigned version = 1; version <= 2; version++) {
            struct proxy_header in = {.family = families[i]}, out;
            uint8_t bytes[PROXY_HEADER_WRITE_MAX];
            if (families[i]) {
                memset(in.source, 0xfe, families[i] == PROXY_HEADER_IPV4 ? 4 : 16);
                memset(in.destination, 0xfd, families[i] == PROXY_HEADER_IPV4 ? 4 : 16);
                in.source_port = 65535;
                in.destination_port = 1;
            }
            size_t len = proxy_header_write(&in, version, bytes);
            assert_true(len < sizeof(bytes));
            assert_int_equal(read_header(bytes, len, &out), len);
            assert_memory_equal(&in, &out, sizeof(in));
        }
}

int main(void)
{
    memory = guarded_new(4096);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_headers),
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_round_trip),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
