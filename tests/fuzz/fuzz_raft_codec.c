/* SPDX-License-Identifier: Apache-2.0 */
/* The frames of the consensus: what is taken is encoded to the same bytes again, and the library can decode
 * what is said to be a configuration. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/raft/lease.h"
#include "control/raft/raft_codec.h"
#include "control/raft/snapshot_piece.h"

static void configuration_decode(const void *data, size_t len)
{
    struct raft_configuration conf;
    struct raft_buffer buf = {malloc(len), len};
    CHECK(buf.base);
    memcpy(buf.base, data, len);
    /* It may still name one server twice: that is refused, and nothing else happens. */
    if (raft_configuration_decode(&buf, &conf) == 0)
        raft_configuration_close(&conf);
    free(buf.base);
}

static void part(const uint8_t *data, size_t size)
{
    static uint8_t again[RAFT_PART_HEAD_BYTES + RAFT_CODEC_PART_BYTES];
    struct raft_part p;
    if (raft_part_decode(data, size, &p))
        return;
    CHECK(p.at + p.len <= p.total && raft_part_encode(&p, again) == size && memcmp(again, data, size) == 0);
}

static void piece(const uint8_t *data, size_t size)
{
    static uint8_t again[SNAPSHOT_PIECE_HEAD_BYTES + SNAPSHOT_PIECE_BYTES];
    struct snapshot_piece p;
    if (snapshot_piece_decode(data, size, &p))
        return;
    CHECK(snapshot_piece_encode(&p, again) == size && memcmp(again, data, size) == 0);
}

static void lease(const uint8_t *data, size_t size)
{
    uint8_t again[LEASE_FRAME_BYTES];
    struct lease_renew renew;
    struct lease_grant grant;
    if (lease_renew_decode(data, size, &renew) == 0)
        CHECK(lease_renew_encode(&renew, again) == size && memcmp(again, data, size) == 0);
    if (lease_grant_decode(data, size, &grant) == 0)
        CHECK(lease_grant_encode(&grant, again) == size && memcmp(again, data, size) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct raft_message m;
    struct snapshot_meta snapshot;
    void *again;
    size_t len;
    part(data, size);
    piece(data, size);
    lease(data, size);
    if (raft_codec_configuration_ok(data, size))
        configuration_decode(data, size);
    if (raft_codec_decode(data, size, &m, &snapshot))
        return 0;
    for (unsigned i = 0; m.type == RAFT_APPEND_ENTRIES && i < m.append_entries.n_entries; i++)
        if (m.append_entries.entries[i].type == RAFT_CHANGE)
            configuration_decode(m.append_entries.entries[i].buf.base, m.append_entries.entries[i].buf.len);
    if (m.type == RAFT_INSTALL_SNAPSHOT)
        configuration_decode(snapshot.configuration, snapshot.configuration_len);
    CHECK(raft_codec_encode(&m, &snapshot, &again, &len) == 0);
    CHECK(len == size && memcmp(again, data, size) == 0);
    free(again);
    raft_codec_free(&m, &snapshot);
    return 0;
}
