/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A data plane goes on serving when its control dies. STATE/dataplane.pid says which process it is: pid and
 * start time, so that another process that got the pid since is never taken for it.
 */
#include "control/orphan.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "control/adopt.h"

#define PID_FILE "dataplane.pid"

/* Killed, but perhaps inside a write to a slow disk. */
enum { KILLED_WAIT_MS = 30000 };

/* Field 22 of /proc/PID/stat: the start in clock ticks since the boot. 0 if there is no such process. */
static uint64_t start_time(pid_t pid)
{
    char path[64], text[1024];
    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t n = read(fd, text, sizeof(text) - 1);
    close(fd);
    if (n <= 0)
        return 0;
    text[n] = '\0';
    const char *at = strrchr(text, ')'); /* the name before it may hold anything */
    uint64_t ticks = 0;
    if (!at || sscanf(at + 1,
                      " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %" SCNu64,
                      &ticks) != 1)
        return 0;
    return ticks;
}

int orphan_note(const struct folders *folders, pid_t pid)
{
    char text[64];
    int len = snprintf(text, sizeof(text), "%d %" PRIu64 "\n", (int)pid, start_time(pid));
    int fd = openat(folders->state_fd, PID_FILE, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0640);
    if (fd < 0)
        return -errno;
    int err = write(fd, text, (size_t)len) == len ? 0 : -EIO;
    close(fd);
    return err;
}

void orphan_forget(const struct folders *folders)
{
    unlinkat(folders->state_fd, PID_FILE, 0);
    adopt_socket_remove(folders);
}

int orphan_find(const struct folders *folders, pid_t *pid)
{
    char text[64];
    int noted;
    uint64_t ticks;
    int fd = openat(folders->state_fd, PID_FILE, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return -errno;
    ssize_t n = read(fd, text, sizeof(text) - 1);
    close(fd);
    if (n <= 0)
        return -ENOENT;
    text[n] = '\0';
    if (sscanf(text, "%d %" SCNu64, &noted, &ticks) != 2 || noted <= 1 || ticks == 0)
        return -ENOENT;
    int pidfd = (int)syscall(SYS_pidfd_open, noted, 0);
    if (pidfd < 0)
        return -errno;
    if (start_time(noted) != ticks) {
        close(pidfd);
        return -ESRCH;
    }
    *pid = noted;
    return pidfd;
}

static uint64_t monotonic_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* Signals that come meanwhile are for later: they do not end the waiting. */
static bool wait_end(int pidfd, uint64_t timeout_ms)
{
    struct pollfd wait = {.fd = pidfd, .events = POLLIN};
    uint64_t until_ms = monotonic_ms() + timeout_ms;
    for (;;) {
        uint64_t now_ms = monotonic_ms();
        int ready = poll(&wait, 1, now_ms < until_ms ? (int)(until_ms - now_ms) : 0);
        if (ready == 1 || (ready == 0 && now_ms >= until_ms))
            return ready == 1;
    }
}

bool orphan_runs(const struct folders *folders)
{
    pid_t pid = 0;
    int pidfd = orphan_find(folders, &pid);
    if (pidfd < 0)
        return false;
    bool runs = !wait_end(pidfd, 0);
    close(pidfd);
    return runs;
}

bool orphan_end(const struct folders *folders, struct journal *journal, uint64_t wait_ms)
{
    pid_t pid = 0;
    int pidfd = orphan_find(folders, &pid);
    if (pidfd < 0)
        return false;
    journal_warn(journal, "supervise",
                 "a data plane (pid %d) of an earlier fairleadd still serves; it is told to finish",
                 (int)pid);
    syscall(SYS_pidfd_send_signal, pidfd, SIGTERM, NULL, 0);
    if (!wait_end(pidfd, wait_ms)) {
        journal_warn(journal, "supervise",
                     "the old data plane (pid %d) did not finish in %" PRIu64 " ms and is killed", (int)pid,
                     wait_ms);
        syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
        wait_end(pidfd, KILLED_WAIT_MS);
    }
    close(pidfd);
    orphan_forget(folders);
    return true;
}
