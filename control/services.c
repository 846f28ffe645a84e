/* SPDX-License-Identifier: Apache-2.0 */
#include "control/services.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/compile/kernel_managers.h"
#include "control/compile/kernel_needs.h"
#include "control/services_declare.h"

enum { PROPOSALS_MAX = 32, WARNINGS_MAX = 8 };

/* What the file asks for and was not proposed yet. */
struct wish {
    struct wish *next;
    void *cmd;
    size_t len;
    char what[128];
    struct services *services;
};

struct services {
    struct services_config config;
    struct svc_table table;
    struct svc_table before; /* the last one: rows are pointed to until the next turn of the loop */
    const struct svc_backend **by_id;
    size_t by_id_count;
    bool stale;
    uv_timer_t settle, retry;
    uint64_t settled_ms; /* of the loop's clock: when a change counted last */
    struct config_services declared;
    struct kernel_managers managers;
    struct kernel_candidates candidates; /* as of the last time that was compiled */
    struct wish *first, **last;
    unsigned under_way, refused;
    bool again; /* nobody led: look at the differences once more */
    bool closing;
    struct kernel_entries *entries;
    char own_address[WARNINGS_MAX][SVC_NAME_MAX + 1]; /* services whose address is this host's */
    size_t own_address_count;
};

static void index_backends(struct services *s)
{
    const struct svc_table *t = &s->table;
    s->by_id_count = 0;
    for (size_t i = 0; i < t->backend_count; i++)
        if (t->backend[i].id >= s->by_id_count)
            s->by_id_count = t->backend[i].id + 1;
    free(s->by_id);
    s->by_id = calloc(s->by_id_count + 1, sizeof(const struct svc_backend *));
    CHECK(s->by_id);
    for (size_t i = 0; i < t->backend_count; i++)
        s->by_id[t->backend[i].id] = &t->backend[i];
}

static int load(struct services *s)
{
    struct svc_table table;
    int err = cluster_services(s->config.cluster, &table);
    if (err)
        return err;
    svc_table_fini(&s->before);
    s->before = s->table;
    s->table = table;
    s->stale = false;
    index_backends(s);
    return 0;
}

const struct svc_table *services_table(struct services *s)
{
    int err = s->stale ? load(s) : 0;
    if (err)
        journal_error(s->config.journal, "services", "the state cannot be read: %s; what was known stays",
                      strerror(-err));
    return &s->table;
}

bool services_find(struct services *s, uint32_t id, const struct svc **service, const struct svc_backend **b)
{
    services_table(s);
    if (id >= s->by_id_count || !s->by_id[id])
        return false;
    *b = s->by_id[id];
    *service = svc_find_id(&s->table, (*b)->service);
    return *service != NULL;
}

static void on_settled(uv_timer_t *timer)
{
    struct services *s = timer->data;
    services_table(s);
    s->config.changed(s->config.arg);
    uv_update_time(s->config.loop);
    s->settled_ms = uv_now(s->config.loop);
}

void services_event(struct services *s, const struct state_event *event)
{
    uint16_t type = event->cmd.head.type;
    bool of_services = type >= CMD_SERVICE_SET && type <= CMD_BACKEND_ADMIN;
    if (event->changed && (of_services || type == CMD_TRANSACTION))
        services_reload(s);
}

/* A change by itself counts at once, in the next turn of the loop; in a row of them each waits for others. */
static uint64_t settle_ms(const struct services *s)
{
    uint64_t since_ms = uv_now(s->config.loop) - s->settled_ms;
    return since_ms < SERVICES_SETTLE_MS ? SERVICES_SETTLE_MS - since_ms : 0;
}

void services_reload(struct services *s)
{
    s->stale = true;
    if (!s->closing && !uv_is_active((uv_handle_t *)&s->settle))
        uv_timer_start(&s->settle, on_settled, settle_ms(s), 0);
}

void services_settle(struct services *s)
{
    if (!uv_is_active((uv_handle_t *)&s->settle))
        return;
    uv_timer_stop(&s->settle);
    on_settled(&s->settle);
}

/* What the file says. */

static void propose_next(struct services *s);

static void on_retry(uv_timer_t *timer)
{
    struct services *s = timer->data;
    services_declare(s, &s->declared);
}

static void wish_free(struct wish *w)
{
    free(w->cmd);
    free(w);
}

static void on_proposed(void *arg, enum cmd_status status, uint64_t index, const void *detail,
                        size_t detail_len)
{
    struct wish *w = arg;
    struct services *s = w->services;
    (void)index;
    s->under_way--;
    if (status == CMD_NO_LEADER || status == CMD_BUSY || status == CMD_UNKNOWN_OUTCOME ||
        status == CMD_NO_SPACE) {
        s->again = true;
    } else if (status != CMD_OK) {
        s->refused++;
        journal_error(s->config.journal, "services", "the configuration's %s: refused: %.*s", w->what,
                      (int)detail_len, (const char *)detail);
    }
    wish_free(w);
    propose_next(s);
}

