/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests through a proxy: whatever a client sends that is legal becomes one legal request, of the same
 * method, target and framing, that asks for nothing of the connection but what is passed on.
 */
#include <errno.h>

#include "check.h"
#include "dataplane/http/forward.h"

enum { FIELDS = 16, OUT_MAX = 16384 };

static const struct http_limits limits = {
    .header_bytes_max = 1024, .headers_max = FIELDS, .target_bytes_max = 256};
static const struct http_limits large = {
    .header_bytes_max = OUT_MAX, .headers_max = 4 * FIELDS, .target_bytes_max = 512};

static struct http_forward how_of(uint8_t choice)
{
    static const struct http_extra extra = {VIEW_LIT("X-Client-Subject"), VIEW_LIT("CN=a")};
    struct http_forward how = {.host_default = VIEW_LIT("10.0.0.1:80"),
                               .peer = choice & 1 ? VIEW_LIT("2001:db8::1") : VIEW_LIT("192.0.2.1"),
                               .port = VIEW_LIT("80"),
                               .scheme = VIEW_LIT("http"),
                               .request_id = VIEW_LIT("id"),
                               .x_forwarded = choice & 2,
                               .forwarded = choice & 4,
                               .trust = choice & 8,
                               .h2c = choice & 16,
                               .extra = &extra,
                               .extra_count = choice >> 5 & 1};
    if (choice & 64)
        how.host = VIEW_LIT("backend:1");
    if (choice & 128)
        how.range = VIEW_LIT("bytes=5-");
    return how;
}

static bool is_only(struct view v, const char *one, const char *other)
{
    struct view item;
    while (view_next_item(&v, &item))
        if (!view_ieq(item, view_of_str(one)) && !view_ieq(item, view_of_str(other)))
            return false;
    return true;
}

static void check_again(const struct http_request *req, const struct http_request *again,
                        const struct http_forward *how)
{
    uint32_t at = 0;
    struct view line;
    CHECK(view_eq(again->method_name, req->method_name));
    CHECK(view_eq(again->path, req->path) && view_eq(again->query, req->query));
    CHECK(again->framing == req->framing || (req->framing == HTTP_BODY_NONE && again->content_length == 0));
    CHECK(again->content_length == req->content_length && again->version_minor == 1 && again->keep_alive);
    CHECK(view_present(again->host));
    while (view_present(line = http_request_next_field(again, HTTP_KNOWN_CONNECTION, &at)))
        CHECK(how->upgrade ? is_only(line, "upgrade", "http2-settings") || is_only(line, "te", "te")
                           : is_only(line, "te", "te"));
    CHECK(view_present(again->known[HTTP_KNOWN_UPGRADE]) == how->upgrade);
    if (!how->trust && how->x_forwarded)
        CHECK(view_eq(again->known[HTTP_KNOWN_X_FORWARDED_FOR], how->peer));
    if (how->extra_count)
        CHECK(view_lit(http_request_field(again, "x-client-subject"), "CN=a"));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct http_field fields[FIELDS], fields_again[4 * FIELDS];
    static char out[OUT_MAX];
    struct http_request req = {.fields = fields, .fields_max = FIELDS};
    struct http_request again = {.fields = fields_again, .fields_max = 4 * FIELDS};
    struct http_reject reject;
    if (size == 0)
        return 0;
    if (http_request_read((const char *)data + 1, size - 1, 0, &limits, &req, &reject) <= 0)
        return 0;
    struct http_forward how = how_of(data[0]);
    how.upgrade = http_asks_upgrade(&req, how.h2c);
    ssize_t n = http_forward_request(out, sizeof(out), &req, &how);
    CHECK(n > 0);
    CHECK(http_request_read(out, (size_t)n, 0, &large, &again, &reject) == n);
    check_again(&req, &again, &how);
    return 0;
}
