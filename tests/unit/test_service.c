/* SPDX-License-Identifier: Apache-2.0 */
/* Services and backends as texts and as bytes, and the differences between a file and a state. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "check.h"
#include "cmd.h"
#include "control/services_declare.h"
#include "control/state/service.h"

static struct svc service_make(const char *name, const char *address)
{
    struct svc s;
    svc_init(&s, SVC_TCP);
    snprintf(s.name, sizeof(s.name), "%s", name);
    assert_int_equal(svc_address_parse(address, &s.address), 0);
    return s;
}

/* Key, what is written, what is shown; NULL: refused. */
static void test_texts(void **state)
{
    static const char *const rows[][3] = {
        {"address", "10.0.0.1:80", "10.0.0.1:80"},
        {"address", "[FD00:0::1]:443", "[fd00::1]:443"},
        {"address", "10.0.0.1", NULL},
        {"address", "10.0.0.1:0", NULL},
        {"address", "10.0.0.1:65536", NULL},
        {"address", "10.0.0.256:80", NULL},
        {"address", "[::ffff:10.0.0.1]:80", NULL},
        {"address", "fd00::1:80", NULL},
        {"address", "[fd00::1:80", NULL},
        {"address", ":80", NULL},
        {"address", "[]:80", NULL},
        {"kind", "docker", "docker"},
        {"kind", "Docker", NULL},
        {"edge", "full-nat", "full-nat"},
        {"policy", "maglev", "maglev"},
        {"steer", "yes", "true"},
        {"steer", "off", "false"},
        {"steer", "1", NULL},
        {"all_down", "open", "open"},
        {"check.interval", "20ms", "20ms"},
        {"check.interval", "2000ms", "2s"},
        {"check.interval", "1h", "3600s"},
        {"check.interval", "2h", NULL},
        {"check.interval", "20", NULL},
        {"check.interval", "99999999999999999999ms", NULL},
        {"check.interval", "-1ms", NULL},
        {"check.fall", "255", "255"},
        {"check.fall", "256", NULL},
        {"check.fall", "0", NULL},
        {"check.path", "/a?b=c", "/a?b=c"},
        {"check.path", "a", NULL},
        {"check.path", "/a b", NULL},
        {"check.path", "/a\r\nX: y", NULL},
        {"check.host", "registry.example", "registry.example"},
        {"check.host", "a\tb", NULL},
        {"check.statuses", "200", "200"},
        {"check.statuses", "404,200-204,205,300-299", NULL},
        {"check.statuses", "404,200-204,205", "200-205,404"},
        {"check.statuses", "100-599", "100-599"},
        {"check.statuses", "99", NULL},
        {"check.statuses", "600", NULL},
        {"check.statuses", "200,", NULL},
        {"check.statuses", "200,,201", NULL},
        {"check.statuses", "200-", NULL},
        {"policy", "digest", "digest"},
        {"tls", "terminate", "terminate"},
        {"tls.mode", "on", NULL},
        {"tls.certificates", "web,api", "web,api"},
        {"tls.certificates", "web", "web"},
        {"tls.certificates", "", ""},
        {"tls.certificates", "web,", NULL},
        {"tls.certificates", ",web", NULL},
        {"tls.certificates", "web,web", NULL},
        {"tls.certificates", "a,b,c,d,e,f,g,h", "a,b,c,d,e,f,g,h"},
        {"tls.certificates", "a,b,c,d,e,f,g,h,i", NULL},
        {"tls.certificates", "a b", NULL},
        {"tls.client_ca", "ours", "ours"},
        {"tls.client_ca", "", ""},
        {"http2", "false", "false"},
        {"backend.http", "2", "2"},
        {"backend.http", "3", NULL},
        {"backend.proxy_protocol", "0", "0"},
        {"backend.connections_max", "0", NULL},
        {"backend.connections_max", "65536", "65536"},
        {"backend.requests_max", "0", "0"},
        {"idle_timeout", "0", "0"},
        {"idle_timeout", "24h", "86400s"},
        {"idle_timeout", "25h", NULL},
        {"connect_timeout", "0", NULL},
        {"resume.stall_rate", "1024", "1KiB/s"},
        {"resume.stall_rate", "3MiB/s", "3MiB/s"},
        {"resume.stall_rate", "0", "0"},
        {"resume.stall_rate", "1GiB/s", NULL},
        {"resume.stall_rate", "4000000000MiB/s", NULL},
        {"forwarded", "rfc7239", "rfc7239"},
        {"forwarded.trust", "yes", "true"},
        {"host", "backend", "backend"},
        {"retries", "17", NULL},
    };
    struct svc s;
    char err[SVC_ERROR_MAX], text[SVC_TEXT_MAX];
    (void)state;
    svc_init(&s, SVC_TCP);
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct svc before = s;
        err[0] = '\0';
        int result = svc_field_set(&s, rows[i][0], rows[i][1], err);
        assert_int_equal(result, rows[i][2] ? 0 : -EINVAL);
        if (rows[i][2])
            assert_string_equal(svc_field_text(&s, rows[i][0], text), rows[i][2]);
        else
            assert_true(strstr(err, "write") && strstr(err, rows[i][0]));
        if (!rows[i][2] && strcmp(rows[i][0], "address") != 0)
            assert_memory_equal(&before, &s, sizeof(s));
    }
    assert_int_equal(svc_field_set(&s, "none", "1", err), -ENOENT);
    assert_null(svc_field_text(&s, "none", text));
}

