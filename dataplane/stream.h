/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A stream is one exchange: a request and its response. The connection below it carries bytes and framing; a
 * handler above it (the registry, the admin pages) decides what to answer. HTTP/1 has one stream at a time on
 * a connection.
 *
 *   conn: head complete -> route -> authorize -> handler.begin
 *   handler: wants the body?  stream_body_to_memory / _to_upload -> handler.body_done
 *            waits for store or control: its own waiters -> its own next step
 *            answers: stream_response, fields, one of stream_send*  -> ... -> handler.end
 *
 * A handler may answer at any time, also before the body was read: the rest of the body is then read and
 * dropped within bounds, or the connection is closed after the answer. handler.end is called exactly once,
 * when nothing of the stream is under way any more; until then the stream's memory is good. If the client
 * goes away, the handler is not told before its own step is done: its answer is then thrown away (stream_gone
 * tells early).
 */
#ifndef FL_STREAM_H
#define FL_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "digest.h"
#include "plan.h"
#include "shared.h"
#include "dataplane/arena.h"
#include "dataplane/waiter.h"
#include "dataplane/http/http1.h"
#include "dataplane/http/response.h"

struct ring;
struct conn;
struct blob;
struct upload;
struct stream;
struct proxy_header;
struct pump;
struct wire;

struct handler {
    const char *name;
    /* The head is complete; s->req is good until end. */
    void (*begin)(struct stream *s);
    /*
     * The body that was asked for: 0 (all of it), or why not: -EFBIG (over the limit), -ENOSPC, -EIO (the
     * upload's errors), -ECONNRESET (the client went away or was too slow: no answer is possible; finish).
     */
    void (*body_done)(struct stream *s, int err);
    /* The last call. Give back what is held. */
    void (*end)(struct stream *s);
    /* For handlers that relay, else NULL: the client is gone, or takes or gives nothing any more. Once, never
     * from within a call of the handler's. What is under way is ended; then the handler finishes as usual. */
    void (*abort)(struct stream *s);
};

/* Writes the next part of a body of unknown length: at most cap bytes (at least 16 KiB) into buf, *done at
 * the end. Returns the bytes, or -errno: the response is then cut off, not ended cleanly. */
typedef ssize_t stream_fill(struct stream *s, char *buf, size_t cap, bool *done);

enum { STREAM_ARENA_BYTES = 12288 }; /* of every request at work: what a handler needs at most */

/* Public part of a stream: what handlers read. The rest is in stream_private.h. */
struct stream {
    struct ring *ring;
    struct conn *conn;
    const struct handler *handler;
    void *ctx;          /* the handler's, usually from the arena */
    struct arena arena; /* memory until end; arena_alloc gives NULL when it is used up */
    struct http_request req;
    struct view body;         /* after stream_body_to_memory */
    uint64_t upload_max;      /* bytes of an upload's session that the handler takes; 0: no more is said */
    enum request_class class; /* the handler sets it; for histograms */
    bool old_names;           /* what the names say now may be old: the answer tells */
    uint64_t id;              /* request id, unique on the node; hex in X-Request-Id and in the log */
};

/* The rings's parts that handlers use. */
struct store_ring *stream_store(struct stream *s);
struct names *stream_names(struct stream *s);
struct channel *stream_channel(struct stream *s);
uint64_t stream_setting(const struct stream *s, int setting /* enum setting_id */);
uint64_t stream_now_ms(const struct stream *s); /* CLOCK_MONOTONIC, of this batch */
void stream_count(struct stream *s, enum counter_id c, uint64_t n);
const char *stream_peer(struct stream *s); /* client address as text */

/* What the connection's listening address serves and its policy; NULL if a new plan has taken it away. */
const struct plan_service *stream_service(struct stream *s);
uint32_t stream_service_index(const struct stream *s); /* its place in the plan */

/* The ring's scratch memory, COMMAND_BYTES_MAX bytes, not cleared: good until the handler's function returns.
 */
uint8_t *stream_scratch(struct stream *s);

enum { STREAM_ID_TEXT = 16 };
void stream_id_text(const struct stream *s, char out[STREAM_ID_TEXT]); /* hex, not ended by NUL */

/* Whether the client is known to be gone. */
bool stream_gone(const struct stream *s);

/* Whether the request announces a body (of a length over 0, or chunked). */
bool stream_has_body(const struct stream *s);

/* Reads the body into memory, s->body (at most max bytes: else body_done(-EFBIG)); -EAGAIN if no memory is
 * left for it now. */
int stream_body_to_memory(struct stream *s, size_t max);

/* Reads the body into an upload session that the handler holds checked out. */
int stream_body_to_upload(struct stream *s, struct upload *u);

/*
 * Begins the response: status line, Date, Server, X-Request-Id and what the connection needs. The handler
 * adds its fields with response.h's calls on the result, but not Content-Length, Transfer-Encoding and
 * Connection, which the send calls add.
 */
struct http_response *stream_response(struct stream *s, int status);

const struct counters_page *stream_counters(struct stream *s); /* of all rings */
bool stream_control_connected(struct stream *s);               /* the ring's channel to control is there */

/* Exactly one of these ends the handler's part, always, also when the client is gone. For HEAD the body is
 * left out and its length is kept. */
void stream_send(struct stream *s); /* no body (Content-Length: 0, or none for 204/304) */
void stream_send_bytes(struct stream *s, const void *bytes,
                       size_t len); /* good until end: arena, s->body or static */
