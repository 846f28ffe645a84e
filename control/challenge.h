/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a registry wants of those who read there (WWW-Authenticate, RFC 9110, 11.6.1), and the question to its
 * token server that follows from it. Pure. The bytes are a stranger's: whatever is longer or other than this
 * is refused, and no more than the right to pull is ever asked for.
 */
#ifndef FL_CONTROL_CHALLENGE_H
#define FL_CONTROL_CHALLENGE_H

#include <stdbool.h>
#include <stddef.h>

enum {
    CHALLENGE_REALM_MAX = 1024,
    CHALLENGE_SERVICE_MAX = 256,
    CHALLENGE_SCOPE_MAX = 1024,
    CHALLENGE_URL_MAX = 8192,
};

struct challenge {
    bool basic;                      /* name and password will do */
    bool bearer;                     /* a token will do, of: */
    char realm[CHALLENGE_REALM_MAX]; /* the token server's URL */
    char service[CHALLENGE_SERVICE_MAX];
    char scope[CHALLENGE_SCOPE_MAX];
};

/* Other schemes are passed over; of several the first of each counts. 0, or -EINVAL. */
int challenge_read(const char *text, size_t len, struct challenge *out);

/* The question for a token that is good for pulling repo (its name there). False, *why: it is no URL that
 * anything can be asked of. *secure: over TLS. */
bool challenge_url(const struct challenge *c, const char *repo, char out[CHALLENGE_URL_MAX], bool *secure,
                   const char **why);

#endif