/* What is shown can be set, and gives the same. */
static void test_every_text_can_be_read_back(void **state)
{
    (void)state;
    for (unsigned kind = SVC_TCP; kind <= SVC_KUBERNETES; kind++) {
        struct svc a, b;
        char text[SVC_TEXT_MAX], err[SVC_ERROR_MAX];
        svc_init(&a, kind);
        assert_int_equal(svc_address_parse("[fd00::1]:80", &a.address), 0);
        svc_init(&b, SVC_TCP);
        for (size_t i = 0; i < svc_field_count(); i++)
            if (strcmp(svc_field_key(i), "check.host") != 0)
                assert_int_equal(
                    svc_field_set(&b, svc_field_key(i), svc_field_text(&a, svc_field_key(i), text), err), 0);
        assert_true(svc_same(&a, &b));
    }
}

static void test_bytes(void **state)
{
    struct svc a = service_make("web", "10.0.0.1:80"), b;
    uint8_t room[SVC_ROW_BYTES_MAX];
    struct wire_writer w = {.buf = room, .cap = sizeof(room)};
    (void)state;
    a.id = 7;
    a.revision = 1ull << 40;
    a.backends = 3;
    memset(a.check.path, 'x', SVC_PATH_MAX);
    memset(a.check.host, 'y', SVC_HOST_MAX);
    memset(a.name, 'n', SVC_NAME_MAX);
    for (a.tls.certificate_count = 0; a.tls.certificate_count < PLAN_CERTIFICATES_MAX;
         a.tls.certificate_count++)
        memset(a.tls.certificate[a.tls.certificate_count], 'a' + a.tls.certificate_count, PLAN_NAME_MAX - 1);
    memset(a.tls.client_ca, 'c', PLAN_NAME_MAX - 1);
    memset(a.proxy.backend_ca, 'b', PLAN_NAME_MAX - 1);
    memset(a.proxy.backend_certificate, 'd', PLAN_NAME_MAX - 1);
    memset(a.proxy.backend_name, 'e', PLAN_NAME_MAX - 1);
    a.proxy.hedge_ms = 77;
    a.proxy.half_closed_ms = 78;
    memset(a.names, 'f', SVC_NAMES_MAX);
    for (size_t i = 60; i < SVC_NAMES_MAX; i += 60) /* the longest list that there can be */
        a.names[i] = i % 240 ? '.' : ',';
    a.names[SVC_NAMES_MAX - 1] = 'g';
    svc_row_put(&w, &a);
    assert_false(w.failed);
    struct wire_reader r = {.buf = room, .len = w.len};
    svc_row_get(&r, &b);
    assert_true(wire_at_end(&r));
    assert_memory_equal(&a, &b, sizeof(a));
    for (size_t len = 0; len < w.len; len++) {
        uint8_t *exact = malloc(len + 1);
        assert_non_null(exact);
        memcpy(exact, room, len);
        r = (struct wire_reader){.buf = exact, .len = len};
        svc_row_get(&r, &b);
        assert_true(r.failed);
        free(exact);
    }
}

