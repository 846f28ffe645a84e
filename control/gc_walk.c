/* SPDX-License-Identifier: Apache-2.0 */
#include "control/gc_walk.h"

#include <stdlib.h>

#include "check.h"

enum { FILTER_PROBES = 6, FILTER_BYTES_PER_THING = 3 };

/* ------------------------------------------------------------------ the filter */

/* Digests are good hashes by themselves; the seed makes each run miss others. */
static uint64_t filter_hash(const struct gc_walk *w, const struct digest *d, unsigned part)
{
    uint64_t h;
    memcpy(&h, d->bytes + 8 * (size_t)part, sizeof(h));
    h = (h ^ w->config.seed) * 0x9e3779b97f4a7c15ull;
    return h ^ h >> 29;
}

static uint64_t filter_bit(const struct gc_walk *w, uint64_t a, uint64_t b, unsigned probe)
{
    return (a + probe * (b | 1)) & (w->filter_bytes * 8 - 1);
}

static void filter_add(struct gc_walk *w, const struct digest *d)
{
    uint64_t a = filter_hash(w, d, 0), b = filter_hash(w, d, 1);
    for (unsigned i = 0; i < FILTER_PROBES; i++) {
        uint64_t bit = filter_bit(w, a, b, i);
        w->filter[bit / 8] |= (uint8_t)(1u << bit % 8);
    }
}

static bool filter_has(const struct gc_walk *w, const struct digest *d)
{
    uint64_t a = filter_hash(w, d, 0), b = filter_hash(w, d, 1);
    for (unsigned i = 0; i < FILTER_PROBES; i++) {
        uint64_t bit = filter_bit(w, a, b, i);
        if (!(w->filter[bit / 8] >> bit % 8 & 1))
            return false;
    }
    return true;
}

/* An empty filter for so many things. */
static int filter_begin(struct gc_walk *w, uint64_t things)
{
    size_t bytes = GC_FILTER_BYTES_MIN;
    while (bytes < GC_FILTER_BYTES_MAX && bytes < things * FILTER_BYTES_PER_THING)
        bytes *= 2;
    if (bytes > w->filter_cap) {
        free(w->filter);
        w->filter = malloc(bytes);
        w->filter_cap = w->filter ? bytes : 0;
    }
    if (!w->filter)
        return -ENOMEM;
    w->filter_bytes = bytes;
    memset(w->filter, 0, bytes);
    return 0;
}

/* ------------------------------------------------------------------ beginning and end */

void gc_walk_begin(struct gc_walk *w, enum gc_walk_kind kind, const struct gc_walk_config *config)
{
    memset(w, 0, sizeof(*w));
    w->kind = kind;
    w->config = *config;
    w->phase = kind == GC_WALK_FORGET ? GC_PHASE_FORGET : GC_PHASE_REPO;
}

void gc_walk_end(struct gc_walk *w)
{
    free(w->filter);
    w->filter = NULL;
    w->filter_cap = 0;
    w->phase = GC_PHASE_END;
}

static void sum_add(struct gc_sum *sum, uint64_t bytes)
{
    sum->count++;
    sum->bytes += bytes;
}

static void phase_begin(struct gc_walk *w, enum gc_phase phase)
{
    w->phase = phase;
    w->key_len = 0;
}

static void list_add(struct gc_walk *w, enum cmd_gc_step step, const struct digest *d, uint64_t mark)
{
    struct gc_list *l = &w->list[step - 1];
    CHECK(l->count < CMD_GC_BATCH);
    l->thing[l->count].digest = *d;
    l->thing[l->count++].mark = mark;
}

/* ------------------------------------------------------------------ rows */

struct look {
    struct gc_walk *w;
    struct kv *kv;
    uint64_t applied_index, now_ms;
    struct kv_bytes key, value;
    unsigned rows; /* left */
};

