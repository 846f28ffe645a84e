/* SPDX-License-Identifier: Apache-2.0 */
/* Pulling, listing and deleting through the registry's handler. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>
#include <jansson.h>

#include "registry_host.h"

#define IMAGE "application/vnd.oci.image.manifest.v1+json"
#define BLOB  "0123456789abcdefghij"

static struct digest blob_digest, manifest_digest, subject_digest;
static char blob_path[256], manifest_path[256], request[2048];

/* Repository a has a blob, and a manifest with the tag latest. */
static void fill_names(void)
{
    char text[DIGEST_TEXT_MAX + 1];
    store_digest(DIGEST_SHA256, BLOB, strlen(BLOB), &blob_digest);
    store_digest(DIGEST_SHA512, "{manifest}", 10, &manifest_digest);
    subject_digest = test_digest(DIGEST_SHA256, 0x77);
    host_store(&blob_digest, BLOB, strlen(BLOB));
    host_store(&manifest_digest, "{manifest}", 10);
    writer_begin(&host->w);
    writer_repo(&host->w, "a");
    writer_link(&host->w, "a", &blob_digest, strlen(BLOB));
    writer_manifest(&host->w, "a", &manifest_digest, 10, IMAGE, "", NULL);
    writer_tag(&host->w, "a", "latest", &manifest_digest);
    writer_commit(&host->w);
    digest_format(&blob_digest, text);
    (void)snprintf(blob_path, sizeof(blob_path), "/v2/a/blobs/%s", text);
    digest_format(&manifest_digest, text);
    (void)snprintf(manifest_path, sizeof(manifest_path), "/v2/a/manifests/%s", text);
}

static int set_up(void **state)
{
    (void)state;
    host_new();
    fill_names();
    return 0;
}

static int set_up_slow(void **state)
{
    set_up(state);
    host->slow = true;
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    host_free();
    return 0;
}

static int call(const char *method, const char *path, const char *fields)
{
    (void)snprintf(request, sizeof(request), "%s %s", method, path);
    return exchange(request, fields);
}

static void assert_error(int status, int expected, const char *code)
{
    json_error_t why;
    json_t *body = json_loads(answer_text(), 0, &why);
    assert_int_equal(status, expected);
    assert_non_null(body);
    const char *found =
        json_string_value(json_object_get(json_array_get(json_object_get(body, "errors"), 0), "code"));
    assert_non_null(found);
    assert_string_equal(found, code);
    json_decref(body);
}

/* ------------------------------------------------------------------ blobs and manifests */

/* What webhooks are told of: what was given, by what it was asked for. */
static void test_pulls_are_noted(void **state)
{
    (void)state;
    assert_int_equal(call("GET", blob_path, ""), 200);
    assert_int_equal(host->pulls, 0);
    host->pulls_wanted = true;
    assert_int_equal(call("GET", blob_path, "Range: bytes=1-2\r\n"), 206);
    assert_int_equal(host->pulls, 1);
    assert_true(host->pull.blob && digest_equal(&host->pull.digest, &blob_digest));
    assert_int_equal(host->pull.size, strlen(BLOB));
    assert_string_equal(host->pull_type, "application/octet-stream");
    assert_int_equal(call("HEAD", "/v2/a/manifests/latest", ""), 200);
    assert_int_equal(host->pulls, 2);
    assert_true(!host->pull.blob && digest_equal(&host->pull.digest, &manifest_digest));
    assert_true(host->pull.size > 0 && host->pull.tag.len == strlen("latest"));
    assert_int_equal(call("GET", manifest_path, ""), 200);
    assert_int_equal(host->pulls, 3);
    assert_int_equal(host->pull.tag.len, 0);
    assert_int_equal(call("GET", manifest_path, "If-None-Match: *\r\n"), 304);
    assert_int_equal(call("GET", "/v2/a/manifests/none", ""), 404);
    assert_int_equal(host->pulls, 3);
}

static void test_base(void **state)
{
    (void)state;
    assert_int_equal(call("GET", "/v2/", ""), 200);
    assert_string_equal(field("Docker-Distribution-API-Version"), "registry/2.0");
    assert_string_equal(answer_text(), "{}\n");
}

