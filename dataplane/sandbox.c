/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/sandbox.h"

#include <errno.h>
#include <sched.h>
#include <seccomp.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/capability.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/landlock.h>

#include "check.h"
#include "msg.h"

/* Newer than Debian 12's headers; the kernel is asked what it knows. */
enum {
    ACCESS_FS_TRUNCATE_BIT = 14,          /* ABI 3 */
    ACCESS_FS_IOCTL_DEV_BIT = 15,         /* ABI 5 */
    ACCESS_NET_BIND = 1,                  /* ABI 4; backends are where the plan says: connecting is allowed */
    SCOPE_ABSTRACT_SOCKET_AND_SIGNAL = 3, /* ABI 6 */
};

#ifndef FL_SANITIZER
struct landlock_attr {
    uint64_t handled_access_fs, handled_access_net, scoped;
};

static struct landlock_attr landlock_all(int abi)
{
    uint64_t fs = (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1; /* everything of ABI 1 */
    if (abi >= 2)
        fs |= LANDLOCK_ACCESS_FS_REFER;
    if (abi >= 3)
        fs |= 1ull << ACCESS_FS_TRUNCATE_BIT;
    if (abi >= 5)
        fs |= 1ull << ACCESS_FS_IOCTL_DEV_BIT;
    return (struct landlock_attr){fs, abi >= 4 ? ACCESS_NET_BIND : 0,
                                  abi >= 6 ? SCOPE_ABSTRACT_SOCKET_AND_SIGNAL : 0};
}

static int landlock_allow(int ruleset, int dirfd, uint64_t handled)
{
    uint64_t wanted = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE |
                      LANDLOCK_ACCESS_FS_READ_DIR | LANDLOCK_ACCESS_FS_MAKE_REG |
                      LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_REFER |
                      1ull << ACCESS_FS_TRUNCATE_BIT;
    struct landlock_path_beneath_attr rule = {.allowed_access = wanted & handled, .parent_fd = dirfd};
    return syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) ? -errno : 0;
}

/* 1: it holds; 0: this kernel has none; or -errno. */
static int landlock_enter(const int *folders, unsigned count)
{
    int abi = (int)syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    if (abi < 2) /* the first version forbids every rename between folders */
        return 0;
    struct landlock_attr attr = landlock_all(abi);
    size_t size = abi >= 6 ? sizeof(attr) : abi >= 4 ? 16 : 8;
    int ruleset = (int)syscall(SYS_landlock_create_ruleset, &attr, size, 0);
    if (ruleset < 0)
        return -errno;
    int err = 0;
    for (unsigned i = 0; i < count && !err; i++)
        err = landlock_allow(ruleset, folders[i], attr.handled_access_fs);
    if (!err && syscall(SYS_landlock_restrict_self, ruleset, 0))
        err = -errno;
    close(ruleset);
    return err ? err : 1;
}

/* What the code, libc, liburing, LMDB's readers, OpenSSL and jemalloc call while the data plane runs. */
static const int allowed[] = {
    SCMP_SYS(accept4),
    SCMP_SYS(brk),
    SCMP_SYS(clock_gettime),
    SCMP_SYS(clock_nanosleep),
    SCMP_SYS(close),
    SCMP_SYS(connect),
    SCMP_SYS(dup),
    SCMP_SYS(epoll_pwait),
    SCMP_SYS(exit),
    SCMP_SYS(exit_group),
    SCMP_SYS(fadvise64),
    SCMP_SYS(fcntl),
    SCMP_SYS(fstat),
    SCMP_SYS(fstatfs),
    SCMP_SYS(futex),
    SCMP_SYS(getcpu),
    SCMP_SYS(getdents64),
    SCMP_SYS(getpeername),
    SCMP_SYS(getpid),
    SCMP_SYS(getrandom),
    SCMP_SYS(getrusage),
    SCMP_SYS(getsockname),
    SCMP_SYS(getsockopt),
    SCMP_SYS(gettid),
    SCMP_SYS(gettimeofday),
    SCMP_SYS(io_uring_enter),
    SCMP_SYS(io_uring_register),
    SCMP_SYS(ioctl),
    SCMP_SYS(lseek),
    SCMP_SYS(madvise),
    SCMP_SYS(mincore),
    SCMP_SYS(mmap),
    SCMP_SYS(mprotect),
    SCMP_SYS(mremap),
    SCMP_SYS(munmap),
    SCMP_SYS(nanosleep),
    SCMP_SYS(newfstatat),
    SCMP_SYS(openat),
    SCMP_SYS(pipe2),
    SCMP_SYS(poll),
    SCMP_SYS(ppoll),
    SCMP_SYS(prctl),
    SCMP_SYS(pread64),
    SCMP_SYS(preadv2),
    SCMP_SYS(read),
    SCMP_SYS(recvfrom),
    SCMP_SYS(recvmsg),
    SCMP_SYS(restart_syscall),
    SCMP_SYS(rseq),
    SCMP_SYS(rt_sigaction),
    SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(rt_sigreturn),
    SCMP_SYS(sched_getaffinity),
    SCMP_SYS(sched_yield),
    SCMP_SYS(sendfile),
    SCMP_SYS(sendmsg),
    SCMP_SYS(sendto),
    SCMP_SYS(set_robust_list),
    SCMP_SYS(setpriority),
    SCMP_SYS(setsockopt),
    SCMP_SYS(shutdown),
    SCMP_SYS(sigaltstack),
    SCMP_SYS(splice),
    SCMP_SYS(statfs),
    SCMP_SYS(statx),
    SCMP_SYS(tgkill),
    SCMP_SYS(write),
    SCMP_SYS(writev),
};

