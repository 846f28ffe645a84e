/* SPDX-License-Identifier: Apache-2.0 */
/* Services and backends as bytes: in commands, and in rows. */
#include <stddef.h>
#include <string.h>

#include "check.h"
#include "control/state/codec.h"

/*
 * Version 1 of a service has no fields of the proxy, 2 no names, 3 no half_closed_timeout; version 1 of a
 * backend no Unix socket. Version 4 is written where it says more than 3: nodes that do not know it read the
 * others (state_version_needed).
 */
enum { SVC_VERSION = 4, SVC_VERSION_HALF_CLOSED = 4, BACKEND_VERSION = 2, ROW_VERSION = 1 };

static void put_check(struct wire_writer *w, const struct svc_check *c)
{
    wire_put_u8(w, c->kind);
    wire_put_u8(w, c->rise);
    wire_put_u8(w, c->fall);
    wire_put_u32(w, c->interval_ms);
    wire_put_u32(w, c->http_interval_ms);
    wire_put_u32(w, c->timeout_ms);
    wire_put_u32(w, c->http_timeout_ms);
    for (size_t i = 0; i < 8; i++)
        wire_put_u64(w, c->statuses[i]);
    codec_put_text(w, c->path);
    codec_put_text(w, c->host);
}

static uint32_t get_ms(struct wire_reader *r)
{
    return codec_get_range(r, 4, SVC_INTERVAL_MS_MIN, SVC_INTERVAL_MS_MAX);
}

static void get_check(struct wire_reader *r, struct svc_check *c)
{
    c->kind = (uint8_t)codec_get_range(r, 1, SVC_CHECK_NONE, SVC_CHECK_TLS);
    c->rise = (uint8_t)codec_get_range(r, 1, 1, 255);
    c->fall = (uint8_t)codec_get_range(r, 1, 1, 255);
    c->interval_ms = get_ms(r);
    c->http_interval_ms = get_ms(r);
    c->timeout_ms = get_ms(r);
    c->http_timeout_ms = get_ms(r);
    for (size_t i = 0; i < 8; i++)
        c->statuses[i] = wire_get_u64(r);
    codec_get_text(r, c->path, sizeof(c->path));
    codec_get_text(r, c->host, sizeof(c->host));
}

/* The numbers of the proxy's fields, in wire order: the list only ever grows, with the version. */
struct number {
    size_t offset, size;
    uint32_t min, max;
};

#define NUMBER(member, min, max)                                                                             \
    {                                                                                                        \
        offsetof(struct svc, member), sizeof(((struct svc *)NULL)->member), min, max                         \
    }
static const struct number numbers[] = {
    NUMBER(tls.mode, PLAN_TLS_OFF, PLAN_TLS_PASSTHROUGH),
    NUMBER(tls.client_auth, PLAN_AUTH_NONE, PLAN_AUTH_REQUIRED),
    NUMBER(tls.http2, 0, 1),
    NUMBER(tls.proxy_protocol, 0, 1),
    NUMBER(proxy.backend_tls, 0, 1),
    NUMBER(proxy.backend_verify, 0, 1),
    NUMBER(proxy.backend_http, 1, 2),
    NUMBER(proxy.proxy_protocol, 0, 2),
    NUMBER(proxy.forwarded, PROXY_FORWARDED_OFF, PROXY_FORWARDED_BOTH),
    NUMBER(proxy.trust_forwarded, 0, 1),
    NUMBER(proxy.host_of_backend, 0, 1),
    NUMBER(proxy.verify, PROXY_VERIFY_NEVER, PROXY_VERIFY_ALWAYS),
    NUMBER(proxy.coalesce, 0, 1),
    NUMBER(proxy.technique, PROXY_AUTO, PROXY_COPY),
    NUMBER(proxy.connections_max, 1, UINT32_MAX),
    NUMBER(proxy.requests_max, 0, UINT32_MAX),
    NUMBER(proxy.queue_max, 0, UINT32_MAX),
    NUMBER(proxy.queue_timeout_ms, 1, UINT32_MAX),
    NUMBER(proxy.connect_timeout_ms, 1, UINT32_MAX),
    NUMBER(proxy.response_timeout_ms, 0, UINT32_MAX),
    NUMBER(proxy.idle_timeout_ms, 0, UINT32_MAX),
    NUMBER(proxy.retries, 0, UINT32_MAX),
    NUMBER(proxy.retry_budget, 0, UINT32_MAX),
    NUMBER(proxy.slow_start_ms, 0, UINT32_MAX),
    NUMBER(proxy.eject_failures, 0, UINT32_MAX),
    NUMBER(proxy.eject_ms, 1, UINT32_MAX),
    NUMBER(proxy.eject_latency, 0, UINT32_MAX),
    NUMBER(proxy.stall_rate, 0, UINT32_MAX),
    NUMBER(proxy.stall_ms, 1, UINT32_MAX),
    NUMBER(proxy.resumes_max, 0, UINT32_MAX),
    NUMBER(proxy.hedge_ms, 0, UINT32_MAX),
};
#undef NUMBER

