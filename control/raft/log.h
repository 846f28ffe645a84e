/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Raft log on the disk: a folder of segment files that are written front to back and never changed.
 *
 * Segment "log-SEQUENCE": a head (magic, version, cluster id, node id, salt, checksum), then records, then
 * zeros: its space is allocated in advance, so that an append does not change the file's size and cannot meet
 * a full disk. Record: struct record_head in log_segment.c and the data, padded to 8 bytes. Checksums start
 * from the segment's random salt, so that bytes a client sent never look like a record.
 *
 * One append is one write and one fdatasync, all of it in one segment. A power cut may leave any part of the
 * last append: at open, a record that is damaged or missing ends the log there, unless a record of a *later*
 * append stands behind it; that cannot come from a power cut, and the log refuses to open.
 *
 * Not thread-safe: one call at a time. -EIO from anything that syncs is final: the kernel may have dropped
 * what it could not write, so a second sync would lie. The log then refuses everything, and the node must
 * stop.
 */
#ifndef FL_RAFT_LOG_H
#define FL_RAFT_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "file_ops.h"

enum { LOG_SEGMENT_BYTES = 8 << 20 };

struct log;

struct log_config {
    int dir_fd; /* borrowed while the log is open */
    uint8_t cluster_id[16];
    uint64_t node_id;
    uint32_t segment_bytes; /* 0: LOG_SEGMENT_BYTES. A larger record gets a segment of its own size. */
    const struct file_ops *ops;
};

struct log_entry {
    uint64_t index, term;
    uint16_t type; /* enum raft_entry_type */
    const void *data;
    size_t len;
};

/* Entries read from the disk; their data lies in `memory`. */
struct log_entries {
    struct log_entry *entry;
    size_t count;
    void *memory;
};

/* Opens the log or makes an empty one. -EUCLEAN: damaged, -EPROTO: of another version or cluster; err says
 * what and where. */
int log_open(const struct log_config *config, struct log **out, char *err, size_t err_len);
void log_close(struct log *log);

/* Index of the first and of the last entry; last is first - 1 if there is none (both 0: never had one). */
uint64_t log_first(const struct log *log);
uint64_t log_last(const struct log *log);
/* Bytes of disk space. */
uint64_t log_bytes(const struct log *log);

/* Bytes that one entry of that length takes. */
size_t log_entry_bytes(size_t len);

/* Makes sure that one append of that many bytes (log_entry_bytes() each) fits. 0, -ENOSPC, -errno. */
int log_reserve(struct log *log, size_t bytes);
/* The largest append that fits for sure. */
size_t log_capacity(const struct log *log);

/* Appends entries (each index one more than the last) durably. 0: all are on the disk. -ENOSPC: none is, and
 * it may be tried again. Any other error is final. */
int log_append(struct log *log, const struct log_entry *entries, size_t count);

/* Removes the entry `index` and all behind it. An error is final. */
int log_truncate(struct log *log, uint64_t index);

/* Gives back the space of entries up to `index`, as far as whole segments allow. An error is harmless. */
int log_drop(struct log *log, uint64_t index);

/* Removes everything: the next entry is `next` (after a snapshot came from elsewhere). An error is final. */
int log_reset(struct log *log, uint64_t next);

/* Reads entries from `from` on, at least one, then as many as stay below bytes_max. 0, -ENOENT if there is no
 * such entry, -EUCLEAN, -errno. The caller frees with log_entries_free(). */
int log_read(struct log *log, uint64_t from, size_t bytes_max, struct log_entries *out);
void log_entries_free(struct log_entries *entries);

#endif
