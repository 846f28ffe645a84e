/* SPDX-License-Identifier: Apache-2.0 */
#include "control/mirrors.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/cluster_policy.h"
#include "control/events.h"
#include "control/journal.h"
#include "control/mirrors_private.h"
#include "names_policy.h"

static struct mirror_state *state_find(struct mirrors *m, const char *name)
{
    for (size_t i = 0; i < ARRAY_SIZE(m->state); i++)
        if (strcmp(m->state[i].rule.name, name) == 0)
            return &m->state[i];
    return NULL;
}

/* --- runs --- */

static uint64_t count_of(const json_t *counts, const char *key)
{
    json_int_t n = json_integer_value(json_object_get(counts, key));
    return n > 0 ? (uint64_t)n : 0;
}

static void take_tag(struct mirror_state *s, const json_t *line)
{
    json_t *rows = s->run.rows;
    if (json_array_size(rows) < MIRRORS_ROWS_MAX)
        json_array_append(rows, (json_t *)line);
    else
        s->run.more = true;
}

static void on_line(void *arg, const json_t *line)
{
    struct mirror_state *s = arg;
    const char *type = json_string_value(json_object_get(line, "type"));
    const char *error = json_string_value(json_object_get(line, "error"));
    json_t *counts = json_object_get(line, "counts");
    if (!type)
        return;
    if (strcmp(type, "progress") == 0 && json_is_object(counts)) {
        json_decref(s->run.counts);
        s->run.counts = json_incref(counts);
    } else if (strcmp(type, "tag") == 0) {
        take_tag(s, line);
    } else if (strcmp(type, "end") == 0) {
        s->run.told_end = true;
        snprintf(s->run.error, sizeof(s->run.error), "%s", error ? error : "");
    }
}

static void say_end(struct mirrors *m, struct mirror_state *s, bool failed)
{
    char text[MIRRORS_ERROR_MAX + 160];
    const json_t *n = s->run.counts;
    if (failed != s->failing) {
        snprintf(text, sizeof(text), failed ? "%s: %s; it is tried again" : "%s: it is up to date again",
                 s->rule.name, s->run.error);
        events_note(m->config.events, failed ? "mirror.failing" : "mirror.ok", text);
    }
    s->failing = failed;
    if (count_of(n, "copied") == 0 && count_of(n, "manifests") == 0)
        return;
    snprintf(text, sizeof(text), "%s: %llu tags, %llu blobs with %llu bytes were copied", s->rule.name,
             (unsigned long long)count_of(n, "copied"), (unsigned long long)count_of(n, "blobs"),
             (unsigned long long)count_of(n, "bytes"));
    events_note(m->config.events, "mirror.copied", text);
}

static void on_ended(void *arg, const char *why)
{
    struct mirror_state *s = arg;
    struct mirrors *m = s->owner;
    struct mirror_run *r = &s->run;
    s->work = NULL;
    r->running = false;
    r->ended_ms = journal_now_ms();
    if (why || !r->told_end)
        snprintf(r->error, sizeof(r->error), "%s", why ? why : "its process ended before it was done");
    if (r->dry_run)
        return;
    bool failed = r->error[0] != '\0';
    s->clock.ended_ms = uv_now(m->config.loop);
    s->clock.failures = failed ? s->clock.failures + 1 : 0;
    s->total.failures += failed;
    s->total.tags += count_of(r->counts, "copied");
    s->total.bytes += count_of(r->counts, "bytes");
    s->total.wrong += count_of(r->counts, "wrong");
    if (!failed)
        s->synced_ms = r->begun_ms;
    else if (!s->run.whole)
        mirror_pending_all(s); /* who knows which of them */
    say_end(m, s, failed);
}

static void run_fini(struct mirror_run *r)
{
    json_decref(r->counts);
    json_decref(r->rows);
    *r = (struct mirror_run){.number = r->number};
}

