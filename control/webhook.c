/* SPDX-License-Identifier: Apache-2.0 */
/* libcurl tells which sockets it waits for and for how long; the loop tells it when one is ready. */
#include "control/webhook.h"

#ifndef INT_MAX /* OpenSSL's header means the system's <limits.h> and finds ours */
#define INT_MAX __INT_MAX__
#endif

#include <curl/curl.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "check.h"

struct webhook {
    struct webhook *next;
    CURL *easy;
    struct curl_slist *headers;
    webhook_done done;     /* of a POST */
    webhook_looked looked; /* of a look: */
    struct webhook_seen *seen;
    struct curl_slist *connect_to;
    webhook_answered answered; /* of a GET: */
    char *body;
    size_t len;
    bool too_large;
    void *arg;
    CURLcode refused; /* by libcurl: an option that it does not take */
    char impossible[WEBHOOK_ERROR_MAX];
    char error[CURL_ERROR_SIZE];
};

struct webhooks {
    CURLM *multi;
    uv_loop_t *loop;
    uv_timer_t timer;
    struct webhook *first;
};

/* A socket of libcurl's that is waited for. */
struct watch {
    uv_poll_t poll;
    struct webhooks *owner;
    curl_socket_t fd;
};

static void webhook_free(struct webhook *h)
{
    curl_slist_free_all(h->headers);
    curl_slist_free_all(h->connect_to);
    curl_easy_cleanup(h->easy);
    free(h->body);
    free(h->seen);
    free(h);
}

static void tell(const struct webhook *h, long status, const char *error)
{
    if (h->seen) {
        h->seen->status = status;
        h->seen->error = error;
        h->looked(h->arg, h->seen);
    } else if (h->answered)
        h->answered(h->arg, status, error, h->body ? h->body : "", h->len);
    else
        h->done(h->arg, status, error);
}

static struct webhook *unlist(struct webhooks *w, const CURL *easy)
{
    for (struct webhook **at = &w->first; *at; at = &(*at)->next) {
        struct webhook *h = *at;
        if (h->easy != easy)
            continue;
        *at = h->next;
        return h;
    }
    IMPOSSIBLE("a transfer that is nobody's");
}

/* What has ended is told; who is told may post again. */
static void tell_done(struct webhooks *w)
{
    CURLMsg *message;
    int left;
    while ((message = curl_multi_info_read(w->multi, &left))) {
        if (message->msg != CURLMSG_DONE)
            continue;
        CURLcode result = message->data.result;
        struct webhook *h = unlist(w, message->easy_handle);
        long status = 0;
        curl_multi_remove_handle(w->multi, h->easy);
        if (result == CURLE_OK)
            curl_easy_getinfo(h->easy, CURLINFO_RESPONSE_CODE, &status);
        const char *why = h->impossible[0] ? h->impossible
                          : h->refused     ? curl_easy_strerror(h->refused)
                          : h->too_large   ? "its answer is too long"
                          : h->error[0]    ? h->error
                                           : curl_easy_strerror(result);
        tell(h, status, status ? "" : why);
        webhook_free(h);
    }
}

static void on_timer(uv_timer_t *timer)
{
    struct webhooks *w = timer->data;
    int running;
    curl_multi_socket_action(w->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    tell_done(w);
}

static int on_timeout_wanted(CURLM *multi, long timeout_ms, void *arg)
{
    struct webhooks *w = arg;
    (void)multi;
    if (timeout_ms < 0)
        uv_timer_stop(&w->timer);
    else
        uv_timer_start(&w->timer, on_timer, (uint64_t)timeout_ms, 0);
    return 0;
}

static void on_ready(uv_poll_t *poll, int status, int events)
{
    struct watch *watch = poll->data;
    struct webhooks *w = watch->owner;
    int running, flags = status < 0 ? CURL_CSELECT_ERR : 0;
    flags |= events & UV_READABLE ? CURL_CSELECT_IN : 0;
    flags |= events & UV_WRITABLE ? CURL_CSELECT_OUT : 0;
    curl_multi_socket_action(w->multi, watch->fd, flags, &running);
    tell_done(w);
}

static void on_watch_closed(uv_handle_t *handle)
{
    free(handle->data);
}

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *socket_arg)
{
    struct webhooks *w = arg;
    struct watch *watch = socket_arg;
    (void)easy;
    if (what == CURL_POLL_REMOVE) {
        if (watch) {
            curl_multi_assign(w->multi, fd, NULL);
            uv_close((uv_handle_t *)&watch->poll, on_watch_closed);
        }
        return 0;
    }
    if (!watch) {
        watch = calloc(1, sizeof(*watch));
        CHECK(watch);
        watch->owner = w;
        watch->fd = fd;
        watch->poll.data = watch;
        CHECK(uv_poll_init_socket(w->loop, &watch->poll, fd) == 0);
        curl_multi_assign(w->multi, fd, watch);
    }
    int events = (what & CURL_POLL_IN ? UV_READABLE : 0) | (what & CURL_POLL_OUT ? UV_WRITABLE : 0);
    uv_poll_start(&watch->poll, events, on_ready);
    return 0;
}

