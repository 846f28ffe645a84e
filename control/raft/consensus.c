/* SPDX-License-Identifier: Apache-2.0 */
/* The object: proposals in, answers out, the entries that are on their way, and the end. */
#include "consensus.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "consensus_internal.h"

void entry_put(struct entry *e)
{
    CHECK(e->refs > 0);
    if (--e->refs)
        return;
    free(e->data);
    free(e);
}

void entry_list_init(struct entry_list *list)
{
    memset(list, 0, sizeof(*list));
    list->tail = &list->head;
}

void entry_list_add(struct entry_list *list, struct entry *e)
{
    e->next = NULL;
    *list->tail = e;
    list->tail = &e->next;
    list->count++;
    list->bytes += e->len;
}

struct entry *entry_list_take(struct entry_list *list)
{
    struct entry *e = list->head;
    if (!e)
        return NULL;
    list->head = e->next;
    if (!list->head)
        list->tail = &list->head;
    list->count--;
    list->bytes -= e->len;
    return e;
}

/* Answers whoever proposed the entry, if somebody waits still. */
void entry_answer(struct consensus *c, struct entry *e, enum cmd_status status, const void *detail,
                  size_t len)
{
    consensus_done done = e->done;
    if (!done)
        return;
    e->done = NULL;
    if (e->index) {
        c->under_way--;
        c->under_way_bytes -= e->len;
    }
    if (status == CMD_NO_LEADER || status == CMD_NO_SPACE || status == CMD_BUSY)
        c->counts.refused++;
    done(e->arg, status, e->index, detail, len);
}

/* After this nothing is proposed, persisted or applied any more; jobs that run are waited for by the close.
 */
void consensus_die(struct consensus *c, const char *format, ...)
{
    char why[256];
    va_list args;
    if (c->dead)
        return;
    c->dead = true;
    va_start(args, format);
    vsnprintf(why, sizeof(why), format, args);
    va_end(args);
    struct entry *e;
    while ((e = entry_list_take(&c->waiting))) {
        entry_answer(c, e, CMD_NO_LEADER, NULL, 0);
        entry_put(e);
    }
    for (size_t i = 0; i < c->cache_count; i++)
        entry_answer(c, c->cache[i], CMD_UNKNOWN_OUTCOME, NULL, 0);
    if (c->config.fatal && c->handle)
        c->config.fatal(c->config.arg, why);
}

/* Refusals are told from the loop: never from inside consensus_propose(). */
static void refuse(struct consensus *c, struct entry *e, enum cmd_status status)
{
    e->status = status;
    entry_list_add(&c->refused, e);
}

enum { PAGE_BYTES_ASSUMED = 8192 /* what a row's change may dirty in a file, its branch pages included */ };

/* Commands that take less than they give back. A full disk must not keep anybody from them. */
static bool makes_room(uint16_t type)
{
    return type == CMD_BLOB_UNLINK || type == CMD_MANIFEST_DELETE || type == CMD_TAG_DELETE ||
           type == CMD_SETTING_UNSET || type == CMD_SETTING_SET || type == CMD_SERVICE_RM ||
           type == CMD_BACKEND_RM || type == CMD_BACKEND_ADMIN || type == CMD_NODE_SET ||
           type == CMD_NODE_RM || type == CMD_TOKEN_RM || type == CMD_TAGS_EXPIRE || type == CMD_POLICY_RM ||
           type == CMD_NOTIFY_CURSOR || type == CMD_NOTIFY_RM || type == CMD_MIRROR_RM ||
           type == CMD_SOURCE_RM || type == CMD_GC_REPO || type == CMD_GC_BLOBS;
}

