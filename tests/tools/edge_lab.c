/* SPDX-License-Identifier: Apache-2.0 */
/*
 * edge_lab: loads the edge's programs in this network namespace and obeys lines on its input, so that tests
 * and benchmarks can try them without a daemon. Its maps are its own and end with it. Each line is answered
 * by one: "ok ..." or "error WHY".
 *
 *   attach DEVICE               `edge` on the ingress, `edge_out` on the egress
 *   backend ID ADDRESS PORT ADMIN STATE GENERATION local|remote
 *   service ID ADDRESS PORT MODE refuse|open SOURCE|- BACKEND...
 *   stats SERVICE               name=value ...
 *   traffic BACKEND             name=value ...
 *   flows                       elements in flows and half_open
 * ADMIN, STATE and MODE are the numbers of abi.h.
 */
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <net/if.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "abi.h"
#include "bpf/edge.skel.h"

enum { ROWS = 1021, WORDS_MAX = 128, CPUS_MAX = 1024 };

struct lab {
    struct edge_bpf *edge;
    uint32_t next_row;
};

static bool parse_address(const char *text, struct abi_addr *a)
{
    memset(a, 0, sizeof(*a));
    if (strchr(text, ':'))
        return inet_pton(AF_INET6, text, a) == 1;
    a->word[2] = htonl(0xffff);
    return inet_pton(AF_INET, text, &a->word[3]) == 1;
}

static int set(const struct bpf_map *map, const void *key, const void *value)
{
    return bpf_map_update_elem(bpf_map__fd(map), key, value, BPF_ANY) ? -errno : 0;
}

/* --- loading ------------------------------------------------------------------------------------------- */

static int load(struct lab *lab)
{
    struct bpf_map *map;
    lab->edge = edge_bpf__open();
    if (!lab->edge)
        return -errno;
    bpf_object__for_each_map(map, lab->edge->obj) bpf_map__set_pin_path(map, NULL);
    return edge_bpf__load(lab->edge);
}

static int attach_at(uint32_t ifindex, enum bpf_tc_attach_point point, const struct bpf_program *program)
{
    LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)ifindex, .attach_point = point);
    LIBBPF_OPTS(bpf_tc_opts, options, .prog_fd = bpf_program__fd(program), .handle = ABI_TC_HANDLE,
                .priority = ABI_TC_EDGE);
    int error = bpf_tc_hook_create(&hook);
    return error && error != -EEXIST ? error : bpf_tc_attach(&hook, &options);
}

static int do_attach(struct lab *lab, char **words)
{
    uint32_t ifindex = if_nametoindex(words[1]);
    if (!ifindex)
        return -ENODEV;
    int error = attach_at(ifindex, BPF_TC_INGRESS, lab->edge->progs.edge);
    return error ? error : attach_at(ifindex, BPF_TC_EGRESS, lab->edge->progs.edge_out);
}

/* --- configuration ------------------------------------------------------------------------------------- */

static int do_backend(struct lab *lab, char **words)
{
    uint32_t id = (uint32_t)atoi(words[1]);
    struct abi_backend b = {.port = htons((uint16_t)atoi(words[3])),
                            .admin = (uint8_t)atoi(words[4]),
                            .generation = (uint16_t)atoi(words[6]),
                            .weight = 1,
                            .flags = strcmp(words[7], "local") == 0 ? ABI_BACKEND_LOCAL : 0,
                            .next_same = ABI_NO_BACKEND};
    uint64_t verdict = ABI_VERDICT((uint32_t)atoi(words[5]), ABI_PROBE_OK, b.generation, 1);
    if (!parse_address(words[2], &b.addr))
        return -EINVAL;
    int error = set(lab->edge->maps.backends, &id, &b);
    return error ? error : set(lab->edge->maps.verdicts, &id, &verdict);
}

static uint32_t mix(uint32_t a, uint32_t b)
{
    uint32_t h = (a * 0x9e3779b1u) ^ (b * 0x85ebca6bu);
    h ^= h >> 15;
    h *= 0xc2b2ae35u;
    return h ^ h >> 13;
}

/* The backends with the highest numbers for the row: few rows change when a backend comes or goes. */
static struct abi_row make_row(uint32_t number, const uint32_t *ids, uint32_t count)
{
    struct abi_row row;
    uint32_t bound = UINT32_MAX;
    for (int c = 0; c < ABI_CANDIDATES; c++) {
        uint32_t best = ABI_NO_BACKEND, best_score = 0;
        for (uint32_t i = 0; i < count; i++) {
            uint32_t score = mix(number, ids[i]) >> 1;
            if (score < bound && score >= best_score) {
                best = ids[i];
                best_score = score;
            }
        }
        row.backend[c] = best;
        bound = best == ABI_NO_BACKEND ? 0 : best_score;
    }
    return row;
}

