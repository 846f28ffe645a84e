/* SPDX-License-Identifier: Apache-2.0 */
/* The life of flows at the edge: backends that go, sets that change, ports, floods, hostile packets. */
#include "edge_fixture.h"

#include <time.h>

static void all_down(uint8_t mode)
{
    for (uint32_t i = 0; i < BACKENDS; i++)
        set_backend(i, ABI_ADMIN_ACTIVE, ABI_DOWN, 1);
    struct packet syn = from_client(4007, SYN), reset = reset_for(&syn);
    uint64_t before = COUNTED(no_backend);
    expect(&lab.client, syn, SENT, &reset);
    syn.payload_bytes = 21;
    reset = reset_for(&syn);
    expect(&lab.client, syn, SENT, &reset);
    if (!lab.v6) {
        syn.options_bytes = 12;
        reset = reset_for(&syn);
        expect(&lab.client, syn, SENT, &reset);
    }
    assert_int_equal(COUNTED(no_backend) - before, lab.v6 ? 2 : 3);
    struct packet rst = from_client(4007, RST);
    expect(&lab.client, rst, DROP, NULL);
    set_service(mode, ABI_ALL_DOWN_OPEN);
    struct abi_flow f;
    open_flow(4007, &f);
    struct packet data = from_client(4007, PSH | ACK), out = towards_backend(data, &f);
    expect(&lab.client, data, SENT, &out);
    /* Not once another is up. */
    set_backend((f.backend + 1) % BACKENDS, ABI_ADMIN_ACTIVE, ABI_UP, 1);
    reset = reset_for(&data);
    expect(&lab.client, data, SENT, &reset);
}

static void test_all_down(void **state)
{
    (void)state;
    each(all_down);
}

/* Its backend goes down: what the client sends is answered by a reset, a SYN goes to another. */
static void backend_down(uint8_t mode)
{
    (void)mode;
    struct abi_flow f, other;
    open_flow(4008, &f);
    set_backend(f.backend, ABI_ADMIN_ACTIVE, ABI_SUSPECT, 1);
    struct packet data = from_client(4008, PSH | ACK), out = towards_backend(data, &f);
    expect(&lab.client, data, SENT, &out);
    set_backend(f.backend, ABI_ADMIN_ACTIVE, ABI_DOWN, 1);
    struct packet reset = reset_for(&data);
    expect(&lab.client, data, SENT, &reset);
    struct packet syn = from_client(4008, SYN);
    uint64_t before = COUNTED(moved);
    assert_int_equal(run(&lab.client, syn).verdict, SENT);
    assert_int_equal(COUNTED(moved) - before, 1);
    assert_true(half_open(&syn, &other));
    assert_int_not_equal(other.backend, f.backend);
    assert_false(established(&syn, &f));
    /* The second one goes down too, while its answer is awaited. */
    set_backend(other.backend, ABI_ADMIN_ACTIVE, ABI_DOWN, 1);
    assert_int_equal(run(&lab.client, syn).verdict, SENT);
    struct abi_flow third;
    assert_true(half_open(&syn, &third));
    assert_true(third.backend != f.backend && third.backend != other.backend);
}

static void test_backend_down(void **state)
{
    (void)state;
    each(backend_down);
}

/* Drained, removed, its id used again, other rows: an established flow stays where it is. */
static void set_changes(uint8_t mode)
{
    struct abi_flow f, now;
    open_flow(4009, &f);
    struct packet data = from_client(4009, PSH | ACK), out = towards_backend(data, &f);
    set_backend(f.backend, ABI_ADMIN_DRAIN, ABI_UP, 1);
    expect(&lab.client, data, SENT, &out);
    struct abi_row one = {{(f.backend + 1) % BACKENDS, ABI_NO_BACKEND, ABI_NO_BACKEND, ABI_NO_BACKEND}};
    for (uint32_t i = 0; i < ROWS; i++)
        put(lab.edge->maps.rows, &i, &one);
    set_backend(f.backend, ABI_ADMIN_NONE, ABI_UP, 1);
    expect(&lab.client, data, SENT, &out);
    set_backend(f.backend, ABI_ADMIN_ACTIVE, ABI_DOWN, 2);
    expect(&lab.client, data, SENT, &out);
    /* A forged SYN does not move it, ... */
    assert_int_equal(run(&lab.client, from_client(4009, SYN)).verdict, SENT);
    assert_true(established(&data, &now));
    assert_int_equal(now.backend, f.backend);
    /* ... but one after its end does. */
    struct packet fin = from_client(4009, FIN | ACK), fin_out = towards_backend(fin, &f);
    expect(&lab.client, fin, SENT, &fin_out);
    if (mode != ABI_EDGE_DSR) { /* half closed, it goes on */
        assert_int_equal(run(&lab.client, from_client(4009, SYN)).verdict, SENT);
        assert_true(established(&data, &now));
        struct packet end = from_backend(&fin_out, FIN | ACK), end_out = towards_client(end, 4009);
        expect(&lab.backend, end, SENT, &end_out);
    }
    assert_int_equal(run(&lab.client, from_client(4009, SYN)).verdict, SENT);
    assert_true(half_open(&data, &now));
    assert_int_equal(now.backend, one.backend[0]);
}

