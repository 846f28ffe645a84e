/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Three nodes on one loop, their messages late, out of order and lost, nodes cut off and restarted: what was
 * answered with CMD_OK is on all of them in the end, and all three hold the same rows. FL_SEED repeats the
 * choices (not the timing).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/stat.h>

#include <cmocka.h>
#include <raft.h>

#include "cmd_build.h"
#include "control/raft/consensus.h"
#include "control/raft/log.h"
#include "control/raft/vote.h"
#include "temp_dir.h"

enum {
    NODES = 3,
    LINKS_MAX = 20000,
    CHAOS_MS = 6000,
    SETTLE_MS = 40000,
    ASK_MS = 1500,
    DELAY_MS_MAX = 8,
    IN_FLIGHT = 8
};

struct world;

struct server {
    struct world *world;
    struct temp_dir dir;
    struct consensus_config config;
    struct consensus_transport transport;
    struct consensus *c; /* NULL: down */
    bool cut_off, closing;
    uint64_t elections_seen;
};

struct world {
    uv_loop_t loop;
    uv_timer_t pulse;
    struct server node[NODES];
    struct cmd_build b;
    uint8_t acknowledged[LINKS_MAX];
    unsigned proposed, answered, ok, lost, delivered, restarts, in_flight, messages;
    uint64_t start_ms, random;
    bool calm; /* no more trouble */
};

struct letter {
    uv_timer_t timer;
    struct world *world;
    unsigned from, to;
    uint16_t type;
    size_t len;
    uint8_t body[];
};

struct question {
    struct world *world;
    unsigned number;
};

static unsigned pick(struct world *w, unsigned n)
{
    w->random ^= w->random << 13;
    w->random ^= w->random >> 7;
    w->random ^= w->random << 17;
    return (unsigned)(w->random >> 33) % n;
}

static uint64_t now_ms(void)
{
    return uv_hrtime() / 1000000;
}

static void on_letter_closed(uv_handle_t *handle)
{
    struct letter *letter = handle->data;
    letter->world->messages--;
    free(letter);
}

static void on_letter(uv_timer_t *timer)
{
    struct letter *letter = timer->data;
    struct server *to = &letter->world->node[letter->to], *from = &letter->world->node[letter->from];
    if (to->c && !to->cut_off && !from->cut_off) {
        letter->world->delivered++;
        assert_int_equal(consensus_frame(to->c, letter->from + 1, letter->type, letter->body, letter->len),
                         0);
    }
    uv_close((uv_handle_t *)timer, on_letter_closed);
}

static int on_send(void *arg, uint64_t node, uint16_t type, const void *body, size_t len)
{
    struct server *from = arg;
    struct world *w = from->world;
    if (!w->calm && pick(w, 100) < 5) {
        w->lost++;
        return 0;
    }
    struct letter *letter = calloc(1, sizeof(*letter) + len);
    letter->world = w;
    letter->from = (unsigned)(from - w->node);
    letter->to = (unsigned)node - 1;
    letter->type = type;
    letter->len = len;
    memcpy(letter->body, body, len);
    letter->timer.data = letter;
    w->messages++;
    uv_timer_init(&w->loop, &letter->timer);
    uv_timer_start(&letter->timer, on_letter, pick(w, DELAY_MS_MAX + 1), 0);
    return 0;
}

static void on_fatal(void *arg, const char *why)
{
    (void)arg;
    fail_msg("a node stopped: %s", why);
}

