/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The connections between the nodes of a cluster: TCP with TLS 1.3, in frames. Both sides show certificates
 * of the cluster's CA that name the cluster and the node; whoever is not one of the nodes that mesh_set_nodes
 * gave is sent away. One connection for each pair of nodes, in which frames go both ways; which of the two
 * dials is the caller's choice (struct mesh_node), and whoever dials dials again, with back-off and jitter.
 *
 * A frame is a type, a number that means what its type says, and a body. Frames of one connection arrive in
 * order, once, or not at all: what was queued when a connection broke is lost, and `down` says so. Nothing is
 * ever repeated here.
 *
 * Queues are bounded: mesh_send() fails at once when the node is not connected or has too much before it.
 * Raft takes that for a lost message, a request for a refusal. Streams (snapshots, entries for followers)
 * send only as much as mesh_room() says and go on at `writable`, so that they never stand in the way of Raft
 * for long.
 *
 * Everything is on the loop's thread; no handler is called from inside mesh_send().
 */
#ifndef FL_MESH_MESH_H
#define FL_MESH_MESH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "control/config.h"
#include "limits.h"
#include "shared.h"

struct journal;
struct mesh;
struct mesh_guest;
struct pki_identity;

/* Types of frames; each range belongs to its owner. */
enum mesh_type {
    MESH_HELLO = 1,   /* mesh itself, as are all up to MESH_JOIN_REPLY */
    MESH_REFUSED = 2, /* why; the connection ends behind it */
    MESH_PING = 3,
    MESH_PONG = 4,
    MESH_JOIN = 5, /* the only one that a stranger may send, once */
    MESH_JOIN_REPLY = 6,
    MESH_RENEW = 7, /* 7 to 15: certificates; handed to `frame` */
    MESH_RENEW_REPLY = 8,
    MESH_CA_KEY = 9,
    MESH_CA_KEY_REPLY = 10,
    MESH_TYPES_RAFT = 16,    /* 16 to 31 */
    MESH_TYPES_FOLLOW = 32,  /* 32 to 47: followers, snapshots */
    MESH_TYPES_CLUSTER = 48, /* 48 to 63: proposals and what else the cluster does */
    MESH_TYPES_END = 64,
};

enum {
    MESH_BODY_MAX = COMMAND_BYTES_MAX + (64 << 10), /* of a frame */
    MESH_QUEUE_BYTES_MAX =
        64 << 20,                 /* that wait for one node; one frame may be in an empty queue at any size */
    MESH_STREAM_ROOM = 512 << 10, /* of them, at most this much is a stream's to fill */
    MESH_NODES_MAX = 8192,
    MESH_LISTEN_MAX = 8,
    MESH_WHY_MAX = 256,
};

/* Why a connection, or a try to make one, ended. mesh_reason_text() is the sentence, mesh_reason_name() the
 * name of its counter. MESH_REFUSED_BY_PEER: the text is the other side's own. */
enum mesh_reason {
#define MESH_REASON(symbol, name, text) MESH_##symbol,
#include "mesh_reasons.def"
#undef MESH_REASON
    MESH_REASON_COUNT
};
_Static_assert((int)MESH_REASON_COUNT == (int)MESH_ENDS_COUNT, "shared.h counts them");

struct mesh_node {
    uint64_t id;
    bool dial;                     /* this side connects; exactly one of the two sides should */
    struct config_address address; /* where it listens; read only where dial is set */
};

struct mesh_handlers {
    /* A frame of a type from MESH_RENEW on. body is borrowed until the return. */
    void (*frame)(void *arg, uint64_t from, uint16_t type, uint64_t id, const void *body, size_t len);
    /* The node is connected: frames can be sent. */
    void (*up)(void *arg, uint64_t node);
    /* It was, and is not any more. Comes before the next up() of the same node, and for each up() but those
     * that mesh_close ends. */
    void (*down)(void *arg, uint64_t node, enum mesh_reason why);
    /* mesh_room() of the node is above half of MESH_STREAM_ROOM again after it was below. May be NULL. */
    void (*writable)(void *arg, uint64_t node);
    /* A stranger asks to join. Answer now or later with mesh_guest_reply, exactly once. NULL: strangers are
     * sent away at the handshake. */
    void (*join)(void *arg, struct mesh_guest *guest, const void *body, size_t len);
};

