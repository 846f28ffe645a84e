/* SPDX-License-Identifier: Apache-2.0 */
/* A nameserver that says nothing does not stop the loop. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <netdb.h>
#include <semaphore.h>
#include <stdbool.h>

#include <cmocka.h>

#include "control/webhook.h"

static sem_t asked, answered;

/* libcurl's thread is held here as long as the test wants. */
int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **out)
{
    (void)name, (void)service, (void)hints, (void)out;
    sem_post(&asked);
    sem_wait(&answered);
    return EAI_AGAIN;
}

static void on_done(void *arg, long status, const char *error)
{
    unsigned *count = arg;
    assert_int_equal(status, 0);
    assert_true(error[0] != '\0');
    (*count)++;
}

static void post(struct webhooks *w, unsigned *count)
{
    const struct webhook_request request = {
        .url = "http://hook.invalid/", .content_type = "text/plain", .body = "x", .len = 1};
    webhook_post(w, &request, on_done, count);
}

/* Nobody answers the thread before both are through: whoever waits for it waits for ever. */
static void test_silent_nameserver(void **state)
{
    unsigned late = 0, closed = 0;
    uv_loop_t loop;
    (void)state;
    assert_int_equal(uv_loop_init(&loop), 0);
    struct webhooks *w = webhooks_new(&loop);
    post(w, &late);
    while (late == 0)
        uv_run(&loop, UV_RUN_ONCE);
    sem_wait(&asked);
    post(w, &closed);
    while (sem_trywait(&asked))
        uv_run(&loop, UV_RUN_ONCE);
    webhooks_close(w);
    assert_int_equal(late, 1);
    assert_int_equal(closed, 1);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
    sem_post(&answered);
    sem_post(&answered);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_silent_nameserver)};
    sem_init(&asked, 0, 0);
    sem_init(&answered, 0, 0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
