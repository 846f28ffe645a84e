/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pushing blobs: distribution-spec, end-4a to end-6, end-11, end-13, end-14.
 *
 *   POST                       create -> 202 (session)
 *   POST ?digest=              create -> body -> commit -> link -> 201
 *   POST ?mount=               mount -> 201, or as POST
 *   PATCH                      check out -> (416) -> body -> check in -> 202
 *   PUT ?digest=               check out -> (416) -> body -> commit -> link -> 201
 *   GET                        check out -> check in -> 204
 *   DELETE                     check out -> cancel -> 204
 *
 * A session is checked in before the answer goes out: the client's next request may come on another ring. It
 * survives every error but a digest that does not match, unless the client never heard of it (POST ?digest=).
 * Where another request works on the session the answer is 409 BLOB_UPLOAD_INVALID with Retry-After: the
 * specification has nothing for it, and 416 would make a client believe that its offset is wrong.
 * A session that another node has is that node's to answer for (owner.c). Where that one is away, this node
 * may go on with the upload in a session of its own, whose id the answers say.
 * An empty session's Range is "0-0", as Docker's registry and clients have it: the form cannot say "nothing".
 */
#include "check.h"
#include "dataplane/http/number.h"
#include "dataplane/http/range.h"
#include "dataplane/http/uri.h"
#include "dataplane/registry/api.h"
#include "dataplane/registry/copies.h"
#include "dataplane/registry/heirs.h"

static const struct view nothing;

static void session_made(struct api *a, int err);

/* What is in the session already may be in one of another replica's, too. */
static void receive(struct api *a, api_step *next)
{
    copies_flow(a);
    api_body_to_upload(a, next);
}

/* ------------------------------------------------------------------ pieces */

/* Reads a digest parameter into a->digest. 0, -ENOENT, or -EINVAL: the answer was sent. */
static int digest_parameter(struct api *a, const char *name)
{
    char text[DIGEST_TEXT_MAX];
    ssize_t len = http_query_get(a->s->req.query, name, text, sizeof(text));
    if (len == -ENOENT)
        return -ENOENT;
    int err = len < 0 ? -EINVAL : digest_parse(text, (size_t)len, &a->digest);
    if (err == 0) {
        api_etag(a);
        return 0;
    }
    error_answer(a->s, 400, ERROR_DIGEST_INVALID,
                 err == -ENOTSUP ? "a digest of an algorithm other than sha256 and sha512"
                                 : "the parameter is not a digest",
                 name, view_of(text, len < 0 ? 0 : (size_t)len));
    return -EINVAL;
}

void api_session_fields(struct api *a, struct http_response *res, uint64_t offset)
{
    struct view id = view_of(a->up.id, sizeof(a->up.id));
    char digits[NUMBER_DIGITS_MAX];
    struct view range[] = {VIEW_LIT("0-"), number_write(offset ? offset - 1 : 0, digits)};
    api_location(a, res, "/blobs/uploads/", id);
    http_response_field_parts(res, "Range", range, ARRAY_SIZE(range));
    http_response_field(res, "Docker-Upload-UUID", id);
}

static uint64_t session_release(struct api *a)
{
    copies_end(a);
    uint64_t offset = upload_offset(a->upload);
    upload_checkin(a->upload);
    a->upload = NULL;
    return offset;
}

static void answer_session(struct api *a, int status)
{
    uint64_t offset = session_release(a);
    api_session_fields(a, stream_response(a->s, status), offset);
    stream_send(a->s);
}

static void answer_session_error(struct api *a, int status, enum error_code code, const char *message)
{
    struct error_item item = {code, message, NULL, nothing};
    uint64_t offset = session_release(a);
    api_session_fields(a, error_begin(a->s, status), offset);
    error_send(a->s, &item, 1);
}

static void answer_created(struct api *a)
{
    struct http_response *res = stream_response(a->s, 201);
    api_location(a, res, "/blobs/", api_digest_text(a));
    http_response_field(res, "Docker-Content-Digest", api_digest_text(a));
    stream_send(a->s);
}

/* An error with a session in hand: the store's, or the body's. */
static void give_up(struct api *a, int err)
{
    if (a->up.told) {
        session_release(a);
    } else {
        copies_abandon(a);
        upload_cancel(a->upload, NULL);
        a->upload = NULL;
    }
    api_answer_store_error(a, err);
}

