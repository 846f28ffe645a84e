/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a stream has received and its user has not taken stands in blocks of the ring's; a stream's window
 * grows again only as they are emptied, so one that is not read holds its own bytes and no more.
 *
 * A session's window grows as bytes come, whoever reads them, as long as it holds no more than its share of
 * the blocks: on a session towards a backend there are streams of many clients, and some that stand still
 * must not stop the others. Where much is queued, windows of streams become small, so that even a hundred
 * that stand still hold little. (On a client's session all is that client's own.) What is sent
 * is not kept at all: it is taken from the user's memory when a frame can be made of it.
 */
#include <string.h>

#include "check.h"
#include "dataplane/http/chunked.h"
#include "dataplane/http2/session.h"

/* ------------------------------------------------------------------ received */

static struct h2_block *block_take(struct h2_stream *st)
{
    struct h2_block *b = pool_take(&st->h->blocks);
    if (!b)
        return NULL;
    *b = (struct h2_block){0};
    st->blocks++;
    if (st->session)
        st->session->blocks++;
    return b;
}

static void block_give(struct h2_stream *st, struct h2_block *b)
{
    st->blocks--;
    if (st->session)
        st->session->blocks--;
    pool_give(&st->h->blocks, b);
}

bool h2_queue_put(struct h2_stream *st, const void *bytes, size_t len)
{
    const uint8_t *from = bytes;
    while (len) {
        struct h2_block *b = st->last;
        if (!b || b->at + b->len == H2_BLOCK_ROOM) {
            b = block_take(st);
            if (!b)
                return false;
            if (st->last)
                st->last->next = b;
            else
                st->first = b;
            st->last = b;
        }
        size_t room = H2_BLOCK_ROOM - b->at - b->len, n = len < room ? len : room;
        memcpy(b->data + b->at + b->len, from, n);
        b->len += (uint32_t)n;
        st->queued += n;
        from += n;
        len -= n;
    }
    return true;
}

static bool may_have_more(const struct h2_session *s)
{
    const struct pool *p = &s->h->blocks;
    if (!s->client && s->queued > H2_EAGER_BYTES)
        return false;
    return s->blocks <= (p->count - p->used) / H2_SHARE;
}

/* An error of nghttp2's is the session's, told by the next call. */
void h2_share_look(struct h2_session *s)
{
    if (!s->withheld || s->state != H2_OPEN || !may_have_more(s))
        return;
    (void)nghttp2_session_consume_connection(s->ng, s->withheld);
    s->withheld = 0;
    h2_session_ready(s);
}

void h2_windows_look(struct h2_session *s)
{
    bool small = s->queued > (s->windows_small ? H2_CROWDED_BYTES / 2 : H2_CROWDED_BYTES);
    uint64_t now_ms = ring_now_ms(s->ring);
    if (!s->client || s->state != H2_OPEN || small == s->windows_small ||
        (!small && now_ms < s->windows_at_ms + H2_WINDOWS_MS))
        return;
    nghttp2_settings_entry entry = {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE,
                                    small ? H2_SMALL_WINDOW : H2_STREAM_WINDOW};
    s->windows_small = small;
    s->windows_at_ms = now_ms;
    (void)nghttp2_submit_settings(s->ng, NGHTTP2_FLAG_NONE, &entry, 1);
}

bool h2_queue_content(struct h2_stream *st, const uint8_t *bytes, size_t len)
{
    struct h2_session *s = st->session;
    char header[HTTP_CHUNK_HEADER_MAX] = "";
    bool chunked = st->framing == H2_FRAMING_CHUNKED;
    size_t header_len = chunked ? http_chunk_header(header, len) : 0;
    if (!h2_queue_put(st, header, header_len))
        return false;
    if (!h2_queue_put(st, bytes, len))
        return false;
    st->owed += len;
    s->queued += len;
    if (may_have_more(s))
        (void)nghttp2_session_consume_connection(s->ng, len);
    else
        s->withheld += len;
    return !chunked || h2_queue_put(st, HTTP_CHUNK_END.p, HTTP_CHUNK_END.len);
}

/* n bytes of a stream's content are held no more, or are nobody's. */
static void session_give_back(struct h2_session *s, uint64_t n)
{
    s->queued -= n;
    if (!s->withheld)
        return;
    uint64_t part = n < s->withheld ? n : s->withheld;
    s->withheld -= part;
    (void)nghttp2_session_consume_connection(s->ng, part);
}

static void give_back(struct h2_stream *st, uint64_t n)
{
    struct h2_session *s = st->session;
    st->owed -= n;
    if (!s || n == 0)
        return;
    session_give_back(s, n);
    if (st->open && !st->end_received)
        (void)nghttp2_session_consume_stream(s->ng, st->id, n);
    h2_session_ready(s);
}

void h2_queue_leave(struct h2_stream *st)
{
    session_give_back(st->session, st->owed);
    st->owed = 0;
    st->session->blocks -= st->blocks;
}

