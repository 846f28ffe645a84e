/* SPDX-License-Identifier: Apache-2.0 */
/* The section `sources`. */
#include "control/config_sources.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/config_yaml.h"

void config_sources_fini(struct config_sources *s)
{
    free(s->list);
    memset(s, 0, sizeof(*s));
}

/* Components as in a repository's name, each with a '/' behind it, so that no name is cut in the middle. */
static bool prefix_valid(const char *text)
{
    size_t len = strlen(text);
    if (len == 0 || len >= REPO_NAME_MAX || text[0] == '/' || text[len - 1] != '/' || strstr(text, "//"))
        return false;
    return strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789._-/") == len;
}

static void read_source_prefix(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    struct config_source *c = target;
    const char *text = cfg_text(r, node, "the beginning of repositories' names, as in hub/");
    if (!text)
        return;
    if (!prefix_valid(text)) {
        cfg_error(r, node,
                  "'%.60s' is not the beginning of repositories' names; write it as hub/ or mirror/hub/",
                  text);
        return;
    }
    c->source.prefix_len = (uint16_t)strlen(text);
    memcpy(c->source.prefix, text, strlen(text) + 1);
}

static void read_source_upstream(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    struct config_source *c = target;
    const char *text = cfg_text(r, node, "what stands there in place of prefix, as in library/");
    if (!text)
        return;
    if (!prefix_valid(text)) {
        cfg_error(
            r, node,
            "'%.60s' is not the beginning of repositories' names; write it as library/, or leave it out",
            text);
        return;
    }
    c->source.upstream_len = (uint16_t)strlen(text);
    memcpy(c->source.upstream, text, strlen(text) + 1);
}

static void read_source_service(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    struct config_source *c = target;
    const char *text = cfg_text(r, node, "the name of a service with path: proxy");
    if (!text)
        return;
    if (strlen(text) >= PLAN_NAME_MAX)
        cfg_error(r, node, "'%.60s...' is not the name of a service; write one of at most %d letters", text,
                  PLAN_NAME_MAX - 1);
    else
        memcpy(c->service, text, strlen(text) + 1);
}

static void read_source_push(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    struct config_source *c = target;
    bool push = false;
    if (cfg_bool(r, node, &push))
        c->source.push = push;
}

static void read_source_credentials(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    struct config_source *c = target;
    const char *text = cfg_text(r, node, "a name of the section credentials");
    if (text && strlen(text) < sizeof(c->credentials))
        memcpy(c->credentials, text, strlen(text) + 1);
    else if (text)
        cfg_error(r, node, "'%.60s...' is not the name of credentials", text);
}

static void read_source_token_server(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    struct config_source *c = target;
    const char *text = cfg_text(r, node, "the beginning of a URL, as in https://auth.example.com/");
    if (!text)
        return;
    bool url = strncmp(text, "https://", 8) == 0 || strncmp(text, "http://", 7) == 0;
    if (!url || strlen(text) >= sizeof(c->token_server) || strpbrk(strstr(text, "//") + 2, "@#?\\ ") ||
        strstr(text, "//")[2] == '\0')
        cfg_error(r, node,
                  "'%.60s' is not where a token server is; write the beginning of its URL, as in "
                  "https://auth.example.com/",
                  text);
    else
        memcpy(c->token_server, text, strlen(text) + 1);
}

static bool redirect_host_valid(const char *text)
{
    size_t len = strlen(text);
    if (text[0] == '*' && text[1] != '.')
        return false;
    return len > 0 && len < PLAN_DOMAIN_MAX &&
           strspn(text + (text[0] == '*'),
                  "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._:") ==
               len - (text[0] == '*');
}

static void read_source_redirect_hosts(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    struct config_source *c = target;
    if (node->type != YAML_SEQUENCE_NODE) {
        cfg_error(r, node, "redirect_hosts must be a list but is %s; write '- cdn.example.com' under it",
                  cfg_kind_name(node));
        return;
    }
    for (yaml_node_item_t *i = node->data.sequence.items.start; i < node->data.sequence.items.top; i++) {
        const yaml_node_t *item = yaml_document_get_node(&r->doc, *i);
        const char *text = cfg_text(r, item, "a host, as in cdn.example.com or *.example.com");
        if (!text)
            continue;
        if (c->redirect_host_count == CONFIG_REDIRECT_HOSTS_MAX)
            cfg_error(r, item, "there are more than %d hosts; write *.domain", CONFIG_REDIRECT_HOSTS_MAX);
        else if (!redirect_host_valid(text))
            cfg_error(r, item, "'%.60s' is no host; write it as in cdn.example.com or *.example.com", text);
        else
            memcpy(c->redirect_host[c->redirect_host_count++], text, strlen(text) + 1);
    }
}

