/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/http2/guard.h"

#include <string.h>

/* RFC 9113, 6 */
enum { DATA = 0, HEADERS = 1, RST_STREAM = 3, CONTINUATION = 9, END_STREAM = 1, PREFACE_LEN = 24 };
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
    if (g->backend)
        kind = H2_ABUSE_CONTROL;
    g->level[kind] += FRAME;
    if (g->level[kind] > limits[kind].most * FRAME && g->reason == CLOSE_NONE)
        g->reason = limits[kind].reason;
}

void h2_guard_work(struct h2_guard *g)
{
    uint32_t *level = &g->level[H2_ABUSE_CONTROL];
    *level = *level > WORK ? *level - WORK : 0;
}

void h2_guard_init(struct h2_guard *g, bool backend, uint64_t now_ms)
{
    *g = (struct h2_guard){.seen_ms = now_ms, .backend = backend, .skip = backend ? 0 : PREFACE_LEN};
}

static void look_at(struct h2_guard *g, uint64_t now_ms)
{
    uint32_t len = (uint32_t)g->head[0] << 16 | (uint32_t)g->head[1] << 8 | g->head[2];
    uint8_t type = g->head[3], flags = g->head[4];
    g->skip = len;
    switch (type) {
    case DATA:
        if (len == 0 && !(flags & END_STREAM))
            h2_guard_note(g, H2_ABUSE_EMPTY, now_ms);
        return;
    case HEADERS:
    case CONTINUATION:
        if (len == 0)
            h2_guard_note(g, H2_ABUSE_EMPTY, now_ms);
        return;
    case RST_STREAM:
        h2_guard_note(g, H2_ABUSE_RESETS, now_ms);
        return;
    default:
        h2_guard_note(g, H2_ABUSE_CONTROL, now_ms);
        return;
    }
}

void h2_guard_look(struct h2_guard *g, const uint8_t *bytes, size_t len, uint64_t now_ms)
{
    while (len) {
        size_t n = g->skip ? g->skip : sizeof(g->head) - g->head_len;
        n = n < len ? n : len;
        if (g->skip) {
            g->skip -= (uint32_t)n;
        } else {
            memcpy(g->head + g->head_len, bytes, n);
            g->head_len = (uint8_t)(g->head_len + n);
        }
        bytes += n;
        len -= n;
        if (g->head_len < sizeof(g->head))
            continue;
        g->head_len = 0;
        g->begun = true;
        look_at(g, now_ms);
    }
}
