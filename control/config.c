/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One table of keys per mapping of the file; a handler per key reads its value. Nothing stops at the first
 * error, so that all of a file are told at once.
 */
#include "control/config.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <yaml.h>

#include "check.h"

#define STATE_DIR_DEFAULT "/var/lib/fairlead"
#define RUN_DIR_DEFAULT   "/run/fairlead"

/* Bytes of a socket's path with its NUL: what struct sockaddr_un has room for. */
enum { SOCKET_PATH_MAX = sizeof(((struct sockaddr_un *)NULL)->sun_path) };

struct reader {
    yaml_document_t doc;
    struct config *config;
    struct config_report *report;
    const char *name;
    const yaml_node_t *listen; /* of the file, NULL if it has none */
    size_t listen_count;       /* registry addresses read */
};

struct key {
    const char *name;
    void (*read)(struct reader *r, const yaml_node_t *value, void *target);
};

static char *text_copy(const char *text)
{
    char *copy = strdup(text);
    CHECK(copy);
    return copy;
}

static void text_set(char **field, const char *text)
{
    free(*field);
    *field = text_copy(text);
}

__attribute__((format(printf, 5, 6))) static void
report_at(struct config_report *report, const char *name, size_t line, size_t column, const char *format, ...)
{
    if (report->count == CONFIG_ERRORS_MAX) {
        report->more++;
        return;
    }
    char text[CONFIG_ERROR_BYTES];
    int used = snprintf(text, sizeof(text), "%s:%zu:%zu: ", name, line, column);
    CHECK(used > 0);
    if ((size_t)used < sizeof(text)) {
        va_list args;
        va_start(args, format);
        vsnprintf(text + used, sizeof(text) - (size_t)used, format, args);
        va_end(args);
    }
    /* What is quoted from the file may have anything in it, and an error is one line. */
    for (char *c = text; *c; c++)
        if ((unsigned char)*c < ' ' || *c == 0x7f)
            *c = '?';
    report->lines[report->count++] = text_copy(text);
}

#define report_node(r, node, ...)                                                                            \
    report_at((r)->report, (r)->name, (node)->start_mark.line + 1, (node)->start_mark.column + 1, __VA_ARGS__)

static const char *kind_name(const yaml_node_t *node)
{
    if (node->type == YAML_SCALAR_NODE)
        return node->data.scalar.length ? "a single value" : "empty";
    return node->type == YAML_SEQUENCE_NODE ? "a list" : "a mapping";
}

static const char *scalar_text(const yaml_node_t *node)
{
    return (const char *)node->data.scalar.value;
}

/* The text of a scalar that is neither empty nor has a NUL or a control character in it; NULL after a report.
 */
static const char *read_text(struct reader *r, const yaml_node_t *node, const char *example)
{
    if (node->type != YAML_SCALAR_NODE || node->data.scalar.length == 0) {
        report_node(r, node, "expected a value here but it is %s; write %s", kind_name(node), example);
        return NULL;
    }
    const char *text = scalar_text(node);
    for (size_t i = 0; i < node->data.scalar.length; i++) {
        if ((unsigned char)text[i] < ' ' || text[i] == 0x7f) {
            report_node(r, node, "the value has a control character in it; write %s", example);
            return NULL;
        }
    }
    return text;
}

static bool read_bool(struct reader *r, const yaml_node_t *node, bool *out)
{
    const char *text = read_text(r, node, "true or false");
    if (!text)
        return false;
    if (strcmp(text, "true") != 0 && strcmp(text, "false") != 0) {
        report_node(r, node, "'%.40s' is neither true nor false; write one of them", text);
        return false;
    }
    *out = text[0] == 't';
    return true;
}

static void read_path(struct reader *r, const yaml_node_t *node, char **field, const char *example)
{
    const char *text = read_text(r, node, example);
    if (text)
        text_set(field, text);
}

