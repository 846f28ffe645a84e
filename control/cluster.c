/* SPDX-License-Identifier: Apache-2.0 */
#include "control/cluster.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "control/cluster_internal.h"
#include "control/cmd_origin.h"
#include "control/joining.h"
#include "control/journal.h"
#include "control/raft/db.h"
#include "control/settings.h"
#include "control/state/kv_overlay.h"

/* Judges a setting for whoever proposes it. */
static int check_setting(const char *key, size_t key_len, const char *value, size_t value_len, char *err,
                         size_t err_len)
{
    uint64_t parsed;
    int id = setting_find(key, key_len);
    if (id < 0)
        return -ENOENT;
    return value ? setting_parse(id, value, value_len, &parsed, err, err_len) : 0;
}

/* What is about the CA's exchange, or about who takes part in it. */
static void look_at_ca(struct cluster *c, const struct state_event *event)
{
    uint16_t type = event->cmd.head.type;
    if (type == CMD_CA_ROTATE || type == CMD_CA_STEP)
        ca_changed(c, true);
    else if (type == CMD_CA_NODE || (type >= CMD_NODE_ADD && type <= CMD_NODE_RM))
        ca_changed(c, false);
}

static void on_event(void *arg, const struct state_event *event)
{
    struct cluster *c = arg;
    c->config.handlers.event(c->config.arg, event);
    if (event->changed)
        look_at_ca(c, event);
    if (c->mesh)
        forward_applied(c, event->index);
}

static void on_fatal(void *arg, const char *why)
{
    struct cluster *c = arg;
    c->config.handlers.fatal(c->config.arg, why);
}

static void on_reader_stuck(void *arg, unsigned ring)
{
    struct cluster *c = arg;
    c->config.handlers.reader_stuck(c->config.arg, ring);
}

static void on_restored(void *arg, uint64_t index)
{
    struct cluster *c = arg;
    journal_info(c->config.journal, "cluster", "the state came from another node, as it was at entry %llu",
                 (unsigned long long)index);
    if (c->config.handlers.restored)
        c->config.handlers.restored(c->config.arg);
    ca_changed(c, true);
}

static void on_leader(void *arg, uint64_t leader)
{
    struct cluster *c = arg;
    if (!c->mesh)
        return;
    if (leader)
        journal_info(c->config.journal, "cluster", "node %llu leads", (unsigned long long)leader);
    else
        journal_warn(c->config.journal, "cluster", "nobody leads: reads go on, writes wait");
    forward_leader(c, leader);
}

static const struct {
    const char *name, *text;
} causes[] = {
#define ELECTION_CAUSE(symbol, name, text) {name, text},
#include "election_causes.def"
#undef ELECTION_CAUSE
};

static void on_stands(void *arg, enum election_cause why)
{
    const struct cluster *c = arg;
    journal_info(c->config.journal, "cluster", "this node stands for election: %s", causes[why].text);
}

const char *cluster_elections(const struct cluster *c, unsigned i, uint64_t *count)
{
    struct consensus_status s;
    if (i >= ELECTION_CAUSES_COUNT)
        return NULL;
    consensus_status(c->consensus, &s);
    *count = s.elections[i];
    return causes[i].name;
}

void cluster_host(struct cluster *c, uint64_t node, bool silent)
{
    if (!c->mesh || c->closing)
        return;
    journal_info(c->config.journal, "cluster", "the host of node %llu %s", (unsigned long long)node,
                 silent ? "sends no heartbeats any more" : "is heard again");
    consensus_host(c->consensus, node, silent);
}

static void on_source(void *arg, uint64_t manager)
{
    net_source(arg, manager);
}

/*
 * Certificates without a state: it was lost, and with it what this node has promised and acknowledged. A new
 * one under the old name could make a majority forget.
 */
static int refuse_lost_state(const struct cluster *c, char *err, size_t err_len)
{
    if (faccessat(c->dir_fd, PKI_FOLDER "/" PKI_FILE_CERT, F_OK, 0) != 0 ||
        faccessat(c->dir_fd, "raft", F_OK, 0) == 0)
        return 0;
    snprintf(
        err, err_len,
        "%s has the certificates of a node but not its state: restore a backup, or remove the node from its "
        "cluster (`fairlead node rm --force`), delete %s/%s, and let it join again",
        c->config.dir, c->config.dir, PKI_FOLDER);
    return -EUCLEAN;
}

