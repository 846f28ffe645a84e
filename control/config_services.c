/* SPDX-License-Identifier: Apache-2.0 */
/* The sections services, peers and takeover. Fields have the names and texts of control/state/service.h. */
#include "control/config_services.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/config_yaml.h"

enum { FIELD_KEYS_MAX = 96, LIST_TEXT_MAX = 640 };

void config_services_fini(struct config_services *s)
{
    svc_table_fini(&s->table);
    free(s->peer);
    memset(s, 0, sizeof(*s));
}

static void *copy_of(const void *from, size_t count, size_t size)
{
    void *copy = calloc(count + 1, size);
    CHECK(copy);
    if (count)
        memcpy(copy, from, count * size);
    return copy;
}

void config_services_copy(struct config_services *to, const struct config_services *from)
{
    const struct svc_table *t = &from->table;
    *to = *from;
    to->table.service = copy_of(t->service, t->count, sizeof(*t->service));
    to->table.backend = copy_of(t->backend, t->backend_count, sizeof(*t->backend));
    to->peer = copy_of(from->peer, from->peer_count, sizeof(*from->peer));
}

/* Room for one more in a list that grows by doubling. */
static void *one_more(void *list, size_t count, size_t size)
{
    if (count & (count - 1))
        return list;
    list = reallocarray(list, count ? count * 2 : 1, size);
    CHECK(list);
    return list;
}

static void report_unknown(struct cfg_reader *r, const yaml_node_t *key, const char *what,
                           const char *const *names, size_t count)
{
    const char *near = text_nearest(cfg_scalar(key), key->data.scalar.length, names, count);
    cfg_error(r, key, "unknown key '%.40s' of a %s; %s%s%s", cfg_scalar(key), what,
              near ? "did you mean '" : "`man fairlead.yaml` lists them", near ? near : "", near ? "'?" : "");
}

/* Sets a field of a service or backend from a pair of the file. */
static void set_service_field(struct cfg_reader *r, struct svc *s, const char *prefix, const yaml_node_t *key,
                              const yaml_node_t *value)
{
    char name[64], err[SVC_ERROR_MAX];
    const char *names[FIELD_KEYS_MAX];
    size_t count = svc_field_count(), prefix_len = strlen(prefix), shown = 0;
    snprintf(name, sizeof(name), "%s%.40s", prefix, cfg_scalar(key));
    for (size_t i = 0; i < count; i++)
        if (strncmp(svc_field_key(i), prefix, prefix_len) == 0)
            names[shown++] = svc_field_key(i) + prefix_len;
    char scratch[SVC_TEXT_MAX];
    if (!svc_field_text(s, name, scratch)) {
        report_unknown(r, key, "service", names, shown);
        return;
    }
    char list[LIST_TEXT_MAX];
    const char *text = cfg_list_text(r, value, "a value, as `man fairlead.yaml` says", list, sizeof(list));
    if (text && svc_field_set(s, name, text, err))
        cfg_error(r, value, "%s", err);
}

/* A mapping whose keys are fields of one group. */
static void read_group(struct cfg_reader *r, struct svc *s, const char *group, const yaml_node_t *node)
{
    char prefix[32];
    snprintf(prefix, sizeof(prefix), "%s.", group);
    for (yaml_node_pair_t *p = node->data.mapping.pairs.start; p < node->data.mapping.pairs.top; p++) {
        const yaml_node_t *key = cfg_key(r, node, p);
        if (key)
            set_service_field(r, s, prefix, key, yaml_document_get_node(&r->doc, p->value));
    }
}

/* The value of a key of a mapping, NULL if it has none. */
static const yaml_node_t *value_of(struct cfg_reader *r, const yaml_node_t *mapping, const char *name)
{
    for (yaml_node_pair_t *p = mapping->data.mapping.pairs.start; p < mapping->data.mapping.pairs.top; p++) {
        const yaml_node_t *key = yaml_document_get_node(&r->doc, p->key);
        if (key->type == YAML_SCALAR_NODE && strcmp(cfg_scalar(key), name) == 0)
            return yaml_document_get_node(&r->doc, p->value);
    }
    return NULL;
}

static bool read_name(struct cfg_reader *r, const yaml_node_t *node, char out[SVC_NAME_MAX + 1])
{
    const char *text = cfg_text(r, node, "a name, as in web");
    if (!text)
        return false;
    if (!svc_name_valid(text, strlen(text))) {
        cfg_error(r, node, "'%.40s' is not a name; write 1 to %d letters, digits, '.', '_', '-' and ':'",
                  text, SVC_NAME_MAX);
        return false;
    }
    memcpy(out, text, strlen(text) + 1);
    return true;
}

