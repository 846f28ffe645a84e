/* SPDX-License-Identifier: Apache-2.0 */
#include "control/mesh/line.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "check.h"
#include "control/mesh/line_tls.h"

enum {
    FLIGHT_BYTES_MAX = 256 << 10, /* of records that the socket has not taken */
    LINGER_MS = 1000,
    LINE_KEEP_IN = 64 << 10, /* a body's buffer up to this is kept for the next one */
};

struct queued {
    struct queued *next;
    size_t len, sent; /* with the head */
    uint8_t data[];
};

struct line {
    uv_tcp_t tcp; /* first */
    uv_connect_t connect;
    uv_write_t write;
    uv_timer_t linger;
    struct line_pool *pool;
    struct line_handlers handlers;
    void *owner;
    SSL *ssl;
    char *flight; /* what is being written */
    size_t flight_len;
    struct queued *first, **last;
    size_t queued; /* bytes in the queue and in flight */
    size_t limit;
    uint8_t head[FRAME_HEAD_BYTES];
    size_t head_len;
    struct frame_head in;
    uint8_t *body;
    size_t body_len, body_cap;
    uint64_t began_ms, heard_ms, sent, received;
    struct line *next_dirty;
    bool dirty, connected, ready, ended, lingering, closing;
    unsigned handles;
    int failed; /* at the first step, told at the end of the turn */
    char peer[ADDRESS_TEXT_MAX];
};

static void mark(struct line *l)
{
    if (l->dirty)
        return;
    l->dirty = true;
    l->next_dirty = l->pool->dirty;
    l->pool->dirty = l;
}

static void on_flush_closed(uv_handle_t *handle)
{
    struct line_pool *pool = handle->data;
    if (pool->closed)
        pool->closed(pool->arg);
}

static void pool_check(struct line_pool *pool)
{
    if (pool->closing && pool->open == 0 && !uv_is_closing((uv_handle_t *)&pool->flush))
        uv_close((uv_handle_t *)&pool->flush, on_flush_closed);
}

static void line_free(struct line *l)
{
    struct line_pool *pool = l->pool;
    while (l->first) {
        struct queued *q = l->first;
        l->first = q->next;
        free(q);
    }
    SSL_free(l->ssl);
    free(l->body);
    free(l->flight);
    free(l);
    pool->open--;
    pool_check(pool);
}

static void on_closed(uv_handle_t *handle)
{
    struct line *l = handle->data;
    if (--l->handles == 0 && !l->dirty)
        line_free(l);
}

static void handles_close(struct line *l)
{
    if (l->closing)
        return;
    l->closing = true;
    uv_close((uv_handle_t *)&l->tcp, on_closed);
    uv_close((uv_handle_t *)&l->linger, on_closed);
}

/* Ends it from here: the owner is told. */
static void fail(struct line *l, enum mesh_reason why, const char *text)
{
    if (l->ended) {
        handles_close(l);
        return;
    }
    l->ended = true;
    handles_close(l);
    l->handlers.ended(l->owner, why, text);
}

/* ------------------------------------------------------------------ out */

static void on_written(uv_write_t *write, int status);

/* Fills the pool's buffer with the beginning of the queue. */
static size_t gather(struct line *l)
{
    size_t n = 0;
    for (const struct queued *q = l->first; q && n < LINE_PLAIN_BYTES; q = q->next) {
        size_t take = q->len - q->sent;
        if (take > LINE_PLAIN_BYTES - n)
            take = LINE_PLAIN_BYTES - n;
        memcpy(l->pool->out + n, q->data + q->sent, take);
        n += take;
    }
    return n;
}

static void taken(struct line *l, size_t n)
{
    l->queued -= n;
    while (n) {
        struct queued *q = l->first;
        CHECK(q); /* no more was taken than was gathered */
        size_t take = q->len - q->sent < n ? q->len - q->sent : n;
        q->sent += take;
        n -= take;
        if (q->sent < q->len)
            return;
        l->first = q->next;
        if (!l->first)
            l->last = &l->first;
        free(q);
    }
}

