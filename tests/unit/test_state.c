/* SPDX-License-Identifier: Apache-2.0 */
/* The state machine, rule by rule. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "control/state/state.h"
#include "state_fixture.h"

static enum cmd_status apply(struct fixture *f)
{
    assert_false(f->b.w.failed);
    enum cmd_status status = fixture_apply(f, f->b.w.buf, f->b.w.len);
    assert_int_equal(f->ev.index, f->index);
    return status;
}

static enum cmd_status link_blob(struct fixture *f, const char *repo, unsigned seed, uint64_t size)
{
    struct digest d = digest_make(DIGEST_SHA256, seed);
    cmd_blob_link(&f->b, 1000 + f->index, repo, &d, size);
    return apply(f);
}

static struct names_repo repo_row(struct fixture *f, const char *repo)
{
    struct kv_bytes v;
    struct names_repo row;
    assert_int_equal(kv_get(&f->m.kv, NAMES_REPOS, (struct kv_bytes){repo, strlen(repo)}, &v), 0);
    assert_int_equal(v.len, sizeof(row));
    memcpy(&row, v.data, sizeof(row));
    return row;
}

static bool row_of(struct fixture *f, unsigned db, const char *repo, const struct digest *d,
                   struct kv_bytes *v)
{
    uint8_t key[NAMES_KEY_MAX];
    size_t len = names_key_digest(key, repo, strlen(repo), d);
    return kv_get(&f->m.kv, db, (struct kv_bytes){key, len}, v) == 0;
}

static struct names_blob blob_row(struct fixture *f, unsigned seed)
{
    struct digest d = digest_make(DIGEST_SHA256, seed);
    uint8_t key[DIGEST_PACKED_MAX];
    struct kv_bytes v;
    struct names_blob row;
    assert_int_equal(kv_get(&f->m.kv, NAMES_BLOBS, (struct kv_bytes){key, digest_pack(&d, key)}, &v), 0);
    assert_true(names_blob_read(v.data, v.len, &row));
    return row;
}

static struct cmd_build_manifest manifest_make(const char *repo, unsigned seed)
{
    return (struct cmd_build_manifest){.repo = repo,
                                       .media_type = "application/vnd.oci.image.manifest.v1+json",
                                       .digest = digest_make(DIGEST_SHA256, seed),
                                       .size = 500};
}

static enum cmd_status put_manifest(struct fixture *f, const struct cmd_build_manifest *m)
{
    cmd_manifest_put(&f->b, 2000 + f->index, m);
    return apply(f);
}

static void test_link_makes_repository_and_counts_once(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(link_blob(f, "a/b", 1, 100), CMD_OK);
    assert_true(f->ev.changed);
    assert_int_equal(link_blob(f, "a/b", 1, 100), CMD_OK);
    assert_false(f->ev.changed);
    assert_int_equal(link_blob(f, "a/b", 2, 50), CMD_OK);
    assert_int_equal(link_blob(f, "other", 1, 100), CMD_OK);
    struct names_repo row = repo_row(f, "a/b");
    assert_int_equal(row.blobs, 2);
    assert_int_equal(row.bytes, 150);
    assert_int_equal(row.created_ms, 1000);
    assert_int_equal(row.updated_ms, 1002);
    assert_int_equal(blob_row(f, 1).links, 2);
    assert_int_equal(blob_row(f, 2).links, 1);
    assert_int_equal(link_blob(f, "third", 1, 101), CMD_INVALID);
    assert_true(f->ev.detail_len > 0);
    assert_int_equal(f->m.db[NAMES_REPOS].count, 2);
}

static void test_event_shows_who_and_what(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(link_blob(f, "a", 1, 100), CMD_OK);
    assert_int_equal(f->ev.cmd.head.type, CMD_BLOB_LINK);
    assert_int_equal(f->ev.cmd.head.time_ms, 1000);
    assert_memory_equal(f->ev.cmd.head.actor, "tester", 6);
    assert_memory_equal(f->ev.cmd.head.source, "127.0.0.1", 9);
    assert_memory_equal(f->ev.cmd.head.request_id, "r1", 2);
    assert_memory_equal(f->ev.cmd.repo.data, "a", 1);
    struct digest d = digest_make(DIGEST_SHA256, 1);
    assert_true(digest_equal(&f->ev.cmd.digest, &d));
}

static void test_mount(void **state)
{
    struct fixture *f = *state;
    struct digest d = digest_make(DIGEST_SHA256, 1);
    cmd_blob_mount(&f->b, 1, "to", &d, "");
    assert_int_equal(apply(f), CMD_BLOB_UNKNOWN);
    assert_int_equal(f->m.writes, 0);
    assert_int_equal(link_blob(f, "from", 1, 100), CMD_OK);
    cmd_blob_mount(&f->b, 1, "to", &d, "elsewhere");
    assert_int_equal(apply(f), CMD_BLOB_UNKNOWN);
    assert_int_equal(f->ev.detail_len, 33);
    cmd_blob_mount(&f->b, 1, "to", &d, "from");
    assert_int_equal(apply(f), CMD_OK);
    assert_int_equal(repo_row(f, "to").bytes, 100);
    cmd_blob_mount(&f->b, 1, "anon", &d, "");
    assert_int_equal(apply(f), CMD_OK);
    assert_int_equal(blob_row(f, 1).links, 3);
    const char *repos[] = {"from", "to", "anon"};
    for (int i = 0; i < 3; i++) {
        cmd_repo_digest(&f->b, CMD_BLOB_UNLINK, 1, repos[i], &d);
        assert_int_equal(apply(f), CMD_OK);
    }
    assert_int_equal(blob_row(f, 1).links, 0);
    cmd_blob_mount(&f->b, 1, "late", &d, "");
    assert_int_equal(apply(f), CMD_BLOB_UNKNOWN);
}

static void assert_holders(struct fixture *f, unsigned seed, const uint64_t *id, unsigned count)
{
    struct names_blob row = blob_row(f, seed);
    assert_int_equal(row.version, NAMES_BLOB_VERSION);
    assert_int_equal(row.holder_count, count);
    assert_memory_equal(row.holder, id, count * sizeof(*id));
}

static uint64_t held(struct fixture *f, const uint64_t *id, unsigned count)
{
    struct names_blob b = {.version = NAMES_BLOB_VERSION, .holder_count = (uint8_t)count};
    struct names_held row;
    uint8_t key[NAMES_HELD_KEY_MAX];
    struct kv_bytes v;
    memcpy(b.holder, id, count * sizeof(*id));
    if (kv_get(&f->m.kv, NAMES_HELD, (struct kv_bytes){key, names_held_key(key, &b)}, &v))
        return 0;
    memcpy(&row, v.data, sizeof(row));
    assert_int_equal(row.bytes, 100 * row.blobs);
    return row.blobs;
}

static enum cmd_status change_holders(struct fixture *f, unsigned seed, struct cmd_holders gained,
                                      struct cmd_holders lost)
{
    struct digest d = digest_make(DIGEST_SHA256, seed);
    cmd_blob_copies(&f->b, 1, &d, &gained, &lost);
    return apply(f);
}

/* Lets node `id` go if all of `needed` hold it. */
static enum cmd_status let_go(struct fixture *f, unsigned seed, uint64_t id, struct cmd_holders needed)
{
    struct digest d = digest_make(DIGEST_SHA256, seed);
    struct cmd_holders none = {0}, lost = {1, {id}};
    cmd_blob_copies(&f->b, 1, &d, &none, &lost);
    cmd_needed(&f->b, &needed);
    return apply(f);
}

