/* SPDX-License-Identifier: Apache-2.0 */
#include "db.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "check.h"
#include "db_internal.h"

enum { FILE_PATH_MAX = 4096 };

static const struct {
    const char *name;
    mode_t mode;
    unsigned first_db, db_count;
} files[DB_FILES] = {
    [DB_NAMES] = {"names.mdb", 0640, 0, NAMES_DB_COUNT},
    [DB_PRIVATE] = {"private.mdb", 0600, PRIVATE_META, STATE_DB_COUNT - PRIVATE_META},
};

const char *db_file_name(enum db_file file)
{
    return files[file].name;
}

int db_error(int rc)
{
    switch (rc) {
    case MDB_NOTFOUND:
        return -ENOENT;
    case MDB_MAP_FULL:
    case EDQUOT:
        return -ENOSPC;
    case MDB_TXN_FULL:
        return -ENOBUFS;
    case MDB_PANIC:
        return -ENOTRECOVERABLE;
    case MDB_CORRUPTED:
    case MDB_PAGE_NOTFOUND:
    case MDB_INVALID:
    case MDB_VERSION_MISMATCH:
        return -EUCLEAN;
    default:
        return rc > 0 ? -rc : rc == 0 ? 0 : -EIO;
    }
}

int db_fail(char *err, size_t err_len, int error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(err, err_len, format, args);
    va_end(args);
    return error;
}

int db_txn_open(struct db_view *v, enum db_file file)
{
    if (v->txn[file])
        return 0;
    v->dirty[file] = false;
    return db_error(mdb_txn_begin(v->db->file[file].env, NULL, v->read_only ? MDB_RDONLY : 0, &v->txn[file]));
}

static void cursors_forget(struct db_view *v, enum db_file file)
{
    for (unsigned i = 0; i < STATE_DB_COUNT; i++) {
        if (db_file_of(i) != file)
            continue;
        if (v->cursor[i])
            mdb_cursor_close(v->cursor[i]);
        v->cursor[i] = NULL;
    }
}

static void txn_abort(struct db_view *v, enum db_file file)
{
    cursors_forget(v, file);
    if (v->txn[file])
        mdb_txn_abort(v->txn[file]);
    v->txn[file] = NULL;
}

static struct db_view *view_of(struct kv *kv)
{
    return container_of(kv, struct db_view, kv);
}

/* LMDB takes no const pointers but does not write through these. */
static MDB_val val_of(struct kv_bytes b)
{
    return (MDB_val){.mv_size = b.len, .mv_data = (void *)(uintptr_t)b.data};
}

static int kv_lmdb_get(struct kv *kv, unsigned i, struct kv_bytes key, struct kv_bytes *value)
{
    struct db_view *view = view_of(kv);
    MDB_val k = val_of(key), v;
    int rc = db_txn_open(view, db_file_of(i));
    if (rc == 0)
        rc = db_error(mdb_get(view->txn[db_file_of(i)], view->db->dbi[i], &k, &v));
    if (rc == 0)
        *value = (struct kv_bytes){v.mv_data, v.mv_size};
    return rc;
}

static int kv_lmdb_put(struct kv *kv, unsigned i, struct kv_bytes key, struct kv_bytes value)
{
    struct db_view *view = view_of(kv);
    MDB_val k = val_of(key), v = val_of(value);
    int rc = db_txn_open(view, db_file_of(i));
    if (rc)
        return rc;
    view->dirty[db_file_of(i)] = true;
    return db_error(mdb_put(view->txn[db_file_of(i)], view->db->dbi[i], &k, &v, 0));
}

static int kv_lmdb_del(struct kv *kv, unsigned i, struct kv_bytes key)
{
    struct db_view *view = view_of(kv);
    MDB_val k = val_of(key);
    int rc = db_txn_open(view, db_file_of(i));
    if (rc)
        return rc;
    view->dirty[db_file_of(i)] = true;
    return db_error(mdb_del(view->txn[db_file_of(i)], view->db->dbi[i], &k, NULL));
}

