/* SPDX-License-Identifier: Apache-2.0 */
/* Questions and claims in, answers out; ticks in, announcements out; who owns an address. */
#include "takeover_lab.h"

/* --- answers ---------------------------------------------------------------------------------------------
 */

static void check_answer(const struct frame *f)
{
    struct abi_addr client = address("10.1.0.9"), client6 = address("fd01::9");
    assert_memory_equal(f->data, client_mac, 6);
    assert_memory_equal(f->data + 6, own_mac, 6);
    if (!subject.v6) {
        struct frame wanted =
            arp(2, client_mac, own_mac, target(), client_mac, (const uint8_t *)&client.word[3]);
        assert_int_equal(f->bytes, ARP_BYTES);
        assert_memory_equal(f->data, wanted.data, ARP_BYTES);
        return;
    }
    assert_int_equal(f->bytes, SOLICITATION_BYTES);
    assert_int_equal(checksum(f->data, f->bytes), 0);
    assert_int_equal(f->data[21], 255);
    assert_memory_equal(f->data + 22, target(), 16);
    assert_memory_equal(f->data + 38, &client6, 16);
    assert_int_equal(f->data[54], 136);
    assert_int_equal(f->data[58], 0x60); /* solicited, override */
    assert_memory_equal(f->data + 62, target(), 16);
    assert_memory_equal(f->data + 78, ((uint8_t[]){2, 1, 2, 0, 0, 0, 0, SELF}), 8);
}

static void answers_if_it_owns_each(void)
{
    struct frame f = question();
    set_owner(SELF, 3, 5);
    assert_int_equal(run(lab.skel->progs.takeover, &f), ANSWERED);
    check_answer(&f);
    assert_int_equal(state().answers, 1);
    set_owner(0, 3, 5);
    assert_int_equal(receive(question()), TAKEN); /* nor does the stack answer */
    set_owner(-1, 0, 0);
    set_session(0, ABI_BFD_UP, 0);
    struct abi_address_state s = state();
    s.since_ns = now_ns();
    set_state(&s);
    assert_int_equal(receive(question()), TAKEN);
    assert_int_equal(state().answers, 0);
}

/* An address that nobody here is to answer for, though it is in the table local. */
static void quiet_address_each(void)
{
    struct abi_address quiet = {.managers = 0};
    put(lab.skel->maps.addresses, &subject.key, &quiet);
    bpf_map_delete_elem(bpf_map__fd(lab.skel->maps.address_state), &subject.key);
    assert_int_equal(receive(question()), TAKEN);
    struct abi_address_state s;
    assert_int_not_equal(bpf_map_lookup_elem(bpf_map__fd(lab.skel->maps.address_state), &subject.key, &s), 0);
}

static void quiet_address(void **context)
{
    (void)context;
    both(quiet_address_each);
}

static void answers_if_it_owns(void **context)
{
    (void)context;
    both(answers_if_it_owns_each);
}

/* RFC 4862, 5.4: somebody is about to use the address. */
static void detection_of_duplicates(void **context)
{
    (void)context;
    if (!lab.ready)
        skip();
    arrange(true);
    set_owner(SELF, 3, 5);
    struct frame f = nd(135, "::", "ff02::1:ff00:100", client_mac, NULL);
    f.bytes = 78;
    f.data[19] = 24;
    finish_nd(&f);
    assert_int_equal(run(lab.skel->progs.takeover, &f), ANSWERED);
    struct abi_addr nodes = address("ff02::1");
    assert_memory_equal(f.data, ((uint8_t[]){0x33, 0x33, 0, 0, 0, 1}), 6);
    assert_memory_equal(f.data + 38, &nodes, 16);
    assert_int_equal(f.data[58], 0x20); /* override, not solicited */
    assert_int_equal(checksum(f.data, f.bytes), 0);
}

static void what_is_not_ours_each(void)
{
    struct frame f = question();
    set_owner(SELF, 3, 5);
    f.data[subject.v6 ? 77 : 41] ^= 1; /* another address */
    assert_int_equal(receive(f), PASS);
    f = question();
    if (subject.v6) {
        f.data[21] = 254; /* it has passed a router */
        assert_int_equal(receive(f), PASS);
        f.data[21] = 255;
        f.data[55] = 1; /* code */
        assert_int_equal(receive(f), PASS);
        f.data[55] = 0;
        f.data[54] = 133;
    } else {
        f.data[21] = 2; /* somebody's answer to somebody */
        assert_int_equal(receive(f), PASS);
        f.data[21] = 1;
        f.data[15] = 6; /* another kind of link */
    }
    assert_int_equal(receive(f), PASS);
    f = question();
    for (f.bytes = subject.v6 ? 54 : 34; f.bytes < (subject.v6 ? 78 : ARP_BYTES); f.bytes++)
        assert_int_equal(receive(f), PASS);
}

