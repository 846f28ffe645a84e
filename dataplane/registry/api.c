/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/registry/api.h"

#include "check.h"
#include "dataplane/http/range.h"

/* ------------------------------------------------------------------ steps */

void api_wait(struct api *a, int res, api_step *next)
{
    a->next = next;
    if (res != -EINPROGRESS)
        next(a, res);
}

void api_wait_taken(struct api *a, int res, api_step *next)
{
    api_wait(a, res == 0 ? -EINPROGRESS : res, next);
}

static void proposal_wake(struct waiter *w, int res)
{
    struct api *a = container_of(w, struct api, proposal.waiter);
    stream_count(a->s, res == CMD_OK ? CTR_COMMITS : CTR_COMMITS_FAILED, 1);
    a->next(a, res);
}

struct wire_writer api_command(struct api *a, enum cmd_type type)
{
    char id[STREAM_ID_TEXT];
    stream_id_text(a->s, id);
    struct wire_writer w = {.buf = stream_scratch(a->s), .cap = COMMAND_BYTES_MAX};
    struct cmd_head head = {.type = (uint16_t)type,
                            .actor = "anonymous",
                            .actor_len = 9,
                            .source = a->relayed_for ? a->relayed_for : stream_peer(a->s),
                            .request_id = id,
                            .request_id_len = sizeof(id)};
    head.source_len = strlen(head.source);
    cmd_put_head(&w, &head);
    return w;
}

void api_propose(struct api *a, const struct wire_writer *cmd, api_step *next)
{
    a->next = next;
    a->proposal.waiter.wake = proposal_wake;
    a->proposal.deadline_ms = stream_now_ms(a->s) + stream_setting(a->s, SET_REGISTRY_COMMIT_TIMEOUT);
    int err =
        cmd->failed ? -EMSGSIZE : channel_propose(stream_channel(a->s), &a->proposal, cmd->buf, cmd->len);
    if (err == 0)
        return;
    stream_count(a->s, CTR_COMMITS_FAILED, 1);
    next(a, err == -EMSGSIZE ? CMD_TOO_LARGE : CMD_NO_LEADER);
}

int api_pin(struct api *a)
{
    if (!a->pin)
        a->pin = blob_pin(stream_store(a->s), &a->digest);
    return a->pin ? 0 : -EAGAIN;
}

static void kept(struct api *a, int status)
{
    if (status == CMD_OK)
        a->again(a);
    else
        api_answer_status(a, status);
}

bool api_deleting(struct api *a, int status, void (*again)(struct api *a))
{
    enum { KEEPS_MAX = 3 };
    if (status != CMD_BLOB_DELETING || a->keeps++ >= KEEPS_MAX)
        return false;
    struct wire_writer w = api_command(a, CMD_GC_KEEP);
    cmd_put_digest(&w, &a->digest);
    a->again = again;
    api_propose(a, &w, kept);
    return true;
}

void api_body_to_upload(struct api *a, api_step *next)
{
    a->next = next;
    int err = stream_body_to_upload(a->s, a->upload);
    if (err)
        next(a, err);
}

void api_body_to_memory(struct api *a, size_t max, api_step *next)
{
    a->next = next;
    int err = stream_body_to_memory(a->s, max);
    if (err)
        next(a, err);
}

/* ------------------------------------------------------------------ answers that are no success */

static const struct view nothing;

/* Control has seen that what stands in the store's place is not this node's store. */
static bool store_is_gone(const struct api *a)
{
    const struct control_counters *c = &stream_counters(a->s)->control;
    uint64_t disk = atomic_load_explicit(&c->store_disk, memory_order_relaxed);
    return disk == DISK_MISSING || disk == DISK_OTHER;
}

static void answer_no_room(struct api *a)
{
    if (store_is_gone(a))
        error_answer_later(a->s, 503, "the disk of this node's store is not there; it takes nothing");
    else
        error_answer(a->s, 507, ERROR_UNAVAILABLE, "the store has no room left", NULL, nothing);
}

void api_answer_store_error(struct api *a, int err)
{
    switch (err) {
    case -ENOSPC:
        answer_no_room(a);
        break;
    case -EFBIG:
        if (a->s->upload_max && a->s->upload_max < stream_setting(a->s, SET_REGISTRY_BLOB_BYTES_MAX)) {
            (void)api_answer_no_room(a);
            break;
        }
        error_answer(a->s, 413, ERROR_SIZE_INVALID, "larger than registry.blob_bytes_max", NULL, nothing);
        break;
    case -EAGAIN:
        error_answer_later(a->s, 429, "too many requests of this kind at once");
        break;
    case -EMFILE:
    case -ENOMEM:
        error_answer_later(a->s, 503, "the store has too many files in use just now");
        break;
    case -ECONNRESET: /* nobody is there to read it */
        error_answer(a->s, 400, ERROR_SIZE_INVALID, "the request body did not come", NULL, nothing);
        break;
    default:
        error_answer(a->s, 500, ERROR_UNKNOWN, "the store cannot read or write its files", NULL, nothing);
        break;
    }
}