static int kv_lmdb_seek(struct kv *kv, unsigned i, struct kv_bytes from, bool after, struct kv_bytes *key,
                        struct kv_bytes *value)
{
    struct db_view *view = view_of(kv);
    MDB_val k = val_of(from), v;
    int rc = db_txn_open(view, db_file_of(i));
    if (rc == 0 && !view->cursor[i])
        rc = db_error(mdb_cursor_open(view->txn[db_file_of(i)], view->db->dbi[i], &view->cursor[i]));
    if (rc == 0)
        rc = db_error(mdb_cursor_get(view->cursor[i], &k, &v, MDB_SET_RANGE));
    if (rc == 0 && after && k.mv_size == from.len && memcmp(k.mv_data, from.data, from.len) == 0)
        rc = db_error(mdb_cursor_get(view->cursor[i], &k, &v, MDB_NEXT));
    if (rc)
        return rc;
    *key = (struct kv_bytes){k.mv_data, k.mv_size};
    *value = (struct kv_bytes){v.mv_data, v.mv_size};
    return 0;
}

const struct kv_ops db_kv_ops = {kv_lmdb_get, kv_lmdb_put, kv_lmdb_del, kv_lmdb_seek};

/* LMDB gives its lock file the mode of the data file. The data plane shall not have it at all: whoever can
 * write it can stop the writer. So it exists already when LMDB comes. */
static int lock_file_make(const char *path)
{
    char lock[FILE_PATH_MAX + 8];
    snprintf(lock, sizeof(lock), "%s-lock", path);
    int fd = open(lock, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    int rc = fd < 0 || fchmod(fd, 0600) ? -errno : 0;
    if (fd >= 0)
        close(fd);
    return rc;
}

static int folder_sync(const char *dir)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = fd < 0 || fsync(fd) ? -errno : 0;
    if (fd >= 0)
        close(fd);
    return rc;
}

/* A file comes to be whole: a power cut in LMDB's own making of it would leave one without a root, which
 * looks like damage. */
static int file_make(const struct db *db, enum db_file file, const char *path)
{
    char fresh[FILE_PATH_MAX + 8];
    MDB_env *env = NULL;
    if (access(path, F_OK) == 0 || errno != ENOENT)
        return 0;
    snprintf(fresh, sizeof(fresh), "%s.new", path);
    int rc = unlink(fresh) && errno != ENOENT ? -errno : 0;
    if (rc == 0)
        rc = db_error(mdb_env_create(&env));
    if (rc == 0)
        rc = db_error(mdb_env_open(env, fresh, MDB_NOSUBDIR | MDB_NOLOCK, files[file].mode));
    if (rc == 0)
        rc = db_error(mdb_env_sync(env, 1));
    if (env)
        mdb_env_close(env);
    if (rc == 0 && rename(fresh, path))
        rc = -errno;
    return rc ? rc : folder_sync(db->config.dir);
}

static int env_open(struct db *db, enum db_file file, char *err, size_t err_len)
{
    char path[FILE_PATH_MAX];
    MDB_env **env = &db->file[file].env;
    mode_t mask = umask(0027);
    int len = snprintf(path, sizeof(path), "%s/%s", db->config.dir, files[file].name);
    int rc = len < (int)sizeof(path) ? db_error(mdb_env_create(env)) : -ENAMETOOLONG;
    if (rc == 0)
        rc = file_make(db, file, path);
    if (rc == 0)
        rc = lock_file_make(path);
    if (rc == 0)
        rc = db_error(mdb_env_set_mapsize(*env, db->config.map_bytes));
    if (rc == 0)
        rc = db_error(mdb_env_set_maxdbs(*env, files[file].db_count));
    if (rc == 0)
        rc = db_error(mdb_env_open(*env, path, MDB_NOSUBDIR | MDB_NOTLS | MDB_NOMETASYNC | MDB_NORDAHEAD,
                                   files[file].mode));
    if (rc == 0) {
        db->file[file].sync_fd = open(path, O_RDWR | O_CLOEXEC);
        rc = db->file[file].sync_fd < 0 ? -errno : 0;
    }
    umask(mask);
    return rc ? db_fail(err, err_len, rc, "%s cannot be opened: %s", path, strerror(-rc)) : 0;
}

