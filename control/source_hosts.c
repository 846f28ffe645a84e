/* SPDX-License-Identifier: Apache-2.0 */
#include "control/source_hosts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/resolve.h"
#include "control/source_found.h"
#include "control/state/service.h"

enum {
    FRESH_MS = 30000, /* names are looked up again then */
    RETRY_MS = 5000,  /* those that were not found */
    HOSTS_MAX = SOURCES_OWN_MAX * SOURCE_BACKENDS_MAX,
    ADDRESSES_MAX = SOURCE_BACKENDS_MAX * RESOLVE_ADDRESSES_MAX,
    NUMBERS_MAX = 2 * ADDRESSES_MAX,   /* of a place's backends: those of before, and new ones */
    ID_FIRST = 3 * PLAN_PEER_ID_FIRST, /* of backends, behind those of hosts where sources lead to */
    ERROR_MAX = 128,
};

/* A host that a source names. */
struct host {
    struct place *place;
    struct source_backend backend;
    bool looking;                /* the answer is this one's, whoever stands here by then */
    char asked[PLAN_DOMAIN_MAX]; /* what was looked up */
    uint64_t asked_ms;           /* 0: never */
    unsigned count;
    uint8_t ip[RESOLVE_ADDRESSES_MAX][16];
    char error[ERROR_MAX]; /* of the last look; "": it was found */
};

/* A place of the plan. What was one once stays allocated: a look may still be under way. */
struct place {
    struct source_hosts *owner;
    bool used;
    struct source source;
    struct host host[SOURCE_BACKENDS_MAX];
    unsigned hosts;
    struct plan_proxied proxied; /* with these: */
    struct plan_backend backend[ADDRESSES_MAX];
    uint16_t generation; /* of the backends */
};

struct source_hosts {
    struct source_hosts_config config;
    struct resolver *resolver;
    struct place *place[SOURCES_OWN_MAX];
    uint32_t incarnation;
    size_t next;                /* of all hosts of all places: who is looked up first at the next tick */
    struct source_found before; /* what the control before this one had found */
};

struct source_hosts *source_hosts_new(const struct source_hosts_config *config)
{
    struct source_hosts *h = calloc(1, sizeof(*h));
    CHECK(h);
    h->config = *config;
    /* A data plane that is taken over has those of the control before: they must not come again. */
    h->incarnation = (uint32_t)(uv_hrtime() >> 10);
    h->resolver = resolver_new(config->loop);
    if (config->state_fd >= 0)
        source_found_read(config->state_fd, &h->before);
    return h;
}

void source_hosts_close(struct source_hosts *h)
{
    resolver_close(h->resolver);
    for (size_t i = 0; i < SOURCES_OWN_MAX; i++)
        free(h->place[i]);
    source_found_fini(&h->before);
    free(h);
}

static struct place *find(const struct source_hosts *h, const char *prefix)
{
    for (size_t i = 0; i < SOURCES_OWN_MAX; i++)
        if (h->place[i] && h->place[i]->used && strcmp(h->place[i]->source.prefix, prefix) == 0)
            return h->place[i];
    return NULL;
}

/* ------------------------------------------------------------------ the service */

static size_t index_of(const struct place *p)
{
    for (size_t i = 0; i < SOURCES_OWN_MAX; i++)
        if (p->owner->place[i] == p)
            return i;
    IMPOSSIBLE("place of a source");
}

static const struct plan_backend *find_backend(const struct plan_backend *list, uint32_t count,
                                               const uint8_t ip[16], uint16_t port)
{
    for (uint32_t i = 0; i < count; i++)
        if (memcmp(list[i].ip, ip, 16) == 0 && list[i].port == port)
            return &list[i];
    return NULL;
}

/* One that was not there before. Metrics tell a host's addresses apart by names alone. */
static struct plan_backend new_backend(const struct place *p, const struct host *host, const uint8_t ip[16],
                                       bool taken[NUMBERS_MAX])
{
    uint32_t number = 0;
    while (taken[number])
        number++;
    taken[number] = true;
    struct plan_backend out = {.id = (uint32_t)(ID_FIRST + index_of(p) * NUMBERS_MAX + number),
                               .generation = p->generation,
                               .weight = 1,
                               .port = host->backend.port};
    memcpy(out.ip, ip, 16);
    snprintf(out.name, sizeof(out.name), "%.56s#%u", host->backend.host, number);
    return out;
}

