/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy_header.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static const uint8_t signature[12] = {'\r', '\n', '\r', '\n', '\0', '\r', '\n', 'Q', 'U', 'I', 'T', '\n'};

enum {
    V2_HEAD = 16,
    V2_LOCAL = 0x20,
    V2_PROXY = 0x21,
    V2_UNSPEC = 0x00,
    V2_TCP4 = 0x11,
    V2_TCP6 = 0x21,
    V2_UNIX = 0x31,
    V2_TCP4_BYTES = 12,
    V2_TCP6_BYTES = 36,
    V2_UNIX_BYTES = 216,
};

/* ------------------------------------------------------------------ version 2 */

static uint16_t get_u16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

static void put_u16(uint8_t *p, uint16_t value)
{
    p[0] = (uint8_t)(value >> 8);
    p[1] = (uint8_t)value;
}

static void v2_addresses(const uint8_t *p, uint8_t family, struct proxy_header *out)
{
    size_t n = family == PROXY_HEADER_IPV4 ? 4 : 16;
    out->family = family;
    memcpy(out->source, p, n);
    memcpy(out->destination, p + n, n);
    out->source_port = get_u16(p + 2 * n);
    out->destination_port = get_u16(p + 2 * n + 2);
}

static ssize_t v2_read(const uint8_t *p, size_t len, struct proxy_header *out)
{
    if (len < V2_HEAD)
        return -EAGAIN;
    size_t bytes = get_u16(p + 14);
    if ((p[12] != V2_LOCAL && p[12] != V2_PROXY) || V2_HEAD + bytes > PROXY_HEADER_MAX)
        return -EBADMSG;
    size_t least = p[13] == V2_TCP4   ? V2_TCP4_BYTES
                   : p[13] == V2_TCP6 ? V2_TCP6_BYTES
                   : p[13] == V2_UNIX ? V2_UNIX_BYTES
                                      : 0;
    if (p[12] == V2_PROXY && (bytes < least || (least == 0 && p[13] != V2_UNSPEC)))
        return -EBADMSG;
    if (len < V2_HEAD + bytes)
        return -EAGAIN;
    if (p[12] == V2_PROXY && p[13] == V2_TCP4)
        v2_addresses(p + V2_HEAD, PROXY_HEADER_IPV4, out);
    else if (p[12] == V2_PROXY && p[13] == V2_TCP6)
        v2_addresses(p + V2_HEAD, PROXY_HEADER_IPV6, out);
    return (ssize_t)(V2_HEAD + bytes);
}

/* ------------------------------------------------------------------ version 1 */

/* The next word of the line, ended by the separator; *p goes behind it. */
static bool word(const char **p, const char *end, char separator, char *out, size_t cap)
{
    const char *stop = memchr(*p, separator, (size_t)(end - *p));
    if (!stop || (size_t)(stop - *p) >= cap)
        return false;
    memcpy(out, *p, (size_t)(stop - *p));
    out[stop - *p] = '\0';
    *p = stop + 1;
    return true;
}

static bool port(const char *text, uint16_t *out)
{
    uint32_t value = 0;
    size_t len = strlen(text);
    if (len == 0 || len > 5 || (text[0] == '0' && len > 1))
        return false;
    for (size_t i = 0; i < len; i++) {
        if (text[i] < '0' || text[i] > '9')
            return false;
        value = value * 10 + (uint32_t)(text[i] - '0');
    }
    *out = (uint16_t)value;
    return value <= UINT16_MAX;
}

/* p: behind "PROXY TCP4 "; the line ends with the CR before end. */
static bool v1_addresses(const char *p, const char *end, int family, struct proxy_header *out)
{
    char source[INET6_ADDRSTRLEN], destination[INET6_ADDRSTRLEN], source_port[8], destination_port[8];
    return word(&p, end, ' ', source, sizeof(source)) &&
           word(&p, end, ' ', destination, sizeof(destination)) &&
           word(&p, end, ' ', source_port, sizeof(source_port)) &&
           word(&p, end, '\r', destination_port, sizeof(destination_port)) && p == end &&
           inet_pton(family, source, out->source) == 1 &&
           inet_pton(family, destination, out->destination) == 1 && port(source_port, &out->source_port) &&
           port(destination_port, &out->destination_port);
}

