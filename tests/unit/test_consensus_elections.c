/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When a leader is followed by another one, with the times of the product: one that is lost, silent, deaf,
 * slow, or only said to be silent. Times are the simulated world's.
 */
#include "consensus_world.h"
#include "control/raft/consensus_internal.h"

enum {
    SOON_MS = 1000,      /* between the loss of a leader and the next write */
    HEARTBEATS_MS = 300, /* until the kernel calls a host silent */
    ROUNDS = 20,
    APART_MS = 6000, /* further than what makes a cluster more patient */
};

static struct world *begin(unsigned managers, uint64_t seed)
{
    struct world *w = calloc(1, sizeof(*w));
    CHECK(w);
    w->keeps = 1000;
    w->election_ms = ELECTION_TIMEOUT_MS;
    w->heartbeat_ms = HEARTBEAT_MS;
    world_make(w, seed, managers, 0);
    w->loss = w->doubled = 0;
    w->delay_ms = 2;
    run_until(w, settled(w));
    return w;
}

static void end(struct world *w)
{
    world_end(w);
    free(w);
}

static uint64_t elections(const struct world *w, enum election_cause cause)
{
    uint64_t count = 0;
    for (unsigned i = 0; i < w->all; i++)
        count += w->server[i].c ? w->server[i].c->counts.elections[cause] : 0;
    return count;
}

static uint64_t all_elections(const struct world *w)
{
    uint64_t count = 0;
    for (unsigned i = 0; i < ELECTION_CAUSES_COUNT; i++)
        count += elections(w, i);
    return count;
}

/* What every other node's kernel says of one. */
static void host_say(struct world *w, const struct server *of, bool silent)
{
    for (unsigned i = 0; i < w->all; i++)
        if (&w->server[i] != of && w->server[i].c)
            consensus_host(w->server[i].c, of->id, silent);
}

static void link_set(struct world *w, const struct server *s, bool hears, bool is_heard)
{
    for (unsigned i = 0; i < w->all; i++) {
        w->cut[i][s->id - 1] = !hears;
        w->cut[s->id - 1][i] = !is_heard;
    }
}

static bool another_leads(struct world *w, const struct server *before)
{
    const struct server *now = leader(w);
    return now && now != before;
}

/* The leader's link goes down: when the next write is done. */
static uint64_t link_down(struct world *w, bool heartbeats)
{
    struct server *lost = leader(w);
    uint64_t at = w->now_ms;
    link_set(w, lost, false, false);
    if (heartbeats) {
        until(w, at + HEARTBEATS_MS);
        host_say(w, lost, true);
    }
    run_until(w, another_leads(w, lost));
    propose_many(w, 1);
    uint64_t took_ms = w->now_ms - at;
    link_set(w, lost, true, true);
    host_say(w, lost, false);
    run_until(w, settled(w));
    until(w, w->now_ms + APART_MS + pick(w, 300));
    return took_ms;
}

static void test_a_leader_whose_host_is_silent(void **state)
{
    (void)state;
    for (unsigned managers = 3; managers <= 5; managers += 2) {
        struct world *w = begin(managers, 7 + managers);
        uint64_t quick = 0;
        for (unsigned round = 0; round < ROUNDS; round++) {
            uint64_t before = elections(w, ELECTION_HOST), took_ms = link_down(w, true);
            quick += took_ms < ELECTION_TIMEOUT_MS;
            assert_true(took_ms < SOON_MS);
            assert_true(elections(w, ELECTION_HOST) > before);
        }
        assert_int_equal(elections(w, ELECTION_SILENCE), 0);
        assert_true(quick > ROUNDS / 2);
        end(w);
    }
}

/* Where the kernel has no session with it. */
static void test_a_leader_that_is_silent(void **state)
{
    (void)state;
    for (unsigned managers = 3; managers <= 5; managers += 2) {
        struct world *w = begin(managers, 3 + managers);
        for (unsigned round = 0; round < ROUNDS; round++) {
            uint64_t before = elections(w, ELECTION_SILENCE), took_ms = link_down(w, false);
            assert_true(took_ms < SOON_MS);
            assert_true(elections(w, ELECTION_SILENCE) > before);
        }
        assert_int_equal(elections(w, ELECTION_HOST), 0);
        end(w);
    }
}

/* The kernel is wrong: who is heard leads on, and its writes are answered. */
static void test_a_host_that_is_said_to_be_silent(void **state)
{
    struct world *w = begin(3, 1);
    const struct server *leads = leader(w);
    uint64_t before = all_elections(w), term = leads->c->vote.term;
    (void)state;
    for (unsigned round = 0; round < 50; round++) {
        host_say(w, &w->server[round % w->count], round % 3 != 0);
        until(w, w->now_ms + 200);
        propose_many(w, 1);
    }
    assert_ptr_equal(leader(w), leads);
    assert_int_equal(leads->c->vote.term, term);
    assert_int_equal(all_elections(w), before);
    end(w);
}

/* Processes stand still, as those of a virtual machine that is paused, and every disk takes half a second. */
static void test_nobody_stands_without_need(void **state)
{
    struct world *w = begin(5, 2);
    const struct server *leads = leader(w);
    uint64_t term = leads->c->vote.term, before = all_elections(w);
    (void)state;
    for (unsigned round = 0; round < 60; round++) {
        struct server *s = round % 2 ? leader(w) : &w->server[pick(w, w->all)];
        s->stands_until_ms = w->now_ms + 500 + pick(w, 180);
        until(w, s->stands_until_ms + 300 + pick(w, 500));
    }
    w->disk_ms = 500;
    for (unsigned round = 0; round < 30; round++)
        propose_many(w, 3);
    w->disk_ms = 0;
    assert_ptr_equal(leader(w), leads);
    assert_int_equal(leads->c->vote.term, term);
    assert_int_equal(all_elections(w), before);
    end(w);
}

