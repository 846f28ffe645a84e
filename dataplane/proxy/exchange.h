/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One proxied exchange: a client's request, the attempts to have it answered, and the answer on its way back.
 * Private to the proxy.
 *
 *                 attempt (one backend)                                exchange
 *   CHOOSE -> [QUEUED] -> CONNECT -> WAIT (request out, answer awaited) -> answered
 *      ^                     |         |                                     |  head to the client,
 *      |    failed: the same again on a fresh connection, or the next        |  body by the response pump
 *      '--- backend, if nothing was answered and the request may ------------'  or a tunnel
 *           be sent again; else 502, 503, 504
 *
 * The request's body goes by a pump of its own as soon as its head is out, whatever the answer does.
 */
#ifndef FL_PROXY_EXCHANGE_H
#define FL_PROXY_EXCHANGE_H

#include <sys/socket.h>

#include "dataplane/stream.h"
#include "dataplane/timer.h"
#include "dataplane/http/forward.h"
#include "dataplane/http/response_reader.h"
#include "dataplane/move/pump.h"
#include "dataplane/proxy/balance.h"
#include "dataplane/proxy/coalesce.h"
#include "dataplane/proxy/hedge.h"
#include "dataplane/proxy/kinds.h"
#include "dataplane/proxy/proxy.h"
#include "dataplane/proxy/tcp.h"
#include "dataplane/proxy/resume.h"
#include "dataplane/proxy/upstream.h"

enum {
    ANSWER_FIELDS = 100, /* header lines of an answer */
    ANSWER_BYTES = 4096, /* of its head; a larger one takes one of the ring's large heads */
    TRIED_MAX = 8,       /* backends that one request is tried at */
    INTERIM_MAX = 32,    /* 1xx answers before the real one */
    ERROR_BYTES = 512,   /* the body of our own answer, in place of a backend's head */
};

/* Why there is no answer of a backend. */
enum fault {
    FAULT_NONE,
    FAULT_NO_BACKEND,      /* none, or all down */
    FAULT_QUEUE_FULL,      /* all at their limits, and as many wait */
    FAULT_QUEUE_TIMEOUT,   /* waited for one in vain */
    FAULT_NO_MEMORY,       /* a pool of this ring is used up, or its descriptors */
    FAULT_NO_PORT,         /* no local port is free towards that backend */
    FAULT_CONNECT,         /* refused, unreachable */
    FAULT_CONNECT_TIMEOUT, /* not connected in time */
    FAULT_TLS,             /* its certificate is not good, or nothing can be agreed on */
    FAULT_CLOSED,          /* closed or reset before it answered */
    FAULT_DOWN,            /* the kernel called it down before it answered */
    FAULT_TIMEOUT,         /* not answered in time */
    FAULT_LOOP,            /* it has been here before */
    FAULT_BAD_ANSWER,      /* broke the rules of HTTP: a->reject says how */
};

enum attempt_state {
    ATTEMPT_IDLE,
    ATTEMPT_QUEUED,
    ATTEMPT_CONNECT,
    ATTEMPT_WAIT,
    ATTEMPT_ANSWERED, /* the body, if any, is to be read from up->wire; early has its beginning */
    ATTEMPT_LEAVING,  /* given up: an order, or the pump of the request's body, has still to come back */
};

struct exchange;
struct attempt;

struct attempt_ask {
    bool retry;        /* counts against the retry budget, unless it is */
    bool free;         /* (balance.h) */
    struct view range; /* Range, instead of the client's own and its conditions; absent: none */
    bool bare;         /* without the request's body (a GET that goes on) */
    void (*answered)(struct attempt *a); /* the head of the answer is in a->answer, its body behind it */
    void (*failed)(struct attempt *a);   /* a->fault; the target has been given back */
};

