/* SPDX-License-Identifier: Apache-2.0 */
/* The section mirrors. Fields have the names and texts of control/state/mirror.h. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "check.h"
#include "control/config_yaml.h"
#include "control/mirrors.h"

static void read_name(struct cfg_reader *r, struct mirror_rule *m, const yaml_node_t *node)
{
    const char *text = cfg_text(r, node, "the name of a rule");
    if (text && strlen(text) > MIRROR_NAME_MAX)
        cfg_error(r, node, "the name is longer than %d bytes", MIRROR_NAME_MAX);
    else if (text)
        memcpy(m->name, text, strlen(text) + 1);
}

static void read_field(struct cfg_reader *r, struct mirror_rule *m, const yaml_node_t *key,
                       const yaml_node_t *value)
{
    char room[MIRROR_TEXT_MAX], err[MIRROR_ERROR_MAX];
    const char *text =
        cfg_list_text(r, value, "a value, as `man fairlead` says under `mirror set`", room, sizeof(room));
    int rc = text ? mirror_field_set(m, cfg_scalar(key), text, err) : 0;
    if (rc == -ENOENT)
        cfg_error(r, key, "unknown key '%.40s' of a rule of mirroring", cfg_scalar(key));
    else if (rc)
        cfg_error(r, value, "%s", err);
}

static void read_rule(struct cfg_reader *r, const yaml_node_t *node)
{
    struct mirror_rule m;
    char err[MIRROR_ERROR_MAX];
    size_t before = r->report->count;
    mirror_init(&m, "");
    if (node->type != YAML_MAPPING_NODE) {
        cfg_error(r, node, "a rule must be a mapping but is %s; write '- name: hub'", cfg_kind_name(node));
        return;
    }
    for (yaml_node_pair_t *pair = node->data.mapping.pairs.start; pair < node->data.mapping.pairs.top;
         pair++) {
        const yaml_node_t *key = cfg_key(r, node, pair);
        const yaml_node_t *value = yaml_document_get_node(&r->doc, pair->value);
        if (key && strcmp(cfg_scalar(key), "name") == 0)
            read_name(r, &m, value);
        else if (key)
            read_field(r, &m, key, value);
    }
    if (r->report->count != before)
        return;
    if (mirror_check(&m, err, sizeof(err)) || mirrors_expression_check(&m, err))
        cfg_error(r, node, "%s", err);
    else if (mirror_find(&r->config->mirrors, m.name))
        cfg_error(r, node, "there are two rules '%s'; make them one", m.name);
    else
        mirror_table_add(&r->config->mirrors, &m);
}

void cfg_mirrors(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    (void)target;
    if (node->type == YAML_SCALAR_NODE && node->data.scalar.length == 0)
        return;
    if (node->type != YAML_SEQUENCE_NODE) {
        cfg_error(r, node, "mirrors must be a list but is %s; write '- name: hub' under it",
                  cfg_kind_name(node));
        return;
    }
    size_t count = (size_t)(node->data.sequence.items.top - node->data.sequence.items.start);
    if (count > MIRRORS_MAX) {
        cfg_error(r, node, "there are %zu rules; %d is the most", count, MIRRORS_MAX);
        return;
    }
    for (yaml_node_item_t *i = node->data.sequence.items.start; i < node->data.sequence.items.top; i++)
        read_rule(r, yaml_document_get_node(&r->doc, *i));
}
