/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One call of the registry's API: what its endpoints share. Private to the registry.
 *
 * An endpoint is a chain of steps. A step either answers (and the call is over), or orders something and
 * names the step that follows: api_wait for the store, api_propose for control, api_body for the request's
 * body. What a call holds (a blob, an upload session) stands in it and is given back by the handler's end.
 */
#ifndef FL_REGISTRY_API_H
#define FL_REGISTRY_API_H

#include <errno.h>

#include "cmd.h"
#include "dataplane/authorize.h"
#include "dataplane/link.h"
#include "dataplane/http/range.h"
#include "dataplane/registry/error.h"
#include "dataplane/registry/route.h"
#include "dataplane/store/names.h"
#include "dataplane/store/store.h"
#include "dataplane/stream.h"

struct api;
struct copies;
struct elsewhere;
struct keep;
struct manifest;

/* res: 0 or -errno from the store and the body, enum cmd_status from control. */
typedef void api_step(struct api *a, int res);

struct api {
    struct stream *s;
    struct route route;
    struct waiter waiter;           /* for the store */
    api_step *next;                 /* after the waiter, the proposal or the body */
    struct blob *blob;              /* held: given back at the end */
    struct upload *upload;          /* held: checked in at the end */
    bool relayed;                   /* by another replica, which has looked whether it is allowed */
    bool heir;                      /* the session's node is away: this node goes on with it */
    const char *relayed_for;        /* the client's address there, if it is known */
    struct elsewhere *elsewhere;    /* of what is not in this node's store; in the arena */
    struct copies *copies;          /* that are being made on other replicas; NULL: none */
    struct keep *keep;              /* for another replica; in the arena */
    struct digest digest;           /* of the object that the call is about, once known */
    struct blob_pin *pin;           /* held: of the blob that is being pushed */
    void (*again)(struct api *a);   /* proposes its link once more */
    uint8_t keeps;                  /* how often that was needed */
    uint64_t size;                  /* bytes of that object */
    char etag[DIGEST_TEXT_MAX + 3]; /* api_etag: the digest in quotes */
    size_t etag_len;
    union {
        struct proposal proposal;              /* of writes */
        struct names_manifest_record manifest; /* of reads */
    };
    union {
        struct {
            bool told;            /* the client knows the session's id: it survives an error */
            bool commit;          /* POST: with digest and body */
            bool ranged;          /* there is a Content-Range */
            uint8_t alg;          /* hint for the running hash */
            uint64_t first, last; /* of Content-Range */
            char id[UPLOAD_ID_LEN];
            uint64_t origin; /* whose session goes on here, and was not left yet; 0: nobody's */
        } up;
        struct {
            struct manifest *manifest; /* what the body says */
            struct view tags;          /* of ?tag=, as OCI-Tag shows them: "a, b" */
            bool copied;               /* a copy of another registry's: nothing that it names need be here */
            api_step *copied_next;
        } put;
        struct {
            struct view type;          /* the filter, decoded; absent without one */
            struct digest after, last; /* borders of the page: exclusive, inclusive */
            struct digest part;        /* whose descriptor is being written */
            bool has_after, has_last;
            bool begun, any;
            uint64_t offset; /* bytes of that which were written already */
        } referrers;
        struct {
            struct view after, last; /* the page is what is between: after exclusive, last inclusive */
            char *mark;              /* holds after */
            bool begun, any;
        } list;
    };
};

/* ------------------------------------------------------------------ steps */

/* Goes on with next: now if res is final, later (by a->waiter) if it is -EINPROGRESS. */
void api_wait(struct api *a, int res, api_step *next);

/* The same for store calls that answer 0 for "taken, the waiter will be woken". */
void api_wait_taken(struct api *a, int res, api_step *next);

/* Sends a command; next gets an enum cmd_status. */
void api_propose(struct api *a, const struct wire_writer *cmd, api_step *next);

/* Begins a command in the ring's scratch memory: its head is written. */
struct wire_writer api_command(struct api *a, enum cmd_type type);

/* The blob that is about to be published (a->digest) is not removed before the call ends. -EAGAIN: too many
 * at once. */
int api_pin(struct api *a);

/* The proposal that links a->digest was answered. True: its files are being removed, so it was proposed that
 * it stays; again() then proposes the link once more. False: the status says something else. */
bool api_deleting(struct api *a, int status, void (*again)(struct api *a));

/* Reads the body into the session that the call holds. */
void api_body_to_upload(struct api *a, api_step *next);
void api_body_to_memory(struct api *a, size_t max, api_step *next);

/* ------------------------------------------------------------------ answers */

/* What all outcomes that are not a success of their own have in common: store errors and statuses of control.
 */
void api_answer_store_error(struct api *a, int err);
void api_answer_status(struct api *a, int status);

/* The step after a proposal that deletes: 202, or what the status says. */
void api_answer_deleted(struct api *a, int status);

/* Errors of the names file other than -ENOENT. */
void api_answer_names_error(struct api *a, int err);

/* 404. Also where the repository itself is unknown: clients look for the code of what they asked for. */
void api_answer_unknown(struct api *a, enum error_code what, const char *message, const char *key);

