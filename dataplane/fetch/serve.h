/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A client's GET of a blob that is not in this node's store: it reads along with the fetch, or, where nothing
 * can be kept, gets the bytes from a source of its own ("alone").
 *
 * A part of a blob is read along if a fetch is under way and about to reach it; else it is asked of a source
 * by Range, kept nowhere and no reason to fetch the rest: a client that takes pieces may never want that, and
 * one that goes on with a pull after its connection broke finds the fetch that the first part began. A part
 * cannot be checked against the digest.
 *
 * What a client gets alone and whole is hashed on the way, and its last bytes wait for the digest. One that
 * has some of it already gets the rest of another whole one: the hash goes on over what the client gets. What
 * came from a growing file was not hashed: the beginning of the other one is, and has to be the same.
 */
#ifndef FL_FETCH_SERVE_H
#define FL_FETCH_SERVE_H

#include "dataplane/hash.h"
#include "dataplane/stream.h"
#include "dataplane/fetch/fetch.h"
#include "dataplane/move/pump.h"

enum { SERVE_LAG_BYTES = 64 /* last bytes that wait for the digest */ };

struct serve_order {
    struct digest digest;
    uint64_t size;    /* FETCH_SIZE_UNKNOWN: the source will say */
    struct view repo; /* good until the stream's end */
    bool link;
    bool part;
    uint64_t first, end; /* of a part */
    struct fetch_sources sources;
    struct http_response *(*head)(struct stream *s, uint64_t size); /* begins the answer: 200, or 206 */
    void (*head_out)(struct stream *s);                             /* calls serve_ready */
    void (*refuse)(struct stream *s, enum fetch_fault fault);       /* answers instead */
};

/* Memory of the stream's arena. */
struct serve {
    struct serve_order order;
    struct stream *s;
    struct fetch_reader *reader; /* NULL: alone */
    struct question question;
    struct pump pump;
    /* Of what the client has, and of its last bytes, which may have to come again: hashed of it, lag apart.
     */
    struct hash hash;
    uint64_t hashed, known, unproven; /* known: of this source, bytes that are in it */
    uint8_t lag_len, lag[SERVE_LAG_BYTES];
    struct fetch_reader *served; /* the first `unproven` bytes came from its file: they are compared */
    unsigned source, tries;
    struct timer timer;
    uint64_t stopped_ms; /* when the last source stopped in the middle */
    uint64_t skip;       /* bytes of the answer that the client has, or does not want */
    bool hashing, mismatch, unsure, keep_alive;
    bool answered; /* the stream has its answer, or the beginning of one */
    bool relaying; /* the pump is at work */
    bool started;  /* it was */
    bool aborted, released;
    char name[PLAN_NAME_MAX]; /* of the backend, for the log */
};

/*
 * The order is filled in, the rest zero. The stream is held, and its handler has to be one that calls
 * serve_abort, and serve_ready from order.head_out.
 */
void serve_begin(struct serve *sv, struct stream *s);
void serve_abort(struct serve *sv);
void serve_ready(struct serve *sv); /* the answer's head is out */

#endif
