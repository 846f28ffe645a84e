/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/registry/keep.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "check.h"
#include "dataplane/ring.h"
#include "dataplane/fetch/fetch.h"
#include "dataplane/fetch/sink.h"
#include "dataplane/http/response_reader.h"
#include "dataplane/http/uri.h"
#include "dataplane/move/pump.h"
#include "dataplane/registry/api.h"

enum {
    LOOK_MS = 200,   /* how often a transfer is looked at that */
    STALL_MS = 5000, /* stands still for so long: then it is over */
};

struct keep {
    struct api *a;
    uint32_t backend; /* 1 + id of the node that asks */
    uint64_t from, to;
    bool has_digest, goes_on; /* goes_on: a session of before */
    bool named;               /* of is a session's name, under which what is here may be looked for */
    size_t of_len;
    char of[UPLOAD_NAME_LEN];
    char session[UPLOAD_ID_LEN];
    struct question question;
    struct pump pump;
    struct sink sink;
    struct timer timer;
};

static const struct view nothing;

/* ------------------------------------------------------------------ the request */

static bool digest_read(struct api *a, bool *has)
{
    char text[DIGEST_TEXT_MAX];
    ssize_t len = http_query_get(a->s->req.query, "digest", text, sizeof(text));
    *has = len > 0 && digest_parse(text, (size_t)len, &a->digest) == 0;
    if (*has)
        api_etag(a);
    return *has || len == -ENOENT;
}

static bool of_valid(const char *of, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (digest_hex_value(of[i]) < 0 && of[i] != '.' && of[i] != '-')
            return false;
    return len > 0;
}

/* "-": nobody will look for it. */
static bool of_named(const struct keep *k)
{
    return k->of_len == UPLOAD_NAME_LEN && k->of[UPLOAD_ID_LEN] == '.';
}

static bool order_read(struct keep *k)
{
    struct view query = k->a->s->req.query;
    uint64_t node = 0;
    ssize_t of = http_query_get(query, "of", k->of, sizeof(k->of));
    ssize_t session = http_query_get(query, "session", k->session, sizeof(k->session));
    if (of <= 0 || !of_valid(k->of, (size_t)of) || http_query_get_u64(query, "node", UINT64_MAX, &node) ||
        http_query_get_u64(query, "to", INT64_MAX, &k->to) || !digest_read(k->a, &k->has_digest))
        return false;
    k->of_len = (size_t)of;
    k->named = of_named(k);
    k->goes_on = session == sizeof(k->session);
    k->backend = fetch_peer_of(k->a->s->ring->plan, node);
    return session == -ENOENT || k->goes_on;
}

/* ------------------------------------------------------------------ the end */

static void answer_kept(struct keep *k)
{
    stream_count(k->a->s, CTR_COPIES_KEPT, 1);
    stream_response(k->a->s, 201);
    stream_send(k->a->s);
}

/* What came is of no use to anybody. */
static void drop_session(struct keep *k)
{
    if (k->a->upload)
        upload_cancel(k->a->upload, NULL);
    k->a->upload = NULL;
}

static void fail(struct keep *k, int status, const char *message)
{
    drop_session(k);
    error_answer(k->a->s, status, ERROR_UNAVAILABLE, message, NULL, nothing);
}

/* The node that asks is gone, perhaps for good: then this may be all that is left. Else it says that nothing
 * becomes of it. */
static void fail_source(struct keep *k, const char *message)
{
    if (k->named)
        upload_checkin(k->a->upload);
    else
        upload_cancel(k->a->upload, NULL);
    k->a->upload = NULL;
    fail(k, 502, message);
}

static void fail_store(struct keep *k, int err)
{
    drop_session(k);
    api_answer_store_error(k->a, err);
}

static void answer_again(struct api *a, const char *message)
{
    error_answer(a->s, KEEP_AGAIN, ERROR_UNAVAILABLE, message, NULL, nothing);
}

/* What came before is good still, if whoever asked knows where it is. */
static void put_off(struct keep *k, const char *message)
{
    if (!k->goes_on) {
        fail(k, KEEP_AGAIN, message);
        return;
    }
    upload_checkin(k->a->upload);
    k->a->upload = NULL;
    answer_again(k->a, message);
}

