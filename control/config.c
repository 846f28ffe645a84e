/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One table of keys per mapping of the file; a handler per key reads its value. Nothing stops at the first
 * error, so that all of a file are told at once.
 */
#include "control/config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "check.h"
#include "control/config_yaml.h"

#define STATE_DIR_DEFAULT "/var/lib/fairlead"
#define RUN_DIR_DEFAULT   "/run/fairlead"

/* Bytes of a socket's path with its NUL: what struct sockaddr_un has room for. */
enum { SOCKET_PATH_MAX = sizeof(((struct sockaddr_un *)NULL)->sun_path) };

/* One entry of `listen`, or `admin`, while it is read. */
struct entry {
    struct config_address address;
    bool has_address, has_service;
    const yaml_node_t *at; /* the address in the file */
};

static void read_entry_address(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    struct entry *entry = target;
    const char *hint, *text = cfg_text(r, node, "an address, as in 127.0.0.1:5000");
    entry->at = node;
    if (!text)
        return;
    if (config_address_parse(text, &entry->address, &hint))
        cfg_error(r, node, "'%.60s' is not an address; %s", text, hint);
    else
        entry->has_address = true;
}

static void read_entry_service(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    struct entry *entry = target;
    const char *text = cfg_text(r, node, "registry");
    entry->has_service = true;
    if (text && strcmp(text, "peer") == 0)
        entry->address.service = SERVICE_PEER;
    else if (text && strcmp(text, "registry") != 0)
        cfg_error(r, node, "'%.40s' is not a service; write registry or peer", text);
}

static void read_entry_allow_all(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    struct entry *entry = target;
    cfg_bool(r, node, &entry->address.allow_all);
}

static void read_entry_tls(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    struct entry *entry = target;
    cfg_tls(r, node, &entry->address.tls);
}

/* Whether the address may be used: free of charge on loopback, elsewhere only on the operator's word. */
static bool entry_is_safe(struct cfg_reader *r, struct entry *entry)
{
    const struct plan_tls *tls = &entry->address.tls;
    CHECK(entry->at);
    if (entry->address.service == SERVICE_PEER) {
        entry->address.allow_all = tls->mode == PLAN_TLS_TERMINATE && tls->client_auth == PLAN_AUTH_REQUIRED;
        if (!entry->address.allow_all)
            cfg_error(r, entry->at,
                      "%s is for other replicas, which show certificates; write tls beside it, with "
                      "'certificates', "
                      "'client_auth: required' and 'client_ca'",
                      entry->address.text);
        return entry->address.allow_all;
    }
    if (config_address_is_loopback(&entry->address) || entry->address.allow_all)
        return true;
    bool admin = entry->address.service == SERVICE_ADMIN;
    cfg_error(r, entry->at,
              "%s can be reached from other machines, and everybody there could %s; write 'allow_all: true' "
              "beside it if that is meant, or a loopback address such as 127.0.0.1:%s",
              entry->address.text, admin ? "read the node's figures" : "push, pull and delete",
              strrchr(entry->address.text, ':') + 1);
    return false;
}

static bool address_is_repeated(struct cfg_reader *r, const struct entry *entry,
                                const struct config_address *list, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(list[i].text, entry->address.text) == 0) {
            cfg_error(r, entry->at, "%s is listed twice; remove one of them", entry->address.text);
            return true;
        }
    }
    return false;
}

static void read_listen_entry(struct cfg_reader *r, const yaml_node_t *node)
{
    static const struct cfg_key_row keys[] = {
        {"address", read_entry_address},
        {"service", read_entry_service},
        {"allow_all", read_entry_allow_all},
        {"tls", read_entry_tls},
    };
    struct entry entry = {.address.service = SERVICE_REGISTRY};
    if (!cfg_mapping(r, node, "an entry of listen", keys, ARRAY_SIZE(keys), &entry))
        return;
    if (!entry.at)
        cfg_error(r, node, "the entry has no address; write 'address: 127.0.0.1:5000'");
    if (!entry.has_service)
        cfg_error(r, node, "the entry has no service; write 'service: registry'");
    if (!entry.has_address || !entry_is_safe(r, &entry) ||
        address_is_repeated(r, &entry, r->config->listen, r->listen_count))
        return;
    if (r->listen_count == CONFIG_LISTEN_MAX - 1) {
        cfg_error(r, node, "there are more than %d addresses; remove some", CONFIG_LISTEN_MAX - 1);
        return;
    }
    r->config->listen[r->listen_count++] = entry.address;
}

