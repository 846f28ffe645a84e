/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/http2/room.h"

#include "dataplane/http2/session.h"

struct room {
    uint32_t now, most;
};

static uint32_t positive(int32_t window)
{
    return window > 0 ? (uint32_t)window : 0;
}

static uint32_t less(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static uint32_t more(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

/* What the session's and the stream's windows leave, and ever left, together. */
static struct room room_of(const struct h2_stream *st)
{
    const struct h2_session *s = st->session;
    uint32_t all = positive(nghttp2_session_get_remote_window_size(s->ng));
    uint32_t own = positive(nghttp2_session_get_stream_remote_window_size(s->ng, st->id));
    return (struct room){less(all, own), less(more(all, s->room_most), more(own, st->room_most))};
}

static void remember(struct h2_stream *st)
{
    struct h2_session *s = st->session;
    s->room_most = more(s->room_most, positive(nghttp2_session_get_remote_window_size(s->ng)));
    st->room_most =
        more(st->room_most, positive(nghttp2_session_get_stream_remote_window_size(s->ng, st->id)));
}

bool h2_room_take(struct h2_stream *st, uint64_t content)
{
    struct h2_session *s = st->session;
    remember(st);
    struct room r = room_of(st);
    if ((s->room_now && r.now) || h2_room_does(r.now, r.most, content))
        return true;
    st->room_wanted = less(H2_PIECE_LEAST, content < UINT32_MAX ? (uint32_t)content : UINT32_MAX);
    if (!s->room_since_ms) {
        s->room_since_ms = ring_now_ms(s->ring);
        h2_session_time(s);
    }
    return false;
}

void h2_room_used(struct h2_stream *st)
{
    st->room_wanted = 0;
    st->session->room_now = false;
}

bool h2_room_ready(const struct h2_stream *st)
{
    struct room r = room_of(st);
    if (r.now == 0)
        return false;
    return st->session->room_now || !st->room_wanted || h2_room_does(r.now, r.most, st->room_wanted);
}

void h2_rooms_look(struct h2_session *s)
{
    bool waits = false;
    if (!s->room_since_ms)
        return;
    for (struct h2_stream *st = s->streams; st; st = st->next) {
        if (!st->room_wanted || !st->open)
            continue;
        if (h2_room_ready(st)) /* an error: it waits for nothing */
            (void)nghttp2_session_resume_data(s->ng, st->id);
        else
            waits = true;
    }
    if (!waits)
        s->room_since_ms = 0;
}

uint64_t h2_rooms_deadline(const struct h2_session *s)
{
    return s->room_since_ms ? s->room_since_ms + H2_ROOM_WAIT_MS : UINT64_MAX;
}

/* nghttp2 knows whose turn it is. */
void h2_rooms_expire(struct h2_session *s)
{
    s->room_now = true;
    h2_rooms_look(s);
    /* One without any room: nghttp2 does not wake it, so it is looked at until it has some. */
    if (s->room_since_ms)
        s->room_since_ms = ring_now_ms(s->ring);
    h2_session_ready(s);
}
