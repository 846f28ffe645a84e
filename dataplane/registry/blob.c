/* SPDX-License-Identifier: Apache-2.0 */
/* Pulling and deleting blobs: distribution-spec, end-2 and end-10. */
#include "check.h"
#include "dataplane/http/range.h"
#include "dataplane/registry/api.h"

static int blob_size(struct api *a)
{
    struct names *n = stream_names(a->s);
    struct names_link link;
    int err = names_begin(n);
    if (err)
        return err;
    err = names_link_get(n, a->route.repo, &a->digest, &link);
    if (err == 0 && a->s->req.method == HTTP_HEAD && api_is_going(a, NAMES_MARK_LINK))
        err = -ENOENT;
    names_end(n);
    if (err == 0)
        a->size = link.size;
    return err;
}

/* A Range counts for GET alone (RFC 9110, 14.2). */
struct http_range api_blob_range(const struct api *a)
{
    const struct http_request *req = &a->s->req;
    struct http_range whole = {.kind = HTTP_RANGE_FULL};
    if (req->method != HTTP_GET || !view_present(req->known[HTTP_KNOWN_RANGE]) ||
        !http_if_range_holds(req->known[HTTP_KNOWN_IF_RANGE], view_of(a->etag, a->etag_len)))
        return whole;
    return http_range_evaluate(req->known[HTTP_KNOWN_RANGE], a->size);
}

void api_note_pull(struct api *a, struct view media_type, bool blob)
{
    if (!stream_pull_wanted(a->s, blob))
        return;
    struct stream_pull pull = {
        .blob = blob, .repo = a->route.repo, .media_type = media_type, .digest = a->digest, .size = a->size};
    if (!blob && !a->route.by_digest)
        pull.tag = a->route.reference;
    stream_note_pull(a->s, &pull);
}

struct http_response *api_blob_head(struct api *a)
{
    struct http_range range = api_blob_range(a);
    bool part = range.kind == HTTP_RANGE_PART;
    api_note_pull(a, VIEW_LIT("application/octet-stream"), true);
    struct http_response *res = stream_response(a->s, part ? 206 : 200);
    http_response_field(res, "X-Content-Type-Options", VIEW_LIT("nosniff"));
    http_response_field(res, "Content-Type", VIEW_LIT("application/octet-stream"));
    http_response_field(res, "Docker-Content-Digest", api_digest_text(a));
    http_response_field(res, "ETag", view_of(a->etag, a->etag_len));
    http_response_field(res, "Accept-Ranges", VIEW_LIT("bytes"));
    api_cache_forever(res);
    if (part)
        http_response_content_range(res, range.first, range.last, a->size);
    return res;
}

static void blob_opened(struct api *a, int err)
{
    if (api_blob_is_elsewhere(err) && api_blob_fetch(a))
        return;
    if (err == -ENOENT || err == -EBADMSG) {
        /* As unknown as a blob that was never here: a push that asks first will bring it again. */
        error_answer(a->s, 404, ERROR_BLOB_UNKNOWN, "the blob's bytes are missing from this node's store",
                     "digest", api_digest_text(a));
        return;
    }
    if (err) {
        api_answer_store_error(a, err);
        return;
    }
    struct http_range range = api_blob_range(a);
    bool part = range.kind == HTTP_RANGE_PART;
    uint64_t offset = part ? range.first : 0, len = part ? range.last - range.first + 1 : a->size;
    struct blob *blob = a->blob;
    (void)api_blob_head(a);
    if (a->s->req.method == HTTP_GET)
        stream_count(a->s, CTR_PULLS, 1);
    a->blob = NULL;
    stream_send_blob(a->s, blob, offset, len);
}

void api_blob_read(struct api *a)
{
    a->digest = a->route.digest;
    api_etag(a);
    int err = blob_size(a);
    if (err == -ENOENT) {
        if (api_blob_unlinked(a))
            return;
        api_answer_unknown(a, ERROR_BLOB_UNKNOWN, "the repository has no such blob", "digest");
        return;
    }
    if (err) {
        api_answer_names_error(a, err);
        return;
    }
    if (api_answer_conditions(a))
        return;
    if (api_blob_range(a).kind == HTTP_RANGE_UNSATISFIABLE) {
        struct error_item item = {ERROR_SIZE_INVALID, "no byte of the blob is in that range", "range",
                                  a->s->req.known[HTTP_KNOWN_RANGE]};
        http_response_unsatisfied_range(error_begin(a->s, 416), a->size);
        error_send(a->s, &item, 1);
        return;
    }
    bool want_bytes = a->s->req.method == HTTP_GET && a->size <= SMALL_OBJECT_MAX;
    api_wait(a, blob_open(stream_store(a->s), &a->digest, a->size, want_bytes, &a->blob, &a->waiter),
             blob_opened);
}

void api_blob_delete(struct api *a)
{
    a->digest = a->route.digest;
    api_etag(a);
    struct wire_writer w = api_command(a, CMD_BLOB_UNLINK);
    wire_put_bytes(&w, a->route.repo.p, a->route.repo.len);
    cmd_put_digest(&w, &a->digest);
    api_propose(a, &w, api_answer_deleted);
}
