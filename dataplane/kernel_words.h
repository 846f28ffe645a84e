/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kernel's words on backends, by memory map: its verdicts, which are read, and the slots for what this
 * process saw (abi.h). Main maps them when control hands them over (msg.h, VERDICTS); each ring takes them
 * between two batches.
 */
#ifndef FL_KERNEL_WORDS_H
#define FL_KERNEL_WORDS_H

#include <stdint.h>

/* All 0: there are none, the kernel half is off. */
struct kernel_words {
    const volatile uint64_t *verdicts; /* by backend id */
    uint32_t count;
    uint64_t *evidence;
};

/* Maps them; the descriptors are closed. count 0 and no descriptors: none. 0 or -errno. */
int kernel_words_new(int verdicts_fd, int evidence_fd, uint32_t count, struct kernel_words **out);
void kernel_words_free(struct kernel_words *words);

#endif
