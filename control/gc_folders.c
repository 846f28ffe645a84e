/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files that no row names, and copies that need not be here. One folder of the store is listed at a time, by
 * a thread of libuv's, and its files are compared with the rows. What was published a short time ago may be
 * about to get its row: the data plane looks at the file's age, and whether it is being pushed.
 *
 * Where the state was lost and begun anew, or a disk was put in from another host, all files are such files.
 * So a store has a file that says whose it is, and is left alone by every other cluster.
 */
#include "control/gc_private.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "control/folders.h"
#include "control/journal.h"
#include "control/pool.h"
#include "control/settings.h"

static void folders_arm(struct gc *gc, uint64_t ms);

/* ------------------------------------------------------------------ whose they are */

static void owner_text(const struct gc *gc, char text[33])
{
    struct cluster_status status;
    cluster_status(gc->config.cluster, &status);
    for (unsigned i = 0; i < 16; i++)
        snprintf(text + (size_t)(2 * i), 3, "%02x", status.cluster_id[i]);
}

/* It is there whole or not at all; if it cannot be written, the next pass tries again. */
static void owner_write(int at, const char *text)
{
    static const char fresh[] = STORE_OWNER ".new";
    int fd = openat(at, fresh, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0640);
    if (fd < 0)
        return;
    bool written = write(fd, text, 32) == 32 && fsync(fd) == 0;
    close(fd);
    if (!written || renameat(at, fresh, at, STORE_OWNER))
        (void)unlinkat(at, fresh, 0);
    else
        (void)fsync(at);
}

static bool has_blobs(const struct gc *gc)
{
    struct kv_bytes key, value, first = {"", 1};
    struct kv *kv;
    struct db_view *view = cluster_view_begin(gc->config.cluster, &kv);
    bool has = view && kv_seek(kv, NAMES_BLOBS, first, false, &key, &value) == 0;
    if (view)
        cluster_view_end(view);
    return has;
}

/* Whether the store is this cluster's. Without the file it is, if the names know of a blob at all. On a
 * thread. */
