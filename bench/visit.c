/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Clients of the benchmarks that load.c is not: over TLS, with a connection for each request, and tunnels. A
 * thread for each of them, with blocking calls.
 *
 *   visit get PORT THREADS SECONDS LENGTH [-s] [-f] [-r] PATH
 *       GETs, each of which must be answered 200 with so many bytes. -s: TLS. -f: a new connection for each
 *       request. -r: TLS sessions are resumed on it (without, each handshake is a full one).
 *   visit tunnels PORT COUNT SECONDS 0 PATH
 *       opens so many upgraded connections, sends a byte through each and waits for it to come back; says
 *       "ready" and keeps them open until its input ends.
 *
 * Prints one JSON object, as load.c does. Anything unexpected ends it with a sentence and exit code 1.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "bench/tool.h"

enum {
    THREADS_MAX = 512,
    SAMPLES_MAX = 1 << 20,
    BUFFER_BYTES = 256 << 10,
    STALL_S = 30,
    STACK_BYTES = 1 << 20
};

struct visit {
    int port;
    unsigned threads;
    double seconds;
    int64_t length;
    const char *path;
    bool tls, fresh, resume;
    SSL_CTX *context;
};

struct visitor {
    pthread_t thread;
    int fd;
    SSL *ssl;
    SSL_SESSION *session; /* to resume */
    uint8_t *buffer;
    uint32_t *samples_us;
    uint64_t done, bytes, handshakes;
};

static struct visit visit;
static uint64_t until_ns;

static int connect_one(void)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)visit.port)};
    struct timeval stall = {.tv_sec = STALL_S};
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof(to)) != 0)
        fail("connect: %s", strerror(errno));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &stall, sizeof(stall));
    return fd;
}

/* ---------------------------------------------------------------- GETs */

static void visitor_connect(struct visitor *v)
{
    v->fd = connect_one();
    if (!visit.tls)
        return;
    v->ssl = SSL_new(visit.context);
    if (!v->ssl || SSL_set_fd(v->ssl, v->fd) != 1)
        fail("SSL_new");
    if (visit.resume && v->session)
        SSL_set_session(v->ssl, v->session);
    if (SSL_connect(v->ssl) != 1)
        fail("TLS handshake failed");
    if (visit.resume && v->session && !SSL_session_reused(v->ssl))
        fail("the session was not resumed");
    v->handshakes++;
}

static void visitor_close(struct visitor *v)
{
    if (v->ssl) {
        if (visit.resume && !v->session)
            v->session = SSL_get1_session(v->ssl);
        SSL_shutdown(v->ssl);
        SSL_free(v->ssl);
    }
    v->ssl = NULL;
    if (v->fd >= 0)
        close(v->fd);
    v->fd = -1;
}

/* In clear, bytes of the body are dropped in the kernel. */
static size_t visitor_read(struct visitor *v, size_t want, bool body)
{
    ssize_t n =
        v->ssl ? SSL_read(v->ssl, v->buffer, (int)want) : recv(v->fd, v->buffer, want, body ? MSG_TRUNC : 0);
    if (n <= 0)
        fail("the answer ended too early, or stalled");
    return (size_t)n;
}

static void visitor_send(struct visitor *v)
{
    char head[1024];
    int len = snprintf(head, sizeof(head), "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n%s\r\n", visit.path,
                       visit.port, visit.fresh ? "Connection: close\r\n" : "");
    ssize_t n = v->ssl ? SSL_write(v->ssl, head, len) : send(v->fd, head, (size_t)len, MSG_NOSIGNAL);
    if (n != len)
        fail("the request was not taken");
}

static void visitor_receive(struct visitor *v)
{
    size_t len = 0;
    char *end = NULL;
    while (!end) {
        if (len >= 8192)
            fail("an endless head");
        uint8_t *start = v->buffer;
        v->buffer += len;
        len += visitor_read(v, 8192 - len, false);
        v->buffer = start;
        end = memmem(v->buffer, len, "\r\n\r\n", 4);
    }
    if (memcmp(v->buffer, "HTTP/1.1 200 ", 13) != 0)
        fail("wanted 200, got %.60s", (char *)v->buffer);
    int64_t left = visit.length - (int64_t)(len - (size_t)(end + 4 - (char *)v->buffer));
    while (left > 0)
        left -= (int64_t)visitor_read(v, left < BUFFER_BYTES ? (size_t)left : BUFFER_BYTES, true);
    if (left < 0)
        fail("more bytes than were asked for");
    v->bytes += (uint64_t)visit.length;
}

static void *visitor_run(void *arg)
{
    struct visitor *v = arg;
    while (now_ns() < until_ns) {
        uint64_t start = now_ns();
        if (v->fd < 0)
            visitor_connect(v);
        visitor_send(v);
        visitor_receive(v);
        if (visit.fresh)
            visitor_close(v);
        uint64_t us = (now_ns() - start) / 1000;
        if (v->done < SAMPLES_MAX / visit.threads)
            v->samples_us[v->done] = us < UINT32_MAX ? (uint32_t)us : UINT32_MAX;
        v->done++;
    }
    visitor_close(v);
    return NULL;
}

