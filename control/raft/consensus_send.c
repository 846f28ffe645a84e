/* SPDX-License-Identifier: Apache-2.0 */
/* Messages of the library on their way out. */
#include <stdlib.h>
#include <string.h>

#include "consensus_internal.h"
#include "raft_codec.h"

enum {
    SEND_BYTES_MAX = 8 << 20 /* of entries that one step sends to one peer; the rest is asked for again */
};

int send_frame(struct consensus *c, uint64_t node, uint16_t type, const void *body, size_t len)
{
    return c->transport.send ? c->transport.send(c->transport.arg, node, type, body, len) : -ENOTCONN;
}

static int send_parts(struct consensus *c, uint64_t node, const uint8_t *data, size_t len)
{
    uint8_t *frame = malloc(RAFT_PART_HEAD_BYTES + RAFT_CODEC_PART_BYTES);
    uint32_t number = ++c->part_number;
    int rc = 0;
    CHECK(frame);
    for (size_t at = 0; at < len && rc == 0; at += RAFT_CODEC_PART_BYTES) {
        struct raft_part part = {number, (uint32_t)len, (uint32_t)at, data + at, len - at};
        if (part.len > RAFT_CODEC_PART_BYTES)
            part.len = RAFT_CODEC_PART_BYTES;
        rc = send_frame(c, node, CONSENSUS_FRAME_PART, frame, raft_part_encode(&part, frame));
    }
    free(frame);
    return rc;
}

/* libraft 0.22.1 leaves the last index of an answer to a leader of the past as it finds it in memory. */
static void result_mend(struct raft_append_entries_result *result)
{
    if (result->rejected && result->last_log_index >= result->rejected)
        result->last_log_index = result->rejected - 1;
    if (result->last_log_index > RAFT_CODEC_INDEX_MAX)
        result->last_log_index = 0;
}

/* libraft 0.22.1 refuses a pre-vote in the term of who asks: one that is behind would never learn of ours,
 * and with the longest log nobody else could be elected either. */
static void refusal_says_term(const struct consensus *c, struct raft_request_vote_result *result)
{
    if (result->pre_vote && !result->vote_granted && result->term < raft_current_term(&c->raft))
        result->term = raft_current_term(&c->raft);
}

static int send_message(struct consensus *c, struct raft_message *message)
{
    void *data;
    size_t len;
    if (message->type == RAFT_APPEND_ENTRIES_RESULT)
        result_mend(&message->append_entries_result);
    if (message->type == RAFT_REQUEST_VOTE_RESULT)
        refusal_says_term(c, &message->request_vote_result);
    int rc = raft_codec_encode(message, NULL, &data, &len);
    if (rc)
        return rc;
    struct peer *peer = message->type == RAFT_APPEND_ENTRIES ? peer_get(c, message->server_id) : NULL;
    if (peer)
        peer->told = message->append_entries.leader_commit;
    if (len > RAFT_CODEC_WHOLE_BYTES_MAX)
        rc = send_parts(c, message->server_id, data, len);
    else
        rc = send_frame(c, message->server_id, CONSENSUS_FRAME_MESSAGE, data, len);
    free(data);
    return rc;
}

/* Some entries from `index` on: from memory, or from the log while its lane rests. */
struct entries {
    struct raft_entry *entry;
    unsigned count;
    size_t bytes;
    struct log_entries read;
};

static void entries_from_memory(struct consensus *c, uint64_t index, unsigned max, struct entries *out)
{
    for (; out->count < max && out->bytes < MESSAGE_ENTRIES_BYTES_MAX; out->count++) {
        const struct entry *e = cache_get(c, index + out->count);
        if (!e || (out->count && out->bytes + e->len > MESSAGE_ENTRIES_BYTES_MAX))
            break;
        out->bytes += e->len;
        out->entry[out->count] =
            (struct raft_entry){.term = e->term, .type = e->type, .buf = {e->data, e->len}};
    }
}

/* 0, -EAGAIN while the lane works, -errno. */
static int entries_get(struct consensus *c, uint64_t index, unsigned max, struct entries *out)
{
    if (max > RAFT_CODEC_ENTRIES_MAX)
        max = RAFT_CODEC_ENTRIES_MAX;
    *out = (struct entries){.entry = calloc(max, sizeof(*out->entry))};
    CHECK(out->entry);
    entries_from_memory(c, index, max, out);
    if (out->count)
        return 0;
    if (c->disk.busy)
        return -EAGAIN;
    int rc = log_read(c->log, index, MESSAGE_ENTRIES_BYTES_MAX, &out->read);
    for (size_t i = 0; rc == 0 && i < out->read.count && out->count < max; i++, out->count++) {
        const struct log_entry *e = &out->read.entry[i];
        out->entry[i] = (struct raft_entry){
            .term = e->term, .type = e->type, .buf = {(void *)(uintptr_t)e->data, e->len}};
        out->bytes += e->len;
    }
    return rc;
}

static void entries_put(struct entries *entries)
{
    free(entries->entry);
    log_entries_free(&entries->read);
}

/* What of it is left for later. */
static void note_late(struct consensus *c, const struct raft_message *m)
{
    struct peer *peer = peer_get(c, m->server_id);
    const struct raft_append_entries *a = &m->append_entries;
    if (peer && (peer->late.term != a->term || a->prev_log_index < peer->late.prev_index))
        peer->late = (struct late){a->term, a->prev_log_index, a->prev_log_term, a->n_entries};
}

