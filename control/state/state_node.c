/* SPDX-License-Identifier: Apache-2.0 */
/* Nodes: added, changed and removed, and which changes of the managers are taken. */
#include "ca_rows.h"
#include "node_rows.h"
#include "state_service.h"

/* What a node's change does to the counts. */
static void count_add(struct node_cluster *c, const struct node *n)
{
    c->nodes++;
    c->managers += n->role == NODE_MANAGER;
    c->replicas += n->replica;
}

static int count_drop(struct node_cluster *c, const struct node *n)
{
    uint32_t manager = n->role == NODE_MANAGER, replica = n->replica;
    if (c->nodes == 0 || c->managers < manager || c->replicas < replica)
        return -EUCLEAN;
    c->nodes--;
    c->managers -= manager;
    c->replicas -= replica;
    return 0;
}

/* The cluster's row, or a refusal (-ENOENT) if there is none. */
static int cluster_need(struct kv *kv, struct node_cluster *c, struct state_event *out)
{
    int rc = state_cluster_get(kv, c);
    if (rc == -ENOENT)
        state_refuse_text(out, CMD_NODE_UNKNOWN,
                          "this node is no cluster yet; make it one with `fairlead cluster init`");
    return rc;
}

static int node_need(struct kv *kv, uint64_t id, struct node *n, struct state_event *out)
{
    int rc = state_node_read(kv, id, n);
    if (rc == -ENOENT)
        state_refuse_format(out, CMD_NODE_UNKNOWN, "there is no node %llu", (unsigned long long)id);
    return rc;
}

static bool key_said(const uint8_t key[NODE_HASH_BYTES])
{
    static const uint8_t zero[NODE_HASH_BYTES];
    return memcmp(key, zero, sizeof(zero)) != 0;
}

/* --- who may be a manager; each check gives 0, -EPERM (refused), or -errno --- */

/* The managers among those that are not heard, but for `but`; *first is one of them. */
static int down_count(struct kv *kv, const struct node_down *down, uint64_t but, uint32_t *count,
                      struct node *first)
{
    *count = 0;
    for (uint32_t i = 0; i < down->count; i++) {
        struct node n;
        int rc = down->id[i] == but ? -ENOENT : state_node_read(kv, down->id[i], &n);
        for (uint32_t k = 0; k < i; k++)
            if (down->id[k] == down->id[i])
                rc = -ENOENT;
        if (rc && rc != -ENOENT)
            return rc;
        if (rc || n.role != NODE_MANAGER)
            continue;
        if ((*count)++ == 0)
            *first = n;
    }
    return 0;
}

static int manager_more_check(struct kv *kv, const struct node_cluster *c, const struct node_down *down,
                              bool force, struct state_event *out)
{
    struct node dead;
    uint32_t count;
    if (c->managers >= NODE_MANAGERS_MAX) {
        state_refuse_format(out, CMD_MANAGERS,
                            "there are %d managers already; more only slow each other down",
                            NODE_MANAGERS_MAX);
        return -EPERM;
    }
    int rc = down_count(kv, down, 0, &count, &dead);
    if (rc || count == 0 || force)
        return rc;
    state_refuse_format(
        out, CMD_MANAGERS,
        "the manager '%s' does not answer: remove it first (`fairlead node rm --force %s`), or "
        "bring it back; --force adds another one beside it",
        dead.name, dead.name);
    return -EPERM;
}

/* gone: the manager that is to be none any more. */
static int manager_less_check(struct kv *kv, const struct node_cluster *c, const struct node *gone,
                              const struct node_down *down, bool force, struct state_event *out)
{
    struct node dead;
    uint32_t count, after = c->managers - 1;
    if (after == 0) {
        state_refuse_format(out, CMD_MANAGERS, "'%s' is the last manager; promote another node first",
                            gone->name);
        return -EPERM;
    }
    int rc = down_count(kv, down, gone->id, &count, &dead);
    if (rc || force || after - count >= after / 2 + 1)
        return rc;
    state_refuse_format(
        out, CMD_MANAGERS,
        "of the %u managers that would be left, only %u answer, and nothing could be changed any "
        "more; remove '%s' first, which does not answer, or bring it back",
        after, after - count, dead.name);
    return -EPERM;
}

