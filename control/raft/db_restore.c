/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Everything in a file is replaced by what a snapshot's copy has, in one transaction of the environment that
 * stands: readers see what was or what comes, their maps and descriptors stay what they are. LMDB writes the
 * pages that do not fit in its list of dirty ones as it goes, so memory is bounded; for a while the disk has
 * both.
 */
#include <string.h>

#include "check.h"
#include "db_internal.h"

struct source {
    MDB_env *env;
    MDB_txn *txn;
};

static int source_open(struct source *s, const char *path)
{
    memset(s, 0, sizeof(*s));
    int rc = mdb_env_create(&s->env);
    if (rc == 0)
        rc = mdb_env_set_maxdbs(s->env, STATE_DB_COUNT);
    if (rc == 0)
        rc = mdb_env_open(s->env, path, MDB_NOSUBDIR | MDB_RDONLY | MDB_NOLOCK, 0);
    if (rc == 0)
        rc = mdb_txn_begin(s->env, NULL, MDB_RDONLY, &s->txn);
    return db_error(rc);
}

static void source_close(struct source *s)
{
    if (s->txn)
        mdb_txn_abort(s->txn);
    if (s->env)
        mdb_env_close(s->env);
}

static int rows_copy(MDB_cursor *from, MDB_cursor *to)
{
    MDB_val k, v;
    int rc;
    while ((rc = mdb_cursor_get(from, &k, &v, MDB_NEXT)) == 0) {
        rc = mdb_cursor_put(to, &k, &v, MDB_APPEND);
        if (rc)
            return db_error(rc);
    }
    return rc == MDB_NOTFOUND ? 0 : db_error(rc);
}

static int table_copy(struct db *db, const struct source *s, unsigned i)
{
    MDB_txn *txn = db->write.txn[db_file_of(i)];
    MDB_cursor *from = NULL, *to = NULL;
    MDB_dbi dbi;
    int rc = db_error(mdb_drop(txn, db->dbi[i], 0));
    if (rc == 0)
        rc = db_error(mdb_dbi_open(s->txn, db_tables[i], 0, &dbi));
    if (rc)
        return rc == -ENOENT ? 0 : rc; /* a version that has no such table yet: it is empty there */
    rc = db_error(mdb_cursor_open(s->txn, dbi, &from));
    if (rc == 0)
        rc = db_error(mdb_cursor_open(txn, db->dbi[i], &to));
    if (rc == 0)
        rc = rows_copy(from, to);
    if (to)
        mdb_cursor_close(to);
    if (from)
        mdb_cursor_close(from);
    return rc;
}

static int meta_read(const struct source *s, MDB_dbi dbi, const char *name, void *row, size_t len)
{
    MDB_val k = {strlen(name), (void *)(uintptr_t)name}, v;
    int rc = db_error(mdb_get(s->txn, dbi, &k, &v));
    if (rc || v.mv_size < len)
        return rc ? rc : -EUCLEAN;
    memcpy(row, v.mv_data, len);
    return 0;
}

/* Where the copy is, if it is one of ours, and whether its index is whole. */
static int position_get(const struct db *db, const struct source *s, struct db_applied *out,
                        bool *index_whole)
{
    struct names_meta meta;
    struct names_index_state index;
    MDB_dbi dbi;
    int rc = db_error(mdb_dbi_open(s->txn, "meta", 0, &dbi));
    if (rc == 0)
        rc = meta_read(s, dbi, DB_META_STATE, &meta, sizeof(meta));
    if (rc)
        return rc == -ENOENT ? -EUCLEAN : rc;
    if (meta.magic != NAMES_MAGIC ||
        memcmp(meta.cluster_id, db->config.cluster_id, sizeof(meta.cluster_id)) != 0)
        return -EUCLEAN;
    *out = (struct db_applied){meta.applied_index, meta.applied_term};
    *index_whole =
        meta_read(s, dbi, DB_META_INDEX, &index, sizeof(index)) == 0 && names_index_is_whole(&meta, &index);
    return meta.version == NAMES_VERSION ? 0 : -EPROTO;
}

static int tables_copy(struct db *db, const struct source *s, enum db_file file)
{
    int rc = db_txn_open(&db->write, file);
    if (rc == 0)
        db->write.dirty[file] = true;
    for (unsigned i = 0; i < STATE_DB_COUNT && rc == 0; i++)
        if (db_file_of(i) == file && i != NAMES_META && i != PRIVATE_META)
            rc = table_copy(db, s, i);
    return rc;
}

int db_restore(struct db *db, enum db_file file, const char *path)
{
    struct source source;
    struct db_applied applied, before = db->file[file].applied;
    bool index_whole, index_before = db->index_whole;
    struct kv *kv;
    int rc = source_open(&source, path);
    if (rc == 0)
        rc = position_get(db, &source, &applied, &index_whole);
    if (rc == 0)
        rc = db_begin(db, &kv);
    if (rc == 0) {
        rc = tables_copy(db, &source, file);
        /* The file is what the copy is, even where that is less than it had. */
        db->file[file].applied = (struct db_applied){0, 0};
        if (file == DB_NAMES)
            db->index_whole = index_whole;
        if (rc == 0)
            rc = db_file_commit(db, file, applied);
        db_abort(db);
        if (rc) {
            db->file[file].applied = before;
            db->index_whole = index_before;
        }
        db->suspect = rc != 0;
    }
    if (rc == 0)
        rc = db_error(mdb_env_sync(db->file[file].env, 1));
    if (rc == 0)
        db->file[file].opened_at = db->file[file].applied;
    if (rc == 0 && file == DB_NAMES)
        rc = db_pins_advance(db);
    source_close(&source);
    return rc;
}
