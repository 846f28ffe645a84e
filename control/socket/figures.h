/* SPDX-License-Identifier: Apache-2.0 */
/* Sums and rates over the rings' counters, sampled once a second, for `top`, `status` and `metrics`. */
#ifndef FL_CONTROL_FIGURES_H
#define FL_CONTROL_FIGURES_H

#include <jansson.h>

#include "control/shared_memory.h"

struct figures;

struct figures *figures_open(const struct shared_memory *memory);
void figures_close(struct figures *figures);

void figures_sample(struct figures *figures);

/* Of the last whole second: rates a second, gauges, and per class of requests its rate and latencies. New
 * object. */
json_t *figures_top(const struct figures *figures);

/* Rate a second of one counter. */
double figures_rate(const struct figures *figures, enum counter_id id);

/* Prometheus text, malloc'd. */
char *figures_metrics(const struct figures *figures);

/*
 * The duration in microseconds below which the fraction `part` of a histogram lies, interpolated inside its
 * bucket; 0 for an empty one. Pure.
 */
double figures_percentile(const uint64_t bucket[LATENCY_BUCKETS], double part);

#endif
