/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What answers to probes, and the lack of them, say about a backend:
 *
 * - a SYN-ACK: up after `rise` of them (at once if it was not down); nothing where HTTP is checked;
 * - a good HTTP answer: the same where HTTP is checked;
 * - a RST to a SYN: down;
 * - a bad HTTP answer (another status, no HTTP, a reset, silence): down after `fall` of them in a row;
 * - no answer: down after `fall` probes in a row; any late answer ends the row;
 * - a TLS handshake that control made and that failed: suspect, down after `fall` of them in a row; until one
 *   is answered, or control has said nothing for a while, SYN-ACKs do not clear it;
 * - a bad HTTP answer, or JUDGE_DOUBT probes in a row without one: suspect, so that new connections go
 * elsewhere while it is not known better.
 *
 * After evidence a series of probes follows the first at a fast pace: a process that dies closes its
 * connections before its listening socket, so that the first may still be answered. A suspicion lasts at
 * least as long. They are sent for the reset; that they are not answered says nothing, as a moment's
 * standstill would have all of them missed.
 *
 * A miss counts only if the probe left this host and the clock ran since (probe_void, tick_lateness). A
 * suspicion is cleared only by the answer to a probe that was sent after it.
 *
 * Fields of probe_state are written by the tick, by `rx` on any processor, and by a timer. Each shot's end is
 * claimed by compare-and-swap of sent_ns; a row's count that a race makes one too small costs one probe more.
 */
#ifndef FL_BPF_PROBE_JUDGE_H
#define FL_BPF_PROBE_JUDGE_H

#include "common.h"
#include "feed.h"
#include "maps.h"
#include "suspicion.h"
#include "verdict.h"

enum {
    JUDGE_FALL = 3, /* where the check says nothing: backends that are not checked */
    JUDGE_RISE = 1,
    JUDGE_DOUBT = 2, /* one lost packet says nothing */
    JUDGE_TIMEOUT_US = 100000,
    JUDGE_HTTP_TIMEOUT_US = 1000000,
    RTT_WEIGHT = 8,
    SERIES_PROBES = 20,   /* a series of probes after evidence: as many, ... */
    SERIES_NS = 10000000, /* ... and not longer */
    NS_PER_US = 1000,
    TLS_SILENCE_S = 60, /* nobody makes handshakes any more */
};

/* The clock's last late tick. One by itself is forgiven: this processor stood still, and answers may wait
 * behind the tick. */
struct tick_lateness {
    __u64 forgiven_ns; /* probes from before it are not missed */
    __u32 is_late;     /* the last tick was */
};

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct tick_lateness);
} tick_lateness SEC(".maps");

/* One backend and what belongs to it. */
struct checkup {
    __u32 id;
    struct abi_backend *backend;
    struct abi_check *check;
    struct abi_probe_state *state;
    struct abi_tick_state *clock;
    __u64 now;
};

/* False: there is no such backend now. */
INLINE bool probe_get(struct checkup *p, __u32 id)
{
    __u32 zero = 0;
    p->id = id;
    p->backend = bpf_map_lookup_elem(&backends, &id);
    p->state = bpf_map_lookup_elem(&probe_state, &id);
    p->clock = bpf_map_lookup_elem(&tick_state, &zero);
    if (!p->backend || !p->state || !p->clock || p->backend->admin == ABI_ADMIN_NONE)
        return false;
    __u32 service = p->backend->service;
    p->check = bpf_map_lookup_elem(&checks, &service);
    return p->check != NULL;
}

INLINE __u32 probe_verdict(const struct checkup *p)
{
    __u32 id = p->id;
    __u64 *word = bpf_map_lookup_elem(&verdicts, &id);
    return word ? verdict_state(*(volatile __u64 *)word, p->backend) : ABI_UNKNOWN;
}

INLINE __u32 probe_fall(const struct checkup *p)
{
    return p->check->fall ? p->check->fall : JUDGE_FALL;
}

INLINE __u64 probe_timeout_ns(const struct checkup *p)
{
    return (__u64)(p->check->timeout_us ? p->check->timeout_us : JUDGE_TIMEOUT_US) * NS_PER_US;
}

INLINE __u64 probe_http_timeout_ns(const struct checkup *p)
{
    return (__u64)(p->check->http_timeout_us ? p->check->http_timeout_us : JUDGE_HTTP_TIMEOUT_US) * NS_PER_US;
}

INLINE __u32 rtt_smooth(__u32 before_us, __u64 sample_ns)
{
    __u64 sample_us = sample_ns / NS_PER_US;
    if (sample_us > 0xffffffff / RTT_WEIGHT)
        sample_us = 0xffffffff / RTT_WEIGHT;
    return before_us ? ((__u64)before_us * (RTT_WEIGHT - 1) + sample_us) / RTT_WEIGHT : sample_us;
}

