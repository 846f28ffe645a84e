/* SPDX-License-Identifier: Apache-2.0 */
/* Blobs that lie on this host become blobs of a repository: without HTTP, and where it can be without a copy.
 */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/cluster.h"
#include "control/daemon.h"
#include "control/daemon_blobs.h"
#include "control/daemon_disks.h"
#include "control/gc.h"
#include "control/importer.h"
#include "control/nodes.h"
#include "control/socket/methods.h"
#include "control/socket/propose.h"

enum { COMMAND_ROOM = 1024, KEEPS_MAX = 3 };

struct import_call {
    struct daemon *daemon;
    struct rpc_call *call;
    struct digest digest;
    uint64_t size;
    enum import_way way;
    unsigned keeps;
    char repo[]; /* ends with NUL */
};

static struct wire_writer command_begin(const struct import_call *c, enum cmd_type type)
{
    size_t cap = COMMAND_ROOM + strlen(c->repo);
    const char *actor = c->call->peer->actor;
    struct wire_writer w = {.buf = malloc(cap), .cap = cap};
    struct cmd_head head = {.type = (uint16_t)type,
                            .actor = actor,
                            .actor_len = strlen(actor),
                            .source = propose_source,
                            .source_len = strlen(propose_source),
                            .request_id = ""};
    CHECK(w.buf);
    cmd_put_head(&w, &head);
    return w;
}

static void on_linked(void *arg, enum cmd_status status, uint64_t index, const void *detail, size_t len);

/* The link, as a push makes it: this node holds the blob. */
static void propose_link(struct import_call *c)
{
    struct cluster_status status;
    struct cmd_holders holders = {.count = 0};
    struct wire_writer w = command_begin(c, CMD_BLOB_LINK);
    cluster_status(c->daemon->cluster, &status);
    wire_put_bytes(&w, c->repo, strlen(c->repo));
    cmd_put_digest(&w, &c->digest);
    wire_put_u64(&w, c->size);
    if (daemon_blobs_counts(c->daemon, status.node_id) &&
        cmd_holders_add(&holders, daemon_blobs_holder(c->daemon, status.node_id)))
        cmd_put_holders(&w, &holders);
    CHECK(!w.failed);
    cluster_propose(c->daemon->cluster, w.buf, w.len, on_linked, c);
}

static void on_kept(void *arg, enum cmd_status status, uint64_t index, const void *detail, size_t len)
{
    struct import_call *c = arg;
    (void)index;
    if (status == CMD_OK) {
        propose_link(c);
        return;
    }
    propose_refuse(c->daemon, c->call, status, detail, len);
    free(c);
}

/* Where the garbage collection has begun with it, it is said first that it stays. */
static void on_linked(void *arg, enum cmd_status status, uint64_t index, const void *detail, size_t len)
{
    struct import_call *c = arg;
    if (status == CMD_BLOB_DELETING && c->keeps++ < KEEPS_MAX) {
        struct wire_writer w = command_begin(c, CMD_GC_KEEP);
        cmd_put_digest(&w, &c->digest);
        CHECK(!w.failed);
        cluster_propose(c->daemon->cluster, w.buf, w.len, on_kept, c);
        return;
    }
    if (status == CMD_OK)
        rpc_reply(c->call, json_pack("{s:I, s:s, s:I}", "bytes", (json_int_t)c->size, "way",
                                     import_way_name(c->way), "index", (json_int_t)index));
    else
        propose_refuse(c->daemon, c->call, status, detail, len);
    free(c);
}

static void on_imported(void *arg, const struct import_result *result)
{
    struct import_call *c = arg;
    if (c->daemon->end.state_closing) { /* the end did not wait for it: there is nothing to propose to */
        rpc_fail(c->call, RPC_UNAVAILABLE, "import it again when the daemon has started", "fairleadd stops");
        free(c);
        return;
    }
    if (result->rc == 0) {
        c->size = result->size;
        c->way = result->way;
        propose_link(c);
        return;
    }
    rpc_fail(c->call, result->rc == -ENOENT ? RPC_NOT_FOUND : RPC_UNAVAILABLE,
             result->rc == -EBADMSG ? "get it from elsewhere; nothing was changed" : "nothing was changed",
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
    if (daemon_disks_store_is_gone(d)) {
        rpc_fail(call, RPC_UNAVAILABLE, "mount its disk, or `fairlead store accept`",
                 "what stands in the store's place is not this node's store");
        return;
    }
    if (gc_is_removing(d->gc, &digest)) {
        rpc_fail(call, RPC_BUSY, "try again in a moment", "a file of these bytes is just being removed");
        return;
    }
    struct import_call *c = malloc(sizeof(*c) + strlen(repo) + 1);
    CHECK(c);
    *c = (struct import_call){.daemon = d, .call = call, .digest = digest};
    memcpy(c->repo, repo, strlen(repo) + 1);
    if (d->phase > DAEMON_SERVING || importer_start(d->importer, &digest, path, on_imported, c)) {
        free(c);
        rpc_fail(call, RPC_BUSY, "try again in a moment", "another blob is being imported");
    }
}
