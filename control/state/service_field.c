/* SPDX-License-Identifier: Apache-2.0 */
/* The fields of services and backends: one line a field in a table; and addresses as texts. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "check.h"
#include "control/state/field.h"
#include "control/state/service.h"

static const struct word kinds[] = {{"tcp", SVC_TCP},
                                    {"http", SVC_HTTP},
                                    {"registry", SVC_REGISTRY},
                                    {"docker", SVC_DOCKER},
                                    {"kubernetes", SVC_KUBERNETES},
                                    {NULL, 0}};
static const struct word routes[] = {{"direct", SVC_DIRECT}, {"proxy", SVC_PROXY}, {NULL, 0}};
static const struct word policies[] = {
    {"random", SVC_RANDOM}, {"maglev", SVC_MAGLEV}, {"least", SVC_LEAST}, {"digest", SVC_DIGEST}, {NULL, 0}};
static const struct word edges[] = {{"off", SVC_EDGE_OFF},
                                    {"nat", SVC_EDGE_NAT},
                                    {"full-nat", SVC_EDGE_FULL_NAT},
                                    {"dsr", SVC_EDGE_DSR},
                                    {NULL, 0}};
static const struct word all_downs[] = {{"refuse", SVC_REFUSE}, {"open", SVC_OPEN}, {NULL, 0}};
static const struct word checks[] = {{"none", SVC_CHECK_NONE},
                                     {"tcp", SVC_CHECK_TCP},
                                     {"http", SVC_CHECK_HTTP},
                                     {"tls", SVC_CHECK_TLS},
                                     {NULL, 0}};
static const struct word admins[] = {{"active", SVC_ACTIVE}, {"drain", SVC_DRAIN}, {NULL, 0}};
static const struct word origins[] = {{"api", SVC_FROM_API}, {"file", SVC_FROM_FILE}, {NULL, 0}};

static const struct word tls_modes[] = {{"off", PLAN_TLS_OFF},
                                        {"terminate", PLAN_TLS_TERMINATE},
                                        {"passthrough", PLAN_TLS_PASSTHROUGH},
                                        {NULL, 0}};
static const struct word client_auths[] = {
    {"none", PLAN_AUTH_NONE}, {"optional", PLAN_AUTH_OPTIONAL}, {"required", PLAN_AUTH_REQUIRED}, {NULL, 0}};
static const struct word versions[] = {{"1", 1}, {"2", 2}, {NULL, 0}};
static const struct word header_versions[] = {{"0", 0}, {"1", 1}, {"2", 2}, {NULL, 0}};
static const struct word verifies[] = {{"never", PROXY_VERIFY_NEVER},
                                       {"resumed", PROXY_VERIFY_RESUMED},
                                       {"always", PROXY_VERIFY_ALWAYS},
                                       {NULL, 0}};
static const struct word techniques[] = {
    {"auto", PROXY_AUTO}, {"splice", PROXY_SPLICE}, {"copy", PROXY_COPY}, {NULL, 0}};
static const struct word forwardeds[] = {{"off", PROXY_FORWARDED_OFF},
                                         {"x", PROXY_FORWARDED_X},
                                         {"rfc7239", PROXY_FORWARDED_RFC7239},
                                         {"both", PROXY_FORWARDED_BOTH},
                                         {NULL, 0}};
static const struct word hosts[] = {{"client", 0}, {"backend", 1}, {NULL, 0}};

static const char unix_prefix[] = "unix:";

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
    /* What only path: proxy has. */
    {"tls.mode", FIELD_WORD, IN(tls.mode), tls_modes, 0, 0},
    {"tls.certificates", FIELD_CERTIFICATES, IN(tls), NULL, 0, PLAN_CERTIFICATES_MAX},
    {"tls.names", FIELD_DOMAINS, IN(names), NULL, 0, SVC_NAMES_MAX},
    {"tls.client_auth", FIELD_WORD, IN(tls.client_auth), client_auths, 0, 0},
    {"tls.client_ca", FIELD_NAME, IN(tls.client_ca), NULL, 0, 0},
    {"http2", FIELD_BOOL, IN(tls.http2), NULL, 0, 0},
    {"proxy_protocol", FIELD_BOOL, IN(tls.proxy_protocol), NULL, 0, 0},
    {"backend.http", FIELD_WORD, IN(proxy.backend_http), versions, 0, 0},
    {"backend.proxy_protocol", FIELD_WORD, IN(proxy.proxy_protocol), header_versions, 0, 0},
    {"backend.tls", FIELD_BOOL, IN(proxy.backend_tls), NULL, 0, 0},
    {"backend.verify", FIELD_BOOL, IN(proxy.backend_verify), NULL, 0, 0},
    {"backend.ca", FIELD_NAME, IN(proxy.backend_ca), NULL, 0, 0},
    {"backend.certificate", FIELD_NAME, IN(proxy.backend_certificate), NULL, 0, 0},
    {"backend.name", FIELD_HOST, IN(proxy.backend_name), NULL, 0, PLAN_NAME_MAX - 1},
    {"backend.connections_max", FIELD_U32, IN(proxy.connections_max), NULL, 1, 65536},
    {"backend.requests_max", FIELD_U32, IN(proxy.requests_max), NULL, 0, 65536},
    {"host", FIELD_WORD, IN(proxy.host_of_backend), hosts, 0, 0},
    {"forwarded.mode", FIELD_WORD, IN(proxy.forwarded), forwardeds, 0, 0},
    {"forwarded.trust", FIELD_BOOL, IN(proxy.trust_forwarded), NULL, 0, 0},
    {"queue.max", FIELD_U32, IN(proxy.queue_max), NULL, 0, 65536},
    {"queue.timeout", FIELD_MS, IN(proxy.queue_timeout_ms), NULL, MS_RANGE},
    {"connect_timeout", FIELD_MS, IN(proxy.connect_timeout_ms), NULL, MS_RANGE},
    {"response_timeout", FIELD_MS, IN(proxy.response_timeout_ms), NULL, 0, SVC_DAY_MS},
    {"idle_timeout", FIELD_MS, IN(proxy.idle_timeout_ms), NULL, 0, SVC_DAY_MS},
    {"half_closed_timeout", FIELD_MS, IN(proxy.half_closed_ms), NULL, 0, SVC_DAY_MS},
    {"retries", FIELD_U32, IN(proxy.retries), NULL, 0, 16},
    {"retry_budget", FIELD_U32, IN(proxy.retry_budget), NULL, 0, 1000},
    {"slow_start", FIELD_MS, IN(proxy.slow_start_ms), NULL, 0, SVC_INTERVAL_MS_MAX},
    {"eject.failures", FIELD_U32, IN(proxy.eject_failures), NULL, 0, 1000},
    {"eject.time", FIELD_MS, IN(proxy.eject_ms), NULL, MS_RANGE},
    {"eject.latency", FIELD_U32, IN(proxy.eject_latency), NULL, 0, 100000},
    {"resume.verify", FIELD_WORD, IN(proxy.verify), verifies, 0, 0},
    {"resume.max", FIELD_U32, IN(proxy.resumes_max), NULL, 0, 64},
    {"resume.stall_rate", FIELD_RATE, IN(proxy.stall_rate), NULL, 0, 1u << 30},
    {"resume.stall_time", FIELD_MS, IN(proxy.stall_ms), NULL, MS_RANGE},
    {"hedge", FIELD_MS, IN(proxy.hedge_ms), NULL, 0, SVC_INTERVAL_MS_MAX},
    {"coalesce", FIELD_BOOL, IN(proxy.coalesce), NULL, 0, 0},
    {"technique", FIELD_WORD, IN(proxy.technique), techniques, 0, 0},
};

