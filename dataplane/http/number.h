/* SPDX-License-Identifier: Apache-2.0 */
/* Decimal numbers in header fields and queries. */
#ifndef FL_HTTP_NUMBER_H
#define FL_HTTP_NUMBER_H

#include <errno.h>

#include "view.h"

enum { NUMBER_DIGITS_MAX = 20 /* of a uint64_t */ };

/*
 * Reads all of v as decimal digits, leading zeros allowed. 0; -EINVAL if it is empty or has another
 * character; -ERANGE if the value is above max, with *out = max.
 */
static inline int number_read(struct view v, uint64_t max, uint64_t *out)
{
    uint64_t value = 0;
    bool over = false;
    if (v.len == 0)
        return -EINVAL;
    for (size_t i = 0; i < v.len; i++) {
        if (v.p[i] < '0' || v.p[i] > '9')
            return -EINVAL;
        uint64_t digit = (uint64_t)(v.p[i] - '0');
        over = over || digit > max || value > (max - digit) / 10;
        value = over ? max : value * 10 + digit;
    }
    *out = value;
    return over ? -ERANGE : 0;
}

/* Writes value without leading zeros at the end of out; the view is the text. */
static inline struct view number_write(uint64_t value, char out[NUMBER_DIGITS_MAX])
{
    char *p = out + NUMBER_DIGITS_MAX;
    do {
        *--p = (char)('0' + value % 10);
        value /= 10;
    } while (value);
    return view_between(p, out + NUMBER_DIGITS_MAX);
}

#endif
