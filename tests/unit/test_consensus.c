/* SPDX-License-Identifier: Apache-2.0 */
/* A cluster of one: what is answered with CMD_OK is there after any end of the process, and full disks pass.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include <cmocka.h>
#include <lmdb.h>

#include "cmd_build.h"
#include "control/raft/consensus.h"
#include "file_fault.h"
#include "temp_dir.h"

enum { WAIT_MS = 20000 };

struct fixture {
    struct temp_dir dir;
    struct file_fault fault;
    uv_loop_t loop;
    uv_timer_t guard;
    struct consensus_config config;
    struct consensus *c;
    struct cmd_build b;
    char err[256];
    unsigned answers, events, fatals;
    enum cmd_status status[131072];
    uint64_t last_index;
    uint8_t detail[STATE_DETAIL_MAX];
    size_t detail_len;
    bool closed, overtime;
};

static void on_event(void *arg, const struct state_event *event)
{
    struct fixture *f = arg;
    assert_true(event->index > 0);
    f->events++;
}

static void on_fatal(void *arg, const char *why)
{
    struct fixture *f = arg;
    assert_true(strlen(why) > 0);
    f->fatals++;
}

static void on_done(void *arg, enum cmd_status status, uint64_t index, const void *detail, size_t detail_len)
{
    struct fixture *f = arg;
    f->status[f->answers++] = status;
    if (index)
        f->last_index = index;
    f->detail_len = detail_len;
    if (detail_len)
        memcpy(f->detail, detail, detail_len);
}

static void on_closed(void *arg)
{
    ((struct fixture *)arg)->closed = true;
}

static void on_guard(uv_timer_t *timer)
{
    ((struct fixture *)timer->data)->overtime = true;
}

static void guard_start(struct fixture *f)
{
    f->overtime = false;
    uv_timer_start(&f->guard, on_guard, WAIT_MS, 0);
}

static int setting_check(const char *key, size_t key_len, const char *value, size_t value_len, char *err,
                         size_t len)
{
    (void)value_len;
    if (key_len < 2 || memcmp(key, "s.", 2) != 0)
        return -ENOENT;
    if (value && value[0] == '-') {
        snprintf(err, len, "must not be negative");
        return -EINVAL;
    }
    return 0;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    temp_dir_make(&f->dir);
    file_fault_init(&f->fault);
    assert_int_equal(uv_loop_init(&f->loop), 0);
    uv_timer_init(&f->loop, &f->guard);
    f->guard.data = f;
    f->config = (struct consensus_config){.loop = &f->loop,
                                          .dir = f->dir.path,
                                          .settings = {setting_check},
                                          .ops = &f->fault.ops,
                                          .map_bytes = 256 << 20,
                                          .reserve_bytes = 1 << 20,
                                          .event = on_event,
                                          .fatal = on_fatal,
                                          .arg = f};
    *state = f;
    return 0;
}

static int open_it(struct fixture *f)
{
    int rc = consensus_open(&f->config, &f->c, f->err, sizeof(f->err));
    if (rc)
        print_message("open: %s\n", f->err);
    return rc;
}

static void close_it(struct fixture *f)
{
    f->closed = false;
    consensus_close(f->c, on_closed, f);
    f->c = NULL;
    guard_start(f);
    while (!f->closed && !f->overtime)
        uv_run(&f->loop, UV_RUN_ONCE);
    assert_true(f->closed);
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    f->fault.kinds = 0;
    if (f->c)
        close_it(f);
    uv_close((uv_handle_t *)&f->guard, NULL);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&f->loop), 0);
    temp_dir_remove(&f->dir);
    free(f);
    return 0;
}

static void propose(struct fixture *f)
{
    void *copy = malloc(f->b.w.len);
    assert_false(f->b.w.failed);
    memcpy(copy, f->b.buf, f->b.w.len);
    consensus_propose(f->c, copy, f->b.w.len, on_done, f);
}

static void wait_answers(struct fixture *f, unsigned answers)
{
    guard_start(f);
    while (f->answers < answers && !f->overtime)
        uv_run(&f->loop, UV_RUN_ONCE);
    assert_int_equal(f->answers, answers);
}

static enum cmd_status ask(struct fixture *f)
{
    unsigned before = f->answers;
    propose(f);
    assert_int_equal(f->answers, before); /* never from inside */
    wait_answers(f, before + 1);
    return f->status[before];
}

