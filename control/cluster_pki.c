/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The files of STATE/pki change on a thread of libuv's: a disk that is slow, or does not answer, holds up no
 * heartbeat and no verdict. One change at a time, so whoever begins one knows what the folder has; what this
 * node shows and trusts follows when the files are durable. A change that fails leaves memory as it was, and
 * the upkeep begins it again.
 */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/cluster_internal.h"
#include "control/journal.h"
#include "control/pool.h"

struct pki_text pki_copy(const void *data, size_t len)
{
    struct pki_text text = {malloc(len + 1), len};
    CHECK(text.data);
    memcpy(text.data, data, len);
    text.data[len] = '\0';
    return text;
}

bool pki_busy(const struct cluster *c)
{
    return c->pki_work.busy;
}

static void change_add(struct cluster *c, const char *file, struct pki_text *place, struct pki_text text)
{
    struct pki_work *w = &c->pki_work;
    CHECK(!w->busy && w->count < PKI_CHANGES_MAX);
    w->change[w->count++] = (struct pki_change){.file = file, .place = place, .text = text};
}

void pki_put(struct cluster *c, const char *file, struct pki_text *place, struct pki_text *text)
{
    CHECK(text->data);
    change_add(c, file, place, *text);
    *text = (struct pki_text){0};
}

void pki_drop(struct cluster *c, const char *file, struct pki_text *place)
{
    change_add(c, file, place, (struct pki_text){0});
}

static void on_work(uv_work_t *work)
{
    struct cluster *c = work->data;
    struct pki_work *w = &c->pki_work;
    w->rc = 0;
    for (size_t i = 0; i < w->count && w->rc == 0; i++) {
        const struct pki_change *change = &w->change[i];
        w->rc = change->text.data ? pki_files_put(c->dir_fd, PKI_FOLDER, change->file, &change->text)
                                  : pki_files_drop(c->dir_fd, PKI_FOLDER, change->file);
    }
}

/* The files are as they were to be. */
static void take(struct cluster *c)
{
    struct pki_work *w = &c->pki_work;
    for (size_t i = 0; i < w->count; i++) {
        pki_text_free(w->change[i].place);
        *w->change[i].place = w->change[i].text;
        w->change[i].text = (struct pki_text){0};
    }
    if (!w->identity)
        return;
    pki_identity_free(c->identity);
    c->identity = w->identity;
    w->identity = NULL;
}

static void forget(struct pki_work *w)
{
    for (size_t i = 0; i < w->count; i++)
        pki_text_free(&w->change[i].text);
    pki_identity_free(w->identity);
    w->identity = NULL;
    w->count = 0;
}

/* A disk that stays full is told of once. */
static void say(struct cluster *c, int rc)
{
    struct pki_work *w = &c->pki_work;
    if (rc && (rc != w->said || w->what != w->said_what))
        journal_error(c->config.journal, "cluster", "%s in %s/%s: %s; it is tried again", w->what,
                      c->config.dir, PKI_FOLDER, strerror(-rc));
    w->said = rc;
    w->said_what = w->what;
}

static void on_worked(uv_work_t *work, int status)
{
    struct cluster *c = work->data;
    struct pki_work *w = &c->pki_work;
    int rc = status ? status : w->rc;
    w->busy = false;
    if (c->closing) { /* the next start finds what the folder has */
        forget(w);
        if (w->ended)
            w->ended(c);
        return;
    }
    if (rc == 0 && w->identity)
        rc = mesh_set_identity(c->mesh, w->identity);
    say(c, rc);
    if (rc == 0)
        take(c);
    forget(w);
    if (w->done)
        w->done(c, rc);
    ca_changed(c, rc == 0);
}

void pki_begin(struct cluster *c, const char *what, struct pki_identity *identity, pki_done done)
{
    struct pki_work *w = &c->pki_work;
    CHECK(!w->busy && w->count > 0);
    w->busy = true;
    w->what = what;
    w->identity = identity;
    w->done = done;
    w->work.data = c;
    CHECK(pool_queue(c->config.loop, &w->work, "certificates", on_work, on_worked) == 0);
}

void pki_end(struct cluster *c, void (*ended)(struct cluster *c))
{
    c->pki_work.ended = ended;
    if (!c->pki_work.busy)
        ended(c);
}