static void what_is_not_ours(void **context)
{
    (void)context;
    both(what_is_not_ours_each);
}

/* Whatever comes: an answer only from the owner, and an owner only by a claim with a manager's link address.
 */
static void random_packets_each(void)
{
    srand(826);
    for (int i = 0; i < RANDOM_PACKETS / 2; i++) {
        struct frame f = i & 1 ? question() : announcement(client_mac, 7, 200, 0);
        for (int flips = rand() % 4; flips >= 0; flips--)
            f.data[12 + (size_t)rand() % (f.bytes - 12)] = (uint8_t)rand();
        int verdict = receive(f);
        assert_true(verdict == PASS || verdict == TAKEN);
        if (i % 64 == 0)
            set_owner(2, 3, 5);
        assert_true(state().owner == 2 || state().owner == 0);
    }
}

static void random_packets(void **context)
{
    (void)context;
    both(random_packets_each);
}

/* --- who owns it -----------------------------------------------------------------------------------------
 */

static void listens_first_each(void)
{
    struct frame last;
    bpf_map_delete_elem(bpf_map__fd(lab.skel->maps.address_state), &subject.key);
    for (uint32_t i = 0; i < MANAGERS; i++)
        set_session(i, ABI_BFD_DOWN, 0);
    assert_int_equal(tick(&last), 0);
    struct abi_address_state s = state();
    assert_int_equal(s.owner, ABI_NO_OWNER);
    assert_int_equal(s.listening, 1);
    s.since_ns = ago_ns(2900);
    set_state(&s);
    assert_int_equal(tick(&last), 0);
    s = state();
    s.since_ns = ago_ns(3000);
    set_state(&s);
    assert_true(tick(&last) > 0);
    s = state();
    assert_int_equal(s.owner, SELF);
    assert_int_equal(s.claim, claim(1, 1, SELF));
}

static void listens_first(void **context)
{
    (void)context;
    both(listens_first_each);
}

static void who_listens_hears_the_owner_each(void)
{
    struct frame last;
    bpf_map_delete_elem(bpf_map__fd(lab.skel->maps.address_state), &subject.key);
    hear(3, 9, 2);
    struct abi_address_state s = state();
    assert_int_equal(s.owner, 2);
    assert_int_equal(s.claim, claim(3, 9, 2));
    assert_int_equal(tick(&last), 0);
    assert_int_equal(state().owner, 2);
}

static void who_listens_hears_the_owner(void **context)
{
    (void)context;
    both(who_listens_hears_the_owner_each);
}

static void check_announcement(const struct frame *f, uint8_t support, uint8_t term)
{
    uint8_t mark[] = {2, 0xfa, (uint8_t)(support << 4 | SELF), 0, 0, term}, option[8] = {254, 1};
    memcpy(option + 2, mark, 6);
    struct frame wanted = subject.v6 ? nd(136, "fd01::100", "ff02::1", own_mac, option)
                                     : arp(1, all, own_mac, target(), mark, target());
    if (subject.v6) {
        wanted.data[58] = 0x20;
        finish_nd(&wanted);
    }
    assert_int_equal(f->bytes, wanted.bytes);
    assert_memory_equal(f->data, wanted.data, wanted.bytes);
}

static void the_next_takes_over_each(void)
{
    struct frame last;
    assert_int_equal(tick(&last), 0);
    set_session(0, ABI_BFD_DOWN, 10); /* after it was heard */
    assert_int_equal(tick(&last), subject.v6 ? 1 : 2);
    check_announcement(&last, 2, 6);
    if (!subject.v6) { /* for those that heed answers alone */
        struct frame wanted = arp(2, all, own_mac, target(), own_mac, target());
        assert_memory_equal(first_sent.data, wanted.data, ARP_BYTES);
    }
    struct abi_address_state s = state();
    assert_int_equal(s.owner, SELF);
    assert_int_equal(s.takeovers, 1);
    /* A burst, and then one a second. */
    int sent = 0;
    for (int i = 0; i < 6; i++) {
        s = state();
        s.claimed_ns = ago_ns(101);
        set_state(&s);
        sent += tick(&last) > 0;
    }
    assert_int_equal(sent, 3);
    s = state();
    s.claimed_ns = ago_ns(1001);
    set_state(&s);
    assert_true(tick(&last) > 0);
}

static void the_next_takes_over(void **context)
{
    (void)context;
    both(the_next_takes_over_each);
}

