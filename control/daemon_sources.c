/* SPDX-License-Identifier: Apache-2.0 */
#include "control/daemon_sources.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/certs_store.h"
#include "control/cluster_policy.h"
#include "control/compile/plan_services.h"
#include "control/daemon.h"
#include "control/events.h"
#include "control/journal.h"
#include "control/source_way.h"
#include "control/sources_declare.h"
#include "control/webhook.h"

enum { LOOK_S = 2 };

/* What is wrong with a source. One that is there at one look only is no news. */
struct trouble {
    char prefix[REPO_NAME_MAX + 1];
    char problem[SOURCE_PROBLEM_MAX];
    bool told;
};

struct node_sources {
    struct source_table state;  /* as it was read last */
    struct source_table all;    /* the file's, then those of the state that the file does not have */
    struct source_hosts *hosts; /* NULL: closed */
    struct sources_declared *declared;
    uv_timer_t settle;
    unsigned seconds;
    struct trouble *trouble;
    size_t troubles;
    struct webhooks *web; /* of tests */
};

/* ------------------------------------------------------------------ which there are */

/* A service that is not there, or has no data plane's path, can be asked nothing: NULL. */
static const struct plan_proxied *service_of(const struct daemon *d, const char *name)
{
    for (size_t i = 0; i < d->proxied->count; i++)
        if (strcmp(d->proxied->proxied[i].service.name, name) == 0)
            return &d->proxied->proxied[i];
    return NULL;
}

const struct plan_proxied *daemon_source_service(const struct daemon *d, const struct source *s)
{
    return s->backends[0] ? source_hosts_find(d->sources->hosts, s->prefix) : service_of(d, s->service);
}

static struct plan_source plan_source_of(const struct daemon *d, const struct source *s)
{
    const struct plan_proxied *service = daemon_source_service(d, s);
    struct plan_source out = {.kind = PLAN_SOURCE_REGISTRY,
                              .push = s->push,
                              .service = service ? service->place : PLAN_NO_SERVICE,
                              .prefix_len = (uint16_t)strlen(s->prefix),
                              .upstream_len = (uint16_t)strlen(s->upstream),
                              .id = source_id(s)};
    memcpy(out.prefix, s->prefix, sizeof(out.prefix));
    memcpy(out.upstream, s->upstream, sizeof(out.upstream));
    return out;
}

/* Those that the configuration says, beside the cluster's nodes. */
static struct plan_source peers_of(const struct daemon *d)
{
    const struct plan_proxied *service = service_of(d, d->config.sources.peers);
    return (struct plan_source){.kind = PLAN_SOURCE_PEERS,
                                .service = service ? service->place : PLAN_NO_SERVICE};
}

size_t daemon_sources(const struct daemon *d, const struct plan_peers *peers,
                      struct plan_source out[PLAN_SOURCES_MAX])
{
    size_t count = 0;
    for (size_t i = 0; d->sources && i < d->sources->all.count; i++)
        out[count++] = plan_source_of(d, &d->sources->all.list[i]);
    if (d->config.sources.peers[0])
        out[count++] = peers_of(d);
    if (peers && count < PLAN_SOURCES_MAX)
        out[count++] = peers->source;
    return count;
}

size_t daemon_sources_list(const struct daemon *d, struct plan_proxied out[SOURCES_OWN_MAX])
{
    return d->sources && d->sources->hosts ? source_hosts_list(d->sources->hosts, out) : 0;
}

const struct source *daemon_source_find(const struct daemon *d, const char *prefix)
{
    return d->sources ? source_find(&d->sources->all, prefix) : NULL;
}

static const struct source *find(const struct daemon *d, uint64_t id)
{
    for (size_t i = 0; d->sources && i < d->sources->all.count; i++)
        if (source_id(&d->sources->all.list[i]) == id)
            return &d->sources->all.list[i];
    return NULL;
}

