/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Snapshots: a folder "snapshot-INDEX" with a compact copy of both LMDB files and a file "meta" that names,
 * measures and hashes them. The handle that a peer would be given is what meta says; the bytes are the files.
 *
 * The copy is made on another thread while the writer goes on: it holds a read transaction in LMDB's own
 * table, so the writer reuses none of its pages and the file grows a little meanwhile. Each copied file is at
 * the snapshot's index or a little behind it in time, that is, at a later index; its own position says where,
 * and replaying from the snapshot's index skips what a file already has.
 */
#ifndef FL_RAFT_SNAPSHOT_H
#define FL_RAFT_SNAPSHOT_H

#include "db.h"
#include "file_ops.h"

enum { SNAPSHOT_CONFIGURATION_MAX = 64 << 10, SNAPSHOT_NAME_BYTES = 40 };

struct snapshot_meta {
    uint8_t cluster_id[16];
    uint64_t node_id;     /* who made it */
    uint64_t index, term; /* of the last entry it includes */
    uint64_t configuration_index;
    uint8_t *configuration; /* libraft's encoding; malloc'd, belongs to this struct */
    size_t configuration_len;
    uint64_t bytes[DB_FILES];
    uint8_t sha256[DB_FILES][32];
};

void snapshot_meta_free(struct snapshot_meta *meta);

/* The bytes of the file "meta", which are the snapshot's handle as well: malloc'd. 0, -ENOMEM, -EOVERFLOW. */
int snapshot_meta_encode(const struct snapshot_meta *meta, void **out, size_t *len);
/* 0, -EUCLEAN, -EPROTO for another version, -ENOMEM. Nothing is to be freed after an error. */
int snapshot_meta_decode(const void *data, size_t len, struct snapshot_meta *meta);

/*
 * Makes a snapshot of what is committed; meta says index, term, configuration and identity, the rest is
 * filled in. Removes those before the index `keep`. 0, -ENOSPC if the disk has less room than the copies and
 * reserve_bytes need, -errno. Blocks for as long as the copy takes: for a worker thread.
 */
int snapshot_take(const struct file_ops *ops, int dir_fd, struct db *db, uint64_t reserve_bytes,
                  uint64_t keep, struct snapshot_meta *meta);

/* Removes the snapshots before the index `keep`. 0 or -errno. */
int snapshot_remove_older(const struct file_ops *ops, int dir_fd, uint64_t keep);

/* A descriptor of one of the snapshot's files, to be read, or -errno. */
int snapshot_file_open(int dir_fd, uint64_t index, enum db_file file);

/* Name of the folder: room for SNAPSHOT_NAME_BYTES. */
void snapshot_name(uint64_t index, char *out);
void snapshot_folder_remove(const struct file_ops *ops, int dir_fd, const char *name);
/* Writes the file "meta" into the folder, durably. */
int snapshot_meta_write(const struct file_ops *ops, int dir_fd, const struct snapshot_meta *meta);

/* The newest complete snapshot. 0, -ENOENT, -EUCLEAN if the newest is damaged, -EPROTO for an unknown
 * version. */
int snapshot_find(int dir_fd, struct snapshot_meta *meta);

/* Whether the snapshot's copy of a file is what its hash says. 0, -EUCLEAN, -errno. */
int snapshot_check(int dir_fd, const struct snapshot_meta *meta, enum db_file file);

/* Puts the snapshot's copy of one file, after its hash was checked, into the state's folder. 0, -EUCLEAN,
 * -errno. */
int snapshot_restore(const struct file_ops *ops, int dir_fd, const struct snapshot_meta *meta,
                     enum db_file file, int state_dir_fd);

#endif