struct attempt {
    struct exchange *ex;
    struct attempt_ask ask;
    uint8_t state;  /* enum attempt_state */
    uint8_t fault;  /* enum fault */
    bool sent_any;  /* the backend may have seen something of the request */
    bool sent_all;  /* the head, and a body that went with it */
    bool got_any;   /* something of an answer came */
    bool on_reused; /* it goes over a connection that had been used before */
    bool fresh;     /* that was closed: over a new one, to the same backend */
    bool chosen;    /* the target counts a request of ours, */
    bool relay;     /* and as a relay */
    uint8_t interims;
    struct target *target;   /* the last one; held */
    struct upstream *up;     /* while there is a connection */
    struct upstream *taking; /* while one is being made */
    struct balance_waiter waiter;
    struct attempt *next_asked, **prev_asked; /* in proxy->asked, from question to answer */
    struct timer timer;
    uint64_t queue_until_ms; /* from when it waits first; 0: it has not waited */
    uint64_t start_us;       /* the connection was there */
    uint64_t answer_us;      /* from then to the answer's head */
    struct iovec iov[2];
    struct msghdr msg;
    char *buf; /* what came: the head, then the body's beginning */
    size_t cap, len, seen, used;
    bool large; /* buf is one of the ring's large heads */
    struct http_answer answer;
    struct http_reject reject;
    char authority[AUTHORITY_MAX]; /* the target's, "host:port" */
};

struct exchange {
    struct stream *s;
    struct ring *ring;
    struct proxy *proxy;
    struct plan_proxy p; /* as it was at the beginning */
    uint32_t service_index, incarnation;
    uint32_t answer_timeout_ms; /* once all of the request is out */
    struct proxy_order order;   /* another handler's; without a refusal there is none */
    struct kind_facts facts;
    struct attempt attempt;
    struct target *tried[TRIED_MAX]; /* held */
    unsigned tried_count, attempts;
    uint8_t last_fault; /* enum fault, of the attempt before */
    bool tunnelled;     /* the answer makes a tunnel of the connections */
    bool upgrade;       /* the client's wish for another protocol goes on */
    bool body;          /* there is one, */
    bool body_small;    /* which goes with the head: small_len bytes at the end of the spare */
    bool body_begun;    /* the request pump was started, */
    bool body_active;   /* and has not ended */
    bool relaying;      /* the response pump was started, and has not ended (standing.c) */
    bool unlimited;     /* its source may be silent for as long as it likes */
    uint8_t halted;     /* enum close_reason: it was, for too long */
    bool resuming;      /* another backend is asked for the rest of the answer's body */
    bool head_out;      /* the answer's head is with the client, and the tunnel may begin */
    bool answered;      /* the stream has its answer */
    bool finished;      /* it has nothing more to do than wait for what is under way */
    bool aborted;       /* the client is gone */
    bool relayed;       /* the stream waits to be told of the answer's end */
    bool released;      /* and of the exchange's */
    bool refused;       /* an order, which its handler answers: */
    uint8_t why;        /* enum proxy_refusal */
    bool keep;          /* the backend's connection is good for another request */
    size_t small_len;
    char *request_large; /* of the ring's large heads: the request's head, or its body's beginning */
    struct pump request;
    struct hedge hedge;
    struct flight *flight;     /* that it leads, before there is an answer; NULL: none */
    struct follower *follower; /* of another one's; NULL: it has a backend of its own */
    struct pump response;
    struct exchange *next_relaying, **prev_relaying;
    struct resume resume; /* of its body */
    struct tcp
        *tunnel; /* reserved for what the answer makes of the connections; NULL: none, or it has begun */
    uint64_t content_early; /* of the response's body, sent with its head */
    enum balance_outcome outcome;
    char name[PLAN_NAME_MAX]; /* of the last backend, for the log */
    char peer[SOURCE_TEXT_MAX];
    size_t peer_len;
    char id[STREAM_ID_TEXT];
    char mark[PROXY_MARK_BYTES]; /* this service's, by which it knows a request again */
    char port[8];                /* "0": not known */
    /* Not cleared at the beginning. */
    struct http_field fields[ANSWER_FIELDS];
    char head[ANSWER_BYTES];
};

/* attempt.c */
void attempt_init(struct attempt *a, struct exchange *ex);
void attempt_begin(struct attempt *a, const struct attempt_ask *ask);
/* After answered: the connection goes back (keep) or is closed, and the target learns what became of it. In
 * any other state: gives the attempt up; neither answered nor failed come. Of the user's nothing may be under
 * way on the connection but the pump of the request's body, which is stopped: then, and while the head is
 * being sent, the attempt is not quiet yet (LEAVING), and with a fault in a->fault failed comes when it is.
 */
