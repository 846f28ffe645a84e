/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The chunked coding. Every input lies against a guard page and is decoded whole, after every split and in
 * single bytes; the numbers are rows of the robustness table.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>

#include "dataplane/http/chunked.h"
#include "guarded.h"

enum { INPUT_MAX = 128 << 10, SPLIT_INPUT_MAX = 2000 };

#define BYTES(s) s, sizeof(s) - 1

struct outcome {
    int ret;
    enum http_reject_reason reason;
    size_t used;
    size_t payload_len;
    char *payload;
};

static struct guarded memory;
static char payloads[2][INPUT_MAX];

/* Feeds bytes in pieces: up to the first cut, then in pieces of step. */
static struct outcome feed(const char *bytes, size_t len, size_t cut, size_t step, char *payload)
{
    struct http_chunked st = {0};
    struct http_reject reject = {0};
    struct outcome o = {.payload = payload};
    size_t piece = cut;
    while (o.ret == 0 && o.used < len) {
        struct http_chunked_result result;
        piece = piece < len - o.used ? piece : len - o.used;
        char *buf = guarded_copy(&memory, bytes + o.used, piece);
        o.ret = http_chunked_decode(&st, buf, piece, &result, &reject);
        assert_true(result.payload <= result.consumed && result.consumed <= piece);
        assert_true(o.ret != 0 || result.consumed == piece);
        assert_int_equal(http_chunked_done(&st), o.ret == 1);
        assert_memory_equal(buf + result.consumed, bytes + o.used + result.consumed, piece - result.consumed);
        memcpy(payload + o.payload_len, buf, result.payload);
        o.payload_len += result.payload;
        o.used += result.consumed;
        piece = step;
    }
    o.reason = reject.reason;
    return o;
}

static void assert_same(const struct outcome *a, const struct outcome *b)
{
    assert_int_equal(a->ret, b->ret);
    assert_int_equal(a->reason, b->reason);
    assert_int_equal(a->used, b->used);
    assert_int_equal(a->payload_len, b->payload_len);
    assert_memory_equal(a->payload, b->payload, a->payload_len);
}

static struct outcome feed_every_way(const char *bytes, size_t len)
{
    struct outcome whole = feed(bytes, len, len, len, payloads[0]);
    for (size_t cut = 1; cut < len && len <= SPLIT_INPUT_MAX; cut++) {
        struct outcome split = feed(bytes, len, cut, len, payloads[1]);
        assert_same(&split, &whole);
    }
    struct outcome single = feed(bytes, len, 1, 1, payloads[1]);
    assert_same(&single, &whole);
    return whole;
}

struct good {
    const char *name;
    const char *bytes;
    size_t len;
    const char *payload;
    size_t left; /* bytes of the next request behind the body */
};

static const struct good goods[] = {
#define G(name, bytes, payload, left)                                                                        \
    {                                                                                                        \
        name, BYTES(bytes), payload, left                                                                    \
    }
    G("empty body", "0\r\n\r\n", "", 0),
    G("one chunk", "5\r\nhello\r\n0\r\n\r\n", "hello", 0),
    G("two chunks and a pipelined request", "5\r\nhello\r\n1\r\n!\r\n0\r\n\r\nGET / ", "hello!", 6),
    G("lower and upper case sizes", "a\r\n0123456789\r\nB\r\n0123456789a\r\n0\r\n\r\n",
      "01234567890123456789a", 0),
    G("leading zeros", "0000000000000003\r\nabc\r\n00\r\n\r\n", "abc", 0),
    G("extension", "3;a\r\nabc\r\n0;b=c;d\r\n\r\n", "abc", 0),
    G("quoted extension", "3;a=\"x; \\\" \t\xc3\xa4\"\r\nabc\r\n0\r\n\r\n", "abc", 0),
    G("empty quoted extension, then another", "3;a=\"\";b\r\nabc\r\n0\r\n\r\n", "abc", 0),
    G("trailers", "3\r\nabc\r\n0\r\nA: b\r\nC:\r\nD: \t \r\n\r\nX", "abc", 1),
    G("CRLF and size lines inside of data", "8\r\n\r\n0\r\n\r\n\r\r\n0\r\n\r\n", "\r\n0\r\n\r\n\r", 0),
#undef G
};

