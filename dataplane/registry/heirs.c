/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/registry/heirs.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "check.h"
#include "placement.h"
#include "dataplane/link.h"
#include "dataplane/pool.h"
#include "dataplane/ring.h"
#include "dataplane/fetch/fetch.h"
#include "dataplane/http/number.h"
#include "dataplane/http/response_reader.h"
#include "dataplane/registry/api.h"
#include "dataplane/registry/forget.h"
#include "dataplane/registry/keep.h"
#include "dataplane/registry/others.h"

enum {
    SEARCHES_MAX = 64, /* of a ring at a time */
    ASKED_MAX = 8,     /* replicas by one */
    ANSWER_MS = 2000,
    AGAIN_MS = 200,
    LIMIT_MS = 10000, /* longer than a copy waits for a node that is gone */
};

struct heir_asked {
    struct search *search;
    uint64_t node;
    struct question question;
};

struct search {
    struct heirs *all;
    struct api *a;
    heirs_found *found;
    char name[UPLOAD_NAME_LEN + 1]; /* of the session */
    struct heir best;               /* of this round; its node is 0: nobody yet */
    bool busy;                      /* somebody has some of it, nobody knows how much */
    uint64_t until_ms;
    unsigned count, left; /* who is asked; who has not answered */
    struct timer timer;   /* of the next round */
    struct heir_asked at[ASKED_MAX];
};

struct heirs {
    struct ring *ring;
    struct pool pool;
    struct forgets *forgets;
};

