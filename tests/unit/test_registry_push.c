/* SPDX-License-Identifier: Apache-2.0 */
/* Pushing through the registry's handler: every form, every refusal, every error of store and control. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "registry_host.h"

#define IMAGE "application/vnd.oci.image.manifest.v1+json"
#define INDEX "application/vnd.oci.image.index.v1+json"

static int set_up(void **state)
{
    (void)state;
    host_new();
    return 0;
}

static int set_up_slow(void **state)
{
    (void)state;
    host_new();
    host->slow = true;
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    host_free();
    return 0;
}

static const char *digest_of(uint8_t alg, const void *bytes, size_t len)
{
    static char text[4][DIGEST_TEXT_MAX + 1];
    static unsigned next;
    struct digest d;
    store_digest(alg, bytes, len, &d);
    digest_format(&d, text[++next % 4]);
    return text[next % 4];
}

#define SHA(s)    digest_of(DIGEST_SHA256, s, strlen(s))
#define SHA_5(s)  digest_of(DIGEST_SHA512, s, strlen(s))
#define SENT(...) (snprintf(request, sizeof(request), __VA_ARGS__), request)

static char request[4096];

static int call(const char *line, const char *fields, const char *body)
{
    return body ? exchange_body(line, fields, body, strlen(body)) : exchange(line, fields);
}

static int get_status(const char *path)
{
    char line[sizeof(request) + 8];
    (void)snprintf(line, sizeof(line), "GET %s", path);
    return exchange(line, "");
}

/* Expects an error answer of that code. */
static void assert_error(int status, int expected, const char *code)
{
    char entry[64];
    assert_int_equal(status, expected);
    (void)snprintf(entry, sizeof(entry), "{\"errors\":[{\"code\":\"%s\",\"message\":\"", code);
    if (strncmp(answer_text(), entry, strlen(entry)) != 0)
        fail_msg("not %s: %s", code, answer_text());
    assert_string_equal(field("Content-Type"), "application/json");
}

static unsigned sessions(void)
{
    unsigned n = 0;
    for (unsigned i = 0; i < HOST_UPLOADS; i++)
        n += host->upload[i].used;
    return n;
}

/* Begins a session; its location. */
static const char *session(const char *repo)
{
    static char location[512];
    char line[512];
    (void)snprintf(line, sizeof(line), "POST /v2/%s/blobs/uploads/", repo);
    assert_int_equal(exchange(line, ""), 202);
    (void)snprintf(location, sizeof(location), "%s", field("Location"));
    assert_string_equal(field("Range"), "0-0");
    assert_int_equal(strlen(field("Docker-Upload-UUID")), UPLOAD_ID_LEN);
    return location;
}

static void push_blob(const char *repo, const char *bytes)
{
    assert_int_equal(call(SENT("POST /v2/%s/blobs/uploads/?digest=%s", repo, SHA(bytes)), "", bytes), 201);
}

/* ------------------------------------------------------------------ blobs */

static void test_post_only(void **state)
{
    (void)state;
    char expected[256];
    assert_int_equal(call(SENT("POST /v2/a/b/blobs/uploads/?digest=%s", SHA("hello")), "", "hello"), 201);
    (void)snprintf(expected, sizeof(expected), "/v2/a/b/blobs/%s", SHA("hello"));
    assert_string_equal(field("Location"), expected);
    assert_string_equal(field("Docker-Content-Digest"), SHA("hello"));
    assert_int_equal(get_status(expected), 200);
    assert_string_equal(answer_text(), "hello");
    /* sha512, and nothing at all. */
    assert_int_equal(call(SENT("POST /v2/a/blobs/uploads/?digest=%s", SHA_5("x")), "", "x"), 201);
    assert_int_equal(call(SENT("POST /v2/a/blobs/uploads/?digest=%s", SHA("")), "", NULL), 201);
    assert_int_equal(
        call(SENT("POST /v2/a/blobs/uploads/?digest=%s", SHA("")), "Content-Length: 0\r\n", NULL), 201);
    assert_int_equal(host->counter[CTR_PUSHES], 4);
    assert_int_equal(sessions(), 0);
}

