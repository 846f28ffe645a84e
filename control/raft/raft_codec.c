/* SPDX-License-Identifier: Apache-2.0 */
#include "raft_codec.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "wire.h"

enum {
    HEAD_BYTES = 64,  /* more than any message takes without its entries or its handle */
    ENTRY_BYTES = 13, /* of an entry without its data */
    LIBRARY_CONFIGURATION_FORMAT = 1,
};

/* --- out --- */

static size_t encoded_size(const struct raft_message *m, size_t snapshot_len)
{
    size_t size = HEAD_BYTES + snapshot_len;
    if (m->type != RAFT_APPEND_ENTRIES)
        return size;
    for (unsigned i = 0; i < m->append_entries.n_entries; i++)
        size += ENTRY_BYTES + m->append_entries.entries[i].buf.len;
    return size;
}

static void put_append(struct wire_writer *w, const struct raft_append_entries *m)
{
    wire_put_u64(w, m->term);
    wire_put_u64(w, m->prev_log_index);
    wire_put_u64(w, m->prev_log_term);
    wire_put_u64(w, m->leader_commit);
    wire_put_u32(w, m->n_entries);
    for (unsigned i = 0; i < m->n_entries; i++) {
        const struct raft_entry *e = &m->entries[i];
        wire_put_u64(w, e->term);
        wire_put_u8(w, (uint8_t)e->type);
        wire_put_bytes(w, e->buf.base, e->buf.len);
    }
}

static void put_append_result(struct wire_writer *w, const struct raft_append_entries_result *m)
{
    wire_put_u64(w, m->term);
    wire_put_u64(w, m->rejected);
    wire_put_u64(w, m->last_log_index);
    wire_put_u16(w, m->features);
    wire_put_u16(w, m->capacity);
}

static void put_vote(struct wire_writer *w, const struct raft_request_vote *m)
{
    wire_put_u64(w, m->term);
    wire_put_u64(w, m->candidate_id);
    wire_put_u64(w, m->last_log_index);
    wire_put_u64(w, m->last_log_term);
    wire_put_u8(w, m->disrupt_leader);
    wire_put_u8(w, m->pre_vote);
}

static void put_vote_result(struct wire_writer *w, const struct raft_request_vote_result *m)
{
    wire_put_u64(w, m->term);
    wire_put_u8(w, m->vote_granted);
    wire_put_u8(w, m->pre_vote);
    wire_put_u16(w, m->features);
    wire_put_u16(w, m->capacity);
}

static void put_timeout_now(struct wire_writer *w, const struct raft_timeout_now *m)
{
    wire_put_u64(w, m->term);
    wire_put_u64(w, m->last_log_index);
    wire_put_u64(w, m->last_log_term);
}

static void put_head(struct wire_writer *w, enum raft_message_type type, unsigned char version)
{
    wire_put_u16(w, RAFT_CODEC_VERSION);
    wire_put_u8(w, (uint8_t)type);
    wire_put_u8(w, version);
}

static bool put_message(struct wire_writer *w, const struct raft_message *m, const void *handle,
                        size_t handle_len)
{
    /* The version stands first in each of them. */
    put_head(w, m->type, m->append_entries.version);
    switch (m->type) {
    case RAFT_APPEND_ENTRIES:
        put_append(w, &m->append_entries);
        return true;
    case RAFT_APPEND_ENTRIES_RESULT:
        put_append_result(w, &m->append_entries_result);
        return true;
    case RAFT_REQUEST_VOTE:
        put_vote(w, &m->request_vote);
        return true;
    case RAFT_REQUEST_VOTE_RESULT:
        put_vote_result(w, &m->request_vote_result);
        return true;
    case RAFT_INSTALL_SNAPSHOT:
        wire_put_u64(w, m->install_snapshot.term);
        wire_put_bytes(w, handle, handle_len);
        return true;
    case RAFT_TIMEOUT_NOW:
        put_timeout_now(w, &m->timeout_now);
        return true;
    }
    return false;
}

int raft_codec_encode(const struct raft_message *message, const struct snapshot_meta *snapshot, void **out,
                      size_t *len)
{
    void *handle = NULL;
    size_t handle_len = 0;
    int rc = 0;
    if (message->type == RAFT_INSTALL_SNAPSHOT)
        rc = snapshot ? snapshot_meta_encode(snapshot, &handle, &handle_len) : -EINVAL;
    if (rc)
        return rc;
    struct wire_writer w = {.cap = encoded_size(message, handle_len)};
    rc = w.cap > RAFT_CODEC_BYTES_MAX ? -EMSGSIZE : 0;
    w.buf = rc ? NULL : malloc(w.cap);
    if (rc == 0 && !w.buf)
        rc = -ENOMEM;
    if (rc == 0 && !put_message(&w, message, handle, handle_len))
        rc = -EINVAL;
    free(handle);
    if (rc) {
        free(w.buf);
        return rc;
    }
    CHECK(!w.failed);
    *out = w.buf;
    *len = w.len;
    return 0;
}

