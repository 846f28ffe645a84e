/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The reader of responses, and what a proxy makes of them: cuts between reads never show, views stay inside,
 * and the head for the client reads as one response of the same status that frames nothing by itself.
 */
#include <errno.h>
#include <stdlib.h>

#include "check.h"
#include "dataplane/http/forward.h"

enum { FIELDS = 16, OUT_MAX = 16384 };

static const struct http_limits limits = {.header_bytes_max = 1024, .headers_max = FIELDS};
static const struct http_limits large = {.header_bytes_max = OUT_MAX, .headers_max = 4 * FIELDS};

struct reading {
    ssize_t used;
    struct http_reject reject;
    struct http_answer answer;
    struct http_field fields[4 * FIELDS];
};

static void read_bytes(struct reading *r, const struct http_limits *l, const char *buf, size_t len,
                       size_t last_len, enum http_method method)
{
    r->answer = (struct http_answer){.fields = r->fields, .fields_max = (uint32_t)ARRAY_SIZE(r->fields)};
    r->reject = (struct http_reject){0};
    r->used = http_answer_read(buf, len, last_len, l, method, &r->answer, &r->reject);
    CHECK(r->used > 0 || r->used == -EAGAIN || r->used == -EBADMSG);
    CHECK(r->used <= (ssize_t)len);
    CHECK((r->used == -EBADMSG) == (r->reject.status == 502));
    CHECK(len < l->header_bytes_max || r->used != -EAGAIN);
}

static void check_inside(struct view v, const char *buf, size_t used)
{
    if (view_present(v))
        CHECK(v.p >= buf && v.len <= used && v.p + v.len <= buf + used);
}

static void check_answer(const struct reading *r, const char *buf)
{
    const struct http_answer *a = &r->answer;
    CHECK(a->status >= 100 && a->status <= 599);
    check_inside(a->reason, buf, (size_t)r->used);
    for (uint32_t i = 0; i < a->fields_count; i++) {
        check_inside(a->fields[i].name, buf, (size_t)r->used);
        check_inside(a->fields[i].value, buf, (size_t)r->used);
    }
    CHECK(a->framing != HTTP_BODY_LENGTH || a->length_told);
    CHECK(a->framing != HTTP_BODY_CLOSE || !a->keep_alive);
}

/* Two ways of cutting agree, but that a refusal may come later. */
static void check_cut(const struct reading *whole, const char *buf, size_t len, size_t cut,
                      enum http_method method)
{
    static struct reading part;
    read_bytes(&part, &limits, buf, cut, 0, method);
    if (part.used == -EAGAIN)
        read_bytes(&part, &limits, buf, len, cut, method);
    if (part.used == -EAGAIN && whole->used == -EBADMSG)
        return;
    CHECK(part.used == whole->used && part.reject.reason == whole->reject.reason);
    CHECK(part.used < 0 ||
          (part.answer.status == whole->answer.status && part.answer.framing == whole->answer.framing &&
           part.answer.content_length == whole->answer.content_length &&
           part.answer.fields_count == whole->answer.fields_count));
}

static void check_forwarded(const struct http_answer *a)
{
    static char out[OUT_MAX];
    static struct reading again;
    struct http_response res;
    const struct http_backward how = {.scheme = VIEW_LIT("https"),
                                      .host = VIEW_LIT("front:1"),
                                      .backend = VIEW_LIT("a:80"),
                                      .sent_host = VIEW_LIT("h"),
                                      .request_id = VIEW_LIT("id")};
    http_forward_response(&res, out, sizeof(out), a, &how);
    ssize_t n = http_response_end(&res);
    CHECK(n > 0);
    read_bytes(&again, &large, out, (size_t)n, 0, HTTP_GET);
    CHECK(again.used == n && again.answer.status == a->status);
    CHECK(!again.answer.length_told && again.answer.framing != HTTP_BODY_CHUNKED);
    CHECK(again.answer.fields_count <= a->fields_count + 3);
    CHECK(view_present(again.answer.known[HTTP_KNOWN_CONNECTION]) == (a->status == 101));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct reading whole;
    enum http_method method = size && data[0] & 1 ? HTTP_HEAD : HTTP_GET;
    size_t len = size ? size - 1 : 0;
    char *buf = malloc(len ? len : 1); /* of exactly this size: the sanitizer sees the last byte */
    CHECK(buf);
    if (len)
        memcpy(buf, data + 1, len);
    read_bytes(&whole, &limits, buf, len, 0, method);
    if (whole.used > 0) {
        check_answer(&whole, buf);
        check_forwarded(&whole.answer);
    }
    for (size_t cut = 0; cut < len; cut += 1 + len / 16)
        check_cut(&whole, buf, len, cut, method);
    free(buf);
    return 0;
}
