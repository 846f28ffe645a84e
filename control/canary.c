/* SPDX-License-Identifier: Apache-2.0 */
#include "control/canary.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"
#include "control/abi_addr.h"

enum {
    PORT_TRIES = 8,
    DISCARD_BYTES = 4096,
    DISCARD_BYTES_MAX = 65536, /* a server that says more than this on an idle connection */
    KEEPALIVE_S = 15,          /* against peers that are gone without a word */
    KEEPALIVE_PROBES = 3,
    RENEW_PERCENT = 70,     /* of the life that a server gives */
    SAME_LIFE_PERCENT = 25, /* two lives that differ by less are of one rule */
    FORGET_RENEWALS = 4, /* one early end may have been a restart: after so many it is tried without again */
};

const struct canary_times canary_times_usual = {
    .retry_ms = 100,
    .retry_max_ms = 30000,
    .life_min_ms = 2000,
    .died_ms = 1000,
    .unwanted_ms = 60000,
    .unwanted_max_ms = 3600000,
    .connect_ms = 5000,
};

struct canary;

/* One connection; lives until its handle is closed. */
struct connection {
    uv_poll_t poll;
    int fd;
    size_t discarded_bytes;
    struct canary *canary; /* NULL: given up */
};

enum canary_state { CANARY_WAITING, CANARY_CONNECTING, CANARY_OPEN };

/*
 * WAITING -> (timer) CONNECTING -> OPEN -> (the other end closed) WAITING, (timer: renewal) CONNECTING;
 * CONNECTING -> (failed, timer) WAITING.
 */
struct canary {
    uv_timer_t timer;
    struct canaries *owner; /* NULL: given up */
    struct abi_endpoint at;
    enum canary_state state;
    bool closed_early;   /* the last one, by the server: was it the end of the process or a rule? */
    bool life_confirmed; /* a rule: seen twice */
    bool renewing;       /* before the life is over */
    bool down;           /* the kernel says so: what ends now ends with its process */
    uint32_t failures;   /* in a row */
    uint32_t unwanted;   /* times in a row that it was closed at once */
    uint32_t renewals;   /* with the life as it is */
    uint64_t opened_ms;
    uint64_t ended_ms;     /* by the server */
    uint64_t life_ms;      /* that the server gives; 0: not known */
    uint64_t last_life_ms; /* how long the one that ended had lived */
    struct connection *connection;
};

struct canaries {
    uv_loop_t *loop;
    struct canary_times times;
    uint32_t max;
    struct canary **canary; /* sorted by endpoint */
    size_t count;
    uint32_t next_port;
    struct canary_counts counts;
};

static void open_canary(struct canary *canary);

int canary_compare(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(struct abi_endpoint));
}

/* Three to five quarters of it. */
static uint64_t vary(uint64_t ms)
{
    uint32_t random = 0;
    uv_random(NULL, NULL, &random, sizeof(random), 0, NULL);
    return ms - ms / 4 + random % (ms / 2 + 1);
}

static uint64_t doubled(uint32_t first_ms, uint32_t max_ms, uint32_t times)
{
    uint64_t ms = first_ms;
    while (times-- > 0 && ms < max_ms)
        ms *= 2;
    return ms < max_ms ? ms : max_ms;
}

/* Ends of connections. */

static void on_connection_closed(uv_handle_t *handle)
{
    struct connection *connection = handle->data;
    close(connection->fd);
    free(connection);
}

static void drop_connection(struct canary *canary)
{
    if (!canary->connection)
        return;
    uv_poll_stop(&canary->connection->poll);
    canary->connection->canary = NULL;
    uv_close((uv_handle_t *)&canary->connection->poll, on_connection_closed);
    canary->connection = NULL;
}

