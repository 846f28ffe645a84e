/* SPDX-License-Identifier: Apache-2.0 */
/* The rotation of the CA in the state machine: each step in its turn, and no node forgotten. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "control/node_commands.h"
#include "control/state/state.h"
#include "kv_memory.h"

enum { NODES = 3, WORKER = 3, TIME_MS = 1000000 };

struct fixture {
    struct kv_memory m;
    struct state_event ev;
    uint64_t index;
    void *cmd;
    size_t len;
};

static const struct node_asker who = {"tester", "control-socket"};
static const char pem[] = "-----BEGIN CERTIFICATE-----\n";

/* Applies f->cmd, which it frees. */
static enum cmd_status apply(struct fixture *f)
{
    struct state_tx tx = {.kv = &f->m.kv};
    uint64_t writes = f->m.writes, time_ms = TIME_MS + f->index;
    char err[256];
    struct wire_writer time = {.buf = (uint8_t *)f->cmd + CMD_TIME_OFFSET, .cap = sizeof(time_ms)};
    wire_put_u64(&time, time_ms);
    assert_int_equal(state_check(f->cmd, f->len, NULL, err, sizeof(err)), CMD_OK);
    assert_int_equal(state_apply(&tx, ++f->index, f->cmd, f->len, &f->ev), 0);
    if (f->ev.status != CMD_OK || !f->ev.changed)
        assert_int_equal(f->m.writes, writes);
    assert_true(f->ev.status == CMD_OK || f->ev.detail_len > 0);
    free(f->cmd);
    f->cmd = NULL;
    return f->ev.status;
}

static enum cmd_status token(struct fixture *f, uint8_t role)
{
    struct node_token t = {.role = role, .expires_ms = TIME_MS * 2};
    memset(t.hash, role, sizeof(t.hash));
    f->cmd = node_cmd_token_set(who, &t, false, &f->len);
    return apply(f);
}

static enum cmd_status add(struct fixture *f, uint64_t id, uint8_t role)
{
    struct node_join j = {.node = {.role = role, .availability = NODE_ACTIVE, .version = CLUSTER_VERSION}};
    snprintf(j.node.name, sizeof(j.node.name), "n%u", (unsigned)id);
    memset(j.node.key, (int)id, sizeof(j.node.key));
    memset(j.token, role, sizeof(j.token));
    f->cmd = node_cmd_add(who, &j, &f->len);
    return apply(f);
}

/* Two managers and a worker. */
static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct node n = {.id = 1,
                     .name = "n1",
                     .role = NODE_MANAGER,
                     .availability = NODE_ACTIVE,
                     .replica = true,
                     .version = CLUSTER_VERSION};
    struct node_cluster c = {.version = CLUSTER_VERSION, .name = "c", .copies_min = 1};
    kv_memory_init(&f->m);
    f->cmd = node_cmd_init(who, &n, &c, &f->len);
    assert_int_equal(apply(f), CMD_OK);
    assert_int_equal(token(f, NODE_MANAGER), CMD_OK);
    assert_int_equal(token(f, NODE_WORKER), CMD_OK);
    assert_int_equal(add(f, 2, NODE_MANAGER), CMD_OK);
    assert_int_equal(add(f, WORKER, NODE_WORKER), CMD_OK);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    kv_memory_fini(&f->m);
    free(f);
    return 0;
}

static struct ca_row row(struct fixture *f)
{
    struct ca_row r;
    assert_int_equal(state_ca_read(&f->m.kv, &r), 0);
    return r;
}

static enum cmd_status rotate(struct fixture *f, bool force)
{
    f->cmd = node_cmd_ca_rotate(who, force, &f->len);
    return apply(f);
}

static struct ca_pem cert(uint8_t seed, bool whole)
{
    struct ca_pem p = {.data = whole ? pem : NULL, .len = whole ? sizeof(pem) - 1 : 0};
    memset(p.hash, seed, sizeof(p.hash));
    return p;
}

