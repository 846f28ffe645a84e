/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the store share, and nobody else includes (but their tests).
 *
 *   store.c     the process's part: folders, tuning, free space; a ring's part: making, housekeeping
 *   blob.c      reading: the table of open blobs, small ones in memory (cache.c)
 *   session.c   the table of upload sessions: which there are, whose they are
 *   upload.c    a session at work: create, append, commit, cancel
 *   blob_life.c the memory of what a ring has open
 *   verify.c    blobs are read and hashed in the background; damaged ones are moved to damaged/
 *   remove.c    removing files, and what keeps them from being removed
 *   condemned.c which blobs are damaged; the pace of looking for them
 *   shared.c    whether the file system will do for several nodes
 *   hashers.c   threads that hash beside the rings
 *   publish.c   the way of a complete file into blobs/; whole small blobs
 *
 * Everything slow is a task: one order at a time, whose completion only stores its result and steps.
 */
#ifndef FL_STORE_PRIVATE_H
#define FL_STORE_PRIVATE_H

#include <pthread.h>
#include <stdio.h>
#include <stdatomic.h>

#include "check.h"
#include "limits.h"
#include "shared.h"
#include "dataplane/hash.h"
#include "dataplane/loop.h"
#include "dataplane/pool.h"
#include "dataplane/timer.h"
#include "dataplane/store/cache.h"
#include "dataplane/store/hashers.h"
#include "dataplane/store/store.h"

enum {
    REPO_HASH_HEX = 16,
    UPLOAD_NAME_MAX = UPLOAD_ID_LEN + 1 + REPO_HASH_HEX,
    COPY_NAME_MAX = UPLOAD_ID_LEN + 1 + UPLOAD_RANDOM_LEN + 1 + REPO_HASH_HEX,
    BLOB_FOLDER_MAX = sizeof("sha512/ff") - 1,
    BLOB_PATH_MAX = BLOB_FOLDER_MAX + 1 + 2 * DIGEST_BYTES_MAX,
    TEMP_NAME_MAX = 2 + 2 * 16,
    GONE_NAME_MAX = DIGEST_TEXT_MAX + sizeof(".gone") - 1,
    TAKEN_NAME_MAX = GONE_NAME_MAX + 1 + 16,
    FORGET_MS = 10000, /* in a shared store a ring keeps descriptors that nobody uses for so long */

    UPLOADS_CEILING = 1000000, /* upper end of registry.uploads_max */
    UPLOADS_STRICT = 1 << 15,  /* slots where address space is short: more are -EMFILE */
    OPEN_FILES_CEILING = 65536,
    CACHED_OBJECT_MEAN = 1 << 10, /* bytes: how many small objects the table has room for */
    OPEN_WAITS = 4096,            /* requests of a ring that wait for a blob to be opened */
    OPEN_PATHS = 1024,            /* blobs of a ring that are being opened */
    WRITE_JOBS = 256,             /* whole blobs that a ring writes at a time */
    ERRANDS = 256,                /* orders of a ring that nobody waits for */
    WRITE_BACK_BYTES = 8 << 20,   /* a session's bytes are sent to the disk in pieces of this size */
    PIECES = 4,                   /* buffers of a ring to hash files again, of PIECE_BYTES each */
    PIECE_BYTES = 128 << 10,
    IDLE_FILES = 256,       /* descriptors that sessions of the node keep while no request is at work */
    IDLE_FILE_MS = 10000,   /* and for how long */
    SWEEP_SESSIONS = 1024,  /* looked at by one tick */
    SWEEP_MAX = 64,         /* of them, those that one tick does something about */
    CONDEMNED_MAX = 1024,   /* damaged blobs whose files could not be moved away */
    CONDEMNED_NEWS = 64,    /* of them, kept for rings that have not looked yet */
    VERIFIES = 96,          /* blobs that a ring verifies, or that wait for it */
    IO_BYTES_MAX = 1 << 30, /* of one read or write: results are int32 */
};

/* ------------------------------------------------------------------ tasks */

struct task {
    struct op op;
    struct store_ring *ring;
    void (*step)(struct task *t);
    int32_t res; /* of the last order */
};

static inline void task_init(struct task *t, struct store_ring *r, void (*step)(struct task *t))
{
    *t = (struct task){.ring = r, .step = step};
}

/* To be handed to one call of the loop. */
struct op *task_order(struct task *t);

/* The task's next order is the close of a file. What is freed with the last descriptor of one that was
 * removed, or replaced, can be gigabytes: a ring does not wait for that. */
void task_order_close(struct task *t, int fd);

/* ------------------------------------------------------------------ publishing */

