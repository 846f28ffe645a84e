/* SPDX-License-Identifier: Apache-2.0 */
#include "control/verdict_frame.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "abi.h"
#include "check.h"
#include "wire.h"

enum { VERDICT_VERSION = 1, TABLE_STEP = 1024 };

size_t verdict_frame_put(uint8_t flags, const struct verdict_row *row, size_t count,
                         uint8_t out[VERDICT_FRAME_MAX])
{
    struct wire_writer w = {.buf = out, .cap = VERDICT_FRAME_MAX};
    CHECK(count <= VERDICT_ROWS_MAX);
    wire_put_u16(&w, VERDICT_VERSION);
    wire_put_u8(&w, flags);
    wire_put_u32(&w, (uint32_t)count);
    for (size_t i = 0; i < count; i++) {
        wire_put_u32(&w, row[i].id);
        wire_put_u16(&w, row[i].generation);
        wire_put_u8(&w, row[i].state);
    }
    CHECK(!w.failed);
    return w.len;
}

int verdict_frame_get(const void *body, size_t len, struct verdict_frame *out)
{
    struct wire_reader r = {.buf = body, .len = len};
    uint16_t version = wire_get_u16(&r);
    uint8_t flags = wire_get_u8(&r);
    uint32_t count = wire_get_u32(&r);
    if (r.failed || version != VERDICT_VERSION || flags & ~(VERDICT_BEGINS | VERDICT_ENDS) ||
        count > VERDICT_ROWS_MAX || len != VERDICT_HEAD_BYTES + (size_t)count * VERDICT_ROW_BYTES)
        return -EPROTO;
    *out = (struct verdict_frame){.flags = flags, .count = count, .rows = r.buf + r.pos};
    struct verdict_row row;
    for (size_t i = 0; i < count; i++) {
        verdict_frame_row(out, i, &row);
        if (row.state != ABI_UP && row.state != ABI_DOWN && row.state != ABI_UNKNOWN)
            return -EPROTO;
    }
    return 0;
}

void verdict_frame_row(const struct verdict_frame *frame, size_t i, struct verdict_row *out)
{
    struct wire_reader r = {.buf = frame->rows + i * VERDICT_ROW_BYTES, .len = VERDICT_ROW_BYTES};
    out->id = wire_get_u32(&r);
    out->generation = wire_get_u16(&r);
    out->state = wire_get_u8(&r);
}

static void put(struct verdict_table *t, const struct verdict_row *row)
{
    if (row->id >= t->cap) {
        uint32_t cap = (row->id / TABLE_STEP + 1) * TABLE_STEP;
        t->row = reallocarray(t->row, cap, sizeof(*t->row));
        CHECK(t->row);
        memset(t->row + t->cap, 0, (cap - t->cap) * sizeof(*t->row));
        t->cap = cap;
    }
    if (row->id >= t->count)
        t->count = row->id + 1;
    t->row[row->id].generation = row->generation;
    t->row[row->id].state = row->state;
    t->row[row->id].fresh = true;
}

/* The kernel is told, too, that nothing is said of those that were known. */
static void begin(struct verdict_table *t)
{
    for (uint32_t id = 0; id < t->count; id++) {
        t->row[id].fresh |= t->row[id].state != ABI_UNKNOWN;
        t->row[id].state = ABI_UNKNOWN;
    }
    t->open = true;
    t->whole = false;
}

bool verdict_table_take(struct verdict_table *t, const struct verdict_frame *frame, uint32_t ids_max)
{
    if (frame->flags & VERDICT_BEGINS)
        begin(t);
    if (!t->open && !t->whole)
        return false;
    for (size_t i = 0; i < frame->count; i++) {
        struct verdict_row row;
        verdict_frame_row(frame, i, &row);
        if (row.id < ids_max)
            put(t, &row);
    }
    if (t->open && frame->flags & VERDICT_ENDS) {
        t->open = false;
        t->whole = true;
    }
    return t->whole;
}

void verdict_table_fini(struct verdict_table *t)
{
    free(t->row);
    *t = (struct verdict_table){0};
}