static void put_proxy(struct wire_writer *w, const struct svc *s)
{
    for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
        const void *at = (const char *)s + numbers[i].offset;
        wire_put_uint(w, numbers[i].size == 1 ? *(const uint8_t *)at : *(const uint32_t *)at,
                      numbers[i].size);
    }
    wire_put_u8(w, s->tls.certificate_count);
    for (size_t i = 0; i < s->tls.certificate_count; i++)
        codec_put_text(w, s->tls.certificate[i]);
    codec_put_text(w, s->tls.client_ca);
    codec_put_text(w, s->proxy.backend_ca);
    codec_put_text(w, s->proxy.backend_certificate);
    codec_put_text(w, s->proxy.backend_name);
}

static void get_proxy(struct wire_reader *r, struct svc *s)
{
    for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
        uint32_t value = codec_get_range(r, numbers[i].size, numbers[i].min, numbers[i].max);
        void *at = (char *)s + numbers[i].offset;
        if (numbers[i].size == 1)
            *(uint8_t *)at = (uint8_t)value;
        else
            *(uint32_t *)at = value;
    }
    s->tls.certificate_count = (uint8_t)codec_get_range(r, 1, 0, PLAN_CERTIFICATES_MAX);
    for (size_t i = 0; i < s->tls.certificate_count && !r->failed; i++)
        codec_get_text(r, s->tls.certificate[i], sizeof(s->tls.certificate[i]));
    codec_get_text(r, s->tls.client_ca, sizeof(s->tls.client_ca));
    codec_get_text(r, s->proxy.backend_ca, sizeof(s->proxy.backend_ca));
    codec_get_text(r, s->proxy.backend_certificate, sizeof(s->proxy.backend_certificate));
    codec_get_text(r, s->proxy.backend_name, sizeof(s->proxy.backend_name));
}

static void get_names(struct wire_reader *r, struct svc *s)
{
    char text[SVC_NAMES_MAX + 1];
    codec_get_text(r, text, sizeof(text));
    if (!r->failed && (svc_names_parse(text, s->names) || strcmp(text, s->names) != 0))
        r->failed = true;
}

void svc_put(struct wire_writer *w, const struct svc *s)
{
    wire_put_u8(w, s->proxy.half_closed_ms ? SVC_VERSION_HALF_CLOSED : SVC_VERSION_HALF_CLOSED - 1);
    codec_put_text(w, s->name);
    codec_put_address(w, &s->address);
    wire_put_u8(w, s->kind);
    wire_put_u8(w, s->route);
    wire_put_u8(w, s->policy);
    wire_put_u8(w, s->edge);
    wire_put_u8(w, s->all_down);
    wire_put_u8(w, s->steer);
    wire_put_u8(w, s->takeover);
    wire_put_u8(w, s->cut);
    wire_put_u8(w, s->origin);
    put_check(w, &s->check);
    put_proxy(w, s);
    codec_put_text(w, s->names);
    if (s->proxy.half_closed_ms)
        wire_put_u32(w, s->proxy.half_closed_ms);
}

void svc_get(struct wire_reader *r, struct svc *s)
{
    memset(s, 0, sizeof(*s));
    uint8_t version = codec_get_version(r, SVC_VERSION);
    codec_get_text(r, s->name, sizeof(s->name));
    codec_get_address(r, &s->address, 1);
    s->kind = (uint8_t)codec_get_range(r, 1, SVC_TCP, SVC_KUBERNETES);
    s->route = (uint8_t)codec_get_range(r, 1, SVC_DIRECT, SVC_PROXY);
    s->policy = (uint8_t)codec_get_range(r, 1, SVC_RANDOM, SVC_DIGEST);
    s->edge = (uint8_t)codec_get_range(r, 1, SVC_EDGE_OFF, SVC_EDGE_DSR);
    s->all_down = (uint8_t)codec_get_range(r, 1, SVC_REFUSE, SVC_OPEN);
    s->steer = codec_get_range(r, 1, 0, 1);
    s->takeover = codec_get_range(r, 1, 0, 1);
    s->cut = codec_get_range(r, 1, 0, 1);
    s->origin = (uint8_t)codec_get_range(r, 1, SVC_FROM_API, SVC_FROM_FILE);
    get_check(r, &s->check);
    if (version == 1)
        svc_proxy_init(s);
    else
        get_proxy(r, s);
    if (version >= 3)
        get_names(r, s);
    if (version >= SVC_VERSION_HALF_CLOSED)
        s->proxy.half_closed_ms = codec_get_range(r, 4, 1, SVC_DAY_MS);
}

