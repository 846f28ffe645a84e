/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One blob from one side to the other, piece after piece: a piece is received, hashed, and sent while the
 * source waits. What stops on either side goes on from the byte that the destination has. Where it began is
 * hashed here, the end is sent only if the digest is right; the destination looks in any case.
 */
#include <errno.h>
#include <openssl/evp.h>
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/mirror/copy.h"

enum { TRIES_MAX = 5 };

struct transfer {
    struct hand *h;
    const char *digest;
    int64_t size;
    char location[URL_ROOM]; /* of the upload; empty: there is none */
    int64_t offset;          /* bytes that the destination has */
    size_t filled;           /* bytes of the piece behind them */
    int64_t at;              /* of the source's body: the next byte */
    bool begun;              /* the source's body has begun */
    struct side_answer source;
    EVP_MD_CTX *hash; /* NULL: what was before this process is not known */
    int64_t hashed;
    bool too_much, unwanted; /* the source's bytes are wrong; the destination did not take a piece */
    bool no_mount;           /* it was tried */
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

/* The bytes that the destination says it has; of one byte the older registries say nothing else than of none.
 */
static int64_t range_end(const struct side_answer *a)
{
    long long last;
    return sscanf(a->range, "0-%lld", &last) == 1 && last > 0 ? last + 1 : 0;
}

/* 1: it is there; 0: it is not; -errno. */
static int look(struct transfer *t)
{
    struct side_answer a;
    char path[URL_ROOM];
    const char *repo = t->h->copy->to_repo;
    snprintf(path, sizeof(path), "/v2/%s/blobs/%s", repo, t->digest);
    const struct side_request r = {.method = "HEAD", .path = path, .repo = repo, .write = true, .from = -1};
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
    const struct side_request r = {.method = "POST", .path = path, .repo = repo, .write = true, .from = -1};
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
    t->offset = 0;
    t->filled = 0;
    side_answer_free(&a);
    return rc;
}

/* Where an upload stands; it begins anew where it is unknown. 0 or -errno. */
static int upload_ask(struct transfer *t)
{
    struct side_answer a;
    const char *repo = t->h->copy->to_repo;
    const struct side_request r = {
        .method = "GET", .path = t->location, .repo = repo, .write = true, .from = -1};
    int rc = ask(t, t->h->to, &r, &a);
    if (rc)
        return rc;
    int64_t end = range_end(&a);
    bool stands = a.status == 204 && end <= t->size && location_take(t, &a);
    if (!stands)
        t->location[0] = '\0';
    if (!stands || end != t->offset)
        t->filled = 0;
    t->offset = stands ? end : 0;
    if (t->offset > t->hashed) { /* of another process, or of an answer that was lost */
        EVP_MD_CTX_free(t->hash);
        t->hash = NULL;
    }
    side_answer_free(&a);
    return 0;
}

/* The piece becomes the destination's. */
static int piece_send(struct transfer *t)
{
    struct side_answer a;
    struct copy *c = t->h->copy;
    const struct side_request r = {.method = "PATCH",
                                   .path = t->location,
                                   .repo = c->to_repo,
                                   .write = true,
                                   .once = true,
                                   .body = t->h->buffer,
                                   .len = t->filled,
                                   .from = t->offset};
    int rc = ask(t, t->h->to, &r, &a);
    if (rc)
        return rc;
    if (a.status != 202 || !location_take(t, &a))
        rc = side_refused(t->h->to, &a, "a piece of a blob is sent", t->err);
    else if (range_end(&a) != t->offset + (int64_t)t->filled)
        rc = -EIO;
    side_answer_free(&a);
    if (rc)
        return rc;
    t->offset += (int64_t)t->filled;
    pthread_mutex_lock(&c->lock);
    c->counts.blob_bytes += t->filled;
    pthread_mutex_unlock(&c->lock);
    t->filled = 0;
    report_upload(t->h, t->digest, t->location);
    report_progress(c, false);
    return 0;
}

/* The last piece, and the digest. 0, -EBADMSG: it is not that blob; -errno. */
static int upload_end(struct transfer *t)
{
    struct side_answer a;
    char url[URL_ROOM];
    struct copy *c = t->h->copy;
    memcpy(url, t->location, sizeof(url));
    if (!url_add(url, "digest", t->digest))
        return -ENAMETOOLONG;
    const struct side_request r = {.method = "PUT",
                                   .path = url,
                                   .repo = c->to_repo,
                                   .write = true,
                                   .once = true,
                                   .body = t->filled ? t->h->buffer : NULL,
                                   .len = t->filled,
                                   .from = t->offset ? t->offset : -1};
    int rc = ask(t, t->h->to, &r, &a);
    if (rc)
        return rc;
    if (a.status != 201 && a.status != 204)
        rc = side_refused(t->h->to, &a, "a blob ends", t->err);
    if (a.status == 400)
        rc = -EBADMSG;
    side_answer_free(&a);
    if (rc == 0) {
        pthread_mutex_lock(&c->lock);
        c->counts.blob_bytes += t->filled;
        pthread_mutex_unlock(&c->lock);
    }
    return rc;
}

static void upload_drop(struct transfer *t)
{
    struct side_answer a;
    char ignored[SIDE_ERROR_MAX];
    const struct side_request r = {.method = "DELETE",
                                   .path = t->location,
                                   .repo = t->h->copy->to_repo,
                                   .write = true,
                                   .once = true,
                                   .from = -1};
    if (t->location[0] && side_ask(t->h->to, &r, &a, ignored) == 0)
        side_answer_free(&a);
    t->location[0] = '\0';
}

/* --- the source --- */

static void hash_add(struct transfer *t, const uint8_t *bytes, size_t len, int64_t at)
{
    if (!t->hash || at + (int64_t)len <= t->hashed)
        return;
    size_t old = at < t->hashed ? (size_t)(t->hashed - at) : 0;
    CHECK(at <= t->hashed && EVP_DigestUpdate(t->hash, bytes + old, len - old) == 1);
    t->hashed += (int64_t)(len - old);
}

static bool on_bytes(void *arg, const void *data, size_t len)
{
    struct transfer *t = arg;
    const uint8_t *bytes = data;
    int64_t wanted = t->offset + (int64_t)t->filled;
    if (!t->begun)
        t->at = t->source.status == 206 ? t->source.part_from : 0;
    t->begun = true;
    t->too_much = t->at < 0 || t->at > wanted || (int64_t)len > t->size - t->at;
    if (t->too_much)
        return false;
    hash_add(t, bytes, len, t->at);
    if (t->at < wanted) { /* a source that gives all of it again */
        size_t skip = (uint64_t)(wanted - t->at) < len ? (size_t)(wanted - t->at) : len;
        t->at += (int64_t)skip;
        bytes += skip;
        len -= skip;
    }
    while (len) {
        if (t->filled == COPY_PIECE_BYTES && piece_send(t)) {
            t->unwanted = true;
            return false;
        }
        size_t n = len < COPY_PIECE_BYTES - t->filled ? len : COPY_PIECE_BYTES - t->filled;
        memcpy(t->h->buffer + t->filled, bytes, n);
        t->filled += n;
        t->at += (int64_t)n;
        bytes += n;
        len -= n;
    }
    return true;
}

/* Reads on. 0: all of it is here or there; -EAGAIN: again; -EBADMSG, -errno. */
static int source_read(struct transfer *t)
{
    char path[URL_ROOM];
    const char *repo = t->h->copy->from_repo;
    int64_t from = t->offset + (int64_t)t->filled;
    if (from == t->size)
        return 0;
    snprintf(path, sizeof(path), "/v2/%s/blobs/%s", repo, t->digest);
    const struct side_request r = {
        .method = "GET", .path = path, .repo = repo, .once = true, .from = from, .sink = on_bytes, .arg = t};
    t->begun = t->too_much = t->unwanted = false;
    int rc = side_ask(t->h->from, &r, &t->source, t->err);
    long status = t->source.status;
    (void)copy_result(t->h, t->begun || status ? 0 : rc);
    if (rc == 0 && status != 200 && status != 206)
        rc = side_refused(t->h->from, &t->source, "a blob is fetched", t->err);
    long wait_s = t->source.retry_after_s;
    side_answer_free(&t->source);
    if (t->too_much)
        return -EBADMSG;
    if (rc == -EIO && wait_s > 0)
        side_wait(1, wait_s);
    if (rc == -EPERM)
        return rc;
    return t->offset + (int64_t)t->filled == t->size ? 0 : -EAGAIN;
}

static bool digest_is_right(struct transfer *t)
{
    uint8_t sum[EVP_MAX_MD_SIZE];
    char hex[2 * EVP_MAX_MD_SIZE + 1];
    unsigned len = 0;
    if (!t->hash)
        return true; /* the destination knows all of it */
    CHECK(EVP_DigestFinal_ex(t->hash, sum, &len) == 1);
    for (unsigned i = 0; i < len; i++)
        snprintf(hex + 2 * (size_t)i, 3, "%02x", sum[i]);
    EVP_MD_CTX_free(t->hash);
    t->hash = NULL;
    return strcmp(hex, t->digest + 7) == 0;
}

static int wrong(struct transfer *t)
{
    struct copy *c = t->h->copy;
    snprintf(t->err, SIDE_ERROR_MAX, "%s: the bytes of %s are not that blob", c->from.name, t->digest);
    pthread_mutex_lock(&c->lock);
    c->counts.wrong++;
    pthread_mutex_unlock(&c->lock);
    upload_drop(t);
    report_upload(t->h, t->digest, "");
    return -EBADMSG;
}

/* One attempt. 0, 1: mounted; -EAGAIN: another one may go on from here. */
static int attempt(struct transfer *t)
{
    bool large = t->size > COPY_PIECE_BYTES;
    int rc = 0;
    if (large && !t->location[0])
        rc = upload_begin(t);
    if (rc)
        return rc == -EIO ? -EAGAIN : rc;
    rc = source_read(t);
    if (rc == -EAGAIN && t->unwanted && upload_ask(t))
        return -EAGAIN;
    if (rc == -EBADMSG)
        return wrong(t);
    if (rc)
        return rc;
    if (!digest_is_right(t))
        return wrong(t);
    if (!large && !t->location[0]) {
        size_t filled = t->filled;
        rc = upload_begin(t);
        t->filled = filled;
    }
    if (rc == 0)
        rc = upload_end(t);
    if (rc == -EBADMSG)
        return wrong(t);
    if (rc == -EIO) { /* it may have come to its end all the same */
        t->location[0] = '\0';
        t->offset = 0;
        t->filled = large ? 0 : t->filled;
        return look(t) == 1 ? 0 : -EAGAIN;
    }
    return rc;
}

static void hash_begin(struct transfer *t)
{
    const EVP_MD *md = t->digest[3] == '5' ? EVP_sha512() : EVP_sha256();
    t->hash = EVP_MD_CTX_new();
    CHECK(t->hash && EVP_DigestInit_ex(t->hash, md, NULL) == 1);
    t->hashed = 0;
}

static int transfer_run(struct transfer *t)
{
    int64_t best = t->offset;
    int rc = -EAGAIN;
    for (unsigned i = 0; rc == -EAGAIN && i < TRIES_MAX; i++) {
        if (i)
            side_wait(i, 0);
        if (copy_stopping(t->h->copy))
            break;
        rc = attempt(t);
        if (rc == -EAGAIN && t->offset > best) { /* it moves */
            best = t->offset;
            i = 0;
        }
    }
    if (rc == -EAGAIN && t->err[0] == '\0')
        snprintf(t->err, SIDE_ERROR_MAX, "%s: a blob stopped again and again", t->h->copy->from.name);
    return rc;
}

int transfer_blob(struct hand *h, const char *digest, int64_t size, char err[SIDE_ERROR_MAX])
{
    struct transfer t = {.h = h, .digest = digest, .size = size, .err = err};
    const char *resumed = job_upload_find(h->copy->job, h->copy->to_repo, digest);
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
    hash_begin(&t);
    if (resumed && strlen(resumed) < sizeof(t.location) && size > COPY_PIECE_BYTES) {
        snprintf(t.location, sizeof(t.location), "%s", resumed);
        if (upload_ask(&t))
            t.location[0] = '\0';
    }
    rc = transfer_run(&t);
    EVP_MD_CTX_free(t.hash);
    if (rc >= 0)
        count_blob(&t, false, rc == 1);
    if (t.location[0] && rc >= 0)
        report_upload(h, digest, "");
    return rc < 0 ? rc : 0;
}
