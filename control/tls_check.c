/* SPDX-License-Identifier: Apache-2.0 */
#include "control/tls_check.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#ifndef INT_MAX /* OpenSSL's header means the system's <limits.h> and finds ours */
#define INT_MAX __INT_MAX__
#endif
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"
#include "control/abi_addr.h"

enum {
    TICK_MS = 50,
    STARTS_PER_TICK = 5,
    UNDER_WAY_MAX = 32,
    RETRY_PART = 5,   /* of the interval, after a failure ... */
    RETRY_TIMES = 8,  /* ... so many times in a row: then it is known */
    LATE_PART = 4,    /* of the time-out: who looks so much too late has been stopped */
    LINGER_MS = 1000, /* for the other side's end */
    DISCARD_BYTES = 4096,
    ALERT_FIRST = SSL_AD_REASON_OFFSET,
};

enum state { CONNECTING, HANDSHAKING, LINGERING };

struct target;

/* One handshake; lives until both handles are closed. */
struct check {
    uv_poll_t poll;
    uv_timer_t timer;
    int fd;
    SSL *ssl;
    enum state state;
    struct target *target;      /* NULL: nobody waits for it */
    struct check *next, **prev; /* in tls_checks.open */
    struct tls_checks *owner;
    uint64_t deadline_ms, begun_ns;
    unsigned handles;
};

struct target {
    struct tls_check_target what;
    struct check *check; /* under way; NULL: none */
    uint64_t due_ms;
    unsigned failed; /* in a row */
    struct tls_check_view view;
};

struct tls_checks {
    uv_loop_t *loop;
    uv_timer_t timer;
    uint32_t mark;
    tls_check_told *told;
    void *arg;
    struct tls_check_times times;
    struct target **target; /* by id */
    size_t count, next;     /* next: to be looked at first */
    struct check *open;     /* all that have handles */
    unsigned under_way;     /* how many */
    bool closing, timer_closed;
};

static uint32_t random_below(uint32_t n)
{
    uint32_t random = 0;
    (void)uv_random(NULL, NULL, &random, sizeof(random), 0, NULL);
    return n ? random % n : 0;
}

/* ------------------------------------------------------------------ the end of one */

static void free_at_last(struct tls_checks *c)
{
    if (c->closing && c->timer_closed && c->under_way == 0)
        free(c);
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct check *k = handle->data;
    struct tls_checks *owner = k->owner;
    if (--k->handles)
        return;
    *k->prev = k->next;
    if (k->next)
        k->next->prev = k->prev;
    SSL_free(k->ssl);
    close(k->fd);
    free(k);
    owner->under_way--;
    free_at_last(owner);
}

static void check_end(struct check *k)
{
    if (k->target)
        k->target->check = NULL;
    k->target = NULL;
    if (uv_is_closing((uv_handle_t *)&k->timer))
        return;
    uv_poll_stop(&k->poll);
    uv_close((uv_handle_t *)&k->poll, on_handle_closed);
    uv_close((uv_handle_t *)&k->timer, on_handle_closed);
}

/* Nothing can be said: again before long. */
static void end_void(struct check *k)
{
    struct target *t = k->target;
    if (t)
        t->due_ms = uv_now(k->owner->loop) + k->owner->times.interval_ms / RETRY_PART;
    check_end(k);
}

static void target_told(struct tls_checks *c, struct target *t, uint32_t reason, const char *why,
                        uint64_t rtt_ns)
{
    bool good = reason == ABI_PROBE_OK;
    uint32_t ms = c->times.interval_ms;
    t->failed = good ? 0 : t->failed + 1;
    if (!good && t->failed <= RETRY_TIMES)
        ms /= RETRY_PART;
    t->due_ms = uv_now(c->loop) + ms - ms / 8 + random_below(ms / 4);
    t->view.checks++;
    t->view.failures += !good;
    t->view.told_ms = uv_now(c->loop);
    t->view.reason = reason;
    t->view.rtt_us = (uint32_t)(rtt_ns / 1000);
    snprintf(t->view.why, sizeof(t->view.why), "%s", why);
    c->told(c->arg, t->what.id, t->what.generation, reason);
}

