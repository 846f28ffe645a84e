/* SPDX-License-Identifier: Apache-2.0 */
/* Services of the state as a plan has them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "check.h"
#include "control/compile/plan_services.h"
#include "control/settings.h"
#include "plan_names.h"

enum { BACKENDS_MAX = 100, FIRST = PLAN_PLACE_FIRST };

/* Three services, the middle one not proxied; `web` has two backends. */
struct world {
    struct svc service[3];
    struct svc_backend backend[4];
    struct svc_table table;
    struct kernel_peer_config peer;
    struct plan_facts facts;
};

static void set(struct svc *s, const char *key, const char *text)
{
    char err[SVC_ERROR_MAX];
    assert_int_equal(svc_field_set(s, key, text, err), 0);
}

static void service_make(struct svc *s, const char *name, const char *kind, const char *path, uint32_t id)
{
    svc_init(s, SVC_TCP);
    set(s, "kind", kind);
    svc_init(s, s->kind);
    set(s, "path", path);
    snprintf(s->name, sizeof(s->name), "%s", name);
    s->id = id;
    s->created_ms = 1000 + id;
}

static void backend_make(struct svc_backend *b, const char *address, uint32_t id, uint32_t service)
{
    char err[SVC_ERROR_MAX];
    svc_backend_init(b);
    assert_int_equal(svc_backend_field_set(b, "address", address, err), 0);
    svc_backend_name_default(b, b->name);
    b->id = id;
    b->generation = (uint16_t)(id + 1);
    b->service = service;
}

static void world_make(struct world *w)
{
    memset(w, 0, sizeof(*w));
    service_make(&w->service[0], "dock", "docker", "proxy", 9);
    service_make(&w->service[1], "plain", "tcp", "direct", 1);
    service_make(&w->service[2], "web", "registry", "proxy", 2);
    set(&w->service[2], "policy", "digest");
    set(&w->service[2], "all_down", "open");
    set(&w->service[2], "hedge", "300ms");
    backend_make(&w->backend[0], "unix:/run/docker.sock", 0, 9);
    backend_make(&w->backend[1], "10.0.0.1:80", 1, 1);
    backend_make(&w->backend[2], "10.0.0.2:80", 5, 2);
    backend_make(&w->backend[3], "[fd00::3]:81", BACKENDS_MAX, 2);
    w->backend[2].admin = SVC_DRAIN;
    w->backend[3].weight = 3;
    snprintf(w->backend[2].node, sizeof(w->backend[2].node), "node2");
    snprintf(w->peer.name, sizeof(w->peer.name), "node2");
    w->service[0].backends = w->service[1].backends = 1;
    w->service[1].first_backend = 1;
    w->service[2].backends = 2;
    w->service[2].first_backend = 2;
    w->table = (struct svc_table){w->service, 3, w->backend, 4};
    w->facts = (struct plan_facts){.backends_max = BACKENDS_MAX, .peer = &w->peer, .peer_count = 1};
}

static void test_services(void **state)
{
    struct world w;
    (void)state;
    world_make(&w);
    struct plan_services *p = plan_services_compile(&w.table, &w.facts, NULL);
    assert_int_equal(p->count, 2); /* by place, without what the kernel does alone */
    assert_int_equal(p->proxied[0].place, FIRST + 1);
    assert_int_equal(p->proxied[1].place, FIRST + 8);
    const struct plan_service *web = &p->proxied[0].service, *dock = &p->proxied[1].service;
    assert_string_equal(web->name, "web");
    assert_int_equal(web->kind, SERVICE_PROXY);
    assert_int_equal(web->proxy.kind, PROXY_REGISTRY);
    assert_int_equal(web->proxy.policy, PROXY_DIGEST);
    assert_int_equal(web->proxy.all_down, 1);
    assert_int_equal(web->proxy.hedge_ms, 300);
    assert_int_equal(web->proxy.retries, 3);
    assert_int_equal(web->tls.http2, 1);
    assert_int_equal(dock->proxy.kind, PROXY_DOCKER);
    assert_int_equal(dock->proxy.idle_timeout_ms, 0);
    plan_services_free(p);
}

static void test_backends(void **state)
{
    struct world w;
    (void)state;
    world_make(&w);
    struct plan_services *p = plan_services_compile(&w.table, &w.facts, NULL);
    const struct plan_backend *b = p->proxied[0].backend, *dock = p->proxied[1].backend;
    assert_int_equal(p->proxied[0].service.backend_count, 2);
    assert_int_equal(b[0].id, 5);
    assert_int_equal(b[0].generation, 6);
    assert_int_equal(b[0].draining, 1);
    assert_int_equal(b[0].checked, 1);
    assert_int_equal(b[0].peer, 1);
    assert_int_equal(b[0].port, 80);
    assert_memory_equal(b[0].ip, w.backend[2].address.ip, 16);
    assert_int_equal(b[1].checked, 0); /* the kernel has no room for it */
    assert_int_equal(b[1].weight, 3);
    assert_int_equal(b[1].draining, 0);
    assert_string_equal(dock->unix_path, "/run/docker.sock");
    assert_int_equal(dock->checked, 0);
    assert_int_equal(dock->port, 0);
    plan_services_free(p);
}

