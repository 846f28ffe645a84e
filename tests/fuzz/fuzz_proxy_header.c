/* SPDX-License-Identifier: Apache-2.0 */
/* PROXY headers: what is read lies inside, and is written and read again as the same. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "dataplane/http/proxy_header.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct proxy_header h, again;
    uint8_t *bytes = malloc(size ? size : 1), out[PROXY_HEADER_WRITE_MAX];
    CHECK(bytes);
    if (size)
        memcpy(bytes, data, size);
    ssize_t n = proxy_header_read(bytes, size, &h);
    CHECK((n > 0 && (size_t)n <= size && n <= PROXY_HEADER_MAX) || n == -EAGAIN || n == -EBADMSG);
    for (ssize_t i = 0; i<n; i += n> 64 ? 17 : 1)
        CHECK(proxy_header_read(bytes, (size_t)i, &again) == -EAGAIN);
    if (n > 0)
        for (unsigned version = 1; version <= 2; version++) {
            size_t len = proxy_header_write(&h, version, out);
            CHECK(len <= sizeof(out) && proxy_header_read(out, len, &again) == (ssize_t)len);
            CHECK(memcmp(&h, &again, sizeof(h)) == 0);
        }
    free(bytes);
    return 0;
}
