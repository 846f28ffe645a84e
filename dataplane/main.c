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
#include "dataplane/adopt.h"
#include "dataplane/kernel_words.h"
#include "dataplane/link.h"
#include "dataplane/listening.h"
#include "dataplane/messages.h"
#include "dataplane/move/file.h"
#include "dataplane/ring.h"
#include "dataplane/sandbox.h"
#include "dataplane/store/names.h"
#include "dataplane/store/hashers.h"
#include "dataplane/store/store.h"
#include "dataplane/tls/tables.h"

enum { START_WAIT_MS = 5000, PLAN_WAIT_MS = 2000 };

struct dataplane {
    int link; /* -1: control is away */
    int signals;
    int hello_fd[HELLO_FDS];
    unsigned ring_count;
    int channel_fd[RINGS_MAX];
    struct listening listening;
    struct ring *ring[RINGS_MAX];
    const struct plan *plan;
    struct kernel_words *words; /* the kernel's; NULL: control has not said anything yet */
    int certs_fd;               /* as it came at the beginning; -1: none, or taken */
    struct tls_tables *tls;
    struct tls_table *table; /* of the plan */
    struct counters_page *counters;
    struct log_page *log;
    struct names_epochs *epochs;
    struct store *store;
    struct names_file *names;
    unsigned features;
    struct adopt adopt;
    bool adopting; /* a new control's link, from ADOPT to GO */
    bool draining;
};

/* What was taken and made so far goes with the process. */
__attribute__((noreturn)) static void fail(const char *what, int err)
{
    fprintf(stderr, "fairlead-dataplane: %s: %s\n", what, strerror(-err));
    _exit(EXIT_FAILURE);
}

/* ------------------------------------------------------------------ the link */

static void link_send(struct dataplane *d, struct link_message m)
{
    int err = d->link >= 0 ? message_send(d->link, m, NULL, 0) : 0;
    if (err)
        fprintf(stderr, "fairlead-dataplane: no answer to control: %s\n", strerror(-err));
}

/* ------------------------------------------------------------------ taking what control hands over */

static int take_hello(struct dataplane *d, const struct link_message *m, const int *fds, unsigned fd_count)
{
    if (fd_count != HELLO_FDS || m->hello.rings == 0 || m->hello.rings > RINGS_MAX)
        return -EPROTO;
    memcpy(d->hello_fd, fds, sizeof(d->hello_fd));
    adopt_open(&d->adopt, fds[HELLO_ADOPT], d->link);
    d->ring_count = m->hello.rings;
    d->counters = message_memory(fds[HELLO_COUNTERS], sizeof(*d->counters));
    d->log = message_memory(fds[HELLO_LOG],
                            offsetof(struct log_page, ring) + d->ring_count * sizeof(struct log_ring));
    d->epochs = message_memory(fds[HELLO_EPOCHS], sizeof(*d->epochs));
    if (!d->counters || !d->log || !d->epochs || d->counters->magic != SHARED_MAGIC ||
        d->counters->version != SHARED_VERSION || d->log->magic != SHARED_MAGIC)
        return -EPROTO;
    link_send(d, (struct link_message){.type = LINK_HELLO_REPLY,
                                       .hello_reply = {.pid = (uint32_t)getpid(), .features = d->features}});
    return 0;
}

/* Takes the descriptors, whatever comes of it; what cannot be mapped counts as none. */
static int take_words(uint32_t count, const int *fds, unsigned fd_count, struct kernel_words **out)
{
    if (fd_count != (count ? 2 : 0))
        return -EPROTO;
    int err = kernel_words_new(count ? fds[0] : -1, count ? fds[1] : -1, count, out);
    if (!err)
        return 0;
    fprintf(stderr, "fairlead-dataplane: the kernel's verdicts cannot be read: %s\n", strerror(-err));
    return kernel_words_new(-1, -1, 0, out);
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
        return listening_take(&d->listening, m->listener.index, fds, fd_count);
    case LINK_PLAN:
        d->plan = fd_count == 1 ? message_plan(fds[0]) : NULL;
        return d->plan ? 0 : -EPROTO;
    case LINK_CERTS:
        if (fd_count != 1 || d->certs_fd >= 0)
            return -EPROTO;
        d->certs_fd = fds[0];
        return 0;
    case LINK_VERDICTS:
        return d->words ? -EPROTO : take_words(m->verdicts.count, fds, fd_count, &d->words);
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
        int got = message_receive(d->link, &m, fds, &fd_count);
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
        .node = p->node_id,
        .shared = p->copies.shared,
        .sync = p->setting[SET_STORE_SYNC],
        .reserve = p->store_closed ? UINT64_MAX : p->setting[SET_STORE_RESERVE], /* as if always full */
        .blob_bytes_max = p->setting[SET_REGISTRY_BLOB_BYTES_MAX],
        .uploads_max = (uint32_t)p->setting[SET_REGISTRY_UPLOADS_MAX],
        .open_files = (uint32_t)p->setting[SET_STORE_OPEN_FILES],
        .upload_expiry_ms = p->setting[SET_REGISTRY_UPLOAD_EXPIRY],
        .scrub_rate = p->setting[SET_SCRUB_RATE],
    };
}

