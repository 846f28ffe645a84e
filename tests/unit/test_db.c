/* SPDX-License-Identifier: Apache-2.0 */
/* The two LMDB files: what a commit leaves, and that readers in other processes never see reused pages. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include <cmocka.h>
#include <lmdb.h>

#include "control/raft/db.h"
#include "names_reader.h"
#include "temp_dir.h"

enum { ROWS = 300, VALUE_BYTES = 64 };

struct fixture {
    struct temp_dir dir;
    struct db_config config;
    struct names_epochs *epochs;
    struct db *db;
    char err[256];
    uint64_t index;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    temp_dir_make(&f->dir);
    f->epochs = mmap(NULL, sizeof(*f->epochs), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(f->epochs != MAP_FAILED);
    f->config = (struct db_config){.dir = f->dir.path,
                                   .cluster_id = "cluster",
                                   .node_id = 3,
                                   .epochs = f->epochs,
                                   .map_bytes = 256 << 20};
    assert_int_equal(db_open(&f->config, &f->db, f->err, sizeof(f->err)), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    if (f->db)
        db_close(f->db);
    munmap(f->epochs, sizeof(*f->epochs));
    temp_dir_remove(&f->dir);
    free(f);
    return 0;
}

static int reopen(struct fixture *f)
{
    if (f->db)
        db_close(f->db);
    f->db = NULL;
    return db_open(&f->config, &f->db, f->err, sizeof(f->err));
}

static struct kv_bytes text(const char *s)
{
    return (struct kv_bytes){s, strlen(s)};
}

static int put_one(struct fixture *f, unsigned db, const char *key, const char *value)
{
    struct kv *kv;
    int rc = db_begin(f->db, &kv);
    if (rc == 0)
        rc = kv_put(kv, db, text(key), text(value));
    if (rc) {
        db_abort(f->db);
        return rc;
    }
    return db_commit(f->db, (struct db_applied){++f->index, 1}, false);
}

static bool has(struct fixture *f, unsigned db, const char *key)
{
    struct kv *kv;
    struct kv_bytes v;
    struct db_view *view = db_view_begin(f->db, &kv);
    assert_non_null(view);
    bool found = kv_get(kv, db, text(key), &v) == 0;
    db_view_end(view);
    return found;
}

static void test_files_and_modes(void **state)
{
    struct fixture *f = *state;
    struct stat st;
    assert_int_equal(fstatat(f->dir.fd, "names.mdb", &st, 0), 0);
    assert_int_equal(st.st_mode & 07777, 0640);
    assert_int_equal(fstatat(f->dir.fd, "private.mdb", &st, 0), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_int_equal(fstatat(f->dir.fd, "names.mdb-lock", &st, 0), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
}

static void test_positions(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(put_one(f, NAMES_TAGS, "a", "1"), 0);
    assert_int_equal(db_applied(f->db, DB_NAMES).index, 1);
    assert_int_equal(db_applied(f->db, DB_PRIVATE).index, 0);
    assert_int_equal(put_one(f, PRIVATE_DATA, "a", "1"), 0);
    assert_int_equal(put_one(f, NAMES_TAGS, "b", "1"), 0);
    assert_int_equal(reopen(f), 0);
    assert_int_equal(db_applied(f->db, DB_NAMES).index, 3);
    assert_int_equal(db_applied(f->db, DB_PRIVATE).index, 2);
    assert_true(has(f, NAMES_TAGS, "b") && has(f, PRIVATE_DATA, "a") && !has(f, PRIVATE_DATA, "b"));
    struct kv *kv;
    assert_int_equal(db_begin(f->db, &kv), 0);
    assert_int_equal(db_commit(f->db, (struct db_applied){9, 2}, true), 0);
    assert_int_equal(db_applied(f->db, DB_PRIVATE).index, 9);
    assert_int_equal(db_applied(f->db, DB_PRIVATE).term, 2);
}

static void test_abort_leaves_nothing(void **state)
{
    struct fixture *f = *state;
    struct kv *kv;
    assert_int_equal(db_begin(f->db, &kv), 0);
    assert_int_equal(kv_put(kv, NAMES_TAGS, text("x"), text("1")), 0);
    assert_int_equal(kv_put(kv, PRIVATE_DATA, text("x"), text("1")), 0);
    db_abort(f->db);
    assert_false(has(f, NAMES_TAGS, "x") || has(f, PRIVATE_DATA, "x"));
    assert_int_equal(db_applied(f->db, DB_NAMES).index, 0);
}

static void test_order_of_keys(void **state)
{
    struct fixture *f = *state;
    const char *keys[] = {"b", "a", "ab", "c"}, *sorted[] = {"a", "ab", "b", "c"};
    struct kv_bytes at = {"", 0}, key, value;
    struct kv *kv;
    for (int i = 0; i < 4; i++)
        assert_int_equal(put_one(f, NAMES_TAGS, keys[i], "v"), 0);
    assert_int_equal(db_begin(f->db, &kv), 0);
    at = text("a");
    for (int i = 0; i < 4; i++) {
        assert_int_equal(kv_seek(kv, NAMES_TAGS, at, i > 0, &key, &value), 0);
        assert_int_equal(key.len, strlen(sorted[i]));
        assert_memory_equal(key.data, sorted[i], key.len);
        at = text(sorted[i]);
    }
    assert_int_equal(kv_seek(kv, NAMES_TAGS, at, true, &key, &value), -ENOENT);
    assert_int_equal(kv_del(kv, NAMES_TAGS, text("b")), 0);
    assert_int_equal(kv_del(kv, NAMES_TAGS, text("b")), -ENOENT);
    assert_int_equal(kv_seek(kv, NAMES_TAGS, text("b"), false, &key, &value), 0);
    assert_memory_equal(key.data, "c", 1);
    db_abort(f->db);
}

static void test_foreign_files(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(put_one(f, NAMES_TAGS, "a", "1"), 0);
    f->config.cluster_id[0] = 'x';
    assert_int_equal(reopen(f), -EUCLEAN);
    assert_non_null(strstr(f->err, "another cluster"));
    f->config.cluster_id[0] = 'c';
    assert_int_equal(reopen(f), 0);
}

static int delete_one(struct fixture *f, const char *key)
{
    struct kv *kv;
    int rc = db_begin(f->db, &kv);
    if (rc == 0)
        rc = kv_del(kv, NAMES_TAGS, text(key));
    if (rc == 0)
        rc = db_commit(f->db, (struct db_applied){++f->index, 1}, false);
    db_abort(f->db);
    return rc;
}

/* db_room() says no while deleting still works; after it there is room. At the very end of the map everything
 * is refused, and nothing is lost. */
