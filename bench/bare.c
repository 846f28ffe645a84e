/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the machine itself can do, as a limit to compare with: the least code that sends a file, and the least
 * that makes bytes durable under their digest. Nothing here is a server that one could use.
 *
 *   bare serve PORT PROCESSES FILE    answers every request on PORT with the file, by sendfile
 *   bare store THREADS FOLDER SYNC SIZE COUNT
 *       hashes (SHA-256) and writes COUNT files of SIZE bytes from memory; SYNC 1: fsync of each file and of
 * the folder. Prints seconds and CPU seconds as JSON.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

enum { FDS_MAX = 4096, SEND_BYTES = 1 << 20, BLOCK_BYTES = 256 << 10, THREADS_MAX = 64 };

__attribute__((noreturn)) static void fail(const char *what)
{
    fprintf(stderr, "bare: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* ---------------------------------------------------------------- serve */

struct client {
    off_t pos; /* in the file */
    bool busy;
};

struct server {
    int listener, epoll, file;
    off_t size;
    char head[128];
    size_t head_len;
    struct client clients[FDS_MAX];
};

static int listen_on(uint16_t port)
{
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) != 0 ||
        setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one)) != 0 ||
        bind(fd, (struct sockaddr *)&at, sizeof(at)) != 0 || listen(fd, 1024) != 0)
        fail("listen");
    return fd;
}

static void watch(struct server *s, int fd, int op, uint32_t events)
{
    struct epoll_event e = {.events = events, .data.fd = fd};
    if (epoll_ctl(s->epoll, op, fd, &e) != 0)
        fail("epoll_ctl");
}

static void client_accept(struct server *s)
{
    int one = 1, fd = accept4(s->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0)
        return;
    if (fd >= FDS_MAX) {
        close(fd);
        return;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    s->clients[fd].busy = false;
    watch(s, fd, EPOLL_CTL_ADD, EPOLLIN);
}

/* Sends what the socket takes; the next request is awaited at the end of the file. */
static void client_send(struct server *s, int fd)
{
    struct client *c = &s->clients[fd];
    while (c->pos < s->size) {
        size_t left = (size_t)(s->size - c->pos);
        ssize_t n = sendfile(fd, s->file, &c->pos, left < SEND_BYTES ? left : SEND_BYTES);
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0) {
            close(fd);
            return;
        }
    }
    c->busy = false;
    watch(s, fd, EPOLL_CTL_MOD, EPOLLIN);
}

/* A request is taken to come in one piece, as the load generator sends it. */
static void client_request(struct server *s, int fd)
{
    char request[4096];
    if (recv(fd, request, sizeof(request), 0) <= 0) {
        close(fd);
        return;
    }
    if (send(fd, s->head, s->head_len, MSG_MORE | MSG_NOSIGNAL) != (ssize_t)s->head_len) {
        close(fd);
        return;
    }
    s->clients[fd].pos = 0;
    s->clients[fd].busy = true;
    watch(s, fd, EPOLL_CTL_MOD, EPOLLOUT);
    client_send(s, fd);
}

static void serve_loop(struct server *s)
{
    struct epoll_event events[64];
    for (;;) {
        int n = epoll_wait(s->epoll, events, 64, -1);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd == s->listener)
                client_accept(s);
            else if (s->clients[fd].busy)
                client_send(s, fd);
            else
                client_request(s, fd);
        }
    }
}

static int serve(uint16_t port, int processes, const char *path)
{
    static struct server s;
    struct stat st;
    s.file = open(path, O_RDONLY | O_CLOEXEC);
    if (s.file < 0 || fstat(s.file, &st) != 0)
        fail(path);
    s.size = st.st_size;
    s.head_len = (size_t)snprintf(s.head, sizeof(s.head), "HTTP/1.1 200 OK\r\nContent-Length: %lld\r\n\r\n",
                                  (long long)s.size);
    for (int i = 1; i < processes; i++) {
        pid_t pid = fork();
        if (pid < 0)
            fail("fork");
        if (pid == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            break;
        }
    }
    s.listener = listen_on(port);
    s.epoll = epoll_create1(EPOLL_CLOEXEC);
    if (s.epoll < 0)
        fail("epoll_create1");
    watch(&s, s.listener, EPOLL_CTL_ADD, EPOLLIN);
    serve_loop(&s);
    return 0;
}

/* ---------------------------------------------------------------- store */

struct work {
    const char *folder;
    bool sync;
    uint64_t size;
    unsigned count;
    _Atomic unsigned next;
    uint8_t block[BLOCK_BYTES];
};

static void store_one(const struct work *w, unsigned index)
{
    char temporary[4096], final[4096];
    unsigned char digest[EVP_MAX_MD_SIZE];
    EVP_MD_CTX *hash = EVP_MD_CTX_new();
    snprintf(temporary, sizeof(temporary), "%s/part-%u", w->folder, index);
    snprintf(final, sizeof(final), "%s/blob-%u", w->folder, index);
    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    int folder = open(w->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (!hash || fd < 0 || folder < 0 || !EVP_DigestInit_ex(hash, EVP_sha256(), NULL))
        fail(temporary);
    for (uint64_t done = 0; done < w->size;) {
        size_t n = w->size - done < BLOCK_BYTES ? (size_t)(w->size - done) : BLOCK_BYTES;
        if (!EVP_DigestUpdate(hash, w->block, n) || write(fd, w->block, n) != (ssize_t)n)
            fail("write");
        done += n;
    }
    EVP_DigestFinal_ex(hash, digest, NULL);
    if ((w->sync && fsync(fd) != 0) || rename(temporary, final) != 0 || (w->sync && fsync(folder) != 0))
        fail("fsync and rename");
    close(fd);
    close(folder);
    EVP_MD_CTX_free(hash);
}

static void *store_thread(void *arg)
{
    struct work *w = arg;
    for (unsigned i; (i = w->next++) < w->count;)
        store_one(w, i);
    return NULL;
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int store(unsigned threads, struct work *w)
{
    pthread_t thread[THREADS_MAX];
    struct timespec cpu;
    double start = seconds();
    if (threads > THREADS_MAX)
        threads = THREADS_MAX;
    for (unsigned i = 0; i < threads; i++) {
        if (pthread_create(&thread[i], NULL, store_thread, w) != 0)
            fail("pthread_create");
    }
    for (unsigned i = 0; i < threads; i++)
        pthread_join(thread[i], NULL);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
    printf("{\"seconds\": %.6f, \"bytes\": %llu, \"cpu_s\": %.6f}\n", seconds() - start,
           (unsigned long long)w->size * w->count, (double)cpu.tv_sec + (double)cpu.tv_nsec / 1e9);
    return 0;
}

int main(int argc, char **argv)
{
    static struct work w;
    if (argc == 5 && strcmp(argv[1], "serve") == 0)
        return serve((uint16_t)strtoul(argv[2], NULL, 10), (int)strtol(argv[3], NULL, 10), argv[4]);
    if (argc == 7 && strcmp(argv[1], "store") == 0) {
        w.folder = argv[3];
        w.sync = strtol(argv[4], NULL, 10) != 0;
        w.size = strtoull(argv[5], NULL, 10);
        w.count = (unsigned)strtoul(argv[6], NULL, 10);
        return store((unsigned)strtoul(argv[2], NULL, 10), &w);
    }
    fprintf(stderr, "bare serve PORT PROCESSES FILE | bare store THREADS FOLDER SYNC SIZE COUNT\n");
    return 2;
}
