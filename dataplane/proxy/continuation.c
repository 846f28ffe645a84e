/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/proxy/continuation.h"

#include <stdio.h>
#include <string.h>

#include "dataplane/http/number.h"
#include "dataplane/http/range.h"

enum { STATUS_OK = 200, STATUS_PART = 206, STATUS_UNSATISFIABLE = 416 };

static bool view_ends(struct view v, struct view end)
{
    return v.len >= end.len && memcmp(v.p + v.len - end.len, end.p, end.len) == 0;
}

bool continuation_digest(struct view path, struct digest *out)
{
    const char *slash = path.len ? memrchr(path.p, '/', path.len) : NULL;
    if (!slash || !view_starts(path, VIEW_LIT("/v2/")))
        return false;
    struct view before = view_between(path.p, slash), name = view_between(slash + 1, path.p + path.len);
    if (!view_ends(before, VIEW_LIT("/blobs")) && !view_ends(before, VIEW_LIT("/manifests")))
        return false;
    return digest_parse(name.p, name.len, out) == 0;
}

static struct view strong_etag(const struct http_answer *answer)
{
    struct view etag = view_trim(http_answer_field(answer, "ETag"));
    bool strong = etag.len >= 2 && etag.p[0] == '"' && etag.p[etag.len - 1] == '"';
    return strong && etag.len <= CONTINUATION_ETAG_MAX ? etag : (struct view){NULL, 0};
}

/* A coding of the content makes other bytes of it, possibly other ones each time. */
static bool is_coded(const struct http_answer *answer)
{
    struct view coding = view_trim(http_answer_field(answer, "Content-Encoding"));
    return coding.len && !view_ilit(coding, "identity");
}

/* "bytes FIRST-LAST/TOTAL": TOTAL may be "*"; FIRST-LAST is "*" with *first above *last, in a 416. */
static bool read_content_range(const struct http_answer *answer, uint64_t *first, uint64_t *last,
                               uint64_t *total)
{
    struct view field = answer->known[HTTP_KNOWN_CONTENT_RANGE], size, span;
    if (!view_starts(field, VIEW_LIT("bytes ")))
        return false;
    span = view_trim(view_split(view_skip(field, sizeof("bytes ") - 1), '/', &size));
    size = view_trim(size);
    *total = CONTINUATION_UNKNOWN;
    if (!view_present(size) || (!view_lit(size, "*") && number_read(size, INT64_MAX, total) != 0))
        return false;
    *first = 1;
    *last = 0;
    if (view_lit(span, "*"))
        return *total != CONTINUATION_UNKNOWN;
    return http_content_range_read(field, first, last) == 0;
}

static bool learn_place(struct continuation *c, const struct http_answer *answer)
{
    uint64_t last;
    bool told = answer->framing == HTTP_BODY_LENGTH;
    if (answer->status == STATUS_OK) {
        c->whole = true;
        c->length = c->total = told ? answer->content_length : CONTINUATION_UNKNOWN;
        return true;
    }
    if (answer->status != STATUS_PART || !read_content_range(answer, &c->first, &last, &c->total) ||
        last < c->first)
        return false;
    c->length = last - c->first + 1;
    return !told || answer->content_length == c->length;
}

/* The digest as the answer names it itself; one that is not of our path's kind says nothing. */
static bool digest_agrees(const struct continuation *c, const struct http_answer *answer)
{
    struct view text = view_trim(http_answer_field(answer, "Docker-Content-Digest"));
    struct digest told;
    return c->digest.alg == DIGEST_NONE || !text.len || digest_parse(text.p, text.len, &told) != 0 ||
           told.alg != c->digest.alg || digest_equal(&told, &c->digest);
}

bool continuation_learn(struct continuation *c, enum proxy_kind kind, const struct http_request *req,
                        const struct http_answer *answer)
{
    *c = (struct continuation){0};
    if (req->method != HTTP_GET || is_coded(answer) || !learn_place(c, answer))
        return false;
    if (answer->framing != HTTP_BODY_LENGTH && answer->framing != HTTP_BODY_CHUNKED)
        return false;
    if (kind != PROXY_REGISTRY || !continuation_digest(req->path, &c->digest) || !digest_agrees(c, answer))
        c->digest.alg = DIGEST_NONE;
    struct view etag = strong_etag(answer);
    c->etag_len = (uint8_t)etag.len;
    if (etag.len)
        memcpy(c->etag, etag.p, etag.len);
    return c->digest.alg != DIGEST_NONE || c->etag_len;
}

