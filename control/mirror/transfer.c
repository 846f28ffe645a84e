/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One blob: looked for, mounted from another repository of the destination, or passed on (pass.h) into an
 * upload of its own. An upload that broke off is dropped; the next attempt begins another one.
 */
#include <errno.h>
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/mirror/copy.h"
#include "control/mirror/pass.h"

enum {
    TRIES_MAX = 5,
    STALL_MS = SIDE_SLOW_S * 1000,
    RESUME_MS = 100,
    ANSWER_MS = 300000,        /* a registry may have to move what it has got */
    SENDING_BYTES = 128 << 10, /* that libcurl may have and not have sent */
};

struct transfer {
    struct hand *h;
    const char *digest;
    int64_t size;
    char location[URL_ROOM]; /* of the upload; empty: there is none */
    bool no_mount;           /* it was tried */
    long wait_s;             /* before another attempt, as was asked for */
    char *err;
};

/* --- the destination has it already --- */

struct known {
    char digest[DIGEST_TEXT_ROOM], repo[REPO_NAME_MAX + 1];
};

static int compare(const void *a, const void *b)
{
    return strcmp(((const struct known *)a)->digest, ((const struct known *)b)->digest);
}

static void remember(struct copy *c, const char *digest)
{
    pthread_mutex_lock(&c->lock);
    if (c->known_count < COPY_KNOWN_MAX) {
        struct known *k = calloc(1, sizeof(*k));
        CHECK(k);
        snprintf(k->digest, sizeof(k->digest), "%s", digest);
        memcpy(k->repo, c->to_repo, sizeof(k->repo));
        struct known **at = tsearch(k, &c->known, compare);
        CHECK(at);
        if (*at == k)
            c->known_count++;
        else
            free(k);
    }
    pthread_mutex_unlock(&c->lock);
}

/* Another repository of the destination that has it. */
static bool elsewhere(struct copy *c, const char *digest, char out[REPO_NAME_MAX + 1])
{
    struct known key;
    snprintf(key.digest, sizeof(key.digest), "%s", digest);
    pthread_mutex_lock(&c->lock);
    struct known **at = tfind(&key, &c->known, compare);
    bool found = at && strcmp((*at)->repo, c->to_repo) != 0;
    if (found)
        memcpy(out, (*at)->repo, sizeof((*at)->repo));
    pthread_mutex_unlock(&c->lock);
    return found;
}

static void count_blob(struct transfer *t, bool here, bool mounted)
{
    struct copy *c = t->h->copy;
    pthread_mutex_lock(&c->lock);
    c->counts.here_blobs += here;
    c->counts.mounted += mounted;
    c->counts.blobs += !here && !mounted;
    pthread_mutex_unlock(&c->lock);
    remember(c, t->digest);
}

/* --- requests --- */

static int ask(struct transfer *t, struct side *s, const struct side_request *r, struct side_answer *a)
{
    return copy_result(t->h, side_ask(s, r, a, t->err));
}

static bool location_take(struct transfer *t, const struct side_answer *a)
{
    char url[URL_ROOM];
    if (!a->location[0] || !url_resolve(a->url, a->location, url))
        return false;
    memcpy(t->location, url, sizeof(url));
    return true;
}

/* 1: it is there; 0: it is not; -errno. */
static int look(struct transfer *t)
{
    struct side_answer a;
    char path[URL_ROOM];
    const char *repo = t->h->copy->to_repo;
    snprintf(path, sizeof(path), "/v2/%s/blobs/%s", repo, t->digest);
    const struct side_request r = {.method = "HEAD", .path = path, .repo = repo, .write = true};
    int rc = ask(t, t->h->to, &r, &a);
    if (rc)
        return rc;
    rc = a.status == 200   ? 1
         : a.status == 404 ? 0
                           : side_refused(t->h->to, &a, "a blob is looked for", t->err);
    side_answer_free(&a);
    return rc;
}

/* Begins an upload, or mounts it from where it is. 1: it is there now. */
static int upload_begin(struct transfer *t)
{
    struct side_answer a;
    char path[URL_ROOM], other[REPO_NAME_MAX + 1];
    const char *repo = t->h->copy->to_repo;
    snprintf(path, sizeof(path), "/v2/%s/blobs/uploads/", repo);
    bool mount = !t->no_mount && elsewhere(t->h->copy, t->digest, other);
    t->no_mount = true;
    if (mount && !(url_add(path, "mount", t->digest) && url_add(path, "from", other)))
        return -ENAMETOOLONG;
    const struct side_request r = {.method = "POST", .path = path, .repo = repo, .write = true};
    int rc = ask(t, t->h->to, &r, &a);
    if (rc)
        return rc;
    if (a.status == 201)
        rc = 1;
    else if (mount && a.status != 202)
        rc = -EIO; /* again, without */
    else if (a.status != 202)
        rc = side_refused(t->h->to, &a, "an upload begins", t->err);
    else if (!location_take(t, &a))
        rc = -EPROTO;
    if (rc == -EPROTO)
        snprintf(t->err, SIDE_ERROR_MAX, "an upload has no place to go");
    side_answer_free(&a);
    return rc;
}

