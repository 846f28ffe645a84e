/* SPDX-License-Identifier: Apache-2.0 */
#include "control/notify_send.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "check.h"
#include "control/notify_envelope.h"

enum {
    BACKOFF_MS = 500, /* after the first failure; twice as long after each further one */
    BACKOFF_MAX_MS = 60000,
};

uint64_t notify_backoff_ms(unsigned failures)
{
    uint64_t ms = BACKOFF_MS, random;
    for (unsigned i = 1; i < failures && ms < BACKOFF_MAX_MS; i++)
        ms *= 2;
    ms = ms < BACKOFF_MAX_MS ? ms : BACKOFF_MAX_MS;
    return uv_random(NULL, NULL, &random, sizeof(random), 0, NULL) == 0 ? ms / 2 + random % (ms / 2 + 1) : ms;
}

bool notify_taken(long status, const char *why, char error[WEBHOOK_ERROR_MAX])
{
    error[0] = '\0';
    if (status >= 200 && status < 300)
        return true;
    if (status)
        snprintf(error, WEBHOOK_ERROR_MAX, "answered %ld", status);
    else
        snprintf(error, WEBHOOK_ERROR_MAX, "%s", why);
    return false;
}

void notify_send(struct webhooks *w, const struct endpoint *e, const json_t *envelope, webhook_done done,
                 void *arg)
{
    char *body = json_dumps(envelope, JSON_COMPACT);
    CHECK(body);
    struct webhook_request request = {.url = e->url,
                                      .content_type = NOTIFY_CONTENT_TYPE,
                                      .header = e->header,
                                      .headers_count = e->headers_count,
                                      .ca = e->ca,
                                      .body = body,
                                      .len = strlen(body)};
    webhook_post(w, &request, done, arg);
    free(body);
}
