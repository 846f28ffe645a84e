/* SPDX-License-Identifier: Apache-2.0 */
/* Ticks in, packets out: what a session says and when (RFC 5880, 6.8.2, 6.8.3, 6.8.7). */
#include "bfd_lab.h"

static void what_is_sent(void **context)
{
    static const uint32_t indices[] = {V4, V6, FAR};
    struct heard h;
    (void)context;
    need_root();
    for (size_t i = 0; i < 3; i++) {
        fresh_peer(indices[i]);
        assert_true(tick(indices[i], &h));
        assert_int_equal(h.v6, indices[i] == V6);
        assert_int_equal(h.udp[2] << 8 | h.udp[3], indices[i] == FAR ? 4784 : 3784);
        assert_int_equal(h.bfd[0], 1 << 5);
        assert_int_equal(h.bfd[1], ABI_BFD_DOWN << 6 | INDEPENDENT);
        assert_int_equal(h.bfd[2], 3);
        assert_int_equal(h.bfd[3], BFD_BYTES);
        assert_int_equal(word(&h, 4), 0xabcd0000u | (indices[i] + 1));
        assert_int_equal(word(&h, 8), 0);
        assert_int_equal(word(&h, 12), 1000000); /* slow start */
        assert_int_equal(word(&h, 16), 2000000);
        assert_int_equal(word(&h, 20), 0);
        assert_false(tick(indices[i], &h));
    }
}

/* A peer that does not know us yet is found by its address, once we have called it. */
static void found_by_address(void **context)
{
    struct heard h;
    struct abi_peer p;
    (void)context;
    need_root();
    assert_true(tick(V4, &h));
    assert_int_equal(RECEIVE(V4, .state = ABI_BFD_INIT, .no_discriminator = true), TAKEN);
    assert_int_equal(session(V4).received, 0);
    assert_int_equal(RECEIVE(V4, .state = ABI_BFD_DOWN, .no_discriminator = true), TAKEN);
    assert_int_equal(session(V4).state, ABI_BFD_INIT);
    assert_true(tick(V4, &h));
    assert_int_equal(h.bfd[1] >> 6, ABI_BFD_INIT);
    assert_int_equal(word(&h, 8), 77);
    assert_int_equal(RECEIVE(V4, .state = ABI_BFD_DOWN, .no_discriminator = true, .cut_bytes = 3), TAKEN);
    p = peer(V4);
    p.flags = 0;
    set_peer(V4, &p);
    assert_int_equal(RECEIVE(V4, .state = ABI_BFD_DOWN, .no_discriminator = true), PASS);
}

static void polls_and_finals(void **context)
{
    struct heard h;
    struct abi_peer p;
    (void)context;
    need_root();
    bring(V4, ABI_BFD_UP);
    assert_true(tick(V4, &h)); /* from 1 s to 100 ms */
    assert_int_equal(h.bfd[1], ABI_BFD_UP << 6 | INDEPENDENT | POLL);
    assert_int_equal(word(&h, 12), 100000);
    make_due(V4);
    assert_true(tick(V4, &h));
    assert_true(h.bfd[1] & POLL); /* until it is answered */
    RECEIVE(V4, .state = ABI_BFD_UP, .flags = POLL);
    assert_true(tick(V4, &h)); /* at once */
    assert_int_equal(h.bfd[1] & (POLL | FINAL), FINAL);
    RECEIVE(V4, .state = ABI_BFD_UP, .flags = FINAL);
    make_due(V4);
    assert_true(tick(V4, &h));
    assert_int_equal(h.bfd[1] & (POLL | FINAL), 0);
    /* Slower sending and faster detection wait for the answer. */
    p = peer(V4);
    p.tx_us = 400000;
    p.rx_us = 500000;
    set_peer(V4, &p);
    assert_true(tick(V4, &h));
    assert_true(h.bfd[1] & POLL);
    assert_int_equal(word(&h, 12), 400000);
    assert_int_equal(word(&h, 16), 500000);
    assert_int_equal(session(V4).sending_us, 100000);
    assert_int_equal(session(V4).detect_ns, 3 * 2000000000ull);
    RECEIVE(V4, .state = ABI_BFD_UP, .flags = FINAL);
    assert_int_equal(session(V4).sending_us, 400000);
    assert_int_equal(session(V4).detect_ns, 3 * 500000000ull);
    /* Faster sending and slower detection do not. */
    p.tx_us = 50000;
    p.rx_us = 900000;
    set_peer(V4, &p);
    assert_true(tick(V4, &h));
    assert_int_equal(session(V4).sending_us, 50000);
    assert_int_equal(session(V4).detect_ns, 3 * 900000000ull);
}