static void upload_drop(struct transfer *t)
{
    struct side_answer a;
    char ignored[SIDE_ERROR_MAX];
    const struct side_request r = {
        .method = "DELETE", .path = t->location, .repo = t->h->copy->to_repo, .write = true, .once = true};
    if (t->location[0] && side_ask(t->h->to, &r, &a, ignored) == 0)
        side_answer_free(&a);
    t->location[0] = '\0';
}

/* --- on its way --- */

static void on_moved(void *arg, size_t bytes)
{
    struct copy *c = ((struct transfer *)arg)->h->copy;
    pthread_mutex_lock(&c->lock);
    c->counts.blob_bytes += bytes;
    pthread_mutex_unlock(&c->lock);
    report_progress(c, false);
}

static int wrong(struct transfer *t)
{
    struct copy *c = t->h->copy;
    snprintf(t->err, SIDE_ERROR_MAX, "%s: the bytes of %s are not that blob", c->from.name, t->digest);
    pthread_mutex_lock(&c->lock);
    c->counts.wrong++;
    pthread_mutex_unlock(&c->lock);
    return -EBADMSG;
}

/* It is as slow as it is told to be: that is no stall. */
static int64_t stall_ms(const struct side_config *to)
{
    return STALL_MS + (to->send_rate ? (int64_t)(1000ull * SENDING_BYTES / to->send_rate) : 0);
}

/* From the source into the upload. 0 or -errno, as pass_run. */
static int blob_pass(struct transfer *t)
{
    char source[URL_ROOM], target[URL_ROOM];
    struct hand *h = t->h;
    struct copy *c = h->copy;
    struct pass p = {.from = h->from,
                     .to = h->to,
                     .get = {.path = source, .repo = c->from_repo},
                     .put = {.path = target, .repo = c->to_repo},
                     .pipe = &h->pipe,
                     .stall_ms = stall_ms(&c->to),
                     .answer_ms = ANSWER_MS,
                     .resume_ms = RESUME_MS,
                     .moved = on_moved,
                     .arg = t};
    snprintf(source, sizeof(source), "/v2/%s/blobs/%s", c->from_repo, t->digest);
    memcpy(target, t->location, sizeof(target));
    if (!url_add(target, "digest", t->digest))
        return -ENAMETOOLONG;
    int rc = pipe_begin(&h->pipe, t->digest, t->size);
    if (rc == 0)
        rc = pass_run(&p, t->err);
    (void)copy_result(h, p.silent ? -EIO : 0);
    t->wait_s = p.wait_s;
    if (rc == -EBADMSG)
        rc = wrong(t);
    if (p.lost && look(t) == 1) /* it came to its end all the same */
        rc = 0;
    return rc;
}

/* One attempt. 0, 1: mounted; -EAGAIN: another one may do it. */
static int attempt(struct transfer *t)
{
    int rc = upload_begin(t);
    if (rc)
        return rc == -EIO ? -EAGAIN : rc;
    rc = blob_pass(t);
    if (rc)
        upload_drop(t);
    return rc;
}

static int transfer_run(struct transfer *t)
{
    int rc = -EAGAIN;
    for (unsigned i = 0; rc == -EAGAIN && i < TRIES_MAX; i++) {
        if (i)
            side_wait(i, t->wait_s);
        t->wait_s = 0;
        if (copy_stopping(t->h->copy))
            break;
        rc = attempt(t);
    }
    if (rc == -EAGAIN && t->err[0] == '\0')
        snprintf(t->err, SIDE_ERROR_MAX, "%s: a blob stopped again and again", t->h->copy->from.name);
    return rc;
}

int transfer_blob(struct hand *h, const char *digest, int64_t size, char err[SIDE_ERROR_MAX])
{
    struct transfer t = {.h = h, .digest = digest, .size = size, .err = err};
    if (copy_stopping(h->copy)) {
        snprintf(err, SIDE_ERROR_MAX, "%s was not tried any more", digest);
        return -EIO;
    }
    int rc = look(&t);
    if (rc) {
        if (rc == 1)
            count_blob(&t, true, false);
        return rc < 0 ? rc : 0;
    }
    rc = transfer_run(&t);
    if (rc >= 0)
        count_blob(&t, false, rc == 1);
    return rc < 0 ? rc : 0;
}
