/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What refers to a digest (signatures, SBOMs, attestations), by the list of the source or, where it keeps
 * none, by its fall-back tag. A destination without lists gets that tag: what it has there stays, what it
 * lacks is added.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/mirror/copy.h"

enum { PAGES_MAX = 64 };

static const char index_type[] = "application/vnd.oci.image.index.v1+json";

/* GET of a JSON list. 0 and a list (a reference); -ENOENT; -errno. */
static int list_get(struct hand *h, bool source, const char *path, json_t **out, char link[URL_ROOM])
{
    struct side *s = source ? h->from : h->to;
    struct side_answer *a = calloc(1, sizeof(*a));
    CHECK(a);
    const struct side_request r = {.method = "GET",
                                   .path = path,
                                   .repo = source ? h->copy->from_repo : h->copy->to_repo,
                                   .write = !source,
                                   .accept = index_type};
    char next[URL_ROOM];
    int rc = copy_result(h, side_ask(s, &r, a, h->error));
    *out = NULL;
    link[0] = '\0';
    if (rc == 0 && a->status == 200) {
        *out = document_referrers(a->body, a->len);
        if (url_next(a->link, next) && !url_resolve(a->url, next, link))
            link[0] = '\0';
        rc = *out ? 0 : -ENOENT; /* a page of something else's */
    } else if (rc == 0) {
        rc = a->status == 404 || a->status == 400 || a->status == 405
                 ? -ENOENT
                 : side_refused(s, a, "what refers to a digest is asked for", h->error);
    }
    side_answer_free(a);
    free(a);
    return rc;
}

static int tag_get(struct hand *h, bool source, const char *digest, json_t **out)
{
    char path[URL_ROOM], tag[TAG_NAME_MAX + 1], link[URL_ROOM];
    if (!name_referrers_tag(digest, tag))
        return -ENOENT;
    snprintf(path, sizeof(path), "/v2/%s/manifests/%s", source ? h->copy->from_repo : h->copy->to_repo, tag);
    return list_get(h, source, path, out, link);
}

/* All of the source's. 0 and a list, which may be empty. */
static int source_list(struct hand *h, const char *digest, json_t **out)
{
    char path[URL_ROOM], link[URL_ROOM];
    json_t *page;
    snprintf(path, sizeof(path), "/v2/%s/referrers/%s", h->copy->from_repo, digest);
    int rc = list_get(h, true, path, out, link);
    if (rc == -ENOENT)
        rc = tag_get(h, true, digest, out);
    for (unsigned i = 0; rc == 0 && link[0] && i < PAGES_MAX; i++) {
        memcpy(path, link, sizeof(path));
        rc = list_get(h, true, path, &page, link);
        if (rc == 0)
            json_array_extend(*out, page);
        json_decref(page);
    }
    if (rc == -ENOENT && !*out) {
        *out = json_array();
        rc = 0;
    }
    return rc;
}

/* Whether the destination keeps lists itself; asked for once a repository. 1, 0, -errno. */
static int destination_knows(struct hand *h, const char *digest)
{
    char path[URL_ROOM], link[URL_ROOM];
    json_t *list;
    snprintf(path, sizeof(path), "/v2/%s/referrers/%s", h->copy->to_repo, digest);
    int rc = list_get(h, false, path, &list, link);
    json_decref(list);
    return rc == 0 ? 1 : rc == -ENOENT ? 0 : rc;
}

/* The fall-back tag gets what it lacks. */
static int tag_put(struct hand *h, const char *digest, const json_t *list)
{
    char path[URL_ROOM], tag[TAG_NAME_MAX + 1];
    struct side_answer *a = calloc(1, sizeof(*a));
    json_t *now = NULL;
    bool more;
    CHECK(a);
    int rc = tag_get(h, false, digest, &now);
    char *text = document_referrers_merge(now, list, &more);
    rc = rc == -ENOENT ? 0 : rc;
    if (rc == 0 && more && name_referrers_tag(digest, tag)) {
        snprintf(path, sizeof(path), "/v2/%s/manifests/%s", h->copy->to_repo, tag);
        const struct side_request r = {.method = "PUT",
                                       .path = path,
                                       .repo = h->copy->to_repo,
                                       .write = true,
                                       .type = index_type,
                                       .body = text,
                                       .len = strlen(text)};
        rc = copy_result(h, side_ask(h->to, &r, a, h->error));
        if (rc == 0 && a->status != 201)
            rc = side_refused(h->to, a, "the tag of what refers to a digest is put", h->error);
        h->changed |= rc == 0;
    }
    json_decref(now);
    free(text);
    side_answer_free(a);
    free(a);
    return rc;
}

int referrers_copy(struct hand *h, const char *digest, unsigned depth)
{
    json_t *list = NULL, *item;
    size_t i;
    int rc = depth > COPY_DEPTH_MAX ? 0 : source_list(h, digest, &list);
    json_array_foreach(list, i, item)
    {
        if (rc)
            break;
        rc = image_manifest(h, json_string_value(json_object_get(item, "digest")), depth);
        rc = rc == -ENOENT ? 0 : rc;
    }
    if (rc == 0 && json_array_size(list)) {
        int knows = destination_knows(h, digest);
        rc = knows < 0 ? knows : knows ? 0 : tag_put(h, digest, list);
    }
    json_decref(list);
    return rc;
}
