/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The addresses that names of sources' hosts had when they were found last, in a file of the state's folder:
 * a control that takes over a data plane which serves begins with them, and makes no plan without backends
 * until somebody answers its questions, or for as long as nobody does.
 */
#ifndef FL_CONTROL_SOURCE_FOUND_H
#define FL_CONTROL_SOURCE_FOUND_H

#include <stddef.h>
#include <stdint.h>

#include "control/resolve.h"

struct source_found_host {
    char name[RESOLVE_NAME_MAX + 1];
    unsigned count;
    uint8_t ip[RESOLVE_ADDRESSES_MAX][16];
};

struct source_found {
    struct source_found_host *list;
    size_t count;
};

#define SOURCE_FOUND_FILE "sources.found"

/* What cannot be read whole, or is of another version, says nothing. source_found_fini in any case. */
void source_found_read(int dir_fd, struct source_found *out);
/* In place of what is there, or that stays. 0 or -errno. */
int source_found_write(int dir_fd, const struct source_found *f);

/* NULL: it has none of that name. */
const struct source_found_host *source_found_find(const struct source_found *f, const char *name);
/* A name that is there, or has no address, changes nothing; nor does one that has no room any more. */
void source_found_add(struct source_found *f, const char *name, unsigned count, const uint8_t (*ip)[16]);
void source_found_fini(struct source_found *f);

#endif
