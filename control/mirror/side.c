/* SPDX-License-Identifier: Apache-2.0 */
#include "control/mirror/side.h"

#ifndef INT_MAX /* libcurl's headers mean the system's <limits.h> and find ours */
#define INT_MAX __INT_MAX__
#endif

#include <curl/curl.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "check.h"
#include "control/challenge.h"
#include "control/mirror/document.h"

enum {
    CONNECT_MS = 10000,
    SLOW_S = 60, /* with hardly a byte */
    SLOW_BYTES = 100,
    TALK_MS = 300000, /* the most for what is no blob */
    REDIRECTS_MAX = 5,
    TRIES = 4,
    FIRST_WAIT_MS = 250,
    WAIT_MAX_S = 60,
    TOKEN_ROOM = 16 << 10,
    TOKEN_LIFE_S = 60, /* where a token server does not say */
    TOKEN_MARGIN_S = 10,
};

struct side {
    const struct side_config *config;
    CURL *curl;
    char *authorization; /* the field, malloc'd; NULL: nobody asked for it yet */
    char token_for[REPO_NAME_MAX + 16];
    time_t token_until; /* 0: it is good for ever */
    char message[CURL_ERROR_SIZE];
};

struct exchange {
    struct side *side;
    const struct side_request *request;
    struct side_answer *out;
    struct challenge challenge;
    bool too_long, cancelled;
};

static void forget_authorization(struct side *s)
{
    if (s->authorization)
        explicit_bzero(s->authorization, strlen(s->authorization));
    free(s->authorization);
    s->authorization = NULL;
}

