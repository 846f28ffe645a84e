/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections that there is no room for. Each is told so, and its socket is kept for a moment: to close it
 * with a request unread would answer that with a reset, which can destroy what it was told (RFC 9112, 9.6).
 */
#ifndef FL_DATAPLANE_REFUSED_H
#define FL_DATAPLANE_REFUSED_H

#include <stdint.h>

struct ring;

enum {
    REFUSED_MAX = 128, /* of a ring; beyond them the oldest is closed as it is */
    REFUSED_MS = 2000, /* for a client that neither closes nor says anything */
};

struct refused {
    struct {
        int fd;
        uint64_t end_ms;
    } row[REFUSED_MAX];
    unsigned count; /* in no order */
};

/* Takes fd, a client's socket that no byte was read from. */
void refused_add(struct ring *ring, int fd);
void refused_tick(struct ring *ring);
void refused_close(struct ring *ring);

#endif
