/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Packets in, sessions and verdicts out. The state machine and the rules of reception are those of RFC 5880,
 * 6.8.6, told once more here.
 */
#include "bfd_lab.h"

enum { RANDOM_PACKETS = 30000 };

static void state_machine(void **context)
{
    /* [own][received] */
    static const struct {
        enum abi_bfd_state after;
        int diagnostic;
    } table[4][4] = {
        [ABI_BFD_ADMIN_DOWN] = {{0, DIAG_ADMIN}, {0, DIAG_ADMIN}, {0, DIAG_ADMIN}, {0, DIAG_ADMIN}},
        [ABI_BFD_DOWN] = {{ABI_BFD_DOWN, DIAG_NONE},
                          {ABI_BFD_INIT, DIAG_NONE},
                          {ABI_BFD_UP, DIAG_NONE},
                          {ABI_BFD_DOWN, DIAG_NONE}},
        [ABI_BFD_INIT] = {{ABI_BFD_DOWN, DIAG_NEIGHBOUR},
                          {ABI_BFD_INIT, DIAG_NONE},
                          {ABI_BFD_UP, DIAG_NONE},
                          {ABI_BFD_UP, DIAG_NONE}},
        [ABI_BFD_UP] = {{ABI_BFD_DOWN, DIAG_NEIGHBOUR},
                        {ABI_BFD_DOWN, DIAG_NEIGHBOUR},
                        {ABI_BFD_UP, DIAG_NONE},
                        {ABI_BFD_UP, DIAG_NONE}},
    };
    static const uint32_t indices[] = {V4, V6, FAR};
    (void)context;
    need_root();
    for (size_t i = 0; i < 3; i++)
        for (int own = 0; own < 4; own++)
            for (int heard = 0; heard < 4; heard++) {
                fresh_peer(indices[i]);
                bring(indices[i], (enum abi_bfd_state)own);
                assert_int_equal(RECEIVE(indices[i], .state = (uint8_t)heard), TAKEN);
                struct abi_peer_state s = session(indices[i]);
                if (s.state != table[own][heard].after || s.diagnostic != table[own][heard].diagnostic)
                    fail_msg("in %d, heard %d: %d, diagnostic %d", own, heard, s.state, s.diagnostic);
                assert_int_equal(s.remote_state, heard);
                assert_int_equal(s.remote_discriminator, 77);
            }
}

static void what_is_discarded(void **context)
{
    static const struct {
        const char *what;
        int verdict;
        struct bfd packet;
    } cases[] = {
        {"version 2", TAKEN, {.version = 2}},
        {"length 23", TAKEN, {.length = 23}},
        {"longer than its datagram", TAKEN, {.length = 25}},
        {"authenticated, 24 bytes", TAKEN, {.flags = AUTHENTICATED}},
        {"authenticated, and we do not", TAKEN, {.flags = AUTHENTICATED, .length = 26, .payload_bytes = 28}},
        {"no multiplier", TAKEN, {.zero_multiplier = true}},
        {"multipoint", TAKEN, {.flags = MULTIPOINT}},
        {"no discriminator of its own", TAKEN, {.zero_my = true}},
        {"another's discriminator", PASS, {.your = 0xabcd0000u | 30}},
        {"index without the rest", TAKEN, {.your = 0x12340000u | (V4 + 1)}},
        {"index out of range", PASS, {.your = 0xabcdffffu}},
        {"index 0", PASS, {.your = 0xabcd0000u}},
        {"254 hops left", TAKEN, {.hops = 254}},
        {"from elsewhere", PASS, {.from = "10.1.0.3"}},
        {"port of several hops", PASS, {.port = 4784}},
        {"echo port", PASS, {.port = 3785}},
        {"fragment", PASS, {.fragment = 0x2000}},
        {"later fragment", PASS, {.fragment = 0x0010}},
        {"UDP length of 31", PASS, {.udp_bytes = 31}},
        {"UDP length of 0", PASS, {.udp_bytes = 1}},
        {"UDP longer than IP", PASS, {.udp_bytes = 33}},
        {"cut off", PASS, {.cut_bytes = 1}},
    };
    (void)context;
    need_root();
    bring(V4, ABI_BFD_UP);
    struct abi_peer_state before = session(V4);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct bfd b = cases[i].packet;
        b.state = ABI_BFD_DOWN; /* it would end the session */
        int verdict = receive(V4, &b);
        struct abi_peer_state after = session(V4);
        if (verdict != cases[i].verdict || after.state != ABI_BFD_UP || after.received != before.received)
            fail_msg("%s: verdict %d, state %d", cases[i].what, verdict, after.state);
        if (verdict == TAKEN && after.dropped != before.dropped + 1)
            fail_msg("%s: not counted", cases[i].what);
        before = after;
    }
    assert_int_equal(RECEIVE(V4, .state = ABI_BFD_DOWN), TAKEN);
    assert_int_equal(session(V4).state, ABI_BFD_DOWN);
}

