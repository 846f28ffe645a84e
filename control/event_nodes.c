/* SPDX-License-Identifier: Apache-2.0 */
#include "control/event_nodes.h"

#include <stdio.h>

#include "control/journal.h"
#include "control/node_commands.h"

/* So much of a hash tells a token, or a CA, from others. */
enum { HASH_BYTES_SHOWN = 6 };

static void set_number(json_t *event, const char *key, uint64_t value)
{
    json_object_set_new(event, key, json_integer((json_int_t)value));
}

static void set_text(json_t *event, const char *key, const char *text)
{
    if (*text)
        json_object_set_new(event, key, json_string(text));
}

static void set_address(json_t *event, const char *key, const struct svc_address *a)
{
    char text[ADDRESS_TEXT_MAX];
    if (a->port)
        set_text(event, key, svc_address_text(a, text));
}

static void set_hash(json_t *event, const char *key, const uint8_t hash[NODE_HASH_BYTES])
{
    char text[2 * HASH_BYTES_SHOWN + 1];
    for (size_t i = 0; i < HASH_BYTES_SHOWN; i++)
        snprintf(text + 2 * i, 3, "%02x", hash[i]);
    set_text(event, key, text);
}

static void set_time(json_t *event, const char *key, uint64_t time_ms)
{
    char text[TIME_TEXT_MAX];
    set_text(event, key, journal_time_text(time_ms, text));
}

static void set_change(json_t *event, const struct node_change *c)
{
    set_number(event, "node_id", c->node.id);
    if (c->has & NODE_HAS_NAME)
        set_text(event, "name", c->node.name);
    if (c->has & NODE_HAS_ROLE)
        set_text(event, "role", node_role_name(c->node.role));
    if (c->has & NODE_HAS_AVAILABILITY)
        set_text(event, "availability", node_availability_name(c->node.availability));
    if (c->has & NODE_HAS_REPLICA)
        json_object_set_new(event, "replica", json_boolean(c->node.replica));
    if (c->has & NODE_HAS_MESH)
        set_address(event, "mesh", &c->node.mesh);
    if (c->has & NODE_HAS_DATA)
        set_address(event, "data", &c->node.data);
    if (c->has & NODE_HAS_VERSION)
        set_number(event, "version", c->node.version);
    if (c->has & NODE_HAS_STORE_STATE)
        set_text(event, "store", node_store_state_name(c->node.store_state));
    if (c->has & (NODE_HAS_KEY | NODE_HAS_CA))
        json_object_set_new(event, "certificate", json_true());
    if (c->force)
        json_object_set_new(event, "force", json_true());
}

static void set_join(json_t *event, const struct state_event *in)
{
    const struct node_join *j = &in->cmd.of_node.join;
    set_text(event, "name", j->node.name);
    set_address(event, "mesh", &j->node.mesh);
    set_hash(event, "token", j->token);
    if (in->status == CMD_OK)
        set_number(event, "node_id", node_cmd_added_id(in->detail, in->detail_len));
}

static void set_cluster(json_t *event, const struct node_cluster_change *c)
{
    if (c->has & NODE_CLUSTER_HAS_VERSION)
        set_number(event, "version", c->cluster.version);
    if (c->has & NODE_CLUSTER_HAS_NAME)
        set_text(event, "name", c->cluster.name);
    if (c->has & NODE_CLUSTER_HAS_COPIES)
        set_number(event, "copies", c->cluster.copies);
    if (c->has & NODE_CLUSTER_HAS_COPIES_MIN)
        set_number(event, "copies_min", c->cluster.copies_min);
}

void event_set_node(json_t *event, const struct state_event *in)
{
    const union state_of_node *of = &in->cmd.of_node;
    switch (in->cmd.head.type) {
    case CMD_CLUSTER_INIT:
        set_number(event, "node_id", of->init.node.id);
        set_text(event, "name", of->init.node.name);
        break;
    case CMD_NODE_ADD:
        set_join(event, in);
        break;
    case CMD_NODE_SET:
        set_change(event, &of->change);
        break;
    case CMD_NODE_RM:
        set_number(event, "node_id", of->removal.id);
        if (of->removal.force)
            json_object_set_new(event, "force", json_true());
        break;
    case CMD_TOKEN_SET:
        set_text(event, "role", node_role_name(of->token.token.role));
        set_time(event, "expires", of->token.token.expires_ms);
        json_object_set_new(event, "rotate", json_boolean(of->token.rotate));
        set_hash(event, "token", of->token.token.hash);
        break;
    case CMD_TOKEN_RM:
        set_hash(event, "token", of->token.token.hash);
        break;
    case CMD_CLUSTER_SET:
        set_cluster(event, &of->cluster);
        break;
    case CMD_CA_ROTATE:
        if (of->ca.rotate_force)
            json_object_set_new(event, "force", json_true());
        break;
    case CMD_CA_STEP:
        set_text(event, "phase", ca_phase_name(of->ca.step.to));
        set_hash(event, "ca", of->ca.step.next.hash);
        break;
    case CMD_CA_NODE:
        set_number(event, "node_id", of->ca.node.id);
        set_hash(event, "ca", of->ca.node.ca);
        break;
    default:
        break;
    }
}
