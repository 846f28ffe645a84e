/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The garbage collection against everything that may come in between: two nodes that apply one log at their
 * own pace, clients that push, mount, name, delete and move tags step by step, two that drive the collection,
 * removers of files, and ends of either process at any step. What may never be: a manifest that names what
 * has gone; a client that did everything right and is told that something is unknown; an acknowledged
 * manifest without its file. And at the end nothing is left that nothing names.
 *
 * FAIRLEAD_TEST_SEED repeats one world; FAIRLEAD_TEST_SEEDS and FAIRLEAD_TEST_FROM look for new failures.
 * One that finds something goes into `kept`.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "cmd_build.h"
#include "control/gc_walk.h"
#include "control/state/state.h"
#include "kv_memory.h"

enum {
    NODES_MOST = 2,
    REPOS = 2,
    BLOBS = 4,
    MANIFESTS = 4, /* digests behind the blobs' */
    THINGS = BLOBS + MANIFESTS,
    CLIENTS = 4,
    FLIGHT_MAX = 32,
    LOG_MAX = 4096,
    COMMAND_MAX = 8192,
    STEPS = 500,
    FLIGHT_MS = 40, /* by then a command is committed, or never will be ... */
    AGE_MS = 50,    /* ... and a file so young may be about to be linked */
    SIZE = 100,
};

static const char *const repo_names[REPOS] = {"a", "a/b"};

static const uint64_t kept[] = {232, 2849, 11287};

enum who { WHO_NOBODY, WHO_CLIENT, WHO_GC };

struct command {
    uint8_t buf[COMMAND_MAX];
    size_t len;
    uint64_t since_ms;
    enum who who;
    int node, slot;
    unsigned life; /* of who asked */
};

enum client_state {
    IDLE,
    NEXT_BLOB,
    HELD,
    LINKING,
    KEEPING,
    MOUNTING,
    NAME,
    NAME_HELD,
    PUTTING,
    PUT_KEEPING,
    DELETING
};

struct client {
    enum client_state state;
    int node, repo, d, want[3], count, at, tag, tries;
    int got_gone[3]; /* deletions in the repository by when it knew that it is there */
    bool behind;     /* it asked a node that was behind: without a read lease */
    uint64_t since_ms;
    unsigned life;
};

struct host {
    struct kv_memory m;
    size_t applied;
    bool file[THINGS];
    uint64_t file_ms[THINGS];
    int pins[THINGS];
    /* The remover: what it looks at, after it has closed its place. */
    int removing;
    struct gc_walk walk;
    bool walking, waiting;
    unsigned gc_life;
    uint64_t done_index;
    int gone[REPOS][THINGS]; /* how often a user removed it, as far as is known here */
};

struct world {
    uint64_t random, now_ms, grace_ms, untagged_ms, seed;
    int nodes;
    struct host node[NODES_MOST];
    struct command *log[LOG_MAX];
    size_t log_count;
    struct command *flight[FLIGHT_MAX];
    int flight_count;
    struct client client[CLIENTS];
    struct state_event *ev;
    uint64_t done; /* manifests that were pushed */
};

static unsigned pick(struct world *w, unsigned n)
{
    w->random ^= w->random << 13;
    w->random ^= w->random >> 7;
    w->random ^= w->random << 17;
    return (unsigned)(w->random >> 33) % n;
}

static struct digest digest_of(int d)
{
    return digest_make(DIGEST_SHA256, (unsigned)d + 1);
}

static int thing_of(const struct digest *digest)
{
    for (int d = 0; d < THINGS; d++) {
        struct digest x = digest_of(d);
        if (digest_equal(&x, digest))
            return d;
    }
    return -1;
}

/* ------------------------------------------------------------------ rows */

static bool row(struct host *n, unsigned db, const uint8_t *key, size_t len, struct kv_bytes *v)
{
    return kv_get(&n->m.kv, db, (struct kv_bytes){key, len}, v) == 0;
}

static bool repo_row(struct host *n, unsigned db, int repo, int d)
{
    uint8_t key[NAMES_KEY_MAX];
    struct digest digest = digest_of(d);
    struct kv_bytes v;
    return row(n, db, key, names_key_digest(key, repo_names[repo], strlen(repo_names[repo]), &digest), &v);
}