/* io_uring that is forbidden or not there: so it will be at the next try. */
__attribute__((noreturn)) static void fail_for_good(const char *why, int err)
{
    fprintf(stderr, "fairlead-dataplane: %s: %s\n", why, strerror(-err));
    _exit(DATAPLANE_EXIT_FORBIDDEN);
}

static int build_tls(struct dataplane *d, const char **why)
{
    d->tls = tls_tables_new(d->ring_count, d->plan, why);
    if (!d->tls)
        return -ENOMEM;
    if (d->certs_fd >= 0 && tls_tables_certs(d->tls, d->certs_fd))
        fprintf(stderr, "fairlead-dataplane: certificates that make no sense were dropped\n");
    d->certs_fd = -1;
    *why = "no memory for TLS";
    d->table = tls_table_new(d->tls, d->plan, NULL, NULL);
    return d->table ? 0 : -ENOMEM;
}

static int build(struct dataplane *d, const char **why)
{
    char names_path[64];
    const struct plan *plan = d->plan;
    CHECK(plan); /* GO does not come without one */
    struct store_tuning t = tuning(plan);
    const struct store_folders folders = {d->hello_fd[HELLO_BLOBS], d->hello_fd[HELLO_UPLOADS],
                                          d->hello_fd[HELLO_DAMAGED]};
    t.hashers = hashers_wanted(d->ring_count);
    int err = store_new(&folders, &t, &d->store, why);
    if (err)
        return err;
    (void)snprintf(names_path, sizeof(names_path), "/proc/self/fd/%d", d->hello_fd[HELLO_NAMES]);
    err = names_file_open(names_path, d->epochs, &d->names, why);
    if (!err)
        err = build_tls(d, why);
    for (unsigned i = 0; i < d->ring_count && !err; i++) {
        struct ring_config c = {.index = i,
                                .rings = d->ring_count,
                                .plan = plan,
                                .store = d->store,
                                .page = d->counters,
                                .log_page = d->log,
                                .channel_fd = d->channel_fd[i],
                                .helpers = tls_tables_helpers(d->tls),
                                .table = d->table};
        *why = "no memory for a reader of the names file";
        err = names_new(d->names, i, &c.names);
        if (err)
            break;
        err = ring_new(&c, &d->ring[i], why);
        if (err == -EPERM || err == -ENOSYS)
            fail_for_good(*why, err);
        if (!err)
            d->ring[i]->offered_words = d->words;
    }
    if (!err)
        listening_share(&d->listening, plan, d->ring, d->ring_count, false);
    return err;
}

