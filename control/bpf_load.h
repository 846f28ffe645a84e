/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The programs for the kernel: opens, sizes and loads each object, on maps that are pinned and that all of
 * them share. The only user of the skeletons. What is loaded here does nothing until it is attached
 * (bpf_attach.h), and goes on without this process afterwards.
 *
 * Maps of an earlier process are used again. Where they do not fit (another version of the layouts, other
 * sizes), a new set is made beside the old one: the caller fills it, bpf_load_carry_verdicts() takes over
 * what is known of the same backends, and after everything is attached bpf_load_settle() removes the old one.
 */
#ifndef FL_CONTROL_BPF_LOAD_H
#define FL_CONTROL_BPF_LOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "control/bpf_pins.h"
#include "control/compile/kernel_needs.h"

enum { BPF_LOAD_WHY_MAX = 320, BPF_LOAD_NAME_MAX = 32 };

struct bpf_load_config {
    const char *instance;
    uint32_t needs;        /* enum kernel_need: objects that nothing needs are not loaded */
    uint32_t backends_max; /* elements of the maps by backend */
    uint32_t rows_max;     /* elements of the map of rows */
    uint32_t flows_max;    /* elements of the map of the edge's flows; half open ones: a quarter */
};

struct bpf_load;

/* An object and what became of it. */
struct bpf_load_object {
    const char *name;
    bool needed; /* else it was not loaded yet */
    bool loaded;
    char why[BPF_LOAD_WHY_MAX]; /* not loaded, or a part of it: the reason */
};

/* A loaded program; borrowed. */
struct bpf_load_program {
    const char *object, *name;
    int fd;
    int type;        /* enum bpf_prog_type */
    int attach_type; /* enum bpf_attach_type, of cgroup programs */
};

/* Loads what can be loaded. 0, or -errno with a message in err when nothing can: no rights, no bpffs. */
int bpf_load_open(const struct bpf_load_config *config, struct bpf_load **out, char *err, size_t err_len);

/* Further objects, of the same set: made on the loop, loaded beside it (touches nothing of `load`), and put
 * into `load` on the loop again, which frees it. A needed object that could not be loaded is not tried again.
 */
bool bpf_load_lacks(const struct bpf_load *load, uint32_t needs);
struct bpf_load *bpf_load_more(const struct bpf_load *load, uint32_t needs);
void bpf_load_fill(struct bpf_load *more);
void bpf_load_merge(struct bpf_load *load, struct bpf_load *more);

/* Takes the pins of objects that are not needed out of the set: what an earlier process left of them. The
 * filters are bpf_attach_drop()'s. */
void bpf_load_drop_idle(struct bpf_load *load);

/* Whether a program is of an object that is not needed. */
bool bpf_load_is_idle(const struct bpf_load *load, const char *object);

/* Lets go of descriptors; all that is pinned or attached stays. */
void bpf_load_close(struct bpf_load *load);

const struct bpf_pins *bpf_load_pins(const struct bpf_load *load);
const struct bpf_load_object *bpf_load_objects(const struct bpf_load *load, size_t *count);

/* The descriptor of a map, borrowed; -ENOENT when no loaded object has it. */
int bpf_load_map(const struct bpf_load *load, const char *name);

/* Another descriptor of a pinned map, to be closed by the caller. *count gets the number of its elements.
 * -errno. */
int bpf_load_map_open(const struct bpf_load *load, const char *name, uint32_t *count);

/* Names of all maps in turn: NULL behind the last. */
const char *bpf_load_map_name(const struct bpf_load *load, size_t i, int *fd);

/* Loaded programs in turn. False behind the last. */
bool bpf_load_program(const struct bpf_load *load, size_t i, struct bpf_load_program *out);

/* Whether this set is new, with no verdicts of its own yet. */
bool bpf_load_is_new(const struct bpf_load *load);

/* Takes the verdicts of older sets for backends that are the same there: id, address, port and generation.
 * Only for a new set that is filled and not attached. From then on only programs write them: the map is
 * frozen, so that who is handed its descriptor can map it to read and nothing else (a descriptor that was
 * opened to be read cannot be mapped at all). Returns how many. */
size_t bpf_load_carry_verdicts(struct bpf_load *load);

/* Removes older sets. 0 or -errno. */
int bpf_load_settle(struct bpf_load *load);

#endif
