/* SPDX-License-Identifier: Apache-2.0 */
/* Pulls on their way to a receiver that is down, slow, or comes back: what was taken is told, what was not is
 * counted, memory is bounded. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "control/cluster.h"
#include "control/events.h"
#include "control/notify_envelope.h"
#include "control/pull_queue.h"
#include "control/pulls.h"
#include "shared.h"
#include "temp_dir.h"

enum { BODY_MAX = 1 << 20 };

void cluster_status(const struct cluster *c, struct cluster_status *out)
{
    (void)c;
    memset(out, 0, sizeof(*out));
    memset(out->cluster_id, 0xab, sizeof(out->cluster_id));
}

void events_note(struct events *events, const char *kind, const char *text)
{
    (void)events, (void)kind, (void)text;
}

/* --- a receiver --- */

struct receiver {
    uv_tcp_t tcp;
    int port;
    const char *answer;
    unsigned requests, events;
    json_t *last;    /* the last event that was taken */
    char head[1024]; /* of the last request */
};

struct client {
    uv_tcp_t tcp;
    uv_write_t write;
    struct receiver *owner;
    size_t len;
    char body[BODY_MAX];
};

static void on_room(uv_handle_t *handle, size_t wanted, uv_buf_t *out)
{
    struct client *c = handle->data;
    (void)wanted;
    *out = uv_buf_init(c->body + c->len, (unsigned)(sizeof(c->body) - 1 - c->len));
}

static void on_client_closed(uv_handle_t *handle)
{
    free(handle->data);
}

static void take(struct receiver *r, const char *text)
{
    json_t *envelope = json_loads(text, 0, NULL);
    assert_non_null(envelope);
    json_t *events = json_object_get(envelope, "events");
    r->requests++;
    if (strstr(r->answer, " 200 ")) {
        r->events += (unsigned)json_array_size(events);
        json_decref(r->last);
        r->last = json_incref(json_array_get(events, json_array_size(events) - 1));
    }
    json_decref(envelope);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct client *c = stream->data;
    (void)buf;
    if (n < 0) {
        uv_close((uv_handle_t *)stream, on_client_closed);
        return;
    }
    c->len += (size_t)n;
    c->body[c->len] = '\0';
    const char *end = strstr(c->body, "\r\n\r\n"), *length = strcasestr(c->body, "content-length:");
    if (!end || !length || c->len < (size_t)(end + 4 - c->body) + strtoul(length + 15, NULL, 10))
        return;
    snprintf(c->owner->head, sizeof(c->owner->head), "%.*s", (int)(end + 2 - c->body), c->body);
    take(c->owner, end + 4);
    c->len = 0;
    uv_buf_t out = uv_buf_init((char *)(uintptr_t)c->owner->answer, (unsigned)strlen(c->owner->answer));
    assert_int_equal(uv_write(&c->write, stream, &out, 1, NULL), 0);
}

static void on_connection(uv_stream_t *stream, int status)
{
    struct client *c = calloc(1, sizeof(*c));
    assert_true(c && status == 0);
    c->owner = stream->data;
    c->tcp.data = c;
    assert_int_equal(uv_tcp_init(stream->loop, &c->tcp), 0);
    assert_int_equal(uv_accept(stream, (uv_stream_t *)&c->tcp), 0);
    assert_int_equal(uv_read_start((uv_stream_t *)&c->tcp, on_room, on_read), 0);
}

static void receiver_open(struct receiver *r, uv_loop_t *loop)
{
    struct sockaddr_in at;
    int len = sizeof(at);
    r->answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    assert_int_equal(uv_ip4_addr("127.0.0.1", 0, &at), 0);
    assert_int_equal(uv_tcp_init(loop, &r->tcp), 0);
    r->tcp.data = r;
    assert_int_equal(uv_tcp_bind(&r->tcp, (struct sockaddr *)&at, 0), 0);
    assert_int_equal(uv_listen((uv_stream_t *)&r->tcp, 16, on_connection), 0);
    assert_int_equal(uv_tcp_getsockname(&r->tcp, (struct sockaddr *)&at, &len), 0);
    r->port = ntohs(at.sin_port);
}

/* --- the node --- */

struct fixture {
    struct temp_dir dir;
    uv_loop_t loop;
    struct receiver receiver;
    struct endpoint endpoint;
    struct endpoint_table table;
    _Atomic uint32_t wanted;
    uint64_t bytes_max, added;
    struct pulls *pulls;
};

static uint64_t bytes_max(void *arg)
{
    return ((struct fixture *)arg)->bytes_max;
}

static uint64_t untold(void *arg)
{
    (void)arg;
    return 7;
}

static bool secret_find(void *arg, const char *name, struct credentials *out, char *why, size_t why_len)
{
    (void)arg;
    snprintf(out->user, sizeof(out->user), "robot");
    snprintf(out->password, sizeof(out->password), "s3cret");
    snprintf(why, why_len, "no '%s' here", name);
    return strcmp(name, "ci") == 0;
}

