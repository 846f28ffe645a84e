/* SPDX-License-Identifier: Apache-2.0 */
#include "control/kernel_clock.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "control/clock_ports.h"
#include "control/rtnl.h"

#define NS_FOLDER     "/run/netns"
#define CLOCK_DEVICE  "clock"
#define DEVICE_PREFIX "flt-"

enum {
    TOKEN_BYTES = 60,  /* what bpf/probe.bpf.c sends round */
    BURST_BYTES = 96,  /* more than a device's MTU of MTU_BYTES with its header, less than two tokens */
    MTU_BYTES = 68,    /* the least there is: IPv6 keeps away */
    GUARD_PERIODS = 2, /* the neighbour's period while a token goes round */
    GUARD_MS_MIN = 40,
    PACE_US = 250,         /* between two probes of a series */
    NEIGHBOUR_MS_MIN = 12, /* its shortest period: three jiffies where there are 250 a second */
    SOLICITATIONS = 1000000000,
    INNER_BITS = 30, /* a net of four addresses: flf has the first, `inner` is the second */
    INNER6_BITS = 126,
    CLOCK_BITS = 30,
    US_PER_S = 1000000,
    US_PER_MS = 1000,
    NS_PER_US = 1000,
};

struct work {
    struct kernel_clock *clock;
    char *why;
    uint32_t period_us;
    struct netlink *netlink; /* of the node's namespace */
    int ns;                  /* the clock's namespace */
    int result;
};

__attribute__((format(printf, 3, 4))) static int fail(char *why, int error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int len = vsnprintf(why, KERNEL_CLOCK_WHY_MAX, format, args);
    va_end(args);
    if (len >= 0 && len < KERNEL_CLOCK_WHY_MAX)
        snprintf(why + len, KERNEL_CLOCK_WHY_MAX - (size_t)len, ": %s", strerror(-error));
    return error;
}

/* Names and addresses. */

static uint32_t hash_of(const char *text)
{
    uint32_t hash = 2166136261u; /* FNV-1a */
    for (; *text; text++)
        hash = (hash ^ (uint8_t)*text) * 16777619u;
    return hash;
}

static void device_name(char out[IF_NAMESIZE], const char prefix[], const char *instance)
{
    size_t prefix_len = strlen(prefix), len = strlen(instance);
    memcpy(out, prefix, prefix_len);
    if (prefix_len + len < IF_NAMESIZE)
        memcpy(out + prefix_len, instance, len + 1);
    else
        snprintf(out + prefix_len, IF_NAMESIZE - prefix_len, "%08x", hash_of(instance));
}

/* One of the nets of four addresses in 169.254.1.0 to 169.254.168.255: some clouds have services behind
 * those. */
static struct abi_addr inner4(uint32_t hash, uint32_t host)
{
    uint32_t third = 1 + (hash >> 8) % 168, fourth = (hash & 0xfc) + host;
    return (struct abi_addr){{0, 0, htonl(0xffff), htonl(0xa9fe0000u | third << 8 | fourth)}};
}

static struct abi_addr inner6(uint32_t hash, uint32_t host)
{
    return (struct abi_addr){{htonl(0xfdfa17a1u), htonl(hash), 0, htonl(host)}};
}

void kernel_clock_name(const char *instance, struct kernel_clock *clock)
{
    uint32_t hash = hash_of(instance);
    *clock = (struct kernel_clock){.inner = inner4(hash, 2), .inner6 = inner6(hash, 2)};
    device_name(clock->tick_name, DEVICE_PREFIX, instance);
    device_name(clock->out_name, "flo-", instance);
    device_name(clock->fan_name, "flf-", instance);
    device_name(clock->pace_name, "flp-", instance);
    device_name(clock->paced_name, "flq-", instance);
    snprintf(clock->ns_path, sizeof(clock->ns_path), NS_FOLDER "/fairlead-%s-tick", instance);
}

/* Kernel settings, of the namespace of the calling thread. */

struct setting {
    const char *kind; /* "ipv4/conf" */
    const char *name;
    const char *value;
    bool all; /* of all devices, not of one */
};