static void other_packets_pass(void **context)
{
    uint8_t frame[FRAME_MAX];
    (void)context;
    need_root();
    for (size_t bytes = 54; bytes < 62; bytes++) {
        write_frame(frame, &(struct bfd){.state = ABI_BFD_DOWN}, V6);
        assert_int_equal(run(lab.skel->progs.bfd_rx, frame, bytes), PASS);
    }
    write_frame(frame, &(struct bfd){.state = ABI_BFD_DOWN}, V4);
    frame[23] = 6;
    assert_int_equal(run(lab.skel->progs.bfd_rx, frame, 66), PASS);
    frame[23] = 17;
    frame[14] = 0x44; /* a header of 16 bytes */
    assert_int_equal(run(lab.skel->progs.bfd_rx, frame, 66), PASS);
    frame[12] = 8;
    frame[13] = 6;
    assert_int_equal(run(lab.skel->progs.bfd_rx, frame, 66), PASS);
}

static void fewer_hops_are_right_for_several(void **context)
{
    (void)context;
    need_root();
    assert_int_equal(RECEIVE(FAR, .state = ABI_BFD_DOWN, .hops = 200), TAKEN);
    assert_int_equal(session(FAR).state, ABI_BFD_INIT);
}

/* What RFC 5880, 6.8.6 lets through, of a datagram that is whole. */
static bool sound(const uint8_t *frame)
{
    const uint8_t *p = frame + 42;
    uint32_t your = (uint32_t)p[8] << 24 | (uint32_t)p[9] << 16 | (uint32_t)p[10] << 8 | p[11];
    if (p[0] >> 5 != 1 || p[3] != 24 || p[2] == 0 || (p[1] & (MULTIPOINT | AUTHENTICATED)) ||
        frame[22] != 255)
        return false;
    if (!(p[4] | p[5] | p[6] | p[7]))
        return false;
    return your == (0xabcd0000u | (V4 + 1)) || (your == 0 && p[1] >> 6 <= ABI_BFD_DOWN);
}

static void random_packets(void **context)
{
    uint8_t good[FRAME_MAX], frame[FRAME_MAX];
    uint32_t taken = 0;
    (void)context;
    need_root();
    size_t bytes = write_frame(good, &(struct bfd){.state = ABI_BFD_DOWN}, V4);
    srand(5880);
    for (int i = 0; i < RANDOM_PACKETS; i++) {
        memcpy(frame, good, bytes);
        for (int flips = rand() % 4; flips >= 0; flips--)
            frame[(rand() & 1) ? 42 + rand() % 24 : 14 + rand() % 52] = (uint8_t)(rand() % 3 ? rand() : 0);
        uint64_t before = session(V4).received;
        int verdict = run(lab.skel->progs.bfd_rx, frame, bytes);
        bool received = session(V4).received != before;
        assert_true(verdict == PASS || verdict == TAKEN);
        if (received && !sound(frame))
            fail_msg("packet %d was believed", i);
        taken += received;
    }
    assert_true(taken > RANDOM_PACKETS / 50);
}

/* --- times ------------------------------------------------------------------------------------------------
 */

static void detection_time(void **context)
{
    (void)context;
    need_root();
    RECEIVE(V4, .state = ABI_BFD_DOWN, .min_tx_us = 3000000, .multiplier = 5);
    assert_int_equal(session(V4).detect_ns, 15000000000);
    RECEIVE(V4, .state = ABI_BFD_DOWN, .min_tx_us = 1, .multiplier = 255);
    assert_int_equal(session(V4).detect_ns, 255 * 2000000000ull);
}

static void silence_ends_it(void **context)
{
    struct abi_peer p;
    (void)context;
    need_root();
    p = peer(V4);
    p.rx_us = 20000;
    set_peer(V4, &p);
    bring(V4, ABI_BFD_UP);
    RECEIVE(V4, .state = ABI_BFD_UP, .min_tx_us = 10000);
    assert_int_equal(session(V4).detect_ns, 60000000);
    usleep(40000);
    assert_int_equal(session(V4).state, ABI_BFD_UP);
    assert_verdicts(ABI_UP, ABI_PROBE_OK, ABI_UP);
    usleep(100000);
    struct abi_peer_state s = session(V4);
    assert_int_equal(s.state, ABI_BFD_DOWN);
    assert_int_equal(s.diagnostic, DIAG_EXPIRED);
    assert_int_equal(s.remote_discriminator, 0);
    assert_true(s.changed_ns - s.received_ns >= s.detect_ns);
    assert_int_equal(s.downs, 1);
    assert_verdicts(ABI_DOWN, ABI_HEARTBEAT, ABI_UP);
}

static void silence_of_one_that_was_not_up(void **context)
{
    struct abi_peer p;
    (void)context;
    need_root();
    p = peer(V4);
    p.rx_us = 10000;
    set_peer(V4, &p);
    RECEIVE(V4, .state = ABI_BFD_DOWN, .min_tx_us = 10000);
    assert_int_equal(session(V4).state, ABI_BFD_INIT);
    usleep(100000);
    assert_int_equal(session(V4).state, ABI_BFD_DOWN);
    assert_int_equal(session(V4).downs, 0);
    assert_verdicts(ABI_UP, ABI_PROBE_OK, ABI_UP);
}

