/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Raft's messages as bytes, and the bytes as messages: pure. The library trusts what it is given (it is built
 * without its assertions), so that everything it takes for granted is looked at here: that terms do not go
 * backwards, that a configuration is one, that a number does not overflow.
 *
 * Layout (wire.h): u16 version, u8 type, u8 version of the message in the library, then the message's fields
 * in the order of raft.h; each entry is u64 term, u8 type, bytes data. In place of a snapshot's bytes stands
 * its handle: what the file "meta" of the snapshot's folder says (snapshot.h).
 *
 * A message that is larger than a frame may be goes in parts: u16 version, u16 zero, u32 number of the
 * message, u32 its length, u32 where the part begins, bytes.
 */
#ifndef FL_RAFT_RAFT_CODEC_H
#define FL_RAFT_RAFT_CODEC_H

#include <raft.h>

#include "limits.h"
#include "snapshot.h"

enum {
    RAFT_CODEC_VERSION = 1,
    RAFT_CODEC_ENTRIES_MAX = 4096, /* of a message */
    RAFT_CODEC_SERVERS_MAX = 64,   /* of a configuration */
    RAFT_CODEC_ADDRESS_MAX = 256,
    RAFT_CODEC_BYTES_MAX = COMMAND_BYTES_MAX + (8 << 20), /* of a message */
    RAFT_CODEC_WHOLE_BYTES_MAX = 4 << 20,                 /* more goes in parts */
    RAFT_CODEC_PART_BYTES = 1 << 20,
};

#define RAFT_CODEC_INDEX_MAX (1ull << 62)

/* The bytes of a message, malloc'd; snapshot: the handle, for RAFT_INSTALL_SNAPSHOT only. The ids and
 * addresses of sender and receiver are not in them. 0, -ENOMEM, -EINVAL for a type that there is not,
 * -EMSGSIZE. */
int raft_codec_encode(const struct raft_message *message, const struct snapshot_meta *snapshot, void **out,
                      size_t *len);

/*
 * The message of the bytes. The data of entries lie in `data`, the array of them and the configuration of a
 * snapshot's handle are let go of by raft_codec_free(). For RAFT_INSTALL_SNAPSHOT the library's fields for
 * configuration and bytes are empty, and *snapshot says everything. 0, -EPROTO for another version, -EBADMSG,
 * -ENOMEM.
 */
int raft_codec_decode(const void *data, size_t len, struct raft_message *message,
                      struct snapshot_meta *snapshot);
void raft_codec_free(struct raft_message *message, struct snapshot_meta *snapshot);

/* Whether the bytes are a configuration that the library can decode. */
bool raft_codec_configuration_ok(const void *data, size_t len);

struct raft_part {
    uint32_t number, total, at;
    const uint8_t *data;
    size_t len;
};

/* Room for RAFT_CODEC_PART_BYTES and RAFT_PART_HEAD_BYTES. Returns the length. */
enum { RAFT_PART_HEAD_BYTES = 20 };
size_t raft_part_encode(const struct raft_part *part, uint8_t *out);
int raft_part_decode(const void *data, size_t len, struct raft_part *part);

#endif