static int put_sysctl(const char *path, const char *value)
{
    char now[32] = "";
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    ssize_t got = read(fd, now, sizeof(now) - 1), len = (ssize_t)strlen(value);
    int result = got < 0 ? -errno : 0;
    now[strcspn(now, "\n")] = '\0';
    if (!result && strcmp(now, value) != 0 && pwrite(fd, value, (size_t)len, 0) != len)
        result = -errno;
    close(fd);
    return result;
}

static int put_settings(const struct setting *settings, size_t count, const char *device, char *why)
{
    for (size_t i = 0; i < count; i++) {
        char path[128];
        const struct setting *one = &settings[i];
        snprintf(path, sizeof(path), "/proc/sys/net/%s/%s/%s", one->kind, one->all ? "all" : device,
                 one->name);
        int result = put_sysctl(path, one->value);
        if (result)
            return fail(why, result, "%s cannot be set to %s", path, one->value);
    }
    return 0;
}

static bool has_ipv6(void)
{
    return access("/proc/sys/net/ipv6", F_OK) == 0;
}

/* The clock's namespace. Everything in this part runs in a thread that has gone there. */

static int share_folder(char *why)
{
    if (mkdir(NS_FOLDER, 0755) && errno != EEXIST)
        return fail(why, -errno, "%s cannot be made", NS_FOLDER);
    /* As `ip netns` does, so that other mount namespaces see it. */
    if (mount("", NS_FOLDER, "none", MS_SHARED | MS_REC, NULL) == 0)
        return 0;
    if (errno != EINVAL || mount(NS_FOLDER, NS_FOLDER, "none", MS_BIND | MS_REC, NULL) ||
        mount("", NS_FOLDER, "none", MS_SHARED | MS_REC, NULL))
        return fail(why, -errno, "%s cannot be mounted (CAP_SYS_ADMIN)", NS_FOLDER);
    return 0;
}

static int make_ns(struct work *work)
{
    const char *path = work->clock->ns_path;
    int result = share_folder(work->why);
    if (result)
        return result;
    int fd = open(path, O_RDONLY | O_CREAT | O_CLOEXEC, 0444);
    if (fd < 0)
        return fail(work->why, -errno, "%s cannot be made", path);
    close(fd);
    if (unshare(CLONE_NEWNET)) {
        result = fail(work->why, -errno, "no network namespace (CONFIG_NET_NS, CAP_SYS_ADMIN)");
        goto err_file;
    }
    if (mount("/proc/thread-self/ns/net", path, "none", MS_BIND, NULL)) {
        result = fail(work->why, -errno, "%s cannot be mounted", path);
        goto err_file;
    }
    return 0;
err_file:
    unlink(path);
    return result;
}

/* Goes into the namespace. A file that is none is what a crash left before the mount. */
static int enter_ns(struct work *work)
{
    int fd = open(work->clock->ns_path, O_RDONLY | O_CLOEXEC);
    int result = fd < 0 ? -errno : setns(fd, CLONE_NEWNET) ? -errno : 0;
    if (fd >= 0)
        close(fd);
    if (result == -ENOENT || result == -EINVAL)
        return make_ns(work);
    return result ? fail(work->why, result, "%s cannot be entered", work->clock->ns_path) : 0;
}

static void *ns_thread(void *arg)
{
    struct work *work = arg;
    work->result = enter_ns(work);
    if (work->result)
        return NULL;
    work->ns = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    if (work->ns < 0)
        work->result = fail(work->why, -errno, "the clock's namespace cannot be opened");
    return NULL;
}

/* The neighbour is asked for a jiffy later than its period says. */
static uint32_t neighbour_ms(const struct work *work)
{
    struct timespec jiffy = {0};
    uint32_t period_ms = work->period_us / US_PER_MS;
    if (work->clock->token)
        return period_ms * GUARD_PERIODS > GUARD_MS_MIN ? period_ms * GUARD_PERIODS : GUARD_MS_MIN;
    clock_getres(CLOCK_MONOTONIC_COARSE, &jiffy);
    uint32_t jiffy_ms = (uint32_t)(jiffy.tv_nsec / (US_PER_MS * NS_PER_US));
    return period_ms > jiffy_ms ? period_ms - jiffy_ms : 1;
}

