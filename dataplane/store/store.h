/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The blob store: content-addressed files. What it does not know: repositories, tags, HTTP.
 *
 *   blobs/<alg>/<first two hex digits>/<hex>    a blob: complete, verified, never written again
 *   uploads/<id>                                 a session's bytes so far; or a blob's bytes before their rename
 *
 * A blob comes to be by a rename of a synced file, followed by a sync of its folder. So after a crash at any point a
 * file under blobs/ is whole, and an upload holds a prefix of what was received. There is no other record: a start
 * reads nothing but needs; sessions are found again by their file.
 *
 * struct store is the process's, struct store_ring one ring's part of it. Calls are for the ring's thread and
 * never wait for a disk: slow parts are orders to the ring's loop, and end in a wake of the waiter (waiter.h).
 */
#ifndef FL_STORE_H
#define FL_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "digest.h"
#include "dataplane/waiter.h"

struct loop;
struct ring_counters;
struct store;
struct store_ring;

/* Values of the plan that the store uses; replaced by store_tune between two batches. */
struct store_tuning {
    bool sync;             /* store.sync */
    uint64_t reserve;      /* bytes, store.reserve */
    uint64_t blob_bytes_max;
    uint32_t uploads_max;
    uint32_t open_files;   /* per ring */
    uint64_t upload_expiry_ms;
};

/* Takes the two folder descriptors. *why on failure: a sentence for the operator. Called once, before the threads. */
int store_new(int blobs_dirfd, int uploads_dirfd, const struct store_tuning *t, struct store **out,
              const char **why);
void store_free(struct store *s);
void store_tune(struct store *s, const struct store_tuning *t); /* any one thread at a time; readers see each value whole */

/* cache_bytes: fixed memory for small objects (blobs of at most SMALL_OBJECT_MAX bytes). */
enum { SMALL_OBJECT_MAX = 64 << 10 };
int store_ring_new(struct store *s, struct loop *loop, struct ring_counters *counters, size_t cache_bytes,
                   struct store_ring **out);
void store_ring_free(struct store_ring *r); /* nothing may be under way */

/* Housekeeping, about once a second from each ring: expiry of sessions (ring 0), free space. now_ms: CLOCK_MONOTONIC. */
void store_ring_tick(struct store_ring *r, uint64_t now_ms);

/* ------------------------------------------------------------------ reading */

/*
 * A blob that is open for reading: its descriptor, and for small ones its bytes in memory. Reference counted; one
 * ring's only. Opening the same blob again gives the same object (the ring keeps the last ones open).
 */
struct blob {
    struct digest digest;
    uint64_t size;         /* bytes */
    int fd;
    uint32_t refs;
    const uint8_t *bytes;  /* the whole content if it is small and in memory, else NULL */
    uint64_t resident_ms;  /* for the mover: when the whole file was last seen in the page cache; 0: not known */
};

/*
 * Opens a blob of a known size. Returns 0 with *out (a reference: give it back with blob_put), or -EINPROGRESS: then w
 * is woken with 0 and *out set, or an error. want_bytes: read a small blob into memory as well.
 * Errors: -ENOENT (no such file), -EIO (also: the file has another size), -EMFILE, -ENOMEM (cache and table all in use).
 */
int blob_open(struct store_ring *r, const struct digest *d, uint64_t size, bool want_bytes, struct blob **out,
              struct waiter *w);
void blob_get(struct blob *b);
void blob_put(struct store_ring *r, struct blob *b);

/* Drops what this ring holds open or in memory of a blob that was deleted; references stay good. */
void blob_forget(struct store_ring *r, const struct digest *d);

/* ------------------------------------------------------------------ writing whole small blobs (manifests) */

/*
 * Writes a blob whose digest the caller has checked: durable when woken with 0. bytes is borrowed until then. A blob that
 * is there already with the same size is a success. Errors: -ENOSPC, -EIO, -EAGAIN (too many at once).
 */
int blob_write(struct store_ring *r, const struct digest *d, const void *bytes, size_t len, struct waiter *w);

/* The digest of bytes in memory (for small ones: it runs on the ring). */
void store_digest(uint8_t alg, const void *bytes, size_t len, struct digest *out);

/* ------------------------------------------------------------------ upload sessions */

/*
 * A session belongs to the node; while a request works on it, it belongs to that request's ring alone (checked
 * out). id: UPLOAD_ID_LEN hex digits. A session remembers its repository by a hash: another one's is -ENOENT.
 * One call with a waiter at a time for each session.
 */
struct upload;

/* A new session, checked out. -EMFILE: store.uploads_max are open; -ENOSPC: below store.reserve. */
int upload_create(struct store_ring *r, const char *repo, size_t repo_len, uint8_t alg_hint, struct upload **out,
                  struct waiter *w);
/* 0 or -EINPROGRESS (then woken). -ENOENT; -EBUSY: another request works on it. After a restart: from its file. */
int upload_checkout(struct store_ring *r, const char *id, size_t id_len, const char *repo, size_t repo_len,
                    struct upload **out, struct waiter *w);
/* Gives it back; the session lives on. */
void upload_checkin(struct upload *u);

const char *upload_id(const struct upload *u);
uint64_t upload_offset(const struct upload *u); /* bytes that were received and written in order */

/*
 * Appends: hashes on the ring, writes by the loop. buf is borrowed until the wake: 0, -ENOSPC, -EFBIG
 * (store: blob_bytes_max), -EIO. After an error the offset is what is in the file; the session can go on.
 */
int upload_append(struct upload *u, const void *buf, size_t len, struct waiter *w);

/*
 * Makes the blob: compares the digest (hashing the file again, piece by piece, where the running hash is of another
 * algorithm or was lost by a restart), syncs, renames, syncs the folder. Woken with 0: the blob is durable and the
 * session gone. -EBADMSG: another digest; the session is gone too, as the specification wants nothing kept.
 * Other errors (-ENOSPC, -EIO): the session stays, checked out. Takes u on 0 and -EBADMSG.
 */
int upload_commit(struct upload *u, const struct digest *expected, struct waiter *w);

/* Ends the session and removes its bytes. Takes u. w may be NULL. */
int upload_cancel(struct upload *u, struct waiter *w);

/* Open sessions of the node. */
uint32_t store_uploads_open(const struct store *s);

#endif
