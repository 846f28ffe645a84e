/* SPDX-License-Identifier: Apache-2.0 */
/* What a source is shown, with a token server that is played. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "check.h"
#include "control/source_pass.h"
#include "control/webhook.h"

enum { HUB = 7, ASKED_MAX = 32 };

#define BEARER                                                                                               \
    "Bearer realm=\"https://auth.example.com/token\",service=\"hub\",scope=\"repository:team/app:pull\""
#define PLAIN "Bearer realm=\"http://auth.example.com/token\""

static struct {
    char url[512], user[64], password[64], ca[64];
    webhook_answered answered;
    void *arg;
} asked[ASKED_MAX];
static unsigned asked_count;

static struct source_access hub; /* what holds: ca is copied */
static char told[SOURCE_PROBLEM_MAX];
static unsigned told_count;
static uint64_t clock_ms;
static struct source_passes *passes;

/* What the last answer was, and how many there were. */
static struct frame_pass got;
static char value[PASS_BYTES_MAX + 1];
static unsigned got_count;

/* ------------------------------------------------------------------ played */

uint64_t uv_now(const uv_loop_t *loop)
{
    (void)loop;
    return clock_ms;
}

struct webhooks *webhooks_new(uv_loop_t *loop)
{
    (void)loop;
    return NULL;
}

static void reply(unsigned i, long status, const char *body)
{
    webhook_answered answered = asked[i].answered;
    assert_non_null(answered);
    asked[i].answered = NULL;
    answered(asked[i].arg, status, status ? "" : "no route to host", body, strlen(body));
}

void webhooks_close(struct webhooks *w)
{
    (void)w;
    for (unsigned i = 0; i < asked_count; i++)
        if (asked[i].answered)
            reply(i, 0, "");
}

void webhook_get(struct webhooks *w, const struct webhook_question *q, webhook_answered answered, void *arg)
{
    (void)w;
    assert_true(asked_count < ASKED_MAX);
    asked[asked_count].answered = answered;
    asked[asked_count].arg = arg;
    snprintf(asked[asked_count].url, sizeof(asked[0].url), "%s", q->url);
    snprintf(asked[asked_count].user, sizeof(asked[0].user), "%s", q->user ? q->user : "");
    snprintf(asked[asked_count].password, sizeof(asked[0].password), "%s", q->user ? q->password : "");
    snprintf(asked[asked_count].ca, sizeof(asked[0].ca), "%s", q->ca ? q->ca : "");
    asked_count++;
}

static bool on_look(void *arg, uint64_t source, struct source_access *access)
{
    (void)arg;
    if (source != HUB)
        return false;
    *access = hub;
    access->ca = hub.ca ? strdup(hub.ca) : NULL;
    return true;
}

static void on_tell(void *arg, const char *prefix, const char *text)
{
    (void)arg;
    assert_true(strcmp(prefix, "hub/") == 0 || strcmp(prefix, "?") == 0);
    snprintf(told, sizeof(told), "%s", text);
    assert_null(strstr(text, "hush"));
    told_count++;
}

static void on_done(void *arg, const struct frame_pass *pass, const char *text, size_t len)
{
    (void)arg;
    got = *pass;
    assert_true(len <= PASS_BYTES_MAX);
    memcpy(value, text, len);
    value[len] = '\0';
    got_count++;
}

static void get_of(uint64_t source, const char *repo, const char *challenge, uint64_t refused)
{
    const struct source_pass_question q = {.source = source,
                                           .refused = refused,
                                           .repo = repo,
                                           .repo_len = strlen(repo),
                                           .challenge = challenge,
                                           .challenge_len = strlen(challenge)};
    source_pass_get(passes, &q, on_done, NULL);
}

static void get(const char *challenge, uint64_t refused)
{
    get_of(HUB, "team/app", challenge, refused);
}

static int setup(void **state)
{
    const struct source_passes_config config = {.look = on_look, .tell = on_tell};
    (void)state;
    memset(&hub, 0, sizeof(hub));
    memset(asked, 0, sizeof(asked));
    snprintf(hub.prefix, sizeof(hub.prefix), "hub/");
    snprintf(hub.credentials.user, sizeof(hub.credentials.user), "alice");
    snprintf(hub.credentials.password, sizeof(hub.credentials.password), "hush");
    asked_count = told_count = got_count = 0;
    clock_ms = 1000000;
    told[0] = '\0';
    passes = source_passes_new(&config);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    source_passes_close(passes);
    return 0;
}

/* ------------------------------------------------------------------ tests */

