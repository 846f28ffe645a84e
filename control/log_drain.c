/* SPDX-License-Identifier: Apache-2.0 */
#include "control/log_drain.h"

#include <stdatomic.h>
#include <string.h>

enum { RECORD_HEAD_BYTES = 8, RECORD_ALIGN = 8 };

_Static_assert(LOG_RING_BYTES % RECORD_ALIGN == 0, "a record's head never wraps around");

static void ring_copy(const struct log_ring *ring, uint64_t position, void *out, size_t len)
{
    size_t at = position % LOG_RING_BYTES;
    size_t first = len < LOG_RING_BYTES - at ? len : LOG_RING_BYTES - at;
    memcpy(out, ring->data + at, first);
    memcpy((char *)out + first, ring->data, len - first);
}

/* Bytes of the record at the tail with its padding, 0 if it cannot be one. */
static size_t record_size(const struct log_ring *ring, uint64_t tail, uint64_t available, uint32_t *len,
                          uint8_t *kind)
{
    uint8_t head[RECORD_HEAD_BYTES];
    if (available < sizeof(head))
        return 0;
    ring_copy(ring, tail, head, sizeof(head));
    memcpy(len, head, sizeof(*len));
    *kind = head[4];
    if (*len > LOG_RECORD_MAX)
        return 0;
    size_t size = (sizeof(head) + *len + RECORD_ALIGN - 1) / RECORD_ALIGN * RECORD_ALIGN;
    return size <= available ? size : 0;
}

size_t log_drain_ring(struct log_drain *drain, struct log_ring *ring, size_t max, log_drain_record record,
                      void *arg)
{
    char body[LOG_RECORD_MAX];
    /* Pairs with the producer's release: the records below head are complete. */
    uint64_t head = atomic_load_explicit(&ring->head, memory_order_acquire);
    size_t count = 0;
    if (head % RECORD_ALIGN || head - drain->tail > LOG_RING_BYTES) {
        drain->breaches++;
        head = head / RECORD_ALIGN * RECORD_ALIGN;
        drain->tail = head;
    }
    while (drain->tail != head && count < max) {
        uint32_t len;
        uint8_t kind;
        size_t size = record_size(ring, drain->tail, head - drain->tail, &len, &kind);
        if (size == 0) {
            drain->breaches++;
            drain->tail = head;
            break;
        }
        ring_copy(ring, drain->tail + RECORD_HEAD_BYTES, body, len);
        record(arg, kind, body, len);
        drain->tail += size;
        count++;
    }
    /* Pairs with the producer's acquire: it may now write over what was read. */
    atomic_store_explicit(&ring->tail, drain->tail, memory_order_release);
    return count;
}