const char *const db_tables[STATE_DB_COUNT] = {"meta",      "repos", "tags", "manifests", "links",
                                               "referrers", "blobs", "held", "policies",  "notices",
                                               "marks",     "index", "meta", "data"};

static int dbis_open(struct db *db, enum db_file file)
{
    for (unsigned i = 0; i < files[file].db_count; i++) {
        unsigned at = files[file].first_db + i;
        int rc = db_error(mdb_dbi_open(db->write.txn[file], db_tables[at], MDB_CREATE, &db->dbi[at]));
        if (rc)
            return rc;
    }
    return 0;
}

static int file_open(struct db *db, enum db_file file, char *err, size_t err_len)
{
    int rc = env_open(db, file, err, err_len);
    if (rc == 0)
        rc = db_txn_open(&db->write, file);
    if (rc == 0)
        rc = dbis_open(db, file);
    if (rc == 0)
        rc = db_meta_get(db, file, err, err_len);
    if (rc) {
        txn_abort(&db->write, file);
    } else {
        cursors_forget(&db->write, file);
        rc = db_error(mdb_txn_commit(db->write.txn[file]));
        db->write.txn[file] = NULL;
    }
    if (rc && !err[0])
        db_fail(err, err_len, rc, "%s cannot be opened: %s", files[file].name, strerror(-rc));
    return rc;
}

static void files_close(struct db *db)
{
    db_pins_fini(db);
    for (int i = 0; i < DB_FILES; i++) {
        struct db_env *file = &db->file[i];
        txn_abort(&db->write, i);
        if (file->env)
            mdb_env_close(file->env);
        if (file->sync_fd >= 0)
            close(file->sync_fd);
        file->env = NULL;
        file->sync_fd = -1;
    }
}

static int files_open(struct db *db, char *err, size_t err_len)
{
    int rc = file_open(db, DB_NAMES, err, err_len);
    if (rc == 0)
        rc = file_open(db, DB_PRIVATE, err, err_len);
    return rc ? rc : db_pins_init(db);
}

int db_open(const struct db_config *config, struct db **out, char *err, size_t err_len)
{
    struct db *db = calloc(1, sizeof(*db));
    if (!db)
        return -ENOMEM;
    db->write = (struct db_view){.kv = {&db_kv_ops}, .db = db};
    db->config = *config;
    err[0] = '\0';
    if (db->config.map_bytes == 0)
        db->config.map_bytes = NAMES_MAP_BYTES;
    if (db->config.reader_bound_ms == 0)
        db->config.reader_bound_ms = DB_READER_BOUND_MS;
    pthread_mutex_init(&db->mutex, NULL);
    for (int i = 0; i < DB_FILES; i++)
        db->file[i].sync_fd = -1;
    int rc = files_open(db, err, err_len);
    if (rc) {
        db_close(db);
        return rc;
    }
    for (int i = 0; i < DB_FILES; i++)
        db->file[i].opened_at = db->file[i].applied;
    *out = db;
    return 0;
}

void db_close(struct db *db)
{
    files_close(db);
    pthread_mutex_destroy(&db->mutex);
    free(db);
}

/* Whoever reads in another thread says so: the files are not closed under him. */
static bool use_begin(struct db *db)
{
    pthread_mutex_lock(&db->mutex);
    bool open = db->file[DB_NAMES].env && db->file[DB_PRIVATE].env;
    db->users += open;
    pthread_mutex_unlock(&db->mutex);
    return open;
}

static void use_end(struct db *db)
{
    pthread_mutex_lock(&db->mutex);
    db->users--;
    pthread_mutex_unlock(&db->mutex);
}

