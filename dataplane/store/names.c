/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A bracket is: announce the newest transaction, renew the read transaction (no system call: without a lock
 * file LMDB only copies the newest root), look up, clear. The protocol itself is include/names_reader.h.
 */
#include "dataplane/store/names.h"

#include <lmdb.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "check.h"
#include "names_reader.h"

struct names_file {
    MDB_env *env;
    struct names_epochs *epochs;
    MDB_dbi dbi[NAMES_DB_COUNT];
};

struct names {
    struct names_file *file;
    struct names_epoch *mine;
    MDB_txn *txn;
    MDB_cursor *cursor[NAMES_DB_COUNT]; /* only of the databases that are walked */
    bool reading;
};

static const uint8_t db_walked[] = {NAMES_TAGS, NAMES_REPOS, NAMES_REFERRERS, NAMES_INDEX};

static int error_of(int rc)
{
    switch (rc) {
    case 0:
        return 0;
    case MDB_NOTFOUND:
        return -ENOENT;
    case MDB_BAD_VALSIZE:
        return -EINVAL;
    default:
        if (rc > 0)
            return -rc; /* an errno */
        /* MDB_MAP_RESIZED among them: both sides map NAMES_MAP_BYTES, so a larger file is not ours. */
        return -EIO;
    }
}

/* ------------------------------------------------------------------ the file */

/* A read transaction of a thread, reset. Making one reads only the meta page, of which nothing is kept. */
static int txn_new(MDB_env *env, MDB_txn **out)
{
    int rc = mdb_txn_begin(env, NULL, MDB_RDONLY, out);
    if (rc == 0)
        mdb_txn_reset(*out);
    return error_of(rc);
}

/* The handles live as long as the environment, once the transaction that opened them has ended well. */
static int dbs_open(struct names_file *f, const char **why)
{
    static const char *const names[] = NAMES_DB_NAMES;
    _Static_assert(ARRAY_SIZE(names) == NAMES_DB_COUNT, "one name for each database");
    struct names_epoch *mine = &f->epochs->ring[0];
    MDB_txn *txn;
    int err = txn_new(f->env, &txn);
    if (err)
        return err;
    err = error_of(names_read_begin(f->epochs, mine, txn));
    if (err)
        goto err_abort;
    *why = "the names file lacks one of its tables: control has not made it, or it is another file";
    for (unsigned i = 0; err == 0 && i < NAMES_DB_COUNT; i++)
        err = error_of(mdb_dbi_open(txn, names[i], 0, &f->dbi[i]));
    if (err)
        goto err_end;
    err = error_of(mdb_txn_commit(txn));
    names_epoch_clear(mine);
    return err;
err_end:
    names_epoch_clear(mine);
err_abort:
    mdb_txn_abort(txn);
    return err;
}

int names_file_open(const char *path, struct names_epochs *epochs, struct names_file **out, const char **why)
{
    struct names_file *f = calloc(1, sizeof(*f));
    *why = "no memory for the names file";
    if (!f)
        return -ENOMEM;
    f->epochs = epochs;
    int err = error_of(mdb_env_create(&f->env));
    if (err)
        goto err_free;
    err = error_of(mdb_env_set_maxdbs(f->env, NAMES_DB_COUNT));
    if (err == 0)
        err = error_of(mdb_env_set_mapsize(f->env, NAMES_MAP_BYTES));
    if (err)
        goto err_close;
    *why = "the names file cannot be opened as an LMDB file";
    err = error_of(mdb_env_open(f->env, path, MDB_RDONLY | MDB_NOSUBDIR | MDB_NOLOCK | MDB_NOTLS, 0));
    if (err)
        goto err_close;
    err = dbs_open(f, why);
    if (err)
        goto err_close;
    *why = NULL;
    *out = f;
    return 0;
err_close:
    mdb_env_close(f->env);
err_free:
    free(f);
    return err;
}

