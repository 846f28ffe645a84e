/* SPDX-License-Identifier: Apache-2.0 */
/* Where sources may send us, and what a plan has of it; resolver, data plane and clock are played. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "check.h"
#include "control/resolve.h"
#include "control/source_way.h"

enum { HUB = 7, ASKED_MAX = 64 };

static struct {
    char name[RESOLVE_NAME_MAX + 1];
    resolve_done done;
    void *arg;
} asked[ASKED_MAX];
static unsigned asked_count;
static int resolve_error;

static struct source source;
static struct plan_backend own_backend;
static struct plan_proxied service = {.backend = &own_backend};
static struct source_ways *ways;
static uint64_t clock_ms, generation;
static char told[512];
static unsigned told_count;

static struct frame_way got;
static unsigned got_count;

/* ------------------------------------------------------------------ played */

uint64_t uv_now(const uv_loop_t *loop)
{
    (void)loop;
    return clock_ms;
}

struct resolver *resolver_new(uv_loop_t *loop)
{
    (void)loop;
    return NULL;
}

void resolver_close(struct resolver *r)
{
    (void)r;
}

int resolve_name(struct resolver *r, const char *name, resolve_done done, void *arg)
{
    (void)r;
    if (resolve_error)
        return resolve_error;
    assert_true(asked_count < ASKED_MAX);
    snprintf(asked[asked_count].name, sizeof(asked[0].name), "%s", name);
    asked[asked_count].done = done;
    asked[asked_count++].arg = arg;
    return 0;
}

/* Addresses 10.0.0.LAST. */
static void found(unsigned i, unsigned count, const uint8_t *last)
{
    struct resolve_answer a = {.count = count, .error = "nobody has it"};
    for (unsigned k = 0; k < count; k++) {
        a.ip[k][10] = a.ip[k][11] = 0xff;
        a.ip[k][12] = 10;
        a.ip[k][15] = last[k];
    }
    asked[i].done(asked[i].arg, &a);
}

static bool on_look(void *arg, uint64_t id, struct way_access *access)
{
    (void)arg;
    *access = (struct way_access){&source, &service};
    return id == HUB;
}

static uint64_t on_publish(void *arg)
{
    (void)arg;
    return ++generation;
}

static void on_tell(void *arg, const char *prefix, const char *text)
{
    (void)arg;
    assert_string_equal(prefix, "hub/");
    snprintf(told, sizeof(told), "%s", text);
    told_count++;
}

static void on_done(void *arg, const struct frame_way *way)
{
    (void)arg;
    got = *way;
    got_count++;
}

static void get(const char *host, uint16_t port, bool tls)
{
    const struct source_way_question q = {
        .source = HUB, .host = host, .host_len = strlen(host), .port = port, .tls = tls};
    source_way_get(ways, &q, on_done, NULL);
}

static int setup(void **state)
{
    const struct source_ways_config config = {.look = on_look, .publish = on_publish, .tell = on_tell};
    (void)state;
    memset(&source, 0, sizeof(source));
    memset(&service.service, 0, sizeof(service.service));
    memset(&own_backend, 0, sizeof(own_backend));
    own_backend.ip[10] = own_backend.ip[11] = 0xff;
    own_backend.ip[12] = 192;
    snprintf(source.prefix, sizeof(source.prefix), "hub/");
    service.service.backend_count = 1;
    service.service.proxy =
        (struct plan_proxy){.backend_tls = 1, .policy = PROXY_DIGEST, .proxy_protocol = 2};
    snprintf(service.service.proxy.backend_ca, PLAN_NAME_MAX, "hub-ca");
    snprintf(service.service.proxy.backend_certificate, PLAN_NAME_MAX, "ours");
    snprintf(service.service.proxy.backend_name, PLAN_NAME_MAX, "hub.example.com");
    asked_count = told_count = got_count = 0;
    resolve_error = 0;
    clock_ms = 1000000;
    generation = 100;
    ways = source_ways_new(&config);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    source_ways_close(ways);
    return 0;
}

/* ------------------------------------------------------------------ tests */

