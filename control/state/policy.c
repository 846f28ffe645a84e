/* SPDX-License-Identifier: Apache-2.0 */
#include "control/state/policy.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "check.h"
#include "control/state/codec.h"
#include "control/state/state.h"

enum { POLICY_CODEC_VERSION = 1 };

enum form { FORM_BOOL, FORM_CREATE, FORM_PATTERNS, FORM_BYTES, FORM_NUMBER, FORM_TIME };

struct row {
    const char *key;
    enum policy_field field;
    enum form form;
    size_t offset;
};

#define IN(member) offsetof(struct names_policy, member)
static const struct row rows[] = {
    {"read_only", POLICY_READ_ONLY, FORM_BOOL, IN(read_only)},
    {"create", POLICY_EXISTING_ONLY, FORM_CREATE, IN(existing_only)},
    {"immutable", POLICY_IMMUTABLE, FORM_PATTERNS, IN(immutable)},
    {"quota.bytes", POLICY_BYTES, FORM_BYTES, IN(bytes)},
    {"quota.tags", POLICY_TAGS, FORM_NUMBER, IN(tags)},
    {"total.bytes", POLICY_TOTAL_BYTES, FORM_BYTES, IN(total_bytes)},
    {"total.tags", POLICY_TOTAL_TAGS, FORM_NUMBER, IN(total_tags)},
    {"retention.keep_last", POLICY_KEEP_LAST, FORM_NUMBER, IN(keep_last)},
    {"retention.keep_for", POLICY_KEEP_FOR, FORM_TIME, IN(keep_for_s)},
    {"retention.tags", POLICY_RETAIN_TAGS, FORM_PATTERNS, IN(retain_tags)},
    {"retention.immutable", POLICY_RETAIN_IMMUTABLE, FORM_BOOL, IN(retain_immutable)},
};
_Static_assert(ARRAY_SIZE(rows) == POLICY_FIELDS_COUNT, "a row for each field");

struct unit {
    const char *name;
    uint64_t factor;
};

/* Largest first: a number is written in the largest unit that it is a multiple of. */
static const struct unit byte_units[] = {{"TiB", 1ull << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20},
                                         {"KiB", 1 << 10},    {"B", 1},         {"", 1}};
static const struct unit time_units[] = {{"d", 86400}, {"h", 3600}, {"m", 60}, {"s", 1}};
static const struct unit no_units[] = {{"", 1}};

static int read_units(const char *text, const struct unit *units, size_t count, uint64_t *out)
{
    uint64_t value = 0;
    const char *p = text;
    for (; *p >= '0' && *p <= '9'; p++) {
        if (value > UINT64_MAX / 20)
            return -EINVAL;
        value = value * 10 + (uint64_t)(*p - '0');
    }
    if (p == text)
        return -EINVAL;
    for (size_t i = 0; i < count; i++) {
        if (strcmp(p, units[i].name) != 0)
            continue;
        if (value > (uint64_t)INT64_MAX / units[i].factor)
            return -EINVAL;
        *out = value * units[i].factor;
        return 0;
    }
    return value == 0 && *p == '\0' ? (*out = 0, 0) : -EINVAL;
}

static const char *write_units(uint64_t value, const struct unit *units, char out[POLICY_TEXT_MAX])
{
    while (value % units->factor)
        units++;
    snprintf(out, POLICY_TEXT_MAX, "%llu%s", (unsigned long long)(value / units->factor),
             value ? units->name : "");
    return out;
}

int policy_time_parse(const char *text, uint64_t *seconds)
{
    return read_units(text, time_units, ARRAY_SIZE(time_units), seconds);
}

void policy_init(struct policy *p)
{
    memset(p, 0, sizeof(*p));
    p->rules.version = POLICY_VERSION;
}

void policy_table_fini(struct policy_table *t)
{
    free(t->list);
    *t = (struct policy_table){.count = 0};
}

struct policy *policy_find(const struct policy_table *t, const char *prefix)
{
    for (size_t i = 0; i < t->count; i++)
        if (strcmp(t->list[i].prefix, prefix) == 0)
            return &t->list[i];
    return NULL;
}

void policy_table_add(struct policy_table *t, const struct policy *p)
{
    t->list = reallocarray(t->list, t->count + 1, sizeof(*t->list));
    CHECK(t->list);
    t->list[t->count++] = *p;
}

