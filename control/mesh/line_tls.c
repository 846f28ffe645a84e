/* SPDX-License-Identifier: Apache-2.0 */
#include "control/mesh/line_tls.h"

#include <inttypes.h>
#include <stdio.h>

void line_tls_error_text(char out[MESH_WHY_MAX])
{
    unsigned long error = ERR_peek_last_error();
    const char *reason = error ? ERR_reason_error_string(error) : NULL;
    snprintf(out, MESH_WHY_MAX, "%s", reason ? reason : "the TLS of the other side made no sense");
    ERR_clear_error();
}

/* See line_tls_new: nothing is trusted for it. */
static int take_any(X509_STORE_CTX *ctx, void *arg)
{
    (void)ctx;
    (void)arg;
    return 1;
}

static bool identity_use(SSL_CTX *tls, const struct pki_identity *identity)
{
    STACK_OF(X509) *cas = pki_identity_cas(identity);
    if (SSL_CTX_use_certificate(tls, pki_identity_cert(identity)) != 1 ||
        SSL_CTX_use_PrivateKey(tls, pki_identity_key(identity)) != 1)
        return false;
    for (int i = 0; i < sk_X509_num(cas); i++)
        if (SSL_CTX_add1_chain_cert(tls, sk_X509_value(cas, i)) != 1)
            return false;
    return true;
}

SSL_CTX *line_tls_new(const struct pki_identity *identity)
{
    SSL_CTX *tls = SSL_CTX_new(TLS_method());
    if (tls && SSL_CTX_set_min_proto_version(tls, TLS1_3_VERSION) &&
        SSL_CTX_set_max_proto_version(tls, TLS1_3_VERSION) && SSL_CTX_set1_groups_list(tls, "P-256:X25519") &&
        (!identity || identity_use(tls, identity))) {
        SSL_CTX_set_session_cache_mode(tls, SSL_SESS_CACHE_OFF);
        SSL_CTX_set_num_tickets(tls, 0);
        SSL_CTX_set_max_early_data(tls, 0);
        SSL_CTX_set_mode(tls, SSL_MODE_NO_AUTO_CHAIN | SSL_MODE_RELEASE_BUFFERS);
        SSL_CTX_set_max_cert_list(tls, PKI_PEM_BYTES_MAX);
        SSL_CTX_set_verify(tls, SSL_VERIFY_PEER, NULL);
        SSL_CTX_set_cert_verify_callback(tls, take_any, NULL);
        return tls;
    }
    SSL_CTX_free(tls);
    ERR_clear_error();
    return NULL;
}

static enum mesh_reason say(enum mesh_reason reason, char why[MESH_WHY_MAX])
{
    snprintf(why, MESH_WHY_MAX, "%s", mesh_reason_text(reason));
    return reason;
}

enum mesh_reason line_tls_check(const SSL *ssl, const struct pki_identity *own, uint64_t expected,
                                struct pki_name *out, char why[MESH_WHY_MAX])
{
    X509 *cert = SSL_get0_peer_certificate(ssl);
    if (!cert)
        return say(MESH_NO_CERTIFICATE, why);
    enum mesh_reason reason = pki_verify(pki_identity_cas(own), cert, why);
    if (reason != MESH_OK)
        return reason;
    if (!pki_cert_name(cert, out))
        return say(MESH_CHAIN, why);
    if (memcmp(out->cluster_id, pki_identity_name(own)->cluster_id, sizeof(out->cluster_id)) != 0)
        return say(MESH_OTHER_CLUSTER, why);
    if (expected && out->node_id != expected) {
        snprintf(why, MESH_WHY_MAX, "it is node %" PRIu64 ", not node %" PRIu64, out->node_id, expected);
        return MESH_OTHER_NODE;
    }
    return MESH_OK;
}

static enum mesh_reason other_ca(char why[MESH_WHY_MAX])
{
    snprintf(
        why, MESH_WHY_MAX,
        "it belongs to another cluster than the token, or the cluster's CA was exchanged since the token was "
        "made; `fairlead node join-token` makes a new one");
    return MESH_CHAIN;
}

enum mesh_reason line_tls_check_pin(const SSL *ssl, const uint8_t pin[PKI_FINGERPRINT_BYTES],
                                    struct pki_name *name, char why[MESH_WHY_MAX])
{
    X509 *cert = SSL_get0_peer_certificate(ssl), *pinned = NULL;
    STACK_OF(X509) *shown = SSL_get_peer_cert_chain(ssl), *cas = NULL;
    if (!cert)
        return say(MESH_NO_CERTIFICATE, why);
    for (int i = 0; i < sk_X509_num(shown) && !pinned; i++) {
        uint8_t fingerprint[PKI_FINGERPRINT_BYTES];
        pki_fingerprint_of(sk_X509_value(shown, i), fingerprint);
        if (CRYPTO_memcmp(fingerprint, pin, sizeof(fingerprint)) == 0)
            pinned = sk_X509_value(shown, i);
    }
    cas = pinned ? sk_X509_new_null() : NULL;
    if (!cas || !sk_X509_push(cas, pinned)) {
        sk_X509_free(cas);
        return other_ca(why);
    }
    enum mesh_reason reason = pki_verify(cas, cert, why);
    sk_X509_free(cas);
    if (reason == MESH_CHAIN)
        return other_ca(why);
    if (reason == MESH_OK && !pki_cert_name(cert, name))
        return say(MESH_CHAIN, why);
    return reason;
}
