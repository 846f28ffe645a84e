/* SPDX-License-Identifier: Apache-2.0 */
#include "control/daemon_listen.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/compile/plan_services.h"
#include "control/daemon_kernel.h"
#include "control/local_routes.h"
#include "control/services.h"

/*
 * How long a group whose address was removed is kept. At least: a handshake that has begun needs a round trip
 * more, and the connects that are dropped meanwhile come again after a second (the kernel's first time-out),
 * when they are to be refused. At most: for a data plane that accepts nothing.
 */
enum { LEAVE_MIN_MS = 900, LEAVE_MAX_MS = 10000, LEAVE_TICK_MS = 20 };

static bool has_left(struct daemon *d, uint16_t group)
{
    const struct listener_group *g = &d->listeners.group[group];
    uint64_t waited_ms = uv_now(&d->loop) - g->leaving_ms;
    if (waited_ms < LEAVE_MIN_MS)
        return false;
    if (!listeners_waited_for(&d->listeners, group))
        return true;
    if (waited_ms < LEAVE_MAX_MS)
        return false;
    journal_warn(d->journal, "listen", "%s: connections that nobody has accepted in %d ms are reset",
                 g->address.text, LEAVE_MAX_MS);
    return true;
}

/* Control's copies first: so the data plane's, which accept to the end, are the last ones. */
static void end_group(struct daemon *d, uint16_t group)
{
    struct listener_group g = d->listeners.group[group];
    listeners_remove(&d->listeners, group);
    supervise_unlisten(d->supervise, g.first, g.count);
    journal_info(d->journal, "listen", "%s is not listened on any more; what was accepted goes on",
                 g.address.text);
}

static void on_leave_timer(uv_timer_t *timer)
{
    struct daemon *d = timer->data;
    bool ended = false, left = false;
    for (uint16_t i = d->listeners.group_count; i-- > 0;) {
        if (!d->listeners.group[i].leaving)
            continue;
        if (has_left(d, i)) {
            end_group(d, i);
            ended = true;
        } else {
            left = true;
        }
    }
    if (ended)
        daemon_publish_plan(d);
    if (!left)
        uv_timer_stop(timer);
}

static void start_timer(struct daemon *d)
{
    uv_timer_start(&d->leave_timer, on_leave_timer, LEAVE_TICK_MS, LEAVE_TICK_MS);
}

static void begin_leaving(struct daemon *d, uint16_t group)
{
    const char *text = d->listeners.group[group].address.text;
    int err = listeners_leave(&d->listeners, group, uv_now(&d->loop));
    journal_info(d->journal, "listen", "%s is not configured any more; it takes no new connections", text);
    if (err)
        journal_warn(d->journal, "listen", "%s: connects at this moment may be reset: %s", text,
                     strerror(-err));
}

/* ------------------------------------------------------------------ what is wanted */

/* The addresses of the configuration, then those of services; from malloc. */
struct wanted {
    struct config_address *address;
    size_t count;
};

static void service_address(const struct svc *s, struct config_address *out)
{
    const char *hint;
    char text[ADDRESS_TEXT_MAX];
    *out = (struct config_address){.allow_all = true};
    CHECK(config_address_parse(svc_address_text(&s->address, text), out, &hint) == 0);
    out->service = SERVICE_PROXY;
    out->place = plan_place_of(s);
}

static struct wanted wanted_take(struct daemon *d, const struct config *config)
{
    const struct svc_table *t = services_table(d->services);
    struct wanted w = {.address = calloc(config->listen_count + t->count + 1, sizeof(*w.address))};
    CHECK(w.address);
    for (size_t i = 0; i < config->listen_count; i++)
        w.address[w.count++] = config->listen[i];
    for (size_t i = 0; i < t->count; i++)
        if (t->service[i].route == SVC_PROXY)
            service_address(&t->service[i], &w.address[w.count++]);
    return w;
}

