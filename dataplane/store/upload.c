/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A session at work. What it waits for is its state:
 *
 *   create    CREATING ------------------------------------> AT_REST
 *   checkout  [ADOPTING ->] OPENING -----------------------> AT_REST (at once if its file is open)
 *   append    WRITING (again while writes are short; until a hasher has given the bytes back) -> AT_REST
 *   commit    [IN_LINE -> HASHING ...] -> PUBLISHING ------> CLOSING (the waiter is woken before it), gone
 *   end       UNLINKING -> CLOSING ------------------------> gone: cancelled, expired, or of another digest
 *
 * One write at a time: so the file is always a prefix of what was received, and size says how much of it
 * counts. The running hash is made on the way while it can be (hashed == size). It is lost by a restart, by a
 * write that failed behind it, or useless because the commit names another algorithm: then the commit
 * reads the file again, in pieces, each a turn of the loop.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "dataplane/store/store_private.h"

static void step(struct task *t);

static void wake(struct upload *u, int res)
{
    struct waiter *w = u->waiter;
    u->waiter = NULL;
    if (w)
        w->wake(w, res);
}

/* The session's last touch in this step: the waiter may give it away. */
static void rest(struct upload *u, int res)
{
    u->state = UPLOAD_AT_REST;
    wake(u, res);
}

static bool at_work(const struct upload *u)
{
    return u->owner && u->listed && u->state == UPLOAD_AT_REST;
}

/* ------------------------------------------------------------------ create and check out */

static void order_open(struct upload *u, int flags)
{
    struct store_ring *r = u->task.ring;
    loop_openat(r->loop, task_order(&u->task), r->store->uploads_dirfd, u->name,
                O_RDWR | O_NOFOLLOW | O_CLOEXEC | flags, 0640);
}

static int create(struct store_ring *r, const char *of, uint64_t repo_hash, uint8_t alg_hint,
                  struct upload **out, struct waiter *w)
{
    struct upload *u;
    int err = store_room_take(r, 0);
    if (!err)
        err = session_new(r, of, repo_hash, &u);
    if (err)
        return err;
    task_init(&u->task, r, step);
    u->hint = alg_hint == DIGEST_SHA512 ? DIGEST_SHA512 : DIGEST_SHA256;
    u->out = out;
    u->waiter = w;
    u->state = UPLOAD_CREATING;
    order_open(u, O_CREAT | O_EXCL);
    return -EINPROGRESS;
}

int upload_create(struct store_ring *r, const char *repo, size_t repo_len, uint8_t alg_hint,
                  struct upload **out, struct waiter *w)
{
    return create(r, NULL, hash_repo(repo, repo_len), alg_hint, out, w);
}

int upload_copy_create(struct store_ring *r, const char *of, size_t of_len, uint8_t alg_hint,
                       struct upload **out, struct waiter *w)
{
    return session_name_valid(of, of_len) ? create(r, of, 0, alg_hint, out, w) : -EINVAL;
}

static void vanish(struct upload *u, int err)
{
    struct waiter *w = u->waiter;
    session_unlist(u);
    session_drop(u);
    w->wake(w, err);
}

static void created(struct upload *u)
{
    if (u->task.res < 0) {
        vanish(u, store_error(u->task.ring, u->task.res));
        return;
    }
    u->fd = u->task.res;
    *u->out = u;
    rest(u, 0);
}

static int check_out(struct upload *u, struct upload **out, struct waiter *w)
{
    if (u->fd >= 0) {
        *out = u;
        return 0;
    }
    u->out = out;
    u->waiter = w;
    u->state = UPLOAD_OPENING;
    order_open(u, 0);
    return -EINPROGRESS;
}

/* The rename is not waited for to be on the disk: where a crash takes it back, it is a copy again, and
 * adopted again. */
static int adopt(struct store_ring *r, struct upload *u, struct upload **out, struct waiter *w)
{
    int dirfd = r->store->uploads_dirfd;
    session_adopt_name(u);
    u->out = out;
    u->waiter = w;
    u->state = UPLOAD_ADOPTING;
    loop_renameat(r->loop, task_order(&u->task), dirfd, u->name, dirfd, u->adopted);
    return -EINPROGRESS;
}

int upload_checkout(struct store_ring *r, const char *id, size_t id_len, const char *repo, size_t repo_len,
                    struct upload **out, struct waiter *w)
{
    struct upload *u;
    uint64_t node;
    if (!upload_id_node(id, id_len, &node))
        return -ENOENT;
    int err = session_take(r, id, hash_repo(repo, repo_len), &u);
    if (err)
        return err;
    task_init(&u->task, r, step);
    return u->copy ? adopt(r, u, out, w) : check_out(u, out, w);
}

