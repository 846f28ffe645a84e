/* SPDX-License-Identifier: Apache-2.0 */
#include "control/notify.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/cluster_policy.h"
#include "control/events.h"
#include "control/journal.h"
#include "control/notify_envelope.h"
#include "control/notify_send.h"
#include "control/pulls.h"
#include "control/webhook.h"

enum {
    TICK_MS = 200,
    POKE_MS = 10,
    COMMIT_MS = 1000,
    LOOK_MS = 1000, /* how old what is known of the endpoints may be */
    SCAN = 1024,    /* notices looked at for a request */
};

/* An endpoint that this node tells, or told. */
struct target {
    char name[ENDPOINT_NAME_MAX + 1]; /* empty: free */
    struct notify *owner;
    struct notice_at told, committed, sending;
    bool busy, committing, failing;
    unsigned failures;
    uint64_t next_ms, committed_ms;
    uint64_t sent;
    char error[WEBHOOK_ERROR_MAX];
};

struct notify {
    struct notify_config config;
    struct webhooks *webhooks; /* NULL: nobody was told of anything yet */
    struct pulls *pulls;
    uv_timer_t timer;
    struct endpoint_table table;
    bool dirty, closing, poked;
    unsigned pending; /* proposals under way */
    uint64_t looked_ms, dropped;
    struct target target[2 * ENDPOINTS_MAX];
};

static void on_timer(uv_timer_t *timer);
static bool look(struct notify *n, uint64_t now_ms);

static void wake(struct notify *n, uint64_t after_ms)
{
    if (!n->closing)
        uv_timer_start(&n->timer, on_timer, after_ms, TICK_MS);
}

static void on_closed(uv_handle_t *handle)
{
    struct notify *n = handle->data;
    n->timer.data = NULL;
    if (n->pending == 0)
        free(n);
}

struct notify *notify_new(const struct notify_config *config)
{
    struct notify *n = calloc(1, sizeof(*n));
    CHECK(n && uv_timer_init(config->loop, &n->timer) == 0);
    n->config = *config;
    n->timer.data = n;
    n->dirty = true;
    n->pulls = pulls_new(&config->pulls, &n->config.secrets);
    (void)look(n, uv_now(config->loop));
    wake(n, TICK_MS);
    return n;
}

void notify_pull(struct notify *n, const void *data, size_t len)
{
    pulls_add(n->pulls, data, len);
}

void notify_close(struct notify *n)
{
    n->closing = true;
    pulls_close(n->pulls);
    if (n->webhooks)
        webhooks_close(n->webhooks);
    endpoint_table_fini(&n->table);
    uv_close((uv_handle_t *)&n->timer, on_closed);
}

void notify_event(struct notify *n, const struct state_event *event)
{
    uint16_t type = event ? event->cmd.head.type : CMD_NOTIFY_SET;
    n->dirty |= type == CMD_NOTIFY_SET || type == CMD_NOTIFY_RM;
    if (n->poked || (n->table.count == 0 && !n->dirty))
        return;
    n->poked = true;
    wake(n, POKE_MS);
}

/* --- what is known --- */

static struct target *target_find(struct notify *n, const char *name)
{
    for (size_t i = 0; i < ARRAY_SIZE(n->target); i++)
        if (strcmp(n->target[i].name, name) == 0)
            return &n->target[i];
    return NULL;
}

/* Those of endpoints that are gone make room, when nothing of them is under way. */
static void targets_match(struct notify *n)
{
    for (size_t i = 0; i < ARRAY_SIZE(n->target); i++) {
        struct target *t = &n->target[i];
        if (t->name[0] && !t->busy && !t->committing && !endpoint_find(&n->table, t->name))
            memset(t, 0, sizeof(*t));
    }
    for (size_t i = 0; i < n->table.count; i++) {
        const struct endpoint *e = &n->table.list[i];
        struct target *t = target_find(n, e->name);
        struct notice_at at = {e->row.cursor_index, e->row.cursor_number};
        if (!t && (t = target_find(n, ""))) {
            t->owner = n;
            memcpy(t->name, e->name, sizeof(t->name));
        }
        if (!t)
            continue;
        if (notice_compare(at, t->told) > 0)
            t->told = at;
        t->committed = at;
    }
}

static void say_dropped(struct notify *n)
{
    char text[128];
    uint64_t now = n->table.queue.dropped;
    if (now > n->dropped && n->looked_ms) {
        snprintf(text, sizeof(text), "%llu notices of webhooks were dropped: more than %d waited",
                 (unsigned long long)(now - n->dropped), NOTICES_MAX);
        events_note(n->config.events, "notify.dropped", text);
    }
    n->dropped = now;
}

/* The table of before stays when none can be read: without its row an endpoint counts as gone, and what waits
 * for it is removed. */
