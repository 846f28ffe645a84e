/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The body of a question's answer into memory, whatever its framing. Embedded, and unmoved until done.
 */
#ifndef FL_FETCH_COLLECT_H
#define FL_FETCH_COLLECT_H

#include <stdbool.h>
#include <stddef.h>

#include "dataplane/timer.h"
#include "dataplane/wire.h"
#include "dataplane/fetch/question.h"
#include "dataplane/move/pump.h"

struct collect {
    /* Set before collect_start; borrowed until done. */
    char *bytes;
    size_t cap;
    void (*done)(struct collect *c,
                 int err); /* 0; -EFBIG; -EPIPE: it broke off; -ECANCELED. Never from within */
    void *arg;
    size_t len;      /* so far */
    bool keep_alive; /* after 0: the connection is good for another question */
    /* private */
    struct pump pump;
    struct timer timer;
    struct wire wire;
    struct wire_over over;
    struct loop_post post;
    bool too_large;
};

/* In the question's done. */
void collect_start(struct collect *c, struct question *q);
void collect_stop(struct collect *c); /* done comes soon */

#endif