static int set_neighbour(struct work *work, struct netlink *netlink, uint32_t ifindex)
{
    char solicitations[16], period[16];
    snprintf(solicitations, sizeof(solicitations), "%d", SOLICITATIONS);
    snprintf(period, sizeof(period), "%u", neighbour_ms(work));
    const struct setting settings[] = {
        {"ipv4/conf", "arp_ignore", "0", true},
        {"ipv4/conf", "arp_ignore", "0", false},
        {"ipv4/conf", "arp_filter", "0", true},
        {"ipv4/conf", "arp_filter", "0", false},
        {"ipv4/neigh", "mcast_solicit", solicitations, false},
        {"ipv4/neigh", "app_solicit", "0", false},
        {"ipv4/neigh", "retrans_time_ms", period, false},
    };
    int result = put_settings(settings, ARRAY_SIZE(settings), CLOCK_DEVICE, work->why);
    if (result)
        return result;
    result = rtnl_managed_neighbour(netlink, ifindex, htonl(ABI_CLOCK_NEIGHBOUR));
    if (result && result != -EEXIST)
        return fail(work->why, result, "no managed neighbour (Linux 5.16)");
    return 0;
}

static int set_clock_device(struct work *work)
{
    const struct abi_addr addr = {{0, 0, htonl(0xffff), htonl(ABI_CLOCK_ADDRESS)}};
    static const struct setting quiet[] = {{"ipv6/conf", "disable_ipv6", "1", false}};
    struct netlink *netlink;
    uint32_t ifindex = if_nametoindex(CLOCK_DEVICE);
    if (!ifindex)
        return fail(work->why, -ENODEV, "the clock's device is not in its namespace");
    int result = netlink_open(&netlink);
    if (result)
        return fail(work->why, result, "no rtnetlink");
    if (has_ipv6())
        result = put_settings(quiet, ARRAY_SIZE(quiet), CLOCK_DEVICE, work->why);
    if (result)
        goto out;
    result = rtnl_up(netlink, ifindex, false, 0);
    if (!result)
        result = rtnl_address(netlink, ifindex, &addr, CLOCK_BITS);
    if (result) {
        fail(work->why, result, "the clock's device cannot be configured");
        goto out;
    }
    result = set_neighbour(work, netlink, ifindex);
out:
    netlink_close(netlink);
    return result;
}

static void *device_thread(void *arg)
{
    struct work *work = arg;
    work->result = setns(work->ns, CLONE_NEWNET) ? fail(work->why, -errno, "the clock's namespace")
                                                 : set_clock_device(work);
    return NULL;
}

static void *look_thread(void *arg)
{
    struct work *work = arg;
    work->result = setns(work->ns, CLONE_NEWNET) ? -errno : if_nametoindex(CLOCK_DEVICE) ? 0 : -ENODEV;
    return NULL;
}

/* A thread of its own has a network namespace of its own. */
static int in_thread(struct work *work, void *(*run)(void *))
{
    pthread_t thread;
    int error = pthread_create(&thread, NULL, run, work);
    if (error)
        return fail(work->why, -error, "no thread");
    CHECK(pthread_join(thread, NULL) == 0);
    return work->result;
}

/* The node's side. */

static int make_pair(struct work *work, const char *name, const char *peer, int peer_ns)
{
    int result = rtnl_delete(work->netlink, name); /* what is left of it: its peer is missing */
    if (!result)
        result = rtnl_veth(work->netlink, name, peer, peer_ns);
    if (result == -EOPNOTSUPP)
        return fail(work->why, result, "this kernel has no veth devices (CONFIG_VETH)");
    return result ? fail(work->why, result, "the devices %s and %s cannot be made", name, peer) : 0;
}

/* `fan` looks up routes as one that forwards. */
static const struct setting fan_settings[] = {
    {"ipv4/conf", "forwarding", "1", false},
    {"ipv4/conf", "rp_filter", "0", false},
};
static const struct setting fan6_settings[] = {
    {"ipv6/conf", "disable_ipv6", "0", false},      {"ipv6/conf", "addr_gen_mode", "1", false},
    {"ipv6/conf", "accept_dad", "0", false},        {"ipv6/conf", "forwarding", "1", false},
    {"ipv6/conf", "keep_addr_on_down", "1", false},
};
static const struct setting quiet_settings[] = {{"ipv6/conf", "disable_ipv6", "1", false}};

