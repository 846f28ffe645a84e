/* SPDX-License-Identifier: Apache-2.0 */
#include "control/transaction.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"

void transaction_begin(struct transaction *t, const char *actor, const char *source, size_t cap)
{
    struct cmd_head head = {.type = CMD_TRANSACTION,
                            .actor = actor,
                            .actor_len = strlen(actor),
                            .source = source,
                            .source_len = strlen(source),
                            .request_id = ""};
    *t = (struct transaction){.w = {.buf = malloc(cap), .cap = cap}};
    CHECK(t->w.buf);
    cmd_put_head(&t->w, &head);
    t->count_at = t->w.len;
    wire_put_u32(&t->w, 0);
}

void transaction_add(struct transaction *t, void *cmd, size_t len)
{
    struct wire_reader r = {.buf = cmd, .len = len};
    struct cmd_head head;
    cmd_get_head(&r, &head);
    wire_put_u16(&t->w, head.type);
    wire_put_bytes(&t->w, r.buf + r.pos, r.len - r.pos);
    t->count++;
    free(cmd);
}

void transaction_end(struct transaction *t)
{
    struct wire_writer count = {.buf = t->w.buf + t->count_at, .cap = 4};
    wire_put_u32(&count, t->count);
}
