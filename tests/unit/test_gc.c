/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs of the garbage collection on the real loop, over a state in memory: what becomes of a run whose
 * commands are refused, whose files do not go, and of a store that is another cluster's. The steps themselves
 * are test_gc_model's.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cmd_build.h"
#include "kv_memory.h"
#include "control/settings.h"
#include "temp_dir.h"
#include "control/gc_private.h"
#include "control/state/state.h"

enum { REMOVED_MAX = 64, PATIENCE_MS = 60000, OLD_MS = 1000 };

/* A cluster of one, and a data plane that removes what it is told to. */
static struct {
    uv_loop_t loop;
    struct kv_memory state;
    struct temp_dir dir;
    struct gc *gc;
    uint64_t setting[SETTINGS_COUNT];
    uint64_t index;
    bool leads, has_others;
    bool spare, spares;     /* what is asked for is spare; so it was */
    enum cmd_status refuse; /* what is proposed */
    struct state_event event;
    unsigned ended, proposed, lines;
    char failed[64];
    struct digest removed[REMOVED_MAX];
    unsigned removals;
    /* How the next removals end. */
    unsigned not_now, busy;
    bool hold;           /* they do not */
    struct digest stuck; /* its file is in use; alg 0: none is */
    unsigned asked, asked_stuck;
    enum gc_result result;
    struct gc_removal *answer[REMOVED_MAX];
    unsigned answers;
    uv_idle_t idle;
} t;

/* ------------------------------------------------------------------ what gc.c asks of the cluster */

void cluster_status(const struct cluster *c, struct cluster_status *out)
{
    (void)c;
    *out = (struct cluster_status){.leads = t.leads, .cluster_id = {7}};
}

bool cluster_has_others(const struct cluster *c)
{
    (void)c;
    return t.has_others;
}

struct db_view *cluster_view_begin(struct cluster *c, struct kv **kv)
{
    (void)c;
    *kv = &t.state.kv;
    return (struct db_view *)&t;
}

void cluster_view_end(struct db_view *view)
{
    (void)view;
}

int cluster_totals(struct cluster *c, struct names_totals *out)
{
    (void)c;
    return state_totals_read(&t.state.kv, out);
}

static void apply(const void *cmd, size_t len)
{
    struct names_meta meta = {.magic = NAMES_MAGIC, .applied_index = ++t.index};
    CHECK(state_apply(&(struct state_tx){.kv = &t.state.kv}, t.index, cmd, len, &t.event) == 0);
    CHECK(kv_put(&t.state.kv, NAMES_META, (struct kv_bytes){"state", 5},
                 (struct kv_bytes){&meta, sizeof(meta)}) == 0);
    if (t.gc)
        gc_event(t.gc, &t.event);
}

void cluster_propose(struct cluster *c, void *cmd, size_t len, cluster_done done, void *arg)
{
    uint64_t now_ms = gc_now_ms();
    (void)c;
    t.proposed++;
    memcpy((uint8_t *)cmd + CMD_TIME_OFFSET, &now_ms, sizeof(now_ms));
    if (t.refuse) {
        done(arg, t.refuse, 0, NULL, 0);
    } else {
        apply(cmd, len);
        done(arg, t.event.status, t.index, t.event.detail, t.event.detail_len);
    }
    free(cmd);
}

/* ------------------------------------------------------------------ and of the daemon */

void journal_write(struct journal *journal, enum journal_level level, const char *module, const char *format,
                   ...)
{
    (void)journal;
    (void)level;
    (void)module;
    (void)format;
    t.lines++;
}

static uint64_t on_setting(void *arg, int id)
{
    (void)arg;
    return t.setting[id];
}

static int on_remove(void *arg, struct gc_removal *removal, uint64_t age_ms)
{
    (void)arg;
    assert_true(age_ms >= GC_FILE_AGE_MIN_MS);
    assert_true(gc_is_removing(t.gc, &removal->digest));
    t.spares |= removal->spare;
    t.asked++;
    t.asked_stuck += digest_equal(&removal->digest, &t.stuck);
    if (t.busy) {
        t.busy--;
        return -EBUSY;
    }
    CHECK(t.answers < REMOVED_MAX);
    t.answer[t.answers++] = removal;
    return 0;
}

static bool on_is_spare(void *arg, const struct digest *d, const struct names_blob *blob)
{
    (void)arg;
    assert_int_equal(blob->links, 1);
    (void)d;
    return t.spare;
}

