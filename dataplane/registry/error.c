/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/registry/error.h"

#include "check.h"

enum {
    ERROR_BODY_MAX = 3072,  /* bytes of JSON: one entry always fits */
    ERROR_OBJECT_MAX = 200, /* twice in an entry ... */
    ERROR_TEXT_MAX = 450,   /* ... but for a text of the state machine's */
    RETRY_AFTER_S = 1,
};

static const char *const code_names[ERROR_CODES_COUNT] = {
    [ERROR_BLOB_UNKNOWN] = "BLOB_UNKNOWN",
    [ERROR_BLOB_UPLOAD_INVALID] = "BLOB_UPLOAD_INVALID",
    [ERROR_BLOB_UPLOAD_UNKNOWN] = "BLOB_UPLOAD_UNKNOWN",
    [ERROR_DIGEST_INVALID] = "DIGEST_INVALID",
    [ERROR_MANIFEST_BLOB_UNKNOWN] = "MANIFEST_BLOB_UNKNOWN",
    [ERROR_MANIFEST_INVALID] = "MANIFEST_INVALID",
    [ERROR_MANIFEST_UNKNOWN] = "MANIFEST_UNKNOWN",
    [ERROR_NAME_INVALID] = "NAME_INVALID",
    [ERROR_NAME_UNKNOWN] = "NAME_UNKNOWN",
    [ERROR_SIZE_INVALID] = "SIZE_INVALID",
    [ERROR_TAG_INVALID] = "TAG_INVALID",
    [ERROR_DENIED] = "DENIED",
    [ERROR_UNSUPPORTED] = "UNSUPPORTED",
    [ERROR_TOOMANYREQUESTS] = "TOOMANYREQUESTS",
    [ERROR_PAGINATION_NUMBER_INVALID] = "PAGINATION_NUMBER_INVALID",
    [ERROR_UNAVAILABLE] = "UNAVAILABLE",
    [ERROR_UNKNOWN] = "UNKNOWN",
};

/* Text that is cut at its end when it does not fit. */
struct text {
    char *buf;
    size_t len, cap;
};

static void put(struct text *t, struct view v)
{
    size_t room = t->cap - t->len, n = v.len < room ? v.len : room;
    if (n)
        memcpy(t->buf + t->len, v.p, n);
    t->len += n;
}

static void put_str(struct text *t, const char *s)
{
    put(t, view_of_str(s));
}

/* A client's bytes inside a JSON string. What is not printable ASCII is shown as U+FFFD. */
static void put_escaped(struct text *t, struct view v)
{
    for (size_t i = 0; i < v.len; i++) {
        if (v.p[i] == '"' || v.p[i] == '\\')
            put_str(t, "\\");
        if (v.p[i] < 0x20 || v.p[i] > 0x7e)
            put_str(t, "\\ufffd");
        else
            put(t, view_of(&v.p[i], 1));
    }
}

static void put_item(struct text *t, const struct error_item *item)
{
    struct view object = item->object;
    size_t most = item->key ? ERROR_OBJECT_MAX : ERROR_TEXT_MAX;
    if (object.len > most)
        object.len = most;
    put_str(t, "{\"code\":\"");
    put_str(t, code_names[item->code]);
    put_str(t, "\",\"message\":\"");
    put_escaped(t, view_of_str(item->message));
    if (object.len) {
        put_str(t, ": ");
        put_escaped(t, object);
    }
    put_str(t, "\"");
    if (item->key) {
        put_str(t, ",\"detail\":{\"");
        put_str(t, item->key);
        put_str(t, "\":\"");
        put_escaped(t, object);
        put_str(t, "\"}");
    }
    put_str(t, "}");
}

struct http_response *error_begin(struct stream *s, int status)
{
    struct http_response *res = stream_response(s, status);
    http_response_field(res, "X-Content-Type-Options", VIEW_LIT("nosniff"));
    http_response_field(res, "Content-Type", VIEW_LIT("application/json"));
    return res;
}

void error_send(struct stream *s, const struct error_item *items, unsigned count)
{
    static const char end[] = "]}\n";
    size_t left = s->arena.cap - s->arena.used;
    size_t cap = left > ERROR_BODY_MAX + 16 ? ERROR_BODY_MAX : left > 16 ? left - 16 : 0;
    struct text t = {.buf = arena_alloc(&s->arena, cap)};
    if (!t.buf || cap < 64) {
        stream_send(s);
        return;
    }
    t.cap = cap - sizeof(end);
    put_str(&t, "{\"errors\":[");
    for (unsigned i = 0; i < count; i++) {
        size_t before = t.len;
        if (i)
            put_str(&t, ",");
        put_item(&t, &items[i]);
        if (t.len == t.cap) {
            t.len = before;
            break;
        }
    }
    memcpy(t.buf + t.len, end, sizeof(end) - 1);
    stream_send_bytes(s, t.buf, t.len + sizeof(end) - 1);
}

void error_answer(struct stream *s, int status, enum error_code code, const char *message, const char *key,
                  struct view object)
{
    if (status == 404 && s->old_names) { /* what it does not know another node may */
        error_answer_later(s, 503, "this node is cut off from the others and cannot know; ask another one");
        return;
    }
    struct error_item item = {code, message, key, object};
    error_begin(s, status);
    error_send(s, &item, 1);
}

void error_answer_later(struct stream *s, int status, const char *message)
{
    struct error_item item = {status == 429 ? ERROR_TOOMANYREQUESTS : ERROR_UNAVAILABLE, message, NULL, {0}};
    http_response_field_u64(error_begin(s, status), "Retry-After", RETRY_AFTER_S);
    error_send(s, &item, 1);
}
