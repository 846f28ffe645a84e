/* SPDX-License-Identifier: Apache-2.0 */
#include "meaning.h"

#include <arpa/inet.h>

#include "chars.h"
#include "number.h"

enum { PORT_MAX = 65535 };

/* RFC 3986, 3.2.3: digits, none at all included; what does not fit a port is refused. */
static bool port_fits(struct view port)
{
    uint64_t value;
    return port.len == 0 || number_read(port, PORT_MAX, &value) == 0;
}

/* "[" IPv6address "]" at the front of authority; *rest gets what follows. No zone, no IPvFuture. */
static bool ip_literal_fits(struct view authority, struct view *rest)
{
    char text[INET6_ADDRSTRLEN];
    struct in6_addr address;
    struct view inside = view_split(view_skip(authority, 1), ']', rest);
    if (!view_present(*rest) || inside.len >= sizeof(text))
        return false;
    memcpy(text, inside.p, inside.len);
    text[inside.len] = '\0';
    return inet_pton(AF_INET6, text, &address) == 1;
}

/* reg-name or IPv4address at the front of authority, with at least one character (RFC 9110, 4.2.1). */
static bool name_fits(struct view authority, struct view *rest)
{
    const char *end = authority.p + authority.len;
    const char *stop = http_chars_span(authority.p, end, HTTP_CHAR_HOST);
    for (const char *p = authority.p; p < stop; p++) {
        bool escape = stop - p >= 3 && http_char_is(p[1], HTTP_CHAR_HEX) && http_char_is(p[2], HTTP_CHAR_HEX);
        if (*p == '%' && !escape)
            return false;
    }
    *rest = view_between(stop, end);
    return stop > authority.p;
}

/* uri-host [ ":" port ], RFC 9112, 3.2. */
static bool host_fits(struct view host)
{
    struct view rest;
    if (host.len == 0)
        return false;
    bool fits = host.p[0] == '[' ? ip_literal_fits(host, &rest) : name_fits(host, &rest);
    if (!fits)
        return false;
    return rest.len == 0 || (rest.p[0] == ':' && port_fits(view_skip(rest, 1)));
}

static bool path_fits(struct view path)
{
    const char *end = path.p + path.len;
    return path.len && path.p[0] == '/' && http_chars_span(path.p, end, HTTP_CHAR_PATH) == end;
}

/* RFC 9112, 3.2.2. http and https only: a request for anything else is not ours to answer. */
static enum http_reject_reason absolute_split(struct http_request *req)
{
    struct view rest, after;
    struct view before_query = view_split(req->target, '?', &req->query);
    struct view scheme = view_split(before_query, ':', &rest);
    if (!view_present(rest) || !view_starts(rest, VIEW_LIT("//")))
        return HTTP_REJECT_TARGET_SYNTAX;
    if (!view_ilit(scheme, "http") && !view_ilit(scheme, "https"))
        return HTTP_REJECT_TARGET_SYNTAX;
    const char *second_slash = rest.p + 1;
    req->target_form = HTTP_TARGET_ABSOLUTE;
    req->host = view_split(view_skip(rest, 2), '/', &after);
    if (!host_fits(req->host))
        return HTTP_REJECT_TARGET_SYNTAX;
    /* An empty path means "/" (RFC 9110, 4.2.3); the second slash of "//" lends itself as a view of it. */
    req->path = view_present(after) ? view_of(after.p - 1, after.len + 1) : view_of(second_slash, 1);
    return path_fits(req->path) ? HTTP_REJECT_NONE : HTTP_REJECT_TARGET_SYNTAX;
}

enum http_reject_reason http_target_split(struct http_request *req)
{
    if (req->method == HTTP_CONNECT)
        return HTTP_REJECT_CONNECT;
    /* RFC 9113, 3.4: the preface reads as this method, chosen so that HTTP/1 servers refuse it. */
    if (view_lit(req->method_name, "PRI"))
        return HTTP_REJECT_HTTP2_PREFACE;
    if (view_lit(req->target, "*")) {
        req->target_form = HTTP_TARGET_ASTERISK;
        req->path = req->target;
        return req->method == HTTP_OPTIONS ? HTTP_REJECT_NONE : HTTP_REJECT_TARGET_SYNTAX;
    }
    if (req->target.p[0] != '/')
        return absolute_split(req);
    req->target_form = HTTP_TARGET_ORIGIN;
    req->path = view_split(req->target, '?', &req->query);
    return path_fits(req->path) ? HTTP_REJECT_NONE : HTTP_REJECT_TARGET_SYNTAX;
}

enum http_reject_reason http_repeated_reason(enum http_known known)
{
    switch (known) {
    case HTTP_KNOWN_HOST:
        return HTTP_REJECT_HOST_REPEATED;
    case HTTP_KNOWN_CONTENT_LENGTH:
        return HTTP_REJECT_LENGTH_REPEATED;
    case HTTP_KNOWN_TRANSFER_ENCODING:
        return HTTP_REJECT_CODING_REPEATED;
    default:
        return HTTP_REJECT_FIELD_REPEATED;
    }
}

