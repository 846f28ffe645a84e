/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Commands of the state machine: what a log entry says. The data plane makes the registry's commands,
 * control makes the others; every node applies them in the order of the log. Applying is a pure function of
 * the state and the command: the time is in the command, set by the leader when it accepts it.
 *
 * Layout (wire.h): struct cmd_head's fields in order, then the fields of the type in the order given here.
 * An unknown version or type stops the node: it is never skipped.
 */
#ifndef FL_CMD_H
#define FL_CMD_H

#include "digest.h"
#include "limits.h"
#include "wire.h"

enum {
    CMD_MAGIC = 0x31434c46, /* "FLC1" */
    CMD_VERSION = 1,
};

enum cmd_type {
    CMD_NONE = 0,
    /* A blob is durable and belongs to a repository: bytes repo, digest, u64 size (bytes), and who holds it
       (struct cmd_holders; before cluster version 3 that is not there). Makes the repository. */
    CMD_BLOB_LINK = 1,
    /* As BLOB_LINK, but only if the blob is known (mount): bytes repo, digest, bytes from (may be empty:
     * any repository). CMD_BLOB_UNKNOWN if it is linked nowhere (or not in `from`). */
    CMD_BLOB_MOUNT = 2,
    /* bytes repo, digest */
    CMD_BLOB_UNLINK = 3,
    /* See struct cmd_manifest for the fields. */
    CMD_MANIFEST_PUT = 4,
    /* bytes repo, digest. Also removes every tag of the repository that names it. */
    CMD_MANIFEST_DELETE = 5,
    /* bytes repo, bytes tag */
    CMD_TAG_DELETE = 6,
    /* bytes repo: the repository with everything in it */
    CMD_REPO_DELETE = 7,
    /* bytes key, bytes value (text, as in `fairlead set`) */
    CMD_SETTING_SET = 8,
    /* bytes key: back to the default */
    CMD_SETTING_UNSET = 9,
    /* Makes or replaces a service: u64 revision that it has (CMD_REVISION_ANY, or 0: there is none yet), then
       its fields (control/state/service.h). */
    CMD_SERVICE_SET = 10,
    /* bytes service, u8 origin (enum svc_origin: who asks): the service with its backends */
    CMD_SERVICE_RM = 11,
    /* bytes service, u64 revision that each of them has, u32 count, each backend's fields; names ascending.
       All or none of them is set. */
    CMD_BACKEND_SET = 12,
    /* bytes service, u8 origin, u32 count, each: bytes backend; ascending. */
    CMD_BACKEND_RM = 13,
    /* bytes service, u8 enum svc_admin, u32 count, each: bytes backend; ascending. */
    CMD_BACKEND_ADMIN = 14,
    /* Of nodes: the fields are in control/state/node.h. The first one makes the cluster's row and its first
       node, once: node (with its id), cluster. */
    CMD_CLUSTER_INIT = 15,
    /* node_join; detail on success: u64 the id of the node */
    CMD_NODE_ADD = 16,
    CMD_NODE_SET = 17,    /* node_change */
    CMD_NODE_RM = 18,     /* node_removal */
    CMD_TOKEN_SET = 19,   /* node_token, u8 rotate: 1 removes the other tokens of its role */
    CMD_TOKEN_RM = 20,    /* 32 bytes: hash of the secret */
    CMD_CLUSTER_SET = 21, /* node_cluster_change */
    /* All of them or none: u32 count, each: u16 type, bytes the fields of that type. Of settings, services,
       backends, rules of mirroring and sources only. */
    CMD_TRANSACTION = 22,
    /* Who holds a blob has changed: digest, cmd_holders that it gains, cmd_holders that it loses, and
       cmd_holders that have to be there (may be missing: none). CMD_BLOB_UNKNOWN if nobody ever linked it,
       CMD_CONFLICT if one of those that have to be there is not: whoever lets a copy go names those on which
       it relies, so that of two who rely on each other only one can. */
    CMD_BLOB_COPIES = 23,
    /* Steps of the garbage collection, on what one repository has: bytes repo, u8 kind (enum
       names_mark_kind), u8 step (enum cmd_gc_step), u32 count, each: digest, u64 index of the mark that is
       meant (0 for the first step). What has come to be used meanwhile is passed over. detail: u32 how
       many it was done for, u64 their bytes. */
    CMD_GC_REPO = 26,
    /* The same for blobs that no repository links: u8 step, u32 count, each: digest, u64 index of the mark.
     */
    CMD_GC_BLOBS = 27,
    /* A blob that was pushed again while its file is being removed stays: digest. */
    CMD_GC_KEEP = 28,
    /* Counts what all blobs take, if it is not counted yet: no fields. */
    CMD_GC_TOTALS = 29,
    /* The cluster's CA is exchanged (control/state/ca.h). A new one is wanted: u8 force, 1: a rotation that
       is going on goes on without nodes that are away. */
    CMD_CA_ROTATE = 31,
    CMD_CA_STEP = 32, /* ca_step: of whoever leads */
    CMD_CA_NODE = 33, /* ca_node: what a node says of itself */
    /* Policies (control/state/policy.h), all or none of the command: u64 revision that each has
       (CMD_REVISION_ANY, or 0: there is none yet), u32 count of prefixes whose policies go, each: bytes
       prefix; u32 count of policies, each: its fields; u8 POLICY_FROM_FILE, if the configuration file says
       them: then of those that go the others stay. */
    CMD_POLICY_SET = 34,
    /* bytes prefix */
    CMD_POLICY_RM = 35,
    /* bytes repo: an empty repository */
    CMD_REPO_CREATE = 36,
    /* What retention removes: bytes repo, u32 count (MANIFEST_TAGS_MAX at most), each: bytes tag, digest, u64
       time_ms. A tag that is not as it says any more stays, and one that is immutable by then. */
    CMD_TAGS_EXPIRE = 37,
    /* An endpoint has been told: bytes name, u64 index, u32 number of the last notice. */
    CMD_NOTIFY_CURSOR = 39,
    /* Webhooks; see control/state/notice.h. In both files. */
    CMD_NOTIFY_SET = 40,
    /* bytes name */
    CMD_NOTIFY_RM = 41,
    /* Makes or replaces a rule of mirroring: its fields (control/state/mirror.h). */
    CMD_MIRROR_SET = 42,
    /* bytes name; u8 1, if the configuration file lets it go (before cluster version 4 that is not there) */
    CMD_MIRROR_RM = 43,
    /* Makes or replaces a source: u64 revision that it has (CMD_REVISION_ANY, or 0: there is none yet), u8
       origin (enum source_origin: who asks), its fields (control/state/source.h). */
    CMD_SOURCE_SET = 44,
    /* u8 origin, bytes prefix. Asked by the file, one that is not the file's stays. */
    CMD_SOURCE_RM = 45,
    CMD_TYPE_COUNT
};

