/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An HTTP/1.1 server of blobs that fails as told, for tests of what stands in front of it.
 *
 *   faulty [-c CERTIFICATE -k KEY] [-b FIRST:COUNT:SIZE] tcp:ADDRESS:PORT | tls:ADDRESS:PORT | unix:PATH ...
 *
 * It says "ready PORT..." and serves until its input ends; -b: blobs that are there from the beginning, every
 * other one chunked. Commands come as lines on its input, each is answered with one line:
 *
 *   blob SEED SIZE [chunked]      a blob (blob.h); "ok HEX", its SHA-256
 *   rule HEX WHEN COUNT FAULT AT VALUE
 *                                 the next COUNT requests (0: all) for it fail. WHEN: plain (without Range),
 *                                 range, any. AT: the offset in the blob before whose byte it happens, -1:
 *                                 before the answer. Rules of a blob are tried in their order, 4 at most.
 *   clear HEX                     no rules
 *   held                          "ok N": so many requests stand at a hold
 *   go                            those that are held go on
 *   seen HEX                      "ok PLAIN RANGE": requests so far
 *   total                         "ok N": requests for all blobs
 *
 * Faults at an offset: exit (of the whole process), reset, fin (a clean end of the connection, too early),
 * cut (the same without TLS's goodbye), hold (nothing more until `go`), rate (VALUE bytes a second from there
 * on), corrupt (wrong bytes from there on), garbage (no valid chunk; without chunks as fin), delay (VALUE
 * ms). In the head, AT is of no interest: status (VALUE), whole (200 though there is a Range), etag (another
 * one), size (the blob is said to be, and is, VALUE bytes longer or shorter).
 *
 * A thread a connection; GET and HEAD of any path that ends in the digest, /small/N gives N bytes, whatever
 * else is 404.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "tests/tools/blob.h"

enum {
    BLOBS_MAX = 8192,
    RULES_MAX = 4,
    HEAD_MAX = 16384,
    PIECE_BYTES = 16384,
    STACK_BYTES = 256 << 10,
    SERVED_MAX = 64,
    SERVING_NICE = 10,
};

enum fault {
    FAULT_NONE,
    FAULT_EXIT,
    FAULT_RESET,
    FAULT_FIN,
    FAULT_CUT,
    FAULT_HOLD,
    FAULT_RATE,
    FAULT_CORRUPT,
    FAULT_GARBAGE,
    FAULT_DELAY,
    FAULT_STATUS,
    FAULT_WHOLE,
    FAULT_ETAG,
    FAULT_SIZE,
};
static const char *const fault_names[] = {"none",    "exit",    "reset", "fin",    "cut",   "hold", "rate",
                                          "corrupt", "garbage", "delay", "status", "whole", "etag", "size"};
enum when { WHEN_PLAIN, WHEN_RANGE, WHEN_ANY };
static const char *const when_names[] = {"plain", "range", "any"};

struct rule {
    enum fault fault;
    enum when when;
    bool limited;
    unsigned left;
    int64_t at, value;
};

struct blob {
    char hex[65];
    uint64_t seed, size;
    bool chunked;
    struct rule rules[RULES_MAX];
    unsigned rule_count, plain_seen, range_seen;
};

static struct blob blobs[BLOBS_MAX];
static unsigned blob_count, held, turn; /* turn: how often `go` came */
static uint64_t total;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t released = PTHREAD_COND_INITIALIZER;
static SSL_CTX *tls;

struct client {
    int fd;
    SSL *ssl;
    char in[HEAD_MAX];
    size_t in_len;
    bool alive;
};

