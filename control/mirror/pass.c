/* SPDX-License-Identifier: Apache-2.0 */
#include "control/mirror/pass.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "check.h"

enum { RESUMES_MAX = 8 }; /* of the source, before all of it is tried anew */

static uint64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* --- the source --- */

static enum side_flow on_bytes(void *arg, const void *data, size_t len)
{
    struct pass *p = arg;
    const uint8_t *bytes = data;
    if (p->at < 0)
        p->at = p->got.status == 206 && p->got.part_from >= 0 ? p->got.part_from : 0;
    p->wrong = p->at > p->pipe->in;
    size_t known = (uint64_t)(p->pipe->in - p->at) < len ? (size_t)(p->pipe->in - p->at) : len;
    int rc = p->wrong ? -EBADMSG : pipe_put(p->pipe, bytes + known, len - known);
    if (rc == -EAGAIN)
        return SIDE_WAIT;
    p->wrong = rc != 0;
    p->at += (int64_t)len;
    return rc ? SIDE_STOP : SIDE_TAKEN;
}

/* Asks for what is missing. 0: it comes, or has come. */
static int source_begin(struct pass *p, char err[SIDE_ERROR_MAX])
{
    p->at = -1;
    p->get.from = p->pipe->in;
    p->getting = (struct exchange){.side = p->from, .request = &p->get, .out = &p->got};
    int rc = side_begin(&p->getting, err);
    if (p->wrong)
        return -EBADMSG;
    if (rc == 0 && p->got.status == 200 && p->got.length >= 0 && p->got.length != p->pipe->size)
        return -EBADMSG;
    p->silent = rc == -EIO && p->got.status == 0;
    p->wait_s = p->got.retry_after_s > 0 ? p->got.retry_after_s : 0;
    if (rc == -EIO && p->getting.begun)
        return 0; /* and has broken off again: source_look */
    if (rc == 0 && p->got.status != 200 && p->got.status != 206)
        rc = side_refused(p->from, &p->got, "a blob is fetched", err);
    return rc == -EIO ? -EAGAIN : rc;
}

/* It broke off: the rest, after a while in which the other side may go on. */
static int source_resume(struct pass *p, char err[SIDE_ERROR_MAX])
{
    if (p->pipe->in - p->resumed_at >= PIPE_BYTES)
        p->resumed = 0; /* something cuts it again and again, and it comes all the same */
    p->resumed_at = p->pipe->in;
    if (p->resumed == RESUMES_MAX) {
        if (!*err)
            snprintf(err, SIDE_ERROR_MAX, "%s: a blob breaks off again and again", p->from->config->name);
        return -EAGAIN;
    }
    uint64_t end = now_ms() + ((uint64_t)p->resume_ms << p->resumed++);
    while (now_ms() < end && !p->putting.ended)
        carrier_turn(p->to->carrier, (int)p->resume_ms);
    int rc = p->putting.ended ? 0 : source_begin(p, err);
    /* It may be on its way up: source_look asks again. */
    return rc == -EAGAIN && p->resumed < RESUMES_MAX ? 0 : rc;
}

/* What has become of it. */
static int source_look(struct pass *p, char err[SIDE_ERROR_MAX])
{
    if (p->pipe->right || exchange_refused(&p->putting))
        return 0;
    if (p->getting.active && !p->getting.ended)
        return 0;
    int rc = p->getting.active ? exchange_end(&p->getting, err) : 0;
    if (p->wrong)
        return -EBADMSG;
    if (rc == -EFBIG)
        return -EPERM;
    return source_resume(p, err);
}

/* --- the destination --- */

static ssize_t on_wanted(void *arg, void *out, size_t room)
{
    struct pass *p = arg;
    if (p->pipe->out == p->pipe->size)
        return -1; /* something went that did not arrive: libcurl took another connection */
    return (ssize_t)pipe_take(p->pipe, out, room);
}

