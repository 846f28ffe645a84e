/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The listening sockets as main holds them, by slot (msg.h), and which ring accepts from which. Called from
 * main's thread alone.
 */
#ifndef FL_LISTENING_H
#define FL_LISTENING_H

#include <stdbool.h>
#include <stdint.h>

#include "limits.h"
#include "plan.h"
#include "dataplane/ring.h"

struct listening {
    unsigned count;                    /* slots below it may be in use */
    int fd[LISTENERS_MAX];             /* -1: none */
    bool accepted_from[LISTENERS_MAX]; /* a ring has it ... */
    uint8_t ring[LISTENERS_MAX];       /* ... this one */
};

/* A socket that control hands over: taken with 0, else -EPROTO. */
int listening_take(struct listening *l, uint32_t slot, const int *fds, unsigned fd_count);

/* Hands the sockets that no ring has yet to rings: those of one address in turn, so that each ring has its
 * share. running: the rings do already. */
void listening_share(struct listening *l, const struct plan *plan, struct ring *const *rings,
                     unsigned ring_count, bool running);

/* The address is not configured any more. False: there is no such socket, or no memory to say so; then it is
 * served on. */
bool listening_remove(struct listening *l, struct ring *const *rings, uint32_t slot);

#endif
