/* SPDX-License-Identifier: Apache-2.0 */
/* Services and backends in the state machine: what is taken, what is refused, and what their ids mean. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "cmd_build.h"
#include "control/state/state.h"
#include "kv_memory.h"

struct fixture {
    struct kv_memory m;
    struct cmd_build b;
    struct state_event ev;
    uint64_t index;
    struct svc_table table;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    kv_memory_init(&f->m);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    svc_table_fini(&f->table);
    kv_memory_fini(&f->m);
    free(f);
    return 0;
}

static enum cmd_status apply(struct fixture *f)
{
    struct state_tx tx = {.kv = &f->m.kv};
    uint64_t writes = f->m.writes;
    assert_false(f->b.w.failed);
    assert_int_equal(state_apply(&tx, ++f->index, f->b.w.buf, f->b.w.len, &f->ev), 0);
    if (f->ev.status != CMD_OK || !f->ev.changed)
        assert_int_equal(f->m.writes, writes);
    if (f->ev.status != CMD_OK)
        assert_true(f->ev.detail_len > 0);
    svc_table_fini(&f->table);
    assert_int_equal(state_services_read(&f->m.kv, &f->table), 0);
    return f->ev.status;
}

static bool detail_has(const struct fixture *f, const char *text)
{
    char detail[STATE_DETAIL_MAX + 1];
    memcpy(detail, f->ev.detail, f->ev.detail_len);
    detail[f->ev.detail_len] = '\0';
    return strstr(detail, text) != NULL;
}

static struct svc service_make(const char *name, const char *address)
{
    struct svc s;
    svc_init(&s, SVC_TCP);
    snprintf(s.name, sizeof(s.name), "%s", name);
    assert_int_equal(svc_address_parse(address, &s.address), 0);
    return s;
}

static enum cmd_status set_service(struct fixture *f, const struct svc *s, uint64_t revision)
{
    cmd_begin(&f->b, CMD_SERVICE_SET, 1000 + f->index);
    wire_put_u64(&f->b.w, revision);
    svc_put(&f->b.w, s);
    return apply(f);
}

static enum cmd_status make_service(struct fixture *f, const char *name, const char *address)
{
    struct svc s = service_make(name, address);
    return set_service(f, &s, 0);
}

static enum cmd_status rm_service(struct fixture *f, const char *name, uint8_t origin)
{
    cmd_begin(&f->b, CMD_SERVICE_RM, 1000 + f->index);
    cmd_text(&f->b, name);
    wire_put_u8(&f->b.w, origin);
    return apply(f);
}

static void begin_backends(struct fixture *f, const char *service, uint64_t revision, uint32_t count)
{
    cmd_begin(&f->b, CMD_BACKEND_SET, 1000 + f->index);
    cmd_text(&f->b, service);
    wire_put_u64(&f->b.w, revision);
    wire_put_u32(&f->b.w, count);
}

static void put_backend(struct fixture *f, const char *name, const char *address, uint8_t origin)
{
    struct svc_backend b;
    svc_backend_init(&b);
    snprintf(b.name, sizeof(b.name), "%s", name);
    assert_int_equal(svc_address_parse(address, &b.address), 0);
    b.origin = origin;
    svc_backend_put(&f->b.w, &b);
}

static enum cmd_status set_backend(struct fixture *f, const char *service, const char *name,
                                   const char *address, uint64_t revision)
{
    begin_backends(f, service, revision, 1);
    put_backend(f, name, address, SVC_FROM_API);
    return apply(f);
}

/* CMD_BACKEND_RM with an origin, CMD_BACKEND_ADMIN with a state. */
static enum cmd_status name_backend(struct fixture *f, uint16_t type, const char *service, uint8_t what,
                                    const char *name)
{
    cmd_begin(&f->b, type, 1000 + f->index);
    cmd_text(&f->b, service);
    wire_put_u8(&f->b.w, what);
    wire_put_u32(&f->b.w, 1);
    cmd_text(&f->b, name);
    return apply(f);
}

