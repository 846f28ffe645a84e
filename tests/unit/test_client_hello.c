/* SPDX-License-Identifier: Apache-2.0 */
/* ClientHellos: of OpenSSL, cut into records of any size, cut off at any byte, and with every byte changed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <openssl/ssl.h>
#include <string.h>

#include "check.h"
#include "dataplane/http/client_hello.h"
#include "guarded.h"

enum { RECORD_HEAD = 5, HELLO_MAX = 8192 };

static struct guarded memory;

static int read_hello(const uint8_t *bytes, size_t len, struct client_hello *out)
{
    return client_hello_read((const uint8_t *)guarded_copy(&memory, bytes, len), len, out);
}

/* What OpenSSL sends first. */
static size_t hello_of(const char *name, uint8_t *out)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    SSL *ssl = SSL_new(ctx);
    BIO *in = BIO_new(BIO_s_mem()), *bio = BIO_new(BIO_s_mem());
    CHECK(ctx && ssl && in && bio);
    SSL_set_bio(ssl, in, bio);
    if (name)
        SSL_set_tlsext_host_name(ssl, name);
    CHECK(SSL_connect(ssl) < 0);
    int n = BIO_read(bio, out, HELLO_MAX);
    CHECK(n > RECORD_HEAD);
    SSL_free(ssl);
    SSL_CTX_free(ctx);
    return (size_t)n;
}

/* The same message in records of `part` bytes. */
static size_t cut(const uint8_t *hello, size_t len, size_t part, uint8_t *out)
{
    size_t at = 0;
    for (size_t done = RECORD_HEAD; done < len; done += part) {
        size_t n = len - done < part ? len - done : part;
        memcpy(out + at, hello, 3);
        out[at + 3] = (uint8_t)(n >> 8);
        out[at + 4] = (uint8_t)n;
        memcpy(out + at + RECORD_HEAD, hello + done, n);
        at += RECORD_HEAD + n;
    }
    return at;
}

static void test_names(void **state)
{
    static const char *const names[] = {"registry.example.org", "UPPER.example", "x"};
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        uint8_t hello[HELLO_MAX], parts[HELLO_MAX];
        struct client_hello out;
        size_t len = hello_of(names[i], hello);
        for (size_t part = 1; part < len; part += part < 80 ? 1 : 37) {
            size_t n = cut(hello, len, part, parts);
            assert_int_equal(read_hello(parts, n, &out), 0);
            assert_int_equal(strcasecmp(out.name, names[i]), 0);
            assert_int_equal(read_hello(parts, n - 1, &out), -EAGAIN);
        }
        for (size_t n = 0; n < len; n++)
            assert_int_equal(read_hello(hello, n, &out), -EAGAIN);
    }
}

static void test_no_name(void **state)
{
    (void)state;
    uint8_t hello[HELLO_MAX];
    struct client_hello out;
    size_t len = hello_of(NULL, hello);
    assert_int_equal(read_hello(hello, len, &out), 0);
    assert_string_equal(out.name, "");
}

/* Nothing is read beyond the end (the guard says so), whatever a byte is changed to. */
static void test_changed(void **state)
{
    (void)state;
    uint8_t hello[HELLO_MAX];
    struct client_hello out;
    size_t len = hello_of("registry.example.org", hello);
    for (size_t i = 0; i < len; i++) {
        uint8_t was = hello[i];
        for (unsigned value = 0; value < 256; value += 5) {
            hello[i] = (uint8_t)value;
            int ret = read_hello(hello, len, &out);
            assert_true(ret == 0 || ret == -EAGAIN || ret == -EBADMSG);
        }
        hello[i] = was;
    }
}

static void test_garbage(void **state)
{
    (void)state;
    struct client_hello out;
    assert_int_equal(read_hello((const uint8_t *)"GET / HTTP/1.1\r\n", 16, &out), -EBADMSG);
    assert_int_equal(read_hello((const uint8_t *)"\x16\x03\x01\x00\x00", 5, &out), -EBADMSG);
    assert_int_equal(read_hello((const uint8_t *)"\x16\x03\x01\x40\x01", 5, &out), -EBADMSG);
    assert_int_equal(read_hello((const uint8_t *)"\x16\x03\x01\x00\x04\x02", 6, &out), -EBADMSG);
    assert_int_equal(read_hello((const uint8_t *)"\x16\x03\x01\x00\x04\x01\xff\xff\xff", 9, &out), -EBADMSG);
}

int main(void)
{
    memory = guarded_new(4 * HELLO_MAX);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_no_name),
        cmocka_unit_test(test_changed),
        cmocka_unit_test(test_garbage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