/* Counts, and looks whether it stalls. Nobody blames it for what it is not given. */
static int destination_look(struct pass *p, char err[SIDE_ERROR_MAX])
{
    int64_t sent = exchange_sent(&p->putting), least = p->stall_ms * SIDE_SLOW_BYTES / 1000;
    uint64_t now = now_ms();
    bool all = sent == p->pipe->size;
    if (sent > p->sent)
        p->moved(p->arg, (size_t)(sent - p->sent));
    if (p->putting.waits || sent - p->looked_sent >= least || (all && sent > p->sent)) {
        p->looked_sent = sent;
        p->looked_ms = now;
    }
    p->sent = sent;
    if (p->putting.ended || now - p->looked_ms < (uint64_t)(all ? p->answer_ms : p->stall_ms))
        return 0;
    snprintf(err, SIDE_ERROR_MAX, "%s: %s", p->to->config->name,
             all ? "no answer to a blob that it has got" : "it does not take a blob any more");
    p->silent = true;
    p->lost = all;
    return -EAGAIN;
}

/* Its answer, which may have come before all of the blob was there. */
static int destination_end(struct pass *p, char err[SIDE_ERROR_MAX])
{
    char ignored[SIDE_ERROR_MAX];
    const struct side_answer *a = &p->answer;
    bool all = p->pipe->out == p->pipe->size;
    int rc = exchange_end(&p->putting, err);
    if (rc) {
        p->silent = a->status == 0;
        p->lost = p->silent && all;
        return rc == -EFBIG ? -EPERM : -EAGAIN;
    }
    if (all && (a->status == 201 || a->status == 204))
        return 0;
    p->wait_s = a->retry_after_s > 0 ? a->retry_after_s : 0;
    rc = side_refused(p->to, a, all ? "a blob is sent" : "it did not want all of a blob", err);
    if (a->status == 401 && side_authorize(&p->putting, ignored) == 0)
        return -EAGAIN;
    /* An answer that makes no sense now, or an upload that it does not know any more: anew. */
    return rc == -EIO || a->status < 300 || a->status == 404 || a->status == 416 ? -EAGAIN : rc;
}

/* --- both --- */

/* A body that is not wanted any more: libcurl gives the answer when the body does not wait; if it asks for
 * more of it then, what has come of the answer has to do. */
static void refusal_take(struct pass *p)
{
    if (p->refused)
        exchange_cut(&p->putting);
    else
        exchange_resume(&p->putting);
    p->refused = true;
}

/* Lets go on who can. */
static void flow(struct pass *p)
{
    if (p->getting.active && !p->getting.ended && p->getting.waits && pipe_room(p->pipe) >= PIPE_BYTES / 2)
        exchange_resume(&p->getting);
    if (p->putting.ended || !p->putting.waits)
        return;
    if (exchange_refused(&p->putting))
        refusal_take(p);
    else if (pipe_ready(p->pipe))
        exchange_resume(&p->putting);
}

static int both_run(struct pass *p, char err[SIDE_ERROR_MAX])
{
    int rc = 0;
    p->putting = (struct exchange){.side = p->to, .request = &p->put, .out = &p->answer};
    side_send(&p->putting);
    p->looked_ms = now_ms();
    while (rc == 0 && !p->putting.ended) {
        carrier_turn(p->to->carrier, CARRIER_TURN_MS);
        rc = destination_look(p, err);
        if (rc == 0)
            rc = source_look(p, err);
        if (rc == 0)
            flow(p);
    }
    return rc ? rc : destination_end(p, err);
}

int pass_run(struct pass *p, char err[SIDE_ERROR_MAX])
{
    p->get = (struct side_request){
        .method = "GET", .path = p->get.path, .repo = p->get.repo, .sink = on_bytes, .arg = p};
    p->put = (struct side_request){.method = "PUT",
                                   .path = p->put.path,
                                   .repo = p->put.repo,
                                   .write = true,
                                   .pour = on_wanted,
                                   .size = p->pipe->size,
                                   .arg = p};
    int rc = p->pipe->right ? 0 : source_begin(p, err);
    if (rc == 0)
        rc = both_run(p, err);
    exchange_stop(&p->getting);
    exchange_stop(&p->putting);
    side_answer_free(&p->got);
    side_answer_free(&p->answer);
    return rc;
}
