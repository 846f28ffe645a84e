/* SPDX-License-Identifier: Apache-2.0 */
/* Sources with backends of their own as a plan has them; resolver and clock are played. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <cmocka.h>

#include "check.h"
#include "control/resolve.h"
#include "control/source_found.h"
#include "control/source_hosts.h"
#include "temp_dir.h"

enum { ASKED_MAX = 256 };

static struct {
    char name[RESOLVE_NAME_MAX + 1];
    resolve_done done;
    void *arg;
} asked[ASKED_MAX];
static unsigned asked_count, asked_max, published;
static int resolve_error;
static uint64_t clock_ms;
static struct source_hosts *hosts;
static struct temp_dir folder;
static struct source_table all;

/* ------------------------------------------------------------------ played */

uint64_t uv_now(const uv_loop_t *loop)
{
    (void)loop;
    return clock_ms;
}

struct resolver *resolver_new(uv_loop_t *loop)
{
    (void)loop;
    return NULL;
}

void resolver_close(struct resolver *r)
{
    (void)r;
}

int resolve_name(struct resolver *r, const char *name, resolve_done done, void *arg)
{
    (void)r;
    if (resolve_error)
        return resolve_error;
    if (asked_count >= asked_max)
        return -EBUSY;
    assert_true(asked_count < ASKED_MAX);
    snprintf(asked[asked_count].name, sizeof(asked[0].name), "%s", name);
    asked[asked_count].done = done;
    asked[asked_count++].arg = arg;
    return 0;
}

/* Addresses 10.0.0.LAST. */
static void found(unsigned i, unsigned count, const uint8_t *last)
{
    struct resolve_answer a = {.count = count, .error = "nobody has it"};
    for (unsigned k = 0; k < count; k++) {
        a.ip[k][10] = a.ip[k][11] = 0xff;
        a.ip[k][12] = 10;
        a.ip[k][15] = last[k];
    }
    asked[i].done(asked[i].arg, &a);
}

static void on_publish(void *arg)
{
    (void)arg;
    published++;
}

static struct source_hosts *hosts_new(void)
{
    const struct source_hosts_config config = {.state_fd = folder.fd, .publish = on_publish};
    return source_hosts_new(&config);
}

static int setup(void **state)
{
    (void)state;
    temp_dir_make(&folder);
    asked_count = published = 0;
    resolve_error = 0;
    asked_max = ASKED_MAX;
    clock_ms = 1000000;
    hosts = hosts_new();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    source_table_fini(&all);
    source_hosts_close(hosts);
    temp_dir_remove(&folder);
    return 0;
}

static struct source *put(const char *prefix, const char *backends, bool tls)
{
    struct source s;
    char err[SOURCE_ERROR_MAX];
    source_init(&s, prefix);
    assert_int_equal(source_field_set(&s, "backends", backends, err), 0);
    s.tls = tls;
    assert_int_equal(source_check(&s, err, sizeof(err)), 0);
    struct source *there = source_find(&all, prefix);
    if (there)
        *there = s;
    else
        source_table_add(&all, &s);
    source_hosts_set(hosts, &all);
    return source_find(&all, prefix);
}

static void later(uint64_t ms)
{
    clock_ms += ms;
    source_hosts_tick(hosts);
}

static const char *problem(const char *prefix)
{
    static char text[SOURCE_PROBLEM_MAX];
    source_hosts_problem(hosts, prefix, text);
    return text;
}

/* ------------------------------------------------------------------ tests */

static void test_addresses(void **state)
{
    struct plan_proxied list[SOURCES_OWN_MAX];
    (void)state;
    put("a/", "192.0.2.1,[2001:db8::1]:444,192.0.2.1:80", false);
    put("b/", "192.0.2.9:5000", true);
    assert_int_equal(asked_count, 0);
    assert_int_equal(source_hosts_list(hosts, list), 2);
    const struct plan_service *a = &list[0].service, *b = &list[1].service;
    assert_int_equal(list[0].place, PLAN_PLACE_SOURCES);
    assert_int_equal(list[1].place, PLAN_PLACE_SOURCES + 1);
    assert_int_equal(a->backend_count, 2); /* one was there twice */
    assert_int_equal(list[0].backend[0].port, 80);
    assert_int_equal(list[0].backend[1].port, 444);
    assert_int_not_equal(list[0].backend[0].id, list[1].backend[0].id);
    assert_true(!a->proxy.backend_tls && b->proxy.backend_tls && b->proxy.backend_verify &&
                b->proxy.all_down);
    assert_string_equal(b->proxy.backend_name, "");
    assert_int_not_equal(a->incarnation, b->incarnation);
    assert_ptr_equal(source_hosts_find(hosts, "b/")->backend, list[1].backend);
    assert_null(source_hosts_find(hosts, "c/"));
    assert_string_equal(problem("a/"), "");
}

