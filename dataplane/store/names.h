/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading the names file (include/names.h): what a repository holds, looked up in the memory map without
 * locks, messages or system calls. What it does not do: change anything; that is a proposal to control
 * (link.h).
 *
 * struct names_file is the process's (LMDB allows a file to be opened once in a process), struct names one
 * ring's. Every look-up stands between names_begin and names_end, in one go: nothing that takes time may
 * happen between them, as the writer waits for its readers. Results are copies, or views that are good until
 * the callback returns. All look-ups of one bracket see the same transaction.
 *
 * Errors of the look-ups: -ENOENT; -EINVAL (a name too long to be a key, so it cannot be there either); -EIO
 * (the file cannot be read, or a value in it is not of its form).
 */
#ifndef FL_STORE_NAMES_H
#define FL_STORE_NAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "include/names.h"
#include "include/names_policy.h"
#include "dataplane/http/view.h"

struct names_file;
struct names;

/*
 * Opens the file, which control has made. epochs is borrowed until the close. *why on failure: a sentence for
 * the operator. Uses ring 0's place in epochs: no ring reads yet.
 */
int names_file_open(const char *path, struct names_epochs *epochs, struct names_file **out, const char **why);
void names_file_close(struct names_file *f); /* after every names_free */

/* One ring's reader. */
int names_new(struct names_file *f, unsigned ring, struct names **out);
void names_free(struct names *n);

/* Asked before names_begin: false if what it will say may be older than what somebody was told elsewhere. */
bool names_is_fresh(const struct names *n);
/* The same for what cannot be undone: false also as long as no control has said it. */
bool names_is_said_fresh(const struct names *n);

/* 0, -EAGAIN (the writer is too fast just now: try again later) or -EIO. names_end only after 0. */
int names_begin(struct names *n);
void names_end(struct names *n);

/* A manifest's record, without its references. */
struct names_manifest_record {
    uint64_t size;
    uint32_t tag_count;
    bool has_subject;
    uint16_t media_type_len;
    uint16_t artifact_type_len;
    char media_type[MEDIA_TYPE_MAX];
    char artifact_type[MEDIA_TYPE_MAX];
    struct digest subject;
};

int names_meta_get(struct names *n, struct names_meta *out);
/* 1: what goes by the index finds all there is. 0: it is being made. */
int names_index_whole(struct names *n);
int names_repo_get(struct names *n, struct view repo, struct names_repo *out);
int names_tag_get(struct names *n, struct view repo, struct view tag, struct digest *out);
int names_manifest_get(struct names *n, struct view repo, const struct digest *d,
                       struct names_manifest_record *out);
int names_link_get(struct names *n, struct view repo, const struct digest *d, struct names_link *out);
/* What the policies say of a repository; and how many bytes more all below each prefix may have that it is
 * below (UINT64_MAX: there is no such total). */
int names_rules_get(struct names *n, struct view repo, struct policy_rules *out);
int names_room_get(struct names *n, struct view repo, uint64_t *left);
int names_blob_get(struct names *n, const struct digest *d, struct names_blob *out); /* in any repository */
/* Marks of the garbage collection: on a link or manifest (enum names_mark_kind), on a blob. */
int names_mark_get(struct names *n, struct view repo, uint8_t kind, const struct digest *d,
                   struct names_mark *out);
int names_mark_blob_get(struct names *n, const struct digest *d, struct names_mark *out);

/*
 * Walks in the order of the keys' bytes, from the first one after `after` (absent or empty: from the
 * beginning), until the callback says false, the list ends, or steps_max were shown. Returns the number
 * shown, or -EIO. Views are good until the callback returns.
 */
typedef bool names_tag_fn(void *ctx, struct view tag);
typedef bool names_repo_fn(void *ctx, struct view repo);
struct names_referrer {
    struct digest digest;
    struct view artifact_type; /* empty if it has none */
    struct view descriptor;    /* JSON object */
};
typedef bool names_referrer_fn(void *ctx, const struct names_referrer *r);

int names_each_tag(struct names *n, struct view repo, struct view after, uint32_t steps_max, names_tag_fn *fn,
                   void *ctx);
int names_each_repo(struct names *n, struct view after, uint32_t steps_max, names_repo_fn *fn, void *ctx);
int names_each_referrer(struct names *n, struct view repo, const struct digest *subject,
                        const struct digest *after, uint32_t steps_max, names_referrer_fn *fn, void *ctx);
/* By the index: those of an artifact type, in the same order, without a look at the others, but for types
 * that happen to have the same hash: whoever asks looks at the type. */
int names_each_referrer_of_type(struct names *n, struct view repo, const struct digest *subject,
                                struct view type, const struct digest *after, uint32_t steps_max,
                                names_referrer_fn *fn, void *ctx);

#endif
