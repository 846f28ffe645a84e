/* SPDX-License-Identifier: Apache-2.0 */
/* A blob on its way between two registries that break off, refuse, redirect, stall and lie. Both are threads
 * of this program on loopback. */
#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "check.h"
#include "control/mirror/pass.h"

/* The larger one does not fit into sockets, if the receiving one is kept small. */
enum { LARGE = 5 << 20, LARGER = 24 << 20, PIECE = 2 << 20, HEAD_MAX = 8192 };

enum manner {
    GIVES,    /* all of it, or what Range asks for */
    CUTS,     /* once: a third, and it breaks off */
    BREAKS,   /* again and again: a thousand bytes */
    PIECES,   /* again and again: PIECE bytes */
    RESTARTS, /* once: a third, and it breaks off; then it is BACK */
    BACK,     /* once: `answer`, or without one the end of the connection */
    HOLDS,    /* half of it, and nothing more until the test ends */
    SHORT,    /* a byte less, and says so */
    LIES,     /* one byte is another one */
    TOO_MUCH, /* a byte behind the end */
    LACKS,    /* 404 */
    TAKES,    /* 201 when all is there */
    REFUSES,  /* `answer` before the body */
    OLD,      /* 417, if it is asked whether it wants a body */
    TIRES,    /* `answer` after a third of the body */
    DIES,     /* after a third of the body, without a word */
    STALLS,   /* reads no more after a third of the body */
    FORGETS,  /* reads all, and does not answer */
};

struct host {
    enum manner manner;
    const char *answer; /* status and fields */
    const uint8_t *bytes;
    size_t size;
    int listener, release[2];
    uint16_t port;
    pthread_t thread;
    char url[64];
    atomic_uint requests, expects, received, whole, right;
};

static void say(int fd, const void *bytes, size_t len)
{
    for (size_t at = 0; at < len;) {
        ssize_t n = send(fd, (const char *)bytes + at, len - at, MSG_NOSIGNAL);
        if (n <= 0)
            return;
        at += (size_t)n;
    }
}

/* The head of a request; false: there is none. */
static bool head_read(int fd, char head[HEAD_MAX])
{
    size_t len = 0;
    while (len + 1 < HEAD_MAX) {
        if (recv(fd, head + len, 1, 0) != 1)
            return false;
        head[++len] = '\0';
        if (len >= 4 && memcmp(head + len - 4, "\r\n\r\n", 4) == 0)
            return true;
    }
    return false;
}

/* Until the test ends. */
static void hold(struct host *h)
{
    char byte;
    CHECK(read(h->release[0], &byte, 1) == 0);
}

static bool give(struct host *h, int fd, const char *head)
{
    const char *range = strstr(head, "Range: bytes=");
    size_t from = range ? strtoul(range + strlen("Range: bytes="), NULL, 10) : 0;
    size_t len = h->size - from, cut = len;
    char text[256];
    enum manner manner = h->manner;
    if (manner == CUTS) {
        h->manner = GIVES;
        cut = len / 3;
    }
    if (manner == RESTARTS) {
        h->manner = BACK;
        cut = len / 3;
    }
    if (manner == BREAKS)
        cut = 1000;
    if (manner == PIECES && cut > PIECE)
        cut = PIECE;
    if (manner == HOLDS)
        cut = len / 2;
    if (manner == SHORT)
        cut = --len;
    snprintf(text, sizeof(text),
             "HTTP/1.1 %s\r\nContent-Length: %zu\r\nContent-Range: bytes %zu-%zu/%zu\r\n\r\n",
             range ? "206 Partial" : "200 OK", len + (manner == TOO_MUCH), from, h->size - 1, h->size);
    say(fd, text, strlen(text));
    if (manner == LIES) {
        say(fd, h->bytes + from, len - 1);
        say(fd, "\0", 1);
        return true;
    }
    say(fd, h->bytes + from, cut);
    if (manner == TOO_MUCH)
        say(fd, "x", 1);
    if (manner == HOLDS)
        hold(h);
    return cut == len;
}

