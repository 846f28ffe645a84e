/* SPDX-License-Identifier: Apache-2.0 */
#include "control/source_way.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "check.h"
#include "control/resolve.h"

enum {
    FRESH_MS = 60000, /* addresses are asked for again then */
    UNUSED_MS = 600000,
    EVICT_MS = 60000, /* for another host's sake sooner */
    WAIT_MS = 10000,  /* for a plan to be applied */
    CONNECTIONS_MIN = 16,
    ID_FIRST = 2 * PLAN_PEER_ID_FIRST, /* of backends, behind those of peers */
    TEXT_MAX = 512,
};

struct waiter {
    struct waiter *next;
    uint64_t since_ms;
    source_way_done done;
    void *arg;
};

/* A host. */
struct way {
    bool used, resolving;
    struct source_ways *owner;
    char prefix[REPO_NAME_MAX + 1]; /* of the source that led there first, for people */
    char host[WAY_HOST_MAX + 1];
    uint16_t port;
    bool tls;
    struct plan_service service;
    struct plan_backend backend[RESOLVE_ADDRESSES_MAX];
    uint16_t generation; /* of the backends */
    uint64_t resolved_ms, used_ms;
    uint64_t plan; /* the first one with these addresses; 0: there is none */
    struct waiter *waiting;
};

struct source_ways {
    struct source_ways_config config;
    struct resolver *resolver;
    struct way way[WAYS_MAX];
    uint32_t incarnation;
    uint64_t applied;
};

static uint64_t now_ms(const struct source_ways *s)
{
    return uv_now(s->config.loop);
}

struct source_ways *source_ways_new(const struct source_ways_config *config)
{
    struct source_ways *s = calloc(1, sizeof(*s));
    CHECK(s);
    s->config = *config;
    /* A data plane that is taken over has those of the control before: they must not come again. */
    s->incarnation = (uint32_t)(uv_hrtime() >> 10);
    s->resolver = resolver_new(config->loop);
    return s;
}

/* ------------------------------------------------------------------ rules */

/* "host", or "*.domain" for all below it. */
static bool matches(const char *pattern, size_t pattern_len, const char *host)
{
    size_t len = strlen(host), tail = pattern_len - 1;
    if (pattern[0] != '*')
        return len == pattern_len && strncasecmp(pattern, host, len) == 0;
    return len > tail && strncasecmp(host + len - tail, pattern + 1, tail) == 0;
}

static bool is_named(const struct source *source, const char *host)
{
    const char *list = source->redirect_hosts, *item;
    size_t len;
    bool named = false;
    while (!named && source_item_next(&list, &item, &len))
        named = matches(item, len, host);
    return named;
}

static bool is_address(const char *host, uint8_t ip[16])
{
    memset(ip, 0, 16);
    if (uv_inet_pton(AF_INET6, host, ip) == 0)
        return true;
    ip[10] = ip[11] = 0xff;
    return uv_inet_pton(AF_INET, host, ip + 12) == 0;
}

static bool is_own(const struct plan_proxied *service, const char *host)
{
    uint8_t ip[16];
    if (strcasecmp(service->service.proxy.backend_name, host) == 0)
        return true;
    if (!is_address(host, ip))
        return false;
    for (uint32_t i = 0; i < service->service.backend_count; i++)
        if (memcmp(service->backend[i].ip, ip, sizeof(ip)) == 0)
            return true;
    return false;
}

/* Why it may not be asked, or NULL. */
static const char *forbidden(const struct way_access *access, const char *host, bool tls)
{
    bool named = is_named(access->source, host), limited = access->source->redirect_hosts[0];
    if (!tls && access->service->service.proxy.backend_tls)
        return "that is asked in clear, though the source itself is asked over TLS";
    if (limited && !named)
        return "that is none of its redirect_hosts";
    if (!tls && !named && !is_own(access->service, host))
        return "that is asked in clear and is none of its redirect_hosts";
    return NULL;
}