static void owner_look(struct gc_folders *f, int blobs_fd)
{
    char theirs[33] = "";
    int fd = openat(blobs_fd, STORE_OWNER, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    bool missing = fd < 0 && errno == ENOENT;
    ssize_t n = fd < 0 ? 0 : read(fd, theirs, 32);
    if (fd >= 0)
        close(fd);
    f->foreign = !missing && (n != 32 || memcmp(f->owner, theirs, 32) != 0);
    f->ours = missing ? f->has_blobs : !f->foreign;
    if (missing && f->ours)
        owner_write(blobs_fd, f->owner);
}

/* ------------------------------------------------------------------ a folder */

static void files_add(struct gc_folders *f, uint8_t alg, const char *name)
{
    char text[DIGEST_TEXT_MAX + 1];
    struct digest d;
    int len = snprintf(text, sizeof(text), "%s:%s", digest_alg_name(alg), name);
    if (len <= 0 || (size_t)len >= sizeof(text) || digest_parse(text, (size_t)len, &d))
        return; /* none of ours */
    if (f->count == f->cap) {
        size_t cap = f->cap ? 2 * f->cap : 256;
        struct digest *file = realloc(f->file, cap * sizeof(*file));
        if (!file)
            return; /* the next pass */
        f->file = file;
        f->cap = cap;
    }
    f->file[f->count++] = d;
}

static void list_folder(const struct gc *gc, struct gc_folders *f)
{
    uint8_t alg = f->folder < GC_FOLDERS / 2 ? DIGEST_SHA256 : DIGEST_SHA512;
    char path[32];
    snprintf(path, sizeof(path), "%s/%02x", digest_alg_name(alg), f->folder % 256);
    int fd = openat(gc->config.blobs_fd, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir) {
        if (fd >= 0)
            close(fd);
        return;
    }
    const struct dirent *e;
    while ((e = readdir(dir)))
        files_add(f, alg, e->d_name);
    closedir(dir);
}

/* On a thread. */
static void list(uv_work_t *work)
{
    struct gc *gc = work->data;
    struct gc_folders *f = &gc->folders;
    if (f->folder == 0) {
        owner_look(f, gc->config.blobs_fd);
        if (f->ours && gc->config.tidy)
            f->put_back = gc->config.tidy(gc->config.arg);
    }
    if (f->ours)
        list_folder(gc, f);
}

/* Whose the store is is known by now. */
static void first_listed(struct gc *gc)
{
    struct gc_folders *f = &gc->folders;
    gc->status.foreign = f->foreign;
    if (!f->ours)
        f->folder = GC_FOLDERS;
    if (f->put_back)
        journal_info(gc->config.journal, "store",
                     "%zu blobs whose removal was cut off are back in their places", f->put_back);
}

static void on_listed(uv_work_t *work, int status)
{
    struct gc *gc = work->data;
    gc->folders.listing = false;
    if (status) /* nothing was listed, nor looked at */
        gc->folders.folder = GC_FOLDERS;
    else if (gc->folders.folder == 0)
        first_listed(gc);
    folders_arm(gc, 0);
}

static void list_begin(struct gc *gc)
{
    struct gc_folders *f = &gc->folders;
    f->count = f->at = 0;
    f->listing = pool_queue(gc->config.loop, &f->work, "a list of the store's files", list, on_listed) == 0;
    if (!f->listing)
        folders_arm(gc, GC_RETRY_MS);
}

void gc_folders_answer(struct gc *gc, const struct gc_removal *removal, enum gc_result result, uint64_t bytes)
{
    struct gc_sum *sum = removal->spare ? &gc->status.spares : &gc->status.strays;
    gc->folders.removing--;
    gc->status.errors += result == GC_FAILED;
    if (bytes) {
        sum->count++;
        sum->bytes += bytes;
    }
    if (!uv_is_active((uv_handle_t *)&gc->folders.timer))
        folders_arm(gc, GC_TICK_MS);
}

/* How old a file has to be of which the rows say so. */
static uint64_t age_of(const struct gc *gc, bool spare)
{
    uint64_t age_ms = gc_setting(gc, spare ? SET_GC_SPARE : SET_GC_GRACE), least_ms = gc_file_age(gc);
    return age_ms < least_ms ? least_ms : age_ms;
}

/* Compares a file with the rows, and has it removed if it is to go. */
static void compare_one(struct gc *gc, struct kv *kv, const struct digest *d)
{
    uint8_t key[DIGEST_PACKED_MAX];
    struct kv_bytes value;
    struct names_blob blob;
    int rc = kv_get(kv, NAMES_BLOBS, (struct kv_bytes){key, digest_pack(d, key)}, &value);
    bool spare = rc == 0 && gc_setting(gc, SET_GC_SPARE) && names_blob_read(value.data, value.len, &blob) &&
                 gc->config.is_spare(gc->config.arg, d, &blob);
    if (rc == -ENOENT || spare)
        gc->folders.removing += gc_remove(gc, d, age_of(gc, spare), 0, spare) == 0;
}

/* Compares the next files with the rows. Returns for how long nothing is compared then. */
static uint64_t compare(struct gc *gc)
{
    struct gc_folders *f = &gc->folders;
    struct kv *kv;
    uint64_t began_ns = uv_hrtime();
    struct db_view *view = cluster_view_begin(gc->config.cluster, &kv);
    if (!view)
        return GC_RETRY_MS;
    unsigned most = f->removing + gc_files_a_tick(gc), rows = gc_pace_rows(&f->pace, GC_FOLDER_ROWS);
    if (most > gc->removing_max)
        most = gc->removing_max;
    for (unsigned i = 0; i < rows && f->at < f->count && f->removing < most; i++)
        compare_one(gc, kv, &f->file[f->at++]);
    cluster_view_end(view);
    return gc_pace_step(&f->pace, GC_FOLDER_ROWS, (uv_hrtime() - began_ns) / 1000);
}

static void on_timer(uv_timer_t *timer)
{
    struct gc *gc = timer->data;
    struct gc_folders *f = &gc->folders;
    if (gc->closing || f->listing)
        return;
    if (f->folder == GC_FOLDERS) {
        if (!f->wanted)
            return;
        f->wanted = false;
        if (!gc_cleans(gc))
            return;
        owner_text(gc, f->owner);
        f->has_blobs = has_blobs(gc);
        f->ours = false;
        f->put_back = 0;
        f->folder = 0;
    } else if (f->at < f->count) {
        uint64_t rest_ms = compare(gc);
        if ((f->at == f->count && !f->removing) || f->removing < gc->removing_max)
            folders_arm(gc, rest_ms);
        return;
    } else if (f->removing || ++f->folder == GC_FOLDERS) {
        if (!f->removing && f->wanted)
            folders_arm(gc, 0);
        return;
    }
    list_begin(gc);
}

static void folders_arm(struct gc *gc, uint64_t ms)
{
    if (!gc->closing)
        uv_timer_start(&gc->folders.timer, on_timer, ms, 0);
}

void gc_folders_open(struct gc *gc)
{
    CHECK(uv_timer_init(gc->config.loop, &gc->folders.timer) == 0);
    gc->folders.timer.data = gc->folders.work.data = gc;
    gc->folders.folder = GC_FOLDERS;
}

void gc_folders_want(struct gc *gc, uint64_t after_ms)
{
    gc->folders.wanted = true;
    if (gc->folders.folder == GC_FOLDERS)
        folders_arm(gc, after_ms);
}

bool gc_folders_busy(const struct gc *gc)
{
    return gc->folders.wanted || gc->folders.folder < GC_FOLDERS;
}

void gc_folders_free(struct gc *gc)
{
    free(gc->folders.file);
}