/* A node of the cluster that is too old would have to stop at a command that it does not know. */
static bool all_know(struct consensus *c, struct entry *e)
{
    uint32_t needed = state_version_needed(e->data, e->len);
    struct node_cluster cluster = {.version = CLUSTER_VERSION_FIRST};
    struct kv *kv;
    if (needed <= CLUSTER_VERSION_FIRST)
        return true;
    struct db_view *view = db_view_begin(c->db, &kv);
    int rc = view ? state_cluster_read(kv, &cluster) : -ENOMEM;
    if (view)
        db_view_end(view);
    if (rc == 0 && (cluster.version >= needed || (cluster.nodes == 0 && needed > 2)))
        return true; /* or there is no other node */
    snprintf(e->refusal, sizeof(e->refusal),
             "the cluster runs version %u, and this needs %u; make it a cluster, or upgrade the older nodes",
             cluster.version, needed);
    return false;
}

/*
 * LMDB writes every page that it changes anew before it frees the old one, so to delete a large repository
 * takes much room at first. Once agreed upon it would hold up everything behind it: so it is looked at
 * before.
 */
static bool repo_delete_fits(struct consensus *c, const struct entry *e)
{
    struct state_cmd cmd;
    struct names_repo row = {0};
    struct kv_bytes value;
    struct kv *kv;
    char err[8];
    struct db_view *view = db_view_begin(c->db, &kv);
    if (!view)
        return false;
    if (state_parse(e->data, e->len, &cmd, err, sizeof(err)) == 0 &&
        kv_get(kv, NAMES_REPOS, (struct kv_bytes){cmd.repo.data, cmd.repo.len}, &value) == 0 &&
        value.len == sizeof(row))
        memcpy(&row, value.data, sizeof(row));
    db_view_end(view);
    uint64_t bytes = (2 * row.tags + 4 * row.manifests + 2 * row.blobs) * PAGE_BYTES_ASSUMED;
    if (bytes > c->counts.names_bytes)
        bytes = c->counts.names_bytes;
    return db_room(c->db, bytes + c->config.reserve_bytes / 2) == 0;
}

static enum cmd_status admit(struct consensus *c, struct entry *e)
{
    enum cmd_status status =
        state_check(e->data, e->len, &c->config.settings, e->refusal, sizeof(e->refusal));
    if (status != CMD_OK)
        return status;
    if (c->dead || c->closing || !c->leads)
        return CMD_NO_LEADER;
    const uint8_t *at = (const uint8_t *)e->data + 6;
    uint16_t type = (uint16_t)(at[0] | at[1] << 8);
    if (!all_know(c, e))
        return CMD_TOO_NEW;
    if (c->waiting.count + c->under_way >= CONSENSUS_PROPOSALS_MAX ||
        c->waiting.bytes + c->under_way_bytes + e->len > CONSENSUS_PROPOSAL_BYTES_MAX)
        return CMD_BUSY;
    if (c->stalled || c->apply_stalled || (c->no_room && type != CMD_REPO_DELETE && !makes_room(type)))
        return CMD_NO_SPACE;
    return type == CMD_REPO_DELETE && !repo_delete_fits(c, e) ? CMD_NO_SPACE : CMD_OK;
}

static struct entry *entry_make(enum raft_entry_type type, void *data, size_t len, consensus_done done,
                                void *arg)
{
    struct entry *e = calloc(1, sizeof(*e));
    CHECK(e && data);
    *e =
        (struct entry){.refs = 1, .type = (uint16_t)type, .data = data, .len = len, .done = done, .arg = arg};
    return e;
}

void consensus_wake(struct consensus *c)
{
    if (c->handle && !c->told_closed)
        c->host.wake(c->handle);
}

void consensus_propose(struct consensus *c, void *cmd, size_t len, consensus_done done, void *arg)
{
    struct entry *e = entry_make(RAFT_COMMAND, cmd, len, done, arg);
    CHECK(done);
    c->counts.proposals++;
    enum cmd_status status = admit(c, e);
    if (status == CMD_OK)
        entry_list_add(&c->waiting, e);
    else
        refuse(c, e, status);
    consensus_wake(c);
}

