/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The blob store: content-addressed files. What it does not know: repositories, tags, HTTP.
 *
 *   blobs/<alg>/<first two hex digits>/<hex>    a blob: complete, verified, never written again
 *   uploads/<id>.<hash of the repository>        a session's bytes so far
 *   uploads/<id>-<of>.<hash of the repository>   a copy of another node's session's bytes so far
 *   uploads/w.<random>                           a whole small blob on its way
 *   damaged/<alg>-<hex>                          what was a blob and has other bytes now: served to nobody
 *   damaged/<alg>-<hex>.gone                     a blob on its way out, where nodes share the store
 * (remove.c)
 *
 * A blob comes to be by a rename of a synced file, followed by a sync of its folder. So after a crash at any
 * point a file under blobs/ is whole, and an upload holds a prefix of what was received. There is no other
 * record: a start reads the folder of uploads, and none of blobs.
 *
 * struct store is the process's, struct store_ring one ring's part of it. Calls are for the ring's thread and
 * never wait for a disk: slow parts are orders to the ring's loop, and end in a wake of the waiter
 * (waiter.h).
 *
 * Calls with a waiter are of two kinds. blob_open, blob_settle, upload_create and upload_checkout may know
 * the answer at once: 0 or an error is it; -EINPROGRESS: the waiter will be woken with it. The others never
 * do: 0: the waiter will be woken with the answer; else it was refused with this error, and the waiter will
 * not be.
 */
#ifndef FL_STORE_H
#define FL_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "digest.h"
#include "limits.h"
#include "dataplane/waiter.h"

struct loop;
struct ring_counters;
struct store;
struct store_ring;

/* Values of the plan that the store uses; replaced by store_tune between two batches. */
struct store_tuning {
    uint64_t node;    /* this node's id */
    bool shared;      /* store.shared: other nodes have blobs/ and damaged/, too; from the start on */
    bool sync;        /* store.sync */
    uint64_t reserve; /* bytes, store.reserve */
    uint64_t blob_bytes_max;
    uint32_t uploads_max;
    uint32_t open_files; /* per ring */
    uint64_t upload_expiry_ms;
    uint64_t scrub_rate; /* bytes a second, of all rings */
    unsigned hashers;    /* threads that hash beside the rings (store/hashers.h); from the start on */
};

/* Of one file system; borrowed until the end. */
struct store_folders {
    int blobs, uploads, damaged;
};

/*
 * Makes the folders under blobs/, takes note of the sessions under uploads/. *why on failure: a sentence for
 * the operator. Called once, before the threads and the sandbox.
 */
int store_new(const struct store_folders *folders, const struct store_tuning *t, struct store **out,
              const char **why);
/* Its threads, which are a help only: the rings do the same work where an error says that not all could be
 * started. In the sandbox, once; the rings may turn already. */
int store_start(struct store *s);
void store_stop(struct store *s); /* when the rings have ended */
void store_free(struct store *s);
void store_tune(struct store *s,
                const struct store_tuning *t); /* any one thread at a time; readers see each value whole */

/* cache_bytes: fixed memory for small objects (blobs of at most SMALL_OBJECT_MAX bytes). */
enum { SMALL_OBJECT_MAX = 64 << 10 };
int store_ring_new(struct store *s, struct loop *loop, struct ring_counters *counters, size_t cache_bytes,
                   struct store_ring **out);
/* Nothing may be under way (store_ring_idle) or referenced. Any thread, after the ring's. */
void store_ring_free(struct store_ring *r);

/*
 * What a ring's part of the store needs beside its loop. damaged: a reader found a blob to be damaged; it is
 * quarantined by now. condemned (may be NULL): a blob is damaged, or looks like it, and is about to be moved
 * away: whoever has its file open elsewhere in the process lets go of it.
 */
struct timer_wheel;
struct store_listener {
    void (*damaged)(void *arg, const struct digest *d, uint64_t bytes);
    void *arg;
    void (*condemned)(const struct digest *d);
};
void store_ring_attach(struct store_ring *r, struct timer_wheel *wheel,
                       const struct store_listener *listener);

/* Once a batch: lets go of what was found to be damaged. */
void store_ring_turn(struct store_ring *r);

