/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every fixed bound of the system in one place. What an operator may tune is not here but in settings.def;
 * these are the sizes that structures and formats are built from.
 */
#ifndef FL_LIMITS_H
#define FL_LIMITS_H

enum limits {
    /* Names of the OCI distribution specification: client limit for host + "/" + name is 255. */
    REPO_NAME_MAX = 255,
    TAG_NAME_MAX = 128,
    MEDIA_TYPE_MAX = 255,
    MANIFEST_REFS_MAX = 16384,         /* descriptors in one manifest or index */
    MANIFEST_TAGS_MAX = 64,            /* ?tag= parameters of one PUT */
    MANIFEST_BYTES_CEILING = 32 << 20, /* upper end of registry.manifest_bytes_max */
    UPLOAD_RANDOM_LEN = 32,            /* 128 random bits in hex, */
    UPLOAD_ID_LEN = 48,                /* then the id of the node that has the session */
    BLOB_HOLDERS_MAX = 8,              /* nodes that are counted as holding one blob */
    PATTERN_TEXT_MAX = 255,            /* a list of patterns in a policy or for an endpoint */
    POLICIES_MAX = 4096,
    NOTICES_MAX = 100000, /* that wait for webhooks; beyond it the oldest ones go */
    ENDPOINTS_MAX = 16,   /* webhooks */
    MIRRORS_MAX = 64,     /* rules */
    SOURCES_MAX = 255,
    SOURCES_OWN_MAX = 64, /* of them with backends of their own, in place of a service */

    /* The two processes. */
    RINGS_MAX = 64,       /* rings = threads of the data plane */
    LISTENERS_MAX = 1024, /* listening sockets in all */
    LISTENERS_PER_ADDRESS_MAX = 16,
    ADDRESS_TEXT_MAX = 64,        /* "[v6]:port" with its NUL */
    COMMAND_BYTES_MAX = 40 << 20, /* one log entry: a manifest's descriptor may carry its annotations */
    FRAME_BYTES_MAX = COMMAND_BYTES_MAX + 4096,
    ACTOR_TEXT_MAX = 128,
    SOURCE_TEXT_MAX = 64,

    /* Connections. */
    RECV_BUFFER_BYTES = 4096,      /* one provided receive buffer */
    BODY_BUFFER_BYTES = 256 << 10, /* one buffer of an upload's body */
    RESPONSE_HEAD_MAX = 4096,
    REQUEST_FIELDS_MAX = 256,        /* upper end of http.headers_max */
    HEADER_BYTES_CEILING = 64 << 10, /* upper end of http.header_bytes_max */
};

#endif