static void owners_that_are_no_more_each(void)
{
    static const struct {
        const char *what;
        int owner;
        uint64_t heard_ms, ended_ms;
        enum abi_bfd_state owners, before; /* of the owner's session, and of the first manager's */
        uint32_t support;
        uint32_t after;
    } cases[] = {
        {"it is there", 2, 100, 0, ABI_BFD_UP, ABI_BFD_UP, 3, 2},
        {"session ended, but heard since", 2, 100, 200, ABI_BFD_DOWN, ABI_BFD_UP, 3, 2},
        {"this node drains", 2, 100, 50, ABI_BFD_ADMIN_DOWN, ABI_BFD_ADMIN_DOWN, 3, 2},
        {"never had a session", 2, 100, 0, ABI_BFD_DOWN, ABI_BFD_UP, 3, 2},
        {"session ended, ours to take", 2, 100, 50, ABI_BFD_DOWN, ABI_BFD_DOWN, 3, SELF},
        {"session ended, coming up again", 2, 100, 50, ABI_BFD_INIT, ABI_BFD_DOWN, 3, SELF},
        {"session ended, the first one's to take", 2, 100, 50, ABI_BFD_DOWN, ABI_BFD_UP, 3, ABI_NO_OWNER},
        {"silent", 2, 3600, 0, ABI_BFD_UP, ABI_BFD_DOWN, 3, SELF},
        {"wants to be relieved", 2, 100, 0, ABI_BFD_UP, ABI_BFD_DOWN, 0, SELF},
        {"wants to be relieved, by the first", 2, 100, 0, ABI_BFD_UP, ABI_BFD_UP, 0, ABI_NO_OWNER},
        {"the first one wants to be relieved", 0, 100, 0, ABI_BFD_UP, ABI_BFD_UP, 0, SELF},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct frame last;
        set_session(0, cases[i].before, 0);
        set_session((uint32_t)cases[i].owner, cases[i].owners, cases[i].ended_ms);
        set_owner(cases[i].owner, cases[i].support, 5);
        struct abi_address_state s = state();
        s.heard_ns = ago_ns(cases[i].heard_ms);
        set_state(&s);
        tick(&last);
        if (state().owner != cases[i].after)
            fail_msg("%s: %u", cases[i].what, state().owner);
    }
}

static void owners_that_are_no_more(void **context)
{
    (void)context;
    both(owners_that_are_no_more_each);
}

/* The one before us had its time. */
static void turns_each(void)
{
    struct frame last;
    set_session(2, ABI_BFD_DOWN, 0);
    set_owner(-1, 0, 0);
    struct abi_address_state s = state();
    s.since_ns = ago_ns(200);
    set_state(&s);
    tick(&last);
    assert_int_equal(state().owner, ABI_NO_OWNER);
    s.since_ns = ago_ns(251);
    set_state(&s);
    tick(&last);
    assert_int_equal(state().owner, SELF);
}

static void turns(void **context)
{
    (void)context;
    both(turns_each);
}

static void of_two_claims_one_stands_each(void)
{
    static const struct {
        uint32_t support, term; /* own */
        uint8_t heard_support, heard_term, heard_position;
        bool yields;
    } cases[] = {
        {3, 5, 1, 6, 0, false}, {1, 6, 3, 5, 2, true}, {2, 5, 2, 6, 2, true},
        {2, 6, 2, 5, 0, false}, {2, 5, 2, 5, 0, true}, {2, 5, 2, 5, 2, false},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct frame last;
        set_owner(SELF, cases[i].support, cases[i].term);
        hear(cases[i].heard_support, cases[i].heard_term, cases[i].heard_position);
        struct abi_address_state s = state();
        assert_int_equal(s.conflicts, 1);
        if (s.owner != (cases[i].yields ? cases[i].heard_position : SELF))
            fail_msg("case %zu: %u", i, s.owner);
        /* Who stands says so. */
        assert_int_equal(tick(&last) > 0, !cases[i].yields);
        assert_int_equal(receive(question()), cases[i].yields ? TAKEN : ANSWERED);
    }
}

static void of_two_claims_one_stands(void **context)
{
    (void)context;
    both(of_two_claims_one_stands_each);
}