__attribute__((noreturn)) static void fail(const char *what)
{
    fprintf(stderr, "faulty: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* ---------------------------------------------------------------- bytes */

static ssize_t client_read(struct client *c, void *out, size_t len)
{
    return c->ssl ? SSL_read(c->ssl, out, (int)len) : recv(c->fd, out, len, 0);
}

static void client_put(struct client *c, const void *bytes, size_t len)
{
    const char *from = bytes;
    while (c->alive && len > 0) {
        ssize_t n = c->ssl ? SSL_write(c->ssl, from, (int)len) : send(c->fd, from, len, MSG_NOSIGNAL);
        if (n <= 0) {
            c->alive = false;
            return;
        }
        from += n;
        len -= (size_t)n;
    }
}

static void pause_ms(int64_t ms)
{
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

/* What was written is with the other end before it is told that this is all. */
static void client_drain(const struct client *c)
{
    int queued = 0;
    for (int i = 0; i < 2000 && ioctl(c->fd, SIOCOUTQ, &queued) == 0 && queued > 0; i++)
        pause_ms(1);
}

/* A body's piece, a chunk if it is chunked. */
static void put_piece(struct client *c, bool chunked, const uint8_t *bytes, size_t len)
{
    char line[32];
    if (!chunked) {
        client_put(c, bytes, len);
        return;
    }
    client_put(c, line, (size_t)snprintf(line, sizeof(line), "%zx\r\n", len));
    client_put(c, bytes, len);
    client_put(c, "\r\n", 2);
}

/* ---------------------------------------------------------------- faults */

static void hold(struct client *c)
{
    client_drain(c);
    pthread_mutex_lock(&lock);
    unsigned since = turn;
    held++;
    while (turn == since)
        pthread_cond_wait(&released, &lock);
    held--;
    pthread_mutex_unlock(&lock);
}

/* Does what happens at an offset. Afterwards the connection may be no more. */
static void fault_do(struct client *c, const struct rule *r, bool chunked)
{
    struct linger now = {.l_onoff = 1, .l_linger = 0};
    switch (r->fault) {
    case FAULT_EXIT:
        client_drain(c);
        kill(getpid(), SIGKILL);
        break;
    case FAULT_RESET:
        client_drain(c);
        setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
        c->alive = false;
        break;
    case FAULT_GARBAGE:
        if (chunked)
            client_put(c, "zz\r\n", 4);
        c->alive = false;
        break;
    case FAULT_FIN:
        if (c->ssl)
            SSL_shutdown(c->ssl);
        c->alive = false;
        break;
    case FAULT_CUT:
        c->alive = false;
        break;
    case FAULT_HOLD:
        hold(c);
        break;
    case FAULT_DELAY:
        pause_ms(r->value);
        break;
    default:
        break;
    }
}

static bool fault_in_body(enum fault f)
{
    return f >= FAULT_EXIT && f <= FAULT_DELAY;
}

/* Bytes [at, end) of a blob, with what goes wrong in them. */
static void put_body(struct client *c, const struct blob *b, const struct rule *r, uint64_t at, uint64_t end)
{
    uint8_t piece[PIECE_BYTES];
    bool pending = fault_in_body(r->fault) && r->at >= 0, wrong = false, slow = false;
    while (c->alive && at <= end) {
        if (pending && at >= (uint64_t)r->at) {
            pending = false;
            wrong = r->fault == FAULT_CORRUPT;
            slow = r->fault == FAULT_RATE;
            fault_do(c, r, b->chunked);
        }
        if (at == end || !c->alive)
            break;
        uint64_t until = pending && (uint64_t)r->at < end ? (uint64_t)r->at : end;
        size_t len = until - at < sizeof(piece) ? (size_t)(until - at) : sizeof(piece);
        if (slow) {
            int64_t rate = r->value > 0 ? r->value : 1;
            len = rate >= 100 ? (size_t)(rate / 100) : 1;
            len = len < sizeof(piece) ? len : sizeof(piece);
            len = len < end - at ? len : (size_t)(end - at);
            pause_ms(rate >= 100 ? 10 : 1000 / rate);
        }
        blob_fill(b->seed, at, piece, len);
        for (size_t i = 0; wrong && i < len; i++)
            piece[i] ^= 0x55;
        put_piece(c, b->chunked, piece, len);
        at += len;
    }
    if (c->alive && b->chunked)
        client_put(c, "0\r\n\r\n", 5);
}

/* ---------------------------------------------------------------- requests */

/* The value of a field, or NULL. The head ends in NUL. */
static const char *field(const char *head, const char *name)
{
    size_t len = strlen(name);
    for (const char *line = strstr(head, "\r\n"); line; line = strstr(line + 2, "\r\n"))
        if (strncasecmp(line + 2, name, len) == 0 && line[2 + len] == ':')
            return line + 3 + len + strspn(line + 3 + len, " \t");
    return NULL;
}

static struct blob *blob_find(const char *hex)
{
    for (unsigned i = 0; i < blob_count; i++)
        if (strncmp(blobs[i].hex, hex, 64) == 0)
            return &blobs[i];
    return NULL;
}

/* Counts the request and finds what goes wrong with it. */
static struct rule rule_take(struct blob *b, bool range)
{
    struct rule found = {.fault = FAULT_NONE};
    pthread_mutex_lock(&lock);
    total++;
    if (range)
        b->range_seen++;
    else
        b->plain_seen++;
    for (unsigned i = 0; i < b->rule_count; i++) {
        struct rule *r = &b->rules[i];
        bool matches = r->when == WHEN_ANY || (r->when == WHEN_RANGE) == range;
        if (!matches || (r->limited && r->left == 0))
            continue;
        if (r->limited)
            r->left--;
        found = *r;
        break;
    }
    pthread_mutex_unlock(&lock);
    return found;
}

static void put_simple(struct client *c, int status, size_t len, bool head_only)
{
    char line[256];
    client_put(c, line,
               (size_t)snprintf(line, sizeof(line),
                                "HTTP/1.1 %d %s\r\nContent-Type: text/plain\r\nContent-Length: %zu\r\n\r\n",
                                status, status == 200 ? "OK" : "No", len));
    memset(line, 'x', sizeof(line));
    for (size_t left = head_only ? 0 : len; left > 0;) {
        size_t n = left < sizeof(line) ? left : sizeof(line);
        client_put(c, line, n);
        left -= n;
    }
}

/* The range that is asked for, of `size` bytes: 0, or the status that refuses it. */
static int range_read(const char *text, uint64_t size, uint64_t *first, uint64_t *end)
{
    uint64_t last = UINT64_MAX;
    if (sscanf(text, "bytes=%" SCNu64 "-%" SCNu64, first, &last) < 1)
        return 400;
    if (*first >= size || last < *first)
        return 416;
    *end = last < size ? last + 1 : size;
    return 0;
}

static void put_blob(struct client *c, struct blob *b, const char *head, bool head_only)
{
    char out[1024];
    const char *range = field(head, "Range");
    struct rule r = rule_take(b, range != NULL);
    uint64_t size = b->size + (uint64_t)(r.fault == FAULT_SIZE ? r.value : 0), first = 0, end = size;
    if (fault_in_body(r.fault) && r.at < 0)
        fault_do(c, &r, false);
    if (!c->alive)
        return;
    if (r.fault == FAULT_WHOLE)
        range = NULL;
    int refused = r.fault == FAULT_STATUS ? (int)r.value : range ? range_read(range, size, &first, &end) : 0;
    if (refused) {
        put_simple(c, refused, 10, head_only);
        return;
    }
    int len = snprintf(out, sizeof(out), "HTTP/1.1 %s\r\nContent-Type: application/octet-stream\r\n",
                       range ? "206 Partial Content" : "200 OK");
    len += snprintf(out + len, sizeof(out) - (size_t)len,
                    "Accept-Ranges: bytes\r\nETag: \"%s%s\"\r\nDocker-Content-Digest: sha256:%s\r\n",
                    r.fault == FAULT_ETAG ? "another-" : "", b->hex, b->hex);
    if (range)
        len += snprintf(out + len, sizeof(out) - (size_t)len,
                        "Content-Range: bytes %" PRIu64 "-%" PRIu64 "/%" PRIu64 "\r\n", first, end - 1, size);
    if (b->chunked)
        len += snprintf(out + len, sizeof(out) - (size_t)len, "Transfer-Encoding: chunked\r\n\r\n");
    else
        len += snprintf(out + len, sizeof(out) - (size_t)len, "Content-Length: %" PRIu64 "\r\n\r\n",
                        end - first);
    client_put(c, out, (size_t)len);
    if (!head_only)
        put_body(c, b, &r, first, end);
}

static void answer(struct client *c, const char *head)
{
    bool head_only = strncmp(head, "HEAD ", 5) == 0;
    const char *target = strchr(head, ' ');
    size_t len = target ? strcspn(target + 1, " ?\r") : 0;
    if ((!head_only && strncmp(head, "GET ", 4) != 0) || !target) {
        put_simple(c, 405, 10, false);
        return;
    }
    pthread_mutex_lock(&lock);
    struct blob *b = len >= 64 ? blob_find(target + 1 + len - 64) : NULL;
    pthread_mutex_unlock(&lock);
    if (b)
        put_blob(c, b, head, head_only);
    else if (strncmp(target + 1, "/small/", 7) == 0)
        put_simple(c, 200, strtoul(target + 8, NULL, 10), head_only);
    else
        put_simple(c, strncmp(target + 1, "/v2/ ", 5) == 0 ? 200 : 404, 10, head_only);
}

/* Reads one head, answers it. Requests with bodies are none of its business. */
static void client_turn(struct client *c)
{
    char head[HEAD_MAX];
    char *end;
    while (!(end = memmem(c->in, c->in_len, "\r\n\r\n", 4))) {
        ssize_t n =
            c->in_len < sizeof(c->in) ? client_read(c, c->in + c->in_len, sizeof(c->in) - c->in_len) : 0;
        if (n <= 0) {
            c->alive = false;
            return;
        }
        c->in_len += (size_t)n;
    }
    size_t len = (size_t)(end - c->in) + 4;
    memcpy(head, c->in, len - 2);
    head[len - 2] = '\0';
    memmove(c->in, c->in + len, c->in_len - len);
    c->in_len -= len;
    answer(c, head);
}

static void *client_run(void *arg)
{
    struct client *c = arg;
    int one = 1;
    setpriority(PRIO_PROCESS, 0,
                SERVING_NICE); /* of this thread: many of them leave room for commands and starts */
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    c->alive = !c->ssl || (SSL_set_fd(c->ssl, c->fd) == 1 && SSL_accept(c->ssl) == 1);
    while (c->alive)
        client_turn(c);
    close(c->fd);
    SSL_free(c->ssl);
    free(c);
    return NULL;
}

/* ---------------------------------------------------------------- listening */

struct listener {
    int fd;
    bool tls;
};

static void *accept_run(void *arg)
{
    struct listener *l = arg;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    for (;;) {
        pthread_t thread;
        int fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0)
            continue;
        struct client *c = calloc(1, sizeof(*c));
        if (!c)
            fail("memory");
        c->fd = fd;
        c->ssl = l->tls ? SSL_new(tls) : NULL;
        if (pthread_create(&thread, &attributes, client_run, c) != 0) {
            close(fd);
            SSL_free(c->ssl);
            free(c);
        }
    }
    return NULL;
}

/* Fills in an address from ADDRESS:PORT (IPv6 in brackets or not) or a path; returns its length. */
static socklen_t address_read(char *text, bool is_path, struct sockaddr_storage *out)
{
    struct sockaddr_un *un = (struct sockaddr_un *)out;
    struct sockaddr_in *v4 = (struct sockaddr_in *)out;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)out;
    if (is_path) {
        un->sun_family = AF_UNIX;
        snprintf(un->sun_path, sizeof(un->sun_path), "%s", text);
        unlink(text);
        return sizeof(*un);
    }
    char *colon = strrchr(text, ':');
    if (!colon)
        fail("an address without a port");
    *colon = '\0';
    uint16_t port = htons((uint16_t)strtoul(colon + 1, NULL, 10));
    if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = port;
        return sizeof(*v4);
    }
    if (inet_pton(AF_INET6, text, &v6->sin6_addr) != 1)
        fail(text);
    v6->sin6_family = AF_INET6;
    v6->sin6_port = port;
    return sizeof(*v6);
}