/* Nobody waits for a name; when it is found there is a plan with it. */
static void test_names(void **state)
{
    struct plan_proxied list[SOURCES_OWN_MAX];
    (void)state;
    put("a/", "hub.example", true);
    assert_int_equal(asked_count, 1);
    assert_string_equal(asked[0].name, "hub.example");
    assert_null(source_hosts_find(hosts, "a/"));
    assert_int_equal(source_hosts_list(hosts, list), 0);
    later(1000);
    assert_int_equal(asked_count, 1);
    found(0, 2, (const uint8_t[]){9, 4});
    assert_int_equal(published, 1);
    assert_int_equal(source_hosts_list(hosts, list), 1);
    assert_int_equal(list[0].service.backend_count, 2);
    assert_int_equal(list[0].backend[0].ip[15], 4);
    assert_int_equal(list[0].backend[0].port, 443);
    assert_string_equal(list[0].service.proxy.backend_name, "hub.example");
    uint32_t incarnation = list[0].service.incarnation;
    uint16_t generation = list[0].backend[0].generation;
    later(29000);
    assert_int_equal(asked_count, 2);
    found(1, 2, (const uint8_t[]){4, 9}); /* the same in another order */
    assert_int_equal(published, 1);
    later(30000);
    found(2, 1, (const uint8_t[]){5});
    assert_int_equal(published, 2);
    assert_int_equal(source_hosts_list(hosts, list), 1);
    assert_int_equal(list[0].backend[0].ip[15], 5);
    assert_int_equal(list[0].service.incarnation, incarnation);
    assert_int_not_equal(list[0].backend[0].generation, generation);
}

/* Who cannot be found now is asked where he was, and looked up sooner. */
static void test_not_found(void **state)
{
    struct plan_proxied list[SOURCES_OWN_MAX];
    (void)state;
    put("a/", "hub.example", true);
    found(0, 0, NULL);
    assert_non_null(strstr(problem("a/"), "nobody has it"));
    assert_null(strstr(problem("a/"), "last ones"));
    later(4000);
    assert_int_equal(asked_count, 1);
    later(1000);
    assert_int_equal(asked_count, 2);
    found(1, 1, (const uint8_t[]){1});
    assert_string_equal(problem("a/"), "");
    later(30000);
    found(2, 0, NULL);
    assert_non_null(strstr(problem("a/"), "last ones"));
    assert_int_equal(source_hosts_list(hosts, list), 1);
    assert_int_equal(list[0].backend[0].ip[15], 1);
    assert_int_equal(published, 1);
}

/* Too many names at a time: those are asked for at a later tick. */
static void test_busy(void **state)
{
    (void)state;
    resolve_error = -EBUSY;
    put("a/", "hub.example", true);
    assert_int_equal(asked_count, 0);
    later(1000);
    resolve_error = 0;
    later(1000);
    assert_int_equal(asked_count, 1);
    later(1000);
    assert_int_equal(asked_count, 1);
}

/* Names that nobody answers for, and room for two: all have their turn. */
static void test_turns(void **state)
{
    bool met[6] = {false};
    (void)state;
    asked_max = 2;
    for (int i = 0; i < 6; i++) {
        const char prefix[] = {'a', (char)('0' + i), '/', '\0'};
        const char name[] = {'h', (char)('0' + i), '.', 'e', '\0'};
        put(prefix, name, true);
    }
    for (int i = 0; i < 4; i++) {
        unsigned from = asked_max - 2;
        assert_int_equal(asked_count, asked_max);
        for (unsigned k = from; k < asked_count; k++) {
            met[asked[k].name[1] - '0'] = true;
            found(k, 0, NULL);
        }
        asked_max += 2;
        later(20000); /* by then all are due again */
    }
    for (int i = 0; i < 6; i++)
        assert_true(met[i]);
}

