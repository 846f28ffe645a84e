/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/proxy/resume.h"

#include <errno.h>
#include <string.h>

#include "check.h"
#include "dataplane/ring.h"
#include "dataplane/proxy/coalesce.h"

enum {
    WATCH_MS = 100,       /* how often a body is looked at */
    QUIET_MS = 200,       /* a backend that is down and from which nothing has come for so long is given up */
    AGAIN_MS = 100,       /* when no backend was there: asked again then */
    HEAD_MS = 10000,      /* for an answer's head, at most, */
    HEAD_LEAST_MS = 1000, /* and at least: twice the time in which a body stalls */
    SERVER_ERROR = 500,   /* statuses from here on speak against a backend */
};

enum state {
    RESUME_NOT,     /* no body, or one that ends where it stops */
    RESUME_FLOWING, /* the pump moves it */
    RESUME_ASKING,  /* another backend has been asked */
    RESUME_WAITING, /* nobody could be asked: soon again */
};

static void ask_next(struct resume *r);

static const struct plan_proxy *proxy_of(const struct resume *r, const struct plan_service **service)
{
    const struct plan *plan = r->ring->plan;
    if (r->service_index >= plan->service_count)
        return NULL;
    *service = plan_service(plan, r->service_index);
    return (*service)->kind == SERVICE_PROXY && (*service)->incarnation == r->incarnation ? &(*service)->proxy
                                                                                          : NULL;
}

static void arm(struct resume *r, void (*fire)(struct timer *, uint64_t), uint64_t ms)
{
    r->timer.fire = fire;
    timer_set(&r->ring->wheel, &r->timer, ring_now_ms(r->ring) + ms);
}

/* ------------------------------------------------------------------ the digest */

static void hash_from_here(struct resume *r)
{
    hash_begin(&r->hash, r->body.digest.alg);
    r->hash_at = r->hash_skip = 0;
    r->lag_len = 0;
    r->hashing = true;
}

/* The last bytes stay outside: those that were held back are taken back if the source stops there. */
static void hash_more(struct resume *r, const uint8_t *bytes, size_t len)
{
    size_t all = r->lag_len + len, in = all > RESUME_HOLD_BACK ? all - RESUME_HOLD_BACK : 0;
    size_t lagging = in < r->lag_len ? in : r->lag_len, direct = in - lagging;
    hash_add(&r->hash, r->lag, lagging);
    memmove(r->lag, r->lag + lagging, r->lag_len - lagging);
    r->lag_len = (uint8_t)(r->lag_len - lagging);
    hash_add(&r->hash, bytes, direct);
    memcpy(r->lag + r->lag_len, bytes + direct, len - direct);
    r->lag_len = (uint8_t)(r->lag_len + len - direct);
    r->hash_at += len;
}

/* Whether the hash is one of exactly the bytes that the client has. */
static bool hash_settle(struct resume *r, uint64_t moved)
{
    if (!r->hashing || r->hash_at < moved || r->hash_at - moved > r->lag_len)
        return false;
    r->lag_len = (uint8_t)(r->lag_len - (r->hash_at - moved));
    r->hash_at = moved;
    return true;
}

static int check_digest(struct resume *r)
{
    struct digest got;
    hash_add(&r->hash, r->lag, r->lag_len);
    hash_end(&r->hash, &got);
    if (digest_equal(&got, &r->body.digest)) {
        pump_release(r->pump, true);
        return 0;
    }
    r->mismatch = true;
    ring_count(r->ring, CTR_PROXY_DIGEST_MISMATCHES, 1);
    return -EBADMSG;
}

static int tap_end(struct resume *r)
{
    int err = r->hashing ? check_digest(r) : 0;
    if (r->flight)
        flight_end(r->flight, err ? FLIGHT_SPOILT : FLIGHT_COMPLETE);
    r->flight = NULL;
    return err;
}

/* The pump's: all content of this source as it comes; nothing: that was all of it. */
static int tap(void *arg, const uint8_t *bytes, size_t len)
{
    struct resume *r = arg;
    if (!len)
        return tap_end(r);
    size_t known = len < r->hash_skip ? len : (size_t)r->hash_skip;
    r->hash_skip -= known;
    if (r->hashing)
        hash_more(r, bytes + known, len - known);
    if (r->flight)
        flight_add(r->flight, r->tap_from + r->tapped, bytes, len);
    r->tapped += len;
    return 0;
}

/* What looks at a source that begins at byte `from` of the body. */
static void look_at(struct resume *r, struct pump_config *config, uint64_t from)
{
    r->tapped = 0;
    r->tap_from = from;
    config->tap = r->hashing || r->flight ? tap : NULL;
    config->hold_back = r->hashing ? RESUME_HOLD_BACK : 0;
}

