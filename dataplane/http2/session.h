/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Within dataplane/http2: a session and its streams.
 *
 * session.c   life: made, closed, drained, time
 * session_io.c  bytes between the wire and nghttp2
 * frames.c    what nghttp2 tells: blocks of fields, content, ends
 * stream.c    a stream as a wire: orders of its user
 * content.c   what a stream has received and nobody has taken; what it sends
 * room.c      whether the peer's windows leave enough for a frame
 *
 * nghttp2 must not be asked for output from within its callbacks (session.in_callback): then orders wait for
 * the end of the batch.
 */
#ifndef FL_HTTP2_SESSION_H
#define FL_HTTP2_SESSION_H

#include <nghttp2/nghttp2.h>

#include "dataplane/http2/guard.h"
#include "dataplane/http2/http2.h"
#include "dataplane/http2/memory.h"
#include "dataplane/http2/room.h"
#include "dataplane/pool.h"
#include "dataplane/ring.h"
#include "dataplane/timer.h"
#include "dataplane/http/h1_to_h2.h"
#include "dataplane/http/h2_to_h1.h"

enum {
    H2_BLOCK_BYTES = 16 << 10, /* of content that nobody has taken */
    H2_BLOCKS = 4096,          /* of one ring */
    H2_BLOCKS_KEPT = 24,       /* are free before a session reads, besides one for each of its streams */
    H2_HOLDS = 256,            /* heads of messages to be sent that come in pieces */
    H2_OUT_BYTES = 64 << 10,   /* frames that wait for the wire */
    H2_OUT_RESERVE = 17 << 10, /* of it: any one frame fits */
    H2_IN_BYTES = 64 << 10,    /* received at a time; handled at once */
    H2_TURN_BYTES = 512 << 10, /* of one session in one batch, in each direction */
    H2_STREAM_WINDOW = 256 << 10,
    H2_SESSION_WINDOW = 1 << 20,
    H2_EAGER_BYTES =
        2 << 20, /* content of a client's streams that nobody has taken, up to which more comes */
    H2_CROWDED_BYTES = 1 << 20, /* the same of a backend's: beyond it, windows are small, */
    H2_SMALL_WINDOW = 64 << 10, /* which is this, */
    H2_WINDOWS_MS = 1000,       /* for so long at least */
    H2_SHARE = 4,               /* a session may have this part of the blocks that are free */
    H2_SHARE_LEAST = H2_STREAM_WINDOW / H2_BLOCK_BYTES, /* who holds more than these stops first */
    H2_ALLOWANCE_BASE = 96 << 10,                       /* of nghttp2's memory for a session, */
    H2_ALLOWANCE_STREAM = 8 << 10,                      /* for each stream that it may have, */
    H2_ALLOWANCE_HEADS = 3,                             /* and times the largest head */
    H2_ALLOWANCE_REQUEST = 2,                           /* the same for each stream to a backend */
    H2_DRAIN_MS = 1000,                                 /* from the notice to the end of new streams */
};

struct h2_stream;

struct h2_block {
    struct h2_block *next;
    uint32_t at, len;
    uint8_t data[];
};

enum { H2_BLOCK_ROOM = H2_BLOCK_BYTES - (int)sizeof(struct h2_block) };

enum h2_session_state {
    H2_OPEN,
    H2_CLOSING, /* GOAWAY is on its way */
    H2_LINGER,  /* sent; what still comes is dropped, so that the peer can read it */
    H2_GONE,    /* orders under way are waited for, then the wire is closed */
};

