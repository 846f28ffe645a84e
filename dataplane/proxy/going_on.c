/* SPDX-License-Identifier: Apache-2.0 */
/* The exchange's side of a body that goes on from another backend (resume.h). */
#include "check.h"
#include "dataplane/ring.h"
#include "dataplane/proxy/exchange.h"

static struct exchange *exchange_of(struct resume *r)
{
    return container_of(r, struct exchange, resume);
}

static ssize_t write_request(struct resume *r, const struct target *t, struct view range,
                             struct view if_range, char *buf, size_t cap)
{
    return exchange_request_rest(exchange_of(r), t, range, if_range, buf, cap);
}

static bool tell_client(struct resume *r, struct proxy_header *out)
{
    struct exchange *ex = exchange_of(r);
    if (!ex->p.proxy_protocol)
        return false;
    stream_addresses(ex->s, out);
    return true;
}

static void joined(struct resume *r, struct target *t, struct upstream *u, bool keep)
{
    struct exchange *ex = exchange_of(r);
    attempt_adopt(&ex->attempt, t, u);
    ex->attempts++;
    ex->keep = keep;
    ex->outcome = BALANCE_GOOD;
    ex->resuming = false;
    standing_enter(ex);
}

static void lost(struct resume *r, enum close_reason why)
{
    struct exchange *ex = exchange_of(r);
    ex->resuming = false;
    exchange_done(ex, false, ex->aborted ? CLOSE_CLIENT_ABORT : why);
}

static const struct resume_owner owner = {write_request, tell_client, joined, lost};

void exchange_resume_begin(struct exchange *ex)
{
    const struct plan_service *service = exchange_service(ex);
    ex->resume = (struct resume){.owner = &owner,
                                 .ring = ex->ring,
                                 .balance = ex->proxy->balance,
                                 .asks = ex->proxy->asks,
                                 .pump = &ex->response,
                                 .target = ex->attempt.target,
                                 .service_index = ex->service_index,
                                 .key = exchange_key(ex)};
    if (!service || ex->body)
        return;
    ex->resume.incarnation = service->incarnation;
    resume_begin(&ex->resume, &ex->s->req, &ex->attempt.answer);
}

bool exchange_goes_on(struct exchange *ex, enum pump_end end, int err, enum close_reason *why)
{
    struct attempt *a = &ex->attempt;
    *why = CLOSE_BACKEND_CUT;
    if (ex->aborted || ex->finished || ex->halted == CLOSE_NO_STREAM /* no fault of the backend's */)
        return false;
    if (ex->follower && follower_spoilt(ex->follower)) {
        *why = CLOSE_DIGEST_MISMATCH;
        return false;
    }
    if (ex->follower)
        coalesce_leave(ex->follower);
    ex->follower = NULL;
    attempt_end(a, false, BALANCE_FAILED);
    if (!attempt_quiet(a)) /* still sending its question: nothing to build on */
        return false;
    ex->resuming = resume_stopped(&ex->resume, end, err, why);
    return ex->resuming;
}
