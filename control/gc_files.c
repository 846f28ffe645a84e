/* SPDX-License-Identifier: Apache-2.0 */
/* Files of marked blobs: the marks are walked in the order of their keys, again whenever one has come. */
#include "control/gc_private.h"

#include <stdlib.h>

#include "check.h"
#include "control/settings.h"

static void files_arm(struct gc *gc, uint64_t ms);

/* It is asked for again in the next pass. */
static void file_left(struct gc_files *f, uint64_t mark)
{
    f->again = true;
    if (!f->left_index || mark < f->left_index)
        f->left_index = mark;
}

void gc_files_answer(struct gc *gc, const struct gc_removal *removal, enum gc_result result, uint64_t bytes)
{
    gc->files.removing--;
    if (result != GC_REMOVED)
        file_left(&gc->files, removal->mark);
    gc->files.progress |= result == GC_REMOVED;
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
        file_left(&gc->files, mark);
    else
        gc->files.removing++;
}

/* Asks for the next files. False: there are no more marks. */
static bool files_walk(struct gc *gc, struct kv *kv)
{
    struct gc_files *f = &gc->files;
    unsigned most = f->removing + gc_files_a_tick(gc);
    for (unsigned rows = 0; rows < 256 && f->removing < GC_REMOVING_MAX && f->removing < most; rows++) {
        struct kv_bytes key, value;
        struct names_mark mark;
        struct digest d;
        int rc = kv_seek(kv, NAMES_MARKS, (struct kv_bytes){f->key, f->key_len}, true, &key, &value);
        if (rc || key.len > sizeof(f->key) || ((const uint8_t *)key.data)[0] != 0)
            return false;
        memcpy(f->key, key.data, key.len);
        f->key_len = key.len;
        if (value.len != sizeof(mark) || digest_unpack(f->key + 1, f->key_len - 1, &d) != f->key_len - 1)
            continue;
        memcpy(&mark, value.data, sizeof(mark));
        if (mark.step == NAMES_MARK_DELETING && mark.index > f->done_index)
            file_remove(gc, &d, mark.index);
    }
    return true;
}

static void pass_begin(struct gc_files *f, struct kv *kv)
{
    f->wanted = f->again = f->progress = false;
    f->errors = f->left_index = 0;
    f->walking = true;
    f->key[0] = 0;
    f->key_len = 1;
    f->pass_index = gc_applied(kv);
}

/* A disk that takes no writes, say, is not asked again and again for all of it. */
static void pass_end(struct gc *gc)
{
    struct gc_files *f = &gc->files;
    f->walking = false;
    f->done_index = f->again && f->left_index <= f->pass_index ? f->left_index - 1 : f->pass_index;
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
    if (!f->walking)
        pass_begin(f, kv);
    bool more = files_walk(gc, kv);
    cluster_view_end(view);
    if (more || f->removing) { /* whoever is answered goes on */
        if (more && f->removing < GC_REMOVING_MAX)
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
    gc_files_want(gc);
}

void gc_files_restart(struct gc *gc)
{
    struct gc_files *f = &gc->files;
    f->done_index = f->pass_index = 0;
    f->key[0] = 0;
    f->key_len = 1;
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