/* Two nodes, each of which relies on the other: one of them lets go. */
static void test_holders_that_are_needed(void **state)
{
    struct fixture *f = *state;
    struct digest d = digest_make(DIGEST_SHA256, 1);
    static const uint64_t id[] = {1, 2, 3};
    cmd_blob_link(&f->b, 1, "a", &d, 100);
    cmd_holders_at_end(&f->b, 1, 3);
    assert_int_equal(apply(f), CMD_OK);
    assert_int_equal(let_go(f, 1, 1, (struct cmd_holders){2, {2, 3}}), CMD_OK);
    assert_holders(f, 1, id + 1, 2);
    uint64_t writes = f->m.writes;
    assert_int_equal(let_go(f, 1, 3, (struct cmd_holders){2, {1, 2}}), CMD_CONFLICT);
    assert_false(f->ev.changed);
    assert_int_equal(f->m.writes, writes);
    assert_holders(f, 1, id + 1, 2);
    assert_int_equal(let_go(f, 1, 3, (struct cmd_holders){2, {2, 9}}), CMD_CONFLICT);
    assert_int_equal(let_go(f, 1, 3, (struct cmd_holders){1, {2}}), CMD_OK);
    assert_int_equal(held(f, id + 1, 1), 1);
    assert_int_equal(let_go(f, 1, 2, (struct cmd_holders){0}), CMD_OK); /* it says so of itself: it is true */
    assert_int_equal(let_go(f, 7, 2, (struct cmd_holders){1, {2}}), CMD_BLOB_UNKNOWN);
}