static uint8_t mark_step(struct host *n, int repo, int d, uint8_t kind)
{
    uint8_t key[NAMES_KEY_MAX];
    struct digest digest = digest_of(d);
    struct names_mark mark;
    struct kv_bytes v;
    size_t len = kind ? names_key_mark(key, repo_names[repo], strlen(repo_names[repo]), kind, &digest)
                      : names_key_mark_blob(key, &digest);
    if (!row(n, NAMES_MARKS, key, len, &v))
        return 0;
    memcpy(&mark, v.data, sizeof(mark));
    return mark.step;
}

static bool blob_row(struct host *n, int d, struct names_blob *blob)
{
    uint8_t key[DIGEST_PACKED_MAX];
    struct digest digest = digest_of(d);
    struct kv_bytes v;
    return row(n, NAMES_BLOBS, key, digest_pack(&digest, key), &v) && names_blob_read(v.data, v.len, blob);
}

static bool any_file(struct world *w, int d)
{
    bool any = false;
    for (int n = 0; n < w->nodes; n++)
        any |= w->node[n].file[d];
    return any;
}

/* ------------------------------------------------------------------ commands */

static void propose(struct world *w, const struct wire_writer *made, enum who who, int node, int slot,
                    unsigned life)
{
    struct command *c = calloc(1, sizeof(*c));
    assert_true(made->len <= sizeof(c->buf) && !made->failed && w->flight_count < FLIGHT_MAX);
    memcpy(c->buf, made->buf, made->len);
    c->len = made->len;
    c->since_ms = w->now_ms;
    c->who = who;
    c->node = node;
    c->slot = slot;
    c->life = life;
    w->flight[w->flight_count++] = c;
}

static void client_propose(struct world *w, struct client *c, const struct cmd_build *b,
                           enum client_state state)
{
    c->state = state;
    propose(w, &b->w, WHO_CLIENT, c->node, (int)(c - w->client), c->life);
}

static void commit(struct world *w, int i)
{
    struct command *c = w->flight[i];
    w->flight[i] = w->flight[--w->flight_count];
    memcpy(c->buf + CMD_TIME_OFFSET, &w->now_ms, sizeof(w->now_ms));
    assert_true(w->log_count < LOG_MAX);
    w->log[w->log_count++] = c;
}

static void lose(struct world *w, int i)
{
    struct command *c = w->flight[i];
    w->flight[i] = w->flight[--w->flight_count];
    if (c->who == WHO_CLIENT && w->client[c->slot].life == c->life) {
        struct client *client = &w->client[c->slot];
        bool pinned = client->state == LINKING || client->state == KEEPING || client->state == PUTTING ||
                      client->state == PUT_KEEPING;
        if (pinned)
            w->node[client->node].pins[client->d]--;
        client->state = IDLE;
        client->life++;
    } else if (c->who == WHO_GC && w->node[c->node].gc_life == c->life) {
        gc_walk_end(&w->node[c->node].walk);
        w->node[c->node].walking = w->node[c->node].waiting = false;
    }
    free(c);
}

/* What no client may see: it did everything right, and in time. */
static void refused(struct world *w, const struct client *c, const struct state_event *ev)
{
    if (c->behind || w->grace_ms == 0 || w->now_ms - c->since_ms >= w->grace_ms)
        return;
    for (int i = 0; i < c->count; i++)
        if (w->node[c->node].gone[c->repo][c->want[i]] != c->got_gone[i])
            return;
    fail_msg("seed %llu: a manifest was refused (%d) though all it names was there",
             (unsigned long long)w->seed, (int)ev->status);
}

static void again(struct world *w, struct client *c, enum client_state keeping)
{
    struct cmd_build b;
    struct digest digest = digest_of(c->d);
    if (c->tries++ >= 3) {
        w->node[c->node].pins[c->d]--;
        c->state = IDLE;
        return;
    }
    cmd_begin(&b, CMD_GC_KEEP, 0);
    cmd_put_digest(&b.w, &digest);
    client_propose(w, c, &b, keeping);
}

static void link_propose(struct world *w, struct client *c)
{
    struct cmd_build b;
    struct digest digest = digest_of(c->d);
    cmd_blob_link(&b, 0, repo_names[c->repo], &digest, SIZE);
    client_propose(w, c, &b, LINKING);
}

