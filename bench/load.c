/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The load generator of the benchmarks: one thread, epoll, and as little work for each byte as the kernel
 * allows (bodies are discarded with MSG_TRUNC and sent with sendfile), because it shares the machine with the
 * server.
 *
 *   load get  PORT CONNECTIONS  [-n REQUESTS | -t SECONDS [-j PROCESSES]] -l LENGTH [-H HEADER] [-d FILE]
 * PATH... keep-alive GETs; every answer must be 200 with this Content-Length. -j: so many processes share the
 *       connections. -d, once for each path: the file behind it, dropped from the page cache before each
 * request. load push PORT CONNECTIONS  -r REPOSITORY FILE:DIGEST... uploads each file once: POST, then PUT
 * with the digest load idle PORT CONNECTIONS  -l LENGTH [-H HEADER] PATH one GET on each connection, says
 * "ready", keeps them open until its input ends
 *
 * The result is one JSON object. Anything unexpected ends the run with a sentence and exit code 1: a
 * benchmark of wrong answers is worth nothing.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "bench/tool.h"

enum {
    HEAD_BYTES_MAX = 4096,
    PATHS_MAX = 1024,
    READ_BYTES_MAX = 4 << 20,
    SAMPLES_MAX = 8 << 20, /* of all processes */
    PROCESSES_MAX = 16,
    IDLE_AT_ONCE = 64,
    STALL_S = 30, /* no progress at all for so long is an error */
};

enum mode { MODE_GET, MODE_PUSH, MODE_IDLE };
enum step { STEP_REST, STEP_SEND, STEP_HEAD, STEP_BODY };

struct target {
    const char *path;   /* get: the path; push: the file */
    const char *digest; /* push */
    int fd;             /* push: the file; get: the file to drop from the page cache; -1 */
    int64_t size;
};

struct link {
    int fd;
    enum step step;
    bool wants_out;
    bool second; /* push: the PUT is under way, not the POST */
    unsigned target;
    size_t out_len, out_pos; /* bytes of head[] to send */
    int64_t body_left;       /* to send, then to read */
    off_t body_pos;          /* push: in the file */
    size_t in_len;           /* bytes of head[] read */
    uint64_t start_ns;
    char head[HEAD_BYTES_MAX];
};

/* What one process has done; in memory that all share. */
struct outcome {
    uint64_t done, bytes, start_ns, end_ns;
    uint32_t *samples_us;
    bool good;
};

struct load {
    enum mode mode;
    unsigned processes;
    struct outcome *outcome; /* of this process */
    struct outcome *outcomes;
    uint32_t *samples_us; /* of all processes */
    int port, epoll;
    unsigned link_count;
    unsigned next_link; /* had no request so far */
    struct link *links;
    struct target targets[PATHS_MAX];
    unsigned target_count, next_target;
    int64_t length; /* expected Content-Length */
    uint64_t requests_max, begun;
    double seconds_max;
    const char *header, *repository;
};

