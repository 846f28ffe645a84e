/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading a request head in every way: whole, from every prefix, after every split, and one byte at a time,
 * always against a guard page. The outcomes must not differ. For the tests of the request reader; included
 * once by each.
 */
#ifndef FL_TEST_READING_H
#define FL_TEST_READING_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "dataplane/http/http1.h"
#include "guarded.h"

enum { FIELDS = 16, TARGET_MAX = 64, HEAD_MAX = 512, DESCRIPTION_MAX = 8192, SPLIT_INPUT_MAX = 600 };

static const struct http_limits limits = {
    .header_bytes_max = HEAD_MAX, .headers_max = FIELDS, .target_bytes_max = TARGET_MAX};

#define BYTES(s) s, sizeof(s) - 1

/* The outcome of one read as text, so that any two can be compared and shown. */
struct outcome {
    ssize_t used;
    struct http_reject reject;
    char text[DESCRIPTION_MAX];
};

static struct guarded memory;

static int reading_set_up(void **state)
{
    (void)state;
    memory = guarded_new(4096);
    return 0;
}

static const char *show(struct view v)
{
    static char ring[8][HEAD_MAX + 16];
    static unsigned next;
    char *out = ring[next++ % 8];
    snprintf(out, sizeof(ring[0]), view_present(v) ? "[%.*s]" : "none", (int)v.len, v.p);
    return out;
}

static void describe(const struct http_request *req, struct outcome *o)
{
    size_t n = (size_t)snprintf(
        o->text, sizeof(o->text),
        "%s %s form=%d path=%s query=%s HTTP/1.%d host=%s framing=%d length=%llu keep=%d "
        "expect=%d upgrade=%s",
        show(req->method_name), http_method_name(req->method), req->target_form, show(req->path),
        show(req->query), req->version_minor, show(req->host), req->framing,
        (unsigned long long)req->content_length, req->keep_alive, req->expect_continue, show(req->upgrade));
    for (uint32_t i = 0; i < req->fields_count; i++)
        n += (size_t)snprintf(o->text + n, sizeof(o->text) - n, " %s=%s/%d", show(req->fields[i].name),
                              show(req->fields[i].value), req->fields[i].known);
}

static void read_once(const void *bytes, size_t len, size_t last_len, struct outcome *o)
{
    struct http_field fields[FIELDS];
    struct http_request req = {.fields = fields, .fields_max = FIELDS};
    *o = (struct outcome){0};
    o->used = http_request_read(guarded_copy(&memory, bytes, len), len, last_len, &limits, &req, &o->reject);
    if (o->used > 0)
        describe(&req, o);
}

static void assert_same(const struct outcome *a, const struct outcome *b)
{
    assert_int_equal(a->used, b->used);
    assert_int_equal(a->reject.reason, b->reject.reason);
    assert_int_equal(a->reject.status, b->reject.status);
    assert_string_equal(a->text, b->text);
}

/* A refusal may wait for more bytes (the end of the head, or a limit) when input comes in pieces; nothing
 * else differs. */
static void assert_same_or_waits(const struct outcome *pieces, const struct outcome *whole)
{
    if (whole->used != -EBADMSG || pieces->used != -EAGAIN)
        assert_same(pieces, whole);
}

/* Reads the input in every way and returns the outcome common to all of them. */
static inline void read_every_way(const void *bytes, size_t len, struct outcome *whole)
{
    struct outcome part, last = {.used = -EAGAIN};
    read_once(bytes, len, 0, whole);
    if (len > SPLIT_INPUT_MAX)
        return;
    for (size_t cut = 0; cut < len; cut++) {
        read_once(bytes, cut, 0, &part);
        if (part.used != -EAGAIN) {
            assert_same(&part, whole);
            continue;
        }
        read_once(bytes, len, cut, &part);
        assert_same_or_waits(&part, whole);
    }
    for (size_t n = 1; n <= len && last.used == -EAGAIN; n++)
        read_once(bytes, n, n - 1, &last);
    assert_same_or_waits(&last, whole);
}

#define HEAD    "GET / HTTP/1.1\r\nHost: a\r\n"
#define POST    "POST / HTTP/1.1\r\nHost: a\r\n"
#define LONG_16 "0123456789abcdef"
#define LONG_64 LONG_16 LONG_16 LONG_16 LONG_16

#endif
