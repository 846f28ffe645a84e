/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A tag with everything below it: what a manifest names is at the destination before the manifest is, the tag
 * comes last. Manifests are fetched by their digests and hashed before anything that they name is believed.
 */
#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/mirror/copy.h"

static void path_of(char path[URL_ROOM], const char *repo, const char *reference)
{
    snprintf(path, URL_ROOM, "/v2/%s/manifests/%s", repo, reference);
}

/* HEAD of a manifest. 1: there; 0: not; -errno. */
static int manifest_look(struct hand *h, bool source, const char *reference, struct side_answer *a)
{
    struct side *s = source ? h->from : h->to;
    const char *repo = source ? h->copy->from_repo : h->copy->to_repo;
    char path[URL_ROOM];
    path_of(path, repo, reference);
    const struct side_request r = {
        .method = "HEAD", .path = path, .repo = repo, .write = !source, .accept = document_accept};
    int rc = copy_result(h, side_ask(s, &r, a, h->error));
    if (rc)
        return rc;
    rc = a->status == 200   ? 1
         : a->status == 404 ? 0
                            : side_refused(s, a, "a manifest is looked for", h->error);
    side_answer_free(a);
    return rc;
}

/* GET of one of the source's. 0; -ENOENT; -errno. The answer is the caller's to free if 0. */
static int manifest_fetch(struct hand *h, const char *reference, struct side_answer *a)
{
    const char *repo = h->copy->from_repo;
    char path[URL_ROOM];
    path_of(path, repo, reference);
    const struct side_request r = {.method = "GET", .path = path, .repo = repo, .accept = document_accept};
    int rc = copy_result(h, side_ask(h->from, &r, a, h->error));
    if (rc)
        return rc;
    if (a->status == 200)
        return 0;
    rc = side_refused(h->from, a, "a manifest is fetched", h->error);
    if (a->status == 404)
        rc = -ENOENT;
    side_answer_free(a);
    return rc;
}

