/* SPDX-License-Identifier: Apache-2.0 */
#include "snapshot_piece.h"

#include "check.h"
#include "wire.h"

size_t snapshot_piece_encode(const struct snapshot_piece *piece, uint8_t *out)
{
    struct wire_writer w = {.buf = out, .cap = SNAPSHOT_PIECE_HEAD_BYTES + piece->len};
    wire_put_u16(&w, SNAPSHOT_PIECE_VERSION);
    wire_put_u16(&w, piece->file);
    wire_put_u64(&w, piece->index);
    wire_put_u64(&w, piece->term);
    wire_put_u64(&w, piece->offset);
    wire_put_u32(&w, piece->want);
    wire_put_bytes(&w, piece->data, piece->len);
    CHECK(!w.failed);
    return w.len;
}

int snapshot_piece_decode(const void *data, size_t len, struct snapshot_piece *piece)
{
    struct wire_reader r = {.buf = data, .len = len};
    uint16_t version = wire_get_u16(&r);
    piece->file = wire_get_u16(&r);
    piece->index = wire_get_u64(&r);
    piece->term = wire_get_u64(&r);
    piece->offset = wire_get_u64(&r);
    piece->want = wire_get_u32(&r);
    piece->data = wire_get_bytes(&r, &piece->len);
    if (len >= sizeof(version) && version != SNAPSHOT_PIECE_VERSION)
        return -EPROTO;
    if (!wire_at_end(&r) || piece->file >= DB_FILES || piece->index == 0 || piece->term == 0 ||
        piece->offset > INT64_MAX / 2 || piece->want > SNAPSHOT_PIECE_BYTES ||
        piece->len > SNAPSHOT_PIECE_BYTES)
        return -EBADMSG;
    return 0;
}
