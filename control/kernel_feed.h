/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FL_CONTROL_KERNEL_FEED_H
#define FL_CONTROL_KERNEL_FEED_H

#include <stddef.h>
#include <stdint.h>

#include "control/bpf_load.h"

/* Tells the kernel what a manager says: 1 to ABI_FEED_WORDS of ABI_FEED_WORD. 0 or -errno. */
int kernel_feed_run(const struct bpf_load *load, const uint64_t *word, size_t count);

#endif
