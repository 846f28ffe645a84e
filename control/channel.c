/* SPDX-License-Identifier: Apache-2.0 */
#include "control/channel.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"

struct channel {
    uv_pipe_t pipe;
    struct channel_handlers handlers;
    void *arg;
    struct frame_head head; /* of the frame that is being read */
    size_t head_len;        /* bytes of it that are here */
    uint8_t *body;          /* NULL while the head is incomplete */
    size_t body_len;
    size_t proposals, bytes; /* under way, or their result not taken yet */
    size_t asked;            /* passes and ways, likewise */
    bool paused, ended, closing, closed;
};

/* A proposal from its frame to the end of its result's write. */
struct proposal {
    struct channel *channel;
    uint64_t id;
    size_t bytes;
    uv_write_t write;
    uint8_t result[sizeof(struct frame_head) + sizeof(struct frame_result) + CHANNEL_DETAIL_MAX];
};

static void channel_resume(struct channel *channel);

static void channel_free_if_done(struct channel *channel)
{
    if (!channel->closed || channel->proposals || channel->asked)
        return;
    free(channel->body);
    free(channel);
}

static void on_closed(uv_handle_t *handle)
{
    struct channel *channel = handle->data;
    channel->closed = true;
    channel_free_if_done(channel);
}

void channel_close(struct channel *channel)
{
    if (channel->closing)
        return;
    channel->closing = true;
    uv_close((uv_handle_t *)&channel->pipe, on_closed);
}

static void channel_end(struct channel *channel, const char *why)
{
    if (channel->ended || channel->closing)
        return;
    channel->ended = true;
    uv_read_stop((uv_stream_t *)&channel->pipe);
    channel->handlers.ended(channel->arg, why);
}

static void proposal_free(struct proposal *p)
{
    struct channel *channel = p->channel;
    channel->proposals--;
    channel->bytes -= p->bytes;
    free(p);
    if (channel->closed)
        channel_free_if_done(channel);
    else
        channel_resume(channel);
}

static void on_written(uv_write_t *write, int status)
{
    (void)status;
    proposal_free(write->data);
}

static void on_done(void *arg, enum cmd_status status, uint64_t index, const void *detail, size_t detail_len)
{
    struct proposal *p = arg;
    if (p->channel->closing || p->channel->ended) {
        proposal_free(p);
        return;
    }
    if (detail_len > CHANNEL_DETAIL_MAX)
        detail_len = CHANNEL_DETAIL_MAX;
    struct frame_result result = {.status = status, .index = index};
    struct frame_head head = {.bytes = (uint32_t)(sizeof(result) + detail_len),
                              .type = FRAME_RESULT,
                              .version = LINK_VERSION,
                              .id = p->id};
    memcpy(p->result, &head, sizeof(head));
    memcpy(p->result + sizeof(head), &result, sizeof(result));
    if (detail_len)
        memcpy(p->result + sizeof(head) + sizeof(result), detail, detail_len);
    uv_buf_t buf = uv_buf_init((char *)p->result, (unsigned)(sizeof(head) + head.bytes));
    p->write.data = p;
    if (uv_write(&p->write, (uv_stream_t *)&p->channel->pipe, &buf, 1, on_written))
        proposal_free(p);
}

/* A question for a pass or a way, from its frame to the end of the answer's write. */
struct asked {
    struct channel *channel;
    uv_write_t write;
    uint64_t id;
    uint8_t frame[sizeof(struct frame_head) + sizeof(struct frame_pass) + PASS_BYTES_MAX];
};

static void asked_free(struct asked *a)
{
    struct channel *channel = a->channel;
    channel->asked--;
    explicit_bzero(a, sizeof(*a));
    free(a);
    channel_free_if_done(channel);
}

static void on_answer_written(uv_write_t *write, int status)
{
    (void)status;
    asked_free(write->data);
}

static void answer(struct asked *a, uint16_t type, const void *body, size_t body_len, const char *tail,
                   size_t tail_len)
{
    struct frame_head head = {
        .bytes = (uint32_t)(body_len + tail_len), .type = type, .version = LINK_VERSION, .id = a->id};
    if (a->channel->closing || a->channel->ended) {
        asked_free(a);
        return;
    }
    CHECK(sizeof(head) + head.bytes <= sizeof(a->frame));
    memcpy(a->frame, &head, sizeof(head));
    memcpy(a->frame + sizeof(head), body, body_len);
    memcpy(a->frame + sizeof(head) + body_len, tail, tail_len);
    uv_buf_t buf = uv_buf_init((char *)a->frame, (unsigned)(sizeof(head) + head.bytes));
    a->write.data = a;
    if (uv_write(&a->write, (uv_stream_t *)&a->channel->pipe, &buf, 1, on_answer_written))
        asked_free(a);
}

static void on_pass(void *arg, const struct frame_pass *pass, const char *value, size_t len)
{
    answer(arg, FRAME_PASS, pass, sizeof(*pass), value, len);
}

