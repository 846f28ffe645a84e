/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The readers of single field values. The first eight bytes of the input are the size of a representation,
 * the rest is the field.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "check.h"
#include "dataplane/http/accept.h"
#include "dataplane/http/range.h"

/* A part lies inside, and asking for exactly that part gives it again. */
static void check_range(struct view field, uint64_t size)
{
    char text[64];
    struct http_range r = http_range_evaluate(field, size);
    if (r.kind != HTTP_RANGE_PART)
        return;
    CHECK(r.first <= r.last && r.last < size);
    int len = snprintf(text, sizeof(text), "bytes=%" PRIu64 "-%" PRIu64, r.first, r.last);
    struct http_range again = http_range_evaluate(view_of(text, (size_t)len), size);
    CHECK(again.kind == HTTP_RANGE_PART && again.first == r.first && again.last == r.last);
}

static void check_content_range(struct view field)
{
    char text[64];
    uint64_t first, last, first_again, last_again;
    int ret = http_content_range_read(field, &first, &last);
    CHECK(ret == 0 || ret == -EINVAL);
    if (ret)
        return;
    CHECK(first <= last && last <= INT64_MAX);
    int len = snprintf(text, sizeof(text), "%" PRIu64 "-%" PRIu64, first, last);
    CHECK(http_content_range_read(view_of(text, (size_t)len), &first_again, &last_again) == 0);
    CHECK(first == first_again && last == last_again);
}

/* What matches strongly matches weakly. */
static void check_etags(struct view field)
{
    struct view etag = VIEW_LIT("\"a\"");
    CHECK(!http_etag_listed(field, etag, false) || http_etag_listed(field, etag, true));
    if (view_present(field) && http_if_range_holds(field, etag))
        CHECK(http_etag_listed(field, etag, false));
}

/* One line or the same in two lines: the same answer. */
static void check_accept(struct view value)
{
    struct view type = VIEW_LIT("a/b");
    struct http_field fields[] = {{VIEW_LIT("accept"), value, HTTP_KNOWN_ACCEPT},
                                  {VIEW_LIT("accept"), value, HTTP_KNOWN_ACCEPT}};
    struct http_request one = {.fields = fields, .fields_count = 1},
                        two = {.fields = fields, .fields_count = 2};
    CHECK(http_request_accepts(&one, type) == http_request_accepts(&two, type));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint64_t whole;
    if (size < sizeof(whole))
        return 0;
    memcpy(&whole, data, sizeof(whole));
    size_t len = size - sizeof(whole);
    char *text = malloc(len ? len : 1);
    CHECK(text);
    memcpy(text, data + sizeof(whole), len);
    struct view field = view_of(text, len);
    check_range(field, whole);
    check_range(field, whole % 4096);
    check_content_range(field);
    check_etags(field);
    check_accept(field);
    free(text);
    return 0;
}
