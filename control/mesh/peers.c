/* SPDX-License-Identifier: Apache-2.0 */
#include "control/mesh/peers.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

enum { LINE_MAX_BYTES = 24 + ADDRESS_TEXT_MAX };

static bool address_of(const char *text, size_t len, struct config_address *out)
{
    char copy[ADDRESS_TEXT_MAX];
    const char *hint;
    if (len >= sizeof(copy))
        return false;
    memcpy(copy, text, len);
    copy[len] = '\0';
    return config_address_parse(copy, out, &hint) == 0;
}

void peers_format(const struct frame_manager *managers, size_t count, struct pki_text *out)
{
    size_t cap = count * LINE_MAX_BYTES + 1;
    out->data = calloc(1, cap);
    out->len = 0;
    CHECK(out->data);
    for (size_t i = 0; i < count; i++) {
        struct config_address address = {0};
        if (managers[i].id == 0 ||
            !address_of(managers[i].mesh_address.data, managers[i].mesh_address.len, &address))
            continue;
        out->len += (size_t)snprintf(out->data + out->len, cap - out->len, "%" PRIu64 " %s\n", managers[i].id,
                                     address.text);
    }
}

size_t peers_parse(const char *text, struct mesh_node *out, size_t max)
{
    size_t count = 0;
    while (text && *text && count < max) {
        const char *end = strchrnul(text, '\n');
        char *space;
        struct mesh_node node = {.dial = true};
        node.id = *text >= '1' && *text <= '9' ? strtoull(text, &space, 10) : 0;
        if (node.id && *space == ' ' && address_of(space + 1, (size_t)(end - space - 1), &node.address))
            out[count++] = node;
        text = *end ? end + 1 : end;
    }
    return count;
}
