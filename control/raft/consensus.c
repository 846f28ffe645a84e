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

struct entry *cache_get(const struct consensus *c, uint64_t index)
{
    if (c->cache_count == 0 || index < c->cache_first || index >= c->cache_first + c->cache_count)
        return NULL;
    return c->cache[index - c->cache_first];
}

int cache_add(struct consensus *c, struct entry *e)
{
    if (c->cache_count == c->cache_cap) {
        size_t cap = c->cache_cap ? 2 * c->cache_cap : 256;
        struct entry **grown = realloc(c->cache, cap * sizeof(struct entry *));
        if (!grown)
            return -ENOMEM;
        c->cache = grown;
        c->cache_cap = cap;
    }
    if (c->cache_count == 0)
        c->cache_first = e->index;
    CHECK(e->index == c->cache_first + c->cache_count);
    c->cache[c->cache_count++] = e;
    return 0;
}

void cache_truncate(struct consensus *c, uint64_t index, enum cmd_status status)
{
    while (c->cache_count && cache_last(c) >= index) {
        struct entry *e = c->cache[--c->cache_count];
        entry_answer(c, e, status, NULL, 0);
        entry_put(e);
    }
}

void cache_release(struct consensus *c)
{
    size_t n = 0;
    while (n < c->cache_count && c->cache[n]->index <= c->applied && c->cache[n]->index <= c->persisted)
        entry_put(c->cache[n++]);
    c->cache_count -= n;
    c->cache_first += n;
    if (n)
        memmove(c->cache, c->cache + n, c->cache_count * sizeof(struct entry *));
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
    if (c->config.fatal && c->looping)
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
           type == CMD_NODE_RM || type == CMD_TOKEN_RM;
}

/* A node of the cluster that is too old would have to stop at a command that it does not know. */
static bool all_know(struct consensus *c, uint16_t type, struct entry *e)
{
    uint32_t needed = node_version_of_command(type);
    struct node_cluster cluster = {.version = CLUSTER_VERSION_FIRST};
    struct kv *kv;
    if (needed <= CLUSTER_VERSION_FIRST)
        return true;
    struct db_view *view = db_view_begin(c->db, &kv);
    int rc = view ? state_cluster_read(kv, &cluster) : -ENOMEM;
    if (view)
        db_view_end(view);
    if (rc == 0 && cluster.version >= needed)
        return true;
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
    if (!all_know(c, type, e))
        return CMD_TOO_NEW;
    if (c->waiting.count + c->under_way >= CONSENSUS_PROPOSALS_MAX ||
        c->waiting.bytes + c->under_way_bytes + e->len > CONSENSUS_PROPOSAL_BYTES_MAX)
        return CMD_BUSY;
    if (c->stalled || c->apply_stalled || (c->no_room && type != CMD_REPO_DELETE && !makes_room(type)))
        return CMD_NO_SPACE;
    return type == CMD_REPO_DELETE && !repo_delete_fits(c, e) ? CMD_NO_SPACE : CMD_OK;
}

