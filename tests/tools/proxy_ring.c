/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One ring of the data plane with one proxied service and no control: the plan is made from the command line.
 *
 *   proxy_ring [KEY=VALUE]... BACKEND...
 *
 * A backend is ADDRESS:PORT or the path of a Unix socket. Keys are the members of struct plan_proxy by name,
 * and settings by theirs. Prints "port N" when it listens on 127.0.0.1; each line on standard input is
 * answered with the counters, one JSON object a line; ends with it. Access log lines go to standard error,
 * and lines that begin with "mark" as they are, behind all that the log has.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "abi.h"
#include "dataplane/ring.h"
#include "dataplane/proxy/balance.h"
#include "dataplane/proxy/proxy.h"
#include "dataplane/store/names.h"
#include "dataplane/store/store.h"
#include "dataplane/tls/tables.h"
#include "tests/unit/names_writer.h"

enum { BACKENDS_MAX = 64, PLACES = 3, SERVICE = 2 };

static struct plan *plan;
static struct counters_page *page;
static struct log_page *logs;
static volatile uint64_t verdicts[PLAN_BACKENDS_MAX];

static struct plan_proxy defaults(void)
{
    return (struct plan_proxy){
        .kind = PROXY_HTTP,
        .policy = PROXY_LEAST,
        .backend_http = 1,
        .forwarded = PROXY_FORWARDED_X,
        .verify = PROXY_VERIFY_RESUMED,
        .connections_max = 1024,
        .queue_max = 1024,
        .queue_timeout_ms = 5000,
        .connect_timeout_ms = 2000,
        .response_timeout_ms = 60000,
        .retries = 2,
        .retry_budget = 20,
    };
}

/* ------------------------------------------------------------------ the command line */

#define MEMBER(name)                                                                                         \
    {                                                                                                        \
#name, offsetof(struct plan_proxy, name), sizeof(((struct plan_proxy *)0)->name)                     \
    }
static const struct {
    const char *name;
    size_t at, size;
} members[] = {
    MEMBER(kind),
    MEMBER(policy),
    MEMBER(all_down),
    MEMBER(backend_tls),
    MEMBER(backend_http),
    MEMBER(proxy_protocol),
    MEMBER(forwarded),
    MEMBER(trust_forwarded),
    MEMBER(host_of_backend),
    MEMBER(verify),
    MEMBER(coalesce),
    MEMBER(technique),
    MEMBER(connections_max),
    MEMBER(requests_max),
    MEMBER(queue_max),
    MEMBER(queue_timeout_ms),
    MEMBER(connect_timeout_ms),
    MEMBER(response_timeout_ms),
    MEMBER(idle_timeout_ms),
    MEMBER(retries),
    MEMBER(retry_budget),
    MEMBER(slow_start_ms),
    MEMBER(eject_failures),
    MEMBER(eject_ms),
    MEMBER(eject_latency),
    MEMBER(stall_rate),
    MEMBER(stall_ms),
    MEMBER(resumes_max),
    MEMBER(hedge_ms),
};

static const struct {
    const char *name;
    uint64_t value;
} settings[] = {
#define SETTING(symbol, name, type, min, max, def, text) {name, def},
#include "settings.def"
#undef SETTING
};

static bool set(struct plan_proxy *p, uint64_t *setting, const char *key, size_t len, uint64_t value)
{
    for (size_t i = 0; i < ARRAY_SIZE(members); i++)
        if (strlen(members[i].name) == len && memcmp(members[i].name, key, len) == 0) {
            memcpy((char *)p + members[i].at, &value, members[i].size);
            return true;
        }
    for (size_t i = 0; i < ARRAY_SIZE(settings); i++)
        if (strlen(settings[i].name) == len && memcmp(settings[i].name, key, len) == 0) {
            setting[i] = value;
            return true;
        }
    return false;
}

static void parse_backend(struct plan_backend *b, const char *text, uint32_t id)
{
    const char *colon = strrchr(text, ':');
    char address[64] = "";
    b->id = id;
    b->generation = 1;
    b->weight = 1;
    b->checked = 1;
    (void)snprintf(b->name, sizeof(b->name), "%.*s", (int)sizeof(b->name) - 1, text);
    if (text[0] == '/') {
        (void)snprintf(b->unix_path, sizeof(b->unix_path), "%s", text);
        return;
    }
    CHECK(colon && (size_t)(colon - text) < sizeof(address));
    memcpy(address, text, (size_t)(colon - text));
    b->port = (uint16_t)strtoul(colon + 1, NULL, 10);
    b->ip[10] = b->ip[11] = 0xff;
    CHECK(inet_pton(AF_INET, address, b->ip + 12) == 1);
}

