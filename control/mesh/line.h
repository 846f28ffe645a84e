/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One connection of the mesh: TCP on libuv, TLS over memory, frames out and in. It knows nothing of nodes:
 * whoever owns it checks the other side's certificate when it is ready and before it sends anything.
 *
 * What is sent in one turn of the loop leaves together at its end. A line ends once, by line_end or by
 * itself, and then calls nobody any more; its memory goes when libuv lets go of it. The owner must not end it
 * from inside line_send, and may from inside any handler.
 */
#ifndef FL_MESH_LINE_H
#define FL_MESH_LINE_H

#include "control/mesh/frame.h"
#include "control/mesh/openssl.h"

struct line;

struct line_handlers {
    void (*ready)(void *owner);
    void (*frame)(void *owner, const struct frame_head *head, const uint8_t *body);
    void (*ended)(void *owner, enum mesh_reason why, const char *text);
    void (*drained)(void *owner); /* something left the queue. May be NULL */
};

enum { LINE_READ_BYTES = 64 << 10, LINE_PLAIN_BYTES = 16 << 10 };

/* What the lines of one loop share. */
struct line_pool {
    uv_loop_t *loop;
    uv_prepare_t flush;
    struct line *dirty; /* have something to do at the end of the turn */
    size_t open;        /* lines that are there still */
    bool closing;
    void (*closed)(void *arg);
    void *arg;
    uint8_t raw[LINE_READ_BYTES], plain[LINE_PLAIN_BYTES], out[LINE_PLAIN_BYTES];
};

void line_pool_open(struct line_pool *pool, uv_loop_t *loop);
/* All lines must have been ended. closed() comes from the loop. */
void line_pool_close(struct line_pool *pool, void (*closed)(void *arg), void *arg);

/* Connects. NULL without memory; everything else is told by `ended`, from the loop. */
struct line *line_dial(struct line_pool *pool, SSL_CTX *tls, const struct config_address *to,
                       const struct line_handlers *handlers, void *owner);
/* Takes a connection that waits. NULL: it is gone. */
struct line *line_accept(struct line_pool *pool, SSL_CTX *tls, uv_stream_t *listener,
                         const struct line_handlers *handlers, void *owner);

/* Copies body. 0, -ENOMEM, -ENOBUFS if more than max bytes would wait behind others. */
int line_send(struct line *line, uint16_t type, uint64_t id, const void *body, size_t len, size_t max);

/* Bodies up to this are read; FRAME_GUEST_BODY_MAX to begin with. */
void line_set_limit(struct line *line, size_t limit);

/* Does not call ended(). linger: what was sent before gets a moment to arrive. */
void line_end(struct line *line, bool linger);

SSL *line_tls(const struct line *line);
const char *line_peer(const struct line *line); /* its address */
size_t line_queued(const struct line *line);
uint64_t line_sent(const struct line *line), line_received(const struct line *line);
/* Of the loop's clock: when it began, and when something came last. */
uint64_t line_began_ms(const struct line *line), line_heard_ms(const struct line *line);

#endif
