/* SPDX-License-Identifier: Apache-2.0 */
/* Changes of Raft's configuration, one at a time, and leadership that is handed over. */
#include <stdlib.h>
#include <string.h>

#include "consensus_internal.h"
#include "members.h"

enum {
    CAUGHT_UP_ENTRIES = 512, /* a standby that is so near may vote */
    BARRIER_BYTES = 8,
};

static const struct raft_server *server_get(const struct consensus *c, uint64_t id)
{
    for (unsigned i = 0; i < c->raft.configuration.n; i++)
        if (c->raft.configuration.servers[i].id == id)
            return &c->raft.configuration.servers[i];
    return NULL;
}

bool consensus_is_voter(const struct consensus *c)
{
    const struct raft_server *me = server_get(c, c->vote.node_id);
    return me && me->role == RAFT_VOTER;
}

size_t consensus_servers(const struct consensus *c, struct consensus_server *out, size_t max)
{
    const struct raft_configuration *conf = &c->raft.configuration;
    uint64_t now = consensus_now_ms(c);
    for (unsigned i = 0; i < conf->n && i < max; i++) {
        const struct peer *peer = peer_find(c, conf->servers[i].id);
        raft_index match = 0;
        out[i] = (struct consensus_server){
            .id = conf->servers[i].id,
            .role = conf->servers[i].role == RAFT_VOTER ? CONSENSUS_VOTER : CONSENSUS_STANDBY,
            .heard_ms = peer && peer->heard_ms ? now - peer->heard_ms : UINT64_MAX};
        if (out[i].id == c->vote.node_id) {
            out[i].applied = c->applied;
            out[i].heard_ms = 0;
            out[i].lease = consensus_lease(c);
        } else if (c->leads && peer) {
            out[i].applied = peer->lease.applied;
            out[i].lease = peer->lease.expires_ms > now;
        }
        if (c->leads && raft_match_index(&c->raft, out[i].id, &match) == 0)
            out[i].match = match;
    }
    return conf->n;
}

/* --- one change --- */

static void change_end(struct consensus *c, int result)
{
    struct change *change = &c->change;
    change->busy = false;
    consensus_tell(c, change->done, change->arg, result);
}

static void on_change_done(void *arg, enum cmd_status status, uint64_t index, const void *detail,
                           size_t detail_len)
{
    struct consensus *c = arg;
    (void)index;
    (void)detail;
    (void)detail_len;
    if (!c->change.busy)
        return;
    if (status == CMD_OK)
        change_end(c, 0);
    else if (status == CMD_NO_SPACE)
        change_end(c, -ENOSPC);
    else
        change_end(c, status == CMD_UNKNOWN_OUTCOME ? -ECANCELED : -EAGAIN);
}

static unsigned voters_without(const struct consensus *c, uint64_t id)
{
    unsigned voters = 0;
    for (unsigned i = 0; i < c->raft.configuration.n; i++)
        voters +=
            c->raft.configuration.servers[i].role == RAFT_VOTER && c->raft.configuration.servers[i].id != id;
    return voters;
}

/* 0 if the change makes sense. */
static int change_check(const struct consensus *c, enum consensus_change what, uint64_t node)
{
    const struct raft_server *s = server_get(c, node);
    if (what == CONSENSUS_ADD)
        return s ? -EEXIST : node == 0 || c->raft.configuration.n >= CONSENSUS_MEMBERS_MAX ? -EINVAL : 0;
    if (!s)
        return -ENOENT;
    if (what == CONSENSUS_PROMOTE)
        return s->role == RAFT_VOTER ? -EEXIST : 0;
    if (what == CONSENSUS_DEMOTE && s->role != RAFT_VOTER)
        return -EEXIST;
    return s->role == RAFT_VOTER && voters_without(c, node) == 0 ? -EBUSY : 0;
}

/* The address in Raft's configuration is the id: as unique, and it stays when a node's name or address
 * changes. */
static int server_add(struct raft_configuration *conf, uint64_t id, int role)
{
    char address[24];
    snprintf(address, sizeof(address), "%llu", (unsigned long long)id);
    return raft_configuration_add(conf, id, address, role);
}

static int change_encode(const struct consensus *c, struct raft_buffer *buf)
{
    const struct change *change = &c->change;
    struct raft_configuration conf;
    int rc = 0;
    raft_configuration_init(&conf);
    for (unsigned i = 0; i < c->raft.configuration.n && rc == 0; i++) {
        const struct raft_server *s = &c->raft.configuration.servers[i];
        int role = s->role;
        if (s->id == change->node && change->what == CONSENSUS_REMOVE)
            continue;
        if (s->id == change->node)
            role = change->what == CONSENSUS_PROMOTE ? RAFT_VOTER : RAFT_STANDBY;
        rc = raft_configuration_add(&conf, s->id, s->address, role);
    }
    if (rc == 0 && change->what == CONSENSUS_ADD)
        rc = server_add(&conf, change->node, RAFT_STANDBY);
    if (rc == 0)
        rc = raft_configuration_encode(&conf, buf);
    raft_configuration_close(&conf);
    return rc ? -ENOMEM : 0;
}

/*
 * Only behind an entry of its own term may a leader change who votes: a configuration that a leader before it
 * left behind somewhere could else have a majority of its own (the flaw of single changes that was found in
 * 2015).
 */
static void barrier_propose(struct consensus *c)
{
    uint8_t *data = calloc(1, BARRIER_BYTES);
    CHECK(data);
    consensus_propose_entry(c, RAFT_BARRIER, data, BARRIER_BYTES, NULL, NULL);
}

