/* SPDX-License-Identifier: Apache-2.0 */
/* Requests for other nodes' upload sessions: what becomes of them where their node is away, or breaks off.
 * What the proxy and the search say is played. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#define HOST_OWNER
#include "registry_host.h"

#include "dataplane/ring.h"
#include "dataplane/proxy/proxy.h"
#include "dataplane/registry/heirs.h"

enum { OWNER = 15, OTHER = 7, RELAYED = 299 };

#define RANDOM "00000000000000000000000000000001"
#define THEIRS "/v2/a/blobs/uploads/" RANDOM "000000000000000f"
#define OURS   RANDOM "0000000000000003"

static struct {
    struct plan plan;
    struct plan_source source;
} scene;
static struct ring ring;
static enum proxy_refusal why[4]; /* of the relays, one after the other; */
static unsigned relays, refused;  /* how many there were; how many of them are refused */
static uint32_t backend;          /* of the last one */
static unsigned searches;
static int found_error;
static struct heir found;
static uint64_t asked_from;

bool proxy_relay(struct stream *s, const struct proxy_order *order)
{
    s->arena.used = 0; /* its memory is lost */
    memset(host->arena, 0x5a, sizeof(host->arena));
    s->handler = NULL;
    s->ctx = NULL;
    backend = order->backend;
    if (relays++ < refused) {
        order->refuse(s, why[relays - 1]);
        return true;
    }
    s->handler = &registry_handler;
    stream_response(s, RELAYED);
    stream_send(s);
    return true;
}

void heirs_find(struct api *a, uint64_t from, heirs_found *next)
{
    searches++;
    asked_from = from;
    next(a, found_error, &found);
}

static int set_up(void **state)
{
    (void)state;
    host_new();
    memset(&scene, 0, sizeof(scene));
    scene.plan.node_id = HOST_NODE;
    scene.plan.source_count = 1;
    scene.plan.source_at = offsetof(__typeof__(scene), source);
    scene.source.kind = PLAN_SOURCE_PEERS;
    ring.plan = &scene.plan;
    host->ring = &ring;
    relays = refused = searches = 0;
    found_error = 0;
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    host_free();
    return 0;
}

static void refuse(enum proxy_refusal first, enum proxy_refusal second, unsigned count)
{
    why[0] = first;
    why[1] = second;
    refused = count;
    relays = 0;
}

/* This node has some of it, as its own session. */
static void have(const char *bytes)
{
    host->next_id = 0;
    assert_int_equal(exchange("POST /v2/a/blobs/uploads/", ""), 202);
    assert_string_equal(field("Docker-Upload-UUID"), OURS);
    assert_int_equal(exchange_body("PATCH /v2/a/blobs/uploads/" OURS, "", bytes, strlen(bytes)), 202);
    found = (struct heir){HOST_NODE, strlen(bytes), true};
}

static int patch(const char *fields, const char *bytes)
{
    relays = searches = 0;
    return exchange_body("PATCH " THEIRS, fields, bytes, strlen(bytes));
}

static int ask(const char *line)
{
    relays = searches = 0;
    return exchange(line, "");
}

static bool says(const char *text)
{
    return strstr(answer_text(), text) != NULL;
}

static void test_there(void **state)
{
    (void)state;
    assert_int_equal(patch("", "x"), RELAYED);
    assert_int_equal(backend, plan_peer_id(OWNER));
    assert_int_equal(ask("GET " THEIRS), RELAYED);
    assert_int_equal(searches, 0);
}

static void test_nobody_has_it(void **state)
{
    (void)state;
    refuse(PROXY_AWAY, 0, 1);
    found_error = -ENOENT;
    assert_int_equal(patch("", "x"), 404);
    assert_true(says("BLOB_UPLOAD_UNKNOWN"));
    assert_int_equal(ask("GET " THEIRS), 404);
    assert_int_equal(asked_from, 0); /* it is known to be away */
    found_error = -EBUSY;
    assert_int_equal(ask("GET " THEIRS), 409);
    assert_string_equal(field("Retry-After"), "1");
    found_error = -EAGAIN;
    assert_int_equal(ask("GET " THEIRS), 503);
}

/* This node goes on, in its own name. */
static void test_goes_on_here(void **state)
{
    (void)state;
    have("12345");
    refuse(PROXY_AWAY, 0, 1);
    assert_int_equal(ask("GET " THEIRS), 204);
    assert_string_equal(field("Range"), "0-4");
    assert_string_equal(field("Location"), "/v2/a/blobs/uploads/" OURS);
    /* Who does not say where its bytes belong may not know that there are fewer. */
    assert_int_equal(patch("", "6"), 416);
    assert_string_equal(field("Range"), "0-4");
    assert_string_equal(field("Location"), "/v2/a/blobs/uploads/" OURS);
    assert_int_equal(patch("Content-Range: 9-9\r\n", "6"), 416);
    assert_int_equal(patch("Content-Range: 5-5\r\n", "6"), 202);
    assert_string_equal(field("Range"), "0-5");
    assert_string_equal(field("Location"), "/v2/a/blobs/uploads/" OURS);
    assert_int_equal(exchange_body("PATCH /v2/a/blobs/uploads/" OURS, "", "7", 1),
                     202); /* it knows that name */
}