/* ------------------------------------------------------------------ watching a body */

static void untry(struct resume *r)
{
    while (r->tried_count)
        target_put(r->balance, r->tried[--r->tried_count]);
}

static bool was_tried(const struct resume *r, const struct target *t)
{
    for (unsigned i = 0; i < r->tried_count; i++)
        if (r->tried[i] == t)
            return true;
    return false;
}

static void try(struct resume *r, struct target *t)
{
    if (!t || was_tried(r, t))
        return;
    if (r->tried_count == RESUME_TRIED_MAX) { /* the oldest one may be asked again */
        target_put(r->balance, r->tried[0]);
        memmove(&r->tried[0], &r->tried[1], (RESUME_TRIED_MAX - 1) * sizeof(r->tried[0]));
        r->tried_count--;
    }
    r->tried[r->tried_count++] = target_get(t);
}

static void set_target(struct resume *r, struct target *t)
{
    struct target *before = r->held;
    r->target = t;
    r->held = t ? target_get(t) : NULL;
    if (before)
        target_put(r->balance, before);
}

/* One that was not tried yet, counted as at work; NULL: there is none. */
static struct target *choose(struct resume *r, const struct plan_service *service)
{
    enum balance_why why;
    const struct target *tried[RESUME_TRIED_MAX];
    for (unsigned i = 0; i < r->tried_count; i++)
        tried[i] = r->tried[i];
    struct balance_ask ask = {.service = service,
                              .service_index = r->service_index,
                              .key = r->key,
                              .random = loop_clock_us() ^ (uintptr_t)r,
                              .now_ms = ring_now_ms(r->ring),
                              .tried = tried,
                              .tried_count = r->tried_count,
                              .ahead = true};
    struct target *t = balance_choose(r->balance, &ask, &why);
    if (!t || !was_tried(r, t))
        return t;
    balance_finish(r->balance, t, BALANCE_CANCELLED, 0, ask.now_ms);
    return NULL;
}

static bool another_is_there(struct resume *r, const struct plan_service *service)
{
    try(r, r->target);
    struct target *t = choose(r, service);
    untry(r);
    if (t)
        balance_finish(r->balance, t, BALANCE_CANCELLED, 0, ring_now_ms(r->ring));
    return t != NULL;
}

static uint64_t bytes_so_far(const struct resume *r)
{
    return r->pump->c.tap ? r->tapped : r->pump->received;
}

static void begin_window(struct resume *r, uint64_t now_ms)
{
    r->window_ms = now_ms;
    r->window_bytes = bytes_so_far(r);
}

/* Of a whole window in which only the source was waited for. */
enum pace { PACE_UNKNOWN, PACE_GOOD, PACE_SLOW, PACE_SILENT };

static enum pace pace(struct resume *r, const struct plan_proxy *p, uint64_t now_ms)
{
    if (p->stall_rate == 0 || p->stall_ms == 0 || pump_waits_for_sink(r->pump)) {
        begin_window(r, now_ms);
        return PACE_GOOD;
    }
    uint64_t passed_ms = now_ms - r->window_ms, bytes = bytes_so_far(r) - r->window_bytes;
    if (passed_ms < p->stall_ms)
        return PACE_UNKNOWN;
    begin_window(r, now_ms);
    if (now_ms - r->pump->progress_ms >= p->stall_ms)
        return PACE_SILENT;
    if (r->pump->skip_left && !r->pump->c.tap) /* the prefix of a 200, which is not counted */
        return PACE_GOOD;
    return bytes * 1000 < (uint64_t)p->stall_rate * passed_ms ? PACE_SLOW : PACE_GOOD;
}

static bool is_dead(const struct resume *r, uint64_t now_ms)
{
    return r->target && balance_is_down(r->balance, r->target) && !pump_waits_for_sink(r->pump) &&
           now_ms - r->pump->progress_ms >= QUIET_MS;
}

/* A slow backend is left for another one. It is better than none, and worth some patience where it is the
 * last one that may be tried; one that says nothing is no better than none after a while. */
static bool is_left(struct resume *r, const struct plan_service *service, const struct plan_proxy *p,
                    uint64_t now_ms)
{
    enum pace found = pace(r, p, now_ms);
    bool last = r->times >= p->resumes_max;
    if (found == PACE_GOOD)
        r->slow_since_ms = 0;
    if (found == PACE_GOOD || found == PACE_UNKNOWN)
        return is_dead(r, now_ms) && !last && another_is_there(r, service);
    if (!last && another_is_there(r, service))
        return true;
    if (!r->slow_since_ms)
        r->slow_since_ms = now_ms;
    return (last || found == PACE_SILENT) && now_ms - r->slow_since_ms >= p->queue_timeout_ms;
}