struct side *side_new(const struct side_config *config)
{
    struct side *s = calloc(1, sizeof(*s));
    CHECK(s);
    s->config = config;
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

/* --- what comes --- */

static void field_text(char *out, size_t cap, const char *value, size_t len)
{
    out[0] = '\0';
    if (len < cap) {
        memcpy(out, value, len);
        out[len] = '\0';
    }
}

static int64_t number_of(const char *value, size_t len)
{
    char text[24], *end;
    field_text(text, sizeof(text), value, len);
    long long n = strtoll(text, &end, 10);
    return *text >= '0' && *text <= '9' && n >= 0 ? n : -1;
}

/* Of several fields, one with tokens counts before one without. */
static void take_challenge(struct exchange *x, const char *value, size_t len)
{
    struct challenge c;
    if (challenge_read(value, len, &c) == 0 && !x->challenge.bearer && (c.bearer || !x->challenge.basic))
        x->challenge = c;
}

static void take_field(struct exchange *x, const char *name, size_t name_len, const char *value, size_t len)
{
    struct side_answer *out = x->out;
#define IS(text) (name_len == strlen(text) && strncasecmp(name, text, name_len) == 0)
    if (IS("docker-content-digest"))
        field_text(out->digest, sizeof(out->digest), value, len);
    else if (IS("content-type"))
        field_text(out->type, sizeof(out->type), value,
                   strcspn(value, "; \t\r\n") < len ? strcspn(value, "; \t\r\n") : len);
    else if (IS("location"))
        field_text(out->location, sizeof(out->location), value, len);
    else if (IS("link"))
        field_text(out->link, sizeof(out->link), value, len);
    else if (IS("range"))
        field_text(out->range, sizeof(out->range), value, len);
    else if (IS("oci-subject"))
        out->subject = true;
    else if (IS("content-length"))
        out->length = number_of(value, len);
    else if (IS("content-range") && len > 6 && strncasecmp(value, "bytes ", 6) == 0)
        out->part_from = number_of(value + 6, strspn(value + 6, "0123456789"));
    else if (IS("retry-after"))
        out->retry_after_s = (long)(number_of(value, len) < WAIT_MAX_S ? number_of(value, len) : WAIT_MAX_S);
    else if (IS("www-authenticate"))
        take_challenge(x, value, len);
#undef IS
}

static void answer_begin(struct exchange *x)
{
    struct side_answer *out = x->out;
    free(out->body);
    memset(out, 0, sizeof(*out));
    out->length = out->part_from = -1;
    memset(&x->challenge, 0, sizeof(x->challenge));
}

static size_t on_field(char *data, size_t size, size_t count, void *arg)
{
    struct exchange *x = arg;
    size_t len = size * count, name_len, at;
    if (len > 5 && strncasecmp(data, "HTTP/", 5) == 0)
        answer_begin(x); /* the answer after an interim one, or a redirect's target */
    const char *colon = memchr(data, ':', len);
    if (!colon)
        return len;
    name_len = (size_t)(colon - data);
    for (at = name_len + 1; at < len && (data[at] == ' ' || data[at] == '\t'); at++)
        ;
    size_t end = len;
    while (end > at && (data[end - 1] == '\n' || data[end - 1] == '\r' || data[end - 1] == ' '))
        end--;
    char *value = strndup(data + at, end - at);
    CHECK(value);
    take_field(x, data, name_len, value, strlen(value));
    free(value);
    return len;
}

static size_t on_body(char *bytes, size_t size, size_t count, void *arg)
{
    struct exchange *x = arg;
    struct side_answer *out = x->out;
    size_t len = size * count;
    long status = 0;
    curl_easy_getinfo(x->side->curl, CURLINFO_RESPONSE_CODE, &status);
    if (x->request->sink && (status == 200 || status == 206)) {
        out->status = status;
        x->cancelled = !x->request->sink(x->request->arg, bytes, len);
        return x->cancelled ? 0 : len;
    }
    if (len > DOCUMENT_BYTES_MAX - out->len) {
        x->too_long = true;
        return 0;
    }
    char *grown = realloc(out->body, out->len + len + 1);
    CHECK(grown);
    memcpy(grown + out->len, bytes, len);
    out->body = grown;
    out->len += len;
    out->body[out->len] = '\0';
    return len;
}

/* --- what goes --- */

static void list_add(struct curl_slist **list, const char *name, const char *value)
{
    char line[1024];
    snprintf(line, sizeof(line), "%s: %s", name, value);
    struct curl_slist *longer = curl_slist_append(*list, line);
    CHECK(longer);
    *list = longer;
}

static struct curl_slist *fields_make(const struct side *s, const struct side_request *r, const char *url)
{
    struct curl_slist *list = NULL;
    char text[64];
    list =
        curl_slist_append(list, "Expect:"); /* it would wait a second for a registry that does not know it */
    CHECK(list);
    if (s->authorization && url_same_origin(url, s->config->url)) {
        list = curl_slist_append(list, s->authorization);
        CHECK(list);
    }
    if (r->accept)
        list_add(&list, "Accept", r->accept);
    if (r->body)
        list_add(&list, "Content-Type", r->type ? r->type : "application/octet-stream");
    else
        list = curl_slist_append(list, "Content-Type:"); /* libcurl would say that it is a form */
    CHECK(list);
    if (r->from >= 0 && r->body) {
        snprintf(text, sizeof(text), "%lld-%lld", (long long)r->from,
                 (long long)r->from + (long long)r->len - 1);
        list_add(&list, "Content-Range", text);
    } else if (r->from > 0) {
        snprintf(text, sizeof(text), "bytes=%lld-", (long long)r->from);
        list_add(&list, "Range", text);
    }
    return list;
}

static void options_set(struct side *s, const char *url)
{
    const struct side_config *c = s->config;
    CURL *curl = s->curl;
    struct curl_blob ca = {.data = (void *)(uintptr_t)c->ca, .len = c->ca ? strlen(c->ca) : 0, .flags = 0};
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(curl, CURLOPT_REDIR_PROTOCOLS_STR, url_is_https(url) ? "https" : "http,https");
    curl_easy_setopt(curl, CURLOPT_PROXY, "");
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_MS);
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, (long)SLOW_BYTES);
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, (long)SLOW_S);
    curl_easy_setopt(curl, CURLOPT_USERAGENT, "fairlead-mirror/" FL_VERSION);
    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, s->message);
    if (c->ca) {
        curl_easy_setopt(curl, CURLOPT_CAINFO_BLOB, &ca);
        curl_easy_setopt(curl, CURLOPT_CAPATH, NULL);
    }
    if (c->own) {
        curl_easy_setopt(curl, CURLOPT_SSL_VERIFYPEER, 0L);
        curl_easy_setopt(curl, CURLOPT_SSL_VERIFYHOST, 0L);
    }
}

static void method_set(struct side *s, const struct side_request *r)
{
    CURL *curl = s->curl;
    if (strcmp(r->method, "HEAD") == 0) {
        curl_easy_setopt(curl, CURLOPT_NOBODY, 1L);
    } else if (strcmp(r->method, "GET") != 0) {
        curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)r->len);
        curl_easy_setopt(curl, CURLOPT_POSTFIELDS, r->body ? r->body : "");
        curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, r->method);
        return; /* where an upload goes is not a redirect's to say */
    }
    curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 1L);
    curl_easy_setopt(curl, CURLOPT_MAXREDIRS, (long)REDIRECTS_MAX);
}

static int failed(const struct exchange *x, CURLcode code, const char *url, char err[SIDE_ERROR_MAX])
{
    const struct side *s = x->side;
    if (x->cancelled)
        return -ECANCELED;
    snprintf(err, SIDE_ERROR_MAX, "%s: %.200s: %.200s", s->config->name, url,
             x->too_long     ? "the answer is too long"
             : s->message[0] ? s->message
                             : curl_easy_strerror(code));
    return x->too_long ? -EFBIG : -EIO;
}