static void test_holders_of_a_blob(void **state)
{
    struct fixture *f = *state;
    struct digest d = digest_make(DIGEST_SHA256, 1);
    static const uint64_t id[] = {1, 2, 3};
    assert_int_equal(change_holders(f, 1, (struct cmd_holders){1, {1}}, (struct cmd_holders){0}),
                     CMD_BLOB_UNKNOWN);
    assert_int_equal(f->m.writes, 0);
    /* As before there were holders: the row is the one of then. */
    assert_int_equal(link_blob(f, "a", 1, 100), CMD_OK);
    assert_int_equal(blob_row(f, 1).version, 0);
    assert_int_equal(f->m.db[NAMES_HELD].count, 0);
    /* Pushed again, into the same repository: it gains holders. */
    cmd_blob_link(&f->b, 1, "a", &d, 100);
    cmd_holders_at_end(&f->b, 1, 2);
    assert_int_equal(apply(f), CMD_OK);
    assert_true(f->ev.changed);
    assert_holders(f, 1, id, 2);
    assert_int_equal(held(f, id, 2), 1);
    uint64_t writes = f->m.writes;
    assert_int_equal(apply(f), CMD_OK);
    assert_false(f->ev.changed);
    assert_int_equal(f->m.writes, writes);
    /* Mounted: as it is. */
    cmd_blob_mount(&f->b, 1, "b", &d, "a");
    assert_int_equal(apply(f), CMD_OK);
    assert_int_equal(held(f, id, 2), 1);
    assert_int_equal(change_holders(f, 1, (struct cmd_holders){1, {3}}, (struct cmd_holders){1, {1}}),
                     CMD_OK);
    assert_holders(f, 1, id + 1, 2);
    assert_int_equal(held(f, id, 2), 0);
    assert_int_equal(held(f, id + 1, 2), 1);
    assert_int_equal(change_holders(f, 1, (struct cmd_holders){0}, (struct cmd_holders){3, {1, 2, 3}}),
                     CMD_OK);
    assert_holders(f, 1, id, 0);
    assert_int_equal(held(f, id, 0), 1);
    /* What nobody links is not counted, and is again when somebody does. */
    cmd_repo_delete(&f->b, 1, "a");
    assert_int_equal(apply(f), CMD_OK);
    assert_int_equal(held(f, id, 0), 1);
    cmd_repo_delete(&f->b, 1, "b");
    assert_int_equal(apply(f), CMD_OK);
    assert_int_equal(f->m.db[NAMES_HELD].count, 0);
    assert_int_equal(link_blob(f, "c", 1, 100), CMD_OK);
    assert_int_equal(held(f, id, 0), 1);
}

static uint64_t lives_below(void *arg, uint64_t node)
{
    return node < *(const uint64_t *)arg ? node : 0;
}

static void link_held(struct fixture *f, unsigned seed, uint64_t first, unsigned count)
{
    struct digest d = digest_make(DIGEST_SHA256, seed);
    cmd_blob_link(&f->b, 1, "a", &d, 100);
    cmd_holders_at_end(&f->b, first, count);
    assert_int_equal(apply(f), CMD_OK);
}

static void test_how_much_is_held(void **state)
{
    struct fixture *f = *state;
    struct state_held held;
    uint64_t limit = 5;
    link_held(f, 1, 1, 3);
    link_held(f, 2, 2, 2);
    link_held(f, 3, 4, 2); /* one of them lives */
    link_held(f, 4, 5, 2); /* none does */
    link_held(f, 5, 5, 2);
    assert_int_equal(link_blob(f, "a", 6, 100), CMD_OK); /* nobody was told of */
    assert_int_equal(state_held_read(&f->m.kv, 2, lives_below, &limit, &held), 0);
    assert_int_equal(held.blobs, 5);
    assert_int_equal(held.bytes, 500);
    assert_int_equal(held.endangered, 3);
    assert_int_equal(held.endangered_bytes, 300);
    assert_int_equal(held.lost, 2);
    assert_int_equal(held.surplus, 1);
    assert_int_equal(held.rows, 4);
    static const uint64_t living[BLOB_HOLDERS_MAX + 1] = {2, 1, 1, 1};
    assert_memory_equal(held.living, living, sizeof(living));
}

static void test_holders_of_a_manifest(void **state)
{
    struct fixture *f = *state;
    struct cmd_build_manifest m = manifest_make("a", 100);
    static const uint64_t id[] = {4, 5, 6, 7};
    m.size = 100;
    cmd_manifest_put(&f->b, 1, &m);
    cmd_holders_at_end(&f->b, 4, 2);
    assert_int_equal(apply(f), CMD_OK);
    assert_holders(f, 100, id, 2);
    cmd_manifest_put(&f->b, 1, &m);
    cmd_holders_at_end(&f->b, 6, 2);
    assert_int_equal(apply(f), CMD_OK);
    assert_true(f->ev.changed);
    assert_holders(f, 100, id, 4);
    assert_int_equal(held(f, id, 4), 1);
}

static void test_new_holders_displace_the_oldest(void **state)
{
    struct fixture *f = *state;
    struct digest d = digest_make(DIGEST_SHA256, 1);
    static const uint64_t id[] = {2, 5, 6, 7, 8, 9, 10, 11};
    cmd_blob_link(&f->b, 1, "a", &d, 100);
    cmd_holders_at_end(&f->b, 4, BLOB_HOLDERS_MAX);
    assert_int_equal(apply(f), CMD_OK);
    assert_int_equal(change_holders(f, 1, (struct cmd_holders){1, {2}}, (struct cmd_holders){0}), CMD_OK);
    assert_holders(f, 1, id, BLOB_HOLDERS_MAX);
    assert_int_equal(f->m.db[NAMES_HELD].count, 1);
}

