/* SPDX-License-Identifier: Apache-2.0 */
/* URLs, and the fields of answers that have some. Pure. */
#ifndef FL_MIRROR_URL_H
#define FL_MIRROR_URL_H

#include <stdbool.h>
#include <stddef.h>

enum { URL_ROOM = 4096 };

/* Whether scheme, host and port are the same. */
bool url_same_origin(const char *a, const char *b);
bool url_is_https(const char *url);

/* What a Location or a link of an answer to `base` means. False: nothing that can be asked. */
bool url_resolve(const char *base, const char *reference, char out[URL_ROOM]);

/* The target of rel="next" in a Link field. False: there is none. */
bool url_next(const char *link, char out[URL_ROOM]);

/* Adds ?key=value, or &key=value; the value escaped. False: no room. */
bool url_add(char url[URL_ROOM], const char *key, const char *value);

#endif
