/* SPDX-License-Identifier: Apache-2.0 */
#include "control/mirror/copy.h"

#include <errno.h>
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/mirror/exchange.h"
#include "names_policy.h"

enum { PAGE = 1000, PAGES_MAX = 10000 };

static const char remote_name[] = "the other registry", local_name[] = "this registry";

bool copy_stopping(struct copy *c)
{
    pthread_mutex_lock(&c->lock);
    bool stopping = c->stopping;
    pthread_mutex_unlock(&c->lock);
    return stopping;
}

int copy_result(struct hand *h, int rc)
{
    struct copy *c = h->copy;
    pthread_mutex_lock(&c->lock);
    c->down = rc == -EIO ? c->down + 1 : 0;
    if (c->down >= COPY_DOWN_MAX)
        c->stopping = true;
    pthread_mutex_unlock(&c->lock);
    return rc;
}

/* --- hands --- */

static void hand_fini(struct hand *h)
{
    side_free(h->from);
    side_free(h->to);
    carrier_free(h->carrier);
    pipe_fini(&h->pipe);
}

static int hand_init(struct hand *h, struct copy *c)
{
    *h = (struct hand){.copy = c, .carrier = carrier_new()};
    if (h->carrier) {
        h->from = side_new(&c->from, h->carrier);
        h->to = side_new(&c->to, h->carrier);
    }
    if (h->from && h->to && pipe_init(&h->pipe))
        return 0;
    hand_fini(h);
    return -ENOMEM;
}

/* The first error of the run says why it failed. */
static void note_error(struct copy *c, const char *error)
{
    if (!c->error[0])
        snprintf(c->error, sizeof(c->error), "%s", error);
}

static int text_compare(const void *a, const void *b)
{
    return strcmp(a, b);
}

void copy_note(struct copy *c, const char *digest)
{
    char form[TAG_NAME_MAX + 1];
    if (!name_referrers_tag(digest, form))
        return;
    char *text = strdup(form);
    CHECK(text);
    pthread_mutex_lock(&c->lock);
    char **at = tsearch(text, &c->digests, text_compare);
    CHECK(at);
    if (*at != text)
        free(text);
    pthread_mutex_unlock(&c->lock);
}

static void tag_done(struct hand *h, const char *tag)
{
    static const char *const states[] = {[IMAGE_SAME] = "same",
                                         [IMAGE_COPIED] = "copied",
                                         [IMAGE_WANTED] = "wanted",
                                         [IMAGE_SKIPPED] = "gone",
                                         [IMAGE_FAILED] = "failed"};
    struct copy *c = h->copy;
    char digest[DIGEST_TEXT_ROOM];
    h->error[0] = '\0';
    enum image_result result = image_tag(h, tag, digest);
    if (result != IMAGE_SAME)
        report_tag(h, tag, digest, states[result], result == IMAGE_FAILED ? h->error : "");
    pthread_mutex_lock(&c->lock);
    c->counts.done++;
    c->counts.copied += result == IMAGE_COPIED || result == IMAGE_WANTED;
    c->counts.failed += result == IMAGE_FAILED;
    c->counts.skipped += result == IMAGE_SKIPPED;
    if (result == IMAGE_FAILED)
        note_error(c, h->error);
    pthread_mutex_unlock(&c->lock);
    if (result != IMAGE_FAILED && result != IMAGE_SKIPPED)
        copy_note(c, digest);
    report_progress(c, false);
}

/* Tags, and between them blobs that others wait for. */
static void *hand_run(void *arg)
{
    struct hand *h = arg;
    struct copy *c = h->copy;
    pthread_mutex_lock(&c->lock);
    for (;;) {
        if (blobs_help(h))
            continue;
        bool more = c->next_tag < c->tags_count && !c->stopping;
        if (more) {
            const char *tag = c->tags[c->next_tag++];
            c->tags_busy++;
            pthread_mutex_unlock(&c->lock);
            tag_done(h, tag);
            pthread_mutex_lock(&c->lock);
            c->tags_busy--;
            pthread_cond_broadcast(&c->moved);
        } else if (c->tags_busy) {
            pthread_cond_wait(&c->moved, &c->lock);
        } else {
            break;
        }
    }
    pthread_mutex_unlock(&c->lock);
    return NULL;
}

