/* SPDX-License-Identifier: Apache-2.0 */
/* Nodes that repair, each with a data plane that keeps what it is told to, over one table of blobs. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "cmd_build.h"
#include "control/repair.h"
#include "placement.h"

enum { NODES = 4, BLOBS = 300, ORDERS = 4096, SIZE = 1000, RATE = 1 << 30, TOLD = 8 };

struct saying {
    struct digest digest;
    struct repair_choice choice;
    repair_said said;
    void *arg;
};

struct host {
    uint64_t id;
    struct jobs *jobs;
    struct repair *repair;
    bool file[BLOBS];
    struct {
        uint64_t id;
        unsigned blob;
    } order[ORDERS];
    size_t ordered, answered;
    struct saying saying[REPAIR_SLOTS];
    size_t sayings;
    unsigned missing, walks, stats, begun; /* begun: walks, from the first row on */
    bool disowns;
    unsigned room; /* for what is missing */
    uint64_t balanced;
    char told[TOLD][32];
    unsigned told_count;
    enum job_result result; /* of what it is asked for */
};

static struct {
    struct names_blob row[BLOBS];
    struct host host[NODES];
    struct repair_node node[NODES];
    uint32_t wanted;
    uint64_t now_ms, commits;
    enum cmd_status status; /* of what is said */
} t;

static struct digest digest_at(unsigned i)
{
    struct digest d = {.alg = DIGEST_SHA256};
    uint64_t head = placement_mix(i + 1);
    d.bytes[0] = (uint8_t)(i >> 8);
    d.bytes[1] = (uint8_t)i;
    memcpy(d.bytes + 2, &head, sizeof(head));
    return d;
}

static unsigned index_of(const struct digest *d)
{
    return (unsigned)d->bytes[0] << 8 | d->bytes[1];
}

/* --- what repair asks for --- */

static int on_send(void *arg, uint32_t ring, uint64_t id, const struct frame_job *job)
{
    struct host *h = arg;
    (void)ring;
    CHECK(h->ordered < ORDERS && job->kind == JOB_KEEP && job->flags == 0 && job->arg == SIZE);
    h->order[h->ordered].id = id;
    h->order[h->ordered++].blob = (unsigned)job->digest[1] << 8 | job->digest[2];
    return 0;
}

static int on_walk(void *arg, const struct digest *after, size_t limit, repair_row row, void *row_arg)
{
    struct host *h = arg;
    int n = 0;
    h->walks++;
    h->begun += after == NULL;
    for (unsigned i = after ? index_of(after) + 1 : 0; i < BLOBS && (size_t)n < limit; i++, n++) {
        struct digest d = digest_at(i);
        if (!row(row_arg, &d, &t.row[i]))
            break;
    }
    return n;
}

static int on_row(void *arg, const struct digest *d, struct names_blob *out)
{
    (void)arg;
    *out = t.row[index_of(d)];
    return 0;
}

static int on_held(void *arg, uint32_t wanted, repair_lives lives, void *lives_arg, struct state_held *out)
{
    (void)arg;
    memset(out, 0, sizeof(*out));
    for (unsigned i = 0; i < BLOBS; i++) {
        unsigned living = 0;
        if (!t.row[i].links || !t.row[i].version)
            continue;
        for (unsigned k = 0; k < t.row[i].holder_count; k++)
            living += lives(lives_arg, t.row[i].holder[k]);
        out->blobs++;
        out->living[living]++;
        out->endangered += living < wanted;
        out->endangered_bytes += living < wanted ? SIZE : 0;
        out->surplus += living > wanted;
        out->lost += living == 0;
    }
    return 0;
}

static void on_say(void *arg, const struct digest *d, const struct repair_choice *choice, repair_said said,
                   void *said_arg)
{
    struct host *h = arg;
    CHECK(h->sayings < REPAIR_SLOTS);
    h->saying[h->sayings++] = (struct saying){*d, *choice, said, said_arg};
}