/* The same entries once more, before the peer said anything: once a heartbeat is enough for one that does not
 * listen. */
static bool repeats(struct consensus *c, const struct raft_message *m)
{
    struct peer *peer = peer_get(c, m->server_id);
    uint64_t now = consensus_now_ms(c);
    if (!peer)
        return false;
    if (peer->sent_prev == m->append_entries.prev_log_index && peer->heard_ms <= peer->sent_ms &&
        now - peer->sent_ms < c->config.heartbeat_ms && peer->sent_ms)
        return true;
    peer->sent_prev = m->append_entries.prev_log_index;
    peer->sent_ms = now;
    return false;
}

/*
 * A configuration that is not agreed upon is not for those who do not vote in it. A voter that is to stop
 * voting would keep the others from being elected, if the leader ended now: its log is longer than theirs,
 * and the library has nobody stand who does not vote by his own log (section 4.2.2 of Ongaro's dissertation
 * has him stand). How many of the message's entries it gets.
 */
static unsigned entries_allowed(const struct consensus *c, const struct raft_message *message)
{
    const struct raft_append_entries *m = &message->append_entries;
    raft_index conf = c->raft.configuration_uncommitted_index;
    if (conf <= c->commit || conf <= m->prev_log_index || conf > m->prev_log_index + m->n_entries)
        return m->n_entries;
    for (unsigned i = 0; i < c->raft.configuration.n; i++)
        if (c->raft.configuration.servers[i].id == message->server_id &&
            c->raft.configuration.servers[i].role == RAFT_VOTER)
            return m->n_entries;
    return (unsigned)(conf - m->prev_log_index - 1);
}

/*
 * The library says which entries, not what is in them, and knows no bound of bytes: they go in several
 * messages, each of which is one of Raft's by itself. What is lost, or left out, the follower misses and asks
 * for.
 */
static void send_entries(struct consensus *c, struct raft_message *message)
{
    struct raft_append_entries *m = &message->append_entries;
    unsigned left = entries_allowed(c, message);
    size_t sent = 0;
    int rc = repeats(c, message) ? -EALREADY : 0;
    if (left == 0 && rc == 0) {
        m->n_entries = 0;
        (void)send_message(c, message);
    }
    while (left && sent < SEND_BYTES_MAX && rc == 0) {
        struct entries part;
        rc = entries_get(c, m->prev_log_index + 1, left, &part);
        if (rc == -EAGAIN) {
            m->n_entries = left;
            note_late(c, message);
        }
        if (rc == 0) {
            m->entries = part.entry;
            m->n_entries = part.count;
            rc = send_message(c, message);
            m->prev_log_index += part.count;
            m->prev_log_term = part.entry[part.count - 1].term;
            left -= part.count;
            sent += part.bytes + part.count;
        }
        entries_put(&part);
    }
    m->entries = NULL;
}

void send_messages(struct consensus *c, const struct raft_update *update)
{
    for (unsigned i = 0; c->transport.send && i < update->messages.n; i++) {
        struct raft_message *message = &update->messages.batch[i];
        if (message->type == RAFT_INSTALL_SNAPSHOT)
            snapshot_offer(c, message);
        else if (message->type == RAFT_APPEND_ENTRIES && message->append_entries.n_entries)
            send_entries(c, message);
        else
            send_message(c, message);
    }
}

void send_late(struct consensus *c)
{
    for (size_t i = 0; i < c->peers; i++) {
        struct late late = c->peer[i].late;
        if (!late.term || c->disk.busy)
            continue;
        c->peer[i].late.term = 0;
        /* The log of a leader only grows: in the same term they are still what they were. */
        if (!c->leads || late.term != raft_current_term(&c->raft))
            continue;
        struct raft_message m = {.type = RAFT_APPEND_ENTRIES, .server_id = c->peer[i].id};
        m.append_entries = (struct raft_append_entries){.term = late.term,
                                                        .prev_log_index = late.prev_index,
                                                        .prev_log_term = late.prev_term,
                                                        .leader_commit = c->commit,
                                                        .n_entries = late.count};
        send_entries(c, &m);
    }
}

/*
 * The library tells of what became agreed upon with the next entries, or the next heartbeat, and as long an
 * answer would wait that has to be applied on the others, too. Those that have the entry are told at once;
 * the message is one of Raft's like any other, so that nothing depends on its arrival.
 */
void send_commit(struct consensus *c)
{
    if (!c->leads || c->commit <= c->lease.begin_index || c->closing)
        return;
    for (size_t i = 0; i < c->peers; i++) {
        struct peer *peer = &c->peer[i];
        if (peer->told >= c->commit || peer->has < c->commit)
            continue;
        struct raft_message m = {.type = RAFT_APPEND_ENTRIES, .server_id = peer->id};
        /* What a leader finds to be agreed upon is of its own term. */
        m.append_entries = (struct raft_append_entries){.term = raft_current_term(&c->raft),
                                                        .prev_log_index = c->commit,
                                                        .prev_log_term = raft_current_term(&c->raft),
                                                        .leader_commit = c->commit};
        (void)send_message(c, &m);
    }
}
