/* SPDX-License-Identifier: Apache-2.0 */
#include "control/mesh/pki.h"

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/mesh/pki_internal.h"
#include "node_uri.h"

enum { SERIAL_BITS = 127, X509_V3 = 2 };

void pki_text_free(struct pki_text *text)
{
    if (text->data)
        OPENSSL_cleanse(text->data, text->len);
    free(text->data);
    *text = (struct pki_text){0};
}

/* Takes what is in the BIO. */
static int text_take(BIO *bio, struct pki_text *out)
{
    char *data;
    long len = BIO_get_mem_data(bio, &data);
    out->data = malloc((size_t)len + 1);
    if (!out->data)
        return -ENOMEM;
    memcpy(out->data, data, (size_t)len);
    out->data[len] = '\0';
    out->len = (size_t)len;
    OPENSSL_cleanse(data, (size_t)len);
    return 0;
}

static int key_text(EVP_PKEY *key, struct pki_text *out)
{
    BIO *bio = BIO_new(BIO_s_mem());
    int rc = bio && PEM_write_bio_PKCS8PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL) ? text_take(bio, out)
                                                                                       : -ENOMEM;
    BIO_free(bio);
    return rc;
}

static int cert_text(X509 *cert, struct pki_text *out)
{
    BIO *bio = BIO_new(BIO_s_mem());
    int rc = bio && PEM_write_bio_X509(bio, cert) ? text_take(bio, out) : -ENOMEM;
    BIO_free(bio);
    return rc;
}

static bool serial_set(X509 *cert)
{
    BIGNUM *n = BN_new();
    bool ok = n && BN_rand(n, SERIAL_BITS, BN_RAND_TOP_ONE, BN_RAND_BOTTOM_ANY) &&
              BN_to_ASN1_INTEGER(n, X509_get_serialNumber(cert));
    BN_free(n);
    return ok;
}

static bool extension_add(X509 *cert, X509 *issuer, int nid, const char *value)
{
    X509V3_CTX ctx;
    X509V3_set_ctx_nodb(&ctx);
    X509V3_set_ctx(&ctx, issuer, cert, NULL, NULL, 0);
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
    bool ok = extension && X509_add_ext(cert, extension, -1);
    X509_EXTENSION_free(extension);
    return ok;
}

static void id_text(const uint8_t id[16], char out[33])
{
    for (int i = 0; i < 16; i++)
        snprintf(out + 2 * (size_t)i, 3, "%02x", id[i]);
}

static bool name_set(X509_NAME *name, const char *common)
{
    return X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)common, -1, -1, 0);
}

/* Version, serial, names, validity and key, still unsigned. NULL without memory. */
static X509 *cert_begin(X509 *issuer, EVP_PKEY *key, const char *common, long life_s)
{
    X509 *cert = X509_new();
    if (!cert)
        return NULL;
    bool ok = X509_set_version(cert, X509_V3) && serial_set(cert) &&
              name_set(X509_get_subject_name(cert), common) &&
              X509_set_issuer_name(cert, X509_get_subject_name(issuer ? issuer : cert)) &&
              X509_gmtime_adj(X509_getm_notBefore(cert), -PKI_BACKDATE_S) &&
              X509_gmtime_adj(X509_getm_notAfter(cert), life_s) && X509_set_pubkey(cert, key);
    if (ok)
        return cert;
    X509_free(cert);
    return NULL;
}