static void watch(struct timer *t, uint64_t now_ms)
{
    struct resume *r = container_of(t, struct resume, timer);
    const struct plan_service *service;
    const struct plan_proxy *p = proxy_of(r, &service);
    arm(r, watch, WATCH_MS);
    if (p && pump_active(r->pump) && is_left(r, service, p, now_ms))
        pump_fail_source(r->pump);
}

void resume_begin(struct resume *r, const struct http_request *req, const struct http_answer *answer)
{
    const struct plan_service *service;
    const struct plan_proxy *p = proxy_of(r, &service);
    r->state = RESUME_NOT;
    r->possible = r->verified = r->hashing = r->strict = r->mismatch = r->joined = false;
    r->times = 0;
    if (!p || !continuation_learn(&r->body, p->kind, req, answer))
        return;
    bool checkable = r->body.digest.alg != DIGEST_NONE && r->body.whole;
    r->possible = p->resumes_max > 0;
    r->verified = checkable && p->verify != PROXY_VERIFY_NEVER;
    r->strict = checkable && p->verify == PROXY_VERIFY_ALWAYS;
    if (r->strict)
        hash_from_here(r);
}

bool resume_checks(const struct resume *r)
{
    return r->hashing || r->flight;
}

void resume_pump(struct resume *r, struct pump_config *config)
{
    config->arg = r;
    if (!r->possible && !r->hashing && !r->flight)
        return;
    look_at(r, config, 0);
    set_target(r, r->target);
    r->state = RESUME_FLOWING;
    r->window_ms = ring_now_ms(r->ring);
    r->window_bytes = r->slow_since_ms = 0;
    if (r->possible)
        arm(r, watch, WATCH_MS);
}

/* ------------------------------------------------------------------ going on */

static void lose(struct resume *r)
{
    r->state = RESUME_NOT;
    timer_clear(&r->timer);
    untry(r);
    set_target(r, NULL);
    r->owner->lost(r, CLOSE_BACKEND_CUT);
}

static void again(struct timer *t, uint64_t now_ms)
{
    struct resume *r = container_of(t, struct resume, timer);
    (void)now_ms;
    untry(r); /* what failed may be back */
    ask_next(r);
}

static void give_up(struct timer *t, uint64_t now_ms)
{
    struct resume *r = container_of(t, struct resume, timer);
    (void)now_ms;
    ring_count(r->ring, CTR_PROXY_RESUMES_FAILED, 1);
    lose(r);
}

/* Nobody wants it any more. */
static void let_go(struct timer *t, uint64_t now_ms)
{
    (void)now_ms;
    lose(container_of(t, struct resume, timer));
}

/* Nobody is there. Backends that are being started again are waited for, as requests wait in the queue. */
static void wait(struct resume *r, const struct plan_proxy *p)
{
    bool over = ring_now_ms(r->ring) >= r->since_ms + p->queue_timeout_ms;
    r->state = RESUME_WAITING;
    arm(r, over ? give_up : again, over ? 0 : AGAIN_MS);
}

static void drop_ask(struct resume *r)
{
    if (r->ask)
        ask_drop(r->ask);
    r->ask = NULL;
}

/* Whether all of the body is asked for, to be looked at from its beginning. */
static bool is_again(const struct resume *r)
{
    return r->verified && !r->hashing;
}

static void join(struct resume *r, enum continuation_join how, uint64_t skip, uint64_t left)
{
    struct ask *a = r->ask;
    struct pump_config config = r->pump->c;
    bool chunked = a->answer.framing == HTTP_BODY_CHUNKED && how != CONTINUATION_END;
    uint64_t length = skip + left;
    bool all = chunked || how == CONTINUATION_END ? chunked : length == a->answer.content_length;
    bool keep = a->answer.keep_alive && all;
    config.from = &a->upstream->wire;
    config.in = chunked ? PUMP_CHUNKED : PUMP_LENGTH;
    config.length = chunked ? 0 : length;
    config.skip = skip;
    config.early = how == CONTINUATION_END ? (struct view){NULL, 0} : a->early;
    bool again = is_again(r), rest = how == CONTINUATION_PART && !again;
    if (again)
        hash_from_here(r);
    else if (r->hashing)
        r->hash_skip = skip;
    look_at(r, &config, rest ? r->before + r->pump->moved : 0);
    set_target(r, a->target);
    r->joined = true;
    r->joined_at = r->pump->moved;
    r->times++;
    ring_count(r->ring, CTR_PROXY_RESUMES, 1);
    target_count(a->target, TARGET_RESUMES, 1);
    untry(r);
    r->owner->joined(r, a->target, a->upstream, keep);
    ask_release(a);
    r->state = RESUME_FLOWING;
    r->slow_since_ms = 0;
    begin_window(r, ring_now_ms(r->ring));
    arm(r, watch, WATCH_MS);
    pump_resume(r->pump, &config);
}

