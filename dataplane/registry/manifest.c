/* SPDX-License-Identifier: Apache-2.0 */
/* Pulling and deleting manifests: distribution-spec, end-3 and end-9. */
#include "dataplane/registry/api.h"

/* Finds the manifest's record, and its digest if it is asked for by a tag. */
static int manifest_find(struct api *a)
{
    struct names *n = stream_names(a->s);
    int err = names_begin(n);
    if (err)
        return err;
    if (a->route.by_digest)
        a->digest = a->route.digest;
    else
        err = names_tag_get(n, a->route.repo, a->route.reference, &a->digest);
    if (err == 0)
        err = names_manifest_get(n, a->route.repo, &a->digest, &a->manifest);
    if (err == 0 && a->s->req.method == HTTP_HEAD && api_is_going(a, NAMES_MARK_MANIFEST))
        err = -ENOENT;
    names_end(n);
    return err;
}

struct http_response *api_manifest_head(struct api *a, struct view media_type)
{
    struct http_response *res = stream_response(a->s, 200);
    http_response_field(res, "X-Content-Type-Options", VIEW_LIT("nosniff"));
    http_response_field(res, "Content-Type", media_type);
    http_response_field(res, "Docker-Content-Digest", api_digest_text(a));
    http_response_field(res, "ETag", view_of(a->etag, a->etag_len));
    if (a->route.by_digest)
        api_cache_forever(res);
    if (api_manifest_stale(a)) {
        stream_count(a->s, CTR_SOURCE_STALE, 1);
        http_response_field(res, "Warning",
                            VIEW_LIT("110 fairlead \"the source cannot be asked; this may be old\""));
    }
    if (a->s->req.method == HTTP_GET)
        stream_count(a->s, CTR_MANIFEST_PULLS, 1);
    api_note_pull(a, media_type, false);
    return res;
}

static void manifest_opened(struct api *a, int err)
{
    if (api_blob_is_elsewhere(err) && api_manifest_fetch(a))
        return;
    if (err == -ENOENT || err == -EBADMSG) {
        error_answer(a->s, 404, ERROR_MANIFEST_UNKNOWN,
                     "the manifest's bytes are missing from this node's store", "digest", api_digest_text(a));
        return;
    }
    if (err) {
        api_answer_store_error(a, err);
        return;
    }
    struct blob *blob = a->blob;
    a->size = a->manifest.size;
    (void)api_manifest_head(a, view_of(a->manifest.media_type, a->manifest.media_type_len));
    a->blob = NULL;
    stream_send_blob(a->s, blob, 0, a->manifest.size);
}

/* The stored type is sent whatever Accept says: another form of the same bytes does not exist. */
void api_manifest_read(struct api *a)
{
    int err = manifest_find(a);
    if ((err == 0 || err == -ENOENT) &&
        (api_manifest_elsewhere(a, err == 0) || !api_manifest_settled(a, err == 0)))
        return;
    if (err == -ENOENT) {
        api_answer_unknown(a, ERROR_MANIFEST_UNKNOWN, "the repository has no such manifest", "reference");
        return;
    }
    if (err) {
        api_answer_names_error(a, err);
        return;
    }
    api_etag(a);
    if (api_answer_conditions(a))
        return;
    api_wait(a,
             blob_open(stream_store(a->s), &a->digest, a->manifest.size, a->manifest.size <= SMALL_OBJECT_MAX,
                       &a->blob, &a->waiter),
             manifest_opened);
}

void api_manifest_delete(struct api *a)
{
    struct wire_writer w = api_command(a, a->route.by_digest ? CMD_MANIFEST_DELETE : CMD_TAG_DELETE);
    wire_put_bytes(&w, a->route.repo.p, a->route.repo.len);
    if (a->route.by_digest)
        cmd_put_digest(&w, &a->route.digest);
    else
        wire_put_bytes(&w, a->route.reference.p, a->route.reference.len);
    api_propose(a, &w, api_answer_deleted);
}