static int compare_u32(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static void report(const struct visitor *visitors, double seconds)
{
    static uint32_t all[SAMPLES_MAX];
    uint64_t done = 0, bytes = 0, handshakes = 0, count = 0;
    for (unsigned i = 0; i < visit.threads; i++) {
        const struct visitor *v = &visitors[i];
        uint64_t kept = v->done < SAMPLES_MAX / visit.threads ? v->done : SAMPLES_MAX / visit.threads;
        memcpy(all + count, v->samples_us, kept * sizeof(all[0]));
        count += kept;
        done += v->done;
        bytes += v->bytes;
        handshakes += v->handshakes;
    }
    if (count == 0)
        fail("nothing was done");
    qsort(all, count, sizeof(all[0]), compare_u32);
    printf("{\"requests\": %llu, \"bytes\": %llu, \"handshakes\": %llu, \"seconds\": %.6f, \"p50_us\": %u, "
           "\"p99_us\": %u, \"p999_us\": %u, \"max_us\": %u}\n",
           (unsigned long long)done, (unsigned long long)bytes, (unsigned long long)handshakes, seconds,
           all[count / 2], all[(uint64_t)(0.99 * (double)(count - 1))],
           all[(uint64_t)(0.999 * (double)(count - 1))], all[count - 1]);
}

static int gets(void)
{
    static struct visitor visitors[THREADS_MAX];
    pthread_attr_t attributes;
    if (visit.tls) {
        visit.context = SSL_CTX_new(TLS_client_method());
        if (!visit.context)
            fail("SSL_CTX_new");
        if (!visit.resume)
            SSL_CTX_set_options(visit.context, SSL_OP_NO_TICKET);
    }
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    uint64_t start = now_ns();
    until_ns = start + (uint64_t)(visit.seconds * 1e9);
    for (unsigned i = 0; i < visit.threads; i++) {
        struct visitor *v = &visitors[i];
        v->fd = -1;
        v->buffer = malloc(BUFFER_BYTES);
        v->samples_us = calloc(SAMPLES_MAX / visit.threads, sizeof(uint32_t));
        if (!v->buffer || !v->samples_us || pthread_create(&v->thread, &attributes, visitor_run, v) != 0)
            fail("no memory");
    }
    for (unsigned i = 0; i < visit.threads; i++)
        pthread_join(visitors[i].thread, NULL);
    report(visitors, (double)(now_ns() - start) / 1e9);
    return 0;
}

/* ---------------------------------------------------------------- tunnels */

static void tunnel_open(void)
{
    char buffer[4096];
    int fd = connect_one();
    size_t len = 0;
    int n = snprintf(buffer, sizeof(buffer),
                     "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
                     "Content-Length: 0\r\n\r\n",
                     visit.path, visit.port);
    if (send(fd, buffer, (size_t)n, MSG_NOSIGNAL) != n)
        fail("send: %s", strerror(errno));
    while (len < 4 || !memmem(buffer, len, "\r\n\r\n", 4)) {
        ssize_t got = len < sizeof(buffer) ? recv(fd, buffer + len, sizeof(buffer) - len, 0) : 0;
        if (got <= 0)
            fail("no answer to Upgrade");
        len += (size_t)got;
    }
    if (memcmp(buffer, "HTTP/1.1 101 ", 13) != 0)
        fail("wanted 101, got %.60s", buffer);
    if (send(fd, "x", 1, MSG_NOSIGNAL) != 1 || recv(fd, buffer, 1, 0) != 1 || buffer[0] != 'x')
        fail("the byte did not come back");
}

static int tunnels(void)
{
    char byte;
    for (unsigned i = 0; i < visit.threads; i++)
        tunnel_open();
    puts("ready");
    fflush(stdout);
    while (read(STDIN_FILENO, &byte, 1) > 0)
        continue;
    return 0;
}

int main(int argc, char **argv)
{
    struct rlimit files;
    if (argc < 7)
        fail("get|tunnels PORT THREADS SECONDS LENGTH [-s] [-f] [-r] PATH");
    visit.port = (int)strtol(argv[2], NULL, 10);
    visit.threads = (unsigned)strtoul(argv[3], NULL, 10);
    visit.seconds = strtod(argv[4], NULL);
    visit.length = strtoll(argv[5], NULL, 10);
    optind = 6;
    for (int c; (c = getopt(argc, argv, "sfr")) != -1;) {
        visit.tls = visit.tls || c == 's';
        visit.fresh = visit.fresh || c == 'f';
        visit.resume = visit.resume || c == 'r';
    }
    visit.path = optind < argc ? argv[optind] : "/";
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    signal(SIGPIPE, SIG_IGN);
    if (strcmp(argv[1], "tunnels") == 0)
        return tunnels();
    if (visit.threads == 0 || visit.threads > THREADS_MAX || visit.seconds <= 0)
        fail("1 to %d threads, for some seconds", THREADS_MAX);
    return gets();
}
