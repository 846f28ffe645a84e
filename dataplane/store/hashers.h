/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads that hash large pieces of bodies beside the rings. SHA-256 is a third of what a ring does for a
 * byte that it fetches or is pushed, and the only large part of it that needs nothing of the ring. A ring
 * gives away a piece only to a thread that has nothing to do: where each has a piece, it hashes by itself as
 * if there were none of these.
 */
#ifndef FL_STORE_HASHERS_H
#define FL_STORE_HASHERS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct hash;
struct hashers;
struct loop;

enum {
    HASHERS_MAX = 16,
    HASHERS_LEAST_BYTES = 128 << 10, /* less is hashed sooner than a thread is woken and its end noticed */
};

/* A piece that is with a thread; neither it, nor the hash, nor the bytes are touched until it is back. */
struct hash_job {
    struct hash *hash;
    const void *bytes;
    size_t len;
    struct hash_back *back;
    struct hash_job *next;
};

/* Where a ring's pieces come back, of any thread, the newest first; its loop is woken for each. */
struct hash_back {
    struct loop *loop;
    _Atomic(struct hash_job *) list;
};

/* Threads that are of use beside so many rings: none where there is one processor. */
unsigned hashers_wanted(unsigned rings);

/* The threads are started by hashers_start, in the sandbox, also while rings ask. NULL: no memory. */
struct hashers *hashers_new(unsigned threads);
int hashers_start(struct hashers *h); /* once; -errno: there are fewer of them, or none */
void hashers_stop(struct hashers *h); /* every piece must have come back; also if it was not started */
void hashers_free(struct hashers *h);

/* False: every thread has a piece, and this one is the caller's to hash. Any thread. */
bool hashers_give(struct hashers *h, struct hash_job *job);

/* What has come back; NULL: nothing. One look at a word if so. */
struct hash_job *hashers_back(struct hash_back *back);

#endif