static void put_propose(struct world *w, struct client *c)
{
    static const char *const tags[] = {"v1", "v2"};
    struct cmd_build b;
    struct cmd_build_ref refs[3];
    struct cmd_build_manifest m = {.repo = repo_names[c->repo], .media_type = "t", .digest = digest_of(c->d)};
    m.size = SIZE;
    m.refs = refs;
    m.refs_count = (uint32_t)c->count;
    m.require_refs = CMD_REFS_ALL;
    for (int i = 0; i < c->count; i++)
        refs[i] = (struct cmd_build_ref){CMD_REF_BLOB, digest_of(c->want[i])};
    m.tags = &tags[c->tag == 2 ? 0 : c->tag];
    m.tags_count = c->tag < 2;
    cmd_manifest_put(&b, 0, &m);
    client_propose(w, c, &b, PUTTING);
}

static void got(struct world *w, struct client *c)
{
    c->got_gone[c->at++] = w->node[c->node].gone[c->repo][c->d];
    c->state = NEXT_BLOB;
}

static void client_answer(struct world *w, struct client *c, const struct state_event *ev)
{
    struct host *n = &w->node[c->node];
    switch (c->state) {
    case LINKING:
        if (ev->status == CMD_BLOB_DELETING) {
            again(w, c, KEEPING);
            return;
        }
        assert_int_equal(ev->status, CMD_OK);
        n->pins[c->d]--;
        got(w, c);
        return;
    case KEEPING:
        link_propose(w, c);
        return;
    case MOUNTING:
        if (ev->status == CMD_OK) {
            got(w, c);
        } else {
            n->pins[c->d]++;
            c->state = HELD;
        }
        return;
    case PUTTING:
        if (ev->status == CMD_BLOB_DELETING) {
            again(w, c, PUT_KEEPING);
            return;
        }
        n->pins[c->d]--;
        c->state = IDLE;
        if (ev->status == CMD_OK) {
            w->done++;
            assert_true(any_file(w, c->d));
        } else {
            refused(w, c, ev);
        }
        return;
    case PUT_KEEPING:
        put_propose(w, c);
        return;
    default:
        c->state = IDLE;
        return;
    }
}

/* ------------------------------------------------------------------ what must always hold */

static void check_manifest(struct world *w, struct host *n, int repo, int m)
{
    uint8_t key[NAMES_KEY_MAX];
    struct digest digest = digest_of(m), ref;
    struct names_manifest head;
    struct names_blob blob = {0};
    struct kv_bytes v;
    size_t len = names_key_digest(key, repo_names[repo], strlen(repo_names[repo]), &digest);
    if (!row(n, NAMES_MANIFESTS, key, len, &v))
        return;
    memcpy(&head, v.data, sizeof(head));
    const uint8_t *p = (const uint8_t *)v.data + sizeof(head) + head.media_type_len + head.artifact_type_len;
    for (uint32_t i = 0; i < head.ref_count; i++) {
        p += 1;
        p += digest_unpack(p, DIGEST_PACKED_MAX, &ref);
        int d = thing_of(&ref);
        if (n->gone[repo][d]) /* somebody removed the blob under it */
            continue;
        if (!repo_row(n, NAMES_LINKS, repo, d) || !blob_row(n, d, &blob) || !blob.links || !any_file(w, d) ||
            mark_step(n, 0, d, 0) == NAMES_MARK_DELETING)
            fail_msg("seed %llu: manifest %d of %s names %d, which is not there", (unsigned long long)w->seed,
                     m, repo_names[repo], d);
    }
}

static void check(struct world *w, struct host *n)
{
    if (n->applied != w->log_count)
        return;
    for (int repo = 0; repo < REPOS; repo++)
        for (int m = BLOBS; m < THINGS; m++)
            check_manifest(w, n, repo, m);
}

static void note_removals(struct host *n, const struct state_event *ev)
{
    const struct state_cmd *cmd = &ev->cmd;
    for (int repo = 0; repo < REPOS && ev->status == CMD_OK; repo++) {
        bool this = strlen(repo_names[repo]) == cmd->repo.len &&
                    memcmp(repo_names[repo], cmd->repo.data, cmd->repo.len) == 0;
        for (int d = 0; d < THINGS && this; d++)
            if (cmd->head.type == CMD_REPO_DELETE ||
                (cmd->head.type == CMD_BLOB_UNLINK && thing_of(&cmd->digest) == d))
                n->gone[repo][d]++;
    }
}

