/* SPDX-License-Identifier: Apache-2.0 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include <cmocka.h>

#include "dataplane/store/names.h"
#include "names_writer.h"

struct fixture {
    struct names_writer w;
    struct names_file *file;
    struct names *n;
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    const char *why = "";
    writer_open(&f->w);
    if (names_file_open(f->w.path, f->w.epochs, &f->file, &why) || names_new(f->file, 3, &f->n)) {
        print_error("%s\n", why);
        return -1;
    }
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    names_free(f->n);
    names_file_close(f->file);
    writer_close(&f->w);
    free(f);
    return 0;
}

#define REPO VIEW_LIT("library/x")

static void test_lookups(void **state)
{
    struct fixture *f = *state;
    struct digest d = test_digest(DIGEST_SHA256, 1), subject = test_digest(DIGEST_SHA512, 2), got;
    struct names_manifest_record m;
    struct names_link link;
    struct names_blob blob;
    struct names_repo repo;
    writer_begin(&f->w);
    writer_repo(&f->w, "library/x");
    writer_tag(&f->w, "library/x", "latest", &d);
    writer_manifest(&f->w, "library/x", &d, 1234, "application/a", "application/b", &subject);
    writer_link(&f->w, "library/x", &d, 99);
    writer_commit(&f->w);

    assert_int_equal(names_begin(f->n), 0);
    assert_int_equal(names_tag_get(f->n, REPO, VIEW_LIT("latest"), &got), 0);
    assert_true(digest_equal(&got, &d));
    assert_int_equal(names_manifest_get(f->n, REPO, &d, &m), 0);
    assert_int_equal(m.size, 1234);
    assert_memory_equal(m.media_type, "application/a", m.media_type_len);
    assert_memory_equal(m.artifact_type, "application/b", m.artifact_type_len);
    assert_true(m.has_subject && digest_equal(&m.subject, &subject));
    assert_int_equal(names_link_get(f->n, REPO, &d, &link), 0);
    assert_int_equal(link.size, 99);
    assert_int_equal(names_blob_get(f->n, &d, &blob), 0);
    assert_int_equal(blob.links, 1);
    assert_int_equal(names_repo_get(f->n, REPO, &repo), 0);

    assert_int_equal(names_tag_get(f->n, REPO, VIEW_LIT("none"), &got), -ENOENT);
    assert_int_equal(names_tag_get(f->n, VIEW_LIT("library"), VIEW_LIT("latest"), &got), -ENOENT);
    assert_int_equal(names_manifest_get(f->n, REPO, &subject, &m), -ENOENT);
    assert_int_equal(names_link_get(f->n, VIEW_LIT("other"), &d, &link), -ENOENT);
    names_end(f->n);
}

static void test_keys_too_long_are_not_there(void **state)
{
    struct fixture *f = *state;
    static const char text[600];
    struct digest got;
    struct names_repo repo;
    assert_int_equal(names_begin(f->n), 0);
    assert_int_equal(names_tag_get(f->n, view_of(text, 500), view_of(text, 100), &got), -EINVAL);
    assert_int_equal(names_repo_get(f->n, view_of(text, 512), &repo), -EINVAL);
    assert_int_equal(names_repo_get(f->n, view_of(text, 0), &repo), -EINVAL);
    names_end(f->n);
}

/* Values that are not of their form are errors, whatever their length, and never read past. */
static void test_broken_values(void **state)
{
    struct fixture *f = *state;
    struct digest d = test_digest(DIGEST_SHA256, 7), got;
    struct names_manifest_record m;
    struct names_link link;
    struct names_blob blob;
    struct names_repo repo;
    uint8_t key[NAMES_KEY_MAX], value[128] = {0};
    for (size_t len = 0; len < sizeof(value); len++) {
        writer_begin(&f->w);
        writer_put(&f->w, NAMES_TAGS, key, names_key(key, "library/x", 9, "t", 1), value, len);
        writer_put(&f->w, NAMES_LINKS, key, names_key_digest(key, "library/x", 9, &d), value, len);
        writer_put(&f->w, NAMES_REPOS, "library/x", 9, value, len);
        writer_put(&f->w, NAMES_BLOBS, key, digest_pack(&d, key), value, len);
        writer_commit(&f->w);
        assert_int_equal(names_begin(f->n), 0);
        /* All zero is no digest, so no length is right for a tag. */
        assert_int_equal(names_tag_get(f->n, REPO, VIEW_LIT("t"), &got), -EIO);
        assert_int_equal(names_link_get(f->n, REPO, &d, &link), len == sizeof(link) ? 0 : -EIO);
        assert_int_equal(names_repo_get(f->n, REPO, &repo), len == sizeof(repo) ? 0 : -EIO);
        assert_int_equal(names_blob_get(f->n, &d, &blob),
                         len == offsetof(struct names_blob, version) ? 0 : -EIO);
        names_end(f->n);
    }
    struct names_manifest head = {.media_type_len = 20, .artifact_type_len = 30, .has_subject = 1};
    for (size_t len = 0; len < sizeof(head) + 20 + 30 + 33; len++) {
        memcpy(value, &head, sizeof(head));
        value[sizeof(head) + 50] = DIGEST_SHA256;
        writer_begin(&f->w);
        writer_put(&f->w, NAMES_MANIFESTS, key, names_key_digest(key, "library/x", 9, &d), value, len);
        writer_commit(&f->w);
        assert_int_equal(names_begin(f->n), 0);
        assert_int_equal(names_manifest_get(f->n, REPO, &d, &m), -EIO);
        names_end(f->n);
    }
    head.media_type_len = MEDIA_TYPE_MAX + 1;
    head.has_subject = 0;
    uint8_t large[sizeof(head) + 400] = {0};
    memcpy(large, &head, sizeof(head));
    writer_begin(&f->w);
    writer_put(&f->w, NAMES_MANIFESTS, key, names_key_digest(key, "library/x", 9, &d), large, sizeof(large));
    writer_commit(&f->w);
    assert_int_equal(names_begin(f->n), 0);
    assert_int_equal(names_manifest_get(f->n, REPO, &d, &m), -EIO);
    names_end(f->n);
}