void consensus_propose_entry(struct consensus *c, enum raft_entry_type type, void *data, size_t len,
                             consensus_done done, void *arg)
{
    entry_list_add(&c->waiting, entry_make(type, data, len, done, arg));
    consensus_wake(c);
}

void consensus_tell(struct consensus *c, consensus_changed done, void *arg, int result)
{
    struct told *t = calloc(1, sizeof(*t));
    CHECK(t);
    *t = (struct told){.done = done, .arg = arg, .result = result};
    *c->told_tail = t;
    c->told_tail = &t->next;
    consensus_wake(c);
}

static void results_tell(struct consensus *c)
{
    struct told *t;
    while ((t = c->told)) {
        c->told = t->next;
        if (!c->told)
            c->told_tail = &c->told;
        t->done(t->arg, t->result);
        free(t);
    }
}

static void leader_tell(struct consensus *c)
{
    struct consensus_status s;
    consensus_status(c, &s);
    if (s.leader_id == c->leader_told || !c->config.leader)
        return;
    c->leader_told = s.leader_id;
    c->config.leader(c->config.arg, s.leader_id);
}

static void refusals_tell(struct consensus *c)
{
    struct entry *e;
    while ((e = entry_list_take(&c->refused))) {
        entry_answer(c, e, e->status, e->refusal, strlen(e->refusal));
        entry_put(e);
    }
}

static void waiting_refuse(struct consensus *c, enum cmd_status status)
{
    struct entry *e;
    while ((e = entry_list_take(&c->waiting)))
        refuse(c, e, status);
}

/* What is left when nothing is under way. */
static void parts_free(struct consensus *c)
{
    free(c->cache);
    give_forget(c);
    take_forget(c);
    follow_free(c);
    feed_free(c);
    peers_free(c);
    if (c->db)
        db_close(c->db);
    if (c->log)
        log_close(c->log);
    if (c->raft.address)
        raft_close(&c->raft, NULL);
    if (c->raft_fd >= 0)
        close(c->raft_fd);
    if (c->dir_fd >= 0)
        close(c->dir_fd);
    free(c->dir);
    free(c);
}

void consensus_on_closed(struct consensus *c)
{
    struct kv *kv;
    lease_end_lead(c);
    change_lost(c);
    cache_truncate(c, 0, CMD_UNKNOWN_OUTCOME);
    refusals_tell(c);
    results_tell(c);
    /* The next start then has nothing to replay. */
    if (!c->dead && !c->installing && !apply_files_ahead(c) && db_begin(c->db, &kv) == 0)
        db_commit(c->db, db_applied(c->db, DB_NAMES), true);
    void (*closed)(void *arg) = c->closed;
    void *arg = c->closed_arg;
    parts_free(c);
    if (closed)
        closed(arg);
}

void consensus_abandon(struct consensus *c)
{
    struct entry *e;
    c->handle = NULL;
    lease_end_lead(c);
    change_lost(c);
    while ((e = entry_list_take(&c->waiting)))
        refuse(c, e, CMD_UNKNOWN_OUTCOME);
    cache_truncate(c, 0, CMD_UNKNOWN_OUTCOME);
    refusals_tell(c);
    results_tell(c);
    disk_job_clear(&c->disk);
    apply_job_clear(&c->apply);
    snapshot_meta_free(&c->snapshot.meta);
    parts_free(c);
}

/* True when nothing runs. */
static bool idle(const struct consensus *c)
{
    return !c->disk.busy && !c->apply.busy && !c->snapshot.busy && !c->giving.count && !take_busy(c);
}

/* True when nothing that is agreed upon, or about to be, is left to do, or can be done. */
static bool finished(const struct consensus *c)
{
    if (c->dead || c->stalled || c->apply_stalled || c->installing || consensus_now_ms(c) >= c->close_by_ms)
        return true;
    if (c->leads && c->under_way)
        return false;
    return cache_last(c) == c->persisted && (c->applied >= c->commit || !c->leads);
}

