/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Passes: what a registry behind a prefix is shown (Authorization) so that it lets us read a repository.
 * Credentials, and who gives tokens for them, are control's affair: it is asked, once for all who wait on
 * this ring, and what it says is remembered for as long as it says.
 *
 *   question --401--> pass_ask --PASS_WANTED--> control --credentials, token server--> PASS --> question
 * again
 */
#ifndef FL_FETCH_PASS_H
#define FL_FETCH_PASS_H

#include <stdint.h>

#include "msg.h"
#include "dataplane/http/view.h"

struct pass;
struct passes;
struct ring;

enum {
    PASSES_MAX = 64, /* of a ring: repositories; the one that was not used for longest makes room */
    PASS_ASK_MS = 30000,
};

int passes_new(struct ring *ring, struct passes **out);
void passes_free(struct passes *all);

/* Which one: of which source (plan_source.id), for which repository there. */
struct pass_key {
    uint64_t source;
    struct view repo;
};

/* What is to be shown; absent: nothing is known. *serial says which one it is. Valid until the next call of
 * this file, or the next turn of the loop. */
struct view pass_find(struct passes *all, const struct pass_key *key, uint64_t *serial);

/* Somebody who waits; embedded. */
struct pass_wait {
    void (*done)(struct pass_wait *w, enum pass_status status); /* once, never from within pass_ask */
    struct pass *pass;                                          /* NULL: it waits for nothing */
    struct pass_wait *next, **prev;
};

/*
 * Asks control; refused: serial of the one that was shown, 0: none was. Key and challenge are copied. 0, or
 * at once: -ENOMEM (all are being asked for), -EMSGSIZE, -ENOTCONN, -EAGAIN (control).
 */
int pass_ask(struct passes *all, const struct pass_key *key, uint64_t refused, struct view challenge,
             struct pass_wait *w);

/* done does not come any more. At any time. */
void pass_leave(struct pass_wait *w);

#endif
