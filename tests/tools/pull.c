/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Clients that pull blobs (blob.h) at the same time and look at every byte.
 *
 *   pull ADDRESS PORT CLIENTS SECONDS SIZE PREFIX SEED:HEX...
 *
 * Each client pulls one blob after another, GET PREFIX + HEX, on a connection that it keeps while the server
 * does. Prints {"good": N, "failed": N, "bytes": N, "why": "the first failure"}. A pull fails with anything
 * but 200 and all the right bytes; a kept connection that ends before its answer begins is opened again,
 * once, as clients do.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "tests/tools/blob.h"

enum { CLIENTS_MAX = 4096, BUFFER_BYTES = 32768, STACK_BYTES = 256 << 10, STALL_S = 30 };

struct job {
    struct sockaddr_storage to;
    socklen_t to_len;
    const char *prefix;
    uint64_t size, until_ns;
    char **blobs;
    unsigned blob_count;
};

struct client {
    int fd;
    bool used; /* the connection has carried an exchange */
    uint8_t in[BUFFER_BYTES];
    size_t at, len;
    uint64_t seed, pos; /* of the blob under way */
    char why[256];
};

static struct job job;
static atomic_uint next_blob;
static atomic_ullong good, failed, bytes;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char first_why[256];

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static bool wrong(struct client *c, const char *what)
{
    snprintf(c->why, sizeof(c->why), "%.200s at byte %" PRIu64, what, c->pos);
    return false;
}

/* More bytes in the buffer, which is empty or begins a line. */
static bool fill(struct client *c)
{
    if (c->at > 0) {
        memmove(c->in, c->in + c->at, c->len - c->at);
        c->len -= c->at;
        c->at = 0;
    }
    if (c->len == sizeof(c->in))
        return wrong(c, "a line without end");
    ssize_t n = recv(c->fd, c->in + c->len, sizeof(c->in) - c->len, 0);
    if (n <= 0)
        return wrong(c, n == 0 ? "closed" : strerror(errno));
    c->len += (size_t)n;
    return true;
}

/* The next line into out, without its end. */
static bool line(struct client *c, char *out, size_t cap)
{
    for (;;) {
        uint8_t *end = memmem(c->in + c->at, c->len - c->at, "\r\n", 2);
        if (end) {
            size_t len = (size_t)(end - (c->in + c->at));
            if (len >= cap)
                return wrong(c, "a line that is too long");
            memcpy(out, c->in + c->at, len);
            out[len] = '\0';
            c->at += len + 2;
            return true;
        }
        if (!fill(c))
            return false;
    }
}

/* So many bytes of the body, each looked at. */
static bool content(struct client *c, uint64_t left)
{
    uint8_t want[4096];
    while (left > 0) {
        if (c->at == c->len && !fill(c))
            return false;
        size_t n = c->len - c->at < left ? c->len - c->at : (size_t)left;
        n = n < sizeof(want) ? n : sizeof(want);
        blob_fill(c->seed, c->pos, want, n);
        if (memcmp(want, c->in + c->at, n) != 0)
            return wrong(c, "wrong bytes");
        c->at += n;
        c->pos += n;
        left -= n;
        atomic_fetch_add(&bytes, n);
    }
    return true;
}

static bool chunks(struct client *c)
{
    char text[64];
    for (;;) {
        if (!line(c, text, sizeof(text)))
            return false;
        uint64_t size = strtoull(text, NULL, 16);
        if (size == 0)
            break;
        if (!content(c, size) || !line(c, text, sizeof(text)))
            return false;
        if (*text)
            return wrong(c, "a chunk without end");
    }
    return line(c, text, sizeof(text));
}

static bool answer(struct client *c)
{
    char text[4096];
    bool chunked = false;
    uint64_t length = UINT64_MAX;
    if (!line(c, text, sizeof(text)))
        return false;
    bool ok = strncmp(text, "HTTP/1.1 200 ", 13) == 0;
    if (!ok)
        return wrong(c, text);
    while (line(c, text, sizeof(text)) && *text) {
        if (strncasecmp(text, "Content-Length:", 15) == 0)
            length = strtoull(text + 15, NULL, 10);
        if (strncasecmp(text, "Transfer-Encoding:", 18) == 0)
            chunked = true;
    }
    if (*c->why)
        return false;
    if (chunked ? !chunks(c) : !content(c, length))
        return false;
    return c->pos == job.size || wrong(c, "another length");
}

