/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the mesh share. */
#ifndef FL_MESH_MESH_INTERNAL_H
#define FL_MESH_MESH_INTERNAL_H

#include "control/mesh/line.h"
#include "control/mesh/line_tls.h"

enum {
    MESH_TICK_MS = 25,
    MESH_LATE_MS = 250, /* a tick that is later than this says that the loop stood still */
    MESH_RTT_MS = 5000, /* between pings of a busy connection */
    MESH_REDIAL_MS_MIN = 50,
    MESH_HALF_OPEN_MAX = 64, /* connections that have not shown who they are; the oldest makes room */
    MESH_GUESTS_MAX = 16,    /* strangers whose request is being answered */
    MESH_GUEST_MS = 20000,
    MESH_JOINS_BURST = 16,    /* requests of strangers at once, ... */
    MESH_JOIN_EVERY_MS = 250, /* ... and on the average */
    MESH_BACKLOG = 128,
    MESH_SAY_PEER_MS = 60000,     /* the same thing of the same node again */
    MESH_SAY_STRANGER_MS = 10000, /* the same thing of strangers */
};

enum conn_phase { CONN_TLS, CONN_HELLO, CONN_UP, CONN_GUEST, CONN_ANSWERING };

/* A connection, from dialling or accepting it to its end. */
struct conn {
    struct conn *next, **at; /* in the mesh's list, newest first */
    struct mesh *mesh;
    struct line *line;
    struct peer *peer; /* NULL: it has not shown who it is */
    enum conn_phase phase;
    bool dialled;
    uint64_t pinged_ms;
    struct mesh_guest *guest;
};

struct mesh_guest {
    struct mesh *mesh; /* NULL: it was closed */
    struct conn *conn; /* NULL: it has gone */
    struct mesh_guest *next, **at;
    char address[ADDRESS_TEXT_MAX];
};

/* A node that may connect. */
struct peer {
    struct mesh_node node;
    struct conn *conn; /* up, or the one that was dialled */
    uint64_t redial_at;
    unsigned backoff_ms;
    bool low;  /* mesh_room() was seen below half */
    bool kept; /* while the nodes are set anew */
    enum mesh_reason said;
    uint64_t said_ms;
    struct mesh_node_status status;
};

struct mesh_listener {
    uv_tcp_t tcp;
    struct mesh *mesh;
    struct config_address address;
    bool open;
};

struct mesh {
    struct mesh_config config;
    struct pki_identity *identity;
    SSL_CTX *tls;
    struct line_pool lines;
    struct mesh_listener listener[MESH_LISTEN_MAX];
    uv_timer_t tick;
    uint64_t ticked_ms;
    struct conn *conns;
    struct mesh_guest *guests;
    size_t half_open, guest_count;
    unsigned join_tokens;
    uint64_t join_token_ms;
    struct peer **peer; /* by id */
    size_t peer_count;
    uint64_t counts[MESH_REASON_COUNT];
    uint64_t said_ms[MESH_REASON_COUNT], unsaid[MESH_REASON_COUNT]; /* of strangers */
    bool closing;
    unsigned handles;
    void (*closed)(void *arg);
    void *closed_arg;
};

/* mesh.c */
struct peer *mesh_peer(const struct mesh *mesh, uint64_t id);

/* mesh_conn.c */
void conn_dial(struct mesh *mesh, struct peer *peer);
void conn_accept(struct mesh *mesh, uv_stream_t *listener);
/* Ends it, counts and logs why, tells `down` if it was up. say_so: the other side is told the text. */
void conn_end(struct conn *conn, enum mesh_reason why, const char *text, bool say_so);
/* What time brings: pings, limits. True: it has ended it. */
bool conn_tick(struct conn *conn, uint64_t now);
/* Without a word to anybody. */
void conn_drop_silently(struct conn *conn);

#endif