/* A newer version's field is written where it says something: older nodes read the rest. */
static void test_bytes_for_older_nodes(void **state)
{
    struct svc a = service_make("web", "10.0.0.1:80"), b;
    uint8_t room[SVC_ROW_BYTES_MAX];
    (void)state;
    for (uint32_t ms = 0; ms < 2; ms++) {
        struct wire_writer w = {.buf = room, .cap = sizeof(room)};
        a.proxy.half_closed_ms = ms;
        svc_put(&w, &a);
        assert_int_equal(room[0], ms ? 4 : 3);
        struct wire_reader r = {.buf = room, .len = w.len};
        svc_get(&r, &b);
        assert_true(wire_at_end(&r));
        assert_int_equal(b.proxy.half_closed_ms, ms);
    }
}

/* What a version before this one wrote is read, with the defaults of its kind. */
static void test_bytes_of_version_1(void **state)
{
    struct svc a = service_make("web", "10.0.0.1:80"), b;
    struct svc_backend one, other;
    uint8_t room[SVC_ROW_BYTES_MAX];
    struct wire_writer w = {.buf = room, .cap = sizeof(room)};
    char err[SVC_ERROR_MAX];
    (void)state;
    svc_put(&w, &a);
    size_t named = 4, proxied = 14 + 17 * 4 + 1 + 4 * 4 + named; /* what is behind it: numbers, empty texts */
    room[0] = 2;
    struct wire_reader two = {.buf = room, .len = w.len - named};
    svc_get(&two, &b);
    assert_true(wire_at_end(&two));
    assert_true(svc_same(&a, &b));
    room[0] = 1;
    struct wire_reader r = {.buf = room, .len = w.len - proxied};
    svc_get(&r, &b);
    assert_true(wire_at_end(&r));
    assert_true(svc_same(&a, &b));
    room[0] = 4;
    r = (struct wire_reader){.buf = room, .len = w.len};
    svc_get(&r, &b);
    assert_true(r.failed);
    svc_backend_init(&one);
    memcpy(one.name, "b", 2);
    assert_int_equal(svc_backend_field_set(&one, "address", "10.0.0.2:80", err), 0);
    w.len = 0;
    svc_backend_put(&w, &one);
    room[0] = 1;
    r = (struct wire_reader){.buf = room, .len = w.len - 4};
    svc_backend_get(&r, &other);
    assert_true(wire_at_end(&r));
    assert_true(svc_backend_same(&one, &other));
}

static void test_unix_sockets(void **state)
{
    static const char *const bad[] = {"unix:", "unix:/", "unix:run/a", "unix:/a b", "unix:/a\n"};
    struct svc s = service_make("dock", "127.0.0.1:2375");
    struct svc_backend b, other;
    uint8_t room[SVC_ROW_BYTES_MAX];
    struct wire_writer w = {.buf = room, .cap = sizeof(room)};
    char err[SVC_ERROR_MAX], text[SVC_TEXT_MAX], name[SVC_NAME_MAX + 1];
    (void)state;
    svc_backend_init(&b);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_int_equal(svc_backend_field_set(&b, "address", bad[i], err), -EINVAL);
    assert_int_equal(svc_backend_field_set(&b, "address", "unix:/run/docker.sock", err), 0);
    assert_string_equal(svc_backend_field_text(&b, "address", text), "unix:/run/docker.sock");
    svc_backend_name_default(&b, name);
    assert_string_equal(name, "run.docker.sock");
    memcpy(b.name, name, sizeof(name));
    assert_int_equal(svc_backend_check(&s, &b, err), -EINVAL); /* the kernel cannot */
    s.route = SVC_PROXY;
    assert_int_equal(svc_backend_check(&s, &b, err), 0);
    svc_backend_put(&w, &b);
    struct wire_reader r = {.buf = room, .len = w.len};
    svc_backend_get(&r, &other);
    assert_true(wire_at_end(&r));
    assert_true(svc_backend_same(&b, &other));
    assert_string_equal(other.unix_path, "/run/docker.sock");
    assert_int_equal(svc_backend_field_set(&b, "address", "10.0.0.1:80", err), 0);
    assert_false(svc_backend_is_unix(&b));
    assert_false(svc_backend_same(&b, &other));
}