static void test_holders_that_are_none(void **state)
{
    struct fixture *f = *state;
    struct digest d = digest_make(DIGEST_SHA256, 1);
    static const struct cmd_holders wrong[] = {{1, {0}}, {2, {2, 2}}, {2, {3, 1}}};
    for (size_t i = 0; i < 3; i++) {
        cmd_blob_link(&f->b, 1, "a", &d, 100);
        cmd_put_holders(&f->b.w, &wrong[i]);
        assert_int_equal(apply(f), CMD_INVALID);
    }
    cmd_blob_link(&f->b, 1, "a", &d, 100);
    wire_put_u8(&f->b.w, BLOB_HOLDERS_MAX + 1);
    for (uint64_t i = 1; i <= BLOB_HOLDERS_MAX + 1; i++)
        wire_put_u64(&f->b.w, i);
    assert_int_equal(apply(f), CMD_INVALID);
    cmd_blob_link(&f->b, 1, "a", &d, 100);
    cmd_holders_at_end(&f->b, 1, 2);
    f->b.w.len--;
    assert_int_equal(apply(f), CMD_INVALID);
    assert_int_equal(f->m.writes, 0);
}

static void test_unlink(void **state)
{
    struct fixture *f = *state;
    struct digest d = digest_make(DIGEST_SHA256, 1), other = digest_make(DIGEST_SHA256, 2);
    cmd_repo_digest(&f->b, CMD_BLOB_UNLINK, 1, "a", &d);
    assert_int_equal(apply(f), CMD_REPO_UNKNOWN);
    assert_int_equal(link_blob(f, "a", 1, 100), CMD_OK);
    cmd_repo_digest(&f->b, CMD_BLOB_UNLINK, 1, "a", &other);
    assert_int_equal(apply(f), CMD_BLOB_UNKNOWN);
    cmd_repo_digest(&f->b, CMD_BLOB_UNLINK, 1, "a", &d);
    assert_int_equal(apply(f), CMD_OK);
    assert_int_equal(repo_row(f, "a").blobs, 0);
    assert_int_equal(repo_row(f, "a").bytes, 0);
}

static void test_manifest_needs_its_blobs(void **state)
{
    struct fixture *f = *state;
    struct cmd_build_ref refs[20];
    struct cmd_build_manifest m = manifest_make("a", 100);
    for (unsigned i = 0; i < 20; i++)
        refs[i] = (struct cmd_build_ref){CMD_REF_BLOB, digest_make(DIGEST_SHA512, i)};
    m.refs = refs;
    m.refs_count = 20;
    assert_int_equal(put_manifest(f, &m), CMD_BLOB_UNKNOWN);
    assert_int_equal(f->ev.detail_len, STATE_MISSING_MAX * 65);
    assert_int_equal(f->m.writes, 0);
    for (unsigned i = 0; i < 20; i++) {
        cmd_blob_link(&f->b, 1, i == 7 ? "b" : "a", &refs[i].digest, 10);
        assert_int_equal(apply(f), CMD_OK);
    }
    uint64_t writes = f->m.writes;
    assert_int_equal(put_manifest(f, &m), CMD_BLOB_UNKNOWN);
    assert_int_equal(f->ev.detail_len, 65);
    struct digest missing;
    assert_int_equal(digest_unpack(f->ev.detail, f->ev.detail_len, &missing), 65);
    assert_true(digest_equal(&missing, &refs[7].digest));
    assert_int_equal(f->m.writes, writes);
}

static void test_index_needs_its_manifests_only_when_told(void **state)
{
    struct fixture *f = *state;
    struct cmd_build_ref ref = {CMD_REF_MANIFEST, digest_make(DIGEST_SHA256, 5)};
    struct cmd_build_manifest m = manifest_make("a", 100);
    m.refs = &ref;
    m.refs_count = 1;
    m.require_refs = CMD_REFS_ALL;
    assert_int_equal(put_manifest(f, &m), CMD_BLOB_UNKNOWN);
    assert_int_equal(f->ev.detail_len, 33);
    m.require_refs = CMD_REFS_BLOBS;
    assert_int_equal(put_manifest(f, &m), CMD_OK);
    struct cmd_build_manifest child = manifest_make("b", 5);
    assert_int_equal(put_manifest(f, &child), CMD_OK);
    m.repo = "b";
    m.require_refs = CMD_REFS_ALL;
    assert_int_equal(put_manifest(f, &m), CMD_OK);
}

static void test_copy_needs_nothing(void **state)
{
    struct fixture *f = *state;
    struct cmd_build_ref refs[] = {{CMD_REF_MANIFEST, digest_make(DIGEST_SHA256, 5)},
                                   {CMD_REF_BLOB, digest_make(DIGEST_SHA512, 6)}};
    struct cmd_build_manifest m = manifest_make("a", 100);
    m.refs = refs;
    m.refs_count = 2;
    m.require_refs = CMD_REFS_NONE;
    assert_int_equal(put_manifest(f, &m), CMD_OK);
    m.require_refs = CMD_REFS_BLOBS;
    assert_int_equal(put_manifest(f, &m), CMD_BLOB_UNKNOWN);
}

