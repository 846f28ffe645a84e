/* SPDX-License-Identifier: Apache-2.0 */
#include "control/daemon_sources.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/compile/plan_services.h"
#include "control/daemon.h"
#include "control/source_pass.h"
#include "control/source_way.h"
#include "control/webhook.h"

enum { CA_BYTES_MAX = 1 << 20 };

/* A service that is not there, or has no data plane's path, can be asked nothing: NULL. */
static const struct plan_proxied *service_of(const struct daemon *d, const char *name)
{
    for (size_t i = 0; i < d->proxied->count; i++)
        if (strcmp(d->proxied->proxied[i].service.name, name) == 0)
            return &d->proxied->proxied[i];
    return NULL;
}

size_t daemon_sources(const struct daemon *d, const struct plan_peers *peers,
                      struct plan_source out[PLAN_SOURCES_MAX])
{
    const struct config_sources *s = &d->config.sources;
    for (size_t i = 0; i < s->count; i++) {
        const struct plan_proxied *service = service_of(d, s->list[i].service);
        out[i] = s->list[i].source;
        out[i].service = service ? service->place : PLAN_NO_SERVICE;
    }
    if (peers)
        out[s->count] = peers->source;
    return s->count + (peers != NULL);
}

/* ------------------------------------------------------------------ what they are shown */

static char *read_ca(const char *path, char *why, size_t why_len)
{
    FILE *file = fopen(path, "re");
    char *text = NULL;
    size_t cap = 0;
    ssize_t len = file ? getdelim(&text, &cap, '\0', file) : -1;
    int err = errno;
    if (file)
        fclose(file);
    if (len > 0 && len < CA_BYTES_MAX && webhook_ca_valid(text))
        return text;
    free(text);
    snprintf(why, why_len, "%s: %s", path, file && len > 0 ? "it is no CA's certificate" : strerror(err));
    return NULL;
}

/* A token server is checked with the CA that the registry itself is checked with. */
static void add_ca(const struct daemon *d, const char *name, struct source_access *access)
{
    const struct config_certificates *all = &d->config.certificates;
    for (size_t i = 0; name[0] && i < all->count && !access->ca; i++)
        if (strcmp(all->list[i].name, name) == 0 && all->list[i].ca)
            access->ca = read_ca(all->list[i].ca, access->problem, sizeof(access->problem));
    if (name[0] && !access->ca && !access->problem[0])
        snprintf(access->problem, sizeof(access->problem), "there is no CA of the name %s", name);
}

static void add_credentials(const struct daemon *d, const char *name, struct source_access *access)
{
    const struct config_credential *c = config_credential_find(&d->config.credentials, name);
    if (c && credentials_read(c->password_file, access->credentials.password, access->problem,
                              sizeof(access->problem)))
        memcpy(access->credentials.user, c->user, sizeof(access->credentials.user));
}

static const struct config_source *find(const struct daemon *d, uint64_t source)
{
    for (size_t i = 0; i < d->config.sources.count; i++)
        if (d->config.sources.list[i].source.id == source)
            return &d->config.sources.list[i];
    return NULL;
}

static bool on_look(void *arg, uint64_t source, struct source_access *access)
{
    const struct daemon *d = arg;
    const struct config_source *s = find(d, source);
    const struct plan_proxied *service = s ? service_of(d, s->service) : NULL;
    if (!service)
        return false;
    memcpy(access->prefix, s->source.prefix, sizeof(access->prefix));
    memcpy(access->token_server, s->token_server, sizeof(access->token_server));
    access->plain = !service->service.proxy.backend_tls;
    add_ca(d, service->service.proxy.backend_ca, access);
    if (s->credentials[0] && !access->problem[0])
        add_credentials(d, s->credentials, access);
    return true;
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
    access->service = access->source ? service_of(d, access->source->service) : NULL;
    return access->service != NULL;
}

static uint64_t on_publish(void *arg)
{
    return daemon_publish_plan(arg);
}

void daemon_sources_open(struct daemon *d)
{
    const struct source_passes_config config = {.loop = &d->loop, .look = on_look, .tell = on_tell, .arg = d};
    const struct source_ways_config ways = {
        .loop = &d->loop, .look = on_look_way, .publish = on_publish, .tell = on_tell, .arg = d};
    d->passes = source_passes_new(&config);
    d->ways = source_ways_new(&ways);
}

void daemon_sources_close(struct daemon *d)
{
    source_passes_close(d->passes);
    d->passes = NULL;
    source_ways_close(d->ways);
    d->ways = NULL;
}

void daemon_sources_reload(struct daemon *d, struct config *next)
{
    struct config_sources sources = d->config.sources;
    struct config_credentials credentials = d->config.credentials;
    d->config.sources = next->sources;
    d->config.credentials = next->credentials;
    next->sources = sources;
    next->credentials = credentials;
    source_passes_forget(d->passes);
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
}
