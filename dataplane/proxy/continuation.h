/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What makes a body another backend's affair, too: from which byte on it is asked for, and whether what comes
 * back is the same thing. Pure: heads in, a decision out.
 *
 * A body can go on if the path names a digest (registries: blobs, manifests), or the answer has a strong
 * entity tag. Two answers are of the same thing only if nothing that both of them say differs: entity tag,
 * digest, length of the whole, coding; and if at least one of tag and digest is known.
 */
#ifndef FL_PROXY_CONTINUATION_H
#define FL_PROXY_CONTINUATION_H

#include <stdbool.h>
#include <stdint.h>

#include "digest.h"
#include "plan.h"
#include "dataplane/http/http1.h"
#include "dataplane/http/response_reader.h"

#define CONTINUATION_UNKNOWN UINT64_MAX

enum {
    CONTINUATION_ETAG_MAX = 96,
    CONTINUATION_RANGE_MAX = 64, /* text of a Range field */
};

struct continuation {
    struct digest digest; /* of the whole, DIGEST_NONE: not known */
    uint64_t first;       /* the body's first byte in the whole */
    uint64_t length;      /* of the body */
    uint64_t total;       /* of the whole */
    bool whole;           /* the body is all of it */
    uint8_t etag_len;     /* 0: there is none that is strong */
    char etag[CONTINUATION_ETAG_MAX];
};

/* The digest that the path of a request names: /v2/NAME/blobs/DIGEST and /v2/NAME/manifests/DIGEST. False:
 * none, or one that cannot be checked. */
bool continuation_digest(struct view path, struct digest *out);

/* From the answer to a client's request. False: nobody can go on with this body. */
bool continuation_learn(struct continuation *c, enum proxy_kind kind, const struct http_request *req,
                        const struct http_answer *answer);

/* "bytes=N-" or "bytes=N-M": the rest, of which `moved` bytes are there; `again`: all of it, from byte 0, of
 * a body that is the whole. Returns its length. */
size_t continuation_range(const struct continuation *c, uint64_t moved, bool again,
                          char out[CONTINUATION_RANGE_MAX]);

enum continuation_join {
    CONTINUATION_NO,    /* something else: ask another one */
    CONTINUATION_PART,  /* what was asked for: the rest, from the exact byte; again: all of it */
    CONTINUATION_WHOLE, /* all of it, without regard to the Range */
    CONTINUATION_END,   /* there is no more: the body was complete (its end was lost) */
};

/*
 * Whether an answer goes on with the body, of which `moved` bytes are there. *skip, *left: bytes of the
 * answer's content to drop, then to pass on; left may be CONTINUATION_UNKNOWN for a chunked answer. What it
 * tells about the body is kept for the next time.
 */
enum continuation_join continuation_accept(struct continuation *c, const struct http_answer *answer,
                                           uint64_t moved, bool again, uint64_t *skip, uint64_t *left);

#endif
