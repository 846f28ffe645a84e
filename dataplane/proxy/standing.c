/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bodies of answers that come to a halt. Those that another backend can go on with are resume.c's; for the
 * others there is only an end, which must not look like that of the whole body: when the kernel calls the
 * backend down, or when nothing has come for too long.
 */
#include "dataplane/ring.h"
#include "dataplane/proxy/exchange.h"

enum {
    QUIET_MS = 200,  /* a backend that is down and from which nothing has come for so long is given up */
    LOOKS_MAX = 512, /* at a time: ten times a second */
};

void standing_enter(struct exchange *ex)
{
    struct proxy *p = ex->proxy;
    ex->next_relaying = p->relaying;
    ex->prev_relaying = &p->relaying;
    if (ex->next_relaying)
        ex->next_relaying->prev_relaying = &ex->next_relaying;
    p->relaying = ex;
    ex->relaying = true;
    ex->halted = CLOSE_NONE;
}

void standing_leave(struct exchange *ex)
{
    if (ex->proxy->look_next == ex)
        ex->proxy->look_next = ex->next_relaying;
    *ex->prev_relaying = ex->next_relaying;
    if (ex->next_relaying)
        ex->next_relaying->prev_relaying = ex->prev_relaying;
    ex->relaying = false;
}

/* Only where the source alone is waited for: a client that reads slowly is no fault of the backend. */
static enum close_reason judge(const struct exchange *ex, uint64_t now_ms)
{
    const struct pump *p = &ex->response;
    const struct target *t = ex->attempt.target;
    uint64_t limit_ms = ex->unlimited ? 0 : ring_setting(ex->ring, SET_PROXY_BODY_TIMEOUT);
    uint64_t since_ms = p->progress_ms > p->sink_progress_ms ? p->progress_ms : p->sink_progress_ms;
    if (ex->follower || !pump_waits_for_source(p))
        return CLOSE_NONE;
    if (!ex->resume.possible && t && balance_is_down(ex->proxy->balance, t) && now_ms >= since_ms + QUIET_MS)
        return CLOSE_BACKEND_DOWN;
    return limit_ms && now_ms >= since_ms + limit_ms ? CLOSE_BACKEND_SILENT : CLOSE_NONE;
}

void standing_look(struct proxy *p)
{
    uint64_t now_ms = ring_now_ms(p->ring);
    struct exchange *ex = p->look_next ? p->look_next : p->relaying;
    for (unsigned i = 0; ex && i < LOOKS_MAX; i++, ex = p->look_next) {
        enum close_reason why = judge(ex, now_ms);
        p->look_next = ex->next_relaying;
        if (why == CLOSE_NONE)
            continue;
        ex->halted = (uint8_t)why;
        pump_fail_source(&ex->response);
    }
}
