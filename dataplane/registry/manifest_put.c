/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pushing manifests: distribution-spec, end-7a and end-7b.
 *
 *   body in memory -> digest -> read and judge -> references against the names -> bytes durable -> proposal
 * -> 201
 *
 * The check against the names gives a quick answer that names what is missing; the state machine checks
 * again, when it applies the command, and its word counts.
 *
 * If-Match and If-None-Match are looked at before the body: a client that changes a list under a tag learns
 * that somebody else was quicker. They are no lock: between that look and the commit another push may come.
 */
#include "check.h"
#include "dataplane/http/range.h"
#include "dataplane/http/uri.h"
#include "dataplane/holders.h"
#include "dataplane/ring.h"
#include "dataplane/registry/api.h"
#include "dataplane/registry/copies.h"
#include "dataplane/registry/manifest_json.h"

enum {
    MISSING_MAX = 16,     /* entries in the answer about missing references */
    TAGS_TEXT_MAX = 1536, /* bytes of all ?tag= together: they come back in the response's head */
};

static const struct view nothing;

/* ------------------------------------------------------------------ references */

struct missing {
    struct api *a;
    bool sparse;
    int err; /* of the names file */
    unsigned count;
    struct digest digest[MISSING_MAX];
};

/* What the repository has of a descriptor. err: -ENOENT or 0 each. */
struct held {
    int err; /* of the names file itself */
    bool manifest, blob;
};

static struct held look_up(struct api *a, const struct manifest_ref *ref)
{
    struct names *n = stream_names(a->s);
    struct names_manifest_record record;
    struct names_link link;
    struct held h = {.err = names_begin(n)};
    if (h.err)
        return h;
    int manifest =
        ref->place == MANIFEST_CHILD ? names_manifest_get(n, a->route.repo, &ref->digest, &record) : -ENOENT;
    int blob = names_link_get(n, a->route.repo, &ref->digest, &link);
    names_end(n);
    h.manifest = manifest == 0;
    h.blob = blob == 0;
    if ((manifest && manifest != -ENOENT) || (blob && blob != -ENOENT))
        h.err = -EIO;
    return h;
}

/*
 * Entries of an index are manifests; but build caches are indexes of layers, so what is of no known manifest
 * type and is there as a blob is one.
 */
static enum cmd_ref_kind ref_kind(const struct manifest_ref *ref, const struct held *h)
{
    if (ref->place != MANIFEST_CHILD)
        return CMD_REF_BLOB;
    if (manifest_kind_of(ref->media_type) != MANIFEST_OTHER || h->manifest || !h->blob)
        return CMD_REF_MANIFEST;
    return CMD_REF_BLOB;
}

static bool ref_held(const struct manifest_ref *ref, const struct held *h)
{
    return ref_kind(ref, h) == CMD_REF_MANIFEST ? h->manifest : h->blob;
}

static void ref_check(void *ctx, const struct manifest_ref *ref)
{
    struct missing *m = ctx;
    struct held h = look_up(m->a, ref);
    if (h.err)
        m->err = h.err;
    if (h.err || ref_held(ref, &h) || manifest_type_foreign(ref->media_type))
        return;
    if (m->sparse && ref_kind(ref, &h) == CMD_REF_MANIFEST)
        return;
    if (m->count < MISSING_MAX)
        m->digest[m->count++] = ref->digest;
}

static void answer_missing(struct api *a, const struct digest *d, unsigned count)
{
    struct error_item items[MISSING_MAX];
    char text[MISSING_MAX][DIGEST_TEXT_MAX + 1];
    for (unsigned i = 0; i < count; i++)
        items[i] = (struct error_item){ERROR_MANIFEST_BLOB_UNKNOWN,
                                       "the manifest names something that the repository does not have",
                                       "digest", view_of(text[i], digest_format(&d[i], text[i]))};
    error_begin(a->s, 404);
    error_send(a->s, items, count);
}

/* ------------------------------------------------------------------ the proposal */

struct encoding {
    struct api *a;
    struct wire_writer w;
    uint32_t count;
};

/* A foreign layer that the repository does not have is not a reference: nothing would be kept by it. */
static void ref_encode(void *ctx, const struct manifest_ref *ref)
{
    struct encoding *e = ctx;
    struct held h = look_up(e->a, ref);
    if (manifest_type_foreign(ref->media_type) && !h.blob)
        return;
    wire_put_u8(&e->w, (uint8_t)ref_kind(ref, &h));
    cmd_put_digest(&e->w, &ref->digest);
    wire_put_u64(&e->w, ref->size);
    e->count++;
}

