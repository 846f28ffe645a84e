/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the fetch share. */
#ifndef FL_FETCH_PRIVATE_H
#define FL_FETCH_PRIVATE_H

#include "dataplane/link.h"
#include "dataplane/pool.h"
#include "dataplane/timer.h"
#include "dataplane/waiter.h"
#include "dataplane/fetch/fetch.h"
#include "dataplane/fetch/sink.h"
#include "dataplane/move/pump.h"

struct upload;

enum {
    FETCH_JOBS_MAX = 128,     /* of a ring */
    FETCH_READERS_MAX = 4096, /* of a ring */
};

enum fetch_step {
    STEP_CREATE, /* the session is being made */
    STEP_ASK,
    STEP_FLOW, /* the pump moves it */
    STEP_KEEP, /* synced and renamed */
    STEP_LINK,
    STEP_LINGER, /* who comes a moment too late for it and too early for the store is served from it */
    STEP_CANCEL, /* the session is being removed; then it is over, or begins anew (restart) */
};

struct fetch {
    struct fetches *all;
    struct fetch *next, **prev;
    struct fetch_entry *entry;
    uint8_t step; /* enum fetch_step */
    bool restart; /* after STEP_CANCEL */
    bool link, started, keep_alive;
    uint8_t stop_fault; /* enum fetch_fault: it is to end, for that */
    unsigned source, restarts, resumes;
    uint64_t stopped_ms; /* when the last source stopped; 0: it has not */
    uint64_t size;       /* FETCH_SIZE_UNKNOWN */
    struct fetch_sources sources;
    struct question question;
    struct pump pump;
    struct upload *upload;
    struct waiter waiter; /* of the session */
    struct timer timer;
    struct proposal proposal;
    struct sink sink;
    size_t repo_len;
    char repo[REPO_NAME_MAX];
};

struct fetches {
    struct ring *ring;
    struct pool jobs, readers;
    struct fetch *list;
    struct fetch_reader *waiting;
};

/* fetch.c. False: no memory; nothing is under way then, and the entry says nothing of it. */
bool fetch_begin(struct fetches *all, struct fetch_entry *e, const struct fetch_wish *wish);
void fetch_look(struct fetch *f); /* ten times a second */
void fetch_stop(struct fetch *f);

#endif
