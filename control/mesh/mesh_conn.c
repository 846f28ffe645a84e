/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A connection of the mesh: TLS, then each side checks the other's certificate and says HELLO, then frames. A
 * stranger gets as far as one JOIN. `up` comes with the other side's HELLO: only then has it accepted us.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "check.h"
#include "control/journal.h"
#include "control/mesh/mesh_internal.h"

static uint64_t now_of(const struct mesh *mesh)
{
    return uv_now(mesh->config.loop);
}

/* ------------------------------------------------------------------ what is told of an end */

static bool quiet(enum mesh_reason why)
{
    return why == MESH_SHUTDOWN || why == MESH_GUEST_DONE || why == MESH_REPLACED || why == MESH_OK;
}

/* One line for a reason and a while, however often somebody tries. */
static void say_of_stranger(struct mesh *mesh, const struct conn *conn, enum mesh_reason why,
                            const char *text)
{
    uint64_t now = now_of(mesh);
    if (quiet(why) || !mesh->config.journal)
        return;
    if (mesh->said_ms[why] && now - mesh->said_ms[why] < MESH_SAY_STRANGER_MS) {
        mesh->unsaid[why]++;
        return;
    }
    const char *address = line_peer(conn->line);
    if (mesh->unsaid[why])
        journal_warn(mesh->config.journal, "mesh",
                     "a connection from %s was refused: %s (and %" PRIu64 " others since the last line)",
                     address, text, mesh->unsaid[why]);
    else
        journal_warn(mesh->config.journal, "mesh", "a connection from %s was refused: %s", address, text);
    mesh->said_ms[why] = now ? now : 1;
    mesh->unsaid[why] = 0;
}

static void say_of_peer(struct mesh *mesh, const struct conn *conn, enum mesh_reason why, const char *text)
{
    struct peer *peer = conn->peer;
    struct journal *journal = mesh->config.journal;
    uint64_t now = now_of(mesh);
    bool was_up = conn->phase == CONN_UP;
    if (quiet(why) || !journal || (!was_up && peer->said == why && now - peer->said_ms < MESH_SAY_PEER_MS))
        return;
    peer->said = why;
    peer->said_ms = now;
    if (was_up)
        journal_warn(journal, "mesh", "node %" PRIu64 " is not connected any more: %s", peer->node.id, text);
    else if (conn->dialled)
        journal_warn(journal, "mesh",
                     "node %" PRIu64 " at %s cannot be connected to: %s; it is tried again and again",
                     peer->node.id, peer->node.address.text, text);
    else
        journal_warn(journal, "mesh", "a connection of node %" PRIu64 " from %s came to nothing: %s",
                     peer->node.id, line_peer(conn->line), text);
}

/* A half to all of the next step, so that nodes that lost each other together do not come back together. */
static void backoff(struct mesh *mesh, struct peer *peer)
{
    uint32_t random = 0;
    unsigned step = peer->backoff_ms ? peer->backoff_ms : MESH_REDIAL_MS_MIN;
    if (step > mesh->config.redial_ms_max)
        step = mesh->config.redial_ms_max;
    if (getrandom(&random, sizeof(random), GRND_NONBLOCK) != sizeof(random))
        random = (uint32_t)uv_hrtime();
    peer->redial_at = now_of(mesh) + step / 2 + random % (step / 2 + 1);
    peer->backoff_ms = 2 * step;
}

/* ------------------------------------------------------------------ life */

static void conn_free(struct conn *conn)
{
    struct mesh *mesh = conn->mesh;
    *conn->at = conn->next;
    if (conn->next)
        conn->next->at = conn->at;
    if (!conn->dialled && conn->phase != CONN_UP)
        mesh->half_open--;
    if (conn->guest)
        conn->guest->conn = NULL;
    if (conn->peer && conn->peer->conn == conn)
        conn->peer->conn = NULL;
    free(conn);
}

static void send_refusal(struct conn *conn, const char *text)
{
    line_send(conn->line, MESH_REFUSED, 0, text, strlen(text), SIZE_MAX);
}

static void peer_note(struct peer *peer, const struct conn *conn, enum mesh_reason why, const char *text)
{
    peer->status.why = why;
    snprintf(peer->status.text, sizeof(peer->status.text), "%s", text);
    peer->status.sent_bytes += line_sent(conn->line);
    peer->status.received_bytes += line_received(conn->line);
}

