/* SPDX-License-Identifier: Apache-2.0 */
#include "control/repair.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/events.h"
#include "placement.h"

enum {
    LOOK_MS = 1000, /* between two looks at how much is held by how many */
    NO_SPACE_MS = 60000,
    MORE_MAX = BLOB_HOLDERS_MAX,
    ROWS_MIN = 16,
    ROWS_COST = 128 << 10, /* rows of a tick, times replicas */
    TEXT_MAX = 200,
};

enum slot_state { SLOT_FREE, SLOT_KEEPING, SLOT_SAYING };

/* A blob at work. */
struct slot {
    struct repair *all;
    enum slot_state state;
    struct digest digest;
    uint64_t size;
    unsigned more; /* as the choice was made */
    struct repair_choice choice;
};

enum walk_kind { WALK_COPY, WALK_BALANCE, WALK_CHECK, WALK_KINDS };

/* One way through all rows; another one may be walked meanwhile. */
struct walk {
    bool running, begun; /* begun: everything up to the cursor is done */
    struct digest cursor;
    uint64_t done, bytes; /* that came of it */
    bool waits;           /* something is the turn of others */
    bool missed;          /* something could not be done now */
    bool again;           /* before the cursor something may have come to be its turn */
};

/* Blobs of which so many holders count. */
struct level {
    uint64_t blobs;            /* at the last look */
    uint64_t moved_ms;         /* when that was another number */
    uint64_t next_ms, wait_ms; /* of the next walk for them */
    unsigned more;
};

struct repair {
    struct repair_config config;
    struct repair_view view;  /* the last one */
    bool known;               /* it holds now; else not since paused_ms */
    struct repair_node *node; /* of the view */
    size_t node_cap;
    uint64_t shape, balanced; /* of the view; that the last balance was made for */
    struct slot slot[REPAIR_SLOTS];
    unsigned busy;
    uint64_t now_ms, paused_ms, rate;
    int64_t credit; /* bytes that may be begun; below 0: something large was */
    struct walk walk[WALK_KINDS];
    unsigned at; /* the level that WALK_COPY is about */
    struct level level[BLOB_HOLDERS_MAX];
    struct state_held held;
    uint64_t look_ms;                     /* the next one */
    uint64_t balance_ms, balance_wait_ms; /* the next balance, but for that of other replicas */
    uint64_t no_space_ms;                 /* until then nothing is asked for */
    bool walking, full;                   /* full: of a walk's turn: nothing more can be begun */
    bool episode;
    uint64_t episode_ms, episode_copied, episode_bytes;
    struct repair_status sum;
};

/* ------------------------------------------------------------------ the view */

static void view_copy(struct repair *r, const struct repair_view *v)
{
    if (v->count > r->node_cap) {
        free(r->node);
        r->node = calloc(v->count, sizeof(*r->node));
        CHECK(r->node);
        r->node_cap = v->count;
    }
    for (size_t i = 0; i < v->count; i++)
        r->node[i] = v->node[i];
    r->view = *v;
    r->view.node = r->node;
}

/* Where others count, what came of walks before says nothing. Else they go on where they were, as they would
 * come to no end where leaders change often; and there is one more, as it may be another's turn. */
static void view_take(struct repair *r, const struct repair_view *v)
{
    uint64_t shape = repair_view_shape(v), paused_ms = r->known ? 0 : r->now_ms - r->paused_ms;
    bool anew = r->shape != shape || r->view.self != v->self;
    if (r->known && repair_view_same(&r->view, v))
        return;
    view_copy(r, v);
    r->known = true;
    r->shape = shape;
    r->look_ms = r->balance_ms = r->now_ms;
    r->balance_wait_ms = 0;
    r->walk[WALK_COPY].running &= !anew;
    r->walk[WALK_COPY].again = true;
    r->walk[WALK_BALANCE].running &= !anew;
    for (unsigned i = 0; i < BLOB_HOLDERS_MAX; i++) {
        struct level *l = &r->level[i];
        if (anew)
            *l = (struct level){.moved_ms = r->now_ms};
        else
            l->moved_ms += paused_ms; /* nobody could do anything */
        l->next_ms = r->now_ms;
        l->wait_ms = 0;
    }
}

static bool on_lives(void *arg, uint64_t id)
{
    const struct repair *r = arg;
    return repair_counts(&r->view, id);
}