static void head_print(struct link *l, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void head_print(struct link *l, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int len = vsnprintf(l->head, sizeof(l->head), format, args);
    va_end(args);
    if (len < 0 || (size_t)len >= sizeof(l->head))
        fail("a request head over %d bytes", HEAD_BYTES_MAX);
    l->out_len = (size_t)len;
    l->out_pos = 0;
    l->in_len = 0;
    l->step = STEP_SEND;
}

/* ---------------------------------------------------------------- requests */

/* False: there is nothing left to ask for. */
static bool request_begin(struct load *load, struct link *l)
{
    if (load->requests_max && load->begun == load->requests_max)
        return false;
    load->begun++;
    l->target = load->next_target++ % load->target_count;
    const struct target *t = &load->targets[l->target];
    l->start_ns = now_ns();
    l->body_left = 0;
    if (load->mode == MODE_PUSH) {
        l->second = false;
        head_print(l,
                   "POST /v2/%s/blobs/uploads/ HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Length: 0\r\n\r\n",
                   load->repository, load->port);
        return true;
    }
    if (t->fd >= 0 && posix_fadvise(t->fd, 0, 0, POSIX_FADV_DONTNEED) != 0)
        fail("posix_fadvise: cannot drop the page cache of %s", t->path);
    head_print(l, "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n%s%s\r\n", t->path, load->port,
               load->header ? load->header : "", load->header ? "\r\n" : "");
    return true;
}

/* The PUT of an upload, at the Location that the POST gave (still in l->head). */
static void request_put(struct load *load, struct link *l, const char *location)
{
    const struct target *t = &load->targets[l->target];
    char path[HEAD_BYTES_MAX];
    size_t len = strcspn(location, "\r\n");
    if (strncmp(location, "http://", 7) == 0) {
        const char *slash = memchr(location + 7, '/', len - 7);
        if (!slash)
            fail("a Location without a path");
        len -= (size_t)(slash - location);
        location = slash;
    }
    if (len >= sizeof(path))
        fail("a Location over %zu bytes", sizeof(path));
    memcpy(path, location, len);
    path[len] = '\0';
    l->second = true;
    l->body_left = t->size;
    l->body_pos = 0;
    head_print(
        l,
        "PUT %s%cdigest=%s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/octet-stream\r\n"
        "Content-Length: %lld\r\n\r\n",
        path, strchr(path, '?') ? '&' : '?', t->digest, load->port, (long long)t->size);
}

/* ---------------------------------------------------------------- one connection */

static void link_watch(struct load *load, struct link *l, bool out)
{
    if (l->wants_out == out)
        return;
    struct epoll_event e = {.events = out ? EPOLLIN | EPOLLOUT : EPOLLIN, .data.ptr = l};
    if (epoll_ctl(load->epoll, EPOLL_CTL_MOD, l->fd, &e) != 0)
        fail("epoll_ctl: %s", strerror(errno));
    l->wants_out = out;
}

/* False: the socket takes no more now. */
static bool link_send(struct load *load, struct link *l)
{
    const struct target *t = &load->targets[l->target];
    while (l->out_pos < l->out_len) {
        ssize_t n = send(l->fd, l->head + l->out_pos, l->out_len - l->out_pos,
                         MSG_NOSIGNAL | MSG_DONTWAIT | (l->body_left ? MSG_MORE : 0));
        if (n < 0 && errno == EAGAIN)
            return false;
        if (n < 0)
            fail("send: %s", strerror(errno));
        l->out_pos += (size_t)n;
    }
    while (l->body_left > 0) {
        ssize_t n = sendfile(l->fd, t->fd, &l->body_pos, (size_t)l->body_left);
        if (n < 0 && errno == EAGAIN)
            return false;
        if (n <= 0)
            fail("sendfile after %lld bytes: %s", (long long)l->body_pos, n ? strerror(errno) : "short file");
        l->body_left -= n;
        load->outcome->bytes += (uint64_t)n;
    }
    l->step = STEP_HEAD;
    return true;
}

/* The value of a field in the head (which ends in NUL), or NULL. */
static const char *head_field(const char *head, const char *name)
{
    size_t len = strlen(name);
    for (const char *line = strstr(head, "\r\n"); line; line = strstr(line + 2, "\r\n")) {
        if (strncasecmp(line + 2, name, len) == 0 && line[2 + len] == ':')
            return line + 3 + len + strspn(line + 3 + len, " \t");
    }
    return NULL;
}

/* The response's head is complete: checks it. Bytes of the body that came with it are at head_len. */
static void link_head(struct load *load, struct link *l, size_t head_len)
{
    static const int statuses[] = {[MODE_GET] = 200, [MODE_PUSH] = 202, [MODE_IDLE] = 200};
    int want = l->second ? 201 : statuses[load->mode];
    int64_t came = (int64_t)(l->in_len - head_len);
    l->head[head_len - 1] = '\0';
    char *end = NULL;
    long status = strncmp(l->head, "HTTP/1.", 7) == 0 ? strtol(l->head + 9, &end, 10) : 0;
    const char *length = head_field(l->head, "Content-Length");
    int64_t body = length ? strtoll(length, &end, 10) : 0;
    if (status != want || (load->mode != MODE_PUSH && body != load->length))
        fail("%s: wanted %d with %lld bytes, got: %s", load->targets[l->target].path, want,
             (long long)load->length, l->head);
    if (came > body)
        fail("%lld bytes after the body", (long long)(came - body));
    l->body_left = body - came;
    if (load->mode != MODE_PUSH)
        load->outcome->bytes += (uint64_t)came;
    l->step = STEP_BODY;
    if (load->mode == MODE_PUSH && !l->second && l->body_left == 0) {
        const char *location = head_field(l->head, "Location");
        if (!location)
            fail("no Location after POST");
        request_put(load, l, location);
    }
}

/* False: nothing more to read now. */
static bool link_read_head(struct load *load, struct link *l)
{
    ssize_t n = recv(l->fd, l->head + l->in_len, sizeof(l->head) - 1 - l->in_len, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN)
        return false;
    if (n <= 0)
        fail("the server closed before its answer: %s", n ? strerror(errno) : "end of stream");
    l->in_len += (size_t)n;
    const char *end = memmem(l->head, l->in_len, "\r\n\r\n", 4);
    if (end)
        link_head(load, l, (size_t)(end - l->head) + 4);
    else if (l->in_len == sizeof(l->head) - 1)
        fail("a response head over %d bytes", HEAD_BYTES_MAX);
    return true;
}

static bool link_read_body(struct load *load, struct link *l)
{
    while (l->body_left > 0) {
        size_t want = l->body_left < READ_BYTES_MAX ? (size_t)l->body_left : READ_BYTES_MAX;
        ssize_t n = recv(l->fd, NULL, want, MSG_DONTWAIT | MSG_TRUNC);
        if (n < 0 && errno == EAGAIN)
            return false;
        if (n <= 0)
            fail("the body stopped %lld bytes short: %s", (long long)l->body_left,
                 n ? strerror(errno) : "end of stream");
        l->body_left -= n;
        if (load->mode != MODE_PUSH)
            load->outcome->bytes += (uint64_t)n;
    }
    return true;
}

static void link_step(struct load *load, struct link *l);

/* The first request of the next connection that has had none. */
static void link_first(struct load *load)
{
    struct link *l = &load->links[load->next_link++];
    l->step = STEP_REST;
    if (request_begin(load, l))
        link_step(load, l);
}

static void link_done(struct load *load, struct link *l)
{
    struct outcome *o = load->outcome;
    uint64_t us = (now_ns() - l->start_ns) / 1000;
    if (o->done < SAMPLES_MAX / load->processes)
        o->samples_us[o->done] = us < UINT32_MAX ? (uint32_t)us : UINT32_MAX;
    o->done++;
    if (load->mode == MODE_IDLE || !request_begin(load, l))
        l->step = STEP_REST;
    if (load->mode == MODE_IDLE && load->next_link < load->link_count)
        link_first(load);
}

/* Goes on with a connection until it would block. */
static void link_step(struct load *load, struct link *l)
{
    for (;;) {
        switch (l->step) {
        case STEP_SEND:
            if (!link_send(load, l)) {
                link_watch(load, l, true);
                return;
            }
            link_watch(load, l, false);
            return; /* the answer is not here yet */
        case STEP_HEAD:
            if (!link_read_head(load, l))
                return;
            break;
        case STEP_BODY:
            if (!link_read_body(load, l))
                return;
            link_done(load, l);
            break;
        case STEP_REST:
            return;
        }
    }
}

/* ---------------------------------------------------------------- the run */

static void connect_all(struct load *load)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)load->port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    for (unsigned i = 0; i < load->link_count; i++) {
        struct link *l = &load->links[i];
        int one = 1;
        l->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (l->fd < 0 || connect(l->fd, (struct sockaddr *)&to, sizeof(to)) != 0)
            fail("connection %u: %s", i, strerror(errno));
        setsockopt(l->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        if (fcntl(l->fd, F_SETFL, O_NONBLOCK) != 0)
            fail("fcntl: %s", strerror(errno));
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = l};
        if (epoll_ctl(load->epoll, EPOLL_CTL_ADD, l->fd, &e) != 0)
            fail("epoll_ctl: %s", strerror(errno));
    }
}

