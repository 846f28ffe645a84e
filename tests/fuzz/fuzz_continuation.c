/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two answers: what the first one began and the second one is to go on with. The first two bytes of the input
 * say how much the client has already; an empty line ends each head.
 */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "dataplane/proxy/continuation.h"

enum { FIELDS = 32 };

static const struct http_limits limits = {.header_bytes_max = 8192, .headers_max = FIELDS};

static ssize_t read_answer(const char *at, size_t len, struct http_answer *a, struct http_field *fields)
{
    struct http_reject reject;
    *a = (struct http_answer){.fields = fields, .fields_max = FIELDS};
    return http_answer_read(at, len, 0, &limits, HTTP_GET, a, &reject);
}

static void check_join(const struct continuation *before, const struct http_answer *a, uint64_t moved,
                       bool again)
{
    struct continuation c = *before;
    uint64_t skip, left;
    enum continuation_join how = continuation_accept(&c, a, moved, again, &skip, &left);
    if (how == CONTINUATION_NO) {
        CHECK(memcmp(before, &c, sizeof(c)) == 0);
        return;
    }
    CHECK(how == CONTINUATION_END || a->status == (how == CONTINUATION_PART ? 206 : 200));
    CHECK(c.first == before->first && c.whole == before->whole);
    CHECK(before->length == CONTINUATION_UNKNOWN || c.length == before->length);
    CHECK(before->total == CONTINUATION_UNKNOWN || c.total == before->total);
    CHECK(how != CONTINUATION_PART || (skip == (again ? moved : 0) && left == c.length - moved));
    CHECK(how != CONTINUATION_WHOLE || skip == c.first + moved);
    CHECK(left == CONTINUATION_UNKNOWN || c.length == CONTINUATION_UNKNOWN || moved + left == c.length ||
          how == CONTINUATION_END);
    if (how == CONTINUATION_WHOLE && a->framing == HTTP_BODY_LENGTH)
        CHECK(skip + left <= a->content_length);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct http_field first_fields[FIELDS], second_fields[FIELDS];
    struct http_answer first, second;
    struct continuation c;
    char range[CONTINUATION_RANGE_MAX];
    struct http_request req = {
        .method = HTTP_GET,
        .path =
            VIEW_LIT("/v2/a/blobs/sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824")};
    if (size < 2)
        return 0;
    uint64_t moved = (uint64_t)data[0] << 8 | data[1];
    const char *at = (const char *)data + 2;
    ssize_t used = read_answer(at, size - 2, &first, first_fields);
    if (used <= 0 || !continuation_learn(&c, PROXY_REGISTRY, &req, &first))
        return 0;
    CHECK(c.length == CONTINUATION_UNKNOWN || c.total == CONTINUATION_UNKNOWN || c.whole || c.length > 0);
    if (c.length != CONTINUATION_UNKNOWN && moved > c.length)
        moved = c.length;
    CHECK(continuation_range(&c, moved, c.whole, range) < sizeof(range));
    if (read_answer(at + used, size - 2 - (size_t)used, &second, second_fields) > 0)
        for (int again = 0; again <= c.whole; again++)
            check_join(&c, &second, moved, again);
    return 0;
}
