/* SPDX-License-Identifier: Apache-2.0 */
/* Meshes on one loop, over loopback: who gets in, what arrives, how connections end. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "control/mesh/frame.h"
#include "control/mesh/line.h"
#include "control/mesh/line_tls.h"
#include "control/mesh/mesh.h"
#include "control/mesh/pki.h"

enum { PATIENCE_MS = 60000, NODES = 4 };

static const uint8_t cluster[16] = {0xaa, 1, 2, 3}, other_cluster[16] = {0xbb};

struct got {
    uint64_t from, id;
    uint16_t type;
    size_t len;
    uint32_t sum;
};

/* One node of the test. */
struct host {
    struct mesh *mesh;
    struct pki_identity *identity;
    uint64_t id;
    unsigned ups, downs, frames, writables, joins;
    enum mesh_reason why;
    struct got last;
    uint64_t next_expected; /* ids of frames that come in order */
    bool out_of_order, closed;
    struct mesh_guest *guest;
    bool keep_guest, drop_on_frame;
};

struct rig {
    uv_loop_t loop;
    uv_timer_t patience;
    bool tired;
    struct pki_text ca, ca_key;
    struct host host[NODES + 1];
};

static uint32_t sum_of(const uint8_t *data, size_t len)
{
    uint32_t sum = 1;
    for (size_t i = 0; i < len; i++)
        sum = sum * 31 + data[i];
    return sum;
}

static void on_patience(uv_timer_t *timer)
{
    ((struct rig *)timer->data)->tired = true;
}

/* Runs the loop until the condition holds; what was waited for is in the test's line. */
#define until(r, condition)                                                                                  \
    do {                                                                                                     \
        uv_timer_start(&(r)->patience, on_patience, PATIENCE_MS, 0);                                         \
        (r)->tired = false;                                                                                  \
        while (!(condition) && !(r)->tired)                                                                  \
            uv_run(&(r)->loop, UV_RUN_ONCE);                                                                 \
        uv_timer_stop(&(r)->patience);                                                                       \
        assert_true(condition);                                                                              \
    } while (0)

static void on_frame(void *arg, uint64_t from, uint16_t type, uint64_t id, const void *body, size_t len)
{
    struct host *h = arg;
    h->frames++;
    h->last = (struct got){from, id, type, len, sum_of(body, len)};
    h->out_of_order |= id != h->next_expected++;
    if (h->drop_on_frame)
        mesh_drop(h->mesh, from, MESH_FRAME);
}

static void on_up(void *arg, uint64_t node)
{
    struct host *h = arg;
    (void)node;
    h->ups++;
    h->next_expected = 0;
}

static void on_down(void *arg, uint64_t node, enum mesh_reason why)
{
    struct host *h = arg;
    (void)node;
    h->downs++;
    h->why = why;
}

static void on_writable(void *arg, uint64_t node)
{
    (void)node;
    ((struct host *)arg)->writables++;
}

static void on_join(void *arg, struct mesh_guest *guest, const void *body, size_t len)
{
    struct host *h = arg;
    h->joins++;
    h->last = (struct got){.len = len, .sum = sum_of(body, len)};
    if (h->keep_guest)
        h->guest = guest;
    else
        mesh_guest_reply(guest, "welcome", 7);
}

static struct pki_identity *identity_of(const struct pki_text *ca, const struct pki_text *ca_key,
                                        const uint8_t id[16], uint64_t node)
{
    struct pki_text key, request, cert;
    struct pki_identity *out;
    char err[PKI_ERR_MAX];
    struct pki_subject subject = {.name = {.node_id = node}};
    memcpy(subject.name.cluster_id, id, 16);
    assert_int_equal(pki_request_make(&key, &request), 0);
    assert_int_equal(pki_sign(ca->data, ca->len, ca_key->data, ca_key->len, request.data, request.len,
                              &subject, &cert, err),
                     0);
    assert_int_equal(pki_identity_new(ca->data, ca->len, cert.data, cert.len, key.data, key.len, &out, err),
                     0);
    pki_text_free(&key);
    pki_text_free(&request);
    pki_text_free(&cert);
    return out;
}