static void test_tags_move(void **state)
{
    struct fixture *f = *state;
    const char *tags[] = {"latest", "v1", "latest"};
    struct cmd_build_manifest one = manifest_make("a", 1), two = manifest_make("a", 2);
    struct kv_bytes v;
    struct names_manifest row;
    one.tags = two.tags = tags;
    one.tags_count = 3;
    assert_int_equal(put_manifest(f, &one), CMD_OK);
    assert_int_equal(repo_row(f, "a").tags, 2);
    two.tags_count = 1;
    assert_int_equal(put_manifest(f, &two), CMD_OK);
    assert_int_equal(repo_row(f, "a").tags, 2);
    assert_true(row_of(f, NAMES_MANIFESTS, "a", &one.digest, &v));
    memcpy(&row, v.data, sizeof(row));
    assert_int_equal(row.tag_count, 1);
    assert_true(row_of(f, NAMES_MANIFESTS, "a", &two.digest, &v));
    memcpy(&row, v.data, sizeof(row));
    assert_int_equal(row.tag_count, 1);
    assert_int_equal(put_manifest(f, &two), CMD_OK);
    assert_false(f->ev.changed);
    cmd_tag_delete(&f->b, 1, "a", "none");
    assert_int_equal(apply(f), CMD_TAG_UNKNOWN);
    cmd_tag_delete(&f->b, 1, "none", "v1");
    assert_int_equal(apply(f), CMD_REPO_UNKNOWN);
    cmd_tag_delete(&f->b, 1, "a", "v1");
    assert_int_equal(apply(f), CMD_OK);
    assert_int_equal(repo_row(f, "a").tags, 1);
    cmd_repo_digest(&f->b, CMD_MANIFEST_DELETE, 1, "a", &two.digest);
    assert_int_equal(apply(f), CMD_OK);
    assert_int_equal(repo_row(f, "a").tags, 0);
    assert_int_equal(repo_row(f, "a").manifests, 1);
    assert_int_equal(f->m.db[NAMES_TAGS].count, 0);
    cmd_repo_digest(&f->b, CMD_MANIFEST_DELETE, 1, "a", &two.digest);
    assert_int_equal(apply(f), CMD_MANIFEST_UNKNOWN);
}

static void index_put(struct fixture *f, const struct digest *d, const char *tag, bool put)
{
    uint8_t key[NAMES_KEY_MAX];
    struct kv_bytes k = {key, names_key_index_tag(key, "a", 1, d, tag, strlen(tag))};
    assert_int_equal(put ? kv_put(&f->m.kv, NAMES_INDEX, k, (struct kv_bytes){"", 0})
                         : kv_del(&f->m.kv, NAMES_INDEX, k),
                     0);
}

/* A version that did not know NAMES_INDEX has written a tag, and moved another one. */
static void test_tags_of_before(void **state)
{
    struct fixture *f = *state;
    const char *tags[] = {"v1", "v2", "v3"}, *other[] = {"w"};
    struct cmd_build_manifest one = manifest_make("a", 1), two = manifest_make("a", 2);
    one.tags = tags;
    one.tags_count = 3;
    two.tags = other;
    two.tags_count = 1;
    assert_int_equal(put_manifest(f, &one), CMD_OK);
    assert_int_equal(put_manifest(f, &two), CMD_OK);
    assert_int_equal(f->m.db[NAMES_INDEX].count, 4);
    index_put(f, &one.digest, "v2", false);
    index_put(f, &one.digest, "w", true);
    index_put(f, &one.digest, "u", true);
    cmd_repo_digest(&f->b, CMD_MANIFEST_DELETE, 1, "a", &one.digest);
    assert_int_equal(apply(f), CMD_OK);
    assert_int_equal(repo_row(f, "a").tags, 1);
    assert_int_equal(f->m.db[NAMES_TAGS].count, 1);
    cmd_repo_digest(&f->b, CMD_MANIFEST_DELETE, 1, "a", &two.digest);
    assert_int_equal(apply(f), CMD_OK);
    assert_int_equal(repo_row(f, "a").tags, 0);
    assert_int_equal(f->m.db[NAMES_INDEX].count,
                     2); /* those that nobody has made: they go with the repository */
    cmd_repo_delete(&f->b, 1, "a");
    assert_int_equal(apply(f), CMD_OK);
    assert_int_equal(f->m.db[NAMES_INDEX].count, 0);
}

static unsigned asked; /* of the rows */

static int counted_get(struct kv *kv, unsigned db, struct kv_bytes key, struct kv_bytes *value)
{
    asked++;
    return kv_memory_get(kv, db, key, value);
}

static int counted_seek(struct kv *kv, unsigned db, struct kv_bytes from, bool after, struct kv_bytes *key,
                        struct kv_bytes *value)
{
    asked++;
    return kv_memory_seek(kv, db, from, after, key, value);
}