static int replica_less_check(const struct node_cluster *c, const struct node *gone, bool force,
                              struct state_event *out)
{
    if (c->replicas > 1 || force)
        return 0;
    state_refuse_format(
        out, CMD_CONFLICT,
        "'%s' is the last replica, and its blobs are nowhere else; make another node a replica "
        "first, or give them up with --force",
        gone->name);
    return -EPERM;
}

/* --- names and addresses --- */

/* Another node than `id` of the name is refused (-EEXIST). */
static int name_check(struct kv *kv, uint64_t id, const char *name, struct state_event *out)
{
    uint64_t owner;
    int rc = state_node_of_name(kv, name, &owner);
    if (rc || owner == id)
        return rc == -ENOENT ? 0 : rc;
    state_refuse_format(
        out, CMD_CONFLICT,
        "there is a node '%s' already (%llu); choose another name, or, if that one is gone for "
        "good, remove it: `fairlead node rm %s`",
        name, (unsigned long long)owner, name);
    return -EEXIST;
}

static int address_check(struct kv *kv, uint64_t id, const struct svc_address *a, struct state_event *out)
{
    struct node n = {.name = "?"};
    char text[ADDRESS_TEXT_MAX];
    uint64_t owner;
    int rc = a->port ? state_node_of_address(kv, a, &owner) : -ENOENT;
    if (rc || owner == id)
        return rc == -ENOENT ? 0 : rc;
    rc = state_node_read(kv, owner, &n);
    if (rc)
        return rc == -ENOENT ? -EUCLEAN : rc;
    state_refuse_format(out, CMD_CONFLICT,
                        "%s is the address of the node '%s'; give another one, or remove that node first",
                        svc_address_text(a, text), n.name);
    return -EEXIST;
}

/* What a program must know to be part of this cluster. */
static int version_check(const struct node_cluster *c, const struct node *n, struct state_event *out)
{
    if (n->version >= c->version)
        return 0;
    state_refuse_format(out, CMD_TOO_NEW,
                        "the program of '%s' knows cluster version %u, and this cluster runs %u; install the "
                        "version that the other nodes have",
                        n->name, n->version, c->version);
    return -EPERM;
}

/* Writes a node with its rows; before: as it was, NULL if it is new. The counts are in c, which is written,
 * too. */
static int node_write(struct kv *kv, struct node_cluster *c, const struct node *before, struct node *n,
                      struct state_event *out)
{
    static const struct node nothing;
    const struct node *old = before ? before : &nothing;
    int rc = before ? count_drop(c, before) : 0;
    if (rc)
        return rc;
    count_add(c, n);
    n->revision = out->index;
    n->updated_ms = out->cmd.head.time_ms;
    rc = state_node_name_move(kv, n->id, old->name, n->name);
    if (rc == 0)
        rc = state_node_address_move(kv, n->id, &old->mesh, &n->mesh);
    if (rc == 0)
        rc = state_node_put(kv, n);
    if (rc == 0)
        rc = state_cluster_put(kv, c);
    out->changed = rc == 0;
    return rc == -ENOENT ? -EUCLEAN : rc;
}

/* A refusal is no error of the transaction. */
static int settled(int rc)
{
    return rc == -EPERM || rc == -EEXIST || rc == -ENOENT ? 0 : rc;
}

static bool same(const struct node *a, const struct node *b)
{
    return strcmp(a->name, b->name) == 0 && a->role == b->role && a->availability == b->availability &&
           a->replica == b->replica && memcmp(&a->mesh, &b->mesh, sizeof(a->mesh)) == 0 &&
           memcmp(&a->data, &b->data, sizeof(a->data)) == 0 && a->version == b->version &&
           memcmp(a->key, b->key, sizeof(a->key)) == 0 && memcmp(a->ca, b->ca, sizeof(a->ca)) == 0 &&
           memcmp(a->store, b->store, sizeof(a->store)) == 0 && a->shares == b->shares &&
           a->store_state == b->store_state;
}

int state_cluster_init(struct kv *kv, struct state_event *out)
{
    struct node first = out->cmd.of_node.init.node, there;
    struct node_cluster c;
    int rc = state_cluster_get(kv, &c);
    if (rc == 0) {
        rc = state_node_read(kv, first.id, &there);
        if (rc == -ENOENT)
            return state_refuse_text(out, CMD_CONFLICT, "the cluster has been made already");
        return rc;
    }
    if (rc != -ENOENT)
        return rc;
    c = out->cmd.of_node.init.cluster;
    c.nodes = c.managers = c.replicas = 0;
    c.next_node = first.id + 1;
    c.revision = out->index;
    c.created_ms = c.updated_ms = first.joined_ms = out->cmd.head.time_ms;
    rc = version_check(&c, &first, out);
    return rc ? settled(rc) : node_write(kv, &c, NULL, &first, out);
}