enum publish_state {
    PUBLISH_SYNC_FILE,
    PUBLISH_HELD, /* what is in its place is being moved away */
    PUBLISH_OPEN_FOLDER,
    PUBLISH_RENAME,
    PUBLISH_SYNC_FOLDER,
    PUBLISH_CLOSE_FOLDER,
};

/*
 * Makes a blob of a complete file in uploads/: file synced, renamed, folder synced. fd and name are
 * borrowed until done.
 */
struct publish {
    struct task task;
    enum publish_state state;
    int fd, folder_fd;
    int err;
    bool renamed;  /* the name is not in uploads/ any more */
    bool unsynced; /* a sync failed: the kernel may have dropped what was written, no second try can be
                      trusted */
    const char *name;
    struct digest digest;
    void (*done)(struct publish *p, int err);
    char folder[BLOB_FOLDER_MAX + 1];
    char path[BLOB_PATH_MAX + 1];
};

void publish_start(struct publish *p, struct store_ring *r, int fd, const char *name, const struct digest *d);

/* Whether a file in uploads/ is a whole blob on its way: left by a crash. */
bool temp_name_valid(const char *name);

/* In damaged/, of a blob that is being removed. */
void gone_name(const struct digest *d, char name[GONE_NAME_MAX + 1]);

/* blobs/ path of a digest, and of its folder (a prefix of it). */
void blob_path(const struct digest *d, char path[BLOB_PATH_MAX + 1]);

/* ------------------------------------------------------------------ sessions */

enum upload_state {
    UPLOAD_AT_REST, /* no order is under way */
    UPLOAD_CREATING,
    UPLOAD_ADOPTING,
    UPLOAD_OPENING,
    UPLOAD_WRITING,
    UPLOAD_IN_LINE, /* for a buffer to hash the file again */
    UPLOAD_HASHING,
    UPLOAD_PUBLISHING,
    UPLOAD_UNLINKING,
    UPLOAD_CLOSING,
};

struct upload {
    /* The table's, under its mutex. */
    struct upload *chain;     /* of its bucket */
    struct store_ring *owner; /* the ring whose request works on it; NULL: nobody does */
    int64_t touched_ms;       /* CLOCK_MONOTONIC; before 0: longer ago than the machine is up */
    bool listed;              /* in the table: can be found and is counted */
    bool copy;                /* of another node's session: no client's yet */
    char id[UPLOAD_ID_LEN + 1];
    char name[COPY_NAME_MAX + 1]; /* of the file: id "." hash of the repository; a copy: session.c */

    /* The owner's. */
    struct task task;
    int64_t written_ms; /* as touched_ms: when its last bytes came */
    enum upload_state state;
    uint8_t hint;     /* the algorithm that the commit is likely to ask for */
    uint8_t alg;      /* of the running hash; DIGEST_NONE: there is none, hashed is 0 */
    bool broken;      /* a sync failed: it can only be ended */
    bool has_result;  /* result is the digest of all size bytes; the running hash is used up */
    int fd;           /* -1: not open */
    uint64_t size;    /* bytes of the file that count: received in order and written */
    uint64_t hashed;  /* bytes that the running hash has seen: at most size when at rest */
    struct hash hash; /* the running one */
    struct waiter *waiter;
    struct upload **out; /* create, checkout */
    const uint8_t *buf;  /* append */
    size_t left;         /* append: bytes of buf to be written */
    struct hash_job job; /* append: its bytes, while a hasher has them */
    bool away, wrote;    /* job is with it; the write is over, as appended says */
    int appended;
    int err;                           /* of an ending: what its waiter gets */
    char adopted[UPLOAD_NAME_MAX + 1]; /* of a copy that is being adopted: its next name */
    uint8_t *piece;                    /* hashing */
    struct upload *next_in_line;
    struct digest expected, result;
    struct publish publish;
    struct upload_copies copies;
    struct upload_origin origin;
};

/* Whether that is the name of a session's file. */
bool session_name_valid(const char *name, size_t len);

enum { SESSION_BUCKETS = 1 << 16, BUCKET_DIGITS = 4 /* of the id, which choose the bucket */ };

/* Which sessions there are. The mutex is taken per request, never per piece of a body. */
struct session_table {
    pthread_mutex_t mutex;
    struct pool slots, buckets;
    struct upload **bucket;
    uint32_t sweep_at;     /* slot */
    _Atomic uint32_t open; /* listed */
    uint32_t idle_files;
};

int sessions_init(struct session_table *t);
void sessions_fini(struct session_table *t);

/* Takes note of the sessions that are on the disk and removes what a crash left of other writes. */
int sessions_recover(struct store *s);

