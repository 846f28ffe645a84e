/* SPDX-License-Identifier: Apache-2.0 */
/* Nodes as wholes: what is allowed, their words, and the table of all. */
#include "control/state/node.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "cmd.h"
#include "control/state/by_id.h"

static bool is_alnum(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

bool node_name_valid(const char *name, size_t len)
{
    if (len == 0 || len > NODE_NAME_MAX || !(is_alnum(name[0]) || name[0] == '_'))
        return false;
    for (size_t i = 1; i < len; i++)
        if (!is_alnum(name[i]) && name[i] != '.' && name[i] != '_' && name[i] != '-')
            return false;
    return true;
}

static int refuse(char err[SVC_ERROR_MAX], const char *text)
{
    snprintf(err, SVC_ERROR_MAX, "%s", text);
    return -EINVAL;
}

int node_check(const struct node *n, char err[SVC_ERROR_MAX])
{
    if (!node_name_valid(n->name, strlen(n->name)))
        return refuse(err, "a node's name has 1 to 63 letters, digits, '.', '_' and '-', and begins with a "
                           "letter, a digit or '_'");
    if (n->role != NODE_MANAGER && n->role != NODE_WORKER)
        return refuse(err, "a node is a manager or a worker");
    if (n->availability != NODE_ACTIVE && n->availability != NODE_DRAIN)
        return refuse(err, "a node is active or drained");
    if (n->version < CLUSTER_VERSION_FIRST)
        return refuse(err, "a node knows a cluster version");
    return 0;
}

const char *node_role_name(unsigned role)
{
    return role == NODE_MANAGER ? "manager" : role == NODE_WORKER ? "worker" : "unknown";
}

const char *node_availability_name(unsigned availability)
{
    return availability == NODE_ACTIVE ? "active" : availability == NODE_DRAIN ? "drain" : "unknown";
}

const char *node_store_state_name(unsigned store_state)
{
    static const char *const names[] = {[NODE_STORE_WELL] = "well",
                                        [NODE_STORE_LOST] = "missing or another one",
                                        [NODE_STORE_READ_ONLY] = "read-only",
                                        [NODE_STORE_FAILING] = "failing"};
    return store_state < ARRAY_SIZE(names) ? names[store_state] : "unknown";
}

const char *node_managers_warning(size_t managers, size_t nodes)
{
    if (managers == 2)
        return "two managers are worse than one: if either fails, nothing can be changed; add a third";
    if (managers > 0 && managers % 2 == 0)
        return "an even number of managers survives no more failures than one manager less; add one or "
               "demote one";
    if (managers == 1 && nodes > 1)
        return "with one manager nothing can be changed while it is down; add two more";
    return "";
}

uint32_t node_version_of_command(uint16_t type)
{
    if (type >= CMD_SOURCE_SET)
        return CLUSTER_VERSION_SOURCES;
    if (type > CMD_TRANSACTION)
        return CLUSTER_VERSION_HOLDERS;
    return type > CMD_CLUSTER_INIT ? 2 : CLUSTER_VERSION_FIRST;
}

uint32_t node_version_common(const struct node_table *t)
{
    uint32_t version = t->count ? UINT32_MAX : CLUSTER_VERSION_FIRST;
    for (size_t i = 0; i < t->count; i++)
        if (t->node[i].version < version)
            version = t->node[i].version;
    return version;
}

const struct node *node_find(const struct node_table *t, uint64_t id)
{
    _Static_assert(offsetof(struct node, id) == 0, "as by_id wants it");
    return by_id(t->node, t->count, sizeof(t->node[0]), id);
}

const struct node *node_find_name(const struct node_table *t, const char *name)
{
    for (size_t i = 0; i < t->count; i++)
        if (strcmp(t->node[i].name, name) == 0)
            return &t->node[i];
    return NULL;
}

bool node_counts(const struct node_table *t, const struct node *n)
{
    static const uint8_t not_said[NODE_HASH_BYTES];
    return memcmp(t->ca, not_said, sizeof(not_said)) == 0 || memcmp(n->ca, not_said, sizeof(not_said)) == 0 ||
           memcmp(n->ca, t->ca, sizeof(n->ca)) == 0;
}

bool node_store_said(const struct node *n)
{
    static const uint8_t not_said[NODE_STORE_BYTES];
    return memcmp(n->store, not_said, sizeof(not_said)) != 0;
}

void node_table_fini(struct node_table *t)
{
    free(t->node);
    memset(t, 0, sizeof(*t));
}

void node_tokens_fini(struct node_tokens *t)
{
    free(t->token);
    memset(t, 0, sizeof(*t));
}
