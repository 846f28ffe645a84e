/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The state machine against a model that keeps plain sets and derives every count anew: random commands over
 * few names, so that they collide often. FL_SEED repeats a run.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "cmd_build.h"
#include "control/state/state.h"
#include "kv_memory.h"

enum { REPOS = 4, DIGESTS = 8, TAGS = 3, COMMANDS = 6000, REFS_MAX = 3, NODES = 6 };

static const char *const repo_names[REPOS] = {"a", "a/b", "aa", "z"};
static const char *const tag_names[TAGS] = {"latest", "v1", "v1.0"};
static const char *const types[2] = {"type/one", "type/three"};
static const char *const artifact_types[2] = {"", "artifact/type"};

struct model_manifest {
    bool present;
    int type;
    int subject; /* -1: none */
};

struct model {
    bool repo[REPOS], link[REPOS][DIGESTS], known[DIGESTS];
    unsigned holders[DIGESTS]; /* a bit for each node */
    bool told[DIGESTS];        /* of a holder, ever */
    struct model_manifest manifest[REPOS][DIGESTS];
    int tag[REPOS][TAGS]; /* digest, -1: none */
};

struct run {
    struct kv_memory m;
    struct model model;
    struct cmd_build b;
    struct state_event ev;
    uint64_t random, time_ms;
};

static unsigned pick(struct run *r, unsigned n)
{
    r->random ^= r->random << 13;
    r->random ^= r->random >> 7;
    r->random ^= r->random << 17;
    return (unsigned)(r->random >> 33) % n;
}

static uint64_t size_of(int d)
{
    return 100 + (uint64_t)d;
}

static struct digest digest_of(int d)
{
    return digest_make(d % 2 ? DIGEST_SHA512 : DIGEST_SHA256, (unsigned)d);
}

static struct cmd_holders holders_of(unsigned bits)
{
    struct cmd_holders h = {0};
    for (unsigned i = 0; i < NODES; i++)
        if (bits & 1u << i)
            cmd_holders_add(&h, i + 1);
    return h;
}

/* Who holds it stands at the end of some commands. */
static unsigned say_holders(struct run *r)
{
    unsigned bits = pick(r, 2) ? 1u << pick(r, NODES) | 1u << pick(r, NODES) : 0;
    struct cmd_holders h = holders_of(bits);
    if (bits)
        cmd_put_holders(&r->b.w, &h);
    return bits;
}

static void gain(struct run *r, int d, unsigned bits)
{
    r->model.holders[d] |= bits;
    r->model.told[d] |= bits != 0;
}

static enum cmd_status do_copies(struct run *r, int d)
{
    struct digest digest = digest_of(d);
    unsigned gained = pick(r, 1u << NODES) & pick(r, 1u << NODES), lost = pick(r, 1u << NODES);
    struct cmd_holders more = holders_of(gained), less = holders_of(lost);
    cmd_blob_copies(&r->b, r->time_ms, &digest, &more, &less);
    unsigned needed = pick(r, 3) == 0 ? 1u << pick(r, NODES) | 1u << pick(r, NODES) : 0;
    struct cmd_holders have = holders_of(needed);
    if (needed)
        cmd_needed(&r->b, &have);
    if (!r->model.known[d])
        return CMD_BLOB_UNKNOWN;
    if (needed & ~r->model.holders[d])
        return CMD_CONFLICT;
    r->model.holders[d] &= ~lost;
    r->model.told[d] |= lost != 0;
    gain(r, d, gained);
    return CMD_OK;
}

static enum cmd_status do_link(struct run *r, int repo, int d)
{
    struct digest digest = digest_of(d);
    bool wrong = pick(r, 20) == 0;
    cmd_blob_link(&r->b, r->time_ms, repo_names[repo], &digest, size_of(d) + wrong);
    if (wrong && r->model.known[d])
        return CMD_INVALID;
    if (wrong) /* it would be the first to name a size: not what this model is about */
        cmd_blob_link(&r->b, r->time_ms, repo_names[repo], &digest, size_of(d));
    gain(r, d, say_holders(r));
    r->model.repo[repo] = r->model.link[repo][d] = r->model.known[d] = true;
    return CMD_OK;
}

