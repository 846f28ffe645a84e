/* SPDX-License-Identifier: Apache-2.0 */
#include "forward.h"

#include "check.h"
#include "lines.h"
#include "number.h"
#include "put.h"

enum { PASSED_MAX = 16 /* proxies before this one */ };

/* ------------------------------------------------------------------ what stays behind */

/* Named by Connection, and no field that frames the message or that every recipient needs. */
static bool is_named(const struct http_field *fields, uint32_t count, const struct http_field *f)
{
    switch (f->known) {
    case HTTP_KNOWN_HOST:
    case HTTP_KNOWN_CONTENT_LENGTH:
    case HTTP_KNOWN_CONTENT_TYPE:
    case HTTP_KNOWN_CONTENT_RANGE:
    case HTTP_KNOWN_CONTENT_ENCODING:
    case HTTP_KNOWN_AUTHORIZATION:
    case HTTP_KNOWN_RANGE:
    case HTTP_KNOWN_EXPECT:
        return false;
    default:
        return http_fields_list(fields, count, HTTP_KNOWN_CONNECTION, f->name);
    }
}

static bool is_proxys(struct view name)
{
    return name.len > 6 && view_ilit(view_of(name.p, 6), "proxy-");
}

/* Of the connection alone, whoever sent it. */
static bool is_hop(const struct http_field *f)
{
    switch (f->known) {
    case HTTP_KNOWN_CONNECTION:
    case HTTP_KNOWN_KEEP_ALIVE:
    case HTTP_KNOWN_TE:
    case HTTP_KNOWN_TRANSFER_ENCODING:
    case HTTP_KNOWN_UPGRADE:
    case HTTP_KNOWN_CONTENT_LENGTH: /* written anew */
        return true;
    default:
        return f->known == HTTP_KNOWN_NOT && is_proxys(f->name);
    }
}

/* ------------------------------------------------------------------ the request */

static bool is_http2(struct view protocol)
{
    return view_ilit(protocol, "h2c") || view_ilit(protocol, "h2") ||
           (protocol.len >= 6 && view_ilit(view_of(protocol.p, 6), "http/2"));
}

bool http_asks_upgrade(const struct http_request *req, bool h2c)
{
    if (view_present(req->upgrade))
        return true;
    return h2c && req->version_minor && view_present(req->known[HTTP_KNOWN_UPGRADE]) &&
           http_request_lists(req, HTTP_KNOWN_CONNECTION, VIEW_LIT("upgrade"));
}

bool http_goes_round(const struct http_request *req, struct view mark)
{
    uint32_t at = 0, passed = 0;
    struct view line, item, parameters;
    if (!view_present(req->known[HTTP_KNOWN_CDN_LOOP]))
        return false;
    while (view_present(line = http_request_next_field(req, HTTP_KNOWN_CDN_LOOP, &at)))
        while (view_next_item(&line, &item)) {
            struct view id = view_trim(view_split(item, ';', &parameters));
            if (view_eq(id, mark) || ++passed > PASSED_MAX)
                return true;
        }
    return false;
}

/* A field that says who the client is: ours stands in its place. */
static bool is_about_client(const struct http_field *f)
{
    switch (f->known) {
    case HTTP_KNOWN_X_FORWARDED_FOR:
    case HTTP_KNOWN_X_FORWARDED_PROTO:
    case HTTP_KNOWN_X_FORWARDED_HOST:
    case HTTP_KNOWN_X_FORWARDED_PORT:
    case HTTP_KNOWN_FORWARDED:
    case HTTP_KNOWN_X_REQUEST_ID:
        return true;
    default:
        return false;
    }
}

/* Of fields that only we may write, as whoever reads them trusts them. '_' and '-' are the same to what makes
 * variables of fields. `start` is in lower case, with '-'. */
