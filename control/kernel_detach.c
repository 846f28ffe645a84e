/* SPDX-License-Identifier: Apache-2.0 */
/* Takes all of an instance out of the kernel, with or without a daemon. */
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "control/kernel.h"
#include "control/kernel_edge.h"
#include "control/kernel_groups.h"
#include "control/local_routes.h"
#include "control/netlink.h"

struct clearing {
    const char *instance;
    struct netlink *netlink;
    int result;
};

static void clear_device(void *arg, const struct netlink_device *device)
{
    struct clearing *clearing = arg;
    int result = bpf_attach_clear(clearing->instance, clearing->netlink, device);
    if (result && !clearing->result)
        clearing->result = result;
}

int kernel_detach_instance(const char *instance, char err[KERNEL_WHY_MAX])
{
    struct clearing clearing = {.instance = instance};
    libbpf_set_print(NULL); /* it speaks of filters that are not there, which is well */
    int lock = bpf_pins_lock(instance);
    if (lock == -EBUSY) {
        snprintf(err, KERNEL_WHY_MAX,
                 "a fairleadd has the instance %s; stop it, or use its `fairlead kernel detach`", instance);
        return lock;
    }
    kernel_groups_leave(instance);
    int routes = local_routes_sync(instance, NULL, 0, NULL, NULL);
    kernel_edge_restore(instance);
    int result = netlink_open(&clearing.netlink);
    if (result) {
        snprintf(err, KERNEL_WHY_MAX, "the devices cannot be listed: %s", strerror(-result));
        goto out;
    }
    result = netlink_devices(clearing.netlink, clear_device, &clearing);
    result = result ? result : clearing.result;
    netlink_close(clearing.netlink);
    char why[KERNEL_CLOCK_WHY_MAX] = "";
    int clock = kernel_clock_remove(instance, why);
    int pins = bpf_pins_remove_instance(instance);
    result = result ? result : clock ? clock : pins ? pins : routes;
    if (result)
        snprintf(err, KERNEL_WHY_MAX, "not all could be taken out of the kernel: %s; root may do it",
                 *why ? why : strerror(-result));
out:
    if (lock >= 0)
        close(lock);
    return result;
}
