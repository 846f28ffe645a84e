/* SPDX-License-Identifier: Apache-2.0 */
#include "control/gc_private.h"

#include <stdlib.h>
#include <time.h>

#include "check.h"
#include "control/settings.h"

enum {
    FIRST_RUN_MS = 600000,  /* after a node begins to lead, at the most */
    FIRST_LOOK_MS = 120000, /* at its files without a row, after a start */
    FILES_WAIT_MS = 5000,   /* for files that are old enough, while none goes, before the run ends without
                               their rows */
    OTHERS_MS = 10000,      /* so long others have before a row goes that tells them what to remove */
};

const char *gc_stage_name(enum gc_stage stage)
{
    static const char *const names[] = {
        [GC_STAGE_NONE] = "none", [GC_STAGE_NAMES] = "names",     [GC_STAGE_FILES] = "files",
        [GC_STAGE_ROWS] = "rows", [GC_STAGE_FOLDERS] = "folders",
    };
    return names[stage];
}

uint64_t gc_setting(const struct gc *gc, int id)
{
    return gc->config.setting(gc->config.arg, id);
}

bool gc_cleans(const struct gc *gc)
{
    return !gc->config.cleans || gc->config.cleans(gc->config.arg);
}

unsigned gc_files_a_tick(const struct gc *gc)
{
    uint64_t files = gc_setting(gc, SET_GC_RATE) * GC_TICK_MS / 1000 / GC_FILE_ROWS;
    return files == 0 ? 1 : files < GC_REMOVING_MAX ? (unsigned)files : GC_REMOVING_MAX;
}

/* ------------------------------------------------------------------ pace */

unsigned gc_pace_rows(const struct gc_pace *p, unsigned most)
{
    unsigned rows = p->rows < GC_STEP_ROWS_MIN ? GC_STEP_ROWS_MIN : p->rows;
    return rows < most ? rows : most;
}

static uint64_t rest_of(uint64_t took_us, unsigned times)
{
    uint64_t rest_ms = took_us * times / 1000;
    return rest_ms < GC_TICK_MS ? GC_TICK_MS : rest_ms < GC_REST_MAX_MS ? rest_ms : GC_REST_MAX_MS;
}

uint64_t gc_pace_step(struct gc_pace *p, unsigned most, uint64_t took_us)
{
    unsigned rows = gc_pace_rows(p, most);
    if (took_us > GC_STEP_US)
        p->rows = rows / 2;
    else if (rows < most)
        p->rows = 2 * rows;
    return rest_of(took_us, GC_REST);
}

/* Files that take long are large, or the disk is busy: the workers that remove them are those that read. */
static void removing_pace(struct gc *gc, uint64_t took_ms)
{
    if (took_ms > GC_FILE_SLOW_MS)
        gc->removing_max = gc->removing_max / 2 < GC_REMOVING_MIN ? GC_REMOVING_MIN : gc->removing_max / 2;
    else if (gc->removing_max < GC_REMOVING_MAX)
        gc->removing_max++;
}

uint64_t gc_now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

uint64_t gc_applied(struct kv *kv)
{
    struct names_meta meta;
    struct kv_bytes value;
    int rc = kv_get(kv, NAMES_META, (struct kv_bytes){"state", 5}, &value);
    if (rc || value.len < sizeof(meta))
        return 0;
    memcpy(&meta, value.data, sizeof(meta));
    return meta.applied_index;
}

static void arm(struct gc *gc, uint64_t ms);

/* ------------------------------------------------------------------ proposals */

static void *command_new(struct wire_writer *w, uint16_t type)
{
    const struct cmd_head head = {
        .type = type, .actor = "system", .actor_len = 6, .source = "gc", .source_len = 2, .request_id = ""};
    *w = (struct wire_writer){.buf = malloc(GC_COMMAND_BYTES_MAX), .cap = GC_COMMAND_BYTES_MAX};
    CHECK(w->buf);
    cmd_put_head(w, &head);
    return w->buf;
}

static void stage_move(struct gc *gc, enum gc_stage stage)
{
    gc->status.stage = stage;
    gc->stage_ms = gc->progress_ms = uv_now(gc->config.loop);
    arm(gc, 0);
}

