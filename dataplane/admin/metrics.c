/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/admin/metrics.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "check.h"

struct text {
    char *buf;
    size_t len, cap;
    bool full; /* something did not fit; nothing is written after it */
};

__attribute__((format(printf, 2, 3))) static void put(struct text *t, const char *format, ...)
{
    va_list args;
    if (t->full)
        return;
    va_start(args, format);
    int n = vsnprintf(t->buf + t->len, t->cap - t->len, format, args);
    va_end(args);
    t->full = n < 0 || (size_t)n >= t->cap - t->len;
    if (!t->full)
        t->len += (size_t)n;
}

static void put_head(struct text *t, const char *name, const char *kind, const char *help)
{
    put(t, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind);
}

static uint64_t value(const _Atomic uint64_t *v)
{
    return atomic_load_explicit(v, memory_order_relaxed);
}

/* The page is shared: its count of rings is not trusted. */
static unsigned rings_of(const struct counters_page *page)
{
    return page->rings < RINGS_MAX ? page->rings : RINGS_MAX;
}

/* ------------------------------------------------------------------ counters of rings */

static const struct {
    const char *name, *kind, *unit, *help;
} counters[COUNTERS_COUNT] = {
#define COUNTER(symbol, name, kind, unit, text) [CTR_##symbol] = {name, #kind, unit, text},
#include "counters.def"
#undef COUNTER
};

/* Where the sum over the rings hides what is asked: whether they share the load, and whether one stands
 * still. */
static bool by_ring(unsigned c)
{
    return c == CTR_CONNECTIONS_OPEN || c == CTR_CONNECTIONS_ACCEPTED || c == CTR_LOOP_BATCHES ||
           c == CTR_LOOP_EVENTS || c == CTR_LIVENESS;
}

/* Times are in seconds: "x_ms" becomes "x_seconds". */
static void put_counter(struct text *t, const struct counters_page *page, unsigned c)
{
    char name[96];
    bool ms = strcmp(counters[c].unit, "milliseconds") == 0;
    size_t len = strlen(counters[c].name) - (ms ? 3 : 0);
    uint64_t sum = 0;
    (void)snprintf(name, sizeof(name), "fairlead_%.*s%s", (int)len, counters[c].name, ms ? "_seconds" : "");
    put_head(t, name, counters[c].kind, counters[c].help);
    for (unsigned r = 0; r < rings_of(page); r++) {
        uint64_t v = value(&page->ring[r].counter[c]);
        sum += v;
        if (by_ring(c) && ms)
            put(t, "%s{ring=\"%u\"} %.3f\n", name, r, (double)v / 1000);
        else if (by_ring(c))
            put(t, "%s{ring=\"%u\"} %llu\n", name, r, (unsigned long long)v);
    }
    if (!by_ring(c))
        put(t, "%s %llu\n", name, (unsigned long long)sum);
}

static void put_closed(struct text *t, const struct counters_page *page)
{
    static const char *const reasons[CLOSE_REASONS_COUNT] = {
#define REASON(symbol, name, is_error, text) [CLOSE_##symbol] = name,
#include "reasons.def"
#undef REASON
    };
    static const char name[] = "fairlead_connections_closed_total";
    put_head(t, name, "counter", "Client connections closed, by reason.");
    for (unsigned i = CLOSE_NONE + 1; i < CLOSE_REASONS_COUNT; i++) {
        uint64_t sum = 0;
        for (unsigned r = 0; r < rings_of(page); r++)
            sum += value(&page->ring[r].closed[i]);
        put(t, "%s{reason=\"%s\"} %llu\n", name, reasons[i], (unsigned long long)sum);
    }
}

