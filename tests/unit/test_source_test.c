/* SPDX-License-Identifier: Apache-2.0 */
/* What is said of a source that is asked by hand; the registry, and whoever knows what it is shown, are
 * played. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "check.h"
#include "control/source_test.h"

static struct {
    char url[512], connect[128], authorization[256], ca[16];
    bool head, unverified;
    webhook_looked looked;
    void *arg;
} asked;
static unsigned asked_count, passes_count, done_count;
static struct webhook_seen answer;
static struct {
    char repo[512], challenge[128];
    enum pass_status status;
    const char *why;
} pass;
static struct source_test_result result;
static char text[SOURCE_TEST_TEXT_MAX];

/* ------------------------------------------------------------------ played */

void webhook_look(struct webhooks *w, const struct webhook_look *look, webhook_looked looked, void *arg)
{
    (void)w;
    asked_count++;
    snprintf(asked.url, sizeof(asked.url), "%s", look->url);
    snprintf(asked.connect, sizeof(asked.connect), "%s", look->connect_to);
    snprintf(asked.authorization, sizeof(asked.authorization), "%s",
             look->authorization ? look->authorization : "");
    snprintf(asked.ca, sizeof(asked.ca), "%s", look->ca ? look->ca : "");
    asked.head = look->head;
    asked.unverified = look->unverified;
    asked.looked = looked;
    asked.arg = arg;
}

void source_pass_get(struct source_passes *s, const struct source_pass_question *q, source_pass_done done,
                     void *arg)
{
    const struct frame_pass f = {.status = pass.status, .serial = 77};
    (void)s;
    passes_count++;
    assert_int_equal(q->refused, passes_count == 1 ? 0 : 77);
    snprintf(pass.repo, sizeof(pass.repo), "%.*s", (int)q->repo_len, q->repo);
    snprintf(pass.challenge, sizeof(pass.challenge), "%.*s", (int)q->challenge_len, q->challenge);
    done(arg, &f, "Basic cm9ib3Q6", pass.status == PASS_OK ? 14 : 0);
}

const char *source_pass_why(const struct source_passes *s, uint64_t source, const char *repo)
{
    (void)s;
    assert_int_not_equal(source, 0);
    assert_string_equal(repo, pass.repo);
    return pass.why;
}

static void on_done(void *arg, const struct source_test_result *r)
{
    (void)arg;
    done_count++;
    result = *r;
    snprintf(text, sizeof(text), "%s", r->text);
}

static void begin(const char *repo, bool tls)
{
    static struct source_access access;
    static struct source s;
    static struct plan_backend backend[2];
    static struct plan_proxied service = {.backend = backend};
    source_init(&s, "hub/");
    snprintf(s.upstream, sizeof(s.upstream), "library/");
    snprintf(access.credentials.user, sizeof(access.credentials.user), "robot");
    access.ca = tls ? (char *)(uintptr_t) "a CA" : NULL;
    memset(&service.service, 0, sizeof(service.service));
    memset(backend, 0, sizeof(backend));
    backend[0].ip[10] = backend[0].ip[11] = 0xff;
    backend[0].ip[12] = 10;
    backend[0].port = 443;
    backend[1].ip[0] = 0xfd;
    backend[1].port = 5000;
    service.service.backend_count = 2;
    service.service.proxy.backend_tls = service.service.proxy.backend_verify = tls;
    if (tls)
        snprintf(service.service.proxy.backend_name, PLAN_DOMAIN_MAX, "hub.example");
    asked_count = passes_count = done_count = 0;
    memset(&answer, 0, sizeof(answer));
    pass.status = PASS_OK;
    pass.why = "";
    const struct source_test_question q = {
        .source = &s, .service = &service, .access = &access, .repo = repo, .reference = "1"};
    source_test_begin(&q, on_done, NULL);
}

static void answered(long status)
{
    answer.status = status;
    answer.error = status ? "" : "nobody is there";
    asked.looked(asked.arg, &answer);
}

static void expect(bool good, const char *said)
{
    assert_int_equal(done_count, 1);
    assert_int_equal(result.good, good);
    if (!strstr(text, said))
        fail_msg("%s does not say %s", text, said);
}