static void listen_on(struct listener *l, char *text)
{
    struct sockaddr_storage at = {0};
    socklen_t len;
    int one = 1;
    bool is_path = strncmp(text, "unix:", 5) == 0;
    l->tls = strncmp(text, "tls:", 4) == 0;
    if (l->tls && !tls)
        fail("tls needs -c and -k");
    len = address_read(strchr(text, ':') + 1, is_path, &at);
    l->fd = socket(at.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (l->fd < 0 || (!is_path && setsockopt(l->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) != 0) ||
        bind(l->fd, (struct sockaddr *)&at, len) != 0 || listen(l->fd, 4096) != 0)
        fail(text);
    len = sizeof(at);
    if (getsockname(l->fd, (struct sockaddr *)&at, &len) != 0)
        fail("getsockname");
    printf(" %u", is_path ? 0 : (unsigned)ntohs(((struct sockaddr_in *)&at)->sin_port));
}

/* ---------------------------------------------------------------- commands */

static int name_index(const char *name, const char *const *names, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        if (strcmp(name, names[i]) == 0)
            return (int)i;
    return -1;
}

/* Gives it its digest. */
static void blob_hash(struct blob *b)
{
    static uint8_t piece[1 << 20];
    unsigned char digest[EVP_MAX_MD_SIZE];
    EVP_MD_CTX *hash = EVP_MD_CTX_new();
    if (!hash || EVP_DigestInit_ex(hash, EVP_sha256(), NULL) != 1)
        fail("sha256");
    for (uint64_t at = 0; at < b->size;) {
        size_t len = b->size - at < sizeof(piece) ? (size_t)(b->size - at) : sizeof(piece);
        blob_fill(b->seed, at, piece, len);
        EVP_DigestUpdate(hash, piece, len);
        at += len;
    }
    EVP_DigestFinal_ex(hash, digest, NULL);
    EVP_MD_CTX_free(hash);
    for (unsigned i = 0; i < 32; i++)
        snprintf(b->hex + 2 * (size_t)i, 3, "%02x", digest[i]);
}

/* Fills it in and makes it known. */
static void blob_add(struct blob *b)
{
    blob_hash(b);
    pthread_mutex_lock(&lock);
    if (blob_count == BLOBS_MAX)
        fail("too many blobs");
    blobs[blob_count++] = *b;
    pthread_mutex_unlock(&lock);
}

static void blobs_add(const char *text)
{
    uint64_t first, count, size;
    if (sscanf(text, "%" SCNu64 ":%" SCNu64 ":%" SCNu64, &first, &count, &size) != 3)
        fail(text);
    for (uint64_t i = 0; i < count; i++) {
        struct blob b = {.seed = first + i, .size = size, .chunked = i % 2 == 1};
        blob_add(&b);
    }
}

static void command_blob(const char *line)
{
    struct blob made = {0};
    char word[16] = "";
    if (sscanf(line, "blob %" SCNu64 " %" SCNu64 " %15s", &made.seed, &made.size, word) < 2) {
        puts("error");
        return;
    }
    made.chunked = strcmp(word, "chunked") == 0;
    blob_add(&made);
    printf("ok %s\n", made.hex);
}

static void command_rule(struct blob *b, const char *line)
{
    char when[16], fault[16];
    struct rule r = {0};
    if (sscanf(line, "rule %*64s %15s %u %15s %" SCNd64 " %" SCNd64, when, &r.left, fault, &r.at, &r.value) !=
            5 ||
        b->rule_count == RULES_MAX) {
        puts("error");
        return;
    }
    int w = name_index(when, when_names, 3);
    int f = name_index(fault, fault_names, sizeof(fault_names) / sizeof(*fault_names));
    if (w < 0 || f < 0) {
        puts("error");
        return;
    }
    r.when = (enum when)w;
    r.fault = (enum fault)f;
    r.limited = r.left > 0;
    b->rules[b->rule_count++] = r;
    puts("ok");
}

static void command_of_blob(const char *line, const char *word, const char *hex)
{
    struct blob *b;
    pthread_mutex_lock(&lock);
    b = blob_find(hex);
    if (!b) {
        puts("error");
    } else if (strcmp(word, "rule") == 0) {
        command_rule(b, line);
    } else if (strcmp(word, "clear") == 0) {
        b->rule_count = 0;
        puts("ok");
    } else {
        printf("ok %u %u\n", b->plain_seen, b->range_seen);
    }
    pthread_mutex_unlock(&lock);
}

static void command(const char *line)
{
    char word[16] = "", hex[65] = "";
    sscanf(line, "%15s %64s", word, hex);
    if (strcmp(word, "blob") == 0) {
        command_blob(line);
    } else if (strcmp(word, "rule") == 0 || strcmp(word, "clear") == 0 || strcmp(word, "seen") == 0) {
        command_of_blob(line, word, hex);
    } else if (strcmp(word, "held") == 0) {
        pthread_mutex_lock(&lock);
        printf("ok %u\n", held);
        pthread_mutex_unlock(&lock);
    } else if (strcmp(word, "go") == 0) {
        pthread_mutex_lock(&lock);
        turn++;
        pthread_cond_broadcast(&released);
        pthread_mutex_unlock(&lock);
        puts("ok");
    } else if (strcmp(word, "total") == 0) {
        printf("ok %" PRIu64 "\n", total);
    } else {
        puts("error");
    }
    fflush(stdout);
}

int main(int argc, char **argv)
{
    static struct listener listeners[SERVED_MAX];
    const char *certificate = NULL, *key = NULL;
    char line[512];
    pthread_t thread;
    signal(SIGPIPE, SIG_IGN);
    for (int c; (c = getopt(argc, argv, "c:k:b:")) != -1;) {
        if (c == 'c')
            certificate = optarg;
        else if (c == 'k')
            key = optarg;
        else if (c == 'b')
            blobs_add(optarg);
        else
            return 2;
    }
    if (certificate && key) {
        tls = SSL_CTX_new(TLS_server_method());
        if (!tls || SSL_CTX_use_certificate_chain_file(tls, certificate) != 1 ||
            SSL_CTX_use_PrivateKey_file(tls, key, SSL_FILETYPE_PEM) != 1)
            fail("certificate");
    }
    printf("ready");
    for (int i = optind; i < argc && i - optind < SERVED_MAX; i++)
        listen_on(&listeners[i - optind], argv[i]);
    puts("");
    fflush(stdout);
    for (int i = optind; i < argc && i - optind < SERVED_MAX; i++)
        if (pthread_create(&thread, NULL, accept_run, &listeners[i - optind]) != 0)
            fail("thread");
    while (fgets(line, sizeof(line), stdin))
        command(line);
    return 0;
}