void names_file_close(struct names_file *f)
{
    mdb_env_close(f->env);
    free(f);
}

static int cursors_open(struct names *n)
{
    int err = error_of(names_read_begin(n->file->epochs, n->mine, n->txn));
    if (err)
        return err;
    for (unsigned i = 0; err == 0 && i < ARRAY_SIZE(db_walked); i++)
        err = error_of(mdb_cursor_open(n->txn, n->file->dbi[db_walked[i]], &n->cursor[db_walked[i]]));
    names_read_end(n->mine, n->txn);
    return err;
}

int names_new(struct names_file *f, unsigned ring, struct names **out)
{
    CHECK(ring < RINGS_MAX);
    struct names *n = calloc(1, sizeof(*n));
    if (!n)
        return -ENOMEM;
    n->file = f;
    n->mine = &f->epochs->ring[ring];
    int err = txn_new(f->env, &n->txn);
    if (err)
        goto err_free;
    err = cursors_open(n);
    if (err)
        goto err_all;
    *out = n;
    return 0;
err_all:
    names_free(n);
    return err;
err_free:
    free(n);
    return err;
}

void names_free(struct names *n)
{
    CHECK(!n->reading);
    for (unsigned i = 0; i < ARRAY_SIZE(db_walked); i++)
        if (n->cursor[db_walked[i]])
            mdb_cursor_close(n->cursor[db_walked[i]]);
    mdb_txn_abort(n->txn);
    free(n);
}

/* ------------------------------------------------------------------ the bracket */

bool names_is_fresh(const struct names *n)
{
    uint64_t until = atomic_load(&n->file->epochs->fresh_until_ms);
    struct timespec ts;
    if (until == NAMES_FRESH_ALWAYS || until == NAMES_FRESH_UNSAID)
        return true;
    /* Not the time at which the batch began: a lease is counted in the time that passes. */
    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000 < until;
}

bool names_is_said_fresh(const struct names *n)
{
    return atomic_load(&n->file->epochs->fresh_until_ms) != NAMES_FRESH_UNSAID && names_is_fresh(n);
}

int names_begin(struct names *n)
{
    CHECK(!n->reading);
    int err = error_of(names_read_begin(n->file->epochs, n->mine, n->txn));
    n->reading = err == 0;
    return err;
}

void names_end(struct names *n)
{
    CHECK(n->reading);
    n->reading = false;
    names_read_end(n->mine, n->txn);
}

/* ------------------------------------------------------------------ look-ups */

static int get(struct names *n, enum names_db db, const void *key, size_t key_len, MDB_val *value)
{
    CHECK(n->reading);
    if (key_len == 0 || key_len > NAMES_KEY_MAX)
        return -EINVAL;
    MDB_val k = {key_len, (void *)(uintptr_t)key};
    return error_of(mdb_get(n->txn, n->file->dbi[db], &k, value));
}

/* A value of exactly one structure, copied out. */
static int get_fixed(struct names *n, enum names_db db, const void *key, size_t key_len, void *out,
                     size_t size)
{
    MDB_val v;
    int err = get(n, db, key, key_len, &v);
    if (err)
        return err;
    if (v.mv_size != size)
        return -EIO;
    memcpy(out, v.mv_data, size);
    return 0;
}

int names_meta_get(struct names *n, struct names_meta *out)
{
    int err = get_fixed(n, NAMES_META, "state", 5, out, sizeof(*out));
    if (err == 0 && (out->magic != NAMES_MAGIC || out->version != NAMES_VERSION))
        err = -EIO;
    return err;
}

int names_index_whole(struct names *n)
{
    struct names_index_state index;
    struct names_meta meta;
    int err = names_meta_get(n, &meta);
    if (err == 0)
        err = get_fixed(n, NAMES_META, "index", 5, &index, sizeof(index));
    if (err)
        return err == -ENOENT ? 0 : err;
    return names_index_is_whole(&meta, &index);
}

