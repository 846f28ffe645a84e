/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The certificates of a cluster: a CA of its own (ECDSA P-256) that signs one certificate for each node. A
 * node's certificate names the cluster and the node in a URI, fairlead://CLUSTER-ID/node/ID, and the hosts
 * that it says it can be reached at; what the node may do is not in it: the state says that. Everything here
 * is in memory; pki_files.h has the files.
 */
#ifndef FL_MESH_PKI_H
#define FL_MESH_PKI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "control/mesh/mesh.h"

typedef struct x509_st X509;
typedef struct evp_pkey_st EVP_PKEY;
struct stack_st_X509;

enum {
    PKI_FINGERPRINT_BYTES = 32, /* SHA-256 of a certificate in DER */
    PKI_PEM_BYTES_MAX = 32 << 10,
    PKI_CSR_BYTES_MAX = 4096,
    PKI_CA_LIFE_S = 3650 * 86400,
    PKI_NODE_LIFE_S = 90 * 86400,
    PKI_BACKDATE_S = 3600, /* clocks differ: a certificate is valid from before it was made */
    PKI_HOSTS_MAX = 8,
    PKI_CAS_MAX = 4, /* in a bundle: more than one while the CA is exchanged */
    PKI_ERR_MAX = 256,
};

/* What a certificate says of its node. */
struct pki_name {
    uint8_t cluster_id[16];
    uint64_t node_id;
};

/* Text that was made here, with its NUL; freed with pki_text_free, which wipes it: it may be a key. */
struct pki_text {
    char *data;
    size_t len;
};
void pki_text_free(struct pki_text *text);

/* A new CA for the cluster. 0 or -errno. */
int pki_ca_make(const uint8_t cluster_id[16], struct pki_text *cert, struct pki_text *key);

/* A new key for a node and the request to sign it. 0 or -errno. */
int pki_request_make(struct pki_text *key, struct pki_text *request);

/* A request for the certificate of a key that is there. 0 or -errno. */
int pki_request_of(const char *key, size_t len, struct pki_text *request);

/* What a CA puts into a certificate, whatever the request says. */
struct pki_subject {
    struct pki_name name;
    const char *host[PKI_HOSTS_MAX]; /* addresses or DNS names */
    size_t host_count;
    uint32_t life_s; /* 0: PKI_NODE_LIFE_S */
};

/*
 * Signs a request, of which only the key is taken. ca is a bundle, in which the certificate of ca_key is
 * looked for. 0, -EINVAL for a request that is none or is not signed by its own key (P-256 is the only kind),
 * -ENOKEY if no certificate of the bundle belongs to ca_key, -errno; err says it.
 */
int pki_sign(const char *ca, size_t ca_len, const char *ca_key, size_t ca_key_len, const char *request,
             size_t request_len, const struct pki_subject *subject, struct pki_text *cert,
             char err[PKI_ERR_MAX]);

/* Whether the bundle has the certificate of this key. */
bool pki_key_is_of(const char *ca, size_t ca_len, const char *key, size_t key_len);

/* SHA-256 of the public key (SubjectPublicKeyInfo, DER) of a request, which has to be signed by it. 0 or
 * -EINVAL. */
int pki_request_key(const char *request, size_t len, uint8_t out[PKI_FINGERPRINT_BYTES]);

/* Of the certificate of a bundle that belongs to this key. 0 or -ENOKEY. */
int pki_fingerprint_signer(const char *ca, size_t ca_len, const char *ca_key, size_t ca_key_len,
                           uint8_t out[PKI_FINGERPRINT_BYTES]);

/* The certificate of a bundle that belongs to this key. 0, -ENOKEY, -errno. */
int pki_signer_cert(const char *ca, size_t ca_len, const char *ca_key, size_t ca_key_len,
                    struct pki_text *cert);

/* Of the first certificate of a bundle, which signs. 0 or -EINVAL. */
int pki_fingerprint(const char *pem, size_t len, uint8_t out[PKI_FINGERPRINT_BYTES]);
void pki_fingerprint_of(const X509 *cert, uint8_t out[PKI_FINGERPRINT_BYTES]);

/* What a node shows of itself, and whom it trusts. */
struct pki_identity;

/* -EINVAL with err: something is no PEM, the key is not the certificate's, or no CA of the bundle signed it.
 * An expired certificate is taken: the others judge it. */
int pki_identity_new(const char *ca, size_t ca_len, const char *cert, size_t cert_len, const char *key,
                     size_t key_len, struct pki_identity **out, char err[PKI_ERR_MAX]);
struct pki_identity *pki_identity_copy(const struct pki_identity *identity);
void pki_identity_free(struct pki_identity *identity);

const struct pki_name *pki_identity_name(const struct pki_identity *identity);
struct stack_st_X509 *pki_identity_cas(const struct pki_identity *identity);
X509 *pki_identity_cert(const struct pki_identity *identity);
EVP_PKEY *pki_identity_key(const struct pki_identity *identity);

/* SHA-256 of the CA certificate that signed its own. */
void pki_identity_ca(const struct pki_identity *identity, uint8_t out[PKI_FINGERPRINT_BYTES]);

/* Seconds since the epoch, UTC. */
int64_t pki_identity_not_before(const struct pki_identity *identity);
int64_t pki_identity_not_after(const struct pki_identity *identity);

/* False: the certificate has no such name, or more than one. */
bool pki_cert_name(const X509 *cert, struct pki_name *out);

/* Whether one of the CAs signed the certificate and both are valid now: MESH_OK, MESH_EXPIRED or MESH_CHAIN;
 * why says what is wrong. */
enum mesh_reason pki_verify(struct stack_st_X509 *cas, X509 *cert, char why[MESH_WHY_MAX]);

#endif