static void test_set_changes(void **state)
{
    (void)state;
    each(set_changes);
}

/* After its end a flow's ports may begin another connection with the same backend, which is as safe as the
 * first. */
static void ports_again(uint8_t mode)
{
    struct abi_flow f, now;
    open_flow(4021, &f);
    struct packet reset = from_client(4021, RST | ACK), out = towards_backend(reset, &f);
    expect(&lab.client, reset, SENT, &out);
    assert_true(established(&reset, &now));
    assert_true(now.closing & ABI_FLOW_RESET);
    struct packet syn = from_client(4021, SYN);
    out = towards_backend(syn, &f);
    expect(&lab.client, syn, SENT, &out);
    assert_true(established(&syn, &now));
    assert_int_equal(now.closing, 0);
    struct packet back = from_backend(&out, SYN | ACK);
    if (mode != ABI_EDGE_DSR) {
        assert_true(established(&back, &now));
        assert_int_equal(now.closing, 0);
    }
    /* An answer that nobody asked for begins nothing. */
    expect(&lab.client, from_client(4022, SYN | ACK), DROP, NULL);
}

static void test_ports_again(void **state)
{
    (void)state;
    each(ports_again);
}

/* Another node had the address before: its flows go on, or are reset where only it knew their port. */
static void takes_over(uint8_t mode)
{
    struct abi_flow f, again;
    open_flow(4010, &f);
    clear(lab.edge->maps.flows);
    struct packet data = from_client(4010, PSH | ACK), out = towards_backend(data, &f),
                  reset = reset_for(&data);
    expect(&lab.client, data, SENT, mode == ABI_EDGE_FULL_NAT ? &reset : &out);
    if (mode == ABI_EDGE_FULL_NAT)
        return;
    assert_true(half_open(&data, &again));
    assert_int_equal(again.backend, f.backend);
    if (mode == ABI_EDGE_NAT) {
        struct packet in = from_backend(&out, PSH | ACK), back = towards_client(in, 4010);
        expect(&lab.backend, in, SENT, &back);
    } else {
        expect(&lab.client, data, SENT, &out);
    }
    expect(&lab.client, data, SENT, &out);
    assert_true(established(&data, &again));
}

static void test_takes_over(void **state)
{
    (void)state;
    each(takes_over);
}

/* However many SYNs come, and acknowledgements of nothing, established flows stay. */
static void flood(uint8_t mode)
{
    (void)mode;
    struct abi_flow f;
    open_flow(4011, &f);
    struct packet p = from_client(1, SYN), data = from_client(4011, PSH | ACK);
    for (unsigned i = 0; i < 20000; i++) {
        p.source.word[3] = htonl((lab.v6 ? 0u : 0xc0000200u) + (i & 0xff));
        p.source_port = (uint16_t)(1024 + i);
        p.flags = i & 1 ? ACK : SYN;
        int verdict = run(&lab.client, p).verdict;
        assert_true(verdict == SENT || verdict == DROP);
    }
    unsigned held = 0;
    struct abi_flow_key key;
    for (void *previous = NULL; bpf_map_get_next_key(bpf_map__fd(lab.edge->maps.flows), previous, &key) == 0;
         previous = &key)
        held++;
    assert_int_equal(held, f.mode == ABI_EDGE_DSR ? 1 : 2);
    struct packet out = towards_backend(data, &f);
    expect(&lab.client, data, SENT, &out);
}

static void test_flood(void **state)
{
    (void)state;
    each(flood);
}

