/* SPDX-License-Identifier: Apache-2.0 */
/* What the store's tests share: a store over two fresh folders, a ring of it over the fake loop, waiters. */
#ifndef FL_TEST_STORE_FIXTURE_H
#define FL_TEST_STORE_FIXTURE_H

#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <dirent.h>
#include <sys/statvfs.h>

#include "fakeloop.h"
#include "dataplane/store/store_private.h"

struct fixture {
    char root[64];
    int blobs, uploads, damaged; /* folders */
    struct store_tuning tuning;
    struct store *store;
    struct loop *loop;
    struct ring_counters *counters;
    struct store_ring *ring;
    struct timer_wheel wheel;
    struct digest told; /* of a blob that was found to be damaged */
    unsigned told_count;
};

struct wait_test {
    struct waiter waiter; /* first */
    unsigned woken;
    int res;
};

static inline void test_wake(struct waiter *w, int res)
{
    struct wait_test *t = (struct wait_test *)w;
    t->woken++;
    t->res = res;
}

static inline struct wait_test waiting(void)
{
    return (struct wait_test){.waiter.wake = test_wake};
}

/* The result of a call of the first kind (store.h), as if it had been synchronous. */
static inline int settled(struct loop *l, int res, struct wait_test *w)
{
    if (res != -EINPROGRESS) {
        assert_int_equal(w->woken, 0);
        return res;
    }
    assert_int_equal(w->woken, 0); /* never from within the call */
    while (!w->woken)
        assert_true(fake_turn(l) > 0);
    assert_int_equal(w->woken, 1);
    return w->res;
}

/* Of the second kind. */
static inline int taken(struct loop *l, int res, struct wait_test *w)
{
    return settled(l, res == 0 ? -EINPROGRESS : res, w);
}

static inline void fixture_told(void *arg, const struct digest *d, uint64_t bytes)
{
    struct fixture *f = arg;
    (void)bytes;
    f->told = *d;
    f->told_count++;
}

static inline void fixture_open(struct fixture *f, uint64_t seed)
{
    const char *why = NULL;
    assert_int_equal(
        store_new(&(struct store_folders){f->blobs, f->uploads, f->damaged}, &f->tuning, &f->store, &why), 0);
    f->loop = fake_new(seed);
    f->counters = aligned_alloc(64, sizeof(*f->counters));
    assert_non_null(f->counters);
    memset(f->counters, 0, sizeof(*f->counters));
    assert_int_equal(store_ring_new(f->store, f->loop, f->counters, 1 << 20, &f->ring), 0);
    timer_wheel_init(&f->wheel, loop_now_ms(f->loop));
    store_ring_attach(f->ring, &f->wheel, &(struct store_listener){fixture_told, f, NULL});
}

/* Everything that was ordered has come back, nothing is held, and the process has as many descriptors as the
 * store admits to. */
static inline void fixture_check_idle(struct fixture *f)
{
    fake_run(f->loop);
    assert_true(store_ring_idle(f->ring));
    assert_int_equal(f->loop->pending_count, 0);
    store_ring_check(f->ring, true);
    sessions_check(&f->store->sessions);
    assert_int_equal(f->loop->fds_open, f->ring->files + f->store->sessions.idle_files);
}

static inline void fixture_close(struct fixture *f)
{
    fixture_check_idle(f);
    store_ring_free(f->ring);
    store_free(f->store);
    free(f->loop);
    free(f->counters);
}

/* As after a kill: what was under way is lost, what is in the files stays. */
static inline void fixture_kill(struct fixture *f)
{
    for (unsigned i = 0; i < f->loop->pending_count; i++)
        if (f->loop->pending[i].kind == FAKE_CLOSE)
            close(f->loop->pending[i].fd);
    store_ring_free(f->ring);
    store_free(f->store);
    free(f->loop);
    free(f->counters);
}

/* In memory if there is room: the books of durability are the fake loop's, a real disk only takes time. */
static inline const char *fixture_folder(void)
{
    struct statvfs st;
    bool room = statvfs("/dev/shm", &st) == 0 && (uint64_t)st.f_bavail * st.f_frsize > 512 << 20;
    return room ? "/dev/shm" : "/tmp";
}

static inline void fixture_new(struct fixture *f, uint64_t seed)
{
    *f = (struct fixture){0};
    (void)snprintf(f->root, sizeof(f->root), "%s/test_store.XXXXXX", fixture_folder());
    f->tuning = (struct store_tuning){.node = 0x2a,
                                      .sync = true,
                                      .blob_bytes_max = 64 << 20,
                                      .uploads_max = 64,
                                      .open_files = 64,
                                      .upload_expiry_ms = 3600000};
    assert_non_null(mkdtemp(f->root));
    int root = open(f->root, O_DIRECTORY | O_RDONLY);
    assert_int_equal(mkdirat(root, "blobs", 0750), 0);
    assert_int_equal(mkdirat(root, "uploads", 0750), 0);
    f->blobs = openat(root, "blobs", O_DIRECTORY | O_RDONLY);
    assert_int_equal(mkdirat(root, "damaged", 0750), 0);
    f->uploads = openat(root, "uploads", O_DIRECTORY | O_RDONLY);
    f->damaged = openat(root, "damaged", O_DIRECTORY | O_RDONLY);
    close(root);
    fixture_open(f, seed);
}