static void set_backend_field(struct cfg_reader *r, struct svc_backend *b, const yaml_node_t *key,
                              const yaml_node_t *value)
{
    char err[SVC_ERROR_MAX], scratch[SVC_TEXT_MAX];
    const char *names[FIELD_KEYS_MAX] = {"name"};
    size_t count = svc_backend_field_count();
    for (size_t i = 0; i < count; i++)
        names[i + 1] = svc_backend_field_key(i);
    if (strcmp(cfg_scalar(key), "name") == 0) {
        read_name(r, value, b->name);
        return;
    }
    if (!svc_backend_field_text(b, cfg_scalar(key), scratch)) {
        report_unknown(r, key, "backend", names, count + 1);
        return;
    }
    const char *text = cfg_text(r, value, "a value, as `man fairlead.yaml` says");
    if (text && svc_backend_field_set(b, cfg_scalar(key), text, err))
        cfg_error(r, value, "%s", err);
}

static void read_backend(struct cfg_reader *r, const struct svc *s, const yaml_node_t *node)
{
    struct svc_table *t = &r->config->services.table;
    struct svc_backend b;
    char err[SVC_ERROR_MAX];
    if (node->type != YAML_MAPPING_NODE) {
        cfg_error(r, node, "a backend must be a mapping but is %s; write '- address: 10.0.0.1:80'",
                  cfg_kind_name(node));
        return;
    }
    svc_backend_init(&b);
    b.origin = SVC_FROM_FILE;
    b.revision = node->start_mark.line + 1; /* until the file is read */
    size_t errors = r->report->count;
    for (yaml_node_pair_t *p = node->data.mapping.pairs.start; p < node->data.mapping.pairs.top; p++) {
        const yaml_node_t *key = cfg_key(r, node, p);
        if (key)
            set_backend_field(r, &b, key, yaml_document_get_node(&r->doc, p->value));
    }
    if (b.address.port == 0 && !svc_backend_is_unix(&b) && r->report->count == errors)
        cfg_error(r, node, "the backend has no address; write 'address: 10.0.0.1:80'");
    if (r->report->count != errors)
        return;
    if (!b.name[0])
        svc_backend_name_default(&b, b.name);
    if (s->address.port && svc_backend_check(s, &b, err))
        cfg_error(r, node, "%s", err);
    t->backend = one_more(t->backend, t->backend_count, sizeof(*t->backend));
    t->backend[t->backend_count++] = b;
}

static void read_backends(struct cfg_reader *r, struct svc *s, const yaml_node_t *node)
{
    if (node->type != YAML_SEQUENCE_NODE) {
        cfg_error(r, node, "backends must be a list but is %s; write '- address: 10.0.0.1:80' under it",
                  cfg_kind_name(node));
        return;
    }
    size_t count = (size_t)(node->data.sequence.items.top - node->data.sequence.items.start);
    if (count > SVC_BACKENDS_MAX) {
        cfg_error(r, node, "the service has %zu backends; %d is the most", count, SVC_BACKENDS_MAX);
        return;
    }
    for (yaml_node_item_t *i = node->data.sequence.items.start; i < node->data.sequence.items.top; i++)
        read_backend(r, s, yaml_document_get_node(&r->doc, *i));
}

/* The kind comes first, whatever the order in the file: it brings the defaults. */
static void begin_service(struct cfg_reader *r, const yaml_node_t *node, struct svc *s)
{
    const yaml_node_t *kind = value_of(r, node, "kind");
    char err[SVC_ERROR_MAX];
    svc_init(s, SVC_TCP);
    if (kind && kind->type == YAML_SCALAR_NODE && svc_field_set(s, "kind", cfg_scalar(kind), err) == 0)
        svc_init(s, s->kind);
    s->origin = SVC_FROM_FILE;
    s->revision = node->start_mark.line + 1; /* until the file is read */
}

/* Whether fields have this before their dot. */
static bool is_group(const char *name)
{
    size_t len = strlen(name);
    for (size_t i = 0; i < svc_field_count() && len < 16; i++)
        if (strncmp(svc_field_key(i), name, len) == 0 && svc_field_key(i)[len] == '.')
            return true;
    return false;
}

