/* SPDX-License-Identifier: Apache-2.0 */
/* What sources are shown: asked for once for all who wait, remembered, forgotten. Control is played. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "channel_played.h"
#include "dataplane/fetch/pass.h"

static struct ring ring;
static struct ring_counters counters;
static struct passes *passes;
static struct frame_pass_wanted wanted;
static char texts[PASS_REPO_MAX + PASS_CHALLENGE_MAX + 1];

static enum pass_status last;
static unsigned told;

/* ------------------------------------------------------------------ played */

int channel_query(struct channel *c, struct channel_query *q, uint16_t type, const void *body, size_t len)
{
    (void)c;
    assert_int_equal(type, FRAME_PASS_WANTED);
    assert_int_equal(q->answer, FRAME_PASS);
    return played_take(q, &wanted, sizeof(wanted), texts, sizeof(texts), body, len);
}

static void reply(unsigned i, enum pass_status status, uint64_t serial, const char *value)
{
    uint8_t body[sizeof(struct frame_pass) + PASS_BYTES_MAX];
    const struct frame_pass f = {.status = status, .ttl_ms = 1000, .serial = serial};
    memcpy(body, &f, sizeof(f));
    memcpy(body + sizeof(f), value, strlen(value));
    asked[i]->answered(asked[i], 0, body, sizeof(f) + strlen(value));
}

static void done(struct pass_wait *w, enum pass_status status)
{
    assert_null(w->pass);
    last = status;
    told++;
}

static struct pass_key key_of(const char *repo)
{
    return (struct pass_key){.source = 5, .repo = view_of_str(repo)};
}

static int ask(const char *repo, uint64_t refused, struct pass_wait *w)
{
    struct pass_key key = key_of(repo);
    *w = (struct pass_wait){.done = done};
    return pass_ask(passes, &key, refused, VIEW_LIT("Basic"), w);
}

static struct view find(const char *repo, uint64_t *serial)
{
    struct pass_key key = key_of(repo);
    return pass_find(passes, &key, serial);
}

static int setup(void **state)
{
    (void)state;
    ring.counters = &counters;
    played_begin();
    told = 0;
    return passes_new(&ring, &passes);
}

static int teardown(void **state)
{
    (void)state;
    passes_free(passes);
    return 0;
}

/* ------------------------------------------------------------------ tests */

static void test_one_question(void **state)
{
    struct pass_wait w[3], other;
    uint64_t serial;
    (void)state;
    assert_false(view_present(find("a/b", &serial)));
    for (unsigned i = 0; i < ARRAY_SIZE(w); i++)
        assert_int_equal(ask("a/b", 3, &w[i]), 0);
    assert_int_equal(asked_count, 1);
    assert_int_equal(wanted.source, 5);
    assert_int_equal(wanted.refused, 3);
    assert_int_equal(wanted.repo_len, 3);
    assert_string_equal(texts, "a/bBasic");
    assert_int_equal(ask("a/c", 0, &other), 0);
    assert_int_equal(asked_count, 2);
    pass_leave(&w[1]);
    pass_leave(&w[1]);
    reply(0, PASS_OK, 9, "Bearer x");
    assert_int_equal(told, 2);
    assert_int_equal(last, PASS_OK);
    assert_true(view_lit(find("a/b", &serial), "Bearer x"));
    assert_int_equal(serial, 9);
    assert_false(view_present(find("a/c", &serial)));
    assert_int_equal(serial, 0);
    pass_leave(&other);
    reply(1, PASS_OK, 10, "Bearer y"); /* nobody waits: it is known all the same */
    assert_int_equal(told, 2);
    assert_true(view_lit(find("a/c", &serial), "Bearer y"));
    clock_ms += 1000;
    assert_false(view_present(find("a/c", &serial)));
}

static void test_what_control_says(void **state)
{
    struct pass_wait w;
    uint64_t serial;
    (void)state;
    static const struct {
        enum pass_status status;
        uint64_t serial;
        const char *value;
        enum pass_status told;
    } rows[] = {
        {PASS_REFUSED, 0, "", PASS_REFUSED},
        {PASS_UNAVAILABLE, 0, "", PASS_UNAVAILABLE},
        {PASS_STATUS_COUNT, 1, "x", PASS_UNAVAILABLE},
        {PASS_OK, 0, "x", PASS_UNAVAILABLE},
        {PASS_OK, 1, "", PASS_UNAVAILABLE},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        assert_int_equal(ask("a", 0, &w), 0);
        reply(i, rows[i].status, rows[i].serial, rows[i].value);
        assert_int_equal(told, i + 1);
        assert_int_equal(last, rows[i].told);
        assert_false(view_present(find("a", &serial)));
    }
    assert_int_equal(ask("a", 0, &w), 0);
    asked[asked_count - 1]->answered(asked[asked_count - 1], -ENOTCONN, NULL, 0);
    assert_int_equal(last, PASS_UNAVAILABLE);
}

static void test_what_cannot_be_asked(void **state)
{
    static char longest[PASS_REPO_MAX + 2];
    struct pass_wait w;
    struct pass_key key = key_of("a");
    (void)state;
    memset(longest, 'x', PASS_REPO_MAX + 1);
    assert_int_equal(ask(longest, 0, &w), -EMSGSIZE);
    assert_int_equal(ask("", 0, &w), -EMSGSIZE);
    assert_int_equal(pass_ask(passes, &key, 0, (struct view){longest, PASS_CHALLENGE_MAX + 1}, &w),
                     -EMSGSIZE);
    channel_error = -ENOTCONN;
    assert_int_equal(ask("a", 0, &w), -ENOTCONN);
    channel_error = 0;
    assert_int_equal(ask("a", 0, &w), 0);
    assert_int_equal(asked_count, 1);
    longest[PASS_REPO_MAX] = '\0';
    assert_int_equal(ask(longest, 0, &w), 0);
}

static void test_room(void **state)
{
    static struct pass_wait w[PASSES_MAX + 2];
    char repo[16];
    uint64_t serial;
    (void)state;
    for (unsigned i = 0; i < PASSES_MAX; i++) {
        snprintf(repo, sizeof(repo), "r%u", i);
        assert_int_equal(ask(repo, 0, &w[i]), 0);
    }
    assert_int_equal(ask("more", 0, &w[PASSES_MAX]), -ENOMEM); /* all are being asked for */
    for (unsigned i = 0; i < PASSES_MAX; i++)
        reply(i, PASS_OK, i + 1, "v");
    clock_ms += 10;
    for (unsigned i = 1; i < PASSES_MAX; i++) {
        snprintf(repo, sizeof(repo), "r%u", i);
        assert_true(view_present(find(repo, &serial)));
    }
    assert_int_equal(ask("more", 0, &w[PASSES_MAX]), 0);
    assert_false(view_present(find("r0", &serial))); /* was used longest ago */
    assert_true(view_present(find("r1", &serial)));
    reply(PASSES_MAX, PASS_OK, 1000, "m");
    assert_true(view_lit(find("more", &serial), "m"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_one_question, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_control_says, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_cannot_be_asked, setup, teardown),
        cmocka_unit_test_setup_teardown(test_room, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
