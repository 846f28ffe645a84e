/* SPDX-License-Identifier: Apache-2.0 */
/* A state in memory, and commands that are applied to it. */
#ifndef FL_TESTS_STATE_FIXTURE_H
#define FL_TESTS_STATE_FIXTURE_H

#include "cmd_build.h"
#include "control/state/state.h"
#include "kv_memory.h"

struct fixture {
    struct kv_memory m;
    struct cmd_build b;
    struct state_event ev; /* of the last command */
    uint64_t index;        /* its place in the log */
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    kv_memory_init(&f->m);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    kv_memory_fini(&f->m);
    free(f);
    return 0;
}

/* What is refused writes nothing. */
static inline enum cmd_status fixture_apply(struct fixture *f, const void *cmd, size_t len)
{
    struct state_tx tx = {.kv = &f->m.kv};
    uint64_t writes = f->m.writes;
    assert_int_equal(state_apply(&tx, ++f->index, cmd, len, &f->ev), 0);
    if (f->ev.status != CMD_OK)
        assert_int_equal(f->m.writes, writes);
    return f->ev.status;
}

/* One that was made to be proposed: it is freed. */
static inline enum cmd_status fixture_apply_made(struct fixture *f, void *cmd, size_t len)
{
    enum cmd_status status = fixture_apply(f, cmd, len);
    free(cmd);
    return status;
}

#endif