static int checkout_by_id(struct store_ring *r, const char *id, size_t id_len, bool any, struct upload **out,
                          struct waiter *w)
{
    struct upload *u;
    uint64_t node;
    if (!upload_id_node(id, id_len, &node))
        return -ENOENT;
    int err = session_take_copy(r, id, any, &u);
    if (err)
        return err;
    task_init(&u->task, r, step);
    return check_out(u, out, w);
}

int upload_copy_checkout(struct store_ring *r, const char *id, size_t id_len, struct upload **out,
                         struct waiter *w)
{
    return checkout_by_id(r, id, id_len, false, out, w);
}

int upload_any_checkout(struct store_ring *r, const char *id, size_t id_len, struct upload **out,
                        struct waiter *w)
{
    return checkout_by_id(r, id, id_len, true, out, w);
}

static void not_checked_out(struct upload *u)
{
    struct store_ring *r = u->task.ring;
    struct waiter *w = u->waiter;
    int err = store_error(r, u->task.res);
    u->waiter = NULL;
    u->state = UPLOAD_AT_REST;
    int fd = session_release(u, (int64_t)loop_now_ms(r->loop));
    if (fd >= 0)
        store_close(r, fd);
    w->wake(w, err);
}

static void adopted(struct upload *u)
{
    struct store_ring *r = u->task.ring;
    if (u->task.res == -ENOENT) { /* somebody removed it */
        upload_end(u, r, -ENOENT);
        return;
    }
    if (u->task.res < 0) {
        not_checked_out(u);
        return;
    }
    session_adopt(u);
    store_count(r, CTR_UPLOADS_ADOPTED);
    if (check_out(u, u->out, u->waiter) == 0)
        rest(u, 0);
}

static void opened(struct upload *u)
{
    struct stat st;
    if (u->task.res == -ENOENT) { /* somebody removed it */
        vanish(u, -ENOENT);
        return;
    }
    if (u->task.res < 0) {
        not_checked_out(u);
        return;
    }
    u->fd = u->task.res;
    if (fstat(u->fd, &st) == 0 && (uint64_t)st.st_size < u->size) { /* cut by somebody: it holds no more */
        u->size = (uint64_t)st.st_size;
        u->alg = DIGEST_NONE;
        u->hashed = 0;
        u->has_result = false;
    }
    *u->out = u;
    rest(u, 0);
}

/* A session that can only be ended is ended here. */
void upload_checkin(struct upload *u)
{
    struct store_ring *r = u->task.ring;
    CHECK(at_work(u));
    if (u->broken) {
        upload_end(u, r, 0);
        return;
    }
    int fd = session_release(u, (int64_t)loop_now_ms(r->loop));
    if (fd >= 0)
        store_close(r, fd);
}

const char *upload_name(const struct upload *u)
{
    return u->name;
}

struct upload_copies *upload_copies(struct upload *u)
{
    return &u->copies;
}

struct upload_origin *upload_origin(struct upload *u)
{
    return &u->origin;
}

const char *upload_id(const struct upload *u)
{
    return u->id;
}

uint64_t upload_offset(const struct upload *u)
{
    return u->size;
}

uint64_t upload_idle_ms(const struct upload *u)
{
    int64_t ms = (int64_t)loop_now_ms(u->task.ring->loop) - u->written_ms;
    return ms > 0 ? (uint64_t)ms : 0;
}

/* ------------------------------------------------------------------ append */

static void running_hash_begin(struct upload *u, uint8_t alg)
{
    u->hashed = 0;
    u->alg = alg;
    hash_begin(&u->hash, alg);
}

/* What is large goes to a thread of its own if one has nothing to do, and is written meanwhile. */
static bool hash_away(struct upload *u, const void *buf, size_t len)
{
    struct store_ring *r = u->task.ring;
    u->job = (struct hash_job){.hash = &u->hash, .bytes = buf, .len = len, .back = &r->back};
    u->away = len >= HASHERS_LEAST_BYTES && hashers_give(r->store->hashers, &u->job);
    r->orders += u->away;
    return u->away;
}

/* Without a running hash that has seen all so far, the commit will read the file. */
static void hash_along(struct upload *u, const void *buf, size_t len)
{
    if (u->hashed != u->size)
        return;
    if (!u->alg)
        running_hash_begin(u, u->hint);
    if (!hash_away(u, buf, len))
        hash_add(&u->hash, buf, len);
    u->hashed += len;
}