/* --- a node asks to join --- */

static int token_check(struct kv *kv, const struct state_event *out, struct node_token *token)
{
    int rc = state_token_get(kv, out->cmd.of_node.join.token, token);
    if (rc == 0 && token->expires_ms <= out->cmd.head.time_ms)
        rc = -ENOENT;
    return rc;
}

static void answer_id(struct state_event *out, uint64_t id)
{
    struct wire_writer w = {.buf = out->detail, .cap = sizeof(out->detail)};
    wire_put_u64(&w, id);
    out->detail_len = w.len;
}

/* A node that asks again: what it says of itself counts, what was decided about it meanwhile stays. */
static int rejoin(struct kv *kv, struct node_cluster *c, const struct node *before, struct state_event *out)
{
    const struct node *said = &out->cmd.of_node.join.node;
    struct node n = *before;
    n.mesh = said->mesh;
    n.data = said->data;
    n.version = said->version;
    memcpy(n.ca, said->ca, sizeof(n.ca));
    int rc = address_check(kv, n.id, &n.mesh, out);
    if (rc)
        return rc;
    answer_id(out, n.id);
    return same(before, &n) ? 0 : node_write(kv, c, before, &n, out);
}

static int join_new(struct kv *kv, struct node_cluster *c, const struct node_token *token,
                    struct state_event *out)
{
    const struct node_join *j = &out->cmd.of_node.join;
    struct node n = j->node;
    n.id = c->next_node;
    n.role = token->role;
    n.availability = NODE_ACTIVE;
    n.replica = j->replica_said ? j->node.replica : token->replica;
    n.joined_ms = out->cmd.head.time_ms;
    if (c->nodes >= NODES_MAX) {
        state_refuse_format(out, CMD_LIMIT, "there are %d nodes already", NODES_MAX);
        return -EPERM;
    }
    int rc = name_check(kv, n.id, n.name, out);
    if (rc == 0)
        rc = address_check(kv, n.id, &n.mesh, out);
    if (rc == 0 && n.role == NODE_MANAGER)
        rc = manager_more_check(kv, c, &j->down, j->force, out);
    if (rc)
        return rc;
    answer_id(out, n.id);
    c->next_node++;
    return node_write(kv, c, NULL, &n, out);
}

int state_node_add(struct kv *kv, struct state_event *out)
{
    const struct node *said = &out->cmd.of_node.join.node;
    struct node_token token;
    struct node_cluster c;
    struct node before;
    uint64_t id;
    int rc = token_check(kv, out, &token);
    if (rc == -ENOENT)
        return state_refuse_text(
            out, CMD_TOKEN_UNKNOWN,
            "the token is not known here, or it has expired; make a new one on a manager: "
            "`fairlead node join-token`");
    if (rc == 0)
        rc = cluster_need(kv, &c, out);
    if (rc == 0)
        rc = version_check(&c, said, out);
    if (rc)
        return settled(rc);
    rc = state_node_of_name(kv, said->name, &id);
    if (rc && rc != -ENOENT)
        return rc;
    if (rc == 0) {
        rc = state_node_read(kv, id, &before);
        if (rc)
            return rc;
        if (key_said(said->key) && memcmp(before.key, said->key, sizeof(before.key)) == 0)
            return settled(rejoin(kv, &c, &before, out));
    }
    return settled(join_new(kv, &c, &token, out));
}

/* --- a node is changed --- */

static void change_take(const struct node_change *change, struct node *n)
{
    const struct node *to = &change->node;
    if (change->has & NODE_HAS_NAME)
        memcpy(n->name, to->name, sizeof(n->name));
    if (change->has & NODE_HAS_ROLE)
        n->role = to->role;
    if (change->has & NODE_HAS_AVAILABILITY)
        n->availability = to->availability;
    if (change->has & NODE_HAS_REPLICA)
        n->replica = to->replica;
    if (change->has & NODE_HAS_MESH)
        n->mesh = to->mesh;
    if (change->has & NODE_HAS_DATA)
        n->data = to->data;
    if (change->has & NODE_HAS_VERSION)
        n->version = to->version;
    if (change->has & NODE_HAS_KEY)
        memcpy(n->key, to->key, sizeof(n->key));
    if (change->has & NODE_HAS_CA)
        memcpy(n->ca, to->ca, sizeof(n->ca));
    if (change->has & NODE_HAS_STORE) {
        memcpy(n->store, to->store, sizeof(n->store));
        n->shares = to->shares;
    }
    if (change->has & NODE_HAS_STORE_STATE)
        n->store_state = to->store_state;
}