static bool starts_as(struct view name, struct view start)
{
    if (name.len < start.len)
        return false;
    for (size_t i = 0; i < start.len; i++)
        if (view_lower(name.p[i]) != start.p[i] && !(start.p[i] == '-' && name.p[i] == '_'))
            return false;
    return true;
}

/* X-Remote-*: a Kubernetes API server believes these of whoever shows it the certificate of a front proxy, as
 * we may. */
bool http_is_about_who(struct view name)
{
    return starts_as(name, VIEW_LIT("client-cert")) || starts_as(name, VIEW_LIT("x-client-cert")) ||
           starts_as(name, VIEW_LIT("x-remote-"));
}

static bool is_condition(const struct http_field *f)
{
    return f->known == HTTP_KNOWN_RANGE || f->known == HTTP_KNOWN_IF_RANGE ||
           f->known == HTTP_KNOWN_IF_MATCH || f->known == HTTP_KNOWN_IF_NONE_MATCH ||
           view_ilit(f->name, "if-modified-since") || view_ilit(f->name, "if-unmodified-since");
}

static bool is_extra(const struct http_forward *how, struct view name)
{
    for (uint32_t i = 0; i < how->extra_count; i++)
        if (view_ieq(how->extra[i].name, name))
            return true;
    return false;
}

static bool passes(const struct http_request *req, const struct http_forward *how, const struct http_field *f)
{
    if (is_hop(f) || f->known == HTTP_KNOWN_HOST || f->known == HTTP_KNOWN_CDN_LOOP || is_about_client(f) ||
        is_extra(how, f->name))
        return false;
    if (f->known == HTTP_KNOWN_HTTP2_SETTINGS)
        return how->upgrade && how->h2c;
    if (!how->trust && http_is_about_who(f->name))
        return false;
    if (view_present(how->range) && is_condition(f))
        return false;
    return !is_named(req->fields, req->fields_count, f);
}

static void put_request_line(struct http_response *out, const struct http_request *req)
{
    http_put(out, req->method_name);
    http_put(out, VIEW_LIT(" "));
    if (req->target_form == HTTP_TARGET_ABSOLUTE) {
        http_put(out, req->path);
        if (view_present(req->query)) {
            http_put(out, VIEW_LIT("?"));
            http_put(out, req->query);
        }
    } else {
        http_put(out, req->target);
    }
    http_put(out, VIEW_LIT(" HTTP/1.1\r\n"));
}

static void put_host(struct http_response *out, const struct http_request *req,
                     const struct http_forward *how)
{
    struct view host = view_present(how->host)   ? how->host
                       : view_present(req->host) ? req->host
                                                 : how->host_default;
    http_put_field(out, VIEW_LIT("Host"), host);
}

/* All lines of a list field in one, ours behind them. */
static void put_list(struct http_response *out, const struct http_request *req, const char *name,
                     enum http_known known, bool keep, const struct view *ours, size_t ours_count)
{
    uint32_t at = 0;
    struct view line;
    bool first = true;
    http_put(out, view_of_str(name));
    http_put(out, VIEW_LIT(": "));
    while (keep && view_present(line = http_request_next_field(req, known, &at))) {
        if (!first)
            http_put(out, VIEW_LIT(", "));
        http_put_value(out, line);
        first = false;
    }
    if (ours_count && !first)
        http_put(out, VIEW_LIT(", "));
    for (size_t i = 0; i < ours_count; i++)
        http_put_value(out, ours[i]);
    http_put(out, VIEW_LIT("\r\n"));
}

/* What a trusted client said, else what we know. */
static void put_told(struct http_response *out, const struct http_request *req,
                     const struct http_forward *how, const char *name, enum http_known known,
                     struct view ours)
{
    struct view theirs = req->known[known];
    if (how->trust && view_present(theirs))
        http_put_field(out, view_of_str(name), theirs);
    else if (how->x_forwarded && view_present(ours))
        http_put_field(out, view_of_str(name), ours);
}

