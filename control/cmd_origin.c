/* SPDX-License-Identifier: Apache-2.0 */
#include "control/cmd_origin.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "cmd.h"

enum { ORIGIN_TEXT_MAX = 24, ID_DIGITS_MAX = 20 };

uint64_t cmd_origin_take(const char *source, size_t *len)
{
    const char *at = *len ? memrchr(source, '@', *len) : NULL;
    size_t digits = at ? *len - (size_t)(at - source) - 1 : 0;
    uint64_t id = 0;
    if (digits == 0 || digits > ID_DIGITS_MAX)
        return 0;
    for (size_t i = 1; i <= digits; i++) {
        if (at[i] < '0' || at[i] > '9' || __builtin_mul_overflow(id, 10, &id) ||
            __builtin_add_overflow(id, (uint64_t)(at[i] - '0'), &id))
            return 0;
    }
    if (id)
        *len = (size_t)(at - source);
    return id;
}

void *cmd_origin_set(void *cmd, size_t *len, uint64_t node)
{
    struct wire_reader r = {.buf = cmd, .len = *len};
    struct cmd_head head;
    char source[SOURCE_TEXT_MAX + ORIGIN_TEXT_MAX];
    cmd_get_head(&r, &head);
    if (r.failed || head.source_len > SOURCE_TEXT_MAX)
        return cmd;
    size_t before = head.source_len;
    if (cmd_origin_take(head.source, &before))
        return cmd;
    head.source_len =
        (size_t)snprintf(source, sizeof(source), "%.*s@%" PRIu64, (int)before, head.source, node);
    head.source = source;
    if (head.source_len > SOURCE_TEXT_MAX)
        return cmd;
    struct wire_writer w = {.cap = *len + ORIGIN_TEXT_MAX};
    w.buf = malloc(w.cap);
    CHECK(w.buf);
    cmd_put_head(&w, &head);
    wire_put(&w, r.buf + r.pos, r.len - r.pos);
    CHECK(!w.failed);
    *len = w.len;
    free(cmd);
    return w.buf;
}
