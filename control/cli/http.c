/* SPDX-License-Identifier: Apache-2.0 */
#include "control/cli/http.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <curl/curl.h>
#include <jansson.h>

#include "check.h"
#include "grow.h"

enum { CONNECT_SECONDS = 10, SLOW_SECONDS = 60 };

struct http {
    CURL *curl;
    char base[HTTP_URL_MAX / 2];
};

/* One exchange. */
struct exchange {
    struct http *http;
    struct http_answer *out;
    http_sink sink;
    void *arg;
    bool too_large, refused;
};

struct http *http_new(const char *base)
{
    struct http *http = calloc(1, sizeof(*http));
    if (!http)
        return NULL;
    http->curl = curl_easy_init();
    if (!http->curl || strlen(base) >= sizeof(http->base)) {
        http_free(http);
        return NULL;
    }
    snprintf(http->base, sizeof(http->base), "%s", base);
    size_t len = strlen(http->base);
    if (len && http->base[len - 1] == '/')
        http->base[len - 1] = '\0';
    return http;
}

void http_free(struct http *http)
{
    curl_easy_cleanup(http->curl);
    free(http);
}

static size_t on_body(char *bytes, size_t size, size_t count, void *arg)
{
    struct exchange *x = arg;
    long status = 0;
    size_t len = size * count;
    curl_easy_getinfo(x->http->curl, CURLINFO_RESPONSE_CODE, &status);
    if (!x->sink || status != 200) {
        x->too_large = !grow_add(&x->out->body, &x->out->len, HTTP_ANSWER_MAX, bytes, len);
        return x->too_large ? 0 : len;
    }
    x->refused = !x->sink(x->arg, bytes, len);
    return x->refused ? 0 : len;
}

static int explain(const struct exchange *x, CURLcode code, const char *url, char err[HTTP_ERROR_MAX])
{
    if (x->refused)
        snprintf(err, HTTP_ERROR_MAX, "%.300s cannot be written", url);
    else
        snprintf(err, HTTP_ERROR_MAX, "%.300s: %s", url,
                 x->too_large ? "the answer is too long" : curl_easy_strerror(code));
    return -1;
}

static int perform(struct exchange *x, const char *path, struct curl_slist *fields, char err[HTTP_ERROR_MAX])
{
    CURL *curl = x->http->curl;
    char url[HTTP_URL_MAX];
    const char *type = NULL;
    memset(x->out, 0, sizeof(*x->out));
    snprintf(url, sizeof(url), "%s%s", x->http->base, path);
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, fields);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, x);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, (long)CONNECT_SECONDS);
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, (long)SLOW_SECONDS);
    CURLcode code = curl_easy_perform(curl);
    curl_slist_free_all(fields);
    if (code == CURLE_OK) {
        curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &x->out->status);
        if (curl_easy_getinfo(curl, CURLINFO_CONTENT_TYPE, &type) == CURLE_OK && type)
            snprintf(x->out->type, sizeof(x->out->type), "%.*s", (int)strcspn(type, "; "), type);
    }
    curl_easy_reset(curl);
    if (code == CURLE_OK)
        return 0;
    http_answer_free(x->out);
    return explain(x, code, url, err);
}

static struct curl_slist *field(const char *name, const char *value)
{
    char line[HTTP_TYPE_MAX * 4];
    snprintf(line, sizeof(line), "%s: %s", name, value);
    struct curl_slist *list = curl_slist_append(NULL, line);
    CHECK(list);
    return list;
}

int http_get(struct http *http, const char *path, const char *type, struct http_answer *out,
             char err[HTTP_ERROR_MAX])
{
    struct exchange x = {.http = http, .out = out};
    return perform(&x, path, type ? field("Accept", type) : NULL, err);
}

int http_fetch(struct http *http, const char *path, http_sink sink, void *arg, struct http_answer *out,
               char err[HTTP_ERROR_MAX])
{
    struct exchange x = {.http = http, .out = out, .sink = sink, .arg = arg};
    return perform(&x, path, NULL, err);
}

int http_put(struct http *http, const char *path, const char *type, const void *body, size_t len,
             struct http_answer *out, char err[HTTP_ERROR_MAX])
{
    struct exchange x = {.http = http, .out = out};
    curl_easy_setopt(http->curl, CURLOPT_CUSTOMREQUEST, "PUT");
    curl_easy_setopt(http->curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)len);
    curl_easy_setopt(http->curl, CURLOPT_COPYPOSTFIELDS, body);
    struct curl_slist *fields = field("Content-Type", type), *more = curl_slist_append(fields, "Expect:");
    CHECK(more);
    return perform(&x, path, more, err);
}

void http_answer_free(struct http_answer *answer)
{
    free(answer->body);
    answer->body = NULL;
    answer->len = 0;
}

const char *http_why(const struct http_answer *answer, char out[HTTP_ERROR_MAX])
{
    json_t *body = answer->body ? json_loadb(answer->body, answer->len, 0, NULL) : NULL;
    json_t *first = json_array_get(json_object_get(body, "errors"), 0);
    const char *code = json_string_value(json_object_get(first, "code"));
    const char *message = json_string_value(json_object_get(first, "message"));
    if (code)
        snprintf(out, HTTP_ERROR_MAX, "%s%s%s", code, message ? ": " : "", message ? message : "");
    else
        snprintf(out, HTTP_ERROR_MAX, "status %ld", answer->status);
    json_decref(body);
    return out;
}
