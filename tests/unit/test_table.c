/* SPDX-License-Identifier: Apache-2.0 */
/* What all rings know of blobs that are being fetched. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "dataplane/fetch/table.h"

static const struct digest blob = {.alg = DIGEST_SHA256, .bytes = {1, 2, 3}};

static struct fetch_entry *get(bool *first)
{
    struct fetch_entry *e = fetch_entry_get(&blob, 0, first);
    assert_non_null(e);
    return e;
}

static void test_one_for_all(void **state)
{
    bool first;
    (void)state;
    struct fetch_entry *e = get(&first);
    assert_true(first);
    assert_ptr_equal(get(&first), e);
    assert_false(first);
    assert_ptr_equal(fetch_entry_find(&blob), e);
    for (int i = 0; i < 3; i++)
        fetch_entry_put(e, NULL);
    assert_null(fetch_entry_find(&blob));
}

/* The file of one that lingers is the blob's: when that is damaged, nobody may be served from it, and a fetch
 * begins anew. */
static void test_forgotten_when_damaged(void **state)
{
    bool first;
    (void)state;
    struct fetch_entry *old = get(&first);
    fetch_entry_state(old, FETCH_WHOLE, FETCH_FINE);
    fetch_entry_forget(&blob); /* it is not in the store yet: what is damaged there is another file */
    assert_ptr_equal(fetch_entry_find(&blob), old);
    fetch_entry_kept(old, true);
    fetch_entry_forget(&blob);
    assert_null(fetch_entry_find(&blob));
    struct fetch_entry *e = get(&first);
    assert_true(first);
    assert_ptr_not_equal(e, old);
    fetch_entry_put(e, NULL);
    fetch_entry_put(old, NULL);
    fetch_entry_put(old, NULL);
    fetch_entry_forget(&blob); /* nothing is there */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_for_all),
        cmocka_unit_test(test_forgotten_when_damaged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