static int on_is_here(void *arg, const struct digest *d, uint64_t size)
{
    struct host *h = arg;
    assert_int_equal(size, SIZE);
    if (h->stats == 0)
        return -EAGAIN;
    h->stats--;
    return h->file[index_of(d)];
}

static bool on_missing(void *arg, const struct digest *d, uint64_t size)
{
    struct host *h = arg;
    assert_int_equal(size, SIZE);
    if (h->room == 0)
        return false;
    h->room--;
    h->missing++;
    if (h->disowns) {
        struct names_blob *b = &t.row[index_of(d)];
        for (unsigned i = 0; i < b->holder_count; i++)
            if (b->holder[i] == h->id)
                b->holder[i--] = b->holder[--b->holder_count];
        return true;
    }
    h->file[index_of(d)] = true; /* it is healed */
    return true;
}

static void on_tell(void *arg, const char *kind, const char *text)
{
    struct host *h = arg;
    assert_true(*text);
    snprintf(h->told[h->told_count++ % TOLD], sizeof(h->told[0]), "%s", kind);
}

static void on_balanced(void *arg, uint64_t balanced)
{
    struct host *h = arg;
    h->balanced = balanced;
}

/* --- a cluster --- */

static void host_open(unsigned i)
{
    struct host *h = &t.host[i];
    h->id = i + 1;
    h->ordered = h->answered = h->sayings = 0;
    h->jobs = jobs_new(&(struct jobs_config){.send = on_send, .arg = h, .rings = 1});
    h->repair = repair_new(&(struct repair_config){.jobs = h->jobs,
                                                   .walk = on_walk,
                                                   .row = on_row,
                                                   .held = on_held,
                                                   .say = on_say,
                                                   .is_here = on_is_here,
                                                   .missing = on_missing,
                                                   .tell = on_tell,
                                                   .balanced = h->balanced,
                                                   .set_balanced = on_balanced,
                                                   .arg = h});
}

static void host_close(unsigned i)
{
    repair_free(t.host[i].repair);
    jobs_free(t.host[i].jobs);
}

static void holders_set(unsigned blob, struct cmd_holders h)
{
    t.row[blob] =
        (struct names_blob){.size = SIZE, .links = 1, .version = NAMES_BLOB_VERSION, .holder_count = h.count};
    memcpy(t.row[blob].holder, h.id, sizeof(h.id));
    for (unsigned i = 0; i < NODES; i++)
        t.host[i].file[blob] = cmd_holders_has(&h, i + 1);
}

/* On the best ones of the first `count` nodes. */
static void place(unsigned i, size_t count)
{
    static const uint64_t id[NODES] = {1, 2, 3, 4};
    struct cmd_holders h = {0};
    struct digest d = digest_at(i);
    uint64_t best[NODES];
    size_t n = placement_best(&d, id, count, t.wanted, best);
    for (size_t k = 0; k < n; k++)
        cmd_holders_add(&h, best[k]);
    holders_set(i, h);
}

static void place_all(size_t count)
{
    for (unsigned i = 0; i < BLOBS; i++)
        place(i, count);
}

static int setup(void **state)
{
    (void)state;
    memset(&t, 0, sizeof(t));
    t.wanted = 2;
    t.now_ms = 1000;
    for (unsigned i = 0; i < NODES; i++) {
        t.node[i] = (struct repair_node){.id = i + 1};
        host_open(i);
        t.host[i].room = ~0u;
    }
    place_all(NODES);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    for (unsigned i = 0; i < NODES; i++)
        host_close(i);
    return 0;
}

static void tick(unsigned i, uint64_t rate)
{
    struct repair_view v = {.self = i + 1, .wanted = t.wanted, .count = NODES, .node = t.node};
    t.host[i].stats = 20;
    repair_tick(t.host[i].repair, t.now_ms, &v, rate);
}