/* What is refused says what to do. */
static void test_proxy_goes_together(void **state)
{
    static const struct {
        const char *fields[5]; /* KEY=VALUE */
        const char *refusal;   /* NULL: it is well */
    } rows[] = {
        {{"kind=http"}, NULL},
        {{"kind=http", "edge=nat"}, "edge"},
        {{"kind=http", "tls=terminate"}, "tls.certificates"},
        {{"kind=http", "tls=terminate", "tls.certificates=web"}, NULL},
        {{"kind=http", "tls=passthrough"}, "tls: passthrough"},
        {{"kind=kubernetes", "tls=passthrough"}, NULL},
        {{"kind=tcp", "tls=passthrough", "backend.tls=true"}, "backend.tls"},
        {{"kind=http", "backend.name=a"}, "backend.tls: true"},
        {{"kind=http", "backend.tls=true", "backend.name=a"}, NULL},
        {{"kind=http", "tls=terminate", "tls.certificates=web", "tls.client_auth=required"}, "tls.client_ca"},
        {{"kind=http", "tls=terminate", "tls.certificates=web", "tls.client_ca=a"}, "tls.client_auth"},
        {{"kind=http", "tls.client_auth=optional", "tls.client_ca=a"}, "terminate"},
        {{"kind=tcp", "policy=digest"}, "policy"},
        {{"kind=registry", "policy=digest"}, NULL},
        {{"kind=tcp", "hedge=1s"}, "hedge"},
        {{"kind=tcp", "coalesce=true"}, "coalesce"},
        {{"kind=tcp", "backend.http=2"}, "backend.http"},
        {{"kind=http", "backend.http=2", "backend.proxy_protocol=1"}, "backend.proxy_protocol"},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct svc s = service_make("web", "10.0.0.1:80");
        char err[SVC_ERROR_MAX] = "", key[64];
        s.route = SVC_PROXY;
        for (size_t k = 0; k < ARRAY_SIZE(rows[i].fields) && rows[i].fields[k]; k++) {
            size_t len = strcspn(rows[i].fields[k], "=");
            snprintf(key, sizeof(key), "%.*s", (int)len, rows[i].fields[k]);
            assert_int_equal(svc_field_set(&s, key, rows[i].fields[k] + len + 1, err), 0);
        }
        assert_int_equal(svc_check(&s, err), rows[i].refusal ? -EINVAL : 0);
        if (rows[i].refusal)
            assert_true(strstr(err, rows[i].refusal) && strstr(err, "set"));
    }
    /* What would be left undone in silence. */
    struct svc s = service_make("web", "10.0.0.1:80");
    char err[SVC_ERROR_MAX];
    assert_int_equal(svc_field_set(&s, "backend.tls", "true", err), 0);
    assert_int_equal(svc_check(&s, err), -EINVAL);
}

