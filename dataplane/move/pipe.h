/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pipes for splice, of 1 MiB where the kernel gives that, kept in a pool of each ring: bounded, so that all
 * rings together stay below pipe-user-pages-soft (beyond it the kernel gives pipes of one page), made when
 * they are needed first, and given back empty. Running out is an ordinary answer: then bytes are copied.
 */
#ifndef FL_MOVE_PIPE_H
#define FL_MOVE_PIPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct pipes;

struct pipe_pair {
    struct pipe_pair *next;
    int rd, wr;     /* non-blocking */
    uint32_t bytes; /* capacity */
};

/* rings: how many share the user's allowance, which is read here (before the sandbox). -ENOMEM. */
int pipes_new(unsigned rings, struct pipes **out);
void pipes_free(struct pipes *p);

/* How many of which capacity there are at most. */
uint32_t pipes_count(const struct pipes *p);
uint32_t pipes_bytes(const struct pipes *p);

/* Empty; NULL: all are in use, or the kernel gives no good ones now. */
struct pipe_pair *pipes_take(struct pipes *p);

/* dirty: bytes may be left in it; it is closed, and another one made in its place when one is needed. */
void pipes_give(struct pipes *p, struct pipe_pair *pair, bool dirty);

#endif
