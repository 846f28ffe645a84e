/* SPDX-License-Identifier: Apache-2.0 */
/* Services compiled into entries of the kernel's maps. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <arpa/inet.h>
#include <cmocka.h>

#include "check.h"
#include "control/compile/kernel_compile.h"
#include "control/compile/kernel_managers.h"

enum { BACKENDS_ROOM = 5000 };

/* A table that grows by hand: services by name, backends in their order. */
struct fixture {
    struct svc_table table;
    struct kernel_facts facts;
    struct kernel_local local[3];
    struct kernel_peer_config peer[4];
    struct kernel_takeover_config takeover;
    struct kernel_input in;
    bool no_route;
};

static struct abi_addr addr(const char *text)
{
    char with_port[ADDRESS_TEXT_MAX];
    struct svc_address a;
    struct abi_addr out;
    snprintf(with_port, sizeof(with_port), strchr(text, ':') ? "[%s]:1" : "%s:1", text);
    assert_int_equal(svc_address_parse(with_port, &a), 0);
    memcpy(out.word, a.ip, sizeof(out.word));
    return out;
}

static bool is_addr(const struct abi_addr *a, const char *text)
{
    struct abi_addr b = addr(text);
    return memcmp(a, &b, sizeof(b)) == 0;
}

static bool fact_source(void *arg, const struct abi_addr *to, struct abi_addr *source, bool *watched)
{
    struct fixture *f = arg;
    *watched = !is_addr(to, "10.8.0.1"); /* behind a tunnel */
    *source = addr(to->word[0] ? "fd00::100" : "10.0.0.100");
    return !f->no_route;
}

static bool fact_neighbour(void *arg, uint32_t ifindex, const struct abi_addr *a, uint8_t mac[6])
{
    (void)arg;
    memset(mac, (int)ifindex, 6);
    return is_addr(a, "10.0.0.2");
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    f->table.service = calloc(16, sizeof(*f->table.service));
    f->table.backend = calloc(BACKENDS_ROOM, sizeof(*f->table.backend));
    f->local[0] = (struct kernel_local){.addr = addr("127.0.0.1"), .ifindex = 1, .prefix = 104};
    f->local[1] = (struct kernel_local){
        .addr = addr("10.0.0.100"), .ifindex = 2, .prefix = 120, .mac = {2, 0, 0, 0, 0, 1}};
    f->local[2] = (struct kernel_local){
        .addr = addr("fd00::100"), .ifindex = 3, .prefix = 64, .mac = {2, 0, 0, 0, 0, 2}};
    f->facts = (struct kernel_facts){.node_id = 9,
                                     .probes = true,
                                     .tick_us = 20000,
                                     .backends_max = 8192,
                                     .rows_max = 1 << 20,
                                     .local = f->local,
                                     .local_count = 3,
                                     .source = fact_source,
                                     .neighbour = fact_neighbour,
                                     .arg = f};
    f->in = (struct kernel_input){
        .services = &f->table, .peer = f->peer, .takeover = &f->takeover, .facts = &f->facts};
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    svc_table_fini(&f->table);
    free(f);
    return 0;
}

static struct svc *add_service(struct fixture *f, const char *name, const char *address)
{
    struct svc *s = &f->table.service[f->table.count++];
    svc_init(s, SVC_TCP);
    snprintf(s->name, sizeof(s->name), "%s", name);
    assert_int_equal(svc_address_parse(address, &s->address), 0);
    s->id = (uint32_t)f->table.count;
    s->first_backend = f->table.backend_count;
    return s;
}

/* To the last service; ids in the order of the calls. */
static struct svc_backend *add_backend(struct fixture *f, const char *address)
{
    struct svc *s = &f->table.service[f->table.count - 1];
    struct svc_backend *b = &f->table.backend[f->table.backend_count];
    svc_backend_init(b);
    snprintf(b->name, sizeof(b->name), "b%04zu", f->table.backend_count);
    assert_int_equal(svc_address_parse(address, &b->address), 0);
    b->id = (uint32_t)f->table.backend_count++;
    b->generation = 1;
    b->service = s->id;
    s->backends++;
    return b;
}

