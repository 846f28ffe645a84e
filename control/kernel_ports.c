/* SPDX-License-Identifier: Apache-2.0 */
#include "control/kernel_ports.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"

#define RESERVED_PORTS "/proc/sys/net/ipv4/ip_local_reserved_ports"

/* Every second port alone, with its comma, is the longest list. */
enum { PORTS = 65536, TEXT_BYTES = PORTS / 2 * 6 + 2 };

static void mark(bool *table, uint32_t first, uint32_t last, bool value)
{
    for (uint32_t port = first; port <= last && port < PORTS; port++)
        table[port] = value;
}

static int parse(const char *text, bool *table)
{
    while (*text && *text != '\n') {
        char *end;
        unsigned long first = strtoul(text, &end, 10), last = first;
        if (end == text)
            return -EINVAL;
        if (*end == '-') {
            text = end + 1;
            last = strtoul(text, &end, 10);
            if (end == text)
                return -EINVAL;
        }
        if (first >= PORTS || last >= PORTS || (*end && *end != ',' && *end != '\n'))
            return -EINVAL;
        mark(table, (uint32_t)first, (uint32_t)last, true);
        text = *end == ',' ? end + 1 : end;
    }
    return 0;
}

static int print(const bool *table, char *out, uint32_t cap)
{
    uint32_t at = 0;
    out[0] = '\0';
    for (uint32_t port = 0; port < PORTS; port++) {
        uint32_t first = port;
        if (!table[port])
            continue;
        while (port + 1 < PORTS && table[port + 1])
            port++;
        int len = first == port ? snprintf(out + at, cap - at, "%s%u", at ? "," : "", first)
                                : snprintf(out + at, cap - at, "%s%u-%u", at ? "," : "", first, port);
        if (len < 0 || (uint32_t)len >= cap - at)
            return -ENOBUFS;
        at += (uint32_t)len;
    }
    return 0;
}

/* Those of `ports` that the table marks so. */
static int list_ranges(const bool *table, bool value, const struct kernel_ports *ports,
                       struct kernel_ports *out, uint32_t max)
{
    uint32_t count = 0, end = (uint32_t)ports->first + ports->count;
    for (uint32_t port = ports->first; port < end; port++) {
        uint32_t first = port;
        while (port < end && table[port] == value)
            port++;
        if (port == first)
            continue;
        if (count == max)
            return -ENOBUFS;
        out[count++] = (struct kernel_ports){(uint16_t)first, (uint16_t)(port - first)};
    }
    return (int)count;
}

static int ranges_in(const char *text, bool value, const struct kernel_ports *ports, struct kernel_ports *out,
                     uint32_t max)
{
    bool *table = calloc(PORTS, sizeof(*table));
    CHECK(table);
    int result = parse(text, table);
    if (!result)
        result = list_ranges(table, value, ports, out, max);
    free(table);
    return result;
}

int kernel_ports_ranges(const char *text, struct kernel_ports *out, uint32_t max)
{
    const struct kernel_ports all = {1, PORTS - 1}; /* nobody has port 0 */
    return ranges_in(text, true, &all, out, max);
}

int kernel_ports_lacking(const char *text, const struct kernel_ports *ports, struct kernel_ports *out,
                         uint32_t max)
{
    return ranges_in(text, false, ports, out, max);
}

int kernel_ports_change(const char *text, const struct kernel_ports *ports, bool reserved, char *out,
                        uint32_t cap)
{
    bool *table = calloc(PORTS, sizeof(*table));
    CHECK(table);
    int result = parse(text, table);
    if (!result && ports->count)
        mark(table, ports->first, (uint32_t)ports->first + ports->count - 1, reserved);
    if (!result)
        result = print(table, out, cap);
    free(table);
    return result;
}

static int read_text(char *text, size_t cap)
{
    size_t len = 0;
    ssize_t got;
    int fd = open(RESERVED_PORTS, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    while ((got = read(fd, text + len, cap - 1 - len)) > 0)
        len += (size_t)got;
    int result = got < 0 ? -errno : 0;
    close(fd);
    text[len] = '\0';
    return result;
}

/* A list is written in one piece; an empty one by its end of line. */
static int write_text(const char *text)
{
    int fd = open(RESERVED_PORTS, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    size_t len = strlen(text);
    ssize_t put = len ? write(fd, text, len) : write(fd, "\n", 1);
    int result = put < 0 ? -errno : (size_t)put == (len ? len : 1) ? 0 : -EIO;
    close(fd);
    return result;
}

static int read_change(const struct kernel_ports *ports, bool reserved, char *before, char *after)
{
    before[0] = '\0';
    int result = read_text(before, TEXT_BYTES);
    return result ? result : kernel_ports_change(before, ports, reserved, after, TEXT_BYTES);
}

static bool same_text(const char *before, const char *after)
{
    size_t len = strcspn(before, "\n");
    return strlen(after) == len && memcmp(before, after, len) == 0;
}

int kernel_ports_reserve(const struct kernel_ports *ports, bool reserved)
{
    char *before = malloc(TEXT_BYTES), *after = malloc(TEXT_BYTES);
    CHECK(before && after);
    int result = read_change(ports, reserved, before, after);
    if (!result && !same_text(before, after))
        result = write_text(after);
    free(before);
    free(after);
    return result;
}

int kernel_ports_missing(const struct kernel_ports *ports, struct kernel_ports *out, uint32_t max)
{
    char *text = malloc(TEXT_BYTES);
    CHECK(text);
    text[0] = '\0';
    int result = read_text(text, TEXT_BYTES);
    if (!result)
        result = kernel_ports_lacking(text, ports, out, max);
    free(text);
    return result;
}
