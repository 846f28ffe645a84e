/* SPDX-License-Identifier: Apache-2.0 */
/* Lines of the access log of what is no request. */
#ifndef FL_ACCESS_H
#define FL_ACCESS_H

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

#endif
