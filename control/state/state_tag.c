/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tags, and which of them name a manifest: a row of each tag, and one of the index that finds it by the
 * manifest, so that who deletes a manifest need not look at all tags of the repository.
 *
 * The index may lack rows, or have some of what has gone: it is being made, or another version has written
 * meanwhile. So what it says is looked up in the tag's row; and where it knows of fewer tags than the
 * manifest's row counts, all of them are looked at. What comes of a command is the same either way, on every
 * node.
 */
#include <stdlib.h>

#include "state_internal.h"

/* Adds to or takes from the count of tags in a manifest's row; the rest of the row stays as it is. */
static int tag_count_add(struct kv *kv, struct state_text repo, const struct digest *d, int change)
{
    struct state_key key = state_key_digest(repo, d);
    struct kv_bytes value;
    struct names_manifest row;
    int rc = kv_get(kv, NAMES_MANIFESTS, state_key_bytes(&key), &value);
    if (rc)
        return rc;
    if (value.len < sizeof(row))
        return -EUCLEAN;
    uint8_t *copy = malloc(value.len);
    if (!copy)
        return -ENOMEM;
    memcpy(copy, value.data, value.len);
    memcpy(&row, copy, sizeof(row));
    bool underflow = change < 0 && row.tag_count == 0;
    row.tag_count += (uint32_t)change;
    memcpy(copy, &row, sizeof(row));
    rc = underflow ? -EUCLEAN : state_row_put(kv, NAMES_MANIFESTS, &key, copy, value.len);
    free(copy);
    return rc;
}

int state_tag_get(struct kv *kv, const struct state_key *key, struct digest *d)
{
    struct names_tag row;
    int rc = state_row_get(kv, NAMES_TAGS, key, &row, sizeof(row));
    if (rc == 0 && digest_unpack(row.digest, sizeof(row.digest), d) == 0)
        return -EUCLEAN;
    return rc;
}

static int tag_write(struct kv *kv, const struct state_cmd *cmd, struct state_text tag)
{
    struct names_tag row = {.time_ms = cmd->head.time_ms};
    struct state_key key = state_key_tag(cmd->repo, tag);
    _Static_assert(sizeof(row.digest) >= DIGEST_PACKED_MAX, "a digest fits");
    digest_pack(&cmd->digest, row.digest);
    int rc = state_row_put(kv, NAMES_TAGS, &key, &row, sizeof(row));
    return rc ? rc : state_index_tag_put(kv, cmd->repo, &cmd->digest, tag);
}

int state_tag_point(struct kv *kv, const struct state_cmd *cmd, struct state_text tag,
                    const struct digest *old)
{
    int rc = old ? tag_count_add(kv, cmd->repo, old, -1) : 0;
    if (rc == 0)
        rc = tag_count_add(kv, cmd->repo, &cmd->digest, 1);
    if (rc == 0 && old)
        rc = state_index_tag_del(kv, cmd->repo, old, tag);
    return rc ? rc : tag_write(kv, cmd, tag);
}

int state_tag_remove(struct kv *kv, struct state_text repo, struct state_text tag, const struct digest *d,
                     bool counted)
{
    struct state_key key = state_key_tag(repo, tag);
    int rc = kv_del(kv, NAMES_TAGS, state_key_bytes(&key));
    if (rc == 0)
        rc = state_index_tag_del(kv, repo, d, tag);
    return rc || !counted ? rc : tag_count_add(kv, repo, d, -1);
}

/* The tags whose keys in db begin with from, behind whose length they stand, as far as they name the
 * manifest. */
static int each(struct kv *kv, unsigned db, struct state_text repo, const struct state_key *from,
                const struct digest *d, uint32_t *left, state_tag_fn *fn, void *arg)
{
    struct state_key key = *from;
    struct kv_bytes value;
    int rc = 0;
    while (*left && rc == 0) {
        rc = state_row_next(kv, db, repo, &key, true, &value);
        if (rc || key.len < from->len || memcmp(key.data, from->data, from->len) != 0)
            return rc == -ENOENT ? 0 : rc;
        struct state_text tag = {(const char *)key.data + from->len, key.len - from->len};
        struct state_key at = state_key_tag(repo, tag);
        struct digest now;
        rc = state_tag_get(kv, &at, &now);
        if (rc == 0 && digest_equal(&now, d)) {
            --*left;
            rc = fn(arg, tag);
        } else if (rc == -ENOENT) {
            rc = 0;
        }
    }
    return rc;
}

int state_tags_of(struct kv *kv, struct state_text repo, const struct digest *d, uint32_t count,
                  state_tag_fn *fn, void *arg)
{
    const struct state_text none = {"", 0};
    struct state_key index = state_index_tag_key(repo, d, none), tags = state_key_tag(repo, none);
    uint32_t left = count;
    int rc = each(kv, NAMES_INDEX, repo, &index, d, &left, fn, arg);
    if (rc || !left)
        return rc;
    left = count;
    return each(kv, NAMES_TAGS, repo, &tags, d, &left, fn, arg);
}