static int make_pace_devices(struct work *work)
{
    struct kernel_clock *clock = work->clock;
    int result = 0;
    if (!if_nametoindex(clock->pace_name) || !if_nametoindex(clock->paced_name)) {
        rtnl_delete(work->netlink, clock->paced_name);
        result = make_pair(work, clock->pace_name, clock->paced_name, -1);
    }
    clock->pace_ifindex = if_nametoindex(clock->pace_name);
    clock->paced_ifindex = if_nametoindex(clock->paced_name);
    if (!result && has_ipv6())
        result = put_settings(quiet_settings, ARRAY_SIZE(quiet_settings), clock->paced_name, work->why);
    return result;
}

/* Without it probes follow the clock only. */
static int make_pace(struct work *work)
{
    const uint32_t rate = (uint32_t)TOKEN_BYTES * US_PER_S / PACE_US;
    struct kernel_clock *clock = work->clock;
    int result = work->clock->token ? make_pace_devices(work) : rtnl_delete(work->netlink, clock->pace_name);
    if (result || !work->clock->token)
        return result;
    result = rtnl_token_bucket(work->netlink, clock->pace_ifindex, rate, BURST_BYTES);
    if (!result)
        result = rtnl_up(work->netlink, clock->pace_ifindex, true, MTU_BYTES);
    if (!result)
        result = rtnl_up(work->netlink, clock->paced_ifindex, true, 0);
    return result ? fail(work->why, result, "the device %s cannot be configured", clock->pace_name) : 0;
}

static int make_devices(struct work *work)
{
    struct kernel_clock *clock = work->clock;
    int result = 0;
    if (!if_nametoindex(clock->tick_name) || in_thread(work, look_thread)) {
        struct clock_ports_note ports; /* what the one before had reserved is this one's now */
        clock_ports_read(work->netlink, clock->tick_name, &ports);
        result = make_pair(work, clock->tick_name, CLOCK_DEVICE, work->ns);
        clock_ports_hand_over(work->netlink, &ports, clock->tick_name);
    }
    if (!result && (!if_nametoindex(clock->out_name) || !if_nametoindex(clock->fan_name))) {
        rtnl_delete(work->netlink, clock->fan_name);
        result = make_pair(work, clock->out_name, clock->fan_name, -1);
    }
    clock->tick_ifindex = if_nametoindex(clock->tick_name);
    clock->out_ifindex = if_nametoindex(clock->out_name);
    clock->fan_ifindex = if_nametoindex(clock->fan_name);
    return result;
}

static int set_token_bucket(struct work *work)
{
    uint32_t rate = (uint32_t)((uint64_t)TOKEN_BYTES * US_PER_S / work->period_us);
    int result = rtnl_token_bucket(work->netlink, work->clock->tick_ifindex, rate ? rate : 1, BURST_BYTES);
    work->clock->token = result == 0;
    if (result && work->period_us < NEIGHBOUR_MS_MIN * US_PER_MS)
        return fail(work->why, result,
                    "a period of less than %d ms needs a token bucket (CONFIG_NET_SCH_TBF)",
                    NEIGHBOUR_MS_MIN);
    return 0;
}

static int no_checksum_offload(struct work *work)
{
    /* As in linux/ethtool.h, which does not go together with include/limits.h. */
    enum { ETHTOOL_STXCSUM = 0x17 };
    struct {
        uint32_t cmd, data;
    } value = {.cmd = ETHTOOL_STXCSUM, .data = 0};
    struct ifreq request = {.ifr_data = (void *)&value};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return fail(work->why, -errno, "no socket");
    snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", work->clock->out_name);
    int result = ioctl(fd, SIOCETHTOOL, &request) ? -errno : 0;
    close(fd);
    return result ? fail(work->why, result, "checksum offload of %s cannot be switched off", request.ifr_name)
                  : 0;
}

static int set_settings(struct work *work)
{
    const struct kernel_clock *clock = work->clock;
    int result = put_settings(fan_settings, ARRAY_SIZE(fan_settings), clock->fan_name, work->why);
    if (!result && has_ipv6())
        result = put_settings(fan6_settings, ARRAY_SIZE(fan6_settings), clock->fan_name, work->why);
    if (!result && has_ipv6())
        result = put_settings(quiet_settings, ARRAY_SIZE(quiet_settings), clock->out_name, work->why);
    return result;
}