/*
 * A root that could not be written: LMDB goes on with nothing until the environment is opened anew. What was
 * committed before must be what is there now.
 */
static int db_reopen(struct db *db)
{
    char err[256] = "";
    const uint64_t before = db->file[DB_NAMES].applied.index;
    pthread_mutex_lock(&db->mutex);
    int rc = db->users ? -EAGAIN : 0;
    if (rc == 0) {
        files_close(db);
        rc = files_open(db, err, sizeof(err));
        if (rc)
            files_close(db);
        else
            db_pins_unsettle(db);
    }
    pthread_mutex_unlock(&db->mutex);
    if (rc == 0 && db->file[DB_NAMES].applied.index != before)
        rc = -ESTALE;
    db->file[DB_NAMES].applied.index = before;
    return rc == -EIO ? -EAGAIN : rc;
}

void db_set_identity(struct db *db, const uint8_t cluster_id[16], uint64_t node_id)
{
    memcpy(db->config.cluster_id, cluster_id, sizeof(db->config.cluster_id));
    db->config.node_id = node_id;
}

struct db_applied db_applied(const struct db *db, enum db_file file)
{
    return db->file[file].applied;
}

struct db_applied db_opened_at(const struct db *db, enum db_file file)
{
    return db->file[file].opened_at;
}

static int begin_all(struct db *db)
{
    if (!db->file[DB_NAMES].env || !db->file[DB_PRIVATE].env)
        return -ENOTRECOVERABLE;
    int rc = db_pins_settle(db);
    /* Readers that have ended since the last commit hold nothing any more. */
    if (rc == 0)
        rc = db_pins_advance(db);
    if (rc == 0)
        rc = db_txn_open(&db->write, DB_NAMES);
    if (rc == 0 && db->suspect)
        rc = db_txn_open(&db->write, DB_PRIVATE);
    db->suspect = rc != 0;
    return rc;
}

int db_begin(struct db *db, struct kv **kv)
{
    CHECK(!db->write.txn[DB_NAMES] && !db->write.txn[DB_PRIVATE]);
    *kv = &db->write.kv;
    int rc = begin_all(db);
    if (rc != -ENOTRECOVERABLE)
        return rc;
    db_abort(db);
    rc = db_reopen(db);
    return rc ? rc : begin_all(db);
}

void db_abort(struct db *db)
{
    txn_abort(&db->write, DB_NAMES);
    txn_abort(&db->write, DB_PRIVATE);
}

/*
 * What a failed commit means. LMDB does not say whether a write failed, which changes nothing, or a sync,
 * after which the kernel may have dropped what was written before. But the kernel tells every descriptor of
 * that.
 */
static int commit_error(const struct db *db, enum db_file file, int rc)
{
    if (rc != -ENOSPC && rc != -EIO)
        return rc;
    if (fdatasync(db->file[file].sync_fd))
        return -EIO;
    return rc == -EIO ? -EAGAIN : rc;
}

int db_file_commit(struct db *db, enum db_file file, struct db_applied applied)
{
    if (applied.index < db->file[file].applied.index)
        applied = db->file[file].applied;
    int rc = db_meta_put(db, file, applied);
    cursors_forget(&db->write, file);
    if (rc == 0) {
        /* Whatever comes of it, the transaction is gone afterwards. */
        rc = commit_error(db, file, db_error(mdb_txn_commit(db->write.txn[file])));
        db->write.txn[file] = NULL;
    }
    if (rc == 0)
        db->file[file].applied = applied;
    return rc;
}

/* private.mdb goes first: names.mdb's commit is what the readers see, and it is the one that answers. */
int db_commit(struct db *db, struct db_applied applied, bool touch_private)
{
    int rc = 0;
    if (touch_private)
        rc = db_txn_open(&db->write, DB_PRIVATE);
    if (rc == 0 && db->write.txn[DB_PRIVATE] && (db->write.dirty[DB_PRIVATE] || touch_private))
        rc = db_file_commit(db, DB_PRIVATE, applied);
    if (rc == 0)
        rc = db_file_commit(db, DB_NAMES, applied);
    db_abort(db);
    db->suspect = rc != 0;
    if (rc)
        return rc;
    for (int i = 0; i < DB_FILES && touch_private && rc == 0; i++)
        rc = db_error(mdb_env_sync(db->file[i].env, 1));
    return rc ? rc : db_pins_advance(db);
}

