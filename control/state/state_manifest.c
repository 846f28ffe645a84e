/* SPDX-License-Identifier: Apache-2.0 */
/* Manifests, the tags that name them and the referrers lists that they stand in. */
#include <stdlib.h>

#include "state_policy.h"

struct manifest_key {
    struct state_key key;
    struct names_manifest row;
};

static int manifest_get(struct kv *kv, struct state_text repo, const struct digest *d, struct manifest_key *m)
{
    m->key = state_key_digest(repo, d);
    return state_row_get(kv, NAMES_MANIFESTS, &m->key, &m->row, sizeof(m->row));
}

static struct state_key referrer_key(struct state_text repo, const struct digest *subject,
                                     const struct digest *d)
{
    struct state_key key = state_key_digest(repo, subject);
    CHECK(key.len + DIGEST_PACKED_MAX <= NAMES_KEY_MAX);
    key.len += digest_pack(d, key.data + key.len);
    return key;
}

/* Reads the subject of a manifest's row. 0, -ENOENT if it has none, -EUCLEAN. */
static int row_subject(struct kv_bytes value, struct digest *subject)
{
    struct names_manifest row;
    if (value.len < sizeof(row))
        return -EUCLEAN;
    memcpy(&row, value.data, sizeof(row));
    size_t at = sizeof(row) + row.media_type_len + row.artifact_type_len;
    if (!row.has_subject)
        return -ENOENT;
    if (at > value.len || digest_unpack((const uint8_t *)value.data + at, value.len - at, subject) == 0)
        return -EUCLEAN;
    return 0;
}

/* Removes the manifest from the referrers list of its subject, if its row has one. */
static int referrer_del(struct kv *kv, struct state_text repo, const struct digest *d,
                        const struct state_key *key)
{
    struct kv_bytes value;
    struct digest subject;
    int rc = kv_get(kv, NAMES_MANIFESTS, state_key_bytes(key), &value);
    if (rc == 0)
        rc = row_subject(value, &subject);
    if (rc)
        return rc == -ENOENT ? 0 : rc;
    struct state_key referrer = referrer_key(repo, &subject, d);
    rc = state_index_referrer_del(kv, repo, &subject, &referrer, d);
    return rc ? rc : kv_del(kv, NAMES_REFERRERS, state_key_bytes(&referrer));
}

static int referrer_put(struct kv *kv, const struct state_cmd *cmd)
{
    const struct state_manifest *m = &cmd->manifest;
    size_t len = 2 + m->artifact_type.len + m->descriptor.len;
    if (!m->has_subject)
        return 0;
    struct wire_writer w = {.buf = malloc(len), .cap = len};
    if (!w.buf)
        return -ENOMEM;
    wire_put_u16(&w, (uint16_t)m->artifact_type.len);
    wire_put(&w, m->artifact_type.data, m->artifact_type.len);
    wire_put(&w, m->descriptor.data, m->descriptor.len);
    struct state_key key = referrer_key(cmd->repo, &m->subject, &cmd->digest);
    int rc = state_row_put(kv, NAMES_REFERRERS, &key, w.buf, w.len);
    free(w.buf);
    return rc ? rc : state_index_referrer_put(kv, cmd->repo, &m->subject, m->artifact_type, &cmd->digest);
}

static int manifest_row_put(struct kv *kv, const struct state_cmd *cmd, const struct manifest_key *m)
{
    const struct state_manifest *args = &cmd->manifest;
    size_t cap = sizeof(m->row) + args->media_type.len + args->artifact_type.len +
                 DIGEST_PACKED_MAX * (1 + (size_t)args->refs_count) + args->refs_count;
    struct wire_writer w = {.buf = malloc(cap), .cap = cap};
    struct wire_reader refs = args->refs;
    if (!w.buf)
        return -ENOMEM;
    wire_put(&w, &m->row, sizeof(m->row));
    wire_put(&w, args->media_type.data, args->media_type.len);
    wire_put(&w, args->artifact_type.data, args->artifact_type.len);
    if (args->has_subject)
        cmd_put_digest(&w, &args->subject);
    for (uint32_t i = 0; i < args->refs_count; i++) {
        struct state_ref ref = state_ref_next(&refs);
        wire_put_u8(&w, ref.kind);
        cmd_put_digest(&w, &ref.digest);
    }
    CHECK(!w.failed && !refs.failed);
    int rc = state_row_put(kv, NAMES_MANIFESTS, &m->key, w.buf, w.len);
    free(w.buf);
    return rc;
}

