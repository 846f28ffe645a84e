/* SPDX-License-Identifier: Apache-2.0 */
#include "control/daemon_listen.h"

#include <string.h>

/*
 * How long a group whose address was removed is kept. At least: a handshake that has begun needs a round trip
 * more, and the connects that are dropped meanwhile come again after a second (the kernel's first time-out),
 * when they are to be refused. At most: for a data plane that accepts nothing.
 */
enum { LEAVE_MIN_MS = 900, LEAVE_MAX_MS = 10000, LEAVE_TICK_MS = 20 };

static const struct config_address *find_address(const struct config *config, const char *text)
{
    for (size_t i = 0; i < config->listen_count; i++)
        if (strcmp(config->listen[i].text, text) == 0)
            return &config->listen[i];
    return NULL;
}

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
    journal_warn(d->journal, "reload", "%s: connections that nobody has accepted in %d ms are reset",
                 g->address.text, LEAVE_MAX_MS);
    return true;
}

/* Control's copies first: so the data plane's, which accept to the end, are the last ones. */
static void end_group(struct daemon *d, uint16_t group)
{
    struct listener_group g = d->listeners.group[group];
    listeners_remove(&d->listeners, group);
    supervise_unlisten(d->supervise, g.first, g.count);
    journal_info(d->journal, "reload", "%s is not listened on any more; what was accepted goes on",
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
    journal_info(d->journal, "reload", "%s is not in the file any more; it takes no new connections", text);
    if (err)
        journal_warn(d->journal, "reload", "%s: connects at this moment may be reset: %s", text,
                     strerror(-err));
}

void daemon_listen_reload(struct daemon *d, const struct config *next)
{
    char err[256];
    for (uint16_t i = 0; i < d->listeners.group_count; i++) {
        const struct listener_group *g = &d->listeners.group[i];
        const struct config_address *address = find_address(next, g->address.text);
        if (!address && !g->leaving)
            begin_leaving(d, i);
        else if (address && !g->leaving && address->service != g->address.service)
            journal_warn(d->journal, "reload",
                         "another service on %s counts from the next start of fairleadd", g->address.text);
    }
    for (size_t i = 0; i < next->listen_count; i++)
        if (listeners_add(&d->listeners, &next->listen[i], false, err, sizeof(err)))
            journal_error(d->journal, "reload", "%s", err);
    start_timer(d);
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
