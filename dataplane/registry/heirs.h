/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Uploads whose session's replica is away: who has a copy of it, or has gone on with it. All that are likely
 * to are asked at the same time (keep.h), the best-ranked ones first, since those were to have it; this node
 * looks in its own store. Who has gone on with it already goes on; else who has most does (upload_checkout).
 * Nothing is decided by asking.
 *
 * Where somebody is at work on it still (a copy that waits for bytes of the node that is gone, for one) it is
 * asked again for some seconds.
 */
#ifndef FL_REGISTRY_HEIRS_H
#define FL_REGISTRY_HEIRS_H

#include <stdbool.h>
#include <stdint.h>

struct api;
struct heirs;
struct ring;

/* What a ring has for it. */
int heirs_new(struct ring *ring, struct heirs **out);
void heirs_free(struct heirs *all);
void heirs_stop(struct heirs *all); /* the ring ends */

struct heir {
    uint64_t node;
    uint64_t size; /* bytes that it has */
    bool session;  /* in a session of its own */
};

/*
 * 0; -ENOENT: nobody who can be asked has anything of it; -EBUSY: somebody is at work on it for too long;
 * -EAGAIN: too many are looked for. Once; where nobody else is to be asked, from within heirs_find.
 */
typedef void heirs_found(struct api *a, int err, const struct heir *best);

/*
 * The call has a session of this node in its hands, and its id in a->up.id; the client may have asked for
 * another node's, in whose place it is. When it has just been adopted control is told (an event). The other
 * node's session is of no use to anybody once the client has used the new name: then that node is told to
 * drop it, when it is back.
 */
void heirs_adopted(struct api *a);
void heirs_linked(struct api *a); /* or once its bytes are a blob */

/* The call's session. from: its node, which may be asked, too; 0: that one is known to be away. */
void heirs_find(struct api *a, uint64_t from, heirs_found *found);

#endif