static enum cmd_status do_mount(struct run *r, int repo, int d)
{
    struct digest digest = digest_of(d);
    int from = (int)pick(r, REPOS + 1) - 1;
    bool found = false;
    cmd_blob_mount(&r->b, r->time_ms, repo_names[repo], &digest, from < 0 ? "" : repo_names[from]);
    for (int i = 0; i < REPOS && from < 0; i++)
        found |= r->model.link[i][d] || r->model.manifest[i][d].present;
    if (from >= 0)
        found = r->model.link[from][d];
    if (!found)
        return CMD_BLOB_UNKNOWN;
    r->model.repo[repo] = r->model.link[repo][d] = true;
    return CMD_OK;
}

static enum cmd_status do_unlink(struct run *r, int repo, int d)
{
    struct digest digest = digest_of(d);
    cmd_repo_digest(&r->b, CMD_BLOB_UNLINK, r->time_ms, repo_names[repo], &digest);
    if (!r->model.repo[repo])
        return CMD_REPO_UNKNOWN;
    if (!r->model.link[repo][d])
        return CMD_BLOB_UNKNOWN;
    r->model.link[repo][d] = false;
    return CMD_OK;
}

static enum cmd_status do_put(struct run *r, int repo, int d)
{
    struct cmd_build_ref refs[REFS_MAX];
    const char *tags[2];
    int tag[2], subject = pick(r, 3) ? -1 : (d + 3) % DIGESTS; /* as its bytes say */
    struct digest subject_digest = digest_of(subject < 0 ? 0 : subject);
    struct cmd_build_manifest m = {.repo = repo_names[repo], .digest = digest_of(d), .size = size_of(d)};
    int type = (int)pick(r, 2);
    bool missing = false;
    m.media_type = types[type];
    m.artifact_type = artifact_types[type];
    m.refs = refs;
    m.refs_count = pick(r, REFS_MAX + 1);
    m.require_refs = (uint8_t)pick(r, CMD_REFS_COUNT);
    for (uint32_t i = 0; i < m.refs_count; i++) {
        int ref = (int)pick(r, DIGESTS);
        refs[i] = (struct cmd_build_ref){(uint8_t)pick(r, 2), digest_of(ref)};
        if (refs[i].kind == CMD_REF_BLOB)
            missing |= m.require_refs != CMD_REFS_NONE && !r->model.link[repo][ref];
        else
            missing |= m.require_refs == CMD_REFS_ALL && !r->model.manifest[repo][ref].present;
    }
    m.tags = tags;
    m.tags_count = pick(r, 3);
    for (uint32_t i = 0; i < m.tags_count; i++)
        tags[i] = tag_names[tag[i] = (int)pick(r, TAGS)];
    m.subject = subject < 0 ? NULL : &subject_digest;
    m.descriptor = subject < 0 ? "" : "{}";
    cmd_manifest_put(&r->b, r->time_ms, &m);
    unsigned holders = say_holders(r);
    if (missing)
        return CMD_BLOB_UNKNOWN;
    gain(r, d, holders);
    r->model.repo[repo] = r->model.known[d] = true;
    r->model.manifest[repo][d] = (struct model_manifest){true, type, subject};
    for (uint32_t i = 0; i < m.tags_count; i++)
        r->model.tag[repo][tag[i]] = d;
    return CMD_OK;
}

static enum cmd_status do_delete(struct run *r, int repo, int d)
{
    struct digest digest = digest_of(d);
    cmd_repo_digest(&r->b, CMD_MANIFEST_DELETE, r->time_ms, repo_names[repo], &digest);
    if (!r->model.repo[repo])
        return CMD_REPO_UNKNOWN;
    if (!r->model.manifest[repo][d].present)
        return CMD_MANIFEST_UNKNOWN;
    r->model.manifest[repo][d].present = false;
    for (int t = 0; t < TAGS; t++)
        if (r->model.tag[repo][t] == d)
            r->model.tag[repo][t] = -1;
    return CMD_OK;
}

static enum cmd_status do_untag(struct run *r, int repo)
{
    int t = (int)pick(r, TAGS);
    cmd_tag_delete(&r->b, r->time_ms, repo_names[repo], tag_names[t]);
    if (!r->model.repo[repo])
        return CMD_REPO_UNKNOWN;
    if (r->model.tag[repo][t] < 0)
        return CMD_TAG_UNKNOWN;
    r->model.tag[repo][t] = -1;
    return CMD_OK;
}

