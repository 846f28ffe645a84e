/* SPDX-License-Identifier: Apache-2.0 */
#include "range.h"

#include "number.h"

static const struct http_range full = {.kind = HTTP_RANGE_FULL};
static const struct http_range unsatisfiable = {.kind = HTTP_RANGE_UNSATISFIABLE};

/* Digits of any length; a value that does not fit is as good as the largest. */
static bool position_read(struct view text, uint64_t *out)
{
    return number_read(text, UINT64_MAX, out) != -EINVAL;
}

static struct http_range suffix_evaluate(struct view digits, uint64_t size)
{
    uint64_t count;
    if (!position_read(digits, &count))
        return full;
    if (count == 0 || size == 0)
        return unsatisfiable;
    uint64_t first = count < size ? size - count : 0;
    return (struct http_range){.kind = HTTP_RANGE_PART, .first = first, .last = size - 1};
}

struct http_range http_range_evaluate(struct view field, uint64_t size)
{
    struct view set, last_digits;
    uint64_t first, last = UINT64_MAX;
    if (!view_present(field))
        return full;
    struct view unit = view_split(field, '=', &set);
    if (!view_ilit(unit, "bytes") || !view_present(set))
        return full;
    struct view first_digits = view_split(view_trim(set), '-', &last_digits);
    if (!view_present(last_digits))
        return full;
    if (view_empty(first_digits))
        return suffix_evaluate(last_digits, size);
    if (!position_read(first_digits, &first))
        return full;
    if (!view_empty(last_digits) && !position_read(last_digits, &last))
        return full;
    if (last < first || first >= size)
        return unsatisfiable;
    return (struct http_range){
        .kind = HTTP_RANGE_PART, .first = first, .last = last < size ? last : size - 1};
}

int http_content_range_read(struct view field, uint64_t *first, uint64_t *last)
{
    struct view text = field, size_text = {NULL, 0}, last_text;
    uint64_t size = UINT64_MAX;
    if (text.len > 6 && view_ilit(view_of(text.p, 6), "bytes ")) {
        text = view_split(view_skip(text, 6), '/', &size_text);
        if (!view_present(size_text))
            return -EINVAL;
        if (!view_lit(size_text, "*") && number_read(size_text, INT64_MAX, &size))
            return -EINVAL;
    }
    struct view first_text = view_split(text, '-', &last_text);
    if (!view_present(last_text) || number_read(first_text, INT64_MAX, first) ||
        number_read(last_text, INT64_MAX, last))
        return -EINVAL;
    return *first <= *last && *last < size ? 0 : -EINVAL;
}

struct etag {
    bool weak;
    struct view opaque; /* without the quotes */
};

/* Takes the entity tag at the front of *list. A quote may stand only at its ends, a comma also inside. */
static bool etag_take(struct view *list, struct etag *tag)
{
    *tag = (struct etag){.weak = view_starts(*list, VIEW_LIT("W/"))};
    if (tag->weak)
        *list = view_skip(*list, 2);
    if (list->len && list->p[0] == '"') {
        tag->opaque = view_split(view_skip(*list, 1), '"', list);
        return view_present(*list);
    }
    size_t len = 0;
    while (len < list->len && list->p[len] != ',' && list->p[len] != ' ' && list->p[len] != '\t')
        len++;
    tag->opaque = view_of(list->p, len);
    *list = view_skip(*list, len);
    return len > 0;
}

bool http_etag_listed(struct view list, struct view etag, bool weak)
{
    struct etag tag;
    struct view wanted = view_of(etag.p + 1, etag.len - 2);
    list = view_trim(list);
    if (view_lit(list, "*"))
        return true;
    for (;;) {
        while (list.len && (list.p[0] == ',' || list.p[0] == ' ' || list.p[0] == '\t'))
            list = view_skip(list, 1);
        if (!etag_take(&list, &tag))
            return false;
        if ((weak || !tag.weak) && view_eq(tag.opaque, wanted))
            return true;
        list = view_trim(list);
        if (list.len && list.p[0] != ',')
            return false;
    }
}

bool http_request_has_etag(const struct http_request *req, enum http_known known, struct view etag, bool weak)
{
    uint32_t at = 0;
    struct view list;
    while (view_present(list = http_request_next_field(req, known, &at)))
        if (http_etag_listed(list, etag, weak))
            return true;
    return false;
}

bool http_if_range_holds(struct view field, struct view etag)
{
    return !view_present(field) || view_eq(field, etag);
}