static void test_blob(void **state)
{
    (void)state;
    static const char *const methods[] = {"GET", "HEAD"};
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(call(methods[i], blob_path, ""), 200);
        assert_string_equal(answer_text(), BLOB);
        assert_string_equal(field("Content-Type"), "application/octet-stream");
        assert_string_equal(field("Docker-Content-Digest"), blob_path + strlen("/v2/a/blobs/"));
        assert_string_equal(field("Accept-Ranges"), "bytes");
        assert_int_equal(strlen(field("ETag")), 2 + strlen(blob_path) - strlen("/v2/a/blobs/"));
    }
    assert_int_equal(host->counter[CTR_PULLS], 1);
    assert_error(call("GET",
                      "/v2/b/blobs/" /* known elsewhere */
                      "sha256:0000000000000000000000000000000000000000000000000000000000000000",
                      ""),
                 404, "BLOB_UNKNOWN");
    assert_error(call("GET",
                      "/v2/a/blobs/sha256:0000000000000000000000000000000000000000000000000000000000000000",
                      ""),
                 404, "BLOB_UNKNOWN");
    writer_begin(&host->w);
    writer_repo(&host->w, "b");
    writer_commit(&host->w);
    blob_path[4] = 'b'; /* a blob belongs to repositories, not to everybody */
    assert_error(call("HEAD", blob_path, ""), 404, "BLOB_UNKNOWN");
}

struct range_row {
    const char *range;
    int status;
    const char *content_range, *body;
};

static void test_ranges(void **state)
{
    (void)state;
    static const struct range_row rows[] = {
        {"bytes=2-5", 206, "bytes 2-5/20", "2345"},
        {"bytes=15-", 206, "bytes 15-19/20", "fghij"},
        {"bytes=-3", 206, "bytes 17-19/20", "hij"},
        {"bytes=18-500", 206, "bytes 18-19/20", "ij"},
        {"bytes=0-0", 206, "bytes 0-0/20", "0"},
        {"bytes=20-", 416, "bytes */20", NULL},
        {"bytes=5-0", 416, "bytes */20", NULL},
        {"bytes=0-1,3-4", 200, "", BLOB},
        {"lines=1-2", 200, "", BLOB},
    };
    char fields[512];
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        (void)snprintf(fields, sizeof(fields), "Range: %s\r\n", rows[i].range);
        assert_int_equal(call("GET", blob_path, fields), rows[i].status);
        assert_string_equal(field("Content-Range"), rows[i].content_range);
        if (rows[i].body)
            assert_string_equal(answer_text(), rows[i].body);
        else
            assert_error(host->status, 416, "SIZE_INVALID");
        assert_int_equal(call("HEAD", blob_path, fields), 200); /* a Range is for GET */
    }
    (void)snprintf(fields, sizeof(fields), "Range: bytes=1-2\r\nIf-Range: \"%s\"\r\n",
                   blob_path + strlen("/v2/a/blobs/"));
    assert_int_equal(call("GET", blob_path, fields), 206);
    assert_int_equal(call("GET", blob_path, "Range: bytes=1-2\r\nIf-Range: \"other\"\r\n"), 200);
}

static void test_conditions(void **state)
{
    (void)state;
    char fields[512];
    const char *const paths[] = {blob_path, manifest_path, "/v2/a/manifests/latest"};
    for (unsigned i = 0; i < ARRAY_SIZE(paths); i++) {
        const char *digest =
            i == 0 ? blob_path + strlen("/v2/a/blobs/") : manifest_path + strlen("/v2/a/manifests/");
        (void)snprintf(fields, sizeof(fields), "If-None-Match: W/\"%s\"\r\n", digest);
        assert_int_equal(call("GET", paths[i], fields), 304);
        assert_int_equal(host->answer_len, 0);
        assert_string_not_equal(field("ETag"), "");
        assert_int_equal(call("GET", paths[i], "If-None-Match: \"other\"\r\n"), 200);
        assert_int_equal(call("HEAD", paths[i], "If-None-Match: *\r\n"), 304);
        assert_int_equal(call("GET", paths[i], "If-Match: \"other\"\r\n"), 412);
        assert_int_equal(call("GET", paths[i], "If-Match: *\r\n"), 200);
    }
}