static const struct svc_backend *backend(const struct fixture *f, const char *service, const char *name)
{
    const struct svc *s = svc_find(&f->table, service);
    return s ? svc_find_backend(&f->table, s, name) : NULL;
}

static void test_service_is_made_changed_and_removed(void **state)
{
    struct fixture *f = *state;
    struct svc s = service_make("web", "10.0.0.1:80");
    assert_int_equal(set_service(f, &s, 0), CMD_OK);
    assert_true(f->ev.changed);
    assert_int_equal(f->table.count, 1);
    assert_int_equal(f->table.service[0].id, 1);
    assert_int_equal(f->table.service[0].revision, 1);
    assert_true(svc_same(&f->table.service[0], &s));
    assert_int_equal(set_service(f, &s, CMD_REVISION_ANY), CMD_OK);
    assert_false(f->ev.changed);
    s.policy = SVC_MAGLEV;
    assert_int_equal(set_service(f, &s, 1), CMD_OK);
    assert_int_equal(f->table.service[0].policy, SVC_MAGLEV);
    assert_int_equal(f->table.service[0].revision, 3);
    assert_int_equal(f->table.service[0].created_ms, 1000);
    assert_int_equal(set_service(f, &s, 1), CMD_CONFLICT);
    assert_int_equal(set_service(f, &s, 0), CMD_CONFLICT);
    assert_int_equal(rm_service(f, "web", SVC_FROM_API), CMD_OK);
    assert_int_equal(f->table.count, 0);
    assert_int_equal(rm_service(f, "web", SVC_FROM_API), CMD_SERVICE_UNKNOWN);
    assert_int_equal(set_service(f, &s, 3), CMD_SERVICE_UNKNOWN);
}

static void test_an_address_is_one_services(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(make_service(f, "a", "10.0.0.1:80"), CMD_OK);
    assert_int_equal(make_service(f, "b", "10.0.0.1:80"), CMD_CONFLICT);
    assert_true(detail_has(f, "'a'"));
    assert_int_equal(make_service(f, "b", "10.0.0.1:81"), CMD_OK);
    struct svc a = service_make("a", "10.0.0.2:80");
    assert_int_equal(set_service(f, &a, CMD_REVISION_ANY), CMD_OK);
    struct svc b = service_make("b", "10.0.0.1:80");
    assert_int_equal(set_service(f, &b, CMD_REVISION_ANY), CMD_OK);
    assert_int_equal(rm_service(f, "b", SVC_FROM_API), CMD_OK);
    assert_int_equal(make_service(f, "c", "10.0.0.1:80"), CMD_OK);
    assert_int_equal(make_service(f, "d", "[fd00::1]:80"), CMD_OK);
}

/* Names that are prefixes of each other do not mix. */
static void test_ids_stay_and_generations_grow(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(make_service(f, "s", "10.0.0.1:80"), CMD_OK);
    assert_int_equal(make_service(f, "s2", "10.0.0.1:81"), CMD_OK);
    assert_int_equal(set_backend(f, "s", "a", "10.0.1.1:80", 0), CMD_OK);
    assert_int_equal(set_backend(f, "s2", "a", "10.0.1.1:80", 0), CMD_OK);
    assert_int_equal(set_backend(f, "s", "b", "10.0.1.2:80", 0), CMD_OK);
    assert_int_equal(backend(f, "s", "a")->id, 0);
    assert_int_equal(backend(f, "s2", "a")->id, 1);
    assert_int_equal(backend(f, "s", "b")->id, 2);
    assert_int_equal(backend(f, "s", "b")->generation, 1);
    assert_int_equal(name_backend(f, CMD_BACKEND_RM, "s", SVC_FROM_API, "a"), CMD_OK);
    assert_null(backend(f, "s", "a"));
    assert_int_equal(backend(f, "s", "b")->id, 2);
    assert_int_equal(set_backend(f, "s2", "c", "10.0.1.9:80", 0), CMD_OK);
    assert_int_equal(backend(f, "s2", "c")->id, 0);
    assert_int_equal(backend(f, "s2", "c")->generation, 2);
    assert_int_equal(set_backend(f, "s2", "c", "10.0.1.8:80", CMD_REVISION_ANY), CMD_OK);
    assert_int_equal(backend(f, "s2", "c")->id, 0);
    assert_int_equal(backend(f, "s2", "c")->generation, 3);
    assert_int_equal(rm_service(f, "s2", SVC_FROM_API), CMD_OK);
    assert_int_equal(f->table.backend_count, 1);
    assert_int_equal(make_service(f, "s3", "10.0.0.1:81"), CMD_OK);
    assert_int_equal(svc_find(&f->table, "s3")->id, 2);
    assert_int_equal(set_backend(f, "s3", "x", "10.0.1.7:80", 0), CMD_OK);
    assert_int_equal(backend(f, "s3", "x")->id, 0);
    assert_int_equal(backend(f, "s3", "x")->generation, 4);
    assert_int_equal(set_backend(f, "s3", "y", "10.0.1.6:80", 0), CMD_OK);
    assert_int_equal(backend(f, "s3", "y")->id, 1);
    assert_int_equal(set_backend(f, "s3", "z", "10.0.1.5:80", 0), CMD_OK);
    assert_int_equal(backend(f, "s3", "z")->id, 3);
}

