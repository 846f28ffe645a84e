/* SPDX-License-Identifier: Apache-2.0 */
/* Who copies what, and who lets it go: case by case; and any cluster, whose nodes decide for themselves,
 * comes to rest with exactly as many copies as are wanted, and never has fewer than it had. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cmd_build.h"
#include "control/repair_rule.h"
#include "placement.h"

enum { NODES = 9, RUNS = 4000 };

struct world {
    struct repair_node node[NODES];
    size_t count;
    uint32_t wanted;
    struct digest digest;
    struct names_blob row;
    uint64_t order[NODES]; /* all ids, the best one first */
    uint64_t seed;
};

static uint64_t pick(struct world *w, uint64_t below)
{
    w->seed = placement_mix(w->seed + 0x9e3779b97f4a7c15ull);
    return w->seed % below;
}

static struct repair_view view_of(const struct world *w, uint64_t self)
{
    return (struct repair_view){.self = self, .wanted = w->wanted, .count = w->count, .node = w->node};
}

static struct names_blob blob_of(const struct cmd_holders *h)
{
    struct names_blob b = {.size = 10, .links = 1, .version = NAMES_BLOB_VERSION, .holder_count = h->count};
    memcpy(b.holder, h->id, sizeof(b.holder));
    return b;
}

static struct cmd_holders holders_of(const struct names_blob *b)
{
    struct cmd_holders h = {.count = b->holder_count};
    memcpy(h.id, b->holder, sizeof(h.id));
    return h;
}

/* `count` replicas that are up, with the ids 1, 2, ... */
static struct world world_make(size_t count, uint32_t wanted, unsigned seed)
{
    struct world w = {.count = count, .wanted = wanted, .seed = seed};
    uint64_t id[NODES], head = placement_mix(seed + 1);
    w.digest = digest_make(DIGEST_SHA256, seed);
    memcpy(w.digest.bytes, &head, sizeof(head));
    for (size_t i = 0; i < count; i++)
        w.node[i] = (struct repair_node){.id = id[i] = i + 1};
    placement_best(&w.digest, id, count, count, w.order);
    return w;
}

/* --- case by case: nodes are named by their rank --- */

static struct cmd_holders ranks(const struct world *w, const char *which)
{
    struct cmd_holders h = {0};
    for (; *which; which++)
        assert_true(cmd_holders_add(&h, w->order[*which - 'a']));
    return h;
}

static enum repair_presence presence_of(char c)
{
    return c == '.' ? REPAIR_UP : c == '?' ? REPAIR_AWAY : REPAIR_OUT;
}

static char step_letter(enum repair_step step)
{
    return "-wCMLc"[step];
}

static const struct {
    const char *what;
    uint32_t wanted;
    const char *presence; /* of a, b, c, d: '.' up, '?' away, 'x' out */
    const char *holders;
    const char *steps; /* of a, b, c, d: '-' none, 'w' waits, 'C' copies, 'M' moves, 'L' lets go */
    unsigned more;
} cases[] = {
    {"all is well", 2, "....", "ab", "----", 0},
    {"one is gone: the best that has none", 2, "x...", "ab", "-wCw", 0},
    {"it is away for a moment", 2, "?...", "ab", "----", 0},
    {"its store is gone, and it has said so: nothing is its turn", 2, "?...", "b", "-wCw", 0},
    {"both of the best are without a store", 2, "??..", "c", "--wC", 0},
    {"drained: it does nothing", 2, ".x..", "ab", "w-Cw", 0},
    {"the best one is away: who is there copies", 2, "?...", "c", "-Cww", 0},
    {"two of three are gone", 3, "xx..", "abc", "--wC", 0},
    {"all that there are", 3, "xx..", "cd", "--ww", 0},
    {"nobody has it: the best ones try", 2, "....", "", "CCww", 0},
    {"nor did the best ones: all others", 2, "....", "", "CCCw", 1},
    {"only who is out has it, and the best ones do not come to it", 2, "..x.", "c", "CC-C", 1},
    {"pushed elsewhere: the best ones come to hold it", 2, "....", "cd", "MM--", 0},
    {"then the others let go", 2, "....", "abcd", "--LL", 0},
    {"one of them first", 2, "....", "acd", "-M-L", 0},
    {"who is relied on is away", 2, ".?..", "abc", "----", 0},
    {"who is away is not the best", 2, "..?.", "abcd", "---L", 0},
    {"a replica that is away is one of the best", 2, "?...", "bc", "----", 0},
    {"who came back is one too many", 1, "....", "ad", "---L", 0},
    {"a holder that is out is no surplus", 2, "..x.", "abc", "----", 0},
};

