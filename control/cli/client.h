/* SPDX-License-Identifier: Apache-2.0 */
/* The client's end of the control socket: one JSON text a line, a request at a time. */
#ifndef FL_CLI_CLIENT_H
#define FL_CLI_CLIENT_H

#include <stddef.h>
#include <jansson.h>

struct client;

enum { CLIENT_ERROR_MAX = 512, CLIENT_ANSWER_MS = 30000, CLIENT_LINE_MAX = 64 << 20 };

/* NULL, with one line in err that says what to do. */
struct client *client_open(const char *path, char err[CLIENT_ERROR_MAX]);
void client_close(struct client *client);

/* Takes params (NULL: none). Returns the result (a reference), or NULL with one line in err. */
json_t *client_call(struct client *client, const char *method, json_t *params, char err[CLIENT_ERROR_MAX]);

/* Waits for the next message of a stream, however long. Returns its params (a reference), or NULL with err.
 */
json_t *client_next(struct client *client, char err[CLIENT_ERROR_MAX]);

#endif
