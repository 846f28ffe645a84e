/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Small writes to the nodes of a cluster: to Fairlead's control sockets (JSON-RPC 2.0, repo.create), or to
 * etcd's gateway (HTTP/1.1 and JSON, a put). One thread, which shares the machine with what it measures.
 *
 *   commits load KIND LINKS DEPTH SECONDS PREFIX TARGET...
 *       LINKS connections to each target have DEPTH writes each under way all the time. Prints one JSON
 * object. commits steady KIND LINKS DEPTH INTERVAL_US PREFIX TARGET... begins a write at each target at every
 * interval, whatever became of those before. Says "ready"; when its input ends, prints for each write a line:
 * START_NS END_NS ok|refused|lost (CLOCK_MONOTONIC).
 *
 * KIND: fairlead (a TARGET is the path of a socket), etcd (ADDRESS:PORT, DEPTH 1). Each write has a name of
 * its own, which begins with PREFIX. In `load` anything unexpected ends the run with a sentence and exit
 * code 1.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/evp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "bench/tool.h"

enum {
    DEPTH_MAX = 32,
    LINKS_MAX = 4096,
    TARGETS_MAX = 16,
    IN_BYTES = 16 << 10,
    OUT_BYTES = 1024,
    NAME_BYTES = 128,
    WRITES_MAX = 1 << 20,
    EVENTS_MAX = 64,
    STALL_S = 30, /* without an answer for so long there is no sense in going on */
};

enum result { RESULT_OK, RESULT_REFUSED, RESULT_LOST };

struct link {
    int fd; /* -1: it broke */
    unsigned target, busy;
    uint64_t start_ns[DEPTH_MAX]; /* of the writes under way; 0: none */
    size_t in_len;
    char in[IN_BYTES];
};

/* A write that has ended. */
struct record {
    uint64_t start_ns, end_ns;
    enum result result;
};

struct run {
    bool steady, etcd;
    unsigned links_each, depth, target_count, link_count;
    const char *prefix, *target[TARGETS_MAX];
    unsigned first_free[TARGETS_MAX]; /* where to look for a link first */
    struct link *link;
    struct record *record;
    uint64_t records, begun, skipped;
    int epoll, timer;
    bool ending;
};

/* ---------------------------------------------------------------- connections */

static int connect_tcp(const char *target)
{
    char host[INET_ADDRSTRLEN] = "";
    const char *colon = strrchr(target, ':');
    struct sockaddr_in at = {.sin_family = AF_INET};
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (colon && (size_t)(colon - target) < sizeof(host))
        memcpy(host, target, (size_t)(colon - target));
    if (!colon || inet_pton(AF_INET, host, &at.sin_addr) != 1)
        fail("%s is no ADDRESS:PORT", target);
    at.sin_port = htons((uint16_t)strtoul(colon + 1, NULL, 10));
    if (fd < 0 || connect(fd, (struct sockaddr *)&at, sizeof(at)) != 0)
        fail("%s: %s", target, strerror(errno));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    return fd;
}

static void connect_all(struct run *r)
{
    for (unsigned i = 0; i < r->link_count; i++) {
        struct link *l = &r->link[i];
        l->target = i / r->links_each;
        l->fd = r->etcd ? connect_tcp(r->target[l->target]) : connect_unix(r->target[l->target]);
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = l};
        if (epoll_ctl(r->epoll, EPOLL_CTL_ADD, l->fd, &e) != 0)
            fail("epoll_ctl: %s", strerror(errno));
    }
}

/* ---------------------------------------------------------------- writes */

static void note(struct run *r, struct link *l, unsigned slot, enum result result)
{
    if (r->records < WRITES_MAX)
        r->record[r->records++] =
            (struct record){.start_ns = l->start_ns[slot], .end_ns = now_ns(), .result = result};
    l->start_ns[slot] = 0;
    l->busy--;
}

static void link_lose(struct run *r, struct link *l)
{
    if (!r->steady)
        fail("%s: the connection ended", r->target[l->target]);
    for (unsigned i = 0; i < r->depth; i++)
        if (l->start_ns[i])
            note(r, l, i, RESULT_LOST);
    close(l->fd);
    l->fd = -1;
}

static size_t request_make(const struct run *r, unsigned slot, char out[OUT_BYTES])
{
    char name[NAME_BYTES], body[OUT_BYTES / 2];
    unsigned char text[2 * NAME_BYTES];
    int n = snprintf(name, sizeof(name), "%s%llu", r->prefix, (unsigned long long)r->begun);
    if (!r->etcd)
        return (size_t)snprintf(out, OUT_BYTES,
                                "{\"jsonrpc\":\"2.0\",\"id\":%u,\"method\":\"repo.create\",\"params\":"
                                "{\"repo\":\"%s\"}}\n",
                                slot, name);
    EVP_EncodeBlock(text, (const unsigned char *)name, n);
    int len = snprintf(body, sizeof(body), "{\"key\":\"%s\",\"value\":\"%s\"}", (const char *)text,
                       (const char *)text);
    return (size_t)snprintf(out, OUT_BYTES,
                            "POST /v3/kv/put HTTP/1.1\r\nHost: etcd\r\nContent-Type: application/json\r\n"
                            "Content-Length: %d\r\n\r\n%s",
                            len, body);
}

