/* SPDX-License-Identifier: Apache-2.0 */
#include "client_hello.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

enum {
    RECORD_HEAD = 5,
    RECORD_HANDSHAKE = 22,
    RECORD_MAX = 16384,
    HANDSHAKE_CLIENT_HELLO = 1,
    HANDSHAKE_HEAD = 4,
    RANDOM_BYTES = 32,
    SESSION_ID_MAX = 32,
    EXTENSION_SERVER_NAME = 0,
    NAME_HOST = 0,
};

/* Reads the message's bytes one after another, stepping over the heads of records. */
struct cursor {
    const uint8_t *p;
    size_t record_left; /* of the present record */
    size_t left;        /* of the part that is being read */
    bool bad;
};

/* The bytes of the message that are here, in *have, and in all, in *want (0: not known yet). */
static int look(const uint8_t *p, size_t len, size_t *have, size_t *want)
{
    uint8_t head[HANDSHAKE_HEAD];
    *have = *want = 0;
    while (len) {
        if (p[0] != RECORD_HANDSHAKE || (len > 1 && p[1] != 3))
            return -EBADMSG;
        if (len < RECORD_HEAD)
            return 0;
        size_t bytes = (size_t)p[3] << 8 | p[4], here = len - RECORD_HEAD;
        if (bytes == 0 || bytes > RECORD_MAX)
            return -EBADMSG;
        if (here > bytes)
            here = bytes;
        for (size_t i = 0; i < here && *have + i < HANDSHAKE_HEAD; i++)
            head[*have + i] = p[RECORD_HEAD + i];
        *have += here;
        if (*have && head[0] != HANDSHAKE_CLIENT_HELLO)
            return -EBADMSG;
        if (*have >= HANDSHAKE_HEAD) {
            *want = HANDSHAKE_HEAD + ((size_t)head[1] << 16 | (size_t)head[2] << 8 | head[3]);
            if (*want > CLIENT_HELLO_MAX)
                return -EBADMSG;
            if (*have >= *want)
                return 0;
        }
        if (here < bytes)
            return 0;
        p += RECORD_HEAD + bytes;
        len -= RECORD_HEAD + bytes;
    }
    return 0;
}

static uint8_t get(struct cursor *c)
{
    if (c->bad || c->left == 0) {
        c->bad = true;
        return 0;
    }
    if (c->record_left == 0) {
        c->record_left = (size_t)c->p[3] << 8 | c->p[4];
        c->p += RECORD_HEAD;
    }
    c->left--;
    c->record_left--;
    return *c->p++;
}

static size_t get_number(struct cursor *c, unsigned bytes)
{
    size_t value = 0;
    while (bytes--)
        value = value << 8 | get(c);
    return value;
}

static void skip(struct cursor *c, size_t n)
{
    if (n > c->left)
        c->bad = true;
    while (n-- && !c->bad)
        (void)get(c);
}

/* Enters a part of n bytes; *outer is what is left behind it. */
static void enter(struct cursor *c, size_t n, size_t *outer)
{
    if (n > c->left) {
        c->bad = true;
        n = c->left;
    }
    *outer = c->left - n;
    c->left = n;
}

static void leave(struct cursor *c, size_t outer)
{
    if (c->left) /* nothing may stand behind the last member */
        c->bad = true;
    c->left += outer;
}

static bool host_char(uint8_t c)
{
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '_';
}

static void read_name(struct cursor *c, struct client_hello *out)
{
    size_t outer, list = get_number(c, 2);
    enter(c, list, &outer);
    uint8_t type = get(c);
    size_t len = get_number(c, 2);
    if (type != NAME_HOST || len == 0 || len >= CLIENT_HELLO_NAME_MAX || out->name[0])
        c->bad = true;
    for (size_t i = 0; i < len && !c->bad; i++) {
        uint8_t byte = get(c);
        if (byte >= 'A' && byte <= 'Z')
            byte |= 0x20;
        if (!host_char(byte))
            c->bad = true;
        else
            out->name[i] = (char)byte;
    }
    leave(c, outer);
}

static void read_extensions(struct cursor *c, struct client_hello *out)
{
    size_t outer, rest;
    enter(c, get_number(c, 2), &outer);
    while (c->left && !c->bad) {
        size_t type = get_number(c, 2);
        enter(c, get_number(c, 2), &rest);
        if (type == EXTENSION_SERVER_NAME)
            read_name(c, out);
        else
            skip(c, c->left);
        leave(c, rest);
    }
    leave(c, outer);
}

static void read_hello(struct cursor *c, struct client_hello *out)
{
    skip(c, HANDSHAKE_HEAD);
    if (get(c) != 3)
        c->bad = true;
    skip(c, 1 + RANDOM_BYTES);
    size_t session = get_number(c, 1);
    if (session > SESSION_ID_MAX)
        c->bad = true;
    skip(c, session);
    size_t ciphers = get_number(c, 2);
    if (ciphers < 2 || ciphers % 2)
        c->bad = true;
    skip(c, ciphers);
    size_t compression = get_number(c, 1);
    if (compression == 0)
        c->bad = true;
    skip(c, compression);
    if (c->left)
        read_extensions(c, out);
    if (c->left)
        c->bad = true;
}

int client_hello_read(const uint8_t *p, size_t len, struct client_hello *out)
{
    size_t have, want;
    memset(out, 0, sizeof(*out));
    int err = look(p, len, &have, &want);
    if (err)
        return err;
    if (want == 0 || have < want)
        return len >= CLIENT_HELLO_MAX ? -EBADMSG : -EAGAIN;
    struct cursor c = {.p = p, .left = want};
    read_hello(&c, out);
    return c.bad ? -EBADMSG : 0;
}