static void on_way(void *arg, const struct frame_way *way)
{
    answer(arg, FRAME_WAY, way, sizeof(*way), "", 0);
}

static struct asked *asked_new(struct channel *channel)
{
    struct asked *a = calloc(1, sizeof(*a));
    CHECK(a);
    a->channel = channel;
    a->id = channel->head.id;
    channel->asked++;
    return a;
}

struct job_write {
    uv_write_t write;
    struct frame_head head;
    struct frame_job job;
};

_Static_assert(offsetof(struct job_write, job) ==
                   offsetof(struct job_write, head) + sizeof(struct frame_head),
               "sent in one piece");

static void on_job_written(uv_write_t *write, int status)
{
    (void)status; /* a channel that broke is ended by its reader */
    free(write->data);
}

int channel_job(struct channel *channel, uint64_t id, const struct frame_job *job)
{
    if (channel->closing || channel->ended)
        return -ENOTCONN;
    struct job_write *w = calloc(1, sizeof(*w));
    CHECK(w);
    w->write.data = w;
    w->head =
        (struct frame_head){.bytes = sizeof(w->job), .type = FRAME_JOB, .version = LINK_VERSION, .id = id};
    w->job = *job;
    uv_buf_t buf = uv_buf_init((char *)&w->head, sizeof(w->head) + sizeof(w->job));
    int err = uv_write(&w->write, (uv_stream_t *)&channel->pipe, &buf, 1, on_job_written);
    if (err)
        free(w);
    return err;
}

const char *channel_refuse(const void *cmd, size_t len)
{
    struct wire_reader reader = {.buf = cmd, .len = len};
    struct cmd_head head;
    cmd_get_head(&reader, &head);
    if (reader.failed)
        return "a command without a valid head";
    switch (head.type) {
    case CMD_BLOB_LINK:
    case CMD_BLOB_MOUNT:
    case CMD_BLOB_UNLINK:
    case CMD_MANIFEST_PUT:
    case CMD_MANIFEST_DELETE:
    case CMD_TAG_DELETE:
    case CMD_GC_KEEP:
        return NULL;
    default:
        return "a command of a type that is not the data plane's";
    }
}

static void proposal_complete(struct channel *channel, void *cmd, size_t len)
{
    const char *why = channel_refuse(cmd, len);
    if (why) {
        free(cmd);
        channel_end(channel, why);
        return;
    }
    struct proposal *p = calloc(1, sizeof(*p));
    CHECK(p);
    p->channel = channel;
    p->id = channel->head.id;
    p->bytes = len;
    channel->proposals++;
    channel->bytes += len;
    channel->handlers.propose(channel->arg, cmd, len, on_done, p);
}

static void job_complete(struct channel *channel, const void *body)
{
    struct frame_job_done done;
    memcpy(&done, body, sizeof(done));
    if (done.result >= JOB_RESULT_COUNT)
        channel_end(channel, "a result of a job that makes no sense");
    else
        channel->handlers.job_done(channel->arg, channel->head.id, done.result, done.detail);
}

static void damaged_complete(struct channel *channel, const void *body)
{
    struct frame_damaged damaged;
    struct digest digest;
    memcpy(&damaged, body, sizeof(damaged));
    if (digest_unpack(damaged.digest, sizeof(damaged.digest), &digest) == 0)
        channel_end(channel, "a damaged blob without a digest");
    else
        channel->handlers.damaged(channel->arg, &digest, damaged.bytes);
}

static void adopted_complete(struct channel *channel, const char *body)
{
    struct frame_adopted adopted;
    memcpy(&adopted, body, sizeof(adopted));
    body += sizeof(adopted);
    size_t len = channel->head.bytes - sizeof(adopted);
    if (memchr(body, '\0', len))
        channel_end(channel, "an upload to no repository");
    else
        channel->handlers.adopted(channel->arg, adopted.node, adopted.bytes, body, len);
}

static void pass_complete(struct channel *channel, const char *body)
{
    static const struct frame_pass busy = {.status = PASS_UNAVAILABLE};
    struct frame_pass_wanted f;
    memcpy(&f, body, sizeof(f));
    body += sizeof(f);
    size_t len = channel->head.bytes - sizeof(f);
    if (!f.source || f.repo_len > PASS_REPO_MAX || f.challenge_len > PASS_CHALLENGE_MAX ||
        (size_t)f.repo_len + f.challenge_len != len || memchr(body, '\0', len)) {
        channel_end(channel, "a question for a pass that makes no sense");
        return;
    }
    const struct channel_pass wanted = {.source = f.source,
                                        .refused = f.refused,
                                        .repo = body,
                                        .repo_len = f.repo_len,
                                        .challenge = body + f.repo_len,
                                        .challenge_len = f.challenge_len};
    struct asked *a = asked_new(channel);
    if (channel->asked <= CHANNEL_ASKED_MAX)
        channel->handlers.pass_wanted(channel->arg, &wanted, on_pass, a);
    else
        on_pass(a, &busy, "", 0);
}

