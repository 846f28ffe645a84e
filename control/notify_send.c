/* SPDX-License-Identifier: Apache-2.0 */
#include "control/notify_send.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "check.h"
#include "control/notify_envelope.h"

enum {
    BACKOFF_MS = 500, /* after the first failure; twice as long after each further one */
    BACKOFF_MAX_MS = 60000,
};

uint64_t notify_backoff_ms(unsigned failures)
{
    uint64_t ms = BACKOFF_MS, random;
    for (unsigned i = 1; i < failures && ms < BACKOFF_MAX_MS; i++)
        ms *= 2;
    ms = ms < BACKOFF_MAX_MS ? ms : BACKOFF_MAX_MS;
    return uv_random(NULL, NULL, &random, sizeof(random), 0, NULL) == 0 ? ms / 2 + random % (ms / 2 + 1) : ms;
}

bool notify_taken(long status, const char *why, char error[WEBHOOK_ERROR_MAX])
{
    error[0] = '\0';
    if (status >= 200 && status < 300)
        return true;
    if (status)
        snprintf(error, WEBHOOK_ERROR_MAX, "answered %ld", status);
    else
        snprintf(error, WEBHOOK_ERROR_MAX, "%s", why);
    return false;
}

/* --- secrets --- */

static const char mark[] = "{password}";

/* What is sent in place of what the state says; wiped and freed. */
struct filled {
    char *url;
    char *header[ENDPOINT_HEADERS_MAX + 1];
    uint32_t headers_count;
};

static char *fill(const char *text, const char *password, bool *used)
{
    const char *at = strstr(text, mark);
    char *out;
    if (!at)
        out = strdup(text);
    else if (asprintf(&out, "%.*s%s%s", (int)(at - text), text, password, at + sizeof(mark) - 1) < 0)
        out = NULL;
    CHECK(out);
    *used |= at != NULL;
    return out;
}

static char *basic(const struct credentials *c)
{
    uint8_t both[CREDENTIALS_USER_MAX + CREDENTIALS_PASSWORD_MAX + 1];
    char text[2 * sizeof(both)], *out;
    int len = snprintf((char *)both, sizeof(both), "%s:%s", c->user, c->password);
    CHECK(len > 0 && (size_t)len < sizeof(both) && EVP_EncodeBlock((uint8_t *)text, both, len) > 0 &&
          asprintf(&out, "Authorization: Basic %s", text) > 0);
    explicit_bzero(both, sizeof(both));
    explicit_bzero(text, sizeof(text));
    return out;
}

static void filled_make(struct filled *f, const struct endpoint *e, const struct credentials *c)
{
    bool used = !e->credentials[0];
    f->url = e->credentials[0] ? fill(e->url, c->password, &used) : strdup(e->url);
    CHECK(f->url);
    for (uint32_t i = 0; i < e->headers_count; i++) {
        f->header[i] = e->credentials[0] ? fill(e->header[i], c->password, &used) : strdup(e->header[i]);
        CHECK(f->header[i]);
    }
    f->headers_count = e->headers_count;
    if (!used)
        f->header[f->headers_count++] = basic(c);
}

static void wipe(char *text)
{
    explicit_bzero(text, strlen(text));
    free(text);
}

static void filled_fini(struct filled *f)
{
    wipe(f->url);
    for (uint32_t i = 0; i < f->headers_count; i++)
        wipe(f->header[i]);
}

void notify_send(struct webhooks *w, const struct endpoint *e, const struct notify_secrets *secrets,
                 const json_t *envelope, webhook_done done, void *arg)
{
    struct credentials c = {.user = ""};
    struct filled f = {.url = NULL};
    char why[WEBHOOK_ERROR_MAX] = "", *body = json_dumps(envelope, JSON_COMPACT);
    CHECK(body);
    bool good = !e->credentials[0] || secrets->find(secrets->arg, e->credentials, &c, why, sizeof(why));
    filled_make(&f, e, &c);
    explicit_bzero(&c, sizeof(c));
    struct webhook_request request = {.url = f.url,
                                      .content_type = NOTIFY_CONTENT_TYPE,
                                      .header = f.header,
                                      .headers_count = f.headers_count,
                                      .ca = e->ca,
                                      .body = body,
                                      .len = strlen(body),
                                      .impossible = good ? NULL : why};
    webhook_post(w, &request, done, arg);
    filled_fini(&f);
    free(body);
}