void attempt_end(struct attempt *a, bool keep, enum balance_outcome outcome);
/* The request pump is done. True: the attempt had waited for it, and the exchange has been told. */
bool attempt_body_ended(struct attempt *a);
bool attempt_quiet(const struct attempt *a);        /* nothing of it is under way */
void attempts_look(struct proxy *p);                /* backends that went down will not answer */
void attempt_deadline(struct attempt *a);           /* the answer is awaited from now on */
void attempt_release(struct attempt *a);            /* its memory, at the end */
struct view attempt_early(const struct attempt *a); /* the body's bytes that came with the head */

/* After answered, in place of attempt_end: the connection is somebody else's, and so is the request of ours
 * that the target counts. */
struct upstream *attempt_hand_over(struct attempt *a);

/* The answer's body comes from another backend now, over a connection of resume's. */
void attempt_adopt(struct attempt *a, struct target *t, struct upstream *u);
/* The same, with an answer that another question got: answered by it now. -ENOBUFS, -EBADMSG. */
int attempt_take_answer(struct attempt *a, struct ask *ask);

/* request.c */
void exchange_addresses(struct exchange *ex);
ssize_t exchange_request_head(struct exchange *ex, struct attempt *a, char **out); /* length, or -errno */
ssize_t exchange_request_rest(struct exchange *ex, const struct target *t, struct view range,
                              struct view if_range, char *buf, size_t cap);
void exchange_small_body(struct exchange *ex);
/* Memory for len bytes from the client that are here already, of *cap bytes, good to the exchange's end;
 * NULL: none. */
char *exchange_room(struct exchange *ex, size_t len, size_t *cap);
void exchange_body_begin(struct exchange *ex);
bool exchange_body_complete(const struct exchange *ex); /* none of it is still to come */
uint64_t
exchange_body_stuck_ms(const struct exchange *ex); /* the backend takes nothing of it since; 0: it does */

/* affinity.c, of this exchange: the backend that has to do with what it is about, 1 + its id; 0:
 * none is known */
uint32_t exchange_prefers(const struct exchange *ex);
void exchange_chosen(struct exchange *ex, const struct target *t);
void exchange_note(struct exchange *ex,
                   const struct attempt *a); /* it has now: the answer, or the question, says */

/* respond.c */
void exchange_interim(struct attempt *a); /* an answer before the answer is in a->answer */
void exchange_respond(struct attempt *a);
void exchange_refuse(struct exchange *ex, const struct attempt *a);

/* upgrade.c */
bool exchange_stops_being_http(const struct exchange *ex); /* if the backend agrees */
bool exchange_upgrades(const struct attempt *a);           /* whether its answer ends the talk of HTTP */
bool exchange_tunnel(struct attempt *a, struct stream_relay *relay); /* false: no memory for one more */
void exchange_tunnel_begin(struct stream *s); /* once the answer's head is out, and the request's body too */

/* going_on.c */
void exchange_resume_begin(struct exchange *ex);
/* The response pump's source has stopped; the attempt is over. True: the rest is asked for elsewhere. */
bool exchange_goes_on(struct exchange *ex, enum pump_end end, int err, enum close_reason *why);

/* standing.c: what relays is looked at ten times a second */
void standing_enter(struct exchange *ex);
void standing_leave(struct exchange *ex);
void standing_look(struct proxy *p);

/* share.c */
bool exchange_follows(struct exchange *ex); /* whether another one's body becomes its own, too */
void exchange_share(struct exchange *ex);   /* its answer is here: others may follow it */
void exchange_share_end(struct exchange *ex);
int attempt_read(struct attempt *a, struct view bytes); /* as if a backend had said so. -ENOBUFS, -EBADMSG */

/* proxy.c */
/* The service whose backends are asked; NULL: a new plan has taken it away. */
const struct plan_service *exchange_service(const struct exchange *ex);
struct view exchange_key(const struct exchange *ex); /* of the choice of a backend */
enum fault exchange_fault(int err);                  /* why upstream_got gave no connection */
void exchange_ask(struct exchange *ex);
void exchange_try(struct exchange *ex, bool retry);
bool exchange_may_repeat(const struct exchange *ex,
                         const struct attempt *a); /* nobody can have acted on it */
void exchange_failed(struct attempt *a);
void exchange_step_end(struct exchange *ex); /* ends the stream's hold if nothing is left */
void exchange_done(struct exchange *ex, bool good,
                   enum close_reason reason); /* the answer's body has ended */

#endif