/* An answer that does not fit to what the backend said does not make a flow established. */
static void test_guessed_acknowledgement(void **state)
{
    (void)state;
    fresh(ABI_EDGE_NAT, false);
    struct abi_flow f;
    struct packet syn = from_client(4012, SYN), ack = from_client(4012, ACK);
    run(&lab.client, syn);
    assert_true(half_open(&syn, &f));
    struct packet out = towards_backend(syn, &f);
    ack.acknowledged = 0;
    assert_int_equal(run(&lab.client, ack).verdict, SENT);
    assert_false(established(&syn, &f));
    run(&lab.backend, from_backend(&out, SYN | ACK));
    ack.acknowledged = 5000;
    assert_int_equal(run(&lab.client, ack).verdict, SENT);
    assert_false(established(&syn, &f));
    ack.acknowledged = 5001;
    assert_int_equal(run(&lab.client, ack).verdict, SENT);
    assert_true(established(&syn, &f));
}

/* Ports towards a backend are unique; a client's own port is kept in NAT, unless another service has it. */
static void test_ports(void **state)
{
    (void)state;
    fresh(ABI_EDGE_FULL_NAT, false);
    static uint8_t used[BACKENDS][65536];
    memset(used, 0, sizeof(used));
    for (uint16_t port = 2000; port < 6000; port++) {
        struct abi_flow f;
        struct packet syn = from_client(port, SYN);
        assert_int_equal(run(&lab.client, syn).verdict, SENT);
        assert_true(half_open(&syn, &f));
        uint16_t nat = ntohs(f.source_port);
        assert_in_range(nat, ABI_EDGE_PORT_FIRST, ABI_EDGE_PORT_FIRST + ABI_EDGE_PORTS - 1);
        assert_int_equal(used[f.backend][nat]++, 0);
    }
    fresh(ABI_EDGE_NAT, false);
    struct abi_flow f, g;
    struct abi_endpoint second = {.addr = address("198.51.100.81"), .port = htons(80)};
    put(lab.edge->maps.services, &second, &lab.service);
    struct packet syn = from_client(4013, SYN);
    run(&lab.client, syn);
    assert_true(half_open(&syn, &f));
    syn.target = second.addr;
    run(&lab.client, syn);
    assert_true(half_open(&syn, &g));
    assert_int_equal(f.backend, g.backend);
    assert_int_equal(ntohs(f.source_port), 4013);
    assert_int_not_equal(ntohs(g.source_port), 4013);
}

