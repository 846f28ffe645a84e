/* SPDX-License-Identifier: Apache-2.0 */
/* Nodes, tokens and the cluster in the state machine: what is taken, and what is refused with which advice.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "control/node_commands.h"
#include "control/state/state.h"
#include "kv_memory.h"

enum { HOUR_MS = 3600000, FIRST_MS = 1000000 };

struct fixture {
    struct kv_memory m;
    struct state_event ev;
    uint64_t index, time_ms;
    struct node_table table;
    struct node_down down; /* of the next command */
    bool force;
    void *cmd;
    size_t len;
};

static const struct node_asker who = {"tester", "control-socket"};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    kv_memory_init(&f->m);
    f->time_ms = FIRST_MS;
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    node_table_fini(&f->table);
    free(f->cmd);
    kv_memory_fini(&f->m);
    free(f);
    return 0;
}

/* What the table says of itself must be so. */
static void table_check(struct fixture *f)
{
    uint32_t managers = 0, replicas = 0;
    node_table_fini(&f->table);
    assert_int_equal(state_nodes_read(&f->m.kv, &f->table), 0);
    assert_int_equal(f->table.count, f->table.cluster.nodes);
    for (size_t i = 0; i < f->table.count; i++) {
        const struct node *n = &f->table.node[i];
        managers += n->role == NODE_MANAGER;
        replicas += n->replica;
        assert_true(n->id < f->table.cluster.next_node);
        assert_ptr_equal(node_find(&f->table, n->id), n);
        assert_ptr_equal(node_find_name(&f->table, n->name), n);
    }
    assert_int_equal(managers, f->table.cluster.managers);
    assert_int_equal(replicas, f->table.cluster.replicas);
}

/* Applies f->cmd, which it frees. */
static enum cmd_status apply(struct fixture *f)
{
    struct state_tx tx = {.kv = &f->m.kv};
    uint64_t writes = f->m.writes;
    char err[256];
    struct wire_writer time = {.buf = (uint8_t *)f->cmd + CMD_TIME_OFFSET, .cap = sizeof(f->time_ms)};
    wire_put_u64(&time, f->time_ms);
    enum cmd_status checked = state_check(f->cmd, f->len, NULL, err, sizeof(err));
    assert_int_equal(state_apply(&tx, ++f->index, f->cmd, f->len, &f->ev), 0);
    if (f->ev.status != CMD_OK || !f->ev.changed)
        assert_int_equal(f->m.writes, writes);
    if (f->ev.status != CMD_OK)
        assert_true(f->ev.detail_len > 0);
    if (checked != CMD_OK)
        assert_int_equal(checked, f->ev.status);
    f->down = (struct node_down){.count = 0};
    f->force = false;
    table_check(f);
    free(f->cmd);
    f->cmd = NULL;
    return f->ev.status;
}

static bool detail_has(const struct fixture *f, const char *text)
{
    char detail[STATE_DETAIL_MAX + 1];
    memcpy(detail, f->ev.detail, f->ev.detail_len);
    detail[f->ev.detail_len] = '\0';
    return strstr(detail, text) != NULL;
}

static struct node node_make(const char *name, const char *mesh)
{
    struct node n = {.role = NODE_WORKER, .availability = NODE_ACTIVE, .version = CLUSTER_VERSION};
    snprintf(n.name, sizeof(n.name), "%s", name);
    if (mesh)
        assert_int_equal(svc_address_parse(mesh, &n.mesh), 0);
    memset(n.key, name[0] ? name[0] : 1, sizeof(n.key));
    return n;
}

static enum cmd_status init_as(struct fixture *f, uint64_t id)
{
    struct node n = node_make("one", "10.0.0.1:5090");
    struct node_cluster c = {.version = CLUSTER_VERSION, .name = "c", .copies_min = 1};
    n.id = id;
    n.role = NODE_MANAGER;
    n.replica = true;
    f->cmd = node_cmd_init(who, &n, &c, &f->len);
    return apply(f);
}

static void hash_of(uint8_t seed, uint8_t hash[NODE_HASH_BYTES])
{
    memset(hash, seed, NODE_HASH_BYTES);
}

static enum cmd_status token(struct fixture *f, uint8_t seed, uint8_t role, bool replica, bool rotate)
{
    struct node_token t = {.role = role, .replica = replica, .expires_ms = f->time_ms + HOUR_MS};
    hash_of(seed, t.hash);
    f->cmd = node_cmd_token_set(who, &t, rotate, &f->len);
    return apply(f);
}

static enum cmd_status add_node(struct fixture *f, uint8_t seed, const struct node *n)
{
    struct node_join j = {.node = *n, .force = f->force, .down = f->down};
    hash_of(seed, j.token);
    f->cmd = node_cmd_add(who, &j, &f->len);
    return apply(f);
}

