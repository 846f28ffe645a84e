/* SPDX-License-Identifier: Apache-2.0 */
#include "control/certs_store.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "control/certs_check.h"
#include "control/config_yaml.h"

#define SYSTEM_CA "/etc/ssl/certs/ca-certificates.crt"

enum { SOON_S = 14 * 86400, STAPLE_SOON_PART = 4, PARTS = 4 };

/* What is to be said of an OCSP response. */
enum staple { STAPLE_NONE, STAPLE_GOOD, STAPLE_SOON, STAPLE_EXPIRED, STAPLE_EARLY, STAPLE_OTHER };

/* How a file was when it was read; another one may have taken its place. */
struct stamp {
    dev_t dev;
    ino_t ino;
    off_t size;
    struct timespec changed;
};

struct file {
    char *path; /* NULL: not configured */
    struct stamp stamp;
};

struct entry {
    char name[CERTS_NAME_MAX];
    struct file file[PARTS]; /* cert, key, ca, ocsp */
    struct certs_bytes bytes[PARTS];
    struct certs_facts facts;
    enum staple staple; /* as was said last */
    bool loaded;
    char problem[CERTS_TEXT_MAX];
};

struct certs_store {
    struct journal *journal;
    struct entry *entry;
    size_t count;
    struct certs_bytes system;
    bool system_wanted;
    uint64_t generation;
};

static void bytes_free(struct certs_bytes *b)
{
    if (b->data)
        OPENSSL_cleanse(b->data, b->len);
    free(b->data);
    *b = (struct certs_bytes){0};
}

static void entry_free(struct entry *e)
{
    for (int i = 0; i < PARTS; i++) {
        free(e->file[i].path);
        bytes_free(&e->bytes[i]);
    }
}

struct certs_store *certs_open(struct journal *journal)
{
    struct certs_store *s = calloc(1, sizeof(*s));
    CHECK(s);
    s->journal = journal;
    return s;
}

static void entries_free(struct entry *entry, size_t count)
{
    for (size_t i = 0; i < count; i++)
        entry_free(&entry[i]);
    free(entry);
}

void certs_close(struct certs_store *s)
{
    if (!s)
        return;
    entries_free(s->entry, s->count);
    bytes_free(&s->system);
    free(s);
}

/* ------------------------------------------------------------------ reading */

static struct stamp stamp_of(const struct stat *st)
{
    return (struct stamp){st->st_dev, st->st_ino, st->st_size, st->st_mtim};
}

static bool stamps_differ(const struct stamp *a, const struct stamp *b)
{
    return a->dev != b->dev || a->ino != b->ino || a->size != b->size ||
           a->changed.tv_sec != b->changed.tv_sec || a->changed.tv_nsec != b->changed.tv_nsec;
}

static bool problem(char out[CERTS_TEXT_MAX], const char *path, const char *what)
{
    snprintf(out, CERTS_TEXT_MAX, "%s: %s", path, what);
    return false;
}

static bool read_bytes(int fd, size_t len, struct certs_bytes *out)
{
    out->data = malloc(len + 1);
    CHECK(out->data);
    out->data[len] = '\0';
    out->len = 0;
    while (out->len < len) {
        ssize_t n = read(fd, out->data + out->len, len - out->len);
        if (n <= 0)
            return false;
        out->len += (size_t)n;
    }
    return true;
}

/* secret: a file that others may read is no secret. */
static bool read_file(const char *path, bool secret, struct stamp *stamp, struct certs_bytes *out,
                      char why[CERTS_TEXT_MAX])
{
    struct stat st;
    bool ok = false;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return problem(why, path, strerror(errno));
    if (fstat(fd, &st))
        problem(why, path, strerror(errno));
    else if (!S_ISREG(st.st_mode) || st.st_size == 0 || st.st_size > CERTS_FILE_MAX)
        problem(why, path, "it is no file of at least a byte and at most 1 MiB");
    else if (secret && st.st_mode & S_IRWXO)
        problem(why, path, "others may read it; take that right away with chmod o-rwx");
    else if (!read_bytes(fd, (size_t)st.st_size, out))
        problem(why, path, "it could not be read to its end");
    else
        ok = true;
    if (ok)
        *stamp = stamp_of(&st);
    close(fd);
    return ok;
}

/* Reads all files of an entry. False with e->problem: what was there before stays in use. */
static bool entry_read(struct entry *e)
{
    struct certs_bytes fresh[PARTS] = {0};
    struct certs_facts facts = {0};
    bool ok = true;
    for (int i = 0; i < PARTS && ok; i++)
        if (e->file[i].path)
            ok = read_file(e->file[i].path, i == 1, &e->file[i].stamp, &fresh[i], e->problem);
    char what[CERTS_TEXT_MAX / 2];
    int at = 0;
    if (ok && !certs_check_files(fresh, &facts, &at, what, sizeof(what)))
        ok = problem(e->problem, e->file[at].path, what);
    if (ok) {
        for (int i = 0; i < PARTS; i++) {
            bytes_free(&e->bytes[i]);
            e->bytes[i] = fresh[i];
        }
        e->facts = facts;
        e->loaded = true;
        e->problem[0] = '\0';
        return true;
    }
    for (int i = 0; i < PARTS; i++)
        bytes_free(&fresh[i]);
    return false;
}