static void digest_make(const char *algorithm, const void *bytes, size_t len, char out[DIGEST_TEXT_ROOM])
{
    bool long_one = strncmp(algorithm, "sha512", 6) == 0;
    uint8_t sum[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    CHECK(EVP_Digest(bytes, len, sum, &n, long_one ? EVP_sha512() : EVP_sha256(), NULL) == 1);
    int at = snprintf(out, DIGEST_TEXT_ROOM, "%s:", long_one ? "sha512" : "sha256");
    for (unsigned i = 0; i < n; i++)
        at += snprintf(out + at, DIGEST_TEXT_ROOM - (size_t)at, "%02x", sum[i]);
}

static int manifest_put(struct hand *h, const char *reference, const char *type, const void *body, size_t len)
{
    struct side_answer a;
    struct copy *c = h->copy;
    char path[URL_ROOM];
    path_of(path, c->to_repo, reference);
    const struct side_request r = {.method = "PUT",
                                   .path = path,
                                   .repo = c->to_repo,
                                   .write = true,
                                   .type = type,
                                   .body = body,
                                   .len = len};
    int rc = copy_result(h, side_ask(h->to, &r, &a, h->error));
    if (rc)
        return rc;
    if (a.status != 201)
        rc = side_refused(h->to, &a, "a manifest is put", h->error);
    side_answer_free(&a);
    if (rc)
        return rc;
    h->changed = true;
    pthread_mutex_lock(&c->lock);
    c->counts.manifests++;
    pthread_mutex_unlock(&c->lock);
    return 0;
}

static int wrong(struct hand *h, const char *digest)
{
    struct copy *c = h->copy;
    snprintf(h->error, sizeof(h->error), "%s: the bytes of %s are not that manifest", c->from.name, digest);
    pthread_mutex_lock(&c->lock);
    c->counts.wrong++;
    pthread_mutex_unlock(&c->lock);
    return -EBADMSG;
}

/* Sparse indexes exist: what the source does not have is not missed. The destination may see it otherwise. */
static int children_copy(struct hand *h, const struct document *d, unsigned depth)
{
    int rc = 0;
    for (size_t i = 0; i < d->count && rc == 0; i++) {
        rc = d->refs[i].manifest ? image_manifest(h, d->refs[i].digest, depth + 1) : 0;
        rc = rc == -ENOENT ? 0 : rc;
    }
    return rc;
}

/* What the bytes name, then they themselves, as `reference`. */
static int body_copy(struct hand *h, const char *digest, const char *reference, const struct side_answer *a,
                     unsigned depth)
{
    char real[DIGEST_TEXT_ROOM];
    struct document d;
    digest_make(digest, a->body ? a->body : "", a->len, real);
    if (strcmp(real, digest) != 0)
        return wrong(h, digest);
    int rc = document_read(a->body, a->len, a->type, &d);
    if (rc) {
        snprintf(h->error, sizeof(h->error), "%s: %s", digest,
                 rc == -ENOTSUP ? "it is of schema 1, which is not copied" : "it is no manifest");
        return rc;
    }
    rc = children_copy(h, &d, depth);
    if (rc == 0)
        rc = blobs_copy(h, &d);
    if (rc == 0)
        rc = manifest_put(h, reference, d.type, a->body, a->len);
    document_fini(&d);
    return rc;
}

int image_manifest(struct hand *h, const char *digest, unsigned depth)
{
    struct side_answer *a = calloc(1, sizeof(*a));
    CHECK(a);
    int rc = -E2BIG;
    if (depth > COPY_DEPTH_MAX || ++h->manifests > COPY_MANIFESTS_MAX)
        snprintf(h->error, sizeof(h->error), "%s: too much is below it", digest);
    else
        rc = manifest_look(h, false, digest, a);
    if (rc == 0 && (rc = manifest_fetch(h, digest, a)) == 0) {
        rc = body_copy(h, digest, digest, a, depth);
        side_answer_free(a);
    }
    free(a);
    if (rc < 0)
        return rc;
    copy_note(h->copy, digest);
    return h->copy->job->referrers ? referrers_copy(h, digest, depth + 1) : 0;
}

/* Of an index that both sides have, its manifests may have got what refers to them: what this one names is
 * looked through, not what indexes in it name. */
static int children_look(struct hand *h, const char *digest)
{
    struct side_answer *a = calloc(1, sizeof(*a));
    char real[DIGEST_TEXT_ROOM];
    struct document d;
    CHECK(a);
    int rc = manifest_fetch(h, digest, a);
    if (rc) {
        free(a);
        return rc == -ENOENT ? 0 : rc; /* it has just gone */
    }
    digest_make(digest, a->body ? a->body : "", a->len, real);
    if (strcmp(real, digest) != 0)
        rc = wrong(h, digest);
    else if (document_read(a->body, a->len, a->type, &d) == 0) {
        for (size_t i = 0; i < d.count && rc == 0; i++) {
            if (!d.refs[i].manifest)
                continue;
            copy_note(h->copy, d.refs[i].digest);
            rc = referrers_copy(h, d.refs[i].digest, 2);
        }
        document_fini(&d);
    }
    side_answer_free(a);
    free(a);
    return rc;
}

/* --- tags --- */

/* Also where the registry does not say of which type it is. */
static bool may_be_index(const char *type)
{
    return !strstr(type, "image.manifest.v1+json") && !strstr(type, "distribution.manifest.v2+json");
}

/* The digest that the source's tag has now. 1, 0: there is none any more; -errno. */
static int tag_digest(struct hand *h, const char *tag, char digest[DIGEST_TEXT_ROOM], bool *index)
{
    struct side_answer *a = calloc(1, sizeof(*a));
    CHECK(a);
    int rc = manifest_look(h, true, tag, a);
    *index = rc == 1 && may_be_index(a->type);
    if (rc == 1 && name_digest_valid(a->digest)) {
        memcpy(digest, a->digest, DIGEST_TEXT_ROOM);
    } else if (rc == 1) { /* a registry that does not say it */
        rc = manifest_fetch(h, tag, a);
        if (rc == 0) {
            digest_make("sha256", a->body ? a->body : "", a->len, digest);
            side_answer_free(a);
        }
        rc = rc == -ENOENT ? 0 : rc ? rc : 1;
    }
    free(a);
    return rc;
}

/* 1: the destination's tag is this; 0: it is not; -errno. */
static int tag_is_same(struct hand *h, const char *tag, const char *digest)
{
    struct side_answer *a = calloc(1, sizeof(*a));
    CHECK(a);
    int rc = manifest_look(h, false, tag, a);
    if (rc == 1)
        rc = strcmp(a->digest, digest) == 0;
    free(a);
    return rc;
}

static int tag_copy(struct hand *h, const char *tag, const char *digest)
{
    struct side_answer *a = calloc(1, sizeof(*a));
    CHECK(a);
    int rc = manifest_fetch(h, digest, a);
    if (rc == 0) {
        rc = body_copy(h, digest, tag, a, 0);
        side_answer_free(a);
    }
    free(a);
    return rc;
}

enum image_result image_tag(struct hand *h, const char *tag, char digest[DIGEST_TEXT_ROOM])
{
    const struct job *job = h->copy->job;
    h->manifests = 0;
    h->changed = false;
    digest[0] = '\0';
    bool index;
    int rc = tag_digest(h, tag, digest, &index);
    if (rc <= 0)
        return rc ? IMAGE_FAILED : IMAGE_SKIPPED;
    rc = tag_is_same(h, tag, digest);
    if (rc < 0)
        return IMAGE_FAILED;
    if (job->dry_run)
        return rc ? IMAGE_SAME : IMAGE_WANTED;
    bool same = rc == 1;
    if (!same && tag_copy(h, tag, digest))
        return IMAGE_FAILED;
    if (same && index && job->referrers && children_look(h, digest))
        return IMAGE_FAILED;
    if (job->referrers && referrers_copy(h, digest, 1))
        return IMAGE_FAILED;
    return h->changed ? IMAGE_COPIED : IMAGE_SAME;
}