/* Of several addresses each has a name of its own; who stays when others change is the same backend. */
static void test_addresses_change(void **state)
{
    (void)state;
    put("a/", "hub.example", true);
    found(0, 2, (const uint8_t[]){4, 9});
    const struct plan_proxied *a = source_hosts_find(hosts, "a/");
    assert_string_equal(a->backend[0].name, "hub.example#0");
    assert_string_equal(a->backend[1].name, "hub.example#1");
    const struct plan_backend nine = a->backend[1];
    uint32_t four = a->backend[0].id;
    later(30000);
    found(1, 3, (const uint8_t[]){2, 7, 9});
    assert_int_equal(a->service.backend_count, 3);
    assert_memory_equal(&a->backend[2], &nine, sizeof(nine));
    for (int i = 0; i < 2; i++) {
        assert_int_not_equal(a->backend[i].id, nine.id);
        assert_int_not_equal(a->backend[i].id, four);
        assert_int_not_equal(a->backend[i].generation, nine.generation);
    }
    assert_string_equal(a->backend[0].name, "hub.example#2");
    assert_string_equal(a->backend[1].name, "hub.example#3");
}

/* A source that is changed: who is as he was keeps his addresses; answers for others are nobody's. */
static void test_changes(void **state)
{
    struct plan_proxied list[SOURCES_OWN_MAX];
    (void)state;
    put("a/", "hub.example", false);
    found(0, 1, (const uint8_t[]){1});
    uint32_t incarnation = source_hosts_find(hosts, "a/")->service.incarnation;
    struct source *a = put("a/", "hub.example", false);
    snprintf(a->credentials, sizeof(a->credentials), "robot");
    source_hosts_set(hosts, &all); /* no matter of its backends */
    assert_int_equal(asked_count, 1);
    assert_int_equal(source_hosts_find(hosts, "a/")->service.incarnation, incarnation);
    put("a/", "hub.example", true);
    assert_int_not_equal(source_hosts_find(hosts, "a/")->service.incarnation, incarnation);
    assert_int_equal(source_hosts_find(hosts, "a/")->backend[0].ip[15], 1);
    assert_int_equal(source_hosts_find(hosts, "a/")->backend[0].port, 443);
    assert_int_equal(asked_count, 2);
    put("a/", "other.example", true); /* while the answer for the former name is due */
    assert_int_equal(asked_count, 2);
    assert_null(source_hosts_find(hosts, "a/"));
    found(1, 1, (const uint8_t[]){7});
    assert_null(source_hosts_find(hosts, "a/"));
    assert_int_equal(asked_count, 3);
    assert_string_equal(asked[2].name, "other.example");
    found(2, 1, (const uint8_t[]){8});
    assert_int_equal(source_hosts_find(hosts, "a/")->backend[0].ip[15], 8);
    later(30000);
    assert_int_equal(asked_count, 4);
    source_table_fini(&all); /* gone, with a look under way */
    source_hosts_set(hosts, &all);
    assert_int_equal(source_hosts_list(hosts, list), 0);
    found(3, 1, (const uint8_t[]){9});
    assert_int_equal(source_hosts_list(hosts, list), 0);
    put("b/", "192.0.2.1", false); /* at the place of the former one */
    assert_int_equal(source_hosts_list(hosts, list), 1);
    assert_int_equal(list[0].backend[0].ip[12], 192);
}

static void test_all_places(void **state)
{
    struct plan_proxied list[SOURCES_OWN_MAX];
    char prefix[16];
    (void)state;
    for (int i = 0; i <= SOURCES_OWN_MAX; i++) {
        snprintf(prefix, sizeof(prefix), "s%d/", i);
        put(prefix, "192.0.2.1", false);
    }
    assert_int_equal(source_hosts_list(hosts, list), SOURCES_OWN_MAX);
    for (int i = 1; i < SOURCES_OWN_MAX; i++)
        assert_true(list[i - 1].place < list[i].place);
    assert_true(list[SOURCES_OWN_MAX - 1].place < PLAN_PLACE_FIRST);
    assert_null(source_hosts_find(hosts, prefix));
    assert_non_null(strstr(problem(prefix), "64"));
    *source_find(&all, "s3/") = *source_find(&all, prefix);
    source_hosts_set(hosts, &all);
    assert_non_null(source_hosts_find(hosts, prefix));
}

