/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A cluster in one thread, with a clock, threads and a network that a seed decides about. The folders are
 * real, nothing else is: processes that end, stand still or have a slow disk, frames that are lost or late.
 *
 * Always: one leader a term; every node applies the same entries in the same order; who holds a read lease
 * has all that was answered.
 */
#ifndef FL_TESTS_CONSENSUS_WORLD_H
#define FL_TESTS_CONSENSUS_WORLD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>

#include <cmocka.h>

#include "cmd_build.h"
#include "control/raft/consensus_internal.h"
#include "temp_dir.h"

enum {
    SERVERS_MAX = 7, /* with workers */
    WORKERS_MAX = 2,
    LINKS_MAX = 4096,
    TERMS_MAX = 8192,
    ENTRIES_MAX = 16384,
    ELECTION_MS = 300,
    BEAT_MS = 40,
    SETTLE_MS = 60000,
};

enum happening { HAPPENS_LETTER, HAPPENS_TIMER, HAPPENS_WAKE, HAPPENS_RUN, HAPPENS_DONE, HAPPENS_CLOSE };

struct world;

struct server {
    struct world *world;
    uint64_t id;
    struct temp_dir dir;
    struct file_ops ops;
    struct consensus_config config;
    struct consensus_transport transport;
    struct consensus_host host;
    struct consensus *c; /* NULL: down */
    uint64_t life;       /* happenings of another one are void */
    uint64_t timer[CONSENSUS_TIMER_COUNT];
    uint64_t clock_ms;        /* ahead of the world's */
    uint64_t stands_until_ms; /* of the world's clock: its process stands still */
    bool woken, crashing, closing, joined;
};

struct happening_one {
    struct happening_one *next;
    uint64_t at_ms, order;
    enum happening what;
    unsigned to;
    uint64_t life, number;
    struct consensus_job *job;
    unsigned from;
    uint16_t type;
    size_t len;
    uint8_t body[];
};

struct world {
    struct server server[SERVERS_MAX];
    unsigned count, all; /* managers to begin with, and workers behind them */
    bool worker[SERVERS_MAX];
    struct happening_one *first;
    uint64_t now_ms, orders, random, seed;
    bool cut[SERVERS_MAX][SERVERS_MAX], calm;
    bool busy;      /* at the leader a proposal waits all the time */
    bool tells;     /* whose connection a process ends, by its death or without reason, is told so */
    uint64_t keeps; /* so many entries a log keeps, and as many are between snapshots; 0: few */
    unsigned loss, delay_ms, doubled;
    unsigned disk_ms;                   /* so long each round of a disk takes; 0: by chance */
    unsigned election_ms, heartbeat_ms; /* 0: quick ones */
    struct consensus_member wanted[SERVERS_MAX];
    uint64_t leader_of[TERMS_MAX];
    uint64_t applied[ENTRIES_MAX]; /* by index: 1 + the number of the link */
    uint64_t answered_index;       /* everything up to it may have been answered */
    uint8_t acknowledged[LINKS_MAX];
    unsigned proposed, ok, answered, kills, installed, in_flight, torn;
    unsigned renews, grants; /* that workers and their managers have sent */
    struct cmd_build b;
};

struct question {
    struct world *world;
    struct server *server;
    unsigned number;
    uint64_t index;
};

static inline void fail_world(const struct world *w, const char *why, uint64_t a, uint64_t b)
{
    fail_msg("seed %llu, at %llu ms: %s (%llu, %llu)", (unsigned long long)w->seed,
             (unsigned long long)w->now_ms, why, (unsigned long long)a, (unsigned long long)b);
}

static inline unsigned pick(struct world *w, unsigned n)
{
    w->random ^= w->random << 13;
    w->random ^= w->random >> 7;
    w->random ^= w->random << 17;
    return (unsigned)(w->random >> 33) % n;
}

static inline bool chance(struct world *w, unsigned percent)
{
    return pick(w, 100) < percent;
}

/* --- what happens --- */