/* Points a tag at the command's manifest; its row exists already. 1 if that changed something, 0, -errno. */
static int tag_point(struct kv *kv, const struct state_cmd *cmd, struct state_text tag,
                     struct names_repo *repo)
{
    struct state_key key = state_key_tag(cmd->repo, tag);
    struct digest old;
    int rc = state_tag_get(kv, &key, &old);
    if (rc && rc != -ENOENT)
        return rc;
    bool is_new = rc == -ENOENT;
    if (!is_new && digest_equal(&old, &cmd->digest))
        return 0;
    rc = state_tag_point(kv, cmd, tag, is_new ? NULL : &old);
    repo->tags += is_new;
    return rc ? (rc == -ENOENT ? -EUCLEAN : rc) : 1;
}

/* Finds what the manifest names and the repository does not hold; the status tells. */
static int refs_check(struct kv *kv, struct state_event *out)
{
    const struct state_cmd *cmd = &out->cmd;
    struct wire_reader refs = cmd->manifest.refs;
    for (uint32_t i = 0; i < cmd->manifest.refs_count; i++) {
        struct state_ref ref = state_ref_next(&refs);
        bool manifest = ref.kind == CMD_REF_MANIFEST;
        if (cmd->manifest.refs_wanted == CMD_REFS_NONE ||
            (manifest && cmd->manifest.refs_wanted == CMD_REFS_BLOBS))
            continue;
        struct state_key key = state_key_digest(cmd->repo, &ref.digest);
        int rc = state_row_exists(kv, manifest ? NAMES_MANIFESTS : NAMES_LINKS, &key);
        if (rc == -ENOENT)
            state_missing_add(out, &ref.digest);
        else if (rc)
            return rc;
    }
    return 0;
}

static struct names_manifest row_make(const struct state_cmd *cmd)
{
    const struct state_manifest *m = &cmd->manifest;
    return (struct names_manifest){
        .size = cmd->size,
        .time_ms = cmd->head.time_ms,
        .media_type_len = (uint16_t)m->media_type.len,
        .artifact_type_len = (uint16_t)m->artifact_type.len,
        .has_subject = m->has_subject,
        .ref_count = m->refs_count,
    };
}

/* A manifest that the repository does not have yet. */
static int manifest_add(struct kv *kv, const struct state_cmd *cmd, struct manifest_key *m,
                        struct names_repo *repo)
{
    int held = state_row_exists(kv, NAMES_LINKS, &m->key);
    if (held && held != -ENOENT)
        return held;
    m->row = row_make(cmd);
    int rc = manifest_row_put(kv, cmd, m);
    if (rc == 0)
        rc = referrer_put(kv, cmd);
    repo->manifests++;
    return rc ? rc : state_hold_add(kv, repo, &cmd->digest, cmd->size, held == 0);
}

/* True if the row in the file is what this command would write but for its time and its tags. */
static int manifest_same(struct kv *kv, const struct state_cmd *cmd, const struct manifest_key *m, bool *same)
{
    struct kv_bytes value;
    struct names_manifest row = row_make(cmd);
    int rc = kv_get(kv, NAMES_MANIFESTS, state_key_bytes(&m->key), &value);
    if (rc)
        return rc;
    row.time_ms = m->row.time_ms;
    row.tag_count = m->row.tag_count;
    const uint8_t *types = (const uint8_t *)value.data + sizeof(row);
    const struct state_manifest *args = &cmd->manifest;
    *same = memcmp(&row, &m->row, sizeof(row)) == 0 &&
            value.len >= sizeof(row) + args->media_type.len + args->artifact_type.len &&
            memcmp(types, args->media_type.data, args->media_type.len) == 0 &&
            memcmp(types + args->media_type.len, args->artifact_type.data, args->artifact_type.len) == 0;
    return 0;
}

/* The same bytes pushed again, perhaps under another media type: the row follows, its time and tags stay. */
static int manifest_again(struct kv *kv, const struct state_cmd *cmd, struct manifest_key *m, bool *changed)
{
    bool same = false;
    int rc = manifest_same(kv, cmd, m, &same);
    if (rc || same)
        return rc;
    struct names_manifest old = m->row;
    rc = referrer_del(kv, cmd->repo, &cmd->digest, &m->key);
    m->row = row_make(cmd);
    m->row.time_ms = old.time_ms;
    m->row.tag_count = old.tag_count;
    if (rc == 0)
        rc = manifest_row_put(kv, cmd, m);
    *changed = true;
    return rc ? rc : referrer_put(kv, cmd);
}