static inline void fixture_free(struct fixture *f)
{
    char cmd[96];
    fixture_close(f);
    close(f->blobs);
    close(f->uploads);
    close(f->damaged);
    (void)snprintf(cmd, sizeof(cmd), "rm -rf %s", f->root);
    assert_int_equal(system(cmd), 0);
}

static inline void fixture_restart(struct fixture *f, uint64_t seed)
{
    fixture_close(f);
    fixture_open(f, seed);
}

static inline void fixture_tune(struct fixture *f)
{
    store_tune(f->store, &f->tuning);
}

static inline uint64_t counted(const struct fixture *f, enum counter_id id)
{
    return atomic_load(&f->counters->counter[id]);
}

/* ------------------------------------------------------------------ content */

static inline void fill(uint8_t *buf, size_t len, uint64_t seed)
{
    uint64_t x = seed * 0x9e3779b97f4a7c15ull + 1;
    for (size_t i = 0; i < len; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        buf[i] = (uint8_t)x;
    }
}

static inline struct digest digest_of(uint8_t alg, const void *bytes, size_t len)
{
    struct digest d;
    store_digest(alg, bytes, len, &d);
    return d;
}

/* Puts a file where a blob of this digest would be. */
static inline void plant(struct fixture *f, const struct digest *d, const void *bytes, size_t len)
{
    char path[BLOB_PATH_MAX + 1];
    blob_path(d, path);
    int fd = openat(f->blobs, path, O_CREAT | O_TRUNC | O_WRONLY, 0640);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, len), len);
    close(fd);
}

static inline struct digest plant_blob(struct fixture *f, const void *bytes, size_t len)
{
    struct digest d = digest_of(DIGEST_SHA256, bytes, len);
    plant(f, &d, bytes, len);
    return d;
}

static inline bool blob_there(struct fixture *f, const struct digest *d)
{
    char path[BLOB_PATH_MAX + 1];
    struct stat st;
    blob_path(d, path);
    return fstatat(f->blobs, path, &st, 0) == 0;
}

static inline bool blob_durable(struct fixture *f, const struct digest *d)
{
    char path[BLOB_PATH_MAX + 1];
    blob_path(d, path);
    bool file = !fake_unsynced(f->loop, f->blobs, path);
    path[BLOB_FOLDER_MAX] = '\0';
    return file && !fake_unsynced(f->loop, f->blobs, path) && f->loop->renamed_unsynced == 0;
}

static inline unsigned files_in(int dirfd)
{
    DIR *dir = fdopendir(openat(dirfd, ".", O_DIRECTORY | O_RDONLY));
    const struct dirent *e;
    unsigned n = 0;
    assert_non_null(dir);
    while ((e = readdir(dir)))
        n += e->d_name[0] != '.';
    closedir(dir);
    return n;
}

static inline void check_blob_file(int dirfd, const char *alg, const char *name)
{
    struct stat st;
    struct digest want = {0};
    char text[DIGEST_TEXT_MAX + 1];
    int fd = openat(dirfd, name, O_RDONLY);
    assert_true(fd >= 0 && fstat(fd, &st) == 0);
    uint8_t *bytes = malloc((size_t)st.st_size + 1);
    assert_int_equal(read(fd, bytes, (size_t)st.st_size + 1), st.st_size);
    (void)snprintf(text, sizeof(text), "%s:%.*s", alg, 2 * DIGEST_BYTES_MAX, name);
    assert_int_equal(digest_parse(text, strlen(text), &want), 0);
    struct digest is = digest_of(want.alg, bytes, (size_t)st.st_size);
    assert_true(digest_equal(&want, &is));
    assert_int_equal(st.st_mode & 0777, 0640);
    free(bytes);
    close(fd);
}

/* Every file under blobs/ is whole. Returns how many there are. */
static inline unsigned check_blobs(struct fixture *f)
{
    unsigned n = 0;
    for (int i = 0; i < 512; i++) {
        char path[16];
        const char *alg = i < 256 ? "sha256" : "sha512";
        (void)snprintf(path, sizeof(path), "%s/%02x", alg, i % 256);
        int fd = openat(f->blobs, path, O_DIRECTORY | O_RDONLY);
        DIR *dir = fdopendir(fd);
        const struct dirent *e;
        while ((e = readdir(dir))) {
            if (e->d_name[0] == '.')
                continue;
            check_blob_file(fd, alg, e->d_name);
            n++;
        }
        closedir(dir);
    }
    return n;
}

#endif