int names_repo_get(struct names *n, struct view repo, struct names_repo *out)
{
    return get_fixed(n, NAMES_REPOS, repo.p, repo.len, out, sizeof(*out));
}

int names_tag_get(struct names *n, struct view repo, struct view tag, struct digest *out)
{
    uint8_t key[NAMES_KEY_MAX];
    struct names_tag t;
    int err = get_fixed(n, NAMES_TAGS, key, names_key(key, repo.p, repo.len, tag.p, tag.len), &t, sizeof(t));
    if (err)
        return err;
    return digest_unpack(t.digest, sizeof(t.digest), out) ? 0 : -EIO;
}

/* The part of a manifest's value behind its head. */
static int manifest_unpack(const uint8_t *p, size_t len, struct names_manifest_record *out)
{
    struct names_manifest head;
    if (len < sizeof(head))
        return -EIO;
    memcpy(&head, p, sizeof(head));
    p += sizeof(head);
    len -= sizeof(head);
    if (head.media_type_len > MEDIA_TYPE_MAX || head.artifact_type_len > MEDIA_TYPE_MAX ||
        len < (size_t)head.media_type_len + head.artifact_type_len)
        return -EIO;
    out->size = head.size;
    out->tag_count = head.tag_count;
    out->has_subject = head.has_subject != 0;
    out->media_type_len = head.media_type_len;
    out->artifact_type_len = head.artifact_type_len;
    memcpy(out->media_type, p, head.media_type_len);
    memcpy(out->artifact_type, p + head.media_type_len, head.artifact_type_len);
    size_t types = (size_t)head.media_type_len + head.artifact_type_len;
    if (out->has_subject && digest_unpack(p + types, len - types, &out->subject) == 0)
        return -EIO;
    return 0;
}

int names_manifest_get(struct names *n, struct view repo, const struct digest *d,
                       struct names_manifest_record *out)
{
    uint8_t key[NAMES_KEY_MAX];
    MDB_val v;
    int err = get(n, NAMES_MANIFESTS, key, names_key_digest(key, repo.p, repo.len, d), &v);
    return err ? err : manifest_unpack(v.mv_data, v.mv_size, out);
}

int names_link_get(struct names *n, struct view repo, const struct digest *d, struct names_link *out)
{
    uint8_t key[NAMES_KEY_MAX];
    return get_fixed(n, NAMES_LINKS, key, names_key_digest(key, repo.p, repo.len, d), out, sizeof(*out));
}

int names_blob_get(struct names *n, const struct digest *d, struct names_blob *out)
{
    uint8_t key[DIGEST_PACKED_MAX];
    MDB_val v;
    int err = get(n, NAMES_BLOBS, key, digest_pack(d, key), &v);
    if (err)
        return err;
    return names_blob_read(v.mv_data, v.mv_size, out) ? 0 : -EIO;
}

static int policy_get(struct names *n, char kind, struct view repo, size_t len, void *out, size_t size)
{
    uint8_t key[POLICY_KEY_MAX];
    return get_fixed(n, NAMES_POLICIES, key, policy_key(key, kind, repo.p, len), out, size);
}

int names_rules_get(struct names *n, struct view repo, struct policy_rules *out)
{
    size_t len = repo.len;
    memset(out, 0, sizeof(*out));
    if (len > REPO_NAME_MAX)
        return -EINVAL;
    do {
        struct names_policy p;
        int err = policy_get(n, 'P', repo, len, &p, sizeof(p));
        if (err && err != -ENOENT)
            return err;
        if (err == 0)
            policy_merge(out, &p, len);
    } while (policy_widen(repo.p, &len));
    return 0;
}

