/* SPDX-License-Identifier: Apache-2.0 */
#include "control/node_commands.h"

#include "control/state/cmd_new.h"

enum { CMD_ROOM = 2 * (NODE_ROW_BYTES_MAX + CA_PEM_MAX) };

void *node_cmd_init(struct node_asker who, const struct node *first, const struct node_cluster *cluster,
                    size_t *len)
{
    struct wire_writer w = cmd_new(CMD_CLUSTER_INIT, who.actor, who.source, CMD_ROOM);
    node_put(&w, first);
    node_cluster_put(&w, cluster);
    return cmd_end(&w, len);
}

void *node_cmd_add(struct node_asker who, const struct node_join *join, size_t *len)
{
    struct wire_writer w = cmd_new(CMD_NODE_ADD, who.actor, who.source, CMD_ROOM);
    node_join_put(&w, join);
    return cmd_end(&w, len);
}

void *node_cmd_set(struct node_asker who, const struct node_change *change, size_t *len)
{
    struct wire_writer w = cmd_new(CMD_NODE_SET, who.actor, who.source, CMD_ROOM);
    node_change_put(&w, change);
    return cmd_end(&w, len);
}

void *node_cmd_rm(struct node_asker who, const struct node_removal *removal, size_t *len)
{
    struct wire_writer w = cmd_new(CMD_NODE_RM, who.actor, who.source, CMD_ROOM);
    node_removal_put(&w, removal);
    return cmd_end(&w, len);
}

void *node_cmd_token_set(struct node_asker who, const struct node_token *token, bool rotate, size_t *len)
{
    struct wire_writer w = cmd_new(CMD_TOKEN_SET, who.actor, who.source, CMD_ROOM);
    node_token_put(&w, token);
    wire_put_u8(&w, rotate);
    return cmd_end(&w, len);
}

void *node_cmd_token_rm(struct node_asker who, const uint8_t hash[NODE_HASH_BYTES], size_t *len)
{
    struct wire_writer w = cmd_new(CMD_TOKEN_RM, who.actor, who.source, CMD_ROOM);
    wire_put(&w, hash, NODE_HASH_BYTES);
    return cmd_end(&w, len);
}

void *node_cmd_cluster_set(struct node_asker who, const struct node_cluster_change *change, size_t *len)
{
    struct wire_writer w = cmd_new(CMD_CLUSTER_SET, who.actor, who.source, CMD_ROOM);
    node_cluster_change_put(&w, change);
    return cmd_end(&w, len);
}

void *node_cmd_ca_rotate(struct node_asker who, bool force, size_t *len)
{
    struct wire_writer w = cmd_new(CMD_CA_ROTATE, who.actor, who.source, CMD_ROOM);
    wire_put_u8(&w, force);
    return cmd_end(&w, len);
}

void *node_cmd_ca_step(struct node_asker who, const struct ca_step *step, size_t *len)
{
    struct wire_writer w = cmd_new(CMD_CA_STEP, who.actor, who.source, CMD_ROOM);
    ca_step_put(&w, step);
    return cmd_end(&w, len);
}

void *node_cmd_ca_node(struct node_asker who, const struct ca_node *said, size_t *len)
{
    struct wire_writer w = cmd_new(CMD_CA_NODE, who.actor, who.source, CMD_ROOM);
    ca_node_put(&w, said);
    return cmd_end(&w, len);
}

uint64_t node_cmd_added_id(const void *detail, size_t len)
{
    struct wire_reader r = {.buf = detail, .len = len};
    uint64_t id = wire_get_u64(&r);
    return wire_at_end(&r) ? id : 0;
}
