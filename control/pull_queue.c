/* SPDX-License-Identifier: Apache-2.0 */
#include "control/pull_queue.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "control/raft/crc32c.h"
#include "wire.h"

enum {
    HEAD_BYTES = 8,
    SEGMENT_ROOM = HEAD_BYTES + PULL_SEGMENT_BYTES + PULL_APPEND_MAX,
    CURSOR_BYTES = 40,
    NAME_ROOM = 17,
};

static const char segment_head[HEAD_BYTES + 1] = "FLPQ\1\0\0\0", cursor_head[5] = "FLPC";
static const char cursor_name[] = "cursor";

struct segment {
    uint64_t number;
    uint32_t size, count; /* bytes that are good, records */
};

struct pull_queue {
    int dir_fd, last_fd, cursor_fd; /* last_fd: of the last segment; -1: not open */
    struct segment *segment;        /* ascending */
    size_t segments;
    struct pull_place cursor;
    uint64_t dropped;
};

static struct crc32c table;

static void table_make(void)
{
    crc32c_init(&table);
}

/* By the loop, which makes records, and by threads, which read them. */
static uint32_t sum_of(const void *data, size_t len)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    CHECK(pthread_once(&once, table_make) == 0);
    return crc32c(&table, 0, data, len);
}

/* --- records --- */

size_t pull_record_put(uint8_t *to, const void *body, size_t len)
{
    struct wire_writer w = {.buf = to, .cap = PULL_RECORD_HEAD + len};
    wire_put_u32(&w, (uint32_t)len);
    wire_put_u32(&w, sum_of(body, len));
    wire_put(&w, body, len);
    CHECK(!w.failed && len && len <= PULL_RECORD_MAX);
    return w.len;
}

const uint8_t *pull_record_next(const uint8_t *records, size_t len, size_t *at, size_t *body_len)
{
    struct wire_reader r = {.buf = records, .len = len, .pos = *at};
    uint32_t size = wire_get_u32(&r), wanted = wire_get_u32(&r);
    const uint8_t *body = wire_get(&r, size);
    if (!body || size == 0 || size > PULL_RECORD_MAX || sum_of(body, size) != wanted)
        return NULL;
    *at = r.pos;
    *body_len = size;
    return body;
}

/* --- files --- */

static const char *segment_name(uint64_t number, char out[NAME_ROOM])
{
    snprintf(out, NAME_ROOM, "%016" PRIx64, number);
    return out;
}

static bool segment_number(const char *name, uint64_t *out)
{
    char again[NAME_ROOM];
    if (strspn(name, "0123456789abcdef") != 16 || name[16])
        return false;
    *out = strtoull(name, NULL, 16);
    return *out && strcmp(segment_name(*out, again), name) == 0;
}

static int write_all(int fd, const void *data, size_t len, off_t at)
{
    const char *bytes = data;
    while (len) {
        ssize_t n = pwrite(fd, bytes, len, at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n ? -errno : -EIO;
        bytes += n;
        at += n;
        len -= (size_t)n;
    }
    return 0;
}

/* As many bytes as there are, cap at most; -errno. A bad sector ends them as well. */
static int64_t read_some(int fd, uint8_t *out, size_t cap, off_t at)
{
    size_t got = 0;
    while (got < cap) {
        ssize_t n = pread(fd, out + got, cap - got, at + (off_t)got);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && !(errno == EIO && got))
            return -errno;
        if (n <= 0)
            break;
        got += (size_t)n;
    }
    return (int64_t)got;
}

static int segment_open(const struct pull_queue *q, uint64_t number, int flags)
{
    char name[NAME_ROOM];
    int fd = openat(q->dir_fd, segment_name(number, name), flags | O_CLOEXEC | O_NOFOLLOW, 0600);
    return fd < 0 ? -errno : fd;
}

static int64_t segment_read(const struct pull_queue *q, uint64_t number, uint8_t *out, size_t cap, off_t at)
{
    int fd = segment_open(q, number, O_RDONLY);
    int64_t got = fd < 0 ? fd : read_some(fd, out, cap, at);
    if (fd >= 0)
        close(fd);
    return got;
}

