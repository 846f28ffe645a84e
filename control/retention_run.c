/* SPDX-License-Identifier: Apache-2.0 */
#include "control/retention_run.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/cluster_policy.h"
#include "control/journal.h"
#include "control/retention.h"

enum { STEP_MS = 10, STEP_TAGS = 2000, STEP_REPOS = 64 };

enum phase { NEXT, SEE, CHOOSE };

struct found {
    char tag[TAG_NAME_MAX + 1];
    struct digest digest;
    uint64_t time_ms;
};

/* One walk. */
struct walk {
    struct retention_runs *runs;
    uv_timer_t timer;
    enum phase phase;
    char batch[STEP_REPOS][REPO_NAME_MAX + 1];
    size_t batch_count, batch_at;
    char repo[REPO_NAME_MAX + 1], after[TAG_NAME_MAX + 1], last[TAG_NAME_MAX + 1];
    struct retention rules;
    struct found found[MANIFEST_TAGS_MAX];
    size_t found_count;
    bool full, proposing, ended, closed;
    retention_done done; /* NULL: it does not look only */
    void *arg;
    json_t *rows;
    size_t limit;
};

struct retention_runs {
    uv_loop_t *loop;
    struct cluster *cluster;
    uv_timer_t timer;
    uint64_t interval_ms;
    struct walk *cleaning; /* NULL: none is under way */
    struct walk *look[RETENTION_LOOKS_MAX];
    unsigned walks; /* not freed yet */
    bool closing, closed;
};

/* --- the end --- */

static void runs_free(struct retention_runs *r)
{
    if (r->closed && r->walks == 0)
        free(r);
}

static void walk_free(struct walk *w)
{
    struct retention_runs *r = w->runs;
    if (!w->closed || w->proposing)
        return;
    retention_fini(&w->rules);
    free(w);
    r->walks--;
    runs_free(r);
}

static void on_walk_closed(uv_handle_t *handle)
{
    struct walk *w = handle->data;
    w->closed = true;
    walk_free(w);
}

static void walk_end(struct walk *w, int err)
{
    struct retention_runs *r = w->runs;
    if (w->ended)
        return;
    w->ended = true;
    if (r->cleaning == w)
        r->cleaning = NULL;
    for (size_t i = 0; i < RETENTION_LOOKS_MAX; i++)
        if (r->look[i] == w)
            r->look[i] = NULL;
    if (w->done)
        w->done(w->arg, w->rows, w->full, err);
    uv_close((uv_handle_t *)&w->timer, on_walk_closed);
}

/* --- tags that go --- */

static void on_expired(void *arg, enum cmd_status status, uint64_t index, const void *detail, size_t len)
{
    struct walk *w = arg;
    (void)index, (void)detail, (void)len;
    w->proposing = false;
    if (w->closed)
        walk_free(w);
    else if (status == CMD_CONFLICT)
        w->phase = NEXT; /* another rule holds by now */
    else if (status != CMD_OK && status != CMD_DENIED && status != CMD_REPO_UNKNOWN)
        walk_end(w, 0); /* the next round tries again */
}

static void expire(struct walk *w)
{
    struct cmd_head head = {.type = CMD_TAGS_EXPIRE,
                            .actor = "system",
                            .actor_len = 6,
                            .source = "retention",
                            .source_len = 9,
                            .request_id = ""};
    size_t cap = 1024 + w->found_count * (TAG_NAME_MAX + DIGEST_PACKED_MAX + 16);
    struct wire_writer out = {.buf = malloc(cap), .cap = cap};
    CHECK(out.buf);
    cmd_put_head(&out, &head);
    wire_put_bytes(&out, w->repo, strlen(w->repo));
    wire_put_u64(&out, w->rules.rules.keep_last);
    wire_put_u64(&out, w->rules.rules.keep_for_s);
    wire_put_u32(&out, (uint32_t)w->found_count);
    for (size_t i = 0; i < w->found_count; i++) {
        wire_put_bytes(&out, w->found[i].tag, strlen(w->found[i].tag));
        cmd_put_digest(&out, &w->found[i].digest);
        wire_put_u64(&out, w->found[i].time_ms);
    }
    CHECK(!out.failed);
    w->found_count = 0;
    w->proposing = true;
    cluster_propose(w->runs->cluster, out.buf, out.len, on_expired, w);
}

