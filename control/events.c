/* SPDX-License-Identifier: Apache-2.0 */
#include "control/events.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "control/cmd_origin.h"
#include "control/event_nodes.h"
#include "control/sink.h"
#include "control/state/policy.h"

#define FILE_NAME     "events.log"
#define FILE_NAME_OLD "events.log.1"

struct events {
    struct journal *journal;
    int state_fd;
    struct sink *sink; /* NULL: the file cannot be written */
    uint64_t file_bytes;
    json_t *kept[EVENTS_KEPT]; /* seq % EVENTS_KEPT */
    uint64_t seq;              /* of the newest */
    uint64_t index;            /* of the newest log entry told */
    struct events_nodes nodes;
    events_listener listener;
    void *listener_arg;
};

const char *events_kind_name(uint16_t cmd_type)
{
    static const char *const names[CMD_TYPE_COUNT] = {
        [CMD_NONE] = "none",
        [CMD_BLOB_LINK] = "blob.push",
        [CMD_BLOB_MOUNT] = "blob.mount",
        [CMD_BLOB_UNLINK] = "blob.delete",
        [CMD_BLOB_COPIES] = "blob.copies",
        [CMD_MANIFEST_PUT] = "manifest.push",
        [CMD_MANIFEST_DELETE] = "manifest.delete",
        [CMD_TAG_DELETE] = "tag.delete",
        [CMD_REPO_DELETE] = "repo.delete",
        [CMD_SETTING_SET] = "setting.set",
        [CMD_SETTING_UNSET] = "setting.unset",
        [CMD_SERVICE_SET] = "service.set",
        [CMD_SERVICE_RM] = "service.delete",
        [CMD_BACKEND_SET] = "backend.set",
        [CMD_BACKEND_RM] = "backend.delete",
        [CMD_BACKEND_ADMIN] = "backend.admin",
        [CMD_CLUSTER_INIT] = "cluster.init",
        [CMD_NODE_ADD] = "node.add",
        [CMD_NODE_SET] = "node.set",
        [CMD_NODE_RM] = "node.delete",
        [CMD_TOKEN_SET] = "token.set",
        [CMD_TOKEN_RM] = "token.delete",
        [CMD_CLUSTER_SET] = "cluster.set",
        [CMD_TRANSACTION] = "transaction",
        [CMD_CA_ROTATE] = "ca.rotate",
        [CMD_CA_STEP] = "ca.step",
        [CMD_CA_NODE] = "ca.node",
        [CMD_POLICY_SET] = "policy.set",
        [CMD_POLICY_RM] = "policy.delete",
        [CMD_REPO_CREATE] = "repo.create",
        [CMD_TAGS_EXPIRE] = "tags.expire",
        [CMD_NOTIFY_CURSOR] = "notify.cursor",
        [CMD_NOTIFY_SET] = "notify.set",
        [CMD_NOTIFY_RM] = "notify.delete",
        [CMD_MIRROR_SET] = "mirror.set",
        [CMD_MIRROR_RM] = "mirror.delete",
        [CMD_SOURCE_SET] = "source.set",
        [CMD_SOURCE_RM] = "source.delete",
        [CMD_GC_REPO] = "gc.repo",
        [CMD_GC_BLOBS] = "gc.blobs",
        [CMD_GC_KEEP] = "gc.keep",
        [CMD_GC_TOTALS] = "gc.totals",
    };
    return cmd_type < CMD_TYPE_COUNT && names[cmd_type] ? names[cmd_type] : "unknown";
}

const char *events_status_name(enum cmd_status status)
{
    static const char *const names[CMD_STATUS_COUNT] = {
        [CMD_OK] = "ok",
        [CMD_REPO_UNKNOWN] = "repository unknown",
        [CMD_BLOB_UNKNOWN] = "blob unknown",
        [CMD_MANIFEST_UNKNOWN] = "manifest unknown",
        [CMD_TAG_UNKNOWN] = "tag unknown",
        [CMD_INVALID] = "invalid",
        [CMD_NO_LEADER] = "no leader",
        [CMD_UNKNOWN_OUTCOME] = "unknown outcome",
        [CMD_NO_SPACE] = "no space",
        [CMD_SETTING_UNKNOWN] = "setting unknown",
        [CMD_TOO_LARGE] = "too large",
        [CMD_BUSY] = "busy",
        [CMD_SERVICE_UNKNOWN] = "service unknown",
        [CMD_BACKEND_UNKNOWN] = "backend unknown",
        [CMD_CONFLICT] = "conflict",
        [CMD_DECLARED] = "set in the configuration file",
        [CMD_LIMIT] = "limit reached",
        [CMD_NODE_UNKNOWN] = "node unknown",
        [CMD_TOKEN_UNKNOWN] = "token unknown",
        [CMD_MANAGERS] = "not with these managers",
        [CMD_TOO_NEW] = "a node is too old",
        [CMD_DENIED] = "not allowed by a policy",
        [CMD_POLICY_UNKNOWN] = "policy unknown",
        [CMD_ENDPOINT_UNKNOWN] = "endpoint unknown",
        [CMD_BLOB_DELETING] = "blob is being deleted",
        [CMD_MIRROR_UNKNOWN] = "mirror unknown",
        [CMD_SOURCE_UNKNOWN] = "source unknown",
    };
    return (unsigned)status < CMD_STATUS_COUNT ? names[status] : "unknown";
}

