/* SPDX-License-Identifier: Apache-2.0 */
/* What is known of Docker's, Kubernetes' and registries' requests, and the memory of who has what. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "check.h"
#include "dataplane/proxy/affinity.h"
#include "dataplane/proxy/kinds.h"

enum { FIELDS = 8 };

static struct http_field fields[FIELDS];
static char head[1024];

static struct kind_facts facts_of(enum proxy_kind kind, const char *request, const char *more)
{
    static const struct http_limits limits = {
        .header_bytes_max = sizeof(head), .headers_max = FIELDS, .target_bytes_max = 512};
    struct http_request req = {.fields = fields, .fields_max = FIELDS};
    struct http_reject reject;
    struct kind_facts facts;
    int n = snprintf(head, sizeof(head), "%s HTTP/1.1\r\nHost: a\r\n%s\r\n", request, more);
    assert_int_equal(http_request_read(head, (size_t)n, 0, &limits, &req, &reject), n);
    kind_judge(kind, &req, &facts);
    return facts;
}

static void test_grpc(void **state)
{
    (void)state;
    static const char type[] = "Content-Type: application/grpc+proto\r\n";
    assert_true(facts_of(PROXY_HTTP, "POST /a.B/C", type).longlived);
    assert_true(facts_of(PROXY_HTTP, "POST /a.B/C", "Content-Type: application/grpc\r\n").longlived);
    assert_false(facts_of(PROXY_HTTP, "GET /a.B/C", type).longlived);
    assert_false(facts_of(PROXY_HTTP, "POST /a.B/C", "Content-Type: application/json\r\n").longlived);
    assert_false(facts_of(PROXY_HTTP, "POST /a.B/C", "").longlived);
}

static void test_longlived(void **state)
{
    (void)state;
    static const struct {
        enum proxy_kind kind;
        const char *request;
        bool longlived;
    } rows[] = {
        {PROXY_DOCKER, "GET /events", true},
        {PROXY_DOCKER, "GET /v1.43/events?since=1", true},
        {PROXY_DOCKER, "GET /v1.43/containers/a/logs?follow=1&stdout=1", true},
        {PROXY_DOCKER, "GET /containers/a/logs?follow=true", true},
        {PROXY_DOCKER, "GET /containers/a/logs?follow=0", false},
        {PROXY_DOCKER, "GET /containers/a/logs?follow=", false},
        {PROXY_DOCKER, "GET /containers/a/logs", false},
        {PROXY_DOCKER, "GET /containers/a/stats", true},
        {PROXY_DOCKER, "GET /containers/a/stats?stream=false", false},
        {PROXY_DOCKER, "POST /containers/a/wait?condition=removed", true},
        {PROXY_DOCKER, "POST /v1.43/exec/a/start", true},
        {PROXY_DOCKER, "POST /images/create?fromImage=a", true},
        {PROXY_DOCKER, "POST /images/a/b/push", true},
        {PROXY_DOCKER, "POST /build?t=x", true},
        {PROXY_DOCKER, "GET /containers/json", false},
        {PROXY_DOCKER, "POST /events", false},
        {PROXY_DOCKER, "GET /v2/events/x", false},
        {PROXY_DOCKER, "GET /_ping", false},
        {PROXY_DOCKER, "GET /v1.43", false},
        {PROXY_KUBERNETES, "GET /api/v1/pods?watch=1&resourceVersion=5", true},
        {PROXY_KUBERNETES, "GET /api/v1/pods?watch=true", true},
        {PROXY_KUBERNETES, "GET /api/v1/pods?watch=false", false},
        {PROXY_KUBERNETES, "GET /api/v1/pods", false},
        {PROXY_KUBERNETES, "GET /api/v1/namespaces/a/pods/b/log?follow=true", true},
        {PROXY_KUBERNETES, "POST /api/v1/namespaces/a/pods/b/exec?command=sh", true},
        {PROXY_KUBERNETES, "POST /api/v1/namespaces/a/pods/b/portforward", true},
        {PROXY_KUBERNETES, "GET /api/v1/watch/pods", true},
        {PROXY_KUBERNETES, "GET /apis/apps/v1/watch/namespaces/a/deployments", true},
        {PROXY_KUBERNETES, "GET /apis/watch/v1/things", false},
        {PROXY_KUBERNETES, "GET /other/v1/watch/pods", false},
        {PROXY_KUBERNETES, "GET /api/v1/nodes/a/proxy/logs/", true},
        {PROXY_KUBERNETES, "POST /api/v1/namespaces/a/services/b:80/proxy", true},
        {PROXY_KUBERNETES, "GET /api/v1/namespaces/proxy/pods/proxy/status", false},
        {PROXY_KUBERNETES, "GET /apis/proxy/v1/namespaces/a/things/b", false},
        {PROXY_KUBERNETES, "GET /api", false},
        {PROXY_HTTP, "GET /events?watch=1", false},
        {PROXY_REGISTRY, "GET /v2/a/blobs/sha256:ab", false},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        assert_int_equal(facts_of(rows[i].kind, rows[i].request, "").longlived, rows[i].longlived);
}

static void test_docker_streams(void **state)
{
    (void)state;
    assert_true(facts_of(PROXY_DOCKER, "POST /v1.24/containers/a/attach?stream=1", "").hijack);
    assert_true(facts_of(PROXY_DOCKER, "POST /exec/a/start", "").hijack);
    assert_false(facts_of(PROXY_DOCKER, "GET /containers/a/logs?follow=1", "").hijack);
    assert_false(facts_of(PROXY_HTTP, "POST /exec/a/start", "").hijack);
    assert_true(facts_of(PROXY_DOCKER, "POST /v1.43/session", "").h2c);
    assert_true(facts_of(PROXY_DOCKER, "POST /grpc", "").h2c);
    assert_false(facts_of(PROXY_DOCKER, "GET /session", "").h2c);
    assert_false(facts_of(PROXY_HTTP, "POST /session", "").h2c);
}

static void test_affinity_keys(void **state)
{
    (void)state;
    struct kind_facts f = facts_of(PROXY_DOCKER, "POST /session", "X-Docker-Expose-Session-Uuid: u1\r\n");
    assert_true(view_lit(f.affinity, "u1"));
    f = facts_of(PROXY_DOCKER, "POST /v1.43/build?t=a&session=u1&version=2", "");
    assert_true(view_lit(f.affinity, "u1"));
    assert_false(view_present(facts_of(PROXY_DOCKER, "POST /build?t=a", "").affinity));
    f = facts_of(PROXY_REGISTRY, "PATCH /v2/a/b/blobs/uploads/id-1?_state=x", "");
    assert_true(view_lit(f.affinity, "id-1"));
    assert_false(view_present(facts_of(PROXY_REGISTRY, "POST /v2/a/b/blobs/uploads/", "").affinity));
    assert_true(view_lit(kind_upload_id(VIEW_LIT("http://a/v2/x/blobs/uploads/9?s=/y")), "9"));
    assert_true(view_lit(kind_upload_id(VIEW_LIT("/v2/x/blobs/uploads/9")), "9"));
    assert_false(view_present(kind_upload_id(VIEW_LIT("/v2/x/blobs/uploads/"))));
    assert_false(view_present(kind_upload_id(VIEW_LIT(""))));
}

#define HEX64 "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static void test_registry(void **state)
{
    (void)state;
    assert_true(
        view_lit(facts_of(PROXY_REGISTRY, "GET /v2/a/blobs/sha256:" HEX64, "").digest, "sha256:" HEX64));
    assert_true(
        view_lit(facts_of(PROXY_REGISTRY, "GET /v2/a/manifests/sha256:" HEX64, "").digest, "sha256:" HEX64));
    assert_false(view_present(facts_of(PROXY_REGISTRY, "GET /v2/a/manifests/latest", "").digest));
    assert_false(view_present(facts_of(PROXY_HTTP, "GET /v2/a/blobs/sha256:" HEX64, "").digest));
    assert_true(facts_of(PROXY_REGISTRY, "PUT /v2/a/manifests/latest", "").idempotent);
    assert_false(facts_of(PROXY_REGISTRY, "PUT /v2/a/blobs/uploads/1?digest=sha256:" HEX64, "").idempotent);
    assert_false(facts_of(PROXY_REGISTRY, "PATCH /v2/a/blobs/uploads/1", "").idempotent);
    assert_true(facts_of(PROXY_HTTP, "PUT /v2/a/blobs/uploads/1", "").idempotent);
    assert_false(facts_of(PROXY_HTTP, "BREW /", "").idempotent);
}

static void test_memory(void **state)
{
    (void)state;
    affinity_init();
    assert_int_equal(affinity_find(1, VIEW_LIT("a"), 0), 0);
    affinity_note(1, VIEW_LIT("a"), 7, 1000);
    affinity_note(1, VIEW_LIT("b"), 8, 1000);
    assert_int_equal(affinity_find(1, VIEW_LIT("a"), 2000), 7);
    assert_int_equal(affinity_find(1, VIEW_LIT("b"), 2000), 8);
    assert_int_equal(affinity_find(2, VIEW_LIT("a"), 2000), 0);
    affinity_note(1, VIEW_LIT("a"), 9, 3000);
    assert_int_equal(affinity_find(1, VIEW_LIT("a"), 3000), 9);
}

/* Many more than there is room for: what is used stays, and nothing is made up. */
static void test_memory_is_bounded(void **state)
{
    (void)state;
    char key[32];
    unsigned kept = 0;
    for (uint32_t i = 1; i <= 300000; i++) {
        int n = snprintf(key, sizeof(key), "upload-%u", i);
        affinity_note(3, view_of(key, (size_t)n), i, 10000 + i);
        if (i % 100 == 0)
            assert_int_equal(affinity_find(3, VIEW_LIT("upload-1"), 10000 + i), 1);
    }
    for (uint32_t i = 1; i <= 300000; i++) {
        int n = snprintf(key, sizeof(key), "upload-%u", i);
        uint32_t got = affinity_find(3, view_of(key, (size_t)n), 400000);
        assert_true(got == 0 || got == i);
        kept += got != 0;
    }
    assert_in_range(kept, 60000, 65536);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_longlived),         cmocka_unit_test(test_grpc),
        cmocka_unit_test(test_docker_streams),    cmocka_unit_test(test_affinity_keys),
        cmocka_unit_test(test_registry),          cmocka_unit_test(test_memory),
        cmocka_unit_test(test_memory_is_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
