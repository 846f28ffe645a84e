/* SPDX-License-Identifier: Apache-2.0 */
/* Endpoints and notices as bytes, and what an endpoint wants. */
#include "control/state/notice.h"

#include <stdio.h>
#include <stdlib.h>

#include "check.h"
#include "control/state/codec.h"
#include "control/state/policy.h"
#include "control/state/state.h"
#include "names_policy.h"

enum {
    ENDPOINT_CODEC_VERSION = 3,
    ENDPOINT_CODEC_CA = 2,
    ENDPOINT_CODEC_CREDENTIALS = 3,
    NOTICE_CODEC_VERSION = 1
};

const char *const notice_actions[NOTICE_ACTIONS_COUNT] = {
    [NOTICE_PUSH] = "push", [NOTICE_DELETE] = "delete", [NOTICE_MOUNT] = "mount", [NOTICE_PULL] = "pull"};

void endpoint_fini(struct endpoint *e)
{
    for (uint32_t i = 0; i < e->headers_count; i++) {
        explicit_bzero(e->header[i], strlen(e->header[i]));
        free(e->header[i]);
        e->header[i] = NULL;
    }
    e->headers_count = 0;
    free(e->ca);
    e->ca = NULL;
}

void endpoint_table_fini(struct endpoint_table *t)
{
    for (size_t i = 0; i < t->count; i++)
        endpoint_fini(&t->list[i]);
    free(t->list);
    *t = (struct endpoint_table){.count = 0};
}

const struct endpoint *endpoint_find(const struct endpoint_table *t, const char *name)
{
    for (size_t i = 0; i < t->count; i++)
        if (strcmp(t->list[i].name, name) == 0)
            return &t->list[i];
    return NULL;
}

/* --- what can be --- */

bool endpoint_name_valid(const char *name, size_t len)
{
    return len && len <= ENDPOINT_NAME_MAX && svc_name_valid(name, len);
}

static bool url_valid(const char *url)
{
    bool known = strncmp(url, "http://", 7) == 0 || strncmp(url, "https://", 8) == 0;
    for (const char *p = url; *p; p++)
        if (*p <= ' ' || *p >= 0x7f)
            return false;
    const char *host = known ? strstr(url, "://") + 3 : "";
    return *host && *host != '/' && !strchr(host, '@');
}

/* RFC 9110, 5.1 and 5.5: a token, a colon, and no control characters. */
static bool header_valid(const char *text)
{
    size_t name =
        strspn(text, "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ");
    if (name == 0 || text[name] != ':')
        return false;
    for (const char *p = text + name; *p; p++)
        if (((unsigned char)*p < ' ' && *p != '\t') || *p == 0x7f)
            return false;
    return true;
}

/* What this side says of its requests itself. */
static bool header_reserved(const char *text)
{
    static const char *const ours[] = {"content-type:", "content-length:", "transfer-encoding:", "host:"};
    for (size_t i = 0; i < ARRAY_SIZE(ours); i++)
        if (strncasecmp(text, ours[i], strlen(ours[i])) == 0)
            return true;
    return false;
}

static int wrong(char *err, size_t err_len, const char *text)
{
    snprintf(err, err_len, "%s", text);
    return -EINVAL;
}

int endpoint_check(const struct endpoint *e, char *err, size_t err_len)
{
    const char *prefix = e->row.prefix;
    if (!endpoint_name_valid(e->name, strlen(e->name)))
        return wrong(err, err_len, "a name has 1 to 63 letters, digits, '.', '_', '-' and ':'");
    if (!url_valid(e->url))
        return wrong(
            err, err_len,
            "url: write http:// or https://, a host and a path, as in https://hooks.example/registry; "
            "user and password go into a header");
    if (*prefix && !state_repo_name_valid(prefix, strlen(prefix)))
        return wrong(err, err_len, "prefix: write components of a repository's name, as in team/app");
    if ((e->row.actions & ENDPOINT_ACTIONS) == 0 ||
        e->row.actions & ~(uint32_t)(ENDPOINT_ACTIONS | ENDPOINT_IGNORE))
        return wrong(err, err_len, "actions: write some of push,delete,mount,pull");
    if (e->ca && (!strstr(e->ca, "-----BEGIN CERTIFICATE-----") || strlen(e->ca) > ENDPOINT_CA_MAX))
        return wrong(err, err_len, "ca: give certificates as PEM, 16 KiB at most");
    if (e->credentials[0] && !endpoint_name_valid(e->credentials, strlen(e->credentials)))
        return wrong(err, err_len, "credentials: write the name of credentials of the configuration files");
    if (!policy_patterns_valid(e->row.media_types, strlen(e->row.media_types)))
        return wrong(err, err_len, "media_types: write patterns with commas between them");
    for (uint32_t i = 0; i < e->headers_count; i++) {
        if (!header_valid(e->header[i]))
            return wrong(err, err_len, "headers: write Name: value, as in Authorization: Bearer TOKEN");
        if (header_reserved(e->header[i]))
            return wrong(err, err_len, "headers: Content-Type, Content-Length and Host are set already");
    }
    return 0;
}

/* --- as bytes --- */

