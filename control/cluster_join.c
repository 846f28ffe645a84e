/* SPDX-License-Identifier: Apache-2.0 */
/* This host becomes a node of another cluster. What it has would be lost, so it must have nothing. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/cluster_internal.h"
#include "control/joining.h"
#include "control/journal.h"
#include "control/mesh/joiner.h"

struct joining {
    struct cluster *cluster;
    cluster_joined done;
    void *arg;
    uv_timer_t soon;
    char why[JOINER_WHY_MAX];
};

static void on_repo(void *arg, const char *name, size_t name_len, const struct names_repo *repo)
{
    (void)repo;
    snprintf(arg, REPO_NAME_MAX + 1, "%.*s", (int)name_len, name);
}

/* Services of the configuration file come back by themselves. */
static bool has_services(struct cluster *c, char *name, size_t cap)
{
    struct svc_table t;
    bool has = false;
    if (cluster_services(c, &t))
        return false;
    for (size_t i = 0; i < t.count && !has; i++) {
        has = t.service[i].origin != SVC_FROM_FILE;
        if (has)
            snprintf(name, cap, "%s", t.service[i].name);
    }
    svc_table_fini(&t);
    return has;
}

/* What speaks against it, as a text; "" if nothing does. */
static void look_at_state(struct cluster *c, char why[JOINER_WHY_MAX])
{
    char name[REPO_NAME_MAX + 1];
    struct node_table nodes = {0};
    why[0] = '\0';
    int repos = cluster_each_repo(c, "", 1, on_repo, name);
    if (repos < 0 || cluster_nodes(c, &nodes))
        snprintf(why, JOINER_WHY_MAX, "the state of this host cannot be read");
    else if (nodes.count > 1)
        snprintf(
            why, JOINER_WHY_MAX,
            "this host is a node of a cluster of %zu already; remove it there first (`fairlead node rm`)",
            nodes.count);
    else if (repos)
        snprintf(why, JOINER_WHY_MAX,
                 "this host has repositories (%.80s), which would be lost: delete them, or let it join with "
                 "another state "
                 "folder",
                 name);
    else if (has_services(c, name, sizeof(name)))
        snprintf(why, JOINER_WHY_MAX,
                 "this host has services (%.80s), which would be lost: remove them, or let it join with "
                 "another state "
                 "folder",
                 name);
    else if (!c->config.net || !c->config.net->listen_count)
        snprintf(why, JOINER_WHY_MAX,
                 "the configuration of this host does not say where it listens for other nodes; set "
                 "cluster.listen and reload it (SIGHUP)");
    node_table_fini(&nodes);
}

static void finish(struct joining *j, uint64_t node, const char *why, bool later)
{
    if (j->cluster && j->cluster->joining == j)
        j->cluster->joining = NULL;
    j->done(j->arg, node, why, later);
    free(j);
}

static void on_answer(void *arg, const struct pki_files *files, const struct pki_name *name, const char *why,
                      bool later)
{
    struct joining *j = arg;
    char err[PKI_ERR_MAX], late[JOINER_WHY_MAX];
    if (!why && !j->cluster)
        why = "fairleadd stops; ask again when it has started";
    if (why) {
        finish(j, 0, why, later);
        return;
    }
    look_at_state(j->cluster, late); /* something may have been pushed meanwhile */
    if (late[0])
        finish(j, 0, late, false);
    else if (joining_decide(j->cluster->dir_fd, files, err))
        finish(j, 0, err, false);
    else {
        j->cluster->left = true;
        finish(j, name->node_id, NULL, false);
    }
}

void join_stop(struct cluster *c)
{
    if (c->joining)
        c->joining->cluster = NULL;
}

static void on_soon_closed(uv_handle_t *handle)
{
    struct joining *j = handle->data;
    finish(j, 0, j->why, false);
}

static void on_soon(uv_timer_t *timer)
{
    uv_close((uv_handle_t *)timer, on_soon_closed);
}

/* What is wrong before anything was sent is told from the loop, too. */
static void fail_soon(struct joining *j)
{
    CHECK(uv_timer_init(j->cluster->config.loop, &j->soon) == 0);
    j->soon.data = j;
    uv_timer_start(&j->soon, on_soon, 0, 0);
}

static bool ask(struct joining *j, const char *address, const char *token)
{
    struct cluster *c = j->cluster;
    struct pki_text key;
    const char *hint;
    struct joiner_ask ask = {.name = c->config.name, .cluster_version = CLUSTER_VERSION};
    if (config_address_parse(address, &ask.manager, &hint)) {
        snprintf(j->why, sizeof(j->why), "'%.60s' is not an address; %s", address, hint);
        return false;
    }
    if (token_parse(token, &ask.token)) {
        snprintf(j->why, sizeof(j->why),
                 "this is no token; `fairlead node join-token` on a manager makes one");
        return false;
    }
    ask.mesh_address = c->config.net->advertise.text;
    ask.data_address = c->config.net->data_advertise.text;
    if (joining_key(c->dir_fd, &key, j->why))
        return false;
    ask.key = &key;
    int rc = joiner_start(c->config.loop, &ask, on_answer, j);
    if (rc)
        snprintf(j->why, sizeof(j->why), "%s", strerror(-rc));
    pki_text_free(&key);
    return rc == 0;
}

void cluster_join(struct cluster *c, const char *address, const char *token, cluster_joined done, void *arg)
{
    struct joining *j = calloc(1, sizeof(*j));
    CHECK(j);
    j->cluster = c;
    j->done = done;
    j->arg = arg;
    if (c->joining) {
        snprintf(j->why, sizeof(j->why), "this host is about to join already");
    } else {
        c->joining = j;
        look_at_state(c, j->why);
    }
    if (j->why[0] || !ask(j, address, token))
        fail_soon(j);
}