static void claims_of_strangers_each(void)
{
    struct frame last;
    set_owner(SELF, 1, 1);
    assert_int_equal(receive(announcement(client_mac, 3, 9, 0)), PASS);
    struct abi_address_state s = state();
    assert_int_equal(s.owner, SELF);
    assert_int_equal(s.foreign, 1);
    assert_true(tick(&last) > 0); /* defended once */
    assert_int_equal(receive(announcement(client_mac, 3, 9, 0)), PASS);
    assert_int_equal(tick(&last), 0);
    assert_int_equal(receive(announcement(own_mac, 3, 9, SELF)), PASS); /* our own, come back */
    assert_int_equal(state().foreign, 2);
    assert_int_equal(receive(announcement((uint8_t[]){2, 0, 0, 0, 0, 7}, 3, 9, 7)),
                     PASS); /* there is no such */
    assert_int_equal(state().owner, SELF);
}

static void claims_of_strangers(void **context)
{
    (void)context;
    both(claims_of_strangers_each);
}

static void draining_each(void)
{
    struct frame last;
    set_node(ABI_NODE_DRAINING);
    set_owner(SELF, 3, 5);
    struct abi_address_state s = state();
    s.claimed_ns = ago_ns(1001);
    set_state(&s);
    assert_true(tick(&last) > 0);
    check_announcement(&last, 0, 5);
    assert_int_equal(receive(question()), ANSWERED); /* until another has it */
    hear(2, 6, 2);
    assert_int_equal(state().owner, 2);
    assert_int_equal(receive(question()), TAKEN);
    set_owner(-1, 0, 0);
    tick(&last);
    assert_int_equal(state().owner, ABI_NO_OWNER);
    set_owner(0, 0, 5); /* who drains, too */
    set_session(0, ABI_BFD_DOWN, 50);
    tick(&last);
    assert_int_equal(state().owner, 0);
}

static void draining(void **context)
{
    (void)context;
    both(draining_each);
}

/* The others have missed us, so our claim is the weaker one; after long, we know nothing. */
static void a_clock_that_stood_still_each(void)
{
    struct frame last;
    set_owner(SELF, 3, 5);
    struct abi_address_state s = state();
    s.looked_ns = ago_ns(SECOND_MS);
    set_state(&s);
    tick(&last);
    assert_int_equal(state().claim, claim(1, 5, SELF));
    set_state(&s);
    hear(2, 6, 0);
    assert_int_equal(state().owner, 0);
    s.looked_ns = ago_ns(4 * SECOND_MS);
    set_state(&s);
    assert_int_equal(receive(question()), TAKEN);
    assert_int_equal(state().owner, ABI_NO_OWNER);
    assert_int_equal(state().listening, 1);
}

static void a_clock_that_stood_still(void **context)
{
    (void)context;
    both(a_clock_that_stood_still_each);
}

/* The owner stays the same node when positions move, and its state goes with the configuration. */
static void configuration_changes_each(void)
{
    struct abi_address a;
    struct frame last;
    uint32_t zero = 0;
    struct abi_tick_state sweep = {.ticks = 512};
    assert_int_equal(bpf_map_lookup_elem(bpf_map__fd(lab.skel->maps.addresses), &subject.key, &a), 0);
    a.node_id[0] = 3;
    a.node_id[2] = 1;
    put(lab.skel->maps.addresses, &subject.key, &a);
    tick(&last);
    assert_int_equal(state().owner, 2);
    a.node_id[2] = 44;
    put(lab.skel->maps.addresses, &subject.key, &a);
    set_session(0, ABI_BFD_DOWN, 0);
    tick(&last);
    assert_int_equal(state().owner, SELF);
    bpf_map_delete_elem(bpf_map__fd(lab.skel->maps.addresses), &subject.key);
    put(lab.skel->maps.tick_state, &zero, &sweep);
    tick(&last);
    assert_true(bpf_map_lookup_elem(bpf_map__fd(lab.skel->maps.address_state), &subject.key,
                                    &(struct abi_address_state){0}) < 0);
    sweep.ticks = 1;
    put(lab.skel->maps.tick_state, &zero, &sweep);
}

static void configuration_changes(void **context)
{
    (void)context;
    both(configuration_changes_each);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_if_it_owns),
        cmocka_unit_test(quiet_address),
        cmocka_unit_test(detection_of_duplicates),
        cmocka_unit_test(what_is_not_ours),
        cmocka_unit_test(random_packets),
        cmocka_unit_test(listens_first),
        cmocka_unit_test(who_listens_hears_the_owner),
        cmocka_unit_test(the_next_takes_over),
        cmocka_unit_test(owners_that_are_no_more),
        cmocka_unit_test(turns),
        cmocka_unit_test(of_two_claims_one_stands),
        cmocka_unit_test(claims_of_strangers),
        cmocka_unit_test(draining),
        cmocka_unit_test(a_clock_that_stood_still),
        cmocka_unit_test(configuration_changes),
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
