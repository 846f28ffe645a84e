/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The state machine: a command (cmd.h) and the rows of names.h and of the private file in, changed rows and
 * a record of the change out. Pure: no file, no clock, no randomness; the same log gives the same state on
 * every node.
 *
 * A command is judged twice. state_check() is what whoever proposes must ask first: an entry that does not
 * parse never reaches the log, and a setting's value is judged here and only here, because what a later
 * version thinks of an old value must not change what an old entry did. state_apply() then decides what
 * depends on the state: all its checks come before its first write, so a refused command changes nothing.
 */
#ifndef FL_STATE_STATE_H
#define FL_STATE_STATE_H

#include "ca.h"
#include "cmd.h"
#include "kv.h"
#include "node.h"
#include "service.h"

enum {
    STATE_MISSING_MAX = 16, /* digests named in the detail of CMD_BLOB_UNKNOWN */
    STATE_DETAIL_MAX = STATE_MISSING_MAX * DIGEST_PACKED_MAX,
    STATE_REQUEST_ID_MAX = 128, /* bytes */
    STATE_SETTING_KEY_MAX = 64,
    STATE_SETTING_VALUE_MAX = 4096,
    STATE_PARTS_MAX = 16384, /* of a transaction */
    STATE_TRANSACTION_BYTES_MAX = 8 << 20,
};

/* A view into the command: valid as long as its bytes are. */
struct state_text {
    const char *data;
    size_t len;
};

/* The part that only CMD_MANIFEST_PUT has. */
struct state_manifest {
    struct state_text media_type, artifact_type, descriptor;
    struct digest subject;
    bool has_subject;
    uint8_t refs_wanted; /* enum cmd_refs */
    uint32_t refs_count;
    struct wire_reader refs; /* stands at the first reference; copy it to walk them, see state_ref_next() */
};

/* A step of the garbage collection. */
struct state_gc {
    uint8_t kind; /* enum names_mark_kind; of CMD_GC_REPO */
    uint8_t step; /* enum cmd_gc_step */
    uint32_t count;
    struct wire_reader entries; /* stands at the first one; copy it to walk them, see state_gc_next() */
};

struct state_gc_entry {
    struct digest digest;
    uint64_t mark; /* index of the mark that is meant */
};

/* Of commands about nodes, tokens and the cluster: the member of the type. */
union state_of_node {
    struct {
        struct node node;
        struct node_cluster cluster;
    } init;
    struct node_join join;
    struct node_change change;
    struct node_removal removal;
    struct {
        struct node_token token; /* CMD_TOKEN_RM: its hash */
        bool rotate;
    } token;
    struct node_cluster_change cluster;
    struct {
        bool rotate_force; /* CMD_CA_ROTATE */
        struct ca_step step;
        struct ca_node node;
    } ca;
};

/* A command, taken apart; what its type does not have is empty. */
struct state_cmd {
    struct cmd_head head;
    struct state_text repo, from, key, value;
    struct digest digest;
    uint64_t size;                   /* bytes */
    struct cmd_holders holders;      /* of the blob */
    struct cmd_holders lost, needed; /* CMD_BLOB_COPIES */
    struct state_manifest manifest;
    struct state_text service; /* its name */
    struct svc svc;            /* CMD_SERVICE_SET */
    uint64_t revision;
    uint8_t origin;
    uint8_t admin;
    uint32_t backends_count;
    struct wire_reader backends; /* stands at the first one: fields or names, as the type has them */
    uint32_t tags_count;         /* also 1 for CMD_TAG_DELETE */
    struct state_text tags[MANIFEST_TAGS_MAX];
    union state_of_node of_node;
    /* Of policies and webhooks. Readers stand at the first one of what they are about. */
    uint32_t prefixes_count, policies_count, expired_count;
    struct wire_reader prefixes, policies, expired;
    uint64_t keep_last, keep_for_s; /* CMD_TAGS_EXPIRE: by what the tags were chosen */
    struct wire_reader endpoint; /* CMD_NOTIFY_SET, CMD_MIRROR_SET, CMD_SOURCE_SET: its bytes, to the end */
    bool endpoint_is_new;        /* CMD_NOTIFY_SET: older nodes would refuse it */
    bool declared;               /* CMD_MIRROR_SET, CMD_MIRROR_RM: by the configuration file */
    uint64_t notice_index;
    uint32_t notice_number;
    struct state_gc gc;
    uint32_t parts_count;     /* of a transaction */
    struct wire_reader parts; /* stands at the first one; copy it to walk them, see state_part_next() */
};

struct state_ref {
    uint8_t kind; /* enum cmd_ref_kind */
    struct digest digest;
    uint64_t size; /* bytes */
};

/* What became of one log entry: the answer to whoever proposed it, and the shape of an audit record (who,
 * from where, what, when, result). */
struct state_event {
    uint64_t index;
    enum cmd_status status;
    bool changed;         /* false: refused, or everything was so already */
    struct state_cmd cmd; /* views into the command */
    size_t detail_len;
    uint8_t detail[STATE_DETAIL_MAX]; /* as cmd.h says for each status */
};

