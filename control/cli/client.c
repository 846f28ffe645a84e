/* SPDX-License-Identifier: Apache-2.0 */
#include "control/cli/client.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "check.h"

struct client {
    int fd;
    int next_id;
    char *buffer; /* what was received and not used yet */
    size_t len, cap, used;
};

static void explain(const char *path, int error, char err[CLIENT_ERROR_MAX])
{
    if (error == ENOENT || error == ECONNREFUSED)
        snprintf(err, CLIENT_ERROR_MAX,
                 "no fairleadd answers at %s; start it (systemctl start fairlead), or give its socket with "
                 "--socket "
                 "PATH or FAIRLEAD_SOCKET",
                 path);
    else if (error == EACCES || error == EPERM)
        snprintf(err, CLIENT_ERROR_MAX, "permission denied at %s; become root or a member of group fairlead",
                 path);
    else
        snprintf(err, CLIENT_ERROR_MAX,
                 "cannot connect to %s: %s; give fairleadd's socket with --socket PATH", path,
                 strerror(error));
}

struct client *client_open(const char *path, char err[CLIENT_ERROR_MAX])
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(address.sun_path)) {
        explain(path, ENAMETOOLONG, err);
        return NULL;
    }
    memcpy(address.sun_path, path, strlen(path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (const struct sockaddr *)&address, sizeof(address))) {
        explain(path, errno, err);
        if (fd >= 0)
            close(fd);
        return NULL;
    }
    struct client *client = calloc(1, sizeof(*client));
    CHECK(client);
    client->fd = fd;
    return client;
}

void client_close(struct client *client)
{
    close(client->fd);
    free(client->buffer);
    free(client);
}

/* Room for more behind what is there. False: the line is too long. */
static bool make_room(struct client *client)
{
    enum { PIECE = 64 << 10 };
    if (client->used) {
        memmove(client->buffer, client->buffer + client->used, client->len - client->used);
        client->len -= client->used;
        client->used = 0;
    }
    if (client->cap - client->len >= PIECE)
        return true;
    if (client->cap >= CLIENT_LINE_MAX)
        return false;
    client->cap = client->cap ? 2 * client->cap : PIECE * 2;
    client->buffer = realloc(client->buffer, client->cap);
    CHECK(client->buffer);
    return true;
}

/* More bytes. 0 or -errno; -ENODATA: the daemon closed. */
static int receive(struct client *client, int timeout_ms)
{
    struct pollfd wait = {.fd = client->fd, .events = POLLIN};
    if (!make_room(client))
        return -EMSGSIZE;
    int ready = poll(&wait, 1, timeout_ms);
    if (ready == 0)
        return -ETIMEDOUT;
    ssize_t n = ready < 0 ? -1 : recv(client->fd, client->buffer + client->len, client->cap - client->len, 0);
    if (n < 0)
        return errno == EINTR ? 0 : -errno;
    client->len += (size_t)n;
    return n ? 0 : -ENODATA;
}

/* The next message, or NULL. */
static json_t *read_message(struct client *client, int timeout_ms, char err[CLIENT_ERROR_MAX])
{
    for (;;) {
        char *line = client->buffer + client->used;
        char *end = client->len > client->used ? memchr(line, '\n', client->len - client->used) : NULL;
        if (end) {
            client->used += (size_t)(end - line) + 1;
            json_t *message = json_loadb(line, (size_t)(end - line), 0, NULL);
            if (!message)
                snprintf(err, CLIENT_ERROR_MAX,
                         "fairleadd answered something that is not JSON; is it of another version?");
            return message;
        }
        int result = receive(client, timeout_ms);
        if (result == 0)
            continue;
        if (result == -ENODATA || result == -ECONNRESET)
            snprintf(err, CLIENT_ERROR_MAX, "fairleadd closed the connection; is it stopping? Try again");
        else
            snprintf(err, CLIENT_ERROR_MAX, "no answer from fairleadd: %s; look at its error log",
                     strerror(-result));
        return NULL;
    }
}

static int send_request(struct client *client, const char *method, json_t *params)
{
    json_t *request = json_pack("{s:s, s:i, s:s, s:o}", "jsonrpc", "2.0", "id", ++client->next_id, "method",
                                method, "params", params ? params : json_object());
    char *text = json_dumps(request, JSON_COMPACT);
    CHECK(text);
    size_t len = strlen(text), done = 0;
    text[len++] = '\n';
    ssize_t n = 0;
    while (done < len && (n = send(client->fd, text + done, len - done, MSG_NOSIGNAL)) > 0)
        done += (size_t)n;
    free(text);
    json_decref(request);
    /* A daemon that refuses has answered and closed: its answer is still to be read. */
    return n < 0 && errno != EPIPE && errno != ECONNRESET ? -errno : 0;
}

static void explain_error(const json_t *error, char err[CLIENT_ERROR_MAX])
{
    const char *message = json_string_value(json_object_get(error, "message"));
    const char *hint = json_string_value(json_object_get(json_object_get(error, "data"), "hint"));
    snprintf(err, CLIENT_ERROR_MAX, "%s%s%s", message ? message : "refused", hint && *hint ? "; " : "",
             hint ? hint : "");
}

json_t *client_call(struct client *client, const char *method, json_t *params, char err[CLIENT_ERROR_MAX])
{
    int result = send_request(client, method, params);
    if (result) {
        snprintf(err, CLIENT_ERROR_MAX, "cannot ask fairleadd: %s; try again", strerror(-result));
        return NULL;
    }
    for (;;) {
        json_t *message = read_message(client, CLIENT_ANSWER_MS, err);
        json_t *answer = message ? json_incref(json_object_get(message, "result")) : NULL;
        const json_t *error = json_object_get(message, "error");
        if (error)
            explain_error(error, err);
        bool ours = !message || answer || error;
        json_decref(message);
        if (ours)
            return answer;
    }
}

json_t *client_next(struct client *client, char err[CLIENT_ERROR_MAX])
{
    json_t *message = read_message(client, -1, err);
    json_t *params = json_incref(json_object_get(message, "params"));
    if (message && !params)
        snprintf(err, CLIENT_ERROR_MAX, "fairleadd sent something unexpected; is it of another version?");
    json_decref(message);
    return params;
}