/* A listed slot, owned by r; id and name are set. of: another node's session whose copy it is, or NULL.
 * -EMFILE. */
int session_new(struct store_ring *r, const char *of, uint64_t repo_hash, struct upload **out);
/* Takes a session that is at rest (upload_checkout says which; it may be a copy still). -ENOENT, -EBUSY. */
int session_take(struct store_ring *r, const char *id, uint64_t repo_hash, struct upload **out);
/* The same for those that are other nodes' affair: copies, and what is fetched; any: for every one. */
int session_take_copy(struct store_ring *r, const char *id, bool any, struct upload **out);
/* The name that a copy, which r holds, will have as a session of this node; it has it. */
void session_adopt_name(struct upload *u);
void session_adopt(struct upload *u);
/* Gives it back. Returns a descriptor to be closed, or -1. */
int session_release(struct upload *u, int64_t now_ms);
/* Nobody finds it any more; its slot stays taken. */
void session_unlist(struct upload *u);
void session_drop(struct upload *u);
/* A look at the next sessions: the expired ones are taken for r, descriptors long idle are taken off theirs.
 */
struct sweep {
    struct upload *ends[SWEEP_MAX];
    int fds[SWEEP_MAX];
    uint32_t ends_count, fds_count;
};
void sessions_sweep(struct store_ring *r, int64_t now_ms, struct sweep *out);
void sessions_check(struct session_table *t);

/* Removes the file and the session, which r holds; its waiter, if any, gets err. */
void upload_end(struct upload *u, struct store_ring *r, int err);

/* ------------------------------------------------------------------ the process's part and the ring's */

/* Damaged blobs. The mutex is taken when there are some. */
struct condemned {
    pthread_mutex_t mutex;
    _Atomic uint32_t count;
    _Atomic uint64_t news; /* how many there were */
    struct digest list[CONDEMNED_MAX];
    struct digest news_list[CONDEMNED_NEWS];
};

void condemned_init(struct condemned *c);
void condemned_fini(struct condemned *c);

/* From now on nobody opens it, and every ring lets go of it with its next batch. */
void store_condemn(struct store *s, const struct digest *d);
/* Its file is another one, or gone. */
void store_pardon(struct store *s, const struct digest *d);
bool store_is_condemned(struct store *s, const struct digest *d);
void store_ring_news(struct store_ring *r); /* the ring lets go */

/*
 * The places of blobs' files: whoever renames a file into one has entered it, any number of them at a time;
 * whoever takes away what it has looked at has closed it meanwhile, with nobody in it but others who do that.
 * False: not now.
 */
bool place_enter(struct store *s, const struct digest *d);
void place_leave(struct store *s, const struct digest *d);
bool place_close(struct store *s, const struct digest *d);
void place_open(struct store *s, const struct digest *d);

/* remove.c: blobs that are being pushed, and those whose files have gone and that rings may still have open.
 * The mutex is taken once or twice for each push. */
enum { PINS_MAX = 1 << 17, PIN_BUCKETS = 256, FORGOTTEN = 256, REMOVALS_MAX = 64 };

struct pins {
    pthread_mutex_t mutex;
    struct pool pool;
    struct blob_pin *bucket[PIN_BUCKETS];
    struct blob_pin *held, **held_last; /* by blob_hold: the oldest first */
    uint64_t all_held_ms;               /* since when every blob is */
    _Atomic uint64_t forgotten;         /* how many there were */
    struct digest list[FORGOTTEN];
};

int pins_init(struct pins *p);
void pins_fini(struct pins *p);
int removals_init(struct store_ring *r);
void store_ring_forget(
    struct store_ring *r);                   /* closes what was removed, but for what is read from just now */
void blobs_forget_all(struct store_ring *r); /* blob.c: all that nobody refers to */
void blobs_forget_files(struct store_ring *r); /* of that, what has a descriptor */

/* When these bytes may be read in the background, which are then taken off the pace (CLOCK_MONOTONIC, ms). */
uint64_t store_pace(struct store *s, uint64_t bytes, uint64_t now_ms);

/* shared.c: whether several nodes can have a store there; *why: what it is that cannot be done. Of a mount:
 * what is wrong with its options, NULL: nothing. */
int store_shared_check(const struct store_folders *folders, const char **why);
const char *store_mount_fault(const char *type, const char *options);

enum { PLACES = 4096 };

