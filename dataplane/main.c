/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fairlead-dataplane: takes its descriptors from control (msg.h), builds the rings, locks itself in, serves
 * until it is told to drain. Started by fairleadd, never by hand. If control goes away it serves on, with the
 * last plan.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "msg.h"
#include "names.h"
#include "plan.h"
#include "shared.h"
#include "dataplane/move/file.h"
#include "dataplane/ring.h"
#include "dataplane/sandbox.h"
#include "dataplane/store/names.h"
#include "dataplane/store/store.h"

enum { START_WAIT_MS = 5000, PLAN_WAIT_MS = 2000 };

struct dataplane {
    int link; /* -1: control is away */
    int signals;
    int hello_fd[HELLO_FDS];
    unsigned ring_count, listener_count;
    int channel_fd[RINGS_MAX];
    int listener_fd[LISTENERS_MAX];
    struct ring *ring[RINGS_MAX];
    const struct plan *plan;
    struct counters_page *counters;
    struct log_page *log;
    struct names_epochs *epochs;
    struct store *store;
    struct names_file *names;
    unsigned features;
};

/* What was taken and made so far goes with the process. */
__attribute__((noreturn)) static void fail(const char *what, int err)
{
    fprintf(stderr, "fairlead-dataplane: %s: %s\n", what, strerror(-err));
    _exit(EXIT_FAILURE);
}

/* ------------------------------------------------------------------ the link */

/* One message and at most LINK_FDS_MAX descriptors. 1, 0 at the end of the link, or -errno. */
static int link_receive(int fd, struct link_message *m, int *fds, unsigned *fd_count)
{
    char control[CMSG_SPACE(LINK_FDS_MAX * sizeof(int))];
    struct iovec iov = {m, sizeof(*m)};
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
    ssize_t n;
    do
        n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    *fd_count = 0;
    if (n <= 0)
        return n < 0 ? -errno : 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        *fd_count = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(fds, CMSG_DATA(c), *fd_count * sizeof(int));
    }
    return n == sizeof(*m) && !(msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) ? 1 : -EPROTO;
}

static void link_send(struct dataplane *d, struct link_message m)
{
    m.version = LINK_VERSION;
    if (d->link >= 0 && send(d->link, &m, sizeof(m), MSG_NOSIGNAL) < 0 && errno != EINTR)
        fprintf(stderr, "fairlead-dataplane: no answer to control: %s\n", strerror(errno));
}

/* ------------------------------------------------------------------ taking what control hands over */

static void *map_shared(int fd, size_t bytes)
{
    struct stat st;
    if (fstat(fd, &st) || (uint64_t)st.st_size < bytes)
        return NULL;
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    return p == MAP_FAILED ? NULL : p;
}