/* ------------------------------------------------------------------ the control after this one */

static void begin_again(void)
{
    source_hosts_close(hosts);
    source_table_fini(&all);
    asked_count = published = 0;
    hosts = hosts_new();
}

/* It begins with what was found before, and looks all the same. */
static void test_begins_again(void **state)
{
    (void)state;
    put("a/", "a.example,192.0.2.7", false);
    put("b/", "a.example:5000", false);
    found(0, 2, (const uint8_t[]){3, 2});
    begin_again();
    put("a/", "a.example,192.0.2.7", false);
    put("b/", "a.example:5000", false);
    put("c/", "c.example", false);
    const struct plan_service *a = &source_hosts_find(hosts, "a/")->service;
    assert_int_equal(a->backend_count, 3);
    assert_int_equal(source_hosts_find(hosts, "a/")->backend[1].ip[15], 3);
    assert_int_equal(source_hosts_find(hosts, "b/")->service.backend_count, 2);
    assert_null(source_hosts_find(hosts, "c/"));
    assert_int_equal(asked_count, 3);
    found(0, 2, (const uint8_t[]){2, 3});
    assert_int_equal(published, 0); /* nothing is new */
    found(0, 1, (const uint8_t[]){9});
    assert_int_equal(published, 1);
    begin_again();
    put("a/", "a.example", true);
    assert_int_equal(source_hosts_find(hosts, "a/")->backend[0].ip[15], 9);
}

static void spoil(off_t at, off_t cut)
{
    int fd = openat(folder.fd, SOURCE_FOUND_FILE, O_RDWR | O_CLOEXEC);
    uint8_t byte;
    struct stat st;
    CHECK(fd >= 0 && fstat(fd, &st) == 0 && (st.st_mode & 07777) == 0600);
    CHECK(at >= st.st_size || pread(fd, &byte, 1, at) == 1);
    byte ^= 1;
    CHECK(at >= st.st_size || pwrite(fd, &byte, 1, at) == 1);
    CHECK(cut < 0 || ftruncate(fd, cut) == 0);
    close(fd);
}

/* Each byte that is another one, each length: it begins with nothing. */
static void test_damaged(void **state)
{
    struct source_found f = {.count = 0}, again;
    const uint8_t ip[2][16] = {{1}, {2}};
    enum { BYTES = 4 + 4 + 4 + 9 + 1 + 32 + 4 };
    (void)state;
    source_found_add(&f, "a.example", 2, ip);
    source_found_add(&f, "a.example", 1, ip);
    source_found_add(&f, "none.example", 0, ip);
    for (off_t at = 0; at <= BYTES; at++)
        for (off_t cut = -1; cut <= 0; cut++) {
            assert_int_equal(source_found_write(folder.fd, &f), 0);
            spoil(cut ? at : BYTES, cut ? -1 : at);
            source_found_read(folder.fd, &again);
            assert_int_equal(again.count, at == BYTES);
            source_found_fini(&again);
        }
    source_found_fini(&f);
    CHECK(unlinkat(folder.fd, SOURCE_FOUND_FILE, 0) == 0);
    source_found_read(folder.fd, &again);
    assert_int_equal(again.count, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_addresses, setup, teardown),
        cmocka_unit_test_setup_teardown(test_names, setup, teardown),
        cmocka_unit_test_setup_teardown(test_not_found, setup, teardown),
        cmocka_unit_test_setup_teardown(test_busy, setup, teardown),
        cmocka_unit_test_setup_teardown(test_turns, setup, teardown),
        cmocka_unit_test_setup_teardown(test_addresses_change, setup, teardown),
        cmocka_unit_test_setup_teardown(test_changes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_all_places, setup, teardown),
        cmocka_unit_test_setup_teardown(test_begins_again, setup, teardown),
        cmocka_unit_test_setup_teardown(test_damaged, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
