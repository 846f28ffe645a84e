/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Blobs that are not in this node's store: those that the names link come from a source (peers, or the
 * registry behind the repository's prefix); those that they do not link may be known to that registry.
 *
 *   linked, GET                   read along with a fetch (fetch/serve)
 *   linked, HEAD                  from the names, if a source has it. If no replica that can be asked has:
 * 404, so that a client which asks before it pushes pushes it again (a GET is 503 then) not linked, HEAD the
 * registry is asked not linked, GET               fetched, and linked when it is here; if it is here already,
 * for another repository, the registry has to say that this one has it, too
 */
#include "check.h"
#include "dataplane/registry/api.h"
#include "dataplane/registry/elsewhere.h"
#include "dataplane/ring.h"
#include "dataplane/http/response_reader.h"

/* ------------------------------------------------------------------ the handler */

static void no_begin(struct stream *s)
{
    (void)s;
    IMPOSSIBLE("it has begun");
}

static void release(struct elsewhere *e)
{
    question_end(&e->question, QUESTION_DROPPED, false);
    question_forgive(&e->question);
    e->asking = false;
    stream_release_hold(e->a->s);
}

static void abort_call(struct stream *s)
{
    struct api *a = s->ctx;
    struct elsewhere *e = a->elsewhere;
    if (e->serving) {
        serve_abort(&e->serve);
    } else if (e->asking && !e->collecting) {
        release(e);
        api_copy_abort(e);
        (void)stream_response(s, 499);
        stream_send(s);
    } else {
        api_copy_abort(e);
    }
}

static void end_call(struct stream *s)
{
    struct api *a = s->ctx;
    api_copy_end(a->elsewhere);
    api_end(s);
}

static const struct handler handler = {"registry", no_begin, api_body_done, end_call, abort_call};

bool api_elsewhere(struct api *a)
{
    struct elsewhere *e = a->elsewhere ? a->elsewhere : arena_zalloc(&a->s->arena, sizeof(*e));
    if (!e) {
        error_answer_later(a->s, 503, "no memory for another request");
        return false;
    }
    a->elsewhere = e;
    e->a = a;
    a->s->handler = &handler;
    return true;
}

/* ------------------------------------------------------------------ questions */

static void asked(struct question *q, enum question_end end)
{
    struct elsewhere *e = q->arg;
    e->answered(e, end);
}

void api_ask_source(struct elsewhere *e, void (*answered)(struct elsewhere *e, enum question_end end))
{
    struct question *q = &e->question;
    struct stream *s = e->a->s;
    q->ring = s->ring;
    q->done = asked;
    q->arg = e;
    e->answered = answered;
    e->asking = true;
    stream_hold(s);
    if (!stream_has_body(s))
        stream_watch(s, true);
    question_ask(q);
}

void api_source_done(struct elsewhere *e)
{
    release(e);
}

void api_refuse_fault(struct api *a, enum fetch_fault fault)
{
    static const struct {
        int status;
        const char *text;
    } faults[] = {
        [FETCH_FINE] = {500, "the blob could not be fetched"},
        [FETCH_NOT_THERE] = {404, "its bytes are not in this node's store, and no source has them"},
        [FETCH_NO_SOURCE] = {502, "the source cannot be reached, or cannot answer now"},
        [FETCH_TIMEOUT] = {504, "the source did not answer in time"},
        [FETCH_REFUSED] = {502, "the source refuses: it wants credentials that it was not given"},
        [FETCH_AWAY] = {502,
                        "the source sends its clients elsewhere for it, and there this node is not let in: "
                        "credentials are for the source alone"},
        [FETCH_BAD_ANSWER] = {502, "the source's answer is not what was asked for"},
        [FETCH_CUT] = {502, "the source stopped in the middle"},
        [FETCH_SPOILT] = {502, "what the source sends has another digest"},
        [FETCH_NOT_KEPT] = {503, "the store cannot take it now"},
        [FETCH_GIVEN_UP] = {503, "it was given up"},
    };
    enum error_code code = faults[fault].status == 404
                               ? a->route.endpoint == ROUTE_BLOB ? ERROR_BLOB_UNKNOWN : ERROR_MANIFEST_UNKNOWN
                               : ERROR_UNAVAILABLE;
    error_answer(a->s, faults[fault].status, code, faults[fault].text, "reference", a->route.reference);
}