/* --- in --- */

bool raft_codec_configuration_ok(const void *data, size_t len)
{
    struct wire_reader r = {.buf = data, .len = len};
    if (wire_get_u8(&r) != LIBRARY_CONFIGURATION_FORMAT)
        return false;
    uint64_t count = wire_get_u64(&r);
    if (count == 0 || count > RAFT_CODEC_SERVERS_MAX)
        return false;
    for (uint64_t i = 0; i < count && !r.failed; i++) {
        if (wire_get_u64(&r) == 0)
            return false;
        size_t text = strnlen((const char *)r.buf + r.pos, r.len - r.pos);
        if (text == 0 || text > RAFT_CODEC_ADDRESS_MAX || !wire_get(&r, text + 1))
            return false;
        if (wire_get_u8(&r) > RAFT_SPARE)
            return false;
    }
    /* What is behind it fills it up to a multiple of eight bytes. */
    return !r.failed && r.len - r.pos < 8;
}

static bool entry_ok(const struct raft_entry *e, raft_term before, raft_term term)
{
    if (e->term == 0 || e->term < before || e->term > term)
        return false;
    if (e->type == RAFT_CHANGE)
        return raft_codec_configuration_ok(e->buf.base, e->buf.len);
    return e->type == RAFT_COMMAND || e->type == RAFT_BARRIER;
}

static int get_entries(struct wire_reader *r, struct raft_append_entries *m)
{
    raft_term before = m->prev_log_term;
    /* The array is no larger than the bytes that are there justify. */
    if (m->n_entries > RAFT_CODEC_ENTRIES_MAX || m->n_entries > (r->len - r->pos) / ENTRY_BYTES)
        return -EBADMSG;
    m->entries = calloc(m->n_entries + 1, sizeof(*m->entries));
    if (!m->entries)
        return -ENOMEM;
    for (unsigned i = 0; i < m->n_entries; i++) {
        struct raft_entry *e = &m->entries[i];
        e->term = wire_get_u64(r);
        e->type = wire_get_u8(r);
        e->buf.base = (void *)(uintptr_t)wire_get_bytes(r, &e->buf.len);
        if (r->failed || !entry_ok(e, before, m->term))
            return -EBADMSG;
        before = e->term;
    }
    return 0;
}

static int get_append(struct wire_reader *r, struct raft_append_entries *m)
{
    m->term = wire_get_u64(r);
    m->prev_log_index = wire_get_u64(r);
    m->prev_log_term = wire_get_u64(r);
    m->leader_commit = wire_get_u64(r);
    m->n_entries = wire_get_u32(r);
    if (r->failed || m->prev_log_index > RAFT_CODEC_INDEX_MAX || m->leader_commit > RAFT_CODEC_INDEX_MAX ||
        (m->prev_log_index == 0) != (m->prev_log_term == 0) || m->prev_log_term > m->term)
        return -EBADMSG;
    return get_entries(r, m);
}

static int get_append_result(struct wire_reader *r, struct raft_append_entries_result *m)
{
    m->term = wire_get_u64(r);
    m->rejected = wire_get_u64(r);
    m->last_log_index = wire_get_u64(r);
    m->features = wire_get_u16(r);
    m->capacity = wire_get_u16(r);
    if (m->rejected > RAFT_CODEC_INDEX_MAX || m->last_log_index > RAFT_CODEC_INDEX_MAX)
        return -EBADMSG;
    return m->rejected && m->last_log_index >= m->rejected ? -EBADMSG : 0;
}

static int get_vote(struct wire_reader *r, struct raft_request_vote *m)
{
    m->term = wire_get_u64(r);
    m->candidate_id = wire_get_u64(r);
    m->last_log_index = wire_get_u64(r);
    m->last_log_term = wire_get_u64(r);
    uint8_t disrupt = wire_get_u8(r), pre = wire_get_u8(r);
    m->disrupt_leader = disrupt;
    m->pre_vote = pre;
    if (disrupt > 1 || pre > 1 || m->candidate_id == 0 || m->last_log_index > RAFT_CODEC_INDEX_MAX ||
        (m->last_log_index == 0) != (m->last_log_term == 0))
        return -EBADMSG;
    return 0;
}

static int get_vote_result(struct wire_reader *r, struct raft_request_vote_result *m)
{
    m->term = wire_get_u64(r);
    uint8_t granted = wire_get_u8(r), pre = wire_get_u8(r);
    m->vote_granted = granted;
    m->pre_vote = pre;
    m->features = wire_get_u16(r);
    m->capacity = wire_get_u16(r);
    return granted > 1 || pre > 1 ? -EBADMSG : 0;
}

