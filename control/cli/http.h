/* SPDX-License-Identifier: Apache-2.0 */
/* What import and export ask of a registry, over libcurl: one request at a time, answers small or into a
 * file. */
#ifndef FL_CLI_HTTP_H
#define FL_CLI_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { HTTP_ERROR_MAX = 512, HTTP_TYPE_MAX = 256, HTTP_ANSWER_MAX = 16 << 20, HTTP_URL_MAX = 2048 };

struct http;

struct http_answer {
    long status;
    char type[HTTP_TYPE_MAX]; /* Content-Type */
    char *body;               /* ends with NUL; http_answer_free */
    size_t len;
};

/* Takes pieces of a body. False ends the request. */
typedef bool (*http_sink)(void *arg, const void *bytes, size_t len);

/* base: as in http://127.0.0.1:5000. NULL without memory. */
struct http *http_new(const char *base);
void http_free(struct http *http);

/*
 * GET or, with a body, PUT of a path; `type` is the body's Content-Type, or what a GET accepts (NULL:
 * anything). 0 when there is an answer, whatever its status; else -1 with one line in err. Answers beyond
 * HTTP_ANSWER_MAX are an error.
 */
int http_get(struct http *http, const char *path, const char *type, struct http_answer *out,
             char err[HTTP_ERROR_MAX]);
int http_put(struct http *http, const char *path, const char *type, const void *body, size_t len,
             struct http_answer *out, char err[HTTP_ERROR_MAX]);
/* GET whose body of status 200 goes to the sink; other answers as above. */
int http_fetch(struct http *http, const char *path, http_sink sink, void *arg, struct http_answer *out,
               char err[HTTP_ERROR_MAX]);
void http_answer_free(struct http_answer *answer);

/* The registry's words for what it refused, or its status. */
const char *http_why(const struct http_answer *answer, char out[HTTP_ERROR_MAX]);

#endif