static bool is_token(struct view v)
{
    for (size_t i = 0; i < v.len; i++)
        if (v.p[i] == ':' || v.p[i] == '[' || v.p[i] == '"' || v.p[i] == '\\' || v.p[i] == '%')
            return false;
    return v.len > 0;
}

/* RFC 7239, 4 and 6: a host with a port and an IPv6 address stand in quotes. */
static void put_forwarded(struct http_response *out, const struct http_request *req,
                          const struct http_forward *how)
{
    bool v6 = memchr(how->peer.p, ':', how->peer.len) != NULL, plain = is_token(req->host);
    struct view ours[8];
    size_t n = 0;
    ours[n++] = v6 ? VIEW_LIT("for=\"[") : VIEW_LIT("for=");
    ours[n++] = how->peer;
    if (v6)
        ours[n++] = VIEW_LIT("]\"");
    if (view_present(req->host) && req->host.len) {
        ours[n++] = plain ? VIEW_LIT(";host=") : VIEW_LIT(";host=\"");
        ours[n++] = req->host;
        if (!plain)
            ours[n++] = VIEW_LIT("\"");
    }
    ours[n++] = VIEW_LIT(";proto=");
    ours[n++] = how->scheme;
    put_list(out, req, "Forwarded", HTTP_KNOWN_FORWARDED, how->trust, ours, n);
}

static void put_about_client(struct http_response *out, const struct http_request *req,
                             const struct http_forward *how)
{
    bool theirs = how->trust && view_present(req->known[HTTP_KNOWN_X_FORWARDED_FOR]);
    bool peer = view_present(how->peer) && how->peer.len;
    if ((how->x_forwarded && peer) || theirs)
        put_list(out, req, "X-Forwarded-For", HTTP_KNOWN_X_FORWARDED_FOR, how->trust, &how->peer,
                 how->x_forwarded && peer);
    put_told(out, req, how, "X-Forwarded-Proto", HTTP_KNOWN_X_FORWARDED_PROTO, how->scheme);
    put_told(out, req, how, "X-Forwarded-Host", HTTP_KNOWN_X_FORWARDED_HOST, req->host);
    put_told(out, req, how, "X-Forwarded-Port", HTTP_KNOWN_X_FORWARDED_PORT, how->port);
    if (how->forwarded && peer)
        put_forwarded(out, req, how);
    else if (how->trust && view_present(req->known[HTTP_KNOWN_FORWARDED]))
        put_list(out, req, "Forwarded", HTTP_KNOWN_FORWARDED, true, NULL, 0);
    struct view id = req->known[HTTP_KNOWN_X_REQUEST_ID];
    if (!how->trust || !view_present(id))
        id = how->request_id;
    if (view_present(id))
        http_put_field(out, VIEW_LIT("X-Request-Id"), id);
}

/* The protocols that go on, of all lines. */
static void put_protocols(struct http_response *out, const struct http_request *req, bool h2c)
{
    uint32_t at = 0;
    struct view list, protocol;
    bool first = true;
    http_put(out, VIEW_LIT("Upgrade: "));
    while (view_present(list = http_request_next_field(req, HTTP_KNOWN_UPGRADE, &at)))
        while (view_next_item(&list, &protocol)) {
            if (is_http2(protocol) && !h2c)
                continue;
            if (!first)
                http_put(out, VIEW_LIT(", "));
            http_put_value(out, protocol);
            first = false;
        }
    http_put(out, VIEW_LIT("\r\n"));
}

static void put_connection(struct http_response *out, const struct http_request *req,
                           const struct http_forward *how)
{
    bool trailers = http_request_lists(req, HTTP_KNOWN_TE, VIEW_LIT("trailers"));
    bool settings = how->upgrade && how->h2c && view_present(req->known[HTTP_KNOWN_HTTP2_SETTINGS]);
    if (how->upgrade)
        http_put_field(out, VIEW_LIT("Connection"),
                       settings ? VIEW_LIT("Upgrade, HTTP2-Settings") : VIEW_LIT("Upgrade"));
    if (how->upgrade)
        put_protocols(out, req, how->h2c);
    if (trailers)
        http_put(out, VIEW_LIT("TE: trailers\r\nConnection: TE\r\n"));
}