/* Bucket i of the page is "below 2^i microseconds", the last one has no bound. */
static void put_latency(struct text *t, const struct counters_page *page, unsigned class)
{
    static const char *const classes[CLASSES_COUNT] = REQUEST_CLASS_NAMES;
    static const char name[] = "fairlead_response_first_byte_seconds";
    uint64_t count = 0, sum_us = 0;
    if (class == 0)
        put_head(t, name, "histogram",
                 "Time from a complete request head to the first byte of its response, by class of request.");
    for (unsigned i = 0; i < LATENCY_BUCKETS; i++) {
        for (unsigned r = 0; r < rings_of(page); r++)
            count += value(&page->ring[r].latency[class][i]);
        if (i + 1 < LATENCY_BUCKETS)
            put(t, "%s_bucket{class=\"%s\",le=\"%.10g\"} %llu\n", name, classes[class],
                (double)(1ull << i) / 1e6, (unsigned long long)count);
    }
    for (unsigned r = 0; r < rings_of(page); r++)
        sum_us += value(&page->ring[r].latency_sum_us[class]);
    put(t, "%s_bucket{class=\"%s\",le=\"+Inf\"} %llu\n", name, classes[class], (unsigned long long)count);
    put(t, "%s_sum{class=\"%s\"} %.6f\n", name, classes[class], (double)sum_us / 1e6);
    put(t, "%s_count{class=\"%s\"} %llu\n", name, classes[class], (unsigned long long)count);
}

/* ------------------------------------------------------------------ what control publishes */