static int get_timeout_now(struct wire_reader *r, struct raft_timeout_now *m)
{
    m->term = wire_get_u64(r);
    m->last_log_index = wire_get_u64(r);
    m->last_log_term = wire_get_u64(r);
    return m->last_log_index > RAFT_CODEC_INDEX_MAX ? -EBADMSG : 0;
}

static int get_install(struct wire_reader *r, struct raft_install_snapshot *m, struct snapshot_meta *snapshot)
{
    size_t len;
    m->term = wire_get_u64(r);
    const uint8_t *handle = wire_get_bytes(r, &len);
    if (!handle)
        return -EBADMSG;
    int rc = snapshot_meta_decode(handle, len, snapshot);
    if (rc)
        return rc == -EUCLEAN ? -EBADMSG : rc;
    m->last_index = snapshot->index;
    m->last_term = snapshot->term;
    m->conf_index = snapshot->configuration_index;
    if (m->last_index == 0 || m->last_index > RAFT_CODEC_INDEX_MAX || m->last_term == 0 ||
        m->last_term > m->term || m->conf_index > m->last_index ||
        !raft_codec_configuration_ok(snapshot->configuration, snapshot->configuration_len))
        return -EBADMSG;
    return 0;
}

static int get_message(struct wire_reader *r, struct raft_message *m, struct snapshot_meta *snapshot)
{
    /* A term comes first in all of them and is never 0. */
    struct wire_reader ahead = *r;
    if (wire_get_u64(&ahead) == 0)
        return -EBADMSG;
    switch (m->type) {
    case RAFT_APPEND_ENTRIES:
        return get_append(r, &m->append_entries);
    case RAFT_APPEND_ENTRIES_RESULT:
        return get_append_result(r, &m->append_entries_result);
    case RAFT_REQUEST_VOTE:
        return get_vote(r, &m->request_vote);
    case RAFT_REQUEST_VOTE_RESULT:
        return get_vote_result(r, &m->request_vote_result);
    case RAFT_INSTALL_SNAPSHOT:
        return get_install(r, &m->install_snapshot, snapshot);
    case RAFT_TIMEOUT_NOW:
        return get_timeout_now(r, &m->timeout_now);
    }
    return -EBADMSG;
}

int raft_codec_decode(const void *data, size_t len, struct raft_message *message,
                      struct snapshot_meta *snapshot)
{
    struct wire_reader r = {.buf = data, .len = len};
    memset(message, 0, sizeof(*message));
    memset(snapshot, 0, sizeof(*snapshot));
    uint16_t version = wire_get_u16(&r);
    message->type = wire_get_u8(&r);
    message->append_entries.version = wire_get_u8(&r);
    if (!r.failed && version != RAFT_CODEC_VERSION)
        return -EPROTO;
    int rc = get_message(&r, message, snapshot);
    if (rc == 0 && !wire_at_end(&r))
        rc = -EBADMSG;
    if (rc)
        raft_codec_free(message, snapshot);
    return rc;
}

void raft_codec_free(struct raft_message *message, struct snapshot_meta *snapshot)
{
    if (message->type == RAFT_APPEND_ENTRIES) {
        free(message->append_entries.entries);
        message->append_entries.entries = NULL;
        message->append_entries.n_entries = 0;
    }
    snapshot_meta_free(snapshot);
}

/* --- parts --- */

size_t raft_part_encode(const struct raft_part *part, uint8_t *out)
{
    struct wire_writer w = {.buf = out, .cap = RAFT_PART_HEAD_BYTES + RAFT_CODEC_PART_BYTES};
    wire_put_u16(&w, RAFT_CODEC_VERSION);
    wire_put_u16(&w, 0);
    wire_put_u32(&w, part->number);
    wire_put_u32(&w, part->total);
    wire_put_u32(&w, part->at);
    wire_put_bytes(&w, part->data, part->len);
    CHECK(!w.failed);
    return w.len;
}

int raft_part_decode(const void *data, size_t len, struct raft_part *part)
{
    struct wire_reader r = {.buf = data, .len = len};
    uint16_t version = wire_get_u16(&r), zero = wire_get_u16(&r);
    part->number = wire_get_u32(&r);
    part->total = wire_get_u32(&r);
    part->at = wire_get_u32(&r);
    part->data = wire_get_bytes(&r, &part->len);
    if (!r.failed && version != RAFT_CODEC_VERSION)
        return -EPROTO;
    if (!wire_at_end(&r) || zero || part->len == 0 || part->len > RAFT_CODEC_PART_BYTES ||
        part->total > RAFT_CODEC_BYTES_MAX || part->at > part->total || part->len > part->total - part->at)
        return -EBADMSG;
    return 0;
}
