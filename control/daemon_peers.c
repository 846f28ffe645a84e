/* SPDX-License-Identifier: Apache-2.0 */
#include "control/daemon_peers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "control/certs_store.h"
#include "control/cluster.h"
#include "control/compile/plan_services.h"
#include "control/daemon.h"
#include "control/daemon_disks.h"
#include "control/nodes.h"
#include "control/daemon_sources.h"
#include "control/resolve.h"
#include "control/source_way.h"
#include "control/mesh/pki_files.h"

enum {
    CLUSTER_ERROR_MAX = 512,
    PKI_PATIENCE_S = 10, /* a plan that some ring was too slow for is not said to be applied */
};

static char *path_of(const struct daemon *d, const char *file)
{
    char *path;
    CHECK(asprintf(&path, "%s/" PKI_FOLDER "/%s", d->config.state_dir, file) > 0);
    return path;
}

static bool has_pki(const struct daemon *d)
{
    char *path = path_of(d, PKI_FILE_CERT);
    bool there = access(path, R_OK) == 0;
    free(path);
    return there;
}

bool daemon_certs_load(struct daemon *d, const struct config_certificates *config, size_t *failed)
{
    struct config_certificates all = {.count = config->count};
    all.list = calloc(config->count + 2, sizeof(*all.list));
    CHECK(all.list);
    if (config->count)
        memcpy(all.list, config->list, config->count * sizeof(*all.list));
    d->has_pki = has_pki(d);
    struct config_certificate *node = &all.list[all.count], *ca = node + 1;
    if (d->has_pki) {
        *node = (struct config_certificate){.name = PLAN_PEERS_CERTIFICATE,
                                            .cert = path_of(d, PKI_FILE_CERT),
                                            .key = path_of(d, PKI_FILE_KEY)};
        *ca = (struct config_certificate){.name = PLAN_PEERS_CA, .ca = path_of(d, PKI_FILE_CA)};
        all.count += 2;
    }
    bool changed = certs_load(d->certs, &all, failed);
    free(node->cert);
    free(node->key);
    free(ca->ca);
    free(all.list);
    return changed;
}

/* Whether what was read of STATE/pki is what is there. */
static bool pki_is_read(const struct daemon *d)
{
    bool node = false, ca = false;
    for (size_t i = 0; i < certs_count(d->certs); i++) {
        struct certs_view v;
        certs_show(d->certs, i, &v);
        node |= strcmp(v.name, PLAN_PEERS_CERTIFICATE) == 0 && v.loaded && !v.problem[0];
        ca |= strcmp(v.name, PLAN_PEERS_CA) == 0 && v.loaded && !v.problem[0];
    }
    return node && ca;
}

/* A plan that comes behind certificates is taken with them: it says when they are in use. */
static void pki_hand_over(struct daemon *d)
{
    if (certs_tick(d->certs))
        daemon_publish_certs(d);
    if (!d->supervise || d->phase > DAEMON_SERVING || !pki_is_read(d))
        return;
    d->pki.serial = d->pki.wanted;
    d->pki.waited_s = 0;
    d->pki.plan = daemon_publish_plan(d);
}

void daemon_pki_changed(struct daemon *d, uint64_t serial)
{
    d->pki.wanted = serial;
    if (d->has_pki)
        pki_hand_over(d);
}

void daemon_pki_applied(struct daemon *d, uint64_t plan)
{
    d->pki.applied = plan;
    d->pki.waited_s = 0;
    if (d->cluster && plan >= d->pki.plan)
        cluster_certificates_taken(d->cluster, d->pki.serial ? d->pki.serial : 1);
}

void daemon_peers_tick(struct daemon *d)
{
    size_t failed;
    bool unheard = d->pki.plan > d->pki.applied && ++d->pki.waited_s >= PKI_PATIENCE_S;
    if (d->has_pki && (d->pki.wanted != d->pki.serial || unheard))
        pki_hand_over(d);
    if (d->has_pki == has_pki(d))
        return;
    if (daemon_certs_load(d, &d->config.certificates, &failed))
        daemon_publish_certs(d);
    daemon_publish_plan(d);
}

const struct node *daemon_node(const struct daemon *d)
{
    struct cluster_status status;
    cluster_status(d->cluster, &status);
    return node_find(nodes_table(d->nodes), status.node_id);
}