static void test_backends_of_a_list_are_all_or_none(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(make_service(f, "s", "10.0.0.1:80"), CMD_OK);
    begin_backends(f, "s", 0, 3);
    put_backend(f, "a", "10.0.1.1:80", SVC_FROM_API);
    put_backend(f, "b", "10.0.1.2:80", SVC_FROM_API);
    put_backend(f, "c", "10.0.1.1:80", SVC_FROM_API);
    assert_int_equal(apply(f), CMD_CONFLICT);
    begin_backends(f, "s", 0, 2);
    put_backend(f, "a", "10.0.1.1:80", SVC_FROM_API);
    put_backend(f, "b", "127.0.0.1:80", SVC_FROM_API);
    assert_int_equal(apply(f), CMD_INVALID);
    assert_true(detail_has(f, "loopback"));
    begin_backends(f, "s", 0, 2);
    put_backend(f, "b", "10.0.1.1:80", SVC_FROM_API);
    put_backend(f, "a", "10.0.1.2:80", SVC_FROM_API);
    assert_int_equal(apply(f), CMD_INVALID);
    begin_backends(f, "s", 0, 2);
    put_backend(f, "a", "10.0.1.1:80", SVC_FROM_API);
    put_backend(f, "a", "10.0.1.2:80", SVC_FROM_API);
    assert_int_equal(apply(f), CMD_INVALID);
    assert_int_equal(f->table.backend_count, 0);
    begin_backends(f, "s", 0, 2);
    put_backend(f, "a", "10.0.1.1:80", SVC_FROM_API);
    put_backend(f, "b", "10.0.1.2:80", SVC_FROM_API);
    assert_int_equal(apply(f), CMD_OK);
    assert_int_equal(f->table.service[0].backends, 2);
    begin_backends(f, "s", 0, 2);
    put_backend(f, "b", "10.0.1.3:80", SVC_FROM_API);
    put_backend(f, "c", "10.0.1.4:80", SVC_FROM_API);
    assert_int_equal(apply(f), CMD_CONFLICT);
    assert_int_equal(set_backend(f, "s", "c", "10.0.1.2:80", 0), CMD_CONFLICT);
    assert_int_equal(set_backend(f, "nobody", "c", "10.0.1.2:80", 0), CMD_SERVICE_UNKNOWN);
    assert_int_equal(set_backend(f, "s", "six", "[fd00::1]:80", 0), CMD_INVALID);
    assert_int_equal(set_backend(f, "s", "self", "10.0.0.1:80", 0), CMD_INVALID);
}