static void host_open(struct rig *r, uint64_t id, struct pki_identity *identity, unsigned idle_ms)
{
    struct host *h = &r->host[id];
    struct config_address listen;
    const char *hint;
    char err[256];
    assert_int_equal(config_address_parse("127.0.0.1:1", &listen, &hint), 0);
    ((struct sockaddr_in *)&listen.addr)->sin_port = 0;
    h->id = id;
    h->closed = false;
    h->identity = identity ? identity : identity_of(&r->ca, &r->ca_key, cluster, id);
    struct mesh_config config = {.loop = &r->loop,
                                 .node_id = id,
                                 .identity = h->identity,
                                 .listen = &listen,
                                 .listen_count = 1,
                                 .idle_ms = idle_ms ? idle_ms : PATIENCE_MS,
                                 .handshake_ms = PATIENCE_MS,
                                 .handlers = {on_frame, on_up, on_down, on_writable, on_join},
                                 .arg = h};
    memcpy(config.cluster_id, pki_identity_name(h->identity)->cluster_id, 16);
    assert_int_equal(mesh_open(&config, &h->mesh, err, sizeof(err)), 0);
}

static void on_closed(void *arg)
{
    ((struct host *)arg)->closed = true;
}

static void host_close(struct rig *r, uint64_t id)
{
    struct host *h = &r->host[id];
    if (!h->mesh)
        return;
    mesh_close(h->mesh, on_closed, h);
    until(r, h->closed);
    h->mesh = NULL;
    pki_identity_free(h->identity);
}

/* Each of them knows all; the higher id dials. */
static void know(struct rig *r, uint64_t self, const uint64_t *ids, size_t count)
{
    struct mesh_node nodes[NODES];
    for (size_t i = 0; i < count; i++) {
        nodes[i] = (struct mesh_node){.id = ids[i], .dial = ids[i] < self};
        if (r->host[ids[i]].mesh)
            assert_int_equal(mesh_address(r->host[ids[i]].mesh, 0, &nodes[i].address), 0);
    }
    mesh_set_nodes(r->host[self].mesh, nodes, count);
}

static const uint64_t all[] = {1, 2, 3};

static int setup(void **state)
{
    struct rig *r = calloc(1, sizeof(*r));
    uv_loop_init(&r->loop);
    uv_timer_init(&r->loop, &r->patience);
    r->patience.data = r;
    assert_int_equal(pki_ca_make(cluster, &r->ca, &r->ca_key), 0);
    *state = r;
    return 0;
}

static int teardown(void **state)
{
    struct rig *r = *state;
    for (uint64_t i = 1; i <= NODES; i++)
        host_close(r, i);
    uv_close((uv_handle_t *)&r->patience, NULL);
    uv_run(&r->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&r->loop), 0);
    pki_text_free(&r->ca);
    pki_text_free(&r->ca_key);
    free(r);
    return 0;
}

static void connect_three(struct rig *r)
{
    for (uint64_t i = 1; i <= 3; i++)
        host_open(r, i, NULL, 0);
    for (uint64_t i = 1; i <= 3; i++)
        know(r, i, all, 3);
    until(r, r->host[1].ups == 2 && r->host[2].ups == 2 && r->host[3].ups == 2);
}

static void test_frames(void **state)
{
    struct rig *r = *state;
    uint8_t *body = malloc(MESH_BODY_MAX + 1);
    for (size_t i = 0; i < MESH_BODY_MAX; i++)
        body[i] = (uint8_t)(i * 7 + i / 1000);
    connect_three(r);
    static const size_t sizes[] = {0, 1, 15, 16, 17, 100, 16384, 16385, 100000, 3 << 20, MESH_BODY_MAX};
    uint64_t id = 0;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++, id++) {
        assert_int_equal(mesh_send(r->host[1].mesh, 3, 20, id, body, sizes[i]), 0);
        until(r, r->host[3].frames == i + 1);
        assert_int_equal(r->host[3].last.from, 1);
        assert_int_equal(r->host[3].last.type, 20);
        assert_int_equal(r->host[3].last.len, sizes[i]);
        assert_int_equal(r->host[3].last.sum, sum_of(body, sizes[i]));
    }
    assert_int_equal(mesh_send(r->host[1].mesh, 3, 20, id, body, MESH_BODY_MAX + 1), -EMSGSIZE);
    assert_int_equal(mesh_send(r->host[1].mesh, 9, 20, id, body, 1), -ENOTCONN);
    /* Many at once, of all sizes, stay in order. */
    unsigned before = r->host[3].frames;
    for (unsigned i = 0; i < 2000; i++)
        assert_int_equal(mesh_send(r->host[1].mesh, 3, 63, id++, body, (i * 7919) % 5000), 0);
    until(r, r->host[3].frames == before + 2000);
    assert_false(r->host[3].out_of_order);
    assert_int_equal(r->host[2].frames, 0);
    free(body);
}

