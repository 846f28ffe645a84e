/* SPDX-License-Identifier: Apache-2.0 */
/* Which backend the edge gives a new connection to, by the service's policy. */
#include "edge_fixture.h"

/* As bpf/edge_load.h has it. */
struct load {
    uint32_t window;
    int32_t now, before;
    uint32_t pad;
};

static struct load load_read(uint32_t id)
{
    struct load l;
    assert_int_equal(bpf_map_lookup_elem(bpf_map__fd(lab.edge->maps.edge_loads), &id, &l), 0);
    return l;
}

static int load_of(uint32_t id)
{
    struct load l = load_read(id);
    return l.now + l.before;
}

/* Of a backend that the edge has looked at. */
static void load_set(uint32_t id, int count)
{
    struct load l = load_read(id);
    l.now = count;
    l.before = 0;
    put(lab.edge->maps.edge_loads, &id, &l);
}

static void set_weight(uint32_t id, uint16_t weight)
{
    struct abi_backend b;
    assert_int_equal(bpf_map_lookup_elem(bpf_map__fd(lab.edge->maps.backends), &id, &b), 0);
    b.weight = weight;
    put(lab.edge->maps.backends, &id, &b);
}

/* All connections of a client are one backend's, whatever their ports; clients are spread. Their ports
 * towards the backend are still their own. */
static void one_client(uint8_t mode)
{
    (void)mode;
    set_policy(ABI_POLICY_MAGLEV);
    struct abi_flow first, f;
    struct packet p = from_client(2000, SYN);
    assert_int_equal(run(&lab.client, p).verdict, SENT);
    assert_true(half_open(&p, &first));
    for (uint16_t port = 2001; port < 3000; port++) {
        p = from_client(port, SYN);
        assert_int_equal(run(&lab.client, p).verdict, SENT);
        assert_true(half_open(&p, &f));
        assert_int_equal(f.backend, first.backend);
    }
    unsigned counts[BACKENDS] = {0};
    for (uint32_t i = 0; i < 250; i++) {
        p = from_client(2000, SYN);
        p.source.word[3] = htonl(ntohl(lab.host.word[3]) + i);
        assert_int_equal(run(&lab.client, p).verdict, SENT);
        assert_true(half_open(&p, &f));
        counts[f.backend]++;
    }
    for (int i = 0; i < BACKENDS; i++)
        assert_in_range(counts[i], 25, 150);
}

static void test_one_client(void **state)
{
    (void)state;
    each(one_client);
}

static void count_begun(uint16_t first_port, unsigned connections, unsigned counts[BACKENDS])
{
    memset(counts, 0, BACKENDS * sizeof(counts[0]));
    for (unsigned i = 0; i < connections; i++) {
        struct abi_flow f;
        struct packet p = from_client((uint16_t)(first_port + i), SYN);
        assert_int_equal(run(&lab.client, p).verdict, SENT);
        assert_true(half_open(&p, &f));
        counts[f.backend]++;
    }
}

/* Who has many connections gets less of the next ones, until they end; a heavier one may have more. */
static void test_least(void **state)
{
    (void)state;
    unsigned counts[BACKENDS];
    struct abi_flow f, busy;
    for (uint8_t mode = ABI_EDGE_NAT; mode <= ABI_EDGE_FULL_NAT; mode++) {
        fresh(mode, false);
        open_flow(2000, &busy);
        int held = 1;
        for (uint16_t port = 2001; port < 2041; port++) {
            struct packet p = from_client(port, SYN);
            run(&lab.client, p);
            assert_true(half_open(&p, &f));
            if (f.backend != busy.backend)
                continue;
            open_flow(port, &f);
            held++;
        }
        assert_int_equal(load_of(busy.backend), held);
        set_policy(ABI_POLICY_LEAST);
        count_begun(3000, 300, counts);
        assert_in_range(counts[busy.backend], 10, 80); /* both of its rows were that backend's */
        for (uint32_t i = 0; i < BACKENDS; i++)
            load_set(i, i == busy.backend ? 1000 : 10);
        set_weight(busy.backend, 256);
        count_begun(3400, 300, counts);
        assert_in_range(counts[busy.backend], 120, 220);
        load_set(busy.backend, held);
        for (uint16_t port = 2000; port < 2041; port++)
            run(&lab.client, from_client(port, RST | ACK));
        assert_int_equal(load_of(busy.backend), 0);
    }
}

