/* SPDX-License-Identifier: Apache-2.0 */
/* A state folder made of the two files of a backup. */
#ifndef FL_RAFT_RESTORE_H
#define FL_RAFT_RESTORE_H

#include <stddef.h>
#include <stdint.h>

/* Where the backup came from. */
struct restore_from {
    uint8_t cluster_id[16];
    uint64_t node_id;
    uint64_t index, term;
};

/*
 * dir holds names.mdb and private.mdb as they were copied, and nothing else of a state. Makes it the state of
 * a new cluster, in which this node, with the id it had, is alone: another cluster id, a log, a vote and a
 * snapshot. 0 or -errno with a text. On an error dir is good for nothing.
 */
int restore_make(const char *dir, const struct restore_from *from, char *err, size_t err_len);

#endif