static void a_peer_taken_away(void **context)
{
    struct abi_peer p;
    (void)context;
    need_root();
    p = peer(V4);
    p.rx_us = 10000;
    set_peer(V4, &p);
    bring(V4, ABI_BFD_UP);
    RECEIVE(V4, .state = ABI_BFD_UP, .min_tx_us = 10000);
    p.flags = 0;
    set_peer(V4, &p);
    usleep(100000);
    assert_int_equal(session(V4).state, ABI_BFD_DOWN);
    assert_int_equal(session(V4).generation, 0);
    assert_verdicts(ABI_UP, ABI_PROBE_OK, ABI_UP);
}

/* --- backends ---------------------------------------------------------------------------------------------
 */

static uint8_t wanted(uint32_t id)
{
    struct abi_probe_state probe;
    get(lab.skel->maps.probe_state, id, &probe);
    return probe.wanted;
}

static void told_by_the_peer(void **context)
{
    (void)context;
    need_root();
    set_node(ABI_NODE_PROBES);
    bring(V4, ABI_BFD_UP);
    RECEIVE(V4, .state = ABI_BFD_DOWN);
    assert_verdicts(ABI_SUSPECT, ABI_HEARTBEAT, ABI_UP);
    assert_int_equal(wanted(0), ABI_WANTED_PROBE);
    assert_int_equal(wanted(2), ABI_WANTED_NOT);
}

static void administrative_end(void **context)
{
    struct abi_peer p;
    (void)context;
    need_root();
    bring(V4, ABI_BFD_UP);
    RECEIVE(V4, .state = ABI_BFD_ADMIN_DOWN);
    assert_int_equal(session(V4).state, ABI_BFD_DOWN);
    assert_verdicts(ABI_UP, ABI_PROBE_OK, ABI_UP);
    bring(V4, ABI_BFD_UP);
    p = peer(V4);
    p.draining = 1;
    set_peer(V4, &p);
    RECEIVE(V4, .state = ABI_BFD_UP);
    assert_int_equal(session(V4).state, ABI_BFD_ADMIN_DOWN);
    assert_verdicts(ABI_UP, ABI_PROBE_OK, ABI_UP);
}

static void what_comes_back(void **context)
{
    static const struct {
        uint32_t node_flags;
        uint8_t backend_flags;
        enum abi_state state, after;
        enum abi_reason reason, after_reason;
        uint8_t wanted;
    } cases[] = {
        {0, ABI_BACKEND_UNCHECKED, ABI_DOWN, ABI_UP, ABI_HEARTBEAT, ABI_UNCHECKED, ABI_WANTED_NOT},
        {0, 0, ABI_DOWN, ABI_UNKNOWN, ABI_HEARTBEAT, ABI_NONE, ABI_WANTED_NOT},
        {0, 0, ABI_SUSPECT, ABI_UNKNOWN, ABI_HEARTBEAT, ABI_NONE, ABI_WANTED_NOT},
        {ABI_NODE_PROBES, 0, ABI_DOWN, ABI_DOWN, ABI_HEARTBEAT, ABI_HEARTBEAT, ABI_WANTED_PROBE},
        {0, 0, ABI_DOWN, ABI_DOWN, ABI_PROBE_REFUSED, ABI_PROBE_REFUSED, ABI_WANTED_NOT},
    };
    (void)context;
    need_root();
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        fresh_peer(V4);
        set_node(cases[i].node_flags);
        set_backends(cases[i].state, cases[i].reason, cases[i].backend_flags);
        bring(V4, ABI_BFD_UP);
        assert_verdicts(cases[i].after, cases[i].after_reason, cases[i].state);
        assert_int_equal(wanted(0), cases[i].wanted);
    }
}

/* What the session before said of the backends is not kept up by one that never was up. */
static void another_session_at_the_same_place(void **context)
{
    (void)context;
    need_root();
    bring(V4, ABI_BFD_UP);
    set_backends(ABI_DOWN, ABI_HEARTBEAT, 0);
    RECEIVE(V4, .state = ABI_BFD_UP);
    assert_verdicts(ABI_DOWN, ABI_HEARTBEAT, ABI_DOWN);
    struct abi_peer p = peer(V4);
    p.generation = ++lab.generation;
    set_peer(V4, &p);
    RECEIVE(V4, .state = ABI_BFD_DOWN);
    assert_int_equal(session(V4).state, ABI_BFD_INIT);
    assert_verdicts(ABI_UNKNOWN, ABI_NONE, ABI_DOWN);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        CASE(state_machine),
        CASE(what_is_discarded),
        CASE(other_packets_pass),
        CASE(fewer_hops_are_right_for_several),
        CASE(random_packets),
        CASE(detection_time),
        CASE(silence_ends_it),
        CASE(silence_of_one_that_was_not_up),
        CASE(a_peer_taken_away),
        CASE(told_by_the_peer),
        CASE(administrative_end),
        CASE(what_comes_back),
        CASE(another_session_at_the_same_place),
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
