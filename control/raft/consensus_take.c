/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A snapshot of another node is taken over. Its files come piece by piece, each asked for when the one before
 * is on the disk. When the folder is complete, the library is told; if it agrees (nothing that this node has
 * is worth more), the log is given up and both files become what the snapshot has.
 *
 * The end of the process at any point is harmless: a folder without its name is removed; one with its name is
 * the newest snapshot, and the next start does what is left to do (consensus_open.c).
 */
#include <stdlib.h>
#include <string.h>

#include "consensus_internal.h"
#include "snapshot_receive.h"

enum {
    ASK_AGAIN_MS = 1000,
    GIVE_UP_MS = 15000,     /* without a piece */
    OTHER_SOURCE_MS = 2000, /* likewise, if somebody else offers one */
};

enum take_stage {
    TAKE_BEGIN,   /* the folder is made */
    TAKE_ASK,     /* a piece was asked for */
    TAKE_WRITE,   /* it is written */
    TAKE_END,     /* the folder gets its name */
    TAKE_READY,   /* it is complete; the lanes are to come to rest */
    TAKE_INSTALL, /* the library agreed */
};

struct taking {
    struct consensus_job job;
    struct consensus *c;
    bool busy;
    int rc;
    enum take_stage stage;
    uint64_t from;
    raft_term term; /* of the leader who offers it */
    struct snapshot_meta meta;
    struct snapshot_receive *receive;
    unsigned file;
    uint64_t offset;
    uint64_t asked_ms, moved_ms;
    uint8_t *data;
    size_t len;
};

bool take_busy(const struct consensus *c)
{
    return c->taking && c->taking->busy;
}

void take_forget(struct consensus *c)
{
    struct taking *t = c->taking;
    if (!t)
        return;
    if (t->receive)
        snapshot_receive_free(t->receive);
    snapshot_meta_free(&t->meta);
    free(t->data);
    free(t);
    c->taking = NULL;
}

/* --- on the worker thread --- */

static int install(struct taking *t)
{
    struct consensus *c = t->c;
    int rc = 0;
    /* The names last: they are what readers see. The log before them would leave, for a moment, a state that
     * nothing leads up to. */
    if (c->follow.active) {
        int marked = follow_install_begin(c, t->meta.index);
        if (marked)
            return marked;
    }
    for (int i = DB_FILES - 1; i >= 0 && rc == 0; i--) {
        char path[4096], folder[SNAPSHOT_NAME_BYTES];
        snapshot_name(t->meta.index, folder);
        int len = snprintf(path, sizeof(path), "%s/raft/%s/%s", c->dir, folder, db_file_name(i));
        rc = len < (int)sizeof(path) ? db_restore(c->db, i, path) : -ENAMETOOLONG;
    }
    if (c->follow.active) {
        /* Nobody needs the copy any more: this node makes another one if it ever takes part. */
        if (rc == 0)
            rc = follow_install_end(c, &t->meta);
        if (rc == 0)
            snapshot_remove_older(c->config.ops, c->raft_fd, t->meta.index + 1);
        return rc;
    }
    if (rc == 0)
        rc = log_reset(c->log, t->meta.index + 1);
    if (rc == 0)
        snapshot_remove_older(c->config.ops, c->raft_fd, t->meta.index);
    return rc;
}

static int run(struct taking *t)
{
    struct consensus *c = t->c;
    switch (t->stage) {
    case TAKE_BEGIN:
        return snapshot_receive_begin(c->config.ops, c->raft_fd, &t->meta, c->config.reserve_bytes,
                                      &t->receive);
    case TAKE_WRITE:
        return snapshot_receive_piece(t->receive, t->file, t->offset, t->data, t->len);
    case TAKE_END:
        return snapshot_receive_end(t->receive);
    case TAKE_INSTALL:
        return install(t);
    default:
        IMPOSSIBLE("nothing to do for another thread");
    }
}

static void take_run(struct consensus_job *work)
{
    struct taking *t = container_of(work, struct taking, job);
    t->rc = run(t);
}

/* --- on the loop --- */

static void take_done(struct consensus_job *work);

