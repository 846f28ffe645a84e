/* SPDX-License-Identifier: Apache-2.0 */
/* The state's lane: what is agreed upon and durable is applied, a batch a transaction; now and then it is
 * copied. */
#include <stdlib.h>
#include <string.h>

#include "consensus_internal.h"

enum { SNAPSHOT_PATIENCE = 8 };

/* --- on the worker thread: the job, its entries and the state's writer are its own meanwhile --- */

static int apply_one(struct consensus *c, struct kv *kv, struct apply_item *item)
{
    const struct entry *e = item->entry;
    struct state_tx tx = {.kv = kv,
                          .names_done = e->index <= db_applied(c->db, DB_NAMES).index,
                          .private_done = e->index <= db_applied(c->db, DB_PRIVATE).index};
    if (e->type != RAFT_COMMAND)
        return 0;
    int rc = state_apply(&tx, e->index, e->data, e->len, &item->event);
    if (rc)
        return rc;
    bool names = state_type_is_names(item->event.cmd.head.type);
    item->skipped = e->index <= db_opened_at(c->db, names ? DB_NAMES : DB_PRIVATE).index;
    /* It was applied by a try before, of which the other file's commit failed: nobody was told. */
    if (!item->skipped && (names ? tx.names_done : tx.private_done))
        item->event.changed = true;
    return 0;
}

static struct db_applied position(struct consensus *c, const struct apply_job *job)
{
    if (job->count == 0)
        return db_applied(c->db, DB_NAMES);
    const struct entry *last = job->items[job->count - 1].entry;
    return (struct db_applied){last->index, last->term};
}

int apply_now(struct consensus *c, struct apply_job *job)
{
    struct kv *kv;
    struct state_index index = c->index.at;
    int rc = db_begin(c->db, &kv);
    for (size_t i = 0; i < job->count && rc == 0; i++)
        rc = apply_one(c, kv, &job->items[i]);
    if (rc == 0 && job->index)
        rc = state_index_step(kv, &index, INDEX_ROWS);
    if (rc == 0) {
        db_index_set(c->db, index.phase == STATE_INDEX_WHOLE);
        rc = db_commit(c->db, position(c, job), job->touch);
        if (rc) /* whoever commits next is not to say more than is there */
            db_index_set(c->db, c->index.at.phase == STATE_INDEX_WHOLE);
    } else {
        db_abort(c->db);
    }
    if (rc == 0)
        c->index.at = index;
    job->applied = db_applied(c->db, DB_NAMES);
    job->stuck = db_stuck_rings(c->db);
    if (db_sizes(c->db, &job->sizes))
        memset(&job->sizes, 0, sizeof(job->sizes));
    return rc;
}

static void apply_work(struct consensus_job *work)
{
    struct apply_job *job = container_of(work, struct apply_job, job);
    job->rc = apply_now(job->c, job);
}

/* --- on the loop --- */

static void tell_one(struct consensus *c, struct apply_item *item)
{
    struct entry *e = item->entry;
    if (e->type == RAFT_CHANGE && !c->follow.active)
        step_configuration(c, e->index, e->data, e->len);
    if (e->type != RAFT_COMMAND) {
        entry_answer(c, e, CMD_OK, NULL, 0);
        return;
    }
    c->counts.applied++;
    if (c->config.event && !item->skipped)
        c->config.event(c->config.arg, &item->event);
    entry_answer(c, e, item->event.status, item->event.detail, item->event.detail_len);
}

void apply_look(struct consensus *c)
{
    struct db_applied names = db_applied(c->db, DB_NAMES), secret = db_applied(c->db, DB_PRIVATE);
    c->files = names.index > secret.index ? names : secret;
}

static void index_tell(struct consensus *c)
{
    c->counts.index_rows = c->index.at.rows;
    c->counts.index_whole = c->index.at.phase == STATE_INDEX_WHOLE;
    if (!c->counts.index_whole)
        consensus_retry(c);
}

void apply_index_look(struct consensus *c)
{
    c->index = (struct index_work){0};
    if (db_index_is_whole(c->db))
        c->index.at.phase = STATE_INDEX_WHOLE;
    index_tell(c);
}

