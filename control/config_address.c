/* SPDX-License-Identifier: Apache-2.0 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#include "control/config.h"

static int port_parse(const char *text, uint16_t *port)
{
    size_t len = strlen(text);
    uint32_t value = 0;
    if (len == 0 || len > 5 || text[0] == '0')
        return -EINVAL;
    for (size_t i = 0; i < len; i++) {
        if (text[i] < '0' || text[i] > '9')
            return -EINVAL;
        value = value * 10 + (uint32_t)(text[i] - '0');
    }
    if (value > UINT16_MAX)
        return -EINVAL;
    *port = (uint16_t)value;
    return 0;
}

static int parse_ipv6(const char *host, uint16_t port, struct config_address *out, const char **hint)
{
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&out->addr;
    char canonical[INET6_ADDRSTRLEN];
    in6->sin6_family = AF_INET6;
    in6->sin6_port = htons(port);
    *hint = "write an IPv6 address in brackets and a port, as in [::1]:5000";
    if (inet_pton(AF_INET6, host, &in6->sin6_addr) != 1)
        return -EINVAL;
    if (IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr)) {
        *hint = "write the IPv4 address in its own form, as in 127.0.0.1:5000";
        return -EINVAL;
    }
    inet_ntop(AF_INET6, &in6->sin6_addr, canonical, sizeof(canonical));
    snprintf(out->text, sizeof(out->text), "[%s]:%u", canonical, port);
    out->addr_len = sizeof(*in6);
    return 0;
}

static int parse_ipv4(const char *host, uint16_t port, struct config_address *out)
{
    struct sockaddr_in *in = (struct sockaddr_in *)&out->addr;
    in->sin_family = AF_INET;
    in->sin_port = htons(port);
    if (inet_pton(AF_INET, host, &in->sin_addr) != 1)
        return -EINVAL;
    snprintf(out->text, sizeof(out->text), "%.15s:%u", host, port);
    out->addr_len = sizeof(*in);
    return 0;
}

int config_address_parse(const char *text, struct config_address *out, const char **hint)
{
    char host[ADDRESS_TEXT_MAX];
    uint16_t port;
    memset(&out->addr, 0, sizeof(out->addr));
    *hint = "write an IP address and a port from 1 to 65535, as in 127.0.0.1:5000 or [::1]:5000";
    const char *colon = strrchr(text, ':');
    if (!colon || port_parse(colon + 1, &port))
        return -EINVAL;
    size_t host_len = (size_t)(colon - text);
    if (host_len >= sizeof(host))
        return -EINVAL;
    memcpy(host, text, host_len);
    host[host_len] = '\0';
    if (host[0] != '[')
        return parse_ipv4(host, port, out);
    if (host[host_len - 1] != ']')
        return -EINVAL;
    host[host_len - 1] = '\0';
    return parse_ipv6(host + 1, port, out, hint);
}

/* Makes the text of an address that the kernel gave. */
static int address_text(struct config_address *out)
{
    char host[INET6_ADDRSTRLEN];
    const struct sockaddr_in *in = (const struct sockaddr_in *)&out->addr;
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&out->addr;
    bool ipv6 = out->addr.ss_family == AF_INET6;
    if (!ipv6 && out->addr.ss_family != AF_INET)
        return -EAFNOSUPPORT;
    if (!inet_ntop(out->addr.ss_family, ipv6 ? (const void *)&in6->sin6_addr : &in->sin_addr, host,
                   sizeof(host)))
        return -errno;
    snprintf(out->text, sizeof(out->text), ipv6 ? "[%s]:%u" : "%s:%u", host,
             ntohs(ipv6 ? in6->sin6_port : in->sin_port));
    return 0;
}

int config_address_of_socket(int fd, struct config_address *out)
{
    memset(out, 0, sizeof(*out));
    out->addr_len = sizeof(out->addr);
    return getsockname(fd, (struct sockaddr *)&out->addr, &out->addr_len) ? -errno : address_text(out);
}

int config_address_of_peer(int fd, struct config_address *out)
{
    memset(out, 0, sizeof(*out));
    out->addr_len = sizeof(out->addr);
    return getpeername(fd, (struct sockaddr *)&out->addr, &out->addr_len) ? -errno : address_text(out);
}

bool config_address_is_loopback(const struct config_address *address)
{
    if (address->addr.ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)&address->addr;
        return ntohl(in->sin_addr.s_addr) >> 24 == 127;
    }
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&address->addr;
    return IN6_IS_ADDR_LOOPBACK(&in6->sin6_addr);
}
