/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Assertions that stay on in every build. A failed CHECK is a programmer's error: the process says
 * where and dies, its parent restarts it. Never use it for what a peer, a disk or an operator can cause.
 */
#ifndef FL_CHECK_H
#define FL_CHECK_H

#include <stdio.h>
#include <stdlib.h>

__attribute__((noreturn, cold)) static inline void check_failed(const char *what, const char *file, int line)
{
    fprintf(stderr, "fatal: %s:%d: %s\n", file, line, what);
    abort();
}

#define CHECK(cond)                                                                                          \
    do {                                                                                                     \
        if (__builtin_expect(!(cond), 0))                                                                    \
            check_failed("CHECK(" #cond ")", __FILE__, __LINE__);                                            \
    } while (0)

/* A branch that cannot be reached. */
#define IMPOSSIBLE(text) check_failed("impossible: " text, __FILE__, __LINE__)

/* An invariant that is checked in debug builds only: for walks over whole structures. */
#ifdef FL_DEBUG
#define CHECK_DEBUG(cond) CHECK(cond)
#else
#define CHECK_DEBUG(cond)                                                                                    \
    do {                                                                                                     \
        (void)sizeof(cond);                                                                                  \
    } while (0)
#endif

#define ARRAY_SIZE(a)                (sizeof(a) / sizeof((a)[0]))
#define container_of(ptr, type, mem) ((type *)(void *)((char *)(ptr)-offsetof(type, mem)))

#endif