static void apply_next(struct world *w, int node)
{
    struct host *n = &w->node[node];
    struct command *c = w->log[n->applied];
    struct state_tx tx = {.kv = &n->m.kv};
    assert_int_equal(state_apply(&tx, n->applied + 1, c->buf, c->len, w->ev), 0);
    n->applied++;
    note_removals(n, w->ev);
    if (c->node == node && c->who == WHO_CLIENT && w->client[c->slot].life == c->life)
        client_answer(w, &w->client[c->slot], w->ev);
    if (c->node == node && c->who == WHO_GC && n->gc_life == c->life && n->waiting) {
        gc_walk_result(&n->walk, w->ev->status, w->ev->detail, w->ev->detail_len);
        n->waiting = false;
    }
    check(w, n);
}

/* ------------------------------------------------------------------ clients */

static void client_begin(struct world *w, struct client *c)
{
    c->node = (int)pick(w, (unsigned)w->nodes);
    c->repo = (int)pick(w, REPOS);
    c->since_ms = w->now_ms;
    c->at = c->tries = 0;
    c->behind = false;
    c->tag = (int)pick(w, 3);
    c->count = 1 + (int)pick(w, 3);
    for (int i = 0; i < c->count; i++)
        c->want[i] = (int)pick(w, BLOBS);
    c->state = NEXT_BLOB;
}

static void client_delete(struct world *w, struct client *c)
{
    struct cmd_build b;
    const char *repo = repo_names[pick(w, REPOS)];
    unsigned what = pick(w, 12);
    struct digest digest = digest_of(what < 3 ? (int)pick(w, BLOBS) : BLOBS + (int)pick(w, MANIFESTS));
    c->node = (int)pick(w, (unsigned)w->nodes);
    if (what == 0)
        cmd_repo_delete(&b, 0, repo);
    else if (what < 2)
        cmd_repo_digest(&b, CMD_BLOB_UNLINK, 0, repo, &digest);
    else if (what < 4)
        cmd_tag_delete(&b, 0, repo, pick(w, 2) ? "v1" : "v2");
    else
        cmd_repo_digest(&b, CMD_MANIFEST_DELETE, 0, repo, &digest);
    client_propose(w, c, &b, DELETING);
}

/* HEAD, or POST with mount, or an upload. */
static void client_blob(struct world *w, struct client *c)
{
    struct host *n = &w->node[c->node];
    struct cmd_build b;
    if (c->at == c->count) {
        c->state = NAME;
        return;
    }
    c->d = c->want[c->at];
    c->tries = 0;
    struct digest digest = digest_of(c->d);
    bool there = repo_row(n, NAMES_LINKS, c->repo, c->d) && any_file(w, c->d);
    if (there && mark_step(n, c->repo, c->d, NAMES_MARK_LINK) != NAMES_MARK_GOING && pick(w, 4)) {
        c->behind |= n->applied != w->log_count;
        got(w, c);
    } else if (pick(w, 3) == 0) {
        cmd_blob_mount(&b, 0, repo_names[c->repo], &digest, pick(w, 2) ? "" : repo_names[pick(w, REPOS)]);
        client_propose(w, c, &b, MOUNTING);
    } else {
        n->pins[c->d]++;
        c->state = HELD;
    }
}

/* The file comes into its place, which is not closed. */
static void client_publish(struct world *w, struct client *c)
{
    struct host *n = &w->node[c->node];
    if (n->removing == c->d)
        return;
    n->file[c->d] = true;
    n->file_ms[c->d] = w->now_ms;
    if (c->state == HELD)
        link_propose(w, c);
    else
        put_propose(w, c);
}