static void test_basic(void **state)
{
    (void)state;
    get("Basic realm=\"r\"", 0);
    assert_int_equal(got.status, PASS_OK);
    assert_string_equal(value, "Basic YWxpY2U6aHVzaA==");
    assert_int_equal(got.ttl_ms, 300000);
    get("Basic realm=\"r\"", got.serial); /* they are wrong */
    assert_int_equal(got.status, PASS_REFUSED);
    assert_string_equal(told, "it does not take the credentials");
    get("Basic realm=\"r\"", 0);
    assert_int_equal(got.status, PASS_REFUSED);
    assert_int_equal(told_count, 1); /* it is not tried again so soon, */
    source_passes_forget(passes);    /* unless others were given */
    get("Basic realm=\"r\"", 0);
    assert_int_equal(got.status, PASS_OK);
    assert_int_equal(asked_count, 0);
}

static void test_nobody(void **state)
{
    (void)state;
    hub.credentials.user[0] = '\0';
    get("Basic realm=\"r\"", 0);
    assert_int_equal(got.status, PASS_REFUSED);
    get_of(HUB, "other", BEARER, 0); /* a token for anybody */
    assert_int_equal(asked_count, 1);
    assert_string_equal(asked[0].user, "");
    assert_string_equal(asked[0].password, "");
    reply(0, 200, "{\"token\":\"t\"}");
    assert_string_equal(value, "Bearer t");
    get_of(HUB + 1, "team/app", BEARER, 0); /* no such source */
    assert_int_equal(got.status, PASS_UNAVAILABLE);
    get_of(HUB, "", BEARER, 0);
    assert_int_equal(got.status, PASS_UNAVAILABLE);
    get_of(HUB, "third", "Digest realm=\"x\"", 0);
    assert_int_equal(got.status, PASS_REFUSED);
    assert_int_equal(asked_count, 1);
}

static void test_a_token(void **state)
{
    (void)state;
    hub.ca = "a CA";
    get(BEARER, 0);
    get(BEARER, 0); /* waits for the same */
    assert_int_equal(asked_count, 1);
    assert_int_equal(got_count, 0);
    assert_string_equal(asked[0].url,
                        "https://auth.example.com/token?service=hub&scope=repository:team/app:pull");
    assert_string_equal(asked[0].user, "alice");
    assert_string_equal(asked[0].password, "hush");
    assert_string_equal(asked[0].ca, "a CA");
    reply(0, 200, "{\"access_token\":\"abc\",\"expires_in\":200}");
    assert_int_equal(got_count, 2);
    assert_int_equal(got.status, PASS_OK);
    assert_string_equal(value, "Bearer abc");
    assert_int_equal(got.ttl_ms, 180000);
    uint64_t first = got.serial;
    clock_ms += 100000;
    get(BEARER, 0); /* known */
    assert_int_equal(asked_count, 1);
    assert_int_equal(got.ttl_ms, 80000);
    clock_ms += 80000;
    get(BEARER, 0); /* over */
    assert_int_equal(asked_count, 2);
    reply(1, 200, "{\"token\":\"def\"}");
    assert_int_equal(got.ttl_ms, 54000);
    get(BEARER, first); /* who still had the first one */
    assert_int_equal(asked_count, 2);
    assert_string_equal(value, "Bearer def");
    clock_ms += 10000;
    get(BEARER, got.serial); /* withdrawn */
    assert_int_equal(asked_count, 3);
    reply(2, 200, "{\"token\":\"ghi\"}");
    assert_string_equal(value, "Bearer ghi");
    get(BEARER, got.serial); /* a new one is not taken: another would not be, either */
    assert_int_equal(asked_count, 3);
    assert_int_equal(got.status, PASS_REFUSED);
    clock_ms += 6000;
    get(BEARER, 0);
    assert_int_equal(asked_count, 4);
    assert_int_equal(told_count, 1);
}

