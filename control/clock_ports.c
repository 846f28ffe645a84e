/* SPDX-License-Identifier: Apache-2.0 */
#include "control/clock_ports.h"

#include <stdio.h>
#include <string.h>

#include "control/kernel_ports.h"

enum { RANGES_MAX = 32 };

static const struct kernel_ports ports = {ABI_PROBE_PORT_FIRST, ABI_PROBE_PORTS + ABI_CANARY_PORTS};
_Static_assert((int)ABI_PROBE_PORT_FIRST + (int)ABI_PROBE_PORTS == (int)ABI_CANARY_PORT_FIRST, "one range");

void clock_ports_read(struct netlink *netlink, const char *device, struct clock_ports_note *note)
{
    struct kernel_ports range[RANGES_MAX];
    if (netlink_alias(netlink, device, note->list, sizeof(note->list)) != 0 ||
        kernel_ports_ranges(note->list, range, RANGES_MAX) < 0)
        note->list[0] = '\0';
}

/* What does not fit into the note stays reserved one day. */
static int note_ranges(struct netlink *netlink, const char *device, const struct kernel_ports *range,
                       int count)
{
    struct clock_ports_note note = {""}, more = {""};
    clock_ports_read(netlink, device, &note);
    for (int i = 0; i < count; i++)
        if (kernel_ports_change(note.list, &range[i], true, more.list, sizeof(more.list)) == 0)
            note = more;
    return rtnl_alias(netlink, device, note.list);
}

/* Noted before it is done: an end between the two gives back what was never taken. */
int clock_ports_reserve(struct netlink *netlink, const char *device)
{
    struct kernel_ports missing[RANGES_MAX];
    int count = kernel_ports_missing(&ports, missing, RANGES_MAX);
    if (count == 0)
        return 0;
    int result = count > 0 ? note_ranges(netlink, device, missing, count) : 0;
    return result ? result : kernel_ports_reserve(&ports, true);
}

void clock_ports_hand_over(struct netlink *netlink, const struct clock_ports_note *note, const char *heir)
{
    struct kernel_ports range[RANGES_MAX];
    int count = kernel_ports_ranges(note->list, range, RANGES_MAX);
    if (count > 0)
        (void)note_ranges(netlink, heir, range, count);
}

/* Before its device goes: what is given back twice, after an end in the middle, was given back. */
void clock_ports_give_back(struct netlink *netlink, const char *device, const char *heir)
{
    struct clock_ports_note note;
    struct kernel_ports range[RANGES_MAX];
    clock_ports_read(netlink, device, &note);
    int count = kernel_ports_ranges(note.list, range, RANGES_MAX);
    if (count <= 0)
        return;
    if (heir)
        clock_ports_hand_over(netlink, &note, heir);
    for (int i = 0; i < count && !heir; i++)
        kernel_ports_reserve(&range[i], false);
    (void)rtnl_alias(netlink, device, "");
}
