/* SPDX-License-Identifier: Apache-2.0 */
/* The thread's side of pulls.c: a step over all queues. Blocks. */
#ifndef FL_CONTROL_PULLS_DISK_H
#define FL_CONTROL_PULLS_DISK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "control/pull_queue.h"

enum disk_what { DISK_NOTHING, DISK_SERVE, DISK_REMOVE };

struct disk_buffer {
    uint8_t *data; /* malloc'd */
    size_t len, cap;
};

/* One queue: what a step is to do with it, and what came of that. */
struct disk {
    char name[PULL_QUEUE_NAME_MAX]; /* of its folder; empty: there is none */
    struct pull_queue *queue;       /* NULL: not open */
    enum disk_what what;
    struct disk_buffer in; /* records to add; empty afterwards */
    uint64_t bytes_max;
    bool advance, read;   /* first the one, then the other */
    struct pull_place to; /* of advance */
    /* Results. */
    struct disk_buffer out;  /* records that wait */
    struct pull_place after; /* behind them */
    struct pull_figures figures;
    uint64_t lost; /* records that could not be added */
    int error;     /* -errno; 0 */
};

struct disk_folder {
    int state_fd, fd; /* fd: of the queues' folder; -1: not open */
    bool swept;       /* queues of nobody were looked for */
};

/* The folder's name of a queue: of an endpoint that was made anew it is another one. */
void disk_name(char out[PULL_QUEUE_NAME_MAX], const char *endpoint, uint64_t created_ms);

/* Of each that has something to do. Queues in the folder that no row has are removed, once. */
void disk_step(struct disk_folder *folder, struct disk *const *rows, size_t count);

/* Closes the queue, frees the buffers. */
void disk_fini(struct disk *d);
void disk_folder_close(struct disk_folder *folder);

#endif