static void propose_next(struct services *s)
{
    while (s->first && s->under_way < PROPOSALS_MAX && !s->closing) {
        struct wish *w = s->first;
        s->first = w->next;
        if (!s->first)
            s->last = &s->first;
        s->under_way++;
        void *cmd = w->cmd;
        w->cmd = NULL;
        cluster_propose(s->config.cluster, cmd, w->len, on_proposed, w);
    }
    if (s->again && !s->first && !s->under_way && !s->closing)
        uv_timer_start(&s->retry, on_retry, SERVICES_RETRY_MS, 0);
}

static void on_command(void *arg, void *cmd, size_t len, const char *what)
{
    struct services *s = arg;
    struct wish *w = calloc(1, sizeof(*w));
    CHECK(w);
    *w = (struct wish){.cmd = cmd, .len = len, .services = s};
    strncpy(w->what, what, sizeof(w->what) - 1);
    *s->last = w;
    s->last = &w->next;
}

static void drop_wishes(struct services *s)
{
    while (s->first) {
        struct wish *w = s->first;
        s->first = w->next;
        wish_free(w);
    }
    s->last = &s->first;
}

void services_declare(struct services *s, const struct config_services *from)
{
    struct config_services copy;
    config_services_copy(&copy, from);
    config_services_fini(&s->declared);
    s->declared = copy;
    kernel_candidates_fini(&s->candidates); /* of other peers */
    drop_wishes(s);
    s->again = false;
    s->refused = 0;
    /* What other nodes' files say stays, as long as this one's says nothing of its own. */
    bool silent = s->declared.table.count == 0 && cluster_has_others(s->config.cluster);
    size_t count = silent ? 0 : services_declare_diff(services_table(s), &s->declared.table, on_command, s);
    if (count)
        journal_info(s->config.journal, "services", "the configuration changes %zu things about services",
                     count);
    s->config.changed(s->config.arg);
    propose_next(s);
}

const struct kernel_peer_config *services_peers(const struct services *s, uint32_t *count)
{
    bool made = s->candidates.peer != NULL;
    *count = made ? s->candidates.peer_count : s->declared.peer_count;
    return made ? s->candidates.peer : s->declared.peer;
}

void services_set_nodes(struct services *s, const struct node_table *nodes, uint64_t self)
{
    kernel_managers_of(nodes, self, &s->managers);
}

/* Whether the managers of the state say who takes addresses over. */
static bool derives(const struct services *s, const struct svc_table *t)
{
    const struct kernel_takeover_config *said = &s->declared.takeover;
    for (size_t i = 0; !said->count && !said->none && i < t->count; i++)
        if (t->service[i].takeover)
            return true;
    return false;
}

static void make_candidates(struct services *s, const struct kernel_facts *facts)
{
    kernel_candidates_fini(&s->candidates);
    if (derives(s, services_table(s)))
        kernel_candidates_make(&s->managers, facts, s->declared.peer, s->declared.peer_count, &s->candidates);
}

/* For the kernel. */

static struct kernel_input input_of(struct services *s, const struct kernel_facts *facts)
{
    struct kernel_input in = {.services = services_table(s),
                              .takeover =
                                  s->candidates.peer ? &s->candidates.takeover : &s->declared.takeover,
                              .facts = facts};
    in.peer = services_peers(s, &in.peer_count);
    return in;
}

/* A service address need not be on any interface; one that is belongs to the host itself, too. */
static void note_own_addresses(struct services *s, const struct kernel_facts *facts)
{
    s->own_address_count = 0;
    for (size_t i = 0; i < s->table.count; i++) {
        const struct svc *service = &s->table.service[i];
        for (size_t k = 0; k < facts->local_count && s->own_address_count < WARNINGS_MAX; k++) {
            if (service->route != SVC_DIRECT ||
                memcmp(&facts->local[k].addr, service->address.ip, sizeof(service->address.ip)) != 0)
                continue;
            memcpy(s->own_address[s->own_address_count++], service->name, sizeof(service->name));
            break;
        }
    }
}

const struct kernel_entries *services_compile(struct services *s, const struct kernel_facts *facts)
{
    make_candidates(s, facts);
    struct kernel_input in = input_of(s, facts);
    struct kernel_entries *entries = kernel_compile(&in, s->entries);
    kernel_entries_free(s->entries);
    s->entries = entries;
    note_own_addresses(s, facts);
    return entries;
}

uint32_t services_needs(struct services *s)
{
    const struct svc_table *t = services_table(s);
    bool others = s->managers.count > 1 && (derives(s, t) || derives(s, &s->declared.table));
    uint32_t peers = s->declared.peer_count + others;
    return kernel_needs(services_table(s), peers) | kernel_needs(&s->declared.table, peers);
}

uint32_t services_tick_ms(struct services *s, uint32_t default_ms)
{
    struct kernel_input in = input_of(s, NULL);
    return (uint32_t)(kernel_tick_us(&in, default_ms * 1000ull) / 1000);
}