static enum cmd_status add(struct fixture *f, uint8_t seed, const char *name, const char *mesh)
{
    struct node n = node_make(name, mesh);
    return add_node(f, seed, &n);
}

static uint32_t needed(const struct node_change *c)
{
    size_t len;
    void *cmd = node_cmd_set(who, c, &len);
    uint32_t version = state_version_needed(cmd, len);
    free(cmd);
    return version;
}

static enum cmd_status change(struct fixture *f, struct node_change *c)
{
    c->force = f->force;
    c->down = f->down;
    f->cmd = node_cmd_set(who, c, &f->len);
    return apply(f);
}

static enum cmd_status set_role(struct fixture *f, uint64_t id, uint8_t role)
{
    struct node_change c = {.revision = CMD_REVISION_ANY, .has = NODE_HAS_ROLE};
    c.node.id = id;
    c.node.role = role;
    return change(f, &c);
}

static enum cmd_status set_replica(struct fixture *f, uint64_t id, bool replica)
{
    struct node_change c = {.revision = CMD_REVISION_ANY, .has = NODE_HAS_REPLICA};
    c.node.id = id;
    c.node.replica = replica;
    return change(f, &c);
}

static enum cmd_status rm(struct fixture *f, uint64_t id)
{
    struct node_removal r = {.id = id, .force = f->force, .down = f->down};
    f->cmd = node_cmd_rm(who, &r, &f->len);
    return apply(f);
}

static void down(struct fixture *f, uint64_t id)
{
    f->down.id[f->down.count++] = id;
}

enum { MANAGER_TOKEN = 1, WORKER_TOKEN = 2 };

/* A cluster with that many managers, 1 to n. */
static void managers(struct fixture *f, unsigned count)
{
    char name[8], mesh[32];
    assert_int_equal(init_as(f, 1), CMD_OK);
    assert_int_equal(token(f, MANAGER_TOKEN, NODE_MANAGER, true, false), CMD_OK);
    assert_int_equal(token(f, WORKER_TOKEN, NODE_WORKER, false, false), CMD_OK);
    for (unsigned i = 2; i <= count; i++) {
        snprintf(name, sizeof(name), "m%u", i);
        snprintf(mesh, sizeof(mesh), "10.0.0.%u:5090", i);
        assert_int_equal(add(f, MANAGER_TOKEN, name, mesh), CMD_OK);
        assert_int_equal(node_cmd_added_id(f->ev.detail, f->ev.detail_len), i);
    }
}

static void test_cluster_is_made_once(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(state_nodes_read(&f->m.kv, &f->table), 0);
    assert_int_equal(f->table.count, 0);
    assert_int_equal(f->table.cluster.version, CLUSTER_VERSION_FIRST);
    assert_int_equal(init_as(f, 1), CMD_OK);
    assert_true(f->ev.changed);
    assert_int_equal(f->table.count, 1);
    assert_string_equal(f->table.node[0].name, "one");
    assert_int_equal(f->table.node[0].joined_ms, FIRST_MS);
    assert_int_equal(f->table.node[0].revision, 1);
    assert_int_equal(f->table.cluster.next_node, 2);
    assert_int_equal(f->table.cluster.version, CLUSTER_VERSION);
    assert_int_equal(init_as(f, 1), CMD_OK);
    assert_false(f->ev.changed);
    assert_int_equal(init_as(f, 2), CMD_CONFLICT);
}

static void test_nothing_without_a_cluster(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(token(f, 1, NODE_WORKER, false, false), CMD_NODE_UNKNOWN);
    assert_true(detail_has(f, "fairlead cluster init"));
    assert_int_equal(rm(f, 1), CMD_NODE_UNKNOWN);
    assert_int_equal(set_role(f, 1, NODE_WORKER), CMD_NODE_UNKNOWN);
    assert_int_equal(add(f, 1, "a", NULL), CMD_TOKEN_UNKNOWN);
}

static void test_a_node_joins_with_what_its_token_says(void **state)
{
    struct fixture *f = *state;
    managers(f, 1);
    assert_int_equal(add(f, MANAGER_TOKEN, "m", "10.0.0.2:5090"), CMD_OK);
    assert_int_equal(node_cmd_added_id(f->ev.detail, f->ev.detail_len), 2);
    const struct node *n = node_find_name(&f->table, "m");
    assert_int_equal(n->role, NODE_MANAGER);
    assert_true(n->replica);
    assert_int_equal(add(f, WORKER_TOKEN, "w", NULL), CMD_OK);
    n = node_find_name(&f->table, "w");
    assert_int_equal(n->role, NODE_WORKER);
    assert_false(n->replica);
    assert_int_equal(n->availability, NODE_ACTIVE);
    assert_int_equal(f->table.cluster.managers, 2);
    /* Any number of nodes with one token, also without an address in the mesh. */
    assert_int_equal(add(f, WORKER_TOKEN, "x", NULL), CMD_OK);
    assert_int_equal(f->table.count, 4);
}

