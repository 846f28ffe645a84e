/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which endpoint of the OCI distribution API a method and a path mean (distribution-spec, "Endpoints"). Pure.
 *
 * A repository's name may itself have components like "blobs", "manifests" or "tags", so a path is read from
 * its right end. Percent escapes are decoded, but an escaped "/" is refused: whoever filters paths before us
 * must not see another repository than we do.
 */
#ifndef FL_REGISTRY_ROUTE_H
#define FL_REGISTRY_ROUTE_H

#include "digest.h"
#include "limits.h"
#include "dataplane/http/http1.h"
#include "dataplane/http/view.h"

enum route_endpoint {
    ROUTE_BASE,      /* /v2/ */
    ROUTE_CATALOG,   /* /v2/_catalog */
    ROUTE_BLOB,      /* /v2/<name>/blobs/<digest> */
    ROUTE_UPLOADS,   /* /v2/<name>/blobs/uploads/ */
    ROUTE_UPLOAD,    /* /v2/<name>/blobs/uploads/<id> */
    ROUTE_MANIFEST,  /* /v2/<name>/manifests/<tag or digest> */
    ROUTE_TAGS,      /* /v2/<name>/tags/list */
    ROUTE_REFERRERS, /* /v2/<name>/referrers/<digest> */
    ROUTE_ENDPOINTS_COUNT
};

enum route_result {
    ROUTE_OK,
    ROUTE_UNKNOWN,      /* no such path: 404 */
    ROUTE_METHOD,       /* known path, another method: 405 with route_allow() */
    ROUTE_NAME_INVALID, /* the repository's name breaks the grammar or is too long */
    ROUTE_DIGEST_INVALID,
    ROUTE_DIGEST_ALGORITHM, /* well-formed, of an algorithm that is not known */
    ROUTE_TAG_INVALID,
};

struct route {
    enum route_endpoint endpoint;
    bool by_digest;        /* MANIFEST: the reference is a digest */
    struct view repo;      /* absent for BASE and CATALOG */
    struct view reference; /* tag, digest or upload id as text */
    struct digest digest;  /* BLOB, REFERRERS, and MANIFEST if by_digest */
};

/* Longest path that can mean anything here: the parts around a name of full length, all of it escaped. */
enum { ROUTE_PATH_MAX = 3 * (REPO_NAME_MAX + DIGEST_TEXT_MAX + 64) };

/*
 * Reads the path. scratch (of the path's length or more) takes the decoded path if there are escapes in it;
 * views point there or into path. What could be read is in *out also when the result is not ROUTE_OK.
 */
enum route_result route_read(enum http_method method, struct view path, char *scratch, size_t scratch_cap,
                             struct route *out);

/* Methods of an endpoint for Allow: "GET, HEAD, DELETE". */
const char *route_allow(enum route_endpoint endpoint);

/* The specification's grammars, also for names and tags that come in parameters. */
bool route_name_valid(struct view name);
bool route_tag_valid(struct view tag);

#endif
