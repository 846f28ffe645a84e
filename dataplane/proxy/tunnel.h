/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A tunnel: bytes both ways between a client's wire and a backend's until both have ended, each half-close
 * passed on. Embedded in whoever owns the wires (tcp.h).
 *
 * It ends well when both directions have ended. When one end breaks, what had come from it is delivered, and
 * then the other socket is set to be reset when the owner closes it, unless all that was to go there had
 * gone: nobody takes a part for the whole, and nobody loses what he would have got without us. When it is
 * broken off (no byte for too long, called down, the owner says so), the sockets are reset at once.
 */
#ifndef FL_PROXY_TUNNEL_H
#define FL_PROXY_TUNNEL_H

#include <stdbool.h>
#include <stdint.h>

#include "shared.h"
#include "dataplane/timer.h"
#include "dataplane/wire.h"
#include "dataplane/http/view.h"
#include "dataplane/move/pump.h"

struct balance;
struct ring;
struct target;
struct tunnel;

struct tunnel_config {
    struct ring *ring;
    struct wire *client, *server; /* borrowed until done; nothing is under way on them */
    struct view early_client;     /* of either side, received already and not passed on; */
    struct view early_server;     /* borrowed until done */
    enum pump_technique technique;
    uint32_t idle_timeout_ms; /* after this long without a byte either way it ends; 0: never */
    uint32_t half_closed_ms;  /* the same, once one direction has ended; 0: no other than that */
    struct balance *balance;  /* with target: ended when the kernel calls that down. NULL: nobody asks */
    struct target *target;
    /* Once, never from within a call of the owner's; nothing is under way on the wires then. reason:
     * CLOSE_TUNNEL_END, or why it broke. */
    void (*done)(struct tunnel *t, enum close_reason reason);
    /* Twice a second, for the owner's books. NULL: nobody asks. */
    void (*look)(struct tunnel *t);
    void *arg;
};

struct tunnel {
    struct tunnel_config c;
    struct pump up, down; /* from the client, to the client */
    struct timer timer;
    uint8_t reason;           /* enum close_reason, once it broke */
    uint8_t up_end, down_end; /* enum pump_end */
    bool broken, stopped;
    bool client_gone, server_gone;
    bool lingering;     /* waits until what was sent has arrived */
    size_t unsent;      /* at the last look, */
    uint64_t unsent_ms; /* and since when it is no less */
};

void tunnel_start(struct tunnel *t, const struct tunnel_config *config);

/* Breaks it off; done comes when nothing is under way any more. Harmless after done. */
void tunnel_stop(struct tunnel *t, enum close_reason reason);

/* Whoever closes that wire now resets it, so that its other end does not take a part for the whole. */
void tunnel_reset_at_close(const struct wire *w);

static inline bool tunnel_active(const struct tunnel *t)
{
    return pump_active(&t->up) || pump_active(&t->down) || t->lingering;
}

/* Of both directions: "splice", "copy" or "mixed". */
const char *tunnel_technique_name(const struct tunnel *t);

#endif