/* Not on as many replicas as there have to be at least: it is not acknowledged, and the names do not know it.
 */
static void test_too_few_copies(void **state)
{
    (void)state;
    host->copies_error = -EAGAIN;
    assert_error(call(SENT("POST /v2/a/blobs/uploads/?digest=%s", SHA("hello")), "", "hello"), 503,
                 "UNAVAILABLE");
    assert_true(*field("Retry-After"));
    assert_error(call("PUT /v2/a/manifests/1", "Content-Type: application/vnd.oci.image.index.v1+json\r\n",
                      "{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.index.v1+json\","
                      "\"manifests\":[]}"),
                 503, "UNAVAILABLE");
    host->copies_error = 0;
    assert_int_equal(get_status(SENT("/v2/a/blobs/%s", SHA("hello"))), 404);
    assert_int_equal(get_status("/v2/a/manifests/1"), 404);
    assert_int_equal(call(SENT("POST /v2/a/blobs/uploads/?digest=%s", SHA("hello")), "", "hello"), 201);
    assert_int_equal(sessions(), 0);
}

static void test_post_only_errors(void **state)
{
    (void)state;
    assert_error(call(SENT("POST /v2/a/blobs/uploads/?digest=%s", SHA("no")), "", "yes"), 400,
                 "DIGEST_INVALID");
    assert_int_equal(host->counter[CTR_DIGEST_MISMATCHES], 1);
    assert_error(call("POST /v2/a/blobs/uploads/?digest=sha256:x", "", "yes"), 400, "DIGEST_INVALID");
    assert_error(call("POST /v2/a/blobs/uploads/?digest=sha384:00", "", "yes"), 400, "DIGEST_INVALID");
    assert_error(call("POST /v2/a/blobs/uploads/?digest=", "", "yes"), 400, "DIGEST_INVALID");
    assert_error(call("POST /v2/a/blobs/uploads/?digest-algorithm=md5", "", NULL), 400, "DIGEST_INVALID");
    assert_int_equal(call("POST /v2/a/blobs/uploads/?digest-algorithm=sha512", "", NULL), 202);
    assert_int_equal(sessions(), 1);
    /* The client never heard of its session, so an error ends that too. */
    static const struct {
        int err, status;
        const char *code;
    } rows[] = {{-ENOSPC, 507, "UNAVAILABLE"},
                {-EFBIG, 413, "SIZE_INVALID"},
                {-EIO, 500, "UNKNOWN"},
                {-ECONNRESET, 400, "SIZE_INVALID"}};
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        host->body_error = rows[i].err;
        assert_error(call(SENT("POST /v2/a/blobs/uploads/?digest=%s", SHA("x")), "", "x"), rows[i].status,
                     rows[i].code);
        assert_int_equal(sessions(), 1);
    }
    host->commit_error = -ENOSPC;
    assert_error(call(SENT("POST /v2/a/blobs/uploads/?digest=%s", SHA("x")), "", "x"), 507, "UNAVAILABLE");
    assert_int_equal(sessions(), 1);
    host->create_error = -EMFILE;
    assert_error(call("POST /v2/a/blobs/uploads/", "", NULL), 429, "TOOMANYREQUESTS");
    assert_string_not_equal(field("Retry-After"), "");
    host->create_error = -ENOSPC;
    assert_error(call("POST /v2/a/blobs/uploads/", "", NULL), 507, "UNAVAILABLE");
    assert_int_equal(host->proposals, 0);
}

static void test_post_and_put(void **state)
{
    (void)state;
    const char *at = session("a");
    assert_int_equal(call(SENT("PUT %s?digest=%s", at, SHA("hello")), "", "hello"), 201);
    assert_int_equal(get_status(SENT("/v2/a/blobs/%s", SHA("hello"))), 200);
    at = session("a");
    assert_error(call(SENT("PUT %s?digest=%s", at, SHA("hello")), "", "hullo"), 400, "DIGEST_INVALID");
    assert_error(call(SENT("PUT %s?digest=%s", at, SHA("hello")), "", "hello"), 404, "BLOB_UPLOAD_UNKNOWN");
    at = session("a");
    assert_error(call(SENT("PUT %s", at), "", "hello"), 400, "DIGEST_INVALID");
    assert_int_equal(call(SENT("PUT %s?digest=%s", at, SHA("hello")), "", "hello"), 201);
    assert_int_equal(sessions(), 0);
}

