/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the cluster share. */
#ifndef FL_CONTROL_CLUSTER_INTERNAL_H
#define FL_CONTROL_CLUSTER_INTERNAL_H

#include "control/cluster.h"
#include "control/mesh/mesh.h"
#include "control/mesh/pki_files.h"
#include "control/raft/consensus.h"
#include "control/unseen.h"

enum {
    CLUSTER_FRAME_PROPOSE = MESH_TYPES_CLUSTER,    /* a command; id: the sender's number of it */
    CLUSTER_FRAME_CA_KEY = 42,                     /* 32 bytes: which CA's key is wanted: cluster_ca.c */
    CLUSTER_FRAME_CA_KEY_REPLY = 43,               /* the key, PEM */
    CLUSTER_FRAME_FOLLOWERS = 47,                  /* who follows the sender: cluster_followers.c */
    CLUSTER_FRAME_RESULT = MESH_TYPES_CLUSTER + 1, /* u16 status, u64 index, bytes detail; the same id */
    CLUSTER_FRAME_ABSENT = MESH_TYPES_CLUSTER + 2, /* who is not heard: cluster_absent.c */
    CLUSTER_FRAME_VERDICTS = 54,                   /* of a manager's kernel: cluster_feed.c */
};

enum {
    FORWARD_MAX = 8192, /* proposals that wait, or are at the leader; more get CMD_BUSY */
    FORWARD_BYTES_MAX = 128 << 20,
    FORWARD_TICK_MS = 20,
    FORWARD_LEADER_MS = 3000,  /* so long proposals wait for a leader, from when the last one was lost */
    FORWARD_RESULT_MS = 30000, /* so long an answer may take */
    FORWARD_LEFT_MS = 250,     /* and so long one of who leads no more, once another one does */
    FORWARD_APPLY_MS = 5000,   /* so long what was committed may take to be applied here */
};

struct proposal;

/* Proposals on their way: cluster_forward.c. */
struct forward {
    struct proposal *first, **last; /* oldest first */
    size_t count, bytes;
    uint64_t next_id;
    uint64_t leaderless_ms;     /* of the loop's clock: since when nobody leads; 0: somebody does */
    uint64_t leader, leader_ms; /* who led last, since when */
    size_t served;              /* of other nodes, under way here */
    uv_timer_t tick;
};

/* Followers that have all verdicts, by id: cluster_feed.c. */
struct feed {
    uint64_t *node;
    size_t count;
};

/* A node as the mesh needs to know it. */
struct known_node {
    uint64_t id;
    bool manager, replica;
};

struct joining;

enum {
    CA_SOON_MS = 20,
    CA_LATER_MS = 250,
    CA_AWAY_MS = 60000 /* unseen for so long: left behind by force */
};

/* cluster_ca.c */
struct ca_keeping {
    bool settled;     /* this node has all that the state wants of it */
    bool asking;      /* a command is under way */
    bool hangs_up;    /* on whoever is connected by a CA that is trusted no more: the bundle has changed */
    bool unmade;      /* by this leader: the new CA could not be stored the last time */
    bool signer_said; /* by the state: which CA signs */
    uint8_t signer[NODE_HASH_BYTES];
    uint8_t own[NODE_HASH_BYTES]; /* the CA of this node's certificate */
    uint8_t phase;                /* enum ca_phase: said last */
    uint64_t serial, taken;       /* of the files of STATE/pki; the newest that the data plane has */
    uint64_t demoted_ms;          /* of the loop's clock: no manager since; 0: it is one */
    const char *blocked;          /* why this leader cannot make the new CA; NULL: nothing is in the way */
    struct unseen unseen;         /* while this node leads and the CA is being exchanged */
};

enum { PKI_CHANGES_MAX = 3 };

/* One file of STATE/pki, and its place in struct pki_files. text.data NULL: it is removed. */
struct pki_change {
    const char *file;
    struct pki_text *place, text;
};

typedef void (*pki_done)(struct cluster *c, int rc);

/* What is done to the files of STATE/pki at the moment: cluster_pki.c. */
struct pki_work {
    uv_work_t work;
    bool busy;
    struct pki_change change[PKI_CHANGES_MAX]; /* in this order */
    size_t count;
    struct pki_identity *identity; /* of the files as they are to be; NULL: it is not about that */
    const char *what;
    pki_done done;
    int rc;
    int said; /* of the last one */
    const char *said_what;
    void (*ended)(struct cluster *c);
};

struct cluster {
    struct cluster_config config;
    struct consensus *consensus;
    char *names_path;
    int dir_fd;
    struct mesh *mesh; /* NULL: this node listens to nobody */
    struct pki_files pki;
    struct pki_work pki_work;
    struct pki_identity *identity;
    struct known_node *known; /* by id */
    size_t known_count;
    uint32_t certificate_life_s;
    struct ca_keeping ca;
    uv_timer_t upkeep;
    uv_timer_t dial; /* whom this node dials is to be said anew */
    uint64_t source; /* the manager that this node follows; 0: it takes part in Raft */
    struct forward forward;
    struct followers_report *reports; /* of other managers */
    struct {
        struct cluster_absent *list;
        size_t count;
        uint64_t at_ms; /* of the loop's clock: when it was said */
        bool said;
    } absent;
    struct feed feed;
    struct joining *joining; /* NULL: none is under way */
    bool left;               /* this host has joined another cluster: what is written from now on is lost */
    bool closing;
    void (*net_closed)(struct cluster *c);
    void (*closed)(void *arg);
    void *closed_arg;
};