/* The file that is asked for comes, if anybody has it. */
static bool answer_job(unsigned i)
{
    struct host *h = &t.host[i];
    if (h->answered == h->ordered)
        return false;
    unsigned blob = h->order[h->answered].blob;
    enum job_result result = h->result;
    bool found = false;
    for (unsigned k = 0; k < NODES; k++)
        found |= t.host[k].file[blob];
    if (result == JOB_OK && !found)
        result = JOB_NO_SOURCE;
    h->file[blob] |= result == JOB_OK;
    jobs_answer(h->jobs, h->order[h->answered++].id, result, SIZE);
    return true;
}

/* As the state machine does it. */
static enum cmd_status commit(const struct saying *s)
{
    struct names_blob *b = &t.row[index_of(&s->digest)];
    struct cmd_holders now = {.count = b->holder_count}, after = s->choice.gained;
    memcpy(now.id, b->holder, sizeof(now.id));
    if (t.status != CMD_OK)
        return t.status;
    for (unsigned i = 0; i < s->choice.needed.count; i++)
        if (!cmd_holders_has(&now, s->choice.needed.id[i]))
            return CMD_CONFLICT;
    for (unsigned i = 0; i < now.count; i++)
        if (!cmd_holders_has(&s->choice.lost, now.id[i]))
            assert_true(cmd_holders_add(&after, now.id[i]));
    b->version = NAMES_BLOB_VERSION;
    b->holder_count = after.count;
    memcpy(b->holder, after.id, sizeof(after.id));
    t.commits++;
    return CMD_OK;
}

static bool answer_saying(unsigned i)
{
    struct host *h = &t.host[i];
    if (h->sayings == 0)
        return false;
    const struct saying s = h->saying[0];
    memmove(h->saying, h->saying + 1, --h->sayings * sizeof(s));
    s.said(s.arg, commit(&s));
    return true;
}

/* All nodes that are there, for so long; one that is away may be so for its store alone. */
static void run(uint64_t ms)
{
    for (uint64_t end = t.now_ms + ms; t.now_ms < end; t.now_ms += REPAIR_TICK_MS)
        for (unsigned i = 0; i < NODES; i++) {
            if (t.node[i].presence == REPAIR_AWAY && !t.host[i].disowns)
                continue;
            tick(i, RATE);
            while (answer_job(i) || answer_saying(i))
                ;
        }
}

/* Every blob is exactly on the best ones of those that are up, and its files are there. */
static void assert_placed(void)
{
    uint64_t up[NODES], best[NODES];
    size_t count = 0;
    for (unsigned i = 0; i < NODES; i++)
        if (t.node[i].presence == REPAIR_UP)
            up[count++] = i + 1;
    for (unsigned i = 0; i < BLOBS; i++) {
        struct digest d = digest_at(i);
        struct cmd_holders have = {0};
        for (unsigned k = 0; k < t.row[i].holder_count; k++)
            if (t.node[t.row[i].holder[k] - 1].presence == REPAIR_UP)
                cmd_holders_add(&have, t.row[i].holder[k]);
        size_t n = placement_best(&d, up, count, t.wanted, best);
        assert_int_equal(have.count, n);
        for (size_t k = 0; k < n; k++) {
            assert_true(cmd_holders_has(&have, best[k]));
            assert_true(t.host[best[k] - 1].file[i]);
        }
    }
}

static struct repair_status status_of(unsigned i)
{
    struct repair_status s;
    repair_status(t.host[i].repair, &s);
    return s;
}

static bool was_told(unsigned i, const char *kind)
{
    for (unsigned k = 0; k < TOLD; k++)
        if (strcmp(t.host[i].told[k], kind) == 0)
            return true;
    return false;
}

static uint64_t copied(void)
{
    uint64_t n = 0;
    for (unsigned i = 0; i < NODES; i++)
        n += status_of(i).copied;
    return n;
}

/* --- cases --- */

static void test_nothing_to_do(void **state)
{
    (void)state;
    run(60000);
    assert_int_equal(t.commits, 0);
    for (unsigned i = 0; i < NODES; i++) {
        assert_int_equal(t.host[i].ordered, 0);
        assert_int_equal(t.host[i].missing, 0);
        assert_int_equal(t.host[i].told_count, 0);
        assert_string_equal(status_of(i).state, "idle");
    }
    unsigned walks = t.host[0].walks;
    run(600000);
    assert_int_equal(t.host[0].walks, walks); /* all is as it was: nobody walks */
}

