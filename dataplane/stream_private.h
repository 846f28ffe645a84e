/* SPDX-License-Identifier: Apache-2.0 */
/* The part of a stream that handlers do not see: body, response and bookkeeping. */
#ifndef FL_STREAM_PRIVATE_H
#define FL_STREAM_PRIVATE_H

#include <sys/socket.h>

#include "dataplane/conn.h"
#include "dataplane/loop.h"
#include "dataplane/ring.h"
#include "dataplane/stream.h"
#include "dataplane/http/chunked.h"

enum {
    STREAM_HEAD_BYTES = 4096,     /* a larger head takes one of the ring's large ones */
    STREAM_RESPONSE_BYTES = 8192, /* head, and the body behind it if it is small */
    STREAM_SMALL_BODY = 8192,     /* a body that needs no memory of its own */
};

/* What the handler has done so far, and what is left of the request's body: two independent tracks. */
enum stream_state {
    STREAM_OPEN, /* the handler has not answered */
    STREAM_SEND, /* the response is going out */
    STREAM_DONE, /* sent, or given up: waits for orders under way */
};

enum body_state {
    BODY_COMPLETE, /* none, or all of it is read */
    BODY_UNREAD,   /* nobody has asked for it */
    BODY_READ,     /* being read into a sink */
    BODY_FAILED,   /* it will not be complete: the handler was told */
};

enum body_sink { SINK_NONE, SINK_MEMORY, SINK_UPLOAD, SINK_RELAY };

struct body {
    uint8_t state;     /* enum body_state */
    uint8_t sink;      /* enum body_sink */
    bool recv_direct;  /* more bytes are likely there: receive without waiting for readiness */
    bool polling;      /* conn\'s receiving order waits for readiness */
    size_t asked;      /* bytes that it was told to receive otherwise */
    bool told;         /* handler.body_done was called */
    bool unlimited;    /* SINK_RELAY: it may come as slowly as it likes */
    bool appending;    /* the upload has tx */
    bool from_pool;    /* memory is one of the ring's manifest slots */
    int error;         /* what body_done gets, once nothing is under way */
    uint64_t left;     /* bytes to come (length framing) */
    uint64_t received; /* content bytes so far */
    uint64_t start_ms, progress_ms;
    uint64_t rated_from; /* SINK_RELAY: received at start_ms, since when the client is waited for */
    struct http_chunked chunked;
    /* memory */
    char *memory;
    size_t memory_cap, memory_len, memory_max;
    /* upload: rx is being filled while tx is being written */
    struct upload *upload;
    char *rx, *tx;
    size_t rx_len, rx_cap; /* bytes; rx_cap: the buffer is full then */
    uint64_t tx_end; /* of the file, with tx: its size has grown by some of it before that is done with */
    struct waiter appended;
    const struct pump *pump; /* SINK_RELAY: the handler's */
};

enum send_kind { SEND_NONE, SEND_BYTES, SEND_FILE, SEND_FILL, SEND_RELAY };

struct sending {
    uint8_t kind; /* enum send_kind */
    bool started; /* the first byte was handed to the socket */
    bool polling; /* conn's sending order waits for room in the socket */
    bool delayed; /* the socket may wait for full segments (conn_nodelay is off) */
    bool copying; /* a cold piece goes through a buffer */
    bool filled;  /* the fill function is done */
    bool chunked;
    bool head_only;
    struct iovec iov[2];
    struct msghdr msg;
    struct blob *blob;
    uint64_t offset, left; /* of the file */
    stream_fill *fill;
    char *buffer;            /* a body buffer, for cold pieces and for fill */
    struct op file, ahead;   /* reading of a cold piece; reading ahead of it */
    uint64_t warmed;         /* the offset of the piece that was read ahead last, */
    bool was_warmed;         /* if one was */
    bool warming;            /* its reading is under way */
    uint64_t ahead_to;       /* where reading ahead was ordered to, once it was */
    uint8_t byte;            /* its end */
    uint64_t sent;           /* bytes of the response that the socket took */
    uint64_t acked_seen;     /* and that the client had acknowledged at the last look */
    const struct pump *pump; /* SEND_RELAY: the handler's */
    uint64_t pumped;         /* of its bytes, in sent */
    uint64_t progress_ms;    /* the client is known to have read then */
    void (*ready)(struct stream *s);
    bool head_out;  /* SEND_RELAY: the pump may begin, or has */
    bool unlimited; /* the client may take nothing for long */
    bool until_end; /* the end of the connection is the end of the body */
};