static void put_text(struct wire_writer *w, const char *text)
{
    wire_put(w, text, strlen(text));
}

/* The descriptor of a referrers list (distribution-spec, "Listing Referrers"), its annotations as they stand.
 */
static void descriptor_encode(const struct api *a, struct wire_writer *w)
{
    const struct manifest *m = a->put.manifest;
    struct view digest = api_digest_text(a);
    char size[24];
    snprintf(size, sizeof(size), "%llu", (unsigned long long)a->size);
    put_text(w, "{\"mediaType\":\"");
    wire_put(w, m->media_type.text, m->media_type.len);
    put_text(w, "\",\"digest\":\"");
    wire_put(w, digest.p, digest.len);
    put_text(w, "\",\"size\":");
    put_text(w, size);
    if (m->artifact_type.len) {
        put_text(w, ",\"artifactType\":\"");
        wire_put(w, m->artifact_type.text, m->artifact_type.len);
        put_text(w, "\"");
    }
    if (view_present(m->annotations)) {
        put_text(w, ",\"annotations\":");
        wire_put(w, m->annotations.p, m->annotations.len);
    }
    put_text(w, "}");
}

/* A u32 whose value is known only after what follows it. */
static size_t reserve_u32(struct wire_writer *w)
{
    size_t at = w->len;
    wire_put_u32(w, 0);
    return at;
}

static void fill_u32(struct wire_writer *w, size_t at, size_t value)
{
    struct wire_writer patch = {.buf = w->buf + at, .cap = 4};
    if (!w->failed)
        wire_put_u32(&patch, (uint32_t)value);
}

static void tags_encode(struct api *a, struct wire_writer *w)
{
    struct view list = a->put.tags, tag;
    size_t at = reserve_u32(w);
    uint32_t count = 0;
    if (!a->route.by_digest) {
        wire_put_bytes(w, a->route.reference.p, a->route.reference.len);
        count++;
    }
    while (view_next_item(&list, &tag)) {
        wire_put_bytes(w, tag.p, tag.len);
        count++;
    }
    fill_u32(w, at, count);
}

static struct wire_writer command_encode(struct api *a)
{
    struct manifest *m = a->put.manifest, again = {0};
    struct encoding e = {.a = a, .w = api_command(a, CMD_MANIFEST_PUT)};
    struct wire_writer *w = &e.w;
    wire_put_bytes(w, a->route.repo.p, a->route.repo.len);
    cmd_put_digest(w, &a->digest);
    wire_put_u64(w, a->size);
    wire_put_bytes(w, m->media_type.text, m->media_type.len);
    wire_put_bytes(w, m->artifact_type.text, m->artifact_type.len);
    wire_put_u8(w, m->has_subject);
    if (m->has_subject)
        cmd_put_digest(w, &m->subject);
    size_t at = reserve_u32(w), before = w->len;
    if (m->has_subject)
        descriptor_encode(a, w);
    fill_u32(w, at, w->len - before);
    wire_put_u8(w, a->put.copied                                     ? CMD_REFS_NONE
                   : stream_setting(a->s, SET_REGISTRY_INDEX_SPARSE) ? CMD_REFS_BLOBS
                                                                     : CMD_REFS_ALL);
    at = reserve_u32(w);
    CHECK(manifest_read(a->s->body.p, a->s->body.len, ref_encode, &e, &again) == 0);
    fill_u32(w, at, e.count);
    tags_encode(a, w);
    return e.w;
}

/* ------------------------------------------------------------------ the steps */

static void answer_refused_refs(struct api *a)
{
    const struct proposal *p = &a->proposal;
    struct digest d[MISSING_MAX];
    unsigned count = 0;
    size_t at = 0, used;
    while (count < MISSING_MAX && (used = digest_unpack(p->detail + at, p->detail_len - at, &d[count])) > 0) {
        at += used;
        count++;
    }
    if (count)
        answer_missing(a, d, count);
    else
        error_answer(a->s, 404, ERROR_MANIFEST_BLOB_UNKNOWN,
                     "the manifest names something that the repository does not have", NULL, nothing);
}