/* A node goes for good; comes back; another cluster size is wanted. */
static void test_a_life(void **state)
{
    (void)state;
    unsigned of_last = 0;
    for (unsigned i = 0; i < BLOBS; i++)
        for (unsigned k = 0; k < t.row[i].holder_count; k++)
            of_last += t.row[i].holder[k] == NODES;
    assert_true(of_last > BLOBS / 4);
    t.node[NODES - 1].presence = REPAIR_OUT;
    run(REPAIR_TICK_MS);
    assert_int_equal(status_of(0).endangered, of_last);
    run(20000);
    assert_placed();
    assert_int_equal(copied(), of_last);
    assert_int_equal(status_of(0).endangered, 0);
    assert_true(was_told(0, "repair.begun") && was_told(0, "repair.ended"));
    t.node[NODES - 1].presence = REPAIR_UP;
    run(60000);
    assert_placed();
    assert_int_equal(copied(), of_last); /* it had its own still */
    assert_int_equal(status_of(0).let_go + status_of(1).let_go + status_of(2).let_go, of_last);
    t.wanted = 3;
    run(60000);
    assert_placed();
    t.wanted = 1;
    run(60000);
    assert_placed();
    for (unsigned i = 0; i < NODES; i++)
        assert_int_equal(status_of(i).surplus, 0);
}

static void test_one_more_joins(void **state)
{
    (void)state;
    place_all(NODES - 1);
    run(60000);
    assert_placed();
    assert_true(status_of(NODES - 1).copied > BLOBS / 4);
    assert_int_equal(copied(), status_of(NODES - 1).copied); /* nobody else's have moved */
    assert_true(was_told(NODES - 1, "repair.balanced"));
}

/* A push has not reached one of the best ones, which has pulled the blob since. */
static void test_a_copy_that_may_count(void **state)
{
    (void)state;
    static const uint64_t id[NODES] = {1, 2, 3, 4};
    struct digest d = digest_at(7);
    struct cmd_holders h = {0};
    uint64_t best[NODES];
    run(60000);
    (void)placement_best(&d, id, NODES, NODES, best);
    struct host *first = &t.host[best[0] - 1], *third = &t.host[best[2] - 1];
    cmd_holders_add(&h, best[1]);
    cmd_holders_add(&h, best[2]);
    holders_set(7, h);
    first->file[7] = true;
    run(600000);
    assert_int_equal(t.commits, 0);
    assert_false(repair_is_spare(third->repair, &d, &t.row[7]));
    run(60000);
    assert_int_equal(t.commits, 0);
    assert_false(repair_is_spare(first->repair, &d, &t.row[7]));
    run(60000);
    assert_placed();
    assert_int_equal(t.commits, 2);
    assert_false(repair_is_spare(first->repair, &d, &t.row[7]));
    assert_true(repair_is_spare(third->repair, &d, &t.row[7]));
}

/* One that joins, and is told that it is away before it is told that it is there. */
static void test_not_there_yet(void **state)
{
    (void)state;
    place_all(NODES - 1);
    for (unsigned presence = REPAIR_OUT; presence > REPAIR_UP; presence--)
        for (unsigned n = 0; n < 100; n++, t.now_ms += REPAIR_TICK_MS) {
            t.node[NODES - 1].presence = (uint8_t)presence;
            tick(NODES - 1, RATE);
        }
    assert_int_equal(t.host[NODES - 1].ordered, 0);
    assert_int_equal(t.host[NODES - 1].balanced, 0);
    t.node[NODES - 1].presence = REPAIR_UP;
    run(60000);
    assert_placed();
}