/* What applying a command says. The same numbers go back to the data plane in a result message. */
enum cmd_status {
    CMD_OK = 0,
    CMD_REPO_UNKNOWN = 1,
    CMD_BLOB_UNKNOWN = 2, /* detail: packed digests that are missing, one after another (at most 16) */
    CMD_MANIFEST_UNKNOWN = 3,
    CMD_TAG_UNKNOWN = 4,
    CMD_INVALID = 5,         /* malformed; detail: text */
    CMD_NO_LEADER = 6,       /* not committed: nobody leads now */
    CMD_UNKNOWN_OUTCOME = 7, /* leadership or the process was lost meanwhile: may or may not be committed */
    CMD_NO_SPACE = 8,        /* the log or the state has no room on its disk; not committed */
    CMD_SETTING_UNKNOWN = 9,
    CMD_TOO_LARGE = 10,
    CMD_BUSY = 11, /* not committed: too many commands wait already */
    /* Of services and backends; detail: text. */
    CMD_SERVICE_UNKNOWN = 12,
    CMD_BACKEND_UNKNOWN = 13,
    CMD_CONFLICT = 14, /* it exists, or was changed meanwhile, or the address is another's */
    CMD_DECLARED = 15, /* the configuration file says it, so that only the file may change it */
    CMD_LIMIT = 16,    /* there are as many as there can be */
    /* Of nodes; detail: text. */
    CMD_NODE_UNKNOWN = 17,
    CMD_TOKEN_UNKNOWN = 18, /* never made, removed or expired */
    CMD_MANAGERS = 19,      /* the managers would be too few, too many, or not enough of them are heard */
    CMD_TOO_NEW = 20,       /* not committed: a node of the cluster is too old to know this command */
    /* A policy does not allow it; detail: text. */
    CMD_DENIED = 21,
    CMD_POLICY_UNKNOWN = 22,
    CMD_ENDPOINT_UNKNOWN = 23,
    CMD_BLOB_DELETING = 24, /* its file is being removed: CMD_GC_KEEP, then again */
    CMD_MIRROR_UNKNOWN = 25,
    CMD_SOURCE_UNKNOWN = 26,
    CMD_STATUS_COUNT
};

/* Steps of CMD_GC_REPO: first, second, last; and of CMD_GC_BLOBS: first, last. */
enum cmd_gc_step {
    CMD_GC_SEE = 1,    /* -> NAMES_MARK_SEEN, of a blob -> NAMES_MARK_DELETING */
    CMD_GC_GO = 2,     /* NAMES_MARK_SEEN -> NAMES_MARK_GOING */
    CMD_GC_DROP = 3,   /* the thing marked so, and its mark, are removed */
    CMD_GC_BATCH = 256 /* things in one command */
};

/* Who asked, for the audit record; set by whoever makes the command. */
struct cmd_head {
    uint16_t type;     /* enum cmd_type */
    uint64_t time_ms;  /* UTC, ms since the epoch; 0 as proposed, the leader fills it in */
    const char *actor; /* "anonymous", a user, "system" */
    size_t actor_len;
    const char *source; /* client address, or "control-socket" */
    size_t source_len;
    const char *request_id; /* may be empty */
    size_t request_id_len;
};

#define CMD_REVISION_ANY UINT64_MAX

