/* SPDX-License-Identifier: Apache-2.0 */
/*
 * This node follows: what is agreed upon comes from one manager, in order, and goes to the state's lane as it
 * is. There is no log: how far the node is stands in its files, and a start asks from there on.
 *
 *           Raft has let go of it: enter()
 *   in Raft ------------------------------> following --- source silent, behind, or without a leader: another
 *      ^                                        |
 *      '-- leave(): what it has becomes the ----'  the state says that it is a manager
 *          snapshot that its log begins with
 *
 * The file "follow" (follow_marker.h) is what decides which of the two a start finds.
 */
#include <stdlib.h>
#include <string.h>

#include "consensus_internal.h"

enum {
    ASK_EVERY_MS = 500,
    ASK_FROM_RAFT_MS = 1000, /* of one that takes part, as far as it knows, and hears of no leader */
    CONNECT_MS = 3000,       /* so long a manager has to become connected and to answer */
    SILENT_MS = 2000,        /* a source that said nothing for so long is none */
    STARVED_MS = 3000,       /* one that has more, but sends nothing for so long, believes that it did */
    LEADERLESS_MS = 3000,    /* nor is one that knows no leader for so long, if there is another */
    LEAVE_LEADER_MS = 5000,  /* the leader has enough to do: at least so long a node stays with it */
    RENEW_MS = 500,          /* without a lease */
    UNSAID_MAX = FEED_FRAMES_MAX / 2, /* frames that are answered together, if nobody waits for it, ... */
    UNSAID_MS = 50,                   /* ... for so long */
    BACKOFF_MS = 100,                 /* after a source was lost, up to three times as much */
    TOUCH_ENTRIES = 1024,             /* so many entries a start may have to ask for again */
    CACHED_MAX = 4 * FOLLOW_ENTRIES_MAX * FEED_FRAMES_MAX,
    MADE_AGAIN_MS = 1000,
};

/* --- the source --- */

static void source_tell(struct consensus *c)
{
    if (c->config.source && c->handle)
        c->config.source(c->config.arg, c->follow.active ? c->follow.source : 0);
}

static unsigned chance(const struct consensus *c, unsigned n)
{
    return c->host.random(c->host.arg) % n;
}

/* Another manager than the last one, where there are others. 0: none is known. */
static uint64_t source_pick(const struct consensus *c, uint64_t last)
{
    const struct consensus_place *p = &c->follow.place;
    uint64_t fit[CONSENSUS_SOURCES_MAX];
    size_t count = 0;
    for (int round = 0; round < 2 && count == 0; round++)
        for (size_t i = 0; i < p->count; i++)
            if (p->manager[i] != c->vote.node_id && (round || p->manager[i] != last))
                fit[count++] = p->manager[i];
    return count ? fit[chance(c, (unsigned)count)] : 0;
}

static void source_set(struct consensus *c, uint64_t source)
{
    struct follow *f = &c->follow;
    f->source = source;
    f->session++;
    f->accepted = false;
    f->asked_ms = f->there = 0;
    f->source_ms = f->heard_ms = consensus_now_ms(c);
    f->leader_lost_ms = 0;
    source_tell(c);
}

/* A lease that it gave counts to its end: the manager, or whoever waits for that one, waits for it so long.
 */
static void source_lose(struct consensus *c)
{
    struct follow *f = &c->follow;
    f->retry_at_ms = consensus_now_ms(c) + BACKOFF_MS + chance(c, 2 * BACKOFF_MS);
    source_set(c, source_pick(c, f->source));
}

/* The term of the last entry that is here. */
static uint64_t last_term(const struct consensus *c)
{
    return c->cache_count ? c->cache[c->cache_count - 1]->term : c->applied_term;
}

/* What this node has anything of. In Raft's time its log has more than what is agreed upon. */
static struct db_applied top(const struct consensus *c)
{
    struct db_applied here = {c->applied, c->applied_term};
    if (c->follow.active)
        here = (struct db_applied){cache_last(c), last_term(c)};
    return c->files.index >= here.index ? c->files : here;
}

