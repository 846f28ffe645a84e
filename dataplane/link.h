/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A ring's channel to control: proposals out, results in (msg.h). The only way a ring changes names.
 */
#ifndef FL_LINK_H
#define FL_LINK_H

#include <stddef.h>
#include <stdint.h>

#include "cmd.h"
#include "dataplane/waiter.h"

struct ring;
struct channel;

/*
 * A proposal under way; embedded by the caller and kept until waiter.wake, which comes exactly once, with an enum
 * cmd_status as res (CMD_UNKNOWN_OUTCOME after registry.commit_timeout, or when control went away).
 */
struct proposal {
    struct waiter waiter;    /* set waiter.wake before the call */
    uint64_t index;          /* of the log entry, for CMD_OK */
    uint8_t detail[16 * DIGEST_PACKED_MAX]; /* what came with the status */
    size_t detail_len;
    uint64_t id;
    uint64_t deadline_ms;
    struct proposal *next;
};

/*
 * Sends a command (copied before the return). Returns 0, or at once: -ENOTCONN (control is away), -EAGAIN (the queue to control
 * is full), -EMSGSIZE.
 */
int channel_propose(struct channel *c, struct proposal *p, const void *cmd, size_t len);

#endif
