/* SPDX-License-Identifier: Apache-2.0 */
#include "control/socket/service_status.h"

#include <inttypes.h>
#include <stddef.h>
#include <string.h>

#include "check.h"
#include "control/daemon.h"
#include "control/services.h"
#include "control/socket/service_json.h"

json_t *service_summary(struct daemon *d, const struct backend_glance *glance, const struct svc *s)
{
    const struct svc_table *t = services_table(d->services);
    json_t *row = service_json(s), *states = json_object();
    json_int_t active = 0;
    for (size_t k = 0; k < s->backends; k++) {
        const struct svc_backend *b = &t->backend[s->first_backend + k];
        struct backend_view view;
        backend_view(d, glance, b, &view);
        const char *state = backend_state_name(b, &view);
        json_object_set_new(states, state,
                            json_integer(json_integer_value(json_object_get(states, state)) + 1));
        active +=
            (json_int_t)(view.proxied ? view.proxy[TARGET_ACTIVE] : ABI_ACTIVE_COUNT(view.stats.active));
    }
    json_object_set_new(row, "states", states);
    json_object_set_new(row, "active", json_integer(active));
    return row;
}

/* Adds the backends that are up, or those that are not, as long as there is room. */
static void add_backends(struct daemon *d, const struct backend_glance *glance, bool up, json_t *rows)
{
    const struct svc_table *t = services_table(d->services);
    for (size_t i = 0; i < t->count; i++) {
        const struct svc *s = &t->service[i];
        for (size_t k = 0; k < s->backends && json_array_size(rows) < STATUS_BACKENDS_MAX; k++) {
            const struct svc_backend *b = &t->backend[s->first_backend + k];
            struct backend_view view;
            backend_view(d, glance, b, &view);
            if (up == (view.state == ABI_UP && b->admin == SVC_ACTIVE))
                json_array_append_new(rows, backend_json(s, b, &view));
        }
    }
}

json_t *service_status(struct daemon *d)
{
    const struct svc_table *t = services_table(d->services);
    json_t *services = json_array(), *backends = json_array();
    struct backend_glance glance;
    backend_glance_take(d, &glance);
    for (size_t i = 0; i < t->count && i < STATUS_SERVICES_MAX; i++)
        json_array_append_new(services, service_summary(d, &glance, &t->service[i]));
    add_backends(d, &glance, false, backends);
    add_backends(d, &glance, true, backends);
    backend_glance_fini(&glance);
    return json_pack("{s:o, s:o, s:I, s:I, s:I}", "services", services, "backends", backends,
                     "services_count", (json_int_t)t->count, "backends_count", (json_int_t)t->backend_count,
                     "probes_per_s", (json_int_t)services_probes_per_s(d->services, NULL, 0));
}

/* A metric of backends: what it is, and its value of one. */
struct metric {
    const char *name, *kind, *text;
    double (*value)(const struct svc_backend *b, const struct backend_view *view);
};

static double metric_up(const struct svc_backend *b, const struct backend_view *view)
{
    return b->admin == SVC_ACTIVE && (view->state == ABI_UP || view->state == ABI_UNKNOWN);
}

static double metric_state(const struct svc_backend *b, const struct backend_view *view)
{
    (void)b;
    return view->state;
}

static double metric_drain(const struct svc_backend *b, const struct backend_view *view)
{
    (void)view;
    return b->admin == SVC_DRAIN;
}

static double metric_rtt(const struct svc_backend *b, const struct backend_view *view)
{
    (void)b;
    return view->probe.rtt_us / 1e6;
}

static double metric_http_rtt(const struct svc_backend *b, const struct backend_view *view)
{
    (void)b;
    return view->probe.http_rtt_us / 1e6;
}

#define COUNT_METRIC(what, expression)                                                                       \
    static double metric_##what(const struct svc_backend *b, const struct backend_view *view)                \
    {                                                                                                        \
        (void)b;                                                                                             \
        return (double)(expression);                                                                         \
    }
COUNT_METRIC(changes, view->changes)
COUNT_METRIC(probes, view->probe.probes + view->probe.http_probes)
COUNT_METRIC(failures, view->probe.timeouts + view->probe.refusals + view->probe.http_failures)
COUNT_METRIC(active, ABI_ACTIVE_COUNT(view->stats.active))
COUNT_METRIC(connects, view->stats.connects)
COUNT_METRIC(resets, view->stats.resets)
COUNT_METRIC(retransmits, view->stats.retransmits)
COUNT_METRIC(cuts, view->stats.cuts)
#undef COUNT_METRIC

