/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Policies as commands and people have them: fields by name (the socket, the CLI, files and the manual take
 * them from one table), and as bytes. What they mean is in include/names_policy.h. Pure.
 */
#ifndef FL_STATE_POLICY_H
#define FL_STATE_POLICY_H

#include "control/state/kv.h"
#include "names_policy.h"
#include "wire.h"

enum { POLICY_TEXT_MAX = 512, POLICY_ERROR_MAX = 256 };

struct policy {
    char prefix[REPO_NAME_MAX + 1]; /* empty: every repository */
    struct names_policy rules;
};

struct policy_table {
    struct policy *list; /* prefixes ascending */
    size_t count;
};

void policy_init(struct policy *p);
void policy_table_fini(struct policy_table *t);
struct policy *policy_find(const struct policy_table *t, const char *prefix);
/* At the end. */
void policy_table_add(struct policy_table *t, const struct policy *p);

/* "" or a name's components; "/" and "*" are other ways to write "": -EINVAL. out: REPO_NAME_MAX + 1. */
int policy_prefix_parse(const char *text, char *out);
/* For people: "*" for the empty one. */
const char *policy_prefix_text(const char *prefix);

/* 0, -ENOENT for a field that is not there, -EINVAL with a text in err. An empty text, or "inherit": the
 * policy says nothing about it. */
int policy_field_set(struct policy *p, const char *key, const char *text, char err[POLICY_ERROR_MAX]);

/* The canonical text of a field ("" if the policy says nothing), or NULL for one that is not there. */
const char *policy_field_text(const struct policy *p, const char *key, char out[POLICY_TEXT_MAX]);

size_t policy_field_count(void);
const char *policy_field_key(size_t i);

const char *policy_origin_name(uint8_t origin); /* "file" or "api" */

/* Whether both say the same, whoever says it. */
bool policy_same(const struct policy *a, const struct policy *b);

/* All policies of the state; what is used below those with totals goes into `use`, one for each (NULL: not
 * wanted; free it). 0 or -errno. */
int state_policies_read(struct kv *kv, struct policy_table *out, struct names_policy_use **use);

/* Counts bytes and tags anew, by walking over all repositories below the prefix. 0 or -errno. */
int state_use_count(struct kv *kv, const char *prefix, struct names_policy_use *use);

/* What holds for a repository. 0 or -errno. */
int state_policy_rules(struct kv *kv, const char *repo, struct policy_rules *out);

/* Commands, malloc'd. revision: that each has, or CMD_REVISION_ANY. */
void *policy_cmd_set(const char *actor, const char *source, uint64_t revision, const char *const *gone,
                     size_t gone_count, const struct policy *set, size_t set_count, size_t *len);

/* The same in the name of the configuration file. */
void *policy_cmd_declare(const char *const *gone, size_t gone_count, const struct policy *set,
                         size_t set_count, size_t *len);

/* One that a configuration file has set, of a node that is gone, say, goes. */
void *policy_cmd_withdraw(const char *actor, const char *source, const char *prefix, size_t *len);

void policy_put(struct wire_writer *w, const struct policy *p);
void policy_get(struct wire_reader *r, struct policy *p);

/* What a reader of patterns takes: printable, without blanks, no empty item. */
bool policy_patterns_valid(const char *text, size_t len);

/* Times in seconds as in 30d, 12h, 5m, 10s; and back. -EINVAL. */
int policy_time_parse(const char *text, uint64_t *seconds);

#endif