/* The next row of a database whose keys begin with prefix. 1: there is one, 0: no more, -errno. */
static int row_next(struct look *l, unsigned db, const uint8_t *prefix, size_t prefix_len)
{
    struct gc_walk *w = l->w;
    if (w->key_len == 0) { /* before the first one: no key begins with a NUL that has no more */
        memcpy(w->key, prefix, prefix_len);
        w->key[prefix_len] = 0;
        w->key_len = prefix_len ? prefix_len : 1;
    }
    int rc = kv_seek(l->kv, db, (struct kv_bytes){w->key, w->key_len}, true, &l->key, &l->value);
    if (rc)
        return rc == -ENOENT ? 0 : rc;
    if (l->key.len > sizeof(w->key))
        return -EUCLEAN;
    if (l->key.len < prefix_len || memcmp(l->key.data, prefix, prefix_len) != 0)
        return 0;
    memcpy(w->key, l->key.data, l->key.len);
    w->key_len = l->key.len;
    l->rows -= l->rows > 0;
    return 1;
}

/* The next row of the repository, keyed by its digest. */
static int repo_row_next(struct look *l, unsigned db, struct digest *d)
{
    struct gc_walk *w = l->w;
    uint8_t prefix[REPO_NAME_MAX + 1];
    memcpy(prefix, w->repo, w->repo_len);
    prefix[w->repo_len] = 0;
    int rc = row_next(l, db, prefix, w->repo_len + 1);
    if (rc <= 0)
        return rc;
    size_t used = digest_unpack(w->key + w->repo_len + 1, w->key_len - w->repo_len - 1, d);
    return used && used == w->key_len - w->repo_len - 1 ? rc : -EUCLEAN;
}

static int mark_get(struct look *l, const uint8_t *key, size_t len, struct names_mark *mark)
{
    struct kv_bytes value;
    int rc = kv_get(l->kv, NAMES_MARKS, (struct kv_bytes){key, len}, &value);
    if (rc == 0 && value.len != sizeof(*mark))
        return -EUCLEAN;
    if (rc == 0)
        memcpy(mark, value.data, sizeof(*mark));
    return rc;
}

static bool is_older(uint64_t now_ms, uint64_t time_ms, uint64_t age_ms)
{
    return now_ms >= time_ms && now_ms - time_ms >= age_ms;
}

/* A thing of the repository that nothing names, and that is old enough: the step that comes next for it. */
static int consider(struct look *l, uint8_t kind, const struct digest *d, uint64_t size)
{
    struct gc_walk *w = l->w;
    uint8_t key[NAMES_KEY_MAX];
    struct names_mark mark = {0};
    if (w->kind == GC_WALK_DRY) {
        sum_add(&w->figures.garbage, size);
        return 0;
    }
    int rc = mark_get(l, key, names_key_mark(key, w->repo, w->repo_len, kind, d), &mark);
    if (rc && rc != -ENOENT)
        return rc;
    if (rc == -ENOENT)
        list_add(w, CMD_GC_SEE, d, 0);
    else if (mark.step == NAMES_MARK_SEEN && mark.index <= w->pass_index)
        list_add(w, CMD_GC_GO, d, mark.index);
    else if (mark.step == NAMES_MARK_GOING && is_older(l->now_ms, mark.time_ms, w->config.grace_ms))
        list_add(w, CMD_GC_DROP, d, mark.index);
    else if (mark.step == NAMES_MARK_GOING && w->pass == 0)
        sum_add(&w->figures.waiting, size);
    return 0;
}

static bool any_full(const struct gc_walk *w)
{
    for (unsigned i = 0; i < CMD_GC_DROP; i++)
        if (w->list[i].count == CMD_GC_BATCH)
            return true;
    return false;
}

/* ------------------------------------------------------------------ phases: 0 when the phase is over, 1 when
 * not, -errno */

