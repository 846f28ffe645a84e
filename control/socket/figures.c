/* SPDX-License-Identifier: Apache-2.0 */
#include "control/socket/figures.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "check.h"

struct sample {
    uint64_t time_ns; /* monotonic; 0: none */
    uint64_t counter[COUNTERS_COUNT];
    uint64_t closed[CLOSE_REASONS_COUNT];
    uint64_t latency[CLASSES_COUNT][LATENCY_BUCKETS];
    uint64_t latency_sum_us[CLASSES_COUNT];
};

struct figures {
    const struct shared_memory *memory;
    struct sample before, last;
};

static const struct {
    const char *name, *kind, *unit, *text;
} counters[COUNTERS_COUNT] = {
#define COUNTER(symbol, metric, type, what, meaning) [CTR_##symbol] = {metric, #type, what, meaning},
#include "counters.def"
#undef COUNTER
};

static const char *const reasons[CLOSE_REASONS_COUNT] = {
#define REASON(symbol, name, is_error, text) [CLOSE_##symbol] = name,
#include "reasons.def"
#undef REASON
};

static const char *const mesh_reasons[MESH_ENDS_COUNT] = {
#define MESH_REASON(symbol, name, text) name,
#include "mesh_reasons.def"
#undef MESH_REASON
};

static const char *const election_causes[ELECTION_CAUSES_COUNT] = {
#define ELECTION_CAUSE(symbol, name, text) name,
#include "election_causes.def"
#undef ELECTION_CAUSE
};

static const char *const classes[CLASSES_COUNT] = REQUEST_CLASS_NAMES;

static double power_us(int bucket)
{
    return (double)(1ull << bucket);
}

static double tenths(double value)
{
    return (double)(uint64_t)(value * 10 + 0.5) / 10;
}

struct figures *figures_open(const struct shared_memory *memory)
{
    struct figures *figures = calloc(1, sizeof(*figures));
    CHECK(figures);
    figures->memory = memory;
    return figures;
}

void figures_close(struct figures *figures)
{
    free(figures);
}

static uint64_t load(const _Atomic uint64_t *value)
{
    return atomic_load_explicit(value, memory_order_relaxed);
}

static void sample_ring(struct sample *out, const struct ring_counters *ring)
{
    for (int i = 0; i < COUNTERS_COUNT; i++)
        out->counter[i] += load(&ring->counter[i]);
    for (int i = 0; i < CLOSE_REASONS_COUNT; i++)
        out->closed[i] += load(&ring->closed[i]);
    for (int c = 0; c < CLASSES_COUNT; c++) {
        for (int b = 0; b < LATENCY_BUCKETS; b++)
            out->latency[c][b] += load(&ring->latency[c][b]);
        out->latency_sum_us[c] += load(&ring->latency_sum_us[c]);
    }
}

static void sample_take(const struct figures *figures, struct sample *out)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    memset(out, 0, sizeof(*out));
    out->time_ns = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
    for (uint32_t i = 0; i < figures->memory->rings; i++)
        sample_ring(out, &figures->memory->counters->ring[i]);
}

void figures_sample(struct figures *figures)
{
    figures->before = figures->last;
    sample_take(figures, &figures->last);
}

/* The page is written by a process that is not trusted: a counter that went back has no rate. */
static uint64_t grown(uint64_t before, uint64_t now)
{
    return now > before ? now - before : 0;
}

static double seconds(const struct figures *figures)
{
    if (!figures->before.time_ns)
        return 1.0;
    return (double)(figures->last.time_ns - figures->before.time_ns) / 1e9;
}

static double rate(const struct figures *figures, uint64_t before, uint64_t now)
{
    return figures->before.time_ns ? tenths((double)grown(before, now) / seconds(figures)) : 0;
}

double figures_rate(const struct figures *figures, enum counter_id id)
{
    return rate(figures, figures->before.counter[id], figures->last.counter[id]);
}

double figures_percentile(const uint64_t bucket[LATENCY_BUCKETS], double part)
{
    double total = 0, below = 0;
    for (int i = 0; i < LATENCY_BUCKETS; i++)
        total += (double)bucket[i];
    if (total == 0)
        return 0;
    for (int i = 0; i < LATENCY_BUCKETS; i++) {
        double in = (double)bucket[i];
        if (in && below + in >= part * total) {
            double low = i ? power_us(i - 1) : 0, high = power_us(i);
            return low + (high - low) * (part * total - below) / in;
        }
        below += in;
    }
    return power_us(LATENCY_BUCKETS - 1);
}

