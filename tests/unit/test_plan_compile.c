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
        {"127.0.0.1:5000", SERVICE_REGISTRY, true, 0, 2},
        {"[::1]:5000", SERVICE_REGISTRY, true, 2, 2},
        {"127.0.0.1:5080", SERVICE_ADMIN, true, 4, 1},
    };
    struct plan_input in = input(addresses, ARRAY_SIZE(addresses));
    static struct plan plan, again;
    const char *err = NULL;
    memset(&plan, 0xaa, sizeof(plan));
    assert_int_equal(plan_compile(&in, &plan, &err), 0);
    assert_int_equal(plan_compile(&in, &again, &err), 0);
    assert_memory_equal(&plan, &again, sizeof(plan));
    assert_true(plan_check(&plan, sizeof(plan)));
    assert_int_equal(plan.generation, 7);
    assert_int_equal(plan.node_id, 9);
    assert_int_equal(plan.setting[SET_HTTP_IDLE_TIMEOUT], 75000);
    assert_int_equal(plan.service_count, 2);
    assert_int_equal(plan.service[0].kind, SERVICE_REGISTRY);
    assert_int_equal(plan.service[0].policy, POLICY_ALLOW_ALL);
    assert_string_equal(plan.service[1].name, "admin");
    assert_int_equal(plan.listener_count, 3);
    assert_int_equal(plan.listener[1].service, 0);
    assert_int_equal(plan.listener[1].first, 2);
    assert_int_equal(plan.listener[2].service, 1);
    assert_string_equal(plan.listener[1].address, "[::1]:5000");
}

static void test_refusals(void **state)
{
    (void)state;
    char longest[ADDRESS_TEXT_MAX + 1];
    memset(longest, '1', ADDRESS_TEXT_MAX);
    longest[ADDRESS_TEXT_MAX] = '\0';
    const struct plan_address bad[] = {
        {"127.0.0.1:5000", SERVICE_REGISTRY, false, 0, 1},
        {"", SERVICE_REGISTRY, true, 0, 1},
        {longest, SERVICE_REGISTRY, true, 0, 1},
        {"127.0.0.1:5000", SERVICE_REGISTRY, true, 0, 0},
        {"127.0.0.1:5000", SERVICE_REGISTRY, true, LISTENERS_MAX, 1},
    };
    static struct plan plan;
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
        many[i] = (struct plan_address){"127.0.0.1:5000", SERVICE_REGISTRY, true, 0, 1};
    struct plan_input in = input(many, ARRAY_SIZE(many));
    static struct plan plan;
    const char *err;
    assert_int_equal(plan_compile(&in, &plan, &err), -EINVAL);
    in.address_count--;
    assert_int_equal(plan_compile(&in, &plan, &err), 0);
    assert_int_equal(plan.service_count, 2);
}

static void test_settings_in_range(void **state)
{
    (void)state;
    static struct plan plan;
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
        cmocka_unit_test(test_whole_plan),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_too_many_addresses),
        cmocka_unit_test(test_settings_in_range),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