struct seen {
    char text[512];
    size_t len;
    unsigned stop_after;
};

static bool see(void *ctx, struct view v)
{
    struct seen *s = ctx;
    memcpy(s->text + s->len, v.p, v.len);
    s->len += v.len;
    s->text[s->len++] = ' ';
    s->text[s->len] = '\0';
    return s->stop_after == 0 || --s->stop_after > 0;
}

static const char *tags_after(struct fixture *f, const char *repo, const char *after, unsigned max,
                              unsigned stop_after, int *count)
{
    static struct seen s;
    s = (struct seen){.stop_after = stop_after};
    assert_int_equal(names_begin(f->n), 0);
    *count = names_each_tag(f->n, view_of_str(repo), view_of_str(after), max, see, &s);
    names_end(f->n);
    return s.text;
}

static void test_walks(void **state)
{
    struct fixture *f = *state;
    struct digest d = test_digest(DIGEST_SHA256, 1);
    struct seen s = {0};
    int count;
    writer_begin(&f->w);
    const char *const repos[] = {"a", "a/b", "ab", "b"};
    for (unsigned i = 0; i < ARRAY_SIZE(repos); i++)
        writer_repo(&f->w, repos[i]);
    writer_tag(&f->w, "a", "1", &d);
    writer_tag(&f->w, "a", "10", &d);
    writer_tag(&f->w, "a", "2", &d);
    writer_tag(&f->w, "a", "A", &d);
    writer_tag(&f->w, "a", "a", &d);
    writer_tag(&f->w, "ab", "other", &d);
    writer_commit(&f->w);

    assert_string_equal(tags_after(f, "a", "", 100, 0, &count), "1 10 2 A a ");
    assert_int_equal(count, 5);
    assert_string_equal(tags_after(f, "a", "10", 100, 0, &count), "2 A a ");
    assert_string_equal(tags_after(f, "a", "100", 100, 0, &count), "2 A a "); /* one that is not there */
    assert_string_equal(tags_after(f, "a", "a", 100, 0, &count), "");
    assert_int_equal(count, 0);
    assert_string_equal(tags_after(f, "a", "", 2, 0, &count), "1 10 ");
    assert_string_equal(tags_after(f, "a", "", 0, 0, &count), "");
    assert_string_equal(tags_after(f, "a", "", 100, 3, &count), "1 10 2 ");
    assert_int_equal(count, 3);
    assert_string_equal(tags_after(f, "a/b", "", 100, 0, &count), "");
    assert_string_equal(tags_after(f, "ab", "", 100, 0, &count), "other ");

    assert_int_equal(names_begin(f->n), 0);
    assert_int_equal(names_each_repo(f->n, (struct view){0}, 100, see, &s), 4);
    assert_string_equal(s.text, "a a/b ab b ");
    s = (struct seen){0};
    assert_int_equal(names_each_repo(f->n, VIEW_LIT("a/b"), 100, see, &s), 2);
    assert_string_equal(s.text, "ab b ");
    names_end(f->n);
}