struct h2_session {
    struct h2_session *next, **prev; /* in http2->sessions */
    struct h2_session *next_ready;
    struct h2_session *next_dry, **prev_dry; /* in http2->dry, or prev_dry is NULL */
    struct http2 *h;
    struct ring *ring;
    struct wire wire;
    struct op in, out;
    struct timer timer;
    nghttp2_session *ng;
    struct h2_allowance allowance;
    struct h2_guard guard;
    struct h2_user user; /* of a session towards a backend */
    struct conn_peer peer;
    uint16_t service;
    uint8_t state;  /* enum h2_session_state; written by session_move alone */
    uint8_t reason; /* enum close_reason, once it closes */
    bool client;    /* the role: true towards a backend */
    bool in_ready, in_callback, input_due, draining, last_goaway, wire_closed, tell_changed;
    bool stale;       /* its service is no more */
    bool peer_goaway; /* of a backend: no new streams */
    uint32_t streams_max, stream_count;
    uint32_t requests;
    struct h2_stream *streams;
    struct h2_stream *turn; /* of those that wait for room, the one whose turn it is */
    /* A block of fields that is being received. */
    struct h2_head head;
    char *head_memory;
    int32_t head_stream;
    uint64_t head_since_ms; /* 0: none */
    /* Frames that wait for the wire: [out_at, out_end) of out_buffer. */
    uint8_t *out_buffer;
    uint32_t out_at, out_end;
    uint64_t out_total;    /* bytes of frames ever made */
    uint64_t out_since_ms; /* the wire takes nothing since; 0: it does */
    uint64_t idle_since_ms, close_by_ms, goaway_at_ms;
    uint64_t queued;    /* content of all streams that nobody has taken */
    uint64_t withheld;  /* of it: not yet given back to the session's window */
    uint32_t blocks;    /* that its streams hold */
    bool windows_small; /* new streams and old ones have H2_SMALL_WINDOW, since then: */
    uint64_t windows_at_ms;
    uint64_t room_since_ms; /* streams wait for more room in the peer's windows since; 0: none does */
    uint32_t room_most;     /* that the session's window ever left */
    bool room_now;          /* for long enough: one frame is made of what there is */
};

enum h2_order {
    H2_ORDER_NONE,
    H2_ORDER_RECV,
    H2_ORDER_RECV_INTO,
    H2_ORDER_POLL_IN,
    H2_ORDER_POLL_HUP,
    H2_ORDER_SEND,
    H2_ORDER_POLL_OUT
};

struct h2_stream {
    struct wire_over over;          /* first */
    struct h2_stream *next, **prev; /* in session->streams, or http2->dead */
    struct http2 *h;
    struct h2_session *session; /* NULL: it is gone */
    int32_t id;                 /* 0: no request is sent yet */
    bool client;
    bool open;         /* nghttp2 knows it */
    bool released;     /* its user has closed the wire */
    bool head_request; /* the response has no content */
    bool dead;         /* in http2->dead */
    /* Receiving: text and content, framed, in blocks. */
    struct h2_block *first, *last;
    uint32_t blocks;       /* from first to last */
    uint64_t queued, owed; /* bytes in blocks; content that is not given back to the stream's window */
    uint8_t framing;       /* enum h2_framing of the content that comes */
    bool final_head;       /* the head of the final message has come: fields that follow are trailers */
    bool end_received;     /* the message is complete */
    int in_error;          /* what comes after what is queued; 0: the end, once end_received */
    uint8_t in_order;      /* enum h2_order */
    void *in_buffer;
    size_t in_cap;
    struct op *in_op;
    struct loop_post in_post;
    /* Sending. */
    struct h1_reader reader;
    bool head_sent;    /* the final head is with nghttp2: content follows by its calls */
    bool head_out;     /* a frame of it has gone out */
    bool end_taken;    /* the whole message was taken */
    bool end_sent;     /* and its end is framed */
    bool stop_wanted;  /* once it is: the other side need not send the rest */
    bool out_shut;     /* the user sends no more */
    int out_error;     /* nothing can be sent any more */
    uint8_t out_order; /* enum h2_order */
    const struct iovec *iov;
    size_t iov_count, iov_at, taken; /* bytes of iov[0] and of all that are taken */
    struct iovec one;
    struct op *out_op;
    struct loop_post out_post, close_post;
    const char *content;  /* of the frame that is being made */
    uint64_t sent_at;     /* session->out_total after the last frame of it */
    uint32_t room_most;   /* that its window ever left */
    uint32_t room_wanted; /* it waits for so much in the peer's windows; 0: it does not */
};