static void test_chunks(void **state)
{
    (void)state;
    const char *at = session("a");
    assert_int_equal(call(SENT("PATCH %s", at), "Content-Range: 0-3\r\n", "abcd"), 202);
    assert_string_equal(field("Location"), at);
    assert_string_equal(field("Range"), "0-3");
    /* Out of order: too early, too late; the session lives on and says where. */
    static const char *const wrong[] = {"Content-Range: 0-3\r\n", "Content-Range: 5-8\r\n"};
    for (unsigned i = 0; i < 2; i++) {
        assert_error(call(SENT("PATCH %s", at), wrong[i], "efgh"), 416, "BLOB_UPLOAD_INVALID");
        assert_string_equal(field("Location"), at);
        assert_string_equal(field("Range"), "0-3");
    }
    assert_int_equal(call(SENT("GET %s", at), "", NULL), 204);
    assert_string_equal(field("Range"), "0-3");
    assert_string_equal(field("Location"), at);
    assert_int_equal(call(SENT("PATCH %s", at), "Content-Range: bytes 4-7/*\r\n", "efgh"), 202);
    assert_int_equal(call(SENT("PATCH %s", at), "", "ij"), 202); /* streamed */
    assert_string_equal(field("Range"), "0-9");
    assert_error(call(SENT("PUT %s?digest=%s", at, SHA("abcdefghijkl")), "Content-Range: 9-10\r\n", "kl"),
                 416, "BLOB_UPLOAD_INVALID");
    assert_int_equal(
        call(SENT("PUT %s?digest=%s", at, SHA("abcdefghijkl")), "Content-Range: 10-11\r\n", "kl"), 201);
    assert_int_equal(get_status(SENT("/v2/a/blobs/%s", SHA("abcdefghijkl"))), 200);
    assert_string_equal(answer_text(), "abcdefghijkl");
}

static void test_chunk_ranges(void **state)
{
    (void)state;
    const char *at = session("a");
    assert_error(call(SENT("PATCH %s", at), "Content-Range: x\r\n", "abcd"), 400, "BLOB_UPLOAD_INVALID");
    assert_error(call(SENT("PATCH %s", at), "Content-Range: 3-0\r\n", "abcd"), 400, "BLOB_UPLOAD_INVALID");
    assert_error(call(SENT("PATCH %s", at), "Content-Range: 0-4\r\n", "abcd"), 400, "SIZE_INVALID");
    assert_error(call(SENT("PATCH %s", at), "Transfer-Encoding: chunked\r\nContent-Range: 0-4\r\n", "abcd"),
                 416, "SIZE_INVALID");
    assert_string_equal(field("Range"), "0-3"); /* what was received counts */
    assert_error(call(SENT("PUT %s?digest=%s", at, SHA("abcdefg")),
                      "Transfer-Encoding: chunked\r\nContent-Range: 4-5\r\n", "efg"),
                 416, "SIZE_INVALID");
    assert_int_equal(call(SENT("PUT %s?digest=%s", at, SHA("abcdefg")), "", NULL), 201);
}