static void run(struct load *load)
{
    struct outcome *o = load->outcome;
    struct epoll_event events[64];
    uint64_t progress_ns = now_ns();
    o->start_ns = progress_ns;
    uint64_t deadline_ns = o->start_ns + (uint64_t)(load->seconds_max * 1e9);
    unsigned at_once =
        load->mode == MODE_IDLE && load->link_count > IDLE_AT_ONCE ? IDLE_AT_ONCE : load->link_count;
    while (load->next_link < at_once)
        link_first(load);
    while (load->requests_max ? o->done < load->requests_max : now_ns() < deadline_ns) {
        int n = epoll_wait(load->epoll, events, 64, 100);
        if (n > 0)
            progress_ns = now_ns();
        else if (now_ns() - progress_ns > STALL_S * 1000000000ull)
            fail("stalled: %llu of %llu requests done", (unsigned long long)o->done,
                 (unsigned long long)load->requests_max);
        for (int i = 0; i < n; i++)
            link_step(load, events[i].data.ptr);
    }
    o->end_ns = now_ns();
    o->good = true;
}

static int compare_u32(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

/* All processes as one: their samples are moved together, in order. */
static struct outcome sum_up(struct load *load, uint64_t *samples)
{
    struct outcome sum = load->outcomes[0];
    *samples = 0;
    sum.done = sum.bytes = 0;
    for (unsigned i = 0; i < load->processes; i++) {
        const struct outcome *o = &load->outcomes[i];
        uint64_t kept = o->done < SAMPLES_MAX / load->processes ? o->done : SAMPLES_MAX / load->processes;
        if (!o->good)
            fail("one of the processes failed");
        memmove(load->samples_us + *samples, o->samples_us, kept * sizeof(*o->samples_us));
        *samples += kept;
        sum.done += o->done;
        sum.bytes += o->bytes;
        sum.start_ns = o->start_ns < sum.start_ns ? o->start_ns : sum.start_ns;
        sum.end_ns = o->end_ns > sum.end_ns ? o->end_ns : sum.end_ns;
    }
    qsort(load->samples_us, *samples, sizeof(*load->samples_us), compare_u32);
    return sum;
}

static double cpu_s(int who)
{
    struct rusage used;
    getrusage(who, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
           (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

static double sample_at(const struct load *load, uint64_t count, double share)
{
    return count ? load->samples_us[(uint64_t)(share * (double)(count - 1))] : 0;
}

static void report(struct load *load)
{
    uint64_t count;
    double cpu = cpu_s(RUSAGE_SELF) + cpu_s(RUSAGE_CHILDREN);
    struct outcome sum = sum_up(load, &count);
    printf("{\"requests\": %llu, \"bytes\": %llu, \"seconds\": %.6f, \"p50_us\": %.0f, \"p99_us\": %.0f, "
           "\"p999_us\": %.0f, \"max_us\": %.0f, \"client_cpu_s\": %.3f}\n",
           (unsigned long long)sum.done, (unsigned long long)sum.bytes,
           (double)(sum.end_ns - sum.start_ns) / 1e9, sample_at(load, count, 0.5),
           sample_at(load, count, 0.99), sample_at(load, count, 0.999), sample_at(load, count, 1.0), cpu);
}

static void wait_for_end_of_input(void)
{
    char byte;
    puts("ready");
    fflush(stdout);
    while (read(STDIN_FILENO, &byte, 1) > 0)
        continue;
}

/* ---------------------------------------------------------------- arguments */

static int file_open(const char *path, int64_t *size)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) != 0)
        fail("%s: %s", path, strerror(errno));
    *size = st.st_size;
    return fd;
}

static void target_add(struct load *load, char *text, const char *drop)
{
    if (load->target_count == PATHS_MAX)
        fail("more than %d paths", PATHS_MAX);
    struct target *t = &load->targets[load->target_count++];
    t->path = text;
    t->fd = drop ? file_open(drop, &t->size) : -1;
    if (load->mode != MODE_PUSH)
        return;
    char *colon = strchr(text, ':');
    if (!colon)
        fail("%s: FILE:DIGEST is wanted", text);
    *colon = '\0';
    t->digest = colon + 1;
    t->fd = file_open(text, &t->size);
}

static enum mode mode_parse(const char *text)
{
    static const char *const names[] = {[MODE_GET] = "get", [MODE_PUSH] = "push", [MODE_IDLE] = "idle"};
    for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcmp(text, names[i]) == 0)
            return (enum mode)i;
    }
    fail("unknown mode %s", text);
}

