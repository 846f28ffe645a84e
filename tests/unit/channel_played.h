/* SPDX-License-Identifier: Apache-2.0 */
/* Control at the other end of a ring's channel, played: questions are kept, and answered when a test says so.
 * And a clock that the test moves. */
#ifndef FL_TESTS_CHANNEL_PLAYED_H
#define FL_TESTS_CHANNEL_PLAYED_H

#include <string.h>

#include "check.h"
#include "dataplane/link.h"
#include "dataplane/ring.h"

enum { PLAYED_ASKED_MAX = 256 };

static uint64_t clock_ms;
static struct channel_query *asked[PLAYED_ASKED_MAX];
static unsigned asked_count;
static int channel_error; /* why nothing can be asked */

uint64_t loop_now_ms(const struct loop *loop)
{
    (void)loop;
    return clock_ms;
}

static void played_begin(void)
{
    asked_count = 0;
    channel_error = 0;
    clock_ms = 5000;
}

/* Takes a question in, whose body is a head of this size and a text of less than text_cap bytes. 0, or
 * channel_error. */
static int played_take(struct channel_query *q, void *head, size_t head_bytes, char *text, size_t text_cap,
                       const void *body, size_t len)
{
    if (channel_error)
        return channel_error;
    assert_true(asked_count < PLAYED_ASKED_MAX && len >= head_bytes && len - head_bytes < text_cap);
    memcpy(head, body, head_bytes);
    memset(text, 0, text_cap);
    memcpy(text, (const uint8_t *)body + head_bytes, len - head_bytes);
    asked[asked_count++] = q;
    return 0;
}

#endif
