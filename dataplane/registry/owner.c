/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Upload sessions of other nodes. A session's id says which node has it (store.h); a request about one of
 * another replica's goes on to it as it came, over the peers' service, and its answer to the client, who sees
 * one registry. The other replica (peer.c) looks in its own store and asks nobody, so nothing goes round.
 *
 * Where that replica is away the session is unknown: clients then begin anew. Where it breaks off nobody
 * knows how much it has; it may be back soon, and says so when it is asked (GET). A limit of this node says
 * nothing about the session: the same request may go on a moment later.
 */
#include "dataplane/proxy/proxy.h"
#include "dataplane/registry/api.h"
#include "dataplane/ring.h"

enum { ANSWER_MS = 300000 /* a commit may read all of the blob again, and waits for copies */ };

static const struct view nothing;

static void refuse(struct stream *s, enum proxy_refusal why)
{
    stream_count(s, CTR_UPLOADS_UNREACHED, 1);
    if (why == PROXY_AWAY)
        error_answer(s, 404, ERROR_BLOB_UPLOAD_UNKNOWN,
                     "the replica that has this upload session cannot be reached: begin anew", NULL, nothing);
    else if (why == PROXY_BUSY)
        error_answer_later(s, 503,
                           "as many requests as may be are on their way to the upload session's replica");
    else
        error_answer_later(s, 503, "the replica that has this upload session broke off");
}

/* The other replicas, or NULL: there are none that could be asked. */
static const struct plan_source *peers(const struct plan *plan)
{
    for (uint32_t i = 0; i < plan->source_count; i++) {
        const struct plan_source *source = plan_source(plan, i);
        if (source->kind == PLAN_SOURCE_PEERS)
            return source;
    }
    return NULL;
}

bool api_session_relay(struct api *a, uint64_t node)
{
    struct stream *s = a->s;
    const struct plan *plan = s->ring->plan;
    const struct plan_source *source = peers(plan);
    if (a->relayed || node == plan->node_id || !source)
        return false;
    struct proxy_order order = {.service = source->service,
                                .backend = plan_peer_id(node),
                                .answer_timeout_ms = ANSWER_MS,
                                .refuse = refuse};
    stream_count(s, CTR_UPLOADS_RELAYED, 1);
    return proxy_relay(s, &order);
}
