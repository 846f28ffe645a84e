/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The names file: an LMDB environment (MDB_NOSUBDIR) that control alone writes, one transaction per applied
 * batch, and that the data plane's rings read by memory map, opened with MDB_RDONLY | MDB_NOLOCK.
 *
 * Readers and the writer do not share LMDB's lock file: whoever can write that file could stop the writer. It
 * is control's own (0600). Instead each ring announces the transaction it reads in struct names_epochs, a
 * page that both processes share, and control pins the pages of announced transactions with read transactions
 * of its own (control/raft/db_pin.c). The writer never waits: a slow ring only makes the file grow. One that
 * stands still for longer than a bound is a dead data plane, is restarted by its supervisor, and pins nothing
 * any more.
 *
 * What LMDB does (0.9.24): a page freed by transaction N is reused once N is older than every read
 * transaction in the writer's lock table and than the writer's predecessor; and the root of N + 2 overwrites
 * that of N. The second means that an announcement alone is not enough: a ring must look at `committed` again
 * after it has begun. Only names_read_begin() (names_reader.h) does it right; use nothing else.
 *
 * Sub-databases, keys and values are below; all integers little-endian, all keys at most 511 bytes.
 * REPO stands for the repository's name, | for a NUL byte, DIGEST for a packed digest.
 */
#ifndef FL_NAMES_H
#define FL_NAMES_H

#include <stdbool.h>
#include <stddef.h>

#include "digest.h"
#include "limits.h"

enum {
    NAMES_MAGIC = 0x314e4c46, /* "FLN1" */
    NAMES_VERSION = 1,
    NAMES_KEY_MAX = 511,
    NAMES_BLOB_VERSION = 1,
    NAMES_HELD_KEY_MAX = 1 + 8 * BLOB_HOLDERS_MAX,
};

/* Size of the address range that both sides map; the file grows as it is used, not to this. */
#define NAMES_MAP_BYTES (64ull << 30)

/* Names of the sub-databases, in the order of enum names_db. */
enum names_db {
    NAMES_META,
    NAMES_REPOS,
    NAMES_TAGS,
    NAMES_MANIFESTS,
    NAMES_LINKS,
    NAMES_REFERRERS,
    NAMES_BLOBS,
    NAMES_HELD,
    NAMES_POLICIES,
    NAMES_NOTICES,
    NAMES_MARKS,
    NAMES_INDEX,
    NAMES_DB_COUNT
};
#define NAMES_DB_NAMES                                                                                       \
    {                                                                                                        \
        "meta", "repos", "tags", "manifests", "links", "referrers", "blobs", "held", "policies", "notices",  \
            "marks", "index"                                                                                 \
    }

/* NAMES_META: key "state" -> struct names_meta. */
struct names_meta {
    uint32_t magic;
    uint32_t version;
    uint8_t cluster_id[16];
    uint64_t node_id;
    uint64_t applied_index; /* of the log: everything up to it is in this file */
    uint64_t applied_term;
};

/* NAMES_META: key "index" -> struct names_index_state: whether NAMES_INDEX has all that it is to have. A
 * version without that table leaves this row as it was: it counts only where applied_index is that of
 * "state". */
struct names_index_state {
    uint64_t applied_index;
    uint64_t whole; /* 1, or 0: it is being made */
};

static inline bool names_index_is_whole(const struct names_meta *meta, const struct names_index_state *index)
{
    return index->whole == 1 && index->applied_index == meta->applied_index;
}

/* NAMES_REPOS: key REPO -> struct names_repo. Exact after any crash: counted in the same transaction. */
struct names_repo {
    uint64_t created_ms;
    uint64_t updated_ms;
    uint64_t tags, manifests, blobs;
    uint64_t bytes; /* of linked blobs and manifests, each counted once in this repository */
};

/* NAMES_TAGS: key REPO|TAG -> struct names_tag. */
struct names_tag {
    uint64_t time_ms;
    uint8_t digest[72]; /* packed, padded with zero */
};

