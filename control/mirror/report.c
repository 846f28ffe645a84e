/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "control/mirror/copy.h"

enum { PROGRESS_MS = 500 };

static pthread_mutex_t output = PTHREAD_MUTEX_INITIALIZER;

/* Takes the object. */
static void say(json_t *line)
{
    char *text = json_dumps(line, JSON_COMPACT);
    CHECK(text);
    json_decref(line);
    pthread_mutex_lock(&output);
    bool gone = printf("%s\n", text) < 0 || fflush(stdout);
    pthread_mutex_unlock(&output);
    free(text);
    if (gone)
        _exit(1);
}

void report_tag(struct hand *h, const char *tag, const char *digest, const char *state, const char *error)
{
    struct copy *c = h->copy;
    json_t *line = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s}", "type", "tag", "repo", c->from_repo, "to",
                             c->to_repo, "tag", tag, "digest", digest, "state", state);
    if (line && *error)
        json_object_set_new(line, "error", json_string(error) ?: json_string("(not UTF-8)"));
    if (line)
        say(line);
}

static json_t *counts_json(const struct copy_counts *n)
{
    const struct {
        const char *key;
        uint64_t value;
    } rows[] = {{"repos", n->repos},         {"tags", n->tags},       {"done", n->done},
                {"copied", n->copied},       {"failed", n->failed},   {"skipped", n->skipped},
                {"manifests", n->manifests}, {"blobs", n->blobs},     {"bytes", n->blob_bytes},
                {"here", n->here_blobs},     {"mounted", n->mounted}, {"wrong", n->wrong}};
    json_t *out = json_object();
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        json_object_set_new(out, rows[i].key, json_integer((json_int_t)rows[i].value));
    return out;
}

void report_progress(struct copy *c, bool now)
{
    static uint64_t last_ms; /* under the copy's lock */
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    uint64_t now_ms = (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
    pthread_mutex_lock(&c->lock);
    bool due = now || now_ms - last_ms >= PROGRESS_MS;
    json_t *counts = due ? counts_json(&c->counts) : NULL;
    if (due)
        last_ms = now_ms;
    pthread_mutex_unlock(&c->lock);
    if (due)
        say(json_pack("{s:s, s:o}", "type", "progress", "counts", counts));
}

void report_end(struct copy *c, const char *error)
{
    report_progress(c, true);
    say(json_pack("{s:s, s:o}", "type", "end", "error", json_string(error) ?: json_string("(not UTF-8)")));
}