static void test_full_map(void **state)
{
    struct fixture *f = *state;
    char key[32], big[8000];
    int n = 0, rc = 0;
    memset(big, 'x', sizeof(big));
    big[sizeof(big) - 1] = '\0';
    f->config.map_bytes = 2 << 20;
    assert_int_equal(reopen(f), 0);
    for (; n < 1000 && db_room(f->db, 256 << 10) == 0; n++) {
        snprintf(key, sizeof(key), "k%d", n);
        assert_int_equal(put_one(f, NAMES_TAGS, key, big), 0);
    }
    assert_true(n > 100 && n < 1000);
    for (int i = 0; i < n / 2; i++) {
        snprintf(key, sizeof(key), "k%d", i);
        assert_int_equal(delete_one(f, key), 0);
    }
    assert_int_equal(db_room(f->db, 256 << 10), 0);
    assert_int_equal(put_one(f, NAMES_TAGS, "again", big), 0);
    for (n = 0; n < 1000 && rc == 0; n++) {
        snprintf(key, sizeof(key), "end%d", n);
        rc = put_one(f, NAMES_TAGS, key, big);
    }
    assert_int_equal(rc, -ENOSPC);
    assert_true(has(f, NAMES_TAGS, "again") && has(f, NAMES_TAGS, "end0") && !has(f, NAMES_TAGS, key));
}