struct nodes_self daemon_self(const struct daemon *d)
{
    const struct config_cluster *net = &d->config.cluster;
    struct nodes_self self = {.name = ""};
    memcpy(self.name, d->node_name, sizeof(self.name));
    self.has_store = d->store.known;
    self.shares = d->store.shared;
    self.store_state = daemon_disks_said(d);
    memcpy(self.store, d->store.id, sizeof(self.store));
    if (net->listen_count) {
        CHECK(svc_address_parse(net->advertise.text, &self.mesh) == 0);
        CHECK(svc_address_parse(net->data_advertise.text, &self.data) == 0);
    }
    return self;
}

static bool same_addresses(const struct config_cluster *a, const struct config_cluster *b)
{
    bool same = a->listen_count == b->listen_count && strcmp(a->advertise.text, b->advertise.text) == 0 &&
                strcmp(a->data_advertise.text, b->data_advertise.text) == 0;
    for (size_t i = 0; same && i < a->listen_count; i++)
        same = strcmp(a->listen[i].text, b->listen[i].text) == 0;
    return same;
}

/* The name counts where the state has none of it yet, and when this host joins a cluster. */
void daemon_cluster_reload(struct daemon *d, const struct config *next)
{
    struct config_cluster *own = &d->config.cluster, before = *own;
    char err[CLUSTER_ERROR_MAX];
    if (same_addresses(own, &next->cluster))
        return;
    if (own->listen_count) {
        journal_warn(d->journal, "reload",
                     "other addresses of cluster count from the next start of fairleadd");
        return;
    }
    *own = next->cluster;
    own->name = before.name;
    if (next->cluster.name)
        snprintf(d->node_name, sizeof(d->node_name), "%s", next->cluster.name);
    if (cluster_listen(d->cluster, err, sizeof(err))) {
        journal_error(d->journal, "reload", "%s; this node listens for no other ones", err);
        *own = before;
        return;
    }
    struct nodes_self self = daemon_self(d);
    nodes_set_self(d->nodes, &self);
    daemon_peers_tick(d);
    journal_info(d->journal, "reload", "this node listens for others now, at %s", own->advertise.text);
}

struct plan_peers *daemon_peers(struct daemon *d)
{
    struct cluster_status status;
    if (!d->has_pki || !d->nodes)
        return NULL;
    cluster_status(d->cluster, &status);
    return plan_peers_compile(nodes_table(d->nodes), status.node_id);
}

struct daemon_members daemon_members(struct daemon *d)
{
    struct daemon_members m = {.id = NULL};
    if (!d->nodes)
        return m;
    const struct node_table *t = nodes_table(d->nodes);
    m.id = plan_members_compile(t, &m.count);
    m.next = t->cluster.next_node;
    return m;
}

struct plan_copies daemon_copies(struct daemon *d)
{
    struct cluster_status status;
    if (!d->nodes)
        return (struct plan_copies){.wanted = 1, .least = 1, .shared = d->folders.shared};
    cluster_status(d->cluster, &status);
    struct plan_copies copies = plan_copies_compile(nodes_table(d->nodes), status.node_id);
    copies.shared = d->folders.shared;
    return copies;
}

/* A plan has room for the backends of all of them, so that the state's bounds are the only ones to be met. */
_Static_assert(SVC_BACKENDS_ALL_MAX + (int)PLAN_SERVICE_BACKENDS_MAX +
                       RESOLVE_ADDRESSES_MAX * (WAYS_MAX + SOURCES_OWN_MAX * SOURCE_BACKENDS_MAX) <=
                   (int)PLAN_BACKENDS_MAX,
               "backends");

/* All proxied services: the peers', those where sources lead to, those of sources, those of the state. */
struct plan_proxied *daemon_proxied(const struct daemon *d, const struct plan_peers *peers, size_t *count)
{
    struct plan_proxied *all = calloc(d->proxied->count + 1 + WAYS_MAX + SOURCES_OWN_MAX, sizeof(*all));
    CHECK(all);
    *count = 0;
    if (peers)
        all[(*count)++] = peers->proxied;
    if (d->ways)
        *count += source_ways_list(d->ways, all + *count);
    *count += daemon_sources_list(d, all + *count);
    for (size_t i = 0; i < d->proxied->count; i++)
        all[(*count)++] = d->proxied->proxied[i];
    return all;
}
