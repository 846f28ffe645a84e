/* SPDX-License-Identifier: Apache-2.0 */
/* Which programs services and peers ask for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "check.h"
#include "control/compile/kernel_needs.h"

static uint32_t needs_of(bool steer, bool cut, enum svc_edge edge, bool takeover, uint32_t peers)
{
    struct svc service[2];
    struct svc_table table = {.service = service, .count = 2};
    for (size_t i = 0; i < 2; i++) {
        svc_init(&service[i], SVC_TCP);
        service[i].steer = service[i].cut = service[i].takeover = false;
        service[i].edge = SVC_EDGE_OFF;
    }
    service[1].steer = steer;
    service[1].cut = cut;
    service[1].edge = (uint8_t)edge;
    service[1].takeover = takeover;
    return kernel_needs(&table, peers);
}

static void test_each_need(void **state)
{
    static const struct {
        bool steer, cut;
        enum svc_edge edge;
        bool takeover;
        uint32_t peers, needs;
    } rows[] = {
        {false, false, SVC_EDGE_OFF, false, 0, 0},
        {true, false, SVC_EDGE_OFF, false, 0, KERNEL_NEED_STEER},
        {false, true, SVC_EDGE_OFF, false, 0, KERNEL_NEED_CUT},
        {false, false, SVC_EDGE_NAT, false, 0, KERNEL_NEED_EDGE},
        {false, false, SVC_EDGE_FULL_NAT, false, 0, KERNEL_NEED_EDGE},
        {false, false, SVC_EDGE_DSR, true, 0, KERNEL_NEED_EDGE | KERNEL_NEED_TAKEOVER},
        {false, false, SVC_EDGE_OFF, false, 1, KERNEL_NEED_HEARTBEAT},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        assert_int_equal(needs_of(rows[i].steer, rows[i].cut, rows[i].edge, rows[i].takeover, rows[i].peers),
                         rows[i].needs | KERNEL_NEED_PROBE);
}

/* Nobody is steered to a proxied service; its address is kept from being answered for. */
static void test_proxied(void **state)
{
    struct svc s;
    const struct svc_table table = {.service = &s, .count = 1};
    (void)state;
    svc_init(&s, SVC_HTTP);
    s.route = SVC_PROXY;
    assert_int_equal(svc_address_parse("10.0.0.1:80", &s.address), 0);
    assert_int_equal(kernel_needs(&table, 0), KERNEL_NEED_PROBE | KERNEL_NEED_CUT | KERNEL_NEED_TAKEOVER);
    assert_int_equal(svc_address_parse("127.0.0.1:80", &s.address), 0);
    assert_int_equal(kernel_needs(&table, 0), KERNEL_NEED_PROBE | KERNEL_NEED_CUT);
}

static void test_no_services(void **state)
{
    const struct svc_table none = {0};
    (void)state;
    assert_int_equal(kernel_needs(&none, 0), KERNEL_NEED_PROBE);
    assert_int_equal(kernel_needs(&none, 3), KERNEL_NEED_PROBE | KERNEL_NEED_HEARTBEAT);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_need),
        cmocka_unit_test(test_proxied),
        cmocka_unit_test(test_no_services),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
