/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Proposals on a node that has others beside it. Where this node leads, they go to its own consensus; else to
 * the leader, whose answer counts. While nobody leads they wait for a moment: most changes of leadership
 * nobody has to hear of.
 *
 * What the leader did not take (CMD_NO_LEADER) is not in any log and is proposed again. What was sent and not
 * answered when the connection broke may be in one: CMD_UNKNOWN_OUTCOME, and never a second time from here. A
 * success is told when it is applied here, and wherever somebody could read what was before
 * (consensus_await).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/cluster_internal.h"
#include "control/worker_rule.h"

enum proposal_phase {
    PROPOSAL_WAITING,  /* for a leader */
    PROPOSAL_LOCAL,    /* in this node's consensus */
    PROPOSAL_SENT,     /* at the leader */
    PROPOSAL_APPLYING, /* answered, and not applied here yet */
    PROPOSAL_DECIDED,  /* to be told in the next turn of the loop */
};

struct proposal {
    struct proposal *next;
    struct cluster *cluster;
    uint64_t id;
    void *cmd;
    size_t len;
    cluster_done done;
    void *arg;
    enum proposal_phase phase;
    uint64_t node;     /* to which it was sent */
    uint64_t since_ms; /* of the loop's clock: of this phase */
    uint64_t deadline_ms;
    enum cmd_status status;
    uint64_t index;
    void *detail;
    size_t detail_len;
};

static uint64_t now_of(const struct cluster *c)
{
    return uv_now(c->config.loop);
}

static void phase_set(struct proposal *p, enum proposal_phase phase)
{
    p->phase = phase;
    p->since_ms = now_of(p->cluster);
}

static void on_tick(uv_timer_t *timer);

/* Soon, from the loop. */
static void wake(struct cluster *c, uint64_t after_ms)
{
    bool sooner =
        uv_is_active((uv_handle_t *)&c->forward.tick) && uv_timer_get_due_in(&c->forward.tick) <= after_ms;
    if (!sooner)
        uv_timer_start(&c->forward.tick, on_tick, after_ms, FORWARD_TICK_MS);
}

static void decide(struct proposal *p, enum cmd_status status, uint64_t index, const void *detail, size_t len)
{
    free(p->detail);
    p->status = status;
    p->index = index;
    p->detail = len ? malloc(len) : NULL;
    CHECK(p->detail || !len);
    if (len)
        memcpy(p->detail, detail, len);
    p->detail_len = len;
    phase_set(p, PROPOSAL_DECIDED);
}

/* Answers those that are decided, and frees them. Who is told may propose: that comes behind the last one. */
static void tell_decided(struct forward *f)
{
    struct proposal **at = &f->first;
    while (*at) {
        struct proposal *p = *at;
        if (p->phase != PROPOSAL_DECIDED) {
            at = &p->next;
            continue;
        }
        *at = p->next;
        if (!p->next)
            f->last = at;
        f->count--;
        f->bytes -= p->len;
        bool lost = p->status == CMD_OK && p->cluster->left;
        p->done(p->arg, lost ? CMD_UNKNOWN_OUTCOME : p->status, p->index, p->detail, p->detail_len);
        free(p->detail);
        free(p->cmd);
        free(p);
    }
}

/* Not in any log: to the next leader, if one comes in time. */
static void again(struct proposal *p, enum cmd_status status, const void *detail, size_t len)
{
    if (status == CMD_NO_LEADER && !p->cluster->closing && now_of(p->cluster) < p->deadline_ms)
        phase_set(p, PROPOSAL_WAITING);
    else
        decide(p, status, 0, detail, len);
}

/* ------------------------------------------------------------------ here */

static void on_awaited(void *arg, int result)
{
    struct proposal *p = arg;
    struct cluster *c = p->cluster;
    if (result)
        decide(p, CMD_UNKNOWN_OUTCOME, p->index, NULL, 0);
    else
        phase_set(p, PROPOSAL_DECIDED);
    if (c->closing) /* who is told may look at the state, which is there only now */
        tell_decided(&c->forward);
    else
        wake(c, 0);
}

