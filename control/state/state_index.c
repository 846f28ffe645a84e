/* SPDX-License-Identifier: Apache-2.0 */
/*
 * NAMES_INDEX: by what else rows are found. Its rows come and go in the same transaction as those they are
 * about, and can be made anew of them at any time (state_index_step), while commands are applied: these keep
 * the part up to date that is made already, and what they write beyond it is written once more.
 */
#include "state_internal.h"

static int index_put(struct kv *kv, const struct state_key *key)
{
    return state_row_put(kv, NAMES_INDEX, key, "", 0);
}

static int index_del(struct kv *kv, const struct state_key *key)
{
    int rc = kv_del(kv, NAMES_INDEX, state_key_bytes(key));
    return rc == -ENOENT ? 0 : rc;
}

struct state_key state_index_tag_key(struct state_text repo, const struct digest *d, struct state_text tag)
{
    struct state_key key;
    key.len = names_key_index_tag(key.data, repo.data, repo.len, d, tag.data, tag.len);
    CHECK(key.len > 0);
    return key;
}

int state_index_tag_put(struct kv *kv, struct state_text repo, const struct digest *d, struct state_text tag)
{
    struct state_key key = state_index_tag_key(repo, d, tag);
    return index_put(kv, &key);
}

int state_index_tag_del(struct kv *kv, struct state_text repo, const struct digest *d, struct state_text tag)
{
    struct state_key key = state_index_tag_key(repo, d, tag);
    return index_del(kv, &key);
}

static struct state_key referrer_key(struct state_text repo, const struct digest *subject,
                                     struct state_text type, const struct digest *d)
{
    struct state_key key;
    key.len = names_key_index_referrer(key.data, repo.data, repo.len, subject, type.data, type.len, d);
    CHECK(key.len > 0);
    return key;
}

int state_index_referrer_put(struct kv *kv, struct state_text repo, const struct digest *subject,
                             struct state_text type, const struct digest *d)
{
    struct state_key key = referrer_key(repo, subject, type, d);
    return index_put(kv, &key);
}

/* The artifact type in a referrer's row. */
static int type_of(struct kv_bytes row, struct state_text *type)
{
    const uint8_t *p = row.data;
    if (row.len < 2)
        return -EUCLEAN;
    *type = (struct state_text){(const char *)p + 2, p[0] | (size_t)p[1] << 8};
    return type->len > row.len - 2 ? -EUCLEAN : 0;
}

int state_index_referrer_del(struct kv *kv, struct state_text repo, const struct digest *subject,
                             const struct state_key *referrer, const struct digest *d)
{
    struct kv_bytes row;
    struct state_text type;
    int rc = kv_get(kv, NAMES_REFERRERS, state_key_bytes(referrer), &row);
    if (rc == 0)
        rc = type_of(row, &type);
    if (rc)
        return rc;
    struct state_key key = referrer_key(repo, subject, type, d);
    return index_del(kv, &key);
}

/* ------------------------------------------------------------------ all of it */

/* The repository in a row's key, and what is behind it. */
static int key_split(const struct state_index *at, struct state_text *repo, struct kv_bytes *rest)
{
    const uint8_t *end = memchr(at->key, 0, at->key_len);
    if (!end || end == at->key || end - at->key > REPO_NAME_MAX)
        return -EUCLEAN;
    *repo = (struct state_text){(const char *)at->key, (size_t)(end - at->key)};
    *rest = (struct kv_bytes){end + 1, at->key_len - repo->len - 1};
    return 0;
}

static int tag_add(struct kv *kv, const struct state_index *at, struct kv_bytes value)
{
    struct state_text repo;
    struct kv_bytes rest;
    struct names_tag row;
    struct digest d;
    int rc = key_split(at, &repo, &rest);
    if (rc || value.len < sizeof(row) || rest.len == 0 || rest.len > TAG_NAME_MAX)
        return -EUCLEAN;
    memcpy(&row, value.data, sizeof(row));
    if (digest_unpack(row.digest, sizeof(row.digest), &d) == 0)
        return -EUCLEAN;
    return state_index_tag_put(kv, repo, &d, (struct state_text){rest.data, rest.len});
}

static int referrer_add(struct kv *kv, const struct state_index *at, struct kv_bytes value)
{
    struct state_text repo, type;
    struct kv_bytes rest;
    struct digest subject, d;
    int rc = key_split(at, &repo, &rest);
    if (rc == 0)
        rc = type_of(value, &type);
    if (rc)
        return rc;
    size_t used = digest_unpack(rest.data, rest.len, &subject);
    size_t more = used ? digest_unpack((const uint8_t *)rest.data + used, rest.len - used, &d) : 0;
    if (!more || used + more != rest.len)
        return -EUCLEAN;
    return state_index_referrer_put(kv, repo, &subject, type, &d);
}

static unsigned table_of(enum state_index_phase phase)
{
    return phase == STATE_INDEX_CLEAR  ? NAMES_INDEX
           : phase == STATE_INDEX_TAGS ? NAMES_TAGS
                                       : NAMES_REFERRERS;
}

/* The next row of the phase. -ENOENT: it has no more. */
static int row_step(struct kv *kv, struct state_index *at)
{
    static const uint8_t before[1];
    struct kv_bytes from =
        at->key_len ? (struct kv_bytes){at->key, at->key_len} : (struct kv_bytes){before, 1};
    struct kv_bytes key, value;
    int rc = kv_seek(kv, table_of(at->phase), from, true, &key, &value);
    if (rc)
        return rc;
    if (key.len > sizeof(at->key))
        return -EUCLEAN;
    memcpy(at->key, key.data, key.len);
    at->key_len = key.len;
    if (at->phase == STATE_INDEX_CLEAR)
        return kv_del(kv, NAMES_INDEX, (struct kv_bytes){at->key, at->key_len});
    at->rows++;
    return at->phase == STATE_INDEX_TAGS ? tag_add(kv, at, value) : referrer_add(kv, at, value);
}

int state_index_step(struct kv *kv, struct state_index *at, unsigned rows)
{
    for (; rows && at->phase != STATE_INDEX_WHOLE; rows--) {
        int rc = row_step(kv, at);
        if (rc == -ENOENT) {
            at->phase++;
            at->key_len = 0;
        } else if (rc) {
            return rc;
        }
    }
    return 0;
}
