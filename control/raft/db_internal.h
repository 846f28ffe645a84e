/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FL_RAFT_DB_INTERNAL_H
#define FL_RAFT_DB_INTERNAL_H

#include <lmdb.h>
#include <pthread.h>

#include "db.h"

enum { DB_PINS = 2 };

/* What one ring was seen to read. */
struct db_ring {
    uint64_t reading;
    uint64_t since_ms;
    bool told;
};

/* Read transactions that keep pages from being reused: pin[0] is older than pin[1]. */
struct db_pins {
    MDB_txn *pin[DB_PINS];
    struct db_ring ring[RINGS_MAX];
    uint64_t stuck;     /* bits, not yet fetched */
    uint64_t unsettled; /* bits: rings that may read what no pin holds, since the files were opened again */
    uint64_t unsettled_since_ms;
};

struct db_env {
    MDB_env *env; /* NULL: closed by a failed attempt to open it again */
    struct db_applied applied, opened_at;
    int sync_fd; /* of our own: the kernel tells each descriptor of a failed write-back */
};

/* One transaction over both files: each file's begins when it is first used. */
struct db_view {
    struct kv kv;
    struct db *db;
    bool read_only;
    MDB_txn *txn[DB_FILES]; /* NULL: not begun */
    bool dirty[DB_FILES];   /* it has written */
    MDB_cursor *cursor[STATE_DB_COUNT];
};

struct db {
    struct db_config config;
    struct db_env file[DB_FILES];
    MDB_dbi dbi[STATE_DB_COUNT];
    struct db_view write; /* the one write transaction */
    struct db_pins pins;
    bool index_whole;      /* NAMES_INDEX, with the next commit */
    bool suspect;          /* the last commit failed: LMDB may want nothing more to do with a file */
    pthread_mutex_t mutex; /* of users, and of env while it is opened again */
    unsigned users;        /* who reads: views, copies, looks at sizes */
};

/* LMDB's result as 0 or -errno. */
int db_error(int rc);
/* Says why in err, and returns error. */
__attribute__((format(printf, 4, 5))) int db_fail(char *err, size_t err_len, int error, const char *format,
                                                  ...);

/* db_meta.c: what a file says of itself: it is read when the file is opened, where a new one gets it, and
 * written with every commit. */
#define DB_META_STATE "state"
#define DB_META_INDEX "index" /* of names.mdb */
int db_meta_put(struct db *db, enum db_file file, struct db_applied applied);
int db_meta_get(struct db *db, enum db_file file, char *err, size_t err_len);

/* The first of a file's tables. */
static inline unsigned db_meta_of(enum db_file file)
{
    return file == DB_NAMES ? (unsigned)NAMES_META : (unsigned)PRIVATE_META;
}

static inline enum db_file db_file_of(unsigned db)
{
    return db < NAMES_DB_COUNT ? DB_NAMES : DB_PRIVATE;
}

/* What the tables are called in their files. */
extern const char *const db_tables[STATE_DB_COUNT];

/* Begins the view's transaction of a file, if it is not begun. */
int db_txn_open(struct db_view *v, enum db_file file);
/* Commits the write transaction of a file at this position, or further if the file is. */
int db_file_commit(struct db *db, enum db_file file, struct db_applied applied);

int db_pins_init(struct db *db);
/* After the files were opened again: nothing is written until every ring was seen to read nothing older than
 * the pins. 0 or -EAGAIN. */
void db_pins_unsettle(struct db *db);
int db_pins_settle(struct db *db);
void db_pins_fini(struct db *db);
/* Announces the newest commit of names.mdb and lets go of what nobody reads any more. */
int db_pins_advance(struct db *db);

extern const struct kv_ops db_kv_ops;

#endif