static inline struct happening_one *happen(struct world *w, struct server *s, enum happening what,
                                           uint64_t after_ms, size_t bytes)
{
    struct happening_one *h = calloc(1, sizeof(*h) + bytes), **at = &w->first;
    CHECK(h);
    h->at_ms = w->now_ms + after_ms;
    h->order = ++w->orders;
    h->what = what;
    h->to = (unsigned)(s - w->server);
    h->life = s->life;
    while (*at && (*at)->at_ms <= h->at_ms)
        at = &(*at)->next;
    h->next = *at;
    *at = h;
    return h;
}

static inline uint64_t host_now(void *arg)
{
    const struct server *s = arg;
    return s->world->now_ms + s->clock_ms;
}

static inline uint64_t host_wall(void *arg)
{
    const struct server *s = arg;
    return s->world->now_ms;
}

static inline unsigned host_random(void *arg)
{
    struct server *s = arg;
    return pick(s->world, 1u << 30);
}

static inline int host_open(void *arg, struct consensus *c, void **handle)
{
    struct server *s = arg;
    s->c = c;
    *handle = s;
    return 0;
}

static inline void host_timer(void *handle, enum consensus_timer which, uint64_t after_ms)
{
    struct server *s = handle;
    struct happening_one *h = happen(s->world, s, HAPPENS_TIMER, after_ms, 0);
    h->number = (uint64_t)which;
    h->type = (uint16_t)++s->timer[which];
}

static inline void host_timer_stop(void *handle, enum consensus_timer which)
{
    struct server *s = handle;
    s->timer[which]++;
}

static inline void host_wake(void *handle)
{
    struct server *s = handle;
    if (!s->woken)
        happen(s->world, s, HAPPENS_WAKE, 0, 0);
    s->woken = true;
}

static inline void host_job(void *arg, struct consensus_job *job)
{
    struct server *s = arg;
    /* A disk that is slow now and then. */
    uint64_t after_ms = pick(s->world, chance(s->world, 10) ? 60 : 4);
    if (s->world->disk_ms)
        after_ms = s->world->disk_ms;
    happen(s->world, s, HAPPENS_RUN, after_ms, 0)->job = job;
}

static inline void host_close(void *handle)
{
    struct server *s = handle;
    happen(s->world, s, HAPPENS_CLOSE, 0, 0);
}

static inline int on_send(void *arg, uint64_t node, uint16_t type, const void *body, size_t len)
{
    struct server *s = arg;
    struct world *w = s->world;
    unsigned copies = 1 + chance(w, w->doubled);
    if (node == 0 || node > w->all)
        return -ENOTCONN;
    struct server *to = &w->server[node - 1];
    w->renews += type == CONSENSUS_FRAME_FOLLOW_RENEW;
    w->grants += type == CONSENSUS_FRAME_FOLLOW_GRANT;
    for (unsigned i = 0; i < copies; i++) {
        if (chance(w, w->loss))
            continue;
        struct happening_one *h = happen(w, to, HAPPENS_LETTER, pick(w, w->delay_ms + 1), len);
        h->from = (unsigned)(s - w->server);
        h->type = type;
        h->len = len;
        memcpy(h->body, body, len);
    }
    return 0;
}

static inline void letter(struct world *w, struct server *s, const struct happening_one *h)
{
    if (!s->c || w->cut[h->from][h->to])
        return;
    int rc = consensus_frame(s->c, h->from + 1, h->type, h->body, h->len);
    if (rc)
        fail_world(w, "a frame was refused", (uint64_t)-rc, h->type);
}

/* As a loop does that goes on: timers first, then what waits in the sockets. True: it is put off. */
static inline bool stands_still(struct world *w, struct happening_one *h)
{
    uint64_t until_ms = w->server[h->to].stands_until_ms;
    struct happening_one **at = &w->first;
    if (w->now_ms >= until_ms)
        return false;
    h->at_ms = until_ms + (h->what != HAPPENS_TIMER);
    while (*at && (*at)->at_ms <= h->at_ms)
        at = &(*at)->next;
    h->next = *at;
    *at = h;
    return true;
}