static void read_service_pairs(struct cfg_reader *r, const yaml_node_t *node, struct svc *s)
{
    for (yaml_node_pair_t *p = node->data.mapping.pairs.start; p < node->data.mapping.pairs.top; p++) {
        const yaml_node_t *key = cfg_key(r, node, p);
        const yaml_node_t *value = yaml_document_get_node(&r->doc, p->value);
        if (!key || strcmp(cfg_scalar(key), "backends") == 0)
            continue;
        if (strcmp(cfg_scalar(key), "name") == 0)
            read_name(r, value, s->name);
        else if (value->type == YAML_MAPPING_NODE && is_group(cfg_scalar(key)))
            read_group(r, s, cfg_scalar(key), value);
        else if (strcmp(cfg_scalar(key), "check") == 0)
            cfg_error(r, value, "check must be a mapping but is %s; write 'kind: tcp' under it",
                      cfg_kind_name(value));
        else
            set_service_field(r, s, "", key, value);
    }
}

static void read_service(struct cfg_reader *r, const yaml_node_t *node)
{
    struct svc_table *t = &r->config->services.table;
    struct svc s;
    char err[SVC_ERROR_MAX];
    if (node->type != YAML_MAPPING_NODE) {
        cfg_error(r, node,
                  "a service must be a mapping but is %s; write '- name: web' and 'address: "
                  "10.0.0.1:80' under it",
                  cfg_kind_name(node));
        return;
    }
    begin_service(r, node, &s);
    size_t errors = r->report->count;
    read_service_pairs(r, node, &s);
    if (!s.name[0] && r->report->count == errors)
        cfg_error(r, node, "the service has no name; write 'name: web'");
    if (s.address.port == 0 && r->report->count == errors)
        cfg_error(r, node, "the service has no address; write 'address: 10.0.0.1:80'");
    if (r->report->count == errors && svc_check(&s, err))
        cfg_error(r, node, "%s", err);
    s.first_backend = t->backend_count;
    const yaml_node_t *backends = value_of(r, node, "backends");
    if (backends)
        read_backends(r, &s, backends);
    s.backends = (uint32_t)(t->backend_count - s.first_backend);
    t->service = one_more(t->service, t->count, sizeof(*t->service));
    t->service[t->count++] = s;
}

static int compare_services(const void *a, const void *b)
{
    return strcmp(((const struct svc *)a)->name, ((const struct svc *)b)->name);
}

static int compare_backends(const void *a, const void *b)
{
    return strcmp(((const struct svc_backend *)a)->name, ((const struct svc_backend *)b)->name);
}

static int compare_addresses(const void *a, const void *b)
{
    return memcmp(*(const struct svc_address *const *)a, *(const struct svc_address *const *)b,
                  sizeof(struct svc_address));
}

/* Whether two addresses of a list are one; *twice is one of them. */
static bool has_twice(const struct svc_address **list, size_t count, const struct svc_address **twice)
{
    qsort(list, count, sizeof(*list), compare_addresses);
    for (size_t i = 1; i < count; i++) {
        if (memcmp(list[i - 1], list[i], sizeof(**list)) == 0) {
            *twice = list[i];
            return true;
        }
    }
    return false;
}

/* Sorted by name, and nothing twice. Lines are in `revision` until here. */
static void finish_backends(struct cfg_reader *r, const struct svc *s, struct svc_backend *b)
{
    const struct svc_address **list = calloc(s->backends + 1u, sizeof(*list)), *twice;
    char text[ADDRESS_TEXT_MAX];
    CHECK(list);
    qsort(b, s->backends, sizeof(*b), compare_backends);
    for (size_t i = 0; i < s->backends; i++) {
        if (i && strcmp(b[i - 1].name, b[i].name) == 0)
            cfg_report(r->report, r->name, b[i].revision, 1, "service '%s' has two backends '%s'; rename one",
                       s->name, b[i].name);
        list[i] = &b[i].address;
    }
    if (has_twice(list, s->backends, &twice))
        cfg_report(r->report, r->name, s->revision, 1, "service '%s' has two backends at %s; remove one",
                   s->name, svc_address_text(twice, text));
    for (size_t i = 0; i < s->backends; i++)
        b[i].revision = 0;
    free(list);
}

static void finish(struct cfg_reader *r)
{
    struct svc_table *t = &r->config->services.table;
    if (t->count == 0)
        return;
    struct svc_backend *sorted = calloc(t->backend_count + 1, sizeof(*sorted));
    char err[SVC_ERROR_MAX];
    size_t at = 0;
    CHECK(sorted);
    qsort(t->service, t->count, sizeof(*t->service), compare_services);
    for (size_t i = 0; i < t->count; i++) {
        struct svc *s = &t->service[i];
        if (i && s->name[0] && strcmp(t->service[i - 1].name, s->name) == 0)
            cfg_report(r->report, r->name, s->revision, 1, "there are two services '%s'; rename one",
                       s->name);
        if (s->backends) /* there may be no list at all */
            memcpy(&sorted[at], &t->backend[s->first_backend], s->backends * sizeof(*sorted));
        s->first_backend = at;
        finish_backends(r, s, &sorted[at]);
        at += s->backends;
        s->revision = 0;
    }
    if (r->report->count == 0 && svc_table_addresses_check(t, err))
        cfg_report(r->report, r->name, 1, 1, "%s", err);
    free(t->backend);
    t->backend = sorted;
}

