/* SPDX-License-Identifier: Apache-2.0 */
#include "restore.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <raft.h>

#include "control/state/node.h"
#include "db.h"
#include "log.h"
#include "snapshot.h"
#include "vote.h"

struct restoring {
    const char *dir;
    const struct restore_from *from;
    struct vote vote; /* of the new cluster */
    struct db *db;
    struct db_applied applied;
    struct raft_buffer alone; /* the configuration of this node alone */
    char *err;
    size_t err_len;
};

static int fail(struct restoring *r, int rc, const char *what)
{
    if (!r->err[0])
        snprintf(r->err, r->err_len, "%s: %s", what, strerror(-rc));
    return rc;
}

static struct db_applied later(struct db_applied a, struct db_applied b)
{
    return (struct db_applied){a.index > b.index ? a.index : b.index, a.term > b.term ? a.term : b.term};
}

/* The files become the new cluster's, at one position. */
static int files_adopt(struct restoring *r)
{
    struct db_config config = {.dir = r->dir, .node_id = r->from->node_id};
    struct kv *kv;
    memcpy(config.cluster_id, r->from->cluster_id, sizeof(config.cluster_id));
    int rc = db_open(&config, &r->db, r->err, r->err_len);
    if (rc)
        return rc;
    r->applied = later(later(db_applied(r->db, DB_NAMES), db_applied(r->db, DB_PRIVATE)),
                       (struct db_applied){r->from->index, r->from->term});
    db_set_identity(r->db, r->vote.cluster_id, r->vote.node_id);
    rc = db_begin(r->db, &kv);
    if (rc == 0)
        rc = state_restore_alone(kv, r->vote.node_id);
    if (rc == 0)
        rc = db_commit(r->db, r->applied, true);
    else
        db_abort(r->db);
    return rc ? fail(r, rc, "the state cannot be written") : 0;
}

static int alone_make(struct restoring *r)
{
    struct raft_configuration conf;
    char address[24];
    snprintf(address, sizeof(address), "%llu", (unsigned long long)r->vote.node_id);
    raft_configuration_init(&conf);
    int rc = raft_configuration_add(&conf, r->vote.node_id, address, RAFT_VOTER);
    if (rc == 0)
        rc = raft_configuration_encode(&conf, &r->alone);
    raft_configuration_close(&conf);
    return rc ? -ENOMEM : 0;
}

/* A log that begins behind what the files have, with the entry that says who votes. */
static int log_make(struct restoring *r, int fd)
{
    struct log_config config = {.dir_fd = fd, .node_id = r->vote.node_id, .ops = &file_ops_system};
    struct log_entry entry = {.index = r->applied.index + 1,
                              .term = r->vote.term,
                              .type = RAFT_CHANGE,
                              .data = r->alone.base,
                              .len = r->alone.len};
    struct log *log;
    memcpy(config.cluster_id, r->vote.cluster_id, sizeof(config.cluster_id));
    int rc = log_open(&config, &log, r->err, r->err_len);
    if (rc)
        return rc;
    rc = log_reset(log, entry.index);
    if (rc == 0)
        rc = log_append(log, &entry, 1);
    log_close(log);
    return rc ? fail(r, rc, "the log cannot be written") : 0;
}

static int snapshot_make(struct restoring *r, int fd)
{
    struct snapshot_meta meta = {.node_id = r->vote.node_id,
                                 .index = r->applied.index,
                                 .term = r->applied.term,
                                 .configuration_index = r->applied.index,
                                 .configuration = r->alone.base,
                                 .configuration_len = r->alone.len};
    memcpy(meta.cluster_id, r->vote.cluster_id, sizeof(meta.cluster_id));
    int rc = snapshot_take(&file_ops_system, fd, r->db, 0, 0, &meta);
    return rc ? fail(r, rc, "the snapshot cannot be written") : 0;
}

static int raft_make(struct restoring *r)
{
    char path[4096];
    int len = snprintf(path, sizeof(path), "%s/raft", r->dir);
    if (len >= (int)sizeof(path) || mkdir(path, 0700))
        return fail(r, len >= (int)sizeof(path) ? -ENAMETOOLONG : -errno, path);
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return fail(r, -errno, path);
    r->vote.term = r->applied.term + 1;
    int rc = snapshot_make(r, fd);
    if (rc == 0)
        rc = log_make(r, fd);
    if (rc == 0)
        rc = vote_write(&file_ops_system, fd, &r->vote);
    close(fd);
    return rc ? fail(r, rc, "the log cannot be written") : 0;
}

int restore_make(const char *dir, const struct restore_from *from, char *err, size_t err_len)
{
    struct restoring r = {.dir = dir, .from = from, .err = err, .err_len = err_len};
    err[0] = '\0';
    r.vote.node_id = from->node_id;
    if (getrandom(r.vote.cluster_id, sizeof(r.vote.cluster_id), 0) != sizeof(r.vote.cluster_id))
        return fail(&r, -errno, "no random bytes");
    int rc = alone_make(&r);
    if (rc == 0)
        rc = files_adopt(&r);
    if (rc == 0)
        rc = raft_make(&r);
    if (r.db)
        db_close(r.db);
    raft_free(r.alone.base);
    return rc;
}
