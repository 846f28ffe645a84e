/* SPDX-License-Identifier: Apache-2.0 */
/* Rules of mirroring for people and for figures. */
#include <stdatomic.h>
#include <string.h>

#include "check.h"
#include "control/cluster_policy.h"
#include "control/journal.h"
#include "control/mirrors_private.h"

static const struct mirror_state *state_of(const struct mirrors *m, const char *name)
{
    for (size_t i = 0; i < ARRAY_SIZE(m->state); i++)
        if (strcmp(m->state[i].rule.name, name) == 0)
            return &m->state[i];
    return NULL;
}

/* How old what the copy has may be; 0: it has all that was said to have changed. */
static uint64_t lag_s(const struct mirror_state *s)
{
    uint64_t now_ms = journal_now_ms(), since_ms = s->synced_ms ? s->synced_ms : s->rule.updated_ms;
    bool counts = s->rule.every_s || s->failing || s->clock.event_ms || (s->rule.on_event && !s->synced_ms);
    return counts && now_ms > since_ms ? (now_ms - since_ms) / 1000 : 0;
}

static const char *state_name(const struct mirrors *m, const struct mirror_state *s)
{
    if (s->run.running && !s->run.dry_run)
        return "running";
    if (s->rule.paused)
        return "paused";
    if (!m->leads)
        return "elsewhere";
    return s->failing ? "failing" : s->synced_ms ? "ok" : "waiting";
}

static json_t *time_json(uint64_t ms)
{
    char text[TIME_TEXT_MAX];
    return ms ? json_string(journal_time_text(ms, text)) : json_null();
}

static json_t *run_json(const struct mirror_run *r, bool rows)
{
    json_t *out =
        json_pack("{s:I, s:b, s:b, s:b, s:s, s:o, s:o, s:O}", "number", (json_int_t)r->number, "dry_run",
                  r->dry_run, "running", r->running, "whole", r->whole, "error", r->error, "begun",
                  time_json(r->begun_ms), "ended", time_json(r->ended_ms), "counts", r->counts);
    CHECK(out);
    if (rows) {
        json_object_set(out, "tags", r->rows);
        json_object_set_new(out, "more", json_boolean(r->more));
    }
    return out;
}

static json_t *rule_json(const struct mirrors *m, const struct mirror_rule *rule, bool rows)
{
    const struct mirror_state *s = state_of(m, rule->name);
    char text[MIRROR_TEXT_MAX];
    json_t *out = json_pack("{s:s, s:o, s:o}", "name", rule->name, "created", time_json(rule->created_ms),
                            "updated", time_json(rule->updated_ms));
    CHECK(out);
    for (size_t i = 0; i < mirror_field_count(); i++) {
        const char *key = mirror_field_key(i);
        json_object_set_new(out, key, json_string(mirror_field_text(rule, key, text)));
    }
    json_object_set_new(out, "origin", json_string(rule->declared ? "file" : "api"));
    if (!s)
        return out;
    json_object_set_new(out, "state", json_string(state_name(m, s)));
    json_object_set_new(out, "synced", time_json(s->synced_ms));
    if (m->leads)
        json_object_set_new(out, "lag_s", json_integer((json_int_t)lag_s(s)));
    if (s->run.number)
        json_object_set_new(out, "run", run_json(&s->run, rows));
    return out;
}

json_t *mirrors_json(struct mirrors *m, const char *name)
{
    struct mirror_table t;
    json_t *rows = NULL;
    mirrors_look(m);
    if (cluster_mirrors(m->config.cluster, &t) == 0) {
        rows = json_array();
        for (size_t i = 0; i < t.count; i++)
            if (!name || strcmp(t.list[i].name, name) == 0)
                json_array_append_new(rows, rule_json(m, &t.list[i], name != NULL));
    }
    mirror_table_fini(&t);
    if (rows && name && json_array_size(rows) == 0) {
        json_decref(rows);
        return NULL;
    }
    return rows ? json_pack("{s:o}", "mirrors", rows) : NULL;
}

void mirrors_warn(struct mirrors *m, json_t *list)
{
    for (size_t i = 0; i < ARRAY_SIZE(m->state); i++)
        if (m->state[i].failing)
            json_array_append_new(list, json_sprintf("the mirror '%s' fails: %s; it is tried again",
                                                     m->state[i].rule.name, m->state[i].run.error));
}

void mirrors_publish(const struct mirrors *m, struct control_counters *out)
{
    uint64_t rules = 0, failing = 0, lag = 0;
    struct mirror_totals sum = m->gone;
    for (size_t i = 0; i < ARRAY_SIZE(m->state); i++) {
        const struct mirror_state *s = &m->state[i];
        if (!s->rule.name[0])
            continue;
        rules++;
        failing += s->failing;
        lag = m->leads && lag_s(s) > lag ? lag_s(s) : lag;
        sum.tags += s->total.tags;
        sum.bytes += s->total.bytes;
        sum.failures += s->total.failures;
    }
    atomic_store_explicit(&out->mirror_rules, rules, memory_order_relaxed);
    atomic_store_explicit(&out->mirror_failing, failing, memory_order_relaxed);
    atomic_store_explicit(&out->mirror_lag_s, lag, memory_order_relaxed);
    atomic_store_explicit(&out->mirror_tags, sum.tags, memory_order_relaxed);
    atomic_store_explicit(&out->mirror_bytes, sum.bytes, memory_order_relaxed);
    atomic_store_explicit(&out->mirror_failures, sum.failures, memory_order_relaxed);
}

void mirrors_metrics(struct mirrors *m, FILE *out)
{
    const struct {
        const char *name, *kind, *help;
    } rows[] = {
        {"fairlead_mirror_lag_seconds", "gauge", "Age of what the copy has, while this node leads."},
        {"fairlead_mirror_failing", "gauge", "1 if the last run failed."},
        {"fairlead_mirror_tags_total", "counter", "Tags that were copied by this node."},
        {"fairlead_mirror_bytes_total", "counter", "Bytes of blobs that were copied by this node."},
        {"fairlead_mirror_failures_total", "counter", "Runs that failed on this node."},
        {"fairlead_mirror_wrong_total", "counter",
         "Blobs and manifests whose bytes were not what they should be."},
    };
    for (size_t k = 0; k < ARRAY_SIZE(rows); k++) {
        fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", rows[k].name, rows[k].help, rows[k].name, rows[k].kind);
        for (size_t i = 0; i < ARRAY_SIZE(m->state); i++) {
            const struct mirror_state *s = &m->state[i];
            const uint64_t value[] = {m->leads ? lag_s(s) : 0, s->failing,        s->total.tags,
                                      s->total.bytes,          s->total.failures, s->total.wrong};
            if (s->rule.name[0])
                fprintf(out, "%s{mirror=\"%s\"} %llu\n", rows[k].name, s->rule.name,
                        (unsigned long long)value[k]);
        }
    }
}
