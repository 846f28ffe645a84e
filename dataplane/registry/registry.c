/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The registry's entrance: begin -> route -> authorize -> endpoint. Nothing is looked up or touched before
 * authorize has said yes. The end gives back what the call holds.
 */
#include "dataplane/registry/registry.h"

#include "dataplane/registry/api.h"
#include "dataplane/registry/copies.h"
#include "check.h"
#include "plan.h"

struct endpoint {
    void (*call)(struct api *a);
    enum authorize_action action;
    enum request_class class;
};

static const struct endpoint endpoints[ROUTE_ENDPOINTS_COUNT][HTTP_OTHER + 1] = {
    [ROUTE_BASE] = {[HTTP_GET] = {api_base, AUTHORIZE_PING, CLASS_OTHER},
                    [HTTP_HEAD] = {api_base, AUTHORIZE_PING, CLASS_OTHER}},
    [ROUTE_CATALOG] = {[HTTP_GET] = {api_catalog, AUTHORIZE_CATALOG, CLASS_LIST},
                       [HTTP_HEAD] = {api_catalog, AUTHORIZE_CATALOG, CLASS_LIST}},
    [ROUTE_BLOB] = {[HTTP_GET] = {api_blob_read, AUTHORIZE_PULL, CLASS_BLOB_GET},
                    [HTTP_HEAD] = {api_blob_read, AUTHORIZE_PULL, CLASS_OTHER},
                    [HTTP_DELETE] = {api_blob_delete, AUTHORIZE_DELETE, CLASS_OTHER}},
    [ROUTE_UPLOADS] = {[HTTP_POST] = {api_upload_start, AUTHORIZE_PUSH, CLASS_UPLOAD}},
    [ROUTE_UPLOAD] = {[HTTP_GET] = {api_upload_status, AUTHORIZE_PUSH, CLASS_OTHER},
                      [HTTP_HEAD] = {api_upload_status, AUTHORIZE_PUSH, CLASS_OTHER},
                      [HTTP_PATCH] = {api_upload_patch, AUTHORIZE_PUSH, CLASS_UPLOAD},
                      [HTTP_PUT] = {api_upload_put, AUTHORIZE_PUSH, CLASS_UPLOAD},
                      [HTTP_DELETE] = {api_upload_cancel, AUTHORIZE_PUSH, CLASS_OTHER}},
    [ROUTE_MANIFEST] = {[HTTP_GET] = {api_manifest_read, AUTHORIZE_PULL, CLASS_MANIFEST_GET},
                        [HTTP_HEAD] = {api_manifest_read, AUTHORIZE_PULL, CLASS_MANIFEST_GET},
                        [HTTP_PUT] = {api_manifest_put, AUTHORIZE_PUSH, CLASS_MANIFEST_PUT},
                        [HTTP_DELETE] = {api_manifest_delete, AUTHORIZE_DELETE, CLASS_OTHER}},
    [ROUTE_TAGS] = {[HTTP_GET] = {api_tags, AUTHORIZE_PULL, CLASS_LIST},
                    [HTTP_HEAD] = {api_tags, AUTHORIZE_PULL, CLASS_LIST}},
    [ROUTE_REFERRERS] = {[HTTP_GET] = {api_referrers, AUTHORIZE_PULL, CLASS_LIST},
                         [HTTP_HEAD] = {api_referrers, AUTHORIZE_PULL, CLASS_LIST}},
};

/* ------------------------------------------------------------------ refusals */

static void refuse_method(struct stream *s, const char *allow, const char *message)
{
    struct error_item item = {ERROR_UNSUPPORTED, message, NULL, {0}};
    http_response_field_str(error_begin(s, 405), "Allow", allow);
    error_send(s, &item, 1);
}

static void refuse_route(struct api *a, enum route_result result)
{
    struct stream *s = a->s;
    switch (result) {
    case ROUTE_METHOD:
        refuse_method(s, route_allow(a->route.endpoint), "this method is not offered here");
        break;
    case ROUTE_NAME_INVALID:
        error_answer(s, 400, ERROR_NAME_INVALID, "not a repository name", "name", a->route.repo);
        break;
    case ROUTE_DIGEST_INVALID:
        error_answer(s, 400, ERROR_DIGEST_INVALID, "not a digest", "digest", a->route.reference);
        break;
    case ROUTE_DIGEST_ALGORITHM:
        error_answer(s, 400, ERROR_DIGEST_INVALID, "a digest of an algorithm other than sha256 and sha512",
                     "digest", a->route.reference);
        break;
    case ROUTE_TAG_INVALID:
        error_answer(s, 400, ERROR_TAG_INVALID, "not a tag", "tag", a->route.reference);
        break;
    default:
        error_answer(s, 404, ERROR_NAME_UNKNOWN, "no such path in the registry's API", "path", s->req.path);
        break;
    }
}

/* ------------------------------------------------------------------ the handler */

