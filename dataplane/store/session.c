/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table of upload sessions. It is filled from the folder at start (one look at each file there; an
 * upload's name tells its id and repository), and complete from then on: an id that is not in it costs no
 * I/O. A slot belongs to the table while nobody works on the session, else to the owner's ring.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "dataplane/store/store_private.h"

/* ------------------------------------------------------------------ names */

static void hex_write(const uint8_t *bytes, size_t len, char *out)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < len; i++) {
        out[2 * i] = digits[bytes[i] >> 4];
        out[2 * i + 1] = digits[bytes[i] & 15];
    }
    out[2 * len] = '\0';
}

static bool is_hex(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (digest_hex_value(text[i]) < 0)
            return false;
    return true;
}

static bool name_has(const char *name, size_t id_len)
{
    return strlen(name) == id_len + 1 + REPO_HASH_HEX && is_hex(name, id_len) && name[id_len] == '.' &&
           is_hex(name + id_len + 1, REPO_HASH_HEX);
}

bool session_name_valid(const char *name, size_t len)
{
    return len == UPLOAD_NAME_MAX && is_hex(name, UPLOAD_ID_LEN) && name[UPLOAD_ID_LEN] == '.' &&
           is_hex(name + UPLOAD_ID_LEN + 1, REPO_HASH_HEX);
}

static bool name_valid(const char *name)
{
    return name_has(name, UPLOAD_ID_LEN);
}

/* A copy's name goes on with what its upload's sessions have in common: the random part of their ids, and the
 * hash of the repository. */
enum { COPY_OF = UPLOAD_ID_LEN + 1, COPY_REPO = COPY_OF + UPLOAD_RANDOM_LEN };

static bool name_copy_valid(const char *name)
{
    return strlen(name) == COPY_NAME_MAX && is_hex(name, UPLOAD_ID_LEN) && name[UPLOAD_ID_LEN] == '-' &&
           is_hex(name + COPY_OF, UPLOAD_RANDOM_LEN) && name[COPY_REPO] == '.' &&
           is_hex(name + COPY_REPO + 1, REPO_HASH_HEX);
}

static void name_write_copy(char *name, const char *id, const char *of)
{
    memcpy(name, id, UPLOAD_ID_LEN);
    name[UPLOAD_ID_LEN] = '-';
    memcpy(name + COPY_OF, of, UPLOAD_RANDOM_LEN);
    memcpy(name + COPY_REPO, of + UPLOAD_ID_LEN, UPLOAD_NAME_MAX - UPLOAD_ID_LEN);
    name[COPY_NAME_MAX] = '\0';
}

/* Whether a copy is of the upload that a session's name speaks of. */
static bool name_is_of(const char *copy, const char *session)
{
    return memcmp(copy + COPY_OF, session, UPLOAD_RANDOM_LEN) == 0 &&
           memcmp(copy + COPY_REPO, session + UPLOAD_ID_LEN, UPLOAD_NAME_MAX - UPLOAD_ID_LEN) == 0;
}

/* What a session of the same upload is called where `node` has it. */
static void name_write_own(char *name, const char *session, uint64_t node)
{
    uint8_t bytes[sizeof(node)];
    for (unsigned i = 0; i < sizeof(node); i++)
        bytes[i] = (uint8_t)(node >> (56 - 8 * i));
    memcpy(name, session, UPLOAD_NAME_MAX);
    hex_write(bytes, sizeof(bytes), name + UPLOAD_RANDOM_LEN);
    name[UPLOAD_ID_LEN] = '.';
    name[UPLOAD_NAME_MAX] = '\0';
}

/* A session of a version whose ids did not say which node made them: no request finds it. */
static bool name_outdated(const char *name)
{
    return name_has(name, UPLOAD_RANDOM_LEN);
}

static void name_write(char *name, const char *id, uint64_t repo_hash)
{
    uint8_t bytes[sizeof(repo_hash)];
    memcpy(bytes, &repo_hash, sizeof(bytes));
    memcpy(name, id, UPLOAD_ID_LEN);
    name[UPLOAD_ID_LEN] = '.';
    hex_write(bytes, sizeof(bytes), name + UPLOAD_ID_LEN + 1);
}

void upload_name_write(const char *id, const char *repo, size_t repo_len, char name[UPLOAD_NAME_LEN + 1])
{
    name_write(name, id, hash_repo(repo, repo_len));
}

/* Of a blob that is, or was, being fetched: nobody goes on with one after a start. */
static bool name_fetched(const char *name)
{
    char own[UPLOAD_NAME_MAX + 1];
    name_write(own, name, hash_repo(UPLOAD_FETCH_REPO, sizeof(UPLOAD_FETCH_REPO) - 1));
    return strcmp(own, name) == 0;
}