static void test_services_and_backends(void **state)
{
    struct fixture *f = *state;
    struct svc *s = add_service(f, "a", "10.9.0.2:80");
    s->policy = SVC_MAGLEV;
    s->edge = SVC_EDGE_FULL_NAT;
    s->takeover = true;
    add_backend(f, "10.0.1.1:8080")->weight = 7;
    add_backend(f, "10.0.0.100:8080")->admin = SVC_DRAIN;
    add_service(f, "b", "10.9.0.1:80")->check.kind = SVC_CHECK_NONE;
    add_backend(f, "10.0.1.1:8080");
    struct kernel_entries *e = kernel_compile(&f->in, NULL);
    assert_int_equal(e->service_count, 2);
    assert_true(is_addr(&e->service[0].key.addr, "10.9.0.1"));
    const struct kernel_service *a = &e->service[1];
    assert_int_equal(a->key.port, htons(80));
    assert_int_equal(a->key.zero, 0);
    assert_int_equal(a->value.id, 1);
    assert_int_equal(a->value.policy, ABI_POLICY_MAGLEV);
    assert_int_equal(a->value.edge, ABI_EDGE_FULL_NAT);
    assert_int_equal(a->value.flags, ABI_SERVICE_CUT | ABI_SERVICE_STEER | ABI_SERVICE_TAKEOVER);
    assert_true(is_addr(&a->value.edge_source, "10.0.0.100"));
    assert_int_equal(a->value.backend_count, 2);
    assert_true(a->value.rows > 200 && a->row);
    assert_int_equal(e->backend_count, 3);
    assert_int_equal(e->backend[0].weight, 7);
    assert_int_equal(e->backend[0].service, 1);
    assert_int_equal(e->backend[0].port, htons(8080));
    assert_true(is_addr(&e->backend[0].source, "10.0.0.100"));
    assert_int_equal(e->backend[0].flags, ABI_BACKEND_CUT);
    assert_int_equal(e->backend[1].admin, ABI_ADMIN_DRAIN);
    assert_int_equal(e->backend[1].flags, ABI_BACKEND_LOCAL | ABI_BACKEND_CUT);
    assert_int_equal(e->backend[2].flags, ABI_BACKEND_UNCHECKED | ABI_BACKEND_CUT);
    /* One endpoint of two services is a chain. */
    assert_int_equal(e->endpoint_count, 2);
    assert_int_equal(e->endpoint[1].value.first, 0);
    assert_int_equal(e->backend[0].next_same, 2);
    assert_int_equal(e->backend[1].next_same, ABI_NO_BACKEND);
    assert_int_equal(e->backend[2].next_same, ABI_NO_BACKEND);
    kernel_entries_free(e);
}

static void test_gaps_and_what_does_not_fit(void **state)
{
    struct fixture *f = *state;
    add_service(f, "a", "10.9.0.1:80");
    add_backend(f, "10.0.1.1:80")->id = 5;
    add_backend(f, "10.0.1.2:80")->id = 900;
    f->facts.backends_max = 100;
    struct kernel_entries *e = kernel_compile(&f->in, NULL);
    assert_int_equal(e->left_out, 1);
    assert_int_equal(e->backend_count, 6);
    assert_int_equal(e->backend[0].admin, ABI_ADMIN_NONE);
    assert_int_equal(e->order_count, 1);
    for (uint32_t i = 0; i < e->service[0].value.rows; i++)
        assert_int_equal(e->service[0].row[i].backend[0], 5);
    kernel_entries_free(e);
    svc_table_fini(&f->table);
    e = kernel_compile(&f->in, NULL);
    assert_int_equal(e->service_count + e->backend_count + e->endpoint_count + e->order_count + e->peer_count,
                     0);
    kernel_entries_free(e);
}

static void test_source_of_a_backend_that_lost_its_route(void **state)
{
    struct fixture *f = *state;
    add_service(f, "a", "10.9.0.1:80");
    struct svc_backend *b = add_backend(f, "10.0.1.1:80");
    struct kernel_entries *before = kernel_compile(&f->in, NULL);
    f->no_route = true;
    struct kernel_entries *e = kernel_compile(&f->in, before);
    assert_int_equal(e->unreachable, 1);
    assert_true(is_addr(&e->backend[0].source, "10.0.0.100"));
    kernel_entries_free(e);
    b->address.ip[15] = 2; /* another backend: what was true of the old one is not of it */
    e = kernel_compile(&f->in, before);
    assert_int_equal(e->backend[0].source.word[3], 0);
    kernel_entries_free(e);
    kernel_entries_free(before);
}