void store_ring_stop(struct store_ring *r); /* the ring ends: what is done in the background is given up */

/* Whether the store waits for nothing from the loop: also closes behind the requests' backs. */
bool store_ring_idle(const struct store_ring *r);

/*
 * Housekeeping, about once a second from each ring; the one made first looks at the free space and ends
 * sessions that expired (a bounded number at a time). now_ms: CLOCK_MONOTONIC.
 */
void store_ring_tick(struct store_ring *r, uint64_t now_ms);

/* ------------------------------------------------------------------ reading */

/*
 * A blob that is open for reading: its bytes in memory (then fd is -1), or a descriptor. Reference counted;
 * one ring's only. Opening the same blob again gives the same object (the ring keeps the last ones). Its
 * fields but the mover's are for reading only, and constant while there is a reference.
 */
struct blob {
    struct digest digest;
    uint64_t size; /* bytes */
    int fd;        /* -1 if bytes is not NULL */
    uint32_t refs;
    bool damaged;         /* it was found to be: no more of it may go out */
    const uint8_t *bytes; /* the whole content, verified, if it is small and in memory; else NULL */
    /* For the mover: the range that was last seen in the page cache, and when (0: never). */
    uint64_t resident_from, resident_to, resident_ms;
};

/*
 * Opens a blob of a known size. Returns 0 with *out (a reference: give it back with blob_put), or
 * -EINPROGRESS: then w is woken with 0 and *out set, or an error. want_bytes: a small blob is to be read into
 * memory; bytes may be NULL all the same, where all memory is referenced or another request uses the file.
 * Without want_bytes there may be bytes. Errors: -ENOENT (no such file), -EBADMSG (damaged: it has
 * another size, or, read into memory, another digest; it is verified, and quarantined), -EIO, -EMFILE
 * (store.open_files are all in use), -ENOMEM (tables all in use).
 */
int blob_open(struct store_ring *r, const struct digest *d, uint64_t size, bool want_bytes, struct blob **out,
              struct waiter *w);
/*
 * The same for what an upload session has so far, of which the first `size` bytes are known to be written:
 * `name` is upload_name's. Nobody else gets this object. -ENOENT: the session is over, or is none of this
 * node.
 */
int blob_open_growing(struct store_ring *r, const char *name, size_t name_len, uint64_t size,
                      struct blob **out, struct waiter *w);
void blob_get(struct blob *b);
void blob_put(struct store_ring *r, struct blob *b);

/* Drops what this ring holds open or in memory of a blob that was deleted; references stay good. */
void blob_forget(struct store_ring *r, const struct digest *d);

/*
 * Reads a blob from its disk and hashes it, in the background: verify.c. done comes once, never from within
 * the call: 0; -EBADMSG: damaged, and quarantined; -ENOENT; -ECANCELED; else -errno of the file system.
 * bytes: that were read. -EAGAIN: too many wait.
 */
#define BLOB_SIZE_UNKNOWN UINT64_MAX
struct verify;
typedef void verify_done(void *arg, int res, uint64_t bytes);
int blob_verify(struct store_ring *r, const struct digest *d, uint64_t size, verify_done *done, void *arg,
                struct verify **out);
void verify_stop(struct verify *v); /* done comes soon, perhaps from within */

/* Its file is another one by now, and what was there before was not good: every ring lets go of that. */
void blob_replaced(struct store *s, const struct digest *d);

/*
 * A blob that is about to be published, and then linked: its file is not removed (blob_remove) before the pin
 * is given back. Taken before the publishing begins, it is good for what was published. NULL: too many at
 * once.
 */
struct blob_pin;
struct blob_pin *blob_pin(struct store_ring *r, const struct digest *d);
void blob_unpin(struct store_ring *r, struct blob_pin *pin);

/*
 * A file of it that is there, or comes now, is not removed for a minute (or for the age that a removal asks
 * for, if that is less): long enough for another node to have the link committed that counts on it. To be
 * called before the file is looked for. -EBUSY: one is just being removed; ask again. What comes into its
 * place is held all the same.
 */
int blob_hold(struct store_ring *r, const struct digest *d);

