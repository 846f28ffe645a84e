/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/proxy/kinds.h"

#include <errno.h>

#include "check.h"
#include "dataplane/http/uri.h"

enum { VALUE_MAX = 8 };

/* Whether a parameter is there and means yes, as Go's and Docker's readers take it. */
static bool asks(struct view query, const char *name)
{
    char value[VALUE_MAX];
    ssize_t n = http_query_get(query, name, value, sizeof(value));
    if (n < 0)
        return n == -ENOBUFS;
    struct view v = view_of(value, (size_t)n);
    return v.len && !view_lit(v, "0") && !view_ilit(v, "false") && !view_ilit(v, "no") &&
           !view_ilit(v, "none");
}

static bool refuses(struct view query, const char *name)
{
    char value[VALUE_MAX];
    ssize_t n = http_query_get(query, name, value, sizeof(value));
    struct view v = view_of(value, n > 0 ? (size_t)n : 0);
    return n > 0 && (view_lit(v, "0") || view_ilit(v, "false"));
}

static bool ends(struct view v, struct view end)
{
    return v.len >= end.len && view_eq(view_skip(v, v.len - end.len), end);
}

/* ------------------------------------------------------------------ docker */

/* "/v1.43/x" is "/x". */
static struct view without_version(struct view path)
{
    struct view rest, first = view_split(view_skip(path, 1), '/', &rest);
    if (first.len < 2 || first.p[0] != 'v' || first.p[1] < '0' || first.p[1] > '9' || !view_present(rest))
        return path;
    return view_of(rest.p - 1, rest.len + 1);
}

enum docker_when { ALWAYS, FOLLOWED, STREAMED };

struct docker_row {
    enum http_method method;
    const char *start, *end; /* of the path; end "": start is all of it */
    enum docker_when when;
    bool hijack;
};

static const struct docker_row docker_rows[] = {
    {HTTP_GET, "/events", "", ALWAYS, false},
    {HTTP_GET, "/containers/", "/logs", FOLLOWED, false},
    {HTTP_GET, "/services/", "/logs", FOLLOWED, false},
    {HTTP_GET, "/tasks/", "/logs", FOLLOWED, false},
    {HTTP_GET, "/containers/", "/stats", STREAMED, false},
    {HTTP_GET, "/containers/", "/attach/ws", ALWAYS, false},
    {HTTP_GET, "/containers/", "/export", ALWAYS, false},
    {HTTP_POST, "/containers/", "/attach", ALWAYS, true},
    {HTTP_POST, "/exec/", "/start", ALWAYS, true},
    {HTTP_POST, "/containers/", "/wait", ALWAYS, false},
    {HTTP_POST, "/containers/", "/stop", ALWAYS, false},
    {HTTP_POST, "/containers/", "/restart", ALWAYS, false},
    {HTTP_POST, "/build", "", ALWAYS, false},
    {HTTP_POST, "/commit", "", ALWAYS, false},
    {HTTP_POST, "/images/create", "", ALWAYS, false},
    {HTTP_POST, "/images/load", "", ALWAYS, false},
    {HTTP_POST, "/images/", "/push", ALWAYS, false},
    {HTTP_GET, "/images/get", "", ALWAYS, false},
    {HTTP_GET, "/images/", "/get", ALWAYS, false},
    {HTTP_POST, "/session", "", ALWAYS, false},
    {HTTP_POST, "/grpc", "", ALWAYS, false},
    {HTTP_POST, "/plugins/pull", "", ALWAYS, false},
    {HTTP_POST, "/plugins/", "/push", ALWAYS, false},
    {HTTP_POST, "/plugins/", "/upgrade", ALWAYS, false},
    {HTTP_GET, "/system/df", "", ALWAYS, false},
    {HTTP_POST, "/containers/", "/prune", ALWAYS, false},
    {HTTP_POST, "/images/", "/prune", ALWAYS, false},
    {HTTP_POST, "/volumes/", "/prune", ALWAYS, false},
    {HTTP_POST, "/build/", "/prune", ALWAYS, false},
};

static bool docker_fits(const struct docker_row *row, const struct http_request *req, struct view path)
{
    struct view start = view_of_str(row->start), end = view_of_str(row->end);
    if (row->method != req->method)
        return false;
    if (end.len == 0 ? !view_eq(path, start) : !view_starts(path, start) || !ends(path, end))
        return false;
    switch (row->when) {
    case FOLLOWED:
        return asks(req->query, "follow");
    case STREAMED:
        return !refuses(req->query, "stream");
    default:
        return true;
    }
}

