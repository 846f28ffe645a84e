/* SPDX-License-Identifier: Apache-2.0 */
#include "control/daemon_repair.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "control/daemon_blobs.h"
#include "control/daemon_disks.h"
#include "control/events.h"
#include "control/node_view.h"
#include "control/nodes.h"
#include "control/state/stores.h"
#include "placement.h"

#define FILE_NAME     "repair"
#define FILE_NAME_NEW "repair.new"

enum {
    REPAIR_MAGIC = 0x31505246, /* "FRP1" */
    REPAIR_VERSION = 1,
    LOOK_MS = 1000,     /* between two looks at who is there ... */
    LOOK_MAX_MS = 5000, /* ... of thousands of replicas */
    STATS_MS = 2,       /* so long a tick may wait for the file system */
    DISOWNED_MAX = 64,  /* commands under way */
    CHECK_MS = 5000,    /* after one of them that was not taken */
};

/* STATE/repair. */
struct repair_file {
    uint32_t magic, version;
    uint64_t balanced;
};

_Static_assert(sizeof(struct repair_file) == 16, "on disk");

/* A replica that this node does not hear, or whose store fails. */
struct silent {
    uint64_t id, since_ms; /* of the loop's clock */
};

struct daemon_repair {
    struct repair *repair;
    uv_timer_t timer;
    struct silent *silent; /* by id */
    size_t silent_count;
    struct repair_node *node; /* of the view */
    size_t node_cap;
    struct repair_view view;
    uint64_t actor;        /* the node that acts for this one's store: the first that is there; 0: none is */
    uint64_t look_ms;      /* the next look */
    uint64_t stats_end_ns; /* until then files may be looked at */
    unsigned disowning;    /* commands that say that this node holds something no more */
    uint64_t check_ms;     /* then all is looked at again, since one of them was not taken; 0: never */
};

/* ------------------------------------------------------------------ who is there */

static uint64_t setting(struct daemon *d, enum setting_id id)
{
    enum setting_source source;
    return setting_effective(&d->settings, id, &source);
}

static bool is_silent(struct daemon *d, const struct node *n)
{
    struct node_view view;
    node_view(d, n, &view);
    return node_state_is_down(view.verdict.state) || view.verdict.state == NODE_STATE_JOINING ||
           n->store_state == NODE_STORE_FAILING;
}

static uint64_t silent_since(const struct daemon_repair *r, uint64_t id, uint64_t now_ms)
{
    for (size_t i = 0; i < r->silent_count && r->silent[i].id <= id; i++)
        if (r->silent[i].id == id)
            return r->silent[i].since_ms;
    return now_ms;
}

/* Managers look, each for itself: whoever comes to lead knows for how long. */
static void look_for_silent(struct daemon *d, const struct node_table *t)
{
    struct daemon_repair *r = d->repair;
    uint64_t now_ms = uv_now(&d->loop);
    struct silent *list = calloc(t->count + 1, sizeof(*list));
    size_t count = 0;
    CHECK(list);
    for (size_t i = 0; i < t->count; i++) {
        const struct node *n = &t->node[i];
        if (!n->replica || !is_silent(d, n))
            continue;
        list[count++] = (struct silent){n->id, silent_since(r, n->id, now_ms)};
    }
    free(r->silent);
    r->silent = list;
    r->silent_count = count;
}

static void say_silent(struct daemon *d)
{
    const struct daemon_repair *r = d->repair;
    uint64_t now_ms = uv_now(&d->loop), grace_ms = setting(d, SET_REPAIR_GRACE);
    struct cluster_absent *list = calloc(r->silent_count + 1, sizeof(*list));
    CHECK(list);
    for (size_t i = 0; i < r->silent_count; i++)
        list[i] = (struct cluster_absent){.id = r->silent[i].id,
                                          .gone = now_ms - r->silent[i].since_ms >= grace_ms};
    cluster_say_absent(d->cluster, list, r->silent_count);
    free(list);
}

/* What was held in a store that is gone counts until the node has said, blob by blob, that it is not. */
static enum repair_presence presence_of(const struct node *n, const struct cluster_absent *a)
{
    if (n->availability == NODE_DRAIN || (a && a->gone))
        return REPAIR_OUT;
    return a || n->store_state != NODE_STORE_WELL ? REPAIR_AWAY : REPAIR_UP;
}

/* A holder is there as long as one of its nodes is. Ids ascend; the numbers of stores come behind all of
 * them, where they are put in order. */