/* NAMES_MANIFESTS: key REPO|DIGEST -> struct names_manifest, then media_type, artifact_type, then the packed
 * subject if has_subject, then ref_count times {u8 kind, DIGEST}. */
struct names_manifest {
    uint64_t size;
    uint64_t time_ms;
    uint16_t media_type_len;
    uint16_t artifact_type_len;
    uint8_t has_subject;
    uint8_t pad[3];
    uint32_t ref_count;
    uint32_t tag_count; /* tags of this repository that name it */
};

/*
 * NAMES_INDEX: what other rows are found by, made of them (control/state/state_index.c); no values. A row may
 * be left of one that has gone: whoever finds it looks at the row that it is about. REPO|'t' DIGEST tag: the
 * tag names that manifest REPO|'r' SUBJECT-DIGEST hash DIGEST: a referrer, by names_type_hash() of its
 * artifact type
 */
enum names_index_kind { NAMES_INDEX_TAG = 't', NAMES_INDEX_REFERRER = 'r', NAMES_TYPE_HASH_BYTES = 8 };

/* NAMES_LINKS: key REPO|DIGEST -> struct names_link: the blob belongs to the repository. */
struct names_link {
    uint64_t size;
    uint64_t time_ms;
};

/* NAMES_REFERRERS: key REPO|SUBJECT-DIGEST DIGEST -> u16 length of the artifact type, the artifact type, then
 * the JSON descriptor as it stands in a referrers list. */

/*
 * NAMES_BLOBS: key DIGEST -> struct names_blob: every blob, manifests' bytes included. A row ends behind its
 * last holder. One that was never told of a holder ends behind `links` (it is of before cluster version 3, or
 * of a node that is no cluster yet), and NAMES_HELD does not count it. Who holds it are nodes whose copy is
 * durable and counts. Some of them may be no nodes of the cluster any more, or no replicas: they are no
 * holders then (a node's id is never given again); what is left of them goes with the next change.
 */
struct names_blob {
    uint64_t size;
    uint64_t links;  /* repositories that link it, as a blob or as a manifest */
    uint8_t version; /* of the row: NAMES_BLOB_VERSION, or 0 for the one that ends behind links */
    uint8_t holder_count;
    uint8_t pad[6];
    uint64_t holder[BLOB_HOLDERS_MAX]; /* ascending */
};

/*
 * NAMES_HELD: key: u8 count, that many ids (u64, ascending) -> struct names_held: what is linked and has
 * exactly these holders. So it is known at any time how much is endangered, and how much each node holds,
 * without a walk. Rows of nothing are not kept.
 */
struct names_held {
    uint64_t blobs;
    uint64_t bytes;
};

/* NAMES_POLICIES: names_policy.h. */

/*
 * NAMES_NOTICES: what webhooks are to be told of, and how far each of them is.
 *   'E' NAME -> struct names_endpoint. Its URL and headers are in the private file: they may be secrets.
 *   'N' u64 index of the log, u16 number (both big-endian) -> the notice, as control/state/notice.h has it
 *   'Q' -> struct names_notices
 */
struct names_endpoint {
    uint32_t version;
    uint32_t actions;      /* bits 1 << enum notice_action, and those of control/state/notice.h */
    uint64_t cursor_index; /* it was told everything up to this notice */
    uint32_t cursor_number;
    uint32_t pad;
    uint64_t dropped; /* notices that had to make room before it was told of them */
    uint64_t revision, created_ms, updated_ms;
    char prefix[REPO_NAME_MAX + 1];
    char media_types[PATTERN_TEXT_MAX + 1];
};

struct names_notices {
    uint64_t count;   /* of notices that wait */
    uint64_t dropped; /* the oldest ones, for want of room: see NOTICES_MAX */
};

_Static_assert(sizeof(struct names_endpoint) == 568, "on disk");
_Static_assert(sizeof(struct names_notices) == 16, "on disk");

/* NAMES_MARKS: key NAMES_TOTALS_KEY, which no mark has -> struct names_totals, each blob counted once; in the
 * same transaction as the rows. A state that was made by a version that did not count has no such row until
 * CMD_GC_TOTALS. */
