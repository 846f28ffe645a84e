/* SPDX-License-Identifier: Apache-2.0 */
/* What the daemon does for the blobs of this node's store: scrubs, and the healing of what they find. */
#ifndef FL_CONTROL_DAEMON_BLOBS_H
#define FL_CONTROL_DAEMON_BLOBS_H

#include "control/daemon.h"
#include "control/damage.h"
#include "control/scrub.h"

struct daemon_blobs {
    struct scrub *scrub;
    struct damage *damage;
};

void daemon_blobs_open(struct daemon *d);  /* after the jobs */
void daemon_blobs_close(struct daemon *d); /* before them; no answer may come any more */

/* Once a second. */
void daemon_blobs_tick(struct daemon *d);

/* Whether this node's copies count, and the cluster's version lets commands say so. */
bool daemon_blobs_counts(struct daemon *d, uint64_t self);
/* What this node is as a holder (stores.h). */
uint64_t daemon_blobs_holder(struct daemon *d, uint64_t self);

/* What a command says of who holds a blob (CMD_BLOB_COPIES). */
struct blob_copies {
    const struct digest *digest;
    const struct cmd_holders *gained, *lost, *needed;
};
#define REPAIR_SOURCE "repair" /* of commands of whole repairs, which are no events one by one */
void daemon_blobs_say(struct daemon *d, const char *source, const struct blob_copies *copies,
                      cluster_done done, void *arg);

/* 1: the store has its file, of this size; 0: not. Looks at the disk. */
int daemon_blobs_has_file(const struct daemon *d, const struct digest *digest, uint64_t size);

/* A job is about to be sent: a file that cannot be read is none that could be kept. */
void daemon_blobs_order(struct daemon *d, struct frame_job *job);

/* What came of a verification that is not JOB_OK. */
void daemon_blobs_found(struct daemon *d, const struct digest *digest, uint64_t size, enum job_result result);

#endif