uint64_t services_probes_per_s(struct services *s, const struct svc *changed, uint32_t added)
{
    const struct svc_table *t = services_table(s);
    uint64_t sum = 0;
    for (size_t i = 0; i < t->count; i++) {
        bool is_changed = changed && strcmp(changed->name, t->service[i].name) == 0;
        const struct svc *one = is_changed ? changed : &t->service[i];
        uint32_t probed = is_changed ? added : 0;
        for (uint32_t k = 0; k < t->service[i].backends; k++)
            probed += svc_backend_in_kernel(&t->backend[t->service[i].first_backend + k]);
        sum += (uint64_t)svc_probes_per_s(one) * probed;
    }
    return sum;
}

uint64_t services_probes_of(const struct svc_table *t)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < t->count; i++)
        for (uint32_t k = 0; k < t->service[i].backends; k++)
            if (svc_backend_in_kernel(&t->backend[t->service[i].first_backend + k]))
                sum += svc_probes_per_s(&t->service[i]);
    return sum;
}

/* A check that nobody makes is worth a word. */
static void warn_unchecked(struct services *s, json_t *list)
{
    const struct svc_table *t = services_table(s);
    size_t count = 0;
    for (size_t i = 0; i < t->count; i++)
        for (size_t k = 0; k < t->service[i].backends; k++)
            count += t->service[i].check.kind != SVC_CHECK_NONE &&
                     !svc_backend_in_kernel(&t->backend[t->service[i].first_backend + k]);
    if (count)
        json_array_append_new(
            list, json_sprintf("%zu backends are on loopback addresses or Unix sockets, where the "
                               "kernel cannot check them: the data plane leaves alone what fails",
                               count));
}

/* Not down for ever, as nobody could ever call them up. */
static void warn_unprobed(const struct services *s, json_t *list)
{
    if (s->entries && s->entries->unprobed)
        json_array_append_new(
            list, json_sprintf(
                      "%u backends are behind devices that carry no Ethernet frames (tun, WireGuard, ipip) "
                      "or are excluded: the kernel cannot probe them, they are up until their own "
                      "connections say otherwise",
                      s->entries->unprobed));
}

/* What answers directly sees the client's packet as it is, its port too. */
static void warn_ports(struct services *s, json_t *list)
{
    const struct svc_table *t = services_table(s);
    for (size_t i = 0; i < t->count; i++) {
        const struct svc *one = &t->service[i];
        for (size_t k = 0; one->edge == SVC_EDGE_DSR && k < one->backends; k++) {
            const struct svc_backend *b = &t->backend[one->first_backend + k];
            if (b->address.port == one->address.port)
                continue;
            json_array_append_new(
                list,
                json_sprintf("backend '%s' of service '%s' has another port than the service: with edge: "
                             "dsr packets come to it at port %u, whatever its checks say",
                             b->name, one->name, one->address.port));
            break;
        }
    }
}

static void warn_unused(struct services *s, json_t *list)
{
    const struct svc_table *t = services_table(s);
    char text[SVC_TEXT_MAX];
    unsigned count = 0;
    for (size_t i = 0; i < t->count && count < WARNINGS_MAX; i++)
        if (svc_fields_unused(&t->service[i], text)) {
            json_array_append_new(list, json_string(text));
            count++;
        }
}

void services_warn(struct services *s, json_t *list)
{
    warn_unchecked(s, list);
    warn_unused(s, list);
    warn_ports(s, list);
    warn_unprobed(s, list);
    for (size_t i = 0; i < s->own_address_count; i++)
        json_array_append_new(list,
                              json_sprintf("the address of service '%s' is one of this host's own: what "
                                           "listens there is not reached by it",
                                           s->own_address[i]));
    if (s->refused)
        json_array_append_new(list,
                              json_sprintf("%u of the configuration's changes to services were refused: "
                                           "look at the error log",
                                           s->refused));
    if (s->entries && s->entries->left_out)
        json_array_append_new(list, json_sprintf("%u backends are left out: raise kernel.backends_max and "
                                                 "restart fairleadd",
                                                 s->entries->left_out));
    if (s->entries && s->entries->unreachable)
        json_array_append_new(list, json_sprintf("%u backends cannot be reached: there is no route to them",
                                                 s->entries->unreachable));
}

struct services *services_new(const struct services_config *config)
{
    struct services *s = calloc(1, sizeof(*s));
    CHECK(s);
    s->config = *config;
    s->last = &s->first;
    s->stale = true;
    services_table(s);
    uv_timer_init(config->loop, &s->settle);
    uv_timer_init(config->loop, &s->retry);
    s->settle.data = s->retry.data = s;
    return s;
}

void services_close(struct services *s)
{
    s->closing = true;
    drop_wishes(s);
    uv_close((uv_handle_t *)&s->settle, NULL);
    uv_close((uv_handle_t *)&s->retry, NULL);
}

void services_free(struct services *s)
{
    if (!s)
        return;
    CHECK(!s->under_way);
    svc_table_fini(&s->table);
    svc_table_fini(&s->before);
    config_services_fini(&s->declared);
    kernel_candidates_fini(&s->candidates);
    kernel_entries_free(s->entries);
    free(s->by_id);
    free(s);
}