static void asked(struct ask *a, int err)
{
    struct resume *r = a->arg;
    uint64_t skip = 0, left = 0;
    enum continuation_join how = CONTINUATION_NO;
    if (!err)
        how =
            continuation_accept(&r->body, &a->answer, r->before + r->pump->moved, is_again(r), &skip, &left);
    if (is_again(r) && how == CONTINUATION_END)
        how = CONTINUATION_NO;
    if (how != CONTINUATION_NO) {
        join(r, how, skip, left);
        return;
    }
    if (!err)
        ask_refuse(a, a->answer.status >= SERVER_ERROR ? BALANCE_SERVER_ERROR : BALANCE_CANCELLED);
    drop_ask(r);
    ask_next(r);
}

static uint64_t head_ms(const struct plan_proxy *p)
{
    uint64_t ms = 2ull * p->stall_ms, most = p->response_timeout_ms ? p->response_timeout_ms : HEAD_MS;
    ms = ms < HEAD_LEAST_MS ? HEAD_LEAST_MS : ms;
    return ms < most ? ms : most;
}

/* Writes the question: for the rest, with verification for all of it. */
static ssize_t write_request(struct resume *r, struct ask *a, const struct target *t)
{
    char range[CONTINUATION_RANGE_MAX];
    size_t len = continuation_range(&r->body, r->before + r->pump->moved, is_again(r), range);
    struct view etag = {r->body.etag_len ? r->body.etag : NULL, r->body.etag_len};
    return r->owner->request(r, t, view_of(range, len), etag, (char *)a->buffer, ASK_BYTES);
}

static void ask_next(struct resume *r)
{
    const struct plan_service *service;
    const struct plan_proxy *p = proxy_of(r, &service);
    if (!p) {
        r->state = RESUME_WAITING;
        arm(r, give_up, 0);
        return;
    }
    struct proxy_header client;
    struct target *t = choose(r, service);
    struct ask *a = t ? ask_take(r->asks) : NULL;
    ssize_t bytes = a ? write_request(r, a, t) : -ENOMEM;
    if (bytes < 0) {
        if (t)
            balance_finish(r->balance, t, BALANCE_CANCELLED, 0, ring_now_ms(r->ring));
        if (a)
            ask_drop(a);
        wait(r, p);
        return;
    }
    try(r, t);
    r->state = RESUME_ASKING;
    r->ask = a;
    ask_start(a, &(struct ask_config){.target = t,
                                      .service = service,
                                      .service_index = r->service_index,
                                      .client = r->owner->client(r, &client) ? &client : NULL,
                                      .method = HTTP_GET,
                                      .request_bytes = (size_t)bytes,
                                      .timeout_ms = head_ms(p),
                                      .done = asked,
                                      .arg = r});
}

static void count_joined(struct resume *r)
{
    if (r->joined)
        ring_count(r->ring, CTR_PROXY_RESUMED_BYTES, r->pump->moved - r->joined_at);
    r->joined = false;
}

bool resume_stopped(struct resume *r, enum pump_end end, int err, enum close_reason *why)
{
    const struct plan_service *service;
    const struct plan_proxy *p = proxy_of(r, &service);
    (void)end;
    (void)err;
    *why = r->mismatch ? CLOSE_DIGEST_MISMATCH : CLOSE_BACKEND_CUT;
    timer_clear(&r->timer);
    if (r->state != RESUME_FLOWING)
        return false;
    count_joined(r);
    drop_ask(r);
    r->state = RESUME_NOT;
    r->hashing = hash_settle(r, r->before + r->pump->moved);
    if (r->flight)
        flight_rewind(r->flight, r->before + r->pump->moved);
    if (!p || !r->possible || r->mismatch || (r->strict && !r->hashing) || r->times >= p->resumes_max) {
        set_target(r, NULL);
        return false;
    }
    r->since_ms = ring_now_ms(r->ring);
    try(r, r->target);
    ask_next(r);
    return true;
}

void resume_abandon(struct resume *r)
{
    drop_ask(r);
    r->state = RESUME_WAITING;
    arm(r, let_go, 0);
}

void resume_end(struct resume *r)
{
    if (r->state == RESUME_NOT)
        return;
    if (r->state == RESUME_FLOWING)
        count_joined(r);
    r->state = RESUME_NOT;
    timer_clear(&r->timer);
    drop_ask(r);
    untry(r);
    set_target(r, NULL);
}
