/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Several clients of a ring that pull the same blob at the same time share one body of a backend: a flight.
 * The first one leads: its answer goes to its own client as always, and what passes is kept in a window of
 * memory, too. The others follow: each reads from the window at its own pace, through a wire that looks like
 * a backend's.
 *
 * Nobody waits for a follower: one that falls behind the window's beginning, or that comes when the blob's
 * beginning has left it, asks a backend of its own. When the flight ends early (its client has gone, its
 * backend failed for good), or stands still because its client does, followers go on by themselves from the
 * byte where they are, as with any backend that stops (resume.h). The last bytes are seen by followers when
 * the whole body has come, and, where the digest is checked, is right.
 */
#ifndef FL_PROXY_COALESCE_H
#define FL_PROXY_COALESCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "plan.h"
#include "dataplane/wire.h"
#include "dataplane/http/view.h"

struct ring;
struct coalesce;
struct flight;

enum {
    FLIGHT_KEY_BYTES = 32,
    FLIGHT_HEAD_MAX = 4096, /* of the answer; a larger one is not shared */
    FLIGHT_AUTHORITY_MAX = 64,
    FLIGHT_HOLD_BACK = 4096, /* bytes that followers do not see before the end */
    FLIGHTS_MAX = 16,        /* of a ring, at a time */
    FOLLOWERS_MAX = 4096,
};

/* What makes two requests the same. */
struct flight_key {
    uint8_t bytes[FLIGHT_KEY_BYTES];
};

enum flight_news {
    FLIGHT_OPEN, /* the answer's head is there */
    FLIGHT_GONE, /* there is nothing to share: go on alone */
};

/* Who reads along. */
struct follower {
    struct wire wire;                                        /* the body's content, without framing */
    void (*news)(struct follower *f, enum flight_news news); /* once, never from within coalesce_follow */
    void *arg;
    /* private */
    struct wire_over over;
    struct flight *flight;
    struct follower *next, **prev;
    uint64_t at;
    struct op *op; /* the poll under way */
    struct loop_post post, told;
    struct op told_op;
    bool waits; /* for more than it has seen */
};

int coalesce_new(struct ring *ring, struct coalesce **out);
void coalesce_free(struct coalesce *c);
void coalesce_tick(struct coalesce *c);

/* A flight that can be joined from its first byte: follows it. NULL: there is none, or no memory. */
struct follower *coalesce_follow(struct coalesce *c, const struct flight_key *key,
                                 void (*news)(struct follower *f, enum flight_news news), void *arg);
void coalesce_leave(struct follower *r);

/* The answer that a follower has joined, and whose it was. Valid after FLIGHT_OPEN. */
struct view follower_head(const struct follower *r);
const char *follower_authority(const struct follower *r);
const char *follower_backend(const struct follower *r);

/* Whether the body turned out to be wrong: what the follower has is not to be ended well. */
bool follower_spoilt(const struct follower *r);

/* Leads: a flight of that key, without an answer yet. NULL: one is under way already, or no memory. */
struct flight *coalesce_lead(struct coalesce *c, const struct flight_key *key);

/* The answer's head, and how long its body is. */
void flight_open(struct flight *f, struct view head, const char *authority, const char *backend,
                 uint64_t length);

/* Content from byte `at` on; what was added before is passed over. */
void flight_add(struct flight *f, uint64_t at, const uint8_t *bytes, size_t len);

/* The leader's client has got no more than `at` bytes, and the rest comes from elsewhere: what was added
 * behind them, which no follower has seen, is taken back. */
void flight_rewind(struct flight *f, uint64_t at);

enum flight_end { FLIGHT_COMPLETE, FLIGHT_BROKEN, FLIGHT_SPOILT };

/* Nothing more is added; the flight is the followers' now. */
void flight_end(struct flight *f, enum flight_end how);

#endif
