/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files of marked blobs: the marks are walked in the order of their keys, again whenever one has come, and
 * each is asked for once. What stays (it is young, in use, or the disk refuses) is remembered and asked for
 * again by itself, so that it costs nothing but itself.
 */
#include "control/gc_private.h"

#include <stdlib.h>

#include "check.h"
#include "control/settings.h"

static void files_arm(struct gc *gc, uint64_t ms);

/* ------------------------------------------------------------------ what was left */

static bool lefts_add(struct gc_lefts *l, const struct digest *d, uint64_t mark)
{
    if (l->count == l->cap) {
        size_t cap = l->cap ? 2 * l->cap : 64;
        struct gc_left *item = realloc(l->item, cap * sizeof(*item));
        if (!item)
            return false;
        l->item = item;
        l->cap = cap;
    }
    l->item[l->count++] = (struct gc_left){.index = mark, .digest = *d};
    return true;
}

/* It is asked for again in the next pass. */
static void file_left(struct gc_files *f, const struct digest *d, uint64_t mark)
{
    f->again = true;
    if (f->left.count + f->ask.count < f->left_max && lefts_add(&f->left, d, mark))
        return;
    if (!f->lost_index || mark < f->lost_index)
        f->lost_index = mark;
}

/* Up to where nothing was left. */
static uint64_t done_until(const struct gc_files *f)
{
    uint64_t done = f->seen_index;
    for (size_t i = 0; i < f->left.count; i++)
        if (f->left.item[i].index <= done)
            done = f->left.item[i].index - 1;
    return f->lost_index && f->lost_index <= done ? f->lost_index - 1 : done;
}

/* ------------------------------------------------------------------ asking */

void gc_files_answer(struct gc *gc, const struct gc_removal *removal, enum gc_result result, uint64_t bytes)
{
    gc->files.removing--;
    if (result != GC_REMOVED)
        file_left(&gc->files, &removal->digest, removal->mark);
    gc->files.progress |= result == GC_REMOVED;
    gc->files.gone += result == GC_REMOVED;
    gc->files.errors += result == GC_FAILED;
    gc->status.errors += result == GC_FAILED;
    gc->status.retries += result == GC_NOT_NOW;
    if (bytes) {
        gc->status.removed.count++;
        gc->status.removed.bytes += bytes;
    }
    if (!uv_is_active((uv_handle_t *)&gc->files.timer))
        files_arm(gc, GC_TICK_MS);
}

uint64_t gc_file_age(const struct gc *gc)
{
    uint64_t age_ms = gc_setting(gc, SET_GC_GRACE);
    if (age_ms > GC_FILE_AGE_MS)
        return GC_FILE_AGE_MS;
    return age_ms < GC_FILE_AGE_MIN_MS ? GC_FILE_AGE_MIN_MS : age_ms;
}

static void file_remove(struct gc *gc, const struct digest *d, uint64_t mark)
{
    if (gc_remove(gc, d, gc_file_age(gc), mark, false))
        file_left(&gc->files, d, mark);
    else
        gc->files.removing++;
}

/* Whether the blob is still marked, and by this mark. */
static bool is_marked(struct kv *kv, const struct gc_left *l)
{
    uint8_t key[NAMES_KEY_MAX];
    struct kv_bytes value;
    struct names_mark mark;
    int rc = kv_get(kv, NAMES_MARKS, (struct kv_bytes){key, names_key_mark_blob(key, &l->digest)}, &value);
    if (rc || value.len != sizeof(mark))
        return false;
    memcpy(&mark, value.data, sizeof(mark));
    return mark.step == NAMES_MARK_DELETING && mark.index == l->index;
}

/* The next mark in the order of the keys. False: there are no more. */
static bool mark_next(struct gc *gc, struct kv *kv)
{
    struct gc_files *f = &gc->files;
    struct kv_bytes key, value;
    struct names_mark mark;
    struct digest d;
    int rc = kv_seek(kv, NAMES_MARKS, (struct kv_bytes){f->key, f->key_len}, true, &key, &value);
    if (rc || key.len > sizeof(f->key) || ((const uint8_t *)key.data)[0] != 0)
        return false;
    memcpy(f->key, key.data, key.len);
    f->key_len = key.len;
    if (value.len != sizeof(mark) || digest_unpack(f->key + 1, f->key_len - 1, &d) != f->key_len - 1)
        return true;
    memcpy(&mark, value.data, sizeof(mark));
    /* What was marked since the pass began is the next one's: this one may be behind it already. */
    if (mark.step == NAMES_MARK_DELETING && mark.index > f->seen_index && mark.index <= f->pass_index)
        file_remove(gc, &d, mark.index);
    return true;
}

