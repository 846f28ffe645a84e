/* SPDX-License-Identifier: Apache-2.0 */
#include "control/daemon_feed.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "check.h"
#include "control/daemon_kernel.h"
#include "control/daemon_peers.h"
#include "control/kernel_feed.h"
#include "control/nodes.h"
#include "control/services.h"
#include "control/verdict_frame.h"

enum { CHANGED_STEP = 256, NS_PER_MS = 1000000 };

struct daemon_feed {
    struct daemon *d;
    uv_timer_t beat;  /* each DAEMON_FEED_MS */
    uv_timer_t flush; /* changes are told behind all that the kernel has to tell in one go */
    unsigned open;    /* handles */
    /* A manager: */
    struct verdict_row *changed;
    size_t changed_count, changed_cap;
    uint64_t lost; /* changes that could not be told, as seen last */
    size_t told;   /* workers that have everything */
    /* A worker: */
    struct verdict_table table;
    uint64_t heard_ms; /* of the loop's clock; 0: nothing yet */
    bool used;         /* what is told counts instead of this node's own probes */
};

static bool view_of(const struct daemon *d, struct kernel_view *view)
{
    *view = (struct kernel_view){.phase = KERNEL_OFF};
    if (d->kernel_half)
        kernel_view(d->kernel_half->kernel, view);
    return view->phase == KERNEL_ON;
}

bool daemon_feed_wanted(struct daemon *d)
{
    enum setting_source source;
    if (!d->nodes || !setting_effective(&d->settings, SET_KERNEL_FEED, &source) ||
        !setting_effective(&d->settings, SET_KERNEL_PROBE, &source))
        return false;
    const struct node *self = daemon_node(d);
    return self && self->role == NODE_WORKER && !self->replica;
}

bool daemon_feed_counts(const struct daemon *d)
{
    const struct daemon_feed *f = d->kernel_half ? d->kernel_half->feed : NULL;
    return f && f->table.whole && uv_now((uv_loop_t *)&d->loop) - f->heard_ms < ABI_FEED_LIFE_MS;
}

/* ------------------------------------------------------------------ a manager */

/* A suspect is up here as long as nothing else is found. */
static uint8_t told_state(uint32_t state)
{
    return state == ABI_SUSPECT ? ABI_UP : (uint8_t)state;
}

static void add_row(struct daemon_feed *f, const struct verdict_row *row)
{
    if (f->changed_count == f->changed_cap) {
        f->changed_cap += CHANGED_STEP;
        f->changed = reallocarray(f->changed, f->changed_cap, sizeof(*f->changed));
        CHECK(f->changed);
    }
    f->changed[f->changed_count++] = *row;
}

/* All that this node probes; *out is to be freed. */
static size_t all_rows(const struct kernel_view *view, struct verdict_row **out)
{
    const struct kernel_entries *e = view->entries;
    size_t count = 0;
    *out = calloc(e->backend_count + 1, sizeof(**out));
    CHECK(*out);
    for (uint32_t id = 0; id < e->backend_count; id++) {
        const struct abi_backend *b = &e->backend[id];
        uint32_t state = ABI_VERDICT_STATE_OF(kernel_maps_verdict(view->maps, id), b->generation, b->peer);
        if (b->admin != ABI_ADMIN_NONE && state != ABI_UNKNOWN)
            (*out)[count++] =
                (struct verdict_row){.id = id, .generation = b->generation, .state = told_state(state)};
    }
    return count;
}

/* A clock that stands still freezes verdicts, and its node says nothing of others' either. */
static bool clock_runs(const struct kernel_view *view)
{
    struct abi_tick_state t;
    struct abi_node n;
    struct timespec now;
    if (!view->clock || kernel_maps_tick(view->maps, &t) || kernel_maps_node(view->maps, &n))
        return false;
    clock_gettime(CLOCK_MONOTONIC, &now);
    uint64_t now_ns = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
    return t.last_ns && now_ns < t.last_ns + n.stale_ns;
}

static void tell(struct daemon_feed *f)
{
    struct daemon *d = f->d;
    struct kernel_view view;
    enum setting_source source;
    struct verdict_row *all;
    f->told = 0;
    if (!cluster_feed_wanted(d->cluster) || !view_of(d, &view) || !view.entries || !clock_runs(&view) ||
        !setting_effective(&d->settings, SET_KERNEL_PROBE, &source)) {
        cluster_feed_anew(d->cluster);
        f->changed_count = 0;
        return;
    }
    if (view.changes_lost != f->lost)
        cluster_feed_anew(d->cluster);
    f->lost = view.changes_lost;
    struct cluster_verdicts v = {.changed = f->changed, .changed_count = f->changed_count};
    v.all_count = all_rows(&view, &all);
    v.all = all;
    f->told = cluster_feed(d->cluster, &v);
    free(all);
    f->changed_count = 0;
}

static void on_flush(uv_timer_t *timer)
{
    tell(timer->data);
}

void daemon_feed_changed(struct daemon *d, const struct abi_change *change)
{
    struct daemon_feed *f = d->kernel_half->feed;
    uint32_t state = ABI_VERDICT_STATE(change->after);
    if (!cluster_feed_wanted(d->cluster) || state == ABI_SUSPECT)
        return;
    add_row(f, &(struct verdict_row){.id = change->backend,
                                     .generation = (uint16_t)ABI_VERDICT_GENERATION(change->after),
                                     .state = (uint8_t)state});
    if (!uv_is_active((uv_handle_t *)&f->flush))
        uv_timer_start(&f->flush, on_flush, 0, 0);
}