/* Reads up to `most` bytes of the body; how many came. */
static size_t body_read(struct host *h, int fd, size_t most)
{
    static _Thread_local uint8_t piece[1 << 16];
    size_t at = 0;
    bool right = true;
    while (at < most) {
        ssize_t n = recv(fd, piece, most - at < sizeof(piece) ? most - at : sizeof(piece), 0);
        if (n <= 0)
            break;
        right = right && at + (size_t)n <= h->size && memcmp(piece, h->bytes + at, (size_t)n) == 0;
        at += (size_t)n;
        atomic_fetch_add(&h->received, (unsigned)n);
    }
    if (right && at == h->size)
        atomic_fetch_add(&h->right, 1);
    return at;
}

static void answer(struct host *h, int fd)
{
    char text[512];
    snprintf(text, sizeof(text), "HTTP/1.1 %s\r\nContent-Length: 0\r\n\r\n", h->answer);
    say(fd, text, strlen(text));
}

static bool take(struct host *h, int fd, const char *head)
{
    static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n", good[] = "HTTP/1.1 201 Created\r\n"
                                                                          "Content-Length: 0\r\n\r\n";
    const char *length = strstr(head, "Content-Length: ");
    size_t len = length ? strtoul(length + strlen("Content-Length: "), NULL, 10) : 0;
    bool partly = h->manner == TIRES || h->manner == DIES || h->manner == STALLS;
    bool expects = strstr(head, "Expect: 100-continue") != NULL;
    if (h->manner == REFUSES || (h->manner == OLD && expects)) {
        answer(h, fd);
        return h->manner == OLD || body_read(h, fd, LARGE) == LARGE;
    }
    if (expects) {
        atomic_fetch_add(&h->expects, 1);
        say(fd, go_on, strlen(go_on));
    }
    size_t got = body_read(h, fd, partly ? len / 3 : len);
    if (h->manner == TIRES)
        answer(h, fd);
    if (h->manner == STALLS)
        hold(h);
    if (h->manner == FORGETS || h->manner == TIRES)
        body_read(h, fd, LARGE); /* what it said is not to be lost in a reset */
    if ((h->manner != TAKES && h->manner != OLD) || got < len)
        return false;
    atomic_fetch_add(&h->whole, 1);
    say(fd, good, strlen(good));
    return true;
}

static bool serve(struct host *h, int fd)
{
    char head[HEAD_MAX];
    if (!head_read(fd, head))
        return false;
    atomic_fetch_add(&h->requests, 1);
    if (h->manner == BACK) {
        h->manner = GIVES;
        if (h->answer[0] == '\0')
            return false;
        answer(h, fd);
        return true;
    }
    if (h->manner == LACKS) {
        answer(h, fd);
        return true;
    }
    return strncmp(head, "GET ", 4) == 0 ? give(h, fd, head) : take(h, fd, head);
}

static void *host_run(void *arg)
{
    struct host *h = arg;
    for (;;) {
        int fd = accept(h->listener, NULL, NULL);
        if (fd < 0)
            return NULL;
        while (serve(h, fd))
            ;
        close(fd);
    }
}

static void host_begin(struct host *h)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(at);
    h->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(pipe(h->release), 0);
    if (h->manner == STALLS)
        assert_int_equal(setsockopt(h->listener, SOL_SOCKET, SO_RCVBUF, &(int){32 << 10}, sizeof(int)), 0);
    assert_int_equal(bind(h->listener, (struct sockaddr *)&at, len), 0);
    assert_int_equal(listen(h->listener, 16), 0);
    assert_int_equal(getsockname(h->listener, (struct sockaddr *)&at, &len), 0);
    snprintf(h->url, sizeof(h->url), "http://127.0.0.1:%u", ntohs(at.sin_port));
    assert_int_equal(pthread_create(&h->thread, NULL, host_run, h), 0);
}