/* Whether it is about all that the rule is about, and not only about what has changed here. */
static bool is_whole(const struct mirror_state *s, bool dry_run, uint64_t now_ms)
{
    bool scheduled = s->rule.every_s && now_ms >= s->clock.begun_ms + s->rule.every_s * 1000;
    return dry_run || !s->clock.begun_ms || scheduled || s->pending_all || json_object_size(s->pending) == 0;
}

static void run_begin(struct mirrors *m, struct mirror_state *s, bool dry_run)
{
    char why[MIRRORS_ERROR_MAX] = "";
    uint64_t now_ms = uv_now(m->config.loop);
    run_fini(&s->run);
    s->run = (struct mirror_run){.number = ++m->runs,
                                 .dry_run = dry_run,
                                 .running = true,
                                 .rows = json_array(),
                                 .counts = json_object(),
                                 .begun_ms = journal_now_ms()};
    s->run.whole = is_whole(s, dry_run, now_ms);
    if (!dry_run && s->run.whole)
        s->clock.begun_ms = now_ms;
    json_t *job = mirror_job(m, s, dry_run, why);
    if (!dry_run)
        mirror_pending_clear(s);
    if (!job) {
        on_ended(s, why);
        return;
    }
    const struct mirror_order order = {.loop = m->config.loop,
                                       .user = m->config.user,
                                       .job = job,
                                       .line = on_line,
                                       .ended = on_ended,
                                       .arg = s};
    int rc = mirror_work_start(&order, &s->work);
    json_decref(job);
    if (rc) {
        snprintf(why, sizeof(why), "fairlead-mirror could not be started: %s", uv_strerror(rc));
        on_ended(s, why);
    }
}

static void run_stop(struct mirror_state *s)
{
    if (s->work)
        mirror_work_kill(s->work);
    s->work = NULL;
    s->run.running = false;
}

/* --- rules --- */

static void state_fini(struct mirror_state *s)
{
    run_stop(s);
    run_fini(&s->run);
    json_decref(s->pending);
    memset(s, 0, sizeof(*s));
}

static void state_init(struct mirrors *m, struct mirror_state *s, const struct mirror_rule *rule)
{
    *s = (struct mirror_state){
        .owner = m, .rule = *rule, .pending = json_object(), .clock.since_ms = uv_now(m->config.loop)};
}

/* What is known of rules that have changed is of no use. */
static void state_change(struct mirrors *m, struct mirror_state *s, const struct mirror_rule *rule)
{
    if (s->rule.revision == rule->revision)
        return;
    struct mirror_totals total = s->total;
    state_fini(s);
    state_init(m, s, rule);
    s->total = total;
}

/* Counters do not go back. */
static void state_drop(struct mirrors *m, struct mirror_state *s)
{
    m->gone.tags += s->total.tags;
    m->gone.bytes += s->total.bytes;
    m->gone.failures += s->total.failures;
    state_fini(s);
}

void mirrors_look(struct mirrors *m)
{
    struct mirror_table t;
    if (!m->dirty)
        return;
    if (cluster_mirrors(m->config.cluster, &t) == 0) {
        for (size_t i = 0; i < ARRAY_SIZE(m->state); i++)
            if (m->state[i].rule.name[0] && !mirror_find(&t, m->state[i].rule.name))
                state_drop(m, &m->state[i]);
        for (size_t i = 0; i < t.count; i++) {
            struct mirror_state *s = state_find(m, t.list[i].name), *room = state_find(m, "");
            if (s)
                state_change(m, s, &t.list[i]);
            else if (room)
                state_init(m, room, &t.list[i]);
        }
        m->dirty = false;
    }
    mirror_table_fini(&t);
}

/* Another node does it from now on. */
static void stop_leading(struct mirrors *m)
{
    for (size_t i = 0; i < ARRAY_SIZE(m->state); i++) {
        struct mirror_state *s = &m->state[i];
        if (!s->rule.name[0])
            continue;
        if (!s->run.dry_run)
            run_stop(s);
        s->failing = false;
        s->clock = (struct mirror_clock){.since_ms = 0};
        mirror_pending_clear(s);
    }
}