static const struct plan *map_plan(int fd)
{
    struct stat st;
    if (fstat(fd, &st) || (uint64_t)st.st_size < sizeof(struct plan))
        return NULL;
    void *p = mmap(NULL, sizeof(struct plan), PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (p == MAP_FAILED)
        return NULL;
    if (plan_check(p, (uint64_t)st.st_size))
        return p;
    munmap(p, sizeof(struct plan));
    return NULL;
}

static int take_hello(struct dataplane *d, const struct link_message *m, const int *fds, unsigned fd_count)
{
    if (fd_count != HELLO_FDS || m->hello.rings == 0 || m->hello.rings > RINGS_MAX)
        return -EPROTO;
    memcpy(d->hello_fd, fds, sizeof(d->hello_fd));
    d->ring_count = m->hello.rings;
    d->counters = map_shared(fds[HELLO_COUNTERS], sizeof(*d->counters));
    d->log =
        map_shared(fds[HELLO_LOG], offsetof(struct log_page, ring) + d->ring_count * sizeof(struct log_ring));
    d->epochs = map_shared(fds[HELLO_EPOCHS], sizeof(*d->epochs));
    if (!d->counters || !d->log || !d->epochs || d->counters->magic != SHARED_MAGIC ||
        d->counters->version != SHARED_VERSION || d->log->magic != SHARED_MAGIC)
        return -EPROTO;
    link_send(d, (struct link_message){.type = LINK_HELLO_REPLY,
                                       .hello_reply = {.pid = (uint32_t)getpid(), .features = d->features}});
    return 0;
}

/* One message of the beginning. 1: GO. */
static int take_message(struct dataplane *d, const struct link_message *m, const int *fds, unsigned fd_count)
{
    if (m->version != LINK_VERSION) {
        link_send(d, (struct link_message){.type = LINK_HELLO_REPLY});
        return -EPROTONOSUPPORT;
    }
    switch (m->type) {
    case LINK_HELLO:
        return take_hello(d, m, fds, fd_count);
    case LINK_RING:
        if (fd_count != 1 || m->ring.index >= d->ring_count)
            return -EPROTO;
        d->channel_fd[m->ring.index] = fds[0];
        return 0;
    case LINK_LISTENER:
        if (fd_count != 1 || d->listener_count == LISTENERS_MAX)
            return -EPROTO;
        d->listener_fd[d->listener_count++] = fds[0];
        return 0;
    case LINK_PLAN:
        d->plan = fd_count == 1 ? map_plan(fds[0]) : NULL;
        return d->plan ? 0 : -EPROTO;
    case LINK_GO:
        return d->plan && d->ring_count ? 1 : -EPROTO;
    default:
        return -EPROTO;
    }
}

static int take_all(struct dataplane *d)
{
    for (;;) {
        struct link_message m;
        int fds[LINK_FDS_MAX];
        unsigned fd_count;
        int got = link_receive(d->link, &m, fds, &fd_count);
        if (got <= 0)
            return got ? got : -ECONNRESET;
        got = take_message(d, &m, fds, fd_count);
        if (got)
            return got < 0 ? got : 0;
    }
}

/* ------------------------------------------------------------------ building */

static struct store_tuning tuning(const struct plan *p)
{
    return (struct store_tuning){
        .sync = p->setting[SET_STORE_SYNC],
        .reserve = p->setting[SET_STORE_RESERVE],
        .blob_bytes_max = p->setting[SET_REGISTRY_BLOB_BYTES_MAX],
        .uploads_max = (uint32_t)p->setting[SET_REGISTRY_UPLOADS_MAX],
        .open_files = (uint32_t)p->setting[SET_STORE_OPEN_FILES],
        .upload_expiry_ms = p->setting[SET_REGISTRY_UPLOAD_EXPIRY],
    };
}

/* Hands the sockets from `from` on to rings: those of one address in turn, so that each ring has its share.
 */
static void share_listeners(struct dataplane *d, const struct plan *plan, unsigned from,
                            void (*give)(struct ring *r, int fd, uint16_t service))
{
    for (unsigned i = 0; i < plan->listener_count; i++) {
        const struct plan_listener *l = &plan->listener[i];
        for (unsigned j = 0; j < l->count; j++) {
            unsigned at = l->first + j;
            if (at >= from && at < d->listener_count)
                give(d->ring[j % d->ring_count], d->listener_fd[at], l->service);
        }
    }
}

static void give_at_start(struct ring *r, int fd, uint16_t service)
{
    CHECK(ring_listen(r, fd, service) == 0);
}

static int build(struct dataplane *d, const char **why)
{
    char names_path[64];
    CHECK(d->plan); /* GO does not come without one */
    struct store_tuning t = tuning(d->plan);
    int err = store_new(d->hello_fd[HELLO_BLOBS], d->hello_fd[HELLO_UPLOADS], &t, &d->store, why);
    if (err)
        return err;
    (void)snprintf(names_path, sizeof(names_path), "/proc/self/fd/%d", d->hello_fd[HELLO_NAMES]);
    err = names_file_open(names_path, d->epochs, &d->names, why);
    for (unsigned i = 0; i < d->ring_count && !err; i++) {
        struct ring_config c = {.index = i,
                                .plan = d->plan,
                                .store = d->store,
                                .page = d->counters,
                                .log_page = d->log,
                                .channel_fd = d->channel_fd[i]};
        *why = "no memory for a reader of the names file";
        err = names_new(d->names, i, &c.names);
        if (!err)
            err = ring_new(&c, &d->ring[i], why);
    }
    if (!err)
        share_listeners(d, d->plan, 0, give_at_start);
    return err;
}

static unsigned loop_features(const struct dataplane *d)
{
    return (loop_has_defer_taskrun(d->ring[0]->loop) ? FEATURE_DEFER_TASKRUN : 0u) |
           (loop_has_restrictions(d->ring[0]->loop) ? FEATURE_RING_RESTRICTIONS : 0u) |
           (file_has_cachestat() ? FEATURE_CACHESTAT : 0u);
}

static void pause_1ms(void)
{
    struct timespec ts = {0, 1000000};
    nanosleep(&ts, NULL);
}

static void *ring_thread(void *arg)
{
    ring_run(arg);
    return NULL;
}

static int start_rings(struct dataplane *d)
{
    uint64_t start = loop_clock_us() / 1000;
    for (unsigned i = 0; i < d->ring_count; i++) {
        int err = pthread_create(&d->ring[i]->thread, NULL, ring_thread, d->ring[i]);
        if (err)
            return -err;
    }
    for (unsigned i = 0; i < d->ring_count; i++)
        while (atomic_load(&d->counters->ring[i].counter[CTR_LIVENESS]) < start) {
            if (loop_clock_us() / 1000 > start + START_WAIT_MS)
                return -ETIMEDOUT;
            pause_1ms();
        }
    return 0;
}

/* ------------------------------------------------------------------ running */

static void give_while_running(struct ring *r, int fd, uint16_t service)
{
    struct acceptor_order *o = malloc(sizeof(*o));
    if (!o)
        return;
    *o = (struct acceptor_order){.fd = fd, .service = service, .next = atomic_load(&r->new_acceptors)};
    while (!atomic_compare_exchange_weak(&r->new_acceptors, &o->next, o))
        ;
}

/* Every ring has it: the plan before is nobody's. A ring that does not turn is control's to notice. */
static bool plan_taken(const struct dataplane *d, uint64_t generation)
{
    uint64_t end = loop_clock_us() / 1000 + PLAN_WAIT_MS;
    for (unsigned i = 0; i < d->ring_count; i++)
        while (atomic_load_explicit(&d->ring[i]->generation, memory_order_acquire) != generation) {
            if (loop_clock_us() / 1000 > end)
                return false;
            pause_1ms();
        }
    return true;
}

static void new_plan(struct dataplane *d, int fd, unsigned first_new_listener)
{
    const struct plan *plan = map_plan(fd), *old = d->plan;
    if (!plan || plan->generation <= old->generation) {
        fprintf(stderr, "fairlead-dataplane: a plan that cannot be used was dropped\n");
        return;
    }
    struct store_tuning t = tuning(plan);
    store_tune(d->store, &t);
    share_listeners(d, plan, first_new_listener, give_while_running);
    d->plan = plan;
    for (unsigned i = 0; i < d->ring_count; i++) {
        atomic_store(&d->ring[i]->offered, plan);
        loop_wake(d->ring[i]->loop);
    }
    if (!plan_taken(d, plan->generation))
        return;
    munmap((void *)(uintptr_t)old, sizeof(*old));
    link_send(d, (struct link_message){.type = LINK_PLAN_APPLIED,
                                       .plan_applied = {.generation = plan->generation}});
}

static void drain(struct dataplane *d, uint64_t timeout_ms)
{
    uint64_t by = loop_clock_us() / 1000 + timeout_ms + 1;
    for (unsigned i = 0; i < d->ring_count; i++) {
        atomic_store_explicit(&d->ring[i]->drain_by_ms, by, memory_order_release);
        loop_wake(d->ring[i]->loop);
    }
}

/* One message while running. `seen` counts the listeners that rings have. */
static void link_event(struct dataplane *d, unsigned *seen)
{
    struct link_message m;
    int fds[LINK_FDS_MAX];
    unsigned fd_count;
    int got = link_receive(d->link, &m, fds, &fd_count);
    if (got <= 0 || m.version != LINK_VERSION) {
        close(d->link);
        d->link = -1; /* control is gone, or not one of ours: serve on with what there is */
        return;
    }
    if (m.type == LINK_LISTENER && fd_count == 1 && d->listener_count < LISTENERS_MAX) {
        d->listener_fd[d->listener_count++] = fds[0];
    } else if (m.type == LINK_PLAN && fd_count == 1) {
        new_plan(d, fds[0], *seen);
        *seen = d->listener_count;
    } else if (m.type == LINK_DRAIN) {
        drain(d, m.drain.timeout_ms);
    } else {
        fprintf(stderr, "fairlead-dataplane: message %u from control was not expected\n", m.type);
    }
}

static bool all_stopped(const struct dataplane *d)
{
    for (unsigned i = 0; i < d->ring_count; i++)
        if (!atomic_load_explicit(&d->ring[i]->stopped, memory_order_acquire))
            return false;
    return true;
}

static void run(struct dataplane *d)
{
    unsigned seen = d->listener_count;
    while (!all_stopped(d)) {
        struct pollfd p[2] = {{d->signals, POLLIN, 0}, {d->link, POLLIN, 0}};
        int n = poll(p, d->link >= 0 ? 2 : 1, 20);
        if (n > 0 && p[0].revents) {
            struct signalfd_siginfo info;
            if (read(d->signals, &info, sizeof(info)) == sizeof(info))
                drain(d, d->plan->setting[SET_HTTP_DRAIN_TIMEOUT]);
        }
        if (n > 0 && d->link >= 0 && p[1].revents)
            link_event(d, &seen);
    }
    for (unsigned i = 0; i < d->ring_count; i++)
        pthread_join(d->ring[i]->thread, NULL);
    link_send(d, (struct link_message){.type = LINK_DRAINED});
}

static int take_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    signal(SIGPIPE, SIG_IGN);
    if (pthread_sigmask(SIG_BLOCK, &set, NULL))
        return -1;
    return signalfd(-1, &set, SFD_CLOEXEC);
}

