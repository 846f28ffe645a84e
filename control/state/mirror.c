/* SPDX-License-Identifier: Apache-2.0 */
/* Rules of mirroring as fields and as bytes. */
#include "control/state/mirror.h"

#include <stdio.h>
#include <stdlib.h>

#include "check.h"
#include "control/state/cmd_new.h"
#include "control/state/codec.h"
#include "control/state/policy.h"
#include "control/state/state.h"

enum {
    MIRROR_CODEC_VERSION = 1,
    MIRROR_COMMAND_ROOM = 4096,
    FLAG_PUSH = 1,
    FLAG_EVENT = 2,
    FLAG_REFERRERS = 4,
    FLAG_PAUSED = 8,
    FLAG_DECLARED = 16, /* from cluster version 4 on */
    FLAGS_ALL = 31
};

enum form { FORM_DIRECTION, FORM_BOOL, FORM_TEXT, FORM_TIME, FORM_RATE, FORM_PARALLEL };

#define AT(member) offsetof(struct mirror_rule, member)
static const struct row {
    const char *key;
    enum form form;
    size_t offset, cap; /* of a text, with its NUL */
} rows[] = {
    {"direction", FORM_DIRECTION, AT(push), 0},
    {"url", FORM_TEXT, AT(url), MIRROR_URL_MAX + 1},
    {"repos", FORM_TEXT, AT(repos), PATTERN_TEXT_MAX + 1},
    {"tags", FORM_TEXT, AT(tags), PATTERN_TEXT_MAX + 1},
    {"strip", FORM_TEXT, AT(strip), REPO_NAME_MAX + 1},
    {"prefix", FORM_TEXT, AT(prefix), REPO_NAME_MAX + 1},
    {"every", FORM_TIME, AT(every_s), 0},
    {"on_event", FORM_BOOL, AT(on_event), 0},
    {"referrers", FORM_BOOL, AT(referrers), 0},
    {"rate", FORM_RATE, AT(rate), 0},
    {"parallel", FORM_PARALLEL, AT(parallel), 0},
    {"credentials", FORM_TEXT, AT(credentials), MIRROR_PATH_MAX + 1},
    {"ca", FORM_TEXT, AT(ca), MIRROR_PATH_MAX + 1},
    {"paused", FORM_BOOL, AT(paused), 0},
};
#undef AT

static const struct unit {
    const char *name;
    uint64_t factor;
} byte_units[] = {{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}},
  time_units[] = {{"d", 86400}, {"h", 3600}, {"m", 60}, {"s", 1}};

void mirror_init(struct mirror_rule *m, const char *name)
{
    memset(m, 0, sizeof(*m));
    if (strlen(name) <= MIRROR_NAME_MAX)
        memcpy(m->name, name, strlen(name));
    m->referrers = true;
    m->parallel = MIRROR_PARALLEL;
    memcpy(m->tags, "*", 2);
}

void mirror_table_fini(struct mirror_table *t)
{
    free(t->list);
    *t = (struct mirror_table){.count = 0};
}

struct mirror_rule *mirror_find(const struct mirror_table *t, const char *name)
{
    for (size_t i = 0; i < t->count; i++)
        if (strcmp(t->list[i].name, name) == 0)
            return &t->list[i];
    return NULL;
}

void mirror_table_add(struct mirror_table *t, const struct mirror_rule *m)
{
    t->list = reallocarray(t->list, t->count + 1, sizeof(*t->list));
    CHECK(t->list);
    t->list[t->count++] = *m;
}

/* --- fields --- */

static const struct row *row_find(const char *key)
{
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        if (strcmp(rows[i].key, key) == 0)
            return &rows[i];
    return NULL;
}

/* Four units, largest first. Without one only 0 is a number. */
static int units_read(const char *text, const struct unit units[4], uint64_t *out)
{
    uint64_t value = 0;
    const char *p = text;
    for (; *p >= '0' && *p <= '9' && value < 1ull << 40; p++)
        value = value * 10 + (uint64_t)(*p - '0');
    *out = 0;
    if (p == text || (value == 0 && *p == '\0'))
        return p == text ? -EINVAL : 0;
    for (size_t i = 0; i < 4; i++) {
        if (strcmp(p, units[i].name) != 0)
            continue;
        *out = value * units[i].factor;
        return value < UINT64_MAX / 2 / units[i].factor ? 0 : -EINVAL;
    }
    return -EINVAL;
}

static const char *units_write(uint64_t value, const struct unit units[4], char out[MIRROR_TEXT_MAX])
{
    size_t i = 0;
    while (value % units[i].factor)
        i++;
    snprintf(out, MIRROR_TEXT_MAX, "%llu%s", (unsigned long long)(value / units[i].factor),
             value ? units[i].name : "");
    return out;
}