static void client_step(struct world *w, struct client *c)
{
    switch (c->state) {
    case IDLE:
        if (w->flight_count > FLIGHT_MAX / 2)
            return;
        if (pick(w, 3))
            client_begin(w, c);
        else
            client_delete(w, c);
        return;
    case NEXT_BLOB:
        client_blob(w, c);
        return;
    case NAME:
        c->d = BLOBS + (int)(((unsigned)c->want[0] + (unsigned)c->count + pick(w, 2)) % MANIFESTS);
        w->node[c->node].pins[c->d]++;
        c->tries = 0;
        c->state = NAME_HELD;
        return;
    case HELD:
    case NAME_HELD:
        client_publish(w, c);
        return;
    default: /* waits for an answer */
        return;
    }
}

/* ------------------------------------------------------------------ the collection */

static void gc_begin(struct world *w, struct host *n, enum gc_walk_kind kind)
{
    const struct gc_walk_config config = {.grace_ms = w->grace_ms,
                                          .untagged = w->untagged_ms != 0,
                                          .untagged_ms = w->untagged_ms,
                                          .removed_index = n->done_index,
                                          .seed = w->random};
    gc_walk_end(&n->walk);
    gc_walk_begin(&n->walk, kind, &config);
    n->walking = true;
}

static void gc_step(struct world *w, int node)
{
    struct host *n = &w->node[node];
    uint8_t buf[COMMAND_MAX];
    struct wire_writer writer = {.buf = buf, .cap = sizeof(buf)};
    const struct cmd_head head = {
        .type = CMD_GC_REPO, .actor = "s", .actor_len = 1, .source = "", .request_id = ""};
    uint16_t type;
    if (n->waiting)
        return;
    if (!n->walking)
        gc_begin(w, n, pick(w, 2) ? GC_WALK_ALL : GC_WALK_FORGET);
    cmd_put_head(&writer, &head);
    int next = gc_walk_step(&n->walk, &n->m.kv, n->applied, w->now_ms, 1 + pick(w, 6), &writer, &type);
    assert_true(next >= 0);
    if (next == GC_NEXT_END) {
        n->walking = false;
    } else if (next == GC_NEXT_PROPOSE) {
        memcpy(buf + 6, &type, sizeof(type));
        n->waiting = true;
        propose(w, &writer, WHO_GC, node, 0, n->gc_life);
    }
}

/* One file at a time: its place is closed, the row looked at, the file removed, the place opened. */
static void remover_step(struct world *w, struct host *n)
{
    struct names_blob blob;
    int d = n->removing;
    if (d >= 0) {
        n->file[d] = false;
        n->removing = -1;
        return;
    }
    d = (int)pick(w, THINGS);
    bool stays = blob_row(n, d, &blob) && mark_step(n, 0, d, 0) != NAMES_MARK_DELETING;
    bool young = w->now_ms - n->file_ms[d] < AGE_MS;
    bool fresh = n->applied == w->log_count; /* it holds a read lease */
    if (n->file[d] && !n->pins[d] && !stays && !young && fresh)
        n->removing = d;
}

/* Which marks this node has dealt with: all, if there is no file of any. */
static void remover_look(struct host *n)
{
    for (int d = 0; d < THINGS; d++)
        if (mark_step(n, 0, d, 0) == NAMES_MARK_DELETING && n->file[d])
            return;
    n->done_index = n->applied;
}

/* ------------------------------------------------------------------ ends */

static void crash_dataplane(struct world *w, int node)
{
    struct host *n = &w->node[node];
    if (n->removing >= 0 && pick(w, 2))
        n->file[n->removing] = false;
    n->removing = -1;
    memset(n->pins, 0, sizeof(n->pins));
    for (int i = 0; i < CLIENTS; i++) {
        struct client *c = &w->client[i];
        if (c->state == IDLE || c->node != node)
            continue;
        c->state = IDLE;
        c->life++;
    }
}

static void crash_control(struct world *w, int node)
{
    struct host *n = &w->node[node];
    gc_walk_end(&n->walk);
    n->walking = n->waiting = false;
    n->gc_life++;
    n->done_index = 0;
    crash_dataplane(w, node); /* the clients that wait are told that the outcome is not known */
}

static void flight_step(struct world *w)
{
    for (int i = 0; i < w->flight_count; i++)
        if (w->now_ms - w->flight[i]->since_ms >= FLIGHT_MS) {
            pick(w, 4) ? commit(w, i) : lose(w, i);
            return;
        }
    if (w->flight_count && pick(w, 3))
        commit(w, (int)pick(w, (unsigned)w->flight_count));
}