static void test_session_errors(void **state)
{
    (void)state;
    const char *at = session("a");
    host->body_error = -ENOSPC;
    assert_error(call(SENT("PATCH %s", at), "", "abcd"), 507, "UNAVAILABLE");
    host->body_error = -ECONNRESET; /* the client went away: what came stays */
    call(SENT("PATCH %s", at), "", "abcd");
    assert_int_equal(call(SENT("GET %s", at), "", NULL), 204);
    assert_string_equal(field("Range"), "0-3");
    host->commit_error = -EIO;
    assert_error(call(SENT("PUT %s?digest=%s", at, SHA("abcd")), "", NULL), 500, "UNKNOWN");
    host->commit_error = 0;
    assert_int_equal(call(SENT("PUT %s?digest=%s", at, SHA("abcd")), "", NULL), 201);

    at = session("a");
    /* While another request is at work on it. */
    host->elsewhere = &host->upload[0];
    host->elsewhere->busy = true;
    static const char *const methods[] = {"GET", "PATCH", "DELETE"};
    for (unsigned i = 0; i < ARRAY_SIZE(methods); i++) {
        assert_error(call(SENT("%s %s", methods[i], at), "", NULL), 409, "BLOB_UPLOAD_INVALID");
        assert_string_equal(field("Retry-After"), "1");
    }
    host->elsewhere->busy = false;
    host->elsewhere = NULL;
    /* Another repository's session, ids that are none, a session that is gone. */
    assert_error(call(SENT("PATCH /v2/b%s", at + strlen("/v2/a")), "", "x"), 404, "BLOB_UPLOAD_UNKNOWN");
    assert_error(call("GET /v2/a/blobs/uploads/x", "", NULL), 404, "BLOB_UPLOAD_UNKNOWN");
    assert_error(call("GET /v2/a/blobs/uploads/..%2e............................./", "", NULL), 404,
                 "NAME_UNKNOWN");
    assert_error(call("GET /v2/a/blobs/uploads/0000000000000000000000000000000G", "", NULL), 404,
                 "BLOB_UPLOAD_UNKNOWN");
    assert_int_equal(call(SENT("DELETE %s", at), "", NULL), 204);
    assert_error(call(SENT("DELETE %s", at), "", NULL), 404, "BLOB_UPLOAD_UNKNOWN");
    assert_int_equal(sessions(), 0);
}

/* A session that another node has made is that node's to answer for; whoever relays to us has no other. */
static void test_sessions_of_other_nodes(void **state)
{
    (void)state;
    char others[] = "/v2/a/blobs/uploads/000000000000000000000000000000ff000000000000000f", line[512];
    static const char *const methods[] = {"GET", "PATCH", "DELETE"};
    for (size_t i = 0; i < ARRAY_SIZE(methods); i++)
        assert_int_equal(exchange(SENT("%s %s", methods[i], others), ""), 299);
    assert_int_equal(exchange(SENT("PUT %s?digest=%s", others, SHA("x")), ""), 299);
    assert_int_equal(exchange(SENT("PUT %s?digest=x", others), ""), 400); /* nobody need be asked */
    (void)snprintf(line, sizeof(line), "GET %s", session("a"));
    assert_int_equal(exchange(line, ""), 204);
    host->relayed = true;
    assert_error(exchange(SENT("GET %s", others), ""), 404, "BLOB_UPLOAD_UNKNOWN");
    assert_int_equal(exchange(line, ""), 204);
    assert_error(exchange("GET /v2/a/blobs/uploads/", ""), 404, "UNSUPPORTED");
    assert_error(exchange("GET /v2/a/tags/list", ""), 404, "UNSUPPORTED");
    assert_error(exchange("POST /v2/a/blobs/uploads/", ""), 404, "UNSUPPORTED");
}

static void test_mount(void **state)
{
    (void)state;
    push_blob("a", "hello");
    assert_int_equal(call(SENT("POST /v2/b/blobs/uploads/?mount=%s&from=a", SHA("hello")), "", NULL), 201);
    assert_string_equal(field("Docker-Content-Digest"), SHA("hello"));
    assert_int_equal(get_status(SENT("/v2/b/blobs/%s", SHA("hello"))), 200);
    assert_int_equal(host->counter[CTR_MOUNTS], 1);
    unsigned proposals = host->proposals;
    assert_int_equal(call(SENT("POST /v2/b/blobs/uploads/?mount=%s&from=a", SHA("hello")), "", NULL), 201);
    assert_int_equal(host->proposals, proposals); /* it is there already */
    assert_int_equal(call(SENT("POST /v2/c/blobs/uploads/?mount=%s", SHA("hello")), "", NULL), 201);
    /* What cannot be mounted is uploaded. */
    static const char *const sources[] = {"d", "UPPER", "a/../b", "x%2Fy", ""};
    for (unsigned i = 0; i < ARRAY_SIZE(sources); i++) {
        assert_int_equal(
            call(SENT("POST /v2/e/blobs/uploads/?mount=%s&from=%s", SHA("other"), sources[i]), "", NULL),
            202);
        assert_true(strncmp(field("Location"), "/v2/e/blobs/uploads/", 20) == 0);
    }
    assert_error(call("POST /v2/e/blobs/uploads/?mount=sha256:x&from=a", "", NULL), 400, "DIGEST_INVALID");
    host->propose_status = CMD_BLOB_UNKNOWN; /* deleted between the look and the commit */
    assert_int_equal(call(SENT("POST /v2/f/blobs/uploads/?mount=%s&from=a", SHA("hello")), "", NULL), 202);
    host->propose_status = CMD_NO_LEADER;
    assert_error(call(SENT("POST /v2/f/blobs/uploads/?mount=%s&from=a", SHA("hello")), "", NULL), 503,
                 "UNAVAILABLE");
}

