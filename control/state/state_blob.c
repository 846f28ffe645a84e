/* SPDX-License-Identifier: Apache-2.0 */
/* Blobs: which repositories hold which, and how many hold each. */
#include "state_policy.h"

int state_blob_size_check(struct kv *kv, const struct digest *d, uint64_t size, struct state_event *out)
{
    struct names_blob blob;
    int rc = state_blob_get(kv, d, &blob);
    if (rc)
        return rc == -ENOENT ? 0 : rc;
    if (blob.size != size) {
        state_refuse_text(out, CMD_INVALID, "the blob is known with another size");
        return -EINVAL;
    }
    int deleting = blob.links ? 0 : state_blob_deleting(kv, d);
    if (deleting <= 0)
        return deleting;
    state_refuse(out, CMD_BLOB_DELETING);
    return -EINVAL;
}

int state_hold_add(struct kv *kv, struct names_repo *repo, const struct digest *d, uint64_t size, bool held)
{
    struct names_blob before, now;
    if (held)
        return 0;
    int known = state_blob_get(kv, d, &before);
    if (known && known != -ENOENT)
        return known;
    now = before;
    now.size = size;
    now.links++;
    int rc = state_totals_move(kv, known ? NULL : &before, &now);
    if (rc == 0 && known == 0 && before.links == 0)
        rc = state_blob_linked(kv, d);
    repo->bytes += size;
    return rc ? rc : state_blob_move(kv, d, &before, &now);
}

/* A blob that nobody links any more keeps its row: it is on the disk until it is collected. */
int state_hold_drop(struct kv *kv, struct names_repo *repo, const struct digest *d, uint64_t size, bool held)
{
    struct names_blob before, now;
    if (held)
        return 0;
    int rc = state_blob_get(kv, d, &before);
    if (rc)
        return rc;
    if (before.links == 0 || repo->bytes < size)
        return -EUCLEAN;
    now = before;
    now.links--;
    repo->bytes -= size;
    rc = state_totals_move(kv, &before, &now);
    return rc ? rc : state_blob_move(kv, d, &before, &now);
}

/* Writes the link that is not there yet. */
static int link_add(struct kv *kv, uint64_t size, struct state_event *out)
{
    const struct state_cmd *cmd = &out->cmd;
    struct names_repo repo;
    struct names_link link = {.size = size, .time_ms = cmd->head.time_ms};
    struct state_key key = state_key_digest(cmd->repo, &cmd->digest);
    int held = state_row_exists(kv, NAMES_MANIFESTS, &key);
    if (held && held != -ENOENT)
        return held;
    struct policy_rules rules;
    int rc = state_repo_open(kv, cmd, &repo);
    if (rc == 0)
        rc = state_rules_change(kv, out, &rules);
    if (rc == 0)
        rc = state_rules_grow(kv, out, &rules, &repo, held == 0 ? 0 : size, 0);
    if (rc)
        return rc == -EPERM ? 0 : rc;
    rc = state_hold_add(kv, &repo, &cmd->digest, size, held == 0);
    if (rc == 0)
        rc = state_row_put(kv, NAMES_LINKS, &key, &link, sizeof(link));
    repo.blobs++;
    return rc ? rc : state_repo_save(kv, &repo, out);
}

/* A link that is there, and is used again. One that was marked is as good as new. */
static int link_again(struct kv *kv, struct state_event *out)
{
    const struct state_cmd *cmd = &out->cmd;
    struct state_key key = state_key_digest(cmd->repo, &cmd->digest);
    struct names_repo repo;
    struct names_link link;
    bool used = false;
    int rc = state_mark_use(kv, cmd->repo, NAMES_MARK_LINK, &cmd->digest, &used);
    if (rc || !used)
        return rc;
    rc = state_row_get(kv, NAMES_LINKS, &key, &link, sizeof(link));
    link.time_ms = cmd->head.time_ms;
    if (rc == 0)
        rc = state_row_put(kv, NAMES_LINKS, &key, &link, sizeof(link));
    if (rc == 0)
        rc = state_repo_open(kv, cmd, &repo);
    return rc ? rc : state_repo_save(kv, &repo, out);
}

int state_blob_link(struct kv *kv, struct state_event *out)
{
    const struct state_cmd *cmd = &out->cmd;
    struct state_key key = state_key_digest(cmd->repo, &cmd->digest);
    int rc = state_blob_size_check(kv, &cmd->digest, cmd->size, out);
    if (rc)
        return rc == -EINVAL ? 0 : rc;
    rc = state_row_exists(kv, NAMES_LINKS, &key);
    if (rc == -ENOENT)
        rc = link_add(kv, cmd->size, out);
    else if (rc == 0)
        rc = link_again(kv, out);
    return rc ? rc : state_holders_change(kv, out);
}

/* Whether the blob may be mounted: 0, -ENOENT, -errno. */
static int mount_source(struct kv *kv, const struct state_cmd *cmd, struct names_blob *blob)
{
    int rc = state_blob_get(kv, &cmd->digest, blob);
    if (rc)
        return rc;
    if (cmd->from.len == 0)
        return blob->links ? 0 : -ENOENT;
    struct state_key from = state_key_digest(cmd->from, &cmd->digest);
    return state_row_exists(kv, NAMES_LINKS, &from);
}

int state_blob_mount(struct kv *kv, struct state_event *out)
{
    const struct state_cmd *cmd = &out->cmd;
    struct names_blob blob;
    struct state_key key = state_key_digest(cmd->repo, &cmd->digest);
    int rc = mount_source(kv, cmd, &blob);
    if (rc == -ENOENT) {
        state_missing_add(out, &cmd->digest);
        return 0;
    }
    if (rc == 0)
        rc = state_row_exists(kv, NAMES_LINKS, &key);
    if (rc)
        return rc == -ENOENT ? link_add(kv, blob.size, out) : rc;
    return link_again(kv, out);
}

int state_link_drop(struct kv *kv, struct state_text repo, const struct digest *d, struct names_repo *row)
{
    struct state_key key = state_key_digest(repo, d);
    struct names_link link;
    int rc = state_row_get(kv, NAMES_LINKS, &key, &link, sizeof(link));
    int held = rc ? rc : state_row_exists(kv, NAMES_MANIFESTS, &key);
    if (rc || (held && held != -ENOENT))
        return rc ? rc : held;
    if (row->blobs == 0)
        return -EUCLEAN;
    row->blobs--;
    rc = state_hold_drop(kv, row, d, link.size, held == 0);
    return rc ? rc : kv_del(kv, NAMES_LINKS, state_key_bytes(&key));
}

int state_blob_unlink(struct kv *kv, struct state_event *out)
{
    const struct state_cmd *cmd = &out->cmd;
    struct names_repo repo;
    struct policy_rules rules;
    struct state_key key = state_key_digest(cmd->repo, &cmd->digest);
    bool marked = false;
    int rc = state_repo_need(kv, cmd, &repo, out);
    if (rc)
        return rc == -ENOENT ? 0 : rc;
    rc = state_row_exists(kv, NAMES_LINKS, &key);
    if (rc == -ENOENT) {
        state_missing_add(out, &cmd->digest);
        return 0;
    }
    if (rc == 0)
        rc = state_rules_change(kv, out, &rules);
    if (rc == -EPERM)
        return 0;
    if (rc == 0)
        rc = state_mark_use(kv, cmd->repo, NAMES_MARK_LINK, &cmd->digest, &marked);
    if (rc == 0)
        rc = state_link_drop(kv, cmd->repo, &cmd->digest, &repo);
    return rc ? rc : state_repo_save(kv, &repo, out);
}