/* Behind a device that programs are not on, no probe would ever be answered. */
static void test_a_backend_that_cannot_be_probed(void **state)
{
    struct fixture *f = *state;
    add_service(f, "a", "10.9.0.1:80");
    add_backend(f, "10.8.0.1:80");
    add_backend(f, "10.8.0.2:80");
    add_service(f, "b", "10.9.0.2:80")->check.kind = SVC_CHECK_NONE;
    add_backend(f, "10.8.0.1:80");
    struct kernel_entries *e = kernel_compile(&f->in, NULL);
    assert_int_equal(e->backend[0].flags, ABI_BACKEND_UNCHECKED | ABI_BACKEND_UNPROBED | ABI_BACKEND_CUT);
    assert_int_equal(e->backend[1].flags, ABI_BACKEND_CUT);
    assert_true(e->backend[2].flags & ABI_BACKEND_UNPROBED);
    assert_int_equal(e->unprobed, 1); /* of the other one nobody asked for a check */
    assert_int_equal(e->unreachable, 0);
    kernel_entries_free(e);
}

static void test_check_and_its_request(void **state)
{
    struct fixture *f = *state;
    struct svc *s = add_service(f, "a", "[fd00::9]:80");
    s->check.kind = SVC_CHECK_HTTP;
    char err[SVC_ERROR_MAX];
    for (int len = 1; len < 40; len++) {
        char path[SVC_PATH_MAX], *end;
        snprintf(path, sizeof(path), "/%.*s", len, "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz");
        assert_int_equal(svc_field_set(s, "check.path", path, err), 0);
        struct kernel_entries *e = kernel_compile(&f->in, NULL);
        const struct abi_check *c = &e->check[s->id];
        char request[ABI_REQUEST_MAX + 1] = "", first[200];
        assert_int_equal(c->kind, ABI_CHECK_HTTP);
        assert_true(c->request_bytes % 4 == 0 && c->request_bytes <= ABI_REQUEST_MAX);
        memcpy(request, c->request, c->request_bytes);
        assert_int_equal(strlen(request), c->request_bytes);
        snprintf(first, sizeof(first), "GET %s HTTP/1.1\r\nHost: [fd00::9]:80\r\n", path);
        assert_memory_equal(request, first, strlen(first));
        assert_non_null(strstr(request, "fairlead\r\nConnection: close\r\n\r\n"));
        end = strstr(request, "\r\n\r\n");
        assert_int_equal(end + 4 - request, c->request_bytes);
        assert_int_equal(c->interval_us, 20000);
        assert_int_equal(c->http_interval_us, 1000000);
        assert_int_equal(c->http_timeout_us, 500000);
        assert_true(c->statuses[(200 - 100) / 64] >> (200 - 100) % 64 & 1);
        assert_false(c->statuses[(404 - 100) / 64] >> (404 - 100) % 64 & 1);
        kernel_entries_free(e);
    }
}

static void test_rows_are_taken_over(void **state)
{
    struct fixture *f = *state;
    add_service(f, "a", "10.9.0.1:80");
    for (int i = 1; i < 20; i++) {
        char text[32];
        snprintf(text, sizeof(text), "10.0.1.%d:80", i);
        add_backend(f, text);
    }
    struct kernel_entries *one = kernel_compile(&f->in, NULL), *two, *three;
    f->table.service[0].policy = SVC_MAGLEV;
    f->table.backend[3].admin = SVC_DRAIN;
    two = kernel_compile(&f->in, one);
    assert_ptr_equal(one->service[0].row, two->service[0].row);
    f->table.backend[3].weight = 5;
    three = kernel_compile(&f->in, two);
    assert_ptr_not_equal(two->service[0].row, three->service[0].row);
    assert_true(two->service[0].rows_key != three->service[0].rows_key);
    kernel_entries_free(one);
    uint32_t id = two->service[0].row[0].backend[0]; /* still there */
    assert_true(id < 19);
    kernel_entries_free(two);
    kernel_entries_free(three);
}