static void show(struct walk *w)
{
    char digest[DIGEST_TEXT_MAX + 1], time_text[TIME_TEXT_MAX];
    for (size_t i = 0; i < w->found_count; i++) {
        digest_format(&w->found[i].digest, digest);
        json_array_append_new(w->rows, json_pack("{s:s, s:s, s:s, s:s}", "repo", w->repo, "tag",
                                                 w->found[i].tag, "digest", digest, "updated",
                                                 journal_time_text(w->found[i].time_ms, time_text)));
    }
    w->found_count = 0;
}

/* --- steps --- */

static void on_repo(void *arg, const char *name, size_t len, const struct names_repo *repo)
{
    struct walk *w = arg;
    (void)repo;
    if (len > REPO_NAME_MAX)
        return;
    memcpy(w->batch[w->batch_count], name, len);
    w->batch[w->batch_count++][len] = '\0';
}

/* The next repository of which something may go. */
static void step_next(struct walk *w)
{
    struct policy_rules rules;
    if (w->batch_at == w->batch_count) {
        char after[REPO_NAME_MAX + 1];
        memcpy(after, w->repo, sizeof(after));
        w->batch_at = w->batch_count = 0;
        int n = cluster_each_repo(w->runs->cluster, after, STEP_REPOS, on_repo, w);
        if (n <= 0) {
            walk_end(w, n);
            return;
        }
    }
    while (w->batch_at < w->batch_count) {
        memcpy(w->repo, w->batch[w->batch_at++], sizeof(w->repo));
        if (cluster_rules(w->runs->cluster, w->repo, &rules) || rules.p.read_only)
            continue;
        retention_fini(&w->rules);
        if (!retention_init(&w->rules, &rules.p, journal_now_ms()))
            continue;
        w->phase = SEE;
        w->after[0] = '\0';
        return;
    }
}

static bool tag_take(struct walk *w, const char *tag, size_t len)
{
    if (len > TAG_NAME_MAX || w->full)
        return false;
    memcpy(w->last, tag, len);
    w->last[len] = '\0';
    return true;
}

static void on_tag_seen(void *arg, const char *tag, size_t len, const struct names_tag *row)
{
    struct walk *w = arg;
    if (tag_take(w, tag, len))
        retention_see(&w->rules, tag, len, row->time_ms);
}

static void on_tag_chosen(void *arg, const char *tag, size_t len, const struct names_tag *row)
{
    struct walk *w = arg;
    struct found *f = &w->found[w->found_count];
    size_t most = w->done ? w->limit - json_array_size(w->rows) : MANIFEST_TAGS_MAX;
    bool goes = retention_goes(&w->rules, tag, len, row->time_ms);
    if (goes && (w->found_count == MANIFEST_TAGS_MAX || w->found_count >= most)) {
        w->full = true;
        return;
    }
    if (!tag_take(w, tag, len) || !goes || digest_unpack(row->digest, sizeof(row->digest), &f->digest) == 0)
        return;
    memcpy(f->tag, w->last, sizeof(f->tag));
    f->time_ms = row->time_ms;
    w->found_count++;
}

/* Whether the tags were chosen by what holds now. */
static bool rules_hold(struct walk *w)
{
    struct policy_rules now;
    return cluster_rules(w->runs->cluster, w->repo, &now) == 0 && !now.p.read_only &&
           retention_same(&now.p, &w->rules.rules);
}