int policy_prefix_parse(const char *text, char *out)
{
    size_t len = strlen(text);
    if (strcmp(text, "*") == 0 || strcmp(text, "/") == 0)
        len = 0;
    if (len && text[len - 1] == '/')
        len--;
    if (len && !state_repo_name_valid(text, len))
        return -EINVAL;
    memcpy(out, text, len);
    out[len] = '\0';
    return 0;
}

const char *policy_prefix_text(const char *prefix)
{
    return *prefix ? prefix : "*";
}

bool policy_patterns_valid(const char *text, size_t len)
{
    bool item = false;
    if (len > PATTERN_TEXT_MAX)
        return false;
    for (size_t i = 0; i < len; i++) {
        bool first = i == 0 || text[i - 1] == ',';
        if (text[i] <= ' ' || text[i] >= 0x7f || (text[i] == '!' && !first) || (text[i] == ',' && !item))
            return false;
        item = text[i] != ',' && text[i] != '!';
    }
    return len == 0 || item;
}

/* --- one field --- */

static const struct row *find(const char *key)
{
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        if (strcmp(rows[i].key, key) == 0)
            return &rows[i];
    return NULL;
}

static int read_word(const char *text, const char *no, const char *yes, uint8_t *out)
{
    *out = strcmp(text, yes) == 0;
    return *out || strcmp(text, no) == 0 ? 0 : -EINVAL;
}

static int read_patterns(const char *text, char *out)
{
    size_t len = strlen(text);
    if (strcmp(text, "none") == 0)
        len = 0;
    if (!policy_patterns_valid(text, len))
        return -EINVAL;
    memset(out, 0, PATTERN_TEXT_MAX + 1);
    memcpy(out, text, len);
    return 0;
}

static int field_read(const struct row *row, struct names_policy *p, const char *text)
{
    void *at = (char *)p + row->offset;
    switch (row->form) {
    case FORM_BOOL:
        return read_word(text, "false", "true", at);
    case FORM_CREATE:
        return read_word(text, "push", "existing", at);
    case FORM_PATTERNS:
        return read_patterns(text, at);
    case FORM_BYTES:
        return read_units(text, byte_units, ARRAY_SIZE(byte_units), at);
    case FORM_NUMBER:
        return read_units(text, no_units, ARRAY_SIZE(no_units), at) ||
                       (row->field == POLICY_KEEP_LAST && p->keep_last > POLICY_KEEP_MAX)
                   ? -EINVAL
                   : 0;
    case FORM_TIME:
        return policy_time_parse(text, at);
    }
    IMPOSSIBLE("form of a field");
}

static const char *hint(enum form form)
{
    static const char *const texts[] = {
        [FORM_BOOL] = "true or false",
        [FORM_CREATE] = "push or existing",
        [FORM_PATTERNS] = "patterns with commas between them, at most 255 bytes, as in v*,!*-rc?, or none",
        [FORM_BYTES] = "bytes with KiB, MiB, GiB or TiB, as in 50GiB, or 0 (no limit)",
        [FORM_NUMBER] = "a whole number (keep_last: at most 10000), or 0 (no limit)",
        [FORM_TIME] = "a time with s, m, h or d, as in 30d, or 0 (does not count)",
    };
    return texts[form];
}

/* What a policy says nothing about is zero, so that two of them can be compared. */
static void field_clear(const struct row *row, struct names_policy *p)
{
    size_t size = row->form == FORM_PATTERNS                           ? PATTERN_TEXT_MAX + 1
                  : row->form == FORM_BOOL || row->form == FORM_CREATE ? 1
                                                                       : sizeof(uint64_t);
    memset((char *)p + row->offset, 0, size);
    p->has &= ~(1u << row->field);
}

int policy_field_set(struct policy *p, const char *key, const char *text, char err[POLICY_ERROR_MAX])
{
    const struct row *row = find(key);
    struct names_policy wanted = p->rules;
    if (!row)
        return -ENOENT;
    field_clear(row, &wanted);
    if (*text && strcmp(text, "inherit") != 0) {
        if (field_read(row, &wanted, text)) {
            snprintf(err, POLICY_ERROR_MAX, "%s: '%.40s' is not allowed; write %s, or inherit", key, text,
                     hint(row->form));
            return -EINVAL;
        }
        wanted.has |= 1u << row->field;
    }
    p->rules = wanted;
    return 0;
}