static void test_a_host(void **state)
{
    struct plan_proxied list[WAYS_MAX];
    (void)state;
    get("CDN.example.com", 443, true);
    get("cdn.example.com", 443, true);
    assert_int_equal(asked_count, 1);
    assert_string_equal(asked[0].name, "cdn.example.com");
    assert_int_equal(source_ways_list(ways, list), 0); /* nothing is known of it */
    found(0, 2, (const uint8_t[]){9, 4});
    assert_int_equal(generation, 101);
    assert_int_equal(got_count, 0); /* the rings do not have it */
    source_ways_applied(ways, 100);
    assert_int_equal(got_count, 0);
    source_ways_applied(ways, 101);
    assert_int_equal(got_count, 2);
    assert_int_equal(got.status, WAY_OK);
    assert_int_equal(source_ways_list(ways, list), 1);
    assert_int_equal(list[0].place, got.place);
    assert_true(got.place >= PLAN_PLACE_WAYS && got.place < PLAN_PLACE_SOURCES);
    assert_int_equal(list[0].service.incarnation, got.incarnation);
    const struct plan_proxy *p = &list[0].service.proxy;
    assert_true(p->backend_tls && p->backend_verify && !p->proxy_protocol && p->policy == PROXY_LEAST);
    assert_string_equal(p->backend_ca, "hub-ca");
    assert_string_equal(p->backend_certificate, ""); /* nobody else sees ours */
    assert_string_equal(p->backend_name, "cdn.example.com");
    assert_int_equal(list[0].service.backend_count, 2);
    assert_int_equal(list[0].backend[0].ip[15], 4);
    assert_int_equal(list[0].backend[0].port, 443);
    assert_int_not_equal(list[0].backend[0].id, list[0].backend[1].id);
    get("cdn.example.com", 443, true);
    assert_int_equal(got_count, 3); /* at once */
    get("cdn.example.com", 444, true);
    assert_int_equal(asked_count, 2);
    found(1, 1, (const uint8_t[]){4});
    source_ways_applied(ways, 102);
    assert_int_equal(source_ways_list(ways, list), 2);
    assert_true(list[0].place < list[1].place);
    assert_int_not_equal(list[0].service.incarnation, list[1].service.incarnation);
}

/* Who moves is asked at his new place; who cannot be found now, at the old one. */
static void test_addresses_change(void **state)
{
    struct plan_proxied list[WAYS_MAX];
    (void)state;
    get("cdn", 443, true);
    found(0, 1, (const uint8_t[]){1});
    source_ways_applied(ways, 101);
    clock_ms += 60000;
    get("cdn", 443, true);
    assert_int_equal(got_count, 2); /* not waited for */
    assert_int_equal(asked_count, 2);
    found(1, 1, (const uint8_t[]){1});
    assert_int_equal(generation, 101); /* nothing new */
    clock_ms += 60000;
    get("cdn", 443, true);
    found(2, 0, NULL);
    assert_int_equal(told_count, 1);
    assert_int_equal(source_ways_list(ways, list), 1);
    uint16_t before = list[0].backend[0].generation;
    clock_ms += 60000;
    get("cdn", 443, true);
    found(3, 1, (const uint8_t[]){2});
    assert_int_equal(generation, 102);
    assert_int_equal(source_ways_list(ways, list), 1);
    assert_int_equal(list[0].backend[0].ip[15], 2);
    assert_int_not_equal(list[0].backend[0].generation, before);
}

static void test_rules(void **state)
{
    static const struct {
        bool tls_source, named, tls;
        const char *host;
        enum way_status status;
    } rows[] = {
        {true, false, true, "any.example.com", WAY_OK},
        {true, false, false, "any.example.com", WAY_REFUSED},
        {true, true, true, "any.example.com", WAY_REFUSED},
        {true, true, true, "cdn.example.org", WAY_OK},
        {true, true, true, "a.b.example.net", WAY_OK},
        {true, true, true, "example.net", WAY_REFUSED},
        {true, true, true, "xexample.net", WAY_REFUSED},
        {true, true, false, "cdn.example.org", WAY_REFUSED},
        {false, false, true, "any.example.com", WAY_OK},
        {false, false, false, "any.example.com", WAY_REFUSED},
        {false, false, false, "192.0.0.0", WAY_OK},
        {false, false, false, "192.0.0.1", WAY_REFUSED},
        {false, false, false, "127.0.0.1", WAY_REFUSED},
        {false, true, false, "cdn.example.org", WAY_OK},
        {false, true, false, "192.0.0.0", WAY_REFUSED},
        {false, false, false, "::ffff:192.0.0.0", WAY_OK},
        {true, false, true, "a/b", WAY_REFUSED},
        {true, false, true, "a b", WAY_REFUSED},
        {true, false, true, "u@h", WAY_REFUSED},
        {true, false, true, "", WAY_REFUSED},
    };
    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        assert_int_equal(teardown(state), 0);
        assert_int_equal(setup(state), 0);
        service.service.proxy.backend_tls = rows[i].tls_source;
        snprintf(source.redirect_hosts, sizeof(source.redirect_hosts), "%s",
                 rows[i].named ? "CDN.example.org,*.example.net" : "");
        get(rows[i].host, 443, rows[i].tls);
        if (rows[i].status == WAY_OK) {
            assert_int_equal(asked_count, 1);
            found(0, 1, (const uint8_t[]){1});
            source_ways_applied(ways, generation);
        }
        assert_int_equal(asked_count, rows[i].status == WAY_OK);
        assert_int_equal(got_count, 1);
        if (got.status != rows[i].status)
            fail_msg("row %u", i);
    }
    const struct source_way_question q = {
        .source = HUB + 1, .host = "h", .host_len = 1, .port = 1, .tls = true};
    source_way_get(ways, &q, on_done, NULL);
    assert_int_equal(got.status, WAY_UNAVAILABLE);
    get("h", 0, true);
    assert_int_equal(got.status, WAY_REFUSED);
}