static void test_manifest(void **state)
{
    (void)state;
    static const char *const methods[] = {"GET", "HEAD"};
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(call(methods[i & 1], i < 2 ? "/v2/a/manifests/latest" : manifest_path, ""), 200);
        assert_string_equal(answer_text(), "{manifest}");
        assert_string_equal(field("Content-Type"), IMAGE);
        assert_string_equal(field("Docker-Content-Digest"), manifest_path + strlen("/v2/a/manifests/"));
        /* What a tag names may change, what a digest names may not. */
        assert_int_equal(field("Cache-Control")[0] != '\0', i >= 2);
    }
    assert_int_equal(host->counter[CTR_MANIFEST_PULLS], 2);
    assert_error(call("GET", "/v2/a/manifests/none", ""), 404, "MANIFEST_UNKNOWN");
    assert_error(call("GET", "/v2/none/manifests/none", ""), 404, "MANIFEST_UNKNOWN");
}

static void test_store_errors(void **state)
{
    (void)state;
    static const struct {
        int err, status;
        const char *code;
    } rows[] = {{-EIO, 500, "UNKNOWN"}, {-EMFILE, 503, "UNAVAILABLE"}, {-ENOMEM, 503, "UNAVAILABLE"}};
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        host->open_error = rows[i].err;
        assert_error(call("GET", blob_path, ""), rows[i].status, rows[i].code);
        assert_error(call("GET", manifest_path, ""), rows[i].status, rows[i].code);
    }
    host->open_error = -ENOENT; /* named, but its file is gone */
    assert_error(call("GET", blob_path, ""), 404, "BLOB_UNKNOWN");
    assert_error(call("GET", manifest_path, ""), 404, "MANIFEST_UNKNOWN");
}

static void test_names_errors(void **state)
{
    (void)state;
    uint8_t key[NAMES_KEY_MAX];
    writer_begin(&host->w);
    writer_put(&host->w, NAMES_LINKS, key, names_key_digest(key, "a", 1, &blob_digest), "x", 1);
    writer_put(&host->w, NAMES_TAGS, key, names_key(key, "a", 1, "latest", 6), "x", 1);
    writer_put(&host->w, NAMES_REPOS, "a", 1, "x", 1);
    writer_commit(&host->w);
    assert_error(call("GET", blob_path, ""), 500, "UNKNOWN");
    assert_error(call("GET", "/v2/a/manifests/latest", ""), 500, "UNKNOWN");
    assert_error(call("GET", "/v2/a/tags/list", ""), 500, "UNKNOWN");
    atomic_store(&host->w.epochs->committed, 1000); /* the writer is always ahead of us */
    assert_error(call("GET", blob_path, ""), 503, "UNAVAILABLE");
}

static void test_refusals(void **state)
{
    (void)state;
    assert_error(call("GET", "/v2/a", ""), 404, "NAME_UNKNOWN");
    assert_error(call("GET", "/v2/A/manifests/x", ""), 400, "NAME_INVALID");
    assert_error(call("GET", "/v2/a%2Fb/manifests/x", ""), 400, "NAME_INVALID");
    assert_error(call("GET", "/v2/a/manifests/%22%5c%c3", ""), 400, "TAG_INVALID");
    assert_error(call("GET", "/v2/a/blobs/sha256:x", ""), 400, "DIGEST_INVALID");
    assert_error(call("POST", "/v2/a/manifests/x", ""), 405, "UNSUPPORTED");
    assert_string_equal(field("Allow"), "GET, HEAD, PUT, DELETE");
    assert_error(call("OPTIONS", "/v2/", ""), 405, "UNSUPPORTED");
    host->service.policy = 0; /* a policy that is not known allows nothing */
    assert_error(call("GET", blob_path, ""), 403, "DENIED");
    assert_error(call("GET", "/v2/", ""), 403, "DENIED");
    assert_error(call("PUT", "/v2/a/manifests/x", ""), 403, "DENIED");
    assert_int_equal(host->proposals, 0);
}

