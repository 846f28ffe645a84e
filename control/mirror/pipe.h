/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bytes of a blob between the registry that gives them and the one that takes them: a ring of fixed size,
 * which hashes what comes. Its last byte is kept back until all of the blob has come and is what its digest
 * says, so what is something else never comes to an end at the other side. Pure.
 */
#ifndef FL_MIRROR_PIPE_H
#define FL_MIRROR_PIPE_H

#include <openssl/evp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PIPE_BYTES = 1 << 20 };

struct pipe {
    uint8_t *bytes; /* PIPE_BYTES */
    EVP_MD_CTX *hash;
    const char *digest;
    int64_t size, in, out; /* of the blob: all of it, what has come, what has gone */
    bool right;            /* all has come, and it is that blob */
};

/* False: no memory. */
bool pipe_init(struct pipe *p);
void pipe_fini(struct pipe *p);

/* Another blob, from its first byte on; borrows the digest. -EBADMSG: nothing at all is not that blob. */
int pipe_begin(struct pipe *p, const char *digest, int64_t size);

/* All of the bytes, or none. -EAGAIN: there is no room for them; -EBADMSG: they are not that blob. */
int pipe_put(struct pipe *p, const void *bytes, size_t len);

/* How many bytes may go on, and takes up to `room` of them. */
size_t pipe_ready(const struct pipe *p);
size_t pipe_take(struct pipe *p, void *out, size_t room);

size_t pipe_room(const struct pipe *p);

#endif
