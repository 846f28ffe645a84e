/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/registry/peer.h"

#include <errno.h>
#include <string.h>

#include "check.h"
#include "dataplane/conn.h"
#include "dataplane/membership.h"
#include "dataplane/ring.h"
#include "dataplane/http/range.h"
#include "dataplane/registry/api.h"
#include "dataplane/registry/keep.h"

static const struct view nothing;

/* "/blobs/sha256/<hex>" */
static bool path_read(struct view path, struct digest *out)
{
    static const struct view prefix = {"/blobs/", 7};
    char text[DIGEST_TEXT_MAX + 1];
    if (path.len <= prefix.len || path.len - prefix.len > DIGEST_TEXT_MAX ||
        memcmp(path.p, prefix.p, prefix.len) != 0)
        return false;
    size_t len = path.len - prefix.len;
    memcpy(text, path.p + prefix.len, len);
    char *slash = memchr(text, '/', len);
    if (!slash || memchr(text, ':', len))
        return false;
    *slash = ':';
    return digest_parse(text, len, out) == 0;
}

/* Every address for peers asks for certificates, of a CA that it names. nodes_only: and each of them for
 * those of nodes. */
static bool is_guarded(struct stream *s, bool *nodes_only)
{
    const struct plan *plan = s->ring->plan;
    *nodes_only = true;
    for (uint32_t i = 0; i < plan->listener_count; i++) {
        const struct plan_listener *l = plan_listener(plan, i);
        if (l->service == stream_service_index(s) &&
            (l->tls.mode != PLAN_TLS_TERMINATE || l->tls.client_auth != PLAN_AUTH_REQUIRED ||
             !l->tls.client_ca[0]))
            return false;
        if (l->service == stream_service_index(s))
            *nodes_only &= l->tls.nodes_only != 0;
    }
    return true;
}

/* Another CA than the cluster's names no nodes: whom it has signed may come. False: the answer was sent. */
static bool is_welcome(struct stream *s)
{
    bool nodes_only;
    if (!is_guarded(s, &nodes_only)) {
        error_answer(s, 403, ERROR_DENIED, "this address does not ask for certificates", NULL, nothing);
        return false;
    }
    enum member member = member_of(s->ring->plan, &s->conn->wire);
    if (member == MEMBER_YES || (member == MEMBER_UNNAMED && !nodes_only))
        return true;
    stream_count(s, CTR_PEER_REFUSED, 1);
    if (member == MEMBER_NOT_KNOWN)
        error_answer_later(s, 503, "this node has not been told of the one that asks yet");
    else
        error_answer(s, 403, ERROR_DENIED, "whoever asks is no node of the cluster (any more)", NULL,
                     nothing);
    return false;
}

static void opened(struct api *a, int err)
{
    struct blob *blob = a->blob;
    if (err == -ENOENT || err == -EBADMSG) {
        error_answer(a->s, 404, ERROR_BLOB_UNKNOWN, "its bytes are not in this node's store", NULL, nothing);
        return;
    }
    if (err) {
        api_answer_store_error(a, err);
        return;
    }
    struct http_range range = api_blob_range(a);
    bool part = range.kind == HTTP_RANGE_PART;
    uint64_t first = part ? range.first : 0, len = part ? range.last - range.first + 1 : a->size;
    (void)api_blob_head(a);
    stream_count(a->s, CTR_PEER_BLOBS, a->s->req.method == HTTP_GET);
    a->blob = NULL;
    stream_send_blob(a->s, blob, first, len);
}

static void begin(struct stream *s)
{
    struct api *a = api_new(s);
    if (!a || !is_welcome(s))
        return;
    if (view_starts(s->req.path, VIEW_LIT("/v2/"))) {
        api_relayed(a);
        return;
    }
    bool is_blob = path_read(s->req.path, &a->digest);
    if (!is_blob)
        a->digest.alg = DIGEST_NONE;
    if (keep_begin(a))
        return;
    if ((s->req.method != HTTP_GET && s->req.method != HTTP_HEAD) || !is_blob) {
        error_answer(s, 404, ERROR_UNSUPPORTED, "other replicas get nothing by this method from such a path",
                     NULL, nothing);
        return;
    }
    api_etag(a);
    int err = api_blob_known(a);
    if (err == -ENOENT)
        error_answer(s, 404, ERROR_BLOB_UNKNOWN, "the names do not know such a blob", NULL, nothing);
    else if (err)
        api_answer_names_error(a, err);
    else if (api_blob_range(a).kind == HTTP_RANGE_UNSATISFIABLE)
        error_answer(s, 416, ERROR_SIZE_INVALID, "no byte of the blob is in that range", NULL, nothing);
    else
        api_wait(a, blob_open(stream_store(s), &a->digest, a->size, false, &a->blob, &a->waiter), opened);
}

const struct handler peer_handler = {"peer", begin, api_body_done, api_end, NULL};