static void step_tags(struct walk *w)
{
    bool seeing = w->phase == SEE;
    w->full = false;
    int n = cluster_each_tag(w->runs->cluster, w->repo, w->after, STEP_TAGS,
                             seeing ? on_tag_seen : on_tag_chosen, w);
    bool more = w->full || n == STEP_TAGS;
    memcpy(w->after, w->last, sizeof(w->after));
    if (w->found_count) {
        if (w->done)
            show(w);
        else if (rules_hold(w))
            expire(w);
        else
            n = -ESTALE;
    }
    if (w->done && w->full && json_array_size(w->rows) >= w->limit) {
        walk_end(w, 0);
        return;
    }
    if (n >= 0 && more)
        return;
    w->full = false;
    w->after[0] = '\0';
    w->found_count = 0;
    w->phase = seeing && n >= 0 ? CHOOSE : NEXT;
}

static void on_step(uv_timer_t *timer)
{
    struct walk *w = timer->data;
    struct cluster_status status;
    cluster_status(w->runs->cluster, &status);
    if (w->proposing)
        return;
    if (!w->done && !status.leads)
        walk_end(w, 0);
    else if (w->phase == NEXT)
        step_next(w);
    else
        step_tags(w);
}

static struct walk *walk_new(struct retention_runs *r)
{
    struct walk *w = calloc(1, sizeof(*w));
    CHECK(w && uv_timer_init(r->loop, &w->timer) == 0);
    w->runs = r;
    w->timer.data = w;
    r->walks++;
    uv_timer_start(&w->timer, on_step, 1, STEP_MS);
    return w;
}

/* --- all --- */

/* Whether any policy has retention. */
static bool is_wanted(struct cluster *c)
{
    struct policy_table t;
    bool wanted = false;
    if (cluster_policies(c, &t, NULL) == 0)
        for (size_t i = 0; i < t.count; i++)
            wanted |= t.list[i].rules.keep_last || t.list[i].rules.keep_for_s;
    policy_table_fini(&t);
    return wanted;
}

static void on_timer(uv_timer_t *timer)
{
    struct retention_runs *r = timer->data;
    struct cluster_status status;
    cluster_status(r->cluster, &status);
    if (!r->cleaning && status.leads && is_wanted(r->cluster))
        r->cleaning = walk_new(r);
}

void retention_set_interval(struct retention_runs *r, uint64_t interval_ms)
{
    if (interval_ms == r->interval_ms)
        return;
    r->interval_ms = interval_ms;
    uv_timer_start(&r->timer, on_timer, interval_ms, interval_ms);
}

struct retention_runs *retention_open(uv_loop_t *loop, struct cluster *cluster, uint64_t interval_ms)
{
    struct retention_runs *r = calloc(1, sizeof(*r));
    CHECK(r && uv_timer_init(loop, &r->timer) == 0);
    r->loop = loop;
    r->cluster = cluster;
    r->timer.data = r;
    retention_set_interval(r, interval_ms);
    return r;
}

static void on_closed(uv_handle_t *handle)
{
    struct retention_runs *r = handle->data;
    r->closed = true;
    runs_free(r);
}

void retention_close(struct retention_runs *r)
{
    r->closing = true;
    if (r->cleaning)
        walk_end(r->cleaning, 0);
    for (size_t i = 0; i < RETENTION_LOOKS_MAX; i++)
        if (r->look[i])
            walk_end(r->look[i], -ESHUTDOWN);
    uv_close((uv_handle_t *)&r->timer, on_closed);
}

int retention_look(struct retention_runs *r, const char *after, size_t limit, retention_done done, void *arg)
{
    size_t i = 0;
    while (i < RETENTION_LOOKS_MAX && r->look[i])
        i++;
    if (i == RETENTION_LOOKS_MAX || strlen(after) > REPO_NAME_MAX)
        return i == RETENTION_LOOKS_MAX ? -EBUSY : -EINVAL;
    struct walk *w = r->look[i] = walk_new(r);
    w->done = done;
    w->arg = arg;
    w->rows = json_array();
    w->limit = limit;
    memcpy(w->repo, after, strlen(after) + 1);
    return 0;
}