static void on_local(void *arg, enum cmd_status status, uint64_t index, const void *detail, size_t len)
{
    struct proposal *p = arg;
    struct cluster *c = p->cluster;
    if (status == CMD_NO_LEADER) {
        again(p, status, detail, len);
    } else {
        decide(p, status, index, detail, len);
        if (status == CMD_OK && index) {
            p->phase = PROPOSAL_LOCAL;
            consensus_await(c->consensus, index, on_awaited, p);
            return;
        }
    }
    wake(c, p->phase == PROPOSAL_DECIDED ? 0 : FORWARD_TICK_MS);
}

static void propose_here(struct proposal *p)
{
    void *copy = malloc(p->len);
    CHECK(copy);
    memcpy(copy, p->cmd, p->len);
    phase_set(p, PROPOSAL_LOCAL);
    consensus_propose(p->cluster->consensus, copy, p->len, on_local, p);
}

/* ------------------------------------------------------------------ there */

static void dispatch(struct proposal *p)
{
    struct cluster *c = p->cluster;
    struct consensus_status s;
    consensus_status(c->consensus, &s);
    if (s.leads) {
        propose_here(p);
        return;
    }
    /* A worker is not connected with who leads: the manager that it follows asks for it. */
    bool manager = !s.following && (s.leader_id || net_is_manager(c, s.node_id));
    uint64_t to = manager ? s.leader_id : net_some_manager(c);
    if (to == 0)
        return;
    int rc = mesh_send(c->mesh, to, CLUSTER_FRAME_PROPOSE, p->id, p->cmd, p->len);
    if (rc == 0) {
        p->node = to;
        phase_set(p, PROPOSAL_SENT);
    } else if (rc != -ENOTCONN) {
        decide(p, rc == -EMSGSIZE ? CMD_TOO_LARGE : CMD_BUSY, 0, NULL, 0);
    }
}

static void on_result(struct cluster *c, uint64_t from, uint64_t id, const void *body, size_t len)
{
    struct wire_reader r = {.buf = body, .len = len};
    uint16_t status = wire_get_u16(&r);
    uint64_t index = wire_get_u64(&r);
    size_t detail_len;
    const void *detail = wire_get_bytes(&r, &detail_len);
    if (!wire_at_end(&r) || status >= CMD_STATUS_COUNT) {
        mesh_drop(c->mesh, from, MESH_FRAME);
        return;
    }
    struct proposal *p = c->forward.first;
    while (p && (p->id != id || p->phase != PROPOSAL_SENT || p->node != from))
        p = p->next;
    if (!p) /* it was given up */
        return;
    if (status == CMD_NO_LEADER) {
        again(p, status, detail, detail_len);
    } else {
        struct consensus_status s;
        consensus_status(c->consensus, &s);
        decide(p, status, index, detail, detail_len);
        if (index > s.applied_index)
            phase_set(p, PROPOSAL_APPLYING);
    }
    wake(c, p->phase == PROPOSAL_DECIDED ? 0 : FORWARD_TICK_MS);
}

void forward_applied(struct cluster *c, uint64_t index)
{
    bool any = false;
    for (struct proposal *p = c->forward.first; p; p = p->next)
        if (p->phase == PROPOSAL_APPLYING && p->index <= index) {
            phase_set(p, PROPOSAL_DECIDED);
            any = true;
        }
    if (any)
        wake(c, 0);
}

void forward_down(struct cluster *c, uint64_t node)
{
    bool any = false;
    for (struct proposal *p = c->forward.first; p; p = p->next)
        if (p->phase == PROPOSAL_SENT && p->node == node) {
            decide(p, CMD_UNKNOWN_OUTCOME, 0, NULL, 0);
            any = true;
        }
    if (any)
        wake(c, 0);
}