static void end_told(struct check *k, uint32_t reason, const char *why)
{
    struct target *t = k->target;
    k->target = NULL;
    if (!t)
        return;
    t->check = NULL;
    target_told(k->owner, t, reason, why, uv_hrtime() - k->begun_ns);
}

static void end_failed(struct check *k, uint32_t reason, const char *why)
{
    end_told(k, reason, why);
    check_end(k);
}

/* ------------------------------------------------------------------ the handshake */

static void on_linger_over(uv_timer_t *timer)
{
    check_end(timer->data);
}

static void on_lingering(uv_poll_t *poll, int status, int events)
{
    struct check *k = poll->data;
    char bytes[DISCARD_BYTES];
    (void)events;
    ssize_t n = status ? 0 : recv(k->fd, bytes, sizeof(bytes), MSG_DONTWAIT);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
        check_end(k);
}

/* It has answered. What follows is for its log: a client that goes in an orderly way. */
static void end_good(struct check *k)
{
    end_told(k, ABI_PROBE_OK, "");
    k->state = LINGERING;
    (void)SSL_shutdown(k->ssl);
    ERR_clear_error();
    (void)shutdown(k->fd, SHUT_WR);
    CHECK(uv_poll_start(&k->poll, UV_READABLE, on_lingering) == 0);
    CHECK(uv_timer_start(&k->timer, on_linger_over, LINGER_MS, 0) == 0);
}

/* The handshake has failed: how. */
static void judge_error(struct check *k, int error)
{
    unsigned long code = ERR_peek_error();
    int reason = ERR_GET_REASON(code);
    long verified = SSL_get_verify_result(k->ssl);
    char why[TLS_CHECK_WHY_MAX];
    const char *text = ERR_reason_error_string(code);
    ERR_clear_error();
    if (verified != X509_V_OK && k->target && k->target->what.host[0]) {
        snprintf(why, sizeof(why), "its certificate: %s", X509_verify_cert_error_string(verified));
        end_failed(k, ABI_TLS_CERTIFICATE, why);
    } else if (error == SSL_ERROR_SSL && reason >= ALERT_FIRST && k->target && k->target->what.lenient) {
        end_told(k, ABI_PROBE_OK, "");
        check_end(k);
    } else {
        snprintf(why, sizeof(why), "%s", text ? text : "the connection ended in the middle of it");
        end_failed(k, ABI_TLS_FAILED, why);
    }
}

static void on_ready(uv_poll_t *poll, int status, int events);

static void handshake_step(struct check *k)
{
    ERR_clear_error();
    int ret = SSL_do_handshake(k->ssl);
    if (ret == 1) {
        end_good(k);
        return;
    }
    int error = SSL_get_error(k->ssl, ret);
    if (error == SSL_ERROR_WANT_READ)
        CHECK(uv_poll_start(&k->poll, UV_READABLE, on_ready) == 0);
    else if (error == SSL_ERROR_WANT_WRITE)
        CHECK(uv_poll_start(&k->poll, UV_WRITABLE, on_ready) == 0);
    else
        judge_error(k, error);
}

static void on_ready(uv_poll_t *poll, int status, int events)
{
    struct check *k = poll->data;
    int error = status;
    socklen_t len = sizeof(error);
    (void)events;
    if (k->state == CONNECTING) {
        if (error == 0)
            (void)getsockopt(k->fd, SOL_SOCKET, SO_ERROR, &error, &len);
        if (error) { /* the kernel sees it, too */
            end_void(k);
            return;
        }
        k->state = HANDSHAKING;
        k->begun_ns = uv_hrtime();
    }
    handshake_step(k);
}

