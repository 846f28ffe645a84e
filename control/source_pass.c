/* SPDX-License-Identifier: Apache-2.0 */
#include "control/source_pass.h"

#ifndef INT_MAX /* OpenSSL's header means the system's <limits.h> and finds ours */
#define INT_MAX __INT_MAX__
#endif

#include <jansson.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "check.h"
#include "control/challenge.h"
#include "control/webhook.h"

enum {
    ENTRIES_MAX = 1024,  /* the one that was asked for longest ago makes room */
    TTL_MAX_MS = 300000, /* the data plane asks again then: credentials may have changed */
    TOKEN_MIN_S = 60,    /* what the specification says where a token server says less, or nothing */
    TOKEN_MAX_S = 3600,
    REFUSED_MS = 5000, /* nobody is asked again so soon: accounts are locked for less */
    UNAVAILABLE_MS = 1000,
};

struct waiter {
    struct waiter *next;
    source_pass_done done;
    void *arg;
};

/* What is known for one repository of a source. */
struct entry {
    struct entry *next; /* the newest first */
    struct source_passes *owner;
    uint64_t source;
    char *repo, *value; /* value NULL: there is none, */
    char *why;          /* as people were told; NULL: they were not */
    uint64_t serial, until_ms;
    uint64_t renew_ms; /* before that, a token that came in place of a refused one is not replaced, too */
    bool is_basic;
    uint64_t failed_until_ms;
    enum pass_status failed;
    bool asking;
    struct waiter *waiting;
};

struct source_passes {
    struct source_passes_config config;
    struct webhooks *web;
    struct entry *first;
    size_t count;
    uint64_t serial;
    bool closing;
};

static void value_free(char **value)
{
    if (*value)
        explicit_bzero(*value, strlen(*value));
    free(*value);
    *value = NULL;
}

static void entry_free(struct entry *e)
{
    value_free(&e->value);
    free(e->why);
    free(e->repo);
    free(e);
}

struct source_passes *source_passes_new(const struct source_passes_config *config)
{
    struct source_passes *s = calloc(1, sizeof(*s));
    CHECK(s);
    s->config = *config;
    /* A data plane that is taken over has serials of the control before: they must not come again. */
    s->serial = uv_hrtime();
    s->web = webhooks_new(config->loop);
    return s;
}

static uint64_t now_ms(const struct source_passes *s)
{
    return uv_now(s->config.loop);
}

/* ------------------------------------------------------------------ answers */

static void answer(const struct entry *e, source_pass_done done, void *arg)
{
    struct frame_pass pass = {.status = e->failed};
    uint64_t now = now_ms(e->owner);
    if (!e->value) {
        done(arg, &pass, "", 0);
        return;
    }
    uint64_t left = e->until_ms > now ? e->until_ms - now : 0;
    pass = (struct frame_pass){
        .status = PASS_OK, .ttl_ms = (uint32_t)(left < TTL_MAX_MS ? left : TTL_MAX_MS), .serial = e->serial};
    done(arg, &pass, e->value, strlen(e->value));
}

static void answer_all(struct entry *e)
{
    e->asking = false;
    while (e->waiting) {
        struct waiter *w = e->waiting;
        e->waiting = w->next;
        answer(e, w->done, w->arg);
        free(w);
    }
}

static void fail(struct entry *e, const char *prefix, enum pass_status status, const char *text)
{
    struct source_passes *s = e->owner;
    value_free(&e->value);
    e->failed = status;
    free(e->why);
    e->why = strdup(text);
    e->failed_until_ms = now_ms(s) + (status == PASS_REFUSED ? REFUSED_MS : UNAVAILABLE_MS);
    if (!s->closing)
        s->config.tell(s->config.arg, prefix, text);
    answer_all(e);
}

static void succeed(struct entry *e, const char *scheme, const char *secret, uint64_t life_ms)
{
    value_free(&e->value);
    CHECK(asprintf(&e->value, "%s %s", scheme, secret) > 0);
    e->is_basic = strcmp(scheme, "Basic") == 0;
    e->serial = ++e->owner->serial;
    e->until_ms = now_ms(e->owner) + life_ms;
    answer_all(e);
}

/* ------------------------------------------------------------------ tokens */

/* A question to a token server under way. */
struct asking {
    struct entry *entry;
    bool has_user;
    char prefix[REPO_NAME_MAX + 1];
};

/* What may stand behind "Bearer " in a field. */
static bool token_valid(const char *token)
{
    size_t len = token ? strlen(token) : 0;
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)token[i] <= ' ' || (unsigned char)token[i] >= 0x7f || token[i] == ',')
            return false;
    return len > 0;
}

