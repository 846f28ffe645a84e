/* SPDX-License-Identifier: Apache-2.0 */
/* Frames of other nodes on their way in. */
#include <stdlib.h>
#include <string.h>

#include "consensus_internal.h"
#include "raft_codec.h"

const struct peer *peer_find(const struct consensus *c, uint64_t id)
{
    for (size_t i = 0; i < c->peers; i++)
        if (c->peer[i].id == id)
            return &c->peer[i];
    return NULL;
}

/* A peer that is in no configuration any more and that nothing was heard of for long makes place. */
static struct peer *peer_evict(struct consensus *c)
{
    struct peer *oldest = NULL;
    for (size_t i = 0; i < c->peers; i++) {
        struct peer *p = &c->peer[i];
        bool member = false;
        for (unsigned k = 0; k < c->raft.configuration.n; k++)
            member |= c->raft.configuration.servers[k].id == p->id;
        if (!member && p->lease.expires_ms < consensus_now_ms(c) &&
            (!oldest || p->heard_ms < oldest->heard_ms))
            oldest = p;
    }
    if (oldest)
        free(oldest->in.data);
    return oldest;
}

struct peer *peer_get(struct consensus *c, uint64_t id)
{
    struct peer *peer = (struct peer *)(uintptr_t)peer_find(c, id);
    if (peer || id == 0 || id == c->vote.node_id)
        return peer;
    peer = c->peers < PEERS_MAX ? &c->peer[c->peers++] : peer_evict(c);
    if (peer)
        *peer = (struct peer){.id = id, .lease.id = id};
    return peer;
}

void peers_free(struct consensus *c)
{
    for (size_t i = 0; i < c->peers; i++)
        free(c->peer[i].in.data);
    c->peers = 0;
}

bool peer_online(const struct consensus *c, uint64_t id)
{
    const struct peer *peer = peer_find(c, id);
    return peer && peer->heard_ms && consensus_now_ms(c) - peer->heard_ms < c->config.election_ms;
}

/* A voter that promised a leader not to vote for a while keeps the promise, unless that leader itself hands
 * over. A candidate's own id has to be its own. */
static bool vote_allowed(const struct consensus *c, const struct raft_message *m)
{
    const struct raft_request_vote *vote = &m->request_vote;
    return vote->disrupt_leader || consensus_now_ms(c) >= lease_promised_until(c);
}

/* Terms and indexes that contradict what this node knows for sure are no message of Raft's. */
static bool sane(const struct consensus *c, const struct raft_message *m)
{
    if (m->type == RAFT_REQUEST_VOTE)
        return m->request_vote.candidate_id == m->server_id;
    /* There is one leader a term: an order in the term that this node leads in is nobody's. */
    if (c->leads && m->type == RAFT_APPEND_ENTRIES)
        return m->append_entries.term != raft_current_term(&c->raft);
    if (c->leads && m->type == RAFT_INSTALL_SNAPSHOT)
        return m->install_snapshot.term != raft_current_term(&c->raft);
    return true;
}

/*
 * A refusal that comes late, behind an answer that says more: what the follower has by its own word of this
 * term it has for good. libraft 0.22.1 would go back behind that while it probes, and send that follower no
 * entry ever again (it counts those under way from what is known to be there, and gets less than none). So
 * the refusal becomes what it is, a sign of life, or one of what really lacks.
 */
static void refusal_mend(const struct consensus *c, struct raft_message *m)
{
    struct raft_append_entries_result *result = &m->append_entries_result;
    raft_index match;
    if (m->type != RAFT_APPEND_ENTRIES_RESULT || !c->leads || !result->rejected ||
        result->term != raft_current_term(&c->raft) || raft_match_index(&c->raft, m->server_id, &match))
        return;
    if (result->last_log_index < match)
        result->last_log_index = match;
    if (result->rejected <= match) {
        result->rejected = 0;
        result->last_log_index = match;
    }
}

static int receive(struct consensus *c, struct raft_message *message, struct snapshot_meta *snapshot)
{
    if (!sane(c, message))
        return -EPROTO;
    refusal_mend(c, message);
    if (message->type == RAFT_REQUEST_VOTE && !vote_allowed(c, message))
        return 0;
    if (message->type == RAFT_INSTALL_SNAPSHOT)
        return snapshot_on_offer(c, message->server_id, message->install_snapshot.term, snapshot);
    int rc = step_receive(c, message);
    if (rc)
        consensus_die(c, "the Raft library refuses a message of node %llu: %s", message->server_id,
                      raft_strerror(rc));
    return rc ? -EPROTO : 0;
}