/* As the node that it is, or that this host has just become. */
static int open_consensus(struct cluster *c, char *err, size_t err_len)
{
    struct pki_name name;
    struct consensus_identity identity;
    struct consensus_config inner = {
        .loop = c->config.loop,
        .dir = c->config.dir,
        .epochs = c->config.epochs,
        .settings = {.check = check_setting},
        .transport = &(struct consensus_transport){.send = net_send, .arg = c},
        .event = on_event,
        .restored = on_restored,
        .leader = on_leader,
        .stands = on_stands,
        .source = on_source,
        .fatal = on_fatal,
        .reader_stuck = on_reader_stuck,
        .arg = c,
    };
    int joins = joining_begin(c->dir_fd, &name, err);
    if (joins < 0)
        return joins;
    if (!joins && refuse_lost_state(c, err, err_len))
        return -EUCLEAN;
    if (joins) {
        identity.node_id = name.node_id;
        memcpy(identity.cluster_id, name.cluster_id, sizeof(identity.cluster_id));
        inner.join = &identity;
    }
    int rc = consensus_open(&inner, &c->consensus, err, err_len);
    return rc || !joins ? rc : joining_finish(c->dir_fd, err);
}

static void cluster_free(struct cluster *c)
{
    if (c->dir_fd >= 0)
        close(c->dir_fd);
    free(c->names_path);
    free(c);
}

static void on_ended(struct cluster *c)
{
    void (*closed)(void *) = c->closed;
    void *closed_arg = c->closed_arg;
    cluster_free(c);
    if (closed)
        closed(closed_arg);
}

static void on_net_closed(struct cluster *c)
{
    pki_end(c, on_ended);
}

static void on_consensus_closed(void *arg)
{
    net_close(arg, on_net_closed);
}

static void on_undone(void *arg)
{
    *(bool *)arg = true;
}

/* After a start that failed half way: what was opened needs the loop to close. */
static void undo(struct cluster *c)
{
    bool undone = false;
    uv_loop_t *loop = c->config.loop;
    cluster_close(c, on_undone, &undone);
    while (!undone)
        uv_run(loop, UV_RUN_ONCE);
}

