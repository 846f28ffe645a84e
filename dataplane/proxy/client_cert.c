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

/* Whose TLS it is, where certificates are asked for; or NULL. */
static const struct wire *shown_on(struct stream *s)
{
    const struct plan_service *service = stream_service(s);
    const struct wire *wire = &s->conn->wire, *carrier = h2_carrier(wire);
    if (!service || service->tls.client_auth == PLAN_AUTH_NONE)
        return NULL;
    return carrier ? carrier : wire;
}

struct view client_cert_fingerprint(struct stream *s, struct tls_client *client)
{
    const struct wire *wire = shown_on(s);
    return wire && tls_client_of(wire, client) ? view_of_str(client->fingerprint) : (struct view){0};
}

void client_cert_fields(struct stream *s, struct client_cert *out)
{
    const struct wire *wire = shown_on(s);
    out->count = 0;
    if (!wire || !tls_client_of(wire, &out->client))
        return;
    ssize_t len = tls_client_cert(wire, out->cert, sizeof(out->cert));
    add(out, VIEW_LIT("Client-Cert"), view_of(out->cert, len > 0 ? (size_t)len : 0));
    add(out, VIEW_LIT("X-Client-Cert-Subject"), view_of_str(out->client.subject));
    add(out, VIEW_LIT("X-Client-Cert-Issuer"), view_of_str(out->client.issuer));
    add(out, VIEW_LIT("X-Client-Cert-Serial"), view_of_str(out->client.serial));
    add(out, VIEW_LIT("X-Client-Cert-Fingerprint"), view_of_str(out->client.fingerprint));
}