static enum cmd_status made(struct fixture *f, uint64_t maker, uint8_t current, uint8_t next)
{
    struct ca_step s = {
        .to = CA_TRUST, .maker = maker, .current = cert(current, true), .next = cert(next, true)};
    f->cmd = node_cmd_ca_step(who, &s, &f->len);
    return apply(f);
}

static enum cmd_status step(struct fixture *f, enum ca_phase to, uint8_t next, bool force)
{
    struct ca_step s = {.to = (uint8_t)to, .force = force, .next = cert(next, false)};
    f->cmd = node_cmd_ca_step(who, &s, &f->len);
    return apply(f);
}

static enum cmd_status says(struct fixture *f, uint64_t id, uint8_t ca, bool trusts, bool has_key)
{
    struct ca_node n = {.id = id, .trusts = trusts, .has_key = has_key};
    memset(n.ca, ca, sizeof(n.ca));
    f->cmd = node_cmd_ca_node(who, &n, &f->len);
    return apply(f);
}

/* Its certificate is of that CA. */
static enum cmd_status certified(struct fixture *f, uint64_t id, uint8_t ca)
{
    struct node_change c = {.revision = CMD_REVISION_ANY, .has = NODE_HAS_CA};
    c.node.id = id;
    memset(c.node.ca, ca, sizeof(c.node.ca));
    f->cmd = node_cmd_set(who, &c, &f->len);
    return apply(f);
}

static enum cmd_status rm(struct fixture *f, uint64_t id)
{
    struct node_removal r = {.id = id, .force = true, .down = {.id = {id}, .count = 1}};
    f->cmd = node_cmd_rm(who, &r, &f->len);
    return apply(f);
}

static size_t tokens(struct fixture *f)
{
    struct node_tokens t;
    assert_int_equal(state_tokens_read(&f->m.kv, &t), 0);
    size_t count = t.count;
    node_tokens_fini(&t);
    return count;
}

static void to_trust(struct fixture *f)
{
    assert_int_equal(rotate(f, false), CMD_OK);
    assert_int_equal(made(f, 1, 'o', 'n'), CMD_OK);
}

static void to_sign(struct fixture *f)
{
    to_trust(f);
    for (uint64_t id = 1; id <= NODES; id++)
        assert_int_equal(says(f, id, 'n', true, id != WORKER), CMD_OK);
    assert_int_equal(step(f, CA_SIGN, 'n', false), CMD_OK);
}

static void test_a_rotation(void **state)
{
    struct fixture *f = *state;
    struct node_table t;
    assert_int_equal(row(f).phase, CA_STEADY);
    assert_int_equal(row(f).current.len, 0);
    assert_int_equal(rotate(f, false), CMD_OK);
    assert_int_equal(row(f).phase, CA_WANTED);
    assert_int_equal(rotate(f, false), CMD_OK);
    assert_false(f->ev.changed);
    assert_int_equal(made(f, 1, 'o', 'n'), CMD_OK);
    struct ca_row r = row(f);
    assert_int_equal(r.phase, CA_TRUST);
    assert_int_equal(r.next.len, sizeof(pem) - 1);
    assert_memory_equal(r.next.pem, pem, r.next.len);
    assert_int_equal(ca_signer(&r)->hash[0], 'o');
    assert_int_equal(rotate(f, false), CMD_CONFLICT);
    /* The maker has the key and does not trust the CA yet. */
    assert_int_equal(step(f, CA_SIGN, 'n', false), CMD_CONFLICT);
    assert_int_equal(says(f, 1, 'n', true, true), CMD_OK);
    assert_int_equal(says(f, 1, 'n', true, true), CMD_OK);
    assert_false(f->ev.changed);
    assert_int_equal(says(f, 2, 'n', true, false), CMD_OK);
    assert_int_equal(says(f, WORKER, 'n', true, false), CMD_OK);
    assert_int_equal(step(f, CA_SIGN, 'n', false), CMD_CONFLICT); /* a manager without the key */
    assert_int_equal(says(f, 2, 'n', true, true), CMD_OK);
    assert_int_equal(step(f, CA_SIGN, 'x', false), CMD_CONFLICT); /* another rotation is meant */
    assert_int_equal(step(f, CA_STEADY, 'n', false), CMD_CONFLICT);
    assert_int_equal(tokens(f), 2);
    assert_int_equal(step(f, CA_SIGN, 'n', false), CMD_OK);
    assert_int_equal(tokens(f), 0);
    r = row(f);
    assert_int_equal(ca_signer(&r)->hash[0], 'n');
    for (uint64_t id = 1; id <= NODES; id++) {
        assert_int_equal(step(f, CA_STEADY, 'n', false), CMD_CONFLICT);
        assert_int_equal(certified(f, id, 'n'), CMD_OK);
    }
    assert_int_equal(step(f, CA_STEADY, 'n', false), CMD_OK);
    r = row(f);
    assert_int_equal(r.phase, CA_STEADY);
    assert_int_equal(r.count, 1);
    assert_int_equal(r.current.hash[0], 'n');
    assert_int_equal(r.next.len, 0);
    assert_int_equal(state_nodes_read(&f->m.kv, &t), 0);
    assert_int_equal(t.ca[0], 'n');
    assert_true(node_counts(&t, &t.node[0]) && node_counts(&t, &t.node[2]));
    node_table_fini(&t);
}

