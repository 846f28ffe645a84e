/* SPDX-License-Identifier: Apache-2.0 */
/* Webhooks on the control socket. Values of headers are taken and never given. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/cluster_policy.h"
#include "control/daemon.h"
#include "control/notify.h"
#include "control/socket/methods.h"
#include "control/socket/propose.h"
#include "control/webhook.h"

#define HINT_FIELDS   "fairlead(1) says what there is under `notify set`"
#define HINT_ENDPOINT "`fairlead notify ls` lists the endpoints"

enum { ERROR_MAX = 256 };

void method_notify_list(void *context, struct rpc_call *call, json_t *params)
{
    struct daemon *d = context;
    if (!rpc_params(call, params, "{}"))
        return;
    json_t *answer = notify_json(d->notify);
    if (answer)
        rpc_reply(call, answer);
    else
        rpc_fail(call, RPC_INTERNAL, "look at the error log of fairleadd", "the state cannot be read");
}

/* The bits of words with commas between them, 1 << a word's number. */
static int take_words(const char *text, const char *const *words, size_t count, uint32_t *out)
{
    *out = 0;
    while (*text) {
        size_t len = strcspn(text, ","), i = 0;
        while (i < count && (strlen(words[i]) != len || memcmp(words[i], text, len) != 0))
            i++;
        if (i == count)
            return -EINVAL;
        *out |= 1u << i;
        text += len + (text[len] == ',');
    }
    return 0;
}

static int take_actions(struct endpoint *e, const char *text)
{
    uint32_t bits;
    if (take_words(text, notice_actions, NOTICE_ACTIONS_COUNT, &bits))
        return -EINVAL;
    e->row.actions = (e->row.actions & ENDPOINT_IGNORE) | bits;
    return 0;
}

/* Pulls that are left out. */
static int take_ignore(struct endpoint *e, const char *text)
{
    static const char *const words[] = {"head", "blob"};
    uint32_t bits;
    _Static_assert(ENDPOINT_IGNORE_BLOB == 2 * ENDPOINT_IGNORE_HEAD, "the order of the words");
    if (take_words(text, words, ARRAY_SIZE(words), &bits))
        return -EINVAL;
    e->row.actions = (e->row.actions & ENDPOINT_ACTIONS) | bits * ENDPOINT_IGNORE_HEAD;
    return 0;
}

/* Fills up with zeros: the row is on the disk. */
static int take_text(const char *text, char *out, size_t cap)
{
    if (strlen(text) >= cap)
        return -EINVAL;
    memset(out, 0, cap);
    memcpy(out, text, strlen(text));
    return 0;
}

static void header_drop(struct endpoint *e, const char *name)
{
    size_t len = strlen(name);
    for (uint32_t i = 0; i < e->headers_count; i++) {
        if (strncasecmp(e->header[i], name, len) != 0 || e->header[i][len] != ':')
            continue;
        explicit_bzero(e->header[i], strlen(e->header[i]));
        free(e->header[i]);
        e->header[i] = e->header[--e->headers_count];
        return;
    }
}

/* null removes it. */
static int take_header(struct endpoint *e, const char *name, const json_t *value)
{
    const char *text = json_string_value(value);
    header_drop(e, name);
    if (json_is_null(value))
        return 0;
    if (!text || e->headers_count == ENDPOINT_HEADERS_MAX ||
        strlen(name) + strlen(text) + 2 > ENDPOINT_HEADER_MAX)
        return -EINVAL;
    CHECK(asprintf(&e->header[e->headers_count++], "%s: %s", name, text) > 0);
    return 0;
}

static int take_headers(struct endpoint *e, json_t *headers, char err[ERROR_MAX])
{
    const char *name;
    json_t *value;
    snprintf(err, ERROR_MAX, "headers: write at most %d, each an object's key with a text",
             ENDPOINT_HEADERS_MAX);
    if (headers && !json_is_object(headers))
        return -EINVAL;
    json_object_foreach(headers, name, value)
    {
        int rc = take_header(e, name, value);
        if (rc)
            return rc;
    }
    return 0;
}

/* An empty one: the system's CAs again. */
static int take_ca(struct endpoint *e, const char *pem)
{
    if (*pem && (strlen(pem) > ENDPOINT_CA_MAX || !webhook_ca_valid(pem)))
        return -EINVAL;
    free(e->ca);
    e->ca = *pem ? strdup(pem) : NULL;
    CHECK(e->ca || !*pem);
    return 0;
}

struct wanted {
    const char *name, *url, *prefix, *actions, *ignore, *media_types, *ca, *credentials;
    json_t *headers;
};

