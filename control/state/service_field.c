/* SPDX-License-Identifier: Apache-2.0 */
/* The fields of services and backends as texts: one line a field in a table, one reader and one writer a
 * type. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "check.h"
#include "control/state/service.h"

enum field_type {
    FIELD_WORD, /* uint8_t, one of some words */
    FIELD_BOOL,
    FIELD_MS, /* uint32_t */
    FIELD_U8,
    FIELD_U16,
    FIELD_NAME, /* char[SVC_NAME_MAX + 1], may be empty */
    FIELD_PATH,
    FIELD_HOST,
    FIELD_ADDRESS,
    FIELD_STATUSES,
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

static const struct word kinds[] = {{"tcp", SVC_TCP},
                                    {"http", SVC_HTTP},
                                    {"registry", SVC_REGISTRY},
                                    {"docker", SVC_DOCKER},
                                    {"kubernetes", SVC_KUBERNETES},
                                    {NULL, 0}};
static const struct word routes[] = {{"direct", SVC_DIRECT}, {"proxy", SVC_PROXY}, {NULL, 0}};
static const struct word policies[] = {
    {"random", SVC_RANDOM}, {"maglev", SVC_MAGLEV}, {"least", SVC_LEAST}, {NULL, 0}};
static const struct word edges[] = {{"off", SVC_EDGE_OFF},
                                    {"nat", SVC_EDGE_NAT},
                                    {"full-nat", SVC_EDGE_FULL_NAT},
                                    {"dsr", SVC_EDGE_DSR},
                                    {NULL, 0}};
static const struct word all_downs[] = {{"refuse", SVC_REFUSE}, {"open", SVC_OPEN}, {NULL, 0}};
static const struct word checks[] = {
    {"none", SVC_CHECK_NONE}, {"tcp", SVC_CHECK_TCP}, {"http", SVC_CHECK_HTTP}, {NULL, 0}};
static const struct word admins[] = {{"active", SVC_ACTIVE}, {"drain", SVC_DRAIN}, {NULL, 0}};
static const struct word origins[] = {{"api", SVC_FROM_API}, {"file", SVC_FROM_FILE}, {NULL, 0}};

#define MS_RANGE   SVC_INTERVAL_MS_MIN, SVC_INTERVAL_MS_MAX
#define IN(member) offsetof(struct svc, member)
static const struct field svc_field_list[] = {
    {"address", FIELD_ADDRESS, IN(address), NULL, 0, 0},
    {"kind", FIELD_WORD, IN(kind), kinds, 0, 0},
    {"path", FIELD_WORD, IN(route), routes, 0, 0},
    {"policy", FIELD_WORD, IN(policy), policies, 0, 0},
    {"edge", FIELD_WORD, IN(edge), edges, 0, 0},
    {"steer", FIELD_BOOL, IN(steer), NULL, 0, 0},
    {"takeover", FIELD_BOOL, IN(takeover), NULL, 0, 0},
    {"all_down", FIELD_WORD, IN(all_down), all_downs, 0, 0},
    {"cut", FIELD_BOOL, IN(cut), NULL, 0, 0},
    {"check.kind", FIELD_WORD, IN(check.kind), checks, 0, 0},
    {"check.interval", FIELD_MS, IN(check.interval_ms), NULL, MS_RANGE},
    {"check.http_interval", FIELD_MS, IN(check.http_interval_ms), NULL, MS_RANGE},
    {"check.timeout", FIELD_MS, IN(check.timeout_ms), NULL, MS_RANGE},
    {"check.http_timeout", FIELD_MS, IN(check.http_timeout_ms), NULL, MS_RANGE},
    {"check.rise", FIELD_U8, IN(check.rise), NULL, 1, 255},
    {"check.fall", FIELD_U8, IN(check.fall), NULL, 1, 255},
    {"check.path", FIELD_PATH, IN(check.path), NULL, 0, SVC_PATH_MAX},
    {"check.host", FIELD_HOST, IN(check.host), NULL, 0, SVC_HOST_MAX},
    {"check.statuses", FIELD_STATUSES, IN(check.statuses), NULL, 0, 0},
};
#undef IN
#define IN(member) offsetof(struct svc_backend, member)
static const struct field backend_field_list[] = {
    {"address", FIELD_ADDRESS, IN(address), NULL, 0, 0},
    {"weight", FIELD_U16, IN(weight), NULL, 1, SVC_WEIGHT_MAX},
    {"node", FIELD_NAME, IN(node), NULL, 0, 0},
};
#undef IN