static void view_add(struct daemon_repair *r, size_t *count, uint64_t holder, enum repair_presence presence)
{
    size_t at = *count;
    for (size_t i = *count; holder & STORES_NUMBER && i > 0 && r->node[i - 1].id >= holder; i--) {
        at = i - 1;
        if (r->node[at].id != holder)
            continue;
        if (presence < r->node[at].presence)
            r->node[at].presence = (uint8_t)presence;
        return;
    }
    memmove(r->node + at + 1, r->node + at, (*count - at) * sizeof(*r->node));
    r->node[at] = (struct repair_node){.id = holder, .presence = (uint8_t)presence};
    ++*count;
}

static void view_make(struct daemon *d, const struct node_table *t, uint64_t self)
{
    struct daemon_repair *r = d->repair;
    const struct cluster_absent *list;
    const struct node *me = node_find(t, self);
    size_t absent, at = 0, count = 0;
    r->view = (struct repair_view){.self = 0};
    r->actor = 0;
    if (cluster_absent(d->cluster, &list, &absent))
        return;
    if (t->count > r->node_cap) {
        free(r->node);
        r->node = calloc(t->count, sizeof(*r->node));
        CHECK(r->node);
        r->node_cap = t->count;
    }
    for (size_t i = 0; i < t->count; i++) {
        const struct node *n = &t->node[i];
        if (!n->replica)
            continue;
        while (at < absent && list[at].id < n->id)
            at++;
        bool is_absent = at < absent && list[at].id == n->id;
        enum repair_presence presence = presence_of(n, is_absent ? &list[at] : NULL);
        if (n == me && presence == REPAIR_UP && daemon_disks_said(d) != NODE_STORE_WELL)
            presence = REPAIR_AWAY; /* its row says so in a moment */
        view_add(r, &count, stores_holder(n), presence);
        if (!r->actor && presence == REPAIR_UP && me && stores_holder(n) == stores_holder(me))
            r->actor = n->id;
    }
    r->view = (struct repair_view){.self = daemon_blobs_counts(d, self) ? stores_holder(me) : 0,
                                   .wanted = placement_wanted(t->cluster.copies, stores_count(t)),
                                   .count = count,
                                   .node = r->node};
}

static void look(struct daemon *d, const struct cluster_status *status)
{
    struct daemon_repair *r = d->repair;
    const struct node_table *t = nodes_table(d->nodes);
    const struct node *me = node_find(t, status->node_id);
    uint64_t wait_ms = LOOK_MS + t->count;
    r->look_ms = uv_now(&d->loop) + (wait_ms < LOOK_MAX_MS ? wait_ms : LOOK_MAX_MS);
    if (me && me->role == NODE_MANAGER)
        look_for_silent(d, t);
    if (status->leads)
        say_silent(d);
    view_make(d, t, status->node_id);
}

static void on_timer(uv_timer_t *timer)
{
    struct daemon *d = timer->data;
    struct daemon_repair *r = d->repair;
    struct cluster_status status;
    cluster_status(d->cluster, &status);
    if (uv_now(&d->loop) >= r->look_ms)
        look(d, &status);
    bool missing = d->folders.shared && daemon_disks_store_is_gone(d); /* not for those that have it, too */
    bool acts = (!r->actor || r->actor == status.node_id) && !missing;
    bool known = r->view.self && acts && status.writable && d->phase == DAEMON_SERVING;
    if (r->check_ms && uv_now(&d->loop) >= r->check_ms)
        daemon_repair_check(d);
    r->stats_end_ns = uv_hrtime() + STATS_MS * 1000000ull;
    repair_tick(r->repair, uv_now(&d->loop), known ? &r->view : NULL, setting(d, SET_REPAIR_RATE));
}

/* ------------------------------------------------------------------ what repair asks for */

struct walking {
    struct daemon *d;
    repair_row row;
    void *arg;
};

/* Repair knows holders, and not by how many nodes each of them is one. */
static bool on_walked(void *arg, const struct digest *digest, const struct names_blob *blob)
{
    const struct walking *w = arg;
    struct names_blob folded = *blob;
    stores_fold_blob(nodes_table(w->d->nodes), &folded);
    return w->row(w->arg, digest, &folded);
}

static int on_walk(void *arg, const struct digest *after, size_t limit, repair_row row, void *row_arg)
{
    struct walking walking = {arg, row, row_arg};
    return cluster_walk_blobs(walking.d->cluster, after, limit, on_walked, &walking);
}

