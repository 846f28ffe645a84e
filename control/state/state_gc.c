/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Garbage: marks, and the steps of its collection. A step names the mark that it goes on from by the index of
 * the entry that made it; whatever uses a thing takes its mark away (state_mark_use, state_marks_use). So
 * what whoever drives the collection has seen may be old: a step is done only if nobody has used the thing
 * since.
 */
#include "state_internal.h"

enum { KEPT_MS = 60000 /* for so long a blob that was kept may wait for its link */ };

static struct state_key mark_key(struct state_text repo, uint8_t kind, const struct digest *d)
{
    struct state_key key;
    key.len = names_key_mark(key.data, repo.data, repo.len, kind, d);
    CHECK(key.len > 0);
    return key;
}

static struct state_key mark_key_blob(const struct digest *d)
{
    struct state_key key;
    key.len = names_key_mark_blob(key.data, d);
    return key;
}

static int mark_get(struct kv *kv, const struct state_key *key, struct names_mark *mark)
{
    return state_row_get(kv, NAMES_MARKS, key, mark, sizeof(*mark));
}

static int mark_put(struct kv *kv, const struct state_key *key, enum names_mark_step step, uint64_t size,
                    const struct state_event *out)
{
    struct names_mark mark = {
        .index = out->index, .time_ms = out->cmd.head.time_ms, .size = size, .step = (uint8_t)step};
    return state_row_put(kv, NAMES_MARKS, key, &mark, sizeof(mark));
}

/* --- whoever uses a thing --- */

int state_mark_use(struct kv *kv, struct state_text repo, uint8_t kind, const struct digest *d, bool *used)
{
    struct state_key key = mark_key(repo, kind, d);
    int rc = kv_del(kv, NAMES_MARKS, state_key_bytes(&key));
    *used |= rc == 0;
    return rc == -ENOENT ? 0 : rc;
}

static int use_both(struct kv *kv, struct state_text repo, const struct digest *d, bool *used)
{
    int rc = state_mark_use(kv, repo, NAMES_MARK_LINK, d, used);
    return rc ? rc : state_mark_use(kv, repo, NAMES_MARK_MANIFEST, d, used);
}

int state_marks_use(struct kv *kv, const struct state_cmd *cmd, bool *used)
{
    const struct state_manifest *m = &cmd->manifest;
    struct state_key key = state_key_tag(cmd->repo, (struct state_text){"", 0});
    struct wire_reader refs = m->refs;
    struct kv_bytes value;
    int rc = state_row_next(kv, NAMES_MARKS, cmd->repo, &key, false, &value);
    if (rc)
        return rc == -ENOENT ? 0 : rc;
    for (uint32_t i = 0; i < m->refs_count && rc == 0; i++) {
        struct state_ref ref = state_ref_next(&refs);
        rc = use_both(kv, cmd->repo, &ref.digest, used);
    }
    if (rc == 0 && m->has_subject)
        rc = use_both(kv, cmd->repo, &m->subject, used);
    return rc ? rc : use_both(kv, cmd->repo, &cmd->digest, used);
}

int state_marks_drop(struct kv *kv, struct state_text repo)
{
    struct state_key key = state_key_tag(repo, (struct state_text){"", 0});
    struct kv_bytes value;
    int rc;
    while ((rc = state_row_next(kv, NAMES_MARKS, repo, &key, false, &value)) == 0) {
        rc = kv_del(kv, NAMES_MARKS, state_key_bytes(&key));
        if (rc)
            return rc;
    }
    return rc == -ENOENT ? 0 : rc;
}

int state_blob_deleting(struct kv *kv, const struct digest *d)
{
    struct state_key key = mark_key_blob(d);
    struct names_mark mark;
    int rc = mark_get(kv, &key, &mark);
    if (rc)
        return rc == -ENOENT ? 0 : rc;
    return mark.step == NAMES_MARK_DELETING ? 1 : 0;
}

int state_blob_linked(struct kv *kv, const struct digest *d)
{
    struct state_key key = mark_key_blob(d);
    int rc = kv_del(kv, NAMES_MARKS, state_key_bytes(&key));
    return rc == -ENOENT ? 0 : rc;
}

/* --- steps in a repository --- */

struct step {
    struct kv *kv;
    struct state_event *out;
    struct names_repo repo;
    uint32_t done;
    uint64_t bytes;
};

static void answer(struct state_event *out, const struct step *s)
{
    struct wire_writer w = {.buf = out->detail, .cap = sizeof(out->detail)};
    wire_put_u32(&w, s->done);
    wire_put_u64(&w, s->bytes);
    out->detail_len = w.len;
    out->changed = s->done > 0;
}

