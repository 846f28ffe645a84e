/* SPDX-License-Identifier: Apache-2.0 */
#include "control/nodes.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "control/events.h"
#include "control/node_commands.h"

struct nodes {
    struct nodes_config config;
    struct node_table table;
    struct node_table before; /* the last one: rows are pointed to until the next turn of the loop */
    bool stale, closing;
    bool asking; /* a command of its own is under way */
    uv_timer_t settle, keep;
};

static const struct node_asker self_asks = {"system", "node"};

void nodes_name_of_host(char out[NODE_NAME_MAX + 1])
{
    char host[256] = "";
    size_t len;
    gethostname(host, sizeof(host) - 1);
    len = strnlen(host, NODE_NAME_MAX);
    for (size_t i = 0; i < len; i++)
        out[i] = node_name_valid(&host[i], 1) || (i && strchr(".-", host[i])) ? host[i] : '_';
    out[len] = '\0';
    if (len == 0)
        memcpy(out, "node", sizeof("node"));
}

static int load(struct nodes *n)
{
    struct node_table table;
    int err = cluster_nodes(n->config.cluster, &table);
    if (err)
        return err;
    node_table_fini(&n->before);
    n->before = n->table;
    n->table = table;
    n->stale = false;
    return 0;
}

const struct node_table *nodes_table(struct nodes *n)
{
    int err = n->stale ? load(n) : 0;
    if (err)
        journal_error(n->config.journal, "nodes", "the state cannot be read: %s; what was known stays",
                      strerror(-err));
    return &n->table;
}

/* What this node has to say. */

static void on_asked(void *arg, enum cmd_status status, uint64_t index, const void *detail, size_t detail_len)
{
    struct nodes *n = arg;
    (void)index;
    n->asking = false;
    /* Without a leader it is said again in a second; anything else somebody should know. */
    if (status != CMD_OK && status != CMD_NO_LEADER && status != CMD_BUSY && status != CMD_UNKNOWN_OUTCOME)
        journal_error(n->config.journal, "nodes",
                      "the state does not take what this node says of itself: %s%s%.*s",
                      events_status_name(status), detail_len ? ": " : "", (int)detail_len,
                      detail_len ? (const char *)detail : "");
}

static void ask(struct nodes *n, void *cmd, size_t len)
{
    n->asking = true;
    cluster_propose(n->config.cluster, cmd, len, on_asked, n);
}

/* The row of a node that is a cluster of one. */
static void say_first(struct nodes *n, uint64_t id)
{
    struct node first = {.id = id,
                         .role = NODE_MANAGER,
                         .availability = NODE_ACTIVE,
                         .replica = true,
                         .mesh = n->config.self.mesh,
                         .data = n->config.self.data,
                         .version = CLUSTER_VERSION};
    struct node_cluster cluster = {.version = CLUSTER_VERSION, .name = "fairlead", .copies_min = 1};
    size_t len;
    memcpy(first.name, n->config.self.name, sizeof(first.name));
    void *cmd = node_cmd_init(self_asks, &first, &cluster, &len);
    ask(n, cmd, len);
}

/* What of this node's row is not as this node is. */
static struct node_change difference(const struct nodes *n, const struct node *row)
{
    const struct nodes_self *self = &n->config.self;
    struct node_change c = {.revision = CMD_REVISION_ANY, .node = *row};
    if (row->version != CLUSTER_VERSION)
        c.has |= NODE_HAS_VERSION;
    if (self->mesh.port && memcmp(&row->mesh, &self->mesh, sizeof(row->mesh)) != 0)
        c.has |= NODE_HAS_MESH;
    if (self->data.port && memcmp(&row->data, &self->data, sizeof(row->data)) != 0)
        c.has |= NODE_HAS_DATA;
    if (cluster_ca_shown(n->config.cluster, c.node.ca) && memcmp(row->ca, c.node.ca, sizeof(row->ca)) != 0)
        c.has |= NODE_HAS_CA;
    if (n->table.cluster.version >= CLUSTER_VERSION_STORES && self->has_store &&
        (memcmp(row->store, self->store, sizeof(row->store)) != 0 || row->shares != self->shares)) {
        c.has |= NODE_HAS_STORE;
        memcpy(c.node.store, self->store, sizeof(c.node.store));
        c.node.shares = self->shares;
    }
    /* A node that says anything of a store is bytes that older programs cannot read, whatever `has` says. */
    if (n->table.cluster.version >= CLUSTER_VERSION_STORES && row->store_state != self->store_state) {
        c.has |= NODE_HAS_STORE_STATE;
        c.node.store_state = self->store_state;
    }
    c.node.version = CLUSTER_VERSION;
    c.node.mesh = self->mesh;
    c.node.data = self->data;
    return c;
}