static void test_rows_fit_their_budget(void **state)
{
    struct fixture *f = *state;
    for (int k = 0; k < 10; k++) {
        char name[32], text[32];
        snprintf(name, sizeof(name), "s%d", k);
        snprintf(text, sizeof(text), "10.9.0.%d:80", k + 1);
        add_service(f, name, text);
        for (int i = 1; i <= 100; i++) {
            snprintf(text, sizeof(text), "10.0.%d.%d:80", k + 1, i);
            add_backend(f, text);
        }
    }
    for (uint32_t rows_max = 1 << 18; rows_max >= 1 << 12; rows_max /= 4) {
        uint64_t rows = 0;
        f->facts.rows_max = rows_max;
        struct kernel_entries *e = kernel_compile(&f->in, NULL);
        for (uint32_t i = 0; i < e->service_count; i++) {
            assert_true(e->service[i].value.rows > e->service[i].value.backend_count);
            rows += e->service[i].value.rows;
        }
        assert_true(rows <= rows_max);
        kernel_entries_free(e);
    }
}

/* Every checked backend is in the order once, in a class that is not slower than asked for. */
static void check_plan(const struct fixture *f, const struct kernel_entries *e)
{
    uint8_t seen[BACKENDS_ROOM] = {0};
    uint32_t at = 0;
    assert_int_equal(e->order_count, f->table.backend_count);
    assert_true(e->plan.classes <= ABI_PROBE_CLASSES);
    for (uint32_t c = 0; c < e->plan.classes; c++) {
        const struct abi_probe_class *class = &e->plan.class[c];
        assert_int_equal(class->first, at);
        assert_true(class->divisor > 0 && class->count > 0);
        for (uint32_t i = 0; i < class->count; i++, at++) {
            uint32_t id = e->order[at];
            assert_false(seen[id]++);
            const struct svc *s = svc_find_id(&f->table, f->table.backend[id].service);
            uint64_t asked = s->check.interval_ms * 1000ull / f->facts.tick_us;
            assert_true(class->divisor <= (asked ? asked : 1));
        }
    }
    assert_int_equal(at, e->order_count);
}

static void test_probe_plan(void **state)
{
    static const uint32_t intervals[] = {10,   20,   30,    50,    100,    250,    1000,
                                         2000, 5000, 10000, 60000, 600000, 3600000};
    struct fixture *f = *state;
    for (size_t k = 0; k < ARRAY_SIZE(intervals); k++) {
        char name[32], text[32];
        snprintf(name, sizeof(name), "s%02zu", k);
        snprintf(text, sizeof(text), "10.9.0.%zu:80", k + 1);
        add_service(f, name, text)->check.interval_ms = intervals[k];
        for (size_t i = 0; i < 20 + k; i++) {
            snprintf(text, sizeof(text), "10.0.%zu.%zu:80", k + 1, i + 1);
            add_backend(f, text);
        }
        struct kernel_entries *e = kernel_compile(&f->in, NULL);
        check_plan(f, e);
        kernel_entries_free(e);
    }
    struct kernel_entries *e = kernel_compile(&f->in, NULL);
    assert_int_equal(e->plan.class[0].divisor, 1);
    assert_true(e->probes_per_s > 20 * 100 + 21 * 50);
    kernel_entries_free(e);
    assert_int_equal(kernel_tick_us(&f->in, KERNEL_TICK_US), 10000);
    f->facts.probes = false;
    e = kernel_compile(&f->in, NULL);
    assert_int_equal(e->order_count + e->plan.classes, 0);
    kernel_entries_free(e);
}

static void add_peer(struct fixture *f, const char *name, const char *address)
{
    struct kernel_peer_config *p = &f->peer[f->in.peer_count++];
    snprintf(p->name, sizeof(p->name), "%s", name);
    assert_int_equal(svc_address_parse(address, &p->address), 0);
    p->interval_ms = 100;
    p->multiplier = 3;
    p->node_id = f->in.peer_count;
}

