/* SPDX-License-Identifier: Apache-2.0 */
/* What a node says of itself. The cluster is a stand-in: it has a table, and keeps what is proposed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "control/nodes.h"
#include "control/state/state.h"

static struct {
    struct node row;
    struct node_cluster cluster;
    void *cmd;
    size_t len;
    unsigned proposed;
} t;

int cluster_nodes(struct cluster *c, struct node_table *out)
{
    (void)c;
    *out = (struct node_table){.cluster = t.cluster, .node = calloc(1, sizeof(t.row)), .count = 1};
    assert_non_null(out->node);
    out->node[0] = t.row;
    return 0;
}

void cluster_status(const struct cluster *c, struct cluster_status *out)
{
    (void)c;
    *out = (struct cluster_status){.node_id = t.row.id, .writable = true};
}

bool cluster_ca_shown(const struct cluster *c, uint8_t out[NODE_HASH_BYTES])
{
    (void)c;
    (void)out;
    return false;
}

void cluster_propose(struct cluster *c, void *cmd, size_t len, cluster_done done, void *arg)
{
    (void)c;
    free(t.cmd);
    t.cmd = cmd;
    t.len = len;
    t.proposed++;
    done(arg, CMD_OK, 1, NULL, 0);
}

/* What a node with such a row says in a cluster of this version. */
static struct node_change said(uint32_t version, const struct nodes_self *self)
{
    struct state_cmd cmd;
    char err[64];
    uv_loop_t loop;
    assert_int_equal(uv_loop_init(&loop), 0);
    t.cluster = (struct node_cluster){.version = version, .created_ms = 1};
    t.proposed = 0;
    struct nodes *n = nodes_new(&(struct nodes_config){.loop = &loop, .self = *self});
    uv_run(&loop, UV_RUN_NOWAIT);
    nodes_close(n);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
    nodes_free(n);
    if (!t.proposed)
        return (struct node_change){.has = 0};
    assert_int_equal(t.proposed, 1);
    assert_int_equal(state_parse(t.cmd, t.len, &cmd, err, sizeof(err)), 0);
    assert_int_equal(cmd.head.type, CMD_NODE_SET);
    return cmd.of_node.change;
}

/* Older programs cannot read a node with a store, and nodes that read a command differently part for good. */
static void test_stores_wait_for_the_oldest(void **state)
{
    (void)state;
    struct nodes_self self = {.has_store = true, .shares = true};
    memset(self.store, 0xab, sizeof(self.store));
    for (uint8_t i = NODE_STORE_WELL; i <= NODE_STORE_FAILING; i++) {
        self.store_state = i;
        t.row = (struct node){.id = 2, .name = "b", .role = NODE_MANAGER, .version = 3};
        struct node_change c = said(3, &self);
        assert_int_equal(c.has, NODE_HAS_VERSION);
        assert_true(!node_store_said(&c.node) && c.node.store_state == NODE_STORE_WELL);
        assert_true(state_version_needed(t.cmd, t.len) <= 3);
        t.row.version = CLUSTER_VERSION;
        assert_int_equal(said(3, &self).has, 0);
        c = said(CLUSTER_VERSION_STORES, &self);
        assert_int_equal(c.has, NODE_HAS_STORE | (i == NODE_STORE_WELL ? 0 : NODE_HAS_STORE_STATE));
        assert_int_equal(c.node.store_state, i);
        assert_memory_equal(c.node.store, self.store, sizeof(self.store));
        assert_int_equal(state_version_needed(t.cmd, t.len), CLUSTER_VERSION_STORES);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_stores_wait_for_the_oldest)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    free(t.cmd);
    return failed;
}
