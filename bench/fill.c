/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fills a stopped node's state with many names, through its log and its state machine, without the disk and
 * the round trips of as many pushes: fill STATE IMAGES FILES_EVERY.
 *
 * The repository scale/all gets so many images, each with a tag, a manifest and a layer of its own; a tenth
 * as many repositories scale/many/rNNNNNN get one image, and the first image a tenth as many referrers. Of
 * every FILES_EVERYth the blobs get files, too, as of all that the benchmark asks for: the first, the middle
 * and the last.
 *
 * A copy of the state is taken LOG_LEFT commands before the end, so that the start has as much of the log to
 * read as it ever has. The result is one JSON object.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <uv.h>
#include <openssl/sha.h>

#include "bench/tool.h"
#include "check.h"
#include "cmd.h"
#include "control/raft/consensus.h"

enum {
    UNDERWAY_MAX = 6000,
    LOG_LEFT = 60000, /* of the 65536 entries after which the state is copied */
    COMMAND_MAX = 4096,
    TEXT_MAX = 2048,
    LOOK_MS = 10,
    NEVER = 100000000,
};

static const char manifest_type[] = "application/vnd.oci.image.manifest.v1+json";
static const char config_type[] = "application/vnd.oci.image.config.v1+json";
static const char signature_type[] = "application/vnd.example.signature.v1+json";

struct content {
    char text[TEXT_MAX];
    size_t len;
    struct digest digest;
};

struct fill {
    uint64_t images, others, every;
    uint64_t next, total, answered, underway;
    bool copying;
    uint64_t copied_before;
    int blobs_fd;
    uid_t uid;
    gid_t gid;
    struct content config, plain; /* plain: an image without layers, the one of all other repositories */
    struct consensus *c;
    uv_loop_t loop;
    uv_timer_t timer;
};

/* ------------------------------------------------------------------ content */

__attribute__((format(printf, 2, 3))) static void content_make(struct content *c, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int len = vsnprintf(c->text, sizeof(c->text), format, args);
    va_end(args);
    CHECK(len > 0 && len < (int)sizeof(c->text));
    c->len = (size_t)len;
    c->digest = (struct digest){.alg = DIGEST_SHA256};
    SHA256((const unsigned char *)c->text, c->len, c->digest.bytes);
}

static const char *text_of(const struct content *c, char out[DIGEST_TEXT_MAX + 1])
{
    digest_format(&c->digest, out);
    return out;
}

static void layer_make(struct content *out, uint64_t number)
{
    content_make(out, "layer %llu\n", (unsigned long long)number);
}

static void image_make(const struct fill *f, struct content *out, const struct content *layer)
{
    char config[DIGEST_TEXT_MAX + 1], digest[DIGEST_TEXT_MAX + 1], list[512] = "";
    if (layer)
        snprintf(list, sizeof(list),
                 "{\"mediaType\":\"application/vnd.oci.image.layer.v1.tar\",\"digest\":\"%s\",\"size\":%zu}",
                 text_of(layer, digest), layer->len);
    content_make(
        out,
        "{\"schemaVersion\":2,\"mediaType\":\"%s\",\"config\":{\"mediaType\":\"%s\",\"digest\":\"%s\","
        "\"size\":%zu},\"layers\":[%s]}",
        manifest_type, config_type, text_of(&f->config, config), f->config.len, list);
}

static void image_number(const struct fill *f, struct content *out, uint64_t number)
{
    struct content layer = {.len = 0};
    layer_make(&layer, number);
    image_make(f, out, &layer);
}

static void referrer_make(const struct fill *f, struct content *out, const struct content *subject,
                          uint64_t number)
{
    char config[DIGEST_TEXT_MAX + 1], digest[DIGEST_TEXT_MAX + 1];
    content_make(
        out,
        "{\"schemaVersion\":2,\"mediaType\":\"%s\",\"artifactType\":\"%s\",\"config\":{\"mediaType\":"
        "\"%s\",\"digest\":\"%s\",\"size\":%zu},\"layers\":[],\"subject\":{\"mediaType\":\"%s\","
        "\"digest\":\"%s\",\"size\":%zu},\"annotations\":{\"number\":\"%llu\"}}",
        manifest_type, signature_type, config_type, text_of(&f->config, config), f->config.len, manifest_type,
        text_of(subject, digest), subject->len, (unsigned long long)number);
}

static void file_make(const struct fill *f, const struct content *c)
{
    char name[DIGEST_TEXT_MAX + 16], hex[2 * DIGEST_BYTES_MAX + 1];
    digest_hex(&c->digest, hex);
    snprintf(name, sizeof(name), "sha256/%.2s/%s", hex, hex);
    int fd = openat(f->blobs_fd, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0640);
    if (fd < 0 || write(fd, c->text, c->len) != (ssize_t)c->len ||
        (geteuid() == 0 && fchown(fd, f->uid, f->gid)))
        fail("%s: %s", name, strerror(errno));
    close(fd);
}

