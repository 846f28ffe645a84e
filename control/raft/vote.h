/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The file "vote": who this node is and what it promised (Raft, figure 3.1: currentTerm and votedFor).
 * Replaced as a whole; a promise is durable before anybody hears of it. It needs no room on the disk but the
 * first time: a voter whose disk is full still takes part in elections.
 */
#ifndef FL_RAFT_VOTE_H
#define FL_RAFT_VOTE_H

#include <stdint.h>

#include "file_ops.h"

struct vote {
    uint8_t cluster_id[16];
    uint64_t node_id;
    uint64_t term;
    uint64_t voted_for; /* node id, 0: nobody in this term */
};

/* 0 or -errno; on an error the old promise stands. -EIO means that the disk cannot be trusted any more. */
int vote_write(const struct file_ops *ops, int dir_fd, const struct vote *vote);

/* 0, -ENOENT, -EUCLEAN for a damaged file, -EPROTO for a version that this node does not know, -errno. */
int vote_read(int dir_fd, struct vote *vote);

#endif
