/* SPDX-License-Identifier: Apache-2.0 */
/* The cluster's side of the mesh: this node's certificates, who is to be connected, and which frame goes
 * where. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "control/cluster_internal.h"
#include "control/journal.h"
#include "control/mesh/frame.h"
#include "control/mesh/peers.h"

enum { UPKEEP_FIRST_MS = 100, UPKEEP_MS = 2000 };

bool net_is_manager(const struct cluster *c, uint64_t node)
{
    for (size_t i = 0; i < c->known_count; i++)
        if (c->known[i].id == node)
            return c->known[i].manager;
    return false;
}

uint64_t net_some_manager(const struct cluster *c)
{
    size_t begin = c->known_count ? (size_t)(uv_hrtime() / 1000000) % c->known_count : 0;
    for (size_t i = 0; i < c->known_count; i++) {
        const struct known_node *k = &c->known[(begin + i) % c->known_count];
        if (k->manager && mesh_is_up(c->mesh, k->id))
            return k->id;
    }
    return 0;
}

/* ------------------------------------------------------------------ frames */

int net_send(void *arg, uint64_t node, uint16_t type, const void *body, size_t len)
{
    struct cluster *c = arg;
    return c->mesh ? mesh_send(c->mesh, node, type, 0, body, len) : -ENOTCONN;
}

/* Who takes part in Raft does so until its configuration says otherwise: the state is ahead of it. */
static bool in_raft(const struct cluster *c, uint64_t node)
{
    struct consensus_server server[CONSENSUS_MEMBERS_MAX];
    size_t count = consensus_servers(c->consensus, server, CONSENSUS_MEMBERS_MAX);
    for (size_t i = 0; i < count && i < CONSENSUS_MEMBERS_MAX; i++)
        if (server[i].id == node)
            return true;
    return false;
}

static void on_frame(void *arg, uint64_t from, uint16_t type, uint64_t id, const void *body, size_t len)
{
    struct cluster *c = arg;
    int rc = 0;
    if (type < MESH_TYPES_RAFT)
        admit_frame(c, from, type, id, body, len);
    else if (type == CLUSTER_FRAME_CA_KEY || type == CLUSTER_FRAME_CA_KEY_REPLY)
        ca_frame(c, from, type, body, len);
    else if (type == CLUSTER_FRAME_FOLLOWERS)
        rc = followers_frame(c, from, body, len);
    else if (type == CLUSTER_FRAME_ABSENT)
        rc = absent_frame(c, from, body, len);
    else if (type == CLUSTER_FRAME_VERDICTS)
        rc = verdicts_frame(c, from, body, len);
    else if (type >= MESH_TYPES_CLUSTER)
        forward_frame(c, from, type, id, body, len);
    else if (type >= MESH_TYPES_FOLLOW || net_is_manager(c, from) || in_raft(c, from))
        rc = consensus_frame(c->consensus, from, type, body, len);
    if (rc == -EPROTO)
        mesh_drop(c->mesh, from, MESH_FRAME);
}

static void on_upkeep(uv_timer_t *timer)
{
    ca_upkeep(timer->data);
    admit_upkeep(timer->data);
    followers_tell(timer->data);
    absent_tell(timer->data);
}

void net_upkeep_within(struct cluster *c, uint64_t ms)
{
    if (!uv_is_active((uv_handle_t *)&c->upkeep) || uv_timer_get_due_in(&c->upkeep) > ms)
        uv_timer_start(&c->upkeep, on_upkeep, ms, UPKEEP_MS);
}

static void on_up(void *arg, uint64_t node)
{
    struct cluster *c = arg;
    (void)node;
    forward_wake(c);
    uv_timer_start(&c->upkeep, on_upkeep, 0, UPKEEP_MS);
}

static void on_down(void *arg, uint64_t node, enum mesh_reason why)
{
    struct cluster *c = arg;
    forward_down(c, node);
    verdicts_down(c, node);
    consensus_down(c->consensus, node, why == MESH_BROKEN || why == MESH_CLOSED);
}

/* ------------------------------------------------------------------ nodes */

static bool mesh_address_of(const struct node *n, struct config_address *out)
{
    char text[ADDRESS_TEXT_MAX];
    const char *hint;
    return n->mesh.port && config_address_parse(svc_address_text(&n->mesh, text), out, &hint) == 0;
}

/*
 * Managers are all connected with each other, the younger one dials the older; a worker dials the manager
 * that it follows, so that thousands of them are no load for the others. A node whose address is not known
 * yet may come by itself.
 */
