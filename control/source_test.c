/* SPDX-License-Identifier: Apache-2.0 */
#include "control/source_test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/state/state.h"

enum {
    CHALLENGES_MAX = 2, /* the second one is for a pass that is not taken any more */
    BACKENDS_MAX = 64,
    URL_MAX = 2048,
    PLACE_MAX = PLAN_DOMAIN_MAX + 128,
    AUTHORITY_MAX = PLAN_DOMAIN_MAX + 16
};

static const char accept_manifests[] =
    "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json, "
    "application/vnd.docker.distribution.manifest.v2+json";

struct test {
    source_test_done done;
    void *done_arg;
    struct webhooks *web;
    struct source_passes *passes;
    char prefix[REPO_NAME_MAX + 1];
    char user[CREDENTIALS_USER_MAX]; /* "": none */
    uint64_t source;
    char there[REPO_NAME_MAX * 2 + 2]; /* the repository's name there; "": none is asked for */
    char reference[SOURCE_TEST_REFERENCE_MAX];
    struct plan_backend *backend;
    unsigned count, next;
    char name[PLAN_DOMAIN_MAX];
    bool tls, verify;
    char *ca, *authorization; /* NULL: none */
    uint64_t shown;           /* serial of the pass in it */
    unsigned challenges;
    char place[PLACE_MAX]; /* who is being asked, for people */
    char address[ADDRESS_TEXT_MAX];
};

static void authorization_free(struct test *t)
{
    if (t->authorization)
        explicit_bzero(t->authorization, strlen(t->authorization));
    free(t->authorization);
    t->authorization = NULL;
}

static void test_free(struct test *t)
{
    authorization_free(t);
    free(t->ca);
    free(t->backend);
    free(t);
}

/* ------------------------------------------------------------------ what is found */

static void finish(struct test *t, bool good, const struct webhook_seen *seen, const char *text)
{
    char line[SOURCE_TEST_TEXT_MAX];
    snprintf(line, sizeof(line), "%s: %s %s", t->prefix, t->place, text);
    const struct source_test_result result = {
        .good = good, .text = line, .status = seen ? seen->status : 0, .digest = seen ? seen->digest : ""};
    t->done(t->done_arg, &result);
    test_free(t);
}

static const char *as_whom(const struct test *t, char out[CREDENTIALS_USER_MAX + 32])
{
    if (!t->authorization)
        return "without asking who that is";
    if (!t->user[0])
        return "as anybody";
    snprintf(out, CREDENTIALS_USER_MAX + 32, "as %s", t->user);
    return out;
}

static void tell_good(struct test *t, const struct webhook_seen *seen)
{
    char text[SOURCE_TEST_TEXT_MAX], who[CREDENTIALS_USER_MAX + 32];
    if (t->there[0])
        snprintf(text, sizeof(text), "has %.600s %.100s: %s (let in %s)", t->there, t->reference,
                 seen->digest[0] ? seen->digest : "it does not say the digest", as_whom(t, who));
    else
        snprintf(text, sizeof(text), "is a registry, and lets this node in %s", as_whom(t, who));
    finish(t, true, seen, text);
}

static void tell_bad(struct test *t, const struct webhook_seen *seen)
{
    char text[SOURCE_TEST_TEXT_MAX];
    if (!seen->status)
        snprintf(text, sizeof(text), "cannot be asked: %.500s", seen->error);
    else if (seen->status == 404 && t->there[0])
        snprintf(text, sizeof(text), "has no %.600s %.100s (status 404)", t->there, t->reference);
    else if (seen->status == 404)
        snprintf(text, sizeof(text), "is no registry: it does not know /v2/ (status 404)");
    else if (seen->status == 401 || seen->status == 403)
        snprintf(text, sizeof(text), "does not let this node in: status %ld", seen->status);
    else
        snprintf(text, sizeof(text), "answers with status %ld", seen->status);
    finish(t, false, seen, text);
}

/* ------------------------------------------------------------------ asking */

static void ask(struct test *t);

/* Without a repository a token for any of them will do: what it is good for is no matter at /v2/. */
static const char *asked_repo(const struct test *t)
{
    return t->there[0] ? t->there : "fairlead/test";
}

static void on_pass(void *arg, const struct frame_pass *pass, const char *value, size_t len)
{
    struct test *t = arg;
    char text[SOURCE_TEST_TEXT_MAX];
    authorization_free(t);
    if (pass->status == PASS_OK) {
        t->shown = pass->serial;
        CHECK(asprintf(&t->authorization, "Authorization: %.*s", (int)len, value) > 0);
        ask(t);
        return;
    }
    const char *why = source_pass_why(t->passes, t->source, asked_repo(t));
    const struct webhook_seen seen = {.status = 401};
    snprintf(text, sizeof(text), "does not let this node in: %.600s", *why ? why : "the error log says why");
    finish(t, false, &seen, text);
}

