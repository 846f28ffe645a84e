/* SPDX-License-Identifier: Apache-2.0 */
/* Whether the bytes of a certificate's files are what they should be, and what they say. No files, no clock.
 */
#ifndef FL_CONTROL_CERTS_CHECK_H
#define FL_CONTROL_CERTS_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ocsp_window.h"

struct certs_bytes {
    uint8_t *data; /* NULL: there is none */
    size_t len;
};

struct certs_facts {
    char subject[512], names[512];
    int64_t not_before_s, not_after_s; /* UTC */
    struct ocsp_window staple;         /* without a response, or of one about another certificate: no time */
};

/*
 * bytes: cert, key, ca (PEM) and ocsp (DER). The key must be the certificate's, and open to whoever has the
 * file; the OCSP response must be one that was given (about which certificate, and for how long, is no reason
 * to refuse the rest: it is not stapled then). False: *at is the part that is wrong, why says how.
 */
bool certs_check_files(const struct certs_bytes bytes[4], struct certs_facts *out, int *at, char *why,
                       size_t cap);

#endif