static int on_row(void *arg, const struct digest *digest, struct names_blob *out)
{
    struct daemon *d = arg;
    int err = cluster_blob(d->cluster, digest, out);
    if (err == 0)
        stores_fold_blob(nodes_table(d->nodes), out);
    return err;
}

struct holding {
    struct daemon *d;
    repair_lives lives;
    void *arg;
};

static uint64_t on_living(void *arg, uint64_t holder)
{
    const struct holding *h = arg;
    uint64_t folded = stores_fold(nodes_table(h->d->nodes), holder);
    return h->lives(h->arg, folded) ? folded : 0;
}

static int on_held(void *arg, uint32_t wanted, repair_lives lives, void *lives_arg, struct state_held *out)
{
    struct holding holding = {arg, lives, lives_arg};
    return cluster_held(holding.d->cluster, wanted, on_living, &holding, out);
}

struct saying {
    repair_said said;
    void *arg;
};

static void on_said(void *arg, enum cmd_status status, uint64_t index, const void *detail, size_t detail_len)
{
    struct saying s = *(struct saying *)arg;
    (void)index, (void)detail, (void)detail_len;
    free(arg);
    s.said(s.arg, status);
}

static void on_say(void *arg, const struct digest *digest, const struct repair_choice *choice,
                   repair_said said, void *said_arg)
{
    struct daemon *d = arg;
    struct saying *s = malloc(sizeof(*s));
    CHECK(s);
    *s = (struct saying){said, said_arg};
    struct stores_saying say = {choice->gained, choice->lost, choice->needed};
    struct names_blob row;
    if (cluster_blob(d->cluster, digest, &row) == 0)
        stores_unfold(nodes_table(d->nodes), &row, &say);
    const struct blob_copies copies = {
        .digest = digest, .gained = &say.gained, .lost = &say.lost, .needed = &say.needed};
    daemon_blobs_say(d, REPAIR_SOURCE, &copies, on_said, s);
}

static int on_is_here(void *arg, const struct digest *digest, uint64_t size)
{
    struct daemon *d = arg;
    if (uv_hrtime() >= d->repair->stats_end_ns)
        return -EAGAIN;
    return daemon_blobs_has_file(d, digest, size);
}

static void on_disowned(void *arg, enum cmd_status status, uint64_t index, const void *detail,
                        size_t detail_len)
{
    struct daemon *d = arg;
    struct daemon_repair *r = d->repair;
    (void)index, (void)detail, (void)detail_len;
    r->disowning--;
    if (status != CMD_OK && status != CMD_BLOB_UNKNOWN && !r->check_ms)
        r->check_ms = uv_now(&d->loop) + CHECK_MS;
}

/* The whole store is gone: nobody is asked for one blob after the other, but for a while that it comes back.
 * One that is shared is given up by nobody: it may be this node's mount alone that is gone. */
static bool disown(struct daemon *d, const struct digest *digest)
{
    struct cluster_status status;
    cluster_status(d->cluster, &status);
    if (d->folders.shared || !daemon_disks_store_is_given_up(d) || !status.writable ||
        d->repair->disowning >= DISOWNED_MAX)
        return false;
    const struct cmd_holders none = {.count = 0},
                             self = {.count = 1, .id = {daemon_blobs_holder(d, status.node_id)}};
    const struct blob_copies copies = {.digest = digest, .gained = &none, .lost = &self, .needed = &none};
    d->repair->disowning++;
    daemon_blobs_say(d, REPAIR_SOURCE, &copies, on_disowned, d);
    return true;
}

static bool on_missing(void *arg, const struct digest *digest, uint64_t size)
{
    struct daemon *d = arg;
    if (daemon_disks_store_is_gone(d))
        return disown(d, digest);
    if (!damage_has_room(d->blobs->damage))
        return false;
    daemon_blobs_found(d, digest, size, JOB_MISSING);
    return true;
}

static void on_tell(void *arg, const char *kind, const char *text)
{
    struct daemon *d = arg;
    journal_info(d->journal, "repair", "%s: %s", kind, text);
    events_note(d->events, kind, text);
}