static inline void happens(struct world *w, struct happening_one *h)
{
    struct server *s = &w->server[h->to];
    /* A frame reaches whoever lives then. */
    if (h->what == HAPPENS_LETTER) {
        letter(w, s, h);
        return;
    }
    if (!s->c || h->life != s->life)
        return;
    if (h->what == HAPPENS_TIMER) {
        if (h->type == (uint16_t)s->timer[h->number])
            consensus_on_timer(s->c, (enum consensus_timer)h->number);
    } else if (h->what == HAPPENS_WAKE) {
        s->woken = false;
        consensus_on_wake(s->c);
    } else if (h->what == HAPPENS_RUN) {
        h->job->run(h->job);
        happen(w, s, HAPPENS_DONE, pick(w, 3), 0)->job = h->job;
    } else if (h->what == HAPPENS_DONE) {
        h->job->done(h->job);
    } else {
        s->life++;
        consensus_on_closed(s->c);
    }
}

/* --- disks --- */

/* The process ends in the middle of a write: a part of it is there. */
static inline ssize_t ops_pwrite(void *arg, int fd, const void *data, size_t len, off_t at)
{
    struct server *s = arg;
    if (!s->crashing)
        return file_ops_system.pwrite(NULL, fd, data, len, at);
    file_ops_system.pwrite(NULL, fd, data, pick(s->world, (unsigned)len + 1), at);
    return -EIO;
}

static inline int ops_sync(void *arg, int fd)
{
    const struct server *s = arg;
    (void)fd;
    return s->crashing ? -EIO : 0;
}

/* --- nodes --- */

static inline void on_event(void *arg, const struct state_event *event)
{
    struct server *s = arg;
    struct world *w = s->world;
    uint32_t number;
    memcpy(&number, event->cmd.digest.bytes, sizeof(number));
    if (event->index >= ENTRIES_MAX)
        fail_world(w, "too many entries", event->index, 0);
    if (w->applied[event->index] && w->applied[event->index] != number + 1)
        fail_world(w, "two nodes applied different entries", event->index, s->id);
    w->applied[event->index] = number + 1;
}

static inline void on_fatal(void *arg, const char *why)
{
    struct server *s = arg;
    print_message("node %llu: %s\n", (unsigned long long)s->id, why);
    fail_world(s->world, "a node stopped", s->id, 0);
}

static inline bool is_manager(void *arg)
{
    const struct server *s = arg;
    return !s->world->worker[s->id - 1];
}

/* What the state would say. */
static inline void place_tell(struct server *s)
{
    const struct world *w = s->world;
    struct consensus_member wanted[SERVERS_MAX];
    struct consensus_place place = {.self = is_manager(s) ? CONSENSUS_SELF_MANAGER : CONSENSUS_SELF_WORKER,
                                    .lease = s->id % 2};
    size_t count = 0;
    for (unsigned i = 0; i < w->all; i++) {
        if (w->worker[i])
            continue;
        wanted[count++] = w->wanted[i];
        if (i + 1 != s->id)
            place.manager[place.count++] = i + 1;
    }
    consensus_members(s->c, wanted, count);
    consensus_place(s->c, &place);
}

static inline void server_start(struct server *s)
{
    struct world *w = s->world;
    struct consensus_identity join = {.node_id = s->id};
    char err[256];
    if (w->server[0].joined)
        memcpy(join.cluster_id, "simulated", 9);
    s->transport = (struct consensus_transport){on_send, s};
    s->ops = file_ops_system;
    s->ops.pwrite = ops_pwrite;
    s->ops.datasync = s->ops.sync = ops_sync;
    s->ops.arg = s;
    s->host = (struct consensus_host){host_now,        host_wall, host_random, host_open,  host_timer,
                                      host_timer_stop, host_wake, host_job,    host_close, s};
    s->config = (struct consensus_config){.host = &s->host,
                                          .dir = s->dir.path,
                                          .transport = &s->transport,
                                          .ops = &s->ops,
                                          .map_bytes = 16 << 20,
                                          .reserve_bytes = 1 << 16,
                                          .segment_bytes = 4096,
                                          .snapshot_entries = w->keeps ? w->keeps : 48,
                                          .trailing_entries = w->keeps ? w->keeps : 8,
                                          .election_ms = w->election_ms ? w->election_ms : ELECTION_MS,
                                          .heartbeat_ms = w->heartbeat_ms ? w->heartbeat_ms : BEAT_MS,
                                          .event = on_event,
                                          .is_manager = is_manager,
                                          .fatal = on_fatal,
                                          .arg = s};
    s->config.join = &join;
    s->life++;
    s->woken = s->crashing = false;
    if (consensus_open(&s->config, &s->c, err, sizeof(err))) {
        print_message("%s\n", err);
        fail_world(w, "a node does not start", s->id, 0);
    }
    place_tell(s);
}