void svc_backend_put(struct wire_writer *w, const struct svc_backend *b)
{
    wire_put_u8(w, BACKEND_VERSION);
    codec_put_text(w, b->name);
    codec_put_text(w, b->node);
    codec_put_address(w, &b->address);
    wire_put_u16(w, b->weight);
    wire_put_u8(w, b->origin);
    codec_put_text(w, b->unix_path);
}

void svc_backend_get(struct wire_reader *r, struct svc_backend *b)
{
    memset(b, 0, sizeof(*b));
    uint8_t version = codec_get_version(r, BACKEND_VERSION);
    codec_get_text(r, b->name, sizeof(b->name));
    codec_get_text(r, b->node, sizeof(b->node));
    codec_get_address(r, &b->address, version == 1 ? 1 : 0);
    b->weight = (uint16_t)codec_get_range(r, 2, 1, SVC_WEIGHT_MAX);
    b->origin = (uint8_t)codec_get_range(r, 1, SVC_FROM_API, SVC_FROM_FILE);
    b->admin = SVC_ACTIVE;
    if (version == 1)
        return;
    codec_get_text(r, b->unix_path, sizeof(b->unix_path));
    if (b->unix_path[0] ? b->address.port != 0 || !svc_unix_path_valid(b->unix_path) : b->address.port == 0)
        r->failed = true;
}

void svc_row_put(struct wire_writer *w, const struct svc *s)
{
    wire_put_u8(w, ROW_VERSION);
    wire_put_u32(w, s->id);
    wire_put_u64(w, s->revision);
    wire_put_u64(w, s->created_ms);
    wire_put_u64(w, s->updated_ms);
    wire_put_u32(w, s->backends);
    svc_put(w, s);
}

void svc_row_get(struct wire_reader *r, struct svc *s)
{
    codec_get_version(r, ROW_VERSION);
    uint32_t id = codec_get_range(r, 4, 1, SVC_SERVICES_MAX);
    uint64_t revision = wire_get_u64(r), created_ms = wire_get_u64(r), updated_ms = wire_get_u64(r);
    uint32_t backends = codec_get_range(r, 4, 0, SVC_BACKENDS_MAX);
    svc_get(r, s);
    s->id = id;
    s->revision = revision;
    s->created_ms = created_ms;
    s->updated_ms = updated_ms;
    s->backends = backends;
}

void svc_backend_row_put(struct wire_writer *w, const struct svc_backend *b)
{
    wire_put_u8(w, ROW_VERSION);
    wire_put_u32(w, b->id);
    wire_put_u16(w, b->generation);
    wire_put_u32(w, b->service);
    wire_put_u8(w, b->admin);
    wire_put_u64(w, b->revision);
    wire_put_u64(w, b->created_ms);
    wire_put_u64(w, b->updated_ms);
    svc_backend_put(w, b);
}

void svc_backend_row_get(struct wire_reader *r, struct svc_backend *b)
{
    codec_get_version(r, ROW_VERSION);
    uint32_t id = codec_get_range(r, 4, 0, SVC_BACKENDS_ALL_MAX - 1);
    uint16_t generation = (uint16_t)codec_get_range(r, 2, 1, UINT16_MAX);
    uint32_t service = codec_get_range(r, 4, 1, SVC_SERVICES_MAX);
    uint8_t admin = (uint8_t)codec_get_range(r, 1, SVC_ACTIVE, SVC_DRAIN);
    uint64_t revision = wire_get_u64(r), created_ms = wire_get_u64(r), updated_ms = wire_get_u64(r);
    svc_backend_get(r, b);
    b->id = id;
    b->generation = generation;
    b->service = service;
    b->admin = admin;
    b->revision = revision;
    b->created_ms = created_ms;
    b->updated_ms = updated_ms;
}