static const struct notify_secrets secrets = {.find = secret_find};

static void node_open(struct fixture *f)
{
    const struct pulls_config config = {.loop = &f->loop,
                                        .node = "here",
                                        .state_fd = f->dir.fd,
                                        .wanted = &f->wanted,
                                        .bytes_max = bytes_max,
                                        .untold = untold,
                                        .arg = f};
    f->pulls = pulls_new(&config, &secrets);
    pulls_endpoints(f->pulls, &f->table);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    temp_dir_make(&f->dir);
    assert_int_equal(uv_loop_init(&f->loop), 0);
    receiver_open(&f->receiver, &f->loop);
    f->bytes_max = 64 << 20;
    f->endpoint = (struct endpoint){.name = "hook", .row = {.actions = 1 << NOTICE_PULL, .created_ms = 5}};
    snprintf(f->endpoint.url, sizeof(f->endpoint.url), "http://127.0.0.1:%d/", f->receiver.port);
    f->table = (struct endpoint_table){.list = &f->endpoint, .count = 1};
    node_open(f);
    *state = f;
    return 0;
}

/* Closed and opened again, as a process that ends well and starts. */
static void node_again(struct fixture *f)
{
    pulls_close(f->pulls);
    node_open(f);
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    pulls_close(f->pulls);
    uv_close((uv_handle_t *)&f->receiver.tcp, NULL);
    uv_run(&f->loop, UV_RUN_DEFAULT); /* its connections end with the other side */
    assert_int_equal(uv_loop_close(&f->loop), 0);
    json_decref(f->receiver.last);
    temp_dir_remove(&f->dir);
    free(f);
    return 0;
}

static void add(struct fixture *f, const char *repo, uint8_t bits)
{
    uint8_t body[PULL_BYTES_MAX];
    struct wire_writer w = {.buf = body, .cap = sizeof(body)};
    struct pull p = {.bits = bits,
                     .time_ms = 1000,
                     .request = ++f->added,
                     .size = 44,
                     .digest = {.alg = DIGEST_SHA256},
                     .repo = {repo, strlen(repo)},
                     .tag = {"v1", 2},
                     .media_type = {"application/x", 13},
                     .client = {"192.0.2.1:5", 11},
                     .host = {"hub.example", 11},
                     .agent = {"docker/1", 8}};
    pull_put(&w, &p);
    assert_false(w.failed);
    pulls_add(f->pulls, w.buf, w.len);
}

static uint64_t figure(struct fixture *f, const char *key)
{
    json_t *row = pulls_json(f->pulls, "hook");
    assert_non_null(row);
    uint64_t n = (uint64_t)json_integer_value(json_object_get(row, key));
    json_decref(row);
    return n;
}

static void run_until_told(struct fixture *f, unsigned count)
{
    while (f->receiver.events < count || figure(f, "waiting"))
        uv_run(&f->loop, UV_RUN_ONCE);
}

static const char *text_at(const json_t *object, const char *outer, const char *inner)
{
    const char *text = json_string_value(json_object_get(json_object_get(object, outer), inner));
    return text ? text : "";
}

static void test_the_envelope(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(f->wanted, PULLS_MANIFESTS | PULLS_BLOBS | PULLS_HEADS);
    add(f, "team/app", PULL_HTTPS | PULL_HEAD);
    run_until_told(f, 1);
    const json_t *e = f->receiver.last;
    assert_string_equal(json_string_value(json_object_get(e, "action")), "pull");
    assert_string_equal(json_string_value(json_object_get(e, "timestamp")), "1970-01-01T00:00:01.000Z");
    assert_string_equal(text_at(e, "target", "repository"), "team/app");
    assert_string_equal(text_at(e, "target", "tag"), "v1");
    assert_string_equal(text_at(e, "target", "mediaType"), "application/x");
    assert_int_equal(json_integer_value(json_object_get(json_object_get(e, "target"), "size")), 44);
    assert_memory_equal(text_at(e, "target", "url"), "https://hub.example/v2/team/app/manifests/sha256:00",
                        51);
    assert_string_equal(text_at(e, "request", "id"), "0000000000000001");
    assert_string_equal(text_at(e, "request", "addr"), "192.0.2.1:5");
    assert_string_equal(text_at(e, "request", "host"), "hub.example");
    assert_string_equal(text_at(e, "request", "method"), "HEAD");
    assert_string_equal(text_at(e, "request", "useragent"), "docker/1");
    assert_string_equal(text_at(e, "actor", "name"), "anonymous");
    assert_string_equal(text_at(e, "source", "addr"), "here");
    assert_int_equal(strlen(text_at(e, "source", "instanceID")), 32);
    assert_int_equal(figure(f, "untold"), 7);
}

