/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What clients were given, into the log ring: control tells webhooks of it. A handler notes it with its
 * answer; it counts when all of that is out. Where nobody wants to know, that is one look at a number in
 * memory.
 */
#include <time.h>

#include "dataplane/access.h"
#include "dataplane/http2/http2.h"
#include "dataplane/stream_private.h"
#include "dataplane/tls/tls.h"
#include "pull.h"

static uint32_t wanted(const struct stream *s)
{
    return atomic_load_explicit(&s->ring->log_page->pulls, memory_order_relaxed);
}

bool stream_pull_wanted(struct stream *s, bool blob)
{
    uint32_t kinds = wanted(s);
    if (!(kinds & (blob ? PULLS_BLOBS : PULLS_MANIFESTS)))
        return false;
    if (s->req.method == HTTP_HEAD && !(kinds & PULLS_HEADS))
        return false;
    const struct plan_service *service = stream_service(s); /* not what other replicas fetch */
    return service && service->kind == SERVICE_REGISTRY;
}

void stream_note_pull(struct stream *s, const struct stream_pull *pull)
{
    struct stream_pull *noted = arena_alloc(&s->arena, sizeof(*noted));
    const char *type = arena_copy(&s->arena, pull->media_type.p, pull->media_type.len);
    if (!noted || !type) {
        ring_count(s->ring, CTR_PULLS_UNTOLD, 1);
        return;
    }
    *noted = *pull;
    noted->media_type.p = type;
    stream_full(s)->pull = noted;
}

static struct pull_text text_of(struct view v)
{
    return (struct pull_text){v.p, v.len};
}

static bool is_tls(const struct stream *s)
{
    const struct wire *below = h2_carrier(&s->conn->wire);
    return tls_is(below ? below : &s->conn->wire);
}

void pull_log(struct stream_full *f)
{
    const struct stream_pull *noted = f->pull;
    uint8_t body[PULL_BYTES_MAX];
    struct wire_writer w = {.buf = body, .cap = sizeof(body)};
    struct timespec now;
    if (!noted || f->cut || f->gone || (f->status != 200 && f->status != 206))
        return;
    clock_gettime(CLOCK_REALTIME, &now);
    struct pull pull = {
        .bits = (uint8_t)((f->s.req.method == HTTP_HEAD ? PULL_HEAD : 0) | (noted->blob ? PULL_BLOB : 0) |
                          (is_tls(&f->s) ? PULL_HTTPS : 0)),
        .time_ms = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000,
        .request = f->s.id,
        .size = noted->size,
        .digest = noted->digest,
        .repo = text_of(noted->repo),
        .tag = text_of(noted->tag),
        .media_type = text_of(noted->media_type),
        .client = text_of(view_of_str(stream_peer(&f->s))),
        .host = text_of(f->s.req.host),
        .agent = text_of(f->s.req.known[HTTP_KNOWN_USER_AGENT]),
    };
    pull_put(&w, &pull);
    if (w.failed || !access_append(f->s.ring, LOG_PULL, w.buf, w.len))
        ring_count(f->s.ring, CTR_PULLS_UNTOLD, 1);
}
