/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who may read at a source: the data plane met a 401 there and is told what to show (msg.h, PASS_WANTED): the
 * credentials themselves (Basic), or a token that the registry's token server gives for them, or to anybody
 * (Bearer). What holds is remembered; one question is asked for all who wait.
 *
 * The registry is a stranger: its challenge says where credentials go. They go nowhere in clear, unless the
 * source itself is spoken to in clear, and, where the configuration names the token server, nowhere else.
 */
#ifndef FL_CONTROL_SOURCE_PASS_H
#define FL_CONTROL_SOURCE_PASS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "limits.h"
#include "msg.h"
#include "control/credentials.h"
#include "control/state/source.h"

struct source_passes;

/* What holds for a source at the moment. */
struct source_access {
    char prefix[REPO_NAME_MAX + 1];             /* for people */
    bool plain;                                 /* its backends are spoken to in clear */
    char token_server[SOURCE_TOKEN_SERVER_MAX]; /* where its realm has to begin; "": anywhere */
    struct credentials credentials;             /* user "": none */
    char *ca;                                   /* PEM, malloc'd; NULL: the system's */
    char problem[SOURCE_PROBLEM_MAX];           /* credentials or CA cannot be read; "" */
};

struct source_passes_config {
    uv_loop_t *loop;
    /* False: there is no such source. What is in *access is the caller's, who wipes it. */
    bool (*look)(void *arg, uint64_t source, struct source_access *access);
    void (*tell)(void *arg, const char *prefix, const char *text); /* for people: why there is none */
    void *arg;
};

struct source_passes *source_passes_new(const struct source_passes_config *config);

/* Whoever waits is told PASS_UNAVAILABLE. The rest is freed by the loop. */
void source_passes_close(struct source_passes *s);

/* The configuration has changed: nothing of what was known holds. */
void source_passes_forget(struct source_passes *s);

/* Why nobody is let in for a repository (its name there), as it was told last; valid until the next call of
 * this file, "": not known. */
const char *source_pass_why(const struct source_passes *s, uint64_t source, const char *repo);

/* value: what is to be shown, with PASS_OK; valid until it returns. */
typedef void (*source_pass_done)(void *arg, const struct frame_pass *pass, const char *value, size_t len);

struct source_pass_question {
    uint64_t source, refused;
    const char *repo, *challenge; /* no NULs in them, or at their ends */
    size_t repo_len, challenge_len;
};

/* Copies everything. done comes once, perhaps before the return. */
void source_pass_get(struct source_passes *s, const struct source_pass_question *q, source_pass_done done,
                     void *arg);

#endif
