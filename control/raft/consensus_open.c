/* SPDX-License-Identifier: Apache-2.0 */
/* The start: from what the disk holds to a state in which everything that is committed is applied. */
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "consensus_internal.h"

enum { FIRST_NODE_ID = 1, FIRST_TERM = 1, FIRST_INDEX = 1 };

static const char log_folder[] = "raft", new_folder[] = "raft.new";

struct loading {
    struct consensus *c;
    struct snapshot_meta snapshot;
    bool has_snapshot;
    char *err;
    size_t err_len;
};

__attribute__((format(printf, 3, 4))) static int fail(struct loading *l, int error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(l->err, l->err_len, format, args);
    va_end(args);
    return error;
}

static bool exists(int dir_fd, const char *name)
{
    return faccessat(dir_fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

static int log_open_in(struct loading *l, int fd)
{
    struct consensus *c = l->c;
    struct log_config config = {.dir_fd = fd,
                                .node_id = c->vote.node_id,
                                .segment_bytes = c->config.segment_bytes,
                                .ops = c->config.ops};
    memcpy(config.cluster_id, c->vote.cluster_id, sizeof(config.cluster_id));
    return log_open(&config, &c->log, l->err, l->err_len);
}

/* An entry that says that this node alone votes. */
static int alone_append(struct loading *l, uint64_t index, uint64_t term)
{
    struct raft_configuration conf;
    struct raft_buffer buf;
    char address[24];
    snprintf(address, sizeof(address), "%llu", (unsigned long long)l->c->vote.node_id);
    raft_configuration_init(&conf);
    int rc = raft_configuration_add(&conf, l->c->vote.node_id, address, RAFT_VOTER);
    if (rc == 0)
        rc = raft_configuration_encode(&conf, &buf);
    raft_configuration_close(&conf);
    if (rc)
        return -ENOMEM;
    struct log_entry entry = {
        .index = index, .term = term, .type = RAFT_CHANGE, .data = buf.base, .len = buf.len};
    rc = log_append(l->c->log, &entry, 1);
    raft_free(buf.base);
    return rc;
}

static int identity_set(struct consensus *c)
{
    const struct consensus_identity *join = c->config.join;
    c->vote = (struct vote){.node_id = FIRST_NODE_ID, .term = FIRST_TERM};
    if (join) {
        c->vote = (struct vote){.node_id = join->node_id};
        memcpy(c->vote.cluster_id, join->cluster_id, sizeof(c->vote.cluster_id));
        return join->node_id ? 0 : -EINVAL;
    }
    if (getrandom(c->vote.cluster_id, sizeof(c->vote.cluster_id), 0) != sizeof(c->vote.cluster_id))
        return -errno;
    return 0;
}

/* Who joins has an empty log, in term 0: it is in no configuration, so that it elects nobody. */
static int folder_fill(struct loading *l, int fd)
{
    struct consensus *c = l->c;
    int rc = identity_set(c);
    if (rc == 0)
        rc = log_open_in(l, fd);
    if (rc == 0 && !c->config.join)
        rc = alone_append(l, FIRST_INDEX, FIRST_TERM);
    if (c->log)
        log_close(c->log);
    c->log = NULL;
    return rc ? rc : vote_write(c->config.ops, fd, &c->vote);
}

static void folder_remove_new(struct consensus *c)
{
    int fd = openat(c->dir_fd, new_folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return;
    static const char *const names[] = {"vote", "vote.new", "segment.new", "log-0000000000000001",
                                        "log-0000000000000002"};
    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        unlinkat(fd, names[i], 0);
    close(fd);
    unlinkat(c->dir_fd, new_folder, AT_REMOVEDIR);
}

/* A new cluster is made aside and gets its name when it is whole: there is no half of one. */
static int cluster_make(struct loading *l)
{
    struct consensus *c = l->c;
    const struct file_ops *ops = c->config.ops;
    for (int i = 0; i < DB_FILES; i++)
        if (exists(c->dir_fd, db_file_name(i)))
            return fail(l, -EUCLEAN, "%s has %s but no log: the folder %s is missing", c->dir,
                        db_file_name(i), log_folder);
    folder_remove_new(c);
    if (mkdirat(c->dir_fd, new_folder, 0700))
        return -errno;
    int fd = openat(c->dir_fd, new_folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = fd < 0 ? -errno : folder_fill(l, fd);
    if (fd >= 0)
        close(fd);
    if (rc == 0)
        rc = ops->rename(ops->arg, c->dir_fd, new_folder, log_folder);
    return rc ? rc : ops->sync(ops->arg, c->dir_fd);
}

/* A state is not another node's because somebody says so. */
static int identity_check(struct loading *l)
{
    const struct consensus *c = l->c;
    const struct consensus_identity *join = c->config.join;
    if (!join || (join->node_id == c->vote.node_id &&
                  memcmp(join->cluster_id, c->vote.cluster_id, sizeof(join->cluster_id)) == 0))
        return 0;
    return fail(l, -EPROTO, "%s has the state of node %llu of %s cluster", c->dir,
                (unsigned long long)c->vote.node_id,
                memcmp(join->cluster_id, c->vote.cluster_id, sizeof(join->cluster_id)) ? "another" : "this");
}

/* Whether the log has the entry that the snapshot ends with. */
static int log_has_snapshot(struct loading *l, bool *out)
{
    struct consensus *c = l->c;
    uint64_t index = l->snapshot.index;
    struct log_entries got;
    /* What is dropped is behind a snapshot, so that it was the same. */
    *out = index < log_first(c->log) && index <= log_last(c->log);
    if (index < log_first(c->log) || index > log_last(c->log))
        return 0;
    int rc = log_read(c->log, index, 0, &got);
    if (rc)
        return fail(l, rc, "entry %llu of the log cannot be read: %s", (unsigned long long)index,
                    strerror(-rc));
    *out = got.entry[0].term == l->snapshot.term;
    log_entries_free(&got);
    return 0;
}

/* A snapshot that came from another node, when the process ended before the log gave way to it: what is in
 * the log is older than it, or was never agreed upon. */
static int log_give_way(struct loading *l)
{
    struct consensus *c = l->c;
    bool has;
    int rc = log_has_snapshot(l, &has);
    if (rc == 0 && !has && log_last(c->log) != l->snapshot.index)
        rc = log_reset(c->log, l->snapshot.index + 1);
    return rc;
}

static int log_load(struct loading *l)
{
    struct consensus *c = l->c;
    int rc = exists(c->dir_fd, log_folder) ? 0 : cluster_make(l);
    if (rc)
        return rc;
    c->raft_fd = openat(c->dir_fd, log_folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (c->raft_fd < 0)
        return fail(l, -errno, "%s/%s: %s", c->dir, log_folder, strerror(errno));
    rc = vote_read(c->raft_fd, &c->vote);
    if (rc)
        return fail(l, rc == -ENOENT ? -EUCLEAN : rc, "%s/%s/vote cannot be read: %s", c->dir, log_folder,
                    strerror(-rc));
    rc = identity_check(l);
    if (rc == 0) {
        rc = follow_marker_read(c->raft_fd, &c->follow.marker);
        c->follow.active = rc == 0;
        if (rc && rc != -ENOENT)
            return fail(l, rc, "%s/%s/follow cannot be read: %s", c->dir, log_folder, strerror(-rc));
        rc = 0;
    }
    if (rc == 0)
        rc = log_open_in(l, c->raft_fd);
    if (rc)
        return rc;
    rc = snapshot_find(c->raft_fd, &l->snapshot);
    l->has_snapshot = rc == 0;
    if (rc && rc != -ENOENT)
        return fail(l, rc, "the newest snapshot is damaged: %s", strerror(-rc));
    if (l->has_snapshot && memcmp(l->snapshot.cluster_id, c->vote.cluster_id, 16) != 0)
        return fail(l, -EUCLEAN, "the snapshot belongs to another cluster");
    rc = 0;
    c->snapshot_index = l->has_snapshot ? l->snapshot.index : 0;
    if (c->follow.active)
        return 0;
    if (l->has_snapshot)
        rc = log_give_way(l);
    if (rc == 0 && log_first(c->log) > c->snapshot_index + 1)
        return fail(l, -EUCLEAN, "the log begins with entry %llu, but the newest snapshot is of entry %llu",
                    (unsigned long long)log_first(c->log), (unsigned long long)c->snapshot_index);
    return rc;
}

static int db_open_here(struct loading *l)
{
    struct consensus *c = l->c;
    struct db_config config = {.dir = c->dir,
                               .node_id = c->vote.node_id,
                               .epochs = c->config.epochs,
                               .map_bytes = c->config.map_bytes};
    memcpy(config.cluster_id, c->vote.cluster_id, sizeof(config.cluster_id));
    return db_open(&config, &c->db, l->err, l->err_len);
}

static int restore(struct loading *l, enum db_file file)
{
    struct consensus *c = l->c;
    int rc = snapshot_restore(c->config.ops, c->raft_fd, &l->snapshot, file, c->dir_fd);
    return rc ? fail(l, rc, "%s cannot be restored from the snapshot: %s", db_file_name(file), strerror(-rc))
              : 0;
}

/* The same for a file that is there: whoever reads it goes on. */
static int restore_in_place(struct loading *l, enum db_file file)
{
    struct consensus *c = l->c;
    char path[4096], folder[SNAPSHOT_NAME_BYTES];
    snapshot_name(l->snapshot.index, folder);
    int len = snprintf(path, sizeof(path), "%s/%s/%s/%s", c->dir, log_folder, folder, db_file_name(file));
    int rc = len < (int)sizeof(path) ? snapshot_check(c->raft_fd, &l->snapshot, file) : -ENAMETOOLONG;
    if (rc == 0)
        rc = db_restore(c->db, file, path);
    return rc ? fail(l, rc, "%s cannot be restored from the snapshot: %s", db_file_name(file), strerror(-rc))
              : 0;
}

/* A file that the log does not reach back to any more takes what the snapshot has. The names last: they are
 * what is read. */
static int db_load(struct loading *l)
{
    struct consensus *c = l->c;
    int rc = 0;
    for (int i = 0; i < DB_FILES && rc == 0; i++)
        if (l->has_snapshot && !exists(c->dir_fd, db_file_name(i)))
            rc = restore(l, i);
    if (rc == 0)
        rc = db_open_here(l);
    for (int i = DB_FILES - 1; i >= 0 && rc == 0; i--)
        if (l->has_snapshot && (c->follow.active ? c->follow.marker.install == l->snapshot.index
                                                 : db_applied(c->db, i).index + 1 < log_first(c->log)))
            rc = restore_in_place(l, i);
    return rc;
}

static bool single_voter(const struct raft *r)
{
    unsigned voters = 0;
    bool me = false;
    for (unsigned i = 0; i < r->configuration.n; i++) {
        voters += r->configuration.servers[i].role == RAFT_VOTER;
        me |= r->configuration.servers[i].id == r->id && r->configuration.servers[i].role == RAFT_VOTER;
    }
    return voters == 1 && me;
}

static int raft_prepare(struct consensus *c)
{
    char address[24];
    snprintf(address, sizeof(address), "%llu", (unsigned long long)c->vote.node_id);
    memset(&c->raft, 0, sizeof(c->raft));
    if (raft_init(&c->raft, NULL, NULL, c->vote.node_id, address))
        return -ENOMEM;
    c->raft.tracer = NULL;
    raft_seed(&c->raft, c->host.random(c->host.arg));
    raft_set_pre_vote(&c->raft, true);
    raft_set_election_timeout(&c->raft, c->config.election_ms);
    /* When to send heartbeats is our tick's to say, so that all followers get theirs at once: the library
     * takes one that it heard nothing of between two of them for slow, and would hold back entries for a
     * heartbeat's time. */
    raft_set_heartbeat_timeout(&c->raft, 1);
    raft_set_max_inflight_entries(&c->raft, INFLIGHT_ENTRIES_MAX);
    raft_set_install_snapshot_timeout(&c->raft, INSTALL_TIMEOUT_MS);
    stand_begin(c);
    return 0;
}

static struct entry *entry_load(const struct log_entry *from)
{
    struct entry *e = calloc(1, sizeof(*e));
    CHECK(e);
    *e = (struct entry){
        .index = from->index, .term = from->term, .type = from->type, .refs = 1, .len = from->len};
    e->data = malloc(from->len + 1);
    CHECK(e->data);
    memcpy(e->data, from->data, from->len);
    return e;
}

/* Reads the next entries up to `last` into the cache. */
static int cache_load(struct loading *l, uint64_t from, uint64_t last)
{
    struct log_entries chunk;
    int rc = log_read(l->c->log, from, BATCH_BYTES_MAX, &chunk);
    if (rc)
        return fail(l, rc, "entry %llu of the log cannot be read: %s", (unsigned long long)from,
                    strerror(-rc));
    for (size_t i = 0; i < chunk.count && chunk.entry[i].index <= last; i++)
        CHECK(cache_add(l->c, entry_load(&chunk.entry[i])) == 0);
    log_entries_free(&chunk);
    return 0;
}

/* Whether the names file, which is usually ahead of the other one, has all of the entry: that is most of
 * what is read at a start. */
static bool is_applied(const struct consensus *c, const struct entry *e)
{
    return e->type == RAFT_COMMAND && e->index <= db_applied(c->db, DB_NAMES).index &&
           state_is_names_only(e->data, e->len);
}

static void cache_pass_over(struct consensus *c)
{
    for (size_t i = 0; i < c->cache_count && is_applied(c, c->cache[i]); i++) {
        c->applied = c->cache[i]->index;
        c->applied_term = c->cache[i]->term;
        feed_keep(c, c->cache[i]);
    }
    cache_release(c);
}

/* Applies what is in the cache, up to what needs not be, here and now: nobody waits for the loop yet. */
static int cache_apply(struct loading *l)
{
    struct consensus *c = l->c;
    struct apply_job job = {.count = 0};
    while (job.count < c->cache_count && job.count < BATCH_ENTRIES_MAX && !is_applied(c, c->cache[job.count]))
        job.count++;
    job.items = calloc(job.count ? job.count : 1, sizeof(*job.items));
    CHECK(job.items);
    for (size_t i = 0; i < job.count; i++)
        job.items[i].entry = c->cache[i];
    int rc = apply_now(c, &job);
    if (rc == 0)
        apply_tell(c, &job);
    free(job.items);
    if (rc)
        return fail(l, rc, "the log cannot be applied behind entry %llu: %s", (unsigned long long)c->applied,
                    rc == -EPROTO ? "an entry is of a version or type that this node does not know"
                                  : strerror(-rc));
    cache_release(c);
    return 0;
}

static int replay(struct loading *l)
{
    struct consensus *c = l->c;
    int rc = 0;
    while (rc == 0 && c->applied < c->commit) {
        if (c->cache_count == 0)
            rc = cache_load(l, c->applied + 1, c->commit);
        if (rc == 0)
            cache_pass_over(c);
        if (rc == 0 && c->cache_count)
            rc = cache_apply(l);
    }
    /* What is not known to be committed waits in memory until it is. */
    uint64_t next = c->applied + 1;
    while (rc == 0 && next <= log_last(c->log)) {
        rc = cache_load(l, next, UINT64_MAX);
        next = cache_last(c) + 1;
    }
    return rc;
}

/* The library learns that its newest configuration is committed when it is applied; after a restart it may be
 * applied already. */
static int configuration_confirm(struct loading *l)
{
    struct consensus *c = l->c;
    uint64_t index = c->raft.configuration_uncommitted_index;
    struct log_entries got;
    if (index == 0 || index > c->applied)
        return 0;
    int rc = log_read(c->log, index, 0, &got);
    if (rc)
        return fail(l, rc, "entry %llu of the log cannot be read", (unsigned long long)index);
    step_configuration(c, index, got.entry[0].data, got.entry[0].len);
    log_entries_free(&got);
    return 0;
}

/* Terms are ours to skip: with nobody else to vote, no promise is broken. A full disk does not keep the node
 * from serving reads. */
static int term_begin(struct loading *l)
{
    struct consensus *c = l->c;
    struct vote next = c->vote;
    next.term++;
    next.voted_for = next.node_id;
    int rc = vote_write(c->config.ops, c->raft_fd, &next);
    if (rc == 0)
        c->vote = next;
    return rc == 0 || rc == -ENOSPC ? 0 : fail(l, rc, "the vote cannot be saved: %s", strerror(-rc));
}

/* Whether the newest configuration on the disk has this node as its only voter. */
static int alone(struct loading *l, bool *out)
{
    struct consensus *c = l->c;
    struct raft probe = {.id = c->vote.node_id};
    struct raft_buffer newest = {l->snapshot.configuration, l->snapshot.configuration_len};
    struct log_entries chunk = {0}, keep = {0};
    int rc = 0;
    for (uint64_t i = log_first(c->log); i && i <= log_last(c->log) && rc == 0;) {
        rc = log_read(c->log, i, BATCH_BYTES_MAX, &chunk);
        bool found = false;
        for (size_t k = 0; k < chunk.count; k++, i++)
            if (chunk.entry[k].type == RAFT_CHANGE) {
                newest = (struct raft_buffer){(void *)(uintptr_t)chunk.entry[k].data, chunk.entry[k].len};
                found = true;
            }
        log_entries_free(found ? &keep : &chunk);
        if (found)
            keep = chunk;
    }
    *out = false;
    if (rc == 0 && newest.base && raft_configuration_decode(&newest, &probe.configuration) == 0) {
        *out = single_voter(&probe);
        raft_configuration_close(&probe.configuration);
    }
    log_entries_free(&keep);
    return rc ? fail(l, rc, "the log cannot be read: %s", strerror(-rc)) : 0;
}

/* Of the last entry that is applied: as the file says that stands there, or the log, or the snapshot; 0: none
 * does, and it is known with the next entry. */
static int term_load(struct loading *l)
{
    struct consensus *c = l->c;
    struct db_applied names = db_applied(c->db, DB_NAMES), secret = db_applied(c->db, DB_PRIVATE);
    struct db_applied behind = names.index < secret.index ? names : secret;
    struct log_entries got;
    if (c->applied == behind.index || c->applied < log_first(c->log)) {
        bool snapshot = l->has_snapshot && l->snapshot.index == c->applied;
        c->applied_term = c->applied == behind.index ? behind.term : snapshot ? l->snapshot.term : 0;
        return 0;
    }
    int rc = log_read(c->log, c->applied, 0, &got);
    if (rc)
        return fail(l, rc, "entry %llu of the log cannot be read", (unsigned long long)c->applied);
    c->applied_term = got.entry[0].term;
    log_entries_free(&got);
    return 0;
}

static int start(struct loading *l)
{
    struct consensus *c = l->c;
    bool single = false;
    uint64_t names = db_applied(c->db, DB_NAMES).index, secret = db_applied(c->db, DB_PRIVATE).index;
    c->applied = names < secret ? names : secret;
    apply_look(c);
    c->persisted = log_last(c->log);
    /* A file that was restored may be further: what it has already is passed over when it comes again. */
    if (c->applied > c->persisted)
        c->applied = c->persisted;
    int rc = term_load(l);
    if (rc == 0)
        rc = alone(l, &single);
    if (rc == 0 && single)
        rc = term_begin(l);
    /* A promise to a leader is not on the disk: whoever starts anew keeps what it may have promised. */
    if (rc == 0 && !single && c->vote.term)
        c->lease.promised_until_ms = consensus_now_ms(c) + c->config.lease_ms;
    if (rc == 0)
        rc = raft_prepare(c);
    if (rc == 0)
        rc = step_start(c, l->has_snapshot ? &l->snapshot : NULL, l->err, l->err_len);
    if (rc == 0)
        rc = replay(l);
    if (rc == 0)
        rc = configuration_confirm(l);
    c->counts.log_bytes = log_bytes(c->log);
    c->capacity = log_capacity(c->log);
    return rc;
}

int consensus_raft_reopen(struct consensus *c, const struct snapshot_meta *snapshot, char *err,
                          size_t err_len)
{
    raft_close(&c->raft, NULL);
    int rc = raft_prepare(c);
    return rc ? rc : step_start(c, snapshot, err, err_len);
}

/* A node that follows has no log that counts; what it has is what its files have. */
static int start_following(struct loading *l)
{
    struct consensus *c = l->c;
    int rc = raft_prepare(c);
    if (rc == 0)
        rc = follow_load(c, l->has_snapshot ? &l->snapshot : NULL, l->err, l->err_len);
    return rc;
}

int consensus_load(struct consensus *c, char *err, size_t err_len)
{
    struct loading l = {.c = c, .err = err, .err_len = err_len};
    int rc = log_load(&l);
    if (rc == 0)
        rc = db_load(&l);
    if (rc == 0)
        apply_index_look(c);
    if (rc == 0)
        rc = c->follow.active ? start_following(&l) : start(&l);
    if (rc == 0 && c->dead)
        rc = fail(&l, -EUCLEAN, "the log and the Raft library contradict each other");
    if (rc == 0 && l.has_snapshot)
        snapshot_note(c, &l.snapshot);
    snapshot_meta_free(&l.snapshot);
    return rc;
}

/* The term first: whoever else may still stand for election in it finds that it is taken. */
int consensus_force(struct consensus *c, char *err, size_t err_len)
{
    struct loading l = {.c = c, .err = err, .err_len = err_len};
    if (!exists(c->dir_fd, log_folder))
        return fail(&l, -ENOENT, "%s has no state of a cluster", c->dir);
    int rc = log_load(&l);
    if (rc == 0 && c->follow.active)
        return fail(&l, -EINVAL,
                    "%s is a worker's and has no log: a manager has to be the one that survives, or a backup "
                    "(`fairlead backup restore`)",
                    c->dir);
    struct vote next = c->vote;
    next.term++;
    next.voted_for = next.node_id;
    if (rc == 0)
        rc = vote_write(c->config.ops, c->raft_fd, &next);
    if (rc == 0)
        rc = alone_append(&l, log_last(c->log) + 1, next.term);
    if (rc && !err[0])
        fail(&l, rc, "%s/%s cannot be written: %s", c->dir, log_folder, strerror(-rc));
    snapshot_meta_free(&l.snapshot);
    return rc;
}
