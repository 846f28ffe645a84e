/* SPDX-License-Identifier: Apache-2.0 */
/* JSON that another registry said: lists, manifests, lists of referrers. Everything is bounded and checked
 * before anybody sees it. Pure. */
#ifndef FL_MIRROR_DOCUMENT_H
#define FL_MIRROR_DOCUMENT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "control/mirror/name.h"

enum {
    DOCUMENT_BYTES_MAX = 8 << 20, /* of a manifest, or a page of a list */
    DOCUMENT_REFS_MAX = 4096,     /* that one manifest has */
    DOCUMENT_TYPE_ROOM = 256,
};

/* Names of the array `key` ("tags", "repositories") that are valid, in order, until `each` says false.
 * Returns how many there were, -EINVAL for what is no such list. */
typedef bool (*document_name)(void *arg, const char *name);
int document_names(const char *body, size_t len, const char *key, bool (*valid)(const char *),
                   document_name each, void *arg);

struct document_ref {
    char digest[DIGEST_TEXT_ROOM];
    int64_t size;
    bool manifest;
    bool elsewhere; /* a layer that need not be in any registry */
};

struct document {
    char type[DOCUMENT_TYPE_ROOM]; /* media type */
    bool index;
    struct document_ref *refs; /* malloc'd */
    size_t count;
};

/* Takes a manifest apart; `type` is what the registry says it is, without parameters. 0; -EINVAL: it is none;
 * -ENOTSUP: of a form that cannot be copied (schema 1); -E2BIG: it names too many things. */
int document_read(const char *body, size_t len, const char *type, struct document *out);
void document_fini(struct document *d);

/* Descriptors of a list of referrers, as an array (a reference) of those that are good; NULL: it is no list.
 */
json_t *document_referrers(const char *body, size_t len);

/* The fall-back list with what it lacks of `add`, malloc'd, and whether that is anything. now: NULL: there is
 * none yet. */
char *document_referrers_merge(const json_t *now, const json_t *add, bool *more);

/* The first error that a registry says, or "". */
void document_error(const char *body, size_t len, char *out, size_t cap);

extern const char document_accept[]; /* media types of manifests, as Accept has them */

#endif
