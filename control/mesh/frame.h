/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the mesh puts on the wire, in wire.h's little-endian: the head of a frame, and the bodies of the
 * frames that are its own. Pure; every reader is for strangers' bytes, and what it gives are views into them.
 */
#ifndef FL_MESH_FRAME_H
#define FL_MESH_FRAME_H

#include "control/mesh/mesh.h"
#include "wire.h"

enum {
    FRAME_VERSION = 1, /* of the mesh: of heads and its own bodies */
    FRAME_HEAD_BYTES = 16,
    FRAME_GUEST_BODY_MAX = 8 << 10, /* of a frame of somebody who has not shown who it is */
    FRAME_HELLO_MAX = 256,
    FRAME_NAME_MAX = 64,    /* bytes of a node's name, a version */
    FRAME_ADDRESS_MAX = 64, /* bytes of the text of an address */
    FRAME_MANAGERS_MAX = 16,
    FRAME_REPLY_MAX = 96 << 10,
};

struct frame_head {
    uint32_t bytes; /* of the body */
    uint16_t type;
    uint16_t version;
    uint64_t id;
};

struct frame_text {
    const char *data;
    size_t len;
};

void frame_head_put(const struct frame_head *head, uint8_t out[FRAME_HEAD_BYTES]);

/* MESH_OK, MESH_VERSION, or MESH_FRAME for a type that there is not or a body over limit. */
enum mesh_reason frame_head_get(const uint8_t in[FRAME_HEAD_BYTES], size_t limit, struct frame_head *out);

/* The first frame on either side. */
struct frame_hello {
    uint16_t lowest, highest; /* versions of frames that it speaks */
    uint8_t cluster_id[16];
    uint64_t node_id;
    struct frame_text software;
};

size_t frame_hello_put(const struct frame_hello *hello, uint8_t out[FRAME_HELLO_MAX]);
enum mesh_reason frame_hello_get(const void *body, size_t len, struct frame_hello *out);

/* A host that wants to be a node. */
struct frame_join {
    uint8_t secret[16];       /* of its token */
    uint32_t cluster_version; /* the highest that its program knows */
    struct frame_text name, request, mesh_address, data_address;
};

/* 0 if it does not fit cap. */
size_t frame_join_put(const struct frame_join *join, void *out, size_t cap);
/* 0, -EPROTO for another version, -EINVAL. */
int frame_join_get(const void *body, size_t len, struct frame_join *out);

struct frame_manager {
    uint64_t id;
    struct frame_text name, mesh_address;
};

enum { FRAME_JOIN_LATER = 1 };

struct frame_join_reply {
    struct frame_text refusal; /* len 0: it was taken */
    uint8_t cluster_id[16];
    uint64_t node_id; /* of a refusal: FRAME_JOIN_LATER where the reason goes away by itself, else 0 */
    struct frame_text name, cert, ca;
    size_t manager_count;
    struct frame_manager manager[FRAME_MANAGERS_MAX];
};

size_t frame_join_reply_put(const struct frame_join_reply *reply, void *out, size_t cap);
int frame_join_reply_get(const void *body, size_t len, struct frame_join_reply *out);

#endif
