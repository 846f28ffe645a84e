/* SPDX-License-Identifier: Apache-2.0 */
#include "control/challenge.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "check.h"

enum { NAME_MAX_BYTES = 64, VALUE_MAX = 1024 };

/* What is left of the text. */
struct rest {
    const char *p, *end;
};

/* One `name = value`, or a scheme. */
struct word {
    char name[NAME_MAX_BYTES];
    bool has_value;
    char value[VALUE_MAX];
};

/* ------------------------------------------------------------------ words */

static bool is_token(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (c != '\0' && strchr("!#$%&'*+-.^_`|~", c));
}

static void skip(struct rest *r, const char *chars)
{
    while (r->p < r->end && *r->p != '\0' && strchr(chars, *r->p))
        r->p++;
}

/* A run of characters of a token, or of base64, into out. False: there is none, or it is too long. */
static bool take_token(struct rest *r, char *out, size_t cap)
{
    size_t len = 0;
    while (r->p < r->end && (is_token(*r->p) || *r->p == '/')) {
        if (len + 1 == cap)
            return false;
        out[len++] = *r->p++;
    }
    out[len] = '\0';
    return len > 0;
}

static bool take_quoted(struct rest *r, char *out, size_t cap)
{
    size_t len = 0;
    for (r->p++; r->p < r->end && *r->p != '"'; r->p++) {
        if (*r->p == '\\' && ++r->p == r->end)
            return false;
        if ((unsigned char)*r->p < ' ' || *r->p == 0x7f || len + 1 == cap)
            return false;
        out[len++] = *r->p;
    }
    if (r->p == r->end)
        return false;
    r->p++;
    out[len] = '\0';
    return true;
}

/* base64 may end with '=' and is no name. */
static bool take_word(struct rest *r, struct word *w)
{
    w->has_value = false;
    w->value[0] = '\0';
    if (!take_token(r, w->name, sizeof(w->name)))
        return false;
    struct rest at = *r;
    skip(&at, " \t");
    if (at.p == at.end || *at.p != '=')
        return true;
    at.p++;
    skip(&at, " \t");
    *r = at;
    w->has_value = true;
    if (at.p == at.end || *at.p == ',' || *at.p == '=') {
        skip(r, "=");
        return true;
    }
    return *r->p == '"' ? take_quoted(r, w->value, sizeof(w->value))
                        : take_token(r, w->value, sizeof(w->value));
}

/* ------------------------------------------------------------------ schemes */

/* What stands twice could mean two things. */
static bool set(char *field, size_t cap, const char *value)
{
    if (field[0] || strlen(value) >= cap)
        return false;
    snprintf(field, cap, "%s", value);
    return true;
}

static bool parameter(struct challenge *out, const struct word *w)
{
    if (strcasecmp(w->name, "realm") == 0)
        return set(out->realm, sizeof(out->realm), w->value);
    if (strcasecmp(w->name, "service") == 0)
        return set(out->service, sizeof(out->service), w->value);
    if (strcasecmp(w->name, "scope") == 0)
        return set(out->scope, sizeof(out->scope), w->value);
    return true;
}

/* Behind a scheme and a blank may stand base64, which looks like a scheme. */
static bool is_separated(const struct rest *r)
{
    return r->p == r->end || *r->p == ',' || *r->p == ' ' || *r->p == '\t';
}

int challenge_read(const char *text, size_t len, struct challenge *out)
{
    struct rest r = {text, text + len};
    struct word w;
    bool in_bearer = false, after_scheme = false;
    memset(out, 0, sizeof(*out));
    for (;;) {
        const char *before = r.p;
        skip(&r, " \t,");
        bool comma = after_scheme && before < r.p && memchr(before, ',', (size_t)(r.p - before));
        if (r.p == r.end)
            break;
        if (!take_word(&r, &w) || !is_separated(&r))
            return -EINVAL;
        if (w.has_value) {
            if (in_bearer && !parameter(out, &w))
                return -EINVAL;
            after_scheme = false;
        } else if (after_scheme && !comma) {
            after_scheme = false; /* base64 */
        } else {
            after_scheme = true;
            in_bearer = !out->bearer && strcasecmp(w.name, "Bearer") == 0;
            out->bearer |= in_bearer;
            out->basic |= strcasecmp(w.name, "Basic") == 0;
        }
    }
    return out->bearer || out->basic ? 0 : -EINVAL;
}