static void test_ids_are_never_given_again(void **state)
{
    struct fixture *f = *state;
    managers(f, 1);
    assert_int_equal(add(f, WORKER_TOKEN, "w", NULL), CMD_OK);
    assert_int_equal(rm(f, 2), CMD_OK);
    assert_int_equal(add(f, WORKER_TOKEN, "w", NULL), CMD_OK);
    assert_int_equal(node_find_name(&f->table, "w")->id, 3);
}

static void test_a_token_that_does_not_count(void **state)
{
    struct fixture *f = *state;
    uint8_t hash[NODE_HASH_BYTES];
    managers(f, 1);
    assert_int_equal(add(f, 9, "w", NULL), CMD_TOKEN_UNKNOWN);
    assert_true(detail_has(f, "join-token"));
    f->time_ms += HOUR_MS - 1;
    assert_int_equal(add(f, WORKER_TOKEN, "w", NULL), CMD_OK);
    f->time_ms++;
    assert_int_equal(add(f, WORKER_TOKEN, "x", NULL), CMD_TOKEN_UNKNOWN);
    assert_int_equal(token(f, 3, NODE_WORKER, false, false), CMD_OK);
    hash_of(3, hash);
    f->cmd = node_cmd_token_rm(who, hash, &f->len);
    assert_int_equal(apply(f), CMD_OK);
    assert_int_equal(add(f, 3, "x", NULL), CMD_TOKEN_UNKNOWN);
    f->cmd = node_cmd_token_rm(who, hash, &f->len);
    assert_int_equal(apply(f), CMD_TOKEN_UNKNOWN);
}

static void test_tokens_are_rotated_and_swept(void **state)
{
    struct fixture *f = *state;
    struct node_tokens tokens;
    struct node_token late = {.role = NODE_WORKER, .expires_ms = FIRST_MS};
    managers(f, 1);
    assert_int_equal(token(f, 3, NODE_WORKER, true, true), CMD_OK);
    assert_int_equal(add(f, WORKER_TOKEN, "w", NULL), CMD_TOKEN_UNKNOWN);
    assert_int_equal(add(f, MANAGER_TOKEN, "m", NULL), CMD_OK);
    assert_int_equal(add(f, 3, "w", NULL), CMD_OK);
    f->cmd = node_cmd_token_set(who, &late, false, &f->len);
    assert_int_equal(apply(f), CMD_INVALID);
    /* What has expired goes when another one is made. */
    f->time_ms += HOUR_MS;
    assert_int_equal(token(f, 4, NODE_MANAGER, true, false), CMD_OK);
    assert_int_equal(state_tokens_read(&f->m.kv, &tokens), 0);
    assert_int_equal(tokens.count, 1);
    assert_int_equal(tokens.token[0].hash[0], 4);
    assert_int_equal(tokens.token[0].created_ms, f->time_ms);
    node_tokens_fini(&tokens);
}

static void test_tokens_are_bounded(void **state)
{
    struct fixture *f = *state;
    managers(f, 1);
    for (unsigned i = 0; i < NODE_TOKENS_MAX - 2; i++) {
        struct node_token t = {.role = NODE_WORKER, .expires_ms = f->time_ms + 1};
        memcpy(t.hash, &i, sizeof(i));
        f->cmd = node_cmd_token_set(who, &t, false, &f->len);
        assert_int_equal(apply(f), CMD_OK);
    }
    assert_int_equal(token(f, 77, NODE_MANAGER, true, false), CMD_LIMIT);
    assert_true(detail_has(f, "--rotate"));
    assert_int_equal(token(f, 77, NODE_MANAGER, true, true), CMD_OK);
    f->time_ms++;
    assert_int_equal(token(f, 78, NODE_MANAGER, true, false), CMD_OK);
}

static void test_a_node_that_asks_again_is_the_same_one(void **state)
{
    struct fixture *f = *state;
    struct node n = node_make("w", "10.0.0.9:5090"), other = node_make("w", "10.0.0.8:5090");
    managers(f, 1);
    assert_int_equal(add_node(f, WORKER_TOKEN, &n), CMD_OK);
    assert_int_equal(add_node(f, WORKER_TOKEN, &n), CMD_OK);
    assert_false(f->ev.changed);
    assert_int_equal(node_cmd_added_id(f->ev.detail, f->ev.detail_len), 2);
    assert_int_equal(svc_address_parse("10.0.0.7:5090", &n.mesh), 0);
    assert_int_equal(add_node(f, WORKER_TOKEN, &n), CMD_OK);
    assert_true(f->ev.changed);
    assert_int_equal(f->table.count, 2);
    /* Another key: another machine that happens to have the name. */
    memset(other.key, 7, sizeof(other.key));
    assert_int_equal(add_node(f, WORKER_TOKEN, &other), CMD_CONFLICT);
    assert_true(detail_has(f, "fairlead node rm w"));
    memset(other.key, 0, sizeof(other.key));
    assert_int_equal(add_node(f, WORKER_TOKEN, &other), CMD_CONFLICT);
}

