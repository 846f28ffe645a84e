/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/fetch/question.h"

#include <errno.h>
#include <stdio.h>

#include "check.h"
#include "dataplane/ring.h"
#include "dataplane/proxy/ask.h"
#include "dataplane/proxy/exchange.h"
#include "dataplane/proxy/proxy.h"

enum {
    AGAIN_MS = 100,  /* all are at their limits: asked again then */
    HEAD_MS = 10000, /* for the head of an answer, where the service has no time for it */
    SERVER_ERROR = 500,
    CHALLENGES_MAX = 2, /* the second one is for a pass that is not taken any more */
    TURNS_MAX = 4,
};

static void ask_next(struct question *q);

static uint16_t place_of(const struct question *q)
{
    return q->detour ? detour_place(q->detour) : q->service;
}

static uint32_t incarnation_of(const struct question *q)
{
    return q->detour ? detour_incarnation(q->detour) : q->incarnation;
}

static const struct plan_service *service_of(const struct question *q)
{
    const struct plan_service *s = plan_service_of(q->ring->plan, place_of(q));
    return s && s->kind == SERVICE_PROXY && s->incarnation == incarnation_of(q) ? s : NULL;
}

/* Whether another server than the source's own is asked. */
static bool is_away(const struct question *q)
{
    return q->detour && view_present(detour_authority(q->detour));
}

static void arm(struct question *q, void (*fire)(struct timer *, uint64_t), uint64_t ms)
{
    q->timer.fire = fire;
    timer_set(&q->ring->wheel, &q->timer, ring_now_ms(q->ring) + ms);
}

/* ------------------------------------------------------------------ the end */

static void give_back(struct question *q, enum balance_outcome outcome, bool keep)
{
    struct balance *b = q->ring->proxy->balance;
    if (q->up)
        upstream_give(q->up, keep);
    if (q->up && q->target)
        balance_finish(b, q->target, outcome, q->latency_us, ring_now_ms(q->ring));
    q->up = NULL;
    q->target = NULL;
    if (q->ask)
        ask_drop(q->ask);
    q->ask = NULL;
    q->wire = NULL;
}

void question_forgive(struct question *q)
{
    while (q->tried_count)
        target_put(q->ring->proxy->balance, q->tried[--q->tried_count]);
}

void question_end(struct question *q, enum question_outcome outcome, bool keep)
{
    static const enum balance_outcome outcomes[] = {[QUESTION_GOOD] = BALANCE_GOOD,
                                                    [QUESTION_BROKEN] = BALANCE_FAILED,
                                                    [QUESTION_DROPPED] = BALANCE_CANCELLED};
    if (!q->ring)
        return;
    timer_clear(&q->timer);
    pass_leave(&q->pass);
    detour_drop(q->detour);
    q->detour = NULL;
    give_back(q, outcomes[outcome], keep);
}

bool question_is_down(const struct question *q)
{
    return q->target && balance_is_down(q->ring->proxy->balance, q->target);
}

/* Nobody is left to be asked. */
static void tell_last(struct timer *t, uint64_t now_ms)
{
    struct question *q = container_of(t, struct question, timer);
    (void)now_ms;
    q->done(q, q->last);
}

/* ------------------------------------------------------------------ asking */

static size_t put(char *out, size_t at, size_t cap, const char *name, struct view value)
{
    if (!value.len || at >= cap)
        return at;
    int n = snprintf(out + at, cap - at, "%s%.*s\r\n", name, (int)value.len, value.p);
    return n < 0 ? cap : at + (size_t)n;
}

/* The path is /v2/<repository there>/<blobs or manifests>/<which>. */
static struct pass_key key_of(const struct question *q)
{
    static const char root[] = "/v2/";
    size_t from = sizeof(root) - 1, end = q->path_len;
    for (int slashes = 0; end > from && slashes < 2;)
        slashes += q->path[--end] == '/';
    return (struct pass_key){q->source, view_of(q->path + from, end > from ? end - from : 0)};
}

static struct view pass_of(struct question *q)
{
    struct pass_key key = key_of(q);
    q->shown = 0;
    return q->source && !is_away(q) ? pass_find(q->ring->passes, &key, &q->shown) : (struct view){0};
}

static struct view host_of(const struct question *q, const struct plan_service *service,
                           const struct target *t, char authority[AUTHORITY_MAX])
{
    if (is_away(q))
        return detour_authority(q->detour);
    target_authority(t, authority);
    return view_of_str(service->proxy.backend_name[0] ? service->proxy.backend_name : authority);
}