static void committed(struct api *a, int err)
{
    if (err && err != -EBADMSG) {
        fail_store(a->keep, err);
        return;
    }
    a->upload = NULL; /* the commit took it */
    if (err)
        fail(a->keep, 400, "the bytes have another digest than was said");
    else
        answer_kept(a->keep);
}

static void received(struct keep *k)
{
    struct api *a = k->a;
    if (k->has_digest) {
        (void)blob_hold(stream_store(a->s), &a->digest); /* the new file waits for the old one's end */
        api_wait_taken(a, upload_commit(a->upload, &a->digest, &a->waiter), committed);
        return;
    }
    struct view id = view_of(upload_id(a->upload), UPLOAD_ID_LEN);
    http_response_field(stream_response(a->s, 200), KEEP_SESSION_FIELD, id);
    upload_checkin(a->upload);
    a->upload = NULL;
    stream_send(a->s);
}

/* ------------------------------------------------------------------ bytes */

static void pumped(struct pump *p, enum pump_end end, int err)
{
    struct keep *k = container_of(p, struct keep, pump);
    timer_clear(&k->timer);
    bool good = end == PUMP_DONE;
    question_end(&k->question, good ? QUESTION_GOOD : QUESTION_DROPPED, good && pump_rest(p).len == 0);
    question_forgive(&k->question);
    if (good)
        received(k);
    else if (end == PUMP_SINK_ERROR)
        fail_store(k, err);
    else
        fail_source(k, "the node that asks stopped in the middle");
}

static void look(struct timer *t, uint64_t now_ms)
{
    struct keep *k = container_of(t, struct keep, timer);
    pump_look(&k->pump);
    if (question_is_down(&k->question) ||
        (pump_waits_for_source(&k->pump) && now_ms - k->pump.progress_ms >= STALL_MS))
        pump_fail_source(&k->pump);
    else
        timer_set(&k->a->s->ring->wheel, &k->timer, now_ms + LOOK_MS);
}

static void flow(struct keep *k)
{
    struct ring *ring = k->a->s->ring;
    const struct http_answer *answer = k->question.answer;
    struct pump_config config = {.ring = ring,
                                 .from = k->question.wire,
                                 .to = &k->sink.wire,
                                 .in = PUMP_LENGTH,
                                 .out = PUMP_LENGTH,
                                 .length = answer->content_length,
                                 .early = k->question.early,
                                 .done = pumped};
    sink_open(&k->sink, ring, k->a->upload, NULL);
    k->timer.fire = look;
    timer_set(&ring->wheel, &k->timer, ring_now_ms(ring) + LOOK_MS);
    pump_start(&k->pump, &config);
}

static void answered(struct question *q, enum question_end end)
{
    struct keep *k = container_of(q, struct keep, question);
    const struct http_answer *a = q->answer;
    if (end == QUESTION_ANSWERED && a->status == 200 && a->framing == HTTP_BODY_LENGTH &&
        a->content_length == k->to - k->from) {
        flow(k);
        return;
    }
    bool again =
        end == QUESTION_NOBODY || (end == QUESTION_REFUSED && (q->status == 503 || q->status == 429));
    bool refused = end == QUESTION_REFUSED || end == QUESTION_ANSWERED;
    question_end(q, QUESTION_DROPPED, false);
    question_forgive(q);
    if (again)
        put_off(k, "too much is under way between these two nodes");
    else if (refused)
        fail(k, 424, "the node that asks does not give its bytes");
    else
        fail_source(k, "the node that asks cannot be reached");
}

static void ask(struct keep *k)
{
    struct question *q = &k->question;
    char digest[DIGEST_TEXT_MAX + 10] = "";
    if (k->has_digest)
        snprintf(digest, sizeof(digest), "&digest=%.*s", (int)api_digest_text(k->a).len,
                 api_digest_text(k->a).p);
    q->path_len =
        (size_t)snprintf(q->path, sizeof(q->path), KEEP_PATH "/%.*s?from=%llu&to=%llu%s", (int)k->of_len,
                         k->of, (unsigned long long)k->from, (unsigned long long)k->to, digest);
    q->ring = k->a->s->ring;
    q->service = fetch_peers_service(q->ring->plan);
    q->method = HTTP_GET;
    q->only = k->backend;
    q->done = answered;
    question_ask(q);
}

