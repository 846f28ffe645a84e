/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "check.h"
#include "control/daemon.h"
#include "control/journal.h"
#include "control/socket/methods.h"
#include "control/socket/propose.h"

enum { PAGE_DEFAULT = 100, PAGE_MAX = 1000 };

/* One page of a list: a row beyond the limit is read to know whether there is more. */
struct page {
    json_t *rows;
    size_t limit;
    bool more;
};

static json_t *text_row(const char *text, size_t len)
{
    json_t *value = json_stringn(text, len);
    return value ? value : json_string("(not UTF-8)");
}

static void time_row(json_t *row, const char *key, uint64_t time_ms)
{
    char text[TIME_TEXT_MAX];
    json_object_set_new(row, key, json_string(journal_time_text(time_ms, text)));
}

/* Whether there is room for one more row. */
static bool page_admit(struct page *page)
{
    page->more = json_array_size(page->rows) >= page->limit;
    return !page->more;
}

static void on_repo(void *arg, const char *name, size_t name_len, const struct names_repo *repo)
{
    struct page *page = arg;
    if (!page_admit(page))
        return;
    json_t *row = json_pack("{s:o, s:I, s:I, s:I, s:I}", "name", text_row(name, name_len), "tags",
                            (json_int_t)repo->tags, "manifests", (json_int_t)repo->manifests, "blobs",
                            (json_int_t)repo->blobs, "bytes", (json_int_t)repo->bytes);
    time_row(row, "created", repo->created_ms);
    time_row(row, "updated", repo->updated_ms);
    json_array_append_new(page->rows, row);
}

static void on_tag(void *arg, const char *tag, size_t tag_len, const struct names_tag *in)
{
    struct page *page = arg;
    struct digest digest;
    char text[DIGEST_TEXT_MAX + 1] = "";
    if (!page_admit(page))
        return;
    if (digest_unpack(in->digest, sizeof(in->digest), &digest))
        digest_format(&digest, text);
    json_t *row = json_pack("{s:o, s:s}", "tag", text_row(tag, tag_len), "digest", text);
    time_row(row, "updated", in->time_ms);
    json_array_append_new(page->rows, row);
}

/* False: the call has been answered. */
static bool page_begin(struct rpc_call *call, struct page *page, json_int_t limit)
{
    if (limit < 1 || limit > PAGE_MAX) {
        rpc_fail(call, RPC_INVALID_PARAMS, "give a limit from 1 to 1000", "limit is out of range");
        return false;
    }
    *page = (struct page){.rows = json_array(), .limit = (size_t)limit};
    return true;
}

/* What all blobs take, each counted once, however many repositories have it. */
static json_t *totals_json(struct daemon *d)
{
    struct names_totals t;
    if (cluster_totals(d->cluster, &t))
        return json_null(); /* not counted yet: the first garbage collection does it */
    return json_pack("{s:I, s:I, s:I, s:I}", "blobs", (json_int_t)t.blobs, "bytes", (json_int_t)t.bytes,
                     "unlinked_blobs", (json_int_t)t.free_blobs, "unlinked_bytes", (json_int_t)t.free_bytes);
}

static void page_reply(struct rpc_call *call, struct page *page, const char *key, int err, json_t *totals)
{
    if (err < 0) {
        json_decref(page->rows);
        json_decref(totals);
        if (err == -ENOENT)
            rpc_fail(call, RPC_NOT_FOUND, "`fairlead repo ls` lists the repositories",
                     "there is no such repository");
        else
            rpc_fail(call, RPC_INTERNAL, "look at the error log of fairleadd", "the names cannot be read: %s",
                     strerror(-err));
        return;
    }
    rpc_reply(call, json_pack("{s:o, s:b, s:o*}", key, page->rows, "more", page->more, "totals", totals));
}

void method_repo_list(void *context, struct rpc_call *call, json_t *params)
{
    struct daemon *d = context;
    const char *after = "";
    json_int_t limit = PAGE_DEFAULT;
    struct page page;
    if (!rpc_params(call, params, "{s?s, s?I}", "after", &after, "limit", &limit) ||
        !page_begin(call, &page, limit))
        return;
    int err = cluster_each_repo(d->cluster, after, page.limit + 1, on_repo, &page);
    page_reply(call, &page, "repos", err, err < 0 ? NULL : totals_json(d));
}

void method_repo_tags(void *context, struct rpc_call *call, json_t *params)
{
    struct daemon *d = context;
    const char *repo, *after = "";
    json_int_t limit = PAGE_DEFAULT;
    struct page page;
    if (!rpc_params(call, params, "{s:s, s?s, s?I}", "repo", &repo, "after", &after, "limit", &limit) ||
        !page_begin(call, &page, limit))
        return;
    int err = cluster_each_tag(d->cluster, repo, after, page.limit + 1, on_tag, &page);
    page_reply(call, &page, "tags", err, NULL);
}

/* Names are checked here, so that the answer says what is wrong with them. */
static bool repo_is_valid(struct rpc_call *call, const char *repo)
{
    if (state_repo_name_valid(repo, strlen(repo)))
        return true;
    rpc_fail(call, RPC_INVALID_PARAMS, "write a name as in library/alpine", "'%.64s' cannot be a repository",
             repo);
    return false;
}

void method_repo_create(void *context, struct rpc_call *call, json_t *params)
{
    const char *repo;
    if (rpc_params(call, params, "{s:s}", "repo", &repo) && repo_is_valid(call, repo))
        propose_texts(context, call, CMD_REPO_CREATE, repo, NULL, json_pack("{s:s}", "repo", repo), NULL);
}

void method_repo_delete(void *context, struct rpc_call *call, json_t *params)
{
    const char *repo;
    if (rpc_params(call, params, "{s:s}", "repo", &repo) && repo_is_valid(call, repo))
        propose_texts(context, call, CMD_REPO_DELETE, repo, NULL, json_pack("{s:s}", "repo", repo), NULL);
}

void method_tag_delete(void *context, struct rpc_call *call, json_t *params)
{
    const char *repo, *tag;
    if (!rpc_params(call, params, "{s:s, s:s}", "repo", &repo, "tag", &tag) || !repo_is_valid(call, repo))
        return;
    if (!state_tag_valid(tag, strlen(tag)))
        rpc_fail(call, RPC_INVALID_PARAMS, "write a tag as in latest", "'%.64s' cannot be a tag", tag);
    else
        propose_texts(context, call, CMD_TAG_DELETE, repo, tag,
                      json_pack("{s:s, s:s}", "repo", repo, "tag", tag), NULL);
}
