/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The loop collects, sends and decides; the disk is a thread's. At any time at most one step is under way: it
 * has what was collected until then, and all queues. What is the step's (struct disk) nobody else touches
 * meanwhile.
 */
#include "control/pulls.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/cluster.h"
#include "control/events.h"
#include "control/notify_envelope.h"
#include "control/notify_send.h"
#include "control/pool.h"
#include "control/pulls_disk.h"
#include "shared.h"

enum {
    TICK_MS = 100,
    DISK_AGAIN_MS = 1000, /* after the disk has failed, unless there is something to be put on it */
    PENDING_FIRST = 16 << 10,
    TARGETS = 2 * ENDPOINTS_MAX,
};

/* A webhook that wants pulls; or wanted, and its queue has to go. */
struct target {
    struct pulls *owner;
    char name[ENDPOINT_NAME_MAX + 1]; /* empty: free */
    uint64_t created_ms;
    struct names_endpoint row;
    struct disk_buffer pending;  /* records, for the next step */
    struct disk disk;            /* the step's, while there is one */
    struct pull_figures figures; /* as the last step left them */
    int disk_error;
    bool known; /* what its queue had at the beginning */
    bool gone, busy, advance, failing;
    struct pull_place sent; /* behind what was sent */
    unsigned failures;
    uint64_t next_ms, disk_ms;
    uint64_t requests, lost; /* lost: there was no room for them, or the disk did not take them */
    char error[WEBHOOK_ERROR_MAX];
};

struct pulls {
    struct pulls_config config;
    const struct notify_secrets *secrets;
    const struct endpoint_table *table;
    struct webhooks *webhooks; /* NULL: nobody was told of anything yet */
    uv_timer_t timer;
    uv_work_t work;
    bool stepping, table_due, ticking;
    bool closing, flushed, closed;
    uint8_t id[PULL_ID_BYTES]; /* of the last record: half of it is chance, half counts */
    struct disk_folder folder;
    struct target target[TARGETS];
};

static void step(struct pulls *p);
static void on_timer(uv_timer_t *timer);

struct pulls *pulls_new(const struct pulls_config *config, const struct notify_secrets *secrets)
{
    struct pulls *p = calloc(1, sizeof(*p));
    CHECK(p && uv_timer_init(config->loop, &p->timer) == 0);
    p->config = *config;
    p->secrets = secrets;
    p->timer.data = p;
    p->work.data = p;
    p->folder = (struct disk_folder){.state_fd = config->state_fd, .fd = -1};
    (void)uv_random(NULL, NULL, p->id, PULL_ID_BYTES / 2, 0, NULL);
    return p;
}

/* --- who wants what --- */

static bool wants(const struct endpoint *e)
{
    return e->row.actions >> NOTICE_PULL & 1 && e->url[0];
}

static struct target *target_of(struct pulls *p, const struct endpoint *e)
{
    for (size_t i = 0; i < TARGETS; i++)
        if (strcmp(p->target[i].name, e->name) == 0 && p->target[i].created_ms == e->row.created_ms)
            return &p->target[i];
    return NULL;
}

static struct target *target_free(struct pulls *p)
{
    for (size_t i = 0; i < TARGETS; i++)
        if (!p->target[i].name[0])
            return &p->target[i];
    return NULL;
}

static uint32_t wanted_by(const struct target *t)
{
    uint32_t bits = t->row.actions & ENDPOINT_IGNORE_BLOB ? 0 : PULLS_BLOBS;
    bits |= t->row.actions & ENDPOINT_IGNORE_HEAD ? 0 : PULLS_HEADS;
    return bits | PULLS_MANIFESTS;
}

static void target_begin(struct pulls *p, struct target *t, const struct endpoint *e)
{
    *t = (struct target){.owner = p, .created_ms = e->row.created_ms};
    memcpy(t->name, e->name, sizeof(t->name));
    disk_name(t->disk.name, t->name, t->created_ms);
}