/* The bytes are the caller's again when they are written and hashed. */
static void append_end(struct upload *u, int res)
{
    u->wrote = u->away;
    u->appended = res;
    if (u->away)
        return;
    if (u->hashed > u->size) { /* it saw bytes that the file does not have */
        u->alg = DIGEST_NONE;
        u->hashed = 0;
    }
    rest(u, res);
}

void uploads_hashed(struct store_ring *r)
{
    for (struct hash_job *job = hashers_back(&r->back), *next; job; job = next) {
        struct upload *u = container_of(job, struct upload, job);
        next = job->next;
        r->orders--;
        u->away = false;
        if (u->wrote)
            append_end(u, u->appended);
    }
}

static void order_write(struct upload *u)
{
    size_t len = u->left < IO_BYTES_MAX ? u->left : IO_BYTES_MAX;
    loop_write(u->task.ring->loop, task_order(&u->task), u->fd, u->buf, len, u->size);
}

int upload_append(struct upload *u, const void *buf, size_t len, struct waiter *w)
{
    struct store_ring *r = u->task.ring;
    uint64_t max = atomic_load_explicit(&r->store->blob_bytes_max, memory_order_relaxed);
    CHECK(at_work(u) && len > 0);
    if (u->broken)
        return -EIO;
    if (u->size > max || len > max - u->size)
        return -EFBIG;
    int err = store_room_take(r, len);
    if (err)
        return err;
    u->has_result = false;
    u->written_ms = (int64_t)loop_now_ms(r->loop);
    hash_along(u, buf, len);
    u->buf = buf;
    u->left = len;
    u->waiter = w;
    u->state = UPLOAD_WRITING;
    order_write(u);
    return 0;
}

/*
 * What fills another piece of the file is sent to the disk now, beside what is still to come: 256 MiB are
 * durable 3 ms after their last byte instead of 80 (and no more dirty memory waits for one moment).
 */
static void write_back(struct upload *u, uint64_t old_size)
{
    struct store_ring *r = u->task.ring;
    uint64_t from = old_size - old_size % WRITE_BACK_BYTES, to = u->size - u->size % WRITE_BACK_BYTES;
    if (to > from && atomic_load_explicit(&r->store->sync, memory_order_relaxed))
        store_write_back(r, u->fd, from, (size_t)(to - from));
}

static void written(struct upload *u)
{
    int res = u->task.res;
    if (res <= 0) {
        append_end(u, store_error(u->task.ring, res ? res : -EIO));
        return;
    }
    u->size += (uint64_t)res;
    write_back(u, u->size - (uint64_t)res);
    u->buf += res;
    u->left -= (size_t)res;
    if (u->left)
        order_write(u);
    else
        append_end(u, 0);
}

/* ------------------------------------------------------------------ hashing again */

static void order_piece(struct upload *u)
{
    uint64_t left = u->size - u->hashed;
    u->state = UPLOAD_HASHING;
    loop_read(u->task.ring->loop, task_order(&u->task), u->fd, u->piece,
              left < PIECE_BYTES ? left : PIECE_BYTES, u->hashed);
}

static void piece_want(struct upload *u)
{
    struct store_ring *r = u->task.ring;
    u->piece = pool_take(&r->pieces); /* none is free while somebody is in line */
    if (u->piece) {
        order_piece(u);
        return;
    }
    u->state = UPLOAD_IN_LINE;
    u->next_in_line = NULL;
    *r->line_last = u;
    r->line_last = &u->next_in_line;
}

/* To the first in line, so that many files are hashed in turn and not one after the other. */
static void piece_return(struct upload *u)
{
    struct store_ring *r = u->task.ring;
    uint8_t *piece = u->piece;
    struct upload *next = r->line_first;
    u->piece = NULL;
    if (!next) {
        pool_give(&r->pieces, piece);
        return;
    }
    r->line_first = next->next_in_line;
    if (!r->line_first)
        r->line_last = &r->line_first;
    next->piece = piece;
    order_piece(next);
}

/* ------------------------------------------------------------------ commit */

static void published(struct publish *p, int err);

static void result_settle(struct upload *u)
{
    hash_end(&u->hash, &u->result);
    u->has_result = true;
    u->alg = DIGEST_NONE;
    u->hashed = 0;
}