struct store {
    int blobs_dirfd, uploads_dirfd, damaged_dirfd; /* borrowed */
    bool shared;
    _Atomic int64_t clock_ahead_ms; /* of the file system's clock before this node's, as seen last */
    _Atomic uint64_t node;
    _Atomic bool sync;
    _Atomic uint64_t reserve, blob_bytes_max, upload_expiry_ms;
    _Atomic uint32_t uploads_max, open_files;
    _Atomic int64_t free_bytes; /* as of the last look, less what was written since */
    _Atomic uint32_t rings;
    _Atomic uint64_t scrub_rate, paced_until_us;
    _Atomic int32_t place[PLACES]; /* by the digest: who has entered; < 0: so many have closed it */
    struct condemned condemned;
    struct pins pins;
    struct session_table sessions;
    struct hashers *hashers;
};

/* blob.c: an open blob, and those who wait for it. */
enum entry_state { ENTRY_OPENING, ENTRY_READING, ENTRY_READY, ENTRY_CLOSING };

struct wait {
    struct wait *next;
    struct waiter *waiter;
    struct blob **out;
    uint64_t size;
    bool want_bytes;
    int res;
};

struct entry {
    struct blob blob; /* first: an entry is found from its blob */
    struct entry *chain;
    struct entry *prev, *next; /* of the list it is in while nobody refers to it */
    struct wait *waits, **waits_last;
    char *path; /* while it is opened; GONE_NAME_MAX */
    struct task task;
    uint8_t state;
    bool detached, listed;
    bool growing;   /* an upload session: it has at least as many bytes as are wanted */
    uint8_t tries;  /* to open it, after the first */
    uint32_t block; /* of the cache, or CACHE_NONE */
    uint32_t read;  /* bytes of it that were read */
};

/* In the table; NULL: it is not. */
struct entry *entry_find(const struct store_ring *r, const struct digest *d);

struct verify;

struct entry_list {
    struct entry *first, *last; /* first: used longest ago */
};

struct store_ring {
    struct store *store;
    struct loop *loop;
    struct ring_counters *counters;
    bool is_first;
    uint32_t orders; /* under way */

    struct pool entries, waits, paths, table;
    struct entry **bucket;
    uint32_t buckets; /* a power of two */
    uint64_t seed;
    uint32_t files; /* entries with a descriptor, or about to have one */
    struct entry_list idle_files, idle_bytes;
    struct cache cache;

    struct pool writes, errands;
    struct pool pieces;
    struct upload *line_first, **line_last; /* sessions that wait for a piece */
    struct hash_back back;
    struct timer_wheel *wheel;
    struct store_listener listener;
    struct pool removals;
    uint64_t forgotten;                                     /* of struct pins: dealt with */
    uint64_t forget_ms;                                     /* shared: when descriptors are let go next */
    uint64_t news_seen;                                     /* of struct condemned */
    struct verify *verifying, *verify_first, **verify_last; /* the one at work; those in line */
    struct verify *verify_list;                             /* all of them, the newest first */
    struct pool verifies, verify_pieces;
    uint8_t *verify_piece; /* page-aligned */
};

static inline void store_count(struct store_ring *r, enum counter_id id)
{
    _Atomic uint64_t *c = &r->counters->counter[id];
    atomic_store_explicit(c, atomic_load_explicit(c, memory_order_relaxed) + 1, memory_order_relaxed);
}

static inline void *pool_at(const struct pool *p, uint32_t index)
{
    return p->base + p->size * index;
}

/* What callers are told of an error of the file system; it is counted. */
int store_error(struct store_ring *r, int err);

/* 0 if len bytes may be written, else -ENOSPC (counted); they are taken off the free space. */
int store_room_take(struct store_ring *r, uint64_t len);

/* upload.c: pieces that hashers have given back. */
void uploads_hashed(struct store_ring *r);

/* A running hash. */
uint64_t hash_repo(const char *repo, size_t len);

/*
 * Sends a range to the disk early; or not, if all errands are taken. The descriptor may be closed meanwhile:
 * the order then does nothing, or no harm to another file.
 */
void store_write_back(struct store_ring *r, int fd, uint64_t offset, size_t len);

/* blob.c: a damaged one is detached, and marked for those that refer to it. */
void blob_condemn(struct store_ring *r, const struct digest *d);
void blobs_condemn_all(struct store_ring *r);

/* verify.c: a reader found other bytes than there should be. It is verified soon, if it is not already. */
void store_suspect(struct store_ring *r, const struct digest *d);
int verifies_init(struct store_ring *r);
void verifies_fini(struct store_ring *r);

int writes_init(struct store_ring *r);
int blobs_init(struct store_ring *r, size_t cache_bytes_max);
void blobs_fini(struct store_ring *r);

/* CHECKs that the ring's structures hold together. idle: also that nothing is under way or referenced. */
void store_ring_check(const struct store_ring *r, bool idle);
void blobs_check(const struct store_ring *r, bool idle);

#endif
