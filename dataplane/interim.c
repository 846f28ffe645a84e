/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Interim answers (RFC 9110, 15.2) on their way to the client, before the answer. They stand one behind the
 * other in the part of the stream's memory for answers that a head does not use, and nothing is used twice:
 * so one request causes no more of them than fit there, however slowly its client reads.
 */
#include <string.h>

#include "dataplane/stream_private.h"

enum {
    INTERIM_BYTES = STREAM_RESPONSE_BYTES - RESPONSE_HEAD_MAX,
    CONTINUE_ROOM = 32, /* is left for the one that the client waits for */
};

static char *memory(struct stream_full *f)
{
    return f->response_own + RESPONSE_HEAD_MAX;
}

static bool takes_any(const struct stream_full *f)
{
    return !f->responded && !f->gone;
}

static void order(struct stream_full *f)
{
    struct conn *c = f->s.conn;
    f->interim_pending = true;
    wire_send(&c->wire, &c->out, memory(f) + f->interim_at, (size_t)f->interim_len - f->interim_at, 0);
}

char *stream_interim_room(struct stream *s, size_t *cap)
{
    struct stream_full *f = stream_full(s);
    size_t used = f->interim_len + CONTINUE_ROOM;
    if (!takes_any(f) || s->req.version_minor == 0 || used >= INTERIM_BYTES)
        return NULL;
    *cap = INTERIM_BYTES - used;
    return memory(f) + f->interim_len;
}

void stream_interim(struct stream *s, size_t len)
{
    struct stream_full *f = stream_full(s);
    f->interim_len = (uint16_t)(f->interim_len + len);
    if (!f->interim_pending)
        order(f);
}

void interim_continue(struct stream_full *f)
{
    static const char text[] = "HTTP/1.1 100 Continue\r\n\r\n";
    _Static_assert(sizeof(text) - 1 <= CONTINUE_ROOM, "there is always room for it, once");
    f->continued = true;
    memcpy(memory(f) + f->interim_len, text, sizeof(text) - 1);
    stream_interim(&f->s, sizeof(text) - 1);
}

void stream_continue(struct stream *s)
{
    struct stream_full *f = stream_full(s);
    if (s->req.expect_continue && takes_any(f) && !f->continued)
        interim_continue(f);
}

void interim_sent(struct stream_full *f, const struct event *ev)
{
    f->interim_pending = false;
    if (f->gone) {
        ring_ready(f->s.ring, &f->s);
        return;
    }
    if (ev->res < 0) {
        conn_close(f->s.conn, CLOSE_CLIENT_ABORT);
        return;
    }
    f->interim_at = (uint16_t)(f->interim_at + ev->res);
    if (f->interim_at < f->interim_len)
        order(f);
    else if (f->state == STREAM_SEND && f->send.kind != SEND_FILL)
        send_begin(f);
    else
        ring_ready(f->s.ring, &f->s);
}
