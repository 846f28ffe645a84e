/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tunnels over real sockets and a real loop: both ways at once, half-closes of either side first, ends that
 * break, idle ones, and what both ends see of all that.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "pump_rig.h"
#include "abi.h"
#include "dataplane/proxy/balance.h"
#include "dataplane/proxy/tunnel.h"

enum { TURNS_MAX = 200000 };

/* One far end: what it has to send, what it got. */
struct end {
    int fd;
    size_t to_send, sent, got;
    bool shut, eof;
    int error;
};

struct pair {
    struct tunnel tunnel;
    struct wire client_wire, server_wire;
    int client_near, server_near;
    struct end client, server;
    bool done;
    enum close_reason reason;
    unsigned looks;
};

static struct rig rig;

static void tunnel_done(struct tunnel *t, enum close_reason reason)
{
    struct pair *p = t->c.arg;
    assert_false(p->done);
    assert_false(tunnel_active(t));
    p->done = true;
    p->reason = reason;
    close(p->client_near);
    close(p->server_near);
}

static void tunnel_look(struct tunnel *t)
{
    struct pair *p = t->c.arg;
    p->looks++;
}

static struct balance *balance; /* of the next pair, with */
static struct target *target;

static void pair_start(struct pair *p, enum pump_technique technique, uint32_t idle_ms, size_t early)
{
    static uint8_t bytes[2][4096];
    int client[2], server[2];
    for (size_t i = 0; i < sizeof(bytes[0]); i++)
        bytes[0][i] = bytes[1][i] = rig_byte(i);
    *p = (struct pair){0};
    rig_pair(client, 0);
    rig_pair(server, 0);
    p->client = (struct end){.fd = client[0], .sent = early};
    p->server = (struct end){.fd = server[1], .sent = early};
    p->client_near = client[1];
    p->server_near = server[0];
    p->client_wire = wire_of_socket(rig.ring->loop, p->client_near);
    p->server_wire = wire_of_socket(rig.ring->loop, p->server_near);
    struct tunnel_config c = {.ring = rig.ring,
                              .client = &p->client_wire,
                              .server = &p->server_wire,
                              .early_client = view_of((char *)bytes[0], early),
                              .early_server = view_of((char *)bytes[1], early),
                              .technique = technique,
                              .idle_timeout_ms = idle_ms,
                              .balance = balance,
                              .target = target,
                              .done = tunnel_done,
                              .look = tunnel_look,
                              .arg = p};
    tunnel_start(&p->tunnel, &c);
}

static void end_send(struct end *e)
{
    uint8_t buf[60000];
    size_t n = e->to_send - e->sent < sizeof(buf) ? e->to_send - e->sent : sizeof(buf);
    n = n ? 1 + (size_t)rig_random(n) : 0;
    for (size_t i = 0; i < n; i++)
        buf[i] = rig_byte(e->sent + i);
    ssize_t sent = n ? send(e->fd, buf, n, MSG_NOSIGNAL | MSG_DONTWAIT) : 0;
    e->sent += sent > 0 ? (size_t)sent : 0;
}

static void end_shut(struct end *e)
{
    CHECK(shutdown(e->fd, SHUT_WR) == 0);
    e->shut = true;
}

static void end_recv(struct end *e)
{
    uint8_t buf[60000];
    ssize_t n = recv(e->fd, buf, sizeof(buf), MSG_DONTWAIT);
    for (ssize_t i = 0; i < n; i++)
        if (buf[i] != rig_byte(e->got + (size_t)i))
            fail_msg("byte %zu is wrong", e->got + (size_t)i);
    if (n > 0)
        e->got += (size_t)n;
    else if (n == 0)
        e->eof = true;
    else if (errno != EAGAIN)
        e->error = errno;
}

static void turn(struct pair *p)
{
    rig_turn(&rig);
    if (p->client.fd >= 0)
        end_recv(&p->client);
    if (p->server.fd >= 0)
        end_recv(&p->server);
}