/* A backend that stays is the same one to the data plane: it goes on with what it knows of it. */
static void put_backends(struct place *p)
{
    struct plan_backend before[ADDRESSES_MAX];
    bool taken[NUMBERS_MAX] = {false};
    uint32_t count = p->proxied.service.backend_count, now = 0;
    memcpy(before, p->backend, sizeof(before));
    for (uint32_t i = 0; i < count; i++)
        taken[before[i].id - ID_FIRST - index_of(p) * NUMBERS_MAX] = true;
    p->generation++;
    for (struct host *host = p->host; host < p->host + p->hosts; host++) {
        for (unsigned k = 0; k < host->count; k++) {
            const uint8_t *ip = host->ip[k];
            if (find_backend(p->backend, now, ip, host->backend.port))
                continue;
            const struct plan_backend *old = find_backend(before, count, ip, host->backend.port);
            p->backend[now++] = old ? *old : new_backend(p, host, ip, taken);
        }
    }
    p->proxied.service.backend_count = now;
}

/* As a service of the state of kind http comes, but that it has no verdicts: the data plane finds out. */
static void put_service(struct place *p)
{
    const struct source *s = &p->source;
    struct svc plain;
    svc_init(&plain, SVC_HTTP);
    struct plan_proxy proxy = plain.proxy;
    proxy.kind = PROXY_HTTP;
    proxy.policy = PROXY_LEAST;
    proxy.all_down = 1;
    proxy.backend_tls = s->tls;
    memcpy(proxy.backend_ca, s->ca, sizeof(proxy.backend_ca));
    memcpy(proxy.backend_name, s->server_name, sizeof(proxy.backend_name));
    for (unsigned i = 0; i < p->hosts && !proxy.backend_name[0]; i++)
        if (!p->host[i].backend.is_address)
            memcpy(proxy.backend_name, p->host[i].backend.host, sizeof(proxy.backend_name));
    p->proxied.service = (struct plan_service){.kind = SERVICE_PROXY,
                                               .policy = POLICY_ALLOW_ALL,
                                               .incarnation = ++p->owner->incarnation,
                                               .proxy = proxy};
    snprintf(p->proxied.service.name, sizeof(p->proxied.service.name), "@%.60s", s->prefix);
    p->proxied.place = (uint16_t)(PLAN_PLACE_SOURCES + index_of(p));
    p->proxied.backend = p->backend;
}

/* ------------------------------------------------------------------ names */

static int compare(const void *a, const void *b)
{
    return memcmp(a, b, 16);
}

static void look(struct host *host);

/* For the control after this one. One that cannot be kept costs that one a look more. */
static void keep(const struct source_hosts *h)
{
    struct source_found all = {.count = 0};
    if (h->config.state_fd < 0)
        return;
    for (size_t i = 0; i < SOURCES_OWN_MAX; i++) {
        const struct place *p = h->place[i];
        for (unsigned k = 0; p && p->used && k < p->hosts; k++)
            if (!p->host[k].backend.is_address)
                source_found_add(&all, p->host[k].backend.host, p->host[k].count,
                                 (const uint8_t(*)[16])p->host[k].ip);
    }
    (void)source_found_write(h->config.state_fd, &all);
    source_found_fini(&all);
}

static void take(struct host *host, const struct resolve_answer *found)
{
    struct source_hosts *h = host->place->owner;
    uint8_t ip[RESOLVE_ADDRESSES_MAX][16];
    if (!found->count) {
        snprintf(host->error, sizeof(host->error), "%s", found->error);
        return;
    }
    host->error[0] = '\0';
    memcpy(ip, found->ip, sizeof(ip));
    qsort(ip, found->count, sizeof(ip[0]), compare);
    if (host->count == found->count && memcmp(host->ip, ip, found->count * sizeof(ip[0])) == 0)
        return;
    host->count = found->count;
    memcpy(host->ip, ip, found->count * sizeof(ip[0]));
    put_backends(host->place);
    keep(h);
    h->config.publish(h->config.arg);
}

