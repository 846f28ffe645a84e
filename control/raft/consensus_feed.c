/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Others follow this node. A follower is a place in the log and the few frames that it has not applied yet:
 * one that is slow has no queue here, it falls back into the log, and where the log does not go back so far,
 * to a snapshot. Who is near gets what was applied last from memory, as one frame that is made once for all.
 *
 * A follower may hold a read lease, by the one that this node has: it ends before that does, and until it
 * ends nothing counts as applied here that is not applied there (feed_applied). So whoever leads waits for
 * its followers by waiting for the managers, and knows nothing of them.
 */
#include <stdlib.h>
#include <string.h>

#include "consensus_internal.h"

enum {
    FEED_FRAME_BYTES = 256 << 10, /* of one frame, unless one entry alone is larger */
    SILENT_MS = 10000,            /* a follower of which nothing was heard for so long is forgotten */
    OFFER_EVERY_MS = 1000,
    READS_MAX = 4,        /* of the log, at once: others are on the loop, too */
    GRANT_EVERY_MS = 250, /* to one that asks for no lease: it is to hear that this node is there */
    HOLDS_UP_PARTS = 4,   /* of a lease: who is behind for so long gets no more of it */
};

/* --- followers --- */

static size_t place_of(const struct feed *f, uint64_t id)
{
    size_t low = 0, high = f->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (f->follower[middle].id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static struct feeder *find(const struct feed *f, uint64_t id)
{
    size_t at = place_of(f, id);
    return at < f->count && f->follower[at].id == id ? &f->follower[at] : NULL;
}

/* NULL: there are too many. */
static struct feeder *add(struct feed *f, uint64_t id)
{
    size_t at = place_of(f, id);
    if (at < f->count && f->follower[at].id == id)
        return &f->follower[at];
    if (f->count >= CONSENSUS_FOLLOWERS_MAX)
        return NULL;
    if (f->count == f->cap) {
        f->cap = f->cap ? 2 * f->cap : 16;
        f->follower = realloc(f->follower, f->cap * sizeof(*f->follower));
        CHECK(f->follower);
    }
    memmove(f->follower + at + 1, f->follower + at, (f->count - at) * sizeof(*f->follower));
    f->count++;
    f->follower[at] = (struct feeder){.id = id};
    return &f->follower[at];
}

/* Its lease, if it has one, is kept until it has run out. */
static bool forgettable(const struct feeder *e, uint64_t now)
{
    return now - e->heard_ms >= SILENT_MS && e->expires_ms <= now;
}

static void drop_at(struct feed *f, size_t at)
{
    f->low_until_ms = 0;
    f->count--;
    memmove(f->follower + at, f->follower + at + 1, (f->count - at) * sizeof(*f->follower));
}

void feed_down(struct consensus *c, uint64_t node)
{
    struct feed *f = &c->feed;
    size_t at = place_of(f, node);
    if (at >= f->count || f->follower[at].id != node)
        return;
    if (f->follower[at].expires_ms > consensus_now_ms(c)) {
        f->follower[at].phase = FEED_CHECK;
        f->follower[at].session = 0;
        f->follower[at].heard_ms = 0;
    } else {
        drop_at(f, at);
    }
}

/* --- what is remembered --- */

static void ring_drop(struct feed *f)
{
    struct entry **at = &f->ring[f->ring_first % FEED_RING];
    f->ring_bytes -= (*at)->len;
    entry_put(*at);
    *at = NULL;
    if (f->ring_first == f->ring_last)
        f->ring_first = f->ring_last = 0;
    else
        f->ring_first++;
}

static void ring_clear(struct feed *f)
{
    while (f->ring_first)
        ring_drop(f);
    free(f->frame);
    f->frame = NULL;
    f->frame_first = f->frame_last = 0;
}

void feed_keep(struct consensus *c, struct entry *e)
{
    struct feed *f = &c->feed;
    if (f->count == 0) {
        if (f->ring_first)
            ring_clear(f);
        return;
    }
    if (f->ring_first && e->index != f->ring_last + 1)
        ring_clear(f);
    while (f->ring_first &&
           (f->ring_last - f->ring_first + 1 >= FEED_RING || f->ring_bytes + e->len > FEED_RING_BYTES_MAX))
        ring_drop(f);
    f->ring[e->index % FEED_RING] = e;
    e->refs++;
    f->ring_bytes += e->len;
    f->ring_last = e->index;
    if (!f->ring_first)
        f->ring_first = e->index;
}

/* --- entries --- */

static bool room(const struct feeder *e)
{
    return e->unread_count < FEED_FRAMES_MAX;
}

static void frame_make(struct feed *f, uint64_t first, uint64_t prev_term, const struct follow_entry *entry,
                       uint32_t count)
{
    size_t bytes = FOLLOW_ENTRIES_HEAD_BYTES;
    for (uint32_t i = 0; i < count; i++)
        bytes += FOLLOW_ENTRY_HEAD_BYTES + entry[i].len;
    free(f->frame);
    f->frame = malloc(bytes);
    CHECK(f->frame);
    f->frame_len = follow_entries_encode(first, prev_term, entry, count, f->frame);
    f->frame_first = first;
    f->frame_last = first + count - 1;
    f->frame_term = entry[count - 1].term;
}

static void frame_from_ring(struct consensus *c, const struct feeder *e)
{
    struct feed *f = &c->feed;
    struct follow_entry list[FOLLOW_ENTRIES_MAX];
    uint32_t count = 0;
    size_t bytes = 0;
    for (uint64_t i = e->next; i <= f->ring_last && count < FOLLOW_ENTRIES_MAX; i++, count++) {
        const struct entry *from = f->ring[i % FEED_RING];
        bytes += from->len;
        if (count && bytes > FEED_FRAME_BYTES)
            break;
        list[count] = (struct follow_entry){from->term, from->type, from->data, from->len};
    }
    frame_make(f, e->next, e->term, list, count);
}

/* 0, -EAGAIN while the log's lane works, -ENOENT: the log does not go back so far. */
static int frame_from_log(struct consensus *c, const struct feeder *e)
{
    struct follow_entry list[FOLLOW_ENTRIES_MAX];
    struct log_entries got;
    uint32_t count = 0;
    if (c->disk.busy)
        return -EAGAIN;
    if (e->next < log_first(c->log) || log_first(c->log) == 0)
        return -ENOENT;
    int rc = log_read(c->log, e->next, FEED_FRAME_BYTES, &got);
    if (rc)
        return rc;
    for (; count < got.count && count < FOLLOW_ENTRIES_MAX && got.entry[count].index <= c->applied; count++)
        list[count] = (struct follow_entry){got.entry[count].term, got.entry[count].type,
                                            got.entry[count].data, got.entry[count].len};
    if (count)
        frame_make(&c->feed, e->next, e->term, list, count);
    log_entries_free(&got);
    return count ? 0 : -EAGAIN;
}

static bool in_ring(const struct feed *f, uint64_t index)
{
    return f->ring_first && index >= f->ring_first && index <= f->ring_last;
}

/* Sends all that there is room for. */
static void send_entries(struct consensus *c, struct feeder *e, unsigned *reads)
{
    struct feed *f = &c->feed;
    while (e->phase == FEED_ENTRIES && e->next <= c->applied && room(e)) {
        /* The one that was made last fits if it goes as far as there is something, or begins there too. */
        if (!f->frame || f->frame_first != e->next || (f->frame_last < c->applied && in_ring(f, e->next))) {
            int rc = in_ring(f, e->next) ? 0 : *reads ? frame_from_log(c, e) : -EAGAIN;
            if (rc == 0 && in_ring(f, e->next))
                frame_from_ring(c, e);
            else if (*reads)
                --*reads;
            if (rc == -ENOENT || rc == -EUCLEAN)
                e->phase = FEED_SNAPSHOT;
            if (rc)
                return;
        }
        if (send_frame(c, e->id, CONSENSUS_FRAME_FOLLOW_ENTRIES, f->frame, f->frame_len))
            return;
        c->counts.followers_entries += f->frame_last - f->frame_first + 1;
        e->next = f->frame_last + 1;
        e->term = f->frame_term;
        e->unread[e->unread_count++] = f->frame_last;
    }
}

/* --- a snapshot --- */

/* It has to be made first. Each try writes to both files, and one that fails at once pumps again. */
static void snapshot_want(struct consensus *c, uint64_t now)
{
    struct feed *f = &c->feed;
    if (c->snapshot.busy || c->snapshot.wanted || apply_files_ahead(c) || c->installing || c->taking)
        return;
    if (c->raft.configuration_committed.n == 0 || (f->wanted_ms && now - f->wanted_ms < OFFER_EVERY_MS))
        return;
    f->wanted_ms = now ? now : 1;
    c->snapshot.wanted = true;
    apply_pump(c);
}

static void offer(struct consensus *c, struct feeder *e)
{
    uint64_t now = consensus_now_ms(c);
    void *handle;
    size_t len;
    if (e->offered_ms && now - e->offered_ms < OFFER_EVERY_MS)
        return;
    const struct snapshot_meta *newest = snapshot_give(c);
    if (newest->index == 0 || newest->index + 1 < log_first(c->log)) {
        snapshot_want(c, now);
        return;
    }
    if (snapshot_meta_encode(newest, &handle, &len))
        return;
    uint8_t *frame = malloc(FOLLOW_FRAME_BYTES + len);
    CHECK(frame);
    size_t frame_len = follow_snapshot_encode(e->session, handle, len, frame);
    if (send_frame(c, e->id, CONSENSUS_FRAME_FOLLOW_SNAPSHOT, frame, frame_len) == 0 && !e->offered_ms)
        c->counts.followers_snapshots++;
    e->offered_ms = now ? now : 1;
    free(frame);
    free(handle);
}

/* --- who asks --- */

/* The term of an entry that is applied here; 0: it cannot be told any more. -EAGAIN: not now. */
static int term_of(struct consensus *c, uint64_t index, unsigned *reads, uint64_t *term)
{
    const struct feed *f = &c->feed;
    struct log_entries got;
    *term = 0;
    if (index == c->applied)
        *term = c->applied_term;
    else if (index == c->giving.newest.index) /* the log may begin behind it */
        *term = c->giving.newest.term;
    else if (in_ring(f, index))
        *term = f->ring[index % FEED_RING]->term;
    else if (c->disk.busy || *reads == 0)
        return -EAGAIN;
    else if (index >= log_first(c->log) && log_first(c->log)) {
        --*reads;
        if (log_read(c->log, index, 0, &got) == 0) {
            *term = got.entry[0].term;
            log_entries_free(&got);
        }
    }
    return 0;
}

/* Whether all that it has is what everybody has. */
static void check(struct consensus *c, struct feeder *e, unsigned *reads)
{
    uint64_t term = 0;
    if (e->session == 0 || e->top.index > c->applied)
        return; /* it has gone; or this node is to catch up first */
    if (e->top.index && term_of(c, e->top.index, reads, &term))
        return;
    e->phase = e->top.index == 0 || term == e->top.term ? FEED_ENTRIES : FEED_SNAPSHOT;
    e->next = e->applied + 1;
    e->offered_ms = e->granted_ms = 0;
    e->unread_count = 0;
}

static uint64_t leader_of(struct consensus *c)
{
    raft_id leader;
    const char *address;
    raft_leader(&c->raft, &leader, &address);
    return leader;
}

static bool wanted_in_raft(const struct consensus *c, uint64_t id)
{
    for (size_t i = 0; i < c->wanted.count; i++)
        if (c->wanted.member[i].id == id)
            return true;
    for (unsigned i = 0; i < c->raft.configuration.n; i++)
        if (c->raft.configuration.servers[i].id == id)
            return true;
    /* What is not committed yet may be undone. */
    for (unsigned i = 0; i < c->raft.configuration_committed.n; i++)
        if (c->raft.configuration_committed.servers[i].id == id)
            return true;
    return !c->wanted.known;
}

/* Why not, or 0. */
static unsigned refusal(struct consensus *c, uint64_t from, const struct follow_ask *ask)
{
    if (c->follow.active || c->installing || c->taking || c->closing || c->dead || c->applied == 0)
        return FOLLOW_BUSY;
    if (!ask->following && wanted_in_raft(c, from))
        return FOLLOW_VOTES;
    /* More than this node has, in a term that is not over: it is to catch up. Else it is a history that was
     * given up (consensus_force_new). */
    if (ask->top > c->applied && ask->top_term >= c->applied_term)
        return FOLLOW_BEHIND;
    return 0;
}

static void grant_send(struct consensus *c, struct feeder *e, uint64_t stamp_ms, uint32_t valid_ms)
{
    uint8_t frame[FOLLOW_FRAME_BYTES];
    struct follow_grant out = {.session = e->session,
                               .stamp_ms = stamp_ms,
                               .applied = e->phase == FEED_ENTRIES ? c->applied : 0,
                               .leader = leader_of(c),
                               .floor = e->floor,
                               .valid_ms = valid_ms};
    e->granted_ms = consensus_now_ms(c);
    e->told_leader = out.leader;
    send_frame(c, e->id, CONSENSUS_FRAME_FOLLOW_GRANT, frame, follow_grant_encode(&out, frame));
}

static int on_ask(struct consensus *c, uint64_t from, const void *body, size_t len)
{
    struct follow_ask in;
    if (follow_ask_decode(body, len, &in))
        return -EPROTO;
    struct follow_refused out = {.session = in.session, .why = (uint8_t)refusal(c, from, &in)};
    struct feeder *e = out.why ? NULL : add(&c->feed, from);
    if (!e) {
        uint8_t frame[FOLLOW_FRAME_BYTES];
        out.why = out.why ? out.why : FOLLOW_BUSY;
        send_frame(c, from, CONSENSUS_FRAME_FOLLOW_REFUSED, frame, follow_refused_encode(&out, frame));
        return 0;
    }
    c->feed.low_until_ms = 0;
    e->session = in.session;
    e->applied = in.applied;
    e->term = in.term;
    e->top = (struct db_applied){in.top, in.top_term};
    e->heard_ms = consensus_now_ms(c);
    e->phase = in.top > c->applied ? FEED_SNAPSHOT : FEED_CHECK;
    e->offered_ms = 0;
    e->unread_count = 0;
    grant_send(c, e, 0, 0);
    e->granted_ms = 0;
    consensus_wake(c);
    return 0;
}

/* --- leases --- */

/* For how long this node may vouch for its followers. */
static uint32_t lease_left_ms(const struct consensus *c, uint64_t now)
{
    uint64_t held = lease_held_until(c);
    if (held == NAMES_FRESH_ALWAYS)
        return c->config.lease_ms - c->config.lease_ms / 8;
    if (held <= now || held == NAMES_FRESH_NEVER)
        return 0;
    uint64_t left = held - now;
    left -= left / 8 + 1; /* what clocks differ in speed */
    return left > c->config.lease_ms ? c->config.lease_ms : (uint32_t)left;
}

/* Who holds up what this node may say of itself gets no more than the lease that it has. */
static bool holds_up(const struct consensus *c, struct feeder *e, uint64_t now)
{
    if (e->phase != FEED_ENTRIES)
        return true;
    if (e->applied >= e->behind_at) {
        e->behind_at = c->applied;
        e->behind_ms = now;
    }
    return e->applied < e->behind_at && now - e->behind_ms >= c->config.lease_ms / HOLDS_UP_PARTS;
}

static uint32_t lease_give(struct consensus *c, struct feeder *e, uint64_t now)
{
    uint32_t valid = holds_up(c, e, now) || now < c->feed.blind_until_ms ? 0 : lease_left_ms(c, now);
    if (valid == 0)
        return 0;
    if (e->expires_ms <= now)
        c->feed.low_until_ms = 0;
    /* Who renews in time was waited for each time. */
    if (e->expires_ms <= now || e->applied < e->floor)
        e->floor = c->applied;
    if (e->expires_ms < now + valid)
        e->expires_ms = now + valid;
    return valid;
}

/* Thousands may hold one, and each says for each entry how far it is. */
static void low_look(struct feed *f, uint64_t now)
{
    f->low = f->low_until_ms = UINT64_MAX;
    f->low_count = 0;
    for (size_t i = 0; i < f->count; i++) {
        const struct feeder *e = &f->follower[i];
        if (e->expires_ms <= now || e->applied > f->low)
            continue;
        if (e->applied < f->low) {
            f->low = e->applied;
            f->low_count = 0;
            f->low_until_ms = UINT64_MAX;
        }
        f->low_count++;
        if (e->expires_ms < f->low_until_ms)
            f->low_until_ms = e->expires_ms;
    }
}

/* Before it has another place than the one it had. */
static void low_leave(struct feed *f, const struct feeder *e, uint64_t applied, uint64_t now)
{
    if (applied < e->applied)
        f->low_until_ms = 0;
    else if (applied > e->applied && e->applied == f->low && e->expires_ms > now && --f->low_count == 0)
        f->low_until_ms = 0;
}

uint64_t feed_applied(struct consensus *c)
{
    struct feed *f = &c->feed;
    uint64_t now = consensus_now_ms(c);
    if (now < f->blind_until_ms)
        return 0;
    if (now >= f->low_until_ms)
        low_look(f, now);
    return f->low < c->applied ? f->low : c->applied;
}

/* Each answer is a write and a record of TLS: who asks for no lease needs one now and then. */
static bool grant_due(struct consensus *c, const struct feeder *e, uint64_t now)
{
    return e->phase != FEED_ENTRIES || e->granted_ms == 0 || now - e->granted_ms >= GRANT_EVERY_MS ||
           e->told_leader != leader_of(c);
}

static int on_renew(struct consensus *c, uint64_t from, const void *body, size_t len)
{
    struct follow_renew in;
    uint64_t now = consensus_now_ms(c);
    if (follow_renew_decode(body, len, &in))
        return -EPROTO;
    struct feeder *e = find(&c->feed, from);
    if (!e || e->session != in.session || c->follow.active)
        return 0; /* it hears nothing and asks again */
    bool moved = in.applied > e->applied;
    e->heard_ms = now;
    if (e->phase == FEED_ENTRIES && in.applied < e->next) {
        low_leave(&c->feed, e, in.applied, now);
        e->applied = in.applied;
    }
    unsigned read = 0;
    while (read < e->unread_count && e->unread[read] <= e->applied)
        read++;
    e->unread_count -= read;
    memmove(e->unread, e->unread + read, e->unread_count * sizeof(e->unread[0]));
    if (in.lease || grant_due(c, e, now))
        grant_send(c, e, in.stamp_ms, in.lease ? lease_give(c, e, now) : 0);
    if (moved && e->expires_ms > now && feed_applied(c) > c->feed.said) {
        c->feed.said = feed_applied(c);
        lease_applied(c);
    }
    consensus_wake(c);
    return 0;
}

int feed_frame(struct consensus *c, uint64_t from, uint16_t type, const void *body, size_t len)
{
    return type == CONSENSUS_FRAME_FOLLOW_ASK ? on_ask(c, from, body, len) : on_renew(c, from, body, len);
}

/* --- life --- */

void feed_pump(struct consensus *c)
{
    struct feed *f = &c->feed;
    unsigned reads = READS_MAX;
    if (c->follow.active || c->installing || !c->transport.send)
        return;
    for (size_t i = 0; i < f->count; i++) {
        struct feeder *e = &f->follower[i];
        if (e->phase == FEED_CHECK)
            check(c, e, &reads);
        if (e->phase == FEED_ENTRIES)
            send_entries(c, e, &reads);
        if (e->phase == FEED_SNAPSHOT && e->session)
            offer(c, e);
    }
}

void feed_tick(struct consensus *c)
{
    struct feed *f = &c->feed;
    uint64_t now = consensus_now_ms(c);
    for (size_t i = 0; i < f->count;)
        if (forgettable(&f->follower[i], now))
            drop_at(f, i);
        else
            i++;
    if (f->count)
        consensus_wake(c);
}

void feed_open(struct consensus *c)
{
    if (c->transport.send && c->applied && !c->follow.active)
        c->feed.blind_until_ms = consensus_now_ms(c) + c->config.lease_ms;
}

size_t consensus_followers(const struct consensus *c, uint64_t after, struct consensus_follower *out,
                           size_t max)
{
    const struct feed *f = &c->feed;
    size_t count = 0;
    for (size_t i = place_of(f, after + 1); i < f->count && count < max; i++)
        if (f->follower[i].session)
            out[count++] = (struct consensus_follower){f->follower[i].id, f->follower[i].applied,
                                                       f->follower[i].expires_ms > consensus_now_ms(c)};
    return count;
}

void feed_free(struct consensus *c)
{
    ring_clear(&c->feed);
    free(c->feed.follower);
}
