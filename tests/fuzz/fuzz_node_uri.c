/* SPDX-License-Identifier: Apache-2.0 */
/* Names of nodes in certificates: what is taken is what would be written for it. */
#include <inttypes.h>
#include <stdio.h>

#include "check.h"
#include "node_uri.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char text[128] = NODE_URI_SCHEME;
    uint8_t cluster[16];
    uint64_t node;
    if (!node_uri_parse((const char *)data, size, cluster, &node))
        return 0;
    size_t len = strlen(text);
    for (int i = 0; i < 16; i++)
        len += (size_t)snprintf(text + len, sizeof(text) - len, "%02x", cluster[i]);
    len += (size_t)snprintf(text + len, sizeof(text) - len, NODE_URI_MIDDLE "%" PRIu64, node);
    CHECK(len == size && memcmp(text, data, size) == 0 && node > 0);
    return 0;
}
