/* SPDX-License-Identifier: Apache-2.0 */
/* A folder for one test, removed with everything in it. */
#ifndef FL_TEMP_DIR_H
#define FL_TEMP_DIR_H

#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"

struct temp_dir {
    char path[128];
    int fd;
};

static inline void temp_dir_make(struct temp_dir *t)
{
    const char *base = getenv("TMPDIR");
    snprintf(t->path, sizeof(t->path), "%.64s/fl-test-XXXXXX", base ? base : "/tmp");
    CHECK(mkdtemp(t->path));
    t->fd = open(t->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CHECK(t->fd >= 0);
}

static inline int temp_dir_remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static inline void temp_dir_remove(struct temp_dir *t)
{
    close(t->fd);
    CHECK(nftw(t->path, temp_dir_remove_one, 16, FTW_DEPTH | FTW_PHYS) == 0);
}

#endif