static size_t mesh_nodes_of(const struct cluster *c, const struct node_table *t, uint64_t self,
                            struct mesh_node *out)
{
    const struct node *me = node_find(t, self);
    bool manager = me && me->role == NODE_MANAGER;
    size_t count = 0;
    for (size_t i = 0; me && i < t->count; i++) {
        const struct node *n = &t->node[i];
        bool other = n->role == NODE_MANAGER;
        if (n->id == self || (!manager && !other))
            continue;
        out[count] = (struct mesh_node){.id = n->id};
        bool dial = c->source ? n->id == c->source : !manager || n->id < self;
        out[count].dial = other && dial && mesh_address_of(n, &out[count].address);
        count++;
    }
    return count;
}

/* Before the state says who else there is, those that this node was told of when it joined. */
static void set_first_nodes(struct cluster *c)
{
    struct mesh_node node[FRAME_MANAGERS_MAX];
    size_t count = peers_parse(c->pki.peers.data, node, FRAME_MANAGERS_MAX);
    free(c->known);
    c->known = calloc(count + 1, sizeof(*c->known));
    CHECK(c->known);
    c->known_count = count;
    struct consensus_place place = {.self = CONSENSUS_SELF_UNKNOWN};
    for (size_t i = 0; i < count; i++) {
        c->known[i] = (struct known_node){.id = node[i].id, .manager = true};
        node[i].dial &= !c->source || c->source == node[i].id;
        if (place.count < CONSENSUS_SOURCES_MAX)
            place.manager[place.count++] = node[i].id;
    }
    mesh_set_nodes(c->mesh, node, count);
    consensus_place(c->consensus, &place);
}

static void set_members(struct cluster *c, const struct node_table *t)
{
    struct consensus_member member[CONSENSUS_MEMBERS_MAX];
    size_t count = 0;
    for (size_t i = 0; i < t->count && count < CONSENSUS_MEMBERS_MAX; i++)
        if (t->node[i].role == NODE_MANAGER)
            member[count++] = (struct consensus_member){.id = t->node[i].id, .voter = true};
    if (count)
        consensus_members(c->consensus, member, count);
}

static void set_place(struct cluster *c, const struct node_table *t, const struct node *me)
{
    struct consensus_place place = {.self = me->role == NODE_MANAGER ? CONSENSUS_SELF_MANAGER
                                                                     : CONSENSUS_SELF_WORKER,
                                    /* Who does not answer for names needs no promise about them. */
                                    .lease = me->replica};
    for (size_t i = 0; i < t->count && place.count < CONSENSUS_SOURCES_MAX; i++)
        if (t->node[i].role == NODE_MANAGER && t->node[i].id != me->id)
            place.manager[place.count++] = t->node[i].id;
    consensus_place(c->consensus, &place);
}

static void on_dial(uv_timer_t *timer)
{
    struct cluster *c = timer->data;
    struct node_table t;
    if (c->closing || cluster_nodes(c, &t))
        return;
    cluster_set_nodes(c, &t);
    node_table_fini(&t);
    for (size_t i = 0; c->source && i < c->known_count; i++)
        if (c->known[i].manager && c->known[i].id != c->source)
            mesh_hang_up(c->mesh, c->known[i].id);
}

/* Not at once: it may be told while a frame is being read. */
void net_source(struct cluster *c, uint64_t manager)
{
    if (c->source == manager || !c->mesh)
        return;
    c->source = manager;
    uv_timer_start(&c->dial, on_dial, 0, 0);
}

void cluster_set_nodes(struct cluster *c, const struct node_table *t)
{
    if (!c->mesh || c->closing)
        return;
    uint64_t self = pki_identity_name(c->identity)->node_id;
    if (!node_find(t, self)) {
        /* Not told yet, or removed: whoever is known stays known. */
        if (t->count == 0)
            set_first_nodes(c);
        return;
    }
    struct mesh_node *node = calloc(t->count + 1, sizeof(*node));
    struct known_node *known = calloc(t->count + 1, sizeof(*known));
    CHECK(node && known);
    for (size_t i = 0; i < t->count; i++)
        known[i] = (struct known_node){
            .id = t->node[i].id, .manager = t->node[i].role == NODE_MANAGER, .replica = t->node[i].replica};
    free(c->known);
    c->known = known;
    c->known_count = t->count;
    size_t count = mesh_nodes_of(c, t, self, node);
    mesh_set_nodes(c->mesh, node, count);
    free(node);
    set_members(c, t);
    set_place(c, t, node_find(t, self));
}

const char *cluster_mesh_reason(const struct cluster *c, unsigned i, uint64_t *count)
{
    *count = c->mesh ? mesh_reason_count(c->mesh, i) : 0;
    return i < MESH_REASON_COUNT ? mesh_reason_name(i) : NULL;
}

void net_count(const struct cluster *c, size_t *others, size_t *connected)
{
    *others = *connected = 0;
    if (c->mesh)
        mesh_count(c->mesh, others, connected);
}