static bool look(struct notify *n, uint64_t now_ms)
{
    struct endpoint_table table;
    if (!n->dirty && now_ms - n->looked_ms < LOOK_MS)
        return true;
    if (cluster_endpoints(n->config.cluster, &table)) {
        endpoint_table_fini(&table);
        return false;
    }
    endpoint_table_fini(&n->table);
    n->table = table;
    targets_match(n);
    pulls_endpoints(n->pulls, &n->table);
    say_dropped(n);
    n->dirty = false;
    n->looked_ms = now_ms;
    return true;
}

/* --- one endpoint --- */

static void on_committed(void *arg, enum cmd_status status, uint64_t index, const void *detail, size_t len)
{
    struct target *t = arg;
    struct notify *n = t->owner;
    (void)index, (void)detail, (void)len;
    n->pending--;
    t->committing = false;
    if (status == CMD_OK)
        n->dirty = true;
    if (n->closing && n->pending == 0 && !n->timer.data)
        free(n);
}

static void commit(struct notify *n, struct target *t, uint64_t now_ms)
{
    static const char actor[] = "system", source[] = "notify";
    struct cmd_head head = {.type = CMD_NOTIFY_CURSOR,
                            .actor = actor,
                            .actor_len = sizeof(actor) - 1,
                            .source = source,
                            .source_len = sizeof(source) - 1,
                            .request_id = ""};
    struct wire_writer w = {.buf = malloc(512), .cap = 512};
    CHECK(w.buf);
    cmd_put_head(&w, &head);
    wire_put_bytes(&w, t->name, strlen(t->name));
    wire_put_u64(&w, t->told.index);
    wire_put_u32(&w, t->told.number);
    CHECK(!w.failed);
    t->committing = true;
    t->committed_ms = now_ms;
    n->pending++;
    cluster_propose(n->config.cluster, w.buf, w.len, on_committed, t);
}

static void say_health(struct notify *n, struct target *t, bool failing)
{
    char text[WEBHOOK_ERROR_MAX + 128];
    if (failing == t->failing)
        return;
    t->failing = failing;
    snprintf(text, sizeof(text), failing ? "%s: %s; it is tried again" : "%s: it takes notices again",
             t->name, t->error);
    events_note(n->config.events, failing ? "notify.failing" : "notify.ok", text);
}

static void on_answer(void *arg, long status, const char *error)
{
    struct target *t = arg;
    struct notify *n = t->owner;
    t->busy = false;
    if (n->closing)
        return;
    if (notify_taken(status, error, t->error)) {
        t->told = t->sending;
        t->failures = 0;
        t->sent++;
        say_health(n, t, false);
    } else {
        t->failures++;
        t->next_ms = uv_now(n->config.loop) + notify_backoff_ms(t->failures);
        say_health(n, t, true);
    }
    wake(n, 0);
}

struct batch {
    const struct endpoint *endpoint;
    struct notify_source source;
    json_t *envelope;
    struct notice_at last;
    bool any; /* notices were looked at */
};

static bool on_notice(void *arg, const struct notice *notice)
{
    struct batch *b = arg;
    b->any = true;
    b->last = notice->at;
    if (notice_wanted(&b->endpoint->row, notice))
        notify_envelope_add(b->envelope, &b->source, notice);
    return json_array_size(json_object_get(b->envelope, "events")) < NOTIFY_BATCH;
}

static void post(struct notify *n, const struct endpoint *e, const json_t *envelope, webhook_done done,
                 void *arg)
{
    if (!n->webhooks)
        n->webhooks = webhooks_new(n->config.loop);
    notify_send(n->webhooks, e, &n->config.secrets, envelope, done, arg);
}

static void tell(struct notify *n, const struct endpoint *e, struct target *t, const uint8_t cluster_id[16])
{
    struct batch b = {.endpoint = e,
                      .source = {.cluster_id = cluster_id, .node = n->config.node},
                      .envelope = notify_envelope_new()};
    int rc = cluster_each_notice(n->config.cluster, t->told, SCAN, on_notice, &b);
    if (rc >= 0 && json_array_size(json_object_get(b.envelope, "events"))) {
        t->sending = b.last;
        t->busy = true;
        post(n, e, b.envelope, on_answer, t);
    } else if (rc >= 0 && b.any) {
        t->told = b.last;
    }
    json_decref(b.envelope);
}

static void on_timer(uv_timer_t *timer)
{
    struct notify *n = timer->data;
    struct cluster_status status;
    uint64_t now_ms = uv_now(n->config.loop);
    n->poked = false;
    cluster_status(n->config.cluster, &status);
    if ((!status.leads && !n->dirty) || !look(n, now_ms) || !status.leads)
        return;
    for (size_t i = 0; i < n->table.count; i++) {
        const struct endpoint *e = &n->table.list[i];
        struct target *t = target_find(n, e->name);
        if (!t || !e->url[0])
            continue;
        if (!t->busy && now_ms >= t->next_ms)
            tell(n, e, t, status.cluster_id);
        if (!t->committing && notice_compare(t->told, t->committed) > 0 &&
            now_ms - t->committed_ms >= COMMIT_MS)
            commit(n, t, now_ms);
    }
}

