/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When this node stands for election. The library draws that by lot, from one election timeout to two, and
 * draws anew where nobody was elected; here it is what was seen that counts, and the voters take turns:
 *
 *   nothing comes from the leader      after election_ms
 *   and its host is silent, too        after a few heartbeats (consensus_host)
 *   its process ended the connection   at once (consensus_down)
 *
 * never before the promises to it are over, and then one voter after the other, in the order of their ids:
 * two that ask each other at the same moment both get no majority. Who is not elected asks again soon: to be
 * asked for a pre-vote costs nobody anything. Votes themselves wait for disks, and get time for it.
 *
 * On hosts that have too much to do, silence means little: where one leader follows the other, five within
 * eight seconds, the next ones get more time, for a minute, or for as long as they need it. Else a cluster
 * under load would elect instead of working.
 *
 * All of it is about when to ask. Whether it is elected is Raft's to decide: who hears the leader says no to
 * the pre-vote, and who has promised it not to vote for a while does not answer.
 */
#include <string.h>

#include "consensus_internal.h"

enum {
    STAND_APART_MS = 60,  /* between two voters */
    STAND_RANDOM_MS = 20, /* and at most so much more */
    AGAIN_MS = 150,       /* twice as long each time */
    DOUBLED_MAX = 2,
    VOTE_WRITES = 3, /* so many of our own writes of a vote may that of another one take */
    TOLD_TRIES = 3,  /* without a pre-vote, of one that was told to stand */
    MANY_WITHIN_MS = 8000,
    SLOWER_MAX = 2,
    SLOWER_MS = 60000,
};

/* --- what was seen --- */

static unsigned unheard_ms(const struct consensus *c)
{
    return 2 * c->config.heartbeat_ms + c->config.heartbeat_ms / 2;
}

static bool host_is_silent(const struct consensus *c, uint64_t node)
{
    const struct peer *peer = node ? peer_find(c, node) : NULL;
    return peer && peer->host_silent;
}

unsigned stand_silence_ms(const struct consensus *c)
{
    return c->config.election_ms << (consensus_now_ms(c) < c->stand.slower_until_ms ? c->stand.slower : 0);
}

/* For how long a leader may say nothing. */
static uint64_t patience_ms(const struct consensus *c)
{
    uint64_t unheard = unheard_ms(c);
    bool silent = host_is_silent(c, c->stand.leader);
    return silent && unheard < c->stand.patience_ms ? unheard : c->stand.patience_ms;
}

static enum election_cause cause_of(const struct consensus *c)
{
    uint64_t patience = patience_ms(c);
    if (c->stand.tries)
        return ELECTION_AGAIN;
    return patience == 0                      ? ELECTION_CONNECTION
           : patience < c->config.election_ms ? ELECTION_HOST
                                              : ELECTION_SILENCE;
}

static void tries_forget(struct consensus *c)
{
    c->stand.tries = 0;
    c->stand.patience_ms = stand_silence_ms(c);
    c->stand.random = c->host.random(c->host.arg) % STAND_RANDOM_MS;
}

void stand_begin(struct consensus *c)
{
    c->stand = (struct stand){0};
    tries_forget(c);
}

/* Since then it took so long that without more time there would be another leader. */
static void slower_renew(struct consensus *c, uint64_t since_ms)
{
    uint64_t now = consensus_now_ms(c);
    if (now < c->stand.slower_until_ms && now - since_ms >= c->config.election_ms)
        c->stand.slower_until_ms = now + SLOWER_MS;
}

/* A leader is heard for the first time. */
static void leader_begins(struct consensus *c, uint64_t term)
{
    struct stand *s = &c->stand;
    uint64_t now = consensus_now_ms(c);
    bool many = s->begun_ms[0] && now - s->begun_ms[0] < MANY_WITHIN_MS;
    s->term = term;
    memmove(s->begun_ms, s->begun_ms + 1, sizeof(s->begun_ms) - sizeof(s->begun_ms[0]));
    s->begun_ms[STAND_BEGUN - 1] = now;
    if (many) {
        memset(s->begun_ms, 0, sizeof(s->begun_ms));
        unsigned more = now < s->slower_until_ms ? s->slower + 1 : 1;
        s->slower = more < SLOWER_MAX ? more : SLOWER_MAX;
        s->slower_until_ms = now + SLOWER_MS;
    }
}

void stand_heard(struct consensus *c, uint64_t leader, uint64_t term)
{
    struct stand *s = &c->stand;
    uint64_t now = consensus_now_ms(c);
    if (s->term != term)
        leader_begins(c, term);
    else
        slower_renew(c, c->leader_heard_ms);
    c->leader_heard_ms = now;
    s->leader = leader;
    s->spared = false;
    tries_forget(c);
}

void stand_voted(struct consensus *c)
{
    c->stand.leader = 0; /* another one is waited for, and votes take their time */
    tries_forget(c);
}

static void leader_forget(struct consensus *c)
{
    c->stand.patience_ms = patience_ms(c);
    raft_free(c->raft.follower_state.current_leader.address);
    c->raft.follower_state.current_leader.address = NULL;
    c->raft.follower_state.current_leader.id = 0;
}

static bool believes(const struct consensus *c)
{
    return c->raft.state == RAFT_FOLLOWER && c->raft.follower_state.current_leader.id != 0;
}

void stand_forget_leader(struct consensus *c)
{
    uint64_t now = consensus_now_ms(c);
    if (believes(c) && now - c->leader_heard_ms >= patience_ms(c) && now >= lease_promised_until(c))
        leader_forget(c);
}

void stand_leader_gone(struct consensus *c, uint64_t node)
{
    if (!believes(c) || c->raft.follower_state.current_leader.id != node || !consensus_is_voter(c))
        return;
    c->stand.patience_ms = 0;
    leader_forget(c);
    consensus_arm(c);
}

