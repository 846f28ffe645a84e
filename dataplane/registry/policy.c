/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Policies, looked at before a request's body is read, so that nothing is sent in vain. What counts is what
 * the state machine says when it applies the command; here is only what can be known early.
 */
#include "dataplane/http/uri.h"
#include "dataplane/registry/api.h"
#include "names_policy.h"

/* What the policies say, and how many bytes more the repository may have. */
struct look {
    struct policy_rules rules;
    bool known; /* the repository is there */
    uint64_t left;
};

static int look(struct api *a, struct look *l)
{
    struct names *n = stream_names(a->s);
    struct names_repo repo = {0};
    int err = names_begin(n);
    l->left = UINT64_MAX;
    if (err)
        return err;
    err = names_rules_get(n, a->route.repo, &l->rules);
    if (err == 0 && (l->rules.p.has || l->rules.has_totals)) {
        err = names_repo_get(n, a->route.repo, &repo);
        l->known = err == 0;
        if (err == 0 || err == -ENOENT)
            err = names_room_get(n, a->route.repo, &l->left);
        uint64_t quota = l->rules.p.bytes, room = repo.bytes < quota ? quota - repo.bytes : 0;
        if (quota && room < l->left)
            l->left = room;
    }
    names_end(n);
    return err;
}

static bool deny(struct api *a, const char *message)
{
    stream_count(a->s, CTR_POLICY_DENIALS, 1);
    error_answer(a->s, 403, ERROR_DENIED, message, "name", a->route.repo);
    return false;
}

static const char no_room[] = "the quota has no room for this: fairlead policy ls";

bool api_answer_no_room(struct api *a)
{
    return deny(a, no_room);
}

/* Whether the request brings bytes: a mount does not. */
static bool brings_bytes(struct api *a)
{
    char unused[1];
    enum http_method m = a->s->req.method;
    if (a->route.endpoint == ROUTE_UPLOADS)
        return http_query_get(a->s->req.query, "mount", unused, sizeof(unused)) == -ENOENT;
    return a->route.endpoint == ROUTE_UPLOAD && (m == HTTP_PATCH || m == HTTP_PUT) && stream_has_body(a->s);
}

bool api_policy_allows(struct api *a, enum authorize_action action)
{
    const struct http_request *req = &a->s->req;
    struct look l = {.known = false};
    bool changes = req->method == HTTP_POST || req->method == HTTP_PUT || req->method == HTTP_PATCH ||
                   action == AUTHORIZE_DELETE;
    if (!changes || a->route.endpoint == ROUTE_BASE ||
        (action == AUTHORIZE_PUSH && req->method == HTTP_DELETE))
        return true;
    int err = look(a, &l);
    if (err && err != -EINVAL) { /* a name too long for a key is told about later */
        api_answer_names_error(a, err);
        return false;
    }
    if (l.rules.p.read_only)
        return deny(a, "the repository is read-only");
    if (l.rules.p.existing_only && !l.known && action == AUTHORIZE_PUSH) {
        error_answer(a->s, 404, ERROR_NAME_UNKNOWN,
                     "there is no such repository, and a push does not make it (fairlead repo create)",
                     "name", a->route.repo);
        return false;
    }
    if (l.left == UINT64_MAX || !brings_bytes(a))
        return true;
    if (l.left == 0 || (req->framing == HTTP_BODY_LENGTH && req->content_length > l.left))
        return deny(a, no_room);
    a->s->upload_max = l.left;
    return true;
}