static int take(struct endpoint *e, const struct wanted *w, char err[ERROR_MAX])
{
    char prefix[REPO_NAME_MAX + 1] = "";
    snprintf(err, ERROR_MAX, "url: it is longer than %d bytes", ENDPOINT_URL_MAX);
    if (w->url && take_text(w->url, e->url, sizeof(e->url)))
        return -EINVAL;
    snprintf(err, ERROR_MAX, "prefix: write components of a repository's name, as in team/app, or '*'");
    if (w->prefix && (strlen(w->prefix) > REPO_NAME_MAX || policy_prefix_parse(w->prefix, prefix)))
        return -EINVAL;
    if (w->prefix)
        take_text(prefix, e->row.prefix, sizeof(e->row.prefix));
    snprintf(err, ERROR_MAX, "actions: write some of push,delete,mount,pull");
    if (w->actions && take_actions(e, w->actions))
        return -EINVAL;
    snprintf(err, ERROR_MAX, "ignore: write head, blob, both with a comma between them, or nothing");
    if (w->ignore && take_ignore(e, w->ignore))
        return -EINVAL;
    snprintf(err, ERROR_MAX, "media_types: write patterns with commas between them");
    if (w->media_types && take_text(w->media_types, e->row.media_types, sizeof(e->row.media_types)))
        return -EINVAL;
    snprintf(err, ERROR_MAX, "ca: give certificates as PEM, 16 KiB at most");
    if (w->ca && take_ca(e, w->ca))
        return -EINVAL;
    snprintf(err, ERROR_MAX, "credentials: write the name of credentials of the configuration files");
    if (w->credentials && take_text(w->credentials, e->credentials, sizeof(e->credentials)))
        return -EINVAL;
    int rc = take_headers(e, w->headers, err);
    return rc ? rc : endpoint_check(e, err, ERROR_MAX);
}

static void *make_command(const struct rpc_call *call, const struct endpoint *e, size_t *len)
{
    struct cmd_head head = {.type = CMD_NOTIFY_SET,
                            .actor = call->peer->actor,
                            .actor_len = strlen(call->peer->actor),
                            .source = propose_source,
                            .source_len = strlen(propose_source),
                            .request_id = ""};
    size_t cap = ENDPOINT_URL_MAX + ENDPOINT_CA_MAX + 2048 + ENDPOINT_HEADERS_MAX * (ENDPOINT_HEADER_MAX + 8);
    struct wire_writer w = {.buf = malloc(cap), .cap = cap};
    CHECK(w.buf);
    cmd_put_head(&w, &head);
    endpoint_put(&w, e);
    CHECK(!w.failed);
    *len = w.len;
    return w.buf;
}

/* The endpoint as it is, or a new one. Its table has the secrets: it is the caller's to free. */
static struct endpoint *start(struct endpoint_table *t, const char *name)
{
    struct endpoint *e = (struct endpoint *)endpoint_find(t, name);
    if (e)
        return e;
    t->list = reallocarray(t->list, t->count + 1, sizeof(*t->list));
    CHECK(t->list);
    e = &t->list[t->count++];
    memset(e, 0, sizeof(*e));
    e->row.actions = ENDPOINT_ACTIONS_DEFAULT;
    (void)take_text(name, e->name, sizeof(e->name));
    return e;
}

void method_notify_set(void *context, struct rpc_call *call, json_t *params)
{
    struct daemon *d = context;
    struct wanted w = {.name = ""};
    struct endpoint_table table;
    char err[ERROR_MAX];
    size_t len;
    if (!rpc_params(call, params, "{s:s, s?s, s?s, s?s, s?s, s?s, s?s, s?s, s?o}", "name", &w.name, "url",
                    &w.url, "prefix", &w.prefix, "actions", &w.actions, "ignore", &w.ignore, "media_types",
                    &w.media_types, "ca", &w.ca, "credentials", &w.credentials, "headers", &w.headers))
        return;
    int rc = cluster_endpoints(d->cluster, &table);
    if (rc) {
        rpc_fail(call, RPC_INTERNAL, "look at the error log of fairleadd", "the state cannot be read: %s",
                 strerror(-rc));
        return;
    }
    struct endpoint *e = start(&table, w.name);
    if (take(e, &w, err)) {
        rpc_fail(call, RPC_INVALID_PARAMS, HINT_FIELDS, "%s", err);
    } else {
        void *cmd = make_command(call, e, &len);
        propose_command(d, call, cmd, len, json_pack("{s:s}", "name", w.name), NULL);
    }
    endpoint_table_fini(&table);
}

void method_notify_delete(void *context, struct rpc_call *call, json_t *params)
{
    const char *name;
    if (rpc_params(call, params, "{s:s}", "name", &name))
        propose_texts(context, call, CMD_NOTIFY_RM, name, NULL, json_pack("{s:s}", "name", name), NULL);
}

static void on_tested(void *arg, long status, const char *error)
{
    struct rpc_call *call = arg;
    if (status >= 200 && status < 300)
        rpc_reply(call, json_pack("{s:I}", "status", (json_int_t)status));
    else if (status)
        rpc_fail(call, RPC_UNAVAILABLE, "only 2xx says that it took it", "the endpoint answered %ld", status);
    else
        rpc_fail(call, RPC_UNAVAILABLE, "this node has to reach it, and its certificate must be good", "%s",
                 error);
}

void method_notify_test(void *context, struct rpc_call *call, json_t *params)
{
    struct daemon *d = context;
    const char *name;
    if (!rpc_params(call, params, "{s:s}", "name", &name))
        return;
    int rc = notify_test(d->notify, name, on_tested, call);
    if (rc == -ENOENT)
        rpc_fail(call, RPC_NOT_FOUND, HINT_ENDPOINT, "there is no endpoint '%.64s'", name);
    else if (rc)
        rpc_fail(call, RPC_INTERNAL, "look at the error log of fairleadd", "the state cannot be read: %s",
                 strerror(-rc));
}
