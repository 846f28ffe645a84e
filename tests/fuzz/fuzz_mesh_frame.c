/* SPDX-License-Identifier: Apache-2.0 */
/* Every reader of the mesh's own frames, and of tokens, on the same bytes; what is read is written and read
 * again. */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/mesh/frame.h"
#include "control/mesh/token.h"

static uint64_t sum;

static void touch(struct frame_text text)
{
    for (size_t i = 0; i < text.len; i++)
        sum += (uint8_t)text.data[i];
}

static void head(const uint8_t *data, size_t size)
{
    struct frame_head in, again;
    uint8_t out[FRAME_HEAD_BYTES];
    if (size < FRAME_HEAD_BYTES || frame_head_get(data, MESH_BODY_MAX, &in) != MESH_OK)
        return;
    CHECK(in.bytes <= MESH_BODY_MAX && in.type && in.type < MESH_TYPES_END);
    frame_head_put(&in, out);
    CHECK(memcmp(out, data, sizeof(out)) == 0 && frame_head_get(out, MESH_BODY_MAX, &again) == MESH_OK);
}

static void join(const uint8_t *data, size_t size)
{
    struct frame_join in;
    uint8_t out[4 * FRAME_GUEST_BODY_MAX];
    if (frame_join_get(data, size, &in))
        return;
    touch(in.name);
    touch(in.request);
    touch(in.mesh_address);
    touch(in.data_address);
    CHECK(frame_join_put(&in, out, sizeof(out)) == size && memcmp(out, data, size) == 0);
}

static void reply(const uint8_t *data, size_t size)
{
    static uint8_t out[4 * FRAME_REPLY_MAX];
    struct frame_join_reply in;
    if (frame_join_reply_get(data, size, &in))
        return;
    touch(in.refusal);
    touch(in.cert);
    touch(in.ca);
    touch(in.name);
    for (size_t i = 0; i < in.manager_count; i++) {
        touch(in.manager[i].name);
        touch(in.manager[i].mesh_address);
    }
    CHECK(frame_join_reply_put(&in, out, sizeof(out)) == size && memcmp(out, data, size) == 0);
}

static void token(const uint8_t *data, size_t size)
{
    struct token in, again;
    char text[TOKEN_TEXT_MAX * 2], out[TOKEN_TEXT_MAX];
    if (size >= sizeof(text))
        return;
    memcpy(text, data, size);
    text[size] = '\0';
    if (token_parse(text, &in))
        return;
    token_format(&in, out);
    CHECK(token_parse(out, &again) == 0 && memcmp(&in, &again, sizeof(in)) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct frame_hello hello;
    head(data, size);
    if (frame_hello_get(data, size, &hello) == MESH_OK)
        touch(hello.software);
    join(data, size);
    reply(data, size);
    token(data, size);
    return 0;
}
