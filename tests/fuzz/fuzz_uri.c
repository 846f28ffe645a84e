/* SPDX-License-Identifier: Apache-2.0 */
/* Percent-encoding and queries: what is decoded encodes and decodes to itself, and parts lie inside. */
#include <errno.h>
#include <stdlib.h>

#include "check.h"
#include "dataplane/http/uri.h"

static void check_decode(struct view in)
{
    char *out = malloc(in.len + 1), *encoded = malloc(3 * in.len + 1), *again = malloc(in.len + 1);
    CHECK(out && encoded && again);
    ssize_t len = http_percent_decode(in, out, in.len);
    CHECK(len == -EINVAL || (len >= 0 && (size_t)len <= in.len));
    if (len > 0)
        CHECK(http_percent_decode(in, again, (size_t)len - 1) == -ENOBUFS);
    if (len >= 0) {
        struct view decoded = view_of(out, (size_t)len);
        ssize_t encoded_len = http_percent_encode(decoded, "/:", encoded, 3 * in.len);
        CHECK(encoded_len >= len);
        CHECK(http_percent_decode(view_of(encoded, (size_t)encoded_len), again, in.len) == len);
        CHECK(memcmp(out, again, (size_t)len) == 0);
    }
    memcpy(again, in.p, in.len);
    CHECK(http_percent_decode(view_of(again, in.len), again, in.len) == len);
    CHECK(len < 0 || memcmp(out, again, (size_t)len) == 0);
    free(out);
    free(encoded);
    free(again);
}

static void check_query(struct view in)
{
    struct view query = in, name, value;
    char text[64];
    size_t bytes = 0;
    while (http_query_next(&query, &name, &value)) {
        CHECK(name.p >= in.p && name.p + name.len <= value.p && value.p + value.len <= in.p + in.len);
        bytes += name.len + value.len;
        check_decode(value);
    }
    CHECK(bytes <= in.len);
    ssize_t len = http_query_get(in, "digest", text, sizeof(text));
    CHECK(len <= (ssize_t)sizeof(text));
    uint64_t number = 0;
    int ret = http_query_get_u64(in, "n", 1000, &number);
    CHECK(number <= 1000 && (ret == 0 || number == 0 || ret == -ERANGE));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size ? size : 1);
    CHECK(text);
    if (size)
        memcpy(text, data, size);
    check_decode(view_of(text, size));
    check_query(view_of(text, size));
    free(text);
    return 0;
}