static unsigned loop_features(const struct dataplane *d)
{
    return (loop_has_defer_taskrun(d->ring[0]->loop) ? FEATURE_DEFER_TASKRUN : 0u) |
           (loop_has_restrictions(d->ring[0]->loop) ? FEATURE_RING_RESTRICTIONS : 0u) |
           (file_has_cachestat() ? FEATURE_CACHESTAT : 0u) |
           (tls_tables_kernel(d->tls) ? FEATURE_KERNEL_TLS : 0u);
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

/* Every ring has it: the plan before is nobody's. A ring that does not turn is control's to notice. */
static bool plan_taken(const struct dataplane *d)
{
    uint64_t end = loop_clock_us() / 1000 + PLAN_WAIT_MS;
    for (unsigned i = 0; i < d->ring_count; i++)
        while (atomic_load_explicit(&d->ring[i]->generation, memory_order_acquire) != d->plan->generation ||
               (d->table && atomic_load_explicit(&d->ring[i]->table_generation, memory_order_acquire) !=
                                d->table->generation)) {
            if (loop_clock_us() / 1000 > end)
                return false;
            pause_1ms();
        }
    return true;
}

/* A plan, and a table of its TLS: a ring takes both together. *all: they all have; the table before is
 * dropped then. */
static int offer(struct dataplane *d, const struct plan *plan, bool *all)
{
    struct tls_table *before = d->table, *table = tls_table_new(d->tls, plan, d->plan, before);
    if (!table)
        return -ENOMEM;
    d->plan = plan;
    d->table = table;
    for (unsigned i = 0; i < d->ring_count; i++) {
        atomic_store(&d->ring[i]->offered_table, table);
        atomic_store(&d->ring[i]->offered, plan);
        loop_wake(d->ring[i]->loop);
    }
    *all = plan_taken(d);
    if (*all)
        tls_table_free(before);
    return 0;
}

static void new_certs(struct dataplane *d, int fd)
{
    bool all;
    int err = tls_tables_certs(d->tls, fd);
    if (!err)
        err = offer(d, d->plan, &all);
    if (err)
        fprintf(stderr, "fairlead-dataplane: new certificates were dropped: %s\n", strerror(-err));
}

/* The words before are unmapped when each ring has the new ones. */
static bool new_words(struct dataplane *d, uint32_t count, const int *fds, unsigned fd_count)
{
    struct kernel_words *words, *before = d->words;
    if (take_words(count, fds, fd_count, &words))
        return false;
    uint64_t end = loop_clock_us() / 1000 + PLAN_WAIT_MS;
    d->words = words;
    for (unsigned i = 0; i < d->ring_count; i++) {
        atomic_store_explicit(&d->ring[i]->offered_words, words, memory_order_release);
        loop_wake(d->ring[i]->loop);
    }
    for (unsigned i = 0; i < d->ring_count; i++)
        while (atomic_load_explicit(&d->ring[i]->words, memory_order_acquire) != words) {
            if (loop_clock_us() / 1000 > end)
                return true;
            pause_1ms();
        }
    kernel_words_free(before);
    return true;
}

static bool plan_follows(const struct plan *plan, const struct plan *old)
{
    return plan->generation > old->generation && plan->node_id == old->node_id &&
           memcmp(plan->cluster_id, old->cluster_id, sizeof(plan->cluster_id)) == 0;
}

static void link_lost(struct dataplane *d)
{
    close(d->link);
    d->link = -1;
    d->adopting = false;
    /* Its last word on itself is not true any more. */
    atomic_store_explicit(&d->counters->control.ready, 0, memory_order_relaxed);
}

static void new_plan(struct dataplane *d, int fd)
{
    const struct plan *plan = message_plan(fd), *old = d->plan;
    bool taken = false;
    if (!plan || !plan_follows(plan, old) || offer(d, plan, &taken)) {
        fprintf(stderr, "fairlead-dataplane: a plan that cannot be used was dropped\n");
        if (d->adopting) /* nor can the control that made it */
            link_lost(d);
        return;
    }
    struct store_tuning t = tuning(plan);
    store_tune(d->store, &t);
    listening_share(&d->listening, plan, d->ring, d->ring_count,
                    true); /* a ring takes the plan first, then these */
    if (!taken)
        return;
    munmap((void *)(uintptr_t)old, old->bytes);
    link_send(d, (struct link_message){.type = LINK_PLAN_APPLIED,
                                       .plan_applied = {.generation = plan->generation}});
}

static void drain(struct dataplane *d, uint64_t timeout_ms)
{
    uint64_t by = loop_clock_us() / 1000 + timeout_ms + 1;
    d->draining = true;
    for (unsigned i = 0; i < d->ring_count; i++) {
        atomic_store_explicit(&d->ring[i]->drain_by_ms, by, memory_order_release);
        loop_wake(d->ring[i]->loop);
    }
}

/* A new control serves writes from here on, once each ring has its channel. */
static void adopted(struct dataplane *d)
{
    uint64_t end = loop_clock_us() / 1000 + PLAN_WAIT_MS;
    for (unsigned i = 0; i < d->ring_count; i++)
        while (channel_offered(d->ring[i]->channel)) {
            if (loop_clock_us() / 1000 > end) {
                link_lost(d); /* what it makes of that is control's affair */
                return;
            }
            pause_1ms();
        }
    d->adopting = false;
    link_send(d, (struct link_message){.type = LINK_READY,
                                       .hello_reply = {.pid = (uint32_t)getpid(), .features = d->features}});
}

/* Returns false for what is not expected; then the descriptors are still the caller's. */
static bool running_message(struct dataplane *d, const struct link_message *m, const int *fds,
                            unsigned fd_count)
{
    switch (m->type) {
    case LINK_RING:
        if (!d->adopting || fd_count != 1 || m->ring.index >= d->ring_count)
            return false;
        channel_offer(d->ring[m->ring.index]->channel, fds[0]);
        loop_wake(d->ring[m->ring.index]->loop);
        return true;
    case LINK_LISTENER:
        return listening_take(&d->listening, m->listener.index, fds, fd_count) == 0;
    case LINK_UNLISTEN:
        return fd_count == 0 && listening_remove(&d->listening, d->ring, m->unlisten.index);
    case LINK_PLAN:
        if (fd_count != 1)
            return false;
        new_plan(d, fds[0]);
        return true;
    case LINK_CERTS:
        if (fd_count != 1)
            return false;
        new_certs(d, fds[0]);
        return true;
    case LINK_VERDICTS:
        return new_words(d, m->verdicts.count, fds, fd_count);
    case LINK_GO:
        if (!d->adopting || fd_count)
            return false;
        adopted(d);
        return true;
    case LINK_DRAIN:
        drain(d, m->drain.timeout_ms);
        return fd_count == 0;
    default:
        return false;
    }
}

static void link_event(struct dataplane *d)
{
    struct link_message m;
    int fds[LINK_FDS_MAX];
    unsigned fd_count;
    int got = message_receive(d->link, &m, fds, &fd_count);
    if (got > 0 && m.version == LINK_VERSION) {
        if (running_message(d, &m, fds, fd_count))
            return;
        fprintf(stderr, "fairlead-dataplane: message %u from control was not expected\n", m.type);
    } else {
        link_lost(d); /* control is gone, or not one of ours: serve on with what there is */
    }
    while (fd_count)
        close(fds[--fd_count]);
}

/* The sockets of a draining data plane are being closed by its rings: there is nothing to hand over. */
static void adopt_event(struct dataplane *d)
{
    const struct adopt_offer offer = {
        .generation = d->plan->generation,
        .rings = d->ring_count,
        .features = d->features,
        .fds = {[ADOPT_COUNTERS] = d->hello_fd[HELLO_COUNTERS],
                [ADOPT_LOG] = d->hello_fd[HELLO_LOG],
                [ADOPT_EPOCHS] = d->hello_fd[HELLO_EPOCHS],
                [ADOPT_NAMES] = d->hello_fd[HELLO_NAMES]},
        .listener_fd = d->listening.fd,
        .listener_count = d->listening.count,
    };
    int fd = adopt_take(&d->adopt, d->link < 0 && !d->draining ? &offer : NULL);
    if (fd < 0) {
        fprintf(stderr, "fairlead-dataplane: a control that came was refused: %s\n", strerror(-fd));
        return;
    }
    d->link = fd;
    d->adopting = true;
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
    while (!all_stopped(d)) {
        struct pollfd p[] = {
            {d->signals, POLLIN, 0}, {d->link, POLLIN, 0}, {d->adopt.fd, POLLIN, 0}}; /* -1 is left out */
        int n = poll(p, ARRAY_SIZE(p), 20);
        if (n > 0 && p[0].revents) {
            struct signalfd_siginfo info;
            if (read(d->signals, &info, sizeof(info)) == sizeof(info))
                drain(d, d->plan->setting[SET_HTTP_DRAIN_TIMEOUT]);
        }
        tls_tables_tick(d->tls, d->plan, loop_clock_us() / 1000);
        if (n > 0 && p[1].revents)
            link_event(d);
        if (n > 0 && p[2].revents)
            adopt_event(d);
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
    static struct dataplane d = {.link = LINK_FD, .adopt = {.fd = -1}, .certs_fd = -1};
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
    _Static_assert(HELLO_UPLOADS == HELLO_BLOBS + 1 && HELLO_DAMAGED == HELLO_BLOBS + 2, "three folders");
    int features = sandbox_enter(&d.hello_fd[HELLO_BLOBS], 3, &why);
    if (features < 0)
        fail(why, features);
    err = tls_tables_start(d.tls);
    if (err)
        fail("no thread for TLS handshakes", err);
    err = start_rings(&d);
    if (err)
        fail("the rings do not turn", err);
    err = store_start(d.store); /* after what has to be there: a limit of threads may leave no more */
    if (err)
        fprintf(stderr, "fairlead-dataplane: the rings hash with fewer threads than they could: %s\n",
                strerror(-err));
    d.features = (unsigned)features | loop_features(&d);
    link_send(&d, (struct link_message){.type = LINK_READY,
                                        .hello_reply = {.pid = (uint32_t)getpid(), .features = d.features}});
    run(&d);
    tls_tables_stop(d.tls);
    store_stop(d.store);
    for (unsigned i = 0; i < d.ring_count; i++)
        ring_free(d.ring[i]);
    tls_table_free(d.table);
    tls_tables_free(d.tls);
    names_file_close(d.names);
    store_free(d.store);
    return EXIT_SUCCESS;
}