static void test_queue_is_bounded(void **state)
{
    struct rig *r = *state;
    uint8_t *body = calloc(1, MESH_BODY_MAX);
    connect_three(r);
    size_t room = mesh_room(r->host[1].mesh, 2);
    assert_int_equal(room, MESH_STREAM_ROOM);
    unsigned sent = 0;
    int rc;
    while ((rc = mesh_send(r->host[1].mesh, 2, 40, sent, body, MESH_BODY_MAX)) == 0)
        sent++;
    assert_int_equal(rc, -ENOBUFS);
    assert_in_range(sent, 1, MESH_QUEUE_BYTES_MAX / MESH_BODY_MAX);
    assert_int_equal(mesh_room(r->host[1].mesh, 2), 0);
    until(r, r->host[2].frames == sent);
    until(r, r->host[1].writables == 1);
    assert_true(mesh_room(r->host[1].mesh, 2) >= MESH_STREAM_ROOM / 2);
    free(body);
}

/* A node that was killed and started again is dialled again, or dials. */
static void test_comes_back(void **state)
{
    struct rig *r = *state;
    connect_three(r);
    host_close(r, 2);
    until(r, r->host[1].downs == 1 && r->host[3].downs == 1);
    assert_int_equal(mesh_send(r->host[1].mesh, 2, 20, 0, "x", 1), -ENOTCONN);
    host_open(r, 2, NULL, 0);
    know(r, 3, all, 3); /* it listens elsewhere now */
    know(r, 2, all, 3);
    until(r, r->host[1].ups == 3 && r->host[3].ups == 3);
    assert_int_equal(mesh_send(r->host[1].mesh, 2, 20, 0, "x", 1), 0);
    until(r, r->host[2].frames == 1);
}

static void test_removed(void **state)
{
    struct rig *r = *state;
    connect_three(r);
    const uint64_t without[] = {1, 2};
    know(r, 1, without, 2);
    assert_int_equal(r->host[1].why, MESH_REMOVED);
    until(r, r->host[3].downs == 1);
    assert_int_equal(r->host[3].why, MESH_REFUSED_BY_PEER);
    struct mesh_node_status status;
    until(r, mesh_node_status(r->host[3].mesh, 1, &status) && strstr(status.text, "no node of the cluster"));
    assert_int_equal(r->host[1].ups, 2);
    assert_true(mesh_reason_count(r->host[1].mesh, MESH_UNKNOWN_NODE) > 0);
}

/* Node 2 shows something that it should not have; neither side takes it. */
static void refused(struct rig *r, struct pki_identity *identity, enum mesh_reason at_dialler)
{
    host_open(r, 1, NULL, 0);
    host_open(r, 2, identity, 0);
    const uint64_t ids[] = {1, 2};
    know(r, 1, ids, 2);
    know(r, 2, ids, 2);
    struct mesh_node_status status;
    until(r, mesh_node_status(r->host[2].mesh, 1, &status) && status.failures > 1);
    assert_int_equal(status.why, at_dialler);
    assert_int_equal(r->host[1].ups, 0);
    assert_int_equal(r->host[2].ups, 0);
}

static void test_other_ca(void **state)
{
    struct rig *r = *state;
    struct pki_text ca, key;
    assert_int_equal(pki_ca_make(cluster, &ca, &key), 0);
    refused(r, identity_of(&ca, &key, cluster, 2), MESH_CHAIN);
    pki_text_free(&ca);
    pki_text_free(&key);
}

static void test_other_cluster(void **state)
{
    struct rig *r = *state;
    refused(r, identity_of(&r->ca, &r->ca_key, other_cluster, 2), MESH_OTHER_CLUSTER);
}

static void test_unknown_node(void **state)
{
    struct rig *r = *state;
    host_open(r, 1, NULL, 0);
    host_open(r, 4, NULL, 0);
    const uint64_t known[] = {1, 2}, mine[] = {1, 4};
    know(r, 1, known, 2);
    know(r, 4, mine, 2);
    until(r, mesh_reason_count(r->host[1].mesh, MESH_UNKNOWN_NODE) > 0 &&
                 mesh_reason_count(r->host[4].mesh, MESH_REFUSED_BY_PEER) > 0);
    assert_int_equal(r->host[1].ups + r->host[4].ups, 0);
}