size_t continuation_range(const struct continuation *c, uint64_t moved, bool again,
                          char out[CONTINUATION_RANGE_MAX])
{
    unsigned long long from = again ? 0 : c->first + moved;
    int len = c->whole || c->length == CONTINUATION_UNKNOWN
                  ? snprintf(out, CONTINUATION_RANGE_MAX, "bytes=%llu-", from)
                  : snprintf(out, CONTINUATION_RANGE_MAX, "bytes=%llu-%llu", from,
                             (unsigned long long)(c->first + c->length - 1));
    return (size_t)len;
}

static bool same_thing(const struct continuation *c, const struct http_answer *answer)
{
    struct view etag = http_answer_field(answer, "ETag");
    if (is_coded(answer) || !digest_agrees(c, answer))
        return false;
    if (!c->etag_len)
        return true;
    if (!view_present(etag)) /* the digest in the path is enough */
        return c->digest.alg != DIGEST_NONE;
    return view_eq(view_trim(etag), view_of(c->etag, c->etag_len));
}

/* The length of the whole, as an answer tells it. */
static bool learn_total(struct continuation *c, uint64_t moved, uint64_t total)
{
    uint64_t least = c->first + (c->length == CONTINUATION_UNKNOWN ? moved : c->length);
    if (total == CONTINUATION_UNKNOWN)
        return true;
    if (total < least || (c->total != CONTINUATION_UNKNOWN && c->total != total))
        return false;
    c->total = total;
    if (c->whole)
        c->length = total;
    return true;
}

static enum continuation_join accept_part(struct continuation *c, const struct http_answer *answer,
                                          uint64_t moved, bool again, uint64_t *skip, uint64_t *left)
{
    uint64_t first, last, total;
    if (!read_content_range(answer, &first, &last, &total) || last < first ||
        first != (again ? 0 : c->first + moved) || !learn_total(c, moved, total))
        return CONTINUATION_NO;
    if (answer->framing == HTTP_BODY_LENGTH && answer->content_length != last - first + 1)
        return CONTINUATION_NO;
    if (c->length == CONTINUATION_UNKNOWN || last + 1 != c->first + c->length)
        return CONTINUATION_NO; /* a piece of the rest, or nobody knows: it would end too early */
    *skip = again ? moved : 0;
    *left = c->length - moved;
    return CONTINUATION_PART;
}

static enum continuation_join accept_whole(struct continuation *c, const struct http_answer *answer,
                                           uint64_t moved, uint64_t *skip, uint64_t *left)
{
    bool told = answer->framing == HTTP_BODY_LENGTH;
    if (!told && (answer->framing != HTTP_BODY_CHUNKED || !c->whole))
        return CONTINUATION_NO; /* what comes behind a part could not be told from it */
    if (!learn_total(c, moved, told ? answer->content_length : CONTINUATION_UNKNOWN))
        return CONTINUATION_NO;
    *skip = c->first + moved;
    *left = c->length == CONTINUATION_UNKNOWN ? CONTINUATION_UNKNOWN : c->length - moved;
    return CONTINUATION_WHOLE;
}

static enum continuation_join accept(struct continuation *c, const struct http_answer *answer, uint64_t moved,
                                     bool again, uint64_t *skip, uint64_t *left)
{
    uint64_t first, last, total;
    if (c->length != CONTINUATION_UNKNOWN && moved > c->length)
        return CONTINUATION_NO;
    if (answer->status == STATUS_UNSATISFIABLE) {
        bool ends = c->whole && (c->total == CONTINUATION_UNKNOWN || c->total == moved) &&
                    read_content_range(answer, &first, &last, &total) && last < first && total == moved;
        return ends ? CONTINUATION_END : CONTINUATION_NO;
    }
    if (!same_thing(c, answer))
        return CONTINUATION_NO;
    if (answer->status == STATUS_PART)
        return accept_part(c, answer, moved, again, skip, left);
    return answer->status == STATUS_OK ? accept_whole(c, answer, moved, skip, left) : CONTINUATION_NO;
}

enum continuation_join continuation_accept(struct continuation *c, const struct http_answer *answer,
                                           uint64_t moved, bool again, uint64_t *skip, uint64_t *left)
{
    struct continuation learned = *c;
    *skip = *left = 0;
    enum continuation_join join = accept(&learned, answer, moved, again, skip, left);
    if (join != CONTINUATION_NO)
        *c = learned;
    return join;
}
