/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Many workers in one process, to see what they cost the managers. Each joins with a token, has a certificate
 * and a connection of its own, and speaks as a worker does: the same TLS, the same frames, every entry is
 * looked at and acknowledged. What a worker does with entries behind that is left out: they are applied by
 * being counted, and a snapshot is taken by believing its handle.
 *
 *   followers COUNT TOKEN HOST JOIN,JOIN... ADDRESS...
 *
 * HOST: this host's IPv4 address; JOIN: managers through which they join, which is paced there; ADDRESS:
 * managers that they follow, in turns. Prints "joined SECONDS", then a JSON object for each line of its
 * input, and ends with it. From a line with a + on they hold read leases, as workers do that are replicas.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <uv.h>

#include "bench/tool.h"
#include "cmd.h"
#include "control/mesh/joiner.h"
#include "control/mesh/line.h"
#include "control/mesh/line_tls.h"
#include "control/mesh/pki.h"
#include "control/raft/consensus.h"
#include "control/raft/follow_codec.h"
#include "control/raft/snapshot.h"

enum {
    MANAGERS_MAX = 16,
    FOLLOWERS_MAX = 8000,
    JOINS_AT_ONCE = 2, /* at each manager */
    JOIN_AGAIN_MS = 300,
    JOIN_TRIES_MAX = 2000,
    TICK_MS = 50,
    DIAL_AT_ONCE = 16, /* in a tick */
    ASK_MS = 500,      /* as consensus_follow has them */
    RENEW_MS = 500,
    RENEW_LEASE_MS = 100,
    UNSAID_MAX = 4,
    UNSAID_MS = 50,
    REDIAL_MS = 500,
    QUEUE_BYTES_MAX = 4 << 20,
};

struct sim;

struct follower {
    struct sim *sim;
    unsigned number, tries;
    struct pki_text key;
    struct pki_identity *identity; /* NULL: it has not joined yet */
    SSL_CTX *tls;
    struct line *line;
    uint32_t session;
    uint64_t applied, term; /* of the last entry */
    uint64_t asked_ms, renewed_ms, dial_at_ms;
    unsigned unsaid;
    bool joining, up, accepted;
};

struct entrance {
    struct config_address address;
    unsigned joining;
    uint64_t again_ms; /* not before then */
};

struct sim {
    uv_loop_t loop;
    uv_timer_t tick;
    uv_pipe_t input;
    struct line_pool lines;
    struct token token;
    const char *host;
    bool lease, joined;
    unsigned count, joined_count;
    struct follower *follower;
    struct entrance entrance[MANAGERS_MAX];
    size_t entrances;
    struct config_address manager[MANAGERS_MAX];
    size_t managers;
    uint64_t began_ms;
    uint64_t entries, frames, grants, torn, ends, refusals, snapshots, bytes;
};

static uint64_t now_of(const struct sim *s)
{
    return uv_now(&s->loop);
}

/* ---------------------------------------------------------------- joining */

struct join {
    struct follower *follower;
    struct entrance *entrance;
};

static void on_joined(void *arg, const struct pki_files *files, const struct pki_name *name, const char *why,
                      bool later)
{
    struct join *j = arg;
    struct follower *f = j->follower;
    struct sim *s = f->sim;
    char err[PKI_ERR_MAX];
    (void)name;
    (void)later;
    j->entrance->joining--;
    f->joining = false;
    if (!files) {
        /* Those that ask too often are to wait; anything else shows by not going away. */
        if (++f->tries > JOIN_TRIES_MAX)
            fail("a worker was not taken: %s", why);
        j->entrance->again_ms = now_of(s) + JOIN_AGAIN_MS;
        free(j);
        return;
    }
    free(j);
    if (pki_identity_new(files->ca.data, files->ca.len, files->cert.data, files->cert.len, files->key.data,
                         files->key.len, &f->identity, err))
        fail("a certificate cannot be used: %s", err);
    f->tls = line_tls_new(f->identity);
    if (!f->tls)
        fail("no memory");
    pki_text_free(&f->key);
    s->joined_count++;
}

