/* SPDX-License-Identifier: Apache-2.0 */
/* Names become addresses; a nameserver that says nothing holds up neither the loop nor its end. */
#include <errno.h>
#include <netdb.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <arpa/inet.h>
#include <cmocka.h>

#include "check.h"
#include "control/resolve.h"

static sem_t asked, answered, gone;

/* Played: "two" has an address of each kind, "many" more than there is room for, "slow" waits for the test.
 */
int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **out)
{
    static struct sockaddr_in6 in6 = {.sin6_family = AF_INET6};
    static struct sockaddr_in in4 = {.sin_family = AF_INET};
    static struct addrinfo list[RESOLVE_ADDRESSES_MAX + 4];
    (void)service, (void)hints;
    if (strcmp(name, "slow") == 0) {
        sem_post(&asked);
        sem_wait(&answered);
        sem_post(&gone);
        return EAI_AGAIN;
    }
    if (strcmp(name, "nobody") == 0)
        return EAI_NONAME;
    in4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    in6.sin6_addr = in6addr_loopback;
    unsigned count = strcmp(name, "two") == 0 ? 2 : ARRAY_SIZE(list);
    for (unsigned i = 0; i < count; i++) {
        list[i].ai_family = i ? AF_INET : AF_INET6;
        list[i].ai_addr = i ? (struct sockaddr *)(void *)&in4 : (struct sockaddr *)(void *)&in6;
        list[i].ai_next = i + 1 < count ? &list[i + 1] : NULL;
    }
    *out = list;
    return 0;
}

void freeaddrinfo(struct addrinfo *list)
{
    (void)list;
}

static void on_done(void *arg, const struct resolve_answer *answer)
{
    *(struct resolve_answer *)arg = *answer;
}

static struct resolve_answer ask(uv_loop_t *loop, struct resolver *r, const char *name)
{
    struct resolve_answer got = {.error = NULL};
    assert_int_equal(resolve_name(r, name, on_done, &got), 0);
    while (!got.error)
        uv_run(loop, UV_RUN_ONCE);
    return got;
}

static void end(uv_loop_t *loop, struct resolver *r)
{
    resolver_close(r);
    uv_run(loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(loop), 0);
}

static void test_addresses(void **state)
{
    static const uint8_t v4[16] = {[10] = 0xff, [11] = 0xff, [12] = 127, [15] = 1}, v6[16] = {[15] = 1};
    uv_loop_t loop;
    (void)state;
    assert_int_equal(uv_loop_init(&loop), 0);
    struct resolver *r = resolver_new(&loop);
    struct resolve_answer got = ask(&loop, r, "two");
    assert_int_equal(got.count, 2);
    assert_memory_equal(got.ip[0], v6, 16);
    assert_memory_equal(got.ip[1], v4, 16);
    assert_int_equal(ask(&loop, r, "many").count, RESOLVE_ADDRESSES_MAX);
    got = ask(&loop, r, "nobody");
    assert_int_equal(got.count, 0);
    assert_string_equal(got.error, gai_strerror(EAI_NONAME));
    end(&loop, r);
}

static void test_silent_nameserver(void **state)
{
    struct resolve_answer got = {.error = NULL};
    uv_loop_t loop;
    (void)state;
    assert_int_equal(uv_loop_init(&loop), 0);
    struct resolver *r = resolver_new(&loop);
    for (unsigned i = 0; i < RESOLVES_MAX; i++)
        assert_int_equal(resolve_name(r, "slow", on_done, &got), 0);
    assert_int_equal(resolve_name(r, "two", on_done, &got), -EBUSY);
    for (unsigned i = 0; i < RESOLVES_MAX; i++)
        sem_wait(&asked);
    end(&loop, r); /* nobody waits for them */
    for (unsigned i = 0; i < RESOLVES_MAX; i++)
        sem_post(&answered);
    for (unsigned i = 0; i < RESOLVES_MAX; i++)
        sem_wait(&gone);
    assert_null(got.error);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_addresses),
                                       cmocka_unit_test(test_silent_nameserver)};
    sem_init(&asked, 0, 0);
    sem_init(&answered, 0, 0);
    sem_init(&gone, 0, 0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