static void read_listen(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    (void)target;
    r->listen = node;
    if (node->type != YAML_SEQUENCE_NODE) {
        cfg_error(r, node,
                  "listen must be a list but is %s; write '- address: 127.0.0.1:5000' and 'service: "
                  "registry' under it",
                  cfg_kind_name(node));
        return;
    }
    if (node->data.sequence.items.start == node->data.sequence.items.top)
        cfg_error(r, node, "listen names no address; write one, or leave it out for 127.0.0.1:5000");
    for (yaml_node_item_t *i = node->data.sequence.items.start; i < node->data.sequence.items.top; i++)
        read_listen_entry(r, yaml_document_get_node(&r->doc, *i));
}

/* Waits in `target` until the registry's addresses are known, whatever the order in the file. */
static void read_admin(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    static const struct cfg_key_row keys[] = {
        {"address", read_entry_address}, {"allow_all", read_entry_allow_all}, {"tls", read_entry_tls}};
    struct entry *entry = target;
    if (cfg_mapping(r, node, "admin", keys, ARRAY_SIZE(keys), entry) && !entry->at)
        cfg_error(r, node, "admin has no address; write 'address: 127.0.0.1:5080'");
    if (entry->has_address && !entry_is_safe(r, entry))
        entry->has_address = false;
}

static void read_control_socket(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    (void)target;
    cfg_path(r, node, &r->config->control_socket, "the path of a socket, as in /run/fairlead/control.sock");
    const char *path = r->config->control_socket;
    if (path && strlen(path) >= SOCKET_PATH_MAX)
        cfg_error(r, node, "the path of a socket may have %d bytes, this one has %zu; write a shorter one",
                  SOCKET_PATH_MAX - 1, strlen(path));
}

static void read_control_group(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    (void)target;
    cfg_path(r, node, &r->config->control_group, "the name of a group, as in fairlead");
}

static void read_control(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    static const struct cfg_key_row keys[] = {{"socket", read_control_socket}, {"group", read_control_group}};
    cfg_mapping(r, node, "control", keys, ARRAY_SIZE(keys), target);
}

static void read_dataplane_user(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    (void)target;
    cfg_path(r, node, &r->config->dataplane_user, "the name of a user, as in fairlead");
}

static void read_dataplane_binary(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    (void)target;
    cfg_path(r, node, &r->config->dataplane_binary, "a path, as in /usr/libexec/fairlead-dataplane");
}

static void read_dataplane_rings(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    (void)target;
    const char *text = cfg_text(r, node, "auto or a number");
    if (!text)
        return;
    char *end;
    errno = 0;
    unsigned long value = strtoul(text, &end, 10);
    if (strcmp(text, "auto") == 0)
        r->config->dataplane_rings = 0;
    else if (text[0] < '0' || text[0] > '9' || *end || errno || value < 1 || value > RINGS_MAX)
        cfg_error(r, node, "'%.40s' is not a number of rings; write auto or a number from 1 to %d", text,
                  RINGS_MAX);
    else
        r->config->dataplane_rings = (uint32_t)value;
}

static void read_dataplane_groups(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    struct config *config = r->config;
    (void)target;
    if (node->type != YAML_SEQUENCE_NODE) {
        cfg_error(r, node, "dataplane.groups must be a list but is %s; write [docker]", cfg_kind_name(node));
        return;
    }
    for (yaml_node_item_t *i = node->data.sequence.items.start; i < node->data.sequence.items.top; i++) {
        const yaml_node_t *item = yaml_document_get_node(&r->doc, *i);
        const char *text = cfg_text(r, item, "the name of a group, as in docker");
        if (!text)
            continue;
        if (!*text || config->dataplane_group_count == CONFIG_GROUPS_MAX) {
            cfg_error(r, item, "dataplane.groups is a list of at most %d names; write [docker]",
                      CONFIG_GROUPS_MAX);
            return;
        }
        config->dataplane_group[config->dataplane_group_count++] = cfg_text_copy(text);
    }
}