static void test_control_errors(void **state)
{
    (void)state;
    static const struct {
        int propose, status, http;
        const char *code;
        bool retry;
    } rows[] = {
        {0, CMD_NO_LEADER, 503, "UNAVAILABLE", true},   {0, CMD_UNKNOWN_OUTCOME, 503, "UNAVAILABLE", true},
        {-ENOTCONN, 0, 503, "UNAVAILABLE", true},       {-EAGAIN, 0, 503, "UNAVAILABLE", true},
        {-EMSGSIZE, 0, 413, "SIZE_INVALID", false},     {0, CMD_NO_SPACE, 507, "UNAVAILABLE", false},
        {0, CMD_TOO_LARGE, 413, "SIZE_INVALID", false}, {0, CMD_INVALID, 400, "UNSUPPORTED", false},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        host->propose_error = rows[i].propose;
        host->propose_status = rows[i].status;
        assert_error(call(SENT("POST /v2/a/blobs/uploads/?digest=%s", SHA("x")), "", "x"), rows[i].http,
                     rows[i].code);
        assert_int_equal(field("Retry-After")[0] != '\0', rows[i].retry);
    }
    assert_int_equal(host->counter[CTR_COMMITS_FAILED], ARRAY_SIZE(rows));
    assert_int_equal(host->counter[CTR_COMMITS], 0);
    assert_int_equal(host->counter[CTR_PUSHES], 0);
}

#define PUSH "POST /v2/a/blobs/uploads/?digest=%s"

/* Its old file is being removed: it is said first that the blob stays. */
static void test_being_deleted(void **state)
{
    (void)state;
    host->deleting = 1;
    assert_int_equal(call(SENT(PUSH, SHA("x")), "", "x"), 201);
    assert_int_equal(host->keeps, 1);
    assert_int_equal(host->proposals, 3);
    host->deleting = 100;
    assert_error(call(SENT(PUSH, SHA("y")), "", "y"), 503, "UNAVAILABLE");
    assert_string_not_equal(field("Retry-After"), "");
    assert_int_equal(host->keeps, 4);
    host->deleting = 0;
    host->no_pins = true;
    assert_error(call(SENT(PUSH, SHA("z")), "", "z"), 429, "TOOMANYREQUESTS");
}

/* ------------------------------------------------------------------ manifests */

static const char *image(const char *config, const char *layer, const char *more)
{
    static char text[4096];
    (void)snprintf(text, sizeof(text),
                   "{\"schemaVersion\":2,\"mediaType\":\"" IMAGE
                   "\",\"config\":{\"mediaType\":\"application/c\",\"size\":%zu,\"digest\":\"%s\"},"
                   "\"layers\":[{\"mediaType\":\"application/l\",\"size\":%zu,\"digest\":\"%s\"}]%s}",
                   strlen(config), SHA(config), strlen(layer), SHA(layer), more);
    return text;
}

