/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/admin/admin.h"

#include <stdatomic.h>
#include <time.h>

#include "check.h"
#include "dataplane/admin/certificates.h"
#include "dataplane/admin/metrics.h"
#include "dataplane/authorize.h"
#include "dataplane/door.h"
#include "dataplane/ring.h"
#include "dataplane/store/names.h"

struct admin {
    struct metrics_cursor at;
    uint64_t generation;  /* of the plan with which the page began */
    bool figures;         /* are written; certificates follow, */
    uint32_t certificate; /* from this one on */
};

static void answer_text(struct stream *s, int status, struct view text)
{
    struct http_response *res = stream_response(s, status);
    http_response_field(res, "Content-Type", VIEW_LIT("text/plain; charset=utf-8"));
    http_response_field(res, "Cache-Control", VIEW_LIT("no-store"));
    if (status == 405)
        http_response_field(res, "Allow", VIEW_LIT("GET, HEAD"));
    stream_send_bytes(s, text.p, text.len);
}

static void serve_health(struct stream *s)
{
    answer_text(s, 200, VIEW_LIT("ok\n"));
}

static bool names_readable(struct stream *s)
{
    struct names *n = stream_names(s);
    struct names_meta meta;
    if (names_begin(n))
        return false;
    int err = names_meta_get(n, &meta);
    names_end(n);
    return err == 0;
}

/* Where the store is not as it should be, pulls go on, of what is here or from other replicas. */
static void answer_ready(struct stream *s, const struct control_counters *c)
{
    static const struct view texts[DISK_STATES_COUNT] = {
        [DISK_OK] = VIEW_LIT("ready\n"),
        [DISK_FULL] = VIEW_LIT("ready; the store's disk is full: pulls work, uploads do not\n"),
        [DISK_READ_ONLY] = VIEW_LIT("ready; the store's disk is read only: pulls work, uploads do not\n"),
        [DISK_FAILING] = VIEW_LIT("ready; the store's disk is failing: what can be read is served\n"),
        [DISK_MISSING] = VIEW_LIT("ready; the store's disk is missing: other replicas serve its blobs\n"),
        [DISK_OTHER] = VIEW_LIT("ready; the store is another one: other replicas serve its blobs\n"),
    };
    uint64_t disk = atomic_load_explicit(&c->store_disk, memory_order_relaxed);
    answer_text(s, 200, texts[disk < DISK_STATES_COUNT ? disk : DISK_OK]);
}

static void serve_ready(struct stream *s)
{
    const struct counters_page *page = stream_counters(s);
    if (!names_readable(s))
        answer_text(s, 503, VIEW_LIT("the names file cannot be read\n"));
    else if (!stream_control_connected(s))
        answer_text(s, 503, VIEW_LIT("control is not connected: pulls work, writes do not\n"));
    else if (!atomic_load_explicit(&page->control.ready, memory_order_relaxed))
        answer_text(s, 503, VIEW_LIT("control is not ready to take writes\n"));
    else
        answer_ready(s, &page->control);
}

static ssize_t metrics_fill(struct stream *s, char *buf, size_t cap, bool *done)
{
    struct admin *a = s->ctx;
    const struct plan *plan = s->ring->plan;
    if (!a->generation)
        a->generation = plan->generation;
    if (a->generation != plan->generation) /* backends have other places now: they are in the next page */
        plan = NULL;
    size_t n = 0;
    *done = false;
    if (!a->figures)
        n = metrics_write(stream_counters(s), plan, &a->at, buf, cap, &a->figures);
    if (a->figures)
        n += certificates_write(door_table(s->ring), (int64_t)time(NULL), &a->certificate, buf + n, cap - n,
                                done);
    return (ssize_t)n;
}

static void serve_metrics(struct stream *s)
{
    s->ctx = arena_zalloc(&s->arena, sizeof(struct admin));
    if (!s->ctx) {
        answer_text(s, 503, VIEW_LIT("no memory for another request\n"));
        return;
    }
    struct http_response *res = stream_response(s, 200);
    http_response_field(res, "Content-Type", VIEW_LIT("text/plain; version=0.0.4; charset=utf-8"));
    stream_send_fill(s, metrics_fill);
}

static bool allowed(struct stream *s)
{
    const struct plan_service *service = stream_service(s);
    struct authorize_who who = {VIEW_LIT("anonymous"), view_of_str(stream_peer(s))};
    return service &&
           authorize((enum policy_kind)service->policy, &who, AUTHORIZE_ADMIN,
                     view_of(service->name, strnlen(service->name, sizeof(service->name))), (struct view){0});
}

static void admin_begin(struct stream *s)
{
    static const struct {
        struct view path;
        void (*serve)(struct stream *s);
    } pages[] = {
        {VIEW_LIT("/healthz"), serve_health},
        {VIEW_LIT("/readyz"), serve_ready},
        {VIEW_LIT("/metrics"), serve_metrics},
    };
    s->class = CLASS_OTHER;
    s->ctx = NULL;
    if (!allowed(s)) {
        answer_text(s, 403, VIEW_LIT("the access policy does not allow this\n"));
        return;
    }
    for (size_t i = 0; i < ARRAY_SIZE(pages); i++) {
        if (!view_eq(s->req.path, pages[i].path))
            continue;
        if (s->req.method == HTTP_GET || s->req.method == HTTP_HEAD)
            pages[i].serve(s);
        else
            answer_text(s, 405, VIEW_LIT("this page is only read\n"));
        return;
    }
    answer_text(s, 404, VIEW_LIT("pages here: /healthz /readyz /metrics\n"));
}

/* No page asks for a body. */
static void admin_body_done(struct stream *s, int err)
{
    (void)s, (void)err;
    IMPOSSIBLE("a body that nobody asked for");
}

static void admin_end(struct stream *s)
{
    s->ctx = NULL;
}

const struct handler admin_handler = {"admin", admin_begin, admin_body_done, admin_end, NULL};
