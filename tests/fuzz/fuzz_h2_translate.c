/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Between HTTP/2 and HTTP/1.1. The first byte says what the rest is: a header block (names and values ended
 * by 0xff), or the bytes of an HTTP/1.1 message.
 *
 * A block that is not malformed makes a head that the reader of HTTP/1.1 takes as one whole, with the framing
 * that was said, or refuses by its own rules; and that the way back takes, too. A message means the same
 * however it is cut.
 */
#include <errno.h>
#include <stdlib.h>

#include "check.h"
#include "dataplane/http/h1_to_h2.h"
#include "dataplane/http/h2_to_h1.h"

enum { MEMORY = 16384, OUT = 1 << 16 };

static const struct http_limits limits = {
    .header_bytes_max = 8192, .headers_max = 64, .target_bytes_max = 1024};

static void read_request(const struct h2_head *h)
{
    static struct http_field fields[80];
    struct http_limits wide = {.header_bytes_max = 16384, .headers_max = 80, .target_bytes_max = 2048};
    struct http_request req = {.fields = fields, .fields_max = 80};
    struct http_reject reject;
    ssize_t n = http_request_read(h->buf, h->len, 0, &wide, &req, &reject);
    CHECK(n == (ssize_t)h->len || n == -EBADMSG);
    if (n < 0)
        return;
    CHECK((req.framing == HTTP_BODY_CHUNKED) == (h->framing == H2_FRAMING_CHUNKED));
    CHECK(h->framing != H2_FRAMING_LENGTH || req.framing == HTTP_BODY_LENGTH);
    CHECK(req.framing != HTTP_BODY_LENGTH || req.content_length == h->content_length);
    CHECK(req.fields_count <= h->fields + 2);
    CHECK(view_eq(req.method_name, h->method) && view_eq(req.target, h->path));
}

static void read_back(const struct h2_head *h)
{
    static struct h1_head head;
    struct h1_reader r = {.request = h->kind == H2_REQUEST, .head_request = h->head_request};
    struct view content;
    size_t used;
    enum h1_got got = h1_read(&r, h->buf, h->len, &used, &head, &content);
    CHECK(got == H1_HEAD && used == h->len);
    CHECK(head.count <= h->fields + 1);
    CHECK(h->kind == H2_REQUEST || head.status == h->status);
}

static void block(const uint8_t *data, size_t size)
{
    static char memory[MEMORY];
    struct h2_head h;
    uint8_t how = size ? *data : 0;
    enum h2_kind kind = (enum h2_kind)(how % 3);
    h2_head_begin(&h, kind, how & 8, &limits, memory, how & 16 ? 64 : sizeof(memory));
    struct view rest = size ? view_of((const char *)data + 1, size - 1) : view_of("", 0);
    while (view_present(rest) && rest.len) {
        struct view value, name = view_split(rest, (char)0xff, &rest);
        if (!view_present(rest))
            break;
        value = view_split(rest, (char)0xff, &rest);
        h2_head_field(&h, name, value);
    }
    if (h2_head_end(&h, how & 32))
        return;
    CHECK(h.len <= h.limits.header_bytes_max && h.len >= 2 && memcmp(h.buf + h.len - 2, "\r\n", 2) == 0);
    if (kind == H2_REQUEST)
        read_request(&h);
    if (kind != H2_TRAILERS)
        read_back(&h);
}

/* ------------------------------------------------------------------ messages */

struct outcome {
    char text[OUT];
    size_t len;
};

static void note(struct outcome *o, const char *p, size_t n)
{
    if (n > OUT - o->len)
        n = OUT - o->len;
    if (n)
        memcpy(o->text + o->len, p, n);
    o->len += n;
}

static void note_head(struct outcome *o, const struct h1_head *head)
{
    char mark = (char)head->status;
    note(o, &mark, 1);
    note(o, head->method.p, head->method.len);
    note(o, head->target.p, head->target.len);
    note(o, head->host.p, head->host.len);
    for (uint32_t i = 0; i < head->count; i++) {
        note(o, head->field[i].name.p, head->field[i].name.len);
        note(o, ":", 1);
        note(o, head->field[i].value.p, head->field[i].value.len);
    }
}

static bool take(struct outcome *o, struct h1_reader *r, const char *at, size_t len, size_t *used)
{
    static char hold[MEMORY];
    static struct h1_head head;
    struct view content;
    enum h1_got got = h1_read(r, at, len, used, &head, &content);
    CHECK(*used <= len);
    if (got == H1_MORE) {
        CHECK(*used == len);
    } else if (got == H1_MEMORY) {
        CHECK(!r->hold);
        r->hold = hold;
        r->hold_len = 0;
        r->hold_cap = sizeof(hold);
    } else if (got == H1_HEAD || got == H1_TRAILERS) {
        note_head(o, &head);
        r->hold = NULL;
    } else if (got == H1_CONTENT) {
        note(o, content.p, content.len);
        h1_took(r, content.len);
    }
    if (got == H1_TRAILERS || got == H1_END || got == H1_BAD)
        note(o, got == H1_BAD ? "!" : ".", 1);
    return got != H1_TRAILERS && got != H1_END && got != H1_BAD;
}

static void message(struct outcome *o, const char *data, size_t size, uint8_t how, size_t step)
{
    struct h1_reader r = {.request = how & 1, .head_request = how & 2};
    size_t at = 0;
    bool goes_on = true;
    o->len = 0;
    while (goes_on && at < size) {
        size_t end = step < size - at ? at + step : size;
        while (goes_on && at < end) {
            size_t n = end - at, used;
            char *piece = malloc(n); /* of exactly its size */
            CHECK(piece);
            memcpy(piece, data + at, n);
            goes_on = take(o, &r, piece, n, &used);
            at += used;
            free(piece);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct outcome whole, cut;
    if (size == 0)
        return 0;
    if (*data & 128) {
        block(data + 1, size - 1);
        return 0;
    }
    if (size > MEMORY) /* what a hold takes never shows */
        return 0;
    message(&whole, (const char *)data + 1, size - 1, *data, size);
    for (size_t step = 1; step < 40; step += step) {
        message(&cut, (const char *)data + 1, size - 1, *data, step);
        CHECK(cut.len == whole.len && memcmp(cut.text, whole.text, cut.len) == 0);
    }
    return 0;
}