static const struct {
    size_t offset;
    const char *name, *kind, *help;
    double scale; /* of the published value to the metric's unit */
} control_rows[] = {
#define ROW(field, name, kind, help, scale)                                                                  \
    {                                                                                                        \
        offsetof(struct control_counters, field), name, kind, help, scale                                    \
    }
    ROW(raft_term, "fairlead_raft_term", "gauge", "Raft's term.", 1),
    ROW(raft_last_index, "fairlead_raft_last_index", "gauge", "Index of the log's last entry.", 1),
    ROW(raft_commit_index, "fairlead_raft_commit_index", "gauge", "Index of the last committed entry.", 1),
    ROW(raft_applied_index, "fairlead_raft_applied_index", "gauge", "Index of the last applied entry.", 1),
    ROW(raft_is_leader, "fairlead_raft_leader", "gauge", "1 if this node leads.", 1),
    ROW(raft_silence_ms, "fairlead_raft_leader_silence_max_seconds", "gauge",
        "For so long a leader may say nothing before another one is elected; more while hosts are "
        "overloaded.",
        1e-3),
    ROW(raft_log_bytes, "fairlead_raft_log_bytes", "gauge", "Bytes of the log on disk.", 1),
    ROW(raft_snapshot_index, "fairlead_raft_snapshot_index", "gauge", "Index of the last snapshot.", 1),
    ROW(raft_proposals, "fairlead_raft_proposals_total", "counter", "Commands proposed.", 1),
    ROW(raft_fsyncs, "fairlead_raft_fsyncs_total", "counter", "Times the log was made durable.", 1),
    ROW(raft_fsync_us_sum, "fairlead_raft_fsync_seconds_total", "counter", "Time spent on that.", 1e-6),
    ROW(blobs, "fairlead_blobs", "gauge", "Blobs of all repositories, each counted once.", 1),
    ROW(blob_bytes, "fairlead_blob_bytes", "gauge", "Bytes of all blobs, each counted once.", 1),
    ROW(unlinked_blobs, "fairlead_unlinked_blobs", "gauge",
        "Blobs among them that no repository has any more.", 1),
    ROW(unlinked_bytes, "fairlead_unlinked_bytes", "gauge", "Bytes of these.", 1),
    ROW(gc_runs, "fairlead_gc_runs_total", "counter", "Garbage collections begun by this node.", 1),
    ROW(gc_running, "fairlead_gc_running", "gauge", "1 while one is under way.", 1),
    ROW(gc_files, "fairlead_gc_files_total", "counter",
        "Files that garbage collections removed from the store.", 1),
    ROW(gc_file_bytes, "fairlead_gc_file_bytes_total", "counter", "Bytes of these.", 1),
    ROW(gc_errors, "fairlead_gc_errors_total", "counter",
        "Files that the disk did not remove; it is tried again.", 1),
    ROW(gc_ended_s, "fairlead_gc_ended_seconds", "gauge",
        "When the last one of this node ended, since the epoch.", 1),
    ROW(names_bytes, "fairlead_names_bytes", "gauge", "Bytes of the names file.", 1),
    ROW(private_bytes, "fairlead_private_bytes", "gauge", "Bytes of the private state file.", 1),
    ROW(dataplane_restarts, "fairlead_dataplane_restarts_total", "counter",
        "Times the data plane was started again.", 1),
    ROW(plan_generation, "fairlead_plan_generation", "gauge", "Generation of the newest plan.", 1),
    ROW(scrub_running, "fairlead_scrub_running", "gauge",
        "1 while the blobs of the store are being verified.", 1),
    ROW(scrub_begun_s, "fairlead_scrub_begun_seconds", "gauge",
        "When the last scrub began, in seconds since 1970; 0: never.", 1),
    ROW(scrub_ended_s, "fairlead_scrub_ended_seconds", "gauge",
        "When the last scrub ended, in seconds since 1970; 0: never.", 1),
    ROW(blobs_damaged_now, "fairlead_blobs_damaged_now", "gauge",
        "Blobs that are damaged or unreadable and not healed yet.", 1),
    ROW(mesh_others, "fairlead_mesh_nodes", "gauge", "Nodes that this one is to be connected with.", 1),
    ROW(mesh_connected, "fairlead_mesh_nodes_connected", "gauge", "Nodes that it is connected with.", 1),
    ROW(mesh_followers, "fairlead_mesh_followers", "gauge", "Workers that follow the log here.", 1),
    ROW(repair_endangered, "fairlead_repair_endangered_now", "gauge",
        "Blobs that too few replicas hold, not counting those that are drained or away for longer than "
        "repair.grace.",
        1),
    ROW(repair_endangered_bytes, "fairlead_repair_endangered_bytes_now", "gauge", "Bytes of these blobs.", 1),
    ROW(repair_lost, "fairlead_repair_lost_now", "gauge", "Of these blobs, those that no replica holds.", 1),
    ROW(repair_surplus, "fairlead_repair_surplus_now", "gauge",
        "Blobs that more replicas hold than are wanted.", 1),
    ROW(repair_copied, "fairlead_repair_copied_total", "counter",
        "Copies of blobs that this node has made to be a holder.", 1),
    ROW(repair_copied_bytes, "fairlead_repair_copied_bytes_total", "counter", "Bytes of these copies.", 1),
    ROW(repair_let_go, "fairlead_repair_let_go_total", "counter",
        "Blobs that this node holds no more because enough others do.", 1),
    ROW(pulls_waiting, "fairlead_webhook_pulls_waiting", "gauge",
        "Pulls on this node that wait on its disk until webhooks were told of them.", 1),
    ROW(pulls_dropped, "fairlead_webhook_pulls_dropped_now", "gauge",
        "Pulls on this node of which the webhooks that there are now are never told: they had to make room, "
        "or the disk "
        "did not take them.",
        1),
    ROW(mirror_rules, "fairlead_mirror_rules", "gauge", "Rules of mirroring.", 1),
    ROW(mirror_failing, "fairlead_mirror_failing_now", "gauge", "Rules whose last run failed on this node.",
        1),
    ROW(mirror_lag_s, "fairlead_mirror_lag_seconds_max", "gauge",
        "Age of what the copy of the rule that is furthest behind has, while this node leads.", 1),
    ROW(mirror_tags, "fairlead_mirrored_tags_total", "counter",
        "Tags that this node copied by rules of mirroring.", 1),
    ROW(mirror_bytes, "fairlead_mirrored_bytes_total", "counter", "Bytes of blobs that it copied by them.",
        1),
    ROW(mirror_failures, "fairlead_mirror_runs_failed_total", "counter",
        "Runs of rules that failed on this node.", 1),
    ROW(repair_failed, "fairlead_repair_failed_total", "counter",
        "Copies that could not be made, or not be told of; they are tried again.", 1),
    ROW(state_disk, "fairlead_state_disk", "gauge",
        "The state's disk: 0 ok, 1 full, 2 read only, 3 failing, 4 missing.", 1),
    ROW(store_disk, "fairlead_store_disk", "gauge",
        "The store's disk: 0 ok, 1 full, 2 read only, 3 failing, 4 missing, 5 another store.", 1),
    ROW(state_free_bytes, "fairlead_state_free_bytes", "gauge", "Free bytes of the state's file system.", 1),
    ROW(store_free_bytes, "fairlead_store_free_bytes", "gauge", "Free bytes of the store's file system.", 1),
    ROW(store_total_bytes, "fairlead_store_total_bytes", "gauge", "Size of the store's file system.", 1),
    ROW(start_time_s, "fairlead_start_time_seconds", "gauge", "Start of control, in seconds since 1970.", 1),
    ROW(ready, "fairlead_ready", "gauge", "1 if the state is loaded and writes are possible.", 1),
#undef ROW
};

