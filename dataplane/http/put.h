/* SPDX-License-Identifier: Apache-2.0 */
/* How parts of a head are appended; the first that does not fit is remembered (response.h). Private to the
 * HTTP layer. */
#ifndef FL_HTTP_PUT_H
#define FL_HTTP_PUT_H

#include "response.h"

void http_put(struct http_response *res, struct view v);

/* What may stand in a field's value: -EINVAL for anything that could end its line. */
void http_put_value(struct http_response *res, struct view v);

/* A whole line; the name is a token already. */
void http_put_field(struct http_response *res, struct view name, struct view value);

#endif