bool cluster_has_others(const struct cluster *c)
{
    return c->known_count > 1;
}

void cluster_managers_down(struct cluster *c, struct node_down *out)
{
    out->count = 0;
    if (!c->mesh)
        return;
    uint64_t self = pki_identity_name(c->identity)->node_id;
    for (size_t i = 0; i < c->known_count && out->count < NODE_MANAGERS_MAX; i++)
        if (c->known[i].manager && c->known[i].id != self && !mesh_is_up(c->mesh, c->known[i].id))
            out->id[out->count++] = c->known[i].id;
}

/* ------------------------------------------------------------------ life */

static int pki_first(struct cluster *c, const struct consensus_status *s, char *err, size_t err_len)
{
    char host[ADDRESS_TEXT_MAX], why[PKI_ERR_MAX];
    struct pki_subject subject = {.name = {.node_id = s->node_id}, .host = {c->config.name}, .host_count = 1};
    memcpy(subject.name.cluster_id, s->cluster_id, sizeof(subject.name.cluster_id));
    snprintf(host, sizeof(host), "%s", c->config.net->advertise.text);
    *strrchr(host, ':') = '\0';
    if (host[0] == '[')
        host[strlen(host) - 1] = '\0';
    subject.host[subject.host_count++] = host[0] == '[' ? host + 1 : host;
    int rc = pki_files_first(&subject, &c->pki, why);
    if (rc) {
        snprintf(err, err_len, "%s", why);
        return rc;
    }
    rc = pki_files_make(c->dir_fd, PKI_FOLDER, &c->pki);
    if (rc)
        snprintf(err, err_len, "%s/%s cannot be made: %s", c->config.dir, PKI_FOLDER, strerror(-rc));
    else
        journal_info(c->config.journal, "cluster", "the cluster has a CA now: %s/%s", c->config.dir,
                     PKI_FOLDER);
    return rc;
}

/* What the folder has, or a new one for a cluster of one. */
static int pki_load(struct cluster *c, const struct consensus_status *s, size_t nodes, char *err,
                    size_t err_len)
{
    char why[PKI_ERR_MAX];
    int rc = pki_files_read(c->dir_fd, PKI_FOLDER, &c->pki, why);
    if (rc == -ENOENT && nodes > 1) {
        snprintf(err, err_len,
                 "%s/%s is missing, and this node is one of %zu: put it back from a backup, or remove the "
                 "node from "
                 "the cluster and let it join again",
                 c->config.dir, PKI_FOLDER, nodes);
        return rc;
    }
    if (rc == -ENOENT)
        rc = pki_first(c, s, err, err_len);
    else if (rc)
        snprintf(err, err_len, "%s/%s", c->config.dir, why);
    if (rc)
        return rc;
    rc = pki_identity_new(c->pki.ca.data, c->pki.ca.len, c->pki.cert.data, c->pki.cert.len, c->pki.key.data,
                          c->pki.key.len, &c->identity, why);
    const struct pki_name *name = rc ? NULL : pki_identity_name(c->identity);
    if (name && (name->node_id != s->node_id || memcmp(name->cluster_id, s->cluster_id, 16) != 0)) {
        snprintf(why, sizeof(why), "its certificate is of another cluster or node than the state");
        rc = -EINVAL;
    }
    if (rc)
        snprintf(err, err_len, "%s/%s: %s", c->config.dir, PKI_FOLDER, why);
    return rc;
}

static int open_mesh(struct cluster *c, const struct consensus_status *s, char *err, size_t err_len)
{
    struct mesh_config config = {
        .loop = c->config.loop,
        .journal = c->config.journal,
        .node_id = s->node_id,
        .identity = c->identity,
        .listen = c->config.net->listen,
        .listen_count = c->config.net->listen_count,
        .handlers = {.frame = on_frame, .up = on_up, .down = on_down, .join = admit_join},
        .arg = c};
    memcpy(config.cluster_id, s->cluster_id, sizeof(config.cluster_id));
    int rc = mesh_open(&config, &c->mesh, err, err_len);
    if (rc)
        return rc;
    CHECK(uv_timer_init(c->config.loop, &c->upkeep) == 0);
    CHECK(uv_timer_init(c->config.loop, &c->dial) == 0);
    c->upkeep.data = c->dial.data = c;
    ca_open(c);
    uv_timer_start(&c->upkeep, on_upkeep, UPKEEP_FIRST_MS, UPKEEP_MS);
    forward_open(c);
    return 0;
}

