/* SPDX-License-Identifier: Apache-2.0 */
#include "control/socket/server.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <uv.h>

#include "check.h"
#include "control/daemon.h"
#include "control/events.h"
#include "control/socket/access.h"
#include "control/socket/figures.h"
#include "control/socket/methods.h"

enum { APPLY_WAIT_S = 5, FILTER_MAX = 128, BACKLOG = 512 };

struct client {
    struct rpc_peer peer; /* first: a peer is its client */
    struct server *server;
    struct client *next;
    uv_pipe_t pipe;
    char *line;      /* filled up to line_len */
    size_t line_cap; /* RPC_LINE_BYTES_FIRST, and up to RPC_LINE_BYTES_MAX while a long line is here */
    size_t line_len;
    size_t calls;                 /* not answered yet */
    size_t queued_bytes;          /* in the pipe's write queue */
    uint64_t taken, taken_before; /* writes that ended, to see a stall */
    unsigned stalled_s;
    enum server_stream stream;
    char filter[FILTER_MAX];
    uint64_t lost; /* records of the stream that did not fit */
    uv_shutdown_t shutdown;
    unsigned refused_s; /* since it was refused */
    bool refused, paused, finished, closing, closed;
};

/* An answer that waits for a plan. */
struct waiting {
    struct waiting *next;
    struct rpc_call *call;
    json_t *result;
    uint64_t generation;
    unsigned seconds_left;
};

struct server {
    struct daemon *daemon;
    uv_pipe_t listener;
    struct client *clients;
    size_t client_count;
    struct waiting *waiting;
    struct figures *figures;
    uint64_t plan_applied;
    bool closing, listener_closed;
};

struct write {
    uv_write_t request;
    struct client *client;
    size_t len;
    char data[];
};

static void client_read(struct client *client);
static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf);
static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf);

static void server_free_if_done(struct server *server)
{
    if (!server->closing || !server->listener_closed || server->clients)
        return;
    figures_close(server->figures);
    free(server);
}

static void client_free_if_done(struct client *client)
{
    struct server *server = client->server;
    if (!client->closed || client->calls)
        return;
    struct client **at = &server->clients;
    while (*at != client)
        at = &(*at)->next;
    *at = client->next;
    server->client_count--;
    free(client->line);
    free(client);
    server_free_if_done(server);
}

static void on_client_closed(uv_handle_t *handle)
{
    struct client *client = handle->data;
    client->closed = true;
    client_free_if_done(client);
}

/* Turns the data plane's tracing on or off as there are listeners or none. */
static void update_trace(struct server *server)
{
    bool on = false;
    for (const struct client *c = server->clients; c; c = c->next)
        on |= c->stream == STREAM_TRACE && !c->closing;
    atomic_store(&server->daemon->memory.log->trace_on, on);
}

static void client_close(struct client *client)
{
    if (client->closing)
        return;
    client->closing = true;
    update_trace(client->server);
    uv_close((uv_handle_t *)&client->pipe, on_client_closed);
}

/* Reading goes on when there is room for answers again; who has sent everything is closed after the last. */
static void client_settle(struct client *client)
{
    if (client->closing || client->refused)
        return;
    if (client->finished && client->calls == 0 && client->queued_bytes == 0 &&
        client->stream == STREAM_NONE) {
        client_close(client);
        return;
    }
    if (client->paused && client->calls < SERVER_CALLS_MAX && client->queued_bytes < SERVER_QUEUE_BYTES_MAX) {
        client->paused = false;
        client_read(client);
    }
}

static void on_written(uv_write_t *request, int status)
{
    struct write *write = container_of(request, struct write, request);
    struct client *client = write->client;
    client->queued_bytes -= write->len;
    client->taken++;
    free(write);
    if (status < 0)
        client_close(client);
    client_settle(client);
}

