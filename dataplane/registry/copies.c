/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/registry/copies.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "check.h"
#include "dataplane/holders.h"
#include "dataplane/pool.h"
#include "dataplane/ring.h"
#include "dataplane/fetch/fetch.h"
#include "dataplane/http/response_reader.h"
#include "dataplane/registry/forget.h"
#include "dataplane/registry/keep.h"
#include "dataplane/registry/others.h"

enum {
    COPIES_MAX = 1024, /* requests of a ring that make copies at a time */
    OTHERS_MAX = BLOB_HOLDERS_MAX - 1,
    TRIED_MAX = 16,
    LOOK_MS = 40,         /* how often an upload is looked at */
    STEP_BYTES = 1 << 20, /* what has come since is asked for when it is so much, */
    STEP_MOST = 64 << 20, /* but not more at a time */
    STEP_TIMEOUT_MS = 120000,
    REST_MS = 2000, /* a request that ends waits so long for the step under way */
    AGAIN_MS = 200, /* who is busy is asked again then */
};

enum copy_state {
    COPY_REST,   /* nothing is under way */
    COPY_LATER,  /* it is asked again in a moment */
    COPY_ASKED,  /* for a part */
    COPY_LAST,   /* for all of it */
    COPY_DONE,   /* durable there */
    COPY_FAILED, /* and nobody is left in its place */
};

struct copy {
    struct copies *copies;
    uint64_t node;
    uint8_t state; /* enum copy_state */
    bool has_session;
    bool whole, late;   /* whole: the bytes went with the question; late: that has to wait for the blob */
    bool ordered;       /* others_order counts it */
    uint64_t at, asked; /* bytes that are there; that are being asked for */
    uint64_t done_ms;
    char session[UPLOAD_ID_LEN];
    struct timer again;
    struct question question;
};

struct copies {
    struct copying *all;
    struct api *a;
    struct upload *upload;   /* whose bytes come; NULL: none do now */
    bool finishing, durable; /* durable: here */
    struct view bytes;
    char of[UPLOAD_NAME_LEN + 1];
    unsigned count, tried_count;
    uint64_t tried[TRIED_MAX];
    uint64_t holder[OTHERS_MAX]; /* of to[], as a holder of blobs; 0: it has failed */
    struct timer look, limit;
    api_step *next; /* of copies_rest, copies_wait */
    struct copy to[OTHERS_MAX];
};

struct copying {
    struct ring *ring;
    struct pool pool;
    struct forgets *forgets;
    struct others others;
};

int copying_new(struct ring *ring, struct copying **out)
{
    struct copying *all = calloc(1, sizeof(*all));
    int err = all ? forgets_new(ring, &all->forgets) : -ENOMEM;
    if (!err)
        err = pool_init(&all->pool, sizeof(struct copies), COPIES_MAX);
    if (err) {
        if (all)
            forgets_free(all->forgets);
        free(all);
        return err;
    }
    all->ring = ring;
    *out = all;
    return 0;
}

void copying_free(struct copying *all)
{
    forgets_free(all->forgets);
    pool_fini(&all->pool);
    free(all);
}

void copying_stop(struct copying *all)
{
    forgets_stop(all->forgets);
}

/* ------------------------------------------------------------------ who */

static void note_bad(struct copying *all, uint64_t node)
{
    others_note_bad(&all->others, node, ring_now_ms(all->ring));
}

/* Whether even those who failed of late have to be asked. */
static bool is_needed(const struct copies *c)
{
    const struct plan_copies *wish = &c->all->ring->plan->copies;
    unsigned have = wish->counts != 0;
    for (unsigned i = 0; i < c->count; i++)
        have += c->to[i].state != COPY_FAILED;
    return have < wish->least;
}

/* The best replica that was not asked yet; 0: there is none. */
static uint64_t next_node(struct copies *c)
{
    struct digest key = others_key(&c->a->digest, c->of);
    struct others_tried tried = {c->tried, c->tried_count, is_needed(c), c->holder, c->count};
    uint64_t now_ms = ring_now_ms(c->all->ring), best = 0;
    if (c->tried_count < TRIED_MAX)
        best = others_next(&c->all->others, c->all->ring->plan, &key, &tried, now_ms);
    return best ? c->tried[c->tried_count++] = best : 0;
}

