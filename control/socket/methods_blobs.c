/* SPDX-License-Identifier: Apache-2.0 */
/* Blobs are verified when an operator wants it. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/daemon.h"
#include "control/daemon_blobs.h"
#include "control/daemon_disks.h"
#include "control/events.h"
#include "control/daemon_store.h"
#include "control/journal.h"
#include "control/socket/methods.h"

struct verifying {
    struct daemon *daemon;
    struct rpc_call *call;
    struct digest digest;
    uint64_t size;
};

static void verified(void *arg, enum job_result result, uint64_t detail)
{
    struct verifying *v = arg;
    char text[DIGEST_TEXT_MAX + 1];
    digest_format(&v->digest, text);
    if (result == JOB_CANCELLED)
        rpc_fail(v->call, RPC_UNAVAILABLE, "ask again when it has started", "the daemon stops");
    else if (result == JOB_BUSY)
        rpc_fail(v->call, RPC_BUSY, "try again in a moment", "too many blobs are being verified");
    else
        rpc_reply(v->call,
                  json_pack("{s:s, s:s, s:I, s:I}", "digest", text, "result", job_result_name(result),
                            "bytes", (json_int_t)(result == JOB_ERROR ? 0 : detail), "size",
                            (json_int_t)v->size));
    if (result != JOB_CANCELLED)
        daemon_blobs_found(v->daemon, &v->digest, v->size, result);
    free(v);
}

static void verify_one(struct daemon *d, struct rpc_call *call, const char *text)
{
    struct digest digest;
    struct names_blob row;
    if (digest_parse(text, strlen(text), &digest)) {
        rpc_fail(call, RPC_INVALID_PARAMS, "write it as in sha256:<64 hex digits>", "'%.80s' is no digest",
                 text);
        return;
    }
    if (cluster_blob(d->cluster, &digest, &row)) {
        rpc_fail(call, RPC_NOT_FOUND, "`fairlead repo ls` lists the repositories",
                 "no repository has the blob %s", text);
        return;
    }
    struct verifying *v = calloc(1, sizeof(*v));
    CHECK(v);
    *v = (struct verifying){.daemon = d, .call = call, .digest = digest, .size = row.size};
    const struct job_order order = {
        .kind = JOB_VERIFY, .digest = digest, .arg = row.size, .done = verified, .done_arg = v};
    if (jobs_ask(d->jobs, &order) == 0)
        return;
    free(v);
    rpc_fail(call, RPC_BUSY, "try again in a moment", "too many blobs are being verified");
}

/* One blob is answered when it was read; all of them are a scrub, whose progress is in the status. */
void method_blob_verify(void *context, struct rpc_call *call, json_t *params)
{
    struct daemon *d = context;
    const char *digest = NULL;
    int all = 0;
    if (!rpc_params(call, params, "{s?s, s?b}", "digest", &digest, "all", &all))
        return;
    if (!digest == !all) {
        rpc_fail(call, RPC_INVALID_PARAMS, "give a digest, or say that all are meant", "which blob?");
        return;
    }
    if (digest) {
        verify_one(d, call, digest);
        return;
    }
    if (!daemon_store_cleans(d)) {
        rpc_fail(call, RPC_UNAVAILABLE, "ask the node that `fairlead status` names as its cleaner",
                 "another node looks through the store that this one shares");
        return;
    }
    bool begun = scrub_begin(d->blobs->scrub, journal_now_ms());
    rpc_reply(call, json_pack("{s:b, s:b}", "running", 1, "begun", begun));
}

/* For a disk that was replaced: what is missing comes from the other replicas. */
void method_store_accept(void *context, struct rpc_call *call, json_t *params)
{
    struct daemon *d = context;
    if (!rpc_params(call, params, "{}"))
        return;
    json_t *store = daemon_disks_json(d, DISK_OF_STORE);
    const char *state = json_string_value(json_object_get(store, "state"));
    int err =
        strcmp(state, "missing") != 0 && strcmp(state, "other") != 0 ? -EALREADY : daemon_disks_accept(d);
    json_decref(store);
    if (err == -EALREADY) {
        rpc_fail(call, RPC_INVALID_PARAMS, "nothing is to be done", "the store is this node's already");
        return;
    }
    if (err) {
        const char *hint = err == -EOPNOTSUPP ? "it is shared: restart the node to use it"
                           : err == -EBUSY    ? "another node has it: give this one a store of its own"
                                              : "see that it can be written";
        rpc_fail(call, RPC_UNAVAILABLE, hint, "the store cannot be taken: %s", strerror(-err));
        return;
    }
    events_note(d->events, "store.accepted", call->peer->actor);
    rpc_reply(call, daemon_disks_json(d, DISK_OF_STORE));
}

void method_blobs_stop(struct daemon *d)
{
    jobs_cancel(d->jobs, verified);
}

static void add_row(void *arg, const struct digest *digest, bool unreadable, const char *state)
{
    char text[DIGEST_TEXT_MAX + 1];
    digest_format(digest, text);
    json_array_append_new(arg, json_pack("{s:s, s:s, s:s}", "digest", text, "what",
                                         unreadable ? "unreadable" : "damaged", "state", state));
}

json_t *blobs_status(const struct daemon *d)
{
    enum { SHOWN = 16 };
    struct scrub_status s;
    char begun[TIME_TEXT_MAX], ended[TIME_TEXT_MAX];
    json_t *rows = json_array();
    scrub_status(d->blobs->scrub, &s);
    damage_each(d->blobs->damage, SHOWN, add_row, rows);
    return json_pack(
        "{s:{s:b, s:f, s:s?, s:s?, s:I, s:I, s:I, s:I}, s:I, s:o}", "scrub", "running", s.running, "done",
        s.done, "begun", s.begun_ms ? journal_time_text(s.begun_ms, begun) : NULL, "ended",
        s.ended_ms ? journal_time_text(s.ended_ms, ended) : NULL, "blobs", (json_int_t)s.blobs, "bytes",
        (json_int_t)s.bytes, "damaged", (json_int_t)s.damaged, "unreadable", (json_int_t)s.unreadable,
        "damaged_count", (json_int_t)damage_count(d->blobs->damage), "damaged", rows);
}