int pki_ca_make(const uint8_t cluster_id[16], struct pki_text *cert, struct pki_text *key)
{
    char id[33], common[80];
    int rc = -ENOMEM;
    *cert = *key = (struct pki_text){0};
    id_text(cluster_id, id);
    snprintf(common, sizeof(common), "Fairlead cluster %s", id);
    EVP_PKEY *pair = EVP_EC_gen("P-256");
    X509 *x = pair ? cert_begin(NULL, pair, common, PKI_CA_LIFE_S) : NULL;
    if (x && extension_add(x, x, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") &&
        extension_add(x, x, NID_key_usage, "critical,keyCertSign,cRLSign") &&
        extension_add(x, x, NID_subject_key_identifier, "hash") && X509_sign(x, pair, EVP_sha256())) {
        rc = cert_text(x, cert);
        if (rc == 0)
            rc = key_text(pair, key);
    }
    if (rc)
        pki_text_free(cert);
    X509_free(x);
    EVP_PKEY_free(pair);
    return rc;
}

static int request_text(EVP_PKEY *key, struct pki_text *out)
{
    X509_REQ *req = X509_REQ_new();
    BIO *bio = BIO_new(BIO_s_mem());
    int rc = -ENOMEM;
    if (req && bio && X509_REQ_set_version(req, 0) && X509_REQ_set_pubkey(req, key) &&
        X509_REQ_sign(req, key, EVP_sha256()) && PEM_write_bio_X509_REQ(bio, req))
        rc = text_take(bio, out);
    BIO_free(bio);
    X509_REQ_free(req);
    return rc;
}

int pki_request_make(struct pki_text *key, struct pki_text *request)
{
    *key = *request = (struct pki_text){0};
    EVP_PKEY *pair = EVP_EC_gen("P-256");
    int rc = pair ? key_text(pair, key) : -ENOMEM;
    if (rc == 0)
        rc = request_text(pair, request);
    if (rc)
        pki_text_free(key);
    EVP_PKEY_free(pair);
    return rc;
}

int pki_request_of(const char *key, size_t len, struct pki_text *request)
{
    *request = (struct pki_text){0};
    EVP_PKEY *pair = pki_read_key(key, len);
    int rc = pair ? request_text(pair, request) : -EINVAL;
    EVP_PKEY_free(pair);
    return rc;
}

static bool is_p256(const EVP_PKEY *key)
{
    char group[64];
    size_t len;
    return EVP_PKEY_is_a(key, "EC") && EVP_PKEY_get_group_name(key, group, sizeof(group), &len) &&
           strcmp(group, SN_X9_62_prime256v1) == 0;
}

/* The key of a request that its owner signed, or NULL. */
static EVP_PKEY *request_key(const char *pem, size_t len)
{
    if (len > PKI_CSR_BYTES_MAX)
        return NULL;
    BIO *bio = BIO_new_mem_buf(pem, (int)len);
    X509_REQ *req = bio ? PEM_read_bio_X509_REQ(bio, NULL, pki_no_passphrase, NULL) : NULL;
    EVP_PKEY *key = req ? X509_REQ_get_pubkey(req) : NULL;
    if (key && (!is_p256(key) || X509_REQ_verify(req, key) != 1)) {
        EVP_PKEY_free(key);
        key = NULL;
    }
    X509_REQ_free(req);
    BIO_free(bio);
    ERR_clear_error();
    return key;
}

int pki_request_key(const char *request, size_t len, uint8_t out[PKI_FINGERPRINT_BYTES])
{
    EVP_PKEY *key = request_key(request, len);
    unsigned char *der = NULL;
    int der_len = key ? i2d_PUBKEY(key, &der) : -1;
    bool ok = der_len > 0 && EVP_Digest(der, (size_t)der_len, out, NULL, EVP_sha256(), NULL);
    OPENSSL_free(der);
    EVP_PKEY_free(key);
    ERR_clear_error();
    return ok ? 0 : -EINVAL;
}

static void uri_make(const struct pki_name *name, char *out, size_t cap)
{
    char id[33];
    id_text(name->cluster_id, id);
    snprintf(out, cap, NODE_URI_SCHEME "%s" NODE_URI_MIDDLE "%" PRIu64, id, name->node_id);
}

static GENERAL_NAME *host_name(const char *host)
{
    unsigned char ip[16];
    size_t ip_len = inet_pton(AF_INET, host, ip) == 1 ? 4 : inet_pton(AF_INET6, host, ip) == 1 ? 16 : 0;
    GENERAL_NAME *name = GENERAL_NAME_new();
    ASN1_STRING *text = ip_len ? ASN1_OCTET_STRING_new() : ASN1_IA5STRING_new();
    if (!name || !text ||
        !ASN1_STRING_set(text, ip_len ? (const void *)ip : host, ip_len ? (int)ip_len : -1)) {
        GENERAL_NAME_free(name);
        ASN1_STRING_free(text);
        return NULL;
    }
    GENERAL_NAME_set0_value(name, ip_len ? GEN_IPADD : GEN_DNS, text);
    return name;
}

static bool names_push(GENERAL_NAMES *names, GENERAL_NAME *name)
{
    if (name && sk_GENERAL_NAME_push(names, name))
        return true;
    GENERAL_NAME_free(name);
    return false;
}

/* Made as objects, never from text: a host name cannot add another name. */
static bool alt_names_add(X509 *cert, const struct pki_subject *subject)
{
    char uri[128];
    uri_make(&subject->name, uri, sizeof(uri));
    GENERAL_NAMES *names = GENERAL_NAMES_new();
    GENERAL_NAME *name = GENERAL_NAME_new();
    ASN1_IA5STRING *text = ASN1_IA5STRING_new();
    bool ok = names && name && text && ASN1_STRING_set(text, uri, -1);
    if (ok) {
        GENERAL_NAME_set0_value(name, GEN_URI, text);
        ok = names_push(names, name);
    } else {
        GENERAL_NAME_free(name);
        ASN1_IA5STRING_free(text);
    }
    for (size_t i = 0; ok && i < subject->host_count; i++)
        ok = names_push(names, host_name(subject->host[i]));
    ok = ok && X509_add1_ext_i2d(cert, NID_subject_alt_name, names, 0, X509V3_ADD_DEFAULT) == 1;
    GENERAL_NAMES_free(names);
    return ok;
}

static int sign(X509 *ca, EVP_PKEY *ca_key, EVP_PKEY *key, const struct pki_subject *subject,
                struct pki_text *out)
{
    char common[64];
    int rc = -ENOMEM;
    snprintf(common, sizeof(common), "node %" PRIu64, subject->name.node_id);
    X509 *cert = cert_begin(ca, key, common, subject->life_s ? subject->life_s : PKI_NODE_LIFE_S);
    if (cert && extension_add(cert, ca, NID_basic_constraints, "critical,CA:FALSE") &&
        extension_add(cert, ca, NID_key_usage, "critical,digitalSignature") &&
        extension_add(cert, ca, NID_ext_key_usage, "serverAuth,clientAuth") &&
        extension_add(cert, ca, NID_subject_key_identifier, "hash") &&
        extension_add(cert, ca, NID_authority_key_identifier, "keyid") && alt_names_add(cert, subject) &&
        X509_sign(cert, ca_key, EVP_sha256()))
        rc = cert_text(cert, out);
    X509_free(cert);
    ERR_clear_error();
    return rc;
}

int pki_sign(const char *ca, size_t ca_len, const char *ca_key, size_t ca_key_len, const char *request,
             size_t request_len, const struct pki_subject *subject, struct pki_text *cert,
             char err[PKI_ERR_MAX])
{
    *cert = (struct pki_text){0};
    STACK_OF(X509) *cas = pki_read_certs(ca, ca_len);
    EVP_PKEY *signer = pki_read_key(ca_key, ca_key_len), *key = request_key(request, request_len);
    X509 *issuer = cas && signer ? pki_find_key(cas, signer) : NULL;
    int rc = 0;
    if (!key) {
        snprintf(err, PKI_ERR_MAX, "the request for a certificate is none of a P-256 key, signed by it");
        rc = -EINVAL;
    } else if (!issuer) {
        snprintf(err, PKI_ERR_MAX,
                 "the CA's key on this node belongs to none of the cluster's CA certificates");
        rc = -ENOKEY;
    } else {
        rc = sign(issuer, signer, key, subject, cert);
        if (rc)
            snprintf(err, PKI_ERR_MAX, "the certificate could not be made: %s", strerror(-rc));
    }
    EVP_PKEY_free(key);
    EVP_PKEY_free(signer);
    sk_X509_pop_free(cas, X509_free);
    return rc;
}

bool pki_key_is_of(const char *ca, size_t ca_len, const char *key, size_t key_len)
{
    STACK_OF(X509) *cas = pki_read_certs(ca, ca_len);
    EVP_PKEY *pair = pki_read_key(key, key_len);
    bool is = cas && pair && pki_find_key(cas, pair);
    EVP_PKEY_free(pair);
    sk_X509_pop_free(cas, X509_free);
    return is;
}

int pki_fingerprint_signer(const char *ca, size_t ca_len, const char *ca_key, size_t ca_key_len,
                           uint8_t out[PKI_FINGERPRINT_BYTES])
{
    STACK_OF(X509) *cas = pki_read_certs(ca, ca_len);
    EVP_PKEY *key = pki_read_key(ca_key, ca_key_len);
    const X509 *signer = cas && key ? pki_find_key(cas, key) : NULL;
    if (signer)
        pki_fingerprint_of(signer, out);
    EVP_PKEY_free(key);
    sk_X509_pop_free(cas, X509_free);
    return signer ? 0 : -ENOKEY;
}

int pki_signer_cert(const char *ca, size_t ca_len, const char *ca_key, size_t ca_key_len,
                    struct pki_text *cert)
{
    *cert = (struct pki_text){0};
    STACK_OF(X509) *cas = pki_read_certs(ca, ca_len);
    EVP_PKEY *key = pki_read_key(ca_key, ca_key_len);
    X509 *signer = cas && key ? pki_find_key(cas, key) : NULL;
    int rc = signer ? cert_text(signer, cert) : -ENOKEY;
    EVP_PKEY_free(key);
    sk_X509_pop_free(cas, X509_free);
    return rc;
}

void pki_fingerprint_of(const X509 *cert, uint8_t out[PKI_FINGERPRINT_BYTES])
{
    unsigned len = PKI_FINGERPRINT_BYTES;
    if (!X509_digest(cert, EVP_sha256(), out, &len))
        memset(out, 0, PKI_FINGERPRINT_BYTES);
}

int pki_fingerprint(const char *pem, size_t len, uint8_t out[PKI_FINGERPRINT_BYTES])
{
    STACK_OF(X509) *certs = pki_read_certs(pem, len);
    if (!certs)
        return -EINVAL;
    pki_fingerprint_of(sk_X509_value(certs, 0), out);
    sk_X509_pop_free(certs, X509_free);
    return 0;
}

bool pki_cert_name(const X509 *cert, struct pki_name *out)
{
    GENERAL_NAMES *names = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
    int found = 0;
    bool ok = true;
    for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
        if (name->type != GEN_URI)
            continue;
        const ASN1_IA5STRING *uri = name->d.uniformResourceIdentifier;
        ok &= node_uri_parse((const char *)ASN1_STRING_get0_data(uri), (size_t)ASN1_STRING_length(uri),
                             out->cluster_id, &out->node_id);
        found++;
    }
    GENERAL_NAMES_free(names);
    ERR_clear_error();
    return ok && found == 1;
}

