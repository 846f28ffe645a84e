/* SPDX-License-Identifier: Apache-2.0 */
#include "control/daemon_notify.h"

#include <stdio.h>

#include "control/daemon.h"
#include "control/notify.h"

static uint64_t pulls_bytes_max(void *arg)
{
    const struct daemon *d = arg;
    enum setting_source source;
    return setting_effective(&d->settings, SET_NOTIFY_PULLS_BYTES, &source);
}

static uint64_t pulls_untold(void *arg)
{
    const struct daemon *d = arg;
    return shared_memory_sum(&d->memory, CTR_PULLS_UNTOLD);
}

static bool secret_find(void *arg, const char *name, struct credentials *out, char *why, size_t why_len)
{
    const struct daemon *d = arg;
    const struct config_credential *c = config_credential_find(&d->config.credentials, name);
    if (!c) {
        snprintf(why, why_len, "the configuration of this node has no credentials '%s'", name);
        return false;
    }
    snprintf(out->user, sizeof(out->user), "%s", c->user);
    return credentials_read(c->password_file, out->password, why, why_len);
}

void daemon_notify_open(struct daemon *d)
{
    const struct notify_config config = {.loop = &d->loop,
                                         .cluster = d->cluster,
                                         .events = d->events,
                                         .node = d->node_name,
                                         .pulls = {.loop = &d->loop,
                                                   .cluster = d->cluster,
                                                   .events = d->events,
                                                   .node = d->node_name,
                                                   .state_fd = d->folders.state_fd,
                                                   .wanted = &d->memory.log->pulls,
                                                   .bytes_max = pulls_bytes_max,
                                                   .untold = pulls_untold,
                                                   .arg = d},
                                         .secrets = {.find = secret_find, .arg = d}};
    d->notify = notify_new(&config);
}