static void answer_created(struct api *a)
{
    struct manifest *m = a->put.manifest;
    char subject[DIGEST_TEXT_MAX + 1];
    struct http_response *res = stream_response(a->s, 201);
    api_location(a, res, "/manifests/", api_digest_text(a));
    http_response_field(res, "Docker-Content-Digest", api_digest_text(a));
    if (m->has_subject)
        http_response_field(res, "OCI-Subject", view_of(subject, digest_format(&m->subject, subject)));
    if (a->put.tags.len)
        http_response_field(res, "OCI-Tag", a->put.tags);
    stream_send(a->s);
}

static void propose_manifest(struct api *a);

static void proposed(struct api *a, int status)
{
    if (api_deleting(a, status, propose_manifest))
        return;
    switch (status) {
    case CMD_OK:
        stream_count(a->s, CTR_MANIFEST_PUSHES, 1);
        answer_created(a);
        break;
    case CMD_BLOB_UNKNOWN:
    case CMD_MANIFEST_UNKNOWN:
        answer_refused_refs(a);
        break;
    case CMD_INVALID:
        error_answer(a->s, 400, ERROR_MANIFEST_INVALID, "the manifest was refused", "reason",
                     view_of((const char *)a->proposal.detail, a->proposal.detail_len));
        break;
    default:
        api_answer_status(a, status);
        break;
    }
}

static void propose_manifest(struct api *a)
{
    struct wire_writer w = command_encode(a);
    copies_put_holders(a, &w);
    api_propose(a, &w, proposed);
}

static void copied(struct api *a, int err)
{
    if (err)
        copies_refuse(a);
    else
        propose_manifest(a);
}

static void written(struct api *a, int err)
{
    if (err) {
        api_answer_store_error(a, err);
        return;
    }
    if (copies_need_blob(a, a->s->body))
        copies_finish(a, a->s->body);
    copies_wait(a, copied);
}

static void answer_invalid(struct api *a, const struct manifest *m)
{
    char at[40];
    int len = snprintf(at, sizeof(at), "byte %zu", m->why_at);
    error_answer(a->s, 400, ERROR_MANIFEST_INVALID, m->why, m->why_at ? "at" : NULL,
                 m->why_at ? view_of(at, (size_t)len) : nothing);
}

/* Reads the body, which is there, into a->put.manifest. False: the answer was sent. */
static bool manifest_check(struct api *a)
{
    struct manifest *m = arena_alloc(&a->s->arena, sizeof(*m));
    struct missing missing = {.a = a, .sparse = stream_setting(a->s, SET_REGISTRY_INDEX_SPARSE) != 0};
    if (!m) {
        error_answer_later(a->s, 503, "no memory for the manifest");
        return false;
    }
    a->put.manifest = m;
    if (manifest_read(a->s->body.p, a->s->body.len, ref_check, &missing, m) ||
        manifest_judge(m, a->s->req.known[HTTP_KNOWN_CONTENT_TYPE])) {
        answer_invalid(a, m);
        return false;
    }
    if (missing.err)
        api_answer_names_error(a, missing.err);
    else if (missing.count)
        answer_missing(a, missing.digest, missing.count);
    return !missing.err && !missing.count;
}

static void body_read(struct api *a, int err)
{
    struct view body = a->s->body;
    if (err == -EFBIG)
        error_answer(a->s, 413, ERROR_SIZE_INVALID, "the manifest is larger than registry.manifest_bytes_max",
                     NULL, nothing);
    else if (err == -EAGAIN)
        error_answer_later(a->s, 429, "registry.manifests_inflight manifests are being received");
    else if (err)
        api_answer_store_error(a, err);
    if (err)
        return;
    store_digest(a->route.by_digest ? a->route.digest.alg : DIGEST_SHA256, body.p, body.len, &a->digest);
    a->size = body.len;
    api_etag(a);
    if (a->route.by_digest && !digest_equal(&a->digest, &a->route.digest)) {
        stream_count(a->s, CTR_DIGEST_MISMATCHES, 1);
        error_answer(a->s, 400, ERROR_DIGEST_INVALID, "the manifest's bytes have another digest", "digest",
                     api_digest_text(a));
        return;
    }
    if (!manifest_check(a))
        return;
    err = api_pin(a);
    if (err) {
        api_answer_store_error(a, err);
        return;
    }
    copies_begin(a);
    if (!copies_need_blob(a, body))
        copies_finish(a, body);
    api_wait_taken(a, blob_write(stream_store(a->s), &a->digest, body.p, body.len, &a->waiter), written);
}