/* Its length, or 0: too long. */
static size_t write_request(struct question *q, const struct plan_service *service, const struct target *t,
                            char *out, size_t cap)
{
    char authority[AUTHORITY_MAX];
    struct view path = q->detour ? detour_target(q->detour) : view_of(q->path, q->path_len);
    int n = snprintf(out, cap, "%s %.*s HTTP/1.1\r\n", http_method_name(q->method), (int)path.len, path.p);
    size_t at = n < 0 ? cap : (size_t)n;
    at = put(out, at, cap, "Host: ", host_of(q, service, t, authority));
    at = put(out, at, cap, "User-Agent: ", VIEW_LIT("fairlead"));
    at = put(out, at, cap, "Authorization: ", pass_of(q));
    at = put(out, at, cap, "Accept: ", q->accept ? view_of_str(q->accept) : (struct view){0});
    at = put(out, at, cap, "Range: ", view_of(q->range, q->range_len));
    at = put(out, at, cap, "If-None-Match: ", view_of(q->etag, q->etag_len));
    at = put(out, at, cap, "", VIEW_LIT("Accept-Encoding: identity"));
    if (view_present(q->body) || q->method == HTTP_POST) {
        n = at < cap ? snprintf(out + at, cap - at, "Content-Length: %zu\r\n", q->body.len) : 0;
        at = n < 0 ? cap : at + (size_t)n;
    }
    if (at + 2 + q->body.len >= cap)
        return 0;
    memcpy(out + at, "\r\n", 2);
    if (q->body.len)
        memcpy(out + at + 2, q->body.p, q->body.len);
    return at + 2 + q->body.len;
}

static bool was_tried(const struct question *q, const struct target *t)
{
    for (unsigned i = 0; i < q->tried_count; i++)
        if (q->tried[i] == t)
            return true;
    return false;
}

/* The next one of those that are to be asked first, as balance_ask has it; 0: there is none. */
static uint32_t next_preferred(const struct question *q)
{
    if (q->only)
        return q->only;
    for (unsigned i = 0; i < QUESTION_PREFER_MAX && q->prefer[i]; i++) {
        bool was_asked = false;
        for (unsigned k = 0; k < q->tried_count; k++)
            was_asked |= q->tried[k]->id + 1 == q->prefer[i];
        if (!was_asked)
            return q->prefer[i];
    }
    return 0;
}

/* One that was not asked yet; NULL: there is none, *busy: just now. */
static struct target *choose(struct question *q, const struct plan_service *service, bool *busy)
{
    enum balance_why why;
    struct balance *b = q->ring->proxy->balance;
    const struct target *tried[QUESTION_TRIED_MAX];
    for (unsigned i = 0; i < q->tried_count; i++)
        tried[i] = q->tried[i];
    struct balance_ask ask = {.service = service,
                              .service_index = place_of(q),
                              .random = proxy_random(q->ring->proxy),
                              .now_ms = ring_now_ms(q->ring),
                              .tried = tried,
                              .tried_count = q->tried_count,
                              .prefer = next_preferred(q),
                              .ahead = true};
    *busy = false;
    if (q->tried_count == QUESTION_TRIED_MAX)
        return NULL;
    struct target *t = balance_choose(b, &ask, &why);
    *busy = !t && why == BALANCE_BUSY;
    if (!t || (!was_tried(q, t) && (!q->only || t->id + 1 == q->only)))
        return t;
    balance_finish(b, t, BALANCE_CANCELLED, 0, ask.now_ms);
    return NULL;
}

/* Whether this answer is one that the next backend might give better. */
static bool passes(const struct question *q, int status)
{
    return status >= SERVER_ERROR || status == 429 || (status == 404 && q->not_found_passes);
}

/* Nobody comes in without a pass. */
static void no_pass(struct question *q, enum pass_status status)
{
    q->last = QUESTION_REFUSED;
    q->status = status == PASS_REFUSED ? 401 : 503;
    arm(q, tell_last, 0);
}

static void got_pass(struct pass_wait *w, enum pass_status status)
{
    struct question *q = container_of(w, struct question, pass);
    if (status == PASS_OK)
        ask_next(q);
    else
        no_pass(q, status);
}

/* What the registry wants, of all its lines. */
static struct view challenge_of(const struct http_answer *a, char out[PASS_CHALLENGE_MAX])
{
    size_t len = 0;
    for (uint32_t i = 0; i < a->fields_count; i++) {
        struct view v = a->fields[i].value;
        if (a->fields[i].known != HTTP_KNOWN_WWW_AUTHENTICATE || v.len + 2 > PASS_CHALLENGE_MAX - len)
            continue;
        if (len) {
            memcpy(out + len, ", ", 2);
            len += 2;
        }
        memcpy(out + len, v.p, v.len);
        len += v.len;
    }
    return view_of(out, len);
}

/* The same backend is asked again, with a pass. */
static void challenged(struct question *q, struct ask *a)
{
    char bytes[PASS_CHALLENGE_MAX];
    struct pass_key key = key_of(q);
    struct view challenge = challenge_of(&a->answer, bytes);
    uint64_t shown = q->shown, known;
    q->challenges++;
    ask_refuse(a, BALANCE_CANCELLED);
    ask_drop(a);
    q->ask = NULL;
    target_put(q->ring->proxy->balance, q->tried[--q->tried_count]);
    (void)pass_find(q->ring->passes, &key, &known);
    if (known && known != shown) { /* another question has got it meanwhile */
        ask_next(q);
        return;
    }
    q->pass.done = got_pass;
    if (pass_ask(q->ring->passes, &key, shown, challenge, &q->pass))
        no_pass(q, PASS_UNAVAILABLE);
}

