/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One request and its answer on the wire. A thread has one carrier: libcurl's loop, in which its exchanges
 * are under way, two of them at most, and which keeps the connections. They speak HTTP/1.1: over HTTP/2 two
 * exchanges with one host would share a connection, and libcurl holds back all of it where one of them waits.
 *
 * A body that is poured goes out once at most: there is nothing to rewind it with, so where it would have to
 * go again (a connection that was closed meanwhile, 417 after the first bytes) the exchange fails. If it is
 * large, the registry is asked first whether it wants it ("Expect").
 */
#ifndef FL_MIRROR_EXCHANGE_H
#define FL_MIRROR_EXCHANGE_H

#ifndef INT_MAX /* libcurl's headers mean the system's <limits.h> and find ours */
#define INT_MAX __INT_MAX__
#endif

#include <curl/curl.h>
#include <time.h>

#include "control/challenge.h"
#include "control/mirror/side.h"

struct carrier *carrier_new(void); /* NULL: no memory */
void carrier_free(struct carrier *c);
/* Waits until something can go on, but not longer than that, and lets it. */
enum { CARRIER_TURN_MS = 1000 };
void carrier_turn(struct carrier *c, int wait_ms);

struct side {
    const struct side_config *config;
    struct carrier *carrier;
    CURL *curl;
    char *authorization; /* the field, malloc'd; NULL: nobody asked for it yet */
    char token_for[REPO_NAME_MAX + 16];
    time_t token_until; /* 0: it is good for ever */
    char message[CURL_ERROR_SIZE];
};

struct exchange {
    struct side *side;
    const struct side_request *request;
    struct side_answer *out;
    struct challenge challenge;
    struct curl_slist *fields;
    CURLcode code;
    bool active; /* from exchange_begin to exchange_end or exchange_stop */
    bool ended;  /* there is nothing more to come */
    bool begun;  /* the sink has got its first piece */
    bool waits;  /* the sink has no room, or there is nothing to pour */
    bool too_long, cancelled;
};

/* Of a side one at a time. `shown`: the field that says who asks, or NULL. */
void exchange_begin(struct exchange *x, const char *url, const char *shown);
/* Of what has ended: 0, and the answer is whole; -EIO, -EFBIG, -ECANCELED as the sink wanted no more. */
int exchange_end(struct exchange *x, char err[SIDE_ERROR_MAX]);
/* Breaks off what is under way, with its connection. */
void exchange_stop(struct exchange *x);

/* What waits goes on. */
void exchange_resume(struct exchange *x);
/* Whether the answer has begun, and is none that wants the body; and how many bytes of the body have gone. */
bool exchange_refused(const struct exchange *x);
int64_t exchange_sent(const struct exchange *x);
/* What has come of the answer is all of it. */
void exchange_cut(struct exchange *x);

/* side.c: until the answer has ended, or its sink has something; as side_ask does, once. */
int side_begin(struct exchange *x, char err[SIDE_ERROR_MAX]);
/* Begins, and does not wait. */
void side_send(struct exchange *x);
/* After a 401: 0 if there is something else to show now. */
int side_authorize(struct exchange *x, char err[SIDE_ERROR_MAX]);

#endif
