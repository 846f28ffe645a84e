/* SPDX-License-Identifier: Apache-2.0 */
#include "control/daemon_disks.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "control/daemon_peers.h"
#include "control/daemon_repair.h"
#include "control/events.h"
#include "control/nodes.h"
#include "control/store_place.h"

struct daemon_disks {
    struct disks *disks;
    int store_fd;
    char *store_path;
    char store_id[STORE_ID_LEN + 1];
    int back_error;           /* what was said last of a store that is back and cannot be opened; 0 */
    uint64_t errors, refused; /* as counted by the rings at the last look */
    enum node_store_state said;
};

#define RESTART_HINT "it is shared: restart the node to use it"

static const char *const disk_names[DISKS] = {"state", "store"};
static const char *const state_names[] = DISK_STATE_NAMES;

static uint64_t setting(const struct daemon *d, enum setting_id id)
{
    enum setting_source source;
    return setting_effective(&d->settings, id, &source);
}

/* ------------------------------------------------------------------ what is told */

static void on_changed(void *arg, enum disk disk)
{
    struct daemon *d = arg;
    struct disk_status s;
    char kind[32], text[DISK_PATH_MAX + DISK_TEXT_MAX];
    disks_status(d->disks->disks, disk, &s);
    bool well = s.verdict.state == DISK_OK;
    if (disk == DISK_OF_STORE && well)
        d->disks->back_error = 0;
    snprintf(kind, sizeof(kind), "%s.%s", disk_names[disk], state_names[s.verdict.state]);
    snprintf(text, sizeof(text), "%.*s: %s", DISK_PATH_MAX - 3, s.path,
             well ? "its disk is well again" : s.verdict.text);
    if (well)
        journal_info(d->journal, "disk", "%s: %s", kind, text);
    else
        journal_error(d->journal, "disk", "%s: %s", kind, text);
    events_note(d->events, kind, text);
}

/* ------------------------------------------------------------------ the store comes, and goes */

