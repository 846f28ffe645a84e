/* SPDX-License-Identifier: Apache-2.0 */
/* Where a registry sends us: the same server at once, another one by control's word. Control is played. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "channel_played.h"
#include "dataplane/fetch/detour.h"

static struct ring ring;
static struct detours *detours;
static struct frame_way_wanted wanted;
static char host[WAY_HOST_MAX + 1];
static enum way_status last;
static unsigned told;

/* ------------------------------------------------------------------ played */

int channel_query(struct channel *c, struct channel_query *q, uint16_t type, const void *body, size_t len)
{
    (void)c;
    assert_int_equal(type, FRAME_WAY_WANTED);
    assert_int_equal(q->answer, FRAME_WAY);
    return played_take(q, &wanted, sizeof(wanted), host, sizeof(host), body, len);
}

static void reply(unsigned i, uint32_t status, uint32_t place)
{
    const struct frame_way f = {.status = status, .place = place, .incarnation = 77};
    asked[i]->answered(asked[i], 0, (const uint8_t *)&f, sizeof(f));
}

static void done(struct detour *d, enum way_status status, void *arg)
{
    assert_non_null(d);
    assert_ptr_equal(arg, &last);
    last = status;
    told++;
}

static int find_error;

static struct detour *find(const char *location, struct view authority)
{
    struct detour *d = NULL;
    const struct detour_from from = {.source = 5,
                                     .place = 9,
                                     .incarnation = 3,
                                     .tls = true,
                                     .host = VIEW_LIT("hub.example.com"),
                                     .authority = authority,
                                     .location = view_of_str(location)};
    find_error = detour_find(detours, &from, done, &last, &d);
    assert_true(!find_error == (d != NULL));
    return d;
}

static void turn(void)
{
    clock_ms += 200;
    (void)timer_wheel_run(&ring.wheel, clock_ms);
}

static int setup(void **state)
{
    (void)state;
    played_begin();
    told = 0;
    timer_wheel_init(&ring.wheel, clock_ms);
    return detours_new(&ring, &detours);
}

static int teardown(void **state)
{
    (void)state;
    detours_free(detours);
    return 0;
}

/* ------------------------------------------------------------------ tests */

static void test_the_same_server(void **state)
{
    static const char *const places[] = {"/other?x=1", "https://hub.example.com/other?x=1",
                                         "https://HUB.example.com:443/other?x=1"};
    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(places); i++) {
        struct detour *d = find(places[i], (struct view){0});
        assert_non_null(d);
        assert_int_equal(told, i);
        turn();
        assert_int_equal(told, i + 1);
        assert_int_equal(last, WAY_OK);
        assert_int_equal(detour_place(d), 9);
        assert_int_equal(detour_incarnation(d), 3);
        assert_false(view_present(detour_authority(d)));
        assert_true(view_lit(detour_target(d), "/other?x=1"));
        detour_drop(d);
    }
    assert_int_equal(asked_count, 0);
    struct detour *on = find("/on", VIEW_LIT("cdn.example.com")); /* from there, further there */
    turn();
    assert_true(view_lit(detour_authority(on), "cdn.example.com"));
    detour_drop(on);
    detour_drop(NULL);
    struct detour *early = find("/x", (struct view){0});
    detour_drop(early);
    turn();
    assert_int_equal(told, ARRAY_SIZE(places) + 1);
}

static void test_another_server(void **state)
{
    static const struct {
        const char *location, *host, *authority, *target;
        uint16_t port;
        bool tls;
    } rows[] = {
        {"https://cdn.example.com/a?b", "cdn.example.com", "cdn.example.com", "/a?b", 443, true},
        {"https://cdn.example.com:444", "cdn.example.com", "cdn.example.com:444", "/", 444, true},
        {"http://hub.example.com/", "hub.example.com", "hub.example.com", "/", 80, false},
        {"https://[2001:db8::1]:5000/x", "2001:db8::1", "[2001:db8::1]:5000", "/x", 5000, true},
    };
    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        struct detour *d = find(rows[i].location, (struct view){0});
        assert_non_null(d);
        assert_int_equal(asked_count, i + 1);
        assert_string_equal(host, rows[i].host);
        assert_int_equal(wanted.source, 5);
        assert_int_equal(wanted.port, rows[i].port);
        assert_int_equal(wanted.tls, rows[i].tls);
        assert_int_equal(wanted.host_len, strlen(host));
        reply(i, WAY_OK, 4);
        assert_int_equal(told, i + 1);
        assert_int_equal(last, WAY_OK);
        assert_int_equal(detour_place(d), 4);
        assert_int_equal(detour_incarnation(d), 77);
        assert_true(view_eq(detour_authority(d), view_of_str(rows[i].authority)));
        assert_true(view_eq(detour_target(d), view_of_str(rows[i].target)));
        detour_drop(d);
    }
}

static void test_what_control_says(void **state)
{
    static const struct {
        uint32_t status, place;
        enum way_status told;
    } rows[] = {{WAY_REFUSED, 0, WAY_REFUSED},
                {WAY_UNAVAILABLE, 0, WAY_UNAVAILABLE},
                {WAY_STATUS_COUNT, 4, WAY_UNAVAILABLE},
                {WAY_OK, PLAN_SERVICES_MAX, WAY_UNAVAILABLE}};
    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        struct detour *d = find("https://cdn/", (struct view){0});
        reply(i, rows[i].status, rows[i].place);
        assert_int_equal(last, rows[i].told);
        detour_drop(d);
    }
    struct detour *d = find("https://cdn/", (struct view){0});
    asked[asked_count - 1]->answered(asked[asked_count - 1], -ETIMEDOUT, NULL, 0);
    assert_int_equal(last, WAY_UNAVAILABLE);
    detour_drop(d);
    told = 0;
    d = find("https://cdn/", (struct view){0});
    detour_drop(d);
    reply(asked_count - 1, WAY_OK, 4); /* nobody wants to know any more */
    assert_int_equal(told, 0);
}

static void test_no_way(void **state)
{
    static char longest[DETOUR_TARGET_MAX + 32] = "https://cdn/";
    static struct detour *all[DETOURS_MAX];
    (void)state;
    memset(longest + 12, 'x', DETOUR_TARGET_MAX);
    assert_null(find(longest, (struct view){0}));
    assert_int_equal(find_error, -EINVAL);
    longest[12 + DETOUR_TARGET_MAX - 1] = '\0';
    struct detour *d = find(longest, (struct view){0});
    assert_non_null(d);
    reply(0, WAY_OK, 4);
    assert_int_equal(detour_target(d).len, DETOUR_TARGET_MAX);
    detour_drop(d);
    const struct detour_from silent = {.source = 5};
    assert_int_equal(detour_find(detours, &silent, done, &last, &d), -EINVAL);
    assert_null(find("ftp://cdn/", (struct view){0}));
    channel_error = -ENOTCONN;
    assert_null(find("https://cdn/", (struct view){0}));
    assert_int_equal(find_error, -ENOTCONN);
    for (unsigned i = 0; i < DETOURS_MAX; i++) {
        all[i] = find("/x", (struct view){0});
        assert_non_null(all[i]);
    }
    assert_null(find("/x", (struct view){0}));
    assert_int_equal(find_error, -ENOBUFS);
    for (unsigned i = 0; i < DETOURS_MAX; i++)
        detour_drop(all[i]);
    d = find("/x", (struct view){0});
    assert_non_null(d);
    detour_drop(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_the_same_server, setup, teardown),
        cmocka_unit_test_setup_teardown(test_another_server, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_control_says, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_way, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