static void keep(struct events *events, json_t *event, uint64_t seq)
{
    json_t **slot = &events->kept[seq % EVENTS_KEPT];
    if (*slot)
        json_decref(*slot);
    *slot = event;
    events->seq = seq;
}

static void write_event(struct events *events, const json_t *event)
{
    char *line = json_dumps(event, JSON_COMPACT);
    CHECK(line);
    size_t len = strlen(line);
    line[len++] = '\n'; /* over the NUL: it is a line from here on */
    if (sink_write(events->sink, line, len))
        events->file_bytes += len;
    free(line);
}

/* Takes event. */
static void tell(struct events *events, json_t *event)
{
    uint64_t seq = events->seq + 1;
    json_object_set_new(event, "seq", json_integer((json_int_t)seq));
    keep(events, event, seq);
    if (events->sink)
        write_event(events, event);
    if (events->listener)
        events->listener(events->listener_arg, event);
}

static void set_text(json_t *event, const char *key, const char *text, size_t len)
{
    if (len)
        json_object_set_new(event, key, json_stringn(text, len) ?: json_string("(not UTF-8)"));
}

static void set_digest(json_t *event, const char *key, const struct digest *digest)
{
    char text[DIGEST_TEXT_MAX + 1];
    if (digest->alg == DIGEST_NONE)
        return;
    digest_format(digest, text);
    json_object_set_new(event, key, json_string(text));
}

static void set_tags(json_t *event, const struct state_cmd *cmd)
{
    if (cmd->tags_count == 0)
        return;
    json_t *tags = json_array();
    for (uint32_t i = 0; i < cmd->tags_count && i < MANIFEST_TAGS_MAX; i++)
        json_array_append_new(tags, json_stringn(cmd->tags[i].data, cmd->tags[i].len) ?: json_string(""));
    json_object_set_new(event, "tags", tags);
}

void events_set_nodes(struct events *events, const struct events_nodes *nodes)
{
    events->nodes = *nodes;
}

static void set_node(const struct events *events, json_t *event, uint64_t id)
{
    const char *name = id && events->nodes.name ? events->nodes.name(events->nodes.arg, id) : NULL;
    if (id)
        json_object_set_new(event, "by_node", json_integer((json_int_t)id));
    if (name)
        json_object_set_new(event, "node", json_string(name));
}

static json_t *event_new(const char *kind, uint64_t time_ms)
{
    char time_text[TIME_TEXT_MAX];
    json_t *event = json_object();
    CHECK(event);
    json_object_set_new(event, "seq", json_integer(0)); /* first, to be read first */
    json_object_set_new(event, "time", json_string(journal_time_text(time_ms, time_text)));
    json_object_set_new(event, "kind", json_string(kind));
    return event;
}

/* Some of the backends' names, and how many there are. */
static void set_backends(json_t *event, const struct state_cmd *cmd)
{
    enum { NAMES_SHOWN = 16 };
    struct wire_reader r = cmd->backends;
    uint32_t shown = cmd->backends_count < NAMES_SHOWN ? cmd->backends_count : NAMES_SHOWN;
    if (cmd->backends_count == 0)
        return;
    json_t *names = json_array();
    for (uint32_t i = 0; i < shown; i++) {
        struct svc_backend b = {.name = ""};
        size_t len = 0;
        const uint8_t *name = NULL;
        if (cmd->head.type == CMD_BACKEND_SET)
            svc_backend_get(&r, &b);
        else
            name = wire_get_bytes(&r, &len);
        json_array_append_new(names, name ? json_stringn((const char *)name, len) : json_string(b.name));
    }
    json_object_set_new(event, "backends", names);
    json_object_set_new(event, "backends_count", json_integer(cmd->backends_count));
    if (cmd->head.type == CMD_BACKEND_ADMIN)
        json_object_set_new(event, "admin", json_string(svc_admin_name(cmd->admin)));
}

