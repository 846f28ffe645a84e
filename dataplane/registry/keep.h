/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a replica does for another one that wants copies of what is pushed to it. Part of what peers are
 * served (peer.h), so whoever asks has shown a certificate of the cluster.
 *
 *   PUT    /blobs/ALG/HEX           a small blob, whole: durable here -> 201
 *   POST   /copies?node=&of=&to=    fetch the bytes of that node's upload session `of` up to `to`, behind
 *                                   those that are here already -> 200, with Copy-Session: the session that
 *                                   they are in,
 *          &session=                and which is gone on with
 *          &digest=ALG:HEX          these are all: durable here -> 201
 *   DELETE /copies/SESSION          nothing becomes of these bytes, also where they are a session of this
 *                                   node's that has gone on elsewhere -> 204
 *          ?idle=                   said so many milliseconds ago: 409 if bytes have come since
 *   GET    /copies?of=              how much is here of an upload that is to go on without its session's
 *                                   node
 *                                   -> 200, with Copy-Size; Session-Size: it has gone on here (heirs.h)
 *   GET    /copies/OF?from=&to=     the bytes of an upload session of this node that are asked for by that
 *          &digest=ALG:HEX          it may be a blob by now
 *
 * Of the answers that are no success, 425 says that the same may be asked again in a moment (another request
 * is at work on the session, or whoever asks for copies is short of means itself: the session is there
 * still); 409, that the session is of no use; 424, that whoever asks for copies does not give the bytes.
 *
 * 201 can be relied on for KEEP_RELIED_MS: for longer than that the blob is held here (blob_hold), until the
 * link that says so is committed.
 *
 * The bytes are fetched by whoever is to keep them, so that only they wait for a slow disk, and a client's
 * upload stands in nobody's way. `of` is "-" where there is no session any more. What came of one whose node
 * is gone in the middle stays: the upload may go on from it.
 */
#ifndef FL_REGISTRY_KEEP_H
#define FL_REGISTRY_KEEP_H

#include <stdbool.h>

struct api;

enum {
    KEEP_SMALL_MAX = 12 << 10, /* bytes of a blob that is put whole */
    KEEP_AGAIN = 425,          /* status */
    KEEP_RELIED_MS = 30000,
};
#define KEEP_PATH          "/copies"
#define KEEP_SESSION_FIELD "Copy-Session"
#define KEEP_SIZE_FIELD    "Copy-Size"
#define KEEP_HAS_FIELD     "Session-Size"

/* False: the request is none of these. */
bool keep_begin(struct api *a);

#endif