/* ------------------------------------------------------------------ tests */

static void test_a_registry(void **state)
{
    (void)state;
    begin(NULL, false);
    assert_string_equal(asked.url, "http://10.0.0.0:443/v2/");
    assert_true(!asked.head && asked.unverified && !asked.ca[0] && !asked.authorization[0]);
    answered(200);
    expect(true, "hub/: 10.0.0.0:443 is a registry, and lets this node in without asking who that is");
    begin(NULL, true);
    assert_string_equal(asked.url, "https://hub.example:443/v2/");
    assert_string_equal(asked.connect, "::10.0.0.0:443");
    assert_true(!asked.unverified && asked.ca[0]);
    answered(404);
    expect(false, "hub.example:443 (10.0.0.0:443) is no registry");
    begin(NULL, true);
    answered(503);
    expect(false, "answers with status 503");
}

static void test_a_manifest(void **state)
{
    (void)state;
    begin("hub/app", true);
    assert_string_equal(asked.url, "https://hub.example:443/v2/library/app/manifests/1");
    assert_true(asked.head);
    snprintf(answer.challenge, sizeof(answer.challenge), "Basic realm=x");
    answered(401);
    assert_string_equal(pass.repo, "library/app");
    assert_string_equal(pass.challenge, "Basic realm=x");
    assert_string_equal(asked.authorization, "Authorization: Basic cm9ib3Q6");
    assert_int_equal(asked_count, 2);
    snprintf(answer.digest, sizeof(answer.digest), "sha256:1234");
    answered(200);
    expect(true, "has library/app 1: sha256:1234 (let in as robot)");
    begin("hub/app", true);
    answered(404);
    expect(false, "has no library/app 1 (status 404)");
}

static void test_not_let_in(void **state)
{
    (void)state;
    begin(NULL, true);
    pass.status = PASS_REFUSED;
    pass.why = "it wants a name and a password";
    answered(401);
    expect(false, "does not let this node in: it wants a name and a password");
    begin(NULL, true);
    for (int i = 0; i < 3; i++) /* the pass may have been an old one; there is no third */
        answered(401);
    assert_int_equal(passes_count, 2);
    expect(false, "does not let this node in: status 401");
    begin(NULL, true);
    answered(403);
    expect(false, "does not let this node in: status 403");
}

/* The next one is asked where there is no answer at all. */
static void test_nobody_there(void **state)
{
    (void)state;
    begin(NULL, false);
    answered(0);
    assert_string_equal(asked.url, "http://[fd00::]:5000/v2/");
    assert_string_equal(asked.connect, "::[fd00::]:5000");
    answered(200);
    expect(true, "[fd00::]:5000 is a registry");
    begin(NULL, false);
    answered(0);
    answered(0);
    expect(false, "cannot be asked: nobody is there");
    begin(NULL, false);
    answer.closing = true;
    answered(0);
    expect(false, "cannot be asked");
}

static void test_names(void **state)
{
    static const struct {
        const char *text, *repo, *reference;
    } rows[] = {
        {"hub/app", "hub/app", "latest"},
        {"hub/app:v1", "hub/app", "v1"},
        {"hub/app@sha256:12", "hub/app", "sha256:12"},
        {"hub/", NULL, NULL},
        {"", NULL, NULL},
        {"Hub/app", NULL, NULL},
        {"hub/app:", NULL, NULL},
        {"hub/app:a/b", NULL, NULL},
        {"hub/app:a?b", NULL, NULL},
    };
    char repo[REPO_NAME_MAX + 1], reference[SOURCE_TEST_REFERENCE_MAX];
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        assert_int_equal(source_test_split(rows[i].text, repo, reference), rows[i].repo != NULL);
        if (!rows[i].repo)
            continue;
        assert_string_equal(repo, rows[i].repo);
        assert_string_equal(reference, rows[i].reference);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_a_registry), cmocka_unit_test(test_a_manifest),
                                       cmocka_unit_test(test_not_let_in), cmocka_unit_test(test_nobody_there),
                                       cmocka_unit_test(test_names)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
