/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What all rings know of blobs that are being fetched: which ones, how much of each is in its file, and how
 * it ended. One ring fetches; readers on every ring read the growing file behind it. A mutex is taken when a
 * fetch begins or ends and when a reader comes or goes, never for a piece of a body; how far a fetch is, is
 * read without it.
 */
#ifndef FL_FETCH_TABLE_H
#define FL_FETCH_TABLE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "digest.h"

struct loop;
struct store_ring;

enum {
    FETCHES_MAX = 512,          /* of the process, with those that are over and still read from */
    FETCH_HOLD_BACK = 64 << 10, /* last bytes that nobody sees before the digest is known to be right */
};

enum fetch_state {
    FETCH_ASKING, /* nobody has answered yet: the size may not be known */
    FETCH_OPEN,   /* bytes come */
    FETCH_WHOLE,  /* all are there, and they have the digest */
    FETCH_FAILED, /* over; fault says why */
};

enum fetch_fault {
    FETCH_FINE,
    FETCH_NOT_THERE,  /* no source has it */
    FETCH_NO_SOURCE,  /* none can be asked now */
    FETCH_TIMEOUT,    /* it did not answer in time */
    FETCH_REFUSED,    /* the source wants to know who asks, or does not let us */
    FETCH_AWAY,       /* where it sends its clients, they are not let in; no pass of ours is for there */
    FETCH_BAD_ANSWER, /* what it says is no blob of that size */
    FETCH_CUT,        /* it stopped in the middle, and no other could go on */
    FETCH_SPOILT,     /* the bytes have another digest */
    FETCH_NOT_KEPT,   /* the store cannot take it: read it from a source without keeping */
    FETCH_GIVEN_UP,   /* nobody wanted it any more */
};

/* Whether what is FETCH_WHOLE is in the store. */
enum fetch_kept { FETCH_KEPT_UNKNOWN, FETCH_KEPT, FETCH_KEPT_NOT };

struct fetch_entry {
    struct digest digest;
    _Atomic uint64_t size, written; /* size: once it is not FETCH_ASKING */
    _Atomic uint8_t state, fault;   /* enum fetch_state, enum fetch_fault */
    _Atomic uint8_t kept;           /* enum fetch_kept */
    _Atomic uint64_t waiting;       /* a bit for each ring with readers that wait for news */
    _Atomic uint32_t readers;
    /* Under the mutex. */
    int fd; /* the file, while somebody refers to the entry; -1: none yet */
    uint32_t references;
    bool listed, used;
    unsigned ring; /* that fetches: it looks after its own readers in each batch */
};

/* Random; in keys of the table that are no digests of content. Made before the threads. */
extern uint8_t fetch_secret[32];

/* Before the threads: how to wake a ring. */
void fetch_table_ring(unsigned ring, struct loop *loop);

/* The entry of a digest, made if there is none: *first then, and the ring is the one that fetches. A
 * reference. NULL: no room. */
struct fetch_entry *fetch_entry_get(const struct digest *d, unsigned ring, bool *first);
void fetch_entry_hold(struct fetch_entry *e); /* another one */

/* A reader's reference to one that is under way, or lingers. NULL: there is none. */
struct fetch_entry *fetch_entry_find(const struct digest *d);

/* The last one closes the file, by an order to the calling ring's loop: one that has no name any more and is
 * large takes the disk a while to be rid of. */
void fetch_entry_put(struct fetch_entry *e, struct store_ring *store);

/* Nobody finds it any more. */
void fetch_entry_unlist(struct fetch_entry *e);

/* What is in the store is not good: nobody finds the entry any more that has the same file. One that is still
 * under way brings another file. */
void fetch_entry_forget(const struct digest *d);

/* The fetch's: takes fd (a duplicate of its own). The one before it is closed: nobody has read from it. */
void fetch_entry_file(struct fetch_entry *e, int fd, struct store_ring *store);

/* The fetch's: news for the readers of all rings. */
void fetch_entry_state(struct fetch_entry *e, enum fetch_state state, enum fetch_fault fault);
void fetch_entry_kept(struct fetch_entry *e, bool kept);
void fetch_entry_written(struct fetch_entry *e, uint64_t written);

/* How far it may be read. */
uint64_t fetch_entry_visible(const struct fetch_entry *e);

#endif