/* The folder above blobs/ of the store that is open. */
static int store_open(const struct daemon *d)
{
    int fd = openat(d->folders.blobs_fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

static bool is_at_path(const struct daemon *d)
{
    struct stat open_one, there;
    return fstat(d->disks->store_fd, &open_one) == 0 && stat(d->disks->store_path, &there) == 0 &&
           open_one.st_dev == there.st_dev && open_one.st_ino == there.st_ino;
}

/* What is at the path now becomes the open store, of this process and of the next data plane. A store that is
 * shared is opened by a start alone. */
static int store_reopen(struct daemon *d)
{
    if (d->folders.shared && is_at_path(d))
        return 0;
    int err = folders_reopen_store(&d->folders, &d->user);
    int fd = err ? err : store_open(d);
    if (fd < 0)
        return fd;
    err = dup3(fd, d->disks->store_fd, O_CLOEXEC) < 0 ? -errno : 0;
    close(fd);
    return err;
}

uint8_t daemon_disks_said(const struct daemon *d)
{
    return (uint8_t)d->disks->said;
}

/* Whether the other nodes are to be told something else. */
static bool is_said_anew(struct daemon *d)
{
    struct daemon_disks *all = d->disks;
    enum node_store_state before = all->said;
    struct disk_status s;
    disks_status(all->disks, DISK_OF_STORE, &s);
    all->said = store_say(before, disks_store_is_gone(all->disks), s.found, s.found_for_ms);
    return all->said != before;
}

static void tell_nodes(struct daemon *d)
{
    const struct nodes_self self = daemon_self(d);
    nodes_set_self(d->nodes, &self);
}

/* What the node is said to hold is looked for in it; where it is none of this node's, to be disowned. */
static void identify(struct daemon *d, enum store_identity identity)
{
    disks_identify(d->disks->disks, identity, d->disks->store_id);
    (void)is_said_anew(d);
    daemon_repair_check(d);
}

static void is_not_ours(struct daemon *d, enum store_identity identity)
{
    identify(d, identity);
    d->store.known = false; /* as daemon_disks_open has it */
    tell_nodes(d);
    (void)daemon_publish_plan(d); /* nothing is written to it */
}

/* The data plane has the folders of the old one, and its sandbox knows no others. -EBUSY: another node has
 * what is there. */
static int store_is_another(struct daemon *d)
{
    char err[DISK_TEXT_MAX];
    int result = store_id_renew(&d->folders, &d->store, err, sizeof(err));
    if (result)
        journal_error(d->journal, "disk", "%s", err);
    if (result == -EBUSY) {
        is_not_ours(d, STORE_OTHER);
        return result;
    }
    identify(d, STORE_OURS);
    tell_nodes(d);
    (void)daemon_publish_plan(d);
    supervise_kill(d->supervise, "the store is in another place than the one that it has open");
    return 0;
}

/* At each look for as long as it cannot be opened. */
static void cannot_be_opened(struct daemon *d, int err)
{
    if (err == d->disks->back_error)
        return;
    d->disks->back_error = err;
    journal_error(d->journal, "disk", "%s is there again, and cannot be opened: %s", d->disks->store_path,
                  err == -EOPNOTSUPP ? RESTART_HINT : strerror(-err));
}

static void on_back(void *arg)
{
    struct daemon *d = arg;
    char id[STORE_ID_LEN + 1];
    if (d->phase != DAEMON_SERVING)
        return;
    int err = store_reopen(d);
    if (err) {
        cannot_be_opened(d, err);
        return;
    }
    d->disks->back_error = 0;
    /* It was seen there a moment ago, and may have gone meanwhile. */
    enum store_identity identity = store_place_check(d->folders.state_fd, d->disks->store_fd, false, id);
    if (identity == STORE_OURS)
        (void)store_is_another(d);
    else
        is_not_ours(d, identity);
}

/* Before it is remembered as this node's. */
static int is_free(struct daemon *d)
{
    char err[DISK_TEXT_MAX];
    int result = store_id_renew(&d->folders, &d->store, err, sizeof(err));
    if (result != -EBUSY)
        return 0;
    journal_error(d->journal, "disk", "%s", err);
    is_not_ours(d, STORE_OTHER);
    return result;
}

int daemon_disks_accept(struct daemon *d)
{
    int err = store_reopen(d);
    if (!err)
        err = is_free(d);
    if (!err)
        err = store_place_take(d->folders.state_fd, d->disks->store_fd, d->disks->store_id);
    return err ? err : store_is_another(d);
}

bool daemon_disks_store_is_gone(const struct daemon *d)
{
    return d->disks && disks_store_is_gone(d->disks->disks);
}

bool daemon_disks_store_is_given_up(const struct daemon *d)
{
    struct disk_status s;
    if (!daemon_disks_store_is_gone(d))
        return false;
    disks_status(d->disks->disks, DISK_OF_STORE, &s);
    return journal_now_ms() >= s.since_ms + setting(d, SET_REPAIR_GRACE);
}

/* ------------------------------------------------------------------ looks */

/* What a ring met last. */
static int errno_of_rings(const struct daemon *d)
{
    int err = 0;
    for (uint32_t i = 0; i < d->memory.rings && !err; i++)
        err =
            (int)atomic_exchange_explicit(&d->memory.counters->ring[i].store_errno, 0, memory_order_relaxed);
    return err > 0 && err < 4096 ? err : EIO;
}

static int met_by_rings(struct daemon *d)
{
    struct daemon_disks *all = d->disks;
    uint64_t errors = shared_memory_sum(&d->memory, CTR_STORE_ERRORS);
    uint64_t refused = shared_memory_sum(&d->memory, CTR_STORE_FULL);
    int met = errors > all->errors ? -errno_of_rings(d) : refused > all->refused ? -ENOSPC : 0;
    all->errors = errors;
    all->refused = refused;
    return disks_store_is_gone(all->disks) ? 0 : met; /* those are of our own making */
}

static void publish(struct daemon *d)
{
    struct control_counters *out = &d->memory.counters->control;
    struct disk_status state, store;
    disks_status(d->disks->disks, DISK_OF_STATE, &state);
    disks_status(d->disks->disks, DISK_OF_STORE, &store);
    atomic_store_explicit(&out->state_disk, state.verdict.state, memory_order_relaxed);
    atomic_store_explicit(&out->store_disk, store.verdict.state, memory_order_relaxed);
    atomic_store_explicit(&out->state_free_bytes, state.free_bytes, memory_order_relaxed);
    atomic_store_explicit(&out->store_free_bytes, store.free_bytes, memory_order_relaxed);
    atomic_store_explicit(&out->store_total_bytes, store.total_bytes, memory_order_relaxed);
}

void daemon_disks_tick(struct daemon *d)
{
    struct cluster_status status;
    cluster_status(d->cluster, &status);
    const struct disks_met met = {
        .error = {[DISK_OF_STATE] = status.room ? 0 : -ENOSPC, [DISK_OF_STORE] = met_by_rings(d)},
        .reserve = {[DISK_OF_STORE] = setting(d, SET_STORE_RESERVE)}};
    disks_tick(d->disks->disks, uv_now(&d->loop), &met);
    if (is_said_anew(d))
        tell_nodes(d);
    publish(d);
}

/* ------------------------------------------------------------------ what is shown */

json_t *daemon_disks_json(const struct daemon *d, enum disk disk)
{
    struct disk_status s;
    char since[TIME_TEXT_MAX];
    disks_status(d->disks->disks, disk, &s);
    return json_pack("{s:s, s:s, s:s?, s:s, s:s, s:I, s:I}", "state", state_names[s.verdict.state], "path",
                     s.path, "error", s.verdict.error ? strerrorname_np(-s.verdict.error) : NULL, "text",
                     s.verdict.text, "since", journal_time_text(s.since_ms, since), "free_bytes",
                     (json_int_t)s.free_bytes, "total_bytes", (json_int_t)s.total_bytes);
}

void daemon_disks_warn(const struct daemon *d, json_t *list)
{
    for (unsigned i = 0; i < DISKS; i++) {
        struct disk_status s;
        disks_status(d->disks->disks, (enum disk)i, &s);
        bool back = i == DISK_OF_STORE && d->disks->back_error == -EOPNOTSUPP;
        if (s.verdict.state != DISK_OK)
            json_array_append_new(list, json_sprintf("the %s's disk is %s: %s: %s%s", disk_names[i],
                                                     state_names[s.verdict.state], s.path, s.verdict.text,
                                                     back ? "; it is there again, " RESTART_HINT : ""));
    }
}

/* ------------------------------------------------------------------ life */

static uint64_t on_living(void *arg, uint64_t holder)
{
    const struct cluster_status *self = arg;
    return holder == self->node_id ? holder : 0;
}

/* Before there are nodes: not as one of those that share a store. */
static bool is_said_to_hold(const struct daemon *d)
{
    struct cluster_status self;
    struct state_held held;
    cluster_status(d->cluster, &self);
    return cluster_held(d->cluster, 1, on_living, &self, &held) == 0 && held.blobs > held.living[0];
}

/* By this node, before it was started anew: it holds until the disk has been otherwise for long enough. */
static enum node_store_state said_before(const struct daemon *d)
{
    struct cluster_status self;
    struct node_table table;
    cluster_status(d->cluster, &self);
    if (cluster_nodes(d->cluster, &table))
        return NODE_STORE_WELL;
    const struct node *row = node_find(&table, self.node_id);
    enum node_store_state said = row ? (enum node_store_state)row->store_state : NODE_STORE_WELL;
    node_table_fini(&table);
    return said;
}

void daemon_disks_open(struct daemon *d)
{
    struct daemon_disks *all = calloc(1, sizeof(*all));
    CHECK(all && asprintf(&all->store_path, "%s/store", d->config.state_dir) > 0);
    d->disks = all;
    all->store_fd = store_open(d); /* if not, its disk is told to be failing */
    bool holds = !d->folders.store_made && is_said_to_hold(d);
    enum store_identity identity =
        store_place_check(d->folders.state_fd, all->store_fd, holds, all->store_id);
    d->store.known &= identity == STORE_OURS; /* another one is not said to be this node's */
    if (identity == STORE_OURS)               /* a full disk: the next start does it */
        (void)store_place_take(d->folders.state_fd, all->store_fd, all->store_id);
    all->errors = shared_memory_sum(&d->memory, CTR_STORE_ERRORS);
    all->refused = shared_memory_sum(&d->memory, CTR_STORE_FULL);
    all->disks = disks_new(&(struct disks_config){
        .loop = &d->loop,
        .fd = {[DISK_OF_STATE] = d->folders.state_fd, [DISK_OF_STORE] = all->store_fd},
        .path = {[DISK_OF_STATE] = d->config.state_dir, [DISK_OF_STORE] = all->store_path},
        .store_id = all->store_id,
        .identity = identity,
        .changed = on_changed,
        .back = on_back,
        .arg = d});
    all->said = said_before(d);
    (void)is_said_anew(d);
}

void daemon_disks_close(struct daemon *d)
{
    disks_close(d->disks->disks);
}

void daemon_disks_free(struct daemon *d)
{
    disks_free(d->disks->disks);
    close(d->disks->store_fd);
    free(d->disks->store_path);
    free(d->disks);
    d->disks = NULL;
}
