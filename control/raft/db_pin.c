/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pages that a ring may be reading must not be reused.
 *
 * LMDB reuses a page freed by transaction N once no read transaction of its own table is older than N + 1.
 * The rings are not in that table (names.h says why), so two read transactions of control stand in it for
 * them: pin[0] at an older commit, pin[1] at a newer one. When every ring that reads has announced pin[1]'s
 * transaction or a later one, pin[0] is let go, pin[1] takes its place, and a new one is made at the newest
 * commit. So the invariant is: each announced transaction is pin[0]'s or newer. Writing never waits for it.
 *
 * Announcing and looking are sequentially consistent, and a ring looks at `committed` again after it has
 * announced (names_reader.h): either the look here sees the announcement, or the ring sees the newer commit
 * and announces again.
 */
#include <stdatomic.h>
#include <time.h>

#include "check.h"
#include "db_internal.h"

static uint64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

int db_pins_init(struct db *db)
{
    for (int i = 0; i < DB_PINS; i++) {
        int rc = db_error(mdb_txn_begin(db->file[DB_NAMES].env, NULL, MDB_RDONLY, &db->pins.pin[i]));
        if (rc)
            return rc;
    }
    if (db->config.epochs)
        atomic_store(&db->config.epochs->committed, mdb_txn_id(db->pins.pin[1]));
    return 0;
}

void db_pins_fini(struct db *db)
{
    for (int i = 0; i < DB_PINS; i++) {
        if (db->pins.pin[i])
            mdb_txn_abort(db->pins.pin[i]);
        db->pins.pin[i] = NULL;
    }
}

void db_pins_unsettle(struct db *db)
{
    db->pins.unsettled = db->config.epochs ? ~0ull : 0;
    db->pins.unsettled_since_ms = now_ms();
}

/* Readings last microseconds. A ring that is still in one after the bound is told of, and waited for. */
int db_pins_settle(struct db *db)
{
    enum { LOOKS = 100000 };
    struct db_pins *p = &db->pins;
    uint64_t pinned = p->unsettled ? mdb_txn_id(p->pin[0]) : 0;
    for (unsigned i = 0; i < RINGS_MAX; i++) {
        for (int look = 0; look < LOOKS && p->unsettled >> i & 1; look++) {
            uint64_t reading = atomic_load(&db->config.epochs->ring[i].reading);
            if (reading == 0 || reading >= pinned)
                p->unsettled &= ~(1ull << i);
        }
    }
    if (!p->unsettled)
        return 0;
    if (now_ms() - p->unsettled_since_ms >= db->config.reader_bound_ms)
        p->stuck |= p->unsettled;
    return -EAGAIN;
}

/* Whether a ring holds up the pins. One that stands still longer than the bound is told of once, and is dead
 * to us after twice the bound. */
static bool ring_holds(struct db *db, unsigned i, uint64_t needed, uint64_t now)
{
    struct db_ring *seen = &db->pins.ring[i];
    uint64_t bound = db->config.reader_bound_ms;
    uint64_t reading = atomic_load(&db->config.epochs->ring[i].reading);
    if (reading != seen->reading)
        *seen = (struct db_ring){.reading = reading, .since_ms = now};
    if (reading == 0 || reading >= needed)
        return false;
    uint64_t stood_ms = now - seen->since_ms;
    if (stood_ms >= bound && !seen->told) {
        seen->told = true;
        db->pins.stuck |= 1ull << i;
    }
    return stood_ms < 2 * bound;
}

static bool readers_hold(struct db *db, uint64_t needed)
{
    uint64_t now = now_ms();
    bool holds = false;
    for (unsigned i = 0; i < RINGS_MAX && db->config.epochs; i++)
        holds |= ring_holds(db, i, needed, now);
    return holds;
}

static int pins_move(struct db *db)
{
    struct db_pins *p = &db->pins;
    if (readers_hold(db, mdb_txn_id(p->pin[1])))
        return 0;
    MDB_txn *freed = p->pin[0];
    mdb_txn_reset(freed);
    p->pin[0] = p->pin[1];
    p->pin[1] = freed;
    return db_error(mdb_txn_renew(freed));
}

int db_pins_advance(struct db *db)
{
    MDB_envinfo info;
    mdb_env_info(db->file[DB_NAMES].env, &info);
    if (db->config.epochs)
        atomic_store(&db->config.epochs->committed, info.me_last_txnid);
    /* Twice: with nobody reading, both then stand at the newest commit. Were that left to the next commits, a
     * full file would have none, for want of the pages that the pins hold. */
    int rc = pins_move(db);
    return rc ? rc : pins_move(db);
}

uint64_t db_stuck_rings(struct db *db)
{
    uint64_t stuck = db->pins.stuck;
    db->pins.stuck = 0;
    return stuck;
}
