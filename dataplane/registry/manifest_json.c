/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/registry/manifest_json.h"

#include "check.h"
#include "dataplane/registry/json_scan.h"

enum { KEY_TEXT_MAX = 48 /* a longer key is none that is known, in whatever way it is written */ };

/* Known keys of manifests and of descriptors. */
enum key {
    KEY_UNKNOWN,
    KEY_MEDIA_TYPE, /* the frequent ones first: they are looked for in this order */
    KEY_DIGEST,
    KEY_SIZE,
    KEY_SCHEMA_VERSION,
    KEY_ARTIFACT_TYPE,
    KEY_CONFIG,
    KEY_LAYERS,
    KEY_MANIFESTS,
    KEY_BLOBS,
    KEY_SUBJECT,
    KEY_ANNOTATIONS,
    KEY_FS_LAYERS,
    KEY_URLS,
    KEY_DATA,
    KEY_PLATFORM,
    KEY_COUNT
};

#define BIT(k) (1u << (k))

static const struct view key_names[KEY_COUNT] = {
    [KEY_SCHEMA_VERSION] = {"schemaVersion", 13},
    [KEY_MEDIA_TYPE] = {"mediaType", 9},
    [KEY_ARTIFACT_TYPE] = {"artifactType", 12},
    [KEY_CONFIG] = {"config", 6},
    [KEY_LAYERS] = {"layers", 6},
    [KEY_MANIFESTS] = {"manifests", 9},
    [KEY_BLOBS] = {"blobs", 5},
    [KEY_SUBJECT] = {"subject", 7},
    [KEY_ANNOTATIONS] = {"annotations", 11},
    [KEY_FS_LAYERS] = {"fsLayers", 8},
    [KEY_DIGEST] = {"digest", 6},
    [KEY_SIZE] = {"size", 4},
    [KEY_URLS] = {"urls", 4},
    [KEY_DATA] = {"data", 4},
    [KEY_PLATFORM] = {"platform", 8},
};

static const uint32_t manifest_keys = BIT(KEY_SCHEMA_VERSION) | BIT(KEY_MEDIA_TYPE) | BIT(KEY_ARTIFACT_TYPE) |
                                      BIT(KEY_CONFIG) | BIT(KEY_LAYERS) | BIT(KEY_MANIFESTS) |
                                      BIT(KEY_BLOBS) | BIT(KEY_SUBJECT) | BIT(KEY_ANNOTATIONS) |
                                      BIT(KEY_FS_LAYERS);

static const uint32_t descriptor_keys = BIT(KEY_MEDIA_TYPE) | BIT(KEY_DIGEST) | BIT(KEY_SIZE) |
                                        BIT(KEY_URLS) | BIT(KEY_ANNOTATIONS) | BIT(KEY_DATA) |
                                        BIT(KEY_PLATFORM) | BIT(KEY_ARTIFACT_TYPE);

struct reading {
    struct scan j;
    struct manifest *m;
    manifest_ref_fn *fn;
    void *ctx;
};

/* ------------------------------------------------------------------ keys */

/*
 * Folds letters as Go's encoding/json does when it looks for a field: ASCII, and the two other characters
 * that fold to ASCII letters (U+017F to s, U+212A to k). The folded text is not longer.
 */
static size_t fold(char *text, size_t len)
{
    size_t n = 0;
    for (size_t i = 0; i < len;) {
        if (i + 1 < len && memcmp(text + i, "\xc5\xbf", 2) == 0) {
            text[n++] = 's';
            i += 2;
        } else if (i + 2 < len && memcmp(text + i, "\xe2\x84\xaa", 3) == 0) {
            text[n++] = 'k';
            i += 3;
        } else {
            text[n++] = view_lower(text[i++]);
        }
    }
    return n;
}

static enum key key_exact(struct view text, uint32_t keys)
{
    for (unsigned k = 1; k < KEY_COUNT; k++)
        if (keys & BIT(k) && view_eq(text, key_names[k]))
            return (enum key)k;
    return KEY_UNKNOWN;
}

