/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/tls/material.h"
#include "dataplane/tls/errors.h"

#include <openssl/pem.h>
#include <string.h>

/* A key with a passphrase is refused, nobody is asked for it. */
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

static bool read_certificates(const struct certs *certs, const struct certs_entry *e,
                              struct tls_material *out)
{
    BIO *bio = bio_of(certs, e->cert);
    out->chain = sk_X509_new_null();
    bool ok = bio && out->chain && (out->cert = PEM_read_bio_X509_AUX(bio, NULL, no_passphrase, NULL));
    while (ok) {
        X509 *next = PEM_read_bio_X509(bio, NULL, no_passphrase, NULL);
        if (!next)
            break;
        ok = sk_X509_push(out->chain, next) > 0;
        if (!ok)
            X509_free(next);
    }
    ERR_clear_error(); /* the end of the text is an error, too */
    BIO_free(bio);
    return ok;
}

static bool read_key(const struct certs *certs, const struct certs_entry *e, struct tls_material *out)
{
    BIO *bio = bio_of(certs, e->key);
    out->key = bio ? PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, NULL) : NULL;
    BIO_free(bio);
    return out->key && X509_check_private_key(out->cert, out->key) == 1;
}

static bool read_staple(const struct certs *certs, const struct certs_entry *e, const X509 *cert,
                        struct ocsp_window *out)
{
    int err = ocsp_window_of((const uint8_t *)certs_bytes(certs, e->ocsp), e->ocsp.len, cert, out);
    ERR_clear_error();
    return err == 0;
}

bool tls_material_read(const struct certs *certs, const struct certs_entry *e, struct tls_material *out)
{
    memset(out, 0, sizeof(*out));
    if (!read_certificates(certs, e, out) || !read_key(certs, e, out)) {
        tls_material_drop(out);
        return false;
    }
    if (e->ocsp.len && read_staple(certs, e, out->cert, &out->ocsp_window)) {
        out->ocsp = OPENSSL_memdup(certs_bytes(certs, e->ocsp), e->ocsp.len);
        out->ocsp_len = out->ocsp ? e->ocsp.len : 0;
    }
    return true;
}

void tls_material_drop(struct tls_material *m)
{
    X509_free(m->cert);
    EVP_PKEY_free(m->key);
    sk_X509_pop_free(m->chain, X509_free);
    OPENSSL_free((void *)(uintptr_t)m->ocsp);
    memset(m, 0, sizeof(*m));
}

/* The next certificate of a text; NULL at its end. */
static X509 *next_certificate(BIO *bio)
{
    X509 *cert = PEM_read_bio_X509(bio, NULL, no_passphrase, NULL);
    if (!cert)
        ERR_clear_error(); /* the end is an error, too */
    return cert;
}

X509_STORE *tls_material_store(const char *pem, size_t len)
{
    X509_STORE *store = X509_STORE_new();
    BIO *bio = BIO_new_mem_buf(pem, (int)len);
    unsigned count = 0;
    X509 *ca;
    while (store && bio && (ca = next_certificate(bio))) {
        count += X509_STORE_add_cert(store, ca) == 1;
        X509_free(ca);
    }
    BIO_free(bio);
    if (count)
        return store;
    X509_STORE_free(store);
    return NULL;
}

bool tls_material_trust_clients(SSL_CTX *ctx, const char *pem, size_t len)
{
    X509_STORE *store = tls_material_store(pem, len);
    BIO *bio = store ? BIO_new_mem_buf(pem, (int)len) : NULL;
    X509 *ca;
    if (!bio) {
        X509_STORE_free(store);
        return false;
    }
    SSL_CTX_set_cert_store(ctx, store);
    while ((ca = next_certificate(bio))) {
        (void)SSL_CTX_add_client_CA(ctx, ca);
        X509_free(ca);
    }
    BIO_free(bio);
    return true;
}

bool tls_material_not_after(const struct certs *certs, const struct certs_entry *e, int64_t *out)
{
    BIO *bio = e->cert.len ? bio_of(certs, e->cert) : NULL;
    X509 *cert = bio ? next_certificate(bio) : NULL;
    int days = 0, seconds = 0;
    ASN1_TIME *epoch = ASN1_TIME_set(NULL, 0);
    bool ok = cert && epoch && ASN1_TIME_diff(&days, &seconds, epoch, X509_get0_notAfter(cert));
    *out = (int64_t)days * 86400 + seconds;
    ASN1_TIME_free(epoch);
    X509_free(cert);
    BIO_free(bio);
    return ok;
}

bool tls_material_staple(const struct certs *certs, const struct certs_entry *e, struct ocsp_window *out)
{
    BIO *bio = e->cert.len && e->ocsp.len ? bio_of(certs, e->cert) : NULL;
    X509 *cert = bio ? next_certificate(bio) : NULL;
    bool ok = cert && read_staple(certs, e, cert, out);
    X509_free(cert);
    BIO_free(bio);
    return ok;
}