static void test_good(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(goods); i++) {
        const struct good *t = &goods[i];
        struct outcome o = feed_every_way(t->bytes, t->len);
        if (o.ret != 1 || o.used != t->len - t->left)
            fail_msg("%s: %d, %zu of %zu, %s", t->name, o.ret, o.used, t->len, http_reject_slug(o.reason));
        assert_int_equal(o.payload_len, strlen(t->payload));
        assert_memory_equal(o.payload, t->payload, o.payload_len);
    }
}

struct bad {
    int row;
    const char *bytes;
    size_t len;
    enum http_reject_reason reason;
};

static const struct bad bads[] = {
#define B(row, bytes, reason)                                                                                \
    {                                                                                                        \
        row, BYTES(bytes), HTTP_REJECT_##reason                                                              \
    }
    B(13, "0x5\r\nhello\r\n", CHUNK_SIZE),
    B(13, "+5\r\nhello\r\n", CHUNK_SIZE),
    B(13, "-0\r\n\r\n", CHUNK_SIZE),
    B(13, "5_0\r\nhello\r\n", CHUNK_SIZE),
    B(13, " 5\r\nhello\r\n", CHUNK_SIZE),
    B(13, "5 \r\nhello\r\n", CHUNK_SIZE),
    B(13, "5\t\r\nhello\r\n", CHUNK_SIZE),
    B(13, "5g\r\nhello\r\n", CHUNK_SIZE),
    B(13, "\r\n5\r\nhello\r\n", CHUNK_SIZE),
    B(13, ";a\r\n\r\n", CHUNK_SIZE),
    B(13, "5,\r\nhello\r\n", CHUNK_SIZE),
    B(13, "\xd9\xa5\r\nhello\r\n", CHUNK_SIZE),
    B(13, "1\r\na\r\n\r\n0\r\n\r\n", CHUNK_SIZE),
    B(13, "8000000000000000\r\n", CHUNK_RANGE),
    B(13, "10000000000000005\r\n", CHUNK_RANGE),
    B(13, "00000000000000005\r\nhello\r\n", CHUNK_RANGE),
    B(16, "5\nhello\r\n0\r\n\r\n", CHUNK_LINE),
    B(16, "0\n\r\n", CHUNK_LINE),
    B(16, "0\r\n\n", TRAILER_SYNTAX),
    B(16, "0\n\n", CHUNK_LINE),
    B(16, "5;a\nhello\r\n0\r\n\r\n", CHUNK_LINE),
    B(16, "5;a=b\nhello\r\n0\r\n\r\n", CHUNK_LINE),
    B(16, "5;a=\"b\nhello\r\n0\r\n\r\n", CHUNK_EXTENSION),
    B(16, "5;\nhello\r\n0\r\n\r\n", CHUNK_EXTENSION),
    B(16, "5\rhello\r\n0\r\n\r\n", CHUNK_LINE),
    B(16, "5\r\rhello\r\n0\r\n\r\n", CHUNK_LINE),
    B(19, "5\r\nhello0\r\n\r\n", CHUNK_LINE),
    B(19, "5\r\nhello\n0\r\n\r\n", CHUNK_LINE),
    B(19, "5\r\nhello\r0\r\n\r\n", CHUNK_LINE),
    B(19, "5\r\nhelloXX0\r\n\r\n", CHUNK_LINE),
    B(19, "4\r\nhello\r\n0\r\n\r\n", CHUNK_LINE),
    B(0, "5 ;a\r\nhello\r\n", CHUNK_SIZE),
    B(0, "5; a\r\nhello\r\n", CHUNK_EXTENSION),
    B(0, "5;a =b\r\nhello\r\n", CHUNK_EXTENSION),
    B(0, "5;a= b\r\nhello\r\n", CHUNK_EXTENSION),
    B(0, "5;a=b \r\nhello\r\n", CHUNK_EXTENSION),
    B(0, "5;\r\nhello\r\n", CHUNK_EXTENSION),
    B(0, "5;a=\r\nhello\r\n", CHUNK_EXTENSION),
    B(0, "5;a=\"b\"c\r\nhello\r\n", CHUNK_EXTENSION),
    B(0, "5;a=\"b\rc\"\r\nhello\r\n", CHUNK_EXTENSION),
    B(0, "5;a=\"\\\r\n\"\r\nhello\r\n", CHUNK_EXTENSION),
    B(0, "5;a\0\r\nhello\r\n", CHUNK_EXTENSION),
    B(0, "0\r\nA\r\n\r\n", TRAILER_SYNTAX),
    B(0, "0\r\nA : b\r\n\r\n", TRAILER_SYNTAX),
    B(0, "0\r\nA: b\r\n c\r\n\r\n", TRAILER_SYNTAX),
    B(0, "0\r\n: b\r\n\r\n", TRAILER_SYNTAX),
    B(0, "0\r\nA: b\n\r\n", TRAILER_SYNTAX),
    B(0, "0\r\nA: b\rc\r\n\r\n", TRAILER_SYNTAX),
    B(0, "0\r\nA: \0\r\n\r\n", TRAILER_SYNTAX),
    B(0, "0\r\n\rX", TRAILER_SYNTAX),
#undef B
};

