/* SPDX-License-Identifier: Apache-2.0 */
/* What a ring has for HTTP/2, and its part in each batch. */
#include "dataplane/http2/http2.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "check.h"
#include "dataplane/membership.h"
#include "dataplane/http2/session.h"

enum {
    SESSIONS_MOST = 65536, /* of one ring; as many as it has connections, if that is less */
    STREAMS_FACTOR =
        3, /* of requests at work: a stream towards a client, one towards a backend, one that ends */
    ACKS_MOST = 200, /* that wait to be sent: a peer that does not read them asks for no more */
    BLOCK_MOST =
        HEADER_BYTES_CEILING + 16 * 1024, /* nghttp2's guess at what a head is as a block of fields */
};

/* ------------------------------------------------------------------ making */

static int options_new(struct http2 *h)
{
    if (nghttp2_option_new(&h->server_option) || nghttp2_option_new(&h->client_option))
        return -ENOMEM;
    nghttp2_option *both[] = {h->server_option, h->client_option};
    for (int i = 0; i < 2; i++) {
        nghttp2_option_set_no_auto_window_update(both[i], 1);
        nghttp2_option_set_no_closed_streams(both[i], 1);
        nghttp2_option_set_max_outbound_ack(both[i], ACKS_MOST);
        nghttp2_option_set_max_send_header_block_length(both[i], BLOCK_MOST);
    }
    return 0;
}

static int pools_init(struct http2 *h)
{
    uint32_t conns = (uint32_t)ring_setting(h->ring, SET_HTTP_CONNECTIONS_MAX);
    uint32_t sessions = conns < SESSIONS_MOST ? conns : SESSIONS_MOST;
    uint32_t streams = (uint32_t)ring_setting(h->ring, SET_HTTP_STREAMS_MAX) * STREAMS_FACTOR;
    const struct {
        struct pool *pool;
        size_t size;
        uint32_t count;
    } pools[] = {
        {&h->sessions, sizeof(struct h2_session), sessions},
        {&h->streams, sizeof(struct h2_stream), streams},
        {&h->blocks, H2_BLOCK_BYTES, H2_BLOCKS},
        {&h->outs, H2_OUT_BYTES, sessions},
        {&h->heads, HEADER_BYTES_CEILING, sessions},
        {&h->holds, HEADER_BYTES_CEILING, H2_HOLDS},
    };
    for (size_t i = 0; i < ARRAY_SIZE(pools); i++)
        if (pool_init(pools[i].pool, pools[i].size, pools[i].count))
            return -ENOMEM;
    return h2_memory_init(&h->memory, sessions);
}

int http2_new(struct ring *ring, struct http2 **out)
{
    struct http2 *h = calloc(1, sizeof(*h));
    if (!h)
        return -ENOMEM;
    h->ring = ring;
    h->ready_tail = &h->ready;
    h->dry_tail = &h->dry;
    h->in = mmap(NULL, H2_IN_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    h->callbacks = h2_callbacks_new();
    *out = h;
    if (h->in == MAP_FAILED || !h->callbacks)
        return -ENOMEM; /* the process ends: nothing to undo */
    int err = options_new(h);
    return err ? err : pools_init(h);
}

void http2_free(struct http2 *h)
{
    struct pool *pools[] = {&h->sessions, &h->streams, &h->blocks, &h->outs, &h->heads, &h->holds};
    for (size_t i = 0; i < ARRAY_SIZE(pools); i++)
        pool_fini(pools[i]);
    h2_memory_fini(&h->memory);
    nghttp2_option_del(h->server_option);
    nghttp2_option_del(h->client_option);
    nghttp2_session_callbacks_del(h->callbacks);
    munmap(h->in, H2_IN_BYTES);
    free(h);
}

void http2_trim(struct http2 *h, uint32_t most)
{
    struct pool *pools[] = {&h->sessions, &h->streams, &h->blocks, &h->outs, &h->heads, &h->holds};
    for (size_t i = 0; i < ARRAY_SIZE(pools); i++)
        pool_trim(pools[i], most);
    h2_memory_trim(&h->memory, most);
    for (struct h2_session *s = h->session_list; s; s = s->next)
        h2_share_look(s);
}

/* ------------------------------------------------------------------ running */

bool http2_pending(const struct http2 *h)
{
    return h->ready != NULL;
}

bool http2_idle(const struct http2 *h)
{
    return h->accepted == 0;
}

static void wake_dry(struct http2 *h)
{
    for (struct h2_session *s = h->dry, *next; s; s = next) {
        next = s->next_dry;
        if (!h2_session_has_blocks(s))
            continue;
        h2_session_moisten(s);
        s->input_due = true;
        h2_session_ready(s);
    }
}

static void reap(struct http2 *h)
{
    for (struct h2_stream *st = h->dead, *next; st; st = next) {
        next = st->next;
        h2_stream_try_free(st);
    }
}

static void turn(struct h2_session *s)
{
    if (s->state != H2_GONE)
        h2_session_turn(s);
    if (s->tell_changed && s->user.changed && s->state != H2_GONE) {
        s->tell_changed = false;
        s->user.changed(s->user.arg, s);
    }
    h2_session_step_gone(s);
}

void http2_run(struct http2 *h)
{
    wake_dry(h);
    struct h2_session *s = h->ready;
    h->ready = NULL;
    h->ready_tail = &h->ready;
    while (s) {
        struct h2_session *next = s->next_ready;
        s->in_ready = false;
        turn(s);
        s = next;
    }
    if (h->dead)
        reap(h);
}

void http2_expire(struct http2 *h, const struct plan *old, const struct plan *plan)
{
    for (struct h2_session *s = h->session_list; s; s = s->next) {
        if (!s->client && member_is_gone(plan, s->service, &s->wire)) {
            h2_session_close(s, CLOSE_NODE_REMOVED, NGHTTP2_NO_ERROR);
            continue;
        }
        if (s->client || s->stale || plan_same_service(old, plan, s->service))
            continue;
        s->stale = true;
        h2_session_drain(s);
    }
}

void http2_drain(struct http2 *h)
{
    h->draining = true;
    for (struct h2_session *s = h->session_list; s; s = s->next)
        if (!s->client)
            h2_session_drain(s);
}

void http2_end(struct http2 *h)
{
    for (struct h2_session *s = h->session_list; s; s = s->next)
        h2_session_close(s, s->client ? CLOSE_H2_STREAM : CLOSE_DRAIN_TIMEOUT, NGHTTP2_NO_ERROR);
}
