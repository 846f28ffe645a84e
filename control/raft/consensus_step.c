/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The library and us: events in, updates out (raft.h, raft_step; memory as docs/events.rst of cowsql/raft
 * says). What an update asks for is done in the order term and vote (on disk), entries (queued), messages.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "consensus_internal.h"

/* A promise is on the disk before anything else of the same update happens. */
static void save_vote(struct consensus *c, unsigned flags)
{
    if (!(flags & (RAFT_UPDATE_CURRENT_TERM | RAFT_UPDATE_VOTED_FOR)))
        return;
    c->vote.term = raft_current_term(&c->raft);
    c->vote.voted_for = raft_voted_for(&c->raft);
    uint64_t began_ms = consensus_now_ms(c);
    int rc = vote_write(c->config.ops, c->raft_fd, &c->vote);
    c->stand.vote_ms = consensus_now_ms(c) - began_ms;
    if (rc)
        consensus_die(c, "the vote cannot be saved: %s", strerror(-rc));
}

/* Makes an entry of ours from one of the library's. Takes the memory if it is a batch of its own. */
static struct entry *entry_from(const struct raft_entry *e, uint64_t index, bool take)
{
    struct entry *made = calloc(1, sizeof(*made));
    CHECK(made);
    *made = (struct entry){
        .index = index, .term = e->term, .type = (uint16_t)e->type, .refs = 1, .len = e->buf.len};
    if (take) {
        made->data = e->buf.base;
        return made;
    }
    made->data = malloc(e->buf.len + 1);
    CHECK(made->data);
    memcpy(made->data, e->buf.base, e->buf.len);
    return made;
}

/* New entries, ours (`own`, in order) or the leader's. Those that they replace were never committed. */
static void keep_entries(struct consensus *c, const struct raft_update *update, struct entry **own)
{
    uint64_t index = update->entries.index;
    const struct raft_entry *batch = update->entries.batch;
    if (index <= cache_last(c)) {
        cache_truncate(c, index, CMD_NO_LEADER);
        if ((index <= c->persisted || c->disk.busy) && (!c->truncate_from || index < c->truncate_from))
            c->truncate_from = index;
        if (c->persisted >= index)
            c->persisted = index - 1;
    }
    bool shared = !own && (update->entries.n > 1 || batch[0].batch != batch[0].buf.base);
    for (unsigned i = 0; i < update->entries.n; i++) {
        struct entry *e = own ? own[i] : entry_from(&batch[i], index + i, !shared);
        e->index = index + i;
        e->term = batch[i].term;
        if (e->done) {
            c->under_way++;
            c->under_way_bytes += e->len;
        }
        CHECK(cache_add(c, e) == 0);
    }
    if (shared)
        raft_free(batch[0].batch);
}

/* This node does not lead any more: what was not agreed upon may still be, by the next leader, or not. Nobody
 * waits for that. */
static void lead_end(struct consensus *c)
{
    for (size_t i = 0; i < c->cache_count; i++)
        if (c->cache[i]->index > c->commit || c->cache[i]->type == RAFT_CHANGE)
            entry_answer(c, c->cache[i], CMD_UNKNOWN_OUTCOME, NULL, 0);
    lease_end_lead(c);
    change_lost(c);
}

/* What the library's state means for the rest. */
static void look(struct consensus *c)
{
    bool leads = raft_state(&c->raft) == RAFT_LEADER, led = c->leads;
    c->leads = leads;
    c->commit = raft_commit_index(&c->raft);
    if (leads && !led) {
        stand_heard(c, c->vote.node_id, raft_current_term(&c->raft));
        lease_begin_lead(c);
    } else if (!leads && led) {
        lead_end(c);
    }
    if (raft_state(&c->raft) == RAFT_FOLLOWER)
        c->lease.handed = false;
}

/* The log gives way to a snapshot of another node: nothing that is in it counts any more. */
static void install_begin(struct consensus *c, struct raft_update *update)
{
    raft_configuration_close(&update->snapshot.metadata.configuration);
    cache_truncate(c, 0, CMD_UNKNOWN_OUTCOME);
    c->truncate_from = c->drop_to = 0;
    c->installing = true;
}