/* Frames into records, as many as may be in flight. */
static bool seal(struct line *l)
{
    BIO *out = SSL_get_wbio(l->ssl);
    bool moved = false;
    while (l->ready && l->first && BIO_pending(out) < FLIGHT_BYTES_MAX) {
        size_t n = gather(l);
        ERR_clear_error();
        int wrote = SSL_write(l->ssl, l->pool->out, (int)n);
        if (wrote <= 0) {
            char text[MESH_WHY_MAX];
            line_tls_error_text(text);
            fail(l, MESH_BROKEN, text);
            return false;
        }
        taken(l, (size_t)wrote);
        moved = true;
    }
    if (moved && !l->ended && l->handlers.drained)
        l->handlers.drained(l->owner);
    return !l->closing;
}

static void flush(struct line *l)
{
    if (l->closing || !l->connected || l->flight)
        return;
    bool open = seal(l);
    BIO *out = SSL_get_wbio(l->ssl);
    int pending = (int)BIO_pending(out);
    if (!open || l->flight || pending <= 0) /* a handler may have ended it, and flushed */
        return;
    l->flight = malloc((size_t)pending);
    CHECK(l->flight);
    l->flight_len = (size_t)BIO_read(out, l->flight, pending);
    uv_buf_t buf = uv_buf_init(l->flight, (unsigned)l->flight_len);
    l->write.data = l;
    int rc = uv_write(&l->write, (uv_stream_t *)&l->tcp, &buf, 1, on_written);
    if (rc) {
        free(l->flight);
        l->flight = NULL;
        fail(l, MESH_BROKEN, uv_strerror(rc));
    }
}

static void linger_shutdown(struct line *l)
{
    if (l->lingering && !l->flight && !l->first && !l->closing) {
        uv_os_fd_t fd;
        if (uv_fileno((uv_handle_t *)&l->tcp, &fd) == 0)
            shutdown(fd, SHUT_WR);
    }
}

static void on_written(uv_write_t *write, int status)
{
    struct line *l = write->data;
    l->sent += l->flight_len;
    free(l->flight);
    l->flight = NULL;
    if (status) {
        if (!l->closing)
            fail(l, MESH_BROKEN, uv_strerror(status));
        return;
    }
    flush(l);
    linger_shutdown(l);
}

static void on_flush(uv_prepare_t *handle)
{
    struct line_pool *pool = handle->data;
    while (pool->dirty) {
        struct line *l = pool->dirty;
        pool->dirty = l->next_dirty;
        l->dirty = false;
        if (l->handles == 0) {
            line_free(l);
        } else if (l->failed && !l->closing) {
            fail(l, MESH_CONNECT, uv_strerror(l->failed));
        } else {
            flush(l);
            linger_shutdown(l);
        }
    }
}

int line_send(struct line *l, uint16_t type, uint64_t id, const void *body, size_t len, size_t max)
{
    if (l->queued && l->queued + len > max)
        return -ENOBUFS;
    struct queued *q = malloc(sizeof(*q) + FRAME_HEAD_BYTES + len);
    if (!q)
        return -ENOMEM;
    const struct frame_head head = {.bytes = (uint32_t)len, .type = type, .version = FRAME_VERSION, .id = id};
    q->next = NULL;
    q->sent = 0;
    q->len = FRAME_HEAD_BYTES + len;
    frame_head_put(&head, q->data);
    if (len)
        memcpy(q->data + FRAME_HEAD_BYTES, body, len);
    *l->last = q;
    l->last = &q->next;
    l->queued += q->len;
    mark(l);
    return 0;
}

/* ------------------------------------------------------------------ in */

static void body_reset(struct line *l)
{
    l->head_len = l->body_len = 0;
    if (l->body_cap > LINE_KEEP_IN) {
        free(l->body);
        l->body = NULL;
        l->body_cap = 0;
    }
}

/* The buffer grows with what has come: a head alone gets nobody much memory. */
static bool body_add(struct line *l, const uint8_t *data, size_t len)
{
    size_t need = l->body_len + len;
    if (need > l->body_cap) {
        size_t cap = l->body_cap ? l->body_cap : 4096;
        while (cap < need)
            cap *= 2;
        uint8_t *grown = realloc(l->body, cap);
        if (!grown)
            return false;
        l->body = grown;
        l->body_cap = cap;
    }
    memcpy(l->body + l->body_len, data, len);
    l->body_len += len;
    return true;
}

