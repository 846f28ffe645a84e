/* SPDX-License-Identifier: Apache-2.0 */
/* Where this node's registry is reached from this host, by whom it is mirrored. */
#include "control/daemon_mirror.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#include "control/mirrors.h"

static bool serves(void *arg)
{
    const struct daemon *d = arg;
    return d->phase == DAEMON_SERVING;
}

/* A wildcard is reached by loopback. */
static void url_write(const struct config_address *a, char url[MIRRORS_URL_MAX])
{
    const char *scheme = a->tls.mode ? "https" : "http";
    char ip[INET6_ADDRSTRLEN];
    if (a->addr.ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)&a->addr;
        bool any = in->sin_addr.s_addr == htonl(INADDR_ANY);
        inet_ntop(AF_INET, &in->sin_addr, ip, sizeof(ip));
        snprintf(url, MIRRORS_URL_MAX, "%s://%s:%u", scheme, any ? "127.0.0.1" : ip, ntohs(in->sin_port));
    } else {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&a->addr;
        inet_ntop(AF_INET6, IN6_IS_ADDR_UNSPECIFIED(&in6->sin6_addr) ? &in6addr_loopback : &in6->sin6_addr,
                  ip, sizeof(ip));
        snprintf(url, MIRRORS_URL_MAX, "%s://[%s]:%u", scheme, ip, ntohs(in6->sin6_port));
    }
}

/* In clear before TLS, loopback before what others see. */
static unsigned rank(const struct config_address *a)
{
    if (a->service != SERVICE_REGISTRY || a->tls.client_auth || a->tls.proxy_protocol)
        return 0;
    return 1 + (a->tls.mode ? 0u : 2u) + config_address_is_loopback(a);
}

static bool registry_url(void *arg, char url[MIRRORS_URL_MAX], const char **why)
{
    const struct daemon *d = arg;
    const struct config_address *best = NULL;
    for (uint16_t i = 0; i < d->listeners.group_count; i++) {
        const struct listener_group *g = &d->listeners.group[i];
        if (!g->leaving && rank(&g->address) > (best ? rank(best) : 0))
            best = &g->address;
    }
    if (!best) {
        *why =
            "this node's registry has no address without clients' certificates and PROXY headers; add one on "
            "loopback";
        return false;
    }
    url_write(best, url);
    return true;
}

void daemon_mirror_open(struct daemon *d)
{
    const struct mirrors_config config = {.loop = &d->loop,
                                          .cluster = d->cluster,
                                          .events = d->events,
                                          .user = &d->user,
                                          .serves = serves,
                                          .local = registry_url,
                                          .arg = d};
    d->mirrors = mirrors_new(&config);
}