static void ask(struct consensus *c)
{
    struct follow *f = &c->follow;
    struct db_applied all = top(c);
    struct follow_ask out = {.session = ++f->session,
                             .applied = c->applied,
                             .term = c->applied_term,
                             .top = all.index,
                             .top_term = all.term,
                             .following = f->active};
    uint8_t frame[FOLLOW_FRAME_BYTES];
    f->asked_ms = f->fed_ms = consensus_now_ms(c);
    f->accepted = false;
    f->there = 0;
    /* Without a connection yet it is asked again. */
    (void)send_frame(c, f->source, CONSENSUS_FRAME_FOLLOW_ASK, frame, follow_ask_encode(&out, frame));
}

static void renew(struct consensus *c)
{
    struct follow *f = &c->follow;
    uint8_t frame[FOLLOW_FRAME_BYTES];
    struct follow_renew out = {.session = f->session,
                               .applied = c->applied,
                               .stamp_ms = consensus_now_ms(c),
                               .lease = f->place.lease};
    f->renewed_ms = out.stamp_ms;
    if (c->applied == cache_last(c))
        f->unsaid = 0;
    send_frame(c, f->source, CONSENSUS_FRAME_FOLLOW_RENEW, frame, follow_renew_encode(&out, frame));
}

/* --- time --- */

/* It may be that Raft's configuration does not have this node any more, or never had. */
static bool may_be_out_of_raft(const struct consensus *c, uint64_t now)
{
    return !c->leads && !c->installing && !c->taking &&
           now - c->leader_heard_ms >= 2 * c->config.election_ms &&
           now - c->follow.asked_ms >= ASK_FROM_RAFT_MS;
}

static bool source_is_bad(const struct consensus *c, uint64_t now)
{
    const struct follow *f = &c->follow;
    uint64_t heard = f->heard_ms > f->source_ms ? f->heard_ms : f->source_ms;
    bool others = f->place.count > 1;
    if (now - heard >= (f->accepted ? SILENT_MS : CONNECT_MS) && !c->taking)
        return true;
    if (!f->accepted || !others)
        return false;
    if (f->leader_lost_ms && now - f->leader_lost_ms >= LEADERLESS_MS)
        return true;
    /* Not all at once. */
    return f->leader == f->source && now - f->source_ms >= LEAVE_LEADER_MS && c->applied == c->commit &&
           chance(c, 64) == 0;
}

static bool source_is_gone(const struct consensus *c)
{
    const struct consensus_place *p = &c->follow.place;
    for (size_t i = 0; i < p->count; i++)
        if (p->manager[i] == c->follow.source)
            return false;
    return true;
}

static void tick_following(struct consensus *c, uint64_t now)
{
    struct follow *f = &c->follow;
    if (f->source && (source_is_gone(c) || source_is_bad(c, now)))
        source_lose(c);
    if (!f->source && now >= f->retry_at_ms)
        source_set(c, source_pick(c, 0));
    if (!f->source || now < f->retry_at_ms)
        return;
    if (c->taking || cache_last(c) >= f->there || c->applied < cache_last(c))
        f->fed_ms = now;
    bool asks = f->accepted ? now - f->fed_ms >= STARVED_MS : !c->taking && now - f->asked_ms >= ASK_EVERY_MS;
    if (asks)
        ask(c);
    else if (f->accepted && (f->place.lease || f->unsaid || now - f->renewed_ms >= RENEW_MS))
        renew(c);
}

void follow_tick(struct consensus *c)
{
    struct follow *f = &c->follow;
    uint64_t now = consensus_now_ms(c);
    if (!c->transport.send || c->closing || c->installing || f->leaving || f->place.count == 0)
        return;
    if (f->active) {
        tick_following(c, now);
    } else if (may_be_out_of_raft(c, now)) {
        f->source = source_pick(c, f->source);
        if (f->source)
            ask(c);
    }
}

void follow_applied(struct consensus *c)
{
    const struct follow *f = &c->follow;
    if (!f->active || !f->accepted || c->closing || !c->transport.send)
        return;
    /* Else the tick says it. */
    if (f->place.lease || f->unsaid >= UNSAID_MAX || consensus_now_ms(c) - f->renewed_ms >= UNSAID_MS)
        renew(c);
}

bool follow_touch_due(const struct consensus *c)
{
    return c->follow.active && c->applied >= c->follow.touched + TOUCH_ENTRIES;
}