static void table_take(struct pulls *p)
{
    bool keeps[TARGETS] = {false};
    uint32_t wanted = 0;
    p->table_due = false;
    for (size_t i = 0; i < p->table->count; i++) {
        const struct endpoint *e = &p->table->list[i];
        struct target *t = wants(e) ? target_of(p, e) : NULL;
        if (wants(e) && !t && (t = target_free(p)))
            target_begin(p, t, e);
        if (!t)
            continue;
        t->row = e->row;
        t->gone = false;
        wanted |= wanted_by(t);
        keeps[t - p->target] = true;
    }
    for (size_t i = 0; i < TARGETS; i++)
        p->target[i].gone = p->target[i].name[0] && !keeps[i];
    atomic_store_explicit(p->config.wanted, wanted, memory_order_relaxed);
}

static void tick(struct pulls *p)
{
    if (p->ticking || p->closing)
        return;
    p->ticking = true;
    uv_timer_start(&p->timer, on_timer, TICK_MS, TICK_MS);
}

void pulls_endpoints(struct pulls *p, const struct endpoint_table *table)
{
    p->table = table;
    p->table_due = true;
    if (!p->stepping)
        table_take(p);
    tick(p);
}

/* --- what comes --- */

static const uint8_t *id_next(struct pulls *p)
{
    for (unsigned i = PULL_ID_BYTES - 1; i > PULL_ID_BYTES / 2 && ++p->id[i] == 0; i--)
        ;
    return p->id;
}

static bool room_for(struct disk_buffer *b, size_t len)
{
    size_t cap = b->cap ? b->cap : PENDING_FIRST;
    if (len > PULL_APPEND_MAX - b->len)
        return false;
    while (cap - b->len < len)
        cap *= 2;
    if (cap == b->cap)
        return true;
    b->data = realloc(b->data, cap);
    CHECK(b->data);
    b->cap = cap;
    return true;
}

void pulls_add(struct pulls *p, const void *data, size_t len)
{
    uint8_t body[PULL_ID_BYTES + PULL_BYTES_MAX];
    struct pull pull;
    if (len > PULL_BYTES_MAX || !pull_get(data, len, &pull))
        return; /* of a producer that is not trusted */
    memcpy(body, id_next(p), PULL_ID_BYTES);
    memcpy(body + PULL_ID_BYTES, data, len);
    for (size_t i = 0; i < TARGETS; i++) {
        struct target *t = &p->target[i];
        if (!t->name[0] || t->gone || !notice_pull_wanted(&t->row, &pull))
            continue;
        struct disk_buffer *b = &t->pending;
        if (room_for(b, PULL_RECORD_HEAD + PULL_ID_BYTES + len))
            b->len += pull_record_put(b->data + b->len, body, PULL_ID_BYTES + len);
        else
            t->lost++;
    }
}

/* --- what goes --- */

static void say_health(struct target *t, bool failing)
{
    char text[WEBHOOK_ERROR_MAX + 128];
    if (failing == t->failing)
        return;
    t->failing = failing;
    snprintf(text, sizeof(text), failing ? "%s: of pulls: %s; it is tried again" : "%s: it takes pulls again",
             t->name, t->error);
    events_note(t->owner->config.events, failing ? "notify.failing" : "notify.ok", text);
}

static void on_answer(void *arg, long status, const char *error)
{
    struct target *t = arg;
    struct pulls *p = t->owner;
    t->busy = false;
    if (p->closing)
        return;
    if (notify_taken(status, error, t->error)) {
        t->advance = true;
        t->failures = 0;
        t->requests++;
        say_health(t, false);
    } else {
        t->failures++;
        t->next_ms = uv_now(p->config.loop) + notify_backoff_ms(t->failures);
        say_health(t, true);
    }
    step(p); /* at once: the next ones may wait already */
}