/* Books of an end, and the memory of the connection; the line is ended by now, or by the caller. */
static void conn_ended(struct conn *conn, enum mesh_reason why, const char *text)
{
    struct mesh *mesh = conn->mesh;
    struct peer *peer = conn->peer;
    uint64_t node = peer ? peer->node.id : 0;
    bool was_up = peer && conn->phase == CONN_UP, current = peer && peer->conn == conn;
    mesh->counts[why]++;
    if (peer) {
        peer_note(peer, conn, why, text);
        say_of_peer(mesh, conn, why, text);
    } else {
        say_of_stranger(mesh, conn, why, text);
    }
    if (current && was_up)
        peer->status.since_ms = now_of(mesh);
    if (current && !was_up)
        peer->status.failures++;
    if (current && conn->dialled)
        backoff(mesh, peer);
    conn_free(conn);
    if (was_up && !mesh->closing)
        mesh->config.handlers.down(mesh->config.arg, node, why);
}

void conn_end(struct conn *conn, enum mesh_reason why, const char *text, bool say_so)
{
    struct line *line = conn->line;
    if (say_so && conn->phase != CONN_TLS)
        send_refusal(conn, text);
    line_end(line, say_so);
    conn_ended(conn, why, text);
}

void conn_drop_silently(struct conn *conn)
{
    line_end(conn->line, false);
    conn->mesh->counts[MESH_SHUTDOWN]++;
    conn_free(conn);
}

static void on_ended(void *owner, enum mesh_reason why, const char *text)
{
    conn_ended(owner, why, text);
}

/* ------------------------------------------------------------------ who is it */

static void send_hello(struct conn *conn)
{
    const struct mesh *mesh = conn->mesh;
    uint8_t body[FRAME_HELLO_MAX];
    struct frame_hello hello = {.lowest = FRAME_VERSION,
                                .highest = FRAME_VERSION,
                                .node_id = mesh->config.node_id,
                                .software = {FL_VERSION, strlen(FL_VERSION)}};
    memcpy(hello.cluster_id, mesh->config.cluster_id, sizeof(hello.cluster_id));
    size_t len = frame_hello_put(&hello, body);
    CHECK(len);
    line_send(conn->line, MESH_HELLO, 0, body, len, SIZE_MAX);
}

/* The one check of the other side: its certificate, and that the state knows its node. */
static enum mesh_reason identify(struct conn *conn, char why[MESH_WHY_MAX])
{
    struct mesh *mesh = conn->mesh;
    struct pki_name name;
    uint64_t expected = conn->dialled ? conn->peer->node.id : 0;
    enum mesh_reason reason = line_tls_check(line_tls(conn->line), mesh->identity, expected, &name, why);
    if (reason != MESH_OK)
        return reason;
    struct peer *peer = name.node_id == mesh->config.node_id ? NULL : mesh_peer(mesh, name.node_id);
    if (!peer) {
        snprintf(why, MESH_WHY_MAX, "node %" PRIu64 ": %s", name.node_id,
                 mesh_reason_text(MESH_UNKNOWN_NODE));
        return MESH_UNKNOWN_NODE;
    }
    conn->peer = peer;
    return MESH_OK;
}

static void on_ready(void *owner)
{
    struct conn *conn = owner;
    char why[MESH_WHY_MAX];
    enum mesh_reason reason = identify(conn, why);
    conn->phase = CONN_HELLO;
    if (reason == MESH_NO_CERTIFICATE && !conn->dialled && conn->mesh->config.handlers.join) {
        conn->phase = CONN_GUEST;
    } else if (reason != MESH_OK) {
        conn_end(conn, reason, why, !conn->dialled);
    } else {
        send_hello(conn);
    }
}

static bool is_there(const struct mesh *mesh, const struct conn *conn)
{
    for (const struct conn *c = mesh->conns; c; c = c->next)
        if (c == conn)
            return true;
    return false;
}

/* It has said HELLO: whoever had its place has it no longer. */
static void conn_up(struct conn *conn)
{
    struct mesh *mesh = conn->mesh;
    struct peer *peer = conn->peer;
    if (peer->conn && peer->conn != conn) {
        conn_end(peer->conn, MESH_REPLACED, mesh_reason_text(MESH_REPLACED), false);
        if (!is_there(mesh, conn)) /* `down` has removed the node */
            return;
    }
    if (!conn->dialled)
        mesh->half_open--;
    conn->phase = CONN_UP;
    conn->pinged_ms = now_of(mesh);
    line_set_limit(conn->line, MESH_BODY_MAX);
    peer->conn = conn;
    peer->backoff_ms = 0;
    peer->low = false;
    peer->said = MESH_OK;
    peer->status.since_ms = now_of(mesh);
    peer->status.connections++;
    if (mesh->config.journal)
        journal_info(mesh->config.journal, "mesh", "node %" PRIu64 " is connected (%s %s)", peer->node.id,
                     conn->dialled ? "to" : "from", line_peer(conn->line));
    mesh->config.handlers.up(mesh->config.arg, peer->node.id);
}

