/* SPDX-License-Identifier: Apache-2.0 */
/* The section `credentials`. */
#include "control/config_credentials.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/config_yaml.h"

static bool name_valid(const char *name)
{
    size_t len = strlen(name);
    return len > 0 && len < PLAN_NAME_MAX &&
           strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == len;
}

const struct config_credential *config_credential_find(const struct config_credentials *c, const char *name)
{
    for (size_t i = 0; i < c->count; i++)
        if (strcmp(c->list[i].name, name) == 0)
            return &c->list[i];
    return NULL;
}

void config_credentials_fini(struct config_credentials *c)
{
    for (size_t i = 0; i < c->count; i++)
        free(c->list[i].password_file);
    free(c->list);
    memset(c, 0, sizeof(*c));
}

/* In Basic a colon ends the name. */
static void read_user(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    struct config_credential *c = target;
    const char *text = cfg_text(r, node, "a user's name");
    if (!text)
        return;
    if (strlen(text) >= sizeof(c->user) || strchr(text, ':'))
        cfg_error(r, node, "'%.40s' is no user's name; write at most %zu characters, without ':'", text,
                  sizeof(c->user) - 1);
    else
        memcpy(c->user, text, strlen(text) + 1);
}

static void read_password_file(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    cfg_path(r, node, &((struct config_credential *)target)->password_file,
             "the path of a file with the password alone in it, as in /etc/fairlead/hub.password");
}

static void read_credential(struct cfg_reader *r, const yaml_node_t *key, const yaml_node_t *value)
{
    static const struct cfg_key_row keys[] = {{"user", read_user}, {"password_file", read_password_file}};
    struct config_credentials *all = &r->config->credentials;
    struct config_credential c = {.name = ""};
    const char *name = cfg_scalar(key);
    size_t errors = r->report->count;
    if (!name_valid(name)) {
        cfg_error(r, key,
                  "'%.70s' cannot name credentials; write at most %d letters, digits, '.', '_' and '-'", name,
                  PLAN_NAME_MAX - 1);
        return;
    }
    memcpy(c.name, name, strlen(name) + 1);
    bool read = cfg_mapping(r, value, "credentials", keys, ARRAY_SIZE(keys), &c);
    if (read && r->report->count == errors && (!c.user[0] || !c.password_file))
        cfg_error(r, value, "credentials '%s' have no %s; write user and password_file", name,
                  c.user[0] ? "password_file" : "user");
    else if (read && all->count == CONFIG_CREDENTIALS_MAX)
        cfg_error(r, value, "there are more than %d credentials; remove some", CONFIG_CREDENTIALS_MAX);
    if (!read || r->report->count != errors) {
        free(c.password_file);
        return;
    }
    all->list = realloc(all->list, (all->count + 1) * sizeof(*all->list));
    CHECK(all->list);
    all->list[all->count++] = c;
}

void cfg_credentials(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    (void)target;
    if (node->type == YAML_SCALAR_NODE && node->data.scalar.length == 0)
        return;
    if (node->type != YAML_MAPPING_NODE) {
        cfg_error(r, node,
                  "credentials must be a mapping but is %s; write 'example:' under it, and 'user:' and "
                  "'password_file:' under that",
                  cfg_kind_name(node));
        return;
    }
    for (yaml_node_pair_t *p = node->data.mapping.pairs.start; p < node->data.mapping.pairs.top; p++) {
        const yaml_node_t *key = cfg_key(r, node, p);
        if (key)
            read_credential(r, key, yaml_document_get_node(&r->doc, p->value));
    }
}