/* ------------------------------------------------------------------ the table */

int sessions_init(struct session_table *t)
{
    int err = pool_init(&t->slots, sizeof(struct upload), UPLOADS_CEILING);
    if (err) /* where address space is accounted for as memory (vm.overcommit_memory=2) */
        err = pool_init(&t->slots, sizeof(struct upload), UPLOADS_STRICT);
    if (!err)
        err = pool_init(&t->buckets, SESSION_BUCKETS * sizeof(struct upload *), 1);
    if (err) {
        pool_fini(&t->slots);
        return err;
    }
    t->bucket = pool_take(&t->buckets);
    return -pthread_mutex_init(&t->mutex, NULL);
}

void sessions_fini(struct session_table *t)
{
    for (uint32_t i = 0; i < t->slots.fresh; i++) {
        struct upload *u = pool_at(&t->slots, i);
        if (u->fd >= 0)
            close(u->fd);
    }
    pool_fini(&t->slots);
    pool_fini(&t->buckets);
    pthread_mutex_destroy(&t->mutex);
}

/* Ids are ours, and begin with chance. */
static struct upload **bucket_of(const struct session_table *t, const char *id)
{
    unsigned at = 0;
    for (int i = 0; i < BUCKET_DIGITS; i++)
        at = at << 4 | (unsigned)digest_hex_value(id[i]);
    return &t->bucket[at % SESSION_BUCKETS];
}

static struct upload *find(const struct session_table *t, const char *id)
{
    struct upload *u = *bucket_of(t, id);
    while (u && memcmp(u->id, id, UPLOAD_ID_LEN) != 0)
        u = u->chain;
    return u;
}

static void slot_reset(struct upload *u, const char *name)
{
    *u = (struct upload){.fd = -1, .copy = name[UPLOAD_ID_LEN] == '-'};
    memcpy(u->id, name, UPLOAD_ID_LEN);
    memcpy(u->name, name, u->copy ? COPY_NAME_MAX : UPLOAD_NAME_MAX);
}

static void list(struct session_table *t, struct upload *u)
{
    struct upload **bucket = bucket_of(t, u->id);
    u->chain = *bucket;
    *bucket = u;
    u->listed = true;
    atomic_fetch_add_explicit(&t->open, 1, memory_order_relaxed);
}

static void unlist(struct session_table *t, struct upload *u)
{
    struct upload **at = bucket_of(t, u->id);
    while (*at != u)
        at = &(*at)->chain;
    *at = u->chain;
    u->listed = false;
    atomic_fetch_sub_explicit(&t->open, 1, memory_order_relaxed);
}

static void own(struct session_table *t, struct upload *u, struct store_ring *r)
{
    if (u->fd >= 0)
        t->idle_files--;
    u->owner = r;
}

/* A copy is in its upload's bucket, so that it can be found by either id. */
static bool id_make(uint64_t node, const char *of, char id[UPLOAD_ID_LEN + 1])
{
    uint8_t random[UPLOAD_RANDOM_LEN / 2];
    if (getrandom(random, sizeof(random), 0) != sizeof(random))
        return false;
    hex_write(random, sizeof(random), id);
    if (of)
        memcpy(id, of, BUCKET_DIGITS);
    (void)snprintf(id + UPLOAD_RANDOM_LEN, UPLOAD_ID_LEN - UPLOAD_RANDOM_LEN + 1, "%016llx",
                   (unsigned long long)node);
    return true;
}

int session_new(struct store_ring *r, const char *of, uint64_t repo_hash, struct upload **out)
{
    struct session_table *t = &r->store->sessions;
    char id[UPLOAD_ID_LEN + 1], name[COPY_NAME_MAX + 1];
    if (!id_make(atomic_load_explicit(&r->store->node, memory_order_relaxed), of, id))
        return -EIO;
    if (of)
        name_write_copy(name, id, of);
    else
        name_write(name, id, repo_hash);
    pthread_mutex_lock(&t->mutex);
    struct upload *u = NULL;
    if (atomic_load(&t->open) < atomic_load_explicit(&r->store->uploads_max, memory_order_relaxed))
        u = pool_take(&t->slots);
    if (u) {
        slot_reset(u, name);
        if (of)
            (void)upload_id_node(of, UPLOAD_ID_LEN, &u->origin.node);
        list(t, u);
        own(t, u, r);
    }
    pthread_mutex_unlock(&t->mutex);
    *out = u;
    return u ? 0 : -EMFILE;
}