static void test_the_most_endangered_first(void **state)
{
    (void)state;
    struct host *h = &t.host[3];
    t.wanted = 3;
    t.node[1].presence = t.node[2].presence = REPAIR_OUT;
    for (unsigned i = 0; i < BLOBS; i++) /* on none, on one, on two that count */
        holders_set(i, i % 3 == 0   ? (struct cmd_holders){1, {2}}
                       : i % 3 == 1 ? (struct cmd_holders){1, {1}}
                                    : (struct cmd_holders){2, {1, 2}});
    for (unsigned i = 2; i < BLOBS; i += 3)
        holders_set(i, (struct cmd_holders){2, {1, 4}});
    for (unsigned i = 0; i < BLOBS; i++)
        h->file[i] = false;
    for (unsigned n = 0; n < 100; n++, t.now_ms += REPAIR_TICK_MS) {
        tick(3, RATE);
        while (answer_job(3) || answer_saying(3))
            ;
    }
    assert_int_equal(h->ordered, 2 * BLOBS / 3);
    for (unsigned i = 0; i < h->ordered; i++)
        assert_int_equal(h->order[i].blob % 3, i < BLOBS / 3 ? 0 : 1);
    assert_int_equal(status_of(3).endangered, BLOBS); /* there are no three */
    assert_int_equal(status_of(3).lost, 0);
}

static void test_pace(void **state)
{
    (void)state;
    struct host *h = &t.host[0];
    for (unsigned i = 0; i < BLOBS; i++)
        holders_set(i, (struct cmd_holders){1, {2}});
    t.node[2].presence = t.node[3].presence = REPAIR_OUT;
    for (unsigned n = 1; n <= 100; n++, t.now_ms += REPAIR_TICK_MS) { /* 10 s, 20 blobs a second */
        tick(0, 20 * SIZE);
        while (answer_job(0) || answer_saying(0))
            ;
        assert_true(h->ordered <= 21 + 2 * n);
    }
    assert_true(h->ordered >= 190);
    tick(0, 0);
    assert_string_equal(status_of(0).state, "paused");
    size_t before = h->ordered;
    for (unsigned n = 0; n < 100; n++, t.now_ms += REPAIR_TICK_MS)
        tick(0, 0);
    assert_int_equal(h->ordered, before);
}

/* Nobody leads: what is under way is not told, nothing is begun, and all of it is done again afterwards. */
static void test_nobody_leads(void **state)
{
    (void)state;
    t.node[3].presence = REPAIR_OUT;
    tick(0, RATE);
    struct host *h = &t.host[0];
    assert_true(h->ordered > 0);
    repair_tick(h->repair, t.now_ms, NULL, RATE);
    size_t before = h->ordered;
    while (answer_job(0))
        ;
    assert_int_equal(h->sayings, 0);
    assert_int_equal(h->ordered, before);
    assert_string_equal(status_of(0).state, "paused");
    t.status = CMD_NO_LEADER;
    tick(0, RATE);
    while (answer_job(0) || answer_saying(0))
        ;
    assert_true(status_of(0).failed > 0);
    assert_string_equal(status_of(0).failure, "no leader");
    assert_int_equal(t.commits, 0);
    t.status = CMD_OK;
    run(60000);
    assert_placed();
}

/* Killed between a copy and the word of it. */
static void test_restart(void **state)
{
    (void)state;
    t.node[3].presence = REPAIR_OUT;
    tick(0, RATE);
    while (answer_job(0))
        ;
    assert_true(t.host[0].sayings > 0);
    host_close(0);
    host_open(0);
    run(60000);
    assert_placed();
    assert_true(t.host[0].balanced != 0);
    host_close(0);
    host_open(0);
    unsigned walks = t.host[0].walks;
    run(10000);
    assert_int_equal(t.host[0].missing, 0);
    assert_true(t.host[0].walks - walks < 20); /* a look at its own files, and no more */
}

static void test_no_space(void **state)
{
    (void)state;
    t.host[0].result = JOB_NO_SPACE;
    t.node[3].presence = REPAIR_OUT;
    run(30000);
    assert_true(t.host[0].ordered <= REPAIR_SLOTS);
    assert_string_equal(status_of(0).failure, "no space");
    uint64_t left = status_of(1).endangered;
    assert_true(left > 0);
    run(300000); /* the others come to do it */
    assert_int_equal(status_of(1).endangered, 0);
    assert_true(t.host[0].ordered <= 8 * REPAIR_SLOTS);
    t.host[0].result = JOB_OK; /* there is room again: it comes to hold its share */
    run(3 * REPAIR_AGAIN_MAX_MS);
    assert_placed();
}