/* 0, or the library's error. */
static int step(struct consensus *c, struct raft_event *event, struct entry **own)
{
    struct raft_update update;
    memset(&update, 0, sizeof(update));
    event->time = consensus_now_ms(c);
    int rc = raft_step(&c->raft, event, &update);
    if (rc)
        return rc;
    save_vote(c, update.flags);
    if (update.flags & RAFT_UPDATE_ENTRIES)
        keep_entries(c, &update, own);
    if (update.flags & RAFT_UPDATE_SNAPSHOT)
        install_begin(c, &update);
    lease_publish(c); /* before anybody learns of another member */
    if ((update.flags & RAFT_UPDATE_MESSAGES) && !c->dead)
        send_messages(c, &update);
    look(c);
    consensus_arm(c);
    return 0;
}

/* A leader of others works by the tick, so that it looks after all of them at the same moment. */
static bool timeout_due(const struct consensus *c)
{
    uint64_t now = consensus_now_ms(c);
    if (c->leads && c->raft.configuration.n > 1)
        return true;
    return now >= (c->leads ? raft_timeout(&c->raft) : stand_due_ms(c));
}

void step_timeout(struct consensus *c)
{
    struct raft_event event = {.type = RAFT_TIMEOUT};
    if (!timeout_due(c)) {
        consensus_arm(c);
        return;
    }
    bool led = c->leads;
    if (led)
        c->raft.election_timeout = stand_lead_ms(c);
    else
        stand_prepare(c);
    int rc = step(c, &event, NULL);
    c->raft.election_timeout = c->config.election_ms;
    if (rc)
        consensus_die(c, "the Raft library failed at a timeout: %s", raft_strerror(rc));
    if (!led)
        stand_tried(c);
    consensus_arm(c);
}

bool step_submit(struct consensus *c, struct entry **entries, unsigned count)
{
    struct raft_event event = {.type = RAFT_SUBMIT};
    struct raft_entry *raw = calloc(count, sizeof(*raw));
    CHECK(raw && count > 0);
    for (unsigned i = 0; i < count; i++)
        raw[i] = (struct raft_entry){.term = raft_current_term(&c->raft),
                                     .type = entries[i]->type,
                                     .buf = {entries[i]->data, entries[i]->len},
                                     .batch = entries[i]->data};
    event.submit.entries = raw;
    event.submit.n = count;
    int rc = step(c, &event, entries);
    free(raw);
    return rc == 0;
}

int step_transfer(struct consensus *c, uint64_t node)
{
    struct raft_event event = {.type = RAFT_TRANSFER};
    event.transfer.server_id = node;
    int rc = step(c, &event, NULL);
    return rc == 0 ? 0 : rc == RAFT_BADID || rc == RAFT_NOTFOUND ? -ENOENT : -EAGAIN;
}

void step_persisted(struct consensus *c, uint64_t index)
{
    struct raft_event event = {.type = RAFT_PERSISTED_ENTRIES};
    event.persisted_entries.index = index;
    int rc = step(c, &event, NULL);
    if (rc)
        consensus_die(c, "the Raft library failed after a write: %s", raft_strerror(rc));
}

void step_configuration(struct consensus *c, uint64_t index, const void *data, size_t len)
{
    struct raft_event event = {.type = RAFT_CONFIGURATION};
    struct raft_buffer buf = {(void *)(uintptr_t)data, len};
    event.configuration.index = index;
    int rc = raft_configuration_decode(&buf, &event.configuration.conf);
    if (rc == 0)
        rc = step(c, &event, NULL);
    if (rc)
        consensus_die(c, "entry %llu, a configuration, cannot be applied: %s", (unsigned long long)index,
                      raft_strerror(rc));
}

static int metadata_make(const struct snapshot_meta *meta, struct raft_snapshot_metadata *out)
{
    struct raft_buffer buf = {meta->configuration, meta->configuration_len};
    *out = (struct raft_snapshot_metadata){
        .index = meta->index, .term = meta->term, .configuration_index = meta->configuration_index};
    return raft_configuration_decode(&buf, &out->configuration);
}

void step_snapshot(struct consensus *c, const struct snapshot_meta *meta)
{
    struct raft_event event = {.type = RAFT_SNAPSHOT};
    int rc = metadata_make(meta, &event.snapshot.metadata);
    event.snapshot.trailing = (unsigned)c->config.trailing_entries;
    if (rc == 0)
        rc = step(c, &event, NULL);
    if (rc)
        consensus_die(c, "the Raft library refuses snapshot %llu: %s", (unsigned long long)meta->index,
                      raft_strerror(rc));
}