static void test_a_service_must_go_with_its_backends(void **state)
{
    struct fixture *f = *state;
    struct svc s = service_make("s", "10.0.0.1:80");
    s.steer = false;
    s.edge = SVC_EDGE_NAT;
    assert_int_equal(set_service(f, &s, 0), CMD_OK);
    assert_int_equal(set_backend(f, "s", "l", "127.0.0.1:80", 0), CMD_OK);
    s.steer = true;
    assert_int_equal(set_service(f, &s, CMD_REVISION_ANY), CMD_INVALID);
    assert_true(detail_has(f, "'l'"));
    s.steer = false;
    assert_int_equal(svc_address_parse("[fd00::1]:80", &s.address), 0);
    assert_int_equal(set_service(f, &s, CMD_REVISION_ANY), CMD_INVALID);
}

static void test_drain_and_back(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(make_service(f, "s", "10.0.0.1:80"), CMD_OK);
    assert_int_equal(set_backend(f, "s", "a", "10.0.1.1:80", 0), CMD_OK);
    assert_int_equal(name_backend(f, CMD_BACKEND_ADMIN, "s", SVC_DRAIN, "a"), CMD_OK);
    assert_int_equal(backend(f, "s", "a")->admin, SVC_DRAIN);
    assert_int_equal(name_backend(f, CMD_BACKEND_ADMIN, "s", SVC_DRAIN, "a"), CMD_OK);
    assert_false(f->ev.changed);
    /* A change of another field leaves it drained, and the verdict on it valid. */
    begin_backends(f, "s", CMD_REVISION_ANY, 1);
    struct svc_backend b;
    svc_backend_init(&b);
    b = *backend(f, "s", "a");
    b.weight = 7;
    svc_backend_put(&f->b.w, &b);
    assert_int_equal(apply(f), CMD_OK);
    assert_int_equal(backend(f, "s", "a")->weight, 7);
    assert_int_equal(backend(f, "s", "a")->admin, SVC_DRAIN);
    assert_int_equal(backend(f, "s", "a")->generation, 1);
    assert_int_equal(name_backend(f, CMD_BACKEND_ADMIN, "s", SVC_ACTIVE, "a"), CMD_OK);
    assert_int_equal(backend(f, "s", "a")->admin, SVC_ACTIVE);
    assert_int_equal(name_backend(f, CMD_BACKEND_ADMIN, "s", 3, "a"), CMD_INVALID);
    assert_int_equal(name_backend(f, CMD_BACKEND_ADMIN, "s", SVC_DRAIN, "b"), CMD_BACKEND_UNKNOWN);
}

static void test_what_the_file_says_only_the_file_changes(void **state)
{
    struct fixture *f = *state;
    struct svc s = service_make("s", "10.0.0.1:80");
    assert_int_equal(set_service(f, &s, 0), CMD_OK);
    s.origin = SVC_FROM_FILE;
    assert_int_equal(set_service(f, &s, CMD_REVISION_ANY), CMD_OK);
    assert_int_equal(f->table.service[0].origin, SVC_FROM_FILE);
    s.origin = SVC_FROM_API;
    assert_int_equal(set_service(f, &s, CMD_REVISION_ANY), CMD_DECLARED);
    assert_int_equal(rm_service(f, "s", SVC_FROM_API), CMD_DECLARED);
    begin_backends(f, "s", CMD_REVISION_ANY, 1);
    put_backend(f, "a", "10.0.1.1:80", SVC_FROM_FILE);
    assert_int_equal(apply(f), CMD_OK);
    assert_int_equal(set_backend(f, "s", "a", "10.0.1.2:80", CMD_REVISION_ANY), CMD_DECLARED);
    assert_int_equal(name_backend(f, CMD_BACKEND_RM, "s", SVC_FROM_API, "a"), CMD_DECLARED);
    assert_int_equal(name_backend(f, CMD_BACKEND_ADMIN, "s", SVC_DRAIN, "a"), CMD_OK);
    assert_int_equal(set_backend(f, "s", "b", "10.0.1.2:80", 0), CMD_OK);
    assert_int_equal(name_backend(f, CMD_BACKEND_RM, "s", SVC_FROM_FILE, "a"), CMD_OK);
    assert_int_equal(rm_service(f, "s", SVC_FROM_FILE), CMD_OK);
    assert_int_equal(f->table.backend_count, 0);
}