static int repo_begin(struct look *l)
{
    struct gc_walk *w = l->w;
    struct names_repo row;
    struct kv_bytes key, value;
    /* The name is where the walk is: keys of this database are names. */
    struct kv_bytes from = w->repo_len ? (struct kv_bytes){w->repo, w->repo_len} : (struct kv_bytes){"", 1};
    int rc = kv_seek(l->kv, NAMES_REPOS, from, true, &key, &value);
    if (rc)
        return rc == -ENOENT ? 0 : rc;
    if (key.len > REPO_NAME_MAX || value.len < sizeof(row))
        return -EUCLEAN;
    memcpy(&row, value.data, sizeof(row));
    memcpy(w->repo, key.data, key.len);
    w->repo[key.len] = '\0';
    w->repo_len = key.len;
    w->pass = 0;
    w->figures.repos++;
    l->rows -= l->rows > 0;
    return 1;
}

static int pass_begin(struct look *l)
{
    struct gc_walk *w = l->w;
    struct kv_bytes value;
    struct names_repo row = {0};
    int rc = kv_get(l->kv, NAMES_REPOS, (struct kv_bytes){w->repo, w->repo_len}, &value);
    if (rc && rc != -ENOENT)
        return rc;
    if (rc == 0 && value.len >= sizeof(row))
        memcpy(&row, value.data, sizeof(row));
    w->pass_index = l->applied_index;
    w->again = false;
    phase_begin(w, GC_PHASE_MANIFESTS);
    return filter_begin(w, row.blobs + row.manifests);
}

/* Adds what a manifest names. */
static int refs_add(struct look *l)
{
    struct gc_walk *w = l->w;
    const uint8_t *p = l->value.data;
    struct names_manifest row;
    struct digest d;
    if (l->value.len < sizeof(row))
        return -EUCLEAN;
    memcpy(&row, p, sizeof(row));
    size_t at = sizeof(row) + row.media_type_len + row.artifact_type_len, used;
    for (uint32_t i = 0; i < row.ref_count + row.has_subject; i++) {
        bool subject = i == 0 && row.has_subject;
        at += !subject; /* the kind */
        if (at >= l->value.len || (used = digest_unpack(p + at, l->value.len - at, &d)) == 0)
            return -EUCLEAN;
        at += used;
        if (!subject) /* who refers to a manifest does not keep it */
            filter_add(w, &d);
    }
    unsigned cost = row.ref_count / 8;
    l->rows -= l->rows > cost ? cost : l->rows;
    return 0;
}

static int manifests_step(struct look *l)
{
    struct digest d;
    while (l->rows) {
        int rc = repo_row_next(l, NAMES_MANIFESTS, &d);
        if (rc <= 0)
            return rc;
        l->w->figures.manifests += l->w->pass == 0;
        rc = refs_add(l);
        if (rc)
            return rc;
    }
    return 1;
}

/* Whether the manifest refers to another one that the repository has. */
static int subject_is_there(struct look *l, const struct names_manifest *row)
{
    uint8_t key[NAMES_KEY_MAX];
    struct digest subject;
    struct kv_bytes value;
    size_t at = sizeof(*row) + row->media_type_len + row->artifact_type_len;
    if (!row->has_subject)
        return 0;
    if (at >= l->value.len ||
        digest_unpack((const uint8_t *)l->value.data + at, l->value.len - at, &subject) == 0)
        return -EUCLEAN;
    size_t len = names_key_digest(key, l->w->repo, l->w->repo_len, &subject);
    int rc = kv_get(l->kv, NAMES_MANIFESTS, (struct kv_bytes){key, len}, &value);
    return rc == 0 ? 1 : rc == -ENOENT ? 0 : rc;
}

static int untagged_step(struct look *l)
{
    struct gc_walk *w = l->w;
    struct names_manifest row;
    struct digest d;
    while (l->rows && !any_full(w)) {
        int rc = repo_row_next(l, NAMES_MANIFESTS, &d);
        if (rc <= 0)
            return rc;
        if (l->value.len < sizeof(row))
            return -EUCLEAN;
        memcpy(&row, l->value.data, sizeof(row));
        if (row.tag_count || filter_has(w, &d) || !is_older(l->now_ms, row.time_ms, w->config.untagged_ms))
            continue;
        rc = subject_is_there(l, &row);
        if (rc == 0)
            rc = consider(l, NAMES_MARK_MANIFEST, &d, row.size);
        if (rc < 0)
            return rc;
    }
    return 1;
}

