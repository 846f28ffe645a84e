/* SPDX-License-Identifier: Apache-2.0 */
/* Loading takes a second or more, which is the verifier's work: it is done beside the loop. */
#ifndef FL_CONTROL_KERNEL_LOADING_H
#define FL_CONTROL_KERNEL_LOADING_H

#include <uv.h>

#include "control/bpf_load.h"

struct kernel_loading;

/* On the loop: load is the receiver's, NULL when result is -errno, with the reason in why. */
typedef void (*kernel_loading_done)(void *arg, struct bpf_load *load, int result, const char *why);

/* Copies the config. done comes once, unless it is forgotten. */
struct kernel_loading *kernel_loading_start(uv_loop_t *loop, const struct bpf_load_config *config,
                                            kernel_loading_done done, void *arg);

/* Loads what bpf_load_more() made; it is the receiver's to merge or to close. */
struct kernel_loading *kernel_loading_more(uv_loop_t *loop, struct bpf_load *more, kernel_loading_done done,
                                           void *arg);

/* What is being loaded is thrown away when it is there. */
void kernel_loading_forget(struct kernel_loading *loading);

#endif