static void arguments(struct load *load, int argc, char **argv)
{
    const char *drops[PATHS_MAX];
    unsigned drop_count = 0;
    if (argc < 5)
        fail("get|push|idle PORT CONNECTIONS [OPTIONS] PATH...");
    load->mode = mode_parse(argv[1]);
    load->port = (int)strtol(argv[2], NULL, 10);
    load->link_count = (unsigned)strtoul(argv[3], NULL, 10);
    load->processes = 1;
    optind = 4;
    for (int c; (c = getopt(argc, argv, "n:t:j:l:H:d:r:")) != -1;) {
        if (c == 'n')
            load->requests_max = strtoull(optarg, NULL, 10);
        else if (c == 't')
            load->seconds_max = strtod(optarg, NULL);
        else if (c == 'j')
            load->processes = (unsigned)strtoul(optarg, NULL, 10);
        else if (c == 'l')
            load->length = strtoll(optarg, NULL, 10);
        else if (c == 'H')
            load->header = optarg;
        else if (c == 'r')
            load->repository = optarg;
        else if (c == 'd' && drop_count < PATHS_MAX)
            drops[drop_count++] = optarg;
        else
            exit(2);
    }
    if (drop_count && drop_count != (unsigned)(argc - optind))
        fail("-d is wanted once for each path");
    for (unsigned i = 0; optind < argc; i++)
        target_add(load, argv[optind++], drop_count ? drops[i] : NULL);
    if (load->mode == MODE_PUSH)
        load->requests_max = load->target_count;
    if (load->mode == MODE_IDLE)
        load->requests_max = load->link_count;
    if (!load->target_count || !load->link_count || (!load->requests_max && load->seconds_max <= 0))
        fail("nothing to do");
    if (!load->processes || load->processes > PROCESSES_MAX || (load->processes > 1 && load->requests_max) ||
        load->link_count % load->processes)
        fail("-j is for -t, and has to divide the connections");
}