struct webhooks *webhooks_new(uv_loop_t *loop)
{
    struct webhooks *w = calloc(1, sizeof(*w));
    CHECK(w && curl_global_init(CURL_GLOBAL_DEFAULT) == 0);
    w->loop = loop;
    w->multi = curl_multi_init();
    CHECK(w->multi && uv_timer_init(loop, &w->timer) == 0);
    w->timer.data = w;
    curl_multi_setopt(w->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
    curl_multi_setopt(w->multi, CURLMOPT_SOCKETDATA, w);
    curl_multi_setopt(w->multi, CURLMOPT_TIMERFUNCTION, on_timeout_wanted);
    curl_multi_setopt(w->multi, CURLMOPT_TIMERDATA, w);
    curl_multi_setopt(w->multi, CURLMOPT_MAXCONNECTS, 16L);
    return w;
}

static void on_timer_closed(uv_handle_t *handle)
{
    free(handle->data);
}

void webhooks_close(struct webhooks *w)
{
    while (w->first) {
        struct webhook *h = w->first;
        w->first = h->next;
        curl_multi_remove_handle(w->multi, h->easy);
        if (h->seen)
            h->seen->closing = true;
        tell(h, 0, "the daemon stops");
        webhook_free(h);
    }
    curl_multi_cleanup(w->multi);
    curl_global_cleanup();
    uv_close((uv_handle_t *)&w->timer, on_timer_closed);
}

static size_t drop(char *data, size_t size, size_t count, void *arg)
{
    (void)data;
    (void)arg;
    return size * count;
}

static size_t keep(char *data, size_t size, size_t count, void *arg)
{
    struct webhook *h = arg;
    size_t len = size * count;
    h->too_large = len > WEBHOOK_ANSWER_MAX - h->len;
    if (h->too_large || !len)
        return 0;
    memcpy(h->body + h->len, data, len);
    h->len += len;
    return len;
}

static void header_add(struct webhook *h, const char *text)
{
    struct curl_slist *list = curl_slist_append(h->headers, text);
    CHECK(list);
    h->headers = list;
}

static int no_passphrase(char *buf, int size, int writing, void *arg)
{
    (void)buf;
    (void)size;
    (void)writing;
    (void)arg;
    return -1;
}

bool webhook_ca_valid(const char *pem)
{
    BIO *bio = BIO_new_mem_buf(pem, -1);
    size_t count = 0;
    X509 *cert;
    CHECK(bio);
    while ((cert = PEM_read_bio_X509(bio, NULL, no_passphrase, NULL))) {
        X509_free(cert);
        count++;
    }
    bool at_end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
    ERR_clear_error();
    BIO_free(bio);
    return count && at_end;
}

/* The first option that libcurl does not take ends the request: nothing is sent on other terms than ours. */
#define SET(h, option, value)                                                                                \
    ((h)->refused = (h)->refused ? (h)->refused : curl_easy_setopt((h)->easy, option, value))

/* A receiver with a CA of its own is verified with that one alone: whoever the system trusts is none of its
 * business. */
static void ca_set(struct webhook *h, const char *ca)
{
    struct curl_blob blob = {.data = (void *)(uintptr_t)ca, .len = strlen(ca), .flags = CURL_BLOB_COPY};
    SET(h, CURLOPT_CAINFO_BLOB, &blob);
    CURLcode rc = curl_easy_setopt(h->easy, CURLOPT_CAPATH, NULL);
    if (rc != CURLE_NOT_BUILT_IN && !h->refused) /* a libcurl that knows of none has none */
        h->refused = rc;
}

static void options_set(struct webhook *h, const char *url, const char *ca)
{
    SET(h, CURLOPT_URL, url);
    SET(h, CURLOPT_PROTOCOLS_STR, "http,https");
    SET(h, CURLOPT_PROXY, "");
    if (ca)
        ca_set(h, ca);
    SET(h, CURLOPT_NOSIGNAL, 1L);
    /* Names are resolved in a thread of libcurl's. Without this it waits for that thread when the time is up,
     * and when a transfer is removed: a nameserver that is silent would stop the loop. With it the thread is
     * let go, ends by itself, and frees what is its own. */
    SET(h, CURLOPT_QUICK_EXIT, 1L);
    SET(h, CURLOPT_CONNECTTIMEOUT_MS, (long)WEBHOOK_CONNECT_MS);
    SET(h, CURLOPT_TIMEOUT_MS, (long)WEBHOOK_TIMEOUT_MS);
    SET(h, CURLOPT_USERAGENT, "fairlead/" FL_VERSION);
    SET(h, CURLOPT_HTTPHEADER, h->headers);
    SET(h, CURLOPT_ERRORBUFFER, h->error);
}

static void begin(struct webhooks *w, struct webhook *h)
{
    h->next = w->first;
    w->first = h;
    if (h->refused || h->impossible[0])
        curl_easy_reset(h->easy); /* without a URL: the loop tells that it has failed */
    CHECK(curl_multi_add_handle(w->multi, h->easy) == CURLM_OK);
}

void webhook_post(struct webhooks *w, const struct webhook_request *request, webhook_done done, void *arg)
{
    struct webhook *h = calloc(1, sizeof(*h));
    char type[128];
    CHECK(h);
    *h = (struct webhook){.easy = curl_easy_init(), .done = done, .arg = arg};
    CHECK(h->easy);
    snprintf(type, sizeof(type), "Content-Type: %s", request->content_type);
    header_add(h, type);
    header_add(h, "Expect:"); /* it would wait a second for a server that does not know it */
    for (uint32_t i = 0; i < request->headers_count; i++)
        header_add(h, request->header[i]);
    options_set(h, request->url, request->ca);
    SET(h, CURLOPT_WRITEFUNCTION, drop);
    SET(h, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)request->len);
    SET(h, CURLOPT_COPYPOSTFIELDS, request->body);
    if (request->impossible)
        snprintf(h->impossible, sizeof(h->impossible), "%s", request->impossible);
    begin(w, h);
}

