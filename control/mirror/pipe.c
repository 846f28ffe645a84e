/* SPDX-License-Identifier: Apache-2.0 */
#include "control/mirror/pipe.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

bool pipe_init(struct pipe *p)
{
    *p = (struct pipe){.bytes = malloc(PIPE_BYTES), .hash = EVP_MD_CTX_new()};
    if (p->bytes && p->hash)
        return true;
    pipe_fini(p);
    return false;
}

void pipe_fini(struct pipe *p)
{
    free(p->bytes);
    EVP_MD_CTX_free(p->hash);
    *p = (struct pipe){.bytes = NULL};
}

static bool hash_is_right(struct pipe *p)
{
    uint8_t sum[EVP_MAX_MD_SIZE];
    char hex[2 * EVP_MAX_MD_SIZE + 1] = "";
    unsigned len = 0;
    CHECK(EVP_DigestFinal_ex(p->hash, sum, &len) == 1);
    for (unsigned i = 0; i < len; i++)
        snprintf(hex + 2 * (size_t)i, 3, "%02x", sum[i]);
    return strcmp(hex, p->digest + strlen("shaNNN:")) == 0;
}

/* Once, when the last byte has come. */
static int all_is_here(struct pipe *p)
{
    p->right = hash_is_right(p);
    return p->right ? 0 : -EBADMSG;
}

int pipe_begin(struct pipe *p, const char *digest, int64_t size)
{
    const EVP_MD *md = strncmp(digest, "sha512:", 7) == 0 ? EVP_sha512() : EVP_sha256();
    CHECK(EVP_DigestInit_ex(p->hash, md, NULL) == 1);
    p->digest = digest;
    p->size = size;
    p->in = p->out = 0;
    p->right = false;
    return size ? 0 : all_is_here(p);
}

size_t pipe_room(const struct pipe *p)
{
    return PIPE_BYTES - (size_t)(p->in - p->out);
}

size_t pipe_ready(const struct pipe *p)
{
    size_t held = (size_t)(p->in - p->out);
    return p->right || held == 0 ? held : held - 1;
}

/* The bytes at a place of the blob that lie in one piece, `len` of them at most. */
static uint8_t *piece(const struct pipe *p, int64_t at, size_t *len)
{
    size_t begin = (size_t)(at % PIPE_BYTES);
    if (*len > PIPE_BYTES - begin)
        *len = PIPE_BYTES - begin;
    return p->bytes + begin;
}

int pipe_put(struct pipe *p, const void *bytes, size_t len)
{
    const uint8_t *from = bytes;
    if ((uint64_t)(p->size - p->in) < len)
        return -EBADMSG;
    if (len > pipe_room(p))
        return -EAGAIN;
    if (len == 0)
        return 0;
    CHECK(EVP_DigestUpdate(p->hash, bytes, len) == 1);
    while (len) {
        size_t n = len;
        uint8_t *to = piece(p, p->in, &n);
        memcpy(to, from, n);
        p->in += (int64_t)n;
        from += n;
        len -= n;
    }
    return p->in == p->size ? all_is_here(p) : 0;
}

size_t pipe_take(struct pipe *p, void *out, size_t room)
{
    uint8_t *to = out;
    size_t ready = pipe_ready(p), len = ready < room ? ready : room;
    for (size_t left = len; left;) {
        size_t n = left;
        const uint8_t *from = piece(p, p->out, &n);
        memcpy(to, from, n);
        p->out += (int64_t)n;
        to += n;
        left -= n;
    }
    return len;
}