/* Whether the tags may come to be, or move to the manifest, and how many are new. 0, -EPERM, -errno. */
static int tags_check(struct kv *kv, struct state_event *out, const struct policy_rules *rules,
                      uint64_t *fresh)
{
    const struct state_cmd *cmd = &out->cmd;
    bool copied = cmd->manifest.refs_wanted == CMD_REFS_NONE; /* there, the other registry decides */
    for (uint32_t i = 0; i < cmd->tags_count; i++) {
        struct state_key key = state_key_tag(cmd->repo, cmd->tags[i]);
        struct digest old;
        int rc = state_tag_get(kv, &key, &old);
        if (rc == -ENOENT) {
            bool again = false;
            for (uint32_t k = 0; k < i && !again; k++)
                again = cmd->tags[k].len == cmd->tags[i].len &&
                        memcmp(cmd->tags[k].data, cmd->tags[i].data, cmd->tags[i].len) == 0;
            *fresh += !again;
        } else if (rc == 0 && !copied && !digest_equal(&old, &cmd->digest)) {
            rc = state_rules_tag(out, rules, cmd->tags[i], "cannot be moved to another manifest");
            if (rc)
                return rc;
        } else if (rc) {
            return rc;
        }
    }
    return 0;
}

/* Everything that policies say of the push. 0, -EPERM (refused), -errno. */
static int put_check(struct kv *kv, struct state_event *out, const struct names_repo *repo)
{
    const struct state_cmd *cmd = &out->cmd;
    struct state_key key = state_key_digest(cmd->repo, &cmd->digest);
    struct policy_rules rules;
    uint64_t fresh = 0;
    int rc = state_rules_change(kv, out, &rules);
    if (rc == 0)
        rc = tags_check(kv, out, &rules, &fresh);
    if (rc)
        return rc;
    int held = state_row_exists(kv, NAMES_MANIFESTS, &key);
    if (held == -ENOENT)
        held = state_row_exists(kv, NAMES_LINKS, &key);
    if (held && held != -ENOENT)
        return held;
    return state_rules_grow(kv, out, &rules, repo, held == 0 ? 0 : cmd->size, fresh);
}

int state_manifest_put(struct kv *kv, struct state_event *out)
{
    const struct state_cmd *cmd = &out->cmd;
    struct names_repo repo;
    struct manifest_key m;
    bool changed = false;
    int rc = refs_check(kv, out);
    if (rc || out->status != CMD_OK)
        return rc;
    rc = state_blob_size_check(kv, &cmd->digest, cmd->size, out);
    if (rc)
        return rc == -EINVAL ? 0 : rc;
    rc = state_repo_open(kv, cmd, &repo);
    if (rc == 0)
        rc = put_check(kv, out, &repo);
    if (rc)
        return rc == -EPERM ? 0 : rc;
    rc = manifest_get(kv, cmd->repo, &cmd->digest, &m);
    if (rc == -ENOENT) {
        rc = manifest_add(kv, cmd, &m, &repo);
        changed = true;
    } else if (rc == 0) {
        rc = manifest_again(kv, cmd, &m, &changed);
    }
    if (rc == 0)
        rc = state_marks_use(kv, cmd, &changed);
    for (uint32_t i = 0; i < cmd->tags_count && rc == 0; i++) {
        rc = tag_point(kv, cmd, cmd->tags[i], &repo);
        changed |= rc > 0;
        rc = rc > 0 ? 0 : rc;
    }
    if (rc == 0 && changed)
        rc = state_repo_save(kv, &repo, out);
    return rc ? rc : state_holders_change(kv, out);
}

int state_manifest_drop(struct kv *kv, struct state_text repo, const struct digest *d, struct names_repo *row)
{
    struct manifest_key m;
    int rc = manifest_get(kv, repo, d, &m);
    if (rc)
        return rc;
    int held = state_row_exists(kv, NAMES_LINKS, &m.key);
    if (held && held != -ENOENT)
        return held;
    if (row->manifests == 0)
        return -EUCLEAN;
    row->manifests--;
    rc = referrer_del(kv, repo, d, &m.key);
    if (rc == 0)
        rc = kv_del(kv, NAMES_MANIFESTS, state_key_bytes(&m.key));
    return rc ? rc : state_hold_drop(kv, row, d, m.row.size, held == 0);
}

struct tags {
    struct kv *kv;
    struct state_event *out;
    const struct policy_rules *rules;
    struct names_repo *repo;
    uint32_t dropped;
};