/* A job that was to run leaves a part of what it would have written. */
static inline void tear(struct server *s)
{
    struct world *w = s->world;
    for (struct happening_one *h = w->first; h; h = h->next)
        if (h->what == HAPPENS_RUN && h->life == s->life && &w->server[h->to] == s &&
            h->job == &s->c->disk.job) {
            h->job->run(h->job);
            w->torn++;
            return;
        }
}

static inline void connection_ends(struct server *here, const struct server *there)
{
    if (here->c && here != there)
        consensus_down(here->c, there->id, true);
}

static inline void server_kill(struct server *s)
{
    struct consensus *c = s->c;
    if (!c)
        return;
    s->crashing = true;
    if (chance(s->world, 50))
        tear(s);
    s->world->kills++;
    s->world->installed += (unsigned)c->counts.installed;
    s->c = NULL;
    s->life++;
    s->closing = false;
    consensus_abandon(c);
    for (unsigned i = 0; s->world->tells && i < s->world->all; i++)
        if (!s->world->cut[s->id - 1][i])
            connection_ends(&s->world->server[i], s);
}

static inline void on_closed(void *arg)
{
    struct server *s = arg;
    s->c = NULL;
    s->closing = false;
}

/* In order: leadership is handed over. */
static inline void server_stop(struct server *s)
{
    if (!s->c || s->closing)
        return;
    s->closing = true;
    s->world->installed += (unsigned)s->c->counts.installed;
    consensus_close(s->c, on_closed, s);
}

/* --- clients --- */

static inline void on_everywhere(void *arg, int result)
{
    struct question *q = arg;
    struct world *w = q->world;
    if (result == 0) {
        w->answered++;
        if (q->index > w->answered_index)
            w->answered_index = q->index;
    }
    free(q);
}

static inline void on_answer(void *arg, enum cmd_status status, uint64_t index, const void *detail,
                             size_t len)
{
    struct question *q = arg;
    struct world *w = q->world;
    (void)detail;
    (void)len;
    w->in_flight--;
    if (status != CMD_OK && status != CMD_NO_LEADER && status != CMD_UNKNOWN_OUTCOME && status != CMD_BUSY)
        fail_world(w, "an answer that cannot be", status, index);
    if (status != CMD_OK) {
        free(q);
        return;
    }
    w->ok++;
    w->acknowledged[q->number] = 1;
    q->index = index;
    consensus_await(q->server->c, index, on_everywhere, q);
}

static inline void propose(struct world *w, struct server *s)
{
    struct question *q = calloc(1, sizeof(*q));
    CHECK(q);
    *q = (struct question){.world = w, .server = s, .number = w->proposed++};
    struct digest d = digest_make(DIGEST_SHA256, q->number);
    cmd_blob_link(&w->b, 0, "repo", &d, 10);
    void *copy = malloc(w->b.w.len);
    CHECK(copy);
    memcpy(copy, w->b.buf, w->b.w.len);
    w->in_flight++;
    consensus_propose(s->c, copy, w->b.w.len, on_answer, q);
}

/* --- what always holds --- */

static inline struct server *leader(struct world *w)
{
    struct server *best = NULL;
    for (unsigned i = 0; i < w->all; i++)
        if (w->server[i].c && w->server[i].c->leads &&
            (!best || w->server[i].c->vote.term > best->c->vote.term))
            best = &w->server[i];
    return best;
}

