/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "check.h"
#include "control/daemon.h"
#include "control/events.h"
#include "control/socket/methods.h"

struct join_call {
    struct daemon *daemon;
    struct rpc_call *call;
};

static void on_joined(void *arg, uint64_t node, const char *why, bool later)
{
    struct join_call *j = arg;
    struct daemon *d = j->daemon;
    if (why && later) {
        journal_info(d->journal, "cluster", "joining: %s", why);
        rpc_reply(j->call, json_pack("{s:s}", "waits", why));
    } else if (why) {
        rpc_fail(j->call, RPC_UNAVAILABLE, "nothing was changed on this host", "%s", why);
    } else {
        journal_info(d->journal, "cluster", "this host is node %llu of another cluster now; it begins anew",
                     (unsigned long long)node);
        rpc_reply(j->call, json_pack("{s:I}", "id", (json_int_t)node));
        d->restart = d->phase <= DAEMON_SERVING; /* else it was told to end meanwhile */
        daemon_stop(d);
    }
    free(j);
}

void method_node_join(void *context, struct rpc_call *call, json_t *params)
{
    struct daemon *d = context;
    const char *address, *token;
    if (!rpc_params(call, params, "{s:s, s:s}", "address", &address, "token", &token))
        return;
    if (d->phase > DAEMON_SERVING) {
        rpc_fail(call, RPC_UNAVAILABLE, "try again when it has started", "fairleadd is about to stop");
        return;
    }
    struct join_call *j = malloc(sizeof(*j));
    CHECK(j);
    *j = (struct join_call){d, call};
    cluster_join(d->cluster, address, token, on_joined, j);
}