/* What file and state say together holds from now on; a plan is the caller's. */
static void merge(struct daemon *d)
{
    struct node_sources *s = d->sources;
    const struct source_table *file = &d->config.sources.table;
    size_t dropped = 0;
    source_table_fini(&s->all);
    for (size_t i = 0; i < file->count; i++) {
        source_table_add(&s->all, &file->list[i]);
        s->all.list[i].origin = SOURCE_FROM_FILE;
    }
    for (size_t i = 0; i < s->state.count; i++) {
        if (source_find(file, s->state.list[i].prefix))
            continue;
        if (s->all.count < SOURCES_MAX)
            source_table_add(&s->all, &s->state.list[i]);
        else
            dropped++;
    }
    if (dropped)
        journal_warn(d->journal, "source",
                     "%zu sources of the state are more than there can be beside those "
                     "of this node's configuration",
                     dropped);
    source_hosts_set(s->hosts, &s->all);
    source_passes_forget(d->passes);
}

static bool same_rows(const struct source_table *a, const struct source_table *b)
{
    bool same = a->count == b->count;
    for (size_t i = 0; i < a->count && same; i++)
        same = a->list[i].revision == b->list[i].revision && source_same(&a->list[i], &b->list[i]) &&
               a->list[i].origin == b->list[i].origin;
    return same;
}

/* Whether the state's rows are others. */
static bool read_state(struct daemon *d)
{
    struct source_table now;
    int err = cluster_sources(d->cluster, &now);
    bool others = !err && !same_rows(&now, &d->sources->state);
    if (err)
        journal_error(d->journal, "source", "the state's sources cannot be read: %s", strerror(-err));
    if (others) {
        source_table_fini(&d->sources->state);
        d->sources->state = now;
    } else {
        source_table_fini(&now);
    }
    return others;
}

static void on_settled(uv_timer_t *timer)
{
    struct daemon *d = timer->data;
    if (!read_state(d))
        return;
    merge(d);
    daemon_publish_plan(d);
}

void daemon_sources_event(struct daemon *d, const struct state_event *event)
{
    uint16_t type = event ? event->cmd.head.type : CMD_SOURCE_SET;
    bool mine = type == CMD_SOURCE_SET || type == CMD_SOURCE_RM || type == CMD_TRANSACTION;
    if (d->sources && d->sources->hosts && mine && (!event || event->changed))
        uv_timer_start(&d->sources->settle, on_settled, 0, 0);
}

void daemon_sources_settle(struct daemon *d)
{
    if (!uv_is_active((uv_handle_t *)&d->sources->settle))
        return;
    uv_timer_stop(&d->sources->settle);
    on_settled(&d->sources->settle);
}

/* ------------------------------------------------------------------ what they are shown */

/* As the data plane has it: no file is read here. A token server is checked with the CA that the registry
 * itself is checked with. */
static const char *find_ca(const struct daemon *d, const char *name, struct source_access *access)
{
    const char *why, *ca = certs_ca(d->certs, name, &why);
    if (!ca && why[0])
        snprintf(access->problem, sizeof(access->problem), "%s", why);
    else if (!ca)
        snprintf(access->problem, sizeof(access->problem), "this node's configuration has no CA '%s'", name);
    return ca;
}

static void add_ca(const struct daemon *d, const char *name, struct source_access *access)
{
    const char *ca = name[0] ? find_ca(d, name, access) : NULL;
    if (ca && !webhook_ca_valid(ca)) {
        snprintf(access->problem, sizeof(access->problem), "the CA '%s' is not certificates alone", name);
    } else if (ca) {
        access->ca = strdup(ca);
        CHECK(access->ca);
    }
}

static void add_credentials(const struct daemon *d, const char *name, struct source_access *access)
{
    const struct config_credential *c = config_credential_find(&d->config.credentials, name);
    if (!c)
        snprintf(access->problem, sizeof(access->problem),
                 "this node's configuration has no credentials '%s'", name);
    else if (credentials_read(c->password_file, access->credentials.password, access->problem,
                              sizeof(access->problem)))
        memcpy(access->credentials.user, c->user, sizeof(access->credentials.user));
}

