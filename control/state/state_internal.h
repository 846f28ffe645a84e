/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the state machine share. */
#ifndef FL_STATE_INTERNAL_H
#define FL_STATE_INTERNAL_H

#include "check.h"
#include "state.h"

/* A key that is being built or kept while rows change. */
struct state_key {
    uint8_t data[NAMES_KEY_MAX];
    size_t len;
};

static inline struct kv_bytes state_key_bytes(const struct state_key *key)
{
    return (struct kv_bytes){key->data, key->len};
}

struct state_key state_key_repo(struct state_text repo);
struct state_key state_key_tag(struct state_text repo, struct state_text tag);
struct state_key state_key_digest(struct state_text repo, const struct digest *d);

/* Reads a row of a fixed size. 0, -ENOENT, -EUCLEAN if the row is shorter than that, -errno. */
int state_row_get(struct kv *kv, unsigned db, const struct state_key *key, void *row, size_t len);
int state_row_put(struct kv *kv, unsigned db, const struct state_key *key, const void *row, size_t len);

/* 0, -ENOENT if there is no such row, -errno. */
int state_row_exists(struct kv *kv, unsigned db, const struct state_key *key);

/* The first row of a repository at or after key (after: behind it); key is replaced by the row's. -ENOENT
 * when the repository has no more. */
int state_row_next(struct kv *kv, unsigned db, struct state_text repo, struct state_key *key, bool after,
                   struct kv_bytes *value);

/* What is refused; sets the event's status and detail. Always 0, so that a caller can return it. */
int state_refuse(struct state_event *out, enum cmd_status status);
int state_refuse_text(struct state_event *out, enum cmd_status status, const char *text);
/* Adds a digest to the detail of CMD_BLOB_UNKNOWN, as long as there is room. */
void state_missing_add(struct state_event *out, const struct digest *d);

/* A blob's row. state_blob_move is the one way in which it changes: what NAMES_HELD counts goes with it.
 * before: as it was read; a blob that is not there yet: zeros. */
int state_blob_get(struct kv *kv, const struct digest *d, struct names_blob *blob);
int state_blob_move(struct kv *kv, const struct digest *d, const struct names_blob *before,
                    const struct names_blob *now);

/* The blob, which is there, gains the command's holders and loses those that it says are lost. Notes whether
 * that changed anything. */
int state_holders_change(struct kv *kv, struct state_event *out);

/* -EINVAL if the blob is known with another size (status set), 0 if not, -errno. */
int state_blob_size_check(struct kv *kv, const struct digest *d, uint64_t size, struct state_event *out);

/*
 * A repository holds a digest once, be it as a blob, as a manifest or as both: these count it in the blob's
 * links and in the repository's bytes. `held`: it is there already (or stays) in the other role.
 */
int state_hold_add(struct kv *kv, struct names_repo *repo, const struct digest *d, uint64_t size, bool held);
int state_hold_drop(struct kv *kv, struct names_repo *repo, const struct digest *d, uint64_t size, bool held);

/* Reads the repository's row; a new one with the command's time if there is none. */
int state_repo_open(struct kv *kv, const struct state_cmd *cmd, struct names_repo *repo);
/* Reads the repository's row or refuses with CMD_REPO_UNKNOWN (-ENOENT). */
int state_repo_need(struct kv *kv, const struct state_cmd *cmd, struct names_repo *repo,
                    struct state_event *out);
/* Writes the row with the command's time and notes that the state changed. */
int state_repo_save(struct kv *kv, struct names_repo *repo, struct state_event *out);
/* The same without the time: nobody has changed anything in it. */
int state_repo_write(struct kv *kv, const struct names_repo *repo, struct state_event *out);

/* Removes a manifest's row and its row among the referrers of its subject. */
int state_manifest_drop(struct kv *kv, struct state_text repo, const struct digest *d,
                        struct names_repo *row);

/* A blob's link in a repository goes: the link's row, and what counts it. */
int state_link_drop(struct kv *kv, struct state_text repo, const struct digest *d, struct names_repo *row);

/* state_gc.c: somebody uses a thing of a repository, or all that a manifest names; *used is set if it had a
 * mark. And all marks of a repository. */
int state_mark_use(struct kv *kv, struct state_text repo, uint8_t kind, const struct digest *d, bool *used);
int state_marks_use(struct kv *kv, const struct state_cmd *cmd, bool *used);
int state_marks_drop(struct kv *kv, struct state_text repo);
/* 1: the files of a blob without links are being removed; 0, -errno. */
int state_blob_deleting(struct kv *kv, const struct digest *d);
/* A blob had no links, and has one. */
int state_blob_linked(struct kv *kv, const struct digest *d);

/* What all blobs take, with a row that changes; NULL: there is no such blob (yet, or any more). Before the
 * row is written. */
int state_totals_move(struct kv *kv, const struct names_blob *before, const struct names_blob *now);

/* state_tag.c: the manifest that a tag names; a tag comes to name the command's manifest, which is there
 * (old: what it named before, or NULL); a tag that names d goes. The counts of tags in the manifests' rows go
 * with it, but for one that goes itself (counted: false). */
int state_tag_get(struct kv *kv, const struct state_key *key, struct digest *d);
int state_tag_point(struct kv *kv, const struct state_cmd *cmd, struct state_text tag,
                    const struct digest *old);
int state_tag_remove(struct kv *kv, struct state_text repo, struct state_text tag, const struct digest *d,
                     bool counted);