/* Takes the head of a frame. Returns the bytes used, or 0 after an end. */
static size_t take_head(struct line *l, const uint8_t *data, size_t len)
{
    size_t want = FRAME_HEAD_BYTES - l->head_len, n = want < len ? want : len;
    memcpy(l->head + l->head_len, data, n);
    l->head_len += n;
    if (l->head_len < FRAME_HEAD_BYTES)
        return n;
    enum mesh_reason why = frame_head_get(l->head, l->limit, &l->in);
    if (why != MESH_OK) {
        fail(l, why, mesh_reason_text(why));
        return 0;
    }
    return n;
}

/* False: the line has ended. */
static bool take_frames(struct line *l, const uint8_t *data, size_t len)
{
    while (len || (l->head_len == FRAME_HEAD_BYTES && l->in.bytes == 0)) {
        if (l->head_len < FRAME_HEAD_BYTES) {
            size_t n = take_head(l, data, len);
            if (!n)
                return false;
            data += n;
            len -= n;
            continue;
        }
        size_t want = l->in.bytes - l->body_len, n = want < len ? want : len;
        const uint8_t *body = data;
        if (n < l->in.bytes) { /* not all of it is here, in one piece */
            if (!body_add(l, data, n)) {
                fail(l, MESH_BROKEN, strerror(ENOMEM));
                return false;
            }
            body = l->body;
        }
        data += n;
        len -= n;
        if (n < want)
            return true;
        const struct frame_head head = l->in;
        l->head_len = l->body_len = 0;
        l->handlers.frame(l->owner, &head, body);
        if (l->ended)
            return false;
        body_reset(l);
    }
    return true;
}

static void handshake(struct line *l)
{
    ERR_clear_error();
    int rc = SSL_do_handshake(l->ssl);
    int error = SSL_get_error(l->ssl, rc);
    if (rc == 1) {
        l->ready = true;
        mark(l);
        l->handlers.ready(l->owner);
        return;
    }
    mark(l); /* an alert, too, is to leave */
    if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE)
        return;
    char text[MESH_WHY_MAX];
    line_tls_error_text(text);
    flush(l);
    fail(l, MESH_HANDSHAKE, text);
}

static void unseal(struct line *l)
{
    while (!l->ended) {
        ERR_clear_error();
        int n = SSL_read(l->ssl, l->pool->plain, LINE_PLAIN_BYTES);
        if (n > 0) {
            if (!take_frames(l, l->pool->plain, (size_t)n))
                return;
            continue;
        }
        int error = SSL_get_error(l->ssl, n);
        if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) {
            mark(l);
            return;
        }
        char text[MESH_WHY_MAX];
        if (error == SSL_ERROR_ZERO_RETURN) {
            fail(l, MESH_CLOSED, mesh_reason_text(MESH_CLOSED));
            return;
        }
        line_tls_error_text(text);
        fail(l, MESH_BROKEN, text);
    }
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    const struct line *l = handle->data;
    (void)suggested;
    *buf = uv_buf_init((char *)l->pool->raw, LINE_READ_BYTES);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct line *l = stream->data;
    if (l->lingering) { /* until the other side has gone */
        if (n < 0)
            handles_close(l);
        return;
    }
    if (n < 0) {
        fail(l, MESH_BROKEN, n == UV_EOF ? "it ended without a close" : uv_strerror((int)n));
        return;
    }
    if (n == 0)
        return;
    l->received += (uint64_t)n;
    l->heard_ms = uv_now(l->pool->loop);
    CHECK(BIO_write(SSL_get_rbio(l->ssl), buf->base, (int)n) == n);
    if (!l->ready)
        handshake(l);
    if (l->ready && !l->ended)
        unseal(l);
}

/* ------------------------------------------------------------------ life */

static void begin(struct line *l)
{
    l->connected = true;
    uv_tcp_nodelay(&l->tcp, 1);
    int rc = uv_read_start((uv_stream_t *)&l->tcp, on_alloc, on_read);
    if (rc) {
        fail(l, MESH_BROKEN, uv_strerror(rc));
        return;
    }
    handshake(l);
}