bool daemon_source_access(const struct daemon *d, const struct source *s, struct source_access *access)
{
    const struct plan_proxied *service = daemon_source_service(d, s);
    if (!service)
        return false;
    memcpy(access->prefix, s->prefix, sizeof(access->prefix));
    memcpy(access->token_server, s->token_server, sizeof(access->token_server));
    access->plain = !service->service.proxy.backend_tls;
    add_ca(d, service->service.proxy.backend_ca, access);
    if (s->credentials[0] && !access->problem[0])
        add_credentials(d, s->credentials, access);
    return true;
}

static bool on_look(void *arg, uint64_t source, struct source_access *access)
{
    const struct source *s = find(arg, source);
    return s && daemon_source_access(arg, s, access);
}

static void on_tell(void *arg, const char *prefix, const char *text)
{
    struct daemon *d = arg;
    journal_warn(d->journal, "source", "%s: %s", prefix, text);
}

static bool on_look_way(void *arg, uint64_t source, struct way_access *access)
{
    const struct daemon *d = arg;
    access->source = find(d, source);
    access->service = access->source ? daemon_source_service(d, access->source) : NULL;
    return access->service != NULL;
}

static uint64_t on_publish_way(void *arg)
{
    return daemon_publish_plan(arg);
}

/* ------------------------------------------------------------------ what is wrong */

/* On this node, in out; "": nothing. */
static void problem_of(const struct daemon *d, const struct source *s, char out[SOURCE_PROBLEM_MAX])
{
    struct source_access *access = calloc(1, sizeof(*access));
    CHECK(access);
    out[0] = '\0';
    if (s->credentials[0])
        add_credentials(d, s->credentials, access);
    if (s->ca[0] && !access->problem[0])
        (void)find_ca(d, s->ca, access);
    if (access->problem[0])
        memcpy(out, access->problem, SOURCE_PROBLEM_MAX);
    else if (s->backends[0])
        source_hosts_problem(d->sources->hosts, s->prefix, out);
    else if (!service_of(d, s->service))
        snprintf(out, SOURCE_PROBLEM_MAX, "there is no service '%s' with path: proxy", s->service);
    explicit_bzero(&access->credentials, sizeof(access->credentials));
    free(access);
}

static const struct trouble *trouble_of(const struct node_sources *s, const char *prefix)
{
    static const struct trouble none;
    for (size_t i = 0; i < s->troubles; i++)
        if (strcmp(s->trouble[i].prefix, prefix) == 0)
            return &s->trouble[i];
    return &none;
}

static void tell(struct daemon *d, const char *kind, const char *prefix, const char *what)
{
    char text[REPO_NAME_MAX + SOURCE_PROBLEM_MAX + 8];
    snprintf(text, sizeof(text), "%s: %s", prefix, what);
    events_note(d->events, kind, text);
    journal_warn(d->journal, "source", "%s", text);
}

/* Events tell of each problem when it has begun, and when it is over. */
static void look_for_trouble(struct daemon *d)
{
    struct node_sources *s = d->sources;
    struct trouble *now = calloc(s->all.count + 1, sizeof(*now));
    size_t count = 0;
    CHECK(now);
    for (size_t i = 0; i < s->all.count; i++) {
        const char *prefix = s->all.list[i].prefix;
        const struct trouble *before = trouble_of(s, prefix);
        struct trouble *t = &now[count];
        memcpy(t->prefix, prefix, sizeof(t->prefix));
        problem_of(d, &s->all.list[i], t->problem);
        bool same = strcmp(t->problem, before->problem) == 0;
        t->told = t->problem[0] && same;
        if (t->told && !before->told)
            tell(d, "source.problem", prefix, t->problem);
        if (!t->problem[0] && before->told)
            tell(d, "source.recovered", prefix, "nothing is wrong with it any more");
        count += t->problem[0] != '\0';
    }
    free(s->trouble);
    s->trouble = now;
    s->troubles = count;
}