static void test_deletes(void **state)
{
    (void)state;
    assert_int_equal(call("DELETE", "/v2/a/manifests/latest", ""), 202);
    assert_error(call("DELETE", "/v2/a/manifests/latest", ""), 404, "MANIFEST_UNKNOWN");
    assert_int_equal(call("GET", manifest_path, ""), 200);
    assert_int_equal(call("DELETE", manifest_path, ""), 202);
    assert_error(call("DELETE", manifest_path, ""), 404, "MANIFEST_UNKNOWN");
    assert_error(call("GET", manifest_path, ""), 404, "MANIFEST_UNKNOWN");
    assert_int_equal(call("DELETE", blob_path, ""), 202);
    assert_error(call("DELETE", blob_path, ""), 404, "BLOB_UNKNOWN");
    assert_error(call("GET", blob_path, ""), 404, "BLOB_UNKNOWN");
    assert_int_equal(host->counter[CTR_DELETES], 3);
    host->setting[SET_REGISTRY_DELETE] = 0;
    assert_error(call("DELETE", blob_path, ""), 405, "UNSUPPORTED");
    assert_error(call("DELETE", manifest_path, ""), 405, "UNSUPPORTED");
    /* An upload is not deleted but given up: that is always allowed. */
    assert_error(call("DELETE", "/v2/a/blobs/uploads/x", ""), 404, "BLOB_UPLOAD_UNKNOWN");
}

/* ------------------------------------------------------------------ lists */

static void put_tags(const char *repo, unsigned count)
{
    writer_begin(&host->w);
    writer_repo(&host->w, repo);
    for (unsigned i = 0; i < count; i++) {
        char tag[TAG_NAME_MAX + 1];
        (void)snprintf(tag, sizeof(tag), "t%05u", i);
        writer_tag(&host->w, repo, tag, &manifest_digest);
    }
    writer_commit(&host->w);
}

/* The path and query of Link, "" without one. */
static const char *next_page(void)
{
    static char path[1024];
    const char *link = field("Link");
    path[0] = '\0';
    if (link[0]) {
        assert_int_equal(link[0], '<');
        size_t len = strcspn(link, ">");
        assert_string_equal(link + len, ">; rel=\"next\"");
        memcpy(path, link + 1, len - 1);
        path[len - 1] = '\0';
    }
    return path;
}

static json_t *list_of(const char *key)
{
    json_error_t why;
    json_t *body = json_loads(answer_text(), JSON_REJECT_DUPLICATES, &why);
    if (!body)
        fail_msg("%s: %s", why.text, answer_text());
    json_t *list = json_incref(json_object_get(body, key));
    json_decref(body);
    assert_true(json_is_array(list));
    return list;
}

static size_t list_size(const char *key)
{
    json_t *list = list_of(key);
    size_t n = json_array_size(list);
    json_decref(list);
    return n;
}

