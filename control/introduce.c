/* SPDX-License-Identifier: Apache-2.0 */
/* What a data plane is handed before it serves: control's side of the link's beginning (msg.h). */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "control/adopt.h"
#include "control/supervise_private.h"

static void on_propose(void *arg, void *cmd, size_t len, channel_done done, void *done_arg)
{
    const struct supervise_config *config = &((struct dataplane *)arg)->supervise->config;
    config->handlers.propose(config->arg, cmd, len, done, done_arg);
}

static void on_job_done(void *arg, uint64_t id, enum job_result result, uint64_t detail)
{
    const struct supervise_config *config = &((struct dataplane *)arg)->supervise->config;
    config->handlers.job_done(config->arg, id, result, detail);
}

static void on_damaged(void *arg, const struct digest *digest, uint64_t bytes)
{
    const struct supervise_config *config = &((struct dataplane *)arg)->supervise->config;
    config->handlers.damaged(config->arg, digest, bytes);
}

static void on_adopted(void *arg, uint64_t node, uint64_t bytes, const char *repo, size_t repo_len)
{
    const struct supervise_config *config = &((struct dataplane *)arg)->supervise->config;
    config->handlers.adopted(config->arg, node, bytes, repo, repo_len);
}

static void on_pass_wanted(void *arg, const struct channel_pass *wanted, channel_pass_done done,
                           void *done_arg)
{
    const struct supervise_config *config = &((struct dataplane *)arg)->supervise->config;
    config->handlers.pass_wanted(config->arg, wanted, done, done_arg);
}

static void on_way_wanted(void *arg, const struct channel_way *wanted, channel_way_done done, void *done_arg)
{
    const struct supervise_config *config = &((struct dataplane *)arg)->supervise->config;
    config->handlers.way_wanted(config->arg, wanted, done, done_arg);
}

/* An end without a reason is mostly the process' end, which comes as an event of its own. */
static void on_channel_ended(void *arg, const char *why)
{
    struct dataplane *d = arg;
    d->channel_lost = true;
    if (why)
        dataplane_breach(d, why);
}

int introduce_send(struct dataplane *d, struct link_message message, const int *fds, size_t fd_count)
{
    message.version = LINK_VERSION;
    return link_send(d->link, &message, fds, fd_count);
}

/* LMDB opens the file once more by its descriptor's path, so the data plane's group must be allowed to read
 * it. */
