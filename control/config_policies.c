/* SPDX-License-Identifier: Apache-2.0 */
/* The section policies. Fields have the names and texts of control/state/policy.h. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/config_yaml.h"

enum { KEY_TEXT_MAX = 64 };

static const char wanted[] = "a value, as `man fairlead.yaml` says";

/* The text of a value; of an empty list "none". NULL after a report. */
static const char *value_text(struct cfg_reader *r, const yaml_node_t *node, char out[POLICY_TEXT_MAX])
{
    const char *text = cfg_list_text(r, node, wanted, out, POLICY_TEXT_MAX);
    return text && !*text ? "none" : text;
}

static void read_field(struct cfg_reader *r, struct policy *p, const char *group, const yaml_node_t *key,
                       const yaml_node_t *value)
{
    char name[KEY_TEXT_MAX], room[POLICY_TEXT_MAX], err[POLICY_ERROR_MAX];
    snprintf(name, sizeof(name), "%.30s%s%.30s", group, *group ? "." : "", cfg_scalar(key));
    const char *text = value_text(r, value, room);
    int rc = text ? policy_field_set(p, name, text, err) : 0;
    if (rc == -ENOENT)
        cfg_error(r, key, "unknown key '%s' of a policy; `man fairlead.yaml` lists them", name);
    else if (rc)
        cfg_error(r, value, "%s", err);
}

static void read_prefix(struct cfg_reader *r, struct policy *p, const yaml_node_t *node)
{
    const char *text = cfg_text(r, node, "the beginning of repositories' names, as in team/app, or '*'");
    if (text && (strlen(text) > REPO_NAME_MAX || policy_prefix_parse(text, p->prefix)))
        cfg_error(r, node, "'%.40s' is no prefix of repositories; write components, as in team/app, or '*'",
                  text);
}

static void read_pairs(struct cfg_reader *r, struct policy *p, const char *group, const yaml_node_t *node,
                       bool *has_prefix)
{
    for (yaml_node_pair_t *pair = node->data.mapping.pairs.start; pair < node->data.mapping.pairs.top;
         pair++) {
        const yaml_node_t *key = cfg_key(r, node, pair);
        const yaml_node_t *value = yaml_document_get_node(&r->doc, pair->value);
        if (!key)
            continue;
        bool prefix = !*group && strcmp(cfg_scalar(key), "prefix") == 0;
        *has_prefix |= prefix;
        if (prefix)
            read_prefix(r, p, value);
        else if (value->type == YAML_MAPPING_NODE && !*group)
            read_pairs(r, p, cfg_scalar(key), value, has_prefix);
        else
            read_field(r, p, group, key, value);
    }
}

static void read_policy(struct cfg_reader *r, const yaml_node_t *node)
{
    struct policy p;
    bool has_prefix = false;
    policy_init(&p);
    if (node->type != YAML_MAPPING_NODE) {
        cfg_error(r, node, "a policy must be a mapping but is %s; write '- prefix: team'",
                  cfg_kind_name(node));
        return;
    }
    read_pairs(r, &p, "", node, &has_prefix);
    if (!has_prefix)
        cfg_error(r, node, "the policy has no prefix; write 'prefix: team', or '*' for all repositories");
    else if (policy_find(&r->config->policies, p.prefix))
        cfg_error(r, node, "there are two policies of '%s'; make them one", policy_prefix_text(p.prefix));
    else
        policy_table_add(&r->config->policies, &p);
}

void cfg_policies(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    (void)target;
    if (node->type == YAML_SCALAR_NODE && node->data.scalar.length == 0)
        return;
    if (node->type != YAML_SEQUENCE_NODE) {
        cfg_error(r, node, "policies must be a list but is %s; write '- prefix: team' under it",
                  cfg_kind_name(node));
        return;
    }
    size_t count = (size_t)(node->data.sequence.items.top - node->data.sequence.items.start);
    if (count > POLICIES_MAX) {
        cfg_error(r, node, "there are %zu policies; %d is the most", count, POLICIES_MAX);
        return;
    }
    for (yaml_node_item_t *i = node->data.sequence.items.start; i < node->data.sequence.items.top; i++)
        read_policy(r, yaml_document_get_node(&r->doc, *i));
}