static void test_names_and_addresses_belong_to_one(void **state)
{
    struct fixture *f = *state;
    struct node_change c = {.revision = CMD_REVISION_ANY, .has = NODE_HAS_NAME};
    managers(f, 2);
    assert_int_equal(add(f, WORKER_TOKEN, "w", "10.0.0.1:5090"), CMD_CONFLICT);
    assert_true(detail_has(f, "'one'"));
    assert_int_equal(add(f, WORKER_TOKEN, "w", "10.0.0.1:5091"), CMD_OK);
    c.node.id = 2;
    snprintf(c.node.name, sizeof(c.node.name), "one");
    assert_int_equal(change(f, &c), CMD_CONFLICT);
    snprintf(c.node.name, sizeof(c.node.name), "two");
    assert_int_equal(change(f, &c), CMD_OK);
    assert_null(node_find_name(&f->table, "m2"));
    /* What a node had is free when it has another one. */
    snprintf(c.node.name, sizeof(c.node.name), "m2");
    c.node.id = 1;
    assert_int_equal(change(f, &c), CMD_OK);
    c.has = NODE_HAS_MESH;
    assert_int_equal(svc_address_parse("10.0.0.2:5090", &c.node.mesh), 0);
    assert_int_equal(change(f, &c), CMD_CONFLICT);
    assert_int_equal(svc_address_parse("10.0.0.3:5090", &c.node.mesh), 0);
    assert_int_equal(change(f, &c), CMD_OK);
    assert_int_equal(add(f, WORKER_TOKEN, "x", "10.0.0.1:5090"), CMD_OK);
    snprintf(c.node.name, sizeof(c.node.name), "-x");
    c.has = NODE_HAS_NAME;
    assert_int_equal(change(f, &c), CMD_INVALID);
}

static void test_revisions(void **state)
{
    struct fixture *f = *state;
    struct node_change c = {.has = NODE_HAS_AVAILABILITY};
    managers(f, 2);
    c.node.id = 2;
    c.node.availability = NODE_DRAIN;
    c.revision = node_find(&f->table, 2)->revision;
    assert_int_equal(change(f, &c), CMD_OK);
    assert_int_equal(node_find(&f->table, 2)->availability, NODE_DRAIN);
    c.node.availability = NODE_ACTIVE;
    assert_int_equal(change(f, &c), CMD_CONFLICT);
    c.revision = node_find(&f->table, 2)->revision;
    assert_int_equal(change(f, &c), CMD_OK);
    c.revision = CMD_REVISION_ANY;
    c.node.id = 99;
    assert_int_equal(change(f, &c), CMD_NODE_UNKNOWN);
}

static void test_the_last_manager_stays(void **state)
{
    struct fixture *f = *state;
    managers(f, 1);
    assert_int_equal(add(f, WORKER_TOKEN, "w", NULL), CMD_OK);
    f->force = true;
    assert_int_equal(set_role(f, 1, NODE_WORKER), CMD_MANAGERS);
    assert_true(detail_has(f, "last manager"));
    f->force = true;
    down(f, 1);
    assert_int_equal(rm(f, 1), CMD_MANAGERS);
    assert_true(detail_has(f, "promote"));
    assert_int_equal(set_role(f, 2, NODE_MANAGER), CMD_OK);
    assert_int_equal(set_role(f, 1, NODE_WORKER), CMD_OK);
    assert_int_equal(f->table.cluster.managers, 1);
}

static void test_a_manager_is_demoted_before_it_is_removed(void **state)
{
    struct fixture *f = *state;
    managers(f, 3);
    assert_int_equal(rm(f, 3), CMD_MANAGERS);
    assert_true(detail_has(f, "fairlead node demote m3"));
    /* Force is for the dead. */
    f->force = true;
    assert_int_equal(rm(f, 3), CMD_MANAGERS);
    assert_true(detail_has(f, "answers"));
    assert_int_equal(set_role(f, 3, NODE_WORKER), CMD_OK);
    assert_int_equal(rm(f, 3), CMD_OK);
    down(f, 2);
    assert_int_equal(rm(f, 2), CMD_MANAGERS);
    f->force = true;
    down(f, 2);
    assert_int_equal(rm(f, 2), CMD_OK);
    assert_int_equal(f->table.count, 1);
}

