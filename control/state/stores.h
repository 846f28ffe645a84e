/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stores that several replicas have in common (store.shared), told from the table of nodes. Pure.
 *
 * Who holds a blob is written in its row as a number. Of a replica with a store of its own that is the node's
 * id; of those that share one it is a number made of the store's id, the same for all of them and for as long
 * as the store lives: nodes may come and go, and what the store holds stays held. Nodes' ids are counted from
 * 1 on, and never reach the bit that tells the two kinds apart.
 *
 * Rows of before a node began to share its store have the node's id: it stands for the store, too, as long as
 * the node is in the table. Whoever counts holders folds the row first; who says something of one of them
 * unfolds what he says.
 */
#ifndef FL_STATE_STORES_H
#define FL_STATE_STORES_H

#include "cmd.h"
#include "control/state/node.h"
#include "names.h"

#define STORES_NUMBER (1ull << 63) /* the bit that a store's number has */

/* The number of the replica as a holder. */
uint64_t stores_holder(const struct node *n);
/* The number that a holder of a row stands for now. */
uint64_t stores_fold(const struct node_table *t, uint64_t holder);
/* The row with every holder folded, each of them once. */
void stores_fold_blob(const struct node_table *t, struct names_blob *blob);

/*
 * What is said of holders, in terms of the row that it is said of: who is lost is lost by each of its names
 * in the row, who is needed is needed by one that is there, who is gained has no other name any more.
 */
struct stores_saying {
    struct cmd_holders gained, lost, needed;
};
void stores_unfold(const struct node_table *t, const struct names_blob *row, struct stores_saying *say);

/* How many holders the replicas are. */
uint32_t stores_count(const struct node_table *t);

/*
 * Who alone removes files from the store of this node: the one with the lowest id among the active replicas
 * that share it and find it well, or, where there is none, among all of them. 0: there is no such node in the
 * table.
 */
uint64_t stores_cleaner(const struct node_table *t, uint64_t node);

/* Another node that has said the same store's id, where one of the two does not share: they do not know of
 * each other. NULL: there is none. */
const struct node *stores_stranger(const struct node_table *t, uint64_t node);

#endif
