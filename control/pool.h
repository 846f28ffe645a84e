/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Work for libuv's threads, by name. A thread that waits for a disk which does not answer cannot be called
 * back: when the process is to end, somebody has to be able to say what it waits for. One loop a process; the
 * loop's thread alone calls these.
 */
#ifndef FL_CONTROL_POOL_H
#define FL_CONTROL_POOL_H

#include <stddef.h>
#include <stdint.h>
#include <uv.h>

/* Before the first work. Of one that waits for a disk for ever each thing that looks into the store may hold
 * a thread (a look at the disk, whose it is, uploads of nodes that are gone, a list of its files, an import,
 * a backup): the state's log and files go on with those that are left. */
enum { POOL_THREADS = 12 };
void pool_open(void);

/* As uv_queue_work; work->data is the caller's. what: a text that stays, such as "a look at the disk". 0 or
 * -errno. */
int pool_queue(uv_loop_t *loop, uv_work_t *work, const char *what, uv_work_cb run, uv_after_work_cb done);

/* Takes back what has not begun: done is called with UV_ECANCELED, later. */
void pool_cancel(const uv_work_t *work);

/* For how long the oldest one has been under way; 0: there is none. */
uint64_t pool_oldest_ms(void);

/* How many are under way; out: their names, as many as fit, with how long they have been: "a (12 s), b (3
 * s)". */
size_t pool_list(char *out, size_t cap);

#endif