static void run_end(struct gc *gc, const char *failed)
{
    gc_walk_end(&gc->walk);
    gc->status.failed = failed;
    gc->status.ended_ms = gc_now_ms();
    stage_move(gc, GC_STAGE_NONE);
    gc->config.ended(gc->config.arg, &gc->status);
}

static const char *why_refused(enum cmd_status status)
{
    switch (status) {
    case CMD_TOO_NEW:
        return "a node of the cluster is too old for it";
    case CMD_NO_LEADER:
        return "nobody leads; the next run goes on";
    default:
        return "its commands are not committed; the next run goes on";
    }
}

static void on_proposed(void *arg, enum cmd_status status, uint64_t index, const void *detail, size_t len)
{
    struct gc *gc = arg;
    (void)index;
    gc->proposing = false;
    if (gc->closing)
        return;
    uint64_t commit_ms = rest_of((uv_now(gc->config.loop) - gc->proposed_ms) * 1000, GC_COMMIT_REST);
    gc_walk_result(&gc->walk, status, detail, len);
    gc->status.figures = gc->walk.figures;
    if (status == CMD_OK || status == CMD_REPO_UNKNOWN)
        arm(gc, commit_ms > gc->rest_ms ? commit_ms : gc->rest_ms);
    else if (status == CMD_BUSY)
        arm(gc, GC_RETRY_MS);
    else
        run_end(gc, why_refused(status));
}

/* ------------------------------------------------------------------ a run */

static void walk_begin(struct gc *gc, enum gc_walk_kind kind)
{
    const struct gc_walk_config config = {
        .grace_ms = gc_setting(gc, SET_GC_GRACE),
        .untagged = gc_setting(gc, SET_GC_UNTAGGED) != 0,
        .untagged_ms = gc_setting(gc, SET_GC_UNTAGGED),
        .removed_index = gc->files.done_index,
        .forget_ms = cluster_has_others(gc->config.cluster) ? OTHERS_MS : 0,
        .seed = uv_hrtime() * 0x9e3779b97f4a7c15ull,
    };
    struct gc_figures before = gc->walk.figures;
    gc_walk_end(&gc->walk);
    gc_walk_begin(&gc->walk, kind, &config);
    if (kind == GC_WALK_FORGET)
        gc->walk.figures = before;
}

static void walk_over(struct gc *gc)
{
    if (gc->status.dry) {
        run_end(gc, NULL);
    } else if (gc->status.stage == GC_STAGE_ROWS) {
        gc_folders_want(gc, 0);
        stage_move(gc, GC_STAGE_FOLDERS);
    } else {
        gc_files_want(gc);
        stage_move(gc, GC_STAGE_FILES);
    }
}

/* A look at a tick's share of rows, or less. */
static void walk_step(struct gc *gc)
{
    struct wire_writer w;
    uint16_t type = CMD_NONE;
    unsigned most = (unsigned)(gc_setting(gc, SET_GC_RATE) * GC_TICK_MS / 1000);
    uint64_t began_ns = uv_hrtime();
    struct kv *kv;
    struct db_view *view = cluster_view_begin(gc->config.cluster, &kv);
    if (!view) {
        arm(gc, GC_RETRY_MS);
        return;
    }
    void *cmd = command_new(&w, CMD_GC_REPO);
    int next =
        gc_walk_step(&gc->walk, kv, gc_applied(kv), gc_now_ms(), gc_pace_rows(&gc->pace, most), &w, &type);
    cluster_view_end(view);
    gc->rest_ms = gc_pace_step(&gc->pace, most, (uv_hrtime() - began_ns) / 1000);
    gc->status.figures = gc->walk.figures;
    memcpy(gc->status.repo, gc->walk.repo, sizeof(gc->status.repo));
    if (next == GC_NEXT_PROPOSE) {
        memcpy(w.buf + 6, &type, sizeof(type)); /* behind magic and version */
        gc->proposing = true;
        gc->proposed_ms = uv_now(gc->config.loop);
        cluster_propose(gc->config.cluster, cmd, w.len, on_proposed, gc);
        return;
    }
    free(cmd);
    if (next < 0)
        run_end(gc, "the names cannot be read");
    else if (next == GC_NEXT_END)
        walk_over(gc);
    else
        arm(gc, gc->rest_ms);
}