static void answer_one(struct gc_removal *removal)
{
    if (t.not_now) {
        t.not_now--;
        gc_answer(removal, GC_NOT_NOW, 0);
        return;
    }
    if (digest_equal(&removal->digest, &t.stuck)) {
        gc_answer(removal, GC_NOT_NOW, 0);
        return;
    }
    if (t.result == GC_REMOVED) {
        CHECK(t.removals < REMOVED_MAX);
        t.removed[t.removals++] = removal->digest;
    }
    gc_answer(removal, t.result, t.result == GC_REMOVED ? 10 : 0);
}

static void on_idle(uv_idle_t *idle)
{
    unsigned count = t.answers;
    (void)idle;
    if (t.hold)
        return;
    t.answers = 0;
    for (unsigned i = 0; i < count; i++)
        answer_one(t.answer[i]);
}

static void on_ended(void *arg, const struct gc_status *status)
{
    (void)arg;
    t.ended++;
    snprintf(t.failed, sizeof(t.failed), "%s", status->failed ? status->failed : "");
}

static void open_gc(void)
{
    const struct gc_config config = {.loop = &t.loop,
                                     .blobs_fd = t.dir.fd,
                                     .setting = on_setting,
                                     .remove = on_remove,
                                     .is_spare = on_is_spare,
                                     .ended = on_ended};
    t.gc = gc_new(&config);
}

static int setup(void **state)
{
    (void)state;
    memset(&t, 0, sizeof(t));
    kv_memory_init(&t.state);
    temp_dir_make(&t.dir);
    CHECK(uv_loop_init(&t.loop) == 0);
    CHECK(uv_idle_init(&t.loop, &t.idle) == 0);
    CHECK(uv_idle_start(&t.idle, on_idle) == 0);
    t.setting[SET_GC_RATE] = 1000000;
    open_gc();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    gc_close(t.gc);
    uv_close((uv_handle_t *)&t.idle, NULL);
    uv_run(&t.loop, UV_RUN_DEFAULT);
    CHECK(uv_loop_close(&t.loop) == 0);
    gc_free(t.gc);
    kv_memory_fini(&t.state);
    temp_dir_remove(&t.dir);
    return 0;
}

/* A condition that the loop brings about. */
#define RUN_UNTIL(condition)                                                                                 \
    do {                                                                                                     \
        uint64_t end_ms = uv_now(&t.loop) + PATIENCE_MS;                                                     \
        while (!(condition)) {                                                                               \
            uv_run(&t.loop, UV_RUN_ONCE);                                                                    \
            assert_true(uv_now(&t.loop) < end_ms);                                                           \
        }                                                                                                    \
    } while (0)

static void push(unsigned blob)
{
    struct cmd_build b;
    struct digest d = digest_make(DIGEST_SHA256, blob);
    cmd_blob_link(&b, gc_now_ms() - OLD_MS, "team/app", &d, 10);
    apply(b.buf, b.w.len);
    assert_int_equal(t.event.status, CMD_OK);
}

static void run(void)
{
    unsigned before = t.ended;
    assert_true(gc_run(t.gc, false));
    assert_false(gc_run(t.gc, false)); /* one at a time */
    RUN_UNTIL(t.ended > before);
}

static bool has_row(unsigned blob)
{
    uint8_t key[DIGEST_PACKED_MAX];
    struct digest d = digest_make(DIGEST_SHA256, blob);
    struct kv_bytes value;
    return kv_get(&t.state.kv, NAMES_BLOBS, (struct kv_bytes){key, digest_pack(&d, key)}, &value) == 0;
}

static uint64_t forgotten(void)
{
    struct gc_status s;
    gc_status(t.gc, &s);
    return s.figures.forgotten.count;
}

/* ------------------------------------------------------------------ tests */

static void test_a_run(void **state)
{
    (void)state;
    struct gc_status s;
    for (unsigned i = 0; i < 5; i++)
        push(i);
    assert_true(gc_run(t.gc, true));
    RUN_UNTIL(t.ended == 1);
    gc_status(t.gc, &s);
    assert_int_equal(s.figures.garbage.count, 5);
    assert_int_equal(t.proposed, 0);
    run();
    assert_string_equal(t.failed, "");
    gc_status(t.gc, &s);
    assert_int_equal(s.figures.dropped.count, 5);
    assert_int_equal(s.figures.forgotten.bytes, 50);
    assert_int_equal(s.removed.bytes, 50);
    assert_int_equal(t.removals, 5);
    assert_int_equal(s.removing, 0);
    for (unsigned i = 0; i < 5; i++)
        assert_false(has_row(i));
}

