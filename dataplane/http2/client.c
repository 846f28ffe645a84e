/* SPDX-License-Identifier: Apache-2.0 */
/* Sessions towards backends. */
#include "dataplane/http2/session.h"

struct h2_session *h2_client_start(struct ring *ring, const struct wire *wire, const struct h2_user *user)
{
    struct h2_session *s = h2_session_make(ring->http2, wire, true);
    if (!s)
        return NULL;
    s->user = *user;
    s->input_due = true;
    return s;
}

bool h2_client_over(const struct h2_session *s)
{
    return s->state != H2_OPEN || s->peer_goaway || s->draining;
}

unsigned h2_client_busy(const struct h2_session *s)
{
    return s->stream_count;
}

unsigned h2_client_room(const struct h2_session *s)
{
    uint32_t most = nghttp2_session_get_remote_settings(s->ng, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS);
    if (most > s->streams_max)
        most = s->streams_max;
    return h2_client_over(s) || s->stream_count >= most ? 0 : most - s->stream_count;
}

bool h2_client_crowded(const struct h2_session *s)
{
    return s->queued > H2_CROWDED_BYTES;
}

bool h2_client_open(struct h2_session *s, struct wire *out)
{
    struct h2_stream *st = h2_client_room(s) ? h2_stream_make(s, 0) : NULL;
    if (!st)
        return false;
    *out = (struct wire){.loop = s->ring->loop, .over = &st->over, .fd = -1};
    return true;
}

void h2_client_close(struct h2_session *s)
{
    h2_session_drain(s);
}