/* cluster_net.c: the mesh, and what goes through it. 0 or -errno with err. */
int net_open(struct cluster *c, char *err, size_t err_len);
int net_send(void *arg, uint64_t node, uint16_t type, const void *body, size_t len);
/* What the node's own row says of it; false: the state does not know it. */
bool net_is_manager(const struct cluster *c, uint64_t node);
/* One of the managers that are connected, another one each time; 0: none is. */
uint64_t net_some_manager(const struct cluster *c);
/* The upkeep comes at that time at the latest. */
void net_upkeep_within(struct cluster *c, uint64_t ms);
void net_count(const struct cluster *c, size_t *others, size_t *connected);
/* The manager that this node follows: the one that it needs to be connected with. */
void net_source(struct cluster *c, uint64_t manager);
/* Of what was opened; may be called where nothing was. */
void net_close(struct cluster *c, void (*closed)(struct cluster *c));

/* cluster_admit.c: certificates for other nodes and for this one. */
void admit_join(void *arg, struct mesh_guest *guest, const void *body, size_t len);
void admit_frame(struct cluster *c, uint64_t from, uint16_t type, uint64_t id, const void *body, size_t len);
void admit_upkeep(struct cluster *c);

/* cluster_pki.c: changes of the files of STATE/pki, one at a time. While one is under way nobody may begin
 * another one; the upkeep comes soon when it has ended. */
bool pki_busy(const struct cluster *c);
/* What the next change does, in this order. Takes text. */
void pki_put(struct cluster *c, const char *file, struct pki_text *place, struct pki_text *text);
void pki_drop(struct cluster *c, const char *file, struct pki_text *place);
/* Begins it. what: a text that stays, for the log if it fails. Takes identity, which may be NULL: what this
 * node shows once the files are durable. done is called when memory is as the files are, or with -errno as
 * before; not if the node ends meanwhile. It may be NULL. */
void pki_begin(struct cluster *c, const char *what, struct pki_identity *identity, pki_done done);
/* Calls ended, at once or when none is under way any more; none may be begun again. */
void pki_end(struct cluster *c, void (*ended)(struct cluster *c));
struct pki_text pki_copy(const void *data, size_t len);

/* cluster_ca.c: the CA's exchange. */
void ca_open(struct cluster *c);
void ca_close(struct cluster *c);
void ca_upkeep(struct cluster *c);
void ca_frame(struct cluster *c, uint64_t from, uint16_t type, const void *body, size_t len);
/* The state has changed, as far as it is about that; the files of STATE/pki have, and c->identity is theirs.
 */
void ca_changed(struct cluster *c, bool soon);
void ca_files_changed(struct cluster *c);
/* Whether this node has the key of the CA that signs now; whether its own certificate is of another one. */
bool ca_signs(const struct cluster *c);
bool ca_wants_certificate(const struct cluster *c);

/* cluster_forward.c */
void forward_open(struct cluster *c);
void forward_propose(struct cluster *c, void *cmd, size_t len, cluster_done done, void *arg);
void forward_frame(struct cluster *c, uint64_t from, uint16_t type, uint64_t id, const void *body,
                   size_t len);
void forward_leader(struct cluster *c, uint64_t leader);
/* Something that proposals wait for may have come. */
void forward_wake(struct cluster *c);
void forward_down(struct cluster *c, uint64_t node);
void forward_applied(struct cluster *c, uint64_t index);
/* Answers all that is left. */
void forward_stop(struct cluster *c);
void forward_close(struct cluster *c, uv_close_cb closed);

/* cluster_followers.c: to the other managers, and from them. */
void followers_tell(struct cluster *c);
int followers_frame(struct cluster *c, uint64_t from, const void *body, size_t len);
/* The manager that the node follows, and how far it is; 0: not known. */
uint64_t followers_find(const struct cluster *c, uint64_t node, uint64_t *applied);
void followers_close(struct cluster *c);

/* cluster_absent.c: to the other managers, and to those who follow this one. */
void absent_tell(struct cluster *c);
int absent_frame(struct cluster *c, uint64_t from, const void *body, size_t len);
void absent_close(struct cluster *c);

/* cluster_feed.c: to those who follow this node, and from whom it follows. */
void verdicts_down(struct cluster *c, uint64_t node);
int verdicts_frame(struct cluster *c, uint64_t from, const void *body, size_t len);
void verdicts_close(struct cluster *c);

/* cluster_join.c: an answer that comes now comes too late. */
void join_stop(struct cluster *c);

#endif
