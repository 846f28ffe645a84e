/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests to servers outside, over HTTP and HTTPS, on control's loop: webhooks' POSTs, GETs of what is
 * small, and looks at an answer's head; the one user of libcurl. TLS is verified with the system's CAs, or
 * with those of the request alone; redirects are not followed, no proxy of the environment is used. Of what a
 * POST is answered, all but the status is dropped.
 */
#ifndef FL_CONTROL_WEBHOOK_H
#define FL_CONTROL_WEBHOOK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

enum {
    WEBHOOK_CONNECT_MS = 7000, /* the name, too: resolvers ask the next nameserver after 5 s */
    WEBHOOK_TIMEOUT_MS = 20000,
    WEBHOOK_ERROR_MAX = 256,
    WEBHOOK_ANSWER_MAX = 64 << 10, /* bytes of a GET's answer; more is an error */
    WEBHOOK_FIELD_MAX = 2048,      /* of an answer's field that is looked at */
};

struct webhooks;

struct webhooks *webhooks_new(uv_loop_t *loop);

/* Requests under way are told that they end; what is left is freed by the loop. */
void webhooks_close(struct webhooks *w);

struct webhook_request {
    const char *url, *content_type;
    char *const *header; /* "Name: value" */
    uint32_t headers_count;
    const char *ca; /* PEM; NULL: the system's */
    const char *body;
    size_t len;
    const char *impossible; /* why nothing can be sent: done gets it, from the loop; NULL */
};

/* status: of the answer; 0: there was none, and error says why. */
typedef void (*webhook_done)(void *arg, long status, const char *error);

/* Whether it is certificates as PEM, and nothing that cannot be read. */
bool webhook_ca_valid(const char *pem);

/* Copies everything. done comes once, from the loop. */
void webhook_post(struct webhooks *w, const struct webhook_request *request, webhook_done done, void *arg);

struct webhook_question {
    const char *url;
    const char *user, *password; /* shown at once (Basic); NULL: nothing is */
    const char *ca;              /* PEM; NULL: the system's */
};

/* As webhook_done; the body is valid until it returns. */
typedef void (*webhook_answered)(void *arg, long status, const char *error, const char *body, size_t len);

/* Copies everything. answered comes once, from the loop. */
void webhook_get(struct webhooks *w, const struct webhook_question *question, webhook_answered answered,
                 void *arg);

/* A GET, or HEAD, of which the answer's head is looked at. */
struct webhook_look {
    const char *url, *accept;
    const char *authorization; /* the field's line; NULL: none */
    const char *ca;            /* PEM; NULL: the system's */
    const char *connect_to;    /* "::ADDRESS:PORT": there, whatever host the URL names */
    bool head, unverified;     /* whatever certificate it shows */
};

struct webhook_seen {
    long status; /* 0: there was none, and error says why */
    const char *error;
    bool closing;                      /* it was given up: the loop ends */
    char challenge[WEBHOOK_FIELD_MAX]; /* WWW-Authenticate, of several with commas between them */
    char digest[256];                  /* Docker-Content-Digest */
};

typedef void (*webhook_looked)(void *arg, const struct webhook_seen *seen);

/* Copies everything. looked comes once, from the loop. */
void webhook_look(struct webhooks *w, const struct webhook_look *look, webhook_looked looked, void *arg);

#endif