static void step(struct world *w)
{
    int node = (int)pick(w, (unsigned)w->nodes);
    w->now_ms += pick(w, 3);
    flight_step(w);
    switch (pick(w, 12)) {
    case 0 ... 2:
        if (w->node[node].applied < w->log_count)
            apply_next(w, node);
        break;
    case 3 ... 6:
        client_step(w, &w->client[pick(w, CLIENTS)]);
        break;
    case 7 ... 8:
        if (w->flight_count < FLIGHT_MAX / 2)
            gc_step(w, node);
        break;
    case 9:
        remover_step(w, &w->node[node]);
        break;
    case 10:
        remover_look(&w->node[node]);
        break;
    default:
        if (pick(w, 20) == 0)
            crash_dataplane(w, node);
        else if (pick(w, 20) == 0)
            crash_control(w, node);
        else if (pick(w, 10) == 0)
            w->now_ms += w->grace_ms / 2;
        break;
    }
}

/* ------------------------------------------------------------------ the end of a world */

static void settle(struct world *w)
{
    while (w->flight_count)
        commit(w, 0);
    for (int n = 0; n < w->nodes; n++)
        while (w->node[n].applied < w->log_count)
            apply_next(w, n);
}

static void collect_all(struct world *w)
{
    for (int round = 0; round < 12; round++) {
        w->now_ms += w->grace_ms + w->untagged_ms + 100000;
        for (int kind = 0; kind < 2; kind++) {
            gc_begin(w, &w->node[0], kind ? GC_WALK_FORGET : GC_WALK_ALL);
            do {
                gc_step(w, 0);
                settle(w);
            } while (w->node[0].walking);
            for (int n = 0; n < w->nodes; n++)
                for (int i = 0; i < 40 * THINGS; i++)
                    remover_step(w, &w->node[n]);
            remover_look(&w->node[0]);
        }
    }
}

static void check_same(struct world *w)
{
    for (unsigned db = 0; db < NAMES_DB_COUNT && w->nodes > 1; db++) {
        struct kv_memory *a = &w->node[0].m, *b = &w->node[1].m;
        assert_int_equal(a->db[db].count, b->db[db].count);
        for (size_t i = 0; i < a->db[db].count; i++) {
            assert_int_equal(a->db[db].row[i].value_len, b->db[db].row[i].value_len);
            assert_memory_equal(a->db[db].row[i].value, b->db[db].row[i].value, a->db[db].row[i].value_len);
        }
    }
}

static bool is_named(struct host *n, int repo, int d)
{
    uint8_t key[NAMES_KEY_MAX];
    struct digest digest = digest_of(d), ref;
    struct names_manifest head;
    struct kv_bytes v;
    for (int m = BLOBS; m < THINGS; m++) {
        struct digest manifest = digest_of(m);
        size_t len = names_key_digest(key, repo_names[repo], strlen(repo_names[repo]), &manifest);
        if (!row(n, NAMES_MANIFESTS, key, len, &v))
            continue;
        memcpy(&head, v.data, sizeof(head));
        const uint8_t *p =
            (const uint8_t *)v.data + sizeof(head) + head.media_type_len + head.artifact_type_len;
        for (uint32_t i = 0; i < head.ref_count; i++) {
            p += 1;
            p += digest_unpack(p, DIGEST_PACKED_MAX, &ref);
            if (digest_equal(&ref, &digest))
                return true;
        }
    }
    return false;
}

/* What was named when it was marked may keep the first mark, which says nothing to anybody. */
static void check_marks(struct world *w)
{
    const struct kv_memory *m = &w->node[0].m;
    for (size_t i = 0; i < m->db[NAMES_MARKS].count; i++) {
        const struct kv_memory_row *r = &m->db[NAMES_MARKS].row[i];
        struct names_mark mark;
        if (r->key[0] == 0xff)
            continue;
        memcpy(&mark, r->value, sizeof(mark));
        assert_int_equal(mark.step, NAMES_MARK_SEEN);
    }
}