static void start_leading(struct mirrors *m)
{
    for (size_t i = 0; i < ARRAY_SIZE(m->state); i++)
        m->state[i].clock.since_ms = uv_now(m->config.loop);
}

static void on_timer(uv_timer_t *timer)
{
    struct mirrors *m = timer->data;
    struct cluster_status status;
    uint64_t now_ms = uv_now(m->config.loop);
    unsigned running = 0;
    cluster_status(m->config.cluster, &status);
    mirrors_look(m);
    bool leads = status.leads && m->config.serves(m->config.arg);
    if (m->leads && !leads)
        stop_leading(m);
    if (!m->leads && leads)
        start_leading(m);
    m->leads = leads;
    for (size_t i = 0; i < ARRAY_SIZE(m->state); i++)
        running += m->state[i].work != NULL;
    for (size_t i = 0; i < ARRAY_SIZE(m->state) && m->leads; i++) {
        struct mirror_state *s = &m->state[(m->turn + i) % ARRAY_SIZE(m->state)];
        if (!s->rule.name[0] || s->work || running >= MIRRORS_RUNS_MAX ||
            now_ms < mirror_due_ms(&s->rule, &s->clock))
            continue;
        m->turn = (size_t)(s - m->state) + 1;
        run_begin(m, s, false);
        running++;
    }
}

/* A manifest here is of another digest, or new. */
static void note_change(struct mirrors *m, const struct state_cmd *cmd)
{
    char repo[REPO_NAME_MAX + 1];
    if (cmd->repo.len >= sizeof(repo))
        return;
    memcpy(repo, cmd->repo.data, cmd->repo.len);
    repo[cmd->repo.len] = '\0';
    for (size_t i = 0; i < ARRAY_SIZE(m->state); i++) {
        struct mirror_state *s = &m->state[i];
        if (s->rule.name[0] && s->rule.on_event && pattern_match(s->rule.repos, repo, cmd->repo.len))
            mirror_pending_add(s, repo, uv_now(m->config.loop));
    }
}

void mirrors_event(struct mirrors *m, const struct state_event *event)
{
    uint16_t type = event ? event->cmd.head.type : CMD_MIRROR_SET;
    m->dirty |= type == CMD_MIRROR_SET || type == CMD_MIRROR_RM || type == CMD_TRANSACTION;
    if (event && event->changed && type == CMD_MANIFEST_PUT && m->leads)
        note_change(m, &event->cmd);
}

int mirrors_run(struct mirrors *m, const char *name, bool dry_run, uint64_t *number)
{
    struct cluster_status status;
    m->dirty = true;
    mirrors_look(m);
    struct mirror_state *s = *name ? state_find(m, name) : NULL;
    cluster_status(m->config.cluster, &status);
    if (!s)
        return -ENOENT;
    if (!dry_run && !status.leads)
        return -EPERM;
    if (s->work)
        return -EBUSY;
    if (!dry_run)
        mirror_pending_all(s);
    run_begin(m, s, dry_run);
    *number = s->run.number;
    return 0;
}

/* --- life --- */

struct mirrors *mirrors_new(const struct mirrors_config *config)
{
    struct mirrors *m = calloc(1, sizeof(*m));
    CHECK(m && uv_timer_init(config->loop, &m->timer) == 0);
    m->config = *config;
    m->timer.data = m;
    m->dirty = true;
    uv_timer_start(&m->timer, on_timer, MIRRORS_TICK_MS, MIRRORS_TICK_MS);
    return m;
}

static void on_closed(uv_handle_t *handle)
{
    free(handle->data);
}

void mirrors_close(struct mirrors *m)
{
    for (size_t i = 0; i < ARRAY_SIZE(m->state); i++)
        state_fini(&m->state[i]);
    uv_close((uv_handle_t *)&m->timer, on_closed);
}
