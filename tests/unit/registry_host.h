/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A host for the registry's handler in memory: stream.h, store.h and link.h played by a test, on the real
 * names file. Defines their functions, so only a test program includes it, once.
 *
 * An exchange is: read the request with the real reader, begin, wake what waits (in order, until nothing
 * does), end. After it nothing may be held: each blob reference and each checked-out session given back
 * exactly once.
 */
#ifndef FL_TEST_REGISTRY_HOST_H
#define FL_TEST_REGISTRY_HOST_H

#include <openssl/sha.h>

#include "cmd.h"
#include "dataplane/link.h"
#include "dataplane/registry/api.h"
#include "dataplane/registry/heirs.h"
#include "dataplane/registry/copies.h"
#include "dataplane/registry/registry.h"
#include "dataplane/store/names.h"
#include "dataplane/store/store.h"
#include "names_writer.h"
#include "plan.h"

enum {
    HOST_BLOBS = 64,
    HOST_UPLOADS = 8,
    HOST_WAITS = 16,
    HOST_ARENA = 12288,
    HOST_FILL = 16384,
    HOST_NODE = 3
};

struct upload {
    bool used, busy;
    char id[UPLOAD_ID_LEN + 1];
    char repo[REPO_NAME_MAX + 1];
    uint8_t *bytes;
    uint64_t len;
};

struct host_blob {
    struct blob blob;
    uint8_t *bytes;
};

struct host {
    struct stream s;
    struct ring *ring; /* for those that look at it */
    uint8_t arena[HOST_ARENA];
    struct http_field fields[64];
    char head[8192];
    size_t head_len;
    struct http_response res;
    uint8_t *answer; /* body of the response */
    uint64_t answer_len;
    int status;
    bool pulls_wanted;       /* by webhooks */
    struct stream_pull pull; /* that was noted last, */
    char pull_type[64];      /* its media type, */
    unsigned pulls;          /* and how many were */
    unsigned sends, ends;
    bool filled; /* by stream_send_fill: of unknown length */
    ssize_t fill_error;
    void (*between_fills)(void); /* what happens while a long body is sent */

    bool relayed; /* requests come as another replica relays them */
    const char *body;
    size_t body_len;
    int copies_error;
    int body_error; /* what body_done says instead of 0 */
    bool body_wanted;
    struct upload *body_sink;

    struct {
        struct waiter *w;
        int res;
    } wait[HOST_WAITS];
    unsigned waits;

    struct host_blob blob[HOST_BLOBS];
    unsigned blobs;
    struct upload upload[HOST_UPLOADS];
    struct upload *elsewhere; /* in another request's hands */
    unsigned next_id;
    struct names_writer w;
    struct names_file *file;
    struct names *names;
    struct plan_service service;
    uint64_t setting[SETTINGS_COUNT];
    uint64_t counter[COUNTERS_COUNT];
    uint8_t *scratch;

    /* What goes wrong. */
    bool slow; /* blob_open and upload_checkout wait, instead of answering at once */
    int open_error, write_error, commit_error, create_error, append_error, propose_error;
    int propose_status; /* instead of applying */
    uint8_t propose_detail[256];
    size_t propose_detail_len;
    unsigned proposals;
    unsigned pins, keeps, deleting; /* deleting: so often a link is refused, and kept */
    bool no_pins;
    uint8_t command[64 << 10]; /* the last one */
    size_t command_len;
};

static struct host *host;

/* ------------------------------------------------------------------ waiting */

static void host_later(struct waiter *w, int res)
{
    CHECK(host->waits < HOST_WAITS);
    host->wait[host->waits].w = w;
    host->wait[host->waits++].res = res;
}

static void host_wake_all(void)
{
    while (host->waits) {
        struct waiter *w = host->wait[0].w;
        int res = host->wait[0].res;
        memmove(host->wait, host->wait + 1, --host->waits * sizeof(host->wait[0]));
        w->wake(w, res);
    }
}

struct blob_pin *blob_pin(struct store_ring *r, const struct digest *d)
{
    (void)r;
    (void)d;
    if (host->no_pins)
        return NULL;
    host->pins++;
    return (struct blob_pin *)host;
}

void blob_unpin(struct store_ring *r, struct blob_pin *pin)
{
    (void)r;
    CHECK(pin == (struct blob_pin *)host && host->pins);
    host->pins--;
}

