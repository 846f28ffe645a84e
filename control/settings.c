/* SPDX-License-Identifier: Apache-2.0 */
#include "control/settings.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "check.h"

struct unit {
    const char *name;
    uint64_t factor;
};

/* Largest first, so that formatting finds the shortest exact text. */
static const struct unit units_bytes[] = {
    {"TiB", 1ull << 40}, {"GiB", 1ull << 30}, {"MiB", 1ull << 20}, {"KiB", 1ull << 10}, {"B", 1},
};
static const struct unit units_ms[] = {{"d", 86400000}, {"h", 3600000}, {"m", 60000}, {"s", 1000}, {"ms", 1}};

static const struct setting_info settings[SETTINGS_COUNT] = {
#define SETTING(symbol, setting_name, kind, lowest, highest, initial, meaning)                               \
    [SET_##symbol] = {.name = setting_name,                                                                  \
                      .min = lowest,                                                                         \
                      .max = highest,                                                                        \
                      .def = initial,                                                                        \
                      .text = meaning,                                                                       \
                      .type = SETTING_##kind},
#include "settings.def"
#undef SETTING
};

const struct setting_info *setting_info(enum setting_id id)
{
    CHECK((unsigned)id < SETTINGS_COUNT);
    return &settings[id];
}

uint64_t setting_effective(const struct setting_layers *layers, enum setting_id id,
                           enum setting_source *source)
{
    const struct setting_info *info = setting_info(id);
    *source = layers->state.given[id]  ? SETTING_FROM_STATE
              : layers->file.given[id] ? SETTING_FROM_FILE
                                       : SETTING_FROM_DEFAULT;
    return *source == SETTING_FROM_STATE  ? layers->state.value[id]
           : *source == SETTING_FROM_FILE ? layers->file.value[id]
                                          : info->def;
}

int setting_find(const char *name, size_t len)
{
    for (int i = 0; i < SETTINGS_COUNT; i++)
        if (strlen(settings[i].name) == len && memcmp(settings[i].name, name, len) == 0)
            return i;
    return -ENOENT;
}

/* Levenshtein distance of two short names; longer ones are cut. */
static unsigned text_distance(const char *a, size_t a_len, const char *b, size_t b_len)
{
    enum { LONGEST = 63 };
    unsigned row[LONGEST + 1];
    a_len = a_len > LONGEST ? LONGEST : a_len;
    b_len = b_len > LONGEST ? LONGEST : b_len;
    for (size_t j = 0; j <= b_len; j++)
        row[j] = (unsigned)j;
    for (size_t i = 1; i <= a_len; i++) {
        unsigned diagonal = row[0];
        row[0] = (unsigned)i;
        for (size_t j = 1; j <= b_len; j++) {
            unsigned best = diagonal + (a[i - 1] != b[j - 1]);
            best = row[j] + 1 < best ? row[j] + 1 : best;
            best = row[j - 1] + 1 < best ? row[j - 1] + 1 : best;
            diagonal = row[j];
            row[j] = best;
        }
    }
    return row[b_len];
}

const char *text_nearest(const char *name, size_t len, const char *const *names, size_t count)
{
    const char *best = NULL;
    unsigned best_distance = (unsigned)(len / 3) + 1;
    for (size_t i = 0; i < count; i++) {
        unsigned distance = text_distance(name, len, names[i], strlen(names[i]));
        if (distance <= best_distance && (!best || distance < best_distance)) {
            best = names[i];
            best_distance = distance;
        }
    }
    return best;
}

const char *setting_suggest(const char *name, size_t len)
{
    const char *names[SETTINGS_COUNT];
    for (int i = 0; i < SETTINGS_COUNT; i++)
        names[i] = settings[i].name;
    return text_nearest(name, len, names, SETTINGS_COUNT);
}

static const struct unit *units_of(enum setting_type type, size_t *count)
{
    *count = type == SETTING_MS ? ARRAY_SIZE(units_ms) : ARRAY_SIZE(units_bytes);
    return type == SETTING_MS ? units_ms : units_bytes;
}

size_t setting_format(enum setting_id id, uint64_t value, char out[SETTING_TEXT_MAX])
{
    enum setting_type type = setting_info(id)->type;
    if (type == SETTING_BOOL)
        return (size_t)snprintf(out, SETTING_TEXT_MAX, "%s", value ? "true" : "false");
    if (type == SETTING_NUMBER)
        return (size_t)snprintf(out, SETTING_TEXT_MAX, "%llu", (unsigned long long)value);
    size_t count;
    const struct unit *unit = units_of(type, &count);
    const char *tail = type == SETTING_BYTES_PER_S ? "/s" : "";
    if (value == 0)
        return (size_t)snprintf(out, SETTING_TEXT_MAX, "0%s%s", unit[count - 1].name, tail);
    while (value % unit->factor)
        unit++;
    return (size_t)snprintf(out, SETTING_TEXT_MAX, "%llu%s%s", (unsigned long long)(value / unit->factor),
                            unit->name, tail);
}

static int parse_bool(const char *text, size_t len, uint64_t *value)
{
    static const char *const words[] = {"false", "true", "off", "on"};
    for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
        if (strlen(words[i]) == len && memcmp(words[i], text, len) == 0) {
            *value = i & 1;
            return 0;
        }
    }
    return -EINVAL;
}