static void read_dataplane(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    static const struct cfg_key_row keys[] = {
        {"user", read_dataplane_user},
        {"rings", read_dataplane_rings},
        {"binary", read_dataplane_binary},
        {"groups", read_dataplane_groups},
    };
    cfg_mapping(r, node, "dataplane", keys, ARRAY_SIZE(keys), target);
}

static void read_store_shared(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    (void)target;
    (void)cfg_bool(r, node, &r->config->store_shared);
}

static void read_store(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    static const struct cfg_key_row keys[] = {{"shared", read_store_shared}};
    cfg_mapping(r, node, "store", keys, ARRAY_SIZE(keys), target);
}

static void read_log_access(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    (void)target;
    cfg_path(r, node, &r->config->log_access, "a path, stdout or none");
}

static void read_log_error(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    (void)target;
    cfg_path(r, node, &r->config->log_error, "a path or stderr");
}

static void read_log(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    static const struct cfg_key_row keys[] = {{"access", read_log_access}, {"error", read_log_error}};
    cfg_mapping(r, node, "log", keys, ARRAY_SIZE(keys), target);
}

static void read_setting(struct cfg_reader *r, const yaml_node_t *key, const yaml_node_t *value)
{
    int id = setting_find(cfg_scalar(key), key->data.scalar.length);
    if (id < 0) {
        const char *near = setting_suggest(cfg_scalar(key), key->data.scalar.length);
        cfg_error(r, key, "unknown setting '%.60s'; %s%s%s", cfg_scalar(key), near ? "did you mean '" : "",
                  near ? near : "`man fairlead.yaml` lists them", near ? "'?" : "");
        return;
    }
    char err[SETTING_ERROR_MAX];
    const char *text = cfg_text(r, value, "a value, as in 10s");
    if (!text)
        return;
    if (setting_parse(id, text, strlen(text), &r->config->settings.value[id], err, sizeof(err)))
        cfg_error(r, value, "%s", err);
    else
        r->config->settings.given[id] = 1;
}

static void read_settings(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    (void)target;
    if (node->type == YAML_SCALAR_NODE && node->data.scalar.length == 0)
        return;
    if (node->type != YAML_MAPPING_NODE) {
        cfg_error(r, node, "settings must be a mapping but is %s; write 'http.idle_timeout: 75s' under it",
                  cfg_kind_name(node));
        return;
    }
    for (yaml_node_pair_t *p = node->data.mapping.pairs.start; p < node->data.mapping.pairs.top; p++) {
        const yaml_node_t *key = cfg_key(r, node, p);
        if (key)
            read_setting(r, key, yaml_document_get_node(&r->doc, p->value));
    }
}

static void read_state(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    (void)target;
    cfg_path(r, node, &r->config->state_dir, "the path of a folder, as in " STATE_DIR_DEFAULT);
}

static void read_run(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    (void)target;
    cfg_path(r, node, &r->config->run_dir, "the path of a folder, as in " RUN_DIR_DEFAULT);
}

static void address_set_default(struct config_address *address, const char *text, enum service_kind service)
{
    const char *hint;
    CHECK(config_address_parse(text, address, &hint) == 0);
    address->service = service;
    address->allow_all = true;
}