static bool see_referrer(void *ctx, const struct names_referrer *r)
{
    see(ctx, r->artifact_type);
    return see(ctx, r->descriptor);
}

static void test_referrers(void **state)
{
    struct fixture *f = *state;
    struct digest subject = test_digest(DIGEST_SHA256, 5), other = test_digest(DIGEST_SHA256, 6);
    struct digest a = test_digest(DIGEST_SHA256, 1), b = test_digest(DIGEST_SHA256, 2),
                  c = test_digest(DIGEST_SHA512, 1);
    struct seen s = {0};
    writer_begin(&f->w);
    writer_referrer(&f->w, "r", &subject, &c, "", VIEW_LIT("{c}"));
    writer_referrer(&f->w, "r", &subject, &b, "tb", VIEW_LIT("{b}"));
    writer_referrer(&f->w, "r", &subject, &a, "ta", VIEW_LIT("{a}"));
    writer_referrer(&f->w, "r", &other, &a, "to", VIEW_LIT("{o}"));
    writer_commit(&f->w);
    assert_int_equal(names_begin(f->n), 0);
    assert_int_equal(names_each_referrer(f->n, VIEW_LIT("r"), &subject, NULL, 10, see_referrer, &s), 3);
    assert_string_equal(s.text, "ta {a} tb {b}  {c} ");
    s = (struct seen){0};
    assert_int_equal(names_each_referrer(f->n, VIEW_LIT("r"), &subject, &a, 10, see_referrer, &s), 2);
    assert_string_equal(s.text, "tb {b}  {c} ");
    s = (struct seen){0};
    assert_int_equal(names_index_whole(f->n), 0);
    assert_int_equal(names_each_referrer_of_type(f->n, VIEW_LIT("r"), &subject, VIEW_LIT("tb"), NULL, 10,
                                                 see_referrer, &s),
                     1);
    assert_int_equal(
        names_each_referrer_of_type(f->n, VIEW_LIT("r"), &subject, VIEW_LIT("tb"), &b, 10, see_referrer, &s),
        0);
    assert_string_equal(s.text, "tb {b} ");
    names_end(f->n);
    writer_begin(&f->w);
    writer_index(&f->w, true);
    writer_commit(&f->w);
    assert_int_equal(names_begin(f->n), 0);
    assert_int_equal(names_index_whole(f->n), 1);
    names_end(f->n);

    /* A type longer than the value. */
    uint8_t key[NAMES_KEY_MAX], packed[2 * DIGEST_PACKED_MAX];
    size_t len = digest_pack(&other, packed);
    len += digest_pack(&a, packed + len);
    writer_begin(&f->w);
    writer_put(&f->w, NAMES_REFERRERS, key, names_key(key, "r", 1, packed, len), "\xff\x00yz", 4);
    writer_commit(&f->w);
    assert_int_equal(names_begin(f->n), 0);
    assert_int_equal(names_each_referrer(f->n, VIEW_LIT("r"), &other, NULL, 10, see_referrer, &s), -EIO);
    names_end(f->n);
}

/* What is announced: the newest transaction while reading, nothing outside. */
static void test_announcement(void **state)
{
    struct fixture *f = *state;
    uint64_t committed = atomic_load(&f->w.epochs->committed);
    assert_int_equal(atomic_load(&f->w.epochs->ring[3].reading), 0);
    assert_int_equal(names_begin(f->n), 0);
    assert_int_equal(atomic_load(&f->w.epochs->ring[3].reading), committed);
    names_end(f->n);
    assert_int_equal(atomic_load(&f->w.epochs->ring[3].reading), 0);
    assert_int_equal(atomic_load(&f->w.epochs->ring[0].reading), 0);
    writer_begin(&f->w);
    writer_repo(&f->w, "x");
    writer_commit(&f->w);
    assert_int_equal(names_begin(f->n), 0);
    assert_int_equal(atomic_load(&f->w.epochs->ring[3].reading), committed + 1);
    names_end(f->n);
    /* A file behind what is said to be committed is never read as if it were that. */
    atomic_store(&f->w.epochs->committed, committed + 5);
    assert_int_equal(names_begin(f->n), -EAGAIN);
    assert_int_equal(atomic_load(&f->w.epochs->ring[3].reading), 0);
    /* A file that is ahead of it can be read: the writer died between commit and announcement. */
    atomic_store(&f->w.epochs->committed, committed);
    assert_int_equal(names_begin(f->n), 0);
    struct names_repo repo;
    assert_int_equal(names_repo_get(f->n, VIEW_LIT("x"), &repo), 0);
    names_end(f->n);
}

