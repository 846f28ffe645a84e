/* SPDX-License-Identifier: Apache-2.0 */
/* A state that is to be a new cluster's: of the old one's nodes only one is left, and no token, no
 * CA. */
#include "ca_rows.h"
#include "node_rows.h"

static int drop_tokens(struct kv *kv)
{
    struct node_token t;
    int rc;
    while ((rc = state_token_next(kv, NULL, &t)) == 0) {
        rc = state_token_del(kv, t.hash);
        if (rc)
            return rc;
    }
    return rc == -ENOENT ? 0 : rc;
}

static int drop_node(struct kv *kv, const struct node *n)
{
    static const struct svc_address nowhere;
    int rc = state_node_name_move(kv, n->id, n->name, "");
    if (rc == 0)
        rc = state_node_address_move(kv, n->id, &n->mesh, &nowhere);
    return rc ? rc : state_node_del(kv, n->id);
}

/* What the host that it was made on had is not this one's: addresses, certificates, the store. */
static int keep_node(struct kv *kv, const struct node *before)
{
    struct node n = *before;
    n.role = NODE_MANAGER;
    n.availability = NODE_ACTIVE;
    n.replica = true;
    memset(&n.mesh, 0, sizeof(n.mesh));
    memset(&n.data, 0, sizeof(n.data));
    memset(n.key, 0, sizeof(n.key));
    memset(n.ca, 0, sizeof(n.ca));
    memset(n.store, 0, sizeof(n.store));
    n.shares = false;
    n.store_state = NODE_STORE_WELL;
    int rc = state_node_address_move(kv, n.id, &before->mesh, &n.mesh);
    return rc ? rc : state_node_put(kv, &n);
}

int state_restore_alone(struct kv *kv, uint64_t id)
{
    struct node n = {.id = 0};
    struct node_cluster c;
    bool kept = false;
    int rc = state_cluster_get(kv, &c);
    if (rc)
        return rc == -ENOENT ? 0 : rc;
    while ((rc = state_node_next(kv, n.id, &n)) == 0) {
        kept |= n.id == id;
        rc = n.id == id ? keep_node(kv, &n) : drop_node(kv, &n);
        if (rc)
            return rc == -ENOENT ? -EUCLEAN : rc;
    }
    if (rc != -ENOENT)
        return rc;
    c.nodes = c.managers = c.replicas = kept;
    rc = drop_tokens(kv);
    if (rc == 0)
        rc = state_ca_drop(kv);
    return rc ? rc : state_cluster_put(kv, &c);
}
