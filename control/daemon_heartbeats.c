/* SPDX-License-Identifier: Apache-2.0 */
#include "control/daemon_heartbeats.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/daemon_kernel.h"
#include "control/nodes.h"

/* A look is a glance at a few elements of a map; promises to a leader last ten times as long. */
enum { LOOK_MS = 50 };

struct silent_nodes {
    uint64_t id[NODE_MANAGERS_MAX];
    size_t count;
};

struct daemon_heartbeats {
    struct daemon *d;
    uv_timer_t timer;
    struct silent_nodes told;
};

static bool has(const struct silent_nodes *list, uint64_t id)
{
    for (size_t i = 0; i < list->count; i++)
        if (list->id[i] == id)
            return true;
    return false;
}

/* Of a session that was up. Who says that it leaves (AdminDown) is not silent. */
static bool session_is_silent(const struct kernel_view *view, uint32_t index)
{
    const struct abi_peer *p = &view->entries->peer[index];
    struct abi_peer_state s;
    return kernel_maps_peer_state(view->maps, index, &s) == 0 &&
           s.generation == (p->generation | ABI_PEER_BEGUN) && s.ended_ns &&
           (s.state == ABI_BFD_DOWN || s.state == ABI_BFD_INIT) && s.remote_state != ABI_BFD_ADMIN_DOWN;
}

/* The session with the host at the address that the others connect to. */
static bool host_is_silent(const struct kernel_view *view, const struct node *n)
{
    const struct kernel_entries *e = view->entries;
    for (uint32_t i = 0; n->mesh.port && i < e->peer_count; i++) {
        const struct abi_peer *p = &e->peer[i];
        if ((p->flags & ABI_PEER_USED) && !(p->flags & ABI_PEER_SELF) &&
            memcmp(&p->addr, n->mesh.ip, sizeof(p->addr)) == 0)
            return session_is_silent(view, i);
    }
    return false;
}

/* Only a manager's word counts, and only of managers. */
static void look(const struct daemon *d, struct silent_nodes *out)
{
    struct kernel_view view = {.phase = KERNEL_OFF};
    struct cluster_status status;
    const struct node_table *t = nodes_table(d->nodes);
    *out = (struct silent_nodes){.count = 0};
    if (d->kernel_half)
        kernel_view(d->kernel_half->kernel, &view);
    if (view.phase != KERNEL_ON || !view.maps || !view.entries || view.entries->peer_count == 0)
        return;
    cluster_status(d->cluster, &status);
    const struct node *self = node_find(t, status.node_id);
    if (!self || self->role != NODE_MANAGER)
        return;
    for (size_t i = 0; i < t->count && out->count < NODE_MANAGERS_MAX; i++)
        if (t->node[i].role == NODE_MANAGER && &t->node[i] != self && host_is_silent(&view, &t->node[i]))
            out->id[out->count++] = t->node[i].id;
}

static void on_timer(uv_timer_t *timer)
{
    struct daemon_heartbeats *h = timer->data;
    struct silent_nodes now;
    if (!h->d->nodes || h->d->phase >= DAEMON_CLOSING)
        return;
    look(h->d, &now);
    for (size_t i = 0; i < now.count; i++)
        if (!has(&h->told, now.id[i]))
            cluster_host(h->d->cluster, now.id[i], true);
    for (size_t i = 0; i < h->told.count; i++)
        if (!has(&now, h->told.id[i]))
            cluster_host(h->d->cluster, h->told.id[i], false);
    h->told = now;
}

struct daemon_heartbeats *daemon_heartbeats_open(struct daemon *d)
{
    struct daemon_heartbeats *h = calloc(1, sizeof(*h));
    CHECK(h);
    h->d = d;
    CHECK(uv_timer_init(&d->loop, &h->timer) == 0);
    h->timer.data = h;
    uv_timer_start(&h->timer, on_timer, LOOK_MS, LOOK_MS);
    return h;
}

static void on_closed(uv_handle_t *handle)
{
    free(handle->data);
}

void daemon_heartbeats_close(struct daemon_heartbeats *h)
{
    uv_close((uv_handle_t *)&h->timer, on_closed);
}
