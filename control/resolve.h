/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The addresses of a host's name, asked of the system's resolver in a thread of its own for each question: a
 * nameserver that is silent holds up nothing, and nobody waits for it at the end.
 */
#ifndef FL_CONTROL_RESOLVE_H
#define FL_CONTROL_RESOLVE_H

#include <stdint.h>
#include <uv.h>

struct resolver;

enum { RESOLVE_ADDRESSES_MAX = 8, RESOLVE_NAME_MAX = 253, RESOLVES_MAX = 16 /* at a time */ };

struct resolve_answer {
    unsigned count;                        /* 0: error says why */
    const char *error;                     /* static, or of the C library */
    uint8_t ip[RESOLVE_ADDRESSES_MAX][16]; /* IPv4 as ::ffff:a.b.c.d */
};

typedef void (*resolve_done)(void *arg, const struct resolve_answer *answer);

struct resolver *resolver_new(uv_loop_t *loop);

/* Nobody is told any more. The rest is freed by the loop, and by the threads that are still waiting. */
void resolver_close(struct resolver *r);

/* A name or an address. done comes once, from the loop. 0; -EBUSY: too many are being asked for; -EAGAIN: no
 * thread. */
int resolve_name(struct resolver *r, const char *name, resolve_done done, void *arg);

#endif
