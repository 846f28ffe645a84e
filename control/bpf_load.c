/* SPDX-License-Identifier: Apache-2.0 */
#include "control/bpf_load.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "abi.h"
#include "bpf/objects.skel.h"
#include "check.h"
#include "control/bpf_support.h"

enum { OBJECTS_MAX = 16, LOG_BYTES = 256 << 10, MAPS_OF_OBJECT_MAX = 64 };

static const struct {
    const char *name;
    const void *(*bytes)(size_t *len);
} sources[] = {
#define OBJECT_ROW(object) {#object, object##_bpf__elf_bytes},
    BPF_OBJECTS(OBJECT_ROW)
#undef OBJECT_ROW
        {NULL, NULL},
};

enum { SOURCE_COUNT = ARRAY_SIZE(sources) - 1 };
_Static_assert(ARRAY_SIZE(sources) <= OBJECTS_MAX, "room for every object");

struct bpf_load {
    struct bpf_load_config config;
    struct bpf_pins pins;
    bool is_new;
    struct bpf_load_object status[OBJECTS_MAX];
    struct bpf_object *object[OBJECTS_MAX];
    char log[LOG_BYTES]; /* what the verifier said last */
};

/* Objects that are there on demand; the others go with the probe, which always is. */
static const struct {
    const char *object;
    uint32_t need;
} needs_of[] = {
    {"steer", KERNEL_NEED_STEER},       {"watch", KERNEL_NEED_STEER},   {"cut", KERNEL_NEED_CUT},
    {"edge", KERNEL_NEED_EDGE},         {"edge_xdp", KERNEL_NEED_EDGE}, {"heartbeat", KERNEL_NEED_HEARTBEAT},
    {"takeover", KERNEL_NEED_TAKEOVER},
};

static bool is_needed(const char *object, uint32_t needs)
{
    for (size_t i = 0; i < ARRAY_SIZE(needs_of); i++)
        if (strcmp(needs_of[i].object, object) == 0)
            return needs_of[i].need & needs;
    return needs & KERNEL_NEED_PROBE;
}

/* What is as large as there are backends. */
static const char *const backend_maps[] = {
    "endpoints",     "backends",      "probe_order", "peer_members", "verdicts", "probe_state",
    "backend_stats", "edge_backends", "edge_loads",  "suspicions",   "fed"};

static void set_size(const struct bpf_load *load, struct bpf_map *map)
{
    const char *name = bpf_map__name(map);
    if (strcmp(name, "rows") == 0)
        bpf_map__set_max_entries(map, load->config.rows_max);
    if (strcmp(name, "flows") == 0)
        bpf_map__set_max_entries(map, load->config.flows_max);
    if (strcmp(name, "half_open") == 0)
        bpf_map__set_max_entries(map, load->config.flows_max / 4);
    for (size_t i = 0; i < ARRAY_SIZE(backend_maps); i++)
        if (strcmp(name, backend_maps[i]) == 0)
            bpf_map__set_max_entries(map, load->config.backends_max);
}

static struct bpf_object *open_object(struct bpf_load *load, size_t i)
{
    LIBBPF_OPTS(bpf_object_open_opts, opts, .object_name = sources[i].name, .pin_root_path = load->pins.set,
                .kernel_log_buf = load->log, .kernel_log_size = sizeof(load->log));
    size_t len;
    const void *bytes = sources[i].bytes(&len);
    struct bpf_object *object = bpf_object__open_mem(bytes, len, &opts);
    struct bpf_map *map;
    if (!object)
        return NULL;
    bpf_object__for_each_map(map, object) set_size(load, map);
    return object;
}

static bool same_shape(int fd, const struct bpf_map *map)
{
    struct bpf_map_info info = {0};
    uint32_t len = sizeof(info);
    return bpf_obj_get_info_by_fd(fd, &info, &len) == 0 && info.type == bpf_map__type(map) &&
           info.key_size == bpf_map__key_size(map) && info.value_size == bpf_map__value_size(map) &&
           info.max_entries == bpf_map__max_entries(map) && info.map_flags == bpf_map__map_flags(map);
}

/* Whether a map that is pinned already is what this one shall be; so is none. */
static bool map_fits(const struct bpf_map *map)
{
    const char *path = bpf_map__pin_path(map);
    int fd = path ? bpf_obj_get(path) : -1;
    if (fd < 0)
        return true;
    bool fits = same_shape(fd, map);
    close(fd);
    return fits;
}