static int change_check(struct kv *kv, const struct node_cluster *c, const struct node *before,
                        const struct node *n, struct state_event *out)
{
    const struct node_change *change = &out->cmd.of_node.change;
    char err[SVC_ERROR_MAX];
    int rc = 0;
    if (change->revision != CMD_REVISION_ANY && change->revision != before->revision) {
        state_refuse_format(out, CMD_CONFLICT, "the node '%s' was changed meanwhile; look and try again",
                            before->name);
        return -EPERM;
    }
    if (node_check(n, err)) {
        state_refuse_text(out, CMD_INVALID, err);
        return -EPERM;
    }
    rc = name_check(kv, n->id, n->name, out);
    if (rc == 0)
        rc = address_check(kv, n->id, &n->mesh, out);
    if (rc == 0 && n->version < before->version)
        rc = version_check(c, n, out);
    if (rc == 0 && before->role != NODE_MANAGER && n->role == NODE_MANAGER)
        rc = manager_more_check(kv, c, &change->down, change->force, out);
    if (rc == 0 && before->role == NODE_MANAGER && n->role != NODE_MANAGER)
        rc = manager_less_check(kv, c, before, &change->down, change->force, out);
    if (rc == 0 && before->replica && !n->replica)
        rc = replica_less_check(c, before, change->force, out);
    return rc;
}

int state_node_set(struct kv *kv, struct state_event *out)
{
    const struct node_change *change = &out->cmd.of_node.change;
    struct node_cluster c;
    struct node before, n;
    int rc = cluster_need(kv, &c, out);
    if (rc == 0)
        rc = node_need(kv, change->node.id, &before, out);
    if (rc)
        return settled(rc);
    n = before;
    change_take(change, &n);
    rc = change_check(kv, &c, &before, &n, out);
    if (rc)
        return settled(rc);
    return same(&before, &n) ? 0 : node_write(kv, &c, &before, &n, out);
}

/* --- a node is removed --- */

static bool is_down(const struct node_down *down, uint64_t id)
{
    for (uint32_t i = 0; i < down->count; i++)
        if (down->id[i] == id)
            return true;
    return false;
}

static int removal_check(struct kv *kv, const struct node_cluster *c, const struct node *n,
                         struct state_event *out)
{
    const struct node_removal *rm = &out->cmd.of_node.removal;
    int rc = 0;
    if (n->role == NODE_MANAGER)
        rc = manager_less_check(kv, c, n, &rm->down, rm->force, out);
    if (rc == 0 && n->role == NODE_MANAGER && !(rm->force && is_down(&rm->down, n->id))) {
        state_refuse_format(out, CMD_MANAGERS,
                            rm->force
                                ? "the manager '%s' answers; demote it first: `fairlead node demote %s`"
                                : "'%s' is a manager; demote it first (`fairlead node demote %s`), or, if it "
                                  "is dead, remove it with --force",
                            n->name, n->name);
        rc = -EPERM;
    }
    if (rc == 0 && n->replica)
        rc = replica_less_check(c, n, rm->force, out);
    return rc;
}

int state_node_rm(struct kv *kv, struct state_event *out)
{
    static const struct svc_address nowhere;
    struct node_cluster c;
    struct node n;
    int rc = cluster_need(kv, &c, out);
    if (rc == 0)
        rc = node_need(kv, out->cmd.of_node.removal.id, &n, out);
    if (rc == 0)
        rc = removal_check(kv, &c, &n, out);
    if (rc)
        return settled(rc);
    rc = count_drop(&c, &n);
    if (rc == 0)
        rc = state_node_name_move(kv, n.id, n.name, "");
    if (rc == 0)
        rc = state_node_address_move(kv, n.id, &n.mesh, &nowhere);
    if (rc == 0)
        rc = state_node_del(kv, n.id);
    if (rc == 0)
        rc = state_ca_node_del(kv, n.id);
    if (rc == 0)
        rc = state_cluster_put(kv, &c);
    out->changed = rc == 0;
    return rc;
}
