/* SPDX-License-Identifier: Apache-2.0 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/compile/plan_peers.h"
#include "control/config_yaml.h"
#include "control/state/node.h"

static void read_name(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    struct config_cluster *cluster = target;
    const char *text = cfg_text(r, node, "the name of this node, as in node-a");
    if (!text)
        return;
    if (node_name_valid(text, strlen(text)))
        cfg_text_set(&cluster->name, text);
    else
        cfg_error(r, node,
                  "'%.70s' cannot name a node; write at most %d letters, digits, '.', '_' and '-', a letter "
                  "or a digit first",
                  text, NODE_NAME_MAX);
}

static bool read_address(struct cfg_reader *r, const yaml_node_t *node, struct config_address *out)
{
    const char *hint, *text = cfg_text(r, node, "an address, as in 192.0.2.1:5010");
    if (!text)
        return false;
    if (config_address_parse(text, out, &hint) == 0)
        return true;
    cfg_error(r, node, "'%.60s' is not an address; %s", text, hint);
    return false;
}

static void read_cluster_listen(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    struct config_cluster *cluster = target;
    if (node->type != YAML_SEQUENCE_NODE) {
        cfg_error(r, node, "cluster.listen must be a list but is %s; write [192.0.2.1:5010]",
                  cfg_kind_name(node));
        return;
    }
    for (yaml_node_item_t *i = node->data.sequence.items.start; i < node->data.sequence.items.top; i++) {
        const yaml_node_t *item = yaml_document_get_node(&r->doc, *i);
        struct config_address *next = &cluster->listen[cluster->listen_count];
        if (cluster->listen_count == CONFIG_CLUSTER_LISTEN_MAX) {
            cfg_error(r, item, "a node has at most %d addresses for its cluster; remove some",
                      CONFIG_CLUSTER_LISTEN_MAX);
            return;
        }
        if (read_address(r, item, next))
            cluster->listen_count++;
    }
}

static bool is_wildcard(const struct config_address *a)
{
    if (a->addr.ss_family == AF_INET)
        return ((const struct sockaddr_in *)&a->addr)->sin_addr.s_addr == htonl(INADDR_ANY);
    return IN6_IS_ADDR_UNSPECIFIED(&((const struct sockaddr_in6 *)&a->addr)->sin6_addr);
}

static void read_advertised(struct cfg_reader *r, const yaml_node_t *node, struct config_address *out)
{
    if (read_address(r, node, out) && is_wildcard(out)) {
        cfg_error(r, node, "%s is no address at which others find this node; write one of this host's",
                  out->text);
        *out = (struct config_address){0};
    }
}

static void read_advertise(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    read_advertised(r, node, &((struct config_cluster *)target)->advertise);
}

static void read_data_advertise(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    read_advertised(r, node, &((struct config_cluster *)target)->data_advertise);
}

/* The same host, the next port. */
static void address_next(const struct config_address *from, struct config_address *out)
{
    struct svc_address a;
    const char *hint;
    char text[ADDRESS_TEXT_MAX];
    CHECK(svc_address_parse(from->text, &a) == 0);
    a.port = a.port == UINT16_MAX ? a.port - 1 : a.port + 1;
    CHECK(config_address_parse(svc_address_text(&a, text), out, &hint) == 0);
}

static void fill(struct cfg_reader *r, const yaml_node_t *node, struct config_cluster *cluster)
{
    if (cluster->listen_count == 0) {
        if (cluster->advertise.addr_len || cluster->data_advertise.addr_len)
            cfg_error(r, node,
                      "cluster says where others find this node, but it listens nowhere; write 'listen: "
                      "[192.0.2.1:5010]'");
        return;
    }
    if (!cluster->advertise.addr_len) {
        if (is_wildcard(&cluster->listen[0])) {
            cfg_error(r, node,
                      "others cannot find this node at %s; write 'advertise: 192.0.2.1:5010' with an address "
                      "of this host",
                      cluster->listen[0].text);
            return;
        }
        cluster->advertise = cluster->listen[0];
    }
    if (!cluster->data_advertise.addr_len)
        address_next(&cluster->advertise, &cluster->data_advertise);
}

void cfg_cluster(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    static const struct cfg_key_row keys[] = {{"name", read_name},
                                              {"listen", read_cluster_listen},
                                              {"advertise", read_advertise},
                                              {"data_advertise", read_data_advertise}};
    struct config_cluster *cluster = &r->config->cluster;
    (void)target;
    if (cfg_mapping(r, node, "cluster", keys, ARRAY_SIZE(keys), cluster))
        fill(r, node, cluster);
}

/* Beside each address of the mesh, on the next port. */
void cfg_cluster_listen(struct cfg_reader *r)
{
    static const struct plan_tls tls = {.mode = PLAN_TLS_TERMINATE,
                                        .client_auth = PLAN_AUTH_REQUIRED,
                                        .certificate_count = 1,
                                        .nodes_only = 1,
                                        .certificate = {PLAN_PEERS_CERTIFICATE},
                                        .client_ca = PLAN_PEERS_CA};
    const struct config_cluster *cluster = &r->config->cluster;
    for (size_t i = 0; i < cluster->listen_count && r->listen_count < CONFIG_LISTEN_MAX - 1; i++) {
        struct config_address *a = &r->config->listen[r->listen_count++];
        address_next(&cluster->listen[i], a);
        a->service = SERVICE_PEER;
        a->allow_all = true;
        a->tls = tls;
    }
}

void config_cluster_fini(struct config_cluster *cluster)
{
    free(cluster->name);
}