/* Fills etag from digest; the result is the entity tag, or the digest's text without the quotes. */
struct view api_etag(struct api *a);
struct view api_digest_text(const struct api *a);

/* Location: /v2/<repo>/<middle><last>. */
void api_location(struct api *a, struct http_response *res, const char *middle, struct view last);

/*
 * Evaluates If-Match and If-None-Match (RFC 9110, 13.2.2) for a GET or HEAD against a->etag. True if the
 * answer (412 or 304) was sent.
 */
bool api_answer_conditions(struct api *a);

/* Digests are never given other content, so whoever has an answer need not ask again. No "public": with
 * access control, shared caches then keep out of answers to requests with credentials (RFC 9111, 3.5). */
void api_cache_forever(struct http_response *res);

/* ------------------------------------------------------------------ endpoints */

void api_base(struct api *a);
void api_blob_read(struct api *a);
void api_blob_delete(struct api *a);
void api_upload_start(struct api *a);
void api_upload_patch(struct api *a);
void api_upload_put(struct api *a);
void api_upload_status(struct api *a);
void api_upload_cancel(struct api *a);
void api_manifest_read(struct api *a);
void api_manifest_put(struct api *a);
void api_manifest_delete(struct api *a);
void api_tags(struct api *a);
void api_catalog(struct api *a);
void api_referrers(struct api *a);

/* Whether the garbage collection is about to take a->digest, and whoever asks had better bring it again.
 * Between names_begin and names_end. kind: enum names_mark_kind. */
bool api_is_going(struct api *a, uint8_t kind);

/* Whether any repository has the blob: 0, with its size in a->size, else 0 there. -ENOENT, -errno (names.h).
 */
int api_blob_known(struct api *a);

/* registry.c: a call about an upload session that another replica relays. */
void api_relayed(struct api *a);
/* The stream's call once more, from another handler; NULL: the answer was sent. api_call begins its endpoint:
 * it was allowed before. */
struct api *api_again(struct stream *s);
void api_call(struct api *a);

/* upload.c: Location, Range and the identifier that older Docker clients read. */
void api_session_fields(struct api *a, struct http_response *res, uint64_t offset);
/* The answer while another request works on the session. */
void api_session_busy(struct api *a);

/* owner.c: true: the session is another replica's, which answers; the call and its memory are gone. */
bool api_session_relay(struct api *a, uint64_t node);

/* Whether an error of blob_open means that this node's store does not have it, or not any more: it is
 * missing, damaged, or its disk cannot read it. */
static inline bool api_blob_is_elsewhere(int err)
{
    return err == -ENOENT || err == -EBADMSG || err == -EIO;
}

/* elsewhere.c: whether one of the replicas that the names say hold the blob is still one. */
bool api_is_held(struct api *a, const struct names_blob *blob);

/* elsewhere.c: a linked blob whose file is not here; a blob that is not linked. False: no source of it is
 * known, and nothing was answered. */
bool api_blob_fetch(struct api *a);
bool api_blob_unlinked(struct api *a);
bool api_manifest_fetch(struct api *a); /* as api_blob_fetch */

/* copy.c: a manifest that is not here, or a tag that has to be asked for again. False: there is no source, or
 * what is here (found) counts. Else the call was taken over; it comes back to api_manifest_read. */
bool api_manifest_elsewhere(struct api *a, bool found);
/* What became of that: the manifest is served though its source could not be asked; false: it is current. */
bool api_manifest_stale(const struct api *a);
/* False: there is nothing to be served; the answer was sent. */
bool api_manifest_settled(struct api *a, bool found);

/* manifest_put.c: makes bytes, whose digest is a->digest, a manifest of the call's repository, and its
 * reference a tag of it. next gets an enum cmd_status. Borrows bytes until then. -EINVAL: it is no manifest;
 * -ENOMEM. */
int api_manifest_copy(struct api *a, struct view bytes, struct view content_type, api_step *next);

/* policy.c: whether policies let it go on, as far as can be said before its body is read. False: the answer
 * was sent. */
bool api_policy_allows(struct api *a, enum authorize_action action);
/* The answer to an upload that grew over stream.upload_max; false. */
bool api_answer_no_room(struct api *a);

/* Whether the call's repository is no copy of another registry's. False: the answer was sent. */
bool api_push_allowed(struct api *a);

/* blob.c: the part that the client wants, and the head of the answer that goes with it. */
struct http_range api_blob_range(const struct api *a);
struct http_response *api_blob_head(struct api *a);
struct http_response *api_manifest_head(struct api *a, struct view media_type); /* manifest.c */

/* blob.c: what the call gives (a->digest, a->size) is told to webhooks that want to know of it. */
void api_note_pull(struct api *a, struct view media_type, bool blob);

/* registry.c: for other handlers. A call, or NULL: the answer was sent. */
struct api *api_new(struct stream *s);
void api_body_done(struct stream *s, int err);
void api_end(struct stream *s);

/* Whether the caller may do that to another repository than the call's own (mount); absent: any repository.
 */
bool api_allowed(struct api *a, enum authorize_action action, struct view repo);

#endif
