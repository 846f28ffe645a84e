/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <string.h>

#include "control/kernel_neighbours.h"

enum { DEVICE = 3, OTHER_DEVICE = 4 };

static const uint8_t own[6] = {2, 0, 0, 0, 0, 1}, known[6] = {2, 0, 0, 0, 0, 2}, new[6] = {2, 0, 0, 0, 0, 9};

static struct abi_addr v4(uint8_t last)
{
    return (struct abi_addr){{0, 0, htonl(0xffff), htonl(0x0a630000u | last)}};
}

/* An address with this node and two more as candidates: the link address of 10.99.0.2 is known, that of
 * 10.99.0.3 is not. */
static void test_what_is_news(void **state)
{
    (void)state;
    struct abi_peer peer[] = {{.addr = v4(2)}, {.addr = v4(3)}};
    struct kernel_address address = {.key = {.addr = v4(100), .ifindex = DEVICE},
                                     .value = {.managers = 3, .self = 1, .peer = {1, 0, 2}}};
    memcpy(address.value.mac[0], known, 6);
    memcpy(address.value.mac[1], own, 6);
    const struct kernel_entries entries = {
        .peer = peer, .peer_count = 2, .address = &address, .address_count = 1};
    struct abi_addr second = v4(2), third = v4(3), stranger = v4(7), self = v4(1);
    assert_false(kernel_neighbours_is_news(&entries, DEVICE, &second, known));
    assert_true(kernel_neighbours_is_news(&entries, DEVICE, &second, new));
    assert_true(kernel_neighbours_is_news(&entries, DEVICE, &third, new));
    assert_false(kernel_neighbours_is_news(&entries, OTHER_DEVICE, &second, new));
    assert_false(kernel_neighbours_is_news(&entries, DEVICE, &stranger, new));
    assert_false(kernel_neighbours_is_news(&entries, DEVICE, &self, new));
}

/* Nobody answers, or the candidate is not among the peers any more. */
static void test_no_candidates(void **state)
{
    (void)state;
    struct kernel_address address = {.key = {.addr = v4(100), .ifindex = DEVICE}};
    struct kernel_entries entries = {.address = &address, .address_count = 1};
    struct abi_addr second = v4(2);
    assert_false(kernel_neighbours_is_news(&entries, DEVICE, &second, new));
    address.value.managers = 2;
    address.value.peer[1] = 5;
    assert_false(kernel_neighbours_is_news(&entries, DEVICE, &second, new));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_news),
        cmocka_unit_test(test_no_candidates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