/* What was there does not come back. All else (descriptors or memory that are short) may be over later. */
static bool is_lost(int64_t err)
{
    return err == -ENOENT || err == -EIO;
}

static void segment_unlink(const struct pull_queue *q, uint64_t number)
{
    char name[NAME_ROOM];
    (void)unlinkat(q->dir_fd, segment_name(number, name), 0);
}

/* The newest cursor counts, also if it does not last: what it does not say comes again. */
static void cursor_write(struct pull_queue *q)
{
    uint8_t bytes[CURSOR_BYTES];
    struct wire_writer w = {.buf = bytes, .cap = sizeof(bytes)};
    wire_put(&w, cursor_head, 4);
    wire_put_u32(&w, 1);
    wire_put_u64(&w, q->cursor.segment);
    wire_put_u32(&w, q->cursor.offset);
    wire_put_u32(&w, q->cursor.number);
    wire_put_u64(&w, q->dropped);
    wire_put_u32(&w, 0);
    wire_put_u32(&w, sum_of(bytes, w.len));
    CHECK(!w.failed && w.len == sizeof(bytes));
    (void)write_all(q->cursor_fd, bytes, sizeof(bytes), 0);
}

static void cursor_read(struct pull_queue *q)
{
    uint8_t bytes[CURSOR_BYTES];
    struct wire_reader r = {.buf = bytes, .len = sizeof(bytes)};
    if (read_some(q->cursor_fd, bytes, sizeof(bytes), 0) != CURSOR_BYTES ||
        memcmp(bytes, cursor_head, 4) != 0)
        return;
    r.pos = CURSOR_BYTES - 4;
    if (wire_get_u32(&r) != sum_of(bytes, CURSOR_BYTES - 4))
        return;
    r.pos = 8;
    q->cursor.segment = wire_get_u64(&r);
    q->cursor.offset = wire_get_u32(&r);
    q->cursor.number = wire_get_u32(&r);
    q->dropped = wire_get_u64(&r);
}

/* --- what is there at the beginning --- */

/* Counts what is good of a segment. Of the one of the cursor: how many records are before it, or the cursor
 * goes back to its beginning. 1, or 0: it is none; -errno. */
static int segment_scan(struct pull_queue *q, struct segment *s, uint8_t *room)
{
    int64_t len = segment_read(q, s->number, room, SEGMENT_ROOM, 0);
    bool mine = q->cursor.segment == s->number, met = false;
    size_t at = HEAD_BYTES, ignored;
    if (len < 0 && !is_lost(len))
        return (int)len;
    if (len < HEAD_BYTES || memcmp(room, segment_head, HEAD_BYTES) != 0)
        return 0;
    for (s->count = 0;; s->count++) {
        if (mine && at == q->cursor.offset) {
            q->cursor.number = s->count;
            met = true;
        }
        if (!pull_record_next(room, (size_t)len, &at, &ignored))
            break;
    }
    s->size = (uint32_t)at;
    if (mine && !met)
        q->cursor = (struct pull_place){s->number, HEAD_BYTES, 0};
    return 1;
}

static int by_number(const void *a, const void *b)
{
    const struct segment *x = a, *y = b;
    return x->number < y->number ? -1 : x->number > y->number;
}

static void segment_add(struct pull_queue *q, struct segment s)
{
    q->segment = reallocarray(q->segment, q->segments + 1, sizeof(*q->segment));
    CHECK(q->segment);
    q->segment[q->segments++] = s;
}

static int segments_list(struct pull_queue *q)
{
    struct segment s = {0};
    int fd = openat(q->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir) {
        int err = -errno;
        if (fd >= 0)
            close(fd);
        return err;
    }
    for (const struct dirent *e; (e = readdir(dir));)
        if (segment_number(e->d_name, &s.number))
            segment_add(q, s);
    closedir(dir);
    if (q->segments)
        qsort(q->segment, q->segments, sizeof(*q->segment), by_number);
    return 0;
}

/* Where the first segment begins; without one: numbers go on behind that of the cursor. */
static struct pull_place beginning(const struct pull_queue *q)
{
    return (struct pull_place){q->segments ? q->segment[0].number : q->cursor.segment, HEAD_BYTES, 0};
}