/* ------------------------------------------------------------------ commit */

static void propose_link(struct api *a);

static void linked(struct api *a, int status)
{
    if (api_deleting(a, status, propose_link))
        return;
    if (status != CMD_OK) {
        api_answer_status(a, status);
        return;
    }
    stream_count(a->s, CTR_PUSHES, 1);
    heirs_linked(a);
    answer_created(a);
}

static void propose_link(struct api *a)
{
    struct wire_writer w = api_command(a, CMD_BLOB_LINK);
    wire_put_bytes(&w, a->route.repo.p, a->route.repo.len);
    cmd_put_digest(&w, &a->digest);
    wire_put_u64(&w, a->size);
    copies_put_holders(a, &w);
    api_propose(a, &w, linked);
}

static void copied(struct api *a, int err)
{
    if (err)
        copies_refuse(a);
    else
        propose_link(a);
}

static void committed(struct api *a, int err)
{
    if (err != 0 && err != -EBADMSG) {
        give_up(a, err);
        return;
    }
    a->upload = NULL; /* the commit took it */
    if (err) {
        stream_count(a->s, CTR_DIGEST_MISMATCHES, 1);
        error_answer(a->s, 400, ERROR_DIGEST_INVALID, "the bytes received have another digest than was said",
                     "digest", api_digest_text(a));
        return;
    }
    copies_wait(a, copied);
}

/* The body, if there was one, is in the session. */
static void received_all(struct api *a, int err)
{
    if (err) {
        give_up(a, err);
        return;
    }
    a->size = upload_offset(a->upload);
    err = api_pin(a);
    if (err) {
        give_up(a, err);
        return;
    }
    copies_finish(a, nothing);
    api_wait_taken(a, upload_commit(a->upload, &a->digest, &a->waiter), committed);
}

/* ------------------------------------------------------------------ POST */

static bool algorithm_parameter(struct api *a)
{
    char text[16];
    ssize_t len = http_query_get(a->s->req.query, "digest-algorithm", text, sizeof(text));
    struct view name = view_of(text, len < 0 ? 0 : (size_t)len);
    if (len == -ENOENT || view_lit(name, "sha256"))
        a->up.alg = DIGEST_SHA256;
    else if (view_lit(name, "sha512"))
        a->up.alg = DIGEST_SHA512;
    else
        error_answer(a->s, 400, ERROR_DIGEST_INVALID, "the algorithms known are sha256 and sha512",
                     "digest-algorithm", name);
    return a->up.alg != DIGEST_NONE;
}

static void session_start(struct api *a)
{
    int err = digest_parameter(a, "digest");
    if (err == -EINVAL || !algorithm_parameter(a))
        return;
    a->up.commit = err == 0;
    if (a->up.commit)
        a->up.alg = a->digest.alg;
    api_wait(a,
             upload_create(stream_store(a->s), a->route.repo.p, a->route.repo.len, a->up.alg, &a->upload,
                           &a->waiter),
             session_made);
}

static void session_made(struct api *a, int err)
{
    if (err == -EMFILE) {
        error_answer_later(a->s, 429, "registry.uploads_max upload sessions are open");
        return;
    }
    if (err) {
        api_answer_store_error(a, err);
        return;
    }
    memcpy(a->up.id, upload_id(a->upload), sizeof(a->up.id));
    if (a->up.commit)
        copies_begin(a);
    if (!a->up.commit)
        answer_session(a, 202);
    else if (stream_has_body(a->s))
        receive(a, received_all);
    else
        received_all(a, 0);
}

/* ------------------------------------------------------------------ mount */

static void mounted(struct api *a, int status)
{
    if (status == CMD_OK) {
        stream_count(a->s, CTR_MOUNTS, 1);
        answer_created(a);
    } else if (status == CMD_BLOB_UNKNOWN || status == CMD_REPO_UNKNOWN) {
        session_start(a);
    } else {
        api_answer_status(a, status);
    }
}

/* Looks whether the blob can be mounted. 1: it is in this repository already; 0: yes; else not, or an error.
 * What no replica holds any more has to be uploaded again; a mark of the garbage collection is taken away by
 * the mount. */