static void client_send(struct client *client, const json_t *message)
{
    if (client->closing)
        return;
    size_t len = json_dumpb(message, NULL, 0, JSON_COMPACT);
    struct write *write = malloc(sizeof(*write) + len + 1);
    CHECK(write && len);
    json_dumpb(message, write->data, len, JSON_COMPACT);
    write->data[len] = '\n';
    write->client = client;
    write->len = len + 1;
    uv_buf_t buf = uv_buf_init(write->data, (unsigned)write->len);
    if (uv_write(&write->request, (uv_stream_t *)&client->pipe, &buf, 1, on_written)) {
        free(write);
        client_close(client);
        return;
    }
    client->queued_bytes += write->len;
}

static void on_call_begin(struct rpc_peer *peer, struct rpc_call *call)
{
    (void)call;
    ((struct client *)peer)->calls++;
}

static void on_call_end(struct rpc_peer *peer, struct rpc_call *call, const json_t *message)
{
    struct client *client = (struct client *)peer;
    (void)call;
    client->calls--;
    if (message)
        client_send(client, message);
    if (client->closed)
        client_free_if_done(client);
    else
        client_settle(client);
}

/*
 * Sends an error and nothing more. The connection stays for a moment, and what comes is dropped: a client
 * that is still sending must be able to read why. There is an end to this courtesy when too many ask for it.
 */
static void client_refuse(struct client *client, enum rpc_code code, const char *hint, const char *text)
{
    json_t *message = rpc_error(code, hint, text);
    client_send(client, message);
    json_decref(message);
    if (client->server->client_count > 2 * SERVER_CLIENTS_MAX ||
        uv_shutdown(&client->shutdown, (uv_stream_t *)&client->pipe, NULL)) {
        client_close(client);
        return;
    }
    client->refused = true;
    client->line_len = 0;
    uv_read_start((uv_stream_t *)&client->pipe, on_alloc, on_read);
}

static bool client_is_full(const struct client *client)
{
    return client->calls >= SERVER_CALLS_MAX || client->queued_bytes >= SERVER_QUEUE_BYTES_MAX;
}

static void line_resize(struct client *client, size_t cap)
{
    client->line = realloc(client->line, cap);
    CHECK(client->line);
    client->line_cap = cap;
}

/* False: it is as long as it may be. */
static bool line_grow(struct client *client)
{
    if (client->line_cap >= RPC_LINE_BYTES_MAX)
        return false;
    size_t cap = 2 * client->line_cap;
    line_resize(client, cap < RPC_LINE_BYTES_MAX ? cap : RPC_LINE_BYTES_MAX);
    return true;
}

/* Answers the whole lines that are here, as far as there is room. */
static void client_lines(struct client *client)
{
    size_t used = 0;
    while (!client->closing && !client->finished && !client->refused && !client_is_full(client)) {
        char *line = client->line + used;
        char *end = memchr(line, '\n', client->line_len - used);
        if (!end)
            break;
        used += (size_t)(end - line) + 1;
        if (end > line)
            rpc_line(&client->peer, line, (size_t)(end - line), methods, methods_count,
                     client->server->daemon);
    }
    memmove(client->line, client->line + used, client->line_len - used);
    client->line_len -= used;
    if (client->line_len == client->line_cap && !memchr(client->line, '\n', client->line_len) &&
        !line_grow(client))
        client_refuse(client, RPC_INVALID_REQUEST, "send shorter requests, each ended by a line feed",
                      "the line is too long");
    else if (client->line_cap > RPC_LINE_BYTES_FIRST && client->line_len < RPC_LINE_BYTES_FIRST)
        line_resize(client, RPC_LINE_BYTES_FIRST);
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    struct client *client = handle->data;
    (void)suggested;
    *buf = uv_buf_init(client->line + client->line_len, (unsigned)(client->line_cap - client->line_len));
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct client *client = stream->data;
    (void)buf;
    if (n == UV_EOF && client->stream == STREAM_NONE && !client->refused) {
        client->finished = true;
        uv_read_stop(stream);
        client_settle(client);
        return;
    }
    if (n < 0) {
        client_close(client);
        return;
    }
    if (client->refused)
        return;
    client->line_len += (size_t)n;
    client_read(client);
}

/* Handles what is here and reads on, or pauses. */
static void client_read(struct client *client)
{
    client_lines(client);
    if (client->closing || client->finished || client->refused)
        return;
    client->paused = client_is_full(client);
    if (client->paused)
        uv_read_stop((uv_stream_t *)&client->pipe);
    else
        uv_read_start((uv_stream_t *)&client->pipe, on_alloc, on_read);
}