static json_t *class_figures(const struct figures *figures, int c)
{
    uint64_t delta[LATENCY_BUCKETS], count = 0;
    for (int b = 0; b < LATENCY_BUCKETS; b++) {
        delta[b] =
            figures->before.time_ns ? grown(figures->before.latency[c][b], figures->last.latency[c][b]) : 0;
        count += delta[b];
    }
    return json_pack("{s:s, s:f, s:f, s:f, s:f}", "class", classes[c], "requests_per_s",
                     tenths((double)count / seconds(figures)), "p50_us",
                     tenths(figures_percentile(delta, 0.5)), "p90_us", tenths(figures_percentile(delta, 0.9)),
                     "p99_us", tenths(figures_percentile(delta, 0.99)));
}

json_t *figures_top(const struct figures *figures)
{
    const struct sample *before = &figures->before, *last = &figures->last;
    json_t *rates = json_object(), *gauges = json_object(), *list = json_array(), *closed = json_object();
    for (int i = 0; i < COUNTERS_COUNT; i++) {
        if (i == CTR_LIVENESS)
            continue;
        if (counters[i].kind[0] == 'g')
            json_object_set_new(gauges, counters[i].name, json_integer((json_int_t)last->counter[i]));
        else
            json_object_set_new(rates, counters[i].name,
                                json_real(rate(figures, before->counter[i], last->counter[i])));
    }
    for (int c = 0; c < CLASSES_COUNT; c++)
        json_array_append_new(list, class_figures(figures, c));
    for (int r = 0; r < CLOSE_REASONS_COUNT; r++)
        if (grown(before->closed[r], last->closed[r]) && before->time_ns)
            json_object_set_new(closed, reasons[r],
                                json_real(rate(figures, before->closed[r], last->closed[r])));
    json_t *top = json_pack("{s:o, s:o, s:o, s:o}", "per_second", rates, "now", gauges, "classes", list,
                            "closed_per_second", closed);
    CHECK(top);
    return top;
}

static void print_metric(FILE *out, const char *name, const char *kind, const char *text, uint64_t value)
{
    fprintf(out, "# HELP fairlead_%s %s\n# TYPE fairlead_%s %s\nfairlead_%s %" PRIu64 "\n", name, text, name,
            kind, name, value);
}

static void print_latency(FILE *out, const struct sample *sample)
{
    const char *name = "fairlead_request_first_byte_seconds";
    fprintf(out, "# HELP %s Time from a request to the first byte of its response.\n# TYPE %s histogram\n",
            name, name);
    for (int c = 0; c < CLASSES_COUNT; c++) {
        uint64_t count = 0;
        for (int b = 0; b < LATENCY_BUCKETS - 1; b++) {
            count += sample->latency[c][b];
            fprintf(out, "%s_bucket{class=\"%s\",le=\"%g\"} %" PRIu64 "\n", name, classes[c],
                    power_us(b) / 1e6, count);
        }
        count += sample->latency[c][LATENCY_BUCKETS - 1];
        fprintf(out, "%s_bucket{class=\"%s\",le=\"+Inf\"} %" PRIu64 "\n", name, classes[c], count);
        fprintf(out, "%s_sum{class=\"%s\"} %.6f\n%s_count{class=\"%s\"} %" PRIu64 "\n", name, classes[c],
                (double)sample->latency_sum_us[c] / 1e6, name, classes[c], count);
    }
}