void daemon_sources_warn(const struct daemon *d, json_t *list)
{
    const struct node_sources *s = d->sources;
    sources_declared_warn(s->declared, list);
    for (size_t i = 0; i < s->troubles; i++)
        if (s->trouble[i].told)
            json_array_append_new(list,
                                  json_sprintf("source %s: %s", s->trouble[i].prefix, s->trouble[i].problem));
}

static json_t *source_json(const struct daemon *d, const struct source *s)
{
    char problem[SOURCE_PROBLEM_MAX], text[TIME_TEXT_MAX];
    json_t *out = json_pack("{s:s}", "prefix", s->prefix);
    CHECK(out);
    for (size_t i = 0; i < source_field_count(); i++)
        json_object_set_new(out, source_field_key(i), json_string(source_field_text(s, source_field_key(i))));
    json_object_set_new(out, "origin", json_string(source_origin_name(s->origin)));
    if (s->revision) {
        json_object_set_new(out, "revision", json_integer((json_int_t)s->revision));
        json_object_set_new(out, "created", json_string(journal_time_text(s->created_ms, text)));
        json_object_set_new(out, "updated", json_string(journal_time_text(s->updated_ms, text)));
    }
    json_t *hosts = source_hosts_json(d->sources->hosts, s->prefix);
    if (hosts)
        json_object_set_new(out, "hosts", hosts);
    problem_of(d, s, problem);
    bool ready = daemon_source_service(d, s) != NULL;
    json_object_set_new(out, "state", json_string(problem[0] ? "problem" : ready ? "ok" : "looking"));
    json_object_set_new(out, "problem", json_string(problem));
    return out;
}

json_t *daemon_sources_json(const struct daemon *d, const char *prefix)
{
    const struct source_table *all = &d->sources->all;
    json_t *list = json_array();
    for (size_t i = 0; i < all->count; i++)
        if (!prefix || strcmp(prefix, all->list[i].prefix) == 0)
            json_array_append_new(list, source_json(d, &all->list[i]));
    if (!prefix || json_array_size(list))
        return json_pack("{s:o}", "sources", list);
    json_decref(list);
    return NULL;
}

/* ------------------------------------------------------------------ tests */

/* The one with the longest prefix counts. */
static const struct source *find_for(const struct daemon *d, const char *name)
{
    const struct source *best = NULL;
    for (size_t i = 0; i < d->sources->all.count; i++) {
        const struct source *s = &d->sources->all.list[i];
        size_t len = strlen(s->prefix);
        if (strncmp(s->prefix, name, len) == 0 && (!best || len > strlen(best->prefix)))
            best = s;
    }
    return best;
}

int daemon_sources_test(struct daemon *d, const char *name, const char *repo, const char *reference,
                        char why[SOURCE_PROBLEM_MAX], source_test_done done, void *done_arg)
{
    const struct source *s = find_for(d, name);
    struct source_access *access = calloc(1, sizeof(*access));
    CHECK(access);
    why[0] = '\0';
    bool there = s && daemon_source_access(d, s, access);
    if (there) {
        const struct source_test_question q = {.source = s,
                                               .service = daemon_source_service(d, s),
                                               .access = access,
                                               .repo = repo,
                                               .reference = reference,
                                               .web = d->sources->web,
                                               .passes = d->passes};
        source_test_begin(&q, done, done_arg);
    } else if (s) {
        problem_of(d, s, why);
    }
    explicit_bzero(&access->credentials, sizeof(access->credentials));
    free(access->ca);
    free(access);
    return there ? 0 : s ? -EHOSTUNREACH : -ENOENT;
}

/* ------------------------------------------------------------------ life */

