/* SPDX-License-Identifier: Apache-2.0 */
/* What the replicated state tells the daemon: settings, entries that were applied, its end. */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/cmd_origin.h"
#include "control/daemon.h"
#include "control/daemon_blobs.h"
#include "control/daemon_feed.h"
#include "control/daemon_life.h"
#include "control/daemon_peers.h"
#include "control/events.h"
#include "control/daemon_sources.h"
#include "control/mirrors.h"
#include "control/gc.h"
#include "control/nodes.h"
#include "control/notify.h"
#include "control/services.h"

/* A value that a later version of the table refuses is not used, and said so. */
void daemon_setting_load(void *arg, const char *key, size_t key_len, const char *value, size_t value_len)
{
    struct daemon *d = arg;
    char err[SETTING_ERROR_MAX];
    int id = setting_find(key, key_len);
    if (id < 0) {
        journal_warn(d->journal, "settings", "the state has a setting '%.*s' that this version does not know",
                     (int)key_len, key);
        return;
    }
    d->settings.state.given[id] = 0;
    if (setting_parse(id, value, value_len, &d->settings.state.value[id], err, sizeof(err)))
        journal_warn(d->journal, "settings", "the state's value is not used: %s", err);
    else
        d->settings.state.given[id] = 1;
}

/* A setting of the state, if the command is about one. */
static bool take_setting(struct daemon *d, const struct state_cmd *cmd)
{
    if (cmd->head.type == CMD_SETTING_SET) {
        daemon_setting_load(d, cmd->key.data, cmd->key.len, cmd->value.data, cmd->value.len);
        return true;
    }
    int id = cmd->head.type == CMD_SETTING_UNSET ? setting_find(cmd->key.data, cmd->key.len) : -1;
    if (id >= 0)
        d->settings.state.given[id] = 0;
    return cmd->head.type == CMD_SETTING_UNSET;
}

static bool take_settings(struct daemon *d, const struct state_cmd *cmd)
{
    struct wire_reader parts = cmd->parts;
    struct state_cmd *part = malloc(sizeof(*part));
    char err[128];
    bool taken = false;
    CHECK(part);
    for (uint32_t i = 0; i < cmd->parts_count; i++)
        if (state_part_next(&parts, &cmd->head, part, err, sizeof(err)) == 0)
            taken |= take_setting(d, part);
    free(part);
    return taken;
}

/* Is news to nobody: how far webhooks are comes once a second, what a repair does once a blob. Of the steps
 * of a garbage collection what is removed from a repository is news; the rest is summed up when it ends. */
static bool is_routine(const struct state_event *event)
{
    const struct cmd_head *head = &event->cmd.head;
    size_t len = head->source_len;
    (void)cmd_origin_take(head->source, &len);
    switch (head->type) {
    case CMD_NOTIFY_CURSOR:
    case CMD_GC_BLOBS:
    case CMD_GC_KEEP:
    case CMD_GC_TOTALS:
        return true;
    case CMD_GC_REPO:
        return !event->changed || event->cmd.gc.step != CMD_GC_DROP;
    case CMD_BLOB_COPIES:
        return len == strlen(REPAIR_SOURCE) && memcmp(head->source, REPAIR_SOURCE, len) == 0;
    default:
        return false;
    }
}

static void on_event(void *arg, const struct state_event *event)
{
    struct daemon *d = arg;
    bool many = event->cmd.head.type == CMD_TRANSACTION;
    if (event->changed && d->cluster && (many ? take_settings(d, &event->cmd) : take_setting(d, &event->cmd)))
        daemon_publish_plan(d);
    if (d->services)
        services_event(d->services, event);
    if (d->nodes)
        nodes_event(d->nodes, event);
    if (d->notify)
        notify_event(d->notify, event);
    if (d->mirrors)
        mirrors_event(d->mirrors, event);
    daemon_sources_event(d, event);
    if (!is_routine(event))
        events_state(d->events, event);
    if (d->gc)
        gc_event(d->gc, event);
}

static void on_fatal(void *arg, const char *why)
{
    struct daemon *d = arg;
    journal_error(d->journal, "state", "the state cannot go on: %s; fairleadd stops", why);
    d->exit_code = 1;
    daemon_stop(d);
}

static void on_reader_stuck(void *arg, unsigned ring)
{
    struct daemon *d = arg;
    journal_error(d->journal, "state", "ring %u has read the names for too long; the data plane is restarted",
                  ring);
    supervise_kill(d->supervise, "it read the names for too long");
}

static void on_restored(void *arg)
{
    struct daemon *d = arg;
    memset(d->settings.state.given, 0, sizeof(d->settings.state.given));
    int err = cluster_each_setting(d->cluster, daemon_setting_load, d);
    if (err)
        journal_error(d->journal, "settings", "the state cannot be read: %s", strerror(-err));
    services_reload(d->services);
    nodes_reload(d->nodes);
    if (d->notify)
        notify_event(d->notify, NULL);
    if (d->mirrors)
        mirrors_event(d->mirrors, NULL);
    daemon_sources_event(d, NULL);
    if (d->gc)
        gc_reload(d->gc);
    daemon_publish_plan(d);
}

static void on_verdicts(void *arg, const struct verdict_frame *frame)
{
    daemon_feed_told(arg, frame);
}

static void on_certificates(void *arg, uint64_t serial)
{
    daemon_pki_changed(arg, serial);
}

const struct cluster_handlers daemon_cluster_handlers = {.event = on_event,
                                                         .fatal = on_fatal,
                                                         .reader_stuck = on_reader_stuck,
                                                         .restored = on_restored,
                                                         .certificates = on_certificates,
                                                         .verdicts = on_verdicts};