/* Ends by both sides' FINs count as well, once; ports that begin again are a connection again. */
static void test_ends_are_counted_once(void **state)
{
    (void)state;
    fresh(ABI_EDGE_NAT, false);
    struct abi_flow f;
    open_flow(2000, &f);
    assert_int_equal(load_of(f.backend), 1);
    struct packet fin = from_client(2000, FIN | ACK), out = towards_backend(fin, &f);
    run(&lab.client, fin);
    assert_int_equal(load_of(f.backend), 1);
    run(&lab.backend, from_backend(&out, FIN | ACK));
    assert_int_equal(load_of(f.backend), 0);
    run(&lab.client, from_client(2000, RST | ACK));
    run(&lab.client, fin);
    assert_int_equal(load_of(f.backend), 0);
    assert_int_equal(run(&lab.client, from_client(2000, SYN)).verdict, SENT);
    assert_int_equal(load_of(f.backend), 1);
    set_backend(f.backend, ABI_ADMIN_ACTIVE, ABI_DOWN, 1);
    assert_int_equal(run(&lab.client, from_client(2000, SYN)).verdict, SENT); /* to another one */
    assert_int_equal(load_of(f.backend), 0);
}

/* A flow that goes on is counted where it was seen last; what was not seen for two windows is forgotten. */
static void test_windows(void **state)
{
    (void)state;
    fresh(ABI_EDGE_NAT, false);
    struct abi_flow f;
    struct packet data = from_client(2000, PSH | ACK);
    struct abi_flow_key key = key_of(&data);
    open_flow(2000, &f);
    set_policy(ABI_POLICY_LEAST);
    struct load l = load_read(f.backend);
    l.window = (l.window - 1) & 0x7ff; /* as if all that was a window ago */
    f.path_time -= 32;
    put(lab.edge->maps.edge_loads, &f.backend, &l);
    put(lab.edge->maps.flows, &key, &f);
    assert_int_equal(run(&lab.client, data).verdict, SENT);
    l = load_read(f.backend);
    assert_int_equal(l.now + l.before, 1);
    l.window = (l.window - 2) & 0x7ff;
    l.now = 50;
    put(lab.edge->maps.edge_loads, &f.backend, &l);
    unsigned counts[BACKENDS];
    count_begun(3000, 30, counts);
    assert_int_equal(load_of(f.backend), 0);
    /* A processor that was stopped after it looked at the time finds a window that is ahead. */
    l = load_read(f.backend);
    l.window = (l.window + 1) & 0x7ff;
    l.now = l.before = 7;
    put(lab.edge->maps.edge_loads, &f.backend, &l);
    count_begun(3100, 30, counts);
    assert_int_equal(load_of(f.backend), 14);
}

/* A second row is looked at for a SYN alone: another node, which has not counted the same, knows the first.
 * With direct return there is nothing to count. */
static void test_least_and_another_node(void **state)
{
    (void)state;
    for (uint8_t mode = ABI_EDGE_NAT; mode <= ABI_EDGE_DSR; mode += 2) {
        struct abi_flow random, least;
        unsigned counts[BACKENDS];
        for (uint16_t port = 2000; port < 2030; port++) {
            struct packet p = from_client(port, mode == ABI_EDGE_DSR ? SYN : ACK);
            fresh(mode, false);
            assert_int_equal(run(&lab.client, p).verdict, SENT);
            assert_true(half_open(&p, &random));
            fresh(mode, false);
            set_policy(ABI_POLICY_LEAST);
            count_begun(3000, 30, counts);
            load_set(random.backend, 1000);
            assert_int_equal(run(&lab.client, p).verdict, SENT);
            assert_true(half_open(&p, &least));
            assert_int_equal(least.backend, random.backend);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_client),
        cmocka_unit_test(test_least),
        cmocka_unit_test(test_ends_are_counted_once),
        cmocka_unit_test(test_windows),
        cmocka_unit_test(test_least_and_another_node),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
