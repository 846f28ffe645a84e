/* SPDX-License-Identifier: Apache-2.0 */
/* Repositories: the row with the exact counts, and the end of one. */
#include "state_policy.h"

int state_repo_open(struct kv *kv, const struct state_cmd *cmd, struct names_repo *repo)
{
    struct state_key key = state_key_repo(cmd->repo);
    int rc = state_row_get(kv, NAMES_REPOS, &key, repo, sizeof(*repo));
    if (rc == -ENOENT) {
        *repo = (struct names_repo){.created_ms = cmd->head.time_ms};
        return 0;
    }
    return rc;
}

int state_repo_need(struct kv *kv, const struct state_cmd *cmd, struct names_repo *repo,
                    struct state_event *out)
{
    struct state_key key = state_key_repo(cmd->repo);
    int rc = state_row_get(kv, NAMES_REPOS, &key, repo, sizeof(*repo));
    if (rc == -ENOENT)
        state_refuse(out, CMD_REPO_UNKNOWN);
    return rc;
}

int state_repo_save(struct kv *kv, struct names_repo *repo, struct state_event *out)
{
    repo->updated_ms = out->cmd.head.time_ms;
    return state_repo_write(kv, repo, out);
}

int state_repo_write(struct kv *kv, const struct names_repo *repo, struct state_event *out)
{
    struct state_key key = state_key_repo(out->cmd.repo);
    struct names_repo old;
    out->changed = true;
    int rc = state_row_get(kv, NAMES_REPOS, &key, &old, sizeof(old));
    if (rc == -ENOENT)
        memset(&old, 0, sizeof(old));
    if (rc == 0 || rc == -ENOENT)
        rc = state_use_add(kv, out->cmd.repo, (int64_t)(repo->bytes - old.bytes),
                           (int64_t)(repo->tags - old.tags));
    return rc ? rc : state_row_put(kv, NAMES_REPOS, &key, repo, sizeof(*repo));
}

/* Deletes every row of a repository in one database. */
static int rows_drop(struct kv *kv, unsigned db, struct state_text repo, uint64_t *count)
{
    struct state_key key = state_key_tag(repo, (struct state_text){"", 0});
    struct kv_bytes value;
    int rc;
    while ((rc = state_row_next(kv, db, repo, &key, false, &value)) == 0) {
        rc = kv_del(kv, db, state_key_bytes(&key));
        if (rc)
            return rc;
        (*count)++;
    }
    return rc == -ENOENT ? 0 : rc;
}

/* The digest in a key of the databases that are keyed by REPO|DIGEST. */
static bool key_digest(const struct state_key *key, struct state_text repo, struct digest *d)
{
    size_t at = repo.len + 1;
    return digest_unpack(key->data + at, key->len - at, d) == key->len - at;
}

static int manifests_drop(struct kv *kv, struct state_text repo, struct names_repo *row)
{
    struct state_key key = state_key_tag(repo, (struct state_text){"", 0});
    struct kv_bytes value;
    struct digest d;
    int rc;
    while ((rc = state_row_next(kv, NAMES_MANIFESTS, repo, &key, false, &value)) == 0) {
        rc = key_digest(&key, repo, &d) ? state_manifest_drop(kv, repo, &d, row) : -EUCLEAN;
        if (rc)
            return rc == -ENOENT ? -EUCLEAN : rc;
    }
    return rc == -ENOENT ? 0 : rc;
}

static int links_drop(struct kv *kv, struct state_text repo, struct names_repo *row)
{
    struct state_key key = state_key_tag(repo, (struct state_text){"", 0});
    struct kv_bytes value;
    struct names_link link;
    struct digest d;
    int rc;
    while ((rc = state_row_next(kv, NAMES_LINKS, repo, &key, false, &value)) == 0) {
        if (value.len < sizeof(link) || row->blobs == 0 || !key_digest(&key, repo, &d))
            return -EUCLEAN;
        memcpy(&link, value.data, sizeof(link));
        row->blobs--;
        rc = kv_del(kv, NAMES_LINKS, state_key_bytes(&key));
        if (rc == 0)
            rc = state_hold_drop(kv, row, &d, link.size, false);
        if (rc)
            return rc == -ENOENT ? -EUCLEAN : rc;
    }
    return rc == -ENOENT ? 0 : rc;
}

/* Manifests go before links: while a digest is both, the link is what keeps it counted. */
int state_repo_delete(struct kv *kv, struct state_event *out)
{
    const struct state_cmd *cmd = &out->cmd;
    struct state_key key = state_key_repo(cmd->repo);
    struct names_repo repo;
    uint64_t tags = 0, index = 0, referrers = 0;
    struct policy_rules rules;
    int rc = state_repo_need(kv, cmd, &repo, out);
    if (rc == 0)
        rc = state_rules_change(kv, out, &rules);
    if (rc)
        return rc == -ENOENT || rc == -EPERM ? 0 : rc;
    rc = state_use_add(kv, cmd->repo, -(int64_t)repo.bytes, -(int64_t)repo.tags);
    if (rc == 0)
        rc = rows_drop(kv, NAMES_TAGS, cmd->repo, &tags);
    if (rc == 0)
        rc = manifests_drop(kv, cmd->repo, &repo);
    if (rc == 0)
        rc = links_drop(kv, cmd->repo, &repo);
    if (rc == 0)
        rc = state_marks_drop(kv, cmd->repo);
    if (rc == 0)
        rc = rows_drop(kv, NAMES_REFERRERS, cmd->repo, &referrers);
    if (rc == 0)
        rc = rows_drop(kv, NAMES_INDEX, cmd->repo, &index); /* the tags', and what nobody has taken away */
    if (rc)
        return rc;
    if (tags != repo.tags || referrers || repo.manifests || repo.blobs || repo.bytes)
        return -EUCLEAN;
    out->changed = true;
    return kv_del(kv, NAMES_REPOS, state_key_bytes(&key));
}
