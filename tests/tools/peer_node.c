/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kernel half of one node, as far as its peers see it: loads clock, heartbeats and address takeover into
 * the network namespace it runs in, writes what control would write, prints what the programs know. It runs
 * no longer than each of its commands: what it shows, works without user space.
 *
 *   peer_node load OBJECTS SET DEVICE... TICK OUT FAN   pins below the folder SET, attaches
 *   peer_node node SET KEY=VALUE...                     tick_ns, stale_ns, flags
 *   peer_node peer SET INDEX KEY=VALUE...               KEY: a field of struct abi_peer
 *   peer_node address SET ADDRESS DEVICE SELF PEER/MAC...   candidates in order; PEER: index + 1
 *   peer_node backend SET ID PEER                       PEER: index + 1; the members of a peer follow each
 * other peer_node show SET                                  one JSON object
 */
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <inttypes.h>
#include <net/if.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "abi.h"

enum { PATH_BYTES = 256, BACKENDS_SHOWN = 16 };

static void die(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));
static void die(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    exit(1);
}

static struct abi_addr parse_addr(const char *text)
{
    struct abi_addr a = {{0, 0, 0, 0}};
    if (inet_pton(AF_INET6, text, &a) == 1)
        return a;
    a.word[2] = htonl(0xffff);
    if (inet_pton(AF_INET, text, &a.word[3]) != 1)
        die("%s is no address", text);
    return a;
}

static uint32_t device(const char *name)
{
    uint32_t index = if_nametoindex(name);
    if (!index)
        die("%s: %s", name, strerror(errno));
    return index;
}

static int map(const char *set, const char *name)
{
    char path[PATH_BYTES];
    snprintf(path, sizeof(path), "%s/%s", set, name);
    int fd = bpf_obj_get(path);
    if (fd < 0)
        die("%s: %s", path, strerror(errno));
    return fd;
}

static void get(const char *set, const char *name, const void *key, void *value)
{
    int fd = map(set, name);
    if (bpf_map_lookup_elem(fd, key, value))
        die("%s: %s", name, strerror(errno));
    close(fd);
}

static void put(const char *set, const char *name, const void *key, const void *value)
{
    int fd = map(set, name);
    if (bpf_map_update_elem(fd, key, value, BPF_ANY))
        die("%s: %s", name, strerror(errno));
    close(fd);
}

/* --- load ------------------------------------------------------------------------------------------------
 */

static void attach(struct bpf_object *object, const char *name, const char *dev, uint32_t priority)
{
    struct bpf_program *program = bpf_object__find_program_by_name(object, name);
    LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)device(dev), .attach_point = BPF_TC_INGRESS);
    LIBBPF_OPTS(bpf_tc_opts, opts, .handle = ABI_TC_HANDLE, .priority = priority);
    if (!program)
        die("no program %s", name);
    opts.prog_fd = bpf_program__fd(program);
    libbpf_set_print(NULL); /* says that the hook is there already */
    int err = bpf_tc_hook_create(&hook);
    if (err && err != -EEXIST)
        die("clsact on %s: %s", dev, strerror(-err));
    err = bpf_tc_attach(&hook, &opts);
    if (err)
        die("%s on %s: %s", name, dev, strerror(-err));
}

static struct bpf_object *load_object(const char *folder, const char *name, const char *set)
{
    char path[PATH_BYTES];
    LIBBPF_OPTS(bpf_object_open_opts, opts, .pin_root_path = set);
    snprintf(path, sizeof(path), "%s/%s.bpf.o", folder, name);
    struct bpf_object *object = bpf_object__open_file(path, &opts);
    if (!object || bpf_object__load(object))
        die("%s: %s", path, strerror(errno));
    return object;
}

static int load(int argc, char **argv)
{
    if (argc < 6)
        die("load OBJECTS SET DEVICE... TICK OUT FAN");
    const char *set = argv[1], *tick = argv[argc - 3], *out = argv[argc - 2], *fan = argv[argc - 1];
    struct bpf_object *probe = load_object(argv[0], "probe", set);
    struct bpf_object *heartbeat = load_object(argv[0], "heartbeat", set);
    struct bpf_object *takeover = load_object(argv[0], "takeover", set);
    struct abi_node node = {.abi_version = ABI_VERSION,
                            .tick_ifindex = device(tick),
                            .out_ifindex = device(out),
                            .fan_ifindex = device(fan),
                            .tick_ns = 20000000,
                            .stale_ns = 200000000};
    uint32_t zero = 0;
    put(set, "node", &zero, &node);
    attach(probe, "fan", fan, ABI_TC_RX);
    for (int i = 2; i < argc - 3; i++) {
        attach(heartbeat, "bfd_rx", argv[i], ABI_TC_HEARTBEAT);
        attach(takeover, "takeover", argv[i], ABI_TC_TAKEOVER);
    }
    attach(takeover, "takeover_tick", tick, ABI_TC_TAKEOVER);
    attach(heartbeat, "bfd_tick", tick, ABI_TC_HEARTBEAT);
    attach(probe, "tick", tick, ABI_TC_RX);
    return 0;
}