static bool open_connection(struct client *c)
{
    struct timeval stall = {.tv_sec = STALL_S};
    int one = 1;
    c->fd = socket(job.to.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    c->used = false;
    c->at = c->len = 0;
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&job.to, job.to_len) != 0)
        return wrong(c, strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &stall, sizeof(stall));
    return true;
}

static void shut(struct client *c)
{
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
}

static bool pull(struct client *c, const char *hex)
{
    char head[512];
    int len = snprintf(head, sizeof(head), "GET %s%s HTTP/1.1\r\nHost: pull\r\n\r\n", job.prefix, hex);
    for (;;) {
        bool kept = c->fd >= 0 && c->used;
        c->why[0] = '\0';
        c->pos = 0;
        if (c->fd < 0 && !open_connection(c))
            return false;
        c->at = c->len = 0;
        bool sent = send(c->fd, head, (size_t)len, MSG_NOSIGNAL) == len;
        if (sent && answer(c)) {
            c->used = true;
            return true;
        }
        if (!sent)
            wrong(c, "not sent");
        shut(c);
        if (!kept || c->len > 0)
            return false;
    }
}

static void *client_run(void *arg)
{
    struct client *c = calloc(1, sizeof(*c));
    (void)arg;
    if (!c)
        return NULL;
    c->fd = -1;
    while (now_ns() < job.until_ns) {
        char *blob = job.blobs[atomic_fetch_add(&next_blob, 1) % job.blob_count];
        char *hex = strchr(blob, ':');
        c->seed = strtoull(blob, NULL, 10);
        if (hex && pull(c, hex + 1)) {
            atomic_fetch_add(&good, 1);
            continue;
        }
        shut(c);
        pthread_mutex_lock(&lock);
        if (atomic_fetch_add(&failed, 1) == 0)
            snprintf(first_why, sizeof(first_why), "%s", c->why);
        pthread_mutex_unlock(&lock);
    }
    shut(c);
    free(c);
    return NULL;
}

static int address_read(const char *text, const char *port)
{
    struct sockaddr_in *v4 = (struct sockaddr_in *)&job.to;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&job.to;
    uint16_t number = htons((uint16_t)strtoul(port, NULL, 10));
    if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = number;
        job.to_len = sizeof(*v4);
        return 0;
    }
    v6->sin6_family = AF_INET6;
    v6->sin6_port = number;
    job.to_len = sizeof(*v6);
    return inet_pton(AF_INET6, text, &v6->sin6_addr) == 1 ? 0 : -EINVAL;
}

int main(int argc, char **argv)
{
    static pthread_t threads[CLIENTS_MAX];
    pthread_attr_t attributes;
    if (argc < 8 || address_read(argv[1], argv[2])) {
        fprintf(stderr, "pull ADDRESS PORT CLIENTS SECONDS SIZE PREFIX SEED:HEX...\n");
        return 2;
    }
    unsigned clients = (unsigned)strtoul(argv[3], NULL, 10);
    job.until_ns = now_ns() + (uint64_t)(strtod(argv[4], NULL) * 1e9);
    job.size = strtoull(argv[5], NULL, 10);
    job.prefix = argv[6];
    job.blobs = argv + 7;
    job.blob_count = (unsigned)argc - 7;
    if (clients == 0 || clients > CLIENTS_MAX)
        return 2;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    for (unsigned i = 0; i < clients; i++)
        if (pthread_create(&threads[i], &attributes, client_run, NULL) != 0)
            return 1;
    for (unsigned i = 0; i < clients; i++)
        pthread_join(threads[i], NULL);
    for (char *p = first_why; *p; p++)
        if (*p == '"' || *p == '\\')
            *p = '\'';
    printf("{\"good\": %llu, \"failed\": %llu, \"bytes\": %llu, \"why\": \"%s\"}\n", (unsigned long long)good,
           (unsigned long long)failed, (unsigned long long)bytes, first_why);
    return 0;
}