static void host_end(struct host *h)
{
    close(h->release[1]);
    shutdown(h->listener, SHUT_RDWR);
    pthread_join(h->thread, NULL);
    close(h->listener);
    close(h->release[0]);
}

/* --- the two, and what is between them --- */

struct scene {
    struct host from, to;
    struct side_config from_config, to_config;
    struct carrier *carrier;
    struct side *from_side, *to_side;
    struct pipe pipe;
    struct pass pass;
    char digest[80], err[SIDE_ERROR_MAX];
    size_t moved;
    bool quick; /* in less time than a body waits for 100-continue */
};

static void on_moved(void *arg, size_t bytes)
{
    ((struct scene *)arg)->moved += bytes;
}

static int run(struct scene *s, enum manner from, enum manner to, const char *text, const uint8_t *bytes,
               size_t size)
{
    uint8_t sum[32];
    memset(s, 0, sizeof(*s));
    s->from = (struct host){.manner = from, .answer = text, .bytes = bytes, .size = size};
    s->to = (struct host){.manner = to, .answer = text, .bytes = bytes, .size = size};
    host_begin(&s->from);
    host_begin(&s->to);
    s->from_config = (struct side_config){.name = "the source", .url = s->from.url};
    s->to_config = (struct side_config){.name = "the target", .url = s->to.url, .user = "u", .password = "p"};
    s->carrier = carrier_new();
    assert_non_null(s->carrier);
    s->from_side = side_new(&s->from_config, s->carrier);
    s->to_side = side_new(&s->to_config, s->carrier);
    assert_true(s->from_side && s->to_side && pipe_init(&s->pipe));
    assert_int_equal(EVP_Digest(bytes, size, sum, NULL, EVP_sha256(), NULL), 1);
    int at = snprintf(s->digest, sizeof(s->digest), "sha256:");
    for (unsigned i = 0; i < 32; i++)
        at += snprintf(s->digest + at, sizeof(s->digest) - (size_t)at, "%02x", sum[i]);
    assert_int_equal(pipe_begin(&s->pipe, s->digest, (int64_t)size), 0);
    s->pass = (struct pass){.from = s->from_side,
                            .to = s->to_side,
                            .get = {.path = "/v2/a/blobs/x", .repo = "a"},
                            .put = {.path = "/v2/b/blobs/uploads/1?digest=x", .repo = "b"},
                            .pipe = &s->pipe,
                            .stall_ms = to == STALLS ? 300 : 600000,
                            .answer_ms = to == FORGETS || to == STALLS ? 300 : 600000,
                            .resume_ms = 1,
                            .moved = on_moved,
                            .arg = s};
    struct timespec begun, ended;
    clock_gettime(CLOCK_MONOTONIC, &begun);
    int rc = pass_run(&s->pass, s->err);
    clock_gettime(CLOCK_MONOTONIC, &ended);
    s->quick = (ended.tv_sec - begun.tv_sec) * 1000 + (ended.tv_nsec - begun.tv_nsec) / 1000000 < 900;
    side_free(s->from_side);
    side_free(s->to_side);
    carrier_free(s->carrier);
    pipe_fini(&s->pipe);
    host_end(&s->from);
    host_end(&s->to);
    return rc;
}

static uint8_t *large;

static int group_begin(void **state)
{
    (void)state;
    large = malloc(LARGER);
    for (size_t i = 0; large && i < LARGER; i++)
        large[i] = (uint8_t)(1 + (i * 2654435761u >> 13) % 255);
    return large ? 0 : -1;
}

static int group_end(void **state)
{
    (void)state;
    free(large);
    return 0;
}