/* Who deletes a manifest with two tags looks at these, however many others the repository has. */
static void test_delete_costs_its_tags(void **state)
{
    enum { OTHERS = 300 };
    const struct kv_ops counted = {counted_get, kv_memory_put, kv_memory_del, counted_seek};
    struct fixture *f = *state;
    for (unsigned i = 0; i <= OTHERS; i++) {
        char text[2][16];
        const char *tags[2] = {text[0], text[1]};
        struct cmd_build_manifest m = manifest_make("a", i);
        snprintf(text[0], sizeof(text[0]), "a%u", i);
        snprintf(text[1], sizeof(text[1]), "z%u", i);
        m.tags = tags;
        m.tags_count = 2;
        assert_int_equal(put_manifest(f, &m), CMD_OK);
    }
    struct digest last = manifest_make("a", OTHERS).digest;
    cmd_repo_digest(&f->b, CMD_MANIFEST_DELETE, 1, "a", &last);
    f->m.kv.ops = &counted;
    asked = 0;
    assert_int_equal(apply(f), CMD_OK);
    f->m.kv.ops = &kv_memory_ops;
    assert_int_equal(repo_row(f, "a").tags, 2 * OTHERS);
    assert_true(asked < 50);
}

static void test_referrers(void **state)
{
    struct fixture *f = *state;
    struct digest subject = digest_make(DIGEST_SHA512, 9);
    struct cmd_build_manifest m = manifest_make("a", 1);
    m.subject = &subject;
    m.artifact_type = "application/sbom";
    m.descriptor = "{\"size\":500}";
    assert_int_equal(put_manifest(f, &m), CMD_OK);
    assert_int_equal(f->m.db[NAMES_REFERRERS].count, 1);
    const struct kv_memory_row *row = &f->m.db[NAMES_REFERRERS].row[0];
    assert_int_equal(row->key_len, 2 + 65 + 33);
    assert_int_equal(row->value[0], 16);
    assert_memory_equal(row->value + 2, "application/sbom{\"size\":500}", 28);
    assert_int_equal(row->value_len, 30);
    assert_int_equal(put_manifest(f, &m), CMD_OK);
    assert_false(f->ev.changed);
    /* The same bytes under another type: one row, with the new text. */
    m.artifact_type = "application/other";
    assert_int_equal(put_manifest(f, &m), CMD_OK);
    assert_true(f->ev.changed);
    assert_int_equal(f->m.db[NAMES_REFERRERS].count, 1);
    assert_int_equal(f->m.db[NAMES_REFERRERS].row[0].value[0], 17);
    assert_int_equal(repo_row(f, "a").manifests, 1);
    cmd_repo_digest(&f->b, CMD_MANIFEST_DELETE, 1, "a", &m.digest);
    assert_int_equal(apply(f), CMD_OK);
    assert_int_equal(f->m.db[NAMES_REFERRERS].count, 0);
}

static void test_digest_that_is_blob_and_manifest_counts_once(void **state)
{
    struct fixture *f = *state;
    struct cmd_build_manifest m = manifest_make("a", 1);
    assert_int_equal(link_blob(f, "a", 1, 500), CMD_OK);
    assert_int_equal(put_manifest(f, &m), CMD_OK);
    assert_int_equal(repo_row(f, "a").bytes, 500);
    assert_int_equal(blob_row(f, 1).links, 1);
    cmd_repo_digest(&f->b, CMD_BLOB_UNLINK, 1, "a", &m.digest);
    assert_int_equal(apply(f), CMD_OK);
    assert_int_equal(repo_row(f, "a").bytes, 500);
    assert_int_equal(blob_row(f, 1).links, 1);
    cmd_repo_digest(&f->b, CMD_MANIFEST_DELETE, 1, "a", &m.digest);
    assert_int_equal(apply(f), CMD_OK);
    assert_int_equal(repo_row(f, "a").bytes, 0);
    assert_int_equal(blob_row(f, 1).links, 0);
}

static void test_repo_delete_leaves_neighbours(void **state)
{
    struct fixture *f = *state;
    const char *tags[] = {"x", "y"}, *repos[] = {"a", "a/b", "aa"};
    struct digest subject = digest_make(DIGEST_SHA256, 77);
    for (int i = 0; i < 3; i++) {
        struct cmd_build_manifest m = manifest_make(repos[i], 1);
        m.tags = tags;
        m.tags_count = 2;
        m.subject = &subject;
        m.descriptor = "{}";
        assert_int_equal(link_blob(f, repos[i], 1, 500), CMD_OK);
        assert_int_equal(link_blob(f, repos[i], 2, 5), CMD_OK);
        assert_int_equal(put_manifest(f, &m), CMD_OK);
    }
    cmd_repo_delete(&f->b, 1, "a");
    assert_int_equal(apply(f), CMD_OK);
    assert_int_equal(apply(f), CMD_REPO_UNKNOWN);
    assert_int_equal(f->m.db[NAMES_REPOS].count, 2);
    assert_int_equal(f->m.db[NAMES_TAGS].count, 4);
    assert_int_equal(f->m.db[NAMES_MANIFESTS].count, 2);
    assert_int_equal(f->m.db[NAMES_LINKS].count, 4);
    assert_int_equal(f->m.db[NAMES_REFERRERS].count, 2);
    assert_int_equal(blob_row(f, 1).links, 2);
}

