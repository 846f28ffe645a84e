/* SPDX-License-Identifier: Apache-2.0 */
#include "known.h"

#include "check.h"

static const struct view known_names[HTTP_KNOWN_COUNT] = {
#define NAME(s)                                                                                              \
    {                                                                                                        \
        "" s, sizeof(s) - 1                                                                                  \
    }
    [HTTP_KNOWN_HOST] = NAME("host"),
    [HTTP_KNOWN_CONTENT_LENGTH] = NAME("content-length"),
    [HTTP_KNOWN_TRANSFER_ENCODING] = NAME("transfer-encoding"),
    [HTTP_KNOWN_AUTHORIZATION] = NAME("authorization"),
    [HTTP_KNOWN_CONTENT_TYPE] = NAME("content-type"),
    [HTTP_KNOWN_CONTENT_RANGE] = NAME("content-range"),
    [HTTP_KNOWN_RANGE] = NAME("range"),
    [HTTP_KNOWN_IF_RANGE] = NAME("if-range"),
    [HTTP_KNOWN_EXPECT] = NAME("expect"),
    [HTTP_KNOWN_CONNECTION] = NAME("connection"),
    [HTTP_KNOWN_UPGRADE] = NAME("upgrade"),
    [HTTP_KNOWN_ACCEPT] = NAME("accept"),
    [HTTP_KNOWN_IF_MATCH] = NAME("if-match"),
    [HTTP_KNOWN_IF_NONE_MATCH] = NAME("if-none-match"),
    [HTTP_KNOWN_USER_AGENT] = NAME("user-agent"),
    [HTTP_KNOWN_X_REQUEST_ID] = NAME("x-request-id"),
    [HTTP_KNOWN_KEEP_ALIVE] = NAME("keep-alive"),
    [HTTP_KNOWN_TE] = NAME("te"),
    [HTTP_KNOWN_HTTP2_SETTINGS] = NAME("http2-settings"),
    [HTTP_KNOWN_X_FORWARDED_FOR] = NAME("x-forwarded-for"),
    [HTTP_KNOWN_X_FORWARDED_PROTO] = NAME("x-forwarded-proto"),
    [HTTP_KNOWN_X_FORWARDED_HOST] = NAME("x-forwarded-host"),
    [HTTP_KNOWN_X_FORWARDED_PORT] = NAME("x-forwarded-port"),
    [HTTP_KNOWN_FORWARDED] = NAME("forwarded"),
    [HTTP_KNOWN_CDN_LOOP] = NAME("cdn-loop"),
    [HTTP_KNOWN_DATE] = NAME("date"),
    [HTTP_KNOWN_ETAG] = NAME("etag"),
    [HTTP_KNOWN_LOCATION] = NAME("location"),
    [HTTP_KNOWN_CONTENT_LOCATION] = NAME("content-location"),
    [HTTP_KNOWN_WWW_AUTHENTICATE] = NAME("www-authenticate"),
    [HTTP_KNOWN_CONTENT_ENCODING] = NAME("content-encoding"),
    [HTTP_KNOWN_DOCKER_CONTENT_DIGEST] = NAME("docker-content-digest"),
    [HTTP_KNOWN_DOCKER_UPLOAD_UUID] = NAME("docker-upload-uuid"),
};

static const struct view method_names[] = {
    [HTTP_GET] = NAME("GET"),         [HTTP_HEAD] = NAME("HEAD"),   [HTTP_POST] = NAME("POST"),
    [HTTP_PUT] = NAME("PUT"),         [HTTP_PATCH] = NAME("PATCH"), [HTTP_DELETE] = NAME("DELETE"),
    [HTTP_OPTIONS] = NAME("OPTIONS"), [HTTP_TRACE] = NAME("TRACE"), [HTTP_CONNECT] = NAME("CONNECT"),
    [HTTP_OTHER] = NAME("OTHER"),
};
#undef NAME

/* The names of one length, ended by HTTP_KNOWN_NOT: at most five are compared for a header line. */
static const uint8_t known_by_length[][6] = {
    [2] = {HTTP_KNOWN_TE, HTTP_KNOWN_NOT},
    [4] = {HTTP_KNOWN_HOST, HTTP_KNOWN_DATE, HTTP_KNOWN_ETAG, HTTP_KNOWN_NOT},
    [5] = {HTTP_KNOWN_RANGE, HTTP_KNOWN_NOT},
    [6] = {HTTP_KNOWN_ACCEPT, HTTP_KNOWN_EXPECT, HTTP_KNOWN_NOT},
    [7] = {HTTP_KNOWN_UPGRADE, HTTP_KNOWN_NOT},
    [8] = {HTTP_KNOWN_IF_RANGE, HTTP_KNOWN_IF_MATCH, HTTP_KNOWN_LOCATION, HTTP_KNOWN_CDN_LOOP,
           HTTP_KNOWN_NOT},
    [9] = {HTTP_KNOWN_FORWARDED, HTTP_KNOWN_NOT},
    [10] = {HTTP_KNOWN_USER_AGENT, HTTP_KNOWN_CONNECTION, HTTP_KNOWN_KEEP_ALIVE, HTTP_KNOWN_NOT},
    [12] = {HTTP_KNOWN_CONTENT_TYPE, HTTP_KNOWN_X_REQUEST_ID, HTTP_KNOWN_NOT},
    [13] = {HTTP_KNOWN_AUTHORIZATION, HTTP_KNOWN_IF_NONE_MATCH, HTTP_KNOWN_CONTENT_RANGE, HTTP_KNOWN_NOT},
    [14] = {HTTP_KNOWN_CONTENT_LENGTH, HTTP_KNOWN_HTTP2_SETTINGS, HTTP_KNOWN_NOT},
    [15] = {HTTP_KNOWN_X_FORWARDED_FOR, HTTP_KNOWN_NOT},
    [16] = {HTTP_KNOWN_X_FORWARDED_HOST, HTTP_KNOWN_X_FORWARDED_PORT, HTTP_KNOWN_CONTENT_ENCODING,
            HTTP_KNOWN_CONTENT_LOCATION, HTTP_KNOWN_WWW_AUTHENTICATE, HTTP_KNOWN_NOT},
    [17] = {HTTP_KNOWN_TRANSFER_ENCODING, HTTP_KNOWN_X_FORWARDED_PROTO, HTTP_KNOWN_NOT},
    [18] = {HTTP_KNOWN_DOCKER_UPLOAD_UUID, HTTP_KNOWN_NOT},
    [21] = {HTTP_KNOWN_DOCKER_CONTENT_DIGEST, HTTP_KNOWN_NOT},
};

enum http_known http_known_of(struct view name)
{
    if (name.len >= ARRAY_SIZE(known_by_length))
        return HTTP_KNOWN_NOT;
    const uint8_t *candidates = known_by_length[name.len];
    /* A row left out of the table is all zero, which is HOST: its length does not match. */
    for (uint32_t i = 0; candidates[i] != HTTP_KNOWN_NOT; i++) {
        struct view known = known_names[candidates[i]];
        if (known.len != name.len)
            break;
        if (view_ieq(known, name))
            return (enum http_known)candidates[i];
    }
    return HTTP_KNOWN_NOT;
}

enum http_method http_method_of(struct view token)
{
    for (int m = HTTP_GET; m < HTTP_OTHER; m++)
        if (view_eq(token, method_names[m]))
            return (enum http_method)m;
    return HTTP_OTHER;
}

const char *http_method_name(enum http_method method)
{
    CHECK((unsigned)method <= HTTP_OTHER);
    return method_names[method].p;
}