/* Which of `keys` it is. False, and the scan has failed: a look-alike. */
static bool key_find(struct scan *j, const struct scan_string *s, uint32_t keys, enum key *out)
{
    char text[KEY_TEXT_MAX];
    *out = s->escaped ? KEY_UNKNOWN : key_exact(s->raw, keys);
    if (*out != KEY_UNKNOWN)
        return true;
    long len = scan_decode(s, text, sizeof(text));
    if (len < 0)
        return true;
    *out = key_exact(view_of(text, (size_t)len), keys);
    if (*out != KEY_UNKNOWN)
        return true;
    struct view folded = view_of(text, fold(text, (size_t)len));
    for (unsigned k = 1; k < KEY_COUNT; k++)
        if (keys & BIT(k) && view_ieq(folded, key_names[k]))
            return scan_fail(j, "a key differs from a known one only in the case of its letters");
    return true;
}

struct keys {
    uint32_t known;   /* to look for */
    uint32_t seen;    /* known ones that stood there */
    uint32_t present; /* of these, the ones with a value */
};

/*
 * The next key of an object, with those that are unknown or null skipped together with their values. False at
 * the end and on failure.
 */
static bool next_known(struct scan *j, bool *first, struct keys *keys, enum key *out)
{
    struct scan_string s;
    while (scan_next_key(j, first, &s)) {
        if (!key_find(j, &s, keys->known, out))
            return false;
        if (*out == KEY_UNKNOWN) {
            if (!scan_skip(j))
                return false;
            continue;
        }
        if (keys->seen & BIT(*out))
            return scan_fail(j, "a key stands twice");
        keys->seen |= BIT(*out);
        if (scan_null(j))
            continue;
        keys->present |= BIT(*out);
        return true;
    }
    return false;
}

/* ------------------------------------------------------------------ values */

#define BYTES(c) (0x0101010101010101ull * (c))

/* Whether all is visible ASCII without quotes and backslashes; eight bytes at a time, as in json_scan.c. */
static bool type_text(const char *p, size_t len)
{
    uint64_t x, bad = 0;
    for (; len >= sizeof(x); p += sizeof(x), len -= sizeof(x)) {
        memcpy(&x, p, sizeof(x));
        bad |= (x - BYTES('!')) | (x + BYTES(1)) | ((x ^ BYTES('"')) - BYTES(1)) |
               ((x ^ BYTES('\\')) - BYTES(1)) | x;
    }
    bad &= BYTES(0x80);
    for (; len; p++, len--)
        bad |= *p <= ' ' || *p > '~' || *p == '"' || *p == '\\';
    return bad == 0;
}

static bool type_read(struct scan *j, struct manifest_text *out)
{
    struct scan_string s;
    if (!scan_string(j, &s))
        return false;
    long len = scan_decode(&s, out->text, sizeof(out->text));
    if (len < 0)
        return scan_fail(j, "a media type is too long");
    if (!type_text(out->text, (size_t)len))
        return scan_fail(j, "a media type has a character that no media type has");
    out->len = (uint16_t)len;
    return true;
}

static bool digest_read(struct scan *j, struct digest *out)
{
    struct scan_string s;
    char text[DIGEST_TEXT_MAX];
    if (!scan_string(j, &s))
        return false;
    long len = scan_decode(&s, text, sizeof(text));
    int err = len < 0 ? -EINVAL : digest_parse(text, (size_t)len, out);
    if (err)
        return scan_fail(j, err == -ENOTSUP ? "a digest is of an algorithm other than sha256 and sha512"
                                            : "a digest is malformed");
    return true;
}

static bool skip_typed(struct scan *j, char opening, const char *why)
{
    return scan_peek(j) == opening ? scan_skip(j) : scan_fail(j, why);
}

struct descriptor {
    struct manifest_text media_type;
    struct digest digest;
    uint64_t size;
};

static bool descriptor_value(struct scan *j, enum key key, struct descriptor *d)
{
    struct manifest_text ignored;
    switch (key) {
    case KEY_MEDIA_TYPE:
        return type_read(j, &d->media_type);
    case KEY_ARTIFACT_TYPE:
        return type_read(j, &ignored);
    case KEY_DIGEST:
        return digest_read(j, &d->digest);
    case KEY_SIZE:
        return scan_u63(j, &d->size);
    case KEY_URLS:
        return skip_typed(j, '[', "urls is not an array");
    case KEY_DATA:
        return skip_typed(j, '"', "data is not a string");
    default:
        return skip_typed(j, '{', "annotations or platform is not an object");
    }
}

