/* SPDX-License-Identifier: Apache-2.0 */
/* Nodes that join, are filled, lose each other, hand over, and a survivor that goes on alone: on a real loop.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "cmd_build.h"
#include "control/raft/consensus_internal.h"
#include "control/raft/raft_codec.h"
#include "temp_dir.h"

enum { MEMBERS = 3, WAIT_MS = 60000, ROWS = 6000, LARGE_BYTES = 9 << 20 };

struct world;

struct member {
    struct world *world;
    struct temp_dir dir;
    struct consensus_config config;
    struct consensus_transport transport;
    struct consensus *c; /* NULL: down */
    bool cut_off;
    unsigned restored, parts;
    uint64_t leader;
};

struct world {
    uv_loop_t loop;
    uv_timer_t guard;
    struct member member[MEMBERS + 1]; /* by id */
    struct cmd_build b;
    unsigned proposed, answered, status[CMD_STATUS_COUNT], letters;
    int changed;
    bool overtime;
};

struct letter {
    uv_timer_t timer;
    struct world *world;
    uint64_t from, to;
    uint16_t type;
    size_t len;
    uint8_t body[];
};

static void on_letter_closed(uv_handle_t *handle)
{
    struct letter *letter = handle->data;
    letter->world->letters--;
    free(letter);
}

static void on_letter(uv_timer_t *timer)
{
    struct letter *l = timer->data;
    struct member *to = &l->world->member[l->to];
    if (to->c && !to->cut_off && !l->world->member[l->from].cut_off)
        assert_int_equal(consensus_frame(to->c, l->from, l->type, l->body, l->len), 0);
    uv_close((uv_handle_t *)timer, on_letter_closed);
}

static int on_send(void *arg, uint64_t node, uint16_t type, const void *body, size_t len)
{
    struct member *m = arg;
    struct letter *l = calloc(1, sizeof(*l) + len);
    CHECK(l);
    *l = (struct letter){
        .world = m->world, .from = (uint64_t)(m - m->world->member), .to = node, .type = type, .len = len};
    memcpy(l->body, body, len);
    l->timer.data = l;
    m->parts += type == CONSENSUS_FRAME_PART;
    m->world->letters++;
    uv_timer_init(&m->world->loop, &l->timer);
    uv_timer_start(&l->timer, on_letter, 0, 0);
    return 0;
}

static void on_fatal(void *arg, const char *why)
{
    (void)arg;
    fail_msg("a node stopped: %s", why);
}

static void on_restored(void *arg, uint64_t index)
{
    struct member *m = arg;
    assert_true(index > 0);
    m->restored++;
}

static void on_leader(void *arg, uint64_t leader)
{
    struct member *m = arg;
    m->leader = leader;
}

static void member_open(struct world *w, uint64_t id)
{
    struct member *m = &w->member[id];
    struct consensus_identity join = {.node_id = id};
    char err[256];
    if (w->member[1].c)
        memcpy(join.cluster_id, w->member[1].c->vote.cluster_id, sizeof(join.cluster_id));
    m->transport = (struct consensus_transport){on_send, m};
    m->config = (struct consensus_config){.loop = &w->loop,
                                          .dir = m->dir.path,
                                          .transport = &m->transport,
                                          .map_bytes = 128 << 20,
                                          .reserve_bytes = 1 << 20,
                                          .segment_bytes = 256 << 10,
                                          .snapshot_entries = 2000,
                                          .trailing_entries = 100,
                                          .election_ms = 800,
                                          .heartbeat_ms = 50,
                                          .fatal = on_fatal,
                                          .restored = on_restored,
                                          .leader = on_leader,
                                          .arg = m};
    m->config.join = id > 1 && w->member[1].c ? &join : NULL;
    if (consensus_open(&m->config, &m->c, err, sizeof(err)))
        fail_msg("node %u does not start: %s", (unsigned)id, err);
}

static void on_guard(uv_timer_t *timer)
{
    ((struct world *)timer->data)->overtime = true;
}

static int setup(void **state)
{
    struct world *w = calloc(1, sizeof(*w));
    CHECK(w);
    assert_int_equal(uv_loop_init(&w->loop), 0);
    uv_timer_init(&w->loop, &w->guard);
    w->guard.data = w;
    for (unsigned id = 1; id <= MEMBERS; id++) {
        w->member[id].world = w;
        temp_dir_make(&w->member[id].dir);
    }
    *state = w;
    return 0;
}