int heirs_new(struct ring *ring, struct heirs **out)
{
    struct heirs *all = calloc(1, sizeof(*all));
    int err = all ? forgets_new(ring, &all->forgets) : -ENOMEM;
    if (!err)
        err = pool_init(&all->pool, sizeof(struct search), SEARCHES_MAX);
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

void heirs_free(struct heirs *all)
{
    forgets_free(all->forgets);
    pool_fini(&all->pool);
    free(all);
}

void heirs_stop(struct heirs *all)
{
    forgets_stop(all->forgets);
}

/* ------------------------------------------------------------------ what has gone on here */

/* The random part of all sessions of one upload is the same. */
static void leave(struct api *a, uint64_t node)
{
    char id[UPLOAD_ID_LEN + 1];
    memcpy(id, a->up.id, UPLOAD_RANDOM_LEN);
    (void)snprintf(id + UPLOAD_RANDOM_LEN, sizeof(id) - UPLOAD_RANDOM_LEN, "%016llx",
                   (unsigned long long)node);
    forget_when_back(a->s->ring->heirs->forgets, node, id);
}

void heirs_adopted(struct api *a)
{
    struct ring *ring = a->s->ring;
    struct view asked = a->route.reference;
    struct upload_origin *origin = upload_origin(a->upload);
    bool known = view_eq(asked, view_of(a->up.id, UPLOAD_ID_LEN)); /* by its name here */
    if (!known)
        (void)upload_id_node(asked.p, asked.len, &origin->node);
    if (origin->news)
        channel_adopted(ring->channel, origin->node, upload_offset(a->upload), a->route.repo.p,
                        a->route.repo.len);
    origin->news = false;
    a->up.origin = origin->left ? 0 : origin->node;
    if (!known || !a->up.origin)
        return;
    leave(a, origin->node);
    origin->left = true;
    a->up.origin = 0;
}

void heirs_linked(struct api *a)
{
    if (a->up.origin)
        leave(a, a->up.origin);
}

/* ------------------------------------------------------------------ who */

static bool is_asked(const struct search *s, uint64_t node)
{
    for (unsigned i = 0; i < s->count; i++)
        if (s->at[i].node == node)
            return true;
    return false;
}

/* The best-ranked replica that is not asked yet; 0: there is none. */
static uint64_t next_node(const struct search *s, const struct digest *key, uint64_t away)
{
    const struct plan *plan = s->all->ring->plan;
    const struct plan_service *service = plan_service_of(plan, fetch_peers_service(plan));
    uint64_t best = 0;
    for (uint32_t i = 0; service && i < service->backend_count; i++) {
        uint64_t node = plan_backend(plan, service->first_backend + i)->node;
        if (node != away && !is_asked(s, node) && (!best || placement_before(key, node, best)))
            best = node;
    }
    return best;
}

static void choose(struct search *s, uint64_t away)
{
    static const struct digest unknown = {.alg = DIGEST_NONE};
    struct digest key = others_key(&unknown, s->name);
    uint64_t node;
    while (s->count < ASKED_MAX && (node = next_node(s, &key, away)) != 0)
        s->at[s->count++] = (struct heir_asked){.search = s, .node = node};
}

/* ------------------------------------------------------------------ a round */

static void round_begin(struct search *s);

static void end(struct search *s, int err)
{
    struct api *a = s->a;
    struct heir best = s->best;
    heirs_found *found = s->found;
    timer_clear(&s->timer);
    pool_give(&s->all->pool, s);
    found(a, err, &best);
}

static void again(struct timer *t, uint64_t now_ms)
{
    (void)now_ms;
    round_begin(container_of(t, struct search, timer));
}

/* Of two that are equally good, this node: nothing has to be relayed. */
static void consider(struct search *s, struct heir one)
{
    const struct heir *best = &s->best;
    bool here = one.node == s->all->ring->plan->node_id;
    if (!best->node || (one.session == best->session ? one.size + here > best->size : one.session))
        s->best = one;
}

/* All have answered. */
static void round_end(struct search *s)
{
    struct ring *ring = s->all->ring;
    uint64_t now_ms = ring_now_ms(ring);
    struct upload_found own;
    int here = upload_look(stream_store(s->a->s), s->name, UPLOAD_NAME_LEN, &own);
    s->busy |= here == -EBUSY;
    if (here == 0)
        consider(s, (struct heir){ring->plan->node_id, own.size, own.session});
    if (s->busy && now_ms < s->until_ms && !ring->draining) {
        s->timer.fire = again;
        timer_set(&ring->wheel, &s->timer, now_ms + AGAIN_MS);
    } else {
        end(s, s->best.node ? 0 : s->busy ? -EBUSY : -ENOENT);
    }
}

static bool size_said(const struct http_answer *answer, const char *field, uint64_t *size)
{
    return number_read(http_answer_field(answer, field), INT64_MAX, size) == 0;
}

static void answered(struct question *q, enum question_end how)
{
    struct heir_asked *one = container_of(q, struct heir_asked, question);
    struct search *s = one->search;
    bool said = how == QUESTION_ANSWERED, keep = said && q->answer->keep_alive;
    uint64_t size;
    if (said && q->status == 200 && size_said(q->answer, KEEP_SIZE_FIELD, &size))
        consider(s, (struct heir){one->node, size, false});
    else if (said && q->status == 200 && size_said(q->answer, KEEP_HAS_FIELD, &size))
        consider(s, (struct heir){one->node, size, true});
    s->busy |= said && q->status == KEEP_AGAIN;
    keep = keep && q->answer->length_told && q->answer->content_length == 0;
    question_end(q, said ? QUESTION_GOOD : QUESTION_DROPPED, keep);
    question_forgive(q);
    if (--s->left == 0)
        round_end(s);
}

static void ask(struct search *s, struct heir_asked *one)
{
    struct question *q = &one->question;
    struct ring *ring = s->all->ring;
    uint32_t peer = fetch_peer_of(ring->plan, one->node);
    memset(q, 0, sizeof(*q));
    q->ring = ring;
    q->service = fetch_peers_service(ring->plan);
    q->only = peer ? peer : UINT32_MAX; /* it is no replica any more: nobody is asked by that number */
    q->method = HTTP_GET;
    q->timeout_ms = ANSWER_MS;
    q->done = answered;
    q->path_len = (size_t)snprintf(q->path, sizeof(q->path), KEEP_PATH "?of=%s", s->name);
    question_ask(q);
}

static void round_begin(struct search *s)
{
    s->best.node = 0;
    s->busy = false;
    s->left = s->count;
    for (unsigned i = 0; i < s->count; i++)
        ask(s, &s->at[i]);
    if (!s->count)
        round_end(s);
}

void heirs_find(struct api *a, uint64_t from, heirs_found *found)
{
    struct heirs *all = a->s->ring->heirs;
    struct view id = a->route.reference, repo = a->route.repo;
    struct search *s = pool_take(&all->pool);
    uint64_t node;
    if (!s) {
        found(a, -EAGAIN, &(struct heir){0});
        return;
    }
    memset(s, 0, offsetof(struct search, at));
    CHECK(upload_id_node(id.p, id.len, &node));
    upload_name_write(id.p, repo.p, repo.len, s->name);
    s->all = all;
    s->a = a;
    s->found = found;
    s->until_ms = ring_now_ms(all->ring) + LIMIT_MS;
    choose(s, from == node ? 0 : node);
    round_begin(s);
}