static void test_peers_keep_their_place(void **state)
{
    struct fixture *f = *state;
    add_service(f, "a", "10.9.0.1:80");
    snprintf(add_backend(f, "10.0.1.1:80")->node, 8, "n3");
    snprintf(add_backend(f, "10.0.1.2:80")->node, 8, "n2");
    snprintf(add_backend(f, "10.0.1.3:80")->node, 8, "n3");
    add_peer(f, "n2", "10.0.0.2:1");
    add_peer(f, "n3", "10.0.0.3:1");
    struct kernel_entries *e = kernel_compile(&f->in, NULL);
    assert_int_equal(e->peer_count, 2);
    assert_int_equal(e->peer[1].members_count, 2);
    assert_int_equal(e->member[e->peer[1].members_first], 0);
    assert_int_equal(e->member[e->peer[1].members_first + 1], 2);
    assert_int_equal(e->backend[1].peer, 1);
    assert_int_equal(e->peer[0].tx_us, 100000);
    assert_int_equal(e->peer[0].discriminator & 0xffff, 1);
    assert_true(ntohs(e->peer[0].source_port) >= 49152);
    assert_int_equal(e->peer[0].generation, 1);
    /* The first goes, another one comes: n3 stays where it is, as it is. */
    f->facts.peers_now = e->peer;
    f->facts.peers_now_count = e->peer_count;
    f->in.peer_count = 0;
    add_peer(f, "n4", "10.0.0.4:1");
    add_peer(f, "n3", "10.0.0.3:1");
    struct kernel_entries *next = kernel_compile(&f->in, e);
    assert_memory_equal(&next->peer[1].addr, &e->peer[1].addr, sizeof(next->peer[1].addr));
    assert_int_equal(next->peer[1].discriminator, e->peer[1].discriminator);
    assert_int_equal(next->peer[1].generation, 1);
    assert_true(is_addr(&next->peer[0].addr, "10.0.0.4"));
    assert_int_equal(next->peer[0].generation, 2);
    assert_int_equal(next->backend[1].peer, 0);
    kernel_entries_free(next);
    kernel_entries_free(e);
}

/* What a session that is gone said of a backend counts no more: on a node that does not probe nobody else
 * would take it back. What others said stays. */
static void test_verdicts_of_a_peer_that_is_gone(void **state)
{
    struct fixture *f = *state;
    add_service(f, "a", "10.9.0.1:80");
    snprintf(add_backend(f, "10.0.1.1:80")->node, 8, "n2");
    add_peer(f, "n2", "10.0.0.2:1");
    struct kernel_entries *e = kernel_compile(&f->in, NULL);
    const struct abi_backend *b = &e->backend[0];
    uint64_t lost = ABI_VERDICT(ABI_DOWN, ABI_HEARTBEAT, b->generation, 7);
    assert_int_equal(ABI_VERDICT_STATE_OF(lost, b->generation, b->peer), ABI_DOWN);
    f->facts.peers_now = e->peer;
    f->facts.peers_now_count = e->peer_count;
    f->in.peer_count = 0;
    struct kernel_entries *next = kernel_compile(&f->in, e);
    b = &next->backend[0];
    uint64_t refused = ABI_VERDICT(ABI_DOWN, ABI_PROBE_REFUSED, b->generation, 7);
    assert_int_equal(b->generation, e->backend[0].generation);
    assert_int_equal(ABI_VERDICT_STATE_OF(lost, b->generation, b->peer), ABI_UNKNOWN);
    assert_int_equal(ABI_VERDICT_STATE_OF(refused, b->generation, b->peer), ABI_DOWN);
    assert_int_equal(ABI_VERDICT_STATE_OF(refused, b->generation + 1, b->peer), ABI_UNKNOWN);
    kernel_entries_free(next);
    kernel_entries_free(e);
}