struct names_totals {
    uint64_t blobs, bytes;           /* all that have a row in NAMES_BLOBS */
    uint64_t free_blobs, free_bytes; /* of these, those that no repository links */
};
#define NAMES_TOTALS_KEY "\xfftotals"

/*
 * NAMES_MARKS: what the garbage collection has found. Key REPO|kind DIGEST (enum names_mark_kind) of a
 * blob's link or a manifest in a repository, which is there then; or |DIGEST of a blob that no repository
 * links. Whoever names, pushes or mounts a thing takes its mark away, so that a step that says which mark it
 * means takes nothing that came to be used meanwhile. Value: struct names_mark.
 */
enum names_mark_kind { NAMES_MARK_LINK = 'b', NAMES_MARK_MANIFEST = 'm' };
enum names_mark_step {
    NAMES_MARK_SEEN = 1, /* nothing named it when it was looked for */
    /* Nothing has named it since. It can be pulled, and named by a manifest; but asked whether it is there
     * (HEAD, mount) the answer is no, so that who pushes brings it again. */
    NAMES_MARK_GOING = 2,
    /* Of a blob: its file is being removed wherever there is one. Nothing links it any more before
     * CMD_GC_KEEP, as whoever has just written a file again must keep that one from being removed first. */
    NAMES_MARK_DELETING = 3,
    NAMES_MARK_KEPT = 4, /* of a blob: it was, and is about to be linked again */
};
struct names_mark {
    uint64_t index; /* of the log entry that made this step */
    uint64_t time_ms;
    uint64_t size; /* bytes of the thing */
    uint8_t step;  /* enum names_mark_step */
    uint8_t pad[7];
};

_Static_assert(sizeof(struct names_totals) == 32, "on disk");
_Static_assert(sizeof(struct names_mark) == 32, "on disk");
_Static_assert(sizeof(struct names_meta) == 48, "on disk");
_Static_assert(sizeof(struct names_index_state) == 16, "on disk");
_Static_assert(sizeof(struct names_repo) == 48, "on disk");
_Static_assert(sizeof(struct names_tag) == 80, "on disk");
_Static_assert(sizeof(struct names_manifest) == 32, "on disk");
_Static_assert(sizeof(struct names_link) == 16, "on disk");
_Static_assert(offsetof(struct names_blob, version) == 16, "on disk");
_Static_assert(offsetof(struct names_blob, holder) == 24, "on disk");
_Static_assert(sizeof(struct names_held) == 16, "on disk");

/* One cache line a ring. 0: not reading; else the number of the transaction that the ring reads, or is about
 * to. */
struct names_epoch {
    _Atomic uint64_t reading;
    uint8_t pad[56];
};

#define NAMES_FRESH_UNSAID 0
#define NAMES_FRESH_NEVER  1
#define NAMES_FRESH_ALWAYS UINT64_MAX

/* The shared page(s): a memfd made by control, writable by both, holding no secret and nothing trusted: a
 * wrong value can only keep pages from being reused, for a while. */
struct names_epochs {
    _Atomic uint64_t committed; /* number of the newest transaction; written by control after each commit */
    /* Until when (CLOCK_MONOTONIC, ms) the file has all that anybody was told of: a read lease. Written by
     * control. NAMES_FRESH_ALWAYS: nobody else writes; NAMES_FRESH_UNSAID: there is no control that says it.
     */
    _Atomic uint64_t fresh_until_ms;
    uint8_t pad[48];
    struct names_epoch ring[RINGS_MAX];
};

/* Builds REPO|rest in key (room for NAMES_KEY_MAX). Returns the length, 0 if it does not fit. */
static inline size_t names_key(uint8_t *key, const char *repo, size_t repo_len, const void *rest,
                               size_t rest_len)
{
    if (repo_len + 1 + rest_len > NAMES_KEY_MAX)
        return 0;
    memcpy(key, repo, repo_len);
    key[repo_len] = 0;
    if (rest_len)
        memcpy(key + repo_len + 1, rest, rest_len);
    return repo_len + 1 + rest_len;
}