static void test_the_dead_one_goes_before_its_replacement_comes(void **state)
{
    struct fixture *f = *state;
    managers(f, 3);
    down(f, 3);
    assert_int_equal(add(f, MANAGER_TOKEN, "m4", NULL), CMD_MANAGERS);
    assert_true(detail_has(f, "fairlead node rm --force m3"));
    down(f, 3);
    assert_int_equal(add(f, WORKER_TOKEN, "w", NULL), CMD_OK);
    down(f, 3);
    assert_int_equal(set_role(f, 4, NODE_MANAGER), CMD_MANAGERS);
    f->force = true;
    down(f, 3);
    assert_int_equal(rm(f, 3), CMD_OK);
    /* It is no manager any more: whoever still thinks it is down is not refused for it. */
    down(f, 3);
    assert_int_equal(add(f, MANAGER_TOKEN, "m4", NULL), CMD_OK);
    down(f, 2);
    f->force = true;
    assert_int_equal(set_role(f, 4, NODE_MANAGER), CMD_OK);
}

static void test_a_majority_of_those_who_answer_stays(void **state)
{
    struct fixture *f = *state;
    managers(f, 3);
    down(f, 3);
    down(f, 3);
    assert_int_equal(set_role(f, 2, NODE_WORKER), CMD_MANAGERS);
    assert_true(detail_has(f, "only 1 answer"));
    assert_true(detail_has(f, "'m3'"));
    /* To demote the dead one itself leaves two of two. */
    down(f, 3);
    assert_int_equal(set_role(f, 3, NODE_WORKER), CMD_OK);
    down(f, 3);
    assert_int_equal(set_role(f, 2, NODE_WORKER), CMD_OK);
}

static void test_there_are_at_most_seven_managers(void **state)
{
    struct fixture *f = *state;
    managers(f, NODE_MANAGERS_MAX);
    f->force = true;
    assert_int_equal(add(f, MANAGER_TOKEN, "m8", NULL), CMD_MANAGERS);
    assert_int_equal(add(f, WORKER_TOKEN, "w", NULL), CMD_OK);
    assert_int_equal(set_role(f, 8, NODE_MANAGER), CMD_MANAGERS);
}

static void test_the_last_replica_stays(void **state)
{
    struct fixture *f = *state;
    managers(f, 1);
    assert_int_equal(add(f, WORKER_TOKEN, "w", NULL), CMD_OK);
    assert_int_equal(set_replica(f, 1, false), CMD_CONFLICT);
    assert_true(detail_has(f, "--force"));
    assert_int_equal(set_replica(f, 2, true), CMD_OK);
    assert_int_equal(set_replica(f, 1, false), CMD_OK);
    assert_int_equal(rm(f, 2), CMD_CONFLICT);
    f->force = true;
    assert_int_equal(rm(f, 2), CMD_OK);
    assert_int_equal(f->table.cluster.replicas, 0);
}

static enum cmd_status cluster_set(struct fixture *f, uint32_t has, uint32_t version, uint8_t copies,
                                   uint8_t copies_min)
{
    struct node_cluster_change c = {.revision = CMD_REVISION_ANY, .has = has};
    c.cluster.version = version;
    c.cluster.copies = copies;
    c.cluster.copies_min = copies_min;
    f->cmd = node_cmd_cluster_set(who, &c, &f->len);
    return apply(f);
}

static enum cmd_status set_version(struct fixture *f, uint64_t id, uint32_t version)
{
    struct node_change c = {.revision = CMD_REVISION_ANY, .has = NODE_HAS_VERSION};
    c.node.id = id;
    c.node.version = version;
    return change(f, &c);
}

static void test_the_cluster_version_waits_for_the_oldest(void **state)
{
    struct fixture *f = *state;
    struct node old = node_make("old", NULL);
    const uint32_t next = CLUSTER_VERSION + 1;
    managers(f, 2);
    assert_int_equal(set_version(f, 1, next), CMD_OK);
    assert_int_equal(node_version_common(&f->table), CLUSTER_VERSION);
    assert_int_equal(cluster_set(f, NODE_CLUSTER_HAS_VERSION, next, 0, 0), CMD_TOO_NEW);
    assert_true(detail_has(f, "'m2'"));
    assert_int_equal(set_version(f, 2, next), CMD_OK);
    assert_int_equal(cluster_set(f, NODE_CLUSTER_HAS_VERSION, next, 0, 0), CMD_OK);
    assert_int_equal(f->table.cluster.version, next);
    assert_int_equal(cluster_set(f, NODE_CLUSTER_HAS_VERSION, CLUSTER_VERSION, 0, 0), CMD_INVALID);
    /* Nobody who is too old comes in, or goes back. */
    assert_int_equal(add_node(f, WORKER_TOKEN, &old), CMD_TOO_NEW);
    assert_int_equal(set_version(f, 2, CLUSTER_VERSION), CMD_TOO_NEW);
}