static void report_unknown_key(struct reader *r, const yaml_node_t *node, const char *where,
                               const struct key *keys, size_t count)
{
    const char *names[16];
    char list[256] = "";
    CHECK(count <= ARRAY_SIZE(names));
    for (size_t i = 0; i < count; i++) {
        names[i] = keys[i].name;
        size_t used = strlen(list);
        snprintf(list + used, sizeof(list) - used, "%s%s", i ? ", " : "", keys[i].name);
    }
    const char *near = text_nearest(scalar_text(node), node->data.scalar.length, names, count);
    if (near)
        report_node(r, node, "unknown key '%.40s' in %s; did you mean '%s'?", scalar_text(node), where, near);
    else
        report_node(r, node, "unknown key '%.40s' in %s; the keys are %s", scalar_text(node), where, list);
}

/* Whether an earlier pair of the mapping has the same key. */
static bool key_is_repeated(struct reader *r, const yaml_node_t *mapping, const yaml_node_pair_t *pair)
{
    const yaml_node_t *key = yaml_document_get_node(&r->doc, pair->key);
    for (const yaml_node_pair_t *p = mapping->data.mapping.pairs.start; p < pair; p++) {
        const yaml_node_t *other = yaml_document_get_node(&r->doc, p->key);
        if (other->type == YAML_SCALAR_NODE && strcmp(scalar_text(other), scalar_text(key)) == 0) {
            report_node(r, key, "'%.40s' is given twice, first in line %zu; remove one of them",
                        scalar_text(key), other->start_mark.line + 1);
            return true;
        }
    }
    return false;
}

/* The key of a pair as a scalar node that is not a repetition, or NULL after a report. */
static const yaml_node_t *read_key(struct reader *r, const yaml_node_t *mapping, const yaml_node_pair_t *pair)
{
    const yaml_node_t *key = yaml_document_get_node(&r->doc, pair->key);
    if (key->type != YAML_SCALAR_NODE) {
        report_node(r, key, "a key must be a word but is %s; write 'key: value'", kind_name(key));
        return NULL;
    }
    return key_is_repeated(r, mapping, pair) ? NULL : key;
}

static bool read_mapping(struct reader *r, const yaml_node_t *node, const char *where, const struct key *keys,
                         size_t count, void *target)
{
    if (node->type != YAML_MAPPING_NODE) {
        report_node(r, node, "%s must be a mapping but is %s; write 'key: value' lines under it", where,
                    kind_name(node));
        return false;
    }
    for (yaml_node_pair_t *p = node->data.mapping.pairs.start; p < node->data.mapping.pairs.top; p++) {
        const yaml_node_t *key = read_key(r, node, p);
        if (!key)
            continue;
        size_t i = 0;
        while (i < count && strcmp(keys[i].name, scalar_text(key)) != 0)
            i++;
        if (i == count)
            report_unknown_key(r, key, where, keys, count);
        else
            keys[i].read(r, yaml_document_get_node(&r->doc, p->value), target);
    }
    return true;
}

/* One entry of `listen`, or `admin`, while it is read. */
struct entry {
    struct config_address address;
    bool has_address, has_service;
    const yaml_node_t *at; /* the address in the file */
};

static void read_entry_address(struct reader *r, const yaml_node_t *node, void *target)
{
    struct entry *entry = target;
    const char *hint, *text = read_text(r, node, "an address, as in 127.0.0.1:5000");
    entry->at = node;
    if (!text)
        return;
    if (config_address_parse(text, &entry->address, &hint))
        report_node(r, node, "'%.60s' is not an address; %s", text, hint);
    else
        entry->has_address = true;
}

static void read_entry_service(struct reader *r, const yaml_node_t *node, void *target)
{
    struct entry *entry = target;
    const char *text = read_text(r, node, "registry");
    entry->has_service = true;
    if (text && strcmp(text, "registry") != 0)
        report_node(r, node, "'%.40s' is not a service; write registry", text);
}

static void read_entry_allow_all(struct reader *r, const yaml_node_t *node, void *target)
{
    struct entry *entry = target;
    read_bool(r, node, &entry->address.allow_all);
}

/* Whether the address may be used: free of charge on loopback, elsewhere only on the operator's word. */
static bool entry_is_safe(struct reader *r, const struct entry *entry)
{
    if (config_address_is_loopback(&entry->address) || entry->address.allow_all)
        return true;
    bool admin = entry->address.service == SERVICE_ADMIN;
    CHECK(entry->at);
    report_node(
        r, entry->at,
        "%s can be reached from other machines, and everybody there could %s; write 'allow_all: true' "
        "beside it if that is meant, or a loopback address such as 127.0.0.1:%s",
        entry->address.text, admin ? "read the node's figures" : "push, pull and delete",
        strrchr(entry->address.text, ':') + 1);
    return false;
}