/* registry/owner.c: sessions of other nodes are answered with a status of their own. */
#ifndef HOST_OWNER
bool api_session_relay(struct api *a, uint64_t node)
{
    if (node == HOST_NODE || a->relayed)
        return false;
    stream_response(a->s, 299);
    stream_send(a->s);
    return true;
}
#endif

/* ------------------------------------------------------------------ registry/elsewhere.c: there are no
 * sources */

bool api_blob_fetch(struct api *a)
{
    (void)a;
    return false;
}

bool api_blob_unlinked(struct api *a)
{
    (void)a;
    return false;
}

bool api_manifest_fetch(struct api *a)
{
    (void)a;
    return false;
}

bool api_manifest_elsewhere(struct api *a, bool found)
{
    (void)a;
    (void)found;
    return false;
}

bool api_manifest_stale(const struct api *a)
{
    (void)a;
    return false;
}

bool api_manifest_settled(struct api *a, bool found)
{
    (void)a;
    (void)found;
    return true;
}

bool api_is_held(struct api *a, const struct names_blob *blob)
{
    (void)a;
    (void)blob;
    return true;
}

/* ------------------------------------------------------------------ registry/copies.c: of one replica */

void copies_begin(struct api *a)
{
    (void)a;
}

void copies_flow(struct api *a)
{
    CHECK(a->upload);
}

void copies_rest(struct api *a, api_step *next)
{
    CHECK(a->upload);
    next(a, 0);
}

void copies_finish(struct api *a, struct view bytes)
{
    CHECK(a->digest.alg != DIGEST_NONE && (a->upload || bytes.len == a->size));
}

bool copies_need_blob(struct api *a, struct view bytes)
{
    (void)a;
    (void)bytes;
    return false;
}

void copies_wait(struct api *a, api_step *next)
{
    next(a, host->copies_error);
}

void copies_put_holders(struct api *a, struct wire_writer *w)
{
    (void)a;
    (void)w;
}

void copies_refuse(struct api *a)
{
    error_answer_later(a->s, 503, "too few copies");
}

void copies_abandon(struct api *a)
{
    (void)a;
}

void copies_end(struct api *a)
{
    (void)a;
}

/* ------------------------------------------------------------------ registry/elsewhere.c */

bool api_push_allowed(struct api *a)
{
    (void)a;
    return true;
}

/* ------------------------------------------------------------------ stream.h */

struct store_ring *stream_store(struct stream *s)
{
    return (struct store_ring *)(void *)s;
}

struct names *stream_names(struct stream *s)
{
    (void)s;
    return host->names;
}

struct channel *stream_channel(struct stream *s)
{
    return (struct channel *)(void *)s;
}

uint64_t stream_setting(const struct stream *s, int setting)
{
    (void)s;
    return host->setting[setting];
}

uint64_t stream_now_ms(const struct stream *s)
{
    (void)s;
    return 1000;
}

void stream_count(struct stream *s, enum counter_id c, uint64_t n)
{
    (void)s;
    host->counter[c] += n;
}

bool stream_pull_wanted(struct stream *s, bool blob)
{
    (void)s;
    (void)blob;
    return host->pulls_wanted;
}

void stream_note_pull(struct stream *s, const struct stream_pull *pull)
{
    (void)s;
    host->pull = *pull;
    host->pulls++;
    (void)snprintf(host->pull_type, sizeof(host->pull_type), "%.*s", (int)pull->media_type.len,
                   pull->media_type.p);
}

const char *stream_peer(struct stream *s)
{
    (void)s;
    return "127.0.0.1:4242";
}

void stream_id_text(const struct stream *s, char out[STREAM_ID_TEXT])
{
    (void)s;
    memset(out, 'f', STREAM_ID_TEXT);
}

const struct counters_page *stream_counters(struct stream *s)
{
    static const struct counters_page page;
    (void)s;
    return &page;
}

const struct plan_service *stream_service(struct stream *s)
{
    (void)s;
    return &host->service;
}

uint8_t *stream_scratch(struct stream *s)
{
    (void)s;
    return host->scratch;
}

bool stream_has_body(const struct stream *s)
{
    return s->req.framing == HTTP_BODY_CHUNKED ||
           (s->req.framing == HTTP_BODY_LENGTH && s->req.content_length > 0);
}