/* Who answers at the address is a good node, but another one. */
static void test_other_node(void **state)
{
    struct rig *r = *state;
    host_open(r, 1, NULL, 0);
    host_open(r, 3, NULL, 0);
    know(r, 1, all, 3);
    struct mesh_node wrong = {.id = 2, .dial = true};
    assert_int_equal(mesh_address(r->host[1].mesh, 0, &wrong.address), 0);
    mesh_set_nodes(r->host[3].mesh, &wrong, 1);
    until(r, mesh_reason_count(r->host[3].mesh, MESH_OTHER_NODE) > 1);
    assert_int_equal(r->host[3].ups, 0);
}

/* A connection that goes on stands on the certificate that it began with. */
static void test_identity_is_exchanged(void **state)
{
    struct rig *r = *state;
    connect_three(r);
    struct pki_text ca, key, both;
    assert_int_equal(pki_ca_make(cluster, &ca, &key), 0);
    both.len = r->ca.len + ca.len;
    both.data = malloc(both.len + 1);
    memcpy(both.data, ca.data, ca.len);
    memcpy(both.data + ca.len, r->ca.data, r->ca.len + 1);
    for (uint64_t i = 1; i <= 3; i++) {
        struct pki_identity *next = identity_of(&both, &key, cluster, i);
        assert_int_equal(mesh_set_identity(r->host[i].mesh, next), 0);
        pki_identity_free(next);
    }
    assert_int_equal(mesh_send(r->host[1].mesh, 2, 20, 0, "x", 1), 0);
    until(r, r->host[2].frames == 1);
    assert_int_equal(r->host[1].downs + r->host[2].downs + r->host[3].downs, 0);
    mesh_drop(r->host[1].mesh, 2, MESH_FRAME);
    until(r, r->host[1].ups == 3 && r->host[2].ups == 3);
    free(both.data);
    pki_text_free(&ca);
    pki_text_free(&key);
}

/* A handler may end the connection that it is called for. */
static void test_drop_from_handler(void **state)
{
    struct rig *r = *state;
    connect_three(r);
    r->host[2].drop_on_frame = true;
    for (uint64_t i = 0; i < 3; i++)
        assert_int_equal(mesh_send(r->host[1].mesh, 2, 20, i, "abc", 3), 0);
    until(r, r->host[1].downs == 1 && r->host[2].downs == 1);
    assert_int_equal(r->host[2].frames, 1);
    assert_int_equal(r->host[1].why, MESH_REFUSED_BY_PEER);
    until(r, r->host[1].ups == 3 && r->host[2].ups == 3);
}

/* ------------------------------------------------------------------ strangers */

struct stranger {
    struct line_pool pool;
    struct line *line;
    SSL_CTX *tls;
    bool ready, ended, closed;
    enum mesh_reason why;
    uint16_t answer;
    char text[128];
};

static void stranger_ready(void *owner)
{
    ((struct stranger *)owner)->ready = true;
}

static void stranger_frame(void *owner, const struct frame_head *head, const uint8_t *body)
{
    struct stranger *s = owner;
    s->answer = head->type;
    snprintf(s->text, sizeof(s->text), "%.*s", (int)head->bytes, (const char *)body);
}

static void stranger_ended(void *owner, enum mesh_reason why, const char *text)
{
    struct stranger *s = owner;
    (void)text;
    s->ended = true;
    s->why = why;
}

static void stranger_closed(void *arg)
{
    ((struct stranger *)arg)->closed = true;
}

static void stranger_dial(struct rig *r, struct stranger *s, const struct pki_identity *identity)
{
    static const struct line_handlers handlers = {stranger_ready, stranger_frame, stranger_ended, NULL};
    struct config_address to;
    memset(s, 0, sizeof(*s));
    assert_int_equal(mesh_address(r->host[1].mesh, 0, &to), 0);
    line_pool_open(&s->pool, &r->loop);
    s->tls = line_tls_new(identity);
    s->line = line_dial(&s->pool, s->tls, &to, &handlers, s);
    until(r, s->ready || s->ended);
}

static void stranger_close(struct rig *r, struct stranger *s)
{
    if (!s->ended)
        line_end(s->line, false);
    line_pool_close(&s->pool, stranger_closed, s);
    until(r, s->closed);
    SSL_CTX_free(s->tls);
}