/* As the whole passes: what the data plane maps is well formed. */
static void test_whole(void **state)
{
    struct world w;
    uint64_t values[SETTINGS_COUNT];
    struct plan *plan;
    const char *err = "";
    (void)state;
    world_make(&w);
    struct plan_services *p = plan_services_compile(&w.table, &w.facts, NULL);
    static const uint64_t defaults[] = {
#define SETTING(symbol, name, type, min, max, def, text) def,
#include "settings.def"
#undef SETTING
    };
    memcpy(values, defaults, sizeof(values));
    const struct plan_input in = {
        .generation = 1, .setting = values, .proxied = p->proxied, .proxied_count = p->count};
    assert_int_equal(plan_compile(&in, &plan, &err), 0);
    assert_true(plan_check(plan, plan->bytes));
    const struct plan_service *web = plan_service_of(plan, FIRST + 1);
    unsigned seen[2] = {0};
    for (uint32_t i = 0; i < web->row_count; i++)
        seen[plan_rows(plan, web->first_row)[i]]++;
    assert_true(seen[0] > 0 && seen[1] > 2 * seen[0]); /* by weight */
    free(plan);
    plan_services_free(p);
}

static void share(struct svc *s, const char *names)
{
    char err[SVC_ERROR_MAX];
    assert_int_equal(svc_address_parse("10.0.0.9:443", &s->address), 0);
    set(s, "path", "proxy");
    set(s, "tls", "terminate");
    assert_int_equal(svc_field_set(s, "tls.names", names, err), 0);
}

/* Who is meant by a name. */
static void test_names(void **state)
{
    static const struct {
        const char *name;
        uint16_t place, strict; /* strict: without the service that has no names */
    } rows[] = {
        {"a.example", FIRST, FIRST},     {"x.b.example", FIRST + 1, FIRST + 1},
        {"y.b.example", FIRST, FIRST},   {"", FIRST + 8, 0},
        {"z.x.b.example", FIRST + 8, 0}, {"b.example", FIRST + 8, 0},
        {"example", FIRST + 8, 0},       {".b.example", FIRST + 8, 0},
        {"a.example.", FIRST + 8, 0},    {"*.b.example", FIRST, FIRST},
    };
    struct world w;
    (void)state;
    world_make(&w);
    share(&w.service[0], "");
    share(&w.service[1], "a.example,*.b.example");
    share(&w.service[2], "x.b.example");
    for (int strict = 0; strict <= 1; strict++) {
        struct plan_services *p = plan_services_compile(&w.table, &w.facts, NULL);
        struct plan *plan;
        const char *err;
        uint64_t values[SETTINGS_COUNT];
        for (int i = 0; i < SETTINGS_COUNT; i++)
            values[i] = setting_info(i)->def;
        const struct plan_input in = {.setting = values,
                                      .proxied = p->proxied,
                                      .proxied_count = p->count,
                                      .name = p->name,
                                      .name_count = p->name_count};
        assert_int_equal(plan_compile(&in, &plan, &err), 0);
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
            for (uint16_t place = FIRST; place <= FIRST + 1; place++)
                assert_int_equal(plan_name_place(plan, plan_service_of(plan, place), rows[i].name),
                                 strict ? rows[i].strict : rows[i].place);
        free(plan);
        plan_services_free(p);
        w.service[0].address.port++; /* elsewhere */
    }
}

static void test_tables_are_kept(void **state)
{
    struct world w;
    (void)state;
    world_make(&w);
    struct plan_services *p = plan_services_compile(&w.table, &w.facts, NULL);
    w.backend[2].admin = SVC_ACTIVE; /* does not move anything */
    struct plan_services *next = plan_services_compile(&w.table, &w.facts, p);
    assert_ptr_equal(p->proxied[0].row, next->proxied[0].row);
    plan_services_free(p);
    w.backend[2].weight = 9;
    p = plan_services_compile(&w.table, &w.facts, next);
    assert_ptr_not_equal(p->proxied[0].row, next->proxied[0].row);
    assert_null(p->proxied[1].row);
    plan_services_free(p);
    plan_services_free(next);
}

static void test_incarnations(void **state)
{
    struct world w;
    (void)state;
    world_make(&w);
    struct svc *web = &w.service[2];
    struct plan_services *p = plan_services_compile(&w.table, &w.facts, NULL);
    uint32_t first = p->proxied[0].service.incarnation;
    assert_int_not_equal(first, 0);
    plan_services_free(p);
    static const struct {
        const char *key, *text;
        bool same;
    } rows[] = {{"retries", "7", true},
                {"policy", "least", true},
                {"kind", "http", true},
                {"tls", "terminate", false},
                {"tls", "off", true},
                {"proxy_protocol", "true", false},
                {"proxy_protocol", "false", true},
                {"kind", "tcp", false}};
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        set(web, rows[i].key, rows[i].text);
        p = plan_services_compile(&w.table, &w.facts, NULL);
        assert_int_equal(p->proxied[0].service.incarnation == first, rows[i].same);
        plan_services_free(p);
    }
    world_make(&w);
    web->created_ms++; /* removed and made again */
    p = plan_services_compile(&w.table, &w.facts, NULL);
    assert_int_not_equal(p->proxied[0].service.incarnation, first);
    plan_services_free(p);
}

static void test_nothing(void **state)
{
    struct svc_table none = {0};
    struct plan_facts facts = {.backends_max = 1};
    (void)state;
    struct plan_services *p = plan_services_compile(&none, &facts, NULL);
    assert_int_equal(p->count, 0);
    plan_services_free(p);
    plan_services_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_services),        cmocka_unit_test(test_backends),
        cmocka_unit_test(test_names),           cmocka_unit_test(test_whole),
        cmocka_unit_test(test_tables_are_kept), cmocka_unit_test(test_incarnations),
        cmocka_unit_test(test_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
