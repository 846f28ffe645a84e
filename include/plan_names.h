/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which of the services at one address is meant by a name: the one that has it, else the one that has a * for
 * its first label, else the one without names.
 */
#ifndef FL_PLAN_NAMES_H
#define FL_PLAN_NAMES_H

#include <string.h>

#include "plan.h"

enum { PLAN_NOBODY = 0 }; /* the registry's place: it has its own addresses */

/* In names, which stand in ascending order: the place, or PLAN_NOBODY. */
static inline uint16_t plan_name_find(const struct plan *p, const struct plan_service *s, const char *name)
{
    uint32_t low = s->first_name, high = low + s->name_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        int order = strcmp(name, plan_name(p, middle)->name);
        if (order == 0)
            return plan_name(p, middle)->place;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return PLAN_NOBODY;
}

/* The place of the service that `name` (in lower case; "": none was said) means at the address of s, or
 * PLAN_NOBODY. Not for a service that has its address alone. */
static inline uint16_t plan_name_place(const struct plan *p, const struct plan_service *s, const char *name)
{
    char star[PLAN_DOMAIN_MAX + 1] = "*";
    const char *rest = strchr(name, '.');
    uint16_t place = plan_name_find(p, s, name);
    if (place == PLAN_NOBODY && rest && rest != name && strlen(rest) < PLAN_DOMAIN_MAX - 1) {
        memcpy(star + 1, rest, strlen(rest) + 1);
        place = plan_name_find(p, s, star);
    }
    return place != PLAN_NOBODY ? place : s->nameless;
}

#endif
