/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/http2/guard.h"

enum { FRAME = 1000, WORK = 2 * FRAME };

/* What a peer may do at once, and in each second for ever. */
static const struct {
    uint32_t most, per_s;
    uint8_t reason;
} limits[H2_ABUSES] = {
    [H2_ABUSE_RESETS] = {300, 30, CLOSE_H2_RESETS},
    [H2_ABUSE_CONTROL] = {1000, 50, CLOSE_H2_CONTROL},
    [H2_ABUSE_EMPTY] = {100, 5, CLOSE_H2_EMPTY},
};

static void pass_time(struct h2_guard *g, uint64_t now_ms)
{
    uint64_t passed = now_ms - g->seen_ms;
    g->seen_ms = now_ms;
    for (int i = 0; i < H2_ABUSES; i++) {
        uint64_t less = passed * limits[i].per_s; /* a thousandth a millisecond for each of a second */
        g->level[i] = less < g->level[i] ? g->level[i] - (uint32_t)less : 0;
    }
}

void h2_guard_note(struct h2_guard *g, enum h2_abuse kind, uint64_t now_ms)
{
    if (now_ms != g->seen_ms)
        pass_time(g, now_ms);
    g->level[kind] += FRAME;
    if (g->level[kind] > limits[kind].most * FRAME && g->reason == CLOSE_NONE)
        g->reason = limits[kind].reason;
}

void h2_guard_work(struct h2_guard *g)
{
    uint32_t *level = &g->level[H2_ABUSE_CONTROL];
    *level = *level > WORK ? *level - WORK : 0;
}
