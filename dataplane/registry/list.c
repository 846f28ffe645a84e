/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tags of a repository and the catalog: distribution-spec, end-8; the catalog as Docker's registry has it.
 *
 * A first walk finds the page's last entry, for Link; the body is then written piece by piece, each piece in
 * a names bracket of its own, as far as that entry. What comes or goes meanwhile is there or not, as it would
 * be for two requests.
 */
#include "check.h"
#include "dataplane/registry/page.h"

enum { ENTRY_MAX = REPO_NAME_MAX, CLOSING_MAX = 8 };
_Static_assert((int)ENTRY_MAX >= (int)TAG_NAME_MAX, "one size of buffer for both lists");

static bool is_tags(const struct api *a)
{
    return a->route.endpoint == ROUTE_TAGS;
}

static int walk(struct api *a, names_tag_fn *fn, void *ctx)
{
    struct names *n = stream_names(a->s);
    int err = names_begin(n);
    if (err)
        return err;
    if (is_tags(a))
        err = names_each_tag(n, a->route.repo, a->list.after, UINT32_MAX, fn, ctx);
    else
        err = names_each_repo(n, a->list.after, UINT32_MAX, fn, ctx);
    names_end(n);
    return err < 0 ? err : 0;
}

/* ------------------------------------------------------------------ the body */

struct fill {
    struct api *a;
    struct page_text text;
    bool full; /* the next entry did not fit */
};

/* In the order of their bytes, a before b. */
static bool precedes(struct view a, struct view b)
{
    size_t n = a.len < b.len ? a.len : b.len;
    int c = n ? memcmp(a.p, b.p, n) : 0;
    return c < 0 || (c == 0 && a.len < b.len);
}

/* Entries are of the grammars of names and tags: nothing in them needs an escape. */
static bool fill_entry(void *ctx, struct view entry)
{
    struct fill *f = ctx;
    struct api *a = f->a;
    size_t before = f->text.len;
    if (precedes(a->list.last, entry) || entry.len > ENTRY_MAX)
        return false;
    f->full = !page_put(&f->text, a->list.any ? VIEW_LIT(",\"") : VIEW_LIT("\"")) ||
              !page_put(&f->text, entry) || !page_put(&f->text, VIEW_LIT("\""));
    if (f->full) {
        f->text.len = before;
        return false;
    }
    a->list.any = true;
    memcpy(a->list.mark, entry.p, entry.len);
    a->list.after = view_of(a->list.mark, entry.len);
    return true;
}

static void put_opening(struct api *a, struct page_text *t)
{
    a->list.begun = true;
    if (is_tags(a)) {
        page_put(t, VIEW_LIT("{\"name\":\""));
        page_put(t, a->route.repo);
        page_put(t, VIEW_LIT("\",\"tags\":["));
    } else {
        page_put(t, VIEW_LIT("{\"repositories\":["));
    }
}

static ssize_t list_fill(struct stream *s, char *buf, size_t cap, bool *done)
{
    struct api *a = s->ctx;
    struct fill f = {.a = a, .text = {buf, 0, cap - CLOSING_MAX}};
    if (!a->list.begun)
        put_opening(a, &f.text);
    if (a->list.last.len) {
        int err = walk(a, fill_entry, &f);
        if (err)
            return err;
    }
    *done = !f.full;
    f.text.cap = cap;
    if (!f.full)
        page_put(&f.text, VIEW_LIT("]}\n"));
    return (ssize_t)f.text.len;
}

/* ------------------------------------------------------------------ the page */

struct page_scan {
    uint64_t left;
    char *last;
    size_t last_len;
    bool more;
};

static bool scan_entry(void *ctx, struct view entry)
{
    struct page_scan *p = ctx;
    p->more = p->left == 0;
    if (p->more || entry.len > ENTRY_MAX)
        return false;
    memcpy(p->last, entry.p, entry.len);
    p->last_len = entry.len;
    p->left--;
    return true;
}

static int repo_check(struct api *a)
{
    struct names *n = stream_names(a->s);
    struct names_repo repo;
    int err = names_begin(n);
    if (err)
        return err;
    err = names_repo_get(n, a->route.repo, &repo);
    names_end(n);
    return err;
}

static void answer_page(struct api *a, uint64_t n)
{
    struct page_scan p = {.left = n, .last = arena_alloc(&a->s->arena, ENTRY_MAX)};
    if (!p.last) {
        error_answer_later(a->s, 503, "no memory for the list");
        return;
    }
    int err = n ? walk(a, scan_entry, &p) : 0;
    if (err) {
        api_answer_names_error(a, err);
        return;
    }
    a->list.last = view_of(p.last, p.last_len);
    struct http_response *res = stream_response(a->s, 200);
    http_response_field(res, "Content-Type", VIEW_LIT("application/json"));
    if (p.more)
        page_link(res, is_tags(a) ? a->route.repo : VIEW_LIT("_catalog"), is_tags(a) ? "/tags/list" : "",
                  (struct view){0}, n, a->list.last, (struct view){0});
    stream_send_fill(a->s, list_fill);
}

static void list_answer(struct api *a)
{
    uint64_t n;
    if (!page_size(a, &n) || !page_after(a, ENTRY_MAX, &a->list.mark, &a->list.after))
        return;
    int err = is_tags(a) ? repo_check(a) : 0;
    if (err == -ENOENT)
        error_answer(a->s, 404, ERROR_NAME_UNKNOWN, "no such repository", "name", a->route.repo);
    else if (err)
        api_answer_names_error(a, err);
    else
        answer_page(a, n);
}

void api_tags(struct api *a)
{
    list_answer(a);
}

void api_catalog(struct api *a)
{
    list_answer(a);
}
