/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "check.h"
#include "control/challenge.h"

static struct challenge c;

static int read_text(const char *text)
{
    return challenge_read(text, strlen(text), &c);
}

static void test_what_registries_say(void **state)
{
    (void)state;
    assert_int_equal(read_text("Bearer realm=\"https://auth.docker.io/token\",service=\"registry.docker.io\","
                               "scope=\"repository:library/alpine:pull\""),
                     0);
    assert_true(c.bearer && !c.basic);
    assert_string_equal(c.realm, "https://auth.docker.io/token");
    assert_string_equal(c.service, "registry.docker.io");
    assert_string_equal(c.scope, "repository:library/alpine:pull");
    assert_int_equal(read_text("Basic realm=\"Registry Realm\""), 0);
    assert_true(c.basic && !c.bearer && !c.realm[0]);
    assert_int_equal(
        read_text("Basic realm=\"a, Bearer realm=b\", bearer  realm = \"http://t/\" , Scope=\"\""), 0);
    assert_true(c.basic && c.bearer);
    assert_string_equal(c.realm, "http://t/");
    assert_int_equal(read_text("Negotiate YWJj, Basic"), 0);
    assert_true(c.basic && !c.bearer);
    assert_int_equal(read_text("Negotiate YW/Jj==, Bearer realm=\"https://t\""), 0);
    assert_true(c.bearer && !c.basic);
    assert_string_equal(c.realm, "https://t");
    assert_int_equal(read_text("Bearer realm=\"https://t/a\\\"b\\\\\""), 0);
    assert_string_equal(c.realm, "https://t/a\"b\\");
    assert_int_equal(read_text("Bearer realm=\"https://one\", Bearer realm=\"https://two\""), 0);
    assert_string_equal(c.realm, "https://one");
}

static void test_what_nobody_should_say(void **state)
{
    static const char *const texts[] = {
        "",
        " , ,",
        "Negotiate",
        "Digest realm=\"x\", nonce=\"y\"",
        "Bearer realm=\"https://t",
        "Bearer realm=\"https://t\\",
        "Bearer realm=\"https://t\"x",
        "Bearer realm=\"https://one\",realm=\"https://two\"",
        "Bearer realm=\"a\tb\"",
        "Bearer realm=\"a\nb\"",
        "Bearer realm=https://t",
        "Bearer =",
        "Bearer \"x\"",
        "Bea\"rer realm=x",
    };
    static char longest[CHALLENGE_REALM_MAX + 64];
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        if (read_text(texts[i]) == 0)
            print_message("taken: %s\n", texts[i]);
        assert_int_equal(read_text(texts[i]), -EINVAL);
    }
    int len = snprintf(longest, sizeof(longest), "Bearer realm=\"https://");
    memset(longest + len, 'x', CHALLENGE_REALM_MAX);
    assert_int_equal(read_text(longest), -EINVAL);
    assert_int_equal(challenge_read("Basic\0", 6, &c), -EINVAL);
}

static const char *url_of(const char *challenge, const char *repo, bool *secure)
{
    static char url[CHALLENGE_URL_MAX];
    const char *why;
    assert_int_equal(read_text(challenge), 0);
    return challenge_url(&c, repo, url, secure, &why) ? url : NULL;
}

/* Never more than the right to pull. */
static void test_questions(void **state)
{
    static const struct {
        const char *scope, *asked;
    } rows[] = {
        {"", "?service=s%20s&scope=repository:a/b:pull"},
        {"repository:x/y:pull", "?service=s%20s&scope=repository:x/y:pull"},
        {"repository:x/y:push,pull,delete", "?service=s%20s&scope=repository:x/y:pull"},
        {"repository:h:5000/y:pull", "?service=s%20s&scope=repository:h:5000/y:pull"},
        {"repository:x/y:push", "?service=s%20s"},
        {"repository:x/y:pullall", "?service=s%20s"},
        {"registry:catalog:*", "?service=s%20s"},
        {"repository:x", "?service=s%20s"},
        {"aws", "?service=s%20s&scope=aws"},
        {"repository:x:pull  repository:y:pull,push",
         "?service=s%20s&scope=repository:x:pull&scope=repository:y:pull"},
        {"a&b=c", "?service=s%20s&scope=a%26b%3Dc"},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        char text[256], expected[256];
        bool secure;
        snprintf(text, sizeof(text), "Bearer realm=\"https://t/token\",service=\"s s\",scope=\"%s\"",
                 rows[i].scope);
        snprintf(expected, sizeof(expected), "https://t/token%s", rows[i].asked);
        assert_string_equal(url_of(text, "a/b", &secure), expected);
        assert_true(secure);
    }
}

static void test_realms(void **state)
{
    static const char *const bad[] = {
        "ftp://t/",    "t",           "/token",        "https://",     "https:///x",
        "https://?x",  "https://u@t", "http://a:b@t/", "https://t/#x", "https://t/ x",
        "file:///etc", "https://t\\x"};
    bool secure;
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        char out[CHALLENGE_URL_MAX];
        const char *why = NULL;
        memset(&c, 0, sizeof(c));
        snprintf(c.realm, sizeof(c.realm), "%s", bad[i]);
        assert_false(challenge_url(&c, "a", out, &secure, &why));
        assert_non_null(why);
    }
    assert_string_equal(url_of("Bearer realm=\"http://t:5001/x?a=b\"", "r", &secure),
                        "http://t:5001/x?a=b&scope=repository:r:pull");
    assert_false(secure);
    assert_string_equal(url_of("Bearer realm=\"HTTPS://t\"", "r", &secure),
                        "HTTPS://t?scope=repository:r:pull");
    assert_true(secure);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_registries_say),
        cmocka_unit_test(test_what_nobody_should_say),
        cmocka_unit_test(test_questions),
        cmocka_unit_test(test_realms),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
