/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Protocols and ciphers are those that need no choice: TLS 1.2 with ECDHE and AEAD, TLS 1.3. No compression,
 * no renegotiation, no early data.
 */
#include "dataplane/tls/context.h"

#include <arpa/inet.h>

#include <openssl/evp.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "check.h"
#include "dataplane/tls/material.h"
#include "dataplane/tls/errors.h"

#define CIPHERS_12                                                                                           \
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:"               \
    "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
#define CIPHERS_13 "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
#define GROUPS     "X25519:P-256:P-384"

enum { CLIENT_CERT_TICKET_S = 3600, VERIFY_DEPTH = 8, SESSIONS = 64 };

/* The last session with a backend. */
struct session {
    uint64_t key; /* 0: none */
    SSL_SESSION *session;
};

struct tls_context {
    _Atomic unsigned refs;
    SSL_CTX *ctx;
    struct tls_tickets *tickets; /* of a server */
    bool http2;
    unsigned offer_count;
    struct tls_material offer[PLAN_CERTIFICATES_MAX];
    pthread_mutex_t lock; /* of sessions; held for a few loads and stores */
    struct session session[SESSIONS];
};

/* ------------------------------------------------------------------ callbacks of OpenSSL */

static struct tls_context *context_of(SSL *ssl)
{
    return SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));
}

static int ticket_key(SSL *ssl, unsigned char *name, unsigned char *iv, EVP_CIPHER_CTX *cipher,
                      EVP_MAC_CTX *mac, int seal)
{
    return tls_tickets_key(context_of(ssl)->tickets, name, iv, cipher, mac, seal);
}

static bool offer_use(SSL *ssl, const struct tls_material *m)
{
    return SSL_use_cert_and_key(ssl, m->cert, m->key, m->chain, 1) == 1;
}

/* The certificates for the name that the client asks for: one of each kind of key is taken, OpenSSL chooses
 * what the client can check. None for that name: the first one, as for clients without a name. */
static int choose_certificate(SSL *ssl, void *arg)
{
    struct tls_context *c = arg;
    const char *name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
    bool found = false;
    for (unsigned i = c->offer_count; name && i-- > 0;) /* of two of a kind the first one stays */
        if (X509_check_host(c->offer[i].cert, name, 0, 0, NULL) == 1) {
            if (!offer_use(ssl, &c->offer[i]))
                return 0;
            found = true;
        }
    return found || offer_use(ssl, &c->offer[0]);
}

/* A name that nobody has a certificate for is answered with the first one: the client decides. */
static int server_name(SSL *ssl, int *alert, void *arg)
{
    (void)ssl;
    (void)alert;
    (void)arg;
    return SSL_TLSEXT_ERR_OK;
}

/* One that is out of date is worse than none: who checks it breaks the handshake off. */
static int staple(SSL *ssl, void *arg)
{
    const struct tls_context *c = arg;
    const X509 *cert = SSL_get_certificate(ssl);
    for (unsigned i = 0; i < c->offer_count; i++) {
        const struct tls_material *m = &c->offer[i];
        if (m->cert != cert || !m->ocsp || !ocsp_window_has(&m->ocsp_window, (int64_t)time(NULL)))
            continue;
        uint8_t *copy = OPENSSL_memdup(m->ocsp, m->ocsp_len);
        if (!copy)
            return SSL_TLSEXT_ERR_NOACK;
        SSL_set_tlsext_status_ocsp_resp(ssl, copy, (long)m->ocsp_len);
        return SSL_TLSEXT_ERR_OK;
    }
    return SSL_TLSEXT_ERR_NOACK;
}