static void test_all_of_it(void **state)
{
    static const size_t sizes[] = {0, 1, 1000, 65536, PIPE_BYTES, LARGE};
    struct scene s;
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        assert_int_equal(run(&s, GIVES, TAKES, "", large, sizes[i]), 0);
        assert_int_equal(s.to.whole, 1);
        assert_int_equal(s.to.right, 1);
        assert_int_equal(s.to.requests, 1);
        assert_int_equal(s.from.requests, sizes[i] > 0);
        assert_int_equal(s.to.expects, sizes[i] >= 1 << 20);
        assert_int_equal(s.moved, sizes[i]);
    }
}

static void test_a_source_that_breaks_off_is_asked_for_the_rest(void **state)
{
    struct scene s;
    (void)state;
    assert_int_equal(run(&s, CUTS, TAKES, "", large, LARGE), 0);
    assert_int_equal(s.from.requests, 2);
    assert_int_equal(s.to.requests, 1);
    assert_int_equal(s.to.right, 1);
    assert_int_equal(run(&s, BREAKS, TAKES, "", large, LARGE), -EAGAIN);
    assert_non_null(strstr(s.err, "the source: "));
    assert_int_equal(s.from.requests, 9);
    assert_true(s.to.received <= 9 * 1000);
    assert_int_equal(s.to.whole, 0);
}

/* And while it does not answer yet. */
static void test_a_source_that_is_started_anew(void **state)
{
    static const char *const answers[] = {"", "503 Later\r\nRetry-After: 9"};
    struct scene s;
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(answers); i++) {
        assert_int_equal(run(&s, RESTARTS, TAKES, answers[i], large, LARGE), 0);
        assert_int_equal(s.from.requests, 3);
        assert_int_equal(s.to.requests, 1);
        assert_int_equal(s.to.right, 1);
        assert_false(s.pass.silent);
        assert_int_equal(s.pass.wait_s, 0);
    }
}

static void test_a_source_that_comes_in_many_pieces(void **state)
{
    struct scene s;
    (void)state;
    assert_int_equal(run(&s, PIECES, TAKES, "", large, LARGER), 0);
    assert_int_equal(s.from.requests, LARGER / PIECE);
    assert_int_equal(s.to.requests, 1);
    assert_int_equal(s.to.right, 1);
}

static void test_what_is_something_else_never_ends(void **state)
{
    static const enum manner manners[] = {LIES, TOO_MUCH, SHORT};
    static const size_t sizes[] = {10, LARGE};
    struct scene s;
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(manners); i++)
        for (size_t k = 0; k < ARRAY_SIZE(sizes); k++) {
            assert_int_equal(run(&s, manners[i], TAKES, "", large, sizes[k]), -EBADMSG);
            assert_int_equal(s.to.whole, 0);
            assert_true(s.to.received < sizes[k]);
        }
}

static void test_a_source_that_has_nothing(void **state)
{
    struct scene s;
    (void)state;
    assert_int_equal(run(&s, LACKS, TAKES, "404 Not Found", large, LARGE), -EPERM);
    assert_non_null(strstr(s.err, "the source: a blob is fetched: status 404"));
    assert_int_equal(s.to.requests, 0);
    assert_int_equal(run(&s, LACKS, TAKES, "503 Later\r\nRetry-After: 9", large, LARGE), -EAGAIN);
    assert_int_equal(s.pass.wait_s, 9);
    assert_false(s.pass.silent);
}