static bool descriptor_read(struct scan *j, struct descriptor *d)
{
    struct keys keys = {.known = descriptor_keys};
    enum key key;
    bool first = true;
    d->media_type.len = 0;
    while (next_known(j, &first, &keys, &key))
        if (!descriptor_value(j, key, d))
            return false;
    if (j->why)
        return false;
    if (!(keys.present & BIT(KEY_DIGEST)) || !(keys.present & BIT(KEY_SIZE)))
        return scan_fail(j, "a descriptor has no digest or no size");
    return true;
}

static bool ref_show(struct reading *r, enum manifest_place place, const struct descriptor *d)
{
    struct manifest_ref ref = {place, view_of(d->media_type.text, d->media_type.len), d->digest, d->size};
    if (r->m->refs == MANIFEST_REFS_MAX)
        return scan_fail(&r->j, "too many descriptors");
    r->m->refs++;
    if (r->fn)
        r->fn(r->ctx, &ref);
    return true;
}

static bool refs_read(struct reading *r, enum manifest_place place)
{
    struct descriptor d;
    bool first = true;
    while (scan_next_item(&r->j, &first))
        if (!descriptor_read(&r->j, &d) || !ref_show(r, place, &d))
            return false;
    return !r->j.why;
}

/* Annotations are a map of strings (image-spec, annotations.md). They are kept as they stand. */
static bool annotations_read(struct scan *j, struct view *out)
{
    struct scan_string s;
    bool first = true;
    scan_peek(j);
    const char *start = j->p;
    while (scan_next_key(j, &first, &s))
        if (!scan_string(j, &s))
            return false;
    *out = view_between(start, j->p);
    return !j->why;
}

static bool manifest_value(struct reading *r, enum key key)
{
    struct manifest *m = r->m;
    struct descriptor d;
    switch (key) {
    case KEY_SCHEMA_VERSION:
        return scan_u63(&r->j, &m->schema_version);
    case KEY_MEDIA_TYPE:
        return type_read(&r->j, &m->media_type);
    case KEY_ARTIFACT_TYPE:
        return type_read(&r->j, &m->artifact_type);
    case KEY_CONFIG:
        if (!descriptor_read(&r->j, &d) || !ref_show(r, MANIFEST_CONFIG, &d))
            return false;
        m->config_type = d.media_type;
        return true;
    case KEY_LAYERS:
        return refs_read(r, MANIFEST_LAYER);
    case KEY_MANIFESTS:
        return refs_read(r, MANIFEST_CHILD);
    case KEY_BLOBS:
        return refs_read(r, MANIFEST_BLOB);
    case KEY_SUBJECT:
        if (!descriptor_read(&r->j, &d))
            return false;
        m->has_subject = true;
        m->subject = d.digest;
        return true;
    case KEY_ANNOTATIONS:
        return annotations_read(&r->j, &m->annotations);
    default: /* what schema 1 has; manifest_judge says so */
        return scan_skip(&r->j);
    }
}

int manifest_read(const char *bytes, size_t len, manifest_ref_fn *fn, void *ctx, struct manifest *out)
{
    struct reading r = {scan_of(bytes, len), out, fn, ctx};
    struct keys keys = {.known = manifest_keys};
    enum key key;
    bool first = true;
    memset(out, 0, sizeof(*out));
    while (next_known(&r.j, &first, &keys, &key))
        if (!manifest_value(&r, key))
            break;
    out->keys = keys.present;
    if (!r.j.why)
        scan_at_end(&r.j);
    out->why = r.j.why;
    out->why_at = (size_t)(r.j.p - r.j.begin);
    return out->why ? -EINVAL : 0;
}

/* ------------------------------------------------------------------ what it is */

