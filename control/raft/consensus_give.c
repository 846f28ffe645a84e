/* SPDX-License-Identifier: Apache-2.0 */
/* Snapshots that other nodes read: the handle, and the pieces that they ask for. */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "consensus_internal.h"
#include "raft_codec.h"

enum { GIVE_IDLE_MS = 30000 /* a snapshot that nobody asked for so long may go */ };

void snapshot_note(struct consensus *c, struct snapshot_meta *meta)
{
    snapshot_meta_free(&c->giving.newest);
    c->giving.newest = *meta;
    meta->configuration = NULL;
}

/* A folder that is being read stays. */
static void use(struct consensus *c, uint64_t index)
{
    struct giving *g = &c->giving;
    uint64_t now = consensus_now_ms(c);
    size_t at = 0;
    for (size_t i = 0; i < GIVE_SNAPSHOTS_MAX; i++) {
        if (g->used[i].index == index) {
            at = i;
            break;
        }
        if (g->used[i].until_ms < g->used[at].until_ms)
            at = i;
    }
    g->used[at].index = index;
    g->used[at].until_ms = now + GIVE_IDLE_MS;
}

uint64_t snapshot_keep(const struct consensus *c, uint64_t newest)
{
    uint64_t now = consensus_now_ms(c), keep = newest;
    for (size_t i = 0; i < GIVE_SNAPSHOTS_MAX; i++)
        if (c->giving.used[i].index && c->giving.used[i].until_ms > now && c->giving.used[i].index < keep)
            keep = c->giving.used[i].index;
    return keep;
}

const struct snapshot_meta *snapshot_give(struct consensus *c)
{
    if (c->giving.newest.index)
        use(c, c->giving.newest.index);
    return &c->giving.newest;
}

void snapshot_offer(struct consensus *c, const struct raft_message *message)
{
    struct giving *g = &c->giving;
    void *data;
    size_t len;
    if (g->newest.index < message->install_snapshot.last_index)
        return;
    if (raft_codec_encode(message, &g->newest, &data, &len))
        return;
    send_frame(c, message->server_id, CONSENSUS_FRAME_MESSAGE, data, len);
    free(data);
    use(c, g->newest.index);
}

/* --- a piece --- */

static ssize_t piece_read(const struct consensus *c, const struct give_job *job)
{
    const struct snapshot_piece *piece = &job->piece;
    int fd = snapshot_file_open(c->raft_fd, piece->index, piece->file);
    if (fd < 0)
        return fd;
    size_t got = 0;
    ssize_t n = 1;
    while (n > 0 && got < piece->want) {
        n = pread(fd, job->data + SNAPSHOT_PIECE_HEAD_BYTES + got, piece->want - got,
                  (off_t)(piece->offset + got));
        if (n < 0 && errno == EINTR)
            n = 1;
        else if (n > 0)
            got += (size_t)n;
    }
    ssize_t rc = n < 0 ? -errno : (ssize_t)got;
    close(fd);
    return rc;
}

static void give_run(struct consensus_job *work)
{
    struct give_job *job = container_of(work, struct give_job, job);
    job->got = piece_read(job->c, job);
}

static void give_free(struct consensus *c, struct give_job *job)
{
    struct give_job **at = &c->giving.jobs;
    while (*at != job)
        at = &(*at)->next;
    *at = job->next;
    c->giving.count--;
    free(job->data);
    free(job);
}

static void give_done(struct consensus_job *work)
{
    struct give_job *job = container_of(work, struct give_job, job);
    struct consensus *c = job->c;
    struct snapshot_piece piece = job->piece;
    uint8_t head[SNAPSHOT_PIECE_HEAD_BYTES];
    if (job->got > 0) {
        /* The data stand behind the place of the head already. */
        piece.len = 0;
        snapshot_piece_encode(&piece, head);
        memcpy(job->data, head, sizeof(head));
        for (size_t i = 0; i < 4; i++)
            job->data[SNAPSHOT_PIECE_HEAD_BYTES - 4 + i] = (uint8_t)((size_t)job->got >> (8 * i));
        send_frame(c, job->node, CONSENSUS_FRAME_SNAPSHOT_PART, job->data,
                   SNAPSHOT_PIECE_HEAD_BYTES + (size_t)job->got);
    } else {
        size_t len = snapshot_piece_encode(&piece, head);
        send_frame(c, job->node, CONSENSUS_FRAME_SNAPSHOT_GONE, head, len);
    }
    give_free(c, job);
    consensus_wake(c);
}

int snapshot_on_get(struct consensus *c, uint64_t from, const void *body, size_t len)
{
    struct giving *g = &c->giving;
    struct snapshot_piece piece;
    if (snapshot_piece_decode(body, len, &piece) || piece.want == 0 || piece.len)
        return -EPROTO;
    /* Whoever gets no answer asks again. */
    if (c->closing || g->count >= GIVE_JOBS_MAX)
        return 0;
    struct give_job *job = calloc(1, sizeof(*job));
    CHECK(job);
    *job = (struct give_job){.c = c, .node = from, .piece = piece, .next = g->jobs};
    job->piece.data = NULL;
    job->data = malloc(SNAPSHOT_PIECE_HEAD_BYTES + piece.want);
    CHECK(job->data);
    g->jobs = job;
    g->count++;
    use(c, piece.index);
    job->job = (struct consensus_job){.run = give_run, .done = give_done};
    consensus_job_start(c, &job->job);
    return 0;
}

void give_forget(struct consensus *c)
{
    while (c->giving.jobs)
        give_free(c, c->giving.jobs);
    snapshot_meta_free(&c->giving.newest);
}
