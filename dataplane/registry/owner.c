/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Upload sessions of other nodes. A session's id says which node has it (store.h); a request about one of
 * another replica's goes on to it as it came, over the peers' service, and its answer to the client, who sees
 * one registry. The other replica (peer.c) looks in its own store and asks nobody, so nothing goes round.
 *
 *   its replica is there      relayed
 *   away, nothing was asked   who has most of the upload (heirs.h) goes on with it: this node, or another
 * one, to which the request is relayed; nobody: 404, clients begin anew broke off in the middle   what it had
 * of the request's body is lost or not: the client is told how much there is, and where (416, or 503, with
 * Range and Location)
 *
 * Whoever goes on does so in a session of its own, with another id, which the answers say (Location). So a
 * name has one owner for ever, and it does not matter whether the first replica is dead or only out of reach:
 * if it is back, its session is as it was, for a client that still knows it by name: until it has used the
 * new one, or the bytes are a blob; then the first replica is told to drop it. Nothing is acknowledged by
 * either but bytes that have the digest which the client says at the end.
 *
 * A limit of this node, or a replica that is slow, says nothing about the session: the same request may go on
 * a moment later.
 */
#include <stdio.h>

#include "dataplane/proxy/proxy.h"
#include "dataplane/registry/api.h"
#include "dataplane/registry/heirs.h"
#include "dataplane/ring.h"

enum { ANSWER_MS = 300000 /* a commit may read all of the blob again, and waits for copies */ };

static const struct view nothing;

/* ------------------------------------------------------------------ relaying */

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

static bool relay(struct stream *s, uint64_t node, void (*refuse)(struct stream *, enum proxy_refusal))
{
    const struct plan_source *source = peers(s->ring->plan);
    if (!source)
        return false;
    struct proxy_order order = {.service = source->service,
                                .backend = plan_peer_id(node),
                                .answer_timeout_ms = ANSWER_MS,
                                .refuse = refuse};
    stream_count(s, CTR_UPLOADS_RELAYED, 1);
    return proxy_relay(s, &order);
}

static void answer_refused(struct stream *s, enum proxy_refusal why)
{
    error_answer_later(s, 503,
                       why == PROXY_BUSY
                           ? "as many requests as may be are on their way to the upload session's replica"
                       : why == PROXY_SLOW ? "the replica that has this upload session does not answer"
                                           : "the replica that has this upload session broke off");
}

/* ------------------------------------------------------------------ its replica is away */

static void answer_nobody(struct api *a, int err)
{
    if (err == -EBUSY)
        api_session_busy(a);
    else if (err == -EAGAIN)
        error_answer_later(a->s, 503, "too many upload sessions are looked for");
    else
        error_answer(
            a->s, 404, ERROR_BLOB_UPLOAD_UNKNOWN,
            "the replica that has this upload session cannot be reached, and no other one has a copy: "
            "begin anew",
            NULL, nothing);
}

/* It was there a moment ago. */
static void refuse_heir(struct stream *s, enum proxy_refusal why)
{
    stream_count(s, CTR_UPLOADS_UNREACHED, 1);
    if (api_again(s))
        answer_refused(s, why == PROXY_AWAY ? PROXY_BROKE : why);
}

static void go_on(struct api *a, int err, const struct heir *best)
{
    struct stream *s = a->s;
    if (err) {
        answer_nobody(a, err);
    } else if (best->node == s->ring->plan->node_id) {
        a->heir = true;
        api_call(a);
    } else if (!relay(s, best->node, refuse_heir)) {
        answer_refused(s, PROXY_BROKE);
    }
}

/* ------------------------------------------------------------------ it broke off */

/* Where the client can go on. One that says where its bytes belong understands 416. */
static void tell(struct api *a, int err, const struct heir *best)
{
    struct stream *s = a->s;
    struct view id = a->route.reference, range = s->req.known[HTTP_KNOWN_CONTENT_RANGE];
    struct error_item item = {
        ERROR_BLOB_UPLOAD_INVALID,
        "the session's replica broke off: go on from where its bytes end now (see Range)", NULL, nothing};
    if (err) {
        answer_refused(s, PROXY_BROKE);
        return;
    }
    char node[UPLOAD_ID_LEN - UPLOAD_RANDOM_LEN + 1];
    (void)snprintf(node, sizeof(node), "%016llx", (unsigned long long)best->node);
    memcpy(a->up.id, id.p, UPLOAD_RANDOM_LEN);
    memcpy(a->up.id + UPLOAD_RANDOM_LEN, node, sizeof(node) - 1);
    struct http_response *res = error_begin(s, view_present(range) ? 416 : 503);
    if (!view_present(range))
        http_response_field_u64(res, "Retry-After", 1);
    api_session_fields(a, res, best->size);
    error_send(s, &item, 1);
}

static void refuse(struct stream *s, enum proxy_refusal why)
{
    struct api *a = api_again(s);
    uint64_t node;
    stream_count(s, CTR_UPLOADS_UNREACHED, 1);
    if (!a || !upload_id_node(a->route.reference.p, a->route.reference.len, &node))
        return;
    if (why == PROXY_AWAY)
        heirs_find(a, 0, go_on);
    else if (why == PROXY_BROKE && stream_has_body(s))
        heirs_find(a, node, tell);
    else
        answer_refused(s, why);
}

bool api_session_relay(struct api *a, uint64_t node)
{
    if (a->relayed || a->heir || node == a->s->ring->plan->node_id)
        return false;
    return relay(a->s, node, refuse);
}
