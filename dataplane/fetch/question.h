/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One question to a source, put to its backends one after the other until one has an answer that counts.
 * Embedded in whoever asks and unmoved until question_end. What it does not do: look at the answer's body.
 *
 * A backend that cannot be reached, or answers 5xx or 429, is passed over; so is one that says 404, if it is
 * told so (one replica may lack what another has). Those that were asked are not asked again by this question
 * until question_forgive.
 *
 * A registry that wants to know who asks (401) is asked again with a pass, which control gives (pass.h); with
 * a new one if it does not take that. One that sends us elsewhere (detour.h) is followed a few times; no pass
 * is shown to another server.
 */
#ifndef FL_FETCH_QUESTION_H
#define FL_FETCH_QUESTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "digest.h"
#include "limits.h"
#include "plan.h"
#include "dataplane/timer.h"
#include "dataplane/fetch/detour.h"
#include "dataplane/fetch/pass.h"
#include "dataplane/http/http1.h"
#include "dataplane/http/view.h"

struct ask;
struct http_answer;
struct ring;
struct target;
struct upstream;
struct wire;

enum {
    QUESTION_PATH_MAX = 768,
    QUESTION_FIELD_MAX = DIGEST_TEXT_MAX + 8,
    QUESTION_TRIED_MAX = 32,
    QUESTION_PREFER_MAX = BLOB_HOLDERS_MAX,
    QUESTION_BODY_MAX = 12 << 10,
};

enum question_end {
    QUESTION_ANSWERED, /* answer, wire, early */
    QUESTION_REFUSED,  /* all that were asked said no: status is what the last one said */
    QUESTION_NOBODY,   /* no service, no backend that is up, or all at their limits for too long */
    QUESTION_FAILED,   /* none could be reached, or they broke off */
    QUESTION_TIMEOUT,
};

struct question {
    /* Set before question_ask. */
    struct ring *ring;
    uint16_t service; /* place in the plan */
    uint64_t source;  /* plan_source.id: a 401 is answered with a pass, redirects are followed; 0: neither */
    enum http_method method;
    bool not_found_passes; /* 404 of one backend says nothing about the next one */
    const char *accept;    /* static, or NULL */
    uint32_t only;         /* 1 + id of the one backend that is asked; 0: any */
    uint32_t
        prefer[QUESTION_PREFER_MAX]; /* 1 + id each: those that are asked before others; 0 ends the list */
    uint64_t timeout_ms;             /* until the answer's head; 0: as the service says */
    struct view body;                /* goes with the request; small: ASK_BYTES hold both. Borrowed */
    size_t path_len, range_len, etag_len;
    char path[QUESTION_PATH_MAX];
    char range[QUESTION_FIELD_MAX];
    char etag[QUESTION_FIELD_MAX];                           /* If-None-Match, with its quotes */
    void (*done)(struct question *q, enum question_end end); /* once, never from within question_ask */
    void *arg;
    /* Of the answer. */
    const struct http_answer *answer; /* valid until done returns */
    struct wire *wire;                /* on which its body comes, behind early; until question_end */
    struct view early;
    int status;
    bool away;        /* it came from where the source sends its clients */
    const char *name; /* of the backend; valid until question_end */
    uint64_t latency_us;
    unsigned attempts;
    /* private */
    struct ask *ask;
    struct upstream *up;
    struct target *target;
    struct timer timer;
    uint64_t since_ms;
    uint32_t incarnation;
    enum question_end last;
    struct target *tried[QUESTION_TRIED_MAX];
    unsigned tried_count, challenges, turns;
    uint64_t shown; /* serial of the pass in the last request; 0: none */
    struct pass_wait pass;
    struct detour *detour; /* NULL: the service itself is asked */
};

void question_ask(struct question *q);

enum question_outcome {
    QUESTION_GOOD,    /* all was well */
    QUESTION_BROKEN,  /* it stopped, or said what is not true */
    QUESTION_DROPPED, /* nobody wants it any more: that says nothing about the backend */
};

/* Gives everything back, at any time; done does not come any more. keep: the body was read to its end, and
 * the connection is good for another question. Nothing of the owner's may be under way on the wire. It may be
 * asked again then. */
void question_end(struct question *q, enum question_outcome outcome, bool keep);

/* Whoever was asked may be asked again. */
void question_forgive(struct question *q);

/* Whether the kernel says that the backend which is answering is down. */
bool question_is_down(const struct question *q);

#endif
