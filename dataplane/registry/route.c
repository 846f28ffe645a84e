/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/registry/route.h"

#include "check.h"
#include "dataplane/http/uri.h"

#define BIT(method) (1u << (method))

static const struct {
    uint32_t methods;
    const char *allow;
} endpoints[ROUTE_ENDPOINTS_COUNT] = {
    [ROUTE_BASE] = {BIT(HTTP_GET) | BIT(HTTP_HEAD), "GET, HEAD"},
    [ROUTE_CATALOG] = {BIT(HTTP_GET) | BIT(HTTP_HEAD), "GET, HEAD"},
    [ROUTE_BLOB] = {BIT(HTTP_GET) | BIT(HTTP_HEAD) | BIT(HTTP_DELETE), "GET, HEAD, DELETE"},
    [ROUTE_UPLOADS] = {BIT(HTTP_POST), "POST"},
    [ROUTE_UPLOAD] = {BIT(HTTP_GET) | BIT(HTTP_HEAD) | BIT(HTTP_PATCH) | BIT(HTTP_PUT) | BIT(HTTP_DELETE),
                      "GET, HEAD, PATCH, PUT, DELETE"},
    [ROUTE_MANIFEST] = {BIT(HTTP_GET) | BIT(HTTP_HEAD) | BIT(HTTP_PUT) | BIT(HTTP_DELETE),
                        "GET, HEAD, PUT, DELETE"},
    [ROUTE_TAGS] = {BIT(HTTP_GET) | BIT(HTTP_HEAD), "GET, HEAD"},
    [ROUTE_REFERRERS] = {BIT(HTTP_GET) | BIT(HTTP_HEAD), "GET, HEAD"},
};

const char *route_allow(enum route_endpoint endpoint)
{
    CHECK(endpoint < ROUTE_ENDPOINTS_COUNT);
    return endpoints[endpoint].allow;
}

/* ------------------------------------------------------------------ grammars */

static bool name_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

/* The separator at p: ".", "_", "__" or any number of "-". Its length, 0 if there is none. */
static size_t separator_len(const char *p, const char *end)
{
    const char *at = p;
    if (*p == '.')
        return 1;
    if (*p == '_')
        return end - p > 1 && p[1] == '_' ? 2 : 1;
    while (at < end && *at == '-')
        at++;
    return (size_t)(at - p);
}

/* [a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*: runs of letters and digits, with
 * one separator or one "/" between two of them. */
bool route_name_valid(struct view name)
{
    const char *p = name.p, *end = name.p + name.len;
    if (name.len == 0 || name.len > REPO_NAME_MAX)
        return false;
    for (;;) {
        const char *run = p;
        while (p < end && name_char(*p))
            p++;
        if (p == run)
            return false;
        if (p == end)
            return true;
        size_t sep = *p == '/' ? 1 : separator_len(p, end);
        if (sep == 0)
            return false;
        p += sep;
    }
}

static bool tag_char(char c)
{
    return name_char(c) || (c >= 'A' && c <= 'Z') || c == '_';
}

bool route_tag_valid(struct view tag)
{
    if (tag.len == 0 || tag.len > TAG_NAME_MAX || !tag_char(tag.p[0]))
        return false;
    for (size_t i = 1; i < tag.len; i++)
        if (!tag_char(tag.p[i]) && tag.p[i] != '.' && tag.p[i] != '-')
            return false;
    return true;
}

/* ------------------------------------------------------------------ the path */

/* Takes the last component off: what follows the last "/", which goes away too. False if there is no "/". */
static bool pop(struct view *path, struct view *component)
{
    const char *slash = path->len ? memrchr(path->p, '/', path->len) : NULL;
    if (!slash)
        return false;
    *component = view_between(slash + 1, path->p + path->len);
    path->len = (size_t)(slash - path->p);
    return true;
}

/* Decodes into scratch. False for a broken escape, an escaped NUL or "/". */
static bool decode(struct view *path, char *scratch, size_t cap)
{
    if (!memchr(path->p, '%', path->len))
        return true;
    for (size_t i = 0; i + 2 < path->len; i++)
        if (path->p[i] == '%' && path->p[i + 1] == '2' && (path->p[i + 2] | 0x20) == 'f')
            return false;
    ssize_t len = http_percent_decode(*path, scratch, cap);
    if (len < 0)
        return false;
    *path = view_of(scratch, (size_t)len);
    return true;
}

/* Sorts "<name>/..." into endpoint, name and reference, without looking whether these are well-formed. */
static bool split(struct view path, struct route *out)
{
    struct view last, before, rest = path;
    if (!pop(&rest, &last) || !pop(&rest, &before))
        return false;
    out->repo = rest;
    out->reference = last;
    if (view_lit(before, "manifests"))
        out->endpoint = ROUTE_MANIFEST;
    else if (view_lit(before, "referrers"))
        out->endpoint = ROUTE_REFERRERS;
    else if (view_lit(before, "tags") && view_lit(last, "list"))
        out->endpoint = ROUTE_TAGS;
    else if (view_lit(before, "blobs"))
        out->endpoint = view_lit(last, "uploads") ? ROUTE_UPLOADS : ROUTE_BLOB;
    else if (view_lit(before, "uploads") && pop(&rest, &before) && view_lit(before, "blobs")) {
        out->endpoint = last.len ? ROUTE_UPLOAD : ROUTE_UPLOADS;
        out->repo = rest;
    } else
        return false;
    return out->reference.len > 0 || out->endpoint == ROUTE_UPLOADS;
}

static enum route_result digest_read(struct route *r)
{
    switch (digest_parse(r->reference.p, r->reference.len, &r->digest)) {
    case 0:
        return ROUTE_OK;
    case -ENOTSUP:
        return ROUTE_DIGEST_ALGORITHM;
    default:
        return ROUTE_DIGEST_INVALID;
    }
}

static enum route_result reference_read(struct route *r)
{
    switch (r->endpoint) {
    case ROUTE_BLOB:
    case ROUTE_REFERRERS:
        return digest_read(r);
    case ROUTE_MANIFEST:
        r->by_digest = memchr(r->reference.p, ':', r->reference.len) != NULL;
        if (r->by_digest)
            return digest_read(r);
        return route_tag_valid(r->reference) ? ROUTE_OK : ROUTE_TAG_INVALID;
    default:
        return ROUTE_OK;
    }
}

enum route_result route_read(enum http_method method, struct view path, char *scratch, size_t scratch_cap,
                             struct route *out)
{
    *out = (struct route){.endpoint = ROUTE_BASE};
    if (path.len > ROUTE_PATH_MAX)
        return view_starts(path, VIEW_LIT("/v2/")) ? ROUTE_NAME_INVALID : ROUTE_UNKNOWN;
    if (!decode(&path, scratch, scratch_cap))
        return ROUTE_NAME_INVALID;
    bool named = false;
    if (view_lit(path, "/v2/_catalog"))
        out->endpoint = ROUTE_CATALOG;
    else if (!view_lit(path, "/v2/") && !view_lit(path, "/v2"))
        named = true;
    if (named && (!view_starts(path, VIEW_LIT("/v2/")) || !split(view_skip(path, 4), out)))
        return ROUTE_UNKNOWN;
    if (!(endpoints[out->endpoint].methods & BIT(method)))
        return ROUTE_METHOD;
    if (!named)
        return ROUTE_OK;
    return route_name_valid(out->repo) ? reference_read(out) : ROUTE_NAME_INVALID;
}
