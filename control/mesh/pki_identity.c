/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "control/mesh/pki_internal.h"

struct pki_identity {
    STACK_OF(X509) * cas;
    X509 *cert;
    EVP_PKEY *key;
    struct pki_name name;
};

int pki_no_passphrase(char *buf, int size, int writing, void *arg)
{
    (void)buf;
    (void)size;
    (void)writing;
    (void)arg;
    return -1;
}

STACK_OF(X509) * pki_read_certs(const char *pem, size_t len)
{
    if (len > PKI_PEM_BYTES_MAX)
        return NULL;
    BIO *bio = BIO_new_mem_buf(pem, (int)len);
    STACK_OF(X509) *certs = sk_X509_new_null();
    X509 *cert;
    while (bio && certs && (cert = PEM_read_bio_X509(bio, NULL, pki_no_passphrase, NULL)))
        if (sk_X509_num(certs) == PKI_CAS_MAX || !sk_X509_push(certs, cert)) {
            X509_free(cert);
            sk_X509_pop_free(certs, X509_free);
            certs = NULL;
        }
    bool at_end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
    ERR_clear_error();
    BIO_free(bio);
    if (certs && at_end && sk_X509_num(certs) > 0)
        return certs;
    sk_X509_pop_free(certs, X509_free);
    return NULL;
}

EVP_PKEY *pki_read_key(const char *pem, size_t len)
{
    if (len > PKI_PEM_BYTES_MAX)
        return NULL;
    BIO *bio = BIO_new_mem_buf(pem, (int)len);
    EVP_PKEY *key = bio ? PEM_read_bio_PrivateKey(bio, NULL, pki_no_passphrase, NULL) : NULL;
    BIO_free(bio);
    ERR_clear_error();
    return key;
}

X509 *pki_find_key(STACK_OF(X509) * certs, EVP_PKEY *key)
{
    for (int i = 0; i < sk_X509_num(certs); i++) {
        X509 *cert = sk_X509_value(certs, i);
        if (EVP_PKEY_eq(X509_get0_pubkey(cert), key) == 1)
            return cert;
    }
    ERR_clear_error();
    return NULL;
}

/* Who of them signed the certificate; NULL: none did. */
static X509 *signer_of(STACK_OF(X509) * cas, X509 *cert)
{
    X509 *signer = NULL;
    for (int i = 0; i < sk_X509_num(cas) && !signer; i++)
        if (X509_verify(cert, X509_get0_pubkey(sk_X509_value(cas, i))) == 1)
            signer = sk_X509_value(cas, i);
    ERR_clear_error();
    return signer;
}

/* What is wrong with it, or NULL. */
static const char *check(struct pki_identity *identity)
{
    if (!identity->cas)
        return "the CA's certificate is no PEM, or more than there can be";
    if (!identity->cert)
        return "the node's certificate is no PEM";
    if (!identity->key)
        return "the node's key is no PEM, or has a passphrase";
    if (EVP_PKEY_eq(X509_get0_pubkey(identity->cert), identity->key) != 1)
        return "the node's key is not the one of its certificate";
    if (!pki_cert_name(identity->cert, &identity->name))
        return "the node's certificate does not name a cluster and a node";
    return signer_of(identity->cas, identity->cert) ? NULL
                                                    : "the node's certificate is not of the cluster's CA";
}

int pki_identity_new(const char *ca, size_t ca_len, const char *cert, size_t cert_len, const char *key,
                     size_t key_len, struct pki_identity **out, char err[PKI_ERR_MAX])
{
    struct pki_identity *made = calloc(1, sizeof(*made));
    if (!made)
        return -ENOMEM;
    made->cas = pki_read_certs(ca, ca_len);
    STACK_OF(X509) *own = pki_read_certs(cert, cert_len);
    made->cert = own ? sk_X509_shift(own) : NULL;
    sk_X509_pop_free(own, X509_free);
    made->key = pki_read_key(key, key_len);
    const char *wrong = check(made);
    ERR_clear_error();
    if (!wrong) {
        *out = made;
        return 0;
    }
    snprintf(err, PKI_ERR_MAX, "%s", wrong);
    pki_identity_free(made);
    return -EINVAL;
}

struct pki_identity *pki_identity_copy(const struct pki_identity *identity)
{
    struct pki_identity *made = calloc(1, sizeof(*made));
    if (!made)
        return NULL;
    *made = *identity;
    made->cas = X509_chain_up_ref(identity->cas);
    X509_up_ref(made->cert);
    EVP_PKEY_up_ref(made->key);
    if (made->cas)
        return made;
    pki_identity_free(made);
    return NULL;
}

void pki_identity_free(struct pki_identity *identity)
{
    if (!identity)
        return;
    sk_X509_pop_free(identity->cas, X509_free);
    X509_free(identity->cert);
    EVP_PKEY_free(identity->key);
    free(identity);
}

const struct pki_name *pki_identity_name(const struct pki_identity *identity)
{
    return &identity->name;
}

STACK_OF(X509) * pki_identity_cas(const struct pki_identity *identity)
{
    return identity->cas;
}

X509 *pki_identity_cert(const struct pki_identity *identity)
{
    return identity->cert;
}

EVP_PKEY *pki_identity_key(const struct pki_identity *identity)
{
    return identity->key;
}

void pki_identity_ca(const struct pki_identity *identity, uint8_t out[PKI_FINGERPRINT_BYTES])
{
    pki_fingerprint_of(signer_of(identity->cas, identity->cert), out);
}

static int64_t seconds(const ASN1_TIME *t)
{
    int days = 0, rest = 0;
    ASN1_TIME *epoch = ASN1_TIME_set(NULL, 0);
    if (epoch)
        ASN1_TIME_diff(&days, &rest, epoch, t);
    ASN1_TIME_free(epoch);
    return (int64_t)days * 86400 + rest;
}

int64_t pki_identity_not_before(const struct pki_identity *identity)
{
    return seconds(X509_get0_notBefore(identity->cert));
}

int64_t pki_identity_not_after(const struct pki_identity *identity)
{
    return seconds(X509_get0_notAfter(identity->cert));
}
