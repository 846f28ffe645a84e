/* SPDX-License-Identifier: Apache-2.0 */
/* The named reasons for which the HTTP layer refuses a request; the list is reject.def. */
#ifndef FL_HTTP_REJECT_H
#define FL_HTTP_REJECT_H

enum http_reject_reason {
    HTTP_REJECT_NONE = 0,
#define HTTP_REJECT(name, status, slug, text) HTTP_REJECT_##name,
#include "reject.def"
#undef HTTP_REJECT
    HTTP_REJECT_COUNT
};

struct http_reject {
    int status; /* of the answer */
    enum http_reject_reason reason;
};

/* The refusal for a reason, with its status. */
struct http_reject http_reject_of(enum http_reject_reason reason);

/* The short kebab-case name, for counters and logs. "none" for HTTP_REJECT_NONE. */
const char *http_reject_slug(enum http_reject_reason reason);

/* One sentence for people, without a full stop. */
const char *http_reject_text(enum http_reject_reason reason);

#endif