/* What it does not want, and what is no record, costs nothing. */
static void test_what_is_not_wanted(void **state)
{
    struct fixture *f = *state;
    snprintf(f->endpoint.row.prefix, sizeof(f->endpoint.row.prefix), "team");
    f->endpoint.row.actions |= ENDPOINT_IGNORE_BLOB | ENDPOINT_IGNORE_HEAD;
    pulls_endpoints(f->pulls, &f->table);
    add(f, "team/app", 0);
    run_until_told(f, 1);
    assert_int_equal(f->wanted, PULLS_MANIFESTS);
    add(f, "teams/app", 0);
    add(f, "team/app", PULL_BLOB);
    add(f, "team/app", PULL_HEAD);
    pulls_add(f->pulls, "garbage", 7);
    add(f, "team/app", 0);
    run_until_told(f, 2);
    assert_string_equal(text_at(f->receiver.last, "request", "id"), "0000000000000005");
    f->table.count = 0; /* it goes, with what waits */
    pulls_endpoints(f->pulls, &f->table);
    assert_int_equal(f->wanted, 0);
    assert_null(pulls_json(f->pulls, "hook"));
}

/* The state has a name alone; what it stands for is put in as it is sent. */
static void test_credentials(void **state)
{
    struct fixture *f = *state;
    char header[] = "X-Token: of {password}", *const here = header;
    snprintf(f->endpoint.credentials, sizeof(f->endpoint.credentials), "ci");
    add(f, "a", 0);
    run_until_told(f, 1);
    assert_non_null(strstr(f->receiver.head, "Authorization: Basic cm9ib3Q6czNjcmV0\r\n"));
    f->endpoint.header[f->endpoint.headers_count++] = here;
    snprintf(f->endpoint.url, sizeof(f->endpoint.url), "http://127.0.0.1:%d/hook/{password}?x",
             f->receiver.port);
    add(f, "a", 0);
    run_until_told(f, 2);
    assert_non_null(strstr(f->receiver.head, "POST /hook/s3cret?x HTTP"));
    assert_non_null(strstr(f->receiver.head, "X-Token: of s3cret\r\n"));
    assert_null(strstr(f->receiver.head, "Authorization"));
    snprintf(f->endpoint.credentials, sizeof(f->endpoint.credentials), "other");
    add(f, "a", 0);
    json_t *row = pulls_json(f->pulls, "hook");
    while (!strstr(json_string_value(json_object_get(row, "error")), "no 'other' here")) {
        uv_run(&f->loop, UV_RUN_ONCE);
        json_decref(row);
        row = pulls_json(f->pulls, "hook");
    }
    json_decref(row);
    assert_int_equal(f->receiver.events, 2);
}

/* 20,000 while it answers errors, with starts between: all of them come when it takes them, each at least
 * once. */
static void test_a_receiver_that_is_down(void **state)
{
    struct fixture *f = *state;
    f->receiver.answer = "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n";
    for (unsigned i = 0; i < 20000; i++) {
        add(f, "team/app", 0);
        if (i % 500 == 499)
            while (figure(f, "waiting") + figure(f, "lost") < i + 1)
                uv_run(&f->loop, UV_RUN_ONCE);
        if (i % 7000 == 6999)
            node_again(f);
    }
    while (f->receiver.requests == 0)
        uv_run(&f->loop, UV_RUN_ONCE);
    assert_int_equal(f->receiver.events, 0);
    assert_int_equal(figure(f, "lost"), 0);
    f->receiver.answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    node_again(f); /* it does not wait for the end of a pause */
    run_until_told(f, 20000);
    assert_int_equal(f->receiver.events, 20000);
    assert_int_equal(figure(f, "dropped"), 0);
    assert_string_equal(text_at(f->receiver.last, "request", "id"), "0000000000004e20");
}

/* More than fits, at once and on the disk: counted. */
static void test_too_many(void **state)
{
    struct fixture *f = *state;
    f->receiver.answer = "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n";
    f->bytes_max = 1;
    for (unsigned i = 0; i < 20000; i++)
        add(f, "team/app", 0);
    uint64_t lost = figure(f, "lost");
    assert_true(lost > 0 && lost < 20000);
    while (figure(f, "dropped") == 0) {
        for (unsigned i = 0; i < 500; i++)
            add(f, "team/app", 0);
        while (figure(f, "waiting") + figure(f, "dropped") + figure(f, "lost") < f->added)
            uv_run(&f->loop, UV_RUN_ONCE);
    }
    assert_int_equal(figure(f, "waiting") + figure(f, "dropped") + figure(f, "lost"), f->added);
    assert_true(figure(f, "lost") >= lost);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_the_envelope), T(test_what_is_not_wanted),
        T(test_credentials),  T(test_a_receiver_that_is_down),
        T(test_too_many),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
