/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A snapshot of another node on its way in: pieces are written to a folder aside, hashed as they come, and
 * the folder gets its name when all of it is there, is what the handle says, and is durable. Blocks: for a
 * worker thread, one call at a time.
 */
#ifndef FL_RAFT_SNAPSHOT_RECEIVE_H
#define FL_RAFT_SNAPSHOT_RECEIVE_H

#include "snapshot.h"

struct snapshot_receive;

/* Begins in the log's folder; what an earlier try left is removed. Borrows meta while it lasts. 0, -ENOSPC if
 * the disk has no room for it and reserve_bytes, -errno. */
int snapshot_receive_begin(const struct file_ops *ops, int dir_fd, const struct snapshot_meta *meta,
                           uint64_t reserve_bytes, struct snapshot_receive **out);

/* The next piece: of the file that is not complete yet, at its end. 0, -EINVAL for any other, -errno. */
int snapshot_receive_piece(struct snapshot_receive *r, enum db_file file, uint64_t offset, const void *data,
                           size_t len);

/* All pieces came. 0, -EUCLEAN if they are not what the handle says, -errno. */
int snapshot_receive_end(struct snapshot_receive *r);

/* What did not come to its end is removed. */
void snapshot_receive_free(struct snapshot_receive *r);

#endif