static struct client *client_new(struct server *server)
{
    struct client *client = calloc(1, sizeof(*client));
    CHECK(client);
    client->server = server;
    client->peer.begin = on_call_begin;
    client->peer.end = on_call_end;
    line_resize(client, RPC_LINE_BYTES_FIRST);
    client->next = server->clients;
    server->clients = client;
    server->client_count++;
    uv_pipe_init(&server->daemon->loop, &client->pipe, 0);
    client->pipe.data = client;
    return client;
}

static void identify(struct daemon *d, int fd, struct rpc_peer *peer)
{
    struct supervise_status status = {0};
    if (d->supervise)
        supervise_status(d->supervise, &status);
    struct access_rules rules = {d->config.control_group, d->user.change ? &d->user : NULL, status.pid};
    access_identify(fd, &rules, peer);
}

static void on_connection(uv_stream_t *listener, int status)
{
    struct server *server = listener->data;
    int fd;
    if (status < 0)
        return;
    struct client *client = client_new(server);
    if (uv_accept(listener, (uv_stream_t *)&client->pipe) || uv_fileno((uv_handle_t *)&client->pipe, &fd)) {
        client_close(client);
        return;
    }
    identify(server->daemon, fd, &client->peer);
    if (client->peer.role == RPC_NOBODY) {
        char text[192];
        snprintf(
            text, sizeof(text),
            "permission denied: %s is neither root nor a member of group %s, or it is the data plane's user",
            client->peer.actor, server->daemon->config.control_group);
        client_refuse(client, RPC_DENIED, "ask an administrator of this machine", text);
    } else if (server->client_count > SERVER_CLIENTS_MAX) {
        client_refuse(client, RPC_BUSY, "close other clients of the control socket, or try again",
                      "there are too many clients");
    } else {
        client_read(client);
    }
}

/* A stream's record: dropped for a client that is behind, and told with the next that it gets. */
static void client_stream(struct client *client, const char *method, const json_t *record)
{
    if (client->queued_bytes >= SERVER_QUEUE_BYTES_MAX) {
        client->lost++;
        return;
    }
    json_t *params = json_deep_copy(record);
    if (client->lost)
        json_object_set_new(params, "lost", json_integer((json_int_t)client->lost));
    client->lost = 0;
    json_t *message = rpc_notification(method, params);
    client_send(client, message);
    json_decref(message);
}

static void on_event(void *arg, const json_t *event)
{
    struct server *server = arg;
    char *text = NULL;
    for (struct client *c = server->clients; c; c = c->next) {
        if (c->stream != STREAM_EVENTS || c->closing)
            continue;
        if (c->filter[0] && !text)
            text = json_dumps(event, JSON_COMPACT);
        if (!c->filter[0] || strstr(text, c->filter))
            client_stream(c, "event", event);
    }
    free(text);
}

void server_trace_line(struct server *server, const char *line, size_t len)
{
    json_t *record = json_loadb(line, len, JSON_REJECT_DUPLICATES, NULL);
    for (struct client *c = server->clients; c && json_is_object(record); c = c->next)
        if (c->stream == STREAM_TRACE && !c->closing &&
            (!c->filter[0] || memmem(line, len, c->filter, strlen(c->filter))))
            client_stream(c, "trace", record);
    json_decref(record);
}

void server_follow(struct server *server, struct rpc_call *call, enum server_stream stream,
                   const char *filter)
{
    struct client *client = (struct client *)call->peer;
    client->stream = stream;
    snprintf(client->filter, sizeof(client->filter), "%s", filter);
    update_trace(server);
}

static void waiting_reply(struct waiting *w, bool applied)
{
    json_object_set_new(w->result, "applied", json_boolean(applied));
    rpc_reply(w->call, w->result);
    free(w);
}