static int load(struct pull_queue *q)
{
    uint8_t *room = malloc(SEGMENT_ROOM);
    size_t kept = 0;
    int rc = segments_list(q);
    CHECK(room);
    cursor_read(q);
    for (size_t i = 0; rc == 0 && i < q->segments; i++) {
        struct segment s = q->segment[i];
        int found = segment_scan(q, &s, room);
        if (found > 0)
            q->segment[kept++] = s;
        else if (found == 0)
            segment_unlink(q, s.number);
        else
            rc = found;
    }
    free(room);
    if (rc)
        return rc;
    q->segments = kept;
    bool there = false;
    for (size_t i = 0; i < q->segments; i++)
        there |= q->segment[i].number == q->cursor.segment;
    if (!there)
        q->cursor = beginning(q);
    return 0;
}

int pull_queue_open(int dir_fd, const char *name, struct pull_queue **out)
{
    struct pull_queue *q = calloc(1, sizeof(*q));
    int rc = 0;
    CHECK(q);
    q->dir_fd = q->last_fd = q->cursor_fd = -1;
    if (mkdirat(dir_fd, name, 0700) && errno != EEXIST)
        rc = -errno;
    if (rc == 0 && (q->dir_fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)) < 0)
        rc = -errno;
    if (rc == 0 &&
        (q->cursor_fd = openat(q->dir_fd, cursor_name, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600)) < 0)
        rc = -errno;
    if (rc == 0)
        rc = load(q);
    if (rc)
        pull_queue_close(q);
    *out = rc ? NULL : q;
    return rc;
}

void pull_queue_close(struct pull_queue *q)
{
    const int fds[] = {q->dir_fd, q->last_fd, q->cursor_fd};
    for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
        if (fds[i] >= 0)
            close(fds[i]);
    free(q->segment);
    free(q);
}

void pull_queue_remove(int dir_fd, const char *name)
{
    uint64_t number;
    int fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir) {
        if (fd >= 0)
            close(fd);
        return;
    }
    for (const struct dirent *e; (e = readdir(dir));)
        if (segment_number(e->d_name, &number) || strcmp(e->d_name, cursor_name) == 0)
            (void)unlinkat(dirfd(dir), e->d_name, 0);
    closedir(dir);
    (void)unlinkat(dir_fd, name, AT_REMOVEDIR);
}

/* --- adding --- */

/* Numbers go on from the cursor's, so that an old cursor never means a new segment. */
static int segment_new(struct pull_queue *q)
{
    uint64_t last = q->segments ? q->segment[q->segments - 1].number : q->cursor.segment;
    int fd = segment_open(q, last + 1, O_RDWR | O_CREAT | O_TRUNC);
    if (fd < 0)
        return fd;
    int rc = write_all(fd, segment_head, HEAD_BYTES, 0);
    if (rc == 0 && fsync(q->dir_fd))
        rc = -errno;
    if (rc) {
        close(fd);
        segment_unlink(q, last + 1);
        return rc;
    }
    if (q->last_fd >= 0)
        close(q->last_fd);
    q->last_fd = fd;
    segment_add(q, (struct segment){.number = last + 1, .size = HEAD_BYTES});
    if (q->segments == 1)
        q->cursor = beginning(q);
    return 0;
}

/* The last segment is open, and there is room in it. */
static int segment_ready(struct pull_queue *q)
{
    const struct segment *last = q->segments ? &q->segment[q->segments - 1] : NULL;
    if (!last || last->size >= PULL_SEGMENT_BYTES)
        return segment_new(q);
    if (q->last_fd >= 0)
        return 0;
    int fd = segment_open(q, last->number, O_RDWR);
    if (fd < 0)
        return fd;
    if (ftruncate(fd, last->size)) { /* what was not written to its end */
        int err = -errno;
        close(fd);
        return err;
    }
    q->last_fd = fd;
    return 0;
}

static uint64_t bytes_of(const struct pull_queue *q)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < q->segments; i++)
        bytes += q->segment[i].size;
    return bytes;
}

