/* SPDX-License-Identifier: Apache-2.0 */
#include "control/daemon_gc.h"

#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>

#include "check.h"
#include "control/backup.h"
#include "control/daemon.h"
#include "control/daemon_disks.h"
#include "control/daemon_repair.h"
#include "control/daemon_store.h"
#include "control/events.h"
#include "control/gc.h"
#include "control/importer.h"
#include "control/jobs.h"

static void on_removed(void *arg, enum job_result result, uint64_t detail)
{
    gc_answer(arg,
              result == JOB_OK || result == JOB_MISSING ? GC_REMOVED
              : result == JOB_ERROR                     ? GC_FAILED
                                                        : GC_NOT_NOW,
              result == JOB_OK ? detail : 0);
}

/* What a backup is about to read, or an import has found to be there, stays. */
static int on_remove(void *arg, struct gc_removal *removal, uint64_t age_ms)
{
    struct daemon *d = arg;
    const struct job_order order = {.kind = JOB_REMOVE,
                                    .flags = removal->spare ? JOB_SPARE : 0,
                                    .digest = removal->digest,
                                    .arg = daemon_store_age(d, age_ms),
                                    .done = on_removed,
                                    .done_arg = removal};
    if (backup_needs_blobs(d->backup) || importer_takes(d->importer, &removal->digest))
        return -EBUSY;
    return jobs_ask(d->jobs, &order);
}

static bool on_is_spare(void *arg, const struct digest *digest, const struct names_blob *blob)
{
    return daemon_repair_spares(arg, digest, blob);
}

static bool on_cleans(void *arg)
{
    return daemon_store_cleans(arg) && !daemon_disks_store_is_gone(arg);
}

static size_t on_tidy(void *arg)
{
    return daemon_store_tidy(arg);
}

static uint64_t setting(void *arg, int id)
{
    const struct daemon *d = arg;
    enum setting_source source;
    return setting_effective(&d->settings, id, &source);
}

/* One that found nothing is no event. */
static void on_ended(void *arg, const struct gc_status *s)
{
    struct daemon *d = arg;
    const struct gc_figures *f = &s->figures;
    char text[256];
    if (s->dry || (!s->failed && !f->going.count && !f->dropped.count && !f->forgotten.count))
        return;
    snprintf(text, sizeof(text),
             "%s%s%" PRIu64 " links and manifests are found to be garbage, %" PRIu64 " are dropped; %" PRIu64
             " blobs of %" PRIu64 " bytes are removed",
             s->failed ? s->failed : "", s->failed ? ": " : "", f->going.count, f->dropped.count,
             f->forgotten.count, f->forgotten.bytes);
    events_note(d->events, s->failed ? "gc.failed" : "gc.ended", text);
    if (s->failed)
        journal_warn(d->journal, "gc", "the garbage collection ended early: %s", text);
    else
        journal_info(d->journal, "gc", "%s", text);
}

void daemon_gc_open(struct daemon *d)
{
    const struct gc_config config = {.loop = &d->loop,
                                     .journal = d->journal,
                                     .cluster = d->cluster,
                                     .blobs_fd = d->folders.blobs_fd,
                                     .setting = setting,
                                     .cleans = on_cleans,
                                     .tidy = on_tidy,
                                     .remove = on_remove,
                                     .is_spare = on_is_spare,
                                     .ended = on_ended,
                                     .arg = d};
    d->gc = gc_new(&config);
}

static void show(_Atomic uint64_t *to, uint64_t value)
{
    atomic_store_explicit(to, value, memory_order_relaxed);
}

void daemon_gc_figures(struct daemon *d)
{
    struct control_counters *out = &d->memory.counters->control;
    struct names_totals totals;
    struct gc_status status;
    if (!d->gc)
        return;
    gc_status(d->gc, &status);
    show(&out->gc_runs, status.runs);
    show(&out->gc_running, status.stage != GC_STAGE_NONE);
    show(&out->gc_files, status.removed.count + status.strays.count + status.spares.count);
    show(&out->gc_file_bytes, status.removed.bytes + status.strays.bytes + status.spares.bytes);
    show(&out->gc_errors, status.errors);
    show(&out->gc_ended_s, status.ended_ms / 1000);
    if (cluster_totals(d->cluster, &totals))
        return;
    show(&out->blobs, totals.blobs);
    show(&out->blob_bytes, totals.bytes);
    show(&out->unlinked_blobs, totals.free_blobs);
    show(&out->unlinked_bytes, totals.free_bytes);
}
