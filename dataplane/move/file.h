/* SPDX-License-Identifier: Apache-2.0 */
/* How bytes of a local file move: from the page cache to the socket, without a copy to user space. */
#ifndef FL_MOVE_FILE_H
#define FL_MOVE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Whether all of a range is in the page cache now, so that sending it waits for no disk. */
bool file_resident(int fd, uint64_t offset, uint64_t len);

/* Whether the kernel can say so without a mapping (cachestat, Linux 6.5). */
bool file_has_cachestat(void);

/* Copies up to len bytes that are in the page cache now. Returns bytes, 0 at the end of the file, -EAGAIN
 * (they are not there), -EOPNOTSUPP (the file system cannot say so), or -errno. */
ssize_t file_read_now(int fd, uint64_t offset, void *buf, size_t len);

/* Moves up to len bytes (below 2 GiB) to a non-blocking socket. Returns bytes, 0 at the end of the file, or
 * -errno. */
ssize_t file_send(int sock, int fd, uint64_t offset, size_t len);

#endif
