/* SPDX-License-Identifier: Apache-2.0 */
/* Content negotiation as far as a registry needs it (RFC 9110, 12.5.1). Pure. */
#ifndef FL_HTTP_ACCEPT_H
#define FL_HTTP_ACCEPT_H

#include "http1.h"

/*
 * Whether the client takes a media type ("type/subtype", without parameters). No Accept, or an empty one,
 * takes everything. Of several ranges that match, the most specific decides, the first of equals; it refuses
 * only with a q of zero. Parameters other than q are not looked at, members that are no media range are
 * skipped.
 */
bool http_request_accepts(const struct http_request *req, struct view media_type);

#endif
