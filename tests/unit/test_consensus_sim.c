/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whole clusters in one thread, with a clock, threads and a network that a seed decides about: frames are
 * lost, late, doubled, out of order; nodes are cut off (one way too), killed between any two steps, with the
 * end of their log torn; they vote, stop to, join with nothing and are filled by snapshots. Workers follow
 * them, become managers and workers again. The folders are real.
 *
 * Always: one leader a term; every node applies the same entries in the same order; who holds a read lease
 * has all that was answered. In the end: what was answered with CMD_OK is on all of them, and all have the
 * same rows. Behind that, two stories that are told to the end.
 *
 * FAIRLEAD_TEST_SEED=N runs one seed, FAIRLEAD_TEST_SEEDS=N as many; else as many as fit into the time,
 * always the same ones.
 */
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
    TROUBLE_MS = 5000,
    SETTLE_MS = 60000,
    DEFAULT_SEEDS = 200,
    TIME_S = 20,
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
    uint64_t clock_ms; /* ahead of the world's */
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
    struct consensus_member wanted[SERVERS_MAX];
    uint64_t leader_of[TERMS_MAX];
    uint64_t applied[ENTRIES_MAX]; /* by index: 1 + the number of the link */
    uint64_t answered_index;       /* everything up to it may have been answered */
    uint8_t acknowledged[LINKS_MAX];
    unsigned proposed, ok, answered, kills, installed, in_flight, torn;
    struct cmd_build b;
};

struct question {
    struct world *world;
    struct server *server;
    unsigned number;
    uint64_t index;
};

static void fail_world(const struct world *w, const char *why, uint64_t a, uint64_t b)
{
    fail_msg("seed %llu, at %llu ms: %s (%llu, %llu)", (unsigned long long)w->seed,
             (unsigned long long)w->now_ms, why, (unsigned long long)a, (unsigned long long)b);
}

static unsigned pick(struct world *w, unsigned n)
{
    w->random ^= w->random << 13;
    w->random ^= w->random >> 7;
    w->random ^= w->random << 17;
    return (unsigned)(w->random >> 33) % n;
}

static bool chance(struct world *w, unsigned percent)
{
    return pick(w, 100) < percent;
}

/* --- what happens --- */

static struct happening_one *happen(struct world *w, struct server *s, enum happening what, uint64_t after_ms,
                                    size_t bytes)
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

static uint64_t host_now(void *arg)
{
    const struct server *s = arg;
    return s->world->now_ms + s->clock_ms;
}

static uint64_t host_wall(void *arg)
{
    const struct server *s = arg;
    return s->world->now_ms;
}

static unsigned host_random(void *arg)
{
    struct server *s = arg;
    return pick(s->world, 1u << 30);
}

static int host_open(void *arg, struct consensus *c, void **handle)
{
    struct server *s = arg;
    s->c = c;
    *handle = s;
    return 0;
}

static void host_timer(void *handle, enum consensus_timer which, uint64_t after_ms)
{
    struct server *s = handle;
    struct happening_one *h = happen(s->world, s, HAPPENS_TIMER, after_ms, 0);
    h->number = (uint64_t)which;
    h->type = (uint16_t)++s->timer[which];
}

static void host_timer_stop(void *handle, enum consensus_timer which)
{
    struct server *s = handle;
    s->timer[which]++;
}

static void host_wake(void *handle)
{
    struct server *s = handle;
    if (!s->woken)
        happen(s->world, s, HAPPENS_WAKE, 0, 0);
    s->woken = true;
}

static void host_job(void *arg, struct consensus_job *job)
{
    struct server *s = arg;
    /* A disk that is slow now and then. */
    uint64_t after_ms = pick(s->world, chance(s->world, 10) ? 60 : 4);
    happen(s->world, s, HAPPENS_RUN, after_ms, 0)->job = job;
}

static void host_close(void *handle)
{
    struct server *s = handle;
    happen(s->world, s, HAPPENS_CLOSE, 0, 0);
}

