/* SPDX-License-Identifier: Apache-2.0 */
#include "control/daemon_store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "control/events.h"
#include "control/daemon_peers.h"
#include "control/nodes.h"
#include "control/pool.h"
#include "control/state/stores.h"
#include "control/store_clean.h"

enum {
    UPLOADS_FIRST_MS = 60000, /* after the start: who has the other folders is known by then */
    UPLOADS_MS = 3600000,     /* between two looks at folders of nodes that are gone */
    OWNER_MS = 60000,         /* between two looks at whose the store is */
};

/* Whether the store was another cluster's when that was looked at, and what was asked for. */
struct owner {
    uint8_t cluster_id[16], store_id[NODE_STORE_BYTES];
    bool foreign;
};

struct daemon_store {
    uv_work_t work; /* store_clean_uploads */
    bool working, closing;
    struct store_clean clean;
    uint64_t *id; /* of clean, */
    uint8_t cluster_id[16];
    size_t removed;
    uint64_t next_ms; /* of the loop's clock */
    uv_work_t look;   /* is_foreign */
    bool looking;
    struct owner next, owner; /* of the look that is under way; of the last one */
    uint64_t look_ms;         /* of the loop's clock: the next one */
    uint64_t stranger;        /* a node that was told of */
};

static uint64_t setting(const struct daemon *d, enum setting_id id)
{
    enum setting_source source;
    return setting_effective(&d->settings, id, &source);
}

/* ------------------------------------------------------------------ whose the store is */