static void test_cases(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct world w = world_make(4, cases[i].wanted, (unsigned)i);
        struct cmd_holders h = ranks(&w, cases[i].holders);
        struct names_blob b = blob_of(&h);
        char steps[5] = "";
        for (size_t k = 0; k < 4; k++)
            w.node[w.order[k] - 1].presence = (uint8_t)presence_of(cases[i].presence[k]);
        for (size_t k = 0; k < 4; k++) {
            struct repair_view v = view_of(&w, w.order[k]);
            struct repair_choice choice;
            repair_choose(&v, &w.digest, &b, cases[i].more, &choice);
            steps[k] = step_letter(choice.step);
        }
        if (strcmp(steps, cases[i].steps) != 0)
            fail_msg("%s: %s instead of %s", cases[i].what, steps, cases[i].steps);
    }
}

static void test_what_is_said(void **state)
{
    (void)state;
    struct world w = world_make(4, 2, 7);
    struct repair_choice choice;
    struct repair_view v = view_of(&w, w.order[3]);
    struct cmd_holders h = ranks(&w, "abd"), best = ranks(&w, "ab"), self = ranks(&w, "d");
    struct names_blob b = blob_of(&h);
    repair_choose(&v, &w.digest, &b, 0, &choice);
    assert_int_equal(choice.step, REPAIR_LET_GO);
    assert_memory_equal(&choice.needed, &best, sizeof(best));
    assert_memory_equal(&choice.lost, &self, sizeof(self));
    assert_int_equal(choice.gained.count, 0);
    /* Who is no node any more goes with the next change. */
    h = ranks(&w, "c");
    assert_true(cmd_holders_add(&h, 77));
    b = blob_of(&h);
    v.self = w.order[0];
    repair_choose(&v, &w.digest, &b, 0, &choice);
    assert_int_equal(choice.step, REPAIR_COPY);
    assert_int_equal(choice.living, 1);
    assert_int_equal(choice.lost.count, 1);
    assert_int_equal(choice.lost.id[0], 77);
    assert_int_equal(choice.gained.id[0], w.order[0]);
    assert_int_equal(choice.needed.count, 0);
    /* What nobody links is on its way out; of what nobody was told, whoever has it says so. */
    b.links = 0;
    repair_choose(&v, &w.digest, &b, 0, &choice);
    assert_int_equal(choice.step, REPAIR_REST);
    b = (struct names_blob){.size = 10, .links = 1};
    repair_choose(&v, &w.digest, &b, 0, &choice);
    assert_int_equal(choice.step, REPAIR_CLAIM);
    assert_int_equal(choice.gained.id[0], w.order[0]);
}

/* A row that has no room: who does not count makes it, who does is never displaced. */
static void test_full_rows(void **state)
{
    (void)state;
    struct world w = world_make(NODES, BLOB_HOLDERS_MAX, 3);
    struct cmd_holders h = {0};
    struct repair_choice choice;
    struct repair_view v = view_of(&w, w.order[0]);
    for (unsigned i = 1; i < NODES; i++)
        assert_true(cmd_holders_add(&h, w.order[i]));
    struct names_blob b = blob_of(&h);
    repair_choose(&v, &w.digest, &b, 0, &choice);
    assert_int_equal(choice.step, REPAIR_REST);
    w.node[w.order[4] - 1].presence = REPAIR_OUT;
    repair_choose(&v, &w.digest, &b, 0, &choice);
    assert_int_equal(choice.step, REPAIR_COPY);
    assert_int_equal(choice.lost.count, 1);
    assert_int_equal(choice.lost.id[0], w.order[4]);
}

