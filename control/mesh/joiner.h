/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host that joins, as a client of one of the cluster's managers: looks at its certificate before it says
 * anything, shows the token's secret and a request for a certificate, and checks what it is given.
 */
#ifndef FL_MESH_JOINER_H
#define FL_MESH_JOINER_H

#include "control/mesh/pki_files.h"
#include "control/mesh/token.h"

enum { JOINER_PATIENCE_MS = 30000, JOINER_WHY_MAX = 512 };

struct joiner_ask {
    struct config_address manager;
    struct token token;
    const char *name, *mesh_address, *data_address; /* of this host */
    uint32_t cluster_version;
    const struct pki_text *key; /* of this host */
};

/* files: what to store, the key in it too; borrowed until the return. NULL: it did not work, why says what
 * and what to do; later: the same may work in a moment. */
typedef void (*joiner_done)(void *arg, const struct pki_files *files, const struct pki_name *name,
                            const char *why, bool later);

/* done comes from the loop, exactly once. 0 or -ENOMEM. */
int joiner_start(uv_loop_t *loop, const struct joiner_ask *ask, joiner_done done, void *arg);

#endif