/* What the follower has by its own word; a wrong one costs a message that it refuses. */
static void note_has(const struct consensus *c, struct peer *from, const struct raft_message *m)
{
    const struct raft_append_entries_result *result = &m->append_entries_result;
    if (m->type == RAFT_APPEND_ENTRIES_RESULT && c->leads && result->term == raft_current_term(&c->raft) &&
        !result->rejected && result->last_log_index > from->has)
        from->has = result->last_log_index;
}

static int on_message(struct consensus *c, struct peer *from, const void *body, size_t len)
{
    struct raft_message message;
    struct snapshot_meta snapshot;
    char address[24];
    int rc = raft_codec_decode(body, len, &message, &snapshot);
    if (rc)
        return rc == -ENOMEM ? 0 : -EPROTO;
    snprintf(address, sizeof(address), "%llu", (unsigned long long)from->id);
    message.server_id = from->id;
    message.server_address = address;
    note_has(c, from, &message);
    rc = receive(c, &message, &snapshot);
    raft_codec_free(&message, &snapshot);
    return rc;
}

static void assembly_drop(struct assembly *in)
{
    free(in->data);
    *in = (struct assembly){0};
}

/* Parts come in order; one that does not fit is the rest of a message of which something was lost. */
static int on_part(struct consensus *c, struct peer *from, const void *body, size_t len)
{
    struct assembly *in = &from->in;
    struct raft_part part;
    if (raft_part_decode(body, len, &part))
        return -EPROTO;
    if (part.at == 0) {
        assembly_drop(in);
        *in = (struct assembly){.number = part.number, .total = part.total, .data = malloc(part.total)};
    }
    if (!in->data || in->number != part.number || in->total != part.total || in->got != part.at) {
        assembly_drop(in);
        return 0;
    }
    memcpy(in->data + part.at, part.data, part.len);
    in->got += (uint32_t)part.len;
    if (in->got < in->total)
        return 0;
    int rc = on_message(c, from, in->data, in->total);
    assembly_drop(in);
    return rc;
}

int consensus_frame(struct consensus *c, uint64_t from, uint16_t type, const void *body, size_t len)
{
    if (c->dead || c->told_closed)
        return 0;
    /* Whoever reads a snapshot need not be known; it may be one of thousands. */
    if (type == CONSENSUS_FRAME_SNAPSHOT_GET)
        return snapshot_on_get(c, from, body, len);
    /* Those who follow are thousands, too. */
    if (type == CONSENSUS_FRAME_FOLLOW_ASK || type == CONSENSUS_FRAME_FOLLOW_RENEW)
        return feed_frame(c, from, type, body, len);
    if (type >= CONSENSUS_FRAME_FOLLOW_ASK && type < CONSENSUS_FRAME_FOLLOW_END)
        return follow_frame(c, from, type, body, len);
    /* What is sent to one that takes part, and does not yet or any more, is lost: it comes again. */
    if (c->follow.active && type < CONSENSUS_FRAME_RAFT_END)
        return 0;
    struct peer *peer = peer_get(c, from);
    int rc = -ENOTSUP;
    if (!peer)
        return 0;
    peer->heard_ms = consensus_now_ms(c);
    if (type == CONSENSUS_FRAME_MESSAGE)
        rc = on_message(c, peer, body, len);
    else if (type == CONSENSUS_FRAME_PART)
        rc = on_part(c, peer, body, len);
    else if (type == CONSENSUS_FRAME_RENEW)
        rc = lease_on_renew(c, peer, body, len);
    else if (type == CONSENSUS_FRAME_GRANT)
        rc = lease_on_grant(c, peer, body, len);
    else if (type == CONSENSUS_FRAME_SNAPSHOT_PART)
        rc = snapshot_on_part(c, from, body, len);
    else if (type == CONSENSUS_FRAME_SNAPSHOT_GONE)
        rc = snapshot_on_gone(c, from, body, len);
    consensus_wake(c);
    return rc;
}