/* The newest version that all of them know, and this program too. */
static uint32_t version_wanted(const struct node_table *t)
{
    uint32_t common = node_version_common(t);
    return common < CLUSTER_VERSION ? common : CLUSTER_VERSION;
}

static void say_version(struct nodes *n, uint32_t version)
{
    struct node_cluster_change c = {
        .revision = CMD_REVISION_ANY, .has = NODE_CLUSTER_HAS_VERSION, .cluster = {.version = version}};
    size_t len;
    void *cmd = node_cmd_cluster_set(self_asks, &c, &len);
    journal_info(n->config.journal, "nodes", "every node knows cluster version %u: it holds from now on",
                 version);
    ask(n, cmd, len);
}

static void keep(struct nodes *n)
{
    const struct node_table *t = nodes_table(n);
    struct cluster_status status;
    size_t len;
    if (n->asking || n->closing)
        return;
    cluster_status(n->config.cluster, &status);
    if (t->cluster.created_ms == 0 && t->count == 0) {
        if (status.leads && status.writable)
            say_first(n, status.node_id);
        return;
    }
    const struct node *row = node_find(t, status.node_id);
    struct node_change c = row ? difference(n, row) : (struct node_change){.has = 0};
    if (c.has && status.writable) {
        void *cmd = node_cmd_set(self_asks, &c, &len);
        ask(n, cmd, len);
    } else if (status.leads && version_wanted(t) > t->cluster.version) {
        say_version(n, version_wanted(t));
    }
}

static void on_keep(uv_timer_t *timer)
{
    keep(timer->data);
}

static void on_settled(uv_timer_t *timer)
{
    struct nodes *n = timer->data;
    nodes_table(n);
    keep(n);
    if (n->config.changed)
        n->config.changed(n->config.arg);
}

static void changed(struct nodes *n)
{
    n->stale = true;
    if (!n->closing && !uv_is_active((uv_handle_t *)&n->settle))
        uv_timer_start(&n->settle, on_settled, NODES_SETTLE_MS, 0);
}

void nodes_event(struct nodes *n, const struct state_event *event)
{
    uint16_t type = event->cmd.head.type;
    if (event->changed && ((type >= CMD_CLUSTER_INIT && type <= CMD_CLUSTER_SET) || type == CMD_CA_STEP))
        changed(n);
}

void nodes_reload(struct nodes *n)
{
    changed(n);
}

void nodes_set_self(struct nodes *n, const struct nodes_self *self)
{
    n->config.self = *self;
    keep(n);
}

struct nodes *nodes_new(const struct nodes_config *config)
{
    struct nodes *n = calloc(1, sizeof(*n));
    CHECK(n);
    n->config = *config;
    n->stale = true;
    nodes_table(n);
    CHECK(uv_timer_init(config->loop, &n->settle) == 0 && uv_timer_init(config->loop, &n->keep) == 0);
    n->settle.data = n->keep.data = n;
    /* Before anything that the control socket could ask for. */
    uv_timer_start(&n->keep, on_keep, 0, NODES_KEEP_MS);
    return n;
}

void nodes_close(struct nodes *n)
{
    n->closing = true;
    uv_close((uv_handle_t *)&n->settle, NULL);
    uv_close((uv_handle_t *)&n->keep, NULL);
}

void nodes_free(struct nodes *n)
{
    node_table_fini(&n->table);
    node_table_fini(&n->before);
    free(n);
}
