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
    int rc = vote_write(c->config.ops, c->raft_fd, &c->vote);
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

/* Entries for a message: from memory, or from the log while its lane rests. False: not now, send nothing. */
static bool fill_entries(struct consensus *c, struct raft_append_entries *m, struct raft_entry *out)
{
    for (unsigned i = 0; i < m->n_entries; i++) {
        uint64_t index = m->prev_log_index + 1 + i;
        const struct entry *e = cache_get(c, index);
        struct log_entries from_log = {0};
        if (e) {
            out[i] = (struct raft_entry){.term = e->term, .type = e->type, .buf = {e->data, e->len}};
            continue;
        }
        if (c->disk.busy || log_read(c->log, index, 0, &from_log))
            return false;
        out[i] = (struct raft_entry){.term = from_log.entry[0].term, .type = from_log.entry[0].type};
        out[i].batch = malloc(from_log.entry[0].len + 1);
        CHECK(out[i].batch);
        memcpy(out[i].batch, from_log.entry[0].data, from_log.entry[0].len);
        out[i].buf = (struct raft_buffer){out[i].batch, from_log.entry[0].len};
        log_entries_free(&from_log);
    }
    return true;
}

static void send_entries(struct consensus *c, const struct consensus_transport *t,
                         struct raft_message *message)
{
    struct raft_append_entries *m = &message->append_entries;
    m->entries = calloc(m->n_entries + 1, sizeof(*m->entries));
    CHECK(m->entries);
    if (fill_entries(c, m, m->entries))
        t->send(t->arg, message);
    for (unsigned i = 0; i < m->n_entries; i++)
        free(m->entries[i].batch);
    free(m->entries);
    m->entries = NULL;
}

static void send_messages(struct consensus *c, const struct raft_update *update)
{
    const struct consensus_transport *t = c->config.transport;
    for (unsigned i = 0; t && i < update->messages.n; i++) {
        struct raft_message *message = &update->messages.batch[i];
        if (message->type == RAFT_APPEND_ENTRIES)
            send_entries(c, t, message);
        else
            t->send(t->arg, message);
    }
}

/* 0, or the library's error. */
static int step(struct consensus *c, struct raft_event *event, struct entry **own)
{
    struct raft_update update;
    memset(&update, 0, sizeof(update));
    event->time = consensus_now_ms();
    int rc = raft_step(&c->raft, event, &update);
    if (rc)
        return rc;
    save_vote(c, update.flags);
    if (update.flags & RAFT_UPDATE_ENTRIES)
        keep_entries(c, &update, own);
    if ((update.flags & RAFT_UPDATE_MESSAGES) && !c->dead)
        send_messages(c, &update);
    if (update.flags & RAFT_UPDATE_SNAPSHOT)
        consensus_die(c, "a snapshot came that this version cannot take");
    c->leads = raft_state(&c->raft) == RAFT_LEADER;
    c->commit = raft_commit_index(&c->raft);
    consensus_arm(c);
    return 0;
}

void step_timeout(struct consensus *c)
{
    struct raft_event event = {.type = RAFT_TIMEOUT};
    if (consensus_now_ms() < raft_timeout(&c->raft)) {
        consensus_arm(c);
        return;
    }
    int rc = step(c, &event, NULL);
    if (rc)
        consensus_die(c, "the Raft library failed at a timeout: %s", raft_strerror(rc));
}

bool step_submit(struct consensus *c, struct entry **entries, unsigned count)
{
    struct raft_event event = {.type = RAFT_SUBMIT};
    struct raft_entry *raw = calloc(count, sizeof(*raw));
    CHECK(raw && count > 0);
    for (unsigned i = 0; i < count; i++)
        raw[i] = (struct raft_entry){.term = raft_current_term(&c->raft),
                                     .type = RAFT_COMMAND,
                                     .buf = {entries[i]->data, entries[i]->len},
                                     .batch = entries[i]->data};
    event.submit.entries = raw;
    event.submit.n = count;
    int rc = step(c, &event, entries);
    free(raw);
    return rc == 0;
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
    event.snapshot.trailing = CONSENSUS_TRAILING_ENTRIES;
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
 * libraft 0.22.1 gives a configuration that is not the first entry of a message the index of that first entry
 * (replicationAppend), and would not know it again when it is committed: so each begins a message of its own.
 */
static int receive_entries(struct consensus *c, struct raft_message *message)
{
    struct raft_message part = *message;
    struct raft_append_entries *all = &message->append_entries, *m = &part.append_entries;
    unsigned done = 0;
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

int consensus_receive(struct consensus *c, struct raft_message *message)
{
    struct raft_event event = {.type = RAFT_RECEIVE, .receive = {message}};
    if (message->type == RAFT_INSTALL_SNAPSHOT)
        return -ENOTSUP;
    if (c->dead || c->closing)
        return 0;
    int rc = message->type == RAFT_APPEND_ENTRIES ? receive_entries(c, message) : step(c, &event, NULL);
    if (rc)
        consensus_die(c, "the Raft library refuses a message of server %llu: %s", message->server_id,
                      raft_strerror(rc));
    uv_async_send(&c->wake);
    return rc ? -EPROTO : 0;
}