static void test_stranger_joins(void **state)
{
    struct rig *r = *state;
    struct stranger *s = malloc(sizeof(*s));
    host_open(r, 1, NULL, 0);
    stranger_dial(r, s, NULL);
    uint8_t pin[PKI_FINGERPRINT_BYTES];
    struct pki_name name;
    char why[MESH_WHY_MAX];
    assert_int_equal(pki_fingerprint(r->ca.data, r->ca.len, pin), 0);
    assert_int_equal(line_tls_check_pin(line_tls(s->line), pin, &name, why), MESH_OK);
    assert_int_equal(name.node_id, 1);
    pin[5] ^= 1;
    assert_int_equal(line_tls_check_pin(line_tls(s->line), pin, &name, why), MESH_CHAIN);
    line_send(s->line, MESH_JOIN, 0, "please", 6, SIZE_MAX);
    until(r, s->ended);
    assert_int_equal(s->answer, MESH_JOIN_REPLY);
    assert_string_equal(s->text, "welcome");
    assert_int_equal(s->why, MESH_CLOSED);
    assert_int_equal(r->host[1].joins, 1);
    stranger_close(r, s);
    free(s);
}

/* It goes away before its answer comes, and the mesh does, too. */
static void test_stranger_goes(void **state)
{
    struct rig *r = *state;
    struct stranger *s = malloc(sizeof(*s));
    host_open(r, 1, NULL, 0);
    for (int i = 0; i < 2; i++) {
        r->host[1].keep_guest = true;
        r->host[1].guest = NULL;
        stranger_dial(r, s, NULL);
        line_send(s->line, MESH_JOIN, 0, "please", 6, SIZE_MAX);
        until(r, r->host[1].guest);
        stranger_close(r, s);
        if (i == 0)
            mesh_guest_reply(r->host[1].guest, "welcome", 7);
    }
    host_close(r, 1);
    mesh_guest_reply(r->host[1].guest, "welcome", 7);
    free(s);
}

/* Everything but one small JOIN is refused. */
static void test_stranger_is_refused(void **state)
{
    struct rig *r = *state;
    struct stranger *s = malloc(sizeof(*s));
    uint8_t body[FRAME_GUEST_BODY_MAX + 1] = {0};
    host_open(r, 1, NULL, 0);
    static const struct {
        uint16_t type;
        size_t len;
        enum mesh_reason counted;
    } tries[] = {{MESH_HELLO, 10, MESH_NO_CERTIFICATE},
                 {20, 10, MESH_NO_CERTIFICATE},
                 {MESH_PING, 0, MESH_NO_CERTIFICATE},
                 {MESH_JOIN, sizeof(body), MESH_FRAME},
                 {0, 1, MESH_FRAME},
                 {64, 1, MESH_FRAME}};
    for (size_t i = 0; i < sizeof(tries) / sizeof(*tries); i++) {
        uint64_t before = mesh_reason_count(r->host[1].mesh, tries[i].counted);
        stranger_dial(r, s, NULL);
        line_send(s->line, tries[i].type, 0, body, tries[i].len, SIZE_MAX);
        until(r, s->ended);
        assert_int_equal(mesh_reason_count(r->host[1].mesh, tries[i].counted), before + 1);
        stranger_close(r, s);
    }
    assert_int_equal(r->host[1].joins, 0);
    free(s);
}

/* Connections that say nothing, or no TLS, do not keep nodes out. */
static void test_flood(void **state)
{
    struct rig *r = *state;
    struct config_address to;
    int fds[200];
    host_open(r, 1, NULL, 0);
    assert_int_equal(mesh_address(r->host[1].mesh, 0, &to), 0);
    for (size_t i = 0; i < 200; i++) {
        fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(connect(fds[i], (struct sockaddr *)&to.addr, to.addr_len), 0);
        if (i % 3 == 0)
            assert_int_equal(write(fds[i], "GET / HTTP/1.1\r\n\r\n", 18), 18);
        uv_run(&r->loop, UV_RUN_NOWAIT);
    }
    until(r, mesh_reason_count(r->host[1].mesh, MESH_HANDSHAKE) > 20 &&
                 mesh_reason_count(r->host[1].mesh, MESH_BUSY) > 20);
    host_open(r, 2, NULL, 0);
    const uint64_t ids[] = {1, 2};
    know(r, 1, ids, 2);
    know(r, 2, ids, 2);
    until(r, r->host[1].ups == 1 && r->host[2].ups == 1);
    for (size_t i = 0; i < 200; i++)
        close(fds[i]);
}