void consensus_change(struct consensus *c, enum consensus_change what, uint64_t node, consensus_changed done,
                      void *arg)
{
    int rc = c->leads && !c->dead && !c->closing && !c->change.busy && !c->transfer.busy ? 0 : -EAGAIN;
    if (rc == 0)
        rc = change_check(c, what, node);
    if (rc) {
        consensus_tell(c, done, arg, rc);
        return;
    }
    c->change = (struct change){.busy = true, .what = what, .node = node, .done = done, .arg = arg};
    if (c->applied_term != raft_current_term(&c->raft))
        barrier_propose(c);
    consensus_wake(c);
}

void change_pump(struct consensus *c)
{
    struct change *change = &c->change;
    struct transfer *t = &c->transfer;
    struct raft_buffer buf;
    if (t->busy && c->leads && (raft_transferee(&c->raft) == 0 || consensus_now_ms(c) >= t->until_ms)) {
        t->busy = false;
        if (t->done)
            consensus_tell(c, t->done, t->arg, -ETIMEDOUT);
    }
    if (!change->busy || change->submitted || !c->leads || c->applied_term != raft_current_term(&c->raft) ||
        c->raft.configuration_uncommitted_index)
        return;
    int rc = change_check(c, change->what, change->node);
    if (rc == 0)
        rc = change_encode(c, &buf);
    if (rc) {
        change_end(c, rc);
        return;
    }
    change->submitted = true;
    consensus_propose_entry(c, RAFT_CHANGE, buf.base, buf.len, on_change_done, c);
}

void change_lost(struct consensus *c)
{
    struct transfer *t = &c->transfer;
    if (c->change.busy)
        change_end(c, c->change.submitted ? -ECANCELED : -EAGAIN);
    if (t->busy) {
        t->busy = false;
        if (t->done)
            consensus_tell(c, t->done, t->arg, 0);
    }
}

/* --- leadership --- */

/* The voter that is there and has most of the log. */
static uint64_t nearest_voter(const struct consensus *c)
{
    uint64_t best = 0;
    raft_index best_match = 0;
    for (unsigned i = 0; i < c->raft.configuration.n; i++) {
        const struct raft_server *s = &c->raft.configuration.servers[i];
        raft_index match = 0;
        if (s->id == c->vote.node_id || s->role != RAFT_VOTER || !peer_online(c, s->id))
            continue;
        raft_match_index(&c->raft, s->id, &match);
        if (best == 0 || match > best_match) {
            best = s->id;
            best_match = match;
        }
    }
    return best;
}

static int transfer_start(struct consensus *c, uint64_t node)
{
    struct transfer *t = &c->transfer;
    if (!c->leads || c->dead || t->busy)
        return -EAGAIN;
    if (node == 0)
        node = nearest_voter(c);
    if (node == 0)
        return -ENOENT;
    *t = (struct transfer){
        .busy = true, .node = node, .until_ms = consensus_now_ms(c) + 2ull * c->config.election_ms};
    int rc = step_transfer(c, node);
    if (rc)
        t->busy = false;
    return rc;
}

void consensus_transfer(struct consensus *c, uint64_t node, consensus_changed done, void *arg)
{
    int rc = transfer_start(c, node);
    if (rc) {
        consensus_tell(c, done, arg, rc);
        return;
    }
    c->transfer.done = done;
    c->transfer.arg = arg;
}

bool transfer_for_close(struct consensus *c)
{
    return consensus_now_ms(c) < c->close_by_ms && transfer_start(c, 0) == 0;
}

/* --- who is wanted --- */

int consensus_members(struct consensus *c, const struct consensus_member *wanted, size_t count)
{
    if (!members_valid(wanted, count))
        return -EINVAL;
    c->wanted.known = true;
    c->wanted.count = count;
    c->wanted.retry_at_ms = 0;
    memcpy(c->wanted.member, wanted, count * sizeof(*wanted));
    consensus_wake(c);
    return 0;
}

static void on_step_done(void *arg, int result)
{
    struct consensus *c = arg;
    c->wanted.retry_at_ms = result ? consensus_now_ms(c) + ACTION_RETRY_MS : 0;
}

static size_t servers_look(const struct consensus *c, struct members_server *out)
{
    const struct raft_configuration *conf = &c->raft.configuration;
    raft_index last = cache_last(c), known = c->raft.configuration_committed_index;
    size_t count = 0;
    for (unsigned i = 0; i < conf->n && count < PEERS_MAX; i++) {
        raft_index match = 0;
        raft_match_index(&c->raft, conf->servers[i].id, &match);
        /* Who does not know yet that it takes part cannot vote either. */
        out[count++] =
            (struct members_server){.id = conf->servers[i].id,
                                    .voter = conf->servers[i].role == RAFT_VOTER,
                                    .online = peer_online(c, conf->servers[i].id),
                                    .caught_up = match + CAUGHT_UP_ENTRIES >= last && match >= known};
    }
    return count;
}

void members_pump(struct consensus *c)
{
    struct wanted *w = &c->wanted;
    struct members_server servers[PEERS_MAX];
    if (!w->known || !c->leads || c->change.busy || c->transfer.busy || c->closing ||
        c->raft.configuration_uncommitted_index || consensus_now_ms(c) < w->retry_at_ms)
        return;
    size_t count = servers_look(c, servers);
    struct members_step step = members_next(servers, count, w->member, w->count, c->vote.node_id);
    if (step.what == MEMBERS_CHANGE)
        consensus_change(c, step.change, step.node, on_step_done, c);
    else if (step.what == MEMBERS_TRANSFER)
        consensus_transfer(c, step.node, on_step_done, c);
}
