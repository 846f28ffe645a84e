/* SPDX-License-Identifier: Apache-2.0 */
/* Looking at the state, and at the consensus itself. */
#include <string.h>

#include "consensus_internal.h"

void consensus_status(const struct consensus *c, struct consensus_status *out)
{
    struct raft *r = (struct raft *)(uintptr_t)&c->raft;
    raft_id leader;
    const char *address;
    *out = c->counts;
    memcpy(out->cluster_id, c->vote.cluster_id, sizeof(out->cluster_id));
    raft_leader(r, &leader, &address);
    out->node_id = c->vote.node_id;
    out->leader_id = c->dead ? 0 : leader;
    out->term = raft_current_term(r);
    out->last_index = cache_last(c);
    out->commit_index = c->commit;
    out->applied_index = c->applied;
    out->snapshot_index = c->snapshot_index;
    out->silence_ms = stand_silence_ms(c);
    out->waiting = c->waiting.count + c->under_way;
    out->leads = c->leads && !c->dead;
    out->voter = consensus_is_voter(c);
    out->lease = consensus_lease(c);
    out->installing = c->installing;
    out->room = !c->no_room && !c->stalled && !c->apply_stalled;
    out->state = c->follow.active ? "worker" : raft_state_name(raft_state(r));
    out->following = c->follow.active;
    out->source = c->follow.active && c->follow.accepted ? c->follow.source : 0;
    out->followers = c->feed.count;
    if (c->follow.active)
        out->leader_id = c->dead || consensus_now_ms(c) - c->follow.said_ms >= c->config.election_ms * 2
                             ? 0
                             : c->follow.leader;
}

int consensus_copy(struct consensus *c, enum db_file file, int fd)
{
    return db_copy(c->db, file, fd);
}

struct db_view *consensus_view_begin(struct consensus *c, struct kv **kv)
{
    return db_view_begin(c->db, kv);
}

void consensus_view_end(struct db_view *view)
{
    db_view_end(view);
}

int consensus_setting_each(struct consensus *c, consensus_setting each, void *arg)
{
    uint8_t key_data[NAMES_KEY_MAX];
    size_t prefix = state_setting_key(key_data, "", 0);
    struct kv_bytes at = {key_data, prefix}, key, value;
    struct kv *kv;
    struct db_view *view = db_view_begin(c->db, &kv);
    if (!view)
        return -ENOMEM;
    int rc;
    while ((rc = kv_seek(kv, PRIVATE_DATA, at, true, &key, &value)) == 0) {
        if (key.len <= prefix || memcmp(key.data, key_data, prefix) != 0)
            break;
        each(arg, (const char *)key.data + prefix, key.len - prefix, value.data, value.len);
        /* Nothing is written through a view: the row stays where it is. */
        at = key;
    }
    db_view_end(view);
    return rc == -ENOENT ? 0 : rc;
}

int consensus_setting_get(struct consensus *c, const char *key, size_t key_len, char *value, size_t *len)
{
    uint8_t key_data[NAMES_KEY_MAX];
    struct kv_bytes found;
    struct kv *kv;
    if (key_len > STATE_SETTING_KEY_MAX)
        return -ENOENT;
    struct db_view *view = db_view_begin(c->db, &kv);
    if (!view)
        return -ENOMEM;
    size_t n = state_setting_key(key_data, key, key_len);
    int rc = kv_get(kv, PRIVATE_DATA, (struct kv_bytes){key_data, n}, &found);
    if (rc == 0 && found.len > *len)
        rc = -ENOBUFS;
    if (rc == 0) {
        memcpy(value, found.data, found.len);
        *len = found.len;
    }
    db_view_end(view);
    return rc;
}