static void test_failures(void **state)
{
    struct plan_proxied list[WAYS_MAX];
    (void)state;
    get("cdn", 443, true);
    found(0, 0, NULL);
    assert_int_equal(got.status, WAY_UNAVAILABLE);
    assert_string_equal(told, "it sends its clients to cdn, whose address cannot be found: nobody has it");
    resolve_error = -EBUSY;
    get("cdn", 443, true);
    assert_int_equal(got_count, 2);
    assert_int_equal(got.status, WAY_UNAVAILABLE);
    resolve_error = 0;
    get("cdn", 443, true);
    found(1, 1, (const uint8_t[]){1});
    clock_ms += 9000;
    source_ways_tick(ways);
    assert_int_equal(got_count, 2);
    clock_ms += 1000; /* no data plane takes the plan */
    source_ways_tick(ways);
    assert_int_equal(got_count, 3);
    assert_int_equal(got.status, WAY_UNAVAILABLE);
    source_ways_applied(ways, generation);
    get("cdn", 443, true);
    assert_int_equal(got.status, WAY_OK);
    clock_ms += 600000;
    source_ways_tick(ways); /* nobody went there for long */
    assert_int_equal(source_ways_list(ways, list), 0);
    assert_int_equal(generation, 102);
}

/* Of more hosts than there are places, those that were not used for a minute make room. */
static void test_room(void **state)
{
    struct plan_proxied list[WAYS_MAX];
    char host[16];
    (void)state;
    for (unsigned i = 0; i < WAYS_MAX; i++) {
        snprintf(host, sizeof(host), "h%u", i);
        get(host, 443, true);
        found(i, 1, (const uint8_t[]){1});
        source_ways_applied(ways, generation);
        assert_int_equal(got.status, WAY_OK);
        clock_ms++;
    }
    assert_int_equal(source_ways_list(ways, list), WAYS_MAX);
    uint32_t first = list[0].service.incarnation;
    get("more", 443, true);
    assert_int_equal(got.status, WAY_UNAVAILABLE);
    clock_ms += 60000;
    get("more", 443, true);
    assert_int_equal(asked_count, WAYS_MAX + 1);
    assert_int_equal(source_ways_list(ways, list), WAYS_MAX - 1); /* the first one's place */
    found(WAYS_MAX, 1, (const uint8_t[]){1});
    assert_int_equal(source_ways_list(ways, list), WAYS_MAX);
    assert_int_equal(list[0].place, PLAN_PLACE_WAYS);
    assert_int_not_equal(list[0].service.incarnation, first);
    assert_string_equal(list[0].service.name, "@more");
}

static void test_the_end(void **state)
{
    (void)state;
    get("cdn", 443, true);
    source_ways_close(ways);
    assert_int_equal(got_count, 1);
    assert_int_equal(got.status, WAY_UNAVAILABLE);
    assert_int_equal(setup(state), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_host, setup, teardown),
        cmocka_unit_test_setup_teardown(test_addresses_change, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rules, setup, teardown),
        cmocka_unit_test_setup_teardown(test_failures, setup, teardown),
        cmocka_unit_test_setup_teardown(test_room, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_end, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
