/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whether what the peer's windows leave is worth a frame of content, or more of it is waited for. A peer that
 * opens its windows as it reads would else get each few bytes in a frame of their own, above all where
 * streams share the session's window. The rule is TCP's (RFC 9293, 3.8.6.2.1): a piece of a good size, all
 * that there is to send, or half of what the windows ever were (a peer whose windows are tiny gets its bytes,
 * too). Whoever waits for longer than H2_ROOM_WAIT_MS sends what fits.
 */
#ifndef FL_HTTP2_ROOM_H
#define FL_HTTP2_ROOM_H

#include <stdbool.h>
#include <stdint.h>

struct h2_session;
struct h2_stream;

enum { H2_PIECE_LEAST = 4096, H2_ROOM_WAIT_MS = 100 };

/* room: what the windows leave now, most: the most that they ever left, content: what there is to send. */
static inline bool h2_room_does(uint32_t room, uint32_t most, uint64_t content)
{
    return room > 0 && (room >= H2_PIECE_LEAST || room >= content || room >= most - most / 2);
}

/* For this stream, with so much content. False: the stream waits, and is looked at again when windows grow.
 */
bool h2_room_take(struct h2_stream *st, uint64_t content);
/* A frame was made of its content: it does not wait any more. */
void h2_room_used(struct h2_stream *st);
/* Whether h2_room_take would say yes to what it waits with (or to anything, if it does not wait). */
bool h2_room_ready(const struct h2_stream *st);

/* Before frames are made: those that need wait no longer go on. */
void h2_rooms_look(struct h2_session *s);
/* When the wait is over; UINT64_MAX: nobody waits. */
uint64_t h2_rooms_deadline(const struct h2_session *s);
void h2_rooms_expire(struct h2_session *s);

#endif
