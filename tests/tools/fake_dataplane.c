/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A data plane for tests of control alone: speaks msg.h, accepts connections and answers every request with
 * 200 and a line of text. What it is told by the path of a request:
 *
 *   /            "ok GENERATION PID"       /setting/N   the plan's setting number N
 *   /crash       abort                     /exit        exit with status 3
 *   /still       its rings stop turning    /closed      closes the channel of ring 0
 *   /breach      a frame of no known type  /forbidden   proposes a setting, which is control's business
 *   /propose/R   links a blob to the repository R and answers with the status and index of the result
 *   /meet/HOW    listens for another control, and answers it as a data plane of another VERSION, with the pid
 * of another process (LIAR), with nonsense (NONSENSE), or not at all (SILENT) /log         writes an access
 * line, an error line and a trace line to the log ring
 */
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "cmd.h"
#include "msg.h"
#include "plan.h"
#include "shared.h"

enum { FDS = LINK_FDS_MAX, TURN_MS = 50, REQUEST_MAX = 4096 };

struct fake {
    struct counters_page *counters;
    struct log_page *log;
    const struct plan *plan;
    int channels[RINGS_MAX];
    int listeners[LISTENERS_MAX]; /* by slot; -1: none */
    uint32_t rings, listener_count;
    bool still;
    int way_in, memory[ADOPT_FDS];
    char how[16]; /* it meets another control; empty: it does not */
};

static void send_link(uint32_t type, uint64_t generation)
{
    struct link_message message = {.type = type, .version = LINK_VERSION};
    if (type == LINK_HELLO_REPLY)
        message.hello_reply.pid = (uint32_t)getpid();
    else
        message.plan_applied.generation = generation;
    if (send(LINK_FD, &message, sizeof(message), MSG_NOSIGNAL) < 0 && errno != EPIPE)
        _exit(9);
}

static void *map(int fd, size_t bytes, int protection)
{
    void *at = mmap(NULL, bytes, protection, MAP_SHARED, fd, 0);
    CHECK(at != MAP_FAILED);
    return at;
}

static void take_plan(struct fake *f, int fd)
{
    struct stat st;
    CHECK(fstat(fd, &st) == 0);
    const struct plan *plan = map(fd, (size_t)st.st_size, PROT_READ);
    CHECK(plan_check(plan, (uint64_t)st.st_size));
    close(fd);
    if (f->plan)
        send_link(LINK_PLAN_APPLIED, plan->generation);
    f->plan = plan;
}

static void take_message(struct fake *f, const struct link_message *message, const int *fds)
{
    switch (message->type) {
    case LINK_HELLO:
        f->rings = message->hello.rings;
        f->counters = map(fds[HELLO_COUNTERS], sizeof(*f->counters), PROT_READ | PROT_WRITE);
        f->log = map(fds[HELLO_LOG], offsetof(struct log_page, ring) + f->rings * sizeof(struct log_ring),
                     PROT_READ | PROT_WRITE);
        f->way_in = fds[HELLO_ADOPT];
        memcpy(f->memory, (int[]){fds[HELLO_COUNTERS], fds[HELLO_LOG], fds[HELLO_EPOCHS], fds[HELLO_NAMES]},
               sizeof(f->memory));
        send_link(LINK_HELLO_REPLY, 0);
        break;
    case LINK_RING:
        f->channels[message->ring.index] = fds[0];
        break;
    case LINK_LISTENER:
        CHECK(message->listener.index <= f->listener_count);
        f->listener_count += message->listener.index == f->listener_count;
        f->listeners[message->listener.index] = fds[0];
        break;
    case LINK_UNLISTEN:
        CHECK(message->unlisten.index < f->listener_count && f->listeners[message->unlisten.index] >= 0);
        close(f->listeners[message->unlisten.index]);
        f->listeners[message->unlisten.index] = -1;
        break;
    case LINK_PLAN:
        take_plan(f, fds[0]);
        break;
    case LINK_VERDICTS:
        for (uint32_t i = 0; message->verdicts.count && i < 2; i++)
            close(fds[i]);
        break;
    case LINK_GO:
        send_link(LINK_READY, 0);
        break;
    case LINK_DRAIN:
        send_link(LINK_DRAINED, 0);
        exit(0);
    default:
        CHECK(false);
    }
}

