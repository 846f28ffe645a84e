/* SPDX-License-Identifier: Apache-2.0 */
#include "control/mirror/side.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/mirror/document.h"
#include "control/mirror/exchange.h"

enum {
    TRIES = 4,
    FIRST_WAIT_MS = 250,
    TOKEN_ROOM = 16 << 10,
    TOKEN_LIFE_S = 60, /* where a token server does not say */
    TOKEN_MARGIN_S = 10,
};

static void forget_authorization(struct side *s)
{
    if (s->authorization)
        explicit_bzero(s->authorization, strlen(s->authorization));
    free(s->authorization);
    s->authorization = NULL;
}

struct side *side_new(const struct side_config *config, struct carrier *carrier)
{
    struct side *s = calloc(1, sizeof(*s));
    CHECK(s);
    s->config = config;
    s->carrier = carrier;
    s->curl = curl_easy_init();
    if (s->curl)
        return s;
    free(s);
    return NULL;
}

void side_free(struct side *s)
{
    if (!s)
        return;
    forget_authorization(s);
    curl_easy_cleanup(s->curl);
    free(s);
}

void side_answer_free(struct side_answer *a)
{
    free(a->body);
    a->body = NULL;
    a->len = 0;
}

/* --- who asks --- */

/* Until it has ended, or its sink has something. */
static int perform(struct exchange *x, const char *url, const char *shown, char err[SIDE_ERROR_MAX])
{
    exchange_begin(x, url, shown);
    while (!x->ended && !x->begun)
        carrier_turn(x->side->carrier, CARRIER_TURN_MS);
    return x->ended ? exchange_end(x, err) : 0;
}

static int base64(const char *text, size_t len, char *out, size_t cap)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t n = 0;
    if ((len + 2) / 3 * 4 >= cap)
        return -E2BIG;
    for (size_t i = 0; i < len; i += 3) {
        uint32_t word = (uint32_t)(uint8_t)text[i] << 16;
        word |= i + 1 < len ? (uint32_t)(uint8_t)text[i + 1] << 8 : 0;
        word |= i + 2 < len ? (uint32_t)(uint8_t)text[i + 2] : 0;
        for (unsigned k = 0; k < 4; k++)
            out[n++] = i + k > len ? '=' : digits[word >> (18 - 6 * k) & 63];
    }
    out[n] = '\0';
    return 0;
}

/* The field for Basic; NULL without credentials. */
static char *basic_field(const struct side_config *c)
{
    char plain[2048], coded[3072], *field = NULL;
    if (!c->user)
        return NULL;
    int n = snprintf(plain, sizeof(plain), "%s:%s", c->user, c->password);
    if (n > 0 && (size_t)n < sizeof(plain) && base64(plain, (size_t)n, coded, sizeof(coded)) == 0)
        CHECK(asprintf(&field, "Authorization: Basic %s", coded) > 0);
    explicit_bzero(plain, sizeof(plain));
    explicit_bzero(coded, sizeof(coded));
    return field;
}

static bool token_take(struct side *s, const struct side_answer *a)
{
    json_t *root = a->body ? json_loadb(a->body, a->len, 0, NULL) : NULL;
    const char *token = json_string_value(json_object_get(root, "token"));
    json_int_t life = json_integer_value(json_object_get(root, "expires_in"));
    if (!token)
        token = json_string_value(json_object_get(root, "access_token"));
    size_t len = token ? strlen(token) : 0;
    bool good = len && len < TOKEN_ROOM && strcspn(token, "\r\n\t ") == len;
    if (good) {
        forget_authorization(s);
        CHECK(asprintf(&s->authorization, "Authorization: Bearer %s", token) > 0);
        life = life < TOKEN_LIFE_S ? TOKEN_LIFE_S : life > 86400 ? 86400 : life;
        s->token_until = time(NULL) + (time_t)life - TOKEN_MARGIN_S;
    }
    json_decref(root);
    return good;
}

/* Asks the server that the challenge names, which is the registry's word: so never in clear if the registry
 * itself is spoken to over TLS. */
static int token_fetch(struct side *s, const struct challenge *c, const char *scope, char err[SIDE_ERROR_MAX])
{
    char url[URL_ROOM], *basic;
    struct side_answer answer = {.status = 0};
    const struct side_request request = {.method = "GET", .accept = "application/json", .stay = true};
    snprintf(url, sizeof(url), "%s", c->realm);
    if (url_is_https(s->config->url) && !url_is_https(url)) {
        snprintf(err, SIDE_ERROR_MAX, "%s: its token server is not spoken to over TLS", s->config->name);
        return -EPERM;
    }
    if ((c->service[0] && !url_add(url, "service", c->service)) || !url_add(url, "scope", scope))
        return -EPERM;
    forget_authorization(s);
    struct exchange x = {.side = s, .request = &request, .out = &answer};
    basic = basic_field(s->config);
    int rc = perform(&x, url, basic, err);
    if (basic)
        explicit_bzero(basic, strlen(basic));
    free(basic);
    if (rc == 0 && (answer.status != 200 || !token_take(s, &answer))) {
        snprintf(err, SIDE_ERROR_MAX, "%s: the token server answered %ld", s->config->name, answer.status);
        rc = -EPERM;
    }
    side_answer_free(&answer);
    return rc;
}

