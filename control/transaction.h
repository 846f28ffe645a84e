/* SPDX-License-Identifier: Apache-2.0 */
/* A transaction in the making: commands that are agreed upon together become its parts (CMD_TRANSACTION,
 * cmd.h). */
#ifndef FL_CONTROL_TRANSACTION_H
#define FL_CONTROL_TRANSACTION_H

#include <stddef.h>
#include <stdint.h>

#include "cmd.h"

struct transaction {
    struct wire_writer w; /* malloc'd, of whoever ends it; w.failed: it did not fit */
    size_t count_at;      /* of the number of parts in w */
    uint32_t count;
};

/* cap: bytes, of all of it. */
void transaction_begin(struct transaction *t, const char *actor, const char *source, size_t cap);

/* What is behind the command's head becomes a part. Takes cmd. */
void transaction_add(struct transaction *t, void *cmd, size_t len);

/* Writes the number of parts. */
void transaction_end(struct transaction *t);

#endif