/* ------------------------------------------------------------------ POST */

static void has_session(struct api *a, int err)
{
    struct keep *k = a->keep;
    if (err == -EBUSY) {
        answer_again(a, "another request is at work on this session");
        return;
    }
    if (err == -ENOENT) {
        fail(k, 409, "there is no such session");
        return;
    }
    if (err) {
        fail_store(k, err);
        return;
    }
    k->from = upload_offset(a->upload);
    if (k->from > k->to)
        fail(k, 409, "the session has more than that");
    else if (k->from == k->to)
        received(k);
    else
        ask(k);
}

static void take_session(struct keep *k)
{
    struct api *a = k->a;
    struct store_ring *store = stream_store(a->s);
    uint8_t alg = k->has_digest ? a->digest.alg : DIGEST_SHA256;
    int res;
    if (k->goes_on)
        res = upload_copy_checkout(store, k->session, sizeof(k->session), &a->upload, &a->waiter);
    else if (k->named)
        res = upload_copy_create(store, k->of, k->of_len, alg, &a->upload, &a->waiter);
    else
        res = upload_create(store, UPLOAD_FETCH_REPO, sizeof(UPLOAD_FETCH_REPO) - 1, alg, &a->upload,
                            &a->waiter);
    api_wait(a, res, has_session);
}

static void settled(struct api *a, int err)
{
    if (err)
        fail_store(a->keep, err);
    else
        answer_kept(a->keep);
}

/* What cannot be opened, or has another size, is fetched anew. */
static void looked(struct api *a, int err)
{
    if (err == 0)
        api_wait(a, blob_settle(stream_store(a->s), &a->digest, &a->waiter), settled);
    else
        take_session(a->keep);
}

static void post(struct api *a)
{
    struct keep *k = arena_zalloc(&a->s->arena, sizeof(*k));
    if (!k) {
        error_answer_later(a->s, 503, "no memory for another request");
        return;
    }
    a->keep = k;
    k->a = a;
    /* Of a store that others have, too, one of these may be removing just what lies here: what is published
     * anew is safe from that (store/remove.c). */
    bool shared = a->s->ring->plan->copies.shared;
    if (!order_read(k))
        fail(k, 400, "node, of and to are needed; digest and session are optional");
    else if (!k->backend)
        fail(k, 409, "this node does not know the one that asks as a replica");
    else if (k->has_digest && !k->goes_on && !shared && blob_hold(stream_store(a->s), &a->digest))
        answer_again(a, "a file of these bytes is just being removed");
    else if (k->has_digest && !k->goes_on && !shared)
        api_wait(a, blob_open(stream_store(a->s), &a->digest, k->to, false, &a->blob, &a->waiter), looked);
    else
        take_session(k);
}

/* ------------------------------------------------------------------ PUT */

static void written(struct api *a, int err)
{
    if (err) {
        api_answer_store_error(a, err);
        return;
    }
    stream_count(a->s, CTR_COPIES_KEPT, 1);
    stream_response(a->s, 201);
    stream_send(a->s);
}

static void small_read(struct api *a, int err)
{
    struct digest got;
    struct view body = a->s->body;
    if (err) {
        api_answer_store_error(a, err);
        return;
    }
    store_digest(a->digest.alg, body.p, body.len, &got);
    if (!digest_equal(&got, &a->digest)) {
        error_answer(a->s, 400, ERROR_DIGEST_INVALID, "the bytes have another digest", NULL, nothing);
        return;
    }
    (void)blob_hold(stream_store(a->s), &a->digest);
    api_wait_taken(a, blob_write(stream_store(a->s), &a->digest, body.p, body.len, &a->waiter), written);
}

/* ------------------------------------------------------------------ DELETE */

static void dropped(struct api *a, int err)
{
    if (err) {
        api_answer_store_error(a, err);
        return;
    }
    stream_response(a->s, 204);
    stream_send(a->s);
}

/* Bytes have come since that was said, a while ago: it may not be so any more. */
static bool is_used_since(const struct api *a)
{
    uint64_t idle_ms;
    return http_query_get_u64(a->s->req.query, "idle", INT64_MAX, &idle_ms) == 0 &&
           upload_idle_ms(a->upload) < idle_ms;
}