static const struct {
    struct view type;
    enum manifest_kind kind;
} known_types[] = {
    {VIEW_LIT("application/vnd.oci.image.manifest.v1+json"), MANIFEST_IMAGE},
    {VIEW_LIT("application/vnd.docker.distribution.manifest.v2+json"), MANIFEST_IMAGE},
    {VIEW_LIT("application/vnd.oci.image.index.v1+json"), MANIFEST_INDEX},
    {VIEW_LIT("application/vnd.docker.distribution.manifest.list.v2+json"), MANIFEST_INDEX},
    {VIEW_LIT("application/vnd.oci.artifact.manifest.v1+json"), MANIFEST_ARTIFACT},
};

enum manifest_kind manifest_kind_of(struct view media_type)
{
    for (size_t i = 0; i < ARRAY_SIZE(known_types); i++)
        if (view_eq(media_type, known_types[i].type))
            return known_types[i].kind;
    return MANIFEST_OTHER;
}

bool manifest_type_foreign(struct view media_type)
{
    static const char oci[] = ".nondistributable.", docker[] = ".rootfs.foreign.";
    return memmem(media_type.p, media_type.len, oci, sizeof(oci) - 1) ||
           memmem(media_type.p, media_type.len, docker, sizeof(docker) - 1);
}

static int wrong(struct manifest *m, const char *why)
{
    m->why = why;
    return -EINVAL;
}

static bool has(const struct manifest *m, uint32_t keys)
{
    return (m->keys & keys) != 0;
}

/* Without a Content-Type and a mediaType of its own: what it looks like. */
static struct view type_guess(const struct manifest *m)
{
    if (has(m, BIT(KEY_MANIFESTS)))
        return known_types[2].type;
    return has(m, BIT(KEY_CONFIG)) ? known_types[0].type : (struct view){"", 0};
}

static int type_settle(struct manifest *m, struct view content_type)
{
    struct view rest, type = view_trim(view_split(content_type, ';', &rest));
    struct view own = view_of(m->media_type.text, m->media_type.len);
    if (type.len && own.len && !view_ieq(type, own))
        return wrong(m, "Content-Type and the manifest's mediaType do not agree");
    if (!own.len)
        own = type.len ? type : type_guess(m);
    for (size_t i = 0; i < ARRAY_SIZE(known_types); i++) {
        if (!view_ieq(own, known_types[i].type))
            continue;
        m->kind = known_types[i].kind;
        m->media_type.len = (uint16_t)known_types[i].type.len;
        memcpy(m->media_type.text, known_types[i].type.p, known_types[i].type.len);
        return 0;
    }
    return wrong(m, own.len ? "this media type is not known as one of manifests"
                            : "neither Content-Type nor mediaType says what kind of manifest it is");
}

/* Keys of another kind would let two readers see two different things. */
static int kind_check(struct manifest *m)
{
    static const uint32_t image = BIT(KEY_CONFIG) | BIT(KEY_LAYERS);
    switch (m->kind) {
    case MANIFEST_IMAGE:
        if (has(m, BIT(KEY_MANIFESTS) | BIT(KEY_BLOBS)))
            return wrong(m, "an image manifest may not have manifests or blobs");
        return has(m, BIT(KEY_CONFIG)) ? 0 : wrong(m, "an image manifest must have a config");
    case MANIFEST_INDEX:
        if (has(m, image | BIT(KEY_BLOBS)))
            return wrong(m, "an index may not have config, layers or blobs");
        return 0;
    default:
        if (has(m, image | BIT(KEY_MANIFESTS)))
            return wrong(m, "an artifact manifest may not have config, layers or manifests");
        return m->artifact_type.len ? 0 : wrong(m, "an artifact manifest must have an artifactType");
    }
}

int manifest_judge(struct manifest *m, struct view content_type)
{
    m->why_at = 0;
    if (m->schema_version == 1 || has(m, BIT(KEY_FS_LAYERS)))
        return wrong(m, "Docker's manifest schema 1 is not taken: push it with a newer client");
    int err = type_settle(m, content_type);
    if (err)
        return err;
    if (m->schema_version != 2 && (m->kind != MANIFEST_ARTIFACT || m->schema_version != 0))
        return wrong(m, "schemaVersion must be 2");
    err = kind_check(m);
    if (err == 0 && m->kind == MANIFEST_IMAGE && m->artifact_type.len == 0)
        m->artifact_type = m->config_type;
    return err;
}