static void take_start(struct taking *t, enum take_stage stage)
{
    t->stage = stage;
    t->busy = true;
    t->job = (struct consensus_job){.run = take_run, .done = take_done};
    consensus_job_start(t->c, &t->job);
}

static void ask(struct taking *t)
{
    struct consensus *c = t->c;
    uint8_t frame[SNAPSHOT_PIECE_HEAD_BYTES];
    uint64_t left = t->meta.bytes[t->file] - t->offset;
    struct snapshot_piece piece = {.file = (uint16_t)t->file,
                                   .index = t->meta.index,
                                   .term = t->meta.term,
                                   .offset = t->offset,
                                   .want =
                                       left < SNAPSHOT_PIECE_BYTES ? (uint32_t)left : SNAPSHOT_PIECE_BYTES};
    t->stage = TAKE_ASK;
    t->asked_ms = consensus_now_ms(c);
    send_frame(c, t->from, CONSENSUS_FRAME_SNAPSHOT_GET, frame, snapshot_piece_encode(&piece, frame));
}

static void written(struct taking *t)
{
    free(t->data);
    t->data = NULL;
    t->offset += t->len;
    t->moved_ms = consensus_now_ms(t->c);
    if (t->offset == t->meta.bytes[t->file]) {
        t->file++;
        t->offset = 0;
    }
    if (t->file == DB_FILES)
        take_start(t, TAKE_END);
    else
        ask(t);
}

/* The state is another one. */
static void installed(struct taking *t)
{
    struct consensus *c = t->c;
    uint64_t index = t->meta.index;
    c->persisted = c->applied = c->snapshot_index = index;
    c->applied_term = t->meta.term;
    apply_look(c);
    apply_index_look(c);
    c->installing = false;
    c->capacity = 0;
    c->disk.reserve_bytes = 1;
    c->snapshot_retry_at = 0;
    c->counts.installed++;
    if (c->follow.active) {
        c->commit = index;
        c->snapshot_index = 0;
        c->follow.accepted = false; /* it asks for what is behind it */
        c->follow.asked_ms = 0;
        c->follow.touched = index;
    } else {
        step_installed(c, &t->meta);
        snapshot_note(c, &t->meta);
    }
    take_forget(c);
    if (c->config.restored && !c->dead)
        c->config.restored(c->config.arg, index);
    lease_applied(c);
}

static void install_done(struct taking *t)
{
    struct consensus *c = t->c;
    if (t->rc == 0)
        installed(t);
    else if (t->rc == -ENOSPC || t->rc == -EAGAIN)
        consensus_retry(c);
    else
        consensus_die(c, "snapshot %llu of node %llu cannot be taken over: %s",
                      (unsigned long long)t->meta.index, (unsigned long long)t->from, strerror(-t->rc));
}

static void take_done(struct consensus_job *work)
{
    struct taking *t = container_of(work, struct taking, job);
    struct consensus *c = t->c;
    t->busy = false;
    if (t->stage == TAKE_INSTALL)
        install_done(t);
    else if (t->rc == -EIO)
        consensus_die(c, "a snapshot cannot be written: %s", strerror(-t->rc));
    else if (t->rc || c->dead)
        take_forget(c); /* the leader offers it again */
    else if (t->stage == TAKE_BEGIN)
        ask(t);
    else if (t->stage == TAKE_WRITE)
        written(t);
    else
        t->stage = TAKE_READY;
    consensus_pump(c);
}

/* Nothing else may be under way when the library gives up the log: what comes back would speak of entries
 * that it does not know any more. */
void install_pump(struct consensus *c)
{
    struct taking *t = c->taking;
    if (!t || t->busy || c->disk.busy || c->apply.busy || c->snapshot.busy || c->closing)
        return;
    if (t->stage == TAKE_READY) {
        if (c->leads || c->snapshot.wanted) {
            take_forget(c);
            return;
        }
        if (c->follow.active) {
            cache_truncate(c, 0, CMD_UNKNOWN_OUTCOME);
            c->installing = true;
        } else {
            step_install(c, t->from, t->term, &t->meta);
        }
        if (!c->installing) {
            take_forget(c);
            return;
        }
        t->stage = TAKE_INSTALL;
    }
    if (t->stage == TAKE_INSTALL && !c->dead && !c->retry_armed)
        take_start(t, TAKE_INSTALL);
}

