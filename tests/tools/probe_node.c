/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The probing half of one node: makes its clock in the network namespace it runs in, loads and attaches the
 * programs, writes what control would write, prints what the programs know. It runs no longer than each of
 * its commands: what it shows works without user space.
 *
 *   probe_node load INSTANCE OBJECT PERIOD_US DEVICE...   flags: ABI_NODE_PROBES
 *   probe_node check INSTANCE SERVICE tcp|http RISE FALL INTERVAL_US TIMEOUT_US HTTP_INTERVAL_US
 * HTTP_TIMEOUT_US probe_node backend INSTANCE ID SERVICE ADDRESS PORT SOURCE|local     ids from 0 on; the
 * plan is one class probe_node show INSTANCE                              one JSON object probe_node changes
 * INSTANCE                           the history, a JSON list probe_node remove INSTANCE
 */
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <inttypes.h>
#include <net/if.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "abi.h"
#include "control/kernel_clock.h"

enum { PATH_BYTES = 256, BACKENDS_SHOWN = 16, STALE_NS = 200000000, US_PER_TICK_NS = 1000 };

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

static void folder(const char *instance, char out[PATH_BYTES])
{
    snprintf(out, PATH_BYTES, "/sys/fs/bpf/fairlead-%s", instance);
}

static int map(const char *instance, const char *name)
{
    char path[PATH_BYTES];
    snprintf(path, sizeof(path), "/sys/fs/bpf/fairlead-%s/%s", instance, name);
    int fd = bpf_obj_get(path);
    if (fd < 0)
        die("%s: %s", path, strerror(errno));
    return fd;
}

static void get(const char *instance, const char *name, uint32_t key, void *value)
{
    int fd = map(instance, name);
    if (bpf_map_lookup_elem(fd, &key, value))
        die("%s: %s", name, strerror(errno));
    close(fd);
}

static void put(const char *instance, const char *name, const void *key, const void *value)
{
    int fd = map(instance, name);
    if (bpf_map_update_elem(fd, key, value, BPF_ANY))
        die("%s: %s", name, strerror(errno));
    close(fd);
}

static void attach(const struct bpf_object *object, const char *program, uint32_t ifindex)
{
    const struct bpf_program *p = bpf_object__find_program_by_name(object, program);
    LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)ifindex, .attach_point = BPF_TC_INGRESS);
    LIBBPF_OPTS(bpf_tc_opts, opts, .prog_fd = p ? bpf_program__fd(p) : -1, .handle = ABI_TC_HANDLE,
                .priority = ABI_TC_RX, .flags = BPF_TC_F_REPLACE);
    int err = bpf_tc_hook_create(&hook);
    if (err && err != -EEXIST)
        die("clsact: %s", strerror(-err));
    err = bpf_tc_attach(&hook, &opts);
    if (err)
        die("%s: %s", program, strerror(-err));
}

static void load(const char *instance, char **args)
{
    const char *file = args[0];
    uint32_t period_us = (uint32_t)atoi(args[1]), zero = 0;
    struct kernel_clock clock;
    char why[KERNEL_CLOCK_WHY_MAX], path[PATH_BYTES];
    if (kernel_clock_ensure(instance, period_us, &clock, why))
        die("%s", why);
    folder(instance, path);
    if (mkdir(path, 0700) && errno != EEXIST)
        die("%s: %s", path, strerror(errno));
    LIBBPF_OPTS(bpf_object_open_opts, opts, .pin_root_path = path);
    struct bpf_object *object = bpf_object__open_file(file, &opts);
    if (!object || bpf_object__load(object))
        die("%s: %s", file, strerror(errno));
    struct abi_node node = {.abi_version = ABI_VERSION,
                            .flags = ABI_NODE_PROBES | (clock.token ? ABI_NODE_TOKEN : 0),
                            .tick_ifindex = clock.tick_ifindex,
                            .out_ifindex = clock.out_ifindex,
                            .fan_ifindex = clock.fan_ifindex,
                            .pace_ifindex = clock.pace_ifindex,
                            .tick_ns = clock.tick_ns,
                            .stale_ns = STALE_NS,
                            .inner = clock.inner,
                            .inner6 = clock.inner6};
    if (getenv("NO_TOKEN"))
        node.flags &= ~(uint32_t)ABI_NODE_TOKEN;
    put(instance, "node", &zero, &node);
    attach(object, "fan", clock.fan_ifindex);
    if (clock.paced_ifindex)
        attach(object, "fan", clock.paced_ifindex);
    attach(object, "rx", clock.out_ifindex);
    for (char **name = args + 2; *name; name++)
        attach(object, "rx", if_nametoindex(*name));
    attach(object, "tick", clock.tick_ifindex);
}

