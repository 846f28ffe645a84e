/* SPDX-License-Identifier: Apache-2.0 */
/* What the one node that cleans a shared store finds and removes there (stores.h). Blocking: for threads. */
#ifndef FL_CONTROL_STORE_CLEAN_H
#define FL_CONTROL_STORE_CLEAN_H

#include <stddef.h>
#include <stdint.h>

/*
 * Folders of uploads of nodes of this cluster that are none of it any more (ids are never given again), in
 * which nothing has changed for grace_ms. ids: of all nodes, ascending. Returns how many were removed.
 */
struct store_clean {
    int all_uploads_fd;
    const uint8_t *cluster_id;
    const uint64_t *id;
    size_t count;
    uint64_t grace_ms;
};
size_t store_clean_uploads(const struct store_clean *clean);

/* Blobs whose removal was cut off (damaged/ALG-HEX.gone, or .gone.CHANCE): back to their places, from where
 * they go again if they still are to; one that is there already stays. At any time: whoever is at work on one
 * does not find it any more. Returns how many. */
size_t store_clean_gone(int blobs_fd, int damaged_fd);

#endif