/* Length of a blob's row. */
static inline size_t names_blob_bytes(const struct names_blob *b)
{
    if (!b->version)
        return offsetof(struct names_blob, version);
    return offsetof(struct names_blob, holder) + b->holder_count * sizeof(b->holder[0]);
}

/* False: the row is none of these. Holders that do not exist are 0. */
static inline bool names_blob_read(const void *row, size_t len, struct names_blob *out)
{
    memset(out, 0, sizeof(*out));
    if (len < offsetof(struct names_blob, version) || len > sizeof(*out))
        return false;
    memcpy(out, row, len);
    return out->version <= NAMES_BLOB_VERSION && out->holder_count <= BLOB_HOLDERS_MAX &&
           len == names_blob_bytes(out);
}

/* The key in NAMES_HELD (room for NAMES_HELD_KEY_MAX). Returns its length. */
static inline size_t names_held_key(uint8_t *key, const struct names_blob *b)
{
    key[0] = b->holder_count;
    memcpy(key + 1, b->holder, b->holder_count * sizeof(b->holder[0]));
    return 1 + b->holder_count * sizeof(b->holder[0]);
}

static inline size_t names_key_digest(uint8_t *key, const char *repo, size_t repo_len, const struct digest *d)
{
    uint8_t packed[DIGEST_PACKED_MAX];
    return names_key(key, repo, repo_len, packed, digest_pack(d, packed));
}

/* The key of a mark in NAMES_MARKS. */
static inline size_t names_key_mark(uint8_t *key, const char *repo, size_t repo_len, uint8_t kind,
                                    const struct digest *d)
{
    uint8_t rest[1 + DIGEST_PACKED_MAX] = {kind};
    return names_key(key, repo, repo_len, rest, 1 + digest_pack(d, rest + 1));
}

static inline size_t names_key_mark_blob(uint8_t *key, const struct digest *d)
{
    return names_key_digest(key, "", 0, d);
}

/* FNV-1a: types that share a hash are told apart by the referrers' own rows. */
static inline void names_type_hash(const void *type, size_t len, uint8_t out[NAMES_TYPE_HASH_BYTES])
{
    const uint8_t *p = (const uint8_t *)type;
    uint64_t h = 0xcbf29ce484222325ull;
    for (size_t i = 0; i < len; i++)
        h = (h ^ p[i]) * 0x100000001b3ull;
    for (unsigned i = 0; i < NAMES_TYPE_HASH_BYTES; i++)
        out[i] = (uint8_t)(h >> (8 * i));
}

/* Keys of NAMES_INDEX; without a tag, or a digest (NULL): what the keys of all of them begin with. */
static inline size_t names_key_index_tag(uint8_t *key, const char *repo, size_t repo_len,
                                         const struct digest *d, const char *tag, size_t tag_len)
{
    uint8_t rest[1 + DIGEST_PACKED_MAX + TAG_NAME_MAX] = {NAMES_INDEX_TAG};
    size_t len = 1 + digest_pack(d, rest + 1);
    if (tag_len > TAG_NAME_MAX)
        return 0;
    if (tag_len)
        memcpy(rest + len, tag, tag_len);
    return names_key(key, repo, repo_len, rest, len + tag_len);
}

static inline size_t names_key_index_referrer(uint8_t *key, const char *repo, size_t repo_len,
                                              const struct digest *subject, const void *type, size_t type_len,
                                              const struct digest *d)
{
    uint8_t rest[1 + 2 * DIGEST_PACKED_MAX + NAMES_TYPE_HASH_BYTES] = {NAMES_INDEX_REFERRER};
    size_t len = 1 + digest_pack(subject, rest + 1);
    names_type_hash(type, type_len, rest + len);
    len += NAMES_TYPE_HASH_BYTES;
    if (d)
        len += digest_pack(d, rest + len);
    return names_key(key, repo, repo_len, rest, len);
}

#endif
