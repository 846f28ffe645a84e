/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/fetch/serve.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>

#include "check.h"
#include "dataplane/ring.h"
#include "dataplane/http/range.h"
#include "dataplane/http/response_reader.h"

enum {
    TRIES_MAX = 32,
    AGAIN_MS = 200,         /* nobody could go on: asked again then, */
    AGAIN_WITHIN_MS = 5000, /* for as long */
    LOOK_MS = 500,          /* how often a source is looked at that */
    STALL_MS = 10000,       /* says nothing for so long, */
    QUIET_MS = 200,         /* or is down */
    AHEAD_BYTES = 4 << 20,  /* a part that begins so far behind what a fetch has is waited for */
};

static void go_alone(struct serve *sv);

/* ------------------------------------------------------------------ the end */

static void leave_served(struct serve *sv)
{
    if (sv->served)
        fetch_reader_leave(sv->served);
    sv->served = NULL;
}

static void release(struct serve *sv)
{
    if (sv->released)
        return;
    sv->released = true;
    if (sv->reader)
        fetch_reader_leave(sv->reader);
    sv->reader = NULL;
    leave_served(sv);
    timer_clear(&sv->timer);
    question_end(&sv->question, QUESTION_DROPPED, false);
    question_forgive(&sv->question);
    stream_release_hold(sv->s);
}

static void finish(struct serve *sv, bool good, enum close_reason why)
{
    stream_relayed(sv->s, pump_technique_name(&sv->pump), good, why);
    release(sv);
}

static void refuse(struct serve *sv, enum fetch_fault fault)
{
    if (!sv->answered) {
        sv->answered = true;
        sv->order.refuse(sv->s, fault);
        release(sv);
        return;
    }
    finish(sv, false, fault == FETCH_SPOILT ? CLOSE_DIGEST_MISMATCH : CLOSE_BACKEND_CUT);
}

void serve_abort(struct serve *sv)
{
    sv->aborted = true;
    if (sv->relaying) {
        pump_stop(&sv->pump);
        return;
    }
    if (!sv->answered) {
        sv->answered = true;
        (void)stream_response(sv->s, 499);
        stream_send(sv->s);
    }
    release(sv);
}

/* ------------------------------------------------------------------ bytes */

/* All but the last bytes: those that the client does not get from this source are not in it. */
static void hash_more(struct serve *sv, const uint8_t *bytes, size_t len)
{
    size_t all = sv->lag_len + len, direct = len > SERVE_LAG_BYTES ? len - SERVE_LAG_BYTES : 0;
    size_t lagging = all <= SERVE_LAG_BYTES ? 0 : all - SERVE_LAG_BYTES - direct;
    hash_add(&sv->hash, sv->lag, lagging);
    sv->lag_len = (uint8_t)(sv->lag_len - lagging);
    memmove(sv->lag, sv->lag + lagging, sv->lag_len);
    hash_add(&sv->hash, bytes, direct);
    memcpy(sv->lag + sv->lag_len, bytes + direct, len - direct);
    sv->lag_len = (uint8_t)(sv->lag_len + len - direct);
    sv->hashed += len;
}

/* Before another source: what the client did not get is forgotten. False: the hash has seen more. */
static bool hash_settle(struct serve *sv)
{
    uint64_t moved = sv->pump.moved;
    if (!sv->hashing) {
        hash_begin(&sv->hash, sv->order.digest.alg);
        sv->hashed = sv->lag_len = 0;
        sv->hashing = true;
    } else if (sv->hashed > moved) {
        if (sv->hashed - moved > sv->lag_len)
            return false;
        sv->lag_len = (uint8_t)(sv->lag_len - (sv->hashed - moved));
        sv->hashed = moved;
    }
    sv->known = sv->hashed;
    return true;
}

/* Whether the client got these bytes from the growing file. What has left memory is not waited for. */
static bool was_served(struct serve *sv, const uint8_t *bytes, size_t len)
{
    struct fetch_reader *r = sv->served;
    for (size_t at = 0; at < len && !sv->mismatch;) {
        size_t n = len - at < sizeof(r->cold) ? len - at : sizeof(r->cold);
        struct iovec iov = {r->cold, n};
        ssize_t got =
            r->read.inflight ? -1 : preadv2(r->entry->fd, &iov, 1, (off_t)(sv->hashed + at), RWF_NOWAIT);
        if (got <= 0) {
            sv->unsure = true;
            return false;
        }
        sv->mismatch = memcmp(r->cold, bytes + at, (size_t)got) != 0;
        at += (size_t)got;
    }
    return !sv->mismatch;
}