static const char *put(const char *bytes)
{
    static char line[256];
    char text[DIGEST_TEXT_MAX + 1];
    struct digest d;
    store_digest(DIGEST_SHA256, bytes, strlen(bytes), &d);
    (void)snprintf(line, sizeof(line), "PUT " THEIRS "?digest=%.*s", (int)digest_format(&d, text), text);
    return line;
}

/* The end under the old name: a copy that lacks bytes is not thrown away for it. */
static void test_ends_here(void **state)
{
    (void)state;
    have("123456");
    refuse(PROXY_AWAY, 0, 1);
    assert_int_equal(ask(put("1234567")), 416);
    assert_string_equal(field("Range"), "0-5");
    assert_string_equal(field("Location"), "/v2/a/blobs/uploads/" OURS);
    assert_int_equal(ask(put("123456")), 201);
    assert_int_equal(ask(put("123456")), 404);
    have("12345");
    relays = 0;
    assert_int_equal(exchange_body(put("123456"), "Content-Range: 5-5\r\n", "6", 1), 201);
}

static void test_ended_here(void **state)
{
    (void)state;
    have("1");
    refuse(PROXY_AWAY, 0, 1);
    assert_int_equal(ask("DELETE " THEIRS), 204);
    assert_int_equal(exchange("GET /v2/a/blobs/uploads/" OURS, ""), 404);
}

/* Another one does; if that one is gone, too, the client asks once more. */
static void test_goes_on_elsewhere(void **state)
{
    (void)state;
    found = (struct heir){OTHER, 5, false};
    refuse(PROXY_AWAY, 0, 1);
    assert_int_equal(patch("", "x"), RELAYED);
    assert_int_equal(relays, 2);
    assert_int_equal(backend, plan_peer_id(OTHER));
    static const enum proxy_refusal all[] = {PROXY_AWAY, PROXY_BUSY, PROXY_BROKE, PROXY_SLOW};
    for (unsigned i = 0; i < ARRAY_SIZE(all); i++) {
        refuse(PROXY_AWAY, all[i], 2);
        assert_int_equal(patch("", "x"), 503);
        assert_string_equal(field("Retry-After"), "1");
        assert_int_equal(relays, 2);
        assert_int_equal(searches, 1);
    }
}

/* In the midst of a body: where the client goes on. */
static void test_broke_off(void **state)
{
    (void)state;
    found = (struct heir){OTHER, 1000, false};
    refuse(PROXY_BROKE, 0, 1);
    assert_int_equal(patch("Content-Range: 0-0\r\n", "x"), 416);
    assert_string_equal(field("Range"), "0-999");
    assert_string_equal(field("Location"), "/v2/a/blobs/uploads/" RANDOM "0000000000000007");
    assert_int_equal(asked_from, OWNER); /* it may be back already */
    assert_int_equal(patch("", "x"), 503);
    assert_string_equal(field("Retry-After"), "1");
    assert_string_equal(field("Range"), "0-999");
    assert_string_equal(field("Location"), "/v2/a/blobs/uploads/" RANDOM "0000000000000007");
    found_error = -ENOENT;
    assert_int_equal(patch("Content-Range: 0-0\r\n", "x"), 503);
    assert_string_equal(field("Range"), "");
    assert_int_equal(relays, 1);
}

/* Without a body nothing is lost, and a replica that is there keeps what it has. */
static void test_not_looked_for(void **state)
{
    (void)state;
    refuse(PROXY_BROKE, 0, 1);
    assert_int_equal(ask("DELETE " THEIRS), 503);
    refuse(PROXY_SLOW, 0, 1);
    assert_int_equal(patch("", "x"), 503);
    refuse(PROXY_BUSY, 0, 1);
    assert_int_equal(patch("", "x"), 503);
    assert_string_equal(field("Retry-After"), "1");
    assert_int_equal(searches, 0);
    assert_int_equal(host->counter[CTR_UPLOADS_UNREACHED], 3);
}

/* Whoever relays another one's session to us wants us to go on. */
static void test_relayed(void **state)
{
    (void)state;
    have("123");
    host->relayed = true;
    assert_int_equal(ask("GET " THEIRS), 204);
    assert_string_equal(field("Location"), "/v2/a/blobs/uploads/" OURS);
    assert_int_equal(patch("Content-Range: 3-3\r\n", "4"), 202);
    assert_int_equal(relays + searches, 0);
}

/* The last replica of a cluster, too. */
static void test_alone(void **state)
{
    (void)state;
    scene.plan.source_count = 0;
    assert_int_equal(ask("GET " THEIRS), 404);
    have("123");
    assert_int_equal(ask("GET " THEIRS), 204);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        TEST(test_there),     TEST(test_nobody_has_it),  TEST(test_goes_on_here),
        TEST(test_ends_here), TEST(test_ended_here),     TEST(test_goes_on_elsewhere),
        TEST(test_broke_off), TEST(test_not_looked_for), TEST(test_relayed),
        TEST(test_alone),
#undef TEST
    };
    return cmocka_run_group_tests_name("owner", tests, NULL, NULL);
}
