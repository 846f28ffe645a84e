/* SPDX-License-Identifier: Apache-2.0 */
/* Transactions of the state machine: all of it or nothing, wherever it fails. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "cmd_build.h"
#include "control/state/state.h"
#include "kv_memory.h"

enum { PARTS_MAX = 16 };

/* A part: its command, without the head. */
struct part {
    uint16_t type;
    struct cmd_build b;
};

struct fixture {
    struct kv_memory m;
    struct cmd_build b;
    struct state_event ev;
    uint64_t index;
    struct part part[PARTS_MAX];
    uint32_t count;
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
    kv_memory_fini(&f->m);
    free(f);
    return 0;
}

static struct wire_writer *part_begin(struct fixture *f, uint16_t type)
{
    struct part *p = &f->part[f->count++];
    p->type = type;
    p->b.w = (struct wire_writer){.buf = p->b.buf, .cap = sizeof(p->b.buf)};
    return &p->b.w;
}

static void service(struct fixture *f, const char *name, const char *address)
{
    struct svc s;
    svc_init(&s, SVC_TCP);
    snprintf(s.name, sizeof(s.name), "%s", name);
    assert_int_equal(svc_address_parse(address, &s.address), 0);
    struct wire_writer *w = part_begin(f, CMD_SERVICE_SET);
    wire_put_u64(w, CMD_REVISION_ANY);
    svc_put(w, &s);
}

static void backend(struct fixture *f, const char *service_name, const char *name, const char *address)
{
    struct svc_backend b;
    svc_backend_init(&b);
    snprintf(b.name, sizeof(b.name), "%s", name);
    assert_int_equal(svc_address_parse(address, &b.address), 0);
    struct wire_writer *w = part_begin(f, CMD_BACKEND_SET);
    wire_put_bytes(w, service_name, strlen(service_name));
    wire_put_u64(w, CMD_REVISION_ANY);
    wire_put_u32(w, 1);
    svc_backend_put(w, &b);
}

static void service_rm(struct fixture *f, const char *name)
{
    struct wire_writer *w = part_begin(f, CMD_SERVICE_RM);
    wire_put_bytes(w, name, strlen(name));
    wire_put_u8(w, SVC_FROM_API);
}

static void setting(struct fixture *f, const char *key, const char *value)
{
    struct wire_writer *w = part_begin(f, CMD_SETTING_SET);
    wire_put_bytes(w, key, strlen(key));
    wire_put_bytes(w, value, strlen(value));
}

/* Takes the parts and applies them, in an order of the caller's: at `broken` a part that is refused comes in.
 */
static enum cmd_status apply(struct fixture *f, int broken)
{
    struct state_tx tx = {.kv = &f->m.kv};
    uint64_t writes = f->m.writes;
    char err[256];
    cmd_begin(&f->b, CMD_TRANSACTION, 1000 + f->index);
    wire_put_u32(&f->b.w, f->count + (broken >= 0));
    for (uint32_t i = 0; i <= f->count; i++) {
        if ((int)i == broken) {
            wire_put_u16(&f->b.w, CMD_SERVICE_RM);
            wire_put_u32(&f->b.w, 4 + 4 + 1);
            cmd_text(&f->b, "none");
            wire_put_u8(&f->b.w, SVC_FROM_API);
        }
        if (i == f->count)
            break;
        wire_put_u16(&f->b.w, f->part[i].type);
        wire_put_bytes(&f->b.w, f->part[i].b.buf, f->part[i].b.w.len);
    }
    assert_false(f->b.w.failed);
    assert_int_equal(state_check(f->b.buf, f->b.w.len, NULL, err, sizeof(err)), CMD_OK);
    assert_int_equal(state_apply(&tx, ++f->index, f->b.buf, f->b.w.len, &f->ev), 0);
    if (f->ev.status != CMD_OK || !f->ev.changed)
        assert_int_equal(f->m.writes, writes);
    return f->ev.status;
}

static bool detail_has(const struct fixture *f, const char *text)
{
    char detail[STATE_DETAIL_MAX + 1];
    memcpy(detail, f->ev.detail, f->ev.detail_len);
    detail[f->ev.detail_len] = '\0';
    return strstr(detail, text) != NULL;
}

/* What depends on one another: a service and its backends, an address that moves from one service to another.
 */
static void fill(struct fixture *f)
{
    f->count = 0;
    service(f, "a", "10.0.0.1:80");
    backend(f, "a", "x", "10.1.0.1:80");
    backend(f, "a", "y", "10.1.0.2:80");
    setting(f, "http.idle_timeout", "5s");
    service_rm(f, "a");
    service(f, "b", "10.0.0.1:80");
    backend(f, "b", "x", "10.1.0.1:80");
    service(f, "c", "10.0.0.3:80");
}

static void check_filled(struct fixture *f, bool filled)
{
    struct svc_table table;
    uint8_t key[NAMES_KEY_MAX];
    struct kv_bytes value;
    size_t len = state_setting_key(key, "http.idle_timeout", 17);
    assert_int_equal(state_services_read(&f->m.kv, &table), 0);
    assert_int_equal(table.count, filled ? 2 : 0);
    assert_int_equal(table.backend_count, filled ? 1 : 0);
    if (filled)
        assert_string_equal(table.service[0].name, "b");
    svc_table_fini(&table);
    assert_int_equal(kv_get(&f->m.kv, PRIVATE_DATA, (struct kv_bytes){key, len}, &value),
                     filled ? 0 : -ENOENT);
}

static void test_all_of_it(void **state)
{
    struct fixture *f = *state;
    fill(f);
    assert_int_equal(apply(f, -1), CMD_OK);
    assert_true(f->ev.changed);
    check_filled(f, true);
}

