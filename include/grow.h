/* SPDX-License-Identifier: Apache-2.0 */
/* A text that grows as its pieces come, up to a limit; it ends with NUL. Not for the data plane. */
#ifndef FL_GROW_H
#define FL_GROW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

/* False: it would be longer than max. *text is malloc'd, NULL at first. */
static inline bool grow_add(char **text, size_t *len, size_t max, const void *bytes, size_t more)
{
    if (more > max - *len)
        return false;
    char *grown = (char *)realloc(*text, *len + more + 1);
    CHECK(grown);
    memcpy(grown + *len, bytes, more);
    *text = grown;
    *len += more;
    grown[*len] = '\0';
    return true;
}

#endif