void consensus_host(struct consensus *c, uint64_t node, bool silent)
{
    struct peer *peer = peer_get(c, node);
    if (!peer || peer->host_silent == silent || c->dead || c->told_closed)
        return;
    peer->host_silent = silent;
    if (!c->leads && !c->follow.active)
        consensus_arm(c);
}

/* --- when --- */

/* This node's turn among the voters that are left. */
static unsigned turn(const struct consensus *c)
{
    const struct raft_configuration *conf = &c->raft.configuration;
    unsigned place = 0;
    for (unsigned i = 0; i < conf->n; i++)
        place += conf->servers[i].role == RAFT_VOTER && conf->servers[i].id != c->stand.leader &&
                 conf->servers[i].id < c->vote.node_id;
    return place;
}

static unsigned doubled(const struct consensus *c)
{
    unsigned again = c->stand.tries ? c->stand.tries - 1 : 0;
    return again < DOUBLED_MAX ? again : DOUBLED_MAX;
}

uint64_t stand_due_ms(const struct consensus *c)
{
    const struct stand *s = &c->stand;
    uint64_t apart = (uint64_t)(turn(c) * STAND_APART_MS + s->random) << doubled(c);
    uint64_t at = s->tries ? s->tried_ms + s->wait_ms : c->raft.election_timer_start + patience_ms(c);
    uint64_t promised = lease_promised_until(c);
    at = (at > promised ? at : promised) + apart;
    return at > s->spared_until_ms ? at : s->spared_until_ms;
}

/*
 * After a loop that stood still, what came meanwhile waits in the sockets: nobody is called silent before it
 * was read. Once, until a leader is heard: where the loop is late all the time, somebody has to lead, too.
 */
void stand_look_at_clock(struct consensus *c, bool tick)
{
    struct stand *s = &c->stand;
    uint64_t now = consensus_now_ms(c);
    if (s->ticked_ms && (c->leads || !s->spared) && now - s->ticked_ms > unheard_ms(c)) {
        s->spared = !c->leads;
        s->spared_until_ms = now + 2ull * c->config.heartbeat_ms;
    }
    if (s->ticked_ms)
        slower_renew(c, s->ticked_ms);
    if (tick)
        s->ticked_ms = now;
}

/* --- it stands --- */

static void wait_begin(struct consensus *c, uint64_t ms)
{
    struct stand *s = &c->stand;
    uint64_t longest = 2ull * c->config.election_ms;
    s->tried_ms = consensus_now_ms(c); /* its own vote is written by now */
    s->wait_ms = ms << doubled(c);
    if (s->wait_ms > longest)
        s->wait_ms = longest;
    s->random = c->host.random(c->host.arg) % STAND_APART_MS;
}

static void tell(struct consensus *c, enum election_cause cause)
{
    c->counts.elections[cause]++;
    if (c->config.stands && c->handle && cause != ELECTION_AGAIN)
        c->config.stands(c->config.arg, cause);
}

void stand_prepare(struct consensus *c)
{
    /* Its timer is ours. */
    if (c->raft.state == RAFT_FOLLOWER)
        c->raft.follower_state.randomized_election_timeout = 0;
    if (c->raft.state != RAFT_CANDIDATE)
        return;
    c->raft.candidate_state.randomized_election_timeout = 0;
    /* libraft 0.22.1 goes on with the next term where a vote was in vain, and so a node that is cut off
     * counts terms without end, and unseats whoever leads when it is back. The word of a leader that handed
     * over counts for a few tries. */
    if (c->stand.tries >= TOLD_TRIES)
        c->raft.candidate_state.disrupt_leader = false;
    if (!c->raft.candidate_state.disrupt_leader)
        c->raft.candidate_state.in_pre_vote = true;
}

void stand_tried(struct consensus *c)
{
    enum election_cause cause = cause_of(c);
    bool stands = c->raft.state != RAFT_FOLLOWER;
    c->stand.tries++;
    wait_begin(c, AGAIN_MS);
    if (stands)
        tell(c, cause);
}

bool stand_asks(const struct consensus *c)
{
    return c->raft.state == RAFT_CANDIDATE && c->raft.candidate_state.in_pre_vote;
}

void stand_votes(struct consensus *c)
{
    uint64_t ms = AGAIN_MS + VOTE_WRITES * c->stand.vote_ms;
    uint64_t least = c->config.election_ms / 2; /* another one's disk may be the slower one */
    if (c->raft.state == RAFT_CANDIDATE)
        wait_begin(c, ms > least ? ms : least);
}

void stand_told(struct consensus *c)
{
    if (c->raft.state != RAFT_CANDIDATE)
        return;
    c->stand.tries++;
    stand_votes(c);
    tell(c, ELECTION_HANDOVER);
}

/* --- as leader --- */

/* Whether the hosts that are heard are too few. */
static bool majority_is_silent(const struct consensus *c)
{
    const struct raft_configuration *conf = &c->raft.configuration;
    unsigned voters = 0, silent = 0;
    for (unsigned i = 0; i < conf->n; i++) {
        voters += conf->servers[i].role == RAFT_VOTER;
        silent += conf->servers[i].role == RAFT_VOTER && host_is_silent(c, conf->servers[i].id);
    }
    return 2 * (voters - silent) <= voters;
}

/* The library ends the lead where no majority answered for an election timeout. */
unsigned stand_lead_ms(const struct consensus *c)
{
    unsigned unheard = unheard_ms(c), silence = stand_silence_ms(c);
    if (consensus_now_ms(c) < c->stand.spared_until_ms) /* answers may wait in the sockets */
        return silence;
    return unheard < silence && majority_is_silent(c) ? unheard : silence;
}
