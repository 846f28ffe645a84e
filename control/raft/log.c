/* SPDX-License-Identifier: Apache-2.0 */
#include "log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "check.h"
#include "log_internal.h"

enum { SEGMENT_MODE = 0600, READ_ENTRIES_MAX = 4096 };

void segment_name(uint64_t sequence, char *out)
{
    snprintf(out, SEGMENT_NAME_BYTES, "log-%016" PRIx64, sequence);
}

struct segment *log_segment_add(struct log *log)
{
    if (log->count == log->cap) {
        size_t cap = log->cap ? 2 * log->cap : 16;
        struct segment *grown = realloc(log->segment, cap * sizeof(*grown));
        if (!grown)
            return NULL;
        log->segment = grown;
        log->cap = cap;
    }
    struct segment *s = &log->segment[log->count++];
    memset(s, 0, sizeof(*s));
    return s;
}

void log_segment_forget(struct log *log, size_t at)
{
    free(log->segment[at].offsets);
    memmove(&log->segment[at], &log->segment[at + 1], (log->count - at - 1) * sizeof(struct segment));
    log->count--;
}

int segment_note(struct segment *s, uint32_t offset)
{
    if (s->count == s->offsets_cap) {
        uint32_t cap = s->offsets_cap ? 2 * s->offsets_cap : 64;
        uint32_t *grown = realloc(s->offsets, cap * sizeof(*grown));
        if (!grown)
            return -ENOMEM;
        s->offsets = grown;
        s->offsets_cap = cap;
    }
    s->offsets[s->count++] = offset;
    return 0;
}

void log_close(struct log *log)
{
    if (log->tail_fd >= 0)
        close(log->tail_fd);
    for (size_t i = 0; i < log->count; i++)
        free(log->segment[i].offsets);
    free(log->segment);
    free(log);
}

uint64_t log_first(const struct log *log)
{
    for (size_t i = 0; i < log->count; i++)
        if (log->segment[i].count)
            return log->segment[i].first;
    return log->last ? log->last + 1 : 0;
}

uint64_t log_last(const struct log *log)
{
    return log->last;
}

uint64_t log_bytes(const struct log *log)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < log->count; i++)
        bytes += log->segment[i].bytes;
    return bytes;
}

/* A disk that is full is a state of the world; anything else that goes wrong while writing ends the log. */
static int broke(struct log *log, int rc)
{
    if (rc && rc != -ENOSPC && rc != -EDQUOT)
        log->broken = rc;
    return rc == -EDQUOT ? -ENOSPC : rc;
}