static bool same(const struct snapshot_meta *a, const struct snapshot_meta *b)
{
    return a->index == b->index && a->term == b->term && memcmp(a->sha256, b->sha256, sizeof(a->sha256)) == 0;
}

/* One that is under way goes on, unless nothing comes of it any more. */
static bool goes_on(struct taking *t, uint64_t from, raft_term term, const struct snapshot_meta *meta)
{
    uint64_t stood_ms = consensus_now_ms(t->c) - t->moved_ms;
    if (same(&t->meta, meta)) {
        if (t->stage < TAKE_INSTALL)
            t->term = term;
        t->from = from;
        return true;
    }
    if (t->busy || t->stage >= TAKE_END)
        return true;
    return stood_ms < (from == t->from ? GIVE_UP_MS : OTHER_SOURCE_MS);
}

static void take_begin(struct consensus *c, uint64_t from, raft_term term, struct snapshot_meta *meta)
{
    struct taking *t = calloc(1, sizeof(*t));
    CHECK(t);
    *t = (struct taking){.c = c, .from = from, .term = term, .meta = *meta, .moved_ms = consensus_now_ms(c)};
    meta->configuration = NULL;
    c->taking = t;
    take_start(t, TAKE_BEGIN);
}

int snapshot_on_offer(struct consensus *c, uint64_t from, raft_term term, struct snapshot_meta *meta)
{
    if (memcmp(meta->cluster_id, c->vote.cluster_id, sizeof(meta->cluster_id)) != 0)
        return -EPROTO;
    if (c->leads || c->closing || c->installing || term < raft_current_term(&c->raft))
        return 0;
    if (c->taking && goes_on(c->taking, from, term, meta))
        return 0;
    take_forget(c);
    if (c->commit >= meta->index) {
        /* We have all of that: the library says so to the leader. */
        step_install(c, from, term, meta);
        return 0;
    }
    take_begin(c, from, term, meta);
    return 0;
}

void take_for_follower(struct consensus *c, uint64_t from, struct snapshot_meta *meta)
{
    if (c->closing || c->installing || (c->taking && goes_on(c->taking, from, 0, meta)))
        return;
    take_forget(c);
    take_begin(c, from, 0, meta);
}

static bool is_of(const struct taking *t, uint64_t from, const struct snapshot_piece *piece)
{
    return t && t->stage == TAKE_ASK && !t->busy && t->from == from && t->meta.index == piece->index &&
           t->meta.term == piece->term && t->file == piece->file && t->offset == piece->offset;
}

int snapshot_on_part(struct consensus *c, uint64_t from, const void *body, size_t len)
{
    struct taking *t = c->taking;
    struct snapshot_piece piece;
    if (snapshot_piece_decode(body, len, &piece) || piece.len == 0)
        return -EPROTO;
    /* A piece that came twice, or too late. */
    if (!is_of(t, from, &piece))
        return 0;
    if (piece.len > t->meta.bytes[t->file] - t->offset)
        return -EPROTO;
    t->data = malloc(piece.len);
    CHECK(t->data);
    memcpy(t->data, piece.data, piece.len);
    t->len = piece.len;
    take_start(t, TAKE_WRITE);
    return 0;
}

int snapshot_on_gone(struct consensus *c, uint64_t from, const void *body, size_t len)
{
    struct snapshot_piece piece;
    if (snapshot_piece_decode(body, len, &piece))
        return -EPROTO;
    if (is_of(c->taking, from, &piece))
        take_forget(c);
    return 0;
}

void snapshot_tick(struct consensus *c)
{
    struct taking *t = c->taking;
    uint64_t now = consensus_now_ms(c);
    if (!t || t->busy || t->stage != TAKE_ASK)
        return;
    if (c->leads || now - t->moved_ms >= GIVE_UP_MS)
        take_forget(c);
    else if (now - t->asked_ms >= ASK_AGAIN_MS)
        ask(t);
}