static int open_names(const struct supervise_config *config)
{
    int fd = open(config->names_path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (config->user->change && (fchown(fd, (uid_t)-1, config->user->gid) || fchmod(fd, 0640))) {
        int err = -errno;
        close(fd);
        return err;
    }
    return fd;
}

/* Where the next control meets the data plane. Some file systems have no sockets: then the data plane gets
 * one without a name, and nobody meets it. */
static int open_way_in(const struct supervise_config *config)
{
    int fd = adopt_socket(config->folders);
    if (fd >= 0)
        return fd;
    journal_warn(config->journal, "supervise",
                 "no socket could be made in the state's folder: %s; the data plane will not outlive a crash "
                 "of fairleadd for long",
                 strerror(-fd));
    fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    return fd < 0 ? -errno : fd;
}

static int send_hello(struct dataplane *d)
{
    const struct supervise_config *config = &d->supervise->config;
    int names_fd = open_names(config);
    if (names_fd < 0)
        return names_fd;
    int adopt_fd = open_way_in(config);
    if (adopt_fd < 0) {
        close(names_fd);
        return adopt_fd;
    }
    const int fds[HELLO_FDS] = {
        [HELLO_COUNTERS] = config->memory->counters_fd,
        [HELLO_LOG] = config->memory->log_fd,
        [HELLO_EPOCHS] = config->memory->epochs_fd,
        [HELLO_BLOBS] = config->folders->blobs_fd,
        [HELLO_UPLOADS] = config->folders->uploads_fd,
        [HELLO_DAMAGED] = config->folders->damaged_fd,
        [HELLO_NAMES] = names_fd,
        [HELLO_ADOPT] = adopt_fd,
    };
    int err = introduce_send(d,
                             (struct link_message){.type = LINK_HELLO,
                                                   .hello = {.rings = config->memory->rings,
                                                             .listeners = config->listeners->fd_count,
                                                             .control_pid = (uint64_t)getpid()}},
                             fds, HELLO_FDS);
    close(names_fd);
    close(adopt_fd);
    return err;
}

static int send_ring(struct dataplane *d, uint32_t index)
{
    static const struct channel_handlers handlers = {.propose = on_propose,
                                                     .job_done = on_job_done,
                                                     .damaged = on_damaged,
                                                     .adopted = on_adopted,
                                                     .pass_wanted = on_pass_wanted,
                                                     .way_wanted = on_way_wanted,
                                                     .ended = on_channel_ended};
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
        return -errno;
    int err =
        introduce_send(d, (struct link_message){.type = LINK_RING, .ring = {.index = index}}, &pair[1], 1);
    close(pair[1]);
    if (err) {
        close(pair[0]);
        return err;
    }
    return channel_open(d->supervise->config.loop, pair[0], &handlers, d, &d->channels[index]);
}

/* The listeners that this data plane has not got yet. */
static int send_listeners(struct dataplane *d)
{
    const struct listeners *listeners = d->supervise->config.listeners;
    int err = 0;
    for (uint16_t slot = 0; slot < listeners->fd_count && !err; slot++) {
        if (listeners->fd[slot] < 0 || d->has_slot[slot])
            continue;
        err = introduce_send(d, (struct link_message){.type = LINK_LISTENER, .listener = {.index = slot}},
                             &listeners->fd[slot], 1);
        d->has_slot[slot] = true;
    }
    return err;
}

int introduce_unlisten(struct dataplane *d, uint16_t first, uint16_t count)
{
    int err = 0;
    for (unsigned slot = first; slot < (unsigned)first + count && !err; slot++) {
        if (d->has_slot[slot])
            err = introduce_send(d, (struct link_message){.type = LINK_UNLISTEN, .unlisten = {.index = slot}},
                                 NULL, 0);
        d->has_slot[slot] = false;
    }
    return err;
}

int introduce_certs(struct dataplane *d, int certs_fd, uint64_t generation)
{
    int err = introduce_send(
        d, (struct link_message){.type = LINK_CERTS, .certs = {.generation = generation}}, &certs_fd, 1);
    close(certs_fd);
    return err;
}

int introduce_words(struct dataplane *d)
{
    const struct supervise *s = d->supervise;
    const int fds[] = {s->words.verdicts_fd, s->words.evidence_fd};
    if (d->words_told == s->words.number)
        return 0;
    d->words_told = s->words.number;
    return introduce_send(d,
                          (struct link_message){.type = LINK_VERDICTS, .verdicts = {.count = s->words.count}},
                          fds, s->words.count ? 2 : 0);
}

int introduce_plan(struct dataplane *d, int plan_fd, uint64_t generation)
{
    int err = send_listeners(d);
    if (!err)
        err = introduce_send(d, (struct link_message){.type = LINK_PLAN, .plan = {.generation = generation}},
                             &plan_fd, 1);
    close(plan_fd);
    d->plan_sent = generation;
    return err;
}

int introduce(struct dataplane *d)
{
    const struct supervise_config *config = &d->supervise->config;
    uint64_t generation = 0;
    int err = d->adopted ? 0 : send_hello(d);
    for (uint32_t i = 0; i < config->memory->rings && !err; i++)
        err = send_ring(d, i);
    if (err)
        return err;
    int certs_fd = config->handlers.certs(config->arg, &generation);
    if (certs_fd != -ENOENT)
        err = certs_fd < 0 ? certs_fd : introduce_certs(d, certs_fd, generation);
    if (err)
        return err;
    int plan_fd = config->handlers.plan(config->arg, &generation);
    if (plan_fd < 0)
        return plan_fd;
    d->plan_at_start = generation;
    err = introduce_words(d);
    if (err)
        close(plan_fd);
    else
        err = introduce_plan(d, plan_fd, generation);
    return err ? err : introduce_send(d, (struct link_message){.type = LINK_GO}, NULL, 0);
}
