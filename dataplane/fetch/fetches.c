/* SPDX-License-Identifier: Apache-2.0 */
/* What a ring has for fetching, and where blobs may come from. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dataplane/ring.h"
#include "dataplane/fetch/private.h"
#include "dataplane/store/names.h"

enum { TRIM_MOST = 64 };

int fetches_new(struct ring *ring, struct fetches **out)
{
    struct fetches *all = calloc(1, sizeof(*all));
    if (!all)
        return -ENOMEM;
    all->ring = ring;
    int err = pool_init(&all->jobs, sizeof(struct fetch), FETCH_JOBS_MAX);
    if (err)
        goto err_jobs;
    err = pool_init(&all->readers, sizeof(struct fetch_reader), FETCH_READERS_MAX);
    if (err)
        goto err_readers;
    fetch_table_ring(ring->index, ring->loop);
    *out = all;
    return 0;
err_readers:
    pool_fini(&all->jobs);
err_jobs:
    free(all);
    return err;
}

void fetches_free(struct fetches *all)
{
    pool_fini(&all->readers);
    pool_fini(&all->jobs);
    free(all);
}

void fetches_tick(struct fetches *all)
{
    for (struct fetch *f = all->list, *next; f; f = next) {
        next = f->next;
        fetch_look(f);
    }
    pool_trim(&all->jobs, TRIM_MOST);
    pool_trim(&all->readers, TRIM_MOST);
}

void fetches_stop(struct fetches *all)
{
    for (struct fetch *f = all->list, *next; f; f = next) {
        next = f->next;
        fetch_stop(f);
    }
}

bool fetches_idle(const struct fetches *all)
{
    return !all->list && all->readers.used == 0;
}

/* ------------------------------------------------------------------ sources */

const struct plan_source *fetch_source_of(const struct plan *plan, struct view repo)
{
    const struct plan_source *best = NULL;
    for (uint32_t i = 0; i < plan->source_count; i++) {
        const struct plan_source *s = plan_source(plan, i);
        if (s->kind == PLAN_SOURCE_REGISTRY && s->prefix_len < repo.len &&
            memcmp(s->prefix, repo.p, s->prefix_len) == 0 && (!best || s->prefix_len > best->prefix_len))
            best = s;
    }
    return best;
}

size_t fetch_source_path(const struct plan_source *source, struct view repo, const char *middle,
                         struct view last, char out[QUESTION_PATH_MAX])
{
    int n = snprintf(out, QUESTION_PATH_MAX, "/v2/%.*s%.*s/%s%.*s", (int)source->upstream_len,
                     source->upstream, (int)(repo.len - source->prefix_len), repo.p + source->prefix_len,
                     middle, (int)last.len, last.p);
    return n > 0 && n < QUESTION_PATH_MAX ? (size_t)n : 0;
}

uint16_t fetch_peers_service(const struct plan *plan)
{
    for (uint32_t i = 0; i < plan->source_count; i++)
        if (plan_source(plan, i)->kind == PLAN_SOURCE_PEERS)
            return plan_source(plan, i)->service;
    return PLAN_NO_SERVICE;
}

uint32_t fetch_peer_of(const struct plan *plan, uint64_t node)
{
    const struct plan_service *s = plan_service_of(plan, fetch_peers_service(plan));
    for (uint32_t i = 0; s && i < s->backend_count; i++)
        if (plan_backend(plan, s->first_backend + i)->node == node)
            return plan_backend(plan, s->first_backend + i)->id + 1;
    return 0;
}

/* Of a store that several replicas have, the first of them that takes requests: not those of this node's own
 * store, in which it is not. */
