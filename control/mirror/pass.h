/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A blob passes from one registry to the other: one GET and one PUT, at the same time in the same loop, with
 * a pipe between them. Who is quicker waits. A source that breaks off is asked for the rest while the other
 * side waits. The PUT says how long it is and comes to that length only if the blob is the one that is meant;
 * otherwise it is broken off, which no registry can take for an end.
 */
#ifndef FL_MIRROR_PASS_H
#define FL_MIRROR_PASS_H

#include "control/mirror/exchange.h"
#include "control/mirror/pipe.h"

struct pass {
    struct side *from, *to;
    struct side_request get, put; /* path, repo; the rest is pass_run's */
    struct pipe *pipe;            /* begun */
    int64_t stall_ms;             /* so long the destination may take hardly anything */
    int64_t answer_ms;            /* and so long its answer may take when it has all */
    unsigned resume_ms; /* a source that breaks off: before the rest is asked for; then twice as long */
    void (*moved)(void *arg, size_t bytes);
    void *arg;
    /* What came of it. */
    bool silent; /* one of them gave no answer at all */
    bool lost;   /* the destination has all of it, and has not answered */
    long wait_s; /* what an answer said about another attempt; 0: nothing */
    /* Within. */
    struct exchange getting, putting;
    struct side_answer got, answer;
    int64_t at;   /* of the source's body: the next byte */
    bool wrong;   /* the source's bytes are not that blob */
    bool refused; /* the destination has answered that it does not want the body */
    unsigned resumed;
    int64_t resumed_at;        /* of the blob: where it broke off last */
    int64_t sent, looked_sent; /* what the destination took: until now, and when it was looked at */
    uint64_t looked_ms;
};

/* 0: it is there. -EAGAIN: not now, perhaps at another attempt; -EBADMSG: it is not that blob; -EPERM. err
 * says why. */
int pass_run(struct pass *p, char err[SIDE_ERROR_MAX]);

#endif