/* The size of the thing. -ENOENT: it is not there, or is a manifest with a tag. */
static int thing_get(const struct step *s, const struct digest *d, uint64_t *size)
{
    const struct state_cmd *cmd = &s->out->cmd;
    struct state_key key = state_key_digest(cmd->repo, d);
    struct names_manifest manifest = {0};
    struct names_link link = {0};
    bool is_link = cmd->gc.kind == NAMES_MARK_LINK;
    int rc = is_link ? state_row_get(s->kv, NAMES_LINKS, &key, &link, sizeof(link))
                     : state_row_get(s->kv, NAMES_MANIFESTS, &key, &manifest, sizeof(manifest));
    *size = is_link ? link.size : manifest.size;
    return rc == 0 && manifest.tag_count ? -ENOENT : rc;
}

static int thing_drop(struct step *s, const struct digest *d, const struct state_key *mark)
{
    const struct state_cmd *cmd = &s->out->cmd;
    int rc = kv_del(s->kv, NAMES_MARKS, state_key_bytes(mark));
    if (rc)
        return rc;
    if (cmd->gc.kind == NAMES_MARK_LINK)
        return state_link_drop(s->kv, cmd->repo, d, &s->repo);
    return state_manifest_drop(s->kv, cmd->repo, d, &s->repo);
}

/* 0, also where it is not to be done. */
static int repo_step(struct step *s, const struct state_gc_entry *e)
{
    const struct state_cmd *cmd = &s->out->cmd;
    struct state_key key = mark_key(cmd->repo, cmd->gc.kind, &e->digest);
    struct names_mark mark;
    uint64_t size;
    int rc = thing_get(s, &e->digest, &size);
    if (rc)
        return rc == -ENOENT ? 0 : rc;
    rc = mark_get(s->kv, &key, &mark);
    if (rc && rc != -ENOENT)
        return rc;
    bool there = rc == 0, meant = there && mark.index == e->mark;
    if (cmd->gc.step == CMD_GC_SEE && !there)
        rc = mark_put(s->kv, &key, NAMES_MARK_SEEN, size, s->out);
    else if (cmd->gc.step == CMD_GC_GO && meant && mark.step == NAMES_MARK_SEEN)
        rc = mark_put(s->kv, &key, NAMES_MARK_GOING, size, s->out);
    else if (cmd->gc.step == CMD_GC_DROP && meant && mark.step == NAMES_MARK_GOING)
        rc = thing_drop(s, &e->digest, &key);
    else
        return 0;
    s->done++;
    s->bytes += size;
    return rc;
}

int state_gc_repo(struct kv *kv, struct state_event *out)
{
    struct wire_reader entries = out->cmd.gc.entries;
    struct step s = {.kv = kv, .out = out};
    int rc = state_repo_need(kv, &out->cmd, &s.repo, out);
    if (rc)
        return rc == -ENOENT ? 0 : rc;
    for (uint32_t i = 0; i < out->cmd.gc.count && rc == 0; i++) {
        struct state_gc_entry e = state_gc_next(&entries);
        rc = repo_step(&s, &e);
    }
    if (rc)
        return rc;
    answer(out, &s);
    return out->cmd.gc.step == CMD_GC_DROP && s.done ? state_repo_write(kv, &s.repo, out) : 0;
}

/* --- steps of blobs --- */

/* Its holders are not counted: it has no links. */
static int blob_drop(struct kv *kv, const struct digest *d, const struct names_blob *before)
{
    uint8_t key[DIGEST_PACKED_MAX];
    int rc = state_totals_move(kv, before, NULL);
    return rc ? rc : kv_del(kv, NAMES_BLOBS, (struct kv_bytes){key, digest_pack(d, key)});
}

static int blob_step(struct step *s, const struct state_gc_entry *e)
{
    uint64_t now_ms = s->out->cmd.head.time_ms;
    struct state_key key = mark_key_blob(&e->digest);
    struct names_mark mark = {0};
    struct names_blob blob;
    int rc = state_blob_get(s->kv, &e->digest, &blob);
    if (rc || blob.links)
        return rc == -ENOENT ? 0 : rc;
    rc = mark_get(s->kv, &key, &mark);
    if (rc && rc != -ENOENT)
        return rc;
    bool free = rc == -ENOENT || (mark.step == NAMES_MARK_KEPT && now_ms >= mark.time_ms + KEPT_MS);
    if (s->out->cmd.gc.step == CMD_GC_SEE) {
        if (!free)
            return 0;
        rc = mark_put(s->kv, &key, NAMES_MARK_DELETING, blob.size, s->out);
    } else {
        if (mark.step != NAMES_MARK_DELETING || mark.index != e->mark)
            return 0;
        rc = kv_del(s->kv, NAMES_MARKS, state_key_bytes(&key));
        if (rc == 0)
            rc = blob_drop(s->kv, &e->digest, &blob);
    }
    s->done++;
    s->bytes += blob.size;
    return rc;
}

