/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Manifests of repositories that are copies of another registry's (sources). A digest that is here is never
 * asked for again; a tag is, when it was last found to be current more than registry.source_ttl ago. One call
 * asks, for all rings; others that want the same wait for it and look into the names then.
 *
 *   not here, or old -> ask (If-None-Match: what is here) -> 304: current
 *                                                        |-> 200: bytes -> digest -> durable -> MANIFEST_PUT
 *                                                        |-> 404: so it is for our client
 *                                                        '-> no answer: what is here is served, marked as
 * stale
 *
 * Everything ends in api_manifest_read, which looks again.
 */
#include <errno.h>
#include <string.h>

#include "check.h"
#include "dataplane/ring.h"
#include "dataplane/fetch/fresh.h"
#include "dataplane/http/response_reader.h"
#include "dataplane/registry/api.h"
#include "dataplane/registry/elsewhere.h"
#include "dataplane/registry/manifest_json.h"

/* ------------------------------------------------------------------ the end */

static void memory_give(struct elsewhere *e)
{
    if (e->memory)
        pool_give(&e->a->s->ring->manifests, e->memory);
    e->memory = NULL;
}

/* Those who wait for the same look into the names, or, if it was given up, ask for themselves. */
static void tell_others(struct elsewhere *e, enum fetch_fault fault)
{
    if (!e->entry)
        return;
    fetch_entry_state(e->entry, fault ? FETCH_FAILED : FETCH_WHOLE, fault);
    fetch_entry_unlist(e->entry);
    fetch_entry_put(e->entry, e->a->s->ring->store);
    e->entry = NULL;
}

static void settle(struct elsewhere *e, enum fetch_fault fault)
{
    struct api *a = e->a;
    if (!fault)
        fresh_note(&e->key, stream_now_ms(a->s));
    tell_others(e, fault);
    memory_give(e);
    e->settled = true;
    e->fault = (uint8_t)fault;
    api_manifest_read(a);
}

void api_copy_abort(struct elsewhere *e)
{
    if (e->collecting) {
        e->cancelled = true;
        collect_stop(&e->collect);
        return;
    }
    if (e->watch) {
        fetch_reader_leave(e->watch);
        e->watch = NULL;
        (void)stream_response(e->a->s, 499);
        stream_send(e->a->s);
    }
    tell_others(e, FETCH_GIVEN_UP);
}

void api_copy_end(struct elsewhere *e)
{
    CHECK(!e->watch && !e->collecting);
    tell_others(e, FETCH_GIVEN_UP);
    memory_give(e);
}

bool api_manifest_stale(const struct api *a)
{
    return a->elsewhere && a->elsewhere->settled && a->elsewhere->fault;
}

bool api_manifest_settled(struct api *a, bool found)
{
    struct elsewhere *e = a->elsewhere;
    if (!e || !e->settled || !e->fault || (found && e->fault != FETCH_NOT_THERE))
        return true;
    api_refuse_fault(a, (enum fetch_fault)e->fault);
    return false;
}

/* ------------------------------------------------------------------ what came */

/* The names cannot be written now: the client gets it all the same. */
static void serve_unstored(struct elsewhere *e)
{
    struct api *a = e->a;
    const struct manifest_text *type = &a->put.manifest->media_type;
    tell_others(e, FETCH_NOT_KEPT);
    if (!api_answer_conditions(a)) {
        a->size = e->collect.len;
        (void)api_manifest_head(a, view_of(type->text, type->len));
        stream_send_bytes(a->s, e->memory, e->collect.len);
    }
}

static void stored(struct api *a, int status)
{
    if (status == CMD_OK)
        settle(a->elsewhere, FETCH_FINE);
    else
        serve_unstored(a->elsewhere);
}

/* Whether the source says the same digest, if it says one that we know. */
static bool digest_agrees(struct elsewhere *e)
{
    struct api *a = e->a;
    if (a->route.by_digest)
        return digest_equal(&a->digest, &a->route.digest);
    return !e->key_said || digest_equal(&a->digest, &e->said);
}

static void collected(struct collect *c, int err)
{
    struct elsewhere *e = c->arg;
    struct api *a = e->a;
    struct view bytes = view_of(c->bytes, c->len);
    e->collecting = false;
    question_end(&e->question,
                 e->cancelled || err == -EFBIG ? QUESTION_DROPPED
                 : err                         ? QUESTION_BROKEN
                                               : QUESTION_GOOD,
                 c->keep_alive);
    api_source_done(e);
    if (e->cancelled) {
        tell_others(e, FETCH_GIVEN_UP);
        (void)stream_response(a->s, 499);
        stream_send(a->s);
        return;
    }
    if (err) {
        settle(e, err == -EFBIG ? FETCH_BAD_ANSWER : FETCH_CUT);
        return;
    }
    uint8_t alg = a->route.by_digest ? a->route.digest.alg : e->key_said ? e->said.alg : DIGEST_SHA256;
    store_digest(alg, bytes.p, bytes.len, &a->digest);
    if (!digest_agrees(e)) {
        stream_count(a->s, CTR_FETCH_WRONG, 1);
        settle(e, FETCH_SPOILT);
        return;
    }
    err = api_manifest_copy(a, bytes, view_of(e->type, e->type_len), stored);
    if (err)
        settle(e, err == -EINVAL ? FETCH_BAD_ANSWER : FETCH_NOT_KEPT);
}

