/* SPDX-License-Identifier: Apache-2.0 */
/* What mirroring understands of another registry's words: names, URLs, lists, manifests. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "check.h"
#include "control/mirror/document.h"
#include "control/mirror/name.h"
#include "control/mirror/url.h"

#define HEX "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define SHA "sha256:" HEX

static void test_names(void **state)
{
    static const char *const good[] = {"a", "team/app", "a.b_c__d-e---f/0"};
    static const char *const bad[] = {"",      "/a",   "a/",     "a//b", "A",  "a..b",
                                      "a___b", "../a", "a/../b", "-a",   "a-", "a?b"};
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(good); i++)
        assert_true(name_repo_valid(good[i]));
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_false(name_repo_valid(bad[i]));
    assert_true(name_tag_valid("v1.0_X-y"));
    assert_false(name_tag_valid(".hidden"));
    assert_false(name_tag_valid(""));
    assert_false(name_tag_valid("a/b"));
    assert_true(name_digest_valid(SHA));
    assert_false(name_digest_valid("sha256:" HEX "0"));
    assert_false(name_digest_valid("sha512:" HEX));
    assert_false(name_digest_valid("md5:00"));
}

static void test_names_on_the_other_side(void **state)
{
    char out[REPO_NAME_MAX + 1], long_one[REPO_NAME_MAX + 1];
    (void)state;
    assert_true(name_map("", "", "team/app", out));
    assert_string_equal(out, "team/app");
    assert_true(name_map("", "copies", "team/app", out));
    assert_string_equal(out, "copies/team/app");
    assert_true(name_map("team", "copies", "team/app", out));
    assert_string_equal(out, "copies/app");
    assert_true(name_map("team", "", "teams/app", out)); /* another component */
    assert_string_equal(out, "teams/app");
    assert_true(name_map("team/app", "copy", "team/app", out));
    assert_string_equal(out, "copy");
    assert_false(name_map("team/app", "", "team/app", out));
    memset(long_one, 'a', REPO_NAME_MAX);
    long_one[REPO_NAME_MAX] = '\0';
    assert_false(name_map("", "b", long_one, out));
    assert_true(name_list_plain("a,b/c"));
    assert_false(name_list_plain("a,b/*"));
}

static void test_filters(void **state)
{
    struct name_filter f;
    bool exact;
    char tag[TAG_NAME_MAX + 1];
    (void)state;
    assert_int_equal(name_filter_init(&f, "v*,!*-rc?,latest"), 0);
    assert_true(name_filter_matches(&f, "v1"));
    assert_false(name_filter_matches(&f, "v1-rc2"));
    assert_true(name_filter_matches(&f, "latest"));
    assert_false(name_filter_matches(&f, "main"));
    name_filter_fini(&f);
    assert_int_equal(name_filter_init(&f, "~^v[0-9]+$"), 0);
    assert_true(name_filter_matches(&f, "v12"));
    assert_false(name_filter_matches(&f, "v12a"));
    name_filter_fini(&f);
    assert_int_equal(name_filter_init(&f, "~("), -EINVAL);
    assert_true(name_tag_refers("sha256-" HEX, &exact) && exact);
    assert_true(name_tag_refers("sha256-" HEX ".sig", &exact) && !exact);
    assert_false(name_tag_refers("sha256-" HEX ".exe", &exact));
    assert_false(name_tag_refers("sha256-0123.sig", &exact));
    assert_true(name_referrers_tag(SHA, tag));
    assert_string_equal(tag, "sha256-" HEX);
}

static void test_urls(void **state)
{
    char out[URL_ROOM];
    (void)state;
    assert_true(url_same_origin("https://a.example/x", "https://A.example:443"));
    assert_true(url_same_origin("http://[::1]:80/", "http://[::1]/y"));
    assert_false(url_same_origin("https://a.example", "http://a.example"));
    assert_false(url_same_origin("https://a.example", "https://a.example:444"));
    assert_false(url_same_origin("https://a.example", "https://a.example.evil"));
    assert_false(url_same_origin("https://a.example", "https://a.example@evil/"));
    assert_false(url_same_origin("https://a.example", "https://a.example\\@evil/"));
    assert_true(url_resolve("http://h:1/v2/_catalog?n=2", "/v2/_catalog?last=b&n=2", out));
    assert_string_equal(out, "http://h:1/v2/_catalog?last=b&n=2");
    assert_true(url_resolve("http://h:1/v2/_catalog?n=2", "?last=b", out));
    assert_string_equal(out, "http://h:1/v2/_catalog?last=b");
    assert_true(url_resolve("http://h:1/x", "https://other/y", out));
    assert_string_equal(out, "https://other/y");
    assert_false(url_resolve("http://h:1/x", "//other/y", out));
    assert_false(url_resolve("http://h:1/x", "file:///etc/passwd", out));
    assert_false(url_resolve("http://h:1/x", "/a b", out));
    assert_true(url_next("</v2/a?x=1>; rel=\"prev\", </v2/a?x=2>; rel=\"next\"", out));
    assert_string_equal(out, "/v2/a?x=2");
    assert_false(url_next("</v2/a>; rel=\"prev\"", out));
    assert_false(url_next("</v2/a", out));
    assert_false(url_next("", out));
    snprintf(out, sizeof(out), "http://h/u?_state=1");
    assert_true(url_add(out, "digest", SHA));
    assert_string_equal(out, "http://h/u?_state=1&digest=sha256%3A" HEX);
}