/* ------------------------------------------------------------------ a blob's bytes */

static struct http_response *serve_head(struct stream *s, uint64_t size)
{
    struct api *a = s->ctx;
    a->size = size;
    if (a->elsewhere->serve.order.sources.manifest)
        return api_manifest_head(a, view_of(a->manifest.media_type, a->manifest.media_type_len));
    stream_count(s, CTR_PULLS, 1);
    return api_blob_head(a);
}

static void serve_head_out(struct stream *s)
{
    struct api *a = s->ctx;
    serve_ready(&a->elsewhere->serve);
}

static void serve_refuse(struct stream *s, enum fetch_fault fault)
{
    struct api *a = s->ctx;
    const struct serve_order *o = &a->elsewhere->serve.order;
    /* The cluster has it, so it is not unknown: whoever holds it is away. */
    if (fault == FETCH_NOT_THERE && !o->link && o->sources.list[0].kind == PLAN_SOURCE_PEERS)
        error_answer_later(s, 503, "none of the replicas that can be asked now has its bytes");
    else
        api_refuse_fault(a, fault);
}

static void serve(struct api *a, bool link)
{
    struct elsewhere *e = a->elsewhere;
    struct serve_order *o = &e->serve.order;
    struct http_range range = {.kind = HTTP_RANGE_FULL};
    if (!link && !o->sources.manifest)
        range = api_blob_range(a);
    o->digest = a->digest;
    o->size = link ? FETCH_SIZE_UNKNOWN : a->size;
    o->repo = a->route.repo;
    o->link = link;
    o->part = range.kind == HTTP_RANGE_PART && (range.first > 0 || range.last + 1 < a->size);
    o->first = range.first;
    o->end = range.last + 1;
    if (!o->part) /* a part that is all of it, or of something whose size nobody knows yet: all of it */
        a->s->req.known[HTTP_KNOWN_RANGE] = (struct view){0};
    o->head = serve_head;
    o->head_out = serve_head_out;
    o->refuse = serve_refuse;
    e->serving = true;
    serve_begin(&e->serve, a->s);
}

static void answer_head(struct api *a, bool manifest)
{
    if (manifest)
        (void)api_manifest_head(a, view_of(a->manifest.media_type, a->manifest.media_type_len));
    else
        (void)api_blob_head(a);
    stream_send_length(a->s, a->size);
}

static void peers_answered(struct elsewhere *e, enum question_end end)
{
    struct api *a = e->a;
    bool good = end == QUESTION_ANSWERED && e->question.answer->status == 200;
    bool manifest = a->route.endpoint == ROUTE_MANIFEST;
    question_end(&e->question, good ? QUESTION_GOOD : QUESTION_DROPPED,
                 good && e->question.answer->keep_alive);
    api_source_done(e);
    if (good)
        answer_head(a, manifest);
    else
        api_answer_unknown(a, manifest ? ERROR_MANIFEST_UNKNOWN : ERROR_BLOB_UNKNOWN,
                           "no replica that can be asked now has its bytes", "reference");
}

/* What a registry behind the repository has can be fetched again; of what only replicas may have, they know.
 */
static void head(struct api *a, const struct fetch_sources *sources)
{
    if (sources->list[sources->count - 1].kind != PLAN_SOURCE_PEERS) {
        answer_head(a, sources->manifest);
        return;
    }
    if (!api_elsewhere(a))
        return;
    struct question *q = &a->elsewhere->question;
    q->service = sources->list[0].service;
    q->method = HTTP_HEAD;
    q->not_found_passes = true;
    q->path_len = sources->list[0].path_len;
    memcpy(q->path, sources->list[0].path, q->path_len);
    fetch_prefer_holders(a->s->ring, &a->digest, q);
    api_ask_source(a->elsewhere, peers_answered);
}

