/* SPDX-License-Identifier: Apache-2.0 */
/* Certificates, keys and CAs out of the bytes that control handed over. */
#ifndef FL_TLS_MATERIAL_H
#define FL_TLS_MATERIAL_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "certs.h"
#include "ocsp_window.h"

struct tls_material {
    X509 *cert;
    EVP_PKEY *key;
    STACK_OF(X509) * chain;
    const uint8_t *ocsp; /* a copy; NULL: none about this certificate */
    size_t ocsp_len;
    struct ocsp_window ocsp_window;
};

/* False, and nothing is held, if something of it cannot be read or the key is another's. */
bool tls_material_read(const struct certs *certs, const struct certs_entry *e, struct tls_material *out);
void tls_material_drop(struct tls_material *m);

/* Until when the first certificate of an entry is good, UTC. False: there is none. */
bool tls_material_not_after(const struct certs *certs, const struct certs_entry *e, int64_t *out);

/* When its OCSP response may be stapled. False: there is none about its certificate. */
bool tls_material_staple(const struct certs *certs, const struct certs_entry *e, struct ocsp_window *out);

/* The CAs in a PEM text; NULL: there is none. */
X509_STORE *tls_material_store(const char *pem, size_t len);

/* ctx trusts them, and tells clients their names. */
bool tls_material_trust_clients(SSL_CTX *ctx, const char *pem, size_t len);

#endif
