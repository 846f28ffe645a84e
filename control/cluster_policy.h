/* SPDX-License-Identifier: Apache-2.0 */
/* Policies, webhooks, rules of mirroring and sources as they are applied here. */
#ifndef FL_CONTROL_CLUSTER_POLICY_H
#define FL_CONTROL_CLUSTER_POLICY_H

#include "control/cluster.h"
#include "control/state/mirror.h"
#include "control/state/notice.h"
#include "control/state/policy.h"
#include "control/state/source.h"

/* 0 or -errno; policy_table_fini and free(*use) in any case. use may be NULL. */
int cluster_policies(struct cluster *c, struct policy_table *out, struct names_policy_use **use);

/* What holds for a repository. 0 or -errno. */
int cluster_rules(struct cluster *c, const char *repo, struct policy_rules *out);

/* With their secrets. 0 or -errno; endpoint_table_fini in any case. */
int cluster_endpoints(struct cluster *c, struct endpoint_table *out);

/* 0 or -errno; mirror_table_fini in any case. */
int cluster_mirrors(struct cluster *c, struct mirror_table *out);

/* What the repositories below a prefix have, counted now. 0 or -errno. */
int cluster_prefix_use(struct cluster *c, const char *prefix, struct names_policy_use *out);

/* 0 or -errno; source_table_fini in any case. */
int cluster_sources(struct cluster *c, struct source_table *out);

/* Whether all nodes know the commands of a version of the cluster; not, if the state cannot be read. */
bool cluster_knows(struct cluster *c, uint32_t version);

/* Calls back for at most `limit` notices behind a position, in order, until it says false; views are good
 * until it returns. Returns how many it was called for, or -errno. */
typedef bool (*cluster_notice)(void *arg, const struct notice *n);
int cluster_each_notice(struct cluster *c, struct notice_at after, size_t limit, cluster_notice each,
                        void *arg);

#endif