const char *policy_field_text(const struct policy *p, const char *key, char out[POLICY_TEXT_MAX])
{
    const struct row *row = find(key);
    const char *at = (const char *)&p->rules + (row ? row->offset : 0);
    uint64_t number = 0;
    out[0] = '\0';
    if (!row || !policy_says(&p->rules, row->field))
        return row ? out : NULL;
    if (row->form >= FORM_BYTES)
        memcpy(&number, at, sizeof(number));
    switch (row->form) {
    case FORM_BOOL:
        snprintf(out, POLICY_TEXT_MAX, "%s", *at ? "true" : "false");
        return out;
    case FORM_CREATE:
        snprintf(out, POLICY_TEXT_MAX, "%s", *at ? "existing" : "push");
        return out;
    case FORM_PATTERNS:
        snprintf(out, POLICY_TEXT_MAX, "%s", *at ? at : "none");
        return out;
    case FORM_BYTES:
        return write_units(number, byte_units, out);
    case FORM_NUMBER:
        return write_units(number, no_units, out);
    case FORM_TIME:
        return write_units(number, time_units, out);
    }
    IMPOSSIBLE("form of a field");
}

size_t policy_field_count(void)
{
    return ARRAY_SIZE(rows);
}

const char *policy_field_key(size_t i)
{
    return rows[i].key;
}

const char *policy_origin_name(uint8_t origin)
{
    return origin == POLICY_FROM_FILE ? "file" : "api";
}

bool policy_same(const struct policy *a, const struct policy *b)
{
    struct names_policy x = a->rules, y = b->rules;
    x.revision = y.revision = x.created_ms = y.created_ms = x.updated_ms = y.updated_ms = 0;
    x.origin = y.origin = 0;
    return strcmp(a->prefix, b->prefix) == 0 && memcmp(&x, &y, sizeof(x)) == 0;
}

/* --- as bytes --- */

void policy_put(struct wire_writer *w, const struct policy *p)
{
    const struct names_policy *r = &p->rules;
    wire_put_u8(w, POLICY_CODEC_VERSION);
    codec_put_text(w, p->prefix);
    wire_put_u32(w, r->has);
    wire_put_u8(w, r->read_only);
    wire_put_u8(w, r->existing_only);
    wire_put_u8(w, r->retain_immutable);
    wire_put_u64(w, r->bytes);
    wire_put_u64(w, r->tags);
    wire_put_u64(w, r->total_bytes);
    wire_put_u64(w, r->total_tags);
    wire_put_u64(w, r->keep_last);
    wire_put_u64(w, r->keep_for_s);
    codec_put_text(w, r->immutable);
    codec_put_text(w, r->retain_tags);
}

/* A text of patterns, its room filled up with zeros. */
static void get_patterns(struct wire_reader *r, char out[PATTERN_TEXT_MAX + 1])
{
    size_t len;
    const uint8_t *data = wire_get_bytes(r, &len);
    if (r->failed || !policy_patterns_valid((const char *)data, len))
        r->failed = true;
    else if (len)
        memcpy(out, data, len);
}

void policy_get(struct wire_reader *r, struct policy *p)
{
    struct names_policy *out = &p->rules;
    policy_init(p);
    codec_get_version(r, POLICY_CODEC_VERSION);
    codec_get_text(r, p->prefix, sizeof(p->prefix));
    out->has = wire_get_u32(r);
    out->read_only = codec_get_bool(r);
    out->existing_only = codec_get_bool(r);
    out->retain_immutable = codec_get_bool(r);
    out->bytes = wire_get_u64(r);
    out->tags = wire_get_u64(r);
    out->total_bytes = wire_get_u64(r);
    out->total_tags = wire_get_u64(r);
    out->keep_last = wire_get_u64(r);
    out->keep_for_s = wire_get_u64(r);
    get_patterns(r, out->immutable);
    get_patterns(r, out->retain_tags);
    if (out->has >> POLICY_FIELDS_COUNT ||
        (p->prefix[0] && !state_repo_name_valid(p->prefix, strlen(p->prefix))))
        r->failed = true;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        if (!policy_says(out, rows[i].field))
            field_clear(&rows[i], out);
}