static void put_control(struct text *t, const struct counters_page *page, unsigned row)
{
    const char *base = (const char *)&page->control;
    uint64_t v = value((const _Atomic uint64_t *)(const void *)(base + control_rows[row].offset));
    put_head(t, control_rows[row].name, control_rows[row].kind, control_rows[row].help);
    if (control_rows[row].scale == 1)
        put(t, "%s %llu\n", control_rows[row].name, (unsigned long long)v);
    else
        put(t, "%s %.6f\n", control_rows[row].name, (double)v * control_rows[row].scale);
}

static void put_mesh_ended(struct text *t, const struct counters_page *page)
{
    static const char *const reasons[MESH_ENDS_COUNT] = {
#define MESH_REASON(symbol, name, text) name,
#include "mesh_reasons.def"
#undef MESH_REASON
    };
    static const char name[] = "fairlead_mesh_connections_ended_total";
    put_head(
        t, name, "counter",
        "Connections with other nodes that ended, and tries to make one that came to nothing, by reason.");
    for (unsigned i = 1; i < MESH_ENDS_COUNT; i++) /* behind "nothing is wrong" */
        put(t, "%s{reason=\"%s\"} %llu\n", name, reasons[i],
            (unsigned long long)value(&page->control.mesh_ended[i]));
}

static void put_elections(struct text *t, const struct counters_page *page)
{
    static const char *const causes[ELECTION_CAUSES_COUNT] = {
#define ELECTION_CAUSE(symbol, name, text) name,
#include "election_causes.def"
#undef ELECTION_CAUSE
    };
    static const char name[] = "fairlead_raft_elections_total";
    put_head(t, name, "counter", "Elections for which this node stood, by what it saw.");
    for (unsigned i = 0; i < ELECTION_CAUSES_COUNT; i++)
        put(t, "%s{cause=\"%s\"} %llu\n", name, causes[i],
            (unsigned long long)value(&page->control.raft_elections[i]));
}