size_t h2_queue_take(struct h2_stream *st, void *out, size_t cap)
{
    size_t taken = 0;
    while (taken < cap && st->first) {
        struct h2_block *b = st->first;
        size_t n = b->len < cap - taken ? b->len : cap - taken;
        memcpy((uint8_t *)out + taken, b->data + b->at, n);
        taken += n;
        b->at += (uint32_t)n;
        b->len -= (uint32_t)n;
        if (b->len)
            break;
        st->first = b->next;
        if (!st->first)
            st->last = NULL;
        block_give(st, b);
    }
    st->queued -= taken;
    /* Framing is not content: what is left counts as such for as long as it may be. */
    if (st->owed > st->queued)
        give_back(st, st->owed - st->queued);
    return taken;
}

void h2_queue_drop(struct h2_stream *st)
{
    while (st->first) {
        struct h2_block *b = st->first;
        st->first = b->next;
        block_give(st, b);
    }
    st->last = NULL;
    st->queued = 0;
    give_back(st, st->owed);
}

/* ------------------------------------------------------------------ sent */

static nghttp2_nv nv_of(struct view name, struct view value)
{
    return (nghttp2_nv){.name = (uint8_t *)(uintptr_t)name.p,
                        .namelen = name.len,
                        .value = (uint8_t *)(uintptr_t)value.p,
                        .valuelen = value.len};
}

enum { PSEUDO_MAX = 4, NVS_MAX = REQUEST_FIELDS_MAX + PSEUDO_MAX };

static size_t put_fields(nghttp2_nv *nv, size_t n, const struct h1_head *head)
{
    for (uint32_t i = 0; i < head->count; i++)
        nv[n++] = nv_of(head->field[i].name, head->field[i].value);
    return n;
}

static int submit_answer(struct h2_stream *st, const struct h1_head *head)
{
    nghttp2_nv nv[NVS_MAX];
    char digits[4] = {(char)('0' + head->status / 100), (char)('0' + head->status / 10 % 10),
                      (char)('0' + head->status % 10), 0};
    nghttp2_data_provider content = {.source.ptr = st, .read_callback = h2_send_read};
    nv[0] = nv_of(VIEW_LIT(":status"), view_of(digits, 3));
    size_t n = put_fields(nv, 1, head);
    if (head->status < 200)
        return nghttp2_submit_headers(st->session->ng, NGHTTP2_FLAG_NONE, st->id, NULL, nv, n, NULL);
    return nghttp2_submit_response(st->session->ng, st->id, nv, n, head->ends ? NULL : &content);
}

/* An absolute target says what the authority is; the path is what follows it. */
static void split_target(const struct h1_head *head, struct view *authority, struct view *path)
{
    struct view rest, after;
    *authority = head->host;
    *path = head->target;
    if (head->target.p[0] == '/' || view_lit(head->target, "*"))
        return;
    (void)view_split(head->target, '/', &rest);
    if (!view_present(rest) || rest.len < 2 || rest.p[0] != '/')
        return;
    *authority = view_split(view_skip(rest, 1), '/', &after);
    *path = view_present(after) ? view_of(after.p - 1, after.len + 1) : VIEW_LIT("/");
}

static int submit_question(struct h2_stream *st, const struct h1_head *head)
{
    nghttp2_nv nv[NVS_MAX];
    nghttp2_data_provider content = {.source.ptr = st, .read_callback = h2_send_read};
    struct view authority, path, scheme = st->session->wire.over ? VIEW_LIT("https") : VIEW_LIT("http");
    size_t n = 0;
    split_target(head, &authority, &path);
    nv[n++] = nv_of(VIEW_LIT(":method"), head->method);
    nv[n++] = nv_of(VIEW_LIT(":scheme"), scheme);
    nv[n++] = nv_of(VIEW_LIT(":path"), path);
    if (view_present(authority) && authority.len)
        nv[n++] = nv_of(VIEW_LIT(":authority"), authority);
    st->head_request = view_lit(head->method, "HEAD");
    int32_t id = nghttp2_submit_request(st->session->ng, NULL, nv, put_fields(nv, n, head),
                                        head->ends ? NULL : &content, st);
    if (id < 0)
        return id;
    st->id = id;
    st->open = true;
    return 0;
}

/* Memory for a head that comes in pieces. */
static bool hold_take(struct h2_stream *st)
{
    st->reader.hold = pool_take(&st->h->holds);
    st->reader.hold_len = 0;
    st->reader.hold_cap = HEADER_BYTES_CEILING;
    if (!st->reader.hold)
        ring_count(st->h->ring, CTR_BUFFERS_EXHAUSTED, 1);
    return st->reader.hold != NULL;
}

void h2_send_drop(struct h2_stream *st)
{
    if (st->reader.hold)
        pool_give(&st->h->holds, st->reader.hold);
    st->reader.hold = NULL;
}

static void took(struct h2_stream *st, size_t n)
{
    st->taken += n;
    st->iov_at += n;
    while (st->iov_count && st->iov_at == st->iov->iov_len) {
        st->iov++;
        st->iov_count--;
        st->iov_at = 0;
    }
}