static int links_step(struct look *l)
{
    struct gc_walk *w = l->w;
    struct names_link link;
    struct digest d;
    while (l->rows && !any_full(w)) {
        int rc = repo_row_next(l, NAMES_LINKS, &d);
        if (rc <= 0)
            return rc;
        if (l->value.len < sizeof(link))
            return -EUCLEAN;
        memcpy(&link, l->value.data, sizeof(link));
        w->figures.links += w->pass == 0;
        if (filter_has(w, &d) || !is_older(l->now_ms, link.time_ms, w->config.grace_ms))
            continue;
        rc = consider(l, NAMES_MARK_LINK, &d, link.size);
        if (rc)
            return rc;
    }
    return 1;
}

static int blobs_step(struct look *l)
{
    static const uint8_t none[1];
    struct gc_walk *w = l->w;
    struct names_mark mark;
    uint8_t key[NAMES_KEY_MAX];
    uint64_t counts[2]; /* the first two fields of struct names_blob */
    struct digest d;
    while (l->rows && !any_full(w)) {
        int rc = row_next(l, NAMES_BLOBS, none, 0);
        if (rc <= 0)
            return rc;
        if (w->key_len == 0 || l->value.len < sizeof(counts) ||
            digest_unpack(w->key, w->key_len, &d) != w->key_len)
            return -EUCLEAN;
        memcpy(counts, l->value.data, sizeof(counts));
        w->figures.blobs++;
        if (counts[1])
            continue;
        if (w->kind == GC_WALK_DRY) {
            sum_add(&w->figures.unlinked_now, counts[0]);
            continue;
        }
        rc = mark_get(l, key, names_key_mark_blob(key, &d), &mark);
        if (rc == -ENOENT || (rc == 0 && mark.step == NAMES_MARK_KEPT))
            list_add(w, CMD_GC_SEE, &d, 0);
        else if (rc)
            return rc;
    }
    return 1;
}

static int forget_step(struct look *l)
{
    static const uint8_t prefix[1] = {0};
    struct gc_walk *w = l->w;
    struct names_mark mark;
    struct digest d;
    while (l->rows && !any_full(w)) {
        int rc = row_next(l, NAMES_MARKS, prefix, sizeof(prefix));
        if (rc <= 0)
            return rc;
        if (w->key_len < 2 || l->value.len != sizeof(mark) ||
            digest_unpack(w->key + 1, w->key_len - 1, &d) != w->key_len - 1)
            return -EUCLEAN;
        memcpy(&mark, l->value.data, sizeof(mark));
        if (mark.step == NAMES_MARK_DELETING && mark.index <= w->config.removed_index &&
            is_older(l->now_ms, mark.time_ms, w->config.forget_ms))
            list_add(w, CMD_GC_DROP, &d, mark.index);
    }
    return 1;
}

/* ------------------------------------------------------------------ commands */

static bool in_repo(const struct gc_walk *w)
{
    return w->phase == GC_PHASE_UNTAGGED || w->phase == GC_PHASE_LINKS;
}

/* Writes the fields of the command for the fullest list, if there is one. */
static bool command_write(struct gc_walk *w, struct wire_writer *cmd, uint16_t *type)
{
    unsigned step = 0;
    for (unsigned i = 0; i < CMD_GC_DROP; i++)
        if (w->list[i].count && (!step || w->list[i].count > w->list[step - 1].count))
            step = i + 1;
    if (!step)
        return false;
    struct gc_list *l = &w->list[step - 1];
    w->asked_step = (uint8_t)step;
    w->asked_kind = !in_repo(w) ? 0 : w->phase == GC_PHASE_LINKS ? NAMES_MARK_LINK : NAMES_MARK_MANIFEST;
    *type = in_repo(w) ? CMD_GC_REPO : CMD_GC_BLOBS;
    if (in_repo(w)) {
        wire_put_bytes(cmd, w->repo, w->repo_len);
        wire_put_u8(cmd, w->asked_kind);
    }
    wire_put_u8(cmd, w->asked_step);
    wire_put_u32(cmd, l->count);
    for (uint32_t i = 0; i < l->count; i++) {
        cmd_put_digest(cmd, &l->thing[i].digest);
        wire_put_u64(cmd, l->thing[i].mark);
    }
    l->count = 0;
    return true;
}