uint64_t follow_held_until(const struct consensus *c)
{
    const struct follow *f = &c->follow;
    bool held = c->applied >= f->floor && f->held_until_ms > consensus_now_ms(c);
    return held ? f->held_until_ms : NAMES_FRESH_NEVER;
}

void consensus_place(struct consensus *c, const struct consensus_place *place)
{
    c->follow.place = *place;
    if (c->follow.place.count > CONSENSUS_SOURCES_MAX)
        c->follow.place.count = CONSENSUS_SOURCES_MAX;
    if (c->follow.leaving && place->self == CONSENSUS_SELF_WORKER)
        c->follow.leaving = false;
    consensus_wake(c);
}

void consensus_down(struct consensus *c, uint64_t node, bool ended)
{
    struct follow *f = &c->follow;
    feed_down(c, node);
    if (ended && !f->active && !c->closing && !c->dead)
        stand_leader_gone(c, node);
    if (f->active && f->accepted && f->source == node && !c->closing)
        source_lose(c);
    consensus_wake(c);
}

/* --- from Raft to following --- */

/* Nothing of Raft's is under way. */
static bool at_rest(const struct consensus *c)
{
    return !c->disk.busy && !c->apply.busy && !c->snapshot.busy && !c->snapshot.wanted && !c->taking &&
           !c->installing && !c->closing && !c->dead;
}

/* The marker is the moment; what is in the log is not agreed upon, or comes again. */
static int enter_now(struct consensus *c, char *err, size_t err_len)
{
    struct raft_buffer buf;
    if (c->raft.configuration_committed.n) {
        if (raft_configuration_encode(&c->raft.configuration_committed, &buf))
            return -ENOMEM;
        follow_marker_configure(&c->follow.marker, c->raft.configuration_committed_index, buf.base, buf.len);
        raft_free(buf.base);
    }
    int rc = follow_marker_write(c->config.ops, c->raft_fd, &c->follow.marker);
    if (rc)
        return rc;
    c->follow.active = true;
    cache_truncate(c, 0, CMD_UNKNOWN_OUTCOME);
    c->truncate_from = c->drop_to = 0;
    rc = log_reset(c->log, c->applied + 1);
    if (rc == 0)
        rc = consensus_raft_reopen(c, NULL, err, err_len);
    /* As a start finds it. One that is left would be in the way of the one that this node leaves with, if
     * nothing has been applied in between. */
    snapshot_remove_older(c->config.ops, c->raft_fd, UINT64_MAX);
    snapshot_note(c, &(struct snapshot_meta){.index = 0});
    c->snapshot_index = 0;
    c->persisted = c->commit = c->applied;
    return rc;
}

static void enter(struct consensus *c)
{
    char err[256] = "";
    uint64_t source = c->follow.source;
    if (!at_rest(c))
        return; /* it asks again */
    int rc = enter_now(c, err, sizeof(err));
    if (rc && !c->follow.active)
        return; /* the disk: likewise */
    if (rc) {
        consensus_die(c, "the log cannot be given up: %s", err[0] ? err : strerror(-rc));
        return;
    }
    change_lost(c);
    consensus_arm(c);
    source_set(c, source);
    ask(c);
}

/* --- from following to Raft --- */

static void leave(struct consensus *c, const struct snapshot_meta *meta)
{
    char err[256] = "";
    CHECK(meta->index == c->applied && c->applied == cache_last(c));
    int rc = log_reset(c->log, meta->index + 1);
    struct vote next = c->vote;
    /* It voted in no term that it followed in. */
    if (next.term < c->applied_term) {
        next.term = c->applied_term;
        next.voted_for = 0;
    }
    if (rc == 0)
        rc = vote_write(c->config.ops, c->raft_fd, &next);
    if (rc == 0)
        rc = follow_marker_remove(c->config.ops, c->raft_fd);
    c->follow.active = c->follow.leaving = c->follow.accepted = false;
    c->vote = next;
    if (rc == 0)
        rc = consensus_raft_reopen(c, meta, err, sizeof(err));
    if (rc) {
        consensus_die(c, "this node cannot take part in Raft: %s", err[0] ? err : strerror(-rc));
        return;
    }
    c->persisted = c->applied;
    c->leader_heard_ms = consensus_now_ms(c);
    c->lease = (struct lease){.promised_until_ms = consensus_now_ms(c) + c->config.lease_ms};
    c->disk.reserve_bytes = 1;
    follow_marker_free(&c->follow.marker);
    source_set(c, 0);
    consensus_arm(c);
}

