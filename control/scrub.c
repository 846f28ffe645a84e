/* SPDX-License-Identifier: Apache-2.0 */
#include "control/scrub.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"

#define FILE_NAME     "scrub"
#define FILE_NAME_NEW "scrub.new"

enum {
    SCRUB_MAGIC = 0x31535246, /* "FRS1" */
    SCRUB_VERSION = 1,
    BATCH = 64,
    SAVE_MS = 5000, /* what is verified twice after a kill */
};

/* STATE/scrub. */
struct scrub_file {
    uint32_t magic, version;
    uint64_t begun_ms, ended_ms;
    uint64_t blobs, bytes, damaged, unreadable;
    uint32_t running;
    uint32_t cursor_len; /* 0: at the beginning */
    uint8_t cursor[72];  /* packed: everything up to it is done */
};

struct blob_job {
    struct scrub *scrub; /* NULL: nobody waits for it */
    struct digest digest;
    uint64_t size;
    enum job_result untold; /* JOB_OK: there is nothing to be told */
};

struct scrub {
    struct scrub_config config;
    struct scrub_file file;
    uint64_t now_ms, saved_ms;
    struct blob_job job[BATCH];
    size_t count, asked, waiting; /* of the batch */
};

_Static_assert(sizeof(struct scrub_file) == 136, "on disk");

/* ------------------------------------------------------------------ how far it is */

static void load(struct scrub *s)
{
    struct scrub_file file;
    struct digest d;
    int fd = openat(s->config.state_fd, FILE_NAME, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return;
    ssize_t n = read(fd, &file, sizeof(file));
    close(fd);
    if (n == (ssize_t)sizeof(file) && file.magic == SCRUB_MAGIC && file.version == SCRUB_VERSION &&
        file.running <= 1 && file.cursor_len <= DIGEST_PACKED_MAX &&
        (file.cursor_len == 0 || digest_unpack(file.cursor, file.cursor_len, &d) == file.cursor_len))
        s->file = file;
}

/* A disk that does not take it costs a pass that begins too early. */
static void save(struct scrub *s)
{
    int fd = openat(s->config.state_fd, FILE_NAME_NEW, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW,
                    0640);
    s->saved_ms = s->now_ms;
    if (fd < 0)
        return;
    bool written = write(fd, &s->file, sizeof(s->file)) == (ssize_t)sizeof(s->file);
    close(fd);
    if (written)
        (void)renameat(s->config.state_fd, FILE_NAME_NEW, s->config.state_fd, FILE_NAME);
}

/* ------------------------------------------------------------------ a batch */

static void go_on(struct scrub *s);

static void pass_end(struct scrub *s)
{
    s->file.running = 0;
    s->file.ended_ms = s->now_ms;
    s->file.cursor_len = 0;
    save(s);
    if (s->config.ended)
        s->config.ended(s->config.arg);
}

static void batch_end(struct scrub *s)
{
    s->file.cursor_len = (uint32_t)digest_pack(&s->job[s->count - 1].digest, s->file.cursor);
    s->count = s->asked = 0;
    if (s->now_ms - s->saved_ms >= SAVE_MS)
        save(s);
}

/* False: not now. */
static bool tell(struct scrub *s, struct blob_job *job)
{
    if (job->untold != JOB_OK && s->config.found(s->config.arg, &job->digest, job->size, job->untold))
        job->untold = JOB_OK;
    return job->untold == JOB_OK;
}

static bool tell_all(struct scrub *s)
{
    size_t i = 0;
    while (i < s->count && tell(s, &s->job[i]))
        i++;
    return i == s->count;
}

static void verified(void *arg, enum job_result result, uint64_t detail)
{
    struct blob_job *job = arg;
    struct scrub *s = job->scrub;
    s->waiting--;
    if (result == JOB_OK) {
        s->file.blobs++;
        s->file.bytes += detail;
    } else if (result != JOB_BUSY) { /* one that was too much is for the next pass */
        s->file.damaged += result == JOB_DAMAGED;
        s->file.unreadable += result == JOB_ERROR;
        job->untold = result;
        tell(s, job);
    }
    go_on(s);
}

static void take_row(void *arg, const struct digest *digest, uint64_t size)
{
    struct scrub *s = arg;
    CHECK(s->count < BATCH);
    s->job[s->count++] = (struct blob_job){.scrub = s, .digest = *digest, .size = size};
}

/* Asks for what can be asked for: what is not, is asked for with the next tick or answer. */
static void ask(struct scrub *s)
{
    while (s->asked < s->count) {
        struct blob_job *job = &s->job[s->asked];
        const struct job_order order = {
            .kind = JOB_VERIFY, .digest = job->digest, .arg = job->size, .done = verified, .done_arg = job};
        if (jobs_ask(s->config.jobs, &order))
            return;
        s->asked++;
        s->waiting++;
    }
}

static void go_on(struct scrub *s)
{
    struct digest after;
    if (!s->file.running)
        return;
    ask(s);
    if (s->waiting || s->asked < s->count || !tell_all(s))
        return;
    if (s->count)
        batch_end(s);
    bool begun = s->file.cursor_len && digest_unpack(s->file.cursor, s->file.cursor_len, &after);
    int n = s->config.walk(s->config.arg, begun ? &after : NULL, BATCH, take_row, s);
    if (n == 0)
        pass_end(s);
    else if (n > 0)
        ask(s);
}

/* ------------------------------------------------------------------ passes */

bool scrub_begin(struct scrub *s, uint64_t now_ms)
{
    if (s->file.running)
        return false;
    s->now_ms = now_ms;
    s->file = (struct scrub_file){.magic = SCRUB_MAGIC,
                                  .version = SCRUB_VERSION,
                                  .begun_ms = now_ms,
                                  .ended_ms = s->file.ended_ms,
                                  .running = 1};
    save(s);
    go_on(s);
    return true;
}

/* A clock that was set back counts as one that has not moved. */
void scrub_tick(struct scrub *s, uint64_t now_ms, uint64_t interval_ms)
{
    s->now_ms = now_ms;
    if (s->file.running) {
        go_on(s);
    } else if (s->file.begun_ms ==
               0) { /* a new store: what is pushed to it from now on is good for a while */
        s->file = (struct scrub_file){.magic = SCRUB_MAGIC, .version = SCRUB_VERSION, .begun_ms = now_ms};
        save(s);
    } else if (interval_ms && now_ms > s->file.begun_ms && now_ms - s->file.begun_ms >= interval_ms) {
        (void)scrub_begin(s, now_ms);
    }
}

void scrub_status(const struct scrub *s, struct scrub_status *out)
{
    *out = (struct scrub_status){.running = s->file.running,
                                 .begun_ms = s->file.begun_ms,
                                 .ended_ms = s->file.ended_ms,
                                 .blobs = s->file.blobs,
                                 .bytes = s->file.bytes,
                                 .damaged = s->file.damaged,
                                 .unreadable = s->file.unreadable};
    if (!s->file.running)
        out->done = s->file.ended_ms ? 1 : 0;
    else if (s->file.cursor_len > 2) /* of sha256, which come first; there are hardly any others */
        out->done =
            s->file.cursor[0] == DIGEST_SHA256 ? (s->file.cursor[1] * 256.0 + s->file.cursor[2]) / 65536 : 1;
}

struct scrub *scrub_new(const struct scrub_config *config)
{
    struct scrub *s = calloc(1, sizeof(*s));
    CHECK(s);
    s->config = *config;
    load(s);
    return s;
}

void scrub_free(struct scrub *s)
{
    if (s->file.running)
        save(s);
    free(s);
}