static void test_what_goes_together(void **state)
{
    struct svc s = service_make("web", "10.0.0.1:80");
    char err[SVC_ERROR_MAX];
    (void)state;
    assert_int_equal(svc_check(&s, err), 0);
    s.check.kind = SVC_CHECK_HTTP;
    memset(s.check.path, '/', SVC_PATH_MAX);
    memset(s.check.host, 'h', SVC_HOST_MAX);
    assert_int_equal(svc_check(&s, err), 0); /* the longest there can be fits a probe */
    s.steer = false;
    assert_int_equal(svc_check(&s, err), -EINVAL);
    s.edge = SVC_EDGE_DSR;
    s.takeover = true;
    assert_int_equal(svc_check(&s, err), 0);
    assert_int_equal(svc_address_parse("0.0.0.0:80", &s.address), 0);
    assert_int_equal(svc_check(&s, err), -EINVAL);
    assert_int_equal(svc_address_parse("[::]:80", &s.address), 0);
    assert_int_equal(svc_check(&s, err), -EINVAL);
    assert_int_equal(svc_address_parse("[ff02::1]:80", &s.address), 0);
    assert_int_equal(svc_check(&s, err), -EINVAL);
    assert_false(svc_name_valid("", 0));
    assert_false(svc_name_valid("-a", 2));
    assert_false(svc_name_valid("a b", 3));
    assert_false(svc_name_valid("a\"b", 3));
    assert_true(svc_name_valid("[fd00::1]:80", 12));
}

static void test_names(void **state)
{
    static const char *const good[] = {"a.example", "*.a.example,b", "xn--bcher-kva.example,_x.1.a"};
    static const char *const bad[] = {
        "*",          "*.",    ".a",         "a..b",       "a.",      "a,",    ",a",    "a,A",       "a b",
        "a*.example", "*.*.a", "-a.example", "a-.example", "1.2.3.4", "a.*.b", "a:443", "\xc3\xbc.a"};
    struct svc s = service_make("web", "10.0.0.1:443");
    char err[SVC_ERROR_MAX], text[SVC_TEXT_MAX], name[PLAN_DOMAIN_MAX];
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        if (svc_field_set(&s, "tls.names", bad[i], err) != -EINVAL)
            fail_msg("'%s' is taken", bad[i]);
    for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
        assert_int_equal(svc_field_set(&s, "tls.names", good[i], err), 0);
        assert_string_equal(svc_field_text(&s, "tls.names", text), good[i]);
    }
    assert_int_equal(svc_field_set(&s, "tls.names", "A.Example,*.B.example", err), 0);
    const char *list = s.names;
    assert_true(svc_names_next(&list, name));
    assert_string_equal(name, "a.example");
    assert_true(svc_names_next(&list, name));
    assert_string_equal(name, "*.b.example");
    assert_false(svc_names_next(&list, name));
    assert_int_equal(svc_field_set(&s, "tls.names", "", err), 0);
    assert_string_equal(s.names, "");
}

static struct svc shared_make(const char *name, const char *address, const char *names)
{
    struct svc s = service_make(name, address);
    char err[SVC_ERROR_MAX];
    s.route = SVC_PROXY;
    s.tls.mode = PLAN_TLS_PASSTHROUGH;
    assert_int_equal(svc_field_set(&s, "tls.names", names, err), 0);
    return s;
}

static void test_addresses_of_a_table(void **state)
{
    char err[SVC_ERROR_MAX];
    struct svc list[] = {shared_make("a", "10.0.0.1:443", "a.example,b.example"),
                         shared_make("b", "10.0.0.2:443", "a.example"), shared_make("c", "10.0.0.1:443", ""),
                         shared_make("d", "10.0.0.1:443", "*.example")};
    struct svc_table t = {.service = list, .count = ARRAY_SIZE(list)};
    (void)state;
    assert_int_equal(svc_table_addresses_check(&t, err), 0);
    list[3] = shared_make("d", "10.0.0.1:443", "c.example,b.example");
    assert_int_equal(svc_table_addresses_check(&t, err), -EINVAL);
    assert_non_null(strstr(err, "'b.example' at 10.0.0.1:443 is a name of the service '"));
    list[3] = shared_make("d", "10.0.0.1:443", "");
    assert_int_equal(svc_table_addresses_check(&t, err), -EINVAL);
    list[3] = shared_make("d", "10.0.0.1:443", "c.example");
    list[3].tls.proxy_protocol = 1;
    assert_int_equal(svc_table_addresses_check(&t, err), -EINVAL);
    assert_non_null(strstr(err, "proxy_protocol"));
    list[3].tls = (struct plan_tls){.mode = PLAN_TLS_OFF};
    assert_int_equal(svc_table_addresses_check(&t, err), -EINVAL);
    t.count = 0;
    assert_int_equal(svc_table_addresses_check(&t, err), 0);
}