/* --- readers in other processes --- */

struct reader {
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi dbi;
};

static void reader_open(struct fixture *f, struct reader *r)
{
    char path[160];
    snprintf(path, sizeof(path), "%s/names.mdb", f->dir.path);
    CHECK(mdb_env_create(&r->env) == 0);
    CHECK(mdb_env_set_mapsize(r->env, f->config.map_bytes) == 0 &&
          mdb_env_set_maxdbs(r->env, NAMES_DB_COUNT) == 0);
    CHECK(mdb_env_open(r->env, path, MDB_RDONLY | MDB_NOSUBDIR | MDB_NOLOCK | MDB_NOTLS, 0) == 0);
    CHECK(mdb_txn_begin(r->env, NULL, MDB_RDONLY, &r->txn) == 0);
    CHECK(mdb_dbi_open(r->txn, "blobs", 0, &r->dbi) == 0);
    CHECK(mdb_txn_commit(r->txn) == 0);
    CHECK(mdb_txn_begin(r->env, NULL, MDB_RDONLY, &r->txn) == 0);
    mdb_txn_reset(r->txn);
}

/* All rows are there, in order, and of one generation. */
static bool reader_consistent(struct reader *r, uint64_t *generation)
{
    MDB_cursor *cursor;
    MDB_val k, v;
    unsigned rows = 0;
    bool good = true;
    if (mdb_cursor_open(r->txn, r->dbi, &cursor))
        return false;
    while (good && rows <= ROWS && mdb_cursor_get(cursor, &k, &v, MDB_NEXT) == 0) {
        char key[16];
        uint64_t words[VALUE_BYTES / 8];
        int len = snprintf(key, sizeof(key), "row%05u", rows);
        good = k.mv_size == (size_t)len && memcmp(k.mv_data, key, k.mv_size) == 0 && v.mv_size == VALUE_BYTES;
        if (!good)
            break;
        memcpy(words, v.mv_data, VALUE_BYTES);
        if (rows == 0)
            *generation = words[0];
        for (int i = 0; i < VALUE_BYTES / 8; i++)
            good &= words[i] == *generation;
        rows++;
    }
    mdb_cursor_close(cursor);
    return good && rows == ROWS;
}

static void write_generation(struct fixture *f)
{
    struct kv *kv;
    uint64_t words[VALUE_BYTES / 8];
    assert_int_equal(db_begin(f->db, &kv), 0);
    f->index++;
    for (int i = 0; i < VALUE_BYTES / 8; i++)
        words[i] = f->index;
    for (unsigned i = 0; i < ROWS; i++) {
        char key[16];
        snprintf(key, sizeof(key), "row%05u", i);
        assert_int_equal(kv_put(kv, NAMES_BLOBS, text(key), (struct kv_bytes){words, VALUE_BYTES}), 0);
    }
    assert_int_equal(db_commit(f->db, (struct db_applied){f->index, 1}, false), 0);
}

/* A reader that stops in the middle of reading while the writer goes on. Exit status 0: what it then read was
 * whole; anything else, a signal too: it was not. */
static void interrupted_reader(struct fixture *f, bool announce, int go, int ready)
{
    struct reader r;
    char byte = 0;
    uint64_t first = f->index, generation = 0;
    alarm(30);
    reader_open(f, &r);
    if (announce)
        CHECK(names_read_begin(f->epochs, &f->epochs->ring[2], r.txn) == 0);
    else
        CHECK(mdb_txn_renew(r.txn) == 0);
    CHECK(write(ready, &byte, 1) == 1 && read(go, &byte, 1) == 1);
    _exit(reader_consistent(&r, &generation) && generation == first ? 0 : 1);
}

