/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From Raft's configuration to the wanted one, step by step: pure. Each step is one change of Raft's
 * configuration (or a transfer of leadership), after which the question is asked anew, by whoever leads then:
 * so nothing is remembered between two steps, and the end of a leader in between is harmless.
 *
 * Who is no member any more goes first (it may be dead, and counts until then), then those that are to stop
 * voting, then who is new comes as a standby, then standbys that have caught up begin to vote. A leader that
 * is to stop voting hands over to one that stays, as the last step of its own.
 */
#ifndef FL_RAFT_MEMBERS_H
#define FL_RAFT_MEMBERS_H

#include "consensus.h"

enum members_what {
    MEMBERS_DONE,     /* the configuration is the wanted one */
    MEMBERS_WAIT,     /* something is to be done, but not now: nobody has caught up, or is there */
    MEMBERS_CHANGE,   /* .change of .node */
    MEMBERS_TRANSFER, /* to .node */
};

struct members_step {
    enum members_what what;
    enum consensus_change change;
    uint64_t node;
};

/* One server of Raft's configuration. */
struct members_server {
    uint64_t id;
    bool voter, online;
    bool caught_up; /* it has nearly all of the leader's log */
};

/* What the leader `self` does next. */
struct members_step members_next(const struct members_server *servers, size_t count,
                                 const struct consensus_member *wanted, size_t wanted_count, uint64_t self);

/* False: no voter is wanted, a node is twice, or there are too many. */
bool members_valid(const struct consensus_member *wanted, size_t count);

#endif
