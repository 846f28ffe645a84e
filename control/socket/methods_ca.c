/* SPDX-License-Identifier: Apache-2.0 */
/* The cluster's CA: exchanged, and how far that is. */
#include <stdio.h>
#include <string.h>

#include "check.h"
#include "control/daemon.h"
#include "control/journal.h"
#include "control/node_commands.h"
#include "control/nodes.h"
#include "control/socket/methods.h"
#include "control/socket/node_json.h"
#include "control/socket/propose.h"

enum { NODES_SHOWN = 32 };

static bool is_away(struct daemon *d, const struct node *n)
{
    struct node_view view;
    node_view(d, n, &view);
    return !view.seen.self && !view.seen.connected;
}

/* How many nodes have what the step is about, and some of those that have not. */
static void set_progress(struct daemon *d, const struct ca_view *v, json_t *rotation)
{
    const struct node_table *t = nodes_table(d->nodes);
    json_t *waits = json_array();
    size_t done = 0;
    for (size_t i = 0; i < t->count; i++) {
        const struct node *n = &t->node[i];
        enum ca_lack lack = ca_lacks(&v->row, n, ca_node_find(v, n->id));
        if (lack == CA_LACKS_NOTHING)
            done++;
        else if (json_array_size(waits) < NODES_SHOWN)
            json_array_append_new(waits, json_pack("{s:s, s:s, s:b}", "node", n->name, "lacks",
                                                   ca_lack_name(lack), "away", is_away(d, n)));
    }
    json_object_set_new(rotation, "nodes", json_integer((json_int_t)t->count));
    json_object_set_new(rotation, "done", json_integer((json_int_t)done));
    json_object_set_new(rotation, "waits_for", waits);
}

static json_t *rotation_json(struct daemon *d, const struct ca_view *v)
{
    char begun[TIME_TEXT_MAX];
    if (v->row.phase == CA_STEADY)
        return json_null();
    json_t *rotation =
        json_pack("{s:s, s:s, s:b, s:o, s:s?}", "phase", ca_phase_name(v->row.phase), "begun",
                  journal_time_text(v->row.begun_ms, begun), "forced", v->row.forced, "fingerprint",
                  node_hash_json(v->row.next.hash), "blocked", cluster_ca_blocked(d->cluster));
    CHECK(rotation);
    set_progress(d, v, rotation);
    return rotation;
}

json_t *methods_ca_json(struct daemon *d)
{
    uint8_t own[NODE_HASH_BYTES] = {0};
    struct ca_view v;
    if (cluster_ca_view(d->cluster, &v))
        return json_null();
    const struct ca_cert *signer = ca_signer(&v.row);
    if (!signer)
        (void)cluster_ca_shown(d->cluster, own);
    json_t *ca = json_pack("{s:o, s:I, s:o}", "fingerprint", node_hash_json(signer ? signer->hash : own),
                           "rotations", (json_int_t)v.row.count, "rotation", rotation_json(d, &v));
    CHECK(ca);
    ca_view_fini(&v);
    return ca;
}

/* Nodes that were away when the CA was exchanged by force. */
void methods_ca_warn(struct daemon *d, json_t *warnings)
{
    const struct node_table *t = nodes_table(d->nodes);
    for (size_t i = 0; i < t->count && json_array_size(warnings) < NODES_SHOWN; i++)
        if (!node_counts(t, &t->node[i]))
            json_array_append_new(
                warnings,
                json_sprintf("'%s' was left behind when the CA was exchanged, and its certificate is "
                             "refused: remove it (`fairlead node rm --force %s`) and let it join again",
                             t->node[i].name, t->node[i].name));
}

static void on_rotated(struct daemon *d, struct rpc_call *call, json_t *result)
{
    json_object_set_new(result, "ca", methods_ca_json(d));
    rpc_reply(call, result);
}

void method_cluster_rotate_ca(void *context, struct rpc_call *call, json_t *params)
{
    struct daemon *d = context;
    struct cluster_status status;
    int force = 0;
    size_t len;
    if (!rpc_params(call, params, "{s?b}", "force", &force))
        return;
    cluster_status(d->cluster, &status);
    if (status.alone) {
        rpc_fail(call, RPC_UNAVAILABLE, "set cluster.listen in the configuration file",
                 "this node has no CA: it listens for no other nodes");
        return;
    }
    struct node_asker who = {call->peer->actor, propose_source};
    void *cmd = node_cmd_ca_rotate(who, force, &len);
    propose_command(d, call, cmd, len, json_object(), on_rotated);
}