static enum cmd_status link_one(struct fixture *f, unsigned seed)
{
    struct digest d = digest_make(DIGEST_SHA256, seed);
    cmd_blob_link(&f->b, 0, "repo", &d, 10);
    return ask(f);
}

static bool has_link(struct fixture *f, unsigned seed)
{
    uint8_t key[NAMES_KEY_MAX];
    struct digest d = digest_make(DIGEST_SHA256, seed);
    size_t len = names_key_digest(key, "repo", 4, &d);
    struct kv_bytes value;
    struct kv *kv;
    struct db_view *view = consensus_view_begin(f->c, &kv);
    bool found = kv_get(kv, NAMES_LINKS, (struct kv_bytes){key, len}, &value) == 0;
    consensus_view_end(view);
    return found;
}

static struct consensus_status status_of(struct fixture *f)
{
    struct consensus_status status;
    consensus_status(f->c, &status);
    return status;
}

static void test_first_start_leads_at_once(void **state)
{
    struct fixture *f = *state;
    struct stat st;
    f->config.election_ms = 3600000; /* the test would not live to see an election */
    assert_int_equal(open_it(f), 0);
    assert_true(status_of(f).leads);
    assert_int_equal(link_one(f, 1), CMD_OK);
    struct consensus_status s = status_of(f);
    assert_string_equal(s.state, "leader");
    assert_int_equal(s.node_id, 1);
    assert_int_equal(s.leader_id, 1);
    assert_int_equal(s.applied_index, 2);
    assert_int_equal(s.commit_index, 2);
    assert_int_equal(f->last_index, 2);
    assert_int_equal(f->events, 1);
    assert_true(s.fsyncs >= 1 && s.log_bytes > 0 && s.names_bytes > 0);
    assert_int_equal(fstatat(f->dir.fd, "raft", &st, 0), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    assert_int_equal(fstatat(f->dir.fd, "raft/vote", &st, 0), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
}

static void test_state_survives_a_restart(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(open_it(f), 0);
    for (unsigned i = 0; i < 50; i++)
        assert_int_equal(link_one(f, i), CMD_OK);
    struct consensus_status before = status_of(f);
    close_it(f);
    f->events = 0;
    assert_int_equal(open_it(f), 0);
    struct consensus_status after = status_of(f);
    assert_memory_equal(before.cluster_id, after.cluster_id, 16);
    assert_int_equal(after.applied_index, before.applied_index);
    assert_int_equal(after.term, before.term + 1);
    assert_int_equal(f->events, 0);
    for (unsigned i = 0; i < 50; i++)
        assert_true(has_link(f, i));
    assert_int_equal(link_one(f, 50), CMD_OK);
}

static void test_refusals(void **state)
{
    struct fixture *f = *state;
    struct digest d = digest_make(DIGEST_SHA256, 9);
    assert_int_equal(open_it(f), 0);
    cmd_repo_digest(&f->b, CMD_BLOB_UNLINK, 0, "none", &d);
    assert_int_equal(ask(f), CMD_REPO_UNKNOWN);
    cmd_blob_mount(&f->b, 0, "to", &d, "");
    assert_int_equal(ask(f), CMD_BLOB_UNKNOWN);
    assert_int_equal(f->detail_len, 33);
    uint64_t last = status_of(f).last_index;
    /* What does not parse never reaches the log: one foreign entry would stop every node. */
    cmd_blob_link(&f->b, 0, "repo", &d, 1);
    f->b.buf[6] = 77;
    assert_int_equal(ask(f), CMD_INVALID);
    cmd_blob_link(&f->b, 0, "Not/A/Name", &d, 1);
    assert_int_equal(ask(f), CMD_INVALID);
    assert_true(f->detail_len > 0);
    cmd_setting_set(&f->b, 0, "unknown", "1");
    assert_int_equal(ask(f), CMD_SETTING_UNKNOWN);
    cmd_setting_set(&f->b, 0, "s.a", "-1");
    assert_int_equal(ask(f), CMD_INVALID);
    assert_memory_equal(f->detail, "must not be negative", 20);
    assert_int_equal(status_of(f).last_index, last);
}

/* A command that came with a later cluster version waits for it: an older node would stop at its entry. */
static void test_the_cluster_version_gates(void **state)
{
    struct fixture *f = *state;
    struct node_token token = {.role = NODE_WORKER, .expires_ms = UINT64_MAX};
    struct node first = {.id = 1,
                         .name = "one",
                         .role = NODE_MANAGER,
                         .availability = NODE_ACTIVE,
                         .version = CLUSTER_VERSION};
    struct node_cluster cluster = {.version = CLUSTER_VERSION, .name = "c", .copies_min = 1};
    assert_int_equal(open_it(f), 0);
    uint64_t last = status_of(f).last_index;
    cmd_begin(&f->b, CMD_TOKEN_SET, 0);
    node_token_put(&f->b.w, &token);
    wire_put_u8(&f->b.w, 0);
    assert_int_equal(ask(f), CMD_TOO_NEW);
    assert_int_equal(status_of(f).last_index, last);
    cmd_begin(&f->b, CMD_CLUSTER_INIT, 0);
    node_put(&f->b.w, &first);
    node_cluster_put(&f->b.w, &cluster);
    assert_int_equal(ask(f), CMD_OK);
    cmd_begin(&f->b, CMD_TOKEN_SET, 0);
    node_token_put(&f->b.w, &token);
    wire_put_u8(&f->b.w, 0);
    assert_int_equal(ask(f), CMD_OK);
}

static void count_setting(void *arg, const char *key, size_t key_len, const char *value, size_t value_len)
{
    char *all = arg;
    snprintf(all + strlen(all), 100 - strlen(all), "%.*s=%.*s;", (int)key_len, key, (int)value_len, value);
}

static void test_settings(void **state)
{
    struct fixture *f = *state;
    char all[100] = "", value[8];
    size_t len = sizeof(value);
    assert_int_equal(open_it(f), 0);
    const char *keys[] = {"s.b", "s.a", "s.c"};
    for (int i = 0; i < 3; i++) {
        cmd_setting_set(&f->b, 0, keys[i], "12");
        assert_int_equal(ask(f), CMD_OK);
    }
    assert_int_equal(link_one(f, 1), CMD_OK);
    close_it(f);
    assert_int_equal(open_it(f), 0);
    assert_int_equal(consensus_setting_each(f->c, count_setting, all), 0);
    assert_string_equal(all, "s.a=12;s.b=12;s.c=12;");
    assert_int_equal(consensus_setting_get(f->c, "s.b", 3, value, &len), 0);
    assert_int_equal(len, 2);
    assert_int_equal(consensus_setting_get(f->c, "s.x", 3, value, &len), -ENOENT);
}

static void test_many_at_once_share_syncs(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(open_it(f), 0);
    for (unsigned i = 0; i < 2000; i++) {
        struct digest d = digest_make(DIGEST_SHA256, i);
        cmd_blob_link(&f->b, 0, "repo", &d, 10);
        propose(f);
    }
    wait_answers(f, 2000);
    for (unsigned i = 0; i < 2000; i++)
        assert_int_equal(f->status[i], CMD_OK);
    assert_true(status_of(f).fsyncs < 100);
    assert_int_equal(f->events, 2000);
    assert_int_equal(status_of(f).waiting, 0);
}

static void test_too_many_are_refused(void **state)
{
    struct fixture *f = *state;
    unsigned ok = 0, busy = 0;
    assert_int_equal(open_it(f), 0);
    struct digest d = digest_make(DIGEST_SHA256, 1);
    cmd_blob_link(&f->b, 0, "repo", &d, 10);
    for (unsigned i = 0; i < CONSENSUS_PROPOSALS_MAX + 100; i++)
        propose(f);
    wait_answers(f, CONSENSUS_PROPOSALS_MAX + 100);
    for (unsigned i = 0; i < f->answers; i++) {
        ok += f->status[i] == CMD_OK;
        busy += f->status[i] == CMD_BUSY;
    }
    assert_int_equal(ok, CONSENSUS_PROPOSALS_MAX);
    assert_int_equal(busy, 100);
}

struct one {
    enum cmd_status status;
    unsigned answers;
};

static void on_one(void *arg, enum cmd_status status, uint64_t index, const void *detail, size_t detail_len)
{
    struct one *one = arg;
    (void)index;
    (void)detail;
    (void)detail_len;
    one->status = status;
    one->answers++;
}

static void test_close_finishes_what_is_under_way(void **state)
{
    struct fixture *f = *state;
    struct one one[201] = {0};
    assert_int_equal(open_it(f), 0);
    assert_int_equal(link_one(f, 0), CMD_OK);
    for (unsigned i = 1; i <= 200; i++) {
        struct digest d = digest_make(DIGEST_SHA256, i);
        cmd_blob_link(&f->b, 0, "repo", &d, 10);
        void *copy = malloc(f->b.w.len);
        memcpy(copy, f->b.buf, f->b.w.len);
        consensus_propose(f->c, copy, f->b.w.len, on_one, &one[i]);
        if (i == 100)
            uv_run(&f->loop, UV_RUN_NOWAIT);
    }
    close_it(f);
    assert_int_equal(open_it(f), 0);
    for (unsigned i = 1; i <= 200; i++) {
        assert_int_equal(one[i].answers, 1);
        assert_int_equal(one[i].status, i <= 100 ? CMD_OK : CMD_NO_LEADER);
        assert_int_equal(has_link(f, i), one[i].status == CMD_OK);
    }
}

static unsigned log_segments(struct fixture *f)
{
    unsigned n = 0;
    for (unsigned i = 1; i < 1000; i++) {
        char name[40];
        snprintf(name, sizeof(name), "raft/log-%016x", i);
        n += faccessat(f->dir.fd, name, F_OK, 0) == 0;
    }
    return n;
}

static void run_until_snapshot(struct fixture *f, uint64_t index)
{
    guard_start(f);
    while (status_of(f).snapshot_index < index && !f->overtime)
        uv_run(&f->loop, UV_RUN_ONCE);
    assert_true(status_of(f).snapshot_index >= index);
}

static void link_many(struct fixture *f, unsigned from, unsigned to)
{
    unsigned before = f->answers;
    for (unsigned i = from; i < to; i++) {
        struct digest d = digest_make(DIGEST_SHA256, i);
        cmd_blob_link(&f->b, 0, "repo", &d, 10);
        propose(f);
    }
    wait_answers(f, before + to - from);
}

static void test_snapshot_compaction_and_restore(void **state)
{
    struct fixture *f = *state;
    f->config.segment_bytes = 64 << 10;
    f->config.snapshot_entries = 3000;
    assert_int_equal(open_it(f), 0);
    cmd_setting_set(&f->b, 0, "s.a", "1");
    assert_int_equal(ask(f), CMD_OK);
    for (unsigned i = 0; i < 12000; i += 1000)
        link_many(f, i, i + 1000);
    run_until_snapshot(f, 9000);
    link_many(f, 12000, 12100);
    assert_true(log_segments(f) < 60);
    uint64_t applied = status_of(f).applied_index;
    close_it(f);
    const char *lost[] = {"names.mdb", "private.mdb"};
    for (int i = 0; i < 3; i++) {
        if (i < 2)
            assert_int_equal(unlinkat(f->dir.fd, lost[i], 0), 0);
        assert_int_equal(open_it(f), 0);
        assert_int_equal(status_of(f).applied_index, applied);
        assert_true(has_link(f, 0) && has_link(f, 5000) && has_link(f, 12099));
        char value[8];
        size_t len = sizeof(value);
        assert_int_equal(consensus_setting_get(f->c, "s.a", 3, value, &len), 0);
        assert_int_equal(link_one(f, 20000 + (unsigned)i), CMD_OK);
        applied = status_of(f).applied_index;
        close_it(f);
    }
}

/* The names as a version without the index has left them. */
static void index_remove(struct fixture *f)
{
    char path[160];
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi meta, index;
    MDB_val k = {5, "index"};
    snprintf(path, sizeof(path), "%s/names.mdb", f->dir.path);
    CHECK(mdb_env_create(&env) == 0 && mdb_env_set_maxdbs(env, 4) == 0);
    CHECK(mdb_env_set_mapsize(env, f->config.map_bytes) == 0);
    CHECK(mdb_env_open(env, path, MDB_NOSUBDIR | MDB_NOLOCK, 0600) == 0);
    CHECK(mdb_txn_begin(env, NULL, 0, &txn) == 0 && mdb_dbi_open(txn, "meta", 0, &meta) == 0);
    CHECK(mdb_dbi_open(txn, "index", 0, &index) == 0 && mdb_drop(txn, index, 1) == 0);
    CHECK(mdb_del(txn, meta, &k, NULL) == 0 && mdb_txn_commit(txn) == 0);
    mdb_env_close(env);
}

static void manifest_with_tags(struct fixture *f, unsigned number, unsigned count)
{
    char text[MANIFEST_TAGS_MAX][16];
    const char *tags[MANIFEST_TAGS_MAX];
    struct cmd_build_manifest m = {.repo = "repo",
                                   .digest = digest_make(DIGEST_SHA256, number),
                                   .size = 10,
                                   .media_type = "type/one",
                                   .tags = tags,
                                   .tags_count = count};
    for (unsigned i = 0; i < count; i++) {
        snprintf(text[i], sizeof(text[i]), "t%u.%u", number, i);
        tags[i] = text[i];
    }
    cmd_manifest_put(&f->b, 0, &m);
    assert_int_equal(ask(f), CMD_OK);
}

/* It is made while commands come, goes on where a start begins it anew, and is whole at the end. */
static void test_index_is_made(void **state)
{
    struct fixture *f = *state;
    enum { MANIFESTS = 110, TAGS = 50 };
    struct digest d = digest_make(DIGEST_SHA256, 3);
    assert_int_equal(open_it(f), 0);
    assert_true(status_of(f).index_whole);
    for (unsigned i = 0; i < MANIFESTS; i++)
        manifest_with_tags(f, i, TAGS);
    close_it(f);
    index_remove(f);
    assert_int_equal(open_it(f), 0);
    assert_false(status_of(f).index_whole);
    cmd_repo_digest(&f->b, CMD_MANIFEST_DELETE, 0, "repo", &d);
    assert_int_equal(ask(f), CMD_OK);
    close_it(f);
    assert_int_equal(open_it(f), 0);
    bool anew = !status_of(f).index_whole; /* on a slow machine it was whole before */
    guard_start(f);
    while (!status_of(f).index_whole && !f->overtime)
        uv_run(&f->loop, UV_RUN_ONCE);
    assert_true(status_of(f).index_whole);
    if (anew)
        assert_int_equal(status_of(f).index_rows, (MANIFESTS - 1) * TAGS);
    d = digest_make(DIGEST_SHA256, 4);
    cmd_repo_digest(&f->b, CMD_MANIFEST_DELETE, 0, "repo", &d);
    assert_int_equal(ask(f), CMD_OK);
    close_it(f);
    assert_int_equal(open_it(f), 0);
    assert_true(status_of(f).index_whole);
}

static void test_missing_parts_are_refused(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(open_it(f), 0);
    assert_int_equal(link_one(f, 1), CMD_OK);
    close_it(f);
    assert_int_equal(renameat(f->dir.fd, "raft", f->dir.fd, "away"), 0);
    assert_int_equal(open_it(f), -EUCLEAN);
    assert_non_null(strstr(f->err, "no log"));
    assert_int_equal(renameat(f->dir.fd, "away", f->dir.fd, "raft"), 0);
    assert_int_equal(renameat(f->dir.fd, "raft/vote", f->dir.fd, "vote"), 0);
    assert_int_equal(open_it(f), -EUCLEAN);
    assert_int_equal(renameat(f->dir.fd, "vote", f->dir.fd, "raft/vote"), 0);
    /* Both files can be made again from a log that is whole. */
    assert_int_equal(unlinkat(f->dir.fd, "names.mdb", 0), 0);
    assert_int_equal(unlinkat(f->dir.fd, "private.mdb", 0), 0);
    assert_int_equal(open_it(f), 0);
    assert_true(has_link(f, 1));
}

static void test_full_log_disk(void **state)
{
    struct fixture *f = *state;
    unsigned i = 0;
    f->config.segment_bytes = 64 << 10;
    assert_int_equal(open_it(f), 0);
    assert_int_equal(link_one(f, 0), CMD_OK);
    file_fault_arm(&f->fault, FAULT_ALLOCATE, 0, -ENOSPC, true);
    /* What is reserved is still used; then proposals are refused, reads go on. */
    enum cmd_status status = CMD_OK;
    while (status == CMD_OK && i < 100000)
        status = link_one(f, ++i);
    assert_int_equal(status, CMD_NO_SPACE);
    assert_false(status_of(f).room);
    assert_true(has_link(f, i - 1) && !has_link(f, i));
    assert_int_equal(f->fatals, 0);
    file_fault_arm(&f->fault, 0, -1, 0, false);
    guard_start(f);
    while (!status_of(f).room && !f->overtime)
        uv_run(&f->loop, UV_RUN_ONCE);
    assert_int_equal(link_one(f, i), CMD_OK);
    close_it(f);
    assert_int_equal(open_it(f), 0);
    assert_true(has_link(f, i));
}

static void test_write_that_meets_a_full_disk_is_tried_again(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(open_it(f), 0);
    assert_int_equal(link_one(f, 0), CMD_OK);
    file_fault_arm(&f->fault, FAULT_WRITE, 0, -ENOSPC, false);
    assert_int_equal(link_one(f, 1), CMD_OK);
    assert_int_equal(f->fatals, 0);
}

static void test_lost_writes_end_the_node(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(open_it(f), 0);
    assert_int_equal(link_one(f, 0), CMD_OK);
    file_fault_arm(&f->fault, FAULT_DATASYNC, 0, -EIO, true);
    assert_int_equal(link_one(f, 1), CMD_UNKNOWN_OUTCOME);
    assert_int_equal(f->fatals, 1);
    f->fault.kinds = 0;
    assert_int_equal(link_one(f, 2), CMD_NO_LEADER);
    assert_false(status_of(f).leads);
    close_it(f);
    assert_int_equal(open_it(f), 0);
    assert_true(has_link(f, 0) && !has_link(f, 2));
    assert_int_equal(f->fatals, 1);
}

/* The state's files at the end of their map: refused while reading goes on, and deleting makes room. */
static void test_full_state(void **state)
{
    struct fixture *f = *state;
    unsigned i = 0;
    enum cmd_status status = CMD_OK;
    f->config.map_bytes = 4 << 20;
    assert_int_equal(open_it(f), 0);
    while (status == CMD_OK && i < 100) {
        unsigned before = f->answers;
        link_many(f, i * 200, i * 200 + 200);
        for (unsigned k = before; k < f->answers; k++)
            status = f->status[k] != CMD_OK ? f->status[k] : status;
        i++;
    }
    assert_int_equal(status, CMD_NO_SPACE);
    assert_int_equal(f->fatals, 0);
    assert_true(has_link(f, 0));
    /* This one would need a copy of nearly everything first. */
    cmd_repo_delete(&f->b, 0, "repo");
    assert_int_equal(ask(f), CMD_NO_SPACE);
    for (unsigned k = 0; k < i * 200 && !status_of(f).room; k++) {
        struct digest d = digest_make(DIGEST_SHA256, k);
        cmd_repo_digest(&f->b, CMD_BLOB_UNLINK, 0, "repo", &d);
        propose(f);
        if (k % 200 == 199)
            wait_answers(f, f->answers + (unsigned)status_of(f).waiting);
    }
    wait_answers(f, f->answers + (unsigned)status_of(f).waiting);
    guard_start(f);
    while (!status_of(f).room && !f->overtime)
        uv_run(&f->loop, UV_RUN_ONCE);
    assert_true(status_of(f).room);
    assert_int_equal(link_one(f, 1u << 20), CMD_OK);
    assert_int_equal(f->fatals, 0);
}

/* --- ends of the process --- */

struct shared {
    _Atomic uint64_t acknowledged[4096]; /* 1: link i was answered with CMD_OK */
    _Atomic unsigned proposed;
};

struct child {
    struct fixture *f;
    struct shared *shared;
    unsigned seed;
};

static void child_done(void *arg, enum cmd_status status, uint64_t index, const void *detail,
                       size_t detail_len);

static void child_propose(struct child *child)
{
    struct fixture *f = child->f;
    unsigned n = atomic_fetch_add(&child->shared->proposed, 1);
    if (n >= 4096)
        _exit(0);
    struct digest d = digest_make(DIGEST_SHA256, n);
    struct child *next = malloc(sizeof(*next));
    *next = (struct child){f, child->shared, n};
    cmd_blob_link(&f->b, 0, "repo", &d, 10);
    void *copy = malloc(f->b.w.len);
    memcpy(copy, f->b.buf, f->b.w.len);
    consensus_propose(f->c, copy, f->b.w.len, child_done, next);
}

static void child_done(void *arg, enum cmd_status status, uint64_t index, const void *detail,
                       size_t detail_len)
{
    struct child *child = arg;
    (void)index;
    (void)detail;
    (void)detail_len;
    if (status != CMD_OK)
        _exit(9);
    atomic_store(&child->shared->acknowledged[child->seed], 1);
    child_propose(child);
}

/* Another run of this program: proposes without end, some at a time, until it is killed. */
static int child_main(const char *dir, int fd)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct shared *shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    struct child start = {f, shared, 0};
    CHECK(f && shared != MAP_FAILED);
    alarm(60);
    uv_loop_init(&f->loop);
    f->config = (struct consensus_config){.loop = &f->loop,
                                          .dir = dir,
                                          .map_bytes = 256 << 20,
                                          .reserve_bytes = 1 << 20,
                                          .snapshot_entries = 300,
                                          .segment_bytes = 32 << 10};
    if (open_it(f))
        return 8;
    for (int i = 0; i < 16; i++)
        child_propose(&start);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    return 7;
}

/* A new program, not only a fork: this process has threads. */
static pid_t child_start(struct fixture *f, int fd)
{
    char number[16];
    snprintf(number, sizeof(number), "%d", fd);
    pid_t pid = fork();
    if (pid == 0) {
        execl("/proc/self/exe", "test_consensus", "child", f->dir.path, number, NULL);
        _exit(6);
    }
    return pid;
}

static void test_killed_at_any_point(void **state)
{
    struct fixture *f = *state;
    int fd = memfd_create("shared", 0);
    assert_int_equal(ftruncate(fd, sizeof(struct shared)), 0);
    struct shared *shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    unsigned seed = getenv("FL_SEED") ? (unsigned)atoi(getenv("FL_SEED")) : (unsigned)time(NULL);
    unsigned acknowledged = 0;
    int status;
    print_message("seed %u\n", seed);
    srand(seed);
    for (int round = 0; round < 25; round++) {
        pid_t pid = child_start(f, fd);
        /* Every other one dies while it opens. */
        unsigned before = atomic_load(&shared->proposed);
        for (int ms = 0; round % 2 && ms < 5000 && atomic_load(&shared->proposed) <= before + 16; ms++)
            usleep(1000);
        usleep((useconds_t)rand() % 40000);
        assert_int_equal(kill(pid, SIGKILL), 0);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        /* It may have been through by itself; it may not have failed. */
        assert_true(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
        assert_int_equal(open_it(f), 0);
        acknowledged = 0;
        for (unsigned i = 0; i < 4096; i++) {
            if (!atomic_load(&shared->acknowledged[i]))
                continue;
            acknowledged++;
            assert_true(has_link(f, i));
        }
        close_it(f);
    }
    print_message("%u acknowledged, %u proposed\n", acknowledged, atomic_load(&shared->proposed));
    assert_true(acknowledged > 20);
    munmap(shared, sizeof(*shared));
    close(fd);
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "child") == 0)
        return child_main(argv[2], atoi(argv[3]));
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_first_start_leads_at_once),
        T(test_state_survives_a_restart),
        T(test_refusals),
        T(test_the_cluster_version_gates),
        T(test_settings),
        T(test_many_at_once_share_syncs),
        T(test_too_many_are_refused),
        T(test_close_finishes_what_is_under_way),
        T(test_snapshot_compaction_and_restore),
        T(test_index_is_made),
        T(test_missing_parts_are_refused),
        T(test_full_log_disk),
        T(test_write_that_meets_a_full_disk_is_tried_again),
        T(test_lost_writes_end_the_node),
        T(test_full_state),
        T(test_killed_at_any_point),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