static void on_timer(uv_timer_t *timer)
{
    struct canary *canary = timer->data;
    struct canary_counts *counts = &canary->owner->counts;
    if (canary->state == CANARY_CONNECTING) {
        counts->failures++;
        canary->failures++;
    } else if (canary->state == CANARY_OPEN) {
        counts->open--;
        counts->renewed++;
        if (!canary->life_confirmed && ++canary->renewals >= FORGET_RENEWALS)
            canary->renewing = false;
    }
    open_canary(canary);
}

static void wait_ms(struct canary *canary, uint64_t ms)
{
    if (canary->state == CANARY_OPEN)
        canary->owner->counts.open--;
    drop_connection(canary);
    canary->state = CANARY_WAITING;
    uv_timer_start(&canary->timer, on_timer, vary(ms), 0);
}

static void attempt_failed(struct canary *canary)
{
    const struct canary_times *times = &canary->owner->times;
    canary->owner->counts.failures++;
    canary->closed_early = false; /* it had ended, it was no rule */
    wait_ms(canary, doubled(times->retry_ms, times->retry_max_ms, canary->failures++));
}

/* The server closed it, and takes the next one as if nothing had been: it has a rule for idle connections. */
static void learn_life(struct canary *canary)
{
    uint64_t life_ms = canary->last_life_ms, before_ms = canary->life_ms;
    uint64_t apart_ms = life_ms > before_ms ? life_ms - before_ms : before_ms - life_ms;
    canary->closed_early = false;
    canary->renewing = true;
    canary->renewals = 0;
    if (before_ms == 0 || apart_ms * 100 >= before_ms * SAME_LIFE_PERCENT) {
        canary->life_confirmed = false;
        canary->life_ms = life_ms;
    } else {
        canary->life_confirmed = true;
        canary->life_ms = life_ms < before_ms ? life_ms : before_ms;
    }
}

static void ended_by_server(struct canary *canary)
{
    const struct canary_times *times = &canary->owner->times;
    uint64_t lived_ms = uv_now(canary->owner->loop) - canary->opened_ms;
    canary->owner->counts.closed++;
    canary->ended_ms = uv_now(canary->owner->loop);
    if (canary->down) {
        wait_ms(canary, doubled(times->retry_ms, times->retry_max_ms, canary->failures++));
        return;
    }
    canary->failures = 0;
    if (lived_ms < times->life_min_ms) {
        canary->closed_early = false;
        wait_ms(canary, doubled(times->unwanted_ms, times->unwanted_max_ms, canary->unwanted++));
        return;
    }
    canary->unwanted = 0;
    canary->closed_early = true;
    canary->last_life_ms = lived_ms;
    wait_ms(canary, times->retry_ms);
}

/* Opening. */

static void opened(struct canary *canary)
{
    canary->state = CANARY_OPEN;
    canary->owner->counts.open++;
    if (!canary->down)
        canary->failures = 0;
    canary->opened_ms = uv_now(canary->owner->loop);
    if (canary->closed_early)
        learn_life(canary);
    uv_timer_stop(&canary->timer);
    if (canary->renewing)
        uv_timer_start(&canary->timer, on_timer, canary->life_ms * RENEW_PERCENT / 100, 0);
}

/* Reads and forgets. False: it is over. */
static bool discard(struct connection *connection)
{
    char bytes[DISCARD_BYTES];
    ssize_t n = recv(connection->fd, bytes, sizeof(bytes), MSG_DONTWAIT);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR;
    connection->discarded_bytes += (size_t)n;
    return n > 0 && connection->discarded_bytes <= DISCARD_BYTES_MAX;
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    struct connection *connection = poll->data;
    struct canary *canary = connection->canary;
    (void)events;
    if (canary->state == CANARY_CONNECTING) {
        int error = status;
        socklen_t len = sizeof(error);
        if (error == 0)
            getsockopt(connection->fd, SOL_SOCKET, SO_ERROR, &error, &len);
        if (error != 0) {
            attempt_failed(canary);
            return;
        }
        opened(canary);
        uv_poll_start(poll, UV_READABLE | UV_DISCONNECT, on_poll);
    } else if (status != 0 || !discard(connection)) {
        ended_by_server(canary);
    }
}