/* What was applied is told: events first, so that who asked finds them told. */
void apply_tell(struct consensus *c, struct apply_job *job)
{
    for (size_t i = 0; i < job->count; i++) {
        c->applied = job->items[i].entry->index;
        c->applied_term = job->items[i].entry->term;
        tell_one(c, &job->items[i]);
        feed_keep(c, job->items[i].entry);
    }
    c->counts.names_bytes = job->sizes.bytes[DB_NAMES];
    c->counts.private_bytes = job->sizes.bytes[DB_PRIVATE];
    for (unsigned ring = 0; ring < RINGS_MAX && c->config.reader_stuck; ring++)
        if (job->stuck >> ring & 1)
            c->config.reader_stuck(c->config.arg, ring);
}

void apply_job_clear(struct apply_job *job)
{
    for (size_t i = 0; i < job->count; i++)
        entry_put(job->items[i].entry);
    free(job->items);
    job->items = NULL;
    job->count = 0;
    job->touch = job->index = false;
}

static void job_failed(struct consensus *c, const struct apply_job *job)
{
    bool refused = job->rc == -ENOSPC || job->rc == -EAGAIN;
    apply_look(c);
    if (refused || (job->rc == -ENOBUFS && job->count > 1)) {
        /* Agreed upon, so it is tried again until it succeeds; in smaller pieces if it was too much at once.
         */
        c->apply_limit = 1;
        c->apply_stalled = refused && (job->count || job->touch);
        if (refused)
            consensus_retry(c);
        return;
    }
    if (job->rc == -EPROTO)
        consensus_die(c, "an entry behind %llu is of a version or type that this node does not know",
                      (unsigned long long)c->applied);
    else if (job->rc == -EUCLEAN)
        consensus_die(c, "the state contradicts itself behind entry %llu", (unsigned long long)c->applied);
    else
        consensus_die(
            c,
            "the state cannot be written (%s), and what is on the disk is not known; the next start "
            "recovers it from the log",
            strerror(-job->rc));
}

/* Both files are at one position: the moment to note what the snapshot will be of. */
static int snapshot_meta_make(struct consensus *c, struct db_applied applied)
{
    struct snapshot_meta *meta = &c->snapshot.meta;
    struct raft_buffer buf;
    memset(meta, 0, sizeof(*meta));
    memcpy(meta->cluster_id, c->vote.cluster_id, sizeof(meta->cluster_id));
    meta->node_id = c->vote.node_id;
    meta->index = applied.index;
    meta->term = applied.term;
    if (c->follow.active) {
        meta->configuration_index = c->follow.marker.configuration_index;
        meta->configuration_len = c->follow.marker.configuration_len;
        meta->configuration = malloc(meta->configuration_len + 1);
        CHECK(meta->configuration);
        memcpy(meta->configuration, c->follow.marker.configuration, meta->configuration_len);
        return 0;
    }
    /* After a start that found one in the log behind what was applied, the library does not know the one
     * before: a snapshot without any is refused by everybody. It is made when that one is agreed upon. */
    if (c->raft.configuration_committed.n == 0)
        return -EAGAIN;
    meta->configuration_index = c->raft.configuration_committed_index;
    int rc = raft_configuration_encode(&c->raft.configuration_committed, &buf);
    if (rc)
        return -ENOMEM;
    meta->configuration = buf.base;
    meta->configuration_len = buf.len;
    return 0;
}

static void snapshot_work(struct consensus_job *work)
{
    struct snapshot_job *job = container_of(work, struct snapshot_job, job);
    struct consensus *c = job->c;
    job->rc = snapshot_take(c->config.ops, c->raft_fd, c->db, c->config.reserve_bytes, job->keep, &job->meta);
}

static void snapshot_done(struct consensus_job *work)
{
    struct snapshot_job *job = container_of(work, struct snapshot_job, job);
    struct consensus *c = job->c;
    job->busy = false;
    /* Without a snapshot the log only grows; it is tried again after as many entries. */
    c->snapshot_retry_at = job->rc ? c->applied + c->config.snapshot_entries : 0;
    if (job->rc == -EIO) {
        consensus_die(c, "the snapshot cannot be written: %s", strerror(-job->rc));
    } else if (job->rc == 0 && !c->dead) {
        c->snapshot_index = job->meta.index;
        c->counts.snapshots++;
        if (c->follow.active)
            follow_snapshot_made(c, &job->meta);
        else
            step_snapshot(c, &job->meta);
        if (job->meta.index > c->config.trailing_entries)
            c->drop_to = job->meta.index - c->config.trailing_entries;
        snapshot_note(c, &job->meta);
    }
    snapshot_meta_free(&job->meta);
    consensus_pump(c);
}