static int tap_content(struct serve *sv, const uint8_t *bytes, size_t len)
{
    size_t known = len < sv->known ? len : (size_t)sv->known;
    sv->known -= known;
    bytes += known;
    len -= known;
    while (len) {
        uint64_t left = sv->hashed < sv->unproven ? sv->unproven - sv->hashed : 0;
        size_t n = left && left < len ? (size_t)left : len;
        if (left && !was_served(sv, bytes, n))
            return -EBADMSG;
        hash_more(sv, bytes, n);
        bytes += n;
        len -= n;
    }
    if (sv->hashed >= sv->unproven)
        leave_served(sv);
    return 0;
}

static int tap(void *arg, const uint8_t *bytes, size_t len)
{
    struct serve *sv = arg;
    struct digest got;
    if (len) {
        int err = tap_content(sv, bytes, len);
        if (sv->mismatch)
            ring_count(sv->s->ring, CTR_FETCH_WRONG, 1);
        return err;
    }
    hash_add(&sv->hash, sv->lag, sv->lag_len);
    hash_end(&sv->hash, &got);
    sv->hashing = false;
    if (digest_equal(&got, &sv->order.digest)) {
        pump_release(&sv->pump, true);
        return 0;
    }
    sv->mismatch = true;
    ring_count(sv->s->ring, CTR_FETCH_WRONG, 1);
    return -EBADMSG;
}

/* What the fetch came to, for one who has read a part of it. */
static void reader_stopped(struct serve *sv)
{
    struct fetch_entry *e = sv->reader->entry;
    enum fetch_fault fault = atomic_load(&e->fault);
    bool alone = fault == FETCH_NOT_KEPT || fault == FETCH_GIVEN_UP ||
                 (fault == FETCH_SPOILT && !sv->pump.moved) ||
                 fault == FETCH_FINE; /* its file cannot be read */
    leave_served(sv);
    sv->served = sv->reader;
    sv->reader = NULL;
    sv->unproven = sv->pump.moved;
    if (sv->order.part || !sv->unproven)
        leave_served(sv);
    if (alone)
        go_alone(sv);
    else
        refuse(sv, fault);
}

static void pumped(struct pump *p, enum pump_end end, int err)
{
    struct serve *sv = container_of(p, struct serve, pump);
    (void)err;
    sv->relaying = false;
    timer_clear(&sv->timer);
    if (end == PUMP_DONE) {
        question_end(&sv->question, QUESTION_GOOD, sv->keep_alive && pump_rest(p).len == 0);
        finish(sv, true, CLOSE_NONE);
    } else if (end == PUMP_SINK_ERROR || end == PUMP_STOPPED || sv->aborted) {
        finish(sv, false, CLOSE_CLIENT_ABORT);
    } else if (sv->reader) {
        reader_stopped(sv);
    } else {
        question_end(&sv->question, QUESTION_BROKEN, false);
        sv->stopped_ms = ring_now_ms(sv->s->ring);
        if ((sv->mismatch || sv->unsure) && sv->pump.moved)
            refuse(sv, sv->mismatch ? FETCH_SPOILT : FETCH_CUT);
        else
            go_alone(sv);
    }
}

static uint64_t wanted(const struct serve *sv)
{
    return sv->order.end - sv->order.first;
}

static void start_reading(struct serve *sv)
{
    struct pump_config config = {.ring = sv->s->ring,
                                 .from = &sv->reader->wire,
                                 .to = stream_wire(sv->s),
                                 .in = PUMP_LENGTH,
                                 .out = PUMP_LENGTH,
                                 .length = wanted(sv),
                                 .total = wanted(sv),
                                 .done = pumped};
    sv->relaying = sv->started = true;
    pump_start(&sv->pump, &config);
}

/* ------------------------------------------------------------------ the answer's head */

