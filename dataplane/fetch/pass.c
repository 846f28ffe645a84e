/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/fetch/pass.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "dataplane/link.h"
#include "dataplane/ring.h"

struct pass {
    struct passes *all;
    uint64_t source; /* 0: the place is free */
    uint64_t serial; /* 0: nothing is known */
    uint64_t until_ms, used_ms;
    struct channel_query query;
    struct pass_wait *waiting;
    bool asking;
    uint16_t repo_len, len;
    char repo[PASS_REPO_MAX];
    char value[PASS_BYTES_MAX];
};

struct passes {
    struct ring *ring;
    struct pass pass[PASSES_MAX]; /* backed by memory as they are used first: from the front */
};

int passes_new(struct ring *ring, struct passes **out)
{
    struct passes *all = calloc(1, sizeof(*all));
    if (!all)
        return -ENOMEM;
    all->ring = ring;
    *out = all;
    return 0;
}

void passes_free(struct passes *all)
{
    free(all);
}

static struct pass *find(struct passes *all, const struct pass_key *key)
{
    for (struct pass *p = all->pass; p < all->pass + PASSES_MAX && p->source; p++)
        if (p->source == key->source && p->repo_len == key->repo.len &&
            memcmp(p->repo, key->repo.p, key->repo.len) == 0)
            return p;
    return NULL;
}

struct view pass_find(struct passes *all, const struct pass_key *key, uint64_t *serial)
{
    struct pass *p = find(all, key);
    uint64_t now_ms = ring_now_ms(all->ring);
    *serial = 0;
    if (!p || !p->serial || p->until_ms <= now_ms)
        return (struct view){0};
    p->used_ms = now_ms;
    *serial = p->serial;
    return view_of(p->value, p->len);
}

/* A free place, or that of the one which was not used for longest; NULL: all are being asked for. */
static struct pass *make(struct passes *all, const struct pass_key *key)
{
    struct pass *oldest = NULL, *p = all->pass;
    for (; p < all->pass + PASSES_MAX && p->source; p++)
        if (!p->asking && (!oldest || p->used_ms < oldest->used_ms))
            oldest = p;
    if (p == all->pass + PASSES_MAX)
        p = oldest;
    if (!p)
        return NULL;
    p->all = all;
    p->source = key->source;
    p->serial = 0;
    p->used_ms = ring_now_ms(all->ring);
    p->repo_len = (uint16_t)key->repo.len;
    memcpy(p->repo, key->repo.p, key->repo.len);
    return p;
}

static enum pass_status take(struct pass *p, const uint8_t *body, size_t len)
{
    struct frame_pass f;
    memcpy(&f, body, sizeof(f));
    len -= sizeof(f);
    if (f.status != PASS_OK || !f.serial || !len)
        return f.status == PASS_REFUSED ? PASS_REFUSED : PASS_UNAVAILABLE;
    p->serial = f.serial;
    p->until_ms = ring_now_ms(p->all->ring) + f.ttl_ms;
    p->len = (uint16_t)len;
    memcpy(p->value, body + sizeof(f), len);
    return PASS_OK;
}

static void answered(struct channel_query *q, int err, const uint8_t *body, size_t len)
{
    struct pass *p = container_of(q, struct pass, query);
    p->asking = false;
    enum pass_status status = err ? PASS_UNAVAILABLE : take(p, body, len);
    if (status != PASS_OK)
        p->serial = 0;
    ring_count(p->all->ring, status == PASS_OK ? CTR_SOURCE_PASSES : CTR_SOURCE_PASSES_FAILED, 1);
    while (p->waiting) {
        struct pass_wait *w = p->waiting;
        pass_leave(w);
        w->done(w, status);
    }
}

static int ask(struct pass *p, uint64_t refused, struct view challenge)
{
    struct ring *ring = p->all->ring;
    struct frame_pass_wanted f = {.source = p->source,
                                  .refused = refused,
                                  .repo_len = p->repo_len,
                                  .challenge_len = (uint16_t)challenge.len};
    uint8_t body[sizeof(f) + PASS_REPO_MAX + PASS_CHALLENGE_MAX];
    memcpy(body, &f, sizeof(f));
    memcpy(body + sizeof(f), p->repo, p->repo_len);
    if (challenge.len)
        memcpy(body + sizeof(f) + p->repo_len, challenge.p, challenge.len);
    p->query.answered = answered;
    p->query.answer = FRAME_PASS;
    p->query.deadline_ms = ring_now_ms(ring) + PASS_ASK_MS;
    int err = channel_query(ring->channel, &p->query, FRAME_PASS_WANTED, body,
                            sizeof(f) + p->repo_len + challenge.len);
    p->asking = err == 0;
    return err;
}

int pass_ask(struct passes *all, const struct pass_key *key, uint64_t refused, struct view challenge,
             struct pass_wait *w)
{
    CHECK(!w->pass && key->source);
    if (key->repo.len == 0 || key->repo.len > PASS_REPO_MAX || challenge.len > PASS_CHALLENGE_MAX)
        return -EMSGSIZE;
    struct pass *p = find(all, key);
    if (!p)
        p = make(all, key);
    if (!p)
        return -ENOMEM;
    int err = p->asking ? 0 : ask(p, refused, challenge);
    if (err)
        return err;
    w->pass = p;
    w->next = p->waiting;
    w->prev = &p->waiting;
    if (w->next)
        w->next->prev = &w->next;
    p->waiting = w;
    return 0;
}

void pass_leave(struct pass_wait *w)
{
    if (!w->pass)
        return;
    *w->prev = w->next;
    if (w->next)
        w->next->prev = w->prev;
    w->pass = NULL;
}
