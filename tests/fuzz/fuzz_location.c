/* SPDX-License-Identifier: Apache-2.0 */
/* Where a server sends its client: parts lie inside, in order, and none has a character that ends a line or a
 * name. */
#include <stdlib.h>

#include "check.h"
#include "dataplane/http/location.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct http_location l;
    char *text = malloc(size ? size : 1);
    CHECK(text);
    if (size)
        memcpy(text, data, size);
    if (http_location_read(view_of(text, size), &l) == 0) {
        CHECK(l.port && l.elsewhere == (l.host.len > 0) && l.host.len <= HTTP_HOST_MAX);
        CHECK(!l.host.len || (l.host.p >= text && l.host.p + l.host.len <= text + size));
        CHECK(!l.target.len || (l.target.p >= text && l.target.p + l.target.len <= text + size));
        CHECK(l.target.len ? l.target.p[0] == '/' : l.elsewhere);
        for (size_t i = 0; i < l.host.len; i++)
            CHECK(l.host.p[i] > ' ' && l.host.p[i] < 0x7f && l.host.p[i] != '@' && l.host.p[i] != '/');
        for (size_t i = 0; i < l.target.len; i++)
            CHECK(l.target.p[i] > ' ' && l.target.p[i] < 0x7f && l.target.p[i] != '#');
    }
    free(text);
    return 0;
}
