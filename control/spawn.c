/* SPDX-License-Identifier: Apache-2.0 */
#include "control/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/limits.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "msg.h"

int spawn_open_binary(const char *path, char *shown, size_t shown_len)
{
    char own[PATH_MAX];
    if (path) {
        snprintf(shown, shown_len, "%s", path);
        int given = open(path, O_RDONLY | O_CLOEXEC);
        return given < 0 ? -errno : given;
    }
    ssize_t len = readlink("/proc/self/exe", own, sizeof(own) - 1);
    if (len < 0)
        return -errno;
    own[len] = '\0';
    char *slash = strrchr(own, '/');
    if (!slash)
        return -ENOENT;
    *slash = '\0';
    snprintf(shown, shown_len, "%s/fairlead-dataplane", own);
    int fd = open(shown, O_RDONLY | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

/* From here to the exec only system calls: the threads of the parent are gone, their locks are not. */

__attribute__((noreturn)) static void child_fail(const char *what)
{
    static const char prefix[] = "fairleadd: the data plane could not be started: ";
    const struct iovec parts[] = {
        {.iov_base = (void *)prefix, .iov_len = sizeof(prefix) - 1},
        {.iov_base = (void *)what, .iov_len = strlen(what)},
        {.iov_base = (void *)"\n", .iov_len = 1},
    };
    if (writev(STDERR_FILENO, parts, 3) < 0)
        _exit(SPAWN_EXIT_FAILED); /* nobody to tell */
    _exit(SPAWN_EXIT_FAILED);
}

static void child_signals(void)
{
    sigset_t none;
    for (int sig = 1; sig < NSIG; sig++)
        signal(sig, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

static void child_descriptors(int link_fd)
{
    int null = open("/dev/null", O_RDONLY);
    if (null < 0 || dup2(null, STDIN_FILENO) < 0)
        child_fail("no /dev/null");
    if (link_fd == LINK_FD) {
        if (fcntl(link_fd, F_SETFD, 0))
            child_fail("fcntl");
    } else if (dup2(link_fd, LINK_FD) < 0) {
        child_fail("dup2");
    }
    if (syscall(SYS_close_range, LINK_FD + 1, ~0u, CLOSE_RANGE_CLOEXEC))
        child_fail("close_range (Linux 5.11 or newer is needed)");
}

static void child_limits(void)
{
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files))
        child_fail("getrlimit");
    files.rlim_cur = files.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &files))
        child_fail("setrlimit");
    umask(0027);
}

static void child_identity(const struct dataplane_user *user)
{
    if (user->change) {
        for (int cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
            /* Without CAP_SETPCAP the set stays; no_new_privs below makes it useless. */
            if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) && errno != EPERM)
                child_fail("the bounding set of capabilities could not be emptied");
        if (setgroups(user->group_count, user->group) || setresgid(user->gid, user->gid, user->gid) ||
            setresuid(user->uid, user->uid, user->uid))
            child_fail("its user could not be taken on");
    }
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3];
    memset(none, 0, sizeof(none));
    if (syscall(SYS_capset, &head, none))
        child_fail("its capabilities could not be dropped");
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        child_fail("no_new_privs");
}

__attribute__((noreturn)) static void child_run(int binary_fd, int link_fd, const struct dataplane_user *user,
                                                char **environment)
{
    static char name[] = "fairlead-dataplane";
    char *arguments[] = {name, NULL};
    child_signals();
    setsid();
    child_limits();
    child_descriptors(link_fd);
    child_identity(user);
    syscall(SYS_execveat, binary_fd, "", arguments, environment, AT_EMPTY_PATH);
    child_fail("its program could not be executed");
}

/* Binary and link above LINK_FD, so that neither is written over before its use. */
static int move_up(int fd)
{
    int moved = fcntl(fd, F_DUPFD_CLOEXEC, LINK_FD + 1);
    return moved < 0 ? -errno : moved;
}

int spawn_dataplane(int binary_fd, int link_fd, const struct dataplane_user *user, struct spawned *out)
{
    sigset_t all, old;
    int binary = move_up(binary_fd);
    if (binary < 0)
        return binary;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &old);
    pid_t pid = fork();
    if (pid == 0)
        child_run(binary, link_fd, user, environ);
    int err = pid < 0 ? -errno : 0;
    sigprocmask(SIG_SETMASK, &old, NULL);
    close(binary);
    if (err)
        return err;
    out->pid = pid;
    out->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (out->pidfd >= 0)
        return 0;
    err = -errno;
    kill(pid, SIGKILL);
    return err;
}