static struct upload *find_named(const struct session_table *t, const char *name)
{
    struct upload *u = find(t, name);
    return u && memcmp(u->name, name, UPLOAD_NAME_MAX) == 0 ? u : NULL;
}

/* The copy that has most. As long as another ring is at work on one of them nobody knows which that is, and
 * two must not become the same session. */
static int find_copy(const struct session_table *t, const char *name, struct upload **out)
{
    *out = NULL;
    for (struct upload *u = *bucket_of(t, name); u; u = u->chain) {
        if (!u->copy || !name_is_of(u->name, name))
            continue;
        if (u->owner)
            return -EBUSY;
        if (!*out || u->size > (*out)->size)
            *out = u;
    }
    return *out ? 0 : -ENOENT;
}

static int find_any(const struct store *s, const char *name, struct upload **out)
{
    const struct session_table *t = &s->sessions;
    char own_name[UPLOAD_NAME_MAX + 1];
    name_write_own(own_name, name, atomic_load_explicit(&s->node, memory_order_relaxed));
    *out = find_named(t, name);
    if (!*out)
        *out = find_named(t, own_name);
    if (*out)
        return (*out)->owner ? -EBUSY : 0;
    return find_copy(t, name, out);
}

int session_take(struct store_ring *r, const char *id, uint64_t repo_hash, struct upload **out)
{
    struct session_table *t = &r->store->sessions;
    char name[UPLOAD_NAME_MAX + 1];
    name_write(name, id, repo_hash);
    pthread_mutex_lock(&t->mutex);
    int err = find_any(r->store, name, out);
    if (!err)
        own(t, *out, r);
    pthread_mutex_unlock(&t->mutex);
    return err;
}

int session_take_copy(struct store_ring *r, const char *id, bool any, struct upload **out)
{
    struct session_table *t = &r->store->sessions;
    pthread_mutex_lock(&t->mutex);
    struct upload *u = find(t, id);
    bool known = u && (any || u->copy || name_fetched(u->name));
    int err = !known ? -ENOENT : u->owner ? -EBUSY : 0;
    if (!err)
        own(t, u, r);
    pthread_mutex_unlock(&t->mutex);
    *out = u;
    return err;
}

int upload_look(struct store_ring *r, const char *name, size_t name_len, struct upload_found *out)
{
    struct session_table *t = &r->store->sessions;
    struct upload *u;
    *out = (struct upload_found){0};
    if (!session_name_valid(name, name_len))
        return -ENOENT;
    pthread_mutex_lock(&t->mutex);
    int err = find_any(r->store, name, &u);
    if (!err)
        *out = (struct upload_found){u->size, !u->copy};
    pthread_mutex_unlock(&t->mutex);
    return err;
}

void session_adopt_name(struct upload *u)
{
    char name[UPLOAD_NAME_MAX + 1] = "";
    memcpy(name, u->name + COPY_OF, UPLOAD_RANDOM_LEN);
    memcpy(name + UPLOAD_ID_LEN, u->name + COPY_REPO, UPLOAD_NAME_MAX - UPLOAD_ID_LEN);
    name_write_own(u->adopted, name, atomic_load_explicit(&u->owner->store->node, memory_order_relaxed));
}

void session_adopt(struct upload *u)
{
    struct session_table *t = &u->owner->store->sessions;
    pthread_mutex_lock(&t->mutex);
    CHECK(!find(t, u->adopted));
    memcpy(u->id, u->adopted, UPLOAD_ID_LEN); /* it stays in its bucket */
    memcpy(u->name, u->adopted, sizeof(u->adopted));
    u->copy = false;
    u->origin.news = true;
    pthread_mutex_unlock(&t->mutex);
}

int session_release(struct upload *u, int64_t now_ms)
{
    struct session_table *t = &u->owner->store->sessions;
    int fd = -1;
    pthread_mutex_lock(&t->mutex);
    u->touched_ms = now_ms;
    if (u->fd >= 0 && t->idle_files >= IDLE_FILES) {
        fd = u->fd;
        u->fd = -1;
    }
    if (u->fd >= 0)
        t->idle_files++;
    u->owner = NULL;
    pthread_mutex_unlock(&t->mutex);
    return fd;
}

void session_unlist(struct upload *u)
{
    struct session_table *t = &u->owner->store->sessions;
    pthread_mutex_lock(&t->mutex);
    unlist(t, u);
    pthread_mutex_unlock(&t->mutex);
}

void session_drop(struct upload *u)
{
    struct session_table *t = &u->owner->store->sessions;
    CHECK(!u->listed && u->fd < 0);
    pthread_mutex_lock(&t->mutex);
    u->owner = NULL;
    pool_give(&t->slots, u);
    pthread_mutex_unlock(&t->mutex);
}