static int choose_protocol(SSL *ssl, const unsigned char **out, unsigned char *out_len,
                           const unsigned char *in, unsigned in_len, void *arg)
{
    static const unsigned char both[] = "\x02h2\x08http/1.1", one[] = "\x08http/1.1";
    const struct tls_context *c = arg;
    unsigned char *chosen;
    (void)ssl;
    if (SSL_select_next_proto(&chosen, out_len, c->http2 ? both : one,
                              c->http2 ? sizeof(both) - 1 : sizeof(one) - 1, in,
                              in_len) != OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_NOACK; /* as without ALPN: HTTP/1.1 is spoken */
    *out = chosen;
    return SSL_TLSEXT_ERR_OK;
}

/* A backend gave a ticket. 1: it is kept. */
static int new_session(SSL *ssl, SSL_SESSION *session)
{
    struct tls_context *c = context_of(ssl);
    uint64_t key = (uintptr_t)SSL_get_app_data(ssl);
    struct session *slot = &c->session[key % SESSIONS];
    if (key == 0)
        return 0;
    pthread_mutex_lock(&c->lock);
    SSL_SESSION *before = slot->session;
    *slot = (struct session){key, session};
    pthread_mutex_unlock(&c->lock);
    SSL_SESSION_free(before);
    return 1;
}

static void resume_session(struct tls_context *c, SSL *ssl, uint64_t key)
{
    struct session *slot = &c->session[key % SESSIONS];
    SSL_SESSION *session = NULL;
    SSL_set_app_data(ssl, (void *)(uintptr_t)key);
    pthread_mutex_lock(&c->lock);
    if (slot->key == key && slot->session && SSL_SESSION_up_ref(slot->session))
        session = slot->session;
    pthread_mutex_unlock(&c->lock);
    if (session)
        (void)SSL_set_session(ssl, session);
    SSL_SESSION_free(session);
}

/* ------------------------------------------------------------------ making */

static bool ctx_common(SSL_CTX *ctx, const struct tls_world *w)
{
    uint64_t options = SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION | SSL_OP_CIPHER_SERVER_PREFERENCE |
                       SSL_OP_PRIORITIZE_CHACHA;
    SSL_CTX_set_options(ctx, options | (w->kernel ? SSL_OP_ENABLE_KTLS : 0));
    SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE |
                              SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_verify_depth(ctx, VERIFY_DEPTH);
    return SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) && SSL_CTX_set_cipher_list(ctx, CIPHERS_12) &&
           SSL_CTX_set_ciphersuites(ctx, CIPHERS_13) && SSL_CTX_set1_groups_list(ctx, GROUPS);
}

static struct tls_context *context_new(const SSL_METHOD *method, const struct tls_world *w)
{
    struct tls_context *c = calloc(1, sizeof(*c));
    if (!c)
        return NULL;
    if (pthread_mutex_init(&c->lock, NULL)) {
        free(c);
        return NULL;
    }
    c->refs = 1;
    c->tickets = w->tickets;
    c->ctx = SSL_CTX_new(method);
    if (c->ctx && ctx_common(c->ctx, w)) {
        SSL_CTX_set_app_data(c->ctx, c);
        return c;
    }
    tls_context_put(c);
    return NULL;
}

/* A ticket is good for one service's way of asking for certificates, and as long as it trusts the same CA. */
static bool session_scope(SSL_CTX *ctx, const struct tls_world *w, const char *service,
                          const struct plan_tls *tls, const struct certs_entry *ca)
{
    uint8_t hash[EVP_MAX_MD_SIZE];
    unsigned len = 0;
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    bool ok = md && EVP_DigestInit_ex(md, EVP_sha256(), NULL) &&
              EVP_DigestUpdate(md, service, strlen(service)) &&
              EVP_DigestUpdate(md, &tls->client_auth, sizeof(tls->client_auth)) &&
              (!ca || EVP_DigestUpdate(md, certs_bytes(w->certs, ca->ca), ca->ca.len)) &&
              EVP_DigestFinal_ex(md, hash, &len) && SSL_CTX_set_session_id_context(ctx, hash, len);
    EVP_MD_CTX_free(md);
    return ok;
}