static bool is_asked(const struct host *host)
{
    const struct place *p = host->place;
    return p->used && host < p->host + p->hosts && !host->backend.is_address;
}

static void on_found(void *arg, const struct resolve_answer *found)
{
    struct host *host = arg;
    host->looking = false;
    if (!is_asked(host))
        return;
    if (strcmp(host->asked, host->backend.host) == 0)
        take(host, found);
    else
        look(host);
}

static void look(struct host *host)
{
    struct source_hosts *h = host->place->owner;
    host->asked_ms = uv_now(h->config.loop);
    if (host->looking)
        return;
    memcpy(host->asked, host->backend.host, sizeof(host->asked));
    host->looking = resolve_name(h->resolver, host->asked, on_found, host) == 0;
    if (!host->looking) /* too many are under way: at the next tick */
        host->asked_ms = 0;
}

static bool is_due(const struct host *host, uint64_t now_ms)
{
    uint64_t after_ms = host->error[0] ? RETRY_MS : FRESH_MS;
    return is_asked(host) && !host->looking && (!host->asked_ms || now_ms >= host->asked_ms + after_ms);
}

/* Goes on where there was no room for a look: names that nobody answers for would take all of it again. */
void source_hosts_tick(struct source_hosts *h)
{
    uint64_t now_ms = uv_now(h->config.loop);
    size_t first = h->next;
    for (size_t i = 0; i < HOSTS_MAX; i++) {
        size_t at = (first + i) % HOSTS_MAX, k = at % SOURCE_BACKENDS_MAX;
        struct place *p = h->place[at / SOURCE_BACKENDS_MAX];
        if (!p || k >= p->hosts || !is_due(&p->host[k], now_ms))
            continue;
        look(&p->host[k]);
        if (!p->host[k].looking) {
            h->next = at;
            return;
        }
    }
}

/* ------------------------------------------------------------------ what there is */

static void put_address(struct host *host)
{
    uint8_t *ip = host->ip[0];
    memset(ip, 0, 16);
    host->count = 1;
    if (uv_inet_pton(AF_INET6, host->backend.host, ip) == 0)
        return;
    ip[10] = ip[11] = 0xff;
    CHECK(uv_inet_pton(AF_INET, host->backend.host, ip + 12) == 0);
}

static void put_found(struct host *host)
{
    const struct source_found_host *before =
        source_found_find(&host->place->owner->before, host->backend.host);
    if (!before)
        return;
    host->count = before->count;
    memcpy(host->ip, before->ip, sizeof(host->ip));
}

/* A host that was there before, under whatever number, keeps its addresses. */
static void put_hosts(struct place *p)
{
    struct host before[SOURCE_BACKENDS_MAX];
    unsigned count = p->hosts;
    size_t at = 0;
    memcpy(before, p->host, sizeof(before));
    p->hosts = 0;
    for (struct host *host = p->host; source_backend_next(&p->source, &at, &host->backend); host++) {
        p->hosts++;
        host->place = p;
        host->count = 0;
        host->asked_ms = 0;
        host->error[0] = '\0';
        if (host->backend.is_address)
            put_address(host);
        for (unsigned k = 0; k < count && !host->count; k++) {
            if (strcmp(before[k].backend.host, host->backend.host) != 0)
                continue;
            host->count = before[k].count;
            memcpy(host->ip, before[k].ip, sizeof(host->ip));
        }
        if (!host->count)
            put_found(host);
        if (p->hosts == SOURCE_BACKENDS_MAX)
            break;
    }
}

static bool same_backends(const struct source *a, const struct source *b)
{
    return a->tls == b->tls && strcmp(a->backends, b->backends) == 0 && strcmp(a->ca, b->ca) == 0 &&
           strcmp(a->server_name, b->server_name) == 0;
}