/* --- what control writes ---------------------------------------------------------------------------------
 */

struct field {
    const char *name;
    size_t offset, bytes;
};

#define FIELD(type, member)                                                                                  \
    {                                                                                                        \
#member, offsetof(struct type, member), sizeof(((struct type *)0)->member)                           \
    }

static const struct field peer_fields[] = {FIELD(abi_peer, addr),          FIELD(abi_peer, source),
                                           FIELD(abi_peer, node_id),       FIELD(abi_peer, discriminator),
                                           FIELD(abi_peer, flags),         FIELD(abi_peer, tx_us),
                                           FIELD(abi_peer, rx_us),         FIELD(abi_peer, multiplier),
                                           FIELD(abi_peer, draining),      FIELD(abi_peer, generation),
                                           FIELD(abi_peer, members_first), FIELD(abi_peer, members_count),
                                           FIELD(abi_peer, source_port),   {NULL, 0, 0}};

static const struct field node_fields[] = {
    FIELD(abi_node, flags), FIELD(abi_node, tick_ns), FIELD(abi_node, stale_ns), {NULL, 0, 0}};

/* Writes one KEY=VALUE: addresses by their text, numbers of any width. */
static void assign(const struct field *fields, void *target, const char *word)
{
    const char *equals = strchr(word, '=');
    for (const struct field *f = fields; equals && f->name; f++) {
        if (strlen(f->name) != (size_t)(equals - word) || strncmp(f->name, word, strlen(f->name)) != 0)
            continue;
        char *at = (char *)target + f->offset;
        uint64_t number = strtoull(equals + 1, NULL, 0);
        struct abi_addr address;
        if (f->bytes == sizeof(address)) {
            address = parse_addr(equals + 1);
            memcpy(at, &address, sizeof(address));
        } else {
            for (size_t i = 0; i < f->bytes; i++)
                at[__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? i : f->bytes - 1 - i] =
                    (char)(number >> 8 * i);
        }
        return;
    }
    die("%s: no such field", word);
}

static int set_node(int argc, char **argv)
{
    struct abi_node n;
    uint32_t zero = 0;
    get(argv[0], "node", &zero, &n);
    for (int i = 1; i < argc; i++)
        assign(node_fields, &n, argv[i]);
    put(argv[0], "node", &zero, &n);
    return 0;
}

static int set_peer(int argc, char **argv)
{
    struct abi_peer p;
    uint32_t index = (uint32_t)atoi(argv[1]);
    get(argv[0], "peers", &index, &p);
    for (int i = 2; i < argc; i++)
        assign(peer_fields, &p, argv[i]);
    put(argv[0], "peers", &index, &p);
    return 0;
}

static void parse_mac(const char *text, uint8_t *mac)
{
    if (sscanf(text, "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", &mac[0], &mac[1], &mac[2], &mac[3], &mac[4], &mac[5]) !=
        6)
        die("%s is no link address", text);
}

static int set_address(int argc, char **argv)
{
    struct abi_address_key key;
    struct abi_address a;
    if (argc < 5 || argc - 4 > ABI_ADDRESS_MANAGERS_MAX)
        die("address SET ADDRESS DEVICE SELF PEER/MAC...");
    memset(&key, 0, sizeof(key));
    memset(&a, 0, sizeof(a));
    key.addr = parse_addr(argv[1]);
    key.ifindex = device(argv[2]);
    a.self = (uint32_t)atoi(argv[3]);
    a.managers = (uint32_t)(argc - 4);
    for (uint32_t i = 0; i < a.managers; i++) {
        const char *slash = strchr(argv[4 + i], '/');
        a.peer[i] = (uint32_t)atoi(argv[4 + i]);
        a.node_id[i] = i + 1;
        parse_mac(slash ? slash + 1 : "", a.mac[i]);
    }
    memcpy(a.own_mac, a.mac[a.self], sizeof(a.own_mac));
    put(argv[0], "addresses", &key, &a);
    return 0;
}

static int set_backend(int argc, char **argv)
{
    if (argc < 3)
        die("backend SET ID PEER");
    uint32_t id = (uint32_t)atoi(argv[1]);
    struct abi_backend b = {.addr = parse_addr("192.0.2.1"),
                            .port = htons(80),
                            .generation = 1,
                            .weight = 1,
                            .admin = ABI_ADMIN_ACTIVE,
                            .flags = ABI_BACKEND_UNCHECKED,
                            .peer = (uint32_t)atoi(argv[2]),
                            .next_same = ABI_NO_BACKEND};
    uint64_t verdict = ABI_VERDICT(ABI_UP, ABI_UNCHECKED, 1, 1);
    put(argv[0], "backends", &id, &b);
    put(argv[0], "verdicts", &id, &verdict);
    put(argv[0], "peer_members", &id, &id);
    return 0;
}

