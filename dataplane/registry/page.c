/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/registry/page.h"

#include "check.h"
#include "dataplane/http/number.h"
#include "dataplane/http/uri.h"

bool page_size(struct api *a, uint64_t *n)
{
    uint64_t max = stream_setting(a->s, SET_REGISTRY_PAGE_MAX);
    int err = http_query_get_u64(a->s->req.query, "n", max, n);
    if (err == -ENOENT || err == -ERANGE)
        *n = max;
    if (err != -EINVAL)
        return true;
    error_answer(a->s, 400, ERROR_PAGINATION_NUMBER_INVALID, "n is not a number", NULL, (struct view){0});
    return false;
}

bool page_after(struct api *a, size_t max, char **buf, struct view *after)
{
    *after = (struct view){0};
    *buf = arena_alloc(&a->s->arena, max);
    ssize_t len = *buf ? http_query_get(a->s->req.query, "last", *buf, max) : -ENOBUFS;
    if (len == -ENOENT)
        return true;
    if (len >= 0) {
        *after = view_of(*buf, (size_t)len);
        return true;
    }
    error_answer(a->s, 400, ERROR_PAGINATION_NUMBER_INVALID, "last is not an entry of this list", NULL,
                 (struct view){0});
    return false;
}

void page_link(struct http_response *res, struct view first, const char *middle, struct view end, uint64_t n,
               struct view last, struct view more)
{
    char digits[NUMBER_DIGITS_MAX], text[3 * REPO_NAME_MAX];
    ssize_t len = http_percent_encode(last, "/:", text, sizeof(text));
    CHECK(len >= 0);
    struct view parts[] = {VIEW_LIT("</v2/"),
                           first,
                           view_of_str(middle),
                           end,
                           VIEW_LIT("?n="),
                           number_write(n, digits),
                           VIEW_LIT("&last="),
                           view_of(text, (size_t)len),
                           more,
                           VIEW_LIT(">; rel=\"next\"")};
    http_response_field_parts(res, "Link", parts, ARRAY_SIZE(parts));
}

bool page_put(struct page_text *t, struct view v)
{
    if (v.len > t->cap - t->len)
        return false;
    if (v.len)
        memcpy(t->buf + t->len, v.p, v.len);
    t->len += v.len;
    return true;
}