/* Answers those that the predicate's generation or time lets go. */
static void release_waiting(struct server *server, bool second)
{
    for (struct waiting **at = &server->waiting; *at;) {
        struct waiting *w = *at;
        bool applied = w->generation <= server->plan_applied;
        if (second && w->seconds_left)
            w->seconds_left--;
        if (!applied && w->seconds_left) {
            at = &w->next;
            continue;
        }
        *at = w->next;
        waiting_reply(w, applied);
    }
}

void server_reply_applied(struct server *server, struct rpc_call *call, json_t *result, uint64_t generation)
{
    struct waiting *w = calloc(1, sizeof(*w));
    CHECK(w);
    *w = (struct waiting){.next = server->waiting,
                          .call = call,
                          .result = result,
                          .generation = generation,
                          .seconds_left = APPLY_WAIT_S};
    server->waiting = w;
    release_waiting(server, false);
}

void server_plan_applied(struct server *server, uint64_t generation)
{
    server->plan_applied = generation;
    release_waiting(server, false);
}

void server_tick(struct server *server)
{
    figures_sample(server->figures);
    release_waiting(server, true);
    for (struct client *c = server->clients; c; c = c->next) {
        bool stalled = c->queued_bytes && c->taken == c->taken_before;
        c->taken_before = c->taken;
        c->stalled_s = stalled ? c->stalled_s + 1 : 0;
        c->refused_s += c->refused;
        if (c->stalled_s > SERVER_STALL_S || c->refused_s > SERVER_REFUSED_S)
            client_close(c);
    }
}

size_t server_client_count(const struct server *server)
{
    return server->client_count;
}

struct figures *server_figures(struct server *server)
{
    return server->figures;
}

/* A socket that a killed daemon left behind is removed; one that answers is not ours to take. */
static int clear_path(const char *path, char *err, size_t err_len)
{
    struct stat st;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (lstat(path, &st))
        return errno == ENOENT ? 0 : -errno;
    if (!S_ISSOCK(st.st_mode)) {
        snprintf(err, err_len, "%s is in the way: it is no socket; remove it or set control.socket", path);
        return -EEXIST;
    }
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    int result = connect(fd, (const struct sockaddr *)&address, sizeof(address)) ? -errno : 0;
    close(fd);
    if (result == 0 || result == -EAGAIN) {
        snprintf(err, err_len, "another fairleadd answers at %s; stop it or set control.socket", path);
        return -EADDRINUSE;
    }
    return unlink(path) ? -errno : 0;
}

static int listen_at(struct server *server, const char *path, char *err, size_t err_len)
{
    int result = clear_path(path, err, err_len);
    if (result)
        return result;
    mode_t old = umask(0177);
    result = uv_pipe_bind(&server->listener, path);
    umask(old);
    if (!result)
        result = access_protect(path, server->daemon->config.control_group, server->daemon->journal);
    if (!result)
        result = uv_listen((uv_stream_t *)&server->listener, BACKLOG, on_connection);
    return result;
}

static void on_listener_closed(uv_handle_t *handle)
{
    struct server *server = handle->data;
    server->listener_closed = true;
    server_free_if_done(server);
}

int server_open(struct daemon *d, struct server **out, char *err, size_t err_len)
{
    struct server *server = calloc(1, sizeof(*server));
    CHECK(server);
    server->daemon = d;
    server->figures = figures_open(&d->memory);
    uv_pipe_init(&d->loop, &server->listener, 0);
    server->listener.data = server;
    err[0] = '\0';
    int result = listen_at(server, d->config.control_socket, err, err_len);
    if (result) {
        if (!err[0])
            snprintf(err, err_len,
                     "cannot open the control socket %s: %s; make its folder or set control.socket",
                     d->config.control_socket, strerror(-result));
        server_close(server);
        return result;
    }
    events_listen(d->events, on_event, server);
    *out = server;
    return 0;
}

void server_close(struct server *server)
{
    server->closing = true;
    events_listen(server->daemon->events, NULL, NULL);
    while (server->waiting) {
        struct waiting *w = server->waiting;
        server->waiting = w->next;
        waiting_reply(w, false);
    }
    for (struct client *c = server->clients; c; c = c->next)
        client_close(c);
    uv_close((uv_handle_t *)&server->listener, on_listener_closed);
}
