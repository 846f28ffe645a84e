/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The choice itself. Targets have ranks: a lower one is chosen only if none of the higher ones is there at
 * all; within a rank the policy decides. Those that are at their limits are waited for.
 */
#include "check.h"
#include "dataplane/proxy/balance_private.h"

enum rank {
    RANK_UP, /* or unknown: it is tried until something speaks against it */
    RANK_SUSPECT,
    RANK_EJECTED,
    RANK_TRIED, /* added to the three before: has failed this request already */
    RANK_DOWN = 2 * RANK_TRIED,
    RANK_DOWN_TRIED,
    RANK_NEVER,
};

enum {
    EXACT_MAX = 64,        /* backends that are all looked at; of more, some */
    SAMPLES_MAX = 48,      /* tries to find one that may be taken */
    ROWS_WALKED_MAX = 256, /* from the row of a key on */
    BOUND_PERCENT = 125,   /* of the average load: an owner with more passes on */
    BOUND_MIN = 4,         /* requests below which its page cache is worth more than an even load */
    RELAYS_PART = 2,       /* of the connections */
    RETRIES_ALWAYS = 10,   /* in the budget's seconds, however few were asked for */
    SLOW_START_LEAST = 10, /* the share begins at a tenth */
    WEIGHT_ONE = 1024,
};

struct choice {
    struct balance *b;
    struct balance_service *s;
    const struct plan_proxy *p;
    const struct balance_ask *ask;
    uint64_t random;
    struct target *best;
    uint64_t best_weight, sum; /* of the equally good ones so far */
    unsigned rank;
    bool full; /* BALANCE_FULL, if there is none */
};

