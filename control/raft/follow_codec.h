/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The frames between a node that follows the log and the manager that it follows: pure. All that goes is
 * agreed upon, so it is the same from whichever manager it comes; what belongs to one follower alone has the
 * number of its session, which it chose when it asked.
 *
 *   follower                              manager
 *   ASK {applied, top} -----------------> looks whether its log has just that top; begins behind applied
 *           <---- GRANT, then ENTRIES ... or SNAPSHOT (a handle; its pieces are asked for as Raft's),
 *                 or REFUSED
 *   RENEW {applied} now and then -------> GRANT: how far the cluster is, who leads, a lease
 */
#ifndef FL_RAFT_FOLLOW_CODEC_H
#define FL_RAFT_FOLLOW_CODEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    FOLLOW_VERSION = 1,
    FOLLOW_FRAME_BYTES = 64, /* of all but ENTRIES and SNAPSHOT */
    FOLLOW_ENTRIES_MAX = 1024,
    FOLLOW_ENTRIES_HEAD_BYTES = 2 + 8 + 8 + 4,
    FOLLOW_ENTRY_HEAD_BYTES = 8 + 2 + 4,
    FOLLOW_LEASE_MS_MAX = 10000,
};

enum follow_refusal {
    FOLLOW_BUSY = 1,   /* it cannot tell now: another manager can */
    FOLLOW_BEHIND = 2, /* it has less than who asks */
    FOLLOW_VOTES = 3,  /* who asks takes part in Raft, or is to */
};

struct follow_ask {
    uint32_t session;
    uint64_t applied, term; /* of the last entry that is applied there; 0: none */
    /* Of the last one that it has anything of, in a file or waiting: what comes again up to there is passed
     * over, so that it is this one that has to be of the manager's history. Never before the one above. */
    uint64_t top, top_term;
    bool following; /* false: it takes part in Raft, as far as it knows */
};

struct follow_refused {
    uint32_t session;
    uint8_t why; /* enum follow_refusal */
};

struct follow_renew {
    uint32_t session;
    uint64_t applied;
    uint64_t stamp_ms; /* of its clock */
    bool lease;        /* it asks for a read lease */
};

struct follow_grant {
    uint32_t session;
    uint64_t stamp_ms; /* of the RENEW that it answers; 0: it answers an ASK */
    uint64_t applied;  /* at the manager; 0: it has not found yet that the follower's history is its own */
    uint64_t leader;   /* 0: it knows of none */
    uint64_t floor;    /* the lease counts with so much applied */
    uint32_t valid_ms; /* from the stamp on; 0: no lease */
};

struct follow_entry {
    uint64_t term;
    uint16_t type;
    const void *data;
    size_t len;
};

/* Consecutive entries. */
struct follow_entries {
    uint64_t first;     /* index */
    uint64_t prev_term; /* of the entry before */
    uint32_t count;
    const uint8_t *at; /* of what is not read yet */
    size_t left;
};

/* Room for FOLLOW_FRAME_BYTES; return the length. */
size_t follow_ask_encode(const struct follow_ask *ask, uint8_t *out);
size_t follow_refused_encode(const struct follow_refused *refused, uint8_t *out);
size_t follow_renew_encode(const struct follow_renew *renew, uint8_t *out);
size_t follow_grant_encode(const struct follow_grant *grant, uint8_t *out);
/* 0, -EPROTO for another version, -EBADMSG. */
int follow_ask_decode(const void *data, size_t len, struct follow_ask *out);
int follow_refused_decode(const void *data, size_t len, struct follow_refused *out);
int follow_renew_decode(const void *data, size_t len, struct follow_renew *out);
int follow_grant_decode(const void *data, size_t len, struct follow_grant *out);

/* Room for FOLLOW_ENTRIES_HEAD_BYTES, and for each FOLLOW_ENTRY_HEAD_BYTES and its data. Returns the length.
 */
size_t follow_entries_encode(uint64_t first, uint64_t prev_term, const struct follow_entry *entry,
                             uint32_t count, uint8_t *out);
/* Looks at all of them. As above. */
int follow_entries_decode(const void *data, size_t len, struct follow_entries *out);
/* The next one; false behind the last. Borrowed from what was decoded. */
bool follow_entries_next(struct follow_entries *entries, struct follow_entry *out);

/* The handle of a snapshot (snapshot.h), for a session. Room for FOLLOW_FRAME_BYTES and the handle. */
size_t follow_snapshot_encode(uint32_t session, const void *handle, size_t handle_len, uint8_t *out);
int follow_snapshot_decode(const void *data, size_t len, uint32_t *session, const void **handle,
                           size_t *handle_len);

#endif