static bool fetch(struct api *a, bool manifest)
{
    struct fetch_sources sources;
    fetch_sources_find(a->s->ring->plan, a->route.repo, manifest, &a->digest, &sources);
    if (!sources.count)
        return false;
    if (a->s->req.method != HTTP_GET) {
        head(a, &sources);
        return true;
    }
    if (!api_elsewhere(a))
        return true;
    a->elsewhere->serve.order.sources = sources;
    serve(a, false);
    return true;
}

bool api_blob_fetch(struct api *a)
{
    return fetch(a, false);
}

bool api_manifest_fetch(struct api *a)
{
    a->size = a->manifest.size;
    return fetch(a, true);
}

/* ------------------------------------------------------------------ blobs that are not linked */

static void link_known(struct api *a);

static void linked(struct api *a, int status)
{
    if (api_deleting(a, status, link_known))
        return;
    if (status == CMD_OK)
        api_blob_read(a);
    else
        api_answer_status(a, status);
}

/* Whoever holds it the names know already: this node need not. */
static void link_known(struct api *a)
{
    struct wire_writer w = api_command(a, CMD_BLOB_LINK);
    wire_put_bytes(&w, a->route.repo.p, a->route.repo.len);
    cmd_put_digest(&w, &a->digest);
    wire_put_u64(&w, a->size);
    api_propose(a, &w, linked);
}

static void head_answered(struct elsewhere *e, enum question_end end)
{
    struct api *a = e->a;
    const struct http_answer *answer = e->question.answer;
    bool good = end == QUESTION_ANSWERED && answer->status == 200 && answer->length_told;
    uint64_t size = good ? answer->content_length : 0;
    enum fetch_fault fault = fetch_fault_of(&e->question, end);
    question_end(&e->question, good ? QUESTION_GOOD : QUESTION_DROPPED, good && answer->keep_alive);
    api_source_done(e);
    if (!good || (e->known && size != a->size)) {
        api_refuse_fault(a, good ? FETCH_BAD_ANSWER : fault);
        return;
    }
    a->size = size;
    if (a->s->req.method == HTTP_GET) {
        link_known(a);
        return;
    }
    (void)api_blob_head(a);
    stream_send_length(a->s, a->size);
}

int api_blob_known(struct api *a)
{
    struct names *n = stream_names(a->s);
    struct names_blob blob;
    int err = names_begin(n);
    if (err)
        return err;
    err = names_blob_get(n, &a->digest, &blob);
    names_end(n);
    a->size = err ? 0 : blob.size;
    return err;
}

bool api_is_held(struct api *a, const struct names_blob *blob)
{
    return fetch_is_held(a->s->ring->plan, blob);
}

bool api_blob_unlinked(struct api *a)
{
    const struct plan_source *source = fetch_source_of(a->s->ring->plan, a->route.repo);
    if (!source)
        return false;
    if (!api_elsewhere(a))
        return true;
    struct elsewhere *e = a->elsewhere;
    e->known = api_blob_known(a) == 0;
    if (a->s->req.method == HTTP_GET && !e->known) {
        fetch_sources_find(a->s->ring->plan, a->route.repo, false, &a->digest, &e->serve.order.sources);
        serve(a, true);
        return true;
    }
    struct question *q = &e->question;
    q->service = source->service;
    q->source = source->id;
    q->method = HTTP_HEAD;
    q->not_found_passes = true;
    q->path_len = fetch_source_path(source, a->route.repo, "blobs/", api_digest_text(a), q->path);
    if (q->path_len)
        api_ask_source(e, head_answered);
    else
        error_answer(a->s, 404, ERROR_NAME_UNKNOWN, "the source has no room for such a name", "name",
                     a->route.repo);
    return true;
}

/* ------------------------------------------------------------------ pushes */

bool api_push_allowed(struct api *a)
{
    const struct plan_source *source = fetch_source_of(a->s->ring->plan, a->route.repo);
    if (!source || source->push)
        return true;
    struct error_item item = {ERROR_DENIED, "the repository is a copy of another registry's: push it there",
                              "name", a->route.repo};
    http_response_field_str(error_begin(a->s, 405), "Allow", "GET, HEAD");
    error_send(a->s, &item, 1);
    return false;
}
