/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the sandbox forbids is tried, in a child process for each case: outside paths (by system call and
 * through the ring), connections, forbidden ring operations, capabilities. And what the store needs goes on
 * working.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "dataplane/loop.c" /* for the ring itself: an operation that loop.h does not offer is ordered */
#include "dataplane/sandbox.h"
#include "msg.h"

static char folder[64];
static int blobs = -1, uploads = -1;

static int set_up(void **state)
{
    (void)state;
    char path[128];
    (void)snprintf(folder, sizeof(folder), "/tmp/fairlead-sandbox-XXXXXX");
    if (!mkdtemp(folder))
        return -1;
    (void)snprintf(path, sizeof(path), "%s/blobs", folder);
    (void)mkdir(path, 0750);
    blobs = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    (void)snprintf(path, sizeof(path), "%s/uploads", folder);
    (void)mkdir(path, 0750);
    uploads = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    close(openat(uploads, "closed", O_CREAT | O_WRONLY | O_CLOEXEC, 0));
    return blobs < 0 || uploads < 0;
}

static int tear_down(void **state)
{
    (void)state;
    (void)unlinkat(blobs, "moved", 0);
    (void)unlinkat(uploads, "new", 0);
    (void)unlinkat(uploads, "closed", 0);
    close(blobs);
    close(uploads);
    char path[128];
    (void)snprintf(path, sizeof(path), "%s/blobs", folder);
    (void)rmdir(path);
    (void)snprintf(path, sizeof(path), "%s/uploads", folder);
    (void)rmdir(path);
    return rmdir(folder);
}

/* Runs a case sandboxed in a child; 0 is success, 77 that this kernel or build lacks the means. */
static void in_sandbox(int (*body)(struct loop *loop, int features))
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct loop *loop;
        const char *why = "";
        struct loop_config config = {.entries = 64, .recv_buffers = 16};
        if (loop_new(&config, &loop, &why))
            _exit(76);
        int features = sandbox_enter((const int[]){blobs, uploads}, 2, &why);
        if (features < 0 || loop_enable(loop))
            _exit(75);
        _exit(body(loop, features));
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77)
        skip();
    assert_int_equal(WEXITSTATUS(status), 0);
}

static int32_t ring_result;
static bool ring_done;

static void remember(struct op *op, const struct event *ev)
{
    (void)op;
    ring_result = ev->res;
    ring_done = true;
}

static int32_t ring_wait(struct loop *loop)
{
    ring_done = false;
    for (int i = 0; i < 1000 && !ring_done; i++)
        (void)loop_turn(loop, loop_clock_us() / 1000 + 10);
    return ring_done ? ring_result : -ETIMEDOUT;
}

static struct op op = {.done = remember};

static int outside_paths(struct loop *loop, int features)
{
    if (!(features & FEATURE_LANDLOCK))
        return 77;
    if (open("/etc/passwd", O_RDONLY) >= 0 || open("/tmp", O_RDONLY | O_DIRECTORY) >= 0)
        return 1;
    loop_openat(loop, &op, AT_FDCWD, "/etc/passwd", O_RDONLY, 0);
    if (ring_wait(loop) != -EACCES)
        return 2;
    loop_openat(loop, &op, blobs, "../../../etc/passwd", O_RDONLY, 0);
    return ring_wait(loop) == -EACCES ? 0 : 3;
}

static int inside_paths(struct loop *loop, int features)
{
    (void)features;
    loop_openat(loop, &op, uploads, "new", O_RDWR | O_CREAT | O_CLOEXEC, 0640);
    int fd = ring_wait(loop);
    if (fd < 0)
        return 1;
    loop_write(loop, &op, fd, "bytes", 5, 0);
    if (ring_wait(loop) != 5)
        return 2;
    loop_fsync(loop, &op, fd);
    if (ring_wait(loop) != 0)
        return 3;
    loop_renameat(loop, &op, uploads, "new", blobs, "moved");
    if (ring_wait(loop) != 0)
        return 4;
    loop_unlinkat(loop, &op, blobs, "moved");
    return ring_wait(loop) == 0 ? 0 : 5;
}

/* Streams to backends, and no other sockets; none that others could connect to. */
static int no_other_sockets(struct loop *loop, int features)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    (void)loop;
    if (!(features & FEATURE_SECCOMP))
        return 77;
    if (socket(AF_INET, SOCK_DGRAM, 0) >= 0 || errno != EPERM || socket(AF_NETLINK, SOCK_RAW, 0) >= 0 ||
        errno != EPERM)
        return 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return 2;
    if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0 || listen(fd, 1) == 0)
        return 3;
    return close(fd);
}

static int no_forbidden_operation(struct loop *loop, int features)
{
    (void)features;
    io_uring_prep_mkdirat(order(loop, &op), blobs, "folder", 0700);
    loop->ring.sq.sqes[(loop->ring.sq.sqe_tail - 1) & *loop->ring.sq.kring_mask].user_data = (uintptr_t)&op;
    if (ring_wait(loop) != -EACCES)
        return 1;
    struct io_uring_sqe *sqe = order(loop, &op); /* an allowed operation with a flag that is not */
    io_uring_prep_read(sqe, loop->wake_fd, &loop->wake_value, 8, 0);
    io_uring_sqe_set_data(sqe, &op);
    sqe->flags |= IOSQE_IO_LINK;
    return ring_wait(loop) == -EACCES ? 0 : 2;
}

/* Root without capabilities is bound by a file's mode like everybody. */
static int no_capabilities(struct loop *loop, int features)
{
    (void)features;
    loop_openat(loop, &op, uploads, "closed", O_RDONLY, 0);
    return ring_wait(loop) == -EACCES ? 0 : 1;
}

static int no_exec(struct loop *loop, int features)
{
    (void)loop;
    char *argv[] = {(char *)(uintptr_t) "/bin/true", NULL};
    if (!(features & (FEATURE_SECCOMP | FEATURE_LANDLOCK)))
        return 77;
    execv("/bin/true", argv);
    return errno == EPERM || errno == EACCES ? 0 : 1;
}

static void *thread_run(void *arg)
{
    return arg;
}

/* Threads can be made, processes cannot. */
static int no_process(struct loop *loop, int features)
{
    pthread_t thread;
    (void)loop;
    if (!(features & FEATURE_SECCOMP))
        return 77;
    if (pthread_create(&thread, NULL, thread_run, NULL) || pthread_join(thread, NULL))
        return 1;
    pid_t pid = fork();
    if (pid == 0)
        _exit(0);
    return pid < 0 && errno == EPERM ? 0 : 2;
}

#define CASE(name)                                                                                           \
    static void test_##name(void **state)                                                                    \
    {                                                                                                        \
        (void)state;                                                                                         \
        in_sandbox(name);                                                                                    \
    }

CASE(outside_paths)
CASE(inside_paths)
CASE(no_other_sockets)
CASE(no_forbidden_operation)
CASE(no_capabilities)
CASE(no_process)
CASE(no_exec)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_outside_paths),    cmocka_unit_test(test_inside_paths),
        cmocka_unit_test(test_no_other_sockets), cmocka_unit_test(test_no_forbidden_operation),
        cmocka_unit_test(test_no_capabilities),  cmocka_unit_test(test_no_process),
        cmocka_unit_test(test_no_exec),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