static bool has_files(const struct fill *f, uint64_t number)
{
    return number % f->every == 0 || number == f->images / 2 || number == f->images - 1;
}

/* ------------------------------------------------------------------ commands */

struct command {
    struct wire_writer w;
};

static struct command begin(uint16_t type, const char *repo)
{
    struct command c = {.w = {.buf = malloc(COMMAND_MAX), .cap = COMMAND_MAX}};
    struct cmd_head head = {.type = type,
                            .actor = "anonymous",
                            .actor_len = 9,
                            .source = "127.0.0.1:50000",
                            .source_len = 15,
                            .request_id = ""};
    CHECK(c.w.buf);
    cmd_put_head(&c.w, &head);
    wire_put_bytes(&c.w, repo, strlen(repo));
    return c;
}

static struct command link_blob(const char *repo, const struct content *blob)
{
    struct command c = begin(CMD_BLOB_LINK, repo);
    cmd_put_digest(&c.w, &blob->digest);
    wire_put_u64(&c.w, blob->len);
    return c;
}

static void put_ref(struct command *c, const struct content *blob)
{
    wire_put_u8(&c->w, CMD_REF_BLOB);
    cmd_put_digest(&c->w, &blob->digest);
    wire_put_u64(&c->w, blob->len);
}

struct manifest {
    const struct content *bytes, *layer, *subject;
    const char *tag;
};

static void put_descriptor(struct command *c, const struct content *bytes)
{
    char text[TEXT_MAX], digest[DIGEST_TEXT_MAX + 1];
    int len = snprintf(text, sizeof(text),
                       "{\"mediaType\":\"%s\",\"digest\":\"%s\",\"size\":%zu,\"artifactType\":\"%s\"}",
                       manifest_type, text_of(bytes, digest), bytes->len, signature_type);
    wire_put_bytes(&c->w, text, (size_t)len);
}

static struct command put_manifest(const struct fill *f, const char *repo, const struct manifest *m)
{
    struct command c = begin(CMD_MANIFEST_PUT, repo);
    cmd_put_digest(&c.w, &m->bytes->digest);
    wire_put_u64(&c.w, m->bytes->len);
    wire_put_bytes(&c.w, manifest_type, sizeof(manifest_type) - 1);
    wire_put_bytes(&c.w, signature_type, m->subject ? sizeof(signature_type) - 1 : 0);
    wire_put_u8(&c.w, m->subject != NULL);
    if (m->subject)
        cmd_put_digest(&c.w, &m->subject->digest);
    if (m->subject)
        put_descriptor(&c, m->bytes);
    else
        wire_put_u32(&c.w, 0);
    wire_put_u8(&c.w, CMD_REFS_ALL);
    wire_put_u32(&c.w, m->layer ? 2 : 1);
    put_ref(&c, &f->config);
    if (m->layer)
        put_ref(&c, m->layer);
    wire_put_u32(&c.w, m->tag ? 1 : 0);
    if (m->tag)
        wire_put_bytes(&c.w, m->tag, strlen(m->tag));
    return c;
}

static const char main_repo[] = "scale/all";

static struct command image_command(const struct fill *f, uint64_t number, bool blob)
{
    struct content layer = {.len = 0}, image = {.len = 0};
    char tag[32];
    layer_make(&layer, number);
    if (blob && has_files(f, number))
        file_make(f, &layer);
    if (blob)
        return link_blob(main_repo, &layer);
    image_make(f, &image, &layer);
    if (has_files(f, number))
        file_make(f, &image);
    snprintf(tag, sizeof(tag), "t%07llu", (unsigned long long)number);
    return put_manifest(f, main_repo, &(struct manifest){&image, &layer, NULL, tag});
}

static struct command other_command(const struct fill *f, uint64_t number, bool blob)
{
    char repo[64];
    snprintf(repo, sizeof(repo), "scale/many/r%06llu", (unsigned long long)number);
    return blob ? link_blob(repo, &f->config)
                : put_manifest(f, repo, &(struct manifest){&f->plain, NULL, NULL, "latest"});
}

static struct command referrer_command(const struct fill *f, uint64_t number)
{
    struct content subject = {.len = 0}, referrer = {.len = 0};
    image_number(f, &subject, 0);
    referrer_make(f, &referrer, &subject, number);
    if (number % f->every == 0)
        file_make(f, &referrer);
    return put_manifest(f, main_repo, &(struct manifest){&referrer, NULL, &subject, NULL});
}

