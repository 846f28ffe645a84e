/* SPDX-License-Identifier: Apache-2.0 */
#include "control/peer_view.h"

#include <arpa/inet.h>
#include <string.h>
#include <time.h>

#include "check.h"
#include "control/abi_addr.h"
#include "control/daemon_kernel.h"
#include "control/services.h"

/* False while the kernel half is off, or has nothing written yet. */
static bool kernel_of(const struct daemon *d, struct kernel_view *out)
{
    *out = (struct kernel_view){.phase = KERNEL_OFF};
    if (d->kernel_half)
        kernel_view(d->kernel_half->kernel, out);
    return out->phase == KERNEL_ON && out->maps && out->entries;
}

uint64_t peer_view_utc_ms(uint64_t time_ns)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    uint64_t now_ns = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
    return journal_now_ms() - (now_ns > time_ns ? (now_ns - time_ns) / 1000000 : 0);
}

const char *address_view_text(const struct abi_addr *addr, char out[ADDRESS_TEXT_MAX])
{
    bool v4 = abi_addr_is_v4(addr);
    CHECK(inet_ntop(v4 ? AF_INET : AF_INET6, v4 ? &addr->word[3] : addr->word, out, ADDRESS_TEXT_MAX));
    return out;
}

/* Sessions. */

static void find_session(const struct kernel_view *kernel, struct peer_view *out)
{
    const struct kernel_entries *e = kernel->entries;
    for (uint32_t i = 0; i < e->peer_count; i++) {
        const struct abi_peer *p = &e->peer[i];
        if (!(p->flags & ABI_PEER_USED) || memcmp(&p->addr, out->config->address.ip, sizeof(p->addr)) != 0)
            continue;
        out->index = i;
        out->self = p->flags & ABI_PEER_SELF;
        out->members = p->members_count;
        out->begun = !out->self && kernel_maps_peer_state(kernel->maps, i, &out->state) == 0 &&
                     out->state.generation == (p->generation | ABI_PEER_BEGUN);
    }
    if (!out->begun)
        memset(&out->state, 0, sizeof(out->state));
}

bool peer_view(struct daemon *d, uint32_t i, struct peer_view *out)
{
    struct kernel_view kernel;
    uint32_t count;
    const struct kernel_peer_config *peer = services_peers(d->services, &count);
    if (i >= count)
        return false;
    *out = (struct peer_view){.config = &peer[i]};
    if (kernel_of(d, &kernel))
        find_session(&kernel, out);
    return true;
}

const char *peer_state_name(const struct peer_view *view)
{
    static const char *const names[] = {[ABI_BFD_ADMIN_DOWN] = "admin-down",
                                        [ABI_BFD_DOWN] = "down",
                                        [ABI_BFD_INIT] = "init",
                                        [ABI_BFD_UP] = "up"};
    return view->self ? "self" : view->begun ? names[view->state.state & 3] : "off";
}

/* Addresses. */

static const char *owner_name(struct daemon *d, const struct kernel_view *kernel, const struct abi_address *a,
                              const struct abi_address_state *s)
{
    struct peer_view peer;
    if (s->listening)
        return "unknown";
    if (s->owner >= a->managers || s->owner >= ABI_ADDRESS_MANAGERS_MAX)
        return "none";
    if (s->owner == a->self)
        return "this node";
    uint32_t index = a->peer[s->owner] - 1;
    if (index < kernel->entries->peer_count)
        for (uint32_t i = 0; peer_view(d, i, &peer); i++)
            if (memcmp(&kernel->entries->peer[index].addr, peer.config->address.ip,
                       sizeof(struct abi_addr)) == 0)
                return peer.config->name;
    return "unknown";
}

/* Of those that somebody is to answer for. */
static const struct kernel_address *nth_address(const struct kernel_entries *e, uint32_t n)
{
    for (uint32_t i = 0; i < e->address_count; i++)
        if (e->address[i].value.managers && n-- == 0)
            return &e->address[i];
    return NULL;
}

bool address_view(struct daemon *d, uint32_t i, struct address_view *out)
{
    struct kernel_view kernel;
    if (!kernel_of(d, &kernel))
        return false;
    const struct kernel_address *address = nth_address(kernel.entries, i);
    if (!address)
        return false;
    *out = (struct address_view){.key = address->key, .owner = "unknown"};
    out->known = kernel_maps_address_state(kernel.maps, &address->key, &out->state) == 0;
    if (out->known)
        out->owner = owner_name(d, &kernel, &address->value, &out->state);
    else
        memset(&out->state, 0, sizeof(out->state));
    return true;
}