static void test_limit_of_backends(void **state)
{
    struct fixture *f = *state;
    struct state_tx tx = {.kv = &f->m.kv};
    size_t cap = 1 << 20;
    uint8_t *room = malloc(cap);
    assert_non_null(room);
    assert_int_equal(make_service(f, "s", "10.0.0.1:80"), CMD_OK);
    for (uint32_t count = SVC_BACKENDS_MAX; count <= SVC_BACKENDS_MAX + 1; count++) {
        begin_backends(f, "s", CMD_REVISION_ANY, count);
        memcpy(room, f->b.buf, f->b.w.len);
        f->b.w.buf = room;
        f->b.w.cap = cap;
        for (uint32_t i = 0; i < count; i++) {
            char name[16], address[32];
            snprintf(name, sizeof(name), "b%05u", i);
            snprintf(address, sizeof(address), "10.1.%u.%u:80", i / 250, i % 250 + 1);
            put_backend(f, name, address, SVC_FROM_API);
        }
        assert_int_equal(state_apply(&tx, ++f->index, room, f->b.w.len, &f->ev), 0);
        assert_int_equal(f->ev.status, count > SVC_BACKENDS_MAX ? CMD_INVALID : CMD_OK);
    }
    assert_int_equal(set_backend(f, "s", "more", "10.2.0.1:80", 0), CMD_LIMIT);
    assert_int_equal(f->table.backend_count, SVC_BACKENDS_MAX);
    assert_int_equal(rm_service(f, "s", SVC_FROM_API), CMD_OK);
    free(room);
}

/* Whatever is cut or changed in a command is refused as a whole, or is a command that can be applied. */
static void test_damaged_commands_change_nothing_half(void **state)
{
    struct fixture *f = *state;
    struct state_tx tx = {.kv = &f->m.kv};
    assert_int_equal(make_service(f, "s", "10.0.0.1:80"), CMD_OK);
    begin_backends(f, "s", CMD_REVISION_ANY, 2);
    put_backend(f, "a", "10.0.1.1:80", SVC_FROM_API);
    put_backend(f, "b", "10.0.1.2:80", SVC_FROM_API);
    for (size_t len = 60; len < f->b.w.len; len++) {
        assert_int_equal(state_apply(&tx, ++f->index, f->b.buf, len, &f->ev), 0);
        assert_int_equal(f->ev.status, CMD_INVALID);
    }
    uint32_t seed = 1;
    for (int round = 0; round < 20000; round++) {
        uint8_t copy[sizeof(f->b.buf)];
        memcpy(copy, f->b.buf, f->b.w.len);
        seed = seed * 1103515245 + 12345;
        copy[16 + (seed >> 8) % (f->b.w.len - 16)] = (uint8_t)(seed >> 24);
        assert_int_equal(state_apply(&tx, ++f->index, copy, f->b.w.len, &f->ev), 0);
        if (round % 100 == 0) {
            svc_table_fini(&f->table);
            assert_int_equal(state_services_read(&f->m.kv, &f->table), 0);
        }
    }
}

/* The same log gives the same rows, and an entry that the file holds is not applied again. */
static void test_replay(void **state)
{
    struct fixture *f = *state;
    struct state_tx done = {.kv = &f->m.kv, .private_done = true};
    assert_int_equal(make_service(f, "s", "10.0.0.1:80"), CMD_OK);
    uint64_t writes = f->m.writes;
    assert_int_equal(state_apply(&done, 1, f->b.w.buf, f->b.w.len, &f->ev), 0);
    assert_int_equal(f->m.writes, writes);
    struct state_tx other_file = {.kv = &f->m.kv, .names_done = true};
    assert_int_equal(state_apply(&other_file, 1, f->b.w.buf, f->b.w.len, &f->ev), 0);
    assert_int_equal(f->ev.status, CMD_CONFLICT);
}

