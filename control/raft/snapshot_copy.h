/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A copy of a file of the state as a good neighbour makes it: hashed as it comes from LMDB, so that nothing
 * is read twice; given to the disk as it is written, so that no append to the log waits behind a whole copy;
 * with little of the processor; and without a place in the page cache afterwards.
 */
#ifndef FL_RAFT_SNAPSHOT_COPY_H
#define FL_RAFT_SNAPSHOT_COPY_H

#include "db.h"
#include "file_ops.h"

/* A compact copy as of the last commit into fd, an empty file, durably. 0, -ENOSPC, -errno. Blocks. */
int snapshot_copy(const struct file_ops *ops, struct db *db, enum db_file file, int fd, uint8_t sha256[32],
                  uint64_t *bytes);

#endif