static void join_begin(struct sim *s, struct entrance *e, struct follower *f)
{
    char name[32], mesh[ADDRESS_TEXT_MAX];
    struct pki_text request = {0};
    struct join *j = calloc(1, sizeof(*j));
    if (!j || (!f->key.data && pki_request_make(&f->key, &request)))
        fail("no memory");
    pki_text_free(&request);
    *j = (struct join){f, e};
    snprintf(name, sizeof(name), "sim-%04u", f->number);
    snprintf(mesh, sizeof(mesh), "%s:%u", s->host, 20000 + f->number);
    struct joiner_ask ask = {.manager = e->address,
                             .token = s->token,
                             .name = name,
                             .mesh_address = mesh,
                             .data_address = "",
                             .cluster_version = CLUSTER_VERSION,
                             .key = &f->key};
    e->joining++;
    f->joining = true;
    if (joiner_start(&s->loop, &ask, on_joined, j))
        fail("no memory");
}

static void tick_joining(struct sim *s, uint64_t now)
{
    unsigned next = 0;
    for (size_t i = 0; i < s->entrances; i++) {
        struct entrance *e = &s->entrance[i];
        while (e->joining < JOINS_AT_ONCE && now >= e->again_ms) {
            while (next < s->count && (s->follower[next].identity || s->follower[next].joining))
                next++;
            if (next == s->count)
                break;
            join_begin(s, e, &s->follower[next]);
        }
    }
    if (s->joined_count < s->count)
        return;
    s->joined = true;
    printf("joined %.3f\n", (double)(now - s->began_ms) / 1e3);
    fflush(stdout);
}

/* ---------------------------------------------------------------- following */

static void send_frame(struct follower *f, uint16_t type, const void *body, size_t len)
{
    if (line_send(f->line, type, 0, body, len, QUEUE_BYTES_MAX))
        fail("a manager does not read");
}

/* The first worker goes all the way from the beginning, the others begin where it is: to bring each of them
 * there is the affair of snapshots, and not what is measured. */
static void ask(struct follower *f)
{
    const struct follower *first = &f->sim->follower[0];
    uint8_t frame[FOLLOW_FRAME_BYTES];
    if (f->applied == 0) {
        f->applied = first->applied;
        f->term = first->term;
    }
    struct follow_ask out = {.session = ++f->session,
                             .applied = f->applied,
                             .term = f->term,
                             .top = f->applied,
                             .top_term = f->term,
                             .following = true};
    f->accepted = false;
    f->asked_ms = now_of(f->sim);
    send_frame(f, CONSENSUS_FRAME_FOLLOW_ASK, frame, follow_ask_encode(&out, frame));
}

static void renew(struct follower *f)
{
    uint8_t frame[FOLLOW_FRAME_BYTES];
    struct follow_renew out = {
        .session = f->session, .applied = f->applied, .stamp_ms = now_of(f->sim), .lease = f->sim->lease};
    f->renewed_ms = out.stamp_ms;
    f->unsaid = 0;
    send_frame(f, CONSENSUS_FRAME_FOLLOW_RENEW, frame, follow_renew_encode(&out, frame));
}

static void on_grant(struct follower *f, const uint8_t *body, size_t len)
{
    struct follow_grant in;
    if (follow_grant_decode(body, len, &in))
        fail("a grant makes no sense");
    f->sim->grants++;
    f->accepted |= in.session == f->session;
}

static void on_entries(struct follower *f, const uint8_t *body, size_t len)
{
    struct follow_entries in;
    struct follow_entry entry;
    if (follow_entries_decode(body, len, &in))
        fail("entries make no sense");
    f->sim->frames++;
    if (!f->accepted)
        return;
    if (in.first > f->applied + 1 || (in.first == f->applied + 1 && f->applied && in.prev_term != f->term)) {
        f->sim->torn++;
        ask(f);
        return;
    }
    for (uint64_t index = in.first; follow_entries_next(&in, &entry); index++) {
        if (index != f->applied + 1)
            continue;
        f->applied = index;
        f->term = entry.term;
        f->sim->entries++;
    }
    if (f->sim->lease || ++f->unsaid >= UNSAID_MAX || now_of(f->sim) - f->renewed_ms >= UNSAID_MS)
        renew(f);
}

