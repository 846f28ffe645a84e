/* SPDX-License-Identifier: Apache-2.0 */
/* Services and backends as wholes: defaults, what goes together, the check's request, and the table of all.
 */
#include "control/state/service.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

enum {
    TCP_INTERVAL_MS = 20,
    HTTP_INTERVAL_MS = 1000,
    TCP_TIMEOUT_MS = 20,
    HTTP_TIMEOUT_MS = 500,
    RISE = 2,
    FALL = 3,
    REQUEST_MAX = 256, /* as include/abi.h has it: kernel_compile.c holds the two together */
};

/* What a kind is asked, and what it answers when it is well. */
static const struct {
    uint8_t check;
    const char *path, *statuses;
} kind_defaults[] = {
    [SVC_TCP] = {SVC_CHECK_TCP, "/", "200-399"},
    [SVC_HTTP] = {SVC_CHECK_HTTP, "/", "200-399"},
    [SVC_REGISTRY] = {SVC_CHECK_HTTP, "/v2/", "200,401"},
    [SVC_DOCKER] = {SVC_CHECK_HTTP, "/_ping", "200"},
    /* An API server speaks TLS, which the kernel's check does not. */
    [SVC_KUBERNETES] = {SVC_CHECK_TCP, "/readyz", "200"},
};

void svc_init(struct svc *s, enum svc_kind kind)
{
    char err[SVC_ERROR_MAX];
    CHECK(kind >= SVC_TCP && kind <= SVC_KUBERNETES);
    memset(s, 0, sizeof(*s));
    s->kind = (uint8_t)kind;
    s->route = SVC_DIRECT;
    s->policy = SVC_LEAST;
    s->edge = SVC_EDGE_OFF;
    s->all_down = SVC_REFUSE;
    s->steer = true;
    s->cut = true;
    s->check = (struct svc_check){.kind = kind_defaults[kind].check,
                                  .rise = RISE,
                                  .fall = FALL,
                                  .interval_ms = TCP_INTERVAL_MS,
                                  .http_interval_ms = HTTP_INTERVAL_MS,
                                  .timeout_ms = TCP_TIMEOUT_MS,
                                  .http_timeout_ms = HTTP_TIMEOUT_MS};
    svc_proxy_init(s);
    CHECK(svc_field_set(s, "check.path", kind_defaults[kind].path, err) == 0);
    CHECK(svc_field_set(s, "check.statuses", kind_defaults[kind].statuses, err) == 0);
}

void svc_backend_init(struct svc_backend *b)
{
    memset(b, 0, sizeof(*b));
    b->weight = 1;
    b->admin = SVC_ACTIVE;
}

/* Whether connections can go there at all. */
static bool is_unicast(const struct svc_address *a)
{
    static const uint8_t none[16];
    if (svc_address_is_v4(a))
        return a->ip[12] != 0 && a->ip[12] < 224;
    return a->ip[0] != 0xff && memcmp(a->ip, none, sizeof(none)) != 0;
}

static int refuse(char err[SVC_ERROR_MAX], const char *text)
{
    snprintf(err, SVC_ERROR_MAX, "%s", text);
    return -EINVAL;
}

static int check_way(const struct svc *s, char err[SVC_ERROR_MAX])
{
    bool loopback = svc_address_is_loopback(&s->address);
    if (s->route == SVC_PROXY)
        return svc_proxy_check(s, err);
    if (s->policy == SVC_DIGEST)
        return refuse(err, "policy: digest is for path: proxy, where requests can be read; set path: proxy, "
                           "or another policy");
    if (s->tls.mode != PLAN_TLS_OFF || s->names[0] || s->tls.proxy_protocol || s->proxy.backend_tls)
        return refuse(err, "tls, proxy_protocol and backend.tls are for path: proxy; set path: proxy, or "
                           "leave them off: the kernel passes connections on as they are");
    if (s->edge != SVC_EDGE_OFF && loopback)
        return refuse(err, "edge: packets to a loopback address never arrive from outside; give the service "
                           "another address, or edge: off");
    if (s->takeover && loopback)
        return refuse(err, "takeover: a loopback address is not answered on a LAN; give the service another "
                           "address, or takeover: false");
    if (s->takeover && s->edge == SVC_EDGE_OFF)
        return refuse(err, "takeover: whoever answers for the address must pass its packets on; set edge to "
                           "nat, full-nat or dsr as well");
    if (!s->steer && s->edge == SVC_EDGE_OFF)
        return refuse(err, "neither steer nor edge is on, so that nothing would use the service; set one of "
                           "them");
    return 0;
}

int svc_check(const struct svc *s, char err[SVC_ERROR_MAX])
{
    char request[REQUEST_MAX];
    if (!svc_name_valid(s->name, strlen(s->name)))
        return refuse(err, "a service's name has 1 to 63 letters, digits, '.', '_', '-' and ':'");
    if (s->address.port == 0 || !is_unicast(&s->address))
        return refuse(err, "address: a service needs the address of a host and a port, as in 10.0.0.1:80");
    if (s->check.kind == SVC_CHECK_HTTP && svc_check_request(s, request, sizeof(request)) == 0)
        return refuse(err, "check.path and check.host are too long together for one probe; shorten them to "
                           "170 bytes");
    if (s->check.kind == SVC_CHECK_TLS && s->route == SVC_PROXY && !s->proxy.backend_tls &&
        s->tls.mode != PLAN_TLS_PASSTHROUGH)
        return refuse(err, "check.kind: tls is for backends that speak TLS; set backend.tls: true or tls: "
                           "passthrough, or check.kind: tcp");
    return check_way(s, err);
}