static int usage(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--version") == 0) {
        printf("fairlead-dataplane %s\n", FL_VERSION);
        return 0;
    }
    fprintf(argc > 1 && strcmp(argv[1], "--help") == 0 ? stdout : stderr,
            "fairlead-dataplane is started by fairleadd, which hands it its sockets; see fairleadd --help\n");
    return argc > 1 && strcmp(argv[1], "--help") == 0 ? 0 : 2;
}

int main(int argc, char **argv)
{
    static struct dataplane d = {.link = LINK_FD};
    const char *why = "";
    struct stat st;
    if (argc > 1 || fstat(LINK_FD, &st) || !S_ISSOCK(st.st_mode))
        return usage(argc, argv);
    umask(0027);
    d.signals = take_signals();
    if (d.signals < 0)
        fail("signalfd", -errno);
    int err = take_all(&d);
    if (err)
        fail("what control handed over cannot be used", err);
    err = build(&d, &why);
    if (err)
        fail(why, err);
    int features = sandbox_enter(d.hello_fd[HELLO_BLOBS], d.hello_fd[HELLO_UPLOADS], &why);
    if (features < 0)
        fail(why, features);
    err = start_rings(&d);
    if (err)
        fail("the rings do not turn", err);
    link_send(&d, (struct link_message){.type = LINK_READY,
                                        .hello_reply = {.pid = (uint32_t)getpid(),
                                                        .features = (unsigned)features | loop_features(&d)}});
    run(&d);
    for (unsigned i = 0; i < d.ring_count; i++)
        ring_free(d.ring[i]);
    names_file_close(d.names);
    store_free(d.store);
    return EXIT_SUCCESS;
}
