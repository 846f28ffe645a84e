/* SPDX-License-Identifier: Apache-2.0 */
#include "control/daemon_blobs.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "check.h"
#include "control/daemon_disks.h"
#include "control/daemon_store.h"
#include "control/events.h"
#include "control/nodes.h"
#include "control/state/cmd_new.h"
#include "control/state/stores.h"

enum { COMMAND_ROOM = 1024 };

static int on_walk(void *arg, const struct digest *after, size_t limit, scrub_row row, void *row_arg)
{
    struct daemon *d = arg;
    return cluster_each_blob(d->cluster, after, limit, row, row_arg);
}

uint64_t daemon_blobs_holder(struct daemon *d, uint64_t self)
{
    const struct node *n = node_find(nodes_table(d->nodes), self);
    return n ? stores_holder(n) : self;
}

/* As far as the cluster knows: 1, 0; -ENOENT: nothing is known of its holders, or nobody has it any more. */
static int is_held_here(struct daemon *d, const struct digest *digest, uint64_t self)
{
    uint64_t holder = daemon_blobs_holder(d, self);
    struct names_blob row;
    if (cluster_blob(d->cluster, digest, &row) || row.version == 0 || row.links == 0)
        return -ENOENT;
    for (unsigned i = 0; i < row.holder_count; i++)
        if (stores_fold(nodes_table(d->nodes), row.holder[i]) == holder)
            return 1;
    return 0;
}

bool daemon_blobs_counts(struct daemon *d, uint64_t self)
{
    const struct node_table *t = nodes_table(d->nodes);
    const struct node *n = node_find(t, self);
    return t->cluster.version >= node_version_of_command(CMD_BLOB_COPIES) && n && n->replica;
}

void daemon_blobs_say(struct daemon *d, const char *source, const struct blob_copies *copies,
                      cluster_done done, void *arg)
{
    struct wire_writer w = cmd_new(CMD_BLOB_COPIES, "system", source, COMMAND_ROOM);
    size_t len;
    cmd_put_digest(&w, copies->digest);
    cmd_put_holders(&w, copies->gained);
    cmd_put_holders(&w, copies->lost);
    if (copies->needed->count)
        cmd_put_holders(&w, copies->needed);
    void *cmd = cmd_end(&w, &len);
    cluster_propose(d->cluster, cmd, len, done, arg);
}

int daemon_blobs_has_file(const struct daemon *d, const struct digest *digest, uint64_t size)
{
    char path[DAMAGE_PATH_BYTES];
    struct stat st;
    damage_blob_path(digest, path);
    return fstatat(d->folders.blobs_fd, path, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode) &&
           (uint64_t)st.st_size == size;
}

static void on_said(void *arg, enum cmd_status status, uint64_t index, const void *detail, size_t detail_len)
{
    struct daemon *d = arg;
    (void)index, (void)detail, (void)detail_len;
    if (status != CMD_OK && status != CMD_BLOB_UNKNOWN)
        journal_warn(d->journal, "store", "who holds a blob could not be said: %s",
                     events_status_name(status));
}

static bool on_holds(void *arg, const struct digest *digest, bool holds)
{
    struct daemon *d = arg;
    struct cluster_status status;
    cluster_status(d->cluster, &status);
    if (!status.writable)
        return false; /* what is known here may be old, too */
    if (!daemon_blobs_counts(d, status.node_id) || is_held_here(d, digest, status.node_id) != !holds)
        return true;
    const struct cmd_holders none = {.count = 0};
    const struct cmd_holders self = {.count = 1, .id = {daemon_blobs_holder(d, status.node_id)}};
    struct stores_saying say = {.gained = holds ? self : none, .lost = holds ? none : self};
    struct names_blob row;
    if (cluster_blob(d->cluster, digest, &row) == 0)
        stores_unfold(nodes_table(d->nodes), &row, &say);
    const struct blob_copies copies = {
        .digest = digest, .gained = &say.gained, .lost = &say.lost, .needed = &none};
    daemon_blobs_say(d, "store", &copies, on_said, d);
    return true;
}

static bool on_is_wanted(void *arg, const struct digest *digest)
{
    struct daemon *d = arg;
    struct names_blob row;
    int err = cluster_blob(d->cluster, digest, &row);
    return err == 0 ? row.links > 0 : err != -ENOENT;
}

