/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/move/buffers.h"

#include "dataplane/move/pipe.h"
#include "dataplane/move/pump_private.h"
#include "dataplane/ring.h"

int buffers_init(struct buffers *b, struct pool *bodies, uint32_t smalls, unsigned rings)
{
    *b = (struct buffers){.bodies = bodies};
    b->hungry_tail = &b->hungry;
    int err = pool_init(&b->smalls, SMALL_BUFFER_BYTES, smalls);
    return err ? err : pipes_new(rings, &b->pipes);
}

void buffers_fini(struct buffers *b)
{
    pool_fini(&b->smalls);
    pipes_free(b->pipes);
}

/* Half of the body buffers stay for uploads. */
uint8_t *buffers_take(struct ring *ring, uint64_t want, uint32_t *capacity)
{
    struct buffers *b = &ring->buffers;
    uint8_t *buffer = NULL;
    if (want > SMALL_BUFFER_BYTES && b->bodies->used < b->bodies->count / 2)
        buffer = pool_take(b->bodies);
    *capacity = buffer ? BODY_BUFFER_BYTES : SMALL_BUFFER_BYTES;
    return buffer ? buffer : pool_take(&b->smalls);
}

static bool is_small(const struct buffers *b, const uint8_t *buffer)
{
    const struct pool *p = &b->smalls;
    return buffer >= p->base && buffer < p->base + p->size * p->count;
}

bool buffers_plenty(const struct ring *ring, const uint8_t *buffer)
{
    const struct buffers *b = &ring->buffers;
    return !is_small(b, buffer) && b->bodies->used < b->bodies->count / 4;
}

void buffers_feed(struct ring *ring)
{
    struct buffers *b = &ring->buffers;
    struct pump *p = b->hungry;
    if (!p || b->smalls.used == b->smalls.count)
        return;
    b->hungry = p->next_hungry;
    if (!b->hungry)
        b->hungry_tail = &b->hungry;
    p->hungry = false;
    pump_fed(p);
}

void buffers_give(struct ring *ring, uint8_t *buffer)
{
    if (is_small(&ring->buffers, buffer))
        pool_give(&ring->buffers.smalls, buffer);
    else
        ring_body_give(ring, buffer);
    buffers_feed(ring);
}

void buffers_wait(struct ring *ring, struct pump *p)
{
    struct buffers *b = &ring->buffers;
    ring_count(ring, CTR_BUFFERS_EXHAUSTED, 1);
    p->hungry = true;
    p->next_hungry = NULL;
    *b->hungry_tail = p;
    b->hungry_tail = &p->next_hungry;
}

void buffers_leave(struct ring *ring, struct pump *p)
{
    struct buffers *b = &ring->buffers;
    struct pump **at = &b->hungry;
    while (*at && *at != p)
        at = &(*at)->next_hungry;
    if (!*at)
        return;
    *at = p->next_hungry;
    if (!*at)
        b->hungry_tail = at;
    p->hungry = false;
}