/* The first word of a group says what the group is about: it may be written alone. */
static const char *const short_keys[][2] = {{"tls", "tls.mode"}, {"forwarded", "forwarded.mode"}};
#undef IN
#define IN(member) offsetof(struct svc_backend, member)
static const struct field backend_field_list[] = {
    {"address", FIELD_ADDRESS, IN(address), NULL, 0, 0},
    {"weight", FIELD_U16, IN(weight), NULL, 1, SVC_WEIGHT_MAX},
    {"node", FIELD_NAME, IN(node), NULL, 0, 0},
};
#undef IN

const char *svc_kind_name(unsigned kind)
{
    return field_word(kinds, kind);
}

const char *svc_admin_name(unsigned admin)
{
    return field_word(admins, admin);
}

const char *svc_origin_name(unsigned origin)
{
    return field_word(origins, origin);
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

static const struct field *find(const struct field *list, size_t count, const char *key)
{
    for (size_t i = 0; i < ARRAY_SIZE(short_keys); i++)
        if (strcmp(short_keys[i][0], key) == 0)
            key = short_keys[i][1];
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
    int result = field_read(f, target, text, hint);
    if (result)
        snprintf(err, SVC_ERROR_MAX, "%s: '%.40s' is not allowed; write %.150s", f->key, text, hint);
    return result;
}

int svc_field_set(struct svc *s, const char *key, const char *text, char err[SVC_ERROR_MAX])
{
    return set(find(svc_field_list, ARRAY_SIZE(svc_field_list), key), s, text, err);
}

/* Of what is not an IP address: see struct svc_backend. */
static void unix_address(const char *path, struct svc_address *out)
{
    uint64_t half[2] = {0xcbf29ce484222325, 0x84222325cbf29ce4};
    for (; *path; path++)
        for (int i = 0; i < 2; i++)
            half[i] = (half[i] ^ (uint8_t)*path ^ (uint64_t)i << 8) * 0x100000001b3;
    out->port = 0;
    for (int i = 0; i < 16; i++)
        out->ip[i] = (uint8_t)(half[i / 8] >> 8 * (i % 8));
}

static int set_unix(struct svc_backend *b, const char *path, char err[SVC_ERROR_MAX])
{
    if (!svc_unix_path_valid(path)) {
        snprintf(err, SVC_ERROR_MAX,
                 "address: 'unix:%.40s' is not allowed; write a path from / on of at most %d bytes without "
                 "blanks, as in unix:/run/docker.sock",
                 path, PLAN_UNIX_PATH_MAX - 1);
        return -EINVAL;
    }
    memcpy(b->unix_path, path, strlen(path) + 1);
    unix_address(path, &b->address);
    return 0;
}

bool svc_unix_path_valid(const char *path)
{
    size_t len = strlen(path);
    if (len < 2 || len >= PLAN_UNIX_PATH_MAX || path[0] != '/')
        return false;
    for (; *path; path++)
        if (*path <= ' ' || *path >= 0x7f)
            return false;
    return true;
}

int svc_backend_field_set(struct svc_backend *b, const char *key, const char *text, char err[SVC_ERROR_MAX])
{
    bool address = strcmp(key, "address") == 0;
    if (address && strncmp(text, unix_prefix, sizeof(unix_prefix) - 1) == 0)
        return set_unix(b, text + sizeof(unix_prefix) - 1, err);
    if (address)
        b->unix_path[0] = '\0';
    return set(find(backend_field_list, ARRAY_SIZE(backend_field_list), key), b, text, err);
}

const char *svc_field_text(const struct svc *s, const char *key, char out[SVC_TEXT_MAX])
{
    const struct field *f = find(svc_field_list, ARRAY_SIZE(svc_field_list), key);
    return f ? field_text(f, s, out) : NULL;
}

const char *svc_backend_field_text(const struct svc_backend *b, const char *key, char out[SVC_TEXT_MAX])
{
    const struct field *f = find(backend_field_list, ARRAY_SIZE(backend_field_list), key);
    if (f && f->type == FIELD_ADDRESS && svc_backend_is_unix(b)) {
        snprintf(out, SVC_TEXT_MAX, "%s%s", unix_prefix, b->unix_path);
        return out;
    }
    return f ? field_text(f, b, out) : NULL;
}

size_t svc_field_count(void)
{
    return ARRAY_SIZE(svc_field_list);
}

bool svc_field_is_proxys(size_t i)
{
    size_t at = svc_field_list[i].offset;
    return at == offsetof(struct svc, names) ||
           (at >= offsetof(struct svc, tls) && at < offsetof(struct svc, id));
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

enum svc_field_form svc_field_form(const char *key)
{
    const struct field *f = find(svc_field_list, ARRAY_SIZE(svc_field_list), key);
    if (!f)
        f = find(backend_field_list, ARRAY_SIZE(backend_field_list), key);
    if (!f)
        return SVC_FORM_TEXT;
    bool number = f->type == FIELD_U8 || f->type == FIELD_U16 || f->type == FIELD_U32;
    return f->type == FIELD_BOOL ? SVC_FORM_TRUTH : number ? SVC_FORM_NUMBER : SVC_FORM_TEXT;
}

void svc_backend_name_default(const struct svc_backend *b, char out[SVC_NAME_MAX + 1])
{
    size_t len = 0;
    if (!svc_backend_is_unix(b)) {
        char text[ADDRESS_TEXT_MAX];
        snprintf(out, SVC_NAME_MAX + 1, "%s", svc_address_text(&b->address, text));
        return;
    }
    for (const char *p = b->unix_path + 1; *p && len < SVC_NAME_MAX; p++)
        out[len++] = svc_name_valid((const char[]){'a', *p}, 2) ? *p : *p == '/' ? '.' : '_';
    if (out[0] == '-')
        out[0] = '_';
    out[len] = '\0';
}