/* --- for people --- */

/* Scheme and host: the path may be a secret as well as the query. */
static json_t *url_json(const char *url)
{
    const char *host = strstr(url, "://");
    size_t len = host ? (size_t)(host - url) + 3 : 0;
    len += strcspn(url + len, "/?#");
    return json_sprintf("%.*s%s", (int)len, url, url[len] && strcmp(url + len, "/") != 0 ? "/..." : "");
}

static json_t *headers_json(const struct endpoint *e)
{
    json_t *names = json_array();
    for (uint32_t i = 0; i < e->headers_count; i++)
        json_array_append_new(names, json_stringn(e->header[i], strcspn(e->header[i], ":")));
    return names;
}

static json_t *actions_json(uint32_t actions)
{
    json_t *list = json_array();
    for (unsigned i = 0; i < NOTICE_ACTIONS_COUNT; i++)
        if (actions >> i & 1)
            json_array_append_new(list, json_string(notice_actions[i]));
    return list;
}

static json_t *ignore_json(uint32_t actions)
{
    json_t *list = json_array();
    if (actions & ENDPOINT_IGNORE_HEAD)
        json_array_append_new(list, json_string("head"));
    if (actions & ENDPOINT_IGNORE_BLOB)
        json_array_append_new(list, json_string("blob"));
    return list;
}

static json_t *endpoint_json(struct notify *n, const struct endpoint *e, bool leads)
{
    const struct target *t = target_find(n, e->name);
    json_t *row =
        json_pack("{s:s, s:o, s:s, s:o, s:s, s:o, s:I, s:I}", "name", e->name, "url", url_json(e->url),
                  "prefix", e->row.prefix[0] ? e->row.prefix : "*", "actions", actions_json(e->row.actions),
                  "media_types", e->row.media_types, "headers", headers_json(e), "dropped",
                  (json_int_t)e->row.dropped, "told_index", (json_int_t)e->row.cursor_index);
    CHECK(row);
    json_object_set_new(row, "ca", json_string(e->ca ? "own" : "system"));
    json_object_set_new(row, "ignore", ignore_json(e->row.actions));
    json_object_set_new(row, "credentials", json_string(e->credentials));
    json_t *pulls = pulls_json(n->pulls, e->name);
    if (pulls)
        json_object_set_new(row, "pulls", pulls);
    if (leads && t) {
        json_object_set_new(row, "state", json_string(t->failing ? "failing" : "ok"));
        json_object_set_new(row, "error", json_string(t->error));
        json_object_set_new(row, "failures", json_integer(t->failures));
        json_object_set_new(row, "requests", json_integer((json_int_t)t->sent));
    }
    return row;
}

json_t *notify_json(struct notify *n)
{
    struct endpoint_table table;
    struct cluster_status status;
    cluster_status(n->config.cluster, &status);
    if (cluster_endpoints(n->config.cluster, &table))
        return NULL;
    json_t *rows = json_array();
    for (size_t i = 0; i < table.count; i++)
        json_array_append_new(rows, endpoint_json(n, &table.list[i], status.leads));
    json_t *out = json_pack("{s:I, s:I, s:o}", "waiting", (json_int_t)table.queue.count, "dropped",
                            (json_int_t)table.queue.dropped, "endpoints", rows);
    endpoint_table_fini(&table);
    return out;
}

void notify_warn(struct notify *n, json_t *list)
{
    for (size_t i = 0; i < ARRAY_SIZE(n->target); i++)
        if (n->target[i].failing)
            json_array_append_new(list, json_sprintf("the webhook '%s' takes no notices: %s; they wait",
                                                     n->target[i].name, n->target[i].error));
    if (n->table.queue.dropped)
        json_array_append_new(list, json_sprintf("%llu notices of webhooks were dropped: more than %d waited",
                                                 (unsigned long long)n->table.queue.dropped, NOTICES_MAX));
    pulls_warn(n->pulls, list);
}

void notify_publish(const struct notify *n, struct control_counters *out)
{
    pulls_publish(n->pulls, out);
}

int notify_test(struct notify *n, const char *name, void (*done)(void *arg, long status, const char *error),
                void *arg)
{
    struct endpoint_table table;
    int rc = cluster_endpoints(n->config.cluster, &table);
    const struct endpoint *e = rc ? NULL : endpoint_find(&table, name);
    if (e) {
        json_t *envelope = notify_envelope_new();
        post(n, e, envelope, done, arg);
        json_decref(envelope);
    }
    endpoint_table_fini(&table);
    return rc ? rc : (e ? 0 : -ENOENT);
}
