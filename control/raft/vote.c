/* SPDX-License-Identifier: Apache-2.0 */
#include "vote.h"

#include <errno.h>
#include <stdlib.h>

#include "crc32c.h"
#include "wire.h"

enum {
    VOTE_MAGIC = 0x31564c46, /* "FLV1" */
    VOTE_VERSION = 1,
    VOTE_BYTES = 4 + 4 + 16 + 3 * 8 + 4, /* magic, version, cluster, node, term, vote, checksum */
};

static uint32_t checksum(const uint8_t *data)
{
    struct crc32c c;
    crc32c_init(&c);
    return crc32c(&c, 0, data, VOTE_BYTES - 4);
}

int vote_write(const struct file_ops *ops, int dir_fd, const struct vote *vote)
{
    uint8_t data[VOTE_BYTES];
    struct wire_writer w = {.buf = data, .cap = sizeof(data)};
    wire_put_u32(&w, VOTE_MAGIC);
    wire_put_u32(&w, VOTE_VERSION);
    wire_put(&w, vote->cluster_id, sizeof(vote->cluster_id));
    wire_put_u64(&w, vote->node_id);
    wire_put_u64(&w, vote->term);
    wire_put_u64(&w, vote->voted_for);
    wire_put_u32(&w, checksum(data));
    return file_swap(ops, dir_fd, "vote", data, sizeof(data));
}

static int vote_decode(const uint8_t *data, size_t len, struct vote *vote)
{
    struct wire_reader r = {.buf = data, .len = len};
    uint32_t magic = wire_get_u32(&r), version = wire_get_u32(&r);
    const uint8_t *cluster_id = wire_get(&r, sizeof(vote->cluster_id));
    vote->node_id = wire_get_u64(&r);
    vote->term = wire_get_u64(&r);
    vote->voted_for = wire_get_u64(&r);
    uint32_t sum = wire_get_u32(&r);
    if (len >= 8 && magic == VOTE_MAGIC && version != VOTE_VERSION)
        return -EPROTO;
    if (!wire_at_end(&r) || magic != VOTE_MAGIC || sum != checksum(data) || vote->node_id == 0)
        return -EUCLEAN;
    memcpy(vote->cluster_id, cluster_id, sizeof(vote->cluster_id));
    return 0;
}

int vote_read(int dir_fd, struct vote *vote)
{
    void *data;
    size_t len;
    int rc = file_read_all(dir_fd, "vote", VOTE_BYTES, &data, &len);
    if (rc)
        return rc == -EFBIG ? -EUCLEAN : rc;
    rc = vote_decode(data, len, vote);
    free(data);
    return rc;
}