/* RFC 9112, 3.2: missing in HTTP/1.1, or invalid in any version, is 400. */
static enum http_reject_reason judge_host(struct http_request *req)
{
    struct view host = req->known[HTTP_KNOWN_HOST];
    if (!view_present(host))
        return req->version_minor ? HTTP_REJECT_HOST_MISSING : HTTP_REJECT_NONE;
    if (host.len && !host_fits(host)) /* empty: the target has no authority (RFC 9110, 7.2) */
        return HTTP_REJECT_HOST_SYNTAX;
    if (req->target_form != HTTP_TARGET_ABSOLUTE)
        req->host = host;
    return HTTP_REJECT_NONE;
}

/* RFC 9110, 8.6: digits and nothing else; up to 2^63 - 1, so that every size and offset fits off_t. */
static enum http_reject_reason judge_length(struct view text, enum http_framing *framing, uint64_t *length)
{
    uint64_t value;
    int err = number_read(text, INT64_MAX, &value);
    if (err)
        return err == -ERANGE ? HTTP_REJECT_LENGTH_RANGE : HTTP_REJECT_LENGTH_SYNTAX;
    *framing = HTTP_BODY_LENGTH;
    *length = value;
    return HTTP_REJECT_NONE;
}

/* RFC 9112, 6.1 and 7. The only coding spoken is chunked, once, without parameters. */
static enum http_reject_reason judge_coding(struct view list, enum http_framing *framing)
{
    struct view coding;
    bool chunked = false, unknown = false;
    while (view_present(list)) {
        coding = view_trim(view_split(list, ',', &list));
        const char *end = coding.p + coding.len;
        if (coding.len == 0 || http_chars_span(coding.p, end, HTTP_CHAR_TOKEN) != end)
            return HTTP_REJECT_CODING_SYNTAX;
        if (chunked)
            return HTTP_REJECT_CODING_ORDER;
        if (view_ilit(coding, "chunked"))
            chunked = true;
        else
            unknown = true;
    }
    if (unknown)
        return HTTP_REJECT_CODING_UNKNOWN;
    *framing = HTTP_BODY_CHUNKED;
    return HTTP_REJECT_NONE;
}

enum http_reject_reason http_framing_judge(const struct view known[HTTP_KNOWN_COUNT], uint8_t version_minor,
                                           enum http_framing *framing, uint64_t *length)
{
    struct view text = known[HTTP_KNOWN_CONTENT_LENGTH];
    struct view coding = known[HTTP_KNOWN_TRANSFER_ENCODING];
    if (view_present(text) && view_present(coding))
        return HTTP_REJECT_LENGTH_AND_CODING;
    if (view_present(text))
        return judge_length(text, framing, length);
    if (!view_present(coding))
        return HTTP_REJECT_NONE;
    return version_minor ? judge_coding(coding, framing) : HTTP_REJECT_CODING_OLD_VERSION;
}

/* RFC 9110, 10.1.1: an HTTP/1.0 client's 100-continue is ignored. */
static enum http_reject_reason judge_expectation(struct http_request *req)
{
    struct view expect = req->known[HTTP_KNOWN_EXPECT];
    if (!view_present(expect))
        return HTTP_REJECT_NONE;
    if (!view_ilit(expect, "100-continue"))
        return HTTP_REJECT_EXPECTATION;
    bool body = req->framing == HTTP_BODY_CHUNKED || req->content_length > 0;
    req->expect_continue = body && req->version_minor;
    return HTTP_REJECT_NONE;
}

/* RFC 9112, 9.3: close wins over keep-alive; without either, the version decides. */
static void derive_persistence(struct http_request *req)
{
    bool keeps = req->version_minor || http_request_lists(req, HTTP_KNOWN_CONNECTION, VIEW_LIT("keep-alive"));
    req->keep_alive = keeps && !http_request_lists(req, HTTP_KNOWN_CONNECTION, VIEW_LIT("close"));
}

static bool is_http2(struct view protocol)
{
    return view_ilit(protocol, "h2c") || view_ilit(protocol, "h2") ||
           (protocol.len >= 6 && view_ilit(view_of(protocol.p, 6), "http/2"));
}

/* RFC 9110, 7.8: only with "upgrade" in Connection, and never from HTTP/1.0. */
static void derive_upgrade(struct http_request *req)
{
    uint32_t at = 0;
    struct view list, protocol;
    if (!req->version_minor || !http_request_lists(req, HTTP_KNOWN_CONNECTION, VIEW_LIT("upgrade")))
        return;
    while (view_present(list = http_request_next_field(req, HTTP_KNOWN_UPGRADE, &at)))
        while (view_next_item(&list, &protocol))
            if (!is_http2(protocol)) {
                req->upgrade = protocol;
                return;
            }
}

enum http_reject_reason http_request_judge(struct http_request *req)
{
    enum http_reject_reason reason = judge_host(req);
    if (!reason)
        reason = http_framing_judge(req->known, req->version_minor, &req->framing, &req->content_length);
    if (!reason)
        reason = judge_expectation(req);
    if (reason)
        return reason;
    derive_persistence(req);
    derive_upgrade(req);
    return HTTP_REJECT_NONE;
}
