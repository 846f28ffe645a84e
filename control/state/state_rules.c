/* SPDX-License-Identifier: Apache-2.0 */
/* What policies say of a repository, whether a command may change it, and what is used below prefixes. */
#include <stdio.h>

#include "state_policy.h"

struct state_key state_key_policy(char kind, const char *prefix, size_t len)
{
    struct state_key key;
    key.len = policy_key(key.data, kind, prefix, len);
    return key;
}

int state_rules_get(struct kv *kv, struct state_text repo, struct policy_rules *out)
{
    size_t len = repo.len;
    memset(out, 0, sizeof(*out));
    do {
        struct state_key key = state_key_policy('P', repo.data, len);
        struct names_policy p;
        int rc = state_row_get(kv, NAMES_POLICIES, &key, &p, sizeof(p));
        if (rc && rc != -ENOENT)
            return rc;
        if (rc == 0)
            policy_merge(out, &p, len);
    } while (policy_widen(repo.data, &len));
    return 0;
}

/* Who says it: for messages. */
static const char *said_by(struct state_text repo, const struct policy_rules *r, enum policy_field field,
                           char out[REPO_NAME_MAX + 1])
{
    size_t len = r->by[field];
    if (len == 0)
        return "*";
    memcpy(out, repo.data, len);
    out[len] = '\0';
    return out;
}

static int deny(struct state_event *out, const struct policy_rules *r, enum policy_field field,
                const char *what)
{
    char by[REPO_NAME_MAX + 1];
    struct state_text repo = out->cmd.repo;
    state_refuse_format(out, CMD_DENIED, "%s: repository '%.*s', policy of '%s'", what, (int)repo.len,
                        repo.data, said_by(repo, r, field, by));
    return -EPERM;
}

int state_rules_change(struct kv *kv, struct state_event *out, struct policy_rules *r)
{
    int rc = state_rules_get(kv, out->cmd.repo, r);
    if (rc == 0 && r->p.read_only)
        return deny(out, r, POLICY_READ_ONLY, "it is read-only");
    return rc;
}

/* The totals of all prefixes that have one. */
static int totals_check(struct kv *kv, struct state_event *out, uint64_t bytes, uint64_t tags)
{
    struct state_text repo = out->cmd.repo;
    size_t len = repo.len;
    do {
        struct state_key key = state_key_policy('P', repo.data, len);
        struct names_policy p;
        struct names_policy_use use = {0};
        int rc = state_row_get(kv, NAMES_POLICIES, &key, &p, sizeof(p));
        key = state_key_policy('U', repo.data, len);
        if (rc == 0 && (p.total_bytes || p.total_tags))
            rc = state_row_get(kv, NAMES_POLICIES, &key, &use, sizeof(use));
        else if (rc == 0)
            continue;
        if (rc && rc != -ENOENT)
            return rc;
        if (rc)
            continue;
        const char *what = p.total_bytes && bytes && use.bytes + bytes > p.total_bytes ? "bytes"
                           : p.total_tags && tags && use.tags + tags > p.total_tags    ? "tags"
                                                                                       : NULL;
        if (!what)
            continue;
        state_refuse_format(out, CMD_DENIED,
                            "no room for repository '%.*s': all below '%.*s' may have %llu %s", (int)repo.len,
                            repo.data, len ? (int)len : 1, len ? repo.data : "*",
                            (unsigned long long)(*what == 'b' ? p.total_bytes : p.total_tags), what);
        return -EPERM;
    } while (policy_widen(repo.data, &len));
    return 0;
}

static int quota_refuse(struct state_event *out, const struct policy_rules *r, enum policy_field field,
                        uint64_t limit, const char *what)
{
    char text[96];
    snprintf(text, sizeof(text), "no room: its quota is %llu %s", (unsigned long long)limit, what);
    return deny(out, r, field, text);
}

