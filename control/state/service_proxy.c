/* SPDX-License-Identifier: Apache-2.0 */
/* What only services with path: proxy have: its defaults, and what of it goes together. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "control/state/service.h"

enum {
    CONNECTIONS_MAX = 1024,
    QUEUE_MAX = 1024,
    QUEUE_TIMEOUT_MS = 5000,
    CONNECT_TIMEOUT_MS = 2000,
    RESPONSE_TIMEOUT_MS = 60000,
    IDLE_TIMEOUT_MS = 3600000,
    RETRIES = 3,
    RETRY_BUDGET = 20,
    SLOW_START_MS = 10000,
    EJECT_FAILURES = 5,
    EJECT_MS = 10000,
    STALL_RATE = 1024,
    STALL_MS = 5000,
    RESUMES_MAX = 8,
};

void svc_proxy_init(struct svc *s)
{
    bool plain = s->kind == SVC_HTTP || s->kind == SVC_REGISTRY; /* no streams that live for days */
    s->tls = (struct plan_tls){.http2 = 1};
    s->proxy = (struct plan_proxy){
        .backend_verify = 1,
        .backend_http = 1,
        .forwarded = plain ? PROXY_FORWARDED_X : PROXY_FORWARDED_OFF,
        .verify = PROXY_VERIFY_RESUMED,
        .connections_max = CONNECTIONS_MAX,
        .queue_max = QUEUE_MAX,
        .queue_timeout_ms = QUEUE_TIMEOUT_MS,
        .connect_timeout_ms = CONNECT_TIMEOUT_MS,
        /* An engine answers a stop or a wait when the container has ended. */
        .response_timeout_ms = s->kind == SVC_DOCKER ? 0 : RESPONSE_TIMEOUT_MS,
        .idle_timeout_ms = plain ? IDLE_TIMEOUT_MS : 0,
        .retries = RETRIES,
        .retry_budget = RETRY_BUDGET,
        .slow_start_ms = SLOW_START_MS,
        .eject_failures = EJECT_FAILURES,
        .eject_ms = EJECT_MS,
        .stall_rate = STALL_RATE,
        .stall_ms = STALL_MS,
        .resumes_max = RESUMES_MAX,
    };
}

static int refuse(char err[SVC_ERROR_MAX], const char *text)
{
    snprintf(err, SVC_ERROR_MAX, "%s", text);
    return -EINVAL;
}

static int check_tls(const struct svc *s, char err[SVC_ERROR_MAX])
{
    const struct plan_tls *t = &s->tls;
    bool terminate = t->mode == PLAN_TLS_TERMINATE;
    if (terminate && t->certificate_count == 0)
        return refuse(err, "tls: terminate needs a certificate; set tls.certificates to the names of one or "
                           "more");
    if (t->client_auth != PLAN_AUTH_NONE && !terminate)
        return refuse(err, "tls.client_auth: only tls: terminate asks clients for certificates; set it, or "
                           "tls.client_auth: none");
    if (t->client_auth != PLAN_AUTH_NONE && !t->client_ca[0])
        return refuse(err, "tls.client_auth: nothing says which certificates are good; set tls.client_ca to "
                           "the name of a list of authorities");
    if (t->client_auth == PLAN_AUTH_NONE && t->client_ca[0])
        return refuse(err, "tls.client_ca is of no use while tls.client_auth is none; set that to optional "
                           "or required, or tls.client_ca to nothing");
    if (s->names[0] && t->mode == PLAN_TLS_OFF)
        return refuse(err,
                      "tls.names: it is TLS in which clients say a name; set tls: terminate or passthrough, "
                      "or tls.names to nothing");
    if (t->mode == PLAN_TLS_PASSTHROUGH && s->kind != SVC_TCP && s->kind != SVC_KUBERNETES)
        return refuse(err, "tls: passthrough: what passes cannot be read here, so kind can be tcp or "
                           "kubernetes only; set one of them, or tls: terminate");
    return 0;
}

static int check_backend_tls(const struct svc *s, char err[SVC_ERROR_MAX])
{
    const struct plan_proxy *p = &s->proxy;
    if (p->backend_tls && s->tls.mode == PLAN_TLS_PASSTHROUGH)
        return refuse(err, "backend.tls: with tls: passthrough it is the client who speaks TLS to the "
                           "backend; set backend.tls: false");
    if (p->proxy_protocol && p->backend_http == 2)
        return refuse(err,
                      "backend.proxy_protocol: a PROXY header tells of one client, and a connection with "
                      "backend.http: 2 has the requests of many; set backend.proxy_protocol: 0, or "
                      "backend.http: 1");
    if (!p->backend_tls && (p->backend_ca[0] || p->backend_certificate[0] || p->backend_name[0]))
        return refuse(err, "backend.ca, backend.certificate and backend.name are for backends that speak "
                           "TLS; set backend.tls: true, or leave them empty");
    return 0;
}

/* What has to be understood to be done. */
static int check_tunnel(const struct svc *s, char err[SVC_ERROR_MAX])
{
    if (s->kind != SVC_TCP && s->tls.mode != PLAN_TLS_PASSTHROUGH)
        return 0;
    if (s->policy == SVC_DIGEST)
        return refuse(err, "policy: digest is for requests that can be read here; set policy to least, "
                           "random or maglev");
    if (s->proxy.backend_http != 1)
        return refuse(err, "backend.http: 2 is for requests that can be read here; set 1, bytes pass as "
                           "they are");
    if (s->proxy.coalesce || s->proxy.hedge_ms)
        return refuse(err, "coalesce and hedge are for requests that can be read here; set coalesce: false "
                           "and hedge: 0");
    return 0;
}

int svc_proxy_check(const struct svc *s, char err[SVC_ERROR_MAX])
{
    if (s->edge != SVC_EDGE_OFF)
        return refuse(err, "edge: with path: proxy the data plane listens on the address, packets of other "
                           "hosts come to it by themselves; set edge: off");
    int result = check_tls(s, err);
    if (!result)
        result = check_backend_tls(s, err);
    return result ? result : check_tunnel(s, err);
}
