/* SPDX-License-Identifier: Apache-2.0 */
/* A handshake's steps: on the ring, waiting for the socket; on a helper, computing, but for what costs
 * little. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>

#include "check.h"
#include "dataplane/tls/errors.h"
#include "dataplane/tls/tls_private.h"

static void wait_done(struct op *op, const struct event *ev);

int tls_ring_new(struct ring *ring, struct tls_helpers *helpers, uint32_t connections, uint32_t senders,
                 struct tls_ring **out)
{
    struct tls_ring *tr = calloc(1, sizeof(*tr));
    if (!tr)
        return -ENOMEM;
    tr->ring = ring;
    tr->loop = ring->loop;
    tr->helpers = helpers;
    tr->starved_tail = &tr->starved;
    if (pool_init(&tr->wires, sizeof(struct tls), connections) ||
        pool_init(&tr->outs, TLS_OUT_BYTES, senders) || pool_init(&tr->names, TLS_NAME_MAX, senders)) {
        tls_ring_free(tr);
        return -ENOMEM;
    }
    *out = tr;
    return 0;
}

/* Connections to backends may be open to the end. */
void tls_ring_free(struct tls_ring *tr)
{
    while (tr->open)
        tls_give(tr->open);
    pool_fini(&tr->wires);
    pool_fini(&tr->outs);
    pool_fini(&tr->names);
    free(tr);
}

void tls_ring_trim(struct tls_ring *tr, uint32_t most)
{
    pool_trim(&tr->outs, most);
}

bool tls_ring_idle(const struct tls_ring *tr)
{
    return tr->away == 0;
}

/* ------------------------------------------------------------------ on the ring */

static void finish(struct tls *t, enum tls_failure failure)
{
    tls_done *done = t->done;
    void *arg = t->arg;
    struct ring *r = t->tr->ring;
    if (t->name)
        pool_give(&t->tr->names, (void *)(uintptr_t)t->name);
    t->name = NULL;
    t->handshaking = false;
    if (failure == TLS_OK) {
        struct wire wire = {.loop = t->tr->loop, .fd = t->fd, .over = &t->over};
        ring_count(r, CTR_TLS_HANDSHAKES, 1);
        ring_count(r, CTR_TLS_RESUMED, (uint64_t)SSL_session_reused(t->ssl));
        ring_count(r, CTR_TLS_KERNEL, t->kernel_send);
        tls_wire_begin(t);
        done(arg, TLS_OK, &wire);
        return;
    }
    if (failure != TLS_CANCELED)
        ring_count(r, failure == TLS_BUSY ? CTR_TLS_TURNED_AWAY : CTR_TLS_FAILED, 1);
    tls_give(t);
    done(arg, failure, NULL);
}

static void hand_over(struct tls *t)
{
    if (!tls_helpers_give(t->tr->helpers, t, t->ssl == NULL)) {
        finish(t, TLS_BUSY);
        return;
    }
    t->with_helper = true;
    t->tr->away++;
}

static void stepped(struct tls *t)
{
    if (t->canceled)
        finish(t, TLS_CANCELED);
    else if (t->step == STEP_DONE)
        finish(t, TLS_OK);
    else if (t->step == STEP_FAILED)
        finish(t, t->failure);
    else
        loop_poll(t->tr->loop, &t->in, t->fd, t->step == STEP_WANT_WRITE ? POLLOUT : POLLIN);
}

/*
 * What is left of a handshake in TLS 1.3 after our flight is to check the client's Finished and to make a
 * ticket: 40 us, as much as a relayed request, and no key is used that would take longer. The way to a helper
 * and back costs a quarter of that. A client's certificate is another matter.
 */
static bool is_cheap(const struct tls *t)
{
    return t->server && t->ssl && SSL_get_state(t->ssl) == TLS_ST_EARLY_DATA &&
           (!(SSL_get_verify_mode(t->ssl) & SSL_VERIFY_PEER) || SSL_session_reused(t->ssl));
}

/* The socket says that there is something to do, or that nothing will ever be: OpenSSL finds out which. */
static void wait_done(struct op *op, const struct event *ev)
{
    struct tls *t = container_of(op, struct tls, in);
    if (t->canceled) {
        finish(t, TLS_CANCELED);
    } else if (ev->res < 0) {
        finish(t, TLS_LOST);
    } else if (is_cheap(t)) {
        tls_handshake_step(t, tls_helpers_method(t->tr->helpers));
        stepped(t);
    } else {
        hand_over(t);
    }
}

static void came_back(struct tls *t)
{
    t->with_helper = false;
    t->tr->away--;
    stepped(t);
}

void tls_ring_turn(struct tls_ring *tr)
{
    if (!atomic_load_explicit(&tr->returned, memory_order_relaxed))
        return;
    struct tls *t = atomic_exchange(&tr->returned, NULL);
    while (t) {
        struct tls *next = t->next_job;
        came_back(t);
        t = next;
    }
}