/* Framing as the client's, written in one way. A method that usually has a body says that it has none. */
static void put_framing(struct http_response *out, const struct http_request *req)
{
    char digits[NUMBER_DIGITS_MAX];
    if (req->framing == HTTP_BODY_CHUNKED)
        http_put(out, VIEW_LIT("Transfer-Encoding: chunked\r\n"));
    else if (req->framing == HTTP_BODY_LENGTH)
        http_put_field(out, VIEW_LIT("Content-Length"), number_write(req->content_length, digits));
    else if (req->method == HTTP_POST || req->method == HTTP_PUT || req->method == HTTP_PATCH)
        http_put(out, VIEW_LIT("Content-Length: 0\r\n"));
}

ssize_t http_forward_request(char *buf, size_t cap, const struct http_request *req,
                             const struct http_forward *how)
{
    struct http_response out = {.buf = buf, .cap = cap};
    put_request_line(&out, req);
    put_host(&out, req, how);
    for (uint32_t i = 0; i < req->fields_count; i++)
        if (passes(req, how, &req->fields[i]))
            http_put_field(&out, req->fields[i].name, req->fields[i].value);
    if (how->range.len)
        http_put_field(&out, VIEW_LIT("Range"), how->range);
    put_framing(&out, req);
    put_about_client(&out, req, how);
    if (view_present(how->mark) || view_present(req->known[HTTP_KNOWN_CDN_LOOP]))
        put_list(&out, req, "CDN-Loop", HTTP_KNOWN_CDN_LOOP, true, &how->mark, view_present(how->mark));
    for (uint32_t i = 0; i < how->extra_count; i++)
        http_put_field(&out, how->extra[i].name, how->extra[i].value);
    put_connection(&out, req, how);
    return http_response_end(&out);
}

/* ------------------------------------------------------------------ the response */

/* The authority without the port that its scheme has anyway. */
static struct view without_default_port(struct view authority, bool https)
{
    struct view port = https ? VIEW_LIT(":443") : VIEW_LIT(":80");
    if (authority.len > port.len && view_eq(view_of(authority.p + authority.len - port.len, port.len), port))
        authority.len -= port.len;
    return authority;
}

static bool same_authority(struct view a, struct view b, bool https)
{
    return view_present(b) && b.len &&
           view_ieq(without_default_port(a, https), without_default_port(b, https));
}

/*
 * A URL that names the backend, or the Host that it was told, as the client has to see it: *out has the parts
 * to be put together. False: it is fine as it is.
 */
static bool url_outward(struct view url, const struct http_backward *how, struct view out[4])
{
    struct view rest;
    bool https = false, schemeless = view_starts(url, VIEW_LIT("//"));
    if (url.len >= 8 && view_ilit(view_of(url.p, 8), "https://")) {
        rest = view_skip(url, 8);
        https = true;
    } else if (url.len >= 7 && view_ilit(view_of(url.p, 7), "http://")) {
        rest = view_skip(url, 7);
    } else if (schemeless) {
        rest = view_skip(url, 2);
    } else {
        return false;
    }
    size_t n = 0;
    while (n < rest.len && rest.p[n] != '/' && rest.p[n] != '?' && rest.p[n] != '#')
        n++;
    struct view authority = view_of(rest.p, n);
    if (!same_authority(authority, how->backend, https) && !same_authority(authority, how->sent_host, https))
        return false;
    bool known = view_present(how->host) && how->host.len;
    out[0] = known && !schemeless ? how->scheme : VIEW_LIT("");
    out[1] = !known ? VIEW_LIT("") : schemeless ? VIEW_LIT("//") : VIEW_LIT("://");
    out[2] = known ? how->host : VIEW_LIT("");
    out[3] = view_skip(rest, n);
    if (!known && out[3].len == 0)
        out[3] = VIEW_LIT("/");
    return true;
}

