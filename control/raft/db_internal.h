/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FL_RAFT_DB_INTERNAL_H
#define FL_RAFT_DB_INTERNAL_H

#include <lmdb.h>

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
    uint64_t stuck; /* bits, not yet fetched */
};

struct db_env {
    MDB_env *env;
    struct db_applied applied;
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
};

/* LMDB's result as 0 or -errno. */
int db_error(int rc);

static inline enum db_file db_file_of(unsigned db)
{
    return db < NAMES_DB_COUNT ? DB_NAMES : DB_PRIVATE;
}

int db_pins_init(struct db *db);
void db_pins_fini(struct db *db);
/* Announces the newest commit of names.mdb and lets go of what nobody reads any more. */
int db_pins_advance(struct db *db);

extern const struct kv_ops db_kv_ops;

#endif