void cfg_services(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    (void)target;
    if (node->type == YAML_SCALAR_NODE && node->data.scalar.length == 0)
        return;
    if (node->type != YAML_SEQUENCE_NODE) {
        cfg_error(r, node, "services must be a list but is %s; write '- name: web' under it",
                  cfg_kind_name(node));
        return;
    }
    size_t count = (size_t)(node->data.sequence.items.top - node->data.sequence.items.start);
    if (count > SVC_SERVICES_MAX) {
        cfg_error(r, node, "there are %zu services; %d is the most", count, SVC_SERVICES_MAX);
        return;
    }
    for (yaml_node_item_t *i = node->data.sequence.items.start; i < node->data.sequence.items.top; i++)
        read_service(r, yaml_document_get_node(&r->doc, *i));
    finish(r);
}

void cfg_services_finish(struct cfg_reader *r)
{
    const struct svc_table *t = &r->config->services.table;
    char text[ADDRESS_TEXT_MAX];
    for (size_t i = 0; i < t->count; i++)
        for (size_t k = 0; k < r->config->listen_count && t->service[i].route == SVC_PROXY; k++)
            if (strcmp(svc_address_text(&t->service[i].address, text), r->config->listen[k].text) == 0)
                cfg_report(r->report, r->name, 1, 1,
                           "service '%s' has the address %s, which this node itself listens on; give it "
                           "another one",
                           t->service[i].name, text);
}

/* Peers. */

static void read_peer_name(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    struct kernel_peer_config *peer = target;
    if (read_name(r, node, peer->name) && strcmp(peer->name, "self") == 0)
        cfg_error(r, node, "'self' is this node; give the peer another name");
}

static void read_peer_address(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    struct kernel_peer_config *peer = target;
    const char *text = cfg_text(r, node, "an IP address, as in 10.0.0.2");
    char with_port[ADDRESS_TEXT_MAX];
    if (!text)
        return;
    bool v6 = strchr(text, ':') != NULL;
    int n = snprintf(with_port, sizeof(with_port), v6 ? "[%s]:1" : "%s:1", text);
    if (n >= (int)sizeof(with_port) || svc_address_parse(with_port, &peer->address))
        cfg_error(r, node, "'%.40s' is not an IP address; write one without a port, as in 10.0.0.2", text);
}

/* A number from low to high, or an interval when `ms`. */
static uint64_t read_number(struct cfg_reader *r, const yaml_node_t *node, uint64_t low, uint64_t high)
{
    const char *text = cfg_text(r, node, "a number");
    char *end;
    if (!text)
        return low;
    unsigned long long value = strtoull(text, &end, 10);
    if (text[0] >= '0' && text[0] <= '9' && !*end && strlen(text) < 20 && value >= low && value <= high)
        return value;
    cfg_error(r, node, "'%.40s' is out of range; write a whole number from %llu to %llu", text,
              (unsigned long long)low, (unsigned long long)high);
    return low;
}

static void read_peer_node_id(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    ((struct kernel_peer_config *)target)->node_id = read_number(r, node, 1, INT64_MAX);
}

static void read_peer_multiplier(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    ((struct kernel_peer_config *)target)->multiplier = (uint8_t)read_number(r, node, 1, 255);
}

static void read_peer_interval(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    struct kernel_peer_config *peer = target;
    const char *text = cfg_text(r, node, "a time, as in 100ms");
    struct svc scratch;
    char err[SVC_ERROR_MAX];
    svc_init(&scratch, SVC_TCP);
    if (!text)
        return;
    if (svc_field_set(&scratch, "check.interval", text, err) || scratch.check.interval_ms > 60000)
        cfg_error(r, node, "'%.40s' is not an interval; write a time from 1ms to 60s, as in 100ms", text);
    else
        peer->interval_ms = scratch.check.interval_ms;
}

static void read_peer_multihop(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    struct kernel_peer_config *peer = target;
    cfg_bool(r, node, &peer->multihop);
}