/* --- any cluster --- */

static unsigned living(const struct world *w)
{
    struct repair_view v = view_of(w, 0);
    unsigned n = 0;
    for (unsigned i = 0; i < w->row.holder_count; i++)
        n += repair_counts(&v, w->row.holder[i]);
    return n;
}

/* As state_blob_copies does it. */
static void apply(struct world *w, const struct repair_choice *c)
{
    struct cmd_holders now = holders_of(&w->row), after = c->gained;
    for (unsigned i = 0; i < c->needed.count; i++)
        if (!cmd_holders_has(&now, c->needed.id[i]))
            return;
    for (unsigned i = now.count; i > 0; i--)
        if (!cmd_holders_has(&c->lost, now.id[i - 1]) && !cmd_holders_add(&after, now.id[i - 1]))
            break;
    w->row = blob_of(&after);
}

static struct world world_random(unsigned seed)
{
    struct world w = world_make(1 + seed % NODES, 1 + seed % 4, seed);
    struct cmd_holders h = {0};
    w.wanted = w.wanted > w.count ? (uint32_t)w.count : w.wanted;
    for (size_t i = 0; i < w.count; i++)
        w.node[i].presence = pick(&w, 3) ? REPAIR_UP : REPAIR_OUT;
    for (unsigned i = 0, n = (unsigned)pick(&w, BLOB_HOLDERS_MAX + 1); i < n; i++)
        (void)cmd_holders_add(&h, 1 + pick(&w, w.count + 2)); /* some are no nodes any more */
    w.row = blob_of(&h);
    return w;
}

/* Each node decides by the row of now, some by what it was a round ago; what they decide takes effect in any
 * order. Returns how many have something to do. */
static unsigned round_of(struct world *w, const struct names_blob *old)
{
    struct repair_choice choice[NODES];
    unsigned count = 0;
    for (size_t i = 0; i < w->count; i++) {
        struct repair_view v = view_of(w, w->node[i].id);
        repair_choose(&v, &w->digest, pick(w, 4) ? &w->row : old, 0, &choice[count]);
        enum repair_step step = choice[count].step;
        bool copies = step == REPAIR_COPY || step == REPAIR_MOVE;
        count += step == REPAIR_LET_GO || (copies && living(w)); /* a copy has to come from somewhere */
    }
    for (unsigned i = count; i > 0; i--) {
        unsigned before = living(w), at = (unsigned)pick(w, i);
        apply(w, &choice[at]);
        choice[at] = choice[i - 1];
        assert_true(living(w) >= (before < w->wanted ? before : w->wanted));
    }
    return count;
}

static void test_any_cluster_comes_to_rest(void **state)
{
    (void)state;
    for (unsigned seed = 0; seed < RUNS; seed++) {
        struct world w = world_random(seed);
        struct names_blob before = w.row, now;
        unsigned first = living(&w), rounds = 0, quiet = 0, there = 0;
        for (; quiet < 40 && rounds < 1000; rounds++) {
            now = w.row;
            quiet = round_of(&w, &before) ? 0 : quiet + 1;
            before = now;
        }
        for (size_t i = 0; i < w.count; i++)
            there += w.node[i].presence == REPAIR_UP;
        unsigned wanted = there < w.wanted ? there : w.wanted;
        if (rounds == 1000 || (first && living(&w) != wanted) || (!first && living(&w)))
            fail_msg("seed %u: %u of %u after %u rounds", seed, living(&w), wanted, rounds);
        struct cmd_holders h = holders_of(&w.row);
        for (unsigned i = 0, n = 0; first && n < wanted; i++) {
            if (w.node[w.order[i] - 1].presence != REPAIR_UP)
                continue;
            assert_true(cmd_holders_has(&h, w.order[i])); /* the best ones */
            n++;
        }
    }
}