static void test_tags(void **state)
{
    (void)state;
    put_tags("tags/list", 5);
    assert_int_equal(call("GET", "/v2/tags/list/tags/list", ""), 200);
    assert_string_equal(
        answer_text(),
        "{\"name\":\"tags/list\",\"tags\":[\"t00000\",\"t00001\",\"t00002\",\"t00003\",\"t00004\"]}\n");
    assert_string_equal(field("Link"), "");
    assert_int_equal(call("GET", "/v2/tags/list/tags/list?n=2", ""), 200);
    assert_string_equal(answer_text(), "{\"name\":\"tags/list\",\"tags\":[\"t00000\",\"t00001\"]}\n");
    assert_string_equal(next_page(), "/v2/tags/list/tags/list?n=2&last=t00001");
    assert_int_equal(call("GET", "/v2/tags/list/tags/list?n=3&last=t00001", ""), 200);
    assert_string_equal(answer_text(),
                        "{\"name\":\"tags/list\",\"tags\":[\"t00002\",\"t00003\",\"t00004\"]}\n");
    assert_string_equal(field("Link"), "");
    assert_int_equal(call("GET", "/v2/tags/list/tags/list?n=0", ""), 200);
    assert_string_equal(answer_text(), "{\"name\":\"tags/list\",\"tags\":[]}\n");
    assert_string_equal(field("Link"), "");
    assert_int_equal(call("GET", "/v2/tags/list/tags/list?last=zzz", ""), 200);
    assert_int_equal(list_size("tags"), 0);
    assert_error(call("GET", "/v2/tags/list/tags/list?n=x", ""), 400, "PAGINATION_NUMBER_INVALID");
    assert_error(call("GET", "/v2/tags/list/tags/list?n=-1", ""), 400, "PAGINATION_NUMBER_INVALID");
    assert_error(call("GET", "/v2/none/tags/list", ""), 404, "NAME_UNKNOWN");
    put_tags("empty", 0);
    assert_int_equal(call("GET", "/v2/empty/tags/list", ""), 200);
    assert_int_equal(list_size("tags"), 0);
}

/* Pages larger than one piece of a body, and all entries exactly once over all pages. */
static void test_many_tags(void **state)
{
    (void)state;
    char path[1024];
    size_t seen = 0;
    put_tags("many", 5000);
    host->setting[SET_REGISTRY_PAGE_MAX] = 4000;
    (void)snprintf(path, sizeof(path), "/v2/many/tags/list?n=999999");
    for (unsigned page = 0; path[0]; page++) {
        assert_int_equal(call("GET", path, ""), 200);
        json_t *list = list_of("tags"), *v;
        size_t i;
        json_array_foreach(list, i, v)
        {
            char tag[16];
            (void)snprintf(tag, sizeof(tag), "t%05zu", seen++);
            assert_string_equal(json_string_value(v), tag);
        }
        assert_int_equal(json_array_size(list), page == 0 ? 4000 : 1000);
        json_decref(list);
        (void)snprintf(path, sizeof(path), "%s", next_page());
    }
    assert_int_equal(seen, 5000);
}

static void test_catalog(void **state)
{
    (void)state;
    put_tags("b/c", 1);
    put_tags("d", 1);
    assert_int_equal(call("GET", "/v2/_catalog", ""), 200);
    assert_string_equal(answer_text(), "{\"repositories\":[\"a\",\"b/c\",\"d\"]}\n");
    assert_int_equal(call("GET", "/v2/_catalog?n=2", ""), 200);
    assert_string_equal(answer_text(), "{\"repositories\":[\"a\",\"b/c\"]}\n");
    assert_string_equal(next_page(), "/v2/_catalog?n=2&last=b/c");
    assert_int_equal(call("GET", "/v2/_catalog?n=2&last=b%2Fc", ""), 200);
    assert_string_equal(answer_text(), "{\"repositories\":[\"d\"]}\n");
    host->setting[SET_REGISTRY_CATALOG] = 0;
    assert_error(call("GET", "/v2/_catalog", ""), 404, "UNSUPPORTED");
}

/* ------------------------------------------------------------------ referrers */

/* Descriptors of very different sizes: every seventh is larger than a piece of a body. */
static void put_referrers(unsigned count)
{
    static char text[64 << 10];
    writer_begin(&host->w);
    for (unsigned i = 0; i < count; i++) {
        struct digest d = test_digest(DIGEST_SHA256, i * 0x01010101u);
        int len = snprintf(text, sizeof(text), "{\"number\":%u,\"annotations\":{\"x\":\"", i);
        size_t fill = i % 7 == 3 ? 40000 : i * 13;
        memset(text + len, 'x', fill);
        memcpy(text + (size_t)len + fill, "\"}}", 3);
        writer_referrer(&host->w, "a", &subject_digest, &d, i % 2 ? "type/odd" : "type/even+json",
                        view_of(text, (size_t)len + fill + 3));
    }
    writer_commit(&host->w);
}