/* Linux 6.5; the library of Debian 12 does not know its name. Zero elsewhere: the question is then put by
 * mincore. */
enum { CACHESTAT_NUMBER = 451, SOCKET_TYPE_MASK = 0xf };

/* Threads, but no processes: those would not be what control knows as its data plane. The flags of clone3 are
 * in memory, where a filter cannot look; libc does without it. */
static int allow_threads(scmp_filter_ctx ctx)
{
#ifdef __s390x__
    const unsigned flags = 1;
#else
    const unsigned flags = 0;
#endif
    int err = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
    if (err)
        return err;
    return seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
                            SCMP_CMP(flags, SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD));
}

/* Streams to backends; nothing else is a socket here. */
static int allow_streams(scmp_filter_ctx ctx)
{
    static const unsigned families[] = {AF_INET, AF_INET6, AF_UNIX};
    int err = 0;
    for (size_t i = 0; i < ARRAY_SIZE(families) && !err; i++)
        err = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(socket), 2, SCMP_A0(SCMP_CMP_EQ, families[i]),
                               SCMP_A1(SCMP_CMP_MASKED_EQ, SOCKET_TYPE_MASK, SOCK_STREAM));
    return err;
}

static int seccomp_enter(void)
{
    scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ERRNO(EPERM));
    if (!ctx)
        return -ENOMEM;
    int err = 0;
    for (size_t i = 0; i < ARRAY_SIZE(allowed) && !err; i++)
        err = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, allowed[i], 0);
    if (!err)
        err = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, CACHESTAT_NUMBER, 0);
    if (!err)
        err = allow_threads(ctx);
    if (!err)
        err = allow_streams(ctx);
    if (!err)
        err = seccomp_load(ctx);
    seccomp_release(ctx);
    return err;
}

static int confine(const int *folders, unsigned count, const char **why)
{
    *why = "Landlock refused the rules for the store's folders";
    int landlocked = landlock_enter(folders, count);
    if (landlocked < 0)
        return landlocked;
    *why = "the seccomp filter could not be loaded";
    int err = seccomp_enter();
    return err ? err : FEATURE_SECCOMP | (landlocked ? FEATURE_LANDLOCK : 0);
}
#else
/* The sanitizers' runtimes read /proc, trace their own process and call more than any list has. */
static int confine(const int *folders, unsigned count, const char **why)
{
    (void)folders;
    (void)count;
    (void)why;
    return 0;
}
#endif

static int capabilities_drop(void)
{
    cap_t none = cap_init();
    int err = !none || cap_set_proc(none) ? -errno : 0;
    if (none)
        cap_free(none);
    return err;
}

int sandbox_enter(const int *folders, unsigned count, const char **why)
{
    *why = "no_new_privs could not be set";
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        return -errno;
    *why = "the capabilities could not be given up";
    int err = capabilities_drop();
    if (err)
        return err;
    return confine(folders, count, why);
}

void sandbox_hold_secrets(void)
{
#ifndef FL_SANITIZER /* whose runtimes trace their own process */
    (void)prctl(PR_SET_DUMPABLE, 0);
#endif
}
