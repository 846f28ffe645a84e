/* SPDX-License-Identifier: Apache-2.0 */
/* Sources as fields and as bytes. */
#include "control/state/source.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>

#include "check.h"
#include "cmd.h"
#include "control/state/codec.h"
#include "control/state/state.h"

enum { CODEC_VERSION = 1, COMMAND_ROOM = 16384, FLAG_TLS = 1, FLAG_PUSH = 2, FLAGS_ALL = 3 };

static bool prefix_valid(const char *text);
static bool name_valid(const char *text);
static bool backends_valid(const char *text);
static bool domain_valid(const char *text);
static bool token_server_valid(const char *text);
static bool hosts_valid(const char *text);

#define AT(member)   offsetof(struct source, member)
#define ROOM(member) sizeof(((struct source *)0)->member)
static const struct row {
    const char *key;
    size_t offset, cap; /* of a text, with its NUL; 0: it is a yes or no */
    bool (*valid)(const char *text);
    const char *hint;
} rows[] = {
    {"upstream", AT(upstream), ROOM(upstream), prefix_valid,
     "the beginning of repositories' names there, as in library/"},
    {"service", AT(service), ROOM(service), name_valid, "the name of a service with path: proxy"},
    {"backends", AT(backends), ROOM(backends), backends_valid,
     "at most 8 hosts with commas between them, as in registry.example or 192.0.2.1:5000"},
    {"tls", AT(tls), 0, NULL, "true or false"},
    {"ca", AT(ca), ROOM(ca), name_valid, "a name of the section certificates"},
    {"server_name", AT(server_name), ROOM(server_name), domain_valid, "a host's name"},
    {"push", AT(push), 0, NULL, "true or false"},
    {"credentials", AT(credentials), ROOM(credentials), name_valid, "a name of the section credentials"},
    {"token_server", AT(token_server), ROOM(token_server), token_server_valid,
     "the beginning of its URL, as in https://auth.example.com/"},
    {"redirect_hosts", AT(redirect_hosts), ROOM(redirect_hosts), hosts_valid,
     "at most 16 hosts with commas between them, as in cdn.example.com,*.example.com"},
};
#undef AT
#undef ROOM

void source_init(struct source *s, const char *prefix)
{
    memset(s, 0, sizeof(*s));
    if (strlen(prefix) <= REPO_NAME_MAX)
        memcpy(s->prefix, prefix, strlen(prefix));
    s->origin = SOURCE_FROM_API;
}

void source_table_fini(struct source_table *t)
{
    free(t->list);
    *t = (struct source_table){.count = 0};
}

struct source *source_find(const struct source_table *t, const char *prefix)
{
    for (size_t i = 0; i < t->count; i++)
        if (strcmp(t->list[i].prefix, prefix) == 0)
            return &t->list[i];
    return NULL;
}

void source_table_add(struct source_table *t, const struct source *s)
{
    t->list = reallocarray(t->list, t->count + 1, sizeof(*t->list));
    CHECK(t->list);
    t->list[t->count++] = *s;
}

/* --- what texts can be --- */

bool source_item_next(const char **list, const char **item, size_t *len)
{
    if (!**list)
        return false;
    *item = *list;
    *len = strcspn(*item, ",");
    *list += *len + ((*item)[*len] == ',');
    return true;
}

/* Components as in a repository's name, each with a '/' behind it, so that no name is cut in the middle. */
static bool prefix_valid(const char *text)
{
    size_t len = strlen(text);
    if (len == 0 || len >= REPO_NAME_MAX || text[0] == '/' || text[len - 1] != '/' || strstr(text, "//"))
        return false;
    return strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789._-/") == len;
}

static bool name_valid(const char *text)
{
    return svc_name_valid(text, strlen(text));
}

static bool domain_valid(const char *text)
{
    size_t len = strlen(text);
    return len < PLAN_DOMAIN_MAX && text[0] != '.' && text[0] != '-' &&
           strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._") == len;
}

static bool token_server_valid(const char *text)
{
    size_t scheme = strncmp(text, "https://", 8) == 0 ? 8 : strncmp(text, "http://", 7) == 0 ? 7 : 0;
    for (const char *p = text; *p; p++)
        if (*p <= ' ' || *p >= 0x7f)
            return false;
    return scheme && text[scheme] && !strpbrk(text + scheme, "@#?\\");
}