/* The `count` tags that name a manifest, which may go meanwhile; some may be shown twice. Ends with the first
 * value that is not 0. */
typedef int state_tag_fn(void *arg, struct state_text tag);
int state_tags_of(struct kv *kv, struct state_text repo, const struct digest *d, uint32_t count,
                  state_tag_fn *fn, void *arg);

/* state_index.c: rows of NAMES_INDEX come and go with what they are about: a tag that names d; a referrer,
 * whose own row is there (type: the artifact type in it). One that is not there goes as well. */
struct state_key state_index_tag_key(struct state_text repo, const struct digest *d, struct state_text tag);
int state_index_tag_put(struct kv *kv, struct state_text repo, const struct digest *d, struct state_text tag);
int state_index_tag_del(struct kv *kv, struct state_text repo, const struct digest *d, struct state_text tag);
int state_index_referrer_put(struct kv *kv, struct state_text repo, const struct digest *subject,
                             struct state_text type, const struct digest *d);
int state_index_referrer_del(struct kv *kv, struct state_text repo, const struct digest *subject,
                             const struct state_key *referrer, const struct digest *d);

/* One command type each. The command is in out->cmd. */
int state_blob_link(struct kv *kv, struct state_event *out);
int state_blob_mount(struct kv *kv, struct state_event *out);
int state_blob_unlink(struct kv *kv, struct state_event *out);
int state_manifest_put(struct kv *kv, struct state_event *out);
int state_manifest_delete(struct kv *kv, struct state_event *out);
int state_tag_delete(struct kv *kv, struct state_event *out);
int state_repo_delete(struct kv *kv, struct state_event *out);
int state_setting_set(struct kv *kv, struct state_event *out);
int state_setting_unset(struct kv *kv, struct state_event *out);
int state_service_set(struct kv *kv, struct state_event *out);
int state_service_rm(struct kv *kv, struct state_event *out);
int state_backend_set(struct kv *kv, struct state_event *out);
int state_backend_rm(struct kv *kv, struct state_event *out);
int state_backend_admin(struct kv *kv, struct state_event *out);
int state_cluster_init(struct kv *kv, struct state_event *out);
int state_node_add(struct kv *kv, struct state_event *out);
int state_node_set(struct kv *kv, struct state_event *out);
int state_node_rm(struct kv *kv, struct state_event *out);
int state_token_set(struct kv *kv, struct state_event *out);
int state_token_rm(struct kv *kv, struct state_event *out);
int state_cluster_set(struct kv *kv, struct state_event *out);
int state_ca_rotate(struct kv *kv, struct state_event *out);
int state_ca_step(struct kv *kv, struct state_event *out);
int state_ca_node(struct kv *kv, struct state_event *out);
int state_transaction(struct kv *kv, struct state_event *out);
int state_blob_copies(struct kv *kv, struct state_event *out);
int state_policy_set(struct kv *kv, struct state_event *out);
int state_policy_rm(struct kv *kv, struct state_event *out);
int state_repo_create(struct kv *kv, struct state_event *out);
int state_tags_expire(struct kv *kv, struct state_event *out);
int state_notify_cursor(struct kv *kv, struct state_event *out);
int state_notify_set(struct kv *kv, struct state_event *out);
int state_notify_rm(struct kv *kv, struct state_event *out);
int state_mirror_set(struct kv *kv, struct state_event *out);
int state_mirror_rm(struct kv *kv, struct state_event *out);
int state_source_set(struct kv *kv, struct state_event *out);
int state_source_rm(struct kv *kv, struct state_event *out);
int state_gc_repo(struct kv *kv, struct state_event *out);
int state_gc_blobs(struct kv *kv, struct state_event *out);
int state_gc_keep(struct kv *kv, struct state_event *out);
int state_gc_totals(struct kv *kv, struct state_event *out);

/* Applies out->cmd by its type, which is no transaction's. */
int state_apply_type(struct kv *kv, struct state_event *out);

/* Removes a tag that is as it was: of this manifest, since then. 1 if it was, 0, -errno. */
int state_tag_drop(struct kv *kv, struct state_text repo, struct state_text tag, const struct digest *d,
                   uint64_t time_ms, struct names_repo *row);

/* A transaction whose writes to the private file are dropped, if that has them already (state_half.c). */
struct state_half {
    struct kv kv; /* first: reads and writes go through it */
    struct kv *base;
    bool names_done, private_done;
};
void state_half_init(struct state_half *half, const struct state_tx *tx);

/* state_parse_service.c: the types of services and backends; state_parse_node.c: those of nodes;
   state_parse_policy.c: of policies and webhooks; state_parse_gc.c; state_mirror.c; state_source.c;
   state_transaction.c. */
int state_parse_service(struct wire_reader *r, struct state_cmd *out, char *err, size_t err_len);
int state_parse_node(struct wire_reader *r, struct state_cmd *out, char *err, size_t err_len);
int state_parse_policy(struct wire_reader *r, struct state_cmd *out, char *err, size_t err_len);
int state_parse_gc(struct wire_reader *r, struct state_cmd *out, char *err, size_t err_len);
int state_parse_mirror(struct wire_reader *r, struct state_cmd *out, char *err, size_t err_len);
int state_parse_source(struct wire_reader *r, struct state_cmd *out, char *err, size_t err_len);
int state_parse_transaction(struct wire_reader *r, struct state_cmd *out, char *err, size_t err_len);

#endif