/* The library looks at the terms of all entries, and at the data of configurations only. */
static int start_entries(struct consensus *c, struct raft_event *event, struct log_entries **chunks,
                         size_t *count)
{
    uint64_t first = log_first(c->log), last = log_last(c->log);
    size_t n = 0, total = first && last >= first ? last - first + 1 : 0;
    struct raft_entry *entries = calloc(total + 1, sizeof(*entries));
    event->start.start_index = total ? first : (event->start.metadata ? event->start.metadata->index + 1 : 1);
    event->start.entries = entries;
    event->start.n_entries = (unsigned)total;
    *chunks = NULL;
    *count = 0;
    while (entries && n < total) {
        struct log_entries chunk;
        int rc = log_read(c->log, first + n, BATCH_BYTES_MAX, &chunk);
        if (rc)
            return rc;
        bool keep = false;
        for (size_t i = 0; i < chunk.count; i++, n++) {
            entries[n] = (struct raft_entry){.term = chunk.entry[i].term, .type = chunk.entry[i].type};
            if (chunk.entry[i].type != RAFT_CHANGE)
                continue;
            keep = true;
            entries[n].buf = (struct raft_buffer){(void *)(uintptr_t)chunk.entry[i].data, chunk.entry[i].len};
        }
        struct log_entries *grown = keep ? realloc(*chunks, (*count + 1) * sizeof(chunk)) : NULL;
        if (grown) {
            *chunks = grown;
            grown[(*count)++] = chunk;
        } else {
            log_entries_free(&chunk);
            if (keep)
                return -ENOMEM;
        }
    }
    return entries ? 0 : -ENOMEM;
}

void step_install(struct consensus *c, uint64_t from, raft_term term, const struct snapshot_meta *meta)
{
    struct raft_snapshot_metadata metadata;
    char address[24];
    int rc = metadata_make(meta, &metadata);
    snprintf(address, sizeof(address), "%llu", (unsigned long long)from);
    struct raft_message message = {
        .type = RAFT_INSTALL_SNAPSHOT, .server_id = from, .server_address = address};
    message.install_snapshot = (struct raft_install_snapshot){.term = term,
                                                              .last_index = meta->index,
                                                              .last_term = meta->term,
                                                              .conf = metadata.configuration,
                                                              .conf_index = meta->configuration_index};
    struct raft_event event = {.type = RAFT_RECEIVE, .receive = {&message}};
    if (rc == 0)
        rc = step(c, &event, NULL);
    if (rc)
        consensus_die(c, "the Raft library refuses snapshot %llu of node %llu: %s",
                      (unsigned long long)meta->index, (unsigned long long)from, raft_strerror(rc));
}

void step_installed(struct consensus *c, const struct snapshot_meta *meta)
{
    struct raft_event event = {.type = RAFT_PERSISTED_SNAPSHOT};
    int rc = metadata_make(meta, &event.persisted_snapshot.metadata);
    event.persisted_snapshot.last = true;
    if (rc == 0)
        rc = step(c, &event, NULL);
    if (rc)
        consensus_die(c, "the Raft library failed after snapshot %llu was taken over: %s",
                      (unsigned long long)meta->index, raft_strerror(rc));
}

int step_start(struct consensus *c, const struct snapshot_meta *snapshot, char *err, size_t err_len)
{
    struct raft_event event = {.type = RAFT_START};
    struct raft_snapshot_metadata metadata;
    struct log_entries *chunks = NULL;
    size_t count = 0;
    event.start.term = c->vote.term;
    event.start.voted_for = c->vote.voted_for;
    if (snapshot && metadata_make(snapshot, &metadata) == 0)
        event.start.metadata = &metadata;
    int rc = start_entries(c, &event, &chunks, &count);
    /* The library frees the entries when it fails; the node does not survive that anyway. */
    int raft_rc = rc ? 0 : step(c, &event, NULL);
    if (raft_rc == 0)
        free(event.start.entries);
    for (size_t i = 0; i < count; i++)
        log_entries_free(&chunks[i]);
    free(chunks);
    if (rc || raft_rc)
        snprintf(err, err_len, "the log cannot be loaded: %s", rc ? strerror(-rc) : raft_strerror(raft_rc));
    return rc ? rc : raft_rc ? -EUCLEAN : 0;
}

/*
 * What a snapshot of this node has is agreed upon, and so the leader's as well, even where the log does not
 * go back to it any more. libraft 0.22.1 would refuse it for ever, or take
 * it for new. Returns how many entries are passed over.
 */
