/* SPDX-License-Identifier: Apache-2.0 */
/* The faults of faultfs: which call is to fail and how, and the control socket by which a test says so. */
#include "faults.h"

#include <errno.h>
#include <fnmatch.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum {
    FAULTS_MAX = 64,
    LINE_BYTES_MAX = 1024,
    GLOB_BYTES_MAX = 256,
};

static const char *const op_names[OPS] = {"create",   "mkdir",  "write", "truncate", "fallocate",
                                          "rename",   "unlink", "rmdir", "link",     "fsync",
                                          "fsyncdir", "chmod",  "chown", "open",     "read"};

enum action { ACTION_ERROR, ACTION_SHORT, ACTION_DELAY };

struct fault {
    enum op op;
    enum action action;
    char glob[GLOB_BYTES_MAX];
    uint64_t first;
    uint64_t count;
    uint64_t calls;
    int value; /* errno, or milliseconds */
};

static struct fault faults[FAULTS_MAX];
static unsigned faults_count;
static uint64_t calls[OPS];
static uint64_t fired;
static int control_fd = -1;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER; /* guards all of the above but the socket */

static void sleep_ms(int ms)
{
    struct timespec span = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};

    while (nanosleep(&span, &span) < 0 && errno == EINTR)
        ;
}

int fault_check(enum op op, const char *path, bool *shortened)
{
    int error = 0;
    int delay_ms = 0;

    pthread_mutex_lock(&mutex);
    calls[op]++;
    for (unsigned i = 0; i < faults_count; i++) {
        struct fault *fault = &faults[i];

        if (fault->op != op || fnmatch(fault->glob, path, 0) != 0)
            continue;
        fault->calls++;
        if (fault->calls < fault->first || (fault->count && fault->calls >= fault->first + fault->count))
            continue;
        fired++;
        if (fault->action == ACTION_ERROR)
            error = -fault->value;
        else if (fault->action == ACTION_DELAY)
            delay_ms = fault->value;
        else if (shortened)
            *shortened = true;
    }
    pthread_mutex_unlock(&mutex);
    if (delay_ms)
        sleep_ms(delay_ms);
    return error;
}

static int op_by_name(const char *name)
{
    for (int i = 0; i < OPS; i++)
        if (strcmp(op_names[i], name) == 0)
            return i;
    return -1;
}

static int action_parse(const char *text, struct fault *fault)
{
    static const int errors[] = {ENOSPC, EIO, EDQUOT, EACCES, EMFILE, EROFS, EINTR, ENOENT, ENOMEM};

    if (strcmp(text, "short") == 0) {
        fault->action = ACTION_SHORT;
        return 0;
    }
    if (sscanf(text, "delay:%d", &fault->value) == 1) {
        fault->action = ACTION_DELAY;
        return 0;
    }
    for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
        if (strcmp(strerrorname_np(errors[i]), text) == 0) {
            fault->action = ACTION_ERROR;
            fault->value = errors[i];
            return 0;
        }
    }
    return -EINVAL;
}

static int fault_add(const char *arguments)
{
    struct fault fault = {0};
    char op[16], action[32];
    unsigned long long first, count;

    if (sscanf(arguments, "%15s %255s %llu %llu %31s", op, fault.glob, &first, &count, action) != 5)
        return -EINVAL;
    if (op_by_name(op) < 0 || action_parse(action, &fault) < 0 || faults_count == FAULTS_MAX)
        return -EINVAL;
    fault.op = (enum op)op_by_name(op);
    fault.first = first;
    fault.count = count;
    faults[faults_count++] = fault;
    return 0;
}

static void command_run(const char *line, char *answer, size_t answer_bytes)
{
    int error = 0;

    pthread_mutex_lock(&mutex);
    if (strncmp(line, "fault ", 6) == 0) {
        error = fault_add(line + 6);
        snprintf(answer, answer_bytes, "%s\n", error ? "invalid" : "ok");
    } else if (strcmp(line, "clear") == 0) {
        faults_count = 0;
        fired = 0;
        memset(calls, 0, sizeof(calls));
        snprintf(answer, answer_bytes, "ok\n");
    } else if (strcmp(line, "fired") == 0) {
        snprintf(answer, answer_bytes, "%llu\n", (unsigned long long)fired);
    } else if (strncmp(line, "calls ", 6) == 0 && op_by_name(line + 6) >= 0) {
        snprintf(answer, answer_bytes, "%llu\n", (unsigned long long)calls[op_by_name(line + 6)]);
    } else {
        snprintf(answer, answer_bytes, "invalid\n");
    }
    pthread_mutex_unlock(&mutex);
}

/* Serves one controlling connection after the other. */
static void *control_main(void *unused)
{
    (void)unused;
    for (;;) {
        char line[LINE_BYTES_MAX], answer[LINE_BYTES_MAX];
        int fd = accept(control_fd, NULL, NULL);
        FILE *stream = fd < 0 ? NULL : fdopen(fd, "r+");

        if (!stream)
            return NULL;
        while (fgets(line, sizeof(line), stream)) {
            line[strcspn(line, "\n")] = '\0';
            command_run(line, answer, sizeof(answer));
            if (write(fd, answer, strlen(answer)) < 0)
                break;
        }
        fclose(stream);
    }
}

int faults_listen(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    control_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (control_fd < 0 || strlen(path) >= sizeof(address.sun_path))
        return -1;
    strcpy(address.sun_path, path);
    unlink(path);
    if (bind(control_fd, (struct sockaddr *)&address, sizeof(address)) < 0)
        return -1;
    return listen(control_fd, 4);
}

int faults_serve(void)
{
    pthread_t thread;
    int error = pthread_create(&thread, NULL, control_main, NULL);

    return error ? error : pthread_detach(thread);
}