static int mount_find(struct api *a, struct view from)
{
    struct names *n = stream_names(a->s);
    struct names_link link;
    struct names_blob blob;
    struct names_mark mark;
    int err = names_begin(n);
    if (err)
        return err;
    err = names_blob_get(n, &a->digest, &blob);
    if (err == 0 && !api_is_held(a, &blob))
        err = -ENOENT;
    else if (err == 0 && names_link_get(n, a->route.repo, &a->digest, &link) == 0)
        err = names_mark_get(n, a->route.repo, NAMES_MARK_LINK, &a->digest, &mark) != 0;
    else if (err == 0 && from.len)
        err = names_link_get(n, from, &a->digest, &link);
    names_end(n);
    return err;
}

/*
 * What cannot be mounted is no error: the client gets a session and uploads. So it is, too, with a source
 * that is not a name (some clients name another registry's repository) or may not be read.
 */
static void mount(struct api *a)
{
    char text[REPO_NAME_MAX];
    ssize_t len = http_query_get(a->s->req.query, "from", text, sizeof(text));
    struct view from = view_of(text, len < 0 ? 0 : (size_t)len);
    bool anonymous = len == -ENOENT || len == 0;
    if ((!anonymous && !route_name_valid(from)) ||
        !api_allowed(a, AUTHORIZE_PULL, anonymous ? nothing : from)) {
        session_start(a);
        return;
    }
    int found = mount_find(a, from);
    if (found == 1) {
        answer_created(a);
        return;
    }
    if (found) {
        session_start(a);
        return;
    }
    struct wire_writer w = api_command(a, CMD_BLOB_MOUNT);
    wire_put_bytes(&w, a->route.repo.p, a->route.repo.len);
    cmd_put_digest(&w, &a->digest);
    wire_put_bytes(&w, from.p, from.len);
    api_propose(a, &w, mounted);
}

void api_upload_start(struct api *a)
{
    int err = digest_parameter(a, "mount");
    if (err == 0)
        mount(a);
    else if (err == -ENOENT)
        session_start(a);
}

/* ------------------------------------------------------------------ an existing session */

static void check_out(struct api *a, api_step *next)
{
    struct view id = a->route.reference;
    uint64_t node;
    a->up.told = true;
    if (!upload_id_node(id.p, id.len, &node)) {
        next(a, -ENOENT);
        return;
    }
    if (api_session_relay(a, node)) /* the call is over */
        return;
    api_wait(a,
             upload_checkout(stream_store(a->s), id.p, id.len, a->route.repo.p, a->route.repo.len, &a->upload,
                             &a->waiter),
             next);
}

void api_session_busy(struct api *a)
{
    struct error_item busy = {ERROR_BLOB_UPLOAD_INVALID, "another request is at work on this upload session",
                              "upload", a->route.reference};
    http_response_field_u64(error_begin(a->s, 409), "Retry-After", 1);
    error_send(a->s, &busy, 1);
}

/* False if there is no session to go on with: the answer was sent. Its id may be another one than was asked
 * for: the answer says it. */
static bool checked_out(struct api *a, int err)
{
    if (err == 0) {
        memcpy(a->up.id, upload_id(a->upload), sizeof(a->up.id));
        heirs_adopted(a);
        return true;
    }
    if (err == -ENOENT)
        error_answer(a->s, 404, ERROR_BLOB_UPLOAD_UNKNOWN, "the repository has no such upload session",
                     "upload", a->route.reference);
    else if (err == -EBUSY)
        api_session_busy(a);
    else
        api_answer_store_error(a, err);
    return false;
}

/* Reads Content-Range, if the request has a body. False if it is malformed: the answer was sent. */
static bool chunk_range(struct api *a)
{
    const struct http_request *req = &a->s->req;
    struct view field = req->known[HTTP_KNOWN_CONTENT_RANGE];
    if (!view_present(field) || !stream_has_body(a->s))
        return true;
    a->up.ranged = true;
    if (http_content_range_read(field, &a->up.first, &a->up.last)) {
        error_answer(a->s, 400, ERROR_BLOB_UPLOAD_INVALID, "Content-Range is not of the form first-last",
                     "content-range", field);
        return false;
    }
    if (req->framing == HTTP_BODY_LENGTH && req->content_length != a->up.last - a->up.first + 1) {
        error_answer(a->s, 400, ERROR_SIZE_INVALID, "Content-Range and Content-Length do not agree",
                     "content-range", field);
        return false;
    }
    return true;
}