/* Rows are made beside the old ones, then the service is replaced: as control does it. */
static int do_service(struct lab *lab, char **words, int count)
{
    struct abi_endpoint key = {.port = htons((uint16_t)atoi(words[3]))};
    uint32_t ids[WORDS_MAX], backends = (uint32_t)(count - 7);
    struct abi_service s = {.id = (uint32_t)atoi(words[1]),
                            .first_row = lab->next_row,
                            .rows = backends ? ROWS : 0,
                            .policy = ABI_POLICY_RANDOM,
                            .edge = (uint8_t)atoi(words[4]),
                            .all_down = strcmp(words[5], "open") == 0,
                            .seed = 99,
                            .backend_count = backends};
    if (!parse_address(words[2], &key.addr))
        return -EINVAL;
    if (strcmp(words[6], "-") != 0 && !parse_address(words[6], &s.edge_source))
        return -EINVAL;
    for (uint32_t i = 0; i < backends; i++)
        ids[i] = (uint32_t)atoi(words[7 + i]);
    for (uint32_t i = 0; backends && i < ROWS; i++) {
        uint32_t at = lab->next_row + i;
        struct abi_row row = make_row(i, ids, backends);
        int error = set(lab->edge->maps.rows, &at, &row);
        if (error)
            return error;
    }
    lab->next_row = (lab->next_row + ROWS) % (ROWS * 60);
    return set(lab->edge->maps.services, &key, &s);
}

/* --- answers ------------------------------------------------------------------------------------------- */

/* Adds up what each processor counted: `count` numbers. */
static int sum_up(const struct bpf_map *map, uint32_t id, uint64_t *sums, size_t count)
{
    static uint64_t values[CPUS_MAX][16];
    int cpus = libbpf_num_possible_cpus();
    memset(sums, 0, count * sizeof(*sums));
    uint64_t *flat = &values[0][0];
    if (cpus > CPUS_MAX || bpf_map_lookup_elem(bpf_map__fd(map), &id, flat) != 0)
        return -errno;
    for (int cpu = 0; cpu < cpus; cpu++)
        for (size_t i = 0; i < count; i++)
            sums[i] += flat[(size_t)cpu * count + i];
    return 0;
}

static int do_stats(const struct lab *lab, char **words)
{
    struct abi_edge_stats s;
    int error = sum_up(lab->edge->maps.edge_stats, (uint32_t)atoi(words[1]), (uint64_t *)&s, sizeof(s) / 8);
    if (error)
        return error;
    printf("ok flows=%llu no_backend=%llu moved=%llu resets=%llu icmp=%llu fragments=%llu malformed=%llu "
           "expired=%llu too_big=%llu no_route=%llu no_port=%llu told=%llu\n",
           s.flows, s.no_backend, s.moved, s.resets, s.icmp, s.fragments, s.malformed, s.expired, s.too_big,
           s.no_route, s.no_port, s.told);
    return 1;
}

static int do_traffic(const struct lab *lab, char **words)
{
    struct abi_edge_backend b;
    int error =
        sum_up(lab->edge->maps.edge_backends, (uint32_t)atoi(words[1]), (uint64_t *)&b, sizeof(b) / 8);
    if (error)
        return error;
    printf("ok flows=%llu packets=%llu bytes=%llu back_packets=%llu back_bytes=%llu\n", b.flows, b.packets,
           b.bytes, b.back_packets, b.back_bytes);
    return 1;
}

static unsigned elements(const struct bpf_map *map)
{
    struct abi_flow_key key;
    unsigned count = 0;
    for (void *before = NULL; bpf_map_get_next_key(bpf_map__fd(map), before, &key) == 0; before = &key)
        count++;
    return count;
}

static int do_flows(const struct lab *lab)
{
    printf("ok flows=%u half_open=%u\n", elements(lab->edge->maps.flows),
           elements(lab->edge->maps.half_open));
    return 1;
}

/* --- the loop ------------------------------------------------------------------------------------------ */

/* 0: done; 1: done, and answered; below 0: an error. */
static int obey(struct lab *lab, char **words, int count)
{
    if (count == 2 && strcmp(words[0], "attach") == 0)
        return do_attach(lab, words);
    if (count == 8 && strcmp(words[0], "backend") == 0)
        return do_backend(lab, words);
    if (count >= 7 && strcmp(words[0], "service") == 0)
        return do_service(lab, words, count);
    if (count == 2 && strcmp(words[0], "stats") == 0)
        return do_stats(lab, words);
    if (count == 2 && strcmp(words[0], "traffic") == 0)
        return do_traffic(lab, words);
    return count == 1 && strcmp(words[0], "flows") == 0 ? do_flows(lab) : -EINVAL;
}

int main(void)
{
    struct lab lab = {0};
    char line[4096], *words[WORDS_MAX];
    libbpf_set_print(NULL);
    int error = load(&lab);
    if (error) {
        fprintf(stderr, "edge_lab: %s\n", strerror(-error));
        return 1;
    }
    printf("ok loaded\n");
    fflush(stdout);
    while (fgets(line, sizeof(line), stdin)) {
        int count = 0;
        char *rest = NULL;
        for (char *word = strtok_r(line, " \n", &rest); word && count < WORDS_MAX;
             word = strtok_r(NULL, " \n", &rest))
            words[count++] = word;
        error = obey(&lab, words, count);
        if (error <= 0)
            printf(error ? "error %s\n" : "ok\n", strerror(-error));
        fflush(stdout);
    }
    return 0;
}