static enum cmd_status do_drop(struct run *r, int repo)
{
    cmd_repo_delete(&r->b, r->time_ms, repo_names[repo]);
    if (!r->model.repo[repo])
        return CMD_REPO_UNKNOWN;
    r->model.repo[repo] = false;
    memset(r->model.link[repo], 0, sizeof(r->model.link[repo]));
    memset(r->model.manifest[repo], 0, sizeof(r->model.manifest[repo]));
    for (int t = 0; t < TAGS; t++)
        r->model.tag[repo][t] = -1;
    return CMD_OK;
}

static enum cmd_status do_random(struct run *r)
{
    int repo = (int)pick(r, REPOS), d = (int)pick(r, DIGESTS);
    switch (pick(r, 18)) {
    case 0 ... 3:
        return do_link(r, repo, d);
    case 4 ... 5:
        return do_mount(r, repo, d);
    case 6:
        return do_unlink(r, repo, d);
    case 7 ... 11:
        return do_put(r, repo, d);
    case 12 ... 13:
        return do_delete(r, repo, d);
    case 14:
        return do_untag(r, repo);
    case 15 ... 16:
        return do_copies(r, d);
    default:
        return pick(r, 4) ? do_untag(r, repo) : do_drop(r, repo);
    }
}

static bool get(struct run *r, unsigned db, const uint8_t *key, size_t len, struct kv_bytes *v)
{
    return kv_get(&r->m.kv, db, (struct kv_bytes){key, len}, v) == 0;
}

static bool get_digest(struct run *r, unsigned db, int repo, int d, struct kv_bytes *v)
{
    uint8_t key[NAMES_KEY_MAX];
    struct digest digest = digest_of(d);
    const char *name = repo_names[repo];
    return get(r, db, key, names_key_digest(key, name, strlen(name), &digest), v);
}

static uint32_t compare_tags(struct run *r, int repo, uint32_t per_digest[DIGESTS])
{
    uint32_t count = 0;
    for (int t = 0; t < TAGS; t++) {
        uint8_t key[NAMES_KEY_MAX], packed[DIGEST_PACKED_MAX];
        const char *name = repo_names[repo], *tag = tag_names[t];
        struct kv_bytes v;
        bool there = get(r, NAMES_TAGS, key, names_key(key, name, strlen(name), tag, strlen(tag)), &v);
        int d = r->model.tag[repo][t];
        assert_int_equal(there, d >= 0);
        if (d < 0)
            continue;
        struct digest digest = digest_of(d);
        const struct names_tag *row = v.data;
        size_t len = digest_pack(&digest, packed);
        assert_memory_equal(row->digest, packed, len);
        len = names_key_index_tag(key, name, strlen(name), &digest, tag, strlen(tag));
        assert_true(get(r, NAMES_INDEX, key, len, &v));
        per_digest[d]++;
        count++;
    }
    return count;
}

static void compare_manifest(struct run *r, int repo, int d, uint32_t tags)
{
    const struct model_manifest *m = &r->model.manifest[repo][d];
    struct kv_bytes v;
    struct names_manifest row;
    assert_int_equal(get_digest(r, NAMES_MANIFESTS, repo, d, &v), m->present);
    if (!m->present) {
        assert_int_equal(tags, 0);
        return;
    }
    memcpy(&row, v.data, sizeof(row));
    assert_int_equal(row.tag_count, tags);
    assert_int_equal(row.media_type_len, strlen(types[m->type]));
    assert_int_equal(row.has_subject, m->subject >= 0);
    assert_int_equal(row.size, size_of(d));
}

/* Of the referrer, by its type. */
static bool has_index_row(struct run *r, int repo, int d)
{
    const struct model_manifest *m = &r->model.manifest[repo][d];
    struct digest digest = digest_of(d), subject = digest_of(m->subject < 0 ? 0 : m->subject);
    const char *name = repo_names[repo], *type = artifact_types[m->type];
    uint8_t key[NAMES_KEY_MAX];
    struct kv_bytes v;
    return m->present && m->subject >= 0 &&
           get(r, NAMES_INDEX, key,
               names_key_index_referrer(key, name, strlen(name), &subject, type, strlen(type), &digest), &v);
}