static uint64_t life_ms(const json_t *answer)
{
    double seconds = json_number_value(json_object_get(answer, "expires_in"));
    if (!(seconds >= TOKEN_MIN_S))
        seconds = TOKEN_MIN_S;
    if (seconds > TOKEN_MAX_S)
        seconds = TOKEN_MAX_S;
    return (uint64_t)(seconds * 900); /* a tenth is left for its way */
}

static void take_token(const struct asking *a, const char *body, size_t len)
{
    json_t *answer = json_loadb(body, len, 0, NULL);
    const char *token = json_string_value(json_object_get(answer, "token"));
    if (!token)
        token = json_string_value(json_object_get(answer, "access_token"));
    if (!token_valid(token))
        fail(a->entry, a->prefix, PASS_UNAVAILABLE, "the token server's answer has no token in it");
    else if (strlen(token) + sizeof("Bearer ") > PASS_BYTES_MAX)
        fail(a->entry, a->prefix, PASS_UNAVAILABLE, "the token server's token is too long");
    else
        succeed(a->entry, "Bearer", token, life_ms(answer));
    json_decref(answer);
}

static void on_answered(void *arg, long status, const char *error, const char *body, size_t len)
{
    struct asking *a = arg;
    char text[SOURCE_PROBLEM_MAX];
    if (status == 200) {
        take_token(a, body, len);
        free(a);
        return;
    }
    bool refused = status >= 400 && status < 500 && status != 408 && status != 429;
    if (!status)
        snprintf(text, sizeof(text), "the token server cannot be asked: %s", error);
    else if (status == 401 || status == 403)
        snprintf(text, sizeof(text), "the token server does not take the credentials (status %ld)%s", status,
                 a->has_user ? "" : ": it was given none");
    else
        snprintf(text, sizeof(text), "the token server answers with status %ld", status);
    fail(a->entry, a->prefix, refused ? PASS_REFUSED : PASS_UNAVAILABLE, text);
    free(a);
}

/* Whether it begins so, and not with a longer name of a host. */
static bool is_below(const char *url, const char *begin)
{
    size_t len = strlen(begin);
    return strncasecmp(url, begin, len) == 0 &&
           (begin[len - 1] == '/' || url[len] == '\0' || url[len] == '/' || url[len] == '?');
}

static void ask_token_server(struct entry *e, const struct source_access *access, const struct challenge *c)
{
    char url[CHALLENGE_URL_MAX];
    const char *why;
    bool secure;
    const char *user = access->credentials.user[0] ? access->credentials.user : NULL;
    if (!challenge_url(c, e->repo, url, &secure, &why)) {
        fail(e, access->prefix, PASS_REFUSED, why);
    } else if (access->token_server[0] && !is_below(c->realm, access->token_server)) {
        fail(e, access->prefix, PASS_REFUSED, "it names another token server than token_server does");
    } else if (!secure && !access->plain) {
        fail(e, access->prefix, PASS_REFUSED,
             "it names a token server that is asked in clear, though the source itself is asked over TLS");
    } else {
        struct asking *a = calloc(1, sizeof(*a));
        CHECK(a);
        *a = (struct asking){.entry = e, .has_user = user != NULL};
        memcpy(a->prefix, access->prefix, sizeof(a->prefix));
        const struct webhook_question question = {
            .url = url, .user = user, .password = access->credentials.password, .ca = access->ca};
        webhook_get(e->owner->web, &question, on_answered, a);
    }
}

/* ------------------------------------------------------------------ names and passwords */

static void show_credentials(struct entry *e, const struct source_access *access)
{
    const struct credentials *c = &access->credentials;
    char text[CREDENTIALS_USER_MAX + CREDENTIALS_PASSWORD_MAX + 1];
    unsigned char coded[sizeof(text) / 3 * 4 + 8];
    int len = snprintf(text, sizeof(text), "%s:%s", c->user, c->password);
    CHECK(len > 0 && (size_t)len < sizeof(text));
    int coded_len = EVP_EncodeBlock(coded, (const unsigned char *)text, len);
    if ((size_t)coded_len + sizeof("Basic ") > PASS_BYTES_MAX)
        fail(e, access->prefix, PASS_REFUSED, "the credentials are too long");
    else
        succeed(e, "Basic", (const char *)coded, TTL_MAX_MS);
    explicit_bzero(text, sizeof(text));
    explicit_bzero(coded, sizeof(coded));
}