/* The commands of a difference, as types in order. */
struct told {
    unsigned count;
    uint16_t type[16];
    char what[16][128];
};

static void note(void *arg, void *cmd, size_t len, const char *what)
{
    struct told *t = arg;
    struct wire_reader r = {.buf = cmd, .len = len};
    struct cmd_head head;
    cmd_get_head(&r, &head);
    assert_false(r.failed);
    assert_true(t->count < ARRAY_SIZE(t->type));
    snprintf(t->what[t->count], sizeof(t->what[0]), "%s", what);
    t->type[t->count++] = head.type;
    free(cmd);
}

static struct svc_backend backend_make(const char *name, const char *address, uint8_t origin)
{
    struct svc_backend b;
    svc_backend_init(&b);
    snprintf(b.name, sizeof(b.name), "%s", name);
    assert_int_equal(svc_address_parse(address, &b.address), 0);
    b.origin = origin;
    return b;
}

static void test_differences(void **state)
{
    struct svc now[] = {service_make("gone", "10.0.0.1:1"), service_make("hand", "10.0.0.2:1"),
                        service_make("same", "10.0.0.3:1"), service_make("web", "10.0.0.4:1")};
    struct svc want[] = {service_make("new", "10.0.0.1:1"), service_make("same", "10.0.0.3:1"),
                         service_make("web", "10.0.0.4:1")};
    struct svc_backend have[] = {
        backend_make("a", "10.1.0.1:1", SVC_FROM_FILE), backend_make("b", "10.1.0.2:1", SVC_FROM_FILE),
        backend_make("c", "10.1.0.3:1", SVC_FROM_API), backend_make("d", "10.1.0.4:1", SVC_FROM_FILE)};
    struct svc_backend wish[] = {backend_make("a", "10.1.0.1:1", SVC_FROM_FILE),
                                 backend_make("b", "10.1.0.9:1", SVC_FROM_FILE)};
    struct svc_table file = {want, 3, wish, 2}, there = {now, 4, have, 4};
    struct told t = {0};
    (void)state;
    for (size_t i = 0; i < 3; i++)
        want[i].origin = SVC_FROM_FILE;
    now[0].origin = now[2].origin = now[3].origin = SVC_FROM_FILE;
    now[3].backends = 4;
    want[2].backends = 2;
    want[2].policy = SVC_MAGLEV;
    assert_int_equal(services_declare_diff(&there, &file, note, &t), 5);
    assert_int_equal(t.type[0], CMD_SERVICE_RM);
    assert_string_equal(t.what[0], "removal of service 'gone'");
    assert_int_equal(t.type[1], CMD_BACKEND_RM); /* b moves, d goes; c is another's */
    assert_int_equal(t.type[2], CMD_SERVICE_SET);
    assert_string_equal(t.what[2], "settings of service 'new'");
    assert_int_equal(t.type[3], CMD_SERVICE_SET);
    assert_int_equal(t.type[4], CMD_BACKEND_SET);
    /* Nothing when the state says it. */
    t.count = 0;
    assert_int_equal(services_declare_diff(&file, &file, note, &t), 0);
    assert_int_equal(t.count, 0);
}

/* Names that go from one service to another are let go first; two may exchange theirs. */
static void test_differences_of_names(void **state)
{
    struct svc was[] = {shared_make("a", "10.0.0.1:443", "a.example,b.example"),
                        shared_make("b", "10.0.0.1:443", "c.example")};
    struct svc is[] = {shared_make("a", "10.0.0.1:443", "c.example"),
                       shared_make("b", "10.0.0.1:443", "a.example,b.example")};
    struct svc_table before = {.service = was, .count = 2}, after = {.service = is, .count = 2};
    struct told t = {0};
    (void)state;
    assert_int_equal(services_declare_diff(&before, &after, note, &t), 4);
    for (int i = 0; i < 4; i++)
        assert_int_equal(t.type[i], CMD_SERVICE_SET);
    assert_non_null(strstr(t.what[0], "names that move of service 'a'"));
    assert_non_null(strstr(t.what[1], "names that move of service 'b'"));
    memset(&t, 0, sizeof(t));
    is[1] = shared_make("b", "10.0.0.1:443", "d.example"); /* nobody waits for what goes */
    is[0] = shared_make("a", "10.0.0.1:443", "a.example");
    assert_int_equal(services_declare_diff(&before, &after, note, &t), 2);
}