/* The admin address is put behind the registry's. */
static void read_root(struct cfg_reader *r, const yaml_node_t *root)
{
    static const struct cfg_key_row keys[] = {
        {"state", read_state},      {"run", read_run},
        {"listen", read_listen},    {"admin", read_admin},
        {"control", read_control},  {"dataplane", read_dataplane},
        {"log", read_log},          {"settings", read_settings},
        {"kernel", cfg_kernel},     {"cluster", cfg_cluster},
        {"services", cfg_services}, {"peers", cfg_peers},
        {"takeover", cfg_takeover}, {"certificates", cfg_certificates},
        {"sources", cfg_sources},   {"policies", cfg_policies},
        {"mirrors", cfg_mirrors},   {"credentials", cfg_credentials},
        {"store", read_store},
    };
    struct config *config = r->config;
    struct entry admin = {.address.service = SERVICE_ADMIN};
    cfg_mapping(r, root, "the file", keys, ARRAY_SIZE(keys), &admin);
    cfg_takeover_finish(r);
    cfg_certificates_finish(r);
    cfg_sources_finish(r);
    if (!r->listen) {
        address_set_default(&config->listen[0], "127.0.0.1:5000", SERVICE_REGISTRY);
        r->listen_count = 1;
    }
    cfg_cluster_listen(r);
    if (!admin.at)
        address_set_default(&admin.address, "127.0.0.1:5080", SERVICE_ADMIN);
    else if (!admin.has_address || address_is_repeated(r, &admin, config->listen, r->listen_count))
        return;
    config->listen[r->listen_count] = admin.address;
    config->listen_count = r->listen_count + 1;
    cfg_services_finish(r);
}

static void read_changed_services(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    ((struct config_changes *)target)->services = true;
    cfg_services(r, node, NULL);
}

static void read_changed_settings(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    ((struct config_changes *)target)->settings = true;
    read_settings(r, node, NULL);
}

static void read_changed_policies(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    ((struct config_changes *)target)->policies = true;
    cfg_policies(r, node, NULL);
}

static void read_changed_mirrors(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    ((struct config_changes *)target)->mirrors = true;
    cfg_mirrors(r, node, NULL);
}

static void read_changed_sources(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    ((struct config_changes *)target)->sources = true;
    cfg_sources(r, node, NULL);
}

static void read_changes(struct cfg_reader *r, const yaml_node_t *root)
{
    static const struct cfg_key_row keys[] = {{"services", read_changed_services},
                                              {"settings", read_changed_settings},
                                              {"policies", read_changed_policies},
                                              {"mirrors", read_changed_mirrors},
                                              {"sources", read_changed_sources}};
    cfg_mapping(r, root, "a file of changes", keys, ARRAY_SIZE(keys), r->changes);
}

/* A second document would be ignored by mistake: it is an error. */
static void check_single_document(struct cfg_reader *r, yaml_parser_t *parser)
{
    yaml_document_t next;
    if (!yaml_parser_load(parser, &next)) {
        cfg_report(r->report, r->name, parser->problem_mark.line + 1, parser->problem_mark.column + 1,
                   "the file is not YAML: %s", parser->problem ? parser->problem : "unreadable");
        return;
    }
    const yaml_node_t *root = yaml_document_get_root_node(&next);
    if (root)
        cfg_error(r, root, "a second document begins here; keep one, without '---' in between");
    yaml_document_delete(&next);
}

static void parse_document(struct cfg_reader *r, yaml_parser_t *parser)
{
    if (!yaml_parser_load(parser, &r->doc)) {
        cfg_report(r->report, r->name, parser->problem_mark.line + 1, parser->problem_mark.column + 1,
                   "the file is not YAML: %s%s%s; check indentation, colons and quotes there",
                   parser->problem ? parser->problem : "unreadable", parser->context ? ", " : "",
                   parser->context ? parser->context : "");
        return;
    }
    const yaml_node_t *root = yaml_document_get_root_node(&r->doc);
    if (root) {
        if (r->changes)
            read_changes(r, root);
        else
            read_root(r, root);
        check_single_document(r, parser);
    }
    yaml_document_delete(&r->doc);
}

static int parse(struct cfg_reader *r, const char *text, size_t len)
{
    yaml_parser_t parser;
    CHECK(yaml_parser_initialize(&parser));
    yaml_parser_set_input_string(&parser, (const unsigned char *)text, len);
    parse_document(r, &parser);
    yaml_parser_delete(&parser);
    return r->report->count ? -EINVAL : 0;
}

