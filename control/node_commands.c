/* SPDX-License-Identifier: Apache-2.0 */
#include "control/node_commands.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "cmd.h"

enum { CMD_ROOM = 512 + 2 * (NODE_ROW_BYTES_MAX + CA_PEM_MAX) };

static struct wire_writer begin(enum cmd_type type, struct node_asker who)
{
    struct wire_writer w = {.buf = malloc(CMD_ROOM), .cap = CMD_ROOM};
    struct cmd_head head = {.type = (uint16_t)type,
                            .actor = who.actor,
                            .actor_len = strlen(who.actor),
                            .source = who.source,
                            .source_len = strlen(who.source),
                            .request_id = ""};
    CHECK(w.buf);
    cmd_put_head(&w, &head);
    return w;
}

static void *end(struct wire_writer *w, size_t *len)
{
    CHECK(!w->failed);
    *len = w->len;
    return w->buf;
}

void *node_cmd_init(struct node_asker who, const struct node *first, const struct node_cluster *cluster,
                    size_t *len)
{
    struct wire_writer w = begin(CMD_CLUSTER_INIT, who);
    node_put(&w, first);
    node_cluster_put(&w, cluster);
    return end(&w, len);
}

void *node_cmd_add(struct node_asker who, const struct node_join *join, size_t *len)
{
    struct wire_writer w = begin(CMD_NODE_ADD, who);
    node_join_put(&w, join);
    return end(&w, len);
}

void *node_cmd_set(struct node_asker who, const struct node_change *change, size_t *len)
{
    struct wire_writer w = begin(CMD_NODE_SET, who);
    node_change_put(&w, change);
    return end(&w, len);
}

void *node_cmd_rm(struct node_asker who, const struct node_removal *removal, size_t *len)
{
    struct wire_writer w = begin(CMD_NODE_RM, who);
    node_removal_put(&w, removal);
    return end(&w, len);
}

void *node_cmd_token_set(struct node_asker who, const struct node_token *token, bool rotate, size_t *len)
{
    struct wire_writer w = begin(CMD_TOKEN_SET, who);
    node_token_put(&w, token);
    wire_put_u8(&w, rotate);
    return end(&w, len);
}

void *node_cmd_token_rm(struct node_asker who, const uint8_t hash[NODE_HASH_BYTES], size_t *len)
{
    struct wire_writer w = begin(CMD_TOKEN_RM, who);
    wire_put(&w, hash, NODE_HASH_BYTES);
    return end(&w, len);
}

void *node_cmd_cluster_set(struct node_asker who, const struct node_cluster_change *change, size_t *len)
{
    struct wire_writer w = begin(CMD_CLUSTER_SET, who);
    node_cluster_change_put(&w, change);
    return end(&w, len);
}

void *node_cmd_ca_rotate(struct node_asker who, bool force, size_t *len)
{
    struct wire_writer w = begin(CMD_CA_ROTATE, who);
    wire_put_u8(&w, force);
    return end(&w, len);
}

void *node_cmd_ca_step(struct node_asker who, const struct ca_step *step, size_t *len)
{
    struct wire_writer w = begin(CMD_CA_STEP, who);
    ca_step_put(&w, step);
    return end(&w, len);
}

void *node_cmd_ca_node(struct node_asker who, const struct ca_node *said, size_t *len)
{
    struct wire_writer w = begin(CMD_CA_NODE, who);
    ca_node_put(&w, said);
    return end(&w, len);
}

uint64_t node_cmd_added_id(const void *detail, size_t len)
{
    struct wire_reader r = {.buf = detail, .len = len};
    uint64_t id = wire_get_u64(&r);
    return wire_at_end(&r) ? id : 0;
}