void webhook_get(struct webhooks *w, const struct webhook_question *question, webhook_answered answered,
                 void *arg)
{
    struct webhook *h = calloc(1, sizeof(*h));
    CHECK(h);
    *h = (struct webhook){.easy = curl_easy_init(), .answered = answered, .arg = arg};
    h->body = malloc(WEBHOOK_ANSWER_MAX);
    CHECK(h->easy && h->body);
    header_add(h, "Accept: application/json");
    options_set(h, question->url, question->ca);
    SET(h, CURLOPT_WRITEFUNCTION, keep);
    SET(h, CURLOPT_WRITEDATA, h);
    if (question->user) {
        SET(h, CURLOPT_HTTPAUTH, CURLAUTH_BASIC);
        SET(h, CURLOPT_USERNAME, question->user);
        SET(h, CURLOPT_PASSWORD, question->password);
    }
    begin(w, h);
}

/* What is behind a field's name, at the end of what is there; what does not fit is left out. */
static bool field_take(const char *line, size_t len, const char *name, char *out, size_t cap)
{
    size_t name_len = strlen(name), used = strlen(out);
    if (len <= name_len || strncasecmp(line, name, name_len) != 0)
        return false;
    const char *value = line + name_len;
    len -= name_len;
    while (len && (*value == ' ' || *value == '\t')) {
        value++;
        len--;
    }
    while (len && (unsigned char)value[len - 1] <= ' ')
        len--;
    if (used + len + 3 <= cap && !memchr(value, 0, len))
        snprintf(out + used, cap - used, "%s%.*s", used ? ", " : "", (int)len, value);
    return true;
}

/* Each line of the head, the first one of each head too: an interim answer's fields are not the last one's.
 */
static size_t look_at(char *line, size_t size, size_t count, void *arg)
{
    struct webhook *h = arg;
    size_t len = size * count;
    if (len > 5 && memcmp(line, "HTTP/", 5) == 0)
        h->seen->challenge[0] = h->seen->digest[0] = '\0';
    else if (!field_take(line, len, "WWW-Authenticate:", h->seen->challenge, sizeof(h->seen->challenge)))
        field_take(line, len, "Docker-Content-Digest:", h->seen->digest, sizeof(h->seen->digest));
    return len;
}

void webhook_look(struct webhooks *w, const struct webhook_look *look, webhook_looked looked, void *arg)
{
    struct webhook *h = calloc(1, sizeof(*h));
    char accept[1024];
    CHECK(h);
    *h = (struct webhook){.easy = curl_easy_init(), .looked = looked, .arg = arg};
    h->seen = calloc(1, sizeof(*h->seen));
    h->connect_to = curl_slist_append(NULL, look->connect_to);
    CHECK(h->easy && h->seen && h->connect_to);
    snprintf(accept, sizeof(accept), "Accept: %s", look->accept);
    header_add(h, accept);
    if (look->authorization)
        header_add(h, look->authorization);
    options_set(h, look->url, look->ca);
    SET(h, CURLOPT_CONNECT_TO, h->connect_to);
    SET(h, CURLOPT_NOBODY, look->head ? 1L : 0L);
    SET(h, CURLOPT_WRITEFUNCTION, drop);
    SET(h, CURLOPT_HEADERFUNCTION, look_at);
    SET(h, CURLOPT_HEADERDATA, h);
    SET(h, CURLOPT_FRESH_CONNECT, 1L); /* it is the way there that is tested */
    if (look->unverified) {
        SET(h, CURLOPT_SSL_VERIFYPEER, 0L);
        SET(h, CURLOPT_SSL_VERIFYHOST, 0L);
    }
    begin(w, h);
}