/* A second one begins with the CA that the first one made, and with no other. */
static void test_again(void **state)
{
    struct fixture *f = *state;
    to_sign(f);
    for (uint64_t id = 1; id <= NODES; id++)
        assert_int_equal(certified(f, id, 'n'), CMD_OK);
    assert_int_equal(step(f, CA_STEADY, 'n', false), CMD_OK);
    assert_int_equal(rotate(f, false), CMD_OK);
    assert_int_equal(made(f, 1, 'o', 'z'), CMD_CONFLICT);
    assert_int_equal(made(f, WORKER, 'n', 'z'), CMD_NODE_UNKNOWN);
    assert_int_equal(made(f, 9, 'n', 'z'), CMD_NODE_UNKNOWN);
    assert_int_equal(made(f, 2, 'n', 'z'), CMD_OK);
    assert_int_equal(made(f, 1, 'n', 'y'), CMD_CONFLICT); /* two leaders, one after the other */
    assert_int_equal(says(f, 1, 'y', true, true), CMD_CONFLICT);
    assert_int_equal(says(f, 9, 'z', true, true), CMD_NODE_UNKNOWN);
}

static void test_forced(void **state)
{
    struct fixture *f = *state;
    struct node_table t;
    assert_int_equal(rotate(f, true), CMD_INVALID);
    to_trust(f);
    assert_int_equal(says(f, 1, 'n', true, true), CMD_OK);
    assert_int_equal(step(f, CA_SIGN, 'n', true), CMD_CONFLICT); /* nobody has said so */
    assert_int_equal(rotate(f, true), CMD_OK);
    assert_true(row(f).forced);
    assert_int_equal(step(f, CA_SIGN, 'n', false), CMD_CONFLICT);
    assert_int_equal(step(f, CA_SIGN, 'n', true), CMD_OK);
    assert_int_equal(certified(f, 1, 'n'), CMD_OK);
    assert_int_equal(certified(f, 2, 'o'), CMD_OK);
    assert_int_equal(step(f, CA_STEADY, 'n', true), CMD_OK);
    assert_false(row(f).forced);
    assert_int_equal(state_nodes_read(&f->m.kv, &t), 0);
    assert_true(node_counts(&t, node_find(&t, 1)));
    assert_false(node_counts(&t, node_find(&t, 2)));
    assert_true(node_counts(&t, node_find(&t, WORKER))); /* it has not said which one it has */
    node_table_fini(&t);
}

/* Whoever made it is gone for good, and its key with it, before any other manager had it: another one is
 * made. */
