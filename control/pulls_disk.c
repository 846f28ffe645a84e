/* SPDX-License-Identifier: Apache-2.0 */
#include "control/pulls_disk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"

enum { READ_BYTES = 128 << 10, READ_RECORDS = 64 };

static const char folder_name[] = "notify";

void disk_name(char out[PULL_QUEUE_NAME_MAX], const char *endpoint, uint64_t created_ms)
{
    snprintf(out, PULL_QUEUE_NAME_MAX, "%.63s.%llx", endpoint, (unsigned long long)created_ms);
}

static int folder_open(struct disk_folder *f, bool make)
{
    if (f->fd >= 0)
        return 0;
    if (make && mkdirat(f->state_fd, folder_name, 0700) && errno != EEXIST)
        return -errno;
    f->fd = openat(f->state_fd, folder_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    return f->fd < 0 ? -errno : 0;
}

static uint64_t records_count(const struct disk_buffer *b)
{
    size_t at = 0, len;
    uint64_t count = 0;
    while (pull_record_next(b->data, b->len, &at, &len))
        count++;
    return count;
}

static void add(struct disk *d)
{
    int rc = d->in.len ? pull_queue_append(d->queue, d->in.data, d->in.len, d->bytes_max) : 0;
    if (rc)
        d->lost = records_count(&d->in);
    d->error = rc;
    d->in.len = 0;
}

static void serve(struct disk_folder *folder, struct disk *d)
{
    d->out.len = 0;
    d->lost = 0;
    d->error = d->queue ? 0 : folder_open(folder, true);
    if (d->error == 0 && !d->queue)
        d->error = pull_queue_open(folder->fd, d->name, &d->queue);
    if (d->error) {
        d->lost = records_count(&d->in);
        d->in.len = 0;
        return;
    }
    add(d);
    if (d->advance)
        pull_queue_advance(d->queue, &d->to);
    if (d->read && !d->out.data) {
        d->out = (struct disk_buffer){.data = malloc(READ_BYTES), .cap = READ_BYTES};
        CHECK(d->out.data);
    }
    int64_t got = d->read ? pull_queue_read(d->queue, d->out.data, d->out.cap, READ_RECORDS, &d->after) : 0;
    d->out.len = got > 0 ? (size_t)got : 0;
    d->error = got < 0 ? (int)got : d->error;
    d->figures = pull_queue_figures(d->queue);
}

static void drop(struct disk_folder *folder, struct disk *d)
{
    if (d->queue)
        pull_queue_close(d->queue);
    d->queue = NULL;
    if (folder_open(folder, false) == 0)
        pull_queue_remove(folder->fd, d->name);
}

static bool is_known(struct disk *const *rows, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(rows[i]->name, name) == 0)
            return true;
    return name[0] == '.' && (name[1] == '\0' || strcmp(name, "..") == 0);
}

/* Of endpoints that went while this process did not run. */
static void sweep(struct disk_folder *folder, struct disk *const *rows, size_t count)
{
    int fd =
        folder_open(folder, false) == 0 ? openat(folder->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    folder->swept = true;
    for (const struct dirent *e; dir && (e = readdir(dir));)
        if (!is_known(rows, count, e->d_name))
            pull_queue_remove(folder->fd, e->d_name);
    if (dir)
        closedir(dir);
    else if (fd >= 0)
        close(fd);
}

void disk_step(struct disk_folder *folder, struct disk *const *rows, size_t count)
{
    if (!folder->swept)
        sweep(folder, rows, count);
    for (size_t i = 0; i < count; i++) {
        if (rows[i]->what == DISK_SERVE)
            serve(folder, rows[i]);
        else if (rows[i]->what == DISK_REMOVE)
            drop(folder, rows[i]);
    }
}

void disk_fini(struct disk *d)
{
    if (d->queue)
        pull_queue_close(d->queue);
    free(d->in.data);
    free(d->out.data);
    memset(d, 0, sizeof(*d));
}

void disk_folder_close(struct disk_folder *folder)
{
    if (folder->fd >= 0)
        close(folder->fd);
    folder->fd = -1;
}