/* The loop runs timers before it looks at sockets: what came meanwhile counts. */
static void on_timeout(uv_timer_t *timer)
{
    struct check *k = timer->data;
    const uint32_t timeout_ms = k->owner->times.timeout_ms;
    bool late = uv_now(k->owner->loop) > k->deadline_ms + timeout_ms / LATE_PART;
    if (k->state == HANDSHAKING) {
        struct target *t = k->target;
        handshake_step(k);
        if (!t || t->check != k)
            return; /* it has come to its end */
    }
    if (late || k->state == CONNECTING)
        end_void(k);
    else
        end_failed(k, ABI_TLS_TIMEOUT, "no answer to the ClientHello, or only a part of one");
}

/* ------------------------------------------------------------------ the beginning */

static socklen_t write_name(const struct abi_endpoint *at, struct sockaddr_storage *out)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = at->port};
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = at->port};
    memset(out, 0, sizeof(*out));
    if (abi_addr_is_v4(&at->addr)) {
        memcpy(&in.sin_addr, &at->addr.word[3], sizeof(in.sin_addr));
        memcpy(out, &in, sizeof(in));
        return sizeof(in);
    }
    memcpy(&in6.sin6_addr, &at->addr, sizeof(in6.sin6_addr));
    memcpy(out, &in6, sizeof(in6));
    return sizeof(in6);
}

/* A socket that is connecting, or -1. */
static int connect_to(const struct tls_checks *c, const struct abi_endpoint *at)
{
    struct sockaddr_storage to;
    socklen_t len = write_name(at, &to);
    int fd = socket(to.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP);
    if (fd < 0)
        return -1;
    if ((c->mark == 0 || setsockopt(fd, SOL_SOCKET, SO_MARK, &c->mark, sizeof(c->mark)) == 0) &&
        (connect(fd, (struct sockaddr *)&to, len) == 0 || errno == EINPROGRESS))
        return fd;
    close(fd);
    return -1;
}

static bool expect(SSL *ssl, const char *host)
{
    X509_VERIFY_PARAM *param = SSL_get0_param(ssl);
    if (X509_VERIFY_PARAM_set1_ip_asc(param, host) == 1)
        return true;
    ERR_clear_error();
    SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    return SSL_set1_host(ssl, host) == 1;
}

static SSL *ssl_make(const struct tls_check_target *what, int fd)
{
    SSL *ssl = SSL_new(what->context);
    if (ssl && SSL_set_fd(ssl, fd) && (!what->name[0] || SSL_set_tlsext_host_name(ssl, what->name)) &&
        (!what->host[0] || expect(ssl, what->host))) {
        SSL_set_connect_state(ssl);
        return ssl;
    }
    ERR_clear_error();
    SSL_free(ssl);
    return NULL;
}

static void check_begin(struct tls_checks *c, struct target *t)
{
    int fd = connect_to(c, &t->what.at);
    SSL *ssl = fd >= 0 ? ssl_make(&t->what, fd) : NULL;
    t->due_ms = uv_now(c->loop) + c->times.interval_ms;
    if (!ssl) {
        if (fd >= 0)
            close(fd);
        return;
    }
    struct check *k = calloc(1, sizeof(*k));
    CHECK(k);
    k->fd = fd;
    k->ssl = ssl;
    k->owner = c;
    k->target = t;
    k->poll.data = k->timer.data = k;
    k->handles = 2;
    k->deadline_ms = uv_now(c->loop) + c->times.timeout_ms;
    t->check = k;
    k->next = c->open;
    k->prev = &c->open;
    if (k->next)
        k->next->prev = &k->next;
    c->open = k;
    c->under_way++;
    CHECK(uv_poll_init(c->loop, &k->poll, fd) == 0);
    CHECK(uv_timer_init(c->loop, &k->timer) == 0);
    CHECK(uv_poll_start(&k->poll, UV_WRITABLE, on_ready) == 0);
    CHECK(uv_timer_start(&k->timer, on_timeout, c->times.timeout_ms, 0) == 0);
}