/* Asks for the next files: those that were left, then those of new marks. False: there are no more. */
static bool files_ask(struct gc *gc, struct kv *kv)
{
    struct gc_files *f = &gc->files;
    unsigned most = f->removing + gc_files_a_tick(gc);
    for (unsigned rows = 0; rows < 256 && f->removing < gc->removing_max && f->removing < most; rows++) {
        if (f->ask.count) {
            struct gc_left l = f->ask.item[--f->ask.count];
            if (is_marked(kv, &l))
                file_remove(gc, &l.digest, l.index);
        } else if (!f->pass_index || !mark_next(gc, kv)) {
            return false;
        }
    }
    return true;
}

/* What was left beyond what can be remembered is found by its marks, and so is the rest, then. */
static void pass_begin(struct gc_files *f, struct kv *kv)
{
    struct gc_lefts none = f->ask;
    if (f->lost_index) {
        f->seen_index = f->done_index;
        f->left.count = 0;
    }
    f->pass_index = f->wanted || f->lost_index ? gc_applied(kv) : 0;
    f->ask = f->left;
    f->left = none;
    f->wanted = f->again = f->progress = false;
    f->errors = f->lost_index = 0;
    f->walking = true;
    f->key[0] = 0;
    f->key_len = 1;
}

/* Another node removes them: here all is done. */
static void others_affair(struct gc_files *f, struct kv *kv)
{
    f->walking = f->wanted = f->again = false;
    f->left.count = f->ask.count = 0;
    f->lost_index = 0;
    f->seen_index = f->done_index = f->pass_index = gc_applied(kv);
}

/* A disk that takes no writes, say, is not asked again and again for all of it. */
static void pass_end(struct gc *gc)
{
    struct gc_files *f = &gc->files;
    f->walking = false;
    if (f->pass_index)
        f->seen_index = f->pass_index;
    f->done_index = done_until(f);
    if (!f->again) {
        f->delay_ms = 0;
        if (f->wanted)
            files_arm(gc, 0);
        return;
    }
    f->delay_ms = f->progress || f->wanted || !f->delay_ms ? GC_RETRY_MS : 2 * f->delay_ms;
    if (f->delay_ms > GC_RETRY_MAX_MS)
        f->delay_ms = GC_RETRY_MAX_MS;
    if (f->errors)
        journal_warn(gc->config.journal, "gc", "the store's disk did not remove %llu files; again in %llu s",
                     (unsigned long long)f->errors, (unsigned long long)f->delay_ms / 1000);
    files_arm(gc, f->delay_ms);
}

static void on_timer(uv_timer_t *timer)
{
    struct gc *gc = timer->data;
    struct gc_files *f = &gc->files;
    struct kv *kv;
    if (gc->closing || (!f->walking && !f->wanted && !f->again))
        return;
    struct db_view *view = cluster_view_begin(gc->config.cluster, &kv);
    if (!view) {
        files_arm(gc, GC_RETRY_MS);
        return;
    }
    if (!gc_cleans(gc)) {
        others_affair(f, kv);
        cluster_view_end(view);
        return;
    }
    if (!f->walking)
        pass_begin(f, kv);
    bool more = files_ask(gc, kv);
    cluster_view_end(view);
    if (more || f->removing) { /* whoever is answered goes on */
        if (more && f->removing < gc->removing_max)
            files_arm(gc, GC_TICK_MS);
        return;
    }
    pass_end(gc);
}

static void files_arm(struct gc *gc, uint64_t ms)
{
    if (!gc->closing)
        uv_timer_start(&gc->files.timer, on_timer, ms, 0);
}

void gc_files_open(struct gc *gc)
{
    CHECK(uv_timer_init(gc->config.loop, &gc->files.timer) == 0);
    gc->files.timer.data = gc;
    gc->files.left_max = GC_LEFT_MAX;
    gc_files_want(gc);
}

void gc_files_free(struct gc *gc)
{
    free(gc->files.left.item);
    free(gc->files.ask.item);
}

/* A pass that is under way comes to nothing. */
void gc_files_restart(struct gc *gc)
{
    struct gc_files *f = &gc->files;
    f->seen_index = f->pass_index = f->done_index = 0;
    f->left.count = f->ask.count = 0;
    f->lost_index = 0;
    gc_files_want(gc);
}

void gc_files_want(struct gc *gc)
{
    struct gc_files *f = &gc->files;
    bool first = !f->wanted;
    f->wanted = true;
    if (first && !f->walking)
        files_arm(gc, f->again ? GC_RETRY_MS : 0);
}
