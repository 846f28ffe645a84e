/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The cluster's CA while it is exchanged for another one (a rotation), and what each node has said of it. Of
 * the CAs only certificates are here: their keys are in no log. Pure.
 *
 *   STEADY --CA_ROTATE--> WANTED --CA_STEP, with the certificate--> TRUST --CA_STEP--> SIGN --CA_STEP-->
 * STEADY the leader makes a CA     every node trusts both,     every node gets a certificate managers share
 * the key      of the new one
 *
 * The state says in which phase it is, and so what each node has to do (control/cluster_ca.c); the leader
 * takes a step when no node lacks what the phase is about. Whatever is cut off anywhere is found and done by
 * whoever is there next.
 */
#ifndef FL_STATE_CA_H
#define FL_STATE_CA_H

#include "control/state/node.h"

enum { CA_PEM_MAX = 2048 /* of one certificate */ };

/* The numbers are in the log: they never change their meaning. */
enum ca_phase { CA_STEADY = 0, CA_WANTED = 1, CA_TRUST = 2, CA_SIGN = 3, CA_PHASE_COUNT };

struct ca_cert {
    uint8_t hash[NODE_HASH_BYTES]; /* SHA-256 of it in DER */
    size_t len;                    /* 0: there is none */
    char pem[CA_PEM_MAX];
};

struct ca_row {
    uint8_t phase;  /* enum ca_phase */
    bool forced;    /* it goes on without nodes that are away */
    uint32_t count; /* rotations that were finished */
    uint64_t begun_ms, changed_ms;
    struct ca_cert current; /* none as long as there never was a rotation */
    struct ca_cert next;    /* TRUST, SIGN */
};

/* What a node has said. */
struct ca_node {
    uint64_t id;
    uint8_t ca[NODE_HASH_BYTES]; /* of which new CA */
    bool trusts;                 /* it does, its data plane too */
    bool has_key;
};

struct ca_view {
    struct ca_row row;
    struct ca_node *node; /* by id */
    size_t count;
};

/* Views: valid as long as what they are of is. */
struct ca_pem {
    uint8_t hash[NODE_HASH_BYTES];
    const char *data;
    size_t len;
};

/* CMD_CA_STEP. */
struct ca_step {
    uint8_t to;            /* enum ca_phase: TRUST, SIGN or STEADY */
    bool force;            /* some nodes lack something still */
    uint64_t maker;        /* TRUST: the manager that has the key */
    struct ca_pem current; /* TRUST: as the cluster has it */
    struct ca_pem next;    /* TRUST: whole; else its hash alone: which rotation is meant */
};

/* CMD_CA_NODE has the fields of struct ca_node. */

/* What a node lacks for the next step. */
enum ca_lack { CA_LACKS_NOTHING, CA_LACKS_TRUST, CA_LACKS_KEY, CA_LACKS_CERTIFICATE, CA_LACK_COUNT };

/* said: NULL, if it has said nothing. */
enum ca_lack ca_lacks(const struct ca_row *row, const struct node *n, const struct ca_node *said);
const struct ca_node *ca_node_find(const struct ca_view *v, uint64_t id);

/* The CA that signs now, or NULL: it is not in the state. */
const struct ca_cert *ca_signer(const struct ca_row *row);

const char *ca_phase_name(unsigned phase);
const char *ca_lack_name(enum ca_lack lack);

/* Without a row: zeros. ca_view_fini frees the view. 0 or -errno. */
int state_ca_read(struct kv *kv, struct ca_row *out);
int state_ca_view(struct kv *kv, struct ca_view *out);
void ca_view_fini(struct ca_view *v);

/* Fields of commands, behind the head. */
void ca_step_put(struct wire_writer *w, const struct ca_step *s);
void ca_step_get(struct wire_reader *r, struct ca_step *s);
void ca_node_put(struct wire_writer *w, const struct ca_node *n);
void ca_node_get(struct wire_reader *r, struct ca_node *n);

#endif
