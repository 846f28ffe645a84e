/* SPDX-License-Identifier: Apache-2.0 */
#include "control/worker_rule.h"

#include <stdbool.h>
#include <stdlib.h>

#include "check.h"
#include "control/state/mirror.h"
#include "control/state/node.h"
#include "control/state/notice.h"
#include "control/state/source.h"
#include "control/state/state.h"

static const char only_managers[] =
    "nodes, tokens and the CA are changed on managers alone; run this on one of them";
static const char no_credentials[] =
    "whom credentials are shown to is said on managers alone; run this on one of them";

/*
 * What names credentials says who is shown a password of other nodes, managers among them: a worker that
 * somebody else has got hold of would name itself.
 */
static bool names_credentials(const struct state_cmd *cmd)
{
    struct wire_reader r = cmd->endpoint;
    struct endpoint e;
    struct source s;
    struct mirror_rule m;
    bool named;
    switch (cmd->head.type) {
    case CMD_NOTIFY_SET:
        endpoint_get(&r, &e);
        named = e.credentials[0];
        endpoint_fini(&e);
        return named;
    case CMD_SOURCE_SET:
        source_get(&r, &s);
        return s.credentials[0];
    case CMD_MIRROR_SET:
        mirror_get(&r, &m);
        return m.credentials[0];
    default:
        return false;
    }
}

/* Of a transaction; those that cannot be read are refused elsewhere. */
static bool part_names_credentials(const struct state_cmd *cmd)
{
    struct state_cmd *part = malloc(sizeof(*part));
    struct wire_reader r = cmd->parts;
    char err[SVC_ERROR_MAX];
    bool named = false;
    CHECK(part);
    for (uint32_t i = 0; i < cmd->parts_count && !named; i++) {
        if (state_part_next(&r, &cmd->head, part, err, sizeof(err)))
            break;
        named = names_credentials(part);
    }
    free(part);
    return named;
}

/* Nothing that says who is what, but for what it says of itself. */
static bool is_for_managers(uint64_t from, const struct state_cmd *cmd)
{
    const uint32_t of_itself = NODE_HAS_MESH | NODE_HAS_DATA | NODE_HAS_VERSION | NODE_HAS_KEY | NODE_HAS_CA |
                               NODE_HAS_STORE | NODE_HAS_STORE_STATE;
    uint16_t type = cmd->head.type;
    if (type == CMD_NODE_SET)
        return cmd->of_node.change.node.id != from || cmd->of_node.change.has & ~of_itself;
    if (type == CMD_CA_NODE)
        return cmd->of_node.ca.node.id != from || cmd->of_node.ca.node.has_key;
    return (type >= CMD_CLUSTER_INIT && type <= CMD_CLUSTER_SET) || type == CMD_GC_REPO ||
           type == CMD_GC_BLOBS || type == CMD_GC_TOTALS || type == CMD_CA_ROTATE || type == CMD_CA_STEP;
}

const char *worker_refused(uint64_t from, const void *body, size_t len)
{
    struct state_cmd *cmd = malloc(sizeof(*cmd));
    char err[SVC_ERROR_MAX];
    const char *why = NULL;
    CHECK(cmd);
    if (state_parse(body, len, cmd, err, sizeof(err)) || is_for_managers(from, cmd))
        why = only_managers;
    else if (cmd->head.type == CMD_TRANSACTION ? part_names_credentials(cmd) : names_credentials(cmd))
        why = no_credentials;
    free(cmd);
    return why;
}