/* In place of a prefix: other replicas, for all repositories. */
static void read_source_peers(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    struct config_source *c = target;
    bool peers = false;
    if (cfg_bool(r, node, &peers))
        c->source.kind = peers ? PLAN_SOURCE_PEERS : PLAN_SOURCE_REGISTRY;
}

static bool is_repeated(const struct config_sources *all, const struct config_source *c)
{
    for (size_t i = 0; i < all->count; i++)
        if (strcmp(all->list[i].source.prefix, c->source.prefix) == 0)
            return true;
    return false;
}

/* Of its prefix (FNV-1a), so that it stays what it is when others come and go; never 0. */
static uint64_t id_of(const struct plan_source *s)
{
    uint64_t hash = 0xcbf29ce484222325;
    for (size_t i = 0; i < s->prefix_len; i++)
        hash = (hash ^ (uint8_t)s->prefix[i]) * 0x100000001b3;
    return hash | 1;
}

static void read_source(struct cfg_reader *r, const yaml_node_t *node)
{
    static const struct cfg_key_row keys[] = {{"prefix", read_source_prefix},
                                              {"upstream", read_source_upstream},
                                              {"service", read_source_service},
                                              {"push", read_source_push},
                                              {"peers", read_source_peers},
                                              {"credentials", read_source_credentials},
                                              {"token_server", read_source_token_server},
                                              {"redirect_hosts", read_source_redirect_hosts}};
    struct config_sources *all = &r->config->sources;
    struct config_source c = {.source = {.kind = PLAN_SOURCE_REGISTRY, .service = PLAN_NO_SERVICE}};
    size_t errors = r->report->count;
    if (!cfg_mapping(r, node, "an entry of sources", keys, ARRAY_SIZE(keys), &c) ||
        r->report->count != errors)
        return;
    bool peers = c.source.kind == PLAN_SOURCE_PEERS;
    if (peers && (c.source.prefix_len || c.source.upstream_len))
        cfg_error(r, node, "peers have the same repositories as this node; leave prefix and upstream out");
    else if (!peers && !c.source.prefix_len)
        cfg_error(r, node, "the entry has no prefix; write 'prefix: hub/'");
    else if (!c.service[0])
        cfg_error(r, node, "the entry has no service; write the name of one with path: proxy");
    else if (is_repeated(all, &c))
        cfg_error(r, node, "%s is listed twice; remove one of them", peers ? "peers" : c.source.prefix);
    else if (all->count == PLAN_SOURCES_MAX - 1) /* one place is the peers' */
        cfg_error(r, node, "there are more than %d sources; remove some", PLAN_SOURCES_MAX - 1);
    else {
        c.source.id = peers ? 0 : id_of(&c.source);
        all->list = realloc(all->list, (all->count + 1) * sizeof(*all->list));
        CHECK(all->list);
        all->list[all->count++] = c;
    }
}

void cfg_sources_finish(struct cfg_reader *r)
{
    const struct config_sources *all = &r->config->sources;
    for (size_t i = 0; i < all->count; i++)
        if (all->list[i].credentials[0] &&
            !config_credential_find(&r->config->credentials, all->list[i].credentials))
            cfg_error(r, r->sources,
                      "the source %s has credentials '%s', which are not in the section credentials",
                      all->list[i].source.prefix, all->list[i].credentials);
}

void cfg_sources(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    (void)target;
    r->sources = node;
    if (node->type == YAML_SCALAR_NODE && node->data.scalar.length == 0)
        return;
    if (node->type != YAML_SEQUENCE_NODE) {
        cfg_error(r, node,
                  "sources must be a list but is %s; write '- prefix: hub/' and 'service: NAME' under it",
                  cfg_kind_name(node));
        return;
    }
    for (yaml_node_item_t *i = node->data.sequence.items.start; i < node->data.sequence.items.top; i++)
        read_source(r, yaml_document_get_node(&r->doc, *i));
}