static void batch_send(struct target *t)
{
    struct pulls *p = t->owner;
    const struct endpoint *e = endpoint_find(p->table, t->name);
    struct cluster_status status;
    size_t at = 0, len;
    const uint8_t *body;
    struct pull pull;
    if (!e || e->row.created_ms != t->created_ms || !wants(e))
        return; /* it has just gone */
    cluster_status(p->config.cluster, &status);
    const struct notify_source source = {.cluster_id = status.cluster_id, .node = p->config.node};
    json_t *envelope = notify_envelope_new();
    while ((body = pull_record_next(t->disk.out.data, t->disk.out.len, &at, &len)))
        if (len > PULL_ID_BYTES && pull_get(body + PULL_ID_BYTES, len - PULL_ID_BYTES, &pull))
            notify_envelope_pull(envelope, &source, body, &pull);
    if (!p->webhooks)
        p->webhooks = webhooks_new(p->config.loop);
    t->busy = true;
    t->sent = t->disk.after;
    notify_send(p->webhooks, e, p->secrets, envelope, on_answer, t);
    json_decref(envelope);
}

/* --- steps --- */

/* What the next step has to do for a target, if anything. */
static bool target_prepare(struct target *t, uint64_t now_ms, uint64_t bytes_max, bool last)
{
    struct disk *d = &t->disk;
    if (!t->name[0])
        return false;
    if (t->gone) {
        d->what = t->busy ? DISK_NOTHING : DISK_REMOVE;
        return !t->busy;
    }
    bool waits = t->figures.waiting || t->pending.len;
    d->advance = t->advance;
    d->read = !last && waits && !t->busy && now_ms >= t->next_ms && now_ms >= t->disk_ms;
    bool look = !last && !t->known && now_ms >= t->disk_ms;
    if (!t->pending.len && !d->advance && !d->read && !look)
        return false;
    struct disk_buffer empty = d->in;
    CHECK(empty.len == 0);
    d->what = DISK_SERVE;
    d->in = t->pending;
    d->to = t->sent;
    d->bytes_max = bytes_max;
    t->pending = empty;
    t->advance = false;
    return true;
}

static void on_work(uv_work_t *work)
{
    struct pulls *p = work->data;
    struct disk *disks[TARGETS];
    for (size_t i = 0; i < TARGETS; i++)
        disks[i] = &p->target[i].disk;
    disk_step(&p->folder, disks, TARGETS);
}

static void say_disk(struct target *t)
{
    char text[256];
    if (t->disk.error == t->disk_error || t->owner->closing)
        return;
    t->disk_error = t->disk.error;
    snprintf(text, sizeof(text), t->disk_error ? "%s: pulls are lost: %s" : "%s: pulls are kept again",
             t->name, strerror(-t->disk_error));
    events_note(t->owner->config.events, t->disk_error ? "notify.disk" : "notify.ok", text);
}

static void target_end(struct target *t)
{
    free(t->pending.data);
    disk_fini(&t->disk);
    *t = (struct target){.created_ms = 0};
}

static void target_take(struct target *t, uint64_t now_ms)
{
    struct disk *d = &t->disk;
    enum disk_what what = d->what;
    d->what = DISK_NOTHING;
    if (what == DISK_REMOVE)
        target_end(t);
    if (what != DISK_SERVE)
        return;
    t->known |= d->error == 0;
    t->lost += d->lost;
    t->disk_ms = d->error ? now_ms + DISK_AGAIN_MS : 0;
    if (d->queue)
        t->figures = d->figures;
    say_disk(t);
    if (d->read && d->out.len && !t->owner->closing)
        batch_send(t);
}

/* The last step, in the loop's thread: what is here is put on the disk, if that takes it. */
static void flush(struct pulls *p)
{
    uint64_t bytes_max = p->config.bytes_max(p->config.arg);
    for (size_t i = 0; i < TARGETS; i++)
        (void)target_prepare(&p->target[i], 0, bytes_max, true);
    on_work(&p->work);
    for (size_t i = 0; i < TARGETS; i++)
        target_end(&p->target[i]);
    disk_folder_close(&p->folder);
    p->flushed = true;
    if (p->closed)
        free(p);
}

