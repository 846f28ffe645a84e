/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Error answers of the registry: the distribution specification's JSON, {"errors":[{code, message, detail}]}.
 * The message says what is wrong in words and ends with the object it is about; detail has the object alone.
 *
 * The specification has no code for some of what happens here: 507 and 503 are UNAVAILABLE, 500 is UNKNOWN
 * and a broken n or last parameter is PAGINATION_NUMBER_INVALID, as Docker's registry has them.
 */
#ifndef FL_REGISTRY_ERROR_H
#define FL_REGISTRY_ERROR_H

#include "dataplane/stream.h"

enum error_code {
    ERROR_BLOB_UNKNOWN,
    ERROR_BLOB_UPLOAD_INVALID,
    ERROR_BLOB_UPLOAD_UNKNOWN,
    ERROR_DIGEST_INVALID,
    ERROR_MANIFEST_BLOB_UNKNOWN,
    ERROR_MANIFEST_INVALID,
    ERROR_MANIFEST_UNKNOWN,
    ERROR_NAME_INVALID,
    ERROR_NAME_UNKNOWN,
    ERROR_SIZE_INVALID,
    ERROR_TAG_INVALID,
    ERROR_DENIED,
    ERROR_UNSUPPORTED,
    ERROR_TOOMANYREQUESTS,
    ERROR_PAGINATION_NUMBER_INVALID,
    ERROR_UNAVAILABLE,
    ERROR_UNKNOWN,
    ERROR_CODES_COUNT
};

/* One entry. object and its key ("digest", "tag", "name", ...) may be absent and NULL. */
struct error_item {
    enum error_code code;
    const char *message; /* without a full stop */
    const char *key;
    struct view object;
};

/*
 * Begins an error's response, to which fields may be added, and error_send ends the stream's answer. The
 * second call copies what it is given. Entries that find no room any more are left out.
 */
struct http_response *error_begin(struct stream *s, int status);
void error_send(struct stream *s, const struct error_item *items, unsigned count);

/* Both, for one entry. */
void error_answer(struct stream *s, int status, enum error_code code, const char *message, const char *key,
                  struct view object);

/* 503 or 429 with Retry-After: the same request may succeed soon. */
void error_answer_later(struct stream *s, int status, const char *message);

#endif