/* A node's folder as if the three had been made together. */
static void node_make(struct world *w, unsigned i)
{
    struct server *n = &w->node[i];
    struct vote vote = {.cluster_id = "three", .node_id = i + 1, .term = 1};
    struct raft_configuration conf;
    struct raft_buffer buf;
    struct log *log;
    char err[256];
    n->world = w;
    temp_dir_make(&n->dir);
    assert_int_equal(mkdirat(n->dir.fd, "raft", 0700), 0);
    int fd = openat(n->dir.fd, "raft", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    raft_configuration_init(&conf);
    assert_int_equal(raft_configuration_add(&conf, 1, "1", RAFT_VOTER), 0);
    assert_int_equal(raft_configuration_add(&conf, 2, "2", RAFT_VOTER), 0);
    assert_int_equal(raft_configuration_add(&conf, 3, "3", RAFT_VOTER), 0);
    assert_int_equal(raft_configuration_encode(&conf, &buf), 0);
    raft_configuration_close(&conf);
    struct log_config config = {.dir_fd = fd,
                                .cluster_id = "three",
                                .node_id = i + 1,
                                .segment_bytes = 64 << 10,
                                .ops = &file_ops_system};
    struct log_entry entry = {.index = 1, .term = 1, .type = RAFT_CHANGE, .data = buf.base, .len = buf.len};
    assert_int_equal(log_open(&config, &log, err, sizeof(err)), 0);
    assert_int_equal(log_append(log, &entry, 1), 0);
    log_close(log);
    raft_free(buf.base);
    assert_int_equal(vote_write(&file_ops_system, fd, &vote), 0);
    close(fd);
}

static void node_start(struct server *n)
{
    char err[256];
    n->transport = (struct consensus_transport){on_send, n};
    n->config = (struct consensus_config){.loop = &n->world->loop,
                                          .dir = n->dir.path,
                                          .transport = &n->transport,
                                          .map_bytes = 128 << 20,
                                          .reserve_bytes = 1 << 20,
                                          .segment_bytes = 64 << 10,
                                          .election_ms = 250,
                                          .heartbeat_ms = 30,
                                          .fatal = on_fatal,
                                          .arg = n};
    int rc = consensus_open(&n->config, &n->c, err, sizeof(err));
    if (rc)
        fail_msg("a node does not start: %s", err);
}

static void on_node_closed(void *arg)
{
    struct server *n = arg;
    n->closing = false;
    if (!n->world->calm || n->world->restarts)
        node_start(n);
}

static void node_restart(struct server *n)
{
    if (!n->c || n->closing)
        return;
    struct consensus *c = n->c;
    n->c = NULL;
    n->closing = true;
    n->world->restarts++;
    consensus_close(c, on_node_closed, n);
}

static void on_answer(void *arg, enum cmd_status status, uint64_t index, const void *detail,
                      size_t detail_len)
{
    struct question *q = arg;
    (void)index;
    (void)detail;
    (void)detail_len;
    assert_true(status == CMD_OK || status == CMD_NO_LEADER || status == CMD_UNKNOWN_OUTCOME);
    q->world->answered++;
    q->world->in_flight--;
    if (status == CMD_OK) {
        q->world->acknowledged[q->number] = 1;
        q->world->ok++;
    }
    free(q);
}

static struct server *leader(struct world *w)
{
    struct consensus_status s;
    for (unsigned i = 0; i < NODES; i++) {
        if (!w->node[i].c)
            continue;
        consensus_status(w->node[i].c, &s);
        if (s.leads && !w->node[i].cut_off)
            return &w->node[i];
    }
    return NULL;
}

static void ask(struct world *w, struct server *n)
{
    struct question *q = malloc(sizeof(*q));
    *q = (struct question){w, w->proposed++};
    struct digest d = digest_make(DIGEST_SHA256, q->number);
    cmd_blob_link(&w->b, 0, "repo", &d, 10);
    void *copy = malloc(w->b.w.len);
    memcpy(copy, w->b.buf, w->b.w.len);
    w->in_flight++;
    consensus_propose(n->c, copy, w->b.w.len, on_answer, q);
}

/* Every few milliseconds: some proposals, and now and then some trouble. */
static void on_pulse(uv_timer_t *timer)
{
    struct world *w = timer->data;
    struct server *n = leader(w);
    for (int i = 0; i < 4 && n && w->in_flight < IN_FLIGHT * 8 && w->proposed < LINKS_MAX - 10 && !w->calm;
         i++)
        ask(w, n);
    if (w->calm)
        return;
    unsigned what = pick(w, 400);
    if (what < 2)
        node_restart(&w->node[pick(w, NODES)]);
    else if (what < 4)
        w->node[pick(w, NODES)].cut_off = true;
    else if (what < 12)
        w->node[pick(w, NODES)].cut_off = false;
}

static bool settled(struct world *w)
{
    struct consensus_status s[NODES];
    for (unsigned i = 0; i < NODES; i++) {
        if (!w->node[i].c)
            return false;
        consensus_status(w->node[i].c, &s[i]);
        if (s[i].applied_index != s[0].applied_index || s[i].last_index != s[i].applied_index)
            return false;
    }
    return w->in_flight == 0 && leader(w) != NULL;
}

/* Walks the databases of two nodes side by side. */
static void compare(struct server *a, struct server *b)
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
            assert_int_equal(ra, rb);
            if (ra)
                break;
            assert_int_equal(key[0].len, key[1].len);
            assert_memory_equal(key[0].data, key[1].data, key[0].len);
            assert_int_equal(value[0].len, value[1].len);
            assert_memory_equal(value[0].data, value[1].data, value[0].len);
            len = key[0].len;
            memcpy(at, key[0].data, len);
        }
    }
    consensus_view_end(va);
    consensus_view_end(vb);
}

