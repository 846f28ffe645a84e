/* SPDX-License-Identifier: Apache-2.0 */
/* The exchange's side of bodies that several clients share (coalesce.h). */
#include <string.h>

#include "check.h"
#include "dataplane/hash.h"
#include "dataplane/ring.h"
#include "dataplane/proxy/client_cert.h"
#include "dataplane/proxy/exchange.h"

/* Only whole bodies that are named by their digest, of requests without a condition. */
static bool may_share(const struct exchange *ex)
{
    static const enum http_known conditions[] = {HTTP_KNOWN_RANGE, HTTP_KNOWN_IF_RANGE, HTTP_KNOWN_IF_MATCH,
                                                 HTTP_KNOWN_IF_NONE_MATCH, HTTP_KNOWN_UPGRADE};
    const struct http_request *req = &ex->s->req;
    if (!ex->p.coalesce || ex->p.resumes_max == 0 || req->method != HTTP_GET || ex->body || ex->upgrade ||
        !ex->facts.digest.len)
        return false;
    for (size_t i = 0; i < ARRAY_SIZE(conditions); i++)
        if (view_present(req->known[conditions[i]]))
            return false;
    return !view_present(http_request_field(req, "If-Modified-Since")) &&
           !view_present(http_request_field(req, "If-Unmodified-Since"));
}

static void add_view(struct hash *h, struct view v)
{
    uint64_t len = view_present(v) ? v.len : UINT64_MAX;
    hash_add(h, &len, sizeof(len));
    if (v.len)
        hash_add(h, v.p, v.len);
}

/* All that a backend may answer by: above all who asks. */
static struct flight_key key_of(const struct exchange *ex, uint32_t incarnation)
{
    static const char *const names[] = {"Cookie", "Accept", "Accept-Encoding"};
    const struct http_request *req = &ex->s->req;
    struct flight_key key;
    struct tls_client client;
    struct digest d;
    struct hash h;
    hash_begin(&h, DIGEST_SHA256);
    hash_add(&h, &ex->service_index, sizeof(ex->service_index));
    hash_add(&h, &incarnation, sizeof(incarnation));
    add_view(&h, req->target);
    add_view(&h, req->host);
    add_view(&h, req->known[HTTP_KNOWN_AUTHORIZATION]);
    add_view(&h, client_cert_fingerprint(ex->s, &client));
    for (uint32_t f = 0; f < req->fields_count; f++) {
        struct view name = req->fields[f].name;
        bool counts = ex->p.trust_forwarded && http_is_about_who(name);
        for (size_t i = 0; i < ARRAY_SIZE(names); i++)
            counts |= view_ieq(name, view_of_str(names[i]));
        if (counts) {
            add_view(&h, name);
            add_view(&h, req->fields[f].value);
        }
    }
    hash_end(&h, &d);
    memcpy(key.bytes, d.bytes, sizeof(key.bytes));
    return key;
}

static void leave(struct exchange *ex)
{
    if (ex->follower)
        coalesce_leave(ex->follower);
    ex->follower = NULL;
}

static void news(struct follower *f, enum flight_news what)
{
    struct exchange *ex = f->arg;
    struct attempt *a = &ex->attempt;
    if (what == FLIGHT_GONE || attempt_read(a, follower_head(f))) {
        leave(ex);
        exchange_ask(ex);
        return;
    }
    (void)memcpy(a->authority, follower_authority(f), sizeof(a->authority));
    (void)memcpy(ex->name, follower_backend(f), sizeof(ex->name));
    exchange_respond(a);
}

bool exchange_follows(struct exchange *ex)
{
    const struct plan_service *service = exchange_service(ex);
    _Static_assert((int)AUTHORITY_MAX == (int)FLIGHT_AUTHORITY_MAX, "the same text");
    if (!service || !may_share(ex))
        return false;
    struct flight_key key = key_of(ex, service->incarnation);
    ex->follower = coalesce_follow(ex->proxy->coalesce, &key, news, ex);
    if (ex->follower) {
        ring_count(ex->ring, CTR_PROXY_COALESCED, 1);
        return true;
    }
    ex->flight = coalesce_lead(ex->proxy->coalesce, &key);
    return false;
}

void exchange_share(struct exchange *ex)
{
    const struct attempt *a = &ex->attempt;
    struct flight *f = ex->flight;
    ex->flight = NULL;
    if (!f)
        return;
    if (!ex->resume.possible || a->answer.status != 200 || a->answer.framing != HTTP_BODY_LENGTH ||
        a->used > FLIGHT_HEAD_MAX || a->answer.content_length == 0) {
        flight_end(f, FLIGHT_BROKEN);
        return;
    }
    ex->resume.flight = f;
    flight_open(f, view_of(a->buf, a->used), a->authority, ex->name, a->answer.content_length);
}

void exchange_share_end(struct exchange *ex)
{
    leave(ex);
    if (ex->flight)
        flight_end(ex->flight, FLIGHT_BROKEN);
    ex->flight = NULL;
    if (ex->resume.flight)
        flight_end(ex->resume.flight, FLIGHT_BROKEN);
    ex->resume.flight = NULL;
}