/* A row without a store has the bytes that it always had; one with a store comes back as it was. */
static void test_stores_are_said(void **state)
{
    struct fixture *f = *state;
    struct node_change c = {.revision = CMD_REVISION_ANY, .has = NODE_HAS_STORE};
    uint8_t bytes[NODE_ROW_BYTES_MAX];
    struct wire_writer without = {.buf = bytes, .cap = sizeof(bytes)};
    managers(f, 2);
    node_put(&without, &f->table.node[1]);
    assert_int_equal(bytes[0], 1);
    c.node.id = 2;
    memset(c.node.store, 0xab, sizeof(c.node.store));
    c.node.shares = true;
    assert_int_equal(change(f, &c), CMD_OK);
    assert_true(f->ev.changed);
    assert_int_equal(needed(&c), CLUSTER_VERSION_STORES);
    assert_memory_equal(f->table.node[1].store, c.node.store, sizeof(c.node.store));
    assert_true(f->table.node[1].shares);
    assert_false(node_store_said(&f->table.node[0]));
    assert_int_equal(change(f, &c), CMD_OK);
    assert_false(f->ev.changed);
    struct wire_writer with = {.buf = bytes, .cap = sizeof(bytes)};
    node_put(&with, &f->table.node[1]);
    assert_int_equal(bytes[0], 2);
    assert_int_equal(with.len, without.len + NODE_STORE_BYTES + 2);
    memset(bytes + without.len, 0, NODE_STORE_BYTES); /* said, and nothing */
    struct wire_reader r = {.buf = bytes, .len = with.len};
    struct node n;
    node_get(&r, &n);
    assert_true(r.failed);
    bytes[with.len - 1] = NODE_STORE_FAILING + 1;
    r = (struct wire_reader){.buf = bytes, .len = with.len};
    node_get(&r, &n);
    assert_true(r.failed);
}

/* How it is, also of one whose id was never said. */
static void test_states_of_stores_are_said(void **state)
{
    struct fixture *f = *state;
    struct node_change c = {.revision = CMD_REVISION_ANY, .has = NODE_HAS_STORE_STATE};
    managers(f, 2);
    c.node.id = 2;
    assert_int_equal(needed(&c), CLUSTER_VERSION_STORES);
    c.has = NODE_HAS_VERSION;
    assert_int_equal(needed(&c), 2);
    c.node.store_state = NODE_STORE_LOST; /* it is in the bytes, said or not */
    assert_int_equal(needed(&c), CLUSTER_VERSION_STORES);
    c.has = NODE_HAS_STORE_STATE;
    memset(c.node.store, 0xab, sizeof(c.node.store)); /* not said by this change */
    for (unsigned i = NODE_STORE_FAILING + 1; i-- > NODE_STORE_WELL;) {
        c.node.store_state = (uint8_t)i;
        assert_int_equal(change(f, &c), CMD_OK);
        assert_true(f->ev.changed);
        assert_int_equal(f->table.node[1].store_state, i);
        assert_int_equal(f->table.node[0].store_state, NODE_STORE_WELL);
        assert_false(node_store_said(&f->table.node[1]));
        assert_int_equal(change(f, &c), CMD_OK);
        assert_false(f->ev.changed);
        assert_true(*node_store_state_name(i));
    }
}

static void test_copies(void **state)
{
    struct fixture *f = *state;
    const uint32_t both = NODE_CLUSTER_HAS_COPIES | NODE_CLUSTER_HAS_COPIES_MIN;
    managers(f, 1);
    assert_int_equal(cluster_set(f, both, 0, 3, 2), CMD_OK);
    assert_int_equal(f->table.cluster.copies, 3);
    assert_int_equal(cluster_set(f, NODE_CLUSTER_HAS_COPIES, 0, 1, 0), CMD_INVALID);
    assert_int_equal(cluster_set(f, NODE_CLUSTER_HAS_COPIES_MIN, 0, 0, 0), CMD_INVALID);
    assert_int_equal(cluster_set(f, NODE_CLUSTER_HAS_COPIES, 0, 0, 0), CMD_OK);
    assert_int_equal(cluster_set(f, NODE_CLUSTER_HAS_COPIES, 0, 0, 0), CMD_OK);
    assert_false(f->ev.changed);
}