/* The data plane's own; /proc is outside of its sandbox. */
static void put_process(struct text *t)
{
    struct rusage u;
    if (getrusage(RUSAGE_SELF, &u))
        return;
    put_head(t, "process_cpu_seconds_total", "counter", "Processor time of the data plane.");
    put(t, "process_cpu_seconds_total %.6f\n",
        (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
            (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6);
    put_head(t, "process_resident_memory_max_bytes", "gauge",
             "Most memory that the data plane had resident.");
    put(t, "process_resident_memory_max_bytes %llu\n", (unsigned long long)u.ru_maxrss * 1024);
    put_head(t, "process_major_page_faults_total", "counter", "Page faults that waited for a disk.");
    put(t, "process_major_page_faults_total %llu\n", (unsigned long long)u.ru_majflt);
}

/* ------------------------------------------------------------------ backends of proxied services */

static uint64_t target_sum(const struct counters_page *page, uint64_t key, unsigned id)
{
    uint64_t sum = 0;
    for (unsigned r = 0; r < rings_of(page); r++) {
        const struct target_slot *slot = target_find(&page->ring[r], key);
        sum += slot ? value(&slot->value[id]) : 0;
    }
    return sum;
}

static void put_target_head(struct text *t, unsigned id, const char **name, bool *us)
{
    static const struct {
        const char *name, *kind, *unit, *help;
    } rows[TARGET_COUNTERS_COUNT] = {
#define TARGET(symbol, name, kind, unit, text)                                                               \
    [TARGET_##symbol] = {"fairlead_backend_proxy_" name, #kind, unit, text},
#include "targets.def"
#undef TARGET
    };
    *name = rows[id].name;
    *us = strcmp(rows[id].unit, "microseconds") == 0;
    if (t)
        put_head(t, rows[id].name, rows[id].kind, rows[id].help);
}

/* One figure of one backend: a line. */
static void put_target(struct text *t, const struct counters_page *page, const struct plan_service *s,
                       const struct plan_backend *b, unsigned id, bool first)
{
    const char *name;
    bool us;
    put_target_head(first ? t : NULL, id, &name, &us);
    uint64_t v = target_sum(page, target_key(b->id, b->generation), id);
    put(t,
        us ? "%s{service=\"%.63s\",backend=\"%.63s\"} %.6f\n"
           : "%s{service=\"%.63s\",backend=\"%.63s\"} %.0f\n",
        name, s->name, b->name, us ? (double)v / 1e6 : (double)v);
}

/* The service that has the backend at that place of the plan: most often the same one as for the place
 * before. */
static const struct plan_service *service_of(const struct plan *plan, uint32_t backend, unsigned *service)
{
    for (unsigned n = 0; n < plan->service_count; n++) {
        unsigned i = (*service + n) % plan->service_count;
        const struct plan_service *s = plan_service(plan, i);
        if (s->kind == SERVICE_PROXY && backend >= s->first_backend &&
            backend < s->first_backend + s->backend_count) {
            *service = i;
            return s;
        }
    }
    return NULL;
}

/* ------------------------------------------------------------------ all of them */

enum {
    FIRST_CLOSED = COUNTERS_COUNT,
    FIRST_LATENCY = FIRST_CLOSED + 1,
    FIRST_CONTROL = FIRST_LATENCY + (int)CLASSES_COUNT,
    FIRST_MESH = FIRST_CONTROL + (int)ARRAY_SIZE(control_rows),
    FIRST_ELECTIONS = FIRST_MESH + 1,
    FIRST_PROCESS = FIRST_ELECTIONS + 1,
    METRICS_COUNT = FIRST_PROCESS + 1,
};

static void put_backend_metric(struct text *t, const struct counters_page *page, const struct plan *plan,
                               struct metrics_cursor *at)
{
    unsigned i = at->next - METRICS_COUNT;
    uint32_t backend = i % plan->backend_count;
    const struct plan_service *s = service_of(plan, backend, &at->service);
    if (s)
        put_target(t, page, s, plan_backend(plan, backend), i / plan->backend_count, backend == 0);
}

static void put_metric(struct text *t, const struct counters_page *page, unsigned i)
{
    if (i < FIRST_CLOSED)
        put_counter(t, page, i);
    else if (i < FIRST_LATENCY)
        put_closed(t, page);
    else if (i < FIRST_CONTROL)
        put_latency(t, page, i - FIRST_LATENCY);
    else if (i < FIRST_MESH)
        put_control(t, page, i - FIRST_CONTROL);
    else if (i < FIRST_ELECTIONS)
        put_mesh_ended(t, page);
    else if (i < FIRST_PROCESS)
        put_elections(t, page);
    else
        put_process(t);
}

size_t metrics_write(const struct counters_page *page, const struct plan *plan, struct metrics_cursor *at,
                     char *buf, size_t cap, bool *done)
{
    unsigned all = METRICS_COUNT + (plan ? plan->backend_count * (unsigned)TARGET_COUNTERS_COUNT : 0);
    struct text t = {.buf = buf, .cap = cap};
    CHECK(cap >= METRICS_CAP_MIN);
    while (at->next < all) {
        size_t before = t.len;
        if (at->next < METRICS_COUNT)
            put_metric(&t, page, at->next);
        else
            put_backend_metric(&t, page, plan, at);
        if (t.full) {
            CHECK(before > 0);
            t.len = before;
            break;
        }
        at->next++;
    }
    *done = at->next >= all;
    return t.len;
}
