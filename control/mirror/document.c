/* SPDX-License-Identifier: Apache-2.0 */
#include "control/mirror/document.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

#define OCI             "application/vnd.oci.image."
#define DOCKER          "application/vnd.docker.distribution.manifest."
#define OCI_INDEX       OCI "index.v1+json"
#define OCI_MANIFEST    OCI "manifest.v1+json"
#define DOCKER_LIST     DOCKER "list.v2+json"
#define DOCKER_MANIFEST DOCKER "v2+json"

const char document_accept[] = OCI_MANIFEST ", " OCI_INDEX ", " DOCKER_MANIFEST ", " DOCKER_LIST;

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

int document_names(const char *body, size_t len, const char *key, bool (*valid)(const char *),
                   document_name each, void *arg)
{
    json_t *root = len <= DOCUMENT_BYTES_MAX ? json_loadb(body, len, 0, NULL) : NULL;
    json_t *list = json_object_get(root, key), *item;
    size_t i;
    int count = json_is_array(list) || json_is_null(list) ? 0 : -EINVAL;
    json_array_foreach(list, i, item)
    {
        const char *name = json_string_value(item);
        count++;
        if (name && valid(name) && !each(arg, name))
            break;
    }
    json_decref(root);
    return count;
}

/* --- manifests --- */

static bool layer_elsewhere(const json_t *item)
{
    const char *type = text_of(item, "mediaType");
    return strstr(type, ".foreign.") || strstr(type, "nondistributable");
}

static int ref_add(struct document *d, const json_t *item, bool manifest)
{
    const char *digest = text_of(item, "digest");
    const json_t *size = json_object_get(item, "size");
    if (!json_is_object(item) || !name_digest_valid(digest) || !json_is_integer(size) ||
        json_integer_value(size) < 0)
        return -EINVAL;
    if (d->count == DOCUMENT_REFS_MAX)
        return -E2BIG;
    d->refs = reallocarray(d->refs, d->count + 1, sizeof(*d->refs));
    CHECK(d->refs);
    struct document_ref *ref = &d->refs[d->count++];
    *ref = (struct document_ref){.size = json_integer_value(size),
                                 .manifest = manifest,
                                 .elsewhere = !manifest && layer_elsewhere(item)};
    snprintf(ref->digest, sizeof(ref->digest), "%s", digest);
    return 0;
}

static int refs_add(struct document *d, const json_t *list, bool manifests)
{
    const json_t *item;
    size_t i;
    int rc = 0;
    if (list && !json_is_array(list))
        return -EINVAL;
    json_array_foreach(list, i, item)
    {
        rc = ref_add(d, item, manifests);
        if (rc)
            break;
    }
    return rc;
}

static int root_read(const json_t *root, const char *type, struct document *out)
{
    const char *own = text_of(root, "mediaType");
    const json_t *config = json_object_get(root, "config");
    snprintf(out->type, sizeof(out->type), "%s", *own ? own : type);
    if (!json_is_object(root) || strlen(own) >= sizeof(out->type))
        return -EINVAL;
    if (json_integer_value(json_object_get(root, "schemaVersion")) == 1)
        return -ENOTSUP;
    out->index = json_is_array(json_object_get(root, "manifests"));
    if (out->type[0] == '\0')
        snprintf(out->type, sizeof(out->type), "%s", out->index ? OCI_INDEX : OCI_MANIFEST);
    if (out->index)
        return refs_add(out, json_object_get(root, "manifests"), true);
    if (!config && !json_object_get(root, "layers"))
        return -EINVAL;
    int rc = config ? ref_add(out, config, false) : 0;
    return rc ? rc : refs_add(out, json_object_get(root, "layers"), false);
}

int document_read(const char *body, size_t len, const char *type, struct document *out)
{
    memset(out, 0, sizeof(*out));
    json_t *root = len <= DOCUMENT_BYTES_MAX ? json_loadb(body, len, 0, NULL) : NULL;
    int rc = root ? root_read(root, type, out) : -EINVAL;
    json_decref(root);
    if (rc)
        document_fini(out);
    return rc;
}

void document_fini(struct document *d)
{
    free(d->refs);
    d->refs = NULL;
    d->count = 0;
}

/* --- referrers --- */

json_t *document_referrers(const char *body, size_t len)
{
    json_t *root = len <= DOCUMENT_BYTES_MAX ? json_loadb(body, len, 0, NULL) : NULL;
    json_t *list = json_object_get(root, "manifests"), *out = json_is_array(list) ? json_array() : NULL,
           *item;
    size_t i;
    json_array_foreach(list, i, item)
    {
        if (name_digest_valid(text_of(item, "digest")) && json_array_size(out) < DOCUMENT_REFS_MAX)
            json_array_append(out, item);
    }
    json_decref(root);
    return out;
}

static bool has_digest(const json_t *list, const char *digest)
{
    const json_t *item;
    size_t i;
    json_array_foreach(list, i, item)
    {
        if (strcmp(text_of(item, "digest"), digest) == 0)
            return true;
    }
    return false;
}

char *document_referrers_merge(const json_t *now, const json_t *add, bool *more)
{
    json_t *list = now ? json_copy((json_t *)now) : json_array(), *item;
    size_t i;
    *more = false;
    json_array_foreach(add, i, item)
    {
        if (has_digest(list, text_of(item, "digest")))
            continue;
        json_array_append(list, item);
        *more = true;
    }
    json_t *root =
        json_pack("{s:i, s:s, s:o}", "schemaVersion", 2, "mediaType", OCI_INDEX, "manifests", list);
    char *text = json_dumps(root, JSON_COMPACT);
    CHECK(text);
    json_decref(root);
    return text;
}

void document_error(const char *body, size_t len, char *out, size_t cap)
{
    json_t *root = body && len <= DOCUMENT_BYTES_MAX ? json_loadb(body, len, 0, NULL) : NULL;
    const json_t *first = json_array_get(json_object_get(root, "errors"), 0);
    const char *code = text_of(first, "code"), *message = text_of(first, "message");
    snprintf(out, cap, "%.60s%s%.200s", code, *code && *message ? ": " : "", message);
    for (char *p = out; *p; p++)
        if ((unsigned char)*p < ' ' || *p == 0x7f)
            *p = ' ';
    json_decref(root);
}
