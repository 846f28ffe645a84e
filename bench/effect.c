/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How long until a change that one node is asked for is in the kernel's maps of every node? Sets a backend's
 * weight through a control socket, again and again, and looks at `backends` of each node until it is there.
 *
 *   effect SOCKET SERVICE BACKEND ID CHANGES PAUSE_MS MAP...
 *
 * ID: the backend's place in `backends`; MAP: where each node's map is pinned. Prints, as JSON, for each
 * change the microseconds from the request: until the node that was asked answered ("answer"), until the
 * first map had it
 * ("first") and until all had it ("all"). Maps are looked at every LOOK_US: what is told is late by at most
 * that.
 */
#include <bpf/bpf.h>
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "abi.h"
#include "bench/tool.h"

enum { MAPS_MAX = 16, CHANGES_MAX = 100000, LOOK_US = 100, PATIENCE_S = 30, LINE_BYTES = 16 << 10 };

enum moment { MOMENT_ANSWER, MOMENT_FIRST, MOMENT_ALL, MOMENTS };

/* Microseconds from the request. */
struct times {
    double us[MOMENTS];
};

static void rest_us(unsigned us)
{
    struct timespec t = {.tv_sec = us / 1000000, .tv_nsec = (long)(us % 1000000) * 1000};
    nanosleep(&t, NULL);
}

/* Whether the answer is here. */
static bool answered(int fd)
{
    static char line[LINE_BYTES];
    static size_t len;
    ssize_t n = recv(fd, line + len, sizeof(line) - 1 - len, MSG_DONTWAIT);
    if (n == 0 || (n < 0 && errno != EAGAIN))
        fail("the connection ended");
    len += n > 0 ? (size_t)n : 0;
    line[len] = '\0';
    if (!strchr(line, '\n'))
        return false;
    if (!strstr(line, "\"result\":"))
        fail("refused: %s", line);
    len = 0;
    return true;
}

static void ask(int fd, const char *service, const char *backend, unsigned weight)
{
    char out[1024];
    int len =
        snprintf(out, sizeof(out),
                 "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"backend.set\",\"params\":{\"service\":\"%s\","
                 "\"backends\":[{\"name\":\"%s\",\"weight\":%u}]}}\n",
                 service, backend, weight);
    if (len >= (int)sizeof(out) || send(fd, out, (size_t)len, MSG_NOSIGNAL) != len)
        fail("the request cannot be sent");
}

static bool has(int map, uint32_t id, unsigned weight)
{
    struct abi_backend b;
    if (bpf_map_lookup_elem(map, &id, &b) != 0)
        fail("backends cannot be read: %s", strerror(errno));
    return b.weight == weight;
}

static void change(int fd, const char *service, const char *backend, uint32_t id, unsigned weight,
                   const int *map, int maps, struct times *out)
{
    bool seen[MAPS_MAX] = {false}, answer = false;
    int left = maps;
    uint64_t start = now_ns();
    ask(fd, service, backend, weight);
    while (left || !answer) {
        rest_us(LOOK_US);
        double us = (double)(now_ns() - start) / 1e3;
        if (!answer && answered(fd)) {
            answer = true;
            out->us[MOMENT_ANSWER] = us;
        }
        for (int i = 0; i < maps; i++) {
            if (seen[i] || !has(map[i], id, weight))
                continue;
            seen[i] = true;
            if (left == maps)
                out->us[MOMENT_FIRST] = us;
            if (--left == 0)
                out->us[MOMENT_ALL] = us;
        }
        if (us > PATIENCE_S * 1e6)
            fail("%d of %d maps do not have it after %d s", left, maps, PATIENCE_S);
    }
}

static void print_list(const char *name, const struct times *times, unsigned count, enum moment moment)
{
    printf("\"%s\": [", name);
    for (unsigned i = 0; i < count; i++)
        printf("%s%.1f", i ? ", " : "", times[i].us[moment]);
    printf("]");
}

int main(int argc, char **argv)
{
    int map[MAPS_MAX], maps = argc - 7;
    if (maps < 1 || maps > MAPS_MAX) {
        fprintf(stderr, "effect SOCKET SERVICE BACKEND ID CHANGES PAUSE_MS MAP...\n");
        return 2;
    }
    uint32_t id = (uint32_t)strtoul(argv[4], NULL, 10);
    unsigned count = (unsigned)strtoul(argv[5], NULL, 10), pause_ms = (unsigned)strtoul(argv[6], NULL, 10);
    struct times *times = count && count <= CHANGES_MAX ? calloc(count, sizeof(*times)) : NULL;
    if (!times)
        fail("CHANGES is out of range");
    for (int i = 0; i < maps; i++) {
        map[i] = bpf_obj_get(argv[7 + i]);
        if (map[i] < 0)
            fail("%s: %s", argv[7 + i], strerror(errno));
    }
    prctl(PR_SET_TIMERSLACK, 1);
    int fd = connect_unix(argv[1]);
    for (unsigned i = 0; i < count; i++) {
        rest_us(pause_ms * 1000 + i * 7919 % 1000); /* at no fixed place of anybody's period */
        change(fd, argv[2], argv[3], id, 2 + i % 2, map, maps, &times[i]);
    }
    printf("{");
    print_list("answer", times, count, MOMENT_ANSWER);
    printf(", ");
    print_list("first", times, count, MOMENT_FIRST);
    printf(", ");
    print_list("all", times, count, MOMENT_ALL);
    printf("}\n");
    free(times);
    return 0;
}