static void segment_forget(struct pull_queue *q)
{
    segment_unlink(q, q->segment[0].number);
    q->segments--;
    memmove(q->segment, q->segment + 1, q->segments * sizeof(*q->segment));
}

static void trim(struct pull_queue *q, uint64_t bytes_max)
{
    uint64_t before = q->dropped;
    bool any = false;
    while (q->segments > 1 && bytes_of(q) > bytes_max) {
        const struct segment *first = &q->segment[0];
        q->dropped += first->count - (q->cursor.segment == first->number ? q->cursor.number : 0);
        segment_forget(q);
        q->cursor = beginning(q);
        any = true;
    }
    if (any || q->dropped != before)
        cursor_write(q);
}

int pull_queue_append(struct pull_queue *q, const void *records, size_t len, uint64_t bytes_max)
{
    size_t at = 0, ignored;
    uint32_t count = 0;
    CHECK(len <= PULL_APPEND_MAX && (q->segment || !q->segments));
    while (pull_record_next(records, len, &at, &ignored))
        count++;
    CHECK(at == len);
    int rc = segment_ready(q);
    if (rc)
        return rc;
    struct segment *last = &q->segment[q->segments - 1];
    rc = write_all(q->last_fd, records, len, last->size);
    if (rc == 0 && fdatasync(q->last_fd))
        rc = -errno;
    if (rc) { /* opened anew it is cut to what is good */
        close(q->last_fd);
        q->last_fd = -1;
        return rc;
    }
    last->size += (uint32_t)len;
    last->count += count;
    trim(q, bytes_max);
    return 0;
}

/* --- telling --- */

static size_t place_of(const struct pull_queue *q, uint64_t number)
{
    size_t i = 0;
    while (i < q->segments && q->segment[i].number < number)
        i++;
    return i;
}

/* Of bytes that were read, the records that are whole, `most` at most. */
static size_t records_whole(const uint8_t *records, size_t len, unsigned most, uint32_t *count)
{
    size_t at = 0, ignored;
    for (*count = 0; *count < most && pull_record_next(records, len, &at, &ignored); (*count)++)
        ;
    return at;
}

int64_t pull_queue_read(struct pull_queue *q, uint8_t *out, size_t cap, unsigned most,
                        struct pull_place *after)
{
    *after = q->cursor;
    for (size_t i = place_of(q, q->cursor.segment); i < q->segments; i++) {
        const struct segment *s = &q->segment[i];
        uint32_t from = s->number == q->cursor.segment ? q->cursor.offset : HEAD_BYTES, count = 0;
        uint32_t number = s->number == q->cursor.segment ? q->cursor.number : 0;
        if (from >= s->size)
            continue;
        size_t want = s->size - from < cap ? s->size - from : cap;
        int64_t got = segment_read(q, s->number, out, want, from);
        if (got < 0 && !is_lost(got))
            return got;
        size_t len = got > 0 ? records_whole(out, (size_t)got, most, &count) : 0;
        if (len) {
            *after = (struct pull_place){s->number, from + (uint32_t)len, number + count};
            return (int64_t)len;
        }
        q->dropped += s->count - number; /* its bytes are not what was written, or cannot be read */
        q->cursor = (struct pull_place){s->number, s->size, s->count};
    }
    return 0;
}

void pull_queue_advance(struct pull_queue *q, const struct pull_place *to)
{
    if (to->segment < q->cursor.segment ||
        (to->segment == q->cursor.segment && to->offset <= q->cursor.offset))
        return; /* it had to make room meanwhile */
    q->cursor = *to;
    cursor_write(q);
    while (q->segments && q->segment[0].number < to->segment)
        segment_forget(q);
}

struct pull_figures pull_queue_figures(const struct pull_queue *q)
{
    struct pull_figures f = {.dropped = q->dropped, .bytes = bytes_of(q)};
    for (size_t i = 0; i < q->segments; i++)
        if (q->segment[i].number >= q->cursor.segment)
            f.waiting += q->segment[i].count;
    f.waiting -= q->segments && place_of(q, q->cursor.segment) < q->segments ? q->cursor.number : 0;
    return f;
}
