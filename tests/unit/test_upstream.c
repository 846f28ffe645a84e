/* SPDX-License-Identifier: Apache-2.0 */
/* Whose fault it is that there is no connection. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "check.h"
#include "dataplane/proxy/upstream.h"

static void blame(void **state)
{
    (void)state;
    static const int ours[] = {EMFILE, ENFILE, ENOMEM, ENOBUFS, EADDRNOTAVAIL, EBUSY, ENOKEY, ECANCELED};
    static const int theirs[] = {ECONNREFUSED, ETIMEDOUT, EHOSTUNREACH, ENETUNREACH,
                                 ECONNRESET,   ENOENT,    EPIPE};
    for (size_t i = 0; i < ARRAY_SIZE(ours); i++)
        assert_int_equal(upstream_blame(-ours[i]), BALANCE_CANCELLED);
    for (size_t i = 0; i < ARRAY_SIZE(theirs); i++)
        assert_int_equal(upstream_blame(-theirs[i]), BALANCE_UNREACHABLE);
    assert_int_equal(upstream_blame(-EKEYREJECTED), BALANCE_FAILED);
    assert_int_equal(upstream_blame(-EPROTO), BALANCE_FAILED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(blame)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
