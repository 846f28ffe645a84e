/* SPDX-License-Identifier: Apache-2.0 */
/* The OCI distribution API (distribution-spec, 1.1 and what is newer on its main branch) as a stream handler.
 */
#ifndef FL_REGISTRY_H
#define FL_REGISTRY_H

#include "dataplane/stream.h"

extern const struct handler registry_handler;

#endif