static void on_stepped(uv_work_t *work, int status)
{
    struct pulls *p = work->data;
    uint64_t now_ms = uv_now(p->config.loop);
    (void)status;
    p->stepping = false;
    for (size_t i = 0; i < TARGETS; i++)
        target_take(&p->target[i], now_ms);
    if (p->closing)
        flush(p);
    else if (p->table_due)
        table_take(p);
}

static void step(struct pulls *p)
{
    if (p->stepping || p->closing || !p->table)
        return;
    uint64_t now_ms = uv_now(p->config.loop), bytes_max = p->config.bytes_max(p->config.arg);
    bool any = false, rests = p->folder.swept;
    for (size_t i = 0; i < TARGETS; i++) {
        any |= target_prepare(&p->target[i], now_ms, bytes_max, false);
        rests &= !p->target[i].name[0];
    }
    if (any || !p->folder.swept) {
        p->stepping = true;
        CHECK(pool_queue(p->config.loop, &p->work, "pulls that webhooks are told of", on_work, on_stepped) ==
              0);
    } else if (rests) {
        p->ticking = false;
        uv_timer_stop(&p->timer);
    }
}

static void on_timer(uv_timer_t *timer)
{
    step(timer->data);
}

static void on_closed(uv_handle_t *handle)
{
    struct pulls *p = handle->data;
    p->closed = true;
    if (p->flushed)
        free(p);
}

void pulls_close(struct pulls *p)
{
    p->closing = true;
    if (p->webhooks)
        webhooks_close(p->webhooks);
    uv_close((uv_handle_t *)&p->timer, on_closed);
    if (!p->stepping)
        flush(p);
}

/* --- for people --- */

static const struct target *target_named(const struct pulls *p, const char *name)
{
    for (size_t i = 0; i < TARGETS; i++)
        if (p->target[i].name[0] && !p->target[i].gone && strcmp(p->target[i].name, name) == 0)
            return &p->target[i];
    return NULL;
}

json_t *pulls_json(const struct pulls *p, const char *name)
{
    const struct target *t = target_named(p, name);
    if (!t)
        return NULL;
    json_t *row = json_pack("{s:I, s:I, s:I, s:I, s:I, s:s, s:s}", "waiting", (json_int_t)t->figures.waiting,
                            "dropped", (json_int_t)t->figures.dropped, "lost", (json_int_t)t->lost, "untold",
                            (json_int_t)p->config.untold(p->config.arg), "requests", (json_int_t)t->requests,
                            "state", t->failing || t->disk_error ? "failing" : "ok", "error", t->error);
    CHECK(row);
    if (t->disk_error)
        json_object_set_new(row, "error", json_string(strerror(-t->disk_error)));
    return row;
}

void pulls_warn(const struct pulls *p, json_t *list)
{
    for (size_t i = 0; i < TARGETS; i++) {
        const struct target *t = &p->target[i];
        if (!t->name[0] || t->gone)
            continue;
        if (t->disk_error)
            json_array_append_new(list,
                                  json_sprintf("pulls of which the webhook '%s' is to be told are lost: %s",
                                               t->name, strerror(-t->disk_error)));
        else if (t->failing)
            json_array_append_new(list,
                                  json_sprintf("the webhook '%s' takes no pulls of this node: %s; they wait",
                                               t->name, t->error));
    }
}

void pulls_publish(const struct pulls *p, struct control_counters *out)
{
    uint64_t waiting = 0, dropped = 0;
    for (size_t i = 0; i < TARGETS; i++) {
        waiting += p->target[i].figures.waiting;
        dropped += p->target[i].figures.dropped + p->target[i].lost;
    }
    atomic_store_explicit(&out->pulls_waiting, waiting, memory_order_relaxed);
    atomic_store_explicit(&out->pulls_dropped, dropped, memory_order_relaxed);
}