/* How many other replicas are to have it. */
static unsigned others_wanted(const struct plan *plan)
{
    unsigned others = plan->copies.wanted - (plan->copies.counts != 0);
    return !plan->copies.told ? 0 : others < OTHERS_MAX ? others : OTHERS_MAX;
}

/* ------------------------------------------------------------------ the wait */

static unsigned count_between(const struct copies *c, enum copy_state first, enum copy_state last)
{
    unsigned n = 0;
    for (unsigned i = 0; i < c->count; i++)
        n += c->to[i].state >= first && c->to[i].state <= last;
    return n;
}

static int verdict(struct api *a)
{
    const struct plan *plan = a->s->ring->plan;
    unsigned done = a->copies ? count_between(a->copies, COPY_DONE, COPY_DONE) : 0,
             have = done + (plan->copies.counts != 0);
    stream_count(a->s, CTR_COPIES_MADE, done);
    if (!plan->copies.told || have >= plan->copies.wanted)
        return 0;
    stream_count(a->s, have < plan->copies.least ? CTR_COPIES_REFUSED : CTR_COPIES_SHORT, 1);
    return have < plan->copies.least ? -EAGAIN : 0;
}

/* Goes on with whoever waits, if there is nothing to be waited for any more. */
static void news(struct copies *c, bool at_the_limit)
{
    api_step *next = c->next;
    unsigned awaited = count_between(c, c->finishing ? COPY_REST : COPY_ASKED, COPY_LAST);
    if (!next || (!at_the_limit && awaited))
        return;
    c->next = NULL;
    timer_clear(&c->limit);
    next(c->a, c->finishing ? verdict(c->a) : 0);
}

static void limit_reached(struct timer *t, uint64_t now_ms)
{
    struct copies *c = container_of(t, struct copies, limit);
    (void)now_ms;
    for (unsigned i = 0; i < c->count; i++) {
        const struct copy *to = &c->to[i];
        bool late = to->state == COPY_LAST || (to->state == COPY_ASKED && !to->has_session);
        if (late && to->question.attempts) /* else it was not even asked */
            note_bad(c->all, to->node);
    }
    news(c, true);
}

static void wait_for(struct copies *c, api_step *next, uint64_t limit_ms)
{
    struct ring *ring = c->all->ring;
    c->next = next;
    c->limit.fire = limit_reached;
    timer_set(&ring->wheel, &c->limit, ring_now_ms(ring) + limit_ms);
    news(c, false);
}

/* ------------------------------------------------------------------ one copy */

static void answered(struct question *q, enum question_end end);
static void steps(struct copies *c);

static void copy_move(struct copy *to, enum copy_state state)
{
    to->state = (uint8_t)state;
}

static void copy_take(struct copies *c, struct copy *to, uint64_t node)
{
    *to = (struct copy){.copies = c, .node = node, .state = node ? COPY_REST : COPY_FAILED};
    c->holder[to - c->to] = node ? others_holder(c->all->ring->plan, node) : 0;
}

/* Nothing becomes of what it has in its session. */
static void copy_forget(struct copy *to)
{
    if (to->has_session)
        forget_session(to->copies->all->forgets, to->node, to->session);
    to->has_session = false;
}

static void write_order(struct copy *to)
{
    const struct copies *c = to->copies;
    struct question *q = &to->question;
    const char *of = c->upload || c->of[0] ? c->of : "-";
    int n = snprintf(q->path, sizeof(q->path), KEEP_PATH "?node=%llu&of=%s&to=%llu",
                     (unsigned long long)c->all->ring->plan->node_id, of, (unsigned long long)to->asked);
    if (to->has_session)
        n += snprintf(q->path + n, sizeof(q->path) - (size_t)n, "&session=%.*s", UPLOAD_ID_LEN, to->session);
    if (to->state == COPY_LAST)
        n += snprintf(q->path + n, sizeof(q->path) - (size_t)n, "&digest=%.*s",
                      (int)api_digest_text(c->a).len, api_digest_text(c->a).p);
    q->path_len = (size_t)n;
    q->method = HTTP_POST;
}

