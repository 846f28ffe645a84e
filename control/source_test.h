/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A source is asked once, from this node and with what it is shown here: whether it is a registry (/v2/),
 * and, where a repository is named, for a manifest's head.
 */
#ifndef FL_CONTROL_SOURCE_TEST_H
#define FL_CONTROL_SOURCE_TEST_H

#include <stdbool.h>

#include "control/source_pass.h"
#include "control/webhook.h"
#include "control/compile/plan_compile.h"

enum { SOURCE_TEST_TEXT_MAX = 2048, SOURCE_TEST_REFERENCE_MAX = 256 };

struct source_test_question {
    const struct source *source;
    const struct plan_proxied *service; /* with an address at least */
    const struct source_access *access;
    const char *repo, *reference; /* ours, below the source's prefix; NULL: of no repository */
    struct webhooks *web;
    struct source_passes *passes;
};

struct source_test_result {
    bool good;
    const char *text; /* a line */
    long status;      /* of the last answer; 0: there was none */
    const char *digest;
};

typedef void (*source_test_done)(void *arg, const struct source_test_result *result);

/* Copies everything. done comes once, perhaps before the return. */
void source_test_begin(const struct source_test_question *q, source_test_done done, void *done_arg);

/* REPOSITORY, REPOSITORY:TAG or REPOSITORY@DIGEST; without either the tag latest. False: it is none. */
bool source_test_split(const char *text, char repo[REPO_NAME_MAX + 1],
                       char reference[SOURCE_TEST_REFERENCE_MAX]);

#endif
