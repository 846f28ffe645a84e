/* SPDX-License-Identifier: Apache-2.0 */
/* Messages of HTTP/1.1 taken apart for HTTP/2; each in one piece, and in pieces of every size. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "check.h"
#include "dataplane/http/h1_to_h2.h"

struct row {
    const char *what, *text;
    bool request, head_request;
    const char *out; /* as the functions below print it */
};

static const struct row rows[] = {
    {"length", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nA: b\r\n\r\nabc",
     .out = "200 Content-Length=3 A=b {abc} end"},
    {"none", "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n", .out = "201 Content-Length=0 ends"},
    {"no content", "HTTP/1.1 204 No Content\r\n\r\n", .out = "204 ends"},
    {"no phrase", "HTTP/1.1 304\r\nContent-Length: 9\r\n\r\n", .out = "304 Content-Length=9 ends"},
    {"HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", .head_request = true,
     .out = "200 Content-Length=9 ends"},
    {"chunks",
     "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX: "
     "y\r\n\r\n3\r\nabc\r\n0a;x=y\r\n0123456789\r\n0\r\n\r\n",
     .out = "200 X=y {abc0123456789} end"},
    {"trailers",
     "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: t\r\n\r\n1\r\na\r\n0\r\ngrpc-status: 0\r\nt: "
     " u \r\n\r\n",
     .out = "200 Trailer=t {a} trailers grpc-status=0 t=u"},
    {"until close", "HTTP/1.0 200 OK\r\n\r\nabc", .out = "200 {abc} more"},
    {"interim",
     "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 \r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: "
     "1\r\n\r\na",
     .out = "100 103 Link=x 200 Content-Length=1 {a} end"},
    {"of the connection",
     "HTTP/1.1 200 OK\r\nConnection: close, X-Hop\r\nKeep-Alive: a\r\nx-hop: 1\r\nUpgrade: b\r\nTE: "
     "trailers\r\nContent-Length: 0\r\nA: b\r\n\r\n",
     .out = "200 Content-Length=0 A=b ends"},
    {"request",
     "POST /a?b HTTP/1.1\r\nHost: h:1\r\nConnection: TE\r\nTE: gzip, trailers\r\nContent-Length: 2\r\n\r\nhi",
     .request = true, .out = "POST /a?b h:1 TE=trailers Content-Length=2 {hi} end"},
    {"request without content", "GET / HTTP/1.1\r\nHost: h\r\n\r\n", .request = true, .out = "GET / h ends"},
    {"chunked request", "PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
     .request = true, .out = "PUT / h {a} end"},
    {"switching", "HTTP/1.1 101 Switching Protocols\r\n\r\n", .out = "bad"},
    {"no HTTP", "HTTP/2.0 200 OK\r\n\r\n", .out = "bad"},
    {"no status", "HTTP/1.1 2x0 OK\r\n\r\n", .out = "bad"},
    {"bare CR", "HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n", .out = "bad"},
    {"bare LF", "HTTP/1.1 200 OK\r\nA: b\nc: d\r\n\r\n", .out = "bad"},
    {"folded", "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", .out = "bad"},
    {"no colon", "HTTP/1.1 200 OK\r\nA\r\n\r\n", .out = "bad"},
    {"two framings", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
     .out = "bad"},
    {"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", .out = "bad"},
    {"other coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", .out = "bad"},
    {"no size", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxy", .out = "200 bad"},
    {"large size", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1234567890123456\r\n",
     .out = "200 bad"},
    {"long chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc", .out = "200 {a} bad"},
    {"old request", "GET / HTTP/1.0\r\n\r\n", .request = true, .out = "bad"},
};

static char got_text[4096], hold[4096];
static size_t got_len;

static void say(struct view v)
{
    CHECK(got_len + v.len < sizeof(got_text));
    if (v.len)
        memcpy(got_text + got_len, v.p, v.len);
    got_len += v.len;
    got_text[got_len] = '\0';
}

static void word(struct view v)
{
    if (got_len)
        say(VIEW_LIT(" "));
    say(v);
}

static void say_head(const struct h1_head *head)
{
    char status[16];
    if (head->status) {
        (void)snprintf(status, sizeof(status), "%d", head->status);
        word(view_of_str(status));
    }
    if (view_present(head->method)) {
        word(head->method);
        word(head->target);
        word(head->host);
    }
    for (uint32_t i = 0; i < head->count; i++) {
        word(head->field[i].name);
        say(VIEW_LIT("="));
        say(head->field[i].value);
    }
    if (head->ends)
        word(VIEW_LIT("ends"));
}

static void say_content(struct view v)
{
    bool goes_on = got_len && got_text[got_len - 1] == '}';
    if (goes_on)
        got_len--;
    else
        word(VIEW_LIT("{"));
    say(v);
    say(VIEW_LIT("}"));
}

/* False: nothing comes any more. */
static bool take(struct h1_reader *r, const char *at, size_t len, size_t most, size_t *used)
{
    static struct h1_head head;
    struct view content;
    switch (h1_read(r, at, len, used, &head, &content)) {
    case H1_MORE:
        assert_int_equal(*used, len);
        return true;
    case H1_MEMORY:
        assert_null(r->hold);
        r->hold = hold;
        r->hold_len = 0;
        r->hold_cap = sizeof(hold);
        return true;
    case H1_HEAD:
        say_head(&head);
        r->hold = NULL;
        return !head.ends;
    case H1_CONTENT: {
        size_t n = content.len < most ? content.len : most;
        say_content(view_of(content.p, n));
        h1_took(r, n);
        *used -= content.len - n;
        return true;
    }
    case H1_TRAILERS:
        word(VIEW_LIT("trailers"));
        say_head(&head);
        return false;
    case H1_END:
        word(VIEW_LIT("end"));
        return false;
    case H1_BAD:
        word(VIEW_LIT("bad"));
        return false;
    }
    return false;
}

static void run(const struct row *row, size_t piece, size_t most)
{
    struct h1_reader r = {.request = row->request, .head_request = row->head_request};
    size_t len = strlen(row->text), at = 0, end = 0;
    bool goes_on = true;
    got_len = 0;
    while (goes_on && at < len) {
        end = at + piece < len ? at + piece : len;
        while (goes_on && at < end) {
            size_t used = 0;
            goes_on = take(&r, row->text + at, end - at, most, &used);
            at += used;
        }
    }
    if (goes_on && h1_at_end(&r))
        word(VIEW_LIT("end"));
    else if (goes_on)
        word(VIEW_LIT("more"));
    if (strcmp(got_text, row->out) != 0)
        fail_msg("%s in pieces of %zu, %zu: %s", row->what, piece, most, got_text);
}

static void table(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        for (size_t piece = strlen(rows[i].text); piece; piece--)
            for (size_t most = 1; most < 6; most++)
                run(&rows[i], piece, most);
}

static void closing(void **state)
{
    (void)state;
    struct h1_reader r = {0};
    static struct h1_head head;
    struct view content;
    size_t used;
    assert_false(h1_closed(&r));
    assert_int_equal(h1_read(&r, "HTTP/1.1 200 OK\r\n\r\n", 19, &used, &head, &content), H1_HEAD);
    assert_false(h1_at_end(&r));
    assert_true(h1_closed(&r));
    assert_true(h1_at_end(&r));
}

static void too_large(void **state)
{
    (void)state;
    struct h1_reader r = {0};
    static struct h1_head head;
    struct view content;
    size_t used;
    assert_int_equal(h1_read(&r, "HTTP/1.1 200 OK\r\n", 17, &used, &head, &content), H1_MEMORY);
    assert_int_equal(used, 0);
    r.hold = hold;
    r.hold_cap = 20;
    assert_int_equal(h1_read(&r, "HTTP/1.1 200 OK\r\n", 17, &used, &head, &content), H1_MORE);
    assert_int_equal(h1_read(&r, "A: b\r\n\r\n", 8, &used, &head, &content), H1_BAD);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(table), cmocka_unit_test(closing),
                                       cmocka_unit_test(too_large)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