void forward_leader(struct cluster *c, uint64_t leader)
{
    uint64_t now = now_of(c);
    if (leader && leader != c->forward.leader) {
        c->forward.leader = leader;
        c->forward.leader_ms = now;
    }
    if (leader)
        c->forward.leaderless_ms = 0;
    else if (!c->forward.leaderless_ms)
        c->forward.leaderless_ms = now ? now : 1;
    forward_wake(c);
}

void forward_wake(struct cluster *c)
{
    if (c->forward.first)
        wake(c, 0);
}

/* ------------------------------------------------------------------ time */

/* Who was asked leads no more, and would have said so: it is lost, or out of reach. */
static bool is_left_behind(const struct proposal *p, uint64_t now)
{
    const struct forward *f = &p->cluster->forward;
    return !p->cluster->source && f->leader && f->leader != p->node && p->since_ms <= f->leader_ms &&
           now - f->leader_ms >= FORWARD_LEFT_MS;
}

static void look(struct proposal *p, uint64_t now)
{
    struct consensus_status s;
    switch (p->phase) {
    case PROPOSAL_WAITING:
        dispatch(p);
        if (p->phase == PROPOSAL_WAITING && now >= p->deadline_ms)
            decide(p, CMD_NO_LEADER, 0, NULL, 0);
        break;
    case PROPOSAL_SENT:
        if (now - p->since_ms >= FORWARD_RESULT_MS || is_left_behind(p, now))
            decide(p, CMD_UNKNOWN_OUTCOME, 0, NULL, 0);
        break;
    case PROPOSAL_APPLYING: /* a snapshot brings no events */
        consensus_status(p->cluster->consensus, &s);
        if (s.applied_index >= p->index || now - p->since_ms >= FORWARD_APPLY_MS)
            phase_set(p, PROPOSAL_DECIDED);
        break;
    default:
        break;
    }
}

static void on_tick(uv_timer_t *timer)
{
    struct cluster *c = timer->data;
    struct forward *f = &c->forward;
    uint64_t now = now_of(c);
    for (struct proposal *p = f->first; p; p = p->next)
        look(p, now);
    tell_decided(f);
    bool busy = false;
    for (const struct proposal *p = f->first; p && !busy; p = p->next)
        busy = p->phase != PROPOSAL_LOCAL;
    if (!busy)
        uv_timer_stop(timer);
}

void forward_propose(struct cluster *c, void *cmd, size_t len, cluster_done done, void *arg)
{
    struct forward *f = &c->forward;
    uint64_t now = now_of(c);
    struct proposal *p = calloc(1, sizeof(*p));
    CHECK(p);
    *p =
        (struct proposal){.cluster = c, .id = ++f->next_id, .cmd = cmd, .len = len, .done = done, .arg = arg};
    p->deadline_ms = (f->leaderless_ms ? f->leaderless_ms : now) + FORWARD_LEADER_MS;
    bool full = f->count >= FORWARD_MAX || f->bytes + len > FORWARD_BYTES_MAX;
    *f->last = p;
    f->last = &p->next;
    f->count++;
    f->bytes += len;
    phase_set(p, PROPOSAL_WAITING);
    if (full || c->closing)
        decide(p, full ? CMD_BUSY : CMD_NO_LEADER, 0, NULL, 0);
    else
        dispatch(p);
    if (p->phase != PROPOSAL_LOCAL)
        wake(c, p->phase == PROPOSAL_DECIDED ? 0 : FORWARD_TICK_MS);
}

/* ------------------------------------------------------------------ for others */

/* A proposal of another node, under way here. */
struct served {
    struct cluster *cluster;
    uint64_t from, id, index;
    void *detail;
    size_t detail_len;
};

static void answer(struct served *s, enum cmd_status status, uint64_t index, const void *detail, size_t len)
{
    struct cluster *c = s->cluster;
    struct wire_writer w = {.cap = 2 + 8 + 4 + len};
    w.buf = malloc(w.cap);
    CHECK(w.buf);
    wire_put_u16(&w, (uint16_t)status);
    wire_put_u64(&w, index);
    wire_put_bytes(&w, detail, len);
    /* Without a connection it knows already that it will not be told. */
    if (c->mesh)
        mesh_send(c->mesh, s->from, CLUSTER_FRAME_RESULT, s->id, w.buf, w.len);
    free(w.buf);
    c->forward.served--;
    free(s->detail);
    free(s);
}