static bool client_auth(struct tls_context *c, const struct tls_world *w, const char *service,
                        const struct plan_tls *tls, char *why, size_t cap)
{
    const struct certs_entry *ca = NULL;
    unsigned life_s = (unsigned)(w->ticket_life_ms / 1000);
    if (tls->client_auth != PLAN_AUTH_NONE) {
        ca = certs_find(w->certs, tls->client_ca);
        if (!ca || ca->ca.len == 0) {
            (void)snprintf(why, cap, "there is no CA '%s' to check clients' certificates with",
                           tls->client_ca);
            return false;
        }
        if (!tls_material_trust_clients(c->ctx, certs_bytes(w->certs, ca->ca), ca->ca.len)) {
            (void)snprintf(why, cap, "the CA of '%s' cannot be read", tls->client_ca);
            return false;
        }
        SSL_CTX_set_verify(c->ctx,
                           SSL_VERIFY_PEER |
                               (tls->client_auth == PLAN_AUTH_REQUIRED ? SSL_VERIFY_FAIL_IF_NO_PEER_CERT : 0),
                           NULL);
        if (life_s > CLIENT_CERT_TICKET_S) /* a certificate is not looked at again before that */
            life_s = CLIENT_CERT_TICKET_S;
    }
    SSL_CTX_set_timeout(c->ctx, (long)life_s);
    return session_scope(c->ctx, w, service, tls, ca);
}

static bool offers(struct tls_context *c, const struct tls_world *w, const struct plan_tls *tls, char *why,
                   size_t cap)
{
    for (unsigned i = 0; i < tls->certificate_count; i++) {
        const struct certs_entry *e = certs_find(w->certs, tls->certificate[i]);
        if (!e || e->cert.len == 0 || e->key.len == 0) {
            (void)snprintf(why, cap, "there is no certificate '%s' with its key", tls->certificate[i]);
            return false;
        }
        if (!tls_material_read(w->certs, e, &c->offer[c->offer_count])) {
            (void)snprintf(why, cap, "the certificate '%s' cannot be used", tls->certificate[i]);
            return false;
        }
        c->offer_count++;
    }
    (void)snprintf(why, cap, "it names no certificate");
    return c->offer_count > 0;
}

/* With one there is nothing to choose: it is checked once, and not for each connection. */
static bool certificates_set(struct tls_context *c)
{
    const struct tls_material *only = &c->offer[0];
    if (c->offer_count == 1)
        return SSL_CTX_use_cert_and_key(c->ctx, only->cert, only->key, only->chain, 1) == 1;
    SSL_CTX_set_cert_cb(c->ctx, choose_certificate, c);
    return true;
}