static void write_whole(struct copy *to)
{
    struct question *q = &to->question;
    char hex[2 * DIGEST_BYTES_MAX + 1];
    const struct digest *d = &to->copies->a->digest;
    digest_hex(d, hex);
    q->path_len = (size_t)snprintf(q->path, sizeof(q->path), "/blobs/%s/%s", digest_alg_name(d->alg), hex);
    q->method = HTTP_PUT;
    q->body = to->copies->bytes;
}

static void again(struct timer *t, uint64_t now_ms);

static void copy_later(struct copy *to, uint64_t ms)
{
    struct ring *ring = to->copies->all->ring;
    copy_move(to, COPY_LATER);
    to->again.fire = again;
    timer_set(&ring->wheel, &to->again, ring_now_ms(ring) + ms);
}

/* Whether the other replica may be told to ask for bytes. */
static bool copy_order(struct copy *to)
{
    struct copying *all = to->copies->all;
    to->ordered = others_order(&all->others, all->ring->plan, to->node);
    return to->ordered;
}

static void copy_order_end(struct copy *to)
{
    if (to->ordered)
        others_order_end(&to->copies->all->others, to->node);
    to->ordered = false;
}

static void copy_ask(struct copy *to, enum copy_state state, uint64_t size)
{
    struct ring *ring = to->copies->all->ring;
    struct question *q = &to->question;
    to->whole = state == COPY_LAST && !to->late && view_present(to->copies->bytes);
    if (!to->whole && !copy_order(to)) {
        copy_later(to, LOOK_MS);
        return;
    }
    memset(q, 0, sizeof(*q));
    copy_move(to, state);
    to->asked = size;
    q->ring = ring;
    q->service = fetch_peers_service(ring->plan);
    q->only = fetch_peer_of(ring->plan, to->node);
    q->timeout_ms = STEP_TIMEOUT_MS;
    q->done = answered;
    if (to->whole)
        write_whole(to);
    else
        write_order(to);
    if (!q->only) /* it is no replica any more: nobody is asked by that number */
        q->only = UINT32_MAX;
    question_ask(q);
}

static void again(struct timer *t, uint64_t now_ms)
{
    struct copy *to = container_of(t, struct copy, again);
    struct copies *c = to->copies;
    (void)now_ms;
    copy_move(to, COPY_REST);
    if (c->finishing)
        copy_ask(to, COPY_LAST, c->a->size);
}

/* The next replica takes its place, from the beginning. */
static void copy_fail(struct copy *to, bool its_fault)
{
    struct copies *c = to->copies;
    ring_count(c->all->ring, CTR_COPIES_FAILED, 1);
    if (its_fault)
        note_bad(c->all, to->node);
    copy_forget(to);
    copy_move(to, COPY_FAILED);
    c->holder[to - c->to] = 0;
    copy_take(c, to, next_node(c));
    if (to->state == COPY_REST && c->finishing)
        copy_ask(to, COPY_LAST, c->a->size);
}

/* It could not take it in this way, but may in another one: all of it, from what is durable here. */
static bool copy_again(struct copy *to, bool last, int status)
{
    struct copies *c = to->copies;
    if (!c->finishing || !(last ? (to->has_session && status == 409) || (to->whole && status == 429) : true))
        return false;
    to->late = to->whole;
    copy_forget(to);
    copy_move(to, COPY_REST);
    if (!to->late || c->durable)
        copy_ask(to, COPY_LAST, c->a->size);
    return true;
}

static bool session_said(struct copy *to)
{
    uint64_t node;
    struct view id = http_answer_field(to->question.answer, KEEP_SESSION_FIELD);
    if (!upload_id_node(id.p, id.len, &node))
        return false;
    memcpy(to->session, id.p, UPLOAD_ID_LEN);
    return to->has_session = true;
}