static int bool_read(const char *text, const char *no, const char *yes, bool *out)
{
    *out = strcmp(text, yes) == 0;
    return *out || strcmp(text, no) == 0 ? 0 : -EINVAL;
}

static int text_read(const char *text, char *out, size_t cap)
{
    if (strlen(text) >= cap)
        return -EINVAL;
    memset(out, 0, cap);
    memcpy(out, text, strlen(text));
    return 0;
}

static int parallel_read(const char *text, uint32_t *out)
{
    char *end;
    unsigned long value = strtoul(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || value < 1 || value > MIRROR_PARALLEL_MAX)
        return -EINVAL;
    *out = (uint32_t)value;
    return 0;
}

static int field_read(const struct row *row, struct mirror_rule *m, const char *text)
{
    void *at = (char *)m + row->offset;
    switch (row->form) {
    case FORM_DIRECTION:
        return bool_read(text, "pull", "push", at);
    case FORM_BOOL:
        return bool_read(text, "false", "true", at);
    case FORM_TEXT:
        return text_read(text, at, row->cap);
    case FORM_TIME:
        return units_read(text, time_units, at);
    case FORM_RATE:
        return units_read(text, byte_units, at);
    case FORM_PARALLEL:
        return parallel_read(text, at);
    }
    IMPOSSIBLE("form of a field");
}

static const char *field_hint(enum form form)
{
    static const char *const texts[] = {
        [FORM_DIRECTION] = "pull or push",
        [FORM_BOOL] = "true or false",
        [FORM_TEXT] = "a shorter text",
        [FORM_TIME] = "a time with s, m, h or d, as in 1h, or 0 (by hand)",
        [FORM_RATE] = "bytes a second with KiB, MiB or GiB, as in 20MiB, or 0 (no limit)",
        [FORM_PARALLEL] = "a number from 1 to 16",
    };
    return texts[form];
}

int mirror_field_set(struct mirror_rule *m, const char *key, const char *text, char err[MIRROR_ERROR_MAX])
{
    const struct row *row = row_find(key);
    char room[MIRROR_TEXT_MAX];
    struct mirror_rule plain, wanted = *m;
    if (!row)
        return -ENOENT;
    mirror_init(&plain, m->name);
    if (*text == '\0')
        text = mirror_field_text(&plain, key, room);
    if (field_read(row, &wanted, text)) {
        snprintf(err, MIRROR_ERROR_MAX, "%s: '%.40s' is not allowed; write %s", key, text,
                 field_hint(row->form));
        return -EINVAL;
    }
    *m = wanted;
    return 0;
}

const char *mirror_field_text(const struct mirror_rule *m, const char *key, char out[MIRROR_TEXT_MAX])
{
    const struct row *row = row_find(key);
    if (!row)
        return NULL;
    const char *at = (const char *)m + row->offset;
    uint64_t number;
    bool yes = row->form <= FORM_BOOL && *at;
    switch (row->form) {
    case FORM_DIRECTION:
        return yes ? "push" : "pull";
    case FORM_BOOL:
        return yes ? "true" : "false";
    case FORM_TEXT:
        snprintf(out, MIRROR_TEXT_MAX, "%s", at);
        return out;
    case FORM_TIME:
    case FORM_RATE:
        memcpy(&number, at, sizeof(number));
        return units_write(number, row->form == FORM_TIME ? time_units : byte_units, out);
    case FORM_PARALLEL:
        snprintf(out, MIRROR_TEXT_MAX, "%u", m->parallel);
        return out;
    }
    IMPOSSIBLE("form of a field");
}

size_t mirror_field_count(void)
{
    return ARRAY_SIZE(rows);
}

const char *mirror_field_key(size_t i)
{
    return rows[i].key;
}

/* --- what can be --- */