/* ------------------------------------------------------------------ copies of another registry's */

static void copy_written(struct api *a, int err)
{
    if (err) {
        a->put.copied_next(a, CMD_NO_SPACE);
        return;
    }
    struct wire_writer w = command_encode(a);
    holders_put(&w, a->s->ring->plan, NULL);
    api_propose(a, &w, a->put.copied_next);
}

int api_manifest_copy(struct api *a, struct view bytes, struct view content_type, api_step *next)
{
    struct manifest *m = arena_alloc(&a->s->arena, sizeof(*m));
    if (!m)
        return -ENOMEM;
    a->put.manifest = m;
    a->put.tags = (struct view){0};
    a->put.copied = true;
    a->put.copied_next = next;
    a->s->body = bytes;
    a->size = bytes.len;
    api_etag(a);
    if (manifest_read(bytes.p, bytes.len, NULL, NULL, m) || manifest_judge(m, content_type))
        return -EINVAL;
    if (api_pin(a))
        return -ENOMEM;
    api_wait_taken(a, blob_write(stream_store(a->s), &a->digest, bytes.p, bytes.len, &a->waiter),
                   copy_written);
    return 0;
}

/* ------------------------------------------------------------------ the beginning */

/* Collects ?tag= parameters as the list that OCI-Tag will show. False: the answer was sent. */
static bool tags_read(struct api *a)
{
    struct view query = a->s->req.query;
    char tag[TAG_NAME_MAX + 1];
    char *text = NULL;
    size_t len = 0;
    unsigned count = 0;
    ssize_t n;
    while ((n = http_query_take(&query, "tag", tag, sizeof(tag))) != -ENOENT) {
        if (n < 0 || !route_tag_valid(view_of(tag, (size_t)n))) {
            error_answer(a->s, 400, ERROR_TAG_INVALID, "not a tag", "tag",
                         view_of(tag, n < 0 ? 0 : (size_t)n));
            return false;
        }
        if (!text)
            text = arena_alloc(&a->s->arena, TAGS_TEXT_MAX);
        if (!text || ++count > MANIFEST_TAGS_MAX || len + 2 + (size_t)n > TAGS_TEXT_MAX) {
            error_answer(a->s, 414, ERROR_TAG_INVALID, "too many tags for one request", NULL, nothing);
            return false;
        }
        if (len) {
            memcpy(text + len, ", ", 2);
            len += 2;
        }
        memcpy(text + len, tag, (size_t)n);
        len += (size_t)n;
    }
    a->put.tags = view_of(text, len);
    return true;
}

/* The digest that the reference has now. */
static int current(struct api *a)
{
    struct names *n = stream_names(a->s);
    struct names_manifest_record record;
    int err = names_begin(n);
    if (err)
        return err;
    a->digest = a->route.digest;
    if (a->route.by_digest)
        err = names_manifest_get(n, a->route.repo, &a->digest, &record);
    else
        err = names_tag_get(n, a->route.repo, a->route.reference, &a->digest);
    names_end(n);
    return err;
}

/* RFC 9110, 13.1.1 and 13.1.2, for a request that changes something. False: the answer was sent. */
static bool conditions_hold(struct api *a)
{
    const struct http_request *req = &a->s->req;
    bool match = view_present(req->known[HTTP_KNOWN_IF_MATCH]);
    bool none_match = view_present(req->known[HTTP_KNOWN_IF_NONE_MATCH]);
    if (!match && !none_match)
        return true;
    int err = current(a);
    if (err && err != -ENOENT) {
        api_answer_names_error(a, err);
        return false;
    }
    struct view etag = err ? nothing : api_etag(a);
    if ((!match || (!err && http_request_has_etag(req, HTTP_KNOWN_IF_MATCH, etag, false))) &&
        (!none_match || err || !http_request_has_etag(req, HTTP_KNOWN_IF_NONE_MATCH, etag, true)))
        return true;
    stream_response(a->s, 412);
    stream_send(a->s);
    return false;
}

void api_manifest_put(struct api *a)
{
    if (!conditions_hold(a) || !tags_read(a))
        return;
    if (!stream_has_body(a->s))
        error_answer(a->s, 400, ERROR_MANIFEST_INVALID, "the request has no body", NULL, nothing);
    else
        api_body_to_memory(a, stream_setting(a->s, SET_REGISTRY_MANIFEST_BYTES_MAX), body_read);
}