static void on_publish_hosts(void *arg)
{
    (void)daemon_publish_plan(arg);
}

void daemon_sources_open(struct daemon *d)
{
    const struct source_passes_config config = {.loop = &d->loop, .look = on_look, .tell = on_tell, .arg = d};
    const struct source_ways_config ways = {
        .loop = &d->loop, .look = on_look_way, .publish = on_publish_way, .tell = on_tell, .arg = d};
    const struct source_hosts_config hosts = {
        .loop = &d->loop, .state_fd = d->folders.state_fd, .publish = on_publish_hosts, .arg = d};
    struct node_sources *s = calloc(1, sizeof(*s));
    CHECK(s);
    d->passes = source_passes_new(&config);
    d->ways = source_ways_new(&ways);
    s->hosts = source_hosts_new(&hosts);
    s->web = webhooks_new(&d->loop);
    s->declared = sources_declared_new(&d->loop, d->journal, d->cluster);
    uv_timer_init(&d->loop, &s->settle);
    s->settle.data = d;
    d->sources = s;
    (void)read_state(d);
    merge(d);
}

void daemon_sources_declare(struct daemon *d)
{
    sources_declare(d->sources->declared, &d->config.sources.table);
}

void daemon_sources_close(struct daemon *d)
{
    webhooks_close(d->sources->web);
    source_passes_close(d->passes);
    d->passes = NULL;
    source_ways_close(d->ways);
    d->ways = NULL;
    source_hosts_close(d->sources->hosts);
    d->sources->hosts = NULL;
    source_table_fini(&d->sources->all);
    sources_declared_close(d->sources->declared);
    uv_close((uv_handle_t *)&d->sources->settle, NULL);
}

void daemon_sources_free(struct daemon *d)
{
    if (!d->sources)
        return;
    sources_declared_free(d->sources->declared);
    source_table_fini(&d->sources->state);
    free(d->sources->trouble);
    free(d->sources);
    d->sources = NULL;
}

void daemon_sources_reload(struct daemon *d, struct config *next)
{
    struct config_sources sources = d->config.sources;
    struct config_credentials credentials = d->config.credentials;
    d->config.sources = next->sources;
    d->config.credentials = next->credentials;
    next->sources = sources;
    next->credentials = credentials;
    merge(d);
    daemon_sources_declare(d);
}

void daemon_source_pass(struct daemon *d, const struct channel_pass *wanted, channel_pass_done done,
                        void *done_arg)
{
    const struct frame_pass later = {.status = PASS_UNAVAILABLE};
    const struct source_pass_question q = {.source = wanted->source,
                                           .refused = wanted->refused,
                                           .repo = wanted->repo,
                                           .repo_len = wanted->repo_len,
                                           .challenge = wanted->challenge,
                                           .challenge_len = wanted->challenge_len};
    if (d->passes)
        source_pass_get(d->passes, &q, done, done_arg);
    else
        done(done_arg, &later, "", 0);
}

void daemon_source_way(struct daemon *d, const struct channel_way *wanted, channel_way_done done,
                       void *done_arg)
{
    const struct frame_way later = {.status = WAY_UNAVAILABLE};
    const struct source_way_question q = {.source = wanted->source,
                                          .host = wanted->host,
                                          .host_len = wanted->host_len,
                                          .port = wanted->port,
                                          .tls = wanted->tls};
    if (d->ways)
        source_way_get(d->ways, &q, done, done_arg);
    else
        done(done_arg, &later);
}

void daemon_sources_applied(struct daemon *d, uint64_t generation)
{
    if (d->ways)
        source_ways_applied(d->ways, generation);
}

void daemon_sources_tick(struct daemon *d)
{
    if (d->ways)
        source_ways_tick(d->ways);
    if (!d->sources || !d->sources->hosts)
        return;
    source_hosts_tick(d->sources->hosts);
    if (++d->sources->seconds % LOOK_S == 0)
        look_for_trouble(d);
}