int state_gc_blobs(struct kv *kv, struct state_event *out)
{
    struct wire_reader entries = out->cmd.gc.entries;
    struct step s = {.kv = kv, .out = out};
    int rc = 0;
    for (uint32_t i = 0; i < out->cmd.gc.count && rc == 0; i++) {
        struct state_gc_entry e = state_gc_next(&entries);
        rc = blob_step(&s, &e);
    }
    if (rc == 0)
        answer(out, &s);
    return rc;
}

/* Nobody can be relied on to have its file any more, but who is about to say so. */
int state_gc_keep(struct kv *kv, struct state_event *out)
{
    const struct digest *d = &out->cmd.digest;
    struct state_key key = mark_key_blob(d);
    struct names_mark mark;
    struct names_blob before, now;
    int rc = mark_get(kv, &key, &mark);
    if (rc || mark.step != NAMES_MARK_DELETING)
        return rc == -ENOENT ? 0 : rc;
    rc = state_blob_get(kv, d, &before);
    now = before;
    now.holder_count = 0;
    memset(now.holder, 0, sizeof(now.holder));
    if (rc == 0)
        rc = state_blob_move(kv, d, &before, &now);
    out->changed = true;
    return rc ? rc : mark_put(kv, &key, NAMES_MARK_KEPT, mark.size, out);
}

/* --- totals --- */

static const struct kv_bytes totals_key = {NAMES_TOTALS_KEY, sizeof(NAMES_TOTALS_KEY) - 1};

static int totals_get(struct kv *kv, struct names_totals *t)
{
    struct kv_bytes value;
    int rc = kv_get(kv, NAMES_MARKS, totals_key, &value);
    if (rc == 0 && value.len != sizeof(*t))
        rc = -EUCLEAN;
    if (rc == 0)
        memcpy(t, value.data, sizeof(*t));
    return rc;
}

static int totals_put(struct kv *kv, const struct names_totals *t)
{
    return kv_put(kv, NAMES_MARKS, totals_key, (struct kv_bytes){t, sizeof(*t)});
}

int state_totals_read(struct kv *kv, struct names_totals *out)
{
    return totals_get(kv, out);
}

/* Counts a blob in, or out (sign -1). */
static void totals_count(struct names_totals *t, uint64_t size, uint64_t links, int sign)
{
    uint64_t one = (uint64_t)(int64_t)sign, bytes = sign < 0 ? 0 - size : size;
    t->blobs += one;
    t->bytes += bytes;
    if (links)
        return;
    t->free_blobs += one;
    t->free_bytes += bytes;
}

/* Without a row nothing is counted, but in a state that has no blob yet. */
int state_totals_move(struct kv *kv, const struct names_blob *before, const struct names_blob *now)
{
    struct names_totals t = {0};
    struct kv_bytes key, value, first = {"", 1};
    int rc = totals_get(kv, &t);
    if (rc == -ENOENT && !before)
        rc = kv_seek(kv, NAMES_BLOBS, first, false, &key, &value) == -ENOENT ? 0 : -ENOENT;
    if (rc)
        return rc == -ENOENT ? 0 : rc;
    if (before)
        totals_count(&t, before->size, before->links, -1);
    if (now)
        totals_count(&t, now->size, now->links, 1);
    return totals_put(kv, &t);
}

int state_gc_totals(struct kv *kv, struct state_event *out)
{
    struct names_totals t = {0};
    struct state_key at = {.data = {0}, .len = 1};
    struct kv_bytes key, value;
    int rc = totals_get(kv, &t);
    if (rc != -ENOENT)
        return rc;
    while ((rc = kv_seek(kv, NAMES_BLOBS, state_key_bytes(&at), true, &key, &value)) == 0) {
        uint64_t counts[2]; /* the first two fields of struct names_blob */
        if (value.len < sizeof(counts) || key.len > sizeof(at.data))
            return -EUCLEAN;
        memcpy(counts, value.data, sizeof(counts));
        totals_count(&t, counts[0], counts[1], 1);
        memcpy(at.data, key.data, key.len);
        at.len = key.len;
    }
    out->changed = true;
    return rc == -ENOENT ? totals_put(kv, &t) : rc;
}