#define UNTIL(p, condition)                                                                                  \
    do {                                                                                                     \
        for (int turns = 0; !(condition); turns++) {                                                         \
            if (turns == TURNS_MAX)                                                                          \
                fail_msg("never: %s", #condition);                                                           \
            turn(p);                                                                                         \
        }                                                                                                    \
    } while (0)

static void pair_fini(struct pair *p)
{
    assert_true(p->done);
    if (p->client.fd >= 0)
        close(p->client.fd);
    if (p->server.fd >= 0)
        close(p->server.fd);
    assert_true(rig_counter(&rig, CTR_TUNNELS_OPEN) == 0);
}

/* ------------------------------------------------------------------ good ends */

static void exchange(struct pair *p, size_t up, size_t down)
{
    p->client.to_send += up;
    p->server.to_send += down;
    for (int turns = 0; p->server.got < p->client.to_send || p->client.got < p->server.to_send; turns++) {
        assert_true(turns < TURNS_MAX);
        end_send(&p->client);
        end_send(&p->server);
        turn(p);
    }
}

static void test_both_ways(void **state)
{
    (void)state;
    for (enum pump_technique t = PUMP_TECHNIQUE_AUTO; t <= PUMP_TECHNIQUE_COPY; t++)
        for (int client_first = 0; client_first < 2; client_first++)
            for (size_t early = 0; early <= 4096; early += 2048) {
                struct pair p;
                pair_start(&p, t, 0, early);
                p.client.to_send = p.server.to_send = early;
                exchange(&p, 5, 7);
                exchange(&p, 300000, 900000);
                struct end *first = client_first ? &p.client : &p.server;
                struct end *last = client_first ? &p.server : &p.client;
                end_shut(first);
                UNTIL(&p, last->eof);
                assert_false(first->eof || p.done);
                exchange(&p, client_first ? 0 : 70000, client_first ? 70000 : 0);
                end_shut(last);
                UNTIL(&p, p.done && first->eof);
                assert_int_equal(p.reason, CLOSE_TUNNEL_END);
                assert_true(p.tunnel.up.moved == p.client.to_send && p.tunnel.down.moved == p.server.to_send);
                if (t == PUMP_TECHNIQUE_COPY)
                    assert_string_equal(tunnel_technique_name(&p.tunnel), "copy");
                if (t == PUMP_TECHNIQUE_SPLICE)
                    assert_string_equal(tunnel_technique_name(&p.tunnel), "splice");
                pair_fini(&p);
            }
}

/* All that was on its way when the other side ended arrives, then the end. */
static void test_last_bytes(void **state)
{
    (void)state;
    for (enum pump_technique t = PUMP_TECHNIQUE_AUTO; t <= PUMP_TECHNIQUE_COPY; t++) {
        struct pair p;
        pair_start(&p, t, 0, 0);
        p.server.to_send = 1500000;
        while (p.server.sent < p.server.to_send) {
            end_send(&p.server);
            rig_turn(&rig);
            end_recv(&p.client);
        }
        close(p.server.fd);
        p.server.fd = -1;
        UNTIL(&p, p.client.eof);
        assert_true(p.client.got == 1500000 && !p.client.error);
        close(p.client.fd);
        p.client.fd = -1;
        UNTIL(&p, p.done);
        assert_int_equal(p.reason, CLOSE_TUNNEL_END);
        pair_fini(&p);
    }
}

/* ------------------------------------------------------------------ broken ends */

/* What the one that was reset had sent is passed on, then the other one is reset, too: it sees no end. */
static void test_reset(void **state)
{
    (void)state;
    for (enum pump_technique t = PUMP_TECHNIQUE_AUTO; t <= PUMP_TECHNIQUE_COPY; t++)
        for (int by_client = 0; by_client < 2; by_client++)
            for (int half_closed = 0; half_closed < 2; half_closed++) {
                struct pair p;
                pair_start(&p, t, 0, 0);
                struct end *breaks = by_client ? &p.client : &p.server;
                struct end *other = by_client ? &p.server : &p.client;
                exchange(&p, 3000, 3000);
                if (half_closed) { /* nobody reads from it then */
                    end_shut(breaks);
                    UNTIL(&p, other->eof);
                }
                rig_reset(breaks->fd);
                breaks->fd = -1;
                UNTIL(&p, p.done);
                UNTIL(&p, other->error || half_closed);
                enum close_reason broke = by_client ? CLOSE_CLIENT_ABORT : CLOSE_BACKEND_LOST;
                assert_int_equal(p.reason, half_closed ? CLOSE_TUNNEL_END : broke);
                assert_true(half_closed || !other->eof);
                pair_fini(&p);
            }
}

/* An end that takes no more, with bytes of its own under way: these are passed on, and no end is faked. */
static void test_reset_while_sending(void **state)
{
    (void)state;
    for (enum pump_technique t = PUMP_TECHNIQUE_AUTO; t <= PUMP_TECHNIQUE_COPY; t++) {
        struct pair p;
        pair_start(&p, t, 0, 0);
        p.client.to_send = 2000000;
        for (int i = 0; i < 200; i++) { /* until the server's buffers are full */
            end_send(&p.client);
            rig_turn(&rig);
        }
        assert_int_equal(send(p.server.fd, "x", 1, MSG_NOSIGNAL), 1);
        rig_reset(p.server.fd);
        p.server.fd = -1;
        for (int turns = 0; !p.done; turns++) {
            assert_true(turns < TURNS_MAX);
            rig_turn(&rig);
        }
        assert_int_equal(p.reason, CLOSE_BACKEND_LOST);
        char byte[2];
        ssize_t n;
        while ((n = recv(p.client.fd, byte, sizeof(byte), 0)) < 0 && errno == EAGAIN)
            ;
        assert_true(n == 1 || (n < 0 && errno == ECONNRESET)); /* a reset may overtake the byte on the way */
        if (n == 1)
            while ((n = recv(p.client.fd, byte, sizeof(byte), 0)) < 0 && errno == EAGAIN)
                ;
        assert_true(n < 0 && errno == ECONNRESET);
        pair_fini(&p);
    }
}

/* A slow reader gets all that the one that was reset, or has gone after its end, had sent. */
static void test_slow_reader_of_a_broken_end(void **state)
{
    (void)state;
    for (enum pump_technique t = PUMP_TECHNIQUE_AUTO; t <= PUMP_TECHNIQUE_COPY; t++)
        for (int ended = 0; ended < 2; ended++) {
            struct pair p;
            pair_start(&p, t, 0, 0);
            p.server.to_send = 1500000;
            for (int i = 0; p.server.sent < p.server.to_send; i++) {
                assert_true(i < TURNS_MAX);
                end_send(&p.server);
                rig_turn(&rig);
                if (p.server.sent - p.client.got > 400000) /* else it is never sent */
                    end_recv(&p.client);
            }
            for (int i = 0; i < TURNS_MAX && p.tunnel.down.received < p.server.to_send; i++) {
                rig_turn(&rig);
                if (i % 100 == 99)
                    end_recv(&p.client);
            }
            if (ended) {
                end_shut(&p.server);
                for (int i = 0; i < TURNS_MAX && pump_active(&p.tunnel.down); i++) {
                    rig_turn(&rig);
                    if (i % 100 == 99)
                        end_recv(&p.client);
                }
            }
            rig_reset(p.server.fd);
            p.server.fd = -1;
            for (int i = 0; !(p.done && (p.client.eof || p.client.error)); i++) {
                assert_true(i < TURNS_MAX);
                rig_turn(&rig);
                if (i % 20 == 19)
                    end_recv(&p.client);
            }
            assert_true(p.client.got == 1500000);
            assert_int_equal(p.client.eof, ended);
            assert_int_equal(p.client.error, ended ? 0 : ECONNRESET);
            assert_int_equal(p.reason, ended ? CLOSE_TUNNEL_END : CLOSE_BACKEND_LOST);
            pair_fini(&p);
        }
}

static void test_stop_and_idle(void **state)
{
    (void)state;
    for (int idle = 0; idle < 2; idle++) {
        struct pair p;
        pair_start(&p, PUMP_TECHNIQUE_AUTO, idle ? 700 : 0, 0);
        exchange(&p, 100, 100);
        UNTIL(&p, p.looks > 0);
        if (!idle)
            tunnel_stop(&p.tunnel, CLOSE_DRAIN_TIMEOUT);
        assert_false(p.done);
        UNTIL(&p, p.done && p.client.error && p.server.error);
        assert_int_equal(p.reason, idle ? CLOSE_TUNNEL_IDLE : CLOSE_DRAIN_TIMEOUT);
        tunnel_stop(&p.tunnel, CLOSE_DRAIN);
        pair_fini(&p);
    }
}

/* One side has said all, the other says nothing: for so long, and not as long as any silence may last. */
static void test_half_closed(void **state)
{
    (void)state;
    for (int other = 0; other < 2; other++) {
        struct pair p;
        pair_start(&p, PUMP_TECHNIQUE_AUTO, 60000, 0);
        p.tunnel.c.half_closed_ms = 700;
        exchange(&p, 100, 100);
        UNTIL(&p, p.looks > 2);
        assert_false(p.done);
        end_shut(other ? &p.server : &p.client);
        UNTIL(&p, p.done && (p.client.error || p.server.error));
        assert_int_equal(p.reason, CLOSE_TUNNEL_IDLE);
        pair_fini(&p);
    }
}

/* The kernel calls the backend down: also a tunnel in which nobody has anything to say ends. */
static void test_called_down(void **state)
{
    (void)state;
    uint64_t verdicts[8] = {[5] = ABI_VERDICT(ABI_UP, ABI_PROBE_OK, 1, 1)};
    struct target one = {.id = 5, .generation = 1, .where = {.checked = 1}};
    struct pair p;
    assert_int_equal(balance_new(rig.counters, &balance), 0);
    balance_verdicts(balance, verdicts, ARRAY_SIZE(verdicts));
    target = &one;
    pair_start(&p, PUMP_TECHNIQUE_AUTO, 0, 0);
    exchange(&p, 100, 100);
    UNTIL(&p, p.looks > 0);
    assert_false(p.done);
    verdicts[5] = ABI_VERDICT(ABI_DOWN, ABI_PROBE_TIMEOUT, 1, 2);
    UNTIL(&p, p.done && p.client.error && p.server.error);
    assert_int_equal(p.reason, CLOSE_BACKEND_DOWN);
    pair_fini(&p);
    balance_free(balance);
    balance = NULL;
    target = NULL;
}

/* Idle tunnels hold nothing. */
static void test_many(void **state)
{
    (void)state;
    enum { MANY = 150 };
    static struct pair p[MANY];
    for (int i = 0; i < MANY; i++)
        pair_start(&p[i], PUMP_TECHNIQUE_AUTO, 0, 0);
    assert_true(rig_counter(&rig, CTR_TUNNELS_OPEN) == MANY);
    for (int round = 0; round < 3; round++)
        for (int i = 0; i < MANY; i++)
            exchange(&p[i], 1 + rig_random(40000), 1 + rig_random(40000));
    for (int i = 0; i < 10; i++)
        rig_turn(&rig);
    assert_int_equal(rig.ring->buffers.smalls.used, 0);
    assert_int_equal(rig.ring->bodies.used, 0);
    for (int i = 0; i < MANY; i++) {
        end_shut(&p[i].client);
        end_shut(&p[i].server);
    }
    for (int i = 0; i < MANY; i++)
        UNTIL(&p[i], p[i].done && p[i].client.eof && p[i].server.eof);
    for (int i = 0; i < MANY; i++)
        pair_fini(&p[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both_ways),     cmocka_unit_test(test_last_bytes),
        cmocka_unit_test(test_reset),         cmocka_unit_test(test_reset_while_sending),
        cmocka_unit_test(test_stop_and_idle), cmocka_unit_test(test_half_closed),
        cmocka_unit_test(test_called_down),   cmocka_unit_test(test_slow_reader_of_a_broken_end),
        cmocka_unit_test(test_many),
    };
    rig_init(&rig, RIG_SMALLS, 8);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    rig_fini(&rig);
    return failed;
}