static int run_interrupted(struct fixture *f, bool announce)
{
    int go[2], ready[2], status;
    char byte = 0;
    CHECK(pipe(go) == 0 && pipe(ready) == 0);
    write_generation(f);
    pid_t pid = fork();
    if (pid == 0) {
        /* LMDB's environment of the parent must not be used here, and a crash is an answer, not a report. */
        signal(SIGSEGV, SIG_DFL);
        signal(SIGBUS, SIG_DFL);
        interrupted_reader(f, announce, go[0], ready[1]);
    }
    assert_int_equal(read(ready[0], &byte, 1), 1);
    for (int i = 0; i < 40; i++)
        write_generation(f);
    assert_int_equal(write(go[1], &byte, 1), 1);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    close(go[0]);
    close(go[1]);
    close(ready[0]);
    close(ready[1]);
    return status;
}

static void test_interrupted_reader_is_safe(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(run_interrupted(f, true), 0);
}

/* The counter-proof: the same reader without the announcement reads pages that were reused under it. */
static void test_without_announcement_pages_are_reused(void **state)
{
    struct fixture *f = *state;
    assert_int_not_equal(run_interrupted(f, false), 0);
}

static void steady_reader(struct fixture *f, unsigned ring)
{
    struct reader r;
    uint64_t last = 0, reads = 0;
    alarm(60);
    reader_open(f, &r);
    for (;;) {
        uint64_t generation = 0;
        if (names_read_begin(f->epochs, &f->epochs->ring[ring], r.txn))
            _exit(2);
        if (!reader_consistent(&r, &generation) || generation < last)
            _exit(3);
        names_read_end(&f->epochs->ring[ring], r.txn);
        last = generation;
        reads++;
        if (__atomic_load_n(&f->epochs->pad[0], __ATOMIC_ACQUIRE))
            _exit(reads > 100 ? 0 : 4);
    }
}

static void test_readers_under_a_heavy_writer(void **state)
{
    struct fixture *f = *state;
    pid_t pid[3];
    int status;
    time_t end;
    write_generation(f);
    for (unsigned i = 0; i < 3; i++) {
        pid[i] = fork();
        if (pid[i] == 0)
            steady_reader(f, i);
    }
    for (end = time(NULL) + 3; time(NULL) < end || f->index <= 100;)
        write_generation(f);
    __atomic_store_n(&f->epochs->pad[0], 1, __ATOMIC_RELEASE);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(waitpid(pid[i], &status, 0), pid[i]);
        assert_int_equal(status, 0);
    }
    /* With nobody reading, the pages that the readers held up are used again. */
    struct db_sizes before, after;
    assert_true(f->index > 100);
    for (int i = 0; i < 10; i++)
        write_generation(f);
    assert_int_equal(db_sizes(f->db, &before), 0);
    for (int i = 0; i < 50; i++)
        write_generation(f);
    assert_int_equal(db_sizes(f->db, &after), 0);
    assert_int_equal(before.bytes[DB_NAMES], after.bytes[DB_NAMES]);
}

/* A ring that stands still is named once, pins for twice the bound, and then no more. */
static void test_stuck_reader(void **state)
{
    struct fixture *f = *state;
    struct db_sizes before, after;
    f->config.reader_bound_ms = 1000; /* longer than some writes take, on whatever machine */
    assert_int_equal(reopen(f), 0);
    for (int i = 0; i < 10; i++)
        write_generation(f);
    atomic_store(&f->epochs->ring[5].reading, atomic_load(&f->epochs->committed));
    write_generation(f);
    write_generation(f);
    assert_int_equal(db_stuck_rings(f->db), 0);
    usleep(1100000);
    write_generation(f);
    assert_int_equal(db_stuck_rings(f->db), 1ull << 5);
    write_generation(f);
    assert_int_equal(db_stuck_rings(f->db), 0);
    usleep(1100000);
    for (int i = 0; i < 20; i++)
        write_generation(f);
    assert_int_equal(db_sizes(f->db, &before), 0);
    for (int i = 0; i < 50; i++)
        write_generation(f);
    assert_int_equal(db_sizes(f->db, &after), 0);
    assert_int_equal(before.bytes[DB_NAMES], after.bytes[DB_NAMES]);
}