int stream_body_to_memory(struct stream *s, size_t max)
{
    CHECK(!host->sends && !host->body_wanted);
    host->body_wanted = true;
    s->body = view_of(host->body, host->body_len);
    if (host->body_len > max && !host->body_error)
        host->body_error = -EFBIG;
    return 0;
}

int stream_body_to_upload(struct stream *s, struct upload *u)
{
    (void)s;
    CHECK(!host->sends && !host->body_wanted && u->busy);
    host->body_wanted = true;
    host->body_sink = u;
    return 0;
}

struct http_response *stream_response(struct stream *s, int status)
{
    (void)s;
    CHECK(!host->sends);
    host->status = status;
    http_response_begin(&host->res, host->head, sizeof(host->head), status);
    return &host->res;
}

static void host_sent(const void *bytes, uint64_t len)
{
    CHECK(++host->sends == 1);
    long head = http_response_end(&host->res);
    CHECK(head > 0);
    host->head_len = (size_t)head;
    host->head[head] = '\0';
    host->answer_len = len;
    host->answer = malloc(len + 1);
    CHECK(host->answer);
    if (len && bytes)
        memcpy(host->answer, bytes, len);
    host->answer[len] = '\0';
}

void stream_send(struct stream *s)
{
    (void)s;
    host_sent(NULL, 0);
}

void stream_send_bytes(struct stream *s, const void *bytes, size_t len)
{
    (void)s;
    host_sent(bytes, len);
}

void stream_send_blob(struct stream *s, struct blob *b, uint64_t offset, uint64_t len)
{
    struct host_blob *hb = container_of(b, struct host_blob, blob);
    CHECK(offset + len <= b->size);
    host_sent(hb->bytes + offset, len);
    blob_put(stream_store(s), b);
}

void stream_send_fill(struct stream *s, stream_fill *fill)
{
    char *all = NULL;
    size_t len = 0;
    bool done = false;
    host->filled = true;
    while (!done) {
        all = realloc(all, len + HOST_FILL);
        CHECK(all);
        ssize_t n = fill(s, all + len, HOST_FILL, &done);
        if (n < 0) {
            host->fill_error = n;
            break;
        }
        CHECK(n > 0 && n <= HOST_FILL);
        len += (size_t)n;
        if (!done && host->between_fills)
            host->between_fills();
    }
    host_sent(all, len);
    free(all);
}

/* ------------------------------------------------------------------ store.h */

void store_digest(uint8_t alg, const void *bytes, size_t len, struct digest *out)
{
    memset(out, 0, sizeof(*out));
    out->alg = alg;
    if (alg == DIGEST_SHA512)
        SHA512(bytes, len, out->bytes);
    else
        SHA256(bytes, len, out->bytes);
}

static struct host_blob *host_find(const struct digest *d)
{
    for (unsigned i = 0; i < host->blobs; i++)
        if (digest_equal(&host->blob[i].blob.digest, d))
            return &host->blob[i];
    return NULL;
}

static void host_store(const struct digest *d, const void *bytes, size_t len)
{
    if (host_find(d))
        return;
    CHECK(host->blobs < HOST_BLOBS);
    struct host_blob *b = &host->blob[host->blobs++];
    b->bytes = malloc(len + 1);
    CHECK(b->bytes);
    if (len)
        memcpy(b->bytes, bytes, len);
    b->blob = (struct blob){.digest = *d, .size = len};
}

int blob_open(struct store_ring *r, const struct digest *d, uint64_t size, bool want_bytes, struct blob **out,
              struct waiter *w)
{
    (void)r, (void)want_bytes;
    struct host_blob *b = host_find(d);
    int err = host->open_error ? host->open_error : !b ? -ENOENT : b->blob.size != size ? -EIO : 0;
    if (err == 0) {
        b->blob.refs++;
        *out = &b->blob;
    }
    if (!host->slow)
        return err;
    host_later(w, err);
    return -EINPROGRESS;
}

void blob_put(struct store_ring *r, struct blob *b)
{
    (void)r;
    CHECK(b->refs > 0);
    b->refs--;
}

int blob_write(struct store_ring *r, const struct digest *d, const void *bytes, size_t len, struct waiter *w)
{
    (void)r;
    if (host->write_error == -EAGAIN)
        return -EAGAIN;
    if (!host->write_error)
        host_store(d, bytes, len);
    host_later(w, host->write_error);
    return 0;
}