/* A disk that does not take it costs a walk. */
static void on_balanced(void *arg, uint64_t balanced)
{
    struct daemon *d = arg;
    const struct repair_file file = {.magic = REPAIR_MAGIC, .version = REPAIR_VERSION, .balanced = balanced};
    int fd = openat(d->folders.state_fd, FILE_NAME_NEW, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW,
                    0640);
    if (fd < 0)
        return;
    bool written = write(fd, &file, sizeof(file)) == (ssize_t)sizeof(file);
    close(fd);
    if (written)
        (void)renameat(d->folders.state_fd, FILE_NAME_NEW, d->folders.state_fd, FILE_NAME);
}

static uint64_t load_balanced(const struct daemon *d)
{
    struct repair_file file;
    int fd = openat(d->folders.state_fd, FILE_NAME, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return 0;
    ssize_t n = read(fd, &file, sizeof(file));
    close(fd);
    return n == (ssize_t)sizeof(file) && file.magic == REPAIR_MAGIC && file.version == REPAIR_VERSION
               ? file.balanced
               : 0;
}

bool daemon_repair_spares(const struct daemon *d, const struct digest *digest, const struct names_blob *blob)
{
    const struct daemon_repair *r = d->repair;
    struct names_blob folded = *blob;
    stores_fold_blob(nodes_table(d->nodes), &folded);
    return r->view.self ? repair_is_spare(r->repair, digest, &folded)
                        : repair_spares(&r->view, digest, &folded);
}

/* ------------------------------------------------------------------ what is shown */

void daemon_repair_tick(struct daemon *d)
{
    struct control_counters *out = &d->memory.counters->control;
    struct repair_status s;
    repair_status(d->repair->repair, &s);
    atomic_store_explicit(&out->repair_endangered, s.endangered, memory_order_relaxed);
    atomic_store_explicit(&out->repair_endangered_bytes, s.endangered_bytes, memory_order_relaxed);
    atomic_store_explicit(&out->repair_lost, s.lost, memory_order_relaxed);
    atomic_store_explicit(&out->repair_surplus, s.surplus, memory_order_relaxed);
    atomic_store_explicit(&out->repair_copied, s.copied, memory_order_relaxed);
    atomic_store_explicit(&out->repair_copied_bytes, s.copied_bytes, memory_order_relaxed);
    atomic_store_explicit(&out->repair_let_go, s.let_go, memory_order_relaxed);
    atomic_store_explicit(&out->repair_failed, s.failed, memory_order_relaxed);
}

static json_t *number(uint64_t value)
{
    return json_integer((json_int_t)value);
}

json_t *daemon_repair_json(const struct daemon *d)
{
    const struct daemon_repair *r = d->repair;
    struct cluster_status status;
    struct repair_status s;
    cluster_status(d->cluster, &status);
    repair_status(r->repair, &s);
    if (r->view.self & STORES_NUMBER && r->actor && r->actor != status.node_id)
        s.state = "elsewhere"; /* another node that has the same store does it */
    return json_pack("{s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:s}", "state", s.state,
                     "endangered", number(s.endangered), "endangered_bytes", number(s.endangered_bytes),
                     "lost", number(s.lost), "surplus", number(s.surplus), "copied", number(s.copied),
                     "copied_bytes", number(s.copied_bytes), "let_go", number(s.let_go), "failed",
                     number(s.failed), "under_way", number(s.under_way), "failure", s.failure);
}

/* ------------------------------------------------------------------ life */

void daemon_repair_open(struct daemon *d)
{
    struct daemon_repair *r = calloc(1, sizeof(*r));
    CHECK(r && uv_timer_init(&d->loop, &r->timer) == 0);
    d->repair = r;
    r->timer.data = d;
    r->repair = repair_new(&(struct repair_config){.jobs = d->jobs,
                                                   .walk = on_walk,
                                                   .row = on_row,
                                                   .held = on_held,
                                                   .say = on_say,
                                                   .is_here = on_is_here,
                                                   .missing = on_missing,
                                                   .tell = on_tell,
                                                   .balanced = load_balanced(d),
                                                   .set_balanced = on_balanced,
                                                   .arg = d});
    uv_timer_start(&r->timer, on_timer, REPAIR_TICK_MS, REPAIR_TICK_MS);
}

void daemon_repair_check(struct daemon *d)
{
    d->repair->check_ms = 0;
    repair_check(d->repair->repair);
}

void daemon_repair_close(struct daemon *d)
{
    repair_stop(d->repair->repair);
    uv_close((uv_handle_t *)&d->repair->timer, NULL);
}

void daemon_repair_free(struct daemon *d)
{
    repair_free(d->repair->repair);
    free(d->repair->silent);
    free(d->repair->node);
    free(d->repair);
}