struct http2 {
    struct ring *ring;
    struct h2_memory memory;
    struct pool sessions, streams, blocks, outs, heads, holds;
    uint8_t *in;
    nghttp2_session_callbacks *callbacks;
    nghttp2_option *server_option, *client_option;
    struct h2_session *session_list;
    struct h2_session *ready, **ready_tail;
    struct h2_stream *dead;             /* whose last completion is on its way */
    struct h2_session *dry, **dry_tail; /* who do not read for want of blocks */
    uint32_t accepted;                  /* sessions of clients */
    bool draining;
};

/* session.c */
struct h2_session *h2_session_make(struct http2 *h, const struct wire *wire, bool client);
void h2_session_ready(struct h2_session *s);
void h2_session_time(struct h2_session *s); /* a deadline may have come nearer */
void h2_session_close(struct h2_session *s, enum close_reason reason, uint32_t code); /* says GOAWAY first */
void h2_session_lost(struct h2_session *s, enum close_reason reason); /* the wire is of no use */
void h2_session_flushed(struct h2_session *s); /* nothing waits for the wire: a step towards the end */
void h2_session_step_gone(struct h2_session *s);
void h2_session_fail(struct h2_session *s, int ng_error); /* nghttp2 has given up */
void h2_session_drain(struct h2_session *s);
void h2_session_count_stream(struct h2_session *s, int change);

/* session_io.c */
void h2_session_wait_input(struct h2_session *s);
bool h2_session_has_blocks(const struct h2_session *s); /* what can come out of one reading has a place */
void h2_session_moisten(struct h2_session *s);          /* not dry any more, if it was */
void h2_session_feed(struct h2_session *s, const uint8_t *bytes, size_t len);
int h2_session_fill(struct h2_session *s); /* frames into the buffer; nghttp2's error */
void h2_session_turn(struct h2_session *s);
void h2_session_io_init(struct h2_session *s);
void h2_session_out_drop(struct h2_session *s);

/* frames.c */
nghttp2_session_callbacks *h2_callbacks_new(void);
void h2_head_drop(struct h2_session *s);

/* stream.c */
extern const struct wire_ops h2_wire_ops;
struct h2_stream *h2_stream_make(struct h2_session *s, int32_t id);
void h2_stream_reset(struct h2_stream *st, uint32_t code);
void h2_stream_gone(struct h2_stream *st, int error);   /* nghttp2 knows it no more */
void h2_stream_orphan(struct h2_stream *st, int error); /* and its session is ending; what has come stays */
void h2_stream_input(struct h2_stream *st);             /* something came: the receiving order */
void h2_stream_output(struct h2_stream *st);            /* after frames were made: the sending order */
bool h2_stream_writable(const struct h2_stream *st);
void h2_stream_try_free(struct h2_stream *st);
bool h2_stream_waits_room(const struct h2_stream *st);

/* content.c */
bool h2_queue_put(struct h2_stream *st, const void *bytes, size_t len); /* false: no memory */
bool h2_queue_content(struct h2_stream *st, const uint8_t *bytes, size_t len);
size_t h2_queue_take(struct h2_stream *st, void *out, size_t cap);
void h2_queue_drop(struct h2_stream *st);
void h2_queue_leave(struct h2_stream *st);  /* what is queued stays, but counts for the session no more */
void h2_share_look(struct h2_session *s);   /* there may be more blocks again */
void h2_windows_look(struct h2_session *s); /* the windows of its streams fit what is queued */
void h2_send_heads(struct h2_stream *st);   /* takes what is there of a head */
void h2_send_drop(struct h2_stream *st);    /* the memory of a head in pieces */
ssize_t h2_send_read(nghttp2_session *ng, int32_t id, uint8_t *buf, size_t length, uint32_t *flags,
                     nghttp2_data_source *source, void *user);
int h2_send_data(nghttp2_session *ng, nghttp2_frame *frame, const uint8_t *head, size_t length,
                 nghttp2_data_source *source, void *user);

/* server.c */
void h2_request_begin(struct h2_session *s, int32_t id, bool end_stream); /* session->head is complete */

#endif