#define wait_for(w, condition)                                                                               \
    do {                                                                                                     \
        (w)->overtime = false;                                                                               \
        uv_timer_start(&(w)->guard, on_guard, WAIT_MS, 0);                                                   \
        while (!(condition) && !(w)->overtime)                                                               \
            uv_run(&(w)->loop, UV_RUN_ONCE);                                                                 \
        uv_timer_stop(&(w)->guard);                                                                          \
        if (!(condition))                                                                                    \
            fail_msg("in vain: %s", #condition);                                                             \
    } while (0)

static void on_closed(void *arg)
{
    ((struct member *)arg)->c = NULL;
}

static void member_close(struct world *w, uint64_t id)
{
    consensus_close(w->member[id].c, on_closed, &w->member[id]);
    wait_for(w, !w->member[id].c);
}

static int teardown(void **state)
{
    struct world *w = *state;
    for (unsigned id = 1; id <= MEMBERS; id++)
        if (w->member[id].c)
            member_close(w, id);
    uv_close((uv_handle_t *)&w->guard, NULL);
    uv_run(&w->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&w->loop), 0);
    for (unsigned id = 1; id <= MEMBERS; id++)
        temp_dir_remove(&w->member[id].dir);
    free(w);
    return 0;
}

static void on_answer(void *arg, enum cmd_status status, uint64_t index, const void *detail, size_t len)
{
    struct world *w = arg;
    (void)index;
    (void)detail;
    (void)len;
    w->answered++;
    w->status[status]++;
}

static void propose(struct world *w, uint64_t id)
{
    struct digest d = digest_make(DIGEST_SHA256, w->proposed++);
    cmd_blob_link(&w->b, 0, "repo", &d, 10);
    void *copy = malloc(w->b.w.len);
    CHECK(copy);
    memcpy(copy, w->b.buf, w->b.w.len);
    consensus_propose(w->member[id].c, copy, w->b.w.len, on_answer, w);
}

static void propose_many(struct world *w, uint64_t id, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        propose(w, id);
    wait_for(w, w->answered == w->proposed);
}

static unsigned rows(struct world *w, uint64_t id)
{
    struct kv *kv;
    struct db_view *view = consensus_view_begin(w->member[id].c, &kv);
    unsigned count = 0;
    for (unsigned i = 0; i < w->proposed; i++) {
        uint8_t key[NAMES_KEY_MAX];
        struct digest d = digest_make(DIGEST_SHA256, i);
        struct kv_bytes value;
        size_t len = names_key_digest(key, "repo", 4, &d);
        count += kv_get(kv, NAMES_LINKS, (struct kv_bytes){key, len}, &value) == 0;
    }
    consensus_view_end(view);
    return count;
}

static unsigned voters(struct world *w, uint64_t id)
{
    struct consensus_server servers[CONSENSUS_MEMBERS_MAX];
    size_t count = consensus_servers(w->member[id].c, servers, CONSENSUS_MEMBERS_MAX);
    unsigned n = 0;
    for (size_t i = 0; i < count; i++)
        n += servers[i].role == CONSENSUS_VOTER;
    return n;
}

static uint64_t leads(struct world *w)
{
    for (uint64_t id = 1; id <= MEMBERS; id++)
        if (w->member[id].c && w->member[id].c->leads)
            return id;
    return 0;
}

/* Nodes 1 to count, all of which vote. */
static void form(struct world *w, unsigned count)
{
    struct consensus_member wanted[MEMBERS];
    for (unsigned id = 1; id <= count; id++) {
        wanted[id - 1] = (struct consensus_member){id, true};
        if (!w->member[id].c)
            member_open(w, id);
    }
    for (unsigned id = 1; id <= count; id++)
        assert_int_equal(consensus_members(w->member[id].c, wanted, count), 0);
    wait_for(w, voters(w, 1) == count && voters(w, count) == count && leads(w));
}

/* One that is committed: a machine that stands still for a while may cost a leader its place. */
static void propose_ok(struct world *w)
{
    unsigned before = w->status[CMD_OK];
    while (w->status[CMD_OK] == before) {
        wait_for(w, leads(w));
        propose(w, leads(w));
        wait_for(w, w->answered == w->proposed);
    }
}

static void on_changed(void *arg, int result)
{
    ((struct world *)arg)->changed = result;
}

/* One that is committed and said to be applied wherever it may be read. */
static void propose_answered(struct world *w)
{
    do {
        propose_ok(w);
        wait_for(w, leads(w));
        struct consensus *c = w->member[leads(w)].c;
        w->changed = 1;
        consensus_await(c, c->commit, on_changed, w);
        wait_for(w, w->changed != 1);
    } while (w->changed);
}

static bool everywhere(struct world *w, unsigned count)
{
    for (unsigned id = 2; id <= count; id++)
        if (w->member[id].c->applied != w->member[1].c->applied)
            return false;
    return true;
}

