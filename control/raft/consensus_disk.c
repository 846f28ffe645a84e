/* SPDX-License-Identifier: Apache-2.0 */
/* The log's lane: proposals become entries, entries become durable. */
#include <stdlib.h>
#include <string.h>

#include "consensus_internal.h"

/* --- on the worker thread: the job and the log are its own meanwhile --- */

static void disk_work(struct consensus_job *work)
{
    struct disk_job *job = container_of(work, struct disk_job, job);
    struct consensus *c = job->c;
    job->rc = 0;
    if (job->truncate_from)
        job->rc = log_truncate(c->log, job->truncate_from);
    uint64_t start = uv_hrtime();
    if (job->rc == 0 && job->count)
        job->rc = log_append(c->log, job->logs, job->count);
    job->sync_us = (uv_hrtime() - start) / 1000;
    if (job->rc == 0 && job->drop_to)
        log_drop(c->log, job->drop_to);
    /* Room for the next batch is made now, while nobody waits for it; if there is none, that is found out
     * then. */
    size_t ahead = job->reserve_bytes > BATCH_BYTES_MAX ? job->reserve_bytes : BATCH_BYTES_MAX;
    int reserve_rc = job->rc ? 0 : log_reserve(c->log, ahead);
    if (reserve_rc == -ENOSPC && job->reserve_bytes && job->reserve_bytes < ahead)
        reserve_rc = log_reserve(c->log, job->reserve_bytes);
    if (reserve_rc && reserve_rc != -ENOSPC)
        job->rc = reserve_rc;
    job->room_rc = reserve_rc ? reserve_rc : db_room(c->db, c->config.reserve_bytes);
    job->capacity = log_capacity(c->log);
    job->log_bytes = log_bytes(c->log);
}

/* --- on the loop --- */

static void count_sync(struct consensus *c, uint64_t us)
{
    unsigned bucket = 0;
    while (bucket < LATENCY_BUCKETS - 1 && us >= 1ull << bucket)
        bucket++;
    c->counts.fsyncs++;
    c->counts.batches++;
    c->counts.fsync_us_sum += us;
    c->counts.fsync_us[bucket]++;
}

/* How far the entries of the job are still those that are wanted: a new leader may have replaced some. */
static uint64_t job_valid(const struct consensus *c, const struct disk_job *job)
{
    uint64_t last = 0;
    for (size_t i = 0; i < job->count; i++) {
        const struct entry *e = job->entries[i];
        if (cache_get(c, e->index) != e)
            break;
        last = e->index;
    }
    return last;
}

void disk_job_clear(struct disk_job *job)
{
    for (size_t i = 0; i < job->count; i++)
        entry_put(job->entries[i]);
    free(job->entries);
    free(job->logs);
    job->entries = NULL;
    job->logs = NULL;
    job->count = 0;
    job->truncate_from = job->drop_to = job->reserve_bytes = 0;
}

static void job_failed(struct consensus *c, int rc)
{
    if (rc == -ENOSPC)
        c->stalled = true;
    else
        consensus_die(c, "the log cannot be written: %s", strerror(-rc));
}

static void disk_done(struct consensus_job *work)
{
    struct disk_job *job = container_of(work, struct disk_job, job);
    struct consensus *c = job->c;
    uint64_t valid = job_valid(c, job);
    job->busy = false;
    c->capacity = job->capacity;
    c->counts.log_bytes = job->log_bytes;
    c->no_room = job->room_rc == -ENOSPC;
    if (job->room_rc && job->room_rc != -ENOSPC && !job->rc)
        consensus_die(c, "the state's disk cannot be examined: %s", strerror(-job->room_rc));
    if (job->rc)
        job_failed(c, job->rc);
    else if (job->count)
        count_sync(c, job->sync_us);
    if (!job->rc && !c->dead && valid > c->persisted) {
        c->persisted = valid;
        step_persisted(c, valid);
    }
    disk_job_clear(job);
    send_late(c);
    if (c->no_room || c->stalled)
        consensus_retry(c);
    consensus_pump(c);
}

