/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/move/pipe.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "check.h"

enum {
    BYTES_BEST = 1 << 20,
    BYTES_LEAST = 64 << 10, /* a smaller one costs more than a copy */
    COUNT_BEST = 8,         /* rather as many of half the size than fewer */
    COUNT_MOST = 64,
    PAGES_DEFAULT = 16384, /* the kernel's own; also where it has no limit */
    REFUSED_PAUSE = 256,   /* takes that do not ask the kernel after it has refused */
};

struct pipes {
    struct pipe_pair *idle;    /* empty and open */
    struct pipe_pair *unmade;  /* places without a pipe */
    uint32_t count, bytes;     /* at most, each */
    uint32_t pause;            /* takes until the kernel is asked again */
    struct pipe_pair places[]; /* count */
};

static uint64_t allowance_pages(void)
{
    unsigned long long pages = 0;
    FILE *f = fopen("/proc/sys/fs/pipe-user-pages-soft", "re");
    if (f && fscanf(f, "%llu", &pages) != 1)
        pages = 0;
    if (f)
        (void)fclose(f);
    return pages ? pages : PAGES_DEFAULT;
}

/* A quarter is left for everybody else of this user. */
static void divide(uint64_t pages, unsigned rings, uint32_t *count, uint32_t *bytes)
{
    uint64_t share = pages / 4 * 3 / rings * (uint64_t)sysconf(_SC_PAGESIZE);
    *bytes = BYTES_BEST;
    while (*bytes > BYTES_LEAST && share / *bytes < COUNT_BEST)
        *bytes /= 2;
    *count = share / *bytes < COUNT_MOST ? (uint32_t)(share / *bytes) : COUNT_MOST;
}

int pipes_new(unsigned rings, struct pipes **out)
{
    uint32_t count, bytes;
    divide(allowance_pages(), rings, &count, &bytes);
    struct pipes *p = calloc(1, sizeof(*p) + count * sizeof(p->places[0]));
    if (!p)
        return -ENOMEM;
    p->count = count;
    p->bytes = bytes;
    for (uint32_t i = 0; i < count; i++) {
        p->places[i] = (struct pipe_pair){.rd = -1, .wr = -1, .next = p->unmade};
        p->unmade = &p->places[i];
    }
    *out = p;
    return 0;
}

static void pair_close(struct pipe_pair *pair)
{
    close(pair->rd);
    close(pair->wr);
    pair->rd = pair->wr = -1;
}

void pipes_free(struct pipes *p)
{
    for (uint32_t i = 0; i < p->count; i++)
        if (p->places[i].rd >= 0)
            pair_close(&p->places[i]);
    free(p);
}

uint32_t pipes_count(const struct pipes *p)
{
    return p->count;
}

uint32_t pipes_bytes(const struct pipes *p)
{
    return p->bytes;
}

/* The largest that the kernel gives; it may give less than was asked for, or nothing above what there is. */
static int pair_open(struct pipe_pair *pair, uint32_t bytes)
{
    int fd[2], got = -1;
    if (pipe2(fd, O_NONBLOCK | O_CLOEXEC))
        return -errno;
    pair->rd = fd[0];
    pair->wr = fd[1];
    for (; bytes >= BYTES_LEAST && got < 0; bytes /= 2)
        got = fcntl(fd[1], F_SETPIPE_SZ, (int)bytes);
    if (got < BYTES_LEAST) {
        pair_close(pair);
        return -EPERM;
    }
    pair->bytes = (uint32_t)got;
    return 0;
}

static struct pipe_pair *make(struct pipes *p)
{
    struct pipe_pair *pair = p->unmade;
    if (!pair || (p->pause && p->pause--))
        return NULL;
    if (pair_open(pair, p->bytes)) {
        p->pause = REFUSED_PAUSE;
        return NULL;
    }
    p->unmade = pair->next;
    return pair;
}

struct pipe_pair *pipes_take(struct pipes *p)
{
    struct pipe_pair *pair = p->idle;
    if (!pair)
        return make(p);
    p->idle = pair->next;
    return pair;
}

void pipes_give(struct pipes *p, struct pipe_pair *pair, bool dirty)
{
    CHECK(pair >= p->places && pair < p->places + p->count && pair->rd >= 0);
    struct pipe_pair **to = dirty ? &p->unmade : &p->idle;
    if (dirty)
        pair_close(pair);
    pair->next = *to;
    *to = pair;
}