/* As bpf/edge_flow.h has it. */
static uint32_t flow_clock(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return (uint32_t)(((uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec) >> 30);
}

static struct abi_flow_key holder(uint16_t port)
{
    return (struct abi_flow_key){address("192.0.2.77"), lab.address, htons(port), htons(80)};
}

static struct abi_flow_key held_keys[2 * ABI_EDGE_PORTS];
static struct abi_flow held_flows[2 * ABI_EDGE_PORTS];

/* Every port towards backend 0 is a flow's; `how` is what all their elements have in common. In one piece:
 * time counts. */
static void hold_all_ports(const struct bpf_map *map, const struct abi_flow *how)
{
    uint32_t count = 2 * ABI_EDGE_PORTS;
    for (uint32_t i = 0; i < ABI_EDGE_PORTS; i++) {
        uint16_t port = (uint16_t)(ABI_EDGE_PORT_FIRST + i);
        struct abi_flow *there = &held_flows[2 * i], *back = there + 1;
        struct abi_flow_key *key = &held_keys[2 * i];
        key[0] = holder(port);
        key[1] = (struct abi_flow_key){lab.backends[0], lab.source, htons(8080), htons(port)};
        *there = *back = *how;
        there->source = lab.source;
        there->source_port = htons(port);
        there->target = lab.backends[0];
        there->target_port = htons(8080);
        back->flags |= ABI_FLOW_BACK;
        back->source = lab.address;
        back->source_port = htons(80);
        back->target = key[0].source;
        back->target_port = key[0].source_port;
    }
    assert_int_equal(bpf_map_update_batch(bpf_map__fd(map), held_keys, held_flows, &count, NULL), 0);
}

/* Those that are still there. */
static void release_all_ports(const struct bpf_map *map)
{
    for (uint32_t i = 0; i < 2 * ABI_EDGE_PORTS; i++)
        bpf_map_delete_elem(bpf_map__fd(map), &held_keys[i]);
}

/* With all ports in use a new connection gets none, unless some holder has no use for its port any more: that
 * one is taken away, whole. */
static void test_ports_run_out(void **state)
{
    (void)state;
    fresh(ABI_EDGE_FULL_NAT, false);
    for (uint32_t i = 0; i < ROWS; i++) {
        struct abi_row one = {{0, ABI_NO_BACKEND, ABI_NO_BACKEND, ABI_NO_BACKEND}};
        put(lab.edge->maps.rows, &i, &one);
    }
    const struct {
        const char *name;
        uint8_t flags, closing;
        uint16_t quiet;   /* for how long, of established ones */
        uint32_t waiting; /* of beginnings, and of ended ones */
        bool gives_way;
    } cases[] = {
        {"beginnings", 0, 0, 0, (uint32_t)-100, false}, /* heard a moment ago, whenever that is */
        {"beginnings whose clients are silent for a while", 0, 0, 0, 4, true},
        {"for long", 0, 0, 0, 40, true},
        {"established", ABI_FLOW_ESTABLISHED, 0, 10, 1000, false},
        {"established, quiet for an hour", ABI_FLOW_ESTABLISHED, 0, 14000, 1000, false},
        {"... for hours", ABI_FLOW_ESTABLISHED, 0, 30100, 1000, true},
        {"closed", ABI_FLOW_ESTABLISHED, ABI_FLOW_RESET, 30, (uint32_t)-100, false},
        {"closed some time ago", ABI_FLOW_ESTABLISHED, ABI_FLOW_FIN | ABI_FLOW_FIN_BACK, 0, 18, true},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const struct bpf_map *map = cases[i].flags ? lab.edge->maps.flows : lab.edge->maps.half_open;
        struct abi_flow now;
        open_flow((uint16_t)(1900 + i), &now);
        struct abi_flow how = {.mode = ABI_EDGE_FULL_NAT,
                               .service = SERVICE,
                               .generation = 1,
                               .flags = cases[i].flags,
                               .closing = cases[i].closing,
                               .path_time = (uint16_t)(now.path_time - cases[i].quiet),
                               .expected = flow_clock() - cases[i].waiting};
        hold_all_ports(map, &how);
        uint64_t before = COUNTED(no_port);
        struct packet syn = from_client((uint16_t)(2000 + i), SYN);
        int verdict = run(&lab.client, syn).verdict;
        uint64_t without = COUNTED(no_port) - before;
        if (verdict != (cases[i].gives_way ? SENT : DROP) || without != !cases[i].gives_way)
            fail_msg("%s: verdict %d, %llu without a port", cases[i].name, verdict,
                     (unsigned long long)without);
        if (!cases[i].gives_way) {
            release_all_ports(map);
            continue;
        }
        struct abi_flow f, old;
        assert_true(half_open(&syn, &f));
        struct abi_flow_key key = holder(ntohs(f.source_port));
        assert_int_not_equal(bpf_map_lookup_elem(bpf_map__fd(map), &key, &old), 0);
        struct packet out = towards_backend(syn, &f), in = from_backend(&out, SYN | ACK),
                      back = towards_client(in, (uint16_t)(2000 + i));
        expect(&lab.backend, in, SENT, &back);
        release_all_ports(map);
    }
}

/* Two flows of one client's port that want the same way back: `held` is the first one's, of whom `how` is
 * what is known. Returns whether the second has its own port of the client's. */
static bool takes_way_back(uint16_t port, const struct abi_flow *how)
{
    const struct bpf_map *map =
        how->flags & ABI_FLOW_ESTABLISHED ? lab.edge->maps.flows : lab.edge->maps.half_open;
    struct packet syn = from_client(port, SYN);
    struct abi_flow f, held = *how;
    assert_int_equal(run(&lab.client, syn).verdict, SENT);
    assert_true(half_open(&syn, &f));
    struct packet out = towards_backend(syn, &f), back = from_backend(&out, SYN | ACK);
    struct abi_flow_key key = key_of(&syn), way_back = key_of(&back);
    bpf_map_delete_elem(bpf_map__fd(lab.edge->maps.half_open), &key);
    bpf_map_delete_elem(bpf_map__fd(lab.edge->maps.half_open), &way_back);
    held.flags |= ABI_FLOW_BACK;
    held.source = address("198.51.100.81"); /* another service's */
    held.source_port = htons(80);
    held.target = lab.host;
    held.target_port = htons(port);
    put(map, &way_back, &held);
    assert_int_equal(run(&lab.client, syn).verdict, SENT);
    assert_true(half_open(&syn, &f));
    return ntohs(f.source_port) == port;
}

/* A port is used again at once only when its backend has forgotten who had it, however fast jiffies are; who
 * is not known to be silent, as other programs made its element, counts as heard. */
static void test_ports_again_after_time_wait(void **state)
{
    (void)state;
    fresh(ABI_EDGE_NAT, false);
    const struct {
        uint8_t flags;
        uint32_t silent;
        bool taken;
    } cases[] = {
        {ABI_FLOW_ESTABLISHED, 0, false},
        {ABI_FLOW_ESTABLISHED, 30, false},
        {ABI_FLOW_ESTABLISHED, 59, false},
        {ABI_FLOW_ESTABLISHED, 63, true},
        {0, 2, false},
        {0, 40, true},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct abi_flow how = {.mode = ABI_EDGE_NAT,
                               .service = SERVICE,
                               .generation = 1,
                               .flags = cases[i].flags,
                               .closing = cases[i].flags ? ABI_FLOW_FIN | ABI_FLOW_FIN_BACK : 0,
                               .path_time = 1,
                               .expected = flow_clock() - cases[i].silent};
        if (takes_way_back((uint16_t)(5000 + i), &how) != cases[i].taken)
            fail_msg("flags %u, silent for %u s", cases[i].flags, cases[i].silent);
        how.expected = 0;
        assert_false(takes_way_back((uint16_t)(5100 + i), &how));
    }
}

/* The element of the client's direction was pushed out, the way back was not: the flow stays where it is,
 * though its service's policy has another row for it than a new one would get, and its first row's backend is
 * another. */
static void test_goes_on_by_its_way_back(void **state)
{
    (void)state;
    fresh(ABI_EDGE_NAT, false);
    set_policy(ABI_POLICY_LEAST);
    unsigned second = 0;
    for (uint16_t port = 2000; port < 2060; port++) {
        struct abi_flow f, again;
        struct packet data = from_client(port, PSH | ACK), fin = from_client(port, FIN | ACK);
        struct abi_flow_key key = key_of(&data);
        open_flow(port, &f);
        struct packet out = towards_backend(data, &f);
        assert_int_equal(bpf_map_delete_elem(bpf_map__fd(lab.edge->maps.flows), &key), 0);
        expect(&lab.client, data, SENT, &out);
        assert_true(established(&data, &again));
        assert_int_equal(again.backend, f.backend);
        assert_int_equal(bpf_map_delete_elem(bpf_map__fd(lab.edge->maps.flows), &key), 0);
        out = towards_backend(fin, &f);
        expect(&lab.client, fin, SENT, &out);
        assert_true(established(&data, &again));
        assert_int_equal(again.closing, ABI_FLOW_FIN);
        struct packet back = from_backend(&out, PSH | ACK);
        struct abi_flow_key way_back = key_of(&back);
        bpf_map_delete_elem(bpf_map__fd(lab.edge->maps.flows), &key);
        bpf_map_delete_elem(bpf_map__fd(lab.edge->maps.flows), &way_back);
        assert_int_equal(run(&lab.client, data).verdict, SENT); /* both are gone: its first row */
        assert_true(half_open(&data, &again));
        second += again.backend != f.backend;
    }
    assert_in_range(second, 1, 59);
}

/* --- hostile packets ----------------------------------------------------------------------------------- */

static void sane(const struct answer *a, const uint8_t *in, size_t count, size_t number)
{
    if (a->verdict != PASS && a->verdict != DROP && a->verdict != SENT)
        fail_msg("packet %zu: verdict %d", number, a->verdict);
    if (a->bytes > count && a->bytes > 60 + 34)
        fail_msg("packet %zu grew from %zu to %zu bytes", number, count, a->bytes);
    if (a->verdict == PASS && (a->bytes != count || memcmp(a->data, in, count) != 0))
        fail_msg("packet %zu was passed on, changed", number);
}

/* Every prefix of each kind of packet. */
static void cut_short(uint8_t mode)
{
    struct abi_flow f;
    open_flow(4017, &f);
    struct packet data = from_client(4017, PSH | ACK), inner = towards_backend(data, &f);
    struct packet answer = from_backend(&inner, ACK), seen = towards_client(answer, 4017);
    struct packet options = data, syn = from_client(4018, SYN);
    options.options_bytes = 8;
    struct packet kinds[] = {data, options, syn, error_about(&seen, "192.0.2.254", "2001:db8::fe", 0)};
    (void)mode;
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        uint8_t bytes[PACKET_MAX];
        memcpy(kinds[i].to_mac, lab.client.mac, 6);
        size_t count = packet_write(&kinds[i], bytes);
        for (size_t length = 15; length < count; length++) {
            struct answer a;
            if (run_bytes(&lab.client, bytes, length, 0, &a) == 0)
                sane(&a, bytes, length, length);
        }
    }
}

