/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How bytes move, decided anew for each piece. splice(2) through a large pipe costs a third of copying where
 * there is much to move; its fixed price (a pipe in, a pipe out, a header between chunks) is that of copying
 * some ten KiB, so what is known to be small is copied, and of a source that does not say, what came last
 * time tells.
 */
#include "limits.h"
#include "dataplane/move/buffers.h"
#include "dataplane/move/pump_private.h"

enum {
    SPLICE_LEAST = 16 << 10,
    SPLICE_CHUNK_LEAST = 128 << 10, /* chunks below go many to a buffer */
    REFUSED_MOST = 3,               /* splices in a row that the source's kind refuses: it always will */
};

bool technique_splices(const struct pump *p, uint64_t next)
{
    const struct pump_config *c = &p->c;
    if (next == 0 || c->tap || c->hold_back || p->skip_left || c->technique == PUMP_TECHNIQUE_COPY ||
        p->refused >= REFUSED_MOST || !wire_splices(c->from) || wire_fd_to(c->to) < 0)
        return false;
    if (c->technique == PUMP_TECHNIQUE_SPLICE)
        return true;
    if (c->in == PUMP_RAW)
        return p->bulk;
    if (c->in == PUMP_CHUNKED)
        return next >= SPLICE_CHUNK_LEAST;
    return next >= SPLICE_LEAST || p->spliced; /* the end of a large body, too */
}

uint64_t technique_copies(const struct pump *p, uint64_t next)
{
    if (p->c.in == PUMP_LENGTH)
        return next;
    return p->bulk ? BODY_BUFFER_BYTES : SMALL_BUFFER_BYTES;
}