/* False: control is away. */
static bool read_link(struct fake *f)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * FDS)];
    } control;
    struct link_message message;
    int fds[FDS] = {0};
    struct iovec iov = {.iov_base = &message, .iov_len = sizeof(message)};
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
    if (recvmsg(LINK_FD, &msg, 0) != (ssize_t)sizeof(message))
        return false;
    struct cmsghdr *head = CMSG_FIRSTHDR(&msg);
    if (head)
        memcpy(fds, CMSG_DATA(head), head->cmsg_len - CMSG_LEN(0));
    take_message(f, &message, fds);
    return true;
}

static void send_fds(int link, struct link_message message, const int *fds, size_t fd_count)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * FDS)];
    } control = {0};
    struct iovec iov = {.iov_base = &message, .iov_len = sizeof(message)};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = &control,
                         .msg_controllen = CMSG_SPACE(sizeof(int) * fd_count)};
    struct cmsghdr *head = CMSG_FIRSTHDR(&msg);
    *head = (struct cmsghdr){
        .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int) * fd_count)};
    memcpy(CMSG_DATA(head), fds, sizeof(int) * fd_count);
    CHECK(sendmsg(link, &msg, MSG_NOSIGNAL) == (ssize_t)sizeof(message));
}

/* Another control has come. The connection stays open: it is this process' end that ends it. */
static void meet(struct fake *f)
{
    struct link_message m = {.type = LINK_ADOPT_REPLY, .version = LINK_VERSION + 1};
    int link = accept(f->way_in, NULL, NULL);
    if (link < 0 || strcmp(f->how, "SILENT") == 0)
        return;
    if (strcmp(f->how, "NONSENSE") == 0) {
        CHECK(send(link, "nonsense", 8, MSG_NOSIGNAL) == 8);
        return;
    }
    m.adopt_reply.pid = (uint32_t)getpid() + (strcmp(f->how, "LIAR") == 0);
    m.adopt_reply.rings = f->rings;
    for (uint32_t i = 0; i < f->listener_count; i++)
        m.adopt_reply.listeners += f->listeners[i] >= 0;
    send_fds(link, m, f->memory, ADOPT_FDS);
    for (uint32_t i = 0; i < f->listener_count && m.adopt_reply.pid == (uint32_t)getpid(); i++) {
        struct link_message one = {.type = LINK_LISTENER, .version = LINK_VERSION + 1};
        one.listener.index = i;
        if (f->listeners[i] >= 0)
            send_fds(link, one, &f->listeners[i], 1);
    }
}

static void log_record(struct fake *f, uint8_t kind, const char *text)
{
    struct log_ring *ring = &f->log->ring[0];
    uint64_t head = atomic_load(&ring->head);
    uint8_t record[512] = {0};
    uint32_t len = (uint32_t)strlen(text);
    size_t size = (8 + len + 7) / 8 * 8;
    memcpy(record, &len, sizeof(len));
    record[4] = kind;
    memcpy(record + 8, text, len);
    for (size_t i = 0; i < size; i++)
        ring->data[(head + i) % LOG_RING_BYTES] = record[i];
    atomic_store_explicit(&ring->head, head + size, memory_order_release);
}

static void write_frame(struct fake *f, uint16_t type, const void *body, size_t len)
{
    struct frame_head head = {.bytes = (uint32_t)len, .type = type, .version = LINK_VERSION, .id = 77};
    CHECK(write(f->channels[0], &head, sizeof(head)) == sizeof(head));
    CHECK(write(f->channels[0], body, len) == (ssize_t)len);
}

static size_t make_command(uint8_t *out, size_t cap, uint16_t type, const char *repo)
{
    struct wire_writer w = {.buf = out, .cap = cap};
    struct cmd_head head = {.type = type,
                            .actor = "anonymous",
                            .actor_len = 9,
                            .source = "127.0.0.1",
                            .source_len = 9,
                            .request_id = ""};
    struct digest digest = {.alg = DIGEST_SHA256};
    memset(digest.bytes, 7, 32);
    cmd_put_head(&w, &head);
    wire_put_bytes(&w, repo, strlen(repo));
    if (type == CMD_SETTING_SET) {
        wire_put_bytes(&w, "1s", 2);
    } else {
        cmd_put_digest(&w, &digest);
        wire_put_u64(&w, 123);
    }
    return w.len;
}