/* Nodes that see others differently: whatever they think, so many hold it as one of them relied on. */
static void test_different_views(void **state)
{
    (void)state;
    for (unsigned seed = 0; seed < RUNS; seed++) {
        struct world w = world_random(seed);
        for (unsigned round = 0; round < 20; round++) {
            const struct names_blob seen = w.row;
            for (size_t i = 0; i < w.count; i++) {
                struct world theirs = w;
                struct repair_choice choice;
                for (size_t k = 0; k < w.count; k++)
                    theirs.node[k].presence = (uint8_t)pick(&w, 3);
                struct repair_view v = view_of(&theirs, w.node[i].id);
                repair_choose(&v, &w.digest, &seen, 0, &choice);
                unsigned before = w.row.holder_count;
                if (choice.step == REPAIR_LET_GO)
                    apply(&w, &choice);
                assert_true(w.row.holder_count >= (before < w.wanted ? before : w.wanted));
            }
        }
    }
}

static bool spares(const struct world *w, uint64_t self, const struct names_blob *row)
{
    struct repair_view v = view_of(w, self);
    return repair_spares(&v, &w->digest, row);
}

/* Two of four are to hold it, and do: only the others need not have it, and only as long as both are heard.
 */
static void test_spare(void **state)
{
    (void)state;
    for (unsigned seed = 0; seed < 100; seed++) {
        struct world w = world_make(4, 2, seed);
        struct cmd_holders best = {0}, one = {0};
        uint64_t second = w.order[1], last = w.order[3];
        assert_true(cmd_holders_add(&one, w.order[0]) && cmd_holders_add(&best, w.order[0]) &&
                    cmd_holders_add(&best, second));
        w.row = blob_of(&best);
        for (size_t i = 0; i < 4; i++)
            assert_int_equal(spares(&w, w.order[i], &w.row), i >= 2);
        struct names_blob few = blob_of(&one), old = w.row, free = w.row;
        old.version = 0;
        free.links = 0;
        assert_false(spares(&w, last, &few) || spares(&w, last, &old) || spares(&w, last, &free));
        for (uint8_t presence = REPAIR_AWAY; presence <= REPAIR_OUT; presence++) {
            w.node[second - 1].presence = presence;
            assert_false(spares(&w, last, &w.row));
            w.node[second - 1].presence = REPAIR_UP;
            w.node[last - 1].presence = presence;
            assert_false(spares(&w, last, &w.row));
            w.node[last - 1].presence = REPAIR_UP;
        }
        assert_false(spares(&w, 9, &w.row)); /* no replica */
        w.wanted = 3;
        assert_false(spares(&w, last, &w.row));
    }
}

/* It is about to come to hold it, since it is ranked better than one that does. */
static void test_spare_but_ranked(void **state)
{
    (void)state;
    struct world w = world_make(4, 2, 1);
    struct cmd_holders others = {0};
    assert_true(cmd_holders_add(&others, w.order[1]) && cmd_holders_add(&others, w.order[2]));
    w.row = blob_of(&others);
    assert_false(spares(&w, w.order[0], &w.row));
    assert_true(spares(&w, w.order[3], &w.row));
    assert_true(spares(&w, 0, &w.row)); /* no replica at all */
    w.count = 0;
    assert_false(spares(&w, 0, &w.row)); /* nothing is known */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cases),
        cmocka_unit_test(test_what_is_said),
        cmocka_unit_test(test_full_rows),
        cmocka_unit_test(test_any_cluster_comes_to_rest),
        cmocka_unit_test(test_different_views),
        cmocka_unit_test(test_spare),
        cmocka_unit_test(test_spare_but_ranked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
