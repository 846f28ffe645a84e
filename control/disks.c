/* SPDX-License-Identifier: Apache-2.0 */
#include "control/disks.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "check.h"
#include "control/journal.h"
#include "control/pool.h"
#include "control/store_place.h"

#define PROBE_NAME ".probe"

enum { PROBE_BYTES = 512 };

/* ------------------------------------------------------------------ a look, on a thread */

static int failed(struct disk_look *out, const char *doing)
{
    out->error = -errno;
    out->doing = doing;
    return -1;
}

static int probe(int fd, struct disk_look *out)
{
    static const char bytes[PROBE_BYTES];
    int file = openat(fd, PROBE_NAME, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (file < 0)
        return failed(out, "a file cannot be made");
    ssize_t n = write(file, bytes, sizeof(bytes));
    if (n >= 0 && n < PROBE_BYTES)
        errno = ENOSPC;
    int err = n < PROBE_BYTES ? failed(out, "a file cannot be written")
              : fsync(file)   ? failed(out, "what is written cannot be made durable")
                              : 0;
    close(file);
    if (unlinkat(fd, PROBE_NAME, 0) && errno != ENOENT &&
        !err) /* another node that has the store was first */
        err = failed(out, "a file cannot be removed");
    return err;
}

/* Whether the folder at the path is the one that is open; if not, whose store it is. */
static void look_at_path(int fd, const char *path, const char *id, struct disk_look *out)
{
    struct stat open_one, there;
    char found[STORE_ID_LEN + 1];
    int at = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (at < 0) {
        out->moved = errno == ENOENT || errno == ENOTDIR;
        if (!out->moved)
            failed(out, "the folder cannot be opened");
        return;
    }
    if (fstat(fd, &open_one) || fstat(at, &there))
        failed(out, "the folder cannot be examined");
    else
        out->moved = open_one.st_dev != there.st_dev || open_one.st_ino != there.st_ino;
    out->here = out->moved && *id && store_place_read(at, found) == 0 && strcmp(found, id) == 0;
    close(at);
}

void disk_look(int fd, const char *path, const char *id, bool write, struct disk_look *out)
{
    struct statvfs fs;
    *out = (struct disk_look){.doing = ""};
    if (fstatvfs(fd, &fs)) {
        failed(out, "the file system does not say how it is");
        return;
    }
    out->read_only = fs.f_flag & ST_RDONLY;
    out->free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
    out->total_bytes = (uint64_t)fs.f_blocks * fs.f_frsize;
    look_at_path(fd, path, id, out);
    if (!out->error && write && !out->read_only)
        (void)probe(fd, out);
}

/* ------------------------------------------------------------------ what it means */

static enum disk_state state_of(int error)
{
    switch (-error) {
    case ENOSPC:
    case EDQUOT:
        return DISK_FULL;
    case EROFS:
        return DISK_READ_ONLY;
    default:
        return DISK_FAILING;
    }
}

static const char *consequence(enum disk disk, enum disk_state state)
{
    if (state == DISK_FAILING)
        return disk == DISK_OF_STORE ? "what can be read is served, what cannot is refused"
                                     : "nothing can be changed; pulls go on";
    return disk == DISK_OF_STORE ? "uploads are refused, pulls go on" : "nothing can be changed; pulls go on";
}

static void say(enum disk disk, struct disk_verdict *out, enum disk_state state, int error, const char *what)
{
    out->state = state;
    out->error = error;
    snprintf(out->text, sizeof(out->text), "%s%s%s: %s", what, error ? ": " : "",
             error ? strerror(-error) : "", consequence(disk, state));
}

/* Another folder is at the path than the one that is open; or the open store is none of ours. */
static bool judge_place(enum disk disk, const struct disk_facts *f, struct disk_verdict *out)
{
    static const char *const texts[] = {
        [STORE_EMPTY] = "an empty folder is where the store was: is its disk mounted? Nothing is written to "
                        "it, other replicas serve what it lacks",
        [STORE_OTHER] = "this is another store than the one that this node had: nothing is written to it, "
                        "other replicas serve what it lacks",
    };
    if (disk == DISK_OF_STORE && f->identity != STORE_OURS) {
        out->state = f->identity == STORE_EMPTY ? DISK_MISSING : DISK_OTHER;
        snprintf(out->text, sizeof(out->text), "%s (`fairlead store accept` takes it for a new one)",
                 texts[f->identity]);
        return true;
    }
    if (!f->look->moved)
        return false;
    out->state = DISK_MISSING;
    snprintf(out->text, sizeof(out->text),
             "there is another folder at its path now, or none: the one that was opened is used for as long "
             "as this process runs");
    return true;
}

void disk_judge(enum disk disk, const struct disk_facts *f, struct disk_verdict *out)
{
    const struct disk_look *look = f->look;
    *out = (struct disk_verdict){.state = DISK_OK};
    if (judge_place(disk, f, out))
        return;
    if (f->hung_ms >= DISK_HUNG_MS)
        say(disk, out, DISK_FAILING, 0, "it does not answer");
    else if (look->error)
        say(disk, out, state_of(look->error), look->error, look->doing);
    else if (look->read_only)
        say(disk, out, DISK_READ_ONLY, -EROFS, "it is mounted to be read only");
    else if (f->error)
        say(disk, out, state_of(f->error), f->error, "a request met an error");
    else if (look->free_bytes < f->reserve)
        say(disk, out, DISK_FULL, -ENOSPC, "less is free than store.reserve");
}

enum node_store_state store_say(enum node_store_state said, bool gone, enum disk_state state, uint64_t for_ms)
{
    enum node_store_state now = state == DISK_FAILING     ? NODE_STORE_FAILING
                                : state == DISK_READ_ONLY ? NODE_STORE_READ_ONLY
                                                          : NODE_STORE_WELL;
    if (gone)
        return NODE_STORE_LOST;
    if (said == NODE_STORE_LOST) /* it is back, or another one was accepted */
        said = NODE_STORE_WELL;
    return for_ms >= DISK_SAID_MS ? now : said;
}

/* ------------------------------------------------------------------ both of them */

struct one {
    struct disks *all;
    enum disk disk;
    uv_work_t work;
    bool looking, looked; /* looked: on the thread, at least once */
    bool write;           /* of the look that is under way */
    struct disk_look next, look;
    uint64_t asked_ms, wrote_ms, met_ms;
    int met;
    uint64_t reserve;
    struct disk_verdict verdict;
    uint64_t since_ms;
    enum disk_state found; /* by the looks alone */
    uint64_t found_ms;     /* since then, of the loop's clock: nobody sets it */
};

struct disks {
    struct disks_config config;
    char store_id[STORE_ID_LEN + 1]; /* of the look that is under way */
    enum store_identity identity;
    struct one one[DISKS];
    uint64_t now_ms;
    bool closing;
};

/* This process, or the host, has no more of something: nothing is learnt of the disk. */
static bool is_of_host(int error)
{
    return error == -EMFILE || error == -ENFILE || error == -ENOMEM;
}

/* Before the first look has ended it is only assumed to be well, however long that takes. */
static void find(struct one *o, struct disk_facts facts)
{
    struct disk_verdict v;
    bool hung = facts.hung_ms >= DISK_HUNG_MS;
    if (!hung && is_of_host(o->look.error))
        return;
    facts.error = 0;
    facts.reserve = 0;
    disk_judge(o->disk, &facts, &v);
    if (v.state != o->found || (!o->looked && !hung))
        o->found_ms = o->all->now_ms;
    o->found = v.state;
}

static void judge(struct one *o)
{
    struct disks *all = o->all;
    struct disk_verdict before = o->verdict;
    const struct disk_facts facts = {.look = &o->look,
                                     .hung_ms = o->looking ? all->now_ms - o->asked_ms : 0,
                                     .error = o->met,
                                     .reserve = o->reserve,
                                     .identity = all->identity};
    find(o, facts);
    if (o->met && all->now_ms - o->met_ms >= DISK_ERROR_MS)
        o->met = 0;
    disk_judge(o->disk, &facts, &o->verdict);
    if (o->verdict.state == before.state)
        return;
    o->since_ms = journal_now_ms();
    all->config.changed(all->config.arg, o->disk);
}

static void on_work(uv_work_t *work)
{
    struct one *o = work->data;
    const struct disks *all = o->all;
    const char *id = o->disk == DISK_OF_STORE ? all->store_id : "";
    disk_look(all->config.fd[o->disk], all->config.path[o->disk], id, o->write, &o->next);
}

static void on_looked(uv_work_t *work, int status)
{
    struct one *o = work->data;
    struct disks *all = o->all;
    o->looking = false;
    if (status || all->closing)
        return;
    o->looked = true;
    o->look = o->next;
    judge(o);
    if (o->disk == DISK_OF_STORE && o->look.here)
        all->config.back(all->config.arg);
}

static const char *const looks[DISKS] = {
    [DISK_OF_STORE] = "a look at the store's disk",
    [DISK_OF_STATE] = "a look at the state's disk",
};

static void look_again(struct one *o)
{
    struct disks *all = o->all;
    bool gone = o->disk == DISK_OF_STORE && all->identity != STORE_OURS;
    bool doubted = o->met || o->verdict.state != DISK_OK || !o->looked;
    o->write = !gone && (doubted || all->now_ms - o->wrote_ms >= DISK_PROBE_MS);
    if (o->write)
        o->wrote_ms = all->now_ms;
    if (o->disk == DISK_OF_STORE)
        snprintf(all->store_id, sizeof(all->store_id), "%s", all->config.store_id);
    o->asked_ms = all->now_ms;
    o->looking = pool_queue(all->config.loop, &o->work, looks[o->disk], on_work, on_looked) == 0;
}

void disks_tick(struct disks *all, uint64_t now_ms, const struct disks_met *met)
{
    all->now_ms = now_ms;
    for (unsigned i = 0; i < DISKS && !all->closing; i++) {
        struct one *o = &all->one[i];
        o->reserve = met->reserve[i];
        if (met->error[i]) {
            o->met = met->error[i];
            o->met_ms = now_ms;
        }
        judge(o);
        if (!o->looking)
            look_again(o);
    }
}

void disks_identify(struct disks *all, enum store_identity identity, const char *store_id)
{
    all->identity = identity;
    all->config.store_id = store_id;
    judge(&all->one[DISK_OF_STORE]);
}

bool disks_store_is_gone(const struct disks *all)
{
    return all->identity != STORE_OURS;
}

void disks_status(const struct disks *all, enum disk disk, struct disk_status *out)
{
    const struct one *o = &all->one[disk];
    *out = (struct disk_status){.verdict = o->verdict,
                                .path = all->config.path[disk],
                                .since_ms = o->since_ms,
                                .free_bytes = o->look.free_bytes,
                                .total_bytes = o->look.total_bytes,
                                .found = o->found,
                                .found_for_ms = all->now_ms - o->found_ms};
}

struct disks *disks_new(const struct disks_config *config)
{
    struct disks *all = calloc(1, sizeof(*all));
    CHECK(all);
    all->config = *config;
    all->identity = config->identity;
    all->now_ms = uv_now(config->loop);
    for (unsigned i = 0; i < DISKS; i++) {
        struct one *o = &all->one[i];
        o->all = all;
        o->disk = (enum disk)i;
        o->work.data = o;
        o->look.doing = "";
        o->since_ms = journal_now_ms();
        o->found_ms = all->now_ms;
        disk_look(config->fd[i], config->path[i], i == DISK_OF_STORE ? config->store_id : "", false,
                  &o->look);
    }
    return all;
}

void disks_close(struct disks *all)
{
    all->closing = true;
}

void disks_free(struct disks *all)
{
    free(all);
}