static void drop_has_session(struct api *a, int err)
{
    struct upload *u = a->upload;
    if (err == -EBUSY) {
        answer_again(a, "another request is at work on this session");
    } else if (err == -ENOENT) {
        error_answer(a->s, 404, ERROR_BLOB_UPLOAD_UNKNOWN, "there is no such session", NULL, nothing);
    } else if (err) {
        api_answer_store_error(a, err);
    } else if (is_used_since(a)) {
        upload_checkin(u);
        a->upload = NULL;
        error_answer(a->s, 409, ERROR_UNAVAILABLE, "the session has been used since", NULL, nothing);
    } else {
        a->upload = NULL;
        api_wait_taken(a, upload_cancel(u, &a->waiter), dropped);
    }
}

static void drop(struct api *a, struct view id)
{
    api_wait(a, upload_any_checkout(stream_store(a->s), id.p, id.len, &a->upload, &a->waiter),
             drop_has_session);
}

/* ------------------------------------------------------------------ GET */

static void send_bytes(struct api *a, int err)
{
    struct blob *blob = a->blob;
    if (err == -ENOENT || err == -EBADMSG) {
        error_answer(a->s, 404, ERROR_BLOB_UNKNOWN, "this node does not have these bytes", NULL, nothing);
        return;
    }
    if (err) {
        api_answer_store_error(a, err);
        return;
    }
    a->blob = NULL;
    stream_response(a->s, 200);
    stream_send_blob(a->s, blob, a->up.first, a->size - a->up.first);
}

static void send_blob(struct api *a)
{
    api_wait(a, blob_open(stream_store(a->s), &a->digest, a->size, false, &a->blob, &a->waiter), send_bytes);
}

static void opened(struct api *a, int err)
{
    if (err == -ENOENT && a->digest.alg != DIGEST_NONE)
        send_blob(a);
    else
        send_bytes(a, err);
}

static void get(struct api *a, struct view of)
{
    struct view query = a->s->req.query;
    bool has_digest;
    if (http_query_get_u64(query, "from", INT64_MAX, &a->up.first) ||
        http_query_get_u64(query, "to", INT64_MAX, &a->size) || a->up.first >= a->size ||
        !digest_read(a, &has_digest))
        error_answer(a->s, 400, ERROR_UNSUPPORTED, "from and to are needed", NULL, nothing);
    else
        api_wait(a, blob_open_growing(stream_store(a->s), of.p, of.len, a->size, &a->blob, &a->waiter),
                 opened);
}

/* ------------------------------------------------------------------ GET of no session in particular */

static void look_for(struct api *a)
{
    char of[UPLOAD_NAME_LEN];
    struct upload_found found;
    ssize_t len = http_query_get(a->s->req.query, "of", of, sizeof(of));
    int err = len > 0 ? upload_look(stream_store(a->s), of, (size_t)len, &found) : -ENOENT;
    struct http_response *res = stream_response(a->s, err == -EBUSY ? KEEP_AGAIN : err ? 404 : 200);
    if (!err)
        http_response_field_u64(res, found.session ? KEEP_HAS_FIELD : KEEP_SIZE_FIELD, found.size);
    stream_send(a->s);
}

bool keep_begin(struct api *a)
{
    static const struct view folder = {KEEP_PATH "/", sizeof(KEEP_PATH)};
    const struct http_request *req = &a->s->req;
    if (req->method == HTTP_POST && view_lit(req->path, KEEP_PATH)) {
        post(a);
    } else if (req->method == HTTP_GET && view_lit(req->path, KEEP_PATH)) {
        look_for(a);
    } else if (req->method == HTTP_PUT && a->digest.alg != DIGEST_NONE) {
        if (stream_has_body(a->s))
            api_body_to_memory(a, KEEP_SMALL_MAX, small_read);
        else
            small_read(a, 0);
    } else if (req->method == HTTP_GET && req->path.len > folder.len && view_starts(req->path, folder)) {
        get(a, view_skip(req->path, folder.len));
    } else if (req->method == HTTP_DELETE && req->path.len > folder.len && view_starts(req->path, folder)) {
        drop(a, view_skip(req->path, folder.len));
    } else {
        return false;
    }
    return true;
}