/* What came over the channel: only what a name or an address has. */
static bool is_host(const struct source_way_question *q)
{
    static const char chars[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._:";
    if (!q->host_len || q->host_len > WAY_HOST_MAX || !q->port)
        return false;
    for (size_t i = 0; i < q->host_len; i++)
        if (!memchr(chars, q->host[i], sizeof(chars) - 1))
            return false;
    return true;
}

/* ------------------------------------------------------------------ those who wait */

static unsigned index_of(const struct way *w)
{
    return (unsigned)(w - w->owner->way);
}

static void answer(const struct way *w, enum way_status status, source_way_done done, void *arg)
{
    const struct frame_way f = {
        .status = status, .place = PLAN_PLACE_WAYS + index_of(w), .incarnation = w->service.incarnation};
    done(arg, &f);
}

static void answer_all(struct way *w, enum way_status status)
{
    while (w->waiting) {
        struct waiter *waiter = w->waiting;
        w->waiting = waiter->next;
        answer(w, status, waiter->done, waiter->arg);
        free(waiter);
    }
}

static void wait_for(struct way *w, source_way_done done, void *arg)
{
    struct waiter *waiter = calloc(1, sizeof(*waiter));
    CHECK(waiter);
    *waiter = (struct waiter){w->waiting, now_ms(w->owner), done, arg};
    w->waiting = waiter;
}

void source_ways_applied(struct source_ways *s, uint64_t generation)
{
    s->applied = generation > s->applied ? generation : s->applied;
    for (struct way *w = s->way; w < s->way + WAYS_MAX; w++)
        if (w->used && w->plan && w->plan <= s->applied)
            answer_all(w, WAY_OK);
}

/* ------------------------------------------------------------------ addresses */

static void resolve(struct way *w);

static void forget(struct way *w)
{
    answer_all(w, WAY_UNAVAILABLE);
    w->used = false;
}

static int compare(const void *a, const void *b)
{
    return memcmp(a, b, 16);
}

static bool is_same(const struct way *w, uint8_t (*ip)[16], unsigned count)
{
    bool same = w->service.backend_count == count;
    for (unsigned i = 0; i < count && same; i++)
        same = memcmp(w->backend[i].ip, ip[i], 16) == 0;
    return same;
}

static void put_backends(struct way *w, uint8_t (*ip)[16], unsigned count)
{
    w->generation++;
    w->service.backend_count = count;
    for (unsigned i = 0; i < count; i++) {
        unsigned number = index_of(w) * RESOLVE_ADDRESSES_MAX + i;
        w->backend[i] = (struct plan_backend){
            .id = ID_FIRST + number, .generation = w->generation, .weight = 1, .port = w->port};
        memcpy(w->backend[i].ip, ip[i], 16);
        /* Metrics tell addresses apart by names alone; a host may have several ways, too. */
        snprintf(w->backend[i].name, sizeof(w->backend[i].name), "%.56s#%u", w->service.name, number);
    }
}

static void on_resolved(void *arg, const struct resolve_answer *found)
{
    struct way *w = arg;
    struct source_ways *s = w->owner;
    uint8_t ip[RESOLVE_ADDRESSES_MAX][16];
    char text[TEXT_MAX];
    w->resolving = false;
    w->resolved_ms = now_ms(s);
    memcpy(ip, found->ip, sizeof(ip));
    qsort(ip, found->count, sizeof(ip[0]), compare);
    if (!found->count) {
        snprintf(text, sizeof(text), "it sends its clients to %s, whose address cannot be found: %s", w->host,
                 found->error);
        s->config.tell(s->config.arg, w->prefix, text);
        if (!w->service.backend_count) /* else those of before are asked on */
            forget(w);
    } else if (!is_same(w, ip, found->count)) {
        put_backends(w, ip, found->count);
        w->plan = s->config.publish(s->config.arg);
    }
}

static void resolve(struct way *w)
{
    int err = resolve_name(w->owner->resolver, w->host, on_resolved, w);
    w->resolving = err == 0;
    if (err && !w->service.backend_count)
        forget(w);
}

/* ------------------------------------------------------------------ hosts */

static const char *ca_of(const struct way_access *access, bool tls)
{
    return tls ? access->service->service.proxy.backend_ca : "";
}

static struct way *find(struct source_ways *s, const struct source_way_question *q, const char *host,
                        const char *ca)
{
    for (struct way *w = s->way; w < s->way + WAYS_MAX; w++)
        if (w->used && w->port == q->port && w->tls == q->tls && strcmp(w->host, host) == 0 &&
            strcmp(w->service.proxy.backend_ca, ca) == 0)
            return w;
    return NULL;
}

/* A free place, or that of the one which was not used for longest; NULL: all are in use. */
static struct way *room(struct source_ways *s)
{
    struct way *oldest = NULL;
    for (struct way *w = s->way; w < s->way + WAYS_MAX; w++) {
        if (w->resolving) /* it is its answer's, used or not */
            continue;
        if (!w->used)
            return w;
        if (!w->waiting && now_ms(s) >= w->used_ms + EVICT_MS && (!oldest || w->used_ms < oldest->used_ms))
            oldest = w;
    }
    return oldest;
}

/* As the source's own backends are spoken to, but that nobody is shown a certificate of ours, and each one
 * has to prove its name. */
static void make(struct way *w, struct source_ways *s, const struct source_way_question *q,
                 const struct way_access *access, const char *host)
{
    uint16_t generation = w->generation;
    uint8_t ip[16];
    *w = (struct way){.used = true, .owner = s, .port = q->port, .tls = q->tls, .generation = generation};
    memcpy(w->prefix, access->source->prefix, sizeof(w->prefix));
    snprintf(w->host, sizeof(w->host), "%s", host);
    struct plan_proxy proxy = access->service->service.proxy;
    proxy.kind = PROXY_HTTP;
    proxy.policy = PROXY_LEAST;
    proxy.all_down = proxy.backend_verify = proxy.backend_http = 1;
    proxy.backend_tls = q->tls;
    proxy.proxy_protocol = 0;
    if (proxy.connections_max < CONNECTIONS_MIN)
        proxy.connections_max = CONNECTIONS_MIN;
    memset(proxy.backend_certificate, 0, sizeof(proxy.backend_certificate));
    memset(proxy.backend_name, 0, sizeof(proxy.backend_name));
    if (!q->tls)
        memset(proxy.backend_ca, 0, sizeof(proxy.backend_ca));
    else if (!is_address(host, ip))
        memcpy(proxy.backend_name, w->host, sizeof(proxy.backend_name));
    w->service = (struct plan_service){
        .kind = SERVICE_PROXY, .policy = POLICY_ALLOW_ALL, .incarnation = ++s->incarnation, .proxy = proxy};
    snprintf(w->service.name, sizeof(w->service.name), "@%.60s", host);
}

static enum way_status refuse(struct source_ways *s, const struct way_access *access, const char *host,
                              const char *why)
{
    char text[TEXT_MAX];
    snprintf(text, sizeof(text), "it sends its clients to %s: %s", host, why);
    s->config.tell(s->config.arg, access->source->prefix, text);
    return WAY_REFUSED;
}

/* WAY_OK: *out has it. */
static enum way_status way_of(struct source_ways *s, const struct source_way_question *q, struct way **out)
{
    struct way_access access;
    char host[WAY_HOST_MAX + 1];
    if (!is_host(q))
        return WAY_REFUSED;
    if (!s->config.look(s->config.arg, q->source, &access))
        return WAY_UNAVAILABLE;
    snprintf(host, sizeof(host), "%.*s", (int)q->host_len, q->host);
    for (char *c = host; *c; c++)
        *c = (char)(*c >= 'A' && *c <= 'Z' ? *c | 0x20 : *c);
    const char *why = forbidden(&access, host, q->tls);
    if (why)
        return refuse(s, &access, host, why);
    *out = find(s, q, host, ca_of(&access, q->tls));
    if (*out)
        return WAY_OK;
    *out = room(s);
    if (!*out)
        return WAY_UNAVAILABLE;
    make(*out, s, q, &access, host);
    return WAY_OK;
}

void source_way_get(struct source_ways *s, const struct source_way_question *q, source_way_done done,
                    void *arg)
{
    struct way *w = NULL;
    enum way_status status = way_of(s, q, &w);
    if (status != WAY_OK) {
        const struct frame_way f = {.status = status};
        done(arg, &f);
        return;
    }
    w->used_ms = now_ms(s);
    bool known = w->plan && w->plan <= s->applied;
    if (known)
        answer(w, WAY_OK, done, arg);
    else
        wait_for(w, done, arg);
    if (!w->resolving && (!w->service.backend_count || w->used_ms >= w->resolved_ms + FRESH_MS))
        resolve(w);
}

size_t source_ways_list(const struct source_ways *s, struct plan_proxied out[WAYS_MAX])
{
    size_t count = 0;
    for (const struct way *w = s->way; w < s->way + WAYS_MAX; w++)
        if (w->used && w->service.backend_count)
            out[count++] = (struct plan_proxied){.place = (uint16_t)(PLAN_PLACE_WAYS + index_of(w)),
                                                 .service = w->service,
                                                 .backend = w->backend};
    return count;
}

/* ------------------------------------------------------------------ time */

/* The data plane may have ended meanwhile, and nobody told of the plan. */
static void drop_late(struct way *w)
{
    for (struct waiter **at = &w->waiting, *waiter; (waiter = *at);) {
        if (now_ms(w->owner) < waiter->since_ms + WAIT_MS) {
            at = &waiter->next;
            continue;
        }
        *at = waiter->next;
        answer(w, WAY_UNAVAILABLE, waiter->done, waiter->arg);
        free(waiter);
    }
}

void source_ways_tick(struct source_ways *s)
{
    bool gone = false;
    for (struct way *w = s->way; w < s->way + WAYS_MAX; w++) {
        drop_late(w);
        if (!w->used || w->resolving || w->waiting || now_ms(s) < w->used_ms + UNUSED_MS)
            continue;
        w->used = false;
        gone = true;
    }
    if (gone)
        (void)s->config.publish(s->config.arg);
}

void source_ways_close(struct source_ways *s)
{
    resolver_close(s->resolver);
    for (struct way *w = s->way; w < s->way + WAYS_MAX; w++)
        answer_all(w, WAY_UNAVAILABLE);
    free(s);
}