static void way_complete(struct channel *channel, const char *body)
{
    static const struct frame_way busy = {.status = WAY_UNAVAILABLE};
    struct frame_way_wanted f;
    memcpy(&f, body, sizeof(f));
    body += sizeof(f);
    size_t len = channel->head.bytes - sizeof(f);
    if (!f.source || f.host_len != len || f.tls > 1 || memchr(body, '\0', len)) {
        channel_end(channel, "a question for a way that makes no sense");
        return;
    }
    const struct channel_way wanted = {
        .source = f.source, .host = body, .host_len = len, .port = f.port, .tls = f.tls};
    struct asked *a = asked_new(channel);
    if (channel->asked <= CHANNEL_ASKED_MAX)
        channel->handlers.way_wanted(channel->arg, &wanted, on_way, a);
    else
        on_way(a, &busy);
}

static void frame_complete(struct channel *channel)
{
    void *body = channel->body;
    channel->body = NULL;
    channel->body_len = 0;
    channel->head_len = 0;
    if (channel->head.type == FRAME_PROPOSE) {
        proposal_complete(channel, body, channel->head.bytes);
        return;
    }
    if (channel->head.type == FRAME_JOB_DONE)
        job_complete(channel, body);
    else if (channel->head.type == FRAME_PASS_WANTED)
        pass_complete(channel, body);
    else if (channel->head.type == FRAME_WAY_WANTED)
        way_complete(channel, body);
    else if (channel->head.type == FRAME_ADOPTED)
        adopted_complete(channel, body);
    else
        damaged_complete(channel, body);
    free(body);
}

static bool head_valid(const struct frame_head *head)
{
    if (head->version != LINK_VERSION)
        return false;
    switch (head->type) {
    case FRAME_PROPOSE:
        return head->bytes > 0 && head->bytes <= FRAME_BYTES_MAX;
    case FRAME_JOB_DONE:
        return head->bytes == sizeof(struct frame_job_done);
    case FRAME_DAMAGED:
        return head->bytes == sizeof(struct frame_damaged);
    case FRAME_ADOPTED:
        return head->bytes > sizeof(struct frame_adopted) &&
               head->bytes <= sizeof(struct frame_adopted) + REPO_NAME_MAX;
    case FRAME_PASS_WANTED:
        return head->bytes > sizeof(struct frame_pass_wanted) &&
               head->bytes <= sizeof(struct frame_pass_wanted) + PASS_REPO_MAX + PASS_CHALLENGE_MAX;
    case FRAME_WAY_WANTED:
        return head->bytes > sizeof(struct frame_way_wanted) &&
               head->bytes <= sizeof(struct frame_way_wanted) + WAY_HOST_MAX;
    default:
        return false;
    }
}

static void head_complete(struct channel *channel)
{
    const struct frame_head *head = &channel->head;
    if (!head_valid(head)) {
        channel_end(channel, "a frame that makes no sense");
        return;
    }
    channel->body = malloc(head->bytes);
    if (!channel->body)
        channel_end(channel, "no memory for a frame");
}

/* The place where the next bytes belong: the frame is read in place. */
static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    struct channel *channel = handle->data;
    (void)suggested;
    if (channel->body)
        *buf = uv_buf_init((char *)channel->body + channel->body_len,
                           (unsigned)(channel->head.bytes - channel->body_len));
    else
        *buf = uv_buf_init((char *)&channel->head + channel->head_len,
                           (unsigned)(sizeof(channel->head) - channel->head_len));
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct channel *channel = stream->data;
    (void)buf;
    if (n < 0) {
        channel_end(channel, NULL);
        return;
    }
    if (channel->body) {
        channel->body_len += (size_t)n;
        if (channel->body_len == channel->head.bytes)
            frame_complete(channel);
    } else {
        channel->head_len += (size_t)n;
        if (channel->head_len == sizeof(channel->head))
            head_complete(channel);
    }
    if (channel->proposals >= CHANNEL_PROPOSALS_MAX || channel->bytes >= CHANNEL_BYTES_MAX) {
        channel->paused = true;
        uv_read_stop(stream);
    }
}

static void channel_resume(struct channel *channel)
{
    if (!channel->paused || channel->ended || channel->closing)
        return;
    channel->paused = false;
    uv_read_start((uv_stream_t *)&channel->pipe, on_alloc, on_read);
}

int channel_open(uv_loop_t *loop, int fd, const struct channel_handlers *handlers, void *arg,
                 struct channel **out)
{
    struct channel *channel = calloc(1, sizeof(*channel));
    CHECK(channel);
    channel->handlers = *handlers;
    channel->arg = arg;
    uv_pipe_init(loop, &channel->pipe, 0);
    channel->pipe.data = channel;
    int err = uv_pipe_open(&channel->pipe, fd);
    if (err) {
        close(fd);
        channel_close(channel);
        return err;
    }
    err = uv_read_start((uv_stream_t *)&channel->pipe, on_alloc, on_read);
    if (err) {
        channel_close(channel);
        return err;
    }
    *out = channel;
    return 0;
}
