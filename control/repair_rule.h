/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a replica has to do about a blob so that as many replicas hold it as the cluster wants: decided by
 * each of them for itself, from the blob's row and from who is there. Pure.
 *
 * All nodes that see the same come to decisions that fit together; those that see something else do no harm:
 * a copy too many is let go later, and who lets one go says on whom it relies (CMD_BLOB_COPIES refuses it
 * where one of these does not hold it any more).
 */
#ifndef FL_CONTROL_REPAIR_RULE_H
#define FL_CONTROL_REPAIR_RULE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cmd.h"
#include "names.h"

enum repair_presence {
    REPAIR_UP,
    REPAIR_AWAY, /* not heard for a moment, or its store is not well: what it holds counts, nobody relies on
                    it, and nothing is its turn */
    REPAIR_OUT,  /* not heard for long, or drained: what it holds does not count */
};

struct repair_node {
    uint64_t id;
    uint8_t presence; /* enum repair_presence */
};

/* All replicas, by id. Who is not among them holds nothing. */
struct repair_view {
    uint64_t self;
    uint32_t wanted; /* holders of each blob: placement_wanted() */
    size_t count;
    const struct repair_node *node;
};

enum repair_step {
    REPAIR_REST, /* nothing is to be done */
    REPAIR_WAIT, /* too few hold it, and it is the turn of others */
    REPAIR_COPY, /* too few hold it: this node is to */
    REPAIR_MOVE, /* enough hold it, but this node is ranked better than one of them */
    REPAIR_LET_GO,
    REPAIR_CLAIM, /* nobody was ever told who holds it: this node does if its file is here */
};

struct repair_choice {
    enum repair_step step;
    unsigned living; /* holders that count */
    /* Of the command that says that it is done. */
    struct cmd_holders gained, lost, needed;
};

/* Which replicas there are to be ranked, and how many of them are wanted, as a number; never 0. */
uint64_t repair_view_shape(const struct repair_view *v);
bool repair_view_same(const struct repair_view *a, const struct repair_view *b);

/* The node of the view; NULL: there is none. */
const struct repair_node *repair_node_find(const struct repair_view *v, uint64_t id);
/* Whether what it holds counts. */
bool repair_counts(const struct repair_view *v, uint64_t id);

/* more: so many nodes beyond those whose turn it is copy, too, because these do not come to it. */
void repair_choose(const struct repair_view *v, const struct digest *d, const struct names_blob *blob,
                   unsigned more, struct repair_choice *out);

/* Whether this node (self 0: it is no replica) need not have it, and is not to come to hold it: as many
 * others as are wanted do, and are there just now. */
bool repair_spares(const struct repair_view *v, const struct digest *d, const struct names_blob *blob);

#endif