/* One entry's access to the state. After a crash one file can be ahead of the other: an entry that a file
 * already holds is applied to the other one only. */
struct state_tx {
    struct kv *kv;
    bool names_done, private_done;
};

/* Judges a setting. 0, -ENOENT for a key that does not exist, -EINVAL with a text in err for a value that is
 * not allowed. A NULL value asks for the key alone. A NULL check accepts every key and value. */
struct state_setting_check {
    int (*check)(const char *key, size_t key_len, const char *value, size_t value_len, char *err,
                 size_t err_len);
};

/*
 * Takes a command apart and judges all that does not depend on the state. 0, -EPROTO for an unknown magic,
 * version or type, -E2BIG for something over a limit, -EINVAL otherwise; err says why.
 */
int state_parse(const void *cmd, size_t len, struct state_cmd *out, char *err, size_t err_len);

/* Whether the command changes the names file and nothing else, by its head alone; false where it is no
 * command that this version knows. */
bool state_is_names_only(const void *cmd, size_t len);

/* Judges a command before it is proposed. CMD_OK, or why not, with a text in err. */
enum cmd_status state_check(const void *cmd, size_t len, const struct state_setting_check *settings,
                            char *err, size_t err_len);

/* The cluster version from which on all nodes know the command, and what is in it. */
uint32_t state_version_needed(const void *cmd, size_t len);

/*
 * Applies the entry `index`. 0: out->status says what came of it (also for a refused or malformed command).
 * -EPROTO: the entry is of a version or type that this node does not know; it must stop, not skip it.
 * -EUCLEAN: the rows contradict each other; the node must stop.
 * Any other -errno comes from the transaction, which must then be given up.
 * out holds views into cmd.
 */
int state_apply(const struct state_tx *tx, uint64_t index, const void *cmd, size_t len,
                struct state_event *out);

/* True for commands that change the names file, and maybe the private file, too; the others change the
 * private file alone. */
bool state_type_is_names(uint16_t type);

/* Reads the next reference and moves on. The references were checked by state_parse(). */
struct state_ref state_ref_next(struct wire_reader *refs);

/* Reads the next thing of a step and moves on. They were checked by state_parse(). */
struct state_gc_entry state_gc_next(struct wire_reader *entries);

/* What all blobs take; -ENOENT: it is not counted in this state yet. */
int state_totals_read(struct kv *kv, struct names_totals *out);

/* Takes the next part of a transaction apart and moves on; head: the transaction's. 0, or -EINVAL with a text
 * in err, which cannot be for one that state_parse() has taken. */
int state_part_next(struct wire_reader *parts, const struct cmd_head *head, struct state_cmd *out, char *err,
                    size_t err_len);

/* The grammar of the OCI distribution specification ("Pulling manifests"): repository names, with the 255
 * bytes that clients allow, and tags. */
bool state_repo_name_valid(const char *name, size_t len);
bool state_tag_valid(const char *tag, size_t len);

/* The table of all services and backends in the state; svc_table_fini frees it. 0 or -errno. */
int state_services_read(struct kv *kv, struct svc_table *out);

/* What is linked and has holders that are known (names.h): how much that is, and how much of it has fewer
 * holders that live than are wanted, none, or more. */
struct state_held {
    uint64_t blobs, bytes;
    uint64_t endangered, endangered_bytes; /* also those without any */
    uint64_t lost;                         /* without any */
    uint64_t surplus;                      /* with more than are wanted */
    uint64_t living[BLOB_HOLDERS_MAX + 1]; /* blobs, by how many of their holders live */
    uint64_t rows;                         /* that were looked at */
};
/* The number of a holder that lives; 0: it does not. One number counts once for each blob (stores.h). */
typedef uint64_t state_living(void *arg, uint64_t holder);
int state_held_read(struct kv *kv, uint32_t wanted, state_living *living, void *arg, struct state_held *out);

/* Builds the key of a setting in PRIVATE_DATA; room for NAMES_KEY_MAX. Returns its length. */
size_t state_setting_key(uint8_t *out, const char *key, size_t len);

/*
 * NAMES_INDEX is made anew of the other rows, some at a time, while commands are applied: for a file of a
 * version that had no such table, or that such a version has written to meanwhile. Begins with zeros.
 */
enum state_index_phase {
    STATE_INDEX_CLEAR, /* what there is of it goes */
    STATE_INDEX_TAGS,
    STATE_INDEX_REFERRERS,
    STATE_INDEX_WHOLE,
};
struct state_index {
    enum state_index_phase phase;
    uint8_t key[NAMES_KEY_MAX]; /* of the row that was looked at last */
    size_t key_len;             /* 0: none */
    uint64_t rows;              /* that were written */
};
/* Looks at so many rows more, in a transaction of both files. 0 or -errno: then the transaction is given up,
 * and `at` is to be what it was before. */
int state_index_step(struct kv *kv, struct state_index *at, unsigned rows);

#endif