static void test_manifest_by_tag_and_digest(void **state)
{
    (void)state;
    char expected[256];
    push_blob("a", "{}");
    push_blob("a", "layer");
    const char *text = image("{}", "layer", "");
    assert_int_equal(call("PUT /v2/a/manifests/latest", "Content-Type: " IMAGE "\r\n", text), 201);
    (void)snprintf(expected, sizeof(expected), "/v2/a/manifests/%s", SHA(text));
    assert_string_equal(field("Location"), expected);
    assert_string_equal(field("Docker-Content-Digest"), SHA(text));
    assert_string_equal(field("OCI-Subject"), "");
    assert_string_equal(field("OCI-Tag"), "");
    assert_int_equal(get_status("/v2/a/manifests/latest"), 200);
    assert_string_equal(answer_text(), text);
    assert_string_equal(field("Content-Type"), IMAGE);
    assert_int_equal(get_status(expected), 200);
    /* By digest, of another algorithm, with tags. */
    assert_int_equal(call(SENT("PUT /v2/a/manifests/%s?tag=1&tag=1.2&tag=l%%61st", SHA_5(text)), "", text),
                     201);
    assert_string_equal(field("OCI-Tag"), "1, 1.2, last");
    assert_string_equal(field("Docker-Content-Digest"), SHA_5(text));
    assert_int_equal(get_status("/v2/a/manifests/last"), 200);
    assert_string_equal(field("Docker-Content-Digest"), SHA_5(text));
    assert_int_equal(host->counter[CTR_MANIFEST_PUSHES], 2);
}

static void test_manifest_being_deleted(void **state)
{
    (void)state;
    assert_int_equal(call(SENT(PUSH, SHA("c")), "", "c"), 201);
    assert_int_equal(call(SENT(PUSH, SHA("l")), "", "l"), 201);
    host->deleting = 2;
    assert_int_equal(call("PUT /v2/a/manifests/1", "", image("c", "l", "")), 201);
    assert_int_equal(host->keeps, 2);
    host->no_pins = true;
    assert_error(call("PUT /v2/a/manifests/2", "", image("c", "l", "")), 429, "TOOMANYREQUESTS");
}

static void test_manifest_subject(void **state)
{
    (void)state;
    push_blob("a", "{}");
    push_blob("a", "layer");
    char more[512];
    (void)snprintf(more, sizeof(more),
                   ",\"subject\":{\"mediaType\":\"" IMAGE "\",\"size\":3,\"digest\":\"%s\"},"
                   "\"annotations\":{ \"k\" : \"v\\u00e4\" }",
                   SHA_5("subject"));
    const char *text = image("{}", "layer", more);
    assert_int_equal(call("PUT /v2/a/manifests/x", "", text), 201);
    assert_string_equal(field("OCI-Subject"), SHA_5("subject"));
    assert_int_equal(get_status(SENT("/v2/a/referrers/%s", SHA_5("subject"))), 200);
    char expected[1024];
    (void)snprintf(expected, sizeof(expected),
                   "{\"schemaVersion\":2,\"mediaType\":\"" INDEX "\",\"manifests\":[{\"mediaType\":\"" IMAGE
                   "\",\"digest\":\"%s\",\"size\":%zu,\"artifactType\":\"application/c\","
                   "\"annotations\":{ \"k\" : \"v\\u00e4\" }}]}",
                   SHA(text), strlen(text));
    assert_string_equal(answer_text(), expected);
}