/* The size is known. */
static void answer(struct serve *sv)
{
    struct stream *s = sv->s;
    struct stream_relay relay = {.body = RELAY_LENGTH,
                                 .length = wanted(sv),
                                 .pump = &sv->pump,
                                 .ready = sv->order.head_out,
                                 .head = sv->order.head(s, sv->order.size)};
    relay.status = sv->order.part ? 206 : 200;
    sv->answered = true;
    stream_note_upstream(s, sv->name, sv->question.latency_us, sv->question.attempts);
    stream_send_relay(s, &relay);
}

static void start_alone(struct serve *sv);

void serve_ready(struct serve *sv)
{
    if (sv->aborted)
        return;
    if (sv->reader)
        start_reading(sv);
    else
        start_alone(sv);
}

/* ------------------------------------------------------------------ alone */

/* How the answer gives what is wanted from byte `at` of the blob on: bytes of it to drop. */
static bool fits(struct serve *sv, const struct http_answer *a, uint64_t *skip)
{
    struct serve_order *o = &sv->order;
    uint64_t at = o->first + sv->pump.moved, first, last;
    if (view_present(a->known[HTTP_KNOWN_CONTENT_ENCODING]) || !a->length_told ||
        a->framing == HTTP_BODY_CHUNKED)
        return false;
    if (a->status == 206 && o->part) {
        *skip = 0;
        return http_content_range_read(a->known[HTTP_KNOWN_CONTENT_RANGE], &first, &last) == 0 &&
               first == at && last + 1 == o->end && a->content_length == o->end - at;
    }
    if (a->status != 200)
        return false;
    if (o->size == FETCH_SIZE_UNKNOWN)
        o->size = o->end = a->content_length;
    *skip = at;
    return a->content_length == o->size;
}

/* A source that stands still, or is down, is left for another one. */
static void look(struct timer *t, uint64_t now_ms)
{
    struct serve *sv = container_of(t, struct serve, timer);
    const struct pump *p = &sv->pump;
    uint64_t since = p->progress_ms > p->sink_progress_ms ? p->progress_ms : p->sink_progress_ms;
    if (pump_waits_for_source(p) &&
        (now_ms >= since + STALL_MS || (now_ms >= since + QUIET_MS && question_is_down(&sv->question))))
        pump_fail_source(&sv->pump);
    else
        timer_set(&sv->s->ring->wheel, t, now_ms + LOOK_MS);
}

static void start_alone(struct serve *sv)
{
    struct question *q = &sv->question;
    uint64_t skip = sv->skip;
    struct pump_config config = {.ring = sv->s->ring,
                                 .from = q->wire,
                                 .to = stream_wire(sv->s),
                                 .in = PUMP_LENGTH,
                                 .out = PUMP_LENGTH,
                                 .length = skip + wanted(sv) - sv->pump.moved,
                                 .total = wanted(sv),
                                 .early = q->early,
                                 .skip = skip,
                                 .done = pumped,
                                 .arg = sv};
    if (!sv->order.part && !hash_settle(sv)) {
        refuse(sv, FETCH_CUT);
        return;
    }
    if (!sv->order.part) {
        config.tap = tap;
        config.hold_back = SERVE_LAG_BYTES;
    }
    sv->timer.fire = look;
    timer_set(&sv->s->ring->wheel, &sv->timer, ring_now_ms(sv->s->ring) + LOOK_MS);
    sv->relaying = true;
    if (sv->started)
        pump_resume(&sv->pump, &config);
    else
        pump_start(&sv->pump, &config);
    sv->started = true;
}

static void again(struct timer *t, uint64_t now_ms)
{
    struct serve *sv = container_of(t, struct serve, timer);
    (void)now_ms;
    sv->source = 0;
    question_forgive(&sv->question);
    go_alone(sv);
}

/* This source cannot help. What has begun is worth some patience: backends are being started again. */
static void next_source(struct serve *sv, enum question_end end)
{
    struct ring *ring = sv->s->ring;
    enum fetch_fault fault = sv->mismatch ? FETCH_SPOILT : fetch_fault_of(&sv->question, end);
    question_end(&sv->question, QUESTION_DROPPED, false);
    if (sv->source + 1 < sv->order.sources.count) {
        sv->source++;
        question_forgive(&sv->question);
        go_alone(sv);
    } else if (sv->answered && !sv->mismatch && ring_now_ms(ring) < sv->stopped_ms + AGAIN_WITHIN_MS) {
        sv->timer.fire = again;
        timer_set(&ring->wheel, &sv->timer, ring_now_ms(ring) + AGAIN_MS);
    } else {
        refuse(sv, fault);
    }
}

