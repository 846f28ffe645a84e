/* SPDX-License-Identifier: Apache-2.0 */
#include "control/state/node_state.h"

#include <stdarg.h>
#include <stdio.h>

const char *node_state_name(enum node_state state)
{
    static const char *const names[NODE_STATE_COUNT] = {
        [NODE_STATE_UNKNOWN] = "unknown",
        [NODE_STATE_READY] = "ready",
        [NODE_STATE_JOINING] = "joining",
        [NODE_STATE_RECONFIGURING] = "reconfiguring",
        [NODE_STATE_CATCHING_UP] = "catching-up",
        [NODE_STATE_UNREACHABLE] = "unreachable",
        [NODE_STATE_DOWN] = "down",
        [NODE_STATE_LEADERLESS] = "no-leader",
    };
    return (unsigned)state < NODE_STATE_COUNT ? names[state] : "unknown";
}

bool node_state_is_down(enum node_state state)
{
    return state == NODE_STATE_DOWN || state == NODE_STATE_UNREACHABLE;
}

__attribute__((format(printf, 3, 4))) static void say(struct node_verdict *out, enum node_state state,
                                                      const char *format, ...)
{
    va_list args;
    out->state = state;
    va_start(args, format);
    vsnprintf(out->reason, sizeof(out->reason), format, args);
    va_end(args);
}

static const char *because(const struct node_seen *seen)
{
    return seen->why && *seen->why ? seen->why : "nobody answers at its address";
}

/* There is no connection, and ought to be one. */
static void judge_absent(const struct node *n, const struct node_seen *seen, uint64_t now_ms,
                         struct node_verdict *out)
{
    uint64_t age_ms = now_ms > n->joined_ms ? now_ms - n->joined_ms : 0;
    unsigned long long since_s = seen->since_ms / 1000;
    if (!seen->ever && age_ms < NODE_JOINING_MS)
        say(out, NODE_STATE_JOINING, "added %llu s ago, has not connected yet",
            (unsigned long long)(age_ms / 1000));
    else if (seen->heartbeat == NODE_HEARTBEAT_DOWN)
        say(out, NODE_STATE_DOWN, "it does not answer heartbeats; not connected for %llu s: %s", since_s,
            because(seen));
    else if (seen->heartbeat == NODE_HEARTBEAT_UP)
        say(out, NODE_STATE_UNREACHABLE,
            "its host answers heartbeats, but it is not connected for %llu s: %s", since_s, because(seen));
    else if (seen->ever && seen->since_ms < NODE_BLIP_MS)
        say(out, NODE_STATE_UNREACHABLE, "the connection was lost just now: %s", because(seen));
    else
        say(out, NODE_STATE_DOWN, "not connected for %llu s: %s", since_s, because(seen));
}

/* Whether Raft has made of it what its row says. */
static bool judge_role(const struct node *n, const struct node_seen *seen, struct node_verdict *out)
{
    bool manager = n->role == NODE_MANAGER;
    if (manager && seen->raft == NODE_RAFT_NONE)
        say(out, NODE_STATE_RECONFIGURING, "is to become a manager; waits for its turn");
    else if (manager && seen->raft == NODE_RAFT_STANDBY)
        say(out, NODE_STATE_RECONFIGURING, "is to become a manager; it votes once it has all entries");
    else if (!manager && (seen->raft == NODE_RAFT_STANDBY || seen->raft == NODE_RAFT_VOTER))
        say(out, NODE_STATE_RECONFIGURING, "is to become a worker; waits to be let out of the managers");
    else
        return false;
    return true;
}

void node_judge(const struct node *n, const struct node_seen *seen, uint64_t now_ms, struct node_verdict *out)
{
    uint64_t lag = seen->progress && seen->commit > seen->applied ? seen->commit - seen->applied : 0;
    if (seen->self && seen->leaderless) {
        say(out, NODE_STATE_LEADERLESS, "nobody leads: what is here is served, nothing can be changed");
        return;
    }
    if (!seen->self && !seen->connected) {
        if (seen->expected)
            judge_absent(n, seen, now_ms, out);
        else
            say(out, NODE_STATE_UNKNOWN, "this node has no connection to it; ask a manager");
        return;
    }
    if (seen->snapshot)
        say(out, NODE_STATE_CATCHING_UP, "it is given a copy of the whole state");
    else if (judge_role(n, seen, out))
        return;
    else if (lag > NODE_LAG_ENTRIES)
        say(out, NODE_STATE_CATCHING_UP, "it is %llu entries behind", (unsigned long long)lag);
    else if (!seen->self && seen->heartbeat == NODE_HEARTBEAT_DOWN)
        say(out, NODE_STATE_READY, "its heartbeats are missing, but it is connected");
    else if (n->store_state != NODE_STORE_WELL)
        say(out, NODE_STATE_READY, "its store is %s: it is given nothing new",
            node_store_state_name(n->store_state));
    else if (n->availability == NODE_DRAIN)
        say(out, NODE_STATE_READY, "drained: it is given nothing new");
    else
        say(out, NODE_STATE_READY, "%s", "");
}