/* Nobody leads for a moment: the next run goes on from the marks that there are. */
static void test_refused(void **state)
{
    (void)state;
    push(1);
    t.refuse = CMD_NO_LEADER;
    run();
    assert_string_not_equal(t.failed, "");
    t.refuse = CMD_TOO_NEW;
    run();
    assert_string_equal(t.failed, "a node of the cluster is too old for it");
    assert_true(has_row(1));
    t.refuse = CMD_OK;
    run();
    assert_string_equal(t.failed, "");
    assert_false(has_row(1));
}

/* Files that are being pushed, or for which there is no data plane, are asked for again. */
static void test_not_now(void **state)
{
    (void)state;
    struct gc_status s;
    push(1);
    push(2);
    t.not_now = t.busy = 1;
    run();
    gc_status(t.gc, &s);
    assert_int_equal(t.removals, 2);
    assert_int_equal(forgotten(), 2);
    assert_int_equal(s.retries, 1);
}

/* A disk that does not do it is asked less and less often, and its rows stay. */
static void test_disk_errors(void **state)
{
    (void)state;
    push(1);
    t.result = GC_FAILED;
    assert_true(gc_run(t.gc, false));
    RUN_UNTIL(t.gc->status.errors == 1 && t.gc->files.delay_ms == GC_RETRY_MS);
    RUN_UNTIL(t.gc->files.delay_ms == 2 * GC_RETRY_MS);
    assert_int_equal(t.gc->status.errors, 2);
    assert_int_equal(t.lines, 2);
    assert_true(has_row(1));
    t.result = GC_REMOVED;
    RUN_UNTIL(t.ended);
    assert_int_equal(t.removals, 1);
    assert_false(has_row(1));
}

/* One file that stays for long holds up no row that was marked before it. */
static void test_one_stays(void **state)
{
    (void)state;
    push(1);
    t.result = GC_FAILED;
    assert_true(gc_run(t.gc, false));
    RUN_UNTIL(t.gc->files.left.count && !t.gc->files.walking);
    uint64_t first = t.gc->files.left.item[0].index;
    assert_int_equal(t.gc->files.done_index, first - 1);
    t.result = GC_REMOVED;
    RUN_UNTIL(t.gc->files.done_index >= first);
    assert_int_equal(t.removals, 1);
}

/* As long as files go, their rows are waited for; else the next run forgets them. */
static void test_many_files(void **state)
{
    (void)state;
    enum { LONG_MS = 10000 }; /* longer than a run waits; the loop's clock begins with the machine's start */
    push(1);
    push(2);
    t.hold = true;
    assert_true(gc_run(t.gc, false));
    RUN_UNTIL(t.gc->status.stage == GC_STAGE_FILES && t.answers == 2);
    t.gc->stage_ms -= LONG_MS;
    t.gc->progress_ms -= LONG_MS;
    gc_answer(t.answer[--t.answers], GC_REMOVED, 10);
    RUN_UNTIL(t.gc->gone == 1);
    assert_int_equal(t.gc->status.stage, GC_STAGE_FILES);
    t.gc->progress_ms -= LONG_MS;
    RUN_UNTIL(t.ended);
    assert_int_equal(forgotten(), 0);
    t.hold = false;
    run();
    assert_int_equal(forgotten(), 2);
}

/* A blob that nothing links, and that is marked. */
static void mark(unsigned blob)
{
    struct cmd_build b;
    struct digest d = digest_make(DIGEST_SHA256, blob);
    push(blob);
    cmd_repo_digest(&b, CMD_BLOB_UNLINK, gc_now_ms(), "team/app", &d);
    apply(b.buf, b.w.len);
    cmd_begin(&b, CMD_GC_BLOBS, gc_now_ms());
    wire_put_u8(&b.w, CMD_GC_SEE);
    wire_put_u32(&b.w, 1);
    cmd_put_digest(&b.w, &d);
    wire_put_u64(&b.w, 0);
    apply(b.buf, b.w.len);
    assert_true(t.event.changed);
}

