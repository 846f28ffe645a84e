/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The chunked decoder: the cuts between reads never show in the outcome, bytes behind the body are untouched,
 * and content written in chunks again decodes to itself; so do the trailers that were kept.
 */
#include <errno.h>
#include <stdlib.h>

#include "check.h"
#include "dataplane/http/chunked.h"

struct outcome {
    int ret;
    enum http_reject_reason reason;
    size_t used;
    size_t payload_len;
    char *payload; /* room for as many bytes as the input has */
    char kept[HTTP_TRAILER_BYTES_MAX];
    size_t kept_len;
};

/* Decodes one piece in a copy of exactly its size. */
static void decode_piece(struct outcome *o, struct http_chunked *st, const char *piece, size_t len)
{
    struct http_chunked_result result;
    struct http_reject reject = {0};
    char *buf = malloc(len);
    CHECK(buf);
    memcpy(buf, piece, len);
    o->ret = http_chunked_decode(st, buf, len, &result, &reject);
    CHECK(result.payload <= result.consumed && result.consumed <= len);
    if (o->ret == HTTP_CHUNKED_TRAILERS) {
        CHECK(!st->kept && !st->pause && result.consumed < len);
        st->kept = o->kept;
        o->ret = 0;
    } else {
        CHECK(o->ret == 1 || o->ret == -EBADMSG || (o->ret == 0 && result.consumed == len));
    }
    CHECK((o->ret == 1) == http_chunked_done(st));
    CHECK((o->ret == -EBADMSG) == (reject.reason != HTTP_REJECT_NONE));
    CHECK(memcmp(buf + result.consumed, piece + result.consumed, len - result.consumed) == 0);
    memcpy(o->payload + o->payload_len, buf, result.payload);
    o->payload_len += result.payload;
    o->used += result.consumed;
    o->reason = reject.reason;
    o->kept_len = st->kept_len;
    free(buf);
}

static struct outcome decode(const char *bytes, size_t len, size_t step)
{
    struct http_chunked st = {.pause = true};
    struct outcome o = {.payload = malloc(len)};
    CHECK(o.payload);
    while (o.ret == 0 && o.used < len)
        decode_piece(&o, &st, bytes + o.used, step < len - o.used ? step : len - o.used);
    return o;
}

/* What was kept of a whole body is a trailer section that is kept as it is. */
static void check_kept_again(const struct outcome *whole)
{
    size_t len = whole->kept_len + 5;
    char *out = malloc(len);
    CHECK(out);
    memcpy(out, "0\r\n", 3);
    if (whole->kept_len)
        memcpy(out + 3, whole->kept, whole->kept_len);
    memcpy(out + len - 2, "\r\n", 2);
    struct outcome again = decode(out, len, len);
    CHECK(again.ret == 1 && again.used == len && again.payload_len == 0);
    CHECK(again.kept_len == whole->kept_len && memcmp(again.kept, whole->kept, whole->kept_len) == 0);
    free(again.payload);
    free(out);
}

static void check_step(const struct outcome *whole, const char *bytes, size_t len, size_t step)
{
    struct outcome o = decode(bytes, len, step);
    CHECK(o.ret == whole->ret && o.reason == whole->reason && o.used == whole->used);
    CHECK(o.payload_len == whole->payload_len && memcmp(o.payload, whole->payload, o.payload_len) == 0);
    CHECK(o.ret != 1 || (o.kept_len == whole->kept_len && memcmp(o.kept, whole->kept, o.kept_len) == 0));
    free(o.payload);
}

static size_t append(char *out, size_t len, struct view v)
{
    memcpy(out + len, v.p, v.len);
    return len + v.len;
}

static void check_written_again(const struct outcome *whole, size_t chunk_bytes)
{
    char header[HTTP_CHUNK_HEADER_MAX];
    size_t len = 0, chunks = whole->payload_len / chunk_bytes + 1;
    char *out = malloc(whole->payload_len + chunks * (HTTP_CHUNK_HEADER_MAX + 2) + 5);
    CHECK(out);
    for (size_t done = 0; done < whole->payload_len;) {
        size_t n = whole->payload_len - done < chunk_bytes ? whole->payload_len - done : chunk_bytes;
        len = append(out, len, view_of(header, http_chunk_header(header, n)));
        len = append(out, len, view_of(whole->payload + done, n));
        len = append(out, len, HTTP_CHUNK_END);
        done += n;
    }
    len = append(out, len, HTTP_CHUNK_LAST);
    struct outcome again = decode(out, len, len);
    CHECK(again.ret == 1 && again.used == len && again.payload_len == whole->payload_len);
    CHECK(memcmp(again.payload, whole->payload, again.payload_len) == 0);
    free(again.payload);
    free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *bytes = (const char *)data;
    if (size == 0)
        return 0;
    struct outcome whole = decode(bytes, size, size);
    check_step(&whole, bytes, size, 1);
    check_step(&whole, bytes, size, 1 + data[size - 1] % 37);
    check_step(&whole, bytes, size, size - size / 3);
    if (whole.ret == 1) {
        check_written_again(&whole, 1 + data[0] % 20);
        check_kept_again(&whole);
    }
    free(whole.payload);
    return 0;
}
