/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <string.h>

#include "control/mesh/peers.h"

#define TEXT(s) ((struct frame_text){s, sizeof(s) - 1})

static void test_there_and_back(void **state)
{
    (void)state;
    const struct frame_manager in[] = {{1, TEXT("a"), TEXT("192.0.2.1:5010")},
                                       {2, TEXT("b"), TEXT("nowhere")},
                                       {0, TEXT("c"), TEXT("192.0.2.3:5010")},
                                       {7, TEXT("d"), TEXT("[2001:db8::1]:5010")}};
    struct mesh_node out[4];
    struct pki_text text;
    peers_format(in, 4, &text);
    assert_string_equal(text.data, "1 192.0.2.1:5010\n7 [2001:db8::1]:5010\n");
    assert_int_equal(peers_parse(text.data, out, 4), 2);
    assert_int_equal(out[1].id, 7);
    assert_true(out[1].dial);
    assert_string_equal(out[1].address.text, "[2001:db8::1]:5010");
    assert_int_equal(peers_parse(text.data, out, 1), 1);
    pki_text_free(&text);
}

static void test_damaged(void **state)
{
    (void)state;
    struct mesh_node out[4];
    static const char *const texts[] = {
        "", "\n\n", "1", "1 ", "x 192.0.2.1:1\n", "1 192.0.2.1\n", "0 192.0.2.1:1", "1\t192.0.2.1:1"};
    for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++)
        assert_int_equal(peers_parse(texts[i], out, 4), 0);
    assert_int_equal(peers_parse(NULL, out, 4), 0);
    assert_int_equal(peers_parse("garbage\n3 192.0.2.3:9", out, 4), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_there_and_back), cmocka_unit_test(test_damaged)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