/* The state is larger than a piece, and the log does not go back to its beginning. */
static void test_filled_by_a_snapshot(void **state)
{
    struct world *w = *state;
    struct consensus_status s;
    member_open(w, 1);
    propose_many(w, 1, ROWS);
    wait_for(w, w->member[1].c->giving.newest.index > 0);
    assert_true(w->member[1].c->giving.newest.bytes[DB_NAMES] > 2 * SNAPSHOT_PIECE_BYTES);
    form(w, 3);
    wait_for(w, everywhere(w, 3));
    for (uint64_t id = 2; id <= 3; id++) {
        consensus_status(w->member[id].c, &s);
        assert_true(s.installed > 0);
        assert_int_equal(w->member[id].restored, s.installed);
        assert_int_equal(rows(w, id), ROWS);
    }
    propose_ok(w);
    wait_for(w, rows(w, 3) == rows(w, 1) && rows(w, 3) > ROWS);
    /* It survives a start. */
    member_close(w, 3);
    member_open(w, 3);
    wait_for(w, everywhere(w, 3) && rows(w, 3) > ROWS);
}

/* An entry that is larger than a frame may be. */
static void test_large_entry(void **state)
{
    struct world *w = *state;
    member_open(w, 1);
    form(w, 3);
    uint64_t leader = 0;
    while (w->status[CMD_OK] == 0) {
        wait_for(w, leads(w));
        leader = leads(w);
        uint8_t *data = calloc(1, LARGE_BYTES);
        CHECK(data);
        w->proposed++;
        consensus_propose_entry(w->member[leader].c, RAFT_BARRIER, data, LARGE_BYTES, on_answer, w);
        wait_for(w, w->answered == w->proposed);
    }
    wait_for(w, everywhere(w, 3));
    assert_true(w->member[leader].parts >= LARGE_BYTES >> 20);
}

static void test_lost_majority(void **state)
{
    struct world *w = *state;
    member_open(w, 1);
    form(w, 3);
    propose_ok(w);
    wait_for(w, leads(w));
    uint64_t old = leads(w);
    unsigned unknown = w->status[CMD_UNKNOWN_OUTCOME], refused;
    w->member[old].cut_off = true;
    propose(w, old);
    wait_for(w, w->answered == w->proposed && !w->member[old].c->leads);
    assert_int_equal(w->status[CMD_UNKNOWN_OUTCOME], unknown + 1);
    assert_false(consensus_lease(w->member[old].c));
    refused = w->status[CMD_NO_LEADER];
    propose(w, old);
    wait_for(w, w->answered == w->proposed);
    assert_int_equal(w->status[CMD_NO_LEADER], refused + 1);
    /* The others go on. */
    propose_ok(w);
    /* What the old leader had for itself gives way. */
    w->member[old].cut_off = false;
    propose_ok(w);
    wait_for(w, everywhere(w, 3) && w->member[old].leader == leads(w) && leads(w));
    assert_int_equal(rows(w, old), rows(w, old % MEMBERS + 1));
}

static void refuse(struct consensus *leader, uint64_t from, uint64_t index, uint64_t last)
{
    struct raft_message m = {.type = RAFT_APPEND_ENTRIES_RESULT};
    void *data;
    size_t len;
    m.append_entries_result = (struct raft_append_entries_result){
        .term = raft_current_term(&leader->raft), .rejected = index, .last_log_index = last, .version = 1};
    assert_int_equal(raft_codec_encode(&m, NULL, &data, &len), 0);
    assert_int_equal(consensus_frame(leader, from, CONSENSUS_FRAME_MESSAGE, data, len), 0);
    free(data);
}

/* What overtakes on its way says of a follower that it lacks what it has said to have since. */
static void test_late_refusals(void **state)
{
    struct world *w = *state;
    member_open(w, 1);
    form(w, 3);
    for (int i = 0; i < 10; i++)
        propose_ok(w);
    wait_for(w, leads(w) && everywhere(w, 3));
    uint64_t leader = leads(w), other = leader % MEMBERS + 1;
    struct consensus *c = w->member[leader].c;
    raft_index match = 0;
    assert_int_equal(raft_match_index(&c->raft, other, &match), 0);
    assert_true(match > 5);
    refuse(c, other, match + 1, match);
    uint64_t answered = consensus_now_ms(c) + 4 * w->member[leader].config.heartbeat_ms;
    wait_for(w, consensus_now_ms(c) > answered); /* what it was asked for that */
    refuse(c, other, match, match - 5);
    refuse(c, other, match - 3, match - 5);
    propose_ok(w);
    wait_for(w, everywhere(w, 3));
}