/* One that stood still for long reads what came before it calls anybody silent. */
static void test_one_that_stood_still(void **state)
{
    struct world *w = begin(3, 5);
    const struct server *leads = leader(w);
    struct server *still = &w->server[leads == &w->server[0]];
    uint64_t before = all_elections(w);
    (void)state;
    for (unsigned round = 0; round < 10; round++) {
        still->stands_until_ms = w->now_ms + 3000;
        until(w, still->stands_until_ms + 1000);
    }
    assert_ptr_equal(leader(w), leads);
    assert_int_equal(all_elections(w), before);
    end(w);
}

/* It is heard and hears nobody: it ends its lead by itself, sooner where its kernel says the same. */
static void test_a_deaf_leader(void **state)
{
    (void)state;
    for (int heartbeats = 0; heartbeats <= 1; heartbeats++) {
        struct world *w = begin(3, 11);
        for (unsigned round = 0; round < ROUNDS; round++) {
            struct server *deaf = leader(w);
            uint64_t at = w->now_ms;
            link_set(w, deaf, false, true);
            if (heartbeats) {
                until(w, at + HEARTBEATS_MS);
                host_say(w, deaf, true);
                for (unsigned i = 0; i < w->all; i++)
                    consensus_host(deaf->c, i + 1, true);
            }
            run_until(w, !deaf->c->leads);
            assert_true(w->now_ms - at < SOON_MS);
            run_until(w, another_leads(w, deaf));
            propose_many(w, 1);
            assert_true(w->now_ms - at < (heartbeats ? SOON_MS : 2 * SOON_MS));
            link_set(w, deaf, true, true);
            host_say(w, deaf, false);
            for (unsigned i = 0; i < w->all; i++)
                consensus_host(deaf->c, i + 1, false);
            run_until(w, settled(w));
            until(w, w->now_ms + APART_MS);
        }
        end(w);
    }
}

/* Hosts that have too much to do: their processes stand still again and again, for longer than a leader may.
 */
static uint64_t overload(struct world *w, uint64_t ms)
{
    uint64_t end_ms = w->now_ms + ms, before = all_elections(w);
    while (w->now_ms < end_ms) {
        struct server *s = leader(w);
        if (!s)
            s = &w->server[pick(w, w->all)];
        s->stands_until_ms = w->now_ms + 900 + pick(w, 600);
        until(w, s->stands_until_ms + 400);
    }
    return all_elections(w) - before;
}

/* It gets used to them, and is quick again a minute later. */
static void test_an_overloaded_cluster(void **state)
{
    (void)state;
    for (unsigned managers = 3; managers <= 5; managers += 2) {
        struct world *w = begin(managers, 19 + managers);
        uint64_t first = overload(w, 20000);
        uint64_t later = overload(w, 60000);
        print_message("%u managers: %llu elections in 20 s of overload, %llu in the minute after\n", managers,
                      (unsigned long long)first, (unsigned long long)later);
        assert_in_range(first, 1, 10);
        assert_int_equal(later, 0);
        run_until(w, settled(w));
        until(w, w->now_ms + 61000);
        assert_true(link_down(w, false) < SOON_MS);
        end(w);
    }
}

/* Who is cut off counts no terms, and unseats nobody when it is back. */
static void test_one_that_was_cut_off(void **state)
{
    struct world *w = begin(3, 13);
    const struct server *leads = leader(w);
    struct server *away = &w->server[leads == &w->server[0]];
    uint64_t term = leads->c->vote.term;
    (void)state;
    for (unsigned round = 0; round < 5; round++) {
        link_set(w, away, false, round % 2 == 0);
        until(w, w->now_ms + 10000);
        propose_many(w, 1);
        link_set(w, away, true, true);
        run_until(w, settled(w));
    }
    assert_ptr_equal(leader(w), leads);
    assert_int_equal(leads->c->vote.term, term);
    end(w);
}

/* All of them come back at once, and in the middle of an election: somebody leads soon. */
static void test_a_majority_that_comes_back(void **state)
{
    struct world *w = begin(5, 17);
    (void)state;
    for (unsigned round = 0; round < ROUNDS; round++) {
        for (unsigned i = 0; i < w->all; i++)
            link_set(w, &w->server[i], false, false);
        until(w, w->now_ms + 2000 + pick(w, 5000));
        uint64_t at = w->now_ms;
        for (unsigned i = 0; i < w->all; i++)
            link_set(w, &w->server[i], true, true);
        run_until(w, leader(w));
        propose_many(w, 1);
        assert_true(w->now_ms - at < 3 * SOON_MS);
        run_until(w, settled(w));
    }
    end(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_leader_whose_host_is_silent),
        cmocka_unit_test(test_a_leader_that_is_silent),
        cmocka_unit_test(test_a_host_that_is_said_to_be_silent),
        cmocka_unit_test(test_nobody_stands_without_need),
        cmocka_unit_test(test_one_that_stood_still),
        cmocka_unit_test(test_a_deaf_leader),
        cmocka_unit_test(test_an_overloaded_cluster),
        cmocka_unit_test(test_one_that_was_cut_off),
        cmocka_unit_test(test_a_majority_that_comes_back),
    };
    struct stat st;
    if (stat("/dev/shm", &st) == 0 && !getenv("TMPDIR"))
        setenv("TMPDIR", "/dev/shm", 1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