static void close_check(struct consensus *c)
{
    if (!c->closing || c->told_closed)
        return;
    /* Somebody has to look at the clock. */
    consensus_retry(c);
    if (!idle(c) || !finished(c))
        return;
    if (!c->dead && (c->transfer.busy || transfer_for_close(c)))
        return;
    c->told_closed = true;
    c->host.close(c->handle);
}

void consensus_pump(struct consensus *c)
{
    if (!c->leads || c->stalled || c->apply_stalled)
        waiting_refuse(c, c->leads ? CMD_NO_SPACE : CMD_NO_LEADER);
    if (!c->dead) {
        change_pump(c);
        members_pump(c);
        /* Before the log's lane is given the next round: where proposals never end, who is behind would find
         * it busy each time. */
        feed_pump(c);
        submit_pump(c);
        send_commit(c);
        disk_pump(c);
        apply_pump(c);
        install_pump(c);
        follow_pump(c);
        snapshot_pump(c);
        lease_pump(c);
        lease_publish(c);
    }
    leader_tell(c);
    refusals_tell(c);
    results_tell(c);
    close_check(c);
}

void consensus_on_wake(struct consensus *c)
{
    consensus_pump(c);
}

static uint64_t tick_ms(const struct consensus *c)
{
    unsigned lease = c->config.lease_ms / 4;
    return lease < c->config.heartbeat_ms ? lease : c->config.heartbeat_ms;
}

static void on_tick(struct consensus *c)
{
    c->host.timer(c->handle, CONSENSUS_TIMER_TICK, tick_ms(c));
    stand_look_at_clock(c, true);
    if (c->dead)
        return;
    if (c->leads)
        step_timeout(c);
    lease_tick(c);
    lease_publish(c);
    snapshot_tick(c);
}

/* While the disk is full: everything that failed for it is tried again. */
static void on_retry(struct consensus *c)
{
    /* Its rows take room: what is agreed upon goes first, and what is kept for that stays. */
    c->index.due = !c->apply_stalled && !c->no_room;
    c->retry_armed = c->stalled = c->apply_stalled = false;
    if (!c->disk.busy)
        c->disk.reserve_bytes = 1;
}

void consensus_on_timer(struct consensus *c, enum consensus_timer which)
{
    if (c->told_closed)
        return;
    if (which == CONSENSUS_TIMER_TICK)
        on_tick(c);
    else if (which == CONSENSUS_TIMER_RETRY)
        on_retry(c);
    else if (!c->dead && !c->follow.active) {
        stand_look_at_clock(c, false);
        step_timeout(c);
    }
    consensus_pump(c);
}

/* Sets the timer to when the library is to be called next; one that leads others works by the tick. */
void consensus_arm(struct consensus *c)
{
    uint64_t now = consensus_now_ms(c);
    if (!c->handle || c->told_closed)
        return;
    if (c->follow.active || (c->leads && c->raft.configuration.n > 1)) {
        c->host.timer_stop(c->handle, CONSENSUS_TIMER_RAFT);
        return;
    }
    uint64_t due = c->leads ? raft_timeout(&c->raft) : stand_due_ms(c);
    c->host.timer(c->handle, CONSENSUS_TIMER_RAFT, due > now ? due - now : 0);
}

void consensus_retry(struct consensus *c)
{
    if (!c->handle || c->told_closed || c->retry_armed)
        return;
    c->retry_armed = true;
    c->host.timer(c->handle, CONSENSUS_TIMER_RETRY, RETRY_MS);
}

static int handle_open(struct consensus *c)
{
    int rc = c->host.open(c->host.arg, c, &c->handle);
    if (rc)
        return rc;
    consensus_arm(c);
    if (c->transport.send)
        c->host.timer(c->handle, CONSENSUS_TIMER_TICK, tick_ms(c));
    apply_index_look(c);
    return 0;
}