enum mesh_reason pki_verify(STACK_OF(X509) * cas, X509 *cert, char why[MESH_WHY_MAX])
{
    enum mesh_reason reason = MESH_CHAIN;
    X509_STORE *store = X509_STORE_new();
    X509_STORE_CTX *ctx = X509_STORE_CTX_new();
    bool ok = store && ctx;
    for (int i = 0; ok && i < sk_X509_num(cas); i++)
        ok = X509_STORE_add_cert(store, sk_X509_value(cas, i));
    snprintf(why, MESH_WHY_MAX, "%s", mesh_reason_text(reason));
    if (ok && X509_STORE_CTX_init(ctx, store, cert, NULL)) {
        X509_VERIFY_PARAM *param = X509_STORE_CTX_get0_param(ctx);
        X509_VERIFY_PARAM_set_depth(param, 1);
        int good = X509_verify_cert(ctx), error = X509_STORE_CTX_get_error(ctx);
        if (good == 1)
            reason = MESH_OK;
        else if (error == X509_V_ERR_CERT_HAS_EXPIRED || error == X509_V_ERR_CERT_NOT_YET_VALID)
            reason = MESH_EXPIRED;
        if (reason != MESH_OK)
            snprintf(why, MESH_WHY_MAX, "%s: %s", mesh_reason_text(reason),
                     X509_verify_cert_error_string(error));
    }
    X509_STORE_CTX_free(ctx);
    X509_STORE_free(store);
    ERR_clear_error();
    return reason;
}