/* ------------------------------------------------------------------ the question */

struct url {
    char *out;
    size_t len;
    bool too_long;
};

static void put_char(struct url *u, char c)
{
    if (u->len + 1 >= CHALLENGE_URL_MAX)
        u->too_long = true;
    else
        u->out[u->len++] = c;
}

static void put_text(struct url *u, const char *text)
{
    while (*text)
        put_char(u, *text++);
}

static void put_value(struct url *u, const char *name, const char *value, size_t len)
{
    static const char hex[] = "0123456789ABCDEF";
    put_char(u, memchr(u->out, '?', u->len) ? '&' : '?');
    put_text(u, name);
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)value[i];
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                     (c && strchr("-._~:/,", c));
        if (plain) {
            put_char(u, (char)c);
        } else {
            put_char(u, '%');
            put_char(u, hex[c >> 4]);
            put_char(u, hex[c & 15]);
        }
    }
}

/* Whether "pull" is among the actions [p, end). */
static bool has_pull(const char *p, const char *end)
{
    while (p < end) {
        size_t n = strcspn(p, ", ");
        if (n == 4 && memcmp(p, "pull", 4) == 0)
            return true;
        p += n + (p + n < end);
    }
    return false;
}

/* repository:NAME:ACTIONS becomes repository:NAME:pull, or nothing; a word without colons stays as it is. */
static void put_scope(struct url *u, const char *scope, size_t len)
{
    char text[CHALLENGE_SCOPE_MAX + 8];
    const char *end = scope + len, *last = end;
    const char *first = memchr(scope, ':', len);
    while (last > scope && last[-1] != ':')
        last--;
    if (!first) {
        put_value(u, "scope=", scope, len);
        return;
    }
    if (first == last - 1 || strncmp(scope, "repository", 10) != 0 || !has_pull(last, end))
        return;
    int n = snprintf(text, sizeof(text), "%.*spull", (int)(last - scope), scope);
    put_value(u, "scope=", text, n > 0 ? (size_t)n : 0);
}

static void put_scopes(struct url *u, const char *scopes, const char *repo)
{
    char own[CHALLENGE_SCOPE_MAX];
    if (!scopes[0]) {
        int n = snprintf(own, sizeof(own), "repository:%s:pull", repo);
        put_value(u, "scope=", own, n > 0 && (size_t)n < sizeof(own) ? (size_t)n : 0);
        return;
    }
    while (*scopes) {
        size_t n = strcspn(scopes, " ");
        if (n)
            put_scope(u, scopes, n);
        scopes += n + (scopes[n] == ' ');
    }
}

/* Its host, and nothing in it that two readers could take for two hosts. */
static const char *realm_problem(const char *realm, bool *secure)
{
    *secure = strncasecmp(realm, "https://", 8) == 0;
    if (!*secure && strncasecmp(realm, "http://", 7) != 0)
        return "the realm is no URL of http or https";
    const char *host = realm + (*secure ? 8 : 7);
    for (const char *p = realm; *p; p++)
        if ((unsigned char)*p <= ' ' || (unsigned char)*p >= 0x7f || strchr("\\#\"<>", *p))
            return "the realm has characters that no URL has";
    size_t len = strcspn(host, "/?");
    if (!len || memchr(host, '@', len))
        return "the realm has no host, or a user";
    return NULL;
}

bool challenge_url(const struct challenge *c, const char *repo, char out[CHALLENGE_URL_MAX], bool *secure,
                   const char **why)
{
    struct url u = {.out = out};
    *why = realm_problem(c->realm, secure);
    if (*why)
        return false;
    put_text(&u, c->realm);
    if (c->service[0])
        put_value(&u, "service=", c->service, strlen(c->service));
    put_scopes(&u, c->scope, repo);
    out[u.len] = '\0';
    if (u.too_long)
        *why = "the question would be too long";
    return !u.too_long;
}
