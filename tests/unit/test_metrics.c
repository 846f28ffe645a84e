/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "check.h"
#include "dataplane/admin/metrics.h"

static struct counters_page *page;
static char text[256 << 10];

/* All of it, in pieces of cap bytes. */
static size_t write_all(size_t cap)
{
    static char piece[64 << 10];
    struct metrics_cursor at = {0};
    size_t len = 0;
    bool done = false;
    while (!done) {
        size_t n = metrics_write(page, NULL, &at, piece, cap, &done);
        assert_true(n > 0 && n < cap);
        assert_true(len + n < sizeof(text));
        memcpy(text + len, piece, n);
        len += n;
    }
    text[len] = '\0';
    return len;
}

static int set_up(void **state)
{
    (void)state;
    page = aligned_alloc(64, sizeof(*page));
    if (!page)
        return -1;
    memset(page, 0, sizeof(*page));
    page->rings = RINGS_MAX;
    for (unsigned r = 0; r < RINGS_MAX; r++) {
        for (unsigned c = 0; c < COUNTERS_COUNT; c++)
            page->ring[r].counter[c] = 1000000000000 * (c + 1) + r;
        for (unsigned c = 0; c < CLOSE_REASONS_COUNT; c++)
            page->ring[r].closed[c] = c;
        for (unsigned c = 0; c < CLASSES_COUNT; c++) {
            for (unsigned i = 0; i < LATENCY_BUCKETS; i++)
                page->ring[r].latency[c][i] = i + c;
            page->ring[r].latency_sum_us[c] = 1500000;
        }
    }
    page->control.raft_fsync_us_sum = 2500000;
    for (unsigned i = 0; i < MESH_ENDS_COUNT; i++)
        page->control.mesh_ended[i] = 100 + i;
    page->control.raft_elections[ELECTION_HOST] = 7;
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    free(page);
    return 0;
}

/* The value behind a sample's name and labels, as text; "" if it is not there. */
static const char *sample(const char *name)
{
    static char value[64];
    size_t len = strlen(name);
    value[0] = '\0';
    for (const char *p = text; p; p = strchr(p, '\n') ? strchr(p, '\n') + 1 : NULL)
        if (strncmp(p, name, len) == 0 && p[len] == ' ')
            (void)snprintf(value, sizeof(value), "%.*s", (int)strcspn(p + len + 1, "\n"), p + len + 1);
    return value;
}

static void test_values(void **state)
{
    (void)state;
    write_all(sizeof(text) / 8);
    page->rings = 1;
    char first[64];
    (void)snprintf(first, sizeof(first), "%llu", 64 * 1000000000000ull * (CTR_REQUESTS + 1) + 63 * 64 / 2);
    assert_string_equal(sample("fairlead_requests_total"), first);
    assert_string_not_equal(sample("fairlead_connections_open{ring=\"63\"}"), "");
    assert_string_equal(sample("fairlead_connections_closed_total{reason=\"client_eof\"}"), "64");
    assert_string_equal(sample("fairlead_raft_fsync_seconds_total"), "2.500000");
    assert_string_equal(sample("fairlead_mesh_connections_ended_total{reason=\"closed\"}"), "101");
    assert_string_equal(sample("fairlead_mesh_connections_ended_total{reason=\"ok\"}"), "");
    assert_string_equal(sample("fairlead_raft_elections_total{cause=\"host\"}"), "7");
    assert_string_equal(sample("fairlead_raft_elections_total{cause=\"silence\"}"), "0");
    assert_string_not_equal(sample("process_cpu_seconds_total"), "");
    /* The counter of milliseconds is shown in seconds. */
    assert_string_not_equal(sample("fairlead_liveness_seconds{ring=\"0\"}"), "");
    write_all(sizeof(text) / 8);
    (void)snprintf(first, sizeof(first), "%llu", 1000000000000ull * (CTR_REQUESTS + 1));
    assert_string_equal(sample("fairlead_requests_total"), first);
}

/* Buckets grow, the last one is the count, and the bounds are powers of two of a microsecond. */
static void test_histogram(void **state)
{
    (void)state;
    char name[128], count[64];
    unsigned long long before = 0;
    page->rings = 2;
    write_all(sizeof(text) / 8);
    (void)snprintf(count, sizeof(count), "%s",
                   sample("fairlead_response_first_byte_seconds_count{class=\"upload\"}"));
    assert_string_equal(count,
                        sample("fairlead_response_first_byte_seconds_bucket{class=\"upload\",le=\"+Inf\"}"));
    assert_string_equal(sample("fairlead_response_first_byte_seconds_sum{class=\"upload\"}"), "3.000000");
    for (unsigned i = 0; i + 1 < LATENCY_BUCKETS; i++) {
        (void)snprintf(name, sizeof(name),
                       "fairlead_response_first_byte_seconds_bucket{class=\"upload\",le=\"%.10g\"}",
                       (double)(1ull << i) / 1e6);
        unsigned long long v = strtoull(sample(name), NULL, 10);
        assert_int_equal(v - before, 2 * (i + CLASS_UPLOAD));
        before = v;
    }
    assert_int_equal(strtoull(count, NULL, 10) - before, 2 * (LATENCY_BUCKETS - 1 + CLASS_UPLOAD));
}

/* However it is cut into pieces, the text is the same, but for the process's own numbers at its end. */
static void test_pieces(void **state)
{
    (void)state;
    static char whole[sizeof(text)];
    write_all(sizeof(text) / 8);
    memcpy(whole, text, sizeof(text));
    write_all(METRICS_CAP_MIN);
    size_t len = (size_t)(strstr(whole, "# HELP process_") - whole);
    assert_memory_equal(whole, text, len);
}

/* A count of rings that the page cannot have is not believed. */
static void test_untrusted_rings(void **state)
{
    (void)state;
    page->rings = 4000000000u;
    write_all(sizeof(text) / 8);
    assert_string_equal(sample("fairlead_connections_open{ring=\"64\"}"), "");
}

/* Prometheus's own check: syntax, HELP and TYPE, names and units. */
static void test_promtool(void **state)
{
    (void)state;
    if (access("/usr/bin/promtool", X_OK) != 0)
        skip();
    size_t len = write_all(sizeof(text) / 8);
    FILE *f = popen("/usr/bin/promtool check metrics >&2", "w");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, len, f), len);
    assert_int_equal(pclose(f), 0);
}

#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_values), T(test_histogram), T(test_pieces), T(test_untrusted_rings), T(test_promtool),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