static void make_plan(int argc, char **argv)
{
    size_t bytes = sizeof(*plan) + 64 + PLACES * sizeof(struct plan_service) + sizeof(struct plan_listener) +
                   BACKENDS_MAX * sizeof(struct plan_backend);
    plan = calloc(1, (bytes + 7) / 8 * 8);
    CHECK(plan);
    plan->magic = PLAN_MAGIC;
    plan->version = PLAN_VERSION;
    plan->generation = 1;
    plan->service_count = PLACES;
    plan->service_at = (sizeof(*plan) + 7) / 8 * 8;
    plan->listener_at = plan->service_at + (PLACES * sizeof(struct plan_service) + 7) / 8 * 8;
    plan->backend_at = plan->listener_at + (sizeof(struct plan_listener) + 7) / 8 * 8;
    for (size_t i = 0; i < SETTINGS_COUNT; i++)
        plan->setting[i] = settings[i].value;
    struct plan_service *s = (struct plan_service *)((uint8_t *)plan + plan->service_at) + SERVICE;
    struct plan_backend *b = (struct plan_backend *)((uint8_t *)plan + plan->backend_at);
    s->kind = SERVICE_PROXY;
    s->policy = POLICY_ALLOW_ALL;
    s->incarnation = 1;
    memcpy(s->name, "test", 5);
    s->tls.http2 = 1;
    s->proxy = defaults();
    for (int i = 1; i < argc; i++) {
        const char *eq = strchr(argv[i], '=');
        if (!eq)
            parse_backend(&b[plan->backend_count++], argv[i], (uint32_t)i);
        else if (!set(&s->proxy, plan->setting, argv[i], (size_t)(eq - argv[i]), strtoull(eq + 1, NULL, 10)))
            IMPOSSIBLE("a key that nobody knows");
        CHECK(plan->backend_count < BACKENDS_MAX);
    }
    s->backend_count = plan->backend_count;
    plan->row_at = plan->backend_at + (plan->backend_count * sizeof(struct plan_backend) + 7) / 8 * 8;
    plan->name_at = plan->row_at;
    plan->source_at = plan->row_at;
    plan->member_at = plan->row_at;
    plan->bytes = plan->row_at;
    CHECK(plan_check(plan, plan->bytes));
}

/* ------------------------------------------------------------------ the ring */

static void *shared(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(p != MAP_FAILED);
    return p;
}

/* In memory: it has hundreds of folders. */
static struct store *make_store(char *folder)
{
    char path[128];
    const char *why;
    struct store *store;
    struct store_tuning tuning = {.uploads_max = 1, .open_files = 16};
    CHECK(mkdtemp(folder));
    (void)snprintf(path, sizeof(path), "%s/blobs", folder);
    CHECK(mkdir(path, 0700) == 0);
    int blobs = open(path, O_RDONLY | O_DIRECTORY);
    (void)snprintf(path, sizeof(path), "%s/uploads", folder);
    CHECK(mkdir(path, 0700) == 0);
    int uploads = open(path, O_RDONLY | O_DIRECTORY);
    (void)snprintf(path, sizeof(path), "%s/damaged", folder);
    CHECK(mkdir(path, 0700) == 0);
    int damaged = open(path, O_RDONLY | O_DIRECTORY);
    CHECK(store_new(&(struct store_folders){blobs, uploads, damaged}, &tuning, &store, &why) == 0);
    return store;
}

static int listen_somewhere(unsigned *port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(at);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(fd >= 0 && bind(fd, (struct sockaddr *)&at, len) == 0 && listen(fd, 1024) == 0);
    CHECK(getsockname(fd, (struct sockaddr *)&at, &len) == 0);
    *port = ntohs(at.sin_port);
    return fd;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st, (void)type, (void)at;
    return remove(path);
}

static void *run(void *ring)
{
    ring_run(ring);
    return NULL;
}

/* ------------------------------------------------------------------ what it tells */