/* Once for the process: nobody who may not read the files reads them out of its memory. An ordinary user's
 * process has to stay open to himself (it uses /proc/self), and leaves no core. */
static void hold_secrets(void)
{
    const struct rlimit none = {0, 0};
#ifndef FL_SANITIZER
    if (geteuid() == 0)
        (void)prctl(PR_SET_DUMPABLE, 0);
#endif
    (void)setrlimit(RLIMIT_CORE, &none);
}

/* The kernel loads its TLS when a privileged process asks for it; the data plane is none. */
static void kernel_tls_load(void)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_ULP, "tls", sizeof("tls")); /* refused: it is not connected */
    close(fd);
}

static void say_expiry(struct certs_store *s, const struct entry *e)
{
    int64_t left = e->facts.not_after_s - (int64_t)time(NULL);
    if (!e->file[0].path)
        return;
    if (left <= 0)
        journal_warn(s->journal, "certificates", "certificate '%s' has expired; it is used all the same",
                     e->name);
    else if (e->facts.not_before_s > (int64_t)time(NULL))
        journal_warn(s->journal, "certificates", "certificate '%s' is not good yet; it is used all the same",
                     e->name);
    else if (left < SOON_S)
        journal_warn(s->journal, "certificates", "certificate '%s' expires in %lld days", e->name,
                     (long long)(left / 86400));
}

static enum staple staple_of(const struct entry *e, int64_t now_s)
{
    const struct ocsp_window *w = &e->facts.staple;
    if (e->bytes[3].len == 0)
        return STAPLE_NONE;
    if (w->until_s == 0)
        return STAPLE_OTHER;
    if (now_s < w->from_s)
        return STAPLE_EARLY;
    if (now_s >= w->until_s)
        return STAPLE_EXPIRED;
    bool soon = w->until_s != INT64_MAX && w->until_s - now_s < (w->until_s - w->from_s) / STAPLE_SOON_PART;
    return soon ? STAPLE_SOON : STAPLE_GOOD;
}

/* Each turn once. A new file is taken by itself. */
static void say_staple(struct certs_store *s, struct entry *e)
{
    static const char *const what[] = {
        [STAPLE_SOON] = "expires soon (three quarters of its time are over)",
        [STAPLE_EXPIRED] = "has expired; it is not stapled any more",
        [STAPLE_EARLY] = "is not good yet; it is not stapled until then",
        [STAPLE_OTHER] = "is about another certificate; it is not stapled",
    };
    enum staple now = staple_of(e, (int64_t)time(NULL));
    bool said = now == e->staple;
    e->staple = now;
    if (!said && now > STAPLE_GOOD)
        journal_warn(s->journal, "certificates", "the OCSP response of certificate '%s' %s", e->name,
                     what[now]);
}

static bool entry_load(struct certs_store *s, struct entry *e)
{
    hold_secrets();
    if (entry_read(e)) {
        say_expiry(s, e);
        say_staple(s, e);
        return true;
    }
    journal_error(s->journal, "certificates", "certificate '%s': %s%s", e->name, e->problem,
                  e->loaded ? "; the one before stays in use" : "");
    return false;
}

static struct entry *find(const struct certs_store *s, const char *name)
{
    for (size_t i = 0; i < s->count; i++)
        if (strcmp(s->entry[i].name, name) == 0)
            return &s->entry[i];
    return NULL;
}

/* What an entry of the same name holds goes on to be used until the new files are read. */
static void inherit(struct entry *to, struct entry *from)
{
    for (int i = 0; i < PARTS; i++) {
        to->bytes[i] = from->bytes[i];
        from->bytes[i] = (struct certs_bytes){0};
    }
    to->facts = from->facts;
    to->staple = from->staple;
    to->loaded = from->loaded;
}

bool certs_load(struct certs_store *s, const struct config_certificates *config, size_t *failed)
{
    struct entry *entry = calloc(config->count + 1, sizeof(*entry));
    CHECK(entry);
    bool changed = config->count != s->count;
    *failed = 0;
    if (config->count && !s->count)
        kernel_tls_load();
    for (size_t i = 0; i < config->count; i++) {
        const struct config_certificate *c = &config->list[i];
        const char *const paths[PARTS] = {c->cert, c->key, c->ca, c->ocsp};
        struct entry *e = &entry[i], *before = find(s, c->name);
        memcpy(e->name, c->name, sizeof(e->name));
        for (int j = 0; j < PARTS; j++)
            e->file[j].path = paths[j] ? cfg_text_copy(paths[j]) : NULL;
        if (before)
            inherit(e, before);
        changed |= entry_load(s, e);
        *failed += !e->loaded;
    }
    entries_free(s->entry, s->count);
    s->entry = entry;
    s->count = config->count;
    s->generation += changed;
    return changed;
}

