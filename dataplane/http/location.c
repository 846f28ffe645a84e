/* SPDX-License-Identifier: Apache-2.0 */
#include "location.h"

#include <errno.h>

enum { PORT_HTTP = 80, PORT_HTTPS = 443, PORT_MAX = 65535 };

static bool is_host_char(char c, bool v6)
{
    bool digit = c >= '0' && c <= '9';
    char lower = view_lower(c);
    if (v6)
        return digit || (lower >= 'a' && lower <= 'f') || c == ':' || c == '.';
    return digit || (lower >= 'a' && lower <= 'z') || c == '-' || c == '.' || c == '_';
}

/* ":port" behind the host, or nothing. */
static int read_port(struct view text, struct http_location *out)
{
    uint32_t port = 0;
    if (!text.len)
        return 0;
    if (text.p[0] != ':' || text.len < 2 || text.len > 6)
        return -EINVAL;
    for (size_t i = 1; i < text.len; i++) {
        if (text.p[i] < '0' || text.p[i] > '9')
            return -EINVAL;
        port = port * 10 + (uint32_t)(text.p[i] - '0');
    }
    if (!port || port > PORT_MAX)
        return -EINVAL;
    out->port = (uint16_t)port;
    return 0;
}

static int read_authority(struct view text, struct http_location *out)
{
    bool v6 = text.len && text.p[0] == '[';
    struct view rest = v6 ? view_skip(text, 1) : text;
    size_t len = 0;
    while (len < rest.len && is_host_char(rest.p[len], v6))
        len++;
    out->host = view_of(rest.p, len);
    rest = view_skip(rest, len);
    if (v6) {
        if (!rest.len || rest.p[0] != ']')
            return -EINVAL;
        rest = view_skip(rest, 1);
    }
    if (!len || len > HTTP_HOST_MAX || (!v6 && out->host.p[0] == '.'))
        return -EINVAL;
    return read_port(rest, out);
}

static bool begins(struct view text, struct view scheme)
{
    return text.len > scheme.len && view_ieq(view_of(text.p, scheme.len), scheme);
}

int http_location_read(struct view text, struct http_location *out)
{
    struct view fragment;
    *out = (struct http_location){.port = PORT_HTTP};
    for (size_t i = 0; i < text.len; i++)
        if (text.p[i] <= ' ' || text.p[i] >= 0x7f || text.p[i] == '\\')
            return -EINVAL;
    text = view_split(text, '#', &fragment);
    if (begins(text, VIEW_LIT("https://"))) {
        out->elsewhere = out->tls = true;
        out->port = PORT_HTTPS;
        text = view_skip(text, sizeof("https://") - 1);
    } else if (begins(text, VIEW_LIT("http://"))) {
        out->elsewhere = true;
        text = view_skip(text, sizeof("http://") - 1);
    }
    size_t len = 0;
    while (out->elsewhere && len < text.len && text.p[len] != '/' && text.p[len] != '?')
        len++;
    if (out->elsewhere && read_authority(view_of(text.p, len), out))
        return -EINVAL;
    text = view_skip(text, len);
    if (!text.len && out->elsewhere)
        return 0;
    if (!text.len || text.p[0] != '/' || (text.len > 1 && text.p[1] == '/' && !out->elsewhere))
        return -EINVAL;
    out->target = text;
    return 0;
}