/* What the user's order has next; content is in *content, of which the caller says how much it takes. */
static enum h1_got next(struct h2_stream *st, struct h1_head *head, struct view *content)
{
    for (;;) {
        size_t used = 0;
        while (st->iov_count && st->iov_at == st->iov->iov_len)
            took(st, 0);
        const char *at = st->iov_count ? (const char *)st->iov->iov_base + st->iov_at : "";
        size_t len = st->iov_count ? st->iov->iov_len - st->iov_at : 0;
        enum h1_got got = h1_read(&st->reader, at, len, &used, head, content);
        if (got == H1_CONTENT)
            used -= content->len;
        took(st, used);
        if (got == H1_MEMORY && !hold_take(st))
            return H1_BAD;
        if (got != H1_MEMORY && !(got == H1_MORE && st->iov_count))
            return got;
    }
}

static void head_failed(struct h2_stream *st)
{
    st->out_error = -EPIPE;
    h2_stream_reset(st, NGHTTP2_INTERNAL_ERROR);
}

void h2_send_heads(struct h2_stream *st)
{
    struct h1_head head;
    struct view content;
    while (!st->head_sent && !st->out_error && st->session) {
        enum h1_got got = next(st, &head, &content);
        if (got == H1_MORE)
            return;
        if (got != H1_HEAD) {
            head_failed(st);
            return;
        }
        bool final = st->client || head.status >= 200;
        int err = st->client ? submit_question(st, &head) : submit_answer(st, &head);
        h2_send_drop(st);
        if (err) { /* out of the session's memory; or it takes no more requests, then it has processed nothing
                    */
            st->out_error = st->client ? H2_UNPROCESSED : -EPIPE;
            if (st->client && !st->open)
                st->in_error = H2_UNPROCESSED;
            else
                h2_stream_reset(st, NGHTTP2_INTERNAL_ERROR);
            return;
        }
        st->head_sent = final;
        st->end_taken = final && head.ends;
    }
}

static int submit_trailers(struct h2_stream *st, const struct h1_head *head)
{
    nghttp2_nv nv[NVS_MAX];
    size_t n = put_fields(nv, 0, head);
    int err = nghttp2_submit_trailer(st->session->ng, st->id, nv, n);
    h2_send_drop(st);
    return err;
}

/* The next frame's content. */
static ssize_t read_some(struct h2_stream *st, size_t room, uint32_t *flags)
{
    struct h1_head head;
    struct view content;
    switch (next(st, &head, &content)) {
    case H1_CONTENT: {
        if (!h2_room_take(st, content.len))
            return NGHTTP2_ERR_DEFERRED;
        size_t n = content.len < room ? content.len : room;
        h2_room_used(st);
        st->content = content.p;
        h1_took(&st->reader, n);
        took(st, n);
        st->end_taken = h1_at_end(&st->reader);
        *flags |= NGHTTP2_DATA_FLAG_NO_COPY | (st->end_taken ? (uint32_t)NGHTTP2_DATA_FLAG_EOF : 0);
        return (ssize_t)n;
    }
    case H1_TRAILERS:
        st->end_taken = true;
        *flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
        return submit_trailers(st, &head) ? NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE : 0;
    case H1_END:
        st->end_taken = true;
        *flags |= NGHTTP2_DATA_FLAG_EOF;
        return 0;
    case H1_MORE:
        if (!st->out_shut || !h1_closed(&st->reader))
            return NGHTTP2_ERR_DEFERRED;
        st->end_taken = true;
        *flags |= NGHTTP2_DATA_FLAG_EOF;
        return 0;
    default:
        st->out_error = -EPIPE;
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    }
}

ssize_t h2_send_read(nghttp2_session *ng, int32_t id, uint8_t *buf, size_t length, uint32_t *flags,
                     nghttp2_data_source *source, void *user)
{
    struct h2_session *s = user;
    struct h2_stream *st = source->ptr;
    (void)ng;
    (void)id;
    (void)buf;
    uint32_t end = s->out_end + H2_OUT_RESERVE;
    if (end + H2_PIECE_LEAST > H2_OUT_BYTES)
        return NGHTTP2_ERR_PAUSE; /* the frame is made when the buffer is empty again */
    size_t room = H2_OUT_BYTES - end;
    return read_some(st, room < length ? room : length, flags);
}

int h2_send_data(nghttp2_session *ng, nghttp2_frame *frame, const uint8_t *head, size_t length,
                 nghttp2_data_source *source, void *user)
{
    enum { FRAME_HEAD = 9 };
    struct h2_session *s = user;
    struct h2_stream *st = source->ptr;
    (void)ng;
    (void)frame;
    CHECK(H2_OUT_BYTES - s->out_end >= FRAME_HEAD + length);
    memcpy(s->out_buffer + s->out_end, head, FRAME_HEAD);
    memcpy(s->out_buffer + s->out_end + FRAME_HEAD, st->content, length);
    s->out_end += (uint32_t)(FRAME_HEAD + length);
    s->out_total += FRAME_HEAD + length;
    st->sent_at = s->out_total;
    return 0;
}