int names_room_get(struct names *n, struct view repo, uint64_t *left)
{
    size_t len = repo.len;
    *left = UINT64_MAX;
    if (len > REPO_NAME_MAX)
        return -EINVAL;
    do {
        struct names_policy p;
        struct names_policy_use use;
        int err = policy_get(n, 'P', repo, len, &p, sizeof(p));
        if (err == 0 && p.total_bytes)
            err = policy_get(n, 'U', repo, len, &use, sizeof(use));
        if (err && err != -ENOENT)
            return err;
        if (err || !p.total_bytes)
            continue;
        uint64_t room = use.bytes < p.total_bytes ? p.total_bytes - use.bytes : 0;
        if (room < *left)
            *left = room;
    } while (policy_widen(repo.p, &len));
    return 0;
}

int names_mark_get(struct names *n, struct view repo, uint8_t kind, const struct digest *d,
                   struct names_mark *out)
{
    uint8_t key[NAMES_KEY_MAX];
    return get_fixed(n, NAMES_MARKS, key, names_key_mark(key, repo.p, repo.len, kind, d), out, sizeof(*out));
}

int names_mark_blob_get(struct names *n, const struct digest *d, struct names_mark *out)
{
    uint8_t key[NAMES_KEY_MAX];
    return get_fixed(n, NAMES_MARKS, key, names_key_mark_blob(key, d), out, sizeof(*out));
}

/* ------------------------------------------------------------------ walks */

/*
 * Keys that begin with a prefix, in order. show gets the rest of the key and the value; it returns 1 to go
 * on, 0 to stop, or -EIO.
 */
typedef int walk_show(void *ctx, struct view rest, struct view value);

static bool prefixed(const MDB_val *key, const uint8_t *prefix, size_t prefix_len)
{
    return prefix_len == 0 || (key->mv_size >= prefix_len && memcmp(key->mv_data, prefix, prefix_len) == 0);
}

/* Places the cursor at the first key after `start`, or at `start` itself if that is no more than the prefix.
 */
static int walk_seek(MDB_cursor *c, const uint8_t *start, size_t start_len, bool after, MDB_val *key,
                     MDB_val *value)
{
    *key = (MDB_val){start_len, (void *)(uintptr_t)start};
    if (start_len == 0)
        return mdb_cursor_get(c, key, value, MDB_FIRST);
    int rc = mdb_cursor_get(c, key, value, MDB_SET_RANGE);
    if (rc == 0 && after && key->mv_size == start_len && memcmp(key->mv_data, start, start_len) == 0)
        rc = mdb_cursor_get(c, key, value, MDB_NEXT);
    return rc;
}

/* start begins with the prefix. */
static int walk(struct names *n, enum names_db db, const uint8_t *start, size_t start_len, size_t prefix_len,
                uint32_t steps_max, walk_show *show, void *ctx)
{
    CHECK(n->reading && n->cursor[db]);
    MDB_cursor *c = n->cursor[db];
    MDB_val key, value;
    uint32_t steps = 0;
    int rc = mdb_cursor_renew(n->txn, c);
    if (rc == 0 && steps_max > 0)
        rc = walk_seek(c, start, start_len, start_len > prefix_len, &key, &value);
    while (rc == 0 && steps < steps_max && prefixed(&key, start, prefix_len)) {
        struct view rest = {(const char *)key.mv_data + prefix_len, key.mv_size - prefix_len};
        int go_on = show(ctx, rest, view_of(value.mv_data, value.mv_size));
        if (go_on < 0)
            return go_on;
        steps++;
        if (!go_on)
            break;
        rc = mdb_cursor_get(c, &key, &value, MDB_NEXT);
    }
    return rc == 0 || rc == MDB_NOTFOUND ? (int)steps : error_of(rc);
}

struct tag_walk {
    names_tag_fn *fn;
    void *ctx;
};

static int show_tag(void *ctx, struct view rest, struct view value)
{
    struct tag_walk *w = ctx;
    (void)value;
    return w->fn(w->ctx, rest) ? 1 : 0;
}

