/* SPDX-License-Identifier: Apache-2.0 */
#include "control/damage.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "control/digest_set.h"

enum { ASKED_MAX = JOBS_MAX / 2 /* the rest is for who else asks: repair goes on meanwhile */ };

struct row {
    struct row *next, **prev;
    struct damage *all;
    struct digest digest;
    uint64_t size;
    bool unreadable, asked;
    bool missing, sure; /* sure: that it is, and it was told */
    bool lost;          /* this node does not count as a holder */
    unsigned tries;
    uint64_t next_ms;
    enum job_result last;
};

struct damage {
    struct damage_config config;
    struct row *first, **last;
    size_t count, asked;
    uint64_t now_ms;
    struct digest_set unreadable, unreadable_before; /* since the last scrub ended; in that one */
};

void damage_blob_path(const struct digest *d, char out[DAMAGE_PATH_BYTES])
{
    char hex[2 * DIGEST_BYTES_MAX + 1];
    digest_hex(d, hex);
    snprintf(out, DAMAGE_PATH_BYTES, "%s/%.2s/%s", digest_alg_name(d->alg), hex, hex);
}

/* In damaged/: the digest's text with a '-'. */
static void damaged_name(const struct digest *d, char out[DIGEST_TEXT_MAX + 1])
{
    digest_format(d, out);
    *strchr(out, ':') = '-';
}

static bool name_digest(const char *name, struct digest *out)
{
    char text[DIGEST_TEXT_MAX + 1];
    size_t len = strlen(name);
    if (len > DIGEST_TEXT_MAX || len < 7 || name[6] != '-')
        return false;
    memcpy(text, name, len + 1);
    text[6] = ':';
    return digest_parse(text, len, out) == 0;
}