/* What is remembered of the follower that has the least is true. */
static inline void look_low(struct world *w, const struct server *s)
{
    const struct feed *f = &s->c->feed;
    uint64_t now = consensus_now_ms(s->c), low = UINT64_MAX;
    if (now >= f->low_until_ms)
        return;
    for (size_t i = 0; i < f->count; i++)
        if (f->follower[i].expires_ms > now && f->follower[i].applied < low)
            low = f->follower[i].applied;
    if (low != f->low)
        fail_world(w, "a follower with a lease has another place than is known", low, f->low);
}

static inline void look(struct world *w)
{
    for (unsigned i = 0; i < w->all; i++) {
        const struct consensus *c = w->server[i].c;
        if (!c)
            continue;
        look_low(w, &w->server[i]);
        uint64_t term = raft_current_term(&c->raft);
        if (c->leads) {
            if (term >= TERMS_MAX)
                fail_world(w, "too many terms", term, 0);
            if (w->leader_of[term] && w->leader_of[term] != i + 1)
                fail_world(w, "two leaders in one term", term, i + 1);
            w->leader_of[term] = i + 1;
        }
        if (consensus_lease(c) && c->applied < w->answered_index)
            fail_world(w, "a read lease without an entry that was answered", i + 1, w->answered_index);
    }
}

static inline void busy_keep(struct world *w)
{
    struct server *s = w->busy ? leader(w) : NULL;
    if (s && !s->c->waiting.head && w->proposed < LINKS_MAX)
        propose(w, s);
}

static inline void until(struct world *w, uint64_t at_ms)
{
    while (w->first && w->first->at_ms <= at_ms) {
        struct happening_one *h = w->first;
        w->first = h->next;
        w->now_ms = h->at_ms;
        if (stands_still(w, h))
            continue;
        happens(w, h);
        free(h);
        look(w);
        busy_keep(w);
    }
    w->now_ms = at_ms;
}

/* --- calm --- */

static inline void wanted_tell(struct world *w)
{
    for (unsigned i = 0; i < w->all; i++)
        if (w->server[i].c)
            place_tell(&w->server[i]);
}

static inline void calm(struct world *w)
{
    w->calm = true;
    w->loss = w->doubled = 0;
    w->delay_ms = 5;
    memset(w->cut, 0, sizeof(w->cut));
    for (unsigned i = 0; i < w->all; i++)
        w->wanted[i].voter = true;
    wanted_tell(w);
}

static inline bool settled(struct world *w)
{
    const struct server *l = leader(w);
    unsigned managers = 0;
    for (unsigned i = 0; i < w->all; i++)
        managers += !w->worker[i];
    if (!l || w->in_flight || l->c->raft.configuration.n != managers ||
        l->c->raft.configuration_uncommitted_index)
        return false;
    for (unsigned i = 0; i < managers; i++)
        if (l->c->raft.configuration.servers[i].role != RAFT_VOTER)
            return false;
    for (unsigned i = 0; i < w->all; i++) {
        const struct consensus *c = w->server[i].c;
        if (!c || w->server[i].closing || c->applied != l->c->applied || cache_last(c) != c->applied ||
            c->installing || c->follow.active != w->worker[i])
            return false;
    }
    return true;
}

/* --- life --- */

