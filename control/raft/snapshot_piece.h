/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The frames by which a snapshot's files go from one node to another: pure. Whoever needs a snapshot asks for
 * one piece at a time, so that nothing has to be held back, and nothing is kept by the one who gives but the
 * folder itself. All three frames look alike: u16 version, u16 file, u64 index, u64 term, u64 offset, u32
 * length asked for, bytes.
 */
#ifndef FL_RAFT_SNAPSHOT_PIECE_H
#define FL_RAFT_SNAPSHOT_PIECE_H

#include "db.h"

enum { SNAPSHOT_PIECE_VERSION = 1, SNAPSHOT_PIECE_HEAD_BYTES = 36, SNAPSHOT_PIECE_BYTES = 256 << 10 };

struct snapshot_piece {
    uint16_t file;        /* enum db_file */
    uint64_t index, term; /* which snapshot */
    uint64_t offset;
    uint32_t want; /* bytes: asked for */
    const uint8_t *data;
    size_t len; /* 0 but in CONSENSUS_FRAME_SNAPSHOT_PART */
};

/* Room for SNAPSHOT_PIECE_HEAD_BYTES and the data. Returns the length. */
size_t snapshot_piece_encode(const struct snapshot_piece *piece, uint8_t *out);
/* 0, -EPROTO for another version, -EBADMSG. */
int snapshot_piece_decode(const void *data, size_t len, struct snapshot_piece *piece);

#endif
