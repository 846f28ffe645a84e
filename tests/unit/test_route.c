/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "check.h"
#include "dataplane/registry/route.h"

#define HEX64  "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define SHA256 "sha256:" HEX64
#define SHA512 "sha512:" HEX64 HEX64

static char scratch[8192];

static enum route_result read_path(enum http_method method, const char *path, struct route *r)
{
    return route_read(method, view_of_str(path), scratch, sizeof(scratch), r);
}

struct row {
    const char *path;
    enum http_method method;
    enum route_result result;
    enum route_endpoint endpoint;
    const char *repo, *reference;
};

static void check_row(const struct row *row)
{
    struct route r;
    enum route_result result = read_path(row->method, row->path, &r);
    if (result != row->result)
        fail_msg("%s: result %d, not %d", row->path, (int)result, (int)row->result);
    if (result == ROUTE_UNKNOWN || !row->repo)
        return;
    if (r.endpoint != row->endpoint || !view_eq(r.repo, view_of_str(row->repo)) ||
        !view_eq(r.reference, view_of_str(row->reference)))
        fail_msg("%s: endpoint %d, repo %.*s, reference %.*s", row->path, (int)r.endpoint, (int)r.repo.len,
                 r.repo.p, (int)r.reference.len, r.reference.p);
}

static void test_paths(void **state)
{
    (void)state;
    static const struct row rows[] = {
        {"/v2/", HTTP_GET, ROUTE_OK, ROUTE_BASE, NULL, NULL},
        {"/v2", HTTP_GET, ROUTE_OK, ROUTE_BASE, NULL, NULL},
        {"/v2/_catalog", HTTP_GET, ROUTE_OK, ROUTE_CATALOG, NULL, NULL},
        {"/v2/a/blobs/" SHA256, HTTP_GET, ROUTE_OK, ROUTE_BLOB, "a", SHA256},
        {"/v2/a/b/c/blobs/" SHA512, HTTP_HEAD, ROUTE_OK, ROUTE_BLOB, "a/b/c", SHA512},
        {"/v2/a/blobs/uploads/", HTTP_POST, ROUTE_OK, ROUTE_UPLOADS, "a", ""},
        {"/v2/a/blobs/uploads", HTTP_POST, ROUTE_OK, ROUTE_UPLOADS, "a", "uploads"},
        {"/v2/a/blobs/uploads/x", HTTP_PATCH, ROUTE_OK, ROUTE_UPLOAD, "a", "x"},
        {"/v2/a/manifests/latest", HTTP_GET, ROUTE_OK, ROUTE_MANIFEST, "a", "latest"},
        {"/v2/a/manifests/" SHA256, HTTP_PUT, ROUTE_OK, ROUTE_MANIFEST, "a", SHA256},
        {"/v2/a/tags/list", HTTP_GET, ROUTE_OK, ROUTE_TAGS, "a", "list"},
        {"/v2/a/referrers/" SHA256, HTTP_GET, ROUTE_OK, ROUTE_REFERRERS, "a", SHA256},
        /* Names made of the words of the API. */
        {"/v2/blobs/blobs/" SHA256, HTTP_GET, ROUTE_OK, ROUTE_BLOB, "blobs", SHA256},
        {"/v2/blobs/uploads/blobs/uploads/", HTTP_POST, ROUTE_OK, ROUTE_UPLOADS, "blobs/uploads", ""},
        {"/v2/a/blobs/uploads/manifests/x", HTTP_GET, ROUTE_OK, ROUTE_MANIFEST, "a/blobs/uploads", "x"},
        {"/v2/a/manifests/tags/list", HTTP_GET, ROUTE_OK, ROUTE_TAGS, "a/manifests", "list"},
        {"/v2/tags/list/tags/list", HTTP_GET, ROUTE_OK, ROUTE_TAGS, "tags/list", "list"},
        {"/v2/manifests/manifests/manifests", HTTP_GET, ROUTE_OK, ROUTE_MANIFEST, "manifests", "manifests"},
        {"/v2/a/blobs/uploads/manifests", HTTP_PATCH, ROUTE_OK, ROUTE_UPLOAD, "a", "manifests"},
        {"/v2/v2/tags/list", HTTP_GET, ROUTE_OK, ROUTE_TAGS, "v2", "list"},
        /* Escapes. */
        {"/v2/a/blobs/sha256%3A" HEX64, HTTP_GET, ROUTE_OK, ROUTE_BLOB, "a", SHA256},
        {"/v2/%61%2Db/manifests/l%61test", HTTP_GET, ROUTE_OK, ROUTE_MANIFEST, "a-b", "latest"},
        {"/v2/a%2Fb/manifests/x", HTTP_GET, ROUTE_NAME_INVALID, 0, NULL, NULL},
        {"/v2/a%2fb/manifests/x", HTTP_GET, ROUTE_NAME_INVALID, 0, NULL, NULL},
        {"/v2/a/manifests/x%00", HTTP_GET, ROUTE_NAME_INVALID, 0, NULL, NULL},
        {"/v2/a/manifests/x%", HTTP_GET, ROUTE_NAME_INVALID, 0, NULL, NULL},
        {"/v2/a/manifests/x%4", HTTP_GET, ROUTE_NAME_INVALID, 0, NULL, NULL},
        {"/v2/a/manifests/x%zz", HTTP_GET, ROUTE_NAME_INVALID, 0, NULL, NULL},
        {"/v2/a/manifests/%2541", HTTP_GET, ROUTE_TAG_INVALID, ROUTE_MANIFEST, "a", "%41"},
        /* No such path. */
        {"/", HTTP_GET, ROUTE_UNKNOWN, 0, NULL, NULL},
        {"/v1/", HTTP_GET, ROUTE_UNKNOWN, 0, NULL, NULL},
        {"*", HTTP_OPTIONS, ROUTE_UNKNOWN, 0, NULL, NULL},
        {"/v2//", HTTP_GET, ROUTE_UNKNOWN, 0, NULL, NULL},
        {"/v2/a", HTTP_GET, ROUTE_UNKNOWN, 0, NULL, NULL},
        {"/v2/a/", HTTP_GET, ROUTE_UNKNOWN, 0, NULL, NULL},
        {"/v2/a/nothing/x", HTTP_GET, ROUTE_UNKNOWN, 0, NULL, NULL},
        {"/v2/a/manifests/", HTTP_GET, ROUTE_UNKNOWN, 0, NULL, NULL},
        {"/v2/a/blobs/", HTTP_GET, ROUTE_UNKNOWN, 0, NULL, NULL},
        {"/v2/a/referrers/", HTTP_GET, ROUTE_UNKNOWN, 0, NULL, NULL},
        {"/v2/a/tags/lists", HTTP_GET, ROUTE_UNKNOWN, 0, NULL, NULL},
        {"/v2/a/tags/list/", HTTP_GET, ROUTE_UNKNOWN, 0, NULL, NULL},
        {"/v2/manifests/x", HTTP_GET, ROUTE_UNKNOWN, 0, NULL, NULL},
        {"/v2/blobs/uploads/", HTTP_POST, ROUTE_UNKNOWN, 0, NULL, NULL},
        {"/v2/a/uploads/x", HTTP_GET, ROUTE_UNKNOWN, 0, NULL, NULL},
        {"/v2/tags/list", HTTP_GET, ROUTE_UNKNOWN, 0, NULL, NULL},
        /* Names, tags and digests that are none. */
        {"/v2/A/manifests/x", HTTP_GET, ROUTE_NAME_INVALID, ROUTE_MANIFEST, "A", "x"},
        {"/v2//a/manifests/x", HTTP_GET, ROUTE_NAME_INVALID, ROUTE_MANIFEST, "/a", "x"},
        {"/v2/a//manifests/x", HTTP_GET, ROUTE_NAME_INVALID, ROUTE_MANIFEST, "a/", "x"},
        {"/v2/../manifests/x", HTTP_GET, ROUTE_NAME_INVALID, ROUTE_MANIFEST, "..", "x"},
        {"/v2/a/manifests/.x", HTTP_GET, ROUTE_TAG_INVALID, ROUTE_MANIFEST, "a", ".x"},
        {"/v2/a/manifests/sha256:bad", HTTP_GET, ROUTE_DIGEST_INVALID, ROUTE_MANIFEST, "a", "sha256:bad"},
        {"/v2/a/manifests/sha384:00", HTTP_GET, ROUTE_DIGEST_ALGORITHM, ROUTE_MANIFEST, "a", "sha384:00"},
        {"/v2/a/blobs/x", HTTP_GET, ROUTE_DIGEST_INVALID, ROUTE_BLOB, "a", "x"},
        {"/v2/a/blobs/" SHA256 "0", HTTP_GET, ROUTE_DIGEST_INVALID, ROUTE_BLOB, "a", SHA256 "0"},
        {"/v2/a/referrers/tag", HTTP_GET, ROUTE_DIGEST_INVALID, ROUTE_REFERRERS, "a", "tag"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        check_row(&rows[i]);
}

/* Every endpoint takes exactly the methods of its Allow. */
static void test_methods(void **state)
{
    (void)state;
    static const char *const paths[ROUTE_ENDPOINTS_COUNT] = {
        [ROUTE_BASE] = "/v2/",
        [ROUTE_CATALOG] = "/v2/_catalog",
        [ROUTE_BLOB] = "/v2/a/blobs/" SHA256,
        [ROUTE_UPLOADS] = "/v2/a/blobs/uploads/",
        [ROUTE_UPLOAD] = "/v2/a/blobs/uploads/x",
        [ROUTE_MANIFEST] = "/v2/a/manifests/x",
        [ROUTE_TAGS] = "/v2/a/tags/list",
        [ROUTE_REFERRERS] = "/v2/a/referrers/" SHA256,
    };
    for (unsigned e = 0; e < ROUTE_ENDPOINTS_COUNT; e++) {
        for (unsigned m = HTTP_GET; m <= HTTP_OTHER; m++) {
            struct route r;
            struct view list = view_of_str(route_allow((enum route_endpoint)e)), item;
            bool allowed = false;
            while (view_next_item(&list, &item))
                allowed = allowed || view_eq(item, view_of_str(http_method_name((enum http_method)m)));
            enum route_result result = read_path((enum http_method)m, paths[e], &r);
            assert_int_equal(r.endpoint, e);
            assert_int_equal(result, allowed ? ROUTE_OK : ROUTE_METHOD);
        }
    }
}

static void test_digest_of_route(void **state)
{
    (void)state;
    struct route r;
    assert_int_equal(read_path(HTTP_GET, "/v2/a/manifests/" SHA512, &r), ROUTE_OK);
    assert_true(r.by_digest);
    assert_int_equal(r.digest.alg, DIGEST_SHA512);
    assert_int_equal(r.digest.bytes[1], 0x23);
    assert_int_equal(read_path(HTTP_GET, "/v2/a/manifests/x", &r), ROUTE_OK);
    assert_false(r.by_digest);
}

static void test_names(void **state)
{
    (void)state;
    static const char *const good[] = {"a",   "0",     "a/b",     "a.b",   "a_b",         "a__b",
                                       "a-b", "a---b", "a/b/c/d", "a-b.c", "a0_1__2-3.4", "v2/_catalog0"};
    static const char *const bad[] = {"",     "/",     "a/",   "/a",   "a//b", ".a",   "a.",
                                      "a..b", "a___b", "_a",   "a_",   "-a",   "a-",   "A",
                                      "a b",  "a._b",  "a.-b", "a-_b", "a/.b", "a/-b", "a\xc3",
                                      "a:b",  "a@b",   "a\\b", ".",    "..",   "a/..", "a~b"};
    for (size_t i = 0; i < ARRAY_SIZE(good) - 1; i++)
        if (!route_name_valid(view_of_str(good[i])))
            fail_msg("refused: %s", good[i]);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        if (route_name_valid(view_of_str(bad[i])))
            fail_msg("taken: %s", bad[i]);
    assert_false(route_name_valid(view_of_str(good[ARRAY_SIZE(good) - 1])));
    char text[300];
    memset(text, 'a', sizeof(text));
    assert_true(route_name_valid(view_of(text, REPO_NAME_MAX)));
    assert_false(route_name_valid(view_of(text, REPO_NAME_MAX + 1)));
}

static void test_tags(void **state)
{
    (void)state;
    static const char *const good[] = {"a", "A", "_", "0", "1.2.3", "a-b", "_a.b-c", "latest"};
    static const char *const bad[] = {"",    ".",   "-",   ".a",  "-a",      "a/b",
                                      "a:b", "a b", "a@b", "a+b", "\xc3\xa4"};
    char text[200];
    for (size_t i = 0; i < ARRAY_SIZE(good); i++)
        assert_true(route_tag_valid(view_of_str(good[i])));
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_false(route_tag_valid(view_of_str(bad[i])));
    memset(text, 'a', sizeof(text));
    assert_true(route_tag_valid(view_of(text, TAG_NAME_MAX)));
    assert_false(route_tag_valid(view_of(text, TAG_NAME_MAX + 1)));
}

/* Bounds: paths longer than anything that can mean something, and no room to decode. */
static void test_long_paths(void **state)
{
    (void)state;
    static char path[ROUTE_PATH_MAX + 100];
    struct route r;
    memset(path, 'a', sizeof(path));
    memcpy(path, "/v2/", 4);
    assert_int_equal(route_read(HTTP_GET, view_of(path, sizeof(path)), NULL, 0, &r), ROUTE_NAME_INVALID);
    path[1] = 'x';
    assert_int_equal(route_read(HTTP_GET, view_of(path, sizeof(path)), NULL, 0, &r), ROUTE_UNKNOWN);
    assert_int_equal(route_read(HTTP_GET, VIEW_LIT("/v2/%61/manifests/x"), NULL, 0, &r), ROUTE_NAME_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_paths), cmocka_unit_test(test_methods), cmocka_unit_test(test_digest_of_route),
        cmocka_unit_test(test_names), cmocka_unit_test(test_tags),    cmocka_unit_test(test_long_paths),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
