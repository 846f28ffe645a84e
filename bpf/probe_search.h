/* SPDX-License-Identifier: GPL-2.0 */
/*
 * From a segment to the backend whose probe it answers: backends of several services may have one address.
 */
#ifndef FL_BPF_PROBE_SEARCH_H
#define FL_BPF_PROBE_SEARCH_H

#include "common.h"
#include "maps.h"
#include "suspicion.h"
#include "probe_judge.h"
#include "probe_own.h"
#include "probe_packet.h"

enum { FOUND_NOT = -1, FOUND_HTTP = ABI_PROBE_SHOTS }; /* else the index of a TCP probe's shot */

/* A walk over the backends of one address for the one that a segment answers. */
struct search {
    __u32 id; /* of this step */
    int found;
    __u32 sequence;
    __u32 acknowledged;
    __u16 port; /* of the probe */
    __u8 flags;
    __u8 wanted; /* ... or for one that is to be probed, and whether there are more */
    __u32 wanted_id;
    __u32 more;
    __u8 open;    /* only what is not answered yet */
    __u8 own;     /* the number that the segment answers is one of ours, whatever it was for */
    __u8 payload; /* it has some, or ends the connection */
    __u8 pad;
    __u16 to_port; /* the same ports as on the wire */
    __u16 from_port;
    struct abi_addr from;
};

INLINE bool shot_is(const struct abi_probe_shot *shot, const struct search *s)
{
    return shot->used && (!s->open || shot->sent_ns) && shot->source_port == s->port &&
           shot->sequence + 1 == s->acknowledged;
}

/* The HTTP check's connection: its SYN and later segments. A reset may come without an acknowledgement, with
 * the sequence number that is expected. */
INLINE bool http_is(const struct abi_probe_state *st, const struct abi_check *c, const struct search *s)
{
    if (!st->http.used || (s->open && !st->http.sent_ns) || st->http.source_port != s->port)
        return false;
    if (!(s->flags & TCP_ACK))
        return (s->flags & TCP_RST) && st->http.accepted && s->sequence == st->http_sequence;
    __u32 behind = s->acknowledged - st->http.sequence;
    return behind == 1 || (st->http.accepted && behind == 1u + c->request_bytes);
}

INLINE int search_state(const struct abi_probe_state *st, const struct abi_check *c, const struct search *s)
{
    if (http_is(st, c, s))
        return FOUND_HTTP;
    if (!(s->flags & TCP_ACK))
        return FOUND_NOT;
    for (int i = 0; i < ABI_PROBE_SHOTS; i++)
        if (shot_is(&st->tcp[i], s))
            return i;
    return FOUND_NOT;
}

static long search_step(__u32 i, struct search *s)
{
    struct checkup p;
    if (!probe_get(&p, s->id))
        return 1;
    if (p.state->generation == p.backend->generation)
        s->found = search_state(p.state, p.check, s);
    if (s->found != FOUND_NOT || p.backend->next_same == ABI_NO_BACKEND)
        return 1;
    s->id = p.backend->next_same;
    return 0;
}

static long wanted_step(__u32 i, struct search *s)
{
    __u32 id = s->id;
    struct abi_backend *b = bpf_map_lookup_elem(&backends, &id);
    struct abi_probe_state *st = bpf_map_lookup_elem(&probe_state, &id);
    if (!b || !st)
        return 1;
    if (st->wanted && s->wanted) {
        s->more = 1;
        return 1;
    }
    if (st->wanted) {
        s->wanted = st->wanted;
        s->wanted_id = id;
        st->wanted = ABI_WANTED_NOT;
    }
    s->id = b->next_same;
    return s->id == ABI_NO_BACKEND;
}

INLINE __u32 first_backend(const struct segment *s)
{
    struct abi_endpoint at = {.addr = s->source, .port = s->source_port};
    return backend_at(&at);
}

INLINE void search_init(struct search *w, const struct segment *s, __u32 first)
{
    __builtin_memset(w, 0, sizeof(*w));
    w->id = first;
    w->found = FOUND_NOT;
    w->sequence = s->sequence;
    w->acknowledged = s->acknowledged;
    w->port = bpf_ntohs(s->target_port);
    w->flags = s->flags;
    w->payload = s->payload_bytes || (s->flags & TCP_FIN);
    w->from = s->source;
    w->from_port = s->source_port;
    w->to_port = s->target_port;
}

/* Finds what the segment answers: a probe that waits for it, else one that is remembered. Two services'
 * probes to one address may by chance have their numbers in common. */
INLINE void search_run(struct search *w, __u32 first)
{
    w->open = 1;
    bpf_loop(SAME_ENDPOINT_WALK, search_step, w, 0);
    if (w->found != FOUND_NOT)
        return;
    w->open = 0;
    w->id = first;
    bpf_loop(SAME_ENDPOINT_WALK, search_step, w, 0);
}

/* Whether the segment answers a request that was made with one of our numbers. */
static long own_step(__u32 i, struct search *s)
{
    struct checkup p;
    if (!probe_get(&p, s->id))
        return 1;
    __u32 sequence = s->acknowledged - 1 - p.check->request_bytes;
    s->own = p.check->kind == ABI_CHECK_HTTP && own_is(sequence, &s->from, s->from_port, s->to_port);
    if (s->own)
        return 1;
    s->id = p.backend->next_same;
    return s->id == ABI_NO_BACKEND;
}

/* Whether it comes late, to a probe that is forgotten: nothing else would end its connection, as a firewall
 * lets no reset of the stack's pass for a connection that it does not know. What only acknowledges data is
 * looked at no further, as there is much of it in others' connections. */
INLINE bool search_own(struct search *w, __u32 first)
{
    if (!(w->flags & TCP_ACK))
        return false;
    if (own_is(w->acknowledged - 1, &w->from, w->from_port, w->to_port))
        return true;
    if ((w->flags & TCP_SYN) || !w->payload)
        return false;
    w->id = first;
    bpf_loop(SAME_ENDPOINT_WALK, own_step, w, 0);
    return w->own;
}

#endif