static void test_takeover(void **state)
{
    struct fixture *f = *state;
    struct svc *s = add_service(f, "a", "10.0.0.50:80");
    s->takeover = true;
    add_service(f, "b", "10.0.0.50:443")->takeover = true;
    add_service(f, "c", "10.1.0.50:80")->takeover = true;
    add_service(f, "d", "[fd00::50]:80")->takeover = true;
    add_service(f, "e", "10.0.0.51:80");
    add_peer(f, "n2", "10.0.0.2:1");
    f->takeover = (struct kernel_takeover_config){.candidate = {0, KERNEL_SELF}, .count = 2};
    struct kernel_entries *e = kernel_compile(&f->in, NULL);
    assert_int_equal(e->address_count, 2); /* one of v4, one of v6; c is on no connected network */
    const struct kernel_address *v4 =
        is_addr(&e->address[0].key.addr, "10.0.0.50") ? &e->address[0] : &e->address[1];
    assert_int_equal(v4->key.ifindex, 2);
    assert_int_equal(v4->value.managers, 2);
    assert_int_equal(v4->value.self, 1);
    assert_int_equal(v4->value.peer[0], 1);
    assert_int_equal(v4->value.peer[1], 0);
    assert_int_equal(v4->value.node_id[1], 9);
    uint64_t other = v4->value.node_id[0];
    assert_true(other != 0 && other != 9);
    assert_int_equal(v4->value.mac[0][0], 2);
    assert_int_equal(v4->value.own_mac[5], 1);
    kernel_entries_free(e);
    f->peer[0].node_id = 0; /* not said: yet it is somebody, and the same one */
    e = kernel_compile(&f->in, NULL);
    assert_int_equal(e->address[0].value.node_id[0], other);
    assert_int_equal(e->address[1].value.node_id[0], other);
    kernel_entries_free(e);
    f->peer[0].node_id = 9; /* clusters of one have the same number */
    e = kernel_compile(&f->in, NULL);
    assert_int_equal(e->address[0].value.node_id[0], other);
    kernel_entries_free(e);
    f->takeover.count = 0;
    e = kernel_compile(&f->in, NULL);
    assert_int_equal(e->address[0].value.managers, 1);
    assert_int_equal(e->address[0].value.self, 0);
    kernel_entries_free(e);
}

/* The cluster's managers, where the configuration does not say who. */
static void test_managers_take_over(void **state)
{
    struct fixture *f = *state;
    struct kernel_managers managers = {.self = 4, .count = 4};
    static const struct {
        uint64_t id;
        const char *name, *mesh, *data;
    } rows[] = {{2, "n2", "10.0.0.2:5010", NULL},
                {3, "n3", "10.77.0.3:5010", "[fd00::3]:5001"}, /* by its other address */
                {4, "n4", "10.0.0.100:5010", NULL},
                {9, "n9", "192.0.2.9:5010", NULL}}; /* elsewhere */
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct kernel_manager *m = &managers.manager[i];
        m->id = rows[i].id;
        snprintf(m->name, sizeof(m->name), "%s", rows[i].name);
        assert_int_equal(svc_address_parse(rows[i].mesh, &m->mesh), 0);
        if (rows[i].data)
            assert_int_equal(svc_address_parse(rows[i].data, &m->data), 0);
    }
    f->local[2].ifindex = 2; /* both families on one segment */
    add_service(f, "a", "10.0.0.50:80")->takeover = true;
    add_service(f, "b", "[fd00::50]:80")->takeover = true;
    add_peer(f, "other", "10.0.0.2:1"); /* the configuration's peers stay who they are */
    struct kernel_candidates c;
    kernel_candidates_make(&managers, &f->facts, f->peer, f->in.peer_count, &c);
    assert_int_equal(c.peer_count, 2);
    assert_string_equal(c.peer[0].name, "other");
    assert_string_equal(c.peer[1].name, "n3");
    assert_int_equal(c.peer[1].interval_ms, KERNEL_PEER_INTERVAL_MS);
    assert_int_equal(c.takeover.count, 3);
    struct kernel_input in = f->in;
    in.peer = c.peer;
    in.peer_count = c.peer_count;
    in.takeover = &c.takeover;
    struct kernel_entries *e = kernel_compile(&in, NULL);
    assert_int_equal(e->address_count, 2);
    for (uint32_t i = 0; i < 2; i++) { /* in the order of their ids, for either family */
        assert_int_equal(e->address[i].value.managers, 3);
        assert_int_equal(e->address[i].value.self, 2);
        assert_int_equal(e->address[i].value.peer[0], 1);
        assert_int_equal(e->address[i].value.peer[1], 2);
    }
    kernel_entries_free(e);
    f->local[2].ifindex = 3; /* a segment for each: who is on it counts there */
    e = kernel_compile(&in, NULL);
    for (uint32_t i = 0; i < 2; i++)
        assert_int_equal(e->address[i].value.managers, 2);
    kernel_entries_free(e);
    kernel_candidates_fini(&c);
    managers.self = 5; /* a worker answers for nothing, nor does its own stack */
    f->table.service[0].route = SVC_PROXY;
    kernel_candidates_make(&managers, &f->facts, NULL, 0, &c);
    in.peer = c.peer;
    in.peer_count = c.peer_count;
    assert_int_equal(c.peer_count, 0);
    e = kernel_compile(&in, NULL);
    assert_int_equal(e->address_count, 1);
    assert_int_equal(e->address[0].value.managers, 0);
    kernel_entries_free(e);
    kernel_candidates_fini(&c);
}