static bool is_wanted(const struct wanted *w, const char *text)
{
    for (size_t i = 0; i < w->count; i++)
        if (strcmp(w->address[i].text, text) == 0)
            return true;
    return false;
}

/* The first of those that want the same address: the file's own before a service's. */
static const struct config_address *first_at(const struct wanted *w, size_t at)
{
    size_t i = 0;
    while (strcmp(w->address[i].text, w->address[at].text) != 0)
        i++;
    return &w->address[i];
}

static const char *name_of(struct daemon *d, const struct config_address *address)
{
    const struct svc *s = svc_find_id(services_table(d->services), plan_service_at(address->place));
    return s ? s->name : "?";
}

/* ------------------------------------------------------------------ what could not be had */

static bool was_so(const struct listen_failures *before, const struct listen_failure *row)
{
    for (size_t i = 0; i < before->count; i++)
        if (strcmp(before->row[i].address, row->address) == 0)
            return strcmp(before->row[i].why, row->why) == 0;
    return false;
}

static void note_failure(struct daemon *d, const struct listen_failures *before,
                         const struct config_address *address, const char *why)
{
    struct listen_failures *now = &d->listen_failures;
    now->row = reallocarray(now->row, now->count + 1, sizeof(*now->row));
    CHECK(now->row);
    struct listen_failure *row = &now->row[now->count++];
    snprintf(row->address, sizeof(row->address), "%s", address->text);
    if (address->service == SERVICE_PROXY)
        snprintf(row->why, sizeof(row->why), "service '%s': %s", name_of(d, address), why);
    else
        snprintf(row->why, sizeof(row->why), "%s", why);
    if (!was_so(before, row))
        journal_error(d->journal, "listen", "%s; it is tried again each second", row->why);
}

void daemon_listen_warn(const struct daemon *d, json_t *list)
{
    for (size_t i = 0; i < d->listen_failures.count; i++)
        json_array_append_new(list, json_string(d->listen_failures.row[i].why));
    for (size_t i = 0; i < d->undelivered.count; i++)
        json_array_append_new(list, json_string(d->undelivered.row[i].why));
}

/* ------------------------------------------------------------------ opening */

static void open_wanted(struct daemon *d, const struct wanted *w)
{
    struct listen_failures before = d->listen_failures;
    char err[LISTEN_WHY_MAX - 80];
    d->listen_failures = (struct listen_failures){0};
    for (size_t i = 0; i < w->count; i++) {
        const struct config_address *address = &w->address[i];
        uint16_t groups = d->listeners.group_count;
        const struct config_address *first = first_at(w, i);
        if (first != address && first->service == SERVICE_PROXY)
            continue; /* services share it, by the names that clients say */
        if (first != address)
            note_failure(d, &before, address, "its address is one of this node's own; give it another one");
        else if (listeners_add(&d->listeners, address, false, err, sizeof(err)))
            note_failure(d, &before, address, err);
        else if (d->listeners.group_count != groups && address->service == SERVICE_PROXY)
            journal_info(d->journal, "listen", "service '%s' listens on %s", name_of(d, address),
                         address->text);
    }
    free(before.row);
}

static bool address_of(const struct config_address *from, struct abi_addr *out)
{
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)(const void *)&from->addr;
    const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)&from->addr;
    if (from->service != SERVICE_PROXY || config_address_is_loopback(from))
        return false;
    *out = (struct abi_addr){{0, 0, htonl(0xffff), in->sin_addr.s_addr}};
    if (from->addr.ss_family == AF_INET6)
        memcpy(out->word, &in6->sin6_addr, sizeof(out->word));
    return true;
}

static bool may_route(const struct daemon *d)
{
    struct kernel_view view = {.phase = KERNEL_OFF};
    enum setting_source source;
    if (d->kernel_half)
        kernel_view(d->kernel_half->kernel, &view);
    return setting_effective(&d->settings, SET_KERNEL_ENABLED, &source) && view.phase != KERNEL_DETACHED;
}

