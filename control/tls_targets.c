/* SPDX-License-Identifier: Apache-2.0 */
#include "control/tls_targets.h"

#include <arpa/inet.h>
#ifndef INT_MAX /* OpenSSL's header means the system's <limits.h> and finds ours */
#define INT_MAX __INT_MAX__
#endif
#include <openssl/err.h>
#include <openssl/pem.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

/* A context may be of several services in a row: most are alike. */
struct maker {
    const struct certs *certs;
    SSL_CTX *context; /* the last one */
    const struct svc *of;
};

static int no_passphrase(char *buf, int size, int writing, void *arg)
{
    (void)buf;
    (void)size;
    (void)writing;
    (void)arg;
    return -1;
}

static BIO *bio_of(const struct certs *certs, struct certs_part part)
{
    return BIO_new_mem_buf(certs_bytes(certs, part), (int)part.len);
}

static bool trust(SSL_CTX *ctx, const struct certs *certs, const char *name)
{
    const struct certs_entry *e = *name ? certs_find(certs, name) : NULL;
    struct certs_part part = {0};
    if (e)
        part = e->ca;
    else if (!*name && certs)
        part = certs->system_ca;
    BIO *bio = part.len ? bio_of(certs, part) : NULL;
    X509_STORE *store = SSL_CTX_get_cert_store(ctx);
    unsigned count = 0;
    X509 *ca;
    while (bio && (ca = PEM_read_bio_X509(bio, NULL, no_passphrase, NULL))) {
        count += X509_STORE_add_cert(store, ca) == 1;
        X509_free(ca);
    }
    BIO_free(bio);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
    return count > 0;
}

static bool show_certificate(SSL_CTX *ctx, const struct certs *certs, const char *name)
{
    const struct certs_entry *e = certs_find(certs, name);
    BIO *bio = e && e->cert.len && e->key.len ? bio_of(certs, e->cert) : NULL;
    X509 *cert = bio ? PEM_read_bio_X509(bio, NULL, no_passphrase, NULL) : NULL;
    bool ok = cert && SSL_CTX_use_certificate(ctx, cert) == 1;
    X509 *next;
    while (ok && (next = PEM_read_bio_X509(bio, NULL, no_passphrase, NULL))) {
        ok = SSL_CTX_add1_chain_cert(ctx, next) == 1;
        X509_free(next);
    }
    X509_free(cert);
    BIO_free(bio);
    bio = ok ? bio_of(certs, e->key) : NULL;
    EVP_PKEY *key = bio ? PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, NULL) : NULL;
    ok = key && SSL_CTX_use_PrivateKey(ctx, key) == 1;
    EVP_PKEY_free(key);
    BIO_free(bio);
    return ok;
}

/* What is spoken behind it: some servers refuse a client that does not say so. */
static bool say_protocol(SSL_CTX *ctx, const struct svc *s)
{
    static const unsigned char h2[] = "\x02h2", http1[] = "\x08http/1.1";
    bool two = s->proxy.backend_http == 2;
    return s->kind == SVC_TCP ||
           SSL_CTX_set_alpn_protos(ctx, two ? h2 : http1, two ? sizeof(h2) - 1 : sizeof(http1) - 1) == 0;
}

/* Whether the service's own way to its backends is what is tried. */
static bool is_ours(const struct svc *s)
{
    return s->route == SVC_PROXY && s->proxy.backend_tls;
}

static SSL_CTX *context_new(const struct svc *s, const struct certs *certs)
{
    const struct plan_proxy *p = &s->proxy;
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    bool ok = ctx && SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION);
    if (ok)
        SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    if (ok && is_ours(s)) {
        ok = say_protocol(ctx, s) && (!p->backend_verify || trust(ctx, certs, p->backend_ca)) &&
             (!p->backend_certificate[0] || show_certificate(ctx, certs, p->backend_certificate));
    }
    ERR_clear_error(); /* the end of a text is an error, too */
    if (ok)
        return ctx;
    SSL_CTX_free(ctx);
    return NULL;
}