/* Of a proxied service the kernel checks the backends and nothing else; a Unix socket is not its affair. */
static void test_proxied(void **state)
{
    struct fixture *f = *state;
    char err[SVC_ERROR_MAX];
    add_service(f, "a", "10.0.0.1:80");
    add_backend(f, "10.0.1.1:80");
    add_service(f, "p", "10.0.0.2:80")->route = SVC_PROXY;
    f->table.service[1].edge = SVC_EDGE_OFF;
    add_backend(f, "10.0.1.2:80");
    struct svc_backend *dock = add_backend(f, "10.0.1.3:80");
    assert_int_equal(svc_backend_field_set(dock, "address", "unix:/run/a.sock", err), 0);
    add_backend(f, "10.0.1.4:80");
    struct kernel_entries *e = kernel_compile(&f->in, NULL);
    assert_int_equal(e->service_count, 1);
    assert_int_equal(e->service[0].value.id, 1);
    assert_non_null(e->service[0].row);
    assert_int_equal(e->backend_count, 4);
    assert_int_equal(e->backend[1].service, 2);
    assert_int_equal(e->backend[1].admin, ABI_ADMIN_ACTIVE);
    assert_int_equal(e->backend[2].admin, ABI_ADMIN_NONE);
    assert_int_equal(e->endpoint_count, 3);
    assert_int_equal(e->order_count, 3);
    assert_int_equal(e->check[2].kind, SVC_CHECK_TCP);
    struct kernel_entries *again = kernel_compile(&f->in, e);
    assert_ptr_equal(again->service[0].row, e->service[0].row);
    kernel_entries_free(e);
    kernel_entries_free(again);
}

/* An address that is this host's by a route alone is not answered for, unless takeover says by whom. */
static void test_quiet_addresses(void **state)
{
    struct fixture *f = *state;
    struct svc *s = add_service(f, "p", "10.0.0.7:80");
    s->route = SVC_PROXY;
    add_service(f, "q", "10.0.0.100:80")->route = SVC_PROXY; /* an interface has it */
    add_service(f, "r", "[fd00::7]:80")->route = SVC_PROXY;
    add_service(f, "s", "192.0.2.1:80")->route = SVC_PROXY; /* not of a network here */
    add_service(f, "t", "10.0.0.8:80");
    struct kernel_entries *e = kernel_compile(&f->in, NULL);
    assert_int_equal(e->address_count, 1);
    assert_true(is_addr(&e->address[0].key.addr, "10.0.0.7"));
    assert_int_equal(e->address[0].value.managers, 0);
    kernel_entries_free(e);
    struct svc *other = add_service(f, "u", "10.0.0.7:81");
    other->route = SVC_PROXY;
    other->takeover = true;
    e = kernel_compile(&f->in, NULL);
    assert_int_equal(e->address_count, 1);
    assert_int_equal(e->address[0].value.managers, 1);
    kernel_entries_free(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_services_and_backends, setup, teardown),
        cmocka_unit_test_setup_teardown(test_gaps_and_what_does_not_fit, setup, teardown),
        cmocka_unit_test_setup_teardown(test_source_of_a_backend_that_lost_its_route, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_backend_that_cannot_be_probed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_check_and_its_request, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rows_are_taken_over, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rows_fit_their_budget, setup, teardown),
        cmocka_unit_test_setup_teardown(test_probe_plan, setup, teardown),
        cmocka_unit_test_setup_teardown(test_peers_keep_their_place, setup, teardown),
        cmocka_unit_test_setup_teardown(test_verdicts_of_a_peer_that_is_gone, setup, teardown),
        cmocka_unit_test_setup_teardown(test_takeover, setup, teardown),
        cmocka_unit_test_setup_teardown(test_managers_take_over, setup, teardown),
        cmocka_unit_test_setup_teardown(test_proxied, setup, teardown),
        cmocka_unit_test_setup_teardown(test_quiet_addresses, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