/* When the shot was sent, if it is still under way; from now on it is not. 0: it was not. */
INLINE __u64 shot_claim(struct abi_probe_shot *shot)
{
    __u64 sent_ns = *(volatile __u64 *)&shot->sent_ns;
    if (!sent_ns || __sync_val_compare_and_swap(&shot->sent_ns, sent_ns, 0) != sent_ns)
        return 0;
    return sent_ns;
}

/* Verdicts. */

INLINE void judge_down(struct checkup *p, __u32 reason)
{
    p->state->rises = 0;
    verdict_set(p->id, p->backend, ABI_DOWN, reason, p->state->rtt_us);
}

/* Not down, but not as it should be. */
static __noinline int judge_doubt(struct checkup *p, __u32 reason)
{
    if (!p || !p->state || !p->backend)
        return 0;
    if (probe_verdict(p) != ABI_UP || !suspicion_allowed(p->id, p->now))
        return 0;
    p->state->suspected_ns = p->now;
    verdict_set(p->id, p->backend, ABI_SUSPECT, reason, p->state->rtt_us);
    return 0;
}

INLINE bool in_series(const struct checkup *p)
{
    return p->state->series && p->now < p->state->urgent_ns + SERIES_NS;
}

/* `sent_ns` 0: a late answer. It shows life, but not that all is well now. */
INLINE void judge_good(struct checkup *p, __u64 sent_ns, __u32 rtt_us)
{
    struct abi_probe_state *s = p->state;
    __u32 verdict = probe_verdict(p);
    if (verdict == ABI_UP || !sent_ns || feed_objects(p->id, p->backend, p->now))
        return;
    if (verdict == ABI_SUSPECT && (sent_ns < s->suspected_ns || in_series(p)))
        return;
    if (verdict == ABI_DOWN && ++s->rises < (p->check->rise ? p->check->rise : JUDGE_RISE))
        return;
    s->rises = 0;
    verdict_set(p->id, p->backend, ABI_UP, ABI_PROBE_OK, rtt_us);
}

/* Whether more than a SYN-ACK is needed to call it up. */
INLINE bool wants_more(const struct checkup *p)
{
    const struct abi_probe_state *s = p->state;
    if (p->check->kind == ABI_CHECK_TLS)
        return s->http_failed && p->now < s->http_sent_ns + TLS_SILENCE_S * 1000000000ull;
    return p->check->kind == ABI_CHECK_HTTP;
}

INLINE void judge_syn_ack(struct checkup *p, __u64 sent_ns)
{
    struct abi_probe_state *s = p->state;
    s->misses = 0;
    s->answered_ns = p->now;
    __sync_fetch_and_add(&s->answers, 1);
    if (sent_ns)
        s->rtt_us = rtt_smooth(s->rtt_us, p->now - sent_ns);
    if (!wants_more(p))
        judge_good(p, sent_ns, s->rtt_us);
}

/* What comes up again is asked for its HTTP answer with the first SYN-ACK, so the failure is forgotten. */
INLINE void judge_refused(struct checkup *p)
{
    struct abi_probe_state *s = p->state;
    s->misses = 0;
    s->http_misses = 0;
    s->http_failed = 0;
    s->series = 0;
    judge_down(p, ABI_PROBE_REFUSED);
}

INLINE void judge_http_good(struct checkup *p, __u64 sent_ns)
{
    struct abi_probe_state *s = p->state;
    s->http_misses = 0;
    s->http_failed = 0;
    s->answered_ns = p->now;
    __sync_fetch_and_add(&s->http_answers, 1);
    s->http_rtt_us = rtt_smooth(s->http_rtt_us, p->now - sent_ns);
    judge_good(p, sent_ns, s->http_rtt_us);
}

INLINE void judge_http_bad(struct checkup *p, __u32 reason)
{
    struct abi_probe_state *s = p->state;
    s->rises = 0;
    s->http_failed = 1;
    s->http_fail_reason = reason;
    __sync_fetch_and_add(&s->http_failures, 1);
    if (s->http_misses < 0xff)
        s->http_misses++;
    if (s->http_misses >= probe_fall(p))
        judge_down(p, reason);
    else
        judge_doubt(p, reason);
}

/* What control says of a handshake. A good one calls nobody up: it lets the next SYN-ACKs do it. */
INLINE void judge_handshake(struct checkup *p, __u32 reason)
{
    struct abi_probe_state *s = p->state;
    s->http_sent_ns = p->now;
    if (reason == ABI_PROBE_OK) {
        s->http_misses = 0;
        s->http_failed = 0;
        __sync_fetch_and_add(&s->http_answers, 1);
        return;
    }
    judge_http_bad(p, reason);
    s->suspected_ns = p->now;
    verdict_set(p->id, p->backend, ABI_SUSPECT, reason, s->rtt_us);
}