/* ------------------------------------------------------------------ how much there is to do */

static void episode_begin(struct repair *r)
{
    char text[TEXT_MAX];
    r->episode = true;
    r->episode_ms = r->now_ms;
    r->episode_copied = r->sum.copied;
    r->episode_bytes = r->sum.copied_bytes;
    snprintf(text, sizeof(text), "%" PRIu64 " blobs (%" PRIu64 " bytes) are on fewer than %u replicas",
             r->held.endangered, r->held.endangered_bytes, (unsigned)r->view.wanted);
    r->config.tell(r->config.arg, "repair.begun", text);
}

static void episode_end(struct repair *r)
{
    char text[TEXT_MAX];
    r->episode = false;
    snprintf(text, sizeof(text),
             "every blob is on %u replicas; this node has made %" PRIu64 " copies (%" PRIu64
             " bytes) in %" PRIu64 " s",
             (unsigned)r->view.wanted, r->sum.copied - r->episode_copied,
             r->sum.copied_bytes - r->episode_bytes, (r->now_ms - r->episode_ms) / 1000);
    r->config.tell(r->config.arg, "repair.ended", text);
}

static void look(struct repair *r)
{
    struct state_held held;
    if (r->config.held(r->config.arg, r->view.wanted, on_lives, r, &held)) {
        r->look_ms = r->now_ms + LOOK_MS;
        return;
    }
    /* Others have copied what this node may let go. */
    if (held.surplus != r->held.surplus && r->balance_ms > r->now_ms + REPAIR_AGAIN_MS)
        r->balance_ms = r->now_ms + REPAIR_AGAIN_MS;
    r->held = held;
    r->look_ms = r->now_ms + LOOK_MS + held.rows / 8; /* of thousands of replicas there are many rows */
    for (unsigned i = 0; i < BLOB_HOLDERS_MAX; i++) {
        struct level *l = &r->level[i];
        if (l->blobs == held.living[i])
            continue;
        l->blobs = held.living[i];
        l->moved_ms = r->now_ms;
        l->more = 0;
        l->wait_ms = 0;
        if (l->next_ms > r->now_ms + REPAIR_AGAIN_MS)
            l->next_ms = r->now_ms + REPAIR_AGAIN_MS;
    }
    if (held.endangered && !r->episode)
        episode_begin(r);
    else if (!held.endangered && r->episode)
        episode_end(r);
}

/* ------------------------------------------------------------------ blobs at work */

static struct slot *slot_take(struct repair *r)
{
    for (unsigned i = 0; i < REPAIR_SLOTS; i++)
        if (r->slot[i].state == SLOT_FREE)
            return &r->slot[i];
    return NULL;
}

static void slot_move(struct slot *s, enum slot_state state)
{
    s->all->busy += (state != SLOT_FREE) - (s->state != SLOT_FREE);
    s->state = state;
}

/* The walk that the blob was begun in. */
static struct walk *walk_of(const struct slot *s)
{
    return &s->all->walk[s->choice.step == REPAIR_COPY ? WALK_COPY : WALK_BALANCE];
}

static void failed(struct slot *s, const char *why)
{
    s->all->sum.failed++;
    s->all->sum.failure = why;
    walk_of(s)->missed = true;
    slot_move(s, SLOT_FREE);
}

static void done(struct slot *s)
{
    struct repair *r = s->all;
    struct walk *w = walk_of(s);
    w->done++;
    if (s->choice.step == REPAIR_LET_GO) {
        r->sum.let_go++;
    } else if (s->choice.step != REPAIR_CLAIM) {
        w->bytes += s->size;
        r->sum.copied++;
        r->sum.copied_bytes += s->size;
    }
    slot_move(s, SLOT_FREE);
}

static void go_on(struct repair *r);

static void on_said(void *arg, enum cmd_status status)
{
    struct slot *s = arg;
    if (status == CMD_OK)
        done(s);
    else if (status == CMD_CONFLICT || status == CMD_BLOB_UNKNOWN)
        slot_move(s, SLOT_FREE); /* it is not any more what it was */
    else
        failed(s, events_status_name(status));
    go_on(s->all);
}

static void say(struct slot *s)
{
    struct repair *r = s->all;
    slot_move(s, SLOT_SAYING);
    r->config.say(r->config.arg, &s->digest, &s->choice, on_said, s);
}