static const char *referrers_path(const char *query)
{
    static char path[512];
    char text[DIGEST_TEXT_MAX + 1];
    digest_format(&subject_digest, text);
    (void)snprintf(path, sizeof(path), "/v2/a/referrers/%s%s", text, query);
    return path;
}

static void test_referrers_empty(void **state)
{
    (void)state;
    assert_int_equal(call("GET", referrers_path(""), ""), 200);
    assert_string_equal(answer_text(), "{\"schemaVersion\":2,\"mediaType\":"
                                       "\"application/vnd.oci.image.index.v1+json\",\"manifests\":[]}");
    assert_string_equal(field("Content-Type"), "application/vnd.oci.image.index.v1+json");
    assert_string_equal(field("OCI-Filters-Applied"), "");
    assert_error(call("GET", "/v2/a/referrers/sha256:x", ""), 400, "DIGEST_INVALID");
    assert_error(call("GET", referrers_path("?last=x"), ""), 400, "DIGEST_INVALID");
}

/* Follows Link from path on; every entry of the numbers first, first + step, ... exactly once. Pages in
 * *pages. */
static size_t follow(const char *start, unsigned first, unsigned step, unsigned *pages)
{
    char path[1024];
    size_t seen = 0;
    (void)snprintf(path, sizeof(path), "%s", start);
    for (*pages = 0; path[0]; ++*pages) {
        assert_int_equal(call("GET", path, ""), 200);
        assert_int_equal(host->fill_error, 0);
        json_t *list = list_of("manifests"), *v;
        size_t i;
        json_array_foreach(list, i, v)
        {
            assert_int_equal(json_integer_value(json_object_get(v, "number")), first + step * seen);
            seen++;
        }
        json_decref(list);
        (void)snprintf(path, sizeof(path), "%s", next_page());
    }
    return seen;
}

static void say_index(bool whole)
{
    writer_begin(&host->w);
    writer_index(&host->w, whole);
    writer_commit(&host->w);
}

static void try_referrers(void)
{
    unsigned pages;
    assert_int_equal(follow(referrers_path(""), 0, 1, &pages), 100);
    assert_int_equal(pages, 1);
    assert_int_equal(follow(referrers_path("?n=7"), 0, 1, &pages), 100);
    assert_int_equal(pages, 15);
    assert_int_equal(follow(referrers_path("?artifactType=type/odd"), 1, 2, &pages), 50);
    assert_string_equal(field("OCI-Filters-Applied"), "artifactType");
    assert_int_equal(follow(referrers_path("?artifactType=type%2Feven%2Bjson&n=9"), 0, 2, &pages), 50);
    assert_int_equal(pages, 6);
    assert_int_equal(follow(referrers_path("?artifactType=none"), 0, 1, &pages), 0);
    assert_int_equal(follow(referrers_path("?n=0"), 0, 1, &pages), 0);
}

/* The same whether the index is there or being made. */
static void test_referrers(void **state)
{
    (void)state;
    put_referrers(100);
    try_referrers();
    say_index(true);
    try_referrers();
    say_index(false);
    try_referrers();
}

/* The one that matches is on the first page, whatever else there is. */
static void test_referrers_one_of_many(void **state)
{
    enum { MANY = 10500 };
    (void)state;
    unsigned pages;
    writer_begin(&host->w);
    for (unsigned i = 1; i <= MANY; i++) {
        struct digest d = test_digest(DIGEST_SHA256, i);
        writer_referrer(&host->w, "a", &subject_digest, &d, "type/other", VIEW_LIT("{\"number\":1}"));
    }
    struct digest last = test_digest(DIGEST_SHA256, UINT32_MAX);
    writer_referrer(&host->w, "a", &subject_digest, &last, "type/rare", VIEW_LIT("{\"number\":0}"));
    writer_commit(&host->w);
    assert_int_equal(follow(referrers_path("?artifactType=type/rare&n=5"), 0, 1, &pages), 1);
    assert_true(pages > 1);
    say_index(true);
    assert_int_equal(follow(referrers_path("?artifactType=type/rare&n=5"), 0, 1, &pages), 1);
    assert_int_equal(pages, 1);
    assert_int_equal(follow(referrers_path("?artifactType=none"), 0, 1, &pages), 0);
    assert_int_equal(pages, 1);
}

