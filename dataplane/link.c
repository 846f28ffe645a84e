/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The channel of one ring. Frames go out in the order of the calls, through one buffer that is reserved at
 * start (a manifest's command can be large) and backed by memory as it is used; results come in small frames.
 * What control sends is checked like any input: a frame that makes no sense ends the channel.
 */
#include "dataplane/link.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "msg.h"
#include "dataplane/loop.h"

enum {
    PROPOSALS_BYTES = FRAME_BYTES_MAX + (8 << 20),
    OUT_BYTES = PROPOSALS_BYTES + (1 << 20), /* the rest is for answers to jobs: small, and few at a time */
    OUT_KEPT_BYTES = 1 << 20,                /* memory beyond it goes back when the buffer is empty */
    IN_BYTES = 64 << 10,
    RESULT_MAX = sizeof(struct frame_result) + sizeof(((struct proposal *)0)->detail),
    PASS_MAX = sizeof(struct frame_pass) + PASS_BYTES_MAX,
    BODY_MAX = (int)RESULT_MAX > (int)PASS_MAX ? (int)RESULT_MAX : (int)PASS_MAX,
};

struct channel {
    struct loop *loop;
    int fd;
    bool connected;
    _Atomic int offered_fd; /* -1: none */
    struct op in, out;
    struct channel_jobs jobs;
    unsigned jobs_underway;
    uint64_t next_id;
    struct proposal *first, **last; /* oldest first: results mostly come in that order */
    struct channel_query *queries;  /* few at a time */
    uint8_t *out_buf;
    size_t out_at, out_len; /* [out_at, out_len) is to be sent; the front of it may be with the loop */
    size_t in_len;
    uint8_t in_buf[IN_BYTES];
};

static void in_done(struct op *op, const struct event *ev);
static void out_done(struct op *op, const struct event *ev);

int channel_new(struct loop *loop, int fd, struct channel **out)
{
    struct channel *c = calloc(1, sizeof(*c));
    if (!c)
        return -ENOMEM;
    c->out_buf =
        mmap(NULL, OUT_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (c->out_buf == MAP_FAILED) {
        free(c);
        return -ENOMEM;
    }
    c->loop = loop;
    c->fd = fd;
    c->connected = true;
    c->offered_fd = -1;
    c->in.done = in_done;
    c->out.done = out_done;
    c->last = &c->first;
    *out = c;
    return 0;
}

void channel_free(struct channel *c)
{
    int offered = atomic_exchange(&c->offered_fd, -1);
    if (offered >= 0)
        close(offered);
    munmap(c->out_buf, OUT_BYTES);
    close(c->fd);
    free(c);
}

bool channel_connected(const struct channel *c)
{
    return c->connected;
}

static void receive(struct channel *c)
{
    loop_recv_into(c->loop, &c->in, c->fd, c->in_buf + c->in_len, IN_BYTES - c->in_len, 0);
}

void channel_start(struct channel *c)
{
    receive(c);
}

/* ------------------------------------------------------------------ proposals */

static void proposal_leave(struct channel *c, struct proposal *p)
{
    *p->prev = p->next;
    if (p->next)
        p->next->prev = p->prev;
    else
        c->last = p->prev;
}

static void proposal_end(struct channel *c, struct proposal *p, int status)
{
    proposal_leave(c, p);
    p->waiter.wake(&p->waiter, status);
}

static void query_end(struct channel_query *q, int err, const uint8_t *body, size_t len)
{
    *q->prev = q->next;
    if (q->next)
        q->next->prev = q->prev;
    q->answered(q, err, body, len);
}

static void disconnect(struct channel *c)
{
    if (!c->connected)
        return;
    c->connected = false;
    loop_cancel(c->loop, &c->in);
    loop_cancel(c->loop, &c->out);
    while (c->first)
        proposal_end(c, c->first, CMD_UNKNOWN_OUTCOME);
    while (c->queries)
        query_end(c->queries, -ENOTCONN, NULL, 0);
    c->jobs_underway = 0;
    if (c->jobs.lost)
        c->jobs.lost(c->jobs.arg);
}

void channel_offer(struct channel *c, int fd)
{
    int before = atomic_exchange(&c->offered_fd, fd);
    if (before >= 0) /* of a control that died before it was taken */
        close(before);
}

bool channel_offered(const struct channel *c)
{
    return atomic_load(&c->offered_fd) >= 0;
}

/* The kernel must have given up the old socket's buffers first. */
static void take_offered(struct channel *c)
{
    if (atomic_load(&c->offered_fd) < 0)
        return;
    disconnect(c);
    if (c->in.inflight || c->out.inflight)
        return;
    close(c->fd);
    c->fd = atomic_exchange(&c->offered_fd, -1);
    c->in_len = c->out_at = c->out_len = 0;
    c->connected = true;
    receive(c);
}

void channel_tick(struct channel *c, uint64_t now_ms)
{
    take_offered(c);
    /* Deadlines are one setting apart from the call, so the oldest is due first (or a little later, if it was
     * changed). */
    while (c->first && c->first->deadline_ms <= now_ms) {
        c->first->detail_len = 0;
        proposal_end(c, c->first, CMD_UNKNOWN_OUTCOME);
    }
    for (struct channel_query *q = c->queries, *next; q; q = next) {
        next = q->next;
        if (q->deadline_ms <= now_ms)
            query_end(q, -ETIMEDOUT, NULL, 0);
    }
}

static void send_more(struct channel *c)
{
    if (!c->out.inflight && c->connected && c->out_at < c->out_len)
        loop_send(c->loop, &c->out, c->fd, c->out_buf + c->out_at, c->out_len - c->out_at, 0);
}

/* There is room. */
static void put(struct channel *c, const struct frame_head *head, const void *body)
{
    memcpy(c->out_buf + c->out_len, head, sizeof(*head));
    memcpy(c->out_buf + c->out_len + sizeof(*head), body, head->bytes);
    c->out_len += sizeof(*head) + head->bytes;
}

int channel_propose(struct channel *c, struct proposal *p, const void *cmd, size_t len)
{
    struct frame_head head = {
        .bytes = (uint32_t)len, .type = FRAME_PROPOSE, .version = LINK_VERSION, .id = ++c->next_id};
    if (!c->connected)
        return -ENOTCONN;
    if (len > COMMAND_BYTES_MAX)
        return -EMSGSIZE;
    if (c->out_len > PROPOSALS_BYTES || sizeof(head) + len > PROPOSALS_BYTES - c->out_len)
        return -EAGAIN;
    put(c, &head, cmd);
    p->id = head.id;
    p->index = 0;
    p->detail_len = 0;
    p->next = NULL;
    p->prev = c->last;
    *c->last = p;
    c->last = &p->next;
    send_more(c);
    return 0;
}

int channel_query(struct channel *c, struct channel_query *q, uint16_t type, const void *body, size_t len)
{
    struct frame_head head = {
        .bytes = (uint32_t)len, .type = type, .version = LINK_VERSION, .id = ++c->next_id};
    if (!c->connected)
        return -ENOTCONN;
    if (c->out_len > PROPOSALS_BYTES || sizeof(head) + len > PROPOSALS_BYTES - c->out_len)
        return -EAGAIN;
    put(c, &head, body);
    q->id = head.id;
    q->next = c->queries;
    q->prev = &c->queries;
    if (q->next)
        q->next->prev = &q->next;
    c->queries = q;
    send_more(c);
    return 0;
}

static void out_done(struct op *op, const struct event *ev)
{
    struct channel *c = container_of(op, struct channel, out);
    if (ev->res <= 0 || !c->connected) {
        disconnect(c);
        return;
    }
    c->out_at += (uint32_t)ev->res;
    if (c->out_at == c->out_len) {
        if (c->out_len > OUT_KEPT_BYTES)
            (void)madvise(c->out_buf + OUT_KEPT_BYTES, OUT_BYTES - OUT_KEPT_BYTES, MADV_DONTNEED);
        c->out_at = c->out_len = 0;
    }
    send_more(c);
}

/* ------------------------------------------------------------------ results */

static struct proposal *find(struct channel *c, uint64_t id)
{
    struct proposal *p = c->first;
    while (p && p->id != id)
        p = p->next;
    return p; /* NULL: its time was over */
}

static bool result(struct channel *c, const struct frame_head *head, const uint8_t *body)
{
    struct frame_result r;
    size_t detail = head->bytes - sizeof(r);
    if (head->type != FRAME_RESULT || head->bytes < sizeof(r) || head->bytes > RESULT_MAX)
        return false;
    memcpy(&r, body, sizeof(r));
    struct proposal *p = r.status < CMD_STATUS_COUNT ? find(c, head->id) : NULL;
    if (!p)
        return r.status < CMD_STATUS_COUNT;
    memcpy(p->detail, body + sizeof(r), detail);
    p->detail_len = detail;
    p->index = r.index;
    proposal_end(c, p, (int)r.status);
    return true;
}

/* One that nobody waits for any more is passed over. */
static bool answer(struct channel *c, const struct frame_head *head, const uint8_t *body)
{
    struct channel_query *q = c->queries;
    if (head->type == FRAME_PASS ? head->bytes < sizeof(struct frame_pass) || head->bytes > PASS_MAX
                                 : head->bytes != sizeof(struct frame_way))
        return false;
    while (q && q->id != head->id)
        q = q->next;
    if (q && q->answer != head->type)
        return false;
    if (q)
        query_end(q, 0, body, head->bytes);
    return true;
}

/* ------------------------------------------------------------------ jobs */

void channel_set_jobs(struct channel *c, const struct channel_jobs *jobs)
{
    c->jobs = *jobs;
}

static bool job(struct channel *c, const struct frame_head *head, const uint8_t *body)
{
    struct frame_job j;
    if (head->bytes != sizeof(j) || !c->jobs.job || c->jobs_underway >= JOBS_UNDERWAY_MAX)
        return false;
    memcpy(&j, body, sizeof(j));
    c->jobs_underway++;
    c->jobs.job(c->jobs.arg, head->id, &j);
    return true;
}

void channel_job_done(struct channel *c, uint64_t id, enum job_result result, uint64_t detail)
{
    const struct frame_job_done done = {.result = result, .detail = detail};
    const struct frame_head head = {
        .bytes = sizeof(done), .type = FRAME_JOB_DONE, .version = LINK_VERSION, .id = id};
    CHECK(c->connected && c->jobs_underway > 0);
    c->jobs_underway--;
    if (sizeof(head) + sizeof(done) > OUT_BYTES - c->out_len) {
        disconnect(c); /* control asks for more than it takes the answers of */
        return;
    }
    put(c, &head, &done);
    send_more(c);
}

/* What nobody answers, and what is lost where there is no room. */
static void note(struct channel *c, uint16_t type, const void *body, size_t len)
{
    const struct frame_head head = {.bytes = (uint32_t)len, .type = type, .version = LINK_VERSION};
    if (!c->connected || c->out_len > PROPOSALS_BYTES || sizeof(head) + len > PROPOSALS_BYTES - c->out_len)
        return;
    put(c, &head, body);
    send_more(c);
}

void channel_damaged(struct channel *c, const struct digest *d, uint64_t bytes)
{
    struct frame_damaged damaged = {.bytes = bytes};
    (void)digest_pack(d, damaged.digest);
    note(c, FRAME_DAMAGED, &damaged, sizeof(damaged));
}

void channel_adopted(struct channel *c, uint64_t node, uint64_t bytes, const char *repo, size_t repo_len)
{
    struct frame_adopted adopted = {.node = node, .bytes = bytes};
    uint8_t body[sizeof(adopted) + REPO_NAME_MAX];
    CHECK(repo_len <= REPO_NAME_MAX);
    memcpy(body, &adopted, sizeof(adopted));
    memcpy(body + sizeof(adopted), repo, repo_len);
    note(c, FRAME_ADOPTED, body, sizeof(adopted) + repo_len);
}

/* ------------------------------------------------------------------ what comes */

static bool frame(struct channel *c, const struct frame_head *head, const uint8_t *body)
{
    if (head->version != LINK_VERSION)
        return false;
    return head->type == FRAME_JOB                               ? job(c, head, body)
           : head->type == FRAME_PASS || head->type == FRAME_WAY ? answer(c, head, body)
                                                                 : result(c, head, body);
}

static void in_done(struct op *op, const struct event *ev)
{
    struct channel *c = container_of(op, struct channel, in);
    if (ev->res <= 0 || !c->connected) {
        disconnect(c);
        return;
    }
    c->in_len += (uint32_t)ev->res;
    size_t at = 0;
    struct frame_head head;
    while (c->connected && c->in_len - at >= sizeof(head)) {
        memcpy(&head, c->in_buf + at, sizeof(head));
        if (head.bytes > BODY_MAX) {
            disconnect(c);
            return;
        }
        if (c->in_len - at - sizeof(head) < head.bytes)
            break;
        if (!frame(c, &head, c->in_buf + at + sizeof(head))) {
            disconnect(c);
            return;
        }
        at += sizeof(head) + head.bytes;
    }
    c->in_len -= at;
    memmove(c->in_buf, c->in_buf + at, c->in_len);
    if (c->connected)
        receive(c);
}