static bool files_over(const struct gc *gc)
{
    const struct gc_files *f = &gc->files;
    return !f->walking && !f->wanted && !f->again && !f->removing;
}

static void wait_step(struct gc *gc)
{
    uint64_t now_ms = uv_now(gc->config.loop);
    if (gc->status.stage == GC_STAGE_FOLDERS) {
        gc->status.folders = gc->folders.folder;
        if (!gc_folders_busy(gc))
            run_end(gc, NULL);
        else
            arm(gc, GC_TICK_MS);
        return;
    }
    if (gc->gone != gc->files.gone) { /* there may be more than go in any fixed time */
        gc->gone = gc->files.gone;
        gc->progress_ms = now_ms;
    }
    bool others = cluster_has_others(gc->config.cluster);
    uint64_t wait_ms = FILES_WAIT_MS + gc_file_age(gc);
    uint64_t least_ms = others && gc->status.figures.unlinked.count ? OTHERS_MS : 0;
    if ((files_over(gc) && now_ms >= gc->stage_ms + least_ms) || now_ms >= gc->progress_ms + wait_ms) {
        walk_begin(gc, GC_WALK_FORGET);
        stage_move(gc, GC_STAGE_ROWS);
        return;
    }
    arm(gc, GC_TICK_MS);
}

/* A node that begins to lead waits for a while; then in regular intervals, which may become shorter
 * meanwhile.
 */
static void plan(struct gc *gc)
{
    struct cluster_status status;
    bool cleans = gc_cleans(gc);
    if (cleans && !gc->cleaned)
        gc_reload(gc); /* what another node has not come to */
    gc->cleaned = cleans;
    uint64_t interval_ms = gc_setting(gc, SET_GC_INTERVAL), now_ms = uv_now(gc->config.loop);
    cluster_status(gc->config.cluster, &status);
    if (status.leads && !gc->led)
        gc->due_ms = now_ms + (interval_ms < FIRST_RUN_MS ? interval_ms : FIRST_RUN_MS);
    gc->led = status.leads;
    if (gc->due_ms > now_ms + interval_ms)
        gc->due_ms = now_ms + interval_ms;
    if (gc->folders.due_ms > now_ms + interval_ms)
        gc->folders.due_ms = now_ms + interval_ms;
    gc->status.next_ms =
        gc->led && interval_ms ? gc_now_ms() + (gc->due_ms > now_ms ? gc->due_ms - now_ms : 0) : 0;
    if (interval_ms && now_ms >= gc->folders.due_ms) {
        gc->folders.due_ms = now_ms + interval_ms;
        gc_folders_want(gc, 0);
    }
    if (gc->led && interval_ms && now_ms >= gc->due_ms)
        gc_run(gc, false);
}

static void on_timer(uv_timer_t *timer)
{
    struct gc *gc = timer->data;
    if (gc->closing || gc->proposing)
        return;
    switch (gc->status.stage) {
    case GC_STAGE_NONE:
        plan(gc);
        break;
    case GC_STAGE_NAMES:
    case GC_STAGE_ROWS:
        walk_step(gc);
        break;
    case GC_STAGE_FILES:
    case GC_STAGE_FOLDERS:
        wait_step(gc);
        break;
    }
    if (gc->status.stage == GC_STAGE_NONE)
        arm(gc, GC_RETRY_MS);
}

static void arm(struct gc *gc, uint64_t ms)
{
    if (!gc->closing)
        uv_timer_start(&gc->timer, on_timer, ms, 0);
}

static void on_counted(void *arg, enum cmd_status status, uint64_t index, const void *detail, size_t len)
{
    (void)arg;
    (void)status; /* the next run asks again */
    (void)index;
    (void)detail;
    (void)len;
}