/* As gc_folders.c writes it: without the file it is whoever's. Blocking. */
static bool is_foreign(int blobs_fd, const uint8_t cluster_id[16])
{
    char ours[33], theirs[33] = "";
    for (unsigned i = 0; i < 16; i++)
        snprintf(ours + (size_t)(2 * i), 3, "%02x", cluster_id[i]);
    int fd = openat(blobs_fd, STORE_OWNER, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return errno != ENOENT;
    ssize_t n = read(fd, theirs, 32);
    close(fd);
    return n != 32 || memcmp(ours, theirs, 32) != 0;
}

static void owner_now(const struct daemon *d, struct owner *out)
{
    struct cluster_status status;
    cluster_status(d->cluster, &status);
    memcpy(out->cluster_id, status.cluster_id, sizeof(out->cluster_id));
    memcpy(out->store_id, d->store.id, sizeof(out->store_id));
    out->foreign = false;
}

/* Whether the last look was at this store, and for this cluster: a node joins another one, a store comes. */
static bool has_looked(const struct daemon *d)
{
    const struct owner *last = &d->store_work->owner;
    struct owner now;
    owner_now(d, &now);
    return memcmp(now.cluster_id, last->cluster_id, sizeof(now.cluster_id)) == 0 &&
           memcmp(now.store_id, last->store_id, sizeof(now.store_id)) == 0;
}

static void on_look(uv_work_t *work)
{
    const struct daemon *d = work->data;
    struct owner *next = &d->store_work->next;
    next->foreign = is_foreign(d->folders.blobs_fd, next->cluster_id);
}

static void on_looked(uv_work_t *work, int status)
{
    struct daemon_store *s = ((struct daemon *)work->data)->store_work;
    s->looking = false;
    if (status == 0)
        s->owner = s->next;
}

static void look(struct daemon *d)
{
    struct daemon_store *s = d->store_work;
    s->look_ms = uv_now(&d->loop) + OWNER_MS;
    owner_now(d, &s->next);
    s->looking = pool_queue(&d->loop, &s->look, "whose the store is", on_look, on_looked) == 0;
}

/* ------------------------------------------------------------------ who cleans */

bool daemon_store_cleans(const struct daemon *d)
{
    if (!d->folders.shared)
        return true;
    const struct node *self = daemon_node(d);
    return self && self->shares && has_looked(d) && !d->store_work->owner.foreign &&
           stores_cleaner(nodes_table(d->nodes), self->id) == self->id;
}

uint64_t daemon_store_age(const struct daemon *d, uint64_t age_ms)
{
    uint64_t push_ms = setting(d, SET_REGISTRY_COPIES_TIMEOUT) + setting(d, SET_REGISTRY_COMMIT_TIMEOUT);
    return d->folders.shared && age_ms < push_ms ? push_ms : age_ms;
}

size_t daemon_store_tidy(const struct daemon *d)
{
    return d->folders.shared ? store_clean_gone(d->folders.blobs_fd, d->folders.damaged_fd) : 0;
}

/* ------------------------------------------------------------------ uploads of nodes that are gone */

static void on_work(uv_work_t *work)
{
    struct daemon *d = work->data;
    d->store_work->removed = store_clean_uploads(&d->store_work->clean);
}

static void on_worked(uv_work_t *work, int status)
{
    struct daemon *d = work->data;
    struct daemon_store *s = d->store_work;
    s->working = false;
    free(s->id);
    s->id = NULL;
    if (status == 0 && s->removed && !s->closing)
        journal_info(d->journal, "store", "the uploads of %zu nodes that are gone were removed", s->removed);
}

static void clean_uploads(struct daemon *d)
{
    struct daemon_store *s = d->store_work;
    const struct node_table *t = nodes_table(d->nodes);
    s->next_ms = uv_now(&d->loop) + UPLOADS_MS;
    s->id = calloc(t->count + 1, sizeof(*s->id));
    CHECK(s->id);
    for (size_t i = 0; i < t->count; i++)
        s->id[i] = t->node[i].id;
    struct cluster_status status;
    cluster_status(d->cluster, &status);
    memcpy(s->cluster_id, status.cluster_id, sizeof(s->cluster_id));
    s->clean = (struct store_clean){.all_uploads_fd = d->folders.all_uploads_fd,
                                    .cluster_id = s->cluster_id,
                                    .id = s->id,
                                    .count = t->count,
                                    .grace_ms = setting(d, SET_REGISTRY_UPLOAD_EXPIRY)};
    s->removed = 0;
    s->working = pool_queue(&d->loop, &s->work, "uploads of nodes that are gone", on_work, on_worked) == 0;
    if (!s->working) {
        free(s->id);
        s->id = NULL;
    }
}

/* ------------------------------------------------------------------ what is told */

static void tell_stranger(struct daemon *d, const struct node *n)
{
    struct daemon_store *s = d->store_work;
    char text[NODE_NAME_MAX + 160];
    if (s->stranger == (n ? n->id : 0))
        return;
    s->stranger = n ? n->id : 0;
    if (!n)
        return;
    snprintf(
        text, sizeof(text),
        "the node '%s' has this node's store, and not both have 'store: {shared: true}': they do not know "
        "of each other's uploads",
        n->name);
    journal_error(d->journal, "store", "%s", text);
    events_note(d->events, "store.not-shared", text);
}

void daemon_store_tick(struct daemon *d)
{
    struct daemon_store *s = d->store_work;
    struct cluster_status status;
    cluster_status(d->cluster, &status);
    tell_stranger(d, stores_stranger(nodes_table(d->nodes), status.node_id));
    /* One at a time: a store that does not answer holds a thread. */
    if (!d->folders.shared || s->working || s->looking || s->closing)
        return;
    if (uv_now(&d->loop) >= s->look_ms || !has_looked(d))
        look(d);
    else if (uv_now(&d->loop) >= s->next_ms && daemon_store_cleans(d))
        clean_uploads(d);
}

void daemon_store_show(const struct daemon *d, json_t *store)
{
    char id[STORE_ID_TEXT + 1];
    const struct node_table *t = nodes_table(d->nodes);
    const struct node *self = daemon_node(d);
    const struct node *cleaner = self ? node_find(t, stores_cleaner(t, self->id)) : NULL;
    store_id_text(d->store.id, id);
    json_object_set_new(store, "id", d->store.known ? json_string(id) : json_null());
    json_object_set_new(store, "shared", json_boolean(d->folders.shared));
    json_object_set_new(store, "stores", json_integer((json_int_t)stores_count(t)));
    json_object_set_new(store, "cleaner", cleaner ? json_string(cleaner->name) : json_null());
    if (!d->folders.shared)
        return;
    json_t *with = json_array();
    for (size_t i = 0; self && i < t->count; i++)
        if (t->node[i].id != self->id && t->node[i].replica &&
            stores_holder(&t->node[i]) == stores_holder(self))
            json_array_append_new(with, json_string(t->node[i].name));
    json_object_set_new(store, "with", with);
}

void daemon_store_warn(const struct daemon *d, json_t *list)
{
    const struct node_table *t = nodes_table(d->nodes);
    const struct node *stranger = node_find(t, d->store_work->stranger);
    if (stranger)
        json_array_append_new(list, json_sprintf("the node '%s' has this node's store, too: write 'store: "
                                                 "{shared: true}' into the configuration of both",
                                                 stranger->name));
    if (d->folders.shared && d->store_work->owner.foreign)
        json_array_append_new(list, json_string("the shared store is another cluster's: nothing is removed "
                                                "from it; join that cluster, or give this one a store"));
    if (t->cluster.copies_min > stores_count(t) && stores_count(t) < t->cluster.replicas)
        json_array_append_new(list, json_sprintf("copies_min is %u, but the replicas have %u stores between "
                                                 "them: as many are enough",
                                                 t->cluster.copies_min, stores_count(t)));
}

/* ------------------------------------------------------------------ life */

void daemon_store_open(struct daemon *d)
{
    struct daemon_store *s = calloc(1, sizeof(*s));
    CHECK(s);
    d->store_work = s;
    s->work.data = s->look.data = d;
    s->next_ms = uv_now(&d->loop) + UPLOADS_FIRST_MS;
    s->look_ms = uv_now(&d->loop) + OWNER_MS;
    owner_now(d, &s->owner);
    s->owner.foreign = d->folders.shared && is_foreign(d->folders.blobs_fd, s->owner.cluster_id);
}

void daemon_store_close(struct daemon *d)
{
    d->store_work->closing = true;
    if (d->store_work->working)
        pool_cancel(&d->store_work->work);
    if (d->store_work->looking)
        pool_cancel(&d->store_work->look);
}

void daemon_store_free(struct daemon *d)
{
    free(d->store_work->id);
    free(d->store_work);
}
