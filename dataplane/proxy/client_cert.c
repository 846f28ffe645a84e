/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/proxy/client_cert.h"

#include "dataplane/conn.h"
#include "dataplane/stream.h"
#include "dataplane/http2/http2.h"

static void add(struct client_cert *c, struct view name, struct view value)
{
    if (value.len)
        c->field[c->count++] = (struct http_extra){name, value};
}

void client_cert_fields(struct stream *s, struct client_cert *out)
{
    const struct plan_service *service = stream_service(s);
    const struct wire *wire = &s->conn->wire, *carrier = h2_carrier(wire);
    out->count = 0;
    if (!service || service->tls.client_auth == PLAN_AUTH_NONE ||
        !tls_client_of(carrier ? carrier : wire, &out->client))
        return;
    ssize_t len = tls_client_cert(carrier ? carrier : wire, out->cert, sizeof(out->cert));
    add(out, VIEW_LIT("Client-Cert"), view_of(out->cert, len > 0 ? (size_t)len : 0));
    add(out, VIEW_LIT("X-Client-Cert-Subject"), view_of_str(out->client.subject));
    add(out, VIEW_LIT("X-Client-Cert-Issuer"), view_of_str(out->client.issuer));
    add(out, VIEW_LIT("X-Client-Cert-Serial"), view_of_str(out->client.serial));
    add(out, VIEW_LIT("X-Client-Cert-Fingerprint"), view_of_str(out->client.fingerprint));
}
