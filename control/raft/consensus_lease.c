/* SPDX-License-Identifier: Apache-2.0 */
/* Read leases of this node and, where it leads, of the others (lease.h). */
#include <stdlib.h>

#include "consensus_internal.h"

/* --- as leader --- */

/* Since when a majority is known to listen. */
static uint64_t quorum_ms(const struct consensus *c)
{
    const struct raft_configuration *conf = &c->raft.configuration;
    uint64_t echoed[PEERS_MAX];
    size_t others = 0;
    for (unsigned i = 0; i < conf->n && others < PEERS_MAX; i++) {
        if (conf->servers[i].role != RAFT_VOTER || conf->servers[i].id == c->vote.node_id)
            continue;
        const struct peer *peer = peer_find(c, conf->servers[i].id);
        echoed[others++] = peer ? peer->lease.echoed_ms : 0;
    }
    return lease_quorum_ms(echoed, others, consensus_is_voter(c), consensus_now_ms(c));
}

/* Whether the commit index of this leader says everything that was ever answered. */
static bool lead_is_settled(const struct consensus *c)
{
    return c->commit >= c->lease.begin_index && c->applied >= c->lease.begin_index &&
           consensus_now_ms(c) >= c->lease.wait_until_ms;
}

void lease_begin_lead(struct consensus *c)
{
    struct lease *l = &c->lease;
    uint64_t now = consensus_now_ms(c);
    l->begin_index = l->answered = raft_last_index(&c->raft);
    /* Who was told to stand did not wait for the end of the promises, nor did the only voter that starts
     * anew. */
    bool early = l->handed || (!c->handle && c->raft.configuration.n > 1);
    l->wait_until_ms = early ? now + c->config.lease_ms : now;
    l->held_until_ms = l->awaited_since_ms = 0;
    l->handed = false;
    for (size_t i = 0; i < c->peers; i++) {
        c->peer[i].lease = (struct lease_peer){.id = c->peer[i].id};
        c->peer[i].has = c->peer[i].told = 0;
    }
}

void lease_end_lead(struct consensus *c)
{
    struct awaited *a;
    while ((a = c->awaited)) {
        c->awaited = a->next;
        consensus_tell(c, a->done, a->arg, -ECANCELED);
        free(a);
    }
    c->lease.awaited_since_ms = 0;
    /* It counted itself among those who promised not to vote. */
    c->lease.promised_until_ms = consensus_now_ms(c) + c->config.lease_ms;
}

static bool applied_everywhere(struct consensus *c, uint64_t index)
{
    uint64_t now = consensus_now_ms(c);
    for (size_t i = 0; i < c->peers; i++)
        if (c->peer[i].lease.expires_ms > now && c->peer[i].lease.applied < index)
            return false;
    return feed_applied(c) >= index && now >= c->lease.wait_until_ms;
}

void consensus_await(struct consensus *c, uint64_t index, consensus_changed done, void *arg)
{
    struct awaited *a = calloc(1, sizeof(*a)), **at = &c->awaited;
    CHECK(a && done);
    *a = (struct awaited){.index = index, .done = done, .arg = arg};
    if (!c->leads || c->dead || c->told_closed) {
        consensus_tell(c, done, arg, -ECANCELED);
        free(a);
        return;
    }
    while (*at && (*at)->index <= index)
        at = &(*at)->next;
    a->next = *at;
    *at = a;
    consensus_wake(c);
}

void lease_pump(struct consensus *c)
{
    struct awaited *a;
    while ((a = c->awaited) && c->leads && applied_everywhere(c, a->index)) {
        c->awaited = a->next;
        c->lease.awaited_since_ms = 0;
        if (a->index > c->lease.answered)
            c->lease.answered = a->index;
        consensus_tell(c, a->done, a->arg, 0);
        free(a);
    }
    if (c->awaited && !c->lease.awaited_since_ms)
        c->lease.awaited_since_ms = consensus_now_ms(c);
}

/* Who holds up answers gets no more than the lease that it has. */
static bool holds_up(const struct consensus *c, uint64_t applied)
{
    return c->awaited && c->awaited->index > applied && c->lease.awaited_since_ms &&
           consensus_now_ms(c) - c->lease.awaited_since_ms >= c->config.lease_ms / 4;
}

