/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The way of a complete file from uploads/ to blobs/: SYNC_FILE -> OPEN_FOLDER -> [HELD] -> RENAME ->
 * SYNC_FOLDER -> CLOSE_FOLDER. The folder is opened before the rename, so that what can fail for want of a
 * descriptor fails before anything is seen. The folder that the file leaves is not synced: a rename is one
 * step on the disk (one transaction of the journal), so whatever keeps the new name has lost the old one; and
 * were it kept, it would name a session that nobody was promised and that expires.
 *
 * A failed sync cannot be repeated: the kernel reports it once, and may have marked the lost pages clean.
 *
 * Below: whole small blobs, which come from memory: OPENING -> WRITING -> publishing -> [UNLINKING]; and the
 * folders of blobs that others may be publishing: FOLDER -> SYNCING.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/random.h>

#include "dataplane/store/store_private.h"

static void step(struct task *t);

void blob_path(const struct digest *d, char path[BLOB_PATH_MAX + 1])
{
    char hex[2 * DIGEST_BYTES_MAX + 1];
    digest_hex(d, hex);
    int len = snprintf(path, BLOB_PATH_MAX + 1, "%s/%.2s/%s", digest_alg_name(d->alg), hex, hex);
    CHECK(len > 0 && len <= BLOB_PATH_MAX);
}

static void order_sync(struct publish *p, int fd, enum publish_state state)
{
    p->state = state;
    loop_fsync(p->task.ring->loop, task_order(&p->task), fd);
}

/* In the rare case that a damaged file is just being moved out of its place, a sync more is waited for. */
static void order_rename(struct publish *p)
{
    struct store *s = p->task.ring->store;
    if (!place_enter(s, &p->digest)) {
        order_sync(p, s->blobs_dirfd, PUBLISH_HELD);
        return;
    }
    p->state = PUBLISH_RENAME;
    loop_renameat(p->task.ring->loop, task_order(&p->task), s->uploads_dirfd, p->name, s->blobs_dirfd,
                  p->path);
}

void publish_start(struct publish *p, struct store_ring *r, int fd, const char *name, const struct digest *d)
{
    task_init(&p->task, r, step);
    p->fd = fd;
    p->folder_fd = -1;
    p->err = 0;
    p->renamed = p->unsynced = false;
    p->name = name;
    p->digest = *d;
    blob_path(d, p->path);
    memcpy(p->folder, p->path, BLOB_FOLDER_MAX);
    p->folder[BLOB_FOLDER_MAX] = '\0';
    if (atomic_load_explicit(&r->store->sync, memory_order_relaxed))
        order_sync(p, fd, PUBLISH_SYNC_FILE);
    else
        order_rename(p);
}

/* Closes the folder if it is open; then done. */
static void wind_up(struct publish *p, int err)
{
    p->err = err ? store_error(p->task.ring, err) : 0;
    if (p->folder_fd < 0) {
        p->done(p, p->err);
        return;
    }
    p->state = PUBLISH_CLOSE_FOLDER;
    loop_close(p->task.ring->loop, task_order(&p->task), p->folder_fd);
}

static void step(struct task *t)
{
    struct publish *p = container_of(t, struct publish, task);
    struct store_ring *r = t->ring;
    if (p->state == PUBLISH_RENAME)
        place_leave(r->store, &p->digest);
    if (t->res < 0 && p->state != PUBLISH_CLOSE_FOLDER && p->state != PUBLISH_HELD) {
        p->unsynced = p->state == PUBLISH_SYNC_FILE || p->state == PUBLISH_SYNC_FOLDER;
        wind_up(p, t->res);
        return;
    }
    switch (p->state) {
    case PUBLISH_SYNC_FILE:
        p->state = PUBLISH_OPEN_FOLDER;
        loop_openat(r->loop, task_order(t), r->store->blobs_dirfd, p->folder,
                    O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0);
        break;
    case PUBLISH_OPEN_FOLDER:
        p->folder_fd = t->res;
        order_rename(p);
        break;
    case PUBLISH_HELD:
        order_rename(p);
        break;
    case PUBLISH_RENAME:
        p->renamed = true;
        store_pardon(r->store, &p->digest);
        if (p->folder_fd >= 0)
            order_sync(p, p->folder_fd, PUBLISH_SYNC_FOLDER);
        else
            wind_up(p, 0);
        break;
    case PUBLISH_SYNC_FOLDER:
        wind_up(p, 0);
        break;
    case PUBLISH_CLOSE_FOLDER:
        p->done(p, p->err);
        break;
    }
}

/* ------------------------------------------------------------------ whole small blobs */

enum write_state {
    WRITE_OPENING,
    WRITE_WRITING,
    WRITE_PUBLISHING,
    WRITE_UNLINKING,
    WRITE_FOLDER,
    WRITE_SYNCING
};

struct write_job {
    struct task task;
    enum write_state state;
    int fd;
    int err;
    const uint8_t *bytes;
    size_t len, done;
    struct waiter *waiter;
    struct digest digest;
    struct publish publish;
    char name[TEMP_NAME_MAX + 1];
};