static void print_counters(void)
{
    static const char *const counters[] = {
#define COUNTER(symbol, name, kind, unit, text) name,
#include "counters.def"
#undef COUNTER
    };
    static const char *const reasons[] = {
#define REASON(symbol, name, is_error, text) "closed_" name,
#include "reasons.def"
#undef REASON
    };
    printf("{");
    for (size_t i = 0; i < ARRAY_SIZE(counters); i++)
        printf("\"%s\":%llu,", counters[i], (unsigned long long)atomic_load(&page->ring[0].counter[i]));
    for (size_t i = 0; i < ARRAY_SIZE(reasons); i++)
        printf("%s\"%s\":%llu", i ? "," : "", reasons[i],
               (unsigned long long)atomic_load(&page->ring[0].closed[i]));
    printf("}\n");
    fflush(stdout);
}

static void drain_log(void)
{
    struct log_ring *r = &logs->ring[0];
    uint64_t tail = atomic_load(&r->tail), head = atomic_load(&r->head);
    while (tail < head) {
        uint32_t len = 0;
        for (unsigned i = 0; i < 4; i++)
            len |= (uint32_t)r->data[(tail + i) % LOG_RING_BYTES] << (8 * i);
        for (uint32_t i = 0; i < len; i++)
            fputc(r->data[(tail + 8 + i) % LOG_RING_BYTES], stderr);
        fputc('\n', stderr);
        tail += (8 + len + 7) & ~7u;
        atomic_store(&r->tail, tail);
    }
}

/* "down NAME", "up NAME": what the kernel says of a backend. */
static void judge(const char *line)
{
    bool down = strncmp(line, "down ", 5) == 0;
    if (!down && strncmp(line, "up ", 3) != 0)
        return;
    const char *name = strchr(line, ' ') + 1;
    for (unsigned i = 0; i < plan->backend_count; i++) {
        const struct plan_backend *b = plan_backend(plan, i);
        if (strcmp(b->name, name) == 0)
            __atomic_store_n(&verdicts[b->id],
                             ABI_VERDICT(down ? ABI_DOWN : ABI_UP, ABI_PROBE_REFUSED, b->generation, 1),
                             __ATOMIC_RELAXED);
    }
}

static void serve_input(void)
{
    char line[256];
    struct pollfd in = {.fd = 0, .events = POLLIN};
    for (;;) {
        if (poll(&in, 1, 20) == 1) {
            ssize_t n = read(0, line, sizeof(line) - 1);
            drain_log();
            if (n <= 0)
                return;
            line[n] = '\0';
            line[strcspn(line, "\n")] = '\0';
            if (strncmp(line, "mark ", 5) == 0) /* behind all that the log has so far */
                fprintf(stderr, "%s\n", line);
            judge(line);
            print_counters();
        }
        drain_log();
    }
}

int main(int argc, char **argv)
{
    struct names_writer w;
    struct names_file *file;
    const char *why = "";
    struct ring *ring;
    pthread_t thread;
    unsigned port;
    int channel[2];
    char store[] = "/dev/shm/fl-ring-XXXXXX";
    signal(SIGPIPE, SIG_IGN); /* as the data plane */
    make_plan(argc, argv);
    writer_open(&w);
    page = shared(sizeof(*page));
    logs = shared(sizeof(*logs));
    page->rings = 1;
    atomic_store(&logs->access_on, 1);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, channel) == 0);
    struct tls_tables *tls = tls_tables_new(1, plan, &why);
    CHECK(tls);
    struct ring_config c = {.rings = 1,
                            .plan = plan,
                            .store = make_store(store),
                            .page = page,
                            .log_page = logs,
                            .channel_fd = channel[0],
                            .helpers = tls_tables_helpers(tls),
                            .table = tls_table_new(tls, plan, NULL, NULL)};
    CHECK(names_file_open(w.path, w.epochs, &file, &why) == 0 && names_new(file, 0, &c.names) == 0);
    int err = ring_new(&c, &ring, &why);
    if (err) {
        fprintf(stderr, "%s: %s\n", why, strerror(-err));
        return 1;
    }
    balance_verdicts(ring->proxy->balance, verdicts, ARRAY_SIZE(verdicts));
    struct acceptor_order order = {.fd = listen_somewhere(&port), .service = SERVICE};
    CHECK(ring_listen(ring, &order) == 0);
    CHECK(tls_tables_start(tls) == 0);
    CHECK(pthread_create(&thread, NULL, run, ring) == 0);
    printf("port %u\n", port);
    fflush(stdout);
    serve_input();
    (void)nftw(w.folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    (void)nftw(store, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    _exit(0); /* the process ends with all that it has */
}