/* http:// or https://, a host, maybe a port, nothing more. */
static bool url_valid(const char *url)
{
    size_t scheme = strncmp(url, "http://", 7) == 0 ? 7 : strncmp(url, "https://", 8) == 0 ? 8 : 0;
    const char *host = url + scheme;
    size_t len = strspn(host, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:[]");
    return scheme && len && host[len] == '\0' && host[0] != ':';
}

/* An expression whose size does not explode: without counted repetition and references back. */
static bool tags_valid(const char *text)
{
    if (*text != '~')
        return *text && policy_patterns_valid(text, strlen(text));
    for (const char *p = text; *p; p++)
        if (*p <= ' ' || *p >= 0x7f || *p == '{' || (*p == '\\' && p[1] >= '0' && p[1] <= '9'))
            return false;
    return text[1] != '\0';
}

static bool path_valid(const char *path)
{
    for (const char *p = path; *p; p++)
        if ((unsigned char)*p < ' ' || *p == 0x7f)
            return false;
    return *path == '\0' || *path == '/';
}

static bool prefix_valid(const char *text)
{
    return *text == '\0' || state_repo_name_valid(text, strlen(text));
}

static int wrong(char *err, size_t err_len, const char *text)
{
    snprintf(err, err_len, "%s", text);
    return -EINVAL;
}

int mirror_check(const struct mirror_rule *m, char *err, size_t err_len)
{
    if (m->name[0] == '\0' || !svc_name_valid(m->name, strlen(m->name)))
        return wrong(err, err_len, "a name has 1 to 63 letters, digits, '.', '_', '-' and ':'");
    if (!url_valid(m->url))
        return wrong(
            err, err_len,
            "url: write http:// or https:// and a host, as in https://registry.example:5000; user and "
            "password go into the file of credentials");
    if (m->repos[0] == '\0' || !policy_patterns_valid(m->repos, strlen(m->repos)))
        return wrong(err, err_len,
                     "repos: write patterns with commas between them, as in team/*,library/busybox");
    if (!tags_valid(m->tags))
        return wrong(err, err_len,
                     "tags: write patterns with commas between them, as in v*,latest, or an extended regular "
                     "expression without counts, as in ~^v[0-9]+$");
    if (!prefix_valid(m->strip) || !prefix_valid(m->prefix))
        return wrong(err, err_len, "strip, prefix: write components of a repository's name, as in team/app");
    if (!path_valid(m->credentials) || !path_valid(m->ca))
        return wrong(err, err_len, "credentials, ca: write the full path of a file");
    if (m->every_s && m->every_s < MIRROR_EVERY_MIN_S)
        return wrong(err, err_len, "every: write 5s or longer, or 0 (by hand)");
    if (m->on_event && !m->push)
        return wrong(err, err_len, "on_event: only what is pushed from here is known as it changes");
    if (m->parallel < 1 || m->parallel > MIRROR_PARALLEL_MAX)
        return wrong(err, err_len, "parallel: write a number from 1 to 16");
    return 0;
}

bool mirror_same(const struct mirror_rule *a, const struct mirror_rule *b)
{
    char x[MIRROR_TEXT_MAX], y[MIRROR_TEXT_MAX];
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        if (strcmp(mirror_field_text(a, rows[i].key, x), mirror_field_text(b, rows[i].key, y)) != 0)
            return false;
    return strcmp(a->name, b->name) == 0;
}

/* --- as bytes --- */

void mirror_put(struct wire_writer *w, const struct mirror_rule *m)
{
    wire_put_u8(w, MIRROR_CODEC_VERSION);
    codec_put_text(w, m->name);
    wire_put_u8(w, (uint8_t)((m->push ? FLAG_PUSH : 0) | (m->on_event ? FLAG_EVENT : 0) |
                             (m->referrers ? FLAG_REFERRERS : 0) | (m->paused ? FLAG_PAUSED : 0) |
                             (m->declared ? FLAG_DECLARED : 0)));
    wire_put_u64(w, m->every_s);
    wire_put_u64(w, m->rate);
    wire_put_u8(w, (uint8_t)m->parallel);
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        if (rows[i].form == FORM_TEXT)
            codec_put_text(w, (const char *)m + rows[i].offset);
}

void mirror_get(struct wire_reader *r, struct mirror_rule *m)
{
    memset(m, 0, sizeof(*m));
    codec_get_version(r, MIRROR_CODEC_VERSION);
    codec_get_text(r, m->name, sizeof(m->name));
    uint32_t flags = codec_get_range(r, 1, 0, FLAGS_ALL);
    m->push = flags & FLAG_PUSH;
    m->on_event = flags & FLAG_EVENT;
    m->referrers = flags & FLAG_REFERRERS;
    m->paused = flags & FLAG_PAUSED;
    m->declared = flags & FLAG_DECLARED;
    m->every_s = wire_get_u64(r);
    m->rate = wire_get_u64(r);
    m->parallel = wire_get_u8(r);
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        if (rows[i].form == FORM_TEXT)
            codec_get_text(r, (char *)m + rows[i].offset, rows[i].cap);
}

void *mirror_cmd_set(const char *actor, const char *source, const struct mirror_rule *m, size_t *len)
{
    struct wire_writer w = cmd_new(CMD_MIRROR_SET, actor, source, MIRROR_COMMAND_ROOM);
    mirror_put(&w, m);
    return cmd_end(&w, len);
}

void *mirror_cmd_rm(const char *actor, const char *source, const char *name, bool declared, size_t *len)
{
    struct wire_writer w = cmd_new(CMD_MIRROR_RM, actor, source, MIRROR_NAME_MAX + 1);
    wire_put_bytes(&w, name, strlen(name));
    if (declared)
        wire_put_u8(&w, 1);
    return cmd_end(&w, len);
}
