/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a proxy has to know of the APIs behind it: which requests live long, which connections stop being
 * HTTP, what has to reach the same backend as something before it, and which blob is asked for. Pure.
 */
#ifndef FL_PROXY_KINDS_H
#define FL_PROXY_KINDS_H

#include <stdbool.h>

#include "plan.h"
#include "dataplane/http/http1.h"

struct kind_facts {
    bool longlived;       /* its answer may take as long as it likes */
    bool h2c;             /* an upgrade to HTTP/2 in clear is passed on (BuildKit) */
    bool hijack;          /* a 200 without a length is a raw stream, both ways (docker attach and exec) */
    bool idempotent;      /* may be sent again when nobody knows what became of it (RFC 9110, 9.2.2) */
    struct view digest;   /* "sha256:...", of a blob or manifest in the path; absent: none */
    struct view affinity; /* same key, same backend: BuildKit's session, a registry's upload; absent: none */
};

void kind_judge(enum proxy_kind kind, const struct http_request *req, struct kind_facts *out);

/* The upload id in a path or URL ".../blobs/uploads/ID[?...]"; absent: none. */
struct view kind_upload_id(struct view url);

#endif