/* --- what the programs know ------------------------------------------------------------------------------
 */

static void show_peer(const char *set, uint32_t i, const char *separator)
{
    struct abi_peer_state s;
    get(set, "peer_state", &i, &s);
    printf("%s\"%u\": {\"state\": %u, \"remote_state\": %u, \"diagnostic\": %u, \"changed_ns\": %" PRIu64
           ", \"detect_ns\": %" PRIu64 ", \"received_ns\": %" PRIu64 ", \"desired_tx_us\": %u, "
           "\"sending_us\": %u, \"required_rx_us\": %u, \"listening_us\": %u, \"remote_min_tx_us\": %u, "
           "\"remote_min_rx_us\": %u, \"remote_multiplier\": %u, \"remote_discriminator\": %u, \"poll\": %u, "
           "\"received\": %" PRIu64 ", \"sent\": %" PRIu64 ", \"dropped\": %" PRIu64 ", \"ups\": %" PRIu64
           ", \"downs\": %" PRIu64 "}",
           separator, i, s.state, s.remote_state, s.diagnostic, (uint64_t)s.changed_ns, (uint64_t)s.detect_ns,
           (uint64_t)s.received_ns, s.desired_tx_us, s.sending_us, s.required_rx_us, s.listening_us,
           s.remote_min_tx_us, s.remote_min_rx_us, s.remote_multiplier, s.remote_discriminator, s.poll,
           (uint64_t)s.received, (uint64_t)s.sent, (uint64_t)s.dropped, (uint64_t)s.ups, (uint64_t)s.downs);
}

static void show_peers(const char *set)
{
    const char *separator = "";
    printf("\"peers\": {");
    for (uint32_t i = 0; i < ABI_PEERS_MAX; i++) {
        struct abi_peer p;
        get(set, "peers", &i, &p);
        if (!(p.flags & ABI_PEER_USED))
            continue;
        show_peer(set, i, separator);
        separator = ", ";
    }
    printf("}, ");
}

static void show_addresses(const char *set)
{
    struct abi_address_key key, *before = NULL;
    struct abi_address_state s;
    const char *separator = "";
    int fd = map(set, "address_state");
    printf("\"addresses\": {");
    while (bpf_map_get_next_key(fd, before, &key) == 0) {
        char text[INET6_ADDRSTRLEN];
        before = &key;
        if (bpf_map_lookup_elem(fd, &key, &s))
            continue;
        inet_ntop(AF_INET6, &key.addr, text, sizeof(text));
        printf("%s\"%s\": {\"owner\": %d, \"since_ns\": %" PRIu64 ", \"claim\": %" PRIu64
               ", \"answers\": %" PRIu64 ", \"conflicts\": %" PRIu64 ", \"foreign\": %" PRIu64
               ", \"takeovers\": %" PRIu64 "}",
               separator, text, (int)s.owner, (uint64_t)s.since_ns, (uint64_t)s.claim, (uint64_t)s.answers,
               (uint64_t)s.conflicts, (uint64_t)s.foreign, (uint64_t)s.takeovers);
        separator = ", ";
    }
    printf("}, ");
    close(fd);
}

static int show(int argc, char **argv)
{
    static const char *const states[] = {"unknown", "up", "suspect", "down"};
    static const char *const reasons[] = {
#define REASON_NAME(symbol, name, text) name,
        ABI_REASONS(REASON_NAME)
#undef REASON_NAME
    };
    const char *set = argv[0];
    struct abi_tick_state t;
    uint32_t zero = 0;
    (void)argc;
    get(set, "tick_state", &zero, &t);
    printf("{");
    show_peers(set);
    show_addresses(set);
    printf("\"verdicts\": [");
    for (uint32_t i = 0; i < BACKENDS_SHOWN; i++) {
        uint64_t verdict;
        get(set, "verdicts", &i, &verdict);
        printf("%s[\"%s\", \"%s\"]", i ? ", " : "", states[ABI_VERDICT_STATE(verdict) & 3],
               reasons[ABI_VERDICT_REASON(verdict) % ABI_REASON_COUNT]);
    }
    printf("], \"ticks\": %" PRIu64 ", \"errors\": %" PRIu64 ", \"restarts\": %" PRIu64 "}\n",
           (uint64_t)t.ticks, (uint64_t)t.errors, (uint64_t)t.restarts);
    return 0;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        int (*run)(int argc, char **argv);
        int words;
    } commands[] = {{"load", load, 6},           {"node", set_node, 1},       {"peer", set_peer, 2},
                    {"address", set_address, 5}, {"backend", set_backend, 3}, {"show", show, 1}};
    for (size_t i = 0; argc > 1 && i < sizeof(commands) / sizeof(commands[0]); i++)
        if (strcmp(argv[1], commands[i].name) == 0 && argc - 2 >= commands[i].words)
            return commands[i].run(argc - 2, argv + 2);
    die("peer_node load|node|peer|address|backend|show SET ...");
}