static void compare_repo(struct run *r, int repo, size_t total[NAMES_DB_COUNT], uint64_t links[DIGESTS])
{
    struct names_repo expected = {0}, row = {0};
    uint32_t tags[DIGESTS] = {0};
    struct kv_bytes v;
    const char *name = repo_names[repo];
    expected.tags = compare_tags(r, repo, tags);
    for (int d = 0; d < DIGESTS; d++) {
        bool link = r->model.link[repo][d], manifest = r->model.manifest[repo][d].present;
        assert_int_equal(get_digest(r, NAMES_LINKS, repo, d, &v), link);
        compare_manifest(r, repo, d, tags[d]);
        expected.blobs += link;
        expected.manifests += manifest;
        expected.bytes += link || manifest ? size_of(d) : 0;
        links[d] += link || manifest;
        bool refers = manifest && r->model.manifest[repo][d].subject >= 0;
        assert_int_equal(has_index_row(r, repo, d), refers);
        total[NAMES_REFERRERS] += refers;
        total[NAMES_INDEX] += refers;
    }
    bool there = get(r, NAMES_REPOS, (const uint8_t *)name, strlen(name), &v);
    assert_int_equal(there, r->model.repo[repo]);
    if (there)
        memcpy(&row, v.data, sizeof(row));
    assert_int_equal(row.tags, expected.tags);
    assert_int_equal(row.blobs, expected.blobs);
    assert_int_equal(row.manifests, expected.manifests);
    assert_int_equal(row.bytes, expected.bytes);
    total[NAMES_REPOS] += there;
    total[NAMES_TAGS] += expected.tags;
    total[NAMES_INDEX] += expected.tags;
    total[NAMES_LINKS] += expected.blobs;
    total[NAMES_MANIFESTS] += expected.manifests;
}

/* How many sets of holders something has, and whether each one's row says how much that is. */
static size_t compare_held(struct run *r, const uint64_t links[DIGESTS])
{
    size_t sets = 0;
    for (unsigned bits = 0; bits < 1u << NODES; bits++) {
        struct cmd_holders h = holders_of(bits);
        struct names_blob b = {.holder_count = h.count};
        struct names_held expected = {0}, row = {0};
        uint8_t key[NAMES_HELD_KEY_MAX];
        struct kv_bytes v;
        memcpy(b.holder, h.id, sizeof(b.holder));
        for (int d = 0; d < DIGESTS; d++) {
            bool counts = r->model.told[d] && links[d] && r->model.holders[d] == bits;
            expected.blobs += counts;
            expected.bytes += counts ? size_of(d) : 0;
        }
        if (get(r, NAMES_HELD, key, names_held_key(key, &b), &v))
            memcpy(&row, v.data, sizeof(row));
        assert_memory_equal(&row, &expected, sizeof(row));
        sets += expected.blobs > 0;
    }
    return sets;
}

static void compare_blob(struct run *r, int d, const struct names_blob *row, uint64_t links)
{
    struct cmd_holders h = holders_of(r->model.holders[d]);
    assert_int_equal(row->links, links);
    assert_int_equal(row->size, size_of(d));
    assert_int_equal(row->version, r->model.told[d] ? NAMES_BLOB_VERSION : 0);
    assert_int_equal(row->holder_count, h.count);
    assert_memory_equal(row->holder, h.id, sizeof(h.id));
}

/* What all blobs take is counted without a walk, each once. */
static void compare_totals(struct run *r, const uint64_t links[DIGESTS])
{
    struct names_totals expected = {0}, row = {0};
    (void)state_totals_read(&r->m.kv, &row);
    for (int d = 0; d < DIGESTS; d++) {
        expected.blobs += r->model.known[d];
        expected.bytes += r->model.known[d] ? size_of(d) : 0;
        expected.free_blobs += r->model.known[d] && !links[d];
        expected.free_bytes += r->model.known[d] && !links[d] ? size_of(d) : 0;
    }
    assert_memory_equal(&row, &expected, sizeof(row));
}

