/* SPDX-License-Identifier: Apache-2.0 */
/* Tokens that let nodes join, and what holds for the whole cluster. */
#include "node_rows.h"
#include "state_service.h"

/* Removes the tokens that have expired, and with `role` those of the role. */
static int tokens_sweep(struct kv *kv, uint64_t time_ms, uint8_t role, struct state_event *out)
{
    struct node_token t;
    const uint8_t *after = NULL;
    uint8_t hash[NODE_HASH_BYTES];
    int rc;
    while ((rc = state_token_next(kv, after, &t)) == 0) {
        memcpy(hash, t.hash, sizeof(hash));
        after = hash;
        if (t.expires_ms > time_ms && t.role != role)
            continue;
        rc = state_token_del(kv, hash);
        if (rc)
            return rc;
        out->changed = true;
    }
    return rc == -ENOENT ? 0 : rc;
}

static int tokens_count(struct kv *kv, uint64_t time_ms, uint8_t but_role, uint32_t *count)
{
    struct node_token t;
    const uint8_t *after = NULL;
    uint8_t hash[NODE_HASH_BYTES];
    int rc;
    *count = 0;
    while ((rc = state_token_next(kv, after, &t)) == 0) {
        memcpy(hash, t.hash, sizeof(hash));
        after = hash;
        *count += t.expires_ms > time_ms && t.role != but_role;
    }
    return rc == -ENOENT ? 0 : rc;
}

int state_token_set(struct kv *kv, struct state_event *out)
{
    struct node_token token = out->cmd.of_node.token.token, there;
    uint64_t now = out->cmd.head.time_ms;
    uint8_t rotated = out->cmd.of_node.token.rotate ? token.role : 0;
    struct node_cluster c;
    uint32_t count;
    int rc = state_cluster_get(kv, &c);
    if (rc == -ENOENT)
        return state_refuse_text(out, CMD_NODE_UNKNOWN,
                                 "this node is no cluster yet; make it one with `fairlead cluster init`");
    if (rc == 0 && token.expires_ms <= now)
        return state_refuse_text(out, CMD_INVALID, "a token must expire in the future");
    if (rc == 0)
        rc = tokens_count(kv, now, rotated, &count);
    if (rc)
        return rc;
    rc = state_token_get(kv, token.hash, &there);
    if (rc && rc != -ENOENT)
        return rc;
    if (rc == -ENOENT && count >= NODE_TOKENS_MAX)
        return state_refuse_format(
            out, CMD_LIMIT, "there are %d tokens already; --rotate removes the old ones", NODE_TOKENS_MAX);
    rc = tokens_sweep(kv, now, rotated, out);
    if (rc)
        return rc;
    token.created_ms = now;
    out->changed = true;
    return state_token_put(kv, &token);
}

int state_token_rm(struct kv *kv, struct state_event *out)
{
    int rc = state_token_del(kv, out->cmd.of_node.token.token.hash);
    if (rc == -ENOENT)
        return state_refuse_text(out, CMD_TOKEN_UNKNOWN, "there is no such token (any more)");
    out->changed = rc == 0;
    return rc;
}

/* --- the cluster --- */

/* 0, -EPERM (refused), -errno. */
static int version_check(struct kv *kv, const struct node_cluster *before, uint32_t version,
                         struct state_event *out)
{
    struct node n = {.id = 0};
    int rc = 0;
    if (version < before->version) {
        state_refuse_format(out, CMD_INVALID, "the cluster runs version %u, and never goes back",
                            before->version);
        return -EPERM;
    }
    while (version > before->version && (rc = state_node_next(kv, n.id, &n)) == 0) {
        if (n.version >= version)
            continue;
        state_refuse_format(out, CMD_TOO_NEW, "the node '%s' knows cluster version %u only; upgrade it first",
                            n.name, n.version);
        return -EPERM;
    }
    return rc == -ENOENT ? 0 : rc;
}

static void cluster_take(const struct node_cluster_change *change, struct node_cluster *c)
{
    if (change->has & NODE_CLUSTER_HAS_VERSION)
        c->version = change->cluster.version;
    if (change->has & NODE_CLUSTER_HAS_NAME)
        memcpy(c->name, change->cluster.name, sizeof(c->name));
    if (change->has & NODE_CLUSTER_HAS_COPIES)
        c->copies = change->cluster.copies;
    if (change->has & NODE_CLUSTER_HAS_COPIES_MIN)
        c->copies_min = change->cluster.copies_min;
}

int state_cluster_set(struct kv *kv, struct state_event *out)
{
    const struct node_cluster_change *change = &out->cmd.of_node.cluster;
    struct node_cluster before, c;
    int rc = state_cluster_get(kv, &before);
    if (rc == -ENOENT)
        return state_refuse_text(out, CMD_NODE_UNKNOWN,
                                 "this node is no cluster yet; make it one with `fairlead cluster init`");
    if (rc)
        return rc;
    if (change->revision != CMD_REVISION_ANY && change->revision != before.revision)
        return state_refuse_text(out, CMD_CONFLICT, "the cluster was changed meanwhile; look and try again");
    c = before;
    cluster_take(change, &c);
    rc = version_check(kv, &before, c.version, out);
    if (rc)
        return rc == -EPERM ? 0 : rc;
    if (!node_name_valid(c.name, strlen(c.name)))
        return state_refuse_text(out, CMD_INVALID,
                                 "a cluster's name has 1 to 63 letters, digits, '.', '_' and '-'");
    if (c.copies_min == 0 || (c.copies && c.copies_min > c.copies))
        return state_refuse_text(out, CMD_INVALID, "copies_min is at least 1, and at most copies");
    if (c.version == before.version && strcmp(c.name, before.name) == 0 && c.copies == before.copies &&
        c.copies_min == before.copies_min)
        return 0;
    c.revision = out->index;
    c.updated_ms = out->cmd.head.time_ms;
    out->changed = true;
    return state_cluster_put(kv, &c);
}