void stream_send_blob(struct stream *s, struct blob *b, uint64_t offset,
                      uint64_t len);                        /* takes the reference */
void stream_send_length(struct stream *s, uint64_t len);    /* HEAD of something that is not opened */
void stream_send_fill(struct stream *s, stream_fill *fill); /* length not known before */

/* ------------------------------------------------------------------ relaying
 *
 * A handler that moves bodies between the client's wire and another one by pumps of its own. The stream keeps
 * the time limits, the books and the connection; it says when a pump may begin, and is told when it ended.
 */

/* The stream goes on until as many calls of release, whatever else is done: something of the handler's is
 * under way. release may end the stream, but not within a call of the handler's. */
void stream_hold(struct stream *s);
void stream_release_hold(struct stream *s);

struct wire *stream_wire(struct stream *s);
void stream_addresses(struct stream *s, struct proxy_header *out);
uint16_t stream_local_port(struct stream *s); /* that the client came to; 0: not known */
struct view stream_scheme(struct stream *s);  /* that the client spoke: "http", "https" */

/* Memory of the stream that is free in a handler that reads no body to memory. */
enum { STREAM_SPARE_BYTES = 8192 };
char *stream_spare(struct stream *s);

/*
 * Takes of the body what was received already, framed as it came, up to cap bytes. Returns how much; bytes
 * behind the body of known length are left.
 */
size_t stream_body_early(struct stream *s, char *out, size_t cap);

/* How much that would be. */
size_t stream_body_here(struct stream *s);

/* All of the body was taken by stream_body_early. */
void stream_body_taken(struct stream *s);

/*
 * The pump takes the body from the client's wire until stream_body_relayed, which says whether it came whole.
 * rest: what came behind it (pump_rest). Nobody answers Expect: that is the backend's. unlimited: the client
 * may pause, and be slow.
 */
void stream_body_relay(struct stream *s, const struct pump *pump, bool unlimited);
void stream_body_relayed(struct stream *s, bool complete, struct view rest);

/* It ended too early, or its framing is broken: the client is told if that can be, and the handler's abort
 * comes. */
void stream_body_broken(struct stream *s, struct http_reject reject);

/* What was received behind the body, for a connection that carries no messages any more. */
size_t stream_input_take(struct stream *s, char *out, size_t cap);

size_t stream_input_here(const struct stream *s);

/* From now on, or soon, a client that goes away is noticed (abort); not while its body is still to be read.
 * half_close: one that only sends no more is not gone, it gets its answer. */
void stream_watch(struct stream *s, bool half_close);

/* Tells the client to go on with the body (100), if it waits for that. */
void stream_continue(struct stream *s);

/*
 * An interim answer (1xx but 100 and 101), which goes out before the answer: its head is written into *cap
 * bytes at the place that stream_interim_room gives, complete with its empty line. NULL: this client takes
 * none (HTTP/1.0, or it has had as many bytes of them as a request may cause, or its answer).
 */
char *stream_interim_room(struct stream *s, size_t *cap);
void stream_interim(struct stream *s, size_t len);

/*
 * The response's head, to be written by http_forward_response into *cap bytes: of at least `room`, or NULL if
 * there is no memory for that. In place of stream_response.
 */
char *stream_relay_head(struct stream *s, size_t room, size_t *cap);

enum stream_relay_body {
    RELAY_NOTHING, /* neither body nor length */
    RELAY_HEAD,    /* no body, but the length of one (HEAD) */
    RELAY_LENGTH,  /* a body of that length */
    RELAY_CHUNKED, /* by chunks; for clients that do not know them, until the end of the connection */
    RELAY_TUNNEL,  /* no message any more: the connection will be the handler's (stream_hand_over) */
};

struct stream_relay {
    int status;
    const struct http_response *head; /* written so far */
    enum stream_relay_body body;
    uint64_t length;
    struct view content; /* of the body, here already and unframed (RELAY_LENGTH, RELAY_TUNNEL): sent with the
                            head */
    const struct pump *pump; /* moves the rest of it; zeroed until it was started; NULL: there is none */
    bool unlimited;          /* the client may take nothing for long */
    bool close;              /* the last exchange of its connection */
    /* The head is out: start the pump, or take the connection; never from within the call. NULL: neither. */
    void (*ready)(struct stream *s);
};

/* Sends the answer's head; in place of stream_send*. */
void stream_send_relay(struct stream *s, const struct stream_relay *relay);

/* Whether the client understands chunks. */
bool stream_relay_chunks(const struct stream *s);

/* The pump has ended. technique: for the log. good: all of the body is with the client's wire; else
 * the connection is closed for `reason`, so that nobody takes the part for the whole. */
void stream_relayed(struct stream *s, const char *technique, bool good, enum close_reason reason);

/* After RELAY_TUNNEL, in place of stream_relayed: the client's wire is the handler's, and nothing is under
 * way on it. The stream ends. */
void stream_hand_over(struct stream *s, struct wire *client);

/* What of the registry the answer gives, for webhooks; media_type is copied, the others have to be good until
 * end. */
struct stream_pull {
    bool blob;
    struct view repo, tag, media_type;
    struct digest digest;
    uint64_t size;
};

/* Whether anybody wants to know of it. Then noted, and told if all of the answer goes out. */
bool stream_pull_wanted(struct stream *s, bool blob);
void stream_note_pull(struct stream *s, const struct stream_pull *pull);

/* What the log says of it: name has to be good until end. */
void stream_note_upstream(struct stream *s, const char *name, uint64_t us, unsigned attempts);

#endif
