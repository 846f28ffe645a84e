/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Policies: what holds for the repositories below a prefix. Rows of NAMES_POLICIES, and what follows from
 * them for one repository. Pure; the same code decides in the state machine and in the data plane.
 *
 *   'P' PREFIX -> struct names_policy
 *   'U' PREFIX -> struct names_policy_use, where the policy has a total
 *
 * A prefix ends where a component of the name does: "team" is about "team" and "team/app", not about "teams".
 * The empty prefix is about every repository. Each field is decided on its own: by the longest prefix whose
 * policy says something about it. Totals are the exception: those of all prefixes hold.
 */
#ifndef FL_NAMES_POLICY_H
#define FL_NAMES_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "limits.h"

enum { POLICY_VERSION = 1, POLICY_KEY_MAX = REPO_NAME_MAX + 1, POLICY_KEEP_MAX = 10000 };

/* Numbers of the fields; a policy says something about those whose bit is in `has`. */
enum policy_field {
    POLICY_READ_ONLY,
    POLICY_EXISTING_ONLY,
    POLICY_IMMUTABLE,
    POLICY_BYTES,
    POLICY_TAGS,
    POLICY_TOTAL_BYTES,
    POLICY_TOTAL_TAGS,
    POLICY_KEEP_LAST,
    POLICY_KEEP_FOR,
    POLICY_RETAIN_TAGS,
    POLICY_RETAIN_IMMUTABLE,
    POLICY_FIELDS_COUNT
};

/* Who says it. What the configuration file says, only the file may change. */
enum policy_origin { POLICY_FROM_API = 0, POLICY_FROM_FILE = 1 };

/* Limits: 0 is none. */
struct names_policy {
    uint32_t version;
    uint32_t has;
    uint8_t read_only;        /* nothing is pushed, deleted or moved */
    uint8_t existing_only;    /* a push makes no repository */
    uint8_t retain_immutable; /* retention removes immutable tags, too */
    uint8_t origin;           /* enum policy_origin */
    uint8_t pad[4];
    uint64_t bytes, tags;             /* of one repository */
    uint64_t total_bytes, total_tags; /* of all below the prefix together */
    uint64_t keep_last, keep_for_s;   /* retention: tags that stay */
    uint64_t revision, created_ms, updated_ms;
    char immutable[PATTERN_TEXT_MAX + 1];   /* tags that keep their manifest */
    char retain_tags[PATTERN_TEXT_MAX + 1]; /* tags that retention is about; empty: all */
};

struct names_policy_use {
    uint64_t bytes, tags;
};

_Static_assert(sizeof(struct names_policy) == 600, "on disk");
_Static_assert(sizeof(struct names_policy_use) == 16, "on disk");

/* What holds for one repository. */
struct policy_rules {
    struct names_policy p;
    uint16_t by[POLICY_FIELDS_COUNT]; /* length of the prefix that says it */
    bool has_totals;                  /* the policy of some prefix has */
};

static inline bool policy_says(const struct names_policy *p, enum policy_field field)
{
    return p->has >> field & 1;
}

/* Room for POLICY_KEY_MAX. Returns the key's length. */
static inline size_t policy_key(uint8_t *key, char kind, const char *prefix, size_t len)
{
    key[0] = (uint8_t)kind;
    if (len)
        memcpy(key + 1, prefix, len);
    return len + 1;
}

/* The next wider prefix of a name's first len bytes; false: there is none. */
static inline bool policy_widen(const char *name, size_t *len)
{
    if (*len == 0)
        return false;
    do
        (*len)--;
    while (*len && name[*len] != '/');
    return true;
}

/* Whether a repository is below the prefix. */
static inline bool policy_covers(const char *prefix, size_t prefix_len, const char *repo, size_t len)
{
    if (prefix_len == 0)
        return true;
    return len >= prefix_len && memcmp(prefix, repo, prefix_len) == 0 &&
           (len == prefix_len || repo[prefix_len] == '/');
}

/* Takes from a wider prefix's policy what narrower ones say nothing about. */
static inline void policy_merge(struct policy_rules *r, const struct names_policy *p, size_t prefix_len)
{
    uint32_t fresh = p->has & ~r->p.has;
    struct names_policy *out = &r->p;
    r->has_totals |= policy_says(p, POLICY_TOTAL_BYTES) || policy_says(p, POLICY_TOTAL_TAGS);
    out->has |= fresh;
    for (unsigned i = 0; i < POLICY_FIELDS_COUNT; i++)
        if (fresh >> i & 1)
            r->by[i] = (uint16_t)prefix_len;
    if (fresh >> POLICY_READ_ONLY & 1)
        out->read_only = p->read_only;
    if (fresh >> POLICY_EXISTING_ONLY & 1)
        out->existing_only = p->existing_only;
    if (fresh >> POLICY_IMMUTABLE & 1)
        memcpy(out->immutable, p->immutable, sizeof(out->immutable));
    if (fresh >> POLICY_BYTES & 1)
        out->bytes = p->bytes;
    if (fresh >> POLICY_TAGS & 1)
        out->tags = p->tags;
    if (fresh >> POLICY_KEEP_LAST & 1)
        out->keep_last = p->keep_last;
    if (fresh >> POLICY_KEEP_FOR & 1)
        out->keep_for_s = p->keep_for_s;
    if (fresh >> POLICY_RETAIN_TAGS & 1)
        memcpy(out->retain_tags, p->retain_tags, sizeof(out->retain_tags));
    if (fresh >> POLICY_RETAIN_IMMUTABLE & 1)
        out->retain_immutable = p->retain_immutable;
}

/* ------------------------------------------------------------------ patterns */

/* One pattern: '*' is any number of characters, '?' is one. Linear in text times stars. */
static inline bool pattern_one(const char *p, size_t p_len, const char *text, size_t len)
{
    size_t i = 0, k = 0, star = SIZE_MAX, mark = 0;
    while (i < len) {
        if (k < p_len && p[k] == '*') {
            star = k++;
            mark = i;
        } else if (k < p_len && (p[k] == '?' || p[k] == text[i])) {
            k++;
            i++;
        } else if (star != SIZE_MAX) {
            k = star + 1;
            i = ++mark;
        } else {
            return false;
        }
    }
    while (k < p_len && p[k] == '*')
        k++;
    return k == p_len;
}

/*
 * A list of patterns with commas between them, of which the last one that matches decides; one that begins
 * with '!' says no: "*,!latest" is everything but latest. An empty list matches nothing.
 */
static inline bool pattern_match(const char *list, const char *text, size_t len)
{
    bool yes = false;
    for (const char *at = list; *at;) {
        const char *comma = strchr(at, ',');
        size_t n = comma ? (size_t)(comma - at) : strlen(at);
        bool no = n && *at == '!';
        if (pattern_one(at + no, n - no, text, len))
            yes = !no;
        at += n + (comma != NULL);
    }
    return yes;
}

static inline bool policy_immutable(const struct names_policy *p, const char *tag, size_t len)
{
    return pattern_match(p->immutable, tag, len);
}

/* Whether retention may remove the tag at all, by its name. */
static inline bool policy_retains(const struct names_policy *p, const char *tag, size_t len)
{
    if (p->keep_last == 0 && p->keep_for_s == 0)
        return false;
    if (policy_immutable(p, tag, len) && !p->retain_immutable)
        return false;
    return p->retain_tags[0] == '\0' || pattern_match(p->retain_tags, tag, len);
}

#endif