struct stream_full {
    struct stream s; /* first: handlers see this */
    struct stream *next_ready, *next_starved;
    struct stream *next_unwatched;  /* in ring->unwatched, */
    struct stream **prev_unwatched; /* if this is not NULL */
    bool in_ready, in_starved, gone, responded, close_after, cut;
    bool held;                        /* a handler's call is on the stack: the stream outlives it */
    bool abort_due;                   /* the handler's abort comes at the next turn, */
    bool abort_told;                  /* or has come */
    bool continued;                   /* 100 was relayed */
    bool half_close;                  /* a client that sends no more waits for its answer */
    bool interim_pending;             /* conn's sending order is of interim answers: */
    uint16_t interim_at, interim_len; /* what was sent of them, all there were; in response_own, behind the
                                         head's part */
    uint16_t holds;                   /* of the handler's: stream_hold */
    uint8_t state;                    /* enum stream_state; written by stream_move alone */
    int status;
    struct http_reject refusal; /* replaces the handler's answer if set */
    struct body body;
    struct sending send;
    struct http_response response;
    uint64_t start_us;      /* head complete */
    uint64_t first_byte_us; /* response handed to the socket */
    uint64_t content_sent;
    const char *technique; /* for the log */
    const char *upstream;  /* the same */
    uint64_t upstream_us;
    unsigned attempts;
    const struct stream_pull *pull; /* what it gives, if webhooks want to know; in the arena */
    char *head_large;               /* of the response: one of the ring's large heads, or NULL */
    char *head;                     /* the request's head: head_own or one of the ring's large ones */
    size_t head_len, head_cap, head_seen;
    char peer_text[SOURCE_TEXT_MAX];
    struct http_field fields[REQUEST_FIELDS_MAX];
    char head_own[STREAM_HEAD_BYTES];
    char response_own[STREAM_RESPONSE_BYTES];
    char small_body[STREAM_SMALL_BODY]; /* or a handler's spare */
    uint8_t arena_own[STREAM_ARENA_BYTES];
};

static inline struct stream_full *stream_full(struct stream *s)
{
    return (struct stream_full *)s;
}

/* stream.c */
struct stream_full *stream_new(struct conn *c); /* NULL: none left */
void stream_release(struct stream_full *f);     /* before it was started: its memory only */
int stream_head_grow(struct stream_full *f);    /* -ENOBUFS */
void stream_start(struct stream_full *f);       /* the head is complete and in f->s.req */
void stream_refuse(struct stream_full *f, struct http_reject reject); /* instead of start */
void stream_move(struct stream_full *f, enum stream_state to);
void stream_abort(struct stream_full *f); /* the connection is gone */
void stream_timeout(struct stream_full *f);
void stream_turn(struct stream *s);          /* its turn in the ready line */
void stream_fed(struct stream *s);           /* a body buffer is free: take it now */
void stream_step_end(struct stream_full *f); /* finishes the stream if nothing is left to do or to wait for */
void stream_sent(struct stream_full *f);     /* the response is with the socket, or given up */
ssize_t
stream_finish_head(struct stream_full *f); /* what the connection adds to the head; its length or -errno */

bool stream_answer(struct stream_full *f); /* before every answer; false: it is not to be sent */
void stream_refuse_answer(struct stream_full *f, enum http_reject_reason reason); /* in place of it */
void stream_close_with(struct stream_full *f, enum close_reason reason, bool lingers);

/* body.c */
void body_begin(struct stream_full *f);
void body_step(struct stream_full *f);
void body_input_done(struct stream_full *f, const struct event *ev); /* conn's receiving order came back */
void body_fail(struct stream_full *f, int error, struct http_reject refusal);
bool body_idle(const struct stream_full *f); /* nothing of it is under way */
bool body_skip(
    struct stream_full *f); /* drops a body that is here already; true if nothing of it is left to come */
void body_release(struct stream_full *f);
uint64_t body_deadline(const struct stream_full *f);
bool body_too_slow(const struct stream_full *f);
void body_clock_restart(struct stream_full *f); /* it is not the client that is waited for */

/* send.c */
void send_begin(struct stream_full *f);
void send_output_done(struct stream_full *f, const struct event *ev); /* conn's sending order came back */
void send_turn(struct stream_full *f);
bool send_idle(const struct stream_full *f);
void send_release(struct stream_full *f);
bool send_client_reads(struct stream_full *f); /* since the last call of it */

/* Between send.c and send_file.c. */
void send_progress(struct stream_full *f);
void send_took(struct stream_full *f, size_t n); /* the socket has n bytes more */
void send_iov_skip(struct iovec *iov, size_t n); /* of two */
void send_bytes_out(struct stream_full *f);      /* orders what is in send.iov */
/* Sends what the socket takes now. False: a rest, or an error that the order for the rest will tell. */
bool send_at_once(struct stream_full *f, int flags);
void send_part_out(struct stream_full *f); /* all of send.iov is out: what is next, if anything is left */
/*
 * Whether the kernel moves a file's bytes to the client's socket; else they pass through memory. Holding
 * segments back until they are full pays for the former alone: what is copied comes in large pieces anyway,
 * and under pacing each tail that is held back starts a timer.
 */
static inline bool send_is_direct(const struct stream_full *f)
{
    return wire_fd_to(&f->s.conn->wire) >= 0;
}

void send_file_begin(struct stream_full *f);
void send_file_turn(struct stream_full *f);

/* interim.c */
void interim_continue(struct stream_full *f);
void interim_sent(struct stream_full *f, const struct event *ev); /* conn's sending order came back */

/* relay.c */
void relay_head_out(struct stream_full *f);
void relay_timeout(struct stream_full *f);
void relay_count(struct stream_full *f);
void relay_unwatch(struct stream_full *f);
void relay_tick(struct ring *r);

/* A handler's pump reads the body, sends the response. */
static inline bool relay_reads(const struct stream_full *f)
{
    return f->body.state == BODY_READ && f->body.sink == SINK_RELAY;
}

static inline bool relay_sends(const struct stream_full *f)
{
    return f->state == STREAM_SEND && f->send.kind == SEND_RELAY && f->send.pump;
}

/* access.c */
void access_log(struct stream_full *f);

/* pulls.c */
void pull_log(struct stream_full *f);

#endif
