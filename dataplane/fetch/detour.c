/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/fetch/detour.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "dataplane/link.h"
#include "dataplane/pool.h"
#include "dataplane/ring.h"
#include "dataplane/http/location.h"

struct detour {
    struct detours *all;
    detour_done done;
    void *arg;
    struct channel_query query;
    struct timer timer;
    bool asking, dropped;
    uint16_t place;
    uint32_t incarnation;
    uint16_t authority_len, target_len;
    char authority[DETOUR_AUTHORITY_MAX];
    char target[DETOUR_TARGET_MAX];
};

struct detours {
    struct ring *ring;
    struct pool pool;
};

int detours_new(struct ring *ring, struct detours **out)
{
    struct detours *all = calloc(1, sizeof(*all));
    if (!all)
        return -ENOMEM;
    all->ring = ring;
    int err = pool_init(&all->pool, sizeof(struct detour), DETOURS_MAX);
    if (err) {
        free(all);
        return err;
    }
    *out = all;
    return 0;
}

void detours_free(struct detours *all)
{
    pool_fini(&all->pool);
    free(all);
}

void detour_drop(struct detour *d)
{
    if (!d)
        return;
    timer_clear(&d->timer);
    d->dropped = true;
    if (!d->asking) /* else it goes when control has answered */
        pool_give(&d->all->pool, d);
}

/* ------------------------------------------------------------------ the way there */

static void tell_here(struct timer *t, uint64_t now_ms)
{
    struct detour *d = container_of(t, struct detour, timer);
    (void)now_ms;
    d->done(d, WAY_OK, d->arg);
}

static void answered(struct channel_query *q, int err, const uint8_t *body, size_t len)
{
    struct detour *d = container_of(q, struct detour, query);
    struct frame_way f = {.status = WAY_UNAVAILABLE};
    (void)len;
    d->asking = false;
    if (d->dropped) {
        pool_give(&d->all->pool, d);
        return;
    }
    if (!err)
        memcpy(&f, body, sizeof(f));
    if (f.place >= PLAN_SERVICES_MAX || f.status >= WAY_STATUS_COUNT)
        f.status = WAY_UNAVAILABLE;
    d->place = (uint16_t)f.place;
    d->incarnation = f.incarnation;
    d->done(d, (enum way_status)f.status, d->arg);
}

static int ask(struct detour *d, uint64_t source, const struct http_location *l)
{
    struct ring *ring = d->all->ring;
    struct frame_way_wanted f = {
        .source = source, .port = l->port, .tls = l->tls, .host_len = (uint8_t)l->host.len};
    uint8_t body[sizeof(f) + WAY_HOST_MAX];
    memcpy(body, &f, sizeof(f));
    memcpy(body + sizeof(f), l->host.p, l->host.len);
    d->query.answered = answered;
    d->query.answer = FRAME_WAY;
    d->query.deadline_ms = ring_now_ms(ring) + DETOUR_ASK_MS;
    int err = channel_query(ring->channel, &d->query, FRAME_WAY_WANTED, body, sizeof(f) + l->host.len);
    d->asking = err == 0;
    return err;
}

/* As a field has it: IPv6 in brackets, the port unless it is the scheme's. */
static void write_authority(struct detour *d, const struct http_location *l)
{
    bool v6 = memchr(l->host.p, ':', l->host.len) != NULL;
    int n = snprintf(d->authority, sizeof(d->authority), "%s%.*s%s", v6 ? "[" : "", (int)l->host.len,
                     l->host.p, v6 ? "]" : "");
    CHECK(n > 0 && (size_t)n < sizeof(d->authority));
    if (l->port != (l->tls ? 443 : 80))
        n += snprintf(d->authority + n, sizeof(d->authority) - (size_t)n, ":%u", l->port);
    CHECK((size_t)n < sizeof(d->authority));
    d->authority_len = (uint16_t)n;
}

/* The same server, by another path. */
static void stay(struct detour *d, const struct detour_from *from)
{
    d->place = from->place;
    d->incarnation = from->incarnation;
    d->authority_len = (uint16_t)from->authority.len;
    if (from->authority.len)
        memcpy(d->authority, from->authority.p, from->authority.len);
    d->timer.fire = tell_here;
    timer_set(&d->all->ring->wheel, &d->timer, ring_now_ms(d->all->ring));
}

int detour_find(struct detours *all, const struct detour_from *from, detour_done done, void *arg,
                struct detour **out)
{
    struct http_location l;
    if (!view_present(from->location) || http_location_read(from->location, &l) ||
        l.target.len > DETOUR_TARGET_MAX)
        return -EINVAL;
    struct detour *d = pool_take(&all->pool);
    if (!d)
        return -ENOBUFS;
    struct view target = l.target.len ? l.target : VIEW_LIT("/");
    memset(d, 0, offsetof(struct detour, authority));
    d->all = all;
    d->done = done;
    d->arg = arg;
    d->target_len = (uint16_t)target.len;
    memcpy(d->target, target.p, target.len);
    if (l.elsewhere)
        write_authority(d, &l);
    if (!l.elsewhere || (l.tls == from->tls && view_ieq(detour_authority(d), from->host))) {
        stay(d, from);
        *out = d;
        return 0;
    }
    int err = ask(d, from->source, &l);
    if (err)
        pool_give(&all->pool, d);
    else
        *out = d;
    return err;
}

uint16_t detour_place(const struct detour *d)
{
    return d->place;
}

uint32_t detour_incarnation(const struct detour *d)
{
    return d->incarnation;
}

struct view detour_authority(const struct detour *d)
{
    return d->authority_len ? view_of(d->authority, d->authority_len) : (struct view){0};
}

struct view detour_target(const struct detour *d)
{
    return view_of(d->target, d->target_len);
}