static void ask_for_pass(struct test *t, const struct webhook_seen *seen)
{
    const char *repo = asked_repo(t);
    const struct source_pass_question q = {.source = t->source,
                                           .refused = t->shown,
                                           .repo = repo,
                                           .repo_len = strlen(repo),
                                           .challenge = seen->challenge,
                                           .challenge_len = strlen(seen->challenge)};
    source_pass_get(t->passes, &q, on_pass, t);
}

static void on_seen(void *arg, const struct webhook_seen *seen)
{
    struct test *t = arg;
    if (seen->status == 200)
        tell_good(t, seen);
    else if (seen->status == 401 && t->challenges++ < CHALLENGES_MAX)
        ask_for_pass(t, seen);
    else if (!seen->status && !seen->closing && t->next + 1 < t->count) {
        t->next++;
        ask(t);
    } else
        tell_bad(t, seen);
}

static void address_write(const struct plan_backend *b, char out[ADDRESS_TEXT_MAX])
{
    static const uint8_t v4[12] = {[10] = 0xff, [11] = 0xff};
    char ip[INET6_ADDRSTRLEN];
    bool is_v4 = memcmp(b->ip, v4, sizeof(v4)) == 0;
    CHECK(uv_inet_ntop(is_v4 ? AF_INET : AF_INET6, b->ip + (is_v4 ? 12 : 0), ip, sizeof(ip)) == 0);
    snprintf(out, ADDRESS_TEXT_MAX, is_v4 ? "%s:%u" : "[%s]:%u", ip, b->port);
}

static void ask(struct test *t)
{
    const struct plan_backend *b = &t->backend[t->next];
    char authority[AUTHORITY_MAX], url[URL_MAX], connect[ADDRESS_TEXT_MAX + 2];
    address_write(b, t->address);
    snprintf(authority, sizeof(authority), "%s:%u", t->name, b->port);
    snprintf(t->place, sizeof(t->place), "%s%s%s%s", t->name[0] ? authority : t->address,
             t->name[0] ? " (" : "", t->name[0] ? t->address : "", t->name[0] ? ")" : "");
    snprintf(connect, sizeof(connect), "::%s", t->address);
    const char *middle = t->there[0] ? "/manifests/" : "";
    snprintf(url, sizeof(url), "%s://%s/v2/%s%s%s", t->tls ? "https" : "http",
             t->name[0] ? authority : t->address, t->there, middle, t->reference);
    const struct webhook_look look = {.url = url,
                                      .ca = t->ca,
                                      .connect_to = connect,
                                      .authorization = t->authorization,
                                      .accept = accept_manifests,
                                      .head = t->there[0] != '\0',
                                      .unverified = !t->verify};
    webhook_look(t->web, &look, on_seen, t);
}

/* TCP alone: a Unix socket is this host's own. */
static void take_backends(struct test *t, const struct plan_proxied *service)
{
    uint32_t count =
        service->service.backend_count < BACKENDS_MAX ? service->service.backend_count : BACKENDS_MAX;
    t->backend = calloc(count + 1, sizeof(*t->backend));
    CHECK(t->backend);
    for (uint32_t i = 0; i < count; i++)
        if (!service->backend[i].unix_path[0])
            t->backend[t->count++] = service->backend[i];
}

void source_test_begin(const struct source_test_question *q, source_test_done done, void *done_arg)
{
    const struct plan_proxy *proxy = &q->service->service.proxy;
    struct test *t = calloc(1, sizeof(*t));
    CHECK(t);
    *t = (struct test){.done = done,
                       .done_arg = done_arg,
                       .web = q->web,
                       .passes = q->passes,
                       .source = source_id(q->source),
                       .tls = proxy->backend_tls,
                       .verify = proxy->backend_verify};
    memcpy(t->prefix, q->source->prefix, sizeof(t->prefix));
    memcpy(t->user, q->access->credentials.user, sizeof(t->user));
    memcpy(t->name, proxy->backend_name, sizeof(t->name));
    if (q->access->ca)
        t->ca = strdup(q->access->ca);
    if (q->repo) {
        snprintf(t->there, sizeof(t->there), "%s%s", q->source->upstream,
                 q->repo + strlen(q->source->prefix));
        snprintf(t->reference, sizeof(t->reference), "%s", q->reference);
    }
    take_backends(t, q->service);
    if (t->count)
        ask(t);
    else
        finish(t, false, NULL, "has no backend with an address");
}

/* ------------------------------------------------------------------ names */

static bool reference_valid(const char *text)
{
    size_t len = strlen(text);
    return len > 0 && len < SOURCE_TEST_REFERENCE_MAX &&
           strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-:+") == len;
}

bool source_test_split(const char *text, char repo[REPO_NAME_MAX + 1],
                       char reference[SOURCE_TEST_REFERENCE_MAX])
{
    size_t len = strcspn(text, ":@");
    const char *rest = text[len] ? text + len + 1 : "latest";
    if (len == 0 || len > REPO_NAME_MAX || !state_repo_name_valid(text, len) || !reference_valid(rest))
        return false;
    memcpy(repo, text, len);
    repo[len] = '\0';
    snprintf(reference, SOURCE_TEST_REFERENCE_MAX, "%s", rest);
    return true;
}
