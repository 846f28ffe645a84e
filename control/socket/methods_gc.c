/* SPDX-License-Identifier: Apache-2.0 */
/* The garbage collection is asked for, and looked after. */
#include <stdlib.h>

#include "check.h"
#include "control/daemon.h"
#include "control/events.h"
#include "control/gc.h"
#include "control/socket/methods.h"

static json_t *sum_json(const struct gc_sum *sum)
{
    return json_pack("{s:I, s:I}", "count", (json_int_t)sum->count, "bytes", (json_int_t)sum->bytes);
}

static void set_time(json_t *out, const char *key, uint64_t time_ms)
{
    char text[TIME_TEXT_MAX];
    json_object_set_new(out, key, time_ms ? json_string(journal_time_text(time_ms, text)) : json_null());
}

json_t *gc_json(const struct daemon *d)
{
    struct gc_status status, *s = &status;
    const struct gc_figures *f = &s->figures;
    gc_status(d->gc, s);
    json_t *out = json_pack("{s:I, s:b, s:s, s:s?, s:s, s:I}", "runs", (json_int_t)s->runs, "dry_run", s->dry,
                            "stage", gc_stage_name(s->stage), "failed", s->failed, "repo", s->repo, "folders",
                            (json_int_t)s->folders);
    set_time(out, "begun", s->begun_ms);
    set_time(out, "ended", s->ended_ms);
    set_time(out, "next", s->next_ms);
    json_object_set_new(out, "looked",
                        json_pack("{s:I, s:I, s:I, s:I}", "repositories", (json_int_t)f->repos, "manifests",
                                  (json_int_t)f->manifests, "links", (json_int_t)f->links, "blobs",
                                  (json_int_t)f->blobs));
    const struct {
        const char *key;
        const struct gc_sum *sum;
    } sums[] = {
        {"seen", &f->seen},         {"going", &f->going},
        {"dropped", &f->dropped},   {"waiting", &f->waiting},
        {"unlinked", &f->unlinked}, {"forgotten", &f->forgotten},
        {"garbage", &f->garbage},   {"unlinked_now", &f->unlinked_now},
        {"files", &s->removed},     {"strays", &s->strays},
        {"spares", &s->spares},
    };
    for (size_t i = 0; i < ARRAY_SIZE(sums); i++)
        json_object_set_new(out, sums[i].key, sum_json(sums[i].sum));
    json_object_set_new(out, "removing", json_integer((json_int_t)s->removing));
    json_object_set_new(out, "retries", json_integer((json_int_t)s->retries));
    json_object_set_new(out, "errors", json_integer((json_int_t)s->errors));
    json_object_set_new(out, "foreign", json_boolean(s->foreign));
    return out;
}

void method_gc_status(void *context, struct rpc_call *call, json_t *params)
{
    struct daemon *d = context;
    if (rpc_params(call, params, "{}"))
        rpc_reply(call, gc_json(d));
}

void method_gc_run(void *context, struct rpc_call *call, json_t *params)
{
    struct daemon *d = context;
    int dry = 0;
    if (!rpc_params(call, params, "{s?b}", "dry_run", &dry))
        return;
    if (!gc_run(d->gc, dry)) {
        rpc_fail(call, RPC_BUSY, "`fairlead gc --progress` shows how far it is",
                 "a garbage collection is under way");
        return;
    }
    if (!dry)
        events_note(d->events, "gc.run", call->peer->actor);
    rpc_reply(call, gc_json(d));
}