struct found {
    char names[8][64];
    size_t count;
};

static bool on_name(void *arg, const char *name)
{
    struct found *f = arg;
    snprintf(f->names[f->count++], 64, "%s", name);
    return f->count < 8;
}

static int names_of(const char *text, struct found *f)
{
    f->count = 0;
    return document_names(text, strlen(text), "tags", name_tag_valid, on_name, f);
}

static void test_lists(void **state)
{
    struct found f;
    (void)state;
    assert_int_equal(names_of("{\"name\":\"a\",\"tags\":[\"v1\",7,\"../x\",\"v2\"]}", &f), 4);
    assert_int_equal(f.count, 2);
    assert_string_equal(f.names[1], "v2");
    assert_int_equal(names_of("{\"tags\":null}", &f), 0);
    assert_int_equal(names_of("{}", &f), -EINVAL);
    assert_int_equal(names_of("[]", &f), -EINVAL);
    assert_int_equal(names_of("{\"tags\":[", &f), -EINVAL);
}

static int read_text(const char *text, struct document *d)
{
    return document_read(text, strlen(text), "application/x", d);
}

static void test_manifests(void **state)
{
    struct document d;
    (void)state;
    assert_int_equal(
        read_text("{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\","
                  "\"config\":{\"digest\":\"" SHA "\",\"size\":2},\"layers\":[{\"digest\":\"" SHA
                  "\",\"size\":5,\"mediaType\":\"application/vnd.docker.image.rootfs.foreign.diff\"}]}",
                  &d),
        0);
    assert_int_equal(d.count, 2);
    assert_false(d.index);
    assert_int_equal(d.refs[0].size, 2);
    assert_true(d.refs[1].elsewhere);
    assert_string_equal(d.type, "application/vnd.oci.image.manifest.v1+json");
    document_fini(&d);
    assert_int_equal(
        read_text("{\"schemaVersion\":2,\"manifests\":[{\"digest\":\"" SHA "\",\"size\":5}]}", &d), 0);
    assert_true(d.index && d.count == 1 && d.refs[0].manifest);
    assert_string_equal(d.type, "application/x");
    document_fini(&d);
    assert_int_equal(read_text("{\"schemaVersion\":1,\"fsLayers\":[]}", &d), -ENOTSUP);
    assert_int_equal(read_text("{\"schemaVersion\":2}", &d), -EINVAL);
    assert_int_equal(read_text("{\"config\":{\"digest\":\"" SHA "\",\"size\":-1}}", &d), -EINVAL);
    assert_int_equal(read_text("{\"config\":{\"digest\":\"sha256:../x\",\"size\":1}}", &d), -EINVAL);
    assert_int_equal(read_text("{\"layers\":{}}", &d), -EINVAL);
    assert_int_equal(read_text("{\"manifests\":[1]}", &d), -EINVAL);
    assert_int_equal(read_text("", &d), -EINVAL);
}

static void test_too_many(void **state)
{
    struct document d;
    size_t cap = (DOCUMENT_REFS_MAX + 2) * 128, len = 0;
    char *text = malloc(cap);
    (void)state;
    len += (size_t)snprintf(text, cap, "{\"manifests\":[");
    for (int i = 0; i <= DOCUMENT_REFS_MAX; i++)
        len += (size_t)snprintf(text + len, cap - len, "%s{\"digest\":\"" SHA "\",\"size\":5}", i ? "," : "");
    snprintf(text + len, cap - len, "]}");
    assert_int_equal(read_text(text, &d), -E2BIG);
    free(text);
}

static void test_referrers(void **state)
{
    static const char one[] =
        "{\"manifests\":[{\"digest\":\"" SHA "\",\"size\":5,\"artifactType\":\"a/b\"},{\"digest\":1}]}";
    bool more;
    (void)state;
    json_t *list = document_referrers(one, strlen(one));
    assert_int_equal(json_array_size(list), 1);
    char *text = document_referrers_merge(NULL, list, &more);
    assert_true(more);
    json_t *again = document_referrers(text, strlen(text));
    assert_int_equal(json_array_size(again), 1);
    assert_string_equal(json_string_value(json_object_get(json_array_get(again, 0), "artifactType")), "a/b");
    free(text);
    text = document_referrers_merge(again, list, &more);
    assert_false(more);
    free(text);
    assert_null(document_referrers("{}", 2));
    json_decref(list);
    json_decref(again);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),    cmocka_unit_test(test_names_on_the_other_side),
        cmocka_unit_test(test_filters),  cmocka_unit_test(test_urls),
        cmocka_unit_test(test_lists),    cmocka_unit_test(test_manifests),
        cmocka_unit_test(test_too_many), cmocka_unit_test(test_referrers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