/* Some of the prefixes whose policies are set or go. */
static void set_policies(json_t *event, const struct state_cmd *cmd)
{
    enum { PREFIXES_SHOWN = 16 };
    struct wire_reader set = cmd->policies, gone = cmd->prefixes;
    struct policy p;
    if (cmd->head.type != CMD_POLICY_SET)
        return;
    json_t *list = json_array(), *removed = json_array();
    for (uint32_t i = 0; i < cmd->policies_count && i < PREFIXES_SHOWN; i++) {
        policy_get(&set, &p);
        json_array_append_new(list, json_string(policy_prefix_text(p.prefix)));
    }
    for (uint32_t i = 0; i < cmd->prefixes_count && i < PREFIXES_SHOWN; i++) {
        size_t len;
        const char *text = (const char *)wire_get_bytes(&gone, &len);
        json_array_append_new(removed, len ? json_stringn(text, len) : json_string("*"));
    }
    json_object_set_new(event, "policies", list);
    json_object_set_new(event, "policies_removed", removed);
}

/* What a command is about, but for who and when. */
static void set_fields(json_t *event, const struct state_cmd *cmd)
{
    set_text(event, "repo", cmd->repo.data, cmd->repo.len);
    set_text(event, "from", cmd->from.data, cmd->from.len);
    set_digest(event, "digest", &cmd->digest);
    set_tags(event, cmd);
    set_text(event, "key", cmd->key.data, cmd->key.len);
    set_text(event, "value", cmd->value.data, cmd->value.len);
    set_text(event, "service", cmd->service.data, cmd->service.len);
    set_backends(event, cmd);
    set_policies(event, cmd);
}

/* Some of the parts of a transaction, and how many there are. */
static void set_parts(json_t *event, const struct state_cmd *cmd)
{
    enum { PARTS_SHOWN = 64 };
    struct wire_reader r = cmd->parts;
    struct state_cmd *part = malloc(sizeof(*part));
    json_t *parts = json_array();
    char err[128];
    CHECK(part);
    for (uint32_t i = 0; i < cmd->parts_count && i < PARTS_SHOWN; i++) {
        if (state_part_next(&r, &cmd->head, part, err, sizeof(err)))
            break;
        json_t *row = json_pack("{s:s}", "kind", events_kind_name(part->head.type));
        set_fields(row, part);
        json_array_append_new(parts, row);
    }
    free(part);
    json_object_set_new(event, "parts", parts);
    json_object_set_new(event, "parts_count", json_integer(cmd->parts_count));
}

void events_state(struct events *events, const struct state_event *in)
{
    const struct state_cmd *cmd = &in->cmd;
    if (in->index <= events->index)
        return;
    events->index = in->index;
    json_t *event = event_new(events_kind_name(cmd->head.type), cmd->head.time_ms);
    set_text(event, "actor", cmd->head.actor, cmd->head.actor_len);
    size_t source_len = cmd->head.source_len;
    uint64_t node = cmd_origin_take(cmd->head.source, &source_len);
    set_text(event, "source", cmd->head.source, source_len);
    set_node(events, event, node);
    set_text(event, "request_id", cmd->head.request_id, cmd->head.request_id_len);
    set_fields(event, cmd);
    event_set_node(event, in);
    if (cmd->head.type == CMD_TRANSACTION)
        set_parts(event, cmd);
    json_object_set_new(event, "result", json_string(events_status_name(in->status)));
    json_object_set_new(event, "changed", json_boolean(in->changed));
    json_object_set_new(event, "index", json_integer((json_int_t)in->index));
    tell(events, event);
}

void events_log_ends(struct events *events, uint64_t index)
{
    if (events->index > index)
        events->index = index;
}

/* Of what control itself did or saw. */
static json_t *note_new(struct events *events, const char *kind, const char *text)
{
    json_t *event = event_new(kind, journal_now_ms());
    json_object_set_new(event, "actor", json_string("system"));
    set_node(events, event, events->nodes.self);
    json_object_set_new(event, "text", json_string(text));
    json_object_set_new(event, "result", json_string("ok"));
    return event;
}

void events_note(struct events *events, const char *kind, const char *text)
{
    tell(events, note_new(events, kind, text));
}

void events_blob(struct events *events, const char *kind, const struct digest *digest, const char *text)
{
    json_t *event = note_new(events, kind, text);
    set_digest(event, "digest", digest);
    tell(events, event);
}

void events_upload(struct events *events, uint64_t node, uint64_t bytes, const char *repo, size_t repo_len)
{
    char text[160];
    const char *name = events->nodes.name ? events->nodes.name(events->nodes.arg, node) : NULL;
    snprintf(text, sizeof(text), "it goes on here, with %" PRIu64 " bytes, as %.63s is away", bytes,
             name ? name : "the node that had it");
    json_t *event = note_new(events, "upload.adopted", text);
    set_text(event, "repo", repo, repo_len);
    tell(events, event);
}

