/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Elements of arrays in contexts: the verifier wants each access at a constant offset from the context
 * itself, and compilers like to move its pointer first.
 */
#ifndef FL_BPF_CONTEXT_H
#define FL_BPF_CONTEXT_H

#include "common.h"

#define context_read(value, context, type, member)                                                           \
    asm volatile("%0 = *(u32 *)(%1 + %2)" : "=r"(value) : "r"(context), "i"(__builtin_offsetof(type, member)))

#define context_write(value, context, type, member)                                                          \
    asm volatile("*(u32 *)(%1 + %2) = %0"                                                                    \
                 :                                                                                           \
                 : "r"(value), "r"(context), "i"(__builtin_offsetof(type, member))                           \
                 : "memory")

#define context_read_addr(addr, context, type, member)                                                       \
    do {                                                                                                     \
        context_read((addr)->word[0], context, type, member[0]);                                             \
        context_read((addr)->word[1], context, type, member[1]);                                             \
        context_read((addr)->word[2], context, type, member[2]);                                             \
        context_read((addr)->word[3], context, type, member[3]);                                             \
    } while (0)

#define context_write_addr(addr, context, type, member)                                                      \
    do {                                                                                                     \
        context_write((addr)->word[0], context, type, member[0]);                                            \
        context_write((addr)->word[1], context, type, member[1]);                                            \
        context_write((addr)->word[2], context, type, member[2]);                                            \
        context_write((addr)->word[3], context, type, member[3]);                                            \
    } while (0)

#endif