static void propose(struct fake *f, const char *repo, char *answer, size_t cap)
{
    uint8_t cmd[1024];
    struct {
        struct frame_head head;
        struct frame_result result;
    } reply;
    write_frame(f, FRAME_PROPOSE, cmd, make_command(cmd, sizeof(cmd), CMD_BLOB_LINK, repo));
    if (recv(f->channels[0], &reply, sizeof(reply), MSG_WAITALL) != (ssize_t)sizeof(reply)) {
        snprintf(answer, cap, "lost");
        return;
    }
    CHECK(reply.head.id == 77 && reply.head.type == FRAME_RESULT);
    snprintf(answer, cap, "status %u index %llu", reply.result.status,
             (unsigned long long)reply.result.index);
}

static void act(struct fake *f, const char *path, char *answer, size_t cap)
{
    uint8_t cmd[1024];
    if (strcmp(path, "/crash") == 0)
        abort();
    if (strcmp(path, "/exit") == 0)
        _exit(3);
    f->still |= strcmp(path, "/still") == 0;
    if (strcmp(path, "/closed") == 0)
        close(f->channels[0]);
    if (strcmp(path, "/breach") == 0)
        write_frame(f, 99, "x", 1);
    if (strcmp(path, "/forbidden") == 0)
        write_frame(f, FRAME_PROPOSE, cmd,
                    make_command(cmd, sizeof(cmd), CMD_SETTING_SET, "http.idle_timeout"));
    if (sscanf(path, "/meet/%15s", f->how) == 1)
        CHECK(listen(f->way_in, 1) == 0);
    if (strcmp(path, "/log") == 0) {
        log_record(f, LOG_ACCESS_LINE, "{\"access\":\"line\nwith a line end\"}");
        log_record(f, LOG_ERROR_LINE, "{\"error\":\"line\"}");
        log_record(f, LOG_TRACE_LINE, "{\"trace\":\"line\"}");
    }
    if (strncmp(path, "/propose/", 9) == 0)
        propose(f, path + 9, answer, cap);
    else if (strncmp(path, "/setting/", 9) == 0)
        snprintf(answer, cap, "%llu", (unsigned long long)f->plan->setting[atoi(path + 9) % SETTINGS_COUNT]);
    else
        snprintf(answer, cap, "ok %llu %d", (unsigned long long)f->plan->generation, (int)getpid());
}

static void serve(struct fake *f, int listener)
{
    char request[REQUEST_MAX + 1], path[256], answer[256], response[512];
    int fd = accept(listener, NULL, NULL);
    struct timeval timeout = {.tv_sec = 1};
    if (fd < 0)
        return;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
    ssize_t n = recv(fd, request, REQUEST_MAX, 0);
    if (n > 0) {
        request[n] = '\0';
        if (sscanf(request, "GET %255s", path) == 1) {
            act(f, path, answer, sizeof(answer));
            int len = snprintf(response, sizeof(response),
                               "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n%s\n",
                               strlen(answer) + 1, answer);
            send(fd, response, (size_t)len, MSG_NOSIGNAL);
            atomic_fetch_add(&f->counters->ring[0].counter[CTR_REQUESTS], 1);
        }
    }
    close(fd);
}

static void turn(struct fake *f)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    for (uint32_t i = 0; i < f->rings && !f->still; i++)
        atomic_store(&f->counters->ring[i].counter[CTR_LIVENESS],
                     (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000);
}

int main(void)
{
    static struct fake fake;
    bool linked = true;
    while (true) {
        struct pollfd fds[LISTENERS_MAX + 1] = {{.fd = linked ? LINK_FD : -1, .events = POLLIN}};
        struct pollfd way_in = {.fd = fake.how[0] ? fake.way_in : -1, .events = POLLIN};
        for (uint32_t i = 0; i < fake.listener_count; i++)
            fds[i + 1] = (struct pollfd){.fd = fake.listeners[i], .events = POLLIN};
        poll(fds, fake.listener_count + 1, TURN_MS);
        if (fds[0].revents)
            linked = read_link(&fake);
        for (uint32_t i = 0; i < fake.listener_count; i++)
            if (fds[i + 1].revents && fake.plan)
                serve(&fake, fake.listeners[i]);
        if (poll(&way_in, 1, 0) == 1)
            meet(&fake);
        turn(&fake);
    }
}
