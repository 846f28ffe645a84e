/* SPDX-License-Identifier: Apache-2.0 */
#include "control/mirror/url.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

/* --- origins --- */

bool url_is_https(const char *url)
{
    return strncasecmp(url, "https://", 8) == 0;
}

/* Length of scheme and authority; 0: it is no URL of ours. */
static size_t origin_len(const char *url)
{
    size_t scheme = strncasecmp(url, "http://", 7) == 0 ? 7 : url_is_https(url) ? 8 : 0;
    size_t host = scheme ? strcspn(url + scheme, "/?#") : 0;
    /* Names of users, and what others may take for one, are nowhere a part of it. */
    bool plain = strcspn(url + scheme, "@\\") >= host;
    return host && plain ? scheme + host : 0;
}

struct authority {
    const char *host, *port;
    size_t host_len, port_len;
};

static struct authority authority_of(const char *url, size_t len)
{
    bool tls = url_is_https(url);
    struct authority a = {.host = url + (tls ? 8 : 7), .port = tls ? "443" : "80", .port_len = tls ? 3 : 2};
    const char *end = url + len, *colon = end;
    while (colon > a.host && colon[-1] >= '0' && colon[-1] <= '9')
        colon--;
    a.host_len = (size_t)(end - a.host);
    if (colon > a.host && colon[-1] == ':') {
        a.host_len = (size_t)(colon - 1 - a.host);
        if (colon < end) {
            a.port = colon;
            a.port_len = (size_t)(end - colon);
        }
    }
    return a;
}

bool url_same_origin(const char *a, const char *b)
{
    size_t x = origin_len(a), y = origin_len(b);
    if (!x || !y || url_is_https(a) != url_is_https(b))
        return false;
    struct authority p = authority_of(a, x), q = authority_of(b, y);
    return p.host_len == q.host_len && strncasecmp(p.host, q.host, p.host_len) == 0 &&
           p.port_len == q.port_len && memcmp(p.port, q.port, p.port_len) == 0;
}

bool url_resolve(const char *base, const char *reference, char out[URL_ROOM])
{
    size_t origin = origin_len(base), path = origin + strcspn(base + origin, "?#");
    int n = -1;
    for (const char *p = reference; *p; p++)
        if (*p <= ' ' || *p >= 0x7f)
            return false;
    if (!origin)
        return false;
    if (origin_len(reference))
        n = snprintf(out, URL_ROOM, "%s", reference);
    else if (reference[0] == '/' && reference[1] != '/' && reference[1] != '\\')
        n = snprintf(out, URL_ROOM, "%.*s%s", (int)origin, base, reference);
    else if (reference[0] == '?')
        n = snprintf(out, URL_ROOM, "%.*s%s", (int)path, base, reference);
    return n > 0 && n < URL_ROOM;
}

bool url_next(const char *link, char out[URL_ROOM])
{
    for (const char *p = strchr(link, '<'); p; p = strchr(p, '<')) {
        const char *end = strchr(++p, '>');
        if (!end)
            return false;
        size_t rest = strcspn(end, ","), len = (size_t)(end - p);
        char fields[256];
        snprintf(fields, sizeof(fields), "%.*s", (int)(rest < 255 ? rest : 255), end);
        if ((strcasestr(fields, "rel=\"next\"") || strcasestr(fields, "rel=next")) && len && len < URL_ROOM) {
            memcpy(out, p, len);
            out[len] = '\0';
            return true;
        }
        p = end;
    }
    return false;
}

bool url_add(char url[URL_ROOM], const char *key, const char *value)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~";
    size_t len = strlen(url);
    int n = snprintf(url + len, URL_ROOM - len, "%c%s=", strchr(url, '?') ? '&' : '?', key);
    if (n < 0 || (size_t)n >= URL_ROOM - len)
        return false;
    len += (size_t)n;
    for (const char *p = value; *p; p++) {
        bool as_is = strchr(plain, *p) != NULL;
        if (URL_ROOM - len < 4)
            return false;
        len += (size_t)snprintf(url + len, URL_ROOM - len, as_is ? "%c" : "%%%02X", (unsigned char)*p);
    }
    return true;
}
