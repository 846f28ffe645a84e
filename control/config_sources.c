/* SPDX-License-Identifier: Apache-2.0 */
/* The section `sources`. Fields have the names and texts of control/state/source.h. */
#include "control/config_sources.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "check.h"
#include "control/config_yaml.h"

void config_sources_fini(struct config_sources *s)
{
    source_table_fini(&s->table);
}

static void read_prefix(struct cfg_reader *r, struct source *s, const yaml_node_t *node)
{
    const char *text = cfg_text(r, node, "the beginning of repositories' names, as in hub/");
    if (text && strlen(text) > REPO_NAME_MAX)
        cfg_error(r, node, "the prefix is longer than %d bytes", REPO_NAME_MAX);
    else if (text)
        memcpy(s->prefix, text, strlen(text) + 1);
}

static void read_field(struct cfg_reader *r, struct source *s, const yaml_node_t *key,
                       const yaml_node_t *value)
{
    char room[SOURCE_FIELD_MAX], err[SOURCE_ERROR_MAX];
    const char *text = cfg_list_text(r, value, "a value, as `man fairlead.yaml` says", room, sizeof(room));
    int rc = text ? source_field_set(s, cfg_scalar(key), text, err) : 0;
    if (rc == -ENOENT)
        cfg_error(r, key, "unknown key '%.40s' of a source; `man fairlead.yaml` lists them", cfg_scalar(key));
    else if (rc)
        cfg_error(r, value, "%s", err);
}

static void read_pairs(struct cfg_reader *r, struct source *s, bool *peers, const yaml_node_t *node)
{
    for (yaml_node_pair_t *pair = node->data.mapping.pairs.start; pair < node->data.mapping.pairs.top;
         pair++) {
        const yaml_node_t *key = cfg_key(r, node, pair);
        const yaml_node_t *value = yaml_document_get_node(&r->doc, pair->value);
        if (key && strcmp(cfg_scalar(key), "prefix") == 0)
            read_prefix(r, s, value);
        else if (key && strcmp(cfg_scalar(key), "peers") == 0)
            cfg_bool(r, value, peers);
        else if (key)
            read_field(r, s, key, value);
    }
}

/* In place of a prefix: other replicas, for all repositories. */
static void add_peers(struct cfg_reader *r, const struct source *s, const yaml_node_t *node)
{
    struct config_sources *all = &r->config->sources;
    if (r->changes)
        cfg_error(r, node, "peers can stand in the configuration file alone; take the entry out");
    else if (s->prefix[0] || s->upstream[0])
        cfg_error(r, node, "peers have the same repositories as this node; leave prefix and upstream out");
    else if (!s->service[0])
        cfg_error(r, node, "the entry has no service; write the name of one with path: proxy");
    else if (all->peers[0])
        cfg_error(r, node, "peers is listed twice; remove one of them");
    else
        memcpy(all->peers, s->service, sizeof(all->peers));
}

static size_t own_count(const struct source_table *t)
{
    size_t count = 0;
    for (size_t i = 0; i < t->count; i++)
        count += t->list[i].backends[0] != '\0';
    return count;
}

static void add_source(struct cfg_reader *r, const struct source *s, const yaml_node_t *node)
{
    struct source_table *t = &r->config->sources.table;
    char err[SOURCE_ERROR_MAX];
    if (source_check(s, err, sizeof(err)))
        cfg_error(r, node, "%s", err);
    else if (source_find(t, s->prefix))
        cfg_error(r, node, "%s is listed twice; remove one of them", s->prefix);
    else if (t->count == SOURCES_MAX)
        cfg_error(r, node, "there are more than %d sources; remove some", SOURCES_MAX);
    else if (s->backends[0] && own_count(t) == SOURCES_OWN_MAX)
        cfg_error(r, node, "there are more than %d sources with backends of their own; give some a service",
                  SOURCES_OWN_MAX);
    else
        source_table_add(t, s);
}

static void read_source(struct cfg_reader *r, const yaml_node_t *node)
{
    struct source s;
    bool peers = false;
    size_t errors = r->report->count;
    source_init(&s, "");
    if (node->type != YAML_MAPPING_NODE) {
        cfg_error(r, node, "an entry of sources must be a mapping but is %s; write '- prefix: hub/'",
                  cfg_kind_name(node));
        return;
    }
    read_pairs(r, &s, &peers, node);
    if (r->report->count != errors)
        return;
    if (peers)
        add_peers(r, &s, node);
    else
        add_source(r, &s, node);
}

static bool has_ca(const struct config_certificates *c, const char *name)
{
    for (size_t i = 0; i < c->count; i++)
        if (strcmp(c->list[i].name, name) == 0 && c->list[i].ca)
            return true;
    return false;
}

void cfg_sources_finish(struct cfg_reader *r)
{
    const struct source_table *all = &r->config->sources.table;
    for (size_t i = 0; i < all->count; i++) {
        if (all->list[i].ca[0] && !has_ca(&r->config->certificates, all->list[i].ca))
            cfg_error(r, r->sources, "the source %s has ca '%s', which is none of the section certificates",
                      all->list[i].prefix, all->list[i].ca);
        if (all->list[i].credentials[0] &&
            !config_credential_find(&r->config->credentials, all->list[i].credentials))
            cfg_error(r, r->sources,
                      "the source %s has credentials '%s', which are not in the section credentials",
                      all->list[i].prefix, all->list[i].credentials);
    }
}

void cfg_sources(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    (void)target;
    r->sources = node;
    if (node->type == YAML_SCALAR_NODE && node->data.scalar.length == 0)
        return;
    if (node->type != YAML_SEQUENCE_NODE) {
        cfg_error(r, node,
                  "sources must be a list but is %s; write '- prefix: hub/' and 'backends: HOST' under it",
                  cfg_kind_name(node));
        return;
    }
    for (yaml_node_item_t *i = node->data.sequence.items.start; i < node->data.sequence.items.top; i++)
        read_source(r, yaml_document_get_node(&r->doc, *i));
}