static void test_copy(void **state)
{
    struct fixture *f = *state;
    struct temp_dir dir;
    struct db_config config = f->config;
    temp_dir_make(&dir);
    for (int i = 0; i < 3; i++)
        write_generation(f);
    for (int i = 0; i < DB_FILES; i++) {
        int fd = openat(dir.fd, db_file_name(i), O_CREAT | O_WRONLY, 0600);
        assert_int_equal(db_copy(f->db, i, fd), 0);
        close(fd);
    }
    db_close(f->db);
    config.dir = dir.path;
    assert_int_equal(db_open(&config, &f->db, f->err, sizeof(f->err)), 0);
    assert_int_equal(db_applied(f->db, DB_NAMES).index, 3);
    assert_true(has(f, NAMES_BLOBS, "row00007"));
    temp_dir_remove(&dir);
}

static void copy_files(struct db *db, const struct temp_dir *to)
{
    for (int i = 0; i < DB_FILES; i++) {
        int fd = openat(to->fd, db_file_name(i), O_CREAT | O_TRUNC | O_WRONLY, 0600);
        assert_int_equal(db_copy(db, i, fd), 0);
        close(fd);
    }
}

static int restore_both(struct fixture *f, const struct temp_dir *from)
{
    int rc = 0;
    for (int i = DB_FILES - 1; i >= 0 && rc == 0; i--) {
        char path[160];
        snprintf(path, sizeof(path), "%s/%s", from->path, db_file_name(i));
        rc = db_restore(f->db, i, path);
    }
    return rc;
}

/* Readers of the file that stands go on: who reads sees all of what was, who begins all of what came. */
static void test_restored_in_place(void **state)
{
    struct fixture *f = *state;
    struct temp_dir copies, foreign;
    struct reader r;
    uint64_t generation = 0;
    temp_dir_make(&copies);
    temp_dir_make(&foreign);
    for (int i = 0; i < 3; i++)
        write_generation(f);
    assert_int_equal(put_one(f, PRIVATE_DATA, "secret", "of then"), 0);
    copy_files(f->db, &copies);
    for (int i = 0; i < 5; i++)
        write_generation(f);
    assert_int_equal(put_one(f, NAMES_REPOS, "later", "x"), 0);
    assert_int_equal(put_one(f, PRIVATE_DATA, "later", "x"), 0);
    reader_open(f, &r);
    assert_int_equal(names_read_begin(f->epochs, &f->epochs->ring[0], r.txn), 0);
    assert_int_equal(restore_both(f, &copies), 0);
    assert_true(reader_consistent(&r, &generation));
    assert_int_equal(generation, 9);
    names_read_end(&f->epochs->ring[0], r.txn);
    assert_int_equal(names_read_begin(f->epochs, &f->epochs->ring[0], r.txn), 0);
    assert_true(reader_consistent(&r, &generation));
    assert_int_equal(generation, 3);
    names_read_end(&f->epochs->ring[0], r.txn);
    assert_int_equal(db_applied(f->db, DB_NAMES).index, 4);
    assert_int_equal(db_opened_at(f->db, DB_NAMES).index, 4);
    assert_true(has(f, PRIVATE_DATA, "secret") && !has(f, PRIVATE_DATA, "later"));
    assert_false(has(f, NAMES_REPOS, "later"));
    /* It is written on, and there after a start. */
    f->index = 4;
    assert_int_equal(put_one(f, NAMES_REPOS, "next", "x"), 0);
    assert_int_equal(reopen(f), 0);
    assert_true(has(f, NAMES_REPOS, "next") && has(f, PRIVATE_DATA, "secret"));
    assert_int_equal(db_applied(f->db, DB_NAMES).index, 5);
    /* What is no copy of this cluster's changes nothing. */
    assert_int_equal(restore_both(f, &foreign), -ENOENT);
    struct db_config config = f->config;
    struct db *other;
    config.dir = foreign.path;
    config.epochs = NULL;
    memcpy(config.cluster_id, "another", 8);
    assert_int_equal(db_open(&config, &other, f->err, sizeof(f->err)), 0);
    copy_files(other, &copies);
    db_close(other);
    assert_int_equal(restore_both(f, &copies), -EUCLEAN);
    assert_true(has(f, NAMES_REPOS, "next") && has(f, PRIVATE_DATA, "secret"));
    assert_int_equal(put_one(f, NAMES_REPOS, "after", "x"), 0);
    mdb_txn_abort(r.txn);
    mdb_env_close(r.env);
    temp_dir_remove(&copies);
    temp_dir_remove(&foreign);
}

