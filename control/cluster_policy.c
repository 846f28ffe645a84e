/* SPDX-License-Identifier: Apache-2.0 */
#include "control/cluster_policy.h"

#include <errno.h>

#include "control/cluster_internal.h"

int cluster_policies(struct cluster *c, struct policy_table *out, struct names_policy_use **use)
{
    struct kv *kv;
    struct db_view *view = consensus_view_begin(c->consensus, &kv);
    *out = (struct policy_table){.count = 0};
    if (use)
        *use = NULL;
    if (!view)
        return -ENOMEM;
    int result = state_policies_read(kv, out, use);
    consensus_view_end(view);
    return result;
}

int cluster_rules(struct cluster *c, const char *repo, struct policy_rules *out)
{
    struct kv *kv;
    struct db_view *view = consensus_view_begin(c->consensus, &kv);
    if (!view)
        return -ENOMEM;
    int result = state_policy_rules(kv, repo, out);
    consensus_view_end(view);
    return result;
}

int cluster_endpoints(struct cluster *c, struct endpoint_table *out)
{
    struct kv *kv;
    struct db_view *view = consensus_view_begin(c->consensus, &kv);
    *out = (struct endpoint_table){.count = 0};
    if (!view)
        return -ENOMEM;
    int result = state_endpoints_read(kv, out);
    consensus_view_end(view);
    return result;
}

int cluster_mirrors(struct cluster *c, struct mirror_table *out)
{
    struct kv *kv;
    struct db_view *view = consensus_view_begin(c->consensus, &kv);
    *out = (struct mirror_table){.count = 0};
    if (!view)
        return -ENOMEM;
    int result = state_mirrors_read(kv, out);
    consensus_view_end(view);
    return result;
}

int cluster_sources(struct cluster *c, struct source_table *out)
{
    struct kv *kv;
    struct db_view *view = consensus_view_begin(c->consensus, &kv);
    *out = (struct source_table){.count = 0};
    if (!view)
        return -ENOMEM;
    int result = state_sources_read(kv, out);
    consensus_view_end(view);
    return result;
}

bool cluster_knows(struct cluster *c, uint32_t version)
{
    struct node_table t = {.count = 0};
    bool knows = cluster_nodes(c, &t) == 0 && (t.count == 0 || t.cluster.version >= version);
    node_table_fini(&t);
    return knows;
}

int cluster_prefix_use(struct cluster *c, const char *prefix, struct names_policy_use *out)
{
    struct kv *kv;
    struct db_view *view = consensus_view_begin(c->consensus, &kv);
    if (!view)
        return -ENOMEM;
    int result = state_use_count(kv, prefix, out);
    consensus_view_end(view);
    return result;
}

int cluster_each_notice(struct cluster *c, struct notice_at after, size_t limit, cluster_notice each,
                        void *arg)
{
    struct notice n;
    struct kv *kv;
    int count = 0, rc = 0;
    struct db_view *view = consensus_view_begin(c->consensus, &kv);
    if (!view)
        return -ENOMEM;
    while ((size_t)count < limit && (rc = state_notice_next(kv, after, &n)) == 0) {
        after = n.at;
        count++;
        if (!each(arg, &n))
            break;
    }
    consensus_view_end(view);
    return rc && rc != -ENOENT ? rc : count;
}