/* Orders the next step in any case. */
static void commit_on(struct upload *u)
{
    struct store_ring *r = u->task.ring;
    if (!u->has_result && u->hashed < u->size) {
        piece_want(u);
        return;
    }
    if (!u->has_result)
        result_settle(u);
    if (!digest_equal(&u->result, &u->expected)) {
        upload_end(u, r, -EBADMSG);
        return;
    }
    u->state = UPLOAD_PUBLISHING;
    u->publish.done = published;
    publish_start(&u->publish, r, u->fd, u->name, &u->expected);
}

int upload_commit(struct upload *u, const struct digest *expected, struct waiter *w)
{
    struct stat st;
    struct store_ring *r = u->task.ring;
    CHECK(at_work(u) && digest_size(expected->alg));
    if (u->broken)
        return -EIO;
    /* The file must be those bytes and no more. (More: a write that failed and yet left something.) */
    if (fstat(u->fd, &st) || (uint64_t)st.st_size != u->size)
        return store_error(r, -EIO);
    if (u->has_result && u->result.alg != expected->alg)
        u->has_result = false;
    if (!u->has_result && u->alg != expected->alg)
        running_hash_begin(u, expected->alg);
    u->expected = *expected;
    u->waiter = w;
    commit_on(u);
    return 0;
}

int upload_fd(const struct upload *u)
{
    return u->fd;
}

bool upload_is(struct upload *u, const struct digest *expected)
{
    CHECK(at_work(u));
    if (!u->has_result && u->size == 0)
        running_hash_begin(u, expected->alg);
    if (!u->has_result && (u->hashed != u->size || u->alg != expected->alg))
        return false;
    if (!u->has_result)
        result_settle(u);
    return digest_equal(&u->result, expected);
}

static void hashed_piece(struct upload *u)
{
    int res = u->task.res;
    if (res > 0) {
        hash_add(&u->hash, u->piece, (size_t)res);
        u->hashed += (uint64_t)res;
    }
    piece_return(u);
    if (res > 0)
        commit_on(u);
    else
        rest(u, store_error(u->task.ring, res ? res : -EIO));
}

static void order_close(struct upload *u)
{
    u->state = UPLOAD_CLOSING;
    task_order_close(&u->task, u->fd);
    u->fd = -1;
}

static void published(struct publish *p, int err)
{
    struct upload *u = container_of(p, struct upload, publish);
    if (err) {
        u->broken |= p->unsynced || p->renamed;
        rest(u, err);
        return;
    }
    struct waiter *w = u->waiter;
    u->waiter = NULL;
    session_unlist(u);
    order_close(u);
    w->wake(w, 0);
}

/* ------------------------------------------------------------------ the end */

static void ended(struct upload *u)
{
    struct waiter *w = u->waiter;
    int err = u->err;
    session_drop(u);
    if (w)
        w->wake(w, err);
}

void upload_end(struct upload *u, struct store_ring *r, int err)
{
    task_init(&u->task, r, step);
    session_unlist(u);
    u->err = err;
    if (u->publish.renamed) { /* a blob by now: whole, though not known to be durable */
        order_close(u);
        return;
    }
    u->state = UPLOAD_UNLINKING;
    loop_unlinkat(r->loop, task_order(&u->task), r->store->uploads_dirfd, u->name);
}

int upload_cancel(struct upload *u, struct waiter *w)
{
    CHECK(at_work(u));
    u->waiter = w;
    upload_end(u, u->task.ring, 0);
    return 0;
}

static void unlinked(struct upload *u)
{
    if (u->task.res < 0 && u->task.res != -ENOENT) {
        int err = store_error(u->task.ring, u->task.res);
        u->err = u->err ? u->err : err;
    }
    if (u->fd >= 0)
        order_close(u);
    else
        ended(u);
}

static void step(struct task *t)
{
    struct upload *u = container_of(t, struct upload, task);
    switch (u->state) {
    case UPLOAD_CREATING:
        created(u);
        break;
    case UPLOAD_ADOPTING:
        adopted(u);
        break;
    case UPLOAD_OPENING:
        opened(u);
        break;
    case UPLOAD_WRITING:
        written(u);
        break;
    case UPLOAD_HASHING:
        hashed_piece(u);
        break;
    case UPLOAD_UNLINKING:
        unlinked(u);
        break;
    case UPLOAD_CLOSING:
        ended(u);
        break;
    case UPLOAD_AT_REST:
    case UPLOAD_IN_LINE:
    case UPLOAD_PUBLISHING:
        IMPOSSIBLE("a completion for a session that ordered nothing");
    }
}
