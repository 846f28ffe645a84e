/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a service's TLS is made of: the OpenSSL context, the certificates that it chooses among, whom it
 * trusts. Made by main from the plan and the certificates (certs.h), used by rings and by the threads that do
 * handshakes, counted: one lives as long as a connection that began with it.
 */
#ifndef FL_TLS_CONTEXT_H
#define FL_TLS_CONTEXT_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stdint.h>

#include "certs.h"
#include "plan.h"
#include "dataplane/tls/tickets.h"

struct tls_context;

/* Of one process. */
struct tls_world {
    const struct certs *certs;   /* NULL: none came yet */
    X509_STORE *system;          /* the system's CAs; NULL: nobody needs them */
    struct tls_tickets *tickets; /* outlives every context */
    bool kernel;                 /* the kernel may take over records where it can */
    uint64_t ticket_life_ms;
};

/* For clients; alpn: of HTTP, by which the protocol is agreed on. NULL with a sentence in why (cap bytes): a
 * name without a certificate, and the like. */
struct tls_context *tls_context_server_new(const struct tls_world *w, const char *service,
                                           const struct plan_tls *tls, bool alpn, char *why, size_t cap);
/* Towards the backends of a service with backend_tls. */
struct tls_context *tls_context_client_new(const struct tls_world *w, const struct plan_service *s, char *why,
                                           size_t cap);

struct tls_context *tls_context_get(struct tls_context *c); /* one more reference; any thread */
void tls_context_put(struct tls_context *c);                /* NULL is nobody */

/* A connection's object; NULL: no memory. server_name: of a backend, for SNI and the certificate; an address
 * is compared as such, and not sent. session_key: see tls_connect. */
SSL *tls_context_ssl(struct tls_context *c, const char *server_name, uint64_t session_key);

#endif