static bool entry_changed(const struct entry *e)
{
    for (int i = 0; i < PARTS; i++) {
        struct stat st;
        if (!e->file[i].path || stat(e->file[i].path, &st))
            continue;
        struct stamp now = stamp_of(&st);
        if (stamps_differ(&now, &e->file[i].stamp))
            return true;
    }
    return false;
}

/* A certificate and its key are two files: between the exchange of one and of the other they do not fit, and
 * what was read before stays. */
bool certs_tick(struct certs_store *s)
{
    bool changed = false;
    for (size_t i = 0; i < s->count; i++) {
        say_staple(s, &s->entry[i]);
        if (entry_changed(&s->entry[i]) && entry_load(s, &s->entry[i])) {
            journal_info(s->journal, "certificates", "certificate '%s' was read again", s->entry[i].name);
            changed = true;
        }
    }
    s->generation += changed;
    return changed;
}

bool certs_reload(struct certs_store *s)
{
    bool changed = false;
    for (size_t i = 0; i < s->count; i++)
        changed |= entry_load(s, &s->entry[i]);
    s->generation += changed;
    return changed;
}

bool certs_want_system(struct certs_store *s, bool wanted)
{
    struct stamp stamp;
    char why[CERTS_TEXT_MAX];
    if (wanted == s->system_wanted)
        return false;
    s->system_wanted = wanted;
    bytes_free(&s->system);
    if (wanted && !read_file(SYSTEM_CA, false, &stamp, &s->system, why))
        journal_error(s->journal, "certificates", "the system's CAs, which services trust: %s", why);
    s->generation++;
    return true;
}

/* ------------------------------------------------------------------ for the data plane */

static struct certs_part put(uint8_t *blob, uint64_t *at, const struct certs_bytes *b)
{
    struct certs_part part = {(uint32_t)*at, (uint32_t)b->len};
    if (blob && b->len)
        memcpy(blob + *at, b->data, b->len);
    *at += b->len;
    return part;
}

/* Without memory (blob NULL) it tells the size. */
static uint64_t compose(const struct certs_store *s, uint8_t *blob)
{
    struct certs head = {.magic = CERTS_MAGIC,
                         .version = CERTS_VERSION,
                         .generation = s->generation,
                         .count = (uint32_t)s->count};
    uint64_t at = sizeof(head) + s->count * sizeof(struct certs_entry);
    for (size_t i = 0; i < s->count; i++) {
        const struct entry *e = &s->entry[i];
        struct certs_entry out = {.cert = put(blob, &at, &e->bytes[0])};
        out.key = put(blob, &at, &e->bytes[1]);
        out.ca = put(blob, &at, &e->bytes[2]);
        out.ocsp = put(blob, &at, &e->bytes[3]);
        memcpy(out.name, e->name, sizeof(out.name));
        if (blob)
            memcpy(blob + sizeof(head) + i * sizeof(out), &out, sizeof(out));
    }
    head.system_ca = put(blob, &at, &s->system);
    head.bytes = at;
    if (blob)
        memcpy(blob, &head, sizeof(head));
    return at;
}

int certs_seal(const struct certs_store *s, uint64_t *generation)
{
    uint64_t bytes = compose(s, NULL);
    if (s->generation == 0)
        return -ENOENT;
    if (bytes > CERTS_BYTES_MAX)
        return -E2BIG;
    int fd = memfd_create("fairlead-certs", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -errno;
    int err = ftruncate(fd, (off_t)bytes) ? -errno : 0;
    uint8_t *blob = err ? MAP_FAILED : mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (blob == MAP_FAILED) {
        close(fd);
        return err ? err : -ENOMEM;
    }
    (void)compose(s, blob);
    CHECK(certs_check((const struct certs *)(const void *)blob, bytes));
    munmap(blob, bytes);
    if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL)) {
        err = -errno;
        close(fd);
        return err;
    }
    *generation = s->generation;
    return fd;
}

const char *certs_ca(const struct certs_store *s, const char *name, const char **problem)
{
    const struct entry *e = find(s, name);
    bool known = e && e->file[2].path;
    *problem = known ? e->problem : "";
    return known ? (const char *)e->bytes[2].data : NULL;
}

size_t certs_count(const struct certs_store *s)
{
    return s->count;
}

void certs_show(const struct certs_store *s, size_t i, struct certs_view *out)
{
    const struct entry *e = &s->entry[i];
    *out = (struct certs_view){.name = e->name,
                               .cert = e->file[0].path,
                               .ca = e->file[2].path,
                               .has_key = e->bytes[1].len > 0,
                               .has_ocsp = e->bytes[3].len > 0,
                               .loaded = e->loaded,
                               .problem = e->problem,
                               .not_before_s = e->facts.not_before_s,
                               .not_after_s = e->facts.not_after_s,
                               .ocsp_until_s = e->facts.staple.until_s};
    memcpy(out->subject, e->facts.subject, sizeof(out->subject));
    memcpy(out->names, e->facts.names, sizeof(out->names));
}