static void hands_run(struct copy *c, struct hand *hands, unsigned count)
{
    pthread_t thread[16];
    unsigned begun = 0;
    CHECK(count <= ARRAY_SIZE(thread));
    while (begun + 1 < count && begun + 1 < c->tags_count * 4 &&
           pthread_create(&thread[begun], NULL, hand_run, &hands[begun + 1]) == 0)
        begun++;
    hand_run(&hands[0]);
    while (begun)
        pthread_join(thread[--begun], NULL);
}

/* --- lists --- */

struct names {
    char **list;
    size_t count, max;
    bool full;
};

static bool add_name(void *arg, const char *name)
{
    struct names *n = arg;
    n->full = n->count == n->max;
    if (n->full)
        return false;
    if ((n->count & (n->count - 1)) == 0) {
        n->list = reallocarray(n->list, n->count ? 2 * n->count : 1, sizeof(*n->list));
        CHECK(n->list);
    }
    n->list[n->count++] = strdup(name);
    CHECK(n->list[n->count - 1]);
    return true;
}

static void names_fini(struct names *n)
{
    for (size_t i = 0; i < n->count; i++)
        free(n->list[i]);
    free(n->list);
    *n = (struct names){.count = 0};
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* All pages of a list of the source. A repository that is not there has none. */
static int names_read(struct hand *h, const char *path, const char *repo, struct names *out)
{
    struct side_answer *a = calloc(1, sizeof(*a));
    char url[URL_ROOM], next[URL_ROOM];
    int rc = 0;
    CHECK(a);
    snprintf(url, sizeof(url), "%s?n=%d", path, PAGE);
    for (unsigned pages = 0; url[0] && rc == 0; pages++) {
        const struct side_request r = {.method = "GET", .path = url, .repo = repo};
        rc = pages == PAGES_MAX ? -E2BIG : copy_result(h, side_ask(h->from, &r, a, h->error));
        if (rc)
            break;
        bool more = url_next(a->link, next);
        if (a->status == 404 && repo)
            more = false;
        else if (a->status != 200)
            rc = side_refused(h->from, a, "a list is asked for", h->error);
        else if (document_names(a->body, a->len, repo ? "tags" : "repositories",
                                repo ? name_tag_valid : name_repo_valid, add_name, out) < 0)
            rc = -EPROTO;
        if (!more || !url_resolve(a->url, next, url))
            url[0] = '\0';
        side_answer_free(a);
    }
    if (rc == 0 && out->full)
        rc = -E2BIG;
    if (rc == -E2BIG || rc == -EPROTO)
        snprintf(h->error, sizeof(h->error), "%s: %.200s: %s", h->copy->from.name, path,
                 rc == -E2BIG ? "the list is too long" : "it is no list");
    if (out->count)
        qsort(out->list, out->count, sizeof(*out->list), by_text);
    free(a);
    return rc;
}

/* Whether the tag itself is meant. What is about a digest comes with it, or not at all. */
static bool tag_wanted(const struct copy *c, const char *tag)
{
    bool exact;
    return !name_tag_refers(tag, &exact) && name_filter_matches(&c->filter, tag);
}

/* cosign's tags are about a digest, not about what the filter says: they come with the tags that are it. */
static bool tag_is_signature(const struct copy *c, const char *tag)
{
    char form[TAG_NAME_MAX + 1];
    bool exact;
    if (!c->job->referrers || !name_tag_refers(tag, &exact) || exact)
        return false;
    snprintf(form, sizeof(form), "%.71s", tag);
    return tfind(form, &c->digests, text_compare) != NULL;
}

/* Copies those of the tags that are meant. */
static void tags_copy(struct copy *c, struct hand *hands, unsigned count, const struct names *tags,
                      bool (*meant)(const struct copy *c, const char *tag))
{
    char **chosen = calloc(tags->count + 1, sizeof(*chosen));
    size_t kept = 0;
    CHECK(chosen);
    for (size_t i = 0; i < tags->count; i++)
        if (meant(c, tags->list[i]))
            chosen[kept++] = tags->list[i];
    pthread_mutex_lock(&c->lock);
    c->tags = chosen;
    c->tags_count = kept;
    c->next_tag = 0;
    c->counts.tags += kept;
    pthread_mutex_unlock(&c->lock);
    if (kept)
        hands_run(c, hands, count);
    free(chosen);
}

/* --- repositories --- */

static int repo_copy(struct copy *c, struct hand *hands, unsigned count, const char *repo)
{
    const struct job *job = c->job;
    struct names tags = {.max = COPY_TAGS_MAX};
    char path[URL_ROOM];
    if (!name_map(job->strip, job->prefix, repo, c->to_repo)) {
        snprintf(hands[0].error, SIDE_ERROR_MAX, "%.200s: the name that it would get is none", repo);
        return -EINVAL;
    }
    snprintf(c->from_repo, sizeof(c->from_repo), "%s", repo);
    snprintf(path, sizeof(path), "/v2/%s/tags/list", repo);
    int rc = names_read(&hands[0], path, repo, &tags);
    if (rc == 0) {
        c->counts.repos++;
        tags_copy(c, hands, count, &tags, tag_wanted);
        tags_copy(c, hands, count, &tags, tag_is_signature);
        tdestroy(c->digests, free);
        c->digests = NULL;
        blobs_forget(c);
    }
    names_fini(&tags);
    return rc;
}

static bool is_meant(const struct job *job, const char *repo)
{
    const json_t *item;
    size_t i;
    if (!pattern_match(job->repos, repo, strlen(repo)))
        return false;
    json_array_foreach(job->only, i, item)
    {
        if (json_is_string(item) && strcmp(json_string_value(item), repo) == 0)
            return true;
    }
    return !job->only;
}

/* Names that the rule, or whoever began the run, gives. Else the source is asked for all. */
static int repos_list(struct hand *h, struct names *out)
{
    const struct job *job = h->copy->job;
    const json_t *item;
    size_t i;
    json_array_foreach(job->only, i, item)
    {
        if (json_is_string(item) && name_repo_valid(json_string_value(item)))
            add_name(out, json_string_value(item));
    }
    if (job->only)
        return 0;
    if (!name_list_plain(job->repos))
        return names_read(h, "/v2/_catalog", NULL, out);
    for (const char *p = job->repos; *p;) {
        char name[REPO_NAME_MAX + 1];
        size_t len = strcspn(p, ",");
        snprintf(name, sizeof(name), "%.*s", (int)(len < sizeof(name) ? len : 0), p);
        if (name_repo_valid(name))
            add_name(out, name);
        p += len + (p[len] == ',');
    }
    return 0;
}

static int repos_copy(struct copy *c, struct hand *hands, unsigned count)
{
    struct names repos = {.max = COPY_REPOS_MAX};
    int rc = repos_list(&hands[0], &repos);
    if (rc)
        note_error(c, hands[0].error);
    for (size_t i = 0; i < repos.count && rc == 0; i++) {
        if (copy_stopping(c))
            break;
        if (!is_meant(c->job, repos.list[i]))
            continue;
        hands[0].error[0] = '\0';
        if (repo_copy(c, hands, count, repos.list[i])) {
            note_error(c, hands[0].error);
            c->counts.failed++;
        }
        report_progress(c, false);
    }
    names_fini(&repos);
    return rc;
}

static void sides_init(struct copy *c)
{
    const struct job *job = c->job;
    uint64_t rate = job->rate ? job->rate / job->parallel + 1 : 0;
    struct side_config remote = {.name = remote_name,
                                 .url = job->remote_url,
                                 .user = job->user,
                                 .password = job->password,
                                 .ca = job->ca,
                                 .receive_rate = job->push ? 0 : rate,
                                 .send_rate = job->push ? rate : 0};
    struct side_config local = {.name = local_name, .url = job->local_url, .own = true};
    c->from = job->push ? local : remote;
    c->to = job->push ? remote : local;
}

int copy_run(const struct job *job)
{
    struct copy *c = calloc(1, sizeof(*c));
    struct hand hands[16];
    unsigned count = 0;
    CHECK(c && job->parallel <= ARRAY_SIZE(hands));
    c->job = job;
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->moved, NULL);
    sides_init(c);
    int rc = name_filter_init(&c->filter, job->tags);
    if (rc) {
        report_end(c, "the expression of the tags is none");
    } else {
        while (count < job->parallel && hand_init(&hands[count], c) == 0)
            count++;
        rc = count ? repos_copy(c, hands, count) : -ENOMEM;
        report_end(c, c->error[0] || rc == 0 ? c->error : strerror(-rc));
        rc = c->error[0] ? -EIO : rc;
        name_filter_fini(&c->filter);
    }
    while (count)
        hand_fini(&hands[--count]);
    tdestroy(c->known, free);
    free(c);
    return rc;
}
