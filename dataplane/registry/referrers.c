/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Referrers of a manifest: distribution-spec, end-12. The answer is an image index made of the descriptors
 * that were stored when the referrers were pushed. What a filter matches is found by an index, so that it is
 * on the first page whatever else there is: not every client follows Link. Pages are bounded by entries, by
 * bytes, and by entries looked at (while the index is being made, a filter may match none of them); what
 * comes after is reached by Link, with the last entry looked at.
 *
 * As in list.c the body is written in pieces, each in a names bracket of its own; a descriptor may be larger
 * than a piece. A descriptor never changes, so it can be gone on with; if it is deleted in the middle, the
 * response is cut off.
 */
#include "check.h"
#include "dataplane/http/uri.h"
#include "dataplane/registry/page.h"

enum {
    /* Clients can be trusted to read a manifest of 4 MB (distribution-spec, "Pushing Manifests"), and this is
     * one: with what stands around its descriptors a page is no larger. One descriptor always goes. */
    PAGE_BYTES_MAX = (4 << 20) - 256,
    PAGE_STEPS_MAX = 10000, /* entries looked at */
    CLOSING_MAX = 8,
};

static bool wanted(const struct api *a, const struct names_referrer *r)
{
    return !view_present(a->referrers.type) || view_eq(a->referrers.type, r->artifact_type);
}

static int walk(struct api *a, names_referrer_fn *fn, void *ctx)
{
    const struct digest *after = a->referrers.has_after ? &a->referrers.after : NULL;
    struct names *n = stream_names(a->s);
    int err = names_begin(n);
    if (err)
        return err;
    int indexed = view_present(a->referrers.type) ? names_index_whole(n) : 0;
    if (indexed == 1)
        err = names_each_referrer_of_type(n, a->route.repo, &a->route.digest, a->referrers.type, after,
                                          UINT32_MAX, fn, ctx);
    else
        err = indexed ? indexed
                      : names_each_referrer(n, a->route.repo, &a->route.digest, after, UINT32_MAX, fn, ctx);
    names_end(n);
    return err < 0 ? err : 0;
}

/* ------------------------------------------------------------------ the body */

struct fill {
    struct api *a;
    struct page_text text;
    bool full;
};

/* In the order of the names file: packed digests by their bytes. */
static bool beyond(const struct digest *d, const struct digest *last)
{
    uint8_t a[DIGEST_PACKED_MAX], b[DIGEST_PACKED_MAX];
    size_t a_len = digest_pack(d, a), b_len = digest_pack(last, b);
    int c = memcmp(a, b, a_len < b_len ? a_len : b_len);
    return c > 0 || (c == 0 && a_len > b_len);
}

/* Writes what fits of the descriptor from the offset on. True when it is complete. */
static bool put_descriptor(struct fill *f, struct view descriptor)
{
    struct api *a = f->a;
    struct view comma = a->referrers.any && a->referrers.offset == 0 ? VIEW_LIT(",") : (struct view){0};
    if (!page_put(&f->text, comma))
        return false;
    struct view rest = view_skip(descriptor, a->referrers.offset);
    size_t room = f->text.cap - f->text.len;
    if (rest.len > room)
        rest.len = room;
    page_put(&f->text, rest);
    a->referrers.offset += rest.len;
    a->referrers.any = true;
    return a->referrers.offset == descriptor.len;
}

static bool fill_entry(void *ctx, const struct names_referrer *r)
{
    struct fill *f = ctx;
    struct api *a = f->a;
    if (beyond(&r->digest, &a->referrers.last))
        return false;
    if (wanted(a, r)) {
        /* What was begun is gone: referrers_fill sees that it was not ended. */
        if (a->referrers.offset > r->descriptor.len ||
            (a->referrers.offset && !digest_equal(&r->digest, &a->referrers.part)))
            return false;
        a->referrers.part = r->digest;
        f->full = !put_descriptor(f, r->descriptor);
        if (f->full)
            return false;
        a->referrers.offset = 0;
    }
    a->referrers.after = r->digest;
    a->referrers.has_after = true;
    return true;
}