void consensus_propose(struct consensus *c, void *cmd, size_t len, consensus_done done, void *arg)
{
    struct entry *e = calloc(1, sizeof(*e));
    CHECK(e && cmd && done);
    e->refs = 1;
    e->type = RAFT_COMMAND;
    e->data = cmd;
    e->len = len;
    e->done = done;
    e->arg = arg;
    c->counts.proposals++;
    enum cmd_status status = admit(c, e);
    if (status == CMD_OK)
        entry_list_add(&c->waiting, e);
    else
        refuse(c, e, status);
    if (!c->told_closed)
        uv_async_send(&c->wake);
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

static void close_finish(struct consensus *c)
{
    cache_truncate(c, 0, CMD_UNKNOWN_OUTCOME);
    refusals_tell(c);
    free(c->cache);
    if (c->db) {
        struct kv *kv;
        /* The next start then has nothing to replay. */
        if (!c->dead && db_begin(c->db, &kv) == 0)
            db_commit(c->db, db_applied(c->db, DB_NAMES), true);
        db_close(c->db);
    }
    if (c->log)
        log_close(c->log);
    raft_close(&c->raft, NULL);
    if (c->raft_fd >= 0)
        close(c->raft_fd);
    close(c->dir_fd);
    void (*closed)(void *arg) = c->closed;
    void *arg = c->closed_arg;
    free(c->dir);
    free(c);
    if (closed)
        closed(arg);
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct consensus *c = handle->data;
    if (--c->handles == 0)
        close_finish(c);
}

/* True when nothing runs and nothing that is agreed upon is left to do, or can be done. */
static bool idle(const struct consensus *c)
{
    if (c->disk.busy || c->apply.busy || c->snapshot.busy)
        return false;
    bool stuck = c->dead || c->stalled || c->apply_stalled;
    return stuck || (cache_last(c) == c->persisted && (c->applied == c->commit || !c->leads));
}

static void close_check(struct consensus *c)
{
    if (!c->closing || c->told_closed || !idle(c))
        return;
    c->told_closed = true;
    c->handles = 3;
    uv_close((uv_handle_t *)&c->timer, on_handle_closed);
    uv_close((uv_handle_t *)&c->retry, on_handle_closed);
    uv_close((uv_handle_t *)&c->wake, on_handle_closed);
}

void consensus_pump(struct consensus *c)
{
    if (!c->leads || c->stalled || c->apply_stalled)
        waiting_refuse(c, c->leads ? CMD_NO_SPACE : CMD_NO_LEADER);
    if (!c->dead) {
        submit_pump(c);
        disk_pump(c);
        apply_pump(c);
        snapshot_pump(c);
    }
    refusals_tell(c);
    close_check(c);
}

static void on_wake(uv_async_t *handle)
{
    consensus_pump(handle->data);
}

static void on_timer(uv_timer_t *handle)
{
    struct consensus *c = handle->data;
    if (!c->dead && !c->closing)
        step_timeout(c);
    consensus_pump(c);
}

/* While the disk is full: everything that failed for it is tried again. */
static void on_retry(uv_timer_t *handle)
{
    struct consensus *c = handle->data;
    c->stalled = c->apply_stalled = false;
    if (!c->disk.busy)
        c->disk.reserve_bytes = 1;
    consensus_pump(c);
}

uint64_t consensus_now_ms(void)
{
    return uv_hrtime() / 1000000;
}

/* Sets the timer to when the library wants to be called next. */
void consensus_arm(struct consensus *c)
{
    uint64_t now = consensus_now_ms(), due = raft_timeout(&c->raft);
    if (!c->looping || c->told_closed)
        return;
    uv_update_time(c->config.loop);
    uv_timer_start(&c->timer, on_timer, due > now ? due - now : 0, 0);
}

void consensus_retry(struct consensus *c)
{
    if (c->looping && !c->told_closed && !uv_is_active((uv_handle_t *)&c->retry))
        uv_timer_start(&c->retry, on_retry, RETRY_MS, 0);
}

static int handles_init(struct consensus *c)
{
    int rc = uv_async_init(c->config.loop, &c->wake, on_wake);
    if (rc)
        return rc;
    uv_timer_init(c->config.loop, &c->timer);
    uv_timer_init(c->config.loop, &c->retry);
    c->timer.data = c->retry.data = c->wake.data = c;
    c->looping = true;
    consensus_arm(c);
    return 0;
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
    if (!c->config.ops)
        c->config.ops = &file_ops_system;
    if (!c->config.snapshot_entries)
        c->config.snapshot_entries = CONSENSUS_SNAPSHOT_ENTRIES;
    if (!c->config.snapshot_bytes)
        c->config.snapshot_bytes = 1ull << 30;
    if (!c->config.reserve_bytes)
        c->config.reserve_bytes = 32ull << 20;
    if (!c->config.election_ms)
        c->config.election_ms = ELECTION_TIMEOUT_MS;
    if (!c->config.heartbeat_ms)
        c->config.heartbeat_ms = HEARTBEAT_MS;
    c->dir = strdup(config->dir);
    if (!c->dir) {
        free(c);
        return NULL;
    }
    return c;
}

static void unmake(struct consensus *c)
{
    cache_truncate(c, 0, CMD_UNKNOWN_OUTCOME);
    free(c->cache);
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

int consensus_open(const struct consensus_config *config, struct consensus **out, char *err, size_t err_len)
{
    struct consensus *c = make(config);
    if (!c)
        return -ENOMEM;
    err[0] = '\0';
    int rc = 0;
    c->dir_fd = open(c->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (c->dir_fd < 0) {
        rc = -errno;
        snprintf(err, err_len, "%s: %s", c->dir, strerror(-rc));
    }
    if (rc == 0)
        rc = consensus_load(c, err, err_len);
    if (rc == 0)
        rc = handles_init(c);
    if (rc) {
        if (!err[0])
            snprintf(err, err_len, "the state in %s cannot be opened: %s", c->dir, strerror(-rc));
        unmake(c);
        return rc;
    }
    *out = c;
    /* The first round looks for room on the disk and reserves some. */
    c->disk.reserve_bytes = 1;
    uv_async_send(&c->wake);
    return 0;
}

void consensus_close(struct consensus *c, void (*closed)(void *arg), void *arg)
{
    CHECK(!c->closing);
    c->closing = true;
    c->closed = closed;
    c->closed_arg = arg;
    waiting_refuse(c, CMD_NO_LEADER);
    uv_async_send(&c->wake);
}

void consensus_set_snapshot_entries(struct consensus *c, uint64_t entries)
{
    c->config.snapshot_entries = entries ? entries : CONSENSUS_SNAPSHOT_ENTRIES;
}

void consensus_status(const struct consensus *c, struct consensus_status *out)
{
    struct raft *r = (struct raft *)(uintptr_t)&c->raft;
    raft_id leader;
    const char *address;
    *out = c->counts;
    memcpy(out->cluster_id, c->vote.cluster_id, sizeof(out->cluster_id));
    raft_leader(r, &leader, &address);
    out->node_id = c->vote.node_id;
    out->leader_id = c->dead ? 0 : leader;
    out->term = raft_current_term(r);
    out->last_index = cache_last(c);
    out->commit_index = c->commit;
    out->applied_index = c->applied;
    out->snapshot_index = c->snapshot_index;
    out->waiting = c->waiting.count + c->under_way;
    out->leads = c->leads && !c->dead;
    out->room = !c->no_room && !c->stalled && !c->apply_stalled;
    out->state = raft_state_name(raft_state(r));
}

struct db_view *consensus_view_begin(struct consensus *c, struct kv **kv)
{
    return db_view_begin(c->db, kv);
}

void consensus_view_end(struct db_view *view)
{
    db_view_end(view);
}

int consensus_setting_each(struct consensus *c, consensus_setting each, void *arg)
{
    uint8_t key_data[NAMES_KEY_MAX];
    size_t prefix = state_setting_key(key_data, "", 0);
    struct kv_bytes at = {key_data, prefix}, key, value;
    struct kv *kv;
    struct db_view *view = db_view_begin(c->db, &kv);
    if (!view)
        return -ENOMEM;
    int rc;
    while ((rc = kv_seek(kv, PRIVATE_DATA, at, true, &key, &value)) == 0) {
        if (key.len <= prefix || memcmp(key.data, key_data, prefix) != 0)
            break;
        each(arg, (const char *)key.data + prefix, key.len - prefix, value.data, value.len);
        /* Nothing is written through a view: the row stays where it is. */
        at = key;
    }
    db_view_end(view);
    return rc == -ENOENT ? 0 : rc;
}

int consensus_setting_get(struct consensus *c, const char *key, size_t key_len, char *value, size_t *len)
{
    uint8_t key_data[NAMES_KEY_MAX];
    struct kv_bytes found;
    struct kv *kv;
    if (key_len > STATE_SETTING_KEY_MAX)
        return -ENOENT;
    struct db_view *view = db_view_begin(c->db, &kv);
    if (!view)
        return -ENOMEM;
    size_t n = state_setting_key(key_data, key, key_len);
    int rc = kv_get(kv, PRIVATE_DATA, (struct kv_bytes){key_data, n}, &found);
    if (rc == 0 && found.len > *len)
        rc = -ENOBUFS;
    if (rc == 0) {
        memcpy(value, found.data, found.len);
        *len = found.len;
    }
    db_view_end(view);
    return rc;
}