/* Byte offset of time_ms in an encoded command, so that the leader can set it in place. */
enum { CMD_TIME_OFFSET = 8 };

enum cmd_ref_kind { CMD_REF_BLOB = 0, CMD_REF_MANIFEST = 1 };
enum cmd_refs {
    CMD_REFS_BLOBS = 0, /* sparse indexes */
    CMD_REFS_ALL = 1,
    CMD_REFS_NONE = 2, /* a copy of another registry's: they come when they are asked for */
    CMD_REFS_COUNT
};

/*
 * CMD_MANIFEST_PUT, in wire order:
 *   bytes repo; digest; u64 size; bytes media_type; bytes artifact_type (may be empty);
 *   u8 has_subject, then the digest if 1;
 *   bytes descriptor: the JSON object that a referrers list shows for this manifest (empty without subject);
 *   u8 enum cmd_refs: which references must exist in the repository;
 *   u32 count of references, each: u8 kind (enum cmd_ref_kind), digest, u64 size;
 *   u32 count of tags, each: bytes tag;
 *   who holds its bytes (struct cmd_holders; before cluster version 3 that is not there).
 * A digest on the wire is its packed form without a length.
 */

static inline void cmd_put_digest(struct wire_writer *w, const struct digest *d)
{
    uint8_t packed[DIGEST_PACKED_MAX];
    wire_put(w, packed, digest_pack(d, packed));
}

static inline void cmd_get_digest(struct wire_reader *r, struct digest *d)
{
    size_t used = r->failed ? 0 : digest_unpack(r->buf + r->pos, r->len - r->pos, d);
    if (used == 0) {
        r->failed = true;
        memset(d, 0, sizeof(*d));
        return;
    }
    r->pos += used;
}

/*
 * Nodes that hold a blob: their copy is durable, and counts. On the wire: u8 count, then that many times u64
 * id, ascending.
 */
struct cmd_holders {
    uint8_t count;
    uint64_t id[BLOB_HOLDERS_MAX];
};

static inline bool cmd_holders_has(const struct cmd_holders *h, uint64_t id)
{
    for (unsigned i = 0; i < h->count; i++)
        if (h->id[i] == id)
            return true;
    return false;
}

/* Adds one, in its place. False: there is no room for it. */
static inline bool cmd_holders_add(struct cmd_holders *h, uint64_t id)
{
    unsigned at = h->count;
    if (cmd_holders_has(h, id))
        return true;
    if (h->count >= BLOB_HOLDERS_MAX)
        return false;
    for (; at > 0 && h->id[at - 1] > id; at--)
        h->id[at] = h->id[at - 1];
    h->id[at] = id;
    h->count++;
    return true;
}

static inline void cmd_holders_remove(struct cmd_holders *h, uint64_t id)
{
    unsigned kept = 0;
    for (unsigned i = 0; i < h->count; i++)
        if (h->id[i] != id)
            h->id[kept++] = h->id[i];
    h->count = (uint8_t)kept;
}

static inline void cmd_put_holders(struct wire_writer *w, const struct cmd_holders *h)
{
    wire_put_u8(w, h->count);
    for (unsigned i = 0; i < h->count; i++)
        wire_put_u64(w, h->id[i]);
}

/* Fails the reader where there are too many, an id is 0, or they do not ascend. */
static inline void cmd_get_holders(struct wire_reader *r, struct cmd_holders *h)
{
    memset(h, 0, sizeof(*h));
    uint8_t count = wire_get_u8(r);
    if (count > BLOB_HOLDERS_MAX)
        r->failed = true;
    for (unsigned i = 0; i < count && !r->failed; i++) {
        uint64_t id = wire_get_u64(r);
        if (id <= (i ? h->id[i - 1] : 0))
            r->failed = true;
        h->id[h->count++] = id;
    }
    if (r->failed)
        h->count = 0;
}

/* u32 magic, u16 version, u16 type, u64 time_ms, bytes actor, bytes source, bytes request id. */
static inline void cmd_put_head(struct wire_writer *w, const struct cmd_head *h)
{
    wire_put_u32(w, CMD_MAGIC);
    wire_put_u16(w, CMD_VERSION);
    wire_put_u16(w, h->type);
    wire_put_u64(w, h->time_ms);
    wire_put_bytes(w, h->actor, h->actor_len);
    wire_put_bytes(w, h->source, h->source_len);
    wire_put_bytes(w, h->request_id, h->request_id_len);
}

/* Fails the reader on a wrong magic or version. Views are valid as long as the reader's buffer is. */
static inline void cmd_get_head(struct wire_reader *r, struct cmd_head *h)
{
    uint32_t magic = wire_get_u32(r);
    uint16_t version = wire_get_u16(r);
    h->type = wire_get_u16(r);
    h->time_ms = wire_get_u64(r);
    h->actor = (const char *)wire_get_bytes(r, &h->actor_len);
    h->source = (const char *)wire_get_bytes(r, &h->source_len);
    h->request_id = (const char *)wire_get_bytes(r, &h->request_id_len);
    if (magic != CMD_MAGIC || version != CMD_VERSION)
        r->failed = true;
}

#endif