/* A version without the index writes an entry: it leaves what is said of the index as it was. */
static void write_as_before(struct fixture *f)
{
    char path[160];
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi dbi;
    MDB_val k = {5, "state"}, v;
    struct names_meta meta;
    db_close(f->db);
    f->db = NULL;
    snprintf(path, sizeof(path), "%s/names.mdb", f->dir.path);
    CHECK(mdb_env_create(&env) == 0 && mdb_env_set_maxdbs(env, 4) == 0);
    CHECK(mdb_env_open(env, path, MDB_NOSUBDIR | MDB_NOLOCK, 0600) == 0);
    CHECK(mdb_txn_begin(env, NULL, 0, &txn) == 0 && mdb_dbi_open(txn, "meta", 0, &dbi) == 0);
    CHECK(mdb_get(txn, dbi, &k, &v) == 0 && v.mv_size == sizeof(meta));
    memcpy(&meta, v.mv_data, sizeof(meta));
    meta.applied_index = ++f->index;
    v = (MDB_val){sizeof(meta), &meta};
    CHECK(mdb_put(txn, dbi, &k, &v, 0) == 0 && mdb_txn_commit(txn) == 0);
    mdb_env_close(env);
    assert_int_equal(reopen(f), 0);
}

/* What is said of the index goes with what is in the file, and counts only if nobody else has written since.
 */
static void test_index_is_whole(void **state)
{
    struct fixture *f = *state;
    struct temp_dir copies;
    temp_dir_make(&copies);
    assert_true(db_index_is_whole(f->db));
    assert_int_equal(put_one(f, NAMES_TAGS, "a", "1"), 0);
    assert_int_equal(reopen(f), 0);
    assert_true(db_index_is_whole(f->db));
    copy_files(f->db, &copies);
    write_as_before(f);
    assert_false(db_index_is_whole(f->db));
    assert_int_equal(put_one(f, NAMES_TAGS, "b", "1"), 0);
    assert_int_equal(reopen(f), 0);
    assert_false(db_index_is_whole(f->db));
    assert_int_equal(restore_both(f, &copies), 0);
    assert_true(db_index_is_whole(f->db));
    f->index = 1;
    db_index_set(f->db, false);
    assert_int_equal(put_one(f, NAMES_TAGS, "c", "1"), 0);
    copy_files(f->db, &copies);
    db_index_set(f->db, true);
    assert_int_equal(put_one(f, NAMES_TAGS, "d", "1"), 0);
    assert_int_equal(reopen(f), 0);
    assert_true(db_index_is_whole(f->db));
    assert_int_equal(restore_both(f, &copies), 0);
    assert_false(db_index_is_whole(f->db));
    assert_int_equal(reopen(f), 0);
    assert_false(db_index_is_whole(f->db));
    temp_dir_remove(&copies);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_files_and_modes),
        T(test_positions),
        T(test_abort_leaves_nothing),
        T(test_order_of_keys),
        T(test_foreign_files),
        T(test_full_map),
        T(test_interrupted_reader_is_safe),
        T(test_without_announcement_pages_are_reused),
        T(test_readers_under_a_heavy_writer),
        T(test_stuck_reader),
        T(test_copy),
        T(test_restored_in_place),
        T(test_index_is_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
