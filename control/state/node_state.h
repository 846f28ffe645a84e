/* SPDX-License-Identifier: Apache-2.0 */
/* In which state a node is, and why: told from its row and from what this node sees of it. Pure. */
#ifndef FL_STATE_NODE_STATE_H
#define FL_STATE_NODE_STATE_H

#include "control/state/node.h"

enum {
    NODE_REASON_MAX = 192,
    NODE_JOINING_MS = 30000, /* so long a node may take to connect for the first time */
    NODE_BLIP_MS = 2000,     /* so long a connection may be gone before the node counts as down */
    NODE_LAG_ENTRIES = 1000, /* so far behind it is still ready */
};

enum node_raft { NODE_RAFT_UNKNOWN, NODE_RAFT_NONE, NODE_RAFT_STANDBY, NODE_RAFT_VOTER };
enum node_heartbeat { NODE_HEARTBEAT_NONE, NODE_HEARTBEAT_UP, NODE_HEARTBEAT_DOWN };

/* What this node sees of another one, or of itself. */
struct node_seen {
    bool self;
    bool leader;       /* it leads */
    bool leaderless;   /* nobody leads, as far as is known here */
    bool expected;     /* there ought to be a connection between that node and this one */
    bool connected;    /* there is */
    bool ever;         /* there was one since this node's start */
    uint64_t since_ms; /* how long ago the connection came, went, or was tried for the first time */
    const char *why;   /* of the last end or failed try; NULL or "": not known */
    uint8_t heartbeat; /* enum node_heartbeat */
    uint8_t raft;      /* enum node_raft: what it is in Raft's configuration */
    bool snapshot;     /* a snapshot is on its way to it */
    bool progress;     /* applied is known */
    uint64_t applied;  /* index */
    uint64_t follows;  /* a worker: the manager that sends it the log; 0: not known */
    uint64_t commit;   /* of the cluster, as far as is known here */
};

enum node_state {
    NODE_STATE_UNKNOWN, /* this node cannot tell */
    NODE_STATE_READY,
    NODE_STATE_JOINING,       /* added, and not connected yet */
    NODE_STATE_RECONFIGURING, /* it becomes what its row says */
    NODE_STATE_CATCHING_UP,
    NODE_STATE_UNREACHABLE, /* it lives, and is not connected */
    NODE_STATE_DOWN,
    NODE_STATE_LEADERLESS, /* it serves what it has, and nothing can be changed */
    NODE_STATE_COUNT
};

struct node_verdict {
    enum node_state state;
    char reason[NODE_REASON_MAX]; /* "" if there is nothing to say */
};

/* now_ms: UTC. */
void node_judge(const struct node *n, const struct node_seen *seen, uint64_t now_ms,
                struct node_verdict *out);

const char *node_state_name(enum node_state state);

/* Whether a manager in this state must be thought of as one that does not vote. */
bool node_state_is_down(enum node_state state);

#endif
