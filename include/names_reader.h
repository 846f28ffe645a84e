/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a ring reads the names file (names.h): announce, begin, look again. The environment is opened with
 * MDB_RDONLY | MDB_NOSUBDIR | MDB_NOLOCK | MDB_NOTLS and NAMES_MAP_BYTES.
 *
 * Without LMDB's lock table a reader finds the newest root by looking at both root pages, and the writer puts
 * the root of transaction N + 2 over that of N. So a reader that is interrupted between choosing a root and
 * copying it could copy half of another. It therefore keeps what it got only if `committed` has not passed it
 * meanwhile: then the root two further on had not begun.
 */
#ifndef FL_NAMES_READER_H
#define FL_NAMES_READER_H

#include <errno.h>
#include <lmdb.h>
#include <sched.h>
#include <stdatomic.h>

#include "names.h"

enum { NAMES_READ_TRIES = 64, NAMES_READ_SPINS = 16 };

/* The ring reads nothing (any more). For who ends the transaction otherwise than by names_read_end(). */
static inline void names_epoch_clear(struct names_epoch *epoch)
{
    atomic_store_explicit(&epoch->reading, 0, memory_order_release);
}

/* Ends the reading that names_read_begin() began. The transaction stays for the next. */
static inline void names_read_end(struct names_epoch *epoch, MDB_txn *txn)
{
    mdb_txn_reset(txn);
    names_epoch_clear(epoch);
}

/* One try. 0, EAGAIN if the writer went on meanwhile, or LMDB's error. The transaction is reset if not 0. */
static inline int names_read_try(struct names_epochs *epochs, MDB_txn *txn, uint64_t announced)
{
    int rc = mdb_txn_renew(txn);
    if (rc == 0 && mdb_txn_id(txn) > announced) {
        /* Not told of yet: its root may have been half written. Its number, the last part, was there: a
         * second copy has all of it. */
        mdb_txn_reset(txn);
        rc = mdb_txn_renew(txn);
    }
    if (rc)
        return rc;
    if (atomic_load(&epochs->committed) <= mdb_txn_id(txn))
        return 0;
    mdb_txn_reset(txn);
    return EAGAIN;
}

/*
 * Begins to read. txn is a read transaction that was reset (mdb_txn_begin, then mdb_txn_reset, once at
 * start); epoch is the ring's own. 0, EAGAIN if the writer was faster each time, or LMDB's error; then
 * nothing is being read. Nothing read is valid after names_read_end(); reading should last microseconds, not
 * milliseconds.
 */
static inline int names_read_begin(struct names_epochs *epochs, struct names_epoch *epoch, MDB_txn *txn)
{
    int rc = EAGAIN;
    for (int i = 0; rc == EAGAIN && i < NAMES_READ_TRIES; i++) {
        uint64_t committed = atomic_load(&epochs->committed);
        /* Sequentially consistent: pairs with the writer's look at `reading` after its store to `committed`.
         * 0 would mean "not reading", also before the first commit. */
        atomic_store(&epoch->reading, committed ? committed : 1);
        rc = names_read_try(epochs, txn, committed);
        if (rc == EAGAIN && i >= NAMES_READ_SPINS)
            sched_yield();
    }
    if (rc)
        names_epoch_clear(epoch);
    return rc;
}

#endif