static void test_answers(void **state)
{
    static char huge[PASS_BYTES_MAX + 32];
    static const struct {
        long status;
        const char *body;
        enum pass_status pass;
    } rows[] = {
        {200, "", PASS_UNAVAILABLE},
        {200, "[]", PASS_UNAVAILABLE},
        {200, "{\"token\":\"\"}", PASS_UNAVAILABLE},
        {200, "{\"token\":5}", PASS_UNAVAILABLE},
        {200, "{\"token\":\"a\\r\\nX-Evil: 1\"}", PASS_UNAVAILABLE},
        {200, "{\"token\":\"a b\"}", PASS_UNAVAILABLE},
        {200, huge, PASS_UNAVAILABLE},
        {401, "{\"token\":\"a\"}", PASS_REFUSED},
        {403, "", PASS_REFUSED},
        {404, "", PASS_REFUSED},
        {429, "", PASS_UNAVAILABLE},
        {500, "", PASS_UNAVAILABLE},
        {302, "", PASS_UNAVAILABLE},
        {0, "", PASS_UNAVAILABLE},
    };
    (void)state;
    memset(huge, 'x', sizeof(huge) - 1);
    memcpy(huge, "{\"token\":\"", 10);
    memcpy(huge + sizeof(huge) - 3, "\"}", 2);
    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        get(BEARER, 0);
        assert_int_equal(asked_count, i + 1);
        reply(i, rows[i].status, rows[i].body);
        assert_int_equal(got.status, rows[i].pass);
        assert_string_equal(value, "");
        assert_int_equal(told_count, i + 1);
        get(BEARER, 0); /* not again at once */
        assert_int_equal(asked_count, i + 1);
        assert_int_equal(got.status, rows[i].pass);
        clock_ms += 5001;
    }
}

static void test_expiry(void **state)
{
    static const struct {
        const char *body;
        uint32_t ttl_ms;
    } rows[] = {
        {"{\"token\":\"a\",\"expires_in\":0}", 54000},
        {"{\"token\":\"a\",\"expires_in\":-5}", 54000},
        {"{\"token\":\"a\",\"expires_in\":\"300\"}", 54000},
        {"{\"token\":\"a\",\"expires_in\":1e300}", 300000},
        {"{\"token\":\"a\",\"expires_in\":100.5}", 90450},
    };
    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        get(BEARER, 0);
        reply(i, 200, rows[i].body);
        assert_int_equal(got.ttl_ms, rows[i].ttl_ms);
        source_passes_forget(passes);
    }
}

/* Credentials go nowhere in clear, and nowhere else than they are meant to. */
static void test_where_credentials_go(void **state)
{
    (void)state;
    get(PLAIN, 0);
    assert_int_equal(asked_count, 0);
    assert_int_equal(got.status, PASS_REFUSED);
    clock_ms += 5001;
    hub.plain = true;
    get(PLAIN, 0);
    assert_int_equal(asked_count, 1);
    reply(0, 200, "{\"token\":\"a\"}");
    source_passes_forget(passes);
    static const struct {
        const char *server;
        bool goes;
    } rows[] = {
        {"https://auth.example.com", true},       {"https://auth.example.com/", true},
        {"https://auth.example.com/token", true}, {"https://auth.example.co", false},
        {"https://auth.example.com/tok", false},  {"http://auth.example.com/", false},
        {"https://other.example.com/", false},
    };
    unsigned expected = 1;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        snprintf(hub.token_server, sizeof(hub.token_server), "%s", rows[i].server);
        get(BEARER, 0);
        expected += rows[i].goes;
        assert_int_equal(asked_count, expected);
        if (rows[i].goes)
            reply(expected - 1, 200, "{\"token\":\"a\"}");
        assert_int_equal(got.status, rows[i].goes ? PASS_OK : PASS_REFUSED);
        source_passes_forget(passes);
    }
    snprintf(hub.problem, sizeof(hub.problem), "/p: others may read it");
    get(BEARER, 0);
    assert_int_equal(got.status, PASS_REFUSED);
    assert_string_equal(told, hub.problem);
    assert_int_equal(asked_count, expected);
}

/* Of more repositories than there are places, the oldest make room; those that are asked for stay. */
static void test_many(void **state)
{
    char repo[32];
    (void)state;
    get_of(HUB, "first", BEARER, 0);
    for (unsigned i = 0; i < 3000; i++) {
        snprintf(repo, sizeof(repo), "r%u", i);
        get_of(HUB, repo, "Basic realm=\"r\"", 0);
        assert_int_equal(got.status, PASS_OK);
    }
    reply(0, 200, "{\"token\":\"a\"}");
    assert_string_equal(value, "Bearer a");
}

static void test_the_end(void **state)
{
    (void)state;
    get(BEARER, 0);
    get(BEARER, 0);
    source_passes_close(passes);
    assert_int_equal(got_count, 2);
    assert_int_equal(got.status, PASS_UNAVAILABLE);
    assert_int_equal(told_count, 0);
    asked_count = 0;
    assert_int_equal(setup(state), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_basic, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nobody, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_token, setup, teardown),
        cmocka_unit_test_setup_teardown(test_answers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_expiry, setup, teardown),
        cmocka_unit_test_setup_teardown(test_where_credentials_go, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_end, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