int names_each_tag(struct names *n, struct view repo, struct view after, uint32_t steps_max, names_tag_fn *fn,
                   void *ctx)
{
    uint8_t start[NAMES_KEY_MAX];
    struct tag_walk w = {fn, ctx};
    size_t len = names_key(start, repo.p, repo.len, after.p, after.len);
    if (len == 0)
        return -EINVAL;
    return walk(n, NAMES_TAGS, start, len, repo.len + 1, steps_max, show_tag, &w);
}

int names_each_repo(struct names *n, struct view after, uint32_t steps_max, names_repo_fn *fn, void *ctx)
{
    struct tag_walk w = {fn, ctx};
    if (after.len > NAMES_KEY_MAX)
        return -EINVAL;
    return walk(n, NAMES_REPOS, (const uint8_t *)after.p, after.len, 0, steps_max, show_tag, &w);
}

struct referrer_walk {
    names_referrer_fn *fn;
    void *ctx;
};

static int show_referrer(void *ctx, struct view rest, struct view value)
{
    struct referrer_walk *w = ctx;
    struct names_referrer r;
    size_t used = digest_unpack((const uint8_t *)rest.p, rest.len, &r.digest);
    if (used == 0 || used != rest.len || value.len < 2)
        return -EIO;
    size_t type_len = (uint8_t)value.p[0] | (size_t)(uint8_t)value.p[1] << 8;
    if (type_len > value.len - 2)
        return -EIO;
    r.artifact_type = view_of(value.p + 2, type_len);
    r.descriptor = view_skip(value, 2 + type_len);
    return w->fn(w->ctx, &r) ? 1 : 0;
}

int names_each_referrer(struct names *n, struct view repo, const struct digest *subject,
                        const struct digest *after, uint32_t steps_max, names_referrer_fn *fn, void *ctx)
{
    uint8_t start[NAMES_KEY_MAX], packed[2 * DIGEST_PACKED_MAX];
    struct referrer_walk w = {fn, ctx};
    size_t subject_len = digest_pack(subject, packed);
    size_t rest_len = subject_len + (after ? digest_pack(after, packed + subject_len) : 0);
    size_t len = names_key(start, repo.p, repo.len, packed, rest_len);
    if (len == 0)
        return -EINVAL;
    return walk(n, NAMES_REFERRERS, start, len, repo.len + 1 + subject_len, steps_max, show_referrer, &w);
}

struct typed_walk {
    struct referrer_walk of;
    struct names *n;
    struct view repo;
    const struct digest *subject;
};

static int show_typed(void *ctx, struct view rest, struct view nothing)
{
    struct typed_walk *w = ctx;
    uint8_t key[NAMES_KEY_MAX], packed[2 * DIGEST_PACKED_MAX];
    MDB_val v;
    (void)nothing;
    size_t len = digest_pack(w->subject, packed);
    if (rest.len > sizeof(packed) - len)
        return -EIO;
    memcpy(packed + len, rest.p, rest.len);
    int err =
        get(w->n, NAMES_REFERRERS, key, names_key(key, w->repo.p, w->repo.len, packed, len + rest.len), &v);
    if (err)
        return err == -ENOENT ? 1 : err;
    return show_referrer(&w->of, rest, view_of(v.mv_data, v.mv_size));
}

int names_each_referrer_of_type(struct names *n, struct view repo, const struct digest *subject,
                                struct view type, const struct digest *after, uint32_t steps_max,
                                names_referrer_fn *fn, void *ctx)
{
    uint8_t start[NAMES_KEY_MAX];
    struct typed_walk w = {{fn, ctx}, n, repo, subject};
    size_t prefix = names_key_index_referrer(start, repo.p, repo.len, subject, type.p, type.len, NULL);
    size_t len = names_key_index_referrer(start, repo.p, repo.len, subject, type.p, type.len, after);
    if (len == 0)
        return -EINVAL;
    return walk(n, NAMES_INDEX, start, len, prefix, steps_max, show_typed, &w);
}
