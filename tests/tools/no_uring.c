/* SPDX-License-Identifier: Apache-2.0 */
/*
 * no_uring PROGRAM [ARGS...]: runs a program for which io_uring_setup fails with EPERM, as under the default
 * seccomp profile of a container runtime. The filter is inherited by whatever the program starts.
 */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "check.h"

enum { EXIT_USAGE = 2, EXIT_NO_FILTER = 126, EXIT_NO_EXEC = 127 };

/* No look at the architecture: this is for a test of our own programs, not a defence. */
static int forbid_uring(void)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog program = {.len = ARRAY_SIZE(filter), .filter = filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
        return -errno;
    return 0;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: no_uring PROGRAM [ARGS...]\n");
        return EXIT_USAGE;
    }
    int err = forbid_uring();
    if (err) {
        fprintf(stderr, "no_uring: the filter could not be set: %s\n", strerror(-err));
        return EXIT_NO_FILTER;
    }
    execvp(argv[1], argv + 1);
    fprintf(stderr, "no_uring: %s: %s\n", argv[1], strerror(errno));
    return EXIT_NO_EXEC;
}