static struct line *line_new(struct line_pool *pool, SSL_CTX *tls, const struct line_handlers *handlers,
                             void *owner)
{
    struct line *l = calloc(1, sizeof(*l));
    if (!l)
        return NULL;
    l->ssl = SSL_new(tls);
    BIO *in = BIO_new(BIO_s_mem()), *out = BIO_new(BIO_s_mem());
    if (!l->ssl || !in || !out || uv_tcp_init(pool->loop, &l->tcp)) {
        SSL_free(l->ssl);
        BIO_free(in);
        BIO_free(out);
        free(l);
        return NULL;
    }
    BIO_set_mem_eof_return(in, -1);
    SSL_set_bio(l->ssl, in, out);
    uv_timer_init(pool->loop, &l->linger);
    l->tcp.data = l->linger.data = l;
    l->handles = 2;
    l->pool = pool;
    l->handlers = *handlers;
    l->owner = owner;
    l->last = &l->first;
    l->limit = FRAME_GUEST_BODY_MAX;
    l->began_ms = l->heard_ms = uv_now(pool->loop);
    pool->open++;
    return l;
}

static void on_connected(uv_connect_t *connect, int status)
{
    struct line *l = connect->data;
    if (l->closing)
        return;
    if (status) {
        fail(l, MESH_CONNECT, uv_strerror(status));
        return;
    }
    l->heard_ms = uv_now(l->pool->loop);
    begin(l);
}

struct line *line_dial(struct line_pool *pool, SSL_CTX *tls, const struct config_address *to,
                       const struct line_handlers *handlers, void *owner)
{
    struct line *l = line_new(pool, tls, handlers, owner);
    if (!l)
        return NULL;
    SSL_set_connect_state(l->ssl);
    snprintf(l->peer, sizeof(l->peer), "%s", to->text);
    l->connect.data = l;
    l->failed = uv_tcp_connect(&l->connect, &l->tcp, (const struct sockaddr *)&to->addr, on_connected);
    if (l->failed)
        mark(l);
    return l;
}

struct line *line_accept(struct line_pool *pool, SSL_CTX *tls, uv_stream_t *listener,
                         const struct line_handlers *handlers, void *owner)
{
    struct config_address peer;
    uv_os_fd_t fd;
    struct line *l = line_new(pool, tls, handlers, owner);
    CHECK(l);
    SSL_set_accept_state(l->ssl);
    if (uv_accept(listener, (uv_stream_t *)&l->tcp)) {
        l->ended = true;
        handles_close(l);
        return NULL;
    }
    if (uv_fileno((uv_handle_t *)&l->tcp, &fd) == 0 && config_address_of_peer(fd, &peer) == 0)
        snprintf(l->peer, sizeof(l->peer), "%s", peer.text);
    l->connected = true;
    uv_tcp_nodelay(&l->tcp, 1);
    l->failed = uv_read_start((uv_stream_t *)&l->tcp, on_alloc, on_read);
    if (l->failed)
        mark(l);
    return l;
}

static void on_linger(uv_timer_t *timer)
{
    handles_close(timer->data);
}

void line_end(struct line *l, bool linger)
{
    if (l->ended)
        return;
    l->ended = true;
    if (l->ready)
        seal(l);
    if (l->ready && !l->closing)
        SSL_shutdown(l->ssl);
    l->lingering = linger && l->connected;
    flush(l);
    if (!l->lingering)
        handles_close(l);
    if (l->closing)
        return;
    uv_timer_start(&l->linger, on_linger, LINGER_MS, 0);
    mark(l);
}

void line_set_limit(struct line *l, size_t limit)
{
    l->limit = limit;
}

SSL *line_tls(const struct line *l)
{
    return l->ssl;
}

const char *line_peer(const struct line *l)
{
    return l->peer;
}

size_t line_queued(const struct line *l)
{
    return l->queued;
}

uint64_t line_sent(const struct line *l)
{
    return l->sent;
}

uint64_t line_received(const struct line *l)
{
    return l->received;
}

uint64_t line_began_ms(const struct line *l)
{
    return l->began_ms;
}

uint64_t line_heard_ms(const struct line *l)
{
    return l->heard_ms;
}

void line_pool_open(struct line_pool *pool, uv_loop_t *loop)
{
    memset(pool, 0, sizeof(*pool));
    pool->loop = loop;
    uv_prepare_init(loop, &pool->flush);
    pool->flush.data = pool;
    uv_prepare_start(&pool->flush, on_flush);
}

void line_pool_close(struct line_pool *pool, void (*closed)(void *arg), void *arg)
{
    pool->closing = true;
    pool->closed = closed;
    pool->arg = arg;
    pool_check(pool);
}
