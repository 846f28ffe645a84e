/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One run: what its threads share. Each thread (a hand) has a connection to either side and a pipe between
 * them for what passes of a blob; they take tags of one repository after the other, and whoever has nothing
 * to do copies blobs of those that wait for them. Nothing is remembered beyond the run: what is on both sides
 * says what is to do.
 */
#ifndef FL_MIRROR_COPY_H
#define FL_MIRROR_COPY_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "control/mirror/document.h"
#include "control/mirror/job.h"
#include "control/mirror/pipe.h"
#include "control/mirror/side.h"

enum {
    COPY_TAGS_MAX = 200000, /* of a repository */
    COPY_REPOS_MAX = 100000,
    COPY_DEPTH_MAX = 8,         /* indexes in indexes, referrers of referrers */
    COPY_MANIFESTS_MAX = 10000, /* below one tag */
    COPY_KNOWN_MAX = 20000,     /* blobs of which it is remembered where the destination has them */
    COPY_DOWN_MAX = 3,          /* requests in a row without an answer: the run ends */
};

struct copy_counts {
    uint64_t repos, tags, done, copied, failed, skipped;
    uint64_t manifests, blobs, blob_bytes, here_blobs, mounted, wrong;
};

enum blob_state { BLOB_WANTED, BLOB_BUSY, BLOB_DONE, BLOB_FAILED };

/* A blob of the repository that is being copied. */
struct blob {
    char digest[DIGEST_TEXT_ROOM];
    int64_t size;
    enum blob_state state;
    struct blob *next_wanted;
    char *error; /* malloc'd */
};

struct copy {
    const struct job *job;
    struct side_config from, to;
    struct name_filter filter;
    pthread_mutex_t lock;
    pthread_cond_t moved;       /* a blob changed its state, a tag ended, a tag came */
    struct copy_counts counts;  /* under the lock, as everything below */
    unsigned down;              /* failures in a row */
    bool stopping;              /* no more tags are begun */
    char error[SIDE_ERROR_MAX]; /* the first one of the run */
    void *known;                /* tree: digest -> repository of the destination */
    size_t known_count;
    /* Of the repository. */
    char from_repo[REPO_NAME_MAX + 1], to_repo[REPO_NAME_MAX + 1];
    char **tags; /* that are meant */
    size_t tags_count, next_tag, tags_busy;
    void *digests; /* tree of texts: what the tags that were copied are, as sha256-HEX */
    void *blobs;   /* tree of struct blob */
    struct blob *wanted;
    bool no_referrers; /* the destination keeps no lists of what refers to what */
};

/* A thread. */
struct hand {
    struct copy *copy;
    struct carrier *carrier;
    struct side *from, *to;
    struct pipe pipe;
    unsigned manifests; /* below the tag that it is at */
    bool changed;       /* something was written for the tag */
    char error[SIDE_ERROR_MAX];
};

/* copy.c: runs a job; 0, or -EIO with the reason in copy.error. */
int copy_run(const struct job *job);
/* What is asked of a side failed (rc) or not: who is down is not asked for ever. Returns rc. */
int copy_result(struct hand *h, int rc);
bool copy_stopping(struct copy *c);
/* It is at both sides: cosign's tags of it come along, too. */
void copy_note(struct copy *c, const char *digest);

/* blobs.c: has all of the blobs copied, by whoever has time. 0 or -errno, h->error says why. */
int blobs_copy(struct hand *h, const struct document *d);
/* Copies one that is wanted, if there is any; the lock is held, and is again at the end. */
bool blobs_help(struct hand *h);
void blobs_forget(struct copy *c); /* of the repository that was */

/* transfer.c: one blob. 0, or -errno with a text. */
int transfer_blob(struct hand *h, const char *digest, int64_t size, char err[SIDE_ERROR_MAX]);

/* image.c: a tag with everything below it. */
enum image_result { IMAGE_SAME, IMAGE_COPIED, IMAGE_WANTED, IMAGE_SKIPPED, IMAGE_FAILED };
enum image_result image_tag(struct hand *h, const char *tag, char digest[DIGEST_TEXT_ROOM]);
/* A manifest and what is below it, without a tag. 0 or -errno. */
int image_manifest(struct hand *h, const char *digest, unsigned depth);

/* referrers.c: what refers to a digest comes along. 0 or -errno. */
int referrers_copy(struct hand *h, const char *digest, unsigned depth);

/* report.c: lines of JSON on standard output. Who reads them is gone: so is this process. */
void report_tag(struct hand *h, const char *tag, const char *digest, const char *state, const char *error);
void report_progress(struct copy *c, bool now);
void report_end(struct copy *c, const char *error);

#endif