static void write_step(struct task *t);

int writes_init(struct store_ring *r)
{
    return pool_init(&r->writes, sizeof(struct write_job), WRITE_JOBS);
}

bool temp_name_valid(const char *name)
{
    return strlen(name) == TEMP_NAME_MAX && name[0] == 'w' && name[1] == '.';
}

/* A name of its own for each write, so that two of the same digest do not meet before the rename. */
static int temp_name(char name[TEMP_NAME_MAX + 1])
{
    uint64_t random[2];
    if (getrandom(random, sizeof(random), 0) != sizeof(random))
        return -EIO;
    (void)snprintf(name, TEMP_NAME_MAX + 1, "w.%016llx%016llx", (unsigned long long)random[0],
                   (unsigned long long)random[1]);
    return 0;
}

int blob_write(struct store_ring *r, const struct digest *d, const void *bytes, size_t len, struct waiter *w)
{
    struct write_job *job = pool_take(&r->writes);
    if (!job)
        return -EAGAIN;
    *job = (struct write_job){.fd = -1, .bytes = bytes, .len = len, .waiter = w, .digest = *d};
    task_init(&job->task, r, write_step);
    int err = store_room_take(r, len);
    if (!err && temp_name(job->name))
        err = store_error(r, -EIO);
    if (err) {
        pool_give(&r->writes, job);
        return err;
    }
    job->state = WRITE_OPENING;
    loop_openat(r->loop, task_order(&job->task), r->store->uploads_dirfd, job->name,
                O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0640);
    return 0;
}

static void write_end(struct write_job *job, int err)
{
    struct store_ring *r = job->task.ring;
    struct waiter *w = job->waiter;
    if (job->fd >= 0)
        store_close(r, job->fd);
    pool_give(&r->writes, job);
    w->wake(w, err);
}

/* What is not a blob leaves nothing behind. */
static void write_fail(struct write_job *job, int err)
{
    struct store_ring *r = job->task.ring;
    job->err = err;
    if (job->fd < 0 || job->publish.renamed) {
        write_end(job, err);
        return;
    }
    job->state = WRITE_UNLINKING;
    loop_unlinkat(r->loop, task_order(&job->task), r->store->uploads_dirfd, job->name);
}

static void write_published(struct publish *p, int err)
{
    struct write_job *job = container_of(p, struct write_job, publish);
    if (err)
        write_fail(job, err);
    else
        write_end(job, 0);
}

static void write_on(struct write_job *job)
{
    struct store_ring *r = job->task.ring;
    size_t left = job->len - job->done;
    if (left == 0) {
        job->state = WRITE_PUBLISHING;
        job->publish.done = write_published;
        publish_start(&job->publish, r, job->fd, job->name, &job->digest);
        return;
    }
    job->state = WRITE_WRITING;
    loop_write(r->loop, task_order(&job->task), job->fd, job->bytes + job->done,
               left < IO_BYTES_MAX ? left : IO_BYTES_MAX, job->done);
}

static void write_step(struct task *t)
{
    struct write_job *job = container_of(t, struct write_job, task);
    switch (job->state) {
    case WRITE_OPENING:
    case WRITE_WRITING:
        if (t->res < 0 || (t->res == 0 && job->state == WRITE_WRITING)) {
            write_fail(job, store_error(t->ring, t->res ? t->res : -EIO));
            break;
        }
        if (job->state == WRITE_OPENING)
            job->fd = t->res;
        else
            job->done += (size_t)t->res;
        write_on(job);
        break;
    case WRITE_UNLINKING:
        if (t->res < 0)
            (void)store_error(t->ring, t->res); /* counted; the next start removes it */
        write_end(job, job->err);
        break;
    case WRITE_FOLDER:
        if (t->res < 0) {
            write_end(job, store_error(t->ring, t->res));
            break;
        }
        job->fd = t->res;
        job->state = WRITE_SYNCING;
        loop_fsync(t->ring->loop, task_order(t), job->fd);
        break;
    case WRITE_SYNCING:
        write_end(job, t->res < 0 ? store_error(t->ring, t->res) : 0);
        break;
    case WRITE_PUBLISHING:
        IMPOSSIBLE("a completion for a write that ordered nothing");
    }
}

int blob_settle(struct store_ring *r, const struct digest *d, struct waiter *w)
{
    if (!atomic_load_explicit(&r->store->sync, memory_order_relaxed))
        return 0;
    struct write_job *job = pool_take(&r->writes);
    if (!job)
        return -EAGAIN;
    *job = (struct write_job){.state = WRITE_FOLDER, .fd = -1, .waiter = w};
    task_init(&job->task, r, write_step);
    blob_path(d, job->publish.path);
    memcpy(job->publish.folder, job->publish.path, BLOB_FOLDER_MAX);
    job->publish.folder[BLOB_FOLDER_MAX] = '\0';
    loop_openat(r->loop, task_order(&job->task), r->store->blobs_dirfd, job->publish.folder,
                O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0);
    return -EINPROGRESS;
}
