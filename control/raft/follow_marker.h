/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The file "follow" in the log's folder: this node takes no part in Raft, has no log, and follows one. It
 * comes to be, and goes, as one file: that is the moment at which the node becomes the one or the other.
 */
#ifndef FL_RAFT_FOLLOW_MARKER_H
#define FL_RAFT_FOLLOW_MARKER_H

#include <stdint.h>

#include "file_ops.h"

struct follow_marker {
    uint64_t install; /* this snapshot's files are to be put in place; 0: none */
    uint64_t configuration_index;
    void *configuration; /* the newest of Raft's that was seen, libraft's encoding; malloc'd, NULL: none */
    size_t configuration_len;
};

void follow_marker_free(struct follow_marker *marker);

/* Copies the configuration in. */
void follow_marker_configure(struct follow_marker *marker, uint64_t index, const void *data, size_t len);

/* Durable when it returns 0; else -errno, and what was there stays. */
int follow_marker_write(const struct file_ops *ops, int dir_fd, const struct follow_marker *marker);
/* 0; -ENOENT: the node takes part in Raft; -EUCLEAN, -EPROTO for another version, -errno. */
int follow_marker_read(int dir_fd, struct follow_marker *marker);
/* 0 or -errno. */
int follow_marker_remove(const struct file_ops *ops, int dir_fd);

#endif
