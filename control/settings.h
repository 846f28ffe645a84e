/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table of tunables (include/settings.def) for control: names, ranges, and the one text form of a value
 * that the configuration file, the control socket, the command line and the manual share.
 *
 * Text forms: BOOL true, false (on, off). NUMBER digits. BYTES digits with B, KiB, MiB, GiB, TiB or without a
 * unit. BYTES_PER_S as BYTES, "/s" may follow. MS digits with ms, s, m, h, d; the unit may be left out for 0
 * alone.
 */
#ifndef FL_CONTROL_SETTINGS_H
#define FL_CONTROL_SETTINGS_H

#include <stddef.h>
#include <stdint.h>

#include "plan.h"

enum {
    SETTING_TEXT_MAX = 32,   /* a formatted value with its NUL */
    SETTING_ERROR_MAX = 256, /* a message with its NUL */
};

/* Where an effective value comes from; a later one wins. */
enum setting_source { SETTING_FROM_DEFAULT, SETTING_FROM_FILE, SETTING_FROM_STATE };

struct setting_info {
    const char *name;
    uint64_t min, max, def;
    const char *text;
    enum setting_type type;
};

/* A value for each setting, and whether it was given at all. */
struct setting_values {
    uint64_t value[SETTINGS_COUNT];
    uint8_t given[SETTINGS_COUNT];
};

/* What the file says and what was set at run time; the latter wins, and the default is below both. */
struct setting_layers {
    struct setting_values file, state;
};

const struct setting_info *setting_info(enum setting_id id);

uint64_t setting_effective(const struct setting_layers *layers, enum setting_id id,
                           enum setting_source *source);

/* The id of a name, -ENOENT for none. */
int setting_find(const char *name, size_t len);

/* The name that is most like an unknown one, NULL if none is. */
const char *setting_suggest(const char *name, size_t len);

/* 0, or -EINVAL with a message in err that names the range and the form. */
int setting_parse(enum setting_id id, const char *text, size_t len, uint64_t *value, char *err,
                  size_t err_len);

/* The shortest exact text of a value, with its NUL; setting_parse reads it back. Returns its length. */
size_t setting_format(enum setting_id id, uint64_t value, char out[SETTING_TEXT_MAX]);

const char *setting_type_name(enum setting_type type);
const char *setting_source_name(enum setting_source source);

/* What a list of names has that is most like `name`: NULL if all are too different. */
const char *text_nearest(const char *name, size_t len, const char *const *names, size_t count);

#endif