struct db_view *db_view_begin(struct db *db, struct kv **kv)
{
    struct db_view *view = calloc(1, sizeof(*view));
    if (!view || !use_begin(db)) {
        free(view);
        return NULL;
    }
    *view = (struct db_view){.kv = {&db_kv_ops}, .db = db, .read_only = true};
    *kv = &view->kv;
    return view;
}

void db_view_end(struct db_view *view)
{
    for (int i = 0; i < DB_FILES; i++)
        txn_abort(view, i);
    use_end(view->db);
    free(view);
}

int db_copy(struct db *db, enum db_file file, int fd)
{
    if (!use_begin(db))
        return -EAGAIN;
    int rc = db_error(mdb_env_copyfd2(db->file[file].env, fd, MDB_CP_COMPACT));
    use_end(db);
    return rc;
}

static uint64_t env_used(MDB_env *env, unsigned *page_bytes)
{
    MDB_envinfo info;
    MDB_stat stat;
    mdb_env_info(env, &info);
    mdb_env_stat(env, &stat);
    *page_bytes = stat.ms_psize;
    return (uint64_t)(info.me_last_pgno + 1) * stat.ms_psize;
}

int db_sizes(struct db *db, struct db_sizes *out)
{
    struct statvfs st;
    unsigned page_bytes;
    memset(out, 0, sizeof(*out));
    if (use_begin(db)) {
        for (int i = 0; i < DB_FILES; i++)
            out->bytes[i] = env_used(db->file[i].env, &page_bytes);
        use_end(db);
    }
    out->map_bytes = db->config.map_bytes;
    if (statvfs(db->config.dir, &st))
        return -errno;
    out->disk_free_bytes = (uint64_t)st.f_bavail * st.f_frsize;
    return 0;
}

/* Bytes in pages that are free inside a file. Database 0 is LMDB's list of them: {count, pages...} each. */
static int env_free(MDB_env *env, uint64_t *bytes)
{
    MDB_txn *txn;
    MDB_cursor *cursor;
    MDB_val k, v;
    unsigned page_bytes;
    uint64_t pages = 0;
    size_t count;
    env_used(env, &page_bytes);
    int rc = mdb_txn_begin(env, NULL, MDB_RDONLY, &txn);
    if (rc)
        return db_error(rc);
    rc = mdb_cursor_open(txn, 0, &cursor);
    if (rc == 0) {
        while ((rc = mdb_cursor_get(cursor, &k, &v, MDB_NEXT)) == 0) {
            memcpy(&count, v.mv_data, sizeof(count));
            pages += count;
        }
        mdb_cursor_close(cursor);
    }
    mdb_txn_abort(txn);
    *bytes = pages * page_bytes;
    return rc == MDB_NOTFOUND ? 0 : db_error(rc);
}

int db_room(struct db *db, uint64_t reserve_bytes)
{
    struct db_sizes sizes = {0};
    int rc = db_sizes(db, &sizes);
    if (rc)
        return rc;
    if (sizes.disk_free_bytes < reserve_bytes)
        return -ENOSPC;
    for (int i = 0; i < DB_FILES; i++) {
        uint64_t free_bytes = sizes.map_bytes - sizes.bytes[i], inside = 0;
        /* The list of free pages is walked only when it matters. */
        if (free_bytes < reserve_bytes && use_begin(db)) {
            rc = env_free(db->file[i].env, &inside);
            use_end(db);
        }
        if (rc || free_bytes + inside < reserve_bytes)
            return rc ? rc : -ENOSPC;
    }
    return 0;
}