int state_rules_grow(struct kv *kv, struct state_event *out, const struct policy_rules *r,
                     const struct names_repo *repo, uint64_t bytes, uint64_t tags)
{
    struct state_key key = state_key_repo(out->cmd.repo);
    int rc = r->p.existing_only ? state_row_exists(kv, NAMES_REPOS, &key) : 0;
    if (rc == -ENOENT) {
        state_refuse(out, CMD_REPO_UNKNOWN);
        return -EPERM;
    }
    if (rc)
        return rc;
    if (r->p.bytes && bytes && repo->bytes + bytes > r->p.bytes)
        return quota_refuse(out, r, POLICY_BYTES, r->p.bytes, "bytes");
    if (r->p.tags && tags && repo->tags + tags > r->p.tags)
        return quota_refuse(out, r, POLICY_TAGS, r->p.tags, "tags");
    return r->has_totals && (bytes || tags) ? totals_check(kv, out, bytes, tags) : 0;
}

int state_rules_tag(struct state_event *out, const struct policy_rules *r, struct state_text tag,
                    const char *what)
{
    char by[REPO_NAME_MAX + 1];
    struct state_text repo = out->cmd.repo;
    if (!policy_immutable(&r->p, tag.data, tag.len))
        return 0;
    state_refuse_format(out, CMD_DENIED,
                        "tag '%.*s' of repository '%.*s' is immutable and %s (policy of '%s')", (int)tag.len,
                        tag.data, (int)repo.len, repo.data, what, said_by(repo, r, POLICY_IMMUTABLE, by));
    return -EPERM;
}

/* --- what is used --- */

int state_use_add(struct kv *kv, struct state_text repo, int64_t bytes, int64_t tags)
{
    size_t len = repo.len;
    int rc = 0;
    if (bytes == 0 && tags == 0)
        return 0;
    do {
        struct state_key key = state_key_policy('U', repo.data, len);
        struct names_policy_use use;
        rc = state_row_get(kv, NAMES_POLICIES, &key, &use, sizeof(use));
        if (rc == -ENOENT)
            continue;
        if (rc)
            return rc;
        if ((bytes < 0 && use.bytes < (uint64_t)-bytes) || (tags < 0 && use.tags < (uint64_t)-tags))
            return -EUCLEAN;
        use.bytes += (uint64_t)bytes;
        use.tags += (uint64_t)tags;
        rc = state_row_put(kv, NAMES_POLICIES, &key, &use, sizeof(use));
        if (rc)
            return rc;
    } while (policy_widen(repo.data, &len));
    return 0;
}

/* Adds up the repositories from key on for as long as they are below the prefix. */
static int use_sum(struct kv *kv, struct kv_bytes from, const char *prefix, size_t prefix_len,
                   struct names_policy_use *use)
{
    struct state_key at = {.len = from.len};
    struct kv_bytes key, value;
    struct names_repo repo;
    int rc;
    memcpy(at.data, from.data, from.len);
    for (bool after = false; (rc = kv_seek(kv, NAMES_REPOS, state_key_bytes(&at), after, &key, &value)) == 0;
         after = true) {
        if (!policy_covers(prefix, prefix_len, key.data, key.len))
            return 0;
        if (key.len > sizeof(at.data) || value.len < sizeof(repo))
            return -EUCLEAN;
        memcpy(&repo, value.data, sizeof(repo));
        use->bytes += repo.bytes;
        use->tags += repo.tags;
        memcpy(at.data, key.data, key.len);
        at.len = key.len;
    }
    return rc == -ENOENT ? 0 : rc;
}

int state_use_count(struct kv *kv, const char *prefix, struct names_policy_use *use)
{
    size_t len = strlen(prefix);
    struct state_key key = {.len = len + 1};
    struct names_repo repo;
    memset(use, 0, sizeof(*use));
    if (len == 0)
        return use_sum(kv, (struct kv_bytes){"", 1}, prefix, 0, use);
    /* Names with '-' or '.' stand between the repository of this name and those below it. */
    memcpy(key.data, prefix, len);
    key.data[len] = '/';
    struct state_key own = state_key_repo((struct state_text){prefix, len});
    int rc = state_row_get(kv, NAMES_REPOS, &own, &repo, sizeof(repo));
    if (rc == 0)
        *use = (struct names_policy_use){.bytes = repo.bytes, .tags = repo.tags};
    if (rc && rc != -ENOENT)
        return rc;
    return use_sum(kv, state_key_bytes(&key), prefix, len, use);
}