static bool address_is_repeated(struct reader *r, const struct entry *entry,
                                const struct config_address *list, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(list[i].text, entry->address.text) == 0) {
            report_node(r, entry->at, "%s is listed twice; remove one of them", entry->address.text);
            return true;
        }
    }
    return false;
}

static void read_listen_entry(struct reader *r, const yaml_node_t *node)
{
    static const struct key keys[] = {
        {"address", read_entry_address},
        {"service", read_entry_service},
        {"allow_all", read_entry_allow_all},
    };
    struct entry entry = {.address.service = SERVICE_REGISTRY};
    if (!read_mapping(r, node, "an entry of listen", keys, ARRAY_SIZE(keys), &entry))
        return;
    if (!entry.at)
        report_node(r, node, "the entry has no address; write 'address: 127.0.0.1:5000'");
    if (!entry.has_service)
        report_node(r, node, "the entry has no service; write 'service: registry'");
    if (!entry.has_address || !entry_is_safe(r, &entry) ||
        address_is_repeated(r, &entry, r->config->listen, r->listen_count))
        return;
    if (r->listen_count == PLAN_LISTENERS_MAX - 1) {
        report_node(r, node, "there are more than %d addresses; remove some", PLAN_LISTENERS_MAX - 1);
        return;
    }
    r->config->listen[r->listen_count++] = entry.address;
}

static void read_listen(struct reader *r, const yaml_node_t *node, void *target)
{
    (void)target;
    r->listen = node;
    if (node->type != YAML_SEQUENCE_NODE) {
        report_node(r, node,
                    "listen must be a list but is %s; write '- address: 127.0.0.1:5000' and 'service: "
                    "registry' under it",
                    kind_name(node));
        return;
    }
    if (node->data.sequence.items.start == node->data.sequence.items.top)
        report_node(r, node, "listen names no address; write one, or leave it out for 127.0.0.1:5000");
    for (yaml_node_item_t *i = node->data.sequence.items.start; i < node->data.sequence.items.top; i++)
        read_listen_entry(r, yaml_document_get_node(&r->doc, *i));
}

/* Waits in `target` until the registry's addresses are known, whatever the order in the file. */
static void read_admin(struct reader *r, const yaml_node_t *node, void *target)
{
    static const struct key keys[] = {{"address", read_entry_address}, {"allow_all", read_entry_allow_all}};
    struct entry *entry = target;
    if (read_mapping(r, node, "admin", keys, ARRAY_SIZE(keys), entry) && !entry->at)
        report_node(r, node, "admin has no address; write 'address: 127.0.0.1:5080'");
    if (entry->has_address && !entry_is_safe(r, entry))
        entry->has_address = false;
}

static void read_control_socket(struct reader *r, const yaml_node_t *node, void *target)
{
    (void)target;
    read_path(r, node, &r->config->control_socket, "the path of a socket, as in /run/fairlead/control.sock");
    const char *path = r->config->control_socket;
    if (path && strlen(path) >= SOCKET_PATH_MAX)
        report_node(r, node, "the path of a socket may have %d bytes, this one has %zu; write a shorter one",
                    SOCKET_PATH_MAX - 1, strlen(path));
}

static void read_control_group(struct reader *r, const yaml_node_t *node, void *target)
{
    (void)target;
    read_path(r, node, &r->config->control_group, "the name of a group, as in fairlead");
}

static void read_control(struct reader *r, const yaml_node_t *node, void *target)
{
    static const struct key keys[] = {{"socket", read_control_socket}, {"group", read_control_group}};
    read_mapping(r, node, "control", keys, ARRAY_SIZE(keys), target);
}

static void read_dataplane_user(struct reader *r, const yaml_node_t *node, void *target)
{
    (void)target;
    read_path(r, node, &r->config->dataplane_user, "the name of a user, as in fairlead");
}

static void read_dataplane_binary(struct reader *r, const yaml_node_t *node, void *target)
{
    (void)target;
    read_path(r, node, &r->config->dataplane_binary, "a path, as in /usr/libexec/fairlead-dataplane");
}

