/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads that do handshakes for all rings. A ring gives one a connection (struct tls) and does not touch it
 * until it comes back: neither side waits for the other. The line is bounded: when it is full, new
 * connections are turned away.
 */
#ifndef FL_TLS_HELPERS_H
#define FL_TLS_HELPERS_H

#include <stdbool.h>

struct tls;
struct tls_helpers;

enum { TLS_HELPERS_MAX = 16 };

/* threads are started by tls_helpers_start, in the sandbox; waiting_max: the line's bound. */
struct tls_helpers *tls_helpers_new(unsigned threads, unsigned waiting_max);
int tls_helpers_start(struct tls_helpers *h);
void tls_helpers_stop(struct tls_helpers *h); /* every connection must have come back */
void tls_helpers_free(struct tls_helpers *h); /* when there is no connection any more */

/* False: too many wait. A connection that has been in before is always taken. */
bool tls_helpers_give(struct tls_helpers *h, struct tls *t, bool first);

#endif