void follow_snapshot_made(struct consensus *c, const struct snapshot_meta *meta)
{
    if (c->follow.leaving && c->applied == meta->index && c->applied == cache_last(c))
        leave(c, meta);
}

/* Its own row, and not what was told of it a moment ago. */
static bool row_is_manager(const struct consensus *c)
{
    struct node row;
    struct kv *kv;
    if (c->config.is_manager)
        return c->config.is_manager(c->config.arg);
    struct db_view *view = db_view_begin(c->db, &kv);
    bool manager = view && state_node_read(kv, c->vote.node_id, &row) == 0 && row.role == NODE_MANAGER;
    if (view)
        db_view_end(view);
    return manager;
}

void follow_pump(struct consensus *c)
{
    struct follow *f = &c->follow;
    if (!f->active || c->closing || c->taking || c->installing || f->place.self != CONSENSUS_SELF_MANAGER ||
        c->applied == 0 || apply_files_ahead(c) || !f->marker.configuration)
        return;
    if (!f->leaving) {
        /* A row of long ago means nothing. */
        if (!f->accepted || !f->there || c->applied < f->there || !row_is_manager(c))
            return;
        f->leaving = true;
        source_set(c, 0);
        f->retry_at_ms = 0;
    }
    if (c->apply.busy || c->snapshot.busy || c->snapshot.wanted || c->applied != cache_last(c) ||
        consensus_now_ms(c) < f->retry_at_ms)
        return;
    f->retry_at_ms = consensus_now_ms(c) + MADE_AGAIN_MS;
    c->snapshot.wanted = true;
    apply_pump(c);
}

/* --- a snapshot's files take their place (on the worker thread) --- */

int follow_install_begin(struct consensus *c, uint64_t index)
{
    c->follow.marker.install = index;
    return follow_marker_write(c->config.ops, c->raft_fd, &c->follow.marker);
}

int follow_install_end(struct consensus *c, const struct snapshot_meta *meta)
{
    c->follow.marker.install = 0;
    follow_marker_configure(&c->follow.marker, meta->configuration_index, meta->configuration,
                            meta->configuration_len);
    return follow_marker_write(c->config.ops, c->raft_fd, &c->follow.marker);
}

/* --- the start, and the end --- */

int follow_load(struct consensus *c, const struct snapshot_meta *snapshot, char *err, size_t err_len)
{
    struct db_applied names = db_applied(c->db, DB_NAMES), secret = db_applied(c->db, DB_PRIVATE);
    struct db_applied at = names.index < secret.index ? names : secret;
    int rc = 0;
    c->applied = c->persisted = c->commit = c->follow.touched = at.index;
    c->applied_term = at.term;
    apply_look(c);
    c->snapshot_index = 0;
    if (c->follow.marker.install) {
        bool is = snapshot && snapshot->index == c->follow.marker.install;
        if (is)
            rc = follow_install_end(c, snapshot);
        else
            rc = -EUCLEAN;
    }
    if (rc == 0)
        rc = log_reset(c->log, c->applied + 1);
    if (rc == 0)
        rc = step_start(c, NULL, err, err_len);
    if (rc == 0)
        snapshot_remove_older(c->config.ops, c->raft_fd, UINT64_MAX);
    /* The library knows nothing of what follows. */
    c->commit = c->applied;
    c->counts.log_bytes = log_bytes(c->log);
    if (rc && !err[0])
        snprintf(err, err_len, "%s/raft, of a worker, cannot be opened: %s", c->dir, strerror(-rc));
    return rc;
}

void follow_free(struct consensus *c)
{
    follow_marker_free(&c->follow.marker);
}

/* --- frames --- */

static bool is_of_session(const struct consensus *c, uint64_t from, uint32_t session)
{
    return c->follow.source == from && c->follow.session == session && !c->follow.leaving;
}

static int on_refused(struct consensus *c, uint64_t from, const void *body, size_t len)
{
    struct follow_refused in;
    int rc = follow_refused_decode(body, len, &in);
    if (rc == 0 && c->follow.active && is_of_session(c, from, in.session))
        source_lose(c);
    return rc ? -EPROTO : 0;
}