/* A node that stands still, with its socket open: it takes pings and does not answer. */
static void test_idle(void **state)
{
    struct rig *r = *state;
    struct stranger *s = malloc(sizeof(*s));
    struct pki_identity *identity = identity_of(&r->ca, &r->ca_key, cluster, 2);
    struct frame_hello hello = {.lowest = FRAME_VERSION, .highest = FRAME_VERSION, .node_id = 2};
    uint8_t body[FRAME_HELLO_MAX];
    const uint64_t ids[] = {1, 2};
    host_open(r, 1, NULL, 300);
    know(r, 1, ids, 2);
    stranger_dial(r, s, identity);
    memcpy(hello.cluster_id, cluster, sizeof(cluster));
    line_send(s->line, MESH_HELLO, 0, body, frame_hello_put(&hello, body), SIZE_MAX);
    until(r, r->host[1].ups == 1 && s->answer == MESH_PING);
    until(r, r->host[1].downs == 1);
    assert_int_equal(r->host[1].why, MESH_IDLE);
    until(r, s->ended);
    stranger_close(r, s);
    pki_identity_free(identity);
    free(s);
}

/* Another version of the protocol, or a HELLO that is none. */
static void test_hello_is_refused(void **state)
{
    struct rig *r = *state;
    struct stranger *s = malloc(sizeof(*s));
    struct pki_identity *identity = identity_of(&r->ca, &r->ca_key, cluster, 2);
    static const struct {
        uint16_t lowest, highest;
        uint64_t node;
        enum mesh_reason counted;
    } tries[] = {{FRAME_VERSION + 1, FRAME_VERSION + 4, 2, MESH_VERSION},
                 {0, 0, 2, MESH_VERSION},
                 {FRAME_VERSION, FRAME_VERSION, 3, MESH_OTHER_NODE}};
    const uint64_t ids[] = {1, 2, 3};
    host_open(r, 1, NULL, 0);
    know(r, 1, ids, 3);
    for (size_t i = 0; i < sizeof(tries) / sizeof(*tries); i++) {
        struct frame_hello hello = {
            .lowest = tries[i].lowest, .highest = tries[i].highest, .node_id = tries[i].node};
        uint8_t body[FRAME_HELLO_MAX];
        memcpy(hello.cluster_id, cluster, sizeof(cluster));
        stranger_dial(r, s, identity);
        line_send(s->line, MESH_HELLO, 0, body, frame_hello_put(&hello, body), SIZE_MAX);
        until(r, s->ended);
        assert_int_equal(s->answer, MESH_REFUSED);
        assert_string_equal(s->text, mesh_reason_text(tries[i].counted));
        assert_true(mesh_reason_count(r->host[1].mesh, tries[i].counted) > 0);
        stranger_close(r, s);
    }
    assert_int_equal(r->host[1].ups, 0);
    pki_identity_free(identity);
    free(s);
}

static void test_round_trip(void **state)
{
    struct rig *r = *state;
    struct mesh_node_status status;
    host_open(r, 1, NULL, 0);
    host_open(r, 2, NULL, 4000);
    const uint64_t ids[] = {1, 2};
    know(r, 1, ids, 2);
    know(r, 2, ids, 2);
    until(r, mesh_node_status(r->host[2].mesh, 1, &status) && status.rtt_us > 0);
    assert_true(status.connections > 0);
    assert_false(mesh_node_status(r->host[2].mesh, 3, &status));
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_frames, setup, teardown),
        cmocka_unit_test_setup_teardown(test_queue_is_bounded, setup, teardown),
        cmocka_unit_test_setup_teardown(test_comes_back, setup, teardown),
        cmocka_unit_test_setup_teardown(test_removed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_other_ca, setup, teardown),
        cmocka_unit_test_setup_teardown(test_other_cluster, setup, teardown),
        cmocka_unit_test_setup_teardown(test_unknown_node, setup, teardown),
        cmocka_unit_test_setup_teardown(test_other_node, setup, teardown),
        cmocka_unit_test_setup_teardown(test_identity_is_exchanged, setup, teardown),
        cmocka_unit_test_setup_teardown(test_drop_from_handler, setup, teardown),
        cmocka_unit_test_setup_teardown(test_idle, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stranger_joins, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stranger_goes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stranger_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hello_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_round_trip, setup, teardown),
        cmocka_unit_test_setup_teardown(test_flood, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
