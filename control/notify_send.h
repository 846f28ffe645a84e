/* SPDX-License-Identifier: Apache-2.0 */
/* How webhooks are spoken to, whatever they are told of. */
#ifndef FL_CONTROL_NOTIFY_SEND_H
#define FL_CONTROL_NOTIFY_SEND_H

#include <jansson.h>

#include "control/credentials.h"
#include "control/state/notice.h"
#include "control/webhook.h"

enum { NOTIFY_BATCH = 64 /* events in a request */ };

/* This node's credentials of a name. False, and why. */
struct notify_secrets {
    bool (*find)(void *arg, const char *name, struct credentials *out, char *why, size_t why_len);
    void *arg;
};

/* POSTs an envelope. */
void notify_send(struct webhooks *w, const struct endpoint *e, const struct notify_secrets *secrets,
                 const json_t *envelope, webhook_done done, void *arg);

/* How long to wait after so many failures in a row, the last one included; half of it is chance, so that
 * endpoints that failed together are not asked together. */
uint64_t notify_backoff_ms(unsigned failures);

/* Whether it was taken; else why not, in `error`. */
bool notify_taken(long status, const char *why, char error[WEBHOOK_ERROR_MAX]);

#endif