static int on_grant(struct consensus *c, uint64_t from, const void *body, size_t len)
{
    struct follow *f = &c->follow;
    struct follow_grant in;
    uint64_t now = consensus_now_ms(c);
    if (follow_grant_decode(body, len, &in) || in.stamp_ms > now)
        return -EPROTO;
    if (!is_of_session(c, from, in.session))
        return 0;
    if (!f->active) {
        enter(c);
        return 0;
    }
    f->accepted = true;
    f->heard_ms = now;
    f->leader = in.leader;
    f->said_ms = now;
    if (in.stamp_ms)
        f->there = in.applied;
    f->leader_lost_ms = in.leader ? 0 : f->leader_lost_ms ? f->leader_lost_ms : now;
    if (in.valid_ms && in.stamp_ms) {
        f->held_until_ms = in.stamp_ms + in.valid_ms;
        f->floor = in.floor;
    }
    lease_publish(c);
    return 0;
}

static void keep(struct consensus *c, uint64_t index, const struct follow_entry *in)
{
    struct entry *e = calloc(1, sizeof(*e));
    CHECK(e);
    *e = (struct entry){.index = index, .term = in->term, .type = in->type, .refs = 1, .len = in->len};
    e->data = malloc(in->len + 1);
    CHECK(e->data);
    memcpy(e->data, in->data, in->len);
    CHECK(cache_add(c, e) == 0);
    c->persisted = c->commit = index;
    if (in->type != RAFT_CHANGE || index <= c->follow.marker.configuration_index)
        return;
    /* Where this cannot be written, the next one can: who takes part gets the newest anyway. */
    follow_marker_configure(&c->follow.marker, index, in->data, in->len);
    (void)follow_marker_write(c->config.ops, c->raft_fd, &c->follow.marker);
}

static int on_entries(struct consensus *c, uint64_t from, const void *body, size_t len)
{
    struct follow *f = &c->follow;
    struct follow_entries in;
    struct follow_entry entry;
    if (follow_entries_decode(body, len, &in))
        return -EPROTO;
    if (!f->active || f->source != from || !f->accepted || f->leaving || c->taking || c->installing ||
        c->closing)
        return 0;
    f->heard_ms = f->fed_ms = consensus_now_ms(c);
    f->unsaid++;
    uint64_t next = cache_last(c) + 1;
    bool torn = in.first > next || c->cache_count > CACHED_MAX ||
                (in.first == next && next > 1 && in.prev_term != last_term(c));
    if (torn) { /* something was lost, or is another history: the manager has to look again */
        ask(c);
        return 0;
    }
    for (uint64_t index = in.first; follow_entries_next(&in, &entry); index++)
        if (index == cache_last(c) + 1)
            keep(c, index, &entry);
    return 0;
}

static int on_snapshot(struct consensus *c, uint64_t from, const void *body, size_t len)
{
    const void *handle;
    size_t handle_len;
    uint32_t session;
    struct snapshot_meta meta;
    if (follow_snapshot_decode(body, len, &session, &handle, &handle_len))
        return -EPROTO;
    if (!c->follow.active || !is_of_session(c, from, session))
        return 0;
    c->follow.heard_ms = consensus_now_ms(c);
    int rc = snapshot_meta_decode(handle, handle_len, &meta);
    if (rc)
        return rc == -ENOMEM ? 0 : -EPROTO;
    bool ours = memcmp(meta.cluster_id, c->vote.cluster_id, sizeof(meta.cluster_id)) == 0;
    if (ours)
        take_for_follower(c, from, &meta);
    snapshot_meta_free(&meta);
    return ours ? 0 : -EPROTO;
}

int follow_frame(struct consensus *c, uint64_t from, uint16_t type, const void *body, size_t len)
{
    int rc = -ENOTSUP;
    if (type == CONSENSUS_FRAME_FOLLOW_REFUSED)
        rc = on_refused(c, from, body, len);
    else if (type == CONSENSUS_FRAME_FOLLOW_GRANT)
        rc = on_grant(c, from, body, len);
    else if (type == CONSENSUS_FRAME_FOLLOW_ENTRIES)
        rc = on_entries(c, from, body, len);
    else if (type == CONSENSUS_FRAME_FOLLOW_SNAPSHOT)
        rc = on_snapshot(c, from, body, len);
    consensus_wake(c);
    return rc;
}