static bool alike(const struct svc *a, const struct svc *b)
{
    if (is_ours(a) != is_ours(b))
        return false;
    return !is_ours(a) ||
           (a->proxy.backend_verify == b->proxy.backend_verify &&
            a->proxy.backend_http == b->proxy.backend_http && (a->kind == SVC_TCP) == (b->kind == SVC_TCP) &&
            strcmp(a->proxy.backend_ca, b->proxy.backend_ca) == 0 &&
            strcmp(a->proxy.backend_certificate, b->proxy.backend_certificate) == 0);
}

static SSL_CTX *context_of(struct maker *m, const struct svc *s)
{
    if (m->of && alike(m->of, s))
        return m->context;
    SSL_CTX_free(m->context);
    m->context = context_new(s, m->certs);
    m->of = s;
    return m->context;
}

static bool is_address(const char *text)
{
    uint8_t ip[16];
    return inet_pton(AF_INET, text, ip) == 1 || inet_pton(AF_INET6, text, ip) == 1;
}

/* A name of the service that is no pattern. */
static void first_name(const struct svc *s, char out[PLAN_DOMAIN_MAX])
{
    const char *list = s->names;
    while (svc_names_next(&list, out))
        if (out[0] != '*')
            return;
    out[0] = '\0';
}

static void name_target(const struct svc *s, const struct svc_backend *b, struct tls_check_target *out)
{
    const char *name = s->proxy.backend_name;
    bool v4 = svc_address_is_v4(&b->address);
    if (!is_ours(s)) {
        out->lenient = true;
        if (s->check.host[0] && !is_address(s->check.host) && !strchr(s->check.host, ':'))
            memcpy(out->name, s->check.host, strlen(s->check.host) + 1);
        else
            first_name(s, out->name);
        return;
    }
    if (*name && !is_address(name))
        memcpy(out->name, name, strlen(name) + 1);
    if (!s->proxy.backend_verify)
        return;
    if (*name)
        memcpy(out->host, name, strlen(name) + 1);
    else
        (void)inet_ntop(v4 ? AF_INET : AF_INET6, b->address.ip + (v4 ? 12 : 0), out->host, sizeof(out->host));
}

static int compare_targets(const void *a, const void *b)
{
    const struct tls_check_target *one = a, *other = b;
    return one->id < other->id ? -1 : one->id > other->id;
}

static void add_service(const struct svc *s, const struct svc_backend *backend, uint32_t backends_max,
                        SSL_CTX *context, struct tls_targets *out)
{
    for (uint32_t i = 0; i < s->backends; i++) {
        const struct svc_backend *b = &backend[i];
        if (b->id >= backends_max || !svc_backend_in_kernel(b))
            continue;
        struct tls_check_target *t = &out->target[out->count++];
        *t = (struct tls_check_target){.id = b->id, .generation = b->generation, .context = context};
        memcpy(t->at.addr.word, b->address.ip, sizeof(t->at.addr.word));
        t->at.port = htons(b->address.port);
        CHECK(SSL_CTX_up_ref(context) == 1);
        name_target(s, b, t);
    }
}

void tls_targets_make(const struct svc_table *t, const struct certs *certs, uint32_t backends_max,
                      struct tls_targets *out)
{
    struct maker m = {.certs = certs};
    size_t most = 0;
    *out = (struct tls_targets){0};
    for (size_t i = 0; i < t->count; i++)
        if (svc_check_kind(&t->service[i]) == SVC_CHECK_TLS)
            most += t->service[i].backends;
    if (most == 0)
        return;
    out->target = calloc(most, sizeof(*out->target));
    CHECK(out->target);
    for (size_t i = 0; i < t->count; i++) {
        const struct svc *s = &t->service[i];
        SSL_CTX *context = svc_check_kind(s) == SVC_CHECK_TLS ? context_of(&m, s) : NULL;
        if (context)
            add_service(s, &t->backend[s->first_backend], backends_max, context, out);
    }
    SSL_CTX_free(m.context);
    qsort(out->target, out->count, sizeof(*out->target), compare_targets);
}

void tls_targets_fini(struct tls_targets *targets)
{
    for (size_t i = 0; i < targets->count; i++)
        SSL_CTX_free(targets->target[i].context);
    free(targets->target);
    *targets = (struct tls_targets){0};
}
