/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/move/file.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "check.h"

/* Newer than the headers of Debian 12; the number is the same on every architecture. */
#ifndef __NR_cachestat
#define __NR_cachestat 451
#endif

struct cachestat_range_arg {
    uint64_t offset, len;
};

struct cachestat_arg {
    uint64_t cached, dirty, writeback, evicted, recently_evicted;
};

enum { LOOK_PAGES_MAX = 4096, PROBE_STEP = 256 << 10 };

static uint64_t page_bytes(void)
{
    return (uint64_t)sysconf(_SC_PAGESIZE); /* a table look-up in libc, no system call */
}

static int cached_pages(int fd, uint64_t offset, uint64_t len, uint64_t *pages)
{
    struct cachestat_range_arg range = {offset, len};
    struct cachestat_arg stat;
    memset(&stat, 0, sizeof(stat));
    if (syscall(__NR_cachestat, fd, &range, &stat, 0))
        return -errno;
    *pages = stat.cached;
    return 0;
}

bool file_has_cachestat(void)
{
    uint64_t pages;
    return cached_pages(-1, 0, 1, &pages) == -EBADF;
}

/* Linux before 6.5: a mapping made for the question. */
static bool mapped_resident(int fd, uint64_t first, uint64_t bytes)
{
    unsigned char present[LOOK_PAGES_MAX];
    uint64_t page = page_bytes(), step = (uint64_t)LOOK_PAGES_MAX * page;
    for (uint64_t at = 0; at < bytes; at += step) {
        size_t len = (size_t)(bytes - at < step ? bytes - at : step);
        void *map = mmap(NULL, len, PROT_READ, MAP_SHARED, fd, (off_t)(first + at));
        if (map == MAP_FAILED)
            return false;
        bool all = mincore(map, len, present) == 0;
        for (size_t i = 0; all && i < (len + page - 1) / page; i++)
            all = present[i] & 1;
        munmap(map, len);
        if (!all)
            return false;
    }
    return true;
}

/*
 * A page that is being read counts as cached, too, and sendfile would wait for it. Reads ahead end in the
 * order of the file, so a look at every few pages tells whether they have: without waiting, by a read that
 * may not wait.
 */
static bool read_to(int fd, uint64_t offset, uint64_t len)
{
    char byte;
    struct iovec iov = {&byte, 1};
    for (uint64_t at = offset; at < offset + len; at += PROBE_STEP) {
        uint64_t last = at + PROBE_STEP < offset + len ? at + PROBE_STEP - 1 : offset + len - 1;
        ssize_t n = preadv2(fd, &iov, 1, (off_t)last, RWF_NOWAIT);
        if (n < 0 && errno == EOPNOTSUPP)
            return true; /* this file system cannot say */
        if (n != 1)
            return false;
    }
    return true;
}

bool file_resident(int fd, uint64_t offset, uint64_t len)
{
    uint64_t page = page_bytes(), pages = 0;
    uint64_t first = offset / page * page, bytes = offset + len - first;
    int err = cached_pages(fd, first, bytes, &pages);
    if (err == 0)
        return pages >= (bytes + page - 1) / page && read_to(fd, offset, len);
    return mapped_resident(fd, first, bytes);
}

ssize_t file_read_now(int fd, uint64_t offset, void *buf, size_t len)
{
    struct iovec iov = {buf, len};
    ssize_t n = preadv2(fd, &iov, 1, (off_t)offset, RWF_NOWAIT);
    return n < 0 ? -errno : n;
}

ssize_t file_send(int sock, int fd, uint64_t offset, size_t len)
{
    off_t at = (off_t)offset;
    CHECK(len < 1u << 31);
    ssize_t n = sendfile(sock, fd, &at, len);
    return n < 0 ? -errno : n;
}