static uint32_t peer_holding(const struct plan *plan, uint64_t holder, bool *takes)
{
    const struct plan_service *s = plan_service_of(plan, fetch_peers_service(plan));
    uint32_t found = 0;
    *takes = false;
    for (uint32_t i = 0; s && i < s->backend_count; i++) {
        const struct plan_backend *b = plan_backend(plan, s->first_backend + i);
        if ((b->node != holder && b->holder != holder) || b->holder == plan->copies.holder)
            continue;
        if (!found || !b->draining)
            found = b->id + 1;
        *takes = !b->draining;
        if (*takes)
            break;
    }
    return found;
}

uint64_t fetch_holder_of(const struct plan *plan, uint64_t holder)
{
    const struct plan_service *s = plan_service_of(plan, fetch_peers_service(plan));
    if (holder == plan->node_id)
        return plan->copies.holder;
    for (uint32_t i = 0; s && i < s->backend_count; i++)
        if (plan_backend(plan, s->first_backend + i)->node == holder)
            return plan_backend(plan, s->first_backend + i)->holder;
    return holder;
}

/* The holders that take requests, or those that do not, behind `count` others; how many there are then. */
static unsigned prefer(const struct plan *plan, const struct names_blob *blob, bool taking,
                       struct question *q, unsigned count)
{
    for (unsigned i = 0; i < blob->holder_count; i++) {
        bool takes;
        uint32_t id = peer_holding(plan, blob->holder[i], &takes);
        if (id && takes == taking)
            q->prefer[count++] = id;
    }
    return count;
}

void fetch_prefer_holders(struct ring *ring, const struct digest *d, struct question *q)
{
    struct names_blob blob;
    memset(q->prefer, 0, sizeof(q->prefer));
    if (!ring->names || names_begin(ring->names))
        return;
    int err = names_blob_get(ring->names, d, &blob);
    names_end(ring->names);
    if (err == 0) /* those that take requests first */
        (void)prefer(ring->plan, &blob, false, q, prefer(ring->plan, &blob, true, q, 0));
}

bool fetch_is_held(const struct plan *plan, const struct names_blob *blob)
{
    bool takes, held = blob->version == 0;
    for (unsigned i = 0; i < blob->holder_count && !held; i++)
        held = (plan->copies.keeps && fetch_holder_of(plan, blob->holder[i]) == plan->copies.holder) ||
               peer_holding(plan, blob->holder[i], &takes);
    return held;
}

static void add_peers(const struct plan *plan, const struct digest *d, struct fetch_sources *out)
{
    char hex[2 * DIGEST_BYTES_MAX + 1];
    for (uint32_t i = 0; i < plan->source_count && out->count == 0; i++) {
        const struct plan_source *s = plan_source(plan, i);
        if (s->kind != PLAN_SOURCE_PEERS || s->service == PLAN_NO_SERVICE)
            continue;
        digest_hex(d, hex);
        int n = snprintf(out->list[0].path, QUESTION_PATH_MAX, "/blobs/%s/%s", digest_alg_name(d->alg), hex);
        out->list[0].kind = s->kind;
        out->list[0].service = s->service;
        out->list[0].pass = 0;
        out->list[0].path_len = (uint16_t)n;
        out->count = 1;
    }
}

const char fetch_manifest_types[] =
    "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, "
    "application/vnd.docker.distribution.manifest.v2+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json, "
    "application/vnd.oci.artifact.manifest.v1+json";

void fetch_sources_find(const struct plan *plan, struct view repo, bool manifest, const struct digest *d,
                        struct fetch_sources *out)
{
    char digest[DIGEST_TEXT_MAX + 1];
    const struct plan_source *s = fetch_source_of(plan, repo);
    out->count = 0;
    out->manifest = manifest;
    add_peers(plan, d, out);
    if (!s)
        return;
    size_t len = fetch_source_path(s, repo, manifest ? "manifests/" : "blobs/",
                                   view_of(digest, digest_format(d, digest)), out->list[out->count].path);
    out->list[out->count].kind = s->kind;
    out->list[out->count].service = s->service;
    out->list[out->count].pass = s->id;
    out->list[out->count].path_len = (uint16_t)len;
    out->count += len > 0;
}