static void print_control(FILE *out, const struct control_counters *control)
{
    const struct {
        const char *name, *kind, *text;
        const _Atomic uint64_t *value;
    } rows[] = {
        {"raft_term", "gauge", "Term of the log.", &control->raft_term},
        {"raft_commit_index", "gauge", "Newest committed entry.", &control->raft_commit_index},
        {"raft_applied_index", "gauge", "Newest applied entry.", &control->raft_applied_index},
        {"raft_is_leader", "gauge", "1 on the node that leads.", &control->raft_is_leader},
        {"raft_log_bytes", "gauge", "Bytes of the log on disk.", &control->raft_log_bytes},
        {"raft_proposals_total", "counter", "Commands proposed here.", &control->raft_proposals},
        {"raft_fsyncs_total", "counter", "Synchronizations of the log.", &control->raft_fsyncs},
        {"names_bytes", "gauge", "Bytes of the names file.", &control->names_bytes},
        {"dataplane_restarts_total", "counter", "Data planes that ended and were started again.",
         &control->dataplane_restarts},
        {"plan_generation", "gauge", "Generation of the newest plan.", &control->plan_generation},
        {"scrub_running", "gauge", "1 while the blobs of the store are being verified.",
         &control->scrub_running},
        {"scrub_begun_seconds", "gauge", "When the last scrub began, in seconds since the epoch.",
         &control->scrub_begun_s},
        {"scrub_ended_seconds", "gauge", "When the last scrub ended, in seconds since the epoch.",
         &control->scrub_ended_s},
        {"blobs_damaged_now", "gauge", "Blobs that are damaged, unreadable or missing, and not healed yet.",
         &control->blobs_damaged_now},
        {"mesh_nodes", "gauge", "Nodes that this one is to be connected with.", &control->mesh_others},
        {"mesh_nodes_connected", "gauge", "Nodes that it is connected with.", &control->mesh_connected},
        {"mesh_followers", "gauge", "Workers that follow the log here.", &control->mesh_followers},
        {"repair_endangered_now", "gauge",
         "Blobs that too few replicas hold, not counting those that are drained or away for longer than "
         "repair.grace.",
         &control->repair_endangered},
        {"repair_endangered_bytes_now", "gauge", "Bytes of these blobs.", &control->repair_endangered_bytes},
        {"repair_lost_now", "gauge", "Of these blobs, those that no replica holds.", &control->repair_lost},
        {"repair_surplus_now", "gauge", "Blobs that more replicas hold than are wanted.",
         &control->repair_surplus},
        {"repair_copied_total", "counter", "Copies of blobs that this node has made to be a holder.",
         &control->repair_copied},
        {"repair_copied_bytes_total", "counter", "Bytes of these copies.", &control->repair_copied_bytes},
        {"repair_let_go_total", "counter", "Blobs that this node holds no more because enough others do.",
         &control->repair_let_go},
        {"repair_failed_total", "counter",
         "Copies that could not be made, or not be told of; they are tried again.", &control->repair_failed},
        {"state_disk", "gauge", "The state's disk: 0 ok, 1 full, 2 read only, 3 failing, 4 missing.",
         &control->state_disk},
        {"store_disk", "gauge",
         "The store's disk: 0 ok, 1 full, 2 read only, 3 failing, 4 missing, 5 another store.",
         &control->store_disk},
        {"state_free_bytes", "gauge", "Free bytes of the state's file system.", &control->state_free_bytes},
        {"store_free_bytes", "gauge", "Free bytes of the store's file system.", &control->store_free_bytes},
        {"store_total_bytes", "gauge", "Size of the store's file system.", &control->store_total_bytes},
        {"start_time_seconds", "gauge", "When fairleadd started, in seconds since the epoch.",
         &control->start_time_s},
        {"ready", "gauge", "1 when writes are possible.", &control->ready},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        print_metric(out, rows[i].name, rows[i].kind, rows[i].text, load(rows[i].value));
    fputs(
        "# HELP fairlead_mesh_connections_ended_total Connections with other nodes that ended, and tries to "
        "make one that came to nothing, by reason.\n"
        "# TYPE fairlead_mesh_connections_ended_total counter\n",
        out);
    for (int r = 1; r < MESH_ENDS_COUNT; r++)
        fprintf(out, "fairlead_mesh_connections_ended_total{reason=\"%s\"} %" PRIu64 "\n", mesh_reasons[r],
                load(&control->mesh_ended[r]));
    fputs("# HELP fairlead_raft_elections_total Elections for which this node stood, by what it saw.\n"
          "# TYPE fairlead_raft_elections_total counter\n",
          out);
    for (int i = 0; i < ELECTION_CAUSES_COUNT; i++)
        fprintf(out, "fairlead_raft_elections_total{cause=\"%s\"} %" PRIu64 "\n", election_causes[i],
                load(&control->raft_elections[i]));
}

char *figures_metrics(const struct figures *figures)
{
    struct sample sample;
    char *text = NULL;
    size_t len;
    FILE *out = open_memstream(&text, &len);
    CHECK(out);
    sample_take(figures, &sample);
    for (int i = 0; i < COUNTERS_COUNT; i++)
        if (i != CTR_LIVENESS)
            print_metric(out, counters[i].name, counters[i].kind, counters[i].text, sample.counter[i]);
    fputs("# HELP fairlead_connections_closed_total Connections closed, by reason.\n"
          "# TYPE fairlead_connections_closed_total counter\n",
          out);
    for (int r = 1; r < CLOSE_REASONS_COUNT; r++)
        fprintf(out, "fairlead_connections_closed_total{reason=\"%s\"} %" PRIu64 "\n", reasons[r],
                sample.closed[r]);
    print_latency(out, &sample);
    print_control(out, &figures->memory->counters->control);
    fclose(out);
    return text;
}