static void read_dataplane_rings(struct reader *r, const yaml_node_t *node, void *target)
{
    (void)target;
    const char *text = read_text(r, node, "auto or a number");
    if (!text)
        return;
    char *end;
    errno = 0;
    unsigned long value = strtoul(text, &end, 10);
    if (strcmp(text, "auto") == 0)
        r->config->dataplane_rings = 0;
    else if (text[0] < '0' || text[0] > '9' || *end || errno || value < 1 || value > RINGS_MAX)
        report_node(r, node, "'%.40s' is not a number of rings; write auto or a number from 1 to %d", text,
                    RINGS_MAX);
    else
        r->config->dataplane_rings = (uint32_t)value;
}

static void read_dataplane(struct reader *r, const yaml_node_t *node, void *target)
{
    static const struct key keys[] = {
        {"user", read_dataplane_user},
        {"rings", read_dataplane_rings},
        {"binary", read_dataplane_binary},
    };
    read_mapping(r, node, "dataplane", keys, ARRAY_SIZE(keys), target);
}

static void read_log_access(struct reader *r, const yaml_node_t *node, void *target)
{
    (void)target;
    read_path(r, node, &r->config->log_access, "a path, stdout or none");
}

static void read_log_error(struct reader *r, const yaml_node_t *node, void *target)
{
    (void)target;
    read_path(r, node, &r->config->log_error, "a path or stderr");
}

static void read_log(struct reader *r, const yaml_node_t *node, void *target)
{
    static const struct key keys[] = {{"access", read_log_access}, {"error", read_log_error}};
    read_mapping(r, node, "log", keys, ARRAY_SIZE(keys), target);
}

static void read_setting(struct reader *r, const yaml_node_t *key, const yaml_node_t *value)
{
    int id = setting_find(scalar_text(key), key->data.scalar.length);
    if (id < 0) {
        const char *near = setting_suggest(scalar_text(key), key->data.scalar.length);
        report_node(r, key, "unknown setting '%.60s'; %s%s%s", scalar_text(key), near ? "did you mean '" : "",
                    near ? near : "`man fairlead.yaml` lists them", near ? "'?" : "");
        return;
    }
    char err[SETTING_ERROR_MAX];
    const char *text = read_text(r, value, "a value, as in 10s");
    if (!text)
        return;
    if (setting_parse(id, text, strlen(text), &r->config->settings.value[id], err, sizeof(err)))
        report_node(r, value, "%s", err);
    else
        r->config->settings.given[id] = 1;
}

static void read_settings(struct reader *r, const yaml_node_t *node, void *target)
{
    (void)target;
    if (node->type == YAML_SCALAR_NODE && node->data.scalar.length == 0)
        return;
    if (node->type != YAML_MAPPING_NODE) {
        report_node(r, node, "settings must be a mapping but is %s; write 'http.idle_timeout: 75s' under it",
                    kind_name(node));
        return;
    }
    for (yaml_node_pair_t *p = node->data.mapping.pairs.start; p < node->data.mapping.pairs.top; p++) {
        const yaml_node_t *key = read_key(r, node, p);
        if (key)
            read_setting(r, key, yaml_document_get_node(&r->doc, p->value));
    }
}

static void read_state(struct reader *r, const yaml_node_t *node, void *target)
{
    (void)target;
    read_path(r, node, &r->config->state_dir, "the path of a folder, as in " STATE_DIR_DEFAULT);
}

static void read_run(struct reader *r, const yaml_node_t *node, void *target)
{
    (void)target;
    read_path(r, node, &r->config->run_dir, "the path of a folder, as in " RUN_DIR_DEFAULT);
}

static void address_set_default(struct config_address *address, const char *text, enum service_kind service)
{
    const char *hint;
    CHECK(config_address_parse(text, address, &hint) == 0);
    address->service = service;
    address->allow_all = true;
}