static void on_hello(struct conn *conn, const uint8_t *body, size_t len)
{
    struct frame_hello hello;
    enum mesh_reason reason = frame_hello_get(body, len, &hello);
    if (reason == MESH_OK && hello.node_id != conn->peer->node.id)
        reason = MESH_OTHER_NODE;
    if (reason == MESH_OK &&
        memcmp(hello.cluster_id, conn->mesh->config.cluster_id, sizeof(hello.cluster_id)) != 0)
        reason = MESH_OTHER_CLUSTER;
    if (reason == MESH_OK)
        conn_up(conn);
    else
        conn_end(conn, reason, mesh_reason_text(reason), true);
}

/* What it says of why, without what could forge a line of the log. */
static void on_refused(struct conn *conn, const uint8_t *body, size_t len)
{
    char text[MESH_WHY_MAX];
    int n = snprintf(text, sizeof(text), "it says: ");
    size_t at = (size_t)n;
    for (size_t i = 0; i < len && at < sizeof(text) - 1; i++)
        text[at++] = body[i] >= ' ' && body[i] <= '~' ? (char)body[i] : '?';
    text[at] = '\0';
    conn_end(conn, MESH_REFUSED_BY_PEER, text, false);
}

/* ------------------------------------------------------------------ strangers */

static bool join_allowed(struct mesh *mesh)
{
    uint64_t now = now_of(mesh), gained = (now - mesh->join_token_ms) / MESH_JOIN_EVERY_MS;
    if (gained) {
        mesh->join_tokens = gained > MESH_JOINS_BURST - mesh->join_tokens
                                ? MESH_JOINS_BURST
                                : mesh->join_tokens + (unsigned)gained;
        mesh->join_token_ms += gained * MESH_JOIN_EVERY_MS;
    }
    if (mesh->guest_count >= MESH_GUESTS_MAX || mesh->join_tokens == 0)
        return false;
    mesh->join_tokens--;
    return true;
}

static void on_guest_frame(struct conn *conn, const struct frame_head *head, const uint8_t *body)
{
    struct mesh *mesh = conn->mesh;
    if (head->type != MESH_JOIN || conn->phase != CONN_GUEST) {
        conn_end(conn, MESH_NO_CERTIFICATE, mesh_reason_text(MESH_NO_CERTIFICATE), true);
        return;
    }
    struct mesh_guest *guest = join_allowed(mesh) ? calloc(1, sizeof(*guest)) : NULL;
    if (!guest) {
        conn_end(conn, MESH_BUSY, "too many hosts ask to join at once; try again", true);
        return;
    }
    *guest = (struct mesh_guest){.mesh = mesh, .conn = conn, .next = mesh->guests, .at = &mesh->guests};
    if (guest->next)
        guest->next->at = &guest->next;
    mesh->guests = guest;
    mesh->guest_count++;
    snprintf(guest->address, sizeof(guest->address), "%s", line_peer(conn->line));
    conn->guest = guest;
    conn->phase = CONN_ANSWERING;
    mesh->config.handlers.join(mesh->config.arg, guest, body, head->bytes);
}

void mesh_guest_reply(struct mesh_guest *guest, const void *body, size_t len)
{
    struct conn *conn = guest->conn;
    if (guest->mesh) {
        guest->mesh->guest_count--;
        *guest->at = guest->next;
        if (guest->next)
            guest->next->at = guest->at;
    }
    free(guest);
    if (!conn)
        return;
    conn->guest = NULL;
    line_send(conn->line, MESH_JOIN_REPLY, 0, body, len, SIZE_MAX);
    line_end(conn->line, true);
    conn_ended(conn, MESH_GUEST_DONE, "");
}

const char *mesh_guest_address(const struct mesh_guest *guest)
{
    return guest->address;
}

/* ------------------------------------------------------------------ frames */

static void on_pong(const struct conn *conn, uint64_t sent_ns)
{
    uint64_t us = (uv_hrtime() - sent_ns) / 1000;
    if (us < UINT32_MAX)
        conn->peer->status.rtt_us = (uint32_t)us + 1;
}

static void on_own_frame(struct conn *conn, const struct frame_head *head)
{
    if (head->type == MESH_PING)
        line_send(conn->line, MESH_PONG, head->id, NULL, 0, MESH_QUEUE_BYTES_MAX);
    else if (head->type == MESH_PONG)
        on_pong(conn, head->id);
    else
        conn_end(conn, MESH_FRAME, mesh_reason_text(MESH_FRAME), true);
}

