/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where log bytes go: a file or a descriptor behind a thread of its own, so that a slow disk, a full one or a
 * stopped terminal never stops the loop. What does not fit into its bounded memory, or cannot be written, is
 * dropped and counted.
 */
#ifndef FL_CONTROL_SINK_H
#define FL_CONTROL_SINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sink;

enum { SINK_BYTES_MAX = 4 << 20, SINK_CLOSE_WAIT_MS = 2000 };

/* A file that is appended to and made (0640) if it is missing. 0 or -errno. */
int sink_open(const char *path, struct sink **out);

/* A descriptor that stays the caller's. */
int sink_open_fd(int fd, struct sink **out);

/* Takes whole lines. False: there was no room, and they are dropped. */
bool sink_write(struct sink *sink, const void *data, size_t len);

/* Opens the path again, after what was written before: for rotation by rename. */
void sink_reopen(struct sink *sink);

/* Bytes dropped since the last call. */
uint64_t sink_take_dropped(struct sink *sink);

/* Writes what is waiting, for SINK_CLOSE_WAIT_MS at most, and frees the sink. */
void sink_close(struct sink *sink);

#endif