/* Every row is one that the model has, and there are no others. */
static void compare(struct run *r)
{
    size_t total[NAMES_DB_COUNT] = {0};
    uint64_t links[DIGESTS] = {0};
    for (int repo = 0; repo < REPOS; repo++)
        compare_repo(r, repo, total, links);
    for (int d = 0; d < DIGESTS; d++) {
        uint8_t key[DIGEST_PACKED_MAX];
        struct digest digest = digest_of(d);
        struct kv_bytes v;
        struct names_blob row;
        assert_int_equal(get(r, NAMES_BLOBS, key, digest_pack(&digest, key), &v), r->model.known[d]);
        total[NAMES_BLOBS] += r->model.known[d];
        if (!r->model.known[d])
            continue;
        assert_true(names_blob_read(v.data, v.len, &row));
        compare_blob(r, d, &row, links[d]);
    }
    total[NAMES_HELD] = compare_held(r, links);
    total[NAMES_MARKS] = total[NAMES_BLOBS] > 0;
    compare_totals(r, links);
    for (int db = 0; db < NAMES_DB_COUNT; db++)
        assert_int_equal(r->m.db[db].count, total[db]);
}

/* Made anew of the other rows, while commands come in between, it is what it was, whatever is in it before.
 */
static void compare_index(struct run *r)
{
    struct state_index at = {0};
    uint8_t key[NAMES_KEY_MAX];
    for (size_t i = r->m.db[NAMES_INDEX].count; i-- > 0;) {
        const struct kv_memory_row *row = &r->m.db[NAMES_INDEX].row[i];
        if (pick(r, 2))
            assert_int_equal(kv_del(&r->m.kv, NAMES_INDEX, (struct kv_bytes){row->key, row->key_len}), 0);
    }
    for (int i = 0; i < 10; i++) {
        struct digest digest = digest_of((int)pick(r, DIGESTS));
        const char *name = repo_names[pick(r, REPOS)], *tag = tag_names[pick(r, TAGS)];
        size_t len = names_key_index_tag(key, name, strlen(name), &digest, tag, strlen(tag));
        assert_int_equal(kv_put(&r->m.kv, NAMES_INDEX, (struct kv_bytes){key, len}, (struct kv_bytes){"", 0}),
                         0);
    }
    for (int i = 1; at.phase != STATE_INDEX_WHOLE; i++) {
        struct state_tx tx = {.kv = &r->m.kv};
        assert_int_equal(state_index_step(&r->m.kv, &at, 1 + pick(r, 3)), 0);
        enum cmd_status expected = do_random(r);
        assert_int_equal(state_apply(&tx, (uint64_t)(COMMANDS + i), r->b.buf, r->b.w.len, &r->ev), 0);
        assert_int_equal(r->ev.status, expected);
    }
    compare(r);
}

static void run_seed(uint64_t seed)
{
    struct run *r = calloc(1, sizeof(*r));
    uint64_t seen[CMD_STATUS_COUNT] = {0};
    kv_memory_init(&r->m);
    memset(r->model.tag, -1, sizeof(r->model.tag));
    r->random = seed;
    for (int i = 1; i <= COMMANDS; i++) {
        struct state_tx tx = {.kv = &r->m.kv};
        uint64_t writes = r->m.writes;
        r->time_ms = (uint64_t)i;
        enum cmd_status expected = do_random(r);
        assert_int_equal(state_apply(&tx, (uint64_t)i, r->b.buf, r->b.w.len, &r->ev), 0);
        assert_int_equal(r->ev.status, expected);
        assert_int_equal(r->ev.changed, r->m.writes != writes);
        seen[expected]++;
        compare(r);
    }
    compare_index(r);
    assert_true(seen[CMD_OK] > COMMANDS / 4 && seen[CMD_BLOB_UNKNOWN] && seen[CMD_TAG_UNKNOWN] &&
                seen[CMD_MANIFEST_UNKNOWN] && seen[CMD_REPO_UNKNOWN] && seen[CMD_INVALID]);
    kv_memory_fini(&r->m);
    free(r);
}

static void test_model(void **state)
{
    const char *given = getenv("FL_SEED");
    (void)state;
    for (uint64_t seed = 1; seed <= 5; seed++) {
        uint64_t use = given ? strtoull(given, NULL, 0) : seed * 0x9e3779b97f4a7c15ull;
        print_message("seed %llu\n", (unsigned long long)use);
        run_seed(use);
        if (given)
            break;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_model)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