static int on_send(void *arg, uint64_t node, uint16_t type, const void *body, size_t len)
{
    struct server *s = arg;
    struct world *w = s->world;
    unsigned copies = 1 + chance(w, w->doubled);
    if (node == 0 || node > w->all)
        return -ENOTCONN;
    struct server *to = &w->server[node - 1];
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

static void letter(struct world *w, struct server *s, const struct happening_one *h)
{
    if (!s->c || w->cut[h->from][h->to])
        return;
    int rc = consensus_frame(s->c, h->from + 1, h->type, h->body, h->len);
    if (rc)
        fail_world(w, "a frame was refused", (uint64_t)-rc, h->type);
}

static void happens(struct world *w, struct happening_one *h)
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
static ssize_t ops_pwrite(void *arg, int fd, const void *data, size_t len, off_t at)
{
    struct server *s = arg;
    if (!s->crashing)
        return file_ops_system.pwrite(NULL, fd, data, len, at);
    file_ops_system.pwrite(NULL, fd, data, pick(s->world, (unsigned)len + 1), at);
    return -EIO;
}

static int ops_sync(void *arg, int fd)
{
    const struct server *s = arg;
    (void)fd;
    return s->crashing ? -EIO : 0;
}

/* --- nodes --- */

static void on_event(void *arg, const struct state_event *event)
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

static void on_fatal(void *arg, const char *why)
{
    struct server *s = arg;
    print_message("node %llu: %s\n", (unsigned long long)s->id, why);
    fail_world(s->world, "a node stopped", s->id, 0);
}

static bool is_manager(void *arg)
{
    const struct server *s = arg;
    return !s->world->worker[s->id - 1];
}

/* What the state would say. */
static void place_tell(struct server *s)
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

static void server_start(struct server *s)
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
                                          .election_ms = ELECTION_MS,
                                          .heartbeat_ms = BEAT_MS,
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
static void tear(struct server *s)
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

static void connection_ends(struct server *here, const struct server *there)
{
    if (here->c && here != there)
        consensus_down(here->c, there->id, true);
}

static void server_kill(struct server *s)
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

static void on_closed(void *arg)
{
    struct server *s = arg;
    s->c = NULL;
    s->closing = false;
}

/* In order: leadership is handed over. */
static void server_stop(struct server *s)
{
    if (!s->c || s->closing)
        return;
    s->closing = true;
    s->world->installed += (unsigned)s->c->counts.installed;
    consensus_close(s->c, on_closed, s);
}

/* --- clients --- */

static void on_everywhere(void *arg, int result)
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

static void on_answer(void *arg, enum cmd_status status, uint64_t index, const void *detail, size_t len)
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

static void propose(struct world *w, struct server *s)
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

static struct server *leader(struct world *w)
{
    struct server *best = NULL;
    for (unsigned i = 0; i < w->all; i++)
        if (w->server[i].c && w->server[i].c->leads &&
            (!best || w->server[i].c->vote.term > best->c->vote.term))
            best = &w->server[i];
    return best;
}

static void look(struct world *w)
{
    for (unsigned i = 0; i < w->all; i++) {
        const struct consensus *c = w->server[i].c;
        if (!c)
            continue;
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

static void busy_keep(struct world *w)
{
    struct server *s = w->busy ? leader(w) : NULL;
    if (s && !s->c->waiting.head && w->proposed < LINKS_MAX)
        propose(w, s);
}

static void until(struct world *w, uint64_t at_ms)
{
    while (w->first && w->first->at_ms <= at_ms) {
        struct happening_one *h = w->first;
        w->first = h->next;
        w->now_ms = h->at_ms;
        happens(w, h);
        free(h);
        look(w);
        busy_keep(w);
    }
    w->now_ms = at_ms;
}

/* --- trouble --- */

static void wanted_tell(struct world *w)
{
    for (unsigned i = 0; i < w->all; i++)
        if (w->server[i].c)
            place_tell(&w->server[i]);
}

/* One of those that began as workers. */
static void role_change(struct world *w)
{
    if (w->all == w->count)
        return;
    unsigned i = w->count + pick(w, w->all - w->count);
    w->worker[i] = !w->worker[i];
    wanted_tell(w);
}

static void voters_change(struct world *w)
{
    unsigned i = pick(w, w->count), voters = 0;
    w->wanted[i].voter = !w->wanted[i].voter;
    for (unsigned k = 0; k < w->count; k++)
        voters += w->wanted[k].voter;
    if (voters < w->count / 2 + 1)
        w->wanted[i].voter = true;
    wanted_tell(w);
}

static void cut(struct world *w)
{
    unsigned a = pick(w, w->all), way = pick(w, 3);
    for (unsigned b = 0; b < w->all; b++) {
        if (a == b || chance(w, 30))
            continue;
        w->cut[a][b] |= way != 1;
        w->cut[b][a] |= way != 2;
    }
}

static void transfer(struct world *w)
{
    struct server *s = leader(w);
    struct question *q = calloc(1, sizeof(*q));
    CHECK(q);
    q->world = w;
    if (s)
        consensus_transfer(s->c, pick(w, w->count + 1), on_everywhere, q);
    else
        free(q);
}

static void trouble(struct world *w)
{
    unsigned what = pick(w, 1000);
    struct server *s = &w->server[pick(w, w->all)];
    if (what < 8)
        server_kill(s);
    else if (what < 12)
        server_stop(s);
    else if (what < 40 && !s->c)
        server_start(s);
    else if (what < 48)
        cut(w);
    else if (what < 70)
        memset(w->cut, 0, sizeof(w->cut));
    else if (what < 74)
        voters_change(w);
    else if (what < 77)
        transfer(w);
    else if (what < 80)
        w->loss = pick(w, 3) ? pick(w, 10) : pick(w, 60);
    else if (what >= 996)
        role_change(w);
    else if (what < 83)
        w->delay_ms = pick(w, 3) ? pick(w, 10) : pick(w, 200);
    else if (what < 93 && w->tells)
        connection_ends(s, leader(w) && pick(w, 4) ? leader(w) : &w->server[pick(w, w->all)]);
}

static void calm(struct world *w)
{
    w->calm = true;
    w->loss = w->doubled = 0;
    w->delay_ms = 5;
    memset(w->cut, 0, sizeof(w->cut));
    for (unsigned i = 0; i < w->all; i++)
        w->wanted[i].voter = true;
    wanted_tell(w);
}

static bool settled(struct world *w)
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

/* --- the end --- */

static void compare(struct world *w, struct server *a, struct server *b)
{
    struct kv *ka, *kb;
    struct db_view *va = consensus_view_begin(a->c, &ka), *vb = consensus_view_begin(b->c, &kb);
    for (unsigned db = NAMES_REPOS; db < NAMES_DB_COUNT; db++) {
        uint8_t at[NAMES_KEY_MAX] = {0};
        size_t len = 1;
        struct kv_bytes key[2], value[2];
        for (;;) {
            int ra = kv_seek(ka, db, (struct kv_bytes){at, len}, true, &key[0], &value[0]);
            int rb = kv_seek(kb, db, (struct kv_bytes){at, len}, true, &key[1], &value[1]);
            if (ra != rb)
                fail_world(w, "one node has a row more", a->id, b->id);
            if (ra)
                break;
            if (key[0].len != key[1].len || memcmp(key[0].data, key[1].data, key[0].len) != 0 ||
                value[0].len != value[1].len || memcmp(value[0].data, value[1].data, value[0].len) != 0)
                fail_world(w, "rows differ", a->id, b->id);
            len = key[0].len;
            memcpy(at, key[0].data, len);
        }
    }
    consensus_view_end(va);
    consensus_view_end(vb);
}

static void check_acknowledged(struct world *w, struct server *s)
{
    struct kv *kv;
    struct db_view *view = consensus_view_begin(s->c, &kv);
    for (unsigned i = 0; i < w->proposed; i++) {
        uint8_t key[NAMES_KEY_MAX];
        struct digest d = digest_make(DIGEST_SHA256, i);
        struct kv_bytes value;
        size_t len = names_key_digest(key, "repo", 4, &d);
        if (w->acknowledged[i] && kv_get(kv, NAMES_LINKS, (struct kv_bytes){key, len}, &value) != 0)
            fail_world(w, "what was answered is lost", s->id, i);
    }
    consensus_view_end(view);
}

static void identity_make(struct server *s)
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
static void world_make(struct world *w, uint64_t seed, unsigned managers, unsigned workers)
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

static void world_end(struct world *w)
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

static void settle(struct world *w)
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

static void seed_run(uint64_t seed, unsigned workers, bool tells, struct world *sum)
{
    struct world *w = calloc(1, sizeof(*w));
    CHECK(w);
    w->tells = tells;
    world_make(w, seed, 0, workers);
    for (uint64_t end = w->now_ms + TROUBLE_MS; w->now_ms < end;) {
        struct server *s = chance(w, 80) ? leader(w) : &w->server[pick(w, w->all)];
        for (unsigned i = pick(w, 4); s && s->c && i && w->in_flight < 40 && w->proposed < LINKS_MAX / 2; i--)
            propose(w, s);
        trouble(w);
        until(w, w->now_ms + 5);
    }
    settle(w);
    for (unsigned i = 0; i < w->all; i++) {
        check_acknowledged(w, &w->server[i]);
        if (i)
            compare(w, &w->server[0], &w->server[i]);
    }
    world_end(w);
    sum->ok += w->ok;
    sum->answered += w->answered;
    sum->proposed += w->proposed;
    sum->kills += w->kills;
    sum->torn += w->torn;
    sum->installed += w->installed;
    free(w);
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

static struct world *story_begin(unsigned managers, uint64_t keeps)
{
    struct world *w = calloc(1, sizeof(*w));
    CHECK(w);
    w->keeps = keeps;
    world_make(w, managers, managers, 1);
    w->loss = w->doubled = w->delay_ms = 0; /* frames come in order, as by a connection */
    run_until(w, settled(w));
    return w;
}

static void propose_many(struct world *w, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        propose(w, leader(w));
    run_until(w, w->in_flight == 0);
}

static struct server *other_manager(struct world *w)
{
    return &w->server[leader(w) == &w->server[0]];
}

static void cut_off(struct world *w, const struct server *s)
{
    for (unsigned i = 0; i < w->all; i++)
        w->cut[i][s->id - 1] = w->cut[s->id - 1][i] = true;
}

/* All end, and the one that was cut off goes on alone, in a history of its own. */
static void survive(struct world *w, struct server *s, uint64_t kept)
{
    char err[256];
    for (unsigned i = 0; i < w->all; i++) {
        server_kill(&w->server[i]);
        w->worker[i] = &w->server[i] != s;
    }
    assert_int_equal(consensus_force_new(s->dir.path, err, sizeof(err)), 0);
    memset(w->cut, 0, sizeof(w->cut));
    memset(w->applied + kept + 1, 0, (ENTRIES_MAX - kept - 1) * sizeof(w->applied[0]));
    w->answered_index = 0;
    w->in_flight = 0;
    server_start(s);
    run_until(w, s->c->leads && s->c->applied > kept);
}

/*
 * A worker's names are ahead of its private file, with entries that the survivor never had: what is between
 * comes again and the names pass over it, so these entries must not be taken for the survivor's.
 */
static void lost_history(unsigned more)
{
    struct world *w = story_begin(3, 1000);
    struct server *worker = &w->server[3], *survivor = other_manager(w);
    propose_many(w, 30);
    run_until(w, settled(w));
    server_stop(worker);
    run_until(w, !worker->c);
    server_start(worker);
    uint64_t both = worker->c->applied;
    run_until(w, settled(w));
    propose_many(w, 20);
    run_until(w, settled(w));
    uint64_t kept = survivor->c->applied;
    cut_off(w, survivor);
    propose_many(w, 40);
    run_until(w, leader(w) && worker->c->applied == leader(w)->c->applied && worker->c->applied >= kept + 40);
    uint64_t top = worker->c->applied;
    assert_int_equal(db_applied(worker->c->db, DB_NAMES).index, top);
    assert_int_equal(db_applied(worker->c->db, DB_PRIVATE).index, both);
    assert_true(both > 0 && both < kept);
    survive(w, survivor, kept);
    propose_many(w, more);
    assert_true(more ? survivor->c->applied > top : survivor->c->applied < top);
    server_start(worker);
    assert_int_equal(worker->c->applied, both);
    run_until(w, worker->c->follow.accepted);
    propose_many(w, 60);
    run_until(w, worker->c->applied == survivor->c->applied);
    assert_true(worker->c->applied > top);
    compare(w, survivor, worker);
    assert_int_equal(worker->c->counts.installed, 1);
    world_end(w);
    free(w);
}

static void test_a_worker_gives_up_a_lost_history(void **state)
{
    (void)state;
    lost_history(0);
    lost_history(60);
}

/* Who is behind gets what it lacks from the leader's log although that is written without a pause. */
static void test_a_worker_catches_up_with_a_busy_leader(void **state)
{
    enum { BEHIND = 2 * FEED_RING };
    struct world *w = story_begin(1, 2 * BEHIND);
    struct server *worker = &w->server[1], *manager = &w->server[0];
    (void)state;
    propose_many(w, 10);
    run_until(w, settled(w));
    server_kill(worker);
    for (unsigned i = 0; i < BEHIND; i += 64)
        propose_many(w, 64);
    uint64_t there = manager->c->applied;
    w->busy = true;
    server_start(worker);
    run_until(w, worker->c->applied >= there || w->proposed == LINKS_MAX);
    assert_true(worker->c->applied >= there);
    assert_true(w->proposed < LINKS_MAX);
    assert_int_equal(worker->c->counts.installed, 0);
    w->busy = false;
    run_until(w, settled(w));
    compare(w, manager, worker);
    world_end(w);
    free(w);
}

/* Nobody waits for an election timeout where the leader's process has ended; and where only a connection has,
 * it goes on leading. */
static void test_a_leader_that_ends_is_followed_at_once(void **state)
{
    (void)state;
    for (unsigned managers = 3; managers <= 5; managers += 2) {
        struct world *w = story_begin(managers, 1000);
        w->tells = true;
        for (unsigned round = 0; round < 5; round++) {
            struct server *lost = leader(w);
            uint64_t term = raft_current_term(&lost->c->raft);
            for (unsigned i = 0; i < w->count; i++)
                connection_ends(&w->server[i], lost);
            until(w, w->now_ms + 10);
            connection_ends(&w->server[lost->id % w->count], lost);
            until(w, w->now_ms + 3 * ELECTION_MS);
            assert_ptr_equal(leader(w), lost);
            assert_int_equal(raft_current_term(&lost->c->raft), term);
            uint64_t at = w->now_ms;
            server_kill(lost);
            run_until(w, leader(w));
            propose_many(w, 1);
            assert_true(w->now_ms - at < ELECTION_MS);
            server_start(lost);
            run_until(w, settled(w));
        }
        world_end(w);
        free(w);
    }
}

/* What is agreed upon is told at once: no answer waits for a heartbeat. */
static void test_one_write_waits_for_no_heartbeat(void **state)
{
    enum { WRITES = 40 };
    struct world *w = story_begin(3, 1000);
    uint64_t at = w->now_ms;
    (void)state;
    for (unsigned i = 0; i < WRITES; i++)
        propose_many(w, 1);
    assert_true(w->now_ms - at < WRITES * BEAT_MS / 2);
    run_until(w, settled(w));
    world_end(w);
    free(w);
}

static uint64_t seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec;
}

static uint64_t number_of(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text ? strtoull(text, NULL, 0) : otherwise;
}

static void test_seeds(void **state)
{
    /* These failed once, when connections did not end yet. */
    static const uint64_t kept[] = {73, 117, 5040, 7056, 7237, 7284}, kept_workers[] = {11, 100};
    uint64_t one = number_of("FAIRLEAD_TEST_SEED", 0), start = seconds(), count = 0;
    uint64_t seeds = number_of("FAIRLEAD_TEST_SEEDS", DEFAULT_SEEDS),
             time_s = seeds > DEFAULT_SEEDS ? 3600 : TIME_S;
    struct world *sum = calloc(1, sizeof(*sum));
    (void)state;
    CHECK(sum);
    if (one)
        seed_run(one, one % (WORKERS_MAX + 1), true, sum);
    for (size_t i = 0; i < ARRAY_SIZE(kept) && !one; i++)
        seed_run(kept[i], 0, false, sum);
    for (size_t i = 0; i < ARRAY_SIZE(kept_workers) && !one; i++)
        seed_run(kept_workers[i], kept_workers[i] % (WORKERS_MAX + 1), false, sum);
    for (uint64_t seed = number_of("FAIRLEAD_TEST_FROM", 1);
         !one && count < seeds && seconds() - start < time_s; seed++, count++)
        seed_run(seed, seed % (WORKERS_MAX + 1), true, sum);
    print_message(
        "%llu seeds: %u proposed, %u committed, %u answered, %u kills (%u torn), %u snapshots taken over\n",
        (unsigned long long)count, sum->proposed, sum->ok, sum->answered, sum->kills, sum->torn,
        sum->installed);
    if (!one)
        assert_true(sum->answered > 0 && sum->kills > 0);
    free(sum);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_worker_gives_up_a_lost_history),
        cmocka_unit_test(test_a_worker_catches_up_with_a_busy_leader),
        cmocka_unit_test(test_a_leader_that_ends_is_followed_at_once),
        cmocka_unit_test(test_one_write_waits_for_no_heartbeat),
        cmocka_unit_test(test_seeds),
    };
    struct stat st;
    if (stat("/dev/shm", &st) == 0 && !getenv("TMPDIR"))
        setenv("TMPDIR", "/dev/shm", 1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