static int tag_mutable(void *arg, struct state_text tag)
{
    const struct tags *t = arg;
    return state_rules_tag(t->out, t->rules, tag, "keeps its manifest");
}

/* Removes a tag that is there. */
static int tag_del(struct kv *kv, struct state_text repo, struct state_text tag, const struct digest *d,
                   struct names_repo *row, bool counted)
{
    if (row->tags == 0)
        return -EUCLEAN;
    row->tags--;
    return state_tag_remove(kv, repo, tag, d, counted);
}

static int tag_drop(void *arg, struct state_text tag)
{
    struct tags *t = arg;
    const struct state_cmd *cmd = &t->out->cmd;
    t->dropped++;
    return tag_del(t->kv, cmd->repo, tag, &cmd->digest, t->repo, false);
}

/* Removes the `count` tags that name the manifest, if none of them is immutable. 0, -EPERM (refused), -errno.
 */
static int tags_drop(struct kv *kv, struct state_event *out, const struct policy_rules *rules, uint32_t count,
                     struct names_repo *repo)
{
    const struct state_cmd *cmd = &out->cmd;
    struct tags t = {.kv = kv, .out = out, .rules = rules, .repo = repo};
    int rc = rules->p.immutable[0] ? state_tags_of(kv, cmd->repo, &cmd->digest, count, tag_mutable, &t) : 0;
    if (rc == 0)
        rc = state_tags_of(kv, cmd->repo, &cmd->digest, count, tag_drop, &t);
    return rc || t.dropped == count ? rc : -EUCLEAN;
}

int state_manifest_delete(struct kv *kv, struct state_event *out)
{
    const struct state_cmd *cmd = &out->cmd;
    struct names_repo repo;
    struct manifest_key m;
    struct policy_rules rules;
    bool marked = false;
    int rc = state_repo_need(kv, cmd, &repo, out);
    if (rc)
        return rc == -ENOENT ? 0 : rc;
    rc = manifest_get(kv, cmd->repo, &cmd->digest, &m);
    if (rc)
        return rc == -ENOENT ? state_refuse(out, CMD_MANIFEST_UNKNOWN) : rc;
    rc = state_rules_change(kv, out, &rules);
    if (rc == 0)
        rc = tags_drop(kv, out, &rules, m.row.tag_count, &repo);
    if (rc)
        return rc == -EPERM ? 0 : rc;
    if (rc == 0)
        rc = state_mark_use(kv, cmd->repo, NAMES_MARK_MANIFEST, &cmd->digest, &marked);
    if (rc == 0)
        rc = state_manifest_drop(kv, cmd->repo, &cmd->digest, &repo);
    return rc ? rc : state_repo_save(kv, &repo, out);
}

int state_tag_delete(struct kv *kv, struct state_event *out)
{
    const struct state_cmd *cmd = &out->cmd;
    struct names_repo repo;
    struct policy_rules rules;
    struct digest d;
    struct state_key key = state_key_tag(cmd->repo, cmd->tags[0]);
    int rc = state_repo_need(kv, cmd, &repo, out);
    if (rc)
        return rc == -ENOENT ? 0 : rc;
    rc = state_tag_get(kv, &key, &d);
    if (rc)
        return rc == -ENOENT ? state_refuse(out, CMD_TAG_UNKNOWN) : rc;
    rc = state_rules_change(kv, out, &rules);
    if (rc == 0)
        rc = state_rules_tag(out, &rules, cmd->tags[0], "cannot be deleted");
    if (rc)
        return rc == -EPERM ? 0 : rc;
    rc = tag_del(kv, cmd->repo, cmd->tags[0], &d, &repo, true);
    return rc ? rc : state_repo_save(kv, &repo, out);
}

int state_tag_drop(struct kv *kv, struct state_text repo, struct state_text tag, const struct digest *d,
                   uint64_t time_ms, struct names_repo *row)
{
    struct state_key key = state_key_tag(repo, tag);
    struct names_tag there;
    struct digest now;
    int rc = state_row_get(kv, NAMES_TAGS, &key, &there, sizeof(there));
    if (rc)
        return rc == -ENOENT ? 0 : rc;
    if (digest_unpack(there.digest, sizeof(there.digest), &now) == 0)
        return -EUCLEAN;
    if (there.time_ms != time_ms || !digest_equal(&now, d))
        return 0;
    rc = tag_del(kv, repo, tag, &now, row, true);
    return rc ? rc : 1;
}