static void test_manifest_refused(void **state)
{
    (void)state;
    push_blob("a", "{}");
    const char *text = image("{}", "layer", "");
    assert_error(call("PUT /v2/a/manifests/x", "", text), 404, "MANIFEST_BLOB_UNKNOWN");
    assert_non_null(strstr(answer_text(), SHA("layer")));
    assert_null(strstr(answer_text(), SHA("{}")));
    push_blob("a", "layer");
    assert_error(call(SENT("PUT /v2/a/manifests/%s", SHA("else")), "", text), 400, "DIGEST_INVALID");
    assert_error(call("PUT /v2/a/manifests/sha256:baddigeststring", "", text), 400, "DIGEST_INVALID");
    assert_error(call("PUT /v2/a/manifests/.x", "", text), 400, "TAG_INVALID");
    assert_error(call("PUT /v2/a/manifests/x?tag=.y", "", text), 400, "TAG_INVALID");
    assert_error(call("PUT /v2/a/manifests/x", "", "{"), 400, "MANIFEST_INVALID");
    assert_non_null(strstr(answer_text(), "byte 1"));
    assert_error(call("PUT /v2/a/manifests/x", "", NULL), 400, "MANIFEST_INVALID");
    assert_error(call("PUT /v2/a/manifests/x", "Content-Type: " INDEX "\r\n", text), 400, "MANIFEST_INVALID");
    assert_error(call("PUT /v2/a/manifests/x", "", "{\"schemaVersion\":1}"), 400, "MANIFEST_INVALID");
    host->setting[SET_REGISTRY_MANIFEST_BYTES_MAX] = strlen(text) - 1;
    assert_error(call("PUT /v2/a/manifests/x", "", text), 413, "SIZE_INVALID");
    host->setting[SET_REGISTRY_MANIFEST_BYTES_MAX] = strlen(text);
    host->write_error = -ENOSPC;
    assert_error(call("PUT /v2/a/manifests/x", "", text), 507, "UNAVAILABLE");
    host->write_error = -EAGAIN;
    assert_error(call("PUT /v2/a/manifests/x", "", text), 429, "TOOMANYREQUESTS");
    host->write_error = 0;
    host->body_error = -EAGAIN;
    assert_error(call("PUT /v2/a/manifests/x", "", text), 429, "TOOMANYREQUESTS");
    assert_int_equal(host->proposals, 2);
    assert_int_equal(get_status("/v2/a/manifests/x"), 404);
    assert_int_equal(call("PUT /v2/a/manifests/x", "", text), 201);
}

/* What the state machine says counts, whatever the names said before. */
static void test_manifest_refused_at_commit(void **state)
{
    (void)state;
    push_blob("a", "{}");
    push_blob("a", "layer");
    const char *text = image("{}", "layer", "");
    struct digest d;
    store_digest(DIGEST_SHA256, "layer", 5, &d);
    host->propose_status = CMD_BLOB_UNKNOWN;
    host->propose_detail_len = digest_pack(&d, host->propose_detail);
    assert_error(call("PUT /v2/a/manifests/x", "", text), 404, "MANIFEST_BLOB_UNKNOWN");
    assert_non_null(strstr(answer_text(), SHA("layer")));
    host->propose_detail_len = 0;
    assert_error(call("PUT /v2/a/manifests/x", "", text), 404, "MANIFEST_BLOB_UNKNOWN");
    host->propose_status = CMD_INVALID;
    memcpy(host->propose_detail, "too \"odd\"", 9);
    host->propose_detail_len = 9;
    assert_error(call("PUT /v2/a/manifests/x", "", text), 400, "MANIFEST_INVALID");
    assert_non_null(strstr(answer_text(), "too \\\"odd\\\""));
}

static void test_foreign_layers(void **state)
{
    (void)state;
    char text[2048];
    push_blob("a", "{}");
    (void)snprintf(
        text, sizeof(text),
        "{\"schemaVersion\":2,\"config\":{\"mediaType\":\"application/c\",\"size\":2,\"digest\":\"%s\"},"
        "\"layers\":[{\"mediaType\":\"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip\","
        "\"size\":5,\"digest\":\"%s\",\"urls\":[\"http://x/\"]}]}",
        SHA("{}"), SHA("layer"));
    assert_int_equal(call("PUT /v2/a/manifests/x", "", text), 201);
    size_t without = host->command_len;
    push_blob("a", "layer");
    assert_int_equal(call("PUT /v2/a/manifests/x", "", text), 201);
    /* Once it is there it is a reference, so that it stays. */
    assert_int_equal(host->command_len, without + 1 + 33 + 8);
}

static void index_text(char *text, size_t cap, const char *type, const char *digest)
{
    (void)snprintf(text, cap,
                   "{\"schemaVersion\":2,\"mediaType\":\"" INDEX
                   "\",\"manifests\":[{\"mediaType\":\"%s\",\"size\":1,\"digest\":\"%s\"}]}",
                   type, digest);
}

