/* SPDX-License-Identifier: Apache-2.0 */
/* ClientHellos: the answer for the whole does not depend on what was asked about its beginning. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "dataplane/http/client_hello.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct client_hello hello, part;
    uint8_t *bytes = malloc(size ? size : 1);
    CHECK(bytes);
    if (size)
        memcpy(bytes, data, size);
    int ret = client_hello_read(bytes, size, &hello);
    CHECK(ret == 0 || ret == -EAGAIN || ret == -EBADMSG);
    CHECK(memchr(hello.name, '\0', sizeof(hello.name)));
    if (ret == -EAGAIN && size < CLIENT_HELLO_MAX)
        for (size_t n = 0; n<size; n += size> 64 ? 13 : 1)
            CHECK(client_hello_read(bytes, n, &part) == -EAGAIN);
    free(bytes);
    return 0;
}
