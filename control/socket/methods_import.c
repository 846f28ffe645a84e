/* SPDX-License-Identifier: Apache-2.0 */
/* Blobs that lie on this host become blobs of a repository: without HTTP, and where it can be without a copy.
 */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/cluster.h"
#include "control/daemon.h"
#include "control/daemon_blobs.h"
#include "control/importer.h"
#include "control/nodes.h"
#include "control/socket/methods.h"
#include "control/socket/propose.h"

enum { COMMAND_ROOM = 1024 };

struct import_call {
    struct daemon *daemon;
    struct rpc_call *call;
    struct digest digest;
    char repo[]; /* ends with NUL */
};

/* The link, as a push makes it: this node holds the blob. */
static void propose_link(struct import_call *c, const struct import_result *result)
{
    struct cluster_status status;
    struct cmd_holders holders = {.count = 0};
    struct rpc_peer *peer = c->call->peer;
    size_t cap = COMMAND_ROOM + strlen(c->repo);
    struct wire_writer w = {.buf = malloc(cap), .cap = cap};
    struct cmd_head head = {.type = CMD_BLOB_LINK,
                            .actor = peer->actor,
                            .actor_len = strlen(peer->actor),
                            .source = propose_source,
                            .source_len = strlen(propose_source),
                            .request_id = ""};
    CHECK(w.buf);
    cluster_status(c->daemon->cluster, &status);
    cmd_put_head(&w, &head);
    wire_put_bytes(&w, c->repo, strlen(c->repo));
    cmd_put_digest(&w, &c->digest);
    wire_put_u64(&w, result->size);
    if (daemon_blobs_counts(c->daemon, status.node_id) && cmd_holders_add(&holders, status.node_id))
        cmd_put_holders(&w, &holders);
    CHECK(!w.failed);
    propose_command(
        c->daemon, c->call, w.buf, w.len,
        json_pack("{s:I, s:s}", "bytes", (json_int_t)result->size, "way", import_way_name(result->way)),
        NULL);
}

static void on_imported(void *arg, const struct import_result *result)
{
    struct import_call *c = arg;
    if (result->rc == 0)
        propose_link(c, result);
    else
        rpc_fail(c->call, result->rc == -ENOENT ? RPC_NOT_FOUND : RPC_UNAVAILABLE,
                 result->rc == -EBADMSG ? "get it from elsewhere; nothing was changed"
                                        : "nothing was changed",
                 "%s", result->error);
    free(c);
}

void method_blob_import(void *context, struct rpc_call *call, json_t *params)
{
    struct daemon *d = context;
    const char *repo, *text, *path;
    struct digest digest;
    if (!rpc_params(call, params, "{s:s, s:s, s:s}", "repo", &repo, "digest", &text, "path", &path))
        return;
    if (!state_repo_name_valid(repo, strlen(repo))) {
        rpc_fail(call, RPC_INVALID_PARAMS, "write a name as in library/alpine",
                 "'%.64s' cannot be a repository", repo);
        return;
    }
    if (digest_parse(text, strlen(text), &digest)) {
        rpc_fail(call, RPC_INVALID_PARAMS, "write sha256: and 64 hexadecimal digits", "'%.80s' is no digest",
                 text);
        return;
    }
    if (*path != '/' || strlen(path) >= IMPORT_PATH_MAX) {
        rpc_fail(call, RPC_INVALID_PARAMS, "give the absolute path of a file", "'%.80s' is no such path",
                 path);
        return;
    }
    struct import_call *c = malloc(sizeof(*c) + strlen(repo) + 1);
    CHECK(c);
    c->daemon = d;
    c->call = call;
    c->digest = digest;
    memcpy(c->repo, repo, strlen(repo) + 1);
    if (d->phase > DAEMON_SERVING || importer_start(d->importer, &digest, path, on_imported, c)) {
        free(c);
        rpc_fail(call, RPC_BUSY, "try again in a moment", "another blob is being imported");
    }
}