static void answered(struct question *q, enum question_end end)
{
    struct copy *to = container_of(q, struct copy, question);
    struct copies *c = to->copies;
    bool last = to->state == COPY_LAST;
    int status = end == QUESTION_ANSWERED || end == QUESTION_REFUSED ? q->status : 0;
    bool good = end == QUESTION_ANSWERED && (last ? status == 201 : status == 200 && session_said(to));
    bool keep = good && q->answer->keep_alive && q->answer->content_length == 0;
    question_end(q, good ? QUESTION_GOOD : QUESTION_DROPPED, keep);
    question_forgive(q);
    copy_order_end(to);
    if (good) {
        copy_move(to, last ? COPY_DONE : COPY_REST);
        to->has_session &= !last; /* it is a blob there */
        to->at = to->asked;
        to->done_ms = ring_now_ms(c->all->ring);
        if (!last && c->finishing)
            copy_ask(to, COPY_LAST, c->a->size);
        else if (!last &&
                 c->upload) /* what has come meanwhile is asked for at once: little is left at the end */
            steps(c);
    } else if (status == KEEP_AGAIN) {
        copy_later(to, AGAIN_MS);
    } else if (!copy_again(to, last, status)) {
        /* Without anybody asked it is this node that has no means for it just now. */
        copy_fail(to, end != QUESTION_NOBODY && (status == 0 || status >= 500));
    }
    news(c, false);
}

/* ------------------------------------------------------------------ while bytes come */

static void take_up_others(struct copies *c)
{
    unsigned wanted = others_wanted(c->all->ring->plan);
    while (c->count < wanted) {
        uint64_t node = next_node(c); /* of which the new one is none yet */
        copy_take(c, &c->to[c->count++], node);
    }
}

/* Whoever failed while the bytes came may be asked once more, where nobody has taken its place. */
static void take_up_failed(struct copies *c)
{
    c->tried_count = 0;
    for (unsigned i = 0; i < c->count; i++)
        if (c->to[i].state != COPY_FAILED)
            c->tried[c->tried_count++] = c->to[i].node;
    for (unsigned i = 0; i < c->count; i++)
        if (c->to[i].state == COPY_FAILED)
            copy_take(c, &c->to[i], next_node(c));
}

/* How much of its session's bytes it is asked for next. First it is only to make one of its own, so that it
 * is known by name before there is something to lose. */
static uint64_t next_step(const struct copy *to, uint64_t have)
{
    if (!to->has_session)
        return 0;
    return have - to->at < STEP_MOST ? have : to->at + STEP_MOST;
}

static void steps(struct copies *c)
{
    uint64_t have = upload_offset(c->upload);
    if (have >= STEP_BYTES)
        take_up_others(c);
    for (unsigned i = 0; i < c->count; i++) {
        struct copy *to = &c->to[i];
        if (to->state == COPY_REST && have - to->at >= STEP_BYTES)
            copy_ask(to, COPY_ASKED, next_step(to, have));
    }
}

static void look(struct timer *t, uint64_t now_ms)
{
    struct copies *c = container_of(t, struct copies, look);
    steps(c);
    timer_set(&c->all->ring->wheel, t, now_ms + LOOK_MS);
}

/* ------------------------------------------------------------------ of a call */

void copies_begin(struct api *a)
{
    struct ring *ring = a->s->ring;
    if (a->copies || !others_wanted(ring->plan) || ring->draining)
        return;
    struct copies *c = pool_take(&ring->copying->pool);
    if (!c)
        return; /* as if nobody could be reached: repair makes them */
    memset(c, 0, offsetof(struct copies, to));
    c->all = ring->copying;
    c->a = a;
    a->copies = c;
}

/* Where the request before has begun to copy to. */
static void recall(struct copies *c)
{
    struct upload_copies *old = upload_copies(c->upload);
    for (unsigned i = 0; i < old->count; i++) {
        if (c->count == others_wanted(c->all->ring->plan)) {
            forget_session(c->all->forgets, old->at[i].node, old->at[i].id);
            continue;
        }
        struct copy *to = &c->to[c->count++];
        copy_take(c, to, old->at[i].node);
        to->at = old->at[i].size;
        to->has_session = true;
        memcpy(to->session, old->at[i].id, UPLOAD_ID_LEN);
        c->tried[c->tried_count++] = to->node;
    }
    old->count = 0;
}

