/* SPDX-License-Identifier: Apache-2.0 */
#include "control/mirror/exchange.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "check.h"
#include "control/mirror/document.h"
#include "grow.h"

enum {
    CONNECT_MS = 10000,
    TALK_MS = 300000, /* the most for what is no blob */
    REDIRECTS_MAX = 5,
    WAIT_MAX_S = 60,
    EXPECT_BYTES = 1 << 20, /* of a body, before which it is asked whether it is wanted */
};

struct carrier {
    CURLM *multi;
};

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

/* What has begun to come and stops is given up sooner: whoever it is for waits with a request that is open,
 * and for a minute usually. */
static void slowness_set(struct exchange *x, bool begun)
{
    long seconds = begun ? SIDE_SLOW_S / 2 : SIDE_SLOW_S;
    curl_easy_setopt(x->side->curl, CURLOPT_LOW_SPEED_LIMIT, (long)SIDE_SLOW_BYTES);
    curl_easy_setopt(x->side->curl, CURLOPT_LOW_SPEED_TIME, seconds);
}

static size_t sink_feed(struct exchange *x, const char *bytes, size_t len)
{
    if (!x->begun)
        slowness_set(x, true);
    x->begun = true;
    switch (x->request->sink(x->request->arg, bytes, len)) {
    case SIDE_TAKEN:
        return len;
    case SIDE_WAIT:
        x->waits = true;
        return CURL_WRITEFUNC_PAUSE;
    default:
        x->cancelled = true;
        return 0;
    }
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
        return sink_feed(x, bytes, len);
    }
    x->too_long = !grow_add(&out->body, &out->len, DOCUMENT_BYTES_MAX, bytes, len);
    return x->too_long ? 0 : len;
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

static size_t on_wanted(char *out, size_t size, size_t count, void *arg)
{
    struct exchange *x = arg;
    ssize_t n = x->request->pour(x->request->arg, out, size * count);
    x->waits = n == 0;
    return n > 0 ? (size_t)n : n == 0 ? CURL_READFUNC_PAUSE : CURL_READFUNC_ABORT;
}

static struct curl_slist *fields_make(const struct side_request *r, const char *shown)
{
    struct curl_slist *list = NULL;
    char text[64];
    if (shown) {
        list = curl_slist_append(list, shown);
        CHECK(list);
    }
    if (!r->pour || r->size < EXPECT_BYTES) { /* it waits a second for a registry that does not know it */
        list = curl_slist_append(list, "Expect:");
        CHECK(list);
    }
    if (r->accept)
        list_add(&list, "Accept", r->accept);
    if (r->body || r->pour)
        list_add(&list, "Content-Type", r->type ? r->type : "application/octet-stream");
    else
        list = curl_slist_append(list, "Content-Type:"); /* libcurl would say that it is a form */
    CHECK(list);
    if (r->from > 0) {
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
    curl_easy_setopt(curl, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_MS);
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

static void method_set(struct exchange *x)
{
    const struct side_request *r = x->request;
    CURL *curl = x->side->curl;
    if (r->pour) {
        curl_easy_setopt(curl, CURLOPT_UPLOAD, 1L);
        curl_easy_setopt(curl, CURLOPT_INFILESIZE_LARGE, (curl_off_t)r->size);
        curl_easy_setopt(curl, CURLOPT_READFUNCTION, on_wanted);
        curl_easy_setopt(curl, CURLOPT_READDATA, x);
        return;
    }
    if (strcmp(r->method, "HEAD") == 0) {
        curl_easy_setopt(curl, CURLOPT_NOBODY, 1L);
    } else if (strcmp(r->method, "GET") != 0) {
        curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)r->len);
        curl_easy_setopt(curl, CURLOPT_POSTFIELDS, r->body ? r->body : "");
        curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, r->method);
        return; /* where an upload goes is not a redirect's to say */
    }
    curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, r->stay ? 0L : 1L);
    curl_easy_setopt(curl, CURLOPT_MAXREDIRS, (long)REDIRECTS_MAX);
}

/* Who pours is looked after by who gives it the bytes: libcurl takes a wait for them for slowness. */
static void limits_set(struct exchange *x)
{
    const struct side_request *r = x->request;
    const struct side_config *c = x->side->config;
    CURL *curl = x->side->curl;
    if (!r->pour)
        slowness_set(x, r->from > 0);
    if (!r->sink && !r->body && !r->pour)
        curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, (long)TALK_MS);
    if (r->sink && c->receive_rate)
        curl_easy_setopt(curl, CURLOPT_MAX_RECV_SPEED_LARGE, (curl_off_t)c->receive_rate);
    if ((r->body || r->pour) && c->send_rate)
        curl_easy_setopt(curl, CURLOPT_MAX_SEND_SPEED_LARGE, (curl_off_t)c->send_rate);
}

