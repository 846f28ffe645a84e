/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A field of a service or backend: what its text may be, and where its value stands in the structure. Pure.
 */
#ifndef FL_STATE_FIELD_H
#define FL_STATE_FIELD_H

#include <stddef.h>
#include <stdint.h>

#include "control/state/service.h"

enum field_type {
    FIELD_WORD, /* uint8_t, one of some words */
    FIELD_BOOL, /* uint8_t or bool */
    FIELD_MS,   /* uint32_t; min 0: 0 is none */
    FIELD_U8,
    FIELD_U16,
    FIELD_U32,
    FIELD_RATE, /* uint32_t, bytes a second */
    FIELD_NAME, /* char[SVC_NAME_MAX + 1], may be empty */
    FIELD_PATH,
    FIELD_HOST,
    FIELD_ADDRESS,
    FIELD_STATUSES,
    FIELD_CERTIFICATES, /* struct plan_tls: its list of names */
    FIELD_DOMAINS,      /* char[SVC_NAMES_MAX + 1] */
};

struct word {
    const char *name; /* NULL ends the list */
    uint8_t value;
};

struct field {
    const char *key;
    enum field_type type;
    size_t offset;
    const struct word *words;
    uint32_t min, max;
};

/* Sets the field of target. 0, or -EINVAL with what to write instead in hint. */
int field_read(const struct field *f, void *target, const char *text, char hint[SVC_ERROR_MAX]);

/* The canonical text. Returns out. */
const char *field_text(const struct field *f, const void *target, char out[SVC_TEXT_MAX]);

/* The word for a value. */
const char *field_word(const struct word *words, unsigned value);

#endif
