/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of a request head mean together. Private to the request reader. */
#ifndef FL_HTTP_MEANING_H
#define FL_HTTP_MEANING_H

#include "http1.h"

/*
 * Sorts req->target into its form, path, query and, for the absolute form, host (RFC 9112, 3.2). Needs method
 * and target. Returns HTTP_REJECT_NONE or the reason against it.
 */
enum http_reject_reason http_target_split(struct http_request *req);

/*
 * Derives host, framing, persistence, expectation and upgrade from the fields of a complete head. Returns
 * HTTP_REJECT_NONE or the reason against it.
 */
enum http_reject_reason http_request_judge(struct http_request *req);

/*
 * What frames a body, from Content-Length and Transfer-Encoding (RFC 9112, 6). Leaves *framing alone if
 * neither is there.
 */
enum http_reject_reason http_framing_judge(const struct view known[HTTP_KNOWN_COUNT], uint8_t version_minor,
                                           enum http_framing *framing, uint64_t *length);

/* The reason for refusing a second line of a field that may stand only once. */
enum http_reject_reason http_repeated_reason(enum http_known known);

#endif