/* The data plane takes nothing just now (it may be removing that very file): nothing has failed, and it is
 * asked again later. */
static void test_busy(void **state)
{
    (void)state;
    for (unsigned k = 0; k < NODES; k++)
        t.host[k].result = JOB_BUSY;
    t.node[3].presence = REPAIR_OUT;
    run(30000);
    assert_int_equal(status_of(0).failed, 0);
    assert_true(status_of(0).endangered > 0);
    for (unsigned k = 0; k < NODES; k++)
        t.host[k].result = JOB_OK;
    run(60000);
    assert_int_equal(status_of(0).endangered, 0);
    run(3 * REPAIR_AGAIN_MAX_MS);
    assert_placed();
}

/* Nobody has the bytes: it is tried again, ever more rarely, and in between what can be done is. */
static void test_lost(void **state)
{
    (void)state;
    for (unsigned k = 0; k < NODES; k++)
        t.host[k].file[7] = false;
    t.row[7].holder_count = 0;
    run(3600000);
    assert_int_equal(status_of(0).lost, 1);
    size_t tried = 0;
    for (unsigned k = 0; k < NODES; k++)
        tried += t.host[k].ordered;
    assert_true(tried >= 10 && tried < 4 * 40);
    t.host[2].file[7] = true; /* one has a file that did not count */
    run(2 * REPAIR_AGAIN_MAX_MS);
    assert_placed();
}

/* Blobs of before there were holders: whoever has the file says so, and the others copy it. */
static void test_never_told(void **state)
{
    (void)state;
    for (unsigned i = 0; i < BLOBS; i++) {
        holders_set(i, (struct cmd_holders){1, {1}});
        t.row[i] = (struct names_blob){.size = SIZE, .links = i != 5};
    }
    run(60000);
    assert_int_equal(t.row[5].holder_count, 0); /* on its way out */
    place(5, NODES);
    assert_int_equal(status_of(1).endangered, 0);
    run(3 * REPAIR_AGAIN_MAX_MS);
    assert_placed();
}

static unsigned take_files_away(void)
{
    unsigned gone = 0;
    for (unsigned i = 0; i < BLOBS; i += 10) {
        gone += t.host[0].file[i];
        t.host[0].file[i] = false;
    }
    return gone;
}

static void test_files_that_are_not_here(void **state)
{
    (void)state;
    unsigned gone = take_files_away();
    run(30000);
    assert_int_equal(t.host[0].missing, gone);
    assert_int_equal(t.host[1].missing, 0);
    run(30000);
    assert_int_equal(t.host[0].missing, gone); /* once a start ... */
    assert_int_equal(take_files_away(), gone);
    run(30000);
    assert_int_equal(t.host[0].missing, gone);
    repair_check(t.host[0].repair); /* ... and when the store is another one */
    run(30000);
    assert_int_equal(t.host[0].missing, 2 * gone);
}

static unsigned take_all_files_away(void)
{
    unsigned gone = 0;
    for (unsigned i = 0; i < BLOBS; i++) {
        gone += t.host[0].file[i];
        t.host[0].file[i] = false;
    }
    return gone;
}

/* An empty disk in the place of a full one: only so many at a time are remembered, and no row is passed over.
 * Meanwhile copies are made of what others have lost. */
