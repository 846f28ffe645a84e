/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/registry/forget.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "check.h"
#include "dataplane/ring.h"
#include "dataplane/fetch/fetch.h"
#include "dataplane/http/response_reader.h"
#include "dataplane/registry/keep.h"

enum {
    FORGETS_MAX = 64, /* of a ring at a time */
    TIMEOUT_MS = 10000,
    AGAIN_MS = 1000, /* longer each time, */
    AGAIN_MOST_MS = 10000,
    TIMES_MAX = 10,
    AWAY_MS = 3600 * 1000, /* who is away is waited for */
    AWAY_MAX = FORGETS_MAX / 2,
};

struct forget {
    struct forgets *all;
    bool used;
    bool away;
    unsigned times;
    uint64_t node, since_ms;
    char id[UPLOAD_ID_LEN];
    struct timer timer;
    struct question question;
};

struct forgets {
    struct ring *ring;
    struct forget at[FORGETS_MAX];
};

int forgets_new(struct ring *ring, struct forgets **out)
{
    struct forgets *all = calloc(1, sizeof(*all));
    if (!all)
        return -ENOMEM;
    all->ring = ring;
    *out = all;
    return 0;
}

void forgets_free(struct forgets *all)
{
    free(all);
}

static void end(struct forget *f, bool keep)
{
    timer_clear(&f->timer);
    question_end(&f->question, QUESTION_DROPPED, keep);
    question_forgive(&f->question);
}

static void answered(struct question *q, enum question_end how);

/* Of one that is away it says how old it is: the session may be in use again by then. */
static void ask(struct forget *f)
{
    struct question *q = &f->question;
    struct ring *ring = f->all->ring;
    uint64_t idle_ms = f->away ? ring_now_ms(ring) - f->since_ms : 0;
    memset(q, 0, sizeof(*q));
    q->ring = ring;
    q->service = fetch_peers_service(ring->plan);
    q->only = fetch_peer_of(ring->plan, f->node);
    q->method = HTTP_DELETE;
    q->timeout_ms = TIMEOUT_MS;
    q->path_len = (size_t)snprintf(q->path, sizeof(q->path), KEEP_PATH "/%.*s?idle=%llu", UPLOAD_ID_LEN,
                                   f->id, (unsigned long long)idle_ms);
    q->done = answered;
    f->times++;
    if (q->only)
        question_ask(q);
    else /* it is no replica any more */
        f->used = false;
}

static void again(struct timer *t, uint64_t now_ms)
{
    (void)now_ms;
    ask(container_of(t, struct forget, timer));
}

/* Whether a replica that did not do it may do it yet. */
static bool may_yet(const struct forget *f, bool said, bool busy, enum question_end how)
{
    if (f->away)
        return (busy || !said) && ring_now_ms(f->all->ring) < f->since_ms + AWAY_MS;
    return (busy || how == QUESTION_NOBODY) && f->times < TIMES_MAX;
}

static void answered(struct question *q, enum question_end how)
{
    struct forget *f = container_of(q, struct forget, question);
    struct ring *ring = f->all->ring;
    bool said = how == QUESTION_ANSWERED, busy = said && q->status == KEEP_AGAIN;
    end(f, said && q->answer->keep_alive && q->answer->framing == HTTP_BODY_NONE);
    f->used = may_yet(f, said, busy, how);
    f->timer.fire = again;
    uint64_t pause_ms = f->away && f->times * AGAIN_MS < AGAIN_MOST_MS ? f->times * AGAIN_MS
                        : f->away                                      ? AGAIN_MOST_MS
                                                                       : AGAIN_MS;
    if (f->used)
        timer_set(&ring->wheel, &f->timer, ring_now_ms(ring) + pause_ms);
}

static void forget(struct forgets *all, uint64_t node, const char *id, bool away)
{
    unsigned most = away ? AWAY_MAX : FORGETS_MAX;
    for (unsigned i = 0; i < most && !all->ring->draining; i++) {
        struct forget *f = &all->at[i];
        if (f->used)
            continue;
        f->all = all;
        f->used = true;
        f->away = away;
        f->times = 0;
        f->since_ms = ring_now_ms(all->ring);
        f->node = node;
        memcpy(f->id, id, UPLOAD_ID_LEN);
        ask(f);
        return;
    }
}

void forget_session(struct forgets *all, uint64_t node, const char *id)
{
    forget(all, node, id, false);
}

void forget_when_back(struct forgets *all, uint64_t node, const char *id)
{
    forget(all, node, id, true);
}

void forgets_stop(struct forgets *all)
{
    for (unsigned i = 0; i < FORGETS_MAX; i++)
        if (all->at[i].used) {
            end(&all->at[i], false);
            all->at[i].used = false;
        }
}