static void when_it_is_quiet(void **context)
{
    struct heard h;
    struct abi_peer p;
    (void)context;
    need_root();
    bring(V4, ABI_BFD_UP);
    RECEIVE(V4, .state = ABI_BFD_UP, .flags = FINAL);
    assert_true(tick(V4, &h));
    RECEIVE(V4, .state = ABI_BFD_UP, .flags = FINAL | DEMAND);
    make_due(V4);
    assert_false(tick(V4, &h));
    RECEIVE(V4, .state = ABI_BFD_UP, .flags = DEMAND | POLL);
    assert_true(tick(V4, &h));
    assert_true(h.bfd[1] & FINAL);
    RECEIVE(V4, .state = ABI_BFD_UP);
    make_due(V4);
    assert_true(tick(V4, &h));
    p = peer(V4);
    p.draining = 1;
    set_peer(V4, &p);
    assert_true(tick(V4, &h));
    assert_int_equal(h.bfd[1] >> 6, ABI_BFD_ADMIN_DOWN);
    assert_int_equal(h.bfd[0] & 0x1f, DIAG_ADMIN);
    assert_int_equal(word(&h, 12), 1000000);
    p.flags = 0;
    set_peer(V4, &p);
    make_due(V4);
    assert_false(tick(V4, &h));
}

/* The next packet is due after 75 to 100 % of the interval, with a multiplier of 1 after at most 90 %. */
static void jitter(void **context)
{
    struct heard h;
    struct abi_peer p;
    uint64_t least[2] = {~0ull, ~0ull}, most[2] = {0, 0};
    (void)context;
    need_root();
    bring(V4, ABI_BFD_UP);
    RECEIVE(V4, .state = ABI_BFD_UP, .flags = FINAL, .min_rx_us = 1000000);
    p = peer(V4);
    for (int i = 0; i < 120; i++) {
        p.multiplier = i & 1 ? 1 : 3;
        set_peer(V4, &p);
        make_due(V4);
        assert_true(tick(V4, &h));
        struct abi_peer_state s = session(V4);
        uint64_t until = s.next_tx_ns - s.sent_ns;
        least[i & 1] = until < least[i & 1] ? until : least[i & 1];
        most[i & 1] = until > most[i & 1] ? until : most[i & 1];
    }
    assert_in_range(least[0], 750000000, 790000000);
    assert_in_range(most[0], 960000000, 1000000000);
    assert_in_range(least[1], 750000000, 780000000);
    assert_in_range(most[1], 870000000, 900000000);
}

static void a_new_generation_begins_anew(void **context)
{
    struct heard h;
    (void)context;
    need_root();
    bring(V4, ABI_BFD_UP);
    fresh_peer(V4);
    assert_true(tick(V4, &h));
    assert_int_equal(h.bfd[1] >> 6, ABI_BFD_DOWN);
    assert_int_equal(session(V4).remote_discriminator, 0);
    assert_verdicts(ABI_UP, ABI_PROBE_OK, ABI_UP);
    set_backends(ABI_DOWN, ABI_HEARTBEAT, 0);
    fresh_peer(V4);
    assert_true(tick(V4, &h));
    assert_verdicts(ABI_UNKNOWN, ABI_NONE, ABI_DOWN);
}

/* More than fit in a tick wait for the next, and are the first then. */
static void many_sessions(void **context)
{
    enum { MANY = 700, A_TICK = 512 };
    uint8_t arp[60] = {0};
    struct abi_peer p;
    (void)context;
    need_root();
    put16(arp + 12, 0x0806);
    p = peer(V4);
    p.members_count = 0;
    p.generation = ++lab.generation;
    for (uint32_t i = 0; i < MANY; i++) {
        p.discriminator = 0x77770000u | (i + 1);
        set_peer(i, &p);
    }
    for (int tries = 0; tries < 40 && !session(MANY - 1).sent; tries++)
        assert_int_equal(run(lab.skel->progs.bfd_tick, arp, sizeof(arp)), PASS);
    for (uint32_t i = 0; i < MANY; i++)
        make_due(i);
    for (int ticks = 1; ticks <= 4; ticks++) {
        uint32_t waiting = 0;
        assert_int_equal(run(lab.skel->progs.bfd_tick, arp, sizeof(arp)), PASS);
        for (uint32_t i = 0; i < MANY; i++)
            waiting += session(i).next_tx_ns == 0;
        assert_int_equal(waiting, ticks & 1 ? MANY - A_TICK : 0);
        for (uint32_t i = 0; ticks == 2 && i < MANY; i++)
            make_due(i);
    }
    p.flags = 0;
    for (uint32_t i = 0; i < MANY; i++)
        set_peer(i, &p);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        CASE(what_is_sent),     CASE(found_by_address), CASE(polls_and_finals),
        CASE(when_it_is_quiet), CASE(jitter),           CASE(a_new_generation_begins_anew),
        CASE(many_sessions),
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
