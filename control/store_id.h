/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which store this node has, and with whom. The id is in a file of the store, made once, as store_place.h has
 * it, which also says whether it is the store that this node is to have.
 *
 * That file is the lock that tells whether others have the store: who has it alone holds it exclusively,
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

#define STORE_KNOWN_FILE  "store.known"  /* in the state's folder: store_place.c remembers an id */
#define STORE_SHARED_FILE "store.shared" /* there: the store was shared at the last start */

enum { STORE_ID_TEXT = 2 * NODE_STORE_BYTES };

struct store_id {
    int lock_fd; /* -1: none */
    bool known;  /* it has an id; a store that is not shared can do without */
    bool shared; /* as it was asked for */
    uint8_t id[NODE_STORE_BYTES];
    bool turned; /* it ran last with the other value of store.shared */
};

/* 0, or -errno with a message that says what to do: -EBUSY: another node has the store, and one of the two
 * does not share it. The folders are open. A store that has no id gets one, but where the node has had a
 * store before: then it is not there (known: false). */
int store_id_open(const struct folders *folders, bool shared, struct store_id *out, char *err,
                  size_t err_len);
void store_id_close(struct store_id *s);
/* Once the node runs: with which value of store.shared. A start that fails leaves it as it was, since the
 * data plane that it may have found goes on as it began. */
void store_id_remember(const struct folders *folders, const struct store_id *s);
/* The folders are those of another store now, or of the same one that has come back. */
int store_id_renew(const struct folders *folders, struct store_id *s, char *err, size_t err_len);

/* An id as text, with its NUL; and back. False: that is none. */
void store_id_text(const uint8_t id[NODE_STORE_BYTES], char out[STORE_ID_TEXT + 1]);
bool store_id_parse(const char *text, size_t len, uint8_t id[NODE_STORE_BYTES]);

#endif