/* Digits and what follows them. */
static int parse_digits(const char *text, size_t len, uint64_t *value, size_t *used)
{
    size_t i = 0;
    *value = 0;
    for (; i < len && isdigit((unsigned char)text[i]); i++) {
        if (__builtin_mul_overflow(*value, 10, value) ||
            __builtin_add_overflow(*value, (uint64_t)(text[i] - '0'), value))
            return -ERANGE;
    }
    *used = i;
    return i ? 0 : -EINVAL;
}

static int parse_unit(enum setting_type type, const char *text, size_t len, uint64_t *value)
{
    if (type == SETTING_BYTES_PER_S && len >= 2 && memcmp(text + len - 2, "/s", 2) == 0)
        len -= 2;
    if (len == 0)
        return type == SETTING_MS && *value ? -EINVAL : 0;
    if (type == SETTING_NUMBER)
        return -EINVAL;
    size_t count;
    const struct unit *unit = units_of(type, &count);
    for (size_t i = 0; i < count; i++)
        if (strlen(unit[i].name) == len && memcmp(unit[i].name, text, len) == 0)
            return __builtin_mul_overflow(*value, unit[i].factor, value) ? -ERANGE : 0;
    return -EINVAL;
}

static int parse_value(const struct setting_info *info, const char *text, size_t len, uint64_t *value)
{
    if (info->type == SETTING_BOOL)
        return parse_bool(text, len, value);
    size_t used;
    int err = parse_digits(text, len, value, &used);
    if (err)
        return err;
    err = parse_unit(info->type, text + used, len - used, value);
    if (err)
        return err;
    return *value < info->min || *value > info->max ? -ERANGE : 0;
}

static const char *type_form(enum setting_type type)
{
    static const char *const forms[] = {
        [SETTING_BOOL] = "write true or false",
        [SETTING_NUMBER] = "write a whole number",
        [SETTING_BYTES] = "write a whole number with B, KiB, MiB, GiB or TiB, as in 64KiB",
        [SETTING_MS] = "write a whole number with ms, s, m, h or d, as in 10s",
        [SETTING_BYTES_PER_S] = "write a whole number with B/s, KiB/s or MiB/s, as in 64KiB/s",
    };
    return forms[type];
}

int setting_parse(enum setting_id id, const char *text, size_t len, uint64_t *value, char *err,
                  size_t err_len)
{
    const struct setting_info *info = setting_info(id);
    int result = parse_value(info, text, len, value);
    if (!result)
        return 0;
    int shown = len > 40 ? 40 : (int)len;
    if (result == -EINVAL) {
        snprintf(err, err_len, "%s: '%.*s' is not a value of this setting; %s", info->name, shown, text,
                 type_form(info->type));
        return -EINVAL;
    }
    char lowest[SETTING_TEXT_MAX], highest[SETTING_TEXT_MAX];
    setting_format(id, info->min, lowest);
    setting_format(id, info->max, highest);
    snprintf(err, err_len, "%s: '%.*s' is out of range; write a value from %s to %s", info->name, shown, text,
             lowest, highest);
    return -EINVAL;
}

const char *setting_type_name(enum setting_type type)
{
    static const char *const names[] = {
        [SETTING_BOOL] = "boolean", [SETTING_NUMBER] = "number",           [SETTING_BYTES] = "size",
        [SETTING_MS] = "duration",  [SETTING_BYTES_PER_S] = "size/second",
    };
    return names[type];
}

const char *setting_source_name(enum setting_source source)
{
    static const char *const names[] = {"default", "file", "set"};
    return names[source];
}
