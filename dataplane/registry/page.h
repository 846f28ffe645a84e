/* SPDX-License-Identifier: Apache-2.0 */
/* Pages of lists: the n and last parameters, and the Link to the next page (RFC 8288). */
#ifndef FL_REGISTRY_PAGE_H
#define FL_REGISTRY_PAGE_H

#include "dataplane/registry/api.h"

/*
 * Reads n: registry.page_max if it is absent or larger. False: the answer (400) was sent.
 */
bool page_size(struct api *a, uint64_t *n);

/*
 * Reads last, which is the entry before the page's first. *buf gets max bytes of the arena; *after points
 * there and is absent without the parameter. False: the answer was sent.
 */
bool page_after(struct api *a, size_t max, char **buf, struct view *after);

/* Link: </v2/<first><middle><end>?n=..&last=..<more>>; rel="next". more is empty or begins with "&". */
void page_link(struct http_response *res, struct view first, const char *middle, struct view end, uint64_t n,
               struct view last, struct view more);

/* Text that a fill callback writes: how much it has written so far. */
struct page_text {
    char *buf;
    size_t len, cap;
};

/* False, and nothing written, if not all of it fits. */
bool page_put(struct page_text *t, struct view v);

#endif