static enum cmd_status share(struct fixture *f, const char *name, const char *address, const char *mode,
                             const char *names)
{
    struct svc s = service_make(name, address);
    char err[SVC_ERROR_MAX];
    s.route = SVC_PROXY;
    s.tls.certificate_count = 1;
    memcpy(s.tls.certificate[0], "c", 2);
    assert_int_equal(svc_field_set(&s, "tls", mode, err), 0);
    assert_int_equal(svc_field_set(&s, "tls.names", names, err), 0);
    return set_service(f, &s, CMD_REVISION_ANY);
}

/* Several services of an address are told apart by names; one may have none. */
static void test_names_at_an_address(void **state)
{
    static const char at[] = "10.0.0.1:443";
    struct fixture *f = *state;
    assert_int_equal(share(f, "a", at, "terminate", "a.example,*.b.example"), CMD_OK);
    assert_int_equal(share(f, "b", at, "passthrough", "x.b.example"), CMD_OK); /* the longer one counts */
    assert_int_equal(share(f, "c", at, "terminate", "d.example,A.example"), CMD_CONFLICT);
    assert_true(detail_has(f, "'a.example' at 10.0.0.1:443 is a name of the service 'a'"));
    assert_int_equal(share(f, "c", at, "terminate", ""), CMD_OK);
    assert_int_equal(share(f, "d", at, "terminate", ""), CMD_CONFLICT);
    assert_true(detail_has(f, "the service 'c'"));
    assert_int_equal(make_service(f, "d", at), CMD_CONFLICT);                          /* in clear */
    assert_int_equal(share(f, "d", "10.0.0.1:444", "terminate", "a.example"), CMD_OK); /* elsewhere */
    assert_int_equal(make_service(f, "a", at), CMD_CONFLICT); /* one that is there cannot leave TLS */
    assert_int_equal(share(f, "a", at, "terminate", "*.b.example"), CMD_OK);
    assert_int_equal(share(f, "c", at, "terminate", "a.example"), CMD_OK);
    assert_int_equal(share(f, "d", at, "terminate", "a.example"), CMD_CONFLICT);
    assert_int_equal(rm_service(f, "c", SVC_FROM_API), CMD_OK);
    assert_int_equal(share(f, "d", at, "terminate", "a.example"), CMD_OK);
    assert_int_equal(make_service(f, "e", "10.0.0.1:444"), CMD_OK);
    assert_int_equal(f->table.count, 4);
    for (const char *name = "abd"; *name; name++)
        assert_int_equal(rm_service(f, (const char[]){*name, 0}, SVC_FROM_API), CMD_OK);
    assert_int_equal(make_service(f, "f", at), CMD_OK); /* nothing is left of them */
}

static void test_versions(void **state)
{
    struct fixture *f = *state;
    struct state_tx tx = {.kv = &f->m.kv};
    struct svc s = service_make("s", "10.0.0.1:80");
    cmd_begin(&f->b, CMD_SERVICE_SET, 1);
    wire_put_u64(&f->b.w, 0);
    size_t at = f->b.w.len;
    svc_put(&f->b.w, &s);
    f->b.buf[at] = 4;
    assert_int_equal(apply(f), CMD_INVALID);
    cmd_begin(&f->b, CMD_TYPE_COUNT, 1);
    assert_int_equal(state_apply(&tx, 9, f->b.w.buf, f->b.w.len, &f->ev), -EPROTO);
    /* A row of another version stops the node. */
    assert_int_equal(make_service(f, "s", "10.0.0.1:80"), CMD_OK);
    struct kv_bytes key = {"service:s", 9};
    assert_int_equal(kv_put(&f->m.kv, PRIVATE_DATA, key, (struct kv_bytes){"\2", 1}), 0);
    assert_int_equal(state_apply(&tx, 10, f->b.w.buf, 0, &f->ev), -EPROTO);
    cmd_begin(&f->b, CMD_SERVICE_RM, 1);
    cmd_text(&f->b, "s");
    wire_put_u8(&f->b.w, SVC_FROM_API);
    assert_int_equal(state_apply(&tx, 11, f->b.w.buf, f->b.w.len, &f->ev), -EUCLEAN);
    svc_table_fini(&f->table);
    assert_int_equal(state_services_read(&f->m.kv, &f->table), -EUCLEAN);
}