/* Nothing is left but what is named, each node has no other file, and the sums are right. */
static void check_clean(struct world *w)
{
    struct names_totals expected = {0}, totals = {0};
    for (int d = 0; d < THINGS; d++) {
        struct names_blob blob = {0};
        bool known = blob_row(&w->node[0], d, &blob);
        assert_true(!known || blob.links);
        expected.blobs += known;
        expected.bytes += known ? SIZE : 0;
        for (int n = 0; n < w->nodes; n++)
            assert_true(known || !w->node[n].file[d]);
        for (int repo = 0; repo < REPOS; repo++)
            assert_true(!repo_row(&w->node[0], NAMES_LINKS, repo, d) || is_named(&w->node[0], repo, d));
    }
    (void)state_totals_read(&w->node[0].m.kv, &totals);
    assert_memory_equal(&totals, &expected, sizeof(totals));
    check_marks(w);
}

static uint64_t tags_of(const struct kv_memory *m, const char *repo)
{
    uint64_t count = 0;
    for (size_t i = 0; i < m->db[NAMES_TAGS].count; i++) {
        const struct kv_memory_row *r = &m->db[NAMES_TAGS].row[i];
        count += r->key_len > strlen(repo) && memcmp(r->key, repo, strlen(repo) + 1) == 0;
    }
    return count;
}

/* What a repository is said to have is what it has, each thing once, whatever has become of it meanwhile. */
static void check_repos(struct world *w)
{
    struct host *n = &w->node[0];
    for (int repo = 0; repo < REPOS; repo++) {
        struct names_repo said = {0}, has = {.tags = tags_of(&n->m, repo_names[repo])};
        struct kv_bytes v;
        for (int d = 0; d < THINGS; d++) {
            bool link = repo_row(n, NAMES_LINKS, repo, d), manifest = repo_row(n, NAMES_MANIFESTS, repo, d);
            has.blobs += link;
            has.manifests += manifest;
            has.bytes += link || manifest ? SIZE : 0;
        }
        if (row(n, NAMES_REPOS, (const uint8_t *)repo_names[repo], strlen(repo_names[repo]), &v))
            memcpy(&said, v.data, sizeof(said));
        assert_int_equal(said.tags, has.tags);
        assert_int_equal(said.blobs, has.blobs);
        assert_int_equal(said.manifests, has.manifests);
        assert_int_equal(said.bytes, has.bytes);
    }
}

static uint64_t run_world(uint64_t seed)
{
    static const uint64_t graces[] = {0, 60, 400};
    struct world *w = calloc(1, sizeof(*w));
    w->ev = calloc(1, sizeof(*w->ev));
    w->seed = seed;
    w->random = (seed + 1) * 0x9e3779b97f4a7c15ull;
    w->now_ms = 1000000;
    w->nodes = 1 + (int)pick(w, NODES_MOST);
    w->grace_ms = graces[pick(w, 3)];
    w->untagged_ms = pick(w, 2) ? 0 : 200;
    for (int n = 0; n < w->nodes; n++) {
        kv_memory_init(&w->node[n].m);
        w->node[n].removing = -1;
        w->node[n].walk.phase = GC_PHASE_END;
    }
    for (int i = 0; i < STEPS; i++)
        step(w);
    for (int n = 0; n < w->nodes; n++)
        crash_control(w, n);
    settle(w);
    check_repos(w);
    collect_all(w);
    check_same(w);
    check_clean(w);
    check_repos(w);
    uint64_t done = w->done;
    for (int n = 0; n < w->nodes; n++) {
        gc_walk_end(&w->node[n].walk);
        kv_memory_fini(&w->node[n].m);
    }
    for (size_t i = 0; i < w->log_count; i++)
        free(w->log[i]);
    free(w->ev);
    free(w);
    return done;
}

static uint64_t number(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text ? strtoull(text, NULL, 0) : otherwise;
}

static void test_worlds(void **state)
{
    uint64_t count = number("FAIRLEAD_TEST_SEEDS", 1000), from = number("FAIRLEAD_TEST_FROM", 1), pushed = 0;
    (void)state;
    if (getenv("FAIRLEAD_TEST_SEED")) {
        run_world(number("FAIRLEAD_TEST_SEED", 1));
        return;
    }
    for (size_t i = 0; i < sizeof(kept) / sizeof(kept[0]); i++)
        run_world(kept[i]);
    for (uint64_t seed = from; seed < from + count; seed++)
        pushed += run_world(seed);
    assert_true(pushed > count); /* they do not only get in each other's way */
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_worlds)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