int cluster_open(const struct cluster_config *config, struct cluster **out, char *err, size_t err_len)
{
    struct cluster *c = calloc(1, sizeof(*c));
    CHECK(c && err_len >= PKI_ERR_MAX);
    c->config = *config;
    CHECK(asprintf(&c->names_path, "%s/%s", config->dir, db_file_name(DB_NAMES)) > 0);
    c->dir_fd = open(config->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (c->dir_fd < 0) {
        int rc = -errno;
        snprintf(err, err_len, "%s: %s", config->dir, strerror(-rc));
        cluster_free(c);
        return rc;
    }
    int rc = open_consensus(c, err, err_len);
    if (rc == 0)
        rc = net_open(c, err, err_len);
    if (rc == 0) {
        *out = c;
        return 0;
    }
    if (c->consensus)
        undo(c);
    else
        cluster_free(c);
    return rc;
}

void cluster_propose(struct cluster *c, void *cmd, size_t len, cluster_done done, void *arg)
{
    struct consensus_status s;
    consensus_status(c->consensus, &s);
    cmd = cmd_origin_set(cmd, &len, s.node_id);
    if (c->mesh)
        forward_propose(c, cmd, len, done, arg);
    else
        consensus_propose(c->consensus, cmd, len, done, arg);
}

static int try_on(struct kv *kv, const void *cmd, size_t len, struct cluster_trial *out)
{
    struct state_event *event = malloc(sizeof(*event));
    struct kv_overlay overlay;
    CHECK(event);
    kv_overlay_init(&overlay, kv);
    const struct state_tx tx = {.kv = &overlay.kv};
    int result = state_apply(&tx, UINT64_MAX, cmd, len, event);
    if (result == 0) {
        out->status = event->status;
        snprintf(out->detail, sizeof(out->detail), "%.*s", (int)event->detail_len,
                 (const char *)event->detail);
        result = state_services_read(&overlay.kv, &out->after);
    }
    kv_overlay_fini(&overlay);
    free(event);
    return result;
}

int cluster_try(struct cluster *c, const void *cmd, size_t len, struct cluster_trial *out)
{
    const struct state_setting_check settings = {.check = check_setting};
    struct kv *kv;
    *out = (struct cluster_trial){.status = CMD_OK};
    out->status = state_check(cmd, len, &settings, out->detail, sizeof(out->detail));
    if (out->status != CMD_OK)
        return 0;
    struct db_view *view = consensus_view_begin(c->consensus, &kv);
    if (!view)
        return -ENOMEM;
    int result = try_on(kv, cmd, len, out);
    consensus_view_end(view);
    return result;
}

void cluster_status(const struct cluster *c, struct cluster_status *out)
{
    struct consensus_status in;
    consensus_status(c->consensus, &in);
    *out = (struct cluster_status){
        .leads = in.leads,
        .writable = in.leader_id != 0 && in.room,
        .room = in.room,
        .node_id = in.node_id,
        .leader_id = in.leader_id,
        .alone = !c->mesh,
        .term = in.term,
        .last_index = in.last_index,
        .commit_index = in.commit_index,
        .applied_index = in.applied_index,
        .snapshot_index = in.snapshot_index,
        .log_bytes = in.log_bytes,
        .silence_ms = in.silence_ms,
        .proposals = in.proposals,
        .fsyncs = in.fsyncs,
        .fsync_us_sum = in.fsync_us_sum,
        .names_bytes = in.names_bytes,
        .private_bytes = in.private_bytes,
        .index_rows = in.index_rows,
        .index_whole = in.index_whole,
        .followers = in.followers,
    };
    memcpy(out->cluster_id, in.cluster_id, sizeof(out->cluster_id));
    net_count(c, &out->others, &out->connected);
}

void cluster_set_snapshot_entries(struct cluster *c, uint64_t entries)
{
    consensus_set_snapshot_entries(c->consensus, entries);
}

const char *cluster_names_path(const struct cluster *c)
{
    return c->names_path;
}

int cluster_each_setting(struct cluster *c, cluster_setting each, void *arg)
{
    return consensus_setting_each(c->consensus, each, arg);
}

/* Hands over a row. False: it is of another kind than the walk is about, which ends. */
typedef bool (*walk_row)(void *arg, struct kv_bytes key, struct kv_bytes value);

/* Walks at most limit rows of a database from `from` on. Returns how many, or -errno. */
static int walk(struct kv *kv, enum names_db db, struct kv_bytes from, bool after, size_t limit, walk_row row,
                void *arg)
{
    uint8_t at[NAMES_KEY_MAX];
    size_t count = 0;
    while (count < limit) {
        struct kv_bytes key, value;
        int err = kv_seek(kv, db, from, after, &key, &value);
        if (err == -ENOENT)
            break;
        if (err)
            return err;
        if (key.len > sizeof(at))
            return -EUCLEAN;
        memcpy(at, key.data, key.len);
        if (!row(arg, key, value))
            break;
        from = (struct kv_bytes){at, key.len};
        after = true;
        count++;
    }
    return (int)count;
}

struct repo_walk {
    cluster_repo each;
    void *arg;
};

static bool on_repo_row(void *arg, struct kv_bytes key, struct kv_bytes value)
{
    const struct repo_walk *w = arg;
    struct names_repo repo;
    if (value.len != sizeof(repo))
        return false;
    memcpy(&repo, value.data, sizeof(repo));
    w->each(w->arg, key.data, key.len, &repo);
    return true;
}

int cluster_each_repo(struct cluster *c, const char *after, size_t limit, cluster_repo each, void *arg)
{
    struct repo_walk w = {each, arg};
    struct kv *kv;
    size_t len = strlen(after);
    if (len > NAMES_KEY_MAX)
        return 0; /* no name is behind one that is too long to be one */
    struct db_view *view = consensus_view_begin(c->consensus, &kv);
    if (!view)
        return -ENOMEM;
    /* A key may not be empty: the NUL of "" is a key below every name. */
    int result =
        walk(kv, NAMES_REPOS, (struct kv_bytes){after, len ? len : 1}, len > 0, limit, on_repo_row, &w);
    consensus_view_end(view);
    return result;
}

struct tag_walk {
    cluster_tag each;
    void *arg;
    const char *repo;
    size_t repo_len;
};

static bool on_tag_row(void *arg, struct kv_bytes key, struct kv_bytes value)
{
    const struct tag_walk *w = arg;
    struct names_tag tag;
    const char *text = key.data;
    if (key.len <= w->repo_len || memcmp(text, w->repo, w->repo_len + 1) != 0 || value.len != sizeof(tag))
        return false;
    memcpy(&tag, value.data, sizeof(tag));
    w->each(w->arg, text + w->repo_len + 1, key.len - w->repo_len - 1, &tag);
    return true;
}

int cluster_each_tag(struct cluster *c, const char *repo, const char *after, size_t limit, cluster_tag each,
                     void *arg)
{
    struct tag_walk w = {each, arg, repo, strlen(repo)};
    uint8_t from[NAMES_KEY_MAX];
    size_t from_len = names_key(from, repo, w.repo_len, after, strlen(after));
    struct kv_bytes row;
    struct kv *kv;
    if (from_len == 0)
        return w.repo_len > REPO_NAME_MAX ? -ENOENT : 0;
    struct db_view *view = consensus_view_begin(c->consensus, &kv);
    if (!view)
        return -ENOMEM;
    int result = kv_get(kv, NAMES_REPOS, (struct kv_bytes){repo, w.repo_len}, &row);
    if (!result)
        result =
            walk(kv, NAMES_TAGS, (struct kv_bytes){from, from_len}, *after != '\0', limit, on_tag_row, &w);
    consensus_view_end(view);
    return result;
}

struct blob_walk {
    cluster_blob_each each;
    void *arg;
};

static bool on_blob_row(void *arg, struct kv_bytes key, struct kv_bytes value)
{
    const struct blob_walk *w = arg;
    struct names_blob blob;
    struct digest digest;
    return digest_unpack(key.data, key.len, &digest) == key.len &&
           names_blob_read(value.data, value.len, &blob) && w->each(w->arg, &digest, &blob);
}

int cluster_walk_blobs(struct cluster *c, const struct digest *after, size_t limit, cluster_blob_each each,
                       void *arg)
{
    struct blob_walk w = {each, arg};
    uint8_t from[DIGEST_PACKED_MAX] = {0}; /* below every digest */
    struct kv *kv;
    struct db_view *view = consensus_view_begin(c->consensus, &kv);
    if (!view)
        return -ENOMEM;
    size_t len = after ? digest_pack(after, from) : 1;
    int result = walk(kv, NAMES_BLOBS, (struct kv_bytes){from, len}, after != NULL, limit, on_blob_row, &w);
    consensus_view_end(view);
    return result;
}

struct size_walk {
    cluster_blob_row each;
    void *arg;
};

static bool on_blob_size(void *arg, const struct digest *digest, const struct names_blob *blob)
{
    const struct size_walk *w = arg;
    w->each(w->arg, digest, blob->size);
    return true;
}

int cluster_each_blob(struct cluster *c, const struct digest *after, size_t limit, cluster_blob_row each,
                      void *arg)
{
    struct size_walk w = {each, arg};
    return cluster_walk_blobs(c, after, limit, on_blob_size, &w);
}

int cluster_blob(struct cluster *c, const struct digest *digest, struct names_blob *out)
{
    uint8_t key[DIGEST_PACKED_MAX];
    struct kv_bytes row;
    struct kv *kv;
    struct db_view *view = consensus_view_begin(c->consensus, &kv);
    if (!view)
        return -ENOMEM;
    int result = kv_get(kv, NAMES_BLOBS, (struct kv_bytes){key, digest_pack(digest, key)}, &row);
    if (!result && !names_blob_read(row.data, row.len, out))
        result = -EUCLEAN;
    consensus_view_end(view);
    return result;
}

struct db_view *cluster_view_begin(struct cluster *c, struct kv **kv)
{
    return consensus_view_begin(c->consensus, kv);
}

void cluster_view_end(struct db_view *view)
{
    consensus_view_end(view);
}

int cluster_totals(struct cluster *c, struct names_totals *out)
{
    struct kv *kv;
    struct db_view *view = consensus_view_begin(c->consensus, &kv);
    if (!view)
        return -ENOMEM;
    int result = state_totals_read(kv, out);
    consensus_view_end(view);
    return result;
}

int cluster_services(struct cluster *c, struct svc_table *out)
{
    struct kv *kv;
    struct db_view *view = consensus_view_begin(c->consensus, &kv);
    if (!view)
        return -ENOMEM;
    int result = state_services_read(kv, out);
    consensus_view_end(view);
    return result;
}

int cluster_copy_names(struct cluster *c, int fd)
{
    return consensus_copy(c->consensus, DB_NAMES, fd);
}

int cluster_copy_private(struct cluster *c, int fd)
{
    return consensus_copy(c->consensus, DB_PRIVATE, fd);
}

int cluster_nodes(struct cluster *c, struct node_table *out)
{
    struct kv *kv;
    struct db_view *view = consensus_view_begin(c->consensus, &kv);
    if (!view)
        return -ENOMEM;
    int result = state_nodes_read(kv, out);
    consensus_view_end(view);
    return result;
}

int cluster_held(struct cluster *c, uint32_t wanted, state_living *living, void *arg, struct state_held *out)
{
    struct kv *kv;
    struct db_view *view = consensus_view_begin(c->consensus, &kv);
    if (!view)
        return -ENOMEM;
    int result = state_held_read(kv, wanted, living, arg, out);
    consensus_view_end(view);
    return result;
}

int cluster_tokens(struct cluster *c, struct node_tokens *out)
{
    struct kv *kv;
    struct db_view *view = consensus_view_begin(c->consensus, &kv);
    if (!view)
        return -ENOMEM;
    int result = state_tokens_read(kv, out);
    consensus_view_end(view);
    return result;
}

void cluster_set_certificate_life(struct cluster *c, uint64_t life_ms)
{
    c->certificate_life_s = (uint32_t)(life_ms / 1000);
}

void cluster_close(struct cluster *c, void (*closed)(void *arg), void *arg)
{
    c->closing = true;
    join_stop(c);
    c->closed = closed;
    c->closed_arg = arg;
    if (c->mesh)
        forward_stop(c);
    consensus_close(c->consensus, on_consensus_closed, c);
}