/* Pages are bounded by bytes too. */
static void test_referrers_large(void **state)
{
    (void)state;
    unsigned pages;
    char *text = malloc(5 << 20);
    assert_non_null(text);
    writer_begin(&host->w);
    for (unsigned i = 0; i < 4; i++) {
        struct digest d = test_digest(DIGEST_SHA256, i * 0x01010101u);
        memset(text, ' ', 5 << 20);
        int len = snprintf(text, 64, "{\"number\":%u", i);
        text[len] = ' ';
        text[(5 << 20) - 1] = '}';
        writer_referrer(&host->w, "a", &subject_digest, &d, "", view_of(text, 5 << 20));
    }
    writer_commit(&host->w);
    assert_int_equal(follow(referrers_path(""), 0, 1, &pages), 4);
    assert_int_equal(pages, 4);
    free(text);
}

static void delete_referrer(void)
{
    uint8_t key[NAMES_KEY_MAX], packed[2 * DIGEST_PACKED_MAX];
    struct digest d = test_digest(DIGEST_SHA256, 3 * 0x01010101u);
    size_t len = digest_pack(&subject_digest, packed);
    len += digest_pack(&d, packed + len);
    host->between_fills = NULL;
    writer_begin(&host->w);
    writer_del(&host->w, NAMES_REFERRERS, key, names_key(key, "a", 1, packed, len));
    writer_commit(&host->w);
}

/* A descriptor that goes away in the middle of being sent cannot be made up for. */
static void test_referrer_deleted_meanwhile(void **state)
{
    (void)state;
    put_referrers(4);
    host->between_fills = delete_referrer;
    assert_int_equal(call("GET", referrers_path(""), ""), 200);
    assert_int_equal(host->fill_error, -ESTALE);
    unsigned pages;
    assert_int_equal(follow(referrers_path(""), 0, 1, &pages), 3);
}

static void delete_and_add_tags(void)
{
    uint8_t key[NAMES_KEY_MAX];
    host->between_fills = NULL;
    writer_begin(&host->w);
    writer_del(&host->w, NAMES_TAGS, key, names_key(key, "many", 4, "t03999", 6));
    writer_del(&host->w, NAMES_TAGS, key, names_key(key, "many", 4, "t03000", 6));
    writer_tag(&host->w, "many", "t03000a", &manifest_digest);
    writer_tag(&host->w, "many", "z", &manifest_digest);
    writer_commit(&host->w);
}

/* Tags that come and go are there or not; the page ends where its Link says. */
static void test_tags_change_meanwhile(void **state)
{
    (void)state;
    put_tags("many", 5000);
    host->setting[SET_REGISTRY_PAGE_MAX] = 4000;
    host->between_fills = delete_and_add_tags;
    assert_int_equal(call("GET", "/v2/many/tags/list", ""), 200);
    assert_string_equal(next_page(), "/v2/many/tags/list?n=4000&last=t03999");
    json_t *list = list_of("tags");
    assert_int_equal(json_array_size(list), 3999);
    assert_string_equal(json_string_value(json_array_get(list, 3998)), "t03998");
    json_decref(list);
}

#define T(name)                                                                                              \
    cmocka_unit_test_setup_teardown(name, set_up, tear_down),                                                \
        cmocka_unit_test_setup_teardown(name, set_up_slow, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_base),
        T(test_blob),
        T(test_pulls_are_noted),
        T(test_ranges),
        T(test_conditions),
        T(test_manifest),
        T(test_store_errors),
        T(test_names_errors),
        T(test_refusals),
        T(test_deletes),
        T(test_tags),
        T(test_many_tags),
        T(test_catalog),
        T(test_referrers_empty),
        T(test_referrers),
        T(test_referrers_one_of_many),
        T(test_referrers_large),
        T(test_referrer_deleted_meanwhile),
        T(test_tags_change_meanwhile),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