static void test_check_before_proposing(void **state)
{
    struct fixture *f = *state;
    char err[SVC_ERROR_MAX];
    struct svc s = service_make("s", "10.0.0.1:80");
    s.tls.mode = PLAN_TLS_TERMINATE;
    cmd_begin(&f->b, CMD_SERVICE_SET, 1);
    wire_put_u64(&f->b.w, 0);
    svc_put(&f->b.w, &s);
    assert_int_equal(state_check(f->b.w.buf, f->b.w.len, NULL, err, sizeof(err)), CMD_INVALID);
    assert_non_null(strstr(err, "path: proxy"));
    s.tls.mode = PLAN_TLS_OFF;
    cmd_begin(&f->b, CMD_SERVICE_SET, 1);
    wire_put_u64(&f->b.w, 0);
    svc_put(&f->b.w, &s);
    assert_int_equal(state_check(f->b.w.buf, f->b.w.len, NULL, err, sizeof(err)), CMD_OK);
}

/* A Unix socket is one backend, whatever it is called, and only a proxied service has it. */
static void test_unix_backends(void **state)
{
    struct fixture *f = *state;
    char err[SVC_ERROR_MAX];
    struct svc s = service_make("s", "10.0.0.1:80");
    struct svc_backend b;
    s.route = SVC_PROXY;
    cmd_begin(&f->b, CMD_SERVICE_SET, 1);
    wire_put_u64(&f->b.w, 0);
    svc_put(&f->b.w, &s);
    assert_int_equal(apply(f), CMD_OK);
    svc_backend_init(&b);
    assert_int_equal(svc_backend_field_set(&b, "address", "unix:/run/a.sock", err), 0);
    for (int i = 0; i < 2; i++) {
        snprintf(b.name, sizeof(b.name), "%d", i);
        cmd_begin(&f->b, CMD_BACKEND_SET, 2);
        cmd_text(&f->b, "s");
        wire_put_u64(&f->b.w, 0);
        wire_put_u32(&f->b.w, 1);
        svc_backend_put(&f->b.w, &b);
        assert_int_equal(apply(f), i ? CMD_CONFLICT : CMD_OK);
    }
    svc_table_fini(&f->table);
    assert_int_equal(state_services_read(&f->m.kv, &f->table), 0);
    assert_int_equal(f->table.backend_count, 1);
    assert_string_equal(f->table.backend[0].unix_path, "/run/a.sock");
    s.route = SVC_DIRECT;
    cmd_begin(&f->b, CMD_SERVICE_SET, 3);
    wire_put_u64(&f->b.w, CMD_REVISION_ANY);
    svc_put(&f->b.w, &s);
    assert_int_equal(apply(f), CMD_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_service_is_made_changed_and_removed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_an_address_is_one_services, setup, teardown),
        cmocka_unit_test_setup_teardown(test_ids_stay_and_generations_grow, setup, teardown),
        cmocka_unit_test_setup_teardown(test_backends_of_a_list_are_all_or_none, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_service_must_go_with_its_backends, setup, teardown),
        cmocka_unit_test_setup_teardown(test_drain_and_back, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_the_file_says_only_the_file_changes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_limit_of_backends, setup, teardown),
        cmocka_unit_test_setup_teardown(test_damaged_commands_change_nothing_half, setup, teardown),
        cmocka_unit_test_setup_teardown(test_replay, setup, teardown),
        cmocka_unit_test_setup_teardown(test_unix_backends, setup, teardown),
        cmocka_unit_test_setup_teardown(test_names_at_an_address, setup, teardown),
        cmocka_unit_test_setup_teardown(test_versions, setup, teardown),
        cmocka_unit_test_setup_teardown(test_check_before_proposing, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