static unsigned entries_known(const struct consensus *c, struct raft_append_entries *m)
{
    const struct raft_trail *trail = &c->raft.trail;
    uint64_t known = trail->snapshot.index;
    if (m->prev_log_index > trail->offset || m->prev_log_index >= known ||
        m->term < raft_current_term(&c->raft))
        return 0;
    uint64_t skip = known - m->prev_log_index;
    m->prev_log_index = known;
    m->prev_log_term = trail->snapshot.term;
    return skip < m->n_entries ? (unsigned)skip : m->n_entries;
}

/*
 * libraft 0.22.1 gives a configuration that is not the first entry of a message the index of that first entry
 * (replicationAppend), and would not know it again when it is committed: so each begins a message of its own.
 */
static int receive_entries(struct consensus *c, struct raft_message *message)
{
    struct raft_message part = *message;
    struct raft_append_entries *all = &message->append_entries, *m = &part.append_entries;
    unsigned done = entries_known(c, all);
    m->prev_log_index = all->prev_log_index;
    m->prev_log_term = all->prev_log_term;
    do {
        unsigned n = done < all->n_entries ? 1 : 0;
        while (done + n < all->n_entries && all->entries[done + n].type != RAFT_CHANGE)
            n++;
        struct raft_event event = {.type = RAFT_RECEIVE, .receive = {&part}};
        uint8_t *copy = NULL;
        size_t bytes = 0, at = 0;
        for (unsigned i = 0; i < n; i++)
            bytes += all->entries[done + i].buf.len;
        m->entries = calloc(n + 1, sizeof(*m->entries));
        copy = n ? raft_malloc(bytes + 1) : NULL;
        CHECK(m->entries && (copy || n == 0));
        for (unsigned i = 0; i < n; i++) {
            const struct raft_entry *e = &all->entries[done + i];
            memcpy(copy + at, e->buf.base, e->buf.len);
            m->entries[i] = (struct raft_entry){e->term, e->type, {copy + at, e->buf.len}, copy};
            at += e->buf.len;
        }
        m->n_entries = n;
        int rc = step(c, &event, NULL);
        free(m->entries);
        if (rc)
            return rc;
        if (n) {
            m->prev_log_index += n;
            m->prev_log_term = all->entries[done + n - 1].term;
        }
        done += n;
    } while (done < all->n_entries);
    return 0;
}

/*
 * Who is asked for its vote gives it, whatever its own configuration says (Raft, 4.1): the candidate's may be
 * newer. libraft 0.22.1 refuses where this node is a standby by its own: a leader that is lost while it makes
 * a voter of one could never be followed by another.
 */
static int receive_vote(struct consensus *c, struct raft_event *event)
{
    struct raft_server *me = NULL;
    for (unsigned i = 0; i < c->raft.configuration.n; i++)
        if (c->raft.configuration.servers[i].id == c->vote.node_id)
            me = &c->raft.configuration.servers[i];
    int role = me ? me->role : RAFT_VOTER;
    uint64_t term = c->vote.term, voted_for = c->vote.voted_for;
    stand_forget_leader(c);
    if (me)
        me->role = RAFT_VOTER;
    /* A request for a vote changes no configuration. */
    int rc = step(c, event, NULL);
    if (c->vote.voted_for && (c->vote.term != term || c->vote.voted_for != voted_for))
        stand_voted(c);
    if (me)
        me->role = role;
    return rc;
}

int step_receive(struct consensus *c, struct raft_message *message)
{
    struct raft_event event = {.type = RAFT_RECEIVE, .receive = {message}};
    bool asks = stand_asks(c), candidate = raft_state(&c->raft) == RAFT_CANDIDATE;
    c->lease.handed |= message->type == RAFT_TIMEOUT_NOW;
    if (message->type == RAFT_REQUEST_VOTE)
        return receive_vote(c, &event);
    if (message->type == RAFT_APPEND_ENTRIES && message->append_entries.term >= raft_current_term(&c->raft))
        stand_heard(c, message->server_id, message->append_entries.term);
    if (message->type == RAFT_APPEND_ENTRIES)
        return receive_entries(c, message);
    int rc = step(c, &event, NULL);
    if (message->type == RAFT_TIMEOUT_NOW && !candidate)
        stand_told(c);
    else if (asks && !stand_asks(c))
        stand_votes(c);
    consensus_arm(c);
    return rc;
}