/* Every prefix of every command is refused, and so is one byte more. */
static void test_commands_that_are_cut_short(void **state)
{
    struct fixture *f = *state;
    struct state_tx tx = {.kv = &f->m.kv};
    struct node n = node_make("w", "10.0.0.9:5090");
    struct node_join j = {.node = n, .down = {.id = {1, 2}, .count = 2}};
    struct node_change c = {.node = n, .has = NODE_HAS_ALL};
    struct node_removal r = {.id = 1, .down = {.id = {1}, .count = 1}};
    struct node_token t = {.role = NODE_WORKER, .expires_ms = 1ull << 50};
    struct node_cluster cluster = {.version = 1, .name = "c", .copies_min = 1};
    struct node_cluster_change cc = {.cluster = cluster, .has = NODE_CLUSTER_HAS_ALL};
    size_t len[7];
    n.id = 1;
    n.role = NODE_MANAGER;
    uint8_t *cmd[7] = {node_cmd_init(who, &n, &cluster, &len[0]),
                       node_cmd_add(who, &j, &len[1]),
                       node_cmd_set(who, &c, &len[2]),
                       node_cmd_rm(who, &r, &len[3]),
                       node_cmd_token_set(who, &t, 0, &len[4]),
                       node_cmd_token_rm(who, t.hash, &len[5]),
                       node_cmd_cluster_set(who, &cc, &len[6])};
    for (size_t i = 0; i < 7; i++) {
        for (size_t cut = 8; cut < len[i]; cut++) {
            assert_int_equal(state_apply(&tx, 1, cmd[i], cut, &f->ev), 0);
            assert_int_equal(f->ev.status, CMD_INVALID);
        }
        uint8_t *longer = realloc(cmd[i], len[i] + 1);
        assert_non_null(longer);
        longer[len[i]] = 0;
        assert_int_equal(state_apply(&tx, 1, longer, len[i] + 1, &f->ev), 0);
        assert_int_equal(f->ev.status, CMD_INVALID);
        free(longer);
    }
    assert_int_equal(f->m.writes, 0);
}

/* --- the model: plain arrays, every rule derived anew --- */

enum { MODEL_NODES = 10, MODEL_STEPS = 4000 };

struct model {
    bool there[MODEL_NODES], manager[MODEL_NODES], replica[MODEL_NODES];
    uint64_t id[MODEL_NODES], next;
};

static unsigned pick(uint64_t *random, unsigned n)
{
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    return (unsigned)(*random >> 33) % n;
}

static unsigned model_managers(const struct model *m)
{
    unsigned count = 0;
    for (unsigned i = 0; i < MODEL_NODES; i++)
        count += m->there[i] && m->manager[i];
    return count;
}

/* Without `but`. */
static unsigned model_dead(const struct model *m, const bool *dead, unsigned but)
{
    unsigned count = 0;
    for (unsigned i = 0; i < MODEL_NODES; i++)
        count += i != but && m->there[i] && m->manager[i] && dead[i];
    return count;
}

static unsigned model_replicas(const struct model *m)
{
    unsigned count = 0;
    for (unsigned i = 0; i < MODEL_NODES; i++)
        count += m->there[i] && m->replica[i];
    return count;
}

static enum cmd_status model_more(const struct model *m, const bool *dead, bool force)
{
    if (model_managers(m) == NODE_MANAGERS_MAX)
        return CMD_MANAGERS;
    return model_dead(m, dead, MODEL_NODES) && !force ? CMD_MANAGERS : CMD_OK;
}

static enum cmd_status model_less(const struct model *m, const bool *dead, bool force, unsigned i)
{
    unsigned after = model_managers(m) - 1;
    if (after == 0)
        return CMD_MANAGERS;
    return 2 * (after - model_dead(m, dead, i)) <= after && !force ? CMD_MANAGERS : CMD_OK;
}

static enum cmd_status model_add(struct model *m, const bool *dead, bool force, unsigned i, bool manager)
{
    if (m->there[i])
        return CMD_OK;
    if (manager && model_more(m, dead, force))
        return CMD_MANAGERS;
    m->there[i] = true;
    m->manager[i] = m->replica[i] = manager;
    m->id[i] = m->next++;
    return CMD_OK;
}

static enum cmd_status model_role(struct model *m, const bool *dead, bool force, unsigned i, bool manager)
{
    enum cmd_status status = CMD_OK;
    if (!m->there[i])
        return CMD_NODE_UNKNOWN;
    if (m->manager[i] != manager)
        status = manager ? model_more(m, dead, force) : model_less(m, dead, force, i);
    if (status == CMD_OK)
        m->manager[i] = manager;
    return status;
}

