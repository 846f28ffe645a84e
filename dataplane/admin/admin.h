/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The admin pages as a stream handler, for a listener of their own:
 *   /healthz  200 while the ring turns
 *   /readyz   200 if names can be read and writes can be made, else 503 and the reason as text
 *   /metrics  Prometheus text format 0.0.4
 */
#ifndef FL_ADMIN_H
#define FL_ADMIN_H

#include "dataplane/stream.h"

extern const struct handler admin_handler;

#endif
