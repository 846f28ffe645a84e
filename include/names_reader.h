/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a ring reads the names file (names.h): announce, begin, look again. The environment is opened with
 * MDB_RDONLY | MDB_NOSUBDIR | MDB_NOLOCK | MDB_NOTLS and NAMES_MAP_BYTES.
 *
 * Without LMDB's lock table a reader finds the newest root by looking at both root pages, and the writer puts
 * the root of transaction N + 2 over that of N. So a reader that is interrupted between choosing a root and
 * copying it could copy half of another. It therefore keeps what it got only if `committed` has not moved
 * since it announced: then N + 2 had not begun.
 */
#ifndef FL_NAMES_READER_H
#define FL_NAMES_READER_H

#include <errno.h>
#include <lmdb.h>
#include <sched.h>
#include <stdatomic.h>

#include "names.h"

/* Tries before a root that is newer than `committed` says is taken for complete: its writer died between
 * writing the root and telling of it. */
enum { NAMES_READ_TRIES = 10000, NAMES_READ_SPINS = 100 };

/* Ends the reading that names_read_begin() began. The transaction stays for the next. */
static inline void names_read_end(struct names_epoch *epoch, MDB_txn *txn)
{
    mdb_txn_reset(txn);
    atomic_store_explicit(&epoch->reading, 0, memory_order_release);
}

/*
 * Begins to read. txn is a read transaction that was reset (mdb_txn_begin, then mdb_txn_reset, once at
 * start); epoch is the ring's own. 0, -EAGAIN if the writer was faster each time, or LMDB's error; then
 * nothing is being read. Nothing read is valid after names_read_end(); reading should last microseconds, not
 * milliseconds.
 */
static inline int names_read_begin(struct names_epochs *epochs, struct names_epoch *epoch, MDB_txn *txn)
{
    for (int i = 0; i < NAMES_READ_TRIES; i++) {
        uint64_t committed = atomic_load(&epochs->committed);
        /* Sequentially consistent: pairs with the writer's look at `reading` after its store to `committed`.
         */
        atomic_store(&epoch->reading, committed);
        int rc = mdb_txn_renew(txn);
        if (rc) {
            atomic_store_explicit(&epoch->reading, 0, memory_order_release);
            return rc;
        }
        uint64_t id = mdb_txn_id(txn);
        if (atomic_load(&epochs->committed) == committed &&
            (id == committed || (id == committed + 1 && i == NAMES_READ_TRIES - 1)))
            return 0;
        mdb_txn_reset(txn);
        if (i >= NAMES_READ_SPINS)
            sched_yield();
    }
    atomic_store_explicit(&epoch->reading, 0, memory_order_release);
    return -EAGAIN;
}

#endif