void events_backend(struct events *events, const struct events_backend *about)
{
    json_t *event = event_new(about->kind, about->time_ms);
    json_object_set_new(event, "actor", json_string("kernel"));
    set_node(events, event, events->nodes.self);
    json_object_set_new(event, "service", json_string(about->service));
    json_object_set_new(event, "backend", json_string(about->backend));
    json_object_set_new(event, "before", json_string(about->before));
    json_object_set_new(event, "reason", json_string(about->reason));
    if (about->rtt_us)
        json_object_set_new(event, "rtt_us", json_integer(about->rtt_us));
    json_object_set_new(event, "text", json_string(about->text));
    json_object_set_new(event, "result", json_string("ok"));
    tell(events, event);
}

static void load_line(struct events *events, const char *line, size_t len)
{
    json_t *event = json_loadb(line, len, JSON_REJECT_DUPLICATES, NULL);
    json_int_t seq = json_integer_value(json_object_get(event, "seq"));
    json_int_t index = json_integer_value(json_object_get(event, "index"));
    if (seq <= 0 || (uint64_t)seq <= events->seq) {
        json_decref(event);
        return;
    }
    keep(events, event, (uint64_t)seq);
    if (index > 0 && (uint64_t)index > events->index)
        events->index = (uint64_t)index;
}

/* The last lines of the file; a line that a crash cut off is skipped. */
static void load_file(struct events *events, int fd)
{
    struct stat st;
    char *text = malloc(EVENTS_LOAD_BYTES);
    CHECK(text);
    if (fstat(fd, &st))
        st.st_size = 0;
    events->file_bytes = (uint64_t)st.st_size;
    off_t from = st.st_size > EVENTS_LOAD_BYTES ? st.st_size - EVENTS_LOAD_BYTES : 0;
    ssize_t n = pread(fd, text, EVENTS_LOAD_BYTES, from);
    char *end = text + (n > 0 ? n : 0);
    char *line = text;
    if (from && n > 0) {
        char *first_end = memchr(text, '\n', (size_t)n);
        line = first_end ? first_end + 1 : end;
    }
    while (line < end) {
        char *line_end = memchr(line, '\n', (size_t)(end - line));
        if (!line_end)
            break;
        load_line(events, line, (size_t)(line_end - line));
        line = line_end + 1;
    }
    free(text);
}

/* A cut line at the end is ended, so that the next one stands alone. */
static void end_cut_line(int fd, uint64_t bytes)
{
    char last;
    if (bytes && pread(fd, &last, 1, (off_t)bytes - 1) == 1 && last != '\n' &&
        pwrite(fd, "\n", 1, (off_t)bytes) != 1)
        return;
}

static int open_sink(struct events *events)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/fd/%d/" FILE_NAME, events->state_fd);
    return sink_open(path, &events->sink);
}

struct events *events_open(struct journal *journal, int state_fd)
{
    struct events *events = calloc(1, sizeof(*events));
    CHECK(events);
    events->journal = journal;
    events->state_fd = state_fd;
    int fd = openat(state_fd, FILE_NAME, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd >= 0) {
        load_file(events, fd);
        end_cut_line(fd, events->file_bytes);
        close(fd);
    }
    int err = open_sink(events);
    if (err)
        journal_warn(journal, "events", FILE_NAME " cannot be written: %s; events are kept in memory alone",
                     strerror(-err));
    return events;
}

void events_close(struct events *events)
{
    if (events->sink)
        sink_close(events->sink);
    for (size_t i = 0; i < EVENTS_KEPT; i++)
        json_decref(events->kept[i]);
    free(events);
}

void events_listen(struct events *events, events_listener listener, void *arg)
{
    events->listener = listener;
    events->listener_arg = arg;
}

void events_tick(struct events *events)
{
    if (!events->sink)
        return;
    uint64_t lost = sink_take_dropped(events->sink);
    if (lost)
        journal_error(events->journal, "events", "%llu bytes of " FILE_NAME " could not be written",
                      (unsigned long long)lost);
    if (events->file_bytes < EVENTS_FILE_BYTES_MAX)
        return;
    events->file_bytes = 0;
    if (renameat(events->state_fd, FILE_NAME, events->state_fd, FILE_NAME_OLD))
        journal_warn(events->journal, "events", FILE_NAME " could not be rotated: %s", strerror(errno));
    sink_reopen(events->sink);
}

json_t *events_list(const struct events *events, uint64_t after, size_t limit)
{
    json_t *list = json_array();
    uint64_t from = events->seq > limit ? events->seq - limit : 0;
    CHECK(list);
    if (events->seq > EVENTS_KEPT && from < events->seq - EVENTS_KEPT)
        from = events->seq - EVENTS_KEPT;
    if (from < after)
        from = after;
    for (uint64_t seq = from + 1; seq <= events->seq; seq++) {
        json_t *event = events->kept[seq % EVENTS_KEPT];
        if (event && (uint64_t)json_integer_value(json_object_get(event, "seq")) == seq)
            json_array_append(list, event);
    }
    return list;
}