bool api_allowed(struct api *a, enum authorize_action action, struct view repo)
{
    const struct plan_service *service = stream_service(a->s);
    struct authorize_who who = {VIEW_LIT("anonymous"), view_of_str(stream_peer(a->s))};
    return service && authorize((enum policy_kind)service->policy, &who, action,
                                view_of(service->name, strnlen(service->name, sizeof(service->name))), repo);
}

static void wake_step(struct waiter *w, int res)
{
    struct api *a = container_of(w, struct api, waiter);
    a->next(a, res);
}

static enum route_result route_of(struct api *a)
{
    struct stream *s = a->s;
    char *scratch = NULL;
    size_t cap = 0;
    if (memchr(s->req.path.p, '%', s->req.path.len) && s->req.path.len <= ROUTE_PATH_MAX) {
        cap = s->req.path.len;
        scratch = arena_alloc(&s->arena, cap);
        if (!scratch)
            cap = 0;
    }
    return route_read(s->req.method, s->req.path, scratch, cap, &a->route);
}

struct api *api_new(struct stream *s)
{
    struct api *a = arena_zalloc(&s->arena, sizeof(*a));
    s->ctx = a;
    s->class = CLASS_OTHER;
    if (!a) {
        error_answer_later(s, 503, "no memory for another request");
        return NULL;
    }
    a->s = s;
    a->waiter.wake = wake_step;
    return a;
}

static void registry_begin(struct stream *s)
{
    struct api *a = api_new(s);
    if (!a)
        return;
    enum route_result result = route_of(a);
    if (result != ROUTE_OK) {
        refuse_route(a, result);
        return;
    }
    const struct endpoint *e = &endpoints[a->route.endpoint][s->req.method];
    s->old_names = !names_is_fresh(stream_names(s));
    s->class = e->class;
    if (!api_allowed(a, e->action, a->route.repo))
        error_answer(s, 403, ERROR_DENIED, "the access policy does not allow this", "name", a->route.repo);
    else if (e->action == AUTHORIZE_DELETE && !stream_setting(s, SET_REGISTRY_DELETE))
        refuse_method(s, "GET, HEAD", "deletion is turned off (registry.delete)");
    else if (e->action == AUTHORIZE_CATALOG && !stream_setting(s, SET_REGISTRY_CATALOG))
        error_answer(s, 404, ERROR_UNSUPPORTED, "the catalog is turned off (registry.catalog)", NULL,
                     (struct view){0});
    else if ((e->action != AUTHORIZE_PUSH || api_push_allowed(a)) && api_policy_allows(a, e->action))
        e->call(a);
}

/* Who it is for. What does not fit is nobody's address. */
static const char *forwarded_for(struct stream *s)
{
    struct view from = s->req.known[HTTP_KNOWN_X_FORWARDED_FOR];
    return from.len && from.len < SOURCE_TEXT_MAX ? arena_copy(&s->arena, from.p, from.len) : NULL;
}

void api_relayed(struct api *a)
{
    struct stream *s = a->s;
    if (route_of(a) != ROUTE_OK || a->route.endpoint != ROUTE_UPLOAD) {
        error_answer(s, 404, ERROR_UNSUPPORTED, "upload sessions are all that is relayed here", NULL,
                     (struct view){0});
        return;
    }
    const struct endpoint *e = &endpoints[a->route.endpoint][s->req.method];
    a->relayed = true;
    a->relayed_for = forwarded_for(s);
    s->class = e->class;
    stream_count(s, CTR_PEER_UPLOADS, 1);
    if (api_policy_allows(a, e->action)) /* what the body may grow to is looked at where it arrives */
        e->call(a);
}

struct api *api_again(struct stream *s)
{
    enum request_class class = s->class;
    s->handler = &registry_handler;
    struct api *a = api_new(s);
    enum route_result result = a ? route_of(a) : ROUTE_OK;
    CHECK(result == ROUTE_OK); /* as it was before */
    s->class = class;
    return a;
}

void api_call(struct api *a)
{
    endpoints[a->route.endpoint][a->s->req.method].call(a);
}

void api_body_done(struct stream *s, int err)
{
    struct api *a = s->ctx;
    a->next(a, err);
}

void api_end(struct stream *s)
{
    struct api *a = s->ctx;
    if (!a)
        return;
    copies_end(a);
    if (a->upload)
        upload_checkin(a->upload);
    if (a->blob)
        blob_put(stream_store(s), a->blob);
    if (a->pin)
        blob_unpin(stream_store(s), a->pin);
    s->ctx = NULL;
}

const struct handler registry_handler = {"registry", registry_begin, api_body_done, api_end, NULL};

/* /v2/: the version check. */
void api_base(struct api *a)
{
    struct http_response *res = stream_response(a->s, 200);
    http_response_field(res, "Content-Type", VIEW_LIT("application/json"));
    http_response_field(res, "Docker-Distribution-API-Version", VIEW_LIT("registry/2.0"));
    stream_send_bytes(a->s, "{}\n", 3);
}