bool gc_run(struct gc *gc, bool dry)
{
    struct names_totals totals;
    struct wire_writer w;
    uint64_t interval_ms = gc_setting(gc, SET_GC_INTERVAL);
    if (gc->status.stage != GC_STAGE_NONE || gc->closing)
        return false;
    if (!dry)
        gc->due_ms = uv_now(gc->config.loop) + interval_ms;
    if (!dry && cluster_totals(gc->config.cluster, &totals) == -ENOENT) {
        void *cmd = command_new(&w, CMD_GC_TOTALS);
        cluster_propose(gc->config.cluster, cmd, w.len, on_counted, gc);
    }
    gc->status.runs++;
    gc->status.dry = dry;
    gc->status.begun_ms = gc_now_ms();
    gc->status.ended_ms = 0;
    gc->status.failed = NULL;
    gc->status.folders = 0;
    walk_begin(gc, dry ? GC_WALK_DRY : GC_WALK_ALL);
    gc->status.figures = gc->walk.figures;
    stage_move(gc, GC_STAGE_NAMES);
    return true;
}

/* ------------------------------------------------------------------ its life */

/* When files without a row are looked for after something that may have made some. */
static uint64_t soon_ms(const struct gc *gc)
{
    uint64_t interval_ms = gc_setting(gc, SET_GC_INTERVAL);
    return interval_ms && interval_ms < FIRST_LOOK_MS ? interval_ms : FIRST_LOOK_MS;
}

void gc_event(struct gc *gc, const struct state_event *event)
{
    const struct state_cmd *cmd = &event->cmd;
    if (cmd->head.type != CMD_GC_BLOBS || !event->changed)
        return;
    if (cmd->gc.step == CMD_GC_SEE)
        gc_files_want(gc);
    else if (!files_over(gc)) /* a mark may be gone before its file */
        gc_folders_want(gc, soon_ms(gc));
}

void gc_reload(struct gc *gc)
{
    gc_files_restart(gc);
    gc_folders_want(gc, soon_ms(gc));
}

int gc_remove(struct gc *gc, const struct digest *d, uint64_t age_ms, uint64_t mark, bool spare)
{
    struct gc_removal *r = gc->removal;
    while (r->used)
        r++; /* there are as many as can be under way */
    CHECK(r < gc->removal + ARRAY_SIZE(gc->removal));
    *r = (struct gc_removal){.gc = gc,
                             .digest = *d,
                             .mark = mark,
                             .spare = spare,
                             .used = true,
                             .asked_ms = uv_now(gc->config.loop)};
    int err = gc->config.remove(gc->config.arg, r, age_ms);
    r->used = err == 0;
    gc->status.removing += err == 0;
    return err;
}

void gc_answer(struct gc_removal *removal, enum gc_result result, uint64_t bytes)
{
    struct gc *gc = removal->gc;
    removal->used = false;
    gc->status.removing--;
    removing_pace(gc, uv_now(gc->config.loop) - removal->asked_ms);
    if (removal->mark)
        gc_files_answer(gc, removal, result, bytes);
    else
        gc_folders_answer(gc, removal, result, bytes);
}

bool gc_is_removing(const struct gc *gc, const struct digest *d)
{
    for (unsigned i = 0; i < ARRAY_SIZE(gc->removal); i++)
        if (gc->removal[i].used && digest_equal(&gc->removal[i].digest, d))
            return true;
    return false;
}

void gc_status(const struct gc *gc, struct gc_status *out)
{
    *out = gc->status;
}

bool gc_is_foreign(const struct gc *gc)
{
    return gc->status.foreign;
}

struct gc *gc_new(const struct gc_config *config)
{
    struct gc *gc = calloc(1, sizeof(*gc));
    CHECK(gc);
    gc->config = *config;
    gc->walk.phase = GC_PHASE_END;
    gc->removing_max = GC_REMOVING_MIN;
    gc->cleaned = true; /* the start looks at everything */
    CHECK(uv_timer_init(config->loop, &gc->timer) == 0);
    gc->timer.data = gc;
    gc_files_open(gc);
    gc_folders_open(gc);
    gc->folders.due_ms = uv_now(config->loop) + soon_ms(gc);
    arm(gc, GC_RETRY_MS);
    return gc;
}

void gc_close(struct gc *gc)
{
    gc->closing = true;
    uv_close((uv_handle_t *)&gc->timer, NULL);
    uv_close((uv_handle_t *)&gc->files.timer, NULL);
    uv_close((uv_handle_t *)&gc->folders.timer, NULL);
}

void gc_free(struct gc *gc)
{
    gc_walk_end(&gc->walk);
    gc_files_free(gc);
    gc_folders_free(gc);
    free(gc);
}
