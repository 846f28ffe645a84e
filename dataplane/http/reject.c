/* SPDX-License-Identifier: Apache-2.0 */
#include "reject.h"

#include "check.h"

struct row {
    int status;
    const char *slug;
    const char *text;
};

static const struct row rows[HTTP_REJECT_COUNT] = {
    [HTTP_REJECT_NONE] = {0, "none", "not refused"},
#define HTTP_REJECT(name, status, slug, text) [HTTP_REJECT_##name] = {status, slug, text},
#include "reject.def"
#undef HTTP_REJECT
};

static const struct row *row_of(enum http_reject_reason reason)
{
    CHECK((unsigned)reason < HTTP_REJECT_COUNT);
    return &rows[reason];
}

struct http_reject http_reject_of(enum http_reject_reason reason)
{
    return (struct http_reject){.status = row_of(reason)->status, .reason = reason};
}

const char *http_reject_slug(enum http_reject_reason reason)
{
    return row_of(reason)->slug;
}

const char *http_reject_text(enum http_reject_reason reason)
{
    return row_of(reason)->text;
}