/* It is durable here. Others may have come to hold it meanwhile. False: it need not be said. */
static bool is_wanted(struct slot *s)
{
    struct repair *r = s->all;
    struct names_blob row;
    if (!r->known || r->config.row(r->config.arg, &s->digest, &row))
        return false;
    repair_choose(&r->view, &s->digest, &row, s->more, &s->choice);
    return s->choice.step == REPAIR_COPY || s->choice.step == REPAIR_MOVE;
}

static void on_kept(void *arg, enum job_result result, uint64_t detail)
{
    struct slot *s = arg;
    struct repair *r = s->all;
    (void)detail;
    if (result == JOB_NO_SPACE)
        r->no_space_ms = r->now_ms + NO_SPACE_MS;
    walk_of(s)->missed |= result == JOB_BUSY; /* what is here goes just now, say: another walk asks again */
    if (result != JOB_OK && result != JOB_BUSY)
        failed(s, job_result_name(result));
    else if (result == JOB_OK && is_wanted(s))
        say(s);
    else
        slot_move(s, SLOT_FREE);
    go_on(r);
}

/* ------------------------------------------------------------------ rows */

/* Begun by a walk that was broken off. */
static bool is_at_work(const struct repair *r, const struct digest *d)
{
    for (unsigned i = 0; i < REPAIR_SLOTS; i++)
        if (r->slot[i].state != SLOT_FREE && digest_equal(&r->slot[i].digest, d))
            return true;
    return false;
}

/* A file that is here, is this node's to hold and does not count (the push did not reach it) asks for it. */
bool repair_is_spare(struct repair *r, const struct digest *digest, const struct names_blob *blob)
{
    struct repair_choice choice;
    if (!r->known || is_at_work(r, digest))
        return false;
    repair_choose(&r->view, digest, blob, 0, &choice);
    if (choice.step == REPAIR_MOVE)
        r->balanced = 0;
    return repair_spares(&r->view, digest, blob);
}

/* NULL: no more now. */
static struct slot *begin(struct repair *r, const struct digest *d, uint64_t size,
                          const struct repair_choice *choice)
{
    struct slot *s = slot_take(r);
    r->full = !s;
    if (s) {
        s->digest = *d;
        s->size = size;
        s->choice = *choice;
    }
    return s;
}

static void keep(struct repair *r, struct walk *w, const struct digest *d, uint64_t size,
                 const struct repair_choice *choice)
{
    if (r->now_ms < r->no_space_ms) {
        w->missed = true;
        return;
    }
    if (is_at_work(r, d))
        return;
    struct slot *s = r->credit > 0 ? begin(r, d, size, choice) : NULL;
    r->full = !s;
    if (!s)
        return;
    const struct job_order order = {
        .kind = JOB_KEEP, .digest = *d, .arg = size, .done = on_kept, .done_arg = s};
    s->more = choice->step == REPAIR_COPY ? r->level[r->at].more : 0;
    r->full = jobs_ask(r->config.jobs, &order) != 0;
    if (r->full)
        return;
    slot_move(s, SLOT_KEEPING);
    r->credit -= size < INT64_MAX / 2 ? (int64_t)size : INT64_MAX / 2;
}

static void say_now(struct repair *r, const struct digest *d, uint64_t size,
                    const struct repair_choice *choice)
{
    struct slot *s = is_at_work(r, d) ? NULL : begin(r, d, size, choice);
    if (s)
        say(s);
}

static void copy_row(struct repair *r, const struct digest *d, const struct names_blob *blob)
{
    struct repair_choice choice;
    struct walk *w = &r->walk[WALK_COPY];
    repair_choose(&r->view, d, blob, r->level[r->at].more, &choice);
    if (choice.living != r->at)
        return;
    if (choice.step == REPAIR_COPY)
        keep(r, w, d, blob->size, &choice);
    w->waits |= choice.step == REPAIR_WAIT;
}