static bool blob_is_here(const struct damage *d, const struct digest *digest)
{
    struct stat st;
    char path[DAMAGE_PATH_BYTES];
    damage_blob_path(digest, path);
    return fstatat(d->config.blobs_fd, path, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

static struct row *find(const struct damage *d, const struct digest *digest)
{
    struct row *r = d->first;
    while (r && !digest_equal(&r->digest, digest))
        r = r->next;
    return r;
}

static void row_drop(struct row *r);

/* One that the cluster has been told not to count on. NULL: none. */
static struct row *can_go(const struct damage *d)
{
    struct row *r = d->first;
    while (r && (!r->lost || r->asked))
        r = r->next;
    return r;
}

bool damage_has_room(const struct damage *d)
{
    return d->count < DAMAGE_MAX || can_go(d);
}

static struct row *row_add(struct damage *d, const struct digest *digest, uint64_t size)
{
    struct row *gone = d->count < DAMAGE_MAX ? NULL : can_go(d);
    if (gone)
        row_drop(gone);
    if (d->count >= DAMAGE_MAX)
        return NULL;
    struct row *r = calloc(1, sizeof(*r));
    CHECK(r);
    *r = (struct row){.all = d, .digest = *digest, .size = size, .prev = d->last};
    *d->last = r;
    d->last = &r->next;
    d->count++;
    return r;
}

static void row_drop(struct row *r)
{
    struct damage *d = r->all;
    *r->prev = r->next;
    if (r->next)
        r->next->prev = r->prev;
    else
        d->last = r->prev;
    d->count--;
    free(r);
}

/* One that stays in damaged/ is removed by the next start. */
static void remove_damaged(const struct damage *d, const struct digest *digest)
{
    char name[DIGEST_TEXT_MAX + 1];
    damaged_name(digest, name);
    (void)unlinkat(d->config.damaged_fd, name, 0);
}

/* It was deleted since. */
static void given_up(struct row *r)
{
    remove_damaged(r->all, &r->digest);
    row_drop(r);
}

static void healed(struct row *r, const char *text)
{
    struct damage *d = r->all;
    if (r->lost && !d->config.holds(d->config.arg, &r->digest, true))
        return;
    remove_damaged(d, &r->digest);
    d->config.tell(d->config.arg, "blob.healed", &r->digest, text);
    row_drop(r);
}

/* ------------------------------------------------------------------ from another replica */

static void lose(struct row *r)
{
    struct damage *d = r->all;
    r->lost = r->lost || d->config.holds(d->config.arg, &r->digest, false);
}

static void kept(void *arg, enum job_result result, uint64_t detail)
{
    struct row *r = arg;
    struct damage *d = r->all;
    (void)detail;
    r->asked = false;
    d->asked--;
    r->last = result;
    if (result == JOB_OK) {
        healed(r, "its bytes came from another replica");
        return;
    }
    uint64_t wait_ms = r->tries < 8 ? (uint64_t)DAMAGE_AGAIN_MS << r->tries : DAMAGE_AGAIN_MAX_MS;
    if (r->tries > 0 && result != JOB_BUSY && result != JOB_CANCELLED)
        lose(r); /* the first one may have met a replica that was just away */
    r->tries++;
    r->next_ms = d->now_ms + (wait_ms < DAMAGE_AGAIN_MAX_MS ? wait_ms : DAMAGE_AGAIN_MAX_MS);
}

/* A file that is gone may be open still in the data plane, which would do for one that is kept. */
static void ask(struct row *r)
{
    struct damage *d = r->all;
    if (d->asked >= ASKED_MAX)
        return;
    const struct job_order order = {.kind = JOB_KEEP,
                                    .flags = r->unreadable || r->missing ? JOB_REPLACE : 0,
                                    .digest = r->digest,
                                    .arg = r->size,
                                    .done = kept,
                                    .done_arg = r};
    r->asked = jobs_ask(d->config.jobs, &order) == 0;
    d->asked += r->asked;
}

/* True: it was on its way, or a push has brought it since. */
static bool is_found(struct row *r)
{
    struct damage *d = r->all;
    if (blob_is_here(d, &r->digest)) {
        row_drop(r);
        return true;
    }
    r->sure = true;
    d->config.tell(d->config.arg, "blob.missing", &r->digest,
                   "its file is not in the store, but this node is said to hold it");
    return false;
}

static void row_tick(struct row *r, bool others)
{
    struct damage *d = r->all;
    bool due = d->now_ms >= r->next_ms || r->next_ms > d->now_ms + DAMAGE_AGAIN_MAX_MS;
    if (r->missing && !r->sure && (!due || is_found(r)))
        return;
    if (!r->unreadable && blob_is_here(d, &r->digest))
        healed(r, "its bytes came again");
    else if (due && r->lost && !d->config.is_wanted(d->config.arg, &r->digest))
        given_up(r);
    else if (due && others)
        ask(r);
    else if (due)
        lose(r);
}

void damage_tick(struct damage *d, uint64_t now_ms)
{
    bool others = d->config.has_others(d->config.arg);
    d->now_ms = now_ms;
    for (struct row *r = d->first, *next; r; r = next) {
        next = r->next;
        if (!r->asked)
            row_tick(r, others);
    }
}

void damage_found(struct damage *d, const struct digest *digest, uint64_t size, bool unreadable)
{
    struct row *r = find(d, digest);
    d->config.tell(d->config.arg, unreadable ? "blob.unreadable" : "blob.damaged", digest,
                   unreadable ? "the disk gives errors where its bytes are"
                              : "it has other bytes than its digest says, and is in store/damaged");
    if (unreadable)
        digest_set_add(&d->unreadable, digest);
    if (!r)
        r = row_add(d, digest, size);
    if (r) {
        r->unreadable = unreadable;
        r->missing = false;
    }
}

void damage_missing(struct damage *d, const struct digest *digest, uint64_t size)
{
    struct row *r = find(d, digest) ? NULL : row_add(d, digest, size);
    if (!r)
        return;
    r->missing = true;
    r->next_ms = d->now_ms + DAMAGE_AGAIN_MS;
}

bool damage_is_unreadable(const struct damage *d, const struct digest *digest)
{
    return digest_set_has(&d->unreadable, digest) || digest_set_has(&d->unreadable_before, digest);
}

void damage_scrub_ended(struct damage *d)
{
    digest_set_fini(&d->unreadable_before);
    d->unreadable_before = d->unreadable;
    d->unreadable = (struct digest_set){.slot = NULL};
}

/* ------------------------------------------------------------------ coming and going */

static void load_one(struct damage *d, const char *name)
{
    struct digest digest;
    if (!name_digest(name, &digest))
        return;
    if (blob_is_here(d, &digest))
        (void)unlinkat(d->config.damaged_fd, name, 0);
    else
        (void)row_add(d, &digest, UINT64_MAX);
}

static void load(struct damage *d)
{
    int fd = openat(d->config.damaged_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    const struct dirent *e;
    if (!dir) {
        if (fd >= 0)
            close(fd);
        return;
    }
    while ((e = readdir(dir)) != NULL)
        load_one(d, e->d_name);
    closedir(dir);
}

struct damage *damage_new(const struct damage_config *config)
{
    struct damage *d = calloc(1, sizeof(*d));
    CHECK(d);
    d->config = *config;
    d->last = &d->first;
    load(d);
    return d;
}

void damage_free(struct damage *d)
{
    for (struct row *r = d->first, *next; r; r = next) {
        next = r->next;
        free(r);
    }
    digest_set_fini(&d->unreadable);
    digest_set_fini(&d->unreadable_before);
    free(d);
}

size_t damage_count(const struct damage *d)
{
    return d->count;
}

void damage_each(const struct damage *d, size_t limit, damage_row row, void *row_arg)
{
    for (const struct row *r = d->first; r && limit; r = r->next, limit--)
        row(row_arg, &r->digest, r->unreadable,
            r->asked   ? "is being healed"
            : r->tries ? job_result_name(r->last)
                       : "waits");
}
