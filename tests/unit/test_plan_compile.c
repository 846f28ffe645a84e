/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "check.h"
#include "control/compile/plan_compile.h"
#include "control/settings.h"

static uint64_t values[SETTINGS_COUNT];

static struct plan_input input(const struct plan_address *addresses, size_t count)
{
    for (int i = 0; i < SETTINGS_COUNT; i++)
        values[i] = setting_info(i)->def;
    return (struct plan_input){.generation = 7,
                               .cluster_id = {1, 2, 3},
                               .node_id = 9,
                               .setting = values,
                               .address = addresses,
                               .address_count = count};
}

static void test_whole_plan(void **state)
{
    (void)state;
    static const struct plan_address addresses[] = {
        {"127.0.0.1:5000", PLAN_PLACE_REGISTRY, true, 0, 2, NULL},
        {"[::1]:5000", PLAN_PLACE_REGISTRY, true, 2, 2, NULL},
        {"127.0.0.1:5080", PLAN_PLACE_ADMIN, true, 4, 1, NULL},
    };
    struct plan_input in = input(addresses, ARRAY_SIZE(addresses));
    struct plan *plan, *again;
    const char *err = NULL;
    assert_int_equal(plan_compile(&in, &plan, &err), 0);
    assert_int_equal(plan_compile(&in, &again, &err), 0);
    assert_int_equal(plan->bytes, again->bytes);
    assert_memory_equal(plan, again, plan->bytes);
    assert_true(plan_check(plan, plan->bytes));
    assert_false(plan_check(plan, plan->bytes - 1));
    assert_int_equal(plan->generation, 7);
    assert_int_equal(plan->node_id, 9);
    assert_int_equal(plan->setting[SET_HTTP_IDLE_TIMEOUT], 75000);
    assert_int_equal(plan->service_count, PLAN_PLACE_FIRST);
    assert_int_equal(plan_service(plan, 0)->kind, SERVICE_REGISTRY);
    assert_int_equal(plan_service(plan, 0)->policy, POLICY_ALLOW_ALL);
    assert_string_equal(plan_service(plan, 1)->name, "admin");
    assert_int_equal(plan->listener_count, 3);
    assert_int_equal(plan_listener(plan, 1)->service, 0);
    assert_int_equal(plan_listener(plan, 1)->first, 2);
    assert_int_equal(plan_listener(plan, 2)->service, 1);
    assert_string_equal(plan_listener(plan, 1)->address, "[::1]:5000");
    free(plan);
    free(again);
}

static const struct plan_backend web_backend[] = {{.id = 7, .generation = 1, .weight = 1, .port = 80},
                                                  {.id = 9, .generation = 2, .weight = 3, .port = 81}};
static const struct plan_backend dock_backend[] = {{.id = 3, .weight = 1, .unix_path = "/run/docker.sock"}};
static const uint16_t web_row[] = {0, 1, 1, PLAN_NO_ROW, 1};

static struct plan_proxied web(uint16_t place)
{
    return (struct plan_proxied){.place = place,
                                 .service = {.incarnation = 5,
                                             .policy = POLICY_ALLOW_ALL,
                                             .name = "web",
                                             .proxy = {.kind = PROXY_HTTP, .policy = PROXY_MAGLEV},
                                             .backend_count = ARRAY_SIZE(web_backend),
                                             .row_count = ARRAY_SIZE(web_row)},
                                 .backend = web_backend,
                                 .row = web_row};
}

static void test_proxied(void **state)
{
    (void)state;
    const struct plan_address address = {"10.0.0.1:80", PLAN_PLACE_FIRST + 2, true, 0, 2, NULL};
    const struct plan_proxied services[] = {
        {.place = PLAN_PLACE_FIRST, .service = {.name = "dock", .backend_count = 1}, .backend = dock_backend},
        web(PLAN_PLACE_FIRST + 2)};
    struct plan_input in = input(&address, 1);
    in.proxied = services;
    in.proxied_count = ARRAY_SIZE(services);
    struct plan *plan;
    const char *err;
    assert_int_equal(plan_compile(&in, &plan, &err), 0);
    assert_true(plan_check(plan, plan->bytes));
    assert_int_equal(plan->service_count, PLAN_PLACE_FIRST + 3);
    assert_null(plan_service_of(plan, PLAN_PLACE_PEERS));
    assert_null(plan_service_of(plan, PLAN_PLACE_FIRST + 3));
    const struct plan_service *s = plan_service_of(plan, PLAN_PLACE_FIRST + 2),
                              *dock = plan_service_of(plan, PLAN_PLACE_FIRST);
    assert_string_equal(s->name, "web");
    assert_int_equal(s->kind, SERVICE_PROXY);
    assert_int_equal(plan_backend(plan, s->first_backend + 1)->id, 9);
    assert_memory_equal(plan_rows(plan, s->first_row), web_row, sizeof(web_row));
    assert_string_equal(plan_backend(plan, dock->first_backend)->unix_path, "/run/docker.sock");
    assert_int_equal(plan_listener(plan, 0)->service, PLAN_PLACE_FIRST + 2);
    /* A place means the same as long as its service is the same one. */
    struct plan *other;
    struct plan_proxied changed[] = {services[0], services[1]};
    changed[1].service.incarnation++;
    in.proxied = changed;
    assert_int_equal(plan_compile(&in, &other, &err), 0);
    assert_true(plan_same_service(plan, other, PLAN_PLACE_FIRST));
    assert_false(plan_same_service(plan, other, PLAN_PLACE_FIRST + 2));
    assert_true(plan_same_service(plan, other, PLAN_PLACE_FIRST + 1));
    free(plan);
    free(other);
}