static void on_tick(uv_timer_t *timer)
{
    struct tls_checks *c = timer->data;
    uint64_t now_ms = uv_now(c->loop);
    unsigned started = 0;
    for (size_t i = 0; i < c->count && started < STARTS_PER_TICK && c->under_way < UNDER_WAY_MAX; i++) {
        struct target *t = c->target[c->next];
        c->next = (c->next + 1) % c->count;
        if (t->check || t->due_ms > now_ms)
            continue;
        check_begin(c, t);
        started++;
    }
}

/* ------------------------------------------------------------------ the set of them */

struct tls_checks *tls_checks_new(uv_loop_t *loop, uint32_t mark, tls_check_told *told, void *arg)
{
    struct tls_checks *c = calloc(1, sizeof(*c));
    CHECK(c);
    c->loop = loop;
    c->mark = mark;
    c->told = told;
    c->arg = arg;
    c->timer.data = c;
    CHECK(uv_timer_init(loop, &c->timer) == 0);
    return c;
}

static void target_free(struct target *t)
{
    if (t->check)
        check_end(t->check);
    SSL_CTX_free(t->what.context);
    free(t);
}

/* What was found out of it is true of what it is now. */
static bool same_backend(const struct target *t, const struct tls_check_target *what)
{
    return t->what.id == what->id && t->what.generation == what->generation;
}

static struct target *target_new(struct tls_checks *c, const struct tls_check_target *what)
{
    struct target *t = calloc(1, sizeof(*t));
    CHECK(t);
    t->due_ms = uv_now(c->loop) + random_below(c->times.interval_ms);
    t->what = *what;
    CHECK(SSL_CTX_up_ref(what->context) == 1);
    return t;
}

static void target_set(struct target *t, const struct tls_check_target *what)
{
    SSL_CTX *before = t->what.context;
    CHECK(SSL_CTX_up_ref(what->context) == 1);
    t->what = *what;
    SSL_CTX_free(before);
}

void tls_checks_set(struct tls_checks *c, const struct tls_check_times *times,
                    const struct tls_check_target *targets, size_t count)
{
    struct target **fresh = calloc(count + 1, sizeof(*fresh));
    size_t old = 0;
    CHECK(fresh);
    c->times = *times;
    for (size_t i = 0; i < count; i++) {
        while (old < c->count && c->target[old]->what.id < targets[i].id)
            target_free(c->target[old++]);
        if (old < c->count && same_backend(c->target[old], &targets[i])) {
            fresh[i] = c->target[old++];
            target_set(fresh[i], &targets[i]);
        } else {
            fresh[i] = target_new(c, &targets[i]);
        }
    }
    while (old < c->count)
        target_free(c->target[old++]);
    free(c->target);
    c->target = fresh;
    c->count = count;
    c->next = 0;
    if (count == 0)
        uv_timer_stop(&c->timer);
    else if (!uv_is_active((uv_handle_t *)&c->timer))
        CHECK(uv_timer_start(&c->timer, on_tick, TICK_MS, TICK_MS) == 0);
}

static void on_timer_closed(uv_handle_t *handle)
{
    struct tls_checks *c = handle->data;
    c->timer_closed = true;
    free_at_last(c);
}

void tls_checks_close(struct tls_checks *c)
{
    const struct tls_check_times times = c->times;
    tls_checks_set(c, &times, NULL, 0);
    free(c->target);
    c->target = NULL;
    c->closing = true;
    for (struct check *k = c->open; k; k = k->next)
        check_end(k);
    uv_close((uv_handle_t *)&c->timer, on_timer_closed);
}

static int compare_to_target(const void *id, const void *slot)
{
    uint32_t one = *(const uint32_t *)id, other = (*(const struct target *const *)slot)->what.id;
    return one < other ? -1 : one > other;
}

bool tls_checks_view(const struct tls_checks *c, uint32_t id, uint16_t generation, struct tls_check_view *out)
{
    struct target **found = bsearch(&id, c->target, c->count, sizeof(*c->target), compare_to_target);
    if (!found || (*found)->what.generation != generation)
        return false;
    *out = (*found)->view;
    return true;
}
