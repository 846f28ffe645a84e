/* SPDX-License-Identifier: Apache-2.0 */
/* Within upstream.c and upstream_h2.c: connections to backends, and streams of those that carry HTTP/2. */
#ifndef FL_PROXY_UPSTREAM_PRIVATE_H
#define FL_PROXY_UPSTREAM_PRIVATE_H

#include "dataplane/pool.h"
#include "dataplane/proxy/upstream.h"

struct upstreams {
    struct ring *ring;
    struct balance *balance;
    struct pool pool;
    struct upstream *idle;     /* all of them */
    struct upstream *carriers; /* all connections that carry HTTP/2, by next_idle */
};

/* upstream.c */
struct upstream *upstream_make(struct upstreams *us, struct target *t, uint32_t service_index,
                               enum upstream_kind kind); /* NULL: no memory */
void upstream_connect(struct upstream *u, const struct plan_service *service);
void upstream_ready(struct upstream *u);
void upstream_failed(struct upstream *u, int err);
void upstream_close(struct upstream *u);
void upstream_try_close(struct upstream *u);
void upstream_drop(struct upstream *u); /* its wire is somebody else's, or closed */
bool upstream_wanted(const struct upstreams *us, const struct target *t);

/* upstream_tls.c */
bool upstream_wants_tls(const struct upstream *u);
void upstream_tls_begin(struct upstream *u);

/* upstream_h2.c */
bool upstream_speaks_h2(const struct plan_service *service);
struct upstream *upstream_h2_idle(struct upstreams *us, struct target *t, const struct plan_service *service);
struct upstream *upstream_h2_take(struct upstreams *us, struct target *t, const struct plan_service *service,
                                  uint32_t service_index, upstream_got *got, void *arg);
void upstream_h2_connected(struct upstream *carrier);
void upstream_h2_failed(struct upstream *carrier, int err);
void upstream_h2_tick(struct upstreams *us);

#endif