int config_parse(struct config *config, const char *name, const char *text, size_t len,
                 struct config_report *report)
{
    struct cfg_reader r = {.config = config, .report = report, .name = name};
    return parse(&r, text, len);
}

int config_parse_changes(struct config *config, const char *name, const char *text, size_t len,
                         struct config_changes *given, struct config_report *report)
{
    struct cfg_reader r = {.config = config, .report = report, .name = name, .changes = given};
    *given = (struct config_changes){.services = false};
    return parse(&r, text, len);
}

int config_set_state(struct config *config, const char *state_dir)
{
    if (!*state_dir)
        return -EINVAL;
    cfg_text_set(&config->state_dir, state_dir);
    return 0;
}

int config_fill_paths(struct config *config, bool privileged)
{
    if (!config->run_dir && privileged)
        config->run_dir = cfg_text_copy(RUN_DIR_DEFAULT);
    else if (!config->run_dir)
        CHECK(asprintf(&config->run_dir, "%s/run", config->state_dir) > 0);
    if (!config->control_socket)
        CHECK(asprintf(&config->control_socket, "%s/control.sock", config->run_dir) > 0);
    return strlen(config->control_socket) < SOCKET_PATH_MAX ? 0 : -ENAMETOOLONG;
}

static int read_whole(const char *path, char *text, size_t cap, size_t *len)
{
    FILE *file = fopen(path, "re");
    if (!file)
        return -errno;
    *len = fread(text, 1, cap, file);
    int err = ferror(file) ? -EIO : 0;
    fclose(file);
    return err;
}

int config_read(struct config *config, const char *path, struct config_report *report)
{
    size_t len = 0;
    char *text = malloc(CONFIG_FILE_BYTES_MAX + 1);
    CHECK(text);
    int err = read_whole(path, text, CONFIG_FILE_BYTES_MAX + 1, &len);
    if (err)
        cfg_report(report, path, 1, 1, "cannot read the configuration: %s; give --config a readable file",
                   strerror(-err));
    else if (len > CONFIG_FILE_BYTES_MAX)
        cfg_report(report, path, 1, 1, "the file has more than %d bytes; this cannot be a configuration",
                   CONFIG_FILE_BYTES_MAX);
    else
        config_parse(config, path, text, len, report);
    free(text);
    return report->count ? -EINVAL : 0;
}

void config_init(struct config *config, const char *state_dir)
{
    memset(config, 0, sizeof(*config));
    config->state_dir = cfg_text_copy(state_dir ? state_dir : STATE_DIR_DEFAULT);
    config->control_group = cfg_text_copy("fairlead");
    config->log_access = cfg_text_copy("stdout");
    config->log_error = cfg_text_copy("stderr");
    address_set_default(&config->listen[0], "127.0.0.1:5000", SERVICE_REGISTRY);
    address_set_default(&config->listen[1], "127.0.0.1:5080", SERVICE_ADMIN);
    config->listen_count = 2;
    config->kernel.instance = cfg_text_copy("default");
}

void config_fini(struct config *config)
{
    free(config->state_dir);
    free(config->run_dir);
    free(config->control_socket);
    free(config->control_group);
    free(config->dataplane_user);
    free(config->dataplane_binary);
    for (size_t i = 0; i < config->dataplane_group_count; i++)
        free(config->dataplane_group[i]);
    free(config->log_access);
    free(config->log_error);
    config_kernel_fini(&config->kernel);
    config_cluster_fini(&config->cluster);
    config_services_fini(&config->services);
    config_certificates_fini(&config->certificates);
    config_credentials_fini(&config->credentials);
    config_sources_fini(&config->sources);
    policy_table_fini(&config->policies);
    mirror_table_fini(&config->mirrors);
    memset(config, 0, sizeof(*config));
}

void config_report_fini(struct config_report *report)
{
    for (size_t i = 0; i < report->count; i++)
        free(report->lines[i]);
    memset(report, 0, sizeof(*report));
}