/* A file that stays is asked for again, and no other one with it. */
static void test_only_what_stays_again(void **state)
{
    (void)state;
    struct gc_files *f = &t.gc->files;
    t.stuck = digest_make(DIGEST_SHA256, 7);
    for (unsigned i = 0; i < 30; i++)
        mark(i);
    RUN_UNTIL(t.removals == 29 && t.asked_stuck >= 2 && !f->walking);
    assert_int_equal(t.asked - t.asked_stuck, 29);
    assert_int_equal(f->left.count, 1);
    assert_int_equal(f->done_index, f->left.item[0].index - 1);
    for (unsigned i = 30; i < 40; i++)
        mark(i);
    RUN_UNTIL(t.removals == 39 && !f->walking);
    assert_int_equal(t.asked - t.asked_stuck, 39);
    t.stuck.alg = 0;
    RUN_UNTIL(!f->again && !f->walking);
    assert_int_equal(t.removals, 40);
    assert_int_equal(t.asked - t.asked_stuck, 40);
    assert_true(f->done_index >= t.index);
}

/* More stay than are remembered: then the marks tell, and nothing is forgotten. */
static void test_more_stay_than_are_remembered(void **state)
{
    (void)state;
    struct gc_files *f = &t.gc->files;
    f->left_max = 4;
    t.busy = 15;
    for (unsigned i = 0; i < 20; i++)
        mark(i);
    RUN_UNTIL(f->lost_index);
    assert_true(f->left.count + f->ask.count <= 4);
    RUN_UNTIL(!f->again && !f->walking);
    assert_true(t.removals >= 20 && t.asked <= 2 * 20);
    assert_int_equal(f->lost_index, 0);
    assert_true(f->done_index >= t.index);
}

/* The whole state is another one, while something stays. */
static void test_another_state(void **state)
{
    (void)state;
    struct gc_files *f = &t.gc->files;
    t.stuck = digest_make(DIGEST_SHA256, 1);
    mark(1);
    mark(2);
    RUN_UNTIL(t.removals == 1 && f->left.count == 1 && !f->walking);
    gc_reload(t.gc);
    assert_int_equal(f->done_index, 0);
    t.stuck.alg = 0;
    RUN_UNTIL(!f->again && !f->wanted && !f->walking);
    assert_int_equal(t.removals, 3); /* the marks of the other state are all asked for */
}

static void plant(unsigned blob)
{
    struct digest d = digest_make(DIGEST_SHA256, blob);
    char hex[2 * DIGEST_BYTES_MAX + 1], folder[32];
    digest_hex(&d, hex);
    snprintf(folder, sizeof(folder), "sha256/%.2s", hex);
    (void)mkdirat(t.dir.fd, "sha256", 0700);
    (void)mkdirat(t.dir.fd, folder, 0700);
    int at = openat(t.dir.fd, folder, O_RDONLY | O_DIRECTORY), fd = openat(at, hex, O_WRONLY | O_CREAT, 0600);
    CHECK(at >= 0 && fd >= 0);
    close(fd);
    close(at);
}

static void write_owner(const char *text)
{
    int fd = openat(t.dir.fd, ".cluster", O_WRONLY | O_CREAT | O_TRUNC, 0600);
    CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
}

/* Files that no row names go; but not those of another cluster, and not before the state knows of any blob.
 */
static void test_files_without_a_row(void **state)
{
    (void)state;
    t.setting[SET_GC_GRACE] = 2 * OLD_MS;
    plant(1);
    plant(2);
    run();
    assert_int_equal(t.removals, 0);
    assert_false(gc_is_foreign(t.gc));
    push(1);
    run();
    assert_int_equal(t.removals, 1);
    assert_int_equal(t.removed[0].bytes[0], digest_make(DIGEST_SHA256, 2).bytes[0]);
    run();
    assert_int_equal(t.removals, 2); /* this data plane leaves them where they are */
    write_owner("00000000000000000000000000000000");
    run();
    assert_int_equal(t.removals, 2);
    assert_true(gc_is_foreign(t.gc));
}

/* A copy that this node need not have goes, if it may and the setting says so. */
static void test_spare_copies(void **state)
{
    (void)state;
    struct gc_status s;
    t.setting[SET_GC_GRACE] = 3600000;
    t.spare = true;
    push(1);
    plant(1);
    run();
    assert_int_equal(t.removals, 0);
    t.setting[SET_GC_SPARE] = 1;
    t.spare = false;
    run();
    assert_int_equal(t.removals, 0);
    t.spare = true;
    run();
    assert_int_equal(t.removals, 1);
    assert_true(t.spares && has_row(1));
    gc_status(t.gc, &s);
    assert_int_equal(s.spares.count, 1);
    assert_int_equal(s.spares.bytes, 10);
    assert_int_equal(s.strays.count + s.removed.count, 0);
}