static int check_one(const char *key, size_t key_len, const char *value, size_t value_len, char *err,
                     size_t len)
{
    if (key_len != 3 || memcmp(key, "one", 3) != 0)
        return -ENOENT;
    if (value && (value_len != 1 || value[0] != '1')) {
        snprintf(err, len, "must be 1");
        return -EINVAL;
    }
    return 0;
}

static void test_settings(void **state)
{
    struct fixture *f = *state;
    struct state_setting_check check = {check_one};
    char err[64] = "";
    cmd_setting_set(&f->b, 1, "one", "2");
    assert_int_equal(state_check(f->b.buf, f->b.w.len, &check, err, sizeof(err)), CMD_INVALID);
    assert_string_equal(err, "must be 1");
    cmd_setting_set(&f->b, 1, "two", "2");
    assert_int_equal(state_check(f->b.buf, f->b.w.len, &check, err, sizeof(err)), CMD_SETTING_UNKNOWN);
    cmd_setting_set(&f->b, 1, "one", "1");
    assert_int_equal(state_check(f->b.buf, f->b.w.len, &check, err, sizeof(err)), CMD_OK);
    assert_int_equal(apply(f), CMD_OK);
    assert_true(f->ev.changed);
    assert_int_equal(apply(f), CMD_OK);
    assert_false(f->ev.changed);
    struct kv_bytes v;
    assert_int_equal(kv_get(&f->m.kv, PRIVATE_DATA, (struct kv_bytes){"setting:one", 11}, &v), 0);
    assert_int_equal(v.len, 1);
    cmd_begin(&f->b, CMD_SETTING_UNSET, 1);
    cmd_text(&f->b, "one");
    assert_int_equal(apply(f), CMD_OK);
    assert_true(f->ev.changed);
    assert_int_equal(apply(f), CMD_OK);
    assert_false(f->ev.changed);
    assert_int_equal(f->m.db[PRIVATE_DATA].count, 0);
}

static void test_file_that_has_it_is_left_alone(void **state)
{
    struct fixture *f = *state;
    struct digest d = digest_make(DIGEST_SHA256, 1);
    struct state_tx tx = {.kv = &f->m.kv, .names_done = true};
    cmd_blob_link(&f->b, 1, "a", &d, 1);
    assert_int_equal(state_apply(&tx, 1, f->b.buf, f->b.w.len, &f->ev), 0);
    assert_int_equal(f->m.writes, 0);
    cmd_setting_set(&f->b, 1, "one", "1");
    assert_int_equal(state_apply(&tx, 2, f->b.buf, f->b.w.len, &f->ev), 0);
    assert_int_equal(f->m.writes, 1);
}

static void test_foreign_entries_stop_the_node(void **state)
{
    struct fixture *f = *state;
    struct digest d = digest_make(DIGEST_SHA256, 1);
    struct state_tx tx = {.kv = &f->m.kv};
    const size_t at[] = {0, 4, 6}; /* magic, version, type */
    for (int i = 0; i < 3; i++) {
        cmd_blob_link(&f->b, 1, "a", &d, 1);
        f->b.buf[at[i]] = 99;
        assert_int_equal(state_apply(&tx, 1, f->b.buf, f->b.w.len, &f->ev), -EPROTO);
    }
    assert_int_equal(state_apply(&tx, 1, f->b.buf, 5, &f->ev), -EPROTO);
    assert_int_equal(f->m.writes, 0);
}

/* Every cut of every command is refused without a trace, and so is every command with a byte too many. */
static void test_malformed_commands_change_nothing(void **state)
{
    struct fixture *f = *state;
    struct state_tx tx = {.kv = &f->m.kv};
    const char *tags[] = {"t"};
    struct cmd_build_ref ref = {CMD_REF_MANIFEST, digest_make(DIGEST_SHA256, 5)};
    struct cmd_build_manifest m = manifest_make("a", 1);
    m.subject = &ref.digest;
    m.descriptor = "{}";
    m.refs = &ref;
    m.refs_count = 1;
    m.tags = tags;
    m.tags_count = 1;
    cmd_manifest_put(&f->b, 1, &m);
    size_t len = f->b.w.len;
    for (size_t cut = 8; cut < len; cut++) {
        uint8_t *exact = malloc(cut);
        memcpy(exact, f->b.buf, cut);
        assert_int_equal(state_apply(&tx, 1, exact, cut, &f->ev), 0);
        assert_int_equal(f->ev.status, CMD_INVALID);
        free(exact);
    }
    f->b.buf[len] = 0;
    assert_int_equal(state_apply(&tx, 1, f->b.buf, len + 1, &f->ev), 0);
    assert_int_equal(f->ev.status, CMD_INVALID);
    assert_int_equal(f->m.writes, 0);
    assert_int_equal(state_apply(&tx, 1, f->b.buf, len, &f->ev), 0);
    assert_int_equal(f->ev.status, CMD_OK);
}

