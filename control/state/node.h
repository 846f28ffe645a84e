/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Nodes, the tokens that let them join, and what holds for the cluster as a whole: what they are, their texts
 * and their bytes. Pure.
 *
 * The role of a node is here and nowhere else: no certificate says it. Addresses are as in service.h.
 */
#ifndef FL_STATE_NODE_H
#define FL_STATE_NODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "control/state/kv.h"
#include "control/state/service.h"
#include "wire.h"

enum {
    NODE_NAME_MAX = SVC_NAME_MAX, /* bytes */
    NODE_HASH_BYTES = 32,         /* SHA-256 */
    NODE_STORE_BYTES = 16,        /* a store's id: chance */
    NODES_MAX = 8192,
    NODE_MANAGERS_MAX = 7,
    NODE_TOKENS_MAX = 256,
    NODE_TOKEN_SECRET_BYTES = 16,
    NODE_COPIES_MAX = 64,
    NODE_ROW_BYTES_MAX = 512, /* an encoded node, change or cluster */
    /*
     * The cluster version: what the nodes of a cluster may write to the log. The state has the one that
     * holds; a node tells the highest that its program knows. A command that came with a later version than
     * the one that holds is not proposed: an older node would have to stop at it.
     */
    CLUSTER_VERSION_FIRST = 1, /* as long as the state says nothing */
    CLUSTER_VERSION = 4, /* this program's. 2: nodes, tokens, transactions; 3: holders of blobs, policies,
                            garbage; 4: sources, webhooks of pulls, the stores of nodes */
    CLUSTER_VERSION_HOLDERS = 3,
    CLUSTER_VERSION_SOURCES = 4,
    CLUSTER_VERSION_STORES = 4,
};

/* The numbers are in the log: they never change their meaning. */
enum node_role { NODE_MANAGER = 1, NODE_WORKER = 2 };
enum node_availability { NODE_ACTIVE = 1, NODE_DRAIN = 2 };

/* How a node's store is, as the node says. What is in one that is not well is read where that goes; it is
 * given nothing new, and no copy is its turn. */
enum node_store_state {
    NODE_STORE_WELL = 0,
    NODE_STORE_LOST = 1,      /* missing, or another one: after repair.grace the node says what it has lost */
    NODE_STORE_READ_ONLY = 2, /* what it holds counts */
    NODE_STORE_FAILING = 3,   /* what it holds counts for repair.grace, as if the node were away */
};

struct node {
    uint64_t id;                     /* from 1 on, given by the state, never given again */
    char name[NODE_NAME_MAX + 1];    /* unique */
    uint8_t role;                    /* enum node_role */
    uint8_t availability;            /* enum node_availability */
    bool replica;                    /* it keeps blobs */
    struct svc_address mesh;         /* where other nodes reach it; port 0: not said yet */
    struct svc_address data;         /* where other replicas fetch blobs; port 0: nowhere */
    uint32_t version;                /* the highest cluster version that its program knows */
    uint8_t key[NODE_HASH_BYTES];    /* SHA-256 of its certificate's public key (SubjectPublicKeyInfo, DER);
                                        zero: not said */
    uint8_t ca[NODE_HASH_BYTES];     /* SHA-256 of the CA certificate that signed it; zero: not said */
    uint8_t store[NODE_STORE_BYTES]; /* the id of its store (store_id.h); zero: not said */
    bool shares;                     /* its store may be other replicas', too (stores.h) */
    uint8_t store_state;             /* enum node_store_state */
    /* Given by the state. */
    uint64_t revision; /* index of the log entry that changed it last */
    uint64_t joined_ms, updated_ms;
};

/* What holds for all nodes. Without a row: version CLUSTER_VERSION_FIRST and zeros. */
struct node_cluster {
    uint32_t version;
    char name[NODE_NAME_MAX + 1];
    uint8_t copies; /* of a blob; 0: of two replicas if there are two */
    uint8_t copies_min;
    /* Given by the state. */
    uint64_t next_node; /* the id of the next node */
    uint32_t nodes, managers, replicas;
    uint64_t revision;
    uint64_t created_ms, updated_ms;
};

/* Everything there is; nodes by id; the managers and replicas among them are counted in cluster. */
struct node_table {
    struct node_cluster cluster;
    struct node *node;
    size_t count;
    uint8_t
        ca[NODE_HASH_BYTES]; /* the CA that alone is trusted, SHA-256; zero: not said, or another one, too */
};

struct node_token {
    uint8_t hash[NODE_HASH_BYTES]; /* SHA-256 of its secret */
    uint8_t role;                  /* enum node_role */
    bool replica;
    uint64_t expires_ms; /* UTC: it counts as long as the command's time is before */
    uint64_t created_ms; /* given by the state */
};

struct node_tokens {
    struct node_token *token;
    size_t count;
};

/*
 * Managers that whoever proposes does not hear from. A change of the set of managers is refused while it
 * would leave less than a majority of those that are heard, unless forced.
 */
struct node_down {
    uint64_t id[NODE_MANAGERS_MAX];
    uint32_t count;
};

/*
 * CMD_NODE_ADD: a node asks to join. Its role is the token's. A node of the same name and key is the same
 * one, which asks again because it did not get its answer: it gets the id it has.
 */