/* One exchange on the wire. */
static int perform(struct exchange *x, const char *url, char err[SIDE_ERROR_MAX])
{
    struct side *s = x->side;
    const struct side_request *r = x->request;
    struct curl_slist *fields = fields_make(s, r, url);
    const char *effective = NULL;
    answer_begin(x);
    x->too_long = x->cancelled = false;
    s->message[0] = '\0';
    curl_easy_reset(s->curl); /* its connections stay */
    options_set(s, url);
    method_set(s, r);
    curl_easy_setopt(s->curl, CURLOPT_HTTPHEADER, fields);
    curl_easy_setopt(s->curl, CURLOPT_HEADERFUNCTION, on_field);
    curl_easy_setopt(s->curl, CURLOPT_HEADERDATA, x);
    curl_easy_setopt(s->curl, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(s->curl, CURLOPT_WRITEDATA, x);
    if (!r->sink && !r->body)
        curl_easy_setopt(s->curl, CURLOPT_TIMEOUT_MS, (long)TALK_MS);
    if (r->sink && s->config->receive_rate)
        curl_easy_setopt(s->curl, CURLOPT_MAX_RECV_SPEED_LARGE, (curl_off_t)s->config->receive_rate);
    if (r->body && s->config->send_rate)
        curl_easy_setopt(s->curl, CURLOPT_MAX_SEND_SPEED_LARGE, (curl_off_t)s->config->send_rate);
    CURLcode code = curl_easy_perform(s->curl);
    curl_slist_free_all(fields);
    if (code != CURLE_OK)
        return failed(x, code, url, err);
    curl_easy_getinfo(s->curl, CURLINFO_RESPONSE_CODE, &x->out->status);
    if (curl_easy_getinfo(s->curl, CURLINFO_EFFECTIVE_URL, &effective) == CURLE_OK && effective)
        snprintf(x->out->url, sizeof(x->out->url), "%s", effective);
    return 0;
}

/* --- who asks --- */

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
    const struct side_request request = {.method = "GET", .from = -1};
    snprintf(url, sizeof(url), "%s", c->realm);
    if (url_is_https(s->config->url) && !url_is_https(url)) {
        snprintf(err, SIDE_ERROR_MAX, "%s: its token server is not spoken to over TLS", s->config->name);
        return -EPERM;
    }
    if ((c->service[0] && !url_add(url, "service", c->service)) || !url_add(url, "scope", scope))
        return -EPERM;
    forget_authorization(s);
    struct exchange x = {.side = s, .request = &request, .out = &answer};
    struct curl_slist *fields = NULL;
    answer_begin(&x);
    curl_easy_reset(s->curl);
    options_set(s, url);
    curl_easy_setopt(s->curl, CURLOPT_TIMEOUT_MS, (long)TALK_MS);
    basic = basic_field(s->config);
    list_add(&fields, "Accept", "application/json");
    if (basic)
        fields = curl_slist_append(fields, basic);
    CHECK(fields);
    curl_easy_setopt(s->curl, CURLOPT_HTTPHEADER, fields);
    curl_easy_setopt(s->curl, CURLOPT_HEADERFUNCTION, on_field);
    curl_easy_setopt(s->curl, CURLOPT_HEADERDATA, &x);
    curl_easy_setopt(s->curl, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(s->curl, CURLOPT_WRITEDATA, &x);
    CURLcode code = curl_easy_perform(s->curl);
    curl_slist_free_all(fields);
    if (basic)
        explicit_bzero(basic, strlen(basic));
    free(basic);
    int rc = code == CURLE_OK ? 0 : failed(&x, code, c->realm, err);
    curl_easy_getinfo(s->curl, CURLINFO_RESPONSE_CODE, &answer.status);
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

/* After a 401. 0: again, with what was asked for; -EPERM: there is nothing to show, or it was refused. */
static int authorize(struct exchange *x, char err[SIDE_ERROR_MAX])
{
    struct side *s = x->side;
    const struct side_request *r = x->request;
    const struct challenge c = x->challenge;
    char scope[CHALLENGE_SCOPE_MAX];
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

static int ask_once(struct exchange *x, const char *url, char err[SIDE_ERROR_MAX])
{
    authorization_look(x->side, x->request);
    int rc = perform(x, url, err);
    if (rc || x->out->status != 401 || !url_same_origin(x->out->url, x->side->config->url))
        return rc; /* nobody else is shown anything, or asked whom to show it to */
    rc = authorize(x, err);
    return rc == -EPERM ? 0 : rc ? rc : perform(x, url, err); /* a 401 says it, too */
}

static bool is_later(long status)
{
    return status == 429 || status == 500 || status == 502 || status == 503 || status == 504;
}

int side_ask(struct side *s, const struct side_request *request, struct side_answer *out,
             char err[SIDE_ERROR_MAX])
{
    struct exchange x = {.side = s, .request = request, .out = out};
    char url[URL_ROOM];
    int rc = -EIO;
    memset(out, 0, sizeof(*out));
    bool whole = request->path[0] != '/';
    snprintf(url, sizeof(url), "%s%s", whole ? "" : s->config->url, request->path);
    for (unsigned i = 0; i < TRIES; i++) {
        if (i)
            side_wait(i, out->retry_after_s);
        rc = ask_once(&x, url, err);
        if (request->once || rc == -ECANCELED || rc == -EFBIG || (rc == 0 && !is_later(out->status)))
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
