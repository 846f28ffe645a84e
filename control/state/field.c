/* SPDX-License-Identifier: Apache-2.0 */
/* One field as a text: a reader and a writer for each type. Pure. */
#include "control/state/field.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "check.h"

const char *field_word(const struct word *words, unsigned value)
{
    for (; words->name; words++)
        if (words->value == value)
            return words->name;
    return "unknown";
}

/* Readers of one type each: 0, or -EINVAL with what to write instead in hint. */

static int read_word(const struct field *f, const char *text, uint8_t *out, char hint[SVC_ERROR_MAX])
{
    size_t used = 0;
    for (const struct word *w = f->words; w->name; w++) {
        if (strcmp(w->name, text) == 0) {
            *out = w->value;
            return 0;
        }
        used += (size_t)snprintf(hint + used, SVC_ERROR_MAX - used, "%s%s",
                                 w == f->words ? ""
                                 : w[1].name   ? ", "
                                               : " or ",
                                 w->name);
    }
    return -EINVAL;
}

static int read_bool(const char *text, uint8_t *out, char hint[SVC_ERROR_MAX])
{
    bool yes = strcmp(text, "yes") == 0 || strcmp(text, "true") == 0 || strcmp(text, "on") == 0;
    bool no = strcmp(text, "no") == 0 || strcmp(text, "false") == 0 || strcmp(text, "off") == 0;
    snprintf(hint, SVC_ERROR_MAX, "true or false");
    if (!yes && !no)
        return -EINVAL;
    *out = yes;
    return 0;
}

/* Digits; *end gets what follows them. */
static int read_digits(const char *text, uint64_t *out, const char **end)
{
    *out = 0;
    for (*end = text; **end >= '0' && **end <= '9'; (*end)++) {
        *out = *out * 10 + (uint64_t)(**end - '0');
        if (*out > UINT32_MAX)
            return -EINVAL;
    }
    return *end == text ? -EINVAL : 0;
}

