/* SPDX-License-Identifier: Apache-2.0 */
/* OpenSSL's headers mean the system's <limits.h> and find ours. */
#ifndef FL_MESH_OPENSSL_H
#define FL_MESH_OPENSSL_H

#ifndef INT_MAX
#define INT_MAX __INT_MAX__
#endif
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#endif
