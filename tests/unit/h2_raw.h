/* SPDX-License-Identifier: Apache-2.0 */
/* A client of one session that a test plays byte by byte, on pair.raw of h2_pair.h. Included once, behind it.
 */
#ifndef FL_TEST_H2_RAW_H
#define FL_TEST_H2_RAW_H

static inline void raw_send(const void *bytes, size_t len)
{
    const uint8_t *at = bytes;
    while (len) {
        ssize_t n = send(pair.raw, at, len, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n > 0) {
            at += n;
            len -= (size_t)n;
        }
        pair_turn();
    }
}

static inline void raw_frame(uint8_t type, uint8_t flags, uint8_t stream, const void *payload, size_t len)
{
    uint8_t head[9] = {(uint8_t)(len >> 16), (uint8_t)(len >> 8), (uint8_t)len, type, flags, 0, 0, 0, stream};
    raw_send(head, sizeof(head));
    raw_send(payload, len);
}

/* Its settings, and a request with a body: pair.request[0]. */
static inline void raw_begin_with(const void *settings, size_t len)
{
    static const uint8_t post[] = "\x83\x86\x84\x41\x01h"; /* POST http / with the authority h */
    pair_raw(false);
    raw_send(HTTP2_PREFACE, HTTP2_PREFACE_LEN);
    raw_frame(NGHTTP2_SETTINGS, 0, 0, settings, len);
    raw_frame(NGHTTP2_SETTINGS, NGHTTP2_FLAG_ACK, 0, "", 0); /* ours count from here on */
    raw_frame(NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, 1, post, sizeof(post) - 1);
    pair_until(pair.requests == 1);
}

#endif
