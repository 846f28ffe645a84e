/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A host becomes a node of a cluster that exists: what it was given lies in STATE/joining, a folder like
 * STATE/pki, which appears whole or not at all. From then on it is decided: the next start drops the state of
 * the cluster of one that the host was, opens an empty one as that node, and makes the folder STATE/pki. A
 * start that is cut off anywhere in between is done again by the next one.
 */
#ifndef FL_CONTROL_JOINING_H
#define FL_CONTROL_JOINING_H

#include "control/mesh/pki_files.h"

#define JOINING_FOLDER "joining"
#define JOINING_KEY_FOLDER                                                                                   \
    "joining-key" /* the key of a host that asks: asking again with it is asking the same thing */

/* The host's key, made if there is none yet. 0 or -errno with err. */
int joining_key(int state_fd, struct pki_text *key, char err[PKI_ERR_MAX]);

/* It was taken: decided. 0 or -errno with err. */
int joining_decide(int state_fd, const struct pki_files *files, char err[PKI_ERR_MAX]);

/* At the start, before the state is opened. 1: it is to be opened as the node *name, and what was there is
 * gone; 0: nothing is to be joined; -errno with err. */
int joining_begin(int state_fd, struct pki_name *name, char err[PKI_ERR_MAX]);

/* The state was opened. 0 or -errno with err. */
int joining_finish(int state_fd, char err[PKI_ERR_MAX]);

#endif
