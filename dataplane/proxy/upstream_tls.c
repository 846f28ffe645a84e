/* SPDX-License-Identifier: Apache-2.0 */
/* TLS towards backends: what a connection that was made passes before anybody gets it. */
#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#include "check.h"
#include "dataplane/door.h"
#include "dataplane/ring.h"
#include "dataplane/proxy/upstream_private.h"
#include "dataplane/tls/tables.h"
#include "dataplane/tls/tls.h"

static int error_of(const struct upstream *u, enum tls_failure failure)
{
    switch (failure) {
    case TLS_CERTIFICATE:
        return -EKEYREJECTED;
    case TLS_LOST:
        return -ECONNRESET;
    case TLS_BUSY:
        return -ENOBUFS;
    case TLS_CANCELED:
        return u->error ? u->error : -ECANCELED;
    default:
        return -EPROTO;
    }
}

static void done(void *arg, enum tls_failure failure, const struct wire *wire)
{
    struct upstream *u = arg;
    u->tls = NULL;
    if (wire)
        u->wire = *wire;
    if (u->state == UPSTREAM_CLOSING)
        upstream_try_close(u);
    else if (failure == TLS_OK)
        upstream_ready(u);
    else
        upstream_failed(u, error_of(u, failure));
}

/* The name that the certificate has to have: the service's word, or the address. */
static const char *name_of(const struct upstream *u, const struct plan_service *service,
                           char text[INET6_ADDRSTRLEN])
{
    const struct plan_backend *where = &u->target->where;
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
    bool v4 = memcmp(where->ip, mapped, sizeof(mapped)) == 0;
    if (service->proxy.backend_name[0])
        return service->proxy.backend_name;
    if (where->unix_path[0])
        return "localhost";
    return inet_ntop(v4 ? AF_INET : AF_INET6, v4 ? where->ip + 12 : where->ip, text, INET6_ADDRSTRLEN);
}

bool upstream_wants_tls(const struct upstream *u)
{
    const struct plan_service *service = plan_service_of(u->us->ring->plan, u->service_index);
    return service && service->proxy.backend_tls;
}

void upstream_tls_begin(struct upstream *u)
{
    struct ring *ring = u->us->ring;
    const struct plan_service *service = plan_service_of(ring->plan, u->service_index);
    struct tls_context *context = tls_table_client(door_table(ring), u->service_index);
    char text[INET6_ADDRSTRLEN];
    uint64_t key = (uint64_t)u->target->where.id << 32 | (uint64_t)u->target->where.generation << 1 | 1;
    if (!context) { /* its certificates are not there: the log says so */
        upstream_failed(u, -ENOKEY);
        return;
    }
    u->state = UPSTREAM_TLS;
    u->tls = tls_connect(door_tls(ring), u->wire.fd, context, name_of(u, service, text), key, done, u);
    if (!u->tls)
        upstream_failed(u, -ENOBUFS);
    else if (u->http1)
        tls_offer_http1(u->tls);
}
