/* SPDX-License-Identifier: Apache-2.0 */
/* The section `certificates`: names, and the files behind them. Reading it does not open the files. */
#ifndef FL_CONTROL_CONFIG_CERTIFICATES_H
#define FL_CONTROL_CONFIG_CERTIFICATES_H

#include <stddef.h>

#include "certs.h"

struct config_certificate {
    char name[CERTS_NAME_MAX];
    char *cert, *key, *ca, *ocsp; /* paths; NULL: not given */
};

struct config_certificates {
    struct config_certificate *list;
    size_t count;
};

void config_certificates_fini(struct config_certificates *c);

#endif