static void on_frame(void *owner, const struct frame_head *head, const uint8_t *body)
{
    struct conn *conn = owner;
    struct mesh *mesh = conn->mesh;
    if (conn->phase == CONN_GUEST || conn->phase == CONN_ANSWERING)
        on_guest_frame(conn, head, body);
    else if (head->type == MESH_REFUSED)
        on_refused(conn, body, head->bytes);
    else if (conn->phase == CONN_HELLO && head->type == MESH_HELLO)
        on_hello(conn, body, head->bytes);
    else if (conn->phase != CONN_UP)
        conn_end(conn, MESH_FRAME, mesh_reason_text(MESH_FRAME), true);
    else if (head->type <= MESH_JOIN_REPLY)
        on_own_frame(conn, head);
    else
        mesh->config.handlers.frame(mesh->config.arg, conn->peer->node.id, head->type, head->id, body,
                                    head->bytes);
}

static void on_drained(void *owner)
{
    const struct conn *conn = owner;
    struct mesh *mesh = conn->mesh;
    struct peer *peer = conn->phase == CONN_UP ? conn->peer : NULL;
    if (!peer || !peer->low || line_queued(conn->line) > MESH_STREAM_ROOM / 2)
        return;
    peer->low = false;
    if (mesh->config.handlers.writable)
        mesh->config.handlers.writable(mesh->config.arg, peer->node.id);
}

static const struct line_handlers handlers = {
    .ready = on_ready, .frame = on_frame, .ended = on_ended, .drained = on_drained};

/* ------------------------------------------------------------------ beginnings */

static struct conn *conn_new(struct mesh *mesh)
{
    struct conn *conn = calloc(1, sizeof(*conn));
    if (!conn)
        return NULL;
    *conn = (struct conn){.mesh = mesh, .next = mesh->conns, .at = &mesh->conns};
    return conn;
}

static void conn_list(struct conn *conn)
{
    if (conn->next)
        conn->next->at = &conn->next;
    conn->mesh->conns = conn;
}

void conn_dial(struct mesh *mesh, struct peer *peer)
{
    struct conn *conn = conn_new(mesh);
    if (conn) {
        conn->dialled = true;
        conn->peer = peer;
        conn->line = line_dial(&mesh->lines, mesh->tls, &peer->node.address, &handlers, conn);
    }
    if (!conn || !conn->line) {
        free(conn);
        backoff(mesh, peer);
        return;
    }
    conn_list(conn);
    peer->conn = conn;
}

/* Who has been there for longest without showing who it is. */
static void evict(struct mesh *mesh)
{
    struct conn *oldest = NULL;
    for (struct conn *c = mesh->conns; c; c = c->next)
        if (!c->dialled && !c->peer && c->phase != CONN_UP && c->phase != CONN_ANSWERING)
            oldest = c;
    if (oldest)
        conn_end(oldest, MESH_BUSY, mesh_reason_text(MESH_BUSY), false);
}

void conn_accept(struct mesh *mesh, uv_stream_t *listener)
{
    if (mesh->half_open >= MESH_HALF_OPEN_MAX + mesh->guest_count)
        evict(mesh);
    struct conn *conn = conn_new(mesh);
    CHECK(conn); /* libuv accepts nothing more before this one is taken */
    conn->line = line_accept(&mesh->lines, mesh->tls, listener, &handlers, conn);
    if (!conn->line) {
        free(conn);
        return;
    }
    mesh->half_open++;
    conn_list(conn);
}

/* ------------------------------------------------------------------ time */

static bool up_tick(struct conn *conn, uint64_t now)
{
    const struct mesh_config *config = &conn->mesh->config;
    uint64_t silent = now - line_heard_ms(conn->line), since_ping = now - conn->pinged_ms;
    if (silent >= config->idle_ms) {
        conn_end(conn, MESH_IDLE, mesh_reason_text(MESH_IDLE), false);
        return true;
    }
    unsigned patience = conn->dialled ? config->ping_ms : 2 * config->ping_ms;
    if (since_ping < config->ping_ms || (silent < patience && since_ping < MESH_RTT_MS))
        return false;
    conn->pinged_ms = now;
    line_send(conn->line, MESH_PING, uv_hrtime(), NULL, 0, MESH_QUEUE_BYTES_MAX);
    return false;
}

bool conn_tick(struct conn *conn, uint64_t now)
{
    if (conn->phase == CONN_UP)
        return up_tick(conn, now);
    uint64_t limit = conn->phase == CONN_ANSWERING ? MESH_GUEST_MS : conn->mesh->config.handshake_ms;
    if (now - line_began_ms(conn->line) < limit)
        return false;
    conn_end(conn, MESH_HANDSHAKE_TIME, mesh_reason_text(MESH_HANDSHAKE_TIME), false);
    return true;
}
