/* SPDX-License-Identifier: Apache-2.0 */
/* Nodes and the cluster: shown and changed. */
#include <stdio.h>
#include <string.h>

#include "check.h"
#include "control/daemon.h"
#include "control/daemon_repair.h"
#include "control/node_commands.h"
#include "control/nodes.h"
#include "control/socket/methods.h"
#include "control/socket/node_json.h"
#include "control/socket/propose.h"

#define HINT_NODES "`fairlead node ls` lists the nodes"

static struct node_asker asker(const struct rpc_call *call)
{
    return (struct node_asker){call->peer->actor, propose_source};
}

static void set_cluster(struct daemon *d, json_t *answer)
{
    const struct node_table *t = nodes_table(d->nodes);
    struct cluster_status status;
    char id[2 * sizeof(status.cluster_id) + 1];
    cluster_status(d->cluster, &status);
    for (size_t i = 0; i < sizeof(status.cluster_id); i++)
        snprintf(id + 2 * i, 3, "%02x", status.cluster_id[i]);
    json_t *cluster = node_cluster_json(&t->cluster);
    json_object_set_new(cluster, "id", json_string(id));
    struct state_held held;
    if (node_view_held(d, &held) == 0) {
        json_object_set_new(cluster, "blobs", json_integer((json_int_t)held.blobs));
        json_object_set_new(cluster, "blob_bytes", json_integer((json_int_t)held.bytes));
        json_object_set_new(cluster, "endangered", json_integer((json_int_t)held.endangered));
        json_object_set_new(cluster, "endangered_bytes", json_integer((json_int_t)held.endangered_bytes));
        json_object_set_new(cluster, "lost", json_integer((json_int_t)held.lost));
    }
    json_object_set_new(answer, "cluster", cluster);
    json_object_set_new(answer, "repair", daemon_repair_json(d));
    json_object_set_new(answer, "warnings", node_warnings_json(&t->cluster));
}

void method_node_list(void *context, struct rpc_call *call, json_t *params)
{
    struct daemon *d = context;
    json_int_t limit = 1000, after = 0;
    if (!rpc_params(call, params, "{s?I, s?I}", "limit", &limit, "after", &after))
        return;
    if (limit < 1 || limit > 1000 || after < 0) {
        rpc_fail(call, RPC_INVALID_PARAMS, "give a limit from 1 to 1000", "limit or after is out of range");
        return;
    }
    const struct node_table *t = nodes_table(d->nodes);
    json_t *rows = json_array();
    bool more = false;
    for (size_t i = 0; i < t->count && !more; i++) {
        struct node_view view;
        if (t->node[i].id <= (uint64_t)after)
            continue;
        more = json_array_size(rows) == (size_t)limit;
        if (more)
            break;
        node_view(d, &t->node[i], &view);
        json_array_append_new(rows, node_json(&t->node[i], &view));
    }
    json_t *answer = json_pack("{s:o, s:b}", "nodes", rows, "more", more);
    set_cluster(d, answer);
    rpc_reply(call, answer);
}

void method_cluster_show(void *context, struct rpc_call *call, json_t *params)
{
    struct daemon *d = context;
    if (!rpc_params(call, params, "{}"))
        return;
    const struct node_table *t = nodes_table(d->nodes);
    json_t *answer = json_object();
    set_cluster(d, answer);
    json_object_set_new(answer, "ca", methods_ca_json(d));
    methods_ca_warn(d, json_object_get(answer, "warnings"));
    json_object_set_new(answer, "leader", json_null());
    for (size_t i = 0; i < t->count; i++) {
        struct node_view view;
        if (t->node[i].role != NODE_MANAGER)
            continue;
        node_view(d, &t->node[i], &view);
        if (view.seen.leader)
            json_object_set_new(answer, "leader", json_string(t->node[i].name));
        if (view.seen.self)
            json_object_set_new(answer, "self", json_string(t->node[i].name));
    }
    rpc_reply(call, answer);
}

/* What was committed is applied here: the answer has the row as it is now. */
static void on_changed(struct daemon *d, struct rpc_call *call, json_t *result)
{
    const struct node_table *t = nodes_table(d->nodes);
    const struct node *n = node_find(t, (uint64_t)json_integer_value(json_object_get(result, "id")));
    struct node_view view;
    if (n) {
        node_view(d, n, &view);
        json_object_set_new(result, "node", node_json(n, &view));
    }
    json_object_set_new(result, "warnings", node_warnings_json(&t->cluster));
    rpc_reply(call, result);
}

static const struct node *need_node(struct daemon *d, struct rpc_call *call, const char *text)
{
    const struct node *n = node_view_find(d, text);
    if (!n)
        rpc_fail(call, RPC_NOT_FOUND, HINT_NODES, "there is no node '%.64s'", text);
    return n;
}

/* --- node.set --- */

/* A word into one of two numbers. */
static bool take_word(struct rpc_call *call, const char *key, const char *word, const char *first,
                      const char *second, uint8_t *out)
{
    char hint[96];
    if (strcmp(word, first) == 0 || strcmp(word, second) == 0) {
        *out = strcmp(word, first) == 0 ? 1 : 2;
        return true;
    }
    snprintf(hint, sizeof(hint), "write %s or %s", first, second);
    rpc_fail(call, RPC_INVALID_PARAMS, hint, "'%.40s' cannot be a node's %s", word, key);
    return false;
}