/*
 * Removes a blob's file. is_free looks at the names: whether it may go (0), stays (-EEXIST), or that cannot
 * be said now (-EBUSY). It is asked while nothing can be published in the file's place, so what it says
 * counts until the end. Woken with 0 (removed->bytes: of the file, 0: there is none), -EBUSY: it is being
 * pushed, or was published less than age_ms ago, or -EIO. The space is free when those who still read from it
 * have done so.
 */
struct blob_removal {
    struct digest digest;
    uint64_t age_ms;
    int (*is_free)(void *arg, const struct digest *d);
    void *arg;
    uint64_t bytes;
};
/* 0: w will be woken; -EEXIST, -EBUSY, -EAGAIN (too many at once): it will not be. removal is borrowed until
 * then. */
int blob_remove(struct store_ring *r, struct blob_removal *removal, struct waiter *w);

/* ------------------------------------------------------------------ writing whole small blobs (manifests) */

/*
 * Writes a blob whose digest the caller has checked: durable when woken with 0. bytes is borrowed until the
 * wake. A blob that is there already is replaced by the same bytes: so it is known to be durable, and
 * repaired if it was damaged. Errors: -ENOSPC, -EIO, -EMFILE, -EAGAIN (too many at once).
 */
int blob_write(struct store_ring *r, const struct digest *d, const void *bytes, size_t len, struct waiter *w);

/*
 * A blob that has been opened may have come here a moment ago, by a rename that is not on the disk yet.
 * Orders a sync of its folder: 0 at once if store.sync is off, or -EINPROGRESS: woken with 0 when a crash
 * would not lose it any more, or an error. -EAGAIN as of blob_write.
 */
int blob_settle(struct store_ring *r, const struct digest *d, struct waiter *w);

/* The digest of bytes in memory (for small ones: it runs on the ring). */
void store_digest(uint8_t alg, const void *bytes, size_t len, struct digest *out);

/* ------------------------------------------------------------------ upload sessions */

/*
 * A session belongs to the node; while a request works on it, it belongs to that request's ring alone
 * (checked out). id: UPLOAD_ID_LEN hex digits, of which the last 16 name the node that made it, so that every
 * node knows where to ask; the others are chance, so that nobody guesses one. A session remembers its
 * repository by a hash: another one's is -ENOENT. One call at a time for each session: while a waiter is not
 * woken yet, only upload_id and upload_offset.
 */
struct upload;

/* Which node made a session. False: this is no session's id. */
static inline bool upload_id_node(const char *id, size_t len, uint64_t *node)
{
    *node = 0;
    for (size_t i = 0; i < len; i++) {
        if (digest_hex_value(id[i]) < 0)
            return false;
        *node = *node << 4 | (uint64_t)digest_hex_value(id[i]);
    }
    return len == UPLOAD_ID_LEN;
}

/* A new session, checked out. -EMFILE: registry.uploads_max are open; -ENOSPC: below store.reserve; -EIO. */
int upload_create(struct store_ring *r, const char *repo, size_t repo_len, uint8_t alg_hint,
                  struct upload **out, struct waiter *w);
/*
 * The session with that id; or, where it is another node's, what this one has of the same upload: the session
 * of its own that it has adopted before, else the copy that has most, which becomes such a session now. That
 * has the same random part and this node's id, so a name never has two owners: upload_id says it. Whether the
 * other node is away is for the caller to know.
 * -ENOENT; -EBUSY: another request works on it; -EIO, -EMFILE. After a restart: from its file.
 */
int upload_checkout(struct store_ring *r, const char *id, size_t id_len, const char *repo, size_t repo_len,
                    struct upload **out, struct waiter *w);
/* Gives it back; the session lives on (but after a failed sync, see upload_commit). */
void upload_checkin(struct upload *u);

/*
 * Copies of other nodes' sessions: made and gone on with for their sake, until one is adopted. They survive a
 * restart and expire like sessions. of: upload_name there; -EINVAL: it is none.
 */
int upload_copy_create(struct store_ring *r, const char *of, size_t of_len, uint8_t alg_hint,
                       struct upload **out, struct waiter *w);
/* Also what is fetched (UPLOAD_FETCH_REPO). */
int upload_copy_checkout(struct store_ring *r, const char *id, size_t id_len, struct upload **out,
                         struct waiter *w);