static bool host_valid(const char *text, size_t len)
{
    static const char chars[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._:";
    bool wild = len > 2 && text[0] == '*' && text[1] == '.';
    for (size_t i = wild; i < len; i++)
        if (!memchr(chars, text[i], sizeof(chars) - 1))
            return false;
    return len > 0 && len < PLAN_DOMAIN_MAX;
}

static bool hosts_valid(const char *text)
{
    const char *item;
    size_t len, count = 0;
    bool good = text[0] && text[strlen(text) - 1] != ',';
    while (good && source_item_next(&text, &item, &len))
        good = ++count <= SOURCE_HOSTS_MAX && host_valid(item, len);
    return good;
}

/* --- backends --- */

static bool port_read(const char *text, size_t len, uint16_t *out)
{
    uint32_t port = 0;
    if (len == 0 || len > 5 || text[0] == '0')
        return false;
    for (size_t i = 0; i < len; i++) {
        if (text[i] < '0' || text[i] > '9')
            return false;
        port = port * 10 + (uint32_t)(text[i] - '0');
    }
    *out = (uint16_t)port;
    return port <= UINT16_MAX;
}

/* HOST, HOST:PORT, [ADDRESS] or [ADDRESS]:PORT. Without a port it stays as it is. */
static bool backend_read(const char *item, size_t len, struct source_backend *out)
{
    uint8_t ip[16];
    bool brackets = len && item[0] == '[';
    const char *end = brackets ? memchr(item, ']', len) : memchr(item, ':', len);
    size_t host_len = end ? (size_t)(end - item) - brackets : len;
    const char *rest = end ? end + brackets : item + len;
    if ((brackets && !end) || host_len == 0 || host_len >= sizeof(out->host))
        return false;
    memcpy(out->host, item + brackets, host_len);
    out->host[host_len] = '\0';
    out->is_address = inet_pton(brackets ? AF_INET6 : AF_INET, out->host, ip) == 1;
    if (brackets ? !out->is_address : !domain_valid(out->host))
        return false;
    if (rest == item + len)
        return true;
    return *rest == ':' && port_read(rest + 1, (size_t)(item + len - rest) - 1, &out->port);
}

static bool backends_valid(const char *text)
{
    struct source_backend b = {.port = 0};
    const char *item;
    size_t len, count = 0;
    bool good = text[0] && text[strlen(text) - 1] != ',';
    while (good && source_item_next(&text, &item, &len))
        good = ++count <= SOURCE_BACKENDS_MAX && backend_read(item, len, &b);
    return good;
}

bool source_backend_next(const struct source *s, size_t *at, struct source_backend *out)
{
    const char *list = s->backends + *at, *item;
    size_t len;
    *out = (struct source_backend){.port = s->tls ? 443 : 80};
    if (!source_item_next(&list, &item, &len))
        return false;
    *at = (size_t)(list - s->backends);
    return backend_read(item, len, out);
}

/* --- fields --- */

static const struct row *row_find(const char *key)
{
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        if (strcmp(rows[i].key, key) == 0)
            return &rows[i];
    return NULL;
}

int source_field_set(struct source *s, const char *key, const char *text, char err[SOURCE_ERROR_MAX])
{
    const struct row *row = row_find(key);
    if (!row)
        return -ENOENT;
    char *at = (char *)s + row->offset;
    bool yes = strcmp(text, "true") == 0, no = *text == '\0' || strcmp(text, "false") == 0;
    bool good = row->cap ? *text == '\0' || (strlen(text) < row->cap && row->valid(text)) : yes || no;
    if (!good) {
        snprintf(err, SOURCE_ERROR_MAX, "%s: '%.60s' is not allowed; write %s", key, text, row->hint);
        return -EINVAL;
    }
    if (row->cap) {
        memset(at, 0, row->cap);
        memcpy(at, text, strlen(text));
    } else {
        memcpy(at, &yes, sizeof(yes));
    }
    return 0;
}

static const char *row_text(const struct source *s, const struct row *row)
{
    const char *at = (const char *)s + row->offset;
    return row->cap ? at : *at ? "true" : "false";
}

const char *source_field_text(const struct source *s, const char *key)
{
    const struct row *row = row_find(key);
    return row ? row_text(s, row) : NULL;
}

size_t source_field_count(void)
{
    return ARRAY_SIZE(rows);
}

const char *source_field_key(size_t i)
{
    return rows[i].key;
}

static int wrong(char *err, size_t err_len, const char *text)
{
    snprintf(err, err_len, "%s", text);
    return -EINVAL;
}

/* Whether all backends have the same name, or none: it is the one that is asked for, and has to be proven. */
static bool names_agree(const struct source *s)
{
    struct source_backend b;
    char name[PLAN_DOMAIN_MAX] = "";
    for (size_t at = 0; source_backend_next(s, &at, &b);) {
        if (b.is_address)
            continue;
        if (name[0] && strcmp(name, b.host) != 0)
            return false;
        memcpy(name, b.host, sizeof(name));
    }
    return true;
}

int source_check(const struct source *s, char *err, size_t err_len)
{
    if (!prefix_valid(s->prefix))
        return wrong(err, err_len,
                     "prefix: write the beginning of repositories' names, as in hub/ or mirror/hub/");
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        const char *text = row_text(s, &rows[i]);
        if (!rows[i].cap || !*text || rows[i].valid(text))
            continue;
        snprintf(err, err_len, "%s: write %s", rows[i].key, rows[i].hint);
        return -EINVAL;
    }
    if (!s->service[0] == !s->backends[0])
        return wrong(err, err_len,
                     "write the registry's backends, as in registry.example, or the name of a service with "
                     "path: proxy, and not both");
    if (s->service[0] && (s->tls || s->ca[0] || s->server_name[0]))
        return wrong(err, err_len,
                     "tls, ca, server_name: the service itself says how its backends are asked");
    if (s->ca[0] && !s->tls)
        return wrong(err, err_len, "ca: that is nothing without tls");
    if (!s->server_name[0] && !names_agree(s))
        return wrong(
            err, err_len,
            "server_name: the backends have different names; write the one that all of them answer to");
    return 0;
}