/* Packets to an address that is on no interface reach its socket by a route of ours. */
static void deliver(struct daemon *d, const struct wanted *w)
{
    struct abi_addr *addr = calloc(w->count + 1, sizeof(*addr));
    const struct config_address **of = calloc(w->count + 1, sizeof(*of));
    bool *delivered = calloc(w->count + 1, sizeof(*delivered));
    size_t count = 0;
    CHECK(addr && of && delivered);
    d->routing = may_route(d);
    d->lingering = 0;
    for (size_t i = 0; i < w->count && d->routing; i++) {
        if (!address_of(&w->address[i], &addr[count]))
            continue;
        of[count++] = &w->address[i];
    }
    int err = local_routes_sync(d->config.kernel.instance, addr, count, delivered,
                                d->routing ? &d->lingering : NULL);
    struct listen_failures before = d->undelivered;
    d->undelivered = (struct listen_failures){.row = calloc(count + 1, sizeof(struct listen_failure))};
    CHECK(d->undelivered.row);
    for (size_t i = 0; i < count; i++) {
        struct listen_failure *row = &d->undelivered.row[d->undelivered.count];
        if (delivered[i])
            continue;
        d->undelivered.count++;
        snprintf(
            row->why, sizeof(row->why),
            "service '%s': the address of %s is on no interface of this host, and no route could be made "
            "that delivers it here: %s; root may do it, or give the address to an interface",
            name_of(d, of[i]), of[i]->text, err ? strerror(-err) : "the kernel has another way");
        snprintf(row->address, sizeof(row->address), "%s", of[i]->text);
        if (!was_so(&before, row))
            journal_warn(d->journal, "listen", "%s", row->why);
    }
    free(before.row);
    free(addr);
    free(of);
    free(delivered);
}

/* Groups of an earlier control of which nobody knew what they served. */
static void decide(struct daemon *d, const struct wanted *w)
{
    for (uint16_t i = d->listeners.group_count; i-- > 0;) {
        const struct listener_group *g = &d->listeners.group[i];
        if (g->leaving || is_wanted(w, g->address.text))
            continue;
        if (d->adopted.pid || g->address.service)
            begin_leaving(d, i);
        else
            listeners_remove(&d->listeners, i); /* that data plane has gone: a connect is to be refused */
    }
}

static void update(struct daemon *d, const struct config *config)
{
    struct wanted w = wanted_take(d, config);
    decide(d, &w);
    open_wanted(d, &w);
    deliver(d, &w);
    free(w.address);
}

void daemon_listen_begin(struct daemon *d)
{
    update(d, &d->config);
}

void daemon_listen_services(struct daemon *d)
{
    if (d->phase > DAEMON_SERVING)
        return;
    update(d, &d->config);
    start_timer(d);
}

void daemon_listen_tick(struct daemon *d)
{
    bool failed =
        d->listen_failures.count || d->undelivered.count || may_route(d) != d->routing || d->lingering;
    if (!failed || d->phase > DAEMON_SERVING)
        return;
    size_t before = d->listen_failures.count;
    daemon_listen_services(d);
    if (d->listen_failures.count != before)
        daemon_publish_plan(d);
}

void daemon_listen_reload(struct daemon *d, const struct config *next)
{
    memcpy(d->config.listen, next->listen, sizeof(d->config.listen));
    d->config.listen_count = next->listen_count;
    daemon_listen_services(d);
}

void daemon_listen_open(struct daemon *d)
{
    uv_timer_init(&d->loop, &d->leave_timer);
    d->leave_timer.data = d;
    start_timer(d);
}

void daemon_listen_close(struct daemon *d)
{
    uv_close((uv_handle_t *)&d->leave_timer, NULL);
}

void daemon_listen_free(struct daemon *d)
{
    free(d->listen_failures.row);
    free(d->undelivered.row);
}
