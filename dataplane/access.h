/* SPDX-License-Identifier: Apache-2.0 */
/* What goes to control by the log ring: lines of the access log of what is no request, and records of others.
 */
#ifndef FL_ACCESS_H
#define FL_ACCESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shared.h"

struct ring;

struct access_tunnel {
    uint64_t id;
    const char *client, *service, *backend; /* "": none */
    uint64_t bytes_in, bytes_out;           /* from the client, to the client */
    uint64_t connect_us, duration_us;
    unsigned attempts; /* backends that were tried */
    const char *technique;
    enum close_reason reason;
};

void access_log_tunnel(struct ring *ring, const struct access_tunnel *t);

/* False: there is no room for it now, and it is lost. */
bool access_append(struct ring *ring, enum log_kind kind, const void *body, size_t len);

#endif