int net_open(struct cluster *c, char *err, size_t err_len)
{
    struct node_table t;
    struct consensus_status s;
    int rc = cluster_nodes(c, &t);
    if (rc) {
        snprintf(err, err_len, "the nodes cannot be read: %s", strerror(-rc));
        return rc;
    }
    consensus_status(c->consensus, &s);
    bool listens = c->config.net && c->config.net->listen_count;
    if (!listens && t.count > 1) {
        snprintf(err, err_len,
                 "this node is one of %zu, but the configuration does not say where it listens for the "
                 "others; set "
                 "cluster.listen",
                 t.count);
        rc = -EINVAL;
    }
    if (rc == 0 && listens)
        rc = pki_load(c, &s, t.count, err, err_len);
    if (rc == 0 && listens)
        rc = open_mesh(c, &s, err, err_len);
    if (rc == 0 && listens)
        cluster_set_nodes(c, &t);
    node_table_fini(&t);
    return rc;
}

int cluster_listen(struct cluster *c, char *err, size_t err_len)
{
    CHECK(err_len >= PKI_ERR_MAX);
    if (c->mesh || c->closing)
        return 0;
    int rc = net_open(c, err, err_len);
    if (rc) {
        pki_files_fini(&c->pki);
        pki_identity_free(c->identity);
        c->identity = NULL;
    }
    return rc;
}

static void on_forward_closed(uv_handle_t *handle)
{
    struct cluster *c = handle->data;
    c->net_closed(c);
}

static void on_upkeep_closed(uv_handle_t *handle)
{
    struct cluster *c = handle->data;
    forward_close(c, on_forward_closed);
}

static void on_dial_closed(uv_handle_t *handle)
{
    struct cluster *c = handle->data;
    uv_close((uv_handle_t *)&c->upkeep, on_upkeep_closed);
}

static void on_mesh_closed(void *arg)
{
    struct cluster *c = arg;
    uv_close((uv_handle_t *)&c->dial, on_dial_closed);
}

void net_close(struct cluster *c, void (*closed)(struct cluster *c))
{
    struct mesh *mesh = c->mesh;
    if (mesh) {
        uv_timer_stop(&c->upkeep); /* they look at what goes now */
        uv_timer_stop(&c->dial);
    }
    followers_close(c);
    absent_close(c);
    verdicts_close(c);
    ca_close(c);
    pki_files_fini(&c->pki);
    pki_identity_free(c->identity);
    free(c->known);
    c->identity = NULL;
    c->known = NULL;
    c->known_count = 0;
    c->mesh = NULL;
    c->net_closed = closed;
    if (mesh)
        mesh_close(mesh, on_mesh_closed, c);
    else
        closed(c);
}

/* ------------------------------------------------------------------ what is seen of nodes */

/* Whether one of the two dials the other, or a manager ought to know of it. */
static bool is_expected(const struct cluster *c, const struct node *n)
{
    if (c->source)
        return n->id == c->source;
    return c->mesh && (net_is_manager(c, pki_identity_name(c->identity)->node_id) || n->role == NODE_MANAGER);
}

static void seen_in_mesh(struct cluster *c, uint64_t node, struct node_seen *out)
{
    static struct mesh_node_status status; /* `why` is looked at before the next one is asked for */
    if (!c->mesh || !mesh_node_status(c->mesh, node, &status))
        return;
    out->connected = status.up;
    out->ever = status.connections > 0;
    out->since_ms = uv_now(c->config.loop) - status.since_ms;
    out->why = status.text;
}

void cluster_node_seen(struct cluster *c, const struct node *n, struct node_seen *out)
{
    struct consensus_server server[CONSENSUS_MEMBERS_MAX];
    struct consensus_status s;
    consensus_status(c->consensus, &s);
    *out = (struct node_seen){.self = n->id == s.node_id,
                              .leader = n->id == s.leader_id,
                              .leaderless = s.leader_id == 0,
                              .expected = is_expected(c, n),
                              .raft = NODE_RAFT_NONE,
                              .commit = s.commit_index};
    if (!out->self)
        seen_in_mesh(c, n->id, out);
    if (!out->self && c->mesh && n->role == NODE_WORKER &&
        (out->follows = followers_find(c, n->id, &out->applied)))
        out->progress = out->connected = true;
    size_t count = consensus_servers(c->consensus, server, CONSENSUS_MEMBERS_MAX);
    for (size_t i = 0; i < count && i < CONSENSUS_MEMBERS_MAX; i++) {
        if (server[i].id != n->id)
            continue;
        out->raft = server[i].role == CONSENSUS_VOTER ? NODE_RAFT_VOTER : NODE_RAFT_STANDBY;
        out->progress = server[i].applied > 0;
        out->applied = server[i].applied;
    }
    if (out->self) {
        out->progress = true;
        out->applied = s.applied_index;
        out->snapshot = s.installing;
        out->follows = s.source;
    }
}