static struct command command_make(const struct fill *f, uint64_t at)
{
    if (at == 0)
        return link_blob(main_repo, &f->config);
    at--;
    if (at < 2 * f->images)
        return image_command(f, at / 2, at % 2 == 0);
    at -= 2 * f->images;
    if (at < 2 * f->others)
        return other_command(f, at / 2, at % 2 == 0);
    return referrer_command(f, at - 2 * f->others);
}

/* ------------------------------------------------------------------ the log */

static void go_on(struct fill *f);

static void on_done(void *arg, enum cmd_status status, uint64_t index, const void *detail, size_t detail_len)
{
    struct fill *f = arg;
    if (status != CMD_OK)
        fail("entry %llu: status %d %.*s", (unsigned long long)index, status, (int)detail_len,
             (const char *)detail);
    f->answered++;
    f->underway--;
    go_on(f);
}

static uint64_t copies(const struct fill *f)
{
    struct consensus_status s;
    consensus_status(f->c, &s);
    return s.snapshots;
}

static void on_look(uv_timer_t *timer)
{
    struct fill *f = timer->data;
    if (copies(f) == f->copied_before)
        return;
    consensus_set_snapshot_entries(f->c, NEVER);
    uv_timer_stop(&f->timer);
    f->copying = false;
    go_on(f);
}

static void propose_next(struct fill *f)
{
    struct command c = command_make(f, f->next++);
    CHECK(!c.w.failed);
    f->underway++;
    consensus_propose(f->c, c.w.buf, c.w.len, on_done, f);
}

/* The state is copied when nothing is under way; it is looked at behind the next entry. */
static bool copy_here(struct fill *f)
{
    if (f->next != (f->total > LOG_LEFT ? f->total - LOG_LEFT : f->total - 1))
        return false;
    if (f->underway)
        return true;
    f->copying = true;
    f->copied_before = copies(f);
    consensus_set_snapshot_entries(f->c, 1);
    propose_next(f);
    uv_timer_start(&f->timer, on_look, LOOK_MS, LOOK_MS);
    return true;
}

static void go_on(struct fill *f)
{
    while (!f->copying && f->underway < UNDERWAY_MAX && f->next < f->total && !copy_here(f))
        propose_next(f);
}

static void on_fatal(void *arg, const char *why)
{
    (void)arg;
    fail("%s", why);
}

static void on_closed(void *arg)
{
    *(bool *)arg = true;
}

static void run(struct fill *f, const char *state)
{
    char err[512];
    bool closed = false;
    const struct consensus_config config = {.loop = &f->loop,
                                            .dir = state,
                                            .snapshot_entries = NEVER,
                                            .snapshot_bytes = 1ull << 50,
                                            .fatal = on_fatal,
                                            .arg = f};
    CHECK(uv_loop_init(&f->loop) == 0 && uv_timer_init(&f->loop, &f->timer) == 0);
    f->timer.data = f;
    if (consensus_open(&config, &f->c, err, sizeof(err)))
        fail("%s", err);
    go_on(f);
    while (f->answered < f->total || f->copying)
        uv_run(&f->loop, UV_RUN_ONCE);
    consensus_close(f->c, on_closed, &closed);
    while (!closed)
        uv_run(&f->loop, UV_RUN_ONCE);
    uv_close((uv_handle_t *)&f->timer, NULL);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    CHECK(uv_loop_close(&f->loop) == 0);
}

static void blobs_open(struct fill *f, const char *state)
{
    char path[4096];
    struct stat st;
    snprintf(path, sizeof(path), "%s/store/blobs", state);
    f->blobs_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (f->blobs_fd < 0 || fstat(f->blobs_fd, &st))
        fail("%s: %s; the node has to be started once before", path, strerror(errno));
    f->uid = st.st_uid;
    f->gid = st.st_gid;
}

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
    struct fill f = {.every = 1};
    struct content first = {.len = 0};
    char subject[DIGEST_TEXT_MAX + 1];
    if (argc != 4)
        fail("usage: fill STATE IMAGES FILES_EVERY");
    f.images = strtoull(argv[2], NULL, 10);
    f.every = strtoull(argv[3], NULL, 10);
    f.others = f.images / 10;
    if (f.others == 0 || f.every == 0)
        fail("at least ten images, and files of every first one or less");
    f.total = 1 + 2 * f.images + 3 * f.others;
    blobs_open(&f, argv[1]);
    content_make(&f.config, "{}");
    image_make(&f, &f.plain, NULL);
    file_make(&f, &f.config);
    file_make(&f, &f.plain);
    image_number(&f, &first, 0);
    double before = now_s();
    run(&f, argv[1]);
    printf("{\"seconds\": %.3f, \"commands\": %llu, \"subject\": \"%s\"}\n", now_s() - before,
           (unsigned long long)f.total, text_of(&first, subject));
    return 0;
}