static void answered(struct question *q, enum question_end end)
{
    struct serve *sv = container_of(q, struct serve, question);
    if (end != QUESTION_ANSWERED || !fits(sv, q->answer, &sv->skip)) {
        next_source(sv, end);
        return;
    }
    sv->keep_alive = q->answer->keep_alive && (q->answer->status == 206 || !sv->order.part);
    (void)snprintf(sv->name, sizeof(sv->name), "%s", q->name);
    if (sv->answered)
        start_alone(sv);
    else
        answer(sv);
}

static void go_alone(struct serve *sv)
{
    struct question *q = &sv->question;
    struct serve_order *o = &sv->order;
    uint64_t from = o->first + sv->pump.moved;
    if (sv->tries++ == 0)
        ring_count(sv->s->ring, CTR_FETCH_ALONE, 1);
    if (sv->tries > TRIES_MAX || !o->sources.count) {
        refuse(sv, sv->mismatch ? FETCH_SPOILT : sv->answered ? FETCH_CUT : FETCH_NO_SOURCE);
        return;
    }
    q->ring = sv->s->ring;
    q->method = HTTP_GET;
    q->service = o->sources.list[sv->source].service;
    q->source = o->sources.list[sv->source].pass;
    q->path_len = o->sources.list[sv->source].path_len;
    memcpy(q->path, o->sources.list[sv->source].path, q->path_len);
    q->not_found_passes = true;
    q->accept = o->sources.manifest ? fetch_manifest_types : NULL;
    q->done = answered;
    q->range_len = 0;
    if (o->part)
        q->range_len = (size_t)snprintf(q->range, sizeof(q->range), "bytes=%llu-%llu",
                                        (unsigned long long)from, (unsigned long long)o->end - 1);
    question_ask(q);
}

/* ------------------------------------------------------------------ along */

static void news(struct fetch_reader *r)
{
    struct serve *sv = r->arg;
    struct fetch_entry *e = r->entry;
    enum fetch_fault fault = atomic_load(&e->fault);
    if (atomic_load(&e->state) != FETCH_FAILED) {
        if (!sv->order.part && r->end != atomic_load(&e->size)) { /* its last bytes would not be held back */
            fetch_reader_leave(r);
            sv->reader = NULL;
            go_alone(sv);
            return;
        }
        if (!sv->order.part)
            sv->order.size = sv->order.end = r->end;
        answer(sv);
        return;
    }
    fetch_reader_leave(r);
    sv->reader = NULL;
    if (fault == FETCH_NOT_KEPT || fault == FETCH_GIVEN_UP)
        go_alone(sv);
    else
        refuse(sv, fault);
}

static bool comes_soon(const struct serve *sv)
{
    return sv->order.first <= atomic_load(&sv->reader->entry->written) + AHEAD_BYTES;
}

void serve_begin(struct serve *sv, struct stream *s)
{
    struct serve_order *o = &sv->order;
    struct fetch_wish wish = {.digest = &o->digest,
                              .size = o->size,
                              .repo = o->repo,
                              .link = o->link,
                              .sources = &o->sources,
                              .first = o->part ? o->first : 0,
                              .end = o->part ? o->end : o->size};
    sv->s = s;
    if (stream_gone(s)) { /* its abort may have been told: nobody would end this */
        sv->answered = sv->released = true;
        (void)stream_response(s, 499);
        stream_send(s);
        return;
    }
    if (!o->part) {
        o->first = 0;
        o->end = o->size;
    }
    stream_hold(s);
    if (!stream_has_body(s))
        stream_watch(s, true);
    sv->reader = fetch_read(s->ring->fetches, &wish, !o->part, news, sv);
    if (sv->reader && o->part && !comes_soon(sv)) {
        fetch_reader_leave(sv->reader);
        sv->reader = NULL;
    }
    if (!sv->reader)
        go_alone(sv);
}