static void test_a_store_that_is_empty(void **state)
{
    (void)state;
    unsigned gone = take_all_files_away();
    assert_true(gone > 100);
    t.host[0].room = 10;
    run(60000);
    assert_int_equal(t.host[0].missing, 10);
    assert_string_equal(status_of(0).state, "checking");
    t.node[NODES - 1].presence = REPAIR_OUT;
    run(60000);
    assert_int_equal(status_of(0).endangered, 0);
    assert_true(status_of(0).copied > 0);
    while (t.host[0].missing < gone) {
        unsigned before = t.host[0].missing, room = gone - before < 10 ? gone - before : 10;
        t.host[0].room = room;
        run(60000);
        assert_int_equal(t.host[0].missing, before + room);
    }
    t.host[0].room = ~0u;
    run(60000);
    assert_int_equal(t.host[0].missing, gone);
    assert_string_equal(status_of(0).state, "idle");
    assert_placed();
}

/* It says what it has lost, and for nothing of it the others wait until they see that it does not come to it.
 */
static void test_a_store_is_lost(void **state)
{
    (void)state;
    unsigned lost = take_all_files_away();
    t.node[0].presence = REPAIR_AWAY;
    t.host[0].disowns = true;
    run(30000);
    assert_int_equal(t.host[0].missing, lost);
    assert_int_equal(status_of(1).endangered, 0);
    assert_int_equal(copied(), lost);
    assert_int_equal(t.host[0].ordered, 0);
    t.node[0].presence = REPAIR_UP; /* an empty one was accepted: it comes to hold its share */
    run(2 * REPAIR_AGAIN_MAX_MS);
    assert_placed();
}

/* For a moment nobody leads, or somebody is not heard. */
static void blink(unsigned how)
{
    if (how % 2) {
        t.node[1].presence = REPAIR_AWAY;
        run(2 * REPAIR_TICK_MS);
        t.node[1].presence = REPAIR_UP;
        return;
    }
    for (unsigned i = 0; i < NODES; i++)
        repair_tick(t.host[i].repair, t.now_ms, NULL, RATE);
    t.now_ms += 2000;
}

/* One that does not come to its turn is seen to be stuck all the same, and not for what nobody could do. */
static void test_leaders_come_and_go(void **state)
{
    (void)state;
    t.host[0].result = JOB_NO_SPACE;
    t.node[3].presence = REPAIR_OUT;
    run(2000);
    for (unsigned i = 0; i < 3; i++) {
        for (unsigned k = 0; k < NODES; k++)
            repair_tick(t.host[k].repair, t.now_ms, NULL, RATE);
        t.now_ms += REPAIR_STUCK_MS;
        run(3000);
    }
    assert_true(status_of(1).endangered > 0);
    for (unsigned i = 0; i < 40 && status_of(1).endangered; i++) {
        run(4000);
        blink(i);
    }
    assert_int_equal(status_of(1).endangered, 0);
    assert_true(t.host[0].ordered <= 80 * REPAIR_SLOTS);
}

/* A long walk comes to its end. */
static void test_a_walk_goes_on(void **state)
{
    (void)state;
    struct host *h = &t.host[0];
    for (unsigned i = 0; i < BLOBS; i++)
        holders_set(i, (struct cmd_holders){1, {2}});
    t.node[2].presence = t.node[3].presence = REPAIR_OUT;
    for (unsigned n = 1; n <= 200; n++, t.now_ms += REPAIR_TICK_MS) { /* two blobs a tick */
        tick(0, 20 * SIZE);
        while (answer_job(0) || answer_saying(0))
            ;
        if (n % 5)
            continue;
        t.node[1].presence = n % 2 ? REPAIR_AWAY : REPAIR_UP;
        repair_tick(h->repair, t.now_ms, NULL, RATE);
    }
    assert_int_equal(status_of(0).endangered, 0);
    assert_true(h->begun <= 6);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_nothing_to_do),
        T(test_a_life),
        T(test_one_more_joins),
        T(test_a_copy_that_may_count),
        T(test_not_there_yet),
        T(test_the_most_endangered_first),
        T(test_pace),
        T(test_nobody_leads),
        T(test_restart),
        T(test_no_space),
        T(test_busy),
        T(test_lost),
        T(test_never_told),
        T(test_files_that_are_not_here),
        T(test_a_store_that_is_empty),
        T(test_a_store_is_lost),
        T(test_leaders_come_and_go),
        T(test_a_walk_goes_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