static void *shared_memory(size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        fail("no memory");
    return memory;
}

/* From here on there are several of us, each with its part of the connections. */
static void divide(struct load *load)
{
    load->outcomes = shared_memory(PROCESSES_MAX * sizeof(*load->outcomes));
    load->samples_us = shared_memory(SAMPLES_MAX * sizeof(*load->samples_us));
    load->link_count /= load->processes;
    for (unsigned i = 0; i < load->processes; i++)
        load->outcomes[i].samples_us = load->samples_us + (size_t)i * (SAMPLES_MAX / load->processes);
    load->outcome = &load->outcomes[0];
    for (unsigned i = 1; i < load->processes; i++) {
        pid_t pid = fork();
        if (pid < 0)
            fail("fork: %s", strerror(errno));
        if (pid == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            load->outcome = &load->outcomes[i];
            return;
        }
    }
}

int main(int argc, char **argv)
{
    static struct load load;
    struct rlimit files;
    arguments(&load, argc, argv);
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    divide(&load);
    load.links = calloc(load.link_count, sizeof(*load.links));
    load.epoll = epoll_create1(EPOLL_CLOEXEC);
    if (!load.links || load.epoll < 0)
        fail("no memory");
    connect_all(&load);
    run(&load);
    if (load.outcome != load.outcomes)
        return 0;
    while (wait(NULL) > 0)
        continue;
    if (load.mode == MODE_IDLE)
        wait_for_end_of_input();
    else
        report(&load);
    return 0;
}
