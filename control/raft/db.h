/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The state on the disk: the two LMDB files, names.mdb (0640, the data plane reads it) and private.mdb
 * (0600).
 *
 * Durability: MDB_NOMETASYNC. A commit syncs the data pages and then writes the root without a sync of its
 * own: a power cut can undo the last transaction but never leaves a root without its pages (LMDB's contract).
 * What is undone, the log replays; each file says with names_meta how far it is, and private.mdb, which is
 * written only when something in it changes, may stay behind for long.
 *
 * Readers: names.mdb is opened *with* LMDB's locks, in a lock file that only control can open; the data plane
 * opens it without. Control pins pages on behalf of the rings with read transactions of its own: see
 * db_pin.c.
 *
 * One thread at a time, except for db_copy(), views, db_sizes() and db_room(), which other threads may use
 * meanwhile.
 */
#ifndef FL_RAFT_DB_H
#define FL_RAFT_DB_H

#include <stdbool.h>

#include "control/state/kv.h"

struct db;
struct db_view;

struct db_config {
    const char *dir;
    uint8_t cluster_id[16];
    uint64_t node_id;
    struct names_epochs *epochs; /* borrowed; NULL: no readers */
    uint64_t map_bytes;          /* 0: NAMES_MAP_BYTES */
    uint64_t reader_bound_ms;    /* a ring may read one transaction for so long; 0: DB_READER_BOUND_MS */
};

enum { DB_READER_BOUND_MS = 5000 };

enum db_file { DB_NAMES, DB_PRIVATE, DB_FILES };

/* How far a file is. */
struct db_applied {
    uint64_t index, term;
};

struct db_sizes {
    uint64_t bytes[DB_FILES]; /* used in each file */
    uint64_t map_bytes;       /* upper end of each */
    uint64_t disk_free_bytes; /* what an ordinary user may still use of the file system */
};

/* Name of a file in the state's folder. */
const char *db_file_name(enum db_file file);

/* Opens both files, making those that are missing. -EUCLEAN: damaged or of another cluster or node, -EPROTO:
 * of another version; err says which. */
int db_open(const struct db_config *config, struct db **out, char *err, size_t err_len);
void db_close(struct db *db);

struct db_applied db_applied(const struct db *db, enum db_file file);
/* The same when the daemon started: what is behind it was applied by this process. */
struct db_applied db_opened_at(const struct db *db, enum db_file file);

/* Begins a transaction over both files. Errors as of db_commit(). */
int db_begin(struct db *db, struct kv **kv);
/*
 * Commits, with the new position in every file that was written (one that is ahead stays so), and tells the
 * readers. 0; -ENOSPC, -EAGAIN (the disk refused a write): nothing of names.mdb was committed and the same
 * entries may be tried again, from db_begin() on, which opens the files again if it has to; anything else,
 * from both: what is on the disk is not known, the node must stop. touch_private: write the position into
 * private.mdb too, and sync both files to the last byte.
 */
int db_commit(struct db *db, struct db_applied applied, bool touch_private);
void db_abort(struct db *db);

/* Rings that have read one transaction for longer than the bound, as bits; each is told once. They hold up
 * the reuse of pages and after twice the bound are not waited for any more: their data plane must be killed.
 */
uint64_t db_stuck_rings(struct db *db);

/*
 * A read-only view of each file as of the last commit. Any thread, used by one at a time; it keeps pages from
 * being reused, so it ends soon. NULL without memory, or while the files cannot be opened again.
 */
struct db_view *db_view_begin(struct db *db, struct kv **kv);
void db_view_end(struct db_view *view);

/* Writes a compact copy of a file as of its last commit to fd. Any thread. 0 or -errno. */
int db_copy(struct db *db, enum db_file file, int fd);

/*
 * Replaces all that is in a file by what the file at `path` has (a copy that db_copy() made, here or on
 * another node of the cluster), position included, durably. Readers see what was, or what comes. No
 * transaction is under way. 0; -ENOSPC, -EAGAIN: nothing happened; -EUCLEAN, -EPROTO: the copy is none of
 * this cluster's, or of another version; anything else as of db_commit().
 */
int db_restore(struct db *db, enum db_file file, const char *path);

/* From the next commit on the files are this cluster's and node's. */
void db_set_identity(struct db *db, const uint8_t cluster_id[16], uint64_t node_id);

/* Whether NAMES_INDEX has all its rows, as far as is committed; what the next commits say of it. */
bool db_index_is_whole(const struct db *db);
void db_index_set(struct db *db, bool whole);

int db_sizes(struct db *db, struct db_sizes *out);

/* 0 if at least reserve_bytes of disk space and of both maps are left, else -ENOSPC; -errno. */
int db_room(struct db *db, uint64_t reserve_bytes);

#endif
