/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What other replicas want of this one: GET and HEAD of /blobs/<alg>/<hex>, for every blob that the names
 * know, whatever repository it is in; copies of what is pushed to them (keep.h); and requests for this node's
 * upload sessions that came to them, as they came (/v2/<name>/blobs/uploads/<id>). Whoever asks has shown a
 * certificate of the cluster's CA: an address that does not ask for one is answered 403. And it has to be a
 * node of the cluster now: one that was removed is answered 403 and its connections end with the plan that
 * says so (membership.h); one that this node has not been told of yet, 503.
 */
#ifndef FL_REGISTRY_PEER_H
#define FL_REGISTRY_PEER_H

extern const struct handler peer_handler;

#endif
