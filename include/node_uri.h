/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The name in a node's certificate, a URI: fairlead://CLUSTER-ID/node/ID, the cluster's id in 32 hexadecimal
 * digits, the node's in decimal without leading zeros. Pure.
 */
#ifndef FL_NODE_URI_H
#define FL_NODE_URI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define NODE_URI_SCHEME "fairlead://"
#define NODE_URI_MIDDLE "/node/"

enum { NODE_URI_ID_DIGITS = 19 }; /* any number of so many fits */

static inline int node_uri_hex(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* False: it is none. */
static inline bool node_uri_parse(const char *text, size_t len, uint8_t cluster_id[16], uint64_t *node_id)
{
    static const char scheme[] = NODE_URI_SCHEME, middle[] = NODE_URI_MIDDLE;
    const char *end = text + len;
    if (len < sizeof(scheme) - 1 + 32 + sizeof(middle) || memcmp(text, scheme, sizeof(scheme) - 1) != 0)
        return false;
    text += sizeof(scheme) - 1;
    for (int i = 0; i < 16; i++, text += 2) {
        int high = node_uri_hex(text[0]), low = node_uri_hex(text[1]);
        if (high < 0 || low < 0)
            return false;
        cluster_id[i] = (uint8_t)(high << 4 | low);
    }
    if (memcmp(text, middle, sizeof(middle) - 1) != 0)
        return false;
    text += sizeof(middle) - 1;
    if (end - text > NODE_URI_ID_DIGITS || *text == '0')
        return false;
    *node_id = 0;
    for (; text < end; text++) {
        if (*text < '0' || *text > '9')
            return false;
        *node_id = *node_id * 10 + (uint64_t)(*text - '0');
    }
    return true;
}

#endif