static void test_bad(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(bads); i++) {
        const struct bad *t = &bads[i];
        struct outcome o = feed_every_way(t->bytes, t->len);
        if (o.ret != -EBADMSG || o.reason != t->reason)
            fail_msg("row %d, %s: %d %s", t->row, t->bytes, o.ret, http_reject_slug(o.reason));
        assert_int_equal(http_reject_of(o.reason).status, 400);
    }
}

/* Row 24: every proper prefix of a body asks for more, so that the end of input there is seen as truncation.
 */
static void test_prefixes_wait(void **state)
{
    (void)state;
    static const char body[] = "3;a=\"b\"\r\nabc\r\n0\r\nA: b\r\n\r\n";
    for (size_t len = 0; len < sizeof(body) - 1; len++)
        assert_int_equal(feed_every_way(body, len).ret, 0);
    assert_int_equal(feed_every_way(BYTES(body)).ret, 1);
}

static void append(char *buf, size_t *len, const char *text, size_t times)
{
    size_t n = strlen(text);
    for (size_t i = 0; i < times; i++, *len += n)
        memcpy(buf + *len, text, n);
}

/* Extension bytes are counted over the whole message, or a byte of content could cost kilobytes for ever. */
static void test_extension_bound(void **state)
{
    (void)state;
    char *buf = malloc(INPUT_MAX);
    size_t len = 0;
    /* ";aaaaaaa" and the CR after it are nine bytes, of which the semicolon is read as part of the size. */
    size_t chunks = HTTP_CHUNK_EXTENSION_BYTES_MAX / 8;
    append(buf, &len, "1;aaaaaaa\r\nx\r\n", chunks);
    size_t before_end = len;
    append(buf, &len, "0\r\n\r\n", 1);
    assert_int_equal(feed_every_way(buf, len).ret, 1);
    len = before_end;
    append(buf, &len, "1;a\r\nx\r\n0\r\n\r\n", 1);
    struct outcome o = feed_every_way(buf, len);
    assert_int_equal(o.reason, HTTP_REJECT_CHUNK_EXTENSIONS_TOO_LARGE);
    assert_int_equal(o.payload_len, chunks);
    free(buf);
}

static void test_trailer_bounds(void **state)
{
    (void)state;
    static char buf[HTTP_TRAILER_BYTES_MAX + 64];
    size_t len = 0;
    append(buf, &len, "0\r\n", 1);
    append(buf, &len, "A:\r\n", HTTP_TRAILERS_MAX);
    size_t before_end = len;
    append(buf, &len, "\r\n", 1);
    assert_int_equal(feed_every_way(buf, len).ret, 1);
    len = before_end;
    append(buf, &len, "A:\r\n\r\n", 1);
    assert_int_equal(feed_every_way(buf, len).reason, HTTP_REJECT_TRAILERS_TOO_LARGE);

    len = 0;
    append(buf, &len, "0\r\nA:", 1);
    append(buf, &len, "x", HTTP_TRAILER_BYTES_MAX - 6);
    append(buf, &len, "\r\n\r\n", 1);
    assert_int_equal(feed_every_way(buf, len).ret, 1);
    memcpy(buf + len - 4, "x\r\n\r\n", 5);
    assert_int_equal(feed_every_way(buf, len + 1).reason, HTTP_REJECT_TRAILERS_TOO_LARGE);
    assert_int_equal(http_reject_of(HTTP_REJECT_TRAILERS_TOO_LARGE).status, 431);
}