void endpoint_put(struct wire_writer *w, const struct endpoint *e)
{
    /* Older nodes know it, where they can. */
    wire_put_u8(w, e->credentials[0] ? ENDPOINT_CODEC_CREDENTIALS : e->ca ? ENDPOINT_CODEC_CA : 1);
    codec_put_text(w, e->name);
    wire_put_u32(w, e->row.actions);
    codec_put_text(w, e->row.prefix);
    codec_put_text(w, e->row.media_types);
    codec_put_text(w, e->url);
    wire_put_u32(w, e->headers_count);
    for (uint32_t i = 0; i < e->headers_count; i++)
        codec_put_text(w, e->header[i]);
    if (e->ca || e->credentials[0])
        codec_put_text(w, e->ca ? e->ca : "");
    if (e->credentials[0])
        codec_put_text(w, e->credentials);
}

/* A text without a NUL in it; NULL, and the reader fails, where there is none. */
static char *get_long_text(struct wire_reader *r, size_t max)
{
    size_t len;
    const uint8_t *data = wire_get_bytes(r, &len);
    if (r->failed || len > max || (len && memchr(data, 0, len))) {
        r->failed = true;
        return NULL;
    }
    char *text = strndup(len ? (const char *)data : "", len);
    CHECK(text);
    return text;
}

void endpoint_get(struct wire_reader *r, struct endpoint *e)
{
    memset(e, 0, sizeof(*e));
    e->row.version = ENDPOINT_VERSION;
    uint8_t version = codec_get_version(r, ENDPOINT_CODEC_VERSION);
    codec_get_text(r, e->name, sizeof(e->name));
    e->row.actions = wire_get_u32(r);
    codec_get_text(r, e->row.prefix, sizeof(e->row.prefix));
    codec_get_text(r, e->row.media_types, sizeof(e->row.media_types));
    codec_get_text(r, e->url, sizeof(e->url));
    uint32_t count = codec_get_range(r, 4, 0, ENDPOINT_HEADERS_MAX);
    for (uint32_t i = 0; i < count && !r->failed; i++) {
        char *text = get_long_text(r, ENDPOINT_HEADER_MAX);
        if (text)
            e->header[e->headers_count++] = text;
    }
    if (version >= ENDPOINT_CODEC_CA)
        e->ca = get_long_text(r, ENDPOINT_CA_MAX);
    if (version < ENDPOINT_CODEC_CREDENTIALS)
        return;
    codec_get_text(r, e->credentials, sizeof(e->credentials));
    if (e->ca && !e->ca[0]) {
        free(e->ca);
        e->ca = NULL;
    }
}

static void put_text(struct wire_writer *w, struct notice_text t)
{
    wire_put_bytes(w, t.data, t.len);
}

static struct notice_text get_text(struct wire_reader *r)
{
    struct notice_text t;
    t.data = (const char *)wire_get_bytes(r, &t.len);
    return t;
}

void notice_put(struct wire_writer *w, const struct notice *n)
{
    wire_put_u8(w, NOTICE_CODEC_VERSION);
    wire_put_u8(w, n->action);
    wire_put_u64(w, n->time_ms);
    put_text(w, n->repo);
    put_text(w, n->tag);
    put_text(w, n->from);
    put_text(w, n->media_type);
    put_text(w, n->actor);
    put_text(w, n->source);
    put_text(w, n->request_id);
    wire_put_u64(w, n->size);
    wire_put_u8(w, n->digest.alg != DIGEST_NONE);
    if (n->digest.alg != DIGEST_NONE)
        cmd_put_digest(w, &n->digest);
}

int notice_get(const void *data, size_t len, struct notice *n)
{
    struct wire_reader r = {.buf = data, .len = len};
    struct notice_at at = n->at;
    memset(n, 0, sizeof(*n));
    n->at = at;
    codec_get_version(&r, NOTICE_CODEC_VERSION);
    n->action = (uint8_t)codec_get_range(&r, 1, 0, NOTICE_MOUNT);
    n->time_ms = wire_get_u64(&r);
    n->repo = get_text(&r);
    n->tag = get_text(&r);
    n->from = get_text(&r);
    n->media_type = get_text(&r);
    n->actor = get_text(&r);
    n->source = get_text(&r);
    n->request_id = get_text(&r);
    n->size = wire_get_u64(&r);
    if (codec_get_bool(&r))
        cmd_get_digest(&r, &n->digest);
    return wire_at_end(&r) ? 0 : -EUCLEAN;
}

bool notice_wanted(const struct names_endpoint *e, const struct notice *n)
{
    if (!(e->actions >> n->action & 1) ||
        !policy_covers(e->prefix, strlen(e->prefix), n->repo.data, n->repo.len))
        return false;
    /* What is deleted has no type any more. */
    return e->media_types[0] == '\0' || n->media_type.len == 0 ||
           pattern_match(e->media_types, n->media_type.data, n->media_type.len);
}

bool notice_pull_wanted(const struct names_endpoint *e, const struct pull *p)
{
    struct notice n = {.action = NOTICE_PULL,
                       .repo = {p->repo.data, p->repo.len},
                       .media_type = {p->media_type.data, p->media_type.len}};
    if ((p->bits & PULL_HEAD && e->actions & ENDPOINT_IGNORE_HEAD) ||
        (p->bits & PULL_BLOB && e->actions & ENDPOINT_IGNORE_BLOB))
        return false;
    return notice_wanted(e, &n);
}