static void remember(struct copies *c)
{
    struct upload_copies *now = upload_copies(c->upload);
    now->count = 0;
    for (unsigned i = 0; i < c->count && now->count < UPLOAD_COPIES_MAX; i++) {
        struct copy *to = &c->to[i];
        if (to->state > COPY_ASKED || !to->has_session)
            continue;
        to->has_session = false;
        now->at[now->count].node = to->node;
        now->at[now->count].size = to->at;
        memcpy(now->at[now->count++].id, to->session, UPLOAD_ID_LEN);
    }
}

static void take_session(struct copies *c)
{
    if (c->upload)
        return;
    c->upload = c->a->upload;
    memcpy(c->of, upload_name(c->upload), UPLOAD_NAME_LEN);
    recall(c);
}

void copies_flow(struct api *a)
{
    struct copies *c = a->copies;
    if (!c)
        return;
    take_session(c);
    c->look.fire = look;
    timer_set(&c->all->ring->wheel, &c->look, ring_now_ms(c->all->ring) + LOOK_MS);
}

static void rested(struct api *a, int res)
{
    api_step *next = a->next;
    (void)res;
    copies_end(a);
    next(a, 0);
}

void copies_rest(struct api *a, api_step *next)
{
    struct copies *c = a->copies;
    if (!c) {
        next(a, 0);
        return;
    }
    timer_clear(&c->look);
    a->next = next;
    if (c->upload) /* what the client will be told that is here should not be here alone */
        steps(c);
    wait_for(c, rested, REST_MS);
}

bool copies_need_blob(struct api *a, struct view bytes)
{
    return a->copies && !a->upload && bytes.len > KEEP_SMALL_MAX;
}

void copies_finish(struct api *a, struct view bytes)
{
    struct copies *c = a->copies;
    if (!c)
        return;
    if (a->upload)
        take_session(c);
    timer_clear(&c->look);
    if (bytes.len <= KEEP_SMALL_MAX)
        c->bytes = bytes;
    c->finishing = true;
    take_up_failed(c);
    take_up_others(c);
    for (unsigned i = 0; i < c->count; i++)
        if (c->to[i].state == COPY_REST)
            copy_ask(&c->to[i], COPY_LAST, a->size);
    c->upload = NULL; /* the store's from now on */
}

void copies_wait(struct api *a, api_step *next)
{
    struct copies *c = a->copies;
    if (!c) {
        next(a, verdict(a));
        return;
    }
    c->durable = true;
    for (unsigned i = 0; i < c->count; i++)
        if (c->to[i].state == COPY_REST)
            copy_ask(&c->to[i], COPY_LAST, a->size);
    wait_for(c, next, stream_setting(a->s, SET_REGISTRY_COPIES_TIMEOUT));
}

void copies_put_holders(struct api *a, struct wire_writer *w)
{
    struct cmd_holders others = {0};
    for (unsigned i = 0; a->copies && i < a->copies->count; i++) {
        const struct copy *to = &a->copies->to[i];
        if (to->state == COPY_DONE && ring_now_ms(a->s->ring) < to->done_ms + KEEP_RELIED_MS)
            (void)cmd_holders_add(&others, a->copies->holder[i]);
    }
    holders_put(w, a->s->ring->plan, &others);
}

void copies_refuse(struct api *a)
{
    error_answer_later(a->s, 503, "not even copies_min replicas can take the bytes now");
}

void copies_end(struct api *a)
{
    struct copies *c = a->copies;
    if (!c)
        return;
    a->copies = NULL;
    if (c->upload)
        remember(c);
    timer_clear(&c->look);
    timer_clear(&c->limit);
    for (unsigned i = 0; i < c->count; i++) {
        timer_clear(&c->to[i].again);
        question_end(&c->to[i].question, QUESTION_DROPPED, false);
        question_forgive(&c->to[i].question);
        copy_order_end(&c->to[i]);
        copy_forget(&c->to[i]);
    }
    pool_give(&c->all->pool, c);
}

void copies_abandon(struct api *a)
{
    struct upload_copies *old = upload_copies(a->upload);
    copies_end(a);
    for (unsigned i = 0; i < old->count; i++)
        forget_session(a->s->ring->copying->forgets, old->at[i].node, old->at[i].id);
    old->count = 0;
}