/* The admin address is put behind the registry's. */
static void read_root(struct reader *r, const yaml_node_t *root)
{
    static const struct key keys[] = {
        {"state", read_state}, {"run", read_run},           {"listen", read_listen},
        {"admin", read_admin}, {"control", read_control},   {"dataplane", read_dataplane},
        {"log", read_log},     {"settings", read_settings},
    };
    struct config *config = r->config;
    struct entry admin = {.address.service = SERVICE_ADMIN};
    read_mapping(r, root, "the file", keys, ARRAY_SIZE(keys), &admin);
    if (!r->listen) {
        address_set_default(&config->listen[0], "127.0.0.1:5000", SERVICE_REGISTRY);
        r->listen_count = 1;
    }
    if (!admin.at)
        address_set_default(&admin.address, "127.0.0.1:5080", SERVICE_ADMIN);
    else if (!admin.has_address || address_is_repeated(r, &admin, config->listen, r->listen_count))
        return;
    config->listen[r->listen_count] = admin.address;
    config->listen_count = r->listen_count + 1;
}

/* A second document would be ignored by mistake: it is an error. */
static void check_single_document(struct reader *r, yaml_parser_t *parser)
{
    yaml_document_t next;
    if (!yaml_parser_load(parser, &next)) {
        report_at(r->report, r->name, parser->problem_mark.line + 1, parser->problem_mark.column + 1,
                  "the file is not YAML: %s", parser->problem ? parser->problem : "unreadable");
        return;
    }
    const yaml_node_t *root = yaml_document_get_root_node(&next);
    if (root)
        report_node(r, root, "a second document begins here; keep one, without '---' in between");
    yaml_document_delete(&next);
}

static void parse_document(struct reader *r, yaml_parser_t *parser)
{
    if (!yaml_parser_load(parser, &r->doc)) {
        report_at(r->report, r->name, parser->problem_mark.line + 1, parser->problem_mark.column + 1,
                  "the file is not YAML: %s%s%s; check indentation, colons and quotes there",
                  parser->problem ? parser->problem : "unreadable", parser->context ? ", " : "",
                  parser->context ? parser->context : "");
        return;
    }
    const yaml_node_t *root = yaml_document_get_root_node(&r->doc);
    if (root) {
        read_root(r, root);
        check_single_document(r, parser);
    }
    yaml_document_delete(&r->doc);
}

int config_parse(struct config *config, const char *name, const char *text, size_t len,
                 struct config_report *report)
{
    yaml_parser_t parser;
    struct reader r = {.config = config, .report = report, .name = name};
    CHECK(yaml_parser_initialize(&parser));
    yaml_parser_set_input_string(&parser, (const unsigned char *)text, len);
    parse_document(&r, &parser);
    yaml_parser_delete(&parser);
    return report->count ? -EINVAL : 0;
}

int config_set_state(struct config *config, const char *state_dir)
{
    if (!*state_dir)
        return -EINVAL;
    text_set(&config->state_dir, state_dir);
    return 0;
}

int config_fill_paths(struct config *config, bool privileged)
{
    if (!config->run_dir && privileged)
        config->run_dir = text_copy(RUN_DIR_DEFAULT);
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
        report_at(report, path, 1, 1, "cannot read the configuration: %s; give --config a readable file",
                  strerror(-err));
    else if (len > CONFIG_FILE_BYTES_MAX)
        report_at(report, path, 1, 1, "the file has more than %d bytes; this cannot be a configuration",
                  CONFIG_FILE_BYTES_MAX);
    else
        config_parse(config, path, text, len, report);
    free(text);
    return report->count ? -EINVAL : 0;
}

void config_init(struct config *config, const char *state_dir)
{
    memset(config, 0, sizeof(*config));
    config->state_dir = text_copy(state_dir ? state_dir : STATE_DIR_DEFAULT);
    config->control_group = text_copy("fairlead");
    config->log_access = text_copy("stdout");
    config->log_error = text_copy("stderr");
    address_set_default(&config->listen[0], "127.0.0.1:5000", SERVICE_REGISTRY);
    address_set_default(&config->listen[1], "127.0.0.1:5080", SERVICE_ADMIN);
    config->listen_count = 2;
}

void config_fini(struct config *config)
{
    free(config->state_dir);
    free(config->run_dir);
    free(config->control_socket);
    free(config->control_group);
    free(config->dataplane_user);
    free(config->dataplane_binary);
    free(config->log_access);
    free(config->log_error);
    memset(config, 0, sizeof(*config));
}

void config_report_fini(struct config_report *report)
{
    for (size_t i = 0; i < report->count; i++)
        free(report->lines[i]);
    memset(report, 0, sizeof(*report));
}