/* ------------------------------------------------------------------ sweeping */

void sessions_sweep(struct store_ring *r, int64_t now_ms, struct sweep *out)
{
    struct session_table *t = &r->store->sessions;
    uint64_t expiry = atomic_load_explicit(&r->store->upload_expiry_ms, memory_order_relaxed);
    out->ends_count = out->fds_count = 0;
    pthread_mutex_lock(&t->mutex);
    uint32_t looks = t->slots.fresh < SWEEP_SESSIONS ? t->slots.fresh : SWEEP_SESSIONS;
    while (looks-- && out->ends_count < SWEEP_MAX && out->fds_count < SWEEP_MAX) {
        if (t->sweep_at >= t->slots.fresh)
            t->sweep_at = 0;
        struct upload *u = pool_at(&t->slots, t->sweep_at++);
        if (!u->listed || u->owner)
            continue;
        int64_t idle_ms = now_ms - u->touched_ms;
        if (idle_ms > 0 && (uint64_t)idle_ms >= expiry) {
            own(t, u, r);
            out->ends[out->ends_count++] = u;
        } else if (idle_ms >= IDLE_FILE_MS && u->fd >= 0) {
            t->idle_files--;
            out->fds[out->fds_count++] = u->fd;
            u->fd = -1;
        }
    }
    pthread_mutex_unlock(&t->mutex);
}

/* ------------------------------------------------------------------ after a start */

/*
 * A session's age is that of its file's last write. A second link cannot come from us, unless a crash left
 * half a rename on a file system that does not do it in one step: then the blob has the file, and nobody may
 * write to it.
 */
static int recover_session(struct store *s, const char *name, int64_t mono_ms, int64_t real_ms)
{
    struct stat st;
    if (fstatat(s->uploads_dirfd, name, &st, AT_SYMLINK_NOFOLLOW))
        return -errno;
    if (!S_ISREG(st.st_mode))
        return 0;
    if (st.st_nlink > 1)
        return unlinkat(s->uploads_dirfd, name, 0) ? -errno : 0;
    struct upload *u = pool_take(&s->sessions.slots);
    if (!u) /* a later start finds it, when others have ended */
        return 0;
    int64_t age_ms = real_ms - ((int64_t)st.st_mtim.tv_sec * 1000 + st.st_mtim.tv_nsec / 1000000);
    slot_reset(u, name);
    u->size = (uint64_t)st.st_size;
    u->hint = DIGEST_SHA256;
    u->touched_ms = u->written_ms = age_ms > 0 ? mono_ms - age_ms : mono_ms;
    list(&s->sessions, u);
    return 0;
}

static int64_t clock_ms(clockid_t clock)
{
    struct timespec ts;
    clock_gettime(clock, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static int recover_all(struct store *s, DIR *dir)
{
    int64_t mono_ms = clock_ms(CLOCK_MONOTONIC), real_ms = clock_ms(CLOCK_REALTIME);
    const struct dirent *e;
    int err = 0;
    while (!err && (errno = 0, e = readdir(dir))) {
        bool valid = name_valid(e->d_name);
        if ((valid && !name_fetched(e->d_name)) || name_copy_valid(e->d_name))
            err = recover_session(s, e->d_name, mono_ms, real_ms);
        else if (valid || name_outdated(e->d_name) || temp_name_valid(e->d_name))
            err = unlinkat(s->uploads_dirfd, e->d_name, 0) ? -errno : 0;
    }
    return err ? err : -errno;
}

int sessions_recover(struct store *s)
{
    int fd = openat(s->uploads_dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    DIR *dir = fdopendir(fd);
    if (!dir) {
        close(fd);
        return -ENOMEM;
    }
    int err = recover_all(s, dir);
    closedir(dir);
    return err;
}

void sessions_check(struct session_table *t)
{
    uint32_t listed = 0, idle_files = 0;
    pthread_mutex_lock(&t->mutex);
    for (uint32_t i = 0; i < t->slots.fresh; i++) {
        const struct upload *u = pool_at(&t->slots, i);
        if (!u->listed)
            continue;
        listed++;
        CHECK(find(t, u->id) == u);
        if (u->owner)
            continue;
        idle_files += u->fd >= 0;
        CHECK(u->state == UPLOAD_AT_REST && !u->broken);
        CHECK(u->hashed <= u->size && (u->alg || u->hashed == 0));
    }
    CHECK(listed == atomic_load(&t->open));
    CHECK(idle_files == t->idle_files && idle_files <= IDLE_FILES);
    pthread_mutex_unlock(&t->mutex);
}