/* What a token is for. */
static void scope_key(const struct side_request *r, char out[REPO_NAME_MAX + 16])
{
    snprintf(out, REPO_NAME_MAX + 16, "%s %s", r->write ? "w" : "r", r->repo ? r->repo : "*");
}

/* 0: again, with what was asked for; -EPERM: there is nothing to show, or it was refused. Nobody but the
 * registry is shown anything, or asked whom to show it to. */
int side_authorize(struct exchange *x, char err[SIDE_ERROR_MAX])
{
    struct side *s = x->side;
    const struct side_request *r = x->request;
    const struct challenge c = x->challenge;
    char scope[CHALLENGE_SCOPE_MAX];
    if (!url_same_origin(x->out->url, s->config->url))
        return -EPERM;
    if (r->repo)
        snprintf(scope, sizeof(scope), "repository:%s:%s", r->repo, r->write ? "pull,push" : "pull");
    else
        snprintf(scope, sizeof(scope), "registry:catalog:*");
    scope_key(r, s->token_for);
    if (c.bearer)
        return token_fetch(s, &c, c.scope[0] ? c.scope : scope, err);
    forget_authorization(s);
    s->token_until = 0;
    s->authorization = c.basic ? basic_field(s->config) : NULL;
    snprintf(err, SIDE_ERROR_MAX, "%s: it wants credentials", s->config->name);
    return s->authorization ? 0 : -EPERM;
}

/* A token for something else, or too old, is of no use. Basic is good for everything. */
static void authorization_look(struct side *s, const struct side_request *r)
{
    char key[REPO_NAME_MAX + 16];
    scope_key(r, key);
    if (s->token_until && (strcmp(key, s->token_for) != 0 || time(NULL) >= s->token_until))
        forget_authorization(s);
}

static void url_of(const struct exchange *x, char url[URL_ROOM])
{
    const char *path = x->request->path;
    snprintf(url, URL_ROOM, "%s%s", path[0] == '/' ? x->side->config->url : "", path);
}

static const char *shown_to(const struct side *s, const char *url)
{
    return url_same_origin(url, s->config->url) ? s->authorization : NULL;
}

void side_send(struct exchange *x)
{
    char url[URL_ROOM];
    url_of(x, url);
    authorization_look(x->side, x->request);
    exchange_begin(x, url, shown_to(x->side, url));
}

int side_begin(struct exchange *x, char err[SIDE_ERROR_MAX])
{
    char url[URL_ROOM];
    url_of(x, url);
    authorization_look(x->side, x->request);
    int rc = perform(x, url, shown_to(x->side, url), err);
    if (rc || x->active || x->out->status != 401)
        return rc;
    rc = side_authorize(x, err);
    return rc == -EPERM ? 0 : rc ? rc : perform(x, url, shown_to(x->side, url), err); /* a 401 says it, too */
}

static bool is_later(long status)
{
    return status == 408 || status == 429 || status == 500 || status == 502 || status == 503 || status == 504;
}

int side_ask(struct side *s, const struct side_request *request, struct side_answer *out,
             char err[SIDE_ERROR_MAX])
{
    struct exchange x = {.side = s, .request = request, .out = out};
    int rc = -EIO;
    memset(out, 0, sizeof(*out));
    for (unsigned i = 0; i < TRIES; i++) {
        if (i)
            side_wait(i, out->retry_after_s);
        rc = side_begin(&x, err);
        if (request->once || rc == -EFBIG || (rc == 0 && !is_later(out->status)))
            break;
    }
    if (rc)
        side_answer_free(out);
    return rc;
}

int side_refused(const struct side *s, const struct side_answer *a, const char *what,
                 char err[SIDE_ERROR_MAX])
{
    char why[300];
    int len = (int)strcspn(a->location, "?"); /* what is behind it may be a signature, which opens the door */
    if (a->status >= 300 && a->status < 400)
        snprintf(why, sizeof(why), "it says to ask elsewhere: %.*s", len < 200 ? len : 200, a->location);
    else
        document_error(a->body, a->len, why, sizeof(why));
    snprintf(err, SIDE_ERROR_MAX, "%s: %.120s: status %ld%s%s", s->config->name, what, a->status,
             *why ? ": " : "", why);
    return is_later(a->status) ? -EIO : -EPERM;
}

void side_wait(unsigned n, long retry_after_s)
{
    uint64_t ms = FIRST_WAIT_MS;
    for (unsigned i = 1; i < n && ms < 8000; i++)
        ms *= 2;
    if (retry_after_s > 0)
        ms = (uint64_t)retry_after_s * 1000;
    struct timespec t = {.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000};
    nanosleep(&t, NULL);
}