/* Whether the client asked for this session, and not for another replica's in whose place it is. */
static bool session_known(const struct api *a)
{
    return view_eq(a->route.reference, view_of(a->up.id, sizeof(a->up.id)));
}

/* Whether the chunk follows what the session has. If not: 416 with what it has; it lives on. So is it where
 * the client knows another replica's session, which may have had more, and does not say where its bytes
 * belong. */
static bool chunk_in_order(struct api *a)
{
    bool known = session_known(a);
    if (a->up.ranged ? a->up.first == upload_offset(a->upload) : known || !stream_has_body(a->s))
        return true;
    answer_session_error(a, 416, ERROR_BLOB_UPLOAD_INVALID,
                         known || a->up.ranged
                             ? "the chunk does not begin where the session's bytes end (see Range)"
                             : "the session's replica is away: go on from where this one's ends (see Range)");
    return false;
}

static bool chunk_complete(const struct api *a)
{
    return !a->up.ranged || upload_offset(a->upload) == a->up.last + 1;
}

static void patch_rested(struct api *a, int err)
{
    (void)err;
    if (!chunk_complete(a))
        answer_session_error(a, 416, ERROR_SIZE_INVALID, "the chunk was not as long as Content-Range said");
    else
        answer_session(a, 202);
}

static void patched(struct api *a, int err)
{
    if (err)
        give_up(a, err);
    else
        copies_rest(a, patch_rested);
}

static void patch_checked_out(struct api *a, int err)
{
    if (!checked_out(a, err) || !chunk_in_order(a))
        return;
    copies_begin(a);
    if (stream_has_body(a->s))
        receive(a, patched);
    else
        patched(a, 0);
}

void api_upload_patch(struct api *a)
{
    if (chunk_range(a))
        check_out(a, patch_checked_out);
}

static void put_received(struct api *a, int err)
{
    if (err == 0 && !chunk_complete(a))
        answer_session_error(a, 416, ERROR_SIZE_INVALID, "the chunk was not as long as Content-Range said");
    else
        received_all(a, err);
}

/* A commit of other bytes would end the session, of which some may only be missing. Where the hash would have
 * to be made again nobody knows, and the client is to look, too. */
static bool put_complete(struct api *a)
{
    if (session_known(a) || stream_has_body(a->s) || upload_is(a->upload, &a->digest))
        return true;
    answer_session_error(a, 416, ERROR_BLOB_UPLOAD_INVALID,
                         "the session's replica is away: this one may not have all bytes (see Range)");
    return false;
}

static void put_checked_out(struct api *a, int err)
{
    if (!checked_out(a, err) || !chunk_in_order(a) || !put_complete(a))
        return;
    copies_begin(a);
    if (stream_has_body(a->s))
        receive(a, put_received);
    else
        received_all(a, 0);
}

void api_upload_put(struct api *a)
{
    int err = digest_parameter(a, "digest");
    if (err == -ENOENT)
        error_answer(a->s, 400, ERROR_DIGEST_INVALID, "the digest parameter is missing", NULL, nothing);
    else if (err == 0 && chunk_range(a))
        check_out(a, put_checked_out);
}

static void status_checked_out(struct api *a, int err)
{
    if (checked_out(a, err))
        answer_session(a, 204);
}

void api_upload_status(struct api *a)
{
    check_out(a, status_checked_out);
}

static void cancelled(struct api *a, int err)
{
    if (err) {
        api_answer_store_error(a, err);
        return;
    }
    stream_response(a->s, 204);
    stream_send(a->s);
}

static void cancel_checked_out(struct api *a, int err)
{
    if (!checked_out(a, err))
        return;
    struct upload *u = a->upload;
    copies_abandon(a);
    a->upload = NULL;
    api_wait_taken(a, upload_cancel(u, &a->waiter), cancelled);
}

void api_upload_cancel(struct api *a)
{
    check_out(a, cancel_checked_out);
}