static void on_served_awaited(void *arg, int result)
{
    struct served *s = arg;
    answer(s, result ? CMD_UNKNOWN_OUTCOME : CMD_OK, s->index, s->detail, s->detail_len);
}

static void on_served(void *arg, enum cmd_status status, uint64_t index, const void *detail, size_t len)
{
    struct served *s = arg;
    if (status != CMD_OK || !index) {
        answer(s, status, index, detail, len);
        return;
    }
    s->index = index;
    s->detail = malloc(len + 1);
    CHECK(s->detail);
    if (len)
        memcpy(s->detail, detail, len);
    s->detail_len = len;
    consensus_await(s->cluster->consensus, index, on_served_awaited, s);
}

/* It is applied wherever it has to be already. */
static void on_served_for_worker(void *arg, enum cmd_status status, uint64_t index, const void *detail,
                                 size_t len)
{
    answer(arg, status, index, detail, len);
}

static void on_propose(struct cluster *c, uint64_t from, uint64_t id, const void *body, size_t len)
{
    struct served *s = calloc(1, sizeof(*s));
    CHECK(s);
    *s = (struct served){.cluster = c, .from = from, .id = id};
    bool full = c->forward.served++ >= FORWARD_MAX;
    if (full || len < CMD_TIME_OFFSET || len > COMMAND_BYTES_MAX) {
        answer(s, full ? CMD_BUSY : CMD_INVALID, 0, NULL, 0);
        return;
    }
    const char *why = net_is_manager(c, from) ? NULL : worker_refused(from, body, len);
    if (why) {
        answer(s, CMD_INVALID, 0, why, strlen(why));
        return;
    }
    void *copy = malloc(len);
    CHECK(copy);
    memcpy(copy, body, len);
    /* A manager means this node as the leader, and asks anew where it is not; so nothing goes round in
     * circles. */
    if (net_is_manager(c, from))
        consensus_propose(c->consensus, copy, len, on_served, s);
    else
        forward_propose(c, copy, len, on_served_for_worker, s);
}

void forward_frame(struct cluster *c, uint64_t from, uint16_t type, uint64_t id, const void *body, size_t len)
{
    if (type == CLUSTER_FRAME_PROPOSE)
        on_propose(c, from, id, body, len);
    else if (type == CLUSTER_FRAME_RESULT)
        on_result(c, from, id, body, len);
}

/* ------------------------------------------------------------------ life */

void forward_open(struct cluster *c)
{
    struct forward *f = &c->forward;
    f->last = &f->first;
    CHECK(uv_timer_init(c->config.loop, &f->tick) == 0);
    f->tick.data = c;
}

void forward_stop(struct cluster *c)
{
    for (struct proposal *p = c->forward.first; p; p = p->next) {
        if (p->phase == PROPOSAL_WAITING)
            decide(p, CMD_NO_LEADER, 0, NULL, 0);
        else if (p->phase == PROPOSAL_SENT)
            decide(p, CMD_UNKNOWN_OUTCOME, 0, NULL, 0);
        else if (p->phase == PROPOSAL_APPLYING)
            phase_set(p, PROPOSAL_DECIDED);
    }
    wake(c, 0);
}

void forward_close(struct cluster *c, uv_close_cb closed)
{
    struct forward *f = &c->forward;
    while (f->count) { /* what was local was answered by the end of the consensus */
        for (struct proposal *p = f->first; p; p = p->next)
            if (p->phase != PROPOSAL_DECIDED)
                decide(p, CMD_UNKNOWN_OUTCOME, 0, NULL, 0);
        tell_decided(f);
    }
    uv_close((uv_handle_t *)&c->forward.tick, closed);
}