struct tls_context *tls_context_server_new(const struct tls_world *w, const char *service,
                                           const struct plan_tls *tls, bool alpn, char *why, size_t cap)
{
    struct tls_context *c = context_new(TLS_server_method(), w);
    (void)snprintf(why, cap, "no memory for its TLS");
    if (!c)
        return NULL;
    if (!offers(c, w, tls, why, cap) || !client_auth(c, w, service, tls, why, cap)) {
        ERR_clear_error();
        tls_context_put(c);
        return NULL;
    }
    c->http2 = tls->http2;
    if (!certificates_set(c)) {
        (void)snprintf(why, cap, "its certificate cannot be used");
        ERR_clear_error();
        tls_context_put(c);
        return NULL;
    }
    SSL_CTX_set_session_cache_mode(c->ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_tlsext_ticket_key_evp_cb(c->ctx, ticket_key);
    (void)SSL_CTX_set_num_tickets(c->ctx, 1); /* each costs 20 us; who resumes with it gets another */
    SSL_CTX_set_tlsext_servername_callback(c->ctx, server_name);
    SSL_CTX_set_tlsext_status_cb(c->ctx, staple);
    SSL_CTX_set_tlsext_status_arg(c->ctx, c);
    if (alpn)
        SSL_CTX_set_alpn_select_cb(c->ctx, choose_protocol, c);
    return c;
}

static bool client_certificate(struct tls_context *c, const struct tls_world *w, const struct plan_proxy *p)
{
    const struct certs_entry *e = certs_find(w->certs, p->backend_certificate);
    if (!e || !tls_material_read(w->certs, e, &c->offer[0]))
        return false;
    c->offer_count = 1;
    return SSL_CTX_use_cert_and_key(c->ctx, c->offer[0].cert, c->offer[0].key, c->offer[0].chain, 1) == 1;
}

static bool backend_trust(struct tls_context *c, const struct tls_world *w, const struct plan_proxy *p)
{
    const struct certs_entry *e = p->backend_ca[0] ? certs_find(w->certs, p->backend_ca) : NULL;
    if (p->backend_ca[0] && (!e || !e->ca.len))
        return false;
    if (!e && w->system)
        SSL_CTX_set1_cert_store(c->ctx, w->system);
    X509_STORE *own = e ? tls_material_store(certs_bytes(w->certs, e->ca), e->ca.len) : NULL;
    if (own)
        SSL_CTX_set_cert_store(c->ctx, own);
    return own || (!e && w->system);
}

struct tls_context *tls_context_client_new(const struct tls_world *w, const struct plan_service *s, char *why,
                                           size_t cap)
{
    static const unsigned char h2[] = "\x02h2", http1[] = "\x08http/1.1";
    const struct plan_proxy *p = &s->proxy;
    struct tls_context *c = context_new(TLS_client_method(), w);
    (void)snprintf(why, cap, "no memory for TLS to its backends");
    if (!c)
        return NULL;
    if (p->backend_certificate[0] && !client_certificate(c, w, p)) {
        (void)snprintf(why, cap, "the certificate '%s' for its backends cannot be used",
                       p->backend_certificate);
        goto err_put;
    }
    if (p->backend_verify && !backend_trust(c, w, p)) {
        (void)snprintf(why, cap, "there is no CA '%s' to check its backends with",
                       p->backend_ca[0] ? p->backend_ca : "(the system's)");
        goto err_put;
    }
    SSL_CTX_set_verify(c->ctx, p->backend_verify ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, NULL);
    SSL_CTX_set_session_cache_mode(c->ctx, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(c->ctx, new_session);
    if (p->kind != PROXY_TCP &&
        SSL_CTX_set_alpn_protos(c->ctx, p->backend_http == 2 ? h2 : http1,
                                p->backend_http == 2 ? sizeof(h2) - 1 : sizeof(http1) - 1))
        goto err_put;
    return c;
err_put:
    ERR_clear_error();
    tls_context_put(c);
    return NULL;
}

/* ------------------------------------------------------------------ life */

struct tls_context *tls_context_get(struct tls_context *c)
{
    atomic_fetch_add_explicit(&c->refs, 1, memory_order_relaxed);
    return c;
}

void tls_context_put(struct tls_context *c)
{
    if (!c || atomic_fetch_sub_explicit(&c->refs, 1, memory_order_acq_rel) != 1)
        return;
    SSL_CTX_free(c->ctx);
    for (unsigned i = 0; i < c->offer_count; i++)
        tls_material_drop(&c->offer[i]);
    for (unsigned i = 0; i < SESSIONS; i++)
        SSL_SESSION_free(c->session[i].session);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

static bool expect_name(SSL *ssl, const char *name)
{
    uint8_t address[16];
    char bare[INET6_ADDRSTRLEN];
    size_t len = strlen(name);
    if (name[0] == '[' && len > 2 && len - 2 < sizeof(bare)) {
        memcpy(bare, name + 1, len - 2);
        bare[len - 2] = '\0';
        name = bare;
    }
    if (inet_pton(AF_INET, name, address) == 1 || inet_pton(AF_INET6, name, address) == 1)
        return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), name) == 1;
    SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    return SSL_set_tlsext_host_name(ssl, name) == 1 && SSL_set1_host(ssl, name) == 1;
}

SSL *tls_context_ssl(struct tls_context *c, const char *name, uint64_t session_key)
{
    SSL *ssl = SSL_new(c->ctx);
    if (ssl && name && name[0] && !expect_name(ssl, name)) {
        SSL_free(ssl);
        return NULL;
    }
    if (ssl && session_key)
        resume_session(c, ssl, session_key);
    return ssl;
}