static void define(struct place *p, const struct source *s)
{
    bool same = p->used && same_backends(&p->source, s);
    if (!p->used)
        p->hosts = 0;
    p->used = true;
    p->source = *s;
    if (same)
        return;
    put_hosts(p);
    put_service(p);
    put_backends(p);
    for (unsigned i = 0; i < p->hosts; i++)
        if (!p->host[i].backend.is_address)
            look(&p->host[i]);
}

/* NULL: there is none. */
static struct place *free_place(struct source_hosts *h)
{
    for (size_t i = 0; i < SOURCES_OWN_MAX; i++) {
        if (h->place[i] && h->place[i]->used)
            continue;
        if (!h->place[i])
            h->place[i] = calloc(1, sizeof(*h->place[i]));
        CHECK(h->place[i]);
        h->place[i]->owner = h;
        return h->place[i];
    }
    return NULL;
}

void source_hosts_set(struct source_hosts *h, const struct source_table *all)
{
    for (size_t i = 0; i < SOURCES_OWN_MAX; i++) {
        struct place *p = h->place[i];
        const struct source *s = p && p->used ? source_find(all, p->source.prefix) : NULL;
        if (p && (!s || !s->backends[0]))
            p->used = false;
    }
    for (size_t i = 0; i < all->count; i++) {
        const struct source *s = &all->list[i];
        struct place *p = s->backends[0] ? find(h, s->prefix) : NULL;
        if (s->backends[0] && !p)
            p = free_place(h);
        if (p)
            define(p, s);
    }
}

const struct plan_proxied *source_hosts_find(const struct source_hosts *h, const char *prefix)
{
    const struct place *p = find(h, prefix);
    return p && p->proxied.service.backend_count ? &p->proxied : NULL;
}

size_t source_hosts_list(const struct source_hosts *h, struct plan_proxied out[SOURCES_OWN_MAX])
{
    size_t count = 0;
    for (size_t i = 0; i < SOURCES_OWN_MAX; i++)
        if (h->place[i] && h->place[i]->used && h->place[i]->proxied.service.backend_count)
            out[count++] = h->place[i]->proxied;
    return count;
}

/* ------------------------------------------------------------------ for people */

void source_hosts_problem(const struct source_hosts *h, const char *prefix, char out[SOURCE_PROBLEM_MAX])
{
    const struct place *p = find(h, prefix);
    out[0] = '\0';
    if (!p)
        snprintf(out, SOURCE_PROBLEM_MAX, "there are %d others with backends of their own already",
                 SOURCES_OWN_MAX);
    for (unsigned i = 0; p && i < p->hosts && !out[0]; i++) {
        const struct host *host = &p->host[i];
        if (host->error[0])
            snprintf(out, SOURCE_PROBLEM_MAX, "the addresses of %.200s cannot be found: %s%s",
                     host->backend.host, host->error, host->count ? "; it is asked at the last ones" : "");
    }
}

static json_t *host_json(const struct host *host)
{
    json_t *addresses = json_array(), *row;
    char text[INET6_ADDRSTRLEN];
    for (unsigned k = 0; k < host->count; k++) {
        bool v4 = memcmp(host->ip[k], "\0\0\0\0\0\0\0\0\0\0\xff\xff", 12) == 0;
        CHECK(uv_inet_ntop(v4 ? AF_INET : AF_INET6, host->ip[k] + (v4 ? 12 : 0), text, sizeof(text)) == 0);
        json_array_append_new(addresses, json_string(text));
    }
    row = json_pack("{s:s, s:i, s:o}", "host", host->backend.host, "port", host->backend.port, "addresses",
                    addresses);
    CHECK(row);
    if (host->error[0])
        json_object_set_new(row, "error", json_string(host->error));
    return row;
}

json_t *source_hosts_json(const struct source_hosts *h, const char *prefix)
{
    const struct place *p = find(h, prefix);
    json_t *list = p ? json_array() : NULL;
    for (unsigned i = 0; p && i < p->hosts; i++)
        json_array_append_new(list, host_json(&p->host[i]));
    return list;
}