/* splitmix64 (Steele, Lea, Flood, 2014), from the caller's number. */
static uint64_t draw(struct choice *c)
{
    uint64_t z = c->random += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

static uint64_t draw_below(struct choice *c, uint64_t n)
{
    return (uint64_t)((unsigned __int128)draw(c) * n >> 64);
}

uint64_t balance_weight(const struct plan_proxy *p, const struct target *t, uint64_t now_ms)
{
    uint64_t full = (uint64_t)t->weight * WEIGHT_ONE;
    uint64_t since = t->up_since_ms > t->ejected_until_ms ? t->up_since_ms : t->ejected_until_ms;
    if (since == 0 || now_ms >= since + p->slow_start_ms || p->slow_start_ms == 0)
        return full;
    uint64_t least = full / SLOW_START_LEAST;
    return now_ms <= since ? least : least + (full - least) * (now_ms - since) / p->slow_start_ms;
}

static bool was_tried(const struct balance_ask *ask, const struct target *t)
{
    for (unsigned i = 0; i < ask->tried_count; i++)
        if (ask->tried[i] == t)
            return true;
    return false;
}

static unsigned rank_of(const struct choice *c, struct target *t)
{
    uint32_t state = balance_observe(c->b, t, c->ask->now_ms);
    bool tried = was_tried(c->ask, t);
    if (t->where.draining)
        return RANK_NEVER;
    if (state == ABI_DOWN)
        return !c->p->all_down ? RANK_NEVER : tried ? RANK_DOWN_TRIED : RANK_DOWN;
    unsigned rank = target_ejected(t, c->ask->now_ms) ? RANK_EJECTED
                    : state == ABI_SUSPECT            ? RANK_SUSPECT
                                                      : RANK_UP;
    return tried ? rank + RANK_TRIED : rank;
}

/* What becomes a tunnel where backends get HTTP/2: as many as other connections. They last, so that it is not
 * worth waiting for the end of one, least of all for those who come behind in the queue. */
static bool at_own_limit(struct choice *c, const struct target *t)
{
    uint32_t in_use = t->connections - t->carriers - t->idle_count;
    bool full = c->p->connections_max && in_use >= c->p->connections_max;
    c->full |= full;
    return full;
}

static bool at_limit(struct choice *c, const struct target *t)
{
    if (c->p->requests_max && t->requests >= c->p->requests_max)
        return true;
    if (c->p->backend_http == 2 && c->p->kind != PROXY_TCP) /* many requests a connection */
        return c->ask->alone ? at_own_limit(c, t) : t->full;
    return c->p->connections_max && t->requests >= c->p->connections_max;
}

/* By requests per weight: negative if a has less. */
static int compare_load(const struct target *a, uint64_t a_weight, const struct target *b, uint64_t b_weight)
{
    unsigned __int128 x = (unsigned __int128)a->requests * b_weight,
                      y = (unsigned __int128)b->requests * a_weight;
    return x < y ? -1 : x > y;
}

/* One more of the same rank: among equally good ones each is taken by its weight. */
static void consider_equal(struct choice *c, struct target *t)
{
    uint64_t weight = balance_weight(c->p, t, c->ask->now_ms);
    int order =
        c->p->policy == PROXY_RANDOM || !c->best ? 0 : compare_load(t, weight, c->best, c->best_weight);
    if (order > 0)
        return;
    c->sum = order < 0 ? weight : c->sum + weight;
    if (draw_below(c, c->sum) >= weight)
        return;
    c->best = t;
    c->best_weight = weight;
}

static void consider(struct choice *c, struct target *t)
{
    unsigned rank = rank_of(c, t);
    if (rank > c->rank || rank == RANK_NEVER)
        return;
    if (rank < c->rank) {
        c->rank = rank;
        c->best = NULL;
        c->sum = 0;
    }
    if (!at_limit(c, t))
        consider_equal(c, t);
}

static void consider_all(struct choice *c)
{
    c->rank = RANK_NEVER;
    c->best = NULL;
    c->sum = 0;
    for (uint32_t i = 0; i < c->s->count; i++) {
        struct target *t = balance_target(c->b, c->s, i);
        if (t)
            consider(c, t);
    }
}

/* One of the best rank that has room, by weight; NULL if it was not found within some tries. */
static struct target *sample(struct choice *c)
{
    uint64_t full = (uint64_t)c->s->weight_max * WEIGHT_ONE;
    for (unsigned i = 0; i < SAMPLES_MAX; i++) {
        struct target *t = balance_target(c->b, c->s, (uint32_t)draw_below(c, c->s->count));
        if (t && rank_of(c, t) == RANK_UP && !at_limit(c, t) &&
            draw_below(c, full) < balance_weight(c->p, t, c->ask->now_ms))
            return t;
    }
    return NULL;
}

/* Power of two choices (Mitzenmacher 2001): nearly as even as looking at all of them. */
static struct target *sample_two(struct choice *c)
{
    struct target *a = sample(c), *other = a ? sample(c) : NULL;
    if (!other || c->p->policy == PROXY_RANDOM)
        return a;
    return compare_load(a, a->weight, other, other->weight) <= 0 ? a : other;
}

/* FNV-1a, then mixed: its low bits alone are poor. The same in every ring and on every node. */
static uint64_t hash_key(struct view key)
{
    uint64_t h = 0xcbf29ce484222325;
    for (size_t i = 0; i < key.len; i++)
        h = (h ^ (uint8_t)key.p[i]) * 0x100000001b3;
    h = (h ^ h >> 32) * 0xd6e8feb86659fd93;
    return h ^ h >> 32;
}

/* Whether one more would be over its part of the load, with a quarter of grace (Mirrokni, Thorup,
 * Zadimoghaddam, "Consistent Hashing with Bounded Loads", 2018). */
static bool over_bound(const struct choice *c, const struct target *t)
{
    if (c->p->policy != PROXY_DIGEST || t->requests < BOUND_MIN || c->s->usable_weight == 0)
        return false;
    unsigned __int128 mine = (unsigned __int128)(t->requests + 1) * 100 * c->s->usable_weight;
    unsigned __int128 bound =
        (unsigned __int128)(c->s->requests + 1) * BOUND_PERCENT * t->weight * WEIGHT_ONE;
    return mine > bound;
}

/* Of one that starts slowly, only a part of its keys comes to it. */
static bool passes_slowly(struct choice *c, const struct target *t)
{
    uint64_t full = (uint64_t)t->weight * WEIGHT_ONE;
    return draw_below(c, full) >= balance_weight(c->p, t, c->ask->now_ms);
}

/* The owner of the key's row, or of the rows behind it if that one cannot have it. */
static struct target *walk_rows(struct choice *c)
{
    const struct plan_service *now = plan_service(c->b->plan, c->ask->service_index);
    const uint16_t *row = plan_rows(c->b->plan, now->first_row);
    uint32_t at = (uint32_t)(hash_key(c->ask->key) % now->row_count);
    for (unsigned i = 0; i < ROWS_WALKED_MAX; i++, at = at + 1 == now->row_count ? 0 : at + 1) {
        struct target *t = row[at] < c->s->count ? balance_target(c->b, c->s, row[at]) : NULL;
        if (t && rank_of(c, t) == RANK_UP && !at_limit(c, t) && !over_bound(c, t) && !passes_slowly(c, t))
            return t;
    }
    return NULL;
}

/* ------------------------------------------------------------------ the retry budget */

static void turn_budget(struct balance_service *s, uint64_t now_s)
{
    uint64_t passed = now_s - s->budget_s;
    for (uint64_t i = 0; i < passed && i < BALANCE_BUDGET_SECONDS; i++) {
        s->asked[(now_s - i) % BALANCE_BUDGET_SECONDS] = 0;
        s->retried[(now_s - i) % BALANCE_BUDGET_SECONDS] = 0;
    }
    s->budget_s = now_s;
}

static bool take_budget(struct choice *c)
{
    struct balance_service *s = c->s;
    uint64_t now_s = c->ask->now_ms / 1000, asked = 0, retried = 0;
    if (now_s > s->budget_s)
        turn_budget(s, now_s);
    for (unsigned i = 0; i < BALANCE_BUDGET_SECONDS; i++) {
        asked += s->asked[i];
        retried += s->retried[i];
    }
    if (!c->ask->retry) {
        s->asked[s->budget_s % BALANCE_BUDGET_SECONDS]++;
        return true;
    }
    if (c->ask->free)
        return true;
    if (retried >= RETRIES_ALWAYS && retried >= asked * c->p->retry_budget / 100)
        return false;
    s->retried[s->budget_s % BALANCE_BUDGET_SECONDS]++;
    return true;
}

/* ------------------------------------------------------------------ together */

/* Whether the backend that is preferred is to be had, now or soon. */
static bool prefers(struct choice *c)
{
    struct target *t = NULL;
    for (uint32_t i = 0; i < c->s->count && c->ask->prefer; i++) {
        t = balance_target(c->b, c->s, i);
        if (t && t->id + 1 == c->ask->prefer)
            break;
        t = NULL;
    }
    if (!t || was_tried(c->ask, t) || balance_observe(c->b, t, c->ask->now_ms) == ABI_DOWN) {
        c->rank = RANK_NEVER;
        return c->ask->only;
    }
    c->rank = RANK_UP;
    c->full = c->ask->relay && c->p->connections_max && t->relays >= c->p->connections_max / RELAYS_PART;
    c->best = c->full || at_limit(c, t) ? NULL : t;
    return true;
}

static struct target *choose(struct choice *c)
{
    if (prefers(c))
        return c->best;
    const struct plan_service *now = plan_service(c->b->plan, c->ask->service_index);
    if (c->ask->key.len && now->row_count) {
        c->best = walk_rows(c);
    } else if (c->s->count > EXACT_MAX) {
        c->best = sample_two(c);
    }
    if (!c->best)
        consider_all(c);
    return c->best;
}

struct target *balance_choose(struct balance *b, const struct balance_ask *ask, enum balance_why *why)
{
    struct balance_service *s = &b->service[ask->service_index];
    *why = BALANCE_NONE;
    if (ask->service_index >= b->service_count || s->incarnation != ask->service->incarnation || !s->count)
        return NULL;
    struct choice c = {.b = b,
                       .s = s,
                       .p = &plan_service(b->plan, ask->service_index)->proxy,
                       .ask = ask,
                       .random = ask->random};
    balance_look(b, s, c.p, ask->now_ms);
    *why = BALANCE_BUSY;
    if (s->waiting && b->waking != s && !ask->retry && !ask->ahead)
        return NULL; /* in order of arrival */
    struct target *t = choose(&c);
    if (!t) {
        *why = c.rank == RANK_NEVER ? BALANCE_NONE : c.full ? BALANCE_FULL : BALANCE_BUSY;
        return NULL;
    }
    *why = BALANCE_SPENT;
    if (!take_budget(&c))
        return NULL;
    *why = BALANCE_OK;
    t->requests++;
    t->relays += ask->relay;
    s->requests++;
    target_count(t, TARGET_REQUESTS, 1);
    target_count(t, TARGET_ACTIVE, 1);
    target_count(t, TARGET_RETRIES, ask->retry);
    return target_get(t);
}

void balance_relayed(struct target *t)
{
    CHECK(t->relays > 0);
    t->relays--;
}

void balance_look(struct balance *b, struct balance_service *s, const struct plan_proxy *p, uint64_t now_ms)
{
    if (s->looked_ms && now_ms < s->looked_ms + BALANCE_LOOK_MS)
        return;
    s->looked_ms = now_ms;
    s->usable_weight = 0;
    for (uint32_t i = 0; i < s->count; i++) {
        struct target *t = balance_target(b, s, i);
        if (t && balance_observe(b, t, now_ms) != ABI_DOWN && !t->where.draining &&
            !target_ejected(t, now_ms))
            s->usable_weight += balance_weight(p, t, now_ms);
    }
    balance_judge_latency(b, s, p, now_ms);
}