/* What the data plane must not take. */
static void test_broken_plans(void **state)
{
    (void)state;
    const struct plan_proxied service = web(4);
    struct plan_input in = input(NULL, 0);
    in.proxied = &service;
    in.proxied_count = 1;
    struct plan *plan;
    const char *err;
    assert_int_equal(plan_compile(&in, &plan, &err), 0);
    struct plan_service *s = (struct plan_service *)(uintptr_t)plan_service(plan, 4);
    s->backend_count++;
    assert_false(plan_check(plan, plan->bytes));
    s->backend_count = 1; /* rows lead behind it */
    assert_false(plan_check(plan, plan->bytes));
    s->backend_count = ARRAY_SIZE(web_backend);
    s->first_row = UINT32_MAX;
    assert_false(plan_check(plan, plan->bytes));
    s->first_row = 0;
    assert_true(plan_check(plan, plan->bytes));
    plan->backend_at = plan->bytes - 8;
    assert_false(plan_check(plan, plan->bytes));
    plan->backend_at = UINT64_MAX - 7;
    assert_false(plan_check(plan, plan->bytes));
    free(plan);
}

static void test_places(void **state)
{
    (void)state;
    struct plan *plan;
    const char *err;
    const struct plan_proxied bad[][2] = {
        {web(2), web(4)}, {web(5), web(4)}, {web(4), web(4)}, {web(4), web(PLAN_SERVICES_MAX)}};
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct plan_input in = input(NULL, 0);
        in.proxied = bad[i];
        in.proxied_count = 2;
        assert_int_equal(plan_compile(&in, &plan, &err), -EINVAL);
    }
}

static void test_refusals(void **state)
{
    (void)state;
    char longest[ADDRESS_TEXT_MAX + 1];
    memset(longest, '1', ADDRESS_TEXT_MAX);
    longest[ADDRESS_TEXT_MAX] = '\0';
    const struct plan_address bad[] = {
        {"127.0.0.1:5000", PLAN_PLACE_REGISTRY, false, 0, 1, NULL},
        {"", PLAN_PLACE_REGISTRY, true, 0, 1, NULL},
        {longest, PLAN_PLACE_REGISTRY, true, 0, 1, NULL},
        {"127.0.0.1:5000", PLAN_PLACE_REGISTRY, true, 0, 0, NULL},
        {"127.0.0.1:5000", PLAN_PLACE_REGISTRY, true, LISTENERS_MAX, 1, NULL},
        {"127.0.0.1:5000", PLAN_PLACE_FIRST, true, 0, 1, NULL},
    };
    struct plan *plan;
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct plan_input in = input(&bad[i], 1);
        const char *err = NULL;
        assert_int_equal(plan_compile(&in, &plan, &err), -EINVAL);
        assert_non_null(err);
    }
}

static void test_too_many_addresses(void **state)
{
    (void)state;
    struct plan_address many[PLAN_LISTENERS_MAX + 1];
    for (size_t i = 0; i < ARRAY_SIZE(many); i++)
        many[i] = (struct plan_address){"127.0.0.1:5000", PLAN_PLACE_REGISTRY, true, 0, 1, NULL};
    struct plan_input in = input(many, ARRAY_SIZE(many));
    struct plan *plan;
    const char *err;
    assert_int_equal(plan_compile(&in, &plan, &err), -EINVAL);
    in.address_count--;
    assert_int_equal(plan_compile(&in, &plan, &err), 0);
    assert_int_equal(plan->service_count, PLAN_PLACE_FIRST);
    free(plan);
}

static void test_settings_in_range(void **state)
{
    (void)state;
    struct plan *plan;
    const char *err;
    for (int i = 0; i < SETTINGS_COUNT; i++) {
        struct plan_input in = input(NULL, 0);
        values[i] = setting_info(i)->max + 1;
        assert_int_equal(plan_compile(&in, &plan, &err), -EINVAL);
        assert_string_equal(err, setting_info(i)->name);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole_plan),        cmocka_unit_test(test_proxied),
        cmocka_unit_test(test_broken_plans),      cmocka_unit_test(test_places),
        cmocka_unit_test(test_refusals),          cmocka_unit_test(test_too_many_addresses),
        cmocka_unit_test(test_settings_in_range),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
