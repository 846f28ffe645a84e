/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where an instance keeps its maps and links: FAIRLEAD_BPFFS/fairlead-INSTANCE/vVERSION/, a *set*. A set that
 * is being built beside another of the same version is called vVERSION-new until it has taken over. What is
 * pinned lives on without this process.
 */
#ifndef FL_CONTROL_BPF_PINS_H
#define FL_CONTROL_BPF_PINS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BPF_PINS_FS "/sys/fs/bpf"

enum { BPF_PINS_PATH_MAX = 160, BPF_PINS_INSTANCE_MAX = 24, BPF_PINS_IDS_MAX = 256 };

struct bpf_pins {
    char root[BPF_PINS_PATH_MAX]; /* of the instance */
    char set[BPF_PINS_PATH_MAX];  /* the one to use */
    int lock;                     /* held while open: one process an instance */
};

/* Ids of the kernel's maps. */
struct bpf_pins_ids {
    uint32_t id[BPF_PINS_IDS_MAX];
    size_t count;
};

/* Whether it may be a part of names: 1 to 23 of a-z, 0-9 and '-'. */
bool bpf_pins_instance_valid(const char *instance);

/* Mounts the BPF file system if it is not there, makes the folder of the instance, and settles what an
 * earlier process left half done. 0 or -errno with a message in err: -EBUSY when another process has it. */
int bpf_pins_open(struct bpf_pins *pins, const char *instance, char *err, size_t err_len);

/* Gives the instance free for others. */
void bpf_pins_close(struct bpf_pins *pins);

/* A descriptor that holds the instance until it is closed; -EBUSY: another process does; -ENOENT: nothing of
 * it is pinned. */
int bpf_pins_lock(const char *instance);

/* Only the name of the root; the set is left alone. */
void bpf_pins_name(struct bpf_pins *pins, const char *instance);

/* Whether the instance has anything pinned. */
bool bpf_pins_exist(const char *instance);

/* Points pins->set at the set of this version, or beside it. Makes the folder. 0 or -errno. */
int bpf_pins_choose(struct bpf_pins *pins, bool beside);

/* Calls for each set that is not pins->set. */
void bpf_pins_each_other(const struct bpf_pins *pins, void (*each)(void *arg, const char *set), void *arg);

/* Removes every other set, then gives this one its final name. 0 or -errno. */
int bpf_pins_settle(struct bpf_pins *pins);

/* Removes a folder of pins with what is in it. 0 or -errno. */
int bpf_pins_remove(const char *folder);

/* Removes all of an instance. 0 or -errno. */
int bpf_pins_remove_instance(const char *instance);

/* Ids of all maps pinned by this instance, or by any other than it. */
void bpf_pins_ids(const char *instance, bool others, struct bpf_pins_ids *out);

#endif