void daemon_feed_maps(struct daemon *d)
{
    struct daemon_feed *f = d->kernel_half ? d->kernel_half->feed : NULL;
    if (!f)
        return;
    cluster_feed_anew(d->cluster);
    for (uint32_t id = 0; id < f->table.count; id++)
        f->table.row[id].fresh = f->table.row[id].state != ABI_UNKNOWN;
}

/* ------------------------------------------------------------------ a worker */

/* Whether the kernel is to be told: it was not, or does not go by it: the backend was not there yet. */
static bool is_due(const struct kernel_maps *maps, const struct verdict_table *t, uint32_t id)
{
    uint64_t verdict = kernel_maps_verdict(maps, id);
    uint32_t state = ABI_VERDICT_GENERATION(verdict) == t->row[id].generation ? ABI_VERDICT_STATE(verdict)
                                                                              : (uint32_t)ABI_UNKNOWN;
    if (t->row[id].fresh)
        return true;
    return t->row[id].state == ABI_UP
               ? state == ABI_UNKNOWN
               : t->row[id].state == ABI_DOWN && (state == ABI_UP || state == ABI_UNKNOWN);
}

static void hand_over(struct daemon_feed *f)
{
    struct kernel_view view;
    uint64_t word[ABI_FEED_WORDS];
    size_t count = 0;
    if (!view_of(f->d, &view))
        return;
    for (uint32_t id = 0; id < f->table.count; id++) {
        if (!is_due(view.maps, &f->table, id))
            continue;
        if (count == ABI_FEED_WORDS) {
            (void)kernel_feed_run(view.load, word, count);
            count = 0;
        }
        word[count++] = ABI_FEED_WORD(id, f->table.row[id].generation, f->table.row[id].state);
        f->table.row[id].fresh = false;
    }
    if (count == 0) /* a word about nobody: the manager is heard */
        word[count++] = ABI_FEED_WORD(ABI_NO_BACKEND, 0, ABI_UNKNOWN);
    int result = kernel_feed_run(view.load, word, count);
    if (result)
        daemon_feed_maps(f->d);
}

/* Handshakes are checked by whoever probes. */
static void use(struct daemon_feed *f, bool used)
{
    if (f->used != used)
        f->d->kernel_half->tls_stale = true;
    f->used = used;
}

void daemon_feed_told(struct daemon *d, const struct verdict_frame *frame)
{
    struct daemon_feed *f = d->kernel_half ? d->kernel_half->feed : NULL;
    struct kernel_view view;
    if (!f)
        return;
    if (!frame) {
        f->table.open = f->table.whole = false; /* what comes next begins anew */
        return;
    }
    bool counted = daemon_feed_counts(d);
    uint32_t ids_max = view_of(d, &view) ? kernel_maps_backends_max(view.maps) : ABI_BACKENDS_MAX;
    if (!verdict_table_take(&f->table, frame, ids_max))
        return;
    f->heard_ms = uv_now(&d->loop);
    /* All of it is told once: it is kept where this node's role, or the setting, does not ask for it yet. */
    use(f, daemon_feed_wanted(d));
    if (!f->used)
        return;
    if (!counted) /* no beat came between, and whom to check may have been decided without it */
        d->kernel_half->tls_stale = true;
    hand_over(f);
}

/* ------------------------------------------------------------------ both */

static void on_beat(uv_timer_t *timer)
{
    struct daemon_feed *f = timer->data;
    if (cluster_feed_wanted(f->d->cluster))
        tell(f);
    if (f->heard_ms && !daemon_feed_counts(f->d)) {
        f->heard_ms = 0;
        use(f, false);
    }
}

struct daemon_feed *daemon_feed_open(struct daemon *d)
{
    struct daemon_feed *f = calloc(1, sizeof(*f));
    CHECK(f);
    f->d = d;
    f->open = 2;
    CHECK(uv_timer_init(&d->loop, &f->beat) == 0);
    CHECK(uv_timer_init(&d->loop, &f->flush) == 0);
    f->beat.data = f->flush.data = f;
    uv_timer_start(&f->beat, on_beat, DAEMON_FEED_MS, DAEMON_FEED_MS);
    return f;
}

static void on_closed(uv_handle_t *handle)
{
    struct daemon_feed *f = handle->data;
    if (--f->open)
        return;
    verdict_table_fini(&f->table);
    free(f->changed);
    free(f);
}

void daemon_feed_close(struct daemon_feed *feed)
{
    uv_close((uv_handle_t *)&feed->beat, on_closed);
    uv_close((uv_handle_t *)&feed->flush, on_closed);
}

json_t *daemon_feed_json(const struct daemon *d)
{
    const struct daemon_feed *f = d->kernel_half->feed;
    bool wanted = daemon_feed_wanted((struct daemon *)d);
    json_t *age =
        f->heard_ms ? json_integer((json_int_t)(uv_now((uv_loop_t *)&d->loop) - f->heard_ms)) : json_null();
    return json_pack("{s:b, s:b, s:o, s:I, s:I}", "wanted", wanted, "counts", wanted && daemon_feed_counts(d),
                     "age_ms", age, "known", (json_int_t)f->table.count, "told", (json_int_t)f->told);
}
