/* SPDX-License-Identifier: Apache-2.0 */
/* Names of methods and of the header fields this product looks at. Private to the HTTP layer. */
#ifndef FL_HTTP_KNOWN_H
#define FL_HTTP_KNOWN_H

#include "http1.h"

/* HTTP_KNOWN_NOT if the name is none of them. Any case. */
enum http_known http_known_of(struct view name);

/* HTTP_OTHER if the token is none of the methods. Methods are case-sensitive (RFC 9110, 9.1). */
enum http_method http_method_of(struct view token);

#endif