/* Through memcpy: whoever reads the family reads it as another type. */
static socklen_t write_name(const struct abi_addr *addr, uint16_t port, struct sockaddr_storage *out)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = port};
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = port};
    memset(out, 0, sizeof(*out));
    if (abi_addr_is_v4(addr)) {
        memcpy(&in.sin_addr, &addr->word[3], sizeof(in.sin_addr));
        memcpy(out, &in, sizeof(in));
        return sizeof(in);
    }
    memcpy(&in6.sin6_addr, addr, sizeof(in6.sin6_addr));
    memcpy(out, &in6, sizeof(in6));
    return sizeof(in6);
}

/* Without the right to mark it there is no canary: steer would take it elsewhere. However we close it, even
 * by dying, it is with a reset: the FIN with which a server answers ours would look like its end. */
static int make_socket(int family)
{
    int one = 1, mark = ABI_MARK, idle_s = KEEPALIVE_S, probes = KEEPALIVE_PROBES;
    struct linger reset = {.l_onoff = 1};
    int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP);
    if (fd < 0)
        return -errno;
    if (setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)) ||
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) ||
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)) ||
        setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one)) ||
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s)) ||
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &idle_s, sizeof(idle_s)) ||
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes))) {
        int error = errno;
        close(fd);
        return -error;
    }
    return fd;
}

/* A socket that is connecting from the next port, or -errno. */
static int connect_from_next_port(struct canaries *canaries, const struct abi_endpoint *at)
{
    static const struct abi_addr any6;
    struct abi_addr any4 = {.word = {0, 0, htonl(0xffff), 0}};
    struct sockaddr_storage to, from;
    socklen_t to_len = write_name(&at->addr, at->port, &to);
    uint16_t port = htons((uint16_t)(ABI_CANARY_PORT_FIRST + canaries->next_port++ % ABI_CANARY_PORTS));
    socklen_t from_len = write_name(to.ss_family == AF_INET ? &any4 : &any6, port, &from);
    int fd = make_socket(to.ss_family);
    if (fd < 0)
        return fd;
    if (bind(fd, (struct sockaddr *)&from, from_len) == 0 &&
        (connect(fd, (struct sockaddr *)&to, to_len) == 0 || errno == EINPROGRESS))
        return fd;
    int error = errno;
    close(fd);
    return -error;
}

/* -EADDRINUSE and -EADDRNOTAVAIL are about the port: others are tried. */
static int connect_somehow(struct canaries *canaries, const struct abi_endpoint *at)
{
    int fd = -EADDRINUSE;
    for (int i = 0; i < PORT_TRIES && (fd == -EADDRINUSE || fd == -EADDRNOTAVAIL); i++)
        fd = connect_from_next_port(canaries, at);
    return fd;
}

static void open_canary(struct canary *canary)
{
    struct canaries *owner = canary->owner;
    drop_connection(canary);
    canary->state = CANARY_CONNECTING;
    owner->counts.attempts++;
    int fd = connect_somehow(owner, &canary->at);
    if (fd < 0) {
        attempt_failed(canary);
        return;
    }
    struct connection *connection = calloc(1, sizeof(*connection));
    CHECK(connection);
    connection->fd = fd;
    connection->canary = canary;
    connection->poll.data = connection;
    canary->connection = connection;
    CHECK(uv_poll_init(owner->loop, &connection->poll, fd) == 0);
    CHECK(uv_poll_start(&connection->poll, UV_WRITABLE, on_poll) == 0);
    uv_timer_start(&canary->timer, on_timer,
                   vary(doubled(owner->times.connect_ms, owner->times.retry_max_ms, canary->failures)), 0);
}

/* The set of them. */

static void on_canary_closed(uv_handle_t *handle)
{
    free(handle->data);
}