static ssize_t referrers_fill(struct stream *s, char *buf, size_t cap, bool *done)
{
    struct api *a = s->ctx;
    struct fill f = {.a = a, .text = {buf, 0, cap - CLOSING_MAX}};
    if (!a->referrers.begun)
        page_put(&f.text,
                 VIEW_LIT("{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.index.v1+json\","
                          "\"manifests\":["));
    a->referrers.begun = true;
    if (a->referrers.has_last) {
        int err = walk(a, fill_entry, &f);
        if (err)
            return err;
        if (!f.full && a->referrers.offset)
            return -ESTALE;
    }
    *done = !f.full;
    f.text.cap = cap;
    if (!f.full)
        page_put(&f.text, VIEW_LIT("]}"));
    return (ssize_t)f.text.len;
}

/* ------------------------------------------------------------------ the page */

struct page_scan {
    struct api *a;
    uint64_t left, bytes;
    uint32_t steps;
    bool more;
};

static bool scan_entry(void *ctx, const struct names_referrer *r)
{
    struct page_scan *p = ctx;
    struct api *a = p->a;
    bool shown = wanted(a, r);
    p->more = p->steps == PAGE_STEPS_MAX || (shown && p->left == 0) ||
              (shown && p->bytes && p->bytes + r->descriptor.len + 1 > PAGE_BYTES_MAX);
    if (p->more)
        return false;
    p->steps++;
    if (shown) {
        p->left--;
        p->bytes += r->descriptor.len + 1; /* and a comma */
    }
    a->referrers.last = r->digest;
    a->referrers.has_last = true;
    return true;
}

static void put_link(struct api *a, struct http_response *res, uint64_t n)
{
    char last[DIGEST_TEXT_MAX + 1], more[16 + 3 * MEDIA_TYPE_MAX];
    size_t len = 0;
    if (view_present(a->referrers.type)) {
        static const char name[] = "&artifactType=";
        len = sizeof(name) - 1;
        memcpy(more, name, len);
        ssize_t n_type = http_percent_encode(a->referrers.type, "/", more + len, sizeof(more) - len);
        CHECK(n_type >= 0);
        len += (size_t)n_type;
    }
    page_link(res, a->route.repo, "/referrers/", a->route.reference, n,
              view_of(last, digest_format(&a->referrers.last, last)), view_of(more, len));
}

static void answer_page(struct api *a, uint64_t n)
{
    struct page_scan p = {.a = a, .left = n};
    int err = n ? walk(a, scan_entry, &p) : 0;
    if (err) {
        api_answer_names_error(a, err);
        return;
    }
    struct http_response *res = stream_response(a->s, 200);
    http_response_field(res, "Content-Type", VIEW_LIT("application/vnd.oci.image.index.v1+json"));
    if (view_present(a->referrers.type))
        http_response_field(res, "OCI-Filters-Applied", VIEW_LIT("artifactType"));
    if (p.more)
        put_link(a, res, n);
    stream_send_fill(a->s, referrers_fill);
}

/* Reads artifactType. False: the answer was sent. */
static bool filter_read(struct api *a)
{
    char *text = arena_alloc(&a->s->arena, MEDIA_TYPE_MAX);
    ssize_t len = text ? http_query_get(a->s->req.query, "artifactType", text, MEDIA_TYPE_MAX) : -ENOBUFS;
    if (len > 0)
        a->referrers.type = view_of(text, (size_t)len);
    if (len >= 0 || len == -ENOENT)
        return true;
    error_answer(a->s, 400, ERROR_UNSUPPORTED, "artifactType is not a media type", NULL, (struct view){0});
    return false;
}

void api_referrers(struct api *a)
{
    uint64_t n;
    char *buf;
    struct view after;
    if (!page_size(a, &n) || !filter_read(a) || !page_after(a, DIGEST_TEXT_MAX, &buf, &after))
        return;
    a->referrers.has_after = view_present(after);
    if (a->referrers.has_after && digest_parse(after.p, after.len, &a->referrers.after))
        error_answer(a->s, 400, ERROR_DIGEST_INVALID, "last is not a digest", "digest", after);
    else
        answer_page(a, n);
}