static void test_limits(void **state)
{
    struct fixture *f = *state;
    struct digest d = digest_make(DIGEST_SHA256, 1);
    struct cmd_build_manifest m = manifest_make("a", 1);
    const char *tags[MANIFEST_TAGS_MAX + 1];
    m.size = MANIFEST_BYTES_CEILING + 1ull;
    assert_int_equal(put_manifest(f, &m), CMD_TOO_LARGE);
    m.size = 1;
    for (int i = 0; i <= MANIFEST_TAGS_MAX; i++)
        tags[i] = "t";
    m.tags = tags;
    m.tags_count = MANIFEST_TAGS_MAX + 1;
    assert_int_equal(put_manifest(f, &m), CMD_TOO_LARGE);
    m.tags_count = MANIFEST_TAGS_MAX;
    assert_int_equal(put_manifest(f, &m), CMD_OK);
    cmd_blob_link(&f->b, 1, "Upper", &d, 1);
    assert_int_equal(apply(f), CMD_INVALID);
    tags[0] = "-bad";
    assert_int_equal(put_manifest(f, &m), CMD_INVALID);
    tags[0] = "t";
    m.descriptor = "{}"; /* without a subject */
    assert_int_equal(put_manifest(f, &m), CMD_INVALID);
}

static void test_names(void **state)
{
    (void)state;
    const char *good[] = {"a", "library/alpine", "a.b", "a_b", "a__b", "a---b", "0/1/2", "a-b.c__d/e"};
    const char *bad[] = {"",   "/a",   "a/",   "a//b", "A",   "a..b", "a___b",    ".a",  "a.",   "-a",
                         "a-", "a._b", "a/-b", "a b",  "a\n", "a_-b", "\xc3\xa9", "a:b", "../a", "a/../b"};
    for (size_t i = 0; i < ARRAY_SIZE(good); i++)
        assert_true(state_repo_name_valid(good[i], strlen(good[i])));
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_false(state_repo_name_valid(bad[i], strlen(bad[i])));
    assert_false(state_repo_name_valid("a\0b", 3));
    char longest[257];
    memset(longest, 'a', sizeof(longest));
    assert_true(state_repo_name_valid(longest, 255));
    assert_false(state_repo_name_valid(longest, 256));
    assert_true(state_tag_valid(longest, 128));
    assert_false(state_tag_valid(longest, 129));
    assert_true(state_tag_valid("_v1.0-RC", 8));
    assert_false(state_tag_valid(".x", 2));
    assert_false(state_tag_valid("-x", 2));
    assert_false(state_tag_valid("a/b", 3));
    assert_false(state_tag_valid("", 0));
    assert_false(state_tag_valid("a\0", 2));
}

/* A row that contradicts another one is found, not spread. */
static void test_broken_rows_stop_the_node(void **state)
{
    struct fixture *f = *state;
    struct digest d = digest_make(DIGEST_SHA256, 1);
    struct state_tx tx = {.kv = &f->m.kv};
    uint8_t key[DIGEST_PACKED_MAX];
    assert_int_equal(link_blob(f, "a", 1, 10), CMD_OK);
    assert_int_equal(kv_del(&f->m.kv, NAMES_BLOBS, (struct kv_bytes){key, digest_pack(&d, key)}), 0);
    cmd_repo_digest(&f->b, CMD_BLOB_UNLINK, 1, "a", &d);
    assert_int_equal(state_apply(&tx, 2, f->b.buf, f->b.w.len, &f->ev), -EUCLEAN);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_link_makes_repository_and_counts_once),
        T(test_event_shows_who_and_what),
        T(test_mount),
        T(test_holders_of_a_blob),
        T(test_holders_that_are_needed),
        T(test_how_much_is_held),
        T(test_holders_of_a_manifest),
        T(test_new_holders_displace_the_oldest),
        T(test_holders_that_are_none),
        T(test_unlink),
        T(test_manifest_needs_its_blobs),
        T(test_index_needs_its_manifests_only_when_told),
        T(test_copy_needs_nothing),
        T(test_tags_move),
        T(test_tags_of_before),
        T(test_delete_costs_its_tags),
        T(test_referrers),
        T(test_digest_that_is_blob_and_manifest_counts_once),
        T(test_repo_delete_leaves_neighbours),
        T(test_settings),
        T(test_file_that_has_it_is_left_alone),
        T(test_foreign_entries_stop_the_node),
        T(test_malformed_commands_change_nothing),
        T(test_limits),
        T(test_names),
        T(test_broken_rows_stop_the_node),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