/* Whether all that is pinned in the set fits this build and these sizes. */
static bool set_fits(struct bpf_load *load)
{
    bool fits = true;
    for (size_t i = 0; sources[i].name && fits; i++) {
        struct bpf_object *object = open_object(load, i);
        struct bpf_map *map;
        if (!object)
            continue;
        bpf_object__for_each_map(map, object) fits = fits && map_fits(map);
        bpf_object__close(object);
    }
    return fits;
}

/* Maps that control writes. A new set has its own, so that the old programs go by the old ones to the end. */
static const char *const control_maps[] = {"node",     "services",     "rows",       "endpoints",
                                           "backends", "checks",       "probe_plan", "probe_order",
                                           "peers",    "peer_members", "addresses"};

/* A new set's backend_stats may begin with nothing, so its connections are counted under another number. */
static const char *const own_maps[] = {"socket_tag"};

static bool is_own_map(const char *name)
{
    for (size_t i = 0; i < ARRAY_SIZE(own_maps); i++)
        if (strcmp(own_maps[i], name) == 0)
            return true;
    for (size_t i = 0; i < ARRAY_SIZE(control_maps); i++)
        if (strcmp(control_maps[i], name) == 0)
            return true;
    return false;
}

/* Pins a map of the old set in this one too, if it is what it shall be (map NULL: whatever it is). */
static void share_map(struct bpf_load *load, const char *old, const char *name, const struct bpf_map *map)
{
    char from[BPF_PINS_PATH_MAX + BPF_LOAD_NAME_MAX], to[BPF_PINS_PATH_MAX + BPF_LOAD_NAME_MAX];
    snprintf(from, sizeof(from), "%s/%s", old, name);
    snprintf(to, sizeof(to), "%s/%s", load->pins.set, name);
    int fd = bpf_obj_get(from);
    if (fd < 0)
        return;
    if (!map || same_shape(fd, map))
        bpf_obj_pin(fd, to); /* or it is there already */
    close(fd);
}

/* A set of the same version and other sizes goes on with all that BPF wrote and that kept its size: flows,
 * sessions, history. */
static void share_maps(struct bpf_load *load, const char *old)
{
    for (size_t i = 0; sources[i].name; i++) {
        struct bpf_object *object = open_object(load, i);
        struct bpf_map *map;
        if (!object)
            continue;
        bpf_object__for_each_map(map, object) if (bpf_map__pin_path(map) && !is_own_map(bpf_map__name(map)))
            share_map(load, old, bpf_map__name(map), map);
        bpf_object__close(object);
    }
    share_map(load, old, "told", NULL);
}

/* Goes on with what an older version left, where it means the same. */
static void share_version(void *arg, const char *set)
{
    unsigned version = 0;
    if (sscanf(strrchr(set, '/') + 1, "v%u", &version) == 1 && version >= ABI_VERSION_SHARED &&
        version < ABI_VERSION)
        share_maps(arg, set);
}

/* Why it failed. */