int upload_create(struct store_ring *r, const char *repo, size_t repo_len, uint8_t alg_hint,
                  struct upload **out, struct waiter *w)
{
    (void)r;
    CHECK(digest_size(alg_hint) > 0);
    if (host->create_error)
        return host->create_error;
    for (unsigned i = 0; i < HOST_UPLOADS; i++) {
        struct upload *u = &host->upload[i];
        if (u->used)
            continue;
        *u = (struct upload){.used = true, .busy = true};
        (void)snprintf(u->id, sizeof(u->id), "%032x%016x", ++host->next_id, HOST_NODE);
        memcpy(u->repo, repo, repo_len);
        *out = u;
        host_later(w, 0);
        return -EINPROGRESS;
    }
    return -EMFILE;
}

int upload_checkout(struct store_ring *r, const char *id, size_t id_len, const char *repo, size_t repo_len,
                    struct upload **out, struct waiter *w)
{
    (void)r;
    int err = -ENOENT;
    CHECK(id_len == UPLOAD_ID_LEN);
    for (unsigned i = 0; i < HOST_UPLOADS; i++) {
        struct upload *u = &host->upload[i];
        if (!u->used || memcmp(u->id, id, UPLOAD_RANDOM_LEN) != 0 || /* of whichever node */
            !view_eq(view_of(repo, repo_len), view_of_str(u->repo)))
            continue;
        err = u->busy ? -EBUSY : 0;
        if (!err) {
            u->busy = true;
            *out = u;
        }
        break;
    }
    if (!host->slow)
        return err;
    host_later(w, err);
    return -EINPROGRESS;
}

void upload_checkin(struct upload *u)
{
    CHECK(u->used && u->busy);
    u->busy = false;
}

/* Whose session it was is another test's. */
void heirs_adopted(struct api *a)
{
    (void)a;
}

void heirs_linked(struct api *a)
{
    (void)a;
}

const char *upload_id(const struct upload *u)
{
    return u->id;
}

uint64_t upload_offset(const struct upload *u)
{
    return u->len;
}

bool upload_is(struct upload *u, const struct digest *expected)
{
    struct digest d;
    store_digest(expected->alg, u->bytes, u->len, &d);
    return digest_equal(&d, expected);
}

static void host_upload_free(struct upload *u)
{
    CHECK(u->used && u->busy);
    free(u->bytes);
    *u = (struct upload){.used = false};
}

int upload_commit(struct upload *u, const struct digest *expected, struct waiter *w)
{
    struct digest d;
    CHECK(u->used && u->busy);
    int err = host->commit_error;
    store_digest(expected->alg, u->bytes, u->len, &d);
    if (!err && !digest_equal(&d, expected))
        err = -EBADMSG;
    if (!err)
        host_store(&d, u->bytes, u->len);
    if (!err || err == -EBADMSG)
        host_upload_free(u);
    host_later(w, err);
    return 0;
}

int upload_cancel(struct upload *u, struct waiter *w)
{
    host_upload_free(u);
    if (w)
        host_later(w, 0);
    return 0;
}

/* ------------------------------------------------------------------ link.h: applies to the names file */

static struct view host_view(struct wire_reader *r)
{
    size_t len;
    const uint8_t *p = wire_get_bytes(r, &len);
    return view_of((const char *)p, len);
}

static const char *host_text(struct view v, char out[512])
{
    CHECK(v.len < 512);
    memcpy(out, v.p, v.len);
    out[v.len] = '\0';
    return out;
}

static void host_apply_manifest(struct wire_reader *r, const char *repo)
{
    char type[512], artifact[512], tag[512];
    struct digest d, subject;
    cmd_get_digest(r, &d);
    uint64_t size = wire_get_u64(r);
    host_text(host_view(r), type);
    host_text(host_view(r), artifact);
    bool has_subject = wire_get_u8(r) == 1;
    if (has_subject)
        cmd_get_digest(r, &subject);
    struct view descriptor = host_view(r);
    CHECK((descriptor.len > 0) == has_subject);
    wire_get_u8(r);
    writer_manifest(&host->w, repo, &d, size, type, artifact, has_subject ? &subject : NULL);
    if (has_subject)
        writer_referrer(&host->w, repo, &subject, &d, artifact, descriptor);
    for (uint32_t n = wire_get_u32(r); n; n--) {
        struct digest ref;
        CHECK(wire_get_u8(r) <= CMD_REF_MANIFEST);
        cmd_get_digest(r, &ref);
        wire_get_u64(r);
    }
    for (uint32_t n = wire_get_u32(r); n; n--)
        writer_tag(&host->w, repo, host_text(host_view(r), tag), &d);
}

