/* SPDX-License-Identifier: Apache-2.0 */
/* Who is at the other end of a connection. */
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "dataplane/conn.h"
#include "dataplane/http/number.h"
#include "dataplane/http/proxy_header.h"

static void peer_learn(struct conn *c)
{
    struct sockaddr_storage ss = {0};
    socklen_t len = sizeof(ss);
    c->peer_known = true;
    if (getpeername(c->wire.fd, (struct sockaddr *)&ss, &len))
        return;
    c->peer_family = (uint8_t)ss.ss_family;
    if (ss.ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)&ss;
        memcpy(c->peer, &in->sin_addr, 4);
        c->peer_port = ntohs(in->sin_port);
    } else if (ss.ss_family == AF_INET6) {
        const struct sockaddr_in6 *in = (const struct sockaddr_in6 *)(const void *)&ss;
        memcpy(c->peer, &in->sin6_addr, 16);
        c->peer_port = ntohs(in->sin6_port);
    }
}

static char *put_number(char *at, unsigned value, char end)
{
    char digits[NUMBER_DIGITS_MAX];
    struct view text = number_write(value, digits);
    memcpy(at, text.p, text.len);
    at[text.len] = end;
    return at + text.len + 1;
}

void conn_peer_text(struct conn *c, char *out, size_t cap)
{
    char text[INET6_ADDRSTRLEN] = "?";
    if (!c->peer_known)
        peer_learn(c);
    if (c->peer_family == AF_INET &&
        cap >= sizeof("255.255.255.255:65535")) { /* once a request: without printf */
        for (int i = 0; i < 4; i++)
            out = put_number(out, c->peer[i], i < 3 ? '.' : ':');
        (void)put_number(out, c->peer_port, '\0');
        return;
    }
    if (c->peer_family == AF_INET6)
        (void)inet_ntop(AF_INET6, c->peer, text, sizeof(text));
    (void)snprintf(out, cap, c->peer_family == AF_INET6 ? "[%s]:%u" : "%s:%u", text, c->peer_port);
}

/* Ours, of the socket below. */
static void put_local(const struct conn *c, struct proxy_header *out)
{
    struct sockaddr_storage ss = {0};
    socklen_t len = sizeof(ss);
    if (c->wire.fd < 0 || getsockname(c->wire.fd, (struct sockaddr *)&ss, &len))
        return;
    if (ss.ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)&ss;
        memcpy(out->destination, &in->sin_addr, 4);
        out->destination_port = ntohs(in->sin_port);
    } else if (ss.ss_family == AF_INET6) {
        const struct sockaddr_in6 *in = (const struct sockaddr_in6 *)(const void *)&ss;
        memcpy(out->destination, &in->sin6_addr, 16);
        out->destination_port = ntohs(in->sin6_port);
    }
}

uint16_t conn_local_port(struct conn *c)
{
    struct proxy_header here = {0};
    if (!c->local_port) {
        put_local(c, &here);
        c->local_port = here.destination_port;
    }
    return c->local_port;
}

void conn_addresses(struct conn *c, struct proxy_header *out)
{
    memset(out, 0, sizeof(*out));
    if (!c->peer_known)
        peer_learn(c);
    out->family = c->peer_family == AF_INET    ? PROXY_HEADER_IPV4
                  : c->peer_family == AF_INET6 ? PROXY_HEADER_IPV6
                                               : PROXY_HEADER_NONE;
    memcpy(out->source, c->peer, sizeof(out->source));
    out->source_port = c->peer_port;
    put_local(c, out);
}