static void balance_row(struct repair *r, const struct digest *d, const struct names_blob *blob)
{
    struct repair_choice choice;
    struct walk *w = &r->walk[WALK_BALANCE];
    repair_choose(&r->view, d, blob, 0, &choice);
    if (choice.step == REPAIR_MOVE) {
        keep(r, w, d, blob->size, &choice);
    } else if (choice.step == REPAIR_LET_GO) {
        say_now(r, d, blob->size, &choice);
    } else if (choice.step == REPAIR_CLAIM) {
        int here = r->config.is_here(r->config.arg, d, blob->size);
        r->full = here == -EAGAIN;
        w->missed |= here == 0;
        if (here == 1)
            say_now(r, d, blob->size, &choice);
    } else if (choice.step != REPAIR_REST) {
        w->missed = true; /* who is to hold it is decided when enough do */
    }
}

static void check_row(struct repair *r, const struct digest *d, const struct names_blob *blob)
{
    bool mine = false;
    for (unsigned i = 0; i < blob->holder_count; i++)
        mine |= blob->holder[i] == r->view.self;
    if (!mine || !blob->links)
        return;
    int here = r->config.is_here(r->config.arg, d, blob->size);
    r->full = here == -EAGAIN || (here == 0 && !r->config.missing(r->config.arg, d, blob->size));
}

struct turn {
    struct repair *r;
    enum walk_kind kind;
};

static bool on_row(void *arg, const struct digest *digest, const struct names_blob *blob)
{
    static void (*const of[WALK_KINDS])(struct repair *, const struct digest *, const struct names_blob *) = {
        [WALK_COPY] = copy_row, [WALK_BALANCE] = balance_row, [WALK_CHECK] = check_row};
    const struct turn *t = arg;
    struct repair *r = t->r;
    of[t->kind](r, digest, blob);
    if (r->full)
        return false;
    r->walk[t->kind].cursor = *digest;
    r->walk[t->kind].begun = true;
    return true;
}

/* ------------------------------------------------------------------ walks */

static void walk_begin(struct repair *r, enum walk_kind kind)
{
    r->walk[kind] = (struct walk){.running = true};
}

/* Ever longer, where nothing comes of it. */
static uint64_t wait_after(uint64_t before_ms)
{
    uint64_t ms = before_ms ? 2 * before_ms : REPAIR_AGAIN_MS;
    return ms < REPAIR_AGAIN_MAX_MS ? ms : REPAIR_AGAIN_MAX_MS;
}

static void copy_end(struct repair *r)
{
    struct level *l = &r->level[r->at];
    const struct walk *w = &r->walk[WALK_COPY];
    r->look_ms = r->now_ms;
    l->wait_ms = w->done || w->again ? 0 : wait_after(l->wait_ms);
    l->next_ms = r->now_ms + l->wait_ms;
    if (!w->done && w->waits && l->more < MORE_MAX &&
        r->now_ms - l->moved_ms >= REPAIR_STUCK_MS * (l->more + 1))
        l->more++;
}

static void balance_end(struct repair *r)
{
    char text[TEXT_MAX];
    const struct walk *w = &r->walk[WALK_BALANCE];
    r->balance_wait_ms = w->done ? REPAIR_AGAIN_MS : wait_after(r->balance_wait_ms);
    r->balance_ms = r->now_ms + r->balance_wait_ms;
    if (r->balanced != r->shape && !w->missed) {
        r->balanced = r->shape;
        r->config.set_balanced(r->config.arg, r->shape);
    }
    if (!w->done)
        return;
    snprintf(text, sizeof(text),
             "this node has changed what it holds: %" PRIu64 " blobs, %" PRIu64 " bytes of copies made",
             w->done, w->bytes);
    r->config.tell(r->config.arg, "repair.balanced", text);
}

static void walk_end(struct repair *r, enum walk_kind kind)
{
    r->walk[kind].running = false;
    if (kind == WALK_COPY)
        copy_end(r);
    else if (kind == WALK_BALANCE)
        balance_end(r);
}

static size_t rows_of(const struct repair *r)
{
    size_t rows = ROWS_COST / (r->view.count + 1);
    return rows > REPAIR_ROWS ? REPAIR_ROWS : rows < ROWS_MIN ? ROWS_MIN : rows;
}

/* A turn of it: as many rows as may be looked at, or less, if no more can be begun. */
static void walk_on(struct repair *r, enum walk_kind kind)
{
    struct walk *w = &r->walk[kind];
    struct turn turn = {r, kind};
    size_t limit = rows_of(r);
    r->full = false;
    r->walking = true;
    int n = r->config.walk(r->config.arg, w->begun ? &w->cursor : NULL, limit, on_row, &turn);
    r->walking = false;
    bool over = n >= 0 && (size_t)n < limit && !r->full;
    if (over && r->busy == 0)
        walk_end(r, kind);
}

