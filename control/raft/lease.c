/* SPDX-License-Identifier: Apache-2.0 */
#include "lease.h"

#include <errno.h>
#include <stdlib.h>

#include "check.h"
#include "wire.h"

/* What clocks may differ in speed, and more, in parts of a lease. */
enum { MARGIN_PARTS = 8 };

static int newest_first(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x < y) - (x > y);
}

uint64_t lease_quorum_ms(uint64_t *echoed, size_t others, bool self, uint64_t now_ms)
{
    size_t needed = (others + self) / 2 + 1;
    if (self)
        needed--;
    if (needed == 0)
        return now_ms;
    if (needed > others)
        return 0;
    qsort(echoed, others, sizeof(*echoed), newest_first);
    return echoed[needed - 1];
}

uint32_t lease_valid_ms(uint64_t quorum_ms, uint32_t lease_ms, uint64_t now_ms)
{
    uint64_t end = quorum_ms + lease_ms - (lease_ms / MARGIN_PARTS + 1);
    return quorum_ms && end > now_ms ? (uint32_t)(end - now_ms) : 0;
}

size_t lease_renew_encode(const struct lease_renew *renew, uint8_t *out)
{
    struct wire_writer w = {.buf = out, .cap = LEASE_FRAME_BYTES};
    wire_put_u16(&w, LEASE_VERSION);
    wire_put_u64(&w, renew->term);
    wire_put_u64(&w, renew->stamp_ms);
    wire_put_u64(&w, renew->echo_ms);
    wire_put_u64(&w, renew->applied);
    CHECK(!w.failed);
    return w.len;
}

int lease_renew_decode(const void *data, size_t len, struct lease_renew *renew)
{
    struct wire_reader r = {.buf = data, .len = len};
    uint16_t version = wire_get_u16(&r);
    renew->term = wire_get_u64(&r);
    renew->stamp_ms = wire_get_u64(&r);
    renew->echo_ms = wire_get_u64(&r);
    renew->applied = wire_get_u64(&r);
    if (len >= sizeof(version) && version != LEASE_VERSION)
        return -EPROTO;
    return wire_at_end(&r) ? 0 : -EBADMSG;
}

size_t lease_grant_encode(const struct lease_grant *grant, uint8_t *out)
{
    struct wire_writer w = {.buf = out, .cap = LEASE_FRAME_BYTES};
    wire_put_u16(&w, LEASE_VERSION);
    wire_put_u64(&w, grant->term);
    wire_put_u64(&w, grant->stamp_ms);
    wire_put_u64(&w, grant->own_ms);
    wire_put_u64(&w, grant->floor);
    wire_put_u32(&w, grant->valid_ms);
    wire_put_u32(&w, grant->promise_ms);
    CHECK(!w.failed);
    return w.len;
}

int lease_grant_decode(const void *data, size_t len, struct lease_grant *grant)
{
    struct wire_reader r = {.buf = data, .len = len};
    uint16_t version = wire_get_u16(&r);
    grant->term = wire_get_u64(&r);
    grant->stamp_ms = wire_get_u64(&r);
    grant->own_ms = wire_get_u64(&r);
    grant->floor = wire_get_u64(&r);
    grant->valid_ms = wire_get_u32(&r);
    grant->promise_ms = wire_get_u32(&r);
    if (len >= sizeof(version) && version != LEASE_VERSION)
        return -EPROTO;
    if (!wire_at_end(&r) || grant->promise_ms > LEASE_PROMISE_MS_MAX || grant->valid_ms > grant->promise_ms)
        return -EBADMSG;
    return 0;
}