static void at_detour(struct detour *d, enum way_status status, void *arg)
{
    struct question *q = arg;
    (void)d;
    if (status == WAY_OK) {
        question_forgive(q);
        ask_next(q);
        return;
    }
    if (status == WAY_UNAVAILABLE)
        q->status = 503;
    q->last = QUESTION_REFUSED;
    arm(q, tell_last, 0);
}

/* Each answer is followed anew: a signed URL is good for a moment. False: it leads nowhere. */
static bool turn(struct question *q, struct ask *a)
{
    char authority[AUTHORITY_MAX];
    const struct plan_service *service = service_of(q);
    if (!service || q->turns == TURNS_MAX)
        return false;
    const struct detour_from from = {.source = q->source,
                                     .place = place_of(q),
                                     .incarnation = incarnation_of(q),
                                     .tls = service->proxy.backend_tls,
                                     .host = host_of(q, service, a->target, authority),
                                     .authority = is_away(q) ? detour_authority(q->detour) : (struct view){0},
                                     .location = a->answer.known[HTTP_KNOWN_LOCATION]};
    struct detour *next = NULL;
    int err = detour_find(q->ring->detours, &from, at_detour, q, &next);
    if (err == -EINVAL)
        return false;
    ring_count(q->ring, CTR_SOURCE_DETOURS, 1);
    q->turns++;
    ask_refuse(a, BALANCE_GOOD);
    ask_drop(a);
    q->ask = NULL;
    detour_drop(q->detour);
    q->detour = next;
    if (err)
        at_detour(NULL, WAY_UNAVAILABLE, q);
    return true;
}

static bool is_redirect(int status)
{
    return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

static void asked(struct ask *a, int err)
{
    struct question *q = a->arg;
    q->status = err ? 0 : a->answer.status;
    q->away = is_away(q);
    if (q->status == 401 && q->source && !is_away(q) && q->challenges < CHALLENGES_MAX) {
        challenged(q, a);
        return;
    }
    if (is_redirect(q->status) && q->source && q->method != HTTP_POST && turn(q, a))
        return;
    if (!err && !passes(q, q->status)) {
        q->up = a->upstream;
        q->target = a->target;
        q->latency_us = a->latency_us;
        q->answer = &a->answer;
        q->early = a->early;
        q->wire = &a->upstream->wire;
        q->name = a->target->where.name;
        ask_release(a);
        detour_drop(q->detour);
        q->detour = NULL;
        q->done(q, QUESTION_ANSWERED);
        return;
    }
    if (!err)
        ask_refuse(a, q->status >= SERVER_ERROR ? BALANCE_SERVER_ERROR : BALANCE_CANCELLED);
    q->last = !err ? QUESTION_REFUSED : err == -ETIMEDOUT ? QUESTION_TIMEOUT : QUESTION_FAILED;
    ask_drop(a);
    q->ask = NULL;
    ask_next(q);
}

static void again(struct timer *t, uint64_t now_ms)
{
    (void)now_ms;
    ask_next(container_of(t, struct question, timer));
}

static void ask_target(struct question *q, const struct plan_service *service, struct target *t)
{
    struct proxy *p = q->ring->proxy;
    struct ask *a = ask_take(p->asks);
    size_t bytes = a ? write_request(q, service, t, (char *)a->buffer, ASK_BYTES) : 0;
    q->tried[q->tried_count++] = target_get(t);
    if (!bytes) { /* no memory for it now */
        balance_finish(p->balance, t, BALANCE_CANCELLED, 0, ring_now_ms(q->ring));
        if (a)
            ask_drop(a);
        arm(q, tell_last, 0);
        return;
    }
    q->ask = a;
    q->attempts++;
    ask_start(a, &(struct ask_config){.target = t,
                                      .service = service,
                                      .service_index = place_of(q),
                                      .method = q->method,
                                      .request_bytes = bytes,
                                      .timeout_ms = q->timeout_ms ? q->timeout_ms
                                                    : service->proxy.response_timeout_ms
                                                        ? service->proxy.response_timeout_ms
                                                        : HEAD_MS,
                                      .done = asked,
                                      .arg = q});
}

static void ask_next(struct question *q)
{
    bool busy = false;
    const struct plan_service *service = service_of(q);
    struct target *t = service ? choose(q, service, &busy) : NULL;
    if (t)
        ask_target(q, service, t);
    else if (busy && ring_now_ms(q->ring) < q->since_ms + service->proxy.queue_timeout_ms)
        arm(q, again, AGAIN_MS);
    else
        arm(q, tell_last, 0);
}

void question_ask(struct question *q)
{
    const struct plan_service *s = plan_service_of(q->ring->plan, q->service);
    CHECK(!q->ask && !q->up && !q->detour);
    q->incarnation = s ? s->incarnation : 0;
    q->since_ms = ring_now_ms(q->ring);
    q->last = QUESTION_NOBODY;
    q->status = 0;
    q->challenges = q->turns = 0;
    ask_next(q);
}