static void free_canary(struct canary *canary)
{
    if (canary->state == CANARY_OPEN)
        canary->owner->counts.open--;
    drop_connection(canary);
    canary->owner = NULL;
    uv_timer_stop(&canary->timer);
    uv_close((uv_handle_t *)&canary->timer, on_canary_closed);
}

/* Opens after up to retry_ms, so that thousands do not start at once. */
static struct canary *new_canary(struct canaries *owner, const struct abi_endpoint *at)
{
    struct canary *canary = calloc(1, sizeof(*canary));
    CHECK(canary);
    canary->owner = owner;
    canary->at = *at;
    CHECK(uv_timer_init(owner->loop, &canary->timer) == 0);
    canary->timer.data = canary;
    canary->state = CANARY_WAITING;
    uv_timer_start(&canary->timer, on_timer, vary(owner->times.retry_ms) / 2, 0);
    return canary;
}

struct canaries *canaries_new(uv_loop_t *loop, const struct canary_times *times, uint32_t max)
{
    struct canaries *canaries = calloc(1, sizeof(*canaries));
    CHECK(canaries);
    canaries->loop = loop;
    canaries->times = *times;
    canaries->max = max;
    return canaries;
}

void canaries_set(struct canaries *canaries, const struct abi_endpoint *endpoints, size_t count)
{
    size_t kept = count < canaries->max ? count : canaries->max, old = 0;
    struct canary **fresh = calloc(kept + 1, sizeof(struct canary *));
    CHECK(fresh);
    for (size_t i = 0; i < kept; i++) {
        while (old < canaries->count && canary_compare(&canaries->canary[old]->at, &endpoints[i]) < 0)
            free_canary(canaries->canary[old++]);
        if (old < canaries->count && canary_compare(&canaries->canary[old]->at, &endpoints[i]) == 0)
            fresh[i] = canaries->canary[old++];
        else
            fresh[i] = new_canary(canaries, &endpoints[i]);
    }
    while (old < canaries->count)
        free_canary(canaries->canary[old++]);
    free(canaries->canary);
    canaries->canary = fresh;
    canaries->count = kept;
    canaries->counts.wanted = kept;
    canaries->counts.over_budget = count - kept;
}

void canaries_close(struct canaries *canaries)
{
    canaries_set(canaries, NULL, 0);
    free(canaries->canary);
    free(canaries);
}

static int compare_to_canary(const void *endpoint, const void *slot)
{
    const struct canary *const *canary = slot;
    return canary_compare(endpoint, &(*canary)->at);
}

static struct canary *find_canary(const struct canaries *canaries, const struct abi_endpoint *endpoint)
{
    struct canary **found =
        bsearch(endpoint, canaries->canary, canaries->count, sizeof(*canaries->canary), compare_to_canary);
    return found ? *found : NULL;
}

/* Which of the two is heard of first, the verdict or the end of the connection, is chance. */
void canaries_down(struct canaries *canaries, const struct abi_endpoint *endpoint)
{
    struct canary *canary = find_canary(canaries, endpoint);
    if (!canary || canary->down)
        return;
    canary->down = true;
    if (canary->state != CANARY_WAITING ||
        uv_now(canaries->loop) - canary->ended_ms >= canaries->times.died_ms)
        return;
    canary->closed_early = false;
    if (canary->unwanted > 0)
        canary->unwanted--;
    wait_ms(canary, canaries->times.retry_ms);
}

void canaries_retry(struct canaries *canaries, const struct abi_endpoint *endpoint)
{
    struct canary *canary = find_canary(canaries, endpoint);
    if (!canary)
        return;
    canary->down = false;
    if (canary->state == CANARY_OPEN || canary->unwanted > 0)
        return;
    canary->failures = 0;
    canary->state = CANARY_WAITING;
    drop_connection(canary);
    uv_timer_start(&canary->timer, on_timer, vary(canaries->times.retry_ms) / 2, 0);
}

struct canary_counts canaries_counts(const struct canaries *canaries)
{
    return canaries->counts;
}