static uint32_t number(const char *text)
{
    return (uint32_t)strtoul(text, NULL, 0);
}

static void check(const char *instance, char **args)
{
    static const char request[] = "GET /healthz HTTP/1.0\r\nHost: check\r\n\r\n";
    uint32_t service = number(args[0]);
    struct abi_check c = {.kind = strcmp(args[1], "http") == 0 ? ABI_CHECK_HTTP : ABI_CHECK_TCP,
                          .rise = (uint8_t)number(args[2]),
                          .fall = (uint8_t)number(args[3]),
                          .interval_us = number(args[4]),
                          .timeout_us = number(args[5]),
                          .http_interval_us = number(args[6]),
                          .http_timeout_us = number(args[7]),
                          .request_bytes = sizeof(request) - 1};
    memcpy(c.request, request, sizeof(request) - 1);
    for (uint32_t bit = 100; bit < 300; bit++) /* 200 to 399 */
        c.statuses[bit / 64] |= 1ull << bit % 64;
    put(instance, "checks", &service, &c);
}

static void plan(const char *instance, uint32_t count, uint32_t interval_us)
{
    uint32_t zero = 0;
    struct abi_node node;
    get(instance, "node", 0, &node);
    uint32_t divisor = (uint32_t)(interval_us * (uint64_t)US_PER_TICK_NS / node.tick_ns);
    struct abi_probe_plan p = {.classes = 1, .class = {{.count = count, .divisor = divisor ? divisor : 1}}};
    for (uint32_t i = 0; i < count; i++)
        put(instance, "probe_order", &i, &i);
    put(instance, "probe_plan", &zero, &p);
    if (node.backends < count)
        node.backends = count;
    put(instance, "node", &zero, &node);
}

/* A backend that is there already gets a new generation. */
static void backend(const char *instance, char **args)
{
    uint32_t id = number(args[0]);
    struct abi_backend b;
    struct abi_check c;
    get(instance, "backends", id, &b);
    uint16_t generation = (uint16_t)(b.generation + 1);
    uint32_t next = b.next_same;
    bool local = strcmp(args[4], "local") == 0;
    b = (struct abi_backend){.addr = parse_addr(args[2]),
                             .port = htons((uint16_t)number(args[3])),
                             .generation = generation,
                             .weight = 1,
                             .admin = ABI_ADMIN_ACTIVE,
                             .flags = local ? ABI_BACKEND_LOCAL : 0,
                             .service = number(args[1])};
    if (!local)
        b.source = parse_addr(args[4]);
    get(instance, "checks", b.service, &c);
    struct abi_endpoint at = {.addr = b.addr, .port = b.port};
    struct abi_endpoint_backends first = {ABI_NO_BACKEND};
    int fd = map(instance, "endpoints");
    bpf_map_lookup_elem(fd, &at, &first);
    close(fd);
    b.next_same = generation == 1 ? first.first : next;
    if (generation == 1)
        first.first = id;
    put(instance, "backends", &id, &b);
    put(instance, "endpoints", &at, &first);
    plan(instance, id + 1, c.interval_us);
}

static const char *state_name(uint64_t verdict)
{
    static const char *const names[] = {"unknown", "up", "suspect", "down"};
    return names[ABI_VERDICT_STATE(verdict) & 3];
}

static const char *reason_name(uint64_t verdict)
{
    static const char *const names[] = {
#define NAME(symbol, name, text) name,
        ABI_REASONS(NAME)
#undef NAME
    };
    uint32_t reason = ABI_VERDICT_REASON(verdict);
    return reason < ABI_REASON_COUNT ? names[reason] : "?";
}