static void write_begin(struct run *r, struct link *l)
{
    char out[OUT_BYTES];
    unsigned slot = 0;
    while (l->start_ns[slot])
        slot++;
    size_t len = request_make(r, slot, out);
    l->start_ns[slot] = now_ns();
    l->busy++;
    r->begun++;
    /* Requests are small and few: a socket that does not take one is as good as lost. */
    if (send(l->fd, out, len, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)len)
        link_lose(r, l);
}

static void write_done(struct run *r, struct link *l, unsigned slot, bool ok, const char *text, size_t len)
{
    if (slot >= r->depth || !l->start_ns[slot])
        fail("%s: an answer to nothing: %.*s", r->target[l->target], (int)len, text);
    if (!ok && !r->steady)
        fail("%s refused: %.*s", r->target[l->target], (int)len, text);
    note(r, l, slot, ok ? RESULT_OK : RESULT_REFUSED);
    if (!r->steady && !r->ending)
        write_begin(r, l);
}

/* ---------------------------------------------------------------- answers */

/* Bytes of the first line, or 0 while it is not whole. */
static size_t take_line(struct run *r, struct link *l)
{
    char *end = memchr(l->in, '\n', l->in_len);
    if (!end)
        return 0;
    *end = '\0';
    const char *id = strstr(l->in, "\"id\":");
    if (id)
        write_done(r, l, (unsigned)strtoul(id + 5, NULL, 10), strstr(l->in, "\"result\":") != NULL, l->in,
                   (size_t)(end - l->in));
    return (size_t)(end - l->in) + 1;
}

/* Likewise, of an HTTP response. */
static size_t take_response(struct run *r, struct link *l)
{
    l->in[l->in_len] = '\0';
    char *head = strstr(l->in, "\r\n\r\n");
    if (!head)
        return 0;
    const char *length = strcasestr(l->in, "\r\nContent-Length:");
    size_t whole;
    if (length && length < head) {
        whole = (size_t)(head + 4 - l->in) + strtoull(length + 17, NULL, 10);
    } else {
        const char *end = strstr(head + 2, "\r\n0\r\n\r\n"); /* of chunks */
        if (!end)
            return 0;
        whole = (size_t)(end - l->in) + 7;
    }
    if (l->in_len < whole)
        return 0;
    write_done(r, l, 0, strncmp(l->in, "HTTP/1.1 200", 12) == 0, l->in, whole);
    return whole;
}

static void link_read(struct run *r, struct link *l)
{
    ssize_t n = recv(l->fd, l->in + l->in_len, sizeof(l->in) - 1 - l->in_len, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0) {
        link_lose(r, l);
        return;
    }
    l->in_len += (size_t)n;
    for (size_t used; l->fd >= 0 && l->in_len; l->in_len -= used) {
        used = r->etcd ? take_response(r, l) : take_line(r, l);
        if (!used)
            break;
        memmove(l->in, l->in + used, l->in_len - used);
    }
    if (l->in_len == sizeof(l->in) - 1)
        fail("%s: an answer is too long", r->target[l->target]);
}

/* ---------------------------------------------------------------- runs */

/* A write at a target, on a connection that can take it. */
static void target_write(struct run *r, unsigned target)
{
    for (unsigned i = 0; i < r->links_each; i++) {
        unsigned at = (r->first_free[target] + i) % r->links_each;
        struct link *l = &r->link[target * r->links_each + at];
        if (l->fd < 0 || l->busy == r->depth)
            continue;
        r->first_free[target] = (at + 1) % r->links_each;
        write_begin(r, l);
        return;
    }
    r->skipped++;
}

