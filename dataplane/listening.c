/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/listening.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "check.h"

int listening_take(struct listening *l, uint32_t slot, const int *fds, unsigned fd_count)
{
    if (fd_count != 1 || slot >= LISTENERS_MAX || (slot < l->count && l->fd[slot] >= 0))
        return -EPROTO;
    while (l->count <= slot)
        l->fd[l->count++] = -1;
    l->fd[slot] = fds[0];
    return 0;
}

/* Puts an order into the ring's list. */
static bool order_new(struct ring *r, struct acceptor_order order)
{
    struct acceptor_order *o = malloc(sizeof(*o));
    if (!o)
        return false;
    *o = order;
    o->next = atomic_load(&r->orders);
    while (!atomic_compare_exchange_weak(&r->orders, &o->next, o))
        ;
    loop_wake(r->loop);
    return true;
}

static bool give(struct ring *r, struct acceptor_order order, bool running)
{
    if (running)
        return order_new(r, order);
    CHECK(ring_listen(r, &order) == 0);
    return true;
}

void listening_share(struct listening *l, const struct plan *plan, struct ring *const *rings,
                     unsigned ring_count, bool running)
{
    for (unsigned i = 0; i < plan->listener_count; i++) {
        const struct plan_listener *group = plan_listener(plan, i);
        for (unsigned j = 0; j < group->count; j++) {
            unsigned at = group->first + j;
            if (at >= l->count || l->fd[at] < 0 || l->accepted_from[at])
                continue;
            const struct acceptor_order order = {
                .slot = (uint16_t)at, .fd = l->fd[at], .service = group->service};
            l->ring[at] = (uint8_t)(j % ring_count);
            l->accepted_from[at] = give(rings[j % ring_count], order, running);
        }
    }
}

bool listening_remove(struct listening *l, struct ring *const *rings, uint32_t slot)
{
    if (slot >= l->count || l->fd[slot] < 0)
        return false;
    int fd = l->fd[slot];
    if (!l->accepted_from[slot])
        close(fd);
    else if (!order_new(rings[l->ring[slot]], (struct acceptor_order){.fd = fd, .stop = true}))
        return false;
    l->fd[slot] = -1;
    l->accepted_from[slot] = false;
    return true;
}
