/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "check.h"
#include "dataplane/registry/json_scan.h"
#include "dataplane/registry/manifest_json.h"
#include "guarded.h"

#define HEX64    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define DIGEST   "sha256:" HEX64
#define DESC     "{\"mediaType\":\"application/x\",\"digest\":\"" DIGEST "\",\"size\":7}"
#define IMAGE    "application/vnd.oci.image.manifest.v1+json"
#define INDEX    "application/vnd.oci.image.index.v1+json"
#define ARTIFACT "application/vnd.oci.artifact.manifest.v1+json"
#define DOCKER   "application/vnd.docker.distribution.manifest.v2+json"
#define LIST     "application/vnd.docker.distribution.manifest.list.v2+json"
#define MINIMAL  "{\"schemaVersion\":2,\"config\":" DESC ",\"layers\":[]}"

struct shown {
    unsigned count;
    struct manifest_ref last;
    char type[64];
    unsigned by_place[4];
};

static void show(void *ctx, const struct manifest_ref *ref)
{
    struct shown *s = ctx;
    s->count++;
    s->by_place[ref->place]++;
    s->last = *ref;
    (void)snprintf(s->type, sizeof(s->type), "%.*s", (int)ref->media_type.len, ref->media_type.p);
}

/* The text stands at the end of a page, so that a read behind it faults. */
static int read_text(const char *text, const char *content_type, struct manifest *m, struct shown *s)
{
    static struct guarded g;
    if (!g.end)
        g = guarded_new(1 << 20);
    size_t len = strlen(text);
    const char *copy = guarded_copy(&g, text, len);
    memset(s, 0, sizeof(*s));
    int err = manifest_read(copy, len, show, s, m);
    return err ? err : manifest_judge(m, content_type ? view_of_str(content_type) : (struct view){0});
}

static void test_image(void **state)
{
    (void)state;
    struct manifest m;
    struct shown s;
    const char *text =
        "{\n \"schemaVersion\": 2, \"mediaType\": \"" IMAGE "\",\n"
        " \"config\": {\"mediaType\":\"application/c\",\"size\":2,\"digest\":\"" DIGEST "\"},\n"
        " \"layers\": [" DESC ", " DESC "],\n"
        " \"subject\": " DESC ",\n"
        " \"annotations\": { \"a\" : \"b\\n\", \"\\u00e4\":\"ä\"},\n"
        " \"custom\": [1, -2.5e+3, true, false, null, {\"x\": {}}, [], \"\"] }\n";
    assert_int_equal(read_text(text, IMAGE "; charset=utf-8", &m, &s), 0);
    assert_int_equal(m.kind, MANIFEST_IMAGE);
    assert_int_equal(m.refs, 3);
    assert_int_equal(s.by_place[MANIFEST_CONFIG], 1);
    assert_int_equal(s.by_place[MANIFEST_LAYER], 2);
    assert_int_equal(s.last.size, 7);
    assert_string_equal(s.type, "application/x");
    assert_true(m.has_subject);
    assert_true(view_lit(m.annotations, "{ \"a\" : \"b\\n\", \"\\u00e4\":\"ä\"}"));
    assert_true(view_lit(view_of(m.media_type.text, m.media_type.len), IMAGE));
    /* Without an artifactType of its own an image has its config's media type. */
    assert_true(view_lit(view_of(m.artifact_type.text, m.artifact_type.len), "application/c"));
}

static void test_index(void **state)
{
    (void)state;
    struct manifest m;
    struct shown s;
    const char *text = "{\"schemaVersion\":2,\"manifests\":[{\"mediaType\":\"" IMAGE "\",\"digest\":\"" DIGEST
                       "\",\"size\":1,\"platform\":{\"os\":\"linux\"},\"urls\":[],\"data\":\"\","
                       "\"annotations\":{\"x\":\"y\"}}],\"artifactType\":\"a/b\"}";
    assert_int_equal(read_text(text, NULL, &m, &s), 0);
    assert_int_equal(m.kind, MANIFEST_INDEX);
    assert_int_equal(s.by_place[MANIFEST_CHILD], 1);
    assert_true(view_lit(view_of(m.media_type.text, m.media_type.len), INDEX));
    assert_true(view_lit(view_of(m.artifact_type.text, m.artifact_type.len), "a/b"));
    assert_int_equal(read_text("{\"schemaVersion\":2,\"manifests\":null}", LIST, &m, &s), 0);
    assert_int_equal(m.kind, MANIFEST_INDEX);
    assert_int_equal(read_text("{\"schemaVersion\":2,\"manifests\":[],\"subject\":null}", INDEX, &m, &s), 0);
    assert_false(m.has_subject);
}

