/* SPDX-License-Identifier: Apache-2.0 */
/* The beginning and the end of a command that is made to be proposed. */
#ifndef FL_STATE_CMD_NEW_H
#define FL_STATE_CMD_NEW_H

#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "cmd.h"

enum { CMD_HEAD_ROOM = 512 }; /* with what stands before and between a command's lists */

/* Its head is in it, and so many bytes have room behind it. Who gave it out is known by no request. */
static inline struct wire_writer cmd_new(enum cmd_type type, const char *actor, const char *source,
                                         size_t room)
{
    const struct cmd_head head = {.type = (uint16_t)type,
                                  .actor = actor,
                                  .actor_len = strlen(actor),
                                  .source = source,
                                  .source_len = strlen(source),
                                  .request_id = ""};
    struct wire_writer w = {.cap = CMD_HEAD_ROOM + head.actor_len + head.source_len + room};
    w.buf = malloc(w.cap);
    CHECK(w.buf);
    cmd_put_head(&w, &head);
    return w;
}

/* The command, to be freed, and its length. */
static inline void *cmd_end(const struct wire_writer *w, size_t *len)
{
    CHECK(!w->failed);
    *len = w->len;
    return w->buf;
}

#endif