static int host_delete(enum names_db db, const uint8_t *key, size_t len, int missing)
{
    MDB_val k = {len, (void *)(uintptr_t)key};
    return mdb_del(host->w.txn, host->w.dbi[db], &k, NULL) == 0 ? CMD_OK : missing;
}

static int host_apply(const uint8_t *cmd, size_t len)
{
    struct wire_reader r = {.buf = cmd, .len = len};
    struct cmd_head head;
    struct digest d;
    struct view tag;
    uint8_t key[NAMES_KEY_MAX];
    char repo[512];
    int status = CMD_OK;
    cmd_get_head(&r, &head);
    CHECK(head.time_ms == 0 && head.actor_len == 9 && head.source_len > 0 && head.request_id_len == 16);
    host_text(host_view(&r), repo);
    writer_repo(&host->w, repo);
    switch (head.type) {
    case CMD_BLOB_LINK:
        cmd_get_digest(&r, &d);
        writer_link(&host->w, repo, &d, wire_get_u64(&r));
        break;
    case CMD_BLOB_MOUNT:
        cmd_get_digest(&r, &d);
        host_view(&r);
        writer_link(&host->w, repo, &d, host_find(&d) ? host_find(&d)->blob.size : 0);
        break;
    case CMD_BLOB_UNLINK:
        cmd_get_digest(&r, &d);
        status =
            host_delete(NAMES_LINKS, key, names_key_digest(key, repo, strlen(repo), &d), CMD_BLOB_UNKNOWN);
        break;
    case CMD_MANIFEST_PUT:
        host_apply_manifest(&r, repo);
        break;
    case CMD_MANIFEST_DELETE:
        cmd_get_digest(&r, &d);
        status = host_delete(NAMES_MANIFESTS, key, names_key_digest(key, repo, strlen(repo), &d),
                             CMD_MANIFEST_UNKNOWN);
        break;
    case CMD_TAG_DELETE:
        tag = host_view(&r);
        status =
            host_delete(NAMES_TAGS, key, names_key(key, repo, strlen(repo), tag.p, tag.len), CMD_TAG_UNKNOWN);
        break;
    default:
        IMPOSSIBLE("command");
    }
    CHECK(wire_at_end(&r));
    return status;
}

/* Nobody here asks a source that wants to know who asks. */
int channel_query(struct channel *c, struct channel_query *q, uint16_t type, const void *body, size_t len)
{
    (void)c, (void)q, (void)type, (void)body, (void)len;
    return -ENOTCONN;
}

int channel_propose(struct channel *c, struct proposal *p, const void *cmd, size_t len)
{
    (void)c;
    if (host->propose_error)
        return host->propose_error;
    host->proposals++;
    host->command_len = len < sizeof(host->command) ? len : 0;
    memcpy(host->command, cmd, host->command_len);
    int status = host->propose_status;
    uint16_t type;
    memcpy(&type, (const uint8_t *)cmd + 6, sizeof(type));
    if (type == CMD_GC_KEEP) {
        host->keeps++;
        host->deleting--;
    } else if (host->deleting && (type == CMD_BLOB_LINK || type == CMD_MANIFEST_PUT)) {
        CHECK(host->pins);
        status = CMD_BLOB_DELETING;
    } else if (!status) {
        writer_begin(&host->w);
        status = host_apply(cmd, len);
        writer_commit(&host->w);
    }
    memcpy(p->detail, host->propose_detail, host->propose_detail_len);
    p->detail_len = host->propose_detail_len;
    host_later(&p->waiter, status);
    return 0;
}

/* ------------------------------------------------------------------ an exchange */

static void host_new(void)
{
    const char *why = "";
    host = calloc(1, sizeof(*host));
    CHECK(host);
    host->scratch = malloc(COMMAND_BYTES_MAX);
    CHECK(host->scratch);
    writer_open(&host->w);
    CHECK(names_file_open(host->w.path, host->w.epochs, &host->file, &why) == 0);
    CHECK(names_new(host->file, 0, &host->names) == 0);
    host->service =
        (struct plan_service){.kind = SERVICE_REGISTRY, .policy = POLICY_ALLOW_ALL, .name = "registry"};
#define SETTING(symbol, name, type, min, max, def, text) host->setting[SET_##symbol] = def;
#include "settings.def"
#undef SETTING
}