static void test_others(void **state)
{
    (void)state;
    struct manifest m;
    struct shown s;
    assert_int_equal(read_text(MINIMAL, DOCKER, &m, &s), 0);
    assert_int_equal(read_text(MINIMAL, NULL, &m, &s), 0);
    assert_int_equal(m.kind, MANIFEST_IMAGE);
    assert_int_equal(read_text("{\"mediaType\":\"" ARTIFACT "\",\"artifactType\":\"a/b\",\"blobs\":[" DESC
                               "]}",
                               NULL, &m, &s),
                     0);
    assert_int_equal(m.kind, MANIFEST_ARTIFACT);
    assert_int_equal(s.by_place[MANIFEST_BLOB], 1);
    /* Escapes in keys and values are the characters they stand for. */
    assert_int_equal(read_text("{\"schema\\u0056ersion\":2,\"c\\u006fnfig\":{\"digest\":\"sha256\\u003a" HEX64
                               "\",\"size\":1,\"mediaType\":\"a\\/b\"},\"layers\":null}",
                               IMAGE, &m, &s),
                     0);
    assert_string_equal(s.type, "a/b");
    assert_int_equal(s.count, 1);
}

struct bad {
    const char *text, *type, *why;
};

static void test_refused(void **state)
{
    (void)state;
    static const struct bad rows[] = {
        {"", NULL, "expected an object"},
        {"[]", NULL, "expected an object"},
        {"{", NULL, "expected a string"},
        {"null", NULL, "expected an object"},
        {"\xef\xbb\xbf" MINIMAL, NULL, "expected an object"},
        {MINIMAL "x", NULL, "something follows the end of the document"},
        {MINIMAL MINIMAL, NULL, "something follows the end of the document"},
        {"{\"a\":1,}", NULL, "expected a string"},
        {"{\"a\" 1}", NULL, "expected a colon after a key"},
        {"{\"a\":1 \"b\":2}", NULL, "expected a comma or the end of the object"},
        {"{\"a\":[1 2]}", NULL, "expected a comma or the end of the array"},
        {"{\"a\":[1,]}", NULL, "expected a value"},
        {"{\"a\":01}", NULL, "expected a comma or the end of the object"},
        {"{\"a\":1.}", NULL, "a broken number"},
        {"{\"a\":1e}", NULL, "a broken number"},
        {"{\"a\":-}", NULL, "expected a value"},
        {"{\"a\":NaN}", NULL, "expected a value"},
        {"{\"a\":'x'}", NULL, "expected a value"},
        {"{\"a\":tru}", NULL, "expected a value"},
        {"{\"a\":\"x", NULL, "the text ends inside a string"},
        {"{\"a\":\"\t\"}", NULL, "a control character in a string"},
        {"{\"a\":\"\\x\"}", NULL, "a broken escape in a string"},
        {"{\"a\":\"\\u12g4\"}", NULL, "a broken escape in a string"},
        {"{\"a\":\"\\ud800\"}", NULL, "a broken escape in a string"},
        {"{\"a\":\"\\udc00\\ud800\"}", NULL, "a broken escape in a string"},
        {"{\"a\":\"\xff\"}", NULL, "a string is not UTF-8"},
        {"{\"a\":\"\xc0\xaf\"}", NULL, "a string is not UTF-8"},
        {"{\"a\":\"\xed\xa0\x80\"}", NULL, "a string is not UTF-8"},
        {"{\"a\":\"\xf4\x90\x80\x80\"}", NULL, "a string is not UTF-8"},
        {"{\"schemaVersion\":\"2\"}", NULL, "expected a whole number that is not negative"},
        {"{\"schemaVersion\":2.0}", NULL, "expected a whole number that is not negative"},
        {"{\"schemaVersion\":-2}", NULL, "expected a whole number that is not negative"},
        {"{\"schemaVersion\":99999999999999999999}", NULL, "a number is too large"},
        {"{\"mediaType\":7}", NULL, "expected a string"},
        {"{\"mediaType\":\"a b\"}", NULL, "a media type has a character that no media type has"},
        {"{\"config\":[]}", NULL, "expected an object"},
        {"{\"config\":{}}", NULL, "a descriptor has no digest or no size"},
        {"{\"config\":{\"digest\":\"sha256:x\"}}", NULL, "a digest is malformed"},
        {"{\"config\":{\"digest\":\"sha384:00\"}}", NULL,
         "a digest is of an algorithm other than sha256 and sha512"},
        {"{\"config\":{\"digest\":\"" DIGEST "\",\"size\":-1}}", NULL,
         "expected a whole number that is not negative"},
        {"{\"config\":{\"size\":9223372036854775808}}", NULL, "a number is too large"},
        {"{\"layers\":{}}", NULL, "expected an array"},
        {"{\"layers\":[null]}", NULL, "expected an object"},
        {"{\"annotations\":{\"a\":1}}", NULL, "expected a string"},
        {"{\"annotations\":[]}", NULL, "expected an object"},
        {"{\"config\":{\"urls\":\"x\"}}", NULL, "urls is not an array"},
        {"{\"config\":{\"data\":[]}}", NULL, "data is not a string"},
        {"{\"config\":{\"platform\":7}}", NULL, "annotations or platform is not an object"},
        /* What two readers could see differently. */
        {"{\"config\":" DESC ",\"config\":" DESC "}", NULL, "a key stands twice"},
        {"{\"config\":null,\"config\":" DESC "}", NULL, "a key stands twice"},
        {"{\"config\":" DESC ",\"c\\u006fnfig\":null}", NULL, "a key stands twice"},
        {"{\"config\":{\"size\":1,\"size\":1}}", NULL, "a key stands twice"},
        {"{\"Config\":" DESC "}", NULL, "a key differs from a known one only in the case of its letters"},
        {"{\"layerſ\":[]}", NULL, "a key differs from a known one only in the case of its letters"},
        {"{\"config\":{\"DIGEST\":\"\"}}", NULL,
         "a key differs from a known one only in the case of its letters"},
        {"{\"schemaVersion\":2,\"config\":" DESC ",\"layers\":[],\"manifests\":[]}", IMAGE,
         "an image manifest may not have manifests or blobs"},
        {"{\"schemaVersion\":2,\"config\":" DESC ",\"manifests\":[]}", INDEX,
         "an index may not have config, layers or blobs"},
        {"{\"artifactType\":\"a/b\",\"blobs\":[],\"layers\":[]}", ARTIFACT,
         "an artifact manifest may not have config, layers or manifests"},
        /* What a kind must have. */
        {"{\"schemaVersion\":2,\"layers\":[]}", IMAGE, "an image manifest must have a config"},
        {"{\"blobs\":[]}", ARTIFACT, "an artifact manifest must have an artifactType"},
        {"{\"manifests\":[]}", INDEX, "schemaVersion must be 2"},
        {"{\"schemaVersion\":3,\"manifests\":[]}", INDEX, "schemaVersion must be 2"},
        {"{\"schemaVersion\":1,\"name\":\"x\"}", NULL,
         "Docker's manifest schema 1 is not taken: push it with a newer client"},
        {"{\"schemaVersion\":2,\"fsLayers\":[]}", NULL,
         "Docker's manifest schema 1 is not taken: push it with a newer client"},
        {"{\"schemaVersion\":2}", NULL,
         "neither Content-Type nor mediaType says what kind of manifest it is"},
        {MINIMAL, "application/json", "this media type is not known as one of manifests"},
        {"{\"schemaVersion\":2,\"mediaType\":\"" IMAGE "\",\"config\":" DESC "}", DOCKER,
         "Content-Type and the manifest's mediaType do not agree"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct manifest m;
        struct shown s;
        if (read_text(rows[i].text, rows[i].type, &m, &s) != -EINVAL || strcmp(m.why, rows[i].why) != 0)
            fail_msg("%s: %s", rows[i].text, m.why ? m.why : "taken");
        assert_true(m.why_at <= strlen(rows[i].text));
    }
}

/* Every prefix of a manifest is refused, and none is read past. */
static void test_prefixes(void **state)
{
    (void)state;
    static const char text[] =
        "{\"schemaVersion\":2,\"mediaType\":\"" IMAGE "\",\"config\":" DESC ",\"layers\":[" DESC
        "],\"annotations\":{\"\\u00e4\":\"\xc3\xa4\\ud83d\\ude00\"},"
        "\"x\":[true,false,null,1.5e-7,{\"y\":[]}]}";
    struct guarded g = guarded_new(sizeof(text));
    struct manifest m;
    for (size_t len = 0; len < sizeof(text) - 1; len++)
        assert_int_equal(manifest_read(guarded_copy(&g, text, len), len, NULL, NULL, &m), -EINVAL);
    assert_int_equal(
        manifest_read(guarded_copy(&g, text, sizeof(text) - 1), sizeof(text) - 1, NULL, NULL, &m), 0);
}

static char *repeat(const char *head, const char *item, const char *tail, unsigned n)
{
    size_t len = strlen(head) + n * strlen(item) + strlen(tail);
    char *text = malloc(len + 1), *p = text;
    CHECK(text);
    p = stpcpy(p, head);
    for (unsigned i = 0; i < n; i++)
        p = stpcpy(p, item);
    stpcpy(p, tail);
    return text;
}

static int read_len(char *text, struct manifest *m)
{
    int err = manifest_read(text, strlen(text), NULL, NULL, m);
    free(text);
    return err;
}

static void test_bounds(void **state)
{
    (void)state;
    struct manifest m;
    /* Depth: the document is one level, unknown values have SCAN_DEPTH_MAX more. */
    assert_int_equal(read_len(repeat("{\"x\":", "[", "", 1000000), &m), -EINVAL);
    assert_string_equal(m.why, "nested too deeply");
    assert_int_equal(read_len(repeat("{\"x\":", "{\"a\":", "", SCAN_DEPTH_MAX + 1), &m), -EINVAL);
    assert_string_equal(m.why, "nested too deeply");
    char *open = repeat("{\"x\":", "[", "", SCAN_DEPTH_MAX), *deep = repeat(open, "]", "}", SCAN_DEPTH_MAX);
    free(open);
    assert_int_equal(read_len(deep, &m), 0);
    /* Descriptors. */
    assert_int_equal(read_len(repeat("{\"layers\":[" DESC, "," DESC, "]}", MANIFEST_REFS_MAX - 1), &m), 0);
    assert_int_equal(m.refs, MANIFEST_REFS_MAX);
    assert_int_equal(read_len(repeat("{\"layers\":[" DESC, "," DESC, "]}", MANIFEST_REFS_MAX), &m), -EINVAL);
    assert_string_equal(m.why, "too many descriptors");
    /* Types. */
    assert_int_equal(read_len(repeat("{\"artifactType\":\"", "a", "\"}", MEDIA_TYPE_MAX), &m), 0);
    assert_int_equal(read_len(repeat("{\"artifactType\":\"", "a", "\"}", MEDIA_TYPE_MAX + 1), &m), -EINVAL);
    /* Keys of any length, with escapes too. */
    assert_int_equal(read_len(repeat("{\"", "\\u0061", "\":1}", 100000), &m), 0);
}

static void test_types(void **state)
{
    (void)state;
    assert_int_equal(manifest_kind_of(VIEW_LIT(LIST)), MANIFEST_INDEX);
    assert_int_equal(manifest_kind_of(VIEW_LIT("application/json")), MANIFEST_OTHER);
    assert_true(
        manifest_type_foreign(VIEW_LIT("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip")));
    assert_true(manifest_type_foreign(VIEW_LIT("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")));
    assert_false(manifest_type_foreign(VIEW_LIT("application/vnd.oci.image.layer.v1.tar+gzip")));
    assert_false(manifest_type_foreign((struct view){"", 0}));
}

/* Strings at every alignment, so that no position in a word is treated in another way. */
static void test_string_alignments(void **state)
{
    (void)state;
    static const char *const stops[] = {"\"", "\\n", "\x01", "\xc3\xa4", "\xff"};
    struct guarded g = guarded_new(256);
    for (unsigned pad = 0; pad < 24; pad++) {
        for (unsigned k = 0; k < ARRAY_SIZE(stops); k++) {
            char text[128];
            int len = snprintf(text, sizeof(text), "\"%.*s%s%s", (int)pad, "abcdefghijklmnopqrstuvwxyz",
                               stops[k], k == 0 ? "" : "tail\"");
            struct scan j = scan_of(guarded_copy(&g, text, (size_t)len), (size_t)len);
            struct scan_string s;
            bool good = k == 0 || k == 1 || k == 3;
            assert_int_equal(scan_string(&j, &s), good);
            if (good)
                assert_int_equal(s.raw.len, (size_t)len - 2);
            else
                assert_int_equal(j.p - j.begin, 1 + pad);
        }
    }
}

static void test_decode(void **state)
{
    (void)state;
    static const char text[] = "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0041\\u00e4\\u20ac\\ud83d\\ude00\"";
    char out[64];
    struct scan j = scan_of(text, sizeof(text) - 1);
    struct scan_string s;
    assert_true(scan_string(&j, &s));
    static const char expected[] = "\"\\/\b\f\n\r\tA\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80";
    long len = scan_decode(&s, out, sizeof(out));
    assert_int_equal(len, sizeof(expected) - 1);
    assert_memory_equal(out, expected, sizeof(expected) - 1);
    assert_int_equal(scan_decode(&s, out, sizeof(expected) - 1), sizeof(expected) - 1);
    assert_int_equal(scan_decode(&s, out, sizeof(expected) - 2), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_image),    cmocka_unit_test(test_index),
        cmocka_unit_test(test_others),   cmocka_unit_test(test_refused),
        cmocka_unit_test(test_prefixes), cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_types),    cmocka_unit_test(test_string_alignments),
        cmocka_unit_test(test_decode),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