static void test_none_of_it_wherever_it_fails(void **state)
{
    struct fixture *f = *state;
    fill(f);
    for (int broken = 0; broken <= (int)f->count; broken++) {
        char part[32];
        assert_int_equal(apply(f, broken), CMD_SERVICE_UNKNOWN);
        assert_false(f->ev.changed);
        snprintf(part, sizeof(part), "part %d of %u", broken + 1, f->count + 1);
        assert_true(detail_has(f, part));
        assert_true(detail_has(f, "'none'"));
        check_filled(f, false);
    }
    assert_int_equal(apply(f, -1), CMD_OK);
    check_filled(f, true);
    /* Over what is there the first part is refused itself: the address is another service's. */
    for (int broken = 0; broken <= (int)f->count; broken++) {
        assert_int_equal(apply(f, broken), broken ? CMD_CONFLICT : CMD_SERVICE_UNKNOWN);
        check_filled(f, true);
    }
}

/* One after another, and as one transaction: the same rows, byte for byte. */
static void test_it_is_the_same_as_one_after_another(void **state)
{
    struct fixture *f = *state;
    struct kv_memory singles;
    kv_memory_init(&singles);
    struct state_tx tx = {.kv = &singles.kv};
    fill(f);
    assert_int_equal(apply(f, -1), CMD_OK);
    for (uint32_t i = 0; i < f->count; i++) {
        cmd_begin(&f->b, f->part[i].type, 1000);
        wire_put(&f->b.w, f->part[i].b.buf, f->part[i].b.w.len);
        assert_int_equal(state_apply(&tx, f->index, f->b.buf, f->b.w.len, &f->ev), 0);
        assert_int_equal(f->ev.status, CMD_OK);
    }
    assert_int_equal(singles.db[PRIVATE_DATA].count, f->m.db[PRIVATE_DATA].count);
    for (size_t i = 0; i < singles.db[PRIVATE_DATA].count; i++) {
        const struct kv_memory_row *a = &singles.db[PRIVATE_DATA].row[i], *b = &f->m.db[PRIVATE_DATA].row[i];
        assert_int_equal(a->key_len, b->key_len);
        assert_memory_equal(a->key, b->key, a->key_len);
        assert_int_equal(a->value_len, b->value_len);
        assert_memory_equal(a->value, b->value, a->value_len);
    }
    kv_memory_fini(&singles);
}

static void test_nothing_to_do_is_no_change(void **state)
{
    struct fixture *f = *state;
    service(f, "c", "10.0.0.3:80");
    setting(f, "http.idle_timeout", "5s");
    assert_int_equal(apply(f, -1), CMD_OK);
    assert_true(f->ev.changed);
    assert_int_equal(apply(f, -1), CMD_OK);
    assert_false(f->ev.changed);
}

/* A command of the wrong kind, none at all, too many, cut short, with bytes behind it. */
static void test_what_is_no_transaction(void **state)
{
    struct fixture *f = *state;
    struct state_tx tx = {.kv = &f->m.kv};
    static const uint16_t wrong[] = {CMD_NONE, CMD_TAG_DELETE, CMD_TRANSACTION, CMD_NODE_RM, CMD_TYPE_COUNT};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        cmd_begin(&f->b, CMD_TRANSACTION, 1);
        wire_put_u32(&f->b.w, 1);
        wire_put_u16(&f->b.w, wrong[i]);
        wire_put_u32(&f->b.w, 0);
        assert_int_equal(state_apply(&tx, 1, f->b.buf, f->b.w.len, &f->ev), 0);
        assert_int_equal(f->ev.status, CMD_INVALID);
    }
    for (uint32_t count = 0; count <= STATE_PARTS_MAX + 1; count += STATE_PARTS_MAX + 1) {
        cmd_begin(&f->b, CMD_TRANSACTION, 1);
        wire_put_u32(&f->b.w, count);
        assert_int_equal(state_apply(&tx, 1, f->b.buf, f->b.w.len, &f->ev), 0);
        assert_int_equal(f->ev.status, CMD_INVALID);
    }
    fill(f);
    assert_int_equal(apply(f, -1), CMD_OK);
    uint64_t writes = f->m.writes;
    size_t len = f->b.w.len;
    for (size_t cut = 8; cut <= len + 1; cut++) {
        if (cut == len)
            continue;
        assert_int_equal(state_apply(&tx, 1, f->b.buf, cut, &f->ev), 0);
        assert_int_equal(f->ev.status, CMD_INVALID);
    }
    assert_int_equal(f->m.writes, writes);
}

static int never(const char *key, size_t key_len, const char *value, size_t value_len, char *err,
                 size_t err_len)
{
    (void)key, (void)key_len, (void)value, (void)value_len;
    snprintf(err, err_len, "no");
    return -EINVAL;
}

static void test_each_part_is_judged_before_it_is_proposed(void **state)
{
    struct fixture *f = *state;
    const struct state_setting_check check = {.check = never};
    char err[128];
    fill(f);
    apply(f, -1);
    assert_int_equal(state_check(f->b.buf, f->b.w.len, &check, err, sizeof(err)), CMD_INVALID);
    assert_string_equal(err, "no");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_all_of_it, setup, teardown),
        cmocka_unit_test_setup_teardown(test_none_of_it_wherever_it_fails, setup, teardown),
        cmocka_unit_test_setup_teardown(test_it_is_the_same_as_one_after_another, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nothing_to_do_is_no_change, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_is_no_transaction, setup, teardown),
        cmocka_unit_test_setup_teardown(test_each_part_is_judged_before_it_is_proposed, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
