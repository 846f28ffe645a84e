/* SPDX-License-Identifier: Apache-2.0 */
/* Commands about nodes, tokens and the cluster taken apart. */
#include <stdio.h>

#include "state_internal.h"

static int fail(char *err, size_t err_len, const char *text)
{
    snprintf(err, err_len, "%s", text);
    return -EINVAL;
}

static int parse_init(struct wire_reader *r, struct state_cmd *out, char text[SVC_ERROR_MAX])
{
    struct node *n = &out->of_node.init.node;
    struct node_cluster *c = &out->of_node.init.cluster;
    node_get(r, n);
    node_cluster_get(r, c);
    if (r->failed)
        return 0;
    if (n->id == 0 || n->id == UINT64_MAX || n->role != NODE_MANAGER || c->version < CLUSTER_VERSION_FIRST ||
        c->copies_min == 0 || !node_name_valid(c->name, strlen(c->name))) {
        snprintf(text, SVC_ERROR_MAX, "the cluster's fields are not valid");
        return -EINVAL;
    }
    return node_check(n, text);
}

static int parse_join(struct wire_reader *r, struct state_cmd *out, char text[SVC_ERROR_MAX])
{
    struct node *n = &out->of_node.join.node;
    node_join_get(r, &out->of_node.join);
    /* The state gives these. */
    n->id = 0;
    n->role = NODE_WORKER;
    n->availability = NODE_ACTIVE;
    return r->failed ? 0 : node_check(n, text);
}

static int parse_token(struct wire_reader *r, struct state_cmd *out)
{
    node_token_get(r, &out->of_node.token.token);
    uint8_t rotate = wire_get_u8(r);
    if (rotate > 1)
        r->failed = true;
    out->of_node.token.rotate = rotate == 1;
    return 0;
}

static int parse_token_rm(struct wire_reader *r, struct state_cmd *out)
{
    const uint8_t *hash = wire_get(r, NODE_HASH_BYTES);
    if (hash)
        memcpy(out->of_node.token.token.hash, hash, NODE_HASH_BYTES);
    return 0;
}

static int parse_rotate(struct wire_reader *r, struct state_cmd *out)
{
    uint8_t force = wire_get_u8(r);
    if (force > 1)
        r->failed = true;
    out->of_node.ca.rotate_force = force == 1;
    return 0;
}

int state_parse_node(struct wire_reader *r, struct state_cmd *out, char *err, size_t err_len)
{
    char text[SVC_ERROR_MAX] = "";
    int rc = 0;
    switch (out->head.type) {
    case CMD_CLUSTER_INIT:
        rc = parse_init(r, out, text);
        break;
    case CMD_NODE_ADD:
        rc = parse_join(r, out, text);
        break;
    case CMD_NODE_SET:
        node_change_get(r, &out->of_node.change);
        break;
    case CMD_NODE_RM:
        node_removal_get(r, &out->of_node.removal);
        break;
    case CMD_TOKEN_SET:
        rc = parse_token(r, out);
        break;
    case CMD_TOKEN_RM:
        rc = parse_token_rm(r, out);
        break;
    case CMD_CA_ROTATE:
        rc = parse_rotate(r, out);
        break;
    case CMD_CA_STEP:
        ca_step_get(r, &out->of_node.ca.step);
        break;
    case CMD_CA_NODE:
        ca_node_get(r, &out->of_node.ca.node);
        break;
    default:
        node_cluster_change_get(r, &out->of_node.cluster);
        break;
    }
    if (r->failed)
        return fail(err, err_len, "the fields are not valid");
    return rc ? fail(err, err_len, text) : 0;
}