static int check_unix(const struct svc *s, const struct svc_backend *b, char err[SVC_ERROR_MAX])
{
    if (s->route == SVC_DIRECT)
        return refuse(err,
                      "address: the kernel sends nobody to a Unix socket; set the service's path: proxy");
    if (b->node[0])
        return refuse(err, "node: a Unix socket is on this node; leave it empty");
    if (s->proxy.backend_tls && !s->proxy.backend_name[0] && s->proxy.backend_verify)
        return refuse(err, "backend.name: a Unix socket has no name that its certificate could be checked "
                           "for; set backend.name, or backend.verify: false");
    return 0;
}

int svc_backend_check(const struct svc *s, const struct svc_backend *b, char err[SVC_ERROR_MAX])
{
    if (!svc_name_valid(b->name, strlen(b->name)))
        return refuse(err, "a backend's name has 1 to 63 letters, digits, '.', '_', '-' and ':'");
    if (svc_backend_is_unix(b))
        return check_unix(s, b, err);
    if (b->address.port == 0 || !is_unicast(&b->address))
        return refuse(err, "address: a backend needs the address of a host and a port, as in 10.0.0.1:80");
    if (s->route == SVC_DIRECT && svc_address_is_v4(&b->address) != svc_address_is_v4(&s->address))
        return refuse(err, "address: a backend has the address family of its service; make a second service "
                           "for the other family");
    if (memcmp(&b->address, &s->address, sizeof(b->address)) == 0)
        return refuse(err, "address: a backend cannot have its service's own address");
    if (s->route == SVC_DIRECT && s->steer && svc_address_is_loopback(&b->address))
        return refuse(err, "address: a loopback backend cannot be steered to: a client in a container would "
                           "reach its own loopback; give an address of the host, or steer: false");
    return 0;
}

size_t svc_check_request(const struct svc *s, char *out, size_t cap)
{
    char address[ADDRESS_TEXT_MAX];
    const char *host = s->check.host[0] ? s->check.host : svc_address_text(&s->address, address);
    for (int pad = 0; pad < 4; pad++) {
        /* Blanks before a value do not count (RFC 9112, 5): they make the length a multiple of 4. */
        int n = snprintf(
            out, cap, "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: %*sfairlead\r\nConnection: close\r\n\r\n",
            s->check.path, host, pad, "");
        CHECK(n > 0);
        if (n % 4 == 0)
            return (size_t)n < cap ? (size_t)n : 0;
    }
    IMPOSSIBLE("four lengths in a row and none is a multiple of 4");
}

enum svc_check_kind svc_check_kind(const struct svc *s)
{
    bool tls = s->route == SVC_PROXY && (s->proxy.backend_tls || s->tls.mode == PLAN_TLS_PASSTHROUGH);
    return tls && s->check.kind == SVC_CHECK_TCP ? SVC_CHECK_TLS : (enum svc_check_kind)s->check.kind;
}

uint32_t svc_probes_per_s(const struct svc *s)
{
    uint32_t tcp = (1000 + s->check.interval_ms - 1) / s->check.interval_ms;
    uint32_t http = (1000 + s->check.http_interval_ms - 1) / s->check.http_interval_ms;
    if (s->check.kind == SVC_CHECK_NONE)
        return 0;
    return s->check.kind == SVC_CHECK_HTTP && http > tcp ? http : tcp;
}

bool svc_same(const struct svc *a, const struct svc *b)
{
    char one[SVC_TEXT_MAX], other[SVC_TEXT_MAX];
    for (size_t i = 0; i < svc_field_count(); i++)
        if (strcmp(svc_field_text(a, svc_field_key(i), one), svc_field_text(b, svc_field_key(i), other)) != 0)
            return false;
    return strcmp(a->name, b->name) == 0 && a->origin == b->origin;
}

bool svc_backend_same(const struct svc_backend *a, const struct svc_backend *b)
{
    return strcmp(a->name, b->name) == 0 && strcmp(a->node, b->node) == 0 && a->origin == b->origin &&
           a->weight == b->weight && memcmp(&a->address, &b->address, sizeof(a->address)) == 0 &&
           strcmp(a->unix_path, b->unix_path) == 0;
}

static int compare_name(const void *key, const void *row)
{
    return strcmp(key, ((const struct svc *)row)->name);
}

const struct svc *svc_find(const struct svc_table *t, const char *name)
{
    return t->count ? bsearch(name, t->service, t->count, sizeof(*t->service), compare_name) : NULL;
}

const struct svc *svc_find_id(const struct svc_table *t, uint32_t id)
{
    for (size_t i = 0; i < t->count; i++)
        if (t->service[i].id == id)
            return &t->service[i];
    return NULL;
}

const struct svc_backend *svc_find_backend(const struct svc_table *t, const struct svc *s, const char *name)
{
    size_t low = s->first_backend, high = low + s->backends;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(name, t->backend[middle].name);
        if (order == 0)
            return &t->backend[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

void svc_table_fini(struct svc_table *t)
{
    free(t->service);
    free(t->backend);
    memset(t, 0, sizeof(*t));
}