static void snapshot_start(struct consensus *c, struct db_applied applied)
{
    struct snapshot_job *job = &c->snapshot;
    job->wanted = false;
    if (c->dead || c->installing || snapshot_meta_make(c, applied))
        return;
    job->keep = snapshot_keep(c, job->meta.index);
    job->busy = true;
    job->job = (struct consensus_job){.run = snapshot_work, .done = snapshot_done};
    consensus_job_start(c, &job->job);
}

static void apply_done(struct consensus_job *work)
{
    struct apply_job *job = container_of(work, struct apply_job, job);
    struct consensus *c = job->c;
    bool touched = job->touch;
    job->busy = false;
    if (job->rc == 0) {
        c->apply_limit = c->apply_limit * 2 < BATCH_ENTRIES_MAX ? c->apply_limit * 2 : BATCH_ENTRIES_MAX;
        apply_tell(c, job);
        lease_applied(c);
        if (touched)
            c->follow.touched = job->applied.index;
        if (touched && c->snapshot.wanted && !apply_files_ahead(c))
            snapshot_start(c, job->applied);
    } else {
        c->snapshot.wanted = c->snapshot.wanted && !touched;
        job_failed(c, job);
    }
    apply_job_clear(job);
    index_tell(c);
    cache_release(c);
    consensus_pump(c);
}

static void job_fill(struct consensus *c, uint64_t last)
{
    struct apply_job *job = &c->apply;
    size_t count = last - c->applied, bytes = 0;
    if (count > c->apply_limit)
        count = c->apply_limit;
    job->items = calloc(count + 1, sizeof(*job->items));
    CHECK(job->items);
    for (job->count = 0; job->count < count && bytes <= BATCH_BYTES_MAX; job->count++) {
        struct entry *e = cache_get(c, c->applied + 1 + job->count);
        CHECK(e);
        e->refs++;
        bytes += e->len;
        job->items[job->count].entry = e;
    }
}

/* What is agreed upon but not durable here yet waits: a snapshot must not be ahead of the log. */
void apply_pump(struct consensus *c)
{
    struct apply_job *job = &c->apply;
    uint64_t last = c->commit < c->persisted ? c->commit : c->persisted;
    bool more = last > c->applied;
    if (job->busy || c->dead || c->apply_stalled || c->installing)
        return;
    bool index = c->index.due && c->index.at.phase != STATE_INDEX_WHOLE && !c->closing;
    if (!more && !c->snapshot.wanted && !index) {
        if (!c->counts.index_whole && !c->closing)
            consensus_retry(c); /* it waits for room */
        return;
    }
    if (more)
        job_fill(c, last);
    job->index = index;
    c->index.due = false;
    job->touch = c->snapshot.wanted || follow_touch_due(c);
    job->busy = true;
    job->job = (struct consensus_job){.run = apply_work, .done = apply_done};
    consensus_job_start(c, &job->job);
}

/*
 * Whether it is time. As long as a peer reads a snapshot the log has to go on behind it, so that there is no
 * need for the next one when that is taken over; but not for ever.
 */
static bool snapshot_due(const struct consensus *c)
{
    uint64_t entries = c->applied - c->snapshot_index;
    uint64_t patience = snapshot_keep(c, UINT64_MAX) == UINT64_MAX ? 1 : SNAPSHOT_PATIENCE;
    return entries >= patience * c->config.snapshot_entries ||
           (c->counts.log_bytes >= patience * c->config.snapshot_bytes && entries > 0);
}

void snapshot_pump(struct consensus *c)
{
    struct snapshot_job *job = &c->snapshot;
    if (job->busy || job->wanted || c->closing || c->dead || c->taking || c->installing || c->follow.active ||
        apply_files_ahead(c) || c->applied < c->snapshot_retry_at || c->applied <= c->snapshot_index ||
        c->raft.configuration_committed.n == 0 || !snapshot_due(c))
        return;
    job->wanted = true;
    apply_pump(c);
}
