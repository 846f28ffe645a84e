/* SPDX-License-Identifier: Apache-2.0 */
/* What pki.c and pki_identity.c share. */
#ifndef FL_MESH_PKI_INTERNAL_H
#define FL_MESH_PKI_INTERNAL_H

#include "control/mesh/openssl.h"
#include "control/mesh/pki.h"

/* Nobody is asked for a passphrase. */
int pki_no_passphrase(char *buf, int size, int writing, void *arg);

/* All certificates of a PEM text, one at least; NULL if there is none, or too many, or something else in it.
 */
STACK_OF(X509) * pki_read_certs(const char *pem, size_t len);
EVP_PKEY *pki_read_key(const char *pem, size_t len);

/* The certificate of this key, borrowed; NULL if none is. */
X509 *pki_find_key(STACK_OF(X509) * certs, EVP_PKEY *key);

#endif