static const char *word_name(const struct word *words, unsigned value)
{
    for (; words->name; words++)
        if (words->value == value)
            return words->name;
    return "unknown";
}

const char *svc_kind_name(unsigned kind)
{
    return word_name(kinds, kind);
}

const char *svc_admin_name(unsigned admin)
{
    return word_name(admins, admin);
}

const char *svc_origin_name(unsigned origin)
{
    return word_name(origins, origin);
}

bool svc_name_valid(const char *name, size_t len)
{
    if (len == 0 || len > SVC_NAME_MAX)
        return false;
    for (size_t i = 0; i < len; i++) {
        char c = name[i];
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        bool mark = c == '.' || c == '_' || c == ':' || c == '[' || c == ']' || (c == '-' && i > 0);
        if (!plain && !mark)
            return false;
    }
    return true;
}

/* Addresses. */

bool svc_address_is_v4(const struct svc_address *a)
{
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
    return memcmp(a->ip, mapped, sizeof(mapped)) == 0;
}

bool svc_address_is_loopback(const struct svc_address *a)
{
    static const uint8_t one[16] = {[15] = 1};
    return svc_address_is_v4(a) ? a->ip[12] == 127 : memcmp(a->ip, one, sizeof(one)) == 0;
}

static int port_parse(const char *text, uint16_t *port)
{
    uint32_t value = 0;
    size_t len = strlen(text);
    if (len == 0 || len > 5 || text[0] == '0')
        return -EINVAL;
    for (size_t i = 0; i < len; i++) {
        if (text[i] < '0' || text[i] > '9')
            return -EINVAL;
        value = value * 10 + (uint32_t)(text[i] - '0');
    }
    *port = (uint16_t)value;
    return value <= UINT16_MAX ? 0 : -EINVAL;
}

static int ip_parse(const char *host, bool brackets, uint8_t ip[16])
{
    memset(ip, 0, 16);
    if (brackets) {
        struct svc_address a = {.port = 1};
        if (inet_pton(AF_INET6, host, ip) != 1)
            return -EINVAL;
        memcpy(a.ip, ip, 16);
        return svc_address_is_v4(&a) ? -EINVAL : 0;
    }
    ip[10] = ip[11] = 0xff;
    return inet_pton(AF_INET, host, ip + 12) == 1 ? 0 : -EINVAL;
}

int svc_address_parse(const char *text, struct svc_address *out)
{
    char host[INET6_ADDRSTRLEN];
    const char *colon = strrchr(text, ':');
    if (!colon || port_parse(colon + 1, &out->port))
        return -EINVAL;
    bool brackets = text[0] == '[';
    const char *first = text + brackets, *end = colon - brackets;
    if (end <= first || (size_t)(end - first) >= sizeof(host) || (brackets && *end != ']'))
        return -EINVAL;
    memcpy(host, first, (size_t)(end - first));
    host[end - first] = '\0';
    return ip_parse(host, brackets, out->ip);
}