/* The lowest one that it is time for; as many as are wanted: none. */
static unsigned level_due(const struct repair *r)
{
    unsigned i = 0;
    while (i < r->view.wanted && !(r->level[i].blobs && r->now_ms >= r->level[i].next_ms))
        i++;
    return i;
}

/* What is to be walked now. WALK_KINDS: nothing; so it is while this node is drained, or away (for its store,
 * say, of which it tells what is lost): what comes of a walk then says nothing about later. */
static enum walk_kind walk_choose(struct repair *r)
{
    const struct repair_node *self = repair_node_find(&r->view, r->view.self);
    if (!self || self->presence == REPAIR_OUT)
        return WALK_KINDS;
    if (self->presence == REPAIR_AWAY)
        return r->walk[WALK_CHECK].running ? WALK_CHECK : WALK_KINDS;
    unsigned due = level_due(r);
    if (due < r->view.wanted && (!r->walk[WALK_COPY].running || due < r->at)) {
        r->at = due;
        walk_begin(r, WALK_COPY);
    }
    if (r->walk[WALK_COPY].running)
        return WALK_COPY;
    bool wanted = r->shape != r->balanced || r->held.surplus;
    if (wanted && r->now_ms >= r->balance_ms && !r->walk[WALK_BALANCE].running)
        walk_begin(r, WALK_BALANCE);
    if (r->walk[WALK_BALANCE].running)
        return WALK_BALANCE;
    return r->walk[WALK_CHECK].running ? WALK_CHECK : WALK_KINDS;
}

/* Something that was begun is over: there is room for what there was none for. */
static void go_on(struct repair *r)
{
    if (!r->full || !r->known || r->walking)
        return;
    enum walk_kind kind = walk_choose(r);
    if (kind != WALK_KINDS)
        walk_on(r, kind);
}

static void refill(struct repair *r, uint64_t before_ms)
{
    uint64_t ms = r->now_ms > before_ms ? r->now_ms - before_ms : 0;
    if (ms > 1000)
        ms = 1000;
    r->credit += (int64_t)(r->rate * ms / 1000);
    if (r->credit > (int64_t)r->rate)
        r->credit = (int64_t)r->rate;
}

void repair_tick(struct repair *r, uint64_t now_ms, const struct repair_view *view, uint64_t rate)
{
    uint64_t before_ms = r->now_ms;
    r->now_ms = now_ms;
    r->rate = rate;
    if (!view || !rate) {
        r->paused_ms = r->known ? now_ms : r->paused_ms;
        r->known = false;
        return;
    }
    refill(r, before_ms);
    view_take(r, view);
    if (now_ms >= r->look_ms)
        look(r);
    enum walk_kind kind = walk_choose(r);
    if (kind != WALK_KINDS)
        walk_on(r, kind);
}

/* ------------------------------------------------------------------ life */

void repair_status(const struct repair *r, struct repair_status *out)
{
    static const char *const doing[WALK_KINDS] = {
        [WALK_COPY] = "copying", [WALK_BALANCE] = "balancing", [WALK_CHECK] = "checking"};
    *out = r->sum;
    out->endangered = r->held.endangered;
    out->endangered_bytes = r->held.endangered_bytes;
    out->lost = r->held.lost;
    out->surplus = r->held.surplus;
    out->under_way = r->busy;
    out->state = !r->known ? "paused" : r->held.endangered ? "waiting" : "idle";
    for (int i = WALK_KINDS - 1; i >= 0 && r->known; i--)
        if (r->walk[i].running)
            out->state = doing[i];
}

struct repair *repair_new(const struct repair_config *config)
{
    struct repair *r = calloc(1, sizeof(*r));
    CHECK(r);
    r->config = *config;
    r->balanced = config->balanced;
    r->sum.failure = "";
    for (unsigned i = 0; i < REPAIR_SLOTS; i++)
        r->slot[i].all = r;
    repair_check(r);
    return r;
}

void repair_check(struct repair *r)
{
    CHECK(!r->walking);
    walk_begin(r, WALK_CHECK);
}

void repair_stop(struct repair *r)
{
    r->known = false;
}

void repair_free(struct repair *r)
{
    free(r->node);
    free(r);
}