/* The last line of the verifier that says something: not the figures it ends with. */
static const char *last_words(char *log)
{
    const char *words = "";
    for (char *save, *line = strtok_r(log, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
        if (strncmp(line, "processed ", 10) != 0 && strncmp(line, "verification time", 17) != 0 &&
            strncmp(line, "stack depth", 11) != 0 && *line)
            words = line;
    return words;
}

static const struct bpf_program *first_unsupported(const struct bpf_object *object)
{
    struct bpf_program *program;
    bpf_object__for_each_program(program, object) if (libbpf_probe_bpf_prog_type(bpf_program__type(program),
                                                                                 NULL) == 0) return program;
    return NULL;
}

static const struct bpf_map *first_unsupported_map(const struct bpf_object *object)
{
    struct bpf_map *map;
    bpf_object__for_each_map(map,
                             object) if (libbpf_probe_bpf_map_type(bpf_map__type(map), NULL) == 0) return map;
    return NULL;
}

/* Names what this kernel or this process lacks. */
static void explain(struct bpf_load *load, size_t i, const struct bpf_object *object, int error)
{
    char *why = load->status[i].why;
    const struct bpf_program *program;
    const struct bpf_map *map;
    if (!bpf_support_permitted())
        snprintf(why, BPF_LOAD_WHY_MAX, "the capabilities CAP_BPF and CAP_NET_ADMIN are needed");
    else if (access("/sys/kernel/btf/vmlinux", R_OK))
        snprintf(why, BPF_LOAD_WHY_MAX,
                 "this kernel has no type information (CONFIG_DEBUG_INFO_BTF): /sys/kernel/btf/vmlinux");
    else if ((program = first_unsupported(object)) != NULL)
        snprintf(why, BPF_LOAD_WHY_MAX, "this kernel has no BPF programs of type %s, which %s is",
                 libbpf_bpf_prog_type_str(bpf_program__type(program)), bpf_program__name(program));
    else if ((map = first_unsupported_map(object)) != NULL)
        snprintf(why, BPF_LOAD_WHY_MAX, "this kernel has no BPF maps of type %s, which %s is",
                 libbpf_bpf_map_type_str(bpf_map__type(map)), bpf_map__name(map));
    else if (load->log[0])
        snprintf(why, BPF_LOAD_WHY_MAX, "the kernel refused a program: %s (%s)", last_words(load->log),
                 strerror(error));
    else
        snprintf(why, BPF_LOAD_WHY_MAX, "%s", strerror(error));
}

/* Programs of a type that this kernel does not have are left out, the rest of the object goes on. */
static void leave_out_unsupported(struct bpf_load *load, size_t i, struct bpf_object *object)
{
    struct bpf_program *program;
    bpf_object__for_each_program(program, object)
    {
        if (libbpf_probe_bpf_prog_type(bpf_program__type(program), NULL) != 0)
            continue;
        bpf_program__set_autoload(program, false);
        snprintf(load->status[i].why, BPF_LOAD_WHY_MAX,
                 "without %s: this kernel has no BPF programs of type %s", bpf_program__name(program),
                 libbpf_bpf_prog_type_str(bpf_program__type(program)));
    }
}

static void load_object(struct bpf_load *load, size_t i)
{
    load->status[i].needed = true;
    struct bpf_object *object = open_object(load, i);
    if (!object) {
        snprintf(load->status[i].why, BPF_LOAD_WHY_MAX, "it cannot be opened: %s", strerror(errno));
        return;
    }
    leave_out_unsupported(load, i, object);
    load->log[0] = '\0';
    int result = bpf_object__load(object);
    if (result) {
        explain(load, i, object, -result);
        bpf_object__close(object);
        return;
    }
    load->object[i] = object;
    load->status[i].loaded = true;
}

/* Opening. */

static int choose_set(struct bpf_load *load, char *err, size_t err_len)
{
    char same[BPF_PINS_PATH_MAX];
    int result = bpf_pins_choose(&load->pins, false);
    if (!result && !set_fits(load)) {
        memcpy(same, load->pins.set, sizeof(same));
        result = bpf_pins_choose(&load->pins, true);
        if (!result)
            share_maps(load, same);
    }
    if (result) {
        snprintf(err, err_len, "%s: %s", load->pins.set, strerror(-result));
        return result;
    }
    char node[BPF_PINS_PATH_MAX + 8];
    snprintf(node, sizeof(node), "%s/node", load->pins.set);
    load->is_new = access(node, F_OK) != 0;
    if (load->is_new)
        bpf_pins_each_other(&load->pins, share_version, load);
    return 0;
}

static size_t loaded_count(const struct bpf_load *load)
{
    size_t count = 0;
    for (size_t i = 0; sources[i].name; i++)
        count += load->status[i].loaded;
    return count;
}

static int open_in(struct bpf_load *load, char *err, size_t err_len)
{
    if (!bpf_support_permitted()) {
        snprintf(err, err_len, "it needs root, or the capabilities CAP_BPF and CAP_NET_ADMIN");
        return -EPERM;
    }
    int result = bpf_pins_open(&load->pins, load->config.instance, err, err_len);
    if (!result)
        result = choose_set(load, err, err_len);
    if (result)
        return result;
    bpf_load_fill(load);
    if (loaded_count(load) > 0 || SOURCE_COUNT == 0)
        return 0;
    const struct bpf_load_object *first = load->status;
    while (!first->needed)
        first++;
    snprintf(err, err_len, "no program could be loaded; %s: %s", first->name, first->why);
    return -EOPNOTSUPP;
}

static struct bpf_load *load_new(const struct bpf_load_config *config)
{
    struct bpf_load *load = calloc(1, sizeof(*load));
    CHECK(load);
    load->config = *config;
    load->pins.lock = -1;
    for (size_t i = 0; sources[i].name; i++)
        load->status[i].name = sources[i].name;
    return load;
}

void bpf_load_fill(struct bpf_load *more)
{
    for (size_t i = 0; sources[i].name; i++)
        if (is_needed(sources[i].name, more->config.needs))
            load_object(more, i);
}

bool bpf_load_lacks(const struct bpf_load *load, uint32_t needs)
{
    for (size_t i = 0; sources[i].name; i++)
        if (!load->status[i].needed && is_needed(sources[i].name, needs))
            return true;
    return false;
}

struct bpf_load *bpf_load_more(const struct bpf_load *load, uint32_t needs)
{
    struct bpf_load *more = load_new(&load->config);
    more->config.needs = needs & ~load->config.needs;
    more->pins = load->pins;
    more->pins.lock = -1; /* the lock is held by `load` */
    return more;
}

void bpf_load_merge(struct bpf_load *load, struct bpf_load *more)
{
    for (size_t i = 0; sources[i].name; i++) {
        if (load->status[i].needed || !more->status[i].needed)
            continue;
        load->status[i] = more->status[i];
        load->object[i] = more->object[i];
        more->object[i] = NULL;
    }
    load->config.needs |= more->config.needs;
    bpf_load_close(more);
}

int bpf_load_open(const struct bpf_load_config *config, struct bpf_load **out, char *err, size_t err_len)
{
    struct bpf_load *load = load_new(config);
    libbpf_set_print(NULL); /* what it would say is in `why` */
    int result = open_in(load, err, err_len);
    if (result)
        bpf_load_close(load);
    else
        *out = load;
    return result;
}

void bpf_load_close(struct bpf_load *load)
{
    for (size_t i = 0; sources[i].name; i++)
        bpf_object__close(load->object[i]);
    bpf_pins_close(&load->pins);
    free(load);
}

/* What is there. */

const struct bpf_pins *bpf_load_pins(const struct bpf_load *load)
{
    return &load->pins;
}

const struct bpf_load_object *bpf_load_objects(const struct bpf_load *load, size_t *count)
{
    *count = SOURCE_COUNT;
    return load->status;
}

bool bpf_load_is_new(const struct bpf_load *load)
{
    return load->is_new;
}

int bpf_load_map(const struct bpf_load *load, const char *name)
{
    for (size_t i = 0; sources[i].name; i++) {
        int fd = load->object[i] ? bpf_object__find_map_fd_by_name(load->object[i], name) : -ENOENT;
        if (fd >= 0)
            return fd;
    }
    return -ENOENT;
}

/* Each name once: in the first object that has it. */
int bpf_load_map_open(const struct bpf_load *load, const char *name, uint32_t *count)
{
    char path[BPF_PINS_PATH_MAX + BPF_LOAD_NAME_MAX];
    struct bpf_map_info info = {0};
    uint32_t len = sizeof(info);
    snprintf(path, sizeof(path), "%s/%s", load->pins.set, name);
    int fd = bpf_obj_get(path);
    int err = fd < 0 ? fd : bpf_obj_get_info_by_fd(fd, &info, &len);
    if (err && fd >= 0)
        close(fd);
    *count = info.max_entries;
    return err ? err : fd;
}

const char *bpf_load_map_name(const struct bpf_load *load, size_t i, int *fd)
{
    for (size_t o = 0; sources[o].name; o++) {
        struct bpf_map *map;
        if (!load->object[o])
            continue;
        bpf_object__for_each_map(map, load->object[o])
        {
            const char *name = bpf_map__name(map);
            bool own = !bpf_map__pin_path(map) || bpf_load_map(load, name) == bpf_map__fd(map);
            if (own && i-- == 0) {
                *fd = bpf_map__fd(map);
                return name;
            }
        }
    }
    return NULL;
}

bool bpf_load_program(const struct bpf_load *load, size_t i, struct bpf_load_program *out)
{
    for (size_t o = 0; sources[o].name; o++) {
        struct bpf_program *program;
        if (!load->object[o])
            continue;
        bpf_object__for_each_program(program, load->object[o])
        {
            if (!bpf_program__autoload(program) || i-- != 0)
                continue;
            *out = (struct bpf_load_program){.object = sources[o].name,
                                             .name = bpf_program__name(program),
                                             .fd = bpf_program__fd(program),
                                             .type = bpf_program__type(program),
                                             .attach_type = bpf_program__expected_attach_type(program)};
            return true;
        }
    }
    return false;
}

/* What is there of objects that nothing needs. */

bool bpf_load_is_idle(const struct bpf_load *load, const char *object)
{
    for (size_t i = 0; sources[i].name; i++)
        if (strcmp(sources[i].name, object) == 0)
            return !load->status[i].needed;
    return false;
}

static void drop_pins(const struct bpf_load *load, const struct bpf_object *object)
{
    char path[2 * BPF_PINS_PATH_MAX];
    struct bpf_program *program;
    struct bpf_map *map;
    bpf_object__for_each_program(program, object)
    {
        snprintf(path, sizeof(path), "%s/links/%s", load->pins.set, bpf_program__name(program));
        unlink(path); /* or it never was there */
    }
    bpf_object__for_each_map(map, object)
    {
        const char *pin = bpf_map__pin_path(map);
        if (pin && bpf_load_map(load, bpf_map__name(map)) < 0)
            unlink(pin);
    }
}

void bpf_load_drop_idle(struct bpf_load *load)
{
    for (size_t i = 0; sources[i].name; i++) {
        struct bpf_object *object = load->status[i].needed ? NULL : open_object(load, i);
        if (!object)
            continue;
        drop_pins(load, object);
        bpf_object__close(object);
    }
}

/* From an older set to this one. */

struct carry {
    int backends, verdicts; /* of the new set */
    uint32_t backends_max;
    size_t count;
};

static int open_old(const char *set, const char *name, uint32_t value_size)
{
    char path[BPF_PINS_PATH_MAX + BPF_LOAD_NAME_MAX];
    struct bpf_map_info info = {0};
    uint32_t len = sizeof(info);
    snprintf(path, sizeof(path), "%s/%s", set, name);
    int fd = bpf_obj_get(path);
    if (fd < 0)
        return -ENOENT;
    if (bpf_obj_get_info_by_fd(fd, &info, &len) == 0 && info.value_size == value_size)
        return fd;
    close(fd);
    return -EINVAL;
}

static bool same_backend(const struct abi_backend *a, const struct abi_backend *b)
{
    return a->admin != ABI_ADMIN_NONE && b->admin != ABI_ADMIN_NONE && a->port == b->port &&
           a->generation == b->generation && memcmp(&a->addr, &b->addr, sizeof(a->addr)) == 0;
}

static void carry_one(struct carry *carry, int old_backends, int old_verdicts, uint32_t id)
{
    struct abi_backend old, now;
    uint64_t verdict, own;
    if (bpf_map_lookup_elem(old_backends, &id, &old) || bpf_map_lookup_elem(carry->backends, &id, &now) ||
        !same_backend(&old, &now) || bpf_map_lookup_elem(old_verdicts, &id, &verdict) ||
        bpf_map_lookup_elem(carry->verdicts, &id, &own) || own != 0)
        return;
    if (bpf_map_update_elem(carry->verdicts, &id, &verdict, BPF_ANY) == 0)
        carry->count++;
}

/* A set of other layouts is not understood: what it knew is unknown now, and the probes decide. */
static void carry_set(void *arg, const char *set)
{
    struct carry *carry = arg;
    int backends = open_old(set, "backends", sizeof(struct abi_backend));
    int verdicts = open_old(set, "verdicts", sizeof(uint64_t));
    if (backends >= 0 && verdicts >= 0)
        for (uint32_t id = 0; id < carry->backends_max; id++)
            carry_one(carry, backends, verdicts, id);
    if (backends >= 0)
        close(backends);
    if (verdicts >= 0)
        close(verdicts);
}

size_t bpf_load_carry_verdicts(struct bpf_load *load)
{
    struct carry carry = {.backends = bpf_load_map(load, "backends"),
                          .verdicts = bpf_load_map(load, "verdicts"),
                          .backends_max = load->config.backends_max};
    if (carry.backends >= 0 && carry.verdicts >= 0)
        bpf_pins_each_other(&load->pins, carry_set, &carry);
    if (carry.verdicts >= 0)
        (void)bpf_map_freeze(carry.verdicts); /* an earlier process may have done it */
    return carry.count;
}

int bpf_load_settle(struct bpf_load *load)
{
    load->is_new = false;
    return bpf_pins_settle(&load->pins);
}