void api_answer_status(struct api *a, int status)
{
    struct view text = {(const char *)a->proposal.detail, a->proposal.detail_len};
    switch (status) {
    case CMD_NO_LEADER:
        error_answer_later(a->s, 503, "no leader takes writes just now; nothing was changed");
        break;
    case CMD_UNKNOWN_OUTCOME:
        error_answer_later(a->s, 503, "the write was not confirmed in time; it may or may not have happened");
        break;
    case CMD_NO_SPACE:
        error_answer(a->s, 507, ERROR_UNAVAILABLE, "the registry's state has no room left", NULL, nothing);
        break;
    case CMD_BLOB_DELETING:
        error_answer_later(a->s, 503, "the blob is being deleted just now; nothing was changed");
        break;
    case CMD_BUSY:
        error_answer_later(a->s, 503, "too many writes wait already; nothing was changed");
        break;
    case CMD_TOO_LARGE:
        error_answer(a->s, 413, ERROR_SIZE_INVALID, "too large to be recorded", NULL, nothing);
        break;
    case CMD_DENIED:
        stream_count(a->s, CTR_POLICY_DENIALS, 1);
        error_answer(a->s, 403, ERROR_DENIED, "refused by a policy", NULL, text);
        break;
    case CMD_REPO_UNKNOWN:
        error_answer(a->s, 404, ERROR_NAME_UNKNOWN, "no such repository", "name", a->route.repo);
        break;
    case CMD_BLOB_UNKNOWN:
        error_answer(a->s, 404, ERROR_BLOB_UNKNOWN, "the repository has no such blob", "digest",
                     api_digest_text(a));
        break;
    case CMD_MANIFEST_UNKNOWN:
    case CMD_TAG_UNKNOWN:
        error_answer(a->s, 404, ERROR_MANIFEST_UNKNOWN, "the repository has no such manifest", "reference",
                     a->route.reference);
        break;
    default:
        error_answer(a->s, 400, ERROR_UNSUPPORTED, "the write was refused", NULL, text);
        break;
    }
}

void api_answer_deleted(struct api *a, int status)
{
    if (status != CMD_OK) {
        api_answer_status(a, status);
        return;
    }
    stream_count(a->s, CTR_DELETES, 1);
    stream_response(a->s, 202);
    stream_send(a->s);
}

void api_answer_names_error(struct api *a, int err)
{
    if (err == -EAGAIN)
        error_answer_later(a->s, 503, "the names are being written too fast to be read");
    else
        error_answer(a->s, 500, ERROR_UNKNOWN, "the names file cannot be read", NULL, nothing);
}

void api_answer_unknown(struct api *a, enum error_code what, const char *message, const char *key)
{
    error_answer(a->s, 404, what, message, key, a->route.reference);
}

/* ------------------------------------------------------------------ pieces of answers */

struct view api_etag(struct api *a)
{
    a->etag[0] = '"';
    a->etag_len = 2 + digest_format(&a->digest, a->etag + 1);
    a->etag[a->etag_len - 1] = '"';
    return view_of(a->etag, a->etag_len);
}

struct view api_digest_text(const struct api *a)
{
    CHECK(a->etag_len > 2);
    return view_of(a->etag + 1, a->etag_len - 2);
}

void api_location(struct api *a, struct http_response *res, const char *middle, struct view last)
{
    struct view parts[] = {VIEW_LIT("/v2/"), a->route.repo, view_of_str(middle), last};
    http_response_field_parts(res, "Location", parts, ARRAY_SIZE(parts));
}

void api_cache_forever(struct http_response *res)
{
    http_response_field(res, "Cache-Control", VIEW_LIT("max-age=31536000, immutable"));
}

bool api_answer_conditions(struct api *a)
{
    const struct http_request *req = &a->s->req;
    struct view etag = view_of(a->etag, a->etag_len);
    if (view_present(req->known[HTTP_KNOWN_IF_MATCH]) &&
        !http_request_has_etag(req, HTTP_KNOWN_IF_MATCH, etag, false)) {
        stream_response(a->s, 412);
        stream_send(a->s);
        return true;
    }
    if (!view_present(req->known[HTTP_KNOWN_IF_NONE_MATCH]) ||
        !http_request_has_etag(req, HTTP_KNOWN_IF_NONE_MATCH, etag, true))
        return false;
    struct http_response *res = stream_response(a->s, 304);
    http_response_field(res, "ETag", etag);
    http_response_field(res, "Docker-Content-Digest", api_digest_text(a));
    stream_send(a->s);
    return true;
}

bool api_is_going(struct api *a, uint8_t kind)
{
    struct names_mark mark;
    return names_mark_get(stream_names(a->s), a->route.repo, kind, &a->digest, &mark) == 0 &&
           mark.step == NAMES_MARK_GOING;
}