bool source_same(const struct source *a, const struct source *b)
{
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        if (strcmp(row_text(a, &rows[i]), row_text(b, &rows[i])) != 0)
            return false;
    return strcmp(a->prefix, b->prefix) == 0;
}

const char *source_origin_name(uint8_t origin)
{
    return origin == SOURCE_FROM_FILE ? "file" : "api";
}

/* FNV-1a. */
uint64_t source_id(const struct source *s)
{
    uint64_t hash = 0xcbf29ce484222325;
    for (const char *p = s->prefix; *p; p++)
        hash = (hash ^ (uint8_t)*p) * 0x100000001b3;
    return hash | 1;
}

/* --- as bytes --- */

void source_put(struct wire_writer *w, const struct source *s)
{
    wire_put_u8(w, CODEC_VERSION);
    codec_put_text(w, s->prefix);
    wire_put_u8(w, (uint8_t)((s->tls ? FLAG_TLS : 0) | (s->push ? FLAG_PUSH : 0)));
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        if (rows[i].cap)
            codec_put_text(w, row_text(s, &rows[i]));
}

void source_get(struct wire_reader *r, struct source *s)
{
    memset(s, 0, sizeof(*s));
    codec_get_version(r, CODEC_VERSION);
    codec_get_text(r, s->prefix, sizeof(s->prefix));
    uint32_t flags = codec_get_range(r, 1, 0, FLAGS_ALL);
    s->tls = flags & FLAG_TLS;
    s->push = flags & FLAG_PUSH;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        if (rows[i].cap)
            codec_get_text(r, (char *)s + rows[i].offset, rows[i].cap);
}

static struct wire_writer cmd_new(const char *actor, const char *from, enum cmd_type type)
{
    struct cmd_head head = {.type = (uint16_t)type,
                            .actor = actor,
                            .actor_len = strlen(actor),
                            .source = from,
                            .source_len = strlen(from),
                            .request_id = ""};
    struct wire_writer w = {.buf = malloc(COMMAND_ROOM), .cap = COMMAND_ROOM};
    CHECK(w.buf);
    cmd_put_head(&w, &head);
    return w;
}

void *source_cmd_set(const char *actor, const char *from, uint64_t revision, enum source_origin origin,
                     const struct source *s, size_t *len)
{
    struct wire_writer w = cmd_new(actor, from, CMD_SOURCE_SET);
    wire_put_u64(&w, revision);
    wire_put_u8(&w, (uint8_t)origin);
    source_put(&w, s);
    CHECK(!w.failed);
    *len = w.len;
    return w.buf;
}

void *source_cmd_rm(const char *actor, const char *from, enum source_origin origin, const char *prefix,
                    size_t *len)
{
    struct wire_writer w = cmd_new(actor, from, CMD_SOURCE_RM);
    wire_put_u8(&w, (uint8_t)origin);
    wire_put_bytes(&w, prefix, strlen(prefix));
    CHECK(!w.failed);
    *len = w.len;
    return w.buf;
}
