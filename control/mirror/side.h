/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One of the two registries of a copy, as one thread speaks to it: one request at a time over libcurl, with
 * what the registry asks for to know who asks (Basic, or a token), after redirects, again where it makes
 * sense. Credentials go to the registry, to the token server that it names (over TLS, if it is spoken to over
 * TLS), and to nobody else: libcurl drops them when a redirect leads to another host.
 */
#ifndef FL_MIRROR_SIDE_H
#define FL_MIRROR_SIDE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "control/mirror/name.h"
#include "control/mirror/url.h"

enum {
    SIDE_ERROR_MAX = 512,
    SIDE_TYPE_ROOM = 256,
    SIDE_SLOW_S = 60,      /* with hardly a byte */
    SIDE_SLOW_BYTES = 100, /* a second */
};

struct side_config {
    const char *name;                 /* "the remote registry": for people */
    const char *url;                  /* http(s)://host[:port] */
    const char *user, *password;      /* NULL: none */
    const char *ca;                   /* PEM; NULL: the system's */
    bool own;                         /* this node itself: its certificate is not looked at */
    uint64_t receive_rate, send_rate; /* bytes a second; 0: no limit */
};

struct side;
struct carrier; /* exchange.h */

/* Borrows both. NULL: libcurl does not take it. */
struct side *side_new(const struct side_config *config, struct carrier *carrier);
void side_free(struct side *s);

/* Takes a piece of a body, waits (the piece comes again after exchange_resume), or ends the request. */
enum side_flow { SIDE_TAKEN, SIDE_WAIT, SIDE_STOP };
typedef enum side_flow (*side_sink)(void *arg, const void *bytes, size_t len);

/* Gives a piece of a body: its bytes; 0: there are none yet; -1 ends the request. */
typedef ssize_t (*side_pour)(void *arg, void *out, size_t room);

struct side_request {
    const char *method; /* "GET", "HEAD", "POST", "PUT", "DELETE" */
    const char *path;   /* "/v2/...", or a URL that the registry gave */
    const char *repo;   /* what a token is asked for; NULL: the list of repositories */
    bool write;         /* pull and push, not pull alone */
    bool once;          /* not again after a failure, only with a token */
    bool stay;          /* a redirect is an answer like any other */
    const char *accept, *type;
    const void *body;
    size_t len;
    int64_t from;   /* > 0: a part, from this byte on ("Range") */
    side_sink sink; /* takes the body of 200 and 206 */
    side_pour pour; /* gives the body, of `size` bytes */
    int64_t size;
    void *arg; /* of both */
};

struct side_answer {
    long status;        /* 0: there was none */
    char url[URL_ROOM]; /* that answered */
    char digest[DIGEST_TEXT_ROOM], type[SIDE_TYPE_ROOM], location[URL_ROOM], link[URL_ROOM];
    bool subject;              /* OCI-Subject: it knows what refers to what */
    int64_t length, part_from; /* -1: not said; Content-Range's first byte */
    long retry_after_s;
    char *body; /* ends with NUL; side_answer_free */
    size_t len;
};

/* 0 when there is an answer, whatever its status. -EIO: there was none. -EFBIG: the answer is too long. err
 * says why. Without sink or pour: see pass.h. */
int side_ask(struct side *s, const struct side_request *request, struct side_answer *out,
             char err[SIDE_ERROR_MAX]);
void side_answer_free(struct side_answer *a);

/* Says in err what a status means that was not wanted. -EIO for what may be otherwise later, else -EPERM. */
int side_refused(const struct side *s, const struct side_answer *a, const char *what,
                 char err[SIDE_ERROR_MAX]);

/* Waits before the n-th further try, or as long as the answer asked for. */
void side_wait(unsigned n, long retry_after_s);

#endif