static struct gc_sum *sum_of(struct gc_walk *w)
{
    struct gc_figures *f = &w->figures;
    if (w->asked_kind == 0)
        return w->asked_step == CMD_GC_SEE ? &f->unlinked : &f->forgotten;
    return w->asked_step == CMD_GC_SEE ? &f->seen : w->asked_step == CMD_GC_GO ? &f->going : &f->dropped;
}

void gc_walk_result(struct gc_walk *w, enum cmd_status status, const void *detail, size_t len)
{
    struct wire_reader r = {.buf = detail, .len = len};
    uint32_t count = wire_get_u32(&r);
    uint64_t bytes = wire_get_u64(&r);
    if (status != CMD_OK || r.failed)
        return;
    sum_of(w)->count += count;
    sum_of(w)->bytes += bytes;
    bool more = w->asked_step == CMD_GC_SEE || (w->asked_step == CMD_GC_GO && w->config.grace_ms == 0);
    w->again |= w->asked_kind && count && more;
}

/* ------------------------------------------------------------------ the machine */

static int phase_step(struct look *l)
{
    switch (l->w->phase) {
    case GC_PHASE_REPO:
        return repo_begin(l);
    case GC_PHASE_MANIFESTS:
        return manifests_step(l);
    case GC_PHASE_UNTAGGED:
        return untagged_step(l);
    case GC_PHASE_LINKS:
        return links_step(l);
    case GC_PHASE_BLOBS:
        return blobs_step(l);
    case GC_PHASE_FORGET:
        return forget_step(l);
    case GC_PHASE_END:
        break;
    }
    return 0;
}

/* The phase is over, and so is all that it has asked for. 0, -errno. */
static int phase_next(struct look *l)
{
    struct gc_walk *w = l->w;
    switch (w->phase) {
    case GC_PHASE_REPO:
        phase_begin(w, GC_PHASE_BLOBS);
        return 0;
    case GC_PHASE_MANIFESTS:
        phase_begin(w, w->config.untagged ? GC_PHASE_UNTAGGED : GC_PHASE_LINKS);
        return 0;
    case GC_PHASE_UNTAGGED:
        phase_begin(w, GC_PHASE_LINKS);
        return 0;
    case GC_PHASE_LINKS:
        if (w->again && ++w->pass < GC_PASSES_MAX)
            return pass_begin(l);
        phase_begin(w, GC_PHASE_REPO);
        return 0;
    default:
        phase_begin(w, GC_PHASE_END);
        return 0;
    }
}

int gc_walk_step(struct gc_walk *w, struct kv *kv, uint64_t applied_index, uint64_t now_ms, unsigned rows,
                 struct wire_writer *cmd, uint16_t *type)
{
    struct look l = {.w = w, .kv = kv, .applied_index = applied_index, .now_ms = now_ms, .rows = rows};
    while (w->phase != GC_PHASE_END && l.rows) {
        int rc = any_full(w) ? 1 : phase_step(&l);
        if (rc < 0)
            return rc;
        if ((rc == 0 || any_full(w)) && command_write(w, cmd, type))
            return cmd->failed ? -ENOBUFS : GC_NEXT_PROPOSE;
        if (rc == 0)
            rc = phase_next(&l);
        else if (w->phase == GC_PHASE_REPO)
            rc = pass_begin(&l);
        if (rc < 0)
            return rc;
    }
    return w->phase == GC_PHASE_END ? GC_NEXT_END : GC_NEXT_STEP;
}
