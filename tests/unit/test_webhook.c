/* SPDX-License-Identifier: Apache-2.0 */
/* A nameserver that says nothing does not stop the loop; a libcurl that lacks something sends nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <curl/curl.h>
#include <dlfcn.h>
#include <netdb.h>
#include <semaphore.h>
#include <stdbool.h>

#include <cmocka.h>

#include "control/webhook.h"

static sem_t asked, answered;

static CURLoption refused; /* 0: none */

#undef curl_easy_setopt
/* Each option has one argument of a word. */
CURLcode curl_easy_setopt(CURL *easy, CURLoption option, ...)
{
    CURLcode (*real)(CURL *, CURLoption, ...);
    va_list list;
    *(void **)&real = dlsym(RTLD_NEXT, "curl_easy_setopt");
    assert_non_null(real);
    va_start(list, option);
    void *value = va_arg(list, void *);
    va_end(list);
    return option == refused ? CURLE_NOT_BUILT_IN : real(easy, option, value);
}

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

static void on_refused(void *arg, long status, const char *error)
{
    unsigned *count = arg;
    assert_int_equal(status, 0);
    assert_string_equal(error, curl_easy_strerror(CURLE_NOT_BUILT_IN));
    (*count)++;
}

/* One that verifies with no CA but its own, or looks at which protocols are meant, sends nothing otherwise.
 */
static void test_an_option_that_is_not_there(void **state)
{
    static const CURLoption options[] = {CURLOPT_CAINFO_BLOB, CURLOPT_PROTOCOLS_STR, CURLOPT_URL};
    unsigned count = 0;
    uv_loop_t loop;
    (void)state;
    assert_int_equal(uv_loop_init(&loop), 0);
    struct webhooks *w = webhooks_new(&loop);
    for (unsigned i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
        const struct webhook_request request = {.url = "https://hook.invalid/",
                                                .content_type = "text/plain",
                                                .ca = "a CA",
                                                .body = "x",
                                                .len = 1};
        refused = options[i];
        webhook_post(w, &request, on_refused, &count);
        assert_int_equal(count, i); /* from the loop */
        while (count == i)
            uv_run(&loop, UV_RUN_ONCE);
    }
    refused = 0;
    assert_int_not_equal(sem_trywait(&asked), 0); /* nobody's name was asked for */
    webhooks_close(w);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_silent_nameserver),
                                       cmocka_unit_test(test_an_option_that_is_not_there)};
    sem_init(&asked, 0, 0);
    sem_init(&answered, 0, 0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
