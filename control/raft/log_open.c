/* SPDX-License-Identifier: Apache-2.0 */
/* Opening a log: every record of every segment is read and checked. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "log_internal.h"

struct opening {
    struct log *log;
    uint64_t last_term;
    char *err;
    size_t err_len;
};

__attribute__((format(printf, 3, 4))) static int fail(struct opening *o, int error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(o->err, o->err_len, format, args);
    va_end(args);
    return error;
}

static bool name_sequence(const char *name, uint64_t *sequence)
{
    char again[SEGMENT_NAME_BYTES];
    if (sscanf(name, "log-%16" SCNx64, sequence) != 1)
        return false;
    segment_name(*sequence, again);
    return strcmp(name, again) == 0;
}

static int by_sequence(const void *a, const void *b)
{
    const struct segment *x = a, *y = b;
    return (x->sequence > y->sequence) - (x->sequence < y->sequence);
}

static int find_segments(struct opening *o)
{
    int fd = openat(o->log->config.dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc = 0;
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *entry;
    if (!dir)
        return fail(o, -errno, "the log's folder cannot be read: %s", strerror(errno));
    while ((entry = readdir(dir)) && rc == 0) {
        uint64_t sequence;
        if (!name_sequence(entry->d_name, &sequence))
            continue;
        struct segment *s = log_segment_add(o->log);
        if (s)
            s->sequence = sequence;
        else
            rc = -ENOMEM;
    }
    closedir(dir);
    if (o->log->count)
        qsort(o->log->segment, o->log->count, sizeof(struct segment), by_sequence);
    return rc;
}

static int check_head(struct opening *o, struct segment *s, const uint8_t *data, size_t len)
{
    const struct log_config *config = &o->log->config;
    struct segment_head head;
    int rc = segment_head_get(&o->log->crc, data, len, &head);
    if (rc == -EPROTO)
        return fail(o, rc, "log segment %" PRIu64 " is of a version that this node does not know",
                    s->sequence);
    if (rc)
        return fail(o, rc, "the head of log segment %" PRIu64 " is damaged", s->sequence);
    if (memcmp(head.cluster_id, config->cluster_id, sizeof(head.cluster_id)) != 0 ||
        head.node_id != config->node_id)
        return fail(o, -EPROTO, "log segment %" PRIu64 " belongs to another cluster or node", s->sequence);
    s->salt = head.salt;
    return 0;
}

/* Reads good records in a row; *state is what stands behind them. */
static int read_records(struct opening *o, struct segment *s, const uint8_t *data, size_t len,
                        enum record_state *state)
{
    struct log *log = o->log;
    struct record_head head;
    while ((*state = record_get(&log->crc, s->salt, data, len, s->used, &head)) == RECORD_GOOD) {
        if ((log->last && head.index != log->last + 1) || head.index == 0 || head.term < o->last_term)
            return fail(o, -EUCLEAN, "log entry %" PRIu64 " follows entry %" PRIu64 " in segment %" PRIu64,
                        head.index, log->last, s->sequence);
        if (segment_note(s, s->used))
            return -ENOMEM;
        if (s->first == 0)
            s->first = head.index;
        log->last = head.index;
        o->last_term = head.term;
        s->used += (uint32_t)log_entry_bytes(head.len);
    }
    return 0;
}

static int scan_segment(struct opening *o, struct segment *s, const uint8_t *data, size_t len)
{
    struct log *log = o->log;
    struct record_head later;
    enum record_state state;
    int rc = check_head(o, s, data, len);
    s->bytes = (uint32_t)len;
    s->used = SEGMENT_HEAD_BYTES;
    if (rc == 0)
        rc = read_records(o, s, data, len, &state);
    if (rc)
        return rc;
    /* Nothing says which entry an empty log begins with but the first append that left a trace. */
    uint64_t missing = log->last + 1;
    if (log->last == 0 && record_find_later(&log->crc, s->salt, data, len, s->used, 0, &later))
        missing = later.batch_first;
    if (record_find_later(&log->crc, s->salt, data, len, s->used, missing, &later))
        return fail(o, -EUCLEAN,
                    "log entry %" PRIu64 " is damaged (segment %" PRIu64 ", byte %u) but entry %" PRIu64
                    " behind it, which was written later, is not: the disk lost what it had confirmed",
                    missing, s->sequence, s->used, later.index);
    for (size_t i = s->used; i < len && !log->tail_dirty; i++)
        log->tail_dirty = data[i] != 0;
    return 0;
}

static int open_segment(struct opening *o, size_t at)
{
    struct log *log = o->log;
    char name[SEGMENT_NAME_BYTES];
    void *data;
    size_t len;
    segment_name(log->segment[at].sequence, name);
    int rc = file_read_all(log->config.dir_fd, name, UINT32_MAX, &data, &len);
    if (rc)
        return fail(o, rc, "%s cannot be read: %s", name, strerror(-rc));
    rc = scan_segment(o, &log->segment[at], data, len);
    free(data);
    return rc;
}

/* Damage in a segment that others with entries follow is never the last append's. */
static int open_segments(struct opening *o)
{
    struct log *log = o->log;
    for (size_t i = 0; i < log->count; i++) {
        bool dirty = log->tail_dirty;
        log->tail_dirty = false;
        int rc = open_segment(o, i);
        if (rc)
            return rc;
        if (log->segment[i].count == 0) {
            log->tail_dirty |= dirty;
            continue;
        }
        if (dirty)
            return fail(o, -EUCLEAN, "log segment %" PRIu64 " is damaged at byte %u, and others follow it",
                        log->segment[log->tail].sequence, log->segment[log->tail].used);
        log->tail = i;
    }
    return 0;
}

/* Keeps one empty segment behind the tail and removes others. */
static void drop_spares(struct log *log)
{
    char name[SEGMENT_NAME_BYTES];
    while (log->count > log->tail + 2) {
        segment_name(log->segment[log->count - 1].sequence, name);
        log->config.ops->unlink(log->config.ops->arg, log->config.dir_fd, name);
        log_segment_forget(log, log->count - 1);
    }
}

int log_open(const struct log_config *config, struct log **out, char *err, size_t err_len)
{
    struct log *log = calloc(1, sizeof(*log));
    struct opening o = {.log = log, .err = err, .err_len = err_len};
    if (!log)
        return -ENOMEM;
    log->config = *config;
    log->tail_fd = -1;
    if (log->config.segment_bytes == 0)
        log->config.segment_bytes = LOG_SEGMENT_BYTES;
    crc32c_init(&log->crc);
    int rc = find_segments(&o);
    if (rc == 0)
        rc = open_segments(&o);
    if (rc) {
        log_close(log);
        return rc;
    }
    drop_spares(log);
    *out = log;
    return 0;
}
