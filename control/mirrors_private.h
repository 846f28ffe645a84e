/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of mirrors.h share. */
#ifndef FL_CONTROL_MIRRORS_PRIVATE_H
#define FL_CONTROL_MIRRORS_PRIVATE_H

#include "control/mirror_due.h"
#include "control/mirror_work.h"
#include "control/mirrors.h"
#include "control/state/mirror.h"

enum {
    MIRRORS_TICK_MS = 250,
    MIRRORS_RUNS_MAX = 2, /* by themselves at the same time */
    MIRRORS_ERROR_MAX = 512,
    MIRRORS_PENDING_MAX = 64, /* repositories that have changed; if there are more, all are looked at */
};

struct mirror_run {
    uint64_t number; /* 0: there was none */
    bool dry_run, running, more, told_end;
    bool whole;                  /* about all that the rule is about */
    uint64_t begun_ms, ended_ms; /* UTC */
    json_t *counts, *rows;
    char error[MIRRORS_ERROR_MAX];
};

struct mirror_totals {
    uint64_t tags, bytes, failures, wrong;
};

/* A rule, and what this node knows of it. */
struct mirror_state {
    struct mirrors *owner;
    struct mirror_rule rule; /* without a name: free */
    struct mirror_clock clock;
    struct mirror_work *work; /* NULL: none is under way */
    struct mirror_run run;    /* the last one */
    struct mirror_totals total;
    json_t *pending; /* repositories that have changed: keys of an object */
    bool pending_all, failing;
    uint64_t
        synced_ms; /* UTC: when the last good run began; all was there that was then. 0: there was none */
};

struct mirrors {
    struct mirrors_config config;
    uv_timer_t timer;
    bool dirty, leads;
    uint64_t runs;
    size_t turn;
    struct mirror_totals gone; /* of rules that were removed */
    struct mirror_state state[MIRRORS_MAX];
};

/* The rules are read again, if they have changed. */
void mirrors_look(struct mirrors *m);

/* mirrors_job.c: what a run is to do; NULL, and the reason in why. */
json_t *mirror_job(struct mirrors *m, const struct mirror_state *s, bool dry_run,
                   char why[MIRRORS_ERROR_MAX]);
void mirror_pending_add(struct mirror_state *s, const char *repo, uint64_t now_ms);
void mirror_pending_all(struct mirror_state *s);
void mirror_pending_clear(struct mirror_state *s);

#endif