static void on_snapshot(struct follower *f, const uint8_t *body, size_t len)
{
    const void *handle;
    size_t handle_len;
    uint32_t session;
    struct snapshot_meta meta;
    if (follow_snapshot_decode(body, len, &session, &handle, &handle_len) ||
        snapshot_meta_decode(handle, handle_len, &meta))
        fail("a snapshot's handle makes no sense");
    f->sim->snapshots++;
    if (meta.index > f->applied) {
        f->applied = meta.index;
        f->term = meta.term;
    }
    snapshot_meta_free(&meta);
    ask(f);
}

static void line_gone(struct follower *f)
{
    f->sim->bytes += line_received(f->line);
    f->sim->ends++;
    f->line = NULL;
    f->up = f->accepted = false;
    f->dial_at_ms = now_of(f->sim) + REDIAL_MS;
}

static void on_frame(void *owner, const struct frame_head *head, const uint8_t *body)
{
    struct follower *f = owner;
    switch (head->type) {
    case MESH_HELLO:
        f->up = true;
        line_set_limit(f->line, MESH_BODY_MAX);
        ask(f);
        break;
    case MESH_PING:
        line_send(f->line, MESH_PONG, head->id, NULL, 0, QUEUE_BYTES_MAX);
        break;
    case CONSENSUS_FRAME_FOLLOW_GRANT:
        on_grant(f, body, head->bytes);
        break;
    case CONSENSUS_FRAME_FOLLOW_ENTRIES:
        on_entries(f, body, head->bytes);
        break;
    case CONSENSUS_FRAME_FOLLOW_SNAPSHOT:
        on_snapshot(f, body, head->bytes);
        break;
    case CONSENSUS_FRAME_FOLLOW_REFUSED:
    case MESH_REFUSED:
        f->sim->refusals++;
        line_end(f->line, false);
        line_gone(f);
        break;
    default:
        break;
    }
}

static void on_ready(void *owner)
{
    struct follower *f = owner;
    struct pki_name name;
    char why[MESH_WHY_MAX];
    uint8_t body[FRAME_HELLO_MAX];
    if (line_tls_check(line_tls(f->line), f->identity, 0, &name, why) != MESH_OK)
        fail("a manager is not who it should be: %s", why);
    const struct pki_name *own = pki_identity_name(f->identity);
    struct frame_hello hello = {.lowest = FRAME_VERSION,
                                .highest = FRAME_VERSION,
                                .node_id = own->node_id,
                                .software = {"followers", strlen("followers")}};
    memcpy(hello.cluster_id, own->cluster_id, sizeof(hello.cluster_id));
    send_frame(f, MESH_HELLO, body, frame_hello_put(&hello, body));
}

static void on_ended(void *owner, enum mesh_reason why, const char *text)
{
    (void)why;
    (void)text;
    line_gone(owner);
}

static const struct line_handlers handlers = {.ready = on_ready, .frame = on_frame, .ended = on_ended};

static void tick_following(struct sim *s, uint64_t now)
{
    unsigned dialled = 0;
    uint64_t every = s->lease ? RENEW_LEASE_MS : RENEW_MS;
    for (unsigned i = 0; i < s->count; i++) {
        struct follower *f = &s->follower[i];
        bool behind = i && s->follower[0].applied == 0;
        if (!f->line && !behind && now >= f->dial_at_ms && dialled++ < DIAL_AT_ONCE)
            f->line = line_dial(&s->lines, f->tls, &s->manager[i % s->managers], &handlers, f);
        else if (f->up && !f->accepted && now - f->asked_ms >= ASK_MS)
            ask(f);
        else if (f->accepted &&
                 (now - f->renewed_ms >= every || (f->unsaid && now - f->renewed_ms >= UNSAID_MS)))
            renew(f);
    }
}

