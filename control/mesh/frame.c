/* SPDX-License-Identifier: Apache-2.0 */
#include "control/mesh/frame.h"

#include <errno.h>

enum { HELLO_MAGIC = 0x314d4c46 /* "FLM1" */, JOIN_VERSION = 1 };

void frame_head_put(const struct frame_head *head, uint8_t out[FRAME_HEAD_BYTES])
{
    struct wire_writer w = {.buf = out, .cap = FRAME_HEAD_BYTES};
    wire_put_u32(&w, head->bytes);
    wire_put_u16(&w, head->type);
    wire_put_u16(&w, head->version);
    wire_put_u64(&w, head->id);
}

enum mesh_reason frame_head_get(const uint8_t in[FRAME_HEAD_BYTES], size_t limit, struct frame_head *out)
{
    struct wire_reader r = {.buf = in, .len = FRAME_HEAD_BYTES};
    out->bytes = wire_get_u32(&r);
    out->type = wire_get_u16(&r);
    out->version = wire_get_u16(&r);
    out->id = wire_get_u64(&r);
    if (out->version != FRAME_VERSION)
        return MESH_VERSION;
    return out->type == 0 || out->type >= MESH_TYPES_END || out->bytes > limit ? MESH_FRAME : MESH_OK;
}

static void put_text(struct wire_writer *w, struct frame_text text)
{
    wire_put_bytes(w, text.data, text.len);
}

/* Printable ASCII, or PEM with its line ends: nothing that could forge a line of a log. */
static struct frame_text get_text(struct wire_reader *r, size_t max, bool lines)
{
    struct frame_text text;
    text.data = (const char *)wire_get_bytes(r, &text.len);
    if (text.len > max)
        r->failed = true;
    for (size_t i = 0; i < text.len && !r->failed; i++)
        if ((text.data[i] < ' ' || text.data[i] > '~') && !(lines && text.data[i] == '\n'))
            r->failed = true;
    return text;
}

size_t frame_hello_put(const struct frame_hello *hello, uint8_t out[FRAME_HELLO_MAX])
{
    struct wire_writer w = {.buf = out, .cap = FRAME_HELLO_MAX};
    wire_put_u32(&w, HELLO_MAGIC);
    wire_put_u16(&w, hello->lowest);
    wire_put_u16(&w, hello->highest);
    wire_put(&w, hello->cluster_id, sizeof(hello->cluster_id));
    wire_put_u64(&w, hello->node_id);
    put_text(&w, hello->software);
    return w.failed ? 0 : w.len;
}

/* What later versions append is not looked at. */
enum mesh_reason frame_hello_get(const void *body, size_t len, struct frame_hello *out)
{
    struct wire_reader r = {.buf = body, .len = len};
    uint32_t magic = wire_get_u32(&r);
    out->lowest = wire_get_u16(&r);
    out->highest = wire_get_u16(&r);
    const uint8_t *cluster_id = wire_get(&r, sizeof(out->cluster_id));
    out->node_id = wire_get_u64(&r);
    out->software = get_text(&r, FRAME_NAME_MAX, false);
    if (r.failed || magic != HELLO_MAGIC)
        return MESH_FRAME;
    memcpy(out->cluster_id, cluster_id, sizeof(out->cluster_id));
    return out->lowest > FRAME_VERSION || out->highest < FRAME_VERSION ? MESH_VERSION : MESH_OK;
}

size_t frame_join_put(const struct frame_join *join, void *out, size_t cap)
{
    struct wire_writer w = {.buf = out, .cap = cap};
    wire_put_u16(&w, JOIN_VERSION);
    wire_put(&w, join->secret, sizeof(join->secret));
    wire_put_u32(&w, join->cluster_version);
    put_text(&w, join->name);
    put_text(&w, join->mesh_address);
    put_text(&w, join->data_address);
    put_text(&w, join->request);
    return w.failed ? 0 : w.len;
}

int frame_join_get(const void *body, size_t len, struct frame_join *out)
{
    struct wire_reader r = {.buf = body, .len = len};
    *out = (struct frame_join){0};
    uint16_t version = wire_get_u16(&r);
    if (!r.failed && version != JOIN_VERSION)
        return -EPROTO;
    const uint8_t *secret = wire_get(&r, sizeof(out->secret));
    out->cluster_version = wire_get_u32(&r);
    out->name = get_text(&r, FRAME_NAME_MAX, false);
    out->mesh_address = get_text(&r, FRAME_ADDRESS_MAX, false);
    out->data_address = get_text(&r, FRAME_ADDRESS_MAX, false);
    out->request = get_text(&r, FRAME_GUEST_BODY_MAX, true);
    if (!wire_at_end(&r))
        return -EINVAL;
    memcpy(out->secret, secret, sizeof(out->secret));
    return 0;
}

size_t frame_join_reply_put(const struct frame_join_reply *reply, void *out, size_t cap)
{
    struct wire_writer w = {.buf = out, .cap = cap};
    wire_put_u16(&w, JOIN_VERSION);
    put_text(&w, reply->refusal);
    wire_put(&w, reply->cluster_id, sizeof(reply->cluster_id));
    wire_put_u64(&w, reply->node_id);
    put_text(&w, reply->name);
    put_text(&w, reply->cert);
    put_text(&w, reply->ca);
    wire_put_u32(&w, (uint32_t)reply->manager_count);
    for (size_t i = 0; i < reply->manager_count; i++) {
        wire_put_u64(&w, reply->manager[i].id);
        put_text(&w, reply->manager[i].name);
        put_text(&w, reply->manager[i].mesh_address);
    }
    return w.failed ? 0 : w.len;
}

int frame_join_reply_get(const void *body, size_t len, struct frame_join_reply *out)
{
    struct wire_reader r = {.buf = body, .len = len};
    *out = (struct frame_join_reply){0};
    uint16_t version = wire_get_u16(&r);
    if (!r.failed && version != JOIN_VERSION)
        return -EPROTO;
    out->refusal = get_text(&r, FRAME_GUEST_BODY_MAX, false);
    const uint8_t *cluster_id = wire_get(&r, sizeof(out->cluster_id));
    out->node_id = wire_get_u64(&r);
    out->name = get_text(&r, FRAME_NAME_MAX, false);
    out->cert = get_text(&r, FRAME_REPLY_MAX, true);
    out->ca = get_text(&r, FRAME_REPLY_MAX, true);
    out->manager_count = wire_get_u32(&r);
    for (size_t i = 0; i < out->manager_count && i < FRAME_MANAGERS_MAX; i++) {
        out->manager[i].id = wire_get_u64(&r);
        out->manager[i].name = get_text(&r, FRAME_NAME_MAX, false);
        out->manager[i].mesh_address = get_text(&r, FRAME_ADDRESS_MAX, false);
    }
    if (!wire_at_end(&r) || out->manager_count > FRAME_MANAGERS_MAX)
        return -EINVAL;
    memcpy(out->cluster_id, cluster_id, sizeof(out->cluster_id));
    return 0;
}
