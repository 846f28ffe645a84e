/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which store this node has. A store has an id of chance in a file of its own, made once; the node remembers
 * in its state which one it had, so that a folder that was exchanged, or a file system that is not mounted,
 * does not pass for the store.
 *
 * That file is also the lock that tells whether others have the store: who has it alone holds it exclusively,
 * those that share it (store.shared) hold it together. So a node that would not know of the others cannot
 * start beside them. File systems over the network carry such locks from host to host.
 */
#ifndef FL_CONTROL_STORE_ID_H
#define FL_CONTROL_STORE_ID_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "control/folders.h"
#include "control/state/node.h"

#define STORE_ID_FILE "store.id" /* in the state's folder */

enum { STORE_ID_TEXT = 2 * NODE_STORE_BYTES };

struct store_id {
    int lock_fd; /* -1: none */
    bool known;  /* it has an id; a store that is not shared can do without */
    bool shared; /* as it was asked for */
    uint8_t id[NODE_STORE_BYTES];
    bool swapped; /* the node had another one when it ran last: */
    uint8_t before[NODE_STORE_BYTES];
    bool turned; /* it ran last with the other value of store.shared */
};

/* 0, or -errno with a message that says what to do: -EBUSY: another node has the store, and one of the two
 * does not share it. The folders are open; a remembered id is replaced. */
int store_id_open(const struct folders *folders, bool shared, struct store_id *out, char *err,
                  size_t err_len);
void store_id_close(struct store_id *s);

/* An id as text, with its NUL; and back. False: that is none. */
void store_id_text(const uint8_t id[NODE_STORE_BYTES], char out[STORE_ID_TEXT + 1]);
bool store_id_parse(const char *text, size_t len, uint8_t id[NODE_STORE_BYTES]);

#endif