static enum cmd_status model_rm(struct model *m, const bool *dead, bool force, unsigned i)
{
    enum cmd_status status = CMD_OK;
    if (!m->there[i])
        return CMD_NODE_UNKNOWN;
    if (m->manager[i])
        status = model_less(m, dead, force, i);
    if (status == CMD_OK && m->manager[i] && !(force && dead[i]))
        status = CMD_MANAGERS;
    if (status == CMD_OK && m->replica[i] && model_replicas(m) == 1 && !force)
        status = CMD_CONFLICT;
    if (status == CMD_OK)
        m->there[i] = false;
    return status;
}

static enum cmd_status model_replica(struct model *m, bool force, unsigned i, bool replica)
{
    if (!m->there[i])
        return CMD_NODE_UNKNOWN;
    if (m->replica[i] && !replica && model_replicas(m) == 1 && !force)
        return CMD_CONFLICT;
    m->replica[i] = replica;
    return CMD_OK;
}

static void model_compare(const struct fixture *f, const struct model *m)
{
    size_t count = 0;
    for (unsigned i = 0; i < MODEL_NODES; i++) {
        if (!m->there[i])
            continue;
        const struct node *n = node_find(&f->table, m->id[i]);
        assert_non_null(n);
        assert_int_equal(n->role == NODE_MANAGER, m->manager[i]);
        assert_int_equal(n->replica, m->replica[i]);
        count++;
    }
    assert_int_equal(f->table.count, count);
    assert_int_equal(f->table.cluster.next_node, m->next);
}

static void model_step(struct fixture *f, struct model *m, uint64_t *random)
{
    bool dead[MODEL_NODES] = {false}, flag = pick(random, 2);
    unsigned i = pick(random, MODEL_NODES);
    uint64_t id = m->there[i] ? m->id[i] : 1000;
    enum cmd_status wanted, got;
    char name[8];
    f->force = pick(random, 3) == 0;
    for (unsigned k = 0; k < MODEL_NODES && f->down.count < NODE_MANAGERS_MAX; k++) {
        dead[k] = pick(random, 8) == 0;
        if (dead[k])
            down(f, m->there[k] ? m->id[k] : 2000 + k);
    }
    snprintf(name, sizeof(name), i ? "n%u" : "one", i);
    switch (pick(random, 4)) {
    case 0: {
        struct node n = node_make(name, NULL);
        if (i == 0)
            n.mesh = m->there[0] ? node_find(&f->table, m->id[0])->mesh : n.mesh;
        wanted = model_add(m, dead, f->force, i, flag);
        got = add_node(f, flag ? MANAGER_TOKEN : WORKER_TOKEN, &n);
        break;
    }
    case 1:
        wanted = model_role(m, dead, f->force, i, flag);
        got = set_role(f, id, flag ? NODE_MANAGER : NODE_WORKER);
        break;
    case 2:
        wanted = model_rm(m, dead, f->force, i);
        got = rm(f, id);
        break;
    default:
        wanted = model_replica(m, f->force, i, flag);
        got = set_replica(f, id, flag);
        break;
    }
    assert_int_equal(got, wanted);
    model_compare(f, m);
}

static void test_model(void **state)
{
    struct fixture *f = *state;
    struct model m = {.there = {true}, .manager = {true}, .replica = {true}, .id = {1}, .next = 2};
    const char *seed = getenv("FL_SEED");
    uint64_t random = seed ? strtoull(seed, NULL, 10) : 7;
    managers(f, 1);
    for (unsigned i = 0; i < MODEL_STEPS; i++)
        model_step(f, &m, &random);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_cluster_is_made_once, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nothing_without_a_cluster, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_node_joins_with_what_its_token_says, setup, teardown),
        cmocka_unit_test_setup_teardown(test_ids_are_never_given_again, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_token_that_does_not_count, setup, teardown),
        cmocka_unit_test_setup_teardown(test_tokens_are_rotated_and_swept, setup, teardown),
        cmocka_unit_test_setup_teardown(test_tokens_are_bounded, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_node_that_asks_again_is_the_same_one, setup, teardown),
        cmocka_unit_test_setup_teardown(test_names_and_addresses_belong_to_one, setup, teardown),
        cmocka_unit_test_setup_teardown(test_revisions, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_last_manager_stays, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_manager_is_demoted_before_it_is_removed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_dead_one_goes_before_its_replacement_comes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_majority_of_those_who_answer_stays, setup, teardown),
        cmocka_unit_test_setup_teardown(test_there_are_at_most_seven_managers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_last_replica_stays, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_cluster_version_waits_for_the_oldest, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stores_are_said, setup, teardown),
        cmocka_unit_test_setup_teardown(test_states_of_stores_are_said, setup, teardown),
        cmocka_unit_test_setup_teardown(test_copies, setup, teardown),
        cmocka_unit_test_setup_teardown(test_commands_that_are_cut_short, setup, teardown),
        cmocka_unit_test_setup_teardown(test_model, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
