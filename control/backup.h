/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Backups: one encrypted file with the state and, if wanted, the blobs of this node. Made while everything
 * goes on, on a thread of its own; put back by a fairleadd that does nothing else.
 *
 * What stands in the stream of backup_file.h: records {u8 kind}; kind 1: a file {u16 length of its name,
 * name, u64 size, bytes}; kind 0: the end. Names: names.mdb, private.mdb, blobs/ALGORITHM/2 HEX/HEX.
 */
#ifndef FL_CONTROL_BACKUP_H
#define FL_CONTROL_BACKUP_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

struct cluster;
struct backup;

enum {
    BACKUP_PATH_MAX = 4096,
    BACKUP_NAME_MAX = 256, /* of a file in it */
    BACKUP_PASSPHRASE_MAX = 1024,
    BACKUP_PASSPHRASE_MIN = 8,
    BACKUP_ERROR_MAX = 512,
    BACKUP_RECORD_END = 0,
    BACKUP_RECORD_FILE = 1,
};

struct backup_request {
    const char *path; /* absolute; there must be no such file */
    const char *passphrase;
    bool blobs;
};

struct backup_status {
    bool running, done; /* neither: none was asked for since the start */
    char path[BACKUP_PATH_MAX];
    uint64_t files, bytes;
    char error[BACKUP_ERROR_MAX]; /* of the last one, "" if it was made */
};

/* blobs_fd: the folder of the store's blobs; state_fd: for copies that have no name. Borrowed. */
struct backup *backup_new(uv_loop_t *loop, struct cluster *cluster, int state_fd, int blobs_fd);

/* 0, -EBUSY: one is being made. */
int backup_start(struct backup *b, const struct backup_request *request);
void backup_status(struct backup *b, struct backup_status *out);
/* One with blobs is being made: none of them may go. */
bool backup_needs_blobs(const struct backup *b);

/* Gives up what is being made and frees; stopped() comes now or from the loop. The cluster closes after it.
 */
void backup_stop(struct backup *b, void (*stopped)(void *arg), void *arg);

struct restore_request {
    const char *path;
    const char *passphrase;
    const char *state; /* folder to make; NULL: the file is only read and checked */
    bool change_owner; /* blobs belong to uid, gid */
    uint32_t uid, gid;
};

/* What was found in it. */
struct restore_result {
    char created[32], cluster[33]; /* when, and of which cluster */
    uint64_t node_id, index, files, bytes, blobs;
};

/* 0 or -errno with a text; then there is no state folder that was not there before. Blocks. */
int backup_restore(const struct restore_request *request, struct restore_result *out,
                   char err[BACKUP_ERROR_MAX]);

#endif