static void test_a_bracket_sees_one_transaction(void **state)
{
    struct fixture *f = *state;
    struct names_repo repo;
    assert_int_equal(names_begin(f->n), 0);
    writer_begin(&f->w); /* the next one is not kept waiting */
    writer_repo(&f->w, "late");
    writer_commit(&f->w);
    assert_int_equal(names_repo_get(f->n, VIEW_LIT("late"), &repo), -ENOENT);
    names_end(f->n);
    assert_int_equal(names_begin(f->n), 0);
    assert_int_equal(names_repo_get(f->n, VIEW_LIT("late"), &repo), 0);
    names_end(f->n);
}

/* ------------------------------------------------------------------ a writer and readers at once */

enum { KEYS = 300, READERS = 2, RUN_MS = 1500 };

struct race {
    struct fixture *f;
    unsigned ring;
    uint64_t rounds, retries, newest;
    _Atomic bool *stop;
};

static uint64_t clock_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* Each transaction writes its number under all keys, so a reader that sees two numbers saw a torn state. */
static void *race_reader(void *arg)
{
    struct race *r = arg;
    struct names *n;
    CHECK(names_new(r->f->file, r->ring, &n) == 0);
    while (!atomic_load(r->stop)) {
        struct names_link first, link;
        int err = names_begin(n);
        if (err == -EAGAIN) {
            r->retries++;
            continue;
        }
        CHECK(err == 0);
        for (uint32_t k = 0; k < KEYS; k += 7) {
            struct digest d = test_digest(DIGEST_SHA256, k);
            CHECK(names_link_get(n, VIEW_LIT("race"), &d, &link) == 0);
            if (k == 0)
                first = link;
            CHECK(link.size == first.size);
        }
        CHECK(first.size >= r->newest);
        r->newest = first.size;
        names_end(n);
        r->rounds++;
    }
    names_free(n);
    return NULL;
}

static void race_write(struct fixture *f, uint64_t number)
{
    writer_begin(&f->w);
    for (uint32_t k = 0; k < KEYS; k++) {
        struct digest d = test_digest(DIGEST_SHA256, k);
        writer_link(&f->w, "race", &d, number);
    }
    writer_commit(&f->w);
}

static void test_race(void **state)
{
    struct fixture *f = *state;
    _Atomic bool stop = false;
    struct race races[READERS];
    pthread_t threads[READERS];
    uint64_t number = 1, end = clock_ms() + RUN_MS;
    race_write(f, number);
    for (unsigned i = 0; i < READERS; i++) {
        races[i] = (struct race){.f = f, .ring = 10 + i, .stop = &stop};
        assert_int_equal(pthread_create(&threads[i], NULL, race_reader, &races[i]), 0);
    }
    while (clock_ms() < end)
        race_write(f, ++number);
    atomic_store(&stop, true);
    for (unsigned i = 0; i < READERS; i++) {
        pthread_join(threads[i], NULL);
        assert_true(races[i].rounds > 0);
        assert_true(races[i].newest > 1);
    }
    assert_true(number > 2);
}

static void test_other_files_are_refused(void **state)
{
    (void)state;
    struct names_epochs *epochs = aligned_alloc(64, sizeof(*epochs));
    struct names_file *file;
    const char *why = NULL;
    char path[] = "/tmp/fl-names-other-XXXXXX";
    int fd = mkstemp(path);
    memset(epochs, 0, sizeof(*epochs));
    assert_int_equal(write(fd, "not a database", 14), 14);
    close(fd);
    assert_true(names_file_open(path, epochs, &file, &why) < 0);
    assert_non_null(why);
    unlink(path);
    assert_int_equal(names_file_open("/nonexistent/names", epochs, &file, &why), -ENOENT);
    MDB_env *env; /* an LMDB file without the tables */
    assert_int_equal(mdb_env_create(&env), 0);
    assert_int_equal(mdb_env_open(env, path, MDB_NOSUBDIR | MDB_NOLOCK, 0600), 0);
    assert_int_equal(names_file_open(path, epochs, &file, &why), -ENOENT);
    assert_int_equal(atomic_load(&epochs->ring[0].reading), 0);
    mdb_env_close(env);
    unlink(path);
    free(epochs);
}

#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_lookups),
        T(test_keys_too_long_are_not_there),
        T(test_broken_values),
        T(test_walks),
        T(test_referrers),
        T(test_announcement),
        T(test_a_bracket_sees_one_transaction),
        T(test_race),
        cmocka_unit_test(test_other_files_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