static void collect(struct elsewhere *e)
{
    struct ring *ring = e->a->s->ring;
    const struct http_answer *answer = e->question.answer;
    struct view type = answer->known[HTTP_KNOWN_CONTENT_TYPE],
                said = answer->known[HTTP_KNOWN_DOCKER_CONTENT_DIGEST];
    uint64_t max = ring_setting(ring, SET_REGISTRY_MANIFEST_BYTES_MAX);
    e->memory = ring->manifests.used < ring_setting(ring, SET_REGISTRY_MANIFESTS_INFLIGHT)
                    ? pool_take(&ring->manifests)
                    : NULL;
    e->type_len = type.len < sizeof(e->type) ? type.len : 0;
    if (e->type_len)
        memcpy(e->type, type.p, e->type_len);
    e->key_said = view_present(said) && digest_parse(said.p, said.len, &e->said) == 0;
    if (!e->memory) {
        question_end(&e->question, QUESTION_DROPPED, false);
        api_source_done(e);
        settle(e, FETCH_NOT_KEPT);
        return;
    }
    e->collect.bytes = e->memory;
    e->collect.cap = max < MANIFEST_BYTES_CEILING ? (size_t)max : MANIFEST_BYTES_CEILING;
    e->collect.done = collected;
    e->collect.arg = e;
    e->collecting = true;
    collect_start(&e->collect, &e->question);
}

static void answered(struct elsewhere *e, enum question_end end)
{
    const struct http_answer *answer = e->question.answer;
    bool here = end == QUESTION_ANSWERED;
    if (here && answer->status == 200) {
        collect(e);
        return;
    }
    bool current = here && answer->status == 304 && e->question.etag_len;
    enum fetch_fault fault = current ? FETCH_FINE : fetch_fault_of(&e->question, end);
    question_end(&e->question, QUESTION_GOOD,
                 here && answer->framing == HTTP_BODY_NONE && answer->keep_alive);
    api_source_done(e);
    settle(e, fault);
}

/* ------------------------------------------------------------------ asking */

static void ask(struct elsewhere *e, const struct plan_source *source, bool found)
{
    struct api *a = e->a;
    struct question *q = &e->question;
    q->service = source->service;
    q->source = source->id;
    q->method = HTTP_GET;
    q->accept = fetch_manifest_types;
    q->not_found_passes = false;
    q->path_len = fetch_source_path(source, a->route.repo, "manifests/", a->route.reference, q->path);
    q->etag_len = 0;
    if (found) {
        struct view etag = api_etag(a);
        q->etag_len = etag.len;
        memcpy(q->etag, etag.p, etag.len);
    }
    stream_count(a->s, CTR_SOURCE_TAGS_ASKED, 1);
    if (q->path_len)
        api_ask_source(e, answered);
    else
        settle(e, FETCH_NOT_THERE);
}

static void news(struct fetch_reader *r)
{
    struct elsewhere *e = r->arg;
    enum fetch_fault fault = atomic_load(&r->entry->fault);
    fetch_reader_leave(r);
    e->watch = NULL;
    if (fault != FETCH_GIVEN_UP && fault != FETCH_NOT_KEPT)
        settle(e, fault);
    else
        api_manifest_read(e->a);
}

/* What all rings know the question by. It stands among digests of blobs: nobody else may know how to make it.
 */
static void make_key(const struct api *a, struct digest *out)
{
    struct hash h;
    hash_begin(&h, DIGEST_SHA256);
    hash_add(&h, fetch_secret, sizeof(fetch_secret));
    hash_add(&h, "manifest", sizeof("manifest"));
    hash_add(&h, a->route.repo.p, a->route.repo.len);
    hash_add(&h, "", 1);
    hash_add(&h, a->route.reference.p, a->route.reference.len);
    hash_end(&h, out);
}

bool api_manifest_elsewhere(struct api *a, bool found)
{
    struct ring *ring = a->s->ring;
    const struct plan_source *source = fetch_source_of(ring->plan, a->route.repo);
    struct digest key;
    bool first = false;
    if (!source || (found && a->route.by_digest) || (a->elsewhere && a->elsewhere->settled))
        return false;
    make_key(a, &key);
    if (found && fresh_within(&key, stream_now_ms(a->s), ring_setting(ring, SET_REGISTRY_SOURCE_TTL)))
        return false;
    if (!api_elsewhere(a))
        return true;
    struct elsewhere *e = a->elsewhere;
    e->key = key;
    struct fetch_entry *entry = fetch_entry_get(&key, ring->index, &first);
    if (entry && !first) {
        e->watch = fetch_watch(ring->fetches, entry, news, e);
        if (e->watch) {
            if (!stream_has_body(a->s))
                stream_watch(a->s, true);
            return true;
        }
    }
    e->entry = first ? entry : NULL;
    ask(e, source, found);
    return true;
}