/* What a client asks to change. */
struct wish {
    const char *name, *role, *availability;
    json_t *replica;
};

static bool take_wish(struct rpc_call *call, const struct wish *wish, struct node_change *c)
{
    if (wish->role) {
        c->has |= NODE_HAS_ROLE;
        if (!take_word(call, "role", wish->role, "manager", "worker", &c->node.role))
            return false;
    }
    if (wish->availability) {
        c->has |= NODE_HAS_AVAILABILITY;
        if (!take_word(call, "availability", wish->availability, "active", "drain", &c->node.availability))
            return false;
    }
    if (wish->replica) {
        c->has |= NODE_HAS_REPLICA;
        c->node.replica = json_is_true(wish->replica);
        if (!json_is_boolean(wish->replica)) {
            rpc_fail(call, RPC_INVALID_PARAMS, "write true or false", "replica is neither");
            return false;
        }
    }
    if (wish->name) {
        c->has |= NODE_HAS_NAME;
        if (!node_name_valid(wish->name, strlen(wish->name))) {
            rpc_fail(call, RPC_INVALID_PARAMS, "1 to 63 letters, digits, '.', '_' and '-'",
                     "'%.64s' cannot be a node's name", wish->name);
            return false;
        }
        memcpy(c->node.name, wish->name, strlen(wish->name) + 1);
    }
    if (!c->has)
        rpc_fail(call, RPC_INVALID_PARAMS, "give name, role, availability or replica",
                 "nothing is to change");
    return c->has != 0;
}

void method_node_set(void *context, struct rpc_call *call, json_t *params)
{
    struct daemon *d = context;
    struct wish wish = {.name = NULL};
    struct node_change c = {.revision = CMD_REVISION_ANY};
    const char *text;
    int force = 0;
    json_int_t revision = -1;
    size_t len;
    if (!rpc_params(call, params, "{s:s, s?s, s?s, s?s, s?o, s?b, s?I}", "node", &text, "name", &wish.name,
                    "role", &wish.role, "availability", &wish.availability, "replica", &wish.replica, "force",
                    &force, "revision", &revision))
        return;
    const struct node *n = need_node(d, call, text);
    if (!n || !take_wish(call, &wish, &c))
        return;
    c.node.id = n->id;
    c.force = force;
    if (revision >= 0)
        c.revision = (uint64_t)revision;
    node_view_down(d, &c.down);
    void *cmd = node_cmd_set(asker(call), &c, &len);
    propose_command(d, call, cmd, len, json_pack("{s:I}", "id", (json_int_t)n->id), on_changed);
}

void method_node_delete(void *context, struct rpc_call *call, json_t *params)
{
    struct daemon *d = context;
    struct node_removal rm = {.id = 0};
    const char *text;
    int force = 0;
    size_t len;
    if (!rpc_params(call, params, "{s:s, s?b}", "node", &text, "force", &force))
        return;
    const struct node *n = need_node(d, call, text);
    if (!n)
        return;
    rm.id = n->id;
    rm.force = force;
    node_view_down(d, &rm.down);
    void *cmd = node_cmd_rm(asker(call), &rm, &len);
    propose_command(d, call, cmd, len, json_pack("{s:I, s:s}", "id", (json_int_t)n->id, "name", n->name),
                    on_changed);
}

/* --- cluster.set --- */

static void on_cluster_changed(struct daemon *d, struct rpc_call *call, json_t *result)
{
    set_cluster(d, result);
    rpc_reply(call, result);
}

static bool take_copies(struct rpc_call *call, const char *key, json_int_t value, uint8_t *out)
{
    if (value < 0)
        return true;
    *out = (uint8_t)value;
    if (value <= NODE_COPIES_MAX)
        return true;
    rpc_fail(call, RPC_INVALID_PARAMS, "0 to 64; copies 0: two, if there are two replicas",
             "%s cannot be %lld", key, (long long)value);
    return false;
}

void method_cluster_set(void *context, struct rpc_call *call, json_t *params)
{
    struct daemon *d = context;
    struct node_cluster_change c = {.revision = CMD_REVISION_ANY};
    const char *name = NULL;
    json_int_t copies = -1, copies_min = -1;
    size_t len;
    if (!rpc_params(call, params, "{s?s, s?I, s?I}", "name", &name, "copies", &copies, "copies_min",
                    &copies_min))
        return;
    if (!take_copies(call, "copies", copies, &c.cluster.copies) ||
        !take_copies(call, "copies_min", copies_min, &c.cluster.copies_min))
        return;
    c.has |= copies >= 0 ? NODE_CLUSTER_HAS_COPIES : 0;
    c.has |= copies_min >= 0 ? NODE_CLUSTER_HAS_COPIES_MIN : 0;
    if (name && !node_name_valid(name, strlen(name))) {
        rpc_fail(call, RPC_INVALID_PARAMS, "1 to 63 letters, digits, '.', '_' and '-'",
                 "'%.64s' cannot be a cluster's name", name);
        return;
    }
    if (name) {
        c.has |= NODE_CLUSTER_HAS_NAME;
        memcpy(c.cluster.name, name, strlen(name) + 1);
    }
    if (!c.has) {
        rpc_fail(call, RPC_INVALID_PARAMS, "give name, copies or copies_min", "nothing is to change");
        return;
    }
    void *cmd = node_cmd_cluster_set(asker(call), &c, &len);
    propose_command(d, call, cmd, len, json_object(), on_cluster_changed);
}