/* --- on the wire --- */

void exchange_begin(struct exchange *x, const char *url, const char *shown)
{
    struct side *s = x->side;
    answer_begin(x);
    x->active = true;
    x->ended = x->begun = x->waits = x->too_long = x->cancelled = false;
    x->fields = fields_make(x->request, shown);
    s->message[0] = '\0';
    curl_easy_reset(s->curl);
    options_set(s, url);
    method_set(x);
    limits_set(x);
    curl_easy_setopt(s->curl, CURLOPT_HTTPHEADER, x->fields);
    curl_easy_setopt(s->curl, CURLOPT_HEADERFUNCTION, on_field);
    curl_easy_setopt(s->curl, CURLOPT_HEADERDATA, x);
    curl_easy_setopt(s->curl, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(s->curl, CURLOPT_WRITEDATA, x);
    curl_easy_setopt(s->curl, CURLOPT_PRIVATE, (void *)x);
    CHECK(curl_multi_add_handle(s->carrier->multi, s->curl) == CURLM_OK);
}

void exchange_stop(struct exchange *x)
{
    if (!x->active)
        return;
    x->active = false;
    curl_multi_remove_handle(x->side->carrier->multi, x->side->curl);
    curl_slist_free_all(x->fields);
    x->fields = NULL;
}

static int failed(const struct exchange *x, const char *url, char err[SIDE_ERROR_MAX])
{
    const struct side *s = x->side;
    if (x->cancelled)
        return -ECANCELED;
    int len = (int)strcspn(url, "?"); /* what is behind it may be a signature, which opens the door */
    snprintf(err, SIDE_ERROR_MAX, "%s: %.*s: %.200s", s->config->name, len < 200 ? len : 200, url,
             x->too_long     ? "the answer is too long"
             : s->message[0] ? s->message
                             : curl_easy_strerror(x->code));
    return x->too_long ? -EFBIG : -EIO;
}

int exchange_end(struct exchange *x, char err[SIDE_ERROR_MAX])
{
    CURL *curl = x->side->curl;
    const char *url = NULL;
    CHECK(x->active && x->ended);
    curl_easy_getinfo(curl, CURLINFO_EFFECTIVE_URL, &url);
    snprintf(x->out->url, sizeof(x->out->url), "%s", url ? url : "");
    exchange_stop(x);
    if (x->code != CURLE_OK)
        return failed(x, x->out->url, err);
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &x->out->status);
    return 0;
}

void exchange_resume(struct exchange *x)
{
    x->waits = false;
    CURLcode code = curl_easy_pause(x->side->curl, CURLPAUSE_CONT);
    if (code == CURLE_OK)
        return;
    x->code = code; /* the sink did not take what was kept for it: libcurl itself would go on behind that */
    x->ended = true;
}

void exchange_cut(struct exchange *x)
{
    x->code = CURLE_OK;
    x->ended = true;
}

bool exchange_refused(const struct exchange *x)
{
    long status = 0;
    curl_easy_getinfo(x->side->curl, CURLINFO_RESPONSE_CODE, &status);
    /* 417: libcurl sends the body again without having asked, and this status stands until the next one
     * comes. If it does not, it ends by itself when there is more of the body. */
    return status >= 300 && status != 417;
}

int64_t exchange_sent(const struct exchange *x)
{
    curl_off_t sent = 0;
    curl_easy_getinfo(x->side->curl, CURLINFO_SIZE_UPLOAD_T, &sent);
    return sent;
}

/* --- the loop --- */

struct carrier *carrier_new(void)
{
    struct carrier *c = calloc(1, sizeof(*c));
    CHECK(c);
    c->multi = curl_multi_init();
    if (c->multi)
        return c;
    free(c);
    return NULL;
}

void carrier_free(struct carrier *c)
{
    if (!c)
        return;
    curl_multi_cleanup(c->multi);
    free(c);
}

void carrier_turn(struct carrier *c, int wait_ms)
{
    const CURLMsg *message;
    int left;
    curl_multi_poll(c->multi, NULL, 0, wait_ms, NULL);
    CHECK(curl_multi_perform(c->multi, &left) == CURLM_OK);
    while ((message = curl_multi_info_read(c->multi, &left))) {
        char *of = NULL;
        curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &of);
        struct exchange *x = (struct exchange *)(void *)of;
        x->code = message->data.result;
        x->ended = true;
    }
}
