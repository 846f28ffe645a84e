/* SPDX-License-Identifier: Apache-2.0 */
/* Keys of tickets, and the memory in which certificates come. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "certs.h"
#include "check.h"
#include "dataplane/tls/tickets.h"

enum { LIFE_MS = 1000 };

struct ticket {
    unsigned char name[16], iv[EVP_MAX_IV_LENGTH];
};

static int use(struct tls_tickets *t, struct ticket *ticket, int seal)
{
    EVP_MAC *hmac = EVP_MAC_fetch(NULL, "HMAC", NULL);
    EVP_MAC_CTX *mac = EVP_MAC_CTX_new(hmac);
    EVP_CIPHER_CTX *cipher = EVP_CIPHER_CTX_new();
    CHECK(hmac && mac && cipher);
    int ret = tls_tickets_key(t, ticket->name, ticket->iv, cipher, mac, seal);
    EVP_CIPHER_CTX_free(cipher);
    EVP_MAC_CTX_free(mac);
    EVP_MAC_free(hmac);
    return ret;
}

/* A ticket is taken, then taken and replaced, then not known any more. */
static void test_tickets(void **state)
{
    (void)state;
    struct tls_tickets *t = tls_tickets_new();
    struct ticket first, second;
    assert_non_null(t);
    assert_true(tls_tickets_turn(t, 1, LIFE_MS));
    assert_int_equal(use(t, &first, 1), 1);
    assert_int_equal(use(t, &first, 0), 1);
    assert_true(tls_tickets_turn(t, LIFE_MS, LIFE_MS)); /* not yet */
    assert_int_equal(use(t, &first, 0), 1);
    for (uint64_t turn = 1; turn <= 2; turn++) {
        assert_true(tls_tickets_turn(t, 1 + turn * LIFE_MS, LIFE_MS));
        assert_int_equal(use(t, &first, 0), 2);
    }
    assert_int_equal(use(t, &second, 1), 1);
    assert_memory_not_equal(first.name, second.name, sizeof(first.name));
    assert_true(tls_tickets_turn(t, 1 + 3 * LIFE_MS, LIFE_MS));
    assert_int_equal(use(t, &first, 0), 0);
    assert_int_equal(use(t, &second, 0), 2);
    tls_tickets_free(t);
}

static struct certs *make(uint32_t count, uint64_t bytes)
{
    struct certs *c = calloc(1, bytes);
    CHECK(c);
    *c = (struct certs){.magic = CERTS_MAGIC, .version = CERTS_VERSION, .bytes = bytes, .count = count};
    for (uint32_t i = 0; i < count; i++)
        c->entry[i].name[0] = (char)('a' + i);
    return c;
}

static void test_certs(void **state)
{
    (void)state;
    uint64_t bytes = sizeof(struct certs) + 2 * sizeof(struct certs_entry) + 100;
    struct certs *c = make(2, bytes);
    assert_true(certs_check(c, bytes));
    assert_false(certs_check(c, bytes - 1));
    assert_ptr_equal(certs_find(c, "b"), &c->entry[1]);
    assert_null(certs_find(c, "c"));
    assert_null(certs_find(NULL, "c"));
    c->entry[1].key = (struct certs_part){(uint32_t)bytes - 100, 100};
    assert_true(certs_check(c, bytes));
    c->entry[1].key.len = 101;
    assert_false(certs_check(c, bytes));
    c->entry[1].key = (struct certs_part){UINT32_MAX, 1};
    assert_false(certs_check(c, bytes));
    c->entry[1].key = (struct certs_part){0};
    c->system_ca = (struct certs_part){1, UINT32_MAX};
    assert_false(certs_check(c, bytes));
    c->system_ca = (struct certs_part){0};
    c->count = 3;
    assert_false(certs_check(c, bytes));
    c->count = 2;
    memset(c->entry[0].name, 'x', sizeof(c->entry[0].name));
    assert_false(certs_check(c, bytes));
    free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tickets),
        cmocka_unit_test(test_certs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