static const struct metric metrics[] = {
    {"up", "gauge", "1 for a backend that new connections may go to.", metric_up},
    {"state", "gauge", "The verdict: 0 unknown, 1 up, 2 suspect, 3 down.", metric_state},
    {"drain", "gauge", "1 for a backend that an operator drains.", metric_drain},
    {"transitions_total", "counter", "Changes of the verdict.", metric_changes},
    {"probe_rtt_seconds", "gauge", "Time from a probe to its answer, smoothed.", metric_rtt},
    {"http_rtt_seconds", "gauge", "Time from an HTTP check to its status, smoothed.", metric_http_rtt},
    {"probes_total", "counter", "Probes sent by this host.", metric_probes},
    {"probe_failures_total", "counter", "Probes that were refused, not answered or answered wrongly.",
     metric_failures},
    {"connections_active", "gauge", "Connections of this host that are open now.", metric_active},
    {"connects_total", "counter", "Connects of this host that were sent there.", metric_connects},
    {"resets_total", "counter", "Connections of this host that it reset.", metric_resets},
    {"retransmits_total", "counter", "Retransmission timeouts of this host's connections.",
     metric_retransmits},
    {"cuts_total", "counter", "Connections that were ended because it was down.", metric_cuts},
};

static void print_metric(struct daemon *d, const struct backend_glance *glance, const struct metric *m,
                         FILE *out)
{
    const struct svc_table *t = services_table(d->services);
    fprintf(out, "# HELP fairlead_backend_%s %s\n# TYPE fairlead_backend_%s %s\n", m->name, m->text, m->name,
            m->kind);
    for (size_t i = 0; i < t->count; i++) {
        const struct svc *s = &t->service[i];
        for (size_t k = 0; k < s->backends; k++) {
            const struct svc_backend *b = &t->backend[s->first_backend + k];
            struct backend_view view;
            backend_view(d, glance, b, &view);
            fprintf(out, "fairlead_backend_%s{service=\"%s\",backend=\"%s\"} %.15g\n", m->name, s->name,
                    b->name, m->value(b, &view));
        }
    }
}

/* What the data plane counts of proxied services. */
static void print_target_metric(struct daemon *d, enum target_counter_id id, FILE *out)
{
    static const struct {
        const char *name, *kind, *unit, *text;
    } rows[TARGET_COUNTERS_COUNT] = {
#define TARGET(symbol, name, kind, unit, text) [TARGET_##symbol] = {name, #kind, unit, text},
#include "targets.def"
#undef TARGET
    };
    const struct svc_table *t = services_table(d->services);
    double scale = strcmp(rows[id].unit, "microseconds") == 0 ? 1e-6 : 1;
    fprintf(out, "# HELP fairlead_backend_proxy_%s %s\n# TYPE fairlead_backend_proxy_%s %s\n", rows[id].name,
            rows[id].text, rows[id].name, rows[id].kind);
    for (size_t i = 0; i < t->count; i++) {
        const struct svc *s = &t->service[i];
        for (size_t k = 0; k < s->backends && s->route == SVC_PROXY; k++) {
            const struct svc_backend *b = &t->backend[s->first_backend + k];
            uint64_t value[TARGET_COUNTERS_COUNT];
            shared_memory_target(&d->memory, b->id, b->generation, value);
            fprintf(out, "fairlead_backend_proxy_%s{service=\"%s\",backend=\"%s\"} %.15g\n", rows[id].name,
                    s->name, b->name, (double)value[id] * scale);
        }
    }
}

void service_metrics(struct daemon *d, FILE *out)
{
    const struct svc_table *t = services_table(d->services);
    struct backend_glance glance;
    fprintf(out,
            "# HELP fairlead_services Services in the state.\n# TYPE fairlead_services gauge\n"
            "fairlead_services %zu\n"
            "# HELP fairlead_backends Backends of all services.\n# TYPE fairlead_backends gauge\n"
            "fairlead_backends %zu\n",
            t->count, t->backend_count);
    if (t->backend_count == 0)
        return;
    backend_glance_take(d, &glance);
    for (size_t i = 0; i < ARRAY_SIZE(metrics); i++)
        print_metric(d, &glance, &metrics[i], out);
    for (int i = 0; i < TARGET_COUNTERS_COUNT; i++)
        print_target_metric(d, (enum target_counter_id)i, out);
    backend_glance_fini(&glance);
}