static void test_leases(void **state)
{
    struct world *w = *state;
    member_open(w, 1);
    wait_for(w, consensus_lease(w->member[1].c));
    form(w, 3);
    wait_for(w, consensus_lease(w->member[1].c) && consensus_lease(w->member[2].c) &&
                    consensus_lease(w->member[3].c));
    propose_answered(w);
    wait_for(w, leads(w));
    uint64_t other = leads(w) % MEMBERS + 1;
    /* Who is not there is waited for as long as its lease lasts. */
    w->member[other].cut_off = true;
    propose_answered(w);
    assert_false(consensus_lease(w->member[other].c));
    w->member[other].cut_off = false;
    wait_for(w, consensus_lease(w->member[other].c) && leads(w));
    w->changed = 1;
    consensus_await(w->member[leads(w) % MEMBERS + 1].c, 1, on_changed, w);
    wait_for(w, w->changed == -ECANCELED);
}

static void test_handed_over(void **state)
{
    struct world *w = *state;
    member_open(w, 1);
    form(w, 3);
    uint64_t old, next;
    do {
        wait_for(w, leads(w));
        old = leads(w);
        next = old % MEMBERS + 1;
        w->changed = 1;
        consensus_transfer(w->member[old].c, next, on_changed, w);
        wait_for(w, w->changed != 1);
    } while (w->changed);
    wait_for(w, leads(w));
    unsigned other = (unsigned)(leads(w) % MEMBERS + 1);
    w->changed = 1;
    consensus_change(w->member[other].c, CONSENSUS_DEMOTE, 1, on_changed, w);
    wait_for(w, w->changed == -EAGAIN);
    wait_for(w, leads(w));
    next = leads(w);
    uint64_t term = w->member[next].c->vote.term;
    propose(w, next);
    member_close(w, next);
    assert_int_equal(w->answered, w->proposed);
    wait_for(w, leads(w));
    assert_true(w->member[leads(w)].c->vote.term > term);
}

static void test_force_new(void **state)
{
    struct world *w = *state;
    char err[256];
    member_open(w, 1);
    form(w, 3);
    for (int i = 0; i < 20; i++)
        propose_ok(w);
    wait_for(w, everywhere(w, 3) && leads(w));
    unsigned kept = rows(w, 3);
    for (uint64_t id = 1; id <= 3; id++)
        w->member[id].cut_off = true;
    uint64_t term = w->member[3].c->vote.term;
    for (uint64_t id = 1; id <= 3; id++)
        member_close(w, id);
    assert_int_equal(consensus_force_new(w->member[3].dir.path, err, sizeof(err)), 0);
    assert_int_equal(consensus_force_new(w->member[3].dir.path, err, sizeof(err)), 0);
    w->member[3].cut_off = false;
    member_open(w, 3);
    wait_for(w, w->member[3].c->leads);
    assert_true(w->member[3].c->vote.term > term);
    assert_int_equal(voters(w, 3), 1);
    assert_true(rows(w, 3) >= kept);
    propose_ok(w);
    struct temp_dir empty;
    temp_dir_make(&empty);
    assert_int_equal(consensus_force_new(empty.path, err, sizeof(err)), -ENOENT);
    temp_dir_remove(&empty);
}

/* A folder is whose it is. */
static void test_other_identity(void **state)
{
    struct world *w = *state;
    struct consensus_identity other = {.cluster_id = "another", .node_id = 1};
    char err[256];
    member_open(w, 1);
    memcpy(other.cluster_id, w->member[1].c->vote.cluster_id, sizeof(other.cluster_id));
    other.node_id = 2;
    member_close(w, 1);
    w->member[1].config.join = &other;
    assert_int_equal(consensus_open(&w->member[1].config, &w->member[1].c, err, sizeof(err)), -EPROTO);
    other = (struct consensus_identity){.cluster_id = "another", .node_id = 1};
    assert_int_equal(consensus_open(&w->member[1].config, &w->member[1].c, err, sizeof(err)), -EPROTO);
    w->member[1].c = NULL;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_filled_by_a_snapshot, setup, teardown),
        cmocka_unit_test_setup_teardown(test_large_entry, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lost_majority, setup, teardown),
        cmocka_unit_test_setup_teardown(test_late_refusals, setup, teardown),
        cmocka_unit_test_setup_teardown(test_leases, setup, teardown),
        cmocka_unit_test_setup_teardown(test_handed_over, setup, teardown),
        cmocka_unit_test_setup_teardown(test_force_new, setup, teardown),
        cmocka_unit_test_setup_teardown(test_other_identity, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
