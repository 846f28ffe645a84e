/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The manifest reader: the first byte chooses the Content-Type, the rest is the manifest. The scanner below
 * it must agree with jansson on what is JSON.
 */
#include <jansson.h>
#include <stdlib.h>

#include "check.h"
#include "dataplane/registry/json_scan.h"
#include "dataplane/registry/manifest_json.h"

static const struct view types[] = {
    {NULL, 0},
    VIEW_LIT("application/vnd.oci.image.manifest.v1+json"),
    VIEW_LIT("application/vnd.oci.image.index.v1+json"),
    VIEW_LIT("application/vnd.docker.distribution.manifest.v2+json; charset=utf-8"),
    VIEW_LIT("application/vnd.docker.distribution.manifest.list.v2+json"),
    VIEW_LIT("application/vnd.oci.artifact.manifest.v1+json"),
    VIEW_LIT("text/plain"),
};

struct tally {
    const char *begin, *end;
    uint32_t refs;
};

static void count(void *ctx, const struct manifest_ref *ref)
{
    struct tally *t = ctx;
    t->refs++;
    CHECK(ref->place <= MANIFEST_BLOB && digest_size(ref->digest.alg) > 0);
    CHECK(ref->size <= INT64_MAX && ref->media_type.len <= MEDIA_TYPE_MAX);
}

static void check_text(const struct manifest_text *t)
{
    CHECK(t->len <= MEDIA_TYPE_MAX);
    for (unsigned i = 0; i < t->len; i++)
        CHECK(t->text[i] > ' ' && t->text[i] <= '~' && t->text[i] != '"' && t->text[i] != '\\');
}

static void check_manifest(const char *bytes, size_t len, struct view content_type)
{
    struct tally t = {bytes, bytes + len, 0};
    struct manifest m;
    int err = manifest_read(bytes, len, count, &t, &m);
    CHECK(m.refs == t.refs && m.refs <= MANIFEST_REFS_MAX);
    CHECK((err != 0) == (m.why != NULL) && m.why_at <= len);
    if (err)
        return;
    check_text(&m.media_type);
    check_text(&m.artifact_type);
    if (view_present(m.annotations)) {
        CHECK(m.annotations.p >= bytes && m.annotations.p + m.annotations.len <= bytes + len);
        struct scan j = scan_of(m.annotations.p, m.annotations.len);
        CHECK(scan_skip(&j) && scan_at_end(&j));
    }
    err = manifest_judge(&m, content_type);
    CHECK((err != 0) == (m.why != NULL));
    if (err == 0)
        CHECK(m.kind != MANIFEST_OTHER && m.media_type.len > 0);
}

/* jansson refuses numbers that no double holds and NUL in strings; we refuse what is too deep. */
static bool differ_by_choice(const struct scan *j, const json_error_t *e)
{
    enum json_error_code code = json_error_code(e);
    return code == json_error_numeric_overflow || code == json_error_null_character ||
           (j->why && strcmp(j->why, "nested too deeply") == 0) || code == json_error_stack_overflow ||
           code == json_error_null_byte_in_key;
}

static void check_scanner(const char *bytes, size_t len)
{
    struct scan j = scan_of(bytes, len);
    json_error_t e;
    bool good = scan_skip(&j) && scan_at_end(&j);
    CHECK(good == (j.why == NULL));
    if (memchr(bytes, '\0', len)) { /* jansson loses a NUL behind a number or a literal */
        CHECK(!good);
        return;
    }
    json_t *v = json_loadb(bytes, len, JSON_DECODE_ANY | JSON_DECODE_INT_AS_REAL, &e);
    if (good != (v != NULL))
        CHECK(differ_by_choice(&j, &e));
    json_decref(v);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    size_t len = size - 1;
    char *bytes = malloc(len ? len : 1);
    CHECK(bytes);
    memcpy(bytes, data + 1, len);
    check_manifest(bytes, len, types[data[0] % ARRAY_SIZE(types)]);
    check_scanner(bytes, len);
    free(bytes);
    return 0;
}