static inline void identity_make(struct server *s)
{
    struct vote vote = {.cluster_id = "simulated", .node_id = 1, .term = 1};
    struct raft_configuration conf;
    struct raft_buffer buf;
    struct log *log;
    char err[256];
    CHECK(mkdirat(s->dir.fd, "raft", 0700) == 0);
    int fd = openat(s->dir.fd, "raft", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    raft_configuration_init(&conf);
    CHECK(raft_configuration_add(&conf, 1, "1", RAFT_VOTER) == 0 &&
          raft_configuration_encode(&conf, &buf) == 0);
    raft_configuration_close(&conf);
    struct log_config config = {.dir_fd = fd,
                                .cluster_id = "simulated",
                                .node_id = 1,
                                .segment_bytes = 4096,
                                .ops = &file_ops_system};
    struct log_entry entry = {.index = 1, .term = 1, .type = RAFT_CHANGE, .data = buf.base, .len = buf.len};
    CHECK(log_open(&config, &log, err, sizeof(err)) == 0 && log_append(log, &entry, 1) == 0);
    log_close(log);
    raft_free(buf.base);
    CHECK(vote_write(&file_ops_system, fd, &vote) == 0);
    close(fd);
}

/* managers 0: the seed says how many. */
static inline void world_make(struct world *w, uint64_t seed, unsigned managers, unsigned workers)
{
    w->seed = seed;
    w->random = seed * 0x9e3779b97f4a7c15ull + 1;
    pick(w, 2);
    w->count = pick(w, 3) ? 3 : 5;
    if (managers)
        w->count = managers;
    w->all = w->count + workers;
    w->now_ms = 1000;
    w->loss = pick(w, 5);
    w->doubled = pick(w, 5);
    w->delay_ms = 1 + pick(w, 12);
    for (unsigned i = 0; i < w->all; i++) {
        struct server *s = &w->server[i];
        s->world = w;
        s->id = i + 1;
        s->clock_ms = pick(w, 1000000);
        w->worker[i] = i >= w->count;
        w->wanted[i] = (struct consensus_member){i + 1, true};
        temp_dir_make(&s->dir);
    }
    identity_make(&w->server[0]);
    w->server[0].joined = true;
    for (unsigned i = 0; i < w->all; i++)
        server_start(&w->server[i]);
}

static inline void world_end(struct world *w)
{
    for (unsigned i = 0; i < w->all; i++) {
        server_kill(&w->server[i]);
        temp_dir_remove(&w->server[i].dir);
    }
    while (w->first) {
        struct happening_one *h = w->first;
        w->first = h->next;
        free(h);
    }
}

static inline void settle(struct world *w)
{
    uint64_t end = w->now_ms + SETTLE_MS;
    calm(w);
    for (unsigned round = 0; w->now_ms < end && !(round > 20 && settled(w)); round++) {
        for (unsigned i = 0; i < w->all; i++)
            if (!w->server[i].c)
                server_start(&w->server[i]);
        struct server *l = leader(w);
        /* An entry of the last term settles what the terms before left open. */
        if (l && round % 20 == 19 && !l->closing && w->proposed < LINKS_MAX)
            propose(w, l);
        until(w, w->now_ms + 50);
    }
    if (!settled(w)) {
        for (unsigned i = 0; i < w->all; i++) {
            const struct consensus *c = w->server[i].c;
            if (c)
                print_message("node %u: leads %d term %llu applied %llu commit %llu persisted %llu last %llu "
                              "servers %u "
                              "installing %d taking %d stalled %d follows %d\n",
                              i + 1, c->leads, (unsigned long long)c->vote.term,
                              (unsigned long long)c->applied, (unsigned long long)c->commit,
                              (unsigned long long)c->persisted, (unsigned long long)cache_last(c),
                              c->raft.configuration.n, c->installing, c->taking != NULL, c->stalled,
                              c->follow.active);
        }
        fail_world(w, "no end of the trouble", w->in_flight, 0);
    }
}

/* --- stories --- */

#define run_until(w, condition)                                                                              \
    do {                                                                                                     \
        uint64_t by_ms = (w)->now_ms + SETTLE_MS;                                                            \
        while (!(condition) && (w)->now_ms < by_ms)                                                          \
            until((w), (w)->now_ms + 5);                                                                     \
        if (!(condition))                                                                                    \
            fail_world((w), "in vain: " #condition, 0, 0);                                                   \
    } while (0)

static inline struct world *story_begin(unsigned managers, uint64_t keeps)
{
    struct world *w = calloc(1, sizeof(*w));
    CHECK(w);
    w->keeps = keeps;
    world_make(w, managers, managers, 1);
    w->loss = w->doubled = w->delay_ms = 0; /* frames come in order, as by a connection */
    run_until(w, settled(w));
    return w;
}

static inline void propose_many(struct world *w, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        propose(w, leader(w));
    run_until(w, w->in_flight == 0);
}

#endif