static int bring_up(struct work *work, const char *instance)
{
    struct kernel_clock *clock = work->clock;
    struct abi_addr own = inner4(hash_of(instance), 1), own6 = inner6(hash_of(instance), 1);
    int result = rtnl_up(work->netlink, clock->tick_ifindex, true, MTU_BYTES);
    if (!result)
        result = rtnl_up(work->netlink, clock->out_ifindex, true, 0);
    if (!result)
        result = rtnl_up(work->netlink, clock->fan_ifindex, true, 0);
    if (!result)
        result = rtnl_address(work->netlink, clock->fan_ifindex, &own, INNER_BITS);
    if (result)
        return fail(work->why, result, "the devices of the clock cannot be configured");
    if (has_ipv6() && rtnl_address(work->netlink, clock->fan_ifindex, &own6, INNER6_BITS) == 0)
        return 0;
    clock->inner6 = (struct abi_addr){{0}}; /* the host has none: so have its backends */
    return 0;
}

static int reserve_ports(struct work *work)
{
    int result = clock_ports_reserve(work->netlink, work->clock->tick_name);
    return result ? fail(work->why, result, "ports cannot be reserved (net.ipv4.ip_local_reserved_ports)")
                  : 0;
}

static int set_up(struct work *work, const char *instance)
{
    int result = make_devices(work);
    if (!result)
        result = set_settings(work);
    if (!result)
        result = no_checksum_offload(work);
    if (!result)
        result = reserve_ports(work);
    if (!result)
        result = bring_up(work, instance);
    if (!result)
        result = set_token_bucket(work);
    if (!result)
        result = make_pace(work);
    if (!result)
        result = in_thread(work, device_thread);
    return result;
}

int kernel_clock_ensure(const char *instance, uint32_t period_us, struct kernel_clock *clock,
                        char why[KERNEL_CLOCK_WHY_MAX])
{
    struct work work = {.clock = clock, .why = why, .period_us = period_us, .ns = -1};
    CHECK(period_us >= KERNEL_CLOCK_PERIOD_MIN_US);
    why[0] = '\0';
    kernel_clock_name(instance, clock);
    clock->tick_ns = (uint64_t)period_us * NS_PER_US;
    int result = netlink_open(&work.netlink);
    if (result)
        return fail(why, result, "no rtnetlink");
    result = in_thread(&work, ns_thread);
    if (!result)
        result = set_up(&work, instance);
    if (work.ns >= 0)
        close(work.ns);
    netlink_close(work.netlink);
    return result;
}

/* Another instance in this network namespace needs the same ports: the device of its clock, or "". */
static void find_other(const struct kernel_clock *self, char out[IF_NAMESIZE])
{
    struct if_nameindex *all = if_nameindex();
    out[0] = '\0';
    for (const struct if_nameindex *one = all; one && one->if_index; one++)
        if (strncmp(one->if_name, DEVICE_PREFIX, strlen(DEVICE_PREFIX)) == 0 &&
            strcmp(one->if_name, self->tick_name) != 0)
            snprintf(out, IF_NAMESIZE, "%.15s", one->if_name);
    if (all)
        if_freenameindex(all);
}

int kernel_clock_remove(const char *instance, char why[KERNEL_CLOCK_WHY_MAX])
{
    struct kernel_clock clock;
    struct netlink *netlink;
    why[0] = '\0';
    kernel_clock_name(instance, &clock);
    int result = netlink_open(&netlink);
    if (result)
        return fail(why, result, "no rtnetlink");
    char other[IF_NAMESIZE];
    find_other(&clock, other);
    clock_ports_give_back(netlink, clock.tick_name, *other ? other : NULL);
    const char *const names[] = {clock.tick_name, clock.out_name, clock.pace_name};
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        int error = rtnl_delete(netlink, names[i]);
        if (error && !result)
            result = fail(why, error, "%s cannot be removed", names[i]);
    }
    netlink_close(netlink);
    if (umount2(clock.ns_path, MNT_DETACH) && errno != EINVAL && errno != ENOENT && !result)
        result = fail(why, -errno, "%s cannot be unmounted", clock.ns_path);
    if (unlink(clock.ns_path) && errno != ENOENT && !result)
        result = fail(why, -errno, "%s cannot be removed", clock.ns_path);
    return result;
}