/* Whatever session has that id, to be ended: of any repository, or a copy. */
int upload_any_checkout(struct store_ring *r, const char *id, size_t id_len, struct upload **out,
                        struct waiter *w);

/* What this node has of an upload (upload_checkout would give it), by the name of any session of it. -ENOENT,
 * -EBUSY. */
struct upload_found {
    uint64_t size; /* bytes */
    bool session;  /* its own, whether adopted or from the beginning; else a copy */
};
int upload_look(struct store_ring *r, const char *name, size_t name_len, struct upload_found *out);

const char *upload_id(const struct upload *u);
const char *upload_name(const struct upload *u); /* for blob_open_growing; UPLOAD_NAME_LEN */
uint64_t upload_offset(const struct upload *u);  /* bytes that were received and written in order */
/* Since its last bytes came. */
uint64_t upload_idle_ms(const struct upload *u);

/*
 * Appends len (at least 1) bytes: written by the loop, hashed on the ring or by a thread. buf is borrowed
 * until the wake: 0, -ENOSPC, -EFBIG (over blob_bytes_max), -EIO. After an error the offset is what is in the
 * file; the session can go on.
 */
int upload_append(struct upload *u, const void *buf, size_t len, struct waiter *w);

/*
 * Makes the blob: compares the digest (hashing the file again, piece by piece, where the running hash is of
 * another algorithm or was lost by a restart), syncs, renames, syncs the folder. Woken with 0: the blob is
 * durable and the session gone. -EBADMSG: another digest; the session is gone too, as the specification wants
 * nothing kept. Other errors (-ENOSPC, -EIO, -EMFILE): the session stays, checked out, and the commit may be
 * tried again. Not so after a failed sync, as then nobody knows what the disk holds: append and commit are
 * refused with -EIO, and the session ends when it is given back. Takes u when it wakes with 0 or -EBADMSG.
 */
int upload_commit(struct upload *u, const struct digest *expected, struct waiter *w);

/* Ends the session and removes its bytes. Takes u. w may be NULL. -EIO: gone, but its file could not be
 * removed. */
int upload_cancel(struct upload *u, struct waiter *w);

/*
 * What is fetched from elsewhere is a session of a repository that no client can name: nobody can check it
 * out, and a start removes what is left of one.
 */
#define UPLOAD_FETCH_REPO "fetch from elsewhere"

/* Its file, for reading what was appended: the caller duplicates it. */
int upload_fd(const struct upload *u);

/* Whether all that was appended has that digest, as far as the running hash tells; a commit asks the file
 * where it does not. The session takes no more bytes then. */
bool upload_is(struct upload *u, const struct digest *expected);

/* Whether uploads are refused for want of room. */
bool store_is_full(const struct store *s);

/*
 * Closes a descriptor by the loop, behind everybody's back; at once if more than a few hundred such errands
 * are under way.
 */
void store_close(struct store_ring *r, int fd);

/*
 * Where copies of a session's bytes are being made, as long as the process lives: for the request that goes
 * on with it. Of a session that is checked out.
 */
enum { UPLOAD_COPIES_MAX = 3, UPLOAD_NAME_LEN = UPLOAD_ID_LEN + 1 + 16 };
struct upload_copies {
    unsigned count;
    struct {
        uint64_t node;
        uint64_t size; /* bytes of it that are there */
        char id[UPLOAD_ID_LEN];
    } at[UPLOAD_COPIES_MAX];
};
struct upload_copies *upload_copies(struct upload *u);

/* Whose session has gone on in this one, as long as the process lives. Of one that is checked out. */
struct upload_origin {
    uint64_t node; /* 0: not known, or nobody's */
    bool news;     /* it was adopted, and nobody was told yet */
    bool left;     /* that node was told that it may drop its own */
};
struct upload_origin *upload_origin(struct upload *u);

/* The name of a session, of whichever node. */
void upload_name_write(const char *id, const char *repo, size_t repo_len, char name[UPLOAD_NAME_LEN + 1]);

/* Open sessions of the node. */
uint32_t store_uploads_open(const struct store *s);

#endif