int lease_on_renew(struct consensus *c, struct peer *from, const void *body, size_t len)
{
    struct lease_peer *peer = &from->lease;
    struct lease_renew renew;
    struct lease_grant grant;
    uint8_t frame[LEASE_FRAME_BYTES];
    uint64_t now = consensus_now_ms(c);
    if (lease_renew_decode(body, len, &renew))
        return -EPROTO;
    if (!c->leads || renew.term != raft_current_term(&c->raft))
        return 0;
    peer->applied = renew.applied;
    if (renew.echo_ms <= now && renew.echo_ms > peer->echoed_ms)
        peer->echoed_ms = renew.echo_ms;
    grant = (struct lease_grant){
        .term = renew.term, .stamp_ms = renew.stamp_ms, .own_ms = now, .promise_ms = c->config.lease_ms};
    if (lead_is_settled(c) && !c->transfer.busy && !holds_up(c, renew.applied))
        grant.valid_ms = lease_valid_ms(quorum_ms(c), c->config.lease_ms, now);
    if (grant.valid_ms) {
        /* Who renews in time was asked about each answer; who has less than that forgot it in between. */
        if (peer->expires_ms <= now || renew.applied < c->lease.answered)
            peer->floor = c->commit;
        if (peer->expires_ms < now + grant.valid_ms)
            peer->expires_ms = now + grant.valid_ms;
        grant.floor = peer->floor;
    }
    send_frame(c, from->id, CONSENSUS_FRAME_GRANT, frame, lease_grant_encode(&grant, frame));
    return 0;
}

/* --- as follower --- */

static void renew_send(struct consensus *c)
{
    uint8_t frame[LEASE_FRAME_BYTES];
    raft_id leader;
    const char *address;
    raft_leader(&c->raft, &leader, &address);
    if (c->leads || !leader || c->closing || c->installing || !c->transport.send || c->follow.active)
        return;
    struct lease *l = &c->lease;
    struct lease_renew renew = {
        .term = raft_current_term(&c->raft), .stamp_ms = consensus_now_ms(c), .applied = feed_applied(c)};
    if (l->term == renew.term)
        renew.echo_ms = l->echo_ms;
    send_frame(c, leader, CONSENSUS_FRAME_RENEW, frame, lease_renew_encode(&renew, frame));
}

void lease_tick(struct consensus *c)
{
    stand_forget_leader(c);
    renew_send(c);
    feed_tick(c);
    follow_tick(c);
}

void lease_applied(struct consensus *c)
{
    renew_send(c);
    follow_applied(c);
}

int lease_on_grant(struct consensus *c, struct peer *from, const void *body, size_t len)
{
    struct lease *l = &c->lease;
    struct lease_grant grant;
    uint64_t now = consensus_now_ms(c);
    raft_id leader;
    const char *address;
    if (lease_grant_decode(body, len, &grant))
        return -EPROTO;
    raft_leader(&c->raft, &leader, &address);
    if (c->leads || leader != from->id || grant.term != raft_current_term(&c->raft) || grant.stamp_ms > now)
        return 0;
    if (l->term != grant.term)
        l->held_until_ms = l->floor = l->echo_ms = 0;
    l->term = grant.term;
    if (grant.own_ms > l->echo_ms)
        l->echo_ms = grant.own_ms;
    if (now + grant.promise_ms > l->promised_until_ms)
        l->promised_until_ms = now + grant.promise_ms;
    if (grant.valid_ms && grant.stamp_ms + grant.valid_ms > l->held_until_ms) {
        l->held_until_ms = grant.stamp_ms + grant.valid_ms;
        if (grant.floor > l->floor)
            l->floor = grant.floor;
    }
    lease_publish(c);
    return 0;
}

uint64_t lease_promised_until(const struct consensus *c)
{
    return c->lease.promised_until_ms;
}

uint64_t lease_held_until(const struct consensus *c)
{
    const struct lease *l = &c->lease;
    uint64_t now = consensus_now_ms(c);
    uint32_t valid_ms;
    if (c->dead || c->installing)
        return NAMES_FRESH_NEVER;
    if (c->follow.active)
        return follow_held_until(c);
    if (!c->leads)
        return c->applied >= l->floor && l->held_until_ms > now ? l->held_until_ms : NAMES_FRESH_NEVER;
    if (c->raft.configuration.n == 1)
        return NAMES_FRESH_ALWAYS;
    valid_ms = lead_is_settled(c) ? lease_valid_ms(quorum_ms(c), c->config.lease_ms, now) : 0;
    return valid_ms ? now + valid_ms : NAMES_FRESH_NEVER;
}

bool consensus_lease(const struct consensus *c)
{
    return lease_held_until(c) > consensus_now_ms(c);
}

void lease_publish(const struct consensus *c)
{
    if (c->config.epochs)
        atomic_store(&c->config.epochs->fresh_until_ms, lease_held_until(c));
}