static struct tls *begin(struct tls_ring *tr, int fd, struct tls_context *context, tls_done *done, void *arg)
{
    struct tls *t = pool_take(&tr->wires);
    if (!t) {
        ring_count(tr->ring, CTR_BUFFERS_EXHAUSTED, 1);
        return NULL;
    }
    memset(t, 0, sizeof(*t));
    t->over.ops = &tls_wire_ops;
    t->tr = tr;
    t->fd = fd;
    t->context = tls_context_get(context);
    t->done = done;
    t->arg = arg;
    t->handshaking = true;
    t->in.done = wait_done;
    t->next_open = tr->open;
    t->prev_open = &tr->open;
    if (t->next_open)
        t->next_open->prev_open = &t->next_open;
    tr->open = t;
    return t;
}

/* A helper is troubled only when the client has said something. */
struct tls *tls_accept(struct tls_ring *tr, int fd, struct tls_context *context, tls_done *done, void *arg)
{
    struct tls *t = begin(tr, fd, context, done, arg);
    if (!t)
        return NULL;
    t->server = true;
    loop_poll(tr->loop, &t->in, fd, POLLIN);
    return t;
}

struct tls *tls_connect(struct tls_ring *tr, int fd, struct tls_context *context, const char *name,
                        uint64_t session_key, tls_done *done, void *arg)
{
    struct tls *t = strlen(name) < TLS_NAME_MAX ? begin(tr, fd, context, done, arg) : NULL;
    char *copy = t ? pool_take(&tr->names) : NULL;
    int flags = fcntl(fd, F_GETFL);
    if (!copy || flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK)) {
        if (copy)
            pool_give(&tr->names, copy);
        if (t)
            tls_give(t);
        return NULL;
    }
    memcpy(copy, name, strlen(name) + 1);
    t->name = copy;
    t->session_key = session_key;
    loop_poll(tr->loop, &t->in, fd, POLLOUT);
    return t;
}

void tls_offer_http1(struct tls *t)
{
    t->http1 = true;
}

void tls_handshake_cancel(struct tls *t)
{
    t->canceled = true;
    if (!t->with_helper)
        loop_cancel(t->tr->loop, &t->in);
}

/* ------------------------------------------------------------------ a step, on whatever thread */

static bool ssl_make(struct tls *t)
{
    static const unsigned char http1[] = "\x08http/1.1";
    t->ssl = tls_context_ssl(t->context, t->name, t->session_key);
    BIO *socket = t->ssl ? BIO_new_socket(t->fd, BIO_NOCLOSE) : NULL;
    if (!socket)
        return false;
    SSL_set_bio(t->ssl, socket, socket);
    if (t->http1 && SSL_set_alpn_protos(t->ssl, http1, sizeof(http1) - 1))
        return false;
    /* A flight by one call, and not each record by two; what comes behind it waits in OpenSSL's memory, where
       the kernel could not open it. */
    if (!(SSL_get_options(t->ssl) & SSL_OP_ENABLE_KTLS))
        SSL_set_read_ahead(t->ssl, 1);
    if (t->server)
        SSL_set_accept_state(t->ssl);
    else
        SSL_set_connect_state(t->ssl);
    return true;
}

/* Records are OpenSSL's from here on, unless the kernel has taken them over: then it has the keys. */
static bool settle(struct tls *t, const BIO_METHOD *out_method)
{
    t->kernel_send = BIO_get_ktls_send(SSL_get_wbio(t->ssl));
    t->kernel_recv = BIO_get_ktls_recv(SSL_get_rbio(t->ssl));
    if (!t->kernel_recv) {
        SSL_set_read_ahead(t->ssl, 1);
        SSL_set_default_read_buffer_len(t->ssl, TLS_IN_BYTES);
    }
    if (t->kernel_send)
        return true;
    BIO *out = BIO_new(out_method);
    if (!out)
        return false;
    BIO_set_data(out, t);
    BIO_set_init(out, 1);
    SSL_set0_wbio(t->ssl, out);
    return true;
}

static enum tls_failure failure_of(const struct tls *t, int error)
{
    unsigned long code = ERR_peek_error();
    int reason = ERR_GET_REASON(code);
    if (error == SSL_ERROR_SYSCALL || reason == SSL_R_UNEXPECTED_EOF_WHILE_READING)
        return TLS_LOST;
    if (reason == SSL_R_HTTP_REQUEST || reason == SSL_R_HTTPS_PROXY_REQUEST)
        return TLS_CLEAR;
    if (reason == SSL_R_CERTIFICATE_VERIFY_FAILED || reason == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE ||
        SSL_get_verify_result(t->ssl) != X509_V_OK)
        return TLS_CERTIFICATE;
    return TLS_FAILED;
}

void tls_handshake_step(struct tls *t, const BIO_METHOD *out_method)
{
    ERR_clear_error();
    t->step = STEP_FAILED;
    t->failure = TLS_BUSY;
    if (!t->ssl && !ssl_make(t))
        return;
    int ret = SSL_do_handshake(t->ssl);
    if (ret == 1) {
        t->step = settle(t, out_method) ? STEP_DONE : STEP_FAILED;
        return;
    }
    int error = SSL_get_error(t->ssl, ret);
    if (error == SSL_ERROR_WANT_READ)
        t->step = STEP_WANT_READ;
    else if (error == SSL_ERROR_WANT_WRITE)
        t->step = STEP_WANT_WRITE;
    else
        t->failure = (uint8_t)failure_of(t, error);
    ERR_clear_error();
}