struct node_join {
    uint8_t token[NODE_HASH_BYTES]; /* SHA-256 of the secret it showed */
    struct node node;               /* name, mesh, data, version, key, ca; replica as replica_said says */
    bool replica_said;              /* false: as the token says */
    bool force;
    struct node_down down;
};

/* Bits of node_change.has. */
enum node_has {
    NODE_HAS_NAME = 1 << 0,
    NODE_HAS_ROLE = 1 << 1,
    NODE_HAS_AVAILABILITY = 1 << 2,
    NODE_HAS_REPLICA = 1 << 3,
    NODE_HAS_MESH = 1 << 4,
    NODE_HAS_DATA = 1 << 5,
    NODE_HAS_VERSION = 1 << 6,
    NODE_HAS_KEY = 1 << 7,
    NODE_HAS_CA = 1 << 8,
    NODE_HAS_STORE = 1 << 9,        /* store and shares; from CLUSTER_VERSION_STORES on */
    NODE_HAS_STORE_STATE = 1 << 10, /* from CLUSTER_VERSION_STORES on */
    NODE_HAS_ALL = (1 << 11) - 1,
};

/* CMD_NODE_SET. */
struct node_change {
    uint64_t revision; /* that the node has, or CMD_REVISION_ANY */
    uint32_t has;      /* which fields of node count */
    struct node node;  /* its id, and those fields */
    bool force;
    struct node_down down;
};

/* CMD_NODE_RM. */
struct node_removal {
    uint64_t id;
    bool force; /* a manager that is dead goes without having been demoted */
    struct node_down down;
};

/* Bits of node_cluster_change.has. */
enum node_cluster_has {
    NODE_CLUSTER_HAS_VERSION = 1 << 0,
    NODE_CLUSTER_HAS_NAME = 1 << 1,
    NODE_CLUSTER_HAS_COPIES = 1 << 2,
    NODE_CLUSTER_HAS_COPIES_MIN = 1 << 3,
    NODE_CLUSTER_HAS_ALL = (1 << 4) - 1,
};

/* CMD_CLUSTER_SET. */
struct node_cluster_change {
    uint64_t revision; /* that the cluster's row has, or CMD_REVISION_ANY */
    uint32_t has;
    struct node_cluster cluster;
};

/* Reads all nodes and the cluster's row; node_table_fini frees it. 0 or -errno. */
int state_nodes_read(struct kv *kv, struct node_table *out);
/* The cluster's row alone. */
int state_cluster_read(struct kv *kv, struct node_cluster *out);
/* One node. -ENOENT if there is none. */
int state_node_read(struct kv *kv, uint64_t id, struct node *out);
/* All tokens, also those that have expired. node_tokens_fini frees it. */
int state_tokens_read(struct kv *kv, struct node_tokens *out);

/* Makes the state one that a new cluster of this node alone begins with: other nodes go, and every token. The
 * node is a manager and replica; its addresses and certificate are not said any more. 0 or -errno. */
int state_restore_alone(struct kv *kv, uint64_t id);

void node_table_fini(struct node_table *t);
void node_tokens_fini(struct node_tokens *t);

/* In the table; NULL if it is not there. */
const struct node *node_find(const struct node_table *t, uint64_t id);
const struct node *node_find_name(const struct node_table *t, const char *name);

/* Whether the certificate that the node has counts: of the CA that is trusted, as far as it has said so. */
bool node_counts(const struct node_table *t, const struct node *n);

/* The lowest cluster version that all nodes of the table know; CLUSTER_VERSION_FIRST if there are none. */
uint32_t node_version_common(const struct node_table *t);
/* The cluster version that a command came with. */
uint32_t node_version_of_command(uint16_t type);

/* Whether it has said which store it has. */
bool node_store_said(const struct node *n);

/* A name of a node or of a cluster: 1 to 63 letters, digits, '.', '_', '-'; the first one is no '-' or '.'.
 */
bool node_name_valid(const char *name, size_t len);

/* 0, or -EINVAL with what is wrong and what to write. */
int node_check(const struct node *n, char err[SVC_ERROR_MAX]);

const char *node_role_name(unsigned role);
const char *node_availability_name(unsigned availability);
const char *node_store_state_name(unsigned store_state);

/* What an operator should know of this set of managers, "" if nothing: an even number, or one alone among
 * others. */
const char *node_managers_warning(size_t managers, size_t nodes);

/* The bytes of commands behind their head, and of rows. A reader that finds another version, or a value out
 * of its range, fails. */
void node_put(struct wire_writer *w, const struct node *n);
void node_get(struct wire_reader *r, struct node *n);
void node_join_put(struct wire_writer *w, const struct node_join *j);
void node_join_get(struct wire_reader *r, struct node_join *j);
void node_change_put(struct wire_writer *w, const struct node_change *c);
void node_change_get(struct wire_reader *r, struct node_change *c);
void node_removal_put(struct wire_writer *w, const struct node_removal *n);
void node_removal_get(struct wire_reader *r, struct node_removal *n);
void node_token_put(struct wire_writer *w, const struct node_token *t);
void node_token_get(struct wire_reader *r, struct node_token *t);
void node_cluster_put(struct wire_writer *w, const struct node_cluster *c);
void node_cluster_get(struct wire_reader *r, struct node_cluster *c);
void node_cluster_change_put(struct wire_writer *w, const struct node_cluster_change *c);
void node_cluster_change_get(struct wire_reader *r, struct node_cluster_change *c);

#endif