static void check_acknowledged(struct world *w, struct server *n)
{
    struct kv *kv;
    struct db_view *view = consensus_view_begin(n->c, &kv);
    for (unsigned i = 0; i < w->proposed; i++) {
        uint8_t key[NAMES_KEY_MAX];
        struct digest d = digest_make(DIGEST_SHA256, i);
        struct kv_bytes value;
        size_t len = names_key_digest(key, "repo", 4, &d);
        if (w->acknowledged[i])
            assert_int_equal(kv_get(kv, NAMES_LINKS, (struct kv_bytes){key, len}, &value), 0);
    }
    consensus_view_end(view);
}

static void test_three_nodes_in_trouble(void **state)
{
    struct world *w = calloc(1, sizeof(*w));
    (void)state;
    w->random = getenv("FL_SEED") ? strtoull(getenv("FL_SEED"), NULL, 0) : uv_hrtime();
    print_message("seed %llu\n", (unsigned long long)w->random);
    uv_loop_init(&w->loop);
    uv_timer_init(&w->loop, &w->pulse);
    w->pulse.data = w;
    for (unsigned i = 0; i < NODES; i++)
        node_make(w, i);
    for (unsigned i = 0; i < NODES; i++)
        node_start(&w->node[i]);
    uv_timer_start(&w->pulse, on_pulse, 5, 5);
    w->start_ms = now_ms();
    while (now_ms() - w->start_ms < CHAOS_MS)
        uv_run(&w->loop, UV_RUN_ONCE);
    w->calm = true;
    for (unsigned i = 0; i < NODES; i++)
        w->node[i].cut_off = false;
    w->start_ms = now_ms();
    uint64_t asked_ms = w->start_ms;
    bool asked = false;
    while (now_ms() - w->start_ms < SETTLE_MS && !(asked && settled(w))) {
        uv_run(&w->loop, UV_RUN_ONCE);
        /* One more of the last term settles what the terms before left open; a slow machine may still elect.
         */
        struct server *n = now_ms() - asked_ms > ASK_MS ? leader(w) : NULL;
        if (n) {
            ask(w, n);
            asked = true;
            asked_ms = now_ms();
        }
    }
    print_message("%u proposed, %u acknowledged, %u messages lost, %u delivered, %u restarts\n", w->proposed,
                  w->ok, w->lost, w->delivered, w->restarts);
    for (unsigned i = 0; i < NODES && !settled(w); i++) {
        struct consensus_status s = {.state = "down"};
        if (w->node[i].c)
            consensus_status(w->node[i].c, &s);
        print_message(
            "node %u: %s, term %llu, leader %llu, last %llu, commit %llu, applied %llu, snapshot %llu%s\n",
            i + 1, s.state, (unsigned long long)s.term, (unsigned long long)s.leader_id,
            (unsigned long long)s.last_index, (unsigned long long)s.commit_index,
            (unsigned long long)s.applied_index, (unsigned long long)s.snapshot_index,
            s.installing ? ", installing" : "");
    }
    assert_true(settled(w));
    assert_true(w->ok > 100 && w->lost > 0 && w->restarts > 0);
    for (unsigned i = 0; i < NODES; i++)
        check_acknowledged(w, &w->node[i]);
    compare(&w->node[0], &w->node[1]);
    compare(&w->node[0], &w->node[2]);
    w->restarts = 0;
    for (unsigned i = 0; i < NODES; i++) {
        struct consensus *c = w->node[i].c;
        w->node[i].c = NULL;
        w->node[i].closing = true;
        consensus_close(c, on_node_closed, &w->node[i]);
    }
    uv_close((uv_handle_t *)&w->pulse, NULL);
    uv_run(&w->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&w->loop), 0);
    assert_int_equal(w->messages, 0);
    for (unsigned i = 0; i < NODES; i++)
        temp_dir_remove(&w->node[i].dir);
    free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_three_nodes_in_trouble)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
