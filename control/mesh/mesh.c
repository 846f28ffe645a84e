/* SPDX-License-Identifier: Apache-2.0 */
#include "control/mesh/mesh.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "check.h"
#include "control/mesh/mesh_internal.h"

enum { IDLE_MS = 2000, HANDSHAKE_MS = 5000, REDIAL_MS_MAX = 1000 };

/* ------------------------------------------------------------------ nodes */

/* Where the id is, or would be. */
static size_t peer_place(const struct mesh *mesh, uint64_t id)
{
    size_t low = 0, high = mesh->peer_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (mesh->peer[middle]->node.id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

struct peer *mesh_peer(const struct mesh *mesh, uint64_t id)
{
    size_t at = peer_place(mesh, id);
    return at < mesh->peer_count && mesh->peer[at]->node.id == id ? mesh->peer[at] : NULL;
}

static void peer_set(struct mesh *mesh, const struct mesh_node *node)
{
    struct peer *peer = mesh_peer(mesh, node->id);
    if (!peer) {
        size_t at = peer_place(mesh, node->id);
        peer = calloc(1, sizeof(*peer));
        CHECK(peer && mesh->peer_count < MESH_NODES_MAX);
        memmove(mesh->peer + at + 1, mesh->peer + at, (mesh->peer_count - at) * sizeof(struct peer *));
        mesh->peer[at] = peer;
        mesh->peer_count++;
    } else if (strcmp(peer->node.address.text, node->address.text) != 0) {
        peer->redial_at = 0;
        peer->backoff_ms = 0;
    }
    peer->node = *node;
    peer->kept = true;
}

/* Everything that a peer has, connections that have only begun too. */
static void peer_remove(struct mesh *mesh, struct peer *peer)
{
    size_t at = peer_place(mesh, peer->node.id);
    mesh->peer_count--;
    memmove(mesh->peer + at, mesh->peer + at + 1, (mesh->peer_count - at) * sizeof(struct peer *));
    for (struct conn *c = mesh->conns; c;) {
        struct conn *next = c->next;
        if (c->peer == peer && c != peer->conn)
            conn_drop_silently(c);
        c = next;
    }
    if (peer->conn)
        conn_end(peer->conn, MESH_REMOVED, mesh_reason_text(MESH_REMOVED), true);
    free(peer);
}

void mesh_set_nodes(struct mesh *mesh, const struct mesh_node *nodes, size_t count)
{
    for (size_t i = 0; i < mesh->peer_count; i++)
        mesh->peer[i]->kept = false;
    for (size_t i = 0; i < count; i++)
        if (nodes[i].id != mesh->config.node_id)
            peer_set(mesh, &nodes[i]);
    /* `down` may set the nodes anew from in here: nothing of before is held over it. */
    for (size_t i = 0; i < mesh->peer_count;) {
        if (mesh->peer[i]->kept) {
            i++;
            continue;
        }
        peer_remove(mesh, mesh->peer[i]);
        i = 0;
    }
}

/* ------------------------------------------------------------------ frames */

static struct conn *up_conn(const struct mesh *mesh, uint64_t node)
{
    const struct peer *peer = mesh_peer(mesh, node);
    return peer && peer->conn && peer->conn->phase == CONN_UP ? peer->conn : NULL;
}

int mesh_send(struct mesh *mesh, uint64_t node, uint16_t type, uint64_t id, const void *body, size_t len)
{
    struct conn *conn = up_conn(mesh, node);
    if (!conn)
        return -ENOTCONN;
    if (len > MESH_BODY_MAX)
        return -EMSGSIZE;
    return line_send(conn->line, type, id, body, len, MESH_QUEUE_BYTES_MAX);
}

bool mesh_is_up(const struct mesh *mesh, uint64_t node)
{
    return up_conn(mesh, node) != NULL;
}

size_t mesh_room(const struct mesh *mesh, uint64_t node)
{
    const struct conn *conn = up_conn(mesh, node);
    if (!conn)
        return 0;
    size_t queued = line_queued(conn->line);
    conn->peer->low |= queued > MESH_STREAM_ROOM / 2;
    return queued >= MESH_STREAM_ROOM ? 0 : MESH_STREAM_ROOM - queued;
}

void mesh_drop(struct mesh *mesh, uint64_t node, enum mesh_reason why)
{
    struct conn *conn = up_conn(mesh, node);
    if (conn)
        conn_end(conn, why, mesh_reason_text(why), true);
}

void mesh_hang_up(struct mesh *mesh, uint64_t node)
{
    const struct peer *peer = mesh_peer(mesh, node);
    if (peer && peer->conn)
        conn_end(peer->conn, MESH_SHUTDOWN, mesh_reason_text(MESH_SHUTDOWN), false);
}

bool mesh_node_status(const struct mesh *mesh, uint64_t node, struct mesh_node_status *out)
{
    const struct peer *peer = mesh_peer(mesh, node);
    if (!peer)
        return false;
    const struct conn *conn = up_conn(mesh, node);
    *out = peer->status;
    out->up = conn != NULL;
    if (!conn)
        return true;
    out->sent_bytes += line_sent(conn->line);
    out->received_bytes += line_received(conn->line);
    out->queued_bytes = line_queued(conn->line);
    return true;
}

void mesh_count(const struct mesh *mesh, size_t *nodes, size_t *up)
{
    *nodes = mesh->peer_count;
    *up = 0;
    for (size_t i = 0; i < mesh->peer_count; i++)
        *up += mesh->peer[i]->conn && mesh->peer[i]->conn->phase == CONN_UP;
}

uint64_t mesh_reason_count(const struct mesh *mesh, enum mesh_reason reason)
{
    return reason < MESH_REASON_COUNT ? mesh->counts[reason] : 0;
}

/* ------------------------------------------------------------------ time */

static void dial_due(struct mesh *mesh, uint64_t now)
{
    for (size_t i = 0; i < mesh->peer_count; i++) {
        struct peer *peer = mesh->peer[i];
        if (peer->node.dial && !peer->conn && now >= peer->redial_at)
            conn_dial(mesh, peer);
    }
}

static void on_tick(uv_timer_t *timer)
{
    struct mesh *mesh = timer->data;
    uint64_t now = uv_now(mesh->config.loop);
    /* After a loop that stood still, what came meanwhile waits in the sockets: nobody is called silent. */
    bool late = now - mesh->ticked_ms > MESH_LATE_MS;
    mesh->ticked_ms = now;
    /* One that is ended takes others with it, by what its handler does: so from the beginning each time. */
    struct conn *c = late ? NULL : mesh->conns;
    while (c)
        c = conn_tick(c, now) ? mesh->conns : c->next;
    if (!mesh->closing)
        dial_due(mesh, now);
}

/* ------------------------------------------------------------------ life */

int mesh_set_identity(struct mesh *mesh, const struct pki_identity *identity)
{
    struct pki_identity *copy = pki_identity_copy(identity);
    SSL_CTX *tls = copy ? line_tls_new(copy) : NULL;
    if (!tls) {
        pki_identity_free(copy);
        return -ENOMEM;
    }
    SSL_CTX_free(mesh->tls); /* connections hold it */
    pki_identity_free(mesh->identity);
    mesh->tls = tls;
    mesh->identity = copy;
    return 0;
}

static void on_connection(uv_stream_t *stream, int status)
{
    const struct mesh_listener *listener = stream->data;
    if (status == 0 && !listener->mesh->closing)
        conn_accept(listener->mesh, stream);
}

static int listen_on(struct mesh *mesh, struct mesh_listener *l, char *err, size_t err_len)
{
    unsigned flags = l->address.addr.ss_family == AF_INET6 ? UV_TCP_IPV6ONLY : 0;
    l->mesh = mesh;
    l->tcp.data = l;
    int rc = uv_tcp_init(mesh->config.loop, &l->tcp);
    if (rc == 0) {
        mesh->handles++;
        l->open = true;
        rc = uv_tcp_bind(&l->tcp, (const struct sockaddr *)&l->address.addr, flags);
    }
    if (rc == 0)
        rc = uv_listen((uv_stream_t *)&l->tcp, MESH_BACKLOG, on_connection);
    if (rc)
        snprintf(err, err_len, "the cluster's address %s cannot be listened on: %s", l->address.text,
                 uv_strerror(rc));
    return rc;
}

static void defaults(struct mesh_config *config)
{
    config->idle_ms = config->idle_ms ? config->idle_ms : IDLE_MS;
    config->ping_ms = config->ping_ms ? config->ping_ms : config->idle_ms / 4;
    config->handshake_ms = config->handshake_ms ? config->handshake_ms : HANDSHAKE_MS;
    config->redial_ms_max = config->redial_ms_max ? config->redial_ms_max : REDIAL_MS_MAX;
}

int mesh_open(const struct mesh_config *config, struct mesh **out, char *err, size_t err_len)
{
    struct mesh *mesh = calloc(1, sizeof(*mesh));
    CHECK(mesh && config->listen_count <= MESH_LISTEN_MAX);
    mesh->config = *config;
    defaults(&mesh->config);
    mesh->peer = calloc(MESH_NODES_MAX, sizeof(struct peer *));
    CHECK(mesh->peer);
    mesh->join_tokens = MESH_JOINS_BURST;
    mesh->join_token_ms = mesh->ticked_ms = uv_now(config->loop);
    line_pool_open(&mesh->lines, config->loop);
    uv_timer_init(config->loop, &mesh->tick);
    mesh->tick.data = mesh;
    mesh->handles = 2; /* the timer and the pool of lines */
    int rc = mesh_set_identity(mesh, config->identity);
    if (rc)
        snprintf(err, err_len, "the node's certificate cannot be used: %s", strerror(-rc));
    for (size_t i = 0; rc == 0 && i < config->listen_count; i++) {
        mesh->listener[i].address = config->listen[i];
        rc = listen_on(mesh, &mesh->listener[i], err, err_len);
    }
    if (rc) {
        mesh_close(mesh, NULL, NULL);
        return rc;
    }
    uv_timer_start(&mesh->tick, on_tick, 0, MESH_TICK_MS);
    *out = mesh;
    return 0;
}

int mesh_address(const struct mesh *mesh, size_t i, struct config_address *out)
{
    uv_os_fd_t fd;
    if (i >= MESH_LISTEN_MAX || !mesh->listener[i].open)
        return -ENOENT;
    int rc = uv_fileno((const uv_handle_t *)&mesh->listener[i].tcp, &fd);
    return rc ? rc : config_address_of_socket(fd, out);
}

static void handle_gone(struct mesh *mesh)
{
    if (--mesh->handles)
        return;
    void (*closed)(void *) = mesh->closed;
    void *arg = mesh->closed_arg;
    for (size_t i = 0; i < mesh->peer_count; i++)
        free(mesh->peer[i]);
    free(mesh->peer);
    SSL_CTX_free(mesh->tls);
    pki_identity_free(mesh->identity);
    free(mesh);
    if (closed)
        closed(arg);
}

static void on_tick_closed(uv_handle_t *handle)
{
    handle_gone(handle->data);
}

static void on_listener_closed(uv_handle_t *handle)
{
    const struct mesh_listener *l = handle->data;
    handle_gone(l->mesh);
}

static void on_lines_closed(void *arg)
{
    handle_gone(arg);
}

void mesh_close(struct mesh *mesh, void (*closed)(void *arg), void *arg)
{
    mesh->closing = true;
    mesh->closed = closed;
    mesh->closed_arg = arg;
    while (mesh->conns)
        conn_drop_silently(mesh->conns);
    for (struct mesh_guest *g = mesh->guests; g; g = g->next)
        g->mesh = NULL;
    uv_close((uv_handle_t *)&mesh->tick, on_tick_closed);
    for (size_t i = 0; i < MESH_LISTEN_MAX; i++)
        if (mesh->listener[i].open)
            uv_close((uv_handle_t *)&mesh->listener[i].tcp, on_listener_closed);
    line_pool_close(&mesh->lines, on_lines_closed, mesh);
}
