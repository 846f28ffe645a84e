/* SPDX-License-Identifier: Apache-2.0 */
/* What each of the two files says of itself: whose it is, how far it is, and of names.mdb, whether its index
 * is whole. */
#include <string.h>

#include "db_internal.h"

static const struct kv_bytes state_key = {DB_META_STATE, sizeof(DB_META_STATE) - 1};
static const struct kv_bytes index_key = {DB_META_INDEX, sizeof(DB_META_INDEX) - 1};

int db_meta_put(struct db *db, enum db_file file, struct db_applied applied)
{
    struct names_meta meta = {.magic = NAMES_MAGIC,
                              .version = NAMES_VERSION,
                              .node_id = db->config.node_id,
                              .applied_index = applied.index,
                              .applied_term = applied.term};
    struct names_index_state index = {.applied_index = applied.index, .whole = db->index_whole};
    memcpy(meta.cluster_id, db->config.cluster_id, sizeof(meta.cluster_id));
    int rc = kv_put(&db->write.kv, db_meta_of(file), state_key, (struct kv_bytes){&meta, sizeof(meta)});
    if (rc || file != DB_NAMES)
        return rc;
    return kv_put(&db->write.kv, NAMES_META, index_key, (struct kv_bytes){&index, sizeof(index)});
}

static int index_get(struct db *db, const struct names_meta *meta)
{
    struct names_index_state index;
    struct kv_bytes value;
    int rc = kv_get(&db->write.kv, NAMES_META, index_key, &value);
    db->index_whole = false;
    if (rc == 0 && value.len >= sizeof(index)) {
        memcpy(&index, value.data, sizeof(index));
        db->index_whole = names_index_is_whole(meta, &index);
    }
    return rc == -ENOENT ? 0 : rc;
}

int db_meta_get(struct db *db, enum db_file file, char *err, size_t err_len)
{
    struct names_meta meta = {0};
    struct kv_bytes value;
    const char *name = db_file_name(file);
    int rc = kv_get(&db->write.kv, db_meta_of(file), state_key, &value);
    if (rc == -ENOENT) { /* a new one: of nothing the index is whole */
        db->index_whole |= file == DB_NAMES;
        return db_meta_put(db, file, (struct db_applied){0, 0});
    }
    if (rc)
        return db_fail(err, err_len, rc, "%s cannot be read: %s", name, strerror(-rc));
    memcpy(&meta, value.data, value.len < sizeof(meta) ? value.len : sizeof(meta));
    if (value.len < sizeof(meta) || meta.magic != NAMES_MAGIC)
        return db_fail(err, err_len, -EUCLEAN, "%s is damaged: it does not say what it is", name);
    if (meta.version != NAMES_VERSION)
        return db_fail(err, err_len, -EPROTO, "%s is of version %u, this node knows %d", name, meta.version,
                       NAMES_VERSION);
    if (memcmp(meta.cluster_id, db->config.cluster_id, sizeof(meta.cluster_id)) != 0)
        return db_fail(err, err_len, -EUCLEAN, "%s belongs to another cluster", name);
    db->file[file].applied = (struct db_applied){meta.applied_index, meta.applied_term};
    return file == DB_NAMES ? index_get(db, &meta) : 0;
}

bool db_index_is_whole(const struct db *db)
{
    return db->index_whole;
}

void db_index_set(struct db *db, bool whole)
{
    db->index_whole = whole;
}
