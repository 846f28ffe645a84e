/* SPDX-License-Identifier: Apache-2.0 */
#include "members.h"

struct question {
    const struct members_server *servers;
    size_t count;
    const struct consensus_member *wanted;
    size_t wanted_count;
    uint64_t self;
    bool waits;
};

static const struct consensus_member *wanted_find(const struct question *q, uint64_t id)
{
    for (size_t i = 0; i < q->wanted_count; i++)
        if (q->wanted[i].id == id)
            return &q->wanted[i];
    return NULL;
}

static const struct members_server *server_find(const struct question *q, uint64_t id)
{
    for (size_t i = 0; i < q->count; i++)
        if (q->servers[i].id == id)
            return &q->servers[i];
    return NULL;
}

static bool wanted_voter(const struct question *q, uint64_t id)
{
    const struct consensus_member *m = wanted_find(q, id);
    return m && m->voter;
}

static struct members_step change(enum consensus_change what, uint64_t node)
{
    return (struct members_step){.what = MEMBERS_CHANGE, .change = what, .node = node};
}

/*
 * Whether the cluster goes on without this voter: of those that are left, a majority has to be there. A dead
 * one can always go, as long as those that are there are a majority now (else nothing can be agreed upon
 * anyway).
 */
static bool can_lose(const struct question *q, const struct members_server *gone)
{
    size_t voters = 0, online = 0;
    for (size_t i = 0; i < q->count; i++) {
        const struct members_server *s = &q->servers[i];
        if (!s->voter || s == gone)
            continue;
        voters++;
        online += s->online || s->id == q->self;
    }
    return voters > 0 && online > voters / 2;
}

/* Others that are to go, or to stop voting. */
static bool step_out(struct question *q, struct members_step *out)
{
    for (size_t i = 0; i < q->count; i++) {
        const struct members_server *s = &q->servers[i];
        const struct consensus_member *m = wanted_find(q, s->id);
        if (s->id == q->self || (m && (m->voter || !s->voter)))
            continue;
        if (s->voter && !can_lose(q, s)) {
            q->waits = true;
            continue;
        }
        *out = change(m ? CONSENSUS_DEMOTE : CONSENSUS_REMOVE, s->id);
        return true;
    }
    return false;
}

static bool step_in(const struct question *q, struct members_step *out)
{
    for (size_t i = 0; i < q->wanted_count; i++)
        if (!server_find(q, q->wanted[i].id)) {
            *out = change(CONSENSUS_ADD, q->wanted[i].id);
            return true;
        }
    return false;
}

static bool step_up(struct question *q, struct members_step *out)
{
    for (size_t i = 0; i < q->count; i++) {
        const struct members_server *s = &q->servers[i];
        if (s->voter || !wanted_voter(q, s->id))
            continue;
        if (s->online && s->caught_up) {
            *out = change(CONSENSUS_PROMOTE, s->id);
            return true;
        }
        q->waits = true;
    }
    return false;
}

/* This node is not to vote any more: another one has to lead first, which then sees to it. */
static bool step_self(struct question *q, struct members_step *out)
{
    const struct members_server *best = NULL;
    if (wanted_voter(q, q->self))
        return false;
    for (size_t i = 0; i < q->count; i++) {
        const struct members_server *s = &q->servers[i];
        if (s->id != q->self && s->voter && s->online && wanted_voter(q, s->id) &&
            (!best || s->caught_up > best->caught_up))
            best = s;
    }
    q->waits |= !best;
    if (best)
        *out = (struct members_step){.what = MEMBERS_TRANSFER, .node = best->id};
    return best;
}

struct members_step members_next(const struct members_server *servers, size_t count,
                                 const struct consensus_member *wanted, size_t wanted_count, uint64_t self)
{
    struct question q = {servers, count, wanted, wanted_count, self, false};
    struct members_step step = {.what = MEMBERS_DONE};
    if (step_out(&q, &step) || step_in(&q, &step) || step_up(&q, &step) || step_self(&q, &step))
        return step;
    step.what = q.waits ? MEMBERS_WAIT : MEMBERS_DONE;
    return step;
}

bool members_valid(const struct consensus_member *wanted, size_t count)
{
    size_t voters = 0;
    if (count > CONSENSUS_MEMBERS_MAX)
        return false;
    for (size_t i = 0; i < count; i++) {
        if (wanted[i].id == 0)
            return false;
        voters += wanted[i].voter;
        for (size_t k = 0; k < i; k++)
            if (wanted[k].id == wanted[i].id)
                return false;
    }
    return voters > 0;
}
