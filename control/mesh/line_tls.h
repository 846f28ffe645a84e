/* SPDX-License-Identifier: Apache-2.0 */
/* TLS of the mesh: contexts, and the one check of who is on the other side. */
#ifndef FL_MESH_LINE_TLS_H
#define FL_MESH_LINE_TLS_H

#include "control/mesh/openssl.h"
#include "control/mesh/pki.h"

/* For both roles: TLS 1.3 alone, without tickets, so that each connection shows certificates. A certificate
 * is asked for and taken as it comes: TLS proves that the other side has its key, line_tls_check() says whose
 * it is. identity: NULL for a host that has none yet. NULL without memory. */
SSL_CTX *line_tls_new(const struct pki_identity *identity);

/*
 * Who is on the other side: MESH_OK and its name; MESH_NO_CERTIFICATE, MESH_CHAIN, MESH_EXPIRED,
 * MESH_OTHER_CLUSTER, or MESH_OTHER_NODE where expected is not 0. why says it in words. Whether the cluster
 * knows the node is the mesh's to check.
 */
enum mesh_reason line_tls_check(const SSL *ssl, const struct pki_identity *own, uint64_t expected,
                                struct pki_name *out, char why[MESH_WHY_MAX]);

/* For who joins: whether the other side's certificate was signed by the CA certificate of this SHA-256, which
 * it has to show, too. MESH_OK, and *name; or why not. */
enum mesh_reason line_tls_check_pin(const SSL *ssl, const uint8_t pin[PKI_FINGERPRINT_BYTES],
                                    struct pki_name *name, char why[MESH_WHY_MAX]);

/* What OpenSSL's queue of errors says of the last call. Empties it. */
void line_tls_error_text(char out[MESH_WHY_MAX]);

#endif
