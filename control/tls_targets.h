/* SPDX-License-Identifier: Apache-2.0 */
/* Whom to check by TLS, and as whom: from services and certificates to targets of tls_check.h. */
#ifndef FL_CONTROL_TLS_TARGETS_H
#define FL_CONTROL_TLS_TARGETS_H

#include "certs.h"
#include "control/state/service.h"
#include "control/tls_check.h"

struct tls_targets {
    struct tls_check_target *target; /* by id */
    size_t count;
};

/*
 * Backends of services whose check is TLS (svc_check_kind) and that the kernel has a verdict on: ids below
 * backends_max. Where the data plane speaks TLS to them it is done alike: name, certificate, whom it trusts;
 * a service whose certificates are not there (certs NULL: none are) has no targets. Elsewhere any answer
 * will do.
 */
void tls_targets_make(const struct svc_table *t, const struct certs *certs, uint32_t backends_max,
                      struct tls_targets *out);
void tls_targets_fini(struct tls_targets *targets);

#endif