/* The URL at the front of v goes out as the client has to see it; it ends at `end`, or with v. Returns what
 * follows it. */
static struct view put_url(struct http_response *res, struct view v, char end,
                           const struct http_backward *how)
{
    struct view parts[4], url = v;
    const char *stop = end && v.len ? (const char *)memchr(v.p, end, v.len) : NULL;
    if (stop)
        url = view_between(v.p, stop);
    if (url_outward(url, how, parts)) {
        for (int i = 0; i < 4; i++)
            http_put_value(res, parts[i]);
    } else {
        http_put_value(res, url);
    }
    return view_skip(v, url.len);
}

/* Every URL that stands behind `before` in the value. */
static void put_urls(struct http_response *res, const struct http_field *f, struct view before, char end,
                     const struct http_backward *how)
{
    struct view v = f->value;
    http_put(res, f->name);
    http_put(res, VIEW_LIT(": "));
    while (v.len) {
        if (v.len >= before.len && view_ieq(view_of(v.p, before.len), before)) {
            http_put_value(res, view_of(v.p, before.len));
            v = put_url(res, view_skip(v, before.len), end, how);
            if (before.len == 0)
                break;
        } else {
            http_put_value(res, view_of(v.p, 1));
            v = view_skip(v, 1);
        }
    }
    http_put(res, VIEW_LIT("\r\n"));
}

static void put_answer_field(struct http_response *res, const struct http_field *f,
                             const struct http_backward *how)
{
    if (f->known == HTTP_KNOWN_LOCATION || f->known == HTTP_KNOWN_CONTENT_LOCATION)
        put_urls(res, f, VIEW_LIT(""), '\0', how);
    else if (f->known == HTTP_KNOWN_WWW_AUTHENTICATE)
        put_urls(res, f, VIEW_LIT("realm=\""), '"', how);
    else if (view_ilit(f->name, "link"))
        put_urls(res, f, VIEW_LIT("<"), '>', how);
    else
        http_put_field(res, f->name, f->value);
}

static void put_status_line(struct http_response *res, const struct http_answer *answer)
{
    char code[NUMBER_DIGITS_MAX];
    struct view text = view_of_str(http_status_text(answer->status));
    http_put(res, VIEW_LIT("HTTP/1.1 "));
    http_put(res, number_write((uint64_t)answer->status, code));
    http_put(res, VIEW_LIT(" "));
    http_put_value(res, answer->reason.len ? answer->reason : text);
    http_put(res, VIEW_LIT("\r\n"));
}

void http_forward_response(struct http_response *res, char *buf, size_t cap, const struct http_answer *answer,
                           const struct http_backward *how)
{
    *res = (struct http_response){.buf = buf, .cap = cap};
    put_status_line(res, answer);
    for (uint32_t i = 0; i < answer->fields_count; i++) {
        const struct http_field *f = &answer->fields[i];
        bool stays = is_hop(f) || f->known == HTTP_KNOWN_X_REQUEST_ID ||
                     is_named(answer->fields, answer->fields_count, f);
        if (!stays)
            put_answer_field(res, f, how);
    }
    if (view_present(how->request_id))
        http_put_field(res, VIEW_LIT("X-Request-Id"), how->request_id);
    if (answer->status == 101) {
        http_put(res, VIEW_LIT("Connection: Upgrade\r\n"));
        if (view_present(answer->known[HTTP_KNOWN_UPGRADE]))
            http_put_field(res, VIEW_LIT("Upgrade"), answer->known[HTTP_KNOWN_UPGRADE]);
    }
}