static void test_index(void **state)
{
    (void)state;
    char text[1024];
    push_blob("a", "layer");
    push_blob("a", "{}");
    const char *child = image("{}", "layer", "");
    index_text(text, sizeof(text), IMAGE, SHA(child));
    assert_error(call("PUT /v2/a/manifests/x", "", text), 404, "MANIFEST_BLOB_UNKNOWN");
    assert_int_equal(call(SENT("PUT /v2/a/manifests/%s", SHA(child)), "", child), 201);
    assert_int_equal(call("PUT /v2/a/manifests/x", "", text), 201);
    /* A manifest is not there because a blob of that digest is. */
    index_text(text, sizeof(text), IMAGE, SHA("layer"));
    assert_error(call("PUT /v2/a/manifests/x", "", text), 404, "MANIFEST_BLOB_UNKNOWN");
    /* A build cache is an index of layers. */
    index_text(text, sizeof(text), "application/vnd.oci.image.layer.v1.tar+gzip", SHA("layer"));
    assert_int_equal(call("PUT /v2/a/manifests/x", "", text), 201);
    index_text(text, sizeof(text), IMAGE, SHA("absent"));
    host->setting[SET_REGISTRY_INDEX_SPARSE] = 1;
    assert_int_equal(call("PUT /v2/a/manifests/x", "", text), 201);
}

static void test_too_many_tags(void **state)
{
    (void)state;
    char line[8192];
    push_blob("a", "layer");
    push_blob("a", "{}");
    const char *text = image("{}", "layer", "");
    int len = snprintf(line, sizeof(line), "PUT /v2/a/manifests/%s?x=y", SHA(text));
    for (unsigned i = 0; i < MANIFEST_TAGS_MAX; i++)
        len += snprintf(line + len, sizeof(line) - (size_t)len, "&tag=t%u", i);
    assert_int_equal(call(line, "", text), 201);
    (void)snprintf(line + len, sizeof(line) - (size_t)len, "&tag=more");
    assert_error(call(line, "", text), 414, "TAG_INVALID");
    len = snprintf(line, sizeof(line), "PUT /v2/a/manifests/%s?x=y", SHA(text));
    for (unsigned i = 0; i < 12; i++)
        len += snprintf(line + len, sizeof(line) - (size_t)len, "&tag=%0128u", i);
    assert_error(call(line, "", text), 414, "TAG_INVALID");
    line[len - 5 - 128] = '\0';
    assert_int_equal(call(line, "", text), 201);
}

static void test_put_conditions(void **state)
{
    (void)state;
    char fields[512], first[1024];
    push_blob("a", "layer");
    push_blob("a", "{}");
    assert_int_equal(call("PUT /v2/a/manifests/x", "If-Match: *\r\n", image("{}", "layer", "")), 412);
    assert_int_equal(call("PUT /v2/a/manifests/x", "If-None-Match: *\r\n", image("{}", "layer", "")), 201);
    (void)snprintf(first, sizeof(first), "%s", image("{}", "layer", ""));
    assert_int_equal(call("PUT /v2/a/manifests/x", "If-None-Match: *\r\n", first), 412);
    (void)snprintf(fields, sizeof(fields), "If-Match: \"%s\"\r\n", SHA(first));
    const char *second = image("{}", "layer", ",\"x\":1");
    assert_int_equal(call("PUT /v2/a/manifests/x", fields, second), 201);
    assert_int_equal(call("PUT /v2/a/manifests/x", fields, first), 412);
    assert_int_equal(get_status("/v2/a/manifests/x"), 200);
    assert_string_equal(answer_text(), second);
}

#define T(name)                                                                                              \
    cmocka_unit_test_setup_teardown(name, set_up, tear_down),                                                \
        cmocka_unit_test_setup_teardown(name, set_up_slow, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_post_only),
        T(test_too_few_copies),
        T(test_post_only_errors),
        T(test_post_and_put),
        T(test_chunks),
        T(test_chunk_ranges),
        T(test_session_errors),
        T(test_sessions_of_other_nodes),
        T(test_mount),
        T(test_control_errors),
        T(test_being_deleted),
        T(test_manifest_by_tag_and_digest),
        T(test_manifest_being_deleted),
        T(test_manifest_subject),
        T(test_manifest_refused),
        T(test_manifest_refused_at_commit),
        T(test_foreign_layers),
        T(test_index),
        T(test_too_many_tags),
        T(test_put_conditions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
