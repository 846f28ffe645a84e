/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads what the registry must know of a manifest out of its bytes: OCI image manifests and indexes
 * (image-spec), the artifact manifest of its release candidates, and Docker's image manifest version 2,
 * schema 2 and manifest list. Pure, one pass, no allocation; the bytes themselves are never changed.
 *
 * Strict where two readers could see two things: a known key may stand once, also when it is written with
 * escapes, and a key that differs from a known one in the case of its letters only is refused (Go's decoder
 * would take it for the known one). A manifest that is an image and an index at once is refused. Unknown keys
 * may hold any JSON. null stands for "absent", as Go's encoder writes it.
 */
#ifndef FL_REGISTRY_MANIFEST_JSON_H
#define FL_REGISTRY_MANIFEST_JSON_H

#include <stdbool.h>
#include <stdint.h>

#include "digest.h"
#include "limits.h"
#include "dataplane/http/view.h"

enum manifest_kind { MANIFEST_OTHER, MANIFEST_IMAGE, MANIFEST_INDEX, MANIFEST_ARTIFACT };

enum manifest_place { MANIFEST_CONFIG, MANIFEST_LAYER, MANIFEST_CHILD, MANIFEST_BLOB };

struct manifest_text {
    uint16_t len;
    char text[MEDIA_TYPE_MAX]; /* visible ASCII without quotes and backslashes */
};

/* A descriptor that the repository must hold; valid until the callback returns. */
struct manifest_ref {
    enum manifest_place place;
    struct view media_type; /* empty if it has none */
    struct digest digest;
    uint64_t size; /* bytes */
};

typedef void manifest_ref_fn(void *ctx, const struct manifest_ref *ref);

struct manifest {
    enum manifest_kind kind;
    struct manifest_text media_type;    /* of the manifest, as manifest_judge settled it */
    struct manifest_text artifact_type; /* for an image without one: its config's media type */
    struct manifest_text config_type;
    bool has_subject;
    struct digest subject;
    struct view annotations; /* the JSON object as it stands in the bytes; absent without one */
    uint32_t refs;           /* descriptors that were shown */
    uint64_t schema_version; /* 0: absent */
    uint32_t keys;           /* private: which known keys are there with a value */
    /* After an error: what is wrong, without a full stop, and at which byte. */
    const char *why;
    size_t why_at;
};

/*
 * Reads; fn (which may be NULL) is shown each descriptor of config, layers, manifests and blobs, in the order
 * of the bytes, before it is known whether the whole is well-formed. 0, or -EINVAL with out->why.
 */
int manifest_read(const char *bytes, size_t len, manifest_ref_fn *fn, void *ctx, struct manifest *out);

/*
 * Settles the media type out of the request's Content-Type (absent, or with parameters) and the manifest's
 * own, and checks that the manifest has what its kind must have. 0, or -EINVAL with out->why.
 */
int manifest_judge(struct manifest *m, struct view content_type);

/* Media types of manifests that are known here. */
enum manifest_kind manifest_kind_of(struct view media_type);

/* Layers that a registry need not hold (image-spec, "Non-Distributable Layers"; Docker's foreign layers). */
bool manifest_type_foreign(struct view media_type);

#endif