struct mesh_config {
    uv_loop_t *loop;
    struct journal *journal; /* borrowed; NULL: nothing is logged */
    uint8_t cluster_id[16];
    uint64_t node_id;
    const struct pki_identity *identity; /* copied */
    const struct config_address *listen; /* copied */
    size_t listen_count;                 /* 0: it dials only */
    unsigned ping_ms;                    /* between pings of a quiet connection; 0: a quarter of idle_ms */
    unsigned idle_ms;                    /* without anything from the other side; 0: 2000 */
    unsigned handshake_ms;               /* from connect to HELLO; 0: 5000 */
    unsigned redial_ms_max;              /* upper end of the back-off; 0: 1000 */
    struct mesh_handlers handlers;
    void *arg;
};

/* 0 or -errno with a text in err: an address that cannot be bound. */
int mesh_open(const struct mesh_config *config, struct mesh **out, char *err, size_t err_len);

/* The i-th address that it listens on, as the kernel has it (port 0 was another one). 0 or -errno. */
int mesh_address(const struct mesh *mesh, size_t i, struct config_address *out);

/* The nodes that may connect, and which of them to dial; this node itself is left out by the mesh.
 * Connections to others end with MESH_REMOVED. Copied. */
void mesh_set_nodes(struct mesh *mesh, const struct mesh_node *nodes, size_t count);

/* Other certificates from now on; connections that stand go on. 0 or -errno; then the old ones stay. */
int mesh_set_identity(struct mesh *mesh, const struct pki_identity *identity);

/* Copies body. 0, -ENOTCONN, -ENOBUFS (its queue is full), -EMSGSIZE. */
int mesh_send(struct mesh *mesh, uint64_t node, uint16_t type, uint64_t id, const void *body, size_t len);

bool mesh_is_up(const struct mesh *mesh, uint64_t node);

/* Bytes of body that a stream may send to the node now; 0 if it is not connected. */
size_t mesh_room(const struct mesh *mesh, uint64_t node);

/* Ends the connection, because what the node sent makes no sense to the owner of the frame. It is dialled
 * anew as after any other end. */
void mesh_drop(struct mesh *mesh, uint64_t node, enum mesh_reason why);

/* Ends the connection, if there is one, since it is not needed. */
void mesh_hang_up(struct mesh *mesh, uint64_t node);

/* The answer to a stranger; frees the guest, who may have gone meanwhile. */
void mesh_guest_reply(struct mesh_guest *guest, const void *body, size_t len);
/* Its address, for the logs. */
const char *mesh_guest_address(const struct mesh_guest *guest);

struct mesh_node_status {
    bool up;
    enum mesh_reason why;    /* of the last end, or of the last try that failed; MESH_OK: none yet */
    char text[MESH_WHY_MAX]; /* of it */
    uint64_t since_ms;       /* of the loop's clock: since when it is up, or is not; 0: never was */
    uint32_t rtt_us;         /* of the last ping; 0: not known */
    uint64_t sent_bytes, received_bytes, queued_bytes;
    uint64_t connections, failures;
};

/* False if there is no such node. */
bool mesh_node_status(const struct mesh *mesh, uint64_t node, struct mesh_node_status *out);

/* How many nodes may connect, and how many are connected. */
void mesh_count(const struct mesh *mesh, size_t *nodes, size_t *up);

/* How often each reason ended a connection or a try, since the start. */
uint64_t mesh_reason_count(const struct mesh *mesh, enum mesh_reason reason);
const char *mesh_reason_name(enum mesh_reason reason);
const char *mesh_reason_text(enum mesh_reason reason);

/* closed() comes from the loop, when nothing of the mesh is left. Guests that were not answered are still to
 * be answered, before or after it. */
void mesh_close(struct mesh *mesh, void (*closed)(void *arg), void *arg);

#endif