static void docker_judge(const struct http_request *req, struct kind_facts *out)
{
    struct view path = without_version(req->path);
    bool session = view_lit(path, "/session");
    for (size_t i = 0; i < ARRAY_SIZE(docker_rows); i++)
        if (docker_fits(&docker_rows[i], req, path)) {
            out->longlived = true;
            out->hijack = docker_rows[i].hijack;
        }
    out->h2c = req->method == HTTP_POST && (session || view_lit(path, "/grpc"));
    if (session) {
        out->affinity = http_request_field(req, "x-docker-expose-session-uuid");
        return;
    }
    struct view query = req->query, name, value;
    while (view_lit(path, "/build") && http_query_next(&query, &name, &value))
        if (view_lit(name, "session"))
            out->affinity = value;
}

/* ------------------------------------------------------------------ kubernetes */

/* The older form of a watch, /api/v1/watch/... and /apis/GROUP/VERSION/watch/...; and what the API server
 * itself proxies, to whatever runs there: /api/v1/nodes/N/proxy/... and /api/v1/namespaces/N/pods/P/proxy/...
 */
static bool kubernetes_long_path(struct view path)
{
    struct view segment, rest = view_skip(path, 1);
    bool core = view_starts(rest, VIEW_LIT("api/"));
    if (!core && !view_starts(rest, VIEW_LIT("apis/")))
        return false;
    for (int at = 0; view_present(rest); at++) {
        segment = view_split(rest, '/', &rest);
        if (at == (core ? 2 : 3) && view_lit(segment, "watch"))
            return true;
        if (core && (at == 4 || at == 6) && view_lit(segment, "proxy"))
            return true;
    }
    return false;
}

static bool kubernetes_longlived(const struct http_request *req)
{
    static const char *const streams[] = {"/exec", "/attach", "/portforward"};
    for (size_t i = 0; i < ARRAY_SIZE(streams); i++)
        if (ends(req->path, view_of_str(streams[i])))
            return true;
    if (kubernetes_long_path(req->path))
        return true;
    return asks(req->query, "watch") || asks(req->query, "follow");
}

/* ------------------------------------------------------------------ registries */

static bool is_digest(struct view v)
{
    return (v.len == 71 && view_starts(v, VIEW_LIT("sha256:"))) ||
           (v.len == 135 && view_starts(v, VIEW_LIT("sha512:")));
}

/* What follows the last `mark` in a path, if nothing but one segment does. */
static struct view last_segment_behind(struct view path, struct view mark)
{
    size_t at = path.len;
    while (at > 0 && path.p[at - 1] != '/')
        at--;
    struct view before = view_of(path.p, at), segment = view_skip(path, at);
    return segment.len && ends(before, mark) ? segment : (struct view){NULL, 0};
}

struct view kind_upload_id(struct view url)
{
    struct view rest, path = view_split(url, '?', &rest);
    return last_segment_behind(path, VIEW_LIT("/blobs/uploads/"));
}

static void registry_judge(const struct http_request *req, struct kind_facts *out)
{
    struct view blob = last_segment_behind(req->path, VIEW_LIT("/blobs/"));
    struct view manifest = last_segment_behind(req->path, VIEW_LIT("/manifests/"));
    if (view_present(blob) && is_digest(blob))
        out->digest = blob;
    else if (view_present(manifest) && is_digest(manifest))
        out->digest = manifest;
    out->affinity = kind_upload_id(req->path);
}

/* ------------------------------------------------------------------ all */

/* gRPC's calls can be streams that stay open and quiet for days, both ways; the header tells it from the
 * rest. */
static bool is_grpc(const struct http_request *req)
{
    struct view type = req->known[HTTP_KNOWN_CONTENT_TYPE];
    return view_present(type) && view_starts(type, VIEW_LIT("application/grpc"));
}

static bool is_idempotent(enum http_method method)
{
    switch (method) {
    case HTTP_GET:
    case HTTP_HEAD:
    case HTTP_OPTIONS:
    case HTTP_TRACE:
    case HTTP_PUT:
    case HTTP_DELETE:
        return true;
    default:
        return false;
    }
}

void kind_judge(enum proxy_kind kind, const struct http_request *req, struct kind_facts *out)
{
    *out = (struct kind_facts){.idempotent = is_idempotent(req->method)};
    if (kind == PROXY_DOCKER)
        docker_judge(req, out);
    else if (kind == PROXY_KUBERNETES)
        out->longlived = kubernetes_longlived(req);
    else if (kind == PROXY_REGISTRY)
        registry_judge(req, out);
    out->longlived = out->longlived || (req->method == HTTP_POST && is_grpc(req));
    /* A PUT that ends an upload session ends it once: the second one would find none. */
    if (kind == PROXY_REGISTRY && view_present(out->affinity))
        out->idempotent = req->method == HTTP_GET || req->method == HTTP_HEAD;
}