static int segment_open(struct log *log, const struct segment *s, int flags)
{
    char name[SEGMENT_NAME_BYTES];
    segment_name(s->sequence, name);
    int fd = openat(log->config.dir_fd, name, flags | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

static int tail_open(struct log *log)
{
    if (log->tail_fd < 0) {
        int fd = segment_open(log, &log->segment[log->tail], O_RDWR);
        if (fd < 0)
            return fd;
        log->tail_fd = fd;
    }
    return 0;
}

static void tail_close(struct log *log)
{
    if (log->tail_fd >= 0)
        close(log->tail_fd);
    log->tail_fd = -1;
}

/* Fills the file of a new segment: all of its space and its head, durably. */
static int segment_fill(struct log *log, int fd, struct segment *s)
{
    const struct file_ops *ops = log->config.ops;
    struct segment_head head = {.node_id = log->config.node_id};
    uint8_t bytes[SEGMENT_HEAD_BYTES];
    memcpy(head.cluster_id, log->config.cluster_id, sizeof(head.cluster_id));
    if (getrandom(&s->salt, sizeof(s->salt), 0) != sizeof(s->salt))
        return -errno;
    head.salt = s->salt;
    segment_head_put(&log->crc, &head, bytes);
    int rc = ops->allocate(ops->arg, fd, s->bytes);
    if (rc == 0)
        rc = file_write_all(ops, fd, bytes, sizeof(bytes), 0);
    return rc ? rc : ops->sync(ops->arg, fd);
}

/* Makes an empty segment behind all others. It gets its name when it is complete. */
static int segment_make(struct log *log, uint32_t bytes)
{
    const struct file_ops *ops = log->config.ops;
    struct segment s = {.bytes = bytes, .used = SEGMENT_HEAD_BYTES, .sequence = 1};
    char name[SEGMENT_NAME_BYTES];
    if (log->count)
        s.sequence = log->segment[log->count - 1].sequence + 1;
    int fd = openat(log->config.dir_fd, "segment.new", O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, SEGMENT_MODE);
    if (fd < 0)
        return -errno;
    int rc = segment_fill(log, fd, &s);
    close(fd);
    segment_name(s.sequence, name);
    if (rc == 0)
        rc = ops->rename(ops->arg, log->config.dir_fd, "segment.new", name);
    if (rc) {
        unlinkat(log->config.dir_fd, "segment.new", 0);
        return rc;
    }
    rc = ops->sync(ops->arg, log->config.dir_fd);
    if (rc)
        return rc;
    struct segment *added = log_segment_add(log);
    if (!added)
        return -ENOMEM;
    *added = s;
    return 0;
}

/* Cuts what a failed append or a power cut left behind the last record, so that it never is taken for one. */
static int tail_clean(struct log *log)
{
    const struct file_ops *ops = log->config.ops;
    struct segment *s = &log->segment[log->tail];
    if (!log->tail_dirty)
        return 0;
    int rc = tail_open(log);
    if (rc == 0)
        rc = ops->truncate(ops->arg, log->tail_fd, s->used);
    if (rc == 0)
        rc = ops->sync(ops->arg, log->tail_fd);
    if (rc)
        return rc;
    s->bytes = s->used;
    log->tail_dirty = false;
    return 0;
}

/* Gives the tail its full size again after it was cut. */
static int tail_extend(struct log *log, size_t bytes)
{
    const struct file_ops *ops = log->config.ops;
    struct segment *s = &log->segment[log->tail];
    uint32_t want = log->config.segment_bytes;
    if (s->count == 0 && bytes > want - s->used)
        want = (uint32_t)bytes + s->used;
    if (s->used + bytes > want)
        return -EFBIG;
    int rc = tail_open(log);
    if (rc == 0)
        rc = ops->allocate(ops->arg, log->tail_fd, want);
    if (rc == 0)
        rc = ops->sync(ops->arg, log->tail_fd);
    if (rc == 0)
        s->bytes = want;
    return rc;
}

static size_t room(const struct log *log, size_t at)
{
    return at < log->count ? log->segment[at].bytes - log->segment[at].used : 0;
}

size_t log_capacity(const struct log *log)
{
    if (log->count == 0 || log->broken || log->tail_dirty)
        return 0;
    size_t tail = room(log, log->tail), spare = room(log, log->tail + 1);
    return tail > spare ? tail : spare;
}

static void spare_remove(struct log *log)
{
    const struct file_ops *ops = log->config.ops;
    char name[SEGMENT_NAME_BYTES];
    segment_name(log->segment[log->tail + 1].sequence, name);
    ops->unlink(ops->arg, log->config.dir_fd, name);
    log_segment_forget(log, log->tail + 1);
}

static int reserve(struct log *log, size_t bytes)
{
    uint32_t want = log->config.segment_bytes;
    if (bytes > UINT32_MAX / 2)
        return -EFBIG;
    if (bytes > want - SEGMENT_HEAD_BYTES)
        want = (uint32_t)bytes + SEGMENT_HEAD_BYTES;
    if (log->count == 0) {
        log->tail = 0;
        return segment_make(log, want);
    }
    int rc = tail_clean(log);
    if (rc || log_capacity(log) >= bytes)
        return rc;
    rc = tail_extend(log, bytes);
    if (rc != -EFBIG)
        return rc;
    /* A spare that is too small makes place for a larger one. */
    if (log->tail + 1 < log->count)
        spare_remove(log);
    return segment_make(log, want);
}

int log_reserve(struct log *log, size_t bytes)
{
    return log->broken ? log->broken : broke(log, reserve(log, bytes));
}

static void encode(struct log *log, const struct segment *s, const struct log_entry *entries, size_t count,
                   uint8_t *out)
{
    for (size_t i = 0; i < count; i++) {
        CHECK(entries[i].len <= UINT32_MAX / 4 && (i == 0 || entries[i].index == entries[i - 1].index + 1));
        record_put(&log->crc, s->salt, &entries[i], entries[0].index, out);
        out += log_entry_bytes(entries[i].len);
    }
}

static int note_entries(struct log *log, struct segment *s, const struct log_entry *entries, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (segment_note(s, s->used))
            return -ENOMEM;
        if (s->first == 0)
            s->first = entries[i].index;
        s->used += (uint32_t)log_entry_bytes(entries[i].len);
        log->last = entries[i].index;
    }
    return 0;
}

/* From the first byte written on the tail is dirty, until the sync says that all of it counts. */
static int append(struct log *log, const struct log_entry *entries, size_t count, uint8_t *data, size_t bytes)
{
    const struct file_ops *ops = log->config.ops;
    struct segment *s = &log->segment[log->tail];
    int rc = tail_open(log);
    if (rc)
        return rc;
    encode(log, s, entries, count, data);
    log->tail_dirty = true;
    rc = file_write_all(ops, log->tail_fd, data, bytes, s->used);
    if (rc)
        return rc;
    rc = ops->datasync(ops->arg, log->tail_fd);
    if (rc)
        /* Whatever the error says: what a failed sync left in memory is not trusted again. */
        return -EIO;
    log->tail_dirty = false;
    return note_entries(log, s, entries, count);
}

int log_append(struct log *log, const struct log_entry *entries, size_t count)
{
    size_t bytes = 0;
    for (size_t i = 0; i < count; i++)
        bytes += log_entry_bytes(entries[i].len);
    CHECK(count > 0 && (log->last == 0 || entries[0].index == log->last + 1));
    int rc = log_reserve(log, bytes);
    if (rc)
        return rc;
    uint8_t *data = malloc(bytes);
    if (!data)
        return -ENOSPC;
    if (room(log, log->tail) < bytes) {
        tail_close(log);
        log->tail++;
    }
    CHECK(log->tail < log->count && room(log, log->tail) >= bytes);
    rc = append(log, entries, count, data, bytes);
    free(data);
    return broke(log, rc);
}

/* The segment that holds an entry; count if none does. */
static size_t segment_of(const struct log *log, uint64_t index)
{
    size_t i = 0;
    while (i < log->count && (log->segment[i].count == 0 || index < log->segment[i].first ||
                              index >= log->segment[i].first + log->segment[i].count))
        i++;
    return i;
}

static int segments_unlink_from(struct log *log, size_t from)
{
    const struct file_ops *ops = log->config.ops;
    char name[SEGMENT_NAME_BYTES];
    tail_close(log);
    while (log->count > from) {
        segment_name(log->segment[log->count - 1].sequence, name);
        int rc = ops->unlink(ops->arg, log->config.dir_fd, name);
        if (rc)
            return rc;
        log_segment_forget(log, log->count - 1);
    }
    return ops->sync(ops->arg, log->config.dir_fd);
}

int log_truncate(struct log *log, uint64_t index)
{
    size_t at = segment_of(log, index);
    if (log->broken)
        return log->broken;
    if (at == log->count)
        return index > log->last ? 0 : broke(log, -EUCLEAN);
    /* Later segments go first: whatever is left after a crash is a beginning of the log. */
    int rc = segments_unlink_from(log, at + 1);
    if (rc) {
        log->broken = rc;
        return rc;
    }
    struct segment *s = &log->segment[at];
    uint32_t keep = (uint32_t)(index - s->first);
    log->tail = at;
    s->used = s->offsets[keep];
    s->count = keep;
    if (keep == 0)
        s->first = 0;
    log->last = index - 1;
    log->tail_dirty = true;
    rc = tail_clean(log);
    if (rc)
        log->broken = rc;
    return rc;
}

int log_drop(struct log *log, uint64_t index)
{
    const struct file_ops *ops = log->config.ops;
    char name[SEGMENT_NAME_BYTES];
    while (log->tail > 0 && !log->broken) {
        const struct segment *s = &log->segment[0];
        if (s->count && s->first + s->count - 1 > index)
            break;
        segment_name(s->sequence, name);
        int rc = ops->unlink(ops->arg, log->config.dir_fd, name);
        if (rc)
            return rc;
        log_segment_forget(log, 0);
        log->tail--;
    }
    return 0;
}

int log_reset(struct log *log, uint64_t next)
{
    int rc = log->broken ? log->broken : segments_unlink_from(log, 0);
    if (rc) {
        log->broken = rc;
        return rc;
    }
    log->tail = 0;
    log->tail_dirty = false;
    log->last = next - 1;
    return 0;
}

/* How many entries from `from` on lie in the segment and below bytes_max, and how many bytes they take. */
static size_t read_extent(const struct segment *s, uint64_t from, size_t bytes_max, size_t *bytes)
{
    uint32_t i = (uint32_t)(from - s->first);
    size_t count = 0;
    *bytes = 0;
    for (; i < s->count && count < READ_ENTRIES_MAX; i++, count++) {
        uint32_t end = i + 1 < s->count ? s->offsets[i + 1] : s->used;
        if (count && *bytes + end - s->offsets[i] > bytes_max)
            break;
        *bytes += end - s->offsets[i];
    }
    return count;
}

static int read_decode(struct log *log, const struct segment *s, size_t bytes, uint64_t from,
                       struct log_entries *out)
{
    size_t at = 0;
    for (size_t i = 0; i < out->count; i++) {
        struct record_head head;
        if (record_get(&log->crc, s->salt, out->memory, bytes, at, &head) != RECORD_GOOD ||
            head.index != from + i)
            return -EUCLEAN;
        out->entry[i] = (struct log_entry){.index = head.index,
                                           .term = head.term,
                                           .type = head.type,
                                           .data = (uint8_t *)out->memory + at + RECORD_HEAD_BYTES,
                                           .len = head.len};
        at += log_entry_bytes(head.len);
    }
    return 0;
}

static int read_bytes(int fd, uint8_t *out, size_t len, off_t at)
{
    while (len) {
        ssize_t n = pread(fd, out, len, at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EUCLEAN;
        out += n;
        at += n;
        len -= (size_t)n;
    }
    return 0;
}

int log_read(struct log *log, uint64_t from, size_t bytes_max, struct log_entries *out)
{
    size_t at = segment_of(log, from), bytes;
    memset(out, 0, sizeof(*out));
    if (at == log->count)
        return -ENOENT;
    const struct segment *s = &log->segment[at];
    out->count = read_extent(s, from, bytes_max, &bytes);
    CHECK(out->count > 0); /* segment_of found the one with `from` in it */
    out->entry = calloc(out->count, sizeof(*out->entry));
    out->memory = malloc(bytes);
    int rc = out->entry && out->memory ? 0 : -ENOMEM;
    int fd = rc ? rc : segment_open(log, s, O_RDONLY);
    if (fd >= 0) {
        rc = read_bytes(fd, out->memory, bytes, s->offsets[from - s->first]);
        close(fd);
    } else {
        rc = fd;
    }
    if (rc == 0)
        rc = read_decode(log, s, bytes, from, out);
    if (rc)
        log_entries_free(out);
    return rc;
}

void log_entries_free(struct log_entries *entries)
{
    free(entries->entry);
    free(entries->memory);
    memset(entries, 0, sizeof(*entries));
}
