/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/membership.h"

#include "dataplane/http2/http2.h"
#include "dataplane/tls/tls.h"

enum member member_of(const struct plan *plan, const struct wire *wire)
{
    const struct wire *carrier = h2_carrier(wire);
    uint64_t node = tls_client_node(carrier ? carrier : wire, plan->cluster_id);
    if (node == 0)
        return MEMBER_UNNAMED;
    if (plan_has_member(plan, node))
        return MEMBER_YES;
    return node == TLS_NODE_FOREIGN || node < plan->next_node ? MEMBER_NO : MEMBER_NOT_KNOWN;
}

bool member_is_gone(const struct plan *plan, unsigned service, const struct wire *wire)
{
    const struct plan_service *s = plan_service_of(plan, service);
    return s && s->kind == SERVICE_PEER && member_of(plan, wire) == MEMBER_NO;
}
