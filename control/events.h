/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What happened on this node, newest last, as JSON objects of the shape of an audit record: seq, time, kind,
 * actor, source, node (on which it was done, or seen), request_id, result, and what it was about. The last
 * EVENTS_KEPT are in memory, all of them in STATE/events.log until it is rotated (once) at
 * EVENTS_FILE_BYTES_MAX.
 */
#ifndef FL_CONTROL_EVENTS_H
#define FL_CONTROL_EVENTS_H

#include <stddef.h>
#include <stdint.h>
#include <jansson.h>

#include "control/journal.h"
#include "control/state/state.h"

struct events;

enum { EVENTS_KEPT = 1024, EVENTS_FILE_BYTES_MAX = 16 << 20, EVENTS_LOAD_BYTES = 1 << 20 };

/* Reads the end of an earlier file. A file that cannot be written is logged, events are then in memory alone.
 */
struct events *events_open(struct journal *journal, int state_fd);
void events_close(struct events *events);

/* Called with each new event; borrowed until the return. */
typedef void (*events_listener)(void *arg, const json_t *event);
void events_listen(struct events *events, events_listener listener, void *arg);

/* From now on records say on which node: this one's id, and how a node's name is found (NULL: it has none any
 * more).
 */
struct events_nodes {
    uint64_t self;
    const char *(*name)(void *arg, uint64_t id);
    void *arg;
};
void events_set_nodes(struct events *events, const struct events_nodes *nodes);

/* An entry of the log was applied. Those that the file already holds (after a restart) are not told again. */
void events_state(struct events *events, const struct state_event *in);

/* The log ends at this index: a file that tells of later entries is of another state (a backup was put back).
 */
void events_log_ends(struct events *events, uint64_t index);

/* Something that control itself did or saw. */
void events_note(struct events *events, const char *kind, const char *text);

/* The same, about a blob. */
void events_blob(struct events *events, const char *kind, const struct digest *digest, const char *text);

/* An upload to that repository, which a node had that is away, goes on here with so many bytes. */
void events_upload(struct events *events, uint64_t node, uint64_t bytes, const char *repo, size_t repo_len);

/* A verdict on a backend has changed. */
struct events_backend {
    const char *kind, *service, *backend, *before, *reason, *text;
    uint64_t time_ms; /* UTC */
    uint32_t rtt_us;  /* 0: not known */
};
void events_backend(struct events *events, const struct events_backend *about);

/* Once a second: rotates the file. */
void events_tick(struct events *events);

/* At most `limit` of the newest with a seq above `after`, as a new array, oldest first. */
json_t *events_list(const struct events *events, uint64_t after, size_t limit);

const char *events_kind_name(uint16_t cmd_type);
const char *events_status_name(enum cmd_status status);

#endif
