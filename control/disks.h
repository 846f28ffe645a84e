/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How the two folders of a node are: that of the state, and the store. Each is looked at about once a second
 * on a thread of its own, since a disk may take its time; now and then, and where something is wrong or was
 * said to be, a small file is written to it. So what is over is noticed as soon as it is.
 *
 * A store has an id, a file in it, and the state says which one is this node's: so an empty mount point, or
 * another disk, is not taken for it. Nothing is to be written to such a store (disks_store_is_gone).
 */
#ifndef FL_CONTROL_DISKS_H
#define FL_CONTROL_DISKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "control/state/node.h"
#include "shared.h"

enum disk { DISK_OF_STATE, DISK_OF_STORE, DISKS };

enum {
    DISK_PATH_MAX = 512,
    DISK_TEXT_MAX = 256,
    DISK_ERROR_MS = 3000,  /* so long an error that somebody met counts */
    DISK_HUNG_MS = 10000,  /* after this long without an answer it counts as failing */
    DISK_PROBE_MS = 30000, /* between two writes to a disk of which nobody complains */
    DISK_SAID_MS = 10000,  /* a disk has to be so for so long before the other nodes are told */
};

/* What a look found. */
struct disk_look {
    int error;         /* -errno of what could not be done, 0 */
    const char *doing; /* that is */
    bool read_only;
    bool moved; /* at the path there is another folder than the one that is open */
    bool here;  /* ... which has the id that is expected */
    uint64_t free_bytes, total_bytes;
};

/* What is known of whose store the open one is. */
enum store_identity { STORE_OURS, STORE_EMPTY, STORE_OTHER };

struct disk_facts {
    const struct disk_look *look; /* the last one */
    uint64_t hung_ms;             /* for so long the next one has not answered */
    int error;                    /* -errno that somebody met a short time ago, 0 */
    uint64_t reserve;             /* bytes */
    enum store_identity identity;
};

struct disk_verdict {
    enum disk_state state;
    int error; /* -errno, 0 */
    char text[DISK_TEXT_MAX];
};

/* Pure. */
void disk_judge(enum disk disk, const struct disk_facts *facts, struct disk_verdict *out);

/* Looks at the folder that is open as fd, and at what is at path now; with write, writes a file to it and
 * removes it. id: of the store, "" for the state's folder. Any thread. */
void disk_look(int fd, const char *path, const char *id, bool write, struct disk_look *out);

/* What the other nodes are to know of the store, who know `said`; state: what its looks found, for_ms: for so
 * long. One that comes and goes is not told, as each word is an entry of the log. Pure. */
enum node_store_state store_say(enum node_store_state said, bool gone, enum disk_state state,
                                uint64_t for_ms);

struct disks;

struct disks_config {
    uv_loop_t *loop;
    int fd[DISKS]; /* borrowed until disks_free: the state's folder, and the store's */
    const char *path[DISKS];
    const char *store_id; /* borrowed until disks_free; "" while it has none */
    enum store_identity identity;
    void (*changed)(void *arg, enum disk disk); /* its state has */
    void (*back)(void *arg);                    /* the store is at its path, but not the one that is open */
    void *arg;
};

struct disks *disks_new(const struct disks_config *config);
/* No more answers; a look that is under way ends by itself. */
void disks_close(struct disks *all);
void disks_free(struct disks *all); /* after the loop has ended */

/* About once a second. error: -errno that somebody has met since the last call, 0. */
struct disks_met {
    int error[DISKS];
    uint64_t reserve[DISKS];
};
void disks_tick(struct disks *all, uint64_t now_ms, const struct disks_met *met);

/* As said to disks_config: the open store is another one now, or was accepted. */
void disks_identify(struct disks *all, enum store_identity identity, const char *store_id);

/* Whether the open store is not this node's: it has none of its blobs, and is to get none. */
bool disks_store_is_gone(const struct disks *all);

struct disk_status {
    struct disk_verdict verdict;
    const char *path;
    uint64_t since_ms; /* UTC; when the state became what it is */
    uint64_t free_bytes, total_bytes;
    /* What the looks alone found, and for how long: a request may have met what is wrong with one file. */
    enum disk_state found;
    uint64_t found_for_ms;
};
void disks_status(const struct disks *all, enum disk disk, struct disk_status *out);

#endif