static bool peer_is_repeated(struct cfg_reader *r, const yaml_node_t *node,
                             const struct kernel_peer_config *peer)
{
    const struct config_services *s = &r->config->services;
    for (uint32_t i = 0; i < s->peer_count; i++) {
        bool name = strcmp(s->peer[i].name, peer->name) == 0;
        if (name || memcmp(s->peer[i].address.ip, peer->address.ip, sizeof(peer->address.ip)) == 0) {
            cfg_error(r, node, "the peer has the %s of another one; remove one of them",
                      name ? "name" : "address");
            return true;
        }
    }
    return false;
}

static void read_peer(struct cfg_reader *r, const yaml_node_t *node)
{
    static const struct cfg_key_row keys[] = {
        {"name", read_peer_name},
        {"address", read_peer_address},
        {"node_id", read_peer_node_id},
        {"interval", read_peer_interval},
        {"multiplier", read_peer_multiplier},
        {"multihop", read_peer_multihop},
    };
    struct config_services *s = &r->config->services;
    struct kernel_peer_config peer = {.interval_ms = KERNEL_PEER_INTERVAL_MS,
                                      .multiplier = KERNEL_PEER_MULTIPLIER};
    size_t errors = r->report->count;
    if (!cfg_mapping(r, node, "a peer", keys, ARRAY_SIZE(keys), &peer) || r->report->count != errors)
        return;
    if (!peer.name[0] || !peer.address.port) {
        cfg_error(r, node, "a peer needs a name and an address; write 'name: node2' and 'address: 10.0.0.2'");
        return;
    }
    if (peer_is_repeated(r, node, &peer))
        return;
    s->peer = one_more(s->peer, s->peer_count, sizeof(*s->peer));
    s->peer[s->peer_count++] = peer;
}

void cfg_peers(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    (void)target;
    if (node->type == YAML_SCALAR_NODE && node->data.scalar.length == 0)
        return;
    if (node->type != YAML_SEQUENCE_NODE) {
        cfg_error(r, node, "peers must be a list but is %s; write '- name: node2' under it",
                  cfg_kind_name(node));
        return;
    }
    if (node->data.sequence.items.top - node->data.sequence.items.start > ABI_PEERS_MAX) {
        cfg_error(r, node, "there are more than %d peers; remove some", ABI_PEERS_MAX);
        return;
    }
    for (yaml_node_item_t *i = node->data.sequence.items.start; i < node->data.sequence.items.top; i++)
        read_peer(r, yaml_document_get_node(&r->doc, *i));
}

void cfg_takeover(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    (void)target;
    r->takeover = node;
}

/* The index of a candidate among the peers, KERNEL_SELF, or -2 after a report. */
static int candidate(struct cfg_reader *r, const yaml_node_t *node)
{
    const struct config_services *s = &r->config->services;
    const char *text = cfg_text(r, node, "self or the name of a peer");
    if (!text)
        return -2;
    if (strcmp(text, "self") == 0)
        return KERNEL_SELF;
    for (uint32_t i = 0; i < s->peer_count; i++)
        if (strcmp(s->peer[i].name, text) == 0)
            return (int)i;
    cfg_error(r, node, "'%.40s' is no peer; write self or a name of the list peers", text);
    return -2;
}

void cfg_takeover_finish(struct cfg_reader *r)
{
    const yaml_node_t *node = r->takeover;
    struct kernel_takeover_config *t = &r->config->services.takeover;
    bool self = false;
    if (!node)
        return;
    if (node->type == YAML_SCALAR_NODE && strcmp(cfg_scalar(node), "false") == 0) {
        t->none = true;
        return;
    }
    if (node->type != YAML_SEQUENCE_NODE ||
        node->data.sequence.items.top - node->data.sequence.items.start > ABI_ADDRESS_MANAGERS_MAX) {
        cfg_error(r, node, "takeover must be a list of at most %d names, or false; write [self, node2]",
                  ABI_ADDRESS_MANAGERS_MAX);
        return;
    }
    for (yaml_node_item_t *i = node->data.sequence.items.start; i < node->data.sequence.items.top; i++) {
        const yaml_node_t *item = yaml_document_get_node(&r->doc, *i);
        int index = candidate(r, item);
        for (uint32_t k = 0; k < t->count; k++)
            if (index != -2 && t->candidate[k] == index)
                cfg_error(r, item, "'%.40s' is listed twice; remove one of them", cfg_scalar(item));
        self |= index == KERNEL_SELF;
        t->candidate[t->count++] = index;
    }
    if (!self)
        cfg_error(r, node, "this node is not in the list; write self where it stands in the order");
}