/* A step is as long as a short time allows, and what follows it is a rest in proportion. */
static void test_pace(void **state)
{
    (void)state;
    struct gc_pace p = {0};
    assert_int_equal(gc_pace_rows(&p, 500), GC_STEP_ROWS_MIN);
    assert_int_equal(gc_pace_rows(&p, 1), 1);
    for (unsigned i = 0; i < 10; i++)
        assert_int_equal(gc_pace_step(&p, 500, 100), GC_TICK_MS);
    assert_int_equal(gc_pace_rows(&p, 500), 500);
    assert_int_equal(gc_pace_step(&p, 500, 8000), 80);
    assert_int_equal(gc_pace_rows(&p, 500), 250);
    for (unsigned i = 0; i < 10; i++)
        assert_int_equal(gc_pace_step(&p, 500, 3000000), GC_REST_MAX_MS);
    assert_int_equal(gc_pace_rows(&p, 500), GC_STEP_ROWS_MIN);
    assert_int_equal(gc_pace_step(&p, 500, 900), GC_TICK_MS);
    assert_int_equal(gc_pace_rows(&p, 500), 2 * GC_STEP_ROWS_MIN);
    /* Nothing is learnt from a step that was not to look at more. */
    for (unsigned i = 0; i < 10; i++)
        (void)gc_pace_step(&p, 40, 10);
    assert_int_equal(gc_pace_rows(&p, 500), 2 * GC_STEP_ROWS_MIN);
}

/* As many files at a time as go at once; few where they take long. */
static void test_files_at_a_time(void **state)
{
    (void)state;
    struct gc_removal *r = t.gc->removal;
    assert_int_equal(t.gc->removing_max, GC_REMOVING_MIN);
    for (unsigned i = 0; i < 40; i++)
        mark(i);
    RUN_UNTIL(t.removals == 40 && !t.gc->files.walking);
    assert_true(t.gc->removing_max >= GC_REMOVING_MIN && t.gc->removing_max <= GC_REMOVING_MAX);
    t.gc->removing_max = GC_REMOVING_MAX;
    for (unsigned i = 0; i < 3; i++) {
        *r = (struct gc_removal){.gc = t.gc, .used = true, .asked_ms = uv_now(&t.loop) - GC_FILE_SLOW_MS - 1};
        t.gc->status.removing++;
        t.gc->folders.removing++;
        gc_answer(r, GC_REMOVED, 0);
    }
    assert_int_equal(t.gc->removing_max, GC_REMOVING_MIN);
}

/* The node that leads begins by itself, also when the interval has become shorter meanwhile. */
static void test_schedule(void **state)
{
    (void)state;
    struct gc_status s;
    push(1);
    t.setting[SET_GC_INTERVAL] = 86400000;
    t.leads = true;
    RUN_UNTIL((gc_status(t.gc, &s), s.next_ms));
    assert_true(has_row(1));
    t.setting[SET_GC_INTERVAL] = 100;
    RUN_UNTIL(!has_row(1));
    t.leads = false;
    RUN_UNTIL((gc_status(t.gc, &s), s.stage == GC_STAGE_NONE && !s.next_ms));
}

/* A control that comes after one that was killed removes what that one has marked. */
static void test_begun_by_another(void **state)
{
    (void)state;
    push(1);
    t.result = GC_FAILED;
    assert_true(gc_run(t.gc, false));
    RUN_UNTIL(t.gc->status.errors);
    gc_close(t.gc);
    struct gc *before = t.gc;
    open_gc();
    t.result = GC_REMOVED;
    RUN_UNTIL(t.removals == 1);
    gc_free(before);
    assert_true(has_row(1));
    run();
    assert_false(has_row(1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_run, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_not_now, setup, teardown),
        cmocka_unit_test_setup_teardown(test_disk_errors, setup, teardown),
        cmocka_unit_test_setup_teardown(test_one_stays, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many_files, setup, teardown),
        cmocka_unit_test_setup_teardown(test_only_what_stays_again, setup, teardown),
        cmocka_unit_test_setup_teardown(test_more_stay_than_are_remembered, setup, teardown),
        cmocka_unit_test_setup_teardown(test_another_state, setup, teardown),
        cmocka_unit_test_setup_teardown(test_files_without_a_row, setup, teardown),
        cmocka_unit_test_setup_teardown(test_spare_copies, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pace, setup, teardown),
        cmocka_unit_test_setup_teardown(test_files_at_a_time, setup, teardown),
        cmocka_unit_test_setup_teardown(test_schedule, setup, teardown),
        cmocka_unit_test_setup_teardown(test_begun_by_another, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
