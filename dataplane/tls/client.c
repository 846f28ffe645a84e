/* SPDX-License-Identifier: Apache-2.0 */
/* What a TLS wire knows of the other side. */
#include <errno.h>
#include <openssl/evp.h>
#include <openssl/x509v3.h>
#include <string.h>

#include "check.h"
#include "node_uri.h"
#include "dataplane/tls/errors.h"
#include "dataplane/tls/tls_private.h"

static struct tls *tls_of(const struct wire *w)
{
    return tls_is(w) ? container_of(w->over, struct tls, over) : NULL;
}

static const SSL *ssl_of(const struct wire *w)
{
    const struct tls *t = tls_of(w);
    return t ? t->ssl : NULL;
}

bool tls_is(const struct wire *w)
{
    return w->over && w->over->ops == &tls_wire_ops;
}

const char *tls_protocol(const struct wire *w)
{
    const unsigned char *name = NULL;
    unsigned len = 0;
    SSL_get0_alpn_selected(ssl_of(w), &name, &len);
    return len == 2 && memcmp(name, "h2", 2) == 0 ? "h2" : len ? "http/1.1" : "";
}

static X509 *verified(const struct wire *w)
{
    const SSL *ssl = ssl_of(w);
    X509 *cert = ssl ? SSL_get0_peer_certificate(ssl) : NULL;
    return cert && SSL_get_verify_result(ssl) == X509_V_OK ? cert : NULL;
}

static void name_text(const X509_NAME *name, char *out, size_t cap)
{
    BIO *bio = BIO_new(BIO_s_mem());
    int n = 0;
    if (bio && X509_NAME_print_ex(bio, name, 0, XN_FLAG_RFC2253 & ~ASN1_STRFLGS_ESC_MSB) >= 0)
        n = BIO_read(bio, out, (int)cap - 1);
    out[n > 0 ? n : 0] = '\0';
    BIO_free(bio);
}

static void hex_text(const uint8_t *bytes, size_t len, char *out)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < len; i++) {
        *out++ = digits[bytes[i] >> 4];
        *out++ = digits[bytes[i] & 15];
    }
    *out = '\0';
}

bool tls_client_of(const struct wire *w, struct tls_client *out)
{
    uint8_t hash[EVP_MAX_MD_SIZE];
    unsigned len = 0;
    X509 *cert = verified(w);
    memset(out, 0, sizeof(*out));
    if (!cert || !X509_digest(cert, EVP_sha256(), hash, &len))
        return false;
    hex_text(hash, len, out->fingerprint);
    const ASN1_INTEGER *serial = X509_get0_serialNumber(cert);
    len = (unsigned)ASN1_STRING_length(serial);
    if (len > (sizeof(out->serial) - 1) / 2)
        len = (sizeof(out->serial) - 1) / 2;
    hex_text(ASN1_STRING_get0_data(serial), len, out->serial);
    name_text(X509_get_subject_name(cert), out->subject, sizeof(out->subject));
    name_text(X509_get_issuer_name(cert), out->issuer, sizeof(out->issuer));
    ERR_clear_error();
    return true;
}

ssize_t tls_client_cert(const struct wire *w, char *out, size_t cap)
{
    X509 *cert = verified(w);
    uint8_t *der = NULL;
    int len = cert ? i2d_X509(cert, &der) : 0;
    if (len <= 0)
        return 0;
    size_t need = (size_t)(len + 2) / 3 * 4 + 2;
    if (need < cap) { /* with the NUL that is written behind it */
        out[0] = ':';
        (void)EVP_EncodeBlock((unsigned char *)out + 1, der, len);
        out[need - 1] = ':';
    }
    OPENSSL_free(der);
    return need < cap ? (ssize_t)need : -ENOBUFS;
}

static uint64_t node_of(const X509 *cert, const uint8_t cluster_id[16])
{
    GENERAL_NAMES *names = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
    uint64_t node = 0;
    for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
        uint8_t cluster[16];
        uint64_t id;
        if (name->type != GEN_URI)
            continue;
        const ASN1_IA5STRING *uri = name->d.uniformResourceIdentifier;
        if (!node_uri_parse((const char *)ASN1_STRING_get0_data(uri), (size_t)ASN1_STRING_length(uri),
                            cluster, &id))
            continue;
        node = node || memcmp(cluster, cluster_id, sizeof(cluster)) != 0 ? TLS_NODE_FOREIGN : id;
    }
    GENERAL_NAMES_free(names);
    ERR_clear_error();
    return node;
}

uint64_t tls_client_node(const struct wire *w, const uint8_t cluster_id[16])
{
    struct tls *t = tls_of(w);
    if (!t)
        return 0;
    if (!t->node_known) {
        const X509 *cert = verified(w);
        t->node = cert ? node_of(cert, cluster_id) : 0;
        t->node_known = true;
    }
    return t->node;
}