static void defaults_set(struct consensus_config *config)
{
    if (!config->ops)
        config->ops = &file_ops_system;
    if (!config->snapshot_entries)
        config->snapshot_entries = CONSENSUS_SNAPSHOT_ENTRIES;
    if (!config->trailing_entries)
        config->trailing_entries = CONSENSUS_TRAILING_ENTRIES;
    if (!config->snapshot_bytes)
        config->snapshot_bytes = 1ull << 30;
    if (!config->reserve_bytes)
        config->reserve_bytes = 32ull << 20;
    if (!config->election_ms)
        config->election_ms = ELECTION_TIMEOUT_MS;
    if (!config->heartbeat_ms)
        config->heartbeat_ms = HEARTBEAT_MS;
    if (!config->lease_ms)
        config->lease_ms = LEASE_MS;
    /* A promise that lasted longer than the wait for an election would hold it up. */
    if (config->lease_ms >= config->election_ms)
        config->lease_ms = config->election_ms / 2;
    if (config->lease_ms > LEASE_PROMISE_MS_MAX)
        config->lease_ms = LEASE_PROMISE_MS_MAX;
}

static struct consensus *make(const struct consensus_config *config)
{
    struct consensus *c = calloc(1, sizeof(*c));
    if (!c)
        return NULL;
    c->config = *config;
    c->dir_fd = c->raft_fd = -1;
    c->apply_limit = BATCH_ENTRIES_MAX;
    entry_list_init(&c->waiting);
    entry_list_init(&c->refused);
    c->told_tail = &c->told;
    defaults_set(&c->config);
    if (config->transport)
        c->transport = *config->transport;
    c->host = config->host ? *config->host : consensus_host_uv;
    if (!config->host)
        c->host.arg = config->loop;
    c->disk.c = c->apply.c = c->snapshot.c = c;
    c->dir = strdup(config->dir);
    if (!c->dir) {
        free(c);
        return NULL;
    }
    return c;
}

static int dir_open(struct consensus *c, char *err, size_t err_len)
{
    err[0] = '\0';
    c->dir_fd = open(c->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (c->dir_fd >= 0)
        return 0;
    int rc = -errno;
    snprintf(err, err_len, "%s: %s", c->dir, strerror(-rc));
    return rc;
}

int consensus_open(const struct consensus_config *config, struct consensus **out, char *err, size_t err_len)
{
    struct consensus *c = make(config);
    if (!c)
        return -ENOMEM;
    int rc = dir_open(c, err, err_len);
    if (rc == 0)
        rc = consensus_load(c, err, err_len);
    if (rc == 0)
        rc = handle_open(c);
    if (rc) {
        if (!err[0])
            snprintf(err, err_len, "the state in %s cannot be opened: %s", c->dir, strerror(-rc));
        cache_truncate(c, 0, CMD_UNKNOWN_OUTCOME);
        parts_free(c);
        return rc;
    }
    c->config.join = NULL; /* the caller's */
    *out = c;
    feed_open(c);
    /* The first round looks for room on the disk and reserves some. */
    c->disk.reserve_bytes = 1;
    consensus_wake(c);
    return 0;
}

void consensus_close(struct consensus *c, void (*closed)(void *arg), void *arg)
{
    CHECK(!c->closing);
    c->closing = true;
    c->closed = closed;
    c->closed_arg = arg;
    c->close_by_ms = consensus_now_ms(c) + 2 * c->config.election_ms;
    waiting_refuse(c, CMD_NO_LEADER);
    consensus_wake(c);
}

void consensus_set_snapshot_entries(struct consensus *c, uint64_t entries)
{
    c->config.snapshot_entries = entries ? entries : CONSENSUS_SNAPSHOT_ENTRIES;
}

int consensus_force_new(const char *dir, char *err, size_t err_len)
{
    const struct consensus_config config = {.dir = dir};
    struct consensus *c = make(&config);
    if (!c)
        return -ENOMEM;
    int rc = dir_open(c, err, err_len);
    if (rc == 0)
        rc = consensus_force(c, err, err_len);
    parts_free(c);
    return rc;
}