/* What is not here may be a copy that this node need not have. */
void daemon_blobs_found(struct daemon *d, const struct digest *digest, uint64_t size, enum job_result result)
{
    struct cluster_status status;
    cluster_status(d->cluster, &status);
    if (result == JOB_MISSING && is_held_here(d, digest, status.node_id) == 1)
        damage_missing(d->blobs->damage, digest, size);
    if (result == JOB_DAMAGED || result == JOB_ERROR)
        damage_found(d->blobs->damage, digest, size, result == JOB_ERROR);
}

static bool on_found(void *arg, const struct digest *digest, uint64_t size, enum job_result result)
{
    struct daemon *d = arg;
    if (!damage_has_room(d->blobs->damage) || daemon_disks_store_is_gone(d))
        return false;
    daemon_blobs_found(d, digest, size, result);
    return true;
}

static void on_ended(void *arg)
{
    struct daemon *d = arg;
    struct scrub_status s;
    char text[160];
    scrub_status(d->blobs->scrub, &s);
    snprintf(text, sizeof(text),
             "%" PRIu64 " blobs (%" PRIu64 " bytes) are good, %" PRIu64 " damaged, %" PRIu64 " unreadable",
             s.blobs, s.bytes, s.damaged, s.unreadable);
    events_note(d->events, "scrub.ended", text);
    damage_scrub_ended(d->blobs->damage);
}

void daemon_blobs_order(struct daemon *d, struct frame_job *job)
{
    struct digest digest;
    if (job->kind == JOB_KEEP && digest_unpack(job->digest, sizeof(job->digest), &digest) &&
        damage_is_unreadable(d->blobs->damage, &digest))
        job->flags |= JOB_REPLACE;
}

static bool on_has_others(void *arg)
{
    struct daemon *d = arg;
    return cluster_has_others(d->cluster);
}

static void on_tell(void *arg, const char *kind, const struct digest *digest, const char *text)
{
    struct daemon *d = arg;
    char name[DIGEST_TEXT_MAX + 1];
    digest_format(digest, name);
    journal_warn(d->journal, "store", "%s: %s: %s", kind, name, text);
    events_blob(d->events, kind, digest, text);
}

void daemon_blobs_open(struct daemon *d)
{
    d->blobs = calloc(1, sizeof(*d->blobs));
    CHECK(d->blobs);
    d->blobs->scrub = scrub_new(&(struct scrub_config){.state_fd = d->folders.state_fd,
                                                       .jobs = d->jobs,
                                                       .walk = on_walk,
                                                       .found = on_found,
                                                       .ended = on_ended,
                                                       .arg = d});
    d->blobs->damage = damage_new(&(struct damage_config){.blobs_fd = d->folders.blobs_fd,
                                                          .damaged_fd = d->folders.damaged_fd,
                                                          .jobs = d->jobs,
                                                          .has_others = on_has_others,
                                                          .holds = on_holds,
                                                          .is_wanted = on_is_wanted,
                                                          .tell = on_tell,
                                                          .arg = d});
}

void daemon_blobs_close(struct daemon *d)
{
    scrub_free(d->blobs->scrub);
    damage_free(d->blobs->damage);
    free(d->blobs);
}

void daemon_blobs_tick(struct daemon *d)
{
    enum setting_source source;
    struct control_counters *out = &d->memory.counters->control;
    struct scrub_status s;
    uint64_t now_ms = journal_now_ms();
    if (d->phase == DAEMON_SERVING && !daemon_disks_store_is_gone(d)) {
        if (daemon_store_cleans(d))
            scrub_tick(d->blobs->scrub, now_ms, setting_effective(&d->settings, SET_SCRUB_INTERVAL, &source));
        damage_tick(d->blobs->damage, now_ms);
    }
    scrub_status(d->blobs->scrub, &s);
    atomic_store_explicit(&out->scrub_running, s.running, memory_order_relaxed);
    atomic_store_explicit(&out->scrub_begun_s, s.begun_ms / 1000, memory_order_relaxed);
    atomic_store_explicit(&out->scrub_ended_s, s.ended_ms / 1000, memory_order_relaxed);
    atomic_store_explicit(&out->blobs_damaged_now, damage_count(d->blobs->damage), memory_order_relaxed);
}