static void test_the_key_is_lost(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(rotate(f, false), CMD_OK);
    assert_int_equal(made(f, 2, 'o', 'n'), CMD_OK);
    assert_int_equal(says(f, 1, 'n', true, false), CMD_OK);
    assert_int_equal(rotate(f, false), CMD_CONFLICT);
    assert_int_equal(rm(f, 2), CMD_OK);
    assert_int_equal(rotate(f, true), CMD_OK);
    assert_int_equal(step(f, CA_SIGN, 'n', true), CMD_CONFLICT);
    assert_int_equal(rotate(f, false), CMD_OK);
    struct ca_row r = row(f);
    assert_int_equal(r.phase, CA_WANTED);
    assert_false(r.forced);
    assert_int_equal(r.next.len, 0);
    assert_int_equal(ca_signer(&r)->hash[0], 'o');
    assert_int_equal(made(f, 1, 'o', 'm'), CMD_OK);
}

/* One that joins meanwhile is waited for; what one that leaves said goes with it. */
static void test_nodes_come_and_go(void **state)
{
    struct fixture *f = *state;
    struct ca_view v;
    to_trust(f);
    assert_int_equal(says(f, 1, 'n', true, true), CMD_OK);
    assert_int_equal(says(f, 2, 'n', true, true), CMD_OK);
    assert_int_equal(add(f, 4, NODE_WORKER), CMD_OK);
    assert_int_equal(says(f, WORKER, 'n', true, false), CMD_OK);
    assert_int_equal(step(f, CA_SIGN, 'n', false), CMD_CONFLICT);
    assert_int_equal(rm(f, WORKER), CMD_OK);
    assert_int_equal(state_ca_view(&f->m.kv, &v), 0);
    assert_int_equal(v.count, 2);
    assert_null(ca_node_find(&v, WORKER));
    assert_int_equal(ca_node_find(&v, 2)->id, 2);
    ca_view_fini(&v);
    assert_int_equal(rm(f, 4), CMD_OK);
    assert_int_equal(step(f, CA_SIGN, 'n', false), CMD_OK);
}

/* A state that becomes a new cluster's has a CA of its own. */
static void test_restored(void **state)
{
    struct fixture *f = *state;
    struct ca_view v;
    to_sign(f);
    assert_int_equal(state_restore_alone(&f->m.kv, 1), 0);
    assert_int_equal(state_ca_view(&f->m.kv, &v), 0);
    assert_int_equal(v.row.phase, CA_STEADY);
    assert_int_equal(v.row.current.len + v.count, 0);
    ca_view_fini(&v);
}

static void test_bytes_that_are_none(void **state)
{
    struct fixture *f = *state;
    struct ca_step s = {.to = CA_WANTED, .next = cert('n', false)};
    char err[128];
    static char long_pem[CA_PEM_MAX + 1];
    f->cmd = node_cmd_ca_step(who, &s, &f->len);
    assert_int_equal(state_check(f->cmd, f->len, NULL, err, sizeof(err)), CMD_INVALID);
    free(f->cmd);
    s = (struct ca_step){.to = CA_TRUST, .maker = 1, .current = cert('o', true), .next = cert('n', true)};
    s.next.data = long_pem;
    s.next.len = sizeof(long_pem);
    f->cmd = node_cmd_ca_step(who, &s, &f->len);
    assert_int_equal(state_check(f->cmd, f->len, NULL, err, sizeof(err)), CMD_INVALID);
    for (size_t len = 0; len < f->len; len++)
        assert_int_not_equal(state_check(f->cmd, len, NULL, err, sizeof(err)), CMD_OK);
    free(f->cmd);
    f->cmd = NULL;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_rotation, setup, teardown),
        cmocka_unit_test_setup_teardown(test_again, setup, teardown),
        cmocka_unit_test_setup_teardown(test_forced, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_key_is_lost, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nodes_come_and_go, setup, teardown),
        cmocka_unit_test_setup_teardown(test_restored, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bytes_that_are_none, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