static void show_backend(const char *instance, uint32_t id)
{
    struct abi_probe_state s;
    struct abi_backend b;
    uint64_t verdict;
    get(instance, "verdicts", id, &verdict); /* before what led to it, which is never older then */
    get(instance, "probe_state", id, &s);
    get(instance, "backends", id, &b);
    if (ABI_VERDICT_GENERATION(verdict) != b.generation)
        verdict = 0;
    printf("{\"state\": \"%s\", \"reason\": \"%s\", \"sequence\": %u, \"rtt_us\": %u, \"http_rtt_us\": %u, "
           "\"status\": %u, "
           "\"misses\": %u, \"http_misses\": %u, \"probes\": %llu, \"answers\": %llu, \"refusals\": %llu, "
           "\"timeouts\": "
           "%llu, \"http_probes\": %llu, \"http_answers\": %llu, \"http_failures\": %llu}",
           state_name(verdict), reason_name(verdict), ABI_VERDICT_SEQUENCE(verdict), s.rtt_us, s.http_rtt_us,
           s.status, s.misses, s.http_misses, s.probes, s.answers, s.refusals, s.timeouts, s.http_probes,
           s.http_answers, s.http_failures);
}

static void show(const char *instance)
{
    struct abi_tick_state t;
    struct abi_node node;
    get(instance, "tick_state", 0, &t);
    get(instance, "node", 0, &node);
    printf("{\"ticks\": %llu, \"last_ns\": %llu, \"max_gap_ns\": %llu, \"stale\": %llu, \"storms\": %llu, "
           "\"errors\": %llu, "
           "\"over_budget\": %llu, \"restarts\": %llu, \"token\": %s, \"backends\": [",
           t.ticks, t.last_ns, t.max_gap_ns, t.stale, t.storms, t.errors, t.over_budget, t.restarts,
           node.flags & ABI_NODE_TOKEN ? "true" : "false");
    for (uint32_t id = 0; id < node.backends && id < BACKENDS_SHOWN; id++) {
        printf("%s", id ? ", " : "");
        show_backend(instance, id);
    }
    printf("]}\n");
}

static void changes(const char *instance)
{
    uint64_t head;
    get(instance, "history_head", 0, &head);
    printf("[");
    for (uint64_t n = head > ABI_HISTORY ? head - ABI_HISTORY : 0; n < head; n++) {
        struct abi_change c;
        get(instance, "history", (uint32_t)(n & (ABI_HISTORY - 1)), &c);
        printf("%s{\"time_ns\": %llu, \"backend\": %u, \"before\": \"%s\", \"state\": \"%s\", \"reason\": "
               "\"%s\"}",
               n ? ", " : "", c.time_ns, c.backend, state_name(c.before), state_name(c.after),
               reason_name(c.after));
    }
    printf("]\n");
}

static void take_away(const char *instance)
{
    char why[KERNEL_CLOCK_WHY_MAX], path[PATH_BYTES], command[PATH_BYTES + 16];
    if (kernel_clock_remove(instance, why))
        fprintf(stderr, "%s\n", why);
    folder(instance, path);
    snprintf(command, sizeof(command), "rm -rf %s", path);
    if (system(command))
        die("%s: not removed", path);
}

int main(int argc, char **argv)
{
    const char *verb = argc > 2 ? argv[1] : "";
    if (strcmp(verb, "load") == 0 && argc >= 5)
        load(argv[2], argv + 3);
    else if (strcmp(verb, "check") == 0 && argc == 11)
        check(argv[2], argv + 3);
    else if (strcmp(verb, "backend") == 0 && argc == 8)
        backend(argv[2], argv + 3);
    else if (strcmp(verb, "show") == 0)
        show(argv[2]);
    else if (strcmp(verb, "changes") == 0)
        changes(argv[2]);
    else if (strcmp(verb, "remove") == 0)
        take_away(argv[2]);
    else
        die("see the head of probe_node.c");
    return 0;
}
