/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One line for each request into the log ring that control drains: a JSON object, made in place. A full ring
 * drops the line and counts it: a request never waits for a log.
 */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "dataplane/access.h"
#include "dataplane/stream_private.h"

enum { LINE_MAX = 4096, TEXT_SHOWN_MAX = 1200 }; /* two long texts fit beside everything else */

struct line {
    char text[LINE_MAX];
    size_t len;
};

static void put(struct line *l, const char *text, size_t len)
{
    if (len > sizeof(l->text) - l->len)
        len = sizeof(l->text) - l->len;
    memcpy(l->text + l->len, text, len);
    l->len += len;
}

static void put_u64(struct line *l, const char *name, uint64_t v)
{
    char text[64];
    int n = snprintf(text, sizeof(text), ",\"%s\":%llu", name, (unsigned long long)v);
    put(l, text, (size_t)n);
}

/* Request bytes are the client's: everything outside printable ASCII is escaped. */
static void put_text(struct line *l, const char *name, struct view v)
{
    static const char digits[] = "0123456789abcdef";
    put(l, ",\"", 2);
    put(l, name, strlen(name));
    put(l, "\":\"", 3);
    size_t most = l->len + TEXT_SHOWN_MAX;
    for (size_t i = 0; i < v.len && l->len < most; i++) {
        unsigned char c = (unsigned char)v.p[i];
        char escaped[6] = {'\\', 'u', '0', '0', digits[c >> 4], digits[c & 15]};
        if (c < 0x20 || c >= 0x7f || c == '"' || c == '\\')
            put(l, escaped, sizeof(escaped));
        else
            put(l, (const char *)&c, 1);
    }
    put(l, "\"", 1);
}

static void put_time(struct line *l)
{
    struct timespec ts;
    struct tm tm;
    char text[64];
    clock_gettime(CLOCK_REALTIME, &ts);
    gmtime_r(&ts.tv_sec, &tm);
    size_t n = strftime(text, sizeof(text), "{\"time\":\"%Y-%m-%dT%H:%M:%S", &tm);
    n += (size_t)snprintf(text + n, sizeof(text) - n, ".%03ldZ\"", ts.tv_nsec / 1000000);
    put(l, text, n);
}

static void ring_write(struct log_ring *r, uint64_t at, const void *data, size_t len)
{
    size_t pos = at % LOG_RING_BYTES, first = LOG_RING_BYTES - pos;
    if (first > len)
        first = len;
    memcpy(r->data + pos, data, first);
    memcpy(r->data, (const uint8_t *)data + first, len - first);
}

bool access_append(struct ring *ring, enum log_kind kind, const void *body, size_t len)
{
    struct log_ring *r = ring->log;
    uint64_t head = atomic_load_explicit(&r->head, memory_order_relaxed);
    uint64_t tail = atomic_load_explicit(&r->tail, memory_order_acquire);
    size_t padded = (8 + len + 7) & ~(size_t)7;
    if (head - tail > LOG_RING_BYTES || padded > LOG_RING_BYTES - (head - tail))
        return false;
    uint32_t length = (uint32_t)len;
    uint8_t record[8] = {0, 0, 0, 0, (uint8_t)kind};
    memcpy(record, &length, sizeof(length));
    ring_write(r, head, record, sizeof(record));
    ring_write(r, head + sizeof(record), body, len);
    /* Pairs with the consumer's acquire: the bytes are there before the position says so. */
    atomic_store_explicit(&r->head, head + padded, memory_order_release);
    return true;
}

static const char *reason_name(unsigned reason)
{
    static const char *const names[] = {
#define REASON(symbol, name, is_error, text) [CLOSE_##symbol] = name,
#include "reasons.def"
#undef REASON
    };
    return names[reason];
}

static const char *close_name(const struct stream_full *f)
{
    const struct conn *c = f->s.conn;
    return reason_name(c->reason ? c->reason : c->close_after ? c->end_reason : CLOSE_NONE);
}

static void make_line(struct line *l, struct stream_full *f)
{
    char id[STREAM_ID_TEXT];
    uint64_t now_us = loop_clock_us();
    put_time(l);
    stream_id_text(&f->s, id);
    put_text(l, "id", view_of(id, sizeof(id)));
    put_text(l, "client", view_of_str(stream_peer(&f->s)));
    if (view_present(f->s.req.method_name))
        put_text(l, "method", f->s.req.method_name);
    if (view_present(f->s.req.target))
        put_text(l, "target", f->s.req.target);
    put_u64(l, "status", (uint64_t)f->status);
    if (f->refusal.reason)
        put_text(l, "refusal", view_of_str(http_reject_slug(f->refusal.reason)));
    put_u64(l, "bytes_in", f->body.received);
    put_u64(l, "bytes_out", f->send.sent);
    put_u64(l, "first_byte_us", f->first_byte_us ? f->first_byte_us - f->start_us : 0);
    put_u64(l, "duration_us", now_us - f->start_us);
    put_text(l, "technique", view_of_str(f->technique));
    if (f->upstream) {
        put_text(l, "upstream", view_of_str(f->upstream));
        put_u64(l, "upstream_us", f->upstream_us);
        put_u64(l, "attempts", f->attempts);
    }
    put_text(l, "close", view_of_str(close_name(f)));
    if (f->cut)
        put(l, ",\"cut\":true", 11);
    if (view_present(f->s.req.known[HTTP_KNOWN_USER_AGENT]))
        put_text(l, "user_agent", f->s.req.known[HTTP_KNOWN_USER_AGENT]);
    put(l, "}", 1);
}

static bool access_wanted(const struct ring *ring)
{
    return ring_setting(ring, SET_LOG_ACCESS) &&
           atomic_load_explicit(&ring->log_page->access_on, memory_order_relaxed);
}

static bool trace_wanted(const struct ring *ring)
{
    return atomic_load_explicit(&ring->log_page->trace_on, memory_order_relaxed);
}

static void give_line(struct ring *ring, const struct line *l)
{
    if (access_wanted(ring) && !access_append(ring, LOG_ACCESS_LINE, l->text, l->len))
        ring_count(ring, CTR_LOG_DROPPED, 1);
    if (trace_wanted(ring) && !access_append(ring, LOG_TRACE_LINE, l->text, l->len))
        ring_count(ring, CTR_LOG_DROPPED, 1);
}

void access_log(struct stream_full *f)
{
    struct ring *ring = f->s.ring;
    struct line l;
    if (!access_wanted(ring) && !trace_wanted(ring))
        return;
    l.len = 0;
    make_line(&l, f);
    give_line(ring, &l);
}

void access_log_tunnel(struct ring *ring, const struct access_tunnel *t)
{
    struct stream s = {.id = t->id};
    struct line l;
    char id[STREAM_ID_TEXT];
    if (!access_wanted(ring) && !trace_wanted(ring))
        return;
    l.len = 0;
    put_time(&l);
    stream_id_text(&s, id);
    put_text(&l, "id", view_of(id, sizeof(id)));
    put_text(&l, "client", view_of_str(t->client));
    put_text(&l, "service", view_of_str(t->service));
    put_text(&l, "backend", view_of_str(t->backend));
    put_u64(&l, "attempts", t->attempts);
    put_u64(&l, "bytes_in", t->bytes_in);
    put_u64(&l, "bytes_out", t->bytes_out);
    put_u64(&l, "connect_us", t->connect_us);
    put_u64(&l, "duration_us", t->duration_us);
    put_text(&l, "technique", view_of_str(t->technique));
    put_text(&l, "close", view_of_str(reason_name(t->reason)));
    put(&l, "}", 1);
    give_line(ring, &l);
}