/* Time-outs. */

/* Whether a probe that got no answer counts as not sent: the clock stood still since, or nothing came through
 * to `fan` after it. */
INLINE bool probe_void(const struct checkup *p, __u64 sent_ns)
{
    return sent_ns <= p->clock->resumed_ns || p->clock->fan_ns < sent_ns;
}

/* So many of its probes were missed. */
INLINE void judge_misses(struct checkup *p, __u32 missed)
{
    struct abi_probe_state *s = p->state;
    __u32 misses = s->misses + missed;
    __sync_fetch_and_add(&s->timeouts, missed);
    s->misses = misses < 0xff ? misses : 0xff;
    if (misses >= probe_fall(p))
        judge_down(p, ABI_PROBE_TIMEOUT);
    else if (misses >= JUDGE_DOUBT)
        judge_doubt(p, ABI_PROBE_TIMEOUT);
}

/* What one pass over a backend's probes finds. */
struct judge_pass {
    __u64 timeout_ns;
    __u64 late_ns;  /* who judges so much too late was stopped with the host, and cannot say what happened */
    __u64 clock_ns; /* what was sent before waited with a late tick */
    __u64 left_ns;  /* that the next one has, 0: none is under way */
    __u32 missed;
};

INLINE void judge_shot(const struct checkup *p, struct abi_probe_shot *shot, struct judge_pass *j)
{
    __u64 sent_ns = *(volatile __u64 *)&shot->sent_ns;
    __u32 used = shot->used;
    if (!sent_ns)
        return;
    __u64 age_ns = p->now > sent_ns ? p->now - sent_ns : 0;
    if (age_ns < j->timeout_ns) {
        __u64 left_ns = j->timeout_ns - age_ns;
        j->left_ns = j->left_ns && j->left_ns < left_ns ? j->left_ns : left_ns;
        return;
    }
    if (shot_claim(shot) && used != ABI_SHOT_SERIES && sent_ns > j->clock_ns && !probe_void(p, sent_ns) &&
        age_ns - j->timeout_ns < j->late_ns)
        j->missed++;
}

/* Judges a backend's TCP probes whose time is up. Returns how long the next one has, 0: none is under way.
 * Global: the verifier looks at it once, and not wherever it is called. */
__noinline __u64 judge_shots(__u32 id, __u64 late_ns)
{
    __u32 zero = 0;
    struct checkup p;
    const struct tick_lateness *late = bpf_map_lookup_elem(&tick_lateness, &zero);
    if (!late || !probe_get(&p, id))
        return 0;
    p.now = bpf_ktime_get_ns();
    struct judge_pass j = {
        .timeout_ns = probe_timeout_ns(&p), .late_ns = late_ns, .clock_ns = late->forgiven_ns};
    /* Unrolled: the verifier of 6.1 takes no loop whose body is entered in the middle. */
#pragma unroll
    for (int i = 0; i < ABI_PROBE_SHOTS; i++)
        judge_shot(&p, &p.state->tcp[i], &j);
    if (j.missed)
        judge_misses(&p, j.missed);
    return j.left_ns;
}

/* At a visit of the clock: `slack_ns` is what it may be early, so that a time limit of as many ticks is over
 * with the last of them and not with the one after. */
INLINE void judge_http_time(struct checkup *p, __u64 slack_ns)
{
    struct abi_probe_shot *shot = &p->state->http;
    __u64 sent_ns = *(volatile __u64 *)&shot->sent_ns;
    if (!sent_ns || p->now + slack_ns < sent_ns + probe_http_timeout_ns(p) || !shot_claim(shot))
        return;
    if (!probe_void(p, sent_ns))
        judge_http_bad(p, shot->accepted ? ABI_HTTP_TIMEOUT : ABI_PROBE_TIMEOUT);
}

/* Another backend has this id now, or its check begins anew. */
INLINE void probe_renew(struct checkup *p)
{
    struct abi_probe_state *s = p->state;
    for (int i = 0; i < ABI_PROBE_SHOTS; i++) {
        s->tcp[i].sent_ns = 0;
        s->tcp[i].used = 0;
    }
    s->http.sent_ns = 0;
    s->http.used = 0;
    s->misses = 0;
    s->http_misses = 0;
    s->rises = 0;
    s->http_failed = 0;
    s->wanted = ABI_WANTED_NOT;
    s->series = 0;
    s->http_sent_ns = 0;
    s->generation = p->backend->generation;
}

#endif