static const char *text_of(const struct svc *s, const char *key)
{
    static char text[SVC_TEXT_MAX];
    return svc_field_text(s, key, text);
}

/* What was never said is the new kind's, what was said stays. */
static void test_another_kind(void **state)
{
    struct svc s;
    char err[SVC_ERROR_MAX];
    (void)state;
    svc_init(&s, SVC_HTTP);
    assert_int_equal(svc_field_set(&s, "check.path", "/healthz", err), 0);
    assert_int_equal(svc_field_set(&s, "retries", "5", err), 0);
    svc_kind_change(&s, SVC_DOCKER);
    assert_string_equal(text_of(&s, "kind"), "docker");
    assert_string_equal(text_of(&s, "check.path"), "/healthz");
    assert_string_equal(text_of(&s, "check.statuses"), "200");
    assert_string_equal(text_of(&s, "response_timeout"), "0");
    assert_string_equal(text_of(&s, "forwarded.mode"), "off");
    assert_string_equal(text_of(&s, "retries"), "5");
    for (int from = SVC_TCP; from <= SVC_KUBERNETES; from++) /* and all of it, if nothing was said */
        for (int to = SVC_TCP; to <= SVC_KUBERNETES; to++) {
            struct svc fresh;
            svc_init(&s, (enum svc_kind)from);
            svc_init(&fresh, (enum svc_kind)to);
            svc_kind_change(&s, (enum svc_kind)to);
            assert_true(svc_same(&s, &fresh));
        }
}

static void test_fields_that_nobody_reads(void **state)
{
    struct svc s;
    char err[SVC_ERROR_MAX], text[SVC_TEXT_MAX];
    (void)state;
    svc_init(&s, SVC_HTTP);
    memcpy(s.name, "web", 4);
    assert_false(svc_fields_unused(&s, text));
    assert_int_equal(svc_field_set(&s, "check.path", "/x", err), 0);
    assert_false(svc_fields_unused(&s, text));
    assert_int_equal(svc_field_set(&s, "retries", "5", err), 0);
    assert_int_equal(svc_field_set(&s, "coalesce", "true", err), 0);
    assert_true(svc_fields_unused(&s, text));
    assert_non_null(strstr(text, "'web' has path: direct"));
    assert_non_null(strstr(text, "nobody reads retries, coalesce;"));
    s.route = SVC_PROXY;
    assert_false(svc_fields_unused(&s, text));
    s.route = SVC_DIRECT;
    memset(s.name, 'n', SVC_NAME_MAX);
    for (size_t k = 0; k < svc_field_count(); k++) /* all of them: told as far as there is room */
        if (svc_field_is_proxys(k) && svc_field_form(svc_field_key(k)) == SVC_FORM_NUMBER)
            assert_int_equal(svc_field_set(&s, svc_field_key(k), "7", err), 0);
    assert_true(svc_fields_unused(&s, text));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_another_kind),
        cmocka_unit_test(test_fields_that_nobody_reads),
        cmocka_unit_test(test_texts),
        cmocka_unit_test(test_every_text_can_be_read_back),
        cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_what_goes_together),
        cmocka_unit_test(test_differences),
        cmocka_unit_test(test_differences_of_names),
        cmocka_unit_test(test_bytes_for_older_nodes),
        cmocka_unit_test(test_bytes_of_version_1),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_addresses_of_a_table),
        cmocka_unit_test(test_unix_sockets),
        cmocka_unit_test(test_proxy_goes_together),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