static int read_ms(const struct field *f, const char *text, uint32_t *out, char hint[SVC_ERROR_MAX])
{
    static const struct {
        const char *name;
        uint32_t factor;
    } units[] = {{"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}};
    uint64_t value;
    const char *end;
    snprintf(hint, SVC_ERROR_MAX, "a whole number with ms, s, m or h from %s to %uh, as in 20ms",
             f->min ? "1ms" : "0 (none)", f->max / 3600000);
    if (f->min == 0 && strcmp(text, "0") == 0) {
        *out = 0;
        return 0;
    }
    if (read_digits(text, &value, &end))
        return -EINVAL;
    for (size_t i = 0; i < ARRAY_SIZE(units); i++) {
        if (strcmp(end, units[i].name) != 0)
            continue;
        value *= units[i].factor;
        if (value < f->min || value > f->max)
            return -EINVAL;
        *out = (uint32_t)value;
        return 0;
    }
    return -EINVAL;
}

static int read_number(const struct field *f, const char *text, uint64_t *out, char hint[SVC_ERROR_MAX])
{
    const char *end;
    snprintf(hint, SVC_ERROR_MAX, "a whole number from %u to %u", f->min, f->max);
    if (read_digits(text, out, &end) || *end)
        return -EINVAL;
    return *out >= f->min && *out <= f->max ? 0 : -EINVAL;
}

static const struct {
    const char *name;
    uint32_t factor;
} rate_units[] = {{"MiB/s", 1 << 20}, {"KiB/s", 1 << 10}, {"B/s", 1}};

static int read_rate(const struct field *f, const char *text, uint32_t *out, char hint[SVC_ERROR_MAX])
{
    uint64_t value;
    const char *end;
    snprintf(hint, SVC_ERROR_MAX,
             "a whole number up to 1024MiB/s with B/s, KiB/s or MiB/s, as in 1KiB/s, or 0 (never)");
    if (read_digits(text, &value, &end))
        return -EINVAL;
    for (size_t i = 0; i < ARRAY_SIZE(rate_units) && *end; i++) {
        if (strcmp(end, rate_units[i].name) == 0) {
            value *= rate_units[i].factor;
            end = "";
        }
    }
    if (*end || value > f->max)
        return -EINVAL;
    *out = (uint32_t)value;
    return 0;
}

/* Visible ASCII: what may stand in a request line and in a header without more thought. */
static bool is_visible(const char *text)
{
    for (; *text; text++)
        if (*text <= ' ' || *text >= 0x7f)
            return false;
    return true;
}

static int read_visible(const struct field *f, const char *text, char *out, char hint[SVC_ERROR_MAX])
{
    bool path = f->type == FIELD_PATH;
    snprintf(hint, SVC_ERROR_MAX,
             path ? "a path from / on, at most %u bytes without blanks, as in /healthz"
                  : "a host name of at most %u bytes, as in registry.example",
             f->max);
    if (strlen(text) > f->max || !is_visible(text) || (path && text[0] != '/'))
        return -EINVAL;
    memcpy(out, text, strlen(text) + 1);
    return 0;
}

static int read_name(const char *text, char *out, char hint[SVC_ERROR_MAX])
{
    snprintf(hint, SVC_ERROR_MAX, "a name of letters, digits, '.', '_', '-' and ':'");
    if (*text && !svc_name_valid(text, strlen(text)))
        return -EINVAL;
    memcpy(out, text, strlen(text) + 1);
    return 0;
}

/* Names with commas between them, each once. */
static int read_certificates(const char *text, struct plan_tls *out, char hint[SVC_ERROR_MAX])
{
    char name[PLAN_CERTIFICATES_MAX][PLAN_NAME_MAX] = {0};
    uint8_t count = 0;
    snprintf(hint, SVC_ERROR_MAX, "at most %d names of certificates with commas between them, as in web,api",
             PLAN_CERTIFICATES_MAX);
    while (*text) {
        size_t len = strcspn(text, ",");
        if (count == PLAN_CERTIFICATES_MAX || !svc_name_valid(text, len) || (text[len] && !text[len + 1]))
            return -EINVAL;
        memcpy(name[count], text, len);
        for (uint8_t i = 0; i < count; i++)
            if (strcmp(name[i], name[count]) == 0)
                return -EINVAL;
        count++;
        text += len + (text[len] == ',');
    }
    memcpy(out->certificate, name, sizeof(name));
    out->certificate_count = count;
    return 0;
}

static bool status_is_set(const uint64_t statuses[8], unsigned status)
{
    unsigned bit = status - SVC_STATUS_FIRST;
    return statuses[bit / 64] >> bit % 64 & 1;
}

static int read_statuses(const char *text, uint64_t out[8], char hint[SVC_ERROR_MAX])
{
    enum { PARTS_MAX = 24 }; /* their text fits SVC_TEXT_MAX */
    uint64_t bits[8] = {0}, first, last;
    const char *end = text;
    unsigned parts = 0;
    snprintf(hint, SVC_ERROR_MAX, "at most %d statuses or ranges from 100 to 599, as in 200-299,401",
             PARTS_MAX);
    do {
        if (read_digits(end + (end != text), &first, &end))
            return -EINVAL;
        last = first;
        if (*end == '-' && read_digits(end + 1, &last, &end))
            return -EINVAL;
        if (first < SVC_STATUS_FIRST || last > SVC_STATUS_LAST || last < first || ++parts > PARTS_MAX)
            return -EINVAL;
        for (; first <= last; first++)
            bits[(first - SVC_STATUS_FIRST) / 64] |= 1ull << (first - SVC_STATUS_FIRST) % 64;
    } while (*end == ',');
    if (*end)
        return -EINVAL;
    memcpy(out, bits, sizeof(bits));
    return 0;
}

int field_read(const struct field *f, void *target, const char *text, char hint[SVC_ERROR_MAX])
{
    void *at = (char *)target + f->offset;
    uint64_t number;
    int err;
    switch (f->type) {
    case FIELD_WORD:
        return read_word(f, text, at, hint);
    case FIELD_BOOL:
        return read_bool(text, at, hint);
    case FIELD_MS:
        return read_ms(f, text, at, hint);
    case FIELD_U8:
        err = read_number(f, text, &number, hint);
        if (!err)
            *(uint8_t *)at = (uint8_t)number;
        return err;
    case FIELD_U32:
        err = read_number(f, text, &number, hint);
        if (!err)
            *(uint32_t *)at = (uint32_t)number;
        return err;
    case FIELD_RATE:
        return read_rate(f, text, at, hint);
    case FIELD_CERTIFICATES:
        return read_certificates(text, at, hint);
    case FIELD_U16:
        err = read_number(f, text, &number, hint);
        if (!err)
            *(uint16_t *)at = (uint16_t)number;
        return err;
    case FIELD_NAME:
        return read_name(text, at, hint);
    case FIELD_PATH:
    case FIELD_HOST:
        return read_visible(f, text, at, hint);
    case FIELD_ADDRESS:
        snprintf(hint, SVC_ERROR_MAX,
                 "an IP address and a port from 1 to 65535, as in 10.0.0.1:80 or [fd00::1]:80");
        return svc_address_parse(text, at);
    case FIELD_STATUSES:
        return read_statuses(text, at, hint);
    case FIELD_DOMAINS:
        snprintf(hint, SVC_ERROR_MAX,
                 "names of hosts with commas between them, each once, at most %d bytes, as in "
                 "web.example,*.api.example",
                 SVC_NAMES_MAX);
        return svc_names_parse(text, at);
    }
    IMPOSSIBLE("type of a field");
}

static const char *text_statuses(const uint64_t statuses[8], char out[SVC_TEXT_MAX])
{
    size_t used = 0;
    out[0] = '\0';
    for (unsigned s = SVC_STATUS_FIRST; s <= SVC_STATUS_LAST && used < SVC_TEXT_MAX - 16; s++) {
        unsigned first = s;
        if (!status_is_set(statuses, s))
            continue;
        while (s < SVC_STATUS_LAST && status_is_set(statuses, s + 1))
            s++;
        used += (size_t)snprintf(out + used, SVC_TEXT_MAX - used, first == s ? "%s%u" : "%s%u-%u",
                                 used ? "," : "", first, s);
    }
    return out;
}

static const char *text_ms(uint32_t ms, char out[SVC_TEXT_MAX])
{
    if (ms == 0)
        snprintf(out, SVC_TEXT_MAX, "0");
    else if (ms % 1000 == 0)
        snprintf(out, SVC_TEXT_MAX, "%us", ms / 1000);
    else
        snprintf(out, SVC_TEXT_MAX, "%ums", ms);
    return out;
}

static const char *text_rate(uint32_t rate, char out[SVC_TEXT_MAX])
{
    size_t unit = 0;
    while (rate % rate_units[unit].factor)
        unit++;
    if (rate == 0)
        snprintf(out, SVC_TEXT_MAX, "0");
    else
        snprintf(out, SVC_TEXT_MAX, "%u%s", rate / rate_units[unit].factor, rate_units[unit].name);
    return out;
}

static const char *text_certificates(const struct plan_tls *tls, char out[SVC_TEXT_MAX])
{
    size_t used = 0;
    out[0] = '\0';
    for (uint8_t i = 0; i < tls->certificate_count; i++)
        used += (size_t)snprintf(out + used, SVC_TEXT_MAX - used, "%s%s", i ? "," : "", tls->certificate[i]);
    return out;
}

const char *field_text(const struct field *f, const void *target, char out[SVC_TEXT_MAX])
{
    const void *at = (const char *)target + f->offset;
    switch (f->type) {
    case FIELD_WORD:
        snprintf(out, SVC_TEXT_MAX, "%s", field_word(f->words, *(const uint8_t *)at));
        return out;
    case FIELD_BOOL:
        snprintf(out, SVC_TEXT_MAX, "%s", *(const uint8_t *)at ? "true" : "false");
        return out;
    case FIELD_MS:
        return text_ms(*(const uint32_t *)at, out);
    case FIELD_U8:
        snprintf(out, SVC_TEXT_MAX, "%u", *(const uint8_t *)at);
        return out;
    case FIELD_U16:
        snprintf(out, SVC_TEXT_MAX, "%u", *(const uint16_t *)at);
        return out;
    case FIELD_U32:
        snprintf(out, SVC_TEXT_MAX, "%u", *(const uint32_t *)at);
        return out;
    case FIELD_RATE:
        return text_rate(*(const uint32_t *)at, out);
    case FIELD_CERTIFICATES:
        return text_certificates(at, out);
    case FIELD_NAME:
    case FIELD_PATH:
    case FIELD_HOST:
    case FIELD_DOMAINS:
        snprintf(out, SVC_TEXT_MAX, "%s", (const char *)at);
        return out;
    case FIELD_ADDRESS:
        return svc_address_text(at, out);
    case FIELD_STATUSES:
        return text_statuses(at, out);
    }
    IMPOSSIBLE("type of a field");
}
