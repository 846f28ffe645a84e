/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the daemon wants of jemalloc (malloc_conf, jemalloc(3)): it is small and its threads allocate little,
 * so one arena does for all of them, and memory that was given back is the kernel's a second later.
 */
#ifndef FL_ALLOCATOR_H
#define FL_ALLOCATOR_H

extern const char *const malloc_conf;

#endif