static void on_tick(uv_timer_t *timer)
{
    struct sim *s = timer->data;
    uint64_t now = now_of(s);
    if (s->joined)
        tick_following(s, now);
    else
        tick_joining(s, now);
}

/* ---------------------------------------------------------------- what is told */

static void tell(const struct sim *s)
{
    uint64_t lowest = UINT64_MAX, highest = 0, bytes = s->bytes;
    unsigned accepted = 0;
    struct rusage usage;
    for (unsigned i = 0; i < s->count; i++) {
        const struct follower *f = &s->follower[i];
        accepted += f->accepted;
        lowest = f->applied < lowest ? f->applied : lowest;
        highest = f->applied > highest ? f->applied : highest;
        bytes += f->line ? line_received(f->line) : 0;
    }
    getrusage(RUSAGE_SELF, &usage);
    double cpu = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                 (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
    printf("{\"joined\": %u, \"following\": %u, \"lowest\": %" PRIu64 ", \"highest\": %" PRIu64
           ", \"entries\": %" PRIu64 ", \"frames\": %" PRIu64 ", \"grants\": %" PRIu64 ", \"torn\": %" PRIu64
           ", \"ends\": %" PRIu64 ", \"refusals\": %" PRIu64 ", \"snapshots\": %" PRIu64
           ", \"bytes\": %" PRIu64 ", \"cpu_s\": %.6f}\n",
           s->joined_count, accepted, lowest, highest, s->entries, s->frames, s->grants, s->torn, s->ends,
           s->refusals, s->snapshots, bytes, cpu);
    fflush(stdout);
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    static char text[4096];
    (void)handle;
    (void)suggested;
    *buf = uv_buf_init(text, sizeof(text));
}

static void on_input(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    if (n < 0)
        exit(0);
    struct sim *s = stream->data;
    for (ssize_t i = 0; i < n; i++) {
        s->lease |= buf->base[i] == '+';
        if (buf->base[i] == '\n')
            tell(s);
    }
}

static void address_of(const char *text, struct config_address *out)
{
    const char *hint;
    if (config_address_parse(text, out, &hint))
        fail("'%s' is not an address; %s", text, hint);
}

static void arguments(struct sim *s, int argc, char **argv)
{
    s->count = (unsigned)strtoul(argv[1], NULL, 10);
    if (s->count == 0 || s->count > FOLLOWERS_MAX || token_parse(argv[2], &s->token) ||
        argc - 5 > MANAGERS_MAX)
        fail("COUNT, TOKEN or the number of managers is out of range");
    s->host = argv[3];
    char *rest = NULL;
    for (char *word = strtok_r(argv[4], ",", &rest); word; word = strtok_r(NULL, ",", &rest)) {
        if (s->entrances == MANAGERS_MAX)
            fail("too many managers");
        address_of(word, &s->entrance[s->entrances++].address);
    }
    for (int i = 5; i < argc; i++)
        address_of(argv[i], &s->manager[s->managers++]);
    s->follower = calloc(s->count, sizeof(*s->follower));
    if (!s->follower || !s->entrances)
        fail("nothing to do");
    for (unsigned i = 0; i < s->count; i++)
        s->follower[i] = (struct follower){.sim = s, .number = i};
}

int main(int argc, char **argv)
{
    static struct sim s;
    struct rlimit files;
    if (argc < 6) {
        fprintf(stderr, "followers COUNT TOKEN HOST JOIN,JOIN... ADDRESS...\n");
        return 2;
    }
    arguments(&s, argc, argv);
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    if (uv_loop_init(&s.loop) || uv_timer_init(&s.loop, &s.tick) || uv_pipe_init(&s.loop, &s.input, 0) ||
        uv_pipe_open(&s.input, 0))
        fail("the loop cannot be made");
    line_pool_open(&s.lines, &s.loop);
    s.tick.data = s.input.data = &s;
    s.began_ms = now_of(&s);
    uv_read_start((uv_stream_t *)&s.input, on_alloc, on_input);
    uv_timer_start(&s.tick, on_tick, 0, TICK_MS);
    return uv_run(&s.loop, UV_RUN_DEFAULT);
}