static void test_cut_short(void **state)
{
    (void)state;
    each(cut_short);
}

static uint32_t chance(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*seed >> 33);
}

static void mutate(uint8_t *bytes, size_t *count, uint64_t *seed)
{
    for (uint32_t changes = 1 + chance(seed) % 4; changes > 0; changes--) {
        size_t at = 6 + chance(seed) % (*count - 6);
        switch (chance(seed) % 3) {
        case 0:
            bytes[at] = (uint8_t)chance(seed);
            break;
        case 1:
            bytes[at] ^= (uint8_t)(1u << chance(seed) % 8);
            break;
        default:
            bytes[12 + chance(seed) % 48 % (*count - 12)] = (uint8_t)(chance(seed) % 3 ? 0xff : 0);
            break;
        }
    }
    if (chance(seed) % 8 == 0)
        *count = 15 + chance(seed) % (*count - 14);
}

static size_t mutations_of_mode;

static void mutations(uint8_t mode)
{
    uint64_t seed = 1000u * mode + (lab.v6 ? 1 : 0);
    struct abi_flow f;
    open_flow(4019, &f);
    struct packet data = from_client(4019, PSH | ACK), inner = towards_backend(data, &f);
    struct packet answer = from_backend(&inner, PSH | ACK), seen = towards_client(answer, 4019);
    struct packet options = data, fragment = data, later = data;
    options.options_bytes = 8;
    fragment.id = later.id = 3;
    fragment.more_fragments = true;
    later.fragment_bytes = 56;
    struct packet kinds[] = {data,
                             options,
                             fragment,
                             later,
                             from_client(4020, SYN),
                             answer,
                             error_about(&seen, "192.0.2.254", "2001:db8::fe", 0),
                             error_about(&inner, "10.2.0.77", "fd02::77", 0)};
    size_t errors = 0;
    for (size_t i = 0; i < mutations_of_mode; i++) {
        uint8_t bytes[PACKET_MAX];
        struct packet *p = &kinds[i % (sizeof(kinds) / sizeof(kinds[0]))];
        memcpy(p->to_mac, lab.client.mac, 6);
        size_t count = packet_write(p, bytes);
        mutate(bytes, &count, &seed);
        struct answer a;
        if (run_bytes(&lab.client, bytes, count, 0, &a) == 0)
            sane(&a, bytes, count, i);
        else
            errors++;
        if (i % 1000 == 0) /* backends come and go meanwhile */
            set_backend((uint32_t)(i / 1000 % BACKENDS), ABI_ADMIN_ACTIVE, i / 3000 % 2 ? ABI_DOWN : ABI_UP,
                        1);
    }
    assert_true(errors < mutations_of_mode / 10); /* too short for the kernel */
}

static void test_mutations(void **state)
{
    (void)state;
    const char *wanted = getenv("EDGE_MUTATIONS");
    mutations_of_mode = wanted ? strtoul(wanted, NULL, 10) : 20000;
    each(mutations);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_down),
        cmocka_unit_test(test_backend_down),
        cmocka_unit_test(test_set_changes),
        cmocka_unit_test(test_ports_again),
        cmocka_unit_test(test_takes_over),
        cmocka_unit_test(test_flood),
        cmocka_unit_test(test_guessed_acknowledgement),
        cmocka_unit_test(test_ports),
        cmocka_unit_test(test_ports_run_out),
        cmocka_unit_test(test_ports_again_after_time_wait),
        cmocka_unit_test(test_goes_on_by_its_way_back),
        cmocka_unit_test(test_cut_short),
        cmocka_unit_test(test_mutations),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