static void turn(struct run *r, int timeout_ms)
{
    struct epoll_event events[EVENTS_MAX];
    int n = epoll_wait(r->epoll, events, EVENTS_MAX, timeout_ms);
    if (n < 0 && errno != EINTR)
        fail("epoll_wait: %s", strerror(errno));
    for (int i = 0; i < n; i++) {
        uint64_t times;
        if (events[i].data.ptr == &r->timer) {
            if (read(r->timer, &times, sizeof(times)) == sizeof(times))
                for (unsigned t = 0; t < r->target_count; t++)
                    target_write(r, t);
        } else if (events[i].data.ptr == r) {
            r->ending = true;
        } else if (((struct link *)events[i].data.ptr)->fd >= 0) {
            link_read(r, events[i].data.ptr);
        }
    }
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void run_load(struct run *r, double seconds)
{
    uint64_t start = now_ns(), end = start + (uint64_t)(seconds * 1e9), last = start, seen = 0;
    for (unsigned i = 0; i < r->link_count; i++)
        for (unsigned d = 0; d < r->depth; d++)
            write_begin(r, &r->link[i]);
    while (now_ns() < end) {
        turn(r, 100);
        if (r->records != seen)
            last = now_ns();
        seen = r->records;
        if (now_ns() - last > STALL_S * 1000000000ull)
            fail("no answer for %d s", STALL_S);
    }
    uint64_t count = r->records, took = now_ns() - start, *ns = calloc(count + 1, sizeof(*ns));
    if (!ns || !count)
        fail("nothing was answered");
    for (uint64_t i = 0; i < count; i++)
        ns[i] = r->record[i].end_ns - r->record[i].start_ns;
    qsort(ns, count, sizeof(*ns), compare);
    uint64_t p50 = count / 2, p99 = count * 99 / 100;
    printf("{\"commits\": %llu, \"seconds\": %.6f, \"per_s\": %.1f, \"p50_us\": %.1f, \"p99_us\": %.1f, "
           "\"max_us\": "
           "%.1f}\n",
           (unsigned long long)count, (double)took / 1e9, (double)count / ((double)took / 1e9),
           (double)ns[p50] / 1e3, (double)ns[p99] / 1e3, (double)ns[count - 1] / 1e3);
    free(ns);
}

static void run_steady(struct run *r, uint64_t interval_us)
{
    static const char *const names[] = {"ok", "refused", "lost"};
    struct itimerspec every = {
        .it_interval = {(time_t)(interval_us / 1000000), (long)(interval_us % 1000000) * 1000}};
    struct epoll_event timer = {.events = EPOLLIN, .data.ptr = &r->timer},
                       input = {.events = EPOLLIN, .data.ptr = r};
    every.it_value = every.it_interval;
    r->timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (r->timer < 0 || timerfd_settime(r->timer, 0, &every, NULL) != 0 ||
        epoll_ctl(r->epoll, EPOLL_CTL_ADD, r->timer, &timer) != 0 ||
        epoll_ctl(r->epoll, EPOLL_CTL_ADD, STDIN_FILENO, &input) != 0)
        fail("a timer and an input that can be waited for: %s", strerror(errno));
    puts("ready");
    fflush(stdout);
    while (!r->ending)
        turn(r, -1);
    for (uint64_t i = 0; i < r->records; i++)
        printf("%llu %llu %s\n", (unsigned long long)r->record[i].start_ns,
               (unsigned long long)r->record[i].end_ns, names[r->record[i].result]);
    if (r->skipped)
        fprintf(stderr, "commits: %llu writes were not begun, as too many waited\n",
                (unsigned long long)r->skipped);
}

int main(int argc, char **argv)
{
    static struct run r;
    if (argc < 8 || argc - 7 > TARGETS_MAX ||
        (strcmp(argv[1], "load") != 0 && strcmp(argv[1], "steady") != 0) ||
        (strcmp(argv[2], "fairlead") != 0 && strcmp(argv[2], "etcd") != 0)) {
        fprintf(stderr,
                "commits load|steady fairlead|etcd LINKS DEPTH SECONDS|INTERVAL_US PREFIX TARGET...\n");
        return 2;
    }
    r.steady = strcmp(argv[1], "steady") == 0;
    r.etcd = strcmp(argv[2], "etcd") == 0;
    r.links_each = (unsigned)strtoul(argv[3], NULL, 10);
    r.depth = (unsigned)strtoul(argv[4], NULL, 10);
    r.prefix = argv[6];
    for (int i = 7; i < argc; i++)
        r.target[r.target_count++] = argv[i];
    r.link_count = r.links_each * r.target_count;
    if (!r.links_each || r.link_count > LINKS_MAX || !r.depth || r.depth > (r.etcd ? 1 : DEPTH_MAX) ||
        strlen(r.prefix) > NAME_BYTES / 2)
        fail("LINKS, DEPTH or PREFIX is out of range");
    r.link = calloc(r.link_count, sizeof(*r.link));
    r.record = calloc(WRITES_MAX, sizeof(*r.record));
    r.epoll = epoll_create1(EPOLL_CLOEXEC);
    if (!r.link || !r.record || r.epoll < 0)
        fail("no memory");
    connect_all(&r);
    if (r.steady)
        run_steady(&r, strtoull(argv[5], NULL, 10));
    else
        run_load(&r, strtod(argv[5], NULL));
    return 0;
}