static void job_start(struct consensus *c)
{
    struct disk_job *job = &c->disk;
    job->busy = true;
    job->job = (struct consensus_job){.run = disk_work, .done = disk_done};
    consensus_job_start(c, &job->job);
}

/* Hands the entries that are not durable yet to the job. */
static void job_fill(struct consensus *c)
{
    struct disk_job *job = &c->disk;
    size_t count = cache_last(c) - c->persisted;
    job->entries = calloc(count, sizeof(*job->entries));
    job->logs = calloc(count, sizeof(*job->logs));
    CHECK(job->entries && job->logs);
    for (size_t i = 0; i < count; i++) {
        struct entry *e = cache_get(c, c->persisted + 1 + i);
        CHECK(e);
        e->refs++;
        job->entries[i] = e;
        job->logs[i] = (struct log_entry){e->index, e->term, e->type, e->data, e->len};
    }
    job->count = count;
}

void disk_pump(struct consensus *c)
{
    struct disk_job *job = &c->disk;
    if (job->busy || c->dead || c->stalled || c->installing || c->follow.active)
        return;
    if (cache_last(c) > c->persisted)
        job_fill(c);
    job->truncate_from = c->truncate_from;
    job->drop_to = c->drop_to;
    c->truncate_from = c->drop_to = 0;
    if (job->count || job->truncate_from || job->drop_to || job->reserve_bytes)
        job_start(c);
}

static void set_time(struct entry *e, uint64_t time_ms)
{
    uint8_t *at = (uint8_t *)e->data + CMD_TIME_OFFSET;
    for (size_t i = 0; i < 8; i++)
        at[i] = (uint8_t)(time_ms >> (8 * i));
}

/* How many of the waiting proposals go into one append. */
static size_t batch_size(const struct consensus *c)
{
    size_t count = 0, bytes = 0;
    for (const struct entry *e = c->waiting.head; e && count < BATCH_ENTRIES_MAX; e = e->next, count++) {
        /* A configuration goes by itself: the library may refuse it. */
        if (count && (e->type == RAFT_CHANGE || c->waiting.head->type == RAFT_CHANGE))
            break;
        bytes += log_entry_bytes(e->len);
        if (bytes > c->capacity || (count && bytes > BATCH_BYTES_MAX))
            break;
    }
    return count;
}

static void batch_submit(struct consensus *c, size_t count)
{
    struct entry **entries = calloc(count, sizeof(*entries));
    uint64_t now = c->host.wall_ms(c->host.arg);
    CHECK(entries);
    for (size_t i = 0; i < count; i++) {
        entries[i] = entry_list_take(&c->waiting);
        if (entries[i]->type == RAFT_COMMAND)
            set_time(entries[i], now);
    }
    if (!step_submit(c, entries, (unsigned)count)) {
        for (size_t i = 0; i < count; i++) {
            entry_answer(c, entries[i], CMD_NO_LEADER, NULL, 0);
            entry_put(entries[i]);
        }
    }
    free(entries);
}

/* The log had no room for the first that waits even after an attempt to make some. */
static void waiting_no_space(struct consensus *c)
{
    struct entry *e;
    while ((e = entry_list_take(&c->waiting))) {
        entry_answer(c, e, CMD_NO_SPACE, NULL, 0);
        entry_put(e);
    }
    c->reserve_tried = false;
}

/*
 * Submits what waits, in one batch, when the log's lane is free. An entry cannot be taken back from the
 * library: so only what the log has reserved room for is given to it.
 */
void submit_pump(struct consensus *c)
{
    if (c->disk.busy || c->dead || c->stalled || !c->waiting.head || cache_last(c) > c->persisted)
        return;
    size_t count = batch_size(c);
    if (count) {
        c->reserve_tried = false;
        batch_submit(c, count);
        return;
    }
    if (c->reserve_tried) {
        waiting_no_space(c);
        return;
    }
    c->reserve_tried = true;
    c->disk.reserve_bytes = log_entry_bytes(c->waiting.head->len);
}