static bool starts(const char *p, size_t len, const char *with)
{
    return len >= strlen(with) && memcmp(p, with, strlen(with)) == 0;
}

/* Whether the bytes may still become `with`, or begin with it. */
static bool may_start(const uint8_t *p, size_t len, const void *with, size_t with_len)
{
    return memcmp(p, with, len < with_len ? len : with_len) == 0;
}

static ssize_t v1_read(const char *p, size_t len, struct proxy_header *out)
{
    size_t seen = len < PROXY_HEADER_V1_MAX ? len : PROXY_HEADER_V1_MAX;
    const char *lf = memchr(p, '\n', seen);
    if (!lf)
        return seen == PROXY_HEADER_V1_MAX || memchr(p, '\0', seen) ? -EBADMSG : -EAGAIN;
    struct proxy_header h = {0};
    size_t line = (size_t)(lf - p);
    if (lf[-1] != '\r' || memchr(p, '\0', line))
        return -EBADMSG;
    if (starts(p, line, "PROXY TCP4 ") && v1_addresses(p + 11, lf, AF_INET, &h))
        h.family = PROXY_HEADER_IPV4;
    else if (starts(p, line, "PROXY TCP6 ") && v1_addresses(p + 11, lf, AF_INET6, &h))
        h.family = PROXY_HEADER_IPV6;
    else if (!starts(p, line, "PROXY UNKNOWN\r") && !starts(p, line, "PROXY UNKNOWN "))
        return -EBADMSG;
    if (h.family != PROXY_HEADER_NONE)
        *out = h;
    return (ssize_t)line + 1;
}

/* ------------------------------------------------------------------ */

ssize_t proxy_header_read(const uint8_t *p, size_t len, struct proxy_header *out)
{
    *out = (struct proxy_header){.family = PROXY_HEADER_NONE};
    if (len == 0)
        return -EAGAIN;
    if (may_start(p, len, signature, sizeof(signature)))
        return len < sizeof(signature) ? -EAGAIN : v2_read(p, len, out);
    if (may_start(p, len, "PROXY ", 6))
        return len < 6 ? -EAGAIN : v1_read((const char *)p, len, out);
    return -EBADMSG;
}

static size_t v2_write(const struct proxy_header *h, uint8_t *out)
{
    size_t n = h->family == PROXY_HEADER_IPV4 ? 4 : h->family == PROXY_HEADER_IPV6 ? 16 : 0;
    size_t bytes = n ? 2 * n + 4 : 0;
    memcpy(out, signature, sizeof(signature));
    out[12] = n ? V2_PROXY : V2_LOCAL;
    out[13] = n == 4 ? V2_TCP4 : n == 16 ? V2_TCP6 : V2_UNSPEC;
    put_u16(out + 14, (uint16_t)bytes);
    if (n) {
        memcpy(out + V2_HEAD, h->source, n);
        memcpy(out + V2_HEAD + n, h->destination, n);
        put_u16(out + V2_HEAD + 2 * n, h->source_port);
        put_u16(out + V2_HEAD + 2 * n + 2, h->destination_port);
    }
    return V2_HEAD + bytes;
}

size_t proxy_header_write(const struct proxy_header *h, unsigned version, uint8_t *out)
{
    char source[INET6_ADDRSTRLEN], destination[INET6_ADDRSTRLEN];
    int family = h->family == PROXY_HEADER_IPV4 ? AF_INET : AF_INET6;
    if (version == 2)
        return v2_write(h, out);
    if (h->family == PROXY_HEADER_NONE || !inet_ntop(family, h->source, source, sizeof(source)) ||
        !inet_ntop(family, h->destination, destination, sizeof(destination)))
        return (size_t)snprintf((char *)out, PROXY_HEADER_WRITE_MAX, "PROXY UNKNOWN\r\n");
    return (size_t)snprintf((char *)out, PROXY_HEADER_WRITE_MAX, "PROXY %s %s %s %u %u\r\n",
                            family == AF_INET ? "TCP4" : "TCP6", source, destination, h->source_port,
                            h->destination_port);
}