const char *svc_address_text(const struct svc_address *a, char out[ADDRESS_TEXT_MAX])
{
    char host[INET6_ADDRSTRLEN];
    bool v4 = svc_address_is_v4(a);
    inet_ntop(v4 ? AF_INET : AF_INET6, a->ip + (v4 ? 12 : 0), host, sizeof(host));
    snprintf(out, ADDRESS_TEXT_MAX, v4 ? "%s:%u" : "[%s]:%u", host, a->port);
    return out;
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

static int read_bool(const char *text, bool *out, char hint[SVC_ERROR_MAX])
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
    snprintf(hint, SVC_ERROR_MAX, "a whole number with ms, s, m or h from 1ms to 1h, as in 20ms");
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

static int read_field(const struct field *f, void *target, const char *text, char hint[SVC_ERROR_MAX])
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
    if (ms && ms % 1000 == 0)
        snprintf(out, SVC_TEXT_MAX, "%us", ms / 1000);
    else
        snprintf(out, SVC_TEXT_MAX, "%ums", ms);
    return out;
}

static const char *text_field(const struct field *f, const void *target, char out[SVC_TEXT_MAX])
{
    const void *at = (const char *)target + f->offset;
    switch (f->type) {
    case FIELD_WORD:
        snprintf(out, SVC_TEXT_MAX, "%s", word_name(f->words, *(const uint8_t *)at));
        return out;
    case FIELD_BOOL:
        snprintf(out, SVC_TEXT_MAX, "%s", *(const bool *)at ? "true" : "false");
        return out;
    case FIELD_MS:
        return text_ms(*(const uint32_t *)at, out);
    case FIELD_U8:
        snprintf(out, SVC_TEXT_MAX, "%u", *(const uint8_t *)at);
        return out;
    case FIELD_U16:
        snprintf(out, SVC_TEXT_MAX, "%u", *(const uint16_t *)at);
        return out;
    case FIELD_NAME:
    case FIELD_PATH:
    case FIELD_HOST:
        snprintf(out, SVC_TEXT_MAX, "%s", (const char *)at);
        return out;
    case FIELD_ADDRESS:
        return svc_address_text(at, out);
    case FIELD_STATUSES:
        return text_statuses(at, out);
    }
    IMPOSSIBLE("type of a field");
}

static const struct field *find(const struct field *list, size_t count, const char *key)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(list[i].key, key) == 0)
            return &list[i];
    return NULL;
}

static int set(const struct field *f, void *target, const char *text, char err[SVC_ERROR_MAX])
{
    char hint[SVC_ERROR_MAX] = "";
    if (!f)
        return -ENOENT;
    int result = read_field(f, target, text, hint);
    if (result)
        snprintf(err, SVC_ERROR_MAX, "%s: '%.40s' is not allowed; write %.150s", f->key, text, hint);
    return result;
}

int svc_field_set(struct svc *s, const char *key, const char *text, char err[SVC_ERROR_MAX])
{
    return set(find(svc_field_list, ARRAY_SIZE(svc_field_list), key), s, text, err);
}

int svc_backend_field_set(struct svc_backend *b, const char *key, const char *text, char err[SVC_ERROR_MAX])
{
    return set(find(backend_field_list, ARRAY_SIZE(backend_field_list), key), b, text, err);
}

const char *svc_field_text(const struct svc *s, const char *key, char out[SVC_TEXT_MAX])
{
    const struct field *f = find(svc_field_list, ARRAY_SIZE(svc_field_list), key);
    return f ? text_field(f, s, out) : NULL;
}

const char *svc_backend_field_text(const struct svc_backend *b, const char *key, char out[SVC_TEXT_MAX])
{
    const struct field *f = find(backend_field_list, ARRAY_SIZE(backend_field_list), key);
    return f ? text_field(f, b, out) : NULL;
}

size_t svc_field_count(void)
{
    return ARRAY_SIZE(svc_field_list);
}

const char *svc_field_key(size_t i)
{
    return svc_field_list[i].key;
}

size_t svc_backend_field_count(void)
{
    return ARRAY_SIZE(backend_field_list);
}

const char *svc_backend_field_key(size_t i)
{
    return backend_field_list[i].key;
}