/* Before the body, or in the middle of it; with and without an end of the connection. */
static void test_a_destination_that_answers_early(void **state)
{
    static const struct {
        const char *answer, *text;
        int rc;
        long wait_s;
    } rows[] = {
        {"413 Too Large", "status 413", -EPERM, 0},
        {"413 Too Large\r\nConnection: close", "status 413", -EPERM, 0},
        {"403 Forbidden", "status 403", -EPERM, 0},
        {"408 Too Slow\r\nConnection: close", "status 408", -EAGAIN, 0},
        {"429 Too Many\r\nRetry-After: 7", "status 429", -EAGAIN, 7},
        {"503 Later\r\nRetry-After: 3\r\nConnection: close", "status 503", -EAGAIN, 3},
        {"307 Elsewhere\r\nLocation: http://127.0.0.1:1/there?secret", "elsewhere: http://127.0.0.1:1/there",
         -EPERM, 0},
        {"401 Who\r\nWWW-Authenticate: Basic realm=\"x\"", "status 401", -EAGAIN, 0},
        {"401 Who\r\nWWW-Authenticate: Negotiate", "status 401", -EPERM, 0},
        {"404 Unknown", "status 404", -EAGAIN, 0},
    };
    static const enum manner manners[] = {REFUSES, TIRES};
    struct scene s;
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        for (size_t k = 0; k < ARRAY_SIZE(manners); k++) {
            int rc = run(&s, GIVES, manners[k], rows[i].answer, large, LARGE);
            assert_int_equal(rc, rows[i].rc);
            assert_non_null(strstr(s.err, rows[i].text));
            assert_null(strstr(s.err, "secret"));
            assert_int_equal(s.pass.wait_s, rows[i].wait_s);
            assert_int_equal(s.to.requests, 1);
            assert_false(s.pass.silent);
            if (manners[k] == REFUSES && s.quick)
                assert_int_equal(s.to.received, 0);
        }
}

/* While it waits for more. */
static void test_a_destination_that_answers_early_to_a_slow_source(void **state)
{
    static const char *const answers[] = {"413 Too Large", "413 Too Large\r\nConnection: close"};
    struct scene s;
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(answers); i++) {
        assert_int_equal(run(&s, HOLDS, TIRES, answers[i], large, LARGE), -EPERM);
        assert_non_null(strstr(s.err, "the target: it did not want all of a blob: status 413"));
        assert_int_equal(s.from.requests, 1);
    }
}

/* It goes on with a body that is wanted all the same: without being asked first. */
static void test_an_expectation_that_is_not_known(void **state)
{
    struct scene s;
    (void)state;
    int rc = run(&s, GIVES, OLD, "417 What", large, LARGE);
    if (!s.quick)
        return; /* it may have sent some of it before, which is not sent again */
    assert_int_equal(rc, 0);
    assert_int_equal(s.to.requests, 2);
    assert_int_equal(s.to.received, LARGE);
    assert_int_equal(s.to.right, 1);
}

static void test_a_destination_that_dies(void **state)
{
    struct scene s;
    (void)state;
    assert_int_equal(run(&s, GIVES, DIES, "", large, LARGE), -EAGAIN);
    assert_true(s.pass.silent);
    assert_non_null(strstr(s.err, "the target: "));
}

static void test_a_destination_that_stalls(void **state)
{
    struct scene s;
    (void)state;
    assert_int_equal(run(&s, GIVES, STALLS, "", large, LARGER), -EAGAIN);
    assert_string_equal(s.err, "the target: it does not take a blob any more");
    assert_int_equal(run(&s, GIVES, FORGETS, "", large, 1000), -EAGAIN);
    assert_string_equal(s.err, "the target: no answer to a blob that it has got");
    assert_true(s.pass.silent && s.pass.lost);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_of_it),
        cmocka_unit_test(test_a_source_that_breaks_off_is_asked_for_the_rest),
        cmocka_unit_test(test_a_source_that_is_started_anew),
        cmocka_unit_test(test_a_source_that_comes_in_many_pieces),
        cmocka_unit_test(test_what_is_something_else_never_ends),
        cmocka_unit_test(test_a_source_that_has_nothing),
        cmocka_unit_test(test_a_destination_that_answers_early),
        cmocka_unit_test(test_a_destination_that_answers_early_to_a_slow_source),
        cmocka_unit_test(test_an_expectation_that_is_not_known),
        cmocka_unit_test(test_a_destination_that_dies),
        cmocka_unit_test(test_a_destination_that_stalls),
    };
    return cmocka_run_group_tests(tests, group_begin, group_end);
}
