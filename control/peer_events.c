/* SPDX-License-Identifier: Apache-2.0 */
#include "control/peer_events.h"

#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "check.h"
#include "control/daemon.h"
#include "control/events.h"
#include "control/peer_view.h"

/* A session at the last look; by index in the kernel's map. */
struct seen_peer {
    uint64_t downs, changed_ns;
    bool up;
};

struct seen_address {
    struct abi_address_key key;
    uint64_t since_ns;
};

struct peer_events {
    uint64_t began_ns; /* what happened before is told by nobody */
    struct seen_peer peer[ABI_PEERS_MAX];
    struct seen_address *address;
    uint32_t address_count;
};

struct peer_events *peer_events_new(void)
{
    struct timespec now;
    struct peer_events *seen = calloc(1, sizeof(*seen));
    CHECK(seen);
    clock_gettime(CLOCK_MONOTONIC, &now);
    seen->began_ns = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
    return seen;
}

void peer_events_free(struct peer_events *seen)
{
    free(seen->address);
    free(seen);
}

static void tell_peer(struct daemon *d, const struct peer_view *view, bool up, uint64_t time_ns)
{
    char text[160], at[TIME_TEXT_MAX];
    snprintf(text, sizeof(text), "the heartbeat session with %s %s %s", view->config->name,
             up ? "is up since" : "ended at", journal_time_text(peer_view_utc_ms(time_ns), at));
    events_note(d->events, up ? "peer.up" : "peer.down", text);
}

static void look_at_peer(struct peer_events *seen, struct daemon *d, const struct peer_view *view)
{
    const struct abi_peer_state *s = &view->state;
    struct seen_peer *before = &seen->peer[view->index];
    struct seen_peer now = {.downs = s->downs, .changed_ns = s->changed_ns, .up = s->state == ABI_BFD_UP};
    if (before->changed_ns == 0) { /* the first look at it */
        before->downs = s->downs;
        before->up = now.up && s->changed_ns < seen->began_ns;
    }
    bool ended = before->up && (!now.up || now.downs != before->downs);
    if (ended)
        tell_peer(d, view, false, s->ended_ns ? s->ended_ns : s->changed_ns);
    if (now.up && (!before->up || ended))
        tell_peer(d, view, true, s->changed_ns);
    *before = now;
}

/* What was seen of the address; a new one is taken in. */
static struct seen_address *seen_of(struct peer_events *seen, const struct abi_address_key *key)
{
    for (uint32_t i = 0; i < seen->address_count; i++)
        if (memcmp(&seen->address[i].key, key, sizeof(*key)) == 0)
            return &seen->address[i];
    seen->address = reallocarray(seen->address, seen->address_count + 1, sizeof(*seen->address));
    CHECK(seen->address);
    seen->address[seen->address_count] = (struct seen_address){.key = *key, .since_ns = seen->began_ns};
    return &seen->address[seen->address_count++];
}

static void look_at_address(struct peer_events *seen, struct daemon *d, const struct address_view *view)
{
    struct seen_address *before = seen_of(seen, &view->key);
    char text[224], address[ADDRESS_TEXT_MAX], at[TIME_TEXT_MAX], device[IF_NAMESIZE];
    if (view->state.listening || view->state.since_ns <= before->since_ns)
        return;
    before->since_ns = view->state.since_ns;
    if (!if_indextoname(view->key.ifindex, device))
        snprintf(device, sizeof(device), "%u", view->key.ifindex);
    snprintf(text, sizeof(text), "%s on %s is answered by %s since %s",
             address_view_text(&view->key.addr, address), device,
             strcmp(view->owner, "none") == 0 ? "nobody" : view->owner,
             journal_time_text(peer_view_utc_ms(view->state.since_ns), at));
    events_note(d->events, "address.owner", text);
}

void peer_events_look(struct peer_events *seen, struct daemon *d)
{
    struct peer_view peer;
    struct address_view address;
    for (uint32_t i = 0; peer_view(d, i, &peer); i++)
        if (peer.begun && peer.index < ABI_PEERS_MAX)
            look_at_peer(seen, d, &peer);
    for (uint32_t i = 0; address_view(d, i, &address); i++)
        if (address.known)
            look_at_address(seen, d, &address);
}