/* Content that goes past the decoder: the largest chunk, skipped, then the rest. */
static void test_skip(void **state)
{
    (void)state;
    struct http_chunked st = {0};
    struct http_chunked_result result;
    struct http_reject reject;
    char head[] = "7fffffffffffffff\r\nab", tail[] = "\r\n0\r\n\r\n";
    assert_int_equal(http_chunked_decode(&st, head, sizeof(head) - 1, &result, &reject), 0);
    assert_int_equal(result.payload, 2);
    assert_true(st.data_left == (uint64_t)INT64_MAX - 2);
    http_chunked_skip(&st, st.data_left - 1);
    assert_true(st.data_left == 1);
    http_chunked_skip(&st, 1);
    assert_int_equal(http_chunked_decode(&st, tail, sizeof(tail) - 1, &result, &reject), 1);
    assert_int_equal(result.payload, 0);
}

/* Cut anywhere, the same trailers are kept; those that may not stand there are left out. */
static void test_trailers_kept(void **state)
{
    (void)state;
    static const char body[] = "3\r\nabc\r\n0\r\ngrpc-status: 0\r\nContent-Length: 7\r\nX: \r\nHOST:a\r\n"
                               "grpc-message:  a:b \r\ntransfer-encoding: chunked\r\n\r\nGET";
    static const char want[] = "grpc-status: 0\r\nX: \r\ngrpc-message:  a:b \r\n";
    for (size_t step = 1; step <= sizeof(body); step++) {
        struct http_chunked st = {.pause = true};
        struct http_chunked_result result;
        struct http_reject reject;
        char kept[HTTP_TRAILER_BYTES_MAX], buf[sizeof(body)];
        size_t used = 0, pauses = 0;
        int ret = 0;
        while (ret != 1) {
            size_t n = step < sizeof(body) - 1 - used ? step : sizeof(body) - 1 - used;
            memcpy(buf, body + used, n);
            ret = http_chunked_decode(&st, buf, n, &result, &reject);
            used += result.consumed;
            if (ret == HTTP_CHUNKED_TRAILERS) {
                st.kept = kept;
                pauses++;
            }
            assert_true(ret >= 0);
        }
        assert_int_equal(pauses, 1);
        assert_int_equal(used, sizeof(body) - 4);
        assert_int_equal(st.kept_len, sizeof(want) - 1);
        assert_memory_equal(kept, want, sizeof(want) - 1);
    }
}

/* No pause without any trailer. */
static void test_no_trailers(void **state)
{
    (void)state;
    char body[] = "3\r\nabc\r\n0\r\n\r\n";
    struct http_chunked st = {.pause = true};
    struct http_chunked_result result;
    struct http_reject reject;
    assert_int_equal(http_chunked_decode(&st, body, 4, &result, &reject), 0);
    assert_int_equal(http_chunked_data(&st), 2);
    assert_int_equal(http_chunked_decode(&st, body + 4, sizeof(body) - 5, &result, &reject), 1);
    assert_int_equal(http_chunked_data(&st), 0);
}

static void test_chunk_header(void **state)
{
    (void)state;
    static const struct {
        uint64_t size;
        const char *text;
    } rows[] = {{1, "1\r\n"},
                {15, "f\r\n"},
                {16, "10\r\n"},
                {255, "ff\r\n"},
                {4096, "1000\r\n"},
                {0x123456789abcdef0, "123456789abcdef0\r\n"},
                {UINT64_MAX, "ffffffffffffffff\r\n"}};
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        char out[HTTP_CHUNK_HEADER_MAX];
        size_t len = http_chunk_header(out, rows[i].size);
        assert_int_equal(len, strlen(rows[i].text));
        assert_memory_equal(out, rows[i].text, len);
    }
}

static int set_up(void **state)
{
    (void)state;
    memory = guarded_new(INPUT_MAX);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),           cmocka_unit_test(test_bad),
        cmocka_unit_test(test_prefixes_wait),  cmocka_unit_test(test_extension_bound),
        cmocka_unit_test(test_trailer_bounds), cmocka_unit_test(test_skip),
        cmocka_unit_test(test_chunk_header),   cmocka_unit_test(test_trailers_kept),
        cmocka_unit_test(test_no_trailers),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