/* shown: the registry refuses the credentials themselves, or a token that was just renewed for it. */
static void begin(struct entry *e, const struct source_access *access, const struct source_pass_question *q,
                  bool shown)
{
    struct challenge c;
    int err = challenge_read(q->challenge, q->challenge_len, &c);
    e->asking = true;
    if (access->problem[0])
        fail(e, access->prefix, PASS_REFUSED, access->problem);
    else if (err)
        fail(e, access->prefix, PASS_REFUSED,
             "it wants to know who asks, and its WWW-Authenticate is neither Bearer nor Basic");
    else if (shown)
        fail(e, access->prefix, PASS_REFUSED,
             e->is_basic ? "it does not take the credentials" : "it does not take the token server's token");
    else if (c.bearer)
        ask_token_server(e, access, &c);
    else if (!access->credentials.user[0])
        fail(e, access->prefix, PASS_REFUSED,
             "it wants a name and a password; the source has no credentials");
    else
        show_credentials(e, access);
}

/* ------------------------------------------------------------------ entries */

static struct entry *find(const struct source_passes *s, const struct source_pass_question *q)
{
    for (struct entry *e = s->first; e; e = e->next)
        if (e->source == q->source && strlen(e->repo) == q->repo_len &&
            memcmp(e->repo, q->repo, q->repo_len) == 0)
            return e;
    return NULL;
}

/* Of those that nobody waits for, the oldest one. */
static void make_room(struct source_passes *s)
{
    struct entry **oldest = NULL;
    for (struct entry **at = &s->first; *at; at = &(*at)->next)
        if (!(*at)->asking)
            oldest = at;
    if (s->count < ENTRIES_MAX || !oldest)
        return;
    struct entry *e = *oldest;
    *oldest = e->next;
    s->count--;
    entry_free(e);
}

/* NULL: all are being asked for. */
static struct entry *make(struct source_passes *s, const struct source_pass_question *q)
{
    make_room(s);
    if (s->count >= ENTRIES_MAX)
        return NULL;
    struct entry *e = calloc(1, sizeof(*e));
    CHECK(e);
    e->owner = s;
    e->source = q->source;
    e->repo = strndup(q->repo, q->repo_len);
    CHECK(e->repo);
    e->next = s->first;
    s->first = e;
    s->count++;
    return e;
}

static void wait_for(struct entry *e, source_pass_done done, void *arg)
{
    struct waiter *w = calloc(1, sizeof(*w));
    CHECK(w);
    *w = (struct waiter){e->waiting, done, arg};
    e->waiting = w;
}

static void ask(struct entry *e, const struct source_pass_question *q, source_pass_done done, void *arg)
{
    const struct source_passes_config *config = &e->owner->config;
    struct source_access *access = calloc(1, sizeof(*access));
    uint64_t now = now_ms(e->owner);
    bool refused = e->value && e->serial == q->refused, shown = refused && (e->is_basic || now < e->renew_ms);
    CHECK(access);
    if (refused)
        e->renew_ms = now + REFUSED_MS;
    wait_for(e, done, arg);
    if (config->look(config->arg, q->source, access)) {
        begin(e, access, q, shown);
    } else {
        e->asking = true;
        fail(e, "?", PASS_UNAVAILABLE, "a source that is not configured any more was asked for");
    }
    explicit_bzero(&access->credentials, sizeof(access->credentials));
    free(access->ca);
    free(access);
}

void source_pass_get(struct source_passes *s, const struct source_pass_question *q, source_pass_done done,
                     void *arg)
{
    const struct frame_pass busy = {.status = PASS_UNAVAILABLE};
    struct entry *e = find(s, q);
    if (!e && q->repo_len && !s->closing)
        e = make(s, q);
    if (!e || s->closing)
        done(arg, &busy, "", 0);
    else if (e->asking)
        wait_for(e, done, arg);
    else if (e->value && e->serial != q->refused && now_ms(s) < e->until_ms)
        answer(e, done, arg);
    else if (!e->value && now_ms(s) < e->failed_until_ms)
        answer(e, done, arg);
    else
        ask(e, q, done, arg);
}

const char *source_pass_why(const struct source_passes *s, uint64_t source, const char *repo)
{
    const struct source_pass_question q = {.source = source, .repo = repo, .repo_len = strlen(repo)};
    const struct entry *e = find(s, &q);
    return e && !e->value && e->why ? e->why : "";
}

/* ------------------------------------------------------------------ the end */

void source_passes_forget(struct source_passes *s)
{
    for (struct entry *e = s->first; e; e = e->next) {
        value_free(&e->value);
        e->failed_until_ms = 0;
    }
}

void source_passes_close(struct source_passes *s)
{
    s->closing = true;
    webhooks_close(s->web); /* who asks is answered */
    while (s->first) {
        struct entry *e = s->first;
        s->first = e->next;
        CHECK(!e->waiting);
        entry_free(e);
    }
    free(s);
}
