/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Against peers that keep a session busy with what costs them nothing: streams that are reset as soon as they
 * are opened, or provoked into being reset; PING, SETTINGS, PRIORITY, WINDOW_UPDATE and unknown frames
 * without end; frames without content; header blocks that are small on the wire and large in memory. Each
 * kind has a level that frames raise and time lowers; work that was asked for and done lowers it, too. Pure.
 *
 * A session towards a backend carries requests of many clients, and each of these may give up as many of its
 * own as it likes: what the backend does about a request is no flood, and must not cost the others theirs.
 * There all kinds are one, and each request that goes out counts as work.
 */
#ifndef FL_HTTP2_GUARD_H
#define FL_HTTP2_GUARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shared.h"

enum h2_abuse { H2_ABUSE_RESETS, H2_ABUSE_CONTROL, H2_ABUSE_EMPTY, H2_ABUSES };

struct h2_guard {
    uint64_t seen_ms;
    uint32_t level[H2_ABUSES]; /* thousandths of a frame */
    uint8_t reason;            /* enum close_reason of the first one that overflowed; CLOSE_NONE */
    bool backend;              /* the peer is one */
    /* Where in the stream of frames it is. */
    bool begun; /* a whole frame's head has come */
    uint8_t head_len;
    uint8_t head[9];
    uint32_t skip; /* bytes that are no frame's head: of a payload, or the preface */
};

void h2_guard_init(struct h2_guard *g, bool backend, uint64_t now_ms);

/* What has come, in any pieces: looks at the heads of all frames, also of those that have no effect. */
void h2_guard_look(struct h2_guard *g, const uint8_t *bytes, size_t len, uint64_t now_ms);

/* One more frame of that kind. */
void h2_guard_note(struct h2_guard *g, enum h2_abuse kind, uint64_t now_ms);

/* A frame that carried content, in either direction, or a request: it may need a few others. */
void h2_guard_work(struct h2_guard *g);

#endif