static void host_free(void)
{
    for (unsigned i = 0; i < host->blobs; i++)
        free(host->blob[i].bytes);
    for (unsigned i = 0; i < HOST_UPLOADS; i++)
        free(host->upload[i].bytes);
    names_free(host->names);
    names_file_close(host->file);
    writer_close(&host->w);
    free(host->answer);
    free(host->scratch);
    free(host);
    host = NULL;
}

/* The body that the handler asked for. */
static void host_deliver(void)
{
    struct upload *u = host->body_sink;
    int err = host->body_error ? host->body_error : u ? host->append_error : 0;
    host->body_wanted = false;
    host->body_sink = NULL;
    if (u && host->body_len && (!err || err == -ECONNRESET)) {
        u->bytes = realloc(u->bytes, u->len + host->body_len);
        CHECK(u->bytes);
        memcpy(u->bytes + u->len, host->body, host->body_len);
        u->len += host->body_len;
    }
    host->s.handler->body_done(&host->s, err);
}

static void host_relayed(struct stream *s)
{
    struct api *a = api_new(s);
    CHECK(a);
    api_relayed(a);
}

static const struct handler host_relays = {"relayed", host_relayed, api_body_done, api_end, NULL};

static void host_read(const char *head)
{
    struct http_limits limits = {65536, 64, 32768};
    struct http_reject reject;
    host->s = (struct stream){
        .handler = host->relayed ? &host_relays : &registry_handler, .id = 1, .ring = host->ring};
    arena_init(&host->s.arena, host->arena, sizeof(host->arena));
    memset(host->arena, 0xa5, sizeof(host->arena));
    host->s.req = (struct http_request){.fields = host->fields, .fields_max = ARRAY_SIZE(host->fields)};
    ssize_t n = http_request_read(head, strlen(head), 0, &limits, &host->s.req, &reject);
    CHECK(n == (ssize_t)strlen(head));
}

static void host_check_held(void)
{
    for (unsigned i = 0; i < host->blobs; i++)
        CHECK(host->blob[i].blob.refs == 0);
    for (unsigned i = 0; i < HOST_UPLOADS; i++)
        CHECK(!host->upload[i].busy || &host->upload[i] == host->elsewhere);
    for (unsigned i = 0; i < RINGS_MAX; i++)
        CHECK(atomic_load(&host->w.epochs->ring[i].reading) == 0);
}

/* request: "METHOD target", then header lines; a body adds its Content-Length, or chunked if it is said so.
 */
static int exchange_body(const char *request, const char *fields, const void *body, size_t len)
{
    char head[16384], framing[64] = "";
    if (body && !strstr(fields, "Transfer-Encoding"))
        (void)snprintf(framing, sizeof(framing), "Content-Length: %zu\r\n", len);
    CHECK(snprintf(head, sizeof(head), "%s HTTP/1.1\r\nHost: x\r\n%s%s\r\n", request, fields, framing) <
          (int)sizeof(head));
    free(host->answer);
    host->answer = NULL;
    host->sends = 0;
    host->filled = false;
    host->fill_error = 0;
    host->body = body;
    host->body_len = len;
    host_read(head);
    host->s.handler->begin(&host->s);
    while (host->waits || host->body_wanted) {
        if (host->body_wanted)
            host_deliver();
        host_wake_all();
    }
    CHECK(host->sends == 1);
    host->s.handler->end(&host->s);
    host_check_held();
    host->body_error = 0;
    return host->status;
}

static int exchange(const char *request, const char *fields)
{
    return exchange_body(request, fields, NULL, 0);
}

/* A field of the last response, "" if it is not there; valid until the next call. */
static const char *field(const char *name)
{
    static char value[2048];
    char key[64];
    (void)snprintf(key, sizeof(key), "\r\n%s: ", name);
    const char *at = strstr(host->head, key);
    if (!at)
        return "";
    at += strlen(key);
    size_t len = strcspn(at, "\r");
    CHECK(len < sizeof(value));
    memcpy(value, at, len);
    value[len] = '\0';
    return value;
}

static const char *answer_text(void)
{
    return (const char *)host->answer;
}

#endif
