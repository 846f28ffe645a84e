/* SPDX-License-Identifier: Apache-2.0 */
/* The ring buffer by which the programs wake control up. Its records say nothing: what happened is in the
 * history, and without a wake-up it is read once a second. */
#ifndef FL_CONTROL_KERNEL_WAKE_H
#define FL_CONTROL_KERNEL_WAKE_H

#include <uv.h>

struct kernel_wake;

/* Calls woken(arg) on the loop. NULL if fd is no such map. */
struct kernel_wake *kernel_wake_open(uv_loop_t *loop, int fd, void (*woken)(void *arg), void *arg);
void kernel_wake_close(struct kernel_wake *wake);

#endif
